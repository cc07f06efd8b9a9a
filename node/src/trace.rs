//! The log of a node. Each kind of event has a target. A line has a short fixed text, and the details in
//! fields.
//!
//! | target | level info | level debug |
//! |---|---|---|
//! | `peerkit::node` | start, stop, clocks that are far apart | failed actions of the handler |
//! | `peerkit::link` | new links, ended links and the reason | dials, accepted connections, refused connections |
//! | `peerkit::message` | failed messages | each message, with its size and kind |
//! | `peerkit::query` | | queries that were started, received, passed on or dropped |
//! | `peerkit::membership` | joining and leaving a network | frames about neighbours, probes |
//! | `peerkit::broadcast` | lost broadcasts | broadcasts that were received, passed on, delivered or dropped |
//! | `peerkit::transfer` | finished and failed downloads, finished uploads | started downloads, served requests |
//!
//! No secret and no content is logged: no message, title, search text, ticket or token. Names and texts that
//! come from peers are logged as quoted strings, with control characters escaped.

use peerkit_proto::event::{Event, LinkEnd, Peer};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::membership::{NeighbourOutcome, Probe};
use peerkit_proto::frame::query::{QueryId, QueryKind};
use peerkit_proto::id::{NodeId, hex};
use peerkit_proto::message::Message;
use peerkit_proto::overlay::broadcast::BroadcastCounters;
use peerkit_proto::peer::{Command, ConnectionId, Input, JoinError, Output};
use tracing::{debug, info, warn};

/// Returns whether frames of the overlay are logged. If they are not, the texts for their lines are not
/// built.
fn frames_are_logged() -> bool {
    tracing::enabled!(target: "peerkit::query", tracing::Level::DEBUG)
        || tracing::enabled!(target: "peerkit::message", tracing::Level::DEBUG)
        || tracing::enabled!(target: "peerkit::membership", tracing::Level::DEBUG)
        || tracing::enabled!(target: "peerkit::broadcast", tracing::Level::DEBUG)
        || tracing::enabled!(target: "peerkit::link", tracing::Level::DEBUG)
}

/// Logs a message that is queued for a peer.
#[inline]
pub(crate) fn sent(peer: &Peer, bytes: usize) {
    debug!(target: "peerkit::message", peer = %peer.id().short(), bytes, "sent");
}

/// Logs a message that goes to the application.
#[inline]
pub(crate) fn received(peer: &Peer, message: &Message) {
    debug!(
        target: "peerkit::message",
        peer = %peer.id().short(),
        kind = ?message.kind(),
        bytes = message.body().len(),
        "received"
    );
}

/// Logs an event that goes to the application.
pub(crate) fn event(event: &Event) {
    match event {
        Event::OutboundNodeConnected { peer } | Event::InboundNodeConnected { peer } => info!(
            target: "peerkit::link",
            peer = %peer.id().short(),
            name = peer.name(),
            direction = peer.direction().name(),
            address = %peer.address(),
            "up"
        ),
        Event::OutboundNodeDisconnected { peer, link_end }
        | Event::InboundNodeDisconnected { peer, link_end } => log_link_end(peer, link_end),
        Event::OutboundNodeConnectionError { address, error } => {
            info!(target: "peerkit::link", %address, why = error.as_str(), "could not connect");
        }
        Event::InboundNodeConnectionError { address, error, others } => {
            debug!(target: "peerkit::link", %address, why = error.as_str(), others, "inbound connection failed");
        }
        Event::NodeReconnectionError { address, tries, error } => {
            debug!(target: "peerkit::link", %address, tries, why = error.as_str(), "reconnection failed");
        }
        Event::NodeMessageFailed { peer, failure } => info!(
            target: "peerkit::message",
            peer = %peer.id().short(),
            unsent = failure.unsent,
            unconfirmed = failure.unconfirmed,
            why = failure.reason.to_string(),
            "failed"
        ),
        Event::NodeBroadcast { broadcast } => debug!(
            target: "peerkit::broadcast",
            id = %broadcast.id,
            author = %broadcast.author.short(),
            bytes = broadcast.message.body().len(),
            "delivered"
        ),
        Event::NodeBroadcastFailed { error, .. } => {
            warn!(target: "peerkit::broadcast", why = error.as_str(), "not sent");
        }
        Event::NodeActionFailed { action, error } => {
            debug!(target: "peerkit::node", %action, why = error.as_str(), "a handler's action failed");
        }
        Event::NodeBroadcastsMissed { author, count } => {
            info!(target: "peerkit::broadcast", author = %author.short(), count, "lost");
        }
        Event::NodeDownloadFinished { hash, bytes, .. } => {
            info!(target: "peerkit::transfer", %hash, bytes, "download finished");
        }
        Event::NodeDownloadFailed { hash, error } => {
            info!(target: "peerkit::transfer", %hash, why = error.as_str(), "download failed");
        }
        Event::NodeSourceDropped { hash, source, why } => {
            info!(target: "peerkit::transfer", %hash, source = %source.short(), why = why.as_str(), "source dropped");
        }
        Event::NodeUploadCompleted { peer, upload } => {
            let (hash, bytes) = (upload.hash, upload.bytes);
            info!(target: "peerkit::transfer", %hash, peer = %peer.id().short(), bytes, "upload completed");
        }
        Event::NodeShareChanged { hash, .. } => {
            info!(target: "peerkit::transfer", %hash, "a share has changed on disk");
        }
        Event::NodeLagged { missed } => {
            info!(target: "peerkit::node", missed, "the application is slow: events dropped");
        }
        Event::NodeClockSkew { peer, seconds } => {
            info!(target: "peerkit::node", peer = %peer.id().short(), seconds, "clocks far apart");
        }
        Event::NodeReachabilityChanged { reachability, why } => {
            info!(target: "peerkit::node", reachability = reachability.name(), why = why.as_str(), "reachability changed");
        }
        Event::NodeShutdownOrdered { owner } => {
            info!(target: "peerkit::node", owner = %owner.short(), "ordered to stop");
        }
        Event::NodeShutdownRefused { peer, why } => {
            info!(target: "peerkit::node", peer = %peer.id().short(), why = why.as_str(), "order to stop ignored");
        }
        _ => {}
    }
}

