//! Messages to nodes that are not neighbours, over real sockets.

use std::time::Duration;

use crate::common::*;
use peerkit::{
    Broadcast, Config, Context, Error, Event, Events, Handler, Key, Node, Peer, Reason, RelayError,
};

/// A node that no other can dial.
async fn deaf(name: &str) -> Node {
    Node::builder().name(name).spawn().await.unwrap()
}

/// Links that are made for one message end after so long.
const IDLE: Duration = Duration::from_millis(400);

fn short_errands() -> Config {
    let mut config = Config::default();
    config.on_demand_idle = IDLE;
    config
}

/// Returns the next message, and its sender.
async fn received(events: &mut Events) -> (Peer, String) {
    match expect(events, "node_message").await {
        Event::NodeMessage { peer, message } => (peer, message.as_text().unwrap().to_owned()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_node_that_can_not_be_dialled_gets_it_through_others() {
    let (a, b, c, d) = (node("a").await, node("b").await, node("c").await, deaf("d").await);
    link(&a, &b).await;
    link(&b, &c).await;
    link(&d, &c).await;
    let mut events = d.events();
    for text in ["one", "two"] {
        within("a message", a.send(d.id(), text)).await.unwrap();
        let (peer, got) = received(&mut events).await;
        assert_eq!((peer.id(), peer.name(), got.as_str()), (a.id(), "a", text));
        assert!(!peer.is_linked());
        assert_eq!(peer.address().to_string(), "0.0.0.0:0");
    }
    assert!(a.peer(d.id()).is_none() && d.peer(a.id()).is_none(), "no link was made");
    assert_eq!(d.counters().messages_received, 2);
    assert_eq!(a.counters().messages_sent, 2);
    shutdown([&a, &b, &c, &d]).await;
}

#[tokio::test]
async fn a_large_one_says_what_to_do_instead() {
    let (a, b, c) = (node("a").await, node("b").await, deaf("c").await);
    link(&a, &b).await;
    link(&c, &b).await;
    let limit = Config::default().max_direct();
    within("the largest", a.send(c.id(), vec![7; limit])).await.unwrap();
    let error = within("one more", a.send(c.id(), vec![7; limit + 1])).await.unwrap_err();
    assert!(matches!(error, Error::TooLargeToPass { len, .. } if len == limit + 1), "{error:?}");
    assert!(error.to_string().contains("share a file"), "{error}");
    let max = Config::default().max_message;
    let error = within("far more", a.send(c.id(), vec![7; max + 1])).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    shutdown([&a, &b, &c]).await;
}

#[tokio::test]
async fn a_node_that_can_be_dialled_is_and_the_link_is_closed_when_idle() {
    let a = builder("a").config(short_errands()).spawn().await.unwrap();
    let (b, c) = (node("b").await, node("c").await);
    link(&a, &b).await;
    link(&b, &c).await;
    let (mut ea, mut ec) = (a.events(), c.events());
    within("a message", a.send(c.id(), "hello")).await.unwrap();
    let (peer, text) = received(&mut ec).await;
    assert_eq!((peer.id(), text.as_str()), (a.id(), "hello"));
    assert!(peer.is_linked(), "it came over a link");
    // It lasts for as long as one of the two sends.
    for n in 0..10 {
        tokio::time::sleep(IDLE / 4).await;
        match n % 2 {
            0 => a.send(c.id(), "more").await.unwrap(),
            _ => c.send(a.id(), "back").await.unwrap(),
        }
    }
    let Event::OutboundNodeDisconnected { peer, link_end } =
        expect(&mut ea, "outbound_node_disconnected").await
    else {
        panic!()
    };
    assert_eq!((peer.id(), link_end.reason), (c.id(), Reason::NotNeeded));
    until("all have come", || c.counters().messages_received == 6).await;
    assert!(a.peer(b.id()).is_some(), "the other link stays");
    shutdown([&a, &b, &c]).await;
}

#[tokio::test]
async fn a_link_that_the_application_asked_for_stays() {
    let a = builder("a").config(short_errands()).spawn().await.unwrap();
    let (b, c) = (node("b").await, node("c").await);
    link(&a, &b).await;
    link(&b, &c).await;
    within("a message", a.send(c.id(), "hello")).await.unwrap();
    a.connect(at(&c)).await.unwrap();
    tokio::time::sleep(IDLE * 4).await;
    assert!(a.peer(c.id()).is_some());
    shutdown([&a, &b, &c]).await;
}

#[tokio::test]
async fn a_node_met_before_is_dialled_without_asking_anybody() {
    let (a, b) = (node("a").await, node("b").await);
    link(&a, &b).await;
    a.disconnect(b.id()).await.unwrap();
    until("the link is gone", || a.peers().is_empty() && b.peers().is_empty()).await;
    let mut events = b.events();
    within("a message", a.send(b.id(), "again")).await.unwrap();
    assert_eq!(received(&mut events).await.1, "again");
    shutdown([&a, &b]).await;
}

#[tokio::test]
async fn sixteen_mebibytes_reach_a_node_that_is_no_neighbour() {
    let (a, b, c) = (node("a").await, node("b").await, node("c").await);
    link(&a, &b).await;
    link(&b, &c).await;
    let mut events = c.events();
    let bytes = Chance(1).bytes(Config::default().max_message);
    within("a message", a.send(c.id(), &bytes)).await.unwrap();
    assert!(message(&mut events).await.body()[..] == bytes[..]);
    shutdown([&a, &b, &c]).await;
}

#[tokio::test]
async fn an_unknown_node_is_an_error_soon() {
    let patient = |name| builder(name).config(without_deadlines()).spawn();
    let a = patient("a").await.unwrap();
    let (b, c) = (patient("b").await.unwrap(), patient("c").await.unwrap());
    link(&a, &b).await;
    link(&b, &c).await;
    let nobody = Key::from_secret(&[9; 32]).id();
    let error = within("the error", a.send(nobody, "x")).await.unwrap_err();
    assert!(matches!(error, Error::NotFound(id) if id == nobody), "{error:?}");
    assert!(matches!(a.send(a.id(), "x").await, Err(Error::ThisNode)));
    shutdown([&a, &b, &c]).await;
}

#[tokio::test]
async fn a_node_whose_links_are_made_by_hand_makes_none() {
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
async fn a_way_that_has_broken_is_found_anew() {
    let (a, b, c) = (node("a").await, node("b").await, node("c").await);
    let d = deaf("d").await;
    for through in [&b, &c] {
        link(&a, through).await;
        link(&d, through).await;
    }
    let mut events = d.events();
    within("a message", a.send(d.id(), "one")).await.unwrap();
    shutdown([&b]).await;
    until("b is gone", || a.peers().len() == 1 && d.peers().len() == 1).await;
    within("a message", a.send(d.id(), "two")).await.unwrap();
    for text in ["one", "two"] {
        assert_eq!(received(&mut events).await.1, text);
    }
    shutdown([&c]).await;
    until("c is gone", || a.peers().is_empty()).await;
    let lost = within("the error", a.send(d.id(), "three")).await.unwrap_err();
    let no_way = |error: &Error| matches!(error, Error::NotFound(_));
    assert!(no_way(&lost), "{lost:?}");
    shutdown([&a, &d]).await;
}

#[tokio::test]
async fn handlers_answer_the_way_it_came_and_hear_where_that_fails() {
    let b = node("b").await;
    let a = deaf("a").await;
    // Sends each message back, and then one to a node that does not exist.
    let nowhere = Peer::without_link(Key::from_secret(&[9; 32]).id(), String::new());
    let echo = Node::builder().name("echo").callback(move |cx, event| {
        if let Event::NodeMessage { peer, message } = event {
            for n in 0..5 {
                cx.send(&peer, format!("{} {n}", message.as_text().unwrap()));
            }
            cx.send(&nowhere, "is anybody there?");
        }
    });
    let echo = echo.spawn().await.unwrap();
    link(&a, &b).await;
    link(&echo, &b).await;
    let (mut ea, mut heard) = (a.events(), echo.events());
    within("a message", a.send(echo.id(), "hello")).await.unwrap();
    for n in 0..5 {
        let (peer, text) = received(&mut ea).await;
        assert_eq!((peer.id(), text), (echo.id(), format!("hello {n}")), "in order");
    }
    let Event::NodeMessageFailed { peer, failure } =
        expect(&mut heard, "node_message_failed").await
    else {
        panic!()
    };
    assert_eq!((peer.id(), failure.unsent), (Key::from_secret(&[9; 32]).id(), 1));
    shutdown([&a, &b, &echo]).await;
}

#[tokio::test]
async fn a_node_that_stops_ends_the_waits_of_its_callers() {
    let (a, b) = (node("a").await, node("b").await);
    link(&a, &b).await;
    let nobody = Key::from_secret(&[9; 32]).id();
    let sends: Vec<_> = (0..20)
        .map(|n| {
            let a = a.clone();
            tokio::spawn(async move { a.send(nobody, format!("{n}")).await })
        })
        .collect();
    shutdown([&a]).await;
    for send in sends {
        let sent = within("an answer", send).await.unwrap();
        assert!(matches!(sent, Err(Error::Stopped | Error::NotFound(_))), "{sent:?}");
    }
    assert!(matches!(a.send(nobody, "x").await, Err(Error::Stopped)));
    shutdown([&b]).await;
}

/// Members have few neighbours: most of the others are no neighbours, and are dialled. What they find
/// and keep of themselves is none the worse for it.
#[tokio::test]
async fn members_reach_all_others_and_keep_their_neighbours() {
    let mut config = short_errands();
    (config.active_view, config.passive_view) = (3, 8);
    // So few neighbours may make two networks of one, which find each other in some time.
    (config.probe_every, config.beacon_every) = (IDLE, IDLE / 2);
    let mut nodes: Vec<Node> = Vec::new();
    for n in 0..8 {
        let node = builder(&n.to_string()).config(config.clone()).spawn().await.unwrap();
        if let Some(first) = nodes.first() {
            within("joining", node.join(&[at(first).into()])).await.unwrap();
        }
        nodes.push(node);
    }
    for from in &nodes {
        for to in nodes.iter().filter(|to| to.id() != from.id()) {
            within("a message", from.send(to.id(), "hello")).await.unwrap();
        }
    }
    let all_have = |so_many| nodes.iter().all(|n| n.counters().messages_received == so_many);
    until("all have heard of all", || all_have(7)).await;
    within("errands done", async {
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
    within("the network hangs together", async {
        while nodes[0].discover(-1).await.unwrap().nodes.len() != 8 {
            tokio::time::sleep(IDLE).await;
        }
    })
    .await;
    shutdown(&nodes).await;
}

#[test]
fn why_it_was_missed_is_said_in_words() {
    let text = RelayError::Silent(Duration::from_secs(1)).to_string();
    assert!(text.contains("may have arrived"), "{text}");
}

#[tokio::test]
async fn a_ping_reaches_any_node() {
    let (a, b, c, d) = (node("a").await, node("b").await, node("c").await, deaf("d").await);
    link(&a, &b).await;
    link(&b, &c).await;
    link(&d, &c).await;
    // One that can't be dialled is pinged through the network, one that can over a link of its own.
    assert!(within("a ping", a.ping(d.id())).await.unwrap() > Duration::ZERO);
    assert!(a.peer(d.id()).is_none(), "no link was made");
    assert!(within("a ping", a.ping(c.id())).await.unwrap() > Duration::ZERO);
    assert!(a.peer(c.id()).is_some(), "the link that was made for it");
    assert!(within("a ping", a.ping(b.id())).await.unwrap() > Duration::ZERO);
    assert_eq!(d.counters().messages_received, 0, "the application sees nothing of it");
    let nobody = Key::from_secret(&[9; 32]).id();
    let error = within("the error", a.ping(nobody)).await.unwrap_err();
    assert!(matches!(error, Error::NotFound(id) if id == nobody), "{error:?}");
    assert!(matches!(a.ping(a.id()).await, Err(Error::ThisNode)));
    shutdown([&a, &b, &c, &d]).await;
}

#[tokio::test]
async fn a_node_by_hand_pings_without_a_link() {
    let a = builder("a").manual(true).spawn().await.unwrap();
    let (b, c) = (node("b").await, node("c").await);
    link(&a, &b).await;
    link(&b, &c).await;
    assert!(within("a ping", a.ping(c.id())).await.unwrap() > Duration::ZERO);
    assert_eq!((a.peers().len(), c.peers().len()), (1, 1));
    shutdown([&a, &b, &c]).await;
}

#[tokio::test]
async fn the_time_of_the_last_byte_of_a_peer_is_known() {
    let (a, b) = (node("a").await, node("b").await);
    assert_eq!(a.idle_time(b.id()), None);
    link(&a, &b).await;
    let begun = std::time::Instant::now();
    within("a ping", a.ping(b.id())).await.unwrap();
    let (idle, passed) = (a.idle_time(b.id()).unwrap(), begun.elapsed());
    assert!(idle <= passed, "{idle:?} though it answered {passed:?} ago at the most");
    until("time passes", || a.idle_time(b.id()).is_some_and(|idle| idle > Duration::ZERO)).await;
    shutdown([&a, &b]).await;
}

/// Thanks the author of each broadcast, of which it knows only the identity.
struct Thankful;

impl Handler for Thankful {
    fn node_broadcast(&mut self, cx: &mut Context<'_>, broadcast: Broadcast) {
        cx.send(broadcast.author, "thanks");
    }
}

#[tokio::test]
async fn a_handler_answers_the_author_of_a_broadcast_with_or_without_a_link() {
    let (a, b) = (node("a").await, node("b").await);
    let near = builder("near").handler(Thankful).spawn().await.unwrap();
    let far = builder("far").handler(Thankful).spawn().await.unwrap();
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
