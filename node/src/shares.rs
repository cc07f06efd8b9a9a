//! The shares of this node: files and folders that stay where they are, found by hash and by name.
//!
//! Nothing is copied into a store. A share is hashed when it is added, and the
//! [`Fingerprint`](crate::disk::fingerprint::Fingerprint) of each file is kept. So a file that has changed
//! since is never served under its old hash, and an unchanged file is not hashed again after a restart. Every
//! look-up is made for one asking node, and finds only content that this node may have.

mod hashing;
mod index;
mod name_list;
mod open;
mod results;
mod scan;
mod search;
mod sharing;
#[cfg(test)]
mod tests;
mod watching;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use peerkit_proto::files::{
    Access, Asker, Description, FileName, FileRefusal, PieceList, SharedFile, TicketKey,
};
use peerkit_proto::id::{Hash, Key};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use index::ChangedShare;
pub(crate) use open::{OpenShare, OpenTree, values_of};
pub use results::{
    Added, FolderFile, FolderPart, HashProgress, Refreshed, ShareError, SkipReason, Skipped,
};
#[cfg(test)]
pub(crate) use sharing::Audience;
pub(crate) use sharing::ShareOptions;
pub use sharing::Sharing;
use sharing::Terms;

use crate::blocking;
use crate::lock::{lock, read, write};
use crate::store::{KnownShare, Store, StoreError};
use index::{Index, Share};
use scan::Scanner;
use search::SearchQuery;
use watching::ShareWatcher;

/// The files and folders that a node shares. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Shares {
    store: Store,
    index: Arc<RwLock<Index>>,
    /// Held while the added paths change, in the index and in the store.
    path_lock: Arc<Mutex<()>>,
    /// Held for reading while a path is scanned: the hashes that the scan stores must not be pruned before
    /// the index has the share.
    prune_lock: Arc<RwLock<()>>,
    watching: Option<Arc<ShareWatcher>>,
    /// Key from which the ticket secrets of temporary shares are derived.
    tickets: Option<TicketKey>,
    /// Work on blocking threads, which uses the store.
    work: TaskTracker,
}

