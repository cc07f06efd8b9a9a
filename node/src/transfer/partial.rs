//! Downloads under way, whose pieces are served to other nodes as soon as they are written.
//!
//! A download passes a [`Partial`] to [`Partials::serve`], and [adds](Partial::add) the pieces that it has
//! written. The [`Partial`] is served until its [`PartialGuard`] is dropped. If the finished content is to be
//! shared, it should be shared before the guard is dropped. Followers then learn that this node has all of
//! it.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use peerkit_proto::files::{
    Access, Asker, Description, FileRefusal, Layout, PieceError, PieceList, PiecePosition,
    PieceSet, SharedFile,
};
use peerkit_proto::id::Hash;
use tokio::sync::watch;

use super::folder_plan::FolderPlan;
use crate::disk::read_exact_at;
use crate::lock::lock;

/// The downloads of a node whose pieces are served to other nodes. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Partials(Arc<Mutex<HashMap<Hash, Vec<Arc<Partial>>>>>);

/// Keeps a [`Partial`] served until it is dropped.
#[derive(Debug)]
pub(crate) struct PartialGuard {
    partials: Partials,
    partial: Arc<Partial>,
}

/// A download whose pieces are served to other nodes.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(crate) hash: Hash,
    /// The description that requesters get.
    pub(crate) description: Description,
    /// The nodes that may fetch it.
    pub(crate) access: Access,
    /// The numbering of its pieces.
    pub(crate) layout: Arc<Layout>,
    held: Mutex<HeldPieces>,
    content: PartialContent,
    /// The piece list of the content, and those of a folder's files with several pieces, by their hashes.
    lists: HashMap<Hash, Arc<PieceList>>,
    /// Notified whenever pieces are added, and when the download is no longer served.
    changes: watch::Sender<()>,
    /// If true, users may have changed the files, so each piece is verified when it is read.
    verifies_reads: AtomicBool,
    /// If true, it is no longer served.
    has_ended: AtomicBool,
}

#[derive(Debug)]
struct HeldPieces {
    pieces: PieceSet,
    /// The pieces in the order in which they were added.
    added: Vec<Range<u64>>,
}

/// The files that pieces are read from.
#[derive(Debug)]
pub(super) enum PartialContent {
    File(Arc<File>, Arc<PieceList>),
    Folder {
        /// The folder's path. It changes when the folder gets its name.
        path: Mutex<PathBuf>,
        plan: FolderPlan,
        /// The canonical bytes of the manifest.
        manifest: Bytes,
    },
}

impl Partials {
    /// Serves `partial` until the guard is dropped.
    pub(crate) fn serve(&self, partial: Partial) -> PartialGuard {
        let partial = Arc::new(partial);
        lock(&self.0).entry(partial.hash).or_default().push(Arc::clone(&partial));
        PartialGuard { partials: self.clone(), partial }
    }

    /// Returns a download of `hash` that `asker` may fetch from.
    pub(crate) fn get(&self, hash: &Hash, asker: &Asker<'_>) -> Option<Arc<Partial>> {
        let partials = lock(&self.0);
        let mut fetches = partials.get(hash)?.iter();
        // The same content may be fetched to several destinations at the same time, with different access.
        fetches.find(|partial| partial.access.allows(asker)).cloned()
    }

    /// Returns a download of `hash` that has pieces, as the result of a query. Without an asker, only
    /// downloads that are open to all nodes count.
    pub(crate) fn find_file(&self, hash: &Hash, asker: Option<&Asker<'_>>) -> Option<SharedFile> {
        let may_have = |partial: &Partial| match asker {
            Some(asker) => partial.access.allows(asker),
            None => partial.access == Access::Open,
        };
        let partials = lock(&self.0);
        let mut fetches = partials.get(hash)?.iter().filter(|partial| may_have(partial));
        let found = fetches.find(|partial| !lock(&partial.held).pieces.is_empty()).cloned()?;
        // Adding up the sizes of a million files under the lock would hold up every other stream.
        drop(partials);
        let Description { kind, name, .. } = found.description.clone();
        let sizes = (0..found.layout.files()).filter_map(|file| found.layout.size(file));
        Some(SharedFile { hash: *hash, name, size: sizes.sum(), kind })
    }

    /// Returns the piece list of `hash` if `asker` may fetch it. `hash` is that of a download, or of a file
    /// in a folder that is being downloaded.
    pub(crate) fn list(&self, hash: &Hash, asker: &Asker<'_>) -> Option<Arc<PieceList>> {
        let partials = lock(&self.0);
        // All downloads are searched, as the hash may be that of a file inside a folder.
        let mut fetches = partials.values().flatten();
        fetches.find_map(|one| one.list(hash).filter(|_| one.access.allows(asker)))
    }
}

impl PartialGuard {
    /// Returns the content that is served.
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
        // Notified once it is out of the table: a follower that wakes then finds the share of the finished
        // content, if there is one.
        self.partial.has_ended.store(true, Ordering::Release);
        self.partial.changes.send_replace(());
    }
}

impl PartialContent {
    /// Returns the content of a folder whose files are at `path`. Encodes the manifest, which takes long for
    /// a large folder.
    pub(super) fn folder(path: PathBuf, plan: FolderPlan) -> Self {
        let manifest = Bytes::from(plan.manifest().encode());
        Self::Folder { path: Mutex::new(path), plan, manifest }
    }

    /// Returns the piece list of the content, which has this hash, and those of a folder's files with several
    /// pieces. Hashes a folder's manifest.
    fn lists(&self, hash: Hash) -> HashMap<Hash, Arc<PieceList>> {
        match self {
            Self::File(_, list) => HashMap::from([(hash, Arc::clone(list))]),
            Self::Folder { plan, manifest, .. } => {
                let own = (hash, Arc::new(PieceList::of(manifest)));
                plan.lists().chain([own]).collect()
            }
        }
    }
}

