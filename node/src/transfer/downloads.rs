//! The fetches of a node: those under way, those that wait, those that were given up.
//!
//! Each is a task of its own, so that it goes on whoever looks. At most
//! [`max_downloads`](peerkit_proto::config::Config::max_downloads) are at work at once, the others
//! wait in the order in which they came. Those that are to outlive the node are in the store.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::event::Event;
use peerkit_proto::files::{Changes, FileKind, FileName, LeftOut, Refusal, Secret};
use peerkit_proto::id::{Hash, NodeId};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::fetching::Fetching;
use super::get::{Candidate, Destination, Get};
use super::part;
use super::status::{DownloadState, DownloadStatus, Shown};
use super::{FetchError, Fetched};
use crate::error::Error;
use crate::inner::Inner;
use crate::lock::lock;

/// Files that the log names of those that a disk could not have.
const LOGGED: usize = 100;

/// Downloads that are over and still listed.
const LISTED: usize = 100;

/// Interval at which the store learns how much of a download has come. 1 s: after a crash the
/// figure that is shown before the part is checked is at most so old.
const SAVE: Duration = Duration::from_secs(1);

/// Time that a restored download without a source rests before it is tried again although no link
/// was made, for the first time; then twice as long each time. 1 min: a source that is dialled at a
/// known address makes no link.
const REST: Duration = Duration::from_secs(60);

/// The same time where a node that has the content is linked already, so that no new link will end
/// the rest. 5 s: as often as a fetch at work asks the network again.
const REST_LINKED: Duration = Duration::from_secs(5);

/// The longest of these rests.
const REST_MAX: Duration = Duration::from_secs(15 * 60);

/// The downloads of a node.
#[derive(Debug)]
pub(crate) struct Downloads {
    all: Mutex<Vec<Arc<Entry>>>,
    places: Semaphore,
    /// Held while the store is written, so that what was true last is written last.
    rows: tokio::sync::Mutex<()>,
}

/// One download, as the node keeps it.
#[derive(Debug)]
pub(crate) struct Entry {
    get: Get,
    /// Whether it is to outlive the node.
    is_kept: bool,
    /// Whether the store has it, or is about to.
    has_row: AtomicBool,
    /// It was begun by an earlier run of the node: it waits for a source, however long that takes.
    is_restored: bool,
    /// Whether the user paused it. The state that is shown does not say: a node that stops pauses all
    /// downloads, and those are to go on at the next start.
    is_paused: AtomicBool,
    shown: Shown,
    work: Mutex<Work>,
    /// Held by the task that is at it: one that was stopped may still be writing.
    at_it: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Work {
    /// Ends the task that is at it.
    stop: Option<CancellationToken>,
    outcome: Option<Result<Fetched, Error>>,
}

/// A download that was begun: see [`Node::download`](crate::Node::download). It goes on when this is
/// dropped. Clones are of the same.
#[derive(Debug, Clone)]
pub struct Download {
    entry: Arc<Entry>,
    watch: watch::Receiver<DownloadStatus>,
}

/// A download, as it is in the store, with the others of the same hash.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    /// The same content on its way to other places.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    more: Vec<Self>,
    #[serde(default)]
    secret: Option<[u8; 16]>,
    #[serde(with = "crate::path_bytes")]
    path: PathBuf,
    /// Whether the path is a folder to put it into, which is made.
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
    /// The name that it was asked for by.
    #[serde(default)]
    called: Option<FileName>,
    /// Its name and kind, where they were known.
    #[serde(default)]
    name: Option<FileName>,
    #[serde(default)]
    kind: Option<FileKind>,
    /// Bytes that were verified and on disk when this was written, and bytes of it all.
    #[serde(default)]
    done: u64,
    #[serde(default)]
    total: Option<u64>,
}

fn yes() -> bool {
    true
}

