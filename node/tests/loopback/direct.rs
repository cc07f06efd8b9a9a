//! Messages to nodes without a link, over real sockets.

use std::time::Duration;

use crate::common::*;
use peerkit::{
    Broadcast, Config, Context, Error, Event, Events, Handler, Key, Node, Peer, Reason, RelayError,
};

/// Starts a node that does not listen, so that no node can dial it.
async fn without_listener(name: &str) -> Node {
    Node::builder().name(name).spawn().await.unwrap()
}

/// Idle time after which an on-demand link is closed.
const IDLE: Duration = Duration::from_millis(400);

/// Returns a configuration that soon closes idle on-demand links.
fn short_on_demand_links() -> Config {
    let mut config = Config::default();
    config.on_demand_idle = IDLE;
    config
}

/// Returns the next message, with its sender.
async fn received(events: &mut Events) -> (Peer, String) {
    match expect_event(events, "node_message").await {
        Event::NodeMessage { peer, message } => (peer, message.as_text().unwrap().to_owned()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_message_to_a_node_that_cannot_be_dialled_is_relayed() {
    let (a, b, c, d) =
        (node("a").await, node("b").await, node("c").await, without_listener("d").await);
    link(&a, &b).await;
    link(&b, &c).await;
    link(&d, &c).await;
    let mut events = d.events();
    for text in ["one", "two"] {
        within("a message", a.send(d.id(), text)).await.unwrap();
        let (peer, content) = received(&mut events).await;
        assert_eq!((peer.id(), peer.name(), content.as_str()), (a.id(), "a", text));
        assert!(!peer.is_linked());
        assert_eq!(peer.address().to_string(), "0.0.0.0:0");
    }
    assert!(a.peer(d.id()).is_none() && d.peer(a.id()).is_none(), "no link was made");
    assert_eq!(d.counters().messages_received, 2);
    assert_eq!(a.counters().messages_sent, 2);
    shutdown([&a, &b, &c, &d]).await;
}

#[tokio::test]
async fn a_message_too_large_to_relay_is_an_error_with_advice() {
    let (a, b, c) = (node("a").await, node("b").await, without_listener("c").await);
    link(&a, &b).await;
    link(&c, &b).await;
    let limit = Config::default().max_relayed();
    within("the largest message", a.send(c.id(), vec![7; limit])).await.unwrap();
    let error = within("a message that is one byte larger", a.send(c.id(), vec![7; limit + 1]))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TooLargeToPass { len, .. } if len == limit + 1), "{error:?}");
    assert!(error.to_string().contains("share a file"), "{error}");
    let max = Config::default().max_message;
    let error =
        within("a message over the limit of all messages", a.send(c.id(), vec![7; max + 1]))
            .await
            .unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    shutdown([&a, &b, &c]).await;
}

#[tokio::test]
async fn an_on_demand_link_is_closed_when_idle() {
    let a = builder("a").config(short_on_demand_links()).spawn().await.unwrap();
    let (b, c) = (node("b").await, node("c").await);
    link(&a, &b).await;
    link(&b, &c).await;
    let (mut events_of_a, mut events_of_c) = (a.events(), c.events());
    within("a message", a.send(c.id(), "hello")).await.unwrap();
    let (peer, text) = received(&mut events_of_c).await;
    assert_eq!((peer.id(), text.as_str()), (a.id(), "hello"));
    assert!(peer.is_linked(), "the message must arrive over a link");
    // The link stays open while either node sends.
    for n in 0..10 {
        tokio::time::sleep(IDLE / 4).await;
        match n % 2 {
            0 => a.send(c.id(), "more").await.unwrap(),
            _ => c.send(a.id(), "back").await.unwrap(),
        }
    }
    let Event::OutboundNodeDisconnected { peer, link_end } =
        expect_event(&mut events_of_a, "outbound_node_disconnected").await
    else {
        panic!()
    };
    assert_eq!((peer.id(), link_end.reason), (c.id(), Reason::NotNeeded));
    wait_until("all messages to arrive", || c.counters().messages_received == 6).await;
    assert!(a.peer(b.id()).is_some(), "the other link must stay");
    shutdown([&a, &b, &c]).await;
}

#[tokio::test]
async fn an_on_demand_link_stays_if_the_application_connects() {
    let a = builder("a").config(short_on_demand_links()).spawn().await.unwrap();
    let (b, c) = (node("b").await, node("c").await);
    link(&a, &b).await;
    link(&b, &c).await;
    within("a message", a.send(c.id(), "hello")).await.unwrap();
    a.connect(address_of(&c)).await.unwrap();
    tokio::time::sleep(IDLE * 4).await;
    assert!(a.peer(c.id()).is_some());
    shutdown([&a, &b, &c]).await;
}

#[tokio::test]
async fn a_known_peer_is_dialled_without_a_lookup() {
    let (a, b) = (node("a").await, node("b").await);
    link(&a, &b).await;
    a.disconnect(b.id()).await.unwrap();
    wait_until("the link to end", || a.peers().is_empty() && b.peers().is_empty()).await;
    let mut events = b.events();
    within("a message", a.send(b.id(), "again")).await.unwrap();
    assert_eq!(received(&mut events).await.1, "again");
    shutdown([&a, &b]).await;
}

#[tokio::test]
async fn a_message_of_16_mib_reaches_a_node_without_a_link() {
    let (a, b, c) = (node("a").await, node("b").await, node("c").await);
    link(&a, &b).await;
    link(&b, &c).await;
    let mut events = c.events();
    let bytes = SeededRandom(1).bytes(Config::default().max_message);
    within("a message", a.send(c.id(), &bytes)).await.unwrap();
    assert!(next_message(&mut events).await.body()[..] == bytes[..]);
    shutdown([&a, &b, &c]).await;
}

#[tokio::test]
async fn a_message_to_an_unknown_node_fails_before_any_deadline() {
    let patient = |name| builder(name).config(without_deadlines()).spawn();
    let a = patient("a").await.unwrap();
    let (b, c) = (patient("b").await.unwrap(), patient("c").await.unwrap());
    link(&a, &b).await;
    link(&b, &c).await;
    let unknown = Key::from_secret(&[9; 32]).id();
    let error = within("the error", a.send(unknown, "x")).await.unwrap_err();
    assert!(matches!(error, Error::NotFound(id) if id == unknown), "{error:?}");
    assert!(matches!(a.send(a.id(), "x").await, Err(Error::ThisNode)));
    shutdown([&a, &b, &c]).await;
}

#[tokio::test]
async fn a_node_with_manual_links_makes_no_on_demand_link() {
    let a = builder("a").manual(true).spawn().await.unwrap();
    let (b, c) = (node("b").await, node("c").await);
    link(&a, &b).await;
    link(&b, &c).await;
    let mut events = c.events();
    within("a message", a.send(c.id(), "hello")).await.unwrap();
    let (peer, text) = received(&mut events).await;
    assert_eq!((peer.id(), peer.is_linked(), text.as_str()), (a.id(), false, "hello"));
    assert_eq!((a.peers().len(), c.peers().len()), (1, 1));
    shutdown([&a, &b, &c]).await;
}

#[tokio::test]
async fn a_relayed_message_takes_another_route_if_one_breaks() {
    let (a, b, c) = (node("a").await, node("b").await, node("c").await);
    let d = without_listener("d").await;
    for through in [&b, &c] {
        link(&a, through).await;
        link(&d, through).await;
    }
    let mut events = d.events();
    within("a message", a.send(d.id(), "one")).await.unwrap();
    shutdown([&b]).await;
    wait_until("the link to b to end", || a.peers().len() == 1 && d.peers().len() == 1).await;
    within("a message", a.send(d.id(), "two")).await.unwrap();
    for text in ["one", "two"] {
        assert_eq!(received(&mut events).await.1, text);
    }
    shutdown([&c]).await;
    wait_until("the link to c to end", || a.peers().is_empty()).await;
    let lost = within("the error", a.send(d.id(), "three")).await.unwrap_err();
    let is_not_found = |error: &Error| matches!(error, Error::NotFound(_));
    assert!(is_not_found(&lost), "{lost:?}");
    shutdown([&a, &d]).await;
}

#[tokio::test]
async fn handlers_answer_relayed_messages_and_get_failures() {
    let b = node("b").await;
    let a = without_listener("a").await;
    // Returns each message five times, and then sends a message to a node that does not exist.
    let missing = Peer::without_link(Key::from_secret(&[9; 32]).id(), String::new());
    let echo = Node::builder().name("echo").callback(move |cx, event| {
        if let Event::NodeMessage { peer, message } = event {
            for n in 0..5 {
                cx.send(&peer, format!("{} {n}", message.as_text().unwrap()));
            }
            cx.send(&missing, "is a node there?");
        }
    });
    let echo = echo.spawn().await.unwrap();
    link(&a, &b).await;
    link(&echo, &b).await;
    let (mut events_of_a, mut echo_events) = (a.events(), echo.events());
    within("a message", a.send(echo.id(), "hello")).await.unwrap();
    for n in 0..5 {
        let (peer, text) = received(&mut events_of_a).await;
        assert_eq!((peer.id(), text), (echo.id(), format!("hello {n}")), "in order");
    }
    let Event::NodeMessageFailed { peer, failure } =
        expect_event(&mut echo_events, "node_message_failed").await
    else {
        panic!()
    };
    assert_eq!((peer.id(), failure.unsent), (Key::from_secret(&[9; 32]).id(), 1));
    shutdown([&a, &b, &echo]).await;
}

#[tokio::test]
async fn waiting_sends_fail_when_the_node_stops() {
    let (a, b) = (node("a").await, node("b").await);
    link(&a, &b).await;
    let unknown = Key::from_secret(&[9; 32]).id();
    let sends: Vec<_> = (0..20)
        .map(|n| {
            let a = a.clone();
            tokio::spawn(async move { a.send(unknown, format!("{n}")).await })
        })
        .collect();
    shutdown([&a]).await;
    for send in sends {
        let sent = within("an answer", send).await.unwrap();
        assert!(matches!(sent, Err(Error::Stopped | Error::NotFound(_))), "{sent:?}");
    }
    assert!(matches!(a.send(unknown, "x").await, Err(Error::Stopped)));
    shutdown([&b]).await;
}

/// Members have few neighbours, so they dial most other members on demand. These links must not disturb the
/// overlay: the neighbours stay linked, and the network stays connected.
#[tokio::test]
async fn members_reach_all_others_and_keep_their_neighbours() {
    let mut config = short_on_demand_links();
    (config.active_view, config.passive_view) = (3, 8);
    // With so few neighbours the network may split. Frequent probes soon repair it.
    (config.probe_every, config.beacon_every) = (IDLE, IDLE / 2);
    let mut nodes: Vec<Node> = Vec::new();
    for n in 0..8 {
        let node = builder(&n.to_string()).config(config.clone()).spawn().await.unwrap();
        if let Some(first) = nodes.first() {
            within("a join", node.join(&[address_of(first).into()])).await.unwrap();
        }
        nodes.push(node);
    }
    for from in &nodes {
        for to in nodes.iter().filter(|to| to.id() != from.id()) {
            within("a message", from.send(to.id(), "hello")).await.unwrap();
        }
    }
    let all_received = |count| nodes.iter().all(|n| n.counters().messages_received == count);
    wait_until("each node to have a message from each other node", || all_received(7)).await;
    within("the on-demand links to be closed", async {
        for node in &nodes {
            loop {
                let status = node.status().await;
                let kept = [status.neighbours, status.pinned].concat();
                if status.member && node.peers().iter().all(|peer| kept.contains(&peer.id())) {
                    break;
                }
                tokio::time::sleep(IDLE / 4).await;
            }
        }
    })
    .await;
    within("the network to be connected", async {
        while nodes[0].discover(-1).await.unwrap().nodes.len() != 8 {
            tokio::time::sleep(IDLE).await;
        }
    })
    .await;
    shutdown(&nodes).await;
}

#[test]
fn the_error_without_a_receipt_says_that_the_message_may_have_arrived() {
    let text = RelayError::Silent(Duration::from_secs(1)).to_string();
    assert!(text.contains("may have arrived"), "{text}");
}

#[tokio::test]
async fn a_ping_reaches_any_node() {
    let (a, b, c, d) =
        (node("a").await, node("b").await, node("c").await, without_listener("d").await);
    link(&a, &b).await;
    link(&b, &c).await;
    link(&d, &c).await;
    // A ping to a node that can't be dialled is relayed. For a ping to any other node, a link is made.
    assert!(within("a ping", a.ping(d.id())).await.unwrap() > Duration::ZERO);
    assert!(a.peer(d.id()).is_none(), "no link was made");
    assert!(within("a ping", a.ping(c.id())).await.unwrap() > Duration::ZERO);
    assert!(a.peer(c.id()).is_some(), "a link must be made");
    assert!(within("a ping", a.ping(b.id())).await.unwrap() > Duration::ZERO);
    assert_eq!(d.counters().messages_received, 0, "the application must not get a ping");
    let unknown = Key::from_secret(&[9; 32]).id();
    let error = within("the error", a.ping(unknown)).await.unwrap_err();
    assert!(matches!(error, Error::NotFound(id) if id == unknown), "{error:?}");
    assert!(matches!(a.ping(a.id()).await, Err(Error::ThisNode)));
    shutdown([&a, &b, &c, &d]).await;
}

#[tokio::test]
async fn a_node_with_manual_links_pings_without_a_link() {
    let a = builder("a").manual(true).spawn().await.unwrap();
    let (b, c) = (node("b").await, node("c").await);
    link(&a, &b).await;
    link(&b, &c).await;
    assert!(within("a ping", a.ping(c.id())).await.unwrap() > Duration::ZERO);
    assert_eq!((a.peers().len(), c.peers().len()), (1, 1));
    shutdown([&a, &b, &c]).await;
}

#[tokio::test]
async fn idle_time_is_the_time_since_the_last_bytes_from_the_peer() {
    let (a, b) = (node("a").await, node("b").await);
    assert_eq!(a.idle_time(b.id()), None);
    link(&a, &b).await;
    let start = std::time::Instant::now();
    within("a ping", a.ping(b.id())).await.unwrap();
    let (idle, passed) = (a.idle_time(b.id()).unwrap(), start.elapsed());
    assert!(idle <= passed, "{idle:?}, although the peer answered at most {passed:?} ago");
    wait_until("some time to pass", || {
        a.idle_time(b.id()).is_some_and(|idle| idle > Duration::ZERO)
    })
    .await;
    shutdown([&a, &b]).await;
}

/// A handler that sends a message to the author of each broadcast. It has only the author's identity.
struct Thanker;

impl Handler for Thanker {
    fn node_broadcast(&mut self, cx: &mut Context<'_>, broadcast: Broadcast) {
        cx.send(broadcast.author, "thanks");
    }
}

#[tokio::test]
async fn a_handler_answers_authors_of_broadcasts_with_or_without_a_link() {
    let (a, b) = (node("a").await, node("b").await);
    let near = builder("near").handler(Thanker).spawn().await.unwrap();
    let far = builder("far").handler(Thanker).spawn().await.unwrap();
    link(&a, &near).await;
    link(&a, &b).await;
    link(&b, &far).await;
    let mut events = a.events();
    within("a broadcast", a.broadcast("title", "text")).await.unwrap();
    let mut thanks = Vec::new();
    for _ in 0..2 {
        let (peer, text) = received(&mut events).await;
        assert_eq!(text, "thanks");
        thanks.push(peer.id());
    }
    thanks.sort_unstable();
    let mut expected = [near.id(), far.id()];
    expected.sort_unstable();
    assert_eq!(thanks, expected);
    shutdown([&a, &b, &near, &far]).await;
}
