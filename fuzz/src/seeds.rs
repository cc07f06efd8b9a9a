//! The seeds of the corpus: valid inputs of every kind, and inputs at limits.

use std::time::Duration;

use bytes::Bytes;
use peerkit_proto::address::Address;
use peerkit_proto::event::Neighbour;
use peerkit_proto::event::Reason;
use peerkit_proto::files::wire;
use peerkit_proto::files::{
    AccessKind, Answer as FilesAnswer, Description, FileKind, FileName, FileRefusal, Manifest,
    ManifestEntry, PieceList, RelPath, Request, Secret, Ticket,
};
use peerkit_proto::frame::query::{
    AnswerBody, Query, QueryAnswer, QueryDone, QueryId, QueryKind, UNLIMITED,
};
use peerkit_proto::frame::relay::{Delivery, Forwarded};
use peerkit_proto::frame::{self, Frame, HEADER_LEN};
use peerkit_proto::hello::{Hello, StreamOpen};
use peerkit_proto::id::{Hash, Key};
use peerkit_proto::invitation::{
    Certificate, Invitation, InvitationTerms, Invite, MembershipProof, Revocation,
};
use peerkit_proto::message::{Compression, Message, MessageKind, PackedMessage};
use peerkit_proto::tls;

use crate::records::step;
use crate::{machines, network};

/// The time at which invitations are made.
const TIME: u64 = 1_700_000_000_000;

/// The file name and the bytes of an input.
pub type Seed = (String, Vec<u8>);

/// Returns the seeds of every target.
#[must_use]
pub fn all() -> Vec<(&'static str, Vec<Seed>)> {
    vec![
        ("address", addresses()),
        ("message", messages()),
        ("frame", frames()),
        ("hello", hellos()),
        ("invite", invites()),
        ("link", links()),
        ("overlay", overlays()),
        ("files", files()),
        ("fetch", fetches()),
        ("tls", records()),
        ("records", sessions()),
    ]
}

fn addresses() -> Vec<Seed> {
    let id = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let texts = [
        "127.0.0.1:7117".to_owned(),
        "example.org:80".to_owned(),
        "[::1]:7117".to_owned(),
        "[fe80::1%eth0]:7117".to_owned(),
        "tcp://node.example:65535".to_owned(),
        format!("{id}@[2001:db8::2]:7117"),
        format!("tcp://{id}@host:1"),
        "a:b:c".to_owned(),
        "iroh://".to_owned(),
        format!("{}:1", "a".repeat(253)),
        "[::ffff:1.2.3.4]:0".to_owned(),
        String::new(),
    ];
    numbered(texts.map(String::into_bytes))
}

/// Inputs of the target `tls`. The first byte selects what the other bytes are: a record's header, or the content
/// of an opened record.
fn records() -> Vec<Seed> {
    let ticket = [4, 0, 0, 3, 1, 2, 3];
    numbered([
        [&[0][..], &tls::record_header(7)].concat(),
        [&[0][..], &tls::record_header(tls::MAX_CONTENT)].concat(),
        vec![0, 22, 3, 1, 0x40, 0],
        [&[1][..], b"some data", &[23, 0, 0, 0]].concat(),
        [&[1][..], &tls::CLOSE_NOTIFY, &[21]].concat(),
        [&[1][..], &tls::failure_alert(20), &[21]].concat(),
        [&[1][..], &tls::key_update_message(true), &[22]].concat(),
        [&[1][..], &ticket, &tls::key_update_message(false), &[22]].concat(),
        [&[1][..], &tls::key_update_message(false), &ticket, &[22]].concat(),
    ])
}

