//! Messages to nodes without a link: to those that can be dialled over a link made for it, to the
//! others sealed, along the way by which a query found them.
//!
//! One task for each recipient while there is something for it, so that its messages stay in order,
//! and many of them cost one dial or one query.

use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::frame::query::{AnswerBody, QueryId, What};
use peerkit_proto::id::NodeId;
use peerkit_proto::message::Message;
use peerkit_proto::overlay::direct::Missed;
use peerkit_proto::peer::Purpose;
use peerkit_proto::record::MAX_RECORD_ADDRESSES;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::conn::Conn;
use crate::error::Error;
use crate::inner::Inner;
use crate::known;
use crate::node::Sender;
use crate::order::Order;
use crate::waiting::{Direct, Told};

/// How long a dial is waited for before the next thing is tried beside it. 2 s: a dial takes three
/// round trips, and the longest across the internet take some 300 ms.
const PATIENCE: Duration = Duration::from_secs(2);

/// The wait before a message is tried again that somebody on the way had no room for: in it a link
/// has passed on half of what it may at once.
const BUSY: Duration = Duration::from_millis(500);

/// How a node can be reached.
pub(crate) enum Way {
    Link(Arc<Conn>),
    /// The way that the answer to a query came.
    Query(QueryId),
}

impl Inner {
    /// The link that a message to `id` goes over; none where it has to find its way first.
    #[inline]
    pub(crate) fn linked(&self, id: NodeId) -> Option<Arc<Conn>> {
        let conn = self.conn(id).ok()?;
        let over = conn.on_demand && conn.outbox.closed().is_some();
        (!over && !self.directs.wait_for(id)).then_some(conn)
    }

    /// Sends a message to a node without a link. Returns once it has it, or its link has queued it.
    pub(crate) async fn send_directly(
        self: &Arc<Self>,
        id: NodeId,
        message: Message,
    ) -> Result<(), Error> {
        let (reply, sent) = oneshot::channel();
        self.queue_directly(id, message, Told::Caller(reply));
        tokio::select! {
            sent = sent => sent.unwrap_or(Err(Error::Stopped)),
            () = self.stopped.cancelled() => Err(Error::Stopped),
        }
    }

    /// Queues a message for a node without a link.
    pub(crate) fn queue_directly(self: &Arc<Self>, id: NodeId, message: Message, told: Told) {
        let direct = Direct { message, told };
        if self.stop.is_cancelled() {
            return self.done(direct.told, Err(Error::Stopped));
        }
        if id == self.id {
            return self.done(direct.told, Err(Error::ThisNode));
        }
        match self.directs.add(id, direct, self.config.peer_queue) {
            Err(direct) => self.done(direct.told, Err(Error::Full(id))),
            Ok(false) => {}
            Ok(true) => {
                let inner = self.clone();
                self.spawn(async move { inner.send_waiting(id).await });
            }
        }
    }

    /// Sends what waits for a recipient, one after the other.
    async fn send_waiting(self: &Arc<Self>, id: NodeId) {
        while let Some(Direct { message, told }) = self.directs.next(id) {
            let sent = tokio::select! {
                sent = self.deliver(id, message) => sent,
                () = self.stop.cancelled() => Err(Error::Stopped),
            };
            let unknown = matches!(sent, Err(Error::NotFound(_)));
            self.done(told, sent);
            // Nor does anybody for those that have come meanwhile: one search is enough for all.
            while unknown && let Some(Direct { told, .. }) = self.directs.next(id) {
                self.done(told, Err(Error::NotFound(id)));
            }
            if unknown {
                return;
            }
        }
    }

    fn done(&self, told: Told, sent: Result<(), Error>) {
        match (told, sent) {
            (Told::Caller(reply), sent) => drop(reply.send(sent)),
            (Told::Handler(peer), Err(error)) => self.failed(peer, &error),
            (Told::Handler(_), Ok(())) => {}
        }
    }

    async fn deliver(self: &Arc<Self>, id: NodeId, message: Message) -> Result<(), Error> {
        self.check_size(message.body())?;
        if let Some(conn) = self.open_link(id) {
            return Sender::new(conn, self.clone()).send(message).await;
        }
        let fits = message.body().len() <= self.config.max_direct();
        if let Some(query) = self.directs.way(id).filter(|_| fits) {
            match self.pass_on(query, id, message.clone()).await {
                // Whoever was on it is gone: there may be another.
                Err(Error::NotReached { reason: Missed::NoWay, .. }) => {}
                sent => return sent,
            }
        }
        match self.reach(id, message.body().len()).await? {
            Way::Link(conn) => Sender::new(conn, self.clone()).send(message).await,
            Way::Query(query) => self.pass_on(query, id, message).await,
        }
    }

    /// Returns the link with a node, unless it is closing.
    pub(crate) fn open_link(&self, id: NodeId) -> Option<Arc<Conn>> {
        self.conn(id).ok().filter(|conn| conn.outbox.closed().is_none())
    }

