//! The delay before a download without a source is tried again.

use std::time::Duration;

/// First delay of a download of which no source is linked. 1 min: a source at a known address is dialled
/// without a link, so it may come back without a new link that ends the delay.
const DELAY: Duration = Duration::from_secs(60);

/// First delay of a download of which a source is linked already, so that no new link ends the delay. 5 s: as
/// often as a running fetch searches.
const DELAY_LINKED: Duration = Duration::from_secs(5);

/// Longest delay.
const DELAY_MAX: Duration = Duration::from_secs(15 * 60);

/// The delay of a download that waits for a source, however long that takes. It doubles with each attempt
/// in vain.
#[derive(Debug, Default)]
pub struct RetryDelay {
    /// Delays that have passed since a link was made.
    count: u32,
}

impl RetryDelay {
    /// Returns the next delay. `is_linked` says whether a source is linked.
    #[must_use]
    pub fn next(&self, is_linked: bool) -> Duration {
        let first = if is_linked { DELAY_LINKED } else { DELAY };
        first.saturating_mul(1_u32.checked_shl(self.count).unwrap_or(u32::MAX)).min(DELAY_MAX)
    }

    /// Notes that a delay has passed. The next one is twice as long.
    pub fn passed(&mut self) {
        self.count = self.count.saturating_add(1);
    }

    /// Notes that a link, or the user, has ended a delay early. The next one is short again.
    pub fn reset(&mut self) {
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_whose_source_is_linked_is_soon_tried_again() {
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
