//! The events that a node reports to its application.
//!
//! The names of events are those of p2pnetwork. Events that p2pnetwork does not have are named in
//! the same way.

mod peer;
mod reachability;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

pub use self::peer::{Direction, LinkEnd, Peer, Reason};
pub use self::reachability::Reachability;

use crate::address::Address;
use crate::files::{Changes, FoundFile, SharedFile};
use crate::id::{Hash, NodeId};
use crate::message::Message;

/// An event of a node. The events of one peer are delivered in order.
#[derive(Debug, Clone, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A link that this node dialled is up.
    OutboundNodeConnected {
        /// The peer.
        peer: Peer,
    },
    /// A link that the peer dialled is up.
    InboundNodeConnected {
        /// The peer.
        peer: Peer,
    },
    /// A link that this node dialled has ended.
    OutboundNodeDisconnected {
        /// The peer.
        peer: Peer,
        /// The reason, and the side that ended it.
        link_end: LinkEnd,
    },
    /// A link that the peer dialled has ended.
    InboundNodeDisconnected {
        /// The peer.
        peer: Peer,
        /// The reason, and the side that ended it.
        link_end: LinkEnd,
    },
    /// This node is about to close a link that it dialled.
    NodeDisconnectWithOutboundNode {
        /// The peer.
        peer: Peer,
    },
    /// This node is about to close a link that the peer dialled.
    NodeDisconnectWithInboundNode {
        /// The peer.
        peer: Peer,
    },
    /// A message has arrived.
    NodeMessage {
        /// The sender.
        peer: Peer,
        /// The message.
        message: Message,
    },
    /// Messages that this node accepted for a peer were not delivered, or may not have been.
    NodeMessageFailed {
        /// The recipient of the messages.
        peer: Peer,
        /// The number of messages, and the reason.
        failure: MessageFailure,
    },
    /// A broadcast has arrived. Each broadcast is delivered once.
    ///
    /// The author of a broadcast gets no event for it. A node that joins the network gets the
    /// broadcasts of the last ten minutes.
    NodeBroadcast {
        /// The broadcast, with its author and content.
        broadcast: Broadcast,
    },
    /// A broadcast of the handler was not sent.
    NodeBroadcastFailed {
        /// The title of the broadcast.
        title: String,
        /// The reason why it failed.
        error: String,
    },
    /// This node has missed broadcasts of an author, and will not get them any more. It was cut off
    /// for too long or was too slow, and no node that it knows still has the broadcasts.
    NodeBroadcastsMissed {
        /// The author of the broadcasts.
        author: NodeId,
        /// The number of broadcasts.
        count: u64,
    },
    /// A discovery of this node has found a node.
    NodeDiscovered {
        /// The node and its neighbours.
        node: NodeInfo,
    },
    /// This node is about to stop. Messages that the application sends during this event are still
    /// sent.
    NodeRequestToStop,
    /// The network's owner has ordered all nodes to stop, so this node is about to stop.
    NodeShutdownOrdered {
        /// The owner.
        owner: NodeId,
    },
    /// An order to stop was ignored, as it is not from the network's owner. This event is reported
    /// at most once a second.
    NodeShutdownRefused {
        /// The peer that passed the order on.
        peer: Peer,
        /// The reason why the order was ignored.
        why: String,
    },
    /// A download has finished. Its content is verified and stored at its path. Entries of a folder
    /// that this disk can't store are missing.
    NodeDownloadFinished {
        /// The file or folder.
        hash: Hash,
        /// The path at which it is stored.
        path: PathBuf,
        /// The size in bytes.
        bytes: u64,
        /// The entries that were renamed on this disk, and those that could not be written.
        changes: Changes,
    },
    /// A download has failed. The pieces that have arrived are kept, so that it can be resumed.
    NodeDownloadFailed {
        /// The file or folder.
        hash: Hash,
        /// The reason why it failed, with advice.
        error: String,
    },
    /// A source of a download sent something that was not requested. The download does not use this
    /// source any more.
    NodeSourceDropped {
        /// The file or folder.
        hash: Hash,
        /// The source.
        source: NodeId,
        /// The fault of the source.
        why: String,
    },
    /// A peer has received all of a file or folder that it requested from this node.
    NodeUploadCompleted {
        /// The peer. It may have no link with this node.
        peer: Peer,
        /// The file or folder, and the number of bytes that this node has sent of it.
        upload: Upload,
    },
    /// A shared file was changed or removed, so this node can't serve it under its hash any more.
    /// The node notices that when a peer requests the file, and reports it once for each hash. If
    /// files in a shared folder were changed or removed, they are reported, not the folder. The
    /// folder itself is reported if it changed otherwise, for example because files were added.
    NodeShareChanged {
        /// The hash of the file or folder. For a file in a shared folder this is the hash of the
        /// file itself.
        hash: Hash,
        /// The name of the file or folder. For a file in a shared folder this is the path, which
        /// begins with the folder's name.
        name: String,
    },
    /// A link that this node keeps was lost, and a dial to make it again has failed.
    NodeReconnectionError {
        /// The address that was dialled.
        address: Address,
        /// Number of dials since the link was lost.
        tries: u32,
        /// The reason why this dial failed.
        error: String,
    },
    /// This node could not connect to an address.
    OutboundNodeConnectionError {
        /// The address.
        address: Address,
        /// The reason why it failed, with advice.
        error: String,
    },
    /// An inbound connection did not become a link. There is at most one such event a second.
    InboundNodeConnectionError {
        /// The address from which the connection came.
        address: Address,
        /// The reason why it failed.
        error: String,
        /// Number of other inbound connections that have failed since the last such event.
        others: u64,
    },
    /// A discovery of the handler has ended: see
    /// [`Context::discover`](crate::handler::Context::discover).
    NodeDiscoveryCompleted {
        /// The action whose result this is.
        action: ActionId,
        /// The nodes within the depth, this node first.
        nodes: Vec<NodeInfo>,
        /// True if all nodes within the depth have answered.
        complete: bool,
    },
    /// A search of the handler has ended: see [`Context::search`](crate::handler::Context::search).
    NodeSearchCompleted {
        /// The action whose result this is.
        action: ActionId,
        /// The files and folders that were found, sorted by name.
        files: Vec<FoundFile>,
    },
    /// A ping of the handler was answered: see [`Context::ping`](crate::handler::Context::ping).
    NodePingCompleted {
        /// The action whose result this is.
        action: ActionId,
        /// The node that answered.
        node: NodeId,
        /// The round-trip time.
        rtt: Duration,
    },
    /// A fetch of the handler has finished. The content is complete, verified and stored at its
    /// path: see [`Context::fetch`](crate::handler::Context::fetch).
    NodeFetchCompleted {
        /// The action whose result this is.
        action: ActionId,
        /// The file or folder that was fetched.
        hash: Hash,
        /// The path at which it is stored.
        path: PathBuf,
        /// The size in bytes.
        bytes: u64,
    },
    /// A file or folder of the handler is now shared: see
    /// [`Context::share`](crate::handler::Context::share).
    NodeShareCompleted {
        /// The action whose result this is.
        action: ActionId,
        /// The file or folder, with the hash by which other nodes fetch it.
        file: SharedFile,
        /// Number of entries of a folder that can't be shared, for example symbolic links.
        skipped: usize,
    },
    /// A link that the handler requested is up. It may have been up before the request: see
    /// [`Context::connect`](crate::handler::Context::connect).
    NodeConnectCompleted {
        /// The action whose result this is.
        action: ActionId,
        /// The peer.
        peer: Peer,
    },
    /// This node has become a member of the network, as the handler requested: see
    /// [`Context::join`](crate::handler::Context::join).
    NodeJoinCompleted {
        /// The action whose result this is.
        action: ActionId,
    },
    /// The reply to a request of the handler has arrived: see
    /// [`Context::request`](crate::handler::Context::request).
    NodeRequestCompleted {
        /// The action whose result this is.
        action: ActionId,
        /// The node that replied.
        node: NodeId,
        /// The reply.
        reply: Message,
    },
    /// A timer of the handler has expired: see
    /// [`Context::set_timer`](crate::handler::Context::set_timer).
    NodeTimer {
        /// The timer.
        timer: TimerId,
    },
    /// An action of the handler has failed.
    NodeActionFailed {
        /// The action that failed.
        action: ActionId,
        /// The reason why it failed.
        error: String,
    },
    /// This subscriber was too slow, so events were dropped for it.
    NodeLagged {
        /// Number of events dropped since the last one that was delivered to it.
        missed: u64,
    },
    /// The application's handler panicked. The node and its links keep running.
    NodeHandlerPanicked {
        /// The name of the event that it was handling.
        event: &'static str,
        /// The panic's message.
        panic: String,
    },
    /// The clocks of this node and of a peer are far apart, so each may drop the other's
    /// broadcasts. This is reported once for each link, and again if the difference changes much.
    NodeClockSkew {
        /// The peer.
        peer: Peer,
        /// Number of seconds by which the peer's clock is ahead of this node's clock. Negative if
        /// it is behind.
        seconds: i64,
    },
    /// Other nodes reach this node in another way than before, as far as it knows.
    NodeReachabilityChanged {
        /// The way.
        reachability: Reachability,
        /// The reason why this node thinks so, in words.
        why: String,
    },
}

