//! Tests of further neighbours, which a node with free places draws, and of doubtful neighbours.

use super::*;

/// Returns a member with the neighbours 1 and 2, which it has drawn itself. It has also reached the nodes 10 to 20.
fn member_behind_a_nat() -> TestBench {
    let mut node = TestBench::new();
    node.act(Membership::become_member);
    for n in [1, 2] {
        node.link(n, Direction::Outbound);
        let origin = Some(Origin::Chosen);
        node.act(|membership, cx| membership.add_neighbour(cx, id(n), record(n), origin));
        node.now = node.now + Duration::from_secs(1);
    }
    for n in 10..=20 {
        reach(&mut node, n);
    }
    node.out.clear();
    node
}

fn reach(node: &mut TestBench, n: u8) {
    node.act(|membership, cx| {
        let group = membership.address_groups.group(ip(n));
        membership.book.reached(cx, &record(n), group);
    });
}

/// Lets time pass. Answers each request for a place with `outcome` and `records`, and the probes of nodes below 100.
/// Other nodes do not answer. Returns the needs of the requests, in their order.
fn answer_requests(
    node: &mut TestBench,
    time: Duration,
    outcome: NeighbourOutcome,
    records: &[NodeRecord],
) -> Vec<String> {
    let end = node.now + time;
    let mut needs = Vec::new();
    while node.part.poll_timeout().is_some_and(|due| due <= end) {
        node.wait();
        for said in node.out() {
            let words: Vec<_> = said.split(' ').collect();
            match words[..] {
                ["dial", n] => node.link(n.parse().unwrap(), Direction::Outbound),
                ["probe", n, _] => {
                    let n = n.parse().unwrap();
                    // This node knows no lesser identity than its own, so there is no partition to repair.
                    node.probed(n, (n < 100).then(|| answer(n, false, 100)));
                }
                _ => continue,
            }
            for said in node.out() {
                let Some((n, need)) = said.strip_prefix("ask ").and_then(|ask| ask.split_once(' '))
                else {
                    continue;
                };
                needs.push(need.to_owned());
                let n = n.parse().unwrap();
                node.reply(n, outcome, records.to_vec());
                if outcome != NeighbourOutcome::Accepted {
                    node.unlink(n, Reason::NotNeeded);
                }
            }
        }
    }
    needs
}

#[test]
fn a_node_with_free_places_draws_further_neighbours_and_displaces_none() {
    let mut node = member_behind_a_nat();
    let time = Duration::from_secs(300);
    let needs = answer_requests(&mut node, time, NeighbourOutcome::Accepted, &[]);
    assert_eq!(needs, ["Chosen"; 3]);
    assert_eq!(node.active().len(), 5);
    assert_eq!(node.part.outbound(), [id(1), id(2)], "the further ones are not protected");
}

#[test]
fn a_node_that_is_refused_asks_less_often() {
    let mut node = member_behind_a_nat();
    let time = Duration::from_secs(3600);
    let needs = answer_requests(&mut node, time, NeighbourOutcome::Full, &[]);
    // Six at intervals of ten seconds, four at intervals that double, and then one in 160 seconds, each with a random
    // quarter more or less.
    assert!((24..=36).contains(&needs.len()), "{}", needs.len());
    assert!(needs.iter().all(|need| need == "Chosen"), "{needs:?}");
}

#[test]
fn a_neighbour_that_names_only_nodes_that_do_not_exist_is_replaced_but_stays() {
    let mut node = member_behind_a_nat();
    let made_up: Vec<_> = (101..=107).map(record).collect();
    node.act(|membership, cx| {
        membership.begin_trial(id(1), &made_up);
        membership.learn(cx, Some(id(1)), made_up.clone());
    });
    let time = Duration::from_secs(600);
    let named = [record(10), record(108)];
    let needs = answer_requests(&mut node, time, NeighbourOutcome::Accepted, &named);
    assert!(node.part.trials.is_doubtful(id(1)) && !node.part.trials.is_doubtful(id(2)));
    // Three for the free places, and one in place of the doubtful neighbour.
    assert_eq!((needs.len(), node.active().len()), (4, 6));
    // It stays protected too, after two that are not doubtful: its view may have been filled by an attacker.
    let outbound = node.part.outbound();
    assert_eq!((outbound.len(), outbound[0], outbound[2]), (3, id(2), id(1)));
}

#[test]
fn few_doubtful_neighbours_are_replaced() {
    let mut node = member_behind_a_nat();
    for n in 21..=60 {
        reach(&mut node, n);
    }
    let time = Duration::from_secs(20 * 60);
    let made_up: Vec<_> = (101..=107).map(record).collect();
    answer_requests(&mut node, time, NeighbourOutcome::Accepted, &made_up);
    // All neighbours that this node asks from now on lie.
    let doubtful = node.active().iter().filter(|id| node.part.trials.is_doubtful(**id)).count();
    assert!(doubtful >= 3, "{doubtful}");
    assert_eq!(node.active().len(), 5 + trial::MAX_DOUBTFUL);
}
