//! Reads the pieces and piece lists that a stream requests: from shares, or else from downloads under way.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

use peerkit_proto::files::{
    Answer, Asker, Description, FileName, FileRefusal, Layout, PIECE, PieceValue, SharedFile,
};
use peerkit_proto::hello::Proof;
use peerkit_proto::id::{Hash, NodeId};

use super::FileServer;
use crate::lock::lock;
use crate::shares::{ChangedShare, OpenShare, OpenTree, values_of};
use crate::transfer::partial::{OpenPartial, Partial};

/// Maximum number of bytes of pieces that are read and written together: one large piece or many small ones.
const BATCH: usize = PIECE as usize;

/// Maximum number of pieces that are read together. 256: if the disk has to seek for each of them, they take
/// some 2.5 s.
const MAX_BATCH_PIECES: usize = 256;

/// Maximum number of bytes that are read together if they are in memory already. 256 KiB: the bytes and their
/// encrypted form stay in a processor's second-level cache until they are sent.
const CACHED_PART: usize = 256 << 10;

/// The node that requests, and the proof that it has presented.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) id: NodeId,
    /// The binding of its TLS session.
    pub(super) binding: [u8; 32],
    pub(super) proof: Option<Proof>,
}

/// The pieces of one request that have not been read yet.
#[derive(Debug)]
pub(super) struct PieceRun {
    /// The number of the request.
    pub(super) number: u64,
    pub(super) hash: Hash,
    /// If true, they are pieces of a folder's files.
    pub(super) is_tree: bool,
    /// The next piece to read.
    pub(super) next: u64,
    /// Number of pieces that are left.
    pub(super) count: u16,
    /// Number of bytes of the next piece that were read already. The rest of it is sent before anything else.
    pub(super) read: usize,
    /// The pieces that were read or begun last.
    pub(super) batch: Range<u64>,
    /// If true, the bytes that were read last belong to a piece whose beginning was sent before.
    pub(super) is_rest: bool,
}

impl PieceRun {
    /// Returns the run of a request for `count` pieces from `first` on.
    pub(super) fn new(number: u64, hash: Hash, is_tree: bool, (first, count): (u64, u16)) -> Self {
        let batch = first..first;
        Self { number, hash, is_tree, next: first, count, read: 0, batch, is_rest: false }
    }

    /// Returns whether the run has ended in the middle of a piece, because the file was changed.
    pub(super) fn is_broken(&self) -> bool {
        self.count == 0 && self.read > 0
    }

    /// Notes that `bytes` more bytes of the next piece, which has `len` in total, were read.
    fn advance(&mut self, bytes: usize, len: usize) {
        self.read += bytes;
        if self.read >= len {
            self.read = 0;
            self.next = self.next.saturating_add(1);
            self.count = self.count.saturating_sub(1);
        }
    }
}

/// Reads from the disk for one stream. It is moved to a blocking thread for each read that may wait for the
/// disk, and back.
#[derive(Debug)]
pub(super) struct PieceReader {
    server: FileServer,
    pub(super) caller: Caller,
    /// The file or manifest that was read last, which is usually requested next.
    file: Option<(Hash, OpenContent)>,
    /// The folder that was read last. It is kept beside `file`, because requests for its pieces alternate
    /// with requests for the lists of its files.
    tree: Option<(Hash, OpenContent)>,
    /// The last content that was refused because it was changed.
    pub(super) changed: Option<ChangedShare>,
}

/// Content that is open for reading.
#[derive(Debug)]
enum OpenContent {
    Share(OpenShare),
    Tree(OpenTree, Arc<Layout>),
    Partial(OpenPartial),
}

/// The layouts of the folders that are being served. All streams use the same ones. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Layouts(Arc<Mutex<HashMap<Hash, Weak<Layout>>>>);

impl Caller {
    fn asker(&self) -> Asker<'_> {
        Asker { id: self.id, binding: &self.binding, proof: self.proof.as_ref() }
    }
}

