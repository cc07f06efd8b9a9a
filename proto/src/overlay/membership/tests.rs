use super::outbound::{GUESTS, SETTLED};
use super::*;
use crate::event::{Direction, Peer};
use crate::frame::membership::{
    Beacon, ForwardJoin, NeighbourRequest, Shuffle, ShuffleReply, SignedBeacon,
};
use crate::overlay::budgets::Standing;
use crate::overlay::tests::bench::UNIX;
use crate::peer::{Output, Purpose};
use neighbours::{EVICTION_INTERVAL, EVICTIONS_BURST};
use passive::{RETRY_MAX, RETRY_MIN};

mod beacons;
mod feelers;
mod further;
mod outbound;

type TestBench = crate::overlay::tests::bench::TestBench<Membership>;

impl TestBench {
    fn new() -> Self {
        Self::with(Config::default(), false)
    }

    fn with(config: Config, manual: bool) -> Self {
        let (name, network) = ("n".into(), "net".into());
        let setup = NodeSetup { key: key(100), name, network, epoch: UNIX, manual };
        let mut bench = Self::of(Membership::new(&setup, &config));
        bench.act(|membership, cx| membership.set_addresses(cx, &[address(100)]));
        bench
    }

    /// Returns a member whose neighbours are the nodes 1 to `count`, which have asked for their places.
    fn member(count: u8) -> Self {
        let mut bench = Self::new();
        for n in 1..=count {
            bench.link(n, Direction::Inbound);
            bench.request(n, Need::Low);
        }
        bench.out.clear();
        bench
    }

    fn link(&mut self, n: u8, direction: Direction) {
        self.link_at(n, direction, ip(n));
    }

    fn link_at(&mut self, n: u8, direction: Direction, ip: IpAddr) {
        self.links.insert(id(n), Peer::new(id(n), String::new(), address(n), direction));
        self.act(|membership, cx| membership.link_up(cx, id(n), ip));
    }

    fn unlink(&mut self, n: u8, reason: Reason) {
        self.links.remove(&id(n));
        let link_end = LinkEnd { reason, by_peer: true };
        self.act(|membership, cx| membership.link_down(cx, id(n), &link_end));
    }

    fn receive(&mut self, from: u8, frame: Frame) {
        self.act(|membership, cx| membership.receive(cx, id(from), frame));
    }

    fn request(&mut self, from: u8, need: Need) {
        let request = NeighbourRequest { need, record: record(from) };
        self.receive(from, Frame::NeighbourRequest(request));
    }

    fn reply(&mut self, from: u8, outcome: NeighbourOutcome, records: Vec<NodeRecord>) {
        let reply = NeighbourReply { outcome, record: record(from), records };
        self.receive(from, Frame::NeighbourReply(reply));
    }

    fn probed(&mut self, n: u8, answer: Option<Probe>) {
        let answer = answer.map(|answer| (ip(n), answer));
        self.act(|membership, cx| membership.probed(cx, id(n), answer));
    }

    /// Lets time pass until the next deadline, and handles it.
    fn wait(&mut self) {
        self.now = self.part.poll_timeout().expect("there is a deadline");
        self.act(|membership, cx| membership.handle_timeout(cx));
    }

    /// Lets time pass until there is an effect whose text starts with `start`. Drops all other effects.
    fn wait_for(&mut self, start: &str) -> String {
        let end = self.now + Duration::from_secs(120);
        while self.now < end {
            if let Some(said) = self.out().into_iter().find(|said| said.starts_with(start)) {
                return said;
            }
            self.wait();
        }
        panic!("no `{start}`");
    }

