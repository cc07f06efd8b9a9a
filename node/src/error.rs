//! The error of the library. Each variant is a case that a caller may want to handle.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use peerkit_proto::address::{Address, ParseAddressError};
use peerkit_proto::event::{Peer, Reason};
use peerkit_proto::files::TicketError;
use peerkit_proto::frame::Refusal;
use peerkit_proto::id::{Hash, NodeId, NotAKey, ParseIdError};
use peerkit_proto::message::Compression;
use peerkit_proto::overlay::broadcast::BroadcastError;
use peerkit_proto::overlay::relay::{RelayError, RelaySendError};

use crate::bootstrap::BootstrapError;
use crate::key::KeyError;
use crate::membership::InvitationError;
use crate::shares::ShareError;
use crate::store::StoreError;
use crate::tls;
use crate::transfer::FetchError;

/// The error of a call of this library. Unless the variant says otherwise, the call has changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The node has stopped, or is stopping.
    #[error("the node has stopped")]
    Stopped,
    /// A text is not an address.
    #[error(transparent)]
    Address(#[from] ParseAddressError),
    /// A host name does not resolve.
    #[error("can't find the host of {address}: {error}")]
    Resolve {
        /// The address.
        address: Address,
        /// The resolver's error.
        error: io::Error,
    },
    /// No connection to that address can be made.
    #[error("can't connect to {address}: {error}")]
    Connect {
        /// The address.
        address: Address,
        /// The system's error. If several socket addresses were tried, its text has the error of each.
        error: io::Error,
    },
    /// No address has answered, of several that were dialled. This has the error of each.
    #[error("{}", joined(.0))]
    NoneAnswered(Vec<Self>),
    /// The server at that address does not speak TLS with raw public keys, as nodes do.
    #[error("the server at {address} is not a peerkit node: {error}")]
    Handshake {
        /// The address.
        address: Address,
        /// The error of TLS, or of the connection.
        error: io::Error,
    },
    /// The identity is not a public key that a node can hold: one of its digits is wrong. Nothing was
    /// dialled or shared.
    #[error("{}", NotAKey(*.0))]
    NotAKey(NodeId),
    /// Another node than the expected one answers at that address.
    #[error("another node answers at {address}: {found}")]
    WrongNode {
        /// The address, with the node that was expected there.
        address: Address,
        /// The node that answered.
        found: NodeId,
    },
    /// The other node, or this one, refused the link.
    #[error("{address} refused: {reason}")]
    Refused {
        /// The address.
        address: Address,
        /// The reason.
        reason: Reason,
    },
    /// The node that this one was to join through makes its links by hand, so it is never a member.
    #[error("links of {0} are made by hand: connect to it instead")]
    LinksByHand(Peer),
    /// The node that this one was to join through has found no neighbours for it.
    #[error("{0} found no place for this node: try again, or through another one")]
    NoPlace(Peer),
    /// Only the network's owner can shut the network down, and this node does not have the owner's key.
    #[error("the network belongs to {0}: only the holder of that key can stop it")]
    NotOwner(NodeId),
    /// The network has no owner, as far as this node knows.
    #[error("this network has no owner that could stop it")]
    NoOwner,
    /// There is no link with that node.
    #[error("not connected to {0}")]
    NotConnected(NodeId),
    /// Too much is under way: actions of the handler, broadcasts of the handler that wait for their rate
    /// limit, actions that the handler has requested in one call, or operations of the node.
    #[error("{0} actions are under way, which is the maximum")]
    TooManyActions(usize),
    /// The node has no handler: its application reads streams of events.
    #[error("the node has no handler")]
    NoHandler,
    /// The node's handler is of another type.
    #[error("the node's handler is not a {wanted}: it is a {found}")]
    OtherHandler {
        /// The type that the caller expects.
        wanted: &'static str,
        /// The type of the handler.
        found: &'static str,
    },
    /// The identity is this node's own: nothing was dialled or sent.
    #[error("that is this node itself")]
    ThisNode,
    /// There is no link with that node, and no node that answers the query knows it.
    #[error(
        "no node that this one can ask knows {0}: connect to that node, or to one that knows it"
    )]
    NotFound(NodeId),
    /// The node is in the network, but has no address at which it can be dialled.
    #[error("that node has no address at which it can be dialled: no link was made")]
    NoAddress,
    /// A relayed message did not arrive, or may not have arrived. The recipient can't be dialled.
    #[error("the message to {peer} was not delivered: {reason}")]
    NotReached {
        /// The recipient.
        peer: NodeId,
        /// The reason.
        reason: RelayError,
    },
    /// The content is over the limit of messages that other nodes relay: nothing was sent.
    #[error(
        "{peer} can't be dialled, and other nodes relay at most {limit} bytes, not {len}: share a \
         file, or let that node connect to this one"
    )]
    TooLargeToPass {
        /// The recipient.
        peer: NodeId,
        /// Length of the content in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A message could not be sealed for the nodes that would relay it: nothing was sent.
    #[error(transparent)]
    RelaySend(#[from] RelaySendError),
    /// No connected node has that name, or an identity that begins with it.
    #[error("no connected node is called `{0}`")]
    UnknownPeer(String),
    /// No connected node or known peer has that name, or an identity that begins with it.
    #[error("no known node is called `{0}`: any other node needs its whole identity of 64 digits")]
    UnknownNode(String),
    /// Several nodes have that name, or identities that begin with it.
    #[error("`{0}` could be several nodes: write more of the identity")]
    AmbiguousPeer(String),
    /// The content is over the limit: nothing was sent.
    #[error("a message of {len} bytes is over the limit of {limit} bytes: nothing was sent")]
    TooLarge {
        /// Length of the content in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The peer's queue has no room, or messages already wait for too many nodes without a link: nothing was
    /// sent.
    #[error("the queue for {0} is full: nothing was sent")]
    Full(NodeId),
    /// The peer does not accept this compression: nothing was sent.
    #[error("{peer} does not accept messages compressed with {}: nothing was sent", compression.name())]
    CompressionNotAccepted {
        /// The peer.
        peer: NodeId,
        /// The compression.
        compression: Compression,
    },
    /// The link ended before the reply came.
    #[error("the link with {peer} ended: {reason}")]
    LinkLost {
        /// The peer.
        peer: NodeId,
        /// The reason.
        reason: Reason,
    },
    /// No answer came in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The peer refused a request, or its handler failed.
    #[error(transparent)]
    Request(#[from] Refusal),
    /// A broadcast could not be made: nothing was sent.
    #[error(transparent)]
    Broadcast(#[from] BroadcastError),
    /// A stream was refused.
    #[error("{peer} refused the stream: {why}")]
    StreamRefused {
        /// The peer that refused it.
        peer: NodeId,
        /// The reason.
        why: String,
    },
    /// The connection broke before the stream was open: the other node may be overloaded.
    #[error("the connection to {peer} broke before the stream was open: {error}")]
    StreamBroken {
        /// The peer.
        peer: NodeId,
        /// The system's error.
        error: io::Error,
    },
    /// Neither node could dial the other one to open a stream.
    #[error("can't reach {peer}: {why}")]
    Unreachable {
        /// The peer.
        peer: NodeId,
        /// The failure of each attempt.
        why: String,
    },
    /// No node that can be reached shares that content.
    #[error("no node that can be reached shares {0}")]
    NoSource(Hash),
    /// There is no download of that hash.
    #[error("there is no download of {0} under way")]
    NoDownload(Hash),
    /// A download failed, and its error was returned to another caller that waited for it.
    /// [`DownloadStatus::error`](crate::DownloadStatus::error) has its text.
    #[error("the fetch of {0} failed, as was reported before")]
    AlreadyReported(Hash),
    /// The text of a search is too long: no query was sent.
    #[error("a search has at most {limit} bytes")]
    SearchTooLong {
        /// Length of the text in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A file could not be fetched from any of its sources.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A file or folder could not be shared.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The key file can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The state folder can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another program listens on that port already.
    #[error("port {} of {} is in use", .0.port(), .0.ip())]
    PortInUse(SocketAddr),
    /// The node can't listen on that address.
    #[error("can't listen on {address}: {error}")]
    Listen {
        /// The address as it was given.
        address: String,
        /// The system's error, or the fault in the address.
        error: io::Error,
    },
    /// The list of bootstrap nodes can't be used.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// No address was given to join through, and the node has none of its own: it has no bootstrap
    /// nodes, and has met no peer.
    #[error(
        "there is no node to join through: no bootstrap node is set and no peer was met before"
    )]
    NoBootstrap,
    /// No address was given to join through, and the application has disconnected every node that this one
    /// could try. A node is not dialled for ten minutes after that.
    #[error(
        "every node to join through was disconnected by hand in the last ten minutes: name one to \
         join through it again"
    )]
    AllDisconnected,
    /// The node is not banned.
    #[error("{} is not banned", .0.short())]
    NotBanned(NodeId),
    /// The maximum number of nodes is banned already: the node was not banned.
    #[error("{0} nodes are banned already, which is the maximum: end the ban of one first")]
    TooManyBans(usize),
    /// No address was given to join through, and all bootstrap nodes are this node itself. Other nodes can
    /// join through it.
    #[error("the only node to join through is this node itself")]
    OnlyThisNode,
    /// No bootstrap node and no peer that was met before has answered.
    #[error("{}: {first}", none_reached(*tried))]
    NoneReached {
        /// Number of attempts.
        tried: usize,
        /// The error of the first attempt.
        first: Box<Self>,
    },
    /// A file of peers can't be read or written.
    #[error("{}: {error}", path.display())]
    PeersFile {
        /// The file.
        path: PathBuf,
        /// The system's error, or the fault in its content.
        error: io::Error,
    },
    /// The system gives no random numbers.
    #[error("no random numbers: {0}")]
    NoRandomNumbers(getrandom::Error),
    /// A value can't be written as JSON, or a text is not the expected JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A text is not an identity or a hash.
    #[error(transparent)]
    Id(#[from] ParseIdError),
    /// A text is not a ticket.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// A name is too long: nothing was started or sent.
    #[error("{kind} has at most {limit} bytes: `{name}`")]
    NameTooLong {
        /// The kind of name.
        kind: NameKind,
        /// The name.
        name: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// More addresses are given to be announced than a node may announce: the node was not started.
    #[error("{count} addresses to announce are given, and the maximum is {limit}")]
    TooManyAddresses {
        /// The number of addresses.
        count: usize,
        /// The maximum number of addresses.
        limit: usize,
    },
    /// The given key of the network's owner does not belong to the given identity of the owner: the node was
    /// not started.
    #[error("the owner's key does not belong to the owner's identity that is given")]
    OwnerMismatch {
        /// The identity of the key.
        key: NodeId,
        /// The identity that was given.
        given: NodeId,
    },
    /// No node can have the identity that was given for the network's owner: the node was not started.
    #[error("no node can have the identity that is given for the network's owner")]
    OwnerNotAKey(NodeId),
    /// An error of invitations and memberships: nothing was changed.
    #[error(transparent)]
    Invitation(#[from] InvitationError),
    /// TLS can't be set up with the node's key: the node was not started.
    #[error(transparent)]
    Tls(Box<dyn std::error::Error + Send + Sync>),
    /// A message could not be compressed, for example because memory is short: the message was not sent.
    #[error("could not compress with {}", .0.name())]
    Compress(Compression, #[source] io::Error),
    /// There is no current folder to which a relative path could refer.
    #[error("there is no current folder: {0}")]
    NoCurrentFolder(io::Error),
    /// A handler has requested an action that this node does not know.
    #[error("this node does not know that action")]
    UnknownAction,
}

/// A kind of name that has a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NameKind {
    /// The name of a node.
    Node,
    /// The name of a network.
    Network,
    /// The name of a stream's protocol.
    Protocol,
    /// The name of a kind of request.
    Request,
}

impl fmt::Display for NameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "a node's name",
            Self::Network => "a network's name",
            Self::Protocol => "a protocol's name",
            Self::Request => "a request's name",
        })
    }
}

