//! Attacks on the overlay: queries, answers and broadcasts that no node would send.

use std::collections::BTreeSet;

use peerkit::{Address, Event, Message, MessageKind, Node, NodeId, Reason};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::broadcast::{Batch, Item, RunId};
use peerkit_proto::frame::query::{AnswerBody, Query, QueryAnswer, QueryDone, QueryId, QueryKind};
use peerkit_proto::message::PackedMessage;

use crate::attacker::{Attacker, LONG, Victim, encoded, key, raw_frame, text, within};

fn query(n: u32, depth: u8, what: QueryKind) -> Query {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&n.to_le_bytes());
    Query { id: QueryId(id), depth, own: false, ttl: LONG, what }
}

fn has_file() -> QueryKind {
    QueryKind::HasFile(peerkit::Hash::from_bytes([7; 32]))
}

fn here(id: QueryId, node: NodeId) -> Frame {
    let body = AnswerBody::Neighbours(Vec::new(), Vec::new());
    let name = "x".to_owned();
    Frame::Answer(QueryAnswer { id, node, name, addresses: Vec::new(), body })
}

/// More queries than the table holds: one link fills its share of it. Each query is answered all the
/// same, and queries of other nodes still run.
#[tokio::test]
async fn a_flood_of_queries_fills_only_its_share_of_the_table() {
    let victim = Victim::new().await;
    let mut attacker = Attacker::link(victim.address()).await;
    // Queries that need no look-up, as there may be more of these.
    let what = QueryKind::FindNode(NodeId::from_bytes([7; 32]));
    let answers = flood(&mut attacker, 70_000, &what).await;
    let taken = answers.iter().filter(|complete| **complete).count();
    assert_eq!((answers.len(), taken), (70_000, 65_536 / 8));
    victim.talks().await;
    drop(attacker);
    victim.unharmed().await;
}

/// The number of look-ups for one link is limited, and other nodes can still search.
#[tokio::test]
async fn a_flood_of_searches_causes_few_lookups() {
    let victim = Victim::new().await;
    let mut attacker = Attacker::link(victim.address()).await;
    let started = std::time::Instant::now();
    for what in [has_file(), QueryKind::Search("*a*".into())] {
        let answers = flood(&mut attacker, 4000, &what).await;
        let looks = answers.iter().filter(|complete| **complete).count() as u64;
        let earned = 1000 + 100 * (started.elapsed().as_secs() + 1);
        assert!(answers.len() == 4000 && looks <= earned, "{looks} of {earned}");
    }
    victim.talks().await;
    drop(attacker);
    victim.unharmed().await;
}

/// Sends `count` new queries. Returns for each whether it was complete.
async fn flood(attacker: &mut Attacker, count: u32, what: &QueryKind) -> Vec<bool> {
    let kind = u32::from(matches!(what, QueryKind::Search(_))) << 24;
    let query = |n| encoded(&Frame::Query(query(n | kind, 1, what.clone())));
    let flood: Vec<u8> = (0..count).flat_map(query).collect();
    let done = |frame| match frame {
        Frame::QueryDone(done) => Some(done.complete),
        _ => None,
    };
    let mut answers = Vec::new();
    // In parts that fit the victim's control queue, as it need not take more at once.
    for part in flood.chunks(flood.len() / 10) {
        answers.extend(attacker.exchange(part, done, count as usize / 10).await);
    }
    answers
}

/// A flood that is passed on does not end the link with a neighbour that reads slowly.
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
    // A query that was seen before is answered at once, behind all earlier ones.
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
    victim.unharmed().await;
}

/// Queries that were seen before, also with more depth each time, or changed.
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
    attacker.send_raw(&rounds).await;
    let mut passed_on = 0;
    let mut back = 0;
    // The other node sends each query straight back. None is passed to it again.
    loop {
        let Some(Frame::Query(query)) = other.content().await else { panic!() };
        passed_on += 1;
        other.send(&Frame::Query(query.clone())).await;
        let Some(frame) = other.content().await else { panic!() };
        match frame {
            Frame::QueryDone(_) => back += 1,
            Frame::Query(_) => passed_on += 1,
            other => panic!("{other:?}"),
        }
        if query.depth == 255 {
            break;
        }
        assert!(passed_on + back < 1000, "no end");
    }
    assert!(passed_on <= 256, "{passed_on} times");
    drop((attacker, other));
    victim.unharmed().await;
}

