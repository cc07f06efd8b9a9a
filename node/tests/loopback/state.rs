//! The state that a node keeps over a restart, and the errors of a start.

use std::path::Path;

use crate::common::*;
use peerkit::{
    Builder, DownloadState, Error, FetchRequest, FileName, Hash, Key, Node, NodeId, StoreError,
    Ticket,
};
use tempfile::TempDir;

fn with_state(name: &str, folder: &TempDir) -> Builder {
    builder(name).state(folder.path().join("state"))
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn a_node_has_the_same_identity_after_a_restart() {
    let folder = folder();
    let first = with_state("a", &folder).spawn().await.unwrap();
    let id = first.id();
    first.shutdown().await;
    drop(first);
    let second = with_state("a", &folder).spawn().await.unwrap();
    assert_eq!(second.id(), id);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        for entry in std::fs::read_dir(folder.path().join("state")).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            if entry.file_name().to_string_lossy().contains("key") {
                assert_eq!(mode, 0o600, "{entry:?}");
            }
        }
    }
    second.shutdown().await;
    drop(second);
    // A key that the user gives takes precedence over the key in the folder.
    let key = Key::from_secret(&[7; 32]);
    let third = with_state("a", &folder).key(key.clone()).spawn().await.unwrap();
    assert_eq!(third.id(), key.id());
    third.shutdown().await;
    // Without a folder, each run has a new identity.
    let (one, other) = (node("a").await, node("a").await);
    assert_ne!(one.id(), other.id());
    shutdown([&one, &other]).await;
}

/// Without the anchors, the node would dial only the bootstrap node, as one node is enough.
#[tokio::test]
async fn a_restarted_node_dials_its_anchors_first() {
    let folder = folder();
    let (anchor, other) = (node("anchor").await, node("other").await);
    let first = with_state("a", &folder).spawn().await.unwrap();
    first.join(address_of(&anchor)).await.unwrap();
    first.shutdown().await;
    drop(first);
    let builder = with_state("a", &folder).bootstrap(address_of(&other).into());
    let second = builder.spawn().await.unwrap();
    let peers = second.network().rejoin(1).await.unwrap();
    assert!(peers.iter().any(|peer| peer.id() == anchor.id()), "{peers:?}");
    shutdown([&anchor, &other, &second]).await;
}

#[tokio::test]
async fn shares_are_restored_after_a_restart() {
    let folder = folder();
    let path = folder.path().join("file.txt");
    std::fs::write(&path, "content").unwrap();
    let album = folder.path().join("album");
    std::fs::create_dir(&album).unwrap();
    std::fs::write(album.join("song"), "la").unwrap();

    let first = with_state("a", &folder).spawn().await.unwrap();
    first.share(&path).await.unwrap();
    first.share(&album).await.unwrap();
    let mut shares = first.files().shares();
    first.shutdown().await;
    drop(first);

    let second = with_state("a", &folder).spawn().await.unwrap();
    wait_until("both shares to be restored", || second.files().shares().len() == 2).await;
    let mut restored = second.files().shares();
    shares.sort();
    restored.sort();
    assert_eq!(restored, shares);
    let other = node("other").await;
    link(&other, &second).await;
    let fetched = other
        .fetch(FetchRequest::new(restored[0].hash).to(folder.path().join("got")))
        .await
        .unwrap();
    assert_eq!(fetched.sources, [second.id()]);
    second.files().unshare(restored[0].hash).await.unwrap();
    second.shutdown().await;
    drop(second);

    let third = with_state("a", &folder).spawn().await.unwrap();
    wait_until("one share to be restored", || !third.files().shares().is_empty()).await;
    assert_eq!(third.files().shares(), restored[1..]);
    shutdown([&other, &third]).await;
}

#[tokio::test]
async fn a_restarted_node_rejoins_through_known_peers() {
    let folder = folder();
    let (b, c) = (node("b").await, node("c").await);
    let first = with_state("a", &folder).spawn().await.unwrap();
    link(&first, &b).await;
    link(&c, &first).await;
    first.shutdown().await;
    let known = first.network().known_peers().await.unwrap();
    drop(first);
    let mut known_ids: Vec<NodeId> = known.iter().map(|(id, _)| *id).collect();
    known_ids.sort();
    let mut expected = [b.id(), c.id()];
    expected.sort();
    assert_eq!(known_ids, expected);
    let (_, known_b) = known.iter().find(|(id, _)| *id == b.id()).unwrap();
    assert_eq!((&*known_b.name, &known_b.addresses[..]), ("b", &[address_of(&b).into()][..]));
    assert!(known_b.last_seen > 1_700_000_000_000);

    let again = with_state("a", &folder).spawn().await.unwrap();
    assert!(again.peers().is_empty(), "a start makes no link");
    let peers = again.network().rejoin(1).await.unwrap();
    assert_eq!((peers.len(), again.peers().len()), (1, 1));
    let peers = again.network().rejoin(10).await.unwrap();
    assert_eq!(peers.len(), 2);
    again.shutdown().await;
    drop(again);

    // One of the known peers has stopped. The node joins through the other.
    b.shutdown().await;
    let again = with_state("a", &folder).spawn().await.unwrap();
    let peers = again.network().rejoin(10).await.unwrap();
    assert_eq!(peers.iter().map(|peer| peer.id()).collect::<Vec<_>>(), [c.id()]);
    shutdown([&again, &c]).await;
}

