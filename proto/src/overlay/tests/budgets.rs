//! Frames that are charged before the work that they cause.

use super::bench::{TestBench, UNIX};
use super::*;
use crate::frame::broadcast::Batch;
use crate::frame::membership::{Need, NeighbourOutcome, NeighbourReply, NeighbourRequest};
use crate::invitation::MembershipError;
use crate::invitation::tests::{invite, key};
use crate::node_record::NodeRecord;
use crate::overlay::broadcast::tests::item;
use crate::overlay::budgets::Work;
use crate::overlay::members::MembershipState;

fn setup() -> NodeSetup {
    let (name, network) = ("n".into(), "net".into());
    NodeSetup { key: key(100), name, network, epoch: UNIX, manual: false }
}

/// Returns the frames that a part has sent to a node.
fn sent_to<P>(bench: &mut TestBench<P>, to: NodeId) -> Vec<Frame> {
    let effects = std::mem::take(&mut bench.out).into_iter();
    let frames = effects.filter_map(|effect| match effect {
        Effect::Send(id, frame) if id == to => Some(frame),
        _ => None,
    });
    frames.collect()
}

/// A stranger asks for a place again and again. After its budget, no signature is checked and no walk begins.
#[test]
fn requests_for_a_place_over_the_budget_are_refused_without_work() {
    let mut bench = TestBench::of(Membership::new(&setup(), &Config::default()));
    let from = key(1).id();
    let address = "198.51.100.1:7117".parse().unwrap();
    let record = NodeRecord::sign(&key(1), "net", UNIX, &[address]);
    let mut outcomes = Vec::new();
    for _ in 0..1000 {
        let request = NeighbourRequest { need: Need::Join, record: record.clone() };
        bench.act(|part, cx| part.receive(cx, from, Frame::NeighbourRequest(request)));
        for frame in sent_to(&mut bench, from) {
            if let Frame::NeighbourReply(NeighbourReply { outcome, records, .. }) = frame {
                outcomes.push((outcome, records.len()));
            }
        }
    }
    let (accepted, refused) = outcomes.split_at(64 + 256);
    assert!(accepted.iter().all(|(outcome, _)| *outcome == NeighbourOutcome::Accepted));
    assert!(refused.iter().all(|refused| *refused == (NeighbourOutcome::Full, 0)));
    assert_eq!((outcomes.len(), bench.budgets.drops().records), (1000, 1000 - 320));
}

/// A stranger floods a member with broadcasts. The member asks for none of them again, and sends it no others.
#[test]
fn a_stranger_that_floods_a_member_with_broadcasts_is_not_served() {
    let mut bench = TestBench::of(Broadcasts::new(&setup(), &Config::default()));
    bench.budgets.set_member(true);
    let [flooder, neighbour] = [key(1).id(), key(2).id()];
    for id in [flooder, neighbour] {
        let address = "198.51.100.1:7117".parse().unwrap();
        bench.links.insert(id, Peer::new(id, String::new(), address, Direction::Inbound));
    }
    bench.budgets.set_standing(neighbour, Standing::Neighbour);
    let batch = |author: u8, epoch: u64, number: u64| {
        let items = vec![item("x")];
        Frame::Broadcast(Batch::sign(&key(author), "net", epoch, (number, number), items))
    };
    let receive = |bench: &mut TestBench<Broadcasts>, from, frame| {
        let Frame::Broadcast(batch) = frame else { panic!() };
        bench.act(|part, cx| part.receive(cx, from, batch));
    };
    for epoch in 1..=1000 {
        receive(&mut bench, flooder, batch(3, epoch, 1));
    }
    assert_eq!(bench.part.counters().received, 100 + 200);
    assert_eq!(bench.budgets.drops().broadcasts, 1000 - 300);
    assert_eq!(sent_to(&mut bench, flooder).len(), 0, "it is not asked for the others");
    receive(&mut bench, neighbour, batch(4, 1, 1));
    assert_eq!(bench.part.counters().received, 301, "those of neighbours arrive");
    bench.act(Broadcasts::handle_timeout);
    assert_eq!(sent_to(&mut bench, flooder).len(), 0);
    bench.now = bench.now + Duration::from_secs(11);
    receive(&mut bench, neighbour, batch(4, 1, 2));
    bench.act(Broadcasts::handle_timeout);
    assert_eq!(sent_to(&mut bench, flooder).len(), 1);
}

