//! The memory on disk: a redb database, a transaction for each call.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock, RwLockReadGuard};

use bytes::Bytes;
use peerkit_proto::files::PieceList;
use peerkit_proto::id::{Hash, NodeId};
use redb::{
    Database, ReadableDatabase, ReadableTable, StorageError, TableDefinition, WriteTransaction,
};

use super::{BroadcastRow, FileRow, KnownFile, KnownPeer, KnownShare, StoreError};
use crate::disk::path_bytes::{bytes_of, path_of};
use crate::disk::private;
use crate::lock::{lock, read, write};

mod mark;
mod rows;
mod schema;
mod view;

pub(super) use mark::{CLOSED_FILE, leave_mark};
use mark::{mark, read_mark};
use schema::Refused;
#[cfg(test)]
pub(super) use schema::{KEY, META, OLD_SHARES};
pub(super) use schema::{SCHEMA, migrate, schema_of};

/// The database's file in the state folder.
pub(super) const STATE_FILE: &str = "state.redb";

/// Memory for cached pages. 16 MiB: redb's own 1 GiB is a server's.
const CACHE: usize = 16 << 20;

pub(super) const PEERS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("peers");
const SHARES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("shared");
const FILES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("files");
const LISTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("piece_lists");
const BROADCASTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("broadcasts");
const DOWNLOADS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("downloads");
const OWNERS: TableDefinition<'_, &str, &[u8; 32]> = TableDefinition::new("owners");
const AWAY: TableDefinition<'_, &[u8; 32], u64> = TableDefinition::new("away");

/// Bytes of redb's magic number, at the start of its files.
const MAGIC: usize = 9;

/// Bytes of the block that redb writes first.
const HEAD: usize = 4096;

/// A database that redb has just made is not larger than this: it has 1 MiB and a block.
const UNFINISHED: u64 = 4 << 20;

/// Start of the names that damaged databases are moved to.
const DAMAGED_FILE: &str = "state.redb.damaged";

/// Damaged databases that are kept beside each other.
const MAX_DAMAGED: u32 = 1000;

/// See [`super::Store`], whose methods these are.
///
/// redb panics on some damaged files, when it opens, reads, writes or closes them. Each such call is
/// made by [`catch`], and one that panics ends the use of the file: what redb holds in memory need
/// not fit the file any more.
///
/// After an error of the system, such as a full disk, redb refuses everything until the file is opened
/// again. So the file is closed then, and the next call opens it.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    file: PathBuf,
    /// `None` after an error of the system, and once the node has stopped.
    database: RwLock<Option<Database>>,
    /// The number of the newest list of nodes that are to stay away.
    newest_away: Mutex<u64>,
    /// redb has panicked: the file is not used any more.
    is_damaged: AtomicBool,
    /// Something in it turned out to be damaged: the next start has to check it.
    is_doubtful: AtomicBool,
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Empties a database that was never finished: a node was killed, or the disk was full, while redb made it.
/// redb writes its magic number last, and would take such a file for a damaged one for ever. Nothing but
/// the first block was written to it.
fn empty_an_unfinished(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    // Another node that is making it has it locked.
    if file.try_lock().is_err() {
        return Ok(());
    }
    let mut head = [0; HEAD];
    if file.metadata()?.len() > UNFINISHED || (&file).read_exact(&mut head).is_err() {
        return Ok(());
    }
    let mut rest = Vec::new();
    (&file).take(UNFINISHED).read_to_end(&mut rest)?;
    if head.starts_with(&[0; MAGIC]) && rest.iter().all(|byte| *byte == 0) {
        file.set_len(0)?;
    }
    Ok(())
}

/// Runs `work`, which calls redb, and turns a panic into an error.
fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked)
}

/// redb met something that it does not expect in any file.
#[derive(Debug)]
struct Panicked;

/// Returns whether `error` says that the file is not what redb wrote. Other errors are the system's.
fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) => true,
        redb::Error::TableTypeMismatch { .. } | redb::Error::TypeDefinitionChanged { .. } => true,
        redb::Error::Io(error) => {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}

