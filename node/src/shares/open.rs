//! One shared file, or the files of one shared folder, open for reading, watched for change.

use std::fs::File;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use peerkit_proto::files::{Asker, FileRefusal, PieceList, PiecePosition, PieceValue};
use peerkit_proto::id::Hash;

use super::Shares;
use super::index::{Location, Top};
use crate::disk::cached_read::CachedRead;
use crate::disk::fingerprint::{Fingerprint, Likeness};
use crate::disk::folder::{OpenFolder, open_plain};
use crate::disk::read_exact_at;
use crate::lock::read;

/// A shared file, or a folder's manifest, open for reading.
#[derive(Debug)]
pub(crate) struct OpenShare {
    list: PieceList,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Memory(Bytes),
    File { file: File, stamp: Fingerprint, cached: OnceLock<CachedRead> },
}

/// A shared folder, whose files are opened as they are read.
#[derive(Debug)]
pub(crate) struct OpenTree {
    shares: Shares,
    /// Everywhere that the folder is shared from.
    tops: Vec<(Arc<Top>, OpenFolder)>,
    /// The file that was read last, which is most often the next.
    last: Option<(usize, OpenShare)>,
}

impl OpenShare {
    /// Opens what is at `location`. Returns `None` if it can't be opened. Whether it still is what was
    /// hashed is seen when it is read, and by [`is_as_hashed`](Self::is_as_hashed). Blocks on the disk.
    pub(super) fn at(location: &Location, list: PieceList) -> Option<Self> {
        let top = &location.top;
        let Some(at) = location.item else {
            return Some(Self::memory(top.manifest.clone()?, list));
        };
        let item = top.items.get(at)?;
        let file = open_plain(&top.path_of(at)?).ok()?;
        Some(Self::file(file, item.stamp, list))
    }

    pub(crate) fn memory(bytes: Bytes, list: PieceList) -> Self {
        Self { list, content: Content::Memory(bytes) }
    }

    fn file(file: File, stamp: Fingerprint, list: PieceList) -> Self {
        Self { list, content: Content::File { file, stamp, cached: OnceLock::new() } }
    }

    /// Whether it looks as it did when it was hashed, or nearly.
    pub(super) fn is_as_hashed(&self) -> bool {
        let Content::File { file, stamp, .. } = &self.content else { return true };
        let now = file.metadata().map(|now| stamp.likeness(&Fingerprint::of(&now)));
        now.is_ok_and(|likeness| likeness != Likeness::Different)
    }

    /// Its piece list.
    #[must_use]
    pub(crate) fn list(&self) -> &PieceList {
        &self.list
    }

    /// As [`values_of`] its piece list.
    pub(crate) fn values(&self, first: u64, count: u16) -> Result<&[PieceValue], FileRefusal> {
        values_of(&self.list, first, count)
    }

    /// Reads what piece `index` has from `skip` on into `out`, which has to be of that length.
    /// Blocks on the disk.
    ///
    /// That the file is the one that was hashed is checked after the reading; where its times leave
    /// a doubt the piece itself is checked.
    ///
    /// # Errors
    /// [`FileRefusal::BadRequest`] where there is no such piece, or it is of another length;
    /// [`FileRefusal::Changed`] where the file is another or can't be read. What is in `out` must not
    /// be used then.
    pub(crate) fn read(&self, index: u64, skip: usize, out: &mut [u8]) -> Result<(), FileRefusal> {
        let range = self.list.range(index).ok_or(FileRefusal::BadRequest)?;
        let begin = range.start.saturating_add(skip as u64);
        if begin.saturating_add(out.len() as u64) != range.end {
            return Err(FileRefusal::BadRequest);
        }
        match &self.content {
            Content::Memory(bytes) => {
                let start = usize::try_from(begin).map_err(|_| FileRefusal::BadRequest)?;
                let piece = bytes.get(start..).and_then(|rest| rest.get(..out.len()));
                out.copy_from_slice(piece.ok_or(FileRefusal::BadRequest)?);
                Ok(())
            }
            Content::File { file, stamp, .. } => {
                let read = read_exact_at(file, out, begin);
                let now = read.and_then(|()| file.metadata());
                let likeness = now.map(|now| stamp.likeness(&Fingerprint::of(&now)));
                match likeness {
                    Ok(Likeness::Same) => Ok(()),
                    Ok(Likeness::Doubtful) if skip == 0 => {
                        let checked = self.list.verify_piece(index, out);
                        checked.map_err(|_| FileRefusal::Changed)
                    }
                    Ok(Likeness::Doubtful) => {
                        let mut whole = vec![0; skip + out.len()];
                        self.read(index, 0, &mut whole)?;
                        out.copy_from_slice(whole.get(skip..).unwrap_or_default());
                        Ok(())
                    }
                    Ok(Likeness::Different) | Err(_) => Err(FileRefusal::Changed),
                }
            }
        }
    }

