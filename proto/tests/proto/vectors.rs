//! The bytes of the wire, as PROTOCOL.md prints them. Each test vector is encoded, read back, and
//! searched for in the document. So neither the code nor the document can change alone.

use bytes::{Bytes, BytesMut};
use peerkit_proto::codec::Writer;
use peerkit_proto::config::Config;
use peerkit_proto::event::{Neighbour, Reason};
use peerkit_proto::files::{FileKind, FileName, SharedFile};
use peerkit_proto::frame::broadcast::{Batch, Have, Item, Want};
use peerkit_proto::frame::membership::{
    Beacon, Disconnect, ForwardJoin, Need, NeighbourOutcome, NeighbourReply, NeighbourRequest,
    Probe, Shuffle, ShuffleReply, SignedBeacon,
};
use peerkit_proto::frame::owner::ShutdownOrder;
use peerkit_proto::frame::query::{
    AnswerBody, Query, QueryAnswer, QueryDone, QueryId, QueryKind, UNLIMITED,
};
use peerkit_proto::frame::relay::{Delivery, Forward, Forwarded, RelayLabel};
use peerkit_proto::frame::{Frame, Frames, Refusal};
use peerkit_proto::hello::{Hello, StreamOpen, prove};
use peerkit_proto::id::{Hash, Key, NodeId, hex};
use peerkit_proto::message::{Message, PackedMessage};
use peerkit_proto::node_record::NodeRecord;
use peerkit_proto::sample;
use peerkit_proto::seal::{self, Letter, LetterContent, Sealed};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

mod files;

const PROTOCOL: &str = include_str!("../../../PROTOCOL.md");

/// Checks that PROTOCOL.md has these digits, with any spaces and line breaks between them.
pub(crate) fn assert_printed(name: &str, digits: &str) {
    let squeeze = |text: &str| text.split_whitespace().collect::<String>();
    let digits = squeeze(digits);
    assert!(squeeze(PROTOCOL).contains(&digits), "PROTOCOL.md does not print `{name}`: {digits}");
}

/// Checks that `bytes` are these digits, and that PROTOCOL.md prints them.
pub(crate) fn vector(name: &str, bytes: &[u8], digits: &str) {
    assert_eq!(hex(bytes), digits.split_whitespace().collect::<String>(), "{name}");
    assert_printed(name, digits);
}

/// Checks that a frame is encoded as these digits and read back from them, and that PROTOCOL.md
/// prints them.
pub(crate) fn frame(name: &str, frame: &Frame, digits: &str) {
    let mut out = Vec::new();
    frame.encode(&mut out);
    vector(name, &out, digits);
    let mut buffer = BytesMut::from(&out[..]);
    let mut frames = Frames::split(&mut buffer, &Config::default()).unwrap();
    assert_eq!(frames.next().unwrap().unwrap(), *frame, "{name}");
    assert!(frames.next().is_none() && buffer.is_empty(), "{name}");
}

pub(crate) fn ann() -> Key {
    Key::from_secret(&[1; 32])
}

pub(crate) fn bob() -> NodeId {
    bob_key().id()
}

pub(crate) fn bob_key() -> Key {
    Key::from_secret(&[2; 32])
}

pub(crate) fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        network: "peerkit".into(),
        name: "ann".into(),
        incarnation: 0x0102_0304_0506_0708,
        features: 0,
        addresses: vec!["192.0.2.7:7117".parse().unwrap(), "[2001:db8::7]:7117".parse().unwrap()],
        proof: None,
        owner: None,
        time: None,
        membership: None,
    }
}

fn shared() -> SharedFile {
    SharedFile {
        hash: Hash::of(b"hi"),
        name: FileName::new("hi.txt").unwrap(),
        size: 2,
        kind: FileKind::File,
    }
}

#[test]
fn identities_and_signatures_have_the_documented_bytes() {
    let id = ann().id();
    vector("id of ann", id.as_bytes(), ID_ANN);
    vector("id of bob", bob().as_bytes(), ID_BOB);
    let signature = ann().sign(b"peerkit");
    vector("signature", &signature, SIGNATURE);
    assert!(id.verify(b"peerkit", &signature));
}