impl FileServer {
    /// Returns whether a share that `caller` may fetch has this hash.
    pub(super) fn shares(&self, hash: &Hash, caller: &Caller) -> bool {
        self.shares.contains(hash, &caller.asker())
    }

    /// Describes the content that is served to `caller` under `hash`.
    pub(super) fn describe(&self, hash: &Hash, caller: &Caller) -> Option<Description> {
        self.shares
            .describe(hash, &caller.asker())
            .or_else(|| Some(self.partial(hash, caller)?.description.clone()))
    }

    /// Returns the download of `hash` that `caller` may fetch from.
    pub(super) fn partial(&self, hash: &Hash, caller: &Caller) -> Option<Arc<Partial>> {
        self.partials.get(hash, &caller.asker())
    }

    /// Returns the content that `caller` fetches under `hash`. Prefers a share with the name `called`.
    pub(super) fn file(
        &self,
        hash: &Hash,
        called: Option<&FileName>,
        caller: &Caller,
    ) -> Option<SharedFile> {
        let asker = caller.asker();
        let shared = self.shares.file(hash, called, &asker);
        shared.or_else(|| self.partials.find_file(hash, Some(&asker)))
    }

    /// Returns the reason why nothing is served to `caller` under `hash`.
    pub(super) fn missing(&self, hash: &Hash, caller: &Caller) -> FileRefusal {
        match self.shares.changed(hash, &caller.asker()) {
            Some(_) => FileRefusal::Changed,
            None => FileRefusal::NotFound,
        }
    }

    /// Returns the content that is not served to `caller` under `hash` because it was changed. If that is a
    /// folder, `file` is the number of the changed file in it.
    pub(super) fn changed(
        &self,
        hash: &Hash,
        file: Option<usize>,
        caller: &Caller,
    ) -> Option<ChangedShare> {
        let asker = caller.asker();
        let served = self.shares.as_changed(hash, file, &asker);
        served.or_else(|| self.shares.changed(hash, &asker))
    }

    fn open(
        &self,
        hash: &Hash,
        is_tree: bool,
        caller: &Caller,
    ) -> Result<OpenContent, FileRefusal> {
        if self.shares(hash, caller) {
            if !is_tree {
                return self.shares.open(hash, &caller.asker()).map(OpenContent::Share);
            }
            let open = self.shares.open_tree(hash, &caller.asker())?;
            let layout = self.layouts.get(hash, || Layout::new(open.sizes()).ok());
            return Ok(OpenContent::Tree(open, layout.ok_or(FileRefusal::NotFound)?));
        }
        let partial = self.partial(hash, caller).ok_or_else(|| self.missing(hash, caller))?;
        match (partial.manifest(), is_tree) {
            (Some((bytes, list)), false) => {
                Ok(OpenContent::Share(OpenShare::memory(bytes, list.as_ref().clone())))
            }
            (Some(_), true) | (None, false) => Ok(OpenContent::Partial(OpenPartial::new(partial))),
            (None, true) => Err(FileRefusal::BadRequest),
        }
    }
}

impl Layouts {
    fn get(&self, hash: &Hash, make: impl FnOnce() -> Option<Layout>) -> Option<Arc<Layout>> {
        if let Some(known) = lock(&self.0).get(hash).and_then(Weak::upgrade) {
            return Some(known);
        }
        // Made without the lock, as it takes long for a large folder.
        let made = Arc::new(make()?);
        let mut layouts = lock(&self.0);
        layouts.retain(|_, layout| layout.strong_count() > 0);
        layouts.insert(*hash, Arc::downgrade(&made));
        Some(made)
    }
}

impl OpenContent {
    /// Returns the length of a piece, or `None` if there is no such piece.
    fn len(&self, piece: u64) -> Option<usize> {
        let len = match self {
            Self::Share(share) => share.list().range(piece).map(|range| range.end - range.start)?,
            Self::Tree(_, layout) => layout.position(piece)?.len(),
            Self::Partial(partial) => partial.layout().position(piece)?.len(),
        };
        usize::try_from(len).ok()
    }

