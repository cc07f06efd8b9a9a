//! State machines that get any frames from their peers.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::BytesMut;
use peerkit_proto::address::Address;
use peerkit_proto::config::Config;
use peerkit_proto::event::{Direction, LinkEnd, Peer, Reason};
use peerkit_proto::files::{FileKind, FileName, SharedFile};
use peerkit_proto::frame::query::{AnswerBody, Query, QueryAnswer, QueryDone, QueryId, QueryKind};
use peerkit_proto::frame::{Frame, Frames};
use peerkit_proto::hello::Hello;
use peerkit_proto::id::{Hash, Key, NodeId};
use peerkit_proto::link::{self, Greeting, Link, Side};
use peerkit_proto::overlay::NodeSetup;
use peerkit_proto::overlay::admission::Candidate;
use peerkit_proto::peer::{
    Command, ConnectionId, Greeted, Input, LinkTransport, Machine, OperationId, Output, Payload,
    Purpose,
};
use peerkit_proto::time::{Instant, Now};
use peerkit_proto::versions::Versions;

use crate::wire::assert_round_trip;

/// The keys of the nodes. They are made only once, because that takes longer than the rest of a run.
static KEYS: LazyLock<[Key; 10]> =
    LazyLock::new(|| std::array::from_fn(|n| Key::from_secret(&[n as u8; 32])));

/// The network of all nodes here.
pub(crate) const NETWORK: &str = "peerkit";

/// Runs a link. The first byte selects the side of the link, and the number of bytes that arrive at a time.
pub fn link(data: &[u8]) {
    let Some((&options, bytes)) = data.split_first() else {
        return;
    };
    let side = if options & 1 == 0 { Side::Acceptor } else { Side::Dialler };
    let greeting = Greeting { hello: greeting(), expected_proof: None };
    let mut now = Instant::ZERO;
    let mut link = Link::new(now, side, greeting, &Arc::default());
    let mut buffer = BytesMut::new();
    let mut closed = false;
    for part in bytes.chunks(usize::from(options >> 1) + 1) {
        buffer.extend_from_slice(part);
        link.receive(now, &mut buffer);
        closed |= run_link(&mut link, now, closed);
        now = now + Duration::from_millis(10);
    }
    // Whatever has arrived, the link ends once nothing more arrives.
    for _ in 0..100 {
        closed |= run_link(&mut link, now, closed);
        let Some(due) = link.poll_timeout() else {
            break;
        };
        now = now.max(due);
        link.handle_timeout(now);
    }
    closed |= run_link(&mut link, now, closed);
    assert!(closed, "a silent link is closed");
}

/// Polls the link until it returns `None`. Returns whether the link is closed.
fn run_link(link: &mut Link, now: Instant, closed: bool) -> bool {
    let mut ended = closed;
    while let Some(output) = link.poll() {
        assert!(!ended, "{output:?} after the end");
        match output {
            link::Output::Send(frame) => assert_round_trip(&frame),
            link::Output::Greeted(_) => link.admit(now),
            link::Output::Messages(messages) => link.delivered(now, messages.len() as u64, 1),
            link::Output::Frame(frame) if frame.is_application() => link.delivered(now, 1, 1),
            // A goodbye in place of Hello is the end of the link.
            link::Output::GoodbyeReceived(_) => ended |= link.poll_timeout().is_none(),
            link::Output::Frame(_) => {}
            link::Output::Closed(_) => ended = true,
        }
    }
    ended
}

/// Runs a node with three neighbours. The input consists of frames. The byte before each frame selects the
/// neighbour that sends it.
pub fn overlay(data: &[u8]) {
    let (mut shell, _) = asking_node();
    // After the query, whose id the corpus contains.
    shell.handle(Input::Command(Command::Meets { over_udp: true, over_relays: true }));
    let mut rest = data;
    while let Some((&from, bytes)) = rest.split_first() {
        let Some(len) = bytes.first_chunk().map(|len| u32::from_le_bytes(*len) as usize) else {
            break;
        };
        let end = len.saturating_add(4).min(bytes.len());
        let (one, more) = bytes.split_at(end);
        rest = more;
        let Ok(mut frames) = Frames::split(&mut BytesMut::from(one), &Config::default()) else {
            break;
        };
        while let Some(Ok(frame)) = frames.next() {
            shell.receive(from % 3 + 1, frame);
        }
        shell.let_time_pass(Duration::from_millis(u64::from(from) * 10));
    }
    let _ = shell.machine.overlay().info();
    // Whatever the neighbours have sent, after the time of two queries no deadline is overdue.
    shell.let_time_pass(Config::default().query_ttl * 2);
    assert!(shell.machine.poll_timeout().is_none_or(|due| due > shell.now.monotonic));
}

