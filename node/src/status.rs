//! The status of a node and of its links.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use peerkit_proto::address::Address;
use peerkit_proto::event::{Direction, Reachability};
use peerkit_proto::id::NodeId;
use peerkit_proto::overlay::broadcast::BroadcastCounters;
use peerkit_proto::overlay::reach::{MappingProtocol, MappingState, Nat, PortMapping, ReachStatus};
use peerkit_proto::time::Instant;
use peerkit_proto::versions::Agreement;
use serde::Serialize;

use crate::actor::mailbox::OverlayStatus;
use crate::conn::Conn;
use crate::counters::{Counters, DropCounters, FileCounters, HandshakeFailures, LinkCounters};
use crate::inner::Inner;

/// The state of a node at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct Status {
    /// The identity of the node.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub id: NodeId,
    /// The name of the node.
    pub name: String,
    /// The name of the network.
    pub network: String,
    /// Addresses at which other nodes can dial this one, as far as it knows, best first.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub addresses: Vec<Address>,
    /// How other nodes can reach this one.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub reachability: Reachability,
    /// The reason for `reachability`, in words.
    pub why: String,
    /// UDP addresses at which peers see this node, which may be those of a router.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub seen_at: Vec<SocketAddr>,
    /// The NAT in front of this node, as peers see it.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub nat: Nat,
    /// The mapping of this node's ports at its router. `None` if the router is not asked.
    pub mapping: Option<MappingStatus>,
    /// Number of links of this node that another node relays.
    pub relayed_links: usize,
    /// Number of connections between other nodes that this one relays.
    pub relayed: usize,
    /// Milliseconds since the node started.
    pub uptime_ms: u64,
    /// Number of links that other nodes have dialled.
    pub inbound: usize,
    /// Number of links that this node has dialled.
    pub outbound: usize,
    /// Number of inbound connections whose handshake is under way.
    pub handshakes: usize,
    /// Maximum number of such handshakes. A further one ends the oldest of the address group with most.
    pub max_handshakes: usize,
    /// True if links are made by hand only.
    pub manual: bool,
    /// True if the node is a member of the network. A member finds and keeps its own neighbours.
    pub member: bool,
    /// The member's neighbours (its active view).
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub neighbours: Vec<NodeId>,
    /// The peers of the links that the application has asked for.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub pinned: Vec<NodeId>,
    /// Number of other nodes that the member knows and could make neighbours (its passive view).
    pub passive: usize,
    /// Counters of broadcasts.
    #[cfg_attr(feature = "schema", schema(value_type = std::collections::BTreeMap<String, u64>))]
    pub broadcasts: BroadcastCounters,
    /// Number of queries that the node remembers from the last minute.
    pub queries: usize,
    /// Number of received answers to queries that this node never sent. A peer that keeps sending
    /// such answers is disconnected.
    pub stray_answers: u64,
    /// Number of peers whose clock is far from this node's.
    pub clocks_apart: usize,
    /// Difference in seconds between this node's clock and the peer's clock that is farthest from
    /// it. Positive if the peer's clock is ahead, negative if it is behind, 0 if no clock is far
    /// off.
    pub clock_skew_seconds: i64,
    /// Number of files and folders that the node shares.
    pub shares: usize,
    /// Counters of the files that the node has sent and received.
    pub files: FileCounters,
    /// Counters of all links together, including links that have ended.
    pub counters: Counters,
    /// Numbers of links that were made and that have ended.
    pub links: LinkCounters,
    /// Numbers of connections that became neither a link nor a stream.
    pub handshake_failures: HandshakeFailures,
    /// Numbers of events, frames and queries that were dropped because of a limit.
    pub drops: DropCounters,
    /// The links.
    pub peers: Vec<PeerStatus>,
}

/// The mapping of a node's ports at its router.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct MappingStatus {
    /// The protocol with which the ports were mapped: `pcp`, `nat_pmp` or `upnp`. `None` if none is mapped.
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub protocol: Option<MappingProtocol>,
    /// The addresses of the router that it forwards to this node.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub addresses: Vec<Address>,
    /// Whether this node announces these addresses. It does not if another router is in the way.
    pub announced: bool,
    /// Whether the router has refused, or did not answer.
    pub is_failed: bool,
    /// Seconds until the router forgets the mapping, unless it is renewed.
    pub seconds_left: Option<u64>,
    /// What is known about the mapping, in words.
    pub why: String,
}

