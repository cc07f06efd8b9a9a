//! Tests of outbound neighbours, and of the choice of the neighbour that gives way.

use super::*;

/// A group that many nodes share.
fn crowded_ip(n: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, n])
}

fn reach(node: &mut TestBench, n: u8, ip: IpAddr) {
    node.act(|membership, cx| {
        let group = membership.address_groups.group(ip);
        membership.book.reached(cx, &record(n), group);
    });
}

/// Makes node `n` a neighbour that this node has asked for a place.
fn add(node: &mut TestBench, n: u8, ip: IpAddr, origin: Origin) {
    node.link_at(n, Direction::Outbound, ip);
    node.act(|membership, cx| membership.add_neighbour(cx, id(n), record(n), Some(origin)));
    node.now = node.now + Duration::from_secs(1);
}

/// Has twenty nodes of as many groups ask for a place.
fn attack(node: &mut TestBench) {
    for n in 60..80 {
        node.link(n, Direction::Inbound);
        node.request(n, Need::High);
        node.now = node.now + Duration::from_secs(1);
    }
    node.out();
}

fn stay(node: &TestBench, neighbours: &[u8]) -> Vec<bool> {
    neighbours.iter().map(|n| node.active().contains(&id(*n))).collect()
}

#[test]
fn outbound_neighbours_are_of_different_groups() {
    let mut node = TestBench::new();
    // Node 3 is in the group of node 1.
    for (n, ip) in [(1, ip(1)), (2, ip(2)), (3, IpAddr::from([1, 1, 9, 9])), (4, ip(4)), (5, ip(5))]
    {
        add(&mut node, n, ip, Origin::Chosen);
    }
    assert_eq!(node.part.outbound(), [id(1), id(2)]);
    // A newcomer of that group displaces the second of its nodes.
    node.link_at(60, Direction::Inbound, IpAddr::from([1, 1, 5, 5]));
    node.request(60, Need::High);
    assert_eq!(stay(&node, &[1, 2, 3]), [true, true, false]);
    attack(&mut node);
    assert_eq!(stay(&node, &[1, 2]), [true, true]);
}

#[test]
fn in_a_network_of_one_group_all_neighbours_that_this_node_chose_stay() {
    let mut node = TestBench::new();
    for n in 1..=5 {
        add(&mut node, n, crowded_ip(n), Origin::Known);
    }
    for n in 60..80 {
        node.link_at(n, Direction::Inbound, crowded_ip(n));
        node.request(n, Need::High);
    }
    assert_eq!(stay(&node, &[1, 2, 3, 4, 5]), [true; 5]);
    assert_eq!(node.active().len(), 6, "with one guest of the attacker's group");
}

#[test]
fn nodes_that_others_have_named_are_no_outbound_neighbours() {
    for origin in [Origin::Named, Origin::Walk, Origin::Repair, Origin::Known] {
        let mut node = TestBench::new();
        add(&mut node, 1, ip(1), Origin::Chosen);
        add(&mut node, 2, ip(2), origin);
        for n in 3..=5 {
            add(&mut node, n, ip(n), Origin::Named);
        }
        assert_eq!(node.part.outbound(), [id(1)], "{origin:?}");
    }
    // The way of a node that a neighbour names when it drops this node.
    let mut node = TestBench::member(3);
    add(&mut node, 4, ip(4), Origin::Chosen);
    node.receive(1, Frame::Disconnect(Disconnect { instead: vec![record(9)], leaves: false }));
    assert_eq!(node.wait_for("dial"), "dial 9");
    node.link(9, Direction::Outbound);
    node.reply(9, NeighbourOutcome::Accepted, Vec::new());
    assert!(node.active().contains(&id(9)));
    assert_eq!(node.part.outbound(), [id(4)]);
}

#[test]
fn a_node_counts_by_the_address_at_which_it_was_reached() {
    let mut node = TestBench::new();
    // The records claim addresses of 40 groups.
    for n in 1..=40 {
        node.act(|membership, cx| membership.probe(cx, id(n), ProbePurpose::Test));
        let answer = answer(n, false, 100);
        node.act(|membership, cx| membership.probed(cx, id(n), Some((crowded_ip(n), answer))));
    }
    assert!(!node.part.book.knows_several_groups());
    // A fifth of the twenty places for tested nodes.
    assert_eq!(node.part.views().passive.len(), 4);
}

