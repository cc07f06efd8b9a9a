use std::collections::BTreeMap;

use super::disk::{CLOSED_FILE, OLD_SHARES, SCHEMA, STATE_FILE};
use super::*;
use peerkit_proto::files::{FileKind, FileName, Secret};

mod versions;

fn id(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn peer(name: &str) -> KnownPeer {
    KnownPeer {
        name: name.to_owned(),
        addresses: vec!["127.0.0.1:7117".parse().unwrap(), "[::1]:1".parse().unwrap()],
        last_seen: 1_700_000_000_123,
        reconnect: true,
        tested: false,
    }
}

fn known(n: u8) -> KnownFile {
    KnownFile {
        fingerprint: Fingerprint {
            size: u64::from(n),
            modified: -5,
            changed: i64::MAX,
            inode: 77,
            fresh: n % 2 == 1,
        },
        hash: Hash::from_bytes([n; 32]),
    }
}

fn share(name: &str, access: Access) -> KnownShare {
    let hash = Hash::of(name.as_bytes());
    let name = FileName::new(name).unwrap();
    KnownShare { shared: SharedFile { hash, name, size: 7, kind: FileKind::Folder }, access }
}

fn open() -> Access {
    Access::Open
}

fn named() -> Access {
    Access::Nodes(vec![id(3), id(1)])
}

fn list() -> PieceList {
    PieceList::of(&vec![3; (2 << 20) + 5])
}

fn fill(store: &Store) {
    store.save_peers(&[(id(2), peer("b")), (id(1), peer("a"))]).unwrap();
    store.save_share(Path::new("/a/b"), &share("b", open())).unwrap();
    let (one, two) = (known(1), known(2));
    let rows = [(Path::new("/a/b"), &one, Some(&list())), (Path::new("/a/c"), &two, None)];
    store.save_files(rows).unwrap();
}

fn check(store: &Store) {
    assert_eq!(store.peers().unwrap(), [(id(1), peer("a")), (id(2), peer("b"))]);
    assert_eq!(store.shares().unwrap(), [("/a/b".into(), share("b", open()))]);
    let paths = ["/a/c", "/none", "/a/b"].map(Path::new);
    assert_eq!(store.files(paths).unwrap(), [Some(known(2)), None, Some(known(1))]);
    assert_eq!(store.piece_list(&known(1).hash).unwrap(), Some(list()));
    assert_eq!(store.piece_list(&known(2).hash).unwrap(), None);
}

#[test]
fn the_state_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("new/state");
    fill(&Store::open(Some(&state)).unwrap());
    let store = Store::open(Some(&state)).unwrap();
    check(&store);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&state).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}

#[test]
fn a_state_in_memory_works_alike_but_is_lost_with_the_store() {
    let store = Store::open(None).unwrap();
    fill(&store);
    check(&store.clone());
    assert!(Store::open(None).unwrap().peers().unwrap().is_empty());
}