/// The state of a link at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct PeerStatus {
    /// The identity of the peer.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub id: NodeId,
    /// The name of the peer.
    pub name: String,
    /// The address at which the peer can be dialled, or else the address that it connected from.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub address: Address,
    /// `inbound` or `outbound`.
    pub direction: &'static str,
    /// The last round-trip time, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// The version of the wire protocol on this link.
    pub version: Option<u16>,
    /// The parts of the protocol that are off on this link because its version is too old for them, each
    /// with the reason. The peer's own status lists the same parts.
    pub off: Vec<String>,
    /// Bytes of application messages that wait to be written.
    pub queued_bytes: usize,
    /// Bytes of all other frames that wait to be written.
    pub queued_control_bytes: usize,
    /// Counters of this link.
    pub counters: Counters,
}

impl Inner {
    pub(crate) fn status(&self, overlay: OverlayStatus) -> Status {
        let OverlayStatus {
            views,
            broadcasts,
            queries,
            stray_answers,
            query_drops,
            budget_drops,
            skipped_frames,
            clock,
            reach,
        } = overlay;
        let conns = self.links.all();
        let count = |direction| conns.iter().filter(|c| c.peer.direction() == direction).count();
        Status {
            id: self.profile.id,
            name: self.profile.name.clone(),
            network: self.profile.network.clone(),
            addresses: self.addresses.announced(None),
            reachability: reach.reachability,
            mapping: mapping_status(&reach, self.clock.now()),
            why: reach.why,
            seen_at: reach.seen.udp,
            nat: reach.nat,
            relayed_links: reach.relayed_links,
            relayed: self.circuits.count(),
            uptime_ms: self.clock.micros() / 1000,
            inbound: count(Direction::Inbound),
            outbound: count(Direction::Outbound),
            handshakes: self.handshakes.count(),
            max_handshakes: self.config.max_pending,
            manual: self.profile.manual,
            member: views.member,
            neighbours: views.active,
            pinned: views.pinned,
            passive: views.passive.len(),
            broadcasts,
            queries,
            stray_answers,
            clocks_apart: clock.apart,
            // `farthest` is in milliseconds.
            clock_skew_seconds: clock.farthest / 1000,
            shares: self.files.shares.list().len(),
            files: self.rates.counters(),
            counters: self.meter.read(),
            links: self.tallies.links(),
            handshake_failures: self.tallies.handshake_failures(),
            drops: DropCounters {
                events: self.dispatch.missed_events(),
                postponed_broadcasts: self.tallies.postponed_broadcasts.load(Relaxed),
                frames: skipped_frames,
                queries: query_drops.queries,
                lookups: query_drops.lookups,
                answers: query_drops.answers,
                evicted_queries: query_drops.evicted,
                queries_over_budget: budget_drops.queries,
                messages_over_budget: budget_drops.messages,
                broadcasts_over_budget: budget_drops.broadcasts,
                records_over_budget: budget_drops.records,
                beacons_over_budget: budget_drops.beacons,
                roster_over_budget: budget_drops.roster,
            },
            peers: conns.iter().map(|conn| peer_status(conn)).collect(),
        }
    }
}

fn mapping_status(reach: &ReachStatus, now: Instant) -> Option<MappingStatus> {
    let mapping = match &reach.mapping {
        MappingState::Off => return None,
        MappingState::Mapped(mapping) => Some(mapping),
        _ => None,
    };
    Some(MappingStatus {
        protocol: mapping.map(|mapping| mapping.protocol),
        addresses: mapping.map(PortMapping::addresses).unwrap_or_default(),
        announced: !reach.mapped.is_empty(),
        is_failed: matches!(reach.mapping, MappingState::Failed(_)),
        seconds_left: mapping.map(|mapping| mapping.until.since(now).as_secs()),
        why: reach.mapping_why.clone(),
    })
}

fn peer_status(conn: &Conn) -> PeerStatus {
    PeerStatus {
        id: conn.peer.id(),
        name: conn.peer.name().to_owned(),
        address: conn.peer.address().clone(),
        direction: conn.peer.direction().name(),
        rtt_ms: conn.rtt().map(|rtt| rtt.as_secs_f64() * 1e3),
        version: conn.agreed.map(|agreed| agreed.version),
        off: conn
            .agreed
            .into_iter()
            .flat_map(Agreement::unavailable_parts)
            .map(|off| off.to_string())
            .collect(),
        queued_bytes: conn.outbox.queued(),
        queued_control_bytes: conn.outbox.queued_control(),
        counters: conn.meter.read(),
    }
}
