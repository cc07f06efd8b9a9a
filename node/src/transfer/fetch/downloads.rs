//! The downloads of a node: those at work, those that wait, and those that have ended.
//!
//! Each download has a task of its own, so that it continues without its handles. At most
//! [`max_downloads`](peerkit_proto::config::Config::max_downloads) are at work at the same time. The others
//! wait in the order in which they were begun. [`resume`](super::resume) stores those that are to continue
//! after a restart.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use peerkit_proto::event::Event;
use peerkit_proto::files::fetch::RetryDelay;
use peerkit_proto::files::{Changes, LeftOut};
use peerkit_proto::id::Hash;
use tokio::runtime::Handle;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::download::{Download, DownloadEntry, Fetched};
use super::driver::{FetchDriver, Unfinished};
use super::error::FetchError;
use super::fetch_request::FetchRequest;
use super::part;
use super::status::{DownloadState, DownloadStatus};
use crate::blocking;
use crate::error::Error;
use crate::inner::Inner;
use crate::lock::lock;

/// Maximum number of files of a folder that the log names as left out.
const MAX_LOGGED: usize = 100;

/// Number of listed downloads at which each new one replaces the oldest finished one.
const MAX_LISTED: usize = 100;

/// The downloads of a node.
#[derive(Debug)]
pub(crate) struct Downloads {
    all: Mutex<Vec<Arc<DownloadEntry>>>,
    permits: Arc<Semaphore>,
    /// Held while the store is written, so that the latest state is written last.
    pub(super) storing: tokio::sync::Mutex<()>,
    /// The runtime of the node, for downloads that are begun outside of it.
    runtime: Handle,
}

/// The wait of a download for a permit to be at work.
type PermitWait = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

impl Downloads {
    /// Returns the empty list of a node that runs on the current runtime. At most `at_once` downloads are
    /// at work at the same time.
    pub(crate) fn new(at_once: usize) -> Self {
        Self {
            all: Mutex::default(),
            permits: Arc::new(Semaphore::new(at_once.max(1))),
            storing: tokio::sync::Mutex::default(),
            runtime: Handle::current(),
        }
    }

    pub(super) fn all(&self) -> MutexGuard<'_, Vec<Arc<DownloadEntry>>> {
        lock(&self.all)
    }

    /// Returns the status of all downloads, in the order in which they were begun.
    pub(crate) fn list(&self) -> Vec<DownloadStatus> {
        self.all().iter().map(|entry| entry.status.get()).collect()
    }

    /// Finds the download of `hash`. If there are several, returns the last that is not done, or the last if
    /// all are done.
    fn find(&self, hash: &Hash) -> Result<Arc<DownloadEntry>, Error> {
        let all = self.all();
        let mut same = all.iter().filter(|entry| entry.request.hash == *hash).rev();
        let open = same.clone().find(|entry| entry.status.get().state != DownloadState::Done);
        open.or_else(|| same.next()).cloned().ok_or(Error::NoDownload(*hash))
    }

    fn forget(&self, entry: &Arc<DownloadEntry>) {
        self.all().retain(|other| !Arc::ptr_eq(other, entry));
    }

    /// Adds a download to the list. It replaces a failed download of the same content to the same
    /// destination, and takes over its progress.
    pub(super) fn add(&self, entry: &Arc<DownloadEntry>) {
        let mut all = self.all();
        let is_earlier = |other: &Arc<DownloadEntry>| {
            let is_same =
                other.request.hash == entry.request.hash && other.request.to == entry.request.to;
            is_same && other.status.get().state == DownloadState::Failed
        };
        if let Some(at) = all.iter().position(is_earlier) {
            let was = all.remove(at).status.get();
            entry.status.show_name(was.name, was.kind);
            entry.status.show_earlier_progress(was.done, was.total);
        }
        let is_done = |entry: &Arc<DownloadEntry>| entry.status.get().state == DownloadState::Done;
        if all.len() >= MAX_LISTED
            && let Some(at) = all.iter().position(is_done)
        {
            all.remove(at);
        }
        all.push(Arc::clone(entry));
    }

    /// Queues for a permit. Permits are given in the order of the calls of this function, because tasks do not
    /// begin in the order in which they were spawned. The wait is polled once here, which puts it into the
    /// semaphore's queue.
    fn queue_for_permit(&self) -> PermitWait {
        let mut permit_wait: PermitWait = Box::pin(Arc::clone(&self.permits).acquire_owned());
        let first = permit_wait.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        match first {
            Poll::Ready(permit) => Box::pin(std::future::ready(permit)),
            Poll::Pending => permit_wait,
        }
    }

    /// Drops all downloads of a node that has stopped.
    pub(crate) fn clear(&self) {
        self.all().clear();
    }
}

