//! One fetch, from one source after the other.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use peerkit_proto::files::{
    Entry, FileKind, MAX_FILE, MAX_MANIFEST, Manifest, PIECE, PieceList, PieceSet, RelPath, Request,
};
use peerkit_proto::id::{Hash, NodeId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{JoinHandle, spawn_blocking};

use super::asking::Asking;
use super::part::{PartFile, PartFolder, write_all_at};
use super::place::{place_file, place_folder};
use super::{Destination, FetchError, Fetched, Progress};

/// Pieces asked for at once; the next are asked for before these have come. 64 MiB: at 1 GB/s the
/// question is on its way for longer than any round trip takes.
const RUN: u16 = 64;

/// Small files of a folder asked for ahead, so that each does not cost a round trip. 32 questions
/// of 47 bytes fit any socket's buffer: the source, which answers one after the other, can't stop
/// reading them.
const AHEAD: usize = 32;

/// A fetch of one hash to one place.
///
/// [`run`](Self::run) it with a source; where that fails, with another: it goes on from the pieces
/// that were verified. [`finish`](Self::finish) puts the whole in its place. What is not finished
/// is removed from disk when this is dropped.
#[derive(Debug)]
pub struct Download {
    hash: Hash,
    to: Destination,
    started: Instant,
    sources: BTreeSet<NodeId>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Nothing is known that was not only said.
    New,
    File {
        target: PathBuf,
        part: PartFile,
        object: Object,
    },
    Manifest {
        target: PathBuf,
        bytes: Vec<u8>,
        object: Object,
    },
    Folder(Folder),
}

/// A file whose list and size are proven, and which of its pieces are there.
#[derive(Debug)]
struct Object {
    hash: Hash,
    list: Arc<PieceList>,
    have: PieceSet,
    /// Bytes of the pieces that are there.
    done: u64,
}

#[derive(Debug)]
struct Folder {
    target: PathBuf,
    part: PartFolder,
    manifest: Arc<Manifest>,
    /// Entries before this one are done.
    next: usize,
    /// Entries before this one may have left a file.
    tried: usize,
    /// The entry `next`, where it is a file of several pieces and has been begun.
    current: Option<(Object, Arc<File>)>,
    /// Bytes of the files that are done.
    done: u64,
}

impl Download {
    /// A fetch of `hash` that goes to `to`. Nothing is done yet; the time counts from here.
    #[must_use]
    pub fn new(hash: Hash, to: Destination) -> Self {
        Self { hash, to, started: Instant::now(), sources: BTreeSet::new(), stage: Stage::New }
    }

    /// What is fetched.
    #[must_use]
    pub fn hash(&self) -> &Hash {
        &self.hash
    }

    /// Whether all is there and only [`finish`](Self::finish) is left.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match &self.stage {
            Stage::New | Stage::Manifest { .. } => false,
            Stage::File { object, .. } => object.have.is_full(),
            Stage::Folder(folder) => folder.next >= folder.manifest.entries().len(),
        }
    }

    /// Fetches all that is missing from the source at the other end of `stream`, a stream of the
    /// files protocol. `progress` is called as verified bytes are written.
    ///
    /// May be dropped at any time: what was verified by then stays.
    ///
    /// # Errors
    /// Where this source did not do: see [`FetchError::is_worth_another`]. What it sent and was
    /// verified is kept. The stream is of no use any more.
    pub async fn run<S>(
        &mut self,
        source: NodeId,
        stream: S,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<(), FetchError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let mut fetching = Fetching {
            asking: Asking::new(stream),
            spare: Vec::new(),
            progress,
            at: Progress::default(),
            verified: 0,
        };
        let result = self.advance(&mut fetching).await;
        if fetching.verified > 0 {
            self.sources.insert(source);
        }
        result
    }

    /// Puts what was fetched in its place and tells where that is. It is on disk when this returns.
    ///
    /// Nothing is ever overwritten: where something else has the name, this one gets a number
    /// (`name (1).txt`). A file of the very same content is left as it is and counts as the result.
    ///
    /// # Errors
    /// [`FetchError::Unfinished`] where pieces are missing, [`FetchError::Disk`] where it can't be
    /// put in its place. What was fetched is gone then.
    pub async fn finish(self) -> Result<Fetched, FetchError> {
        if !self.is_complete() {
            return Err(FetchError::Unfinished);
        }
        let (started, hash) = (self.started, self.hash);
        let sources = self.sources.into_iter().collect();
        let stage = self.stage;
        let (path, kind, bytes) = blocking(move || match stage {
            Stage::File { target, part, object } => {
                let path = place_file(part, &target, &hash).map_err(disk(&target))?;
                Ok((path, FileKind::File, object.list.size()))
            }
            Stage::Folder(folder) => {
                let total = folder.manifest.total();
                let path = place_folder(folder.part, &folder.target, &folder.manifest)
                    .map_err(disk(&folder.target))?;
                Ok((path, FileKind::Folder, total))
            }
            Stage::New | Stage::Manifest { .. } => Err(FetchError::Unfinished),
        })
        .await?;
        Ok(Fetched { path, kind, bytes, seconds: started.elapsed().as_secs_f64(), sources })
    }

    async fn advance<S, P>(&mut self, fetching: &mut Fetching<S, P>) -> Result<(), FetchError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        P: FnMut(Progress) + Send,
    {
        if matches!(self.stage, Stage::New) {
            self.stage = self.begin(fetching).await?;
        }
        if let Stage::Manifest { bytes, object, .. } = &mut self.stage {
            fetching.rest(object, &mut Sink::Memory(bytes)).await?;
            self.stage = self.open_folder().await?;
        }
        match &mut self.stage {
            Stage::New | Stage::Manifest { .. } => Err(FetchError::Unfinished),
            Stage::File { part, object, .. } => {
                fetching.at = Progress { done: object.done, total: object.list.size() };
                let (file, path) = (Arc::clone(part.file()), part.path().to_owned());
                fetching.rest(object, &mut Sink::File(file, path)).await
            }
            Stage::Folder(folder) => fetching.folder(folder).await,
        }
    }

    /// Asks what it is, and believes no more than the last piece proves.
    async fn begin<S, P>(&self, fetching: &mut Fetching<S, P>) -> Result<Stage, FetchError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        P: FnMut(Progress) + Send,
    {
        let said = fetching.asking.describe(self.hash).await?;
        let limit = match said.kind {
            FileKind::File => MAX_FILE,
            FileKind::Folder => MAX_MANIFEST as u64,
        };
        let size = said.size;
        if size > limit {
            return Err(FetchError::TooLarge { size, limit });
        }
        let (mut object, last) = fetching.object(self.hash, size).await?;
        let to = self.to.clone();
        let (hash, kind) = (self.hash, said.kind);
        blocking(move || {
            let target = to.resolve(&said.name).map_err(disk(to.path()))?;
            let Some(range) = object.list.range(object.list.count() - 1) else {
                return Err(FetchError::Unfinished);
            };
            let stage = match kind {
                FileKind::File => {
                    let part = PartFile::open(&target, &hash).map_err(disk(&target))?;
                    let file = part.file();
                    file.set_len(size)
                        .and_then(|()| write_all_at(file, &last, range.start))
                        .map_err(disk(part.path()))?;
                    object.count(&last);
                    Stage::File { target, part, object }
                }
                FileKind::Folder => {
                    let mut bytes = vec![0; usize::try_from(size).unwrap_or(MAX_MANIFEST)];
                    store_at(&mut bytes, &last, range.start)?;
                    object.count(&last);
                    Stage::Manifest { target, bytes, object }
                }
            };
            Ok(stage)
        })
        .await
    }

    /// Reads the manifest that was fetched. Where it is none, whoever called this a folder lied,
    /// and the next source is asked anew.
    async fn open_folder(&mut self) -> Result<Stage, FetchError> {
        let stage = std::mem::replace(&mut self.stage, Stage::New);
        let Stage::Manifest { target, bytes, .. } = stage else {
            return Err(FetchError::Unfinished);
        };
        let hash = self.hash;
        blocking(move || {
            let manifest = Manifest::decode(Bytes::from(bytes))?;
            let part = PartFolder::open(&target, &hash).map_err(disk(&target))?;
            let files = part.files();
            for entry in manifest.entries() {
                if let Entry::Folder { path, .. } = entry {
                    let path = path.under(&files);
                    std::fs::create_dir(&path).map_err(disk(&path))?;
                }
            }
            Ok(Stage::Folder(Folder {
                target,
                part,
                manifest: Arc::new(manifest),
                next: 0,
                tried: 0,
                current: None,
                done: 0,
            }))
        })
        .await
    }
}

