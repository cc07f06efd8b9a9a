//! The overlay: what a node knows and does about the network around it.

use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::id::NodeId;

/// A node of the network and its neighbours, as it told of itself in answer to a discovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its identity.
    pub id: NodeId,
    /// What it calls itself.
    pub name: String,
    /// Where it can be dialled, as far as it knows.
    pub addresses: Vec<Address>,
    /// The nodes that it has dialled.
    pub outbound: Vec<Neighbour>,
    /// The nodes that have dialled it.
    pub inbound: Vec<Neighbour>,
}

/// The other end of one of a node's links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its identity.
    pub id: NodeId,
    /// Where it can be dialled, else where it connected from.
    pub address: Address,
}
