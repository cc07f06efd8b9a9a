//! Recorded conversations of nodes of each version, from `tests/fixtures/wire-N/conversation.txt`.
//! They are replayed to the decoders and state machines of this version.
//!
//! There are three nodes. Ann has dialled bob, and carl has a link only with bob. Their secret keys
//! are 32 bytes 1, 32 bytes 2 and 32 bytes 3. A recording has the time of its start and, for each
//! connection, the bytes that both ends sent, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use peerkit_proto::config::Config;
use peerkit_proto::event::{Direction, Event, Peer, Reason};
use peerkit_proto::files::{Answer, FileKind, PieceList, Request, wire};
use peerkit_proto::frame::query::QueryKind;
use peerkit_proto::frame::{Frame, Frames};
use peerkit_proto::hello::{Hello, StreamOpen};
use peerkit_proto::id::{Hash, Key};
use peerkit_proto::link::{self, Greeting, Link, Side};
use peerkit_proto::message::Message;
use peerkit_proto::overlay::NodeSetup;
use peerkit_proto::overlay::admission::Candidate;
use peerkit_proto::peer::{ConnectionId, Greeted, Input, LinkTransport, Machine, Output};
use peerkit_proto::time::{Instant, Now};
use peerkit_proto::versions::Versions;

struct Recording {
    /// The version of the wire, from the name of the fixture's folder.
    version: u16,
    /// The start of the recording, in milliseconds since 1970.
    time: u64,
    connections: BTreeMap<u32, Connection>,
}

#[derive(Default)]
struct Connection {
    alpn: String,
    /// The bytes that the ends sent, in order. True means that the dialler sent them.
    sent: Vec<(bool, Vec<u8>)>,
}

impl Connection {
    fn bytes_of(&self, dialler: bool) -> Vec<u8> {
        self.sent.iter().filter(|(by, _)| *by == dialler).flat_map(|(_, b)| b.clone()).collect()
    }
}

fn unhex(digits: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn read(folder: &Path, version: u16) -> Recording {
    let text = fs::read_to_string(folder.join("conversation.txt")).unwrap();
    let mut recording = Recording { version, time: 0, connections: BTreeMap::new() };
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["time", time] => recording.time = time.parse().unwrap(),
            ["connection", number, alpn] => {
                let connection = Connection { alpn: alpn.to_owned(), sent: Vec::new() };
                recording.connections.insert(number.parse().unwrap(), connection);
            }
            [number, side @ (">" | "<"), digits] => {
                let connection = recording.connections.get_mut(&number.parse().unwrap()).unwrap();
                connection.sent.push((side == ">", unhex(digits)));
            }
            _ => panic!("{line}"),
        }
    }
    recording
}

/// Returns a recording of each version that this version speaks.
fn recordings() -> Vec<Recording> {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let Versions { min, max } = Versions::OURS;
    (min..=max).map(|version| read(&fixtures.join(format!("wire-{version}")), version)).collect()
}

fn link_of(recording: &Recording) -> &Connection {
    recording.connections.values().find(|connection| connection.alpn == "peerkit/1").unwrap()
}

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut buffer = BytesMut::from(bytes);
    let mut frames = Frames::split(&mut buffer, &Config::default()).unwrap();
    let read = std::iter::from_fn(|| frames.next()).map(Result::unwrap).collect();
    assert!(buffer.is_empty(), "the recording ends in the middle of a frame");
    read
}

fn kind(frame: &Frame) -> u8 {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes[4]
}

#[test]
fn every_recorded_frame_is_read_and_encoded_to_the_same_bytes() {
    for recording in recordings() {
        let mut kinds = BTreeSet::new();
        for by_dialler in [true, false] {
            let bytes = link_of(&recording).bytes_of(by_dialler);
            let mut again = Vec::new();
            for frame in frames(&bytes) {
                kinds.insert(kind(&frame));
                frame.encode(&mut again);
            }
            assert!(again == bytes, "version {}", recording.version);
        }
        let expected = [
            0x01, 0x02, 0x03, 0x04, 0x05, 0x10, 0x11, 0x12, 0x20, 0x21, 0x22, 0x23, 0x24, 0x30,
            0x50, 0x51, 0x56,
        ];
        let missing: Vec<_> = expected.iter().filter(|kind| !kinds.contains(kind)).collect();
        assert!(missing.is_empty(), "version {}: {missing:02x?}", recording.version);
    }
}

fn key(n: u8) -> Key {
    Key::from_secret(&[n; 32])
}

/// The outputs of a link of this version that took the place of one recorded end.
struct LinkOutputs {
    hello: Hello,
    texts: Vec<String>,
    frames: Vec<Frame>,
    end: Reason,
}

