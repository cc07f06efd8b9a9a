//! Messages to nodes without a link.

use super::*;
use crate::frame::relay::{Delivery, Forwarded, RelayLabel};
use crate::overlay::relay::RelayError;
use crate::seal::{self, Letter};

const UNIX: u64 = 1_700_000_000_000;

impl Net {
    /// Sends a query of node `from` for node `to`, and returns its id.
    fn find(&mut self, from: usize, to: usize) -> QueryId {
        let wanted = self.ids[to];
        (self.answers, self.ended) = (Vec::new(), None);
        let id = self.act(from, |node| node.ask(QueryKind::FindNode(wanted), -1, false, None));
        self.deliver_all();
        id
    }

    fn send(&mut self, from: usize, to: usize, query: QueryId, text: &str) -> u64 {
        let to = self.ids[to];
        self.act(from, |node| node.relay(Some(query), to, (&message(text), 0))).unwrap()
    }

    /// Removes the first frame from a link before it arrives.
    fn intercept(&mut self, from: usize, to: usize) -> Frame {
        self.links.get_mut(&(from, to)).unwrap().pop_front().unwrap()
    }

    fn set_clocks(&mut self, unix: u64) {
        let now = Now { monotonic: self.now, unix };
        self.nodes.iter_mut().for_each(|node| node.set_clocks(now));
    }
}

fn line(len: usize) -> Net {
    let links: Vec<_> = (1..len).map(|n| (n - 1, n)).collect();
    let mut net = Net::new(len, &links, 1);
    net.set_clocks(UNIX);
    net
}

fn message(text: &str) -> Payload {
    Payload::Message(text.into())
}

fn key(node: usize) -> Key {
    Key::from_secret(&[u8::try_from(node + 1).unwrap(); 32])
}

#[test]
fn a_message_arrives_along_a_line_of_nodes_and_names_its_sender() {
    for len in 3..8 {
        let mut net = line(len);
        let end = len - 1;
        let query = net.find(0, end);
        let numbers = [net.send(0, end, query, "one"), net.send(0, end, query, "two")];
        net.deliver_all();
        assert_eq!(net.relayed, numbers.map(|number| (number, Ok(()))), "{len} nodes");
        let [(one, from, text), (two, ..)] = &net.messages[..] else { panic!("{len} nodes") };
        assert_eq!((*one, *two, from.id()), (end, end, net.ids[0]));
        assert_eq!((from.name(), from.is_linked()), ("n0", false));
        assert_eq!(text.as_text(), Some("one"));
    }
}

#[test]
fn a_message_reaches_any_node_that_a_query_has_found() {
    for seed in 0..20 {
        let mut links = ring(10);
        links.push((0, 5));
        let mut net = Net::new(10, &links, seed);
        net.set_clocks(UNIX);
        for to in 1..10 {
            let query = net.find(0, to);
            net.send(0, to, query, "x");
            net.deliver_all();
            assert_eq!(net.relayed.pop().unwrap().1, Ok(()), "to {to}, seed {seed}");
            assert_eq!(net.messages.pop().unwrap().0, to);
        }
    }
}

#[test]
fn a_message_on_an_unknown_query_has_no_route() {
    let mut net = line(3);
    let query = QueryId([9; 16]);
    let number = net.send(0, 2, query, "x");
    assert_eq!(net.relayed, [(number, Err(RelayError::NoRoute))]);
}

#[test]
fn an_identity_that_is_no_key_is_an_error() {
    let mut net = line(2);
    let query = net.find(0, 1);
    let sent = net.nodes[0].relay(Some(query), NodeId::from_bytes([2; 32]), (&message("x"), 0));
    assert_eq!(sent, Err(RelaySendError::Seal(seal::SealError::NoKey)));
}

#[test]
fn a_message_of_the_largest_size_arrives_and_a_larger_one_is_refused() {
    let mut net = line(4);
    let query = net.find(0, 3);
    let limit = Config::default().max_relayed();
    net.send(0, 3, query, &"x".repeat(limit));
    let mut bytes = Vec::new();
    net.links[&(0, 1)].front().unwrap().encode(&mut bytes);
    assert!(bytes.len() - crate::frame::HEADER_LEN <= Config::default().max_control);
    net.deliver_all();
    assert_eq!(net.relayed.pop().unwrap().1, Ok(()));
    let (to, text) = (net.ids[3], "x".repeat(limit + 1));
    let sent = net.nodes[0].relay(Some(query), to, (&message(&text), 0));
    assert_eq!(sent, Err(RelaySendError::TooLarge { len: limit + 1, limit }));
}

#[test]
fn a_message_that_a_relay_drops_times_out() {
    let mut net = line(4);
    let query = net.find(0, 3);
    let number = net.send(0, 3, query, "x");
    net.intercept(0, 1);
    net.deliver_all();
    assert!(net.relayed.is_empty());
    let timeout = Config::default().query_timeout;
    net.now = net.now + timeout;
    net.act(0, Overlay::handle_timeout);
    assert_eq!(net.relayed, [(number, Err(RelayError::Silent(timeout)))]);
}

#[test]
fn a_relay_can_not_forge_a_receipt() {
    let mut net = line(4);
    let query = net.find(0, 3);
    let number = net.send(0, 3, query, "x");
    net.intercept(0, 1);
    let delivery = Delivery::Taken([0; 32]);
    let lie = Frame::Forwarded(Forwarded { query, number, delivery });
    net.receive(0, net.ids[1], lie);
    assert_eq!(net.relayed, [(number, Err(RelayError::Refused))]);
}

