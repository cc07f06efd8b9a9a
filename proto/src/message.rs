//! What nodes say to each other: text, JSON or bytes, each optionally compressed on its way.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{DecodeError, Reader};

/// A message: its content and how it is to travel.
///
/// Cloning shares the content. JSON is kept as text and parsed when asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    kind: Kind,
    compression: Compression,
    body: Bytes,
}

/// What a message's bytes are.
// A word, as the compression is too: a message on its way to a handler is written field by field and
// copied word by word, and a processor that has just written less than it is to read waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u64)]
#[non_exhaustive]
pub enum Kind {
    /// UTF-8 text.
    Text,
    /// JSON (RFC 8259) in UTF-8.
    Json,
    /// Any bytes.
    Bytes,
}

impl Kind {
    /// What a content is that is not compressed and has this head byte.
    #[inline]
    pub(crate) fn of_plain(head: u8) -> Option<Self> {
        match head {
            0 => Some(Self::Text),
            1 => Some(Self::Json),
            2 => Some(Self::Bytes),
            _ => None,
        }
    }

    /// Checks that what is to be text is.
    #[inline]
    pub(crate) fn check(self, body: &[u8]) -> Result<(), DecodeError> {
        match self {
            Self::Text | Self::Json if std::str::from_utf8(body).is_err() => {
                Err(DecodeError::Invalid("text"))
            }
            _ => Ok(()),
        }
    }
}

/// How a message's content is compressed on the wire. The receiver gets it decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u64)]
#[non_exhaustive]
pub enum Compression {
    /// As it is.
    #[default]
    None,
    /// zlib (RFC 1950), level 6, as p2pnetwork's.
    Zlib,
    /// bzip2, level 9, as p2pnetwork's.
    Bzip2,
    /// LZMA in the xz container, as p2pnetwork's.
    Lzma,
    /// Zstandard (RFC 8878), level 3: the best choice for most.
    Zstd,
    /// LZ4's frame format: the fastest.
    Lz4,
}

impl Message {
    /// A text message.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { kind: Kind::Text, compression: Compression::None, body: text.into().into() }
    }

    /// A JSON message made of any serializable value.
    ///
    /// # Errors
    /// Where the value has no JSON form, for example a map whose keys are not text.
    pub fn json(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        let body = serde_json::to_vec(value)?.into();
        Ok(Self { kind: Kind::Json, compression: Compression::None, body })
    }

    /// A message of any bytes.
    #[must_use]
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self { kind: Kind::Bytes, compression: Compression::None, body: bytes.into() }
    }

    /// A message of `kind` whose content is `body` already.
    ///
    /// Text and JSON have to be UTF-8, which is not checked here: the receiver does, and ends the
    /// link where they are not.
    #[must_use]
    pub fn new(kind: Kind, body: Bytes) -> Self {
        Self { kind, compression: Compression::None, body }
    }

    /// The same message, compressed on its way.
    #[must_use]
    pub fn compressed(self, compression: Compression) -> Self {
        Self { compression, ..self }
    }

    /// What the content is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How it is to travel, or has travelled: what would not have shrunk comes uncompressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The content's bytes, whatever they are.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The content's bytes, whatever they are.
    #[must_use]
    pub fn into_body(self) -> Bytes {
        self.body
    }

    /// The text, where it is text (JSON's text too), else `None`.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self.kind {
            Kind::Text | Kind::Json => std::str::from_utf8(&self.body).ok(),
            Kind::Bytes => None,
        }
    }

    /// The content parsed as JSON, which is done now.
    ///
    /// # Errors
    /// Where the content is not JSON, or not of the form that `T` has.
    pub fn to_json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }

    /// The byte that says on the wire what a content of this kind, so compressed, is.
    #[must_use]
    pub fn head(kind: Kind, compression: Compression) -> u8 {
        let kind = match kind {
            Kind::Text => 0,
            Kind::Json => 1,
            Kind::Bytes => 2,
        };
        let compression = match compression {
            Compression::None => 0,
            Compression::Zlib => 1,
            Compression::Bzip2 => 2,
            Compression::Lzma => 3,
            Compression::Zstd => 4,
            Compression::Lz4 => 5,
        };
        compression << 4 | kind
    }
}

