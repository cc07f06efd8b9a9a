//! Stored broadcasts: those that other nodes may still want after a restart of this one. They are
//! written to the state folder in the background.

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

/// Time that a broadcast waits to be written together with others. 100 ms: a crash loses the broadcasts
/// of that time, and a disk takes a few milliseconds for each write.
pub(crate) const WRITE_DELAY: Duration = Duration::from_millis(100);

/// Most bytes of broadcasts that wait to be written. 8 MiB: some seconds of a busy network's, for a slow
/// disk. Beyond that the oldest are not stored.
const MAX_WAITING: usize = 8 << 20;

/// The key of a row: the network, the time of the last broadcast in it, their author and numbers.
type RowKey = Vec<u8>;

/// The broadcasts of a network that are on disk, or are about to be.
#[derive(Debug)]
pub(crate) struct StoredBroadcasts {
    store: Store,
    network: Hash,
    max_count: usize,
    max_bytes: usize,
    /// The limit on their age, in milliseconds.
    max_age: u64,
    waiting: Mutex<UnwrittenBroadcasts>,
    /// The rows on disk. Locked while they are written.
    rows: Mutex<Rows>,
}

/// Broadcasts that wait to be written.
#[derive(Debug, Default)]
struct UnwrittenBroadcasts {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// A caller of [`StoredBroadcasts::add`] has been asked to write them.
    is_writer_on_its_way: bool,
}

#[derive(Debug, Default)]
struct Rows {
    /// The number of broadcasts and of bytes in each row, the oldest row first.
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
            waiting: Mutex::default(),
            rows: Mutex::default(),
        }
    }

    /// Returns the broadcasts of earlier runs, the oldest first. Removes those of any network
    /// that are too old. Blocks on the disk.
    pub(crate) fn load(&self) -> Result<Vec<Batch>, StoreError> {
        let mut rows = lock(&self.rows);
        let oldest = self.oldest_time();
        let mut batches = Vec::new();
        let mut void = Vec::new();
        for (key, body) in self.store.broadcasts()? {
            if time_of(&key).is_none_or(|time| time < oldest) {
                void.push(key);
            } else if key.starts_with(self.network.as_bytes()) {
                match Batch::decode(Bytes::from(body)) {
                    Ok(batch) => {
                        rows.insert(key, &batch);
                        batches.push(batch);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a stored broadcast can't be read: left out");
                        void.push(key);
                    }
                }
            }
        }
        if !void.is_empty() {
            self.store.change_broadcasts(&[], &void)?;
        }
        Ok(batches)
    }

    /// Adds a broadcast. Returns whether the caller has to call [`write`](Self::write), after
    /// [`WRITE_DELAY`].
    pub(crate) fn add(&self, batch: Batch) -> bool {
        // Without a folder nothing outlives the run, so a copy would be of no use.
        if self.store.is_in_memory() {
            return false;
        }
        let mut waiting = lock(&self.waiting);
        waiting.bytes += batch.body().len();
        waiting.batches.push_back(batch);
        // Dropping the oldest is the least harm: other nodes have had them longest.
        while waiting.bytes > MAX_WAITING {
            let Some(oldest) = waiting.batches.pop_front() else { break };
            waiting.bytes -= oldest.body().len();
            tracing::debug!(author = %oldest.run.author.short(), "too much to store: left out");
        }
        !std::mem::replace(&mut waiting.is_writer_on_its_way, true)
    }

    /// Writes the broadcasts that wait. Blocks on the disk.
    pub(crate) fn write(&self) {
        // Until none are left: `add` asks for no other writer while this one is at work.
        loop {
            // Locked first, so that two writers keep the order of their batches.
            let mut rows = lock(&self.rows);
            let batches = {
                let mut waiting = lock(&self.waiting);
                if waiting.batches.is_empty() {
                    waiting.is_writer_on_its_way = false;
                    return;
                }
                waiting.bytes = 0;
                std::mem::take(&mut waiting.batches)
            };
            let mut new = BTreeMap::new();
            for batch in batches {
                let key = self.key_of(&batch);
                rows.insert(key.clone(), &batch);
                new.insert(key, batch);
            }
            let void = self.remove_outgrown(&mut rows);
            // A new row may be outgrown already, and was never on disk.
            for key in &void {
                new.remove(key);
            }
            let new: Vec<_> =
                new.iter().map(|(key, batch)| (&key[..], &batch.body()[..])).collect();
            // An error costs these broadcasts after a restart, and nothing in this run.
            if let Err(error) = self.store.change_broadcasts(&new, &void) {
                tracing::warn!(%error, "can't store broadcasts");
            }
        }
    }

    /// Removes the rows that are too old or beyond the limits from `rows`, and returns their keys.
    fn remove_outgrown(&self, rows: &mut Rows) -> Vec<RowKey> {
        let oldest = self.oldest_time();
        let mut void = Vec::new();
        while let Some((key, _)) = rows.sizes.first_key_value() {
            let fits = rows.count <= self.max_count && rows.bytes <= self.max_bytes;
            if fits && time_of(key).is_some_and(|time| time >= oldest) {
                break;
            }
            void.extend(rows.pop());
        }
        void
    }

    /// Returns the time of the oldest broadcasts that are kept.
    fn oldest_time(&self) -> u64 {
        unix_millis().saturating_sub(self.max_age)
    }

    fn key_of(&self, batch: &Batch) -> RowKey {
        let time = batch.items.last().map_or(0, |item| item.time);
        let mut key = self.network.as_bytes().to_vec();
        // Big-endian, so that the keys of a network are in the order of time.
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

    fn pop(&mut self) -> Option<RowKey> {
        let (key, (count, bytes)) = self.sizes.pop_first()?;
        self.count -= count;
        self.bytes -= bytes;
        Some(key)
    }
}

