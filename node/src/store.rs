//! The state of a node that outlives a run: known peers, shares, the hashes of files, broadcasts,
//! downloads.
//!
//! It is one redb database, `state.redb` in the state folder. A node without a folder has the same tables in
//! memory. Every method is short and blocks on the disk, so async callers go through `blocking`. Changes are
//! on disk when the method returns.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use peerkit_proto::address::{Address, ParseAddressError};
use peerkit_proto::files::{Access, PieceList, SharedFile};
use peerkit_proto::id::{Hash, NodeId};
use redb::{Key, TableDefinition, Value};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::disk::fingerprint::Fingerprint;
use crate::disk::path_bytes::{bytes_of, path_of};
use crate::lock::lock;

mod broadcasts;
mod disk;
mod rows;
mod tables;

pub(crate) use broadcasts::{StoredBroadcasts, WRITE_DELAY};
use disk::{Disk, SCHEMA};
pub(crate) use tables::MemoryTables;
use tables::{AWAY, BROADCASTS, DOWNLOADS, FILES, LISTS, OWNERS, PEERS, Row, SHARES, Transaction};

/// The state of a node. Clones share it; the folder is free again when the last is dropped.
#[derive(Debug, Clone)]
pub(crate) enum Store {
    Disk(Arc<Disk>),
    Memory(Arc<Mutex<MemoryTables>>),
}

/// A peer that this node has met. The form in the database, and in a file of peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPeer {
    /// The name that the peer gave itself.
    #[serde(default)]
    pub name: String,
    /// The addresses at which it answered, or said that it does.
    #[serde(default, deserialize_with = "of_known_schemes")]
    pub addresses: Vec<Address>,
    /// The time of the last link with it, in Unix milliseconds; 0 for never.
    #[serde(default)]
    pub last_seen: u64,
    /// True if the link to it is kept up.
    #[serde(default)]
    pub reconnect: bool,
}

/// Reads addresses. Leaves out those with a scheme that this version does not know.
fn of_known_schemes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Address>, D::Error> {
    // A newer version may have written the row or the file, and its other addresses are still of use.
    let texts = Vec::<String>::deserialize(from)?;
    let read = texts.iter().filter_map(|text| match text.parse::<Address>() {
        Err(ParseAddressError::Scheme(_)) => None,
        read => Some(read.map_err(D::Error::custom)),
    });
    read.collect()
}

/// A share, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownShare {
    /// The file or folder, as it was when it was last scanned.
    pub shared: SharedFile,
    /// The nodes that may have it.
    pub access: Access,
}

/// The hash of a file on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownFile {
    /// The file's fingerprint when it was hashed.
    pub fingerprint: Fingerprint,
    /// The hash of its content.
    pub hash: Hash,
}

/// A file's path, its hash, and its piece list if it has several pieces.
pub(crate) type FileRow<'f> = (&'f Path, &'f KnownFile, Option<&'f PieceList>);

/// The error of a state folder or its database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process uses the folder.
    #[error("another node uses the state folder {folder}", folder = .0.display())]
    InUse(PathBuf),
    /// The folder or file can't be opened.
    #[error("can't use the state folder {folder}: {error}", folder = .folder.display())]
    Open {
        /// The state folder.
        folder: PathBuf,
        /// The error of the system or the database.
        error: Box<redb::Error>,
    },
    /// The file is damaged, by a disk error or another program. It was left where it is. It holds the
    /// node's shares and known peers, but not its identity. See
    /// [`Builder::repair`](crate::Builder::repair).
    #[error("the state file {file} is damaged", file = .file.display())]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// The database's error, unless it panicked.
        source: Option<Box<redb::Error>>,
    },
    /// A newer version of this library has written the file. It was not opened, and nothing in it was changed.
    #[error(
        "the state file {file} is of a newer version (schema {schema}; this version has {}): it was not \
         opened, and nothing in it was changed",
        SCHEMA,
        file = .file.display()
    )]
    NewerSchema {
        /// The file.
        file: PathBuf,
        /// The number of its schema.
        schema: u64,
    },
    /// The file is of an earlier version, and could not be brought up to date. Its content has not changed.
    #[error(
        "the state file {file} is of an earlier version and was not brought up to date: its content is as \
         it was",
        file = .file.display()
    )]
    NotMigrated {
        /// The file.
        file: PathBuf,
        /// The error of copying or changing the file.
        source: Box<redb::Error>,
    },
    /// Reading or writing failed. Nothing was written.
    #[error("can't read or write the node's state: {0}")]
    Database(Box<redb::Error>),
}

