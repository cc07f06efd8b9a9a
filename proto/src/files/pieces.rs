//! Pieces: aligned subtrees of a file's BLAKE3 tree, each checked on its own.
//!
//! BLAKE3 hashes a file as a binary tree (section 2.1 of its paper). Every [`PIECE`] bytes, aligned,
//! are one subtree of it, and the value of that subtree (its *chaining value*) depends on nothing
//! but the piece and where it stands. The values of all pieces combine to the root, which is the
//! file's hash. So a list of values is checked against the hash alone, and a piece against its
//! value alone, whoever sent either.
//!
//! A file of at most one piece has one value: the hash itself. An empty file is one empty piece.
//!
//! The list does not prove the file's size beyond the number of pieces; the last piece does, since
//! its length is hashed with it.

use std::ops::Range;

use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Hash, ID_LEN};

/// Bytes of a piece; only a file's last is shorter. 1 MiB: a list of 32 bytes for each MiB is
/// 1/32,768 of the file, and one bad piece costs one MiB.
pub const PIECE: u64 = 1 << 20;

/// Largest file, in bytes. 4 TiB: its list is 128 MiB, the most that a source can make us hold.
pub const MAX_FILE: u64 = 4 << 40;

/// Most pieces of one [`PieceSet`]: 64 TiB of them, in 8 MiB of bits. A folder of more is fetched
/// file by file.
pub const MAX_PIECES: u64 = 1 << 26;

/// The value of one piece: the chaining value of its subtree, or the hash where it is the only one.
pub type PieceValue = [u8; ID_LEN];

/// The values of all pieces of a file, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceList {
    size: u64,
    values: Vec<PieceValue>,
}

/// Why a list or a piece is not that of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PieceError {
    /// Larger than [`MAX_FILE`].
    #[error("a file of {0} bytes is over the limit of {MAX_FILE}")]
    TooLarge(u64),
    /// Not as many values as the size needs.
    #[error("{given} values where the file's size needs {needed}")]
    Count {
        /// How many there are.
        given: u64,
        /// How many there have to be.
        needed: u64,
    },
    /// The values do not combine to the file's hash.
    #[error("the list of pieces is not that of the file")]
    BadList,
    /// There is no such piece.
    #[error("the file has no piece {0}")]
    NoPiece(u64),
    /// More pieces than [`MAX_PIECES`].
    #[error("{0} pieces are over the limit of {MAX_PIECES}")]
    TooMany(u64),
    /// The piece's bytes are not those of the file.
    #[error("piece {0} is not that of the file")]
    BadPiece(u64),
}

impl PieceList {
    /// The list of `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        let mut hasher = PieceHasher::new();
        hasher.update(content);
        hasher.finish()
    }

    /// The list of a file of `size` bytes, from the values of its pieces.
    ///
    /// # Errors
    /// Where the size is over [`MAX_FILE`] or the number of values is not the size's.
    pub fn from_values(size: u64, values: Vec<PieceValue>) -> Result<Self, PieceError> {
        let needed = piece_count(size)?;
        let given = values.len() as u64;
        if given != needed {
            return Err(PieceError::Count { given, needed });
        }
        Ok(Self { size, values })
    }

    /// The list of a file of at most one piece, which is its hash; `None` for a larger file.
    #[must_use]
    pub fn single(hash: &Hash, size: u64) -> Option<Self> {
        (size <= PIECE).then(|| Self { size, values: vec![*hash.as_bytes()] })
    }

    /// Bytes of the file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many pieces there are: one at least.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.values.len() as u64
    }

    /// The values, in order.
    #[must_use]
    pub fn values(&self) -> &[PieceValue] {
        &self.values
    }

    /// The values from `first` on, at most `count` of them: none where there are none.
    #[must_use]
    pub fn part(&self, first: u64, count: usize) -> &[PieceValue] {
        let start = usize::try_from(first).unwrap_or(usize::MAX);
        let rest = self.values.get(start..).unwrap_or_default();
        &rest[..rest.len().min(count)]
    }

    /// The hash that the values combine to: the file's.
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

    /// Where piece `index` stands in the file, in bytes; `None` where there is no such piece.
    #[must_use]
    pub fn range(&self, index: u64) -> Option<Range<u64>> {
        piece_range(self.size, index)
    }

    /// Checks `bytes`, said to be piece `index`.
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

    /// The list as it is stored: the size (`u64`, little-endian) and the values.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.values.as_flattened().len());
        out.put_u64(self.size);
        out.put_raw(self.values.as_flattened());
        out
    }

    /// Reads what [`encode`](Self::encode) wrote. Whether it is the list of some hash is for
    /// [`check`](Self::check).
    ///
    /// # Errors
    /// Where it is cut short, or the size and the number of values do not fit.
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