/// Scripts of the target `records`.
fn sessions() -> Vec<Seed> {
    let data = |len: u16| [&[step::DATA][..], &len.to_be_bytes()].concat();
    let deliver = |len: u16| [&[step::DELIVER][..], &len.to_be_bytes()].concat();
    let read = |room: u16| [&[step::READ][..], &room.to_be_bytes()].concat();
    let bytes = |step: u8, bytes: &[u8]| [&[step, bytes.len() as u8][..], bytes].concat();
    let inner = |content: &[u8], kind: tls::ContentType, padding: usize| {
        bytes(step::INNER, &[content, &[kind.number()], &vec![0; padding]].concat())
    };
    let update =
        |is_asked| inner(&tls::key_update_message(is_asked), tls::ContentType::Handshake, 0);
    let close = || inner(&tls::CLOSE_NOTIFY, tls::ContentType::Alert, 0);
    let ticket = || inner(&[4, 0, 0, 3, 1, 2, 3], tls::ContentType::Handshake, 5);
    let all = || [deliver(u16::MAX), read(40_000)].concat();
    let empty = data(0);
    let scripts = [
        vec![],
        [data(5), all(), data(16_384), deliver(3), read(9), deliver(9_000), read(9), close()]
            .concat(),
        [data(300), data(300), deliver(1_000), read(7), read(0), read(30_000), close()].concat(),
        [data(9), update(true), data(9), update(false), data(9), all(), close()].concat(),
        [update(true), update(true), all(), read(1), data(40), all()].concat(),
        [
            ticket(),
            inner(b"padded", tls::ContentType::Data, 30),
            all(),
            inner(&[], tls::ContentType::Data, 9),
        ]
        .concat(),
        [data(20), close(), data(20), all()].concat(),
        [data(20), inner(&tls::failure_alert(20), tls::ContentType::Alert, 0), all()].concat(),
        [data(20), data(20), vec![step::FLIP, 3], all()].concat(),
        [data(20), vec![step::FLIP, 40], deliver(2), read(30)].concat(),
        [data(20), bytes(step::PLAIN, &[23, 3, 3, 0, 17]), data(20), all()].concat(),
        [bytes(step::PLAIN, &[22, 3, 3, 0, 50]), all()].concat(),
        [bytes(step::PLAIN, &[23, 3, 3, 0x41, 1]), all()].concat(),
        [data(16_384 + 255), data(16_384 + 256), data(65_500), all()].concat(),
        [bytes(step::INNER, &[]), bytes(step::INNER, &[0; 9]), all()].concat(),
        [empty.repeat(32), data(1), empty.repeat(32), close(), all()].concat(),
        [empty.repeat(33), data(1), all()].concat(),
        [
            vec![step::EXPECT, 200],
            read(5),
            [data(16_384), deliver(16_500), read(16_384)].concat().repeat(8),
            vec![step::EXPECT, 1],
            close(),
        ]
        .concat(),
        [data(8_000), deliver(4_096), read(4_096), deliver(30), read(1), deliver(9_000), read(2)]
            .concat(),
        [data(60_000), deliver(u16::MAX), read(100)].concat(),
    ];
    numbered((0_u8..2).flat_map(|how| {
        scripts.iter().map(move |script| [&[how], &script[..]].concat()).collect::<Vec<_>>()
    }))
}

fn messages() -> Vec<Seed> {
    let mut inputs = Vec::new();
    for kind in [MessageKind::Text, MessageKind::Json, MessageKind::Bytes] {
        for compression in Compression::ALL {
            let mut input = vec![Message::head_byte(kind, compression)];
            input.extend_from_slice(match kind {
                MessageKind::Json => b"[\"a\",null,{\"b\":1e9}]",
                MessageKind::Text => "h\u{e9}llo \u{1f980}".as_bytes(),
                _ => b"\x04\xff\x00\x04",
            });
            inputs.push(input);
        }
    }
    inputs.push(vec![0, 0xff]);
    inputs.push(vec![0xff]);
    inputs.push(Vec::new());
    numbered(inputs)
}

/// Each frame alone, all frames one after the other, and invalid frames.
fn frames() -> Vec<Seed> {
    let frames: Vec<_> = every_frame().iter().map(bytes_of).collect();
    let mut inputs = frames.clone();
    inputs.push(frames.concat());
    inputs.push(vec![4, 0, 0, 0, 0xee, 1, 2, 3]);
    inputs.push(vec![0, 0, 0, 0, 1]);
    inputs.push(vec![0xff, 0xff, 0xff, 0xff, 0x10]);
    numbered(inputs)
}

