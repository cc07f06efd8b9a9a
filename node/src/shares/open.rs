//! Open shares: a file, or the files of a folder, which are checked for changes while they are read.

use std::fs::File;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use peerkit_proto::files::{Asker, FileRefusal, PieceList, PiecePosition, PieceValue};
use peerkit_proto::id::Hash;

use super::Shares;
use super::index::{Location, Share};
use crate::disk::cached_read::CachedRead;
use crate::disk::fingerprint::{Comparison, Fingerprint};
use crate::disk::folder::{OpenFolder, open_no_follow};
use crate::disk::read_exact_at;
use crate::lock::read;

/// A shared file, or a folder's manifest, open for reading.
#[derive(Debug)]
pub(crate) struct OpenShare {
    list: PieceList,
    content: ShareContent,
}

#[derive(Debug)]
enum ShareContent {
    Memory(Bytes),
    File { file: File, fingerprint: Fingerprint, cached: OnceLock<CachedRead> },
}

/// A shared folder whose files are opened when they are read.
#[derive(Debug)]
pub(crate) struct OpenTree {
    shares: Shares,
    /// The shares of this folder, each with its open folder.
    copies: Vec<(Arc<Share>, OpenFolder)>,
    /// The file that was read last, which is usually read next.
    last: Option<(usize, OpenShare)>,
}

impl OpenShare {
    /// Opens the content at `location`. Returns `None` if it can't be opened. Does not check whether the
    /// content was changed: [`read`](Self::read) and [`is_unchanged`](Self::is_unchanged) do that. Blocks on
    /// the disk.
    pub(super) fn at(location: &Location, list: PieceList) -> Option<Self> {
        let share = &location.share;
        let Some(at) = location.item else {
            return Some(Self::memory(share.manifest.clone()?, list));
        };
        let item = share.items.get(at)?;
        let file = open_no_follow(&share.path_of(at)?).ok()?;
        Some(Self::file(file, item.fingerprint, list))
    }

    pub(crate) fn memory(bytes: Bytes, list: PieceList) -> Self {
        Self { list, content: ShareContent::Memory(bytes) }
    }

    fn file(file: File, fingerprint: Fingerprint, list: PieceList) -> Self {
        Self { list, content: ShareContent::File { file, fingerprint, cached: OnceLock::new() } }
    }

    /// Returns false if the fingerprint shows that the file was changed. Returns true if the file is unchanged
    /// or the fingerprint leaves a doubt.
    pub(super) fn is_unchanged(&self) -> bool {
        let ShareContent::File { file, fingerprint, .. } = &self.content else { return true };
        let now = file.metadata().map(|now| fingerprint.compare(&Fingerprint::of(&now)));
        now.is_ok_and(|compared| compared != Comparison::Different)
    }

    /// Returns the piece list.
    #[must_use]
    pub(crate) fn list(&self) -> &PieceList {
        &self.list
    }

    /// Returns values of the piece list, as [`values_of`] does.
    pub(crate) fn values(&self, first: u64, count: u16) -> Result<&[PieceValue], FileRefusal> {
        values_of(&self.list, first, count)
    }

    /// Reads the rest of piece `index` after its first `skip` bytes into `out`, which has to be of that
    /// length. Blocks on the disk.
    ///
    /// The file's fingerprint is checked after the read. If it leaves a doubt, the piece itself is checked
    /// against its hash.
    ///
    /// # Errors
    /// [`FileRefusal::BadRequest`] if there is no such piece or `out` has another length,
    /// [`FileRefusal::Changed`] if the file was changed or can't be read. The content of `out` must not be
    /// used then.
    pub(crate) fn read(&self, index: u64, skip: usize, out: &mut [u8]) -> Result<(), FileRefusal> {
        let range = self.list.range(index).ok_or(FileRefusal::BadRequest)?;
        let begin = range.start.saturating_add(skip as u64);
        if begin.saturating_add(out.len() as u64) != range.end {
            return Err(FileRefusal::BadRequest);
        }
        match &self.content {
            ShareContent::Memory(bytes) => {
                let start = usize::try_from(begin).map_err(|_| FileRefusal::BadRequest)?;
                let piece = bytes.get(start..).and_then(|rest| rest.get(..out.len()));
                out.copy_from_slice(piece.ok_or(FileRefusal::BadRequest)?);
                Ok(())
            }
            ShareContent::File { file, fingerprint, .. } => {
                let read = read_exact_at(file, out, begin);
                let now = read.and_then(|()| file.metadata());
                let compared = now.map(|now| fingerprint.compare(&Fingerprint::of(&now)));
                match compared {
                    Ok(Comparison::Same) => Ok(()),
                    // The whole piece was read, so its hash decides.
                    Ok(Comparison::Doubtful) if skip == 0 => {
                        let checked = self.list.verify_piece(index, out);
                        checked.map_err(|_| FileRefusal::Changed)
                    }
                    // The start of the piece is missing, and the hash needs it.
                    Ok(Comparison::Doubtful) => {
                        let mut whole = vec![0; skip + out.len()];
                        self.read(index, 0, &mut whole)?;
                        out.copy_from_slice(whole.get(skip..).unwrap_or_default());
                        Ok(())
                    }
                    Ok(Comparison::Different) | Err(_) => Err(FileRefusal::Changed),
                }
            }
        }
    }

