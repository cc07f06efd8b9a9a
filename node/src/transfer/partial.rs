//! Fetches under way: what they have is served while the rest is still coming in.
//!
//! For the fetching side:
//!
//! ```text
//! Partial::new(hash, Description, Access, Arc<Layout>) -> Result<Partial, PieceError>
//! Partials::enter(Partial) -> PartialGuard     from here on it is served; until the guard is dropped
//! PartialGuard::partial() -> &Arc<Partial>
//! Partial::set_file(Arc<File>)                 what pieces of a file are read from
//! Partial::set_folder(PathBuf, Arc<Manifest>, Arc<DiskNames>)
//!                                              the same for a folder; encodes and hashes the
//!                                              manifest, so not on an async thread where it is large
//! Partial::moved(PathBuf)                      the folder is elsewhere now
//! Partial::add_list(Hash, Arc<PieceList>)      its own list, and those of a folder's files
//! Partial::add(Range<u64>)                     pieces that are verified and written, as the layout
//!                                              numbers them; followers hear of them
//! ```
//!
//! Before the guard of a fetch that is done is dropped the result should be shared, if it is to be:
//! whoever follows is then told that all is there.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use peerkit_proto::files::{
    Access, Asker, Description, DiskNames, Entry, Layout, Manifest, PieceError, PieceList,
    PieceSet, Place, Refusal, SharedFile,
};
use peerkit_proto::id::Hash;
use tokio::sync::watch;

use crate::disk::read_exact_at;
use crate::lock::lock;

/// The fetches that a node has under way. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Partials(Arc<Mutex<HashMap<Hash, Vec<Arc<Partial>>>>>);

/// A fetch that is served for as long as this is held.
#[derive(Debug)]
pub(crate) struct PartialGuard {
    partials: Partials,
    partial: Arc<Partial>,
}

/// One fetch under way.
#[derive(Debug)]
pub(crate) struct Partial {
    /// What is fetched.
    pub(crate) hash: Hash,
    /// What others are told of it.
    pub(crate) description: Description,
    /// Who may have it.
    pub(crate) access: Access,
    /// How its pieces are numbered.
    pub(crate) layout: Arc<Layout>,
    held: Mutex<Held>,
    content: Mutex<Option<Content>>,
    lists: Mutex<HashMap<Hash, Arc<PieceList>>>,
    /// Changes whenever there are more pieces, and at the end.
    news: watch::Sender<()>,
    /// Somebody else may change it: what is read is checked.
    checked: AtomicBool,
    /// No longer served.
    ended: AtomicBool,
}

#[derive(Debug)]
struct Held {
    pieces: PieceSet,
    /// The pieces in the order in which they came.
    added: Vec<Range<u64>>,
}

/// What pieces are read from.
#[derive(Debug, Clone)]
enum Content {
    File(Arc<File>),
    Folder(Arc<Folder>),
}

#[derive(Debug, Clone)]
struct Folder {
    path: PathBuf,
    manifest: Arc<Manifest>,
    /// The names of its entries on the disk.
    names: Arc<DiskNames>,
    /// The manifest's canonical bytes.
    bytes: Bytes,
    /// Which entries of the manifest are files.
    files: Vec<usize>,
}

impl Partials {
    /// Serves `partial` from now on.
    pub(crate) fn enter(&self, partial: Partial) -> PartialGuard {
        let partial = Arc::new(partial);
        lock(&self.0).entry(partial.hash).or_default().push(Arc::clone(&partial));
        PartialGuard { partials: self.clone(), partial }
    }

    /// A fetch of `hash` that `asker` may have.
    pub(crate) fn get(&self, hash: &Hash, asker: &Asker<'_>) -> Option<Arc<Partial>> {
        let partials = lock(&self.0);
        let mut fetches = partials.get(hash)?.iter();
        fetches.find(|partial| partial.access.allows(asker)).cloned()
    }

