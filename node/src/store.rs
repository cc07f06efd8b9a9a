//! The state of a node that survives a restart: known peers, shares, the hashes of files, broadcasts and
//! downloads.
//!
//! The state is one redb database, `state.redb` in the state folder. A node without a state folder has the
//! same tables in memory. Methods wait for the disk, so async code calls them through `blocking`. A change is
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

use crate::bans::{Ban, BanRow};
use crate::disk::fingerprint::Fingerprint;
use crate::disk::path_bytes::{bytes_of, path_of};
use crate::lock::lock;

mod broadcasts;
mod disk;
mod roster;
mod rows;
mod tables;

pub(crate) use broadcasts::{StoredBroadcasts, WRITE_DELAY};
use disk::{Disk, SCHEMA};
pub(crate) use roster::StoredRoster;
pub(crate) use tables::MemoryTables;
use tables::{
    ANCHORS, BANS, BROADCASTS, DOWNLOADS, FILES, KEPT_AWAY, LISTS, OWNERS, PEERS, Row, SHARES,
    Transaction,
};

/// The state of a node. Clones use the same state. When the last one is dropped, another node may use the
/// folder.
#[derive(Debug, Clone)]
pub(crate) enum Store {
    Disk(Arc<Disk>),
    Memory(Arc<Mutex<MemoryTables>>),
}

/// A peer that this node knows, as the database and files of peers store it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPeer {
    /// The name that the peer gave itself.
    #[serde(default)]
    pub name: String,
    /// The addresses at which the peer has answered, and those that it has announced.
    #[serde(default, deserialize_with = "of_known_schemes")]
    pub addresses: Vec<Address>,
    /// The time of the last link to the peer, in Unix milliseconds, or 0 if there was none.
    #[serde(default)]
    pub last_seen: u64,
    /// True if this node reconnects to the peer whenever the link is lost.
    #[serde(default)]
    pub reconnect: bool,
    /// True if this node has reached the peer by a dial or a probe of its own. Of other peers it knows only
    /// the addresses that they announce.
    #[serde(default)]
    pub tested: bool,
}

/// Reads addresses, without those that have a scheme unknown to this version.
fn of_known_schemes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Address>, D::Error> {
    // A newer version may have written the row or the file. Its other addresses are still useful.
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
    /// The description of the file or folder, as of the last scan.
    pub shared: SharedFile,
    /// The nodes that may find and fetch it.
    pub access: Access,
}

/// The hash of a file on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownFile {
    /// The fingerprint of the file when it was hashed.
    pub fingerprint: Fingerprint,
    /// The hash of its content.
    pub hash: Hash,
}

/// The path of a file, its hash, and its piece list if it has several pieces.
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
    /// The state file is damaged, by a disk error or another program. It was not moved. It holds the node's
    /// shares and known peers, but not its identity. See [`Builder::repair`](crate::Builder::repair).
    #[error("the state file {file} is damaged", file = .file.display())]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// The error of the database, or `None` if the database panicked.
        source: Option<Box<redb::Error>>,
    },
    /// A newer version of this library has written the state file. The file was not opened and not changed.
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
    /// The state file is of an earlier version and could not be migrated. Its content was not changed.
    #[error(
        "the state file {file} is of an earlier version and was not brought up to date: its content is as \
         it was",
        file = .file.display()
    )]
    NotMigrated {
        /// The file.
        file: PathBuf,
        /// The error that occurred while the file was copied or migrated.
        source: Box<redb::Error>,
    },
    /// Reading or writing the state failed. Nothing was written.
    #[error("can't read or write the node's state: {0}")]
    Database(Box<redb::Error>),
}

impl Store {
    /// Opens the state in `folder`. Creates the folder, private to the owner, if it is missing. Without a
    /// folder, returns an empty state in memory.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process uses the folder; [`StoreError::NewerSchema`],
    /// [`StoreError::NotMigrated`], [`StoreError::Damaged`] or [`StoreError::Open`].
    pub(crate) fn open(folder: Option<&Path>) -> Result<Self, StoreError> {
        Ok(match folder {
            Some(folder) => Self::Disk(Arc::new(Disk::open(folder)?)),
            None => Self::Memory(Arc::default()),
        })
    }

