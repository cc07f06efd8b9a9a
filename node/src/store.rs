//! What a node remembers: known peers, shares, and what files hashed to.
//!
//! One redb database, `state.redb` in the state folder, or maps in memory where there is none. Every
//! method is short and blocks on the disk: async callers go through `blocking`. What was
//! written is on disk when the method returns.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use peerkit_proto::address::{Address, ParseAddressError};
use peerkit_proto::files::{Access, PieceList, SharedFile};
use peerkit_proto::id::{Hash, NodeId};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::disk::fingerprint::Fingerprint;
use crate::lock::lock;

mod disk;

use disk::{Disk, SCHEMA};

/// A node's memory. Clones share it; the folder is free again when the last is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    kept: Kept,
}

#[derive(Debug, Clone)]
enum Kept {
    Disk(Arc<Disk>),
    Memory(Arc<Mutex<Memory>>),
}

/// The memory of a node without a folder.
// redb in memory would take 128 KiB for each node, which is twice what all the rest of an idle one takes
// (63 KiB), and some 60 µs for each write.
#[derive(Debug, Default)]
struct Memory {
    peers: BTreeMap<NodeId, KnownPeer>,
    shares: BTreeMap<PathBuf, KnownShare>,
    files: HashMap<PathBuf, KnownFile>,
    lists: HashMap<Hash, PieceList>,
}

/// Another node, as it is remembered, and as `save` writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPeer {
    /// The name that it gave itself.
    #[serde(default)]
    pub name: String,
    /// Where it answered or said that it does.
    #[serde(default, deserialize_with = "of_known_schemes")]
    pub addresses: Vec<Address>,
    /// When it was last linked, in Unix milliseconds; 0 for never.
    #[serde(default)]
    pub last_seen: u64,
    /// Whether the user wants a link to it kept up.
    #[serde(default)]
    pub reconnect: bool,
}

/// Reads addresses, and leaves out those of schemes that this version does not know.
fn of_known_schemes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Address>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let read = texts.iter().filter_map(|text| match text.parse::<Address>() {
        Err(ParseAddressError::Scheme(_)) => None,
        read => Some(read.map_err(D::Error::custom)),
    });
    read.collect()
}

/// What is shared from a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownShare {
    /// What it was when it was last looked at.
    pub shared: SharedFile,
    /// Who may have it.
    pub access: Access,
}

/// What a file on disk hashed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownFile {
    /// How the file looked then.
    pub stamp: Fingerprint,
    /// Its hash.
    pub hash: Hash,
}

/// A file's path, what it hashed to, and its list where it has several pieces.
pub(crate) type FileRow<'f> = (&'f Path, &'f KnownFile, Option<&'f PieceList>);

/// The name of a row of broadcasts, and they themselves.
pub(crate) type BroadcastRow = (Vec<u8>, Vec<u8>);

/// Why the memory can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has it open.
    #[error("another node uses the state folder {folder}", folder = .0.display())]
    InUse(PathBuf),
    /// The folder or file can't be opened.
    #[error("can't use the state folder {folder}: {error}", folder = .folder.display())]
    Open {
        /// The state folder.
        folder: PathBuf,
        /// What the system or the database said.
        error: Box<redb::Error>,
    },
    /// The file is not what was last written: a disk error, or another program. It was left where it
    /// is. A node's identity is not in it, but its shares and the peers that it knew are. See
    /// [`Builder::repair`](crate::Builder::repair).
    #[error("the state file {file} is damaged", file = .file.display())]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// The database's error, unless it panicked.
        source: Option<Box<redb::Error>>,
    },
    /// A newer version of this library has written the file. It was not opened, and nothing in it was
    /// changed.
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
    /// The file is of an earlier version, and could not be brought up to date. Its content is as it was.
    #[error(
        "the state file {file} is of an earlier version and was not brought up to date: its content is as \
         it was",
        file = .file.display()
    )]
    NotMigrated {
        /// The file.
        file: PathBuf,
        /// The error of the system or the database, in keeping a copy or in the change.
        source: Box<redb::Error>,
    },
    /// Reading or writing failed; what was to be written was not, not even in part.
    #[error("can't read or write the node's state: {0}")]
    Database(Box<redb::Error>),
}

