//! Pieces on their way to the disk.

/// Pieces of one source that are checked and written together.
#[derive(Debug, Default)]
pub(in crate::transfer) struct Batch {
    /// Never shrinks: what is behind `len` is left over from earlier pieces.
    bytes: Vec<u8>,
    len: usize,
    /// The pieces in order, each with its number of bytes.
    pub(in crate::transfer) pieces: Vec<(u64, usize)>,
}

impl Batch {
    /// Returns how many bytes its pieces have.
    pub(in crate::transfer) fn len(&self) -> usize {
        self.len
    }

    /// Makes it empty; its memory stays.
    pub(in crate::transfer) fn clear(&mut self) {
        self.len = 0;
        self.pieces.clear();
    }

    /// Adds a piece of `len` bytes, and returns the memory that they go into.
    pub(in crate::transfer) fn put(&mut self, piece: u64, len: usize) -> &mut [u8] {
        let start = self.len;
        self.len = start.saturating_add(len);
        if self.bytes.len() < self.len {
            self.bytes.resize(self.len, 0);
        }
        self.pieces.push((piece, len));
        self.bytes.get_mut(start..self.len).unwrap_or_default()
    }

    /// Returns the pieces in order, each with its bytes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut rest = &self.bytes[..];
        self.pieces.iter().map(move |(piece, len)| {
            let (bytes, after) = rest.split_at_checked(*len).unwrap_or_default();
            rest = after;
            (*piece, bytes)
        })
    }

    /// Forgets the last piece, whose bytes have not come.
    pub(in crate::transfer) fn take_back(&mut self) {
        if let Some((_, len)) = self.pieces.pop() {
            self.len = self.len.saturating_sub(len);
        }
    }
}
