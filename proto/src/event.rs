//! The events of a node, which its application gets.
//!
//! Their names are those of p2pnetwork, and new ones have the same form.

mod peer;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

pub use self::peer::{Direction, LinkEnd, Peer, Reason};

use crate::address::Address;
use crate::files::{Changes, FoundFile, SharedFile};
use crate::id::{Hash, NodeId};
use crate::message::Message;

/// An event. The events of one peer are delivered in order.
#[derive(Debug, Clone, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// This node has connected to another.
    OutboundNodeConnected {
        /// The other node.
        peer: Peer,
    },
    /// Another node has connected to this one.
    InboundNodeConnected {
        /// The other node.
        peer: Peer,
    },
    /// A link that this node had dialled has ended.
    OutboundNodeDisconnected {
        /// The peer.
        peer: Peer,
        /// The reason, and the side that ended it.
        link_end: LinkEnd,
    },
    /// A link that the peer had dialled has ended.
    InboundNodeDisconnected {
        /// The peer.
        peer: Peer,
        /// The reason, and the side that ended it.
        link_end: LinkEnd,
    },
    /// This node is about to close a link that it had dialled.
    NodeDisconnectWithOutboundNode {
        /// The peer.
        peer: Peer,
    },
    /// This node is about to close a link that the peer had dialled.
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
    /// Messages that were accepted for a peer did not get through, or may not have.
    NodeMessageFailed {
        /// The peer that they were for.
        peer: Peer,
        /// Their number, and the reason.
        failure: MessageFailure,
    },
    /// A broadcast has arrived. Each is delivered once.
    ///
    /// An author gets no event for its own broadcast. A node that joins gets the broadcasts of the last
    /// ten minutes.
    NodeBroadcast {
        /// Its author and content.
        broadcast: Broadcast,
    },
    /// A broadcast that the handler asked for was not sent.
    NodeBroadcastFailed {
        /// Its title.
        title: String,
        /// The failure.
        error: String,
    },
    /// Broadcasts of an author were missed for good: this node was cut off for too long, or too slow,
    /// and no node that it knows has kept them.
    NodeBroadcastsMissed {
        /// Their author.
        author: NodeId,
        /// Their number.
        count: u64,
    },
    /// A discovery that this node has begun has found a node.
    NodeDiscovered {
        /// The node and its neighbours.
        node: NodeInfo,
    },
    /// This node is about to stop. What the application sends now still goes out.
    NodeRequestToStop,
    /// The network's owner has ordered all nodes to stop, so this node is about to.
    NodeShutdownOrdered {
        /// The owner.
        owner: NodeId,
    },
    /// An order to stop was ignored, as it is not from the network's owner. Reported at most once a
    /// second.
    NodeShutdownRefused {
        /// The peer that passed it on.
        peer: Peer,
        /// The fault in it.
        why: String,
    },
    /// A download has finished. It is verified and in its place, without the entries of a folder that
    /// this disk can't have.
    NodeDownloadFinished {
        /// The file or folder.
        hash: Hash,
        /// Its path.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The entries that have other names here, and those that could not be written.
        changes: Changes,
    },
    /// A download was given up. The pieces that came are kept for another try.
    NodeDownloadFailed {
        /// The file or folder.
        hash: Hash,
        /// The failure, and advice.
        error: String,
    },
    /// A source sent something else than it was asked for, and this download asks it no more.
    NodeSourceDropped {
        /// The file or folder.
        hash: Hash,
        /// The source.
        source: NodeId,
        /// Its fault.
        why: String,
    },
    /// A peer has received all of a file or folder that it asked this node for.
    NodeUploadCompleted {
        /// The peer. It need not have a link with this node.
        peer: Peer,
        /// The file or folder, and the bytes of it that this node has sent.
        upload: Upload,
    },
    /// A shared file was changed or removed, and a peer asked for it as it was: it can't be served
    /// under that hash any more. Reported once for each hash. A folder is reported only if none of its
    /// files was changed or removed, for example because files were added.
    NodeShareChanged {
        /// The hash that it was shared under: of a file in a shared folder, the file's own.
        hash: Hash,
        /// Its name; of a file in a shared folder the path, from the folder's name on.
        name: String,
    },
    /// A link that is to be kept was lost, and another dial has failed.
    NodeReconnectionError {
        /// The address that was dialled.
        address: Address,
        /// Number of dials since the link was lost.
        tries: u32,
        /// The failure of this dial.
        error: String,
    },
    /// This node could not connect to an address.
    OutboundNodeConnectionError {
        /// The address.
        address: Address,
        /// The failure, and advice.
        error: String,
    },
    /// A connection came in but did not become a link.
    InboundNodeConnectionError {
        /// The address that it came from.
        address: Address,
        /// The failure.
        error: String,
    },
    /// A discovery that the handler asked for has ended: see
    /// [`Context::discover`](crate::handler::Context::discover).
    NodeDiscoveryCompleted {
        /// The action that it is the result of.
        action: ActionId,
        /// The nodes within the depth, this one first.
        nodes: Vec<NodeInfo>,
        /// Set if all of them have answered.
        complete: bool,
    },
    /// A search that the handler asked for has ended: see
    /// [`Context::search`](crate::handler::Context::search).
    NodeSearchCompleted {
        /// The action that it is the result of.
        action: ActionId,
        /// The files and folders that were found, by name.
        files: Vec<FoundFile>,
    },
    /// A ping that the handler asked for was answered: see
    /// [`Context::ping`](crate::handler::Context::ping).
    NodePingCompleted {
        /// The action that it is the result of.
        action: ActionId,
        /// The node that answered.
        node: NodeId,
        /// The round-trip time.
        rtt: Duration,
    },
    /// A fetch that the handler asked for is whole, checked, and in its place: see
    /// [`Context::fetch`](crate::handler::Context::fetch).
    NodeFetchCompleted {
        /// The action that it is the result of.
        action: ActionId,
        /// The file or folder that was fetched.
        hash: Hash,
        /// Its path.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
    },
    /// The path that the handler asked this node to share is shared: see
    /// [`Context::share`](crate::handler::Context::share).
    NodeShareCompleted {
        /// The action that it is the result of.
        action: ActionId,
        /// The file or folder, with the hash to fetch it by.
        file: SharedFile,
        /// Number of entries of a folder that can't be shared, for example symbolic links.
        skipped: usize,
    },
    /// A link that the handler asked for is up, or was already: see
    /// [`Context::connect`](crate::handler::Context::connect).
    NodeConnectCompleted {
        /// The action that it is the result of.
        action: ActionId,
        /// The peer.
        peer: Peer,
    },
    /// This node has become a member of the network, as the handler asked for: see
    /// [`Context::join`](crate::handler::Context::join).
    NodeJoinCompleted {
        /// The action that it is the result of.
        action: ActionId,
    },
    /// The reply to a request that the handler asked for: see
    /// [`Context::request`](crate::handler::Context::request).
    NodeRequestCompleted {
        /// The action that it is the result of.
        action: ActionId,
        /// The node that replied.
        node: NodeId,
        /// The reply.
        reply: Message,
    },
    /// A timer that the handler has set has expired: see
    /// [`Context::set_timer`](crate::handler::Context::set_timer).
    NodeTimer {
        /// The timer.
        timer: TimerId,
    },
    /// An action that the handler asked for has failed.
    NodeActionFailed {
        /// The action that failed.
        action: ActionId,
        /// The failure.
        error: String,
    },
    /// This subscriber was too slow, so events were dropped for it.
    NodeLagged {
        /// Their number since the last event that it was given.
        missed: u64,
    },
    /// The application's handler panicked. The node and the link go on.
    NodeHandlerPanicked {
        /// The event that it was handling.
        event: &'static str,
        /// The panic's message.
        panic: String,
    },
    /// The clocks of this node and of a peer are far apart, so each may drop the other's broadcasts.
    /// Reported once for each link, and again if the difference changes.
    NodeClockSkew {
        /// The peer.
        peer: Peer,
        /// Seconds that its clock is ahead of this node's; negative if it is behind.
        seconds: i64,
    },
}

