//! Messages to send: borrowed or owned, encoded without an allocation.

use bytes::Bytes;
use peerkit_proto::frame;
use peerkit_proto::message::{Compression, Message, MessageKind};

use crate::outbox::EncodedFrame;

/// A message to send, converted from text, bytes, JSON or a [`Message`].
#[derive(Debug, Clone)]
pub struct OutgoingMessage<'a> {
    kind: MessageKind,
    compression: Compression,
    body: Body<'a>,
}

#[derive(Debug, Clone)]
enum Body<'a> {
    Borrowed(&'a [u8]),
    Owned(Vec<u8>),
    Shared(Bytes),
}

impl OutgoingMessage<'_> {
    /// Returns the content's bytes.
    pub(crate) fn body(&self) -> &[u8] {
        match &self.body {
            Body::Borrowed(bytes) => bytes,
            Body::Owned(bytes) => bytes,
            Body::Shared(bytes) => bytes,
        }
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.compression != Compression::None
    }

    /// Returns a message that owns its content.
    pub(crate) fn into_message(self) -> Message {
        let body = match self.body {
            Body::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Body::Owned(bytes) => bytes.into(),
            Body::Shared(bytes) => bytes,
        };
        Message::new(self.kind, body).compressed(self.compression)
    }

    /// Encodes the message without compression. The frame's head is written into `space`.
    #[inline(always)]
    pub(crate) fn encode<'f>(
        &'f self,
        space: &'f mut [u8; frame::MESSAGE_HEADER_LEN],
    ) -> EncodedFrame<'f> {
        let body = self.body();
        *space =
            frame::message_header(Message::head_byte(self.kind, Compression::None), body.len());
        let shared = match &self.body {
            Body::Shared(bytes) => Some(bytes),
            _ => None,
        };
        EncodedFrame { head: space, body, shared }
    }
}

impl<'a> OutgoingMessage<'a> {
    fn plain(kind: MessageKind, body: Body<'a>) -> Self {
        Self { kind, compression: Compression::None, body }
    }
}

impl<'a> From<&'a str> for OutgoingMessage<'a> {
    fn from(text: &'a str) -> Self {
        Self::plain(MessageKind::Text, Body::Borrowed(text.as_bytes()))
    }
}

impl<'a> From<&'a String> for OutgoingMessage<'a> {
    fn from(text: &'a String) -> Self {
        text.as_str().into()
    }
}

impl From<String> for OutgoingMessage<'_> {
    fn from(text: String) -> Self {
        Self::plain(MessageKind::Text, Body::Owned(text.into_bytes()))
    }
}

impl<'a> From<&'a [u8]> for OutgoingMessage<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::plain(MessageKind::Bytes, Body::Borrowed(bytes))
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for OutgoingMessage<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        bytes[..].into()
    }
}

impl<'a> From<&'a Vec<u8>> for OutgoingMessage<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        bytes[..].into()
    }
}

impl From<Vec<u8>> for OutgoingMessage<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::plain(MessageKind::Bytes, Body::Owned(bytes))
    }
}

impl From<Bytes> for OutgoingMessage<'_> {
    fn from(bytes: Bytes) -> Self {
        Self::plain(MessageKind::Bytes, Body::Shared(bytes))
    }
}

impl From<serde_json::Value> for OutgoingMessage<'_> {
    fn from(value: serde_json::Value) -> Self {
        Self::plain(MessageKind::Json, Body::Owned(value.to_string().into_bytes()))
    }
}

impl From<Message> for OutgoingMessage<'_> {
    fn from(message: Message) -> Self {
        Self {
            kind: message.kind(),
            compression: message.compression(),
            body: Body::Shared(message.into_body()),
        }
    }
}

impl<'a> From<&'a Message> for OutgoingMessage<'a> {
    fn from(message: &'a Message) -> Self {
        message.clone().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use peerkit_proto::config::Config;
    use peerkit_proto::frame::{Frame, Frames};
    use peerkit_proto::message::PackedMessage;

    use crate::outbox::OwnedFrame;

    fn read(encoded: &EncodedFrame<'_>) -> Frame {
        let mut buffer = BytesMut::from(encoded.head);
        buffer.extend_from_slice(encoded.body);
        Frames::split(&mut buffer, &Config::default()).unwrap().next().unwrap().unwrap()
    }

    fn packed(text: &str) -> PackedMessage {
        PackedMessage::uncompressed(Message::text(text))
    }

    #[test]
    fn a_frame_in_two_parts_has_the_bytes_of_the_whole_frame() {
        let mut space = [0; frame::MESSAGE_HEADER_LEN];
        let outgoing = OutgoingMessage::from("hello");
        assert_eq!(read(&outgoing.encode(&mut space)), Frame::Message(packed("hello")));
        assert_eq!(
            read(&OwnedFrame::message(packed("x")).as_encoded()),
            Frame::Message(packed("x"))
        );
        let request = Frame::Request { id: 7, name: "sum".into(), body: packed("1 2") };
        assert_eq!(read(&OwnedFrame::request(7, "sum", packed("1 2")).as_encoded()), request);
        let reply = Frame::Reply { id: 7, outcome: Ok(packed("3")) };
        assert_eq!(read(&OwnedFrame::reply(7, packed("3")).as_encoded()), reply);
    }

    #[test]
    fn each_type_that_can_be_sent_has_its_kind_of_message() {
        let kinds = [
            OutgoingMessage::from("a").into_message(),
            OutgoingMessage::from(String::from("a")).into_message(),
            OutgoingMessage::from(b"a").into_message(),
            OutgoingMessage::from(vec![97]).into_message(),
            OutgoingMessage::from(serde_json::json!(["a"])).into_message(),
            OutgoingMessage::from(Message::text("a").compressed(Compression::Zstd)).into_message(),
        ];
        assert_eq!(
            kinds,
            [
                Message::text("a"),
                Message::text("a"),
                Message::bytes(&b"a"[..]),
                Message::bytes(&b"a"[..]),
                serde_json::json!(["a"]).into(),
                Message::text("a").compressed(Compression::Zstd),
            ]
        );
    }
}
