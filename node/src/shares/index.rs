//! The index of shares: by path, by hash and by name, with the access of each.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use peerkit_proto::files::{
    Access, Asker, Description, FileKind, FileName, RelPath, SharedFile, folded,
};
use peerkit_proto::id::Hash;
use smallvec::SmallVec;

use super::name_list::NameList;
use super::results::{FolderFile, FolderPart};
use super::search::SearchQuery;
use super::sharing::Terms;
use crate::disk::fingerprint::Fingerprint;
use crate::disk::space;

/// Minimum size of a file whose space on disk is looked up, because the file may have holes. 64 MiB.
const LARGE: u64 = 64 << 20;

/// Maximum number of copies of the same content that are tried before it is reported as changed.
const MAX_COPIES: usize = 16;

/// Maximum number of hashes of changed or removed files that are remembered. The oldest is dropped first.
/// Nodes that request them learn that the content was changed.
const MAX_RETIRED: usize = 1024;

/// Maximum number of changed files that are remembered of a changed folder. One of them is reported in place
/// of the folder.
const MAX_CAUSES: usize = 16;

/// The paths that the user has added, and the shares found there.
#[derive(Debug, Default)]
pub(super) struct Index {
    added: BTreeMap<PathBuf, AddedPath>,
    /// The shares that were found, by their numbers.
    served: HashMap<u32, Arc<Share>>,
    /// The positions of each content. Most content has one.
    by_hash: HashMap<Hash, SmallVec<[Position; 1]>>,
    /// The number that is tried first for the next share.
    next: u32,
    retired: VecDeque<RetiredShare>,
}

/// Content that is no longer served under its hash because it was changed or removed on disk.
#[derive(Debug)]
struct RetiredShare {
    /// The path of its share.
    path: PathBuf,
    changed: ChangedShare,
    /// Files of a folder that the last scan did not find in it any more.
    files: Vec<ChangedShare>,
    access: Access,
}

/// A file or folder that can't be served because it was changed or removed on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChangedShare {
    /// The hash of the file or folder itself.
    pub(crate) hash: Hash,
    /// The name. For a file in a shared folder it is a path that begins with the folder's name.
    pub(crate) name: String,
    /// The hash of the shared folder, if it is a file in one.
    pub(crate) folder: Option<Hash>,
}

/// A path that the user has added.
#[derive(Debug)]
struct AddedPath {
    /// The file or folder that the last scan found there.
    shared: SharedFile,
    terms: Terms,
    /// The number of its share in `served`. `None` if it is gone from disk.
    served: Option<u32>,
}

/// A shared file or folder, as it was found on disk.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) path: PathBuf,
    pub(super) shared: SharedFile,
    pub(super) access: Access,
    /// The bytes of a folder's manifest.
    pub(super) manifest: Option<Bytes>,
    /// The files of a folder, in the order of their paths, or the file itself.
    pub(super) items: Vec<ShareFile>,
    /// The paths of the files in their folder. Empty if the share is a file.
    pub(super) paths: NameList,
    /// The same paths, [folded], for searches.
    pub(super) lower: NameList,
}

/// A file of a share. Its path is in the [`NameList`]s of the share, which saves memory: shares of 100,000
/// files are common.
#[derive(Debug)]
pub(super) struct ShareFile {
    pub(super) hash: Hash,
    pub(super) fingerprint: Fingerprint,
}

/// A position at which content is: a file of a share, or its manifest if `item` is `None`.
#[derive(Debug, Clone, Copy)]
struct Position {
    served: u32,
    item: Option<u32>,
}

/// A copy of some content in a share.
#[derive(Debug, Clone)]
pub(super) struct Location {
    pub(super) share: Arc<Share>,
    /// The number of the file; `None` is the manifest.
    pub(super) item: Option<usize>,
}

impl Index {
    /// Returns the shares in the order of their paths.
    pub(super) fn shares(&self) -> impl Iterator<Item = &Arc<Share>> {
        self.added.values().filter_map(|added| self.served.get(&added.served?))
    }

    pub(super) fn share(&self, path: &Path) -> Option<&Arc<Share>> {
        self.served.get(&self.added.get(path)?.served?)
    }

