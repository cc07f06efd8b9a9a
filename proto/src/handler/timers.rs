//! The timers of a handler.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::event::TimerId;
use crate::time::Instant;

/// Maximum number of timers of a handler at the same time. 1,024: enough for several timers for
/// each neighbour and each request under way.
pub const MAX_TIMERS: usize = 1024;

/// Minimum time after which a timer expires. 1 ms: the resolution of the runtime's clock. With a
/// minimum of zero, a handler could set a new timer of zero whenever a timer expires. The virtual
/// time of the simulator would then stop.
const MIN_DELAY: Duration = Duration::from_millis(1);

/// The timers that a handler has set and that have not expired. The real node and the simulator set
/// and cancel timers as the handler requests, and sleep until [`Timers::poll_timeout`].
#[derive(Debug, Default)]
pub struct Timers {
    by_time: BTreeSet<(Instant, TimerId)>,
}

/// The error if a handler already has [`MAX_TIMERS`] timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a handler has at most {MAX_TIMERS} timers at the same time: the timer was not set")]
pub struct TooManyTimers;

impl Timers {
    /// Sets a timer that expires when the time `after` has passed since `now`. Returns the time at
    /// which it expires.
    ///
    /// # Errors
    /// If there are already [`MAX_TIMERS`] timers. The new timer is then not set.
    pub fn set(
        &mut self,
        now: Instant,
        timer: TimerId,
        after: Duration,
    ) -> Result<Instant, TooManyTimers> {
        if self.by_time.len() >= MAX_TIMERS {
            return Err(TooManyTimers);
        }
        let at = now + after.max(MIN_DELAY);
        self.cancel(timer);
        self.by_time.insert((at, timer));
        Ok(at)
    }

    /// Cancels a timer. Does nothing if it has expired or was cancelled before.
    pub fn cancel(&mut self, timer: TimerId) {
        // A second index by timer is not worth its cost for at most 1,024 timers.
        self.by_time.retain(|(_, set)| *set != timer);
    }

    /// Removes and returns a timer that has expired at `now`, or `None` if there is none. The
    /// earliest comes first. Timers for the same time come in the order in which they were set.
    pub fn poll(&mut self, now: Instant) -> Option<TimerId> {
        self.poll_timeout().filter(|at| *at <= now)?;
        self.by_time.pop_first().map(|(_, timer)| timer)
    }

    /// Returns when the next timer expires.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ActionId;

    fn timer(number: u64) -> TimerId {
        TimerId::new(ActionId::new(number))
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn timers_expire_in_order_and_cancelled_timers_never_expire() {
        let (mut timers, zero) = (Timers::default(), Instant::ZERO);
        for (number, after) in [(1, 3), (2, 1), (3, 2), (4, 1)] {
            timers.set(zero, timer(number), seconds(after)).unwrap();
        }
        timers.cancel(timer(3));
        timers.cancel(timer(9));
        assert_eq!(timers.poll_timeout(), Some(zero + seconds(1)));
        assert_eq!(timers.poll(zero), None);
        let late = zero + seconds(2);
        assert_eq!([timers.poll(late), timers.poll(late)], [Some(timer(2)), Some(timer(4))]);
        assert_eq!(timers.poll(late), None);
        assert_eq!(timers.poll_timeout(), Some(zero + seconds(3)));
        assert_eq!(timers.poll(zero + seconds(4)), Some(timer(1)));
        assert_eq!(timers.poll_timeout(), None);
    }

    #[test]
    fn the_number_of_timers_is_limited_and_no_timer_expires_at_once() {
        let (mut timers, zero) = (Timers::default(), Instant::ZERO);
        for number in 0..MAX_TIMERS as u64 {
            assert!(timers.set(zero, timer(number), Duration::ZERO).unwrap() > zero);
        }
        assert_eq!(timers.set(zero, timer(5000), seconds(1)), Err(TooManyTimers));
        timers.cancel(timer(7));
        assert!(timers.set(zero, timer(5000), Duration::MAX).is_ok());
    }
}
