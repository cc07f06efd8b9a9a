//! Downloads that a restarted node resumes. They wait until there is a source.

use std::path::Path;

use crate::common::*;
use crate::proxy::Proxy;
use peerkit::{Config, DownloadState, DownloadStatus, FetchRequest, Hash, Node, RateLimits};
use peerkit_proto::files::PIECE;
use tempfile::TempDir;

/// Starts a node with a state folder. It runs one download at a time, and soon stops waiting for a source.
async fn start(folder: &TempDir) -> Node {
    let mut config = Config::default();
    config.max_downloads = 1;
    config.download_patience = std::time::Duration::from_millis(500);
    builder("bob").config(config).state(folder.path().join("state")).spawn().await.unwrap()
}

fn write(path: &Path, seed: u64, pieces: u64) -> Vec<u8> {
    let content = SeededRandom(seed).bytes(usize::try_from(pieces * PIECE).unwrap() + 77);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, &content).unwrap();
    content
}

/// Returns the status of the download of a hash.
fn status(node: &Node, hash: Hash) -> DownloadStatus {
    node.files().downloads().into_iter().find(|download| download.hash == hash).unwrap()
}

#[tokio::test]
async fn a_download_by_hash_waits_for_a_link_and_continues() {
    let folder = tempfile::tempdir().unwrap();
    let film = folder.path().join("from/film.bin");
    let content = write(&film, 1, 12);
    let album = folder.path().join("from/album");
    let song = write(&album.join("in/song.bin"), 2, 12);
    let ann = node("ann").await;
    let file = ann.share(&film).await.unwrap().shared.hash;
    let tree = ann.share(&album).await.unwrap().shared.hash;
    let hashes = [file, tree];
    let bob = start(&folder).await;
    link(&bob, &ann).await;
    // The downloads are started one after the other, as only one runs at a time.
    for hash in hashes {
        bob.set_rates(RateLimits { download: 8 << 20, ..RateLimits::default() });
        let get = FetchRequest::new(hash).into_folder(folder.path().join("to"));
        let download = bob.fetch(get);
        wait_until("some pieces", || download.status().done > 2 * PIECE).await;
        bob.files().download(hash).unwrap().pause().await.unwrap();
    }
    let before = hashes.map(|hash| status(&bob, hash));
    for hash in hashes {
        bob.files().download(hash).unwrap().resume().await.unwrap();
    }
    shutdown([&bob]).await;
    drop(bob);

    let bob = start(&folder).await;
    let events = bob.events();
    // The first download finds no source, and lets the second one run. The second one finds no source either.
    wait_until("both downloads to wait", || {
        let waits = |hash| status(&bob, hash).state == DownloadState::Waiting;
        hashes.into_iter().all(waits)
    })
    .await;
    for (now, before) in hashes.map(|hash| status(&bob, hash)).iter().zip(&before) {
        assert!(now.done >= before.done, "{now:?}, before: {before:?}");
        assert_eq!((now.total, &now.name), (before.total, &before.name));
        assert!(now.state.is_under_way() && now.error.is_none(), "{now:?}");
    }
    // After a link to a node without the content, the downloads still wait.
    let cid = node("cid").await;
    link(&cid, &bob).await;
    link(&bob, &ann).await;
    wait_until("both downloads to be done", || {
        hashes.into_iter().all(|hash| status(&bob, hash).state == DownloadState::Done)
    })
    .await;
    assert!(std::fs::read(folder.path().join("to/film.bin")).unwrap() == content);
    assert!(std::fs::read(folder.path().join("to/album/in/song.bin")).unwrap() == song);
    shutdown([&bob, &ann, &cid]).await;
    let mut events = events;
    let mut names = Vec::new();
    while let Some(event) = events.next().await {
        names.push(event.name());
    }
    assert!(!names.contains(&"node_download_failed"), "{names:?}");
}