impl Disk {
    /// Has the file in `folder` checked when it is opened next.
    pub(super) fn doubt(folder: &Path) {
        // One that can't be removed is in a folder that can't be written, and no file is opened there.
        let _ = fs::remove_file(folder.join(CLOSED_FILE));
    }

    /// Moves the file in `folder` aside and returns where it is now. Nothing is deleted.
    pub(super) fn move_aside(folder: &Path) -> Result<PathBuf, StoreError> {
        let file = folder.join(STATE_FILE);
        let names = (2..=MAX_DAMAGED).map(|n| folder.join(format!("{DAMAGED_FILE}-{n}")));
        let mut names = std::iter::once(folder.join(DAMAGED_FILE)).chain(names);
        let free = names.find(|name| !name.exists());
        let free = free.ok_or_else(|| io::Error::other("too many damaged state files"));
        free.and_then(|free| fs::rename(&file, &free).map(|()| free)).map_err(|error| {
            StoreError::Open { folder: folder.to_owned(), error: Box::new(error.into()) }
        })
    }

    pub(super) fn open(folder: &Path) -> Result<Self, StoreError> {
        let file = folder.join(STATE_FILE);
        let database = Self::open_file(folder, &file)?;
        let disk = Self {
            folder: folder.to_owned(),
            file,
            database: RwLock::new(Some(database)),
            is_damaged: false.into(),
            newest_away: Mutex::new(0),
            is_doubtful: false.into(),
        };
        disk.bring_up_to_date().map(|()| disk)
    }

    /// Makes the tables of a new database, and migrates one of an older schema.
    fn bring_up_to_date(&self) -> Result<(), StoreError> {
        let found = self.guard(schema_of)?;
        let migrated = match found {
            Some(SCHEMA) => return Ok(()),
            Some(newer) if newer > SCHEMA => {
                return Err(refusal(&self.folder, &self.file, Refused::Newer(newer)));
            }
            found => self.write(|db| migrate(found, db)),
        };
        migrated.map_err(|error| match (error, found) {
            (StoreError::Database(source), Some(_)) => {
                StoreError::NotMigrated { file: self.file.clone(), source }
            }
            (StoreError::Database(error), None) => {
                StoreError::Open { folder: self.folder.clone(), error }
            }
            (other, _) => other,
        })
    }

    fn open_file(folder: &Path, file: &Path) -> Result<Database, StoreError> {
        match catch(|| Self::try_to_open(folder, file)) {
            Ok(opened) => opened.map_err(|refused| refusal(folder, file, refused)),
            Err(Panicked) => Err(StoreError::Damaged { file: file.to_owned(), source: None }),
        }
    }

