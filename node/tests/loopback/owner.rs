//! The owner of a network can stop it, and no other node can.

use std::time::Duration;

use crate::attacker::{Attacker, encoded};
use crate::common::*;
use peerkit::{Builder, Error, Event, Key, Node, NodeId};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::owner::ShutdownOrder;
use tempfile::TempDir;

fn owner() -> Key {
    Key::from_secret(&[42; 32])
}

fn now() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

fn order(by: &Key, network: &str, time: u64) -> Vec<u8> {
    encoded(&Frame::ShutdownOrder(ShutdownOrder::sign(by, network, time, [1; 16])))
}

async fn is_up(node: &Node) -> bool {
    let stopped = tokio::time::timeout(Duration::from_millis(100), node.stopped()).await;
    stopped.is_err() && node.discover(0).await.is_ok()
}

#[tokio::test]
async fn the_owner_stops_all_members() {
    let genesis = builder("genesis").owner(owner()).spawn().await.unwrap();
    assert_eq!(genesis.network().owner(), Some(owner().id()));
    let mut nodes = vec![genesis];
    for n in 1..10 {
        let node = node(&format!("n{n}")).await;
        // Each node learns the owner from the node that it joins through.
        node.join(&[at(&nodes[n / 2]).into()]).await.unwrap();
        until("it knows the owner", || node.network().owner() == Some(owner().id())).await;
        nodes.push(node);
    }
    let refused = nodes[3].network().shutdown().await.unwrap_err();
    assert!(matches!(refused, Error::NotOwner(id) if id == owner().id()), "{refused:?}");
    assert!(is_up(&nodes[0]).await);

    // A node with the owner's key can give the order from any place in the network.
    let with_key = builder("owner").owner(owner()).spawn().await.unwrap();
    with_key.join(&[at(&nodes[9]).into()]).await.unwrap();
    nodes.push(with_key);
    let mut events: Vec<_> = nodes.iter().map(Node::events).collect();
    nodes[10].network().shutdown().await.unwrap();
    for (node, events) in nodes.iter().zip(&mut events) {
        within("the node has stopped", node.stopped()).await;
        let ordered = expect(events, "node_shutdown_ordered").await;
        assert!(matches!(ordered, Event::NodeShutdownOrdered { owner: by } if by == owner().id()));
        expect(events, "node_request_to_stop").await;
    }
}

#[tokio::test]
async fn a_network_without_an_owner_cannot_be_stopped() {
    let (a, b) = (node("a").await, node("b").await);
    a.join(&[at(&b).into()]).await.unwrap();
    assert_eq!((a.network().owner(), b.network().owner()), (None, None));
    assert!(matches!(a.network().shutdown().await, Err(Error::NoOwner)));
    // An owner that comes later does not own the nodes that are there.
    let late = builder("late").owner(owner()).spawn().await.unwrap();
    let mut events = b.events();
    late.connect(at(&b)).await.unwrap();
    late.network().shutdown().await.unwrap();
    let refused = expect(&mut events, "node_shutdown_refused").await;
    let Event::NodeShutdownRefused { peer, why } = refused else { panic!() };
    assert_eq!((peer.id(), why.contains("no owner")), (late.id(), true), "{why}");
    within("the node that gave the order stops", late.stopped()).await;
    assert!(is_up(&a).await && is_up(&b).await);
    shutdown([&a, &b]).await;
}

#[tokio::test]
async fn forged_orders_stop_no_node_and_are_not_passed_on() {
    let victim = builder("victim").owner_id(owner().id()).spawn().await.unwrap();
    let mut behind = Attacker::link(at(&victim)).await;
    let mut events = victim.events();
    let other = crate::attacker::key();
    let mut in_the_owners_name = ShutdownOrder::sign(&other, "peerkit", now(), [1; 16]);
    in_the_owners_name.owner = owner().id();
    let forged = [
        ("by another key", order(&other, "peerkit", now())),
        ("in the owner's name", encoded(&Frame::ShutdownOrder(in_the_owners_name))),
        ("for another network", order(&owner(), "other", now())),
    ];
    for (what, bytes) in forged {
        let mut attacker = Attacker::link(at(&victim)).await;
        // More than the application gets events of.
        for _ in 0..20 {
            attacker.send_raw(&bytes).await;
        }
        let refused = expect(&mut events, "node_shutdown_refused").await;
        let Event::NodeShutdownRefused { peer, .. } = refused else { panic!() };
        assert_eq!(peer.id(), attacker.id(), "{what}");
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(
            victim.peer(attacker.id()).is_some(),
            "{what}: the peer is not blamed, as it may only pass the order on"
        );
    }
    assert!(is_up(&victim).await);
    // Orders signed by the owner, but yesterday, before the node's start, or tomorrow.
    let day = 24 * 60 * 60 * 1000;
    for time in [now() - day, now() - 60_000, now() + day] {
        behind.send_raw(&order(&owner(), "peerkit", time)).await;
    }
    assert!(is_up(&victim).await);
    // The node behind has received none of them. The valid one is passed on to it.
    let mut attacker = Attacker::link(at(&victim)).await;
    let right = order(&owner(), "peerkit", now());
    attacker.send_raw(&right).await;
    loop {
        let frame = behind.content().await.expect("the order, before the goodbye");
        if matches!(frame, Frame::ShutdownOrder(_)) {
            assert_eq!(encoded(&frame), right);
            break;
        }
    }
    drop((behind, attacker));
    within("it stops", victim.stopped()).await;
}

