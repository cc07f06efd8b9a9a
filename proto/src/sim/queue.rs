//! The queue of future events, ordered by time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::files::fetch::SourceId;
use crate::peer::ConnectionId;
use crate::time::Instant;

/// Future events, ordered by time. Events of the same time are in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct SimEventQueue {
    heap: BinaryHeap<Reverse<QueuedEvent>>,
    /// Number of events that were ever added.
    added: u64,
}

/// A future event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SimEvent {
    /// The deadline of a node's machine. The event is ignored if the machine's deadline has changed since.
    WakeNode { node: usize },
    /// Something that `side` of a link has sent arrives.
    Arrive { connection: ConnectionId, side: usize },
    /// The line of one side of a link is free for the next item.
    LineFree { connection: ConnectionId, side: usize },
    /// One endpoint of a link has received nothing for too long. The event is ignored if the nodes were connected
    /// again since it was added, which `cuts` shows.
    LinkSilent { connection: ConnectionId, side: usize, cuts: u32 },
    /// One endpoint of a link no longer waits for the peer's goodbye.
    GoodbyeTimeout { connection: ConnectionId, side: usize },
    /// One endpoint of a link notices that the other endpoint is gone.
    LinkLost { connection: ConnectionId, side: usize },
    /// The next step of a dial.
    Dial { dial: u64, step: DialStep },
    /// The next step of a probe.
    Probe { probe: u64, step: ProbeStep },
    /// The arrival of the answer to a ping over a link.
    Pong { ping: u64 },
    /// The deadline of a request.
    RequestTimeout { request: u64 },
    /// The next step of a stream of a fetch.
    Stream { stream: u64, step: StreamStep },
    /// The deadline of a fetch, or the time at which a finished fetch is forgotten.
    WakeFetch { fetch: u64 },
    /// The next step of a call-back, as a key of `Transfers::call_backs`.
    CallBack { operation: u64, step: CallBackStep },
    /// An observer answers a node.
    Observe { node: usize, run: u32, by: usize },
    /// No node answers at the addresses of a source.
    SourceUnreachable { fetch: u64, source: SourceId },
    /// A timer of a node's application expires. The event is ignored if the timer was cancelled.
    Timer { node: usize, run: u32 },
    /// A node that is stopping ends: it has no links left, or they did not end in time.
    EndRun { node: usize, run: u32 },
}

/// A step of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DialStep {
    /// A refusal has arrived: the node there is not running.
    NotListening,
    /// No answer has arrived in time.
    NoAnswer,
    /// The TLS handshake is complete.
    Secured,
    /// The dialler's Hello has arrived.
    Hello,
    /// The acceptor's refusal has arrived.
    Refused,
    /// The acceptor has closed the connection instead of sending Hello.
    Lost,
    /// The handshake has taken too long.
    Overdue,
    /// The dialler sends a packet to each candidate of a meeting.
    SendPackets,
    /// A packet, which the dialler's router has sent on from this port, arrives at a candidate.
    PacketArrived { candidate: usize, port: u16 },
    /// The time for hole punching is over.
    MeetingOver,
    /// The next relay is dialled.
    TryRelay,
    /// The question for a connection has arrived at the relay.
    RelayAsked,
    /// The relay has refused, or does not answer.
    RelayRefused,
    /// The connection through the relay to this run of a node is secured.
    Relayed(usize, u32),
}

/// A step of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeStep {
    /// The next address is tried.
    Next,
    /// The probe has arrived at the node that is asked.
    Asked,
    /// The answer has arrived at the node that asks.
    Answered,
}

/// A step of a call-back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallBackStep {
    /// The relay of the link is asked again.
    Retry,
    /// The time for the call-back is over.
    Overdue,
}

/// A step of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamStep {
    /// The connection is open.
    Opened,
    /// Something that this end has sent arrives.
    Arrive(usize),
    /// The source may send its next piece.
    Send,
    /// The fetcher checks whether the source has been silent for too long.
    Check,
}

#[derive(Debug)]
struct QueuedEvent {
    at: Instant,
    sequence: u64,
    event: SimEvent,
}

impl SimEventQueue {
    pub(super) fn put(&mut self, at: Instant, event: SimEvent) {
        // A heap does not order events of the same time, and every run of a seed has to be the same.
        self.added += 1;
        self.heap.push(Reverse(QueuedEvent { at, sequence: self.added, event }));
    }

    /// Returns the time of the next event.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    /// Takes the next event, if its time is not after `until`.
    pub(super) fn take(&mut self, until: Instant) -> Option<(Instant, SimEvent)> {
        if self.next()? > until {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }
}

impl Ord for QueuedEvent {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl PartialOrd for QueuedEvent {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for QueuedEvent {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for QueuedEvent {}
