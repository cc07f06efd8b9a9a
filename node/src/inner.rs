//! The state that all tasks of a node share.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::config::Config;
use peerkit_proto::event::{Event, MessageFailure, Parting, Peer, Reason};
use peerkit_proto::frame::MESSAGE_HEAD;
use peerkit_proto::handler::Action;
use peerkit_proto::hello::{Hello, Proof, prove};
use peerkit_proto::id::{Key, NodeId};
use peerkit_proto::message::{Message, Packed};
use peerkit_proto::time::Instant;
use peerkit_proto::versions::Versions;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actions::ACTIONS;
use crate::actor::mailbox::{FromLink, Mailbox};
use crate::addresses::LocalIps;
use crate::clock::unix_millis;
use crate::compress::{self, CompressError};
use crate::conn::Conn;
use crate::counters::Meter;
use crate::direct::Recipients;
use crate::dispatch::Dispatch;
use crate::error::Error;
use crate::files::Files;
use crate::halt::Halt;
use crate::kept::Kept;
use crate::lock::{lock, read, write};
use crate::met::Met;
use crate::outbox::NotAccepted;
use crate::outgoing::{Built, Outgoing};
use crate::probe::PROBES;
use crate::rate::Rates;
use crate::served::{ServedRequest, ServedStream, Table};
use crate::store::Store;
use crate::stream::Streams;
use crate::timers::HandlerTimers;
use crate::tls::Tls;
use crate::trace;

/// The node, as its tasks see it.
pub(crate) struct Inner {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) network: String,
    /// Links are made by hand only.
    pub(crate) manual: bool,
    pub(crate) secret: Option<Vec<u8>>,
    /// The key of the network's owner, if this node holds it.
    pub(crate) owner_key: Option<Key>,
    /// The network's owner, as far as this node knows.
    owner: Mutex<Option<NodeId>>,
    pub(crate) incarnation: u64,
    pub(crate) config: Arc<Config>,
    pub(crate) tls: Tls,
    pub(crate) listening: Vec<SocketAddr>,
    /// The IP addresses of this machine.
    pub(crate) local: LocalIps,
    /// Nodes to join through when the application names none.
    pub(crate) bootstrap: Vec<Address>,
    pub(crate) origin: std::time::Instant,
    conns: RwLock<Conns>,
    /// Notified whenever `conns` changes.
    pub(crate) conns_changed: tokio::sync::Notify,
    pub(crate) meter: Meter,
    pub(crate) dispatch: Dispatch,
    /// The application's functions that answer requests and streams.
    pub(crate) requests: Table<ServedRequest>,
    pub(crate) protocols: Table<ServedStream>,
    pub(crate) streams: Streams,
    /// The recipients of messages to nodes without a link.
    pub(crate) recipients: Recipients,
    /// A permit for each probe that is under way.
    pub(crate) probes: Arc<Semaphore>,
    pub(crate) store: Store,
    /// Broadcasts that outlive the node.
    pub(crate) kept: Arc<Kept>,
    /// Peers that are being written to the store; its readers wait for them.
    pub(crate) met: Met,
    pub(crate) files: Files,
    /// How fast files may go out and come in.
    pub(crate) rates: Rates,
    pub(crate) actor: Mailbox,
    pub(crate) links: mpsc::Sender<FromLink>,
    pub(crate) tracker: TaskTracker,
    /// The tasks of links.
    pub(crate) running: TaskTracker,
    /// Cancelled when the node is to stop, in good order.
    pub(crate) stop: CancellationToken,
    /// Ends every task that still runs.
    pub(crate) halt: Halt,
    /// Cancelled once everything has ended.
    pub(crate) stopped: CancellationToken,
    next_serial: AtomicU64,
    pub(crate) last_action: AtomicU64,
    /// A permit for each action of the handler that is under way.
    pub(crate) actions: Arc<Semaphore>,
    /// The handler's timers.
    pub(crate) timers: HandlerTimers,
    /// Actions of the handler that wait for room among the actor's orders, oldest first.
    pub(crate) waiting_actions: Arc<Mutex<VecDeque<Action>>>,
}

