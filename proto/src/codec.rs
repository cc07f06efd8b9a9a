//! The fields of frames: little-endian numbers and length-prefixed bytes.
//!
//! The reader never trusts a length: it checks each length against the bytes that are left before
//! it takes a byte. [`Reader::finish`] refuses bytes after the last field.

use bytes::{Buf, Bytes};

use crate::id::{Hash, ID_LEN, NodeId};

/// The reason why bytes from the network are invalid. It is always the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end within a field.
    #[error("the bytes end too early, in {0}")]
    Short(&'static str),
    /// There are bytes after the last field.
    #[error("{0} bytes too many at the end")]
    Trailing(usize),
    /// A length or count is over its limit.
    #[error("{field} of {len} is over the limit of {limit}")]
    TooLong {
        /// The field.
        field: &'static str,
        /// The announced length or count.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// A field has an invalid value.
    #[error("{0} has an invalid value")]
    Invalid(&'static str),
}

/// A reader that takes the fields off the front of a frame's body, one by one.
///
/// Each method gets the name of the field for its error. Do not use a reader after an error: it may
/// have taken the length of a field, but not the field.
#[derive(Debug)]
pub struct Reader {
    rest: Bytes,
}

impl Reader {
    /// Creates a reader of `body`.
    #[must_use]
    pub fn new(body: Bytes) -> Self {
        Self { rest: body }
    }

    /// Returns the number of bytes that are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Takes one byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    /// Takes a two-byte number.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_le_bytes)
    }

    /// Takes a four-byte number.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_le_bytes)
    }

    /// Takes an eight-byte number.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// Takes a byte that is 0 or 1.
    pub fn bool(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid(field)),
        }
    }

    /// Takes `N` bytes.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let head = self.rest.first_chunk::<N>().copied().ok_or(DecodeError::Short(field))?;
        self.rest.advance(N);
        Ok(head)
    }

    /// Takes a byte that is 0 or 1, and after a 1 also `N` bytes. `flag` names the first byte,
    /// `field` the other bytes.
    pub fn option<const N: usize>(
        &mut self,
        flag: &'static str,
        field: &'static str,
    ) -> Result<Option<[u8; N]>, DecodeError> {
        if self.bool(flag)? { self.array(field).map(Some) } else { Ok(None) }
    }

    /// Takes a node's identity.
    pub fn node_id(&mut self, field: &'static str) -> Result<NodeId, DecodeError> {
        self.array::<ID_LEN>(field).map(NodeId::from_bytes)
    }

    /// Takes a hash.
    pub fn hash(&mut self, field: &'static str) -> Result<Hash, DecodeError> {
        self.array::<ID_LEN>(field).map(Hash::from_bytes)
    }

    /// Takes `len` bytes. They are shared with the frame, not copied.
    pub fn take(&mut self, len: usize, field: &'static str) -> Result<Bytes, DecodeError> {
        if len > self.rest.len() {
            return Err(DecodeError::Short(field));
        }
        Ok(self.rest.split_to(len))
    }

    /// Takes all bytes that are left. They are shared with the frame, not copied.
    pub fn take_rest(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    /// Takes a four-byte length of at most `limit`, then that many bytes.
    pub fn bytes(&mut self, limit: usize, field: &'static str) -> Result<Bytes, DecodeError> {
        let len = self.u32(field)? as usize;
        check_len(len, limit, field)?;
        self.take(len, field)
    }

    /// Takes a two-byte length of at most `limit`, then that many bytes of UTF-8.
    pub fn str(&mut self, limit: usize, field: &'static str) -> Result<String, DecodeError> {
        let len = usize::from(self.u16(field)?);
        check_len(len, limit, field)?;
        let bytes = self.rest.get(..len).ok_or(DecodeError::Short(field))?;
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Invalid(field))?.to_owned();
        self.rest.advance(len);
        Ok(text)
    }

    /// Takes a two-byte count of at most `limit`, then that many values. `read_value` reads each of
    /// them.
    ///
    /// Memory grows as the values are read. It is never reserved for the count alone.
    pub fn list<T>(
        &mut self,
        limit: usize,
        field: &'static str,
        mut read_value: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = usize::from(self.u16(field)?);
        // `collect` reserves no memory for the count, as an iterator of results may end early.
        check_len(count, limit, field)?;
        (0..count).map(|_| read_value(self)).collect()
    }

    /// Checks that no bytes are left.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            len => Err(DecodeError::Trailing(len)),
        }
    }
}

