//! Attacks on the overlay, with queries, answers and broadcasts that no honest node would send.

use std::collections::BTreeSet;

use peerkit::{Address, Event, Message, MessageKind, Node, NodeId, Reason};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::broadcast::{Batch, Item, RunId};
use peerkit_proto::frame::query::{AnswerBody, Query, QueryAnswer, QueryDone, QueryId, QueryKind};
use peerkit_proto::message::PackedMessage;

use crate::attacker::{Attacker, STEP_TIMEOUT, Victim, encoded, key, raw_frame, text, within};

fn query(n: u32, depth: u8, what: QueryKind) -> Query {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&n.to_le_bytes());
    Query { id: QueryId(id), depth, own: false, ttl: STEP_TIMEOUT, what }
}

fn has_file() -> QueryKind {
    QueryKind::HasFile(peerkit::Hash::from_bytes([7; 32]))
}

fn answer_of(id: QueryId, node: NodeId) -> Frame {
    let body = AnswerBody::Neighbours(Vec::new(), Vec::new());
    let name = "x".to_owned();
    Frame::Answer(QueryAnswer { id, node, name, addresses: Vec::new(), body })
}

/// The attacker sends more queries than the table of queries holds. Its link can only fill its share of the
/// table. Each query gets an answer anyway, and queries of other nodes still run.
#[tokio::test]
async fn a_flood_of_queries_fills_only_its_share_of_the_table() {
    let victim = Victim::new().await;
    let mut attacker = Attacker::link(victim.address()).await;
    // These queries need no look-up, so no other limit applies.
    let what = QueryKind::FindNode(NodeId::from_bytes([7; 32]));
    let answers = flood(&mut attacker, 70_000, &what).await;
    let taken = answers.iter().filter(|complete| **complete).count();
    assert_eq!((answers.len(), taken), (70_000, 65_536 / 8));
    victim.check_honest_node_is_served().await;
    drop(attacker);
    victim.check_unharmed().await;
}

/// The number of look-ups for queries from one link is limited, and other nodes can still search.
#[tokio::test]
async fn a_flood_of_searches_causes_few_lookups() {
    let victim = Victim::new().await;
    let mut attacker = Attacker::link(victim.address()).await;
    let started = std::time::Instant::now();
    for what in [has_file(), QueryKind::Search("*a*".into())] {
        let answers = flood(&mut attacker, 4000, &what).await;
        let lookups = answers.iter().filter(|complete| **complete).count() as u64;
        let allowed = 1000 + 100 * (started.elapsed().as_secs() + 1);
        assert!(answers.len() == 4000 && lookups <= allowed, "{lookups} of {allowed}");
    }
    victim.check_honest_node_is_served().await;
    drop(attacker);
    victim.check_unharmed().await;
}

/// Sends `count` new queries. Returns for each whether its answer was complete.
async fn flood(attacker: &mut Attacker, count: u32, what: &QueryKind) -> Vec<bool> {
    let kind = u32::from(matches!(what, QueryKind::Search(_))) << 24;
    let query = |n| encoded(&Frame::Query(query(n | kind, 1, what.clone())));
    let flood: Vec<u8> = (0..count).flat_map(query).collect();
    let done = |frame| match frame {
        Frame::QueryDone(done) => Some(done.complete),
        _ => None,
    };
    let mut answers = Vec::new();
    // The flood is sent in parts whose answers fit the victim's control queue. With larger parts the victim
    // would disconnect the attacker.
    for part in flood.chunks(flood.len() / 10) {
        answers.extend(attacker.exchange(part, done, count as usize / 10).await);
    }
    answers
}

