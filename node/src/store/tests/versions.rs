//! State files of other schemas.

use std::io;
use std::sync::Mutex;

use peerkit_proto::frame::broadcast::Batch;
use redb::StorageBackend;

use super::super::disk::{BLOCKING_TABLE, META, SCHEMA_KEY, migrate, schema_of};
use super::*;

const COPY: &str = "state.redb.before-2";

/// Writes a closed state of schema 1 into `folder`. Returns the bytes of the state file.
fn make_old(folder: &Path) -> Vec<u8> {
    let store = Store::open(Some(folder)).unwrap();
    fill(&store);
    change(&store, |db| {
        db.delete_table(META)?;
        db.delete_table(BLOCKING_TABLE)?;
        db.open_table(OLD_SHARES)?.insert(&b"/a/old"[..], Hash::of(b"old").as_bytes())?;
        Ok(())
    });
    drop(store);
    std::fs::read(folder.join(STATE_FILE)).unwrap()
}

fn change(store: &Store, work: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>) {
    let Store::Disk(disk) = store else { panic!("not on disk") };
    disk.write(work).unwrap();
}

fn schema(folder: &Path) -> Option<u64> {
    let database = redb::Database::open(folder.join(STATE_FILE)).unwrap();
    schema_of(&database).unwrap()
}

/// Checks that the state has everything that was in the old one, including the rows of the old table.
fn check_migrated(folder: &Path) {
    let store = Store::open(Some(folder)).unwrap();
    assert_eq!(store.peers().unwrap(), [(id(1), peer("a")), (id(2), peer("b"))]);
    assert_eq!(store.piece_list(&known(1).hash).unwrap(), Some(list()));
    let shares = store.shares().unwrap();
    let paths: Vec<_> = shares.iter().map(|(path, _)| path.to_str().unwrap()).collect();
    assert_eq!(paths, ["/a/b", "/a/old"]);
    drop(store);
    assert_eq!(schema(folder), Some(SCHEMA));
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_new_state_has_the_schema_of_this_version() {
    let folder = tempfile::tempdir().unwrap();
    fill(&Store::open(Some(folder.path())).unwrap());
    assert_eq!(schema(folder.path()), Some(SCHEMA));
    assert_eq!(names(folder.path()), [STATE_FILE, CLOSED_FILE]);
    // The same holds for a database that was created and has no tables yet.
    std::fs::remove_file(folder.path().join(STATE_FILE)).unwrap();
    drop(redb::Database::create(folder.path().join(STATE_FILE)).unwrap());
    assert_eq!(schema(folder.path()), None);
    drop(Store::open(Some(folder.path())).unwrap());
    assert_eq!(schema(folder.path()), Some(SCHEMA));
    assert_eq!(names(folder.path()), [STATE_FILE, CLOSED_FILE]);
}

#[test]
fn an_older_state_is_migrated_and_a_copy_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    make_old(folder.path());
    assert_eq!(schema(folder.path()), Some(1));
    let old = std::fs::read(folder.path().join(STATE_FILE)).unwrap();
    for _ in 0..2 {
        check_migrated(folder.path());
        assert_eq!(names(folder.path()), [STATE_FILE, COPY, CLOSED_FILE]);
        assert_eq!(std::fs::read(folder.path().join(COPY)).unwrap(), old);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(folder.path().join(COPY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    // The copy can be put back.
    std::fs::copy(folder.path().join(COPY), folder.path().join(STATE_FILE)).unwrap();
    assert_eq!(schema(folder.path()), Some(1));
}

#[test]
fn an_equal_copy_is_not_made_again_and_no_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let old = make_old(folder.path());
    let at = |name: &str| folder.path().join(name);
    // One node was killed while it wrote the copy, and another one right after that.
    std::fs::write(at("state.redb.part"), &old[..old.len() / 2]).unwrap();
    std::fs::write(at(COPY), &old).unwrap();
    check_migrated(folder.path());
    assert!(!names(folder.path()).contains(&"state.redb.before-2-2".to_owned()));
    // Another old state replaces the migrated one, and the name of the copy is in use.
    let changed = [&old[..], &[0; 4096]].concat();
    for (file, bytes) in [(COPY, &b"something else"[..]), (STATE_FILE, &changed)] {
        std::fs::write(at(file), bytes).unwrap();
    }
    drop(Store::open(Some(folder.path())));
    assert_eq!(std::fs::read(at(COPY)).unwrap(), b"something else");
    assert!(std::fs::read(at("state.redb.before-2-2")).unwrap() == changed);
}

#[test]
fn an_older_state_that_cannot_be_copied_is_not_migrated() {
    let folder = tempfile::tempdir().unwrap();
    let old = make_old(folder.path());
    // A folder is at the path where the copy is written.
    let in_the_way = folder.path().join("state.redb.part");
    std::fs::create_dir(&in_the_way).unwrap();
    let before = names(folder.path());
    for _ in 0..2 {
        let error = Store::open(Some(folder.path())).unwrap_err();
        assert!(matches!(error, StoreError::NotMigrated { .. }), "{error:?}");
        assert!(error.to_string().contains("its content is as it was"), "{error}");
        assert!(std::fs::read(folder.path().join(STATE_FILE)).unwrap() == old);
        assert_eq!(names(folder.path()), before);
    }
    let repaired = Store::open_or_repair(Some(folder.path()));
    assert!(matches!(repaired, Err(StoreError::NotMigrated { .. })), "it is not damaged");
    std::fs::remove_dir(in_the_way).unwrap();
    check_migrated(folder.path());
}

#[test]
fn a_newer_state_is_refused_and_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(Some(folder.path())).unwrap();
    fill(&store);
    change(&store, |db| {
        db.open_table(META)?.insert(SCHEMA_KEY, SCHEMA + 1)?;
        Ok(())
    });
    let file = folder.path().join(STATE_FILE);
    let is_refused = || {
        let bytes = std::fs::read(&file).unwrap();
        let mark = std::fs::read(folder.path().join(CLOSED_FILE)).unwrap();
        for _ in 0..2 {
            let error = Store::open(Some(folder.path())).unwrap_err();
            assert!(matches!(error, StoreError::NewerSchema { schema: 3, .. }), "{error:?}");
            assert!(error.to_string().contains("schema 3"), "{error}");
            assert!(std::fs::read(&file).unwrap() == bytes);
            assert_eq!(std::fs::read(folder.path().join(CLOSED_FILE)).unwrap(), mark);
            assert_eq!(names(folder.path()), [STATE_FILE, CLOSED_FILE]);
        }
        bytes
    };
    let killed = std::fs::read(&file).unwrap();
    drop(store);
    let closed = is_refused();
    // A node that was killed has left this file.
    assert!(killed != closed);
    std::fs::write(&file, killed).unwrap();
    is_refused();
    let repaired = Store::open_or_repair(Some(folder.path()));
    assert!(matches!(repaired, Err(StoreError::NewerSchema { .. })), "it is not damaged");
    assert!(file.exists());
}

/// A program of schema 1 opens the old table in its first transaction.
#[test]
fn a_program_of_schema_1_refuses_the_state() {
    let (new, migrated) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(&Store::open(Some(new.path())).unwrap());
    make_old(migrated.path());
    check_migrated(migrated.path());
    for folder in [new, migrated] {
        let database = redb::Database::open(folder.path().join(STATE_FILE)).unwrap();
        let transaction = database.begin_write().unwrap();
        let refused = transaction.open_table(OLD_SHARES);
        assert!(matches!(refused, Err(redb::TableError::TableTypeMismatch { .. })));
    }
}

/// A change that redb makes to a file.
#[derive(Debug, Clone)]
enum Step {
    Write(u64, Vec<u8>),
    Resize(u64),
}

/// A file in memory that records every change.
#[derive(Debug, Default)]
struct Recorder {
    now: Mutex<Vec<u8>>,
    steps: Arc<Mutex<Vec<Step>>>,
}

fn apply(bytes: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write(at, data) => {
            let at = usize::try_from(*at).unwrap();
            bytes[at..at + data.len()].copy_from_slice(data);
        }
        Step::Resize(len) => bytes.resize(usize::try_from(*len).unwrap(), 0),
    }
}

