//! The token bucket that all rate limits use.

use std::time::Duration;

use crate::time::Instant;

/// A token bucket. It is full at first. It earns tokens as time passes, until it is full again.
///
/// Only the moment at which the bucket will be full is stored (the generic cell rate algorithm,
/// GCRA). So fractions of a token are not lost, and the rate may change at any time.
///
/// An amount of tokens is given as the time in which the bucket earns it: see [`time_to_earn`]. `size`
/// is the time in which an empty bucket becomes full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// Returns an empty bucket.
    #[must_use]
    pub fn empty(now: Instant, size: Duration) -> Self {
        Self { full_at: now + size }
    }

    /// Returns when the bucket will be full.
    #[must_use]
    pub fn full_at(self) -> Instant {
        self.full_at
    }

    /// Takes `cost` if the bucket has that much. Returns whether it did.
    #[must_use]
    pub fn take(&mut self, now: Instant, cost: Duration, size: Duration) -> bool {
        // A bucket that was full at some time in the past has earned nothing since.
        let full_at = self.full_at.max(now) + cost;
        // A bucket that would be full only after `now + size` would be less than empty.
        let enough = full_at <= now + size;
        if enough {
            self.full_at = full_at;
        }
        enough
    }

    /// Takes as many tokens as the bucket has, up to `wanted`. Returns the number taken. `each` is
    /// the time in which the bucket earns one token.
    #[must_use]
    pub fn take_up_to(&mut self, wanted: u32, now: Instant, each: Duration, size: Duration) -> u32 {
        let full_at = self.full_at.max(now);
        let left = (now + size).since(full_at).as_nanos() / each.as_nanos().max(1);
        let taken = u32::try_from(left).unwrap_or(u32::MAX).min(wanted);
        self.full_at = full_at + each.saturating_mul(taken);
        taken
    }

    /// Takes `cost`, even if the bucket has less. Returns the time in which the bucket earns the
    /// tokens that it lacked.
    #[must_use]
    pub fn take_with_debt(&mut self, now: Instant, cost: Duration, size: Duration) -> Duration {
        // A cost above the size is possible too. `take` would refuse it for ever.
        self.full_at = self.full_at.max(now) + cost;
        self.full_at.since(now + size)
    }
}

/// Returns the time in which a bucket earns `tokens` at the rate `per_second`. A rate of 0 counts
/// as 1.
#[must_use]
pub fn time_to_earn(tokens: u64, per_second: u64) -> Duration {
    let nanos = u128::from(tokens) * 1_000_000_000 / u128::from(per_second.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    #[test]
    fn a_full_bucket_gives_its_size_and_then_what_it_earns() {
        let mut bucket = Bucket::default();
        let each = time_to_earn(1, 10);
        let taken = (0..20).filter(|_| bucket.take(at(0), each, SECOND)).count();
        assert_eq!(taken, 10);
        assert!(!bucket.take(at(99), each, SECOND));
        assert!(bucket.take(at(100), each, SECOND));
        assert!(!bucket.take(at(150), each, SECOND));
        assert!(
            bucket.take(at(200), each, SECOND),
            "the half token that it had earned is not lost"
        );
        let taken = (0..20).filter(|_| bucket.take(at(9000), each, SECOND)).count();
        assert_eq!(taken, 10, "it holds no more than its size");
    }

    #[test]
    fn take_up_to_takes_what_the_bucket_has() {
        let mut bucket = Bucket::default();
        let each = time_to_earn(1, 10);
        assert_eq!(bucket.take_up_to(7, at(0), each, SECOND), 7);
        assert_eq!(bucket.take_up_to(7, at(0), each, SECOND), 3);
        assert_eq!(bucket.take_up_to(7, at(0), each, SECOND), 0);
        assert_eq!(bucket.take_up_to(7, at(550), each, SECOND), 5);
        assert_eq!(bucket.take_up_to(7, at(600), each, SECOND), 1);
    }

    #[test]
    fn a_debt_is_earned_before_more_is_taken() {
        let mut bucket = Bucket::empty(at(0), SECOND);
        assert_eq!(
            bucket.take_with_debt(at(0), Duration::from_millis(300), SECOND),
            Duration::from_millis(300)
        );
        assert_eq!(bucket.take_with_debt(at(100), SECOND, SECOND), Duration::from_millis(1200));
        assert!(!bucket.take(at(1299), Duration::from_millis(1), SECOND));
        assert!(bucket.take(at(1301), Duration::from_millis(1), SECOND));
        assert_eq!(Bucket::default().take_with_debt(at(0), SECOND, SECOND), Duration::ZERO);
    }

    #[test]
    fn the_largest_amounts_and_the_lowest_rates_do_no_harm() {
        let mut bucket = Bucket::default();
        let cost = time_to_earn(u64::MAX, 0);
        assert_eq!(time_to_earn(5, 0), Duration::from_secs(5));
        for _ in 0..3 {
            assert!(!bucket.take(at(0), cost, SECOND));
            assert_eq!(bucket.take_up_to(u32::MAX, at(0), Duration::ZERO, Duration::ZERO), 0);
            assert!(bucket.take_with_debt(at(0), Duration::MAX, SECOND) > cost);
        }
    }
}
