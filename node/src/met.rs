//! Peers that were met and are not in the store yet: those that come while others are written go in
//! together.

use std::collections::BTreeMap;

use peerkit_proto::id::NodeId;
use tokio::sync::watch;

use crate::store::KnownPeer;

/// Peers that wait to be written, one for each node at most. Clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Met(watch::Sender<State>);

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<NodeId, KnownPeer>,
    /// Somebody is at work on it.
    writing: bool,
}

impl Met {
    /// Adds one; true where the caller has to write, until [`Met::take`] has nothing more.
    pub(crate) fn add(&self, id: NodeId, known: KnownPeer) -> bool {
        let mut writing = true;
        self.0.send_modify(|met| {
            writing = met.writing;
            met.writing = true;
            met.waiting.insert(id, known);
        });
        !writing
    }

    /// Takes what is to be written next. Where that is nothing the next who adds one has to write.
    pub(crate) fn take(&self) -> Option<Vec<(NodeId, KnownPeer)>> {
        let mut peers = Vec::new();
        self.0.send_modify(|met| {
            peers = std::mem::take(&mut met.waiting).into_iter().collect();
            met.writing = !peers.is_empty();
        });
        Some(peers).filter(|peers| !peers.is_empty())
    }

    /// Waits until all that were met by now are written.
    pub(crate) async fn written(&self) {
        // The sender is ours, so it is not gone.
        let _ = self.0.subscribe().wait_for(|met| !met.writing).await;
    }
}
