//! Events about uploads, at the node that shares the files.

use crate::common::*;
use peerkit::{Event, Events, FetchRequest, Hash, Node, Peer, RateLimits, Upload, UploadTotals};
use peerkit_proto::files::PIECE;
use tempfile::TempDir;

/// Waits for the next event about a completed upload.
async fn next_upload(events: &mut Events) -> (Peer, Upload) {
    match expect_event(events, "node_upload_completed").await {
        Event::NodeUploadCompleted { peer, upload } => (peer, upload),
        other => panic!("{other:?}"),
    }
}

/// Stops a node, and checks that no upload is among its remaining events.
async fn end(node: &Node, mut events: Events) {
    shutdown([node]).await;
    while let Some(event) = events.next().await {
        assert_ne!(event.name(), "node_upload_completed", "{event:?}");
    }
}

fn content(pieces: u64) -> Vec<u8> {
    SeededRandom(pieces).bytes(usize::try_from(pieces * PIECE).unwrap() + 77)
}

/// Writes a file and shares it, or the folder that its name begins with.
async fn share(node: &Node, folder: &TempDir, name: &str, content: &[u8]) -> Hash {
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    let top = folder.path().join(name.split('/').next().unwrap());
    node.share(top).await.unwrap().shared.hash
}

fn request(hash: Hash, to: &TempDir, from: &Node) -> FetchRequest {
    FetchRequest::new(hash).into_folder(to.path()).from(address_of(from).into()).ask_network(false)
}

#[tokio::test]
async fn each_completed_upload_is_reported_with_its_peer() {
    let (ann, bob, cid) = (node("ann").await, node("bob").await, node("cid").await);
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    link(&cid, &ann).await;
    let mut events = ann.events();
    let film = content(3);
    let file = share(&ann, &from, "film.bin", &film).await;
    share(&ann, &from, "album/in/empty", b"").await;
    let album = share(&ann, &from, "album/song.bin", &content(2)).await;
    let empty = share(&ann, &from, "empty", b"").await;
    let album_size = content(2).len() as u64;
    let sizes = [(file, film.len() as u64), (album, album_size), (empty, 0)];
    for (hash, size) in sizes {
        within("a fetch", bob.fetch(request(hash, &to, &ann))).await.unwrap();
        let (peer, upload) = next_upload(&mut events).await;
        assert_eq!((peer.id(), peer.name(), peer.is_linked()), (bob.id(), "bob", false));
        assert_eq!((upload.hash, upload.bytes, upload.size), (hash, size, size));
    }
    assert!(ann.files().uploads().is_empty());
    // Pieces that the peer already has are not sent again, and do not count as an upload.
    within("a fetch", bob.fetch(request(file, &to, &ann))).await.unwrap();
    // If the peer has a link, the event says so.
    let to = tempfile::tempdir().unwrap();
    within("a fetch", cid.fetch(FetchRequest::new(file).to(to.path()))).await.unwrap();
    let (peer, upload) = next_upload(&mut events).await;
    assert_eq!((peer.id(), peer.is_linked(), &*upload.name), (cid.id(), true, "film.bin"));
    let bytes = 2 * film.len() as u64 + album_size;
    let UploadTotals { bytes: sent, peers, completed, .. } = ann.files().upload_totals();
    assert_eq!((sent, peers, completed), (bytes, 2, 4));
    end(&ann, events).await;
    shutdown([&bob, &cid]).await;
}

