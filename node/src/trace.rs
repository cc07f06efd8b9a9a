//! The log of a node's actions: one target for each kind of thing, fields instead of sentences.
//!
//! | target | info | debug |
//! |---|---|---|
//! | `peerkit::node` | start, stop, clocks that are far apart | a handler's actions that failed |
//! | `peerkit::link` | links that are up, have ended, and why | dials, connections accepted, refused |
//! | `peerkit::message` | those that failed | each, with its size and kind |
//! | `peerkit::query` | | asked, received, passed on, dropped |
//! | `peerkit::membership` | joined a network | neighbours asked, taken, let go; probes |
//! | `peerkit::broadcast` | those that are lost | received, passed on, delivered, dropped and why |
//! | `peerkit::transfer` | downloads that are done or failed, uploads that are done | downloads begun, requests served |
//!
//! Nothing secret and no contents are logged: no message, title, search text, ticket or token. Names
//! and texts of peers are logged as quoted strings, with control characters escaped.

use peerkit_proto::event::{Event, LinkEnd, Peer};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::membership::{NeighbourOutcome, Probe};
use peerkit_proto::frame::query::{QueryId, QueryKind};
use peerkit_proto::id::{NodeId, hex};
use peerkit_proto::message::Message;
use peerkit_proto::overlay::broadcast::BroadcastCounters;
use peerkit_proto::peer::{Command, ConnectionId, Input, JoinError, Output};
use tracing::{debug, info, warn};