/// The way in which the TLS handshake with a dialled server failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsFailure {
    /// The server sent nothing, or too little, before the time was over.
    Silent,
    /// The server closed the connection.
    Closed,
    /// The server does not speak TLS.
    NotTls,
    /// The server speaks TLS, but not as nodes do.
    NotANode,
}

impl Error {
    /// Returns the way in which the TLS handshake failed, if this is [`Error::Handshake`].
    #[must_use]
    pub fn tls_failure(&self) -> Option<TlsFailure> {
        match self {
            Self::Handshake { error, .. } => Some(tls::tls_failure(error)),
            _ => None,
        }
    }

    /// Checks that a name has at most `limit` bytes.
    ///
    /// # Errors
    /// [`Error::NameTooLong`].
    pub(crate) fn check_name(kind: NameKind, name: &str, limit: usize) -> Result<(), Self> {
        if name.len() > limit {
            return Err(Self::NameTooLong { kind, name: name.to_owned(), limit });
        }
        Ok(())
    }

    /// Checks that the content of a message has at most `limit` bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub(crate) fn check_size(body: &[u8], limit: usize) -> Result<(), Self> {
        let len = body.len();
        if len > limit { Err(Self::TooLarge { len, limit }) } else { Ok(()) }
    }

    /// Returns the text of a failed dial, for a sentence or an event that already names the address.
    pub(crate) fn without_address(&self) -> String {
        match self {
            Self::Resolve { error, .. } => format!("can't find the host: {error}"),
            // The system's error says what failed: "connection refused".
            Self::Connect { error, .. } => error.to_string(),
            Self::Handshake { error, .. } => {
                format!("the server there is not a peerkit node: {error}")
            }
            Self::NotAKey(_) => "no node can have that identity: it is no valid key".to_owned(),
            Self::WrongNode { found, .. } => format!("another node answers there: {found}"),
            Self::Refused { reason, .. } => format!("refused: {reason}"),
            other => other.to_string(),
        }
    }
}

impl From<getrandom::Error> for Error {
    fn from(error: getrandom::Error) -> Self {
        Self::NoRandomNumbers(error)
    }
}

impl From<NotAKey> for Error {
    fn from(NotAKey(id): NotAKey) -> Self {
        Self::NotAKey(id)
    }
}

/// Returns the texts of several errors, on one line.
fn joined(errors: &[Error]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Returns the text for a join through `tried` nodes if none of them answered.
fn none_reached(tried: usize) -> String {
    match tried {
        1 => "the only bootstrap node or known peer did not answer".to_owned(),
        _ => format!("none of the {tried} bootstrap nodes and known peers answered"),
    }
}

#[cfg(test)]
mod tests;
