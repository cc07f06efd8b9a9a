//! The graph of a network: its nodes and links, the figures computed from it, and its output as pictures and
//! files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use peerkit_proto::event::NodeInfo;
use peerkit_proto::id::NodeId;
use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use crate::node::Discovery;

use neighbours::Neighbours;
use text::label;

pub use figures::{Degrees, Figures};

mod dot;
mod figures;
mod graphml;
mod labels;
mod layout;
mod neighbours;
mod picture;
mod pivots;
mod shapes;
mod svg;
mod text;

/// Version of the JSON form. It changes only if programs that read the present form would misread the new
/// one. New fields do not change it.
const JSON_VERSION: u32 = 1;

/// The nodes and links that a discovery has found in a network: see [`NetworkHandle::graph`].
///
/// [`NetworkGraph::figures`] computes figures such as the diameter. The graph can be written as SVG, DOT,
/// GraphML, JSON or text. The JSON is the node-link form of NetworkX, with `from` and `to` for the ends of a
/// link. Its object `graph` contains the `version` of the form.
///
/// ```
/// use peerkit::Node;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), peerkit::Error> {
/// let ann = Node::builder().name("ann").listen("127.0.0.1:0").spawn().await?;
/// let bob = Node::builder().name("bob").spawn().await?;
/// bob.connect(ann.listening()[0]).await?;
///
/// let network = bob.network().graph().await?;
/// let figures = network.figures();
/// assert_eq!((figures.nodes, figures.links, figures.diameter), (2, 1, 1));
/// assert!(network.to_svg().contains("ann"));
/// # ann.shutdown().await; bob.shutdown().await; Ok(()) }
/// ```
///
/// [`NetworkHandle::graph`]: crate::NetworkHandle::graph
#[derive(Debug, Clone, Default)]
pub struct NetworkGraph {
    name: String,
    nodes: Vec<NetworkNode>,
    edges: Vec<Edge>,
    complete: bool,
    elapsed: Duration,
}

/// A node of a [`NetworkGraph`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct NetworkNode {
    /// The identity of the node.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub id: NodeId,
    /// The name of the node; empty if it did not answer.
    pub name: String,
    /// An address at which the node may be dialled, if one is known.
    pub address: Option<String>,
    /// True if the node answered the discovery. A node that did not answer is known only from the link that
    /// another node reported.
    pub answered: bool,
    /// True for the node that ran the discovery.
    // Not named `self`: NetworkX would pass such a field as an argument named `self` and fail.
    pub is_self: bool,
}

/// A link, from the node that dialled to the node that it dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Edge {
    from: NodeId,
    to: NodeId,
}

/// A pair of linked nodes, by their indices in the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NodePair {
    /// The node that dialled.
    from: usize,
    to: usize,
    /// True if each of the two nodes has dialled the other.
    both_dialled: bool,
}

impl NetworkGraph {
    /// Builds the graph of the network `name` from a discovery.
    #[must_use]
    pub fn new(name: &str, discovery: &Discovery) -> Self {
        let Discovery { nodes, complete, elapsed } = discovery;
        Self { complete: *complete, elapsed: *elapsed, ..Self::from_infos(name, nodes) }
    }

    /// Builds the graph from the answers of nodes. The first answer is that of the node that ran the
    /// discovery.
    fn from_infos(name: &str, infos: &[NodeInfo]) -> Self {
        let mut nodes = BTreeMap::new();
        let mut edges = BTreeSet::new();
        let mut reported = Vec::new();
        for info in infos {
            let outbound = info.outbound.iter().map(|other| (other, info.id, other.id));
            let inbound = info.inbound.iter().map(|other| (other, other.id, info.id));
            // A malicious node may report a link with itself. It is left out.
            let links = outbound.chain(inbound).filter(|(_, from, to)| from != to);
            for (other, from, to) in links {
                edges.insert(Edge { from, to });
                // Only its neighbour has reported this node so far. If the node answered too, the loop below
                // replaces this entry.
                nodes.entry(other.id).or_insert_with(|| {
                    reported.push(other.id);
                    NetworkNode {
                        id: other.id,
                        name: String::new(),
                        address: Some(other.address.clone().without_id().to_string()),
                        answered: false,
                        is_self: false,
                    }
                });
            }
        }
        for (index, info) in infos.iter().enumerate() {
            let address = info.addresses.first().cloned();
            let node = NetworkNode {
                id: info.id,
                name: info.name.clone(),
                address: address.map(|address| address.without_id().to_string()),
                answered: true,
                is_self: index == 0,
            };
            nodes.insert(info.id, node);
        }
        let mut answered: Vec<&NodeInfo> = infos.iter().collect();
        answered.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        let answered = answered.into_iter().map(|info| info.id);
        let mut seen = BTreeSet::new();
        let nodes = answered
            .chain(reported)
            .filter(|id| seen.insert(*id))
            .filter_map(|id| nodes.remove(&id))
            .collect();
        let edges = edges.into_iter().collect();
        Self { name: name.to_owned(), nodes, edges, ..Self::default() }
    }