/// The victim passes a flood of queries on to a neighbour that does not read. Their link does not end.
#[tokio::test]
async fn a_flood_of_queries_does_not_disconnect_other_peers() {
    let victim = Victim::new().await;
    let mut attacker = Attacker::link(victim.address()).await;
    let other = Attacker::link(victim.address()).await;
    let far: Address = format!("{}:1", "a".repeat(250)).parse().unwrap();
    let target = NodeId::from_bytes([1; 32]);
    let what = QueryKind::CallBack { target, token: [1; 16], addresses: vec![far; 32] };
    for n in 0..8000 {
        attacker.send_raw(&encoded(&Frame::Query(query(n, 1, what.clone())))).await;
    }
    // The victim answers a repeated query immediately, after the answers to all earlier queries.
    let last = query(7999, 0, what);
    attacker.send_raw(&encoded(&Frame::Query(last.clone()))).await;
    loop {
        let Some(frame) = attacker.content().await else { panic!("the attacker was disconnected") };
        if matches!(frame, Frame::QueryDone(done) if done.id == last.id && done.depth == 0) {
            break;
        }
    }
    assert!(victim.node.peer(other.id()).is_some(), "the other peer has lost its link");
    drop((attacker, other));
    victim.check_unharmed().await;
}

/// The attacker repeats a query many times, with increasing depths and with another content. The victim
/// passes it on a limited number of times.
#[tokio::test]
async fn a_query_that_runs_in_a_loop_ends() {
    let victim = Victim::new().await;
    let mut attacker = Attacker::link(victim.address()).await;
    let mut other = Attacker::link(victim.address()).await;
    let rounds: Vec<u8> = (0..=255)
        .chain(0..=255)
        .flat_map(|depth| encoded(&Frame::Query(query(1, depth, has_file()))))
        .chain(encoded(&Frame::Query(query(1, 255, QueryKind::Discover))))
        .chain(encoded(&Frame::Ping(99)))
        .collect();
    let (mut passed_on, mut returned) = (0, 0);
    attacker.send_raw(&rounds).await;
    // Once the victim has answered this ping, it has handled all queries before it.
    while attacker.frame().await.expect("a pong") != Frame::Pong(99) {}
    other.send(&Frame::Ping(1)).await;
    // The other attacker sends each query back to the victim, which answers it.
    loop {
        match other.content().await.expect("a link") {
            Frame::Query(query) => {
                passed_on += 1;
                other.send(&Frame::Query(query)).await;
            }
            Frame::QueryDone(_) => returned += 1,
            Frame::Pong(1) => other.send(&Frame::Ping(2)).await,
            Frame::Pong(2) => break,
            frame => panic!("{frame:?}"),
        }
        assert!(passed_on + returned < 1000, "no end");
    }
    assert!((1..=256).contains(&passed_on), "{passed_on} times");
    drop((attacker, other));
    victim.check_unharmed().await;
}

#[tokio::test]
async fn answers_without_a_query_are_dropped() {
    let victim = Victim::new().await;
    let mut asked = Attacker::link(victim.address()).await;
    let mut other = Attacker::link(victim.address()).await;
    let stray = QueryId([9; 16]);
    for attacker in [&mut asked, &mut other] {
        attacker.send(&answer_of(stray, NodeId::from_bytes([1; 32]))).await;
        let done = QueryDone { id: stray, depth: 0, complete: true };
        attacker.send(&Frame::QueryDone(done)).await;
    }
    let discovering = tokio::spawn({
        let node = victim.node.clone();
        async move { node.discover(1).await }
    });
    let Some(Frame::Query(query)) = asked.content().await else { panic!("no query") };
    let Some(Frame::Query(same)) = other.content().await else { panic!("no query") };
    assert_eq!(query.id, same.id);
    let done = |depth| Frame::QueryDone(QueryDone { id: query.id, depth, complete: true });
    // Sends an answer to another query, an answer to the right query, a "done" with another depth, the right
    // "done", and an answer after the "done".
    asked.send(&answer_of(stray, NodeId::from_bytes([2; 32]))).await;
    asked.send(&answer_of(query.id, asked.id())).await;
    asked.send(&done(query.depth + 1)).await;
    asked.send(&done(query.depth)).await;
    asked.send(&answer_of(query.id, NodeId::from_bytes([3; 32]))).await;
    asked.send(&text("after the answers")).await;
    victim.message(asked.id()).await;
    assert!(!discovering.is_finished());
    other.send(&answer_of(query.id, other.id())).await;
    other.send(&done(query.depth)).await;
    let found = within(STEP_TIMEOUT, "the discovery", discovering).await.unwrap().unwrap();
    let found: BTreeSet<_> = found.nodes.iter().map(|node| node.id).collect();
    assert_eq!(found, BTreeSet::from([victim.id(), asked.id(), other.id()]));
    drop((asked, other));
    victim.check_unharmed().await;
}

