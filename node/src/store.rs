//! What a node remembers: known peers, shares, and what files hashed to.
//!
//! One redb database, `state.redb` in the state folder, or in memory where there is none. Every
//! method is short and blocks on the disk: async callers go through `spawn_blocking`. What was
//! written is on disk when the method returns.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use peerkit_proto::address::Address;
use peerkit_proto::codec::{DecodeError, Reader, Writer};
use peerkit_proto::files::PieceList;
use peerkit_proto::id::{Hash, NodeId};
use redb::backends::InMemoryBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};

use crate::key::create_private_folder;
use crate::shares::Stamp;

/// The database's file in the state folder.
pub(crate) const STATE_FILE: &str = "state.redb";

/// Memory for cached pages. 16 MiB: redb's own 1 GiB is a server's.
const CACHE: usize = 16 << 20;

const PEERS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("peers");
const SHARES: TableDefinition<'_, &[u8], &[u8; 32]> = TableDefinition::new("shares");
const FILES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("files");
const LISTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("piece_lists");

/// A node's memory. Clones share it; the folder is free again when the last is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    database: Arc<Database>,
}

/// Another node, as it is remembered, and as `save` writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPeer {
    /// The name that it gave itself.
    #[serde(default)]
    pub name: String,
    /// Where it answered or said that it does.
    #[serde(default)]
    pub addresses: Vec<Address>,
    /// When it was last linked, in Unix milliseconds; 0 for never.
    #[serde(default)]
    pub last_seen: u64,
    /// Whether the user wants a link to it kept up.
    #[serde(default)]
    pub reconnect: bool,
}

/// What a file on disk hashed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownFile {
    /// How the file looked then.
    pub stamp: Stamp,
    /// Its hash.
    pub hash: Hash,
}

/// Why the memory can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has it open.
    #[error(
        "another node uses the state folder {folder}: stop it, or choose another with --state DIR",
        folder = .0.display()
    )]
    InUse(PathBuf),
    /// The folder or file can't be opened.
    #[error("can't use the state folder {folder}: {source}", folder = .folder.display())]
    Open {
        /// The state folder.
        folder: PathBuf,
        /// What the system or the database said.
        source: Box<redb::Error>,
    },
    /// Reading or writing failed; what was to be written was not, not even in part.
    #[error("can't read or write the node's state: {0}")]
    Database(#[source] Box<redb::Error>),
}

