//! Shares that are watched: what changes on disk is looked at again by itself.
//!
//! What the system tells is kept as the set of the shares that it concerns, so it takes no more
//! memory than these, however much is told. A watch is never needed for what is served to be right,
//! only for what is new to be found.

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

/// A share is looked at again once nothing has changed in it for this long.
const QUIET: Duration = Duration::from_secs(1);

/// At the latest this long after a change, where there is no quiet.
const PATIENCE: Duration = Duration::from_secs(5);

/// A share is left alone for so many times as long as the last look at it took: one of a million
/// files that never comes to rest takes a tenth of a processor.
const REST: u32 = 9;

/// It is left alone no longer than this: a look may have taken so long because of one large file.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// How often a share that is gone from disk is looked for.
const LOOK_FOR: Duration = Duration::from_secs(2);

/// The watches, and what they have told.
pub(super) struct Watching {
    changes: Arc<Changes>,
    watches: Mutex<Watches>,
    /// The user has been told that something can't be watched.
    told: AtomicBool,
}

struct Watches {
    watcher: RecommendedWatcher,
    folders: BTreeMap<PathBuf, Watch>,
}

/// How many want a folder watched: with all that is in it, or alone.
#[derive(Default)]
struct Watch {
    whole: usize,
    alone: usize,
}

/// What has changed and was not looked at yet.
#[derive(Debug, Default)]
struct Changes {
    noted: Mutex<Noted>,
    /// Told of the first change of a share.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Noted {
    /// The shares that are watched.
    shares: BTreeSet<PathBuf>,
    changed: BTreeMap<PathBuf, Change>,
    /// Until when a share is left alone.
    resting: BTreeMap<PathBuf, Instant>,
}

#[derive(Debug)]
struct Change {
    first: Instant,
    last: Instant,
    /// The share itself is gone or another: its watch may be of what was there.
    replaced: bool,
}

impl Shares {
    /// Looks again at what changes on disk, from now on until it is dropped.
    pub(crate) async fn watch(self) {
        let Some(watching) = self.watching.clone() else { return };
        let mut gone = HashSet::new();
        let mut look_for = tokio::time::interval(LOOK_FOR);
        look_for.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = lock(&watching.changes.noted).due();
            tokio::select! {
                () = watching.changes.changed.notified() => {}
                () = tokio::time::sleep_until(due.unwrap_or_else(far).into()) => {
                    let due = lock(&watching.changes.noted).take(Instant::now());
                    for (path, change) in due {
                        self.look_at_change(path, change.replaced).await;
                    }
                }
                _ = look_for.tick() => {
                    for path in self.come_back(&mut gone).await {
                        self.look_at_change(path, true).await;
                    }
                }
            }
        }
    }

    async fn look_at_change(&self, path: PathBuf, replaced: bool) {
        let looking = self.blocking(move |shares, stop| {
            let begun = Instant::now();
            if let Some(watching) = shares.watching.as_ref().filter(|_| replaced) {
                watching.forget(&path);
            }
            let report = shares.look_again([path.clone()], &mut |_| {}, stop);
            if let Some(watching) = &shares.watching {
                lock(&watching.changes.noted).rest(path, begun, Instant::now());
            }
            report
        });
        match looking.await {
            Ok(report) => {
                for (before, now) in report.changed {
                    tracing::debug!(name = %now.name, before = %before.hash, now = %now.hash, "a share has changed");
                }
                for (path, _) in report.removed {
                    tracing::debug!(path = %path.display(), "a share is gone, for now");
                }
            }
            Err(error) => tracing::warn!(%error, "can't look at a share again"),
        }
    }

    /// Shares that were gone and are there again. `gone` are those that were gone the last time.
    async fn come_back(&self, gone: &mut HashSet<PathBuf>) -> Vec<PathBuf> {
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

/// Never, as far as anybody waits.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}

impl Watching {
    /// `None` where the system has no way to watch, which the user is told.
    pub(super) fn new() -> Option<Self> {
        let changes = Arc::new(Changes::default());
        let told = Arc::clone(&changes);
        let config = notify::Config::default().with_follow_symlinks(false);
        let watcher = RecommendedWatcher::new(
            move |event| match event {
                Ok(event) => told.hear(&event, Instant::now()),
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
                told: AtomicBool::new(false),
            }),
            Err(error) => {
                tracing::info!(%error, "shares can't be watched here: refresh them by hand");
                None
            }
        }
    }

    /// Watches the share at `path`, if it is not yet. Blocks on the disk.
    pub(super) fn add(&self, path: &Path) {
        if !lock(&self.changes.noted).shares.insert(path.to_owned()) {
            return;
        }
        let mut watches = lock(&self.watches);
        let outcome = match path.parent() {
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
        // What is missing is told of by whoever looks at it.
        if !is_missing && !self.told.swap(true, Ordering::Relaxed) {
            let path = path.display();
            tracing::info!(%path, %error, "this share can't be watched: refresh it by hand");
        }
    }

    /// Watches the share at `path` no more.
    pub(super) fn forget(&self, path: &Path) {
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

impl std::fmt::Debug for Watching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watching").field("changes", &self.changes).finish_non_exhaustive()
    }
}

/// The watcher has one watch for a folder, and a watch of one with all that is in it ends those in
/// it: so who wants what is counted, and what still is wanted is watched anew.
impl Watches {
    fn add(&mut self, path: &Path, mode: RecursiveMode) -> notify::Result<()> {
        let watch = self.folders.entry(path.to_owned()).or_default();
        *watch.count(mode) += 1;
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
        // It may have gone with what was watched.
        let _ = self.watcher.unwatch(path);
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
                tracing::debug!(%error, "not watched any more");
            }
        }
    }
}