fn log_link_end(peer: &Peer, link_end: &LinkEnd) {
    info!(
        target: "peerkit::link",
        peer = %peer.id().short(),
        name = peer.name(),
        by_peer = link_end.by_peer,
        why = link_end.reason.to_string(),
        "ended"
    );
}

/// Logs an input of the state machine. `peer` returns the node at the other end of a connection.
pub(crate) fn input(input: &Input, peer: impl Fn(ConnectionId) -> Option<NodeId>) {
    match input {
        Input::Frame(connection, frame) if frames_are_logged() => {
            if let Some(from) = peer(*connection) {
                log_frame(from, frame, "received", "received");
            }
        }
        Input::PostponeBroadcasts(connection, batch) if frames_are_logged() => {
            let peer = peer(*connection).map(|id| id.short()).unwrap_or_default();
            let count = batch.items.len();
            debug!(target: "peerkit::broadcast", peer, count, "not delivered: application busy");
        }
        Input::Probed { id, answer } => {
            let answered = answer.is_some();
            debug!(target: "peerkit::membership", node = %id.short(), answered, "probed");
        }
        Input::Query { operation, what, depth, .. } => {
            debug!(target: "peerkit::query", query = operation.0, what = query_kind(what), depth, "asked");
        }
        Input::Command(Command::Leave) | Input::Stop { hand_over: true } => {
            info!(target: "peerkit::membership", "leaving");
        }
        _ => {}
    }
}

/// Logs a frame that is not sent because its link is crowded.
pub(crate) fn not_sent(to: NodeId, frame: &Frame) {
    if frames_are_logged() {
        log_frame(to, frame, "dropped: link crowded", "dropped: link crowded");
    }
}

/// Logs a frame from `peer` or to `peer`. The text of the line is `forwarded` if nodes forward frames of this
/// kind through the network, and `direct` if only two neighbours exchange them.
fn log_frame(peer: NodeId, frame: &Frame, forwarded: &'static str, direct: &'static str) {
    let (peer, kind) = (peer.short(), frame_kind(frame));
    match frame {
        Frame::Query(query) => {
            let (id, what, depth) =
                (short_query_id(query.id), query_kind(&query.what), query.depth);
            debug!(target: "peerkit::query", %id, %peer, what, depth, "{forwarded}");
        }
        Frame::Answer(answer) => {
            let (id, node) = (short_query_id(answer.id), answer.node.short());
            debug!(target: "peerkit::query", %id, %peer, kind, %node, "{forwarded}");
        }
        Frame::QueryDone(done) => {
            let (id, complete) = (short_query_id(done.id), done.complete);
            debug!(target: "peerkit::query", %id, %peer, kind, complete, "{direct}");
        }
        Frame::Broadcast(batch) => {
            let (author, first, count) = (batch.run.author.short(), batch.first, batch.items.len());
            debug!(target: "peerkit::broadcast", %author, %peer, first, count, "{forwarded}");
        }
        Frame::Have(_) | Frame::Want(_) | Frame::Given(_) | Frame::Prune(_) | Frame::Clock(_) => {
            debug!(target: "peerkit::broadcast", %peer, kind, "{direct}");
        }
        Frame::Forward(_) | Frame::Forwarded(_) => {
            debug!(target: "peerkit::message", %peer, kind, "{forwarded}");
        }
        _ => debug!(target: "peerkit::membership", %peer, kind, "{direct}"),
    }
}

