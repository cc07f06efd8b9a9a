//! Resuming downloads after a restart.
//!
//! The store has a row for each hash that is being downloaded. The row has the request of each download of
//! the hash, and its progress. It does not say which pieces are on disk: after a crash such a list could be
//! ahead of the data or behind it. A resumed download checks its whole unfinished file or folder ([`part`]),
//! and then fetches the missing pieces.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::files::fetch::SourceCandidate;
use peerkit_proto::files::{FileKind, FileName, Secret};
use peerkit_proto::id::{Hash, NodeId};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::download::DownloadEntry;
use super::fetch_request::{FetchDestination, FetchRequest};
use super::part;
use super::status::DownloadState;
use crate::blocking;
use crate::error::Error;
use crate::inner::Inner;
use crate::store::StoreError;

/// Interval at which the progress of a download is stored. 1 s: after a crash the progress that is shown before
/// the part is checked is at most this old.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// A download in the store. The row of a hash is its first download, which contains the other downloads of the
/// hash.
#[derive(Debug, Serialize, Deserialize)]
struct DownloadRow {
    /// Downloads of the same content to other destinations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    more: Vec<Self>,
    #[serde(default)]
    secret: Option<[u8; 16]>,
    #[serde(with = "crate::disk::path_bytes")]
    path: PathBuf,
    /// If true, the path is a folder to fetch into, which is created.
    #[serde(default)]
    into: bool,
    #[serde(default)]
    from: Vec<(Option<NodeId>, Vec<Address>)>,
    #[serde(default)]
    overwrite: bool,
    #[serde(default = "yes")]
    ask_network: bool,
    #[serde(default)]
    paused: bool,
    /// The name under which it was requested.
    #[serde(default)]
    called: Option<FileName>,
    /// The name and kind of the content, if they were known.
    #[serde(default)]
    name: Option<FileName>,
    #[serde(default)]
    kind: Option<FileKind>,
    /// Number of bytes that were verified and on disk when this was written, and the total if it was known.
    #[serde(default)]
    done: u64,
    #[serde(default)]
    total: Option<u64>,
}

fn yes() -> bool {
    true
}

impl DownloadRow {
    /// Decodes the downloads of a row. Returns none if the row is not valid. For a download whose part is
    /// gone, sets the number of bytes on disk to 0. Blocks on the disk.
    fn read(hash: &Hash, row: &[u8]) -> Vec<Self> {
        let Ok(mut first) = serde_json::from_slice::<Self>(row) else { return Vec::new() };
        let mut rows = std::mem::take(&mut first.more);
        rows.insert(0, first);
        for row in &mut rows {
            if row.done > 0 && !part::is_left_anywhere(&row.path, hash) {
                row.done = 0;
            }
        }
        rows
    }

    /// Returns the row for the present state of a download.
    ///
    /// # Errors
    /// If its destination is relative, and there is no current folder.
    fn new(entry: &DownloadEntry) -> std::io::Result<Self> {
        let request = &entry.request;
        let status = entry.status.get();
        let (path, into) = match &request.to {
            FetchDestination::Path(path) => (path, false),
            FetchDestination::Folder(path) => (path, true),
        };
        let from = request.from.iter().map(|from| (from.id, from.addresses.clone())).collect();
        Ok(Self {
            more: Vec::new(),
            secret: request.secret.map(|secret| *secret.as_bytes()),
            // The next run may have another current folder.
            path: std::path::absolute(path)?,
            into,
            from,
            overwrite: request.overwrite,
            ask_network: request.ask_network,
            paused: entry.control().is_paused,
            called: request.name.clone(),
            name: status.name,
            kind: status.kind,
            done: entry.status.bytes_on_disk(),
            total: status.total,
        })
    }

    /// Returns the download, which continues where it was.
    fn into_entry(self, hash: Hash) -> DownloadEntry {
        let candidate = |(id, addresses)| SourceCandidate { id, addresses };
        let request = FetchRequest {
            hash,
            secret: self.secret.map(Secret::from_bytes),
            name: self.called,
            to: if self.into {
                FetchDestination::Folder(self.path)
            } else {
                FetchDestination::Path(self.path)
            },
            to_chosen: true,
            from: self.from.into_iter().map(candidate).collect(),
            overwrite: self.overwrite,
            ask_network: self.ask_network,
            is_foreground: false,
        };
        let entry = DownloadEntry::new(request, true);
        entry.control().is_stored = true;
        entry.status.show_name(self.name, self.kind);
        entry.status.show_earlier_progress(self.done, self.total);
        if self.paused {
            entry.control().is_paused = true;
            entry.status.show_state(DownloadState::Paused);
        }
        entry
    }
}

