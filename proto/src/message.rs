//! Messages between applications. A message is text, JSON or bytes, and may be compressed on the
//! wire.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use strum::IntoStaticStr;

use crate::codec::{DecodeError, Reader};

/// A message: its content, and the compression of the content on the wire.
///
/// Clones share the content. JSON is kept as text, and [`Message::to_json`] parses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    kind: MessageKind,
    compression: Compression,
    body: Bytes,
}

/// The kind of a message's content.
// `repr(u64)` is for speed, here and for `Compression`. On its way to a handler a message is
// written field by field, and then copied word by word. If a field were shorter than a word, the
// copy would read a word of which the processor has just written only a part, and would have to
// wait for that write.
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
    /// Returns the kind in the head byte of an uncompressed message, or `None` if `head` is not
    /// such a byte.
    #[inline]
    pub(crate) fn of_uncompressed(head: u8) -> Option<Self> {
        match head {
            0 => Some(Self::Text),
            1 => Some(Self::Json),
            2 => Some(Self::Bytes),
            _ => None,
        }
    }

    /// Checks that `body` is UTF-8 if this kind is text or JSON.
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

/// The compression of a message's content on the wire. The application at the receiver gets the
/// decompressed content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[repr(u64)]
#[non_exhaustive]
pub enum Compression {
    /// Not compressed.
    #[default]
    None = 0,
    /// zlib (RFC 1950) with level 6, as in p2pnetwork.
    Zlib = 1,
    /// bzip2 with level 9, as in p2pnetwork.
    Bzip2 = 2,
    /// LZMA in the xz container, as in p2pnetwork.
    Lzma = 3,
    /// Zstandard (RFC 8878) with level 3: the best choice for most messages.
    Zstd = 4,
    /// The frame format of LZ4: the fastest compression.
    Lz4 = 5,
}

/// The compressions that a node accepts. A message without compression is always accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compressions(u8);

/// The bit of Hello's features that says that the bits of the compressions are valid. The bit of a compression
/// is its number, from 1 on.
const ANNOUNCED: u64 = 1;

impl Compressions {
    /// All compressions.
    pub const ALL: Self = Self(0b11_1110);

    /// No compression.
    pub const NONE: Self = Self(0);

    /// Returns this set with one more compression.
    #[must_use]
    pub const fn with(self, compression: Compression) -> Self {
        Self((self.0 | 1 << compression as u8) & Self::ALL.0)
    }

    /// Returns whether a message with this compression is accepted.
    #[must_use]
    pub const fn contains(self, compression: Compression) -> bool {
        matches!(compression, Compression::None) || self.0 & 1 << compression as u8 != 0
    }

    /// Returns the features of Hello that announce this set.
    #[must_use]
    pub fn to_features(self) -> u64 {
        ANNOUNCED | u64::from(self.0)
    }

    /// Returns the set that a node accepts according to the features of its Hello. A node that announces
    /// nothing accepts all.
    #[must_use]
    pub fn from_features(features: u64) -> Self {
        if features & ANNOUNCED == 0 {
            return Self::ALL;
        }
        Self(features.to_le_bytes()[0] & Self::ALL.0)
    }
}

/// The default: zlib, Zstandard and LZ4. The decoders of bzip2 and LZMA are slower, and fewer applications use
/// them.
impl Default for Compressions {
    fn default() -> Self {
        Self::NONE.with(Compression::Zlib).with(Compression::Zstd).with(Compression::Lz4)
    }
}

impl Message {
    /// Creates a text message.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(MessageKind::Text, text.into().into())
    }

    /// Creates a JSON message from a serializable value.
    ///
    /// # Errors
    /// If the value has no JSON form, for example a map whose keys are not text.
    pub fn json(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self::new(MessageKind::Json, serde_json::to_vec(value)?.into()))
    }

    /// Creates a message of bytes.
    #[must_use]
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self::new(MessageKind::Bytes, bytes.into())
    }

    /// Creates a message of `kind` with the encoded content `body`.
    ///
    /// Text and JSON have to be UTF-8. This function does not check that. The receiving node checks
    /// it, and ends the link if they are not.
    #[must_use]
    pub fn new(kind: MessageKind, body: Bytes) -> Self {
        Self { kind, compression: Compression::None, body }
    }

    /// Sets the compression of the message on the wire.
    #[must_use]
    pub fn compressed(self, compression: Compression) -> Self {
        Self { compression, ..self }
    }

    /// Returns the kind of the content.
    #[must_use]
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// Returns the compression of the message on the wire. A received message was compressed in
    /// this way. A message to send will be, unless compression makes its content no smaller.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Returns the bytes of the content, for each kind.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the bytes of the content, for each kind.
    #[must_use]
    pub fn into_body(self) -> Bytes {
        self.body
    }

    /// Returns the content if it is text or JSON, else `None`.
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

    /// Returns the head byte of a message on the wire, which has the kind and the compression of
    /// its content.
    #[must_use]
    pub fn head_byte(kind: MessageKind, compression: Compression) -> u8 {
        (compression as u8) << 4 | kind as u8
    }
}

/// A message as it is in a frame. Its content may be compressed.
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
    /// Creates a packed message without compression.
    ///
    /// The shell compresses messages. This crate does not, because compression takes time and needs
    /// C libraries.
    #[must_use]
    pub fn uncompressed(message: Message) -> Self {
        Self { kind: message.kind, compression: Compression::None, payload: message.body }
    }

    /// Returns the message with the content `body`. The caller has made `body` by decompressing
    /// `payload`.
    ///
    /// # Errors
    /// If text or JSON is not UTF-8.
    pub fn unpack(self, body: Bytes) -> Result<Message, DecodeError> {
        self.kind.check(&body)?;
        Ok(Message { kind: self.kind, compression: self.compression, body })
    }

    /// Reads the head byte. The rest of the frame is the payload.
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

    /// Returns the name that users write. If p2pnetwork has this compression too, the name is the
    /// same there.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_announces_the_compressions_that_it_accepts() {
        let default = Compressions::default();
        for (compression, accepted) in [
            (Compression::None, true),
            (Compression::Zlib, true),
            (Compression::Bzip2, false),
            (Compression::Lzma, false),
            (Compression::Zstd, true),
            (Compression::Lz4, true),
        ] {
            assert_eq!(default.contains(compression), accepted, "{compression:?}");
            assert!(Compressions::ALL.contains(compression));
            assert!(default.with(compression).contains(compression));
        }
        assert_eq!(default.to_features(), 0b11_0011);
        for set in [default, Compressions::ALL, Compressions::NONE] {
            assert_eq!(Compressions::from_features(set.to_features()), set);
            assert_eq!(Compressions::from_features(set.to_features() | 0xff00), set);
        }
        assert_eq!(Compressions::from_features(0), Compressions::ALL, "as nodes of version 1");
    }

    #[test]
    fn a_head_byte_is_read_back() {
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
    fn any_serializable_value_can_be_a_json_message() {
        let message = Message::json(&("a", 1)).unwrap();
        assert_eq!(message.as_text(), Some("[\"a\",1]"));
        assert_eq!(message.to_json::<(String, u8)>().unwrap(), ("a".to_owned(), 1));
        assert!(Message::bytes(vec![1]).as_text().is_none());
    }
}
