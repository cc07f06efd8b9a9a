//! The fetches of a node: those under way, those that wait, those that were given up.
//!
//! Each is a task of its own, so that it goes on without its handles. At most
//! [`max_downloads`](peerkit_proto::config::Config::max_downloads) are at work at once, the others
//! wait in the order in which they came. Those that are to outlive the node are in the store.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use peerkit_proto::event::Event;
use peerkit_proto::files::fetch::Rests;
use peerkit_proto::files::{Changes, LeftOut};
use peerkit_proto::id::Hash;
use tokio::runtime::Handle;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::download::Download;
use super::entry::Entry;
use super::error::FetchError;
use super::fetch_request::FetchRequest;
use super::fetched::Fetched;
use super::fetching::{Fetching, Unfinished};
use super::part;
use super::status::{DownloadState, DownloadStatus};
use crate::blocking;
use crate::error::Error;
use crate::inner::Inner;
use crate::lock::lock;
use crate::store::StoreError;

mod row;
use row::Row;

/// Files that the log names of those that a disk could not have.
const LOGGED: usize = 100;

/// Downloads that are over and still listed.
const LISTED: usize = 100;

/// Interval at which the store learns how much of a download has come. 1 s: after a crash the
/// figure that is shown before the part is checked is at most so old.
const SAVE: Duration = Duration::from_secs(1);

/// The downloads of a node.
#[derive(Debug)]
pub(crate) struct Downloads {
    all: Mutex<Vec<Arc<Entry>>>,
    places: Arc<Semaphore>,
    /// Held while the store is written, so that what was true last is written last.
    rows: tokio::sync::Mutex<()>,
    /// The runtime of the node, for downloads that are begun outside of it.
    runtime: Handle,
}

/// A download's wait for a place.
type Turn = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

