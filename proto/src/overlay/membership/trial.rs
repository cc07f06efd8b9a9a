//! Trials: a node tests the first nodes that a new neighbour has named.
//!
//! A neighbour that lies can't be told from an honest one by its place. But an honest node names nodes that it has
//! reached itself, while most liars name nodes that do not exist. So the nodes that a neighbour names in its answer to
//! a request for a place are tested by the feelers that are sent anyway. If none of them answers, the neighbour is
//! *doubtful*: it stays, and no request displaces it, but it no longer counts among the neighbours that this node
//! wants. So this node looks for another one.
//!
//! An attacker can make an honest neighbour doubtful, by filling the neighbour's view with nodes that do not exist. It
//! gains nothing: the neighbour keeps its place and its protection, and this node has one neighbour more.
//! Only the answer itself counts, not what a neighbour passes on, because any node on the way can have changed that.

use std::collections::BTreeMap;

use crate::id::NodeId;

use super::SHUFFLE_ACTIVE;

/// Number of failures without a success from which a neighbour is doubtful. An honest answer has up to
/// [`SHUFFLE_ACTIVE`] records of the neighbour's own neighbours, which may be behind NATs. The other ones are of nodes
/// that it has reached.
const FAILURES: usize = SHUFFLE_ACTIVE + 1;

/// Maximum number of doubtful neighbours for which this node looks for others. 3: even if a third of all nodes lies, it
/// hardly ever needs more to have two honest neighbours, and an attacker that makes neighbours doubtful causes little
/// work.
pub(super) const MAX_DOUBTFUL: usize = 3;

/// Maximum number of trials. More neighbours than a node can have.
const MAX_TRIALS: usize = 64;

/// The trials of this node's neighbours.
#[derive(Debug, Default)]
pub(super) struct Trials(BTreeMap<NodeId, Trial>);

#[derive(Debug, Default)]
struct Trial {
    /// The nodes that were named and not tested yet.
    pending: Vec<NodeId>,
    failures: usize,
    /// A node that was named has answered.
    is_passed: bool,
}

impl Trials {
    /// Begins the trial of the neighbour `by`, unless it has had one. `named` are the nodes that it has named,
    /// without those of which this node knows already that they exist. If it has named such a node, `is_passed` is
    /// true. The trials of nodes that are no neighbours any more are removed.
    pub(super) fn begin(
        &mut self,
        by: NodeId,
        named: Vec<NodeId>,
        is_passed: bool,
        is_neighbour: impl Fn(NodeId) -> bool,
    ) {
        self.0.retain(|id, _| is_neighbour(*id));
        if self.0.len() < MAX_TRIALS && is_neighbour(by) {
            self.0.entry(by).or_insert(Trial { pending: named, failures: 0, is_passed });
        }
    }

    /// Notes that a node was reached, or was not.
    pub(super) fn note(&mut self, id: NodeId, is_reached: bool) {
        for trial in self.0.values_mut() {
            let Some(at) = trial.pending.iter().position(|named| *named == id) else { continue };
            trial.pending.swap_remove(at);
            trial.is_passed |= is_reached;
            trial.failures += usize::from(!is_reached);
        }
    }

    /// Returns whether a neighbour has named only nodes that do not answer.
    pub(super) fn is_doubtful(&self, id: NodeId) -> bool {
        self.0.get(&id).is_some_and(Trial::has_failed)
    }

    /// Returns whether a node is to be tested: a neighbour whose trial is not over has named it.
    pub(super) fn needs(&self, id: NodeId) -> bool {
        let open = self.0.values().filter(|trial| !trial.is_passed && !trial.has_failed());
        open.flat_map(|trial| &trial.pending).any(|named| *named == id)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Trial {
    fn has_failed(&self) -> bool {
        !self.is_passed && self.failures >= FAILURES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn ids(from: u8, to: u8) -> Vec<NodeId> {
        (from..=to).map(id).collect()
    }

    #[test]
    fn a_neighbour_is_doubtful_after_four_failures_without_a_success() {
        let mut trials = Trials::default();
        trials.begin(id(1), ids(10, 16), false, |_| true);
        for failed in 10..13 {
            trials.note(id(failed), false);
            // The second failure of a node does not count.
            trials.note(id(failed), false);
        }
        assert!(!trials.is_doubtful(id(1)) && trials.needs(id(13)) && !trials.needs(id(12)));
        trials.note(id(13), false);
        assert!(trials.is_doubtful(id(1)) && !trials.needs(id(14)));
        // A node that answers later clears the neighbour.
        trials.note(id(14), true);
        assert!(!trials.is_doubtful(id(1)) && !trials.needs(id(15)));
    }

    #[test]
    fn a_neighbour_that_has_named_a_node_that_exists_is_not_doubtful() {
        let mut trials = Trials::default();
        trials.begin(id(1), ids(10, 16), true, |_| true);
        trials.begin(id(2), ids(10, 16), false, |_| true);
        trials.note(id(16), true);
        for failed in 10..16 {
            trials.note(id(failed), false);
        }
        assert!(!trials.is_doubtful(id(1)) && !trials.is_doubtful(id(2)));
    }

    #[test]
    fn only_the_first_answer_counts_and_only_of_neighbours() {
        let mut trials = Trials::default();
        trials.begin(id(1), ids(10, 13), false, |_| true);
        trials.begin(id(1), ids(20, 23), false, |_| true);
        trials.begin(id(2), ids(30, 33), false, |id_| id_ != id(2));
        assert!(trials.needs(id(10)) && !trials.needs(id(20)) && !trials.needs(id(30)));
        trials.begin(id(3), ids(40, 43), false, |id_| id_ == id(3));
        assert!(!trials.needs(id(10)) && trials.needs(id(40)));
    }

    #[test]
    fn the_number_of_trials_is_bounded() {
        let mut trials = Trials::default();
        for n in 0..=255 {
            trials.begin(id(n), ids(1, 7), false, |_| true);
        }
        assert_eq!(trials.0.len(), MAX_TRIALS);
    }
}
