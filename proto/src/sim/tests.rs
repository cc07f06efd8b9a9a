//! Tests of the network model: dials, links, faults, clocks and joins.

use super::*;
use crate::event::{ActionId, Event, LinkEnd, Peer, Reason};
use crate::handler::Callback;
use crate::peer::JoinError;

mod joins;
mod reported;

const LATENCY: Duration = Duration::from_millis(20);

/// Records its events. It sends a message when a link is about to close and when its node is asked to stop.
#[derive(Default)]
struct Log(Vec<(Duration, Event)>);

impl Handler for Log {
    fn node_action_failed(&mut self, cx: &mut Context<'_>, action: ActionId, error: &str) {
        self.add(cx, Event::NodeActionFailed { action, error: error.to_owned() });
    }

    fn outbound_node_connected(&mut self, cx: &mut Context<'_>, peer: &Peer) {
        self.add(cx, Event::OutboundNodeConnected { peer: peer.clone() });
    }

    fn inbound_node_connected(&mut self, cx: &mut Context<'_>, peer: &Peer) {
        self.add(cx, Event::InboundNodeConnected { peer: peer.clone() });
    }

    fn outbound_node_disconnected(&mut self, cx: &mut Context<'_>, peer: &Peer, why: &LinkEnd) {
        let (peer, link_end) = (peer.clone(), why.clone());
        self.add(cx, Event::OutboundNodeDisconnected { peer, link_end });
    }

    fn inbound_node_disconnected(&mut self, cx: &mut Context<'_>, peer: &Peer, why: &LinkEnd) {
        let (peer, link_end) = (peer.clone(), why.clone());
        self.add(cx, Event::InboundNodeDisconnected { peer, link_end });
    }

    fn node_disconnect_with_outbound_node(&mut self, cx: &mut Context<'_>, peer: &Peer) {
        self.add(cx, Event::NodeDisconnectWithOutboundNode { peer: peer.clone() });
        cx.send(peer, "farewell");
    }

    fn node_message(&mut self, cx: &mut Context<'_>, peer: &Peer, message: Message) {
        self.add(cx, Event::NodeMessage { peer: peer.clone(), message });
    }

    fn node_message_failed(
        &mut self,
        cx: &mut Context<'_>,
        peer: &Peer,
        failure: &crate::event::MessageFailure,
    ) {
        let (peer, failure) = (peer.clone(), failure.clone());
        self.add(cx, Event::NodeMessageFailed { peer, failure });
    }

    fn node_request_to_stop(&mut self, cx: &mut Context<'_>) {
        self.add(cx, Event::NodeRequestToStop);
        cx.send_to_nodes("I stop", &[]);
    }

    fn node_clock_skew(&mut self, cx: &mut Context<'_>, peer: &Peer, seconds: i64) {
        self.add(cx, Event::NodeClockSkew { peer: peer.clone(), seconds });
    }

    fn outbound_node_connection_error(&mut self, cx: &mut Context<'_>, to: &Address, why: &str) {
        let (address, error) = (to.clone(), why.to_owned());
        self.add(cx, Event::OutboundNodeConnectionError { address, error });
    }
}

impl Log {
    fn add(&mut self, cx: &Context<'_>, event: Event) {
        self.0.push((cx.now().since_origin(), event));
    }

    fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|(_, event)| event.name()).collect()
    }

    fn texts<'a>(&'a self) -> Vec<&'a str> {
        let text = |(_, event): &'a (Duration, Event)| match event {
            Event::NodeMessage { message, .. } => message.as_text(),
            _ => None,
        };
        self.0.iter().filter_map(text).collect()
    }

    /// Returns the name and time of the last event, and the text of the error or of the reason in it.
    fn last(&self) -> (&'static str, Duration, String) {
        let (at, event) = self.0.last().unwrap();
        let text = match event {
            Event::OutboundNodeDisconnected { link_end, .. }
            | Event::InboundNodeDisconnected { link_end, .. } => link_end.to_string(),
            Event::OutboundNodeConnectionError { error, .. } => error.clone(),
            _ => String::new(),
        };
        (event.name(), *at, text)
    }
}

