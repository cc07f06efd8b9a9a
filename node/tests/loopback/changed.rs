//! Files that are changed or removed at their source after they were shared.

use std::path::PathBuf;

use crate::common::*;
use peerkit::{
    Builder, Config, Error, Event, Events, FetchError, FetchRequest, Fetched, Hash, Node,
    RateLimits,
};
use peerkit_proto::files::{FileRefusal, PIECE};
use tempfile::TempDir;

/// Returns a builder of a node that waits for a source for longer than a test may take.
fn patient(name: &str) -> Builder {
    builder(name).config(Config::default())
}

struct Case {
    folder: TempDir,
    ann: Node,
    events: Events,
    bob: Node,
}

impl Case {
    async fn new() -> Self {
        let (ann, bob) = (node("ann").await, patient("bob").spawn().await.unwrap());
        link(&bob, &ann).await;
        let events = ann.events();
        Self { folder: tempfile::tempdir().unwrap(), ann, events, bob }
    }

    fn write(&self, path: &str, seed: u64, pieces: u64) -> PathBuf {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let content = Chance(seed).bytes(usize::try_from(pieces * PIECE).unwrap() + 9);
        std::fs::write(&path, content).unwrap();
        path
    }

    async fn fetch(&self, hash: Hash, into: &str) -> Result<Fetched, Error> {
        let get = FetchRequest::new(hash).into_folder(self.folder.path().join(into));
        let get = get.from(at(&self.ann).into());
        within("the end of a fetch", self.bob.fetch(get)).await
    }

    /// Returns the hash and name in the next event about a changed share.
    async fn reported(&mut self) -> (Hash, String) {
        match expect(&mut self.events, "node_share_changed").await {
            Event::NodeShareChanged { hash, name } => (hash, name),
            other => panic!("{other:?}"),
        }
    }

    async fn end(mut self) {
        shutdown([&self.ann, &self.bob]).await;
        while let Some(event) = self.events.next().await {
            assert_ne!(event.name(), "node_share_changed", "it was reported already: {event:?}");
        }
    }
}

