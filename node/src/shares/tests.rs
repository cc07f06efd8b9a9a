mod access;
mod races;

use super::*;
use std::fs;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use super::sharing::Audience;
use crate::lock::read;
use peerkit_proto::files::{
    AccessKind, FileKind, Manifest, ManifestEntry, NameFault, PIECE, Secret,
};
use peerkit_proto::id::NodeId;
use tempfile::TempDir;

const P: usize = PIECE as usize;

fn shares() -> Shares {
    Shares::new(Store::open(None).unwrap())
}

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn with_ticket() -> ShareOptions {
    ShareOptions { audience: Audience::TicketHolders, ..ShareOptions::default() }
}

fn for_nodes(nodes: Vec<NodeId>) -> ShareOptions {
    ShareOptions { audience: Audience::Nodes(nodes), ..ShareOptions::default() }
}

fn temporary() -> ShareOptions {
    ShareOptions { is_temporary: true, ..ShareOptions::default() }
}

/// A node without any rights.
fn anyone() -> Asker<'static> {
    asker(0)
}

fn asker(n: u8) -> Asker<'static> {
    Asker { id: node(n), binding: &[7; 32], proof: None }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Writes a file that looks as if it had not been touched for an hour.
fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    set_age(path, Duration::from_secs(3600));
}

fn set_age(path: &Path, age: Duration) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

async fn add(shares: &Shares, path: &Path) -> Added {
    shares.add(path, |_| ()).await.unwrap()
}

/// Adds `path`, and returns how many bytes were hashed for it.
async fn hashed_bytes(shares: &Shares, path: &Path) -> u64 {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&steps);
    let added = shares.add(path, move |p| seen.lock().unwrap().push(p)).await;
    let steps = steps.lock().unwrap();
    let last = steps.last().unwrap();
    assert_eq!(last.done, last.total, "the progress ends at its total");
    assert_eq!(last.total, added.unwrap().shared.size);
    last.done - steps[0].done
}

fn content(share: &OpenShare) -> Result<Vec<u8>, FileRefusal> {
    let mut all = Vec::new();
    let mut buffer = Vec::new();
    for index in 0..share.list().count() {
        share.read_piece(index, &mut buffer)?;
        all.extend_from_slice(&buffer);
    }
    Ok(all)
}

fn names(found: &[SharedFile]) -> Vec<&str> {
    found.iter().map(|file| file.name.as_str()).collect()
}

#[tokio::test]
async fn a_file_of_any_size_is_shared_under_its_hash() {
    let (dir, shares) = (folder(), shares());
    for len in [0, 1, P - 1, P, P + 1, 3 * P, 17 * P + 5] {
        let bytes: Vec<u8> = (0..len).map(|i| (i / 7) as u8).collect();
        let path = dir.path().join(format!("{len}.bin"));
        write(&path, &bytes);
        assert_eq!(hashed_bytes(&shares, &path).await, len as u64);
        let hash = Hash::of(&bytes);
        let share = shares.open(&hash, &anyone()).unwrap();
        assert_eq!(content(&share).unwrap(), bytes);
        assert_eq!(share.list().root(), hash);
        let described = shares.describe(&hash, &anyone()).unwrap();
        assert_eq!(described.size, len as u64);
        assert_eq!(described.name.as_str(), format!("{len}.bin"));
        assert_eq!(
            share.read_piece(share.list().count(), &mut Vec::new()),
            Err(FileRefusal::BadRequest)
        );
        assert_eq!(share.values(share.list().count(), 1), Err(FileRefusal::BadRequest));
    }
    assert_eq!(shares.list().len(), 7);
    assert_eq!(shares.open(&Hash::of(b"?"), &anyone()).unwrap_err(), FileRefusal::NotFound);
}

#[cfg(unix)]
#[tokio::test]
async fn names_that_only_windows_refuses_are_shared() {
    let (dir, shares) = (folder(), shares());
    let top = dir.path().join("CON");
    let names = ["a:b", "aux.txt", "back\\slash", "dot.", "nul", "what?"];
    for name in names {
        write(&top.join(name), name.as_bytes());
    }
    let added = add(&shares, &top).await;
    assert_eq!((added.files, added.skipped), (names.len(), Vec::new()));
    let part = shares.files_in(&fs::canonicalize(&top).unwrap(), 0, 9).unwrap();
    let paths: Vec<_> = part.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, names);
    for file in part.files {
        let bytes = content(&shares.open(&file.file.hash, &anyone()).unwrap()).unwrap();
        assert_eq!(bytes, file.path.as_str().as_bytes());
    }
    let one = add(&shares, &top.join("nul")).await;
    assert_eq!(one.shared.name.as_str(), "nul");
}

