//! What this node shares: files and folders that stay where they are, found by hash and by name.
//!
//! Nothing is copied into a store. A share is hashed when it is added, and what each file looked
//! like then ([`Stamp`]) is kept, so that a file that was changed since is never served under its
//! old hash, and one that was not is not hashed again after a restart.

mod hashing;
mod open;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use peerkit_proto::files::{
    AccessKind, Description, FileKind, ManifestError, NameError, NameFault, PieceList, Refusal,
    RelPath, SharedFile,
};
use peerkit_proto::id::Hash;
use tokio_util::task::TaskTracker;

pub(crate) use open::read_exact_at;
pub(crate) use open::{OpenShare, OpenTree};

use crate::stamp::Stamp;
use crate::store::{Store, StoreError};

/// The files and folders that a node shares. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Shares {
    store: Store,
    index: Arc<RwLock<Index>>,
    /// Held for reading while something is added: what it wrote down is not to be pruned before
    /// the index has it.
    pruning: Arc<RwLock<()>>,
    /// What is being done off the async threads: it holds the store.
    work: TaskTracker,
}

/// How far something is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// What adding a share came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// The file or folder itself.
    pub shared: SharedFile,
    /// Files in it: 1 for a file.
    pub files: usize,
    /// What in the folder is not shared, and why.
    pub skipped: Vec<Skipped>,
}

/// Something in a folder that is not shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Where it is.
    pub path: PathBuf,
    /// Why it is left out.
    pub why: SkipReason,
}

/// Why something in a folder is not shared. What is hidden is shared like everything else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SkipReason {
    /// A symbolic link: it could lead anywhere.
    #[error("a symbolic link")]
    Symlink,
    /// A device, a pipe, a socket.
    #[error("neither a file nor a folder")]
    Special,
    /// A name that other systems can't have.
    #[error("{0}")]
    Name(NameFault),
    /// What the system said when it was opened.
    #[error("can't be read: {0}")]
    Unreadable(String),
    /// Written to while it was being hashed.
    #[error("was being changed")]
    Changing,
    /// A fetch of peerkit's that is not done.
    #[error("an unfinished fetch")]
    Unfinished,
}

/// What looking at the shares again came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refreshed {
    /// Shares whose content is another: what it was and what it is now.
    pub changed: Vec<(SharedFile, SharedFile)>,
    /// Shares that are gone from disk, or can't be shared any more.
    pub removed: Vec<(PathBuf, Option<SharedFile>)>,
    /// What in the folders is not shared, and why.
    pub skipped: Vec<Skipped>,
}

/// Why something can't be shared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// It is missing or can't be read.
    #[error("can't share {path}: {source}", path = .path.display())]
    Io {
        /// The path as given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A device, a pipe, a socket.
    #[error("can't share {path}: it is neither a file nor a folder", path = .0.display())]
    Special(PathBuf),
    /// Its name is one that other systems can't have.
    #[error("can't share this under its name, rename it first: {0}")]
    Name(#[from] NameError),
    /// Written to while it was being hashed.
    #[error("can't share {path}: it was being changed, try again when it is done", path = .0.display())]
    Changing(PathBuf),
    /// The folder is over a limit.
    #[error("can't share {path}: {source}", path = .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Which limit.
        source: ManifestError,
    },
    /// The node's state can't be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node is being stopped.
    #[error("stopped before it was done")]
    Stopped,
}

#[derive(Debug, Default)]
struct Index {
    tops: BTreeMap<PathBuf, Arc<Top>>,
    by_hash: HashMap<Hash, Vec<Location>>,
}

/// A share as the user added it.
#[derive(Debug)]
struct Top {
    path: PathBuf,
    shared: SharedFile,
    /// The canonical bytes, of a folder.
    manifest: Option<Bytes>,
    items: Vec<Item>,
}

/// A file of a share.
#[derive(Debug)]
struct Item {
    /// Where in the folder; `None` where the share is the file itself.
    rel: Option<RelPath>,
    /// What a search looks at.
    lower: Box<str>,
    hash: Hash,
    stamp: Stamp,
}

/// Where the content of a hash is: in a file of a share, or (`None`) its manifest.
#[derive(Debug, Clone)]
struct Location {
    top: Arc<Top>,
    item: Option<usize>,
}

impl Shares {
    /// Nothing shared yet: see [`restore`](Self::restore) for what `store` knows.
    #[must_use]
    pub(crate) fn new(store: Store) -> Self {
        let work = TaskTracker::new();
        Self { store, index: Arc::default(), pruning: Arc::default(), work }
    }

    /// Waits for the work that its callers have left, which has been told to stop.
    pub(crate) async fn settle(&self) {
        self.work.close();
        self.work.wait().await;
    }

