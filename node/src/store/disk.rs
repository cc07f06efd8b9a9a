//! The memory on disk: a redb database, a transaction for each call.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use peerkit_proto::codec::{DecodeError, Reader, Writer};
use peerkit_proto::files::{Access, FileKind, FileName, PieceList, Secret, SharedFile};
use peerkit_proto::id::{Hash, NodeId};
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};

use super::{BroadcastRow, FileRow, KnownFile, KnownPeer, KnownShare, StoreError};
use crate::key::create_private_folder;
use crate::stamp::Stamp;

/// The database's file in the state folder.
pub(super) const STATE_FILE: &str = "state.redb";

/// Memory for cached pages. 16 MiB: redb's own 1 GiB is a server's.
const CACHE: usize = 16 << 20;

pub(super) const PEERS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("peers");
const SHARES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("shared");
/// What was shared, with everyone, as it was written before a share had more to it than its hash.
pub(super) const OLD_SHARES: TableDefinition<'_, &[u8], &[u8; 32]> = TableDefinition::new("shares");
const FILES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("files");
const LISTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("piece_lists");
const BROADCASTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("broadcasts");
const DOWNLOADS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("downloads");
const OWNERS: TableDefinition<'_, &str, &[u8; 32]> = TableDefinition::new("owners");

/// See [`super::Store`], whose methods these are.
#[derive(Debug)]
pub(super) struct Disk {
    database: Database,
}

impl Disk {
    pub(super) fn open(folder: &Path) -> Result<Self, StoreError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE);
        let opened = create_private_folder(folder)
            .map_err(DatabaseError::from)
            .and_then(|()| builder.create(folder.join(STATE_FILE)));
        let in_folder = |error: redb::Error| StoreError::Open {
            folder: folder.to_owned(),
            source: Box::new(error),
        };
        let database = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(folder.to_owned()),
            error => in_folder(error.into()),
        })?;
        let disk = Self { database };
        // So that later readers find every table there.
        disk.write(take_over_old_shares).map_err(|error| match error {
            StoreError::Database(source) => in_folder(*source),
            other => other,
        })?;
        Ok(disk)
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
        let transaction = self.database.begin_read().map_err(redb::Error::from);
        transaction
            .and_then(|transaction| work(&transaction))
            .map_err(|error| StoreError::Database(Box::new(error)))
    }

    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let run = || {
            let transaction = self.database.begin_write()?;
            transaction.open_table(PEERS)?;
            transaction.open_table(SHARES)?;
            transaction.open_table(FILES)?;
            transaction.open_table(LISTS)?;
            transaction.open_table(BROADCASTS)?;
            transaction.open_table(DOWNLOADS)?;
            transaction.open_table(OWNERS)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        run().map_err(|error| StoreError::Database(Box::new(error)))
    }
}

/// The rows of the old table go into the new one. What they do not say, the next look at the path
/// does.
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

impl KnownShare {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        self.shared.encode(&mut out);
        match &self.access {
            Access::Nodes(nodes) => {
                out.put_u8(1);
                out.put_u32(u32::try_from(nodes.len()).unwrap_or(u32::MAX));
                nodes.iter().for_each(|node| out.put_raw(node.as_bytes()));
            }
            Access::Ticket(secret) => {
                out.put_u8(2);
                out.put_raw(secret.as_bytes());
            }
            // Whatever else there may be one day is not let out as open.
            access => out.put_u8(if *access == Access::Open { 0 } else { u8::MAX }),
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(Bytes::copy_from_slice(bytes));
        if reader.u8("share version")? != 1 {
            return Err(DecodeError::Invalid("share version"));
        }
        let shared = SharedFile::decode(&mut reader)?;
        let access = match reader.u8("share access")? {
            0 => Access::Open,
            1 => {
                let count = reader.u32("share nodes")?;
                let nodes = (0..count).map(|_| reader.node_id("share node"));
                Access::Nodes(nodes.collect::<Result<_, _>>()?)
            }
            2 => Access::Ticket(Secret::from_bytes(reader.array("share secret")?)),
            _ => return Err(DecodeError::Invalid("share access")),
        };
        reader.finish()?;
        Ok(Self { shared, access })
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