    /// Returns the effects in words: `ask 1 Low` is a request for a place that is sent to node 1, and
    /// `drop 1 +2` is the notice to neighbour 1 that it is dropped and may ask node 2 instead.
    fn out(&mut self) -> Vec<String> {
        let number = |id: NodeId| (1..=250).find(|n| self::id(*n) == id).unwrap();
        let names = |records: &[NodeRecord]| {
            records.iter().map(|record| format!(" +{}", number(record.node))).collect::<String>()
        };
        let words = |effect: Effect| match effect {
            Effect::Send(to, frame) => {
                let to = number(to);
                match frame {
                    Frame::NeighbourRequest(request) => format!("ask {to} {:?}", request.need),
                    Frame::NeighbourReply(reply) => format!("reply {to} {:?}", reply.outcome),
                    Frame::ForwardJoin(join) => {
                        format!("join {to} {}{}", join.steps, names(&[join.record]))
                    }
                    Frame::Disconnect(disconnect) => {
                        let word = if disconnect.leaves { "leave" } else { "drop" };
                        format!("{word} {to}{}", names(&disconnect.instead))
                    }
                    Frame::Shuffle(shuffle) => format!("shuffle {to} {}", shuffle.steps),
                    Frame::ShuffleReply(reply) => format!("shuffled {to} {}", reply.id),
                    Frame::SignedBeacon(signed) => {
                        format!("beacon {to} {}", number(signed.beacon.least))
                    }
                    other => panic!("{other:?}"),
                }
            }
            Effect::Dial { addresses, purpose: Purpose::Overlay } => {
                format!("dial {}", number(addresses[0].id.unwrap()))
            }
            Effect::Out(Output::Probe { id, probe, .. }) => {
                format!("probe {} {}", number(id), probe.neighbour)
            }
            Effect::CloseLink(id, reason) => match reason {
                Reason::Fault(_) => format!("fault {}", number(id)),
                reason => format!("hang up {} {reason:?}", number(id)),
            },
            Effect::Joined(id) => format!("joined {}", number(id)),
            Effect::JoinRefused(id, outcome) => format!("no join {} {outcome:?}", number(id)),
            other => panic!("{other:?}"),
        };
        let shown =
            self.out.drain(..).filter(|effect| !matches!(effect, Effect::Out(Output::Anchors(_))));
        shown.map(words).collect()
    }

    fn active(&self) -> Vec<NodeId> {
        self.part.views().active
    }

    fn knows(&self, n: u8) -> bool {
        self.part.views().passive.contains(&id(n))
    }
}

fn key(n: u8) -> Key {
    Key::from_secret(&[n; 32])
}

fn id(n: u8) -> NodeId {
    key(n).id()
}

/// Returns the address of a node. Each node is in a group of addresses of its own.
fn address(n: u8) -> Address {
    format!("{n}.1.2.3:7117").parse().unwrap()
}

fn ip(n: u8) -> IpAddr {
    IpAddr::from([n, 1, 2, 3])
}

fn record(n: u8) -> NodeRecord {
    NodeRecord::sign(&key(n), "net", UNIX, &[address(n)])
}

fn answer(n: u8, neighbour: bool, least: u8) -> Probe {
    let beacon = Beacon { least: id(least), count: UNIX };
    Probe { neighbour, record: record(n), beacon, records: Vec::new() }
}

#[test]
fn a_node_joins_through_a_link() {
    let mut node = TestBench::new();
    node.link(1, Direction::Outbound);
    assert_eq!(node.out(), [""; 0], "a link alone makes no member");
    node.act(|membership, cx| membership.join(cx, id(1)));
    assert_eq!(node.out(), ["ask 1 Join"]);
    node.reply(1, NeighbourOutcome::Accepted, vec![record(2), record(3)]);
    assert_eq!(node.out(), ["beacon 1 100", "joined 1"]);
    assert_eq!(node.active(), [id(1)]);
    // A node from a record is probed first, and dialled once it has reserved a place.
    let probed: u8 = node.wait_for("probe")[6..7].parse().unwrap();
    node.probed(probed, Some(answer(probed, true, 100)));
    assert!(node.out().contains(&format!("dial {probed}")));
    node.link(probed, Direction::Outbound);
    assert_eq!(node.out(), [format!("ask {probed} Low")]);
}

#[test]
fn a_manual_node_neither_joins_nor_accepts_neighbours() {
    let mut node = TestBench::with(Config::default(), true);
    node.link(1, Direction::Inbound);
    node.act(|membership, cx| membership.join(cx, id(1)));
    node.request(1, Need::High);
    assert_eq!(node.out(), ["no join 1 Manual", "reply 1 Manual"]);
    assert_eq!(node.part.poll_timeout(), None);
}

#[test]
fn a_join_that_is_refused_or_not_answered_is_reported() {
    let mut node = TestBench::new();
    for n in 1..=3 {
        node.link(n, Direction::Outbound);
        node.act(|membership, cx| membership.join(cx, id(n)));
    }
    node.out();
    node.reply(1, NeighbourOutcome::Manual, Vec::new());
    assert_eq!(node.out(), ["hang up 1 NotNeeded", "no join 1 Manual"]);
    node.unlink(2, Reason::Stopping);
    assert_eq!(node.out(), ["no join 2 Full"]);
    assert_eq!(node.wait_for("no join"), "no join 3 Full");
}

