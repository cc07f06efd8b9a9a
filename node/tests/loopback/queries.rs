//! Discovery, search and broadcast in networks that are lines, rings or meshes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::*;
use crate::proxy::Proxy;
use peerkit::{Config, Discovery, Event, Message, Node, NodeId};

/// Starts nodes without deadlines: their queries end only when all nodes have answered.
async fn nodes(count: usize) -> Vec<Node> {
    let mut nodes = Vec::new();
    for n in 0..count {
        let node = builder(&n.to_string()).config(without_deadlines());
        nodes.push(node.spawn().await.unwrap());
    }
    nodes
}

/// Starts nodes, each linked to the next.
async fn line(count: usize) -> Vec<Node> {
    let nodes = nodes(count).await;
    for pair in nodes.windows(2) {
        link(&pair[0], &pair[1]).await;
    }
    nodes
}

/// Starts nodes, each linked to the next, and the last to the first.
async fn ring(count: usize) -> Vec<Node> {
    let nodes = line(count).await;
    link(&nodes[count - 1], &nodes[0]).await;
    nodes
}

/// Starts nodes that are all linked to each other.
async fn mesh(count: usize) -> Vec<Node> {
    let nodes = nodes(count).await;
    for (n, from) in nodes.iter().enumerate() {
        for to in &nodes[n + 1..] {
            link(from, to).await;
        }
    }
    nodes
}

fn ids<'n>(nodes: impl IntoIterator<Item = &'n Node>) -> BTreeSet<NodeId> {
    nodes.into_iter().map(Node::id).collect()
}

fn found_ids(discovery: &Discovery) -> BTreeSet<NodeId> {
    let ids: BTreeSet<_> = discovery.nodes.iter().map(|node| node.id).collect();
    assert_eq!(ids.len(), discovery.nodes.len(), "a node is listed twice");
    ids
}

/// Returns every link between the nodes as a pair: the node that dialled, then the dialled node.
fn links(nodes: &[Node]) -> Vec<(NodeId, NodeId)> {
    let mut links = Vec::new();
    for node in nodes {
        let peers = node.peers().into_iter();
        let outbound = peers.filter(|peer| peer.direction().name() == "outbound");
        links.extend(outbound.map(|peer| (node.id(), peer.id())));
    }
    links.sort_unstable();
    links
}

#[tokio::test]
async fn a_discovery_reaches_the_requested_depth() {
    let nodes = line(5).await;
    for (requester, depth, expected) in [
        (0, 0, 0..1),
        (0, 1, 0..2),
        (0, 2, 0..3),
        (0, 3, 0..4),
        (0, 4, 0..5),
        (0, 100, 0..5),
        (0, 1000, 0..5),
        (0, -1, 0..5),
        (2, 1, 1..4),
        (2, -1, 0..5),
        (4, 2, 2..5),
    ] {
        let discovery = nodes[requester].discover(depth).await.unwrap();
        assert_eq!(found_ids(&discovery), ids(&nodes[expected]), "{depth} from {requester}");
        assert!(discovery.complete);
        assert_eq!(
            discovery.nodes[0].id,
            nodes[requester].id(),
            "the node that runs the discovery comes first"
        );
    }
    let discovery = nodes[0].discover(-1).await.unwrap();
    assert_eq!(discovery.links(), links(&nodes));
    let middle = discovery.nodes.iter().find(|node| node.id == nodes[2].id()).unwrap();
    assert_eq!(middle.name, "2");
    assert_eq!(middle.addresses, [address_of(&nodes[2]).into()]);
    assert_eq!(middle.outbound.len(), 1);
    assert_eq!(
        (middle.outbound[0].id, &middle.outbound[0].address),
        (nodes[3].id(), &address_of(&nodes[3]).into())
    );
    assert_eq!(
        (middle.inbound[0].id, &middle.inbound[0].address),
        (nodes[1].id(), &address_of(&nodes[1]).into())
    );
    shutdown(&nodes).await;
}