impl Store {
    /// Opens the state in `folder`, which is made (for the owner alone) if it is missing; without a
    /// folder, an empty state in memory.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process has it; [`StoreError::NewerSchema`],
    /// [`StoreError::NotMigrated`], [`StoreError::Damaged`] or [`StoreError::Open`].
    pub(crate) fn open(folder: Option<&Path>) -> Result<Self, StoreError> {
        Ok(match folder {
            Some(folder) => Self::Disk(Arc::new(Disk::open(folder)?)),
            None => Self::Memory(Arc::default()),
        })
    }

    /// Opens the state as [`Store::open`] does, but checks the file in any case. A damaged one is moved
    /// aside, and a new one begun.
    ///
    /// # Errors
    /// Those of [`Store::open`], and [`StoreError::Open`] if the file can't be moved.
    pub(crate) fn open_or_repair(folder: Option<&Path>) -> Result<Self, StoreError> {
        // Damage that no earlier check has found is looked for as well.
        folder.into_iter().for_each(Disk::doubt);
        match (Self::open(folder), folder) {
            (Err(StoreError::Damaged { .. }), Some(folder)) => {
                let moved = Disk::move_aside(folder)?;
                tracing::warn!(
                    "the state file was damaged: it is now {}, and shares and known peers are forgotten",
                    moved.display()
                );
                Self::open(Some(folder))
            }
            (opened, _) => opened,
        }
    }

    /// Closes the file, so that another node may use the folder. A later call opens it again.
    pub(crate) fn finish(&self) {
        if let Self::Disk(disk) = self {
            disk.finish();
        }
    }

    /// Returns whether no method ever waits for a disk.
    pub(crate) fn is_in_memory(&self) -> bool {
        matches!(self, Self::Memory(_))
    }

    /// Returns the rows of a table, in the order of their keys.
    fn rows<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
    ) -> Result<Vec<Row>, StoreError> {
        match self {
            Self::Disk(disk) => disk.rows(table),
            Self::Memory(tables) => Ok(lock(tables).rows(&table)),
        }
    }

    /// Returns the values of some keys of a table, in the same order.
    fn values<'k, K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        match self {
            Self::Disk(disk) => disk.values(table, keys),
            Self::Memory(tables) => {
                let tables = lock(tables);
                Ok(keys.into_iter().map(|key| tables.value(&table, key)).collect())
            }
        }
    }

    /// Returns the value of one key.
    fn value<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.values(table, [key])?.pop().flatten())
    }

    /// Makes changes, all or none.
    fn change<T>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        match self {
            Self::Disk(disk) => disk.write(|db| work(&mut Transaction::Disk(db))),
            Self::Memory(tables) => {
                // There is nothing to roll back: in memory only the caller's own encoding can fail, and it
                // does so before its first change.
                let changed = work(&mut Transaction::Memory(&mut lock(tables)));
                changed.map_err(|error| StoreError::Database(Box::new(error)))
            }
        }
    }
}

/// Each method fails with [`StoreError::Database`] or [`StoreError::Damaged`]. Nothing was written then.
impl Store {
    /// Returns every known peer, in the order of identities.
    pub(crate) fn peers(&self) -> Result<Vec<(NodeId, KnownPeer)>, StoreError> {
        let peers = self.rows(PEERS)?.into_iter().filter_map(|(id, json)| {
            let id = NodeId::from_bytes(id.try_into().ok()?);
            // A row that can't be read costs one peer. An error here would cost all of them.
            let peer = serde_json::from_slice(&json).inspect_err(|error| {
                tracing::warn!(%id, %error, "a known peer can't be read: left out");
            });
            Some((id, peer.ok()?))
        });
        Ok(peers.collect())
    }

