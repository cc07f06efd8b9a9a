//! Pieces: aligned parts of a file that can be checked one by one.
//!
//! BLAKE3 hashes a file as a binary tree (section 2.1 of its paper). Each aligned part of [`PIECE`] bytes is
//! a subtree of it. The value of that subtree (its *chaining value*) depends only on the piece and its
//! position. The values of all pieces combine to the root, which is the file's hash. So a list of values can
//! be checked with nothing but the hash, and a piece with nothing but its value, whichever node sent them.
//!
//! A file of at most one piece has one value, which is its hash. An empty file has one empty piece.
//!
//! A list proves the number of pieces, but not the size of the file. The last piece proves the size, because
//! its length is hashed with it.

use std::ops::Range;

use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Hash, ID_LEN};

/// Length of a piece, in bytes. The last piece of a file may be shorter. 1 MiB: the list, with 32 bytes for
/// each piece, is 1/32,768 of the file, and a bad piece costs 1 MiB.
pub const PIECE: u64 = 1 << 20;

/// Maximum size of a file, in bytes. 4 TiB: its list takes 128 MiB, and no source can make a fetch use more
/// memory for a list.
pub const MAX_FILE: u64 = 4 << 40;

/// Maximum number of pieces in one [`PieceSet`]. 2^26: 64 TiB, in a set of 8 MiB. A larger folder can be
/// fetched only file by file.
pub const MAX_PIECES: u64 = 1 << 26;

/// The value of one piece: the chaining value of its subtree, or the file's hash if it is the only piece.
pub type PieceValue = [u8; ID_LEN];

/// The values of all pieces of a file, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceList {
    size: u64,
    values: Vec<PieceValue>,
}

/// The reason why a size, a list or a piece is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PieceError {
    /// The file is larger than [`MAX_FILE`].
    #[error("a file of {0} bytes is over the limit of {MAX_FILE}")]
    TooLarge(u64),
    /// The number of values does not fit the size of the file.
    #[error("{given} values where the file's size needs {needed}")]
    Count {
        /// The number of values in the list.
        given: u64,
        /// The number of values that the size needs.
        needed: u64,
    },
    /// The values do not combine to the file's hash.
    #[error("the list of pieces is not that of the file")]
    BadList,
    /// The file has no piece with this number.
    #[error("the file has no piece {0}")]
    NoPiece(u64),
    /// There are more pieces than [`MAX_PIECES`].
    #[error("{0} pieces are over the limit of {MAX_PIECES}")]
    TooMany(u64),
    /// The piece's bytes are not those of the file.
    #[error("piece {0} is not that of the file")]
    BadPiece(u64),
}

impl PieceList {
    /// Computes the list of `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        let mut hasher = PieceHasher::new();
        hasher.update(content);
        hasher.finish()
    }

    /// Makes the list of a file of `size` bytes from the values of its pieces.
    ///
    /// # Errors
    /// If the size is over [`MAX_FILE`], or the number of values does not fit it.
    pub fn from_values(size: u64, values: Vec<PieceValue>) -> Result<Self, PieceError> {
        let needed = piece_count(size)?;
        let given = values.len() as u64;
        if given != needed {
            return Err(PieceError::Count { given, needed });
        }
        Ok(Self { size, values })
    }

    /// Returns the list of a file of at most one piece, whose only value is the hash. Returns `None` for a
    /// larger file.
    #[must_use]
    pub fn single(hash: &Hash, size: u64) -> Option<Self> {
        (size <= PIECE).then(|| Self { size, values: vec![*hash.as_bytes()] })
    }

    /// Returns the size of the file, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the number of pieces, which is at least 1.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.values.len() as u64
    }

    /// Returns the values, in order.
    #[must_use]
    pub fn values(&self) -> &[PieceValue] {
        &self.values
    }

    /// Returns the values from `first` on, at most `count` of them.
    #[must_use]
    pub fn part(&self, first: u64, count: usize) -> &[PieceValue] {
        let start = usize::try_from(first).unwrap_or(usize::MAX);
        let rest = self.values.get(start..).unwrap_or_default();
        &rest[..rest.len().min(count)]
    }

    /// Returns the hash to which the values combine. It is the file's hash if the list is right.
    #[must_use]
    pub fn root(&self) -> Hash {
        root(&self.values)
    }

    /// Checks the list against the file's hash.
    ///
    /// # Errors
    /// [`PieceError::BadList`].
    pub fn check(&self, hash: &Hash) -> Result<(), PieceError> {
        if self.root() == *hash { Ok(()) } else { Err(PieceError::BadList) }
    }

    /// Returns the range of bytes of piece `index`, or `None` if there is no such piece.
    #[must_use]
    pub fn range(&self, index: u64) -> Option<Range<u64>> {
        piece_range(self.size, index)
    }

    /// Checks that `bytes` are piece `index`.
    ///
    /// # Errors
    /// [`PieceError::NoPiece`] or [`PieceError::BadPiece`].
    pub fn verify_piece(&self, index: u64, bytes: &[u8]) -> Result<(), PieceError> {
        let range = self.range(index).ok_or(PieceError::NoPiece(index))?;
        let value = usize::try_from(index)
            .ok()
            .and_then(|index| self.values.get(index))
            .ok_or(PieceError::NoPiece(index))?;
        let fits = bytes.len() as u64 == range.end - range.start;
        if fits && piece_value(self.size, index, bytes) == Some(*value) {
            Ok(())
        } else {
            Err(PieceError::BadPiece(index))
        }
    }

    /// Returns the stored form of the list: the size (`u64`, little-endian) and the values.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.values.as_flattened().len());
        out.put_u64(self.size);
        out.put_raw(self.values.as_flattened());
        out
    }

    /// Reads the stored form. Does not check the list against a hash: [`check`](Self::check) does that.
    ///
    /// # Errors
    /// If bytes are missing, or the number of values does not fit the size.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let size = reader.u64("piece list size")?;
        let rest = reader.take_rest();
        let (values, over) = rest.as_chunks::<ID_LEN>();
        if !over.is_empty() {
            return Err(DecodeError::Trailing(over.len()));
        }
        Self::from_values(size, values.to_vec()).map_err(|_| DecodeError::Invalid("piece list"))
    }
}