fn sim(nodes: usize) -> Sim<Log> {
    let network = Network { latency: Latency::Fixed(LATENCY), ..Network::default() };
    let mut sim = Sim::new(SimConfig { seed: 1, network, ..SimConfig::default() });
    for _ in 0..nodes {
        sim.add(Log::default());
    }
    sim
}

/// Returns a simulation of two nodes. The second has dialled the first.
fn pair() -> Sim<Log> {
    let mut sim = sim(2);
    sim.connect(1, 0);
    sim.run_for(LATENCY * 6);
    assert_eq!(sim.links(), [(1, 0)]);
    sim
}

fn send(sim: &mut Sim<Log>, from: usize, text: &str) {
    sim.with(from, |_, cx| {
        let peer = cx.peers().remove(0);
        cx.send(&peer, text);
    });
}

/// Makes a node dial addresses of another node, until one answers. Does the work of this moment; the virtual
/// time does not advance.
fn link_to(sim: &mut Sim<Log>, node: usize, addresses: Vec<Address>) {
    sim.link_to(node, addresses, false, LinkPurpose::Connect(None));
    sim.settle();
}

#[test]
fn a_dial_tries_all_addresses_of_a_node() {
    let mut sim = sim(2);
    let (unused, neither, there) = (sim.address(500), sim.address(501), sim.address(0));
    link_to(&mut sim, 1, vec![unused.clone(), neither.clone(), there]);
    let timeout = Config::default().connect_timeout;
    sim.run_for(timeout * 2 + LATENCY * 6);
    assert_eq!(sim.links(), [(1, 0)]);
    assert_eq!(
        sim.app(1).names(),
        ["outbound_node_connected"],
        "an address that does not answer is no event"
    );
    link_to(&mut sim, 1, vec![unused.clone(), neither]);
    sim.run_for(timeout * 2);
    let failed = sim.app(1).0.iter().filter_map(|(_, event)| match event {
        Event::OutboundNodeConnectionError { address, .. } => Some(address.clone()),
        _ => None,
    });
    assert_eq!(failed.collect::<Vec<_>>(), [unused], "reported once, with the first address");
}

#[test]
fn a_dial_takes_two_round_trips_and_the_hellos_take_one() {
    let mut sim = sim(2);
    sim.connect(1, 0);
    sim.run_for(LATENCY * 5 - Duration::from_micros(1));
    assert!(sim.app(0).0.is_empty());
    sim.run_for(LATENCY * 2);
    assert_eq!(sim.app(0).last(), ("inbound_node_connected", LATENCY * 5, String::new()));
    assert_eq!(sim.app(1).last(), ("outbound_node_connected", LATENCY * 6, String::new()));
}

#[test]
fn messages_arrive_in_order_after_the_latency() {
    let mut sim = pair();
    for text in ["a", "b", "c"] {
        send(&mut sim, 0, text);
    }
    sim.run_for(LATENCY - Duration::from_micros(1));
    assert!(sim.app(1).texts().is_empty());
    sim.run_for(Duration::from_micros(1));
    assert_eq!(sim.app(1).texts(), ["a", "b", "c"]);
}

#[test]
fn dials_fail_if_the_node_is_stopped_or_hidden_or_another_node() {
    let mut sim = sim(2);
    let options = NodeOptions { dialable: false, ..NodeOptions::default() };
    let hidden = sim.add_with(options, Log::default());
    sim.crash(1);
    sim.connect(0, 1);
    sim.run_for(LATENCY * 2);
    assert_eq!(sim.app(0).last().1, LATENCY * 2);
    assert_eq!(sim.app(0).last().2, "connection refused");
    sim.connect(0, hidden);
    sim.run_for(Duration::from_secs(11));
    assert_eq!(sim.app(0).last().1, LATENCY * 2 + Duration::from_secs(10));
    assert_eq!(sim.app(0).last().2, "no answer within 10 s");
    // The hidden node can dial others.
    sim.connect(hidden, 0);
    sim.run_for(LATENCY * 6);
    assert_eq!(sim.links(), [(hidden, 0)]);
    // One dial reaches another node than the expected one, and one dial reaches the dialling node itself.
    sim.restart(1, Log::default());
    let wrong = sim.address(1).with_id(sim.id(0));
    sim.connect_to(hidden, wrong, false);
    sim.connect(0, 0);
    sim.run_for(Duration::from_secs(1));
    assert!(sim.app(hidden).last().2.contains("another node"), "{:?}", sim.app(hidden).last());
    assert_eq!(sim.app(0).last().2, Reason::SelfConnection.to_string());
}

