//! Messages, pings and requests to nodes without a link. The state machine decides how they are sent.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerkit_proto::event::Peer;
use peerkit_proto::frame::Refusal;
use peerkit_proto::id::NodeId;
use peerkit_proto::message::Message;
use peerkit_proto::peer::{Input, Payload, SendError};
use tokio::sync::oneshot;

use crate::actor::mailbox::Operation;
use crate::conn::Conn;
use crate::error::Error;
use crate::inner::Inner;
use crate::lock::lock;
use crate::node::Sender;

/// The nodes without a link for which messages wait in the state machine.
#[derive(Debug, Default)]
pub(crate) struct Recipients {
    /// Number of messages for each recipient.
    waiting: Mutex<HashMap<NodeId, usize>>,
    /// Number of recipients in `waiting`. It is usually zero, and can be read without the lock.
    busy: AtomicUsize,
}

impl Recipients {
    /// Returns whether messages for this recipient wait. Later messages have to queue behind them.
    #[inline]
    pub(crate) fn has_waiting(&self, id: NodeId) -> bool {
        // Relaxed is enough: messages are in sequence only within a task, and a task sees its own updates.
        self.busy.load(Ordering::Relaxed) != 0 && lock(&self.waiting).contains_key(&id)
    }

    /// Counts a message that is about to be handed to the machine.
    pub(crate) fn add(&self, id: NodeId) {
        let mut waiting = lock(&self.waiting);
        *waiting.entry(id).or_default() += 1;
        self.busy.store(waiting.len(), Ordering::Relaxed);
    }

    /// Removes a message whose outcome was reported.
    pub(crate) fn remove(&self, id: NodeId) {
        let mut waiting = lock(&self.waiting);
        if let Some(count) = waiting.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&id);
            }
        }
        self.busy.store(waiting.len(), Ordering::Relaxed);
    }
}

/// A message, ping or request to a node without a link, with the receiver of its outcome. [`Recipients`]
/// counts the message until the outcome is reported.
#[derive(Debug)]
pub(crate) struct PendingSend {
    pub(crate) to: NodeId,
    pub(crate) sender: SentBy,
}

/// The sender of a message, ping, request or reply, which gets the outcome.
#[derive(Debug)]
pub(crate) enum SentBy {
    Caller(oneshot::Sender<Result<(), Error>>),
    /// The application's handler, which gets an event if the message was not sent.
    Handler(Peer),
    Ping(oneshot::Sender<Result<Duration, Error>>),
    Request(oneshot::Sender<Result<RequestRoute, Error>>),
    /// The outcome is not reported. A reply that can't be sent is dropped, and its requester times out.
    Unreported,
}

/// The route of a request to a node without a link.
#[derive(Debug)]
pub(crate) enum RequestRoute {
    /// There is a link by now. The request still has to be sent over it.
    Link(Arc<Conn>, Message),
    /// Other nodes have relayed the request and the reply.
    Relayed(Result<Message, Refusal>),
}

impl PendingSend {
    /// Reports the outcome.
    pub(crate) fn end(self, inner: &Inner, outcome: Result<Duration, Error>) {
        // From here on the next message may use a link, if there is one.
        inner.recipients.remove(self.to);
        match (self.sender, outcome) {
            (SentBy::Caller(reply), outcome) => drop(reply.send(outcome.map(|_| ()))),
            (SentBy::Ping(reply), outcome) => drop(reply.send(outcome)),
            (SentBy::Handler(peer), Err(error)) => inner.report_unsent(peer, &error),
            (SentBy::Request(reply), Err(error)) => drop(reply.send(Err(error))),
            (SentBy::Handler(_) | SentBy::Request(_), Ok(_)) | (SentBy::Unreported, _) => {}
        }
    }

    /// Reports the outcome of a message that was sent without a link. For a request that has arrived, returns
    /// the receiver of its reply instead.
    pub(crate) fn end_relayed(
        self,
        inner: &Inner,
        outcome: Result<Duration, SendError>,
    ) -> Option<oneshot::Sender<Result<RequestRoute, Error>>> {
        let peer = self.to;
        if outcome.is_ok() && !matches!(self.sender, SentBy::Ping(_)) {
            // Only the message is counted here. Its bytes are in overlay frames, which the links count. A
            // ping does not count as a message.
            inner.meter.sent(1, 0);
        }
        let outcome = outcome.map_err(|error| match error {
            SendError::Myself => Error::ThisNode,
            SendError::Full | SendError::TooManyRecipients => Error::Full(peer),
            SendError::NotFound => Error::NotFound(peer),
            SendError::TooLarge { len, limit } => Error::TooLargeToPass { peer, len, limit },
            SendError::Refused(error) => error.into(),
            SendError::Relay(reason) => Error::NotReached { peer, reason },
            _ => Error::Stopped,
        });
        match self.sender {
            SentBy::Request(reply) if outcome.is_ok() => {
                inner.recipients.remove(peer);
                Some(reply)
            }
            sender => {
                Self { to: peer, sender }.end(inner, outcome);
                None
            }
        }
    }