/// Replays the bytes of one end to a link of this version at the other end. `by_dialler` says
/// whether they are the bytes of the dialler.
fn replay_link(recording: &Recording, by_dialler: bool) -> LinkOutputs {
    let theirs = match &frames(&link_of(recording).bytes_of(by_dialler))[0] {
        Frame::Hello(hello) => hello.clone(),
        other => panic!("no Hello but {other:?}"),
    };
    let side = if by_dialler { Side::Acceptor } else { Side::Dialler };
    let hello = Hello {
        version_min: Versions::OURS.min,
        version_max: Versions::OURS.max,
        name: "today".into(),
        ..theirs
    };
    let greeting = Greeting { hello, expected_proof: None };
    let mut link = Link::new(Instant::ZERO, side, greeting, &Arc::default());
    let (mut now, mut buffer) = (Instant::ZERO, BytesMut::new());
    let (mut hello, mut end) = (None, None);
    let (mut texts, mut others) = (Vec::new(), Vec::new());
    for (_, bytes) in link_of(recording).sent.iter().filter(|(side, _)| *side == by_dialler) {
        buffer.extend_from_slice(bytes);
        now = now + Duration::from_millis(10);
        link.receive(now, &mut buffer);
        while let Some(output) = link.poll() {
            match output {
                link::Output::Send(_) => {}
                link::Output::Greeted(said) => {
                    hello = Some(said);
                    link.admit(now);
                }
                link::Output::Messages(messages) => {
                    let text = |message: Message| String::from_utf8(message.into_body().to_vec());
                    texts.extend(messages.map(|message| text(message).unwrap()));
                }
                link::Output::Frame(frame) => others.push(frame),
                link::Output::GoodbyeReceived(reason) => end = Some(reason),
                link::Output::Closed(reason) => panic!("closed: {reason}"),
            }
        }
    }
    assert_eq!(link.agreed().unwrap().version, recording.version);
    LinkOutputs { hello: hello.unwrap(), texts, frames: others, end: end.unwrap() }
}

#[test]
fn a_link_of_this_version_reads_each_recorded_end() {
    for recording in recordings() {
        let ann = replay_link(&recording, true);
        assert_eq!((ann.hello.name.as_str(), ann.hello.network.as_str()), ("ann", "peerkit"));
        assert_eq!(ann.hello.versions().max, recording.version);
        assert_eq!(ann.texts, ["a text"]);
        assert_eq!(ann.end, Reason::Stopping);
        let compressed = ann.frames.iter().filter(|frame| matches!(frame, Frame::Message(_)));
        assert_eq!(compressed.count(), 2);
        let bob = replay_link(&recording, false);
        assert_eq!((bob.hello.name.as_str(), bob.hello.addresses.len()), ("bob", 1));
        assert_eq!(bob.texts, ["[1,2]"]);
        assert_eq!(bob.hello.time.is_some(), recording.version >= 2);
    }
}

/// The outputs of a machine of this version that took the place of one recorded node.
#[derive(Default)]
struct MachineOutputs {
    events: Vec<Event>,
    lookups: Vec<QueryKind>,
    /// The kinds of the frames that the machine sends.
    sent: BTreeSet<u8>,
}

/// Replays the bytes of one end to the machine of the node with `key` at the other end.
/// `by_dialler` says whether they are the bytes of the dialler.
fn replay_machine(recording: &Recording, by_dialler: bool, key: Key) -> MachineOutputs {
    let taken = replay_link(recording, by_dialler);
    let (their_key, direction) = match by_dialler {
        true => (self::key(1), Direction::Inbound),
        false => (self::key(2), Direction::Outbound),
    };
    let id = their_key.id();
    let network = taken.hello.network.clone();
    let setup =
        NodeSetup { key, name: "today".into(), network, epoch: recording.time, manual: false };
    let mut now = Now { monotonic: Instant::ZERO, unix: recording.time };
    let mut machine = Machine::new(now, setup, &Config::default(), [7; 32]);
    let mut done = MachineOutputs::default();
    let mut handle = |now, input| {
        machine.handle(now, input);
        while let Some(output) = machine.poll(|_, _| false) {
            match output {
                Output::Send { frame, .. } => done.sent.extend([kind(&frame)]),
                Output::Event(event) => done.events.push(event),
                Output::LookUpAnswer { what, .. } => done.lookups.push(what),
                Output::CloseLink(_, reason) => panic!("closes the link: {reason}"),
                _ => {}
            }
        }
    };
    let address = taken.hello.addresses[0].clone();
    let ip = address.socket().unwrap().ip();
    let peer = Peer::new(id, taken.hello.name, address, direction);
    let candidate =
        Candidate { id, direction, incarnation: taken.hello.incarnation, ip, is_relayed: false };
    let connection = ConnectionId(1);
    let greeted = Greeted {
        connection,
        dial: None,
        peer,
        candidate,
        unix: None,
        merits: Vec::new(),
        membership: None,
        transport: LinkTransport::default(),
    };
    handle(now, Input::Greeted(greeted));
    for frame in taken.frames.into_iter().filter(|frame| !frame.is_application()) {
        now.monotonic = now.monotonic + Duration::from_millis(10);
        now.unix += 10;
        handle(now, Input::Frame(connection, frame));
    }
    done
}