/// Returns the name in the error of a fetch of a changed file.
fn named(result: Result<Fetched, Error>) -> String {
    match result {
        Err(Error::Fetch(FetchError::Changed { name })) => name,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_file_that_changes_during_a_fetch_ends_the_fetch_at_once() {
    let mut case = Case::new().await;
    let film = case.write("from/film.bin", 1, 16);
    let hash = case.ann.share(&film).await.unwrap().shared.hash;
    case.ann.set_rates(RateLimits { upload: 8 << 20, ..RateLimits::default() });
    let change = async {
        until("some of it", || {
            case.bob.files().downloads().first().is_some_and(|d| d.done > PIECE)
        })
        .await;
        case.write("from/film.bin", 2, 16);
        case.ann.set_rates(RateLimits::default());
    };
    let (failed, ()) = tokio::join!(case.fetch(hash, "to"), change);
    assert_eq!(named(failed), "film.bin");
    assert_eq!(case.reported().await, (hash, "film.bin".to_owned()));
    // Received pieces are kept. A second fetch gets nothing, and leaves nothing behind.
    assert_eq!(std::fs::read_dir(case.folder.path().join("to")).unwrap().count(), 1);
    assert_eq!(named(case.fetch(hash, "new/folder").await), "film.bin");
    assert!(!case.folder.path().join("new").exists());
    // A refresh shares the file under a new hash. The old one is still known as changed.
    case.ann.files().refresh(|_| {}).await.unwrap();
    let again = case.fetch(hash, "again").await;
    assert!(matches!(&again, Err(Error::Fetch(error)) if error.is_changed()), "{again:?}");
    let now = case.ann.files().shares().remove(0).hash;
    assert_ne!(now, hash);
    case.fetch(now, "again").await.unwrap();
    case.end().await;
}

#[tokio::test]
async fn changed_and_removed_files_are_named() {
    let mut case = Case::new().await;
    case.write("from/album/a.txt", 1, 0);
    let song = case.write("from/album/in/song.bin", 2, 3);
    let song_hash = Hash::of(&std::fs::read(&song).unwrap());
    let album = case.ann.share(case.folder.path().join("from/album")).await.unwrap().shared.hash;
    let small = case.write("from/small.txt", 3, 0);
    let hash = case.ann.share(&small).await.unwrap().shared.hash;
    std::fs::write(song, "another").unwrap();
    std::fs::remove_file(small).unwrap();
    assert_eq!(named(case.fetch(album, "to").await), "album/in/song.bin");
    // The fetch requests the song's piece list by the hash of the song, so that is reported.
    assert_eq!(case.reported().await, (song_hash, "album/in/song.bin".to_owned()));
    assert_eq!(named(case.fetch(hash, "to").await), "small.txt");
    assert_eq!(case.reported().await, (hash, "small.txt".to_owned()));
    case.end().await;
}

/// A changed file is reported once, whether it is fetched alone or in a folder, and before or after
/// the change was noticed.
#[tokio::test]
async fn a_changed_file_is_reported_once_by_its_own_hash() {
    for size in [0, 3] {
        let mut case = Case::new().await;
        case.write("from/album/a.txt", 1, 0);
        let song = case.write("from/album/in/song.bin", 2, size);
        let hash = Hash::of(&std::fs::read(&song).unwrap());
        let path = case.folder.path().join("from/album");
        let album = case.ann.share(path).await.unwrap().shared.hash;
        std::fs::write(&song, "another").unwrap();
        let reported = (hash, "album/in/song.bin".to_owned());
        assert_eq!(named(case.fetch(album, "to").await), reported.1);
        assert_eq!(case.reported().await, reported, "{size}");
        // Neither the file by itself nor the folder is reported again.
        case.fetch(hash, "to").await.unwrap_err();
        case.ann.files().refresh(|_| {}).await.unwrap();
        case.fetch(hash, "to").await.unwrap_err();
        case.fetch(album, "to").await.unwrap_err();
        case.end().await;
    }
}

#[tokio::test]
async fn a_change_in_a_folder_is_reported_also_after_a_refresh() {
    let mut case = Case::new().await;
    case.write("from/album/a.txt", 1, 0);
    let song = case.write("from/album/in/song.bin", 2, 3);
    // The song is shared by itself and in a folder.
    let hash = case.ann.share(&song).await.unwrap().shared.hash;
    let path = case.folder.path().join("from/album");
    let album = case.ann.share(&path).await.unwrap().shared.hash;
    std::fs::remove_file(&song).unwrap();
    case.ann.files().refresh(|_| {}).await.unwrap();
    case.fetch(album, "to").await.unwrap_err();
    assert_eq!(case.reported().await, (hash, "album/in/song.bin".to_owned()));
    case.fetch(hash, "to").await.unwrap_err();
    // If a file was only added, it is the folder that has changed.
    let smaller = case.ann.files().shares().remove(0).hash;
    case.write("from/album/more.txt", 3, 0);
    case.ann.files().refresh(|_| {}).await.unwrap();
    case.fetch(smaller, "to").await.unwrap_err();
    assert_eq!(case.reported().await, (smaller, "album".to_owned()));
    case.end().await;
}

#[tokio::test]
async fn an_unchanged_copy_at_another_source_is_fetched() {
    let case = Case::new().await;
    let film = case.write("from/film.bin", 1, 4);
    let copy = case.write("copy/film.bin", 1, 4);
    let cid = node("cid").await;
    link(&case.bob, &cid).await;
    let hash = case.ann.share(&film).await.unwrap().shared.hash;
    cid.share(&copy).await.unwrap();
    case.write("from/film.bin", 2, 4);
    let fetched = case.fetch(hash, "to").await.unwrap();
    assert_eq!(fetched.sources, [cid.id()]);
    shutdown([&cid, &case.ann, &case.bob]).await;
}

/// Nodes without access can't distinguish a changed file from one that never existed.
#[tokio::test]
async fn a_node_without_access_does_not_learn_that_it_was_changed() {
    let case = Case::new().await;
    let film = case.write("from/film.bin", 1, 2);
    let sharing = case.ann.share(&film).to_nodes([case.bob.id()]);
    let hash = sharing.await.unwrap().shared.hash;
    case.write("from/film.bin", 2, 2);
    case.ann.files().refresh(|_| {}).await.unwrap();
    let known = case.fetch(hash, "to").await;
    assert!(matches!(&known, Err(Error::Fetch(error)) if error.is_changed()), "{known:?}");
    let cid = node("cid").await;
    let get = FetchRequest::new(hash)
        .into_folder(case.folder.path().join("to"))
        .from(at(&case.ann).into());
    let stranger = within("a fetch", cid.fetch(get)).await;
    let not_found = FetchError::Refused(FileRefusal::NotFound).to_string();
    assert_eq!(stranger.unwrap_err().to_string(), not_found);
    shutdown([&cid, &case.ann, &case.bob]).await;
}