#[test]
fn a_new_node_is_announced_and_the_evicted_neighbour_learns_of_it() {
    let mut node = TestBench::member(5);
    node.link(6, Direction::Inbound);
    node.request(6, Need::Join);
    let out = node.out();
    let gone = (1..=5).find(|n| !node.active().contains(&id(*n))).unwrap();
    assert_eq!(out[0], format!("drop {gone} +6"));
    assert_eq!(out[1], "reply 6 Accepted");
    let joins = out.iter().filter(|said| said.starts_with("join ") && said.ends_with(" 6 +6"));
    assert_eq!(joins.count(), 4);
    assert_eq!(node.active().len(), 5);
    assert!(node.knows(gone), "it can be asked again");
}

#[test]
fn the_side_that_has_dialled_closes_the_link_unless_it_is_pinned() {
    for pinned in [false, true] {
        let mut node = TestBench::member(1);
        node.link(2, Direction::Outbound);
        if pinned {
            node.part.pin(id(2));
        }
        node.request(2, Need::Low);
        node.out();
        for n in [1, 2] {
            let disconnect = Disconnect { instead: Vec::new(), leaves: false };
            node.receive(n, Frame::Disconnect(disconnect));
        }
        let expected: &[&str] = if pinned { &[] } else { &["hang up 2 NeighbourReplaced"] };
        assert_eq!(node.out(), expected);
        assert!(node.active().is_empty());
    }
}

#[test]
fn a_full_node_refuses_a_node_that_has_neighbours_and_keeps_reserved_places() {
    let mut node = TestBench::member(5);
    node.link(6, Direction::Inbound);
    node.request(6, Need::Low);
    assert_eq!(node.out(), ["reply 6 Full"]);
    // A place that is reserved for a node is not given to another.
    let mut node = TestBench::member(4);
    let mut probe = answer(7, true, 7);
    probe.record = record(7);
    let answer = node.act(|membership, cx| membership.answer_probe(cx, id(7), probe.clone()));
    assert!(answer.neighbour);
    for (n, expected) in [(6, "reply 6 Full"), (7, "reply 7 Accepted")] {
        node.link(n, Direction::Inbound);
        node.request(n, Need::Low);
        assert_eq!(node.out()[0], expected);
    }
    // The reservation ends.
    let mut node = TestBench::member(4);
    node.act(|membership, cx| membership.answer_probe(cx, id(7), probe));
    node.now = node.now + PLACE_TIMEOUT;
    node.link(6, Direction::Inbound);
    node.request(6, Need::Low);
    assert_eq!(node.out()[0], "reply 6 Accepted");
}

#[test]
fn a_node_named_as_replacement_is_asked_first() {
    let mut node = TestBench::member(5);
    let disconnect = Disconnect { instead: vec![record(9)], leaves: true };
    node.receive(1, Frame::Disconnect(disconnect));
    node.wait();
    assert_eq!(node.out(), ["dial 9"]);
    assert!(!node.knows(1), "a node that leaves is not asked again");
}

#[test]
fn a_lost_neighbour_is_replaced_at_once() {
    let mut node = TestBench::member(2);
    node.act(|membership, cx| membership.add_known_nodes(cx, vec![(id(8), vec![address(8)])]));
    let now = node.now;
    node.unlink(1, Reason::Lost("reset".into()));
    node.wait();
    assert_eq!((node.now, node.out()), (now, vec!["probe 8 true".to_owned()]));
    // A node without any neighbour dials without a probe.
    node.unlink(2, Reason::Lost("reset".into()));
    node.probed(8, None);
    node.act(|membership, cx| membership.add_known_nodes(cx, vec![(id(9), vec![address(9)])]));
    node.wait();
    assert_eq!(node.out(), ["dial 9"]);
    node.link(9, Direction::Outbound);
    assert_eq!(node.out(), ["ask 9 High"]);
}

#[test]
fn a_neighbour_keeps_its_place_when_its_link_is_replaced() {
    let mut node = TestBench::member(1);
    node.unlink(1, Reason::Duplicate);
    node.link(1, Direction::Outbound);
    assert_eq!(node.out(), ["ask 1 High"]);
}

