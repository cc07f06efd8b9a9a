//! The schema number of the database, and the migration of older databases.
//!
//! Before a database is opened, its schema number is read without changing the file. A newer database is
//! refused. Of an older one a copy is kept beside it, byte by byte. Then one transaction makes all changes
//! and writes the new number, so that a node that is killed leaves the old database or the new one.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use peerkit_proto::files::{Access, FileKind, FileName, SharedFile};
use peerkit_proto::id::Hash;
use redb::backends::FileBackend;
use redb::{
    Builder, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableError,
    WriteTransaction,
};

use super::view::ReadOnlyView;
use super::{CACHE, STATE_FILE};
use crate::disk::path_bytes::path_of;
use crate::disk::{private, sync_folder};
use crate::store::KnownShare;
use crate::store::tables::SHARES;

/// The schema that this version writes, and the only one that it works with.
pub(in crate::store) const SCHEMA: u64 = 2;

/// The schema of a database without a number.
const UNNUMBERED: u64 = 1;

/// Numbers by their names. [`KEY`] is the name of the schema number.
pub(in crate::store) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(in crate::store) const KEY: &str = "schema";

/// The table of shares in schema 1, which had paths and hashes only. All shares were open.
pub(in crate::store) const OLD_SHARES: TableDefinition<'_, &[u8], &[u8; 32]> =
    TableDefinition::new("shares");

/// A table with the name of [`OLD_SHARES`] and another type. Programs of schema 1 do not check the schema
/// number, but they open that table first when they start. With this table in its place redb refuses, so
/// they do not start, and change nothing.
pub(in crate::store) const GUARD: TableDefinition<'_, &str, u64> = TableDefinition::new("shares");

/// A step that turns a database into the next schema.
type Migration = fn(&WriteTransaction) -> Result<(), redb::Error>;

/// The step for each older schema. New tables need no step: every transaction creates those that are
/// missing.
const MIGRATIONS: [(u64, Migration); 1] = [(1, take_over_old_shares)];

/// Most copies that are kept.
const MAX_COPIES: u32 = 1000;

/// The reason why a database is not opened.
#[derive(Debug)]
pub(super) enum Refused {
    /// The database has this newer schema.
    Newer(u64),
    /// The database has an older schema, and it can't be copied.
    NotCopied(io::Error),
    Database(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

/// Reads the schema of the database in `file` without changing it. Keeps a copy in `folder` if the schema is
/// older.
pub(super) fn look(folder: &Path, file: &File) -> Result<(), Refused> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    // A clone shares the lock, which is released with the backend.
    let file = Arc::new(FileBackend::new(file.try_clone()?)?);
    // The lock is held until the copy is made, so that no other node changes the file in between.
    let database = builder.create_with_backend(ReadOnlyView::new(Arc::clone(&file))?)?;
    match schema_of(&database)? {
        Some(newer) if newer > SCHEMA => Err(Refused::Newer(newer)),
        Some(older) if older < SCHEMA => {
            let copy = keep_copy(folder, &file).map_err(Refused::NotCopied)?;
            tracing::info!(
                copy = %copy.display(),
                "the state is of an earlier version (schema {older}) and becomes schema {SCHEMA}"
            );
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Returns the schema of a database; `None` if it is empty.
pub(in crate::store) fn schema_of(
    database: &impl ReadableDatabase,
) -> Result<Option<u64>, redb::Error> {
    let transaction = database.begin_read()?;
    match transaction.open_table(META) {
        Ok(meta) => Ok(Some(meta.get(KEY)?.map_or(UNNUMBERED, |number| number.value()))),
        Err(TableError::TableDoesNotExist(_)) => {
            Ok(transaction.list_tables()?.next().map(|_| UNNUMBERED))
        }
        Err(error) => Err(error.into()),
    }
}

/// Migrates a database of schema `found`.
pub(in crate::store) fn migrate(
    found: Option<u64>,
    db: &WriteTransaction,
) -> Result<(), redb::Error> {
    let steps = MIGRATIONS.iter().filter(|(from, _)| found.is_some_and(|found| found <= *from));
    for (_, migration) in steps {
        migration(db)?;
    }
    db.open_table(GUARD)?;
    db.open_table(META)?.insert(KEY, SCHEMA)?;
    Ok(())
}

/// Copies `file` to an unused name in `folder`, and returns the path. An existing equal copy is used
/// instead.
fn keep_copy(folder: &Path, file: &FileBackend) -> io::Result<PathBuf> {
    let part = folder.join(format!("{STATE_FILE}.part"));
    for number in 1..=MAX_COPIES {
        let numbered = if number == 1 { String::new() } else { format!("-{number}") };
        let copy = folder.join(format!("{STATE_FILE}.before-{SCHEMA}{numbered}"));
        if fs::symlink_metadata(&copy).is_ok() {
            if is_same(file, &copy)? {
                return Ok(copy);
            }
            continue;
        }
        let copied = private::create_new(&part).and_then(|mut to| {
            io::copy(&mut LockedContent { file, at: 0 }, &mut to)?;
            // On disk before it has its name: a file with the name is a whole copy.
            to.sync_all()?;
            fs::rename(&part, &copy)?;
            sync_folder(folder)
        });
        return copied.map(|()| copy).inspect_err(|_| drop(fs::remove_file(&part)));
    }
    Err(io::Error::other("too many copies of earlier states"))
}

/// Returns whether the file at `path` is a regular one with the content of `file`.
fn is_same(file: &FileBackend, path: &Path) -> io::Result<bool> {
    let other = private::open_to_read(path)?;
    let found = other.metadata()?;
    if !found.is_file() || found.len() != file.len()? {
        return Ok(false);
    }
    let (a, b) = (BufReader::new(LockedContent { file, at: 0 }), BufReader::new(other));
    for (a, b) in a.bytes().zip(b.bytes()) {
        if a? != b? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The bytes of a locked file from `at` on. Read through the locking handle, as no other can on Windows.
struct LockedContent<'f> {
    file: &'f FileBackend,
    at: u64,
}

impl Read for LockedContent<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.file.len()?.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let len = left.min(out.len());
        self.file.read(self.at, out.get_mut(..len).unwrap_or_default())?;
        self.at = self.at.saturating_add(len as u64);
        Ok(len)
    }
}

/// Migrates schema 1: moves the rows of the old table of shares into the new one. The next scan of each path
/// fills in what they lack.
fn take_over_old_shares(db: &WriteTransaction) -> Result<(), redb::Error> {
    let mut shares = db.open_table(SHARES)?;
    for row in db.open_table(OLD_SHARES)?.iter()? {
        let (path, hash) = row?;
        // A name that is not possible today can't be shared any more.
        let Ok(name) = FileName::of_path(&path_of(path.value())) else { continue };
        let hash = Hash::from_bytes(*hash.value());
        let shared = SharedFile { hash, name, size: 0, kind: FileKind::File };
        let share = KnownShare { shared, access: Access::Open };
        shares.insert(path.value(), &share.encode()[..])?;
    }
    drop(shares);
    db.delete_table(OLD_SHARES)?;
    Ok(())
}
