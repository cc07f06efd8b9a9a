//! The size of a large network, estimated from a sample of its nodes.
//!
//! A node is in a sample of `bits` bits if the hash of the sample's salt and its identity begins with
//! that many zero bits. That is one node in 2^bits, and other nodes for each salt. Each node is in it
//! independently of the others, so their number is binomial, and for a few of many nodes Poisson (W.
//! Feller: An Introduction to Probability Theory and Its Applications, vol. 1, ch. VI). Its standard
//! deviation is the square root of its expectation.

use crate::id::{Hash, NodeId};

/// Bits of the first sample. 8: of 10,000 nodes, for which discovery is made, about 40 answer.
pub const FIRST_BITS: u8 = 8;

/// Smallest sample for an estimate. A network with fewer nodes in its sample is small enough to be
/// counted, and the error of an estimate would be large. 40: an error of one in six.
pub const MIN_SAMPLE: u64 = 40;

/// An estimate of the number of nodes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The most likely number.
    pub nodes: u64,
    /// The standard error as a share of `nodes`. The true number is within it two times in three.
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

/// Estimates the number of nodes from the `count` of those in a sample of `bits`.
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
            let count = ids.iter().filter(|id| contains(&salt, FIRST_BITS, **id)).count();
            let Estimate { nodes, error } = estimate(count as u64, FIRST_BITS);
            assert!(count as u64 >= MIN_SAMPLE, "{count} are in the sample");
            let off = nodes.abs_diff(NODES) as f64 / NODES as f64;
            assert!(off < 5.0 * error, "{nodes} nodes, {error} off at most");
            within += u64::from(off <= error);
            sum += nodes;
        }
        // 68 are expected, give or take 5.
        assert!((50..=86).contains(&within), "{within} of 100 within the error");
        assert!((sum / 100).abs_diff(NODES) < NODES / 50, "{} on average", sum / 100);
    }

    #[test]
    fn a_sample_of_no_bits_has_all_nodes_and_each_bit_halves_it() {
        let salt = [7; 8];
        let sampled = |bits| nodes(4096).filter(|id| contains(&salt, bits, *id)).count();
        assert_eq!(sampled(0), 4096);
        for (bits, expected) in [(1, 2048_usize), (4, 256), (9, 8)] {
            assert!(sampled(bits).abs_diff(expected) < 4 * expected.isqrt() + 4, "{bits} bits");
        }
        assert_eq!(sampled(255), 0);
    }

    #[test]
    fn numbers_from_the_network_do_not_overflow() {
        assert_eq!(estimate(3, 0).nodes, 3);
        assert_eq!(estimate(0, 8).nodes, 0);
        assert_eq!(estimate(2, 255).nodes, u64::MAX);
        assert_eq!(estimate(u64::MAX, 63).nodes, u64::MAX);
        assert!((estimate(100, 8).error - 0.1).abs() < 1e-9);
    }
}
