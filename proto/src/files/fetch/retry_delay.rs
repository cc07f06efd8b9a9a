//! The delay before a download without a source is tried again.

use std::time::Duration;

/// First delay if no source of the download is linked. 1 min: a new link ends the delay early, but a source
/// that is dialled at a known address may come back without a link.
const DELAY: Duration = Duration::from_secs(60);

/// First delay if a source of the download is already linked, so that no new link will end the delay. 5 s:
/// the first pause between two searches of a running fetch.
const DELAY_LINKED: Duration = Duration::from_secs(5);

/// Maximum delay.
const DELAY_MAX: Duration = Duration::from_secs(15 * 60);

/// The delay before the next attempt of a download that waits for a source. It doubles with each failed
/// attempt.
#[derive(Debug, Default)]
pub struct RetryDelay {
    /// The number of delays that have passed since the last reset.
    count: u32,
}

impl RetryDelay {
    /// Returns the next delay. `is_linked` says whether this node has a link to a source.
    #[must_use]
    pub fn next(&self, is_linked: bool) -> Duration {
        let first = if is_linked { DELAY_LINKED } else { DELAY };
        first.saturating_mul(1_u32.checked_shl(self.count).unwrap_or(u32::MAX)).min(DELAY_MAX)
    }

    /// Notes that a delay has passed in full. The next one is twice as long.
    pub fn passed(&mut self) {
        self.count = self.count.saturating_add(1);
    }

    /// Notes that a new link or the user has ended a delay early. The next delay is the first one again.
    pub fn reset(&mut self) {
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_its_maximum_and_is_shorter_if_a_source_is_linked() {
        let mut delay = RetryDelay::default();
        assert_eq!((delay.next(true), delay.next(false)), (DELAY_LINKED, DELAY));
        delay.passed();
        assert_eq!((delay.next(true), delay.next(false)), (DELAY_LINKED * 2, DELAY * 2));
        for count in [20, 31, 32, u32::MAX] {
            delay.count = count;
            delay.passed();
            assert_eq!((delay.next(true), delay.next(false)), (DELAY_MAX, DELAY_MAX));
        }
        delay.reset();
        assert_eq!(delay.next(false), DELAY);
    }
}
