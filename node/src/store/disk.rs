//! The database on disk: one transaction for each call, and the handling of damage.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock, RwLockReadGuard};

use redb::{
    Database, Key, ReadableDatabase, ReadableTable, StorageError, TableDefinition, Value,
    WriteTransaction,
};

use super::StoreError;
use super::tables::{self, Row};
use crate::disk::private;
use crate::lock::{read, write};

mod mark;
mod schema;
mod view;

pub(super) use mark::{CLOSED_FILE, leave_mark};
use mark::{mark, read_mark};
use schema::Refused;
#[cfg(test)]
pub(super) use schema::{GUARD, KEY, META, OLD_SHARES};
pub(super) use schema::{SCHEMA, migrate, schema_of};

/// The database's file in the state folder.
pub(super) const STATE_FILE: &str = "state.redb";

/// Memory for cached pages, in bytes. redb's default of 1 GiB is meant for servers.
const CACHE: usize = 16 << 20;

/// Length of redb's magic number, at the start of its files.
const MAGIC: usize = 9;

/// Length of the block that redb writes first.
const HEAD: usize = 4096;

/// Largest size of a database that redb has just created, which has 1 MiB and a block.
const UNFINISHED: u64 = 4 << 20;

/// Prefix of the names to which damaged databases are moved.
const DAMAGED_FILE: &str = "state.redb.damaged";

/// Most damaged databases that are kept.
const MAX_DAMAGED: u32 = 1000;

/// The redb database of a state folder.
///
/// redb panics on some damaged files when it opens, reads, writes or closes them. So each such call is made
/// by [`catch`]. After a panic the file is not used any more: redb's memory may no longer agree with it.
///
/// After an error of the system, such as a full disk, redb refuses every call until the file is opened
/// again. So the file is closed then, and the next call opens it.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
    file: PathBuf,
    /// `None` after an error of the system, and once the node has stopped.
    database: RwLock<Option<Database>>,
    /// The number of the newest list of nodes that are to be left alone.
    pub(super) newest_away: Mutex<u64>,
    /// Set after a panic in redb: the file is not used any more.
    is_damaged: AtomicBool,
    /// Set once damage was found: the next start has to check the file.
    is_doubtful: AtomicBool,
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Empties a database whose creation was cut short, because a node was killed or the disk was full. redb
/// writes its magic number last, and would report such a file as damaged for ever. Only the first block of
/// such a file has been written.
fn empty_an_unfinished(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    // Another node that is creating the file has locked it.
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

/// A panic in redb.
#[derive(Debug)]
struct Panicked;

/// Returns whether `error` says that the file is damaged. Other errors are the system's.
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
    /// Makes the next start check the file in `folder`.
    pub(super) fn doubt(folder: &Path) {
        // If it can't be removed, the folder can't be written, and opening the database fails as well.
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

    /// Creates the tables of a new database, and migrates one of an older schema.
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
            // A node that is killed while it creates the file leaves it empty, and leaves no mark.
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
        // The file may be a link to a file in another folder, which `tighten` has not seen.
        private::make_private(file);
        // Removed only now that the file is locked: before, it may have been another node's.
        let _ = fs::remove_file(closed);
        // redb does not compare checksums when it reads, so without this check damage would show much later,
        // as a panic or as wrong rows. The check takes half a second for 100,000 files. It is left out if
        // the file is as the last node has left it.
        if metadata.len() > 0 && !is_as_left && !database.check_integrity()? {
            tracing::info!(folder = %folder.display(), "the state file was repaired");
        }
        Ok(database)
    }

    /// Returns the rows of a table, in the order of their keys.
    pub(super) fn rows<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
    ) -> Result<Vec<Row>, StoreError> {
        self.read(|db| {
            let mut rows = Vec::new();
            for row in db.open_table(table)?.iter()? {
                let (key, value) = row?;
                let key = K::as_bytes(&key.value()).as_ref().to_vec();
                rows.push((key, V::as_bytes(&value.value()).as_ref().to_vec()));
            }
            Ok(rows)
        })
    }

    /// Returns the values of some keys of a table, in the same order.
    pub(super) fn values<'k, K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.read(|db| {
            let table = db.open_table(table)?;
            let mut values = Vec::new();
            for key in keys {
                let value = table.get(K::from_bytes(key))?;
                values.push(value.map(|value| V::as_bytes(&value.value()).as_ref().to_vec()));
            }
            Ok(values)
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
            tables::make(&transaction)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }

    /// Runs a transaction, unless the file is known to be damaged.
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
                // The read lock would block `close`, which takes the lock for writing.
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
        // Another thread may have opened the file while this one waited for the lock.
        if closed.is_none() {
            // If the disk is gone, a new database must not be created in its place.
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

    /// Closes the file, and leaves a mark that saves the next start the check. A later call opens it again.
    pub(super) fn finish(&self) {
        let mut open = write(&self.database);
        let Some(database) = open.take() else {
            // It is closed already, or was closed after an error: then the next start has to check it.
            return;
        };
        // The lock is held until the mark is written, as opening the file removes the mark.
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
        // Dropping the database may panic as well, if the file is damaged.
        let database = write(&self.database).take();
        if catch(|| drop(database)).is_err() {
            tracing::debug!(file = %self.file.display(), "the state file was not closed cleanly");
        }
    }
}

/// Returns the error for a database at `file` in `folder` that is not opened.
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
            if is_damage(&source) {
                StoreError::Damaged { file, source: Some(source) }
            } else {
                StoreError::Open { folder: folder.to_owned(), error: source }
            }
        }
    }
}

/// Returns whether redb refuses every call after `error`, until the file is opened again.
fn has_ended_use(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo)
}
