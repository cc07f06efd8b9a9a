//! What this node shares: files and folders that stay where they are, found by hash and by name.
//!
//! Nothing is copied into a store. A share is hashed when it is added, and what each file looked
//! like then ([`Fingerprint`](crate::disk::fingerprint::Fingerprint)) is kept, so that a file that was changed since is
//! never served under its old hash, and one that was not is not hashed again after a restart.
//! Every look from outside is with the eyes of whoever asks: what it may not have is not there.

mod hashing;
mod index;
mod names;
mod open;
mod question;
mod report;
mod scan;
mod sharing;
#[cfg(test)]
mod tests;
mod watching;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use peerkit_proto::files::{
    Access, Asker, Description, FileName, FileRefusal, PieceList, SharedFile, TicketKey,
};
use peerkit_proto::id::{Hash, Key};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use index::ChangedShare;
pub(crate) use open::{OpenShare, OpenTree, values_of};
pub use report::{
    Added, FolderFile, FolderPart, Progress, Refreshed, ShareError, SkipReason, Skipped,
};
#[cfg(test)]
pub(crate) use sharing::Audience;
pub(crate) use sharing::ShareOptions;
pub use sharing::Sharing;
use sharing::Terms;

use crate::blocking;
use crate::lock::{lock, read, write};
use crate::store::{KnownShare, Store, StoreError};
use index::{Index, Top};
use question::Question;
use scan::Scanner;
use watching::Watching;

/// The files and folders that a node shares. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Shares {
    store: Store,
    index: Arc<RwLock<Index>>,
    /// Held while what is wanted changes, in the index and in the store alike.
    changing: Arc<Mutex<()>>,
    /// Held for reading while something is added: what it wrote down is not to be pruned before
    /// the index has it.
    pruning: Arc<RwLock<()>>,
    watching: Option<Arc<Watching>>,
    /// What the secrets of shares come from that are not remembered.
    tickets: Option<TicketKey>,
    /// What is being done off the async threads: it holds the store.
    work: TaskTracker,
}