#[test]
fn an_attacker_with_few_groups_is_seldom_drawn() {
    let mut node = TestBench::new();
    for n in 1..=20 {
        reach(&mut node, n, ip(n));
    }
    for n in 101..=200 {
        reach(&mut node, n, crowded_ip(n));
    }
    let mut of_attacker = 0;
    for _ in 0..1000 {
        let drawn = node.act(|membership, cx| {
            membership.book.draw_of_other_group(cx, &[], |_| true).expect("one is known")
        });
        of_attacker += u32::from((101..=200).any(|n| id(n) == drawn));
    }
    // It has one group of 21, but some fifty of seventy nodes.
    assert!((10..=100).contains(&of_attacker), "{of_attacker} of 1000");
    let group = node.part.address_groups.group(crowded_ip(1));
    for _ in 0..100 {
        let drawn = node.act(|membership, cx| {
            membership.book.draw_of_other_group(cx, &[group], |_| true).expect("one is known")
        });
        assert!((1..=20).any(|n| id(n) == drawn));
    }
}

#[test]
fn a_full_node_looks_for_outbound_neighbours_and_insists_after_five_refusals() {
    let mut node = TestBench::member(5);
    node.now = node.now + Duration::from_secs(20);
    for n in 11..=17 {
        reach(&mut node, n, ip(n));
    }
    // Returns the node that is asked.
    let search = |node: &mut TestBench, need: &str| -> u8 {
        node.now = node.part.outbound_search.poll_timeout().expect("the node searches");
        node.act(|membership, cx| membership.find_outbound(cx));
        let dialled = node.out().concat().strip_prefix("dial ").unwrap().parse().unwrap();
        node.link(dialled, Direction::Outbound);
        assert_eq!(node.out(), [format!("ask {dialled} {need}")]);
        dialled
    };
    for _ in 0..5 {
        let asked = search(&mut node, "Chosen");
        node.reply(asked, NeighbourOutcome::Full, Vec::new());
        node.unlink(asked, Reason::NotNeeded);
        node.out();
    }
    let asked = search(&mut node, "High");
    node.reply(asked, NeighbourOutcome::Accepted, Vec::new());
    assert_eq!(node.part.outbound(), [id(asked)]);
    assert_eq!(node.active().len(), 6, "in addition to the others");
}

#[test]
fn a_drawn_node_that_is_a_neighbour_already_becomes_an_outbound_one() {
    let mut node = TestBench::member(5);
    for n in 1..=2 {
        reach(&mut node, n, ip(n));
    }
    for _ in 0..2 {
        node.act(|membership, cx| membership.find_outbound(cx));
    }
    assert_eq!(node.part.outbound().len(), 2);
    attack(&mut node);
    assert_eq!(stay(&node, &[1, 2]), [true, true]);
}

#[test]
fn a_group_displaces_its_own_neighbours_first() {
    let mut node = TestBench::member(4);
    for n in 101..=110 {
        node.link_at(n, Direction::Inbound, crowded_ip(n));
        node.request(n, Need::High);
        assert!(node.active().contains(&id(n)));
    }
    assert_eq!(stay(&node, &[1, 2, 3, 4]), [true; 4]);
}

#[test]
fn a_full_node_takes_one_guest_of_each_group_and_then_the_newest_gives_way() {
    let mut node = TestBench::member(5);
    // Even a node that does not insist gets a place at which nobody has to give way.
    for (n, need) in [(60, Need::Chosen), (61, Need::High)] {
        node.link(n, Direction::Inbound);
        node.request(n, need);
    }
    assert_eq!(node.active().len(), 7);
    // A second node of a group displaces the first, if it insists.
    node.link_at(62, Direction::Inbound, ip(60));
    node.request(62, Need::Chosen);
    assert_eq!(stay(&node, &[60, 62]), [true, false]);
    node.request(62, Need::High);
    assert_eq!(stay(&node, &[60, 62]), [false, true]);
    for n in 70..100 {
        node.now = node.now + Duration::from_secs(20);
        node.link(n, Direction::Inbound);
        node.request(n, Need::High);
    }
    assert_eq!(stay(&node, &[1, 2, 3, 4, 5]), [true; 5]);
    assert_eq!(node.active().len(), 5 + GUESTS);
    assert!(node.active().contains(&id(99)), "and the one before it has given way");
    node.link(100, Direction::Inbound);
    node.request(100, Need::Chosen);
    assert!(!node.active().contains(&id(100)));
}

