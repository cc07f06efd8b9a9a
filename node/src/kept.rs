//! Broadcasts that outlive the node: written to the state folder behind what else it does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use peerkit_proto::config::Config;
use peerkit_proto::frame::broadcast::Batch;
use peerkit_proto::id::Hash;

use crate::clock::unix_millis;
use crate::lock::lock;
use crate::store::{Store, StoreError};

/// How long a broadcast waits to be written with others. 100 ms: what a crash may cost, against
/// the few milliseconds that a disk takes for each time that it is written to.
pub(crate) const GATHER: Duration = Duration::from_millis(100);

/// Bytes of broadcasts that may wait to be written: some seconds of a full network's, where a disk
/// is slow. What is more is not kept, the oldest first.
const MAX_WAITING: usize = 8 << 20;

/// Names a row: the network, the time of the last broadcast, and which they are.
type Row = Vec<u8>;

/// The broadcasts of a network that are, or are about to be, on disk.
#[derive(Debug)]
pub(crate) struct Kept {
    store: Store,
    network: Hash,
    max_count: usize,
    max_bytes: usize,
    /// In milliseconds.
    max_age: u64,
    waiting: Mutex<Waiting>,
    /// What is on disk. Locked for as long as that is written to.
    rows: Mutex<Rows>,
}

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// Somebody is going to write them.
    taken_care_of: bool,
}

#[derive(Debug, Default)]
struct Rows {
    /// Broadcasts and bytes of each row, the oldest first.
    sizes: BTreeMap<Row, (usize, usize)>,
    count: usize,
    bytes: usize,
}

impl Kept {
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

    /// Those of earlier runs, the oldest first. What is too old, of whatever network, is removed.
    /// Blocks on the disk.
    pub(crate) fn load(&self) -> Result<Vec<Batch>, StoreError> {
        let mut rows = lock(&self.rows);
        let oldest = unix_millis().saturating_sub(self.max_age);
        let mut batches = Vec::new();
        let mut void = Vec::new();
        for (row, body) in self.store.broadcasts()? {
            if time_of(&row).is_none_or(|time| time < oldest) {
                void.push(row);
            } else if row.starts_with(self.network.as_bytes()) {
                match Batch::decode(Bytes::from(body)) {
                    Ok(batch) => {
                        rows.insert(row, &batch);
                        batches.push(batch);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a kept broadcast can't be read: left out");
                        void.push(row);
                    }
                }
            }
        }
        if !void.is_empty() {
            self.store.change_broadcasts(&[], &void)?;
        }
        Ok(batches)
    }

    /// Keeps one; true where the caller has to see to [`Kept::write`], in a moment.
    pub(crate) fn add(&self, batch: Batch) -> bool {
        if self.store.is_in_memory() {
            return false;
        }
        let mut waiting = lock(&self.waiting);
        waiting.bytes += batch.body().len();
        waiting.batches.push_back(batch);
        while waiting.bytes > MAX_WAITING {
            let Some(oldest) = waiting.batches.pop_front() else { break };
            waiting.bytes -= oldest.body().len();
            tracing::debug!(author = %oldest.run.author.short(), "too much to keep: left out");
        }
        !std::mem::replace(&mut waiting.taken_care_of, true)
    }

    /// Writes all that waits. Blocks on the disk.
    pub(crate) fn write(&self) {
        loop {
            let mut rows = lock(&self.rows);
            let batches = {
                let mut waiting = lock(&self.waiting);
                if waiting.batches.is_empty() {
                    waiting.taken_care_of = false;
                    return;
                }
                waiting.bytes = 0;
                std::mem::take(&mut waiting.batches)
            };
            let mut new = BTreeMap::new();
            for batch in batches {
                let row = self.row(&batch);
                rows.insert(row.clone(), &batch);
                new.insert(row, batch);
            }
            let void = self.outgrown(&mut rows);
            for row in &void {
                new.remove(row);
            }
            let new: Vec<_> =
                new.iter().map(|(row, batch)| (&row[..], &batch.body()[..])).collect();
            if let Err(error) = self.store.change_broadcasts(&new, &void) {
                tracing::warn!(%error, "can't keep broadcasts");
            }
        }
    }

    /// Takes out what there is no room for any more, and what is too old.
    fn outgrown(&self, rows: &mut Rows) -> Vec<Row> {
        let oldest = unix_millis().saturating_sub(self.max_age);
        let mut void = Vec::new();
        while let Some((row, _)) = rows.sizes.first_key_value() {
            let room = rows.count <= self.max_count && rows.bytes <= self.max_bytes;
            if room && time_of(row).is_some_and(|time| time >= oldest) {
                break;
            }
            void.extend(rows.pop());
        }
        void
    }

    fn row(&self, batch: &Batch) -> Row {
        let time = batch.items.last().map_or(0, |item| item.time);
        let mut row = self.network.as_bytes().to_vec();
        row.extend(time.to_be_bytes());
        row.extend(batch.run.author.as_bytes());
        row.extend(batch.run.epoch.to_be_bytes());
        row.extend(batch.first.to_be_bytes());
        row
    }
}

impl Rows {
    fn insert(&mut self, row: Row, batch: &Batch) {
        let (count, bytes) = (batch.items.len(), batch.body().len());
        self.count += count;
        self.bytes += bytes;
        if let Some((count, bytes)) = self.sizes.insert(row, (count, bytes)) {
            self.count -= count;
            self.bytes -= bytes;
        }
    }

    fn pop(&mut self) -> Option<Row> {
        let (row, (count, bytes)) = self.sizes.pop_first()?;
        self.count -= count;
        self.bytes -= bytes;
        Some(row)
    }
}

/// The time in a row's name.
fn time_of(row: &[u8]) -> Option<u64> {
    let time = row.get(32..40)?;
    Some(u64::from_be_bytes(time.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use peerkit_proto::frame::broadcast::Item;
    use peerkit_proto::id::Key;
    use peerkit_proto::message::{Message, Packed};

    use super::*;

    fn batch(first: u64, time: u64, len: usize) -> Batch {
        let content = Packed::plain(Message::bytes(vec![7; len]));
        let item = Item { time, title: String::new(), content };
        Batch::sign(&Key::from_secret(&[1; 32]), "net", 5, (first, 1), vec![item])
    }

    fn keep(kept: &Kept, batches: impl IntoIterator<Item = Batch>) {
        for batch in batches {
            kept.add(batch);
        }
        kept.write();
    }

    fn places(kept: &Kept) -> Vec<u64> {
        kept.load().unwrap().iter().map(|batch| batch.first).collect()
    }

    #[test]
    fn what_was_kept_is_there_again_within_its_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let open = |network, config: &Config| {
            Kept::new(Store::open(Some(folder.path())).unwrap(), network, config)
        };
        let now = unix_millis();
        let mut config = Config::default();
        config.log_count = 3;
        let kept = open("net", &config);
        assert!(places(&kept).is_empty());
        assert!(kept.add(batch(1, now, 10)), "somebody has to write it");
        assert!(!kept.add(batch(2, now + 1, 10)), "somebody is going to");
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
        let kept = Kept::new(store, "net", &Config::default());
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
        let kept = Kept::new(store, "net", &Config::default());
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
        let kept = Kept::new(Store::open(None).unwrap(), "net", &Config::default());
        assert!(!kept.add(batch(1, unix_millis(), 1)));
        kept.write();
        assert!(places(&kept).is_empty());
    }
}
