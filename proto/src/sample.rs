//! The size of a large network, estimated from a sample of its nodes.
//!
//! A node is in a sample of `bits` bits if the hash of the sample's salt and the node's identity
//! begins with that many zero bits. So one node in 2^bits is in the sample, and each salt selects
//! different nodes. Each node is in the sample independently of the others, so the number of nodes
//! in it has a binomial distribution. For a small sample of many nodes that is nearly a Poisson
//! distribution, whose standard deviation is the square root of its expectation (W. Feller: An
//! Introduction to Probability Theory and Its Applications, vol. 1, ch. VI).

use crate::id::{Hash, NodeId};

/// Bits of the sample from which a node estimates the size of its network. 8: of 10,000 nodes, the
/// largest network for which discovery is meant, about 40 answer.
pub const SAMPLE_BITS: u8 = 8;

/// Minimum number of nodes in a sample for an estimate. With fewer, the error of an estimate would
/// be large, and the network is small enough to be counted instead. 40: an error of one in six.
pub const MIN_SAMPLE: u64 = 40;

/// An estimate of the number of nodes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The most likely number.
    pub nodes: u64,
    /// The standard error, as a fraction of `nodes`. In two of three estimates the true number
    /// differs from `nodes` by no more than that.
    pub error: f64,
}

/// Returns whether a node is in a sample.
#[must_use]
pub fn contains(salt: &[u8; 8], bits: u8, node: NodeId) -> bool {
    let hash = Hash::of_parts(&[salt, node.as_bytes()]);
    let zeros = hash.as_bytes().iter().take_while(|byte| **byte == 0).count();
    let next = hash.as_bytes().get(zeros).map_or(0, |byte| byte.leading_zeros());
    8 * zeros + next as usize >= usize::from(bits)
}

/// Estimates the number of nodes in the network from a sample of `bits` bits that has `count` nodes.
#[must_use]
pub fn estimate(count: u64, bits: u8) -> Estimate {
    let nodes = count.saturating_mul(1_u64.checked_shl(u32::from(bits)).unwrap_or(u64::MAX));
    Estimate { nodes, error: 1.0 / (count.max(1) as f64).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(number: u64) -> impl Iterator<Item = NodeId> {
        (0..number).map(|n| NodeId::from_bytes(*Hash::of(&n.to_le_bytes()).as_bytes()))
    }

    #[test]
    fn twenty_thousand_nodes_are_estimated_within_the_error() {
        const NODES: u64 = 20_000;
        let ids: Vec<_> = nodes(NODES).collect();
        let (mut within, mut sum) = (0, 0);
        for salt in 0..100_u64 {
            let salt = salt.to_le_bytes();
            let count = ids.iter().filter(|id| contains(&salt, SAMPLE_BITS, **id)).count();
            let Estimate { nodes, error } = estimate(count as u64, SAMPLE_BITS);
            assert!(count as u64 >= MIN_SAMPLE, "{count} are in the sample");
            let off = nodes.abs_diff(NODES) as f64 / NODES as f64;
            assert!(off < 5.0 * error, "{nodes} nodes, but the error is {error}");
            within += u64::from(off <= error);
            sum += nodes;
        }
        // 68 are expected, with a standard deviation of 5.
        assert!((50..=86).contains(&within), "{within} of 100 within the error");
        assert!((sum / 100).abs_diff(NODES) < NODES / 50, "{} on average", sum / 100);
    }

    #[test]
    fn a_sample_of_zero_bits_has_all_nodes_and_each_bit_halves_the_sample() {
        let salt = [7; 8];
        let sampled = |bits| nodes(4096).filter(|id| contains(&salt, bits, *id)).count();
        assert_eq!(sampled(0), 4096);
        for (bits, expected) in [(1, 2048_usize), (4, 256), (9, 8)] {
            assert!(sampled(bits).abs_diff(expected) < 4 * expected.isqrt() + 4, "{bits} bits");
        }
        assert_eq!(sampled(255), 0);
    }

    #[test]
    fn an_estimate_from_any_numbers_does_not_overflow() {
        assert_eq!(estimate(3, 0).nodes, 3);
        assert_eq!(estimate(0, 8).nodes, 0);
        assert_eq!(estimate(2, 255).nodes, u64::MAX);
        assert_eq!(estimate(u64::MAX, 63).nodes, u64::MAX);
        assert!((estimate(100, 8).error - 0.1).abs() < 1e-9);
    }
}
