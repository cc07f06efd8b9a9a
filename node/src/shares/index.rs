//! What is shared, by hash and by name, and who may have it.

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

use super::names::Names;
use super::question::Question;
use super::report::{FolderFile, FolderPart};
use super::sharing::Terms;
use crate::disk::fingerprint::Fingerprint;
use crate::disk::space;

/// From this size on it matters whether a file has holes. 64 MiB.
const LARGE: u64 = 64 << 20;

/// Copies of the same content that are tried before it is told to have been changed.
const COPIES: usize = 16;

/// Hashes of changed or removed files that are remembered, so that those who ask for them are told
/// so: those that changed last.
const RETIRED: usize = 1024;

/// Changed files that are remembered of a changed folder: one of them is reported in its place.
const CAUSES: usize = 16;

/// What the user wants to be shared, and of that what is served.
#[derive(Debug, Default)]
pub(super) struct Index {
    wanted: BTreeMap<PathBuf, Wanted>,
    served: HashMap<u32, Arc<Top>>,
    /// The places of each content, of most of it one.
    by_hash: HashMap<Hash, SmallVec<[Place; 1]>>,
    next: u32,
    retired: VecDeque<Retired>,
}

/// A content that is not served under its hash any more because it was changed or removed on disk.
#[derive(Debug)]
struct Retired {
    changed: ChangedShare,
    /// Files of a folder that were not in it any more when it was looked at again.
    files: Vec<ChangedShare>,
    access: Access,
}

/// A file or folder that can't be served because it was changed or removed on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChangedShare {
    /// Its own hash, also of a file in a shared folder.
    pub(crate) hash: Hash,
    /// Its name; of a file in a shared folder the path, from the folder's name on.
    pub(crate) name: String,
    /// The hash of the shared folder that the file is in.
    pub(crate) folder: Option<Hash>,
}

/// A path that the user has added.
#[derive(Debug)]
struct Wanted {
    /// What was there last.
    shared: SharedFile,
    terms: Terms,
    /// Its number among those that are served, if it is: it may be gone from disk.
    served: Option<u32>,
}

/// A file or folder that was added, as it was found on disk.
#[derive(Debug)]
pub(super) struct Top {
    pub(super) path: PathBuf,
    pub(super) shared: SharedFile,
    pub(super) access: Access,
    /// The canonical bytes, of a folder.
    pub(super) manifest: Option<Bytes>,
    /// The files of a folder, sorted; or the file itself.
    pub(super) items: Vec<Item>,
    /// The paths of the items in their folder; none where the share is the file itself.
    pub(super) paths: Names,
    /// The same, [folded]: what a search looks at.
    pub(super) lower: Names,
}

/// A file of a share. 100,000 of them are nothing special, so its names are elsewhere.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) hash: Hash,
    pub(super) stamp: Fingerprint,
}

/// In a file of a share, or (`None`) its manifest.
#[derive(Debug, Clone, Copy)]
struct Place {
    served: u32,
    item: Option<u32>,
}

/// Content that somebody may have.
#[derive(Debug, Clone)]
pub(super) struct Location {
    pub(super) top: Arc<Top>,
    /// `None` is the manifest.
    pub(super) item: Option<usize>,
}

impl Index {
    /// The shares that are served, in the order of their paths.
    pub(super) fn tops(&self) -> impl Iterator<Item = &Arc<Top>> {
        self.wanted.values().filter_map(|wanted| self.served.get(&wanted.served?))
    }

    pub(super) fn top(&self, path: &Path) -> Option<&Arc<Top>> {
        self.served.get(&self.wanted.get(path)?.served?)
    }

