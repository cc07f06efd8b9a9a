use super::*;
use std::fs;

use notify::Event;
use notify::event::{CreateKind, DataChange, Flag};
use peerkit_proto::files::Asker;
use peerkit_proto::id::{Hash, NodeId};
use tempfile::TempDir;

use crate::lock::{lock, read};
use crate::shares::{Audience, ShareError, ShareOptions};
use crate::store::Store;

fn anyone() -> Asker<'static> {
    Asker { id: NodeId::from_bytes([0; 32]), binding: &[0; 32], proof: None }
}

fn folder() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dunce::canonicalize(dir.path()).unwrap();
    (dir, path)
}

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn watched() -> Shares {
    let shares = Shares::new(Store::open(None).unwrap()).watched();
    tokio::spawn(shares.clone().watch());
    shares
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    assert!(waited.is_ok(), "waited too long: {what}");
}

fn serves(shares: &Shares, content: &[u8]) -> bool {
    shares.open(&Hash::of(content), &anyone()).is_ok()
}

fn change(kind: EventKind, path: &Path) -> Event {
    Event::new(kind).add_path(path.to_owned())
}

const DATA: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));

#[test]
fn a_changed_share_is_scanned_once_it_is_quiet_or_after_the_maximum_delay() {
    let changes = ShareChanges::default();
    let (one, two) = (Path::new("/a/one"), Path::new("/a/two"));
    lock(&changes.noted).shares.extend([one.to_owned(), two.to_owned()]);
    let start = Instant::now();
    let after = |millis| start + Duration::from_millis(millis);
    changes.note_event(&change(DATA, &two.join("deep/file")), start);
    for n in 0..100 {
        changes.note_event(&change(DATA, &one.join("file")), after(n * 100));
    }
    changes.note_event(&change(DATA, Path::new("/a/other")), start);
    let reading = EventKind::Access(AccessKind::Open(AccessMode::Any));
    changes.note_event(&change(reading, two), after(900));
    assert_eq!(lock(&changes.noted).due(), Some(after(1000)));
    assert!(lock(&changes.noted).take(after(999)).is_empty());
    assert_eq!(lock(&changes.noted).take(after(1000)).keys().collect::<Vec<_>>(), [two]);
    assert_eq!(lock(&changes.noted).due(), Some(after(5000)), "the changes go on");
    assert_eq!(lock(&changes.noted).take(after(5000)).keys().collect::<Vec<_>>(), [one]);
    assert_eq!(lock(&changes.noted).due(), None);

    // The longer a scan took, the longer is the pause after it.
    changes.note_event(&change(DATA, one), after(5000));
    lock(&changes.noted).rest(one.to_owned(), after(5000), after(6000));
    assert_eq!(lock(&changes.noted).due(), Some(after(15_000)));
    assert!(lock(&changes.noted).take(after(14_999)).is_empty());
    assert_eq!(lock(&changes.noted).take(after(15_000)).len(), 1);
    lock(&changes.noted).rest(two.to_owned(), after(20_000), after(20_001));
    assert_eq!(lock(&changes.noted).resting.keys().collect::<Vec<_>>(), [two]);
    lock(&changes.noted).rest(two.to_owned(), after(20_001), after(600_000));
    assert_eq!(lock(&changes.noted).resting[two], after(660_000));

    // Events of paths that are no longer watched, or never were, take no memory.
    lock(&changes.noted).shares.remove(one);
    changes.note_event(&change(DATA, one), start);
    lock(&changes.noted).rest(one.to_owned(), start, after(1000));
    assert!(
        lock(&changes.noted).changed.is_empty() && !lock(&changes.noted).resting.contains_key(one)
    );
    // If the system has dropped events, any share may have changed.
    lock(&changes.noted).shares.insert(one.to_owned());
    changes.note_event(&Event::new(EventKind::Other).set_flag(Flag::Rescan), start);
    assert_eq!(lock(&changes.noted).changed.len(), 2);
    lock(&changes.noted).changed.clear();
    // The folder that both shares are in was created anew, so both may have been replaced.
    changes.note_event(&change(EventKind::Create(CreateKind::Folder), Path::new("/a")), start);
    assert!(lock(&changes.noted).changed.values().all(|change| change.replaced));
    assert_eq!(lock(&changes.noted).changed.len(), 2);
}

