//! Decoders on their own.

use std::str::FromStr;

use bytes::{Bytes, BytesMut};
use peerkit_proto::address::{Address, MAX_ADDRESS};
use peerkit_proto::codec::Reader;
use peerkit_proto::config::Config;
use peerkit_proto::files::{Answer, Manifest, PieceList, Request, wire};
use peerkit_proto::frame::membership::Probe;
use peerkit_proto::frame::{Frame, Frames, HEADER, header};
use peerkit_proto::hello::{Hello, StreamOpen};
use peerkit_proto::message::{Compression, Message, Packed};

/// An address as a person or a peer writes it.
pub fn address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(address) = Address::from_str(text) else {
        return;
    };
    let printed = address.to_string();
    assert!(printed.len() <= MAX_ADDRESS, "{printed} is too long");
    assert_eq!(Address::from_str(&printed).as_ref(), Ok(&address));
    assert_eq!(address.clone().without_id().id, None);
    if let Some(socket) = address.socket() {
        assert_eq!(socket.port(), address.port);
    }
}

/// A message as it stands in a frame, up to its payload.
pub fn message(data: &[u8]) {
    let Ok(packed) = Packed::decode(&mut Reader::new(Bytes::copy_from_slice(data))) else {
        return;
    };
    assert_eq!(packed.head(), data[0]);
    assert_eq!(packed.payload, data[1..]);
    let (kind, compression) = (packed.kind, packed.compression);
    assert_eq!(Message::head(kind, compression), data[0]);
    if compression != Compression::None {
        return;
    }
    let payload = packed.payload.clone();
    if let Ok(message) = packed.clone().unpack(payload) {
        assert_eq!(message.kind(), kind);
        let _ = message.to_json::<Vec<Option<String>>>();
        if let Some(text) = message.as_text() {
            assert_eq!(text.as_bytes(), &data[1..]);
        }
        assert_eq!(Packed::plain(message), packed);
    }
}

/// Frames as they come in on a link, at once and in two reads.
pub fn frame(data: &[u8]) {
    let whole = frames(&mut BytesMut::from(data));
    let (first, second) = data.split_at(data.len() / 2);
    let mut buffer = BytesMut::from(first);
    let mut parts = frames(&mut buffer);
    if parts.last() != Some(&None) {
        buffer.extend_from_slice(second);
        parts.extend(frames(&mut buffer));
    }
    if whole.last() == Some(&None) {
        assert_eq!(parts.last(), Some(&None));
    } else {
        assert_eq!(parts, whole);
    }
    for frame in parts.into_iter().flatten() {
        same_again(&frame);
    }
}

/// The whole frames in `buffer`, but for bad ones; last `None` where bytes that are no frame
/// follow.
fn frames(buffer: &mut BytesMut) -> Vec<Option<Frame>> {
    let Ok(mut block) = Frames::split(buffer, &Config::default()) else {
        return vec![None];
    };
    let mut frames = Vec::new();
    while let Some(frame) = block.next() {
        frames.extend(frame.ok().map(Some));
    }
    frames
}

/// What a peer reads is what was written, and no peer refuses it for its length.
pub(crate) fn same_again(frame: &Frame) {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    let (kind, len) = header(&bytes).unwrap().unwrap();
    assert_eq!(len, bytes.len() - HEADER);
    assert!(len <= Frame::limit(kind, &Config::default()), "{frame:?}");
    assert_eq!(Frame::decode(kind, bytes.split_off(HEADER).into()).as_ref(), Ok(frame));
}

/// What is said first on a link and on a stream, and what on a probe.
pub fn hello(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    if let Ok(hello) = Hello::decode(body.clone()) {
        let mut again = Vec::new();
        hello.encode(&mut again);
        assert_eq!(Hello::decode(again.into()).as_ref(), Ok(&hello));
        let _ = hello.check("peerkit", Some(&[7; 32]));
        let seen = "192.0.2.1:40000".parse().unwrap();
        assert_eq!(hello.dialable(seen).is_some(), !hello.addresses.is_empty());
    }
    if let Ok(open) = StreamOpen::decode(body) {
        let mut again = Vec::new();
        open.encode(&mut again);
        let body = again.split_off(4);
        assert!(body.len() <= StreamOpen::MAX);
        assert_eq!(StreamOpen::decode(body.into()).as_ref(), Ok(&open));
        let _ = open.check("peerkit", None);
    }
    if let Ok(probe) = Probe::decode(Reader::new(Bytes::copy_from_slice(data))) {
        let mut again = Vec::new();
        probe.encode(&mut again);
        assert!(again.len() <= Probe::MAX);
        assert_eq!(Probe::decode(Reader::new(again.into())).as_ref(), Ok(&probe));
        let _ = probe.record.verify("peerkit");
    }
}

/// What is said on the stream of a fetch, and what a folder and a list of pieces are read from.
pub fn files(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    if let Ok(request) = Request::decode(body.clone()) {
        let again = request.encode().split_off(wire::PREFIX);
        assert!(again.len() <= wire::MAX_REQUEST);
        assert_eq!(Request::decode(again.into()), Ok(request));
    }
    if let Ok(answer) = Answer::decode(body.clone()) {
        let again = answer.encode().split_off(wire::PREFIX);
        assert!(again.len() <= wire::MAX_ANSWER);
        assert_eq!(Answer::decode(again.into()).unwrap(), answer);
    }
    if let Ok(list) = PieceList::decode(body.clone()) {
        assert_eq!(list.encode(), data);
        let _ = list.root();
    }
    if let Ok(manifest) = Manifest::decode(body) {
        assert_eq!(manifest.encode(), data);
        let base = std::path::Path::new("/base");
        for entry in manifest.entries() {
            let path = entry.path().under(base);
            assert!(path.starts_with(base));
            let climbs = |part| part == std::path::Component::ParentDir;
            assert!(!path.components().any(climbs), "{}", path.display());
        }
    }
}
