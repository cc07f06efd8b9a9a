//! Watches shares for changes on disk, so that they are scanned again without a request.
//!
//! The system's events are reduced to the set of shares that they concern, so that many events take no more
//! memory than few. Serving the right content does not depend on a watch. A watch only finds changes earlier.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::Shares;
use crate::lock::{lock, read};

/// Time without a change in a share after which it is scanned again.
const QUIET: Duration = Duration::from_secs(1);

/// Maximum time from the first change to the scan, if changes go on.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// Pause after a scan, as a multiple of the time that the scan took. With 9, a share of a million files
/// that changes all the time takes a tenth of a core.
const REST_FACTOR: u32 = 9;

/// Maximum pause after a scan, which may have taken long because of one large file.
const MAX_REST: Duration = Duration::from_secs(60);

/// Interval at which the node checks whether shares that are gone from disk are back.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The watches and the changes that they have reported.
pub(super) struct ShareWatcher {
    changes: Arc<ShareChanges>,
    watches: Mutex<Watches>,
    /// Set once a failed watch was logged, so that there is one message and not thousands.
    has_warned: AtomicBool,
}

struct Watches {
    watcher: RecommendedWatcher,
    folders: BTreeMap<PathBuf, FolderWatch>,
}

/// The number of shares that need a watch of a folder with everything in it (`whole`), and of those that need
/// a watch of the folder alone.
#[derive(Default)]
struct FolderWatch {
    whole: usize,
    alone: usize,
}

/// The changes that were not scanned yet.
#[derive(Debug, Default)]
struct ShareChanges {
    noted: Mutex<NotedChanges>,
    /// Notified of the first change of a share.
    changed: Notify,
}

#[derive(Debug, Default)]
struct NotedChanges {
    /// The paths of the shares that are watched.
    shares: BTreeSet<PathBuf>,
    changed: BTreeMap<PathBuf, PendingChange>,
    /// The ends of pauses after scans.
    resting: BTreeMap<PathBuf, Instant>,
}

#[derive(Debug)]
struct PendingChange {
    first: Instant,
    last: Instant,
    /// If true, the share itself was moved, removed or created, so that its watch may be on another file.
    replaced: bool,
}

impl Shares {
    /// Scans shares that change on disk, until the future is dropped.
    pub(crate) async fn watch(self) {
        let Some(watching) = self.watching.clone() else { return };
        let mut gone = HashSet::new();
        let mut look_for = tokio::time::interval(LOOK_EVERY);
        look_for.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // The lock is released before the wait, as the watcher's thread needs it.
            let due = lock(&watching.changes.noted).due();
            tokio::select! {
                () = watching.changes.changed.notified() => {}
                () = tokio::time::sleep_until(due.unwrap_or_else(far_future).into()) => {
                    let due = lock(&watching.changes.noted).take(Instant::now());
                    for (path, change) in due {
                        self.rescan_changed(path, change.replaced).await;
                    }
                }
                _ = look_for.tick() => {
                    for path in self.find_returned(&mut gone).await {
                        self.rescan_changed(path, true).await;
                    }
                }
            }
        }
    }

    /// Scans a share again after a change. If the share was replaced, watches it anew.
    async fn rescan_changed(&self, path: PathBuf, replaced: bool) {
        let scanning = self.blocking(move |shares, stop| {
            let begun = Instant::now();
            // The old watch is on the file that was there before. `rescan` watches the new one.
            if let Some(watching) = shares.watching.as_ref().filter(|_| replaced) {
                watching.remove(&path);
            }
            let report = shares.rescan([path.clone()], &mut |_| {}, stop);
            if let Some(watching) = &shares.watching {
                lock(&watching.changes.noted).rest(path, begun, Instant::now());
            }
            report
        });
        match scanning.await {
            Ok(report) => {
                for (before, now) in report.changed {
                    tracing::debug!(name = %now.name, before = %before.hash, now = %now.hash, "a share has changed");
                }
                for (path, _) in report.removed {
                    tracing::debug!(path = %path.display(), "a share is gone, for now");
                }
            }
            Err(error) => tracing::warn!(%error, "can't scan a share again"),
        }
    }

    /// Returns the shares that were gone at the last call and are back now. Between the calls, `gone` holds
    /// those that are gone.
    async fn find_returned(&self, gone: &mut HashSet<PathBuf>) -> Vec<PathBuf> {
        let missing: Vec<PathBuf> = read(&self.index).missing().cloned().collect();
        gone.retain(|path| missing.contains(path));
        if missing.is_empty() {
            return Vec::new();
        }
        let looking = self.blocking(move |_, _| {
            let is_there = |path: &PathBuf| path.symlink_metadata().is_ok();
            Ok(missing.into_iter().partition::<Vec<_>, _>(is_there))
        });
        let Ok((there, missing)) = looking.await else { return Vec::new() };
        gone.extend(missing);
        there.into_iter().filter(|path| gone.remove(path)).collect()
    }
}

