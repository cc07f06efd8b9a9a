//! Encoded application frames, in two parts: the head, which is built for each frame, and the body, which is
//! the message's content.

use bytes::Bytes;
use peerkit_proto::frame::{Frame, message_header};
use peerkit_proto::message::PackedMessage;

/// An encoded application frame on its way into the outbox.
pub(crate) struct EncodedFrame<'a> {
    /// The header, and the fields before the content.
    pub(crate) head: &'a [u8],
    /// The content.
    pub(crate) body: &'a [u8],
    /// The same content as shared memory, if the sender has it in that form.
    pub(crate) shared: Option<&'a Bytes>,
}

impl EncodedFrame<'_> {
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// An encoded application frame that owns its bytes.
#[derive(Debug)]
pub(crate) struct OwnedFrame {
    head: Vec<u8>,
    body: Bytes,
}

impl OwnedFrame {
    /// Encodes a message, whose content may be compressed.
    pub(crate) fn message(packed: PackedMessage) -> Self {
        let head = message_header(packed.head_byte(), packed.payload.len()).to_vec();
        Self { head, body: packed.payload }
    }

    /// Encodes a request.
    pub(crate) fn request(id: u64, name: &str, packed: PackedMessage) -> Self {
        let name = name.to_owned();
        Self::with_content(packed, |body| Frame::Request { id, name, body })
    }

    /// Encodes the successful reply to a request.
    pub(crate) fn reply(id: u64, packed: PackedMessage) -> Self {
        Self::with_content(packed, |packed| Frame::Reply { id, outcome: Ok(packed) })
    }

    /// Encodes a frame around a content, which is not copied.
    fn with_content(packed: PackedMessage, frame: impl FnOnce(PackedMessage) -> Frame) -> Self {
        let body = packed.payload.clone();
        let empty = frame(PackedMessage { payload: Bytes::new(), ..packed });
        Self { head: empty.encode_header(&body), body }
    }

    pub(crate) fn as_encoded(&self) -> EncodedFrame<'_> {
        EncodedFrame { head: &self.head, body: &self.body, shared: Some(&self.body) }
    }
}
