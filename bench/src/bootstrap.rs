//! The nodes that a node of a network dials first.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Returns `wanted` of the nodes before `node`, or all if they are fewer. It is the same in every run.
pub(crate) fn earlier(node: usize, wanted: usize) -> BTreeSet<usize> {
    let mut picked = BTreeSet::new();
    let mut draw = 0_u64;
    while picked.len() < wanted.min(node) {
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
    fn nodes_know_of_those_before_them() {
        assert!(earlier(0, 5).is_empty());
        assert_eq!(earlier(3, 5).into_iter().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(earlier(31, 5).len(), 5);
        assert!(earlier(31, 5).iter().all(|node| *node < 31));
    }
}