impl Inner {
    /// Continues the downloads of earlier runs, except those that were paused.
    pub(crate) async fn resume_downloads(self: &Arc<Self>) -> Result<(), Error> {
        let store = self.store.clone();
        let reading = blocking::try_run(move || {
            let rows = store.downloads()?.into_iter();
            let read = |(hash, row): (Hash, Vec<u8>)| (hash, DownloadRow::read(&hash, &row));
            Ok::<_, StoreError>(rows.map(read).collect::<Vec<_>>())
        });
        let mut entries = Vec::new();
        for (hash, rows) in reading.await? {
            if rows.is_empty() {
                tracing::warn!(%hash, "a download of an earlier run can't be read, so it is left out");
            }
            entries.extend(rows.into_iter().map(|row| Arc::new(row.into_entry(hash))));
        }
        // All are added to the list before the first begins, because each writes a row for all downloads of
        // its hash.
        entries.iter().for_each(|entry| self.files.downloads.add(entry));
        for entry in entries.iter().filter(|entry| !entry.control().is_paused) {
            self.start_task(entry, false);
        }
        Ok(())
    }

    /// Writes a download to the store, as it is now, unless it ends with its handle.
    pub(super) async fn save(&self, entry: &DownloadEntry) -> Result<(), Error> {
        if entry.request.is_foreground {
            return Ok(());
        }
        // Set before the write, as the row contains the downloads that have this mark.
        entry.control().is_stored = true;
        self.write_row(entry.request.hash).await
    }

    /// Writes a download to the store, and logs an error.
    pub(super) async fn save_or_warn(&self, entry: &DownloadEntry) {
        if let Err(error) = self.save(entry).await {
            tracing::warn!(%error, "can't note how far a download is");
        }
    }

    /// Removes a download from the store.
    pub(super) async fn forget_saved(&self, entry: &DownloadEntry) -> Result<(), Error> {
        let was_stored = std::mem::take(&mut entry.control().is_stored);
        if was_stored { self.write_row(entry.request.hash).await } else { Ok(()) }
    }

    /// Writes the row of all downloads of `hash` that are to be stored, or removes it if there are none.
    async fn write_row(&self, hash: Hash) -> Result<(), Error> {
        // The row is built under the lock, so that an older one is never written over a newer one.
        let _alone = self.files.downloads.storing.lock().await;
        let row = self.row_of(&hash)?.map(|row| serde_json::to_vec(&row)).transpose()?;
        let store = self.store.clone();
        blocking::try_run(move || match row {
            Some(row) => store.save_download(&hash, &row),
            None => store.remove_download(&hash),
        })
        .await
    }

    fn row_of(&self, hash: &Hash) -> Result<Option<DownloadRow>, Error> {
        let all = self.files.downloads.all();
        let is_stored =
            |entry: &&Arc<DownloadEntry>| entry.request.hash == *hash && entry.control().is_stored;
        let rows = all.iter().filter(is_stored).map(|entry| DownloadRow::new(entry));
        let rows: Vec<_> = rows.collect::<Result<_, _>>().map_err(Error::NoCurrentFolder)?;
        let mut rows = rows.into_iter();
        Ok(rows.next().map(|first| DownloadRow { more: rows.collect(), ..first }))
    }

    /// Stores the progress of a download whenever it has changed, at most once in [`SAVE_EVERY`], until
    /// `over` is cancelled.
    pub(super) async fn save_progress(&self, entry: &DownloadEntry, over: &CancellationToken) {
        let mut saved = (None, 0);
        let mut watch = entry.status.watch();
        loop {
            let now = entry.status.get();
            // While the part is checked, `done` counts up from 0, so it is not stored.
            let is_news = now.state == DownloadState::Fetching && saved != (now.total, now.done);
            if is_news {
                saved = (now.total, now.done);
                self.save_or_warn(entry).await;
            }
            let pause = async {
                if is_news {
                    tokio::time::sleep(SAVE_EVERY).await;
                    Ok(())
                } else {
                    watch.changed().await
                }
            };
            if !matches!(over.run_until_cancelled(pause).await, Some(Ok(()))) {
                return;
            }
        }
    }
}