    /// Returns the network's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the nodes: those that answered in the order of their names, then the others.
    #[must_use]
    pub fn nodes(&self) -> &[NetworkNode] {
        &self.nodes
    }

    /// Returns each link as a pair: the node that dialled, then the node that it dialled. If two nodes have
    /// dialled each other, both pairs are returned.
    pub fn edges(&self) -> impl Iterator<Item = (NodeId, NodeId)> {
        self.edges.iter().map(|edge| (edge.from, edge.to))
    }

    /// Returns the number of links. Two nodes that have dialled each other count as one link.
    #[must_use]
    pub fn links(&self) -> usize {
        self.pairs().len()
    }

    /// Returns whether all nodes within the depth of the discovery have answered in time.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Returns how long the discovery took.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Writes the network as JSON on one line, without a line end: the node-link form of NetworkX,
    /// with `from` and `to` for the ends of a link. The implementation of `Serialize` gives the same form.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Cannot fail: strings, booleans and lists of them always have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Writes the network as a list for people to read: each node, followed by the nodes that it dialled.
    /// Control characters in names are escaped.
    #[must_use]
    pub fn to_text(&self) -> String {
        let names: BTreeMap<NodeId, String> =
            self.nodes.iter().map(|node| (node.id, label(&node.id, &node.name))).collect();
        let mut dialled: BTreeMap<NodeId, Vec<&String>> = BTreeMap::new();
        for edge in &self.edges {
            dialled.entry(edge.from).or_default().extend(names.get(&edge.to));
        }
        let mut text = String::new();
        for node in &self.nodes {
            let name = &names[&node.id];
            let address = node.address.as_deref().unwrap_or("no address");
            let self_note = if node.is_self { ", this node" } else { "" };
            let silent_note = if node.answered { "" } else { ", no answer" };
            let _ = writeln!(text, "{name}  {address}{self_note}{silent_note}");
            let dialled = dialled.get(&node.id).map_or(&[][..], Vec::as_slice);
            for (index, other) in dialled.iter().enumerate() {
                let is_last = index + 1 == dialled.len();
                let branch = if is_last { "└─▶" } else { "├─▶" };
                let _ = writeln!(text, "  {branch} {other}");
            }
        }
        text
    }

    /// Returns every pair of linked nodes once.
    fn pairs(&self) -> Vec<NodePair> {
        let indices = self.nodes.iter().enumerate().map(|(index, node)| (node.id, index));
        let indices: BTreeMap<NodeId, usize> = indices.collect();
        let edges = self.edges.iter().filter_map(|edge| {
            let back = Edge { from: edge.to, to: edge.from };
            // The binary search works because the edges come from a set, so they are sorted.
            let both_dialled = self.edges.binary_search(&back).is_ok();
            // The smaller of the two edges already stands for this pair.
            if both_dialled && back < *edge {
                return None;
            }
            Some(NodePair {
                from: *indices.get(&edge.from)?,
                to: *indices.get(&edge.to)?,
                both_dialled,
            })
        });
        edges.collect()
    }

    fn neighbours(&self) -> Neighbours {
        Neighbours::new(self.nodes.len(), self.pairs().iter().map(|link| (link.from, link.to)))
    }
}

/// The object `graph` of the JSON form. Its fields describe the network as a whole.
#[derive(Serialize)]
struct GraphFields<'n> {
    network: &'n str,
    version: u32,
}

