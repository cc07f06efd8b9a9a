//! The tables of the store, and transactions on them, in a database or in memory.

use std::collections::BTreeMap;

use redb::{Key, TableDefinition, TableHandle, Value, WriteTransaction};

/// Known peers as JSON, by identity.
pub(super) const PEERS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("peers");
/// Shares, by path.
pub(super) const SHARES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("shared");
/// Hashes of files, by path.
pub(super) const FILES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("files");
/// Piece lists, by the hash of the file or manifest.
pub(super) const LISTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("piece_lists");
/// Batches of broadcasts, by network and time.
pub(super) const BROADCASTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("broadcasts");
/// Downloads to continue, by the hash of the content.
pub(super) const DOWNLOADS: TableDefinition<'_, &[u8; 32], &[u8]> =
    TableDefinition::new("downloads");
/// Identities of owners, by the name of the network.
pub(super) const OWNERS: TableDefinition<'_, &str, &[u8; 32]> = TableDefinition::new("owners");
/// The times until which nodes are kept away, by identity.
pub(super) const KEPT_AWAY: TableDefinition<'_, &[u8; 32], u64> = TableDefinition::new("away");
/// The anchors, each with its position in the list: see [`Output::Anchors`](peerkit_proto::peer::Output::Anchors).
pub(super) const ANCHORS: TableDefinition<'_, &[u8; 32], u64> = TableDefinition::new("anchors");
/// Bans as JSON, by the identity of the banned node.
pub(super) const BANS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("bans");

/// Proofs of members, by network and identity.
pub(super) const MEMBERS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("members");
/// Revocations, by network and revoked identity.
pub(super) const REVOCATIONS: TableDefinition<'_, &[u8], &[u8]> =
    TableDefinition::new("revocations");

/// A key and its value.
pub(super) type Row = (Vec<u8>, Vec<u8>);

/// Creates the tables that a database lacks, so that reading never fails for want of a table.
pub(super) fn create_missing(db: &WriteTransaction) -> Result<(), redb::Error> {
    db.open_table(PEERS)?;
    db.open_table(SHARES)?;
    db.open_table(FILES)?;
    db.open_table(LISTS)?;
    db.open_table(BROADCASTS)?;
    db.open_table(DOWNLOADS)?;
    db.open_table(OWNERS)?;
    db.open_table(KEPT_AWAY)?;
    db.open_table(ANCHORS)?;
    db.open_table(BANS)?;
    db.open_table(MEMBERS)?;
    db.open_table(REVOCATIONS)?;
    Ok(())
}

/// The tables of a node without a state folder, by their names.
// These are maps and not a redb database in memory, which would take 128 KiB for each node and about 60 µs
// for each write. All other parts of an idle node take 63 KiB.
#[derive(Debug, Default)]
pub(crate) struct MemoryTables(BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>);

impl MemoryTables {
    pub(super) fn rows(&self, table: &impl TableHandle) -> Vec<Row> {
        let rows = self.0.get(table.name()).into_iter().flatten();
        rows.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    pub(super) fn value(&self, table: &impl TableHandle, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(table.name())?.get(key).cloned()
    }

    fn table(&mut self, table: &impl TableHandle) -> &mut BTreeMap<Vec<u8>, Vec<u8>> {
        self.0.entry(table.name().to_owned()).or_default()
    }
}

/// A transaction. On disk, either all of its changes are made, or none.
pub(super) enum Transaction<'c> {
    Disk(&'c WriteTransaction),
    Memory(&'c mut MemoryTables),
}

impl Transaction<'_> {
    /// Adds or replaces rows. Keys and values must have the encoding of the table's types.
    pub(super) fn put<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'_, K, V>,
        rows: impl IntoIterator<Item = (impl AsRef<[u8]>, impl AsRef<[u8]>)>,
    ) -> Result<(), redb::Error> {
        match self {
            Self::Disk(db) => {
                let mut table = db.open_table(table)?;
                for (key, value) in rows {
                    table.insert(K::from_bytes(key.as_ref()), V::from_bytes(value.as_ref()))?;
                }
            }
            Self::Memory(tables) => {
                let rows = rows.into_iter();
                let rows =
                    rows.map(|(key, value)| (key.as_ref().to_vec(), value.as_ref().to_vec()));
                tables.table(&table).extend(rows);
            }
        }
        Ok(())
    }

    /// Removes a row. Returns whether the row existed.
    pub(super) fn remove<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'_, K, V>,
        key: &[u8],
    ) -> Result<bool, redb::Error> {
        match self {
            Self::Disk(db) => Ok(db.open_table(table)?.remove(K::from_bytes(key))?.is_some()),
            Self::Memory(tables) => Ok(tables.table(&table).remove(key).is_some()),
        }
    }

    /// Removes all rows for whose keys `keep` returns false.
    pub(super) fn retain<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'_, K, V>,
        mut keep: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), redb::Error> {
        match self {
            Self::Disk(db) => {
                db.open_table(table)?.retain(|key, _| keep(K::as_bytes(&key).as_ref()))?;
            }
            Self::Memory(tables) => tables.table(&table).retain(|key, _| keep(key)),
        }
        Ok(())
    }
}