#[tokio::test]
async fn answers_without_a_query_are_dropped() {
    let victim = Victim::new().await;
    let mut asked = Attacker::link(victim.address()).await;
    let mut other = Attacker::link(victim.address()).await;
    let stray = QueryId([9; 16]);
    for attacker in [&mut asked, &mut other] {
        attacker.send(&here(stray, NodeId::from_bytes([1; 32]))).await;
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
    // In order: an answer to another query, one to the right query, an end with another depth, the end,
    // and an answer behind the end.
    asked.send(&here(stray, NodeId::from_bytes([2; 32]))).await;
    asked.send(&here(query.id, asked.id())).await;
    asked.send(&done(query.depth + 1)).await;
    asked.send(&done(query.depth)).await;
    asked.send(&here(query.id, NodeId::from_bytes([3; 32]))).await;
    asked.send(&text("after the answers")).await;
    victim.message(asked.id()).await;
    assert!(!discovering.is_finished());
    other.send(&here(query.id, other.id())).await;
    other.send(&done(query.depth)).await;
    let found = within(LONG, "the discovery", discovering).await.unwrap().unwrap();
    let found: BTreeSet<_> = found.nodes.iter().map(|node| node.id).collect();
    assert_eq!(found, BTreeSet::from([victim.id(), asked.id(), other.id()]));
    drop((asked, other));
    victim.unharmed().await;
}

/// pythonp2p and p2pnetwork's tutorial: a positive depth stops after one hop.
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
        let found = within(LONG, "a discovery", chain[0].discover(depth)).await.unwrap();
        let found: Vec<_> = found.nodes.iter().map(|node| node.id).collect();
        let expected: BTreeSet<_> = chain[..=others].iter().map(Node::id).collect();
        assert_eq!((found.len(), found.into_iter().collect()), (others + 1, expected), "{depth}");
    }
    for node in chain {
        node.shutdown().await;
    }
}

/// Returns a broadcast of an honest node, as a relay between it and the victim sees it.
async fn broadcast(title: &str, message: &str) -> Batch {
    let author = Node::builder().listen("127.0.0.1:0").spawn().await.unwrap();
    let mut relay = Attacker::link(author.listening()[0]).await;
    author.broadcast(title, message).await.unwrap();
    let Some(Frame::Broadcast(batch)) = relay.content().await else { panic!("no broadcast") };
    author.shutdown().await;
    batch
}

/// The parts of a batch, which can be altered.
#[derive(Clone)]
struct Parts {
    run: RunId,
    first: u64,
    floor: u64,
    item: Item,
    signature: [u8; 64],
}

impl Parts {
    fn of(batch: &Batch) -> Self {
        let Batch { run, first, floor, signature, .. } = *batch;
        Self { run, first, floor, item: batch.items[0].clone(), signature }
    }

