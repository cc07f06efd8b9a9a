//! The neighbours of each node, by their indices in the graph.

/// The neighbours of each node. Does not depend on which of them dialled.
#[derive(Debug, Clone)]
pub(super) struct Neighbours(Vec<Vec<usize>>);

/// The hops to a node that has not been reached.
pub(super) const UNREACHED: usize = usize::MAX;

impl Neighbours {
    /// Creates a graph of `nodes` nodes from pairs of linked nodes, each pair once.
    pub(super) fn new(nodes: usize, pairs: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut neighbours = vec![Vec::new(); nodes];
        for (a, b) in pairs {
            neighbours[a].push(b);
            neighbours[b].push(a);
        }
        Self(neighbours)
    }

    /// Returns the number of nodes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the neighbours of `node`.
    pub(super) fn of(&self, node: usize) -> &[usize] {
        &self.0[node]
    }

    /// Returns the number of links of each node.
    pub(super) fn degrees(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(Vec::len)
    }

    /// Returns the nodes that can be reached from `from`, nearest first, beginning with itself. Writes their
    /// distances to `hops`. Leaves out nodes that `hops` has as reached already.
    pub(super) fn walk(&self, from: usize, hops: &mut [usize]) -> Vec<usize> {
        let mut reached = vec![from];
        hops[from] = 0;
        let mut next = 0;
        while let Some(node) = reached.get(next).copied() {
            for other in self.of(node) {
                if hops[*other] == UNREACHED {
                    hops[*other] = hops[node] + 1;
                    reached.push(*other);
                }
            }
            next += 1;
        }
        reached
    }

    /// Returns the connected parts, each as a walk through it.
    pub(super) fn components(&self) -> Vec<Vec<usize>> {
        let mut hops = vec![UNREACHED; self.len()];
        let mut components = Vec::new();
        for node in 0..self.len() {
            if hops[node] == UNREACHED {
                components.push(self.walk(node, &mut hops));
            }
        }
        components
    }

    /// Returns the graph of `nodes` and the links between them, numbered in the order of `nodes`.
    pub(super) fn among(&self, nodes: &[usize]) -> Self {
        let mut places = vec![UNREACHED; self.len()];
        for (place, node) in nodes.iter().enumerate() {
            places[*node] = place;
        }
        let of = |node: &usize| {
            let others = self.of(*node).iter().map(|other| places[*other]);
            others.filter(|place| *place != UNREACHED).collect()
        };
        Self(nodes.iter().map(of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_goes_by_distance_and_stays_in_its_part() {
        let neighbours = Neighbours::new(6, [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5)]);
        let mut hops = vec![UNREACHED; 6];
        assert_eq!(neighbours.walk(0, &mut hops), [0, 1, 3, 2]);
        assert_eq!(hops, [0, 1, 2, 1, UNREACHED, UNREACHED]);
        assert_eq!(neighbours.components(), [vec![0, 1, 3, 2], vec![4, 5]]);
        let some = neighbours.among(&[3, 2, 5]);
        assert_eq!((some.of(0), some.of(1), some.of(2)), (&[1][..], &[0][..], &[][..]));
    }
}
