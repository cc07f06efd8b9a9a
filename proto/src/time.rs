//! Time as the state machines see it. They never read a clock: each input comes with the time.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment, counted from an origin: the start of the node, or of the simulation.
///
/// Unlike [`std::time::Instant`] it has no `now()`: the shell that drives a state machine passes
/// the time. Arithmetic saturates, so a deadline computed from a number in a received frame can't
/// overflow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(Duration);

impl Instant {
    /// The origin.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// Returns the moment `since_origin` after the origin.
    #[must_use]
    pub const fn from_origin(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// Returns the time from the origin to this moment.
    #[must_use]
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// Returns the time from `earlier` to this moment, or zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The current time by two clocks. The shell reads both once for each input.
///
/// Deadlines and intervals use the monotonic clock. Times that other nodes see, such as those of
/// broadcasts, use the wall clock. The wall clock can jump: a user may set it, and a computer may
/// wake from sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The time by the monotonic clock, which never goes back.
    pub monotonic: Instant,
    /// The wall clock, in milliseconds since 1970.
    pub unix: u64,
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, after: Duration) -> Self {
        Self(self.0.saturating_add(after))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, before: Duration) -> Self {
        Self(self.0.saturating_sub(before))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{:?}", self.0)
    }
}

/// Returns the earlier of two deadlines. If only one is present, returns that one.
#[must_use]
pub fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    [a, b].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let late = Instant::from_origin(Duration::MAX);
        assert_eq!(late + Duration::from_secs(1), late);
        assert_eq!(Instant::ZERO - Duration::from_secs(1), Instant::ZERO);
        assert_eq!(Instant::ZERO.since(late), Duration::ZERO);
    }
}
