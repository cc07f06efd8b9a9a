//! The token bucket that all rate limits use.

use std::time::Duration;

use crate::time::Instant;

/// A token bucket. The default bucket is full. A bucket that is not full earns tokens at a steady
/// rate.
///
/// The bucket stores only the moment at which it will be full (the generic cell rate algorithm,
/// GCRA). So it loses no fraction of a token, and the rate may change at any time.
///
/// The methods take a number of tokens as the time in which the bucket earns them: see
/// [`time_to_earn`]. `fill_time` is the time in which an empty bucket becomes full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// Returns an empty bucket.
    #[must_use]
    pub fn empty(now: Instant, fill_time: Duration) -> Self {
        Self { full_at: now + fill_time }
    }

    /// Returns when the bucket will be full.
    #[must_use]
    pub fn full_at(self) -> Instant {
        self.full_at
    }

    /// Takes `cost` if the bucket has that much, otherwise takes nothing. Returns whether it took
    /// `cost`.
    #[must_use]
    pub fn take(&mut self, now: Instant, cost: Duration, fill_time: Duration) -> bool {
        // A bucket that became full in the past is still just full: it has earned nothing since.
        let full_at = self.full_at.max(now) + cost;
        // An empty bucket is full at `now + fill_time`. A later time would mean less than empty.
        let enough = full_at <= now + fill_time;
        if enough {
            self.full_at = full_at;
        }
        enough
    }

    /// Gives back `cost`, which was taken earlier.
    pub fn give_back(&mut self, cost: Duration) {
        // A bucket with a time in the past is full.
        self.full_at = self.full_at - cost;
    }

    /// Takes as many tokens as the bucket has, up to `wanted`. Returns the number taken.
    /// `token_time` is the time in which the bucket earns one token.
    #[must_use]
    pub fn take_up_to(
        &mut self,
        wanted: u32,
        now: Instant,
        token_time: Duration,
        fill_time: Duration,
    ) -> u32 {
        let full_at = self.full_at.max(now);
        let left = (now + fill_time).since(full_at).as_nanos() / token_time.as_nanos().max(1);
        let taken = u32::try_from(left).unwrap_or(u32::MAX).min(wanted);
        self.full_at = full_at + token_time.saturating_mul(taken);
        taken
    }

    /// Takes `cost`, even if the bucket has less and goes into debt. Returns the time in which the
    /// bucket earns the debt back, or zero if there is none.
    #[must_use]
    pub fn take_with_debt(
        &mut self,
        now: Instant,
        cost: Duration,
        fill_time: Duration,
    ) -> Duration {
        // `cost` may exceed the size of the bucket. `take` would always refuse such a cost.
        self.full_at = self.full_at.max(now) + cost;
        self.full_at.since(now + fill_time)
    }
}

/// Returns the time in which a bucket earns `tokens` tokens at `per_second` tokens a second. A rate
/// of 0 counts as 1.
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
    fn a_full_bucket_gives_all_its_tokens_and_then_those_it_earns() {
        let mut bucket = Bucket::default();
        let each = time_to_earn(1, 10);
        let taken = (0..20).filter(|_| bucket.take(at(0), each, SECOND)).count();
        assert_eq!(taken, 10);
        assert!(!bucket.take(at(99), each, SECOND));
        assert!(bucket.take(at(100), each, SECOND));
        assert!(!bucket.take(at(150), each, SECOND));
        assert!(bucket.take(at(200), each, SECOND), "the half token earned before is not lost");
        let taken = (0..20).filter(|_| bucket.take(at(9000), each, SECOND)).count();
        assert_eq!(taken, 10, "a bucket never holds more than its size");
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
    fn tokens_that_are_given_back_can_be_taken_again() {
        let mut bucket = Bucket::default();
        for _ in 0..3 {
            assert!(bucket.take(at(0), SECOND, SECOND));
            assert!(!bucket.take(at(500), SECOND, SECOND));
            bucket.give_back(SECOND);
        }
    }

    #[test]
    fn a_debt_is_earned_back_before_more_is_taken() {
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
    fn the_largest_amounts_and_the_lowest_rates_do_not_overflow() {
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