fn broadcasts(events: &[Event]) -> Vec<(String, String)> {
    let broadcasts = events.iter().filter_map(|event| match event {
        Event::NodeBroadcast { broadcast } => Some(broadcast),
        _ => None,
    });
    let text = |message: &Message| message.as_text().unwrap().to_owned();
    broadcasts.map(|broadcast| (broadcast.title.clone(), text(&broadcast.message))).collect()
}

#[test]
fn a_machine_of_this_version_handles_each_recorded_end() {
    for recording in recordings() {
        let bob = replay_machine(&recording, true, key(2));
        assert_eq!(broadcasts(&bob.events), [("of ann".to_owned(), "to all".to_owned())]);
        let is_search =
            |what: &QueryKind| matches!(what, QueryKind::Search(text) if text == "fixture*");
        assert!(bob.lookups.iter().any(is_search), "{:?}", bob.lookups);
        // Bob answers ann's query and ann's neighbour request.
        for kind in [0x21, 0x51] {
            assert!(bob.sent.contains(&kind), "{:02x?}", bob.sent);
        }

        let ann = replay_machine(&recording, false, key(1));
        assert_eq!(broadcasts(&ann.events), [("of bob".to_owned(), "to all".to_owned())]);

        // Ann sealed a message to carl, and bob relayed it.
        let carl = replay_machine(&recording, true, key(3));
        let from_ann = carl.events.iter().find_map(|event| match event {
            Event::NodeMessage { peer, message } => Some((peer.id(), message.as_text())),
            _ => None,
        });
        assert_eq!(from_ann, Some((key(1).id(), Some("through bob"))));
    }
}

/// Splits the first message off the front of `bytes`. The message has a four-byte length.
fn split_message(bytes: &mut Bytes) -> Option<Bytes> {
    let len = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    let mut message = bytes.split_to(4 + len);
    Some(message.split_off(4))
}

#[test]
fn recorded_streams_are_read_by_this_version() {
    for recording in recordings() {
        let streams: Vec<_> =
            recording.connections.values().filter(|c| c.alpn == "peerkit-stream/1").collect();
        let mut protocols = Vec::new();
        for stream in streams {
            let mut asked = Bytes::from(stream.bytes_of(true));
            let open = StreamOpen::decode(split_message(&mut asked).unwrap()).unwrap();
            assert_eq!(open.network, "peerkit");
            let mut answered = Bytes::from(stream.bytes_of(false));
            assert_eq!(answered.split_to(1)[0], 0, "taken");
            if open.protocol == "peerkit-files/1" {
                check_fetch(recording.version, &mut asked, &mut answered);
            }
            protocols.push(open.protocol);
        }
        assert_eq!(protocols, ["peerkit-files/1", "echo/1"]);
    }
}

/// Checks the fetch of `fixture.bin`, whose content is 3,000 bytes 5.
fn check_fetch(version: u16, asked: &mut Bytes, answered: &mut Bytes) {
    let content = vec![5; 3000];
    let hash = Hash::of(&content);
    assert_eq!(PieceList::of(&content).root(), hash);
    let mut requests = Vec::new();
    while let Some(body) = split_message(asked) {
        let request = Request::decode(body.clone()).unwrap();
        assert_eq!(request.encode()[wire::PREFIX..], body);
        requests.push(request);
    }
    assert!(asked.is_empty());
    assert!(requests.contains(&Request::Describe { hash }));
    assert!(requests.contains(&Request::Data { hash, first: 0, count: 1 }));
    let completed = Request::Complete { hash, name: "ann".into(), called: None };
    assert_eq!(requests.contains(&completed), version >= 2, "{requests:?}");
    let mut came = Vec::new();
    while let Some(body) = split_message(answered) {
        let answer = Answer::decode(body.clone()).unwrap();
        assert_eq!(answer.encode()[wire::PREFIX..], body);
        match answer {
            Answer::Piece { len, .. } => came.extend_from_slice(&answered.split_to(len as usize)),
            Answer::Description(description) => {
                assert_eq!((description.kind, description.size), (FileKind::File, 3000));
                assert_eq!(description.name.as_str(), "fixture.bin");
            }
            Answer::Refused(refusal) => panic!("{refusal}"),
            _ => {}
        }
    }
    assert!(answered.is_empty() && came == content);
}
