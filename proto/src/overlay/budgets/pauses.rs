//! Pauses in the reading of a stranger whose work is refused.
//!
//! What a stranger sends beyond its budget has to be read and parsed before it is refused. So its link is not read for
//! a while, and the flood waits at the other end. The pauses of a link that goes on with its flood get longer, and
//! their lengths are random: otherwise a thousand links that are paused at one moment would all be read again at one
//! moment, and honest peers would wait for all of them.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::Rng as _;

use crate::time::Instant;

/// Mean length of a first pause. Half a second: a peer that sends ten frames a second is then read in a tenth of the
/// time that one read for each would take.
const FIRST: Duration = Duration::from_millis(500);

/// Mean length of the longest pause. Four seconds: with the random part, less than half of
/// [`Config::ping_after`](crate::config::Config::ping_after), so that the peer's pings are answered in time.
const LONGEST: Duration = Duration::from_secs(4);

/// The pauses of one link.
#[derive(Debug, Default)]
pub(super) struct ReadingPauses {
    /// Mean length of the last pause.
    last: Duration,
    /// Time at which the last pause ends.
    until: Instant,
}

impl ReadingPauses {
    /// Returns the length of a pause that begins now, after work was refused. `None` if a pause is on already: then
    /// the frame was read before it began.
    pub(super) fn begin(&mut self, now: Instant, rng: &mut ChaCha8Rng) -> Option<Duration> {
        if now < self.until {
            return None;
        }
        // A link that was within its budget for as long as the last pause starts with a short one.
        let goes_on = now.since(self.until) < self.last;
        self.last = if goes_on { (self.last * 2).min(LONGEST) } else { FIRST };
        let percent = 50 + rng.next_u32() % 101;
        let pause = self.last * percent / 100;
        self.until = now + pause;
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    #[test]
    fn the_pauses_of_a_flood_get_longer_and_start_again_after_a_quiet_time() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut pauses = ReadingPauses::default();
        let mut now = Instant::from_origin(Duration::from_secs(100));
        for mean in [500, 1000, 2000, 4000, 4000] {
            let pause = pauses.begin(now, &mut rng).unwrap();
            assert!(
                (mean / 2..=mean * 3 / 2).contains(&pause.as_millis()),
                "{pause:?} for {mean} ms"
            );
            assert_eq!(pauses.begin(now + pause / 2, &mut rng), None);
            now = now + pause + Duration::from_millis(100);
        }
        let pause = pauses.begin(now + LONGEST, &mut rng).unwrap();
        assert!(pause <= FIRST * 3 / 2, "{pause:?}");
    }

    /// A node reads all of them again after their pauses, and honest peers wait meanwhile.
    #[test]
    fn links_that_are_paused_at_one_moment_are_read_again_at_different_moments() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let now = Instant::from_origin(Duration::from_secs(100));
        let mut ends = [0; 10];
        for _ in 0..1000 {
            let pause = ReadingPauses::default().begin(now, &mut rng).unwrap();
            let share = (pause - FIRST / 2).as_millis() * 10 / (FIRST.as_millis() + 1);
            ends[usize::try_from(share).unwrap()] += 1;
        }
        assert!(ends.iter().all(|count| (50..=150).contains(count)), "{ends:?}");
    }
}