fn hellos() -> Vec<Seed> {
    let hello = machines::greeting();
    let hellos = [
        Hello { addresses: Vec::new(), ..hello.clone() },
        Hello { proof: Some([7; 32]), ..hello.clone() },
        Hello { membership: Some(Box::new(accepted())), ..hello.clone() },
        Hello { network: "n".repeat(64), name: "\u{e9}".repeat(32), ..hello.clone() },
        hello,
    ];
    let opens = [
        StreamOpen {
            network: "peerkit".into(),
            proof: Some([7; 32]),
            protocol: "peerkit-files/1".into(),
            token: Some([1; 16]),
            membership: None,
        },
        StreamOpen {
            network: String::new(),
            proof: None,
            protocol: "x".into(),
            token: None,
            membership: Some(Box::new(accepted())),
        },
    ];
    let mut inputs: Vec<_> = hellos
        .into_iter()
        .map(|hello| bytes_of(&Frame::Hello(hello)).split_off(HEADER_LEN))
        .collect();
    inputs.extend(opens.iter().map(|open| {
        let mut out = Vec::new();
        open.encode(&mut out);
        out.split_off(4)
    }));
    let mut probe = Vec::new();
    network::probe().encode(&mut probe);
    inputs.push(probe);
    numbered(inputs)
}

/// Hello and then every frame, for both sides of the link, in large and in small parts.
fn invites() -> Vec<Seed> {
    let encoded = |proof: MembershipProof| {
        let mut out = Vec::new();
        proof.encode(&mut out);
        out
    };
    let mut revoked = Vec::new();
    revocation().encode(&mut revoked);
    let text = invite().to_string().into_bytes();
    numbered([text, invite().encode(), encoded(accepted()), encoded(certificate()), revoked])
}

fn invite() -> Invite {
    let (owner, key) = (Key::from_secret(&[8; 32]), Key::from_secret(&[9; 32]));
    let inviter = machines::node(1);
    let terms = InvitationTerms { inviter, issued: TIME, expires: TIME + 86_400_000, uses: 2 };
    Invite {
        invitation: Invitation::sign(&owner, "peerkit", key.id(), terms),
        key,
        network: "peerkit".into(),
        secret: Some(b"secret".to_vec()),
        addresses: vec![Address::from_socket(([192, 0, 2, 1], 7117).into())],
    }
}

fn accepted() -> MembershipProof {
    invite().accept(&machines::key(2))
}

fn certificate() -> MembershipProof {
    let owner = Key::from_secret(&[8; 32]);
    let by = (machines::node(1), invite().invitation.id);
    let certificate = Certificate::sign(&owner, "peerkit", machines::node(2), by, (TIME, 1));
    MembershipProof::Certificate(certificate)
}

fn revocation() -> Revocation {
    Revocation::sign(&Key::from_secret(&[8; 32]), "peerkit", machines::node(2), TIME)
}

fn links() -> Vec<Seed> {
    let mut conversation = bytes_of(&Frame::Hello(machines::greeting()));
    let hello = conversation.clone();
    for frame in every_frame() {
        if !matches!(frame, Frame::Goodbye { .. } | Frame::Hello(_)) {
            conversation.extend(bytes_of(&frame));
        }
    }
    let reason = Reason::Stopping;
    conversation.extend(bytes_of(&Frame::Goodbye { reason, received: 1 }));
    let with = |how: u8, bytes: &[u8]| [&[how], bytes].concat();
    numbered([
        with(0xfe, &conversation),
        with(0xff, &conversation),
        with(0x10, &hello),
        with(0x11, &hello),
        with(1, &[hello.clone(), hello.clone()].concat()),
        with(0, &conversation[hello.len()..]),
    ])
}

/// Each frame from one neighbour, then all frames from one neighbour, then all frames from all neighbours.
fn overlays() -> Vec<Seed> {
    let mut frames = every_frame();
    let mut own = answers(machines::own_query());
    own.push(Frame::QueryDone(QueryDone {
        id: machines::own_query(),
        depth: UNLIMITED,
        complete: true,
    }));
    frames.extend(own);
    let from = |from: u8, frame: &Frame| [vec![from], bytes_of(frame)].concat();
    let mut inputs: Vec<_> = frames.iter().map(|frame| from(1, frame)).collect();
    let all = |n: u8| frames.iter().flat_map(move |frame| from(n, frame));
    inputs.push(all(0).collect());
    inputs.push(all(0).chain(all(1)).chain(all(2)).collect());
    numbered(inputs)
}