#[test]
fn the_limit_of_inbound_links_can_change_while_a_node_runs() {
    let mut sim = sim(3);
    sim.connect(1, 0);
    sim.run_for(LATENCY * 6);
    sim.set_max_inbound(0, 1);
    sim.connect(2, 0);
    sim.run_for(LATENCY * 6);
    assert_eq!(sim.links(), [(1, 0)]);
    assert!(sim.app(2).last().2.contains(&Reason::Full.to_string()), "{:?}", sim.app(2).last());
    sim.set_max_inbound(0, 2);
    sim.connect(2, 0);
    sim.run_for(LATENCY * 6);
    assert_eq!(sim.links(), [(1, 0), (2, 0)]);
}

#[test]
fn two_nodes_that_dial_each_other_keep_one_link() {
    for delay in 0..8 {
        let mut sim = sim(2);
        sim.connect(0, 1);
        sim.run_for(LATENCY * delay);
        sim.connect(1, 0);
        sim.run_for(Duration::from_secs(30));
        assert_eq!(sim.links().len(), 1, "{delay}");
        for node in [0, 1] {
            let names = sim.app(node).names();
            assert!(!names.contains(&"outbound_node_connection_error"), "{delay}: {names:?}");
            let ups = names.iter().filter(|name| name.ends_with("_connected")).count();
            let downs = names.iter().filter(|name| name.ends_with("_disconnected")).count();
            assert_eq!(ups, downs + 1, "{delay}: {names:?}");
        }
    }
}

#[test]
fn messages_sent_before_a_goodbye_are_delivered() {
    let mut sim = pair();
    let begun = sim.now().since_origin();
    sim.disconnect(1, 0);
    sim.run_for(Duration::from_secs(1));
    // Messages that are sent in the event before the link closes are still delivered.
    assert_eq!(sim.app(0).texts(), ["farewell"]);
    let (name, at, said) = sim.app(0).last();
    assert_eq!((name, at), ("inbound_node_disconnected", begun + LATENCY));
    assert_eq!(said, "closed by the peer: disconnected on request");
    let expected = ["node_disconnect_with_outbound_node", "outbound_node_disconnected"];
    assert_eq!(sim.app(1).names()[1..], expected);
    assert_eq!(sim.app(1).last().1, begun + LATENCY * 2);
}

#[test]
fn a_crash_ends_links_at_once_and_a_vanished_node_is_noticed_by_its_silence() {
    let mut sim = sim(3);
    sim.connect(1, 0);
    sim.connect(2, 0);
    sim.run_for(Duration::from_secs(1));
    sim.crash(1);
    sim.vanish(2);
    sim.run_for(LATENCY);
    let (name, at, said) = sim.app(0).last();
    assert_eq!(name, "inbound_node_disconnected");
    assert_eq!(at, Duration::from_secs(1) + LATENCY);
    assert!(said.contains("closed without a goodbye"), "{said}");
    assert_eq!(sim.with(0, |_, cx| cx.peers().len()), 1);
    sim.run_for(Duration::from_secs(60));
    let (_, at, said) = sim.app(0).last();
    assert!(said.contains("no byte was received for 45 s"), "{said}");
    let silent = at - Duration::from_secs(1);
    assert!(silent >= Duration::from_secs(30) && silent <= Duration::from_secs(45), "{silent:?}");
}

