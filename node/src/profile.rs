//! The identity of this node and its network.

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
    /// True if only the application makes links.
    pub(crate) manual: bool,
    /// The network's secret, if it has one.
    pub(crate) secret: Option<Vec<u8>>,
    /// The key of the network's owner, if this node holds it.
    pub(crate) owner_key: Option<Key>,
    /// The identity of the network's owner, if this node knows it.
    pub(crate) owner: Mutex<Option<NodeId>>,
    /// A random number that differs in each run of the node.
    pub(crate) incarnation: u64,
}

impl Profile {
    /// Returns this node's Hello for one connection. `addresses` are the addresses that it announces, and `features`
    /// its optional features.
    pub(crate) fn hello(
        &self,
        binding: &[u8; 32],
        addresses: Vec<Address>,
        features: u64,
    ) -> Hello {
        Hello {
            version_min: Versions::OURS.min,
            version_max: Versions::OURS.max,
            network: self.network.clone(),
            name: self.name.clone(),
            incarnation: self.incarnation,
            features,
            addresses,
            proof: self.prove(binding, self.id),
            owner: self.owner(),
            time: Some(unix_millis()),
            // Set for each connection, because it may change.
            membership: None,
        }
    }

    /// Returns the proof by which `sender` shows that it knows the network's secret; `None` if the network
    /// has no secret.
    pub(crate) fn prove(&self, binding: &[u8; 32], sender: NodeId) -> Option<Proof> {
        self.secret.as_deref().map(|secret| prove(secret, binding, sender))
    }

    /// Returns the identity of the network's owner, if this node knows it.
    pub(crate) fn owner(&self) -> Option<NodeId> {
        *lock(&self.owner)
    }

    /// Accepts `owner` as the network's owner if no owner is known. Returns whether it was accepted. An
    /// identity that is not a valid public key is not accepted, because it would keep out the real owner for
    /// good.
    pub(crate) fn learn_owner(&self, owner: NodeId) -> bool {
        let mut known = lock(&self.owner);
        let is_accepted = known.is_none() && owner.is_public_key();
        if is_accepted {
            *known = Some(owner);
        }
        is_accepted
    }
}