impl Inner {
    /// Begins a download: see [`Node::fetch`](crate::Node::fetch).
    pub(crate) fn fetch(self: &Arc<Self>, request: FetchRequest) -> Download {
        let request = if request.to_chosen {
            request
        } else {
            request.into_folder(self.files.download_folder())
        };
        let is_foreground = request.is_foreground;
        let entry = Arc::new(DownloadEntry::new(request, false));
        self.files.downloads.add(&entry);
        let download = Download::new(&entry, self);
        self.start_task(&entry, true);
        if is_foreground { download.in_foreground() } else { download }
    }

    /// Returns the handle of a download: see [`FilesHandle::download`](crate::FilesHandle::download).
    pub(crate) fn download(self: &Arc<Self>, hash: &Hash) -> Result<Download, Error> {
        Ok(Download::new(&self.files.downloads.find(hash)?, self))
    }

    /// Stops a download and forgets it. Its part stays on disk.
    pub(super) fn abandon(&self, entry: &Arc<DownloadEntry>) {
        if entry.stop() {
            entry.control().result.get_or_insert(Err(FetchError::Cancelled.into()));
            entry.status.show_failed(FetchError::Cancelled.to_string());
        }
        self.files.downloads.forget(entry);
    }

    /// Stops the task of a download until it is resumed.
    ///
    /// The [`Fetch`](peerkit_proto::files::fetch::Fetch) of the task ends with it, by design: what it knew of its
    /// sources, such as bans and back-off times, may be out of date when the user resumes. The resumed download
    /// tries all sources again, as after a restart, and bans a source again that sends wrong data.
    pub(super) async fn pause(&self, entry: &DownloadEntry) -> Result<DownloadStatus, Error> {
        if entry.status.get().state == DownloadState::Done {
            return Err(Error::NoDownload(entry.request.hash));
        }
        entry.stop();
        entry.control().is_paused = true;
        entry.status.show_state(DownloadState::Paused);
        self.save(entry).await?;
        Ok(entry.status.get())
    }

    pub(super) async fn resume(
        self: &Arc<Self>,
        entry: &Arc<DownloadEntry>,
    ) -> Result<DownloadStatus, Error> {
        let state = entry.status.get().state;
        if matches!(state, DownloadState::Paused | DownloadState::Failed) {
            entry.control().is_paused = false;
            entry.status.show_state(DownloadState::Queued);
            self.save(entry).await?;
            self.start_task(entry, false);
        } else if state == DownloadState::Waiting {
            entry.resumed.notify_one();
        }
        Ok(entry.status.get())
    }

    pub(super) async fn cancel(&self, entry: &Arc<DownloadEntry>) -> Result<DownloadStatus, Error> {
        entry.control().result.get_or_insert(Err(FetchError::Cancelled.into()));
        entry.stop();
        // The stopped task may still be writing to the part.
        let _alone = entry.running.lock().await;
        let was = entry.status.get();
        if was.state != DownloadState::Done {
            entry.status.show_failed(FetchError::Cancelled.to_string());
            if let Some(path) = was.path {
                let hash = entry.request.hash;
                let _ = blocking::run(move || part::remove(&path, &hash)).await;
            }
        }
        self.files.downloads.forget(entry);
        self.forget_saved(entry).await?;
        Ok(DownloadStatus { error: None, ..entry.status.get() })
    }

    /// Starts the task of a download. If `is_new` is true, the task first writes the download to the store.
    pub(super) fn start_task(self: &Arc<Self>, entry: &Arc<DownloadEntry>, is_new: bool) {
        let stop = self.tasks.stop.child_token();
        {
            let mut control = entry.control();
            control.stop = Some(stop.clone());
            control.result = None;
        }
        entry.status.show_state(DownloadState::Queued);
        let (inner, entry) = (Arc::clone(self), Arc::clone(entry));
        let permit_wait = self.files.downloads.queue_for_permit();
        // The task is not aborted. It ends when `stop` is cancelled, after the writes that are under way. If
        // it were dropped before that, the next run would find the part locked, and begin a new part.
        let working = async move {
            let _alone = entry.running.lock().await;
            let hash = entry.request.hash;
            tracing::debug!(target: "peerkit::transfer", %hash, "download begun");
            let fetching = async {
                if is_new && !stop.is_cancelled() {
                    note_left_part(&entry).await;
                    inner.save(&entry).await?;
                }
                fetch(&inner, &entry, &stop, permit_wait).await
            };
            let result = fetching.await;
            if result.is_err() {
                note_lost_part(&entry).await;
            }
            // No result is shown for a download that was paused, cancelled or abandoned: the call that
            // stopped it has set the state.
            if !stop.is_cancelled() || result.is_ok() {
                inner.finish_download(&entry, result).await;
            } else if inner.tasks.stop.is_cancelled() {
                inner.save_or_warn(&entry).await;
                entry.control().result.get_or_insert(Err(Error::Stopped));
                entry.status.show_state(DownloadState::Paused);
            }
        };
        self.tasks.tracker.spawn_on(working, &self.files.downloads.runtime);
    }

