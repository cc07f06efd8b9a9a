//! What is going to happen, in order.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::files::fetch::SourceId;
use crate::time::Instant;

/// Things that are due, by time; at the same time in the order in which they were put in.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A node's overlay has something to do, if this is still when it is to be woken.
    Wake { node: usize },
    /// What was sent on a link by this side arrives.
    Arrive { link: u64, side: usize },
    /// A link's line is free for the next frame of this side.
    Depart { link: u64, side: usize },
    /// This end of a link has heard nothing for too long, if it is still cut off as it was then.
    Silent { link: u64, side: usize, cuts: u32 },
    /// This end has waited long enough for the other's goodbye.
    Patience { link: u64, side: usize },
    /// This end learns that nobody is at the other any more.
    Lost { link: u64, side: usize },
    /// A dial goes on.
    Dial { dial: u64, step: DialStep },
    /// A probe goes on.
    Probe { probe: u64, step: ProbeStep },
    /// The answer to an application's ping over a link is due.
    Pong { ping: u64 },
    /// The time for the reply to a request is over, unless it has come.
    NoReply { request: u64 },
    /// A stream of a fetch goes on.
    Stream { stream: u64, step: StreamStep },
    /// A fetch has something to do, or is not served any more.
    Fetch { fetch: u64 },
    /// No node has answered at the addresses of a source.
    SourceUnreachable { fetch: u64, source: SourceId },
    /// A timer of a node's application expires, unless it was cancelled.
    Timer { node: usize, run: u32 },
    /// A node that is to stop has waited long enough for its links to end.
    Stopped { node: usize, run: u32 },
}

/// How far a dial is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DialStep {
    /// Nobody listens there.
    NobodyListens,
    /// Nothing came back.
    NoAnswer,
    /// The connection is there, and secured.
    Secured,
    /// The dialler's Hello is with the other side.
    Hello,
    /// The other side's refusal is with the dialler.
    Refused,
    /// The other side went away instead of saying Hello.
    Lost,
    /// Nothing has come of it in time.
    Overdue,
}

/// How far a probe is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeStep {
    /// The next address is to be tried.
    Next,
    /// The probe is with the other side.
    Asked,
    /// Its answer is here.
    Answered,
}

/// The next step of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamStep {
    /// The connection is there.
    Opened,
    /// What this end has sent arrives.
    Arrive(usize),
    /// The source may send its next piece.
    Send,
    /// The source may have been silent for too long.
    Check,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    sequence: u64,
    due: Due,
}

impl Queue {
    pub(super) fn put(&mut self, at: Instant, due: Due) {
        self.sequence += 1;
        self.heap.push(Reverse(Entry { at, sequence: self.sequence, due }));
    }

    /// When the next thing is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    /// Takes the next thing that is due by `until`.
    pub(super) fn take(&mut self, until: Instant) -> Option<(Instant, Due)> {
        if self.next()? > until {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.due))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Entry {}
