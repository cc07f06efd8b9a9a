//! One link's shell: the handle that the rest of the node holds, and the task that carries its bytes.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::config::Config;
use peerkit_proto::event::{Peer, Reason};
use peerkit_proto::frame::{Frame, Refusal};
use peerkit_proto::id::NodeId;
use peerkit_proto::message::Message;
use peerkit_proto::overlay::admission::Candidate;
use peerkit_proto::peer::ConnectionId;
use peerkit_proto::time::Instant;
use peerkit_proto::versions::Agreed;
use tokio::sync::{Notify, oneshot};

use crate::counters::Meter;
use crate::lock::lock;
use crate::outbox::Outbox;

mod alarm;
mod fill;
mod read;
mod run;
mod write;

pub(crate) use run::{Established, start};

/// A link, shared by all who use it.
#[derive(Debug)]
pub(crate) struct Conn {
    /// Sets this link apart from other links with the same peer.
    pub(crate) serial: u64,
    pub(crate) peer: Peer,
    pub(crate) candidate: Candidate,
    /// Where the peer can be dialled, if it listens.
    pub(crate) dialable: Option<Address>,
    /// Who owns the network, as the peer says.
    pub(crate) owner: Option<NodeId>,
    /// What the peer's clock showed in its Hello, in milliseconds since 1970.
    pub(crate) time: Option<u64>,
    /// The wire version and features that both ends agreed on in Hello.
    pub(crate) agreed: Option<Agreed>,
    pub(crate) outbox: Outbox,
    pub(crate) meter: Meter,
    pub(crate) info: Mutex<BTreeMap<String, serde_json::Value>>,
    /// Round-trip time in microseconds; 0 while unknown.
    rtt: AtomicU64,
    /// When something was last written, in microseconds from the node's origin.
    wrote: AtomicU64,
    /// When something was last read, in microseconds from the node's origin.
    read: AtomicU64,
    /// Who waits for a ping that is not sent yet; the next one is for them all.
    pings: Mutex<Vec<oneshot::Sender<Duration>>>,
    /// Wakes the reading half once there is such a one.
    pinging: Notify,
    leaving: Mutex<Leaving>,
    /// Wakes the reading half once the link is to be closed.
    closing: Notify,
    /// It was made to send a message over.
    pub(crate) on_demand: bool,
    next_request: AtomicU64,
    requests: Mutex<BTreeMap<u64, oneshot::Sender<Result<Message, Refusal>>>>,
}

/// The facts about a connection once both ends have said Hello: see [`Conn`].
pub(crate) struct About {
    pub(crate) serial: u64,
    pub(crate) peer: Peer,
    pub(crate) candidate: Candidate,
    pub(crate) dialable: Option<Address>,
    pub(crate) owner: Option<NodeId>,
    pub(crate) time: Option<u64>,
    pub(crate) agreed: Option<Agreed>,
    pub(crate) on_demand: bool,
}

/// Whether this node wants the link to end.
#[derive(Debug, Default)]
enum Leaving {
    #[default]
    No,
    /// For this reason; the link's task has yet to act on it.
    Asked(Reason),
    /// It has acted on it.
    Taken,
}

impl Leaving {
    fn ask(&mut self, reason: Reason) {
        if matches!(self, Self::No) {
            *self = Self::Asked(reason);
        }
    }

