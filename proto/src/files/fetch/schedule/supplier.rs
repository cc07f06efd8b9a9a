//! One ready source of a fetch: the pieces that it has, those that it owes, and its speed.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::{MAX_RUN, RUN_TIME, RUNS};
use crate::files::pieces::{PIECE, PieceSet};
use crate::time::Instant;

/// Shortest time over which the speed is measured. 100 ms: single pieces come in bursts.
const WINDOW: Duration = Duration::from_millis(100);

/// Time without a piece after which the speed of a source no longer counts.
const LATELY: Duration = Duration::from_secs(2);

/// A ready source.
#[derive(Debug)]
pub(super) struct Supplier {
    /// It has every piece; `holds` is empty then.
    pub(super) is_whole: bool,
    pub(super) holds: PieceSet,
    /// The runs that were requested of it, in the order in which it answers.
    pub(super) asked: VecDeque<OpenRun>,
    /// Bytes per second; 0 until the first piece has come.
    speed: u64,
    /// If true, the speed was measured over a whole window.
    is_measured: bool,
    /// The beginning of the window that `arrived` is counted in.
    since: Instant,
    arrived: u64,
    /// The time at which its last piece came, or it began to owe pieces.
    active: Instant,
}

/// Pieces that are requested together.
#[derive(Debug, Clone)]
pub(super) struct OpenRun {
    /// The first of them that is still owed.
    first: u64,
    end: u64,
    /// Pieces of it that have come before the first one owed. Threads verify small pieces side by side, so
    /// they may be reported out of order.
    early: BTreeSet<u64>,
}

impl Supplier {
    pub(super) fn new(now: Instant, holds: PieceSet) -> Self {
        Self {
            is_whole: false,
            holds,
            asked: VecDeque::new(),
            speed: 0,
            is_measured: false,
            since: now,
            arrived: 0,
            active: now,
        }
    }

    /// Notes that it has every piece.
    pub(super) fn become_whole(&mut self) {
        self.is_whole = true;
        self.holds = PieceSet::default();
    }

    /// Notes that a run was requested of it.
    pub(super) fn ask(&mut self, now: Instant, first: u64, count: u16) {
        if self.asked.is_empty() {
            // The time in which it owed nothing says nothing about its speed.
            (self.since, self.arrived, self.active) = (now, 0, now);
        }
        let end = first.saturating_add(u64::from(count));
        self.asked.push_back(OpenRun { first, end, early: BTreeSet::new() });
    }

    /// Notes that a piece of `len` bytes came from it.
    pub(super) fn arrived(&mut self, now: Instant, piece: u64, len: u64) {
        self.active = now;
        self.arrived = self.arrived.saturating_add(len);
        let window = now.since(self.since);
        let measured = per_second(self.arrived, window);
        if window >= WINDOW {
            // The newest window weighs half, so a change of speed shows after a few windows, and one stall
            // does not make a fast source slow.
            self.speed = if self.is_measured { self.speed / 2 + measured / 2 } else { measured };
            self.is_measured = true;
            (self.since, self.arrived) = (now, 0);
        } else if !self.is_measured && !window.is_zero() {
            // The first of many small pieces takes a whole round trip. As more pieces come in the same
            // time, the source turns out to be faster.
            self.speed = self.speed.max(measured);
        }
        for run in &mut self.asked {
            if (run.first..run.end).contains(&piece) {
                run.early.insert(piece);
                while run.early.remove(&run.first) {
                    run.first += 1;
                }
                break;
            }
        }
        self.asked.retain(|run| run.first < run.end);
    }

    /// Returns the pieces that it owes, in the order in which they come.
    pub(super) fn owed(&self) -> impl Iterator<Item = u64> {
        let runs = self.asked.iter();
        runs.flat_map(|run| (run.first..run.end).filter(|piece| !run.early.contains(piece)))
    }

    /// Returns whether it owes a piece that is not in `held`.
    pub(super) fn owes(&self, held: &PieceSet) -> bool {
        self.owed().any(|piece| !held.contains(piece))
    }

    /// Returns whether another run may be requested of it. A source of unknown speed gets one run only.
    pub(super) fn has_time(&self) -> bool {
        let most = if self.speed == 0 { 1 } else { RUNS };
        self.asked.len() < most
    }

    /// Returns whether nothing has come from it for `time` although it owes pieces.
    pub(super) fn is_silent(&self, now: Instant, time: Duration) -> bool {
        !self.asked.is_empty() && now.since(self.active) > time
    }

    /// Returns its speed in bytes per second, or 0 if nothing has come lately.
    pub(super) fn speed_at(&self, now: Instant) -> u64 {
        if now.since(self.active) > LATELY { 0 } else { self.speed }
    }

    /// Returns the number of bytes that it sends in `time`.
    pub(super) fn bytes_in(&self, time: Duration) -> u64 {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        (self.speed / 1000).saturating_mul(millis)
    }

    /// Returns the number of bytes to request in one run.
    pub(super) fn run_bytes(&self) -> u64 {
        match self.speed {
            0 => PIECE,
            _ => self.bytes_in(RUN_TIME).min(MAX_RUN),
        }
    }

    /// Estimates how long it takes to send `bytes`.
    pub(super) fn time_for(&self, now: Instant, bytes: u64) -> Duration {
        let silent = if self.asked.is_empty() { Duration::ZERO } else { now.since(self.active) };
        match self.speed {
            // Without a speed the best guess is that it takes as long again as it has been silent.
            0 => silent,
            speed => {
                let millis = bytes.saturating_mul(1000).checked_div(speed).unwrap_or_default();
                // A source that has stopped sending is not expected to go on at its old speed.
                silent.max(Duration::from_millis(millis))
            }
        }
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    // At least 1, as a speed of 0 means that none was measured yet.
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1_000_000).checked_div(micros).unwrap_or_default().max(1)
}