#[test]
fn hellos_have_the_documented_bytes() {
    frame("hello", &Frame::Hello(hello()), HELLO);
    let proof = prove(b"correct horse battery staple", &[0x42; 32], ann().id());
    vector("proof", &proof, PROOF);
    frame(
        "hello with a proof",
        &Frame::Hello(Hello { proof: Some(proof), ..hello() }),
        HELLO_PROOF,
    );
    let owned = Hello { owner: Some(bob()), ..hello() };
    frame("hello, owned", &Frame::Hello(owned), HELLO_OWNED);
    let timed = Hello { time: Some(1_700_000_000_000), ..hello() };
    frame("hello, with the time", &Frame::Hello(timed), HELLO_TIMED);
    frame("clock", &Frame::Clock(1_700_000_000_000), CLOCK);
    let reason = Reason::KeptAway;
    frame("goodbye, kept away", &Frame::Goodbye { reason, received: 0 }, GOODBYE_AWAY);
    let reason = Reason::MadeRoom;
    frame("goodbye, made room", &Frame::Goodbye { reason, received: 0 }, GOODBYE_MADE_ROOM);
}

#[test]
fn an_order_to_stop_has_the_documented_bytes() {
    let order = ShutdownOrder::sign(&ann(), "peerkit", 1_700_000_000_000, [0x0c; 16]);
    let mut signed = Vec::new();
    signed.put_bytes(b"peerkit order 1");
    signed.put_str("peerkit");
    signed.put_raw(ann().id().as_bytes());
    signed.put_u64(1_700_000_000_000);
    signed.put_raw(&[0x0c; 16]);
    assert_eq!(order.signature, ann().sign(&signed));
    vector("the signed bytes of an order", &signed, ORDER_SIGNED);
    frame("order", &Frame::ShutdownOrder(order), ORDER);
}

#[test]
fn a_sample_has_the_documented_bytes() {
    let salt = [0x0d; 8];
    let hash = Hash::of_parts(&[&salt, ann().id().as_bytes()]);
    vector("the hash that decides whether a node is in a sample", hash.as_bytes(), SAMPLE_HASH);
    let zeros = hash.as_bytes()[0].leading_zeros() as u8;
    assert!(sample::contains(&salt, zeros, ann().id()));
    assert!(!sample::contains(&salt, zeros + 1, ann().id()));
}

#[test]
fn link_frames_have_the_documented_bytes() {
    frame("ping", &Frame::Ping(42), PING);
    frame("pong", &Frame::Pong(42), PONG);
    frame("received", &Frame::Received(3), RECEIVED);
    let goodbye = |reason, received| Frame::Goodbye { reason, received };
    frame("goodbye", &goodbye(Reason::Stopping, 3), GOODBYE);
    frame("goodbye, fault", &goodbye(Reason::Fault("a second Hello".into()), 0), GOODBYE_FAULT);
    frame("call-back", &Frame::CallBack { token: [0x0a; 16] }, CALL_BACK);
}

#[test]
fn messages_and_requests_have_the_documented_bytes() {
    let json = |text: &str| {
        PackedMessage::uncompressed(serde_json::from_str::<serde_json::Value>(text).unwrap().into())
    };
    frame("message", &Frame::Message(PackedMessage::uncompressed(Message::text("hi"))), MESSAGE);
    let request = Frame::Request { id: 1, name: "sum".into(), body: json("[1,2]") };
    frame("request", &request, REQUEST);
    frame("reply", &Frame::Reply { id: 1, outcome: Ok(json("3")) }, REPLY);
    let busy = Frame::Reply { id: 1, outcome: Err(Refusal::Busy) };
    frame("reply, busy", &busy, REPLY_BUSY);
    let failed = Frame::Reply { id: 1, outcome: Err(Refusal::Failed("too large".into())) };
    frame("reply, failed", &failed, REPLY_FAILED);
    frame("cancel", &Frame::Cancel(1), CANCEL);
}