#[tokio::test]
async fn a_changed_file_is_shared_again_and_no_other_share_is_scanned() {
    let ((_one, folder), (_two, other)) = (folder(), folder());
    let shares = watched();
    write(&folder.join("a.txt"), b"before");
    write(&other.join("b.txt"), b"other");
    for path in [&folder, &other] {
        shares.add(path, |_| ()).await.unwrap();
    }
    let share = Arc::clone(read(&shares.index).share(&other).unwrap());
    write(&folder.join("a.txt"), b"after");
    until("the change", || serves(&shares, b"after")).await;
    assert!(!serves(&shares, b"before"));
    write(&folder.join("new/deep/c.txt"), b"new");
    until("the new file", || serves(&shares, b"new")).await;
    // A file in a folder that was created after the watch began.
    write(&folder.join("new/deep/c.txt"), b"newer");
    until("the newer file", || serves(&shares, b"newer")).await;
    fs::remove_file(folder.join("a.txt")).unwrap();
    until("the removal", || !shares.contains(&Hash::of(b"after"), &anyone())).await;
    assert!(Arc::ptr_eq(&share, read(&shares.index).share(&other).unwrap()));
}

#[tokio::test]
async fn a_removed_file_is_not_served_until_it_is_back() {
    let (_dir, folder) = folder();
    let shares = watched();
    let (tree, file, away) = (folder.join("tree"), folder.join("file"), folder.join("away"));
    write(&tree.join("in it"), b"in it");
    write(&file, b"file");
    let audience = Audience::Nodes(vec![anyone().id]);
    let options = ShareOptions { audience, ..ShareOptions::default() };
    shares.add_with(&tree, options.clone(), |_| ()).await.unwrap();
    shares.add_with(&file, options, |_| ()).await.unwrap();
    for (path, content) in [(&tree, &b"in it"[..]), (&file, b"file")] {
        fs::rename(path, &away).unwrap();
        until("it is gone", || shares.list().len() == 1).await;
        assert!(!shares.contains(&Hash::of(content), &anyone()));
        fs::rename(&away, path).unwrap();
        until("it is back", || serves(&shares, content)).await;
        assert_eq!(
            shares.describe_for_query(&Hash::of(content), None),
            None,
            "it is still only for the named node"
        );
    }
    // A share that is back is watched as before, even if another folder has replaced it immediately.
    write(&tree.join("more"), b"more");
    until("a file in it", || serves(&shares, b"more")).await;
    fs::remove_dir_all(&tree).unwrap();
    write(&tree.join("another"), b"another");
    until("the other folder", || serves(&shares, b"another")).await;
    write(&tree.join("another"), b"changed");
    until("a change in the other folder", || serves(&shares, b"changed")).await;
    write(&away, b"renamed over");
    fs::rename(&away, &file).unwrap();
    until("the file that replaced it", || serves(&shares, b"renamed over")).await;
}

#[tokio::test]
async fn a_share_that_the_store_refuses_is_not_watched() {
    let ((_dir, folder), (_state, state)) = (folder(), folder());
    let store = Store::open(Some(&state)).unwrap();
    let shares = Shares::new(store.clone()).watched();
    let path = folder.join("file");
    write(&path, b"file");
    let an_hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    fs::File::options().write(true).open(&path).unwrap().set_modified(an_hour_ago).unwrap();
    shares.add(&folder, |_| ()).await.unwrap();
    // The hash of the file is known by now, so the scan of the file alone reads the store only before it
    // reports progress. Without its file the store refuses every call.
    let end_store = move |_| {
        store.close();
        let _ = fs::remove_file(state.join("state.redb"));
    };
    let refused = shares.add(&path, end_store).await.unwrap_err();
    assert!(matches!(refused, ShareError::Store(_)), "{refused:?}");
    let watching = Arc::clone(shares.watching.as_ref().unwrap());
    assert_eq!(lock(&watching.changes.noted).shares, BTreeSet::from([folder]));
}

#[tokio::test]
async fn an_unshared_folder_is_not_watched() {
    let (_dir, folder) = folder();
    let shares = watched();
    let (outer, inner) = (folder.join("outer"), folder.join("outer/inner"));
    write(&inner.join("file"), b"first");
    let outer_hash = shares.add(&outer, |_| ()).await.unwrap().shared.hash;
    shares.add(&inner, |_| ()).await.unwrap();
    assert!(shares.add(folder.join("none"), |_| ()).await.is_err());
    shares.remove(&outer_hash).await.unwrap();
    let watching = Arc::clone(shares.watching.as_ref().unwrap());
    assert_eq!(lock(&watching.changes.noted).shares, BTreeSet::from([inner.clone()]));
    // The folder inside it is a share of its own, and is still watched.
    write(&inner.join("deep/file"), b"second");
    until("a change", || serves(&shares, b"second")).await;
    write(&inner.join("deep/file"), b"third");
    until("a change in a new folder", || serves(&shares, b"third")).await;
    let hash = shares.list()[0].hash;
    shares.remove(&hash).await.unwrap();
    assert!(lock(&watching.watches).folders.is_empty());
    assert!(lock(&watching.changes.noted).shares.is_empty());
}