impl Event {
    /// Returns the event that a link is up.
    #[must_use]
    pub fn connected(peer: Peer) -> Self {
        match peer.direction() {
            Direction::Outbound => Self::OutboundNodeConnected { peer },
            Direction::Inbound => Self::InboundNodeConnected { peer },
        }
    }

    /// Returns the event that this node is about to close a link.
    #[must_use]
    pub fn disconnecting(peer: Peer) -> Self {
        match peer.direction() {
            Direction::Outbound => Self::NodeDisconnectWithOutboundNode { peer },
            Direction::Inbound => Self::NodeDisconnectWithInboundNode { peer },
        }
    }

    /// Returns the event that a link has ended.
    #[must_use]
    pub fn disconnected(peer: Peer, link_end: LinkEnd) -> Self {
        match peer.direction() {
            Direction::Outbound => Self::OutboundNodeDisconnected { peer, link_end },
            Direction::Inbound => Self::InboundNodeDisconnected { peer, link_end },
        }
    }

    /// Returns the event's name, which is that of its variant in snake case: `node_message`,
    /// `inbound_node_connected`, ...
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.into()
    }

    /// Returns the peer that the event is about, if any.
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

/// Names an action that a handler asked for. The event with its result carries the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionId(u64);

impl ActionId {
    /// Makes the name of the action with this number. Handlers get theirs from a
    /// [`Context`](crate::handler::Context).
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns its number, which no other action of the same node has in this run.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

/// Names a timer that a handler has set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId(ActionId);

impl TimerId {
    /// Returns the timer that is set by this action. Handlers get theirs from a
    /// [`Context`](crate::handler::Context).
    #[must_use]
    pub fn new(action: ActionId) -> Self {
        Self(action)
    }

