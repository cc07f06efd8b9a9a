//! Counters of a link or a node: of messages and bytes, and of links, failed handshakes and drops.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use peerkit_proto::event::Direction;
use serde::Serialize;

mod reasons;

pub(crate) use reasons::{EndReason, HandshakeFailure, Tally};

/// Counters of a link, or of a node. They count the application's messages, requests and replies as
/// messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Counters {
    /// Messages written to the connection.
    pub messages_sent: u64,
    /// Messages handed to the application.
    pub messages_received: u64,
    /// Messages that this node has accepted and not delivered. A message counts too if it is unknown whether
    /// it was delivered.
    pub messages_failed: u64,
    /// Bytes written to the connection: frames of all kinds, with their headers.
    pub bytes_sent: u64,
    /// Bytes read from the connection: frames of all kinds, with their headers.
    pub bytes_received: u64,
}

/// Bytes of file pieces sent and received, with the heads of the pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FileCounters {
    /// Bytes sent to other nodes.
    pub sent: u64,
    /// Bytes received from sources.
    pub received: u64,
}

/// Numbers of links since the node started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct LinkCounters {
    /// Links that were made.
    pub opened: u64,
    /// Links that have ended, by reason. Every reason is listed, also with 0.
    #[cfg_attr(feature = "schema", schema(value_type = BTreeMap<String, u64>))]
    pub ended: BTreeMap<&'static str, u64>,
}

/// Numbers of connections since the node started that became neither a link nor a stream. Every reason is
/// listed, also with 0. A second link between two nodes is refused as well, and is no failure.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct HandshakeFailures {
    /// Connections from other nodes, by reason.
    #[cfg_attr(feature = "schema", schema(value_type = BTreeMap<String, u64>))]
    pub inbound: BTreeMap<&'static str, u64>,
    /// Dials of this node, by reason. Each address of a node that was dialled counts.
    #[cfg_attr(feature = "schema", schema(value_type = BTreeMap<String, u64>))]
    pub outbound: BTreeMap<&'static str, u64>,
}

/// Numbers of events, frames, queries and answers that the node has dropped because of a limit, since it
/// started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct DropCounters {
    /// Events that readers of events missed because they were too slow. An event that two readers missed
    /// counts twice.
    pub events: u64,
    /// Broadcasts that came faster than the application handled its events. The node requests them again
    /// later.
    pub postponed_broadcasts: u64,
    /// Frames that were not sent because too much waited for their link.
    pub frames: u64,
    /// Queries of peers that were refused because too many were remembered.
    pub queries: u64,
    /// Queries of peers that were passed on but not answered by this node, because of the limit on look-ups.
    pub lookups: u64,
    /// Answers that were dropped because there were too many for one query, or because too much waited for
    /// their link.
    pub answers: u64,
    /// Queries of peers that were forgotten early, to make room for those of other peers.
    pub evicted_queries: u64,
    /// Queries of peers that were answered but not passed on, because the peer's budget was spent.
    pub queries_over_budget: u64,
    /// Messages that were not relayed, because the peer's budget was spent.
    pub messages_over_budget: u64,
    /// Broadcasts, and frames about broadcasts, that were dropped because the peer's budget was spent.
    pub broadcasts_over_budget: u64,
    /// Frames with node records that were dropped because the peer's budget was spent.
    pub records_over_budget: u64,
    /// Beacons that were dropped because the peer's budget was spent.
    pub beacons_over_budget: u64,
    /// Entries of the roster of members that were dropped because the peer's budget was spent.
    pub roster_over_budget: u64,
}

/// Counters of links, failed handshakes and postponed broadcasts, which several tasks update.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    pub(crate) links_opened: AtomicU64,
    pub(crate) links_ended: Tally<EndReason>,
    pub(crate) postponed_broadcasts: AtomicU64,
    inbound_failures: Tally<HandshakeFailure>,
    outbound_failures: Tally<HandshakeFailure>,
}

impl Tallies {
    /// Counts a failed handshake, if there was one.
    pub(crate) fn failed(&self, direction: Direction, failure: Option<HandshakeFailure>) {
        let Some(failure) = failure else { return };
        match direction {
            Direction::Inbound => self.inbound_failures.add(failure),
            Direction::Outbound => self.outbound_failures.add(failure),
        }
    }

    /// Returns the numbers of links.
    pub(crate) fn links(&self) -> LinkCounters {
        LinkCounters { opened: self.links_opened.load(Relaxed), ended: self.links_ended.read() }
    }

    /// Returns the numbers of failed handshakes.
    pub(crate) fn handshake_failures(&self) -> HandshakeFailures {
        HandshakeFailures {
            inbound: self.inbound_failures.read(),
            outbound: self.outbound_failures.read(),
        }
    }
}

/// Counters that several tasks update. [`Counters`] is their state at one moment.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    messages_sent: AtomicU64,
    messages_received: AtomicU64,
    messages_failed: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

impl Meter {
    pub(crate) fn sent(&self, messages: u64, bytes: usize) {
        self.messages_sent.fetch_add(messages, Relaxed);
        self.bytes_sent.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn received_bytes(&self, bytes: usize) {
        self.bytes_received.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn received(&self, messages: u64) {
        self.messages_received.fetch_add(messages, Relaxed);
    }

    pub(crate) fn failed(&self, messages: u64) {
        self.messages_failed.fetch_add(messages, Relaxed);
    }

    pub(crate) fn messages_received(&self) -> u64 {
        self.messages_received.load(Relaxed)
    }

    pub(crate) fn read(&self) -> Counters {
        // The counters are read one after another, so one may be a few messages ahead of another.
        Counters {
            messages_sent: self.messages_sent.load(Relaxed),
            messages_received: self.messages_received.load(Relaxed),
            messages_failed: self.messages_failed.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
        }
    }
}