impl Recorder {
    fn record(&self, step: Step) {
        apply(&mut self.now.lock().unwrap(), &step);
        self.steps.lock().unwrap().push(step);
    }
}

impl StorageBackend for Recorder {
    fn len(&self) -> io::Result<u64> {
        Ok(self.now.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.now.lock().unwrap()[offset..offset + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.record(Step::Resize(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.record(Step::Write(offset, data.to_vec()));
        Ok(())
    }
}

/// If a node is killed after any of the writes of a migration, the next start finds the old state and
/// migrates it, or finds the new state.
#[test]
fn a_migration_that_is_cut_short_leaves_the_old_or_the_new_state() {
    let folder = tempfile::tempdir().unwrap();
    let old = make_old(folder.path());
    let recorder = Recorder { now: Mutex::new(old.clone()), steps: Default::default() };
    let steps = recorder.steps.clone();
    let database = redb::Builder::new().create_with_backend(recorder).unwrap();
    let transaction = database.begin_write().unwrap();
    migrate(Some(1), &transaction).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let steps = std::mem::take(&mut *steps.lock().unwrap());
    let (mut bytes, mut found) = (old, Vec::new());
    for step in std::iter::once(None).chain(steps.iter().map(Some)) {
        if let Some(step) = step {
            apply(&mut bytes, step);
        }
        let cut = tempfile::tempdir().unwrap();
        std::fs::write(cut.path().join(STATE_FILE), &bytes).unwrap();
        check_migrated(cut.path());
        match std::fs::read(cut.path().join(COPY)) {
            Ok(copy) => {
                assert!(copy == bytes);
                found.push(1);
            }
            Err(_) => found.push(2),
        }
    }
    assert!(found.is_sorted(), "{found:?}");
    assert_eq!((found.first(), found.last()), (Some(&1), Some(&2)));
}

/// Copies the state folder that a node of this schema has left (see `tests/fixtures/record-state`).
fn recorded_state(schema: u64) -> tempfile::TempDir {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let folder = tempfile::tempdir().unwrap();
    for name in ["key", STATE_FILE] {
        let from = fixtures.join(format!("state-{schema}")).join(name);
        std::fs::copy(from, folder.path().join(name)).unwrap();
    }
    folder
}

fn hash(hex: &str) -> Hash {
    hex.parse().unwrap()
}

#[test]
fn every_value_in_the_states_of_all_schemas_is_read() {
    let ids = [1, 2, 5].map(|n| peerkit_proto::id::Key::from_secret(&[n; 32]).id());
    let [ann, bob, owner] = ids;
    let base = Path::new("/tmp/peerkit-fixture");
    for version in 1..=SCHEMA {
        let folder = recorded_state(version);
        let store = Store::open(Some(folder.path())).unwrap();
        assert_eq!(folder.path().join(COPY).exists(), version < SCHEMA);

        let [(id, peer)] = &store.peers().unwrap()[..] else { panic!("one peer") };
        assert_eq!((*id, peer.name.as_str(), peer.reconnect), (bob, "bob", false));
        assert_eq!(peer.addresses, ["127.0.0.1:17217".parse().unwrap()]);
        assert!(peer.last_seen > 1_700_000_000_000, "{}", peer.last_seen);

        let shares: BTreeMap<_, _> = store.shares().unwrap().into_iter().collect();
        let share = |name: &str| &shares[&base.join("files").join(name)];
        let open = Hash::of(b"open");
        for (name, content, size, kind) in [
            ("open.txt", open, 4, FileKind::File),
            ("large.bin", Hash::of(&vec![0; 2_500_000]), 2_500_000, FileKind::File),
            ("secret.txt", Hash::of(b"secret"), 6, FileKind::File),
            ("album", hash(ALBUM), 6, FileKind::Folder),
        ] {
            let name = FileName::new(name).unwrap();
            let shared = SharedFile { hash: content, name: name.clone(), size, kind };
            assert_eq!(share(name.as_str()).shared, shared);
        }
        assert_eq!(shares.len(), 4);
        for name in ["open.txt", "large.bin"] {
            assert_eq!(share(name).access, Access::Open);
        }
        assert_eq!(share("album").access, Access::Nodes(vec![bob]));
        assert!(matches!(share("secret.txt").access, Access::Ticket(_)));

        let paths =
            ["open.txt", "large.bin", "album/one.txt", "none"].map(|p| base.join("files").join(p));
        let files = store.files(paths.iter().map(PathBuf::as_path)).unwrap();
        let known: Vec<_> =
            files.iter().map(|file| file.as_ref().map(|f| (f.hash, f.fingerprint.size))).collect();
        let large = (Hash::of(&vec![0; 2_500_000]), 2_500_000);
        assert_eq!(known, [Some((open, 4)), Some(large), Some((Hash::of(b"one"), 3)), None]);
        let list = store.piece_list(&large.0).unwrap();
        assert_eq!(list, Some(PieceList::of(&vec![0; 2_500_000])));

        let [(fetched, row)] = &store.downloads().unwrap()[..] else { panic!("one download") };
        assert_eq!(*fetched, Hash::of(&vec![7; 3_000_000]));
        let row = std::str::from_utf8(row).unwrap();
        for part in ["/tmp/peerkit-fixture/downloads", "\"paused\":true", "\"name\":\"big.bin\""] {
            assert!(row.contains(part), "{part} is not in {row}");
        }

        assert_eq!(store.owner("peerkit").unwrap(), Some(owner));
        assert!(store.kept_away().unwrap().is_empty());

        let batches = store.broadcasts().unwrap().into_iter();
        let batches = batches.map(|(_, body)| Batch::decode(body.into()).unwrap());
        let mut restored: Vec<_> = batches.map(|batch| (batch.run.author, batch)).collect();
        restored.sort_by_key(|(author, _)| *author != ann);
        let texts = ["of ann", "of bob"];
        assert_eq!(restored.len(), 2);
        for ((author, batch), (expected, text)) in
            restored.iter().zip([ann, bob].into_iter().zip(texts))
        {
            assert_eq!(*author, expected);
            assert!(batch.verify("peerkit", &batch.ids("peerkit")));
            let content = batch.items[0].content.clone();
            let payload = content.payload.clone();
            assert_eq!(content.unpack(payload).unwrap().as_text(), Some(text));
        }
        drop(store);
        assert_eq!(schema(folder.path()), Some(SCHEMA));
    }
}

/// The hash of a folder with the files `one.txt` and `two.txt`, both of mode 644.
const ALBUM: &str = "acd656121228a21e902d9dd2ad384f873f66c5fda274a083d096dc58a6544c9c";