    /// Opens the state as [`Store::open`] does, but always checks the whole file. If the file is damaged,
    /// renames it and begins with an empty state.
    ///
    /// # Errors
    /// Those of [`Store::open`], and [`StoreError::Open`] if the file can't be renamed.
    pub(crate) fn open_or_repair(folder: Option<&Path>) -> Result<Self, StoreError> {
        // This finds damage that did not show when the file was used.
        folder.into_iter().for_each(Disk::require_check);
        match (Self::open(folder), folder) {
            (Err(StoreError::Damaged { .. }), Some(folder)) => {
                let moved = Disk::move_aside(folder)?;
                tracing::warn!(
                    "the state file was damaged and is now {}: shares and known peers are forgotten",
                    moved.display()
                );
                Self::open(Some(folder))
            }
            (opened, _) => opened,
        }
    }

    /// Closes the state file, so that another node may use the folder. The next call of another method opens
    /// it again.
    pub(crate) fn close(&self) {
        if let Self::Disk(disk) = self {
            disk.close();
        }
    }

    /// Returns whether the state is only in memory, so that no method waits for a disk.
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

    /// Returns the value of each key, in the order of `keys`, or `None` if the table does not have the key.
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

    /// Returns the value of one key, or `None` if the table does not have it.
    fn value<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.values(table, [key])?.pop().flatten())
    }

    /// Runs `work` in one transaction: either all of its changes are made, or none.
    fn change<T>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        match self {
            Self::Disk(disk) => disk.write(|db| work(&mut Transaction::Disk(db))),
            Self::Memory(tables) => {
                // Nothing has to be rolled back: in memory only the encoding in `work` can fail, and that
                // comes before its first change.
                let changed = work(&mut Transaction::Memory(&mut lock(tables)));
                changed.map_err(|error| StoreError::Database(Box::new(error)))
            }
        }
    }
}

/// Each method fails with [`StoreError::Database`] or [`StoreError::Damaged`]. Then it has written nothing.
impl Store {
    /// Returns all known peers, in the order of their identities.
    pub(crate) fn peers(&self) -> Result<Vec<(NodeId, KnownPeer)>, StoreError> {
        let peers = self.rows(PEERS)?.into_iter().filter_map(|(id, json)| {
            let id = NodeId::from_bytes(id.try_into().ok()?);
            // Only this peer is lost. If an error were returned here, all peers would be.
            let peer = serde_json::from_slice(&json).inspect_err(|error| {
                tracing::warn!(%id, %error, "a known peer can't be read: left out");
            });
            Some((id, peer.ok()?))
        });
        Ok(peers.collect())
    }

    /// Returns one known peer, or `None` if this node does not know it or its row can't be read.
    pub(crate) fn peer(&self, id: &NodeId) -> Result<Option<KnownPeer>, StoreError> {
        let json = self.value(PEERS, id.as_bytes())?;
        Ok(json.and_then(|json| serde_json::from_slice(&json).ok()))
    }

    /// Adds or replaces peers: either all of them, or none.
    pub(crate) fn save_peers(&self, peers: &[(NodeId, KnownPeer)]) -> Result<(), StoreError> {
        let row =
            |(id, peer): &(NodeId, KnownPeer)| Ok((*id.as_bytes(), serde_json::to_vec(peer)?));
        let rows = peers.iter().map(row).collect::<serde_json::Result<Vec<_>>>();
        self.change(|changes| changes.put(PEERS, rows.map_err(io::Error::from)?))
    }

    /// Forgets known peers beyond the number `most`: first those that this node has not reached itself, then
    /// those that were seen longest ago. Peers that it reconnects to stay.
    pub(crate) fn trim_peers(&self, most: usize) -> Result<(), StoreError> {
        let mut peers = self.peers()?;
        let excess = peers.len().saturating_sub(most);
        peers.retain(|(_, peer)| !peer.reconnect);
        peers.sort_by_key(|(_, peer)| (peer.tested, peer.last_seen));
        peers.truncate(excess);
        if peers.is_empty() {
            return Ok(());
        }
        self.change(|changes| {
            for (id, _) in &peers {
                changes.remove(PEERS, id.as_bytes())?;
            }
            Ok(())
        })
    }