#[tokio::test]
async fn each_discovered_node_is_reported_by_an_event() {
    let nodes = line(3).await;
    let mut events = nodes[0].events();
    nodes[0].discover(-1).await.unwrap();
    let mut reported = BTreeSet::new();
    for _ in 0..2 {
        let Event::NodeDiscovered { node } = expect_event(&mut events, "node_discovered").await
        else {
            panic!()
        };
        reported.insert(node.id);
    }
    assert_eq!(reported, ids(&nodes[1..]));
    shutdown(&nodes).await;
}

#[tokio::test]
async fn every_node_of_a_ring_or_a_mesh_discovers_all_nodes_and_links() {
    for (nodes, count) in [(ring(10).await, 10), (mesh(10).await, 45)] {
        let all = ids(&nodes);
        for node in &nodes {
            // The discovery has no deadline: it ends when all nodes have answered.
            let discovery = within("all answers", node.discover(-1)).await.unwrap();
            assert_eq!(found_ids(&discovery), all);
            assert!(discovery.complete);
            assert_eq!(discovery.links(), links(&nodes));
            assert_eq!(discovery.links().len(), count);
        }
        let discoveries = nodes.iter().map(|node| {
            let node = node.clone();
            tokio::spawn(async move { found_ids(&node.discover(-1).await.unwrap()) })
        });
        for discovered in discoveries.collect::<Vec<_>>() {
            assert_eq!(discovered.await.unwrap(), all);
        }
        shutdown(&nodes).await;
    }
}

#[tokio::test]
async fn the_depth_of_a_discovery_counts_hops_of_the_shortest_path() {
    let nodes = ring(10).await;
    for (depth, expected) in [(1, 3), (2, 5), (4, 9), (5, 10)] {
        let discovery = nodes[3].discover(depth).await.unwrap();
        assert_eq!(found_ids(&discovery).len(), expected, "depth {depth}");
    }
    shutdown(&nodes).await;
}

#[tokio::test]
async fn a_search_finds_names_across_the_network() {
    let nodes = line(4).await;
    let folder = tempfile::tempdir().unwrap();
    let files = [
        (1, "Summer Holiday Song.txt", "la"),
        (2, "winter song.txt", "li"),
        (3, "holiday-list.txt", "lu"),
        (3, "Grüße.txt", "grüße"),
    ];
    for (n, name, content) in files {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        nodes[n].share(path).await.unwrap();
    }
    // Another node shares the same content twice: under the same name and under another name.
    for name in ["the song of summer.txt", "again/Summer Holiday Song.txt"] {
        let copy = folder.path().join(name);
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::write(&copy, "la").unwrap();
        nodes[3].share(copy).await.unwrap();
    }

    let song = "Summer Holiday Song.txt";
    for (words, expected) in [
        ("song", vec![song, "the song of summer.txt", "winter song.txt"]),
        ("SONG winter", vec!["winter song.txt"]),
        ("holiday", vec![song, "holiday-list.txt"]),
        ("grüße", vec!["Grüße.txt"]),
        ("no such file", vec![]),
    ] {
        let found = nodes[0].search(words).await.unwrap();
        let mut names: Vec<_> = found.iter().map(|found| found.file.name.to_string()).collect();
        names.sort();
        assert_eq!(names, expected, "{words}");
    }
    let found = nodes[0].search("holiday song").await.unwrap();
    let [found] = &found[..] else { panic!("{found:?}") };
    let sources: BTreeSet<_> = found.sources.iter().map(|source| source.id).collect();
    assert_eq!(sources, ids([&nodes[1], &nodes[3]]));
    let source = found.sources.iter().find(|source| source.id == nodes[3].id()).unwrap();
    assert_eq!((&*source.name, &source.addresses[..]), ("3", &[address_of(&nodes[3]).into()][..]));
    assert!(nodes[0].search(&"x".repeat(10_000)).await.is_err());
    // A node without peers finds nothing.
    let alone = node("alone").await;
    assert!(alone.search("song").await.unwrap().is_empty());
    shutdown(nodes.iter().chain([&alone])).await;
}

