//! The queue of future events, in the order of their times.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::files::fetch::SourceId;
use crate::peer::ConnectionId;
use crate::time::Instant;

/// Future events by time; those of the same time in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct EventQueue {
    heap: BinaryHeap<Reverse<QueuedEvent>>,
    sequence: u64,
}

/// A future event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SimEvent {
    /// The deadline of a node's machine, unless that has changed since.
    WakeNode { node: usize },
    /// The arrival of what one side of a link has sent.
    Arrive { connection: ConnectionId, side: usize },
    /// The line of one side of a link is free for the next frame.
    LineFree { connection: ConnectionId, side: usize },
    /// One end of a link has been silent for too long, if it is still cut off as it was.
    LinkSilent { connection: ConnectionId, side: usize, cuts: u32 },
    /// One end of a link has waited long enough for the other's goodbye.
    GoodbyeTimeout { connection: ConnectionId, side: usize },
    /// One end of a link finds out that the other is gone.
    LinkLost { connection: ConnectionId, side: usize },
    /// The next step of a dial.
    Dial { dial: u64, step: DialStep },
    /// The next step of a probe.
    Probe { probe: u64, step: ProbeStep },
    /// The arrival of the answer to a ping over a link.
    Pong { ping: u64 },
    /// The deadline of a request.
    RequestTimeout { request: u64 },
    /// A stream of a fetch goes on.
    Stream { stream: u64, step: StreamStep },
    /// A fetch has something to do, or is not served any more.
    WakeFetch { fetch: u64 },
    /// No node has answered at the addresses of a source.
    SourceUnreachable { fetch: u64, source: SourceId },
    /// A timer of a node's application expires, unless it was cancelled.
    Timer { node: usize, run: u32 },
    /// The deadline of a node that is stopping, for its links to end.
    EndRun { node: usize, run: u32 },
}

/// A step of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DialStep {
    /// A refusal has arrived: the node there is not running.
    NotListening,
    /// There was no answer in time.
    NoAnswer,
    /// The connection is secured.
    Secured,
    /// The dialler's Hello has arrived.
    Hello,
    /// The other side's refusal has arrived.
    Refused,
    /// The other side has closed the connection instead of saying Hello.
    Lost,
    /// The handshake has taken too long.
    Overdue,
}

/// A step of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeStep {
    /// The next address is tried.
    Next,
    /// The probe has arrived.
    Asked,
    /// Its answer has arrived.
    Answered,
}

/// The next step of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamStep {
    /// The connection is there.
    Opened,
    /// The arrival of what this end has sent.
    Arrive(usize),
    /// The source may send its next piece.
    Send,
    /// The source may have been silent for too long.
    Check,
}

#[derive(Debug)]
struct QueuedEvent {
    at: Instant,
    sequence: u64,
    event: SimEvent,
}

impl EventQueue {
    pub(super) fn put(&mut self, at: Instant, event: SimEvent) {
        // The heap alone keeps no order among events of the same time, and each run has to be the same.
        self.sequence += 1;
        self.heap.push(Reverse(QueuedEvent { at, sequence: self.sequence, event }));
    }

    /// Returns the time of the next event.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    /// Takes the next event up to `until`.
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