    /// Returns the paths that the user has added.
    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.added.keys()
    }

    /// Returns the paths that the user has added and at which nothing is found.
    pub(super) fn missing(&self) -> impl Iterator<Item = &PathBuf> {
        let missing = self.added.iter().filter(|(_, added)| added.served.is_none());
        missing.map(|(path, _)| path)
    }

    pub(super) fn terms(&self, path: &Path) -> Option<&Terms> {
        self.added.get(path).map(|added| &added.terms)
    }

    /// Returns the file or folder that the last scan found at a path.
    pub(super) fn last_found(&self, path: &Path) -> Option<&SharedFile> {
        self.added.get(path).map(|added| &added.shared)
    }

    /// Returns the paths of shares with this hash.
    pub(super) fn paths_with(&self, hash: &Hash) -> Vec<PathBuf> {
        let with = self.added.iter().filter(|(_, added)| added.shared.hash == *hash);
        with.map(|(path, _)| path.clone()).collect()
    }

    /// Returns whether any content has this hash.
    pub(super) fn has(&self, hash: &Hash) -> bool {
        self.by_hash.contains_key(hash)
    }

    /// Returns whether content with this hash is, or was until it changed, in the share at `path`.
    pub(super) fn has_at(&self, path: &Path, hash: &Hash) -> bool {
        let was_there = |retired: &RetiredShare| {
            retired.path == path
                && std::iter::once(&retired.changed)
                    .chain(&retired.files)
                    .any(|changed| changed.hash == *hash)
        };
        self.positions(hash).any(|(share, _)| share.path == path)
            || self.retired.iter().any(was_there)
    }

    /// Adds a path that is shared once it is scanned, unless it is known already.
    pub(super) fn add_path(&mut self, path: PathBuf, shared: SharedFile, terms: Terms) {
        self.added.entry(path).or_insert(AddedPath { shared, terms, served: None });
    }

    /// Adds a share, in place of an earlier one with the same path. It keeps the number of that share: of
    /// shares with equal content, the one with the smallest number gives the name.
    pub(super) fn insert(&mut self, share: Share, remember: bool) {
        // With the same number, nodes that fetch the content keep getting the same name for it.
        let before = self.withdraw(&share.path);
        let served = before.unwrap_or_else(|| self.unused_number());
        // One allocation for a folder of a million files, and not one for each doubling.
        self.by_hash.reserve(share.items.len());
        for (at, item) in (0u32..).zip(&share.items) {
            self.by_hash.entry(item.hash).or_default().push(Position { served, item: Some(at) });
        }
        if share.manifest.is_some() {
            self.by_hash
                .entry(share.shared.hash)
                .or_default()
                .push(Position { served, item: None });
        }
        // The positions were just appended, but the look-ups prefer the first one of a hash.
        if before.is_some() {
            for hash in hashes(&share) {
                if let Some(positions) = self.by_hash.get_mut(&hash) {
                    positions.sort_by_key(|position| position.served);
                }
            }
        }
        let (path, shared) = (share.path.clone(), share.shared.clone());
        let terms = Terms { access: share.access.clone(), remember };
        self.added.insert(path, AddedPath { shared, terms, served: Some(served) });
        self.served.insert(served, Arc::new(share));
    }

    /// Stops serving the share at `path` until the next scan. Returns the number that it had.
    pub(super) fn withdraw(&mut self, path: &Path) -> Option<u32> {
        let served = self.added.get_mut(path)?.served.take()?;
        let share = self.served.remove(&served)?;
        for hash in hashes(&share) {
            if let Entry::Occupied(mut positions) = self.by_hash.entry(hash) {
                positions.get_mut().retain(|position| position.served != served);
                if positions.get().is_empty() {
                    positions.remove();
                }
            }
        }
        // Memory of a large share that is gone is given back.
        if self.by_hash.len() < self.by_hash.capacity() / 4 {
            self.by_hash.shrink_to_fit();
        }
        Some(served)
    }

    /// Remembers the content of a removed share that no other share has.
    pub(super) fn retire(&mut self, share: &Share) {
        let is_gone = |hash: &Hash| !self.by_hash.contains_key(hash);
        let items = || (0..share.items.len()).filter_map(|at| share.changed(Some(at)));
        let mut gone: Vec<_> =
            items().filter(|changed| is_gone(&changed.hash)).take(MAX_RETIRED).collect();
        if let (Some(whole), true) = (share.changed(None), share.manifest.is_some())
            && is_gone(&whole.hash)
        {
            // Files that the new scan of this path did not find. Those that another share has are remembered
            // too, because the other share may lose them later.
            let has_left =
                |hash: &Hash| !self.positions(hash).any(|(other, _)| other.path == share.path);
            let files = items().filter(|file| has_left(&file.hash)).take(MAX_CAUSES).collect();
            self.remember_retired(whole, files, share);
            // The folder itself needs an entry too.
            gone.truncate(MAX_RETIRED - 1);
        }
        for changed in gone {
            self.remember_retired(changed, Vec::new(), share);
        }
    }

    fn remember_retired(&mut self, changed: ChangedShare, files: Vec<ChangedShare>, share: &Share) {
        self.retired.retain(|retired| retired.changed.hash != changed.hash);
        if self.retired.len() >= MAX_RETIRED {
            self.retired.pop_front();
        }
        let (path, access) = (share.path.clone(), share.access.clone());
        self.retired.push_back(RetiredShare { path, changed, files, access });
    }

    /// Returns the content that was served to `asker` under `hash` until it was changed or removed. For a
    /// folder this is the changed file in it, if that is known.
    pub(super) fn retired(&self, hash: &Hash, asker: &Asker<'_>) -> Option<ChangedShare> {
        let mut retired = self.retired.iter();
        let found = retired.find(|retired| retired.changed.hash == *hash)?;
        if !found.access.allows(asker) {
            return None;
        }
        // A file that is served from another share is not the cause.
        let gone = found.files.iter().find(|file| !self.by_hash.contains_key(&file.hash));
        Some(gone.unwrap_or(&found.changed).clone())
    }

    /// Removes a path that was added. Returns what the last scan found there.
    pub(super) fn remove(&mut self, path: &Path) -> Option<SharedFile> {
        self.withdraw(path);
        self.added.remove(path).map(|added| added.shared)
    }

    /// Returns whether `asker` may have content with this hash.
    pub(super) fn allows(&self, hash: &Hash, asker: Option<&Asker<'_>>) -> bool {
        self.positions(hash).any(|(share, _)| may_have(&share.access, asker))
    }

    /// Returns the copies of a content that `asker` may have: open shares first, at most [`MAX_COPIES`].
    pub(super) fn find(&self, hash: &Hash, asker: Option<&Asker<'_>>) -> Vec<Location> {
        self.open_first(hash)
            .filter(|(share, _)| may_have(&share.access, asker))
            .map(|(share, item)| Location { share: Arc::clone(share), item })
            .take(MAX_COPIES)
            .collect()
    }

    /// Returns the content with this hash that is called `name`, if `asker` may have it.
    pub(super) fn find_called(
        &self,
        hash: &Hash,
        name: &FileName,
        asker: &Asker<'_>,
    ) -> Option<SharedFile> {
        let mut positions = self.positions(hash).filter(|(share, _)| share.access.allows(asker));
        positions.find_map(|(share, item)| {
            let file = Location { share: Arc::clone(share), item }.file()?;
            (file.name == *name).then_some(file)
        })
    }

    /// Returns the name and the access of the content with this hash, and with this name if one is given.
    /// Prefers open shares.
    pub(super) fn named(
        &self,
        hash: &Hash,
        name: Option<&FileName>,
    ) -> Option<(FileName, &Access)> {
        self.open_first(hash).find_map(|(share, item)| {
            let own = item.map_or_else(|| Some(share.shared.name.clone()), |at| share.name(at))?;
            Some((own, &share.access)).filter(|(own, _)| name.is_none_or(|name| own == name))
        })
    }

    /// Returns the access of the content with this hash. If any share with this content is open, that is
    /// [`Access::Open`]. Otherwise it is the access of the first share.
    pub(super) fn access(&self, hash: &Hash) -> Option<&Access> {
        self.open_first(hash).next().map(|(share, _)| &share.access)
    }

    /// Returns all copies of a content, those in open shares first.
    fn open_first(&self, hash: &Hash) -> impl Iterator<Item = (&Arc<Share>, Option<usize>)> {
        let is_open = |(share, _): &(&Arc<Share>, Option<usize>)| share.access == Access::Open;
        let closed = self.positions(hash).filter(move |position| !is_open(position));
        self.positions(hash).filter(is_open).chain(closed)
    }

    fn positions(&self, hash: &Hash) -> impl Iterator<Item = (&Arc<Share>, Option<usize>)> {
        self.by_hash.get(hash).into_iter().flatten().filter_map(|position| {
            Some((self.served.get(&position.served)?, position.item.map(|at| at as usize)))
        })
    }

    /// Returns a number that no share has. Later shares have larger numbers, until the numbers wrap around.
    fn unused_number(&mut self) -> u32 {
        // After the numbers have wrapped around, a share may still have the next one.
        while self.served.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let unused = self.next;
        self.next = self.next.wrapping_add(1);
        unused
    }
}

