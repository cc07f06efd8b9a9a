//! The network as a graph: who is linked with whom, drawn and measured.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use peerkit::{NodeId, NodeInfo};
use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use crate::text::label;

use neighbours::Neighbours;

mod dot;
mod graphml;
mod labels;
mod layout;
pub(crate) mod measure;
mod neighbours;
mod picture;
mod pivots;
mod shapes;
mod svg;
mod xml;

/// The nodes and links that a discovery told of.
///
/// Its JSON is the node-link form of NetworkX, with `from` and `to` for the ends of a link.
#[derive(Debug, Clone, Default)]
pub(crate) struct Graph {
    /// The network's name; empty where nobody asked for it.
    network: String,
    nodes: Vec<GraphNode>,
    edges: Vec<Edge>,
}

/// A node of the graph.
#[derive(Debug, Clone, Serialize)]
struct GraphNode {
    id: NodeId,
    /// Empty where it did not answer itself.
    name: String,
    address: Option<String>,
    /// Whether it answered, or is only known as the other end of a link.
    answered: bool,
    /// Whether it is the node that asked. Not `self`, which NetworkX takes for its own argument.
    is_self: bool,
}

/// A link, from the node that dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Edge {
    from: NodeId,
    to: NodeId,
}

/// A pair of linked nodes, by their places in the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Link {
    /// The one that dialled.
    from: usize,
    to: usize,
    /// Whether each has dialled the other.
    both: bool,
}

impl Graph {
    /// Builds the graph out of what the nodes told of themselves, the asking node first.
    pub(crate) fn new(infos: &[NodeInfo]) -> Self {
        let mut nodes = BTreeMap::new();
        let mut edges = BTreeSet::new();
        let mut order = Vec::new();
        for info in infos {
            let outbound = info.outbound.iter().map(|other| (other, info.id, other.id));
            let inbound = info.inbound.iter().map(|other| (other, other.id, info.id));
            // A node that tells of a link with itself has none there.
            let told = outbound.chain(inbound).filter(|(_, from, to)| from != to);
            for (other, from, to) in told {
                edges.insert(Edge { from, to });
                nodes.entry(other.id).or_insert_with(|| {
                    order.push(other.id);
                    GraphNode {
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
            let node = GraphNode {
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
        Self { network: String::new(), nodes, edges: edges.into_iter().collect() }
    }

    /// The same graph, of the network of that name.
    pub(crate) fn of_network(self, name: &str) -> Self {
        Self { network: name.to_owned(), ..self }
    }

    /// Links: a pair of nodes counts once, whoever dialled.
    pub(crate) fn links(&self) -> usize {
        self.pairs().len()
    }

    /// The graph as a list that a person can follow: each node with the links it made.
    pub(crate) fn drawing(&self) -> String {
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

    /// Every pair of linked nodes once.
    fn pairs(&self) -> Vec<Link> {
        let places = self.nodes.iter().enumerate().map(|(place, node)| (node.id, place));
        let places: BTreeMap<NodeId, usize> = places.collect();
        let edges = self.edges.iter().filter_map(|edge| {
            let back = Edge { from: edge.to, to: edge.from };
            let both = self.edges.binary_search(&back).is_ok();
            if both && back < *edge {
                return None;
            }
            Some(Link { from: *places.get(&edge.from)?, to: *places.get(&edge.to)?, both })
        });
        edges.collect()
    }

    fn neighbours(&self) -> Neighbours {
        Neighbours::new(self.nodes.len(), self.pairs().iter().map(|link| (link.from, link.to)))
    }
}

impl Serialize for Graph {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut graph = serializer.serialize_struct("Graph", 5)?;
        graph.serialize_field("directed", &true)?;
        graph.serialize_field("multigraph", &false)?;
        graph.serialize_field("graph", &BTreeMap::from([("network", &self.network)]))?;
        graph.serialize_field("nodes", &self.nodes)?;
        graph.serialize_field("edges", &self.edges)?;
        graph.end()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use peerkit::Neighbour;

    pub(super) fn id(n: u16) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    /// Nodes 0 to `n` that all answered, each link told by both of its ends.
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

    /// Two nodes: the first has a name that nobody should have, the second did not answer.
    pub(super) fn hostile() -> Graph {
        let mut infos = infos(2, &[(0, 1)]);
        infos[0].name = "a\"; b \\\n\u{1b}[31m<x y='&amp;'>\u{202e}\u{ffff}]]>".into();
        Graph::new(&infos[..1]).of_network("<net\u{0}>")
    }

    #[test]
    fn a_pair_that_both_dialled_is_one_link() {
        let graph = Graph::new(&infos(3, &[(0, 1), (1, 0), (2, 1)]));
        let expected = [Link { from: 0, to: 1, both: true }, Link { from: 2, to: 1, both: false }];
        assert_eq!(graph.pairs(), expected);
        assert_eq!(graph.links(), 2);
    }

    #[test]
    fn a_link_with_oneself_is_none() {
        let graph = Graph::new(&infos(1, &[(0, 0)]));
        assert_eq!((graph.nodes.len(), graph.links()), (1, 0));
    }

    #[test]
    fn a_neighbour_that_did_not_answer_is_in_the_graph() {
        let graph = Graph::new(&infos(3, &[(0, 1), (1, 2)])[..2]);
        assert_eq!(graph.nodes.len(), 3);
        assert!(!graph.nodes[2].answered);
        assert!(graph.drawing().contains("no answer"));
        assert_eq!(graph.links(), 2);
    }

    #[test]
    fn the_first_to_answer_is_this_node() {
        let mut infos = infos(3, &[(0, 1), (1, 2)]);
        infos.rotate_left(1);
        let graph = Graph::new(&infos);
        let selves = graph.nodes.iter().filter(|node| node.is_self);
        assert_eq!(selves.map(|node| node.id).collect::<Vec<_>>(), [id(1)]);
        assert_eq!(graph.drawing().matches("this node").count(), 1);
    }

    #[test]
    fn every_link_is_drawn() {
        let drawing = Graph::new(&infos(3, &[(0, 1), (0, 2)])).drawing();
        assert!(drawing.contains("├─▶ n1") && drawing.contains("└─▶ n2"), "{drawing}");
    }

    #[test]
    fn json_has_the_node_link_form() {
        let graph = Graph::new(&infos(2, &[(1, 0)])[..1]).of_network("net");
        let expected = serde_json::json!({
            "directed": true,
            "multigraph": false,
            "graph": {"network": "net"},
            "nodes": [
                {"id": id(0), "name": "n0", "address": "127.0.0.1:1000",
                 "answered": true, "is_self": true},
                {"id": id(1), "name": "", "address": "127.0.0.1:1001",
                 "answered": false, "is_self": false},
            ],
            "edges": [{"from": id(1), "to": id(0)}],
        });
        assert_eq!(serde_json::json!(graph), expected);
    }
}