#[test]
fn messages_sent_during_a_short_partition_arrive_when_it_heals() {
    let mut sim = pair();
    send(&mut sim, 0, "before");
    sim.run_for(LATENCY / 2);
    sim.partition(&[&[0], &[1]]);
    send(&mut sim, 0, "meanwhile");
    sim.run_for(Duration::from_secs(25));
    assert!(sim.app(1).texts().is_empty());
    assert!(sim.links().len() == 1);
    sim.heal();
    sim.run_for(LATENCY);
    assert_eq!(sim.app(1).texts(), ["before", "meanwhile"]);
    sim.run_for(Duration::from_secs(120));
    assert_eq!(
        sim.links().len(),
        1,
        "both endpoints have received something before they would have given up"
    );
}

#[test]
fn a_long_partition_ends_links_and_reports_lost_messages() {
    let mut sim = pair();
    sim.partition(&[&[0], &[1]]);
    send(&mut sim, 0, "meanwhile");
    sim.run_for(Duration::from_secs(46));
    assert!(sim.links().is_empty());
    let names = sim.app(0).names();
    assert_eq!(names[1..], ["node_message_failed", "inbound_node_disconnected"]);
    sim.connect(1, 0);
    sim.run_for(Duration::from_secs(11));
    assert_eq!(sim.app(1).last().2, "no answer within 10 s");
    sim.heal();
    sim.connect(1, 0);
    sim.run_for(LATENCY * 6);
    assert_eq!(sim.links(), [(1, 0)]);
    assert!(sim.app(1).texts().is_empty(), "the message was lost with its link");
}

#[test]
fn a_vanished_node_that_restarts_gets_a_new_link() {
    let mut sim = pair();
    sim.vanish(1);
    sim.run_for(Duration::from_secs(5));
    sim.restart(1, Log::default());
    sim.connect(1, 0);
    sim.run_for(Duration::from_secs(30));
    assert_eq!(sim.links(), [(1, 0)]);
    let names = sim.app(0).names();
    let expected =
        ["inbound_node_connected", "inbound_node_disconnected", "inbound_node_connected"];
    assert_eq!(names, expected);
}

#[test]
fn two_runs_that_start_in_one_millisecond_have_different_epochs() {
    let network = Network { latency: Latency::Fixed(Duration::ZERO), ..Network::default() };
    let mut sim = Sim::new(SimConfig { seed: 1, network, ..SimConfig::default() });
    sim.add(Log::default());
    sim.add(Log::default());
    for run in 1..=2 {
        sim.connect(1, 0);
        sim.run_for(Duration::ZERO);
        sim.broadcast(1, "", "hello").unwrap();
        sim.run_for(Duration::ZERO);
        // With the epoch of the first run, the broadcast of the second would count as a repetition.
        assert_eq!(sim.stats().deliveries, run);
        sim.crash(1);
        sim.restart(1, Log::default());
    }
    assert_eq!(sim.now(), Instant::ZERO);
}

#[test]
fn messages_that_cannot_be_delivered_are_reported() {
    let mut sim = pair();
    let stranger = Peer::new(
        Key::from_secret(&[9; 32]).id(),
        String::new(),
        sim.address(0),
        crate::event::Direction::Inbound,
    );
    sim.with(0, |_, cx| cx.send(&stranger, "hello"));
    sim.run_for(Duration::from_secs(1));
    assert_eq!(sim.app(0).last().0, "node_message_failed");
    // A message that is in flight when the peer crashes may have arrived or not, so it is unconfirmed.
    send(&mut sim, 1, "lost");
    sim.crash(0);
    sim.run_for(Duration::from_secs(1));
    let failed = sim.app(1).0.iter().find_map(|(_, event)| match event {
        Event::NodeMessageFailed { failure, .. } => Some((failure.unsent, failure.unconfirmed)),
        _ => None,
    });
    assert_eq!(failed, Some((0, 1)));
}

