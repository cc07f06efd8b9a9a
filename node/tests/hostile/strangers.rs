//! Attacks by many identities at many addresses.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use peerkit::{Config, Event, Node, Reason};
use tokio::task::JoinSet;

use crate::attacker::{
    End, STEP_TIMEOUT, Sybil, SybilLink, Sybils, Victim, config, end_all, honest_address, until,
    within,
};
use crate::honest::HonestNetwork;

/// A hundred identities in eight groups get links, and the victim serves an honest node beside them.
#[tokio::test]
async fn a_hundred_identities_get_links() {
    let mut config = config();
    config.limit_loopback = true;
    let victim = Victim::with_config(config).await;
    let sybils = Sybils::new(100, 8);
    let links = sybils.link_all(victim.address()).await;
    assert_eq!(links.len(), 100);
    assert!(links.iter().all(|link| link.is_up()));
    victim.check_honest_node_is_served().await;
    victim.node.disconnect(links[0].id).await.unwrap();
    // If the attacker closed the connection first, it would not read the goodbye.
    until("the goodbye", || !links[0].is_up(), || "the link is still up".into()).await;
    let ends = end_all(links).await;
    assert_eq!(ends[0], End::Goodbye(Reason::Requested));
    assert_eq!(ends[1], End::Closed);
    victim.check_unharmed().await;
}

/// A node that listens at one loopback address also dials from it.
#[tokio::test]
async fn an_honest_node_dials_from_the_address_at_which_it_listens() {
    let victim = Victim::new().await;
    let honest = Node::builder().listen(honest_address(3)).spawn().await.unwrap();
    let linking = honest.connect(victim.address());
    within(STEP_TIMEOUT, "an honest node's link", linking).await.unwrap();
    let peer = victim.node.peers().remove(0);
    assert_eq!(peer.address().host, "127.4.0.1");
    honest.shutdown().await;
    victim.check_unharmed().await;
}

/// Connects again and again, and leaves each handshake unfinished. Counts the connections.
async fn leave_handshakes_unfinished(sybil: Sybil, to: SocketAddr, connections: Arc<AtomicU64>) {
    let mut open = VecDeque::new();
    loop {
        open.extend(sybil.connect(to).await);
        connections.fetch_add(1, Ordering::Relaxed);
        if open.len() > 4 {
            open.pop_front();
        }
        tokio::task::yield_now().await;
    }
}

/// A hundred attackers open far more connections than may be pending, without a pause. Every honest dialler of
/// another group gets its link at the first try, and the application is not flooded with events.
async fn check_unfinished_handshakes_keep_no_honest_node_out(groups: usize) {
    let mut config = config();
    config.limit_loopback = true;
    let victim = Victim::with_config(config).await;
    let connections = Arc::<AtomicU64>::default();
    let begin = Instant::now();
    let mut attack = JoinSet::new();
    for sybil in Sybils::new(100, groups).all {
        attack.spawn(leave_handshakes_unfinished(sybil, victim.address(), connections.clone()));
    }
    let count = || connections.load(Ordering::Relaxed);
    until("the attack", || count() >= 2_000, || format!("{} connections", count())).await;
    for n in 0..8 {
        let honest = Node::builder().listen(honest_address(n)).spawn().await.unwrap();
        let linking = honest.connect(victim.address());
        within(Duration::from_secs(5), "an honest node's link", linking).await.unwrap();
        honest.shutdown().await;
    }
    // The events tell of the connections of the last second, so the attack goes on until they tell of enough.
    let others = RefCell::new(Vec::new());
    let told = || {
        let events = victim.take_events();
        others.borrow_mut().extend(events.iter().filter_map(|event| match event {
            Event::InboundNodeConnectionError { others, .. } => Some(*others),
            _ => None,
        }));
        others.borrow().iter().sum::<u64>()
    };
    let state = || format!("{} connections, events of {} others", count(), told());
    until("the attack", || count() >= 20_000 && told() > 10_000, state).await;
    attack.shutdown().await;
    let others = others.into_inner();
    let seconds = begin.elapsed().as_secs();
    assert!(others.len() as u64 <= seconds + 2, "{} events in {seconds} s", others.len());
    assert!(others.iter().sum::<u64>() > 10_000, "the events tell of {others:?} others");
    victim.check_unharmed().await;
}

#[tokio::test]
async fn unfinished_handshakes_of_one_group_keep_no_honest_node_out() {
    check_unfinished_handshakes_keep_no_honest_node_out(1).await;
}

