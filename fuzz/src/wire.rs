//! Fuzz targets for decoders.

use std::str::FromStr;

use bytes::{Bytes, BytesMut};
use peerkit_proto::address::{Address, MAX_ADDRESS};
use peerkit_proto::codec::Reader;
use peerkit_proto::config::Config;
use peerkit_proto::files::ticket::MAX_TICKET;
use peerkit_proto::files::{
    Answer, Layout, MAX_FILE, Manifest, PIECE, PieceList, PieceSet, Request, Ticket, wire,
};
use peerkit_proto::frame::membership::Probe;
use peerkit_proto::frame::{Frame, Frames, HEADER_LEN, read_header};
use peerkit_proto::hello::{Hello, StreamOpen};
use peerkit_proto::invitation::link::MAX_INVITE;
use peerkit_proto::invitation::{Invite, MAX_PROOF, MembershipProof, Revocation, Roster};
use peerkit_proto::message::{Compression, Message, PackedMessage};
use peerkit_proto::tls::{
    self, Alert, MAX_CONTENT, MAX_PAYLOAD, TRAILER_LEN, content_type_and_len, failure_alert,
    handshake_record_len, key_update_message, payload_len, read_key_update,
};

/// Parses an address.
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

/// Decodes the message in a frame.
pub fn message(data: &[u8]) {
    let Ok(packed) = PackedMessage::decode(&mut Reader::new(Bytes::copy_from_slice(data))) else {
        return;
    };
    assert_eq!(packed.head_byte(), data[0]);
    assert_eq!(packed.payload, data[1..]);
    let (kind, compression) = (packed.kind, packed.compression);
    assert_eq!(Message::head_byte(kind, compression), data[0]);
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
        assert_eq!(PackedMessage::uncompressed(message), packed);
    }
}

/// Decodes the header of a TLS record or the content of an opened record. The first byte selects which.
pub fn tls(data: &[u8]) {
    let Some((how, data)) = data.split_first() else {
        return;
    };
    if how % 2 == 0 {
        if let Ok(Some(payload)) = payload_len(data) {
            assert!((TRAILER_LEN..=MAX_PAYLOAD).contains(&payload));
            if let Some(content) =
                payload.checked_sub(TRAILER_LEN).filter(|len| *len <= MAX_CONTENT)
            {
                assert_eq!(tls::record_header(content)[3..], data[3..5]);
            }
        }
        if let Ok(Some(len)) = handshake_record_len(data) {
            assert!(len <= tls::HEADER_LEN + MAX_PAYLOAD);
        }
        return;
    }
    let Ok((kind, len)) = content_type_and_len(data) else {
        return;
    };
    assert!(len <= MAX_CONTENT && data[len] == kind.number());
    assert!(data[len + 1..].iter().all(|byte| *byte == 0));
    let inner = &data[..len];
    match kind {
        tls::ContentType::Alert => {
            if let Ok(Alert::Failure(number)) = Alert::decode(inner) {
                assert_eq!(failure_alert(number)[1], inner[1]);
            }
        }
        tls::ContentType::Handshake => {
            if let Ok(Some(asked)) = read_key_update(inner) {
                assert!(inner.ends_with(&key_update_message(asked)));
            }
        }
        tls::ContentType::Data => {}
    }
}

/// Decodes frames of a link. The same bytes in one part and in two parts have to give the same frames.
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
        assert_round_trip(&frame);
    }
}

/// Returns the complete valid frames in `buffer`. The last item is `None` if the bytes can't be split into
/// frames.
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

/// Checks that a peer decodes the same frame from the encoded one, and accepts its length.
pub(crate) fn assert_round_trip(frame: &Frame) {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    let (kind, len) = read_header(&bytes).unwrap().unwrap();
    assert_eq!(len, bytes.len() - HEADER_LEN);
    assert!(len <= Frame::limit(kind, &Config::default()), "{frame:?}");
    assert_eq!(Frame::decode(kind, bytes.split_off(HEADER_LEN).into()).as_ref(), Ok(frame));
}

/// Decodes the first messages of a link, a stream and a probe.
pub fn hello(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    if let Ok(hello) = Hello::decode(body.clone()) {
        let mut again = Vec::new();
        hello.encode(&mut again);
        assert_eq!(Hello::decode(again.into()).as_ref(), Ok(&hello));
        let _ = hello.check("peerkit", Some(&[7; 32]));
        let seen = "192.0.2.1:40000".parse().unwrap();
        assert_eq!(hello.dial_address(seen).is_some(), !hello.addresses.is_empty());
    }
    if let Ok(open) = StreamOpen::decode(body) {
        let mut again = Vec::new();
        open.encode(&mut again);
        let body = again.split_off(4);
        assert!(body.len() <= StreamOpen::MAX_LEN);
        assert_eq!(StreamOpen::decode(body.into()).as_ref(), Ok(&open));
        let _ = open.check("peerkit", None);
    }
    if let Ok(probe) = Probe::decode(Reader::new(Bytes::copy_from_slice(data))) {
        let mut again = Vec::new();
        probe.encode(&mut again);
        assert!(again.len() <= Probe::MAX_LEN);
        assert_eq!(Probe::decode(Reader::new(again.into())).as_ref(), Ok(&probe));
        let _ = probe.record.verify("peerkit");
    }
}

