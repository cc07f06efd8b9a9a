//! One ready source of a fetch: the pieces that it has, the outstanding pieces, and its speed.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::{MAX_RUN_BYTES, MAX_RUNS, RUN_TIME};
use crate::files::pieces::{PIECE, PieceSet};
use crate::time::Instant;

/// Minimum time over which the speed is measured. 100 ms: pieces come in bursts.
const WINDOW: Duration = Duration::from_millis(100);

/// Time without a piece after which the measured speed of a source is no longer used.
const SPEED_EXPIRES: Duration = Duration::from_secs(2);

/// A ready source.
#[derive(Debug)]
pub(super) struct Supplier {
    /// True if the source has every piece. Then `holds` is empty.
    pub(super) is_whole: bool,
    pub(super) holds: PieceSet,
    /// The outstanding runs, in the order in which the source answers.
    pub(super) runs: VecDeque<OpenRun>,
    /// The speed in bytes per second, or 0 until the first piece has come.
    speed: u64,
    /// True once the speed was measured over a whole window.
    is_measured: bool,
    /// The beginning of the window over which the speed is measured.
    window_start: Instant,
    /// The bytes that have come in that window.
    window_bytes: u64,
    /// The time at which the last piece came, or the first outstanding run was requested.
    last_active: Instant,
}

/// A run of pieces that was requested and has not come completely.
#[derive(Debug, Clone)]
pub(super) struct OpenRun {
    /// The first outstanding piece.
    first: u64,
    /// The piece after the last one.
    end: u64,
    /// The pieces behind `first` that have come. Several threads verify small pieces, so pieces may be
    /// reported out of order.
    early: BTreeSet<u64>,
}

impl Supplier {
    pub(super) fn new(now: Instant, holds: PieceSet) -> Self {
        Self {
            is_whole: false,
            holds,
            runs: VecDeque::new(),
            speed: 0,
            is_measured: false,
            window_start: now,
            window_bytes: 0,
            last_active: now,
        }
    }

    /// Notes that the source has every piece.
    pub(super) fn become_whole(&mut self) {
        self.is_whole = true;
        self.holds = PieceSet::default();
    }

    /// Notes that a run was requested from the source.
    pub(super) fn requested(&mut self, now: Instant, first: u64, count: u16) {
        if self.runs.is_empty() {
            // The time without requests says nothing about the speed.
            (self.window_start, self.window_bytes, self.last_active) = (now, 0, now);
        }
        let end = first.saturating_add(u64::from(count));
        self.runs.push_back(OpenRun { first, end, early: BTreeSet::new() });
    }

    /// Notes that a piece of `len` bytes has come from the source.
    pub(super) fn arrived(&mut self, now: Instant, piece: u64, len: u64) {
        self.last_active = now;
        self.window_bytes = self.window_bytes.saturating_add(len);
        let window = now.since(self.window_start);
        let measured = per_second(self.window_bytes, window);
        if window >= WINDOW {
            // The newest window counts for half. So a change of speed shows after a few windows, and one
            // stall does not make a fast source look slow.
            self.speed = if self.is_measured { self.speed / 2 + measured / 2 } else { measured };
            self.is_measured = true;
            (self.window_start, self.window_bytes) = (now, 0);
        } else if !self.is_measured && !window.is_zero() {
            // The first of many small pieces takes a whole round trip, so the first estimates are too low.
            // They are raised as more pieces come.
            self.speed = self.speed.max(measured);
        }
        for run in &mut self.runs {
            if (run.first..run.end).contains(&piece) {
                run.early.insert(piece);
                while run.early.remove(&run.first) {
                    run.first += 1;
                }
                break;
            }
        }
        self.runs.retain(|run| run.first < run.end);
    }

    /// Returns the outstanding pieces, in the order in which they will come.
    pub(super) fn outstanding(&self) -> impl Iterator<Item = u64> {
        let runs = self.runs.iter();
        runs.flat_map(|run| (run.first..run.end).filter(|piece| !run.early.contains(piece)))
    }

    /// Returns whether any of its outstanding pieces is not in `held`.
    pub(super) fn is_needed(&self, held: &PieceSet) -> bool {
        self.outstanding().any(|piece| !held.contains(piece))
    }

    /// Returns whether another run may be requested from the source. While its speed is unknown, it gets only
    /// one.
    pub(super) fn can_take_run(&self) -> bool {
        let max = if self.speed == 0 { 1 } else { MAX_RUNS };
        self.runs.len() < max
    }

    /// Returns whether pieces are outstanding and none has come for `time`.
    pub(super) fn is_silent(&self, now: Instant, time: Duration) -> bool {
        !self.runs.is_empty() && now.since(self.last_active) > time
    }

    /// Returns the speed in bytes per second, or 0 if no piece has come for `SPEED_EXPIRES`.
    pub(super) fn speed_at(&self, now: Instant) -> u64 {
        if now.since(self.last_active) > SPEED_EXPIRES { 0 } else { self.speed }
    }

    /// Returns the number of bytes that the source sends in `time`.
    pub(super) fn bytes_in(&self, time: Duration) -> u64 {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        (self.speed / 1000).saturating_mul(millis)
    }

    /// Returns the number of bytes to request in one run.
    pub(super) fn run_bytes(&self) -> u64 {
        match self.speed {
            0 => PIECE,
            _ => self.bytes_in(RUN_TIME).min(MAX_RUN_BYTES),
        }
    }

    /// Estimates how long the source takes to send `bytes`.
    pub(super) fn time_to_send(&self, now: Instant, bytes: u64) -> Duration {
        let silent =
            if self.runs.is_empty() { Duration::ZERO } else { now.since(self.last_active) };
        match self.speed {
            // Without a speed, the best guess is that it will need as long as it has been silent already.
            0 => silent,
            speed => {
                let millis = bytes.saturating_mul(1000).checked_div(speed).unwrap_or_default();
                // A source that has been silent for longer is not expected to continue at its old speed.
                silent.max(Duration::from_millis(millis))
            }
        }
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
    // At least 1, because a speed of 0 means that none was measured yet.
    bytes.saturating_mul(1_000_000).checked_div(micros).unwrap_or_default().max(1)
}