    fn try_to_open(folder: &Path, file: &Path) -> Result<Database, Refused> {
        private::create_folder(folder)?;
        private::tighten(folder)?;
        let was_there = file.exists();
        let handle = private::open_or_create(file)?;
        let metadata = handle.metadata()?;
        if !metadata.is_file() {
            let error = format!("{STATE_FILE} is not a regular file");
            return Err(io::Error::other(error).into());
        }
        let closed = folder.join(CLOSED_FILE);
        let left = read_mark(&closed);
        if left.is_err() {
            empty_an_unfinished(file)?;
        }
        let metadata = handle.metadata()?;
        if was_there && metadata.len() == 0 {
            // A node that is killed while it makes the file leaves it empty, but no mark.
            if left.is_ok() {
                return Err(StorageError::Corrupted("the file is empty".to_owned()).into());
            }
            tracing::warn!(
                file = %file.display(),
                "the state file was empty: no shares and no peers are known"
            );
        }
        if metadata.len() > 0 {
            schema::look(folder, &handle)?;
        }
        let is_as_left = left.is_ok_and(|left| left == mark(&metadata));
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE);
        let mut database = builder.create_file(handle)?;
        // It may be a link to a file elsewhere, which no look at the folder shows.
        private::close(file);
        // Not before the file is locked: another node may have it.
        let _ = fs::remove_file(closed);
        // redb does not compare checksums when it reads: without this, damage would show as a panic
        // or as wrong rows much later. It takes half a second for 100,000 files, so it is left out
        // if the file is as the last node has left it.
        if metadata.len() > 0 && !is_as_left && !database.check_integrity()? {
            tracing::info!(folder = %folder.display(), "the state file was repaired");
        }
        Ok(database)
    }

    pub(super) fn peers(&self) -> Result<Vec<(NodeId, KnownPeer)>, StoreError> {
        self.read(|db| {
            let mut peers = Vec::new();
            for row in db.open_table(PEERS)?.iter()? {
                let (id, peer) = row?;
                let id = NodeId::from_bytes(*id.value());
                match serde_json::from_slice(peer.value()) {
                    Ok(peer) => peers.push((id, peer)),
                    Err(error) => tracing::warn!(%id, %error, "known peer can't be read: left out"),
                }
            }
            Ok(peers)
        })
    }

    pub(super) fn peer(&self, id: &NodeId) -> Result<Option<KnownPeer>, StoreError> {
        self.read(|db| {
            let row = db.open_table(PEERS)?.get(id.as_bytes())?;
            Ok(row.and_then(|peer| serde_json::from_slice(peer.value()).ok()))
        })
    }

    pub(super) fn save_peers(&self, peers: &[(NodeId, KnownPeer)]) -> Result<(), StoreError> {
        self.write(|db| {
            let mut table = db.open_table(PEERS)?;
            for (id, peer) in peers {
                let json = serde_json::to_vec(peer).map_err(io::Error::other)?;
                table.insert(id.as_bytes(), &json[..])?;
            }
            Ok(())
        })
    }

    pub(super) fn shares(&self) -> Result<Vec<(PathBuf, KnownShare)>, StoreError> {
        self.read(|db| {
            let mut shares = Vec::new();
            for row in db.open_table(SHARES)?.iter()? {
                let (path, share) = row?;
                let path = path_of(path.value());
                match KnownShare::decode(share.value()) {
                    Ok(share) => shares.push((path, share)),
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "a share can't be read");
                    }
                }
            }
            Ok(shares)
        })
    }

    pub(super) fn save_share(&self, path: &Path, share: &KnownShare) -> Result<(), StoreError> {
        self.write(|db| {
            db.open_table(SHARES)?.insert(bytes_of(path), &share.encode()[..])?;
            Ok(())
        })
    }

    pub(super) fn forget_share(&self, path: &Path) -> Result<bool, StoreError> {
        self.write(|db| Ok(db.open_table(SHARES)?.remove(bytes_of(path))?.is_some()))
    }

    pub(super) fn files<'p>(
        &self,
        paths: impl IntoIterator<Item = &'p Path>,
    ) -> Result<Vec<Option<KnownFile>>, StoreError> {
        self.read(|db| {
            let table = db.open_table(FILES)?;
            let mut files = Vec::new();
            for path in paths {
                let row = table.get(bytes_of(path))?;
                files.push(row.and_then(|row| KnownFile::decode(row.value()).ok()));
            }
            Ok(files)
        })
    }

    pub(super) fn save_files<'f>(
        &self,
        files: impl IntoIterator<Item = FileRow<'f>>,
    ) -> Result<(), StoreError> {
        self.write(|db| {
            let mut table = db.open_table(FILES)?;
            let mut lists = db.open_table(LISTS)?;
            for (path, file, list) in files {
                table.insert(bytes_of(path), &file.encode()[..])?;
                if let Some(list) = list {
                    lists.insert(file.hash.as_bytes(), &list.encode()[..])?;
                }
            }
            Ok(())
        })
    }

    pub(super) fn piece_list(&self, hash: &Hash) -> Result<Option<PieceList>, StoreError> {
        self.read(|db| {
            let row = db.open_table(LISTS)?.get(hash.as_bytes())?;
            Ok(row.and_then(|row| PieceList::decode(Bytes::copy_from_slice(row.value())).ok()))
        })
    }

    pub(super) fn has_piece_list(&self, hash: &Hash) -> Result<bool, StoreError> {
        self.read(|db| Ok(db.open_table(LISTS)?.get(hash.as_bytes())?.is_some()))
    }

    pub(super) fn save_piece_list(&self, hash: &Hash, list: &PieceList) -> Result<(), StoreError> {
        self.write(|db| {
            db.open_table(LISTS)?.insert(hash.as_bytes(), &list.encode()[..])?;
            Ok(())
        })
    }

    pub(super) fn broadcasts(&self) -> Result<Vec<BroadcastRow>, StoreError> {
        self.read(|db| {
            let mut rows = Vec::new();
            for row in db.open_table(BROADCASTS)?.iter()? {
                let (name, body) = row?;
                rows.push((name.value().to_vec(), body.value().to_vec()));
            }
            Ok(rows)
        })
    }

    pub(super) fn change_broadcasts(
        &self,
        add: &[(&[u8], &[u8])],
        remove: &[Vec<u8>],
    ) -> Result<(), StoreError> {
        self.write(|db| {
            let mut table = db.open_table(BROADCASTS)?;
            for (name, body) in add {
                table.insert(*name, *body)?;
            }
            for name in remove {
                table.remove(&name[..])?;
            }
            Ok(())
        })
    }

    pub(super) fn downloads(&self) -> Result<Vec<(Hash, Vec<u8>)>, StoreError> {
        self.read(|db| {
            let mut rows = Vec::new();
            for row in db.open_table(DOWNLOADS)?.iter()? {
                let (hash, row) = row?;
                rows.push((Hash::from_bytes(*hash.value()), row.value().to_vec()));
            }
            Ok(rows)
        })
    }

    pub(super) fn save_download(&self, hash: &Hash, row: &[u8]) -> Result<(), StoreError> {
        self.write(|db| {
            db.open_table(DOWNLOADS)?.insert(hash.as_bytes(), row)?;
            Ok(())
        })
    }

    pub(super) fn forget_download(&self, hash: &Hash) -> Result<(), StoreError> {
        self.write(|db| {
            db.open_table(DOWNLOADS)?.remove(hash.as_bytes())?;
            Ok(())
        })
    }

    pub(super) fn owner(&self, network: &str) -> Result<Option<NodeId>, StoreError> {
        self.read(|db| {
            let row = db.open_table(OWNERS)?.get(network)?;
            Ok(row.map(|row| NodeId::from_bytes(*row.value())))
        })
    }

    pub(super) fn away(&self) -> Result<Vec<(NodeId, u64)>, StoreError> {
        self.read(|db| {
            let mut nodes = Vec::new();
            for row in db.open_table(AWAY)?.iter()? {
                let (id, until) = row?;
                nodes.push((NodeId::from_bytes(*id.value()), until.value()));
            }
            Ok(nodes)
        })
    }

    pub(super) fn save_away(&self, number: u64, nodes: &[(NodeId, u64)]) -> Result<(), StoreError> {
        let mut newest = lock(&self.newest_away);
        if number < *newest {
            return Ok(());
        }
        *newest = number;
        self.write(|db| {
            db.delete_table(AWAY)?;
            let mut table = db.open_table(AWAY)?;
            for (id, until) in nodes {
                table.insert(id.as_bytes(), *until)?;
            }
            Ok(())
        })
    }

    pub(super) fn save_owner(&self, network: &str, owner: NodeId) -> Result<(), StoreError> {
        self.write(|db| {
            db.open_table(OWNERS)?.insert(network, owner.as_bytes())?;
            Ok(())
        })
    }

    pub(super) fn prune(
        &self,
        mut keep_file: impl FnMut(&Path) -> bool,
        mut keep_list: impl FnMut(&Hash) -> bool,
    ) -> Result<(), StoreError> {
        self.write(|db| {
            db.open_table(FILES)?.retain(|path, _| keep_file(&path_of(path)))?;
            db.open_table(LISTS)?.retain(|hash, _| keep_list(&Hash::from_bytes(*hash)))?;
            Ok(())
        })
    }

    fn read<T>(
        &self,
        work: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        self.guard(|database| work(&database.begin_read()?))
    }

    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        self.guard(|database| {
            let transaction = database.begin_write()?;
            transaction.open_table(PEERS)?;
            transaction.open_table(SHARES)?;
            transaction.open_table(FILES)?;
            transaction.open_table(LISTS)?;
            transaction.open_table(BROADCASTS)?;
            transaction.open_table(DOWNLOADS)?;
            transaction.open_table(OWNERS)?;
            transaction.open_table(AWAY)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }

    /// Runs a transaction, unless an earlier one has shown that the file is damaged.
    fn guard<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let damaged = |source| StoreError::Damaged { file: self.file.clone(), source };
        if self.is_damaged.load(Ordering::Acquire) {
            return Err(damaged(None));
        }
        let open = self.opened()?;
        let Some(database) = &*open else {
            return Err(StoreError::Database(Box::new(redb::Error::PreviousIo)));
        };
        match catch(|| work(database)) {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) if !is_damage(&error) && has_ended_use(&error) => {
                drop(open);
                self.close();
                Err(StoreError::Database(Box::new(error)))
            }
            Ok(Err(error)) if is_damage(&error) => {
                self.is_doubtful.store(true, Ordering::Release);
                Err(damaged(Some(Box::new(error))))
            }
            Ok(Err(error)) => Err(StoreError::Database(Box::new(error))),
            Err(Panicked) => {
                self.is_doubtful.store(true, Ordering::Release);
                self.is_damaged.store(true, Ordering::Release);
                Err(damaged(None))
            }
        }
    }
}