/// A message as it stands in a frame: the content may still be compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// What the content is.
    pub kind: Kind,
    /// How `payload` is compressed.
    pub compression: Compression,
    /// The content, compressed as `compression` says.
    pub payload: Bytes,
}

impl Packed {
    /// A message that is not compressed, ready for a frame.
    ///
    /// Compressing is the shell's work: it takes time and C libraries.
    #[must_use]
    pub fn plain(message: Message) -> Self {
        Self { kind: message.kind, compression: Compression::None, payload: message.body }
    }

    /// The message, of `body`: the payload once decompressed.
    ///
    /// # Errors
    /// Where text or JSON is not UTF-8.
    pub fn unpack(self, body: Bytes) -> Result<Message, DecodeError> {
        self.kind.check(&body)?;
        Ok(Message { kind: self.kind, compression: self.compression, body })
    }

    /// Reads the head byte and takes the rest of the frame as the payload.
    ///
    /// # Errors
    /// Where the head byte is missing or has no meaning.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let head = reader.u8("message head")?;
        Self::new(head, reader.take_rest())
    }

    /// A content whose head byte is `head`.
    ///
    /// # Errors
    /// Where the head byte has no meaning.
    pub fn new(head: u8, payload: Bytes) -> Result<Self, DecodeError> {
        let kind = Kind::of_plain(head & 0x0f).ok_or(DecodeError::Invalid("message kind"))?;
        let compression = match head >> 4 {
            0 => Compression::None,
            1 => Compression::Zlib,
            2 => Compression::Bzip2,
            3 => Compression::Lzma,
            4 => Compression::Zstd,
            5 => Compression::Lz4,
            _ => return Err(DecodeError::Invalid("message compression")),
        };
        Ok(Self { kind, compression, payload })
    }

    /// The head byte: see [`Message::head`].
    #[must_use]
    pub fn head(&self) -> u8 {
        Message::head(self.kind, self.compression)
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Self {
        Self::bytes(bytes)
    }
}

impl From<&[u8]> for Message {
    fn from(bytes: &[u8]) -> Self {
        Self::bytes(bytes.to_vec())
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Self {
        Self::bytes(bytes)
    }
}

impl From<serde_json::Value> for Message {
    fn from(value: serde_json::Value) -> Self {
        let body = value.to_string().into();
        Self { kind: Kind::Json, compression: Compression::None, body }
    }
}

impl Compression {
    /// Every one of them, for tables and tests.
    pub const ALL: [Self; 6] =
        [Self::None, Self::Zlib, Self::Bzip2, Self::Lzma, Self::Zstd, Self::Lz4];

    /// The name, as users write it: p2pnetwork's where it has one.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zlib => "zlib",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_byte_round_trips() {
        for kind in [Kind::Text, Kind::Json, Kind::Bytes] {
            for compression in Compression::ALL {
                let bytes = vec![Message::head(kind, compression), 7];
                let packed = Packed::decode(&mut Reader::new(bytes.into())).unwrap();
                assert_eq!((packed.kind, packed.compression), (kind, compression));
                assert_eq!(&packed.payload[..], [7]);
            }
        }
        for head in [0x03, 0x60, 0xff] {
            assert!(Packed::decode(&mut Reader::new(vec![head].into())).is_err());
        }
    }

    #[test]
    fn text_has_to_be_text() {
        let packed = Packed::decode(&mut Reader::new(vec![0, 0xff].into())).unwrap();
        let body = packed.payload.clone();
        assert_eq!(packed.unpack(body), Err(DecodeError::Invalid("text")));
    }

    #[test]
    fn json_is_any_serializable_value() {
        let message = Message::json(&("a", 1)).unwrap();
        assert_eq!(message.as_text(), Some("[\"a\",1]"));
        assert_eq!(message.to_json::<(String, u8)>().unwrap(), ("a".to_owned(), 1));
        assert!(Message::bytes(vec![1]).as_text().is_none());
    }
}
