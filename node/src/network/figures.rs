//! The figures of a network: degrees, components, diameter and cut nodes.

use std::collections::{BTreeMap, BTreeSet};

use peerkit_proto::id::NodeId;
use serde::Serialize;

use super::NetworkGraph;
use super::neighbours::{Neighbours, UNREACHED};

/// Maximum number of nodes for which the exact diameter is computed. It takes one second for 10,000 nodes
/// with 5 links each, and four times as long for twice as many nodes.
const MAX_NODES_FOR_EXACT_DIAMETER: usize = 10_000;

/// The figures of a network. A link counts in both directions, whichever node dialled.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Figures {
    /// Number of nodes, including the one that ran the discovery.
    pub nodes: usize,
    /// Number of links. Two nodes that have dialled each other count as one link.
    pub links: usize,
    /// Number of connected parts; 1 if every node can reach every other node over links.
    pub components: usize,
    /// Statistics of the number of links that each node has.
    pub degree: Degrees,
    /// The largest distance between two nodes of one connected part, in hops.
    pub diameter: usize,
    /// True if `diameter` is exact. With more than 10,000 nodes it is a lower bound.
    pub diameter_exact: bool,
    /// The nodes whose failure would split a connected part, in the order of their identities.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub cut_nodes: Vec<NodeId>,
}

/// Statistics of the number of links that each node has.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Degrees {
    /// Smallest number of links of a node.
    pub min: usize,
    /// Mean number of links, rounded to two decimals.
    pub avg: f64,
    /// Largest number of links of a node.
    pub max: usize,
    /// Maps each number of links to the number of nodes that have so many links.
    // The keys of a JSON object are texts.
    #[cfg_attr(feature = "schema", schema(value_type = BTreeMap<String, usize>))]
    pub histogram: BTreeMap<usize, usize>,
}

impl NetworkGraph {
    /// Computes the figures. The time grows with the square of the number of nodes: with thousands of nodes,
    /// call this on a blocking thread.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let neighbours = self.neighbours();
        let components = neighbours.components();
        let diameter_exact = neighbours.len() <= MAX_NODES_FOR_EXACT_DIAMETER;
        let diameter = if diameter_exact {
            diameter(&neighbours)
        } else {
            double_sweep(&neighbours, &components)
        };
        let mut cut_nodes: Vec<NodeId> =
            cut_nodes(&neighbours).into_iter().map(|node| self.nodes[node].id).collect();
        cut_nodes.sort_unstable();
        Figures {
            nodes: neighbours.len(),
            links: self.links(),
            components: components.len(),
            degree: Degrees::of(&neighbours),
            diameter,
            diameter_exact,
            cut_nodes,
        }
    }
}

impl Degrees {
    fn of(neighbours: &Neighbours) -> Self {
        let mut histogram = BTreeMap::new();
        for degree in neighbours.degrees() {
            *histogram.entry(degree).or_default() += 1;
        }
        let ends = neighbours.degrees().sum::<usize>() as f64;
        Self {
            min: neighbours.degrees().min().unwrap_or_default(),
            avg: (ends / neighbours.len().max(1) as f64 * 100.0).round() / 100.0,
            max: neighbours.degrees().max().unwrap_or_default(),
            histogram,
        }
    }
}

/// Returns the largest distance between two nodes of one part, in hops. Runs a breadth-first search from
/// every node. 64 searches run at once, each as one bit of a word (Then et al., "The more the merrier:
/// efficient multi-source graph traversal", 2014).
fn diameter(neighbours: &Neighbours) -> usize {
    let mut max_hops = 0;
    let mut next = vec![0_u64; neighbours.len()];
    for first in (0..neighbours.len()).step_by(64) {
        let sources = first..neighbours.len().min(first + 64);
        let mut front: Vec<(usize, u64)> =
            sources.map(|node| (node, 1 << (node - first))).collect();
        let mut seen = vec![0_u64; neighbours.len()];
        for hops in 0.. {
            for (node, searches) in &front {
                seen[*node] |= searches;
            }
            let mut reached = Vec::new();
            for (node, searches) in front {
                for other in neighbours.of(node) {
                    // The searches that reach this neighbour for the first time.
                    let new = searches & !seen[*other];
                    // The neighbour is listed once, even if several nodes of the front reach it.
                    if new != 0 && next[*other] == 0 {
                        reached.push(*other);
                    }
                    next[*other] |= new;
                }
            }
            if reached.is_empty() {
                max_hops = max_hops.max(hops);
                break;
            }
            front = reached.iter().map(|node| (*node, std::mem::take(&mut next[*node]))).collect();
        }
    }
    max_hops
}

/// Returns a lower bound of the diameter. In each part, finds a node that is farthest from some first node,
/// and measures the distance from there to the farthest node. The largest of these distances is the bound.
fn double_sweep(neighbours: &Neighbours, components: &[Vec<usize>]) -> usize {
    let mut hops = vec![UNREACHED; neighbours.len()];
    let sweeps = components.iter().filter_map(|component| {
        // The last node of a walk is farthest from its start.
        let last = *neighbours.walk(*component.last()?, &mut hops).last()?;
        Some(hops[last])
    });
    sweeps.max().unwrap_or_default()
}

