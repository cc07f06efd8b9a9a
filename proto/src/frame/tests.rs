//! Tests of frames: exact bytes, limits, and arbitrary bytes from a peer.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::goodbye::REASONS_WITHOUT_TEXT;
use super::*;
use crate::frame::membership::{Need, NeighbourOutcome, SignedBeacon};
use crate::id::Key;
use crate::invitation::Certificate;
use crate::message::{Compression, Message, MessageKind};
use crate::node_record::NodeRecord;
use crate::versions::{VersionGap, Versions};

fn packed(text: &str) -> PackedMessage {
    PackedMessage::uncompressed(Message::text(text))
}

fn gap() -> VersionGap {
    VersionGap { refusing: Versions { min: 2, max: 3 }, refused: Versions { min: 1, max: 1 } }
}

fn samples() -> Vec<Frame> {
    let reasons = REASONS_WITHOUT_TEXT.into_iter().chain([
        Reason::Fault("bad".into()),
        Reason::Lost("reset".into()),
        Reason::Silent(Duration::from_secs(45)),
        Reason::Other(999, "later".into()),
        Reason::Version(Some(gap())),
        Reason::NotAMember(crate::invitation::MembershipError::UsedUp),
    ]);
    let mut frames: Vec<_> = reasons.map(|reason| Frame::Goodbye { reason, received: 3 }).collect();
    frames.extend([
        Frame::Ping(1),
        Frame::Pong(u64::MAX),
        Frame::Received(0),
        Frame::Message(packed("")),
        Frame::Message(PackedMessage {
            kind: MessageKind::Bytes,
            compression: Compression::Zstd,
            payload: Bytes::from_static(&[4, 255, 0]),
        }),
        Frame::Request { id: 5, name: "sum".into(), body: packed("1 2") },
        Frame::Reply { id: 5, outcome: Ok(packed("3")) },
        Frame::Reply { id: 5, outcome: Err(Refusal::NoHandler) },
        Frame::Reply { id: 5, outcome: Err(Refusal::Busy) },
        Frame::Reply { id: 5, outcome: Err(Refusal::Failed("é".into())) },
        Frame::Cancel(5),
        Frame::CallBack { token: [6; 16] },
        Frame::Clock(1_700_000_000_000),
        Frame::ShutdownOrder(ShutdownOrder::sign(&Key::from_secret(&[5; 32]), "net", 6, [7; 16])),
    ]);
    frames.extend(crate::overlay::query::tests::samples());
    frames.extend(broadcast_frames());
    frames.extend(membership_frames());
    frames.extend(roster_frames());
    frames
}

fn roster_frames() -> Vec<Frame> {
    let owner = crate::invitation::tests::owner();
    let member = Key::from_secret(&[5; 32]);
    let node = member.id();
    let accepted = crate::invitation::tests::invite(7, 1).accept(&member);
    let certificate = Certificate::of_owner(&owner, "net", node, 6, 7);
    let revocation = Revocation::sign(&owner, "net", node, 6);
    vec![
        Frame::RosterDigest(Hash::of(b"roster")),
        Frame::Members(vec![accepted, MembershipProof::Certificate(certificate)]),
        Frame::Members(vec![]),
        Frame::Revocations(vec![revocation]),
    ]
}

fn broadcast_frames() -> Vec<Frame> {
    let batch = crate::overlay::broadcast::tests::batch(3, &["text", ""]);
    let run = batch.run;
    let have = Have { run, upto: 4 };
    vec![
        Frame::Broadcast(batch),
        Frame::Have(vec![have, Have { run, upto: 0 }]),
        Frame::Want(Want { run, after: 7 }),
        Frame::Given(have),
        Frame::Prune(run),
    ]
}

fn membership_frames() -> Vec<Frame> {
    let addresses = ["192.0.2.7:7117".parse().unwrap()];
    let record = NodeRecord::sign(&Key::from_secret(&[3; 32]), "net", 8, &addresses);
    let records =
        vec![record.clone(), NodeRecord::sign(&Key::from_secret(&[4; 32]), "net", 9, &[])];
    let reply = |outcome, records| {
        Frame::NeighbourReply(NeighbourReply { outcome, record: record.clone(), records })
    };
    let mut frames: Vec<_> = [Need::Low, Need::High, Need::Join, Need::Chosen]
        .map(|need| Frame::NeighbourRequest(NeighbourRequest { need, record: record.clone() }))
        .into();
    frames.extend([
        reply(NeighbourOutcome::Accepted, records.clone()),
        reply(NeighbourOutcome::Full, Vec::new()),
        reply(NeighbourOutcome::Manual, Vec::new()),
        Frame::ForwardJoin(ForwardJoin { steps: 6, record }),
        Frame::Disconnect(Disconnect { instead: records.clone(), leaves: true }),
        Frame::Shuffle(Shuffle { id: 1, steps: 2, records: records.clone() }),
        Frame::ShuffleReply(ShuffleReply { id: 1, records }),
        Frame::Beacon(Beacon { least: Key::from_secret(&[3; 32]).id(), count: 5 }),
        Frame::SignedBeacon(SignedBeacon::sign(&Key::from_secret(&[3; 32]), "net", 5)),
    ]);
    frames
}

