//! The three ways to get events: a `Handler`, a callback and a stream. All of them report the same events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::*;
use peerkit::{
    Address, Broadcast, Builder, Config, ConnectOptions, Context, Event, Handler, LinkEnd, Message,
    MessageFailure, Node, NodeInfo, Peer,
};
use tokio::io::AsyncWriteExt;

/// A log of events. Each line has the name of an event and its content.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, name: &str, what: impl std::fmt::Display) {
        self.0.lock().unwrap().push(format!("{name}: {what}"));
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn count(&self, start: &str) -> usize {
        self.lines().iter().filter(|line| line.starts_with(start)).count()
    }

    /// Waits for a line that begins with `line`.
    async fn until(&self, line: &str) {
        self.until_count(line, 1).await;
    }

    /// Waits for `count` lines that begin with `line`.
    async fn until_count(&self, line: &str, count: usize) {
        let waiting = async {
            while self.count(line) < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(WAIT_TIMEOUT, waiting).await.is_err() {
            panic!("waited too long for {count} lines {line}: {:#?}", self.lines());
        }
    }
}

fn peer_text(peer: &Peer) -> String {
    format!("{} {}", peer.name(), peer.direction().name())
}

fn end_text(peer: &Peer, link_end: &LinkEnd) -> String {
    format!("{}, {:?}, by_peer {}", peer_text(peer), link_end.reason, link_end.by_peer)
}

/// A handler with a method for each kind of event.
struct MethodHandler(Log);

impl Handler for MethodHandler {
    fn outbound_node_connected(&mut self, _: &mut Context<'_>, peer: &Peer) {
        self.0.add("outbound_node_connected", peer_text(peer));
    }
    fn inbound_node_connected(&mut self, _: &mut Context<'_>, peer: &Peer) {
        self.0.add("inbound_node_connected", peer_text(peer));
    }
    fn outbound_node_disconnected(&mut self, _: &mut Context<'_>, peer: &Peer, link_end: &LinkEnd) {
        self.0.add("outbound_node_disconnected", end_text(peer, link_end));
    }
    fn inbound_node_disconnected(&mut self, _: &mut Context<'_>, peer: &Peer, link_end: &LinkEnd) {
        self.0.add("inbound_node_disconnected", end_text(peer, link_end));
    }
    fn node_disconnect_with_outbound_node(&mut self, _: &mut Context<'_>, peer: &Peer) {
        self.0.add("node_disconnect_with_outbound_node", peer_text(peer));
    }
    fn node_disconnect_with_inbound_node(&mut self, _: &mut Context<'_>, peer: &Peer) {
        self.0.add("node_disconnect_with_inbound_node", peer_text(peer));
    }
    fn node_message(&mut self, _: &mut Context<'_>, peer: &Peer, message: Message) {
        self.0.add("node_message", format!("{}, {}", peer_text(peer), message.as_text().unwrap()));
    }
    fn node_message_failed(&mut self, _: &mut Context<'_>, peer: &Peer, failure: &MessageFailure) {
        let MessageFailure { unsent, unconfirmed, .. } = failure;
        self.0.add("node_message_failed", format!("{}, {unsent}, {unconfirmed}", peer_text(peer)));
    }
    fn node_broadcast(&mut self, _: &mut Context<'_>, broadcast: Broadcast) {
        let text = broadcast.message.as_text().unwrap().to_owned();
        self.0.add("node_broadcast", format!("{}, {text}", broadcast.title));
    }
    fn node_discovered(&mut self, _: &mut Context<'_>, node: &NodeInfo) {
        self.0.add("node_discovered", &node.name);
    }
    fn node_request_to_stop(&mut self, _: &mut Context<'_>) {
        self.0.add("node_request_to_stop", "");
    }
    fn node_reconnection_error(
        &mut self,
        _: &mut Context<'_>,
        _: &Address,
        tries: u32,
        error: &str,
    ) -> bool {
        assert!(
            !error.is_empty() && !error.contains("127.0.0.1"),
            "the address is a parameter of its own: {error}"
        );
        self.0.add("node_reconnection_error", format!("try {tries}"));
        false
    }
    fn outbound_node_connection_error(&mut self, _: &mut Context<'_>, _: &Address, error: &str) {
        assert!(
            !error.is_empty() && !error.contains("127.0.0.1"),
            "the address is a parameter of its own: {error}"
        );
        self.0.add("outbound_node_connection_error", "");
    }
    fn inbound_node_connection_error(&mut self, _: &mut Context<'_>, from: &Address, _: &str) {
        self.0.add("inbound_node_connection_error", &from.host);
    }
}