/// A shell that drives a machine. If the machine ends a link, the shell makes a new one at once.
struct Shell {
    machine: Machine,
    now: Now,
    /// The connections of the links, each with the number of the peer.
    links: Vec<(ConnectionId, u8)>,
    last_connection: u64,
}

impl Shell {
    /// Returns the shell of node `n` with links to `neighbours`. The random numbers of the node depend on `seed`,
    /// and the corpus contains some of them.
    fn new(n: u8, name: &str, seed: u8, neighbours: &[u8]) -> Self {
        let (name, network) = (name.to_owned(), NETWORK.to_owned());
        let setup = NodeSetup { key: key(n), name, network, epoch: 1, manual: false };
        let now = Now { monotonic: Instant::ZERO, unix: 1 };
        let machine = Machine::new(now, setup, &Config::default(), [seed; 32]);
        let mut shell = Self { machine, now, links: Vec::new(), last_connection: 0 };
        for neighbour in neighbours {
            shell.link(*neighbour);
        }
        shell
    }

    fn link(&mut self, n: u8) {
        self.last_connection += 1;
        let connection = ConnectionId(self.last_connection);
        self.links.push((connection, n));
        let direction = if n == 1 { Direction::Inbound } else { Direction::Outbound };
        let address = Address::from_socket(([127, 0, 0, n], 7117).into());
        let peer = Peer::new(node(n), format!("node {n}"), address, direction);
        let ip = [127, 0, 0, n].into();
        let candidate = Candidate { id: node(n), direction, incarnation: 1, ip, is_relayed: false };
        // Peers that can tell the machine where they see it, and that relay.
        let transport = LinkTransport { accepts_quic: true, relays: true, ..Default::default() };
        self.handle(Input::Greeted(Greeted {
            connection,
            dial: None,
            peer,
            candidate,
            unix: None,
            merits: Vec::new(),
            membership: None,
            transport,
        }));
    }

    /// Passes a frame of a neighbour to the machine. Returns the frames that the machine sends.
    fn receive(&mut self, from: u8, frame: Frame) -> Vec<Frame> {
        let link = self.links.iter().find(|(_, n)| *n == from);
        let (connection, _) = *link.expect("every neighbour has a link");
        self.handle(Input::Frame(connection, frame))
    }

    fn let_time_pass(&mut self, time: Duration) {
        self.now.monotonic = self.now.monotonic + time;
        self.machine.handle_timeout(self.now);
        self.drain(VecDeque::new());
    }

    /// Passes an input to the machine, and then the inputs that follow from its outputs. Returns the frames that
    /// the machine sends.
    fn handle(&mut self, input: Input) -> Vec<Frame> {
        self.drain([input].into())
    }

    fn drain(&mut self, mut inputs: VecDeque<Input>) -> Vec<Frame> {
        let mut sent = Vec::new();
        let mut ended = Vec::new();
        loop {
            match self.machine.poll(|_, _| false) {
                Some(Output::Send { connection, frame }) => {
                    let is_linked = self.links.iter().any(|(linked, _)| *linked == connection);
                    assert!(is_linked, "sent to no neighbour");
                    assert_round_trip(&frame);
                    sent.push(frame);
                }
                Some(Output::LookUpAnswer { query, what, .. }) => {
                    let here = matches!(what, QueryKind::SignedCallBack { .. });
                    let files = if here { Vec::new() } else { vec![file()] };
                    inputs.push_back(Input::Command(Command::Answer { query, files, here }));
                }
                Some(Output::Observe(by)) => {
                    let address = Some(([192, 0, 2, 1], 20_000).into());
                    inputs.push_back(Input::Observed { by, address });
                }
                Some(Output::Dial { dial, purpose: Purpose::Meeting, .. }) => {
                    let error = "no hole was punched".to_owned();
                    inputs.push_back(Input::DialFailed { dial, error });
                }
                Some(Output::LookUpAddresses(id)) => {
                    inputs.push_back(Input::AddressesLookedUp { id, addresses: Vec::new() });
                }
                Some(
                    Output::CloseLink(connection, _) | Output::CloseReplacedLink(connection, _),
                ) => {
                    ended.push(connection);
                }
                Some(_) => {}
                None => match inputs.pop_front() {
                    Some(input) => self.machine.handle(self.now, input),
                    None => break,
                },
            }
        }
        for connection in ended {
            let Some(at) = self.links.iter().position(|(linked, _)| *linked == connection) else {
                continue;
            };
            let (_, n) = self.links.remove(at);
            let link_end = LinkEnd { reason: Reason::Requested, by_peer: false };
            sent.extend(self.handle(Input::LinkDown { connection, link_end }));
            sent.extend(self.handle(Input::LinkEndReported { id: node(n) }));
            self.link(n);
        }
        sent
    }
}

