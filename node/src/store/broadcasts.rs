//! Stores broadcasts in the state folder, because other nodes may still request them after a restart of this
//! node. They are written in the background.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use peerkit_proto::config::Config;
use peerkit_proto::frame::broadcast::Batch;
use peerkit_proto::id::Hash;

use super::{Store, StoreError};
use crate::clock::unix_millis;
use crate::lock::lock;

/// Time that a broadcast waits to be written together with others. 100 ms: a disk takes a few milliseconds
/// for each write, and a crash loses the broadcasts that still wait.
pub(crate) const WRITE_DELAY: Duration = Duration::from_millis(100);

/// Maximum number of bytes of broadcasts that wait to be written. 8 MiB: in a busy network, the broadcasts of
/// some seconds, in case the disk is slow. Beyond that, the oldest are not stored.
const MAX_UNWRITTEN_BYTES: usize = 8 << 20;

/// The key of a row: the network, the time of the last broadcast in the batch, the author, the author's epoch
/// and the number of the first broadcast.
type RowKey = Vec<u8>;

/// The broadcasts of one network that are on disk, and those that wait to be written.
#[derive(Debug)]
pub(crate) struct StoredBroadcasts {
    store: Store,
    network: Hash,
    max_count: usize,
    max_bytes: usize,
    /// The maximum age of a stored broadcast, in milliseconds.
    max_age: u64,
    unwritten: Mutex<UnwrittenBroadcasts>,
    /// The rows on disk. Locked while the disk is written to.
    rows: Mutex<Rows>,
}

/// Broadcasts that wait to be written.
#[derive(Debug, Default)]
struct UnwrittenBroadcasts {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// True if [`StoredBroadcasts::add`] has asked a caller to write them, and that has not happened.
    is_write_due: bool,
}

/// The keys and sizes of the rows on disk, and their totals.
#[derive(Debug, Default)]
struct Rows {
    /// The number of broadcasts and of bytes in each row of this network, the oldest row first.
    sizes: BTreeMap<RowKey, (usize, usize)>,
    count: usize,
    bytes: usize,
}

impl StoredBroadcasts {
    pub(crate) fn new(store: Store, network: &str, config: &Config) -> Self {
        Self {
            store,
            network: Hash::of(network.as_bytes()),
            max_count: config.log_count,
            max_bytes: config.log_bytes,
            max_age: u64::try_from(config.log_age.as_millis()).unwrap_or(u64::MAX),
            unwritten: Mutex::default(),
            rows: Mutex::default(),
        }
    }

    /// Returns the broadcasts of this network that earlier runs have stored, the oldest first. Removes the
    /// broadcasts of all networks that are too old. Waits for the disk.
    pub(crate) fn load(&self) -> Result<Vec<Batch>, StoreError> {
        let mut rows = lock(&self.rows);
        let oldest = self.oldest_time();
        let mut batches = Vec::new();
        let mut removed = Vec::new();
        for (key, body) in self.store.broadcasts()? {
            if time_of(&key).is_none_or(|time| time < oldest) {
                removed.push(key);
            } else if key.starts_with(self.network.as_bytes()) {
                match Batch::decode(Bytes::from(body)) {
                    Ok(batch) => {
                        rows.insert(key, &batch);
                        batches.push(batch);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a stored broadcast can't be read: left out");
                        removed.push(key);
                    }
                }
            }
        }
        if !removed.is_empty() {
            self.store.change_broadcasts(&[], &removed)?;
        }
        Ok(batches)
    }