/// The links of a node.
#[derive(Default)]
struct Conns {
    by_id: HashMap<NodeId, Arc<Conn>>,
    /// The same in the order in which they were made, once a task has asked for it.
    in_order: OnceLock<Arc<[Arc<Conn>]>>,
}

/// The settings and handles that an [`Inner`] is made from.
pub(crate) struct Parts {
    pub(crate) key: Key,
    pub(crate) name: String,
    pub(crate) network: String,
    pub(crate) manual: bool,
    pub(crate) secret: Option<Vec<u8>>,
    pub(crate) owner_key: Option<Key>,
    pub(crate) owner: Option<NodeId>,
    pub(crate) incarnation: u64,
    pub(crate) config: Config,
    pub(crate) tls: Tls,
    pub(crate) listening: Vec<SocketAddr>,
    pub(crate) local: LocalIps,
    pub(crate) bootstrap: Vec<Address>,
    pub(crate) dispatch: Dispatch,
    pub(crate) store: Store,
    pub(crate) files: Files,
    pub(crate) actor: Mailbox,
    pub(crate) links: mpsc::Sender<FromLink>,
}

impl Inner {
    pub(crate) fn new(parts: Parts) -> Self {
        let kept = Kept::new(parts.store.clone(), &parts.network, &parts.config);
        Self {
            id: parts.key.id(),
            name: parts.name,
            network: parts.network,
            manual: parts.manual,
            secret: parts.secret,
            owner_key: parts.owner_key,
            owner: Mutex::new(parts.owner),
            incarnation: parts.incarnation,
            streams: Streams::new(&parts.config),
            recipients: Recipients::default(),
            probes: Arc::new(Semaphore::new(PROBES)),
            rates: Rates::new(&parts.config),
            config: Arc::new(parts.config),
            tls: parts.tls,
            listening: parts.listening,
            local: parts.local,
            bootstrap: parts.bootstrap,
            origin: std::time::Instant::now(),
            conns: RwLock::default(),
            conns_changed: tokio::sync::Notify::new(),
            meter: Meter::default(),
            dispatch: parts.dispatch,
            requests: Table::default(),
            protocols: Table::default(),
            files: parts.files,
            store: parts.store,
            kept: Arc::new(kept),
            met: Met::default(),
            actor: parts.actor,
            links: parts.links,
            tracker: TaskTracker::new(),
            running: TaskTracker::new(),
            stop: CancellationToken::new(),
            halt: Halt::default(),
            stopped: CancellationToken::new(),
            next_serial: AtomicU64::new(1),
            last_action: AtomicU64::new(0),
            actions: Arc::new(Semaphore::new(ACTIONS)),
            timers: HandlerTimers::default(),
            waiting_actions: Arc::default(),
        }
    }

    /// Returns the time, as the state machines count it.
    pub(crate) fn now(&self) -> Instant {
        Instant::from_origin(self.origin.elapsed())
    }