/// In pythonp2p and in the tutorial of p2pnetwork, a discovery with a positive depth stops after one hop.
#[tokio::test]
async fn positive_discovery_depths_go_beyond_one_hop() {
    let mut chain: Vec<Node> = Vec::new();
    for _ in 0..5 {
        let node = Node::builder().listen("127.0.0.1:0").spawn().await.unwrap();
        if let Some(last) = chain.last() {
            node.connect(last.listening()[0]).await.unwrap();
        }
        chain.push(node);
    }
    for (depth, others) in [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (9, 4), (-1, 4)] {
        let found = within(STEP_TIMEOUT, "a discovery", chain[0].discover(depth)).await.unwrap();
        let found: Vec<_> = found.nodes.iter().map(|node| node.id).collect();
        let expected: BTreeSet<_> = chain[..=others].iter().map(Node::id).collect();
        assert_eq!((found.len(), found.into_iter().collect()), (others + 1, expected), "{depth}");
    }
    for node in chain {
        node.shutdown().await;
    }
}

/// Returns a broadcast of an honest node, as it arrives at a neighbour.
async fn broadcast(title: &str, message: &str) -> Batch {
    let author = Node::builder().listen("127.0.0.1:0").spawn().await.unwrap();
    let mut relay = Attacker::link(author.listening()[0]).await;
    author.broadcast(title, message).await.unwrap();
    let Some(Frame::Broadcast(batch)) = relay.content().await else { panic!("no broadcast") };
    // The stop of a node waits for the goodbye of its peers, and the attacker says none.
    drop(relay);
    author.shutdown().await;
    batch
}

/// The parts of a batch with one broadcast, so that a test can alter them.
#[derive(Clone)]
struct BatchParts {
    run: RunId,
    first: u64,
    floor: u64,
    item: Item,
    signature: [u8; 64],
}

impl BatchParts {
    fn of(batch: &Batch) -> Self {
        let Batch { run, first, floor, signature, .. } = *batch;
        Self { run, first, floor, item: batch.items[0].clone(), signature }
    }

    fn frame(self) -> Frame {
        let positions = (self.first, self.floor);
        Frame::Broadcast(Batch::from_parts(self.run, positions, vec![self.item], self.signature))
    }
}

fn received_broadcasts(victim: &Victim) -> Vec<peerkit::Broadcast> {
    let events = victim.take_events().into_iter();
    let broadcasts = events.filter_map(|event| match event {
        Event::NodeBroadcast { broadcast } => Some(broadcast),
        _ => None,
    });
    broadcasts.collect()
}