/// Returns a simulation of three nodes in a line, and the last node as a peer. The first node has sent the
/// messages "a" and "b" to the last.
fn line_with_messages(is_dialable: bool) -> (Sim<Log>, Peer) {
    let mut sim = sim(2);
    sim.add_with(NodeOptions { dialable: is_dialable, ..NodeOptions::default() }, Log::default());
    sim.connect(1, 0);
    sim.connect(2, 1);
    sim.run_for(Duration::from_secs(1));
    let direction = crate::event::Direction::Inbound;
    let far = Peer::new(sim.id(2), String::new(), sim.address(2), direction);
    for text in ["a", "b"] {
        sim.with(0, |_, cx| cx.send(&far, text));
    }
    (sim, far)
}

#[test]
fn messages_to_a_hidden_node_without_a_link_are_relayed() {
    let (mut sim, far) = line_with_messages(false);
    // The messages first wait for a dial, which fails.
    sim.run_for(Duration::from_secs(3));
    assert_eq!(sim.app(2).texts(), ["a", "b"]);
    assert_eq!(sim.links().len(), 2);
    sim.crash(2);
    sim.run_for(Duration::from_secs(1));
    sim.with(0, |_, cx| cx.send(&far, "c"));
    sim.run_for(Duration::from_secs(15));
    assert_eq!(sim.app(0).last().0, "node_message_failed");
}

#[test]
fn a_link_for_messages_is_made_on_demand_and_closes_once_it_is_idle() {
    let (mut sim, far) = line_with_messages(true);
    sim.run_for(Duration::from_secs(2));
    assert_eq!(sim.app(2).texts(), ["a", "b"]);
    assert_eq!(sim.links().len(), 3);
    let idle = Config::default().on_demand_idle;
    sim.run_for(idle / 2);
    sim.with(2, |_, cx| cx.send_to_nodes("not idle", &[]));
    sim.run_for(idle * 3 / 4);
    assert_eq!(sim.links().len(), 3, "the link was used");
    sim.run_for(idle);
    assert_eq!(sim.links().len(), 2);
    assert!(
        sim.app(0).last().2.contains(&Reason::NotNeeded.to_string()),
        "{:?}",
        sim.app(0).last()
    );
    // An on-demand link stays if the application connects to the node while it is up.
    sim.with(0, |_, cx| cx.send(&far, "c"));
    sim.run_for(Duration::from_secs(2));
    sim.connect(0, 2);
    sim.run_for(idle * 3);
    assert_eq!(sim.links().len(), 3);
    assert_eq!(sim.app(2).texts(), ["a", "b", "farewell", "c"]);
}

#[test]
fn a_node_that_stops_sends_messages_and_goodbyes_and_ends() {
    let mut sim = pair();
    sim.stop(0);
    sim.run_for(Duration::from_secs(1));
    assert!(!sim.is_running(0));
    assert_eq!(sim.app(1).texts(), ["I stop"]);
    assert!(sim.app(1).last().2.contains("the node is stopping"));
    assert_eq!(sim.app(0).names()[1], "node_request_to_stop");
}

#[test]
fn a_kept_link_is_dialled_again_when_it_breaks() {
    let mut sim = sim(2);
    sim.connect_to(1, sim.address(0), true);
    sim.run_for(Duration::from_secs(1));
    sim.break_link(0, 1);
    assert!(sim.links().is_empty());
    sim.run_for(Duration::from_secs(3));
    assert_eq!(sim.links(), [(1, 0)]);
}

#[test]
fn the_bandwidth_delays_a_large_message() {
    let network = Network {
        latency: Latency::Fixed(LATENCY),
        bandwidth: Some(100_000),
        jitter: Duration::ZERO,
    };
    let mut sim = Sim::new(SimConfig { network, ..SimConfig::default() });
    for _ in 0..2 {
        sim.add(Log::default());
    }
    sim.connect(1, 0);
    sim.run_for(Duration::from_secs(1));
    let large = "x".repeat(99_994);
    sim.with(0, |_, cx| cx.send_to_nodes(large, &[]));
    sim.run_for(Duration::from_millis(1019));
    assert!(sim.app(1).texts().is_empty());
    sim.run_for(Duration::from_millis(1));
    assert_eq!(sim.app(1).texts().len(), 1);
}

