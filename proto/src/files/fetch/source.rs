//! One source of a fetch: its identity, its stage, and the time of its next dial.

use std::time::Duration;

use super::{Claim, Fault};
use crate::address::Address;
use crate::id::NodeId;
use crate::time::Instant;

/// Most addresses that are remembered of one source.
const MAX_ADDRESSES: usize = 8;

/// Most dials of a source that hangs up during the handshake, until the content is known. 5: a node that
/// many nodes call at the same time refuses some of them.
const TRIES: u32 = 5;

/// Pause after a source has failed for the first time. It doubles with each failure.
const BACK_OFF: Duration = Duration::from_millis(250);

/// Longest pause between two dials of one source.
pub(super) const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// A node that may have the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceCandidate {
    /// Its identity, or `None` for any node that answers at the addresses.
    pub id: Option<NodeId>,
    /// Addresses where it may be dialled, the best one first.
    pub addresses: Vec<Address>,
}

/// One attempt to fetch from one source.
///
/// Reports of an earlier attempt may still be under way when the source is dialled again. The number of the
/// dial tells them apart, so that they are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceId {
    /// The index of the source among those of the fetch.
    pub(super) index: usize,
    /// Number of dials, this one included.
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
    /// Its present attempt, or its last one.
    pub(super) id: SourceId,
    pub(super) candidate: SourceCandidate,
    pub(super) stage: SourceStage,
    /// Failures since it was ready last.
    failures: u32,
    /// The last failure.
    pub(super) fault: Option<Fault>,
}

/// The stage of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SourceStage {
    /// It is dialled at that time.
    Waiting(Instant),
    /// It is being dialled, and asked to describe the content.
    Dialling,
    /// It has described the content. It waits until the content is settled, or until it is asked for a proof.
    Described { since: Instant, claim: Claim },
    /// It was asked to prove its description; the size too if another source describes another one.
    Proving { claim: Claim, with_size: bool },
    /// It was asked which pieces it has.
    Following,
    /// It can be asked for pieces.
    Ready,
    /// It is never dialled again.
    Gone,
}

impl KnownSource {
    /// Returns the source at `index`, to be dialled at once.
    pub(super) fn new(now: Instant, index: usize, candidate: SourceCandidate) -> Self {
        let id = SourceId { index, dials: 0 };
        Self { id, candidate, stage: SourceStage::Waiting(now), failures: 0, fault: None }
    }

    /// Begins another attempt.
    pub(super) fn dial(&mut self) {
        self.stage = SourceStage::Dialling;
        self.id.dials = self.id.dials.saturating_add(1);
    }

    /// Adds addresses, the last of them as the best.
    pub(super) fn add_addresses(&mut self, addresses: Vec<Address>) {
        for address in addresses {
            if !self.candidate.addresses.contains(&address) {
                self.candidate.addresses.insert(0, address);
                self.candidate.addresses.truncate(MAX_ADDRESSES);
            }
        }
    }

    /// Returns whether an attempt is under way.
    pub(super) fn is_running(&self) -> bool {
        !matches!(self.stage, SourceStage::Waiting(_) | SourceStage::Gone)
    }

    /// Returns whether it can be asked for pieces.
    pub(super) fn is_ready(&self) -> bool {
        self.stage == SourceStage::Ready
    }

    /// Returns whether an attempt is under way that is not ready yet.
    pub(super) fn is_starting(&self) -> bool {
        self.is_running() && !self.is_ready()
    }

    /// Makes it ready, and forgets its failures.
    pub(super) fn become_ready(&mut self) {
        (self.stage, self.failures) = (SourceStage::Ready, 0);
    }

    /// Decides whether and when it is dialled again after a failure. Fetches that are patient dial it again.
    pub(super) fn fail(&mut self, now: Instant, fault: Fault, is_patient: bool) {
        self.failures = self.failures.saturating_add(1);
        self.fault = Some(fault);
        let is_over = match fault {
            // Another dial can't bring the content back.
            Fault::Lie | Fault::Changed => true,
            Fault::HungUp => !is_patient && self.failures >= TRIES,
            // These may pass, so a patient fetch dials again.
            Fault::Local | Fault::Unreachable | Fault::Refused | Fault::Lost => !is_patient,
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
    /// Returns whether both are the same node, as far as their identities are known.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self.id, other.id) {
            (Some(a), Some(b)) => a == b,
            (None, None) => self.addresses == other.addresses,
            // Only a dial shows which node answers at an address. `Fetch::met` finds the two to be one then.
            _ => false,
        }
    }
}
