//! The status of a download, as its handles see it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use peerkit_proto::files::{FileKind, FileName};
use peerkit_proto::id::Hash;
use serde::{Serialize, Serializer};
use tokio::sync::watch;

use crate::transfer::meter::Meter;

/// The status of a download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DownloadStatus {
    /// The hash of what is fetched.
    pub hash: Hash,
    /// Its name, as a ticket or its source has it, once that is known.
    pub name: Option<FileName>,
    /// Whether it is a file or a folder, once that is known.
    pub kind: Option<FileKind>,
    /// What the node is doing about it.
    pub state: DownloadState,
    /// Bytes that are on disk and verified.
    pub done: u64,
    /// Whether there is an unfinished part on disk, perhaps of an earlier fetch. The next fetch of the
    /// same content to the same place continues from it.
    pub kept: bool,
    /// Its size in bytes, once that is known.
    pub total: Option<u64>,
    /// Current speed in bytes per second.
    pub rate: u64,
    /// Number of sources that can be asked now.
    pub sources: usize,
    /// The path of the content, or its path once it is done. Before that is known, the destination
    /// folder.
    #[serde(serialize_with = "lossy")]
    pub path: Option<PathBuf>,
    /// The error of a download that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Number of files and folders in it that this disk could not have, once it is done. The log names
    /// them, and so does [`Fetched::left_out`](crate::Fetched::left_out).
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
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DownloadState {
    /// It waits for its turn: other downloads are at work.
    Queued,
    /// The node looks for sources.
    Finding,
    /// The node checks what is on disk already.
    Checking,
    /// Pieces are arriving.
    Fetching,
    /// No node that can be reached has the rest. It continues by itself as soon as one has.
    Waiting,
    /// It was paused, and waits to be resumed.
    Paused,
    /// It is in its place.
    Done,
    /// It was given up. What came is kept.
    Failed,
}

impl DownloadState {
    /// Whether it will change without anybody's doing.
    #[must_use]
    pub fn is_under_way(self) -> bool {
        use DownloadState::{Checking, Fetching, Finding, Queued, Waiting};
        matches!(self, Queued | Finding | Checking | Fetching | Waiting)
    }
}

/// The status of a download, where others see it change. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    status: watch::Sender<DownloadStatus>,
    /// What is on disk as far as is known, also while that is checked and `done` counts up anew.
    kept: Arc<AtomicU64>,
}

impl Shown {
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
        Self { status, kept: Arc::default() }
    }

    pub(super) fn watch(&self) -> watch::Receiver<DownloadStatus> {
        self.status.subscribe()
    }

    pub(super) fn get(&self) -> DownloadStatus {
        self.status.borrow().clone()
    }

    /// Bytes that are on disk, as far as is known.
    pub(super) fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }

    fn set_kept(&self, bytes: u64) {
        self.kept.store(bytes, Ordering::Relaxed);
    }

    /// Something else is done now. What is not under way has no speed and no sources.
    pub(super) fn state(&self, state: DownloadState) {
        self.status.send_modify(|status| {
            if status.state == DownloadState::Checking {
                // The check has not come to its end.
                status.done = self.kept();
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

    pub(super) fn failed(&self, error: String) {
        self.state(DownloadState::Failed);
        self.status.send_modify(|status| status.error = Some(error));
    }

    /// What had come is not on disk any more.
    pub(super) fn lost(&self) {
        self.set_kept(0);
        self.status.send_modify(|status| (status.done, status.kept) = (0, false));
    }

    /// An earlier fetch has left a part.
    pub(super) fn has_part(&self) {
        self.status.send_modify(|status| status.kept = true);
    }

    /// It is at `path`, but for so many files that this disk could not have.
    pub(super) fn placed(&self, path: PathBuf, left_out: usize) {
        self.status.send_modify(|status| {
            (status.path, status.left_out, status.kept) = (Some(path), left_out, false);
        });
        self.state(DownloadState::Done);
    }

    /// Shows what the store has kept of a download of an earlier run.
    pub(super) fn restored(&self, done: u64, total: Option<u64>) {
        self.set_kept(done);
        self.status.send_modify(|status| {
            (status.done, status.kept, status.total) = (done, done > 0, total);
        });
    }

    /// Shows whether a source is being tried while it is not known yet what is fetched.
    pub(super) fn seeking(&self, is_trying: bool) {
        use DownloadState::{Finding, Waiting};
        let state = if is_trying { Finding } else { Waiting };
        self.status.send_if_modified(|status| {
            let changes = matches!(status.state, Finding | Waiting) && status.state != state;
            if changes {
                status.state = state;
            }
            changes
        });
    }

    /// What it is, as far as that is known.
    pub(super) fn called(&self, name: Option<FileName>, kind: Option<FileKind>) {
        self.status.send_modify(|status| (status.name, status.kind) = (name, kind));
    }

    /// What is here of `total` bytes is looked at; nothing of it is known yet.
    pub(super) fn checking(&self, total: u64) {
        self.status.send_if_modified(|status| {
            // Who has paused it is not told otherwise by what still ends.
            let is_wanted = status.state.is_under_way();
            if is_wanted {
                status.state = DownloadState::Checking;
                (status.done, status.total) = (0, Some(total));
            }
            is_wanted
        });
    }

    /// So many more bytes were found to be here.
    pub(super) fn checked(&self, bytes: u64) {
        self.status.send_modify(|status| status.done = status.done.saturating_add(bytes));
    }

    pub(super) fn fetching(&self, path: &Path, meter: &Meter) {
        self.set_kept(meter.done());
        self.status.send_modify(|status| {
            status.state = DownloadState::Fetching;
            status.path = Some(path.to_owned());
            (status.done, status.kept) = (meter.done(), meter.done() > 0);
            status.total = Some(meter.total());
        });
    }

    pub(super) fn progress(&self, meter: &Meter) {
        self.set_kept(meter.done());
        self.status.send_modify(|status| {
            (status.done, status.rate) = (meter.done(), meter.rate());
            status.kept = meter.done() > 0;
        });
    }

    /// How fast it goes now, where that is another speed than before.
    pub(super) fn rate(&self, meter: &Meter) {
        self.status.send_if_modified(|status| {
            std::mem::replace(&mut status.rate, meter.rate()) != meter.rate()
        });
    }

    pub(super) fn sources(&self, sources: usize) {
        self.status.send_if_modified(|status| {
            let changed = status.sources != sources;
            status.sources = sources;
            changed
        });
    }
}