impl Serialize for NetworkGraph {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut network = serializer.serialize_struct("NetworkGraph", 5)?;
        network.serialize_field("directed", &true)?;
        network.serialize_field("multigraph", &false)?;
        network.serialize_field(
            "graph",
            &GraphFields { network: &self.name, version: JSON_VERSION },
        )?;
        network.serialize_field("nodes", &self.nodes)?;
        network.serialize_field("edges", &self.edges)?;
        network.end()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use peerkit_proto::event::Neighbour;

    pub(super) fn id(n: u16) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    pub(super) fn network_of(infos: &[NodeInfo]) -> NetworkGraph {
        NetworkGraph::from_infos("", infos)
    }

    /// Returns the answers of `n` nodes. Both ends of each link report it.
    pub(super) fn infos(n: u16, links: &[(u16, u16)]) -> Vec<NodeInfo> {
        let end = |n: u16| Neighbour {
            id: id(n),
            address: format!("127.0.0.1:{}", 1000 + n).parse().unwrap(),
        };
        let info = |node| NodeInfo {
            id: id(node),
            name: format!("n{node}"),
            addresses: vec![end(node).address],
            outbound: Vec::new(),
            inbound: Vec::new(),
        };
        let mut infos: Vec<NodeInfo> = (0..n).map(info).collect();
        for (from, to) in links {
            infos[usize::from(*from)].outbound.push(end(*to));
            infos[usize::from(*to)].inbound.push(end(*from));
        }
        infos
    }

    /// Returns a graph of two nodes: the first has a malicious name, the second did not answer.
    pub(super) fn hostile() -> NetworkGraph {
        let mut infos = infos(2, &[(0, 1)]);
        infos[0].name = "a\"; b \\\n\u{1b}[31m<x y='&amp;'>\u{202e}\u{ffff}]]>".into();
        NetworkGraph::from_infos("<net\u{0}>", &infos[..1])
    }

    #[test]
    fn two_nodes_that_dialled_each_other_have_one_link() {
        let network = network_of(&infos(3, &[(0, 1), (1, 0), (2, 1)]));
        let expected = [
            NodePair { from: 0, to: 1, both_dialled: true },
            NodePair { from: 2, to: 1, both_dialled: false },
        ];
        assert_eq!(network.pairs(), expected);
        assert_eq!(network.links(), 2);
    }

    #[test]
    fn a_link_of_a_node_with_itself_is_left_out() {
        let network = network_of(&infos(1, &[(0, 0)]));
        assert_eq!((network.nodes.len(), network.links()), (1, 0));
    }

    #[test]
    fn a_neighbour_that_did_not_answer_is_in_the_graph() {
        let network = network_of(&infos(3, &[(0, 1), (1, 2)])[..2]);
        assert_eq!(network.nodes.len(), 3);
        assert!(!network.nodes[2].answered);
        assert!(network.to_text().contains("no answer"));
        assert_eq!(network.links(), 2);
    }

    #[test]
    fn the_first_answer_is_that_of_this_node() {
        let mut infos = infos(3, &[(0, 1), (1, 2)]);
        infos.rotate_left(1);
        let network = network_of(&infos);
        let selves = network.nodes.iter().filter(|node| node.is_self);
        assert_eq!(selves.map(|node| node.id).collect::<Vec<_>>(), [id(1)]);
        assert_eq!(network.to_text().matches("this node").count(), 1);
    }

    #[test]
    fn the_text_shows_every_link() {
        let text = network_of(&infos(3, &[(0, 1), (0, 2)])).to_text();
        assert!(text.contains("├─▶ n1") && text.contains("└─▶ n2"), "{text}");
    }

    #[test]
    fn json_has_the_node_link_form() {
        let network = NetworkGraph::from_infos("net", &infos(2, &[(1, 0)])[..1]);
        let expected = serde_json::json!({
            "directed": true,
            "multigraph": false,
            "graph": {"network": "net", "version": 1},
            "nodes": [
                {"id": id(0), "name": "n0", "address": "127.0.0.1:1000",
                 "answered": true, "is_self": true},
                {"id": id(1), "name": "", "address": "127.0.0.1:1001",
                 "answered": false, "is_self": false},
            ],
            "edges": [{"from": id(1), "to": id(0)}],
        });
        assert_eq!(serde_json::json!(network), expected);
        let text: serde_json::Value = serde_json::from_str(&network.to_json()).unwrap();
        assert_eq!(text, expected);
        assert!(!network.to_json().contains('\n'));
    }
}
