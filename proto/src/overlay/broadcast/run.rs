//! The state of one run of an author: this node's progress, the links that are pruned, and the progress of
//! its peers.

use std::collections::BTreeMap;

use crate::frame::broadcast::Batch;
use crate::id::{Hash, NodeId, PublicKey};
use crate::time::Instant;

/// Number of peers in a run's notes from which on no further stranger is noted. Otherwise a thousand strangers could
/// make a node keep a thousand notes for each of thousands of runs. 64: some six times the links of an ordinary member.
const MAX_NOTED: usize = 64;

/// The state of one run of an author.
#[derive(Debug)]
pub(super) struct RunState {
    /// The number of the next broadcast to deliver; 0 while that is not known.
    pub(super) next: u64,
    /// The author's key, decoded when its second signature was checked. Many runs have one broadcast only, and
    /// a decoded key takes 200 bytes.
    pub(super) key: Option<Box<PublicKey>>,
    /// A signature of the author was checked. If false, the run is known only from summaries.
    pub(super) verified: bool,
    /// The link over which the run's first batch came, or its first summary while no batch has come. `None`
    /// for this node's own and restored runs, and once that link has ended.
    pub(super) from: Option<NodeId>,
    /// Time at which the last batch arrived.
    pub(super) active_at: Instant,
    /// Batches that wait for earlier ones, by their first number, with the ids of their broadcasts.
    pub(super) pending: BTreeMap<u64, (Batch, Vec<Hash>)>,
    /// Time since which batches wait in `pending`.
    pub(super) gap_since: Option<Instant>,
    /// The peers of which this node knows something, in the order of their ids. A sorted list, because a
    /// stranger can make thousands of runs, and a map would take 800 bytes for the first peer of each.
    peers: Vec<RunPeer>,
    /// The search for missing broadcasts, while a peer has more than this node.
    pub(super) missing: Option<Missing>,
}

/// What this node knows of a peer in one run.
#[derive(Debug)]
struct RunPeer {
    id: NodeId,
    /// The link is pruned: the peer receives the run from another node. Only summaries are sent to it.
    is_lazy: bool,
    /// The last new batch came from the peer, or the peer was asked to take the place of one whose link has ended.
    is_source: bool,
    /// The number up to which the peer has all broadcasts, if known.
    upto: Option<u64>,
}

/// The search for missing broadcasts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Missing {
    /// Time of the next step.
    pub(super) due: Instant,
    /// The peer that was asked last, and this node's progress at that time.
    pub(super) asked: Option<(NodeId, u64)>,
    /// Number of requests since the last batch arrived.
    pub(super) tries: usize,
}

impl RunState {
    pub(super) fn new(next: u64, now: Instant) -> Self {
        Self {
            next,
            key: None,
            verified: false,
            from: None,
            active_at: now,
            pending: BTreeMap::new(),
            gap_since: None,
            peers: Vec::new(),
            missing: None,
        }
    }