#[test]
fn queries_have_the_documented_bytes() {
    let id = QueryId([0x0b; 16]);
    let ttl = std::time::Duration::from_secs(10);
    let query = |depth, what| Frame::Query(Query { id, depth, own: false, ttl, what });
    frame("query, discover", &query(0, QueryKind::Discover), QUERY_DISCOVER);
    frame("query, search", &query(UNLIMITED, QueryKind::Search("blue".into())), QUERY_SEARCH);
    frame(
        "query, has file",
        &query(UNLIMITED, QueryKind::HasFile(Hash::of(b"hi"))),
        QUERY_HAS_FILE,
    );
    let what = QueryKind::Search("blue".into());
    let own = Frame::Query(Query { id, depth: 0, own: true, ttl, what });
    frame("query, search for itself", &own, QUERY_OWN);
    frame("query, find node", &query(UNLIMITED, QueryKind::FindNode(bob())), QUERY_FIND_NODE);
    frame(
        "query, sample",
        &query(UNLIMITED, QueryKind::Sample { salt: [0x0d; 8], bits: 8 }),
        SAMPLE,
    );
    let what = QueryKind::CallBack {
        target: bob(),
        token: [0x0a; 16],
        addresses: vec!["192.0.2.7:7117".parse().unwrap()],
    };
    frame("query, call-back", &query(UNLIMITED, what), QUERY_CALL_BACK);
    let addresses = ["192.0.2.7:7117".parse().unwrap()];
    let record = NodeRecord::sign(&ann(), "peerkit", 1_700_000_000_000, &addresses);
    let what =
        QueryKind::SignedCallBack { target: bob(), token: [0x0a; 16], record: Box::new(record) };
    frame("query, signed call-back", &query(UNLIMITED, what), QUERY_SIGNED_CALL_BACK);

    let answer = |body| {
        let addresses = vec!["192.0.2.7:7117".parse().unwrap()];
        Frame::Answer(QueryAnswer { id, node: ann().id(), name: "ann".into(), addresses, body })
    };
    let neighbour = Neighbour { id: bob(), address: "192.0.2.8:7117".parse().unwrap() };
    let neighbours = AnswerBody::Neighbours(vec![neighbour], vec![]);
    frame("answer, neighbours", &answer(neighbours), ANSWER_NEIGHBOURS);
    frame("answer, files", &answer(AnswerBody::Files(vec![shared()])), ANSWER_FILES);
    frame("answer, here", &answer(AnswerBody::Here), ANSWER_HERE);
    let done = QueryDone { id, depth: UNLIMITED, complete: true };
    frame("query done", &Frame::QueryDone(done), QUERY_DONE);
}

#[test]
fn direct_messages_have_the_documented_bytes() {
    vector("bob's X25519 key", &bob().to_x25519().unwrap(), X25519_BOB);
    // The signed bytes are built here from the document, not by the code under test.
    let label = RelayLabel { query: QueryId([0x0b; 16]), number: 1, to: bob() };
    let time = 1_700_000_001_234u64;
    let mut signed = Vec::new();
    signed.put_bytes(b"peerkit direct 1");
    signed.put_str("peerkit");
    signed.put_raw(&[0x0b; 16]);
    signed.put_u64(1);
    signed.put_raw(bob().as_bytes());
    signed.put_raw(ann().id().as_bytes());
    signed.put_u64(time);
    signed.put_str("ann");
    signed.put_u8(0);
    signed.put_raw(b"hi");
    vector("the signed bytes of a direct message", &signed, DIRECT_SIGNED);
    vector("its signature", &ann().sign(&signed), DIRECT_SIGNATURE);

    let content = PackedMessage::uncompressed(Message::text("hi"));
    let content = content.into();
    let letter = Letter { sender: ann().id(), name: "ann".into(), time, content };
    let mut rng = ChaCha8Rng::from_seed([9; 32]);
    let Sealed { bytes, receipt } =
        seal::seal(&mut rng, &ann(), "peerkit", &label, &letter).unwrap();
    let key = Key::from_secret(&[2; 32]);
    assert_eq!(seal::open(&key, "peerkit", &label, &bytes).unwrap(), (letter, receipt));
    frame("forward", &Frame::Forward(Forward { label, sealed: bytes }), FORWARD);
    let (query, number) = (label.query, label.number);
    let forwarded = |delivery| Frame::Forwarded(Forwarded { query, number, delivery });
    frame("forwarded, taken", &forwarded(Delivery::Taken(receipt)), FORWARDED_TAKEN);
    frame("forwarded, no way", &forwarded(Delivery::NoRoute), FORWARDED_NO_WAY);
}

