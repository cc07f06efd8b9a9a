//! Files that were changed or removed at their source after they were shared.

use std::path::PathBuf;

use crate::common::*;
use peerkit::{
    Builder, Config, Error, Event, Events, FetchError, FetchRequest, Fetched, Hash, Node,
    RateLimits,
};
use peerkit_proto::files::{FileRefusal, PIECE};
use tempfile::TempDir;

/// Returns a builder for a node that waits for a source for longer than a test may take.
fn patient(name: &str) -> Builder {
    builder(name).config(Config::default())
}

/// Ann, which shares files, and Bob, which fetches them.
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

    /// Writes a file of `pieces` pieces and nine bytes.
    fn write(&self, path: &str, seed: u64, pieces: u64) -> PathBuf {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let content = SeededRandom(seed).bytes(usize::try_from(pieces * PIECE).unwrap() + 9);
        std::fs::write(&path, content).unwrap();
        path
    }

    async fn fetch(&self, hash: Hash, into: &str) -> Result<Fetched, Error> {
        let get = FetchRequest::new(hash).into_folder(self.folder.path().join(into));
        let get = get.from(address_of(&self.ann).into());
        within("the end of a fetch", self.bob.fetch(get)).await
    }

    /// Returns the hash and the name in the next event about a changed share.
    async fn reported_change(&mut self) -> (Hash, String) {
        match expect_event(&mut self.events, "node_share_changed").await {
            Event::NodeShareChanged { hash, name } => (hash, name),
            other => panic!("{other:?}"),
        }
    }

    /// Stops the nodes. Checks that no other change was reported.
    async fn end(mut self) {
        shutdown([&self.ann, &self.bob]).await;
        while let Some(event) = self.events.next().await {
            assert_ne!(
                event.name(),
                "node_share_changed",
                "a change was reported twice: {event:?}"
            );
        }
    }
}

/// Returns the file name in the error of a fetch.
fn changed_name(result: Result<Fetched, Error>) -> String {
    match result {
        Err(Error::Fetch(FetchError::Changed { name })) => name,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_fetch_fails_when_the_file_changes() {
    let mut case = Case::new().await;
    let film = case.write("from/film.bin", 1, 16);
    let hash = case.ann.share(&film).await.unwrap().shared.hash;
    case.ann.set_rates(RateLimits { upload: 8 << 20, ..RateLimits::default() });
    let change = async {
        wait_until("some pieces", || {
            case.bob.files().downloads().first().is_some_and(|d| d.done > PIECE)
        })
        .await;
        case.write("from/film.bin", 2, 16);
        case.ann.set_rates(RateLimits::default());
    };
    let (failed, ()) = tokio::join!(case.fetch(hash, "to"), change);
    assert_eq!(changed_name(failed), "film.bin");
    assert_eq!(case.reported_change().await, (hash, "film.bin".to_owned()));
    // Received pieces are kept. A second fetch gets no piece, and leaves no file.
    assert_eq!(std::fs::read_dir(case.folder.path().join("to")).unwrap().count(), 1);
    assert_eq!(changed_name(case.fetch(hash, "new/folder").await), "film.bin");
    assert!(!case.folder.path().join("new").exists());
    // A refresh shares the file under a new hash. Ann still remembers that the old hash has changed.
    case.ann.files().refresh(|_| {}).await.unwrap();
    let old = case.fetch(hash, "again").await;
    assert!(matches!(&old, Err(Error::Fetch(error)) if error.is_changed()), "{old:?}");
    let new_hash = case.ann.files().shares().remove(0).hash;
    assert_ne!(new_hash, hash);
    case.fetch(new_hash, "again").await.unwrap();
    case.end().await;
}

#[tokio::test]
async fn fetches_of_changed_and_removed_files_fail_with_their_names() {
    let mut case = Case::new().await;
    case.write("from/album/a.txt", 1, 0);
    let song = case.write("from/album/in/song.bin", 2, 3);
    let song_hash = Hash::of(&std::fs::read(&song).unwrap());
    let album = case.ann.share(case.folder.path().join("from/album")).await.unwrap().shared.hash;
    let small = case.write("from/small.txt", 3, 0);
    let hash = case.ann.share(&small).await.unwrap().shared.hash;
    std::fs::write(song, "another").unwrap();
    std::fs::remove_file(small).unwrap();
    assert_eq!(changed_name(case.fetch(album, "to").await), "album/in/song.bin");
    // The fetch requests the piece list of the song by the song's hash, so that hash is reported.
    assert_eq!(case.reported_change().await, (song_hash, "album/in/song.bin".to_owned()));
    assert_eq!(changed_name(case.fetch(hash, "to").await), "small.txt");
    assert_eq!(case.reported_change().await, (hash, "small.txt".to_owned()));
    case.end().await;
}

/// A changed file is reported once, whether it is fetched alone or in a folder.
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
        assert_eq!(changed_name(case.fetch(album, "to").await), reported.1);
        assert_eq!(case.reported_change().await, reported, "{size}");
        // Neither the file nor the folder is reported again.
        case.fetch(hash, "to").await.unwrap_err();
        case.ann.files().refresh(|_| {}).await.unwrap();
        case.fetch(hash, "to").await.unwrap_err();
        case.fetch(album, "to").await.unwrap_err();
        case.end().await;
    }
}

#[tokio::test]
async fn a_change_in_a_folder_is_also_reported_after_a_refresh() {
    let mut case = Case::new().await;
    case.write("from/album/a.txt", 1, 0);
    let song = case.write("from/album/in/song.bin", 2, 3);
    // The song is shared as a file and as part of a folder.
    let hash = case.ann.share(&song).await.unwrap().shared.hash;
    let path = case.folder.path().join("from/album");
    let album = case.ann.share(&path).await.unwrap().shared.hash;
    std::fs::remove_file(&song).unwrap();
    case.ann.files().refresh(|_| {}).await.unwrap();
    case.fetch(album, "to").await.unwrap_err();
    assert_eq!(case.reported_change().await, (hash, "album/in/song.bin".to_owned()));
    case.fetch(hash, "to").await.unwrap_err();
    // If a file was added, the folder is reported as changed.
    let smaller = case.ann.files().shares().remove(0).hash;
    case.write("from/album/more.txt", 3, 0);
    case.ann.files().refresh(|_| {}).await.unwrap();
    case.fetch(smaller, "to").await.unwrap_err();
    assert_eq!(case.reported_change().await, (smaller, "album".to_owned()));
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

/// A node without access can't distinguish a changed file from a file that never existed.
#[tokio::test]
async fn a_node_without_access_gets_not_found_for_a_changed_file() {
    let case = Case::new().await;
    let film = case.write("from/film.bin", 1, 2);
    let sharing = case.ann.share(&film).to_nodes([case.bob.id()]);
    let hash = sharing.await.unwrap().shared.hash;
    case.write("from/film.bin", 2, 2);
    case.ann.files().refresh(|_| {}).await.unwrap();
    let with_access = case.fetch(hash, "to").await;
    assert!(
        matches!(&with_access, Err(Error::Fetch(error)) if error.is_changed()),
        "{with_access:?}"
    );
    let cid = node("cid").await;
    let get = FetchRequest::new(hash)
        .into_folder(case.folder.path().join("to"))
        .from(address_of(&case.ann).into());
    let without_access = within("a fetch", cid.fetch(get)).await;
    let not_found = FetchError::Refused(FileRefusal::NotFound).to_string();
    assert_eq!(without_access.unwrap_err().to_string(), not_found);
    shutdown([&cid, &case.ann, &case.bob]).await;
}
