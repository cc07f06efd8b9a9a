//! The numbering of the pieces of one fetch: those of a file, or those of all files of a folder.

use std::ops::Range;

use super::manifest::{Manifest, ManifestEntry};
use super::pieces::{MAX_FILE, PIECE, PieceError};

/// The numbering of the pieces of one fetch.
///
/// Numbers continue from file to file. The files of a folder are in the order of the manifest. An empty file
/// has no pieces here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The number of the first piece and the size in bytes of each file.
    files: Vec<(u64, u64)>,
    /// The number of pieces.
    count: u64,
}

/// The position of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PiecePosition {
    /// The index of the file. Subfolders are not counted.
    pub file: usize,
    /// The index of the piece in the file.
    pub index: u64,
    /// The range of its bytes in the file.
    pub range: Range<u64>,
}

impl PiecePosition {
    /// Returns the length of the piece, in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    /// Returns whether the piece is empty. It never is, because an empty file has no pieces here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Layout {
    /// Numbers the pieces of one file of `size` bytes.
    ///
    /// # Errors
    /// If `size` is over [`MAX_FILE`].
    pub fn file(size: u64) -> Result<Self, PieceError> {
        Self::new([size])
    }

    /// Numbers the pieces of a folder's files.
    #[must_use]
    pub fn folder(manifest: &Manifest) -> Self {
        let sizes = manifest.entries().iter().filter_map(|entry| match entry {
            ManifestEntry::File { size, .. } => Some(*size),
            ManifestEntry::Folder { .. } => None,
        });
        // No file of a manifest is over the limit, so nothing is cut and nothing fails here.
        Self::new(sizes.map(|size| size.min(MAX_FILE))).unwrap_or_else(|_| Self::empty())
    }

    /// Numbers the pieces of files of these sizes.
    ///
    /// # Errors
    /// If one of them is over [`MAX_FILE`].
    pub fn new(sizes: impl IntoIterator<Item = u64>) -> Result<Self, PieceError> {
        let mut layout = Self::empty();
        for size in sizes {
            if size > MAX_FILE {
                return Err(PieceError::TooLarge(size));
            }
            layout.files.push((layout.count, size));
            layout.count = layout.count.saturating_add(size.div_ceil(PIECE));
        }
        Ok(layout)
    }

    /// Returns the number of pieces, which is 0 if all files are empty.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the number of files.
    #[must_use]
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Returns the size of a file, in bytes.
    #[must_use]
    pub fn size(&self, file: usize) -> Option<u64> {
        self.files.get(file).map(|(_, size)| *size)
    }

    /// Returns the range of the numbers of a file's pieces. It is empty if there is no such file.
    #[must_use]
    pub fn pieces(&self, file: usize) -> Range<u64> {
        let Some((first, size)) = self.files.get(file) else { return 0..0 };
        *first..first.saturating_add(size.div_ceil(PIECE))
    }

    /// Returns the position of the piece with this number, or `None` if there is no such piece.
    #[must_use]
    pub fn position(&self, piece: u64) -> Option<PiecePosition> {
        if piece >= self.count {
            return None;
        }
        let file = self.file_of(piece)?;
        let (first, size) = *self.files.get(file)?;
        let index = piece.checked_sub(first)?;
        let start = index.checked_mul(PIECE)?;
        Some(PiecePosition { file, index, range: start..size.min(start.saturating_add(PIECE)) })
    }

    fn file_of(&self, piece: u64) -> Option<usize> {
        // Most files of a folder have one piece. If all have, the number of the piece is the index of the
        // file.
        let same = usize::try_from(piece).ok()?;
        if self.files.get(same).is_some_and(|(first, size)| *first == piece && *size > 0) {
            return Some(same);
        }
        // If several files have the same first piece, all but the last are empty, so the last is right.
        self.files.partition_point(|(first, _)| *first <= piece).checked_sub(1)
    }

    fn empty() -> Self {
        Self { files: Vec::new(), count: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn piece_numbers_continue_from_file_to_file() {
        let layout = Layout::new([0, 1, 0, 0, PIECE, PIECE + 1, 0]).unwrap();
        assert_eq!(layout.count(), 4);
        let positions: Vec<_> = (0..5).map(|piece| layout.position(piece)).collect();
        let at = |file, index, range| Some(PiecePosition { file, index, range });
        assert_eq!(positions[0], at(1, 0, 0..1));
        assert_eq!(positions[1], at(4, 0, 0..PIECE));
        assert_eq!(positions[2], at(5, 0, 0..PIECE));
        assert_eq!(positions[3], at(5, 1, PIECE..PIECE + 1));
        assert_eq!(positions[4], None);
        assert_eq!(layout.pieces(5), 2..4);
        assert_eq!(layout.pieces(6), 4..4);
        assert_eq!(layout.pieces(7), 0..0);
        assert!(Layout::file(MAX_FILE + 1).is_err());
        assert_eq!(Layout::file(0).unwrap().position(0), None);
    }

    proptest! {
        #[test]
        fn every_byte_is_in_one_piece(sizes in proptest::collection::vec(0..4 * PIECE, 0..12)) {
            let layout = Layout::new(sizes.iter().copied()).unwrap();
            let mut seen = vec![0; sizes.len()];
            for piece in 0..layout.count() {
                let position = layout.position(piece).unwrap();
                prop_assert_eq!(position.range.start, seen[position.file]);
                prop_assert!(!position.is_empty() && position.len() <= PIECE);
                prop_assert!(layout.pieces(position.file).contains(&piece));
                seen[position.file] = position.range.end;
            }
            prop_assert_eq!(seen, sizes);
        }
    }
}
