//! What one stream is answered from: shares first, then fetches under way.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

use peerkit_proto::files::{
    Answer, Asker, Description, FileName, Layout, PIECE, PieceValue, Refusal, SharedFile,
};
use peerkit_proto::hello::Proof;
use peerkit_proto::id::{Hash, NodeId};

use super::Serving;
use crate::lock::lock;
use crate::shares::{ChangedShare, OpenShare, OpenTree, values_of};
use crate::transfer::partial::{OpenPartial, Partial};

/// Bytes of pieces that are read, and written, together: one large piece or many small ones.
const BATCH: usize = PIECE as usize;

/// Pieces that are read together at most: a disk that seeks for each takes 10 ms for it.
const MAX_BATCH: usize = 256;

/// Bytes that are read together where that needs no waiting: with what they are encrypted to they
/// stay in a processor's second cache until they are sent.
const PART: usize = 256 << 10;

/// Who asks, and what it has shown.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) id: NodeId,
    /// Of the TLS session that it asks in.
    pub(super) binding: [u8; 32],
    pub(super) proof: Option<Proof>,
}

/// Pieces that were asked for and have not been read yet.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) number: u64,
    pub(super) hash: Hash,
    /// Whether they are those of a folder's files.
    pub(super) tree: bool,
    pub(super) next: u64,
    pub(super) count: u16,
    /// Bytes of the next piece that were read already: those go out before anything else.
    pub(super) read: usize,
    /// The pieces that were read last, or begun.
    pub(super) batch: Range<u64>,
    /// What was read last is the rest of a piece whose beginning went out before.
    pub(super) is_rest: bool,
}

impl Run {
    /// The request of this number for `count` pieces from `first` on.
    pub(super) fn new(number: u64, hash: Hash, tree: bool, (first, count): (u64, u16)) -> Self {
        let batch = first..first;
        Self { number, hash, tree, next: first, count, read: 0, batch, is_rest: false }
    }

    /// Whether it has ended within a piece: what was to come of that is no more what it was.
    pub(super) fn is_broken(&self) -> bool {
        self.count == 0 && self.read > 0
    }

    /// So many bytes of the next piece, which has `len`, were read.
    fn advance(&mut self, bytes: usize, len: usize) {
        self.read += bytes;
        if self.read >= len {
            self.read = 0;
            self.next = self.next.saturating_add(1);
            self.count = self.count.saturating_sub(1);
        }
    }
}

/// Answers from the disk. It goes where blocking is allowed, and comes back.
#[derive(Debug)]
pub(super) struct Desk {
    serving: Serving,
    pub(super) caller: Caller,
    /// What was asked for last stays open: the next request is most often for the same.
    file: Option<(Hash, Source)>,
    /// The same of folders whose files are asked for: between their pieces come lists.
    tree: Option<(Hash, Source)>,
    /// The content that could not be read last because it was changed.
    pub(super) changed: Option<ChangedShare>,
}

#[derive(Debug)]
enum Source {
    Share(OpenShare),
    Tree(OpenTree, Arc<Layout>),
    Partial(OpenPartial),
}

/// The layouts of the folders that are being served. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Layouts(Arc<Mutex<HashMap<Hash, Weak<Layout>>>>);

impl Caller {
    fn asker(&self) -> Asker<'_> {
        Asker { id: self.id, binding: &self.binding, proof: self.proof.as_ref() }
    }
}

impl Serving {
    /// Whether a share that `caller` may have has this hash.
    pub(super) fn shares(&self, hash: &Hash, caller: &Caller) -> bool {
        self.shares.contains(hash, &caller.asker())
    }

    /// What is served to `caller` under `hash`.
    pub(super) fn describe(&self, hash: &Hash, caller: &Caller) -> Option<Description> {
        self.shares
            .describe(hash, &caller.asker())
            .or_else(|| Some(self.partial(hash, caller)?.description.clone()))
    }

    /// The fetch of `hash` under way that `caller` may have.
    pub(super) fn partial(&self, hash: &Hash, caller: &Caller) -> Option<Arc<Partial>> {
        self.partials.get(hash, &caller.asker())
    }

    /// Returns the content that `caller` fetches under `hash`, by the name `called` if it is shared
    /// with `caller` under that.
    pub(super) fn file(
        &self,
        hash: &Hash,
        called: Option<&FileName>,
        caller: &Caller,
    ) -> Option<SharedFile> {
        let asker = caller.asker();
        let shared = self.shares.file(hash, called, &asker);
        shared.or_else(|| self.partials.found(hash, Some(&asker)))
    }

