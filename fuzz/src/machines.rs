//! State machines with a stranger at the other end.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::BytesMut;
use peerkit_proto::address::Address;
use peerkit_proto::config::Config;
use peerkit_proto::event::{Direction, Peer};
use peerkit_proto::files::{FileKind, FileName, SharedFile};
use peerkit_proto::frame::query::What;
use peerkit_proto::frame::{Frame, Frames};
use peerkit_proto::hello::Hello;
use peerkit_proto::id::{Hash, Key, NodeId};
use peerkit_proto::link::{self, Greeting, Link, Side};
use peerkit_proto::overlay::admission::Candidate;
use peerkit_proto::overlay::{self, Command, Identity, Overlay};
use peerkit_proto::time::Instant;
use peerkit_proto::versions::Versions;

use crate::wire::same_again;

/// Made once: it takes longer than all the rest of a run.
static KEYS: LazyLock<[Key; 10]> =
    LazyLock::new(|| std::array::from_fn(|n| Key::from_secret(&[n as u8; 32])));

/// The network that all in here belong to.
pub(crate) const NETWORK: &str = "peerkit";

/// A link: the first byte says which side we are and how many bytes come at a time.
pub fn link(data: &[u8]) {
    let Some((&how, bytes)) = data.split_first() else {
        return;
    };
    let side = if how & 1 == 0 { Side::Acceptor } else { Side::Dialler };
    let greeting = Greeting { hello: greeting(), expected: None };
    let mut now = Instant::ZERO;
    let mut link = Link::new(now, side, greeting, &Arc::default());
    let mut buffer = BytesMut::new();
    let mut closed = false;
    for part in bytes.chunks(usize::from(how >> 1) + 1) {
        buffer.extend_from_slice(part);
        link.receive(now, &mut buffer);
        closed |= run_link(&mut link, now, closed);
        now = now + Duration::from_millis(10);
    }
    // Whatever was said, the link ends once nothing more comes.
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

/// Polls until `None`. Returns whether the link said that it is closed.
fn run_link(link: &mut Link, now: Instant, closed: bool) -> bool {
    let mut ended = closed;
    while let Some(output) = link.poll() {
        assert!(!ended, "{output:?} after the end");
        match output {
            link::Output::Send(frame) => same_again(&frame),
            link::Output::Greeted(_) => link.admit(now),
            link::Output::Messages(messages) => link.delivered(now, messages.len() as u64, 1),
            link::Output::Frame(frame) if frame.is_application() => link.delivered(now, 1, 1),
            link::Output::Frame(_) | link::Output::Farewell(_) => {}
            link::Output::Closed(_) => ended = true,
        }
    }
    ended
}

/// An overlay with three neighbours: frames, each from the neighbour that the next byte names.
pub fn overlay(data: &[u8]) {
    let mut overlay = network();
    let mut now = Instant::ZERO;
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
            let input = overlay::Input::Frame(node(from % 3 + 1), frame);
            handle(&mut overlay, now, input);
        }
        now = now + Duration::from_millis(u64::from(from) * 10);
        overlay.handle_timeout(now);
        run_overlay(&mut overlay, now);
    }
    let _ = overlay.info();
    // Nothing that a neighbour said keeps the overlay busy for longer than a query may take.
    now = now + Config::default().query_ttl * 2;
    overlay.handle_timeout(now);
    run_overlay(&mut overlay, now);
    assert!(overlay.poll_timeout().is_none_or(|due| due > now));
}

fn handle(overlay: &mut Overlay, now: Instant, input: overlay::Input) {
    overlay.handle(now, input);
    run_overlay(overlay, now);
}

fn run_overlay(overlay: &mut Overlay, now: Instant) {
    let mut asked = Vec::new();
    while let Some(output) = overlay.poll() {
        match output {
            overlay::Output::Send(to, frame) => {
                assert_ne!(to, node(0), "sent to itself");
                same_again(&frame);
            }
            overlay::Output::Lookup { query, what, .. } => asked.push((query, what)),
            _ => {}
        }
    }
    for (query, what) in asked {
        let here = matches!(what, What::CallBack { .. });
        let files = if here { Vec::new() } else { vec![file()] };
        let answer = Command::Answer { query, files, here };
        handle(overlay, now, overlay::Input::Command(answer));
    }
}

