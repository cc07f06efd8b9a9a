//! The overlay over real sockets: joining, leaving, repair, broadcasts, and nodes that are kept away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::common::*;
use peerkit::{Address, Config, Error, Event, Events, Key, Node, NodeId, Reason};
use peerkit_proto::codec::Reader;
use peerkit_proto::frame::membership::{Beacon, Probe};
use peerkit_proto::node_record::NodeRecord;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Starts a node whose links are made by hand.
async fn manual(name: &str) -> Node {
    builder(name).manual(true).spawn().await.unwrap()
}

async fn join(node: &Node, through: &Node) {
    within("a join", node.join(&[address_of(through).into()])).await.unwrap();
}

/// Waits until a discovery by `node` finds exactly the `expected` nodes.
async fn wait_until_finds(node: &Node, expected: &BTreeSet<NodeId>) {
    let start = Instant::now();
    loop {
        let found = within("a discovery", node.discover(-1)).await.unwrap();
        let found: BTreeSet<_> = found.nodes.iter().map(|node| node.id).collect();
        if found == *expected {
            return;
        }
        let missing = expected.difference(&found).count();
        let unexpected = found.difference(expected).count();
        assert!(
            start.elapsed() < 3 * WAIT_TIMEOUT,
            "{missing} nodes are missing, {unexpected} are unexpected"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Reads events until there are `count` broadcasts from each of `authors`. Checks that each arrives once and
/// in order.
async fn expect_broadcasts(mut events: Events, authors: &BTreeSet<NodeId>, count: usize) {
    let mut received: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut left = authors.len() * count;
    while left > 0 {
        match within("a broadcast", events.next()).await.expect("the events go on") {
            Event::NodeBroadcast { broadcast } => {
                let next = received.entry(broadcast.author).or_default();
                let text = broadcast.message.as_text().unwrap().to_owned();
                assert_eq!(text, format!("text {next}"), "out of order, repeated or missing");
                *next += 1;
                left -= 1;
            }
            Event::NodeLagged { missed } => panic!("{missed} events were missed"),
            Event::NodeBroadcastsMissed { count, .. } => panic!("{count} broadcasts were missed"),
            _ => {}
        }
    }
    assert!(authors.iter().all(|author| received.get(author) == Some(&count)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_joined_through_one_node_survive_its_crash() {
    const NODES: usize = 64;
    const EACH: usize = 100;
    // The first node has a runtime of its own, so that it can crash without a goodbye.
    let other_runtime = OtherRuntime::new();
    let genesis = other_runtime.run(async { node("genesis").await }).await;
    let mut nodes = Vec::new();
    for n in 1..NODES {
        let node = node(&format!("n{n}")).await;
        join(&node, &genesis).await;
        nodes.push(node);
    }
    let mut ids: BTreeSet<_> = nodes.iter().map(Node::id).collect();
    ids.insert(genesis.id());
    wait_until_finds(&nodes[NODES / 2], &ids).await;
    for node in &nodes {
        let status = node.status().await;
        assert!(status.member && !status.neighbours.is_empty());
        assert!(status.peers.len() < 16, "{} has {} links", node.name(), status.peers.len());
    }

    let mut tasks = tokio::task::JoinSet::new();
    for node in nodes.iter().chain([&genesis]) {
        let others: BTreeSet<_> = ids.iter().copied().filter(|id| *id != node.id()).collect();
        let events = node.events();
        tasks.spawn(async move { expect_broadcasts(events, &others, EACH).await });
    }
    for node in nodes.iter().chain([&genesis]) {
        let node = node.clone();
        tasks.spawn(async move {
            for n in 0..EACH {
                node.broadcast("", format!("text {n}")).await.unwrap();
            }
        });
    }
    tasks.join_all().await;

    ids.remove(&genesis.id());
    other_runtime.crash();
    drop(genesis);
    wait_until_finds(&nodes[0], &ids).await;
    // A new node joins through another node.
    let newcomer = node("newcomer").await;
    join(&newcomer, &nodes[40]).await;
    ids.insert(newcomer.id());
    wait_until_finds(&newcomer, &ids).await;
    wait_until_finds(&nodes[5], &ids).await;
    nodes.push(newcomer);
    let stopping: Vec<_> =
        nodes.into_iter().map(|node| tokio::spawn(async move { node.shutdown().await })).collect();
    for stopped in stopping {
        within("shutdown", stopped).await.unwrap();
    }
}

#[tokio::test]
async fn the_overlay_does_not_change_links_made_by_hand() {
    let (a, b, c) = (manual("a").await, manual("b").await, node("c").await);
    link(&a, &b).await;
    // On a node with manual links, joining only makes a link.
    let peers = b.join(&[address_of(&c).into()]).await.unwrap();
    assert_eq!(peers.iter().map(|peer| peer.id()).collect::<Vec<_>>(), [c.id()]);
    let refused = c.join(&[address_of(&a).into()]).await.unwrap_err();
    assert!(matches!(&refused, Error::LinksByHand(peer) if peer.id() == a.id()), "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains("made by hand: connect"), "{text}");
    wait_until("the link of the refused join to be closed", || c.peer(a.id()).is_none()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let links = |node: &Node| node.peers().iter().map(|peer| peer.id()).collect::<BTreeSet<_>>();
    assert_eq!(links(&a), BTreeSet::from([b.id()]));
    assert_eq!(links(&b), BTreeSet::from([a.id(), c.id()]));
    assert!(!a.status().await.member && a.status().await.manual);
    // Broadcasts are also sent over links made by hand.
    let mut events = c.events();
    a.broadcast("", "hello").await.unwrap();
    expect_event(&mut events, "node_broadcast").await;
    shutdown([&a, &b, &c]).await;
}

#[tokio::test]
async fn a_failed_join_reports_its_cause() {
    let a = node("a").await;
    let unreachable: Address = "127.0.0.1:1".parse().unwrap();
    let failed = a.join(std::slice::from_ref(&unreachable)).await.unwrap_err();
    assert!(matches!(failed, Error::Connect { .. }), "{failed:?}");
    let by_hand = manual("by hand").await;
    let failed = a.join(&[unreachable.clone(), address_of(&by_hand).into()]).await.unwrap_err();
    assert!(
        matches!(failed, Error::LinksByHand(_)),
        "the refusal of a node takes precedence: {failed:?}"
    );
    wait_until("the link to be closed", || a.peer(by_hand.id()).is_none()).await;
    // One address that accepts is enough.
    let b = node("b").await;
    let joined =
        a.join(&[unreachable, address_of(&by_hand).into(), address_of(&b).into()]).await.unwrap();
    assert!(joined.iter().any(|peer| peer.id() == b.id()));
    assert!(a.status().await.member && b.status().await.member);
    // A first node has no node to join through.
    let first = node("first").await;
    assert!(matches!(first.join(&[]).await, Err(Error::NoBootstrap)));
    shutdown([&a, &b, &by_hand, &first]).await;
}

#[tokio::test]
async fn a_patient_join_waits_for_a_node_that_starts_later() {
    let mut config = Config::default();
    config.reconnect_min = Duration::from_millis(20);
    let a = builder("a").config(config).spawn().await.unwrap();
    let later = node("later").await;
    let address = address_of(&later);
    within("shutdown", later.shutdown()).await;
    let (sender, mut failures) = tokio::sync::mpsc::unbounded_channel();
    let joining = tokio::spawn({
        let a = a.clone();
        let report = move |error: &Error, wait| sender.send((error.to_string(), wait)).unwrap();
        async move { a.network().join_with_retries(&[address.into()], report).await }
    });
    let mut waits = Vec::new();
    for _ in 0..3 {
        let (error, wait) = within("a failure", failures.recv()).await.unwrap();
        assert!(error.contains(&address.to_string()), "{error}");
        waits.push(wait.as_millis());
    }
    assert_eq!(waits, [20, 40, 80]);
    let b = Node::builder().name("b").listen(address).spawn().await.unwrap();
    let joined = within("the join", joining).await.unwrap().unwrap();
    assert_eq!(joined[0].id(), b.id());
    shutdown([&a, &b]).await;
}

#[tokio::test]
async fn a_node_that_left_has_no_links_and_can_join_again() {
    let mut nodes = vec![node("genesis").await];
    for n in 1..8 {
        let node = node(&format!("n{n}")).await;
        join(&node, &nodes[0]).await;
        nodes.push(node);
    }
    let all: BTreeSet<_> = nodes.iter().map(Node::id).collect();
    wait_until_finds(&nodes[3], &all).await;
    let leaving = nodes.swap_remove(0);
    let others: BTreeSet<_> = all.iter().copied().filter(|id| *id != leaving.id()).collect();
    let mut events = leaving.events();
    let linked: BTreeSet<_> = leaving.peers().iter().map(|peer| peer.id()).collect();
    let left = within("the leave", leaving.leave()).await.unwrap();
    assert_eq!(left.iter().map(|peer| peer.id()).collect::<BTreeSet<_>>(), linked);
    assert!(leaving.peers().is_empty() && !leaving.status().await.member);
    let mut ended = BTreeSet::new();
    while ended != linked {
        match next_event(&mut events).await {
            // Events of links that the overlay ended earlier are skipped.
            Event::InboundNodeDisconnected { peer, link_end }
            | Event::OutboundNodeDisconnected { peer, link_end }
                if link_end.reason == Reason::Left =>
            {
                ended.insert(peer.id());
            }
            _ => {}
        }
    }
    wait_until_finds(&nodes[0], &others).await;
    wait_until_finds(&leaving, &BTreeSet::from([leaving.id()])).await;
    join(&leaving, &nodes[2]).await;
    wait_until_finds(&leaving, &all).await;
    nodes.push(leaving);
    // When a node stops, its neighbours are linked to each other too, so the network stays connected.
    let stopping = nodes.remove(0);
    within("shutdown", stopping.shutdown()).await;
    let others: BTreeSet<_> = nodes.iter().map(Node::id).collect();
    wait_until_finds(&nodes[0], &others).await;
    shutdown(&nodes).await;
}

#[tokio::test]
async fn a_link_that_the_application_made_is_pinned() {
    let (a, b) = (node("a").await, node("b").await);
    link(&a, &b).await;
    let mut others = Vec::new();
    for n in 0..12 {
        let node = node(&format!("n{n}")).await;
        join(&node, &a).await;
        others.push(node);
    }
    assert!(a.peer(b.id()).is_some());
    assert_eq!(a.status().await.pinned, [b.id()]);
    // Connecting to a neighbour reuses the link, and pins it.
    let neighbour = a.status().await.neighbours[0];
    let neighbour = others.iter().find(|node| node.id() == neighbour).unwrap();
    a.connect(address_of(neighbour)).await.unwrap();
    assert!(a.status().await.pinned.contains(&neighbour.id()));
    shutdown(others.iter().chain([&a, &b])).await;
}

#[tokio::test]
async fn broadcasts_are_kept_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let state = || builder("kept").state(folder.path().join("state"));
    let author = manual("author").await;
    let keeper = state().spawn().await.unwrap();
    let mut events = keeper.events();
    link(&author, &keeper).await;
    for n in 0..20 {
        author.broadcast("", format!("text {n}")).await.unwrap();
    }
    for _ in 0..20 {
        expect_event(&mut events, "node_broadcast").await;
    }
    drop(events);
    within("shutdown", keeper.shutdown()).await;
    drop(keeper);
    within("shutdown", author.shutdown()).await;

    // A node that connects later gets the old broadcasts from the keeper. The keeper's own application got
    // them before the restart, and does not get them a second time.
    let keeper = state().spawn().await.unwrap();
    let mut events = keeper.events();
    let late = manual("late").await;
    let late_events = late.events();
    link(&late, &keeper).await;
    expect_broadcasts(late_events, &BTreeSet::from([author.id()]), 20).await;
    late.broadcast("", "text 0").await.unwrap();
    let Event::NodeBroadcast { broadcast } = expect_event(&mut events, "node_broadcast").await
    else {
        panic!()
    };
    assert_eq!(broadcast.author, late.id(), "an old broadcast was delivered a second time");
    shutdown([&keeper, &late]).await;
}

/// Returns the bytes of a probe, preceded by its length.
fn probe(key: &Key, time: u64) -> Vec<u8> {
    let record = NodeRecord::sign(key, "peerkit", time, &[]);
    let beacon = Beacon { least: key.id(), count: 1 };
    let probe = Probe { neighbour: false, record, beacon, records: Vec::new() };
    let mut body = Vec::new();
    probe.encode(&mut body);
    let mut out = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    out.extend(body);
    out
}

#[tokio::test]
async fn a_probe_returns_the_record_of_a_node_without_a_link() {
    let (a, by_hand) = (node("a").await, manual("by hand").await);
    let key = Key::from_secret(&[5; 32]);
    let b = builder("b").key(key.clone()).spawn().await.unwrap();
    let peers = tempfile::NamedTempFile::new().unwrap();
    let known = |node: &Node| serde_json::json!({"id": node.id(), "addresses": [address_of(node).to_string()]});
    let json = serde_json::json!([known(&a), known(&by_hand)]).to_string();
    std::fs::write(peers.path(), json).unwrap();
    b.network().load_peers(peers.path()).await.unwrap();

    let now = u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let mut stream = within("a stream", b.open_stream(a.id(), "peerkit-probe/1")).await.unwrap();
    stream.write_all(&probe(&key, now)).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    within("the answer", stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer.len(), 4 + u32::from_le_bytes(answer[..4].try_into().unwrap()) as usize);
    let answer = Probe::decode(Reader::new(answer.split_off(4).into())).unwrap();
    assert_eq!((answer.record.node, answer.neighbour), (a.id(), false));
    assert!(answer.record.verify("peerkit") && answer.record.addresses == a.addresses());
    assert!(a.peers().is_empty() && b.peers().is_empty());

    // Bytes that are not a probe get no answer, whatever length they begin with.
    for bytes in [&[0xff; 4][..], &[8, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9], &[1, 0], &[]] {
        let opened = within("a stream", b.open_stream(a.id(), "peerkit-probe/1")).await;
        let mut stream = opened.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = within("the end of the stream", stream.read_to_end(&mut answer)).await;
        assert!(answer.is_empty());
    }
    let refused = b.open_stream(by_hand.id(), "peerkit-probe/1").await.unwrap_err();
    assert!(refused.to_string().contains("does not speak"), "{refused}");
    link(&b, &a).await;
    shutdown([&a, &b, &by_hand]).await;
}

/// The request for a call-back goes through the network. Once all nodes have answered it, and the wanted node has not,
/// no call-back comes.
#[tokio::test]
async fn a_stream_to_a_node_that_is_not_in_the_network_fails_at_once() {
    let start =
        async |name: &str| builder(name).config(without_deadlines()).manual(true).spawn().await;
    let [ann, bob, cid] = ["ann", "bob", "cid"].map(start);
    let (ann, bob, cid) = (ann.await.unwrap(), bob.await.unwrap(), cid.await.unwrap());
    cid.serve_stream("hello", async |mut stream| {
        let _ = stream.write_all(b"x").await;
        let _ = stream.shutdown().await;
    });
    let absent = Key::from_secret(&[6; 32]).id();
    let fails = async |id| {
        let failed = within("the error", ann.open_stream(id, "hello")).await.unwrap_err();
        assert!(matches!(failed, Error::Unreachable { .. }), "{failed:?}");
        assert!(failed.to_string().contains("through the network"), "{failed}");
    };
    fails(absent).await;
    fails(cid.id()).await;
    link(&ann, &bob).await;
    link(&bob, &cid).await;
    fails(absent).await;
    // A node of the network calls back, although no address of it is known.
    let mut stream = within("a call-back", ann.open_stream(cid.id(), "hello")).await.unwrap();
    assert_eq!(within("a byte", stream.read_u8()).await.unwrap(), b'x');
    assert!(ann.peer(cid.id()).is_none());
    shutdown([&ann, &bob, &cid]).await;
}

/// `broadcast` waits for room in the queues of the links, so that no peer is disconnected as too slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_of_large_broadcasts_drops_no_link() {
    let (a, b) = (node("a").await, node("b").await);
    let mut events_of_a = a.events();
    let mut events_of_b = b.events();
    join(&b, &a).await;
    let text = |n: usize| format!("{n} {}", "x".repeat(60_000));
    const COUNT: usize = 200;
    let tasks = tokio::spawn(async move {
        let mut next = 0;
        while next < COUNT {
            let event = expect_event(&mut events_of_b, "node_broadcast").await;
            let Event::NodeBroadcast { broadcast } = event else { panic!() };
            assert_eq!(broadcast.message.as_text(), Some(&*text(next)));
            next += 1;
        }
    });
    for n in 0..COUNT {
        a.broadcast("", text(n)).await.unwrap();
    }
    tasks.await.unwrap();
    shutdown([&a, &b]).await;
    while let Some(event) = events_of_a.next().await {
        if let Event::InboundNodeDisconnected { link_end, .. } = event {
            assert_eq!(link_end.reason, Reason::Stopping, "{link_end}");
        }
    }
}

/// A node that was disconnected by hand is refused when it dials. It can still receive messages, and is
/// accepted again after this node has dialled it. A test in the simulator covers the whole ten minutes.
#[tokio::test]
async fn a_member_that_was_disconnected_by_hand_is_kept_away() {
    let nodes = [node("a").await, node("b").await, node("c").await];
    let [a, b, c] = &nodes;
    join(b, a).await;
    join(c, a).await;
    wait_until("all nodes to be linked", || nodes.iter().all(|node| node.peers().len() == 2)).await;
    a.disconnect(b.id()).await.unwrap();
    wait_until("both nodes to have no link", || {
        a.peer(b.id()).is_none() && b.peer(a.id()).is_none()
    })
    .await;
    let refused = within("a dial", b.connect(address_of(a))).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused { reason: Reason::KeptAway, .. }), "{refused}");
    assert!(refused.to_string().contains("disconnected by hand"), "{refused}");
    // The network is still connected.
    let all: BTreeSet<_> = nodes.iter().map(Node::id).collect();
    wait_until_finds(a, &all).await;
    assert!(a.peer(b.id()).is_none());

    let mut events = b.events();
    within("a message", a.send(b.id(), "hello again")).await.unwrap();
    let received = async {
        while let Some(event) = events.next().await {
            if let Event::NodeMessage { message, .. } = event {
                return message.as_text() == Some("hello again");
            }
        }
        false
    };
    assert!(within("the message", received).await);
    within("a dial", a.connect(address_of(b))).await.unwrap();
    assert!(a.status().await.pinned.contains(&b.id()));
    a.disconnect(b.id()).await.unwrap();
    within("a join by hand", a.join(&[address_of(b).into()])).await.unwrap();
    shutdown(nodes.each_ref()).await;
}

/// A join without an address does not end the time for which a disconnected node is kept away.
#[tokio::test]
async fn a_join_without_an_address_does_not_dial_a_node_that_is_kept_away() {
    for is_bootstrap in [false, true] {
        let b = node("b").await;
        let mut a = builder("a");
        if is_bootstrap {
            // The address has no identity, so only the node's answer shows that it is kept away.
            a = a.bootstrap(address_of(&b).into());
        }
        let a = a.spawn().await.unwrap();
        join(&b, &a).await;
        wait_until("the link", || a.peer(b.id()).is_some()).await;
        a.disconnect(b.id()).await.unwrap();
        wait_until("both nodes to have no link", || {
            a.peer(b.id()).is_none() && b.peer(a.id()).is_none()
        })
        .await;
        match (within("a join", a.join(&[])).await.unwrap_err(), is_bootstrap) {
            (Error::AllDisconnected, false) => {}
            (Error::NoneReached { tried: 1, first }, true) => assert!(
                matches!(*first, Error::Refused { reason: Reason::KeptAway, .. }),
                "{first}"
            ),
            (other, _) => panic!("{other}"),
        }
        assert!(a.peer(b.id()).is_none());
        // After a join with the node's address, it is no longer kept away.
        within("a join", a.join(&[address_of(&b).into()])).await.unwrap();
        assert!(a.peer(b.id()).is_some());
        shutdown([&a, &b]).await;
    }
}

/// The ten minutes for which a node is kept away continue over a restart.
#[tokio::test]
async fn a_disconnected_node_stays_away_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let b = node("b").await;
    let a = builder("a").state(folder.path()).spawn().await.unwrap();
    join(&b, &a).await;
    wait_until("the link", || a.peer(b.id()).is_some()).await;
    a.disconnect(b.id()).await.unwrap();
    wait_until("both nodes to have no link", || {
        a.peer(b.id()).is_none() && b.peer(a.id()).is_none()
    })
    .await;
    a.shutdown().await;

    let a = builder("a").state(folder.path()).spawn().await.unwrap();
    assert!(matches!(within("a join", a.join(&[])).await, Err(Error::AllDisconnected)));
    let refused = within("a dial", b.connect(address_of(&a))).await;
    assert!(matches!(refused, Err(Error::Refused { reason: Reason::KeptAway, .. })), "{refused:?}");
    // Dialling the node ends the ten minutes for good, so it is not kept away after another restart.
    within("a dial", a.connect(address_of(&b))).await.unwrap();
    a.shutdown().await;
    let a = builder("a").state(folder.path()).spawn().await.unwrap();
    within("a join", a.join(&[])).await.unwrap();
    assert!(a.peer(b.id()).is_some());
    shutdown([&a, &b]).await;
}
