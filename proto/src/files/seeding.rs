//! The delay with which a full seed serves a piece that other requesters already have.
//!
//! A full seed has all pieces of a content, and tells each requester the addresses of the others. If the seed
//! sent every piece to every requester, a slow seed with a hundred requesters would upload a hundred copies.
//! So it delays requests for pieces that it has already sent to a requester that others can reach:
//!
//! - A requester that gets such a piece from another node cancels its request. This is a success.
//! - A requester that can reach no other node is served when the delay is over. It has waited in vain. After
//!   `MAX_VAIN_WAITS` such waits it is served without delay.
//!
//! No constant delay would be right: on a busy computer or a slow network, dialling a few nodes may take a
//! minute. So the delay follows the seed's observations:
//!
//! - Until the first success, the requesters that wait at the same time are served in waves: one requester
//!   after one delay, two more after two delays, then four, then eight. If the requesters can reach each
//!   other, the first success comes soon and little is sent twice. If none can, the seed soon serves all of
//!   them without delay (`SERVE_ALL_AFTER`).
//! - After a success, the delay is at least `MARGIN` times the longest wait before a success. It grows while
//!   requesters wait in vain.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Interval at which a seed checks whether a requester still has to wait.
pub const DELAY_CHECK_INTERVAL: Duration = Duration::from_millis(25);

/// Maximum number of pieces of one hash that are remembered as sent. 65,536 pieces of 1 MiB are 64 GiB.
const MAX_SENT: usize = 65_536;

/// Delay for each other node that may have the piece. 300 ms: the time to learn of a node, dial it and ask
/// it.
const DELAY_PER_NODE: Duration = Duration::from_millis(300);

/// Maximum delay for all other nodes together, in the first wave.
const MAX_NODES_DELAY: Duration = Duration::from_secs(10);

/// Maximum delay. It limits the harm that a requester can do by pretending to be slow.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// Ratio of the delay to the longest wait before a success.
const MARGIN: u32 = 4;

/// Number of waits in vain after which a requester is served without delay: it can't reach the others.
const MAX_VAIN_WAITS: u32 = 3;

/// Number of waits in vain, of all requesters together and without any success, after which all are served
/// without delay. 16: at most 16 MiB are sent twice until then.
const SERVE_ALL_AFTER: u32 = 16;

/// A full seed's observations of the requesters of one hash.
#[derive(Debug, Default)]
pub struct Seeding {
    /// Pieces that were sent to a requester that others can ask.
    sent: BTreeSet<u64>,
    /// The longest wait before a success.
    longest_wait: Option<Duration>,
    /// The number of waits in vain since the last success.
    vain_waits: u32,
}

/// A full seed's observations of one requester.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requester {
    /// The number of its waits in vain since its last success.
    vain_waits: u32,
}

impl Seeding {
    /// Notes that pieces were sent to a requester that others can ask. Beyond `MAX_SENT` pieces, further ones
    /// are not remembered and may be sent twice.
    pub fn sent(&mut self, pieces: Range<u64>) {
        let room = MAX_SENT.saturating_sub(self.sent.len());
        self.sent.extend(pieces.take(room));
    }

    /// Returns whether all of these pieces were sent to requesters that others can ask.
    #[must_use]
    pub fn has_sent(&self, mut pieces: Range<u64>) -> bool {
        pieces.all(|piece| self.sent.contains(&piece))
    }

    /// Returns whether to serve a requester now. It has waited for `waited`, and could ask `other_nodes` for
    /// the same pieces. If its delay is over, notes that it has waited in vain.
    pub fn may_serve(
        &mut self,
        requester: &mut Requester,
        waited: Duration,
        other_nodes: usize,
    ) -> bool {
        // After so many waits without a success, the requesters evidently can't reach each other.
        let serves_all = self.longest_wait.is_none() && self.vain_waits >= SERVE_ALL_AFTER;
        if other_nodes == 0 || serves_all || requester.vain_waits >= MAX_VAIN_WAITS {
            return true;
        }
        if waited < self.delay(other_nodes) {
            return false;
        }
        requester.vain_waits = requester.vain_waits.saturating_add(1);
        self.vain_waits = self.vain_waits.saturating_add(1);
        true
    }

    /// Notes a success: after this wait, a requester got the pieces from another node.
    pub fn got_elsewhere(&mut self, requester: &mut Requester, waited: Duration) {
        // The longest wait never shrinks: serving too late costs one requester a delay, but serving too early
        // costs the seed a second copy.
        self.longest_wait = self.longest_wait.max(Some(waited));
        (requester.vain_waits, self.vain_waits) = (0, 0);
    }

    fn delay(&self, other_nodes: usize) -> Duration {
        let nodes = u32::try_from(other_nodes).unwrap_or(u32::MAX);
        let min = DELAY_PER_NODE.saturating_mul(nodes).min(MAX_NODES_DELAY);
        let observed = self.longest_wait.unwrap_or_default().saturating_mul(MARGIN);
        // Of requesters that wait together, one is served after one delay, two more after two delays, then
        // four, then eight.
        let wave = self.vain_waits.saturating_add(1).ilog2() + 1;
        min.max(observed).saturating_mul(wave).min(MAX_DELAY)
    }
}