impl Watch {
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

impl Changes {
    /// Notes which shares an event concerns. Never waits for a watch to be made.
    fn hear(&self, event: &notify::Event, now: Instant) {
        // Our own reading is told of too.
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
            // More was to tell than there was room for.
            for path in noted.shares.clone() {
                noted.note(path, now, false);
            }
        }
        for path in &event.paths {
            let inside = path.ancestors().filter(|above| noted.shares.contains(*above));
            let mut concerned: Vec<PathBuf> = inside.map(Path::to_owned).collect();
            if moved {
                // The folder that a share lies in.
                let below = noted.shares.range(path.clone()..);
                let below = below.take_while(|share| share.starts_with(path));
                concerned.extend(below.cloned());
            }
            for share in concerned {
                let replaced = moved && share.starts_with(path);
                noted.note(share, now, replaced);
            }
        }
        if noted.changed.len() > before {
            self.changed.notify_one();
        }
    }
}

impl Noted {
    fn note(&mut self, share: PathBuf, now: Instant, replaced: bool) {
        let new = Change { first: now, last: now, replaced };
        let change = self.changed.entry(share).or_insert(new);
        change.last = now;
        change.replaced |= replaced;
    }

    /// A share that is watched was looked at, from `begun` until `now`.
    fn rest(&mut self, share: PathBuf, begun: Instant, now: Instant) {
        self.resting.retain(|_, until| *until > now);
        if self.shares.contains(&share) {
            let took = now.saturating_duration_since(begun);
            self.resting.insert(share, now + took.saturating_mul(REST).min(LONGEST_REST));
        }
    }

    /// When the next share is to be looked at.
    fn due(&self) -> Option<Instant> {
        self.changed.iter().map(|(path, change)| self.due_at(path, change)).min()
    }

    fn due_at(&self, path: &Path, change: &Change) -> Instant {
        let due = change.due();
        self.resting.get(path).map_or(due, |until| due.max(*until))
    }

    /// The shares that are to be looked at now.
    fn take(&mut self, now: Instant) -> BTreeMap<PathBuf, Change> {
        let changed = std::mem::take(&mut self.changed);
        let (due, later) =
            changed.into_iter().partition(|(path, change)| self.due_at(path, change) <= now);
        self.changed = later;
        due
    }
}

impl Change {
    fn due(&self) -> Instant {
        (self.last + QUIET).min(self.first + PATIENCE)
    }
}

#[cfg(test)]
mod tests;
