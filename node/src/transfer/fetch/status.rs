//! The status of a download, as its handles see it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use peerkit_proto::files::{FileKind, FileName};
use peerkit_proto::id::Hash;
use serde::{Serialize, Serializer};
use tokio::sync::watch;

use crate::transfer::meter::TransferMeter;

/// The status of a download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct DownloadStatus {
    /// The hash of the content.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub hash: Hash,
    /// Its name in the ticket or at its source, once that is known.
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub name: Option<FileName>,
    /// Its kind, a file or a folder, once that is known.
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub kind: Option<FileKind>,
    /// The state of the download.
    pub state: DownloadState,
    /// Bytes that are on disk and verified.
    pub done: u64,
    /// If true, there is an unfinished part on disk, perhaps of an earlier fetch. The next fetch of the same
    /// content to the same destination continues from it.
    pub kept: bool,
    /// Its size in bytes, once that is known.
    pub total: Option<u64>,
    /// Current speed in bytes per second.
    pub rate: u64,
    /// Number of sources from which pieces can be requested now.
    pub sources: usize,
    /// The path of the content once it is done. Before this path is known, the destination of the request.
    #[serde(serialize_with = "lossy")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub path: Option<PathBuf>,
    /// The error of a download that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Number of files and folders in it that could not be written to this disk, once it is done. The log
    /// names them, and so does [`Fetched::left_out`](crate::Fetched::left_out).
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: usize,
}

/// Writes a path as text. Bytes that are not UTF-8 become U+FFFD.
fn lossy<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(to)
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// The state of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DownloadState {
    /// It waits until other downloads are finished.
    Queued,
    /// The node looks for sources.
    Finding,
    /// The node checks the files that are on disk already.
    Checking,
    /// Pieces are arriving.
    Fetching,
    /// No node that can be reached has the missing pieces. The download continues by itself as soon as a node
    /// has them.
    Waiting,
    /// It was paused, and waits to be resumed.
    Paused,
    /// The content is complete and at its path.
    Done,
    /// It has failed. Pieces that were verified stay on disk.
    Failed,
}

impl DownloadState {
    /// Returns whether the download continues by itself, without the user.
    #[must_use]
    pub fn is_under_way(self) -> bool {
        use DownloadState::{Checking, Fetching, Finding, Queued, Waiting};
        matches!(self, Queued | Finding | Checking | Fetching | Waiting)
    }
}

/// The status of a download. Its handles see each change. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct SharedStatus {
    status: watch::Sender<DownloadStatus>,
    /// Number of bytes on disk, as far as it is known. It differs from `done` during a check, which counts
    /// `done` up from 0.
    on_disk: Arc<AtomicU64>,
}

impl SharedStatus {
    pub(super) fn new(hash: Hash, path: Option<PathBuf>) -> Self {
        let status = watch::Sender::new(DownloadStatus {
            hash,
            name: None,
            kind: None,
            state: DownloadState::Queued,
            done: 0,
            kept: false,
            total: None,
            rate: 0,
            sources: 0,
            path,
            error: None,
            left_out: 0,
        });
        Self { status, on_disk: Arc::default() }
    }

    pub(super) fn watch(&self) -> watch::Receiver<DownloadStatus> {
        self.status.subscribe()
    }

    pub(super) fn get(&self) -> DownloadStatus {
        self.status.borrow().clone()
    }

    /// Returns the number of bytes on disk, as far as is known.
    pub(super) fn bytes_on_disk(&self) -> u64 {
        self.on_disk.load(Ordering::Relaxed)
    }

    fn set_bytes_on_disk(&self, bytes: u64) {
        self.on_disk.store(bytes, Ordering::Relaxed);
    }

    /// Changes the state. A download that is not under way has no rate and no sources.
    pub(super) fn show_state(&self, state: DownloadState) {
        self.status.send_modify(|status| {
            if status.state == DownloadState::Checking {
                // The check did not finish, so its count is not the number of bytes on disk.
                status.done = self.bytes_on_disk();
            }
            status.state = state;
            if !state.is_under_way() {
                (status.rate, status.sources) = (0, 0);
            }
            if state != DownloadState::Failed {
                status.error = None;
            }
        });
    }