impl Disk {
    /// Returns the database, opened again if it was closed after an error.
    fn opened(&self) -> Result<RwLockReadGuard<'_, Option<Database>>, StoreError> {
        let open = read(&self.database);
        if open.is_some() {
            return Ok(open);
        }
        drop(open);
        let mut closed = write(&self.database);
        if closed.is_none() {
            // Where the disk is gone no other takes its place.
            let there = fs::metadata(&self.file);
            there.map_err(|error| StoreError::Database(Box::new(error.into())))?;
            let opened = Self::open_file(&self.folder, &self.file);
            *closed = Some(opened.map_err(|error| match error {
                StoreError::Open { error, .. } => StoreError::Database(error),
                StoreError::Damaged { .. } => {
                    self.is_damaged.store(true, Ordering::Release);
                    error
                }
                other => other,
            })?);
            tracing::info!(file = %self.file.display(), "the state file is in use again");
        }
        drop(closed);
        Ok(read(&self.database))
    }

    /// Closes the file as it is to be left for the next start. A later call opens it again.
    pub(super) fn finish(&self) {
        let mut open = write(&self.database);
        let Some(database) = open.take() else {
            // It is closed already, or else the next start has to check it.
            return;
        };
        // The lock is held until the mark is there: a call that opens the file removes it.
        if catch(|| drop(database)).is_err() {
            tracing::warn!(file = %self.file.display(), "the state file turned out to be damaged");
        } else if !self.is_doubtful.load(Ordering::Acquire)
            && let Err(error) = leave_mark(&self.file)
        {
            tracing::debug!(%error, "the next start has to check the state file");
        }
    }

    /// Closes the file after an error of the system.
    fn close(&self) {
        let database = write(&self.database).take();
        if catch(|| drop(database)).is_err() {
            tracing::debug!(file = %self.file.display(), "the state file was not closed cleanly");
        }
    }
}

/// Describes why the database at `file` in `folder` is not opened.
fn refusal(folder: &Path, file: &Path, refused: Refused) -> StoreError {
    let file = file.to_owned();
    match refused {
        Refused::Newer(schema) => StoreError::NewerSchema { file, schema },
        Refused::NotCopied(error) => {
            StoreError::NotMigrated { file, source: Box::new(error.into()) }
        }
        Refused::Database(redb::Error::DatabaseAlreadyOpen) => StoreError::InUse(folder.to_owned()),
        Refused::Database(error) => {
            let source = Box::new(error);
            match is_damage(&source) {
                true => StoreError::Damaged { file, source: Some(source) },
                false => StoreError::Open { folder: folder.to_owned(), error: source },
            }
        }
    }
}

/// Returns whether redb refuses everything after `error`, until the file is opened again.
fn has_ended_use(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo)
}