#[test]
fn clocks_that_are_far_apart_are_reported_at_both_ends() {
    for (ahead, reported) in [(149, 0), (151, 151), (360, 360), (-151, -151), (-1000, -1000)] {
        let mut sim = sim(1);
        let options = NodeOptions { clock: ahead * 1000, ..NodeOptions::default() };
        sim.add_with(options, Log::default());
        sim.connect(1, 0);
        sim.run_for(Duration::from_secs(5));
        let skews_of = |node: usize| {
            let seconds = |(_, event): &(Duration, Event)| match event {
                Event::NodeClockSkew { seconds, .. } => Some(*seconds),
                _ => None,
            };
            sim.app(node).0.iter().filter_map(seconds).collect::<Vec<_>>()
        };
        let expected: Vec<i64> = (reported != 0).then_some(reported).into_iter().collect();
        assert_eq!(skews_of(0), expected, "{ahead}");
        let status = sim.overlay(0).unwrap().clock_status();
        assert_eq!((status.apart, status.farthest), (expected.len(), reported * 1000));
        let expected: Vec<i64> = expected.iter().map(|seconds| -seconds).collect();
        assert_eq!(skews_of(1), expected, "{ahead}");
    }
}

#[test]
fn a_broadcast_with_a_wrong_time_is_refused_and_counted() {
    for (ahead, lost) in [(240, 0), (360, 1), (-840, 0), (-1000, 1)] {
        let mut sim = Sim::new(SimConfig { seed: 1, ..SimConfig::default() });
        sim.add(Log::default());
        let options = NodeOptions { clock: ahead * 1000, ..NodeOptions::default() };
        sim.add_with(options, Log::default());
        sim.connect(1, 0);
        sim.run_for(Duration::from_secs(5));
        sim.broadcast(1, "", "what time is it").unwrap();
        sim.run_for(Duration::from_secs(1));
        let counters = sim.overlay(0).unwrap().broadcast_counters();
        assert_eq!((counters.untimely > 0, counters.received), (lost == 1, 1 - lost), "{ahead}");
    }
}

#[test]
fn a_node_that_was_disconnected_by_hand_cannot_reconnect_for_ten_minutes() {
    let mut sim = sim(8);
    (1..8).for_each(|node| sim.join(node, 0));
    sim.run_for(Duration::from_secs(30));
    let linked = |sim: &Sim<Log>, a, b| sim.links().iter().any(|l| *l == (a, b) || *l == (b, a));
    let far = (1..8).find(|node| linked(&sim, 0, *node)).unwrap();
    let far_id = sim.id(far);
    let disconnect = |sim: &mut Sim<Log>| {
        sim.with(0, |_, cx| {
            let peer = cx.peers().into_iter().find(|peer| peer.id() == far_id).unwrap();
            cx.disconnect(&peer);
        });
    };
    disconnect(&mut sim);
    sim.run_for(Duration::from_secs(1));
    for second in 0..590 {
        assert!(!linked(&sim, 0, far), "linked again after {second} s");
        sim.run_for(Duration::from_secs(1));
    }
    assert_eq!(sim.components(|_| true).len(), 1, "the network has healed around the gap");
    // During that time the user of the other node can't connect, and gets the reason.
    sim.connect(far, 0);
    sim.run_for(Duration::from_secs(1));
    assert!(!linked(&sim, 0, far));
    let (name, _, why) = sim.app(far).last();
    assert_eq!(name, "outbound_node_connection_error");
    assert!(why.contains("disconnected by hand"), "{why}");
    // The user of this node can connect at any time, and the link stays.
    sim.connect(0, far);
    sim.run_for(Duration::from_secs(60));
    assert!(linked(&sim, 0, far));
    // After ten minutes the other node may connect again.
    disconnect(&mut sim);
    sim.run_for(Duration::from_secs(605));
    sim.connect(far, 0);
    sim.run_for(Duration::from_secs(1));
    assert!(linked(&sim, 0, far));
}
