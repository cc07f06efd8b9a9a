//! What a handler asks for through its context, and the events that it gets for it.

use std::path::PathBuf;
use std::time::Duration;

use crate::common::*;
use peerkit::{
    ActionId, Context, Event, FoundFile, Handler, Hash, Key, Node, NodeId, NodeInfo, Peer,
};
use tokio::sync::mpsc;

/// What has come of an action.
#[derive(Debug, PartialEq)]
enum Got {
    Connected(NodeId),
    Discovered(ActionId, Vec<String>, bool),
    Found(ActionId, Vec<FoundFile>),
    Pinged(ActionId, NodeId, Duration),
    Fetched(ActionId, Hash, PathBuf, u64),
    Failed(ActionId, String),
}

/// The tutorial's node: once it is linked it discovers, pings whom it found, searches, and fetches.
struct Tutorial {
    got: mpsc::UnboundedSender<Got>,
    folder: PathBuf,
    /// The node that is no neighbour.
    far: NodeId,
}

impl Handler for Tutorial {
    fn outbound_node_connected(&mut self, cx: &mut Context<'_>, peer: &Peer) {
        assert_eq!((cx.name(), cx.peer(peer.id()).as_ref()), ("ann", Some(peer)));
        assert_eq!(cx.info(peer.id(), "seen"), None);
        cx.set_info(peer.id(), "seen", 1);
        assert_eq!(cx.info(peer.id(), "seen"), Some(1.into()), "in the same call");
        self.got.send(Got::Connected(peer.id())).unwrap();
        cx.discover(-1);
    }

    fn node_discovery_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        nodes: &[NodeInfo],
        complete: bool,
    ) {
        let neighbour = cx.peers()[0].id();
        assert_eq!(cx.info(neighbour, "seen"), Some(1.into()), "in a later call");
        let names = nodes.iter().map(|node| node.name.clone()).collect();
        self.got.send(Got::Discovered(action, names, complete)).unwrap();
        cx.ping(neighbour);
        cx.ping(self.far);
        cx.search("song");
    }

    fn node_ping_completed(
        &mut self,
        _: &mut Context<'_>,
        action: ActionId,
        node: NodeId,
        rtt: Duration,
    ) {
        self.got.send(Got::Pinged(action, node, rtt)).unwrap();
    }

    fn node_search_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        files: &[FoundFile],
    ) {
        self.got.send(Got::Found(action, files.to_vec())).unwrap();
        cx.fetch(files[0].file.hash, &self.folder);
    }

    fn node_fetch_completed(
        &mut self,
        _: &mut Context<'_>,
        action: ActionId,
        hash: Hash,
        path: &std::path::Path,
        bytes: u64,
    ) {
        self.got.send(Got::Fetched(action, hash, path.to_owned(), bytes)).unwrap();
    }

    fn node_action_failed(&mut self, _: &mut Context<'_>, action: ActionId, error: &str) {
        self.got.send(Got::Failed(action, error.to_owned())).unwrap();
    }
}

#[tokio::test]
async fn the_tutorials_node_is_a_handler() {
    let folder = tempfile::tempdir().unwrap();
    let (sender, mut got) = mpsc::unbounded_channel();
    // Nobody can dial it: it is pinged through the others.
    let cid = Node::builder().name("cid").spawn().await.unwrap();
    let bob = node("bob").await;
    link(&cid, &bob).await;
    let song = folder.path().join("a song.txt");
    std::fs::write(&song, "la la la").unwrap();
    let song = cid.share(song).await.unwrap().shared;
    let target = tempfile::tempdir().unwrap();
    let handler = Tutorial { got: sender, folder: target.path().to_owned(), far: cid.id() };
    let ann = builder("ann").handler(handler).spawn().await.unwrap();
    ann.connect(at(&bob)).await.unwrap();

    let mut next = async || within("an event", got.recv()).await.unwrap();
    assert_eq!(next().await, Got::Connected(bob.id()));
    let Got::Discovered(first, mut names, complete) = next().await else { panic!("no discovery") };
    assert_eq!(names.remove(0), "ann", "this node comes first");
    names.sort();
    assert_eq!((names, complete), (vec!["bob".to_owned(), "cid".to_owned()], true));

    let (mut actions, mut pinged, mut fetched) = (vec![first], Vec::new(), None);
    while pinged.len() < 2 || fetched.is_none() {
        match next().await {
            Got::Pinged(action, node, rtt) => {
                assert!(rtt > Duration::ZERO);
                actions.push(action);
                pinged.push(node);
            }
            Got::Found(action, files) => {
                actions.push(action);
                assert_eq!(files.len(), 1);
                assert_eq!((&files[0].file, files[0].sources[0].id), (&song, cid.id()));
            }
            Got::Fetched(action, hash, path, bytes) => {
                actions.push(action);
                fetched = Some((hash, path, bytes));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(pinged.contains(&bob.id()) && pinged.contains(&cid.id()), "{pinged:?}");
    let path = target.path().join("a song.txt");
    assert_eq!(std::fs::read(&path).unwrap(), b"la la la");
    assert_eq!(fetched, Some((song.hash, path, 8)));
    actions.sort();
    actions.dedup();
    assert_eq!(actions.len(), 5, "each action has a number of its own");
    shutdown([&ann, &bob, &cid]).await;
}

#[tokio::test]
async fn what_fails_says_so_to_a_callback_too() {
    let (sender, mut got) = mpsc::unbounded_channel();
    let nobody = Key::from_secret(&[9; 32]).id();
    let mut expected = Vec::new();
    let ann = builder("ann").callback(move |cx, event| match event {
        Event::OutboundNodeConnected { .. } => {
            expected.push(cx.ping(nobody));
            expected.push(cx.search("x".repeat(10_000)));
            expected.push(cx.fetch(Hash::of(b"nothing"), "/nowhere/at/all"));
        }
        Event::NodeActionFailed { action, error } => {
            expected.retain(|other| *other != action);
            sender.send((expected.len(), error)).unwrap();
            if expected.is_empty() {
                cx.stop();
            }
        }
        _ => {}
    });
    let ann = ann.spawn().await.unwrap();
    let bob = node("bob").await;
    ann.connect(at(&bob)).await.unwrap();
    let mut errors = Vec::new();
    for left in [2, 1, 0] {
        let (count, error) = within("a failure", got.recv()).await.unwrap();
        assert_eq!(count, left);
        errors.push(error);
    }
    let has = |text: &str| errors.iter().any(|error| error.contains(text));
    assert!(has(&nobody.to_string()), "{errors:?}");
    assert!(has("a search has at most"), "{errors:?}");
    within("its own end", ann.stopped()).await;
    shutdown([&bob]).await;
}

#[tokio::test]
async fn a_handler_joins_a_network() {
    let bob = node("bob").await;
    let cid = node("cid").await;
    cid.join(&[at(&bob).into()]).await.unwrap();
    let address = at(&bob).into();
    let mut joined = false;
    let ann = builder("ann").callback(move |cx, event| {
        if let (Event::OutboundNodeConnected { .. }, false) = (&event, joined) {
            joined = true;
            cx.join(std::slice::from_ref(&address));
        }
    });
    let ann = ann.spawn().await.unwrap();
    ann.connect(at(&cid)).await.unwrap();
    within("it is a member", async {
        while !ann.status().await.member {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    shutdown([&ann, &bob, &cid]).await;
}