    /// Returns the number of the file that a piece of a folder is part of.
    fn file(&self, piece: u64) -> Option<usize> {
        match self {
            Self::Tree(_, layout) => layout.position(piece).map(|position| position.file),
            Self::Share(_) | Self::Partial(_) => None,
        }
    }

    /// Returns whether it has all pieces that are left of `run`.
    fn has(&self, run: &PieceRun) -> bool {
        let last = run.next.checked_add(u64::from(run.count).saturating_sub(1));
        last.and_then(|last| self.len(last)).is_some()
    }

    /// Reads the rest of a piece after its first `skip` bytes.
    fn read(&mut self, piece: u64, skip: usize, out: &mut [u8]) -> Result<(), FileRefusal> {
        match self {
            Self::Share(share) => share.read(piece, skip, out),
            // Only pieces of shared files are read in parts.
            Self::Tree(..) | Self::Partial(_) if skip > 0 => Err(FileRefusal::Changed),
            Self::Tree(tree, layout) => {
                let position = layout.position(piece).ok_or(FileRefusal::BadRequest)?;
                tree.read(&position, out)
            }
            Self::Partial(partial) => partial.read(piece, out),
        }
    }
}

impl PieceReader {
    pub(super) fn new(server: FileServer, caller: Caller) -> Self {
        Self { server, caller, file: None, tree: None, changed: None }
    }

    /// Answers with values of a piece list.
    pub(super) fn values(&mut self, hash: Hash, first: u64, count: u16) -> Answer {
        match self.find_values(hash, first, count) {
            Ok(values) => Answer::Pieces { first, values },
            Err(refusal) => {
                self.note_change(refusal, &hash, None);
                Answer::Refused(refusal)
            }
        }
    }

    fn find_values(
        &mut self,
        hash: Hash,
        first: u64,
        count: u16,
    ) -> Result<Vec<PieceValue>, FileRefusal> {
        if self.server.shares(&hash, &self.caller)
            && let OpenContent::Share(share) = self.opened(hash, false)?
        {
            return share.values(first, count).map(<[_]>::to_vec);
        }
        let list = self.server.partials.list(&hash, &self.caller.asker());
        let list = list.ok_or_else(|| self.server.missing(&hash, &self.caller))?;
        values_of(&list, first, count).map(<[_]>::to_vec)
    }

    /// Reads the next pieces of `run` into `batch`, in the form in which they are sent. If one can't be
    /// served, puts the refusal there and ends the run.
    pub(super) fn read(&mut self, run: &mut PieceRun, batch: &mut AnswerBuffer) {
        let first = run.next;
        run.is_rest = run.read > 0;
        let read = self.try_read(run, batch);
        run.batch = first..run.next;
        if let Err(refusal) = read {
            // Found before the folder is closed, as its layout is dropped with it.
            let source = self.slot(run.is_tree).take();
            let file = source.and_then(|(_, source)| source.file(run.next));
            self.note_change(refusal, &run.hash, file);
            tracing::debug!(hash = %run.hash, first, %refusal, "pieces are not served");
            run.count = 0;
            batch.put(&Answer::Refused(refusal));
        }
    }

    /// Notes content that was refused because it was changed.
    fn note_change(&mut self, refusal: FileRefusal, hash: &Hash, file: Option<usize>) {
        if refusal == FileRefusal::Changed {
            self.changed = self.server.changed(hash, file, &self.caller);
        }
    }

    fn try_read(
        &mut self,
        run: &mut PieceRun,
        batch: &mut AnswerBuffer,
    ) -> Result<(), FileRefusal> {
        let source = self.opened(run.hash, run.is_tree)?;
        if !source.has(run) {
            return Err(FileRefusal::BadRequest);
        }
        for _ in 0..MAX_BATCH_PIECES.min(usize::from(run.count)) {
            let len = source.len(run.next).ok_or(FileRefusal::BadRequest)?;
            let left = len.checked_sub(run.read).ok_or(FileRefusal::Changed)?;
            // The first piece is always read, whatever its length.
            if batch.len > 0 && batch.len + left > BATCH {
                break;
            }
            let read = |out: &mut [u8]| source.read(run.next, run.read, out).map(|()| left);
            batch.put_part(run, len, left, read)?;
            batch.content += left;
            run.advance(left, len);
        }
        Ok(())
    }