    /// Returns what is known of one peer.
    pub(crate) fn peer(&self, id: &NodeId) -> Result<Option<KnownPeer>, StoreError> {
        let json = self.value(PEERS, id.as_bytes())?;
        Ok(json.and_then(|json| serde_json::from_slice(&json).ok()))
    }

    /// Adds or replaces peers, all or none.
    pub(crate) fn save_peers(&self, peers: &[(NodeId, KnownPeer)]) -> Result<(), StoreError> {
        let row =
            |(id, peer): &(NodeId, KnownPeer)| Ok((*id.as_bytes(), serde_json::to_vec(peer)?));
        let rows = peers.iter().map(row).collect::<serde_json::Result<Vec<_>>>();
        self.change(|changes| changes.put(PEERS, rows.map_err(io::Error::from)?))
    }

    /// Returns the shares with the paths at which they were added.
    pub(crate) fn shares(&self) -> Result<Vec<(PathBuf, KnownShare)>, StoreError> {
        let shares = self.rows(SHARES)?.into_iter().filter_map(|(path, share)| {
            let path = path_of(&path);
            let share = KnownShare::decode(share).inspect_err(|error| {
                tracing::warn!(path = %path.display(), %error, "a share can't be read");
            });
            Some((path, share.ok()?))
        });
        Ok(shares.collect())
    }

    /// Adds or replaces the share at `path`.
    pub(crate) fn save_share(&self, path: &Path, share: &KnownShare) -> Result<(), StoreError> {
        self.change(|changes| changes.put(SHARES, [(bytes_of(path), share.encode())]))
    }

    /// Removes the share at `path`. Returns `false` if there was none.
    pub(crate) fn remove_share(&self, path: &Path) -> Result<bool, StoreError> {
        self.change(|changes| changes.remove(SHARES, bytes_of(path)))
    }

