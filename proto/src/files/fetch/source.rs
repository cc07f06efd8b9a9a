//! One source of a fetch: its identity, its stage, and the time at which it is dialled next.

use std::time::Duration;

use super::{Claim, Fault};
use crate::address::Address;
use crate::id::NodeId;
use crate::time::Instant;

/// Maximum number of addresses that are remembered for one source.
const MAX_ADDRESSES: usize = 8;

/// Number of failures after which a source that has hung up is not dialled again, if the fetch does not wait
/// for sources. 5: a node that many nodes dial at the same time refuses some of them.
const MAX_FAILURES: u32 = 5;

/// Pause before a source is dialled again after its first failure. The pause doubles with each failure.
const BACK_OFF: Duration = Duration::from_millis(250);

/// Maximum pause before a source is dialled again.
pub(super) const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// A node that may have the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceCandidate {
    /// The node's identity, or `None` if any node that answers at the addresses will do.
    pub id: Option<NodeId>,
    /// The addresses at which the node is dialled, the best one first.
    pub addresses: Vec<Address>,
}

/// One attempt to fetch from one source.
///
/// When a source is dialled again, reports of an earlier attempt may still arrive. They are recognised by the
/// number of the dial, and ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceId {
    /// The index of the source in the fetch's list of sources.
    pub(super) index: usize,
    /// The number of times that the source was dialled, including this attempt.
    pub(super) dials: u32,
}

impl SourceId {
    /// Returns the number of the source, which is the same for each attempt: less than
    /// [`MAX_KNOWN`](super::MAX_KNOWN).
    #[must_use]
    pub fn number(self) -> usize {
        self.index
    }
}

/// A source of a fetch.
#[derive(Debug)]
pub(super) struct KnownSource {
    /// The attempt that is under way, or the last one.
    pub(super) id: SourceId,
    pub(super) candidate: SourceCandidate,
    pub(super) stage: SourceStage,
    /// The number of failures since the source was last ready.
    failures: u32,
    /// The last failure.
    pub(super) fault: Option<Fault>,
    /// True if the source has lied. Then its node is not accepted at another address either.
    pub(super) is_banned: bool,
}

/// The stage of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SourceStage {
    /// The source is dialled at this time.
    Waiting(Instant),
    /// The source is being dialled and asked to describe the content.
    Dialling,
    /// The source described the content at this time. It is followed once the content is settled, or asked
    /// for a proof.
    Described { since: Instant, claim: Claim },
    /// The source was asked to prove its description, and also the size if another source has proven another
    /// description.
    Proving { claim: Claim, with_size: bool },
    /// The source was asked which pieces it has.
    Following,
    /// Pieces can be requested from the source.
    Ready,
    /// The source is never dialled again.
    Gone,
}

impl KnownSource {
    /// Returns the source at `index`, which may be dialled from `now` on.
    pub(super) fn new(now: Instant, index: usize, candidate: SourceCandidate) -> Self {
        let id = SourceId { index, dials: 0 };
        Self {
            id,
            candidate,
            stage: SourceStage::Waiting(now),
            failures: 0,
            fault: None,
            is_banned: false,
        }
    }

    /// Begins another attempt.
    pub(super) fn dial(&mut self) {
        self.stage = SourceStage::Dialling;
        self.id.dials = self.id.dials.saturating_add(1);
    }

    /// Adds new addresses in front of the known ones, the last one first.
    pub(super) fn add_addresses(&mut self, addresses: Vec<Address>) {
        for address in addresses {
            if !self.candidate.addresses.contains(&address) {
                self.candidate.addresses.insert(0, address);
                self.candidate.addresses.truncate(MAX_ADDRESSES);
            }
        }
    }

    /// Returns the time at which the source is dialled next, if it waits for that.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        match self.stage {
            SourceStage::Waiting(until) => Some(until),
            _ => None,
        }
    }

    /// Ends an attempt that has not failed. The source is dialled again at a time.
    pub(super) fn wait_until(&mut self, time: Instant) {
        self.stage = SourceStage::Waiting(time);
    }

    /// Returns whether an attempt is under way.
    pub(super) fn is_running(&self) -> bool {
        !matches!(self.stage, SourceStage::Waiting(_) | SourceStage::Gone)
    }

    /// Returns whether pieces can be requested from the source.
    pub(super) fn is_ready(&self) -> bool {
        self.stage == SourceStage::Ready
    }

    /// Returns whether an attempt is under way and the source is not ready yet.
    pub(super) fn is_starting(&self) -> bool {
        self.is_running() && !self.is_ready()
    }

    /// Makes the source ready, and resets the count of its failures.
    pub(super) fn become_ready(&mut self) {
        (self.stage, self.failures) = (SourceStage::Ready, 0);
    }

    /// Notes a failure, and decides whether and when the source is dialled again. `waits` says whether the
    /// fetch waits for sources. If it does, it dials again after every fault that may be temporary.
    pub(super) fn fail(&mut self, now: Instant, fault: Fault, waits: bool) {
        self.failures = self.failures.saturating_add(1);
        self.fault = Some(fault);
        let is_over = match fault {
            // Another dial can't bring the content back.
            Fault::Lie | Fault::Changed => true,
            Fault::HungUp => !waits && self.failures >= MAX_FAILURES,
            Fault::Local | Fault::Unreachable | Fault::Refused | Fault::Lost => !waits,
        };
        self.stage =
            if is_over { SourceStage::Gone } else { SourceStage::Waiting(now + self.back_off()) };
    }

    fn back_off(&self) -> Duration {
        let doubled = 1_u32.checked_shl(self.failures.saturating_sub(1)).unwrap_or(u32::MAX);
        BACK_OFF.saturating_mul(doubled).min(BACK_OFF_MAX)
    }
}

impl SourceCandidate {
    /// Returns whether both candidates are known to be the same node.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self.id, other.id) {
            (Some(a), Some(b)) => a == b,
            (None, None) => self.addresses == other.addresses,
            // Only a dial shows which node answers at an address. `Fetch::identified` then finds duplicates.
            _ => false,
        }
    }
}
