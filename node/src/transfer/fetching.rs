//! One source at work on a download.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use peerkit_proto::files::{
    Description, Entry, Manifest, PIECE, PieceList, PieceSet, RelPath, Request,
};
use peerkit_proto::id::Hash;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{JoinHandle, spawn_blocking};

use super::asking::Asking;
use super::part::{PartFolder, write_all_at};
use super::{FetchError, Progress};

/// Pieces asked for at once; the next are asked for before these have come. 64 MiB: at 1 GB/s the
/// question is on its way for longer than any round trip takes.
const RUN: u16 = 64;

/// Small files of a folder asked for ahead, so that each does not cost a round trip. 32 questions
/// of 47 bytes fit any socket's buffer: the source, which answers one after the other, can't stop
/// reading them.
const AHEAD: usize = 32;

/// A file whose list and size are proven, and which of its pieces are there.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) hash: Hash,
    pub(super) list: Arc<PieceList>,
    pub(super) have: PieceSet,
    /// Bytes of the pieces that are there.
    pub(super) done: u64,
}

#[derive(Debug)]
pub(super) struct Folder {
    pub(super) target: PathBuf,
    pub(super) part: PartFolder,
    pub(super) manifest: Arc<Manifest>,
    /// Entries before this one are done.
    pub(super) next: usize,
    /// Entries before this one may have left a file.
    pub(super) tried: usize,
    /// The entry `next`, where it is a file of several pieces and has been begun.
    pub(super) current: Option<(Object, Arc<File>)>,
    /// Bytes of the files that are done.
    pub(super) done: u64,
}

impl Object {
    /// Counts the last piece, which is there before the others.
    pub(super) fn count(&mut self, last: &[u8]) {
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
pub(super) enum Sink<'m> {
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
pub(super) struct Fetching<S, P> {
    asking: Asking<S>,
    /// Buffers for pieces, used again.
    spare: Vec<Vec<u8>>,
    progress: P,
    pub(super) at: Progress,
    /// Bytes that this source sent and that were verified.
    pub(super) verified: u64,
}

impl<S, P> Fetching<S, P>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    P: FnMut(Progress) + Send,
{
    pub(super) fn new(stream: S, progress: P) -> Self {
        Self {
            asking: Asking::new(stream),
            spare: Vec::new(),
            progress,
            at: Progress::default(),
            verified: 0,
        }
    }

    /// What the source says that it is.
    pub(super) async fn describe(&mut self, hash: Hash) -> Result<Description, FetchError> {
        self.asking.describe(hash).await
    }

    /// The list of a file, and its last piece, which proves the size.
    pub(super) async fn object(
        &mut self,
        hash: Hash,
        size: u64,
    ) -> Result<(Object, Vec<u8>), FetchError> {
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
    pub(super) async fn rest(
        &mut self,
        object: &mut Object,
        sink: &mut Sink<'_>,
    ) -> Result<(), FetchError> {
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
    pub(super) async fn folder(&mut self, folder: &mut Folder) -> Result<(), FetchError> {
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

pub(super) fn store_at(all: &mut [u8], piece: &[u8], offset: u64) -> Result<(), FetchError> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let slot = all.get_mut(start..).and_then(|rest| rest.get_mut(..piece.len()));
    slot.ok_or(FetchError::Unfinished)?.copy_from_slice(piece);
    Ok(())
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    spawn_blocking(work).await.unwrap_or(Err(FetchError::Stopped))
}

pub(super) fn disk(path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    let path = path.to_owned();
    move |source| FetchError::Disk { path, source }
}

fn in_folder(path: &RelPath) -> impl FnOnce(FetchError) -> FetchError {
    let path = path.clone();
    move |source| FetchError::InFolder { path, source: Box::new(source) }
}