    /// Reads piece `index` after its first `skip` bytes into `out`, as far as it is in memory. Returns the
    /// number of bytes. Never blocks.
    ///
    /// Returns `None` if nothing is in memory, or if the file may have changed. Then use
    /// [`read`](Self::read).
    pub(crate) fn read_cached(&self, index: u64, skip: usize, out: &mut [u8]) -> Option<usize> {
        let ShareContent::File { file, fingerprint, cached } = &self.content else { return None };
        let range = self.list.range(index)?;
        let begin = range.start.checked_add(skip as u64)?;
        let left = usize::try_from(range.end.checked_sub(begin)?).ok()?;
        let room = left.min(out.len());
        let cached = cached.get_or_init(|| CachedRead::of(file));
        let read = cached.read(file, out.get_mut(..room)?, begin)?;
        // Checked after the read, as a change before or during the read matters.
        let now = Fingerprint::of(&file.metadata().ok()?);
        (fingerprint.compare(&now) == Comparison::Same).then_some(read)
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
    /// Opens the folder with this hash for `asker`. Its files are opened when they are read. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// [`FileRefusal::NotFound`] if `asker` may have no content with this hash,
    /// [`FileRefusal::BadRequest`] if it is a file.
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
        let open = |share: Arc<Share>| (Arc::clone(&share), OpenFolder::new(share.path.clone()));
        let copies: Vec<_> = folders.map(|location| open(location.share)).collect();
        if copies.is_empty() {
            return Err(FileRefusal::BadRequest);
        }
        Ok(OpenTree { shares: self.clone(), copies, last: None })
    }
}

impl OpenTree {
    /// Returns the sizes of the files, in the order of the manifest.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = u64> {
        // All copies have the same manifest, so the first one has the sizes of all.
        self.copies
            .first()
            .into_iter()
            .flat_map(|(share, _)| &share.items)
            .map(|item| item.fingerprint.size)
    }

    /// Reads the piece at `position` into `out`, which has to be of its length. Blocks on the disk.
    ///
    /// # Errors
    /// As [`OpenShare::read`].
    pub(crate) fn read(
        &mut self,
        position: &PiecePosition,
        out: &mut [u8],
    ) -> Result<(), FileRefusal> {
        if let Some((_, open)) = self.last.as_ref().filter(|(at, _)| *at == position.file)
            && open.read(position.index, 0, out).is_ok()
        {
            return Ok(());
        }
        // The open copy has failed. All copies are tried, from the first on.
        self.last = None;
        let copies = self.copies.iter();
        let read = copies.filter_map(|share| self.open(share, position.file)).find_map(|open| {
            let read = open.read(position.index, 0, out);
            read.is_ok().then_some(open)
        });
        self.last = Some((position.file, read.ok_or(FileRefusal::Changed)?));
        Ok(())
    }

    fn open(&self, (share, folder): &(Arc<Share>, OpenFolder), at: usize) -> Option<OpenShare> {
        let item = share.items.get(at)?;
        let size = item.fingerprint.size;
        let list = match PieceList::single(&item.hash, size) {
            Some(list) => list,
            None => self.shares.stored_list(&item.hash, size)?,
        };
        let file = folder.open(share.paths.get(at)?).ok()?;
        Some(OpenShare::file(file, item.fingerprint, list))
    }
}

/// Returns up to `count` values of `list` from `first` on.
///
/// # Errors
/// [`FileRefusal::BadRequest`] if there are none.
pub(crate) fn values_of(
    list: &PieceList,
    first: u64,
    count: u16,
) -> Result<&[PieceValue], FileRefusal> {
    let values = list.part(first, usize::from(count));
    if values.is_empty() { Err(FileRefusal::BadRequest) } else { Ok(values) }
}