impl Downloads {
    /// No downloads yet, of a node that runs on the current runtime. At most `at_once` are at work at
    /// the same time.
    pub(crate) fn new(at_once: usize) -> Self {
        Self {
            all: Mutex::default(),
            places: Arc::new(Semaphore::new(at_once.max(1))),
            rows: tokio::sync::Mutex::default(),
            runtime: Handle::current(),
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Entry>>> {
        lock(&self.all)
    }

    /// How far all are, in the order in which they were begun.
    pub(crate) fn list(&self) -> Vec<DownloadStatus> {
        self.all().iter().map(|entry| entry.shown.get()).collect()
    }

    /// Finds the download of `hash`. Of several it is the last that is not done, else the last.
    fn find(&self, hash: &Hash) -> Result<Arc<Entry>, Error> {
        let all = self.all();
        let mut same = all.iter().filter(|entry| entry.request.hash == *hash).rev();
        let open = same.clone().find(|entry| entry.shown.get().state != DownloadState::Done);
        open.or_else(|| same.next()).cloned().ok_or(Error::NoDownload(*hash))
    }

    /// The row of all downloads of `hash` that the store is to have, `None` if there are none.
    fn rows_of(&self, hash: &Hash) -> std::io::Result<Option<Row>> {
        let all = self.all();
        let is_kept = |entry: &&Arc<Entry>| {
            entry.request.hash == *hash && entry.has_row.load(Ordering::Acquire)
        };
        let mut rows = all.iter().filter(is_kept).map(|entry| Row::new(entry));
        let Some(mut first) = rows.next().transpose()? else { return Ok(None) };
        first.more = rows.collect::<Result<_, _>>()?;
        Ok(Some(first))
    }

    fn forget(&self, entry: &Arc<Entry>) {
        self.all().retain(|other| !Arc::ptr_eq(other, entry));
    }

    /// Enters a download. One of the same to the same place that was given up makes room for it, and
    /// hands over what has come.
    fn enter(&self, entry: &Arc<Entry>) {
        let mut all = self.all();
        let is_earlier = |other: &Arc<Entry>| {
            let is_same =
                other.request.hash == entry.request.hash && other.request.to == entry.request.to;
            is_same && other.shown.get().state == DownloadState::Failed
        };
        if let Some(at) = all.iter().position(is_earlier) {
            let was = all.remove(at).shown.get();
            entry.shown.called(was.name, was.kind);
            entry.shown.restored(was.done, was.total);
        }
        let over = |entry: &Arc<Entry>| entry.shown.get().state == DownloadState::Done;
        if all.len() >= LISTED
            && let Some(at) = all.iter().position(over)
        {
            all.remove(at);
        }
        all.push(Arc::clone(entry));
    }

    /// Queues for one of the places. The order of the calls counts, not of the first polls: tasks do not
    /// begin in the order in which they were spawned.
    fn turn(&self) -> Turn {
        let mut turn: Turn = Box::pin(Arc::clone(&self.places).acquire_owned());
        let first = turn.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        match first {
            Poll::Ready(place) => Box::pin(std::future::ready(place)),
            Poll::Pending => turn,
        }
    }

    /// Lets go of everything: the node has stopped.
    pub(crate) fn clear(&self) {
        self.all().clear();
    }
}

impl Inner {
    /// Begins to fetch: see [`Node::fetch`](crate::Node::fetch).
    pub(crate) fn fetch(self: &Arc<Self>, request: FetchRequest) -> Download {
        let request = match request.to_chosen {
            true => request,
            false => request.into_folder(self.files.download_folder()),
        };
        let is_foreground = request.is_foreground;
        let entry = Entry::new(request, false);
        self.files.downloads.enter(&entry);
        let download = Download::new(&entry, self);
        self.work_on(&entry, true);
        if is_foreground { download.in_foreground() } else { download }
    }

    /// Returns the handle of a download: see [`FilesHandle::download`](crate::FilesHandle::download).
    pub(crate) fn download(self: &Arc<Self>, hash: &Hash) -> Result<Download, Error> {
        Ok(Download::new(&self.files.downloads.find(hash)?, self))
    }

    /// Stops a download and forgets it. Its part stays on disk.
    pub(super) fn abandon(&self, entry: &Arc<Entry>) {
        let stop = entry.work().stop.take();
        if let Some(stop) = stop {
            stop.cancel();
            entry.work().result.get_or_insert(Err(FetchError::Cancelled.into()));
            entry.shown.failed(FetchError::Cancelled.to_string());
        }
        self.files.downloads.forget(entry);
    }

    pub(super) async fn pause(&self, entry: &Arc<Entry>) -> Result<DownloadStatus, Error> {
        if entry.shown.get().state == DownloadState::Done {
            return Err(Error::NoDownload(entry.request.hash));
        }
        if let Some(stop) = entry.work().stop.take() {
            stop.cancel();
        }
        entry.is_paused.store(true, Ordering::Release);
        entry.shown.state(DownloadState::Paused);
        self.keep(entry).await?;
        Ok(entry.shown.get())
    }

    pub(super) async fn resume(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
    ) -> Result<DownloadStatus, Error> {
        let state = entry.shown.get().state;
        if matches!(state, DownloadState::Paused | DownloadState::Failed) {
            entry.is_paused.store(false, Ordering::Release);
            entry.shown.state(DownloadState::Queued);
            self.keep(entry).await?;
            self.work_on(entry, false);
        } else if state == DownloadState::Waiting {
            entry.resumed.notify_one();
        }
        Ok(entry.shown.get())
    }

    pub(super) async fn cancel(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
    ) -> Result<DownloadStatus, Error> {
        let stop = {
            let mut work = entry.work();
            work.result.get_or_insert(Err(FetchError::Cancelled.into()));
            work.stop.take()
        };
        if let Some(stop) = stop {
            stop.cancel();
        }
        let _alone = entry.at_it.lock().await;
        let was = entry.shown.get();
        if was.state != DownloadState::Done {
            entry.shown.failed(FetchError::Cancelled.to_string());
            if let Some(path) = was.path {
                let hash = entry.request.hash;
                let _ = blocking::run(move || part::remove(&path, &hash)).await;
            }
        }
        self.files.downloads.forget(entry);
        self.unkeep(entry).await?;
        Ok(DownloadStatus { error: None, ..entry.shown.get() })
    }

    /// Goes on with what an earlier run had begun.
    pub(crate) async fn resume_downloads(self: &Arc<Self>) -> Result<usize, Error> {
        let store = self.store.clone();
        let rows = blocking::try_run(move || {
            let rows = store.downloads()?.into_iter();
            Ok::<_, StoreError>(
                rows.map(|(hash, row)| (hash, Row::read(&hash, &row))).collect::<Vec<_>>(),
            )
        });
        let mut resumed = Vec::new();
        for (hash, rows) in rows.await? {
            if rows.is_empty() {
                tracing::warn!(%hash, "a download of an earlier run can't be read: left out");
            }
            for row in rows {
                let (paused, name, kind) = (row.paused, row.name.clone(), row.kind);
                let (done, total) = (row.done, row.total);
                let entry = Entry::new(row.into_request(hash), true);
                entry.has_row.store(true, Ordering::Release);
                entry.shown.called(name, kind);
                entry.shown.restored(done, total);
                if paused {
                    entry.is_paused.store(true, Ordering::Release);
                    entry.shown.state(DownloadState::Paused);
                }
                self.files.downloads.enter(&entry);
                resumed.push((entry, paused));
            }
        }
        // All are entered by now: what one writes to the store is of all with its hash.
        resumed
            .iter()
            .filter(|(_, paused)| !paused)
            .for_each(|(entry, _)| self.work_on(entry, false));
        Ok(resumed.len())
    }

    /// Works on a download in a task of its own. One that `is_new` is written to the store first.
    fn work_on(self: &Arc<Self>, entry: &Arc<Entry>, is_new: bool) {
        let stop = self.stop.child_token();
        {
            let mut work = entry.work();
            (work.stop, work.result) = (Some(stop.clone()), None);
        }
        entry.shown.state(DownloadState::Queued);
        let (inner, entry) = (Arc::clone(self), Arc::clone(entry));
        let turn = self.files.downloads.turn();
        // It ends by its own stop, after what is being written: were it dropped in the midst of that
        // the next run would find its part taken, and begin another.
        let working = async move {
            let _alone = entry.at_it.lock().await;
            let hash = entry.request.hash;
            tracing::debug!(target: "peerkit::transfer", %hash, "download begun");
            let begun = match is_new && !stop.is_cancelled() {
                true => inner.note_new(&entry).await,
                false => Ok(()),
            };
            let result = match begun {
                Ok(()) => fetch(&inner, &entry, &stop, turn).await,
                Err(error) => Err(error),
            };
            if result.is_err() {
                note_if_lost(&entry).await;
            }
            if !stop.is_cancelled() || result.is_ok() {
                inner.over(&entry, result).await;
            } else if inner.stop.is_cancelled() {
                if let Err(error) = inner.keep(&entry).await {
                    tracing::warn!(%error, "can't note how far a download is");
                }
                entry.work().result.get_or_insert(Err(Error::Stopped));
                entry.shown.state(DownloadState::Paused);
            }
        };
        self.tracker.spawn_on(working, &self.files.downloads.runtime);
    }

    /// Notices a part that an earlier fetch has left, and writes a new download to the store.
    async fn note_new(&self, entry: &Entry) -> Result<(), Error> {
        note_if_begun(entry).await;
        self.keep(entry).await
    }

    async fn over(&self, entry: &Arc<Entry>, result: Result<Fetched, Error>) {
        let hash = entry.request.hash;
        let mut left_out = 0;
        let event = match &result {
            Ok(fetched) => {
                left_out = fetched.left_out.len();
                for LeftOut { path, why } in fetched.left_out.iter().take(LOGGED) {
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
        // What was given up goes on at the next start, unless nothing of it is kept.
        if (result.is_ok() || entry.shown.kept() == 0)
            && let Err(error) = self.unkeep(entry).await
        {
            tracing::warn!(%error, "can't forget a download that is over");
        }
        {
            let mut work = entry.work();
            work.stop = None;
            work.result = Some(result);
        }
        match &event {
            Event::NodeDownloadFinished { path, .. } => entry.shown.placed(path.clone(), left_out),
            Event::NodeDownloadFailed { error, .. } => entry.shown.failed(error.clone()),
            _ => {}
        }
        self.dispatch.notice(event);
    }

    /// Writes a download that is to outlive the node to the store, as it is now.
    async fn keep(&self, entry: &Entry) -> Result<(), Error> {
        if entry.request.is_foreground {
            return Ok(());
        }
        entry.has_row.store(true, Ordering::Release);
        self.write_rows(entry.request.hash).await
    }

    /// Removes a download from the store.
    async fn unkeep(&self, entry: &Entry) -> Result<(), Error> {
        match entry.has_row.swap(false, Ordering::AcqRel) {
            true => self.write_rows(entry.request.hash).await,
            false => Ok(()),
        }
    }

    /// Writes the downloads of `hash` that are to outlive the node. The store has one row for all of
    /// them.
    async fn write_rows(&self, hash: Hash) -> Result<(), Error> {
        let _alone = self.files.downloads.rows.lock().await;
        let rows = self.files.downloads.rows_of(&hash).map_err(Error::NoCurrentFolder)?;
        let row = rows.map(|rows| serde_json::to_vec(&rows)).transpose()?;
        let store = self.store.clone();
        blocking::try_run(move || match row {
            Some(row) => store.save_download(&hash, &row),
            None => store.forget_download(&hash),
        })
        .await
    }

    /// Writes to the store how much of a download has come, now and then, until `over`.
    async fn keep_progress(&self, entry: &Entry, over: &CancellationToken) {
        let mut saved = (None, 0);
        let mut watch = entry.shown.watch();
        loop {
            let now = entry.shown.get();
            let is_news = saved != (now.total, now.done);
            // While the part is checked the figure starts from nothing.
            if is_news && now.state == DownloadState::Fetching {
                saved = (now.total, now.done);
                if let Err(error) = self.keep(entry).await {
                    tracing::warn!(%error, "can't note how far a download is");
                }
                let rest = tokio::time::sleep(SAVE);
                if over.run_until_cancelled(rest).await.is_none() {
                    return;
                }
                continue;
            }
            match over.run_until_cancelled(watch.changed()).await {
                Some(Ok(())) => {}
                _ => return,
            }
        }
    }
}

/// Fetches. A restored download that finds no source gives its place to others and rests until a
/// link is made, it is resumed, or some time has passed.
async fn fetch(
    inner: &Arc<Inner>,
    entry: &Entry,
    stop: &CancellationToken,
    mut turn: Turn,
) -> Result<Fetched, Error> {
    let mut rests = Rests::default();
    loop {
        let links = inner.links();
        let (error, sources) = match fetch_once(inner, entry, stop, turn).await {
            Ok(fetched) => return Ok(fetched),
            Err(Unfinished::NoSource(error, sources)) if entry.is_restored => (error, sources),
            Err(Unfinished::NoSource(error, _) | Unfinished::Failed(error)) => return Err(error),
        };
        tracing::info!(hash = %entry.request.hash, %error, "a download waits for a source");
        let is_linked = sources.iter().any(|source| inner.conn(*source).is_ok());
        entry.shown.state(DownloadState::Waiting);
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Error::Stopped),
            () = inner.new_link(&links) => rests.ended(),
            () = entry.resumed.notified() => rests.ended(),
            () = tokio::time::sleep(rests.next(is_linked)) => rests.passed(),
        }
        turn = inner.files.downloads.turn();
    }
}

/// Waits for its turn, and fetches.
async fn fetch_once(
    inner: &Arc<Inner>,
    entry: &Entry,
    stop: &CancellationToken,
    turn: Turn,
) -> Result<Fetched, Unfinished> {
    let _place = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(Error::Stopped.into()),
        place = turn => place.map_err(|_| Error::Stopped)?,
    };
    entry.shown.state(DownloadState::Finding);
    let is_patient = entry.is_restored || entry.shown.kept() > 0;
    let over = CancellationToken::new();
    let fetching = async {
        let outcome = match Fetching::new(inner, &entry.request, &entry.shown, is_patient) {
            Ok(fetching) => fetching.run(stop, &entry.resumed).await,
            Err(error) => Err(error.into()),
        };
        over.cancel();
        outcome
    };
    // Not dropped half-way: what it writes to the store must not come after the end's own word.
    let (outcome, ()) = tokio::join!(fetching, inner.keep_progress(entry, &over));
    outcome
}

/// Takes notice of a part that an earlier fetch of the same has left: it is kept also if this one comes to
/// nothing before it has looked at it.
async fn note_if_begun(entry: &Entry) {
    let FetchRequest { to, name, hash, .. } = entry.request.clone();
    let looking = blocking::run(move || match to.target(name.as_ref()) {
        Some(target) => part::is_left_for(&target, &hash),
        None => part::is_left_in(to.folder(), &hash),
    });
    if looking.await == Some(true) {
        entry.shown.has_part();
    }
}

/// Takes notice of a part that is gone, as its folder was removed: nothing is kept then, and nothing goes
/// on from it.
async fn note_if_lost(entry: &Entry) {
    let (status, hash) = (entry.shown.get(), entry.request.hash);
    let Some(path) = status.path.filter(|_| status.kept) else { return };
    let looking = blocking::run(move || part::is_left(&path, &hash));
    if looking.await == Some(false) {
        entry.shown.lost();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_given_in_the_order_in_which_they_were_asked_for() {
        let downloads = Downloads::new(1);
        let (one, mut two) = (downloads.turn(), downloads.turn());
        let first = two.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(first.is_pending(), "it is the turn of the other");
        drop(one.await.unwrap());
        drop(two.await.unwrap());
    }
}