impl Download {
    /// What is fetched.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.entry.get.hash
    }

    /// How far it is.
    #[must_use]
    pub fn status(&self) -> DownloadStatus {
        self.entry.shown.get()
    }

    /// Waits until the status is another than it was at the last call, and tells it.
    pub async fn changed(&mut self) -> DownloadStatus {
        let _ = self.watch.changed().await;
        self.watch.borrow_and_update().clone()
    }

    /// What came of it, once.
    pub(crate) fn outcome(&self) -> Option<Result<Fetched, Error>> {
        self.entry.work().outcome.take()
    }

    /// Waits until it is in its place, was given up, or cancelled. While it is paused it waits.
    ///
    /// # Errors
    /// Why it was given up. What came of it is kept beside its target, and the next fetch of the
    /// same to the same place goes on from it.
    pub async fn finished(mut self) -> Result<Fetched, Error> {
        loop {
            if let Some(outcome) = self.outcome() {
                return outcome;
            }
            if self.watch.changed().await.is_err() {
                return Err(Error::Stopped);
            }
        }
    }
}

impl Downloads {
    pub(crate) fn new(at_once: usize) -> Self {
        Self {
            all: Mutex::default(),
            places: Semaphore::new(at_once.max(1)),
            rows: tokio::sync::Mutex::default(),
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Entry>>> {
        lock(&self.all)
    }

    /// How far all are, in the order in which they were begun.
    pub(crate) fn list(&self) -> Vec<DownloadStatus> {
        self.all().iter().map(|entry| entry.shown.get()).collect()
    }

    fn find(&self, hash: &Hash) -> Result<Arc<Entry>, Error> {
        let all = self.all();
        let mut same = all.iter().filter(|entry| entry.get.hash == *hash).rev();
        // Of several the one that something can still be done about.
        let open = same.clone().find(|entry| entry.shown.get().state != DownloadState::Done);
        open.or_else(|| same.next()).cloned().ok_or(Error::NoDownload(*hash))
    }

    /// The row of all downloads of `hash` that the store is to have, `None` if there are none.
    fn rows_of(&self, hash: &Hash) -> std::io::Result<Option<Row>> {
        let all = self.all();
        let is_kept =
            |entry: &&Arc<Entry>| entry.get.hash == *hash && entry.has_row.load(Ordering::Acquire);
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
            let is_same = other.get.hash == entry.get.hash && other.get.to == entry.get.to;
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

    /// Lets go of everything: the node has stopped.
    pub(crate) fn clear(&self) {
        self.all().clear();
    }
}

impl Entry {
    fn work(&self) -> MutexGuard<'_, Work> {
        lock(&self.work)
    }

    fn handle(self: &Arc<Self>) -> Download {
        Download { entry: Arc::clone(self), watch: self.shown.watch() }
    }
}

impl Inner {
    /// Begins a download; `keep` has it go on after a restart.
    pub(crate) async fn download(
        self: &Arc<Self>,
        get: Get,
        keep: bool,
    ) -> Result<Download, Error> {
        let get = if get.to_chosen { get } else { get.into_folder(self.download_folder()) };
        let entry = Entry::new(get, keep, false);
        note_if_begun(&entry).await;
        self.downloads.enter(&entry);
        self.keep(&entry).await.inspect_err(|_| self.downloads.forget(&entry))?;
        // Made first: it is to see every change, however soon the fetch is over.
        let handle = entry.handle();
        self.work_on(&entry);
        Ok(handle)
    }

    /// Stops a download that nobody else knows of, and forgets it. What came of it stays on disk.
    pub(crate) fn abandon(&self, download: &Download) {
        if let Some(stop) = download.entry.work().stop.take() {
            stop.cancel();
        }
        self.downloads.forget(&download.entry);
    }

    pub(crate) async fn pause(&self, hash: &Hash) -> Result<DownloadStatus, Error> {
        let entry = self.downloads.find(hash)?;
        if entry.shown.get().state == DownloadState::Done {
            return Err(Error::NoDownload(*hash));
        }
        if let Some(stop) = entry.work().stop.take() {
            stop.cancel();
        }
        entry.is_paused.store(true, Ordering::Release);
        entry.shown.state(DownloadState::Paused);
        self.keep(&entry).await?;
        Ok(entry.shown.get())
    }

    pub(crate) async fn resume(self: &Arc<Self>, hash: &Hash) -> Result<DownloadStatus, Error> {
        let entry = self.downloads.find(hash)?;
        let state = entry.shown.get().state;
        if matches!(state, DownloadState::Paused | DownloadState::Failed) {
            entry.is_paused.store(false, Ordering::Release);
            entry.shown.state(DownloadState::Queued);
            self.keep(&entry).await?;
            self.work_on(&entry);
        }
        Ok(entry.shown.get())
    }

    pub(crate) async fn cancel(self: &Arc<Self>, hash: &Hash) -> Result<DownloadStatus, Error> {
        let entry = self.downloads.find(hash)?;
        let stop = {
            let mut work = entry.work();
            work.outcome.get_or_insert(Err(FetchError::Cancelled.into()));
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
                let hash = *hash;
                let removing = tokio::task::spawn_blocking(move || part::remove(&path, &hash));
                let _ = removing.await;
            }
        }
        self.downloads.forget(&entry);
        self.unkeep(&entry).await?;
        Ok(DownloadStatus { error: None, ..entry.shown.get() })
    }

    /// Goes on with what an earlier run had begun.
    pub(crate) async fn resume_downloads(self: &Arc<Self>) -> Result<usize, Error> {
        let store = self.store.clone();
        let rows = crate::known::blocking(move || {
            let rows = store.downloads()?.into_iter();
            Ok(rows.map(|(hash, row)| (hash, Row::read(&hash, &row))).collect::<Vec<_>>())
        });
        let mut resumed = Vec::new();
        for (hash, rows) in rows.await? {
            if rows.is_empty() {
                tracing::warn!(%hash, "a download of an earlier run can't be read: left out");
            }
            for row in rows {
                let (paused, name, kind) = (row.paused, row.name.clone(), row.kind);
                let (done, total) = (row.done, row.total);
                let entry = Entry::new(row.into_get(hash), true, true);
                entry.has_row.store(true, Ordering::Release);
                entry.shown.called(name, kind);
                entry.shown.restored(done, total);
                if paused {
                    entry.is_paused.store(true, Ordering::Release);
                    entry.shown.state(DownloadState::Paused);
                }
                self.downloads.enter(&entry);
                resumed.push((entry, paused));
            }
        }
        // All are entered by now: what one writes to the store is of all with its hash.
        resumed.iter().filter(|(_, paused)| !paused).for_each(|(entry, _)| self.work_on(entry));
        Ok(resumed.len())
    }

    fn work_on(self: &Arc<Self>, entry: &Arc<Entry>) {
        let stop = self.stop.child_token();
        {
            let mut work = entry.work();
            (work.stop, work.outcome) = (Some(stop.clone()), None);
        }
        entry.shown.state(DownloadState::Queued);
        let (inner, entry) = (Arc::clone(self), Arc::clone(entry));
        // It ends by its own stop, after what is being written: were it dropped in the midst of that
        // the next run would find its part taken, and begin another.
        self.tracker.spawn(async move {
            let _alone = entry.at_it.lock().await;
            tracing::debug!(target: "peerkit::transfer", hash = %entry.get.hash, "download begun");
            let outcome = fetch(&inner, &entry, &stop).await;
            if outcome.is_err() {
                note_if_lost(&entry).await;
            }
            if !stop.is_cancelled() || outcome.is_ok() {
                inner.over(&entry, outcome).await;
            } else if inner.stop.is_cancelled() {
                if let Err(error) = inner.keep(&entry).await {
                    tracing::warn!(%error, "can't note how far a download is");
                }
                entry.work().outcome.get_or_insert(Err(Error::Stopped));
                entry.shown.state(DownloadState::Paused);
            }
        });
    }

    async fn over(&self, entry: &Arc<Entry>, outcome: Result<Fetched, Error>) {
        let hash = entry.get.hash;
        let mut left_out = 0;
        let event = match &outcome {
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
        if (outcome.is_ok() || entry.shown.kept() == 0)
            && let Err(error) = self.unkeep(entry).await
        {
            tracing::warn!(%error, "can't forget a download that is over");
        }
        {
            let mut work = entry.work();
            work.stop = None;
            work.outcome = Some(outcome);
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
        if !entry.is_kept {
            return Ok(());
        }
        entry.has_row.store(true, Ordering::Release);
        self.write_rows(entry.get.hash).await
    }

    /// Removes a download from the store.
    async fn unkeep(&self, entry: &Entry) -> Result<(), Error> {
        match entry.has_row.swap(false, Ordering::AcqRel) {
            true => self.write_rows(entry.get.hash).await,
            false => Ok(()),
        }
    }

    /// Writes the downloads of `hash` that are to outlive the node. The store has one row for all of
    /// them.
    async fn write_rows(&self, hash: Hash) -> Result<(), Error> {
        let _alone = self.downloads.rows.lock().await;
        let rows = self
            .downloads
            .rows_of(&hash)
            .and_then(|rows| Ok(rows.map(|rows| serde_json::to_vec(&rows)).transpose()?));
        let row = rows.map_err(|error| Error::Setting(error.to_string()))?;
        let store = self.store.clone();
        crate::known::blocking(move || match row {
            Some(row) => Ok(store.save_download(&hash, &row)?),
            None => Ok(store.forget_download(&hash)?),
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

impl Entry {
    fn new(get: Get, is_kept: bool, is_restored: bool) -> Arc<Self> {
        let shown = Shown::new(get.hash, Some(get.to.path().to_owned()));
        let work = Mutex::default();
        let (has_row, is_paused) = (AtomicBool::default(), AtomicBool::default());
        let at_it = tokio::sync::Mutex::default();
        Arc::new(Self { get, is_kept, has_row, is_restored, is_paused, shown, work, at_it })
    }
}

/// Fetches. A restored download that finds no source gives its place to others and rests until a
/// link is made, or some time has passed.
async fn fetch(
    inner: &Arc<Inner>,
    entry: &Entry,
    stop: &CancellationToken,
) -> Result<Fetched, Error> {
    let mut rests = 0;
    loop {
        let links = inner.links();
        let mut sources = Vec::new();
        let outcome = fetch_once(inner, entry, stop, &mut sources).await;
        let is_without = |error: &Error| entry.is_restored && is_for_want_of_a_source(error);
        match outcome {
            Err(error) if is_without(&error) => {
                tracing::info!(hash = %entry.get.hash, %error, "a download waits for a source");
            }
            outcome => return outcome,
        }
        let is_linked = sources.iter().any(|source| inner.conn(*source).is_ok());
        entry.shown.state(DownloadState::Waiting);
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Error::Stopped),
            () = inner.new_link(&links) => rests = 0,
            () = tokio::time::sleep(rest(rests, is_linked)) => rests = rests.saturating_add(1),
        }
    }
}

/// Returns how long a download without a source rests, after so many rests with no new link.
fn rest(rests: u32, is_linked: bool) -> Duration {
    let first = if is_linked { REST_LINKED } else { REST };
    first.saturating_mul(1_u32.checked_shl(rests).unwrap_or(u32::MAX)).min(REST_MAX)
}

/// Returns whether a fetch failed only because no node that has the rest could be reached.
fn is_for_want_of_a_source(error: &Error) -> bool {
    match error {
        Error::NoSource(_)
        | Error::Resolve { .. }
        | Error::Connect { .. }
        | Error::Handshake { .. }
        | Error::WrongNode { .. }
        | Error::Timeout(_)
        | Error::StreamRefused { .. }
        | Error::StreamBroken { .. }
        | Error::Unreachable { .. } => true,
        Error::Fetch(error) => matches!(
            error,
            FetchError::NoMore
                | FetchError::Stalled
                | FetchError::Stream(_)
                | FetchError::Refused(Refusal::NotFound | Refusal::Busy)
        ),
        _ => false,
    }
}

/// Waits for its turn, and fetches. Adds the nodes that it took for sources to `sources`.
async fn fetch_once(
    inner: &Arc<Inner>,
    entry: &Entry,
    stop: &CancellationToken,
    sources: &mut Vec<NodeId>,
) -> Result<Fetched, Error> {
    let _place = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(Error::Stopped),
        place = inner.downloads.places.acquire() => place.map_err(|_| Error::Stopped)?,
    };
    entry.shown.state(DownloadState::Finding);
    let is_patient = entry.is_restored || entry.shown.kept() > 0;
    let over = CancellationToken::new();
    let fetching = async {
        let fetching = Fetching::new(inner, &entry.get, &entry.shown, is_patient);
        let outcome = fetching.run(stop, sources).await;
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
    let (to, hash) = (entry.get.to.clone(), entry.get.hash);
    let looking = tokio::task::spawn_blocking(move || part::is_left_in(to.folder(), &hash));
    if matches!(looking.await, Ok(true)) {
        entry.shown.has_part();
    }
}

/// Takes notice of a part that is gone, as its folder was removed: nothing is kept then, and nothing goes
/// on from it.
async fn note_if_lost(entry: &Entry) {
    let (status, hash) = (entry.shown.get(), entry.get.hash);
    let Some(path) = status.path.filter(|_| status.kept) else { return };
    let looking = tokio::task::spawn_blocking(move || part::is_left(&path, &hash));
    if matches!(looking.await, Ok(false)) {
        entry.shown.lost();
    }
}

impl Row {
    /// Reads the downloads of a row; nothing if it can't be read. What it says of bytes on disk holds
    /// only if the part is still there. Blocks on the disk.
    fn read(hash: &Hash, row: &[u8]) -> Vec<Self> {
        let Ok(mut first) = serde_json::from_slice::<Self>(row) else { return Vec::new() };
        let mut rows = std::mem::take(&mut first.more);
        rows.insert(0, first);
        for row in &mut rows {
            if row.done > 0 && !part::is_left(&row.path, hash) {
                row.done = 0;
            }
        }
        rows
    }

    fn new(entry: &Entry) -> std::io::Result<Self> {
        let (get, status) = (&entry.get, entry.shown.get());
        let (path, into) = match &get.to {
            Destination::Path(path) => (path, false),
            Destination::Folder(path) => (path, true),
        };
        let from = get.from.iter().map(|from| (from.id, from.addresses.clone())).collect();
        Ok(Self {
            more: Vec::new(),
            secret: get.secret.map(|secret| *secret.as_bytes()),
            // The next run may be started somewhere else.
            path: std::path::absolute(path)?,
            into,
            from,
            overwrite: get.overwrite,
            ask_network: get.ask_network,
            paused: entry.is_paused.load(Ordering::Acquire),
            called: get.name.clone(),
            name: status.name,
            kind: status.kind,
            done: entry.shown.kept(),
            total: status.total,
        })
    }

    fn into_get(self, hash: Hash) -> Get {
        let candidate = |(id, addresses)| Candidate { id, addresses };
        Get {
            hash,
            secret: self.secret.map(Secret::from_bytes),
            name: self.called,
            to: match self.into {
                true => Destination::Folder(self.path),
                false => Destination::Path(self.path),
            },
            to_chosen: true,
            from: self.from.into_iter().map(candidate).collect(),
            overwrite: self.overwrite,
            ask_network: self.ask_network,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_whose_source_is_linked_rests_shortly() {
        assert_eq!([rest(0, true), rest(1, true)], [REST_LINKED, REST_LINKED * 2]);
        assert_eq!([rest(0, false), rest(1, false)], [REST, REST * 2]);
        for rests in [20, 31, 32, u32::MAX] {
            assert_eq!([rest(rests, true), rest(rests, false)], [REST_MAX; 2]);
        }
    }
}