/// Returns a time that is a day away, for a wait that nothing is due to end.
fn far_future() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}

impl ShareWatcher {
    /// Creates the watcher. Returns `None` if the system has no way to watch files, which is logged.
    pub(super) fn new() -> Option<Self> {
        let changes = Arc::new(ShareChanges::default());
        let notes = Arc::clone(&changes);
        let config = notify::Config::default().with_follow_symlinks(false);
        let watcher = RecommendedWatcher::new(
            move |event| match event {
                Ok(event) => notes.note_event(&event, Instant::now()),
                Err(error) => {
                    tracing::info!(%error, "not all shares can be watched: refresh them by hand");
                }
            },
            config,
        );
        match watcher {
            Ok(watcher) => Some(Self {
                changes,
                watches: Mutex::new(Watches { watcher, folders: BTreeMap::new() }),
                has_warned: AtomicBool::new(false),
            }),
            Err(error) => {
                tracing::info!(%error, "shares can't be watched here: refresh them by hand");
                None
            }
        }
    }

    /// Watches the share at `path`, unless it is watched already. Blocks on the disk.
    pub(super) fn add(&self, path: &Path) {
        if !lock(&self.changes.noted).shares.insert(path.to_owned()) {
            return;
        }
        let mut watches = lock(&self.watches);
        let outcome = match path.parent() {
            // The parent folder is watched too: only its watch reports that the share itself was replaced.
            Some(parent) => watches.add(parent, RecursiveMode::NonRecursive),
            None => Ok(()),
        };
        let outcome = outcome.and_then(|()| watches.add(path, RecursiveMode::Recursive));
        let error = match outcome {
            Ok(()) => return,
            Err(error) => error,
        };
        let is_missing = match &error.kind {
            ErrorKind::PathNotFound => true,
            ErrorKind::Io(error) => error.kind() == std::io::ErrorKind::NotFound,
            _ => false,
        };
        // A missing path is reported by the scan.
        if !is_missing && !self.has_warned.swap(true, Ordering::Relaxed) {
            let path = path.display();
            tracing::info!(%path, %error, "this share can't be watched: refresh it by hand");
        }
    }

    /// Stops watching the share at `path`.
    pub(super) fn remove(&self, path: &Path) {
        {
            let mut noted = lock(&self.changes.noted);
            noted.changed.remove(path);
            noted.resting.remove(path);
            if !noted.shares.remove(path) {
                return;
            }
        }
        let mut watches = lock(&self.watches);
        watches.remove(path, RecursiveMode::Recursive);
        if let Some(parent) = path.parent() {
            watches.remove(parent, RecursiveMode::NonRecursive);
        }
    }
}

impl std::fmt::Debug for ShareWatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShareWatcher").field("changes", &self.changes).finish_non_exhaustive()
    }
}

/// The watcher has one watch for each folder, and removing a recursive watch removes those inside it. So
/// the shares that need a watch are counted, and watches that are still needed are added again.
impl Watches {
    fn add(&mut self, path: &Path, mode: RecursiveMode) -> notify::Result<()> {
        let watch = self.folders.entry(path.to_owned()).or_default();
        *watch.count(mode) += 1;
        // A second watch of a covered folder would replace the recursive one.
        let covered = mode == RecursiveMode::NonRecursive
            && path.ancestors().any(|above| self.folders.get(above).is_some_and(|w| w.whole > 0));
        if covered { Ok(()) } else { self.watcher.watch(path, mode) }
    }

