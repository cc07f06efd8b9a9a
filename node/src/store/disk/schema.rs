//! The schema number of the database, and the migration of older databases.
//!
//! Before a database is opened, its schema number is read without changing the file. A database of a newer
//! schema is refused. A database of an older schema is copied to another file, byte by byte. Then one
//! transaction makes all changes and writes the new number. So if the node is killed, the old or the new
//! database is left.

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

/// The schema of this version. Older databases are migrated to it.
pub(in crate::store) const SCHEMA: u64 = 2;

/// The schema of a database without a number.
const UNNUMBERED: u64 = 1;

/// The table of named numbers. The schema number is under [`SCHEMA_KEY`].
pub(in crate::store) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(in crate::store) const SCHEMA_KEY: &str = "schema";

/// The table of shares in schema 1. It has only paths and hashes, because all shares were open to all nodes.
pub(in crate::store) const OLD_SHARES: TableDefinition<'_, &[u8], &[u8; 32]> =
    TableDefinition::new("shares");

/// A table with the name of [`OLD_SHARES`] and another type. It keeps programs of schema 1 from using the
/// database: they do not check the schema number, but they open the old table first. redb refuses that
/// because of the type, so they do not start, and change nothing.
pub(in crate::store) const BLOCKING_TABLE: TableDefinition<'_, &str, u64> =
    TableDefinition::new("shares");

/// A step that migrates a database to the next schema.
type Migration = fn(&WriteTransaction) -> Result<(), redb::Error>;

/// The step for each older schema. New tables need no step, because every transaction creates missing tables.
const MIGRATIONS: [(u64, Migration); 1] = [(1, migrate_old_shares)];

/// Maximum number of copies that are kept.
const MAX_COPIES: u32 = 1000;

/// The reason why a database is not opened.
#[derive(Debug)]
pub(super) enum NotOpened {
    /// The database has this schema, which is newer than that of this version.
    Newer(u64),
    /// The database has an older schema and could not be copied.
    NotCopied(io::Error),
    /// redb or the system has returned this error.
    Database(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for NotOpened {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

/// Checks the schema of the database in `file` without changing the file. If the schema is older, keeps a
/// copy of the file in `folder`.
pub(super) fn check(folder: &Path, file: &File) -> Result<(), NotOpened> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    // The clone and the original share one lock, which is released when the backend is dropped.
    let file = Arc::new(FileBackend::new(file.try_clone()?)?);
    // The lock is held until the copy is made, so that no other node changes the file in between.
    let database = builder.create_with_backend(ReadOnlyView::new(Arc::clone(&file))?)?;
    match schema_of(&database)? {
        Some(newer) if newer > SCHEMA => Err(NotOpened::Newer(newer)),
        Some(older) if older < SCHEMA => {
            let copy = keep_copy(folder, &file).map_err(NotOpened::NotCopied)?;
            tracing::info!(
                copy = %copy.display(),
                "the state is of an earlier version (schema {older}) and is migrated to schema {SCHEMA}"
            );
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Returns the schema of a database, or `None` if the database has no tables.
pub(in crate::store) fn schema_of(
    database: &impl ReadableDatabase,
) -> Result<Option<u64>, redb::Error> {
    let transaction = database.begin_read()?;
    match transaction.open_table(META) {
        Ok(meta) => Ok(Some(meta.get(SCHEMA_KEY)?.map_or(UNNUMBERED, |number| number.value()))),
        Err(TableError::TableDoesNotExist(_)) => {
            Ok(transaction.list_tables()?.next().map(|_| UNNUMBERED))
        }
        Err(error) => Err(error.into()),
    }
}

/// Migrates a database from schema `found` to [`SCHEMA`], or begins a new database if `found` is `None`.
pub(in crate::store) fn migrate(
    found: Option<u64>,
    db: &WriteTransaction,
) -> Result<(), redb::Error> {
    let steps = MIGRATIONS.iter().filter(|(from, _)| found.is_some_and(|found| found <= *from));
    for (_, migration) in steps {
        migration(db)?;
    }
    db.open_table(BLOCKING_TABLE)?;
    db.open_table(META)?.insert(SCHEMA_KEY, SCHEMA)?;
    Ok(())
}

/// Copies `file` to an unused name in `folder`, unless an equal copy exists. Returns the path of the copy.
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
            // The data is on disk before the copy gets its name, so a file with that name is complete.
            to.sync_all()?;
            fs::rename(&part, &copy)?;
            sync_folder(folder)
        });
        return copied.map(|()| copy).inspect_err(|_| drop(fs::remove_file(&part)));
    }
    Err(io::Error::other("too many copies of earlier states"))
}

/// Returns whether there is a regular file at `path` with the same content as `file`.
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

/// The bytes of a locked file from `at` on. They are read through the handle that holds the lock, because on
/// Windows no other handle can read them.
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

/// Migrates schema 1: moves the rows of the old table of shares into the new one. Sizes and kinds are not
/// known, so the next scan of each path fills them in.
fn migrate_old_shares(db: &WriteTransaction) -> Result<(), redb::Error> {
    let mut shares = db.open_table(SHARES)?;
    for row in db.open_table(OLD_SHARES)?.iter()? {
        let (path, hash) = row?;
        // Names that are invalid today can't be shared any more.
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