/// Returns a store on disk and one in memory.
fn both() -> (tempfile::TempDir, [Store; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let stores = [Some(folder.path()), None].map(|folder| Store::open(folder).unwrap());
    (folder, stores)
}

#[test]
fn removed_shares_and_pruned_files_are_gone() {
    let (_folder, stores) = both();
    for store in stores {
        fill(&store);
        assert!(store.remove_share(Path::new("/a/b")).unwrap());
        assert!(!store.remove_share(Path::new("/a/b")).unwrap());
        assert!(store.shares().unwrap().is_empty());
        store.prune(|path| path == Path::new("/a/c"), |_| false).unwrap();
        let paths = ["/a/c", "/a/b"].map(Path::new);
        assert_eq!(store.files(paths).unwrap(), [Some(known(2)), None]);
        assert!(!store.has_piece_list(&known(1).hash).unwrap());
    }
}

#[test]
fn a_saved_value_replaces_the_earlier_one() {
    let (_folder, stores) = both();
    for store in stores {
        fill(&store);
        store.save_peers(&[(id(1), peer("c"))]).unwrap();
        store.save_share(Path::new("/a/b"), &share("new", named())).unwrap();
        store.save_files([(Path::new("/a/c"), &known(3), None)]).unwrap();
        store.save_piece_list(&known(2).hash, &list()).unwrap();
        assert_eq!(store.peers().unwrap(), [(id(1), peer("c")), (id(2), peer("b"))]);
        assert_eq!(store.shares().unwrap(), [("/a/b".into(), share("new", named()))]);
        assert_eq!(store.files([Path::new("/a/c")]).unwrap(), [Some(known(3))]);
        assert!(store.has_piece_list(&known(2).hash).unwrap());
    }
}

#[test]
fn a_second_node_is_refused_with_the_path_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let first = Store::open(Some(folder.path())).unwrap();
    let error = Store::open(Some(folder.path())).unwrap_err();
    assert!(matches!(&error, StoreError::InUse(path) if path == folder.path()));
    let text = error.to_string();
    assert!(text.contains(&*folder.path().to_string_lossy()), "{text}");
    assert!(text.contains("another node uses"), "{text}");
    drop(first);
    assert!(Store::open(Some(folder.path())).is_ok());
}

#[test]
fn a_file_that_is_not_a_database_is_refused_and_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(STATE_FILE);
    std::fs::write(&file, b"something else entirely").unwrap();
    let error = Store::open(Some(folder.path())).unwrap_err();
    assert!(is_damaged(&error), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), b"something else entirely");
    let under_a_file = Store::open(Some(&file)).unwrap_err();
    assert!(matches!(under_a_file, StoreError::Open { .. }));
}

#[test]
fn a_peer_that_cannot_be_read_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(Some(folder.path())).unwrap();
    fill(&store);
    let Store::Disk(disk) = &store else { panic!("not on disk") };
    disk.write(|db| {
        db.open_table(PEERS)?.insert(&[0; 32], &b"not json"[..])?;
        Ok(())
    })
    .unwrap();
    assert_eq!(store.peers().unwrap().len(), 2);
}

#[test]
fn a_peers_addresses_of_unknown_schemes_are_left_out() {
    let read = |addresses: &[&str]| {
        let json = serde_json::json!({"name": "a", "addresses": addresses, "a later field": 1});
        serde_json::from_value::<KnownPeer>(json).map(|peer| peer.addresses)
    };
    let known = ["127.0.0.1:7117".parse().unwrap()];
    assert_eq!(read(&["later://127.0.0.1:7117", "127.0.0.1:7117", "new://x"]).unwrap(), known);
    assert!(read(&["127.0.0.1:7117", "no address:"]).is_err());
}

#[cfg(unix)]
#[test]
fn a_path_that_is_not_utf8_is_preserved() {
    use std::os::unix::ffi::OsStrExt;
    let odd = Path::new(std::ffi::OsStr::from_bytes(b"/tmp/\xff\xfe"));
    let (_folder, stores) = both();
    for store in stores {
        store.save_share(odd, &share("odd", open())).unwrap();
        assert_eq!(store.shares().unwrap()[0].0, odd);
    }
}

#[test]
fn a_share_keeps_its_access_list() {
    let folder = tempfile::tempdir().unwrap();
    let ticket = Access::Ticket(Secret::from_bytes([9; 16]));
    for store in [Store::open(None).unwrap(), Store::open(Some(folder.path())).unwrap()] {
        for access in [open(), named(), Access::Nodes(vec![]), ticket.clone()] {
            store.save_share(Path::new("/a"), &share("a", access.clone())).unwrap();
            assert_eq!(store.shares().unwrap(), [("/a".into(), share("a", access))]);
        }
    }
    let store = Store::open(Some(folder.path())).unwrap();
    assert_eq!(store.shares().unwrap(), [("/a".into(), share("a", ticket))]);
}