    /// Reads what piece `index` has from `skip` on into `out`, as far as it is in memory, and tells
    /// how much that is. Never blocks.
    ///
    /// `None` where nothing is, or there is any doubt that the file is the one that was hashed:
    /// [`read`](Self::read) has to look then.
    pub(crate) fn read_at_once(&self, index: u64, skip: usize, out: &mut [u8]) -> Option<usize> {
        let Content::File { file, stamp, cached } = &self.content else { return None };
        let range = self.list.range(index)?;
        let begin = range.start.checked_add(skip as u64)?;
        let left = usize::try_from(range.end.checked_sub(begin)?).ok()?;
        let room = left.min(out.len());
        let cached = cached.get_or_init(|| CachedRead::of(file));
        let read = cached.read(file, out.get_mut(..room)?, begin)?;
        let now = Fingerprint::of(&file.metadata().ok()?);
        (stamp.likeness(&now) == Likeness::Same).then_some(read)
    }

    /// Reads piece `index` into `buffer`, replacing what it held.
    #[cfg(test)]
    pub(crate) fn read_piece(&self, index: u64, buffer: &mut Vec<u8>) -> Result<(), FileRefusal> {
        let range = self.list.range(index).ok_or(FileRefusal::BadRequest)?;
        buffer.resize(usize::try_from(range.end - range.start).unwrap(), 0);
        self.read(index, 0, buffer)
    }
}

impl Shares {
    /// Opens the folder that has this hash, for `asker`; its files are opened when they are read.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`FileRefusal::NotFound`] where nothing that `asker` may have has it, [`FileRefusal::BadRequest`]
    /// where it is a file.
    pub(crate) fn open_tree(
        &self,
        hash: &Hash,
        asker: &Asker<'_>,
    ) -> Result<OpenTree, FileRefusal> {
        let locations = read(&self.index).find(hash, Some(asker));
        if locations.is_empty() {
            return Err(FileRefusal::NotFound);
        }
        let folders = locations.into_iter().filter(|location| location.item.is_none());
        let open = |top: Arc<Top>| (Arc::clone(&top), OpenFolder::new(top.path.clone()));
        let tops: Vec<_> = folders.map(|location| open(location.top)).collect();
        if tops.is_empty() {
            return Err(FileRefusal::BadRequest);
        }
        Ok(OpenTree { shares: self.clone(), tops, last: None })
    }
}

impl OpenTree {
    /// The sizes of the files, in the order of the manifest.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = u64> {
        self.tops.first().into_iter().flat_map(|(top, _)| &top.items).map(|item| item.stamp.size)
    }

    /// Reads the piece at `place` into `out`, which has to be of its length. Blocks on the disk.
    ///
    /// # Errors
    /// As [`OpenShare::read`].
    pub(crate) fn read(
        &mut self,
        place: &PiecePosition,
        out: &mut [u8],
    ) -> Result<(), FileRefusal> {
        if let Some((_, open)) = self.last.as_ref().filter(|(at, _)| *at == place.file)
            && open.read(place.index, 0, out).is_ok()
        {
            return Ok(());
        }
        self.last = None;
        let tops = self.tops.iter();
        let read = tops.filter_map(|top| self.open(top, place.file)).find_map(|open| {
            let read = open.read(place.index, 0, out);
            read.is_ok().then_some(open)
        });
        self.last = Some((place.file, read.ok_or(FileRefusal::Changed)?));
        Ok(())
    }

    fn open(&self, (top, folder): &(Arc<Top>, OpenFolder), at: usize) -> Option<OpenShare> {
        let item = top.items.get(at)?;
        let size = item.stamp.size;
        let list = match PieceList::single(&item.hash, size) {
            Some(list) => list,
            None => self.shares.known_list(&item.hash, size)?,
        };
        let file = folder.open(top.paths.get(at)?).ok()?;
        Some(OpenShare::file(file, item.stamp, list))
    }
}

/// Up to `count` values of `list` from `first` on.
///
/// # Errors
/// [`FileRefusal::BadRequest`] where there are none.
pub(crate) fn values_of(
    list: &PieceList,
    first: u64,
    count: u16,
) -> Result<&[PieceValue], FileRefusal> {
    let values = list.part(first, usize::from(count));
    if values.is_empty() { Err(FileRefusal::BadRequest) } else { Ok(values) }
}