impl Partial {
    /// Returns a download that has no pieces yet. For a folder, `hash` and the size in `description` are
    /// those of its manifest.
    ///
    /// # Errors
    /// If it has more pieces than a [`PieceSet`] can hold.
    pub(super) fn new(
        hash: Hash,
        description: Description,
        access: Access,
        layout: Arc<Layout>,
        content: PartialContent,
    ) -> Result<Self, PieceError> {
        let pieces = PieceSet::of_count(layout.count())?;
        Ok(Self {
            hash,
            // The description is that of a source, which may have all pieces. This node does not have all.
            description: Description { whole: false, ..description },
            access,
            layout,
            held: Mutex::new(HeldPieces { pieces, added: Vec::new() }),
            lists: content.lists(hash),
            content,
            changes: watch::Sender::new(()),
            verifies_reads: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
        })
    }

    /// Sets the path that a folder's files are read from. Does nothing for a file.
    pub(super) fn set_folder_path(&self, path: PathBuf) {
        if let PartialContent::Folder { path: at, .. } = &self.content {
            *lock(at) = path;
        }
    }

    /// Adds pieces that are verified and written. They are reported to followers.
    pub(crate) fn add(&self, pieces: Range<u64>) {
        let mut held = lock(&self.held);
        let before = held.pieces.len();
        for piece in pieces.clone() {
            held.pieces.insert(piece);
        }
        if held.pieces.len() > before {
            held.added.push(pieces);
            drop(held);
            self.changes.send_replace(());
        }
    }

    /// Makes sure that each piece is verified before it is served. Called once the content has its final name,
    /// because users may change the content then.
    pub(super) fn verify_from_now_on(&self) {
        self.verifies_reads.store(true, Ordering::Release);
    }

    /// Returns whether these are the bytes of the piece at `position`.
    fn is_good(&self, position: &PiecePosition, bytes: &[u8]) -> bool {
        match &self.content {
            PartialContent::File(_, list) => list.verify_piece(position.index, bytes).is_ok(),
            PartialContent::Folder { plan, .. } => plan.verify(position, bytes).is_ok(),
        }
    }

    /// Returns the pieces that are held, and the position to pass to [`added`](Self::added) for later ones.
    pub(super) fn held(&self) -> (PieceSet, usize) {
        let held = lock(&self.held);
        (held.pieces.clone(), held.added.len())
    }

    /// Returns the pieces that were added from position `from` on, in the order in which they were added, and
    /// the position to pass to the next call.
    pub(super) fn added(&self, from: usize) -> (Vec<Range<u64>>, usize) {
        let held = lock(&self.held);
        (held.added.get(from..).unwrap_or_default().to_vec(), held.added.len())
    }

    /// Returns a receiver that is notified whenever pieces are added, and when the download is no longer
    /// served.
    pub(super) fn updates(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Returns whether it is no longer served.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Returns the bytes of a folder's manifest, and its piece list.
    pub(super) fn manifest(&self) -> Option<(Bytes, Arc<PieceList>)> {
        match &self.content {
            PartialContent::File(..) => None,
            PartialContent::Folder { manifest, .. } => {
                Some((manifest.clone(), self.list(&self.hash)?))
            }
        }
    }

    fn list(&self, hash: &Hash) -> Option<Arc<PieceList>> {
        self.lists.get(hash).cloned()
    }
}

/// A download that is open for reading by one stream.
#[derive(Debug)]
pub(super) struct OpenPartial {
    partial: Arc<Partial>,
    /// The file of a folder that was read last, which is usually read next.
    last: Option<(usize, Arc<File>)>,
}

impl OpenPartial {
    pub(super) fn new(partial: Arc<Partial>) -> Self {
        Self { partial, last: None }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.partial.layout
    }

    /// Reads a piece into `out`, which must have its length. Blocks on the disk. The piece was verified
    /// when it was written; it is verified again only if users may have changed it since.
    ///
    /// # Errors
    /// [`FileRefusal::NotFound`] if the piece is not there or can't be read, [`FileRefusal::Changed`] if it
    /// was changed.
    pub(super) fn read(&mut self, piece: u64, out: &mut [u8]) -> Result<(), FileRefusal> {
        let is_held = lock(&self.partial.held).pieces.contains(piece);
        if self.partial.has_ended() || !is_held {
            return Err(FileRefusal::NotFound);
        }
        let position = self.partial.layout.position(piece).ok_or(FileRefusal::BadRequest)?;
        let file = self.open(&position).ok_or(FileRefusal::NotFound)?;
        read_exact_at(&file, out, position.range.start).map_err(|error| {
            tracing::debug!(hash = %self.partial.hash, piece, %error, "a held piece can't be read");
            FileRefusal::NotFound
        })?;
        let verifies_reads = self.partial.verifies_reads.load(Ordering::Acquire);
        if verifies_reads && !self.partial.is_good(&position, out) {
            return Err(FileRefusal::Changed);
        }
        Ok(())
    }

    /// Opens the file that `position` is in.
    fn open(&mut self, position: &PiecePosition) -> Option<Arc<File>> {
        let (path, plan) = match &self.partial.content {
            PartialContent::File(file, _) => return Some(Arc::clone(file)),
            PartialContent::Folder { path, plan, .. } => (path, plan),
        };
        if let Some((_, file)) = self.last.as_ref().filter(|(last, _)| *last == position.file) {
            return Some(Arc::clone(file));
        }
        let (name, _) = plan.file(position.file)?;
        let at = name.join_to(&lock(path));
        let file = Arc::new(File::open(at).ok()?);
        self.last = Some((position.file, Arc::clone(&file)));
        Some(file)
    }
}