    /// A fetch of `hash`, of which something is here, as a query finds it: where nobody is known to
    /// ask, only what is open is there.
    pub(crate) fn found(&self, hash: &Hash, asker: Option<&Asker<'_>>) -> Option<SharedFile> {
        let may_have = |partial: &Partial| match asker {
            Some(asker) => partial.access.allows(asker),
            None => partial.access == Access::Open,
        };
        let partials = lock(&self.0);
        let mut fetches = partials.get(hash)?.iter().filter(|partial| may_have(partial));
        let found = fetches.find(|partial| !lock(&partial.held).pieces.is_empty()).cloned()?;
        drop(partials);
        let Description { kind, name, .. } = found.description.clone();
        let sizes = (0..found.layout.files()).filter_map(|file| found.layout.size(file));
        Some(SharedFile { hash: *hash, name, size: sizes.sum(), kind })
    }

    /// The piece list of `hash`, a fetch or a file in a folder that is fetched, where `asker` may
    /// have it.
    pub(crate) fn list(&self, hash: &Hash, asker: &Asker<'_>) -> Option<Arc<PieceList>> {
        if let Some(list) = self.get(hash, asker).and_then(|partial| partial.list(hash)) {
            return Some(list);
        }
        let partials = lock(&self.0);
        let mut fetches = partials.values().flatten();
        fetches.find_map(|one| one.list(hash).filter(|_| one.access.allows(asker)))
    }
}

impl PartialGuard {
    /// The fetch.
    pub(crate) fn partial(&self) -> &Arc<Partial> {
        &self.partial
    }
}

impl Drop for PartialGuard {
    fn drop(&mut self) {
        let mut partials = lock(&self.partials.0);
        if let Some(fetches) = partials.get_mut(&self.partial.hash) {
            fetches.retain(|other| !Arc::ptr_eq(other, &self.partial));
            if fetches.is_empty() {
                partials.remove(&self.partial.hash);
            }
        }
        drop(partials);
        self.partial.ended.store(true, Ordering::Release);
        self.partial.news.send_replace(());
    }
}

impl Partial {
    /// A fetch that has nothing yet. The size in `description` is that of what `hash` is of: of a
    /// folder that of its manifest.
    ///
    /// # Errors
    /// Where there are more pieces than a [`PieceSet`] holds.
    pub(crate) fn new(
        hash: Hash,
        description: Description,
        access: Access,
        layout: Arc<Layout>,
    ) -> Result<Self, PieceError> {
        let pieces = PieceSet::of_count(layout.count())?;
        // Whatever a source has said of itself.
        let description = Description { whole: false, ..description };
        Ok(Self {
            hash,
            description,
            access,
            layout,
            held: Mutex::new(Held { pieces, added: Vec::new() }),
            content: Mutex::default(),
            lists: Mutex::default(),
            news: watch::Sender::new(()),
            checked: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        })
    }

    /// Pieces of the file are read from `file`.
    pub(crate) fn set_file(&self, file: Arc<File>) {
        *lock(&self.content) = Some(Content::File(file));
    }

    /// Has files of the folder read under `path`, where they have these names. Encodes and hashes the
    /// manifest.
    pub(crate) fn set_folder(&self, path: PathBuf, manifest: Arc<Manifest>, names: Arc<DiskNames>) {
        let bytes = Bytes::from(manifest.encode());
        self.add_list(self.hash, Arc::new(PieceList::of(&bytes)));
        let is_file = |(_, entry): &(usize, &Entry)| matches!(entry, Entry::File { .. });
        let files = manifest.entries().iter().enumerate().filter(is_file);
        let files = files.map(|(at, _)| at).collect();
        let folder = Folder { path, manifest, names, bytes, files };
        *lock(&self.content) = Some(Content::Folder(Arc::new(folder)));
    }

    /// The folder is at `path` now.
    pub(crate) fn moved(&self, path: PathBuf) {
        if let Some(Content::Folder(folder)) = &mut *lock(&self.content) {
            *folder = Arc::new(Folder { path, ..Folder::clone(folder) });
        }
    }

    /// The list of `hash` is known: that of the fetch itself, or of a file in the folder.
    pub(crate) fn add_list(&self, hash: Hash, list: Arc<PieceList>) {
        lock(&self.lists).insert(hash, list);
    }

    /// These pieces are verified and written.
    pub(crate) fn add(&self, pieces: Range<u64>) {
        let mut held = lock(&self.held);
        let before = held.pieces.len();
        for piece in pieces.clone() {
            held.pieces.insert(piece);
        }
        if held.pieces.len() > before {
            held.added.push(pieces);
            drop(held);
            self.news.send_replace(());
        }
    }

