//! Peers, nodes and files as results and events show them.

use std::collections::HashMap;

use peerkit::{Address, Discovery, KnownPeer, Neighbour, Node, NodeId, NodeInfo, Peer};
use serde::Serialize;
use utoipa::ToSchema;

use crate::text;

mod files;

pub(crate) use files::{FetchedView, FileView, FoundView, ShareFileView, ShareView, SkippedView};

/// A peer, as it is now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct PeerView {
    #[schema(value_type = String)]
    pub(crate) id: NodeId,
    pub(crate) name: String,
    /// `None` if there is no link. Then the direction is `None` as well.
    pub(crate) address: Option<String>,
    pub(crate) direction: Option<&'static str>,
    /// `None` until it was measured.
    pub(crate) rtt_ms: Option<f64>,
    /// Time of the last bytes from it, in milliseconds since 1970. Only `peers` has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_seen: Option<u64>,
}

impl PeerView {
    pub(crate) fn new(node: &Node, peer: &Peer) -> Self {
        let address = || peer.address().clone().without_id().to_string();
        Self {
            id: peer.id(),
            name: peer.name().to_owned(),
            address: peer.is_linked().then(address),
            direction: peer.is_linked().then(|| peer.direction().name()),
            rtt_ms: node.rtt(peer.id()).map(text::millis),
            last_seen: None,
        }
    }

    /// Adds the time at which the last bytes came from the peer.
    pub(crate) fn with_last_seen(self, node: &Node) -> Self {
        let last_seen = node.idle_time(self.id).map(text::unix_millis_ago);
        Self { last_seen, ..self }
    }

    /// Returns the name and the first digits of the peer, made safe for a terminal.
    pub(crate) fn label(&self) -> String {
        text::label(&self.id, &self.name)
    }

    /// Returns the address of the peer, or a text that it has none.
    pub(crate) fn address_or_none(&self) -> &str {
        self.address.as_deref().unwrap_or(text::NO_ADDRESS)
    }
}

/// A known node.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct KnownView {
    #[schema(value_type = String)]
    pub(crate) id: NodeId,
    pub(crate) name: String,
    /// The first of `addresses`.
    pub(crate) address: Option<String>,
    pub(crate) addresses: Vec<String>,
    /// Milliseconds since 1970.
    pub(crate) last_seen: u64,
}

impl From<(NodeId, KnownPeer)> for KnownView {
    fn from((id, known): (NodeId, KnownPeer)) -> Self {
        let KnownPeer { name, addresses, last_seen, .. } = known;
        let addresses = without_ids(addresses);
        Self { id, name, address: addresses.first().cloned(), addresses, last_seen }
    }
}

/// Returns addresses as text, without the identities of their nodes.
pub(crate) fn without_ids(addresses: impl IntoIterator<Item = Address>) -> Vec<String> {
    addresses.into_iter().map(|address| address.without_id().to_string()).collect()
}

/// The result of a ping.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PingView {
    pub(crate) peer: PeerView,
    /// `None` if no answer came.
    pub(crate) rtt_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// A node of a discovery.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct NodeView {
    #[schema(value_type = String)]
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) address: Option<String>,
    #[schema(value_type = Vec<String>)]
    pub(crate) outbound: Vec<NodeId>,
    #[schema(value_type = Vec<String>)]
    pub(crate) inbound: Vec<NodeId>,
    pub(crate) outbound_nodes: Vec<NeighbourView>,
    pub(crate) inbound_nodes: Vec<NeighbourView>,
}

/// The other end of a link of a discovered node.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct NeighbourView {
    #[schema(value_type = String)]
    pub(crate) id: NodeId,
    /// Empty if this node does not know the name.
    pub(crate) name: String,
    pub(crate) address: String,
}

impl NodeView {
    /// Returns all nodes of a discovery. The names of neighbours are those that the discovery found,
    /// else those that this node knows.
    pub(crate) fn all(node: &Node, discovery: &Discovery) -> Vec<Self> {
        let names: HashMap<NodeId, &str> =
            discovery.nodes.iter().map(|info| (info.id, info.name.as_str())).collect();
        let name = |id| names.get(&id).map(|name| (*name).to_owned()).or_else(|| name_of(node, id));
        discovery.nodes.iter().map(|info| Self::new(info, &name)).collect()
    }

    /// Returns one node of a discovery. The names of its neighbours are those that this node knows.
    pub(crate) fn one(node: &Node, info: &NodeInfo) -> Self {
        Self::new(info, &|id| name_of(node, id))
    }

    fn new(info: &NodeInfo, name: &dyn Fn(NodeId) -> Option<String>) -> Self {
        let ids = |neighbours: &[Neighbour]| neighbours.iter().map(|other| other.id).collect();
        let views = |neighbours: &[Neighbour]| {
            let view = |other: &Neighbour| NeighbourView {
                id: other.id,
                name: name(other.id).unwrap_or_default(),
                address: other.address.clone().without_id().to_string(),
            };
            neighbours.iter().map(view).collect()
        };
        Self {
            id: info.id,
            name: info.name.clone(),
            address: without_ids(info.addresses.first().cloned()).pop(),
            outbound: ids(&info.outbound),
            inbound: ids(&info.inbound),
            outbound_nodes: views(&info.outbound),
            inbound_nodes: views(&info.inbound),
        }
    }
}

/// Returns the name of this node, or of a node that it has a link with.
fn name_of(node: &Node, id: NodeId) -> Option<String> {
    if id == node.id() {
        return Some(node.name().to_owned());
    }
    node.peer(id).map(|peer| peer.name().to_owned())
}

/// A map of the network, in the node-link format of NetworkX.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(crate) struct MapView {
    directed: bool,
    multigraph: bool,
    graph: MapAttributes,
    nodes: Vec<peerkit::NetworkNode>,
    edges: Vec<MapEdge>,
}

/// The attributes of a map.
#[derive(ToSchema)]
#[allow(dead_code)]
struct MapAttributes {
    /// The name of the network.
    network: String,
    /// The version of this format.
    version: u32,
}

/// A link, from the node that dialled to the other.
#[derive(ToSchema)]
#[allow(dead_code)]
struct MapEdge {
    from: String,
    to: String,
}
