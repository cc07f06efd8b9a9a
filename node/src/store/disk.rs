//! The database on disk. Runs each call in a transaction, and handles damage and errors of the system.

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
use schema::NotOpened;

/// Opens a table. Returns `None` if the database does not have it: a database of an earlier version gets new
/// tables with its first transaction that writes.
fn existing<K: Key + 'static, V: Value + 'static>(
    db: &redb::ReadTransaction,
    table: TableDefinition<'_, K, V>,
) -> Result<Option<redb::ReadOnlyTable<K, V>>, redb::Error> {
    match db.open_table(table) {
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        opened => Ok(Some(opened?)),
    }
}

#[cfg(test)]
pub(super) use schema::{BLOCKING_TABLE, META, OLD_SHARES, SCHEMA_KEY};
pub(super) use schema::{SCHEMA, migrate, schema_of};

/// The database's file in the state folder.
pub(super) const STATE_FILE: &str = "state.redb";

/// Memory for cached pages, in bytes. redb's default of 1 GiB is too much for a node.
const CACHE: usize = 16 << 20;

/// Length of the magic number at the start of redb's files, in bytes.
const MAGIC: usize = 9;

/// Length of the block that redb writes first, in bytes.
const HEAD: usize = 4096;

/// Maximum size of a database whose creation was cut short, in bytes. redb creates a file of 1 MiB and one
/// block.
const MAX_UNFINISHED: u64 = 4 << 20;

/// New name of the first damaged database. The names of further ones have a number behind it.
const DAMAGED_FILE: &str = "state.redb.damaged";

/// Maximum number of damaged databases that are kept.
const MAX_DAMAGED: u32 = 1000;

/// The redb database of a state folder.
///
/// redb panics on some damaged files when it opens, reads, writes or closes them. So all of these calls run
/// inside [`catch`]. After a panic the file is not used any more, because redb's memory may not agree with
/// it.
///
/// After an error of the system, such as a full disk, redb refuses every call until the file is opened again.
/// So after such an error the file is closed, and the next call opens it.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
    file: PathBuf,
    /// The open database; `None` after an error of the system, and after [`Disk::close`].
    database: RwLock<Option<Database>>,
    /// The number of the newest saved list of nodes that are kept away.
    pub(super) newest_kept_away: Mutex<u64>,
    /// True after a panic in redb. Then the file is not used any more.
    is_damaged: AtomicBool,
    /// True once damage was found. Then closing leaves no mark, so that the next start checks the file.
    needs_check: AtomicBool,
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.close();
    }
}

/// Empties a database whose creation was cut short, because the node was killed or the disk was full.
///
/// redb writes its magic number last, so it would report such a file as damaged for ever. In such a file, all
/// bytes after the first block are zero.
fn empty_if_unfinished(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    // If another node is creating the file right now, it has locked the file.
    if file.try_lock().is_err() {
        return Ok(());
    }
    let mut head = [0; HEAD];
    if file.metadata()?.len() > MAX_UNFINISHED || (&file).read_exact(&mut head).is_err() {
        return Ok(());
    }
    let mut rest = Vec::new();
    (&file).take(MAX_UNFINISHED).read_to_end(&mut rest)?;
    if head.starts_with(&[0; MAGIC]) && rest.iter().all(|byte| *byte == 0) {
        file.set_len(0)?;
    }
    Ok(())
}

/// Removes a database that this node could not create, for example because the disk is full. Keeps it if another
/// node uses it.
fn remove_unused(path: &Path) {
    if File::open(path).is_ok_and(|file| file.try_lock().is_ok()) {
        let _ = fs::remove_file(path);
    }
}

/// Runs `work`, which calls redb. Turns a panic into an error.
fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked)
}

/// A panic in redb.
#[derive(Debug)]
struct Panicked;