impl Event {
    /// Returns the event for a link that is up.
    #[must_use]
    pub fn connected(peer: Peer) -> Self {
        match peer.direction() {
            Direction::Outbound => Self::OutboundNodeConnected { peer },
            Direction::Inbound => Self::InboundNodeConnected { peer },
        }
    }

    /// Returns the event for a link that this node is about to close.
    #[must_use]
    pub fn disconnecting(peer: Peer) -> Self {
        match peer.direction() {
            Direction::Outbound => Self::NodeDisconnectWithOutboundNode { peer },
            Direction::Inbound => Self::NodeDisconnectWithInboundNode { peer },
        }
    }

    /// Returns the event for a link that has ended.
    #[must_use]
    pub fn disconnected(peer: Peer, link_end: LinkEnd) -> Self {
        match peer.direction() {
            Direction::Outbound => Self::OutboundNodeDisconnected { peer, link_end },
            Direction::Inbound => Self::InboundNodeDisconnected { peer, link_end },
        }
    }

    /// Returns the event's name. It is the name of the variant in snake case: `node_message`,
    /// `inbound_node_connected`, ...
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.into()
    }

    /// Returns the peer that the event is about, or `None` if it is about no peer.
    #[must_use]
    pub fn peer(&self) -> Option<&Peer> {
        match self {
            Self::OutboundNodeConnected { peer }
            | Self::InboundNodeConnected { peer }
            | Self::OutboundNodeDisconnected { peer, .. }
            | Self::InboundNodeDisconnected { peer, .. }
            | Self::NodeDisconnectWithOutboundNode { peer }
            | Self::NodeDisconnectWithInboundNode { peer }
            | Self::NodeMessage { peer, .. }
            | Self::NodeMessageFailed { peer, .. }
            | Self::NodeUploadCompleted { peer, .. }
            | Self::NodeShutdownRefused { peer, .. }
            | Self::NodeClockSkew { peer, .. } => Some(peer),
            _ => None,
        }
    }
}