/// Fetches: one that succeeds, one with a source that lies about the size, and others that fail.
fn fetches() -> Vec<Seed> {
    const SUCCESS: [[u8; 4]; 9] = [
        [2, 0, 0, 9],
        [5, 0, 1, 2],
        [6, 0, 3, 2],
        [7, 0, 0, 2],
        [8, 0, 3, 2],
        [9, 0, 0, 2],
        [12, 0, 0, 1],
        [12, 0, 1, 1],
        [12, 0, 2, 1],
    ];
    let run = |how: u8, steps: &[[u8; 4]]| [vec![how], steps.concat()].concat();
    let lie = [
        &SUCCESS[..6],
        &[[1, 0, 2, 1], [5, 0, 2, 1], [6, 0, 5, 2], [7, 0, 0, 1], [8, 0, 5, 1], [10, 0, 0, 1]],
    ];
    let faults: Vec<[u8; 4]> = (0..32).map(|n| [13, n % 3, n, n]).collect();
    let late = [&SUCCESS[..6], &[[13, 0, 5, 200], [4, 0, 0, 0], [13, 1, 0, 0], [11, 0, 1, 255]]];
    numbered([
        run(0x10, &SUCCESS),
        run(0x20, &lie.concat()),
        run(0x43, &faults),
        run(0x3f, &late.concat()),
        run(0x00, &[[2, 0, 0, 0]]),
        run(0xf6, &[[0, 0, 0, 255]; 8]),
    ])
}

fn files() -> Vec<Seed> {
    let hash = Hash::of(b"content");
    let address = Address::from_socket(([192, 0, 2, 1], 7117).into());
    let node = Key::from_secret(&[1; 32]).id();
    let requests = [
        Request::Describe { hash },
        Request::Pieces { hash, first: 0, count: 2 },
        Request::Data { hash, first: 1, count: 1 },
        Request::Tree { hash, first: 7, count: 1024 },
        Request::Follow { hash, addresses: vec![address.clone()] },
        Request::Cancel,
        Request::Present { proof: [7; 32] },
        Request::Complete { hash, name: "ann".into(), called: None },
        Request::Complete { hash, name: "ann".into(), called: "hi.txt".parse().ok() },
    ];
    let shared = machines::file();
    let access = AccessKind::Ticket;
    let kind = FileKind::Folder;
    let description = Description {
        kind,
        access,
        whole: true,
        size: shared.size,
        stored: shared.size,
        name: shared.name,
    };
    let answers = [
        FilesAnswer::Refused(FileRefusal::NotFound),
        FilesAnswer::Description(description),
        FilesAnswer::Pieces { first: 0, values: vec![[1; 32], [2; 32]] },
        FilesAnswer::Piece { index: 1, len: 1 << 20 },
        FilesAnswer::Held { first: 8, bits: Bytes::from_static(&[6, 8]) },
        FilesAnswer::Whole,
        FilesAnswer::Sources(vec![(node, vec![address.clone()])]),
    ];
    let ticket = Ticket {
        hash,
        node,
        secret: Some(Secret::from_bytes([3; 16])),
        network: machines::NETWORK.into(),
        addresses: vec![address],
        name: Some(FileName::new("notes.txt").expect("a plain name")),
    };
    // Sizes of files, and a piece to find: see `layout` in `wire.rs`.
    let sizes = [1u64 << 20, 0, 5, (1 << 20) + 1, 2];
    let path = |path: &str| RelPath::new(path).expect("a plain path");
    let folder = ManifestEntry::Folder { path: path("a"), mode: 0o755 };
    let file = ManifestEntry::File { path: path("a/b.txt"), mode: 0o644, size: 7, hash };
    let manifest = Manifest::new(vec![folder, file]).expect("a small folder");
    let mut inputs: Vec<_> =
        requests.iter().map(|request| request.encode().split_off(wire::PREFIX)).collect();
    inputs.extend(answers.iter().map(|answer| answer.encode().split_off(wire::PREFIX)));
    inputs.push(manifest.encode());
    inputs.push(PieceList::of(b"content").encode());
    inputs.push(PieceList::of(&vec![0; 3 << 20]).encode());
    inputs.push(ticket.to_string().into_bytes());
    inputs.push(sizes.iter().flat_map(|size| size.to_le_bytes()).collect());
    numbered(inputs)
}