impl Shares {
    /// Creates an empty set of shares. [`restore`](Self::restore) adds those in `store`.
    #[must_use]
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            index: Arc::default(),
            path_lock: Arc::default(),
            prune_lock: Arc::default(),
            watching: None,
            tickets: None,
            work: TaskTracker::new(),
        }
    }

    /// Watches the shares that are added from now on, if the system can: see [`watch`](Self::watch).
    #[must_use]
    pub(crate) fn watched(mut self) -> Self {
        self.watching = ShareWatcher::new().map(Arc::new);
        self
    }

    /// Derives the ticket secrets of temporary shares from the node's key. The same content then has the same
    /// ticket each time.
    #[must_use]
    pub(crate) fn with_tickets_of(mut self, key: &Key) -> Self {
        self.tickets = Some(TicketKey::of(key));
        self
    }

    /// Waits until the work on blocking threads has ended. Work stops early if its caller is gone.
    pub(crate) async fn wait_for_work(&self) {
        self.work.close();
        self.work.wait().await;
    }

    /// Adds a share with default options, as [`add_with`](Self::add_with) does.
    ///
    /// # Errors
    /// As [`add_with`](Self::add_with).
    #[cfg(test)]
    pub(crate) async fn add(
        &self,
        path: impl Into<PathBuf>,
        progress: impl FnMut(HashProgress) + Send + 'static,
    ) -> Result<Added, ShareError> {
        self.add_with(path, ShareOptions::default(), progress).await
    }

    /// Shares the file or folder at `path` with `options`. Replaces an earlier share of the same path.
    ///
    /// The files are hashed first, on all cores. `progress` is called meanwhile, on another thread. Symbolic
    /// links in a folder are not followed. The result lists the entries that can't be shared.
    ///
    /// # Errors
    /// If `path` itself can't be shared. Nothing has changed then.
    pub(crate) async fn add_with(
        &self,
        path: impl Into<PathBuf>,
        options: ShareOptions,
        mut progress: impl FnMut(HashProgress) + Send + 'static,
    ) -> Result<Added, ShareError> {
        let path = path.into();
        self.blocking(move |shares, stop| shares.add_now(&path, options, &mut progress, stop)).await
    }

    /// Restores the shares of earlier runs. [`Refreshed::removed`] has the paths that can't be shared now.
    /// They stay in the store, and are tried again after the next restart.
    ///
    /// # Errors
    /// If the node's state can't be read or written.
    pub(crate) async fn restore(
        &self,
        mut progress: impl FnMut(HashProgress) + Send + 'static,
    ) -> Result<Refreshed, ShareError> {
        self.blocking(move |shares, stop| {
            // All paths are added before the first is scanned, so that a share can be removed during the
            // scans.
            let paths: Vec<PathBuf> = {
                let _changing = lock(&shares.path_lock);
                let known = shares.store.shares()?;
                let mut index = write(&shares.index);
                let paths = known.iter().map(|(path, _)| path.clone()).collect();
                for (path, KnownShare { shared, access }) in known {
                    index.add_path(path, shared, Terms { access, remember: true });
                }
                paths
            };
            shares.rescan(paths, &mut progress, stop)
        })
        .await
    }

    /// Scans every share again. Changed files are hashed again, and files that are gone are no longer shared.
    ///
    /// # Errors
    /// If the node's state can't be read or written.
    pub(crate) async fn refresh(
        &self,
        mut progress: impl FnMut(HashProgress) + Send + 'static,
    ) -> Result<Refreshed, ShareError> {
        self.blocking(move |shares, stop| {
            let paths: Vec<PathBuf> = read(&shares.index).paths().cloned().collect();
            let mut report = shares.rescan(paths, &mut progress, stop)?;
            // A share that was already missing before this scan may come back, so it is kept.
            report.removed.retain(|(_, before)| before.is_some());
            let changing = lock(&shares.path_lock);
            // A share that was added again since its scan is also kept.
            report.removed.retain(|(path, _)| read(&shares.index).share(path).is_none());
            for (path, _) in &report.removed {
                shares.forget(path, &changing)?;
            }
            drop(changing);
            shares.prune()?;
            Ok(report)
        })
        .await
    }

    /// Removes the shares with this hash, and returns them. The files stay on disk. A file in a shared folder
    /// is not a share of its own, so its hash removes nothing.
    ///
    /// # Errors
    /// If the node's state can't be written. The content is no longer shared, but may be shared again after a
    /// restart.
    pub(crate) async fn remove(&self, hash: &Hash) -> Result<Vec<SharedFile>, ShareError> {
        let hash = *hash;
        self.blocking(move |shares, _| Ok(shares.remove_now(&hash)?)).await
    }

    fn remove_now(&self, hash: &Hash) -> Result<Vec<SharedFile>, StoreError> {
        let changing = lock(&self.path_lock);
        // Listed under the lock: a path that has got other content meanwhile is not removed.
        let paths = read(&self.index).paths_with(hash);
        // All of them leave the index, even if the store fails for one.
        let forgotten: Vec<_> = paths.iter().map(|path| self.forget(path, &changing)).collect();
        drop(changing);
        let gone = forgotten.into_iter().filter_map(Result::transpose).collect::<Result<_, _>>()?;
        self.prune()?;
        Ok(gone)
    }

    /// Removes the share that was added at `path`, and returns it.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub(crate) async fn remove_path(&self, path: &Path) -> Result<Option<SharedFile>, ShareError> {
        let path = path.to_owned();
        self.blocking(move |shares, _| {
            let gone = shares.forget(&path, &lock(&shares.path_lock))?;
            shares.prune()?;
            Ok(gone)
        })
        .await
    }

    /// Removes the share that was added at `path`, unless it is remembered.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub(crate) async fn remove_temporary(
        &self,
        path: &Path,
    ) -> Result<Option<SharedFile>, ShareError> {
        let path = path.to_owned();
        self.blocking(move |shares, _| {
            let changing = lock(&shares.path_lock);
            if shares.terms_of(&path)?.is_none_or(|terms| terms.remember) {
                return Ok(None);
            }
            let gone = shares.forget(&path, &changing)?;
            drop(changing);
            shares.prune()?;
            Ok(gone)
        })
        .await
    }

    /// Returns whether content with this hash is, or was until it changed, in the share that was added at
    /// `path`.
    #[must_use]
    pub(crate) fn has_at(&self, path: &Path, hash: &Hash) -> bool {
        read(&self.index).has_at(path, hash)
    }

    /// Returns the shares in the order of their paths. A folder is one share.
    #[must_use]
    pub(crate) fn list(&self) -> Vec<SharedFile> {
        read(&self.index).shares().map(|share| share.shared.clone()).collect()
    }

    /// Returns the shares with their paths.
    #[must_use]
    pub(crate) fn paths(&self) -> Vec<(PathBuf, SharedFile)> {
        read(&self.index).shares().map(|share| (share.path.clone(), share.shared.clone())).collect()
    }

    /// Returns which nodes may have the content with this hash.
    #[must_use]
    pub(crate) fn access(&self, hash: &Hash) -> Option<Access> {
        read(&self.index).access(hash).cloned()
    }

    /// Returns the name under which `hash` is shared, and the access of that share. If `name` is given, only
    /// a share with that name counts.
    #[must_use]
    pub(crate) fn named(&self, hash: &Hash, name: Option<&FileName>) -> Option<(FileName, Access)> {
        read(&self.index).named(hash, name).map(|(name, access)| (name, access.clone()))
    }

    /// Returns at most `limit` files, after the first `skip`, of the folder that was added at `path`.
    #[must_use]
    pub(crate) fn files_in(&self, path: &Path, skip: usize, limit: usize) -> Option<FolderPart> {
        let share = read(&self.index).share(path).cloned()?;
        share.part(skip, limit)
    }

    /// Searches the shares, and the files in shared folders, as [`Node::search`](crate::Node::search) does.
    /// Returns at most `limit` results, shares first. An empty text finds everything. Without an asker
    /// only open shares are found. Takes some milliseconds for 100,000 files.
    #[must_use]
    pub(crate) fn search(
        &self,
        text: &str,
        limit: usize,
        asker: Option<&Asker<'_>>,
    ) -> Vec<SharedFile> {
        self.search_in(text, limit, |share| index::may_have(&share.access, asker))
    }

    /// Searches as [`search`](Self::search) does, for the user of this node: all shares are found.
    #[must_use]
    pub(crate) fn search_own(&self, text: &str, limit: usize) -> Vec<SharedFile> {
        self.search_in(text, limit, |_| true)
    }

    fn search_in(
        &self,
        text: &str,
        limit: usize,
        is_visible: impl Fn(&Share) -> bool,
    ) -> Vec<SharedFile> {
        let query = SearchQuery::new(text);
        // Only pointers are copied under the lock: matching takes milliseconds, and a scan that waits to
        // write would hold up all other look-ups meanwhile.
        let visible: Vec<Arc<Share>> = {
            let index = read(&self.index);
            index.shares().filter(|share| is_visible(share)).cloned().collect()
        };
        let shares =
            visible.iter().filter(|share| share.matches(&query)).map(|share| share.shared.clone());
        let inside = visible.iter().flat_map(|share| share.files(&query));
        let mut found: Vec<SharedFile> = Vec::new();
        // The same content may be shared at several paths under one name.
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

    /// Returns whether `asker` may have content with this hash: a share, or a file in one.
    #[must_use]
    pub(crate) fn contains(&self, hash: &Hash, asker: &Asker<'_>) -> bool {
        read(&self.index).allows(hash, Some(asker))
    }

    /// Describes the content that is served to `asker` under `hash`. Looks at the disk only if that is a
    /// large file.
    #[must_use]
    pub(crate) fn describe(&self, hash: &Hash, asker: &Asker<'_>) -> Option<Description> {
        self.describe_for_query(hash, Some(asker))
    }

    /// Describes content as [`describe`](Self::describe) does, for a query. Without an asker only open
    /// shares count.
    #[must_use]
    pub(crate) fn describe_for_query(
        &self,
        hash: &Hash,
        asker: Option<&Asker<'_>>,
    ) -> Option<Description> {
        read(&self.index).find(hash, asker).first()?.describe()
    }

    /// Returns the content that is served to `asker` under `hash`: a share, or a file in a shared folder.
    /// Prefers content that is called `name`.
    #[must_use]
    pub(crate) fn file(
        &self,
        hash: &Hash,
        name: Option<&FileName>,
        asker: &Asker<'_>,
    ) -> Option<SharedFile> {
        let index = read(&self.index);
        let called = name.and_then(|name| index.find_called(hash, name, asker));
        called.or_else(|| index.find(hash, Some(asker)).first()?.file())
    }

    /// Returns the report that the content served to `asker` under `hash` was changed on disk. If the content
    /// is a folder, `file` is the number of the changed file in it.
    #[must_use]
    pub(crate) fn as_changed(
        &self,
        hash: &Hash,
        file: Option<usize>,
        asker: &Asker<'_>,
    ) -> Option<ChangedShare> {
        let location = read(&self.index).find(hash, Some(asker)).into_iter().next()?;
        location.share.changed(location.item.or(file))
    }

    /// Returns the content that was served to `asker` under `hash` until it was changed or removed. For a
    /// folder this is the changed file in it, if that is known.
    #[must_use]
    pub(crate) fn changed(&self, hash: &Hash, asker: &Asker<'_>) -> Option<ChangedShare> {
        read(&self.index).retired(hash, asker)
    }

    /// Opens the content with this hash for `asker`. Blocks on the disk.
    ///
    /// # Errors
    /// [`FileRefusal::NotFound`] if `asker` may have no content with this hash, [`FileRefusal::Changed`] if
    /// every copy was changed or can't be read any more.
    pub(crate) fn open(&self, hash: &Hash, asker: &Asker<'_>) -> Result<OpenShare, FileRefusal> {
        let locations = read(&self.index).find(hash, Some(asker));
        if locations.is_empty() {
            return Err(FileRefusal::NotFound);
        }
        // A copy that was changed is skipped: another one may still have the content.
        let opened = locations.iter().find_map(|location| {
            let size = location.describe()?.size;
            let list = match PieceList::single(hash, size) {
                Some(list) => list,
                None => self.stored_list(hash, size)?,
            };
            OpenShare::at(location, list).filter(OpenShare::is_unchanged)
        });
        opened.ok_or(FileRefusal::Changed)
    }

    fn stored_list(&self, hash: &Hash, size: u64) -> Option<PieceList> {
        match self.store.piece_list(hash) {
            Ok(list) => list.filter(|list| list.size() == size),
            Err(error) => {
                tracing::warn!(%hash, %error, "can't read a piece list");
                None
            }
        }
    }

    fn add_now(
        &self,
        path: &Path,
        options: ShareOptions,
        progress: &mut dyn FnMut(HashProgress),
        stop: &CancellationToken,
    ) -> Result<Added, ShareError> {
        let _adding = read(&self.prune_lock);
        let real = resolve(path)?;
        // Watched before the scan: a change during the scan is then noticed, and leads to another scan.
        self.start_watching(&real);
        let added = self.scan_and_insert(&real, options, progress, stop);
        added.inspect_err(|_| self.stop_watching(&real))
    }

    fn scan_and_insert(
        &self,
        path: &Path,
        options: ShareOptions,
        progress: &mut dyn FnMut(HashProgress),
        stop: &CancellationToken,
    ) -> Result<Added, ShareError> {
        let scanned = Scanner { store: &self.store, progress, stop }.scan(path.to_owned())?;
        let mut share = scanned.share;
        // The lock is taken only now: the scan may take minutes, and other shares can be changed meanwhile.
        let _changing = lock(&self.path_lock);
        // Checked under the lock: if the caller has gone, a later `remove_path` must not find this share.
        if stop.is_cancelled() {
            return Err(ShareError::Stopped);
        }
        let before = self.terms_of(&share.path)?;
        let derived = self.tickets.as_ref().map(|tickets| tickets.secret_of(&share.shared.hash));
        let Terms { access, remember } = options.terms(before, derived)?;
        // The store comes before the index: if it can't be written, nothing has changed, as the caller is
        // promised.
        if remember {
            let row = KnownShare { shared: share.shared.clone(), access: access.clone() };
            self.store.save_share(&share.path, &row)?;
        } else {
            // An earlier share of this path may have been remembered.
            self.store.remove_share(&share.path)?;
        }
        share.access = access.clone();
        let (shared, files) = (share.shared.clone(), share.items.len());
        write(&self.index).insert(share, remember);
        Ok(Added { shared, files, skipped: scanned.skipped, access, is_remembered: remember })
    }

    /// Returns the terms of the share at `path`, which may not be restored yet.
    fn terms_of(&self, path: &Path) -> Result<Option<Terms>, StoreError> {
        if let Some(terms) = read(&self.index).terms(path) {
            return Ok(Some(terms.clone()));
        }
        let known = self.store.share(path)?;
        Ok(known.map(|share| Terms { access: share.access, remember: true }))
    }

    fn rescan(
        &self,
        paths: impl IntoIterator<Item = PathBuf>,
        progress: &mut dyn FnMut(HashProgress),
        stop: &CancellationToken,
    ) -> Result<Refreshed, ShareError> {
        let mut report = Refreshed::default();
        for path in paths {
            let before = read(&self.index).share(&path).cloned();
            match self.rescan_path(&path, &mut report, progress, stop) {
                Ok(()) => {}
                // These errors say nothing about the path, so it stays shared.
                Err(error @ (ShareError::Store(_) | ShareError::Stopped)) => return Err(error),
                Err(error) => {
                    let _changing = lock(&self.path_lock);
                    let mut index = write(&self.index);
                    let now = index.share(&path);
                    // If the path was removed or added again during the scan, the error says nothing about
                    // its present state.
                    if index.terms(&path).is_none()
                        || now.map(Arc::as_ptr) != before.as_ref().map(Arc::as_ptr)
                    {
                        drop(index);
                        self.stop_watching(&path);
                        continue;
                    }
                    tracing::debug!(%error, "no longer shared");
                    index.withdraw(&path);
                    before.iter().for_each(|share| index.retire(share));
                    report.removed.push((path, before.map(|share| share.shared.clone())));
                }
            }
        }
        Ok(report)
    }

    /// Scans a path that was added before, unless it is removed meanwhile.
    fn rescan_path(
        &self,
        path: &Path,
        report: &mut Refreshed,
        progress: &mut dyn FnMut(HashProgress),
        stop: &CancellationToken,
    ) -> Result<(), ShareError> {
        let _adding = read(&self.prune_lock);
        self.start_watching(path);
        let real = resolve(path)?;
        if real != path {
            // A symbolic link has replaced the share, or a folder above it. The link could lead anywhere.
            return Err(ShareError::Special(path.to_owned()));
        }
        let scanned = Scanner { store: &self.store, progress, stop }.scan(real)?;
        let mut share = scanned.share;
        let _changing = lock(&self.path_lock);
        let Some(terms) = read(&self.index).terms(path).cloned() else {
            // The path was removed meanwhile.
            self.stop_watching(path);
            return Ok(());
        };
        let (last, old) = {
            let index = read(&self.index);
            (index.last_found(path).cloned(), index.share(path).cloned())
        };
        let before = old.as_ref().map(|share| share.shared.clone());
        if terms.remember && last.as_ref() != Some(&share.shared) {
            let row = KnownShare { shared: share.shared.clone(), access: terms.access.clone() };
            self.store.save_share(path, &row)?;
        }
        if let Some(before) = before.filter(|before| before.hash != share.shared.hash) {
            report.changed.push((before, share.shared.clone()));
        }
        report.skipped.extend(scanned.skipped);
        share.access = terms.access;
        let mut index = write(&self.index);
        index.insert(share, terms.remember);
        // After the insert: only content that no share has any more counts as gone.
        old.iter().for_each(|old| index.retire(old));
        Ok(())
    }

    /// Watches `path`. Called before the scan, so that no change is missed.
    fn start_watching(&self, path: &Path) {
        if let Some(watching) = &self.watching {
            watching.add(path);
        }
    }

    /// Stops watching `path`, unless it is shared.
    fn stop_watching(&self, path: &Path) {
        if let Some(watching) = &self.watching
            && read(&self.index).terms(path).is_none()
        {
            watching.remove(path);
        }
    }

    /// Removes the share at `path` from the index and the store, and returns it. The caller holds
    /// `path_lock`.
    fn forget(
        &self,
        path: &Path,
        _changing: &MutexGuard<'_, ()>,
    ) -> Result<Option<SharedFile>, StoreError> {
        // The index comes first: the files must not be served any more even if the store can't be written.
        let gone = write(&self.index).remove(path);
        self.stop_watching(path);
        self.store.remove_share(path)?;
        Ok(gone)
    }

    /// Removes stored hashes of files that are in no share any more. Does nothing while a path is being
    /// scanned.
    fn prune(&self) -> Result<(), StoreError> {
        // A scan that is under way has stored hashes that the index does not have yet.
        let Ok(_alone) = self.prune_lock.try_write() else {
            return Ok(());
        };
        let shares = self.store.shares()?.into_iter();
        // Shares that are gone from disk keep their hashes: they may come back, and be large.
        let mut kept: HashSet<PathBuf> = shares.map(|(path, _)| path).collect();
        kept.extend(read(&self.index).paths().cloned());
        let keep_file = |path: &Path| path.ancestors().any(|above| kept.contains(above));
        self.store.prune(keep_file, |hash| read(&self.index).has(hash))
    }

    /// Runs `work` on a blocking thread. The token is cancelled if the caller goes away.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self, &CancellationToken) -> Result<T, ShareError> + Send + 'static,
    ) -> Result<T, ShareError> {
        let shares = self.clone();
        let stop = CancellationToken::new();
        let _stops_when_dropped = stop.clone().drop_guard();
        let working = self.work.spawn_blocking(move || work(&shares, &stop));
        blocking::finish(working).await.unwrap_or(Err(ShareError::Stopped))
    }
}

/// Resolves the symbolic links in `path`. On Windows the result begins with `\\?\` only if it has to.
fn resolve(path: &Path) -> Result<PathBuf, ShareError> {
    // An open pipe, such as the shell's `<(command)`, has no path that could be resolved.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return Err(ShareError::Special(path.to_owned()));
    }
    dunce::canonicalize(path).map_err(|error| ShareError::Io { path: path.to_owned(), error })
}
