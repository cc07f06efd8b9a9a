//! Floods of broadcasts: runs of one author, and runs of many authors. An honest newcomer is still received.

use peerkit::{Config, Event, Key, Message, Node, NodeId};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::broadcast::{Batch, Item};
use peerkit_proto::message::PackedMessage;

use crate::attacker::{
    Attacker, STEP_TIMEOUT, Sybils, Victim, config, encoded, end_all, text, until, within,
};
use crate::honest::HonestNetwork;

/// Number of runs in the victim's table.
const RUNS: usize = 512;

/// Number of runs in the tables of the nodes of a network. Fewer, as each of them handles each accepted broadcast.
const NETWORK_RUNS: usize = 128;

async fn victim() -> Victim {
    let mut config = config();
    config.broadcast_runs = RUNS;
    Victim::with_config(config).await
}

/// Returns the first broadcast of a run.
fn first_broadcast(author: &Key, epoch: u64) -> Frame {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let time = u64::try_from(now.as_millis()).unwrap();
    let content = PackedMessage::uncompressed(Message::text("flood"));
    let item = Item { time, title: String::new(), content };
    Frame::Broadcast(Batch::sign(author, "peerkit", epoch, (1, 1), vec![item]))
}

fn author(n: usize) -> Key {
    let mut secret = [0x5a; 32];
    secret[..8].copy_from_slice(&(n as u64).to_le_bytes());
    Key::from_secret(&secret)
}

/// Sends frames in parts, so that the victim's application has room for each part. Returns once the victim has
/// handled them.
async fn flood(victim: &Victim, attacker: &mut Attacker, frames: &[Frame]) {
    for part in frames.chunks(500) {
        attacker.send_raw(&part.iter().flat_map(encoded).collect::<Vec<_>>()).await;
        attacker.send(&text("a part")).await;
        victim.message(attacker.id()).await;
        victim.take_events();
    }
}

async fn check_newcomers_are_received(victim: &Victim) {
    for _ in 0..3 {
        let newcomer = Node::builder().listen("127.0.0.1:0").spawn().await.unwrap();
        let connecting = newcomer.connect(victim.address());
        within(STEP_TIMEOUT, "the newcomer's link", connecting).await.unwrap();
        newcomer.broadcast("", "hello").await.unwrap();
        receive(victim, newcomer.id()).await;
        newcomer.shutdown().await;
    }
}

async fn receive(victim: &Victim, from: NodeId) {
    let received = |event: &Event| match event {
        Event::NodeBroadcast { broadcast } if broadcast.author == from => Some(()),
        _ => None,
    };
    victim.event("broadcast", received).await;
}

/// One identity makes ten times as many runs as the table holds.
#[tokio::test]
async fn a_flood_of_runs_of_one_author_mutes_no_newcomer() {
    let victim = victim().await;
    let mut attacker = Attacker::link(victim.address()).await;
    let key = author(0);
    let runs = 10 * RUNS as u64;
    let frames: Vec<_> = (1..=runs).map(|epoch| first_broadcast(&key, epoch)).collect();
    flood(&victim, &mut attacker, &frames).await;
    check_newcomers_are_received(&victim).await;
    // The node keeps the runs with the greatest epochs. It refuses the first ones, and says so.
    flood(&victim, &mut attacker, &frames[..100]).await;
    let counters = victim.node.status().await.broadcasts;
    assert_eq!(counters.outdated, 100);
    // Runs whose broadcasts the application had no room for are not counted here.
    assert!(counters.retired_runs > RUNS as u64, "{counters:?}");
    drop(attacker);
    victim.check_unharmed().await;
}

/// A hundred links bring runs of ten times as many authors as the table holds.
#[tokio::test]
async fn a_flood_of_runs_of_many_authors_mutes_no_newcomer() {
    let victim = victim().await;
    let honest = Node::builder().listen("127.0.0.1:0").spawn().await.unwrap();
    within(STEP_TIMEOUT, "a link", honest.connect(victim.address())).await.unwrap();
    honest.broadcast("", "before").await.unwrap();
    receive(&victim, honest.id()).await;
    let mut attackers = Vec::new();
    for link in 0..100 {
        let mut attacker = Attacker::link(victim.address()).await;
        let of_link = RUNS / 10;
        let authors = (1 + link * of_link)..=(of_link + link * of_link);
        let frames: Vec<_> = authors.map(|n| first_broadcast(&author(n), 1)).collect();
        flood(&victim, &mut attacker, &frames).await;
        attackers.push(attacker);
    }
    check_newcomers_are_received(&victim).await;
    honest.broadcast("", "after").await.unwrap();
    receive(&victim, honest.id()).await;
    let status = victim.node.status().await;
    assert!(status.broadcasts.retired_runs > 0);
    assert!(victim.node.peer(honest.id()).is_some());
    honest.shutdown().await;
    drop(attackers);
    until("all links have ended", || victim.node.peers().is_empty(), String::new).await;
    victim.check_unharmed().await;
}

/// A hundred strangers bring runs of ten times as many authors as the tables of a network's nodes hold. The nodes mute
/// none of each other.
async fn check_a_flood_of_runs_in_a_network(groups: usize) {
    let mut config = Config::default();
    config.broadcast_runs = NETWORK_RUNS;
    let mut network = HonestNetwork::with_config(4, 3, config).await;
    network.broadcast_from_all("before the flood").await;
    let links = network.link_all(&Sybils::new(100, groups)).await;
    let of_link = NETWORK_RUNS / 10;
    for (n, link) in links.iter().enumerate() {
        let authors = (1 + n * of_link)..=(of_link + n * of_link);
        let frames: Vec<_> =
            authors.flat_map(|n| encoded(&first_broadcast(&author(n), 1))).collect();
        link.send_raw(frames);
    }
    network.check("during the flood").await;
    end_all(links).await;
    network.wait_until_attackers_are_gone().await;
    network.check("after the flood").await;
    for honest in &network.nodes {
        let counters = honest.node.status().await.broadcasts;
        assert!(counters.retired_runs > NETWORK_RUNS as u64, "{counters:?}");
    }
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_runs_from_one_group_does_not_hurt_a_network() {
    check_a_flood_of_runs_in_a_network(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long, so .ci/long runs it"]
async fn a_flood_of_runs_from_eight_groups_does_not_hurt_a_network() {
    check_a_flood_of_runs_in_a_network(8).await;
}