fn bytes_of(frames: &[Frame]) -> BytesMut {
    let mut out = Vec::new();
    for frame in frames {
        frame.encode(&mut out);
    }
    BytesMut::from(&out[..])
}

fn read_all(buffer: &mut BytesMut) -> Vec<Result<Frame, FrameError>> {
    let mut frames = Frames::split(buffer, &Config::default()).unwrap();
    std::iter::from_fn(|| frames.next()).collect()
}

/// Generates bytes of frames, most of them messages, some with a wrong length.
fn frames_like() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![4 => Just(MESSAGE), 1 => any::<u8>()];
    let body = (0_u8..4, "[a-zä]{0,30}");
    let frame = (kind, body, prop::bool::weighted(0.9)).prop_map(|(kind, (head, text), right)| {
        let len = text.len() + if right { 2 } else { 1 };
        let mut frame = vec![u8::try_from(len).unwrap(), 0, 0, 0, kind, head];
        frame.extend_from_slice(text.as_bytes());
        frame
    });
    prop::collection::vec(frame, 0..20).prop_map(|frames| frames.concat())
}

#[test]
fn frames_have_exact_bytes() {
    let frames = [Frame::Ping(0x0102), Frame::Message(packed("hi"))];
    let expected = [9, 0, 0, 0, 0x03, 2, 1, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0x10, 0x00, b'h', b'i'];
    assert_eq!(&bytes_of(&frames)[..], expected);
}

#[test]
fn every_kind_is_read_back_from_one_block_and_byte_by_byte() {
    let frames = samples();
    let whole = bytes_of(&frames);
    let read: Vec<_> = read_all(&mut whole.clone()).into_iter().map(Result::unwrap).collect();
    assert_eq!(read, frames);

    let (mut buffer, mut read) = (BytesMut::new(), Vec::new());
    for byte in whole {
        buffer.put_u8(byte);
        read.extend(read_all(&mut buffer).into_iter().map(Result::unwrap));
    }
    assert_eq!(read, frames);
    assert!(buffer.is_empty());
}

#[test]
fn an_unknown_kind_is_skipped() {
    let mut bytes = BytesMut::from(&[4, 0, 0, 0, 0xee, 1, 2, 3][..]);
    bytes.extend_from_slice(&bytes_of(&[Frame::Ping(1)]));
    assert_eq!(read_all(&mut bytes), [Ok(Frame::Unknown(0xee)), Ok(Frame::Ping(1))]);
}

/// Kinds of frames after whose last field no bytes can be skipped. The last field is the rest of
/// the body, or the whole frame is signed.
const WITHOUT_ADDED_FIELDS: [u8; 4] = [MESSAGE, REQUEST, REPLY, BROADCAST];

#[test]
fn bytes_after_the_last_field_are_skipped_if_added_fields_are_allowed() {
    for frame in samples() {
        let mut bytes = bytes_of(std::slice::from_ref(&frame)).to_vec();
        if WITHOUT_ADDED_FIELDS.contains(&bytes[4]) {
            continue;
        }
        bytes.extend_from_slice(b"a field of a later version");
        let len = u32::try_from(bytes.len() - 4).unwrap();
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        let mut buffer = BytesMut::from(&bytes[..]);
        assert!(matches!(read_all(&mut buffer.clone())[..], [Err(FrameError::Body { .. })]));
        let frames = Frames::split(&mut buffer, &Config::default()).unwrap();
        let mut frames = frames.skip_added_fields();
        assert_eq!((frames.next(), frames.next()), (Some(Ok(frame)), None));
    }
}

#[test]
fn a_length_over_the_limit_is_refused_as_soon_as_the_header_is_read() {
    let config = Config::default();
    let over = |kind: u8, len: u32| {
        let mut buffer = BytesMut::new();
        buffer.put_u32_le(len + 1);
        buffer.put_u8(kind);
        Frames::split(&mut buffer, &config).map(drop)
    };
    let limit = config.max_control;
    let len = limit + 1;
    let refused = |kind| Err(FrameError::TooLong { kind, len, limit });
    for kind in [HELLO, GOODBYE, PING, QUERY, ANSWER, 0xee] {
        assert_eq!(over(kind, 65_536), Ok(()));
        assert_eq!(over(kind, 65_537), refused(kind));
    }
    assert_eq!(over(MESSAGE, (16 << 20) + 1024), Ok(()));
    assert!(over(MESSAGE, (16 << 20) + 1025).is_err());
    assert!(over(MESSAGE, u32::MAX - 1).is_err());
    assert!(over(BROADCAST, (64 << 10) + 1025).is_err());
}