impl Store {
    /// Opens the memory in `folder`, which is made (for the owner alone) where it is missing;
    /// without a folder, one that is gone when the last handle is dropped.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process has it; [`StoreError::NewerSchema`],
    /// [`StoreError::NotMigrated`], [`StoreError::Damaged`] or [`StoreError::Open`].
    pub(crate) fn open(folder: Option<&Path>) -> Result<Self, StoreError> {
        let kept = match folder {
            Some(folder) => Kept::Disk(Arc::new(Disk::open(folder)?)),
            None => Kept::Memory(Arc::default()),
        };
        Ok(Self { kept })
    }

    /// Closes the file: another node may use the folder. A later call opens it again.
    pub(crate) fn finish(&self) {
        if let Kept::Disk(disk) = &self.kept {
            disk.finish();
        }
    }

    /// As [`Store::open`], but checks the file in any case, moves a damaged one aside and begins a new
    /// one.
    ///
    /// # Errors
    /// Those of [`Store::open`], and [`StoreError::Open`] if the file can't be moved.
    pub(crate) fn open_or_repair(folder: Option<&Path>) -> Result<Self, StoreError> {
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

    /// Whether no method ever waits for a disk.
    pub(crate) fn is_in_memory(&self) -> bool {
        matches!(self.kept, Kept::Memory(_))
    }

    /// Every known peer, in the order of identities.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn peers(&self) -> Result<Vec<(NodeId, KnownPeer)>, StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.peers(),
            Kept::Memory(memory) => in_memory(memory, |m| {
                m.peers.iter().map(|(id, peer)| (*id, peer.clone())).collect()
            }),
        }
    }

    /// What is known of one peer.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn peer(&self, id: &NodeId) -> Result<Option<KnownPeer>, StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.peer(id),
            Kept::Memory(memory) => in_memory(memory, |m| m.peers.get(id).cloned()),
        }
    }

    /// Adds or replaces peers, all or none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn save_peers(&self, peers: &[(NodeId, KnownPeer)]) -> Result<(), StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.save_peers(peers),
            Kept::Memory(memory) => in_memory(memory, |m| m.peers.extend(peers.iter().cloned())),
        }
    }

    /// What is shared: paths as they were added, and what was there last.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn shares(&self) -> Result<Vec<(PathBuf, KnownShare)>, StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.shares(),
            Kept::Memory(memory) => in_memory(memory, |m| {
                m.shares.iter().map(|(path, share)| (path.clone(), share.clone())).collect()
            }),
        }
    }

    /// Remembers what is shared from `path`, and with whom.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn save_share(&self, path: &Path, share: &KnownShare) -> Result<(), StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.save_share(path, share),
            Kept::Memory(memory) => {
                in_memory(memory, |m| m.shares.extend([(path.to_owned(), share.clone())]))
            }
        }
    }

    /// Forgets that `path` is shared; `false` where it was not known.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn forget_share(&self, path: &Path) -> Result<bool, StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.forget_share(path),
            Kept::Memory(memory) => in_memory(memory, |m| m.shares.remove(path).is_some()),
        }
    }

    /// What the files at these paths hashed to, where that is known, in the same order.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn files<'p>(
        &self,
        paths: impl IntoIterator<Item = &'p Path>,
    ) -> Result<Vec<Option<KnownFile>>, StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.files(paths),
            Kept::Memory(memory) => in_memory(memory, |m| {
                paths.into_iter().map(|path| m.files.get(path).cloned()).collect()
            }),
        }
    }

    /// Remembers what files hashed to, all or none, with the lists of those of several pieces.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn save_files<'f>(
        &self,
        files: impl IntoIterator<Item = FileRow<'f>>,
    ) -> Result<(), StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.save_files(files),
            Kept::Memory(memory) => in_memory(memory, |m| {
                for (path, file, list) in files {
                    m.files.insert(path.to_owned(), file.clone());
                    m.lists.extend(list.map(|list| (file.hash, list.clone())));
                }
            }),
        }
    }

    /// The piece list of a file or manifest of several pieces.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn piece_list(&self, hash: &Hash) -> Result<Option<PieceList>, StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.piece_list(hash),
            Kept::Memory(memory) => in_memory(memory, |m| m.lists.get(hash).cloned()),
        }
    }

    /// Whether the piece list of `hash` is there.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn has_piece_list(&self, hash: &Hash) -> Result<bool, StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.has_piece_list(hash),
            Kept::Memory(memory) => in_memory(memory, |m| m.lists.contains_key(hash)),
        }
    }

    /// Remembers a piece list alone: that of a folder's manifest.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn save_piece_list(&self, hash: &Hash, list: &PieceList) -> Result<(), StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.save_piece_list(hash, list),
            Kept::Memory(memory) => in_memory(memory, |m| m.lists.extend([(*hash, list.clone())])),
        }
    }

    /// The broadcasts that are kept, by the names of their rows, in the order of these. In memory
    /// none are.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn broadcasts(&self) -> Result<Vec<BroadcastRow>, StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.broadcasts(),
            Kept::Memory(_) => Ok(Vec::new()),
        }
    }

    /// Adds rows of broadcasts and removes others, all or none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn change_broadcasts(
        &self,
        add: &[(&[u8], &[u8])],
        remove: &[Vec<u8>],
    ) -> Result<(), StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.change_broadcasts(add, remove),
            Kept::Memory(_) => Ok(()),
        }
    }

    /// The downloads that are to go on, as they were saved. In memory none are.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn downloads(&self) -> Result<Vec<(Hash, Vec<u8>)>, StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.downloads(),
            Kept::Memory(_) => Ok(Vec::new()),
        }
    }

    /// Remembers a download, or remembers it otherwise.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn save_download(&self, hash: &Hash, row: &[u8]) -> Result<(), StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.save_download(hash, row),
            Kept::Memory(_) => Ok(()),
        }
    }

    /// Forgets a download.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn forget_download(&self, hash: &Hash) -> Result<(), StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.forget_download(hash),
            Kept::Memory(_) => Ok(()),
        }
    }

    /// The identity of a network's owner, where it is known.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn owner(&self, network: &str) -> Result<Option<NodeId>, StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.owner(network),
            Kept::Memory(_) => Ok(None),
        }
    }

    /// Returns the nodes that were to stay away, and until when, in Unix milliseconds.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn away(&self) -> Result<Vec<(NodeId, u64)>, StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.away(),
            Kept::Memory(_) => Ok(Vec::new()),
        }
    }

    /// Replaces the nodes that are to stay away. Calls may overtake each other: one of a smaller
    /// `number` than an earlier one does nothing.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn save_away(&self, number: u64, nodes: &[(NodeId, u64)]) -> Result<(), StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.save_away(number, nodes),
            Kept::Memory(_) => Ok(()),
        }
    }

    /// Remembers who owns a network.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn save_owner(&self, network: &str, owner: NodeId) -> Result<(), StoreError> {
        match &self.kept {
            Kept::Disk(disk) => disk.save_owner(network, owner),
            Kept::Memory(_) => Ok(()),
        }
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
        match &self.kept {
            Kept::Disk(disk) => disk.prune(keep_file, keep_list),
            Kept::Memory(memory) => in_memory(memory, |m| {
                m.files.retain(|path, _| keep_file(path));
                m.lists.retain(|hash, _| keep_list(hash));
            }),
        }
    }
}

/// Works on the maps, which never fails.
fn in_memory<T>(
    memory: &Mutex<Memory>,
    work: impl FnOnce(&mut Memory) -> T,
) -> Result<T, StoreError> {
    Ok(work(&mut lock(memory)))
}

#[cfg(test)]
mod tests;