    /// Why nothing is served to `caller` under `hash`.
    pub(super) fn missing(&self, hash: &Hash, caller: &Caller) -> Refusal {
        match self.shares.changed(hash, &caller.asker()) {
            Some(_) => Refusal::Changed,
            None => Refusal::NotFound,
        }
    }

    /// Returns what `caller` can't have under `hash` because it was changed: in a folder, its `file`
    /// of this number.
    pub(super) fn changed(
        &self,
        hash: &Hash,
        file: Option<usize>,
        caller: &Caller,
    ) -> Option<ChangedShare> {
        let asker = caller.asker();
        let served = self.shares.served(hash, file, &asker);
        served.or_else(|| self.shares.changed(hash, &asker))
    }

    fn open(&self, hash: &Hash, tree: bool, caller: &Caller) -> Result<Source, Refusal> {
        if self.shares(hash, caller) {
            if !tree {
                return self.shares.open(hash, &caller.asker()).map(Source::Share);
            }
            let open = self.shares.open_tree(hash, &caller.asker())?;
            let layout = self.layouts.get(hash, || Layout::new(open.sizes()).ok());
            return Ok(Source::Tree(open, layout.ok_or(Refusal::NotFound)?));
        }
        let partial = self.partial(hash, caller).ok_or_else(|| self.missing(hash, caller))?;
        match (partial.manifest(), tree) {
            (Some((bytes, list)), false) => {
                Ok(Source::Share(OpenShare::memory(bytes, list.as_ref().clone())))
            }
            (Some(_), true) | (None, false) => Ok(Source::Partial(OpenPartial::new(partial))),
            (None, true) => Err(Refusal::BadRequest),
        }
    }
}

impl Layouts {
    fn get(&self, hash: &Hash, make: impl FnOnce() -> Option<Layout>) -> Option<Arc<Layout>> {
        if let Some(known) = lock(&self.0).get(hash).and_then(Weak::upgrade) {
            return Some(known);
        }
        let made = Arc::new(make()?);
        let mut layouts = lock(&self.0);
        layouts.retain(|_, layout| layout.strong_count() > 0);
        layouts.insert(*hash, Arc::downgrade(&made));
        Some(made)
    }
}

impl Source {
    /// Bytes of a piece; `None` where there is none of this number.
    fn len(&self, piece: u64) -> Option<usize> {
        let len = match self {
            Self::Share(share) => share.list().range(piece).map(|range| range.end - range.start)?,
            Self::Tree(_, layout) => layout.place(piece)?.len(),
            Self::Partial(partial) => partial.layout().place(piece)?.len(),
        };
        usize::try_from(len).ok()
    }

    /// Returns the number of the file that a piece of a folder is part of.
    fn file(&self, piece: u64) -> Option<usize> {
        match self {
            Self::Tree(_, layout) => layout.place(piece).map(|place| place.file),
            Self::Share(_) | Self::Partial(_) => None,
        }
    }

    /// Whether it has the pieces that are left of `run`.
    fn has(&self, run: &Run) -> bool {
        let last = run.next.checked_add(u64::from(run.count).saturating_sub(1));
        last.and_then(|last| self.len(last)).is_some()
    }

    /// Reads what a piece has from `skip` on.
    fn read(&mut self, piece: u64, skip: usize, out: &mut [u8]) -> Result<(), Refusal> {
        match self {
            Self::Share(share) => share.read(piece, skip, out),
            // Only of shared files are parts of a piece read.
            Self::Tree(..) | Self::Partial(_) if skip > 0 => Err(Refusal::Changed),
            Self::Tree(tree, layout) => {
                let place = layout.place(piece).ok_or(Refusal::BadRequest)?;
                tree.read(&place, out)
            }
            Self::Partial(partial) => partial.read(piece, out),
        }
    }
}

impl Desk {
    pub(super) fn new(serving: Serving, caller: Caller) -> Self {
        Self { serving, caller, file: None, tree: None, changed: None }
    }

    /// The answer with values of a piece list.
    pub(super) fn values(&mut self, hash: Hash, first: u64, count: u16) -> Answer {
        match self.find_values(hash, first, count) {
            Ok(values) => Answer::Pieces { first, values },
            Err(refusal) => {
                self.note(refusal, &hash, None);
                Answer::Refused(refusal)
            }
        }
    }

