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

/// Returns the bytes of an order to stop, signed with the key `by`.
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
        node.join(&[address_of(&nodes[n / 2]).into()]).await.unwrap();
        wait_until("the node to know the owner", || node.network().owner() == Some(owner().id()))
            .await;
        nodes.push(node);
    }
    let refused = nodes[3].network().shutdown().await.unwrap_err();
    assert!(matches!(refused, Error::NotOwner(id) if id == owner().id()), "{refused:?}");
    assert!(is_up(&nodes[0]).await);

    // A node with the owner's key can give the order wherever it is in the network.
    let with_key = builder("owner").owner(owner()).spawn().await.unwrap();
    with_key.join(&[address_of(&nodes[9]).into()]).await.unwrap();
    nodes.push(with_key);
    let mut events: Vec<_> = nodes.iter().map(Node::events).collect();
    nodes[10].network().shutdown().await.unwrap();
    for (node, events) in nodes.iter().zip(&mut events) {
        within("the stop", node.stopped()).await;
        let ordered = expect_event(events, "node_shutdown_ordered").await;
        assert!(matches!(ordered, Event::NodeShutdownOrdered { owner: by } if by == owner().id()));
        expect_event(events, "node_request_to_stop").await;
    }
}

#[tokio::test]
async fn a_network_without_an_owner_cannot_be_stopped() {
    let (a, b) = (node("a").await, node("b").await);
    a.join(&[address_of(&b).into()]).await.unwrap();
    assert_eq!((a.network().owner(), b.network().owner()), (None, None));
    assert!(matches!(a.network().shutdown().await, Err(Error::NoOwner)));
    // A node with an owner's key that joins later does not become the owner for the nodes in the network.
    let late = builder("late").owner(owner()).spawn().await.unwrap();
    let mut events = b.events();
    late.connect(address_of(&b)).await.unwrap();
    late.network().shutdown().await.unwrap();
    let refused = expect_event(&mut events, "node_shutdown_refused").await;
    let Event::NodeShutdownRefused { peer, why } = refused else { panic!() };
    assert_eq!((peer.id(), why.contains("no owner")), (late.id(), true), "{why}");
    within("the stop of the node that gave the order", late.stopped()).await;
    assert!(is_up(&a).await && is_up(&b).await);
    shutdown([&a, &b]).await;
}

#[tokio::test]
async fn forged_orders_stop_no_node_and_are_not_passed_on() {
    let victim = builder("victim").owner_id(owner().id()).spawn().await.unwrap();
    let mut neighbour = Attacker::link(address_of(&victim)).await;
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
        let mut attacker = Attacker::link(address_of(&victim)).await;
        // The application gets events only for some of these orders.
        for _ in 0..20 {
            attacker.send_raw(&bytes).await;
        }
        let refused = expect_event(&mut events, "node_shutdown_refused").await;
        let Event::NodeShutdownRefused { peer, .. } = refused else { panic!() };
        assert_eq!(peer.id(), attacker.id(), "{what}");
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(
            victim.peer(attacker.id()).is_some(),
            "{what}: the peer may have only passed the order on, so its link must stay"
        );
    }
    assert!(is_up(&victim).await);
    // The owner's orders of yesterday, of the minute before the node's start, and of tomorrow.
    let day = 24 * 60 * 60 * 1000;
    for time in [now() - day, now() - 60_000, now() + day] {
        neighbour.send_raw(&order(&owner(), "peerkit", time)).await;
    }
    assert!(is_up(&victim).await);
    // The neighbour has received none of these orders. The victim passes a valid order on to it.
    let mut attacker = Attacker::link(address_of(&victim)).await;
    let valid = order(&owner(), "peerkit", now());
    attacker.send_raw(&valid).await;
    loop {
        let frame = neighbour.content().await.expect("the order, before the goodbye");
        if matches!(frame, Frame::ShutdownOrder(_)) {
            assert_eq!(encoded(&frame), valid);
            break;
        }
    }
    drop((neighbour, attacker));
    within("the stop", victim.stopped()).await;
}

#[tokio::test]
async fn a_recorded_order_stops_no_node_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let state = |name: &str| -> Builder { builder(name).state(folder.path().join(name)) };
    let victim = state("victim").spawn().await.unwrap();
    let genesis = builder("genesis").owner(owner()).spawn().await.unwrap();
    victim.join(&[address_of(&genesis).into()]).await.unwrap();
    let mut attacker = Attacker::link(address_of(&genesis)).await;
    genesis.network().shutdown().await.unwrap();
    let recorded = loop {
        if let Frame::ShutdownOrder(order) = attacker.content().await.unwrap() {
            break order;
        }
    };
    drop(attacker);
    within("the stop", victim.stopped()).await;
    drop(victim);

    let victim = state("victim").spawn().await.unwrap();
    assert_eq!(victim.network().owner(), Some(owner().id()), "the owner must be remembered");
    let mut attacker = Attacker::link(address_of(&victim)).await;
    attacker.send(&Frame::ShutdownOrder(recorded)).await;
    attacker.send(&crate::attacker::text("after the order")).await;
    expect_event(&mut victim.events(), "node_message").await;
    assert!(is_up(&victim).await);
    // The node trusts the owner that it has known first. It accepts no other.
    let other = builder("other").owner(crate::attacker::key()).spawn().await.unwrap();
    victim.connect(address_of(&other)).await.unwrap();
    assert_eq!(victim.network().owner(), Some(owner().id()));
    drop(attacker);
    shutdown([&victim, &other]).await;
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

/// This node does not accept an owner from a node that dials it.
#[tokio::test]
async fn a_node_does_not_accept_an_owner_from_an_inbound_link() {
    let victim = node("victim").await;
    let hello = |hello: &mut peerkit_proto::hello::Hello| hello.owner = Some(owner().id());
    let stranger = Attacker::link_as(address_of(&victim), crate::attacker::key(), hello).await;
    wait_until("the link", || victim.peer(stranger.id()).is_some()).await;
    let other = builder("other").owner(owner()).spawn().await.unwrap();
    other.connect(address_of(&victim)).await.unwrap();
    assert_eq!(victim.network().owner(), None);
    drop(stranger);
    shutdown([&victim, &other]).await;
}

/// If a node accepted an identity without a valid key as the owner, it would never accept the real owner.
#[tokio::test]
async fn an_invalid_key_is_not_accepted_as_the_owner() {
    let mut small_order = [0; 32];
    small_order[0] = 1;
    let no_key = NodeId::from_bytes(small_order);
    let victim = node("victim").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let key = crate::attacker::key();
    let answering = async {
        let mut attacker = Attacker::accept(&listener, &key).await;
        let hello = peerkit_proto::hello::Hello { owner: Some(no_key), ..crate::attacker::hello() };
        attacker.send(&Frame::Hello(hello)).await;
        attacker
    };
    let (connected, attacker) =
        within("a link", async { tokio::join!(victim.connect(address), answering) }).await;
    assert_eq!(connected.unwrap().id(), attacker.id());
    let genesis = builder("genesis").owner(owner()).spawn().await.unwrap();
    victim.connect(address_of(&genesis)).await.unwrap();
    wait_until("the node to know the owner", || victim.network().owner() == Some(owner().id()))
        .await;
    let given = builder("given").owner_id(no_key).spawn().await;
    assert!(matches!(given, Err(Error::OwnerNotAKey(_))));
    drop(attacker);
    shutdown([&victim, &genesis]).await;
}
