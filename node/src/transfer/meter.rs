//! The progress and the rate of a transfer.

use std::time::Duration;

use peerkit_proto::files::PIECE;
use tokio::time::Instant;

/// Minimum time over which the rate is measured.
const WINDOW: Duration = Duration::from_millis(500);

/// Counts the bytes of a transfer, and measures their rate.
#[derive(Debug)]
pub(super) struct TransferMeter {
    done: u64,
    total: u64,
    rate: u64,
    /// The beginning of the present measurement, and the bytes that were counted since then.
    since: Instant,
    counted: u64,
}

impl TransferMeter {
    pub(super) fn new() -> Self {
        Self { done: 0, total: 0, rate: 0, since: Instant::now(), counted: 0 }
    }

    /// Returns the number of bytes that were transferred.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// Returns the total number of bytes of the transfer.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Returns the current rate in bytes per second.
    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// Starts anew with `done` bytes of `total`.
    pub(super) fn start(&mut self, done: u64, total: u64) {
        *self = Self { done, total, ..Self::new() };
    }

    /// Counts bytes that were transferred.
    pub(super) fn add(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
        self.counted = self.counted.saturating_add(bytes);
        self.measure();
    }

    /// Updates the rate between two calls of [`add`](Self::add): it falls while no bytes come.
    pub(super) fn fade(&mut self) {
        if self.counted > 0 {
            self.measure();
        } else {
            // At any higher rate the next piece would have arrived by now.
            self.rate = self.rate.min(PIECE.saturating_mul(1000) / millis(self.since));
        }
    }

    fn measure(&mut self) {
        if self.since.elapsed() >= WINDOW {
            let measured = self.counted.saturating_mul(1000) / millis(self.since);
            self.rate = match self.rate {
                0 => measured,
                before => before / 2 + measured / 2,
            };
            self.since = Instant::now();
            self.counted = 0;
        }
    }
}

/// Returns the milliseconds since then, but at least 1.
fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_falls_while_no_bytes_come() {
        let mut meter = TransferMeter::new();
        meter.start(0, 100 * PIECE);
        let pass = |millis| tokio::time::advance(Duration::from_millis(millis));
        for _ in 0..4 {
            pass(250).await;
            meter.add(PIECE);
            meter.fade();
        }
        assert_eq!(meter.rate, 4 * PIECE);
        // Now each piece takes ten seconds. The rate does not fall below that speed.
        for _ in 0..8 {
            for _ in 0..10 {
                pass(1000).await;
                meter.fade();
                assert!(meter.rate + 8 >= PIECE / 10, "{}", meter.rate);
            }
            meter.add(PIECE);
        }
        assert!(meter.rate.abs_diff(PIECE / 10) <= PIECE / 100, "{}", meter.rate);
        pass(100_000).await;
        meter.fade();
        assert_eq!(meter.rate, PIECE / 100);
        assert_eq!(meter.done, 12 * PIECE);
    }
}