#[tokio::test]
async fn unfinished_handshakes_of_eight_groups_keep_no_honest_node_out() {
    check_unfinished_handshakes_keep_no_honest_node_out(8).await;
}

/// Makes a link again and again, and holds it without using it. Counts the tries.
async fn hold_idle_links(sybil: Sybil, to: SocketAddr, tries: Arc<AtomicU64>) {
    loop {
        tries.fetch_add(1, Ordering::Relaxed);
        if let Ok(attacker) = sybil.link(to, |_| {}).await {
            let link = SybilLink::new(attacker);
            while link.is_up() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A hundred attackers fill all inbound places with idle links, and try again whenever they lose one. Honest
/// nodes of other groups get links and keep them, and a link that the application uses is never closed.
async fn check_idle_links_keep_no_honest_node_out(groups: usize) {
    let mut config = config();
    (config.limit_loopback, config.max_inbound) = (true, 32);
    let victim = Victim::with_config(config).await;
    let mut honest = Vec::new();
    let link = async |n: usize| {
        let node = Node::builder().listen(honest_address(n)).spawn().await.unwrap();
        let linking = node.connect(victim.address());
        within(Duration::from_secs(5), "an honest node's link", linking).await.unwrap();
        node
    };
    honest.push(link(0).await);
    victim.node.send(honest[0].id(), "a message of the application").await.unwrap();
    let tries = Arc::<AtomicU64>::default();
    let mut attack = JoinSet::new();
    for sybil in Sybils::new(100, groups).all {
        attack.spawn(hold_idle_links(sybil, victim.address(), tries.clone()));
    }
    let peers = || victim.node.peers().len();
    until("all places to be taken", || peers() >= 32, || format!("{} links", peers())).await;
    for n in 1..=8 {
        honest.push(link(n).await);
    }
    let before = tries.load(Ordering::Relaxed);
    let more = || tries.load(Ordering::Relaxed) - before;
    until("further tries", || more() >= 500, || format!("{} tries", more())).await;
    for node in &honest {
        assert!(victim.node.peer(node.id()).is_some(), "an honest node has lost its link");
    }
    // A link that makes room for another one counts until its goodbye is sent. So for a moment there may be more.
    until("no more links than places", || peers() <= 32 + 4, || format!("{} links", peers())).await;
    attack.shutdown().await;
    for node in honest {
        node.shutdown().await;
    }
    victim.check_unharmed().await;
}

#[tokio::test]
async fn idle_links_of_one_group_keep_no_honest_node_out() {
    check_idle_links_keep_no_honest_node_out(1).await;
}

#[tokio::test]
async fn idle_links_of_eight_groups_keep_no_honest_node_out() {
    check_idle_links_keep_no_honest_node_out(8).await;
}

/// A hundred attackers fill the inbound places of all nodes of a network with idle links, and open connections that
/// they leave unfinished, both without a pause.
async fn check_idle_links_and_handshakes_in_a_network(groups: usize) {
    let mut config = Config::default();
    config.max_inbound = 16;
    let mut network = HonestNetwork::with_config(4, 3, config).await;
    let addresses = network.addresses();
    let (tries, connections) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let mut attack = JoinSet::new();
    for (n, sybil) in Sybils::new(100, groups).all.into_iter().enumerate() {
        let to = addresses[n % addresses.len()];
        attack.spawn(hold_idle_links(sybil.clone(), to, tries.clone()));
        // Half of them, as the others' connections would leave the first no place among the handshakes.
        if n % 8 < 4 {
            attack.spawn(leave_handshakes_unfinished(sybil, to, connections.clone()));
        }
    }
    let places = || network.nodes.iter().map(|honest| honest.node.peers().len()).min();
    let state = || {
        let peers = network.nodes.iter().map(|honest| honest.node.peers().len());
        format!("{:?} links", peers.collect::<Vec<_>>())
    };
    until("all places to be taken", || places() >= Some(16), state).await;
    network.check("during the attack").await;
    let many = || connections.load(Ordering::Relaxed) > 2000 && tries.load(Ordering::Relaxed) > 200;
    let state = || format!("{connections:?} connections, {tries:?} tries");
    until("the attack", many, state).await;
    network.check("late in the attack").await;
    attack.shutdown().await;
    network.wait_until_attackers_are_gone().await;
    network.check("after the attack").await;
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_links_and_handshakes_of_one_group_do_not_hurt_a_network() {
    check_idle_links_and_handshakes_in_a_network(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long, so .ci/long runs it"]
async fn idle_links_and_handshakes_of_eight_groups_do_not_hurt_a_network() {
    check_idle_links_and_handshakes_in_a_network(8).await;
}
