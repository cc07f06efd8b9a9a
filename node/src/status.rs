//! A node's account of itself.

use peerkit_proto::address::Address;
use peerkit_proto::event::Direction;
use peerkit_proto::id::NodeId;
use peerkit_proto::overlay::broadcast::BroadcastCounters;
use peerkit_proto::versions::Agreed;
use serde::Serialize;

use crate::actor::mailbox::OverlayStatus;
use crate::conn::Conn;
use crate::counters::{Counters, FileCounters};
use crate::inner::Inner;

/// How a node is, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// Its identity.
    pub id: NodeId,
    /// What it calls itself.
    pub name: String,
    /// Its network.
    pub network: String,
    /// Where others can dial it, as far as it knows.
    pub addresses: Vec<Address>,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Links that others dialled.
    pub inbound: usize,
    /// Links that this node dialled.
    pub outbound: usize,
    /// Whether its links are made by hand only.
    pub manual: bool,
    /// Whether it is a member of the network, which finds and keeps its own neighbours.
    pub member: bool,
    /// The neighbours that it keeps as a member.
    pub neighbours: Vec<NodeId>,
    /// The links that the application asked for.
    pub pinned: Vec<NodeId>,
    /// Nodes that it knows as a member beside its neighbours.
    pub passive: usize,
    /// What has become of broadcasts.
    pub broadcasts: BroadcastCounters,
    /// Queries of the last minute that it remembers.
    pub queries: usize,
    /// Answers that came to queries which this node had not sent. A peer that keeps sending them is
    /// disconnected.
    pub stray_answers: u64,
    /// Links whose other end has a clock far from this node's.
    pub clocks_apart: usize,
    /// How many seconds the clock that is farthest from this node's is ahead; negative if behind, 0 if
    /// none is far off.
    pub clock_skew_seconds: i64,
    /// Files and folders that it shares.
    pub shares: usize,
    /// What it has sent and received of files.
    pub files: FileCounters,
    /// What it has sent and received in all over its links.
    pub counters: Counters,
    /// Its links.
    pub peers: Vec<PeerStatus>,
}

/// How a link is, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PeerStatus {
    /// Who is at the other end.
    pub id: NodeId,
    /// What it calls itself.
    pub name: String,
    /// Where it can be dialled, else where it connected from.
    pub address: Address,
    /// `inbound` or `outbound`.
    pub direction: &'static str,
    /// The last round-trip time in milliseconds.
    pub rtt_ms: Option<f64>,
    /// The version of the wire that the link speaks.
    pub version: Option<u16>,
    /// The parts of the protocol that are off on this link because its version is too old for them, each
    /// with the reason. The peer's user sees the same.
    pub off: Vec<String>,
    /// Bytes of messages that wait to be written.
    pub queued_bytes: usize,
    /// Bytes of all else that wait to be written: what is the network's own.
    pub queued_control_bytes: usize,
    /// What the link has sent and received.
    pub counters: Counters,
}

impl Inner {
    pub(crate) fn status(&self, overlay: OverlayStatus) -> Status {
        let OverlayStatus { views, broadcasts, queries, stray_answers, clock } = overlay;
        let conns = self.links.all();
        let side = |direction| conns.iter().filter(|c| c.peer.direction() == direction).count();
        Status {
            id: self.profile.id,
            name: self.profile.name.clone(),
            network: self.profile.network.clone(),
            addresses: self.addresses.announced(None),
            uptime_ms: self.clock.micros() / 1000,
            inbound: side(Direction::Inbound),
            outbound: side(Direction::Outbound),
            manual: self.profile.manual,
            member: views.member,
            neighbours: views.active,
            pinned: views.pinned,
            passive: views.passive.len(),
            broadcasts,
            queries,
            stray_answers,
            clocks_apart: clock.apart,
            clock_skew_seconds: clock.farthest / 1000,
            shares: self.files.shares.list().len(),
            files: self.rates.counters(),
            counters: self.meter.read(),
            peers: conns.iter().map(|conn| peer_status(conn)).collect(),
        }
    }
}

fn peer_status(conn: &Conn) -> PeerStatus {
    PeerStatus {
        id: conn.peer.id(),
        name: conn.peer.name().to_owned(),
        address: conn.peer.address().clone(),
        direction: conn.peer.direction().name(),
        rtt_ms: conn.rtt().map(|rtt| rtt.as_secs_f64() * 1e3),
        version: conn.agreed.map(|agreed| agreed.version),
        off: conn.agreed.into_iter().flat_map(Agreed::off).map(|off| off.to_string()).collect(),
        queued_bytes: conn.outbox.queued(),
        queued_control_bytes: conn.outbox.queued_control(),
        counters: conn.meter.read(),
    }
}