/// Returns whether `error` means that the file is damaged. All other errors come from the system.
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
    /// Removes the mark in `folder`, so that the next start checks the file.
    pub(super) fn require_check(folder: &Path) {
        // An error is ignored: if the mark can't be removed, opening the database fails too.
        let _ = fs::remove_file(folder.join(CLOSED_FILE));
    }

    /// Renames the damaged file in `folder`, and returns its new path. Replaces no other file.
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
        let was_there = file.exists();
        let opened = Self::open_file(folder, &file);
        if !was_there && matches!(opened, Err(StoreError::Open { .. })) {
            remove_unused(&file);
        }
        let database = opened?;
        let disk = Self {
            folder: folder.to_owned(),
            file,
            database: RwLock::new(Some(database)),
            is_damaged: false.into(),
            newest_kept_away: Mutex::new(0),
            needs_check: false.into(),
        };
        disk.migrate_if_older().map(|()| disk)
    }

    /// Creates the tables of a new database, or migrates a database of an older schema.
    fn migrate_if_older(&self) -> Result<(), StoreError> {
        let found = self.run(schema_of)?;
        let migrated = match found {
            Some(SCHEMA) => return Ok(()),
            Some(newer) if newer > SCHEMA => {
                return Err(store_error(&self.folder, &self.file, NotOpened::Newer(newer)));
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
            Ok(opened) => opened.map_err(|reason| store_error(folder, file, reason)),
            Err(Panicked) => Err(StoreError::Damaged { file: file.to_owned(), source: None }),
        }
    }

    fn try_to_open(folder: &Path, file: &Path) -> Result<Database, NotOpened> {
        private::create_folder(folder)?;
        private::make_state_private(folder)?;
        let was_there = file.exists();
        let handle = private::open_or_create(file)?;
        let metadata = handle.metadata()?;
        if !metadata.is_file() {
            let error = format!("{STATE_FILE} is not a regular file");
            return Err(io::Error::other(error).into());
        }
        let closed = folder.join(CLOSED_FILE);
        let last_mark = read_mark(&closed);
        if last_mark.is_err() {
            empty_if_unfinished(file)?;
        }
        let metadata = handle.metadata()?;
        if was_there && metadata.len() == 0 {
            // With a mark, a node has closed the file, and then it is never empty. Without a mark, a node may
            // have been killed while it created the file.
            if last_mark.is_ok() {
                return Err(StorageError::Corrupted("the file is empty".to_owned()).into());
            }
            tracing::warn!(
                file = %file.display(),
                "the state file was empty, so no shares and no peers are known"
            );
        }
        if metadata.len() > 0 {
            schema::check(folder, &handle)?;
        }
        let is_unchanged = last_mark.is_ok_and(|last_mark| last_mark == mark(&metadata));
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE);
        let mut database = builder.create_file(handle)?;
        // `make_state_private` does not follow links, but the state file may be one.
        private::make_private(file);
        // The mark is removed after the file is locked. Before, it could have been the mark of another node.
        let _ = fs::remove_file(closed);
        // redb does not compare checksums when it reads. Without this check, damage would show much later, as
        // a panic or as wrong rows. The check takes half a second for 100,000 shared files. It is skipped if
        // the file has not changed since it was closed.
        if metadata.len() > 0 && !is_unchanged && !database.check_integrity()? {
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
            let Some(table) = existing(db, table)? else { return Ok(rows) };
            for row in table.iter()? {
                let (key, value) = row?;
                let key = K::as_bytes(&key.value()).as_ref().to_vec();
                rows.push((key, V::as_bytes(&value.value()).as_ref().to_vec()));
            }
            Ok(rows)
        })
    }

    /// Returns the value of each key, in the order of `keys`, or `None` if the table does not have the key.
    pub(super) fn values<'k, K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.read(|db| {
            let table = existing(db, table)?;
            let mut values = Vec::new();
            for key in keys {
                let value = match &table {
                    Some(table) => table.get(K::from_bytes(key))?,
                    None => None,
                };
                values.push(value.map(|value| V::as_bytes(&value.value()).as_ref().to_vec()));
            }
            Ok(values)
        })
    }

    fn read<T>(
        &self,
        work: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        self.run(|database| work(&database.begin_read()?))
    }

    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        self.run(|database| {
            let transaction = database.begin_write()?;
            tables::create_missing(&transaction)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }

    /// Runs `work` on the open database. Handles its errors and panics, and refuses a file that is known to
    /// be damaged.
    fn run<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let damaged = |source| StoreError::Damaged { file: self.file.clone(), source };
        if self.is_damaged.load(Ordering::Acquire) {
            return Err(damaged(None));
        }
        let open = self.open_database()?;
        let Some(database) = &*open else {
            return Err(StoreError::Database(Box::new(redb::Error::PreviousIo)));
        };
        match catch(|| work(database)) {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) if !is_damage(&error) && must_reopen(&error) => {
                // `close_after_error` takes the lock for writing, so the read lock has to be released.
                drop(open);
                self.close_after_error();
                Err(StoreError::Database(Box::new(error)))
            }
            Ok(Err(error)) if is_damage(&error) => {
                self.needs_check.store(true, Ordering::Release);
                Err(damaged(Some(Box::new(error))))
            }
            Ok(Err(error)) => Err(StoreError::Database(Box::new(error))),
            Err(Panicked) => {
                self.needs_check.store(true, Ordering::Release);
                self.is_damaged.store(true, Ordering::Release);
                Err(damaged(None))
            }
        }
    }
}

