//! One download: its handle, and the state that its handles share with its task.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use peerkit_proto::files::{FileKind, LeftOut, Renamed};
use peerkit_proto::id::{Hash, NodeId};
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, ReusableBoxFuture};

use super::fetch_request::FetchRequest;
use super::status::{DownloadState, DownloadStatus, SharedStatus};
use crate::error::Error;
use crate::inner::Inner;
use crate::lock::lock;

/// A download: see [`Node::fetch`](crate::Node::fetch). Await it for the result.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("song.txt");
/// # std::fs::write(&file, "la la la")?;
/// # let ann = peerkit::Node::builder().listen("127.0.0.1:0").spawn().await?;
/// # let bob = peerkit::Node::builder().spawn().await?;
/// # bob.connect(ann.listening()[0]).await?;
/// # let hash = ann.share(file).await?.shared.hash;
/// use peerkit::FetchRequest;
///
/// let download = bob.fetch(FetchRequest::new(hash).into_folder(folder.path().join("fetched")));
/// let mut progress = download.progress();
/// while let Some(status) = progress.next().await {
///     println!("{:?}: {} of {:?} bytes", status.state, status.done, status.total);
/// }
/// let fetched = download.await?;
/// assert_eq!(std::fs::read(fetched.path)?, b"la la la");
/// # ann.shutdown().await; bob.shutdown().await; Ok(()) }
/// ```
///
/// Awaiting it returns the result once the content is at its path, or the download has failed or was
/// cancelled. A paused download has no result yet. If several handles of one download are awaited, all get
/// the result of a success; the error of a failure goes to the first, and the others get
/// [`Error::AlreadyReported`].
///
/// Clones are handles of the same download. It continues when they are dropped, unless it was begun
/// in the [foreground](crate::FetchRequest::foreground).
#[derive(Clone)]
pub struct Download {
    entry: Arc<DownloadEntry>,
    inner: Arc<Inner>,
    _foreground: Option<Arc<AbandonOnDrop>>,
}

/// The result of a finished fetch.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// The path of the content. The name has a number if it was taken.
    pub path: PathBuf,
    /// The kind of the content: a file or a folder.
    pub kind: FileKind,
    /// Size of the file, or of all files in the folder, in bytes.
    pub bytes: u64,
    /// Time that the last attempt took, in seconds, without the wait for other downloads.
    pub seconds: f64,
    /// The nodes that sent pieces, in the order of their identities.
    pub sources: Vec<NodeId>,
    /// The nodes that sent wrong data and were dropped.
    pub dropped: Vec<Dropped>,
    /// Entries that have another name here than at their source: the content itself, or entries of the folder.
    pub renamed: Vec<Renamed>,
    /// Entries of the folder that could not be written here.
    pub left_out: Vec<LeftOut>,
}

/// A node that sent wrong data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Its identity.
    pub id: NodeId,
    /// The error that its data caused.
    pub why: String,
}

/// The progress of a download: a stream of its status.
///
/// It begins with the status at the time of the call. A reader that is slower than the
/// download misses intermediate values, never the last one. The stream ends after the status `Done` or
/// `Failed`, or when the node stops.
#[derive(Debug)]
pub struct DownloadProgress {
    next: ReusableBoxFuture<'static, (Option<DownloadStatus>, StatusWatch)>,
}

/// The state of a [`DownloadProgress`] between two values.
#[derive(Debug)]
struct StatusWatch {
    status: watch::Receiver<DownloadStatus>,
    /// Cancelled once the node has stopped.
    stopped: CancellationToken,
    is_over: bool,
}

/// Stops a foreground download when its last handle is dropped.
struct AbandonOnDrop {
    entry: Arc<DownloadEntry>,
    inner: Arc<Inner>,
}

impl Download {
    pub(super) fn new(entry: &Arc<DownloadEntry>, inner: &Arc<Inner>) -> Self {
        Self { entry: Arc::clone(entry), inner: Arc::clone(inner), _foreground: None }
    }

    /// Ties the download to this handle and its clones.
    pub(super) fn in_foreground(self) -> Self {
        let (entry, inner) = (Arc::clone(&self.entry), Arc::clone(&self.inner));
        Self { _foreground: Some(Arc::new(AbandonOnDrop { entry, inner })), ..self }
    }