/// Reads invites, proofs of membership and revocations, and checks them against a roster.
pub fn invite(data: &[u8]) {
    for invite in
        [Invite::decode(data), String::from_utf8_lossy(data).parse()].into_iter().flatten()
    {
        let printed = invite.to_string();
        assert!(printed.len() <= MAX_INVITE);
        assert_eq!(printed.parse(), Ok(invite.clone()));
        let mut roster = Roster::new(invite.network.clone(), invite.owner());
        let proof = invite.accept(&invite.key);
        let admitted = roster.admit(proof.member(), Some(&proof), invite.invitation.issued);
        assert_eq!(admitted.is_ok(), invite.invitation.expires > invite.invitation.issued);
    }
    let reader = || Reader::new(Bytes::copy_from_slice(data));
    if let Ok(proof) = MembershipProof::decode(&mut reader()) {
        let mut again = Vec::new();
        proof.encode(&mut again);
        assert!(again.len() <= MAX_PROOF && data.starts_with(&again));
        let mut roster = Roster::new("peerkit".into(), proof.owner());
        let _ = roster.admit(proof.member(), Some(&proof), proof.issued());
        let _ = roster.add(&proof, proof.issued());
    }
    if let Ok(revocation) = Revocation::decode(&mut reader()) {
        let mut again = Vec::new();
        revocation.encode(&mut again);
        assert!(data.starts_with(&again));
        let mut roster = Roster::new("peerkit".into(), revocation.owner);
        let _ = roster.add_revocation(&revocation, revocation.time);
    }
}

/// Decodes the messages of a fetch, manifests, piece lists and tickets, and checks the layouts and sets of
/// pieces.
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
    if let Ok(ticket) = std::str::from_utf8(data).unwrap_or_default().parse::<Ticket>() {
        let printed = ticket.to_string();
        assert!(printed.len() <= MAX_TICKET);
        assert_eq!(printed.parse(), Ok(ticket));
    }
    layout(data);
    held(data);
    if let Ok(list) = PieceList::decode(body.clone()) {
        assert_eq!(list.encode(), data);
        let _ = list.root();
    }
    if let Ok(manifest) = Manifest::decode(body) {
        assert_eq!(manifest.encode(), data);
        let base = std::path::Path::new("/base");
        for entry in manifest.entries() {
            let path = entry.path().join_to(base);
            assert!(path.starts_with(base));
            let climbs = |part| part == std::path::Component::ParentDir;
            assert!(!path.components().any(climbs), "{}", path.display());
        }
    }
}

/// Checks the layout of files whose sizes are the `u64`s in `data`. Every piece has to be in one of the files. The
/// last `u64` is also used as the number of a piece to find.
fn layout(data: &[u8]) {
    let sizes: Vec<u64> = data.as_chunks().0.iter().map(|size| u64::from_le_bytes(*size)).collect();
    let Ok(layout) = Layout::new(sizes.iter().copied()) else {
        assert!(sizes.iter().any(|size| *size > MAX_FILE));
        return;
    };
    assert_eq!(layout.files(), sizes.len());
    let wanted_piece = sizes.last().copied().unwrap_or_default();
    let edges = (0..layout.files()).flat_map(|file| {
        let pieces = layout.pieces(file);
        [pieces.start, pieces.end.saturating_sub(1)]
    });
    for piece in edges.chain([wanted_piece, u64::MAX]) {
        match layout.position(piece) {
            None => assert!(piece >= layout.count()),
            Some(place) => {
                assert!(layout.pieces(place.file).contains(&piece) && !place.is_empty());
                assert!(place.len() <= PIECE && place.range.end <= sizes[place.file]);
            }
        }
    }
}

/// Adds a source's bit field to a set of pieces. The first two bytes are the size of the set.
fn held(data: &[u8]) {
    let Some((count, bits)) = data.split_first_chunk() else {
        return;
    };
    let count = u64::from(u16::from_le_bytes(*count));
    let mut set = PieceSet::of_count(count).expect("fewer than the limit");
    let inserted = set.insert_bits(0, bits);
    let bytes = set.bits(0, usize::MAX);
    assert!(set.len() <= count && bytes.len() as u64 == count.div_ceil(8));
    if inserted.is_ok() {
        let shown = bits.iter().copied().chain(std::iter::repeat(0));
        assert!(bytes.iter().copied().zip(shown).all(|(a, b)| a == b));
    }
}
