//! The patience of a full seed: the time for which it makes a requester wait for pieces that other
//! requesters have.
//!
//! A node that has everything names its requesters to each other. A piece that it sends a second time could
//! have come from one of them, and a slow seed of a hundred requesters would upload a hundred copies. So it
//! holds back the pieces that it has already sent to a requester that others can reach. A requester that
//! finds such a piece with another node cancels its request. A requester that does not, because it can
//! reach no other node, is served once the seed's patience is over, and after `STRIKES` such waits without
//! delay.
//!
//! The right patience cannot be a constant: a busy machine or a slow network may take a minute to
//! dial a few nodes. It follows what the seed observes instead:
//!
//! - Until the first success, each wave of requesters waits one step longer than the one before. A success is a
//!   requester that finds a piece with another one. The first wave is one requester, then two, four, eight. If all can reach each other soon, little is sent twice. If none can, the seed
//!   soon serves all of them at once (`OPEN_AFTER`).
//! - From then on it is at least `MARGIN` times what the slowest successful requester took, and grows with each
//!   wave that waits in vain.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Interval at which a seed decides again whether it still holds a request back.
pub const HOLD_BACK_STEP: Duration = Duration::from_millis(25);

/// Pieces of one hash that are remembered as sent. 65,536 pieces of 1 MiB are 64 GiB.
const MAX_SENT: usize = 65_536;

/// Patience for each other requester that has pieces. 300 ms: the time to name, dial and ask it.
const PER_REQUESTER: Duration = Duration::from_millis(300);

/// Longest patience of the first wave, before any requester was successful.
const UNINFORMED_MAX: Duration = Duration::from_secs(10);

/// Longest patience of all. It bounds the harm of a requester that pretends to be slow.
const PATIENCE_MAX: Duration = Duration::from_secs(60);

/// Patience, as a multiple of the time of the slowest successful requester.
const MARGIN: u32 = 4;

/// Waits in vain after which a requester is served without delay: it cannot reach the others.
const STRIKES: u32 = 3;

/// Waits in vain of all requesters, with no success among them, after which all are served without delay.
/// 16: at most 16 MiB are sent twice until then.
const OPEN_AFTER: u32 = 16;

/// A full seed's observations of the requesters of one hash.
#[derive(Debug, Default)]
pub struct Seeding {
    /// Pieces that were sent to a requester that others can ask.
    sent: BTreeSet<u64>,
    /// The longest time that a requester waited before it found a piece with another one.
    slowest: Option<Duration>,
    /// Waits in vain since the last success.
    vain: u32,
}

/// A full seed's observations of one requester.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requester {
    /// Waits in vain since its last success.
    vain: u32,
}

impl Seeding {
    /// Notes pieces that were sent to a requester that others can ask. At most `MAX_SENT` pieces are
    /// remembered. The others may be sent twice.
    pub fn sent(&mut self, pieces: Range<u64>) {
        let room = MAX_SENT.saturating_sub(self.sent.len());
        self.sent.extend(pieces.take(room));
    }

    /// Returns whether all of these pieces were sent to requesters that others can ask.
    #[must_use]
    pub fn has_sent(&self, mut pieces: Range<u64>) -> bool {
        pieces.all(|piece| self.sent.contains(&piece))
    }

    /// Returns whether to serve a requester now. It has waited for `waited`, and could ask `others` other
    /// nodes for the same pieces. A requester that is served after it has waited has waited in vain.
    pub fn serves(&mut self, requester: &mut Requester, waited: Duration, others: usize) -> bool {
        // After `OPEN_AFTER` waits without a success, the requesters evidently can't reach each other.
        let is_open = self.slowest.is_none() && self.vain >= OPEN_AFTER;
        if others == 0 || is_open || requester.vain >= STRIKES {
            return true;
        }
        if waited < self.patience(others) {
            return false;
        }
        requester.vain = requester.vain.saturating_add(1);
        self.vain = self.vain.saturating_add(1);
        true
    }

    /// Notes that a requester found with another one what it has waited for.
    pub fn found(&mut self, requester: &mut Requester, waited: Duration) {
        // The maximum never shrinks: serving too late costs one requester a delay, serving too early costs
        // the seed a second copy.
        self.slowest = self.slowest.max(Some(waited));
        (requester.vain, self.vain) = (0, 0);
    }

    fn patience(&self, others: usize) -> Duration {
        let others = u32::try_from(others).unwrap_or(u32::MAX);
        let least = PER_REQUESTER.saturating_mul(others).min(UNINFORMED_MAX);
        let slowest = self.slowest.unwrap_or_default().saturating_mul(MARGIN);
        // Requesters that wait together are served at 1, 2, 3, 4 times the patience: one, two, four, eight.
        let turn = self.vain.saturating_add(1).ilog2() + 1;
        least.max(slowest).saturating_mul(turn).min(PATIENCE_MAX)
    }
}