    /// Returns the action that sets it. If the timer can't be set, `node_action_failed` has this
    /// number.
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

/// Messages that were accepted for a peer and did not get through, or may not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageFailure {
    /// Number that never left this node, and so did not arrive.
    pub unsent: u64,
    /// Number of the last messages that left this node but were not confirmed before the link ended.
    /// Some of them may have arrived.
    pub unconfirmed: u64,
    /// The reason.
    pub reason: Reason,
}

/// A file or folder that a peer has received, to the last byte, and verified.
///
/// The peer says so at the end of its fetch. It may have fetched from several nodes at once: each of
/// them gets the event if it has sent a part, with the bytes that it has sent itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Its hash.
    pub hash: Hash,
    /// Its name at this node.
    pub name: String,
    /// Bytes of it that this node has sent to the peer: all of them unless the peer had other
    /// sources, or had a part of it before.
    pub bytes: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// A message to the whole network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broadcast {
    /// The hash that names it.
    pub id: Hash,
    /// The node that wrote and signed it.
    pub author: NodeId,
    /// Its time by the author's clock, in milliseconds since 1970.
    pub time: u64,
    /// A heading; may be empty.
    pub title: String,
    /// Its content.
    pub message: Message,
}

/// A node of the network and its neighbours, as it describes itself in answer to a discovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its identity.
    pub id: NodeId,
    /// The name that it gives itself.
    pub name: String,
    /// Its addresses, as far as it knows them.
    pub addresses: Vec<Address>,
    /// The nodes that it has dialled.
    pub outbound: Vec<Neighbour>,
    /// The nodes that have dialled it.
    pub inbound: Vec<Neighbour>,
}

/// The other end of one of a node's links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its identity.
    pub id: NodeId,
    /// Its address if it is known, else the address that it connected from.
    pub address: Address,
}