fn check_len(len: usize, limit: usize, field: &'static str) -> Result<(), DecodeError> {
    if len > limit {
        return Err(DecodeError::TooLong { field, len, limit });
    }
    Ok(())
}

/// A buffer to which fields are appended in the form that [`Reader`] takes.
///
/// A value that is too large for its field is cut off. Callers check the limits before, where they
/// can report an error.
pub trait Writer {
    /// Appends one byte.
    fn put_u8(&mut self, value: u8);
    /// Appends bytes without a length.
    fn put_raw(&mut self, bytes: &[u8]);

    /// Appends a two-byte number.
    fn put_u16(&mut self, value: u16) {
        self.put_raw(&value.to_le_bytes());
    }

    /// Appends a four-byte number.
    fn put_u32(&mut self, value: u32) {
        self.put_raw(&value.to_le_bytes());
    }

    /// Appends an eight-byte number.
    fn put_u64(&mut self, value: u64) {
        self.put_raw(&value.to_le_bytes());
    }

    /// Appends 0 or 1.
    fn put_bool(&mut self, value: bool) {
        self.put_u8(u8::from(value));
    }

    /// Appends 1 and the bytes, or 0 for `None`.
    fn put_option<const N: usize>(&mut self, bytes: Option<&[u8; N]>) {
        self.put_bool(bytes.is_some());
        self.put_raw(bytes.map_or(&[][..], |bytes| &bytes[..]));
    }

    /// Appends a four-byte length and the bytes.
    fn put_bytes(&mut self, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.put_u32(len);
        self.put_raw(&bytes[..bytes.len().min(len as usize)]);
    }

    /// Appends a two-byte length and the text. A text over 65,535 bytes is cut off at the end of a
    /// character.
    fn put_str(&mut self, text: &str) {
        let cut = text.floor_char_boundary(usize::from(u16::MAX));
        self.put_u16(u16::try_from(cut).unwrap_or(u16::MAX));
        self.put_raw(&text.as_bytes()[..cut]);
    }

    /// Appends a two-byte count and the values. `put_value` writes each of them. Values after the
    /// first 65,535 are left out.
    fn put_list<T>(&mut self, values: &[T], mut put_value: impl FnMut(&mut Self, &T)) {
        let count = u16::try_from(values.len()).unwrap_or(u16::MAX);
        self.put_u16(count);
        for value in &values[..usize::from(count)] {
            put_value(self, value);
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
    fn a_length_is_checked_before_the_bytes_are_taken() {
        let mut reader = Reader::new(Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 1, 2]));
        let over = reader.bytes(1024, "field").unwrap_err();
        assert_eq!(over, DecodeError::TooLong { field: "field", len: 0xffff_ffff, limit: 1024 });
        let mut reader = Reader::new(Bytes::from_static(&[3, 0, 0, 0, 1, 2]));
        assert_eq!(reader.bytes(1024, "field"), Err(DecodeError::Short("field")));
    }

    #[test]
    fn bytes_after_the_last_field_are_refused() {
        let mut reader = Reader::new(Bytes::from_static(&[1, 0, 9]));
        assert_eq!(reader.u16("n"), Ok(1));
        assert_eq!(reader.finish(), Err(DecodeError::Trailing(1)));
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_between_two_characters() {
        let mut out = Vec::new();
        out.put_str(&"é".repeat(40_000));
        let mut reader = Reader::new(out.into());
        assert_eq!(reader.str(65_535, "text").unwrap().len(), 65_534);
    }

    proptest! {
        #[test]
        fn values_that_were_written_are_read_back(n in any::<u64>(), text in ".{0,40}", raw in any::<Vec<u8>>(), list in proptest::collection::vec(any::<u16>(), 0..20)) {
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