/// Adds an event to the log, in the same words as [`MethodHandler`].
fn record(log: &Log, event: &Event) {
    let name = event.name();
    match event {
        Event::OutboundNodeConnected { peer }
        | Event::InboundNodeConnected { peer }
        | Event::NodeDisconnectWithOutboundNode { peer }
        | Event::NodeDisconnectWithInboundNode { peer } => log.add(name, peer_text(peer)),
        Event::OutboundNodeDisconnected { peer, link_end }
        | Event::InboundNodeDisconnected { peer, link_end } => {
            log.add(name, end_text(peer, link_end));
        }
        Event::NodeMessage { peer, message } => {
            log.add(name, format!("{}, {}", peer_text(peer), message.as_text().unwrap()));
        }
        Event::NodeMessageFailed { peer, failure } => {
            let MessageFailure { unsent, unconfirmed, .. } = failure;
            log.add(name, format!("{}, {unsent}, {unconfirmed}", peer_text(peer)));
        }
        Event::NodeBroadcast { broadcast } => {
            let text = broadcast.message.as_text().unwrap();
            log.add(name, format!("{}, {text}", broadcast.title));
        }
        Event::NodeDiscovered { node } => log.add(name, &node.name),
        Event::NodeReconnectionError { tries, .. } => log.add(name, format!("try {tries}")),
        Event::InboundNodeConnectionError { address, .. } => log.add(name, &address.host),
        _ => log.add(name, ""),
    }
}

/// Makes a node report every event except `node_lagged` and `node_handler_panicked`. Returns the lines of the
/// log.
async fn run_scenario(observed: Builder, log: &Log, watch: impl FnOnce(&Node)) -> Vec<String> {
    let mut config = Config::default();
    // Only one attempt to reconnect is made while the test runs.
    (config.reconnect_min, config.reconnect_max) = (WAIT_TIMEOUT, WAIT_TIMEOUT);
    let node = observed.name("observed").config(config).spawn().await.unwrap();
    watch(&node);
    let other = Node::builder().name("other").listen("127.0.0.1:0").spawn().await.unwrap();

    // The other node connects, sends and disconnects.
    other.connect(address_of(&node)).await.unwrap();
    other.send(node.id(), "hello").await.unwrap();
    log.until("node_message: other inbound, hello").await;
    other.broadcast("news", "of the day").await.unwrap();
    log.until("node_broadcast").await;
    assert_eq!(node.discover(-1).await.unwrap().nodes.len(), 2);
    log.until("node_discovered").await;
    other.disconnect(node.id()).await.unwrap();
    log.until("inbound_node_disconnected").await;

    // The observed node connects and disconnects.
    node.connect(address_of(&other)).await.unwrap();
    other.send(node.id(), "you again").await.unwrap();
    log.until("node_message: other outbound, you again").await;
    node.disconnect(other.id()).await.unwrap();
    log.until("outbound_node_disconnected").await;

    // The other node connects, and the observed node disconnects it.
    wait_until("the link to end", || other.peers().is_empty()).await;
    other.connect(address_of(&node)).await.unwrap();
    log.until_count("inbound_node_connected", 2).await;
    node.disconnect(other.id()).await.unwrap();
    log.until_count("inbound_node_disconnected", 2).await;

    // A client that is not a node connects.
    let mut stranger = tokio::net::TcpStream::connect(address_of(&node)).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    log.until("inbound_node_connection_error").await;

    // A node crashes before it has acknowledged a message.
    let other_runtime = OtherRuntime::new();
    let mut config = Config::default();
    config.ack_delay = Duration::from_secs(40);
    let crashing = builder("crashing").config(config);
    let crashing = other_runtime.run(crashing.spawn()).await.unwrap();
    node.connect(address_of(&crashing)).await.unwrap();
    node.send(crashing.id(), "lost").await.unwrap();
    wait_until("the message to be sent", || node.counters().messages_sent == 1).await;
    let crashed_address = address_of(&crashing);
    other_runtime.crash();
    log.until_count("outbound_node_disconnected", 2).await;

    // The address of the crashed node has no listener.
    let failed = node.connect_with(crashed_address, ConnectOptions::reconnect()).await;
    failed.unwrap_err();
    log.until("outbound_node_connection_error").await;
    log.until("node_reconnection_error").await;

    // The observed node stops.
    node.connect(address_of(&other)).await.unwrap();
    log.until_count("outbound_node_connected", 3).await;
    shutdown([&node, &other]).await;
    log.until_count("outbound_node_disconnected", 3).await;
    log.lines()
}

