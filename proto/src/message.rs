//! Messages between applications: text, JSON or bytes, each optionally compressed on the wire.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use strum::IntoStaticStr;

use crate::codec::{DecodeError, Reader};

/// A message: its content, and how the content is compressed on the wire.
///
/// Cloning shares the content. JSON is kept as text and parsed when asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    kind: MessageKind,
    compression: Compression,
    body: Bytes,
}

/// The kind of a message's content.
// `u64`, as for `Compression`, because both are fields of a message. On its way to a handler a
// message is written field by field and then copied in words. If a field were shorter than a word,
// the processor would have to wait whenever it reads a word of which it has just written a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u64)]
#[non_exhaustive]
pub enum MessageKind {
    /// UTF-8 text.
    Text = 0,
    /// JSON (RFC 8259) in UTF-8.
    Json = 1,
    /// Any bytes.
    Bytes = 2,
}

impl MessageKind {
    /// Returns the kind that the head byte of an uncompressed message names. Returns `None` if the
    /// byte is any other.
    #[inline]
    pub(crate) fn of_uncompressed(head: u8) -> Option<Self> {
        match head {
            0 => Some(Self::Text),
            1 => Some(Self::Json),
            2 => Some(Self::Bytes),
            _ => None,
        }
    }

    /// Checks that text and JSON are UTF-8.
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

/// The compression of a message's content on the wire. The receiving application gets the content
/// decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[repr(u64)]
#[non_exhaustive]
pub enum Compression {
    /// Not compressed.
    #[default]
    None = 0,
    /// zlib (RFC 1950), level 6, as in p2pnetwork.
    Zlib = 1,
    /// bzip2, level 9, as in p2pnetwork.
    Bzip2 = 2,
    /// LZMA in the xz container, as in p2pnetwork.
    Lzma = 3,
    /// Zstandard (RFC 8878), level 3: the best choice for most messages.
    Zstd = 4,
    /// LZ4's frame format: the fastest.
    Lz4 = 5,
}

impl Message {
    /// Creates a text message.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(MessageKind::Text, text.into().into())
    }

    /// Creates a JSON message from any serializable value.
    ///
    /// # Errors
    /// If the value has no JSON form, for example a map whose keys are not text.
    pub fn json(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self::new(MessageKind::Json, serde_json::to_vec(value)?.into()))
    }

    /// Creates a message of any bytes.
    #[must_use]
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self::new(MessageKind::Bytes, bytes.into())
    }

    /// Creates a message of `kind` with the encoded content `body`.
    ///
    /// Text and JSON have to be UTF-8. This function does not check that. The receiving node does,
    /// and ends the link if they are not.
    #[must_use]
    pub fn new(kind: MessageKind, body: Bytes) -> Self {
        Self { kind, compression: Compression::None, body }
    }

    /// Sets how the message is compressed on the wire.
    #[must_use]
    pub fn compressed(self, compression: Compression) -> Self {
        Self { compression, ..self }
    }

    /// Returns the kind of the content.
    #[must_use]
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// Returns the compression on the wire: the one to use if the message is to be sent, the one
    /// that was used if it was received. A content that compression would not make smaller is sent
    /// uncompressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Returns the bytes of the content, whatever its kind.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the bytes of the content, whatever its kind.
    #[must_use]
    pub fn into_body(self) -> Bytes {
        self.body
    }

    /// Returns the content as text if it is text or JSON, else `None`.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self.kind {
            MessageKind::Text | MessageKind::Json => std::str::from_utf8(&self.body).ok(),
            MessageKind::Bytes => None,
        }
    }

    /// Parses the content as JSON.
    ///
    /// # Errors
    /// If the content is not JSON, or not the JSON form of a `T`.
    pub fn to_json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }

    /// Returns the head byte, which tells the receiver the kind and the compression of the content.
    #[must_use]
    pub fn head_byte(kind: MessageKind, compression: Compression) -> u8 {
        (compression as u8) << 4 | kind as u8
    }
}

/// A message as a frame carries it. Its content may be compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedMessage {
    /// The kind of the content.
    pub kind: MessageKind,
    /// The compression of `payload`.
    pub compression: Compression,
    /// The content, compressed as `compression` says.
    pub payload: Bytes,
}

impl PackedMessage {
    /// Packs a message without compression.
    ///
    /// The shell compresses messages, not this crate, because that takes time and C libraries.
    #[must_use]
    pub fn uncompressed(message: Message) -> Self {
        Self { kind: message.kind, compression: Compression::None, payload: message.body }
    }

    /// Returns the message. `body` is the payload, which the caller has decompressed.
    ///
    /// # Errors
    /// If text or JSON is not UTF-8.
    pub fn unpack(self, body: Bytes) -> Result<Message, DecodeError> {
        self.kind.check(&body)?;
        Ok(Message { kind: self.kind, compression: self.compression, body })
    }

    /// Reads the head byte and takes the rest of the frame as the payload.
    ///
    /// # Errors
    /// If the head byte is missing or invalid.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let head = reader.u8("message head")?;
        Self::new(head, reader.take_rest())
    }

    /// Creates a packed message from a head byte and the payload.
    ///
    /// # Errors
    /// If the head byte is invalid.
    pub fn new(head: u8, payload: Bytes) -> Result<Self, DecodeError> {
        let kind = MessageKind::of_uncompressed(head & 0x0f)
            .ok_or(DecodeError::Invalid("message kind"))?;
        let compression = Compression::ALL.get(usize::from(head >> 4)).copied();
        let compression = compression.ok_or(DecodeError::Invalid("message compression"))?;
        Ok(Self { kind, compression, payload })
    }

    /// Returns the head byte: see [`Message::head_byte`].
    #[must_use]
    pub fn head_byte(&self) -> u8 {
        Message::head_byte(self.kind, self.compression)
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
        Self::new(MessageKind::Json, value.to_string().into())
    }
}

impl Compression {
    /// All compressions, in the order of their numbers on the wire.
    pub const ALL: [Self; 6] =
        [Self::None, Self::Zlib, Self::Bzip2, Self::Lzma, Self::Zstd, Self::Lz4];

    /// Returns the name that users write. It is the name that p2pnetwork uses, if p2pnetwork has
    /// this compression.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_byte_round_trips() {
        for kind in [MessageKind::Text, MessageKind::Json, MessageKind::Bytes] {
            for compression in Compression::ALL {
                let bytes = vec![Message::head_byte(kind, compression), 7];
                let packed = PackedMessage::decode(&mut Reader::new(bytes.into())).unwrap();
                assert_eq!((packed.kind, packed.compression), (kind, compression));
                assert_eq!(&packed.payload[..], [7]);
            }
        }
        for head in [0x03, 0x60, 0xff] {
            assert!(PackedMessage::decode(&mut Reader::new(vec![head].into())).is_err());
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_refused() {
        let packed = PackedMessage::decode(&mut Reader::new(vec![0, 0xff].into())).unwrap();
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
