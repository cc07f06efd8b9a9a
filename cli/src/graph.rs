//! The network as a graph: who is linked with whom, drawn and measured.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use peerkit::{NodeId, NodeInfo};
use serde::Serialize;

use crate::text::plain;

/// The nodes and links that a discovery told of.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Graph {
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
}

/// A link, from the node that dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Edge {
    from: NodeId,
    to: NodeId,
}

/// The figures of `network`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Measures {
    /// Nodes, this one among them.
    pub(crate) nodes: usize,
    /// Links between them.
    pub(crate) links: usize,
    /// Parts that no link connects; 1 where all hangs together.
    pub(crate) components: usize,
    /// How many links a node has.
    pub(crate) degree: Degree,
    /// The most hops between any two nodes of one part.
    pub(crate) diameter: usize,
    /// Nodes without which a part would fall apart.
    pub(crate) cut_nodes: Vec<NodeId>,
}

/// How many links a node has: the fewest, the mean, the most.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Degree {
    pub(crate) min: usize,
    pub(crate) avg: f64,
    pub(crate) max: usize,
}

impl Graph {
    /// Builds the graph out of what the nodes told of themselves.
    pub(crate) fn new(infos: &[NodeInfo]) -> Self {
        let mut nodes = BTreeMap::new();
        let mut edges = BTreeSet::new();
        let mut order = Vec::new();
        for info in infos {
            let outbound = info.outbound.iter().map(|other| (other, info.id, other.id));
            let inbound = info.inbound.iter().map(|other| (other, other.id, info.id));
            for (other, from, to) in outbound.chain(inbound) {
                edges.insert(Edge { from, to });
                nodes.entry(other.id).or_insert_with(|| {
                    order.push(other.id);
                    GraphNode {
                        id: other.id,
                        name: String::new(),
                        address: Some(other.address.clone().without_id().to_string()),
                        answered: false,
                    }
                });
            }
        }
        for info in infos {
            let address = info.addresses.first().cloned();
            let node = GraphNode {
                id: info.id,
                name: info.name.clone(),
                address: address.map(|address| address.without_id().to_string()),
                answered: true,
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
        Self { nodes, edges: edges.into_iter().collect() }
    }

    /// Links: a pair of nodes counts once, whoever dialled.
    pub(crate) fn links(&self) -> usize {
        let pairs = self.edges.iter();
        let pairs: BTreeSet<_> =
            pairs.map(|edge| (edge.from.min(edge.to), edge.from.max(edge.to))).collect();
        pairs.len()
    }

    /// Measures the graph, links taken as going both ways.
    pub(crate) fn measure(&self) -> Measures {
        let mut neighbours: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
        for node in &self.nodes {
            neighbours.entry(node.id).or_default();
        }
        for edge in self.edges.iter().filter(|edge| edge.from != edge.to) {
            neighbours.entry(edge.from).or_default().insert(edge.to);
            neighbours.entry(edge.to).or_default().insert(edge.from);
        }
        let degrees = || neighbours.values().map(BTreeSet::len);
        let components = components(&neighbours, None);
        let diameter = neighbours
            .keys()
            .filter_map(|from| hops(&neighbours, *from, None).into_values().max())
            .max();
        let cut_nodes = cut_nodes(&neighbours);
        let nodes = neighbours.len();
        Measures {
            nodes,
            links: self.links(),
            components,
            degree: Degree {
                min: degrees().min().unwrap_or_default(),
                avg: rounded(degrees().sum::<usize>() as f64 / nodes.max(1) as f64),
                max: degrees().max().unwrap_or_default(),
            },
            diameter: diameter.unwrap_or_default(),
            cut_nodes,
        }
    }

    /// The graph in DOT, the language of Graphviz.
    pub(crate) fn dot(&self) -> String {
        let mut text = String::from("digraph network {\n  node [shape=box];\n");
        for node in &self.nodes {
            let name = quoted(&label(&node.id, &node.name));
            let style = if node.answered { "" } else { ", style=dashed" };
            let _ = writeln!(text, "  \"{}\" [label={name}{style}];", node.id);
        }
        for edge in &self.edges {
            let _ = writeln!(text, "  \"{}\" -> \"{}\";", edge.from, edge.to);
        }
        text.push_str("}\n");
        text
    }

    /// The graph as a list that a person can follow: each node with the links it made.
    pub(crate) fn drawing(&self) -> String {
        let names: BTreeMap<NodeId, String> =
            self.nodes.iter().map(|node| (node.id, label(&node.id, &node.name))).collect();
        let mut text = String::new();
        for node in &self.nodes {
            let name = &names[&node.id];
            let address = node.address.as_deref().unwrap_or("no address");
            let silent = if node.answered { "" } else { ", no answer" };
            let _ = writeln!(text, "{name}  {address}{silent}");
            let made = self.edges.iter().filter(|edge| edge.from == node.id);
            let made: Vec<&String> = made.filter_map(|edge| names.get(&edge.to)).collect();
            for (index, other) in made.iter().enumerate() {
                let last = index + 1 == made.len();
                let branch = if last { "└─▶" } else { "├─▶" };
                let _ = writeln!(text, "  {branch} {other}");
            }
        }
        text
    }
}

/// A node's name with the first digits of its identity.
fn label(id: &NodeId, name: &str) -> String {
    if name.is_empty() { id.short() } else { format!("{} ({})", plain(name), id.short()) }
}

/// A text between the quotes of DOT.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

type Neighbours = BTreeMap<NodeId, BTreeSet<NodeId>>;

/// Hops from `from` to every node that can be reached without passing through `without`.
fn hops(neighbours: &Neighbours, from: NodeId, without: Option<NodeId>) -> BTreeMap<NodeId, usize> {
    let mut hops = BTreeMap::from([(from, 0)]);
    let mut queue = VecDeque::from([(from, 0)]);
    while let Some((node, distance)) = queue.pop_front() {
        for next in neighbours.get(&node).into_iter().flatten() {
            if Some(*next) != without && !hops.contains_key(next) {
                hops.insert(*next, distance + 1);
                queue.push_back((*next, distance + 1));
            }
        }
    }
    hops
}

fn components(neighbours: &Neighbours, without: Option<NodeId>) -> usize {
    let mut seen = BTreeSet::new();
    let mut count = 0;
    for node in neighbours.keys().filter(|node| Some(**node) != without) {
        if !seen.contains(node) {
            count += 1;
            seen.extend(hops(neighbours, *node, without).into_keys());
        }
    }
    count
}

/// Nodes whose neighbours could not reach each other without them: Tarjan's low points, with a
/// stack of its own, since a long chain would overflow the thread's.
fn cut_nodes(neighbours: &Neighbours) -> Vec<NodeId> {
    struct Visit<'a> {
        node: NodeId,
        parent: Option<NodeId>,
        rest: std::collections::btree_set::Iter<'a, NodeId>,
        children: usize,
    }
    let mut entered: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut low: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut cut = BTreeSet::new();
    let visit = |node, parent| Visit { node, parent, rest: neighbours[&node].iter(), children: 0 };
    for root in neighbours.keys() {
        if entered.contains_key(root) {
            continue;
        }
        let mut stack = vec![visit(*root, None)];
        entered.insert(*root, entered.len());
        low.insert(*root, entered[root]);
        while let Some(top) = stack.last_mut() {
            let node = top.node;
            if let Some(next) = top.rest.next() {
                if Some(*next) == top.parent {
                    continue;
                }
                if let Some(earlier) = entered.get(next) {
                    low.entry(node).and_modify(|low| *low = (*low).min(*earlier));
                } else {
                    top.children += 1;
                    entered.insert(*next, entered.len());
                    low.insert(*next, entered[next]);
                    stack.push(visit(*next, Some(node)));
                }
                continue;
            }
            let (parent, children) = (top.parent, top.children);
            stack.pop();
            match parent {
                None if children > 1 => {
                    cut.insert(node);
                }
                None => {}
                Some(parent) => {
                    let reached = low[&node];
                    low.entry(parent).and_modify(|low| *low = (*low).min(reached));
                    let parent_is_root = stack.last().is_some_and(|top| top.parent.is_none());
                    if !parent_is_root && reached >= entered[&parent] {
                        cut.insert(parent);
                    }
                }
            }
        }
    }
    cut.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerkit::Neighbour;
    use proptest::prelude::*;

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    /// Nodes 0 to `n` that all answered, each link told by both of its ends.
    fn infos(n: u8, links: &[(u8, u8)]) -> Vec<NodeInfo> {
        let end = |n: u8| Neighbour {
            id: id(n),
            address: format!("127.0.0.1:{}", 1000 + u16::from(n)).parse().unwrap(),
        };
        (0..n)
            .map(|node| NodeInfo {
                id: id(node),
                name: format!("n{node}"),
                addresses: vec![end(node).address],
                outbound: links.iter().filter(|l| l.0 == node).map(|l| end(l.1)).collect(),
                inbound: links.iter().filter(|l| l.1 == node).map(|l| end(l.0)).collect(),
            })
            .collect()
    }

    #[test]
    fn a_line_measured() {
        let graph = Graph::new(&infos(3, &[(0, 1), (1, 2)]));
        let expected = Measures {
            nodes: 3,
            links: 2,
            components: 1,
            degree: Degree { min: 1, avg: 1.33, max: 2 },
            diameter: 2,
            cut_nodes: vec![id(1)],
        };
        assert_eq!(graph.measure(), expected);
    }

    #[test]
    fn a_ring_has_no_cut_node_and_two_parts_are_two() {
        let ring = Graph::new(&infos(4, &[(0, 1), (1, 2), (2, 3), (3, 0)]));
        assert_eq!(ring.measure().cut_nodes, []);
        assert_eq!(ring.measure().diameter, 2);
        let parts = Graph::new(&infos(5, &[(0, 1), (2, 3)]));
        assert_eq!(parts.measure().components, 3);
        assert_eq!(Graph::new(&infos(1, &[])).measure().nodes, 1);
    }

    #[test]
    fn a_pair_that_both_dialled_is_one_link() {
        assert_eq!(Graph::new(&infos(2, &[(0, 1), (1, 0)])).links(), 1);
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
    fn a_hostile_name_stays_inside_its_quotes() {
        let mut infos = infos(1, &[]);
        infos[0].name = "a\"; b \\\n\u{1b}[31m".into();
        let dot = Graph::new(&infos).dot();
        assert!(dot.contains("label=\"a\\\"; b "), "{dot}");
        assert!(!dot.contains('\u{1b}'));
        assert_eq!(dot.lines().count(), 4);
    }

    #[test]
    fn every_link_is_drawn() {
        let drawing = Graph::new(&infos(3, &[(0, 1), (0, 2)])).drawing();
        assert!(drawing.contains("├─▶ n1") && drawing.contains("└─▶ n2"), "{drawing}");
    }

    proptest! {
        #[test]
        fn cut_nodes_are_those_whose_loss_splits_a_part(
            links in prop::collection::vec((0u8..9, 0u8..9), 0..14)
        ) {
            let graph = Graph::new(&infos(9, &links));
            let mut neighbours: Neighbours = (0..9).map(|n| (id(n), BTreeSet::new())).collect();
            for (a, b) in links.into_iter().filter(|(a, b)| a != b) {
                neighbours.get_mut(&id(a)).unwrap().insert(id(b));
                neighbours.get_mut(&id(b)).unwrap().insert(id(a));
            }
            let whole = components(&neighbours, None);
            let expected: Vec<NodeId> = (0..9)
                .map(id)
                .filter(|node| {
                    let alone = usize::from(neighbours[node].is_empty());
                    components(&neighbours, Some(*node)) > whole - alone
                })
                .collect();
            prop_assert_eq!(graph.measure().cut_nodes, expected);
        }
    }
}