#[tokio::test]
async fn known_peers_are_saved_and_loaded_as_json() {
    let folder = folder();
    let file = folder.path().join("peers.json");
    let (a, b) = (node("a").await, node("b").await);
    link(&a, &b).await;
    within("b to be a known peer", async {
        while a.network().known_peers().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(a.network().save_peers(&file).await.unwrap(), 1);
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(json[0]["id"], b.id().to_string());
    assert_eq!(json[0]["addresses"][0], address_of(&b).to_string());

    let c = node("c").await;
    let loaded = c.network().load_peers(&file).await.unwrap();
    assert_eq!(loaded, a.network().known_peers().await.unwrap());
    assert_eq!(c.network().known_peers().await.unwrap(), loaded);
    let d = node("d").await;
    let reached = within("the connection", d.network().connect_to_known(&loaded)).await;
    assert_eq!(reached.iter().map(peerkit::Peer::id).collect::<Vec<_>>(), [b.id()]);
    assert_eq!(d.network().connect_to_known(&loaded).await, [], "d is connected to b already");
    shutdown([&d]).await;
    assert_eq!(c.network().rejoin(5).await.unwrap()[0].id(), b.id());

    for wrong in ["", "{}", "[1]", r#"[{"id": "00", "addresses": []}]"#] {
        std::fs::write(&file, wrong).unwrap();
        let failed = c.network().load_peers(&file).await.unwrap_err();
        assert!(matches!(failed, Error::PeersFile { .. }), "{failed:?}");
        assert!(failed.to_string().contains("peers.json"), "{failed}");
    }
    let missing = c.network().load_peers(folder.path().join("missing.json")).await;
    assert!(matches!(missing, Err(Error::PeersFile { .. })));
    let nowhere = c.network().save_peers(folder.path().join("no/such/folder")).await;
    assert!(matches!(nowhere, Err(Error::PeersFile { .. })));
    assert_eq!(c.network().known_peers().await.unwrap().len(), 1, "a bad file has no effect");
    shutdown([&a, &b, &c]).await;
}

#[tokio::test]
async fn a_second_node_on_the_same_folder_fails_with_the_reason() {
    let folder = folder();
    let first = with_state("a", &folder).spawn().await.unwrap();
    let second = with_state("b", &folder).spawn().await.unwrap_err();
    assert!(matches!(second, Error::Store(StoreError::InUse(_))), "{second:?}");
    let text = second.to_string();
    assert!(text.contains("another node uses the state folder"), "{text}");
    assert!(text.contains(&*folder.path().to_string_lossy()), "{text}");
    // The first node is not affected.
    let other = node("other").await;
    link(&other, &first).await;
    shutdown([&first, &other]).await;
}

#[tokio::test]
async fn a_start_fails_with_the_reason() {
    let first = node("first").await;
    let address = address_of(&first);
    let failed = Node::builder().listen(address).spawn().await.unwrap_err();
    assert!(matches!(failed, Error::PortInUse(socket) if socket == address));
    let expected = format!("port {} of 127.0.0.1 is in use", address.port());
    assert_eq!(failed.to_string(), expected);
    for nonsense in ["nonsense", "127.0.0.1", "127.0.0.1:99999", ""] {
        let failed = Node::builder().listen(nonsense).spawn().await.unwrap_err();
        assert!(matches!(failed, Error::Listen { .. }), "{nonsense}: {failed:?}");
    }
    let long = Node::builder().name("n".repeat(65)).spawn().await;
    assert!(matches!(long, Err(Error::NameTooLong { .. })));
    let long = Node::builder().network("n".repeat(65)).spawn().await;
    assert!(matches!(long, Err(Error::NameTooLong { .. })));
    // A failed start leaves nothing running, so the folder can be used.
    let folder = folder();
    let failed = with_state("a", &folder).listen(address).spawn().await;
    assert!(matches!(failed, Err(Error::PortInUse(_))));
    let second = with_state("a", &folder).spawn().await.unwrap();
    shutdown([&first, &second]).await;
}

#[tokio::test]
async fn the_folder_of_a_stopped_node_can_be_used_while_handles_remain() {
    let folder = folder();
    let first = with_state("a", &folder).spawn().await.unwrap();
    first.shutdown().await;
    let closed_mark = folder.path().join("state/state.redb.closed");
    assert!(
        closed_mark.exists(),
        "without this file the next start would check the whole database"
    );
    // The handle `first` still exists.
    let second = with_state("a", &folder).spawn().await.unwrap();
    assert_eq!(second.id(), first.id());
    assert!(!closed_mark.exists());
    second.shutdown().await;
    drop((first, second));
    assert!(closed_mark.exists());
}

#[tokio::test]
async fn a_peers_file_is_merged_and_checked() {
    let folder = folder();
    let (a, b) = (node("a").await, node("b").await);
    let mut events = b.events();
    let file = folder.path().join("peers.json");
    let address = address_of(&b).to_string();
    let one = serde_json::json!({
        "id": b.id(), "addresses": vec![address.clone(); 40], "last_seen": u64::MAX
    });
    std::fs::write(&file, serde_json::json!([one, one, one]).to_string()).unwrap();
    let loaded = a.network().load_peers(&file).await.unwrap();
    let [(id, known)] = &loaded[..] else { panic!("{loaded:?}") };
    assert_eq!((*id, known.addresses.len()), (b.id(), 1));
    assert!(known.last_seen < u64::MAX);
    assert_eq!(a.network().connect_to_known(&loaded).await.len(), 1);
    a.shutdown().await;
    expect_event(&mut events, "inbound_node_connected").await;
    expect_event(&mut events, "inbound_node_disconnected").await;
    b.shutdown().await;
    while let Some(event) = events.next().await {
        assert_ne!(event.name(), "inbound_node_connected");
    }

    let c = node("c").await;
    let no_key = format!("01{}", "00".repeat(31));
    let json = serde_json::json!([{"id": no_key, "addresses": [address]}]);
    std::fs::write(&file, json.to_string()).unwrap();
    let error = c.network().load_peers(&file).await.unwrap_err();
    assert!(matches!(error, Error::PeersFile { .. }), "{error:?}");
    assert!(error.to_string().contains("no valid key"), "{error}");
    assert!(c.network().known_peers().await.unwrap().is_empty());
    c.shutdown().await;
}

/// Starts nodes from the state folders in `tests/fixtures`. `tests/fixtures/record-state` has made one with
/// the program of each version.
#[tokio::test]
async fn a_node_starts_from_the_state_of_every_version() {
    let ids = [1, 2].map(|n| Key::from_secret(&[n; 32]).id());
    for version in [1, 2] {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("../tests/fixtures/state-{version}"));
        let folder = folder();
        let state = folder.path().join("state");
        std::fs::create_dir(&state).unwrap();
        for name in ["key", "state.redb"] {
            std::fs::copy(fixture.join(name), state.join(name)).unwrap();
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                let closed = std::fs::Permissions::from_mode(0o600);
                std::fs::set_permissions(state.join(name), closed).unwrap();
            }
        }
        for run in 0..2 {
            let node = with_state("ann", &folder).spawn().await.unwrap();
            assert_eq!(node.id(), ids[0]);
            let known = node.network().known_peers().await.unwrap();
            assert_eq!(known.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [ids[1]]);
            let downloads = node.files().downloads();
            let [download] = &downloads[..] else { panic!("run {run}: {downloads:?}") };
            assert_eq!(download.hash, Hash::of(&vec![7; 3_000_000]));
            assert_eq!(
                (download.state, download.total),
                match version {
                    1 => (DownloadState::Paused, None),
                    _ => (DownloadState::Paused, Some(3_000_000)),
                }
            );
            assert_eq!(download.name.as_ref().map(FileName::as_str), Some("big.bin"));
            node.shutdown().await;
        }
        assert_eq!(state.join("state.redb.before-2").exists(), version < 2);

        let tickets = std::fs::read_to_string(fixture.join("tickets")).unwrap();
        let tickets: Vec<Ticket> = tickets.lines().map(|line| line.parse().unwrap()).collect();
        let [album, secret] = &tickets[..] else { panic!("{tickets:?}") };
        assert_eq!((album.node, secret.node), (ids[0], ids[0]));
        assert_eq!(secret.hash, Hash::of(b"secret"));
        assert!(secret.secret.is_some() && album.secret.is_none());
        let name = secret.name.as_ref().map(FileName::as_str);
        assert_eq!(name, (version >= 2).then_some("secret.txt"));
    }
}