#[tokio::test]
async fn a_resumed_download_without_a_piece_waits_for_a_source() {
    let folder = tempfile::tempdir().unwrap();
    let film = folder.path().join("from/film.bin");
    let content = write(&film, 3, 2);
    let ann = node("ann").await;
    let hash = ann.share(&film).await.unwrap().shared.hash;
    let bob = start(&folder).await;
    link(&bob, &ann).await;
    ann.set_rates(RateLimits { upload: 1, ..RateLimits::default() });
    let get = FetchRequest::new(hash).into_folder(folder.path().join("to"));
    bob.fetch(get);
    wait_until("the download to begin", || status(&bob, hash).total.is_some()).await;
    shutdown([&bob]).await;
    drop(bob);
    let bob = start(&folder).await;
    wait_until("the download to wait", || status(&bob, hash).state == DownloadState::Waiting).await;
    assert_eq!(status(&bob, hash).done, 0);
    ann.set_rates(RateLimits::default());
    link(&bob, &ann).await;
    wait_until("the download to be done", || status(&bob, hash).state == DownloadState::Done).await;
    assert!(std::fs::read(folder.path().join("to/film.bin")).unwrap() == content);
    shutdown([&bob]).await;
    drop(bob);
    // A restarted node resumes neither finished downloads nor downloads that failed without a piece.
    let bob = start(&folder).await;
    assert!(bob.files().downloads().is_empty());
    let nothing = bob.fetch(FetchRequest::new(Hash::of(b"no node has it")));
    within("the download to fail", nothing).await.unwrap_err();
    shutdown([&bob]).await;
    drop(bob);
    let bob = start(&folder).await;
    assert!(bob.files().downloads().is_empty());
    shutdown([&bob, &ann]).await;
}

/// If a partial file was removed while the node was down, its pieces are not counted as present.
#[tokio::test]
async fn pieces_removed_from_disk_are_not_counted() {
    let folder = tempfile::tempdir().unwrap();
    let film = folder.path().join("from/film.bin");
    write(&film, 4, 8);
    let ann = node("ann").await;
    let hash = ann.share(&film).await.unwrap().shared.hash;
    let bob = start(&folder).await;
    link(&bob, &ann).await;
    bob.set_rates(RateLimits { download: 8 << 20, ..RateLimits::default() });
    bob.fetch(FetchRequest::new(hash).into_folder(folder.path().join("to")));
    wait_until("some pieces", || status(&bob, hash).done > 2 * PIECE).await;
    shutdown([&bob]).await;
    drop(bob);
    std::fs::remove_dir_all(folder.path().join("to")).unwrap();
    let bob = start(&folder).await;
    assert_eq!(status(&bob, hash).done, 0);
    shutdown([&bob, &ann]).await;
}

#[tokio::test]
async fn a_second_fetch_continues_the_first_even_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let film = folder.path().join("from/film.bin");
    let content = write(&film, 5, 12);
    let ann = node("ann").await;
    let hash = ann.share(&film).await.unwrap().shared.hash;
    let bob = start(&folder).await;
    link(&bob, &ann).await;
    bob.set_rates(RateLimits { download: 8 << 20, ..RateLimits::default() });
    let get = || FetchRequest::new(hash).into_folder(folder.path().join("to"));
    let first = bob.fetch(get());
    wait_until("some pieces", || first.status().done > 2 * PIECE).await;
    shutdown([&ann]).await;
    within("the download to fail", first).await.unwrap_err();
    let kept = status(&bob, hash).done;
    assert!(kept > 2 * PIECE);
    let second = bob.fetch(get());
    within("the second download to fail", second).await.unwrap_err();
    assert_eq!(bob.files().downloads().len(), 1);
    assert_eq!(status(&bob, hash).done, kept);
    shutdown([&bob]).await;
    drop(bob);

    let bob = start(&folder).await;
    assert_eq!(status(&bob, hash).done, kept);
    let ann = node("ann").await;
    ann.share(&film).await.unwrap();
    link(&bob, &ann).await;
    wait_until("the download to be done", || status(&bob, hash).state == DownloadState::Done).await;
    assert!(std::fs::read(folder.path().join("to/film.bin")).unwrap() == content);
    shutdown([&bob, &ann]).await;
}

#[tokio::test]
async fn several_downloads_of_one_content_are_kept_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let film = folder.path().join("from/film.bin");
    write(&film, 6, 2);
    let ann = node("ann").await;
    let hash = ann.share(&film).await.unwrap().shared.hash;
    ann.set_rates(RateLimits { upload: 1, ..RateLimits::default() });
    let bob = start(&folder).await;
    link(&bob, &ann).await;
    for to in ["one", "two", "one"] {
        let get = FetchRequest::new(hash).into_folder(folder.path().join(to));
        bob.fetch(get);
    }
    wait_until("the first download to begin", || bob.files().downloads()[0].total.is_some()).await;
    shutdown([&bob]).await;
    drop(bob);

    let paused = |node: &Node| {
        node.files()
            .downloads()
            .iter()
            .map(|d| d.state == DownloadState::Paused)
            .collect::<Vec<_>>()
    };
    let bob = start(&folder).await;
    // The stop of the node has not paused any download.
    assert_eq!(paused(&bob), [false; 3]);
    let third = bob.files().download(hash).unwrap().pause().await.unwrap();
    assert_eq!(third.path.as_deref(), Some(&*folder.path().join("one")));
    shutdown([&bob]).await;
    drop(bob);
    let bob = start(&folder).await;
    assert_eq!(paused(&bob), [false, false, true]);
    shutdown([&bob, &ann]).await;
}