#[tokio::test]
async fn equal_content_keeps_each_of_its_names() {
    let (dir, shares) = (folder(), shares());
    for name in ["a.txt", "b.txt", "top/c.txt"] {
        write(&dir.path().join(name), b"the same");
    }
    let a = add(&shares, &dir.path().join("a.txt")).await.shared;
    let options = with_ticket();
    let b = shares.add_with(dir.path().join("b.txt"), options, |_| {}).await.unwrap();
    add(&shares, &dir.path().join("top")).await;
    let named = |name: &str| shares.named(&a.hash, Some(&FileName::new(name).unwrap()));
    for name in ["a.txt", "c.txt"] {
        assert_eq!(named(name), Some((FileName::new(name).unwrap(), Access::Open)));
    }
    assert_eq!(named("b.txt"), Some((b.shared.name.clone(), b.access)), "with its own secret");
    assert_eq!(named("d.txt"), None);
    assert_eq!(shares.named(&a.hash, None), Some((a.name, Access::Open)));
    let found = shares.search_own("txt", 9);
    let found: Vec<_> = found.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(found, ["a.txt", "b.txt", "c.txt"]);
    assert_eq!(shares.search("txt", 9, None).len(), 2, "other nodes find only open shares");

    let path = fs::canonicalize(dir.path()).unwrap().join("b.txt");
    assert_eq!(shares.remove_path(&path).await.unwrap(), Some(b.shared));
    assert_eq!(shares.remove_path(&path).await.unwrap(), None);
    let left = shares.list();
    assert_eq!(left.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), ["a.txt", "top"]);
}