    /// Sends a message or ping over a link that has been made meanwhile, and reports the outcome. A request
    /// goes back to its caller, which sends it.
    pub(crate) async fn deliver(self, inner: &Arc<Inner>, conn: Arc<Conn>, payload: Payload) {
        let outcome = match payload {
            Payload::Message(message) => {
                Sender::new(conn, inner.clone()).send(message).await.map(|()| Duration::ZERO)
            }
            Payload::Request { message, .. } => {
                inner.recipients.remove(self.to);
                if let SentBy::Request(reply) = self.sender {
                    let _ = reply.send(Ok(RequestRoute::Link(conn, message)));
                }
                return;
            }
            // The machine never hands over a reply.
            Payload::Ping | Payload::Reply { .. } => inner.ping_link(&conn).await,
        };
        self.end(inner, outcome);
    }
}

impl Inner {
    /// Returns the link over which a message to `id` can be sent. Returns `None` if the machine has to send
    /// the message: there is no link, or earlier messages to that node still wait.
    #[inline]
    pub(crate) fn linked(&self, id: NodeId) -> Option<Arc<Conn>> {
        let conn = self.links.get(id).ok()?;
        // An on-demand link closes when it is idle. A message must not fail because of that, so the machine
        // dials again. On any other link the sender gets the reason why the link has ended.
        let over = conn.on_demand && conn.outbox.closed().is_some();
        (!over && !self.recipients.has_waiting(id)).then_some(conn)
    }

    /// Sends a message to a node without a link. Returns once the recipient has the message, or once it is
    /// queued on a new link.
    pub(crate) async fn send_without_link(
        self: &Arc<Self>,
        id: NodeId,
        message: Message,
    ) -> Result<(), Error> {
        Error::check_size(message.body(), self.config.max_message)?;
        self.send_by(id, SentBy::Caller, Payload::Message(message)).await
    }

    /// Sends a request to a node without a link. If a link was made, the caller still has to send the request
    /// over that link. If other nodes have relayed the request, returns the reply.
    pub(crate) async fn route_request(
        &self,
        to: NodeId,
        name: &str,
        message: Message,
    ) -> Result<RequestRoute, Error> {
        Error::check_size(message.body(), self.config.max_message)?;
        let payload = Payload::Request { name: name.to_owned(), message };
        self.send_by(to, SentBy::Request, payload).await
    }

    /// Sends the reply to a relayed request.
    pub(crate) async fn send_reply(
        &self,
        to: NodeId,
        id: u64,
        outcome: Result<Message, Refusal>,
    ) -> Result<(), Error> {
        self.recipients.add(to);
        let payload = Payload::Reply { id, outcome };
        let operation = Operation::Send(PendingSend { to, sender: SentBy::Unreported });
        self.actor.begin(operation, move |operation| Input::Send { operation, to, payload }).await
    }

    /// Hands the machine a message, ping or request, and returns its outcome.
    async fn send_by<T>(
        &self,
        to: NodeId,
        sender: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> SentBy + Send,
        payload: Payload,
    ) -> Result<T, Error> {
        self.recipients.add(to);
        let outcome = self.actor.outcome(
            |reply| Operation::Send(PendingSend { to, sender: sender(reply) }),
            move |operation| Input::Send { operation, to, payload },
        );
        tokio::select! {
            outcome = outcome => outcome?,
            () = self.tasks.stopped.cancelled() => Err(Error::Stopped),
        }
    }

    /// Measures the round-trip time to a node: see [`Node::ping`](crate::Node::ping).
    pub(crate) async fn ping(self: &Arc<Self>, id: NodeId) -> Result<Duration, Error> {
        if id == self.profile.id {
            return Err(Error::ThisNode);
        }
        if let Some(conn) = self.links.get_open(id) {
            return self.ping_link(&conn).await;
        }
        self.send_by(id, SentBy::Ping, Payload::Ping).await
    }

    async fn ping_link(&self, conn: &Conn) -> Result<Duration, Error> {
        let timeout = self.config.request_timeout;
        let pinged = tokio::time::timeout(timeout, conn.ping()).await;
        pinged.map_err(|_| Error::Timeout(timeout))?.ok_or(Error::NotConnected(conn.peer.id()))
    }
}