#[test]
fn contents_of_a_sealed_request_and_its_reply_have_the_documented_bytes() {
    let packed = |value| PackedMessage::uncompressed(Message::json(&value).unwrap());
    let request = LetterContent::Request { id: 1, name: "sum".into(), body: packed(vec![1, 2]) };
    let answered = LetterContent::Reply { id: 1, outcome: Ok(packed(vec![3])) };
    let refused = LetterContent::Reply { id: 1, outcome: Err(Refusal::NoHandler) };
    for (content, expected) in [
        (request, "0e01000000000000000300 73756d 01 5b312c325d"),
        (answered, "0f010000000000000000 01 5b335d"),
        (refused, "0f010000000000000001"),
    ] {
        let mut bytes = Vec::new();
        content.encode(&mut bytes);
        vector("the content of a letter", &bytes, expected);
    }
}

#[test]
fn broadcasts_have_the_documented_bytes() {
    // The signed bytes are built here from the document, not by the code under test.
    let (epoch, place, floor, time) = (1_700_000_000_000u64, 2u64, 1u64, 1_700_000_001_234u64);
    let mut run = Vec::new();
    run.put_raw(ann().id().as_bytes());
    run.put_u64(epoch);
    let mut content = Vec::new();
    content.put_u64(time);
    content.put_str("news");
    content.put_u8(0);
    content.put_bytes(b"hi");
    let mut hashed = Vec::new();
    hashed.put_bytes(b"peerkit broadcast 2");
    hashed.put_str("peerkit");
    hashed.put_raw(&run);
    hashed.put_u64(place);
    hashed.put_raw(&content);
    let id = Hash::of(&hashed);
    let mut signed = Vec::new();
    signed.put_bytes(b"peerkit broadcasts 2");
    signed.put_str("peerkit");
    signed.put_raw(&run);
    signed.put_u64(place);
    signed.put_u64(floor);
    signed.put_u16(1);
    signed.put_raw(id.as_bytes());

    let item = Item {
        time,
        title: "news".into(),
        content: PackedMessage::uncompressed(Message::text("hi")),
    };
    let batch = Batch::sign(&ann(), "peerkit", epoch, (place, floor), vec![item]);
    assert_eq!(batch.signature, ann().sign(&signed));
    assert_eq!(batch.ids("peerkit"), [id]);
    vector("the hashed bytes of a broadcast's id", &hashed, BROADCAST_HASHED);
    vector("broadcast's id", id.as_bytes(), BROADCAST_ID);
    vector("the signed bytes of a broadcast", &signed, BROADCAST_SIGNED);
    frame("broadcast", &Frame::Broadcast(batch.clone()), BROADCAST);
    let have = Have { run: batch.run, upto: 2 };
    frame("have", &Frame::Have(vec![have]), HAVE);
    frame("want", &Frame::Want(Want { run: batch.run, after: 1 }), WANT);
    frame("prune", &Frame::Prune(batch.run), PRUNE);
    frame("given", &Frame::Given(have), GIVEN);
}