impl Object {
    /// Counts the last piece, which is there before the others.
    fn count(&mut self, last: &[u8]) {
        if self.have.insert(self.list.count() - 1) {
            self.done += last.len() as u64;
        }
    }

    /// Runs of missing pieces.
    fn missing(&self) -> VecDeque<(u64, u16)> {
        let mut seen = self.have.clone();
        let mut runs = VecDeque::new();
        while let Some((first, count)) = seen.first_gap(u32::from(RUN)) {
            for index in (first..).take(count as usize) {
                seen.insert(index);
            }
            runs.push_back((first, u16::try_from(count).unwrap_or(RUN)));
        }
        runs
    }
}

/// Where verified pieces go.
enum Sink<'m> {
    File(Arc<File>, PathBuf),
    Memory(&'m mut Vec<u8>),
}

/// A piece that was checked, and written where that is to a file.
struct Checked {
    index: u64,
    bytes: Vec<u8>,
    result: Result<(), FetchError>,
}

/// A small file of a folder that was checked and written.
struct CheckedFile {
    at: usize,
    bytes: Vec<u8>,
    result: Result<(), FetchError>,
}

/// One source at work.
struct Fetching<S, P> {
    asking: Asking<S>,
    /// Buffers for pieces, used again.
    spare: Vec<Vec<u8>>,
    progress: P,
    at: Progress,
    /// Bytes that this source sent and that were verified.
    verified: u64,
}

