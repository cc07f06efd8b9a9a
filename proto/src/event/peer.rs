//! Peers, and the reasons why links with them end.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use strum::IntoStaticStr;

use crate::address::Address;
use crate::id::NodeId;
use crate::invitation::MembershipError;
use crate::versions::VersionGap;

/// The node at the other end of a link. Cloning is cheap.
///
/// The value describes the link as it was when it was made, and stays valid after the link has
/// ended. A later link with the same node has a value of its own.
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

/// Returns the same peer.
impl From<&Self> for Peer {
    fn from(peer: &Self) -> Self {
        peer.clone()
    }
}

/// Describes a node of which only the identity is known.
impl From<NodeId> for Peer {
    fn from(id: NodeId) -> Self {
        Self::without_link(id, String::new())
    }
}

/// Returns the peer's identity.
impl From<&Peer> for NodeId {
    fn from(peer: &Peer) -> Self {
        peer.id()
    }
}

impl Peer {
    /// Creates the description of a peer with a link.
    #[must_use]
    pub fn new(id: NodeId, name: String, address: Address, direction: Direction) -> Self {
        Self(Arc::new(PeerParts { id, name, address, direction, linked: true }))
    }

    /// Creates the description of a node without a link, such as one whose message was relayed by
    /// other nodes. Its address is unknown, and is set to `0.0.0.0:0`.
    #[must_use]
    pub fn without_link(id: NodeId, name: String) -> Self {
        let address = Address::from_socket((Ipv4Addr::UNSPECIFIED, 0).into());
        let direction = Direction::Inbound;
        Self(Arc::new(PeerParts { id, name, address, direction, linked: false }))
    }

    /// Returns whether this value describes a link. A node without a link sends its messages
    /// through other nodes, sealed and signed. A message to that node is relayed along the same
    /// route, or the node is dialled.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        self.0.linked
    }

    /// Returns the peer's identity. The handshake of the link proved it, or the signature of the
    /// message if there is no link.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.0.id
    }

    /// Returns the name that the peer gives itself. Any node may give itself any name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns the address at which the peer can be dialled, if known. Otherwise returns the
    /// address from which it connected.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.0.address
    }

    /// Returns the direction of the link, or [`Direction::Inbound`] if there is no link.
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

/// The direction of a link: which of the two nodes dialled the other.
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
    /// True if the peer ended the link with a goodbye.
    pub by_peer: bool,
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.by_peer {
            write!(f, "closed by the peer: {}", self.reason)
        } else {
            write!(f, "{}", self.reason)
        }
    }
}

/// The reason why a link ended, or why it was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The application requested it.
    #[error("disconnected on request")]
    Requested,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The two nodes already have another link.
    #[error("the two nodes already have a link")]
    Duplicate,
    /// The link was replaced by a newer link between the two nodes.
    #[error("a newer link took its place")]
    Replaced,
    /// The nodes belong to networks of different names.
    #[error("the nodes belong to different networks")]
    OtherNetwork,
    /// The proof that a node knows the network's secret was wrong, missing or unexpected.
    #[error("the proof that the node knows the network's secret is wrong or missing")]
    WrongSecret,
    /// There is no version of the protocol that both nodes speak. The value is `None` if the peer
    /// did not name the versions, as nodes of version 1 do not.
    #[error("no common protocol version{}", .0.map(|gap| format!(": {gap}")).unwrap_or_default())]
    Version(Option<VersionGap>),
    /// The node accepts no more inbound links.
    #[error("no room for another inbound link")]
    Full,
    /// The node accepts no more inbound links from this IP address.
    #[error("no room for another inbound link from this IP address")]
    FullForAddress,
    /// The other end is this node itself.
    #[error("a node does not connect to itself")]
    SelfConnection,
    /// The peer reads so slowly that too many control frames wait for it.
    #[error("too slow: control frames piled up")]
    Slow,
    /// No byte was received for this time.
    #[error("no byte was received for {} s", .0.as_secs())]
    Silent(Duration),
    /// Hello was not received in time.
    #[error("the handshake took too long")]
    HandshakeTimeout,
    /// The peer stopped being a neighbour, because another node became one in its place.
    #[error("another node became a neighbour in its place")]
    NeighbourReplaced,
    /// The link is not needed any more.
    #[error("the link is not needed any more")]
    NotNeeded,
    /// The node has left the network.
    #[error("the node has left the network")]
    Left,
    /// The peer's application has disconnected this node, and the peer refuses links with it for
    /// ten minutes.
    #[error("disconnected by hand, and refused for ten minutes since then")]
    KeptAway,
    /// The acceptor's inbound places are short, and this link made room for another one.
    #[error("the inbound places were short, and this link made room for another one")]
    MadeRoom,
    /// This node has violated the protocol, or the peer's application has reported it. The peer refuses
    /// links with it for ten minutes.
    #[error("refused for ten minutes, as it broke the protocol")]
    Discouraged,
    /// The user of one of the two nodes has banned the other node.
    #[error("banned")]
    Banned,
    /// The network takes invited nodes only, and one of the two nodes is not a member of it.
    #[error("not a member: {0}")]
    NotAMember(MembershipError),
    /// The peer has violated the protocol.
    #[error("broke the protocol: {0}")]
    Fault(String),
    /// The connection was lost without a goodbye.
    #[error("connection lost: {0}")]
    Lost(String),
    /// A reason with a code that this version does not know, and its text.
    #[error("{1} (code {0})")]
    Other(u16, String),
}
