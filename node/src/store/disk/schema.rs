//! The number of the database's schema, and how a database of an older one is brought up to date.
//!
//! Before a database of another schema is opened its file is looked at without a change to it. A newer
//! one is refused. Of an older one a copy is kept beside it, byte by byte, and then one transaction makes
//! all changes and writes the new number: a node that is killed leaves the old database or the new one.

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

use super::view::View;
use super::{CACHE, STATE_FILE};
use crate::disk::path_bytes::path_of;
use crate::disk::{private, sync_folder};
use crate::store::KnownShare;
use crate::store::tables::SHARES;

/// The schema that this version writes, and the only one that it works with.
pub(in crate::store) const SCHEMA: u64 = 2;

/// The schema of a database without a number.
const UNNUMBERED: u64 = 1;

/// Numbers by their names; that of the schema is `schema`.
pub(in crate::store) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(in crate::store) const KEY: &str = "schema";

/// What was shared, with everyone, as it was written before a share had more to it than its hash.
pub(in crate::store) const OLD_SHARES: TableDefinition<'_, &[u8], &[u8; 32]> =
    TableDefinition::new("shares");

/// A table that has the name of [`OLD_SHARES`] and another type. Programs of schema 1 do not know of
/// schemas, but they open that table when they start: with this one in its place they refuse the state,
/// and change nothing.
pub(in crate::store) const GUARD: TableDefinition<'_, &str, u64> = TableDefinition::new("shares");

/// A change to all rows of the older schema.
type Migration = fn(&WriteTransaction) -> Result<(), redb::Error>;

/// For each older schema what makes it the next one. Tables that are new need nothing: every
/// transaction makes those that are missing.
const MIGRATIONS: [(u64, Migration); 1] = [(1, take_over_old_shares)];

/// Copies that are kept beside each other.
const MAX_COPIES: u32 = 1000;

/// Why a database is not opened because of its schema.
#[derive(Debug)]
pub(super) enum Refused {
    /// It has this schema, which is newer.
    Newer(u64),
    /// It is of an older schema, and no copy of it can be kept.
    NotCopied(io::Error),
    Database(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

/// Looks at the database in `file`, which is at `path`, and keeps a copy of it in `folder` if it is of an
/// older schema. Does not change it.
pub(super) fn look(folder: &Path, file: &File) -> Result<(), Refused> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    let file = Arc::new(FileBackend::new(file.try_clone()?)?);
    // It is locked until the copy is there: what is copied is what was looked at.
    let database = builder.create_with_backend(View::new(Arc::clone(&file))?)?;
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

/// Returns the schema of a database; `None` if there is nothing in it.
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

/// Brings a database of schema `found` up to date.
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

/// Copies `file` to a name in `folder` that nothing has yet, and returns it. A copy that is the same is
/// not made again.
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
            io::copy(&mut Content { file, at: 0 }, &mut to)?;
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
    let (a, b) = (BufReader::new(Content { file, at: 0 }), BufReader::new(other));
    for (a, b) in a.bytes().zip(b.bytes()) {
        if a? != b? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The bytes of a file that is locked, from `at` on. On Windows no other handle can read it.
struct Content<'f> {
    file: &'f FileBackend,
    at: u64,
}

impl Read for Content<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.file.len()?.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let len = left.min(out.len());
        self.file.read(self.at, out.get_mut(..len).unwrap_or_default())?;
        self.at = self.at.saturating_add(len as u64);
        Ok(len)
    }
}

/// From 1: moves the rows of the old table into the new one. The next look at each path finds out what
/// they lack.
fn take_over_old_shares(db: &WriteTransaction) -> Result<(), redb::Error> {
    let mut shares = db.open_table(SHARES)?;
    for row in db.open_table(OLD_SHARES)?.iter()? {
        let (path, hash) = row?;
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