    fn find_values(
        &mut self,
        hash: Hash,
        first: u64,
        count: u16,
    ) -> Result<Vec<PieceValue>, Refusal> {
        if self.serving.shares(&hash, &self.caller)
            && let Source::Share(share) = self.opened(hash, false)?
        {
            return share.values(first, count).map(<[_]>::to_vec);
        }
        let list = self.serving.partials.list(&hash, &self.caller.asker());
        let list = list.ok_or_else(|| self.serving.missing(&hash, &self.caller))?;
        values_of(&list, first, count).map(<[_]>::to_vec)
    }

    /// Reads the next pieces of `run` into `batch`, as they are written to the stream; the refusal
    /// where there are no more, which ends the run.
    pub(super) fn read(&mut self, run: &mut Run, batch: &mut Batch) {
        let first = run.next;
        run.is_rest = run.read > 0;
        let read = self.try_read(run, batch);
        run.batch = first..run.next;
        if let Err(refusal) = read {
            // Looked up before the folder is closed: its layout goes with it.
            let source = self.slot(run.tree).take();
            let file = source.and_then(|(_, source)| source.file(run.next));
            self.note(refusal, &run.hash, file);
            tracing::debug!(hash = %run.hash, first, %refusal, "pieces are not served");
            run.count = 0;
            batch.put(&Answer::Refused(refusal));
        }
    }

    /// Notes what was refused because it was changed.
    fn note(&mut self, refusal: Refusal, hash: &Hash, file: Option<usize>) {
        if refusal == Refusal::Changed {
            self.changed = self.serving.changed(hash, file, &self.caller);
        }
    }

    fn try_read(&mut self, run: &mut Run, batch: &mut Batch) -> Result<(), Refusal> {
        let source = self.opened(run.hash, run.tree)?;
        if !source.has(run) {
            return Err(Refusal::BadRequest);
        }
        for _ in 0..MAX_BATCH.min(usize::from(run.count)) {
            let len = source.len(run.next).ok_or(Refusal::BadRequest)?;
            let left = len.checked_sub(run.read).ok_or(Refusal::Changed)?;
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

    /// Reads a part of the next piece of `run` into `batch`, where that needs no waiting. False,
    /// with nothing read, where it does, or there is anything to say of it:
    /// [`read`](Self::read) has to.
    pub(super) fn read_at_once(&mut self, run: &mut Run, batch: &mut Batch) -> bool {
        let Some((hash, source)) = &self.file else { return false };
        let Source::Share(share) = source else { return false };
        let is_open = !run.tree && *hash == run.hash && self.serving.shares(hash, &self.caller);
        let Some(len) = source.len(run.next).filter(|_| is_open && source.has(run)) else {
            return false;
        };
        let read = |out: &mut [u8]| share.read_at_once(run.next, run.read, out).ok_or(());
        let part = PART.min(len.saturating_sub(run.read));
        let Ok(read) = batch.put_part(run, len, part, read) else { return false };
        run.batch = run.next..run.next.saturating_add(1);
        run.is_rest = run.read > 0;
        batch.content += read;
        run.advance(read, len);
        true
    }

    /// What has this hash, opened, as long as it is served.
    fn opened(&mut self, hash: Hash, tree: bool) -> Result<&mut Source, Refusal> {
        let source = match self.slot(tree).take() {
            Some((open, source)) if open == hash && self.serves(&hash, &source) => source,
            _ => self.serving.open(&hash, tree, &self.caller)?,
        };
        Ok(&mut self.slot(tree).insert((hash, source)).1)
    }

    fn serves(&self, hash: &Hash, source: &Source) -> bool {
        match source {
            Source::Partial(_) => self.serving.partial(hash, &self.caller).is_some(),
            _ => self.serving.describe(hash, &self.caller).is_some(),
        }
    }

    fn slot(&mut self, tree: bool) -> &mut Option<(Hash, Source)> {
        if tree { &mut self.tree } else { &mut self.file }
    }
}

/// Answers as they are written to the stream, in memory that is used again.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Only ever grows: what is after `len` is left over from before.
    bytes: Vec<u8>,
    len: usize,
    /// Bytes of pieces in it.
    pub(super) content: usize,
}

impl Batch {
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

    /// Puts up to `part` bytes of the next piece of `run`, which has `len`, as many as `read` says
    /// that it has read; nothing where that fails.
    fn put_part<E>(
        &mut self,
        run: &Run,
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
        if let Some(place) = self.bytes.get_mut(self.len..begin) {
            place.copy_from_slice(&head);
        }
        self.len = begin + read;
        Ok(read)
    }
}
