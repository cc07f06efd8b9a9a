//! One link: the handle that the rest of the node holds, and the task that reads and writes it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Weak};
use std::time::Duration;

use peerkit_proto::address::{Address, Scheme};
use peerkit_proto::config::Config;
use peerkit_proto::event::{Direction, Peer, Reason};
use peerkit_proto::frame::{Frame, Refusal};
use peerkit_proto::hello::{FEATURE_RELAY, FEATURE_UDP, Hello};
use peerkit_proto::id::NodeId;
use peerkit_proto::invitation::MembershipProof;
use peerkit_proto::message::{Compressions, Message, PackedMessage};
use peerkit_proto::overlay::admission::Candidate;
use peerkit_proto::peer::{ConnectionId, LinkTransport, congestion};
use peerkit_proto::time::Instant;
use peerkit_proto::versions::Agreement;
use tokio::sync::{Notify, oneshot};

use crate::counters::Meter;
use crate::error::Error;
use crate::inner::Inner;
use crate::lock::lock;
use crate::outbox::{NotAccepted, Outbox};
use crate::quic::QuicConnection;

mod fill;
mod read;
mod run;
mod write;

pub(crate) use run::{Established, start};

/// A link, shared by all tasks that use it.
#[derive(Debug)]
pub(crate) struct Conn {
    /// The number of the link in the state machine.
    pub(crate) connection: ConnectionId,
    pub(crate) peer: Peer,
    pub(crate) candidate: Candidate,
    /// The address at which the peer can be dialled, if it listens.
    pub(crate) dialable: Option<Address>,
    /// The QUIC connection that the link is a stream of. Further streams can be opened on it.
    pub(crate) quic: Option<Weak<QuicConnection>>,
    /// The transport, and what the peer announces about others.
    pub(crate) transport: LinkTransport,
    /// The network's owner, according to the peer.
    pub(crate) owner: Option<NodeId>,
    /// The peer's clock at its Hello, in milliseconds since 1970.
    pub(crate) time: Option<u64>,
    /// The peer's proof of membership, if it has sent one.
    pub(crate) membership: Option<Box<MembershipProof>>,
    /// The wire version and features that both ends agreed on in Hello.
    pub(crate) agreed: Option<Agreement>,
    /// The compressions that the peer accepts.
    pub(crate) compressions: Compressions,
    pub(crate) outbox: Outbox,
    pub(crate) meter: Meter,
    /// The application's notes about the peer.
    pub(crate) info: Mutex<BTreeMap<String, serde_json::Value>>,
    /// Round-trip time in microseconds; 0 while unknown.
    rtt: AtomicU64,
    /// The time of the last write, in microseconds from the node's origin.
    last_write: AtomicU64,
    /// The time of the last read, in microseconds from the node's origin.
    last_read: AtomicU64,
    /// The time until which the link is not read, in microseconds from the node's origin; 0 if it is read.
    paused_until: AtomicU64,
    /// The tasks that wait for the result of the next ping. One ping serves them all.
    pings: Mutex<Vec<oneshot::Sender<Duration>>>,
    /// Wakes the reading half once `pings` has a task.
    pinging: Notify,
    /// The reason for which this node wants to close the link, until the link's task takes it.
    close_request: Mutex<Option<Reason>>,
    /// Wakes the reading half once the link is to be closed.
    closing: Notify,
    /// The link was made to send a message, ping or request. The machine closes such a link once it is idle,
    /// unless the application has connected to the peer meanwhile.
    pub(crate) on_demand: bool,
    next_request: AtomicU64,
    requests: Mutex<BTreeMap<u64, oneshot::Sender<Result<Message, Refusal>>>>,
}

/// A connection whose other end has said Hello. It becomes a link if it is admitted. The dialler says Hello
/// first; the acceptor says Hello once it has admitted the connection.
pub(crate) struct GreetedConnection {
    pub(crate) id: NodeId,
    pub(crate) hello: Hello,
    pub(crate) agreed: Option<Agreement>,
    pub(crate) direction: Direction,
    pub(crate) remote: SocketAddr,
    /// The address at which the peer can be dialled, if it listens.
    pub(crate) dialable: Option<Address>,
    pub(crate) scheme: Scheme,
    /// The QUIC connection that it is a stream of.
    pub(crate) quic: Option<Weak<QuicConnection>>,
    /// The connection was made to send a message, ping or request.
    pub(crate) on_demand: bool,
}

impl Conn {
    pub(crate) fn new(inner: &Inner, greeted: GreetedConnection) -> Self {
        let GreetedConnection {
            id,
            hello,
            agreed,
            direction,
            remote,
            dialable,
            scheme,
            quic,
            on_demand,
        } = greeted;
        let seen = || Address::from_socket(remote).with_scheme(scheme);
        let shown = dialable.clone().unwrap_or_else(seen);
        Self {
            connection: inner.links.next_connection(),
            peer: Peer::new(id, hello.name, shown, direction),
            candidate: Candidate {
                id,
                direction,
                incarnation: hello.incarnation,
                ip: remote.ip(),
                is_relayed: scheme == Scheme::Relay,
            },
            dialable,
            quic,
            transport: LinkTransport {
                scheme,
                accepts_quic: hello.features & FEATURE_UDP != 0,
                relays: hello.features & FEATURE_RELAY != 0,
            },
            owner: hello.owner,
            time: hello.time,
            membership: hello.membership,
            agreed,
            compressions: Compressions::from_features(hello.features),
            outbox: Outbox::new(&inner.config, inner.clock),
            meter: Meter::default(),
            info: Mutex::default(),
            rtt: AtomicU64::new(0),
            last_write: AtomicU64::new(0),
            // The Hello has just been read. With 0 the peer would seem silent since the node's start.
            last_read: AtomicU64::new(inner.clock.micros()),
            paused_until: AtomicU64::new(0),
            pings: Mutex::default(),
            pinging: Notify::new(),
            close_request: Mutex::default(),
            closing: Notify::new(),
            on_demand,
            next_request: AtomicU64::new(1),
            requests: Mutex::default(),
        }
    }

