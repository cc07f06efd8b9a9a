//! Reading and writing the fields of frames: little-endian numbers and length-prefixed bytes.
//!
//! The reader never trusts a length: it is checked against what is there before anything is taken,
//! and [`Reader::finish`] refuses bytes that nobody asked for.

use bytes::{Buf, Bytes};

use crate::id::{Hash, ID_LEN, NodeId};

/// Why bytes of the network are not what they should be. The peer's fault, always a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end before the field does.
    #[error("ends too early, in {0}")]
    Short(&'static str),
    /// Bytes are left over after the last field.
    #[error("{0} bytes too many at the end")]
    Trailing(usize),
    /// A length or count is over its limit.
    #[error("{what} of {len} is over the limit of {limit}")]
    TooLong {
        /// The field.
        what: &'static str,
        /// What was announced.
        len: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A field holds a value that has no meaning.
    #[error("{0} has a value without meaning")]
    Invalid(&'static str),
}

/// Takes fields off the front of a frame's body.
///
/// Every method names the field for the error; on an error nothing was taken.
#[derive(Debug)]
pub struct Reader {
    rest: Bytes,
}

impl Reader {
    /// Reads `body` from its start.
    #[must_use]
    pub fn new(body: Bytes) -> Self {
        Self { rest: body }
    }

    /// Bytes not yet taken.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    /// A two-byte number.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.array(what).map(u16::from_le_bytes)
    }

    /// A four-byte number.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// An eight-byte number.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A byte that is 0 or 1.
    pub fn bool(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid(what)),
        }
    }

    /// `N` bytes.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let head = self.rest.first_chunk::<N>().copied().ok_or(DecodeError::Short(what))?;
        self.rest.advance(N);
        Ok(head)
    }

    /// A node's identity.
    pub fn node_id(&mut self, what: &'static str) -> Result<NodeId, DecodeError> {
        self.array::<ID_LEN>(what).map(NodeId::from_bytes)
    }

    /// A hash.
    pub fn hash(&mut self, what: &'static str) -> Result<Hash, DecodeError> {
        self.array::<ID_LEN>(what).map(Hash::from_bytes)
    }

    /// `len` bytes, shared with the frame and not copied.
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        if len > self.rest.len() {
            return Err(DecodeError::Short(what));
        }
        Ok(self.rest.split_to(len))
    }

    /// All that is left, shared with the frame and not copied.
    pub fn take_rest(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    /// A four-byte length of at most `limit`, then as many bytes.
    pub fn bytes(&mut self, limit: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        let len = self.u32(what)? as usize;
        check_len(len, limit, what)?;
        self.take(len, what)
    }

    /// A two-byte length of at most `limit`, then as many bytes of UTF-8.
    pub fn str(&mut self, limit: usize, what: &'static str) -> Result<String, DecodeError> {
        let len = usize::from(self.u16(what)?);
        check_len(len, limit, what)?;
        let bytes = self.rest.get(..len).ok_or(DecodeError::Short(what))?;
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Invalid(what))?.to_owned();
        self.rest.advance(len);
        Ok(text)
    }

    /// A two-byte count of at most `limit`, then as many values, each read by `one`.
    ///
    /// Memory is taken as the values are read, never for the count alone.
    pub fn list<T>(
        &mut self,
        limit: usize,
        what: &'static str,
        mut one: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = usize::from(self.u16(what)?);
        check_len(count, limit, what)?;
        (0..count).map(|_| one(self)).collect()
    }

    /// Ends the reading: refuses bytes that are left over.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            len => Err(DecodeError::Trailing(len)),
        }
    }
}

fn check_len(len: usize, limit: usize, what: &'static str) -> Result<(), DecodeError> {
    if len > limit {
        return Err(DecodeError::TooLong { what, len, limit });
    }
    Ok(())
}

/// Appends fields to a buffer, in the forms that [`Reader`] takes.
///
/// Values over their field's size are our own fault and are cut at that size: callers check limits
/// where the user can still be told.
pub trait Writer {
    /// One byte.
    fn put_u8(&mut self, value: u8);
    /// Bytes as they are.
    fn put_raw(&mut self, bytes: &[u8]);

    /// A two-byte number.
    fn put_u16(&mut self, value: u16) {
        self.put_raw(&value.to_le_bytes());
    }

    /// A four-byte number.
    fn put_u32(&mut self, value: u32) {
        self.put_raw(&value.to_le_bytes());
    }

    /// An eight-byte number.
    fn put_u64(&mut self, value: u64) {
        self.put_raw(&value.to_le_bytes());
    }

    /// 0 or 1.
    fn put_bool(&mut self, value: bool) {
        self.put_u8(u8::from(value));
    }

    /// A four-byte length and the bytes.
    fn put_bytes(&mut self, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.put_u32(len);
        self.put_raw(&bytes[..bytes.len().min(len as usize)]);
    }

    /// A two-byte length and the text, cut at a character's end where it is over 65,535 bytes.
    fn put_str(&mut self, text: &str) {
        let cut = text.floor_char_boundary(usize::from(u16::MAX));
        self.put_u16(u16::try_from(cut).unwrap_or(u16::MAX));
        self.put_raw(&text.as_bytes()[..cut]);
    }

    /// A two-byte count and the values, each written by `one`; at most 65,535 of them.
    fn put_list<T>(&mut self, values: &[T], mut one: impl FnMut(&mut Self, &T)) {
        let count = u16::try_from(values.len()).unwrap_or(u16::MAX);
        self.put_u16(count);
        for value in &values[..usize::from(count)] {
            one(self, value);
        }
    }
}

impl Writer for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }

    fn put_raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_length_is_checked_before_anything_is_taken() {
        let mut reader = Reader::new(Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 1, 2]));
        let over = reader.bytes(1024, "field").unwrap_err();
        assert_eq!(over, DecodeError::TooLong { what: "field", len: 0xffff_ffff, limit: 1024 });
        let mut reader = Reader::new(Bytes::from_static(&[3, 0, 0, 0, 1, 2]));
        assert_eq!(reader.bytes(1024, "field"), Err(DecodeError::Short("field")));
    }

    #[test]
    fn left_over_bytes_are_refused() {
        let mut reader = Reader::new(Bytes::from_static(&[1, 0, 9]));
        assert_eq!(reader.u16("n"), Ok(1));
        assert_eq!(reader.finish(), Err(DecodeError::Trailing(1)));
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let mut out = Vec::new();
        out.put_str(&"é".repeat(40_000));
        let mut reader = Reader::new(out.into());
        assert_eq!(reader.str(65_535, "text").unwrap().len(), 65_534);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(n in any::<u64>(), text in ".{0,40}", raw in any::<Vec<u8>>(), list in proptest::collection::vec(any::<u16>(), 0..20)) {
            let mut out = Vec::new();
            out.put_u64(n);
            out.put_str(&text);
            out.put_bytes(&raw);
            out.put_list(&list, |out, n| out.put_u16(*n));
            let mut reader = Reader::new(out.into());
            prop_assert_eq!(reader.u64("n").unwrap(), n);
            prop_assert_eq!(reader.str(1000, "text").unwrap(), text);
            prop_assert_eq!(&reader.bytes(1000, "raw").unwrap()[..], &raw[..]);
            prop_assert_eq!(reader.list(20, "list", |r| r.u16("n")).unwrap(), list);
            prop_assert!(reader.finish().is_ok());
        }
    }
}