/// The number of an action of a handler. The event with the action's result has the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionId(u64);

impl ActionId {
    /// Creates the identifier of the action with this number. Handlers get identifiers from a
    /// [`Context`](crate::handler::Context).
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number. It is unique among the actions of a node until the node restarts.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

/// The identifier of a timer of a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId(ActionId);

impl TimerId {
    /// Creates the identifier of the timer that this action sets. Handlers get identifiers from a
    /// [`Context`](crate::handler::Context).
    #[must_use]
    pub fn new(action: ActionId) -> Self {
        Self(action)
    }

    /// Returns the action that sets the timer. If the timer can't be set, `node_action_failed` is
    /// called with this action.
    #[must_use]
    pub fn action(self) -> ActionId {
        self.0
    }
}

impl fmt::Display for ActionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Messages that a node accepted for a peer and that were not delivered, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageFailure {
    /// Number of messages that never left this node, so they did not arrive.
    pub unsent: u64,
    /// Number of messages that left this node but were not acknowledged before the link ended. Some
    /// of them may have arrived.
    pub unconfirmed: u64,
    /// The reason.
    pub reason: Reason,
}

/// A file or folder that a peer has received completely and verified.
///
/// The peer reports this to its sources at the end of its fetch. If it fetched from several nodes,
/// each node that sent a part gets the event, with the number of bytes that this node itself sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Its hash.
    pub hash: Hash,
    /// Its name in the shares of this node.
    pub name: String,
    /// Number of bytes of it that this node has sent to the peer. That is less than the size if the
    /// peer had other sources, or already had a part.
    pub bytes: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// A message to the whole network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broadcast {
    /// The hash that identifies it.
    pub id: Hash,
    /// The node that wrote and signed it.
    pub author: NodeId,
    /// The time at which it was written, by the author's clock, in milliseconds since 1970.
    pub time: u64,
    /// Its title, which may be empty.
    pub title: String,
    /// Its content.
    pub message: Message,
}

/// A node of the network and its neighbours, as the node described itself in answer to a discovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its identity.
    pub id: NodeId,
    /// The name that it gives itself.
    pub name: String,
    /// The addresses at which it listens, as far as it knows them.
    pub addresses: Vec<Address>,
    /// The nodes that it dialled.
    pub outbound: Vec<Neighbour>,
    /// The nodes that dialled it.
    pub inbound: Vec<Neighbour>,
}

/// A node at the other end of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its identity.
    pub id: NodeId,
    /// The address at which it can be dialled, if known. Otherwise the address from which it
    /// connected.
    pub address: Address,
}