/// How many pieces a file of `size` bytes has.
///
/// # Errors
/// Where the size is over [`MAX_FILE`].
pub fn piece_count(size: u64) -> Result<u64, PieceError> {
    if size > MAX_FILE {
        return Err(PieceError::TooLarge(size));
    }
    Ok(size.div_ceil(PIECE).max(1))
}

/// Where piece `index` of a file of `size` bytes stands; `None` where there is no such piece.
#[must_use]
pub fn piece_range(size: u64, index: u64) -> Option<Range<u64>> {
    if index >= piece_count(size).ok()? {
        return None;
    }
    let start = index.checked_mul(PIECE)?;
    Some(start..size.min(start.checked_add(PIECE)?))
}

/// The value of piece `index`, which is `bytes`, of a file of `size` bytes; `None` where the file
/// has no such piece or it is not of this length.
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

/// Makes a file's hash and piece list in one reading.
#[derive(Debug, Clone)]
pub struct PieceHasher {
    piece: u64,
    size: u64,
    filled: u64,
    hasher: Hasher,
    values: Vec<PieceValue>,
}

impl PieceHasher {
    /// Starts with nothing read.
    #[must_use]
    pub fn new() -> Self {
        Self::with_piece(PIECE)
    }

    /// Only for tests: the tree's shape shows with pieces of one chunk as well.
    fn with_piece(piece: u64) -> Self {
        Self { piece, size: 0, filled: 0, hasher: Hasher::new(), values: Vec::new() }
    }

    /// Takes the next bytes of the file. Fastest with a whole piece at a time.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == self.piece {
                // Only now is it known that this piece is not the last: an only piece's value is
                // the root, which is hashed otherwise.
                self.values.push(self.hasher.finalize_non_root());
                // Not `reset`, which keeps the old offset (blake3 1.8).
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

    /// The list; its [`root`](PieceList::root) is the file's hash.
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

/// A list on its way in, part by part. Memory is taken for the values that came, not for those
/// that were announced.
#[derive(Debug)]
pub struct IncomingList {
    size: u64,
    needed: u64,
    values: Vec<PieceValue>,
}

impl IncomingList {
    /// The list of a file said to have `size` bytes.
    ///
    /// # Errors
    /// Where that is over [`MAX_FILE`].
    pub fn new(size: u64) -> Result<Self, PieceError> {
        Ok(Self { size, needed: piece_count(size)?, values: Vec::new() })
    }

    /// The first value missing and how many to ask for at once, at most `limit`; `None` when all
    /// are there.
    #[must_use]
    pub fn wanted(&self, limit: u16) -> Option<(u64, u16)> {
        let first = self.values.len() as u64;
        let missing = self.needed.saturating_sub(first).min(u64::from(limit));
        let count = u16::try_from(missing).unwrap_or(limit);
        (count > 0).then_some((first, count))
    }

    /// Takes the next values.
    ///
    /// # Errors
    /// Where these are more than the size needs; none were taken then.
    pub fn push(&mut self, values: &[PieceValue]) -> Result<(), PieceError> {
        let given = (self.values.len() as u64).saturating_add(values.len() as u64);
        if given > self.needed {
            let needed = self.needed;
            return Err(PieceError::Count { given, needed });
        }
        self.values.extend_from_slice(values);
        Ok(())
    }

    /// The list, checked against the file's hash.
    ///
    /// # Errors
    /// Where values are missing or do not combine to the hash.
    pub fn finish(self, hash: &Hash) -> Result<PieceList, PieceError> {
        let list = PieceList::from_values(self.size, self.values)?;
        list.check(hash)?;
        Ok(list)
    }
}

/// A set of pieces of one file, or of all files of a folder numbered through, a bit for each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PieceSet {
    bits: Vec<u64>,
    count: u64,
    held: u64,
}