#[tokio::test]
async fn the_files_of_a_shared_folder_are_listed_in_parts() {
    let (dir, shares) = (folder(), shares());
    for n in 0..7 {
        write(&dir.path().join(format!("top/in/{n}")), n.to_string().as_bytes());
    }
    write(&dir.path().join("file"), b"file");
    add(&shares, &dir.path().join("top")).await;
    add(&shares, &dir.path().join("file")).await;
    let real = fs::canonicalize(dir.path()).unwrap();
    let part = |skip, limit| {
        let part = shares.files_in(&real.join("top"), skip, limit).unwrap();
        assert_eq!(part.total, 7);
        part.files.iter().map(|file| file.path.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(part(0, 2), ["in/0", "in/1"]);
    assert_eq!(part(5, 9), ["in/5", "in/6"]);
    assert!(part(7, 9).is_empty() && part(usize::MAX, 9).is_empty());
    let whole = shares.files_in(&real.join("top"), 3, 1).unwrap();
    assert_eq!(whole.files[0].file.hash, Hash::of(b"3"));
    assert_eq!(shares.files_in(&real.join("file"), 0, 9), None);
    assert_eq!(shares.files_in(&real.join("other"), 0, 9), None);
}

#[tokio::test]
async fn a_folder_is_a_manifest_and_its_files() {
    let (dir, shares) = (folder(), shares());
    let top = dir.path().join("Share");
    write(&top.join("a.txt"), b"a");
    write(&top.join(".hidden/b.txt"), b"bb");
    write(&top.join("sub/deep/c.txt"), b"ccc");
    write(&top.join("same.txt"), b"a");
    #[cfg(unix)]
    write(&top.join("bad\nname"), b"x");
    write(&top.join(".song.mp3.0123abcd.part"), b"x");
    fs::create_dir(top.join("empty")).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/etc/passwd", top.join("link")).unwrap();
        std::os::unix::fs::symlink(&top, top.join("loop")).unwrap();
    }
    let added = add(&shares, &top).await;
    assert_eq!(added.shared.kind, FileKind::Folder);
    assert_eq!((added.shared.size, added.files), (7, 4));
    let mut skipped: Vec<_> = added
        .skipped
        .iter()
        .map(|skip| (skip.path.file_name().unwrap().to_str().unwrap(), &skip.why))
        .collect();
    skipped.sort_by_key(|(name, _)| *name);
    assert_eq!(
        skipped,
        [
            (".song.mp3.0123abcd.part", &SkipReason::Unfinished),
            ("bad\nname", &SkipReason::Name(NameFault::ControlCharacter)),
            ("link", &SkipReason::Symlink),
            ("loop", &SkipReason::Symlink),
        ]
    );
    let bytes = content(&shares.open(&added.shared.hash, &anyone()).unwrap()).unwrap();
    assert_eq!(Hash::of(&bytes), added.shared.hash);
    let manifest = Manifest::decode(bytes.into()).unwrap();
    let paths: Vec<_> = manifest.entries().iter().map(|entry| entry.path().as_str()).collect();
    let expected = [
        ".hidden",
        ".hidden/b.txt",
        "a.txt",
        "empty",
        "same.txt",
        "sub",
        "sub/deep",
        "sub/deep/c.txt",
    ];
    assert_eq!(paths, expected);
    for entry in manifest.entries() {
        if let ManifestEntry::File { hash, size, .. } = entry {
            assert_eq!(
                content(&shares.open(hash, &anyone()).unwrap()).unwrap().len() as u64,
                *size
            );
        }
    }
    // An equal folder at another path has the same hash.
    let copy = dir.path().join("elsewhere/Share");
    for path in ["a.txt", ".hidden/b.txt", "sub/deep/c.txt", "same.txt"] {
        write(&copy.join(path), &fs::read(top.join(path)).unwrap());
    }
    fs::create_dir(copy.join("empty")).unwrap();
    assert_eq!(add(&shares, &copy).await.shared.hash, added.shared.hash);
}

#[tokio::test]
async fn a_search_needs_every_word_and_lists_shares_first() {
    let (dir, shares) = (folder(), shares());
    write(&dir.path().join("Music/Live 1999/Blue Song.mp3"), b"1");
    write(&dir.path().join("Music/Live 1999/Red Song.mp3"), b"2");
    write(&dir.path().join("Music/copy of Red Song.mp3"), b"2");
    write(&dir.path().join("a song.txt"), b"3");
    add(&shares, &dir.path().join("Music")).await;
    add(&shares, &dir.path().join("a song.txt")).await;
    assert_eq!(
        names(&shares.search("SONG", 10, None)),
        ["a song.txt", "Blue Song.mp3", "Red Song.mp3", "copy of Red Song.mp3"]
    );
    assert_eq!(names(&shares.search("song 1999", 10, None)), ["Blue Song.mp3", "Red Song.mp3"]);
    assert_eq!(names(&shares.search("mus", 10, None)), ["Music"]);
    assert_eq!(names(&shares.search("song", 2, None)), ["a song.txt", "Blue Song.mp3"]);
    assert!(shares.search("song green", 10, None).is_empty());
    assert_eq!(names(&shares.search("*.TXT", 10, None)), ["a song.txt"]);
    assert_eq!(names(&shares.search("red*.mp3", 10, None)), ["Red Song.mp3"]);
    assert_eq!(names(&shares.search("live*/[a-c]*", 10, None)), ["Blue Song.mp3"]);
    assert_eq!(names(&shares.search("[ab]?song*", 10, None)), ["a song.txt"]);
    assert_eq!(names(&shares.search("M????", 10, None)), ["Music"]);
    assert_eq!(shares.search("", 10, None).len(), 5);
    assert!(shares.search("song", 0, None).is_empty());
}

#[tokio::test]
async fn a_changed_file_is_not_served_under_its_old_hash() {
    let (dir, shares) = (folder(), shares());
    let path = dir.path().join("a");
    write(&path, b"before");
    let hash = add(&shares, &path).await.shared.hash;
    let open = shares.open(&hash, &anyone()).unwrap();
    assert_eq!(content(&open).unwrap(), b"before");
    write(&path, b"after, longer");
    assert_eq!(content(&open), Err(FileRefusal::Changed));
    assert_eq!(shares.open(&hash, &anyone()).unwrap_err(), FileRefusal::Changed);

    let report = shares.refresh(|_| ()).await.unwrap();
    assert_eq!(report.changed.len(), 1);
    let (old, new) = &report.changed[0];
    assert_eq!((old.hash, new.hash), (hash, Hash::of(b"after, longer")));
    assert_eq!(shares.open(&hash, &anyone()).unwrap_err(), FileRefusal::NotFound);
    assert_eq!(content(&shares.open(&new.hash, &anyone()).unwrap()).unwrap(), b"after, longer");
    assert_eq!(shares.refresh(|_| ()).await.unwrap(), Refreshed::default());

    fs::remove_file(&path).unwrap();
    assert_eq!(shares.open(&new.hash, &anyone()).unwrap_err(), FileRefusal::Changed);
    let report = shares.refresh(|_| ()).await.unwrap();
    assert_eq!(report.removed.len(), 1);
    assert!(shares.list().is_empty());
}

#[cfg(unix)]
#[tokio::test]
async fn a_changed_file_is_not_served_even_if_its_times_are_put_back() {
    let (dir, shares) = (folder(), shares());
    let path = dir.path().join("a");
    write(&path, b"before");
    let times = fs::metadata(&path).unwrap().modified().unwrap();
    let hash = add(&shares, &path).await.shared.hash;
    let open = shares.open(&hash, &anyone()).unwrap();
    // The size, the inode and the time of modification stay the same.
    fs::write(&path, b"beFore").unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_modified(times).unwrap();
    assert_eq!(content(&open), Err(FileRefusal::Changed));
    assert_eq!(shares.refresh(|_| ()).await.unwrap().changed.len(), 1);
    // A change of the file's mode alone is no change of its content.
    let hash_now = shares.list()[0].hash;
    assert_ne!(hash, hash_now);
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(content(&shares.open(&hash_now, &anyone()).unwrap()).unwrap(), b"beFore");
}

#[tokio::test]
async fn a_file_that_was_just_written_is_verified_when_it_is_read() {
    let (dir, shares) = (folder(), shares());
    let path = dir.path().join("a");
    fs::write(&path, b"before").unwrap();
    let hash = add(&shares, &path).await.shared.hash;
    let index = read(&shares.index);
    assert!(index.shares().next().unwrap().items[0].fingerprint.fresh);
    drop(index);
    assert_eq!(content(&shares.open(&hash, &anyone()).unwrap()).unwrap(), b"before");
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_in_place_of_a_file_is_not_served() {
    let (dir, shares) = (folder(), shares());
    let path = dir.path().join("a");
    write(&path, b"before");
    let hash = add(&shares, &path).await.shared.hash;
    let real = dir.path().join("real");
    fs::rename(&path, &real).unwrap();
    std::os::unix::fs::symlink(&real, &path).unwrap();
    assert_eq!(shares.open(&hash, &anyone()).unwrap_err(), FileRefusal::Changed);
}

#[tokio::test]
async fn content_at_two_paths_is_served_from_the_one_that_is_left() {
    let (dir, shares) = (folder(), shares());
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    write(&one, b"same");
    write(&two, b"same");
    let hash = add(&shares, &one).await.shared.hash;
    add(&shares, &two).await;
    fs::remove_file(&one).unwrap();
    assert_eq!(content(&shares.open(&hash, &anyone()).unwrap()).unwrap(), b"same");
    assert_eq!(shares.remove(&hash).await.unwrap().len(), 2);
    assert!(!shares.contains(&hash, &anyone()));
    assert!(shares.remove(&hash).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_share_that_is_scanned_again_still_gives_equal_content_its_name() {
    let (dir, shares) = (folder(), shares());
    let (first, second) = (dir.path().join("zoe"), dir.path().join("ann"));
    write(&first, b"same");
    write(&second, b"same");
    let hash = add(&shares, &first).await.shared.hash;
    add(&shares, &second).await;
    let name = || shares.describe(&hash, &anyone()).unwrap().name.to_string();
    assert_eq!(name(), "zoe");
    add(&shares, &first).await;
    assert_eq!(name(), "zoe");
    // All shares are scanned again, in the order of their paths.
    shares.refresh(|_| ()).await.unwrap();
    assert_eq!(name(), "zoe");
}

#[tokio::test]
async fn after_a_restart_everything_is_shared_again_without_being_hashed_again() {
    let (dir, state) = (folder(), folder());
    let (tree, file) = (dir.path().join("tree"), dir.path().join("file"));
    write(&tree.join("large"), &vec![5; 2 * P + 1]);
    write(&tree.join("small"), b"s");
    write(&file, b"f");
    let listed = {
        let shares = Shares::new(Store::open(Some(state.path())).unwrap());
        assert_eq!(hashed_bytes(&shares, &tree).await, 2 * PIECE + 2);
        add(&shares, &file).await;
        shares.list()
    };
    let shares = Shares::new(Store::open(Some(state.path())).unwrap());
    assert!(shares.list().is_empty());
    assert_eq!(shares.restore(|_| ()).await.unwrap(), Refreshed::default());
    assert_eq!(shares.list(), listed);
    assert_eq!(hashed_bytes(&shares, &tree).await, 0);
    let large = Hash::of(&vec![5; 2 * P + 1]);
    assert_eq!(content(&shares.open(&large, &anyone()).unwrap()).unwrap().len(), 2 * P + 1);

    // A missing path is tried again at the next start; a removed share is not.
    fs::rename(&file, dir.path().join("away")).unwrap();
    let tree_hash = shares.list().iter().find(|s| s.kind == FileKind::Folder).unwrap().hash;
    shares.remove(&tree_hash).await.unwrap();
    assert_eq!(shares.store.piece_list(&large).unwrap(), None);
    drop(shares);
    let shares = Shares::new(Store::open(Some(state.path())).unwrap());
    let report = shares.restore(|_| ()).await.unwrap();
    assert_eq!(report.removed.len(), 1);
    assert!(shares.list().is_empty());
    fs::rename(dir.path().join("away"), &file).unwrap();
    shares.restore(|_| ()).await.unwrap();
    assert_eq!(names(&shares.list()), ["file"]);
}

#[tokio::test]
async fn an_error_names_the_path_that_cannot_be_shared() {
    let (dir, shares) = (folder(), shares());
    let missing = shares.add(dir.path().join("none"), |_| ()).await.unwrap_err();
    assert!(missing.to_string().contains("none"), "{missing}");
    assert!(matches!(shares.add("/", |_| ()).await, Err(ShareError::Nameless(_))));
    #[cfg(unix)]
    {
        assert!(matches!(shares.add("/dev/null", |_| ()).await, Err(ShareError::Special(_))));
    }
    assert!(shares.list().is_empty());
}

#[tokio::test]
async fn many_files_are_hashed_in_parallel() {
    let (dir, shares) = (folder(), shares());
    for n in 0..500 {
        write(&dir.path().join(format!("many/{}/{n}", n % 7)), format!("{n}").as_bytes());
    }
    let added = add(&shares, &dir.path().join("many")).await;
    assert_eq!(added.files, 500);
    for n in 0..500 {
        let text = format!("{n}");
        let share = shares.open(&Hash::of(text.as_bytes()), &anyone()).unwrap();
        assert_eq!(content(&share).unwrap(), text.as_bytes());
    }
}

#[tokio::test]
async fn a_missing_file_can_be_unshared() {
    let (dir, state) = (folder(), folder());
    let path = dir.path().join("away");
    write(&path, b"away");
    let hash = {
        let shares = Shares::new(Store::open(Some(state.path())).unwrap());
        add(&shares, &path).await.shared.hash
    };
    fs::remove_file(&path).unwrap();
    let shares = Shares::new(Store::open(Some(state.path())).unwrap());
    assert_eq!(shares.restore(|_| ()).await.unwrap().removed.len(), 1);
    assert_eq!(shares.refresh(|_| ()).await.unwrap(), Refreshed::default());
    assert_eq!(names(&shares.remove(&hash).await.unwrap()), ["away"]);
    assert!(shares.store.shares().unwrap().is_empty());
}

#[tokio::test]
async fn thousands_of_copies_of_one_content_are_shared_and_unshared() {
    let (dir, shares) = (folder(), shares());
    for n in 0..3000 {
        write(&dir.path().join(format!("a/{n}")), b"");
        write(&dir.path().join(format!("b/{n}")), b"");
    }
    let one = add(&shares, &dir.path().join("a")).await.shared.hash;
    let two = add(&shares, &dir.path().join("b")).await.shared.hash;
    assert_eq!(one, two);
    fs::remove_file(dir.path().join("a/0")).unwrap();
    let changed = add(&shares, &dir.path().join("a")).await.shared.hash;
    assert!(shares.contains(&Hash::of(b""), &anyone()));
    shares.remove(&changed).await.unwrap();
    assert!(shares.contains(&Hash::of(b""), &anyone()));
    shares.remove(&two).await.unwrap();
    assert!(!shares.contains(&Hash::of(b""), &anyone()));
}

#[cfg(unix)]
#[tokio::test]
async fn the_modes_of_a_folder_are_in_its_manifest() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, shares) = (folder(), shares());
    let top = dir.path().join("top");
    write(&top.join("run.sh"), b"x");
    fs::create_dir(top.join("closed")).unwrap();
    let set = |path: &str, mode| {
        fs::set_permissions(top.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    set("run.sh", 0o750);
    set("closed", 0o700);
    let hash = add(&shares, &top).await.shared.hash;
    let bytes = content(&shares.open(&hash, &anyone()).unwrap()).unwrap();
    let manifest = Manifest::decode(bytes.into()).unwrap();
    let modes: Vec<_> = manifest.entries().iter().map(ManifestEntry::mode).collect();
    assert_eq!(modes, [0o700, 0o750]);
    set("run.sh", 0o640);
    assert_ne!(add(&shares, &top).await.shared.hash, hash);
}
