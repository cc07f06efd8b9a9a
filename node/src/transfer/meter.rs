//! How much has come, and how fast it comes.

use std::time::Duration;

use peerkit_proto::files::PIECE;
use tokio::time::Instant;

/// Speed is taken over at least this long.
const WINDOW: Duration = Duration::from_millis(500);

/// Counts bytes, and how fast they come.
#[derive(Debug)]
pub(super) struct Meter {
    done: u64,
    total: u64,
    rate: u64,
    since: Instant,
    came: u64,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self { done: 0, total: 0, rate: 0, since: Instant::now(), came: 0 }
    }

    /// Bytes that are here.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// Bytes in all.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Bytes a second, lately.
    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// What is here already, of how much.
    pub(super) fn start(&mut self, done: u64, total: u64) {
        *self = Self { done, total, ..Self::new() };
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
        self.came = self.came.saturating_add(bytes);
        self.measure();
    }

    /// Nothing has come for a while: a piece that is still on its way would be here were it faster.
    pub(super) fn fade(&mut self) {
        match self.came {
            0 => self.rate = self.rate.min(PIECE.saturating_mul(1000) / millis(self.since)),
            _ => self.measure(),
        }
    }

    fn measure(&mut self) {
        if self.since.elapsed() >= WINDOW {
            let measured = self.came.saturating_mul(1000) / millis(self.since);
            self.rate = match self.rate {
                0 => measured,
                before => before / 2 + measured / 2,
            };
            (self.since, self.came) = (Instant::now(), 0);
        }
    }
}

/// Milliseconds since then, one at least.
fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_speed_is_that_of_what_comes_and_fades_where_nothing_does() {
        let mut meter = Meter::new();
        meter.start(0, 100 * PIECE);
        let pass = |millis| tokio::time::advance(Duration::from_millis(millis));
        for _ in 0..4 {
            pass(250).await;
            meter.add(PIECE);
            meter.fade();
        }
        assert_eq!(meter.rate, 4 * PIECE);
        // Slow, and yet no slower than it is: a piece takes ten seconds.
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
