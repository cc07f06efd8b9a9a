//! What can be sent: borrowed or owned, made into a frame without an allocation of its own.

use bytes::Bytes;
use peerkit_proto::codec::Writer;
use peerkit_proto::frame;
use peerkit_proto::message::{Compression, Kind, Message, Packed};

use crate::outbox::Parcel;

/// A message on its way out: made of text, bytes, JSON or a [`Message`].
#[derive(Debug, Clone)]
pub struct Outgoing<'a> {
    kind: Kind,
    compression: Compression,
    body: Body<'a>,
}

#[derive(Debug, Clone)]
enum Body<'a> {
    Borrowed(&'a [u8]),
    Owned(Vec<u8>),
    Shared(Bytes),
}

impl Outgoing<'_> {
    /// The content's bytes.
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

    /// The same as a message of its own.
    pub(crate) fn into_message(self) -> Message {
        let body = match self.body {
            Body::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Body::Owned(bytes) => bytes.into(),
            Body::Shared(bytes) => bytes,
        };
        Message::new(self.kind, body).compressed(self.compression)
    }

    /// The message's frame, where it travels as it is. `space` holds what stands before the
    /// content.
    #[inline(always)]
    pub(crate) fn parcel<'p>(&'p self, space: &'p mut [u8; frame::MESSAGE_HEAD]) -> Parcel<'p> {
        let body = self.body();
        *space = frame::message_head(Message::head(self.kind, Compression::None), body.len());
        let shared = match &self.body {
            Body::Shared(bytes) => Some(bytes),
            _ => None,
        };
        Parcel { head: space, body, shared }
    }
}

/// A frame of the application that is built whole.
#[derive(Debug)]
pub(crate) struct Built {
    head: Vec<u8>,
    body: Bytes,
}

impl Built {
    /// A message's frame, its content perhaps compressed.
    pub(crate) fn message(packed: Packed) -> Self {
        let head = frame::message_head(packed.head(), packed.payload.len()).to_vec();
        Self { head, body: packed.payload }
    }

    /// A request's frame.
    pub(crate) fn request(id: u64, name: &str, packed: Packed) -> Self {
        let fields = |out: &mut Vec<u8>| {
            out.put_u64(id);
            out.put_str(name);
        };
        Self::with(frame::REQUEST, fields, packed)
    }

    /// The frame of a reply that has an answer.
    pub(crate) fn reply(id: u64, packed: Packed) -> Self {
        let fields = |out: &mut Vec<u8>| {
            out.put_u64(id);
            out.put_u8(0);
        };
        Self::with(frame::REPLY, fields, packed)
    }

    fn with(kind: u8, fields: impl FnOnce(&mut Vec<u8>), packed: Packed) -> Self {
        let mut rest = Vec::new();
        fields(&mut rest);
        rest.put_u8(packed.head());
        let len = 1 + rest.len() + packed.payload.len();
        let mut head = Vec::with_capacity(frame::HEADER + rest.len());
        head.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
        head.put_u8(kind);
        head.put_raw(&rest);
        Self { head, body: packed.payload }
    }

    pub(crate) fn parcel(&self) -> Parcel<'_> {
        Parcel { head: &self.head, body: &self.body, shared: Some(&self.body) }
    }
}

impl<'a> Outgoing<'a> {
    fn plain(kind: Kind, body: Body<'a>) -> Self {
        Self { kind, compression: Compression::None, body }
    }
}

impl<'a> From<&'a str> for Outgoing<'a> {
    fn from(text: &'a str) -> Self {
        Self::plain(Kind::Text, Body::Borrowed(text.as_bytes()))
    }
}

impl<'a> From<&'a String> for Outgoing<'a> {
    fn from(text: &'a String) -> Self {
        text.as_str().into()
    }
}

impl From<String> for Outgoing<'_> {
    fn from(text: String) -> Self {
        Self::plain(Kind::Text, Body::Owned(text.into_bytes()))
    }
}

impl<'a> From<&'a [u8]> for Outgoing<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::plain(Kind::Bytes, Body::Borrowed(bytes))
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Outgoing<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        bytes[..].into()
    }
}

impl<'a> From<&'a Vec<u8>> for Outgoing<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        bytes[..].into()
    }
}

impl From<Vec<u8>> for Outgoing<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::plain(Kind::Bytes, Body::Owned(bytes))
    }
}

impl From<Bytes> for Outgoing<'_> {
    fn from(bytes: Bytes) -> Self {
        Self::plain(Kind::Bytes, Body::Shared(bytes))
    }
}

impl From<serde_json::Value> for Outgoing<'_> {
    fn from(value: serde_json::Value) -> Self {
        Self::plain(Kind::Json, Body::Owned(value.to_string().into_bytes()))
    }
}

impl From<Message> for Outgoing<'_> {
    fn from(message: Message) -> Self {
        Self {
            kind: message.kind(),
            compression: message.compression(),
            body: Body::Shared(message.into_body()),
        }
    }
}

impl<'a> From<&'a Message> for Outgoing<'a> {
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

    fn read(parcel: &Parcel<'_>) -> Frame {
        let mut buffer = BytesMut::from(parcel.head);
        buffer.extend_from_slice(parcel.body);
        Frames::split(&mut buffer, &Config::default()).unwrap().next().unwrap().unwrap()
    }

    fn packed(text: &str) -> Packed {
        Packed::plain(Message::text(text))
    }

    #[test]
    fn frames_made_in_parts_are_those_made_whole() {
        let mut space = [0; frame::MESSAGE_HEAD];
        let outgoing = Outgoing::from("hello");
        assert_eq!(read(&outgoing.parcel(&mut space)), Frame::Message(packed("hello")));
        assert_eq!(read(&Built::message(packed("x")).parcel()), Frame::Message(packed("x")));
        let request = Frame::Request { id: 7, name: "sum".into(), body: packed("1 2") };
        assert_eq!(read(&Built::request(7, "sum", packed("1 2")).parcel()), request);
        let reply = Frame::Reply { id: 7, outcome: Ok(packed("3")) };
        assert_eq!(read(&Built::reply(7, packed("3")).parcel()), reply);
    }

    #[test]
    fn everything_that_can_be_sent_keeps_its_kind() {
        let kinds = [
            Outgoing::from("a").into_message(),
            Outgoing::from(String::from("a")).into_message(),
            Outgoing::from(b"a").into_message(),
            Outgoing::from(vec![97]).into_message(),
            Outgoing::from(serde_json::json!(["a"])).into_message(),
            Outgoing::from(Message::text("a").compressed(Compression::Zstd)).into_message(),
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