    fn take(&mut self) -> Option<Reason> {
        match std::mem::replace(self, Self::Taken) {
            Self::Asked(reason) => Some(reason),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl Conn {
    pub(crate) fn new(about: About, config: &Config, made: u64) -> Self {
        let About { serial, peer, candidate, dialable, owner, time, agreed, on_demand } = about;
        Self {
            serial,
            peer,
            candidate,
            dialable,
            owner,
            time,
            agreed,
            on_demand,
            outbox: Outbox::new(config),
            meter: Meter::default(),
            info: Mutex::default(),
            rtt: AtomicU64::new(0),
            wrote: AtomicU64::new(0),
            read: AtomicU64::new(made),
            pings: Mutex::default(),
            pinging: Notify::new(),
            leaving: Mutex::default(),
            closing: Notify::new(),
            next_request: AtomicU64::new(1),
            requests: Mutex::default(),
        }
    }

    /// Has the link's task tell the application that the link is about to be closed, and close it.
    /// The first reason counts.
    pub(crate) fn leave(&self, reason: Reason) {
        lock(&self.leaving).ask(reason);
        self.closing.notify_one();
    }

    /// The reason that [`Conn::leave`] was given, once; none where the link is ending already.
    fn take_leaving(&self) -> Option<Reason> {
        let taken = lock(&self.leaving).take();
        taken.filter(|_| self.outbox.closed().is_none())
    }

    /// Closes the link: what is queued goes out first, then a goodbye with `reason`.
    pub(crate) fn hang_up(&self, reason: Reason) {
        match reason {
            // Whoever does not read would not read the rest either.
            Reason::Slow => self.outbox.break_off(reason, true),
            _ => self.outbox.close(reason, true),
        }
        self.closing.notify_one();
    }

    /// Puts a frame into the first lane; a peer that has let it fill up is hung up on.
    pub(crate) fn control(&self, frame: &Frame) {
        if self.outbox.control(frame) == Err(crate::outbox::NotAccepted::Full) {
            self.hang_up(Reason::Slow);
        }
    }

    /// Answers a request with a refusal. It is small, and owed to somebody who waits, so it goes
    /// with the control frames; neither side counts it as a message.
    pub(crate) fn refuse(&self, id: u64, refusal: Refusal) {
        self.control(&Frame::Reply { id, outcome: Err(refusal) });
    }

    /// The last round-trip time.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        let micros = self.rtt.load(Ordering::Relaxed);
        (micros != 0).then(|| Duration::from_micros(micros))
    }

    /// Asks for a ping; the receiver gets the round-trip time, or nothing if the link ends.
    pub(crate) async fn ping(&self) -> Option<Duration> {
        let (reply, pong) = oneshot::channel();
        {
            let mut pings = lock(&self.pings);
            if self.outbox.closed().is_some() {
                return None;
            }
            pings.retain(|waiting| !waiting.is_closed());
            pings.push(reply);
        }
        self.pinging.notify_one();
        pong.await.ok()
    }

    /// Returns its number in the machine.
    pub(crate) fn connection(&self) -> ConnectionId {
        ConnectionId(self.serial)
    }

    /// Whether a reply is waited for.
    pub(crate) fn has_requests(&self) -> bool {
        !lock(&self.requests).is_empty()
    }

    /// When something was last written.
    fn wrote(&self) -> Instant {
        Instant::from_origin(Duration::from_micros(self.wrote.load(Ordering::Relaxed)))
    }

    /// Returns when something was last read; at first when the link was made.
    pub(crate) fn last_read(&self) -> Instant {
        Instant::from_origin(Duration::from_micros(self.read.load(Ordering::Relaxed)))
    }

    /// A number for a request, and where its reply will come.
    pub(crate) fn open_request(&self) -> (u64, oneshot::Receiver<Result<Message, Refusal>>) {
        let id = self.next_request.fetch_add(1, Ordering::Relaxed);
        let (reply, receiver) = oneshot::channel();
        lock(&self.requests).insert(id, reply);
        (id, receiver)
    }

    /// Forgets a request; true if it was still open.
    pub(crate) fn close_request(&self, id: u64) -> bool {
        lock(&self.requests).remove(&id).is_some()
    }

    fn reply(&self, id: u64, outcome: Result<Message, Refusal>) {
        // Nobody waits where the request was given up: the reply crossed its cancellation.
        if let Some(waiting) = lock(&self.requests).remove(&id) {
            let _ = waiting.send(outcome);
        }
    }

    fn set_rtt(&self, rtt: Duration) {
        let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).max(1);
        self.rtt.store(micros, Ordering::Relaxed);
    }
}
