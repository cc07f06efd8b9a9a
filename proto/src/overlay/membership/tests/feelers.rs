//! The rate of feelers.

use super::*;
use book::{FEEL_EVERY, FEEL_FIRST, MAX_FIRST_FEELERS};

/// Learns the records of the nodes `nodes` from neighbour 1.
fn learn(node: &mut TestBench, nodes: std::ops::Range<u8>) {
    for n in nodes {
        node.act(|membership, cx| membership.book.learn(cx, Some(id(1)), &record(n)));
    }
}

/// Lets time pass. All probes are answered, or none. Returns the number of feelers.
fn feelers_in(node: &mut TestBench, time: Duration, is_answered: bool) -> usize {
    let end = node.now + time;
    let mut feelers = 0;
    while node.part.poll_timeout().is_some_and(|at| at <= end) {
        node.wait();
        let probes: Vec<_> = node.part.probes.iter().map(|(id, purpose)| (*id, *purpose)).collect();
        for (probed, purpose) in probes {
            feelers += usize::from(purpose == ProbePurpose::Feeler);
            let n = (1..=250).find(|n| id(*n) == probed).unwrap();
            // The answer of a node in the same part of the network.
            let beacon = node.part.partition.beacon();
            node.probed(n, is_answered.then(|| Probe { beacon, ..answer(n, false, n) }));
        }
    }
    node.out.clear();
    node.now = end;
    feelers
}

#[test]
fn a_new_member_soon_reaches_the_nodes_that_it_has_learned_of() {
    let mut node = TestBench::member(5);
    learn(&mut node, 10..22);
    let feelers = feelers_in(&mut node, FEEL_FIRST * 16, true);
    assert_eq!(feelers, 12);
    assert!((10..22).all(|n| node.part.book.is_tested(id(n))));
    // All nodes are reached. So feelers only check from time to time that these still answer.
    let feelers = feelers_in(&mut node, FEEL_EVERY * 10, true);
    assert!((7..=14).contains(&feelers), "{feelers}");
}

#[test]
fn the_first_feelers_are_bounded_even_if_no_node_answers() {
    let mut node = TestBench::member(5);
    let mut feelers = 0;
    for _ in 0..60 {
        // Nodes that were not reached are forgotten, so they are learned again.
        learn(&mut node, 10..22);
        feelers += feelers_in(&mut node, Duration::from_secs(30), false);
    }
    let regular = 60 * 30 / 45;
    assert!((MAX_FIRST_FEELERS..=MAX_FIRST_FEELERS + regular).contains(&feelers), "{feelers}");
}

#[test]
fn a_node_that_knows_many_nodes_from_an_earlier_run_sends_no_quick_feelers() {
    let mut node = TestBench::member(5);
    let known = (30..130).map(|n| (id(n), vec![address(n)])).collect();
    node.act(|membership, cx| membership.add_known_nodes(cx, known));
    learn(&mut node, 10..22);
    let feelers = feelers_in(&mut node, FEEL_EVERY, true);
    assert!(feelers <= 2, "{feelers}");
}