#[test]
fn a_node_that_joins_displaces_a_new_neighbour() {
    let mut node = TestBench::member(5);
    node.link(60, Direction::Inbound);
    node.request(60, Need::Join);
    assert_eq!(node.active().len(), 5);
    node.now = node.now + SETTLED;
    node.link(61, Direction::Inbound);
    node.request(61, Need::Join);
    assert_eq!(node.active().len(), 6, "all are settled, so it becomes a guest");
}

#[test]
fn a_random_neighbour_gives_way_if_outbound_groups_are_off() {
    let mut node = TestBench::new();
    node.part.outbound_groups = false;
    for n in 1..=5 {
        node.link(n, Direction::Inbound);
        node.request(n, Need::High);
    }
    for n in 60..80 {
        node.now = node.now + Duration::from_secs(20);
        node.link(n, Direction::Inbound);
        node.request(n, Need::High);
    }
    assert_eq!(node.active().len(), 5);
    assert!(stay(&node, &[1, 2, 3, 4, 5]).iter().filter(|stays| **stays).count() < 4);
}

#[test]
fn the_neighbour_that_was_useful_last_stays() {
    let mut node = TestBench::member(5);
    // All five have been neighbours for a moment, so any of them could give way.
    node.part.note_useful(node.now, id(3));
    for n in 60..80 {
        node.link(n, Direction::Inbound);
        node.request(n, Need::High);
    }
    assert_eq!(stay(&node, &[3]), [true]);
}

#[test]
fn anchors_are_the_first_outbound_neighbours_and_stay_when_the_node_leaves() {
    let mut node = TestBench::new();
    let mut named = Vec::new();
    let mut take = |node: &mut TestBench| {
        for effect in node.out.drain(..) {
            if let Effect::Out(Output::Anchors(anchors)) = effect {
                named.push(anchors);
            }
        }
    };
    node.act(|membership, cx| membership.join(cx, id(1)));
    add(&mut node, 1, ip(1), Origin::Chosen);
    add(&mut node, 2, ip(2), Origin::Chosen);
    take(&mut node);
    node.act(Membership::leave);
    take(&mut node);
    node.act(|membership, cx| membership.join(cx, id(3)));
    add(&mut node, 3, ip(3), Origin::Chosen);
    take(&mut node);
    assert_eq!(named, [vec![id(1)], vec![id(1), id(2)], vec![id(3), id(1)]]);
}

#[test]
fn an_attacker_with_five_groups_does_not_fill_the_passive_view() {
    let mut node = TestBench::member(5);
    for n in 1..=20 {
        node.act(|membership, cx| membership.passive.add_reached(cx, record(n), None));
    }
    for n in 101..=200 {
        let ip = IpAddr::from([198, 50 + n % 5, 100, n]);
        node.act(|membership, cx| {
            let group = membership.address_groups.group(ip);
            membership.passive.add_reached(cx, record(n), group);
        });
    }
    let honest = (1..=20).filter(|n| node.knows(*n)).count();
    assert!(honest >= 10, "{honest} of 20 are left");
}

#[test]
fn a_node_whose_guests_are_many_makes_room_for_its_outbound_neighbours() {
    let mut node = TestBench::member(5);
    node.now = node.now + SETTLED;
    for n in 60..90 {
        node.link(n, Direction::Inbound);
        node.request(n, Need::High);
    }
    for n in 11..=12 {
        reach(&mut node, n, ip(n));
        node.link(n, Direction::Outbound);
        node.act(|membership, cx| {
            membership.ask_for_place(cx, id(n), Need::Chosen, Origin::Chosen);
        });
        node.reply(n, NeighbourOutcome::Accepted, Vec::new());
        node.now = node.now + Duration::from_secs(1);
    }
    assert_eq!(node.part.outbound(), [id(11), id(12)]);
    attack(&mut node);
    assert_eq!(stay(&node, &[1, 2, 3, 4, 5, 11, 12]), [true; 7]);
    assert_eq!(node.active().len(), 5 + GUESTS);
}