    /// Returns the hashes of the files at these paths, as far as they are known, in the same order.
    pub(crate) fn files<'p>(
        &self,
        paths: impl IntoIterator<Item = &'p Path>,
    ) -> Result<Vec<Option<KnownFile>>, StoreError> {
        let rows = self.values(FILES, paths.into_iter().map(bytes_of))?.into_iter();
        Ok(rows.map(|row| KnownFile::decode(row?).ok()).collect())
    }

    /// Remembers the hashes of files, all or none, with the piece lists of those of several pieces.
    pub(crate) fn save_files<'f>(
        &self,
        files: impl IntoIterator<Item = FileRow<'f>>,
    ) -> Result<(), StoreError> {
        // Two tables are filled from it. One transaction: a hash without its piece list is of no use.
        let files: Vec<_> = files.into_iter().collect();
        self.change(|changes| {
            changes
                .put(FILES, files.iter().map(|(path, file, _)| (bytes_of(path), file.encode())))?;
            let lists = files.iter().filter_map(|(_, file, list)| {
                Some((file.hash.as_bytes(), list.as_ref()?.encode()))
            });
            changes.put(LISTS, lists)
        })
    }

    /// Returns the piece list of a file or manifest of several pieces.
    pub(crate) fn piece_list(&self, hash: &Hash) -> Result<Option<PieceList>, StoreError> {
        let list = self.value(LISTS, hash.as_bytes())?;
        Ok(list.and_then(|list| PieceList::decode(Bytes::from(list)).ok()))
    }

    /// Returns whether the piece list of `hash` is there.
    pub(crate) fn has_piece_list(&self, hash: &Hash) -> Result<bool, StoreError> {
        Ok(self.value(LISTS, hash.as_bytes())?.is_some())
    }

    /// Adds the piece list of a folder's manifest.
    pub(crate) fn save_piece_list(&self, hash: &Hash, list: &PieceList) -> Result<(), StoreError> {
        self.change(|changes| changes.put(LISTS, [(hash.as_bytes(), list.encode())]))
    }

    /// Removes the hashes of files for which `keep_file` returns false, and the piece lists for which
    /// `keep_list` does.
    pub(crate) fn prune(
        &self,
        mut keep_file: impl FnMut(&Path) -> bool,
        mut keep_list: impl FnMut(&Hash) -> bool,
    ) -> Result<(), StoreError> {
        self.change(|changes| {
            changes.retain(FILES, |path| keep_file(&path_of(path)))?;
            changes.retain(LISTS, |hash| {
                hash.try_into().is_ok_and(|hash| keep_list(&Hash::from_bytes(hash)))
            })
        })
    }

    /// Returns the stored broadcasts, in the order of their keys.
    pub(crate) fn broadcasts(&self) -> Result<Vec<Row>, StoreError> {
        self.rows(BROADCASTS)
    }

    /// Adds rows of broadcasts and removes others, all or none.
    pub(crate) fn change_broadcasts(
        &self,
        add: &[(&[u8], &[u8])],
        remove: &[Vec<u8>],
    ) -> Result<(), StoreError> {
        self.change(|changes| {
            changes.put(BROADCASTS, add.iter().copied())?;
            for key in remove {
                changes.remove(BROADCASTS, key)?;
            }
            Ok(())
        })
    }

    /// Returns the downloads to continue, as they were saved.
    pub(crate) fn downloads(&self) -> Result<Vec<(Hash, Vec<u8>)>, StoreError> {
        let rows = self.rows(DOWNLOADS)?.into_iter();
        let rows =
            rows.filter_map(|(hash, row)| Some((Hash::from_bytes(hash.try_into().ok()?), row)));
        Ok(rows.collect())
    }

    /// Adds or replaces a download.
    pub(crate) fn save_download(&self, hash: &Hash, row: &[u8]) -> Result<(), StoreError> {
        self.change(|changes| changes.put(DOWNLOADS, [(hash.as_bytes(), row)]))
    }

    /// Removes a download.
    pub(crate) fn remove_download(&self, hash: &Hash) -> Result<(), StoreError> {
        self.change(|changes| changes.remove(DOWNLOADS, hash.as_bytes())).map(drop)
    }

    /// Returns the identity of a network's owner, if it is known.
    pub(crate) fn owner(&self, network: &str) -> Result<Option<NodeId>, StoreError> {
        let id = self.value(OWNERS, network.as_bytes())?;
        Ok(id.and_then(|id| Some(NodeId::from_bytes(id.try_into().ok()?))))
    }

    /// Remembers the owner of a network.
    pub(crate) fn save_owner(&self, network: &str, owner: NodeId) -> Result<(), StoreError> {
        self.change(|changes| changes.put(OWNERS, [(network, owner.as_bytes())]))
    }

    /// Returns the nodes that are to be left alone, and until when, in Unix milliseconds.
    pub(crate) fn away(&self) -> Result<Vec<(NodeId, u64)>, StoreError> {
        let nodes = self.rows(AWAY)?.into_iter().filter_map(|(id, until)| {
            let until = u64::from_le_bytes(until.try_into().ok()?);
            Some((NodeId::from_bytes(id.try_into().ok()?), until))
        });
        Ok(nodes.collect())
    }

    /// Replaces the nodes that are to be left alone, if there is a folder. Calls may overtake each other:
    /// one with a smaller `number` than an earlier one does nothing.
    pub(crate) fn save_away(&self, number: u64, nodes: &[(NodeId, u64)]) -> Result<(), StoreError> {
        let Self::Disk(disk) = self else { return Ok(()) };
        // Held until the list is written, so that an older list can't follow a newer one.
        let mut newest = lock(&disk.newest_away);
        if number < *newest {
            return Ok(());
        }
        *newest = number;
        self.change(|changes| {
            changes.retain(AWAY, |_| false)?;
            changes.put(AWAY, nodes.iter().map(|(id, until)| (id.as_bytes(), until.to_le_bytes())))
        })
    }
}

#[cfg(test)]
mod tests;
