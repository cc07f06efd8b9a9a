//! One source of a fetch: what it has, what it owes, and how fast it is.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::{MAX_RUN, RUN_TIME, RUNS};
use crate::files::pieces::{PIECE, PieceSet};
use crate::time::Instant;

/// Speed is taken over at least this long: single pieces come in bursts.
const WINDOW: Duration = Duration::from_millis(100);

/// Who has sent nothing for this long has no speed that counts.
const LATELY: Duration = Duration::from_secs(2);

/// A ready source.
#[derive(Debug)]
pub(super) struct Supplier {
    /// It has every piece; `holds` is empty then.
    pub(super) is_whole: bool,
    pub(super) holds: PieceSet,
    /// The runs that it was asked for, in the order in which it answers.
    pub(super) asked: VecDeque<Run>,
    /// Bytes a second; 0 while nothing has come.
    speed: u64,
    /// The speed was taken over a whole window.
    is_measured: bool,
    /// Since when `arrived` is counted.
    since: Instant,
    arrived: u64,
    /// When it was last heard of, or began to owe something.
    heard: Instant,
}

/// Pieces asked for together.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// The first of them that is still owed.
    first: u64,
    end: u64,
    /// Pieces of it that have come before the first one owed: small ones are checked side by side.
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
            heard: now,
        }
    }

    /// It has every piece.
    pub(super) fn become_whole(&mut self) {
        self.is_whole = true;
        self.holds = PieceSet::default();
    }

    pub(super) fn ask(&mut self, now: Instant, first: u64, count: u16) {
        if self.asked.is_empty() {
            // The time in which it owed nothing says nothing of its speed.
            (self.since, self.arrived, self.heard) = (now, 0, now);
        }
        let end = first.saturating_add(u64::from(count));
        self.asked.push_back(Run { first, end, early: BTreeSet::new() });
    }

    /// A piece of `len` bytes came from it.
    pub(super) fn arrived(&mut self, now: Instant, piece: u64, len: u64) {
        self.heard = now;
        self.arrived = self.arrived.saturating_add(len);
        let window = now.since(self.since);
        let measured = per_second(self.arrived, window);
        if window >= WINDOW {
            self.speed = match self.is_measured {
                true => self.speed / 2 + measured / 2,
                false => measured,
            };
            self.is_measured = true;
            (self.since, self.arrived) = (now, 0);
        } else if !self.is_measured && !window.is_zero() {
            // The first piece of many small ones took as long as they all do: as more come in the
            // same time it is seen to be faster.
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

    /// The pieces that it owes, in the order in which they come.
    pub(super) fn owed(&self) -> impl Iterator<Item = u64> {
        let runs = self.asked.iter();
        runs.flat_map(|run| (run.first..run.end).filter(|piece| !run.early.contains(piece)))
    }

    /// Whether it owes something that is not in `held`.
    pub(super) fn owes(&self, held: &PieceSet) -> bool {
        self.owed().any(|piece| !held.contains(piece))
    }

    /// Whether it may be asked for another run. Whose speed is not known is asked for one only.
    pub(super) fn has_time(&self) -> bool {
        let most = if self.speed == 0 { 1 } else { RUNS };
        self.asked.len() < most
    }

    /// Whether nothing has come from it for a while although it owes something.
    pub(super) fn is_silent(&self, now: Instant, time: Duration) -> bool {
        !self.asked.is_empty() && now.since(self.heard) > time
    }

    /// Bytes a second, as far as it has sent something lately.
    pub(super) fn speed_at(&self, now: Instant) -> u64 {
        if now.since(self.heard) > LATELY { 0 } else { self.speed }
    }

    /// Bytes that it sends in `time`.
    pub(super) fn bytes_in(&self, time: Duration) -> u64 {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        (self.speed / 1000).saturating_mul(millis)
    }

    /// Bytes to ask for in one run.
    pub(super) fn run_bytes(&self) -> u64 {
        match self.speed {
            0 => PIECE,
            _ => self.bytes_in(RUN_TIME).min(MAX_RUN),
        }
    }

    /// How long it takes to send `bytes`, from what is known of it at `now`.
    pub(super) fn time_for(&self, now: Instant, bytes: u64) -> Duration {
        let silent = if self.asked.is_empty() { Duration::ZERO } else { now.since(self.heard) };
        match self.speed {
            0 => silent,
            speed => {
                let millis = bytes.saturating_mul(1000).checked_div(speed).unwrap_or_default();
                silent.max(Duration::from_millis(millis))
            }
        }
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1_000_000).checked_div(micros).unwrap_or_default().max(1)
}