/// The same content is shared under several names. An upload has the name under which it was requested.
#[tokio::test]
async fn an_upload_has_the_requested_name() {
    let (ann, bob) = (node("ann").await, node("bob").await);
    let from = tempfile::tempdir().unwrap();
    let mut events = ann.events();
    let mut names = Vec::new();
    for name in ["a.bin", "b.bin", "albums/one/c.bin", "albums/two/c.bin"] {
        let path = from.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content(1)).unwrap();
    }
    for name in ["a.bin", "b.bin", "albums/one", "albums/two"] {
        let shared = ann.share(from.path().join(name)).await.unwrap().shared;
        names.push((
            ann.files().ticket_for(&shared).unwrap(),
            shared.hash,
            shared.name.to_string(),
        ));
    }
    for (ticket, hash, name) in &names {
        let to = tempfile::tempdir().unwrap();
        let request = FetchRequest::ticket(ticket).into_folder(to.path());
        let fetched = within("a fetch", bob.fetch(request)).await.unwrap();
        assert!(fetched.path.ends_with(name), "{fetched:?}");
        let upload = next_upload(&mut events).await.1;
        assert_eq!((upload.hash, &upload.name), (*hash, name));
    }
    // A fetch with an unknown name, or with the hash alone, is reported under the first name.
    let hash = names[0].1;
    for wanted in [Some("other.bin"), None] {
        let to = tempfile::tempdir().unwrap();
        let mut request = request(hash, &to, &ann);
        if let Some(name) = wanted {
            request = request.named(name.parse().unwrap());
        }
        within("a fetch", bob.fetch(request)).await.unwrap();
        assert_eq!(next_upload(&mut events).await.1.name, "a.bin");
    }
    end(&ann, events).await;
    shutdown([&bob]).await;
}

#[tokio::test]
async fn a_paused_upload_is_complete_only_when_the_rest_is_sent() {
    let (ann, bob) = (node("ann").await, node("bob").await);
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut events = ann.events();
    let film = content(12);
    let hash = share(&ann, &from, "film.bin", &film).await;
    ann.set_rates(RateLimits { upload: 8 << 20, ..RateLimits::default() });
    let download = bob.fetch(request(hash, &to, &ann));
    wait_until("the upload to begin", || {
        let uploads = ann.files().uploads();
        download.status().done > PIECE && uploads.first().is_some_and(|one| one.sent > PIECE)
    })
    .await;
    let upload = ann.files().uploads().remove(0);
    assert_eq!((upload.peer, upload.file.hash), (bob.id(), hash));
    assert_eq!((upload.file.name.as_str(), upload.file.size), ("film.bin", film.len() as u64));
    bob.files().download(hash).unwrap().pause().await.unwrap();
    wait_until("the upload to end", || ann.files().uploads().is_empty()).await;
    assert_eq!(ann.files().upload_totals().completed, 0);
    ann.set_rates(RateLimits::default());
    bob.files().download(hash).unwrap().resume().await.unwrap();
    within("the fetch", download).await.unwrap();
    let (peer, upload) = next_upload(&mut events).await;
    // Pieces that were under way at the pause are sent twice, but count once.
    assert_eq!((peer.id(), upload.bytes), (bob.id(), film.len() as u64));
    end(&ann, events).await;
    shutdown([&bob]).await;
}

#[tokio::test]
async fn each_of_several_sources_reports_its_upload() {
    let (ann, bob, cid) = (node("ann").await, node("bob").await, node("cid").await);
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut events = [ann.events(), cid.events()];
    let film = content(16);
    let hash = share(&ann, &from, "film.bin", &film).await;
    // Cid shares its own copy, because writing Ann's file again would change it.
    let copy = tempfile::tempdir().unwrap();
    share(&cid, &copy, "film.bin", &film).await;
    for source in [&ann, &cid] {
        source.set_rates(RateLimits { upload: 16 << 20, ..RateLimits::default() });
    }
    let request = request(hash, &to, &ann).from(address_of(&cid).into());
    let fetched = within("the fetch", bob.fetch(request)).await.unwrap();
    assert_eq!(fetched.sources.len(), 2);
    let mut sum = 0;
    for events in &mut events {
        let (peer, upload) = next_upload(events).await;
        assert_eq!((peer.id(), upload.size), (bob.id(), film.len() as u64));
        assert!(upload.bytes > 0);
        sum += upload.bytes;
    }
    assert!(sum >= film.len() as u64, "{sum}");
    let [events_of_ann, events_of_cid] = events;
    end(&ann, events_of_ann).await;
    end(&cid, events_of_cid).await;
    shutdown([&bob]).await;
}