#[tokio::test]
async fn the_three_ways_to_get_events_report_the_same() {
    let log = Log::default();
    let handler = run_scenario(builder("").handler(MethodHandler(log.clone())), &log, |_| {}).await;

    let log = Log::default();
    let writing = log.clone();
    let observed = builder("").callback(move |_, event| record(&writing, &event));
    let callback = run_scenario(observed, &log, |_| {}).await;

    let log = Log::default();
    let stream = run_scenario(builder(""), &log, |node| {
        let (mut events, log) = (node.events(), log.clone());
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                record(&log, &event);
            }
        });
    })
    .await;

    // The errors of a dial and of the first attempt to reconnect come from two tasks, so their order may
    // vary.
    let expected = [
        "inbound_node_connected: other inbound",
        "node_message: other inbound, hello",
        "node_broadcast: news, of the day",
        "node_discovered: other",
        "inbound_node_disconnected: other inbound, Requested, by_peer true",
        "outbound_node_connected: other outbound",
        "node_message: other outbound, you again",
        "node_disconnect_with_outbound_node: other outbound",
        "outbound_node_disconnected: other outbound, Requested, by_peer false",
        "inbound_node_connected: other inbound",
        "node_disconnect_with_inbound_node: other inbound",
        "inbound_node_disconnected: other inbound, Requested, by_peer false",
        "inbound_node_connection_error: 127.0.0.1",
        "outbound_node_connected: crashing outbound",
        "node_message_failed: crashing outbound, 0, 1",
        "outbound_node_disconnected: crashing outbound, Lost(..), by_peer false",
        "node_reconnection_error: try 1",
        "outbound_node_connection_error: ",
        "outbound_node_connected: other outbound",
        "node_request_to_stop: ",
        "node_disconnect_with_outbound_node: other outbound",
        "outbound_node_disconnected: other outbound, Stopping, by_peer false",
    ];
    for mut lines in [handler, callback, stream] {
        for line in &mut lines {
            if let Some((start, rest)) = line.split_once("Lost(") {
                *line = format!("{start}Lost(..){}", &rest[rest.rfind(')').unwrap() + 1..]);
            }
        }
        if lines[16].starts_with("outbound_node_connection_error") {
            lines.swap(16, 17);
        }
        assert_eq!(lines, expected);
    }
    let names: BTreeSet<_> = expected.iter().map(|line| line.split(':').next().unwrap()).collect();
    // All sixteen events except `node_lagged` and `node_handler_panicked`, which the next two tests cover.
    assert_eq!(names.len(), 14);
}