#[test]
fn a_link_that_ends_on_the_route_is_reported() {
    let mut net = line(5);
    let query = net.find(0, 4);
    let number = net.send(0, 4, query, "x");
    let frame = net.intercept(0, 1);
    net.receive(1, net.ids[0], frame);
    let frame = net.intercept(1, 2);
    net.receive(2, net.ids[1], frame);
    net.unlink(2, 3);
    net.deliver_all();
    assert_eq!(net.relayed, [(number, Err(RelayError::NoRoute))]);
    let number = net.send(0, 4, query, "y");
    net.deliver_all();
    assert_eq!(net.relayed[1], (number, Err(RelayError::NoRoute)), "the route is not used again");
}

#[test]
fn the_same_message_is_not_accepted_twice() {
    let mut net = line(3);
    let query = net.find(0, 2);
    net.send(0, 2, query, "x");
    let frame = net.intercept(0, 1);
    net.receive(1, net.ids[0], frame);
    let frame = net.intercept(1, 2);
    for _ in 0..2 {
        net.receive(2, net.ids[1], frame.clone());
    }
    assert_eq!(net.messages.len(), 1);
    let Frame::Forwarded(first) = net.intercept(2, 1) else { panic!() };
    let Frame::Forwarded(second) = net.intercept(2, 1) else { panic!() };
    assert!(matches!(first.delivery, Delivery::Taken(_)));
    assert_eq!(second.delivery, Delivery::Refused);
}

#[test]
fn a_message_that_is_too_old_or_from_the_future_is_refused() {
    let skew = u64::try_from(Config::default().clock_skew.as_millis()).unwrap();
    for (ahead, taken) in [(skew, true), (skew + 1, false)] {
        for clock in [UNIX - ahead, UNIX + ahead] {
            let mut net = line(3);
            let query = net.find(0, 2);
            net.nodes[2].set_clocks(Now { monotonic: net.now, unix: clock });
            net.send(0, 2, query, "x");
            net.deliver_all();
            let expected = if taken { Ok(()) } else { Err(RelayError::Refused) };
            assert_eq!(net.relayed[0].1, expected);
            assert_eq!(net.messages.len(), usize::from(taken));
        }
    }
}

#[test]
fn only_the_node_that_sent_the_query_uses_its_route() {
    // Node 3 is linked only with node 1. It received the query from node 1, so it did not send it.
    let mut net = Net::new(5, &[(0, 1), (1, 2), (2, 4), (1, 3)], 1);
    net.set_clocks(UNIX);
    let query = net.find(0, 4);
    let label = RelayLabel { query, number: 9, to: net.ids[4] };
    let forward = forward(&key(3), label);
    net.receive(1, net.ids[3], forward);
    assert!(net.links[&(1, 2)].is_empty());
    let Frame::Forwarded(forwarded) = net.intercept(1, 3) else { panic!() };
    assert_eq!(forwarded.delivery, Delivery::NoRoute);
}

#[test]
fn the_rate_that_is_relayed_for_one_link_is_limited() {
    let mut net = line(3);
    let query = net.find(0, 2);
    let config = Config::default();
    let text = "x".repeat(config.max_relayed());
    let fit = config.forward_rate / config.max_control;
    for _ in 0..=fit {
        net.send(0, 2, query, &text);
    }
    net.deliver_all();
    let busy = net.relayed.iter().filter(|(_, sent)| *sent == Err(RelayError::Busy));
    assert_eq!((net.relayed.len(), busy.count()), (fit + 1, 1));
    net.now = net.now + Duration::from_secs(1);
    net.send(0, 2, query, &text);
    net.deliver_all();
    assert_eq!(net.relayed.last().unwrap().1, Ok(()));
}

/// Nodes 0 and 4 are strangers to node 1, which relays to node 3. Node 2 and node 3 have dialled their relays.
#[test]
fn a_stranger_that_floods_a_relay_leaves_room_for_its_other_messages() {
    let mut net = Net::new(5, &[(0, 1), (4, 1), (2, 1), (3, 2)], 1);
    net.set_clocks(UNIX);
    let large = "x".repeat(Config::default().max_relayed());
    let mut sent = |from: usize, count: usize, text: &str| {
        let query = net.find(from, 3);
        net.relayed.clear();
        for _ in 0..count {
            net.send(from, 3, query, text);
        }
        net.deliver_all();
        net.relayed.iter().filter(|(_, sent)| sent.is_ok()).count()
    };
    assert_eq!(sent(0, 10, &large), 2);
    // Node 2 accepts further messages of node 1: its own, and those of another stranger.
    assert_eq!(sent(4, 1, &large), 1);
    assert_eq!(sent(1, 4, &large), 4);
}

#[test]
fn a_crowded_queue_on_the_route_is_reported() {
    let mut net = line(4);
    let query = net.find(0, 3);
    let number = net.send(0, 3, query, "x");
    let frame = net.intercept(0, 1);
    net.receive(1, net.ids[0], frame);
    let frame = net.intercept(1, 2);
    let to = net.ids[2];
    net.act(1, |node| node.frame_skipped(to, frame));
    net.deliver_all();
    assert_eq!(net.relayed, [(number, Err(RelayError::Busy))]);
}

/// Returns a message from the node with this key, sealed for the recipient that `label` names.
fn forward(key: &Key, label: RelayLabel) -> Frame {
    let content = crate::message::PackedMessage::uncompressed("x".into());
    let content = content.into();
    let letter = Letter { sender: key.id(), name: String::new(), time: UNIX, content };
    let mut rng = ChaCha8Rng::seed_from_u64(label.number);
    let sealed = seal::seal(&mut rng, key, "net", &label, &letter).unwrap();
    Frame::Forward(crate::frame::relay::Forward { label, sealed: sealed.bytes })
}