#[test]
fn the_slower_dial_of_a_simultaneous_open_leaves_no_link() {
    let mut node = TestBench::member(4);
    let at = vec![address(8).with_id(id(8))];
    node.act(|membership, cx| membership.ask_or_dial(cx, id(8), at, Need::Low, Origin::Known));
    node.out();
    // The other node's own dial is faster. The two become neighbours, but only for a short time.
    node.link(8, Direction::Inbound);
    node.request(8, Need::Low);
    node.receive(8, Frame::Disconnect(Disconnect { instead: Vec::new(), leaves: false }));
    node.unlink(8, Reason::NeighbourReplaced);
    node.out();
    node.link(8, Direction::Outbound);
    node.act(|membership, cx| membership.dialled(cx, id(8)));
    assert_eq!(node.out(), ["hang up 8 NotNeeded"]);
}

#[test]
fn a_node_that_leaves_names_its_neighbours_to_each_other_and_accepts_none() {
    let mut node = TestBench::member(3);
    node.act(Membership::leave);
    let out = node.out();
    assert_eq!(out.len(), 3);
    for said in out {
        assert!(said.starts_with("leave") && said.matches('+').count() == 2, "{said}");
    }
    assert_eq!(node.part.poll_timeout(), None);
    node.request(1, Need::High);
    assert_eq!(node.out(), ["reply 1 Manual"]);
    // It accepts neighbours again once it joins a network.
    node.act(|membership, cx| membership.join(cx, id(1)));
    assert_eq!(node.out(), ["ask 1 Join"]);
}

#[test]
fn a_walk_ends_where_there_is_room_or_at_its_last_step() {
    let walk = |steps| Frame::ForwardJoin(ForwardJoin { steps, record: record(9) });
    let mut full = TestBench::member(5);
    full.receive(1, walk(6));
    let out = full.out();
    assert!(out.len() == 1 && out[0].starts_with("join") && out[0].ends_with("5 +9"), "{out:?}");
    assert!(!out[0].starts_with("join 1"), "not back to the node that it came from");
    full.receive(1, walk(0));
    assert_eq!(full.out(), ["dial 9"]);
    let mut with_room = TestBench::member(3);
    with_room.receive(1, walk(6));
    assert_eq!(with_room.out(), ["dial 9"]);
    // A walk from a node that is not a neighbour is ignored, and so is a forged record.
    let mut node = TestBench::member(3);
    node.link(8, Direction::Inbound);
    node.receive(8, walk(6));
    let forged = NodeRecord { time: UNIX + 1, ..record(9) };
    node.receive(1, Frame::ForwardJoin(ForwardJoin { steps: 0, record: forged }));
    assert_eq!(node.out(), [""; 0]);
}

#[test]
fn a_shuffle_goes_on_and_its_answer_comes_back() {
    let mut node = TestBench::member(2);
    let shuffle = |id, steps| Frame::Shuffle(Shuffle { id, steps, records: vec![record(9)] });
    node.receive(1, shuffle(5, 6));
    assert_eq!(node.out(), ["shuffle 2 5"]);
    let answer = Frame::ShuffleReply(ShuffleReply { id: 5, records: vec![record(10)] });
    node.receive(2, answer.clone());
    node.receive(2, answer);
    assert_eq!(node.out(), ["shuffled 1 5"], "once");
    assert!(!node.knows(9) && !node.knows(10), "the records are for the other nodes on the walk");
    node.receive(1, shuffle(6, 0));
    assert_eq!(node.out(), ["shuffled 1 6"]);
    assert!(node.knows(9));
}

#[test]
fn learned_nodes_do_not_push_out_tested_nodes() {
    let mut node = TestBench::member(5);
    for n in 10..30 {
        node.act(|membership, cx| membership.passive.add_reached(cx, record(n), None));
    }
    for n in 101..=240 {
        node.act(|membership, cx| membership.passive.learn(cx, record(n)));
    }
    let known = node.part.views().passive.len();
    assert_eq!(known, 30);
    assert!((10..30).all(|n| node.knows(n)));
    // They stay even if they can't be reached for a while.
    for n in 10..30 {
        node.act(|membership, cx| membership.passive.note_failure(cx.now, id(n)));
    }
    assert!((10..30).all(|n| node.knows(n)));
}

#[test]
fn one_group_of_addresses_fills_at_most_a_fifth_of_the_passive_view() {
    let mut node = TestBench::member(5);
    let of_one = |n: u8| {
        let address = format!("198.51.{n}.1:7117").parse().unwrap();
        NodeRecord::sign(&key(n), "net", UNIX, &[address])
    };
    for n in 110..=240 {
        node.act(|membership, cx| membership.passive.learn(cx, of_one(n)));
        node.act(|membership, cx| membership.passive.add_reached(cx, of_one(n - 105), None));
    }
    assert_eq!(node.part.views().passive.len(), 2 + 4);
}