#[test]
fn membership_frames_have_the_documented_bytes() {
    let addresses = ["192.0.2.7:7117".parse().unwrap()];
    let record = NodeRecord::sign(&ann(), "peerkit", 1_700_000_000_000, &addresses);
    let mut signed = Vec::new();
    signed.put_bytes(b"peerkit record 1");
    signed.put_str("peerkit");
    signed.put_raw(ann().id().as_bytes());
    signed.put_u64(1_700_000_000_000);
    signed.put_u16(1);
    signed.put_str("192.0.2.7:7117");
    assert_eq!(record.signature, ann().sign(&signed));
    vector("the signed bytes of a record", &signed, RECORD_SIGNED);
    let request = NeighbourRequest { need: Need::Join, record: record.clone() };
    frame("neighbour request", &Frame::NeighbourRequest(request), NEIGHBOUR_REQUEST);
    let (outcome, records) = (NeighbourOutcome::Full, Vec::new());
    let reply = NeighbourReply { outcome, record: record.clone(), records };
    frame("neighbour reply", &Frame::NeighbourReply(reply), NEIGHBOUR_REPLY);
    let join = ForwardJoin { steps: 6, record: record.clone() };
    frame("forward join", &Frame::ForwardJoin(join), FORWARD_JOIN);
    let disconnect = Disconnect { instead: vec![record.clone()], leaves: true };
    frame("disconnect", &Frame::Disconnect(disconnect), DISCONNECT);
    let shuffle = Shuffle { id: 7, steps: 6, records: vec![record.clone()] };
    frame("shuffle", &Frame::Shuffle(shuffle), SHUFFLE);
    let shuffled = ShuffleReply { id: 7, records: Vec::new() };
    frame("shuffle reply", &Frame::ShuffleReply(shuffled), SHUFFLE_REPLY);
    let beacon = Beacon { least: ann().id(), count: 1_700_000_000_000 };
    frame("beacon", &Frame::Beacon(beacon), BEACON);
    let mut signed = Vec::new();
    signed.put_bytes(b"peerkit beacon 1");
    signed.put_str("peerkit");
    signed.put_raw(ann().id().as_bytes());
    signed.put_u64(1_700_000_000_000);
    vector("the signed bytes of a beacon", &signed, BEACON_SIGNED);
    let signed_beacon = SignedBeacon { beacon, signature: ann().sign(&signed) };
    assert_eq!(signed_beacon, SignedBeacon::sign(&ann(), "peerkit", 1_700_000_000_000));
    frame("signed beacon", &Frame::SignedBeacon(signed_beacon), SIGNED_BEACON);
    let probe = Probe { neighbour: true, record, beacon, records: Vec::new() };
    let mut out = Vec::new();
    probe.encode(&mut out);
    vector("probe", &out, PROBE);
}

#[test]
fn a_streams_opening_has_the_documented_bytes() {
    let open = |protocol: &str, token| StreamOpen {
        network: "peerkit".into(),
        proof: None,
        protocol: protocol.into(),
        token,
        membership: None,
    };
    let check = |name: &str, open: StreamOpen, digits: &str| {
        let mut out = Vec::new();
        open.encode(&mut out);
        vector(name, &out, digits);
        assert_eq!(StreamOpen::decode(Bytes::from(out).slice(4..)).unwrap(), open, "{name}");
    };
    check("stream's opening", open("peerkit-files/1", None), STREAM_OPEN);
    check("stream's opening, called back", open("", Some([0x0a; 16])), STREAM_OPEN_TOKEN);
}

const ID_ANN: &str = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c";
const ID_BOB: &str = "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394";
const SIGNATURE: &str = "\
    9b2f050fed052d67a48f36283636fcb95282bb71a0572b387314ac5f80d650ab653253f938ecb8f6 \
    c2bac0c7ee7e3502569e60668b84a510b90ff323a632d608";
const HELLO: &str = "\
    4c00000001010001000700706565726b69740300616e6e0807060504030201000000000000000002 \
    000e003139322e302e322e373a3731313712005b323030313a6462383a3a375d3a37313137000000";
const PROOF: &str = "005e91bd7846d07eb31bf3bd9d22015a5f0bfabd15a5ab1b6973b3f151a4724c";
const HELLO_PROOF: &str = "\
    6c00000001010001000700706565726b69740300616e6e0807060504030201000000000000000002 \
    000e003139322e302e322e373a3731313712005b323030313a6462383a3a375d3a3731313701005e \
    91bd7846d07eb31bf3bd9d22015a5f0bfabd15a5ab1b6973b3f151a4724c0000";
