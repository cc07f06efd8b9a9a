//! The neighbours of each node. Nodes are referred to by their indices in the graph.

/// The neighbours of each node, whichever of the two nodes of a link dialled.
#[derive(Debug, Clone)]
pub(super) struct Neighbours(Vec<Vec<usize>>);

/// The number of hops to a node that has not been reached.
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

    /// Returns the nodes that can be reached from `from`, nearest first, beginning with `from` itself. Writes
    /// their distances from `from` to `hops`. Leaves out each node that has a distance in `hops` already.
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

    /// Returns the nodes of each connected part, in the order of a [`walk`](Self::walk) from its first node.
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

    /// Returns the graph of `nodes` and the links between them. The index of a node in it is its index in
    /// `nodes`.
    pub(super) fn among(&self, nodes: &[usize]) -> Self {
        let mut new_indices = vec![None; self.len()];
        for (index, node) in nodes.iter().enumerate() {
            new_indices[*node] = Some(index);
        }
        let of =
            |node: &usize| self.of(*node).iter().filter_map(|other| new_indices[*other]).collect();
        Self(nodes.iter().map(of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_lists_the_nodes_of_one_part_by_distance() {
        let neighbours = Neighbours::new(6, [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5)]);
        let mut hops = vec![UNREACHED; 6];
        assert_eq!(neighbours.walk(0, &mut hops), [0, 1, 3, 2]);
        assert_eq!(hops, [0, 1, 2, 1, UNREACHED, UNREACHED]);
        assert_eq!(neighbours.components(), [vec![0, 1, 3, 2], vec![4, 5]]);
        let some = neighbours.among(&[3, 2, 5]);
        assert_eq!((some.of(0), some.of(1), some.of(2)), (&[1][..], &[0][..], &[][..]));
    }
}