    /// Reads a part of the next piece of `run` into `batch` if it is in memory, without waiting for the disk.
    /// Returns whether it did. If it returns false, call [`read`](Self::read), which also finds the reason
    /// for a refusal.
    pub(super) fn read_cached(&mut self, run: &mut PieceRun, batch: &mut AnswerBuffer) -> bool {
        let Some((hash, source)) = &self.file else { return false };
        let OpenContent::Share(share) = source else { return false };
        let is_open = !run.is_tree && *hash == run.hash && self.server.shares(hash, &self.caller);
        let Some(len) = source.len(run.next).filter(|_| is_open && source.has(run)) else {
            return false;
        };
        let read = |out: &mut [u8]| share.read_cached(run.next, run.read, out).ok_or(());
        let part = CACHED_PART.min(len.saturating_sub(run.read));
        let Ok(read) = batch.put_part(run, len, part, read) else { return false };
        run.batch = run.next..run.next.saturating_add(1);
        run.is_rest = run.read > 0;
        batch.content += read;
        run.advance(read, len);
        true
    }

    /// Returns the content with this hash, open for reading. It stays open for later requests as long as it
    /// is served.
    fn opened(&mut self, hash: Hash, is_tree: bool) -> Result<&mut OpenContent, FileRefusal> {
        let source = match self.slot(is_tree).take() {
            Some((open, source)) if open == hash && self.serves(&hash, &source) => source,
            _ => self.server.open(&hash, is_tree, &self.caller)?,
        };
        Ok(&mut self.slot(is_tree).insert((hash, source)).1)
    }

    fn serves(&self, hash: &Hash, source: &OpenContent) -> bool {
        match source {
            OpenContent::Partial(_) => self.server.partial(hash, &self.caller).is_some(),
            _ => self.server.describe(hash, &self.caller).is_some(),
        }
    }

    fn slot(&mut self, is_tree: bool) -> &mut Option<(Hash, OpenContent)> {
        if is_tree { &mut self.tree } else { &mut self.file }
    }
}

/// A buffer for encoded answers, whose memory is used again.
#[derive(Debug, Default)]
pub(super) struct AnswerBuffer {
    /// Never shrinks: the bytes after `len` are left over from earlier answers.
    bytes: Vec<u8>,
    len: usize,
    /// Number of bytes of pieces in it.
    pub(super) content: usize,
}

impl AnswerBuffer {
    pub(super) fn clear(&mut self) {
        self.len = 0;
        self.content = 0;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    pub(super) fn put(&mut self, answer: &Answer) {
        self.bytes.truncate(self.len);
        self.bytes.extend_from_slice(&answer.encode());
        self.len = self.bytes.len();
    }

    /// Adds up to `part` bytes of the next piece of `run`, which has `len` in total. `read` reads them and
    /// returns their number. If it fails, adds nothing.
    fn put_part<E>(
        &mut self,
        run: &PieceRun,
        len: usize,
        part: usize,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let head = match run.read {
            // A piece has a mebibyte at most.
            0 => Answer::Piece { index: run.next, len: len as u32 }.encode(),
            _ => Vec::new(),
        };
        let begin = self.len + head.len();
        if self.bytes.len() < begin + part {
            self.bytes.resize(begin + part, 0);
        }
        let read = read(self.bytes.get_mut(begin..begin + part).unwrap_or_default())?;
        // The head comes last, so that nothing is added if reading fails.
        if let Some(position) = self.bytes.get_mut(self.len..begin) {
            position.copy_from_slice(&head);
        }
        self.len = begin + read;
        Ok(read)
    }
}