#[test]
fn shares_of_schema_1_become_open_shares() {
    let folder = tempfile::tempdir().unwrap();
    {
        let database = redb::Database::create(folder.path().join(STATE_FILE)).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(OLD_SHARES).unwrap();
            table.insert(&b"/a/old"[..], Hash::of(b"old").as_bytes()).unwrap();
        }
        transaction.commit().unwrap();
    }
    for _ in 0..2 {
        let store = Store::open(Some(folder.path())).unwrap();
        let shares = store.shares().unwrap();
        let (path, KnownShare { shared, access }) = &shares[0];
        assert_eq!((path.as_path(), shared.hash), (Path::new("/a/old"), Hash::of(b"old")));
        assert_eq!((shares.len(), access), (1, &Access::Open));
    }
}

/// Makes a state folder with some content, and closes it. Returns the folder and the bytes of the state file.
fn used_folder() -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(Some(folder.path())).unwrap();
    fill(&store);
    store.save_owner("net", id(9)).unwrap();
    store.save_download(&Hash::of(b"d"), &[7; 300]).unwrap();
    for n in 0..40 {
        store.save_peers(&[(id(n), peer("another"))]).unwrap();
        let row = [n; 80];
        store.change_broadcasts(&[(&row, &[n; 1000])], &[]).unwrap();
    }
    drop(store);
    let bytes = std::fs::read(folder.path().join(STATE_FILE)).unwrap();
    (folder, bytes)
}

/// Reads and writes all tables. Returns the first error.
fn use_all_tables(folder: &Path) -> Result<(), StoreError> {
    let store = Store::open(Some(folder))?;
    store.peers()?;
    store.peer(&id(1))?;
    store.shares()?;
    store.files(["/a/b", "/a/c"].map(Path::new))?;
    store.piece_list(&known(1).hash)?;
    store.broadcasts()?;
    store.downloads()?;
    store.owner("net")?;
    store.save_peers(&[(id(77), peer("new"))])?;
    store.change_broadcasts(&[(&[200; 80], &[1; 500])], &[vec![3; 80]])?;
    store.prune(|_| false, |_| false)
}

fn is_damaged(error: &StoreError) -> bool {
    matches!(error, StoreError::Damaged { .. })
}

#[test]
fn a_damaged_file_works_or_gives_an_error_and_never_panics() {
    let (folder, good) = used_folder();
    let file = folder.path().join(STATE_FILE);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    };
    let mut reported = 0;
    for round in 0..150 {
        let mut bytes = good.clone();
        match round % 3 {
            0 => bytes.truncate(draw(good.len())),
            1 => (0..8).for_each(|_| bytes[draw(good.len())] ^= 1 << draw(8)),
            // Most of the file is empty, so only bytes in use are damaged here.
            _ => (0..8).for_each(|_| {
                let used = bytes.iter().enumerate().filter(|(_, byte)| **byte != 0);
                let used: Vec<_> = used.map(|(at, _)| at).collect();
                bytes[used[draw(used.len())]] ^= 1 << draw(8);
            }),
        }
        std::fs::write(&file, &bytes).unwrap();
        if let Err(error) = use_all_tables(folder.path()) {
            assert!(is_damaged(&error), "round {round}: {error:?}");
            assert!(error.to_string().contains(STATE_FILE), "{error}");
            reported += 1;
        }
    }
    assert!(reported > 20, "hardly any damage was found: {reported}");
}