#[tokio::test]
async fn a_recorded_order_stops_no_node_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let state = |name: &str| -> Builder { builder(name).state(folder.path().join(name)) };
    let victim = state("victim").spawn().await.unwrap();
    let genesis = builder("genesis").owner(owner()).spawn().await.unwrap();
    victim.join(&[at(&genesis).into()]).await.unwrap();
    let mut spy = Attacker::link(at(&genesis)).await;
    genesis.network().shutdown().await.unwrap();
    let kept = loop {
        if let Frame::ShutdownOrder(order) = spy.content().await.unwrap() {
            break order;
        }
    };
    drop(spy);
    within("it stops", victim.stopped()).await;
    drop(victim);

    let victim = state("victim").spawn().await.unwrap();
    assert_eq!(victim.network().owner(), Some(owner().id()), "it is remembered");
    let mut spy = Attacker::link(at(&victim)).await;
    spy.send(&Frame::ShutdownOrder(kept)).await;
    spy.send(&crate::attacker::text("after it")).await;
    expect(&mut victim.events(), "node_message").await;
    assert!(is_up(&victim).await);
    // Trust on first use: other owners come too late.
    let usurper = builder("usurper").owner(crate::attacker::key()).spawn().await.unwrap();
    victim.connect(at(&usurper)).await.unwrap();
    assert_eq!(victim.network().owner(), Some(owner().id()));
    drop(spy);
    shutdown([&victim, &usurper]).await;
    drop(victim);
    let given: NodeId = crate::attacker::key().id();
    let victim = state("victim").owner_id(given).spawn().await.unwrap();
    assert_eq!(
        victim.network().owner(),
        Some(given),
        "the owner given by the user takes precedence"
    );
    let both = state("both").owner(owner()).owner_id(given).spawn().await;
    assert!(matches!(both, Err(Error::OwnerMismatch { .. })));
    shutdown([&victim]).await;
}

/// A node that connects by itself does not teach this node an owner.
#[tokio::test]
async fn a_stranger_that_connects_is_not_believed() {
    let victim = node("victim").await;
    let hello = |hello: &mut peerkit_proto::hello::Hello| hello.owner = Some(owner().id());
    let stranger = Attacker::link_as(at(&victim), crate::attacker::key(), hello).await;
    until("the link is there", || victim.peer(stranger.id()).is_some()).await;
    let usurper = builder("usurper").owner(owner()).spawn().await.unwrap();
    usurper.connect(at(&victim)).await.unwrap();
    assert_eq!(victim.network().owner(), None);
    drop(stranger);
    shutdown([&victim, &usurper]).await;
}

/// If a node accepted an identity that no key matches, the true owner would be locked out for ever.
#[tokio::test]
async fn a_key_that_no_node_can_hold_is_not_the_owner() {
    let mut small_order = [0; 32];
    small_order[0] = 1;
    let no_key = NodeId::from_bytes(small_order);
    let victim = node("victim").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let key = crate::attacker::key();
    let answering = async {
        let mut liar = Attacker::accept(&listener, &key).await;
        let hello = peerkit_proto::hello::Hello { owner: Some(no_key), ..crate::attacker::hello() };
        liar.send(&Frame::Hello(hello)).await;
        liar
    };
    let (connected, liar) =
        within("a link", async { tokio::join!(victim.connect(address), answering) }).await;
    assert_eq!(connected.unwrap().id(), liar.id());
    let genesis = builder("genesis").owner(owner()).spawn().await.unwrap();
    victim.connect(at(&genesis)).await.unwrap();
    until("it knows the owner", || victim.network().owner() == Some(owner().id())).await;
    let given = builder("given").owner_id(no_key).spawn().await;
    assert!(matches!(given, Err(Error::OwnerNotAKey(_))));
    drop(liar);
    shutdown([&victim, &genesis]).await;
}