impl<S, P> Fetching<S, P>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    P: FnMut(Progress) + Send,
{
    /// The list of a file, and its last piece, which proves the size.
    async fn object(&mut self, hash: Hash, size: u64) -> Result<(Object, Vec<u8>), FetchError> {
        let list = Arc::new(self.asking.list(hash, size).await?);
        let first = list.count() - 1;
        let mut bytes = Vec::new();
        if size > 0 {
            let count = 1;
            self.asking.ask(&Request::Data { hash, first, count }).await?;
            let len = list.range(first).map_or(0, |range| range.end - range.start);
            self.asking.piece(first, len, &mut bytes).await?;
        }
        let checked = Arc::clone(&list);
        let bytes = blocking(move || {
            checked.verify_piece(first, &bytes)?;
            Ok(bytes)
        })
        .await?;
        self.verified += bytes.len().max(1) as u64;
        let have = PieceSet::new(&list);
        let object = Object { hash, list, have, done: 0 };
        Ok((object, bytes))
    }

    /// All pieces that are missing. While one is checked and written the next comes in.
    async fn rest(&mut self, object: &mut Object, sink: &mut Sink<'_>) -> Result<(), FetchError> {
        self.report(0);
        let mut pending = None;
        let came = self.pieces(object, sink, &mut pending).await;
        // What came before the error is good all the same.
        let settled = self.settle(object, sink, &mut pending).await;
        came.and(settled)
    }