/// Returns a node with links to three others, and the id of a query that the node has begun.
fn asking_node() -> (Shell, QueryId) {
    let mut shell = Shell::new(0, "me", 7, &[1, 2, 3]);
    let (operation, what) = (OperationId(1), QueryKind::Discover);
    let asked =
        shell.handle(Input::Query { operation, what, depth: -1, own: false, timeout: None });
    let query = query_in(&asked).id;
    (shell, query)
}

fn query_in(frames: &[Frame]) -> Query {
    let query = frames.iter().find_map(|frame| match frame {
        Frame::Query(query) => Some(query.clone()),
        _ => None,
    });
    query.expect("a query was sent")
}

/// Returns the Hello of a node of the same network.
pub(crate) fn greeting() -> Hello {
    Hello {
        version_min: Versions::OURS.min,
        version_max: Versions::OURS.max,
        network: NETWORK.into(),
        name: "someone".into(),
        incarnation: 1,
        features: 0,
        addresses: vec![Address::from_socket(([192, 0, 2, 1], 7117).into())],
        proof: None,
        owner: None,
        time: None,
        membership: None,
    }
}

/// Returns a frame with a sealed message for the node of [`asking_node`].
pub(crate) fn relayed_message() -> Frame {
    let (mut sender, relay) = (Shell::new(9, "", 9, &[1]), 1);
    let (operation, to) = (OperationId(1), node(0));
    let payload = Payload::Message("content".into());
    let query = query_in(&sender.handle(Input::Send { operation, to, payload }));
    let (name, addresses, body) = (String::new(), Vec::new(), AnswerBody::Here);
    let answer = QueryAnswer { id: query.id, node: to, name, addresses, body };
    sender.receive(relay, Frame::Answer(answer));
    let done = QueryDone { id: query.id, depth: query.depth, complete: true };
    let sent = sender.receive(relay, Frame::QueryDone(done));
    let forward = sent.into_iter().find(|frame| matches!(frame, Frame::Forward(_)));
    forward.expect("the way was found")
}

/// Returns the frame of a broadcast. Its author is not a neighbour of the node of [`asking_node`].
pub(crate) fn broadcast() -> Frame {
    let mut author = Shell::new(9, "", 9, &[1]);
    let (operation, title) = (OperationId(1), "title".to_owned());
    let message = "content".into();
    let sent = author.handle(Input::Broadcast { operation, title, message });
    let broadcast = sent.into_iter().find(|frame| matches!(frame, Frame::Broadcast(_)));
    broadcast.expect("within the limits")
}

/// Returns the id of the query that the node of [`asking_node`] has begun.
pub(crate) fn own_query() -> QueryId {
    asking_node().1
}

pub(crate) fn file() -> SharedFile {
    SharedFile {
        hash: Hash::of(b"content"),
        name: FileName::new("notes.txt").expect("a plain name"),
        size: 7,
        kind: FileKind::File,
    }
}

/// Returns the identity of a node. Node 0 is the one that is tested, and 1 to 3 are its neighbours.
pub(crate) fn node(n: u8) -> NodeId {
    key(n).id()
}

pub(crate) fn key(n: u8) -> Key {
    KEYS[usize::from(n)].clone()
}
