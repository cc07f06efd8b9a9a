//! Peers, and how links with them end.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use strum::IntoStaticStr;

use crate::address::Address;
use crate::id::NodeId;
use crate::versions::VersionGap;

/// The node at the other end of a link. Cloning is cheap.
///
/// It describes the link as it was made. It stays valid after the end of the link, and a later link
/// with the same node is another value.
#[derive(Clone, PartialEq, Eq)]
pub struct Peer(Arc<PeerParts>);

#[derive(PartialEq, Eq)]
struct PeerParts {
    id: NodeId,
    name: String,
    address: Address,
    direction: Direction,
    linked: bool,
}

/// The same peer.
impl From<&Self> for Peer {
    fn from(peer: &Self) -> Self {
        peer.clone()
    }
}

/// A node of which only the identity is known.
impl From<NodeId> for Peer {
    fn from(id: NodeId) -> Self {
        Self::without_link(id, String::new())
    }
}

/// The peer's identity.
impl From<&Peer> for NodeId {
    fn from(peer: &Peer) -> Self {
        peer.id()
    }
}

impl Peer {
    /// Describes a link.
    #[must_use]
    pub fn new(id: NodeId, name: String, address: Address, direction: Direction) -> Self {
        Self(Arc::new(PeerParts { id, name, address, direction, linked: true }))
    }

    /// Describes a node without a link, whose message other nodes have relayed. Its address is not
    /// known, so it is `0.0.0.0:0`.
    #[must_use]
    pub fn without_link(id: NodeId, name: String) -> Self {
        let address = Address::from_socket((Ipv4Addr::UNSPECIFIED, 0).into());
        let direction = Direction::Inbound;
        Self(Arc::new(PeerParts { id, name, address, direction, linked: false }))
    }

    /// Returns whether this describes a link. Messages of a node without a link came through other
    /// nodes, sealed and signed. A message to such a peer takes the same way back, or the peer is
    /// dialled.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        self.0.linked
    }

    /// Returns its identity, proven by the handshake, or by its signature if there is no link.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.0.id
    }

    /// Returns the name that it gives itself. Any node may give itself any name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns the address at which it can be dialled if that is known, else the address that it
    /// connected from.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.0.address
    }

    /// Returns which side dialled; inbound if there is no link.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.0.direction
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({} {} {:?})", self.0.id.short(), self.0.name, self.0.direction)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.name.is_empty() {
            f.write_str(&self.0.id.short())
        } else {
            write!(f, "{} ({})", self.0.name, self.0.id.short())
        }
    }
}

/// The side that dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Direction {
    /// The peer dialled this node.
    Inbound,
    /// This node dialled the peer.
    Outbound,
}

impl Direction {
    /// Returns `inbound` or `outbound`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The end of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEnd {
    /// The reason.
    pub reason: Reason,
    /// The peer has ended the link, with a goodbye.
    pub by_peer: bool,
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.by_peer {
            write!(f, "the other side said: {}", self.reason)
        } else {
            write!(f, "{}", self.reason)
        }
    }
}

/// The reason why a link ended, or was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The application asked for it.
    #[error("disconnected on request")]
    Requested,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// There is another link between the two nodes.
    #[error("the two nodes already have a link")]
    Duplicate,
    /// A newer link between the two nodes has taken its place.
    #[error("a newer link took its place")]
    Replaced,
    /// The nodes belong to networks of different names.
    #[error("the nodes belong to different networks")]
    OtherNetwork,
    /// The network has a secret, and the proof of knowing it was wrong or missing.
    #[error("the proof of knowing the network's secret is wrong or missing")]
    WrongSecret,
    /// There is no version of the wire that both nodes speak. Nodes of version 1 do not name their
    /// versions.
    #[error("no common protocol version{}", .0.map(|gap| format!(": {gap}")).unwrap_or_default())]
    Version(Option<VersionGap>),
    /// No room for another inbound link.
    #[error("no room for another inbound link")]
    Full,
    /// No room for another inbound link from this IP address.
    #[error("no room for another inbound link from this IP address")]
    FullForAddress,
    /// The other end is this node itself.
    #[error("a node does not connect to itself")]
    SelfConnection,
    /// The peer does not read fast enough even for control frames.
    #[error("too slow: control frames piled up")]
    Slow,
    /// No byte was received for too long.
    #[error("no byte came for {} s", .0.as_secs())]
    Silent(Duration),
    /// Hello was not received in time.
    #[error("the handshake took too long")]
    HandshakeTimeout,
    /// Another node has the place among the neighbours.
    #[error("another node has its place among the neighbours")]
    NeighbourReplaced,
    /// The link is not needed any more.
    #[error("the link is not needed any more")]
    NotNeeded,
    /// The node has left the network.
    #[error("the node has left the network")]
    Left,
    /// The peer's application has disconnected this node, and keeps it away for ten minutes.
    #[error("disconnected by hand a while ago, and kept away for ten minutes in all")]
    KeptAway,
    /// The peer has broken the protocol.
    #[error("broke the protocol: {0}")]
    Fault(String),
    /// The connection was lost without a goodbye.
    #[error("connection lost: {0}")]
    Lost(String),
    /// A reason that this version does not know.
    #[error("{1} (code {0})")]
    Other(u16, String),
}