    async fn pieces(
        &mut self,
        object: &mut Object,
        sink: &mut Sink<'_>,
        pending: &mut Option<JoinHandle<Checked>>,
    ) -> Result<(), FetchError> {
        let hash = object.hash;
        let mut wanted = object.missing();
        let mut asked = VecDeque::new();
        loop {
            while asked.len() < 2
                && let Some((first, count)) = wanted.pop_front()
            {
                let request = Request::Data { hash, first, count };
                self.asking.ask(&request).await?;
                asked.push_back((first, count));
            }
            let Some((first, count)) = asked.pop_front() else {
                return Ok(());
            };
            for index in (first..).take(usize::from(count)) {
                let range = object.list.range(index).unwrap_or_default();
                let mut buffer = self.spare.pop().unwrap_or_default();
                let len = range.end - range.start;
                self.asking.piece(index, len, &mut buffer).await?;
                self.settle(object, sink, pending).await?;
                let list = Arc::clone(&object.list);
                let file = match sink {
                    Sink::File(file, path) => Some((Arc::clone(file), path.clone())),
                    Sink::Memory(_) => None,
                };
                *pending = Some(spawn_blocking(move || {
                    let checked = list.verify_piece(index, &buffer).map_err(FetchError::from);
                    let result = checked.and_then(|()| match file {
                        None => Ok(()),
                        Some((file, path)) => {
                            write_all_at(&file, &buffer, range.start).map_err(disk(&path))
                        }
                    });
                    let bytes = buffer;
                    Checked { index, bytes, result }
                }));
            }
        }
    }

    async fn settle(
        &mut self,
        object: &mut Object,
        sink: &mut Sink<'_>,
        pending: &mut Option<JoinHandle<Checked>>,
    ) -> Result<(), FetchError> {
        let Some(checked) = pending else {
            return Ok(());
        };
        let checked = checked.await;
        *pending = None;
        let checked = checked.map_err(|_| FetchError::Stopped)?;
        checked.result?;
        let len = checked.bytes.len() as u64;
        if let Sink::Memory(bytes) = sink {
            let range = object.list.range(checked.index).unwrap_or_default();
            store_at(bytes, &checked.bytes, range.start)?;
        }
        if object.have.insert(checked.index) {
            object.done += len;
        }
        self.verified += len;
        if matches!(sink, Sink::File(..)) {
            self.report(len);
        }
        self.spare.push(checked.bytes);
        Ok(())
    }

    /// All files that are missing in a folder.
    async fn folder(&mut self, folder: &mut Folder) -> Result<(), FetchError> {
        let manifest = Arc::clone(&folder.manifest);
        let begun = folder.current.as_ref().map_or(0, |(object, _)| object.done);
        self.at = Progress { done: folder.done.saturating_add(begun), total: manifest.total() };
        self.report(0);
        while let Some(entry) = manifest.entries().get(folder.next) {
            match entry {
                Entry::File { path, size, .. } if *size > PIECE => {
                    let large = self.large_file(folder, entry).await;
                    large.map_err(in_folder(path))?;
                }
                _ => {
                    let mut pending = None;
                    let came = self.small_files(folder, &mut pending).await;
                    let settled = self.settle_file(folder, &mut pending).await;
                    came.and(settled)?;
                }
            }
        }
        Ok(())
    }

    async fn large_file(&mut self, folder: &mut Folder, entry: &Entry) -> Result<(), FetchError> {
        let Entry::File { path, size, hash, mode } = entry else {
            return Ok(());
        };
        let at = path.under(&folder.part.files());
        let (object, file) = match &mut folder.current {
            Some(current) => current,
            None => {
                let (mut object, last) = self.object(*hash, *size).await?;
                let last_at = object.list.range(object.list.count() - 1);
                let again = folder.next < folder.tried;
                folder.tried = folder.tried.max(folder.next + 1);
                let (files, path) = (folder.part.files(), path.clone());
                let (size, mode) = (*size, *mode);
                let (file, last) = blocking(move || {
                    let file = PartFolder::create(&files, &path, mode, again)
                        .and_then(|file| {
                            file.set_len(size)?;
                            write_all_at(&file, &last, last_at.unwrap_or_default().start)?;
                            Ok(file)
                        })
                        .map_err(disk(&path.under(&files)))?;
                    Ok((Arc::new(file), last))
                })
                .await?;
                object.count(&last);
                self.report(last.len() as u64);
                folder.current.insert((object, file))
            }
        };
        let mut sink = Sink::File(Arc::clone(file), at);
        self.rest(object, &mut sink).await?;
        folder.done = folder.done.saturating_add(*size);
        folder.next += 1;
        folder.current = None;
        Ok(())
    }

