//! Tests of beacons, and of the repair of a partition.

use super::*;

#[test]
fn the_least_node_counts_as_gone_once_its_beacons_stop() {
    let mut node = TestBench::member(2);
    let least = (1..=250).min_by_key(|n| id(*n)).unwrap();
    assert_ne!(least, 100);
    let beacon = |count| Frame::SignedBeacon(SignedBeacon::sign(&key(least), "net", count));
    node.receive(1, beacon(7));
    assert_eq!(node.out(), [format!("beacon 2 {least}")]);
    node.receive(2, beacon(7));
    node.receive(2, beacon(6));
    assert_eq!(node.out(), [""; 0], "not new");
    node.receive(2, beacon(8));
    assert_eq!(node.out(), [format!("beacon 1 {least}")]);
    let last = node.now;
    node.wait_for("beacon 1 100");
    let silent = node.now.since(last);
    assert!((30..=45).contains(&silent.as_secs()), "{silent:?}");
}

/// Returns the `n`th least of the test nodes' identities, counted from 0.
fn nth_least(n: usize) -> u8 {
    let mut all: Vec<u8> = (1..=250).collect();
    all.sort_by_cached_key(|n| id(*n));
    all[n]
}

fn signed_beacon(n: u8, count: u64) -> SignedBeacon {
    SignedBeacon::sign(&key(n), "net", count)
}

#[test]
fn a_forged_beacon_is_a_fault_and_has_no_effect() {
    let least = nth_least(0);
    let other_network = SignedBeacon::sign(&key(least), "other", 7);
    let other_count =
        SignedBeacon { beacon: Beacon { least: id(least), count: 8 }, ..signed_beacon(least, 7) };
    let other_node = SignedBeacon {
        beacon: Beacon { least: id(least), count: 7 },
        ..signed_beacon(nth_least(1), 7)
    };
    for forged in [other_network, other_count, other_node] {
        let mut node = TestBench::member(2);
        let before = node.part.partition.beacon();
        node.receive(1, Frame::SignedBeacon(forged));
        assert_eq!(node.out(), ["fault 1"]);
        // An unsigned one is not believed.
        node.receive(2, Frame::Beacon(forged.beacon));
        assert_eq!((node.out(), node.part.partition.beacon()), (vec![], before));
    }
}

#[test]
fn a_replayed_beacon_of_a_node_that_is_gone_has_no_effect() {
    let mut node = TestBench::member(2);
    let [least, second] = [nth_least(0), nth_least(1)];
    node.receive(1, Frame::SignedBeacon(signed_beacon(least, 50)));
    node.wait_for("beacon 1 100");
    // The least node has become silent, and the next one takes its place.
    node.receive(1, Frame::SignedBeacon(signed_beacon(second, 60)));
    node.out();
    for count in 1..=50 {
        node.now = node.now + Duration::from_secs(2);
        node.receive(2, Frame::SignedBeacon(signed_beacon(least, count)));
    }
    assert_eq!(node.out(), [""; 0]);
    assert_eq!(node.part.partition.beacon().least, id(second));
    // It is not gone for ever: a new beacon counts.
    node.receive(2, Frame::SignedBeacon(signed_beacon(least, 51)));
    assert_eq!(node.out(), [format!("beacon 1 {least}")]);
}

#[test]
fn a_flood_of_beacons_is_passed_on_at_a_bounded_rate() {
    let mut node = TestBench::member(3);
    for n in 1..=3 {
        node.budgets.set_standing(id(n), Standing::Relay);
    }
    let least = nth_least(0);
    for n in (0..200).rev() {
        node.receive(1, Frame::SignedBeacon(signed_beacon(least, 1000 - n)));
    }
    assert_eq!(node.out().len(), 2 * 16);
    assert_eq!(node.budgets.drops().beacons, 200 - 16);
    // The beacons of another neighbour are not affected.
    node.receive(2, Frame::SignedBeacon(signed_beacon(least, 2000)));
    assert_eq!(node.out().len(), 2);
    node.now = node.now + Duration::from_secs(1);
    node.receive(1, Frame::SignedBeacon(signed_beacon(least, 3000)));
    assert_eq!(node.out().len(), 2);
}

#[test]
fn claims_of_another_least_node_cause_few_repairs() {
    let mut node = TestBench::member(5);
    node.now = node.now + Duration::from_secs(20);
    let (other, mut repairs) = (nth_least(0), 0);
    for n in 10..=209_u8 {
        node.act(|membership, cx| membership.add_known_nodes(cx, vec![(id(n), vec![address(n)])]));
        node.act(|membership, cx| membership.probe(cx, id(n), ProbePurpose::Test));
        node.out();
        node.probed(n, Some(answer(n, false, other)));
        repairs += node.out().iter().filter(|out| out.starts_with("dial")).count();
        node.now = node.now + Duration::from_secs(6);
    }
    // Twenty minutes: eight repairs at once, and one more each half minute.
    assert!((40..=8 + 40).contains(&repairs), "{repairs}");
}

#[test]
fn parts_with_different_least_identities_are_joined() {
    let mut node = TestBench::member(5);
    node.act(|membership, cx| membership.add_known_nodes(cx, vec![(id(8), vec![address(8)])]));
    node.now = node.now + Duration::from_secs(20);
    node.act(|membership, cx| membership.probe(cx, id(8), ProbePurpose::Test));
    node.out();
    node.probed(8, Some(answer(8, false, 8)));
    assert_eq!(node.out(), ["dial 8"]);
    node.link(8, Direction::Outbound);
    assert_eq!(node.out(), ["ask 8 High"]);
    node.reply(8, NeighbourOutcome::Accepted, Vec::new());
    assert!(node.active().contains(&id(8)) && node.active().len() == 6, "as a guest");
}
