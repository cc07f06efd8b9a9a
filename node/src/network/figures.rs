//! The figures of a network: degrees, components, diameter and cut nodes.

use std::collections::{BTreeMap, BTreeSet};

use peerkit_proto::id::NodeId;
use serde::Serialize;

use super::NetworkGraph;
use super::neighbours::{Neighbours, UNREACHED};

/// Most nodes for which the exact diameter is computed. 10,000 nodes with 5 links each take a second, and
/// twice as many take four times as long.
const EXACT: usize = 10_000;

/// The figures of a network, with links counted in both directions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Number of nodes, including the one that ran the discovery.
    pub nodes: usize,
    /// Number of links between them.
    pub links: usize,
    /// Number of parts without a link between them; 1 if every node can reach every other.
    pub components: usize,
    /// Statistics of the number of links that each node has.
    pub degree: Degrees,
    /// Most hops between any two nodes of one part.
    pub diameter: usize,
    /// True if `diameter` is exact. With more than 10,000 nodes it is a lower bound.
    pub diameter_exact: bool,
    /// The nodes whose failure would split a part, in the order of their identities.
    pub cut_nodes: Vec<NodeId>,
}

/// Statistics of the number of links that each node has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Degrees {
    /// Fewest links of a node.
    pub min: usize,
    /// Mean number of links, rounded to two decimals.
    pub avg: f64,
    /// Most links of a node.
    pub max: usize,
    /// Number of nodes by number of links.
    pub histogram: BTreeMap<usize, usize>,
}

impl NetworkGraph {
    /// Computes the figures. The time grows with the square of the number of nodes, so run it on a blocking
    /// thread for thousands of them.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let neighbours = self.neighbours();
        let components = neighbours.components();
        let diameter_exact = neighbours.len() <= EXACT;
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

/// Returns the most hops between two nodes of one part. Runs a breadth-first search from every node, 64 of
/// them at once, each as a bit of a word (Then et al., "The more the merrier: efficient multi-source graph
/// traversal", 2014).
fn diameter(neighbours: &Neighbours) -> usize {
    let mut most = 0;
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
                    // Listed once, however many nodes of the front reach it.
                    if new != 0 && next[*other] == 0 {
                        reached.push(*other);
                    }
                    next[*other] |= new;
                }
            }
            if reached.is_empty() {
                most = most.max(hops);
                break;
            }
            front = reached.iter().map(|node| (*node, std::mem::take(&mut next[*node]))).collect();
        }
    }
    most
}

/// Returns a lower bound of the diameter: in each part, the distance of the farthest node from one that is
/// itself farthest from some node.
fn double_sweep(neighbours: &Neighbours, components: &[Vec<usize>]) -> usize {
    let mut hops = vec![UNREACHED; neighbours.len()];
    let sweeps = components.iter().filter_map(|component| {
        let last = *neighbours.walk(*component.last()?, &mut hops).last()?;
        Some(hops[last])
    });
    sweeps.max().unwrap_or_default()
}

/// Returns the nodes whose removal would split their part: Tarjan's algorithm with low points. It has a stack
/// of its own, as recursion along a long chain would overflow the thread's.
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
                // The edge that the search came by.
                if Some(next) == top.parent {
                    continue;
                }
                if entered[next] == UNREACHED {
                    top.children += 1;
                    enter(next, &mut entered, &mut low);
                    stack.push(visit(next, Some(node)));
                } else {
                    // A back edge: from here the search can return to an earlier node.
                    low[node] = low[node].min(entered[next]);
                }
                continue;
            }
            let (parent, children) = (top.parent, top.children);
            stack.pop();
            match parent {
                // The root is a cut node if its subtrees have no edge between them.
                None if children > 1 => {
                    cut.insert(node);
                }
                None => {}
                Some(parent) => {
                    low[parent] = low[parent].min(low[node]);
                    // No node below has an edge above the parent, so the parent is the only way there.
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

    /// Returns the hops between every two nodes by another algorithm (Floyd and Warshall).
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
    fn a_line_measured() {
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
    fn a_ring_has_no_cut_node_and_two_parts_are_two() {
        let ring = network_of(&infos(4, &[(0, 1), (1, 2), (2, 3), (3, 0)]));
        assert_eq!(ring.figures().cut_nodes, []);
        assert_eq!(ring.figures().diameter, 2);
        let parts = network_of(&infos(5, &[(0, 1), (2, 3)]));
        assert_eq!(parts.figures().components, 3);
        assert_eq!(network_of(&infos(1, &[])).figures().nodes, 1);
        assert_eq!(NetworkGraph::default().figures().degree.min, 0);
    }

    #[test]
    fn a_long_line_takes_no_stack_and_one_search_for_64_nodes() {
        let links: Vec<(u16, u16)> = (1..3000).map(|n| (n - 1, n)).collect();
        let figures = network_of(&infos(3000, &links)).figures();
        assert_eq!((figures.diameter, figures.cut_nodes.len()), (2999, 2998));
    }

    #[test]
    fn a_network_too_large_for_exactness_says_so() {
        let nodes = 10_002;
        let links: Vec<(u16, u16)> = (1..nodes).map(|n| (n / 2, n)).collect();
        let figures = network_of(&infos(nodes, &links)).figures();
        assert!(!figures.diameter_exact);
        // In a tree the bound is the diameter: from node 1 down to the last row, which has begun on
        // one side only, are 13 hops, and 12 on the other side.
        assert_eq!(figures.diameter, 25);
    }

    proptest! {
        #[test]
        fn figures_are_those_of_the_plain_definitions(
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