#[tokio::test]
async fn a_query_ends_at_its_deadline_when_a_node_hangs() {
    let mut config = Config::default();
    config.query_timeout = Duration::from_millis(300);
    config.flush_timeout = Duration::from_millis(100);
    // A hanging node's link must not end during the test, so that only the query's own deadline ends the
    // query.
    config.dead_after = Duration::from_secs(3600);
    let start = |name| builder(name).config(config.clone()).spawn();
    let requester = start("requester").await.unwrap();
    let (responsive, hanging) =
        (start("responsive").await.unwrap(), start("hanging").await.unwrap());
    let behind = node("behind").await;
    link(&requester, &responsive).await;
    link(&responsive, &behind).await;
    let proxy = Proxy::new(address_of(&hanging)).await;
    responsive.connect(proxy.address).await.unwrap();
    // On a busy machine a responsive node may miss the deadline too, so this tries several times.
    let finds = async |nodes: &[&Node]| loop {
        let discovery = within("a discovery", requester.discover(-1)).await.unwrap();
        if found_ids(&discovery) == ids(nodes.iter().copied()) {
            break discovery;
        }
    };
    within("all four nodes", finds(&[&requester, &responsive, &behind, &hanging])).await;

    proxy.stop_forwarding();
    let discovery =
        within("the three other nodes", finds(&[&requester, &responsive, &behind])).await;
    assert!(!discovery.complete);
    within("the search", requester.search("anything")).await.unwrap();
    // A query does not wait for a node whose link is lost.
    hanging.shutdown().await;
    let _ = responsive.disconnect(hanging.id()).await;
    wait_until("the hanging node's link to end", || responsive.peers().len() == 2).await;
    // A discovery is complete if no deadline ended it. On a busy machine a deadline may end it, so this tries
    // several times.
    within("a complete discovery of the remaining nodes", async {
        loop {
            let discovery = requester.discover(-1).await.unwrap();
            if discovery.complete && discovery.nodes.len() == 3 {
                break;
            }
        }
    })
    .await;
    shutdown([&requester, &responsive, &behind]).await;
}

#[tokio::test]
async fn broadcasts_reach_all_nodes_of_a_ring_once_and_in_order() {
    let received = Arc::new(Mutex::new(vec![Vec::new(); 10]));
    let mut nodes = Vec::new();
    for n in 0..10_usize {
        let received = received.clone();
        let node = builder(&n.to_string()).callback(move |_, event| {
            if let Event::NodeBroadcast { broadcast } = event {
                received.lock().unwrap()[n].push(broadcast);
            }
        });
        nodes.push(node.spawn().await.unwrap());
    }
    for n in 0..10 {
        link(&nodes[n], &nodes[(n + 1) % 10]).await;
    }
    let mut sent = Vec::new();
    for n in 0..20 {
        let message = Message::json(&n).unwrap();
        let receipt = nodes[4].broadcast(format!("title {n}"), message).await.unwrap();
        assert_eq!(receipt.links, 2);
        sent.push(receipt.id);
    }
    wait_until("all nodes to have the broadcasts", || {
        received.lock().unwrap().iter().enumerate().all(|(n, got)| n == 4 || got.len() >= 20)
    })
    .await;
    // A query takes the same links, so when it is answered all duplicates of broadcasts have arrived.
    assert_eq!(nodes[4].discover(-1).await.unwrap().nodes.len(), 10);
    for (n, broadcasts) in received.lock().unwrap().iter().enumerate() {
        if n == 4 {
            assert!(broadcasts.is_empty(), "an author received its own broadcast");
            continue;
        }
        let ids: Vec<_> = broadcasts.iter().map(|broadcast| broadcast.id).collect();
        assert_eq!(ids, sent, "node {n}");
        for (number, broadcast) in broadcasts.iter().enumerate() {
            assert_eq!(broadcast.author, nodes[4].id());
            assert_eq!(broadcast.title, format!("title {number}"));
            assert_eq!(broadcast.message.to_json::<usize>().unwrap(), number);
            assert!(broadcast.time > 1_700_000_000_000);
        }
    }
    let largest = nodes[0].broadcast("", vec![0; 64 << 10]).await.unwrap();
    assert_eq!(largest.links, 2);
    nodes[0].broadcast("", vec![0; (64 << 10) + 1]).await.unwrap_err();
    nodes[0].broadcast("t".repeat(257), "x").await.unwrap_err();
    shutdown(&nodes).await;
}