impl Disk {
    /// Returns the database. Opens it first if it was closed.
    fn open_database(&self) -> Result<RwLockReadGuard<'_, Option<Database>>, StoreError> {
        let open = read(&self.database);
        if open.is_some() {
            return Ok(open);
        }
        drop(open);
        let mut closed = write(&self.database);
        // Another thread may have opened the file while this one waited for the lock.
        if closed.is_none() {
            // If the disk was removed, a new database must not be created in place of the file.
            let found = fs::metadata(&self.file);
            found.map_err(|error| StoreError::Database(Box::new(error.into())))?;
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

    /// Closes the file, and leaves a mark so that the next start need not check the file. The next call of
    /// another method opens the file again.
    pub(super) fn close(&self) {
        let mut open = write(&self.database);
        let Some(database) = open.take() else {
            // The file is closed already. After an error there is no mark, so the next start checks the file.
            return;
        };
        // The lock is held until the mark is written. Otherwise another thread could open the file, which
        // removes the mark, before the mark is written.
        if catch(|| drop(database)).is_err() {
            tracing::warn!(file = %self.file.display(), "the state file turned out to be damaged");
        } else if !self.needs_check.load(Ordering::Acquire)
            && let Err(error) = leave_mark(&self.file)
        {
            tracing::debug!(%error, "the next start has to check the state file");
        }
    }

    /// Closes the file after an error of the system. Leaves no mark.
    fn close_after_error(&self) {
        // If the file is damaged, dropping the database may panic.
        let database = write(&self.database).take();
        if catch(|| drop(database)).is_err() {
            tracing::debug!(file = %self.file.display(), "the state file was not closed cleanly");
        }
    }
}

/// Turns the reason why a database was not opened into the error for the caller.
fn store_error(folder: &Path, file: &Path, reason: NotOpened) -> StoreError {
    let file = file.to_owned();
    match reason {
        NotOpened::Newer(schema) => StoreError::NewerSchema { file, schema },
        NotOpened::NotCopied(error) => {
            StoreError::NotMigrated { file, source: Box::new(error.into()) }
        }
        NotOpened::Database(redb::Error::DatabaseAlreadyOpen) => {
            StoreError::InUse(folder.to_owned())
        }
        NotOpened::Database(error) => {
            let source = Box::new(error);
            if is_damage(&source) {
                StoreError::Damaged { file, source: Some(source) }
            } else {
                StoreError::Open { folder: folder.to_owned(), error: source }
            }
        }
    }
}

/// Returns whether redb refuses every call after `error` until the file is opened again.
fn must_reopen(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo)
}