impl Store {
    /// Opens the memory in `folder`, which is made (for the owner alone) where it is missing;
    /// without a folder, one that is gone when the last handle is dropped.
    ///
    /// # Errors
    /// [`StoreError::InUse`] where another process has it, [`StoreError::Open`] else.
    pub(crate) fn open(folder: Option<&Path>) -> Result<Self, StoreError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE);
        let opened = match folder {
            None => builder.create_with_backend(InMemoryBackend::new()),
            Some(folder) => create_private_folder(folder)
                .map_err(DatabaseError::from)
                .and_then(|()| builder.create(folder.join(STATE_FILE))),
        };
        let in_folder = |error: redb::Error| StoreError::Open {
            folder: folder.unwrap_or(Path::new("(memory)")).to_owned(),
            source: Box::new(error),
        };
        let database = opened.map_err(|error| match (error, folder) {
            (DatabaseError::DatabaseAlreadyOpen, Some(folder)) => {
                StoreError::InUse(folder.to_owned())
            }
            (error, _) => in_folder(error.into()),
        })?;
        let store = Self { database: Arc::new(database) };
        // So that later readers find every table there.
        store.write(|_| Ok(())).map_err(|error| match error {
            StoreError::Database(source) => in_folder(*source),
            other => other,
        })?;
        Ok(store)
    }

    /// Every known peer, in the order of identities.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn peers(&self) -> Result<Vec<(NodeId, KnownPeer)>, StoreError> {
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

    /// Adds or replaces peers, all or none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn save_peers(&self, peers: &[(NodeId, KnownPeer)]) -> Result<(), StoreError> {
        self.write(|db| {
            let mut table = db.open_table(PEERS)?;
            for (id, peer) in peers {
                let json = serde_json::to_vec(peer).map_err(io::Error::other)?;
                table.insert(id.as_bytes(), &json[..])?;
            }
            Ok(())
        })
    }

    /// What is shared: paths as they were added, and the hash that each had last.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn shares(&self) -> Result<Vec<(PathBuf, Hash)>, StoreError> {
        self.read(|db| {
            let mut shares = Vec::new();
            for row in db.open_table(SHARES)?.iter()? {
                let (path, hash) = row?;
                shares.push((path_of(path.value()), Hash::from_bytes(*hash.value())));
            }
            Ok(shares)
        })
    }

    /// Remembers that `path` is shared.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn save_share(&self, path: &Path, hash: &Hash) -> Result<(), StoreError> {
        self.write(|db| {
            db.open_table(SHARES)?.insert(bytes_of(path), hash.as_bytes())?;
            Ok(())
        })
    }

    /// Forgets that `path` is shared; `false` where it was not known.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn forget_share(&self, path: &Path) -> Result<bool, StoreError> {
        self.write(|db| Ok(db.open_table(SHARES)?.remove(bytes_of(path))?.is_some()))
    }

    /// What the files at these paths hashed to, where that is known, in the same order.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn files<'p>(
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

    /// Remembers what files hashed to, all or none, with the lists of those of several pieces.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn save_files<'f>(
        &self,
        files: impl IntoIterator<Item = (&'f Path, &'f KnownFile, Option<&'f PieceList>)>,
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

    /// The piece list of a file or manifest of several pieces.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn piece_list(&self, hash: &Hash) -> Result<Option<PieceList>, StoreError> {
        self.read(|db| {
            let row = db.open_table(LISTS)?.get(hash.as_bytes())?;
            Ok(row.and_then(|row| PieceList::decode(Bytes::copy_from_slice(row.value())).ok()))
        })
    }

    /// Whether the piece list of `hash` is there.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn has_piece_list(&self, hash: &Hash) -> Result<bool, StoreError> {
        self.read(|db| Ok(db.open_table(LISTS)?.get(hash.as_bytes())?.is_some()))
    }

    /// Remembers a piece list alone: that of a folder's manifest.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn save_piece_list(&self, hash: &Hash, list: &PieceList) -> Result<(), StoreError> {
        self.write(|db| {
            db.open_table(LISTS)?.insert(hash.as_bytes(), &list.encode()[..])?;
            Ok(())
        })
    }

    /// Forgets files whose path `keep_file` does not want, and lists whose hash `keep_list` does
    /// not: what is no longer shared.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn prune(
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
        let transaction = self.database.begin_read().map_err(redb::Error::from);
        transaction
            .and_then(|transaction| work(&transaction))
            .map_err(|error| StoreError::Database(Box::new(error)))
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let run = || {
            let transaction = self.database.begin_write()?;
            transaction.open_table(PEERS)?;
            transaction.open_table(SHARES)?;
            transaction.open_table(FILES)?;
            transaction.open_table(LISTS)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        run().map_err(|error| StoreError::Database(Box::new(error)))
    }
}

impl KnownFile {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        self.stamp.encode(&mut out);
        out.put_raw(self.hash.as_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(Bytes::copy_from_slice(bytes));
        if reader.u8("file version")? != 1 {
            return Err(DecodeError::Invalid("file version"));
        }
        let file = Self { stamp: Stamp::decode(&mut reader)?, hash: reader.hash("file hash")? };
        reader.finish()?;
        Ok(file)
    }
}

#[cfg(unix)]
fn bytes_of(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}

#[cfg(unix)]
fn path_of(bytes: &[u8]) -> PathBuf {
    let text: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(bytes);
    text.into()
}

/// Elsewhere paths are Unicode but for oddities, whose shares are then not found after a restart.
#[cfg(not(unix))]
fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}

#[cfg(not(unix))]
fn path_of(bytes: &[u8]) -> PathBuf {
    String::from_utf8_lossy(bytes).into_owned().into()
}

#[cfg(test)]
mod tests;