const PING: &str = "09000000032a00000000000000";
const PONG: &str = "09000000042a00000000000000";
const RECEIVED: &str = "09000000050300000000000000";
const GOODBYE: &str = "0d00000002020000000300000000000000";
const GOODBYE_FAULT: &str = "1b0000000264000e0061207365636f6e642048656c6c6f0000000000000000";
const CALL_BACK: &str = "11000000400a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";
const MESSAGE: &str = "0400000010006869";
const REQUEST: &str = "14000000110100000000000000030073756d015b312c325d";
const REPLY: &str = "0c000000120100000000000000000133";
const REPLY_BUSY: &str = "0a00000012010000000000000002";
const REPLY_FAILED: &str = "15000000120100000000000000030900746f6f206c61726765";
const CANCEL: &str = "09000000130100000000000000";
const QUERY_DISCOVER: &str = "18000000200b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b00001027000000";
const QUERY_SEARCH: &str = "1e000000200b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0bff0010270000010400626c7565";
const QUERY_OWN: &str = "1e000000200b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b000110270000010400626c7565";
const QUERY_HAS_FILE: &str = "\
    38000000200b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0bff00102700000285052e9aab1b67b6622d94a084 \
    41b09fd5b7aca61ee360416d70de5da67d86ca";
const QUERY_FIND_NODE: &str = "\
    38000000200b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0bff0010270000038139770ea87d175f56a35466c3 \
    4c7ecccb8d8a91b4ee37a25df60f5b8fc9b394";
const QUERY_CALL_BACK: &str = "\
    5a000000200b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0bff0010270000048139770ea87d175f56a35466c3 \
    4c7ecccb8d8a91b4ee37a25df60f5b8fc9b3940a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a01000e0031 \
    39322e302e322e373a37313137";
const QUERY_SIGNED_CALL_BACK: &str = "\
    c2000000250b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0bff0010270000068139770ea87d175f56a35466 \
    c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b3940a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a8a88e3dd \
    7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068e5cf8b01000001000e00 \
    3139322e302e322e373a3731313737dfa6a5749577de37a4cdfb944fee06d5343241eecb6bfb9b56 \
    603eb8a2e49c03fb2b5084a5748c07ce17cc5a979eebc64d09069b50e200d73c92ac62fefb0d";
const ANSWER_NEIGHBOURS: &str = "\
    7d000000210b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b8a88e3dd7409f195fd52db2d3cba5d72ca6709 \
    bf1d94121bf3748801b40f6f5c0300616e6e01000e003139322e302e322e373a3731313700010081 \
    39770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b3940e003139322e302e32 \
    2e383a373131370000";
const ANSWER_FILES: &str = "\
    7c000000210b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b8a88e3dd7409f195fd52db2d3cba5d72ca6709 \
    bf1d94121bf3748801b40f6f5c0300616e6e01000e003139322e302e322e373a3731313701010085 \
    052e9aab1b67b6622d94a08441b09fd5b7aca61ee360416d70de5da67d86ca000200000000000000 \
    060068692e747874";
const ANSWER_HERE: &str = "\
    49000000210b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b8a88e3dd7409f195fd52db2d3cba5d72ca6709 \
    bf1d94121bf3748801b40f6f5c0300616e6e01000e003139322e302e322e373a3731313702";
const QUERY_DONE: &str = "13000000220b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0bff01";
const BROADCAST_HASHED: &str = "\
    13000000706565726b69742062726f61646361737420320700706565726b69748a88e3dd7409f195 \
    fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068e5cf8b0100000200000000000000 \
    d26ce5cf8b01000004006e65777300020000006869";