    /// Returns the hash of the content.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.entry.request.hash
    }

    /// Returns the status of the download.
    #[must_use]
    pub fn status(&self) -> DownloadStatus {
        self.entry.status.get()
    }

    /// Returns a stream of the status, which begins with the present one.
    #[must_use]
    pub fn progress(&self) -> DownloadProgress {
        let mut status = self.entry.status.watch();
        status.mark_changed();
        let watch =
            StatusWatch { status, stopped: self.inner.tasks.stopped.clone(), is_over: false };
        DownloadProgress { next: ReusableBoxFuture::new(watch.next()) }
    }

    /// Pauses the download until it is [resumed](Self::resume). Bytes that were verified stay on disk.
    /// Nothing is remembered about the sources: a resumed download tries all of them again, even those that
    /// could not be reached or sent wrong data.
    ///
    /// # Errors
    /// [`Error::NoDownload`] if it is done. A store error if the state can't be written: the download is
    /// paused, but not after a restart.
    pub async fn pause(&self) -> Result<DownloadStatus, Error> {
        self.inner.pause(&self.entry).await
    }

    /// Continues a download that was paused or has failed. One that waits for a source tries again
    /// immediately. Does nothing to a download in any other state.
    ///
    /// # Errors
    /// A store error if the state can't be written: the download is shown as queued then, but not begun.
    pub async fn resume(&self) -> Result<DownloadStatus, Error> {
        self.inner.resume(&self.entry).await
    }

    /// Cancels the download and deletes its unfinished part from disk. A finished download stays on disk,
    /// and is no longer listed.
    ///
    /// # Errors
    /// A store error if the state can't be written: the download may begin again after a restart then.
    pub async fn cancel(&self) -> Result<DownloadStatus, Error> {
        self.inner.cancel(&self.entry).await
    }

    /// Waits for the result.
    async fn result(self) -> Result<Fetched, Error> {
        // Subscribed before the first look at the result, so that no change is missed.
        let mut status = self.entry.status.watch();
        loop {
            if let Some(result) = self.entry.result() {
                return result;
            }
            tokio::select! {
                // The status comes first: a download that is done as the node stops still has its result.
                biased;
                changed = status.changed() => changed.map_err(|_| Error::Stopped)?,
                () = self.inner.tasks.stopped.cancelled() => {
                    return self.entry.result().unwrap_or(Err(Error::Stopped));
                }
            }
        }
    }
}

impl IntoFuture for Download {
    type Output = Result<Fetched, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.result())
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Download({})", self.hash())
    }
}

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.inner.abandon(&self.entry);
    }
}

impl DownloadProgress {
    /// Waits for the next status. Returns `None` at the end.
    pub async fn next(&mut self) -> Option<DownloadStatus> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<DownloadStatus>> {
        let (status, watch) = ready!(self.next.poll(cx));
        self.next.set(watch.next());
        Poll::Ready(status)
    }
}

impl Stream for DownloadProgress {
    type Item = DownloadStatus;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<DownloadStatus>> {
        self.poll(cx)
    }
}

impl StatusWatch {
    async fn next(mut self) -> (Option<DownloadStatus>, Self) {
        if self.is_over {
            return (None, self);
        }
        let has_changed = tokio::select! {
            // The last status is delivered even if the node has stopped by then.
            biased;
            changed = self.status.changed() => changed.is_ok(),
            () = self.stopped.cancelled() => false,
        };
        let status = has_changed.then(|| self.status.borrow_and_update().clone());
        self.is_over = status.as_ref().is_none_or(|status| {
            matches!(status.state, DownloadState::Done | DownloadState::Failed)
        });
        (status, self)
    }
}

/// A download in the list of its node. Its handles and its task share it.
#[derive(Debug)]
pub(super) struct DownloadEntry {
    pub(super) request: FetchRequest,
    /// If true, an earlier run of the node began it. It waits for a source without a time limit.
    pub(super) is_restored: bool,
    pub(super) status: SharedStatus,
    control: Mutex<Control>,
    /// Notified when the user resumes a download that waits for a source, so that it tries again immediately.
    pub(super) resumed: Notify,
    /// Held by its task. A task that was stopped may still be writing.
    pub(super) running: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
pub(super) struct Control {
    /// Ends its task.
    pub(super) stop: Option<CancellationToken>,
    /// The result, once there is one. [`Error::AlreadyReported`] after a failure was reported.
    pub(super) result: Option<Result<Fetched, Error>>,
    /// If true, the user paused it. The status does not say that: a node that stops shows all its downloads as
    /// paused, and those are to continue at the next start.
    pub(super) is_paused: bool,
    /// If true, it is in the store, or is about to be written there.
    pub(super) is_stored: bool,
}

impl DownloadEntry {
    pub(super) fn new(request: FetchRequest, is_restored: bool) -> Self {
        let status = SharedStatus::new(request.hash, Some(request.to.path().to_owned()));
        Self {
            request,
            is_restored,
            status,
            control: Mutex::default(),
            resumed: Notify::new(),
            running: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn control(&self) -> MutexGuard<'_, Control> {
        lock(&self.control)
    }

    /// Stops its task. Returns whether it had one.
    pub(super) fn stop(&self) -> bool {
        let stop = self.control().stop.take();
        stop.inspect(CancellationToken::cancel).is_some()
    }

    /// Returns the result, if there is one. An error is returned once, and [`Error::AlreadyReported`]
    /// afterwards.
    fn result(&self) -> Option<Result<Fetched, Error>> {
        let result = &mut self.control().result;
        match result {
            Some(Ok(fetched)) => Some(Ok(fetched.clone())),
            Some(Err(_)) => result.replace(Err(Error::AlreadyReported(self.request.hash))),
            None => None,
        }
    }
}
