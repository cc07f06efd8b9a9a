//! The identity of this node, its names, and its network.

use std::sync::Mutex;

use peerkit_proto::address::Address;
use peerkit_proto::hello::{Hello, Proof, prove};
use peerkit_proto::id::{Key, NodeId};
use peerkit_proto::versions::Versions;

use crate::clock::unix_millis;
use crate::lock::lock;

/// The identity of a node and its network.
pub(crate) struct Profile {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) network: String,
    /// True if links are made by hand only.
    pub(crate) manual: bool,
    /// The network's secret, if it has one.
    pub(crate) secret: Option<Vec<u8>>,
    /// The key of the network's owner, if this node holds it.
    pub(crate) owner_key: Option<Key>,
    /// The network's owner, as far as this node knows.
    pub(crate) owner: Mutex<Option<NodeId>>,
    /// A random number that is another one in each run.
    pub(crate) incarnation: u64,
}

impl Profile {
    /// Returns this node's Hello for a connection, with the addresses that it announces there.
    pub(crate) fn hello(&self, binding: &[u8; 32], addresses: Vec<Address>) -> Hello {
        Hello {
            version_min: Versions::OURS.min,
            version_max: Versions::OURS.max,
            network: self.network.clone(),
            name: self.name.clone(),
            incarnation: self.incarnation,
            features: 0,
            addresses,
            proof: self.prove(binding, self.id),
            owner: self.owner(),
            time: Some(unix_millis()),
        }
    }

    /// Returns the proof of knowing the network's secret that `sender` has to give; `None` without a
    /// secret.
    pub(crate) fn prove(&self, binding: &[u8; 32], sender: NodeId) -> Option<Proof> {
        self.secret.as_deref().map(|secret| prove(secret, binding, sender))
    }

    /// Returns the network's owner, as far as this node knows.
    pub(crate) fn owner(&self) -> Option<NodeId> {
        *lock(&self.owner)
    }

    /// Takes `owner` for the network's owner if none is known yet. Returns whether it did. An identity
    /// that no node can hold is not taken, as no other would be from then on.
    pub(crate) fn learn_owner(&self, owner: NodeId) -> bool {
        let mut known = lock(&self.owner);
        let is_taken = known.is_none() && owner.is_public_key();
        if is_taken {
            *known = Some(owner);
        }
        is_taken
    }
}