    /// Asks the link's task to close the link. The task first delivers the event that the link is about to be
    /// closed. The reason of the first call counts.
    pub(crate) fn request_close(&self, reason: Reason) {
        lock(&self.close_request).get_or_insert(reason);
        self.closing.notify_one();
    }

    /// Takes the reason of [`request_close`](Self::request_close). Returns `None` if there is none, or if the
    /// link is already ending.
    fn take_close_request(&self) -> Option<Reason> {
        let taken = lock(&self.close_request).take();
        taken.filter(|_| self.outbox.closed().is_none())
    }

    /// Closes the link: queued frames go out first, then a goodbye with `reason`.
    pub(crate) fn hang_up(&self, reason: Reason) {
        match reason {
            // A peer that does not read would not read the queued frames either.
            Reason::Slow => self.outbox.abort(reason, true),
            _ => self.outbox.close(reason, true),
        }
        self.closing.notify_one();
    }

    /// Queues a control frame. Closes the link if the queue is full, or if it is crowded and the peer takes no
    /// byte: the peer reads too slowly.
    pub(crate) fn send_control(&self, frame: &Frame) {
        if self.outbox.push_control(frame) == Err(NotAccepted::Full) {
            self.hang_up(Reason::Slow);
        }
    }

    /// Returns whether a frame of the overlay is left out because too much waits for the link. Closes the link if
    /// the peer reads too slowly.
    pub(crate) fn leaves_out(&self, frame: &Frame, config: &Config) -> bool {
        let left_out = congestion::is_left_out(frame, self.outbox.queued_control(), config);
        if left_out && self.outbox.is_too_slow() {
            self.hang_up(Reason::Slow);
        }
        left_out
    }

    /// Answers a request with a refusal. The refusal is queued with the control frames, because it is small
    /// and the requester waits for it. Neither side counts it as a message.
    pub(crate) fn refuse(&self, id: u64, refusal: Refusal) {
        self.send_control(&Frame::Reply { id, outcome: Err(refusal) });
    }

    /// Returns the last round-trip time.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        let micros = self.rtt.load(Ordering::Relaxed);
        (micros != 0).then(|| Duration::from_micros(micros))
    }

    /// Measures the round-trip time. Returns `None` if the link ends before the pong arrives.
    pub(crate) async fn ping(&self) -> Option<Duration> {
        let (reply, pong) = oneshot::channel();
        {
            let mut pings = lock(&self.pings);
            if self.outbox.closed().is_some() {
                return None;
            }
            // Callers that gave up are dropped here, so that the list stays short.
            pings.retain(|waiting| !waiting.is_closed());
            pings.push(reply);
        }
        self.pinging.notify_one();
        pong.await.ok()
    }

    /// Checks that the peer accepts the compression of a message.
    pub(crate) fn check_compression(&self, packed: &PackedMessage) -> Result<(), Error> {
        let compression = packed.compression;
        if self.compressions.contains(compression) {
            return Ok(());
        }
        Err(Error::CompressionNotAccepted { peer: self.peer.id(), compression })
    }

    /// Returns whether requests over this link still wait for their replies.
    pub(crate) fn has_requests(&self) -> bool {
        !lock(&self.requests).is_empty()
    }

    /// Returns the time of the last write.
    fn last_write(&self) -> Instant {
        Instant::from_origin(Duration::from_micros(self.last_write.load(Ordering::Relaxed)))
    }

    /// Returns the time of the last read, or that of the link's start if nothing was read since.
    pub(crate) fn last_read(&self) -> Instant {
        Instant::from_origin(Duration::from_micros(self.last_read.load(Ordering::Relaxed)))
    }

    /// Pauses the reading of the link, from its next read on.
    pub(crate) fn pause_reading_until(&self, until: Instant) {
        let micros = u64::try_from(until.since_origin().as_micros()).unwrap_or(u64::MAX);
        self.paused_until.store(micros, Ordering::Relaxed);
    }

    /// Takes the time until which the link is not to be read.
    fn take_pause(&self) -> Option<Instant> {
        let until = match self.paused_until.load(Ordering::Relaxed) {
            0 => return None,
            _ => self.paused_until.swap(0, Ordering::Relaxed),
        };
        Some(Instant::from_origin(Duration::from_micros(until)))
    }

    /// Registers a request. Returns its number, and the receiver of its reply.
    pub(crate) fn open_request(&self) -> (u64, oneshot::Receiver<Result<Message, Refusal>>) {
        let id = self.next_request.fetch_add(1, Ordering::Relaxed);
        let (reply, receiver) = oneshot::channel();
        lock(&self.requests).insert(id, reply);
        (id, receiver)
    }

    /// Forgets a request. Returns whether it was still open.
    pub(crate) fn close_request(&self, id: u64) -> bool {
        lock(&self.requests).remove(&id).is_some()
    }

    fn reply(&self, id: u64, outcome: Result<Message, Refusal>) {
        // The request is gone if it was cancelled while the reply was on its way.
        if let Some(waiting) = lock(&self.requests).remove(&id) {
            let _ = waiting.send(outcome);
        }
    }

    fn set_rtt(&self, rtt: Duration) {
        // At least 1, because 0 means that the time is unknown.
        let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).max(1);
        self.rtt.store(micros, Ordering::Relaxed);
    }
}