#[test]
fn a_frame_without_a_kind_is_refused() {
    let mut buffer = BytesMut::from(&[0, 0, 0, 0, 1][..]);
    assert_eq!(Frames::split(&mut buffer, &Config::default()).map(drop), Err(FrameError::Empty));
}

#[test]
fn an_invalid_body_is_reported_with_its_kind_and_the_next_frame_is_read() {
    let mut buffer = BytesMut::from(&[2, 0, 0, 0, PING, 9][..]);
    buffer.extend_from_slice(&bytes_of(&[Frame::Ping(1)]));
    let bad = FrameError::Body { kind: PING, error: DecodeError::Short("ping") };
    assert_eq!(read_all(&mut buffer), [Err(bad), Ok(Frame::Ping(1))]);
}

#[test]
fn take_messages_ends_before_a_message_that_is_compressed_or_invalid() {
    let config = Config { max_message: 8, ..Config::default() };
    let text = |text: &str| Frame::Message(packed(text));
    let compressed = PackedMessage { compression: Compression::Zlib, ..packed("compressed") };
    let compressed = Frame::Message(compressed);
    let not_utf8 = Frame::Message(PackedMessage { payload: vec![0xff].into(), ..packed("") });
    let frames = [text("a"), text(""), text("over long"), text("b"), Frame::Ping(1), not_utf8];
    let mut bytes = bytes_of(&frames);
    bytes.extend_from_slice(&bytes_of(&[compressed.clone(), text("c"), text("d")]));
    let mut block = Frames::split(&mut bytes, &config).unwrap();
    let mut runs = Vec::new();
    let mut others = Vec::new();
    loop {
        let run = block.take_messages();
        let (count, content) = (run.len(), run.content_len());
        let texts: Vec<_> = run.map(|message| message.as_text().unwrap().to_owned()).collect();
        assert_eq!((count, content), (texts.len(), texts.concat().len()));
        runs.push(texts);
        let Some(other) = block.next() else { break };
        others.push(other.unwrap());
    }
    assert_eq!(runs, [vec!["a", ""], vec!["b"], vec![], vec![], vec!["c", "d"]]);
    assert_eq!(others, [frames[2].clone(), frames[4].clone(), frames[5].clone(), compressed]);
}

proptest! {
    #[test]
    fn frames_and_fields_of_later_versions_are_skipped(
        kinds in prop::collection::vec(0x70_u8.., 0..4),
        body in prop::collection::vec(any::<u8>(), 0..50),
        later in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let mut bytes = Vec::new();
        for kind in &kinds {
            bytes.put_u32_le(u32::try_from(body.len() + 1).unwrap());
            bytes.push(*kind);
            bytes.extend_from_slice(&body);
        }
        bytes.put_u32_le(u32::try_from(9 + later.len()).unwrap());
        bytes.push(CLOCK);
        bytes.put_u64_le(7);
        bytes.extend_from_slice(&later);
        let frames = Frames::split(&mut BytesMut::from(&bytes[..]), &Config::default()).unwrap();
        let mut frames = frames.skip_added_fields();
        let read: Vec<_> = std::iter::from_fn(|| frames.next()).collect();
        let skipped = kinds.iter().map(|kind| Ok(Frame::Unknown(*kind)));
        prop_assert_eq!(read, skipped.chain([Ok(Frame::Clock(7))]).collect::<Vec<_>>());
    }

    #[test]
    fn take_messages_and_next_return_the_same_messages(bytes in frames_like(), max_message in 0_usize..40) {
        let config = Config { max_message, ..Config::default() };
        let (mut one, mut runs) = (BytesMut::from(&bytes[..]), BytesMut::from(&bytes[..]));
        let (one, runs) = (Frames::split(&mut one, &config), Frames::split(&mut runs, &config));
        let (Ok(mut one), Ok(mut runs)) = (one, runs) else { return Ok(()) };
        let mut both = Vec::new();
        loop {
            both.extend(runs.take_messages().map(|message| Ok(Frame::Message(PackedMessage::uncompressed(message)))));
            let Some(next) = runs.next() else { break };
            both.push(next);
        }
        let one: Vec<_> = std::iter::from_fn(|| one.next()).collect();
        prop_assert_eq!(both, one);
    }

    #[test]
    fn any_bytes_are_split_into_frames_or_refused(bytes in any::<Vec<u8>>()) {
        let mut buffer = BytesMut::from(&bytes[..]);
        if let Ok(mut frames) = Frames::split(&mut buffer, &Config::default()) {
            while let Some(frame) = frames.next() {
                let _ = frame;
            }
        }
    }

    #[test]
    fn any_body_of_any_kind_is_decoded_or_refused(kind in any::<u8>(), body in any::<Vec<u8>>()) {
        let _ = Frame::decode(kind, body.into());
    }

    #[test]
    fn a_changed_byte_never_panics(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let samples = samples();
        let mut bytes = bytes_of(&[which.get(&samples).clone()]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(mut frames) = Frames::split(&mut bytes, &Config::default()) {
            while let Some(frame) = frames.next() {
                let _ = frame;
            }
        }
    }
}