    /// Adds a batch of broadcasts. If this returns true, the caller has to call [`write`](Self::write) after
    /// [`WRITE_DELAY`].
    pub(crate) fn add(&self, batch: Batch) -> bool {
        // Without a state folder nothing survives a restart, so storing it would be useless.
        if self.store.is_in_memory() {
            return false;
        }
        let mut unwritten = lock(&self.unwritten);
        unwritten.bytes += batch.body().len();
        unwritten.batches.push_back(batch);
        // The oldest are dropped, because most other nodes have received them by now.
        while unwritten.bytes > MAX_UNWRITTEN_BYTES {
            let Some(oldest) = unwritten.batches.pop_front() else { break };
            unwritten.bytes -= oldest.body().len();
            let author = oldest.run.author.short();
            tracing::debug!(%author, "too much waits to be written: a broadcast is not stored");
        }
        !std::mem::replace(&mut unwritten.is_write_due, true)
    }

    /// Writes all waiting broadcasts. Waits for the disk.
    pub(crate) fn write(&self) {
        // Runs until none are left, because `add` asks for no further write until then.
        loop {
            // `rows` is locked first, so that two writers can't exchange the order of their batches.
            let mut rows = lock(&self.rows);
            let batches = {
                let mut unwritten = lock(&self.unwritten);
                if unwritten.batches.is_empty() {
                    unwritten.is_write_due = false;
                    return;
                }
                unwritten.bytes = 0;
                std::mem::take(&mut unwritten.batches)
            };
            let mut new = BTreeMap::new();
            for batch in batches {
                let key = self.key_of(&batch);
                rows.insert(key.clone(), &batch);
                new.insert(key, batch);
            }
            let removed = self.remove_excess(&mut rows);
            // A new row may be over the limits too. It is not written at all.
            for key in &removed {
                new.remove(key);
            }
            let new: Vec<_> =
                new.iter().map(|(key, batch)| (&key[..], &batch.body()[..])).collect();
            // After an error these broadcasts are missing after a restart. Nothing is lost in this run.
            if let Err(error) = self.store.change_broadcasts(&new, &removed) {
                tracing::warn!(%error, "can't store broadcasts");
            }
        }
    }

    /// Removes from `rows` the rows that are too old, and the oldest ones beyond the limits. Returns their
    /// keys.
    fn remove_excess(&self, rows: &mut Rows) -> Vec<RowKey> {
        let oldest = self.oldest_time();
        let mut removed = Vec::new();
        while let Some((key, _)) = rows.sizes.first_key_value() {
            let fits = rows.count <= self.max_count && rows.bytes <= self.max_bytes;
            if fits && time_of(key).is_some_and(|time| time >= oldest) {
                break;
            }
            removed.extend(rows.pop_oldest());
        }
        removed
    }

    /// Returns the time before which broadcasts are too old, in Unix milliseconds.
    fn oldest_time(&self) -> u64 {
        unix_millis().saturating_sub(self.max_age)
    }

    fn key_of(&self, batch: &Batch) -> RowKey {
        let time = batch.items.last().map_or(0, |item| item.time);
        let mut key = self.network.as_bytes().to_vec();
        // Big-endian numbers sort the keys of a network by time.
        key.extend(time.to_be_bytes());
        key.extend(batch.run.author.as_bytes());
        key.extend(batch.run.epoch.to_be_bytes());
        key.extend(batch.first.to_be_bytes());
        key
    }
}

impl Rows {
    fn insert(&mut self, key: RowKey, batch: &Batch) {
        let (count, bytes) = (batch.items.len(), batch.body().len());
        self.count += count;
        self.bytes += bytes;
        if let Some((count, bytes)) = self.sizes.insert(key, (count, bytes)) {
            self.count -= count;
            self.bytes -= bytes;
        }
    }

    fn pop_oldest(&mut self) -> Option<RowKey> {
        let (key, (count, bytes)) = self.sizes.pop_first()?;
        self.count -= count;
        self.bytes -= bytes;
        Some(key)
    }
}