    /// Returns the microseconds since the node's origin.
    pub(crate) fn micros(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Sleeps until `at`; for ever if it is `None`.
    pub(crate) async fn sleep_until(&self, at: Option<Instant>) {
        match at {
            Some(at) => tokio::time::sleep_until(self.clock(at)).await,
            None => std::future::pending().await,
        }
    }

    /// Returns the moment `at` by the runtime's clock.
    pub(crate) fn clock(&self, at: Instant) -> tokio::time::Instant {
        let at = self.origin.checked_add(at.since_origin());
        at.unwrap_or_else(|| self.origin + Duration::from_secs(1 << 31)).into()
    }

    pub(crate) fn next_serial(&self) -> u64 {
        self.next_serial.fetch_add(1, Ordering::Relaxed)
    }

    /// Delivers an event to the application, after those before it.
    pub(crate) async fn tell(&self, event: Event) {
        self.dispatch.event(self, event).await;
    }

    pub(crate) async fn tell_actor(&self, told: FromLink) {
        // The actor is gone only once the node has stopped.
        let _ = self.links.send(told).await;
    }

    /// Returns once the link is off the list.
    pub(crate) async fn link_down(&self, conn: &Arc<Conn>, parting: Parting) {
        let (done, wait) = oneshot::channel();
        self.tell_actor(FromLink::Down(conn.clone(), parting, done)).await;
        let _ = wait.await;
    }

    pub(crate) async fn link_done(&self, conn: &Arc<Conn>) {
        self.tell_actor(FromLink::Done(conn.clone())).await;
    }

    /// Runs a task until it is done or the node halts.
    pub(crate) fn spawn(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        // Boxed, as the task's own state would have room for two of it.
        self.tracker.spawn(self.halt.clone().unless(Box::pin(task)))
    }

    /// Waits, for `event_patience` at most, until no first lane is crowded, so that a flood of broadcasts
    /// does not overrun a slow peer.
    pub(crate) async fn wait_for_calm(&self) {
        let calm = async {
            for conn in self.all_conns().iter() {
                conn.outbox.calm().await;
            }
        };
        let _ = tokio::time::timeout(self.config.event_patience, calm).await;
    }

    /// Returns the link with `id`.
    pub(crate) fn conn(&self, id: NodeId) -> Result<Arc<Conn>, Error> {
        let conns = read(&self.conns);
        let conn = conns.by_id.get(&id).ok_or(Error::NotConnected(id))?;
        Ok(conn.clone())
    }

    /// Returns all links, in the order in which they were made.
    pub(crate) fn all_conns(&self) -> Arc<[Arc<Conn>]> {
        let conns = read(&self.conns);
        let in_order = || {
            let mut all: Vec<_> = conns.by_id.values().cloned().collect();
            all.sort_by_key(|conn| conn.serial);
            all.into()
        };
        conns.in_order.get_or_init(in_order).clone()
    }

    /// Returns the serial numbers of all links.
    pub(crate) fn links(&self) -> BTreeSet<u64> {
        self.all_conns().iter().map(|conn| conn.serial).collect()
    }

    /// Waits until there is a link that is not in `before`.
    pub(crate) async fn new_link(&self, before: &BTreeSet<u64>) {
        loop {
            let mut changed = std::pin::pin!(self.conns_changed.notified());
            // Registered before the check, so that no change goes unnoticed in between.
            changed.as_mut().enable();
            if self.all_conns().iter().any(|conn| !before.contains(&conn.serial)) {
                return;
            }
            changed.await;
        }
    }

    /// Changes the links.
    pub(crate) fn change_conns(&self, change: impl FnOnce(&mut HashMap<NodeId, Arc<Conn>>)) {
        {
            let mut conns = write(&self.conns);
            change(&mut conns.by_id);
            conns.in_order.take();
        }
        self.conns_changed.notify_waiters();
    }

    /// Returns this node's Hello for a connection whose local end is `local`.
    pub(crate) fn hello(&self, binding: &[u8; 32], local: Option<IpAddr>) -> Hello {
        Hello {
            version_min: Versions::OURS.min,
            version_max: Versions::OURS.max,
            network: self.network.clone(),
            name: self.name.clone(),
            incarnation: self.incarnation,
            features: 0,
            addresses: self.addresses(local),
            proof: self.prove(binding, self.id),
            owner: self.owner(),
            time: Some(unix_millis()),
        }
    }

    /// Returns the network's owner, as far as this node knows.
    pub(crate) fn owner(&self) -> Option<NodeId> {
        *lock(&self.owner)
    }

    /// Takes `owner` for the network's owner if none is known yet. Returns whether it did. An identity
    /// that no node can hold is not taken, as no other would be from then on.
    pub(crate) fn learn_owner(&self, owner: NodeId) -> bool {
        if !owner.is_public_key() {
            return false;
        }
        let mut known = lock(&self.owner);
        let is_news = known.is_none();
        known.get_or_insert(owner);
        is_news
    }

    /// Returns the proof of knowing the network's secret that `sender` has to give; `None` without a
    /// secret.
    pub(crate) fn prove(&self, binding: &[u8; 32], sender: NodeId) -> Option<Proof> {
        self.secret.as_deref().map(|secret| prove(secret, binding, sender))
    }

    /// Notes something about a connected peer. Returns what was noted before.
    pub(crate) fn set_info(
        &self,
        peer: NodeId,
        key: String,
        value: Value,
    ) -> Result<Option<Value>, Error> {
        let conn = self.conn(peer)?;
        let mut info = lock(&conn.info);
        Ok(info.insert(key, value))
    }

    /// Queues a message for one peer if there is room. Compresses on the spot.
    pub(crate) fn try_send(&self, conn: &Conn, message: Outgoing<'_>) -> Result<(), Error> {
        trace::sent(&conn.peer, message.body().len());
        let queued = if message.is_compressed() {
            conn.outbox.try_application(&self.build(message)?.parcel())
        } else {
            self.check_size(message.body())?;
            conn.outbox.try_application(&message.parcel(&mut [0; MESSAGE_HEAD]))
        };
        queued.map_err(|not| not_accepted(conn, not))
    }

    /// Queues a message for every peer but those in `exclude`, if there is room, and calls `sent` with
    /// the outcome for each.
    ///
    /// # Errors
    /// If the message can't be sent to any peer, for example because it is too large.
    pub(crate) fn send_to_nodes(
        &self,
        message: Outgoing<'_>,
        exclude: &[NodeId],
        mut sent: impl FnMut(&Conn, Result<(), Error>),
    ) -> Result<(), Error> {
        let bytes = message.body().len();
        let built = self.build(message)?;
        for conn in self.all_conns().iter() {
            if !exclude.contains(&conn.peer.id()) {
                trace::sent(&conn.peer, bytes);
                let queued = conn.outbox.try_application(&built.parcel());
                sent(conn, queued.map_err(|not| not_accepted(conn, not)));
            }
        }
        Ok(())
    }

    /// Returns a message's frame, for several peers. Compresses on the spot.
    pub(crate) fn build(&self, message: Outgoing<'_>) -> Result<Built, Error> {
        let packed = compress::pack(message.into_message(), self.config.max_message);
        Ok(Built::message(packed.map_err(not_packed)?))
    }

    /// Compresses a message off the async threads, if it is large.
    pub(crate) async fn pack(&self, message: Message) -> Result<Packed, Error> {
        let packing = compress::pack_async(message, self.config.max_message);
        packing.await.map_err(not_packed)
    }

    /// Checks that a message is within the limit.
    pub(crate) fn check_size(&self, body: &[u8]) -> Result<(), Error> {
        let (len, limit) = (body.len(), self.config.max_message);
        if len > limit {
            return Err(Error::TooLarge { len, limit });
        }
        Ok(())
    }

    pub(crate) fn failed(&self, peer: Peer, error: &Error) {
        let reason = match error {
            Error::Full(_) => Reason::Slow,
            Error::LinkLost { reason, .. } => reason.clone(),
            Error::Stopped => Reason::Stopping,
            other => Reason::Other(0, other.to_string()),
        };
        self.meter.failed(1);
        let failure = MessageFailure { unsent: 1, unconfirmed: 0, reason };
        self.dispatch.notice(Event::NodeMessageFailed { peer, failure });
    }

    /// Drops the application's functions. They may hold the node itself, which would never be freed.
    pub(crate) fn end(&self) {
        self.dispatch.end();
        self.change_conns(HashMap::clear);
        self.files.downloads.clear();
        self.requests.clear();
        self.protocols.clear();
    }
}

/// Returns the error for a message that an outbox did not accept.
pub(crate) fn not_accepted(conn: &Conn, not: NotAccepted) -> Error {
    let peer = conn.peer.id();
    match not {
        NotAccepted::Full => Error::Full(peer),
        NotAccepted::Closed(reason) => Error::LinkLost { peer, reason },
    }
}

fn not_packed(error: CompressError) -> Error {
    match error {
        CompressError::TooLarge { len, limit } => Error::TooLarge { len, limit },
        CompressError::Stopping => Error::Stopped,
        CompressError::Failed(compression, error) => Error::Compress(compression, error),
    }
}