    /// Finds out how a node can be reached with a message of so many bytes.
    pub(crate) async fn reach(self: &Arc<Self>, id: NodeId, len: usize) -> Result<Way, Error> {
        let limit = self.config.max_direct();
        let mut dials = Dials::new(self.clone(), id);
        dials.add(known::addresses(self, id).await);
        if let Ok(Some(conn)) = tokio::time::timeout(PATIENCE, dials.linked()).await {
            return Ok(Way::Link(conn));
        }
        let until =
            Instant::now() + self.config.query_ttl.saturating_sub(self.config.query_timeout);
        let mut asking = self.ask(What::FindNode(id), -1, None).await?;
        let (mut found, mut ended) = (None, false);
        let patience = tokio::time::sleep(Duration::MAX);
        let mut patience = std::pin::pin!(patience);
        while !ended || !dials.is_empty() {
            tokio::select! {
                biased;
                linked = dials.linked(), if !dials.is_empty() => {
                    if let Some(conn) = linked {
                        return Ok(Way::Link(conn));
                    }
                }
                answer = asking.answers.recv(), if !ended => match answer {
                    Some(answer) if answer.node == id && answer.body == AnswerBody::Here => {
                        if found.is_none() {
                            found = Some(answer.id);
                            patience.as_mut().reset(Instant::now() + PATIENCE);
                        }
                        dials.add(answer.addresses);
                    }
                    Some(_) => {}
                    None => ended = true,
                },
                // What is too large to be passed on waits for every dial.
                () = patience.as_mut(), if found.is_some() && len <= limit => break,
            }
            if self.manual && found.is_some() {
                break;
            }
        }
        match found {
            None => Err(Error::NotFound(id)),
            Some(_) if len > limit => Err(Error::TooLargeToPass { peer: id, len, limit }),
            Some(query) => {
                self.directs.remember(id, query, until);
                Ok(Way::Query(query))
            }
        }
    }

    /// Has a message passed on along the way that a query found. Where somebody is busy it is tried
    /// again, for as long as a query may take.
    async fn pass_on(&self, query: QueryId, to: NodeId, message: Message) -> Result<(), Error> {
        let deadline = Instant::now() + self.config.query_timeout;
        loop {
            let (reply, sent) = oneshot::channel();
            let message = message.clone();
            let order = Order::PassOn { query, to, message, reply };
            self.orders.send(order).await.map_err(|_| Error::Stopped)?;
            match sent.await.map_err(|_| Error::Stopped)? {
                Err(Error::NotReached { reason: Missed::Busy, .. })
                    if Instant::now() + BUSY < deadline =>
                {
                    tokio::time::sleep(BUSY).await;
                }
                sent => {
                    if sent.is_ok() {
                        self.meter.sent(1, 0);
                    }
                    return sent;
                }
            }
        }
    }

    /// Tells the machine once nothing was sent for a while over a link that was made for a message. The
    /// machine closes the link, unless it is needed for something else by then.
    pub(crate) fn watch_on_demand(self: &Arc<Self>, conn: Arc<Conn>) {
        let inner = self.clone();
        self.spawn(async move {
            let step = inner.config.errand_idle / 4;
            let mut seen = conn.meter.read();
            let mut idle = Duration::ZERO;
            while idle < inner.config.errand_idle {
                tokio::select! {
                    () = tokio::time::sleep(step) => {}
                    () = inner.stop.cancelled() => return,
                }
                if conn.outbox.closed().is_some() {
                    return;
                }
                let now = conn.meter.read();
                // A large message that is not here whole yet shows in the bytes alone.
                let coming = now.bytes_received - seen.bytes_received;
                let still = now.messages_sent == seen.messages_sent
                    && now.messages_received == seen.messages_received
                    && coming < inner.config.max_control as u64
                    && conn.outbox.queued() == 0
                    && !conn.has_requests();
                idle = if still { idle + step } else { Duration::ZERO };
                seen = now;
            }
            let _ = inner.orders.send(Order::LinkIdle(conn)).await;
        });
    }
}

/// Dials of one node that are under way, to send it a message.
struct Dials {
    inner: Arc<Inner>,
    id: NodeId,
    tried: Vec<Address>,
    under_way: JoinSet<()>,
}

impl Dials {
    fn new(inner: Arc<Inner>, id: NodeId) -> Self {
        Self { inner, id, tried: Vec::new(), under_way: JoinSet::new() }
    }

    /// Dials more addresses, but for those that were before. A node whose links are made by hand
    /// dials none.
    fn add(&mut self, addresses: Vec<Address>) {
        if self.inner.manual {
            return;
        }
        for address in addresses {
            let address = address.with_id(self.id);
            if self.tried.contains(&address) || self.tried.len() >= MAX_RECORD_ADDRESSES {
                continue;
            }
            self.tried.push(address.clone());
            let orders = self.inner.orders.clone();
            self.under_way.spawn(async move {
                let (reply, dialled) = oneshot::channel();
                let (addresses, purpose) = (vec![address], Purpose::Message);
                let order = Order::Dial { addresses, keep: false, purpose, reply, joined: None };
                if orders.send(order).await.is_ok() {
                    let _ = dialled.await;
                }
            });
        }
    }

    fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// The link that one of them has made; `None` once none is under way.
    async fn linked(&mut self) -> Option<Arc<Conn>> {
        loop {
            if let Some(conn) = self.inner.open_link(self.id) {
                return Some(conn);
            }
            // A task that only waits does not fail.
            let _ = self.under_way.join_next().await?;
        }
    }
}