/// In pythonp2p, signatures cover the data, but not its type, its time or its recipient. In peerkit, a
/// message to one peer needs no signature, as it arrives over the sender's link.
#[tokio::test]
async fn a_broadcast_that_a_relay_has_altered_is_not_delivered_and_ends_its_link() {
    let victim = Victim::new().await;
    let good = broadcast("title", "the text").await;
    let other = key();
    type Alteration = Box<dyn Fn(&mut BatchParts)>;
    let alterations: [(&str, Alteration); 10] = [
        ("the author", Box::new(move |b| b.run.author = other.id())),
        ("the run", Box::new(|b| b.run.epoch += 1)),
        ("the sequence number", Box::new(|b| b.first += 1)),
        ("the floor", Box::new(|b| (b.first, b.floor) = (b.first + 1, b.floor + 1))),
        ("the time", Box::new(|b| b.item.time += 1)),
        ("the title", Box::new(|b| b.item.title.push('!'))),
        ("the type", Box::new(|b| b.item.content.kind = MessageKind::Bytes)),
        (
            "the content",
            Box::new(|b| b.item.content = PackedMessage::uncompressed(Message::text("else"))),
        ),
        ("the signature", Box::new(|b| b.signature[63] ^= 1)),
        ("text that is not UTF-8", Box::new(|b| b.item.content.payload = vec![0xff].into())),
    ];
    for (what, alter) in alterations {
        let mut relay = Attacker::link(victim.address()).await;
        let mut bad = BatchParts::of(&good);
        alter(&mut bad);
        relay.send(&bad.frame()).await;
        assert_eq!(relay.fault().await, "a broadcast wrongly signed, or too large", "{what}");
        let link_end = victim.link_end(relay.id()).await;
        assert!(matches!(link_end.reason, Reason::Fault(_)), "{what}: {link_end}");
        assert!(received_broadcasts(&victim).is_empty(), "{what}: delivered");
    }
    // The unaltered broadcast is delivered once, whichever peer sends it.
    for _ in 0..2 {
        let mut relay = Attacker::link(victim.address()).await;
        relay.send(&Frame::Broadcast(good.clone())).await;
        relay.send(&Frame::Broadcast(good.clone())).await;
        relay.send(&text("the last message")).await;
        victim.message(relay.id()).await;
    }
    victim.check_honest_node_is_served().await;
    let received = received_broadcasts(&victim);
    assert_eq!(received.len(), 1);
    assert_eq!((received[0].author, received[0].title.as_str()), (good.run.author, "title"));
    assert_eq!(received[0].message.as_text(), Some("the text"));
    victim.check_unharmed().await;
}

/// The signature covers the network's name, so a broadcast of one network is invalid in another.
#[tokio::test]
async fn a_broadcast_of_another_network_is_refused() {
    let victim = Victim::new().await;
    let author = Node::builder().network("other").listen("127.0.0.1:0").spawn().await.unwrap();
    let change = |hello: &mut peerkit_proto::hello::Hello| hello.network = "other".into();
    let mut relay = Attacker::link_as(author.listening()[0], key(), change).await;
    author.broadcast("", "sent in another network").await.unwrap();
    let Some(frame @ Frame::Broadcast(_)) = relay.content().await else { panic!("no broadcast") };
    author.shutdown().await;
    drop(relay);
    let mut relay = Attacker::link(victim.address()).await;
    relay.send(&frame).await;
    assert_eq!(relay.fault().await, "a broadcast wrongly signed, or too large");
    drop(relay);
    victim.check_unharmed().await;
}

/// The first forged broadcast ends the link. The others are not read, and the application gets one event.
#[tokio::test]
async fn a_flood_of_forged_broadcasts_causes_one_disconnection() {
    let victim = Victim::new().await;
    let mut forged = BatchParts::of(&broadcast("", "x").await);
    let mut flood = Vec::new();
    for _ in 0..5000 {
        forged.first += 1;
        forged.clone().frame().encode(&mut flood);
    }
    let mut attacker = Attacker::link(victim.address()).await;
    let id = attacker.id();
    attacker.send_raw(&flood).await;
    victim.link_end(id).await;
    // When the messages of the honest node have arrived, all earlier events have arrived too.
    victim.check_honest_node_is_served().await;
    let events = victim.take_events();
    let disconnects = |event: &&Event| matches!(event, Event::NodeDisconnectWithInboundNode { peer } if peer.id() == id);
    assert_eq!(events.iter().filter(disconnects).count(), 1);
    assert!(!events.iter().any(|event| matches!(event, Event::NodeLagged { .. })));
    drop(attacker);
    victim.check_unharmed().await;
}

/// The content of a broadcast has its own limit, below that of its frame.
#[tokio::test]
async fn a_broadcast_over_the_limit_ends_the_link() {
    let victim = Victim::new().await;
    let mut attacker = Attacker::link(victim.address()).await;
    attacker.send_raw(&raw_frame(0x30, &vec![0; (64 << 10) + 1025])).await;
    let fault = attacker.fault().await;
    assert_eq!(fault, "a frame of kind 0x30 announces 66561 bytes; at most 66560 are allowed");
    drop(attacker);
    victim.check_unharmed().await;
}

