//! Chooses the nodes that a new node of a network dials first.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Picks `count` of the nodes before `node`, or all of them if there are fewer. Picks the same nodes in every
/// run.
pub(crate) fn earlier_nodes(node: usize, count: usize) -> BTreeSet<usize> {
    let mut picked = BTreeSet::new();
    let mut draw = 0_u64;
    while picked.len() < count.min(node) {
        // Unlike the hasher of a `HashMap`, this one has fixed keys.
        let mut hasher = DefaultHasher::new();
        (node, draw).hash(&mut hasher);
        picked.insert((hasher.finish() % node as u64) as usize);
        draw += 1;
    }
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_earlier_nodes_are_picked() {
        assert!(earlier_nodes(0, 5).is_empty());
        assert_eq!(earlier_nodes(3, 5).into_iter().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(earlier_nodes(31, 5).len(), 5);
        assert!(earlier_nodes(31, 5).iter().all(|node| *node < 31));
    }
}
