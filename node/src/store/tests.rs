use super::disk::{OLD_SHARES, PEERS, STATE_FILE};
use super::*;
use peerkit_proto::files::{FileKind, FileName, Secret};

fn id(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn peer(name: &str) -> KnownPeer {
    KnownPeer {
        name: name.to_owned(),
        addresses: vec!["127.0.0.1:7117".parse().unwrap(), "[::1]:1".parse().unwrap()],
        last_seen: 1_700_000_000_123,
        reconnect: true,
    }
}

fn known(n: u8) -> KnownFile {
    KnownFile {
        stamp: Stamp {
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
fn remembers_after_a_restart() {
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
fn in_memory_is_the_same_but_for_the_restart() {
    let store = Store::open(None).unwrap();
    fill(&store);
    check(&store.clone());
    assert!(Store::open(None).unwrap().peers().unwrap().is_empty());
}

/// One on disk and one in memory.
fn both() -> (tempfile::TempDir, [Store; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let stores = [Some(folder.path()), None].map(|folder| Store::open(folder).unwrap());
    (folder, stores)
}

#[test]
fn forgets() {
    let (_folder, stores) = both();
    for store in stores {
        fill(&store);
        assert!(store.forget_share(Path::new("/a/b")).unwrap());
        assert!(!store.forget_share(Path::new("/a/b")).unwrap());
        assert!(store.shares().unwrap().is_empty());
        store.prune(|path| path == Path::new("/a/c"), |_| false).unwrap();
        let paths = ["/a/c", "/a/b"].map(Path::new);
        assert_eq!(store.files(paths).unwrap(), [Some(known(2)), None]);
        assert!(!store.has_piece_list(&known(1).hash).unwrap());
    }
}

#[test]
fn what_is_saved_again_takes_the_place_of_what_was() {
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
fn a_second_node_is_told_who_has_the_folder() {
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
fn what_is_not_a_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(STATE_FILE);
    std::fs::write(&file, b"something else entirely").unwrap();
    let error = Store::open(Some(folder.path())).unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), b"something else entirely");
    let under_a_file = Store::open(Some(&file)).unwrap_err();
    assert!(matches!(under_a_file, StoreError::Open { .. }));
}

#[test]
fn a_peer_that_cannot_be_read_does_not_hide_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(Some(folder.path())).unwrap();
    fill(&store);
    let Kept::Disk(disk) = &store.kept else { panic!("not on disk") };
    disk.write(|db| {
        db.open_table(PEERS)?.insert(&[0; 32], &b"not json"[..])?;
        Ok(())
    })
    .unwrap();
    assert_eq!(store.peers().unwrap().len(), 2);
}

#[cfg(unix)]
#[test]
fn paths_are_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let odd = Path::new(std::ffi::OsStr::from_bytes(b"/tmp/\xff\xfe"));
    let (_folder, stores) = both();
    for store in stores {
        store.save_share(odd, &share("odd", open())).unwrap();
        assert_eq!(store.shares().unwrap()[0].0, odd);
    }
}

#[test]
fn a_share_keeps_whom_it_is_for() {
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
fn what_an_older_version_shared_is_shared_with_everyone() {
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