const BROADCAST_ID: &str = "042d2f7c75f55c45afefc753dd91568948e13fcdf134ec81e1854dd643aded5e";
const X25519_BOB: &str = "60346e7c911a5f6ba154129174cafe75b294ac3bbd5549632f48cec6266f8410";
const DIRECT_SIGNED: &str = "\
    10000000706565726b69742064697265637420310700706565726b69740b0b0b0b0b0b0b0b0b0b0b \
    0b0b0b0b0b01000000000000008139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f \
    5b8fc9b3948a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5cd26ce5 \
    cf8b0100000300616e6e006869";
const DIRECT_SIGNATURE: &str = "\
    faedbf54b7048cee0a57727bdeff0df6076d1b10fa2e20c7dc5fba983f00ea20adddc13912052c81 \
    43e5bef35ead638674ec78acf83b3ca864ccfd931792750e";
const FORWARD: &str = "\
    d9000000230b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b01000000000000008139770ea87d175f56a354 \
    66c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394bdedde1490dbb23f9c36e81e41b7e10358227d \
    46e7b464fabad949524f949736e7ab17979c09d84e1b1c4bdc93d72189699811d279ad2b7e7470d8 \
    7262afa5270998fddc57b80200ab2d1efb62627341b4c12cfd85e0e78d4b4131593d13406e75244a \
    8f67b94af6a62488d1057daeffa0c6a09ef71e382bb14303357b5df83dcee283f2e36b3c64c41fe0 \
    3d9e0d21fdd8cacbd3fd3133a58a81d980a9b12dde";
const FORWARDED_TAKEN: &str = "\
    3a000000240b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0100000000000000005e5db1094113a6f7290e \
    9876f4c449a4b4f7a03170c0aae2b8e4c87a36a99f7d";
const FORWARDED_NO_WAY: &str = "1a000000240b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b010000000000000001";
const BROADCAST_SIGNED: &str = "\
    14000000706565726b69742062726f6164636173747320320700706565726b69748a88e3dd7409f1 \
    95fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068e5cf8b01000002000000000000 \
    0001000000000000000100042d2f7c75f55c45afefc753dd91568948e13fcdf134ec81e1854dd643 \
    aded5e";
const BROADCAST: &str = "\
    90000000308a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068e5 \
    cf8b010000020000000000000001000000000000000100d26ce5cf8b01000004006e657773000200 \
    000068695739417672a83db72914d461d36f228742459b09c0100b0ad9c8eca291fc5b8178df82d4 \
    3aeee5c72a9c346eb4857f44e1337cd8d8bec05ac9be3e1ee3b63e06";
const HAVE: &str = "\
    330000003101008a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c00 \
    68e5cf8b0100000200000000000000";
const WANT: &str = "\
    31000000328a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068e5 \
    cf8b0100000100000000000000";
const PRUNE: &str = "\
    29000000338a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068e5 \
    cf8b010000";
const GIVEN: &str = "\
    31000000348a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068e5 \
    cf8b0100000200000000000000";
const RECORD_SIGNED: &str = "\
    10000000706565726b6974207265636f726420310700706565726b69748a88e3dd7409f195fd52db \
    2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068e5cf8b01000001000e003139322e302e32 \
    2e373a37313137";
const NEIGHBOUR_REQUEST: &str = "\
    7c00000050028a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068 \
    e5cf8b01000001000e003139322e302e322e373a3731313737dfa6a5749577de37a4cdfb944fee06 \
    d5343241eecb6bfb9b56603eb8a2e49c03fb2b5084a5748c07ce17cc5a979eebc64d09069b50e200 \
    d73c92ac62fefb0d";
const NEIGHBOUR_REPLY: &str = "\
    7e00000051018a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068 \
    e5cf8b01000001000e003139322e302e322e373a3731313737dfa6a5749577de37a4cdfb944fee06 \
    d5343241eecb6bfb9b56603eb8a2e49c03fb2b5084a5748c07ce17cc5a979eebc64d09069b50e200 \
    d73c92ac62fefb0d0000";
const FORWARD_JOIN: &str = "\
    7c00000052068a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068 \
    e5cf8b01000001000e003139322e302e322e373a3731313737dfa6a5749577de37a4cdfb944fee06 \
    d5343241eecb6bfb9b56603eb8a2e49c03fb2b5084a5748c07ce17cc5a979eebc64d09069b50e200 \
    d73c92ac62fefb0d";
