//! Actions that a handler starts through its `Context`, and the events that report their outcomes.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::common::*;
use peerkit::{
    ActionId, Address, Config, Context, Event, FetchRequest, FoundFile, Handler, Hash, Key, Node,
    NodeId, NodeInfo, Peer, RateLimits,
};
use tokio::sync::mpsc;

/// The outcome of an action.
#[derive(Debug, PartialEq)]
enum Outcome {
    Connected(NodeId),
    Discovered(ActionId, Vec<String>, bool),
    Found(ActionId, Vec<FoundFile>),
    Pinged(ActionId, NodeId, Duration),
    Fetched(ActionId, Hash, PathBuf, u64),
    Failed(ActionId, String),
}

/// The handler of the tutorial. When the node has a link, it runs a discovery. Then it pings two nodes and
/// searches, and fetches the file that it has found.
struct Tutorial {
    outcomes: mpsc::UnboundedSender<Outcome>,
    folder: PathBuf,
    /// A node without a link.
    far: NodeId,
}

impl Handler for Tutorial {
    fn outbound_node_connected(&mut self, cx: &mut Context<'_>, peer: &Peer) {
        assert_eq!((cx.name(), cx.peer(peer.id()).as_ref()), ("ann", Some(peer)));
        assert_eq!(cx.info(peer.id(), "seen"), None);
        cx.set_info(peer.id(), "seen", 1);
        assert_eq!(cx.info(peer.id(), "seen"), Some(1.into()), "in the same call");
        self.outcomes.send(Outcome::Connected(peer.id())).unwrap();
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
        self.outcomes.send(Outcome::Discovered(action, names, complete)).unwrap();
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
        self.outcomes.send(Outcome::Pinged(action, node, rtt)).unwrap();
    }

    fn node_search_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        files: &[FoundFile],
    ) {
        self.outcomes.send(Outcome::Found(action, files.to_vec())).unwrap();
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
        self.outcomes.send(Outcome::Fetched(action, hash, path.to_owned(), bytes)).unwrap();
    }

    fn node_action_failed(&mut self, _: &mut Context<'_>, action: ActionId, error: &str) {
        self.outcomes.send(Outcome::Failed(action, error.to_owned())).unwrap();
    }
}

