//! The network as a graph of nodes and links, its figures, and its pictures and file formats.

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

/// Version of the JSON form. It changes only if readers of the present form would misread the new one. New
/// fields do not change it.
const MAP_VERSION: u32 = 1;

/// The nodes and links of a network, as a discovery has found them: see [`NetworkHandle::graph`].
///
/// [`NetworkGraph::figures`] computes its figures. It can be written as SVG, DOT, GraphML, JSON or text. The
/// JSON is the node-link form of NetworkX, with `from` and `to` for the ends of a link, and the `version` of
/// the form in `graph`.
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
#[non_exhaustive]
pub struct NetworkNode {
    /// The identity of the node.
    pub id: NodeId,
    /// The name of the node; empty if it did not answer.
    pub name: String,
    /// An address at which the node may be dialled, if one is known.
    pub address: Option<String>,
    /// True if the node answered the discovery. A node that did not is known only as the end of a link.
    pub answered: bool,
    /// True for the node that ran the discovery.
    // Not named `self`, which NetworkX would take for an argument of its own.
    pub is_self: bool,
}

/// A link, from the node that dialled to the one that was dialled.
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
    /// True if each has dialled the other.
    both: bool,
}

impl NetworkGraph {
    /// Builds the graph of the network `name` from a discovery.
    #[must_use]
    pub fn new(name: &str, discovery: &Discovery) -> Self {
        let Discovery { nodes, complete, elapsed } = discovery;
        Self { complete: *complete, elapsed: *elapsed, ..Self::of(name, nodes) }
    }

    /// Builds the graph from the answers of nodes. The first is the node that ran the discovery.
    fn of(name: &str, infos: &[NodeInfo]) -> Self {
        let mut nodes = BTreeMap::new();
        let mut edges = BTreeSet::new();
        let mut order = Vec::new();
        for info in infos {
            let outbound = info.outbound.iter().map(|other| (other, info.id, other.id));
            let inbound = info.inbound.iter().map(|other| (other, other.id, info.id));
            // A link of a node with itself is not a link, though a liar may announce one.
            let links = outbound.chain(inbound).filter(|(_, from, to)| from != to);
            for (other, from, to) in links {
                edges.insert(Edge { from, to });
                // Known from its neighbour alone for now. Its own answer replaces this below.
                nodes.entry(other.id).or_insert_with(|| {
                    order.push(other.id);
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
        let silent = order.into_iter();
        let mut seen = BTreeSet::new();
        let nodes = answered
            .chain(silent)
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

    /// Returns the links, as pairs of the node that dialled and the one that was dialled. A pair that has
    /// dialled each other is there twice.
    pub fn edges(&self) -> impl Iterator<Item = (NodeId, NodeId)> {
        self.edges.iter().map(|edge| (edge.from, edge.to))
    }

    /// Returns the number of links. A pair that has dialled each other counts once.
    #[must_use]
    pub fn links(&self) -> usize {
        self.pairs().len()
    }

    /// Returns whether every node that the discovery queried has answered.
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
    /// with `from` and `to` for the ends of a link. `serde` serializes it to the same form.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Cannot fail: strings, booleans and lists of them always have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Writes the network as a list for people: each node with the links that it dialled. Control characters
    /// in names are escaped.
    #[must_use]
    pub fn to_text(&self) -> String {
        let names: BTreeMap<NodeId, String> =
            self.nodes.iter().map(|node| (node.id, label(&node.id, &node.name))).collect();
        let mut made: BTreeMap<NodeId, Vec<&String>> = BTreeMap::new();
        for edge in &self.edges {
            made.entry(edge.from).or_default().extend(names.get(&edge.to));
        }
        let mut text = String::new();
        for node in &self.nodes {
            let name = &names[&node.id];
            let address = node.address.as_deref().unwrap_or("no address");
            let who = if node.is_self { ", this node" } else { "" };
            let silent = if node.answered { "" } else { ", no answer" };
            let _ = writeln!(text, "{name}  {address}{who}{silent}");
            let made = made.get(&node.id).map_or(&[][..], Vec::as_slice);
            for (index, other) in made.iter().enumerate() {
                let last = index + 1 == made.len();
                let branch = if last { "└─▶" } else { "├─▶" };
                let _ = writeln!(text, "  {branch} {other}");
            }
        }
        text
    }

    /// Returns every pair of linked nodes once.
    fn pairs(&self) -> Vec<NodePair> {
        let places = self.nodes.iter().enumerate().map(|(place, node)| (node.id, place));
        let places: BTreeMap<NodeId, usize> = places.collect();
        let edges = self.edges.iter().filter_map(|edge| {
            let back = Edge { from: edge.to, to: edge.from };
            // The edges are sorted, as they come from a set.
            let both = self.edges.binary_search(&back).is_ok();
            // The pair was counted with the other direction.
            if both && back < *edge {
                return None;
            }
            Some(NodePair { from: *places.get(&edge.from)?, to: *places.get(&edge.to)?, both })
        });
        edges.collect()
    }

    fn neighbours(&self) -> Neighbours {
        Neighbours::new(self.nodes.len(), self.pairs().iter().map(|link| (link.from, link.to)))
    }
}

/// The fields of the JSON form for the network as a whole.
#[derive(Serialize)]
struct Graph<'n> {
    network: &'n str,
    version: u32,
}

impl Serialize for NetworkGraph {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut network = serializer.serialize_struct("NetworkGraph", 5)?;
        network.serialize_field("directed", &true)?;
        network.serialize_field("multigraph", &false)?;
        network.serialize_field("graph", &Graph { network: &self.name, version: MAP_VERSION })?;
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
        NetworkGraph::of("", infos)
    }

    /// Returns the answers of nodes 0 to `n`, with each link in the answers of both of its ends.
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
        NetworkGraph::of("<net\u{0}>", &infos[..1])
    }

    #[test]
    fn a_pair_that_both_dialled_is_one_link() {
        let network = network_of(&infos(3, &[(0, 1), (1, 0), (2, 1)]));
        let expected =
            [NodePair { from: 0, to: 1, both: true }, NodePair { from: 2, to: 1, both: false }];
        assert_eq!(network.pairs(), expected);
        assert_eq!(network.links(), 2);
    }

    #[test]
    fn a_link_with_oneself_is_none() {
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
    fn the_first_to_answer_is_this_node() {
        let mut infos = infos(3, &[(0, 1), (1, 2)]);
        infos.rotate_left(1);
        let network = network_of(&infos);
        let selves = network.nodes.iter().filter(|node| node.is_self);
        assert_eq!(selves.map(|node| node.id).collect::<Vec<_>>(), [id(1)]);
        assert_eq!(network.to_text().matches("this node").count(), 1);
    }

    #[test]
    fn every_link_is_drawn() {
        let drawing = network_of(&infos(3, &[(0, 1), (0, 2)])).to_text();
        assert!(drawing.contains("├─▶ n1") && drawing.contains("└─▶ n2"), "{drawing}");
    }

    #[test]
    fn json_has_the_node_link_form() {
        let network = NetworkGraph::of("net", &infos(2, &[(1, 0)])[..1]);
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