/// Resuming a waiting download starts it immediately. It waits neither for the next retry nor for a link.
#[tokio::test]
async fn a_waiting_download_that_is_resumed_does_not_wait_for_the_next_retry() {
    let folder = tempfile::tempdir().unwrap();
    let film = folder.path().join("from/film.bin");
    let content = write(&film, 9, 2);
    let ann = node("ann").await;
    let address = address_of(&ann);
    let hash = ann.share(&film).await.unwrap().shared.hash;
    ann.set_rates(RateLimits { upload: 1, ..RateLimits::default() });
    let bob = start(&folder).await;
    let request = FetchRequest::new(hash).into_folder(folder.path().join("to"));
    let _ = bob.fetch(request.from(address.into()).ask_network(false));
    wait_until("the download to begin", || status(&bob, hash).total.is_some()).await;
    shutdown([&bob, &ann]).await;
    drop((bob, ann));

    let bob = start(&folder).await;
    wait_until("the download to wait", || status(&bob, hash).state == DownloadState::Waiting).await;
    let waiting_since = std::time::Instant::now();
    let ann = Node::builder().name("ann").listen(address).spawn().await.unwrap();
    ann.share(&film).await.unwrap();
    bob.files().download(hash).unwrap().resume().await.unwrap();
    wait_until("the download to be done", || status(&bob, hash).state == DownloadState::Done).await;
    assert!(
        waiting_since.elapsed() < std::time::Duration::from_secs(60),
        "the download has waited for its next retry, which is after a minute"
    );
    assert!(std::fs::read(folder.path().join("to/film.bin")).unwrap() == content);
    shutdown([&bob, &ann]).await;
}

/// Each of several restored downloads gets its turn, and enough time to find the source.
#[tokio::test]
async fn restored_downloads_of_one_content_all_complete() {
    let folder = tempfile::tempdir().unwrap();
    let film = folder.path().join("from/film.bin");
    let content = write(&film, 7, 2);
    let ann = node("ann").await;
    let hash = ann.share(&film).await.unwrap().shared.hash;
    ann.set_rates(RateLimits { upload: 1, ..RateLimits::default() });
    let bob = start(&folder).await;
    link(&bob, &ann).await;
    let names = ["one", "two", "three"];
    for to in names {
        let get = FetchRequest::new(hash).into_folder(folder.path().join(to));
        bob.fetch(get);
    }
    wait_until("the first download to begin", || bob.files().downloads()[0].total.is_some()).await;
    shutdown([&bob]).await;
    drop(bob);

    let bob = start(&folder).await;
    wait_until("all downloads to wait", || {
        let downloads = bob.files().downloads();
        downloads.len() == 3 && downloads.iter().all(|one| one.state == DownloadState::Waiting)
    })
    .await;
    ann.set_rates(RateLimits::default());
    link(&bob, &ann).await;
    wait_until("all downloads to be done", || {
        bob.files().downloads().iter().all(|one| one.state == DownloadState::Done)
    })
    .await;
    for name in names {
        assert!(std::fs::read(folder.path().join(name).join("film.bin")).unwrap() == content);
    }
    shutdown([&bob, &ann]).await;
}

/// A fetch waits for a source that is being dialled, even if it otherwise gives up sooner.
#[tokio::test]
async fn a_fetch_waits_for_a_source_that_answers_late() {
    let folder = tempfile::tempdir().unwrap();
    let film = folder.path().join("from/film.bin");
    let content = write(&film, 8, 1);
    let ann = node("ann").await;
    let hash = ann.share(&film).await.unwrap().shared.hash;
    let proxy = Proxy::with_delay(address_of(&ann), std::time::Duration::from_secs(3)).await;
    ann.set_rates(RateLimits { upload: 1, ..RateLimits::default() });
    let bob = start(&folder).await;
    let get =
        FetchRequest::new(hash).into_folder(folder.path().join("to")).from(proxy.address.into());
    bob.fetch(get);
    wait_until("the download to begin", || status(&bob, hash).total.is_some()).await;
    shutdown([&bob]).await;
    drop(bob);
    ann.set_rates(RateLimits::default());
    let bob = start(&folder).await;
    wait_until("the download to be done", || status(&bob, hash).state == DownloadState::Done).await;
    assert!(std::fs::read(folder.path().join("to/film.bin")).unwrap() == content);
    shutdown([&bob, &ann]).await;
}
