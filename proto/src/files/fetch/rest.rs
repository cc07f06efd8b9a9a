//! The rests of a download without a source, before it is tried again.

use std::time::Duration;

/// First rest of a download of which no source is linked. 1 min: a source that is dialled at a known
/// address makes no link.
const REST: Duration = Duration::from_secs(60);

/// First rest of a download of which a source is linked already, so that no new link will end the
/// rest. 5 s: as often as a running fetch searches.
const REST_LINKED: Duration = Duration::from_secs(5);

/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(15 * 60);

/// The rests of a download that waits for a source however long that takes. It gives its place to
/// others meanwhile.
#[derive(Debug, Default)]
pub struct Rests {
    /// Rests since a link was made.
    count: u32,
}

impl Rests {
    /// Returns the length of the next rest, unless a link ends it. `is_linked` says whether a source is linked.
    #[must_use]
    pub fn next(&self, is_linked: bool) -> Duration {
        let first = if is_linked { REST_LINKED } else { REST };
        first.saturating_mul(1_u32.checked_shl(self.count).unwrap_or(u32::MAX)).min(REST_MAX)
    }

    /// Notes that a rest has lasted to its end. The next one is twice as long.
    pub fn passed(&mut self) {
        self.count = self.count.saturating_add(1);
    }

    /// Notes that a link, or the user, has ended a rest. The next one is short again.
    pub fn ended(&mut self) {
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_whose_source_is_linked_rests_shortly() {
        let mut rests = Rests::default();
        assert_eq!((rests.next(true), rests.next(false)), (REST_LINKED, REST));
        rests.passed();
        assert_eq!((rests.next(true), rests.next(false)), (REST_LINKED * 2, REST * 2));
        for count in [20, 31, 32, u32::MAX] {
            rests.count = count;
            rests.passed();
            assert_eq!((rests.next(true), rests.next(false)), (REST_MAX, REST_MAX));
        }
        rests.ended();
        assert_eq!(rests.next(false), REST);
    }
}