/// Returns the number of pieces of a file of `size` bytes.
///
/// # Errors
/// If the size is over [`MAX_FILE`].
pub fn piece_count(size: u64) -> Result<u64, PieceError> {
    if size > MAX_FILE {
        return Err(PieceError::TooLarge(size));
    }
    Ok(size.div_ceil(PIECE).max(1))
}

/// Returns the range of the bytes of piece `index` in a file of `size` bytes, or `None` if the file has no
/// such piece.
#[must_use]
pub fn piece_range(size: u64, index: u64) -> Option<Range<u64>> {
    if index >= piece_count(size).ok()? {
        return None;
    }
    let start = index.checked_mul(PIECE)?;
    Some(start..size.min(start.checked_add(PIECE)?))
}

/// Computes the value of piece `index` of a file of `size` bytes, from the `bytes` of the piece. Returns
/// `None` if the file has no such piece, or if the piece has another length.
#[must_use]
pub fn piece_value(size: u64, index: u64, bytes: &[u8]) -> Option<PieceValue> {
    let range = piece_range(size, index)?;
    if bytes.len() as u64 != range.end - range.start {
        return None;
    }
    if size <= PIECE {
        return Some(*blake3::hash(bytes).as_bytes());
    }
    let mut hasher = Hasher::new();
    hasher.set_input_offset(range.start).update(bytes);
    Some(hasher.finalize_non_root())
}

/// Computes a file's hash and piece list in one pass over its bytes.
#[derive(Debug, Clone)]
pub struct PieceHasher {
    /// Length of a piece, in bytes.
    piece: u64,
    /// Number of bytes hashed so far.
    size: u64,
    /// Number of these bytes in the current piece.
    filled: u64,
    hasher: Hasher,
    values: Vec<PieceValue>,
}

impl PieceHasher {
    /// Starts at the beginning of a file.
    #[must_use]
    pub fn new() -> Self {
        Self::with_piece(PIECE)
    }

    /// Starts with pieces of another length, for tests.
    fn with_piece(piece: u64) -> Self {
        Self { piece, size: 0, filled: 0, hasher: Hasher::new(), values: Vec::new() }
    }

    /// Hashes the next bytes of the file. Whole pieces are hashed fastest.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == self.piece {
                // More bytes follow, so this is not the only piece of the file. The value of an only piece is
                // the root, which is hashed in another way.
                self.values.push(self.hasher.finalize_non_root());
                // `reset` would keep the old offset (blake3 1.8).
                self.hasher = Hasher::new();
                self.hasher.set_input_offset(self.size);
                self.filled = 0;
            }
            let room = usize::try_from(self.piece - self.filled).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.hasher.update(now);
            self.filled += now.len() as u64;
            self.size += now.len() as u64;
            bytes = later;
        }
    }

    /// Returns the list of the bytes hashed so far. Its [`root`](PieceList::root) is the file's hash.
    #[must_use]
    pub fn finish(mut self) -> PieceList {
        let last = if self.values.is_empty() {
            *self.hasher.finalize().as_bytes()
        } else {
            self.hasher.finalize_non_root()
        };
        self.values.push(last);
        PieceList { size: self.size, values: self.values }
    }
}