/// An overlay with links to three nodes, asking one question of its own.
fn network() -> Overlay {
    let mut overlay = overlay_of(0, "me", 7);
    for n in 1..=3 {
        let direction = if n == 1 { Direction::Inbound } else { Direction::Outbound };
        let address = Address::from_socket(([127, 0, 0, n], 7117).into());
        let ip = [127, 0, 0, n].into();
        handle(
            &mut overlay,
            Instant::ZERO,
            overlay::Input::LinkUp {
                peer: Peer::new(node(n), format!("node {n}"), address, direction),
                candidate: Candidate { id: node(n), direction, incarnation: 1, ip },
            },
        );
    }
    let id = overlay.draw_query_id();
    let ask = Command::Query { id, what: What::Discover, depth: -1, own: false, timeout: None };
    handle(&mut overlay, Instant::ZERO, overlay::Input::Command(ask));
    overlay
}

/// The Hello of a node of the same network.
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
    }
}

/// The frame of a message that is sealed to the overlay of [`network`].
pub(crate) fn direct() -> Frame {
    let mut sender = author();
    let id = sender.draw_query_id();
    let ask =
        Command::Query { id, what: What::FindNode(node(0)), depth: -1, own: false, timeout: None };
    sender.handle(Instant::ZERO, overlay::Input::Command(ask));
    while sender.poll().is_some() {}
    sender.send_direct(Instant::ZERO, id, node(0), "content".into()).expect("a small one");
    match sender.poll() {
        Some(overlay::Output::Send(_, frame)) => frame,
        other => panic!("no message but {other:?}"),
    }
}

/// A broadcast's frame, signed by a node that is no neighbour.
pub(crate) fn broadcast() -> Frame {
    let mut author = author();
    author.broadcast(Instant::ZERO, "title".into(), "content".into()).expect("within the limits");
    match author.poll() {
        Some(overlay::Output::Send(_, frame)) => frame,
        other => panic!("no broadcast but {other:?}"),
    }
}

/// An overlay that has a link with the one of [`network`], and is none of its neighbours there.
fn author() -> Overlay {
    let mut author = overlay_of(9, "", 9);
    let address = Address::from_socket(([127, 0, 0, 1], 7117).into());
    let direction = Direction::Inbound;
    let peer = Peer::new(node(0), String::new(), address, direction);
    let ip = [127, 0, 0, 1].into();
    let candidate = Candidate { id: node(0), direction, incarnation: 1, ip };
    author.handle(Instant::ZERO, overlay::Input::LinkUp { peer, candidate });
    while author.poll().is_some() {}
    author
}

/// The id of the query that [`network`]'s overlay has asked: the seed says.
pub(crate) fn own_query() -> peerkit_proto::frame::query::QueryId {
    overlay_of(0, "me", 7).draw_query_id()
}

pub(crate) fn file() -> SharedFile {
    SharedFile {
        hash: Hash::of(b"content"),
        name: FileName::new("notes.txt").expect("a plain name"),
        size: 7,
        kind: FileKind::File,
    }
}

/// Node 0 is the overlay's own, 1 to 3 its neighbours.
/// Returns the overlay of node `n`, which has no links yet.
fn overlay_of(n: u8, name: &str, seed: u8) -> Overlay {
    let (name, network) = (name.to_owned(), NETWORK.to_owned());
    let identity = Identity { key: key(n), name, network, epoch: 1, manual: false };
    Overlay::new(identity, &Config::default(), [seed; 32])
}

pub(crate) fn node(n: u8) -> NodeId {
    key(n).id()
}

pub(crate) fn key(n: u8) -> Key {
    KEYS[usize::from(n)].clone()
}