/// Returns the time in a row's key, or `None` if the key is too short.
fn time_of(key: &[u8]) -> Option<u64> {
    let time = key.get(32..40)?;
    Some(u64::from_be_bytes(time.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use peerkit_proto::frame::broadcast::Item;
    use peerkit_proto::id::Key;
    use peerkit_proto::message::{Message, PackedMessage};

    use super::*;

    fn batch(first: u64, time: u64, len: usize) -> Batch {
        let content = PackedMessage::uncompressed(Message::bytes(vec![7; len]));
        let item = Item { time, title: String::new(), content };
        Batch::sign(&Key::from_secret(&[1; 32]), "net", 5, (first, 1), vec![item])
    }

    fn keep(kept: &StoredBroadcasts, batches: impl IntoIterator<Item = Batch>) {
        for batch in batches {
            kept.add(batch);
        }
        kept.write();
    }

    fn stored(kept: &StoredBroadcasts) -> Vec<u64> {
        kept.load().unwrap().iter().map(|batch| batch.first).collect()
    }

    #[test]
    fn stored_broadcasts_are_loaded_again_within_the_limits() {
        let folder = tempfile::tempdir().unwrap();
        let open = |network, config: &Config| {
            StoredBroadcasts::new(Store::open(Some(folder.path())).unwrap(), network, config)
        };
        let now = unix_millis();
        let mut config = Config::default();
        config.log_count = 3;
        let kept = open("net", &config);
        assert!(stored(&kept).is_empty());
        assert!(kept.add(batch(1, now, 10)), "the caller has to write it");
        assert!(!kept.add(batch(2, now + 1, 10)), "the first caller is asked to write it");
        kept.write();
        assert!(kept.add(batch(3, now + 2, 10)));
        keep(&kept, [batch(4, now + 3, 10)]);
        drop(kept);

        let kept = open("other", &config);
        assert!(stored(&kept).is_empty(), "of another network");
        drop(kept);
        let kept = open("net", &config);
        assert_eq!(stored(&kept), [2, 3, 4], "the oldest was removed");
        config.log_bytes = 1000;
        drop(kept);
        let kept = open("net", &config);
        assert_eq!(stored(&kept), [2, 3, 4]);
        keep(&kept, [batch(5, now + 4, 800)]);
        drop(kept);
        let kept = open("net", &config);
        assert_eq!(stored(&kept), [5]);
        drop(kept);

        config.log_age = Duration::from_millis(1);
        std::thread::sleep(Duration::from_millis(20));
        let kept = open("other", &config);
        assert!(stored(&kept).is_empty());
        assert!(
            kept.store.broadcasts().unwrap().is_empty(),
            "those of other networks are removed too"
        );
    }

    #[test]
    fn if_too_many_broadcasts_wait_the_oldest_are_not_stored() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Some(folder.path())).unwrap();
        let kept = StoredBroadcasts::new(store, "net", &Config::default());
        let now = unix_millis();
        let len = 60 << 10;
        let many = MAX_UNWRITTEN_BYTES / len + 10;
        keep(&kept, (1..=many as u64).map(|first| batch(first, now + first, len)));
        let numbers = stored(&kept);
        assert_eq!(numbers.last(), Some(&(many as u64)));
        assert!(
            numbers.len() <= MAX_UNWRITTEN_BYTES / len
                && numbers.len() + 2 > MAX_UNWRITTEN_BYTES / len
        );
    }

    #[test]
    fn a_replaced_row_is_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Some(folder.path())).unwrap();
        let kept = StoredBroadcasts::new(store, "net", &Config::default());
        let now = unix_millis();
        let larger = batch(1, now, 500);
        let bytes = larger.body().len();
        keep(&kept, [batch(1, now, 10)]);
        keep(&kept, [larger]);
        let rows = lock(&kept.rows);
        assert_eq!((rows.count, rows.bytes), (1, bytes));
    }

    #[test]
    fn without_a_state_folder_nothing_is_stored() {
        let kept = StoredBroadcasts::new(Store::open(None).unwrap(), "net", &Config::default());
        assert!(!kept.add(batch(1, unix_millis(), 1)));
        kept.write();
        assert!(stored(&kept).is_empty());
    }
}