#[tokio::test]
async fn a_slow_reader_gets_the_number_of_missed_events() {
    let mut config = Config::default();
    (config.event_queue, config.event_patience) = (5, Duration::from_millis(10));
    let slow = builder("slow").config(config).spawn().await.unwrap();
    let sender = node("sender").await;
    link(&sender, &slow).await;
    let mut events = slow.events();
    expect_event(&mut events, "inbound_node_connected").await;
    for n in 0..100 {
        sender.send(slow.id(), n.to_string()).await.unwrap();
    }
    wait_until("all messages to arrive", || slow.counters().messages_received == 100).await;
    let (mut read, mut missed) = (Vec::new(), 0);
    while let Some(event) = events.try_next() {
        match event {
            // The number of missed events is exactly the gap between two messages.
            Event::NodeMessage { message, .. } => {
                let number: u64 = message.as_text().unwrap().parse().unwrap();
                assert_eq!(number, read.len() as u64 + missed);
                read.push(number);
            }
            Event::NodeLagged { missed: count } => missed += count,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(read.len() as u64 + missed, 100);
    assert!(missed > 0 && read.len() >= 5, "{read:?}");
    assert_eq!(slow.status().await.drops.events, missed);
    sender.send(slow.id(), "after").await.unwrap();
    assert_eq!(next_text(&mut events).await, "after");
    shutdown([&slow, &sender]).await;
}

#[tokio::test]
async fn a_panic_of_a_handler_ends_neither_the_node_nor_the_link() {
    let log = Log::default();
    let writing = log.clone();
    let node = builder("panicking").callback(move |cx, event| match event {
        Event::NodeMessage { message, .. } if message.as_text() == Some("boom") => {
            panic!("on {}", message.as_text().unwrap());
        }
        Event::NodeMessage { peer, message } => cx.send(&peer, message),
        Event::NodeHandlerPanicked { event, panic } => {
            writing.add("node_handler_panicked", format!("{event}, {panic}"));
        }
        _ => {}
    });
    let (node, other) = (node.spawn().await.unwrap(), crate::common::node("other").await);
    let peer = link(&other, &node).await;
    let mut events = other.events();
    for word in ["before", "boom", "after", "boom", "at last"] {
        other.send(node.id(), word).await.unwrap();
    }
    for word in ["before", "after", "at last"] {
        assert_eq!(next_text(&mut events).await, word);
    }
    log.until_count("node_handler_panicked: node_message, on boom", 2).await;
    assert_eq!(other.peer(node.id()), Some(peer));
    assert_eq!(node.counters().messages_received, 5);
    shutdown([&node, &other]).await;
}

/// Starts the action that the text of a message names.
fn run_command(cx: &mut Context<'_>, event: Event) {
    let Event::NodeMessage { peer, message } = event else { return };
    let text = message.as_text().unwrap();
    match text.split_once(' ').unwrap_or((text, "")) {
        ("echo", rest) => cx.send(&peer, rest),
        ("relay", rest) => cx.send_to_nodes(rest, &[peer.id()]),
        ("announce", rest) => cx.broadcast("announced", rest),
        ("connect", rest) => {
            cx.connect(rest.parse().unwrap(), false);
        }
        ("leave", _) => cx.disconnect(&peer),
        ("count", _) => cx.send(&peer, cx.peers().len().to_string()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_handler_starts_actions() {
    let commanded = builder("commanded").callback(run_command).spawn().await.unwrap();
    let (a, b, c) = (node("a").await, node("b").await, node("c").await);
    link(&a, &commanded).await;
    link(&b, &commanded).await;
    let (mut events_of_a, mut events_of_b, mut events_of_c) = (a.events(), b.events(), c.events());
    let command = async |words: &str| a.send(commanded.id(), words).await.unwrap();
    command("echo back to me").await;
    assert_eq!(next_text(&mut events_of_a).await, "back to me");
    command("relay to the others").await;
    assert_eq!(next_text(&mut events_of_b).await, "to the others");
    command(&format!("connect {}", address_of(&c))).await;
    let Event::InboundNodeConnected { peer } =
        expect_event(&mut events_of_c, "inbound_node_connected").await
    else {
        panic!()
    };
    assert_eq!(peer.name(), "commanded");
    command("count").await;
    assert_eq!(next_text(&mut events_of_a).await, "3");
    command("announce to all").await;
    for events in [&mut events_of_a, &mut events_of_b, &mut events_of_c] {
        let Event::NodeBroadcast { broadcast } = expect_event(events, "node_broadcast").await
        else {
            panic!()
        };
        assert_eq!((broadcast.author, &*broadcast.title), (commanded.id(), "announced"));
        assert_eq!(broadcast.message.as_text(), Some("to all"));
    }
    command("leave").await;
    expect_event(&mut events_of_a, "outbound_node_disconnected").await;
    shutdown([&commanded, &a, &b, &c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_gets_the_events_of_each_link_in_order() {
    const LINKS: usize = 50;
    let seen = Arc::new(Mutex::new(BTreeMap::<String, Vec<String>>::new()));
    let recording = seen.clone();
    let hub = builder("hub").callback(move |cx, event| {
        let Some(peer) = event.peer() else { return };
        let line = match &event {
            Event::NodeMessage { message, .. } => message.as_text().unwrap().to_owned(),
            other => other.name().to_owned(),
        };
        if event.name() == "inbound_node_connected" {
            cx.send(peer, "welcome");
        }
        recording.lock().unwrap().entry(peer.name().to_owned()).or_default().push(line);
    });
    let hub = hub.spawn().await.unwrap();
    let (address, id) = (address_of(&hub), hub.id());
    let clients = (0..LINKS).map(|n| {
        tokio::spawn(async move {
            let client = Node::builder().name(n.to_string()).spawn().await.unwrap();
            let mut events = client.events();
            client.connect(address).await.unwrap();
            for word in ["one", "two", "three"] {
                client.send(id, word).await.unwrap();
            }
            let first_two = [next_event(&mut events).await, next_event(&mut events).await];
            assert_eq!(
                first_two.map(|event| event.name()),
                ["outbound_node_connected", "node_message"]
            );
            within("shutdown", client.shutdown()).await;
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    wait_until("all links to end", || hub.peers().is_empty()).await;
    within("shutdown", hub.shutdown()).await;
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), LINKS);
    for (name, events) in &*seen {
        let expected =
            ["inbound_node_connected", "one", "two", "three", "inbound_node_disconnected"];
        assert_eq!(events, &expected, "{name}");
    }
}