#[test]
fn a_damaged_file_is_renamed_on_request_and_never_deleted() {
    let (folder, _) = used_folder();
    let file = folder.path().join(STATE_FILE);
    for aside in ["state.redb.damaged", "state.redb.damaged-2"] {
        std::fs::write(&file, aside).unwrap();
        assert!(is_damaged(&Store::open(Some(folder.path())).unwrap_err()));
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            aside,
            "without a request nothing is changed"
        );
        let store = Store::open_or_repair(Some(folder.path())).unwrap();
        assert!(store.peers().unwrap().is_empty());
        fill(&store);
        drop(store);
        assert_eq!(std::fs::read_to_string(folder.path().join(aside)).unwrap(), aside);
    }
    // A file that is not damaged, or that another node uses, is not renamed.
    let store = Store::open_or_repair(Some(folder.path())).unwrap();
    check(&store);
    let second = Store::open_or_repair(Some(folder.path())).unwrap_err();
    assert!(matches!(second, StoreError::InUse(_)));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[cfg(unix)]
#[test]
fn the_state_file_and_its_folder_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let file = folder.path().join(STATE_FILE);
    set(folder.path(), 0o755);
    drop(Store::open(Some(folder.path())).unwrap());
    assert_eq!((mode(folder.path()), mode(&file)), (0o700, 0o600));
    // An earlier version has left these modes.
    set(folder.path(), 0o755);
    set(&file, 0o644);
    drop(Store::open(Some(folder.path())).unwrap());
    assert_eq!((mode(folder.path()), mode(&file)), (0o700, 0o600));
}

/// The check of a large file takes long, so an unchanged file is not checked.
#[test]
fn a_file_is_checked_if_it_has_changed_since_it_was_closed() {
    let (folder, mut bytes) = used_folder();
    let at = |name: &str| folder.path().join(name);
    let (file, mark) = (at(STATE_FILE), at(CLOSED_FILE));
    assert!(mark.exists());
    let store = Store::open(Some(folder.path())).unwrap();
    assert!(!mark.exists(), "a node that is killed leaves no mark");
    drop(store);
    assert!(mark.exists());
    // This changes the middle of a broadcast, which only a checksum shows.
    let row = bytes.windows(1000).position(|part| part == [33; 1000]).unwrap();
    bytes[row + 500] = 34;
    std::fs::write(&file, &bytes).unwrap();
    assert!(is_damaged(&Store::open(Some(folder.path())).unwrap_err()));
    assert!(is_damaged(&Store::open(Some(folder.path())).unwrap_err()), "checked again");
    assert!(!mark.exists());
    std::fs::write(&file, &bytes).unwrap();
    disk::leave_mark(&file).unwrap();
    drop(Store::open(Some(folder.path())).unwrap());
    // The mark is right again, so only a request makes the store check the file.
    assert!(mark.exists());
    assert!(Store::open_or_repair(Some(folder.path())).unwrap().broadcasts().unwrap().is_empty());
    assert!(at("state.redb.damaged").exists());
}

/// The mark is read before the file is locked. So reading it must not block, whatever kind of file is there.
#[test]
fn with_an_invalid_mark_the_file_is_checked() {
    let (folder, _) = used_folder();
    let mark = folder.path().join(CLOSED_FILE);
    let opens_and_marks = || {
        assert!(!Store::open(Some(folder.path())).unwrap().broadcasts().unwrap().is_empty());
        assert_eq!(std::fs::metadata(&mark).unwrap().len(), 33);
    };
    for invalid in [&b""[..], b"x", &[0; 33], &[7; 70_000]] {
        std::fs::write(&mark, invalid).unwrap();
        opens_and_marks();
    }
    // This is the mark of another state file.
    let (other, _) = used_folder();
    std::fs::copy(other.path().join(CLOSED_FILE), &mark).unwrap();
    opens_and_marks();
    #[cfg(unix)]
    {
        std::fs::remove_file(&mark).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &mark).unwrap();
        opens_and_marks();
        std::fs::remove_file(&mark).unwrap();
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &mark, kind, mode, 0).unwrap();
        opens_and_marks();
    }
}