    /// The files of at most one piece up to the next larger one. Each is asked for ahead, and
    /// written while the next comes in.
    async fn small_files(
        &mut self,
        folder: &mut Folder,
        pending: &mut Option<JoinHandle<CheckedFile>>,
    ) -> Result<(), FetchError> {
        let manifest = Arc::clone(&folder.manifest);
        let entries = manifest.entries();
        let mut asked: VecDeque<usize> = VecDeque::new();
        let mut ahead = folder.next;
        loop {
            while asked.len() < AHEAD {
                match entries.get(ahead) {
                    Some(Entry::File { size, .. }) if *size > PIECE => break,
                    Some(Entry::File { hash, size, .. }) if *size > 0 => {
                        let (hash, first, count) = (*hash, 0, 1);
                        self.asking.ask(&Request::Data { hash, first, count }).await?;
                    }
                    Some(_) => {}
                    None => break,
                }
                asked.push_back(ahead);
                ahead += 1;
            }
            let Some(at) = asked.pop_front() else {
                return Ok(());
            };
            let Some(Entry::File { path, size, hash, mode }) = entries.get(at) else {
                // A folder: made before. In turn, so that what was settled stays in order.
                self.settle_file(folder, pending).await?;
                folder.next = at + 1;
                continue;
            };
            let mut buffer = self.spare.pop().unwrap_or_default();
            buffer.clear();
            if *size > 0 {
                let came = self.asking.piece(0, *size, &mut buffer).await;
                came.map_err(in_folder(path))?;
            }
            self.settle_file(folder, pending).await?;
            let again = at < folder.tried;
            folder.tried = folder.tried.max(at + 1);
            let (files, path) = (folder.part.files(), path.clone());
            let (hash, size, mode) = (*hash, *size, *mode);
            *pending = Some(spawn_blocking(move || {
                let result = write_small(&files, &path, (hash, size, mode), &buffer, again);
                CheckedFile { at, bytes: buffer, result: result.map_err(in_folder(&path)) }
            }));
        }
    }

    async fn settle_file(
        &mut self,
        folder: &mut Folder,
        pending: &mut Option<JoinHandle<CheckedFile>>,
    ) -> Result<(), FetchError> {
        let Some(checked) = pending else {
            return Ok(());
        };
        let checked = checked.await;
        *pending = None;
        let checked = checked.map_err(|_| FetchError::Stopped)?;
        checked.result?;
        let len = checked.bytes.len() as u64;
        folder.next = checked.at + 1;
        folder.done = folder.done.saturating_add(len);
        self.verified += len;
        self.report(len);
        self.spare.push(checked.bytes);
        Ok(())
    }

    fn report(&mut self, bytes: u64) {
        self.at.done = self.at.done.saturating_add(bytes);
        (self.progress)(self.at);
    }
}

/// Checks the only piece of a file, then makes the file.
fn write_small(
    files: &Path,
    path: &RelPath,
    (hash, size, mode): (Hash, u64, u32),
    bytes: &[u8],
    again: bool,
) -> Result<(), FetchError> {
    if let Some(list) = PieceList::single(&hash, size) {
        list.verify_piece(0, bytes)?;
    }
    PartFolder::create(files, path, mode, again)
        .and_then(|file| write_all_at(&file, bytes, 0))
        .map_err(disk(&path.under(files)))
}

fn store_at(all: &mut [u8], piece: &[u8], offset: u64) -> Result<(), FetchError> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let slot = all.get_mut(start..).and_then(|rest| rest.get_mut(..piece.len()));
    slot.ok_or(FetchError::Unfinished)?.copy_from_slice(piece);
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    spawn_blocking(work).await.unwrap_or(Err(FetchError::Stopped))
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    let path = path.to_owned();
    move |source| FetchError::Disk { path, source }
}

fn in_folder(path: &RelPath) -> impl FnOnce(FetchError) -> FetchError {
    let path = path.clone();
    move |source| FetchError::InFolder { path, source: Box::new(source) }
}