/// Returns the hashes of all content of a share, each once: the same content may be in it many times.
fn hashes(share: &Share) -> Vec<Hash> {
    let mut hashes: Vec<Hash> = share.items.iter().map(|item| item.hash).collect();
    hashes.push(share.shared.hash);
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

/// Returns whether `asker` may have content with this access. Without an asker it has to be open.
pub(super) fn may_have(access: &Access, asker: Option<&Asker<'_>>) -> bool {
    match asker {
        Some(asker) => access.allows(asker),
        None => *access == Access::Open,
    }
}

impl Share {
    /// Returns whether the name of the share itself matches.
    pub(super) fn matches(&self, query: &SearchQuery) -> bool {
        query.matches(&folded(self.shared.name.as_str()))
    }

    /// Returns some of the files of a folder; `None` if the share is a file.
    pub(super) fn part(&self, skip: usize, limit: usize) -> Option<FolderPart> {
        self.manifest.as_ref()?;
        let files = (0..self.items.len()).skip(skip).take(limit).filter_map(|at| {
            Some(FolderFile { path: RelPath::new(self.paths.get(at)?).ok()?, file: self.file(at)? })
        });
        Some(FolderPart { total: self.items.len(), files: files.collect() })
    }

    /// Returns the files of a folder that match.
    pub(super) fn files<'a>(
        &'a self,
        query: &'a SearchQuery,
    ) -> impl Iterator<Item = SharedFile> + 'a {
        self.lower
            .containing(query.required())
            .filter(|at| self.lower.get(*at).is_some_and(|path| query.matches(path)))
            .filter_map(|at| self.file(at))
    }

    /// Returns one of its files.
    fn file(&self, at: usize) -> Option<SharedFile> {
        let ShareFile { hash, fingerprint } = self.items.get(at)?;
        Some(SharedFile {
            hash: *hash,
            name: self.name(at)?,
            size: fingerprint.size,
            kind: FileKind::File,
        })
    }

    /// Returns the file of this number, or the whole share, as content that was changed on disk.
    pub(super) fn changed(&self, item: Option<usize>) -> Option<ChangedShare> {
        let SharedFile { hash: whole, name, .. } = &self.shared;
        let Some(at) = item.filter(|_| self.manifest.is_some()) else {
            return Some(ChangedShare { hash: *whole, name: name.to_string(), folder: None });
        };
        let name = format!("{name}/{}", self.paths.get(at)?);
        Some(ChangedShare { hash: self.items.get(at)?.hash, name, folder: Some(*whole) })
    }

    /// Returns the name of one of its files.
    fn name(&self, at: usize) -> Option<FileName> {
        match self.paths.get(at) {
            None => Some(self.shared.name.clone()),
            Some(path) => FileName::new(path.rsplit('/').next()?).ok(),
        }
    }

    /// Returns the path of one of its files.
    pub(super) fn path_of(&self, at: usize) -> Option<PathBuf> {
        match self.paths.get(at) {
            None => Some(self.path.clone()),
            Some(path) => Some(RelPath::new(path).ok()?.join_to(&self.path)),
        }
    }
}

impl Location {
    pub(super) fn file(&self) -> Option<SharedFile> {
        match self.item {
            None => Some(self.share.shared.clone()),
            Some(at) => self.share.file(at),
        }
    }

    pub(super) fn describe(&self) -> Option<Description> {
        let SharedFile { name, kind, size, .. } = self.file()?;
        let (size, stored) = if let Some(at) = self.item {
            (size, self.stored(at, size))
        } else {
            // For a folder, its manifest is served.
            let len = self.share.manifest.as_ref()?.len() as u64;
            (len, len)
        };
        let access = self.share.access.kind();
        Some(Description { kind, access, whole: true, size, stored, name })
    }

    /// Returns the bytes that a file takes on disk. Only large files are looked up on the disk.
    fn stored(&self, at: usize, size: u64) -> u64 {
        if size < LARGE {
            return size;
        }
        let found = self.share.path_of(at).and_then(|path| fs::symlink_metadata(path).ok());
        found.map_or(size, |found| space::bytes_on_disk(&found))
    }
}