impl Default for PieceHasher {
    fn default() -> Self {
        Self::new()
    }
}

/// A list that is being received in parts. It takes memory for the values that have come, not for the number
/// that the described size implies.
#[derive(Debug)]
pub struct IncomingList {
    size: u64,
    needed: u64,
    values: Vec<PieceValue>,
}

impl IncomingList {
    /// Starts the list of a file that is described as `size` bytes.
    ///
    /// # Errors
    /// If `size` is over [`MAX_FILE`].
    pub fn new(size: u64) -> Result<Self, PieceError> {
        Ok(Self { size, needed: piece_count(size)?, values: Vec::new() })
    }

    /// Returns the values to request next: the index of the first one, and their number, at most `limit`.
    /// Returns `None` if no value is missing.
    #[must_use]
    pub fn next_request(&self, limit: u16) -> Option<(u64, u16)> {
        let first = self.values.len() as u64;
        let missing = self.needed.saturating_sub(first).min(u64::from(limit));
        let count = u16::try_from(missing).unwrap_or(limit);
        (count > 0).then_some((first, count))
    }

    /// Adds the next values.
    ///
    /// # Errors
    /// If there are more values than the size needs. Then none is added.
    pub fn push(&mut self, values: &[PieceValue]) -> Result<(), PieceError> {
        let given = (self.values.len() as u64).saturating_add(values.len() as u64);
        // Without this check, a source that sends too many values could fill the memory.
        if given > self.needed {
            let needed = self.needed;
            return Err(PieceError::Count { given, needed });
        }
        self.values.extend_from_slice(values);
        Ok(())
    }

    /// Checks the list against the file's hash, and returns the list.
    ///
    /// # Errors
    /// If values are missing, or do not combine to the hash.
    pub fn finish(self, hash: &Hash) -> Result<PieceList, PieceError> {
        let list = PieceList::from_values(self.size, self.values)?;
        list.check(hash)?;
        Ok(list)
    }
}

/// A set of pieces of one fetch, numbered as in a [`Layout`](super::Layout). It takes one bit for each piece.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PieceSet {
    /// The bit of piece `i` is bit `i % 64` of word `i / 64`.
    bits: Vec<u64>,
    /// The number of pieces that could be in the set.
    count: u64,
    /// The number of pieces in the set.
    held: u64,
}

impl PieceSet {
    /// Returns an empty set for the pieces with the numbers below `count`.
    ///
    /// # Errors
    /// [`PieceError::TooMany`].
    pub fn of_count(count: u64) -> Result<Self, PieceError> {
        let words = usize::try_from(count.div_ceil(64)).ok().filter(|_| count <= MAX_PIECES);
        let words = words.ok_or(PieceError::TooMany(count))?;
        Ok(Self { bits: vec![0; words], count, held: 0 })
    }

    /// Returns an empty set for the same pieces.
    #[must_use]
    pub fn empty_copy(&self) -> Self {
        Self { bits: vec![0; self.bits.len()], count: self.count, held: 0 }
    }

    /// Removes a piece. Returns false if it was not in the set.
    pub fn remove(&mut self, index: u64) -> bool {
        if !self.contains(index) {
            return false;
        }
        if let Some(word) = word_of(index).and_then(|word| self.bits.get_mut(word)) {
            *word &= !(1 << (index % 64));
            self.held -= 1;
        }
        true
    }

    /// Returns the pieces in the set, in order.
    pub fn pieces(&self) -> impl Iterator<Item = u64> {
        self.ones(0, |_, word| word)
    }

    /// Returns the pieces from `from` on that are not in the set, in order. If `among` is given, returns only
    /// those that are in that set.
    pub fn missing(&self, among: Option<&Self>, from: u64) -> impl Iterator<Item = u64> {
        let wanted = move |at: usize, word: u64| {
            let among =
                among.map_or(u64::MAX, |among| among.bits.get(at).copied().unwrap_or_default());
            among & !word
        };
        // The unused bits behind the last piece are no missing pieces.
        self.ones(from, wanted).take_while(|index| *index < self.count)
    }