    /// What the user has added, served or not.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &PathBuf> {
        self.wanted.keys()
    }

    /// What the user has added and is not served.
    pub(super) fn missing(&self) -> impl Iterator<Item = &PathBuf> {
        let missing = self.wanted.iter().filter(|(_, wanted)| wanted.served.is_none());
        missing.map(|(path, _)| path)
    }

    pub(super) fn terms(&self, path: &Path) -> Option<&Terms> {
        self.wanted.get(path).map(|wanted| &wanted.terms)
    }

    /// What was at a path when it was last looked at.
    pub(super) fn last(&self, path: &Path) -> Option<&SharedFile> {
        self.wanted.get(path).map(|wanted| &wanted.shared)
    }

    /// The paths where something of this hash was added.
    pub(super) fn added_as(&self, hash: &Hash) -> Vec<PathBuf> {
        let with = self.wanted.iter().filter(|(_, wanted)| wanted.shared.hash == *hash);
        with.map(|(path, _)| path.clone()).collect()
    }

    /// Whether a hash is served to anybody.
    pub(super) fn has(&self, hash: &Hash) -> bool {
        self.by_hash.contains_key(hash)
    }

    /// Notes what is to be shared once it was looked at, unless that is known already.
    pub(super) fn want(&mut self, path: PathBuf, shared: SharedFile, terms: Terms) {
        self.wanted.entry(path).or_insert(Wanted { shared, terms, served: None });
    }

    /// Serves `top` from now on, in place of what was served from its path before. It keeps the place
    /// of that among the shares of equal content, of which the first gives the name.
    pub(super) fn insert(&mut self, top: Top, remember: bool) {
        let before = self.take_down(&top.path);
        let served = before.unwrap_or_else(|| self.unused_number());
        self.by_hash.reserve(top.items.len());
        for (at, item) in (0u32..).zip(&top.items) {
            self.by_hash.entry(item.hash).or_default().push(Place { served, item: Some(at) });
        }
        if top.manifest.is_some() {
            self.by_hash.entry(top.shared.hash).or_default().push(Place { served, item: None });
        }
        if before.is_some() {
            for hash in hashes(&top) {
                if let Some(places) = self.by_hash.get_mut(&hash) {
                    places.sort_by_key(|place| place.served);
                }
            }
        }
        let (path, shared) = (top.path.clone(), top.shared.clone());
        let terms = Terms { access: top.access.clone(), remember };
        self.wanted.insert(path, Wanted { shared, terms, served: Some(served) });
        self.served.insert(served, Arc::new(top));
    }

    /// Serves nothing from `path` until that is looked at again. Returns the number that it was served
    /// under.
    pub(super) fn take_down(&mut self, path: &Path) -> Option<u32> {
        let served = self.wanted.get_mut(path)?.served.take()?;
        let top = self.served.remove(&served)?;
        for hash in hashes(&top) {
            if let Entry::Occupied(mut places) = self.by_hash.entry(hash) {
                places.get_mut().retain(|place| place.served != served);
                if places.get().is_empty() {
                    places.remove();
                }
            }
        }
        if self.by_hash.len() < self.by_hash.capacity() / 4 {
            self.by_hash.shrink_to_fit();
        }
        Some(served)
    }

    /// Remembers what of `top`, which is served no more, is not served from elsewhere.
    pub(super) fn retire(&mut self, top: &Top) {
        let is_gone = |hash: &Hash| !self.by_hash.contains_key(hash);
        let items = || (0..top.items.len()).filter_map(|at| top.changed(Some(at)));
        let mut gone: Vec<_> =
            items().filter(|changed| is_gone(&changed.hash)).take(RETIRED).collect();
        if let (Some(whole), true) = (top.changed(None), top.manifest.is_some())
            && is_gone(&whole.hash)
        {
            // Others may still be served from elsewhere now, and be found to be changed later.
            let is_elsewhere =
                |hash: &Hash| !self.places(hash).any(|(other, _)| other.path == top.path);
            let files = items().filter(|file| is_elsewhere(&file.hash)).take(CAUSES).collect();
            self.remember_retired(whole, files, &top.access);
            gone.truncate(RETIRED - 1);
        }
        for changed in gone {
            self.remember_retired(changed, Vec::new(), &top.access);
        }
    }

    fn remember_retired(
        &mut self,
        changed: ChangedShare,
        files: Vec<ChangedShare>,
        access: &Access,
    ) {
        self.retired.retain(|retired| retired.changed.hash != changed.hash);
        if self.retired.len() >= RETIRED {
            self.retired.pop_front();
        }
        self.retired.push_back(Retired { changed, files, access: access.clone() });
    }

    /// Returns what was served to `asker` under `hash` and was changed or removed since. Of a folder
    /// that is the file in it that is not what it was, if there is one.
    pub(super) fn retired(&self, hash: &Hash, asker: &Asker<'_>) -> Option<ChangedShare> {
        let mut retired = self.retired.iter();
        let found = retired.find(|retired| retired.changed.hash == *hash)?;
        if !found.access.allows(asker) {
            return None;
        }
        let gone = found.files.iter().find(|file| !self.by_hash.contains_key(&file.hash));
        Some(gone.unwrap_or(&found.changed).clone())
    }

    /// Forgets a path that was added; what was there last.
    pub(super) fn remove(&mut self, path: &Path) -> Option<SharedFile> {
        self.take_down(path);
        self.wanted.remove(path).map(|wanted| wanted.shared)
    }

    /// Whether `asker` may have this hash.
    pub(super) fn allows(&self, hash: &Hash, asker: Option<&Asker<'_>>) -> bool {
        self.places(hash).any(|(top, _)| may_have(&top.access, asker))
    }

    /// Where `asker` may have a hash from: first where everyone may, and not all of very many.
    pub(super) fn find(&self, hash: &Hash, asker: Option<&Asker<'_>>) -> Vec<Location> {
        self.open_first(hash)
            .filter(|(top, _)| may_have(&top.access, asker))
            .map(|(top, item)| Location { top: Arc::clone(top), item })
            .take(COPIES)
            .collect()
    }

    /// Returns the content with this hash that is called `name`, if `asker` may have it.
    pub(super) fn find_called(
        &self,
        hash: &Hash,
        name: &FileName,
        asker: &Asker<'_>,
    ) -> Option<SharedFile> {
        let mut places = self.places(hash).filter(|(top, _)| top.access.allows(asker));
        places.find_map(|(top, item)| {
            let file = Location { top: Arc::clone(top), item }.file()?;
            (file.name == *name).then_some(file)
        })
    }

    /// The name and the access of what is shared under `hash`, and is called `name` if that is given:
    /// of what is open, if anything is.
    pub(super) fn named(
        &self,
        hash: &Hash,
        name: Option<&FileName>,
    ) -> Option<(FileName, &Access)> {
        self.open_first(hash).find_map(|(top, item)| {
            let own = item.map_or_else(|| Some(top.shared.name.clone()), |at| top.name(at))?;
            Some((own, &top.access)).filter(|(own, _)| name.is_none_or(|name| own == name))
        })
    }

    /// How a hash is shared: openly if it is anywhere, else as it is first.
    pub(super) fn access(&self, hash: &Hash) -> Option<&Access> {
        self.open_first(hash).next().map(|(top, _)| &top.access)
    }

    /// Returns where a hash is served from: first where everyone may have it.
    fn open_first(&self, hash: &Hash) -> impl Iterator<Item = (&Arc<Top>, Option<usize>)> {
        let is_open = |(top, _): &(&Arc<Top>, Option<usize>)| top.access == Access::Open;
        let closed = self.places(hash).filter(move |place| !is_open(place));
        self.places(hash).filter(is_open).chain(closed)
    }

    fn places(&self, hash: &Hash) -> impl Iterator<Item = (&Arc<Top>, Option<usize>)> {
        self.by_hash.get(hash).into_iter().flatten().filter_map(|place| {
            Some((self.served.get(&place.served)?, place.item.map(|at| at as usize)))
        })
    }

    /// Returns a number that no share has; larger ones are of later shares.
    fn unused_number(&mut self) -> u32 {
        while self.served.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let unused = self.next;
        self.next = self.next.wrapping_add(1);
        unused
    }
}

