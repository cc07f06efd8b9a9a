//! Nodes that can't be dialled: hole punching and relays.

use std::time::Duration;

use crate::common::*;
use peerkit::{Config, Direction, Error, FetchRequest, Node, NodeId, Reachability, Scheme};

/// Returns a member whose TCP addresses no other node can dial, as behind a NAT. It has joined through `member`.
async fn behind_nat(name: &str, ip: &str, member: &Node, udp: bool) -> Node {
    let mut config = Config::default();
    (config.limit_loopback, config.announce_only, config.udp) = (true, true, udp);
    let node = Node::builder().name(name).listen(format!("{ip}:0")).config(config);
    // Nothing listens there.
    let node = node.announce(format!("{ip}:1").parse().unwrap()).spawn().await.unwrap();
    node.join(&[address_of(member).into()]).await.unwrap();
    node
}

async fn public_member() -> Node {
    let mut config = Config::default();
    config.limit_loopback = true;
    Node::builder().name("public").listen("127.1.0.1:0").config(config).spawn().await.unwrap()
}

/// Waits until a node knows at which address a peer sees it.
async fn wait_until_seen(node: &Node) {
    within("the observer", async {
        while node.status().await.seen_at != [address_of(node)] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Shares a file of `size` bytes at one node and fetches it at the other. Checks that it is the same, and returns its
/// sources.
async fn fetch(from: &Node, to: &Node, size: usize) -> Result<Vec<NodeId>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let content = SeededRandom(7).bytes(size);
    let path = folder.path().join("shared");
    std::fs::write(&path, &content).unwrap();
    let shared = from.share(&path).await.unwrap().shared;
    let copy = folder.path().join("copy");
    let fetched = within("the fetch", to.fetch(FetchRequest::new(shared.hash).to(&copy))).await?;
    assert!(std::fs::read(copy).unwrap() == content);
    Ok(fetched.sources)
}

#[tokio::test]
async fn a_node_that_listens_on_loopback_only_asks_no_router() {
    let start = async |map_ports| {
        let mut config = Config::default();
        config.map_ports = map_ports;
        Node::builder().listen("127.0.0.1:0").config(config).spawn().await.unwrap()
    };
    let off = start(false).await;
    assert_eq!(off.status().await.mapping, None);
    let on = start(true).await;
    within("the mapping", async {
        while on.status().await.mapping.is_none_or(|mapping| !mapping.is_failed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let status = on.status().await;
    assert_eq!(status.reachability, Reachability::Unknown);
    assert!(status.why.ends_with(&status.mapping.unwrap().why), "{}", status.why);
    for node in [off, on] {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn two_nodes_that_no_other_node_can_dial_fetch_from_each_other_through_a_punched_hole() {
    let public = public_member().await;
    let (ann, bob) = tokio::join!(
        behind_nat("ann", "127.2.0.1", &public, true),
        behind_nat("bob", "127.3.0.1", &public, true),
    );
    for node in [&ann, &bob] {
        wait_until_seen(node).await;
    }
    assert_eq!(fetch(&bob, &ann, 3 << 20).await.unwrap(), [bob.id()]);
    let peer = ann.peer(bob.id()).unwrap();
    assert!(peer.address().scheme == Scheme::Quic || peer.direction() == Direction::Inbound);
    shutdown([&ann, &bob, &public]).await;
}

#[tokio::test]
async fn messages_to_a_node_that_cannot_be_dialled_soon_use_a_punched_link() {
    let public = public_member().await;
    let (ann, bob) = tokio::join!(
        behind_nat("ann", "127.2.0.1", &public, true),
        behind_nat("bob", "127.3.0.1", &public, true),
    );
    let mut at_bob = bob.events();
    within("a link", async {
        let mut sent = 0;
        while ann.peer(bob.id()).is_none() {
            ann.send(bob.id(), sent.to_string()).await.unwrap();
            assert_eq!(next_text(&mut at_bob).await, sent.to_string());
            sent += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    ann.send(bob.id(), "over the link").await.unwrap();
    assert_eq!(next_text(&mut at_bob).await, "over the link");
    shutdown([&ann, &bob, &public]).await;
}

#[tokio::test]
async fn where_no_hole_can_be_punched_a_member_relays_messages_and_files() {
    let public = public_member().await;
    let (ann, bob) = tokio::join!(
        behind_nat("ann", "127.2.0.1", &public, false),
        behind_nat("bob", "127.3.0.1", &public, false),
    );
    fetch(&bob, &ann, 300_000).await.unwrap();
    let peer = ann.peer(bob.id()).unwrap();
    assert_eq!(peer.address().scheme, Scheme::Relay);
    assert_eq!(ann.status().await.reachability, Reachability::Relayed);
    assert!(public.status().await.relayed > 0);
    // The other way, over the relayed link that exists.
    fetch(&ann, &bob, 100_000).await.unwrap();
    let mut at_bob = bob.events();
    ann.send(bob.id(), "over the link").await.unwrap();
    assert_eq!(next_text(&mut at_bob).await, "over the link");
    public.shutdown().await;
    wait_until("the relayed link to end", || ann.peer(bob.id()).is_none()).await;
    shutdown([&ann, &bob]).await;
}

#[tokio::test]
async fn a_node_is_connected_by_its_identity_alone_directly_or_through_a_relay() {
    let public = public_member().await;
    for (udp, scheme) in [(true, Scheme::Quic), (false, Scheme::Relay)] {
        let (ann, bob) = tokio::join!(
            behind_nat("ann", "127.2.0.1", &public, udp),
            behind_nat("bob", "127.3.0.1", &public, udp),
        );
        if udp {
            for node in [&ann, &bob] {
                wait_until_seen(node).await;
            }
        }
        let peer = within("the link", ann.connect(bob.id())).await.unwrap();
        assert_eq!((peer.id(), peer.address().scheme), (bob.id(), scheme));
        assert!(ann.status().await.pinned.contains(&bob.id()));
        shutdown([&ann, &bob]).await;
    }
    let stranger = peerkit::Key::from_secret(&[9; 32]).id();
    let refused = within("the search", public.connect(stranger)).await;
    assert!(matches!(refused, Err(Error::NotFound(id)) if id == stranger), "{refused:?}");
    shutdown([&public]).await;
}

#[tokio::test]
async fn nothing_is_relayed_by_or_for_a_node_that_has_switched_relays_off() {
    let mut config = Config::default();
    (config.limit_loopback, config.relay) = (true, false);
    let public =
        Node::builder().name("public").listen("127.1.0.1:0").config(config).spawn().await.unwrap();
    let (ann, bob) = tokio::join!(
        behind_nat("ann", "127.2.0.1", &public, false),
        behind_nat("bob", "127.3.0.1", &public, false),
    );
    assert!(fetch(&bob, &ann, 1000).await.is_err());
    assert_eq!(public.status().await.relayed, 0);
    shutdown([&ann, &bob, &public]).await;
}