/// The victim counts answers to queries that it did not send. A peer that sends too many of them is
/// disconnected.
#[tokio::test]
async fn answers_to_queries_that_were_not_sent_end_the_link() {
    let victim = Victim::new().await;
    let mut attacker = Attacker::link(victim.address()).await;
    let stray = |n| encoded(&answer_of(query(n, 0, has_file()).id, key().id()));
    attacker.send_raw(&(0..50).flat_map(stray).collect::<Vec<u8>>()).await;
    // The victim answers this query after it has handled all frames before it.
    let last = query(1000, 0, has_file());
    attacker.send(&Frame::Query(last.clone())).await;
    loop {
        let Some(frame) = attacker.content().await else { panic!("disconnected too soon") };
        if matches!(frame, Frame::QueryDone(done) if done.id == last.id) {
            break;
        }
    }
    assert_eq!(victim.node.status().await.stray_answers, 50);
    attacker.send_raw(&(50..2000).flat_map(stray).collect::<Vec<u8>>()).await;
    let fault = attacker.fault().await;
    assert!(fault.contains("did not send"), "{fault}");
    victim.link_end(attacker.id()).await;
    drop(attacker);
    victim.check_unharmed().await;
}

fn unix_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// Waits for the event that the clock of the node `of` is far off. Returns by how many seconds.
async fn skew(victim: &Victim, of: NodeId) -> i64 {
    let skew = |event: &Event| match event {
        Event::NodeClockSkew { peer, seconds } if peer.id() == of => Some(*seconds),
        _ => None,
    };
    victim.event("clock skew", skew).await
}

/// The time in a peer's Hello shows that the two clocks are far apart. It has no other effect.
#[tokio::test]
async fn a_clock_that_is_far_off_is_reported() {
    let victim = Victim::new().await;
    for (ahead, seconds) in [(3600_i64, 3595..3660), (-900, -960..-895)] {
        let change = |hello: &mut peerkit_proto::hello::Hello| {
            hello.time = Some(unix_now().saturating_add_signed(ahead * 1000));
        };
        let attacker = Attacker::link_as(victim.address(), key(), change).await;
        let found = skew(&victim, attacker.id()).await;
        assert!(seconds.contains(&found), "{found}");
        let status = victim.node.status().await;
        assert_eq!(status.clocks_apart, 1);
        assert!(seconds.contains(&status.clock_skew_seconds), "{}", status.clock_skew_seconds);
        let id = attacker.id();
        drop(attacker);
        victim.link_end(id).await;
    }
    for time in [0, u64::MAX] {
        let attacker = Attacker::link_as(victim.address(), key(), |h| h.time = Some(time)).await;
        skew(&victim, attacker.id()).await;
        let id = attacker.id();
        drop(attacker);
        victim.link_end(id).await;
    }
    victim.check_unharmed().await;
}

/// A node that drops a broadcast because of its time sends its own time to the peer that sent the broadcast.
#[tokio::test]
async fn the_sender_of_a_broadcast_from_the_future_is_sent_the_right_time() {
    let victim = Victim::new().await;
    let mut attacker = Attacker::link(victim.address()).await;
    for first in 1..4 {
        let content = PackedMessage::uncompressed(Message::text("from the future"));
        let item = Item { time: unix_now() + 3_600_000, title: String::new(), content };
        let batch = Batch::sign(&attacker.key, "peerkit", 5, (first, first), vec![item]);
        attacker.send(&Frame::Broadcast(batch)).await;
    }
    let clock = loop {
        match attacker.content().await {
            Some(Frame::Clock(clock)) => break clock,
            Some(_) => {}
            None => panic!("disconnected"),
        }
    };
    assert!(clock.abs_diff(unix_now()) < 60_000);
    // The victim compares the time in a Clock frame with its own, as it does with the time in Hello.
    attacker.send(&Frame::Clock(unix_now() + 3_600_000)).await;
    assert!(skew(&victim, attacker.id()).await > 3500);
    assert_eq!(victim.node.status().await.broadcasts.untimely, 3);
    drop(attacker);
    victim.check_unharmed().await;
}
