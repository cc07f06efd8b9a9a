//! Decides which sources are dialled, and which give way to others.

use std::time::Duration;

use rand_core::Rng;

use crate::time::Instant;

use super::source::{BACK_OFF_MAX, KnownSource};
use super::{Fetch, KnownContent, MAX_SOURCES, MAX_STARTING, Output};

/// Time without progress after which a source gives way, if all sources in use lack the missing pieces and others
/// are known. 2 s: until then, one of them may get the pieces. The next one gives way after the same time.
pub(super) const REPLACE_EVERY: Duration = Duration::from_secs(2);

impl Fetch {
    /// Returns how many more sources may be dialled now.
    pub(super) fn free_dials(&self) -> usize {
        let starting = self.sources.iter().filter(|known| known.is_starting()).count();
        self.free_places().min(MAX_STARTING.saturating_sub(starting))
    }

    /// Dials the sources that are due, as far as the limits allow.
    pub(super) fn dial(&mut self, now: Instant) {
        // Sources are dialled in the order in which they became known, so those from the user come first.
        let free = self.free_dials();
        let is_due = |known: &KnownSource| known.waits_until().is_some_and(|until| until <= now);
        for known in self.sources.iter_mut().filter(|known| is_due(known)).take(free) {
            known.dial();
            self.outbox.push_back(Output::Dial(known.id, known.candidate.clone()));
        }
    }

    /// Returns the time at which a source gives way: all places are taken by sources without a missing piece, and
    /// another source is known. Returns `None` if no source has to give way.
    pub(super) fn replace_at(&self) -> Option<Instant> {
        let KnownContent::Settled { schedule, .. } = &self.content else { return None };
        if schedule.is_waiting() || self.free_places() > 0 {
            return None;
        }
        let next = self.sources.iter().filter_map(KnownSource::waits_until).min()?;
        Some((self.last_progress.max(self.last_replaced) + REPLACE_EVERY).max(next))
    }

    /// Hangs up on a random ready source, which makes room for another one. It is dialled again later.
    pub(super) fn replace_source(&mut self, now: Instant) {
        self.last_replaced = now;
        let ready = self.sources.iter().filter(|known| known.is_ready()).count();
        let Some(at) = (self.rng.next_u64() as usize).checked_rem(ready) else { return };
        let Some(known) = self.sources.iter_mut().filter(|known| known.is_ready()).nth(at) else {
            return;
        };
        self.outbox.push_back(Output::HangUp(known.id));
        known.wait_until(now + BACK_OFF_MAX);
        let id = known.candidate.id;
        self.unschedule(now, id);
    }

    fn free_places(&self) -> usize {
        let running = self.sources.iter().filter(|known| known.is_running()).count();
        MAX_SOURCES.saturating_sub(running)
    }
}