    /// Shows that the download has failed.
    pub(super) fn show_failed(&self, error: String) {
        self.show_state(DownloadState::Failed);
        self.status.send_modify(|status| status.error = Some(error));
    }

    /// Shows that the part is no longer on disk.
    pub(super) fn show_part_lost(&self) {
        self.set_bytes_on_disk(0);
        self.status.send_modify(|status| (status.done, status.kept) = (0, false));
    }

    /// Shows that an earlier fetch has left a part.
    pub(super) fn show_part(&self) {
        self.status.send_modify(|status| status.kept = true);
    }

    /// Shows that the content is at `path`, without `left_out` files that could not be written to this disk.
    pub(super) fn show_placed(&self, path: PathBuf, left_out: usize) {
        self.status.send_modify(|status| {
            (status.path, status.left_out, status.kept) = (Some(path), left_out, false);
        });
        self.show_state(DownloadState::Done);
    }

    /// Shows the progress of an earlier run.
    pub(super) fn show_earlier_progress(&self, done: u64, total: Option<u64>) {
        self.set_bytes_on_disk(done);
        self.status.send_modify(|status| {
            (status.done, status.kept, status.total) = (done, done > 0, total);
        });
    }

    /// Shows whether a source is being tried, until the content is known.
    pub(super) fn show_search(&self, is_trying: bool) {
        use DownloadState::{Finding, Waiting};
        let state = if is_trying { Finding } else { Waiting };
        self.status.send_if_modified(|status| {
            // A source that is tried late must not hide that a check or the fetch has begun.
            let changes = matches!(status.state, Finding | Waiting) && status.state != state;
            if changes {
                status.state = state;
            }
            changes
        });
    }

    /// Shows the name and kind, as far as they are known.
    pub(super) fn show_name(&self, name: Option<FileName>, kind: Option<FileKind>) {
        self.status.send_modify(|status| (status.name, status.kind) = (name, kind));
    }

    /// Shows that a check of `total` bytes begins.
    pub(super) fn show_check(&self, total: u64) {
        self.status.send_if_modified(|status| {
            // A check that still runs does not show after the user has paused the download.
            let is_wanted = status.state.is_under_way();
            if is_wanted {
                status.state = DownloadState::Checking;
                (status.done, status.total) = (0, Some(total));
            }
            is_wanted
        });
    }

    /// Adds bytes that the check has found.
    pub(super) fn add_checked(&self, bytes: u64) {
        self.status.send_modify(|status| status.done = status.done.saturating_add(bytes));
    }

    /// Shows that pieces are being fetched to `path`.
    pub(super) fn show_fetch(&self, path: &Path, meter: &TransferMeter) {
        self.set_bytes_on_disk(meter.done());
        self.status.send_modify(|status| {
            status.state = DownloadState::Fetching;
            status.path = Some(path.to_owned());
            (status.done, status.kept) = (meter.done(), meter.done() > 0);
            status.total = Some(meter.total());
        });
    }

    /// Shows the progress and the rate.
    pub(super) fn show_progress(&self, meter: &TransferMeter) {
        self.set_bytes_on_disk(meter.done());
        self.status.send_modify(|status| {
            (status.done, status.rate) = (meter.done(), meter.rate());
            status.kept = meter.done() > 0;
        });
    }

    /// Shows the rate if it has changed.
    pub(super) fn show_rate(&self, meter: &TransferMeter) {
        self.status.send_if_modified(|status| {
            std::mem::replace(&mut status.rate, meter.rate()) != meter.rate()
        });
    }

    /// Shows the number of sources if it has changed.
    pub(super) fn show_sources(&self, sources: usize) {
        self.status.send_if_modified(|status| {
            let changed = status.sources != sources;
            status.sources = sources;
            changed
        });
    }
}