    fn remove(&mut self, path: &Path, mode: RecursiveMode) {
        let Some(watch) = self.folders.get_mut(path) else { return };
        let count = watch.count(mode);
        *count = count.saturating_sub(1);
        if *count > 0 || (mode == RecursiveMode::NonRecursive && watch.whole > 0) {
            return;
        }
        if watch.alone == 0 && watch.whole == 0 {
            self.folders.remove(path);
        }
        // The watch may be gone already, with the file.
        let _ = self.watcher.unwatch(path);
        // This has also removed the watches of folders inside, or a part of the watch of a folder above.
        let touched: Vec<_> = self
            .folders
            .iter()
            .filter(|(other, watch)| {
                other.starts_with(path) || (watch.whole > 0 && path.starts_with(other))
            })
            .map(|(other, watch)| (other.clone(), watch.mode()))
            .collect();
        for (other, mode) in touched {
            if let Err(error) = self.watcher.watch(&other, mode) {
                tracing::debug!(%error, "a folder can't be watched any more");
            }
        }
    }
}

impl FolderWatch {
    fn count(&mut self, mode: RecursiveMode) -> &mut usize {
        match mode {
            RecursiveMode::Recursive => &mut self.whole,
            RecursiveMode::NonRecursive => &mut self.alone,
        }
    }

    fn mode(&self) -> RecursiveMode {
        if self.whole > 0 { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive }
    }
}

impl ShareChanges {
    /// Notes the shares that an event concerns. Never waits for a watch to be added.
    fn note_event(&self, event: &notify::Event, now: Instant) {
        // Reads, which this node does itself, are reported too, and change nothing.
        if let EventKind::Access(kind) = event.kind
            && kind != AccessKind::Close(AccessMode::Write)
        {
            return;
        }
        let moved = matches!(
            event.kind,
            EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
        );
        let mut noted = lock(&self.noted);
        let before = noted.changed.len();
        if event.need_rescan() {
            // The system has dropped events: any share may have changed.
            for path in noted.shares.clone() {
                noted.note(path, now, false);
            }
        }
        for path in &event.paths {
            let inside = path.ancestors().filter(|above| noted.shares.contains(*above));
            let mut concerned: Vec<PathBuf> = inside.map(Path::to_owned).collect();
            if moved {
                // A folder above a share was moved.
                let below = noted.shares.range(path.clone()..);
                let below = below.take_while(|share| share.starts_with(path));
                concerned.extend(below.cloned());
            }
            for share in concerned {
                let replaced = moved && share.starts_with(path);
                noted.note(share, now, replaced);
            }
        }
        // Further changes of a share only move the time of its scan, which the task looks up when it wakes.
        if noted.changed.len() > before {
            self.changed.notify_one();
        }
    }
}

impl NotedChanges {
    fn note(&mut self, share: PathBuf, now: Instant, replaced: bool) {
        let new = PendingChange { first: now, last: now, replaced };
        let change = self.changed.entry(share).or_insert(new);
        change.last = now;
        change.replaced |= replaced;
    }

    /// Pauses a watched share after a scan from `begun` until `now`.
    fn rest(&mut self, share: PathBuf, begun: Instant, now: Instant) {
        // Pauses that are over are removed, so that the map stays small.
        self.resting.retain(|_, until| *until > now);
        if self.shares.contains(&share) {
            let took = now.saturating_duration_since(begun);
            self.resting.insert(share, now + took.saturating_mul(REST_FACTOR).min(MAX_REST));
        }
    }

    /// Returns the time at which the next share is due to be scanned.
    fn due(&self) -> Option<Instant> {
        self.changed.iter().map(|(path, change)| self.due_at(path, change)).min()
    }

    fn due_at(&self, path: &Path, change: &PendingChange) -> Instant {
        let due = change.due();
        self.resting.get(path).map_or(due, |until| due.max(*until))
    }

    /// Removes and returns the shares that are due.
    fn take(&mut self, now: Instant) -> BTreeMap<PathBuf, PendingChange> {
        let changed = std::mem::take(&mut self.changed);
        let (due, later) =
            changed.into_iter().partition(|(path, change)| self.due_at(path, change) <= now);
        self.changed = later;
        due
    }
}

impl PendingChange {
    fn due(&self) -> Instant {
        (self.last + QUIET).min(self.first + MAX_DELAY)
    }
}

#[cfg(test)]
mod tests;