#[tokio::test]
async fn a_handler_runs_the_actions_of_the_tutorial() {
    let folder = tempfile::tempdir().unwrap();
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    // This node does not listen, so pings to it are relayed.
    let cid = Node::builder().name("cid").spawn().await.unwrap();
    let bob = node("bob").await;
    link(&cid, &bob).await;
    let song = folder.path().join("a song.txt");
    std::fs::write(&song, "la la la").unwrap();
    let song = cid.share(song).await.unwrap().shared;
    let target = tempfile::tempdir().unwrap();
    let handler = Tutorial { outcomes: sender, folder: target.path().to_owned(), far: cid.id() };
    let ann = builder("ann").handler(handler).spawn().await.unwrap();
    ann.connect(address_of(&bob)).await.unwrap();

    let mut next = async || within("an event", outcomes.recv()).await.unwrap();
    assert_eq!(next().await, Outcome::Connected(bob.id()));
    let Outcome::Discovered(first, mut names, complete) = next().await else {
        panic!("no discovery")
    };
    assert_eq!(names.remove(0), "ann", "this node comes first");
    names.sort();
    assert_eq!((names, complete), (vec!["bob".to_owned(), "cid".to_owned()], true));

    let (mut actions, mut pinged, mut fetched) = (vec![first], Vec::new(), None);
    while pinged.len() < 2 || fetched.is_none() {
        match next().await {
            Outcome::Pinged(action, node, rtt) => {
                assert!(rtt > Duration::ZERO);
                actions.push(action);
                pinged.push(node);
            }
            Outcome::Found(action, files) => {
                actions.push(action);
                assert_eq!(files.len(), 1);
                assert_eq!((&files[0].file, files[0].sources[0].id), (&song, cid.id()));
            }
            Outcome::Fetched(action, hash, path, bytes) => {
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
    assert_eq!(actions.len(), 5, "each action has its own number");
    shutdown([&ann, &bob, &cid]).await;
}

#[tokio::test]
async fn a_callback_gets_an_event_for_each_failed_action() {
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    let unknown = Key::from_secret(&[9; 32]).id();
    let mut expected = Vec::new();
    let ann = builder("ann").callback(move |cx, event| match event {
        Event::OutboundNodeConnected { .. } => {
            expected.push(cx.ping(unknown));
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
    ann.connect(address_of(&bob)).await.unwrap();
    let mut errors = Vec::new();
    for left in [2, 1, 0] {
        let (count, error) = within("a failure", outcomes.recv()).await.unwrap();
        assert_eq!(count, left);
        errors.push(error);
    }
    let has = |text: &str| errors.iter().any(|error| error.contains(text));
    assert!(has(&unknown.to_string()), "{errors:?}");
    assert!(has("a search has at most"), "{errors:?}");
    within("the stop", ann.stopped()).await;
    shutdown([&bob]).await;
}

#[tokio::test]
async fn a_handler_shares_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let songs = folder.path().join("songs");
    std::fs::create_dir(&songs).unwrap();
    std::fs::write(songs.join("a song.txt"), "la la la").unwrap();
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    let missing = folder.path().join("missing");
    let mut actions = Vec::new();
    let ann = builder("ann").callback(move |cx, event| match event {
        Event::InboundNodeConnected { .. } => {
            actions = vec![cx.share(&songs), cx.share(&missing)];
        }
        Event::NodeShareCompleted { action, file, skipped } => {
            assert_eq!((action, skipped), (actions[0], 0));
            sender.send(Ok(file)).unwrap();
        }
        Event::NodeActionFailed { action, error } => {
            assert_eq!(action, actions[1]);
            sender.send(Err(error)).unwrap();
        }
        _ => {}
    });
    let ann = ann.spawn().await.unwrap();
    let bob = node("bob").await;
    bob.connect(address_of(&ann)).await.unwrap();
    let (mut shared, mut failed) = (None, None);
    while shared.is_none() || failed.is_none() {
        match within("the results", outcomes.recv()).await.unwrap() {
            Ok(file) => shared = Some(file),
            Err(error) => failed = Some(error),
        }
    }
    assert!(failed.unwrap().contains("missing"));
    let shared = shared.unwrap();
    assert_eq!((shared.name.as_str(), shared.size), ("songs", 8));
    let target = tempfile::tempdir().unwrap();
    let fetched = bob.fetch(FetchRequest::new(shared.hash).to(target.path())).await.unwrap();
    assert_eq!(std::fs::read(fetched.path.join("a song.txt")).unwrap(), b"la la la");
    shutdown([&ann, &bob]).await;
}

#[tokio::test]
async fn each_broadcast_of_a_handler_is_sent_or_reported() {
    const COUNT: usize = 1500;
    let (sender, mut failed) = mpsc::unbounded_channel();
    // At one byte a second, all broadcasts except the first have to wait, and the queue has no room for all
    // of them.
    let mut config = Config::default();
    config.broadcast_rate = 1;
    let large = "x".repeat(config.max_broadcast + 1);
    let ann = builder("ann").config(config).callback(move |cx, event| match event {
        Event::InboundNodeConnected { .. } => {
            (0..COUNT).for_each(|number| cx.broadcast(number.to_string(), "hello"));
        }
        Event::NodeMessage { .. } => cx.broadcast("large", large.as_str()),
        Event::NodeBroadcastFailed { title, error } => sender.send((title, error)).unwrap(),
        _ => {}
    });
    let ann = ann.spawn().await.unwrap();
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    let bob = builder("bob").callback(move |_, event| {
        if let Event::NodeBroadcast { broadcast } = event {
            sender.send(broadcast.title).unwrap();
        }
    });
    let bob = bob.spawn().await.unwrap();
    bob.connect(address_of(&ann)).await.unwrap();
    let (title, error) = within("a failure", failed.recv()).await.unwrap();
    assert!(error.contains("1024"), "{error}");
    ann.set_rates(RateLimits { broadcasts: 0, ..ann.rates() });
    let mut titles = HashSet::from([title]);
    while titles.len() < COUNT {
        titles.insert(
            within("the other broadcasts", async {
                tokio::select! {
                    title = outcomes.recv() => title.unwrap(),
                    failure = failed.recv() => failure.unwrap().0,
                }
            })
            .await,
        );
    }
    bob.send(ann.id(), "go").await.unwrap();
    let (title, error) = within("a failure", failed.recv()).await.unwrap();
    assert_eq!(title, "large");
    assert!(error.contains("over the limit"), "{error}");
    shutdown([&ann, &bob]).await;
}

#[tokio::test]
async fn a_refused_join_of_a_handler_is_reported() {
    let bob = builder("bob").manual(true).spawn().await.unwrap();
    let address: Address = address_of(&bob).into();
    let (sender, mut failed) = mpsc::unbounded_channel();
    let ann = builder("ann").callback(move |cx, event| match event {
        Event::InboundNodeConnected { .. } => {
            let action = cx.join(std::slice::from_ref(&address));
            sender.send((action, None)).unwrap();
        }
        Event::NodeActionFailed { action, error } => sender.send((action, Some(error))).unwrap(),
        Event::NodeJoinCompleted { .. } => panic!("the join was not refused"),
        _ => {}
    });
    let ann = ann.spawn().await.unwrap();
    let cid = node("cid").await;
    cid.connect(address_of(&ann)).await.unwrap();
    let (expected, _) = within("the join", failed.recv()).await.unwrap();
    let (action, error) = within("a refusal", failed.recv()).await.unwrap();
    assert_eq!(action, expected);
    let error = error.unwrap();
    assert!(error.contains("made by hand"), "{error}");
    shutdown([&ann, &bob, &cid]).await;
}

#[tokio::test]
async fn a_handler_joins_a_network() {
    let bob = node("bob").await;
    let cid = node("cid").await;
    cid.join(&[address_of(&bob).into()]).await.unwrap();
    let address = address_of(&bob).into();
    let mut join = None;
    let (sender, mut joined) = mpsc::unbounded_channel();
    let ann = builder("ann").callback(move |cx, event| match event {
        Event::OutboundNodeConnected { .. } if join.is_none() => {
            join = Some(cx.join(std::slice::from_ref(&address)));
        }
        Event::NodeJoinCompleted { action } => sender.send(join == Some(action)).unwrap(),
        Event::NodeActionFailed { error, .. } => panic!("{error}"),
        _ => {}
    });
    let ann = ann.spawn().await.unwrap();
    ann.connect(address_of(&cid)).await.unwrap();
    assert_eq!(within("the join", joined.recv()).await, Some(true));
    assert!(ann.status().await.member);
    shutdown([&ann, &bob, &cid]).await;
}

#[tokio::test]
async fn a_handler_gets_the_outcome_of_each_connect() {
    let bob = node("bob").await;
    let (there, id) = (Address::from(address_of(&bob)), bob.id());
    let unknown: Address = "127.0.0.1:1".parse().unwrap();
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    let mut actions = Vec::new();
    let ann = builder("ann").callback(move |cx, event| match event {
        Event::InboundNodeConnected { .. } => {
            actions.push(cx.connect(there.clone(), false));
            actions.push(cx.connect(unknown.clone(), false));
            // Without addresses, a join tries the known peers. Bob is the only known peer.
            actions.push(cx.join(&[]));
        }
        Event::NodeConnectCompleted { action, peer } => {
            assert_eq!((peer.id(), actions.contains(&action)), (id, true));
            sender.send(actions.iter().position(|other| *other == action)).unwrap();
            if actions.len() == 3 {
                // The link exists already, so this connect completes too.
                actions.push(cx.connect(there.clone(), false));
            }
        }
        Event::NodeActionFailed { action, .. } => {
            assert_eq!(action, actions[1]);
            sender.send(Some(1)).unwrap();
        }
        Event::NodeJoinCompleted { action } => {
            assert_eq!(action, actions[2]);
            sender.send(Some(2)).unwrap();
        }
        _ => {}
    });
    let ann = ann.spawn().await.unwrap();
    bob.connect(address_of(&ann)).await.unwrap();
    let mut all = Vec::new();
    while all.len() < 4 {
        all.push(within("a result", outcomes.recv()).await.unwrap());
    }
    all.sort();
    assert_eq!(all, [0, 1, 2, 3].map(Some));
    shutdown([&ann, &bob]).await;
}

/// Returns a builder for a node that sends `count` broadcasts in one call of its handler. `sender` gets the
/// number of each failed broadcast with `false`, and the number of missed events with `true`.
fn broadcaster(count: usize, sender: mpsc::UnboundedSender<(usize, bool)>) -> peerkit::Builder {
    builder("ann").callback(move |cx, event| match event {
        Event::NodeMessage { .. } => {
            for number in 0..count {
                cx.broadcast(number.to_string(), "");
            }
        }
        Event::NodeBroadcastFailed { title, error } => {
            assert!(error.contains("8192"), "{error}");
            sender.send((title.parse().unwrap(), false)).unwrap();
        }
        Event::NodeLagged { missed } => {
            sender.send((usize::try_from(missed).unwrap(), true)).unwrap();
        }
        _ => {}
    })
}

// With several threads, broadcasts that are not queued in sequence would probably overtake each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn broadcasts_of_one_handler_call_keep_their_order() {
    let (sender, _failed) = mpsc::unbounded_channel();
    let ann = broadcaster(3000, sender).spawn().await.unwrap();
    let (sender, mut titles) = mpsc::unbounded_channel();
    let bob = builder("bob").callback(move |_, event| {
        if let Event::NodeBroadcast { broadcast } = event {
            sender.send(broadcast.title).unwrap();
        }
    });
    let bob = bob.spawn().await.unwrap();
    bob.join(&[address_of(&ann).into()]).await.unwrap();
    bob.send(ann.id(), "go").await.unwrap();
    for number in 0..3000 {
        let title = within("a broadcast", titles.recv()).await.unwrap();
        assert_eq!(title, number.to_string());
    }
    shutdown([&ann, &bob]).await;
}

#[tokio::test]
async fn broadcasts_keep_their_order_when_the_rate_limit_is_lifted() {
    let mut config = Config::default();
    config.broadcast_rate = 1;
    let (sender, mut titles) = mpsc::unbounded_channel();
    let ann = builder("ann").config(config).callback(|cx, event| {
        if let Event::NodeMessage { message, .. } = event {
            let first: usize = message.as_text().unwrap().parse().unwrap();
            for number in first..first + 100 {
                cx.broadcast(number.to_string(), "");
            }
        }
    });
    let ann = ann.spawn().await.unwrap();
    let bob = builder("bob").callback(move |_, event| {
        if let Event::NodeBroadcast { broadcast } = event {
            sender.send(broadcast.title).unwrap();
        }
    });
    let bob = bob.spawn().await.unwrap();
    bob.join(&[address_of(&ann).into()]).await.unwrap();
    bob.send(ann.id(), "0").await.unwrap();
    let first = within("a broadcast", titles.recv()).await.unwrap();
    assert_eq!(first, "0");
    ann.set_rates(RateLimits::default());
    bob.send(ann.id(), "100").await.unwrap();
    for number in 1..200 {
        let title = within("a broadcast", titles.recv()).await.unwrap();
        assert_eq!(title, number.to_string());
    }
    shutdown([&ann, &bob]).await;
}

// With one thread, the actor takes no order while the handler runs, so its mailbox fills up.
#[tokio::test(flavor = "current_thread")]
async fn broadcasts_beyond_the_queue_of_actions_are_reported() {
    let count = 12_000;
    let (sender, mut failed) = mpsc::unbounded_channel();
    let ann = broadcaster(count, sender).spawn().await.unwrap();
    let bob = node("bob").await;
    bob.connect(address_of(&ann)).await.unwrap();
    bob.send(ann.id(), "go").await.unwrap();
    // There is room for 1,024 orders in the mailbox and for 8,192 broadcasts that wait behind it. Other
    // orders may take some of the room.
    let (mut first, mut reported) = (count, 0);
    while first == count || reported < count - first {
        match within("a failure", failed.recv()).await.unwrap() {
            (missed, true) => reported += missed,
            (number, false) => {
                first = first.min(number);
                reported += 1;
            }
        }
    }
    assert!((9000..=9216).contains(&first), "{first}");
    assert_eq!(reported, count - first);
    shutdown([&ann, &bob]).await;
}