/// A peer that asks for a place while a broadcast waits for the turns of strangers is no stranger any more, so it
/// would have no turn.
#[test]
fn a_stranger_that_becomes_a_neighbour_gets_what_was_due_with_its_next_frame() {
    let mut node = Overlay::new(setup(), &Config::default(), [1; 32]);
    node.set_clocks(Now { monotonic: Instant::ZERO, unix: UNIX });
    for (n, direction) in [(1, Direction::Outbound), (2, Direction::Inbound)] {
        let address: Address = format!("192.0.2.{n}:7117").parse().unwrap();
        let (id, ip) = (key(n).id(), address.socket().unwrap().ip());
        let candidate = Candidate { id, direction, incarnation: 1, ip, is_relayed: false };
        let peer = Peer::new(id, "p".into(), address, direction);
        node.link_up(peer, candidate, None, LinkTransport::default());
    }
    let request = |n: u8| {
        let address = format!("192.0.2.{n}:7117").parse().unwrap();
        let record = NodeRecord::sign(&key(n), "net", UNIX, &[address]);
        Frame::NeighbourRequest(NeighbourRequest { need: Need::High, record })
    };
    let [neighbour, stranger] = [key(1).id(), key(2).id()];
    // Returns the number of broadcasts that are sent to the stranger.
    let pushed = |node: &mut Overlay| {
        let frames = std::iter::from_fn(|| node.poll()).filter_map(|effect| match effect {
            Effect::Send(to, frame) if to == stranger => Some(frame),
            _ => None,
        });
        frames.filter(|frame| matches!(frame, Frame::Broadcast(_))).count()
    };
    // The first request makes this node a member.
    node.receive(neighbour, request(1));
    let batch = Batch::sign(&key(3), "net", 1, (1, 1), vec![item("x")]);
    node.receive(neighbour, Frame::Broadcast(batch));
    assert_eq!(pushed(&mut node), 0, "it waits for the stranger's turn");
    node.receive(stranger, request(2));
    node.receive(stranger, Frame::Have(Vec::new()));
    assert_eq!(pushed(&mut node), 1);
    node.handle_timeout();
    assert_eq!(pushed(&mut node), 0, "only once");
}

/// Each new entry of the roster is passed on to the whole network.
#[test]
fn entries_of_the_roster_over_the_budget_are_dropped_before_they_are_checked() {
    let mut bench = TestBench::of(Members::new("net".into()));
    let own = invite(50, 1).accept(&key(100));
    let (records, revocations) = (Vec::new(), Vec::new());
    let state = MembershipState { own: own.clone(), owner_key: None, records, revocations };
    bench.act(|members, cx| members.start(cx, state));
    let from = key(1).id();
    let receive = |bench: &mut TestBench<Members>, proofs| {
        bench.act(|members, cx| members.receive(cx, from, Frame::Members(proofs)));
    };
    let by_one = invite(51, 3);
    let [first, second] = [2, 3].map(|n| by_one.accept(&key(n)));
    receive(&mut bench, vec![first.clone()]);
    while bench.budgets.take(bench.now, from, Work::Roster, 1) {}
    let before = bench.budgets.drops().roster;
    receive(&mut bench, vec![own, first.clone()]);
    assert_eq!(bench.budgets.drops().roster, before, "known entries cost nothing");
    receive(&mut bench, vec![first, second]);
    assert_eq!(bench.budgets.drops().roster, before + 1);
    let members = bench.part.roster().unwrap().members().count();
    assert_eq!(members, 2);
}

/// The record of an expired membership is forgotten in the check that ends the link.
#[test]
fn a_link_ends_with_the_reason_that_the_membership_has_expired() {
    let mut bench = TestBench::of(Members::new("net".into()));
    let own = invite(50, 1).accept(&key(100));
    let proof = invite(51, 1).accept(&key(1));
    let (records, revocations) = (vec![proof.clone()], Vec::new());
    let state = MembershipState { own, owner_key: None, records, revocations };
    bench.act(|members, cx| members.start(cx, state));
    let id = proof.member();
    let address = "198.51.100.1:7117".parse().unwrap();
    bench.links.insert(id, Peer::new(id, String::new(), address, Direction::Inbound));
    bench.out.clear();
    bench.now = bench.now + Duration::from_millis(proof.expires() - UNIX);
    bench.act(|members, cx| members.handle_timeout(cx));
    assert_eq!(bench.part.roster().unwrap().record(id), None);
    let closed = bench.out.iter().filter_map(|effect| match effect {
        Effect::CloseLink(peer, reason) => Some((*peer, reason.clone())),
        _ => None,
    });
    let expected = Reason::NotAMember(MembershipError::Expired);
    assert_eq!(closed.collect::<Vec<_>>(), [(id, expected)]);
}