/// Returns the hashes of all content of `top`, each once: the same content may be there very often.
fn hashes(top: &Top) -> Vec<Hash> {
    let mut hashes: Vec<Hash> = top.items.iter().map(|item| item.hash).collect();
    hashes.push(top.shared.hash);
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

/// Whether `asker` may have what has this access. Who is not known may have what is open.
pub(super) fn may_have(access: &Access, asker: Option<&Asker<'_>>) -> bool {
    match asker {
        Some(asker) => access.allows(asker),
        None => *access == Access::Open,
    }
}

impl Top {
    /// Whether the share itself fits.
    pub(super) fn fits(&self, question: &Question) -> bool {
        question.fits(&folded(self.shared.name.as_str()))
    }

    /// Some of the files in it; `None` if it is a file itself.
    pub(super) fn part(&self, skip: usize, limit: usize) -> Option<FolderPart> {
        self.manifest.as_ref()?;
        let files = (0..self.items.len()).skip(skip).take(limit).filter_map(|at| {
            Some(FolderFile { path: RelPath::new(self.paths.get(at)?).ok()?, file: self.file(at)? })
        });
        Some(FolderPart { total: self.items.len(), files: files.collect() })
    }

    /// The files in it that fit; none where it is a file.
    pub(super) fn files<'a>(
        &'a self,
        question: &'a Question,
    ) -> impl Iterator<Item = SharedFile> + 'a {
        self.lower
            .containing(question.part())
            .filter(|at| self.lower.get(*at).is_some_and(|path| question.fits(path)))
            .filter_map(|at| self.file(at))
    }

    /// Returns one of its files.
    fn file(&self, at: usize) -> Option<SharedFile> {
        let Item { hash, stamp } = self.items.get(at)?;
        Some(SharedFile {
            hash: *hash,
            name: self.name(at)?,
            size: stamp.size,
            kind: FileKind::File,
        })
    }

    /// Returns the file of this number, or all of it, as something that was changed on disk.
    pub(super) fn changed(&self, item: Option<usize>) -> Option<ChangedShare> {
        let SharedFile { hash: top, name, .. } = &self.shared;
        let Some(at) = item.filter(|_| self.manifest.is_some()) else {
            return Some(ChangedShare { hash: *top, name: name.to_string(), folder: None });
        };
        let name = format!("{name}/{}", self.paths.get(at)?);
        Some(ChangedShare { hash: self.items.get(at)?.hash, name, folder: Some(*top) })
    }

    /// The name of one of its files.
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
            Some(path) => Some(RelPath::new(path).ok()?.under(&self.path)),
        }
    }
}

impl Location {
    pub(super) fn file(&self) -> Option<SharedFile> {
        match self.item {
            None => Some(self.top.shared.clone()),
            Some(at) => self.top.file(at),
        }
    }

    pub(super) fn describe(&self) -> Option<Description> {
        let SharedFile { name, kind, size, .. } = self.file()?;
        let (size, stored) = if let Some(at) = self.item {
            (size, self.stored(at, size))
        } else {
            // Of a folder it is the manifest that is served.
            let len = self.top.manifest.as_ref()?.len() as u64;
            (len, len)
        };
        let access = self.top.access.kind();
        Some(Description { kind, access, whole: true, size, stored, name })
    }

    /// Bytes that a file takes on disk. Only of large ones it is worth a look.
    fn stored(&self, at: usize, size: u64) -> u64 {
        if size < LARGE {
            return size;
        }
        let found = self.top.path_of(at).and_then(|path| fs::symlink_metadata(path).ok());
        found.map_or(size, |found| space::taken(&found))
    }
}