    /// It is whole and in its place, where it can be changed: from now on each piece is checked before
    /// it is served.
    pub(crate) fn check_from_now_on(&self) {
        self.checked.store(true, Ordering::Release);
    }

    /// Whether these are the bytes of the piece at `place`.
    fn verify(&self, place: &Place, bytes: &[u8]) -> bool {
        let content = lock(&self.content).clone();
        let (hash, size) = match content {
            Some(Content::Folder(folder)) => {
                let entry =
                    folder.files.get(place.file).and_then(|at| folder.manifest.entries().get(*at));
                let Some(Entry::File { hash, size, .. }) = entry else { return false };
                (*hash, *size)
            }
            _ => (self.hash, self.description.size),
        };
        let list = PieceList::single(&hash, size).map(Arc::new).or_else(|| self.list(&hash));
        list.is_some_and(|list| list.verify_piece(place.index, bytes).is_ok())
    }

    /// Whether a piece is there.
    pub(crate) fn holds(&self, piece: u64) -> bool {
        lock(&self.held).pieces.contains(piece)
    }

    /// What is there now, and where the [`added`](Self::added) after it begin.
    pub(super) fn held(&self) -> (PieceSet, usize) {
        let held = lock(&self.held);
        (held.pieces.clone(), held.added.len())
    }

    /// What was added since `from`, in the order in which it came, and where what comes after it
    /// begins.
    pub(super) fn added(&self, from: usize) -> (Vec<Range<u64>>, usize) {
        let held = lock(&self.held);
        (held.added.get(from..).unwrap_or_default().to_vec(), held.added.len())
    }

    /// Hears whenever there are more pieces, and at the end.
    pub(super) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// Whether it is no longer served.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// A folder's manifest, as bytes, and their list.
    pub(super) fn manifest(&self) -> Option<(Bytes, Arc<PieceList>)> {
        match lock(&self.content).clone()? {
            Content::File(_) => None,
            Content::Folder(folder) => Some((folder.bytes.clone(), self.list(&self.hash)?)),
        }
    }

    fn list(&self, hash: &Hash) -> Option<Arc<PieceList>> {
        lock(&self.lists).get(hash).cloned()
    }

    /// The file that `place` is in, where it is a folder's, and is open already as `last`.
    fn open(&self, place: &Place, last: &mut Option<(usize, Arc<File>)>) -> Option<Arc<File>> {
        let folder = match lock(&self.content).clone()? {
            Content::File(file) => return Some(file),
            Content::Folder(folder) => folder,
        };
        if let Some((_, file)) = last.as_ref().filter(|(at, _)| *at == place.file) {
            return Some(Arc::clone(file));
        }
        let path = folder.names.path(&folder.manifest, *folder.files.get(place.file)?)?;
        let file = Arc::new(File::open(path.under(&folder.path)).ok()?);
        *last = Some((place.file, Arc::clone(&file)));
        Some(file)
    }
}

/// A fetch under way, open for reading by one stream.
#[derive(Debug)]
pub(super) struct OpenPartial {
    partial: Arc<Partial>,
    /// The file of the folder that was read last, which is most often the next.
    last: Option<(usize, Arc<File>)>,
}

impl OpenPartial {
    pub(super) fn new(partial: Arc<Partial>) -> Self {
        Self { partial, last: None }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.partial.layout
    }

    /// Reads a piece, which has to be of `out`'s length. Blocks on the disk. It was verified when
    /// it was written; it is again only where it may have been changed since.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] where it is not there, or can't be read any more, [`Refusal::Changed`]
    /// where it is another by now.
    pub(super) fn read(&mut self, piece: u64, out: &mut [u8]) -> Result<(), Refusal> {
        if self.partial.has_ended() || !self.partial.holds(piece) {
            return Err(Refusal::NotFound);
        }
        let place = self.partial.layout.place(piece).ok_or(Refusal::BadRequest)?;
        let file = self.partial.open(&place, &mut self.last).ok_or(Refusal::NotFound)?;
        read_exact_at(&file, out, place.range.start).map_err(|error| {
            tracing::debug!(hash = %self.partial.hash, piece, %error, "a held piece can't be read");
            Refusal::NotFound
        })?;
        match self.partial.checked.load(Ordering::Acquire) && !self.partial.verify(&place, out) {
            true => Err(Refusal::Changed),
            false => Ok(()),
        }
    }
}
