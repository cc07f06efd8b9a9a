//! A query that a node has sent or received, as it is remembered.

use std::collections::BTreeSet;

use crate::frame::query::{QueryKind, UNLIMITED};
use crate::id::{Hash, NodeId};
use crate::time::Instant;

/// The question of a query, as far as it has to be remembered. A question may be 8 KiB long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KnownQuestion {
    /// A [`QueryKind::FindNode`], by which answers find the way back.
    Node(NodeId),
    /// The hash of any other question.
    Other(Hash),
}

/// A query, until it is forgotten.
#[derive(Debug)]
pub(super) struct KnownQuery {
    pub(super) what: KnownQuestion,
    /// The peer that the query came from first, to which the answers are sent. `None` if this node asked.
    pub(super) parent: Option<NodeId>,
    /// The asking node asks for itself, so the query is not passed on.
    pub(super) own: bool,
    /// The first peer from which an answer about the wanted node came, in a query for a node.
    pub(super) route: Option<NodeId>,
    /// The greatest depth that the query has come with.
    pub(super) depth: u8,
    pub(super) deadline: Instant,
    /// The time at which the query is forgotten. The table sets it.
    pub(super) forget_at: Instant,
    /// The query was not passed on, because the budgets of the links that it came over were spent.
    pub(super) is_held: bool,
    /// This node's own answer is still being looked up. No branch ends before that.
    pub(super) awaits_own_answer: bool,
    pub(super) branches: Vec<Branch>,
    /// Time until which the branches wait for strangers. `None` if no stranger was asked.
    pub(super) strangers_until: Option<Instant>,
    /// Peers that had not said "done" by the deadline. Their answers are late, but no fault.
    pub(super) overdue: Vec<NodeId>,
    /// Total size of the answers so far, see [`MAX_ANSWERED`](super::MAX_ANSWERED).
    pub(super) answered_size: usize,
}

impl KnownQuestion {
    pub(super) fn of(what: &QueryKind) -> Self {
        match what {
            QueryKind::FindNode(wanted) => Self::Node(*wanted),
            other => {
                let mut bytes = Vec::new();
                other.encode(&mut bytes);
                Self::Other(Hash::of(&bytes))
            }
        }
    }
}

impl KnownQuery {
    pub(super) fn new(
        what: &QueryKind,
        parent: Option<NodeId>,
        own: bool,
        depth: u8,
        deadline: Instant,
    ) -> Self {
        Self {
            what: KnownQuestion::of(what),
            parent,
            own,
            route: None,
            depth,
            deadline,
            forget_at: deadline,
            is_held: false,
            awaits_own_answer: false,
            branches: Vec::new(),
            strangers_until: None,
            overdue: Vec::new(),
            answered_size: 0,
        }
    }

    /// Returns whether a copy of the query that comes with this depth is handled as if the first one had not come.
    ///
    /// A stranger that has seen the id of a query can bring it to other nodes before the neighbours do, with another
    /// depth or question. The answers would then go to the stranger. No honest copy of a query for the whole
    /// network has a limited depth, and a copy that was held was not passed on. So the new copy is not an echo of
    /// the first, and taking it for the first closes no circle.
    pub(super) fn is_replaced_by(&self, depth: u8) -> bool {
        let is_of_stranger = depth == UNLIMITED && self.depth < UNLIMITED;
        self.parent.is_some() && (is_of_stranger || self.is_held && depth > 0)
    }
}

/// A peer to which a query is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::overlay) struct AskedPeer {
    pub(in crate::overlay) id: NodeId,
    /// This node is a member of the network, and the peer is a stranger to it.
    pub(in crate::overlay) is_stranger: bool,
}

/// The handling of one copy of a query: the peers that it was passed on to, until all of them are done.
#[derive(Debug)]
pub(super) struct Branch {
    /// The peer that this copy came from and that waits for "done"; `None` if this node asked.
    pub(super) parent: Option<NodeId>,
    /// The depth with which the copy came.
    pub(super) depth: u8,
    /// The depth with which the copy was passed on, if it was.
    pub(super) onward: Option<u8>,
    /// Peers that have not said "done" yet, except strangers.
    pub(super) waiting: BTreeSet<NodeId>,
    /// Strangers that have not said "done" yet. Whether they do, and what they say, has no effect on `complete`:
    /// otherwise anyone with a link could make the queries of a whole network incomplete.
    pub(super) strangers: BTreeSet<NodeId>,
    /// False once an answer is known to be missing.
    pub(super) complete: bool,
}

impl Branch {
    pub(super) fn new(parent: Option<NodeId>, depth: u8, onward: Option<u8>) -> Self {
        let (waiting, strangers) = (BTreeSet::new(), BTreeSet::new());
        Self { parent, depth, onward, waiting, strangers, complete: true }
    }

    /// Adds the peers that the copy is passed on to.
    pub(super) fn wait_for(&mut self, peers: impl Iterator<Item = AskedPeer>) {
        for peer in peers {
            let set = if peer.is_stranger { &mut self.strangers } else { &mut self.waiting };
            set.insert(peer.id);
        }
    }

    pub(super) fn waits_for(&self, peer: NodeId) -> bool {
        self.waiting.contains(&peer) || self.strangers.contains(&peer)
    }

    /// Returns the peers that have not said "done" yet.
    pub(super) fn all_waiting(&self) -> impl Iterator<Item = NodeId> {
        self.waiting.iter().chain(&self.strangers).copied()
    }

    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.strangers.is_empty()
    }

    /// Notes that no more answers of a peer are to come, and whether it has sent all of them.
    pub(super) fn peer_is_done(&mut self, peer: NodeId, complete: bool) {
        if self.waiting.remove(&peer) {
            self.complete &= complete;
        }
        self.strangers.remove(&peer);
    }

    /// Stops waiting for any peer. Returns those that had not said "done".
    pub(super) fn give_up(&mut self) -> impl Iterator<Item = NodeId> {
        self.complete &= self.waiting.is_empty();
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().chain(std::mem::take(&mut self.strangers))
    }
}