#[test]
fn records_of_a_neighbour_are_accepted_at_a_bounded_rate() {
    let mut node = TestBench::member(5);
    let mut taken = 0;
    for round in 0..50u64 {
        // Each round has later records of the same nodes, so that each record is new.
        let records =
            (10..20).map(|n| NodeRecord::sign(&key(n), "net", UNIX + round, &[address(n)]));
        let before = node.part.budgets.take(node.now, Some(id(2)), 0);
        assert_eq!(before, 0);
        node.act(|membership, cx| membership.learn(cx, Some(id(1)), records.collect()));
        taken += node.part.passive.ids().count();
    }
    assert!(taken > 0);
    assert_eq!(node.part.budgets.take(node.now, Some(id(1)), 1), 0, "the budget is spent");
    assert_eq!(node.part.budgets.take(node.now + Duration::from_secs(5), Some(id(1)), 99), 10);
}

#[test]
fn records_that_are_old_or_forged_are_not_learned() {
    let mut node = TestBench::member(5);
    let old = NodeRecord::sign(&key(9), "net", UNIX - MAX_RECORD_AGE - 1, &[address(9)]);
    let ahead = NodeRecord::sign(&key(10), "net", UNIX + 3_600_000, &[address(10)]);
    let elsewhere = NodeRecord::sign(&key(11), "other", UNIX, &[address(11)]);
    let mut forged = record(12);
    forged.addresses[0] = address(13);
    let records = vec![old, ahead, elsewhere, forged, record(14)];
    node.act(|membership, cx| membership.learn(cx, Some(id(1)), records));
    assert_eq!(node.part.views().passive, [id(14)]);
}

#[test]
fn a_request_with_the_record_of_another_node_is_a_fault() {
    let mut node = TestBench::new();
    node.link(1, Direction::Inbound);
    let request = NeighbourRequest { need: Need::High, record: record(2) };
    node.receive(1, Frame::NeighbourRequest(request));
    assert_eq!(node.out(), ["fault 1"]);
}

#[test]
fn a_node_that_is_full_when_a_place_is_granted_takes_no_guest_that_it_asked_without_need() {
    let mut node = TestBench::member(4);
    node.link(8, Direction::Outbound);
    node.act(|membership, cx| membership.ask_for_place(cx, id(8), Need::Low, Origin::Known));
    node.link(5, Direction::Inbound);
    node.request(5, Need::Low);
    node.out();
    node.reply(8, NeighbourOutcome::Accepted, Vec::new());
    assert_eq!(node.out(), ["drop 8", "hang up 8 NeighbourReplaced"]);
    assert!(!node.active().contains(&id(8)) && node.knows(8));
}

#[test]
fn dials_and_requests_without_an_answer_end() {
    let mut node = TestBench::member(1);
    node.act(|membership, cx| membership.add_known_nodes(cx, vec![(id(8), vec![address(8)])]));
    let address = node.part.passive.addresses(id(8));
    node.act(|membership, cx| {
        membership.ask_or_dial(cx, id(8), address.clone(), Need::Low, Origin::Known);
    });
    assert_eq!(node.out(), ["dial 8"]);
    node.act(|membership, cx| membership.dial_failed(cx, &address[0]));
    assert!(node.part.dials.is_empty());
    node.link(9, Direction::Outbound);
    node.act(|membership, cx| membership.ask_for_place(cx, id(9), Need::Low, Origin::Known));
    assert_eq!(node.wait_for("hang up"), "hang up 9 NotNeeded");
    assert!(node.part.asked.is_empty());
}

#[test]
fn the_wait_after_a_failure_doubles_up_to_a_minute() {
    let mut node = TestBench::member(5);
    node.act(|membership, cx| membership.add_known_nodes(cx, vec![(id(8), vec![address(8)])]));
    for expected in [RETRY_MIN, RETRY_MAX, RETRY_MAX] {
        let failed_at = node.now;
        node.part.passive.note_failure(failed_at, id(8));
        while node.act(|membership, cx| membership.passive.draw_to_probe(cx, |_| true)).is_none() {
            node.now = node.now + Duration::from_secs(1);
        }
        assert_eq!(node.now.since(failed_at), expected);
    }
    assert_eq!(RETRY_MAX, 2 * RETRY_MIN);
}