#[test]
fn an_empty_file_is_damaged_only_if_a_node_has_closed_it() {
    let (folder, _) = used_folder();
    let file = folder.path().join(STATE_FILE);
    std::fs::write(&file, "").unwrap();
    let error = Store::open(Some(folder.path())).unwrap_err();
    assert!(is_damaged(&error), "an emptied file was taken for a new one: {error:?}");
    assert!(is_damaged(&Store::open(Some(folder.path())).unwrap_err()), "again");
    assert!(Store::open_or_repair(Some(folder.path())).unwrap().peers().unwrap().is_empty());
    // A node that is killed while it creates the file leaves these.
    std::fs::remove_file(folder.path().join(CLOSED_FILE)).unwrap();
    std::fs::write(&file, "").unwrap();
    assert!(Store::open(Some(folder.path())).unwrap().peers().unwrap().is_empty());
}

#[test]
fn a_database_whose_creation_was_cut_short_is_created_again() {
    let (folder, good) = used_folder();
    let file = folder.path().join(STATE_FILE);
    // redb writes its magic number last.
    let mut bare = good[..4096].to_vec();
    bare[..9].fill(0);
    bare.resize(1_056_768, 0);
    std::fs::write(&file, &bare).unwrap();
    let error = Store::open(Some(folder.path())).unwrap_err();
    assert!(is_damaged(&error), "the mark says that a node has closed the file: {error:?}");
    std::fs::remove_file(folder.path().join(CLOSED_FILE)).unwrap();
    let mut used = bare.clone();
    used[500_000] = 1;
    std::fs::write(&file, &used).unwrap();
    let error = Store::open(Some(folder.path())).unwrap_err();
    assert!(is_damaged(&error), "the file is not empty: {error:?}");
    assert_eq!(std::fs::read(&file).unwrap(), used);
    std::fs::write(&file, &bare).unwrap();
    assert!(Store::open(Some(folder.path())).unwrap().peers().unwrap().is_empty());
    let store = Store::open(Some(folder.path())).unwrap();
    fill(&store);
    drop(store);
    check(&Store::open(Some(folder.path())).unwrap());
}

#[cfg(unix)]
#[test]
fn the_target_of_a_linked_state_file_is_made_private_and_a_pipe_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, good) = used_folder();
    let file = folder.path().join(STATE_FILE);
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("state");
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&target, good).unwrap();
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::symlink(&target, &file).unwrap();
    drop(Store::open(Some(folder.path())).unwrap());
    assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::remove_file(&file).unwrap();
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, &file, kind, mode, 0).unwrap();
    let error = Store::open(Some(folder.path())).unwrap_err();
    assert!(error.to_string().contains("state.redb is not a regular file"), "{error}");
}

#[test]
fn untested_and_old_peers_are_forgotten_first() {
    let store = Store::Memory(Arc::default());
    let seen =
        |last_seen, tested, reconnect| KnownPeer { last_seen, tested, reconnect, ..peer("x") };
    let peers = [
        (id(1), seen(1, true, false)),
        (id(2), seen(9, false, false)),
        (id(3), seen(5, true, false)),
        (id(4), seen(0, false, true)),
        (id(5), seen(3, true, false)),
    ];
    store.save_peers(&peers).unwrap();
    let left = || store.peers().unwrap().into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    store.trim_peers(5).unwrap();
    assert_eq!(left().len(), 5);
    store.trim_peers(4).unwrap();
    assert!(!left().contains(&id(2)), "it was never reached");
    store.trim_peers(2).unwrap();
    let mut expected = vec![id(3), id(4)];
    expected.sort_unstable();
    assert_eq!(left(), expected);
}

#[test]
fn anchors_replace_the_earlier_ones() {
    let folder = tempfile::tempdir().unwrap();
    for store in [Store::Memory(Arc::default()), Store::open(Some(folder.path())).unwrap()] {
        assert_eq!(store.anchors().unwrap(), []);
        store.save_anchors(&[id(2), id(1)]).unwrap();
        assert_eq!(store.anchors().unwrap(), [id(2), id(1)]);
        store.save_anchors(&[id(3)]).unwrap();
        assert_eq!(store.anchors().unwrap(), [id(3)]);
    }
}