    /// Shares the file or folder at `path`, in place of what was shared from there before.
    ///
    /// It is hashed first, on all cores; `progress` is called as that goes on, on another thread.
    /// Symbolic links in a folder are not followed. What can't be shared is told in the result.
    ///
    /// # Errors
    /// Where `path` itself can't be shared; nothing has changed then.
    pub(crate) async fn add(
        &self,
        path: impl Into<PathBuf>,
        mut progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Added, ShareError> {
        let path = path.into();
        self.blocking(move |shares, stop| shares.add_now(&path, &mut progress, stop)).await
    }

    /// Shares again what was shared before the restart. A path that is missing now is told among
    /// the removed; it is remembered, and tried again next time.
    ///
    /// # Errors
    /// Where the node's state can't be read or written.
    pub(crate) async fn restore(
        &self,
        mut progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Refreshed, ShareError> {
        self.blocking(move |shares, stop| {
            let known = shares.store.shares()?;
            shares.look_again(known.into_iter().map(|(path, _)| path), &mut progress, stop)
        })
        .await
    }

    /// Looks at every share again: what was changed is hashed again, and what is gone is no longer
    /// shared.
    ///
    /// # Errors
    /// Where the node's state can't be read or written.
    pub(crate) async fn refresh(
        &self,
        mut progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Refreshed, ShareError> {
        self.blocking(move |shares, stop| {
            let paths: Vec<PathBuf> = shares.read().tops.keys().cloned().collect();
            let report = shares.look_again(paths, &mut progress, stop)?;
            for (path, _) in &report.removed {
                shares.store.forget_share(path)?;
            }
            shares.prune()?;
            Ok(report)
        })
        .await
    }

    /// Stops sharing what was added and has this hash; the files stay. Returns what was removed:
    /// nothing where no share has the hash (a file inside a shared folder is not a share).
    ///
    /// # Errors
    /// Where the node's state can't be written; it is no longer shared all the same.
    pub(crate) async fn remove(&self, hash: &Hash) -> Result<Vec<SharedFile>, ShareError> {
        let hash = *hash;
        self.blocking(move |shares, _| {
            let gone: Vec<Arc<Top>> = {
                let mut index = shares.write();
                let tops = index.tops.values();
                let gone: Vec<_> = tops.filter(|top| top.shared.hash == hash).cloned().collect();
                for top in &gone {
                    index.remove(&top.path);
                }
                gone
            };
            for top in &gone {
                shares.store.forget_share(&top.path)?;
            }
            shares.prune()?;
            Ok(gone.iter().map(|top| top.shared.clone()).collect())
        })
        .await
    }

    /// What is shared, as it was added: a folder is one. In the order of the paths.
    #[must_use]
    pub(crate) fn list(&self) -> Vec<SharedFile> {
        let index = self.read();
        index.tops.values().map(|top| top.shared.clone()).collect()
    }

    /// What is shared and from where.
    #[must_use]
    pub(crate) fn paths(&self) -> Vec<(PathBuf, SharedFile)> {
        let index = self.read();
        let tops = index.tops.values();
        tops.map(|top| (top.path.clone(), top.shared.clone())).collect()
    }

    /// At most `limit` shares, and files in shared folders, that have every word of `text` in their
    /// name or in their path under the shared folder, whatever the case. Shares come first. An
    /// empty text finds everything.
    #[must_use]
    pub(crate) fn search(&self, text: &str, limit: usize) -> Vec<SharedFile> {
        let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
        let fits = |name: &str| words.iter().all(|word| name.contains(word.as_str()));
        let index = self.read();
        let tops = index.tops.values();
        let shares = tops
            .filter(|top| fits(&top.shared.name.as_str().to_lowercase()))
            .map(|top| top.shared.clone());
        let folders = index.tops.values().filter(|top| top.manifest.is_some());
        let inside = folders
            .flat_map(|top| &top.items)
            .filter(|item| fits(&item.lower))
            .filter_map(Item::shared);
        let mut found: Vec<SharedFile> = Vec::new();
        let mut seen = HashSet::new();
        for file in shares.chain(inside) {
            if found.len() >= limit {
                break;
            }
            if seen.insert((file.hash, file.name.clone())) {
                found.push(file);
            }
        }
        found
    }

    /// Whether anything shared has this hash: a share, a file in one, a folder.
    #[must_use]
    pub(crate) fn contains(&self, hash: &Hash) -> bool {
        self.read().by_hash.contains_key(hash)
    }

    /// What is served under `hash`, without a look at the disk.
    #[must_use]
    pub(crate) fn describe(&self, hash: &Hash) -> Option<Description> {
        let index = self.read();
        index.by_hash.get(hash)?.first()?.describe()
    }

    /// Opens what has this hash. Blocks on the disk.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] where nothing has it, [`Refusal::Changed`] where all that had it were
    /// changed or can't be read any more.
    pub(crate) fn open(&self, hash: &Hash) -> Result<OpenShare, Refusal> {
        let locations = self.read().by_hash.get(hash).cloned();
        let locations = locations.ok_or(Refusal::NotFound)?;
        let opened = locations.iter().find_map(|location| {
            let size = location.describe()?.size;
            let list = match PieceList::single(hash, size) {
                Some(list) => list,
                None => self.known_list(hash, size)?,
            };
            location.open(list)
        });
        opened.ok_or(Refusal::Changed)
    }

    fn known_list(&self, hash: &Hash, size: u64) -> Option<PieceList> {
        match self.store.piece_list(hash) {
            Ok(list) => list.filter(|list| list.size() == size),
            Err(error) => {
                tracing::warn!(%hash, %error, "no piece list");
                None
            }
        }
    }

    fn add_now(
        &self,
        path: &Path,
        progress: &mut dyn FnMut(Progress),
        stop: &AtomicBool,
    ) -> Result<Added, ShareError> {
        let _adding = self.pruning.read().unwrap_or_else(PoisonError::into_inner);
        let scanned = scan::scan(&self.store, path, progress, stop)?;
        let top = Arc::new(scanned.top);
        self.store.save_share(&top.path, &top.shared.hash)?;
        self.write().insert(Arc::clone(&top));
        Ok(Added { shared: top.shared.clone(), files: top.items.len(), skipped: scanned.skipped })
    }

    fn look_again(
        &self,
        paths: impl IntoIterator<Item = PathBuf>,
        progress: &mut dyn FnMut(Progress),
        stop: &AtomicBool,
    ) -> Result<Refreshed, ShareError> {
        let mut report = Refreshed::default();
        for path in paths {
            let before = self.read().tops.get(&path).map(|top| top.shared.clone());
            match self.add_now(&path, progress, stop) {
                Ok(added) => {
                    if let Some(before) = before.filter(|before| before.hash != added.shared.hash) {
                        report.changed.push((before, added.shared));
                    }
                    report.skipped.extend(added.skipped);
                }
                Err(error @ (ShareError::Store(_) | ShareError::Stopped)) => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "no longer shared");
                    self.write().remove(&path);
                    report.removed.push((path, before));
                }
            }
        }
        Ok(report)
    }

    /// Forgets what files hashed to that are in no share any more. While something is being added
    /// it is left for the next time.
    fn prune(&self) -> Result<(), StoreError> {
        let Ok(_alone) = self.pruning.try_write() else {
            return Ok(());
        };
        let kept: Vec<PathBuf> = self.store.shares()?.into_iter().map(|(path, _)| path).collect();
        let hashes: HashSet<Hash> = self.read().by_hash.keys().copied().collect();
        self.store.prune(
            |path| kept.iter().any(|top| path.starts_with(top)),
            |hash| hashes.contains(hash),
        )
    }

    /// Runs `work` off the async threads. Where the caller goes away the work is told to stop.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self, &AtomicBool) -> Result<T, ShareError> + Send + 'static,
    ) -> Result<T, ShareError> {
        let shares = self.clone();
        let stop = StopOnDrop(Arc::default());
        let seen = Arc::clone(&stop.0);
        match self.work.spawn_blocking(move || work(&shares, &seen)).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(ShareError::Stopped),
            },
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Index {
    fn insert(&mut self, top: Arc<Top>) {
        self.remove(&top.path);
        for (at, item) in top.items.iter().enumerate() {
            let location = Location { top: Arc::clone(&top), item: Some(at) };
            self.by_hash.entry(item.hash).or_default().push(location);
        }
        if top.manifest.is_some() {
            let location = Location { top: Arc::clone(&top), item: None };
            let hash = top.shared.hash;
            self.by_hash.entry(hash).or_default().push(location);
        }
        self.tops.insert(top.path.clone(), top);
    }

    fn remove(&mut self, path: &Path) {
        let Some(top) = self.tops.remove(path) else {
            return;
        };
        let hashes = top.items.iter().map(|item| item.hash);
        for hash in hashes.chain([top.shared.hash]) {
            if let Some(locations) = self.by_hash.get_mut(&hash) {
                locations.retain(|location| !Arc::ptr_eq(&location.top, &top));
                if locations.is_empty() {
                    self.by_hash.remove(&hash);
                }
            }
        }
    }
}

impl Location {
    fn describe(&self) -> Option<Description> {
        match self.item {
            None => Some(Description {
                kind: FileKind::Folder,
                access: AccessKind::Open,
                size: self.top.manifest.as_ref()?.len() as u64,
                name: self.top.shared.name.clone(),
            }),
            Some(at) => {
                let item = self.top.items.get(at)?;
                let rel = item.rel.as_ref();
                Some(Description {
                    kind: FileKind::File,
                    access: AccessKind::Open,
                    size: item.stamp.size,
                    name: rel.map_or_else(|| self.top.shared.name.clone(), RelPath::name),
                })
            }
        }
    }

    fn open(&self, list: PieceList) -> Option<OpenShare> {
        match self.item {
            None => {
                let manifest = self.top.manifest.clone()?;
                Some(OpenShare::memory(manifest, list))
            }
            Some(at) => {
                let item = self.top.items.get(at)?;
                let path = match &item.rel {
                    None => self.top.path.clone(),
                    Some(rel) => rel.under(&self.top.path),
                };
                OpenShare::file(&path, item.stamp, list)
            }
        }
    }
}

impl Item {
    /// As it is found inside a folder.
    fn shared(&self) -> Option<SharedFile> {
        Some(SharedFile {
            hash: self.hash,
            name: self.rel.as_ref()?.name(),
            size: self.stamp.size,
            kind: FileKind::File,
        })
    }
}