/// Returns the nodes whose removal would split their part, by Tarjan's algorithm with low points. Uses a
/// stack on the heap, because recursion along a long chain of nodes would overflow the thread's stack.
fn cut_nodes(neighbours: &Neighbours) -> BTreeSet<usize> {
    struct Visit<'a> {
        node: usize,
        parent: Option<usize>,
        rest: std::slice::Iter<'a, usize>,
        children: usize,
    }
    let visit =
        |node, parent| Visit { node, parent, rest: neighbours.of(node).iter(), children: 0 };
    let mut entered = vec![UNREACHED; neighbours.len()];
    let mut low = entered.clone();
    let mut order = 0..;
    let mut enter = |node: usize, entered: &mut [usize], low: &mut [usize]| {
        entered[node] = order.next().unwrap_or_default();
        low[node] = entered[node];
    };
    let mut cut = BTreeSet::new();
    for root in 0..neighbours.len() {
        if entered[root] != UNREACHED {
            continue;
        }
        let mut stack = vec![visit(root, None)];
        enter(root, &mut entered, &mut low);
        while let Some(top) = stack.last_mut() {
            let node = top.node;
            if let Some(next) = top.rest.next().copied() {
                // The search came along this edge.
                if Some(next) == top.parent {
                    continue;
                }
                if entered[next] == UNREACHED {
                    top.children += 1;
                    enter(next, &mut entered, &mut low);
                    stack.push(visit(next, Some(node)));
                } else {
                    // A back edge leads to a node that the search entered earlier.
                    low[node] = low[node].min(entered[next]);
                }
                continue;
            }
            let (parent, children) = (top.parent, top.children);
            stack.pop();
            match parent {
                // The root is a cut node if it has several subtrees: there is no edge between them.
                None if children > 1 => {
                    cut.insert(node);
                }
                None => {}
                Some(parent) => {
                    low[parent] = low[parent].min(low[node]);
                    // No node of this subtree has an edge to a node above the parent, so without the parent
                    // the subtree is cut off.
                    let parent_is_root = stack.last().is_some_and(|top| top.parent.is_none());
                    if !parent_is_root && low[node] >= entered[parent] {
                        cut.insert(parent);
                    }
                }
            }
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::{id, infos, network_of};
    use proptest::prelude::*;

    /// Returns the number of hops between each two nodes, by another algorithm (Floyd and Warshall).
    fn distances(neighbours: &Neighbours) -> Vec<Vec<usize>> {
        let n = neighbours.len();
        let mut hops = vec![vec![UNREACHED; n]; n];
        for (node, hops) in hops.iter_mut().enumerate() {
            hops[node] = 0;
            neighbours.of(node).iter().for_each(|other| hops[*other] = 1);
        }
        for by in 0..n {
            for from in 0..n {
                for to in 0..n {
                    let around = hops[from][by].saturating_add(hops[by][to]);
                    hops[from][to] = hops[from][to].min(around);
                }
            }
        }
        hops
    }

    #[test]
    fn a_line_of_three_nodes_has_these_figures() {
        let network = network_of(&infos(3, &[(0, 1), (1, 2)]));
        let expected = Figures {
            nodes: 3,
            links: 2,
            components: 1,
            degree: Degrees { min: 1, avg: 1.33, max: 2, histogram: [(1, 2), (2, 1)].into() },
            diameter: 2,
            diameter_exact: true,
            cut_nodes: vec![id(1)],
        };
        assert_eq!(network.figures(), expected);
    }

    #[test]
    fn a_ring_has_no_cut_node_and_separate_parts_are_counted() {
        let ring = network_of(&infos(4, &[(0, 1), (1, 2), (2, 3), (3, 0)]));
        assert_eq!(ring.figures().cut_nodes, []);
        assert_eq!(ring.figures().diameter, 2);
        let parts = network_of(&infos(5, &[(0, 1), (2, 3)]));
        assert_eq!(parts.figures().components, 3);
        assert_eq!(network_of(&infos(1, &[])).figures().nodes, 1);
        assert_eq!(NetworkGraph::default().figures().degree.min, 0);
    }

    #[test]
    fn a_line_of_3000_nodes_does_not_overflow_the_stack() {
        let links: Vec<(u16, u16)> = (1..3000).map(|n| (n - 1, n)).collect();
        let figures = network_of(&infos(3000, &links)).figures();
        assert_eq!((figures.diameter, figures.cut_nodes.len()), (2999, 2998));
    }

    #[test]
    fn the_diameter_of_a_large_network_is_marked_as_a_lower_bound() {
        let nodes = 10_002;
        let links: Vec<(u16, u16)> = (1..nodes).map(|n| (n / 2, n)).collect();
        let figures = network_of(&infos(nodes, &links)).figures();
        assert!(!figures.diameter_exact);
        // In a tree the lower bound equals the diameter. Node 1 is the root. The deepest leaf of one subtree
        // is 13 hops below it, the deepest leaf of the other 12 hops.
        assert_eq!(figures.diameter, 25);
    }

    proptest! {
        #[test]
        fn figures_agree_with_their_definitions(
            links in prop::collection::vec((0u16..9, 0u16..9), 0..14)
        ) {
            let network = network_of(&infos(9, &links));
            let neighbours = network.neighbours();
            let all = distances(&neighbours);
            let figures = network.figures();

            let reached = all.iter().flatten().filter(|hops| **hops != UNREACHED);
            prop_assert_eq!(Some(figures.diameter), reached.max().copied());
            let bound = double_sweep(&neighbours, &neighbours.components());
            prop_assert!(bound <= figures.diameter && 2 * bound >= figures.diameter);

            let is_first = |node: &usize| all[*node].iter().position(|h| *h != UNREACHED) == Some(*node);
            prop_assert_eq!(figures.components, (0..9).filter(is_first).count());

            let cut = (0..9).filter(|node| {
                let others: Vec<usize> = (0..9).filter(|other| other != node).collect();
                let alone = usize::from(neighbours.of(*node).is_empty());
                neighbours.among(&others).components().len() > figures.components - alone
            });
            let cut: Vec<NodeId> = cut.map(|node| id(node as u16)).collect();
            prop_assert_eq!(figures.cut_nodes, cut);
        }
    }
}