impl PieceSet {
    /// An empty set for `count` pieces.
    ///
    /// # Errors
    /// [`PieceError::TooMany`].
    pub fn of_count(count: u64) -> Result<Self, PieceError> {
        let words = usize::try_from(count.div_ceil(64)).ok().filter(|_| count <= MAX_PIECES);
        let words = words.ok_or(PieceError::TooMany(count))?;
        Ok(Self { bits: vec![0; words], count, held: 0 })
    }

    /// An empty set for the same pieces.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self { bits: vec![0; self.bits.len()], count: self.count, held: 0 }
    }

    /// Takes a piece out; `false` where it was not in it.
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

    /// The pieces in it, in order.
    pub fn pieces(&self) -> impl Iterator<Item = u64> {
        self.ones(0, |_, word| word)
    }

    /// The pieces from `from` on that are not in it but in `of` (`None`: whatever piece), in order.
    pub fn missing_of(&self, of: Option<&Self>, from: u64) -> impl Iterator<Item = u64> {
        let wanted = move |at: usize, word: u64| {
            let of = of.map_or(u64::MAX, |of| of.bits.get(at).copied().unwrap_or_default());
            of & !word
        };
        self.ones(from, wanted).take_while(|index| *index < self.count)
    }

    /// The places from `from` on of the bits that are set once `turn` has been at the words.
    fn ones(&self, from: u64, turn: impl Fn(usize, u64) -> u64) -> impl Iterator<Item = u64> {
        let start = word_of(from).unwrap_or(usize::MAX).min(self.bits.len());
        let words = (start..).zip(self.bits.get(start..).unwrap_or_default());
        words.flat_map(move |(at, word)| {
            let before = if at == start { (1 << (from % 64)) - 1 } else { 0 };
            let mut word = turn(at, *word) & !before;
            std::iter::from_fn(move || {
                let bit = u64::from(word.trailing_zeros());
                // Takes out the lowest bit.
                word &= word.checked_sub(1)?;
                Some(at as u64 * 64 + bit)
            })
        })
    }

    /// Adds a piece; `false` where it was there already or the file has no such piece.
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

    /// Whether a piece is in it.
    #[must_use]
    pub fn contains(&self, index: u64) -> bool {
        word_of(index)
            .and_then(|word| self.bits.get(word))
            .is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Adds the pieces whose bits are set: bit i of byte b is piece `first` + 8 b + i. Returns how
    /// many are new.
    ///
    /// # Errors
    /// [`PieceError::NoPiece`] where one is set that the file does not have; those before it are
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

    /// The bits from piece `first` on, which has to be a multiple of 8, in the form that
    /// [`insert_bits`](Self::insert_bits) takes: at most `limit` bytes, fewer at the end.
    #[must_use]
    pub fn bits(&self, first: u64, limit: usize) -> Vec<u8> {
        let start = usize::try_from(first / 8).unwrap_or(usize::MAX);
        let end = usize::try_from(self.count.div_ceil(8)).unwrap_or(usize::MAX);
        let words = self.bits.get(start / 8..).unwrap_or_default();
        let bytes = words.iter().flat_map(|word| word.to_le_bytes()).skip(start % 8);
        bytes.take(limit.min(end.saturating_sub(start))).collect()
    }

    /// How many pieces there could be in it.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many pieces are in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.held
    }

    /// Whether none is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Whether every piece of the file is in it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.held == self.count
    }
}

/// The pieces whose bits are set, in order: bit i of byte b is piece `first` + 8 b + i.
pub(super) fn set_bits(first: u64, bits: &[u8]) -> impl Iterator<Item = u64> {
    bits.iter().zip(0u64..).filter(|(byte, _)| **byte != 0).flat_map(move |(byte, at)| {
        let start = first.saturating_add(at.saturating_mul(8));
        let set = (0..8).filter(move |bit| byte >> bit & 1 == 1);
        set.map(move |bit| start.saturating_add(bit))
    })
}

fn word_of(index: u64) -> Option<usize> {
    usize::try_from(index / 64).ok()
}

/// BLAKE3's rule: the left subtree holds the largest power of two of pieces that leaves at least
/// one to the right.
fn split(values: &[PieceValue]) -> (&[PieceValue], &[PieceValue]) {
    values.split_at(values.len().div_ceil(2).next_power_of_two())
}

fn root(values: &[PieceValue]) -> Hash {
    match values {
        [only] => Hash::from_bytes(*only),
        _ => {
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