fn every_frame() -> Vec<Frame> {
    let hash = Hash::of(b"content");
    let id = QueryId([5; 16]);
    let address = Address::from_socket(([192, 0, 2, 1], 7117).into());
    let packed = || PackedMessage::uncompressed(Message::text("hi"));
    let mut frames = vec![
        Frame::Hello(machines::greeting()),
        Frame::Goodbye { reason: Reason::Requested, received: 3 },
        Frame::Goodbye { reason: Reason::Fault("why".into()), received: 0 },
        Frame::Goodbye { reason: Reason::Silent(Duration::from_secs(45)), received: 0 },
        Frame::Ping(0),
        Frame::Pong(0),
        Frame::Received(1),
        Frame::Message(packed()),
        Frame::Request { id: 5, name: "sum".into(), body: packed() },
        Frame::Reply { id: 5, outcome: Ok(packed()) },
        Frame::Reply { id: 5, outcome: Err(frame::Refusal::Busy) },
        Frame::Reply { id: 5, outcome: Err(frame::Refusal::Failed("why".into())) },
        Frame::Cancel(5),
        Frame::CallBack { token: [6; 16] },
        machines::broadcast(),
        machines::relayed_message(),
    ];
    let deliveries =
        [Delivery::Taken([3; 32]), Delivery::NoRoute, Delivery::Busy, Delivery::Refused];
    for delivery in deliveries {
        frames.push(Frame::Forwarded(Forwarded { query: id, number: 1, delivery }));
    }
    let whats = [
        QueryKind::Discover,
        QueryKind::Search("notes".into()),
        QueryKind::HasFile(hash),
        QueryKind::FindNode(machines::node(2)),
        QueryKind::CallBack { target: machines::node(0), token: [1; 16], addresses: vec![address] },
    ];
    for (n, what) in (0..).zip(whats) {
        let ttl = Duration::from_secs(10);
        frames.push(Frame::Query(Query {
            id: QueryId([n; 16]),
            depth: UNLIMITED,
            own: false,
            ttl,
            what,
        }));
    }
    frames.extend(answers(id));
    frames.extend(network::broadcasts());
    frames.extend(network::membership());
    frames.push(Frame::QueryDone(QueryDone { id, depth: UNLIMITED - 1, complete: true }));
    frames.extend([0, 1_700_000_000_000, u64::MAX].map(Frame::Clock));
    frames.push(Frame::RosterDigest(hash));
    frames.push(Frame::Members(vec![accepted(), certificate()]));
    frames.push(Frame::Revocations(vec![revocation()]));
    frames
}

fn answers(id: QueryId) -> Vec<Frame> {
    let address = Address::from_socket(([192, 0, 2, 1], 7117).into());
    let neighbour = Neighbour { id: machines::node(4), address: address.clone() };
    let bodies = [
        AnswerBody::Neighbours(vec![neighbour.clone()], vec![neighbour]),
        AnswerBody::Files(vec![machines::file()]),
        AnswerBody::Here,
    ];
    let answer = |body| {
        let addresses = vec![address.clone()];
        Frame::Answer(QueryAnswer {
            id,
            node: machines::node(5),
            name: "five".into(),
            addresses,
            body,
        })
    };
    bodies.into_iter().map(answer).collect()
}

fn bytes_of(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out
}

/// Gives each input its number as a file name.
fn numbered(inputs: impl IntoIterator<Item = Vec<u8>>) -> Vec<Seed> {
    (0..).zip(inputs).map(|(n, input)| (format!("{n:02}"), input)).collect()
}