#[test]
fn nodes_that_send_probes_share_one_budget_for_records() {
    let mut node = TestBench::member(5);
    let mut learned = 0;
    for n in 10..200 {
        let probe = Probe { record: record(n), ..answer(n, false, n) };
        let before = node.part.budgets.take(node.now, None, 0);
        assert_eq!(before, 0);
        node.act(|membership, cx| membership.answer_probe(cx, id(n), probe));
        learned += usize::from(node.part.passive.ids().any(|known| known == id(n)));
    }
    assert_eq!(learned, 64, "each identity had one record, and all together one budget");
    assert_eq!(node.part.budgets.take(node.now, Some(id(201)), 1), 1, "links have their own");
}

/// Returns a full node with the dialled neighbours `dialled`, and as many others that have dialled it, in the
/// order of their numbers.
fn full(dialled: &[u8]) -> TestBench {
    let mut node = TestBench::new();
    for n in 1..=5 {
        let is_dialled = dialled.contains(&n);
        node.link(n, if is_dialled { Direction::Outbound } else { Direction::Inbound });
        if is_dialled {
            let origin = Some(Origin::Chosen);
            node.act(|membership, cx| membership.add_neighbour(cx, id(n), record(n), origin));
        } else {
            node.request(n, Need::Low);
        }
        node.now = node.now + Duration::from_secs(1);
    }
    node.now = node.now + Duration::from_secs(600);
    node.out.clear();
    node
}

#[test]
fn requests_never_displace_neighbours_that_this_node_dialled() {
    let mut node = full(&[1, 3]);
    for n in 10..100 {
        node.link(n, Direction::Inbound);
        node.request(n, if n % 2 == 0 { Need::High } else { Need::Join });
        assert!(node.active().contains(&id(n)), "a newcomer gets in: {n}");
        node.now = node.now + Duration::from_secs(1);
    }
    // Neighbours 2 and 4 have been neighbours for longest among those that have dialled this node. The
    // newcomers compete for the last place.
    for n in [1, 2, 3, 4] {
        assert!(node.active().contains(&id(n)), "{n}");
    }
    assert_eq!(node.active().len(), 5 + GUESTS);
}

#[test]
fn one_place_is_left_for_newcomers() {
    let mut node = full(&[1, 2, 3, 4, 5]);
    for n in 10..100 {
        node.link(n, Direction::Inbound);
        node.request(n, Need::High);
        assert!(node.active().contains(&id(n)));
    }
    for n in 1..=5 {
        assert!(node.active().contains(&id(n)), "only guests give way: {n}");
    }
}

#[test]
fn one_group_of_addresses_displaces_neighbours_at_a_bounded_rate() {
    let mut node = full(&[1, 3]);
    let connect = |node: &mut TestBench, n: u8| {
        node.link_at(n, Direction::Inbound, IpAddr::from([198, 51, 100, n]));
        node.request(n, Need::High);
        let out = node.out();
        out.contains(&format!("reply {n} Accepted"))
    };
    let accepted = (10..200).filter(|n| connect(&mut node, *n)).count();
    // The first one becomes a guest. Each of the others displaces the one before it.
    assert_eq!(accepted, 1 + usize::try_from(EVICTIONS_BURST).unwrap());
    // A newcomer from another group gets in all the same.
    node.link(210, Direction::Inbound);
    node.request(210, Need::Join);
    assert!(node.out().contains(&"reply 210 Accepted".to_owned()));
    node.now = node.now + EVICTION_INTERVAL;
    assert!(connect(&mut node, 211));
}

#[test]
fn a_neighbour_that_has_dialled_this_node_does_not_count_as_tested() {
    let mut node = TestBench::member(2);
    node.link(3, Direction::Outbound);
    let origin = Some(Origin::Known);
    node.act(|membership, cx| membership.add_neighbour(cx, id(3), record(3), origin));
    for n in 1..=3 {
        node.unlink(n, Reason::Lost("reset".into()));
    }
    assert_eq!([1, 2, 3].map(|n| node.part.book.is_tested(id(n))), [false, false, true]);
    // It counts as tested once a probe has reached it.
    node.act(|membership, cx| membership.probe(cx, id(1), ProbePurpose::Test));
    node.probed(1, Some(answer(1, false, 100)));
    assert!(node.part.book.is_tested(id(1)));
}