impl Shares {
    /// Nothing shared yet: see [`restore`](Self::restore) for what `store` knows.
    #[must_use]
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            index: Arc::default(),
            changing: Arc::default(),
            pruning: Arc::default(),
            watching: None,
            tickets: None,
            work: TaskTracker::new(),
        }
    }

    /// Has what is shared from now on watched, where that is possible: see [`watch`](Self::watch).
    #[must_use]
    pub(crate) fn watched(mut self) -> Self {
        self.watching = Watching::new().map(Arc::new);
        self
    }

    /// A share that is not remembered has the same ticket whenever the node with this key has it.
    #[must_use]
    pub(crate) fn with_tickets_of(mut self, key: &Key) -> Self {
        self.tickets = Some(TicketKey::of(key));
        self
    }

    /// Waits for the work that its callers have left, which has been told to stop.
    pub(crate) async fn settle(&self) {
        self.work.close();
        self.work.wait().await;
    }

    /// As [`add_with`](Self::add_with) the options that are the default.
    ///
    /// # Errors
    /// As [`add_with`](Self::add_with).
    #[cfg(test)]
    pub(crate) async fn add(
        &self,
        path: impl Into<PathBuf>,
        progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Added, ShareError> {
        self.add_with(path, ShareOptions::default(), progress).await
    }

    /// Shares the file or folder at `path`, in place of what was shared from there before, and as
    /// `options` say from now on.
    ///
    /// It is hashed first, on all cores; `progress` is called as that goes on, on another thread.
    /// Symbolic links in a folder are not followed. What can't be shared is told in the result.
    ///
    /// # Errors
    /// Where `path` itself can't be shared; nothing has changed then.
    pub(crate) async fn add_with(
        &self,
        path: impl Into<PathBuf>,
        options: ShareOptions,
        mut progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Added, ShareError> {
        let path = path.into();
        self.blocking(move |shares, stop| shares.add_now(&path, options, &mut progress, stop)).await
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
            let paths: Vec<PathBuf> = {
                let _changing = lock(&shares.changing);
                let known = shares.store.shares()?;
                let mut index = write(&shares.index);
                let paths = known.iter().map(|(path, _)| path.clone()).collect();
                for (path, KnownShare { shared, access }) in known {
                    index.want(path, shared, Terms { access, remember: true });
                }
                paths
            };
            shares.look_again(paths, &mut progress, stop)
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
            let paths: Vec<PathBuf> = read(&shares.index).wanted().cloned().collect();
            let mut report = shares.look_again(paths, &mut progress, stop)?;
            // What was not there at the start either may come back.
            report.removed.retain(|(_, before)| before.is_some());
            for (path, _) in &report.removed {
                shares.forget(path)?;
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
            let paths = read(&shares.index).added_as(&hash);
            let mut gone = Vec::new();
            for path in &paths {
                gone.extend(shares.forget(path)?);
            }
            shares.prune()?;
            Ok(gone)
        })
        .await
    }

    /// Stops sharing what was added at `path`, and nothing else; what that was.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub(crate) async fn remove_path(&self, path: &Path) -> Result<Option<SharedFile>, ShareError> {
        let path = path.to_owned();
        self.blocking(move |shares, _| {
            let gone = shares.forget(&path)?;
            shares.prune()?;
            Ok(gone)
        })
        .await
    }

    /// What is shared, as it was added: a folder is one. In the order of the paths.
    #[must_use]
    pub(crate) fn list(&self) -> Vec<SharedFile> {
        read(&self.index).tops().map(|top| top.shared.clone()).collect()
    }

    /// What is shared and from where.
    #[must_use]
    pub(crate) fn paths(&self) -> Vec<(PathBuf, SharedFile)> {
        read(&self.index).tops().map(|top| (top.path.clone(), top.shared.clone())).collect()
    }

    /// Who may have what is shared under `hash`.
    #[must_use]
    pub(crate) fn access(&self, hash: &Hash) -> Option<Access> {
        read(&self.index).access(hash).cloned()
    }

    /// Returns the name that `hash` is shared under, `name` if that is given, and who may have it.
    #[must_use]
    pub(crate) fn named(&self, hash: &Hash, name: Option<&FileName>) -> Option<(FileName, Access)> {
        read(&self.index).named(hash, name).map(|(name, access)| (name, access.clone()))
    }

    /// Returns files of the folder that was added at `path`.
    #[must_use]
    pub(crate) fn files_in(&self, path: &Path, skip: usize, limit: usize) -> Option<FolderPart> {
        let top = read(&self.index).top(path).cloned()?;
        top.part(skip, limit)
    }

    /// Returns at most `limit` shares, and files in shared folders, that `text` asks for, as
    /// [`Node::search`](crate::Node::search) has it. Shares come first. An empty text finds
    /// everything. Where nobody is known to ask, only what is open is found. Takes some
    /// milliseconds for 100,000 files.
    #[must_use]
    pub(crate) fn search(
        &self,
        text: &str,
        limit: usize,
        asker: Option<&Asker<'_>>,
    ) -> Vec<SharedFile> {
        self.search_in(text, limit, |top| index::may_have(&top.access, asker))
    }

    /// As [`search`](Self::search), for the owner of this node: everything is found.
    #[must_use]
    pub(crate) fn search_own(&self, text: &str, limit: usize) -> Vec<SharedFile> {
        self.search_in(text, limit, |_| true)
    }

    fn search_in(
        &self,
        text: &str,
        limit: usize,
        is_visible: impl Fn(&Top) -> bool,
    ) -> Vec<SharedFile> {
        let question = Question::new(text);
        let tops: Vec<Arc<Top>> = {
            let index = read(&self.index);
            index.tops().filter(|top| is_visible(top)).cloned().collect()
        };
        let shares = tops.iter().filter(|top| top.fits(&question)).map(|top| top.shared.clone());
        let inside = tops.iter().flat_map(|top| top.files(&question));
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

    /// Whether anything that `asker` may have has this hash: a share, a file in one, a folder.
    #[must_use]
    pub(crate) fn contains(&self, hash: &Hash, asker: &Asker<'_>) -> bool {
        read(&self.index).allows(hash, Some(asker))
    }

    /// What is served to `asker` under `hash`, without a look at the disk.
    #[must_use]
    pub(crate) fn describe(&self, hash: &Hash, asker: &Asker<'_>) -> Option<Description> {
        self.described(hash, Some(asker))
    }

    /// As [`describe`](Self::describe), for a query: where nobody is known to ask, only what is
    /// open is there.
    #[must_use]
    pub(crate) fn described(&self, hash: &Hash, asker: Option<&Asker<'_>>) -> Option<Description> {
        read(&self.index).find(hash, asker).first()?.describe()
    }

    /// Returns the content that is served to `asker` under `hash`: a share, or a file in a shared
    /// folder. Of several the one that is called `name`, if there is one.
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

    /// Returns what is served to `asker` under `hash`, or the `file` of this number in that folder, as
    /// something that turns out to be changed on disk.
    #[must_use]
    pub(crate) fn served(
        &self,
        hash: &Hash,
        file: Option<usize>,
        asker: &Asker<'_>,
    ) -> Option<ChangedShare> {
        let location = read(&self.index).find(hash, Some(asker)).into_iter().next()?;
        location.top.changed(location.item.or(file))
    }

    /// Returns what was served to `asker` under `hash` and was changed or removed since. Of a folder
    /// that is the file in it that is not what it was, if there is one.
    #[must_use]
    pub(crate) fn changed(&self, hash: &Hash, asker: &Asker<'_>) -> Option<ChangedShare> {
        read(&self.index).retired(hash, asker)
    }

    /// Opens what has this hash, for `asker`. Blocks on the disk.
    ///
    /// # Errors
    /// [`FileRefusal::NotFound`] where nothing that `asker` may have has it, [`FileRefusal::Changed`] where
    /// all that had it were changed or can't be read any more.
    pub(crate) fn open(&self, hash: &Hash, asker: &Asker<'_>) -> Result<OpenShare, FileRefusal> {
        let locations = read(&self.index).find(hash, Some(asker));
        if locations.is_empty() {
            return Err(FileRefusal::NotFound);
        }
        let opened = locations.iter().find_map(|location| {
            let size = location.describe()?.size;
            let list = match PieceList::single(hash, size) {
                Some(list) => list,
                None => self.known_list(hash, size)?,
            };
            OpenShare::at(location, list).filter(OpenShare::is_as_hashed)
        });
        opened.ok_or(FileRefusal::Changed)
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
        options: ShareOptions,
        progress: &mut dyn FnMut(Progress),
        stop: &CancellationToken,
    ) -> Result<Added, ShareError> {
        let _adding = read(&self.pruning);
        let real = resolve(path)?;
        self.look_after(&real);
        let scanned = Scanner { store: &self.store, progress, stop }.scan(real.clone());
        let scanned = scanned.inspect_err(|_| self.look_away(&real))?;
        let mut top = scanned.top;
        let _changing = lock(&self.changing);
        let before = read(&self.index).terms(&top.path).map(|terms| terms.access.clone());
        let again = self.tickets.as_ref().map(|tickets| tickets.secret_of(&top.shared.hash));
        let Terms { access, remember } = options.terms(before.as_ref(), again)?;
        if remember {
            let share = KnownShare { shared: top.shared.clone(), access: access.clone() };
            self.store.save_share(&top.path, &share)?;
        } else {
            self.store.forget_share(&top.path)?;
        }
        top.access = access.clone();
        let (shared, files) = (top.shared.clone(), top.items.len());
        write(&self.index).insert(top, remember);
        Ok(Added { shared, files, skipped: scanned.skipped, access })
    }

    fn look_again(
        &self,
        paths: impl IntoIterator<Item = PathBuf>,
        progress: &mut dyn FnMut(Progress),
        stop: &CancellationToken,
    ) -> Result<Refreshed, ShareError> {
        let mut report = Refreshed::default();
        for path in paths {
            match self.look_again_at(&path, &mut report, progress, stop) {
                Ok(()) => {}
                Err(error @ (ShareError::Store(_) | ShareError::Stopped)) => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "no longer shared");
                    let top = read(&self.index).top(&path).cloned();
                    let before = top.as_ref().map(|top| top.shared.clone());
                    let mut index = write(&self.index);
                    index.take_down(&path);
                    top.iter().for_each(|top| index.retire(top));
                    drop(index);
                    report.removed.push((path, before));
                }
            }
        }
        Ok(report)
    }

    /// Looks at what was added before, as long as it is wanted.
    fn look_again_at(
        &self,
        path: &Path,
        report: &mut Refreshed,
        progress: &mut dyn FnMut(Progress),
        stop: &CancellationToken,
    ) -> Result<(), ShareError> {
        let _adding = read(&self.pruning);
        self.look_after(path);
        let real = resolve(path)?;
        if real != path {
            // A link has taken its place, or that of a folder above: it could lead anywhere.
            return Err(ShareError::Special(path.to_owned()));
        }
        let scanned = Scanner { store: &self.store, progress, stop }.scan(real)?;
        let mut top = scanned.top;
        let _changing = lock(&self.changing);
        let Some(terms) = read(&self.index).terms(path).cloned() else {
            // Removed meanwhile.
            self.look_away(path);
            return Ok(());
        };
        let (last, old) = {
            let index = read(&self.index);
            (index.last(path).cloned(), index.top(path).cloned())
        };
        let before = old.as_ref().map(|top| top.shared.clone());
        if terms.remember && last.as_ref() != Some(&top.shared) {
            let share = KnownShare { shared: top.shared.clone(), access: terms.access.clone() };
            self.store.save_share(path, &share)?;
        }
        if let Some(before) = before.filter(|before| before.hash != top.shared.hash) {
            report.changed.push((before, top.shared.clone()));
        }
        report.skipped.extend(scanned.skipped);
        top.access = terms.access;
        let mut index = write(&self.index);
        index.insert(top, terms.remember);
        old.iter().for_each(|old| index.retire(old));
        Ok(())
    }

    /// Has `path` watched, before it is looked at: no change of it is missed then.
    fn look_after(&self, path: &Path) {
        if let Some(watching) = &self.watching {
            watching.add(path);
        }
    }

    /// Has `path` watched no more, unless it is wanted.
    fn look_away(&self, path: &Path) {
        if let Some(watching) = &self.watching
            && read(&self.index).terms(path).is_none()
        {
            watching.forget(path);
        }
    }

    /// Forgets what was added at `path`; what that was.
    fn forget(&self, path: &Path) -> Result<Option<SharedFile>, StoreError> {
        let _changing = lock(&self.changing);
        let gone = write(&self.index).remove(path);
        self.look_away(path);
        self.store.forget_share(path)?;
        Ok(gone)
    }

    /// Forgets what files hashed to that are in no share any more. While something is being added
    /// it is left for the next time.
    fn prune(&self) -> Result<(), StoreError> {
        let Ok(_alone) = self.pruning.try_write() else {
            return Ok(());
        };
        let shares = self.store.shares()?.into_iter();
        let mut kept: HashSet<PathBuf> = shares.map(|(path, _)| path).collect();
        kept.extend(read(&self.index).wanted().cloned());
        let keep_file = |path: &Path| path.ancestors().any(|above| kept.contains(above));
        self.store.prune(keep_file, |hash| read(&self.index).has(hash))
    }

    /// Runs `work` off the async threads. Where the caller goes away the work is told to stop.
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

/// Where `path` is, without links: as people write it, also on Windows.
fn resolve(path: &Path) -> Result<PathBuf, ShareError> {
    // An open pipe, such as the shell's `<(command)`, has no name that could be resolved.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return Err(ShareError::Special(path.to_owned()));
    }
    dunce::canonicalize(path).map_err(|error| ShareError::Io { path: path.to_owned(), error })
}