    /// Returns this node's progress: the number up to which no broadcast is missing.
    pub(super) fn upto(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    /// Returns whether something may be noted about a peer: always, unless it is a stranger and the run knows many
    /// peers. Nothing has to be: what is not known of a peer is sent to it again.
    pub(super) fn may_note(&self, peer: NodeId, is_stranger: bool) -> bool {
        !is_stranger || self.peers.len() < MAX_NOTED || self.position(peer).is_ok()
    }

    /// Returns whether the link with a peer is pruned.
    pub(super) fn is_lazy(&self, peer: NodeId) -> bool {
        self.peer(peer).is_some_and(|known| known.is_lazy)
    }

    /// Notes that a peer receives the run from another node.
    pub(super) fn prune(&mut self, peer: NodeId) {
        self.peer_mut(peer).is_lazy = true;
    }

    /// Notes that a peer receives the run from this node.
    pub(super) fn graft(&mut self, peer: NodeId) {
        if let Ok(at) = self.position(peer) {
            self.peers[at].is_lazy = false;
        }
    }

    /// Notes that a new batch came from a peer whose progress is known.
    pub(super) fn note_source(&mut self, source: NodeId) {
        self.peers.iter_mut().for_each(|peer| peer.is_source = peer.id == source);
    }

    /// Notes that a peer was asked to take the place of a source whose link has ended.
    pub(super) fn add_source(&mut self, peer: NodeId) {
        self.peer_mut(peer).is_source = true;
    }

    /// Returns whether new batches are expected from a peer.
    pub(super) fn is_source(&self, peer: NodeId) -> bool {
        self.peer(peer).is_some_and(|known| known.is_source)
    }

    /// Returns the peers with which the link is pruned.
    pub(super) fn lazy_peers(&self) -> Vec<NodeId> {
        self.peers.iter().filter(|peer| peer.is_lazy).map(|peer| peer.id).collect()
    }

    /// Returns the number up to which a peer has all broadcasts, if known.
    pub(super) fn progress(&self, peer: NodeId) -> Option<u64> {
        self.peer(peer)?.upto
    }

    /// Notes that a peer has all broadcasts up to a number.
    pub(super) fn note_progress(&mut self, peer: NodeId, upto: u64) {
        let known = &mut self.peer_mut(peer).upto;
        *known = (*known).max(Some(upto));
    }

    /// Notes that a peer has all broadcasts up to a number, and none after it.
    pub(super) fn set_progress(&mut self, peer: NodeId, upto: u64) {
        self.peer_mut(peer).upto = Some(upto);
    }

    /// Notes that a peer lacks the broadcasts after a number. Changes nothing if its progress is not known.
    pub(super) fn limit_progress(&mut self, peer: NodeId, upto: u64) {
        if let Ok(at) = self.position(peer) {
            let known = &mut self.peers[at].upto;
            *known = known.map(|known| known.min(upto));
        }
    }

    /// Forgets the progress of a peer.
    pub(super) fn forget_progress(&mut self, peer: NodeId) {
        if let Ok(at) = self.position(peer) {
            self.peers[at].upto = None;
        }
    }

    /// Forgets the progress of all peers that claim to have more than this node.
    pub(super) fn forget_claims(&mut self) {
        let wanted = self.next.max(1);
        for peer in &mut self.peers {
            peer.upto = peer.upto.filter(|upto| *upto < wanted);
        }
    }

    /// Returns the first peer whose progress is known.
    pub(super) fn first_source(&self) -> Option<NodeId> {
        self.peers.iter().find(|peer| peer.upto.is_some()).map(|peer| peer.id)
    }

    /// Returns whether a peer has more than this node.
    pub(super) fn is_behind(&self) -> bool {
        let wanted = self.next.max(1);
        self.peers.iter().any(|peer| peer.upto.is_some_and(|upto| upto >= wanted))
    }

    /// Returns the peer to ask for the missing broadcasts. The peers that have them take turns.
    pub(super) fn next_source(&self) -> Option<NodeId> {
        // The numbers start at 1. `next` is 0 for a run of which no batch has arrived.
        let wanted = self.next.max(1);
        let has_it = move |peer: &&RunPeer| peer.upto.is_some_and(|upto| upto >= wanted);
        let sources = || self.peers.iter().filter(has_it).map(|peer| peer.id);
        let last = self.missing.and_then(|missing| missing.asked).map(|(id, _)| id);
        sources().find(|id| Some(*id) > last).or_else(|| sources().next())
    }

    /// Returns whether all broadcasts of a batch were delivered, or wait to be.
    pub(super) fn holds(&self, batch: &Batch) -> bool {
        batch.last() < self.next
            || self.pending.get(&batch.first).is_some_and(|(held, _)| held.last() >= batch.last())
    }

    /// Forgets what is known of the peers if there are more than `max`. The next broadcast goes to all of them
    /// again, and those that receive it from another node prune the link.
    pub(super) fn forget_many_peers(&mut self, max: usize) {
        if self.peers.len() > max {
            self.peers = Vec::new();
        }
        self.peers.shrink_to_fit();
    }

    /// Forgets a peer whose link has ended.
    pub(super) fn forget(&mut self, peer: NodeId) {
        if let Ok(at) = self.position(peer) {
            self.peers.remove(at);
        }
    }

    /// Returns the position of a peer in the list; the position at which it belongs as an error.
    fn position(&self, id: NodeId) -> Result<usize, usize> {
        self.peers.binary_search_by_key(&id, |peer| peer.id)
    }

    fn peer(&self, id: NodeId) -> Option<&RunPeer> {
        self.peers.get(self.position(id).ok()?)
    }

    /// Returns the entry of a peer, which is added if there is none.
    fn peer_mut(&mut self, id: NodeId) -> &mut RunPeer {
        let at = self.position(id).unwrap_or_else(|at| {
            self.peers.insert(at, RunPeer { id, is_lazy: false, is_source: false, upto: None });
            at
        });
        &mut self.peers[at]
    }
}