    fn frame(self) -> Frame {
        let places = (self.first, self.floor);
        Frame::Broadcast(Batch::from_parts(self.run, places, vec![self.item], self.signature))
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

/// pythonp2p: signatures cover the data alone, but not its type, its time or its recipient. A message
/// to one peer has no signature in peerkit, as it comes over the link of its sender.
#[tokio::test]
async fn a_broadcast_that_a_relay_has_altered_is_not_delivered_and_ends_its_link() {
    let victim = Victim::new().await;
    let good = broadcast("title", "the text").await;
    let other = key();
    type Alteration = Box<dyn Fn(&mut Parts)>;
    let alterations: [(&str, Alteration); 10] = [
        ("the author", Box::new(move |b| b.run.author = other.id())),
        ("the run", Box::new(|b| b.run.epoch += 1)),
        ("the place", Box::new(|b| b.first += 1)),
        ("the floor", Box::new(|b| (b.first, b.floor) = (b.first + 1, b.floor + 1))),
        ("the time", Box::new(|b| b.item.time += 1)),
        ("the title", Box::new(|b| b.item.title.push('!'))),
        ("the type", Box::new(|b| b.item.content.kind = MessageKind::Bytes)),
        (
            "the content",
            Box::new(|b| b.item.content = PackedMessage::uncompressed(Message::text("else"))),
        ),
        ("the signature", Box::new(|b| b.signature[63] ^= 1)),
        ("text that is none", Box::new(|b| b.item.content.payload = vec![0xff].into())),
    ];
    for (what, alter) in alterations {
        let mut relay = Attacker::link(victim.address()).await;
        let mut bad = Parts::of(&good);
        alter(&mut bad);
        relay.send(&bad.frame()).await;
        assert_eq!(relay.fault().await, "a broadcast wrongly signed, or too large", "{what}");
        let link_end = victim.parted(relay.id()).await;
        assert!(matches!(link_end.reason, Reason::Fault(_)), "{what}: {link_end}");
        assert!(received_broadcasts(&victim).is_empty(), "{what}: delivered");
    }
    // Unaltered it is delivered, once, from any peer.
    for _ in 0..2 {
        let mut relay = Attacker::link(victim.address()).await;
        relay.send(&Frame::Broadcast(good.clone())).await;
        relay.send(&Frame::Broadcast(good.clone())).await;
        relay.send(&text("that was it")).await;
        victim.message(relay.id()).await;
    }
    victim.talks().await;
    let received = received_broadcasts(&victim);
    assert_eq!(received.len(), 1);
    assert_eq!((received[0].author, received[0].title.as_str()), (good.run.author, "title"));
    assert_eq!(received[0].message.as_text(), Some("the text"));
    victim.unharmed().await;
}

/// The signature covers the network's name, so a broadcast of one network is invalid in another.
#[tokio::test]
async fn a_broadcast_of_another_network_is_forged() {
    let victim = Victim::new().await;
    let author = Node::builder().network("other").listen("127.0.0.1:0").spawn().await.unwrap();
    let change = |hello: &mut peerkit_proto::hello::Hello| hello.network = "other".into();
    let mut relay = Attacker::link_as(author.listening()[0], key(), change).await;
    author.broadcast("", "said elsewhere").await.unwrap();
    let Some(frame @ Frame::Broadcast(_)) = relay.content().await else { panic!("no broadcast") };
    author.shutdown().await;
    drop(relay);
    let mut relay = Attacker::link(victim.address()).await;
    relay.send(&frame).await;
    assert_eq!(relay.fault().await, "a broadcast wrongly signed, or too large");
    drop(relay);
    victim.unharmed().await;
}

/// The first forgery ends the link. The others cost nothing, and the application gets one event.
#[tokio::test]
async fn a_flood_of_forged_broadcasts_is_one_fault() {
    let victim = Victim::new().await;
    let mut forged = Parts::of(&broadcast("", "x").await);
    let mut flood = Vec::new();
    for _ in 0..5000 {
        forged.first += 1;
        forged.clone().frame().encode(&mut flood);
    }
    let mut attacker = Attacker::link(victim.address()).await;
    let id = attacker.id();
    attacker.send_raw(&flood).await;
    victim.parted(id).await;
    // Once this event has come, all earlier ones have.
    victim.talks().await;
    let events = victim.take_events();
    let about_to = |event: &&Event| matches!(event, Event::NodeDisconnectWithInboundNode { peer } if peer.id() == id);
    assert_eq!(events.iter().filter(about_to).count(), 1);
    assert!(!events.iter().any(|event| matches!(event, Event::NodeLagged { .. })));
    drop(attacker);
    victim.unharmed().await;
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
    victim.unharmed().await;
}

/// Answers without a query are counted, and the peer is disconnected if it goes on.
#[tokio::test]
async fn answers_to_queries_that_were_not_sent_end_the_link() {
    let victim = Victim::new().await;
    let mut attacker = Attacker::link(victim.address()).await;
    let stray = |n| encoded(&here(query(n, 0, has_file()).id, key().id()));
    attacker.send_raw(&(0..50).flat_map(stray).collect::<Vec<u8>>()).await;
    // The answer to the last one comes once all earlier ones were handled.
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
    victim.parted(attacker.id()).await;
    drop(attacker);
    victim.unharmed().await;
}

fn unix_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

async fn skew(victim: &Victim, of: NodeId) -> i64 {
    let skew = |event: &Event| match event {
        Event::NodeClockSkew { peer, seconds } if peer.id() == of => Some(*seconds),
        _ => None,
    };
    victim.event("clock skew", skew).await
}

/// A peer's Hello shows that the clocks are apart. Its time changes nothing else.
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
        victim.parted(id).await;
    }
    for time in [0, u64::MAX] {
        let attacker = Attacker::link_as(victim.address(), key(), |h| h.time = Some(time)).await;
        skew(&victim, attacker.id()).await;
        let id = attacker.id();
        drop(attacker);
        victim.parted(id).await;
    }
    victim.unharmed().await;
}

/// A node that refuses a broadcast because of its time sends the peer its own time.
#[tokio::test]
async fn the_sender_of_a_broadcast_from_another_time_learns_the_time() {
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
    // The peer's next report of its clock is compared like the one in Hello.
    attacker.send(&Frame::Clock(unix_now() + 3_600_000)).await;
    assert!(skew(&victim, attacker.id()).await > 3500);
    assert_eq!(victim.node.status().await.broadcasts.untimely, 3);
    drop(attacker);
    victim.unharmed().await;
}
