//! One shared file, open for reading, watched for change.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use bytes::Bytes;
use peerkit_proto::files::{PieceList, PieceValue, Refusal};

use super::stamp::{Likeness, Stamp};

/// A shared file, or a folder's manifest, open for reading.
#[derive(Debug)]
pub(crate) struct OpenShare {
    list: PieceList,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Memory(Bytes),
    File { file: File, stamp: Stamp },
}

impl OpenShare {
    pub(super) fn memory(bytes: Bytes, list: PieceList) -> Self {
        Self { list, content: Content::Memory(bytes) }
    }

    /// `None` where the file is not the one that was hashed, or can't be opened.
    pub(super) fn file(path: &Path, stamp: Stamp, list: PieceList) -> Option<Self> {
        // Looked at before it is opened: to open a pipe that took its place would wait for ever.
        let is_file = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
        let file = File::open(path).ok().filter(|_| is_file)?;
        let now = Stamp::of(&file.metadata().ok()?);
        if stamp.likeness(&now) == Likeness::Different {
            tracing::debug!(path = %path.display(), "changed since it was hashed");
            return None;
        }
        Some(Self { list, content: Content::File { file, stamp } })
    }

    /// Its piece list.
    #[must_use]
    pub(crate) fn list(&self) -> &PieceList {
        &self.list
    }

    /// `count` values of the piece list from `first` on.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] where it does not have them all.
    pub(crate) fn values(&self, first: u64, count: u16) -> Result<&[PieceValue], Refusal> {
        let values = self.list.part(first, usize::from(count));
        if values.len() == usize::from(count) { Ok(values) } else { Err(Refusal::BadRequest) }
    }

    /// Reads piece `index` into `buffer`, replacing what it held. Blocks on the disk.
    ///
    /// That the file is the one that was hashed is checked after the reading; where its times leave
    /// a doubt the piece itself is checked.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] where there is no such piece, [`Refusal::Changed`] where the file is
    /// another or can't be read; `buffer` must not be used then.
    pub(crate) fn read_piece(&self, index: u64, buffer: &mut Vec<u8>) -> Result<(), Refusal> {
        let range = self.list.range(index).ok_or(Refusal::BadRequest)?;
        let len = usize::try_from(range.end - range.start).map_err(|_| Refusal::BadRequest)?;
        match &self.content {
            Content::Memory(bytes) => {
                let start = usize::try_from(range.start).map_err(|_| Refusal::BadRequest)?;
                let rest = bytes.get(start..).ok_or(Refusal::BadRequest)?;
                buffer.clear();
                buffer.extend_from_slice(rest.get(..len).ok_or(Refusal::BadRequest)?);
                Ok(())
            }
            Content::File { file, stamp } => {
                buffer.resize(len, 0);
                let read = read_exact_at(file, buffer, range.start);
                let now = read.and_then(|()| file.metadata());
                let likeness = now.map(|now| stamp.likeness(&Stamp::of(&now)));
                match likeness {
                    Ok(Likeness::Same) => Ok(()),
                    Ok(Likeness::Doubtful) => {
                        let checked = self.list.verify_piece(index, buffer);
                        checked.map_err(|_| Refusal::Changed)
                    }
                    Ok(Likeness::Different) | Err(_) => Err(Refusal::Changed),
                }
            }
        }
    }
}

/// Fills `buffer` from `offset` on, whatever else reads the file at the same time.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Fills `buffer` from `offset` on, whatever else reads the file at the same time.
#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !buffer.is_empty() {
        match file.seek_read(buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}