    /// Shows and reports the result of a download.
    async fn finish_download(&self, entry: &DownloadEntry, result: Result<Fetched, Error>) {
        let hash = entry.request.hash;
        // A failed download continues at the next start, unless it has no bytes on disk.
        if (result.is_ok() || entry.status.bytes_on_disk() == 0)
            && let Err(error) = self.forget_saved(entry).await
        {
            tracing::warn!(%error, "can't forget a download that is over");
        }
        let event = match &result {
            Ok(fetched) => {
                for LeftOut { path, why } in fetched.left_out.iter().take(MAX_LOGGED) {
                    tracing::info!(%path, %why, "a file in a fetched folder can't be written");
                }
                Event::NodeDownloadFinished {
                    hash,
                    path: fetched.path.clone(),
                    bytes: fetched.bytes,
                    changes: Changes::new(&fetched.renamed, &fetched.left_out),
                }
            }
            Err(error) => Event::NodeDownloadFailed { hash, error: error.to_string() },
        };
        let placed = result.as_ref().map(|fetched| (fetched.path.clone(), fetched.left_out.len()));
        let placed = placed.map_err(ToString::to_string);
        {
            // Set before the shown state changes, because handles look for the result then.
            let mut control = entry.control();
            control.stop = None;
            control.result = Some(result);
        }
        match placed {
            Ok((path, left_out)) => entry.status.show_placed(path, left_out),
            Err(error) => entry.status.show_failed(error),
        }
        self.dispatch.queue_notice(event);
    }
}

/// Fetches the content. A restored download that finds no source gives its permit to other downloads, and
/// tries again when a link is made, when the user resumes it, or after a [`RetryDelay`].
async fn fetch(
    inner: &Arc<Inner>,
    entry: &DownloadEntry,
    stop: &CancellationToken,
    mut permit_wait: PermitWait,
) -> Result<Fetched, Error> {
    let mut delay = RetryDelay::default();
    loop {
        let links = inner.links.connections();
        let (error, sources) = match fetch_once(inner, entry, stop, permit_wait).await {
            Ok(fetched) => return Ok(fetched),
            Err(Unfinished::NoSource(error, sources)) if entry.is_restored => (error, sources),
            Err(Unfinished::NoSource(error, _) | Unfinished::Failed(error)) => return Err(error),
        };
        tracing::info!(hash = %entry.request.hash, %error, "a download waits for a source");
        let is_linked = sources.iter().any(|source| inner.links.get(*source).is_ok());
        entry.status.show_state(DownloadState::Waiting);
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Error::Stopped),
            () = inner.links.wait_for_new(&links) => delay.reset(),
            () = entry.resumed.notified() => delay.reset(),
            () = tokio::time::sleep(delay.next(is_linked)) => delay.passed(),
        }
        permit_wait = inner.files.downloads.queue_for_permit();
    }
}

/// Waits for a permit, and fetches.
async fn fetch_once(
    inner: &Arc<Inner>,
    entry: &DownloadEntry,
    stop: &CancellationToken,
    permit_wait: PermitWait,
) -> Result<Fetched, Unfinished> {
    let _permit = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(Error::Stopped.into()),
        permit = permit_wait => permit.map_err(|_| Error::Stopped)?,
    };
    entry.status.show_state(DownloadState::Finding);
    // With pieces on disk it is worth waiting for a source.
    let is_patient = entry.is_restored || entry.status.bytes_on_disk() > 0;
    let driver = FetchDriver::new(inner, &entry.request, &entry.status, is_patient)?;
    let over = CancellationToken::new();
    let fetching = async {
        let outcome = driver.run(stop, &entry.resumed).await;
        over.cancel();
        outcome
    };
    // Joined, so that the progress is never written to the store after the final state.
    let (outcome, ()) = tokio::join!(fetching, inner.save_progress(entry, &over));
    outcome
}

/// Shows that there is a part if an earlier download of the same content has left one. It is kept even if
/// this download fails before opening it.
async fn note_left_part(entry: &DownloadEntry) {
    let FetchRequest { to, name, hash, .. } = entry.request.clone();
    let looking = blocking::run(move || match to.target(name.as_ref()) {
        Some(target) => part::is_left_for_target(&target, &hash),
        None => part::is_left_in_folder(to.folder(), &hash),
    });
    if looking.await == Some(true) {
        entry.status.show_part();
    }
}

/// If the part is gone from disk, perhaps with its folder, shows that there is none. The next download then
/// begins anew.
async fn note_lost_part(entry: &DownloadEntry) {
    let (status, hash) = (entry.status.get(), entry.request.hash);
    let Some(path) = status.path.filter(|_| status.kept) else { return };
    let looking = blocking::run(move || part::is_left_anywhere(&path, &hash));
    if looking.await == Some(false) {
        entry.status.show_part_lost();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn permits_are_given_in_the_order_in_which_they_were_requested() {
        let downloads = Downloads::new(1);
        let (one, mut two) = (downloads.queue_for_permit(), downloads.queue_for_permit());
        let first = two.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(first.is_pending(), "the other was first");
        drop(one.await.unwrap());
        drop(two.await.unwrap());
    }
}
