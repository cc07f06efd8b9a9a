//! The links of a simulation as a graph.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::Sim;
use crate::handler::Handler;

impl<H: Handler> Sim<H> {
    /// Returns the links that are up at both endpoints, each as the node that dialled and the node that was
    /// dialled.
    #[must_use]
    pub fn links(&self) -> Vec<(usize, usize)> {
        let up = self.links.values().filter(|link| link.is_up());
        up.map(|link| (link.endpoints[0].node, link.endpoints[1].node)).collect()
    }

    /// Returns the connected components of the graph of all nodes that run and for which `wanted` returns
    /// true. The largest component comes first. The nodes of each component are in ascending order.
    #[must_use]
    pub fn components(&self, wanted: impl Fn(usize) -> bool) -> Vec<Vec<usize>> {
        let is_there: Vec<_> =
            (0..self.len()).map(|node| self.is_running(node) && wanted(node)).collect();
        let mut neighbours = self.neighbours();
        let mut seen = vec![false; self.len()];
        let mut components = Vec::new();
        for first in 0..self.len() {
            if !is_there[first] || std::mem::replace(&mut seen[first], true) {
                continue;
            }
            let (mut component, mut open) = (Vec::new(), vec![first]);
            while let Some(node) = open.pop() {
                component.push(node);
                // Each node is visited only once, so its neighbours can be taken.
                for (next, _) in std::mem::take(&mut neighbours[node]) {
                    if is_there[next] && !std::mem::replace(&mut seen[next], true) {
                        open.push(next);
                    }
                }
            }
            component.sort_unstable();
            components.push(component);
        }
        components.sort_by_key(|component| (Reverse(component.len()), component[0]));
        components
    }

    /// Returns for each node the shortest time in which a message from node `from` can reach it, if all nodes
    /// forward messages without delay; `None` for nodes that can't be reached.
    #[must_use]
    pub fn distances(&self, from: usize) -> Vec<Option<Duration>> {
        let neighbours = self.neighbours();
        let mut distances = vec![None; self.len()];
        let mut open = BinaryHeap::from([Reverse((Duration::ZERO, from))]);
        while let Some(Reverse((distance, node))) = open.pop() {
            // Dijkstra's algorithm without decreasing keys, so a node may be in the heap several times.
            if distances[node].is_some() {
                continue;
            }
            distances[node] = Some(distance);
            for (next, latency) in &neighbours[node] {
                if distances[*next].is_none() {
                    open.push(Reverse((distance + *latency, *next)));
                }
            }
        }
        distances
    }

    /// Returns for each node its neighbours, each with the latency of the link.
    fn neighbours(&self) -> Vec<Vec<(usize, Duration)>> {
        let mut neighbours = vec![Vec::new(); self.len()];
        for link in self.links.values().filter(|link| link.is_up()) {
            let [a, b] = [link.endpoints[0].node, link.endpoints[1].node];
            neighbours[a].push((b, link.latency));
            neighbours[b].push((a, link.latency));
        }
        neighbours
    }
}