/// Returns the time in a row's key.
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

    fn places(kept: &StoredBroadcasts) -> Vec<u64> {
        kept.load().unwrap().iter().map(|batch| batch.first).collect()
    }

    #[test]
    fn stored_broadcasts_are_restored_within_their_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let open = |network, config: &Config| {
            StoredBroadcasts::new(Store::open(Some(folder.path())).unwrap(), network, config)
        };
        let now = unix_millis();
        let mut config = Config::default();
        config.log_count = 3;
        let kept = open("net", &config);
        assert!(places(&kept).is_empty());
        assert!(kept.add(batch(1, now, 10)), "the caller has to write it");
        assert!(!kept.add(batch(2, now + 1, 10)), "the first caller is going to");
        kept.write();
        assert!(kept.add(batch(3, now + 2, 10)));
        keep(&kept, [batch(4, now + 3, 10)]);
        drop(kept);

        let kept = open("other", &config);
        assert!(places(&kept).is_empty(), "of another network");
        drop(kept);
        let kept = open("net", &config);
        assert_eq!(places(&kept), [2, 3, 4], "the oldest had to give way");
        config.log_bytes = 1000;
        drop(kept);
        let kept = open("net", &config);
        assert_eq!(places(&kept), [2, 3, 4]);
        keep(&kept, [batch(5, now + 4, 800)]);
        drop(kept);
        let kept = open("net", &config);
        assert_eq!(places(&kept), [5]);
        drop(kept);

        config.log_age = Duration::from_millis(1);
        std::thread::sleep(Duration::from_millis(20));
        let kept = open("other", &config);
        assert!(places(&kept).is_empty());
        assert!(kept.store.broadcasts().unwrap().is_empty(), "too old, of whatever network");
    }

    #[test]
    fn a_disk_that_is_too_slow_costs_the_oldest() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Some(folder.path())).unwrap();
        let kept = StoredBroadcasts::new(store, "net", &Config::default());
        let now = unix_millis();
        let len = 60 << 10;
        let many = MAX_WAITING / len + 10;
        keep(&kept, (1..=many as u64).map(|first| batch(first, now + first, len)));
        let places = places(&kept);
        assert_eq!(places.last(), Some(&(many as u64)));
        assert!(places.len() <= MAX_WAITING / len && places.len() + 2 > MAX_WAITING / len);
    }

    #[test]
    fn one_that_takes_the_row_of_another_is_counted_once() {
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
    fn nothing_is_kept_in_memory() {
        let kept = StoredBroadcasts::new(Store::open(None).unwrap(), "net", &Config::default());
        assert!(!kept.add(batch(1, unix_millis(), 1)));
        kept.write();
        assert!(places(&kept).is_empty());
    }
}