const DISCONNECT: &str = "\
    7e000000530101008a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c \
    0068e5cf8b01000001000e003139322e302e322e373a3731313737dfa6a5749577de37a4cdfb944f \
    ee06d5343241eecb6bfb9b56603eb8a2e49c03fb2b5084a5748c07ce17cc5a979eebc64d09069b50 \
    e200d73c92ac62fefb0d";
const SHUFFLE: &str = "\
    860000005407000000000000000601008a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121b \
    f3748801b40f6f5c0068e5cf8b01000001000e003139322e302e322e373a3731313737dfa6a57495 \
    77de37a4cdfb944fee06d5343241eecb6bfb9b56603eb8a2e49c03fb2b5084a5748c07ce17cc5a97 \
    9eebc64d09069b50e200d73c92ac62fefb0d";
const SHUFFLE_REPLY: &str = "0b0000005507000000000000000000";
const BEACON: &str = "\
    29000000568a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068e5 \
    cf8b010000";
const BEACON_SIGNED: &str = "\
    10000000706565726b697420626561636f6e20310700706565726b69748a88e3dd7409f195fd52db \
    2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068e5cf8b010000";
const SIGNED_BEACON: &str = "\
    69000000578a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068e5 \
    cf8b010000cae2ce2f1706e4ee619ca856fc022e1c9b1792ff3cd2562a6fe0ba085d99e8ae940809 \
    e20eb08bbec7efdc37da3f31b6f1f48a293287fdcf14404c72d5bff80b";
const PROBE: &str = "\
    018a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068e5cf8b0100 \
    0001000e003139322e302e322e373a3731313737dfa6a5749577de37a4cdfb944fee06d5343241ee \
    cb6bfb9b56603eb8a2e49c03fb2b5084a5748c07ce17cc5a979eebc64d09069b50e200d73c92ac62 \
    fefb0d8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068e5cf8b \
    0100000000";
const STREAM_OPEN: &str = "1c0000000700706565726b6974000f00706565726b69742d66696c65732f3100";
const STREAM_OPEN_TOKEN: &str =
    "1d0000000700706565726b6974000000010a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";
const HELLO_OWNED: &str = "\
    7200000001010001000700706565726b69740300616e6e0807060504030201000000000000000002 \
    000e003139322e302e322e373a3731313712005b323030313a6462383a3a375d3a37313137000100 \
    0100200000008139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394";
const HELLO_TIMED: &str = "\
    5a00000001010001000700706565726b69740300616e6e0807060504030201000000000000000002 \
    000e003139322e302e322e373a3731313712005b323030313a6462383a3a375d3a37313137000100 \
    0200080000000068e5cf8b010000";
const CLOCK: &str = "09000000610068e5cf8b010000";
const GOODBYE_AWAY: &str = "\
    210000000210001400646973636f6e6e65637465642062792068616e640000000000000000";
const GOODBYE_MADE_ROOM: &str =
    "27000000 02 1400 1a00 6d61646520726f6f6d20666f7220616e6f74686572206c696e6b 0000000000000000";
const ORDER_SIGNED: &str = "\
    0f000000706565726b6974206f7264657220310700706565726b69748a88e3dd7409f195fd52db2d \
    3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068e5cf8b0100000c0c0c0c0c0c0c0c0c0c0c0c \
    0c0c0c0c";
const ORDER: &str = "\
    79000000608a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0068e5 \
    cf8b0100000c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c2cf5f2e7b83a387cccc99045e5cb974d7b643e \
    1911d54e52b486003a54f9193b55cbf6979137ebe359aeb11671a5fdfb4c44da205183753557e8a5 \
    908e0b2808";
const SAMPLE: &str = "21000000200b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0bff0010270000050d0d0d0d0d0d0d0d08";
const SAMPLE_HASH: &str = "d992d0e0ad7d7d5b0d3911727e767e1bdf834ce15838c5f251ae9dfa0bc808bf";