/// Returns whether frames of the overlay are logged. If not, the texts for such a line are not built.
fn logs_frames() -> bool {
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
        | Event::InboundNodeDisconnected { peer, link_end } => ended(peer, link_end),
        Event::OutboundNodeConnectionError { address, error } => {
            info!(target: "peerkit::link", %address, why = error.as_str(), "could not connect");
        }
        Event::InboundNodeConnectionError { address, error } => {
            debug!(target: "peerkit::link", %address, why = error.as_str(), "not let in");
        }
        Event::NodeReconnectionError { address, tries, error } => {
            debug!(target: "peerkit::link", %address, tries, why = error.as_str(), "not reached again");
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
            info!(target: "peerkit::node", missed, "the application is slow: events left out");
        }
        Event::NodeClockSkew { peer, seconds } => {
            info!(target: "peerkit::node", peer = %peer.id().short(), seconds, "clocks far apart");
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

fn ended(peer: &Peer, link_end: &LinkEnd) {
    info!(
        target: "peerkit::link",
        peer = %peer.id().short(),
        name = peer.name(),
        by_peer = link_end.by_peer,
        why = link_end.reason.to_string(),
        "ended"
    );
}

/// Logs an input of the machine. `peer` returns the node at the other end of a link.
pub(crate) fn input(input: &Input, peer: impl Fn(ConnectionId) -> Option<NodeId>) {
    match input {
        Input::Frame(connection, frame) if logs_frames() => {
            if let Some(from) = peer(*connection) {
                log_frame(from, frame, "received", "received");
            }
        }
        Input::PostponeBroadcasts(connection, batch) if logs_frames() => {
            let peer = peer(*connection).map(|id| id.short()).unwrap_or_default();
            let count = batch.items.len();
            debug!(target: "peerkit::broadcast", peer, count, "put off: application busy");
        }
        Input::Probed { id, answer } => {
            let answered = answer.is_some();
            debug!(target: "peerkit::membership", node = %id.short(), answered, "probed");
        }
        Input::Query { operation, what, depth, .. } => {
            debug!(target: "peerkit::query", query = operation.0, what = name(what), depth, "asked");
        }
        Input::Command(Command::Leave) | Input::Stop { hand_over: true } => {
            info!(target: "peerkit::membership", "leaving");
        }
        _ => {}
    }
}

/// Logs a frame that is not sent because its link is crowded.
pub(crate) fn passed_over(to: NodeId, frame: &Frame) {
    if logs_frames() {
        log_frame(to, frame, "dropped: link crowded", "dropped: link crowded");
    }
}

/// Logs a frame from a peer or to it, with the text `relayed` if such frames travel on from node to node, or
/// else with `own`.
fn log_frame(peer: NodeId, frame: &Frame, relayed: &'static str, own: &'static str) {
    let (peer, kind) = (peer.short(), kind(frame));
    match frame {
        Frame::Query(query) => {
            let (id, what, depth) = (short(query.id), name(&query.what), query.depth);
            debug!(target: "peerkit::query", %id, %peer, what, depth, "{relayed}");
        }
        Frame::Answer(answer) => {
            let (id, node) = (short(answer.id), answer.node.short());
            debug!(target: "peerkit::query", %id, %peer, kind, %node, "{relayed}");
        }
        Frame::QueryDone(done) => {
            let (id, complete) = (short(done.id), done.complete);
            debug!(target: "peerkit::query", %id, %peer, kind, complete, "{own}");
        }
        Frame::Broadcast(batch) => {
            let (author, first, count) = (batch.run.author.short(), batch.first, batch.items.len());
            debug!(target: "peerkit::broadcast", %author, %peer, first, count, "{relayed}");
        }
        Frame::Have(_) | Frame::Want(_) | Frame::Given(_) | Frame::Prune(_) | Frame::Clock(_) => {
            debug!(target: "peerkit::broadcast", %peer, kind, "{own}");
        }
        Frame::Forward(_) | Frame::Forwarded(_) => {
            debug!(target: "peerkit::message", %peer, kind, "{relayed}");
        }
        _ => debug!(target: "peerkit::membership", %peer, kind, "{own}"),
    }
}

/// Logs an output of the machine. `peer` returns the node at the other end of a link.
pub(crate) fn output(output: &Output, peer: impl Fn(ConnectionId) -> Option<NodeId>) {
    let of = |connection: &ConnectionId| peer(*connection).map(|id| id.short()).unwrap_or_default();
    match output {
        Output::Send { connection, frame } if logs_frames() => {
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
                _ => "no place",
            };
            info!(target: "peerkit::membership", by = %by.short(), why, "not joined");
        }
        Output::CloseLink(connection, reason) | Output::CloseReplacedLink(connection, reason) => {
            let peer = of(connection);
            debug!(target: "peerkit::link", peer, why = reason.to_string(), "ending");
        }
        Output::QueryEnded { operation, complete } => {
            debug!(target: "peerkit::query", query = operation.0, complete, "ended");
        }
        _ => {}
    }
}

/// Logs the broadcasts that the overlay has dropped, by its counters before and after a frame.
pub(crate) fn broadcasts_dropped(
    from: NodeId,
    before: BroadcastCounters,
    after: BroadcastCounters,
) {
    let duplicates = after.duplicates.saturating_sub(before.duplicates);
    if duplicates > 0 {
        debug!(target: "peerkit::broadcast", from = %from.short(), count = duplicates, "dropped: came before");
    }
    let untimely = after.untimely.saturating_sub(before.untimely);
    if untimely > 0 {
        debug!(target: "peerkit::broadcast", from = %from.short(), count = untimely, "dropped: of another time");
    }
}

fn short(query: QueryId) -> String {
    hex(&query.0[..4])
}

/// Returns the kind of a query, without its text, which is the user's.
fn name(what: &QueryKind) -> &'static str {
    match what {
        QueryKind::Discover => "discover",
        QueryKind::Search(_) => "search",
        QueryKind::HasFile(_) => "has file",
        QueryKind::FindNode(_) => "find node",
        QueryKind::CallBack { .. } => "call back",
        QueryKind::Sample { .. } => "sample",
        _ => "other",
    }
}

fn kind(frame: &Frame) -> &'static str {
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
        Frame::Beacon(_) => "beacon",
        Frame::ShutdownOrder(_) => "order",
        Frame::Clock(_) => "clock",
        _ => "other",
    }
}