/// Logs an output of the state machine. `peer` returns the node at the other end of a connection.
pub(crate) fn output(output: &Output, peer: impl Fn(ConnectionId) -> Option<NodeId>) {
    let peer_of =
        |connection: &ConnectionId| peer(*connection).map(|id| id.short()).unwrap_or_default();
    match output {
        Output::Send { connection, frame } if frames_are_logged() => {
            if let Some(to) = peer(*connection) {
                log_frame(to, frame, "passed on", "sent");
            }
        }
        Output::DialEnded { outcome: Err(error), .. } => {
            debug!(target: "peerkit::link", why = error.to_string(), "dial failed");
        }
        Output::Probe { id, probe: Probe { neighbour, .. }, .. } => {
            debug!(target: "peerkit::membership", node = %id.short(), neighbour, "probing");
        }
        Output::Joined(through) => {
            info!(target: "peerkit::membership", through = %through.short(), "joined");
        }
        Output::JoinEnded { outcome: Err(JoinError::Refused { by, outcome }), .. } => {
            let why = match outcome {
                NeighbourOutcome::Manual => "its links are made by hand",
                _ => "it has no room for another neighbour",
            };
            info!(target: "peerkit::membership", by = %by.short(), why, "not joined");
        }
        Output::CloseLink(connection, reason) | Output::CloseReplacedLink(connection, reason) => {
            let peer = peer_of(connection);
            debug!(target: "peerkit::link", peer, why = reason.to_string(), "ending");
        }
        Output::QueryEnded { operation, complete } => {
            debug!(target: "peerkit::query", query = operation.0, complete, "ended");
        }
        _ => {}
    }
}

/// Logs how many broadcasts the overlay has dropped for one frame, from its counters before and after the
/// frame.
pub(crate) fn broadcasts_dropped(
    from: NodeId,
    before: BroadcastCounters,
    after: BroadcastCounters,
) {
    let duplicates = after.duplicates.saturating_sub(before.duplicates);
    if duplicates > 0 {
        debug!(target: "peerkit::broadcast", from = %from.short(), count = duplicates, "dropped: duplicate");
    }
    let untimely = after.untimely.saturating_sub(before.untimely);
    if untimely > 0 {
        debug!(target: "peerkit::broadcast", from = %from.short(), count = untimely, "dropped: too old or from the future");
    }
}

fn short_query_id(query: QueryId) -> String {
    hex(&query.0[..4])
}

/// Returns the kind of a query. The text of a query is the user's, so it is not logged.
fn query_kind(what: &QueryKind) -> &'static str {
    match what {
        QueryKind::Discover => "discover",
        QueryKind::Search(_) => "search",
        QueryKind::HasFile(_) => "has file",
        QueryKind::FindNode(_) => "find node",
        QueryKind::CallBack { .. } | QueryKind::SignedCallBack { .. } => "call back",
        QueryKind::Sample { .. } => "sample",
        _ => "other",
    }
}

fn frame_kind(frame: &Frame) -> &'static str {
    match frame {
        Frame::Query(_) => "query",
        Frame::Answer(_) => "answer",
        Frame::QueryDone(_) => "query done",
        Frame::Broadcast(_) => "broadcast",
        Frame::Forward(_) => "forward",
        Frame::Forwarded(_) => "forwarded",
        Frame::Have(_) => "have",
        Frame::Want(_) => "want",
        Frame::Given(_) => "given",
        Frame::Prune(_) => "prune",
        Frame::NeighbourRequest(_) => "neighbour request",
        Frame::NeighbourReply(_) => "neighbour reply",
        Frame::ForwardJoin(_) => "forward join",
        Frame::Disconnect(_) => "disconnect",
        Frame::Shuffle(_) => "shuffle",
        Frame::ShuffleReply(_) => "shuffle reply",
        Frame::Beacon(_) | Frame::SignedBeacon(_) => "beacon",
        Frame::ShutdownOrder(_) => "order",
        Frame::Clock(_) => "clock",
        Frame::RosterDigest(_) => "roster digest",
        Frame::Members(_) => "members",
        Frame::Revocations(_) => "revocations",
        _ => "other",
    }
}