    /// Applies `map` to each word, with its index, and returns the pieces from `from` on whose bits are then
    /// set.
    fn ones(&self, from: u64, map: impl Fn(usize, u64) -> u64) -> impl Iterator<Item = u64> {
        let start = word_of(from).unwrap_or(usize::MAX).min(self.bits.len());
        let words = (start..).zip(self.bits.get(start..).unwrap_or_default());
        words.flat_map(move |(at, word)| {
            let before = if at == start { (1 << (from % 64)) - 1 } else { 0 };
            let mut word = map(at, *word) & !before;
            std::iter::from_fn(move || {
                let bit = u64::from(word.trailing_zeros());
                // Clears the lowest bit.
                word &= word.checked_sub(1)?;
                Some(at as u64 * 64 + bit)
            })
        })
    }

    /// Adds a piece. Returns false if the piece was in the set already, or if there is no such piece.
    pub fn insert(&mut self, index: u64) -> bool {
        if index >= self.count || self.contains(index) {
            return false;
        }
        if let Some(word) = word_of(index).and_then(|word| self.bits.get_mut(word)) {
            *word |= 1 << (index % 64);
            self.held += 1;
        }
        true
    }

    /// Returns whether a piece is in the set.
    #[must_use]
    pub fn contains(&self, index: u64) -> bool {
        word_of(index)
            .and_then(|word| self.bits.get(word))
            .is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Adds the pieces whose bits are set: bit i of byte b is piece `first` + 8 b + i. Returns the number of
    /// pieces that were not in the set before.
    ///
    /// # Errors
    /// [`PieceError::NoPiece`] if a bit is set for which there is no piece. The pieces before that bit are
    /// added.
    pub fn insert_bits(&mut self, first: u64, bits: &[u8]) -> Result<u64, PieceError> {
        let before = self.held;
        for piece in set_bits(first, bits) {
            if piece >= self.count {
                return Err(PieceError::NoPiece(piece));
            }
            self.insert(piece);
        }
        Ok(self.held - before)
    }

    /// Returns the bits from piece `first` on, in the form of [`insert_bits`](Self::insert_bits). `first`
    /// must be a multiple of 8. Returns at most `limit` bytes, and fewer at the end of the set.
    #[must_use]
    pub fn bits(&self, first: u64, limit: usize) -> Vec<u8> {
        let start = usize::try_from(first / 8).unwrap_or(usize::MAX);
        let end = usize::try_from(self.count.div_ceil(8)).unwrap_or(usize::MAX);
        let words = self.bits.get(start / 8..).unwrap_or_default();
        let bytes = words.iter().flat_map(|word| word.to_le_bytes()).skip(start % 8);
        bytes.take(limit.min(end.saturating_sub(start))).collect()
    }

    /// Returns the number of pieces that could be in the set.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the number of pieces in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.held
    }

    /// Returns whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Returns whether every piece is in the set.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.held == self.count
    }
}

/// Returns the pieces whose bits are set, in order: bit i of byte b is piece `first` + 8 b + i.
pub(super) fn set_bits(first: u64, bits: &[u8]) -> impl Iterator<Item = u64> {
    bits.iter().zip(0u64..).filter(|(byte, _)| **byte != 0).flat_map(move |(byte, at)| {
        // `first` comes from the network and may be close to 2^64.
        let start = first.saturating_add(at.saturating_mul(8));
        let set = (0..8).filter(move |bit| byte >> bit & 1 == 1);
        set.map(move |bit| start.saturating_add(bit))
    })
}

fn word_of(index: u64) -> Option<usize> {
    usize::try_from(index / 64).ok()
}

/// Splits the values of a tree into those of its two subtrees. By BLAKE3's rule, the number of pieces on the
/// left is the largest power of two that leaves at least one piece on the right.
fn split(values: &[PieceValue]) -> (&[PieceValue], &[PieceValue]) {
    values.split_at(values.len().div_ceil(2).next_power_of_two())
}

fn root(values: &[PieceValue]) -> Hash {
    match values {
        [only] => Hash::from_bytes(*only),
        _ => {
            // `values` is never empty, because even an empty file has one value. The recursion is at most 22
            // deep, as a file has at most 2^22 pieces (`MAX_FILE`).
            let (left, right) = split(values);
            let hash = merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash);
            Hash::from_bytes(*hash.as_bytes())
        }
    }
}

fn subtree(values: &[PieceValue]) -> PieceValue {
    match values {
        [only] => *only,
        _ => {
            let (left, right) = split(values);
            merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests;