    /// Returns all shares, with the paths under which they were added.
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

    /// Returns the share at `path`.
    pub(crate) fn share(&self, path: &Path) -> Result<Option<KnownShare>, StoreError> {
        let row = self.values(SHARES, [bytes_of(path)])?.into_iter().next().flatten();
        Ok(row.and_then(|share| KnownShare::decode(share).ok()))
    }

    /// Adds or replaces the share at `path`.
    pub(crate) fn save_share(&self, path: &Path, share: &KnownShare) -> Result<(), StoreError> {
        self.change(|changes| changes.put(SHARES, [(bytes_of(path), share.encode())]))
    }

    /// Removes the share at `path`. Returns `false` if there was none.
    pub(crate) fn remove_share(&self, path: &Path) -> Result<bool, StoreError> {
        self.change(|changes| changes.remove(SHARES, bytes_of(path)))
    }

    /// Returns the known hash of each file, in the order of `paths`, or `None` if it is not known.
    pub(crate) fn files<'p>(
        &self,
        paths: impl IntoIterator<Item = &'p Path>,
    ) -> Result<Vec<Option<KnownFile>>, StoreError> {
        let rows = self.values(FILES, paths.into_iter().map(bytes_of))?.into_iter();
        Ok(rows.map(|row| KnownFile::decode(row?).ok()).collect())
    }

    /// Saves the hashes of files, and the piece lists of files with several pieces: either all of them, or
    /// none.
    pub(crate) fn save_files<'f>(
        &self,
        files: impl IntoIterator<Item = FileRow<'f>>,
    ) -> Result<(), StoreError> {
        // One transaction fills both tables, because a hash without its piece list is useless.
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

    /// Returns the piece list of a file or manifest, if it is known and can be read.
    pub(crate) fn piece_list(&self, hash: &Hash) -> Result<Option<PieceList>, StoreError> {
        let list = self.value(LISTS, hash.as_bytes())?;
        Ok(list.and_then(|list| PieceList::decode(Bytes::from(list)).ok()))
    }

    /// Returns whether the piece list of `hash` is stored.
    pub(crate) fn has_piece_list(&self, hash: &Hash) -> Result<bool, StoreError> {
        Ok(self.value(LISTS, hash.as_bytes())?.is_some())
    }

    /// Adds the piece list of a folder's manifest.
    pub(crate) fn save_piece_list(&self, hash: &Hash, list: &PieceList) -> Result<(), StoreError> {
        self.change(|changes| changes.put(LISTS, [(hash.as_bytes(), list.encode())]))
    }

    /// Removes the hashes of all files for which `keep_file` returns false, and all piece lists for which
    /// `keep_list` returns false.
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

    /// Returns the rows of the stored broadcasts, in the order of their keys.
    pub(crate) fn broadcasts(&self) -> Result<Vec<Row>, StoreError> {
        self.rows(BROADCASTS)
    }

    /// Adds rows of broadcasts and removes others, in one transaction.
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

    /// Returns the rows of the downloads that are to continue, by the hash of the content.
    pub(crate) fn downloads(&self) -> Result<Vec<(Hash, Vec<u8>)>, StoreError> {
        let rows = self.rows(DOWNLOADS)?.into_iter();
        let rows =
            rows.filter_map(|(hash, row)| Some((Hash::from_bytes(hash.try_into().ok()?), row)));
        Ok(rows.collect())
    }

    /// Adds or replaces the row of a download.
    pub(crate) fn save_download(&self, hash: &Hash, row: &[u8]) -> Result<(), StoreError> {
        self.change(|changes| changes.put(DOWNLOADS, [(hash.as_bytes(), row)]))
    }

    /// Removes the row of a download.
    pub(crate) fn remove_download(&self, hash: &Hash) -> Result<(), StoreError> {
        self.change(|changes| changes.remove(DOWNLOADS, hash.as_bytes())).map(drop)
    }

    /// Returns the identity of a network's owner, if it is known.
    pub(crate) fn owner(&self, network: &str) -> Result<Option<NodeId>, StoreError> {
        let id = self.value(OWNERS, network.as_bytes())?;
        Ok(id.and_then(|id| Some(NodeId::from_bytes(id.try_into().ok()?))))
    }

    /// Saves the identity of a network's owner.
    pub(crate) fn save_owner(&self, network: &str, owner: NodeId) -> Result<(), StoreError> {
        self.change(|changes| changes.put(OWNERS, [(network, owner.as_bytes())]))
    }

    /// Returns the bans, also those that have ended since they were stored. A row that can't be read, as a newer
    /// version may have written it, is left out.
    pub(crate) fn bans(&self) -> Result<Vec<Ban>, StoreError> {
        let bans = self.rows(BANS)?.into_iter().filter_map(|(id, row)| {
            let BanRow { until, why } = serde_json::from_slice(&row).ok()?;
            Some(Ban { id: NodeId::from_bytes(id.try_into().ok()?), until, why })
        });
        Ok(bans.collect())
    }

    /// Saves a ban, and removes bans that have ended.
    pub(crate) fn save_ban(&self, ban: &Ban, ended: &[NodeId]) -> Result<(), StoreError> {
        let row = BanRow { until: ban.until, why: ban.why.clone() };
        let row = serde_json::to_vec(&row).unwrap_or_default();
        self.change(|changes| {
            for id in ended {
                changes.remove(BANS, id.as_bytes())?;
            }
            changes.put(BANS, [(ban.id.as_bytes(), &row)])
        })
    }

    /// Removes a ban.
    pub(crate) fn remove_ban(&self, id: NodeId) -> Result<(), StoreError> {
        self.change(|changes| changes.remove(BANS, id.as_bytes())).map(drop)
    }

    /// Returns the anchors of the last run: neighbours that are dialled first.
    pub(crate) fn anchors(&self) -> Result<Vec<NodeId>, StoreError> {
        let rows = self.rows(ANCHORS)?.into_iter().filter_map(|(id, at)| {
            let at = u64::from_le_bytes(at.try_into().ok()?);
            Some((at, NodeId::from_bytes(id.try_into().ok()?)))
        });
        let mut anchors: Vec<_> = rows.collect();
        anchors.sort_unstable();
        Ok(anchors.into_iter().map(|(_, id)| id).collect())
    }

    /// Replaces the anchors.
    pub(crate) fn save_anchors(&self, anchors: &[NodeId]) -> Result<(), StoreError> {
        self.change(|changes| {
            changes.retain(ANCHORS, |_| false)?;
            let rows = (0_u64..).zip(anchors);
            changes.put(ANCHORS, rows.map(|(at, id)| (id.as_bytes(), at.to_le_bytes())))
        })
    }

    /// Returns the nodes that the user has disconnected and that are still kept away. For each, returns the
    /// time when that ends, in Unix milliseconds.
    pub(crate) fn kept_away(&self) -> Result<Vec<(NodeId, u64)>, StoreError> {
        let nodes = self.rows(KEPT_AWAY)?.into_iter().filter_map(|(id, until)| {
            let until = u64::from_le_bytes(until.try_into().ok()?);
            Some((NodeId::from_bytes(id.try_into().ok()?), until))
        });
        Ok(nodes.collect())
    }

    /// Replaces the list of nodes that are kept away. Does nothing without a state folder.
    ///
    /// Lists are numbered, because several calls may run at once and finish in any order. A list with a
    /// smaller `number` than one that was saved before is ignored.
    pub(crate) fn save_kept_away(
        &self,
        number: u64,
        nodes: &[(NodeId, u64)],
    ) -> Result<(), StoreError> {
        let Self::Disk(disk) = self else { return Ok(()) };
        // The lock is held until the list is written, so that an older list can't overwrite a newer one.
        let mut newest = lock(&disk.newest_kept_away);
        if number < *newest {
            return Ok(());
        }
        *newest = number;
        self.change(|changes| {
            changes.retain(KEPT_AWAY, |_| false)?;
            changes.put(
                KEPT_AWAY,
                nodes.iter().map(|(id, until)| (id.as_bytes(), until.to_le_bytes())),
            )
        })
    }
}

#[cfg(test)]
mod tests;
