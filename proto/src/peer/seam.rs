//! The interface between a node's machine and its shell: all inputs and outputs.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::address::{Address, Scheme};
use crate::event::{Event, LinkEnd, Peer, Reason};
use crate::files::SharedFile;
use crate::frame::broadcast::Batch;
use crate::frame::membership::{NeighbourOutcome, Probe};
use crate::frame::query::{QueryAnswer, QueryId, QueryKind};
use crate::frame::{Frame, Refusal};
use crate::id::{Hash, Key, NodeId};
use crate::invitation::MembershipProof;
use crate::message::{Message, PackedMessage};
use crate::overlay::admission::{Candidate, LinkMerits};
use crate::overlay::broadcast::BroadcastError;
use crate::overlay::members::{MembershipState, RosterChange};
use crate::overlay::reach::MappingState;
use crate::overlay::relay::{RelayError, RelaySendError};
use crate::seal::LetterContent;

/// The number of a connection. The shell numbers connections in the order in which they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// The number of a dial. The machine numbers dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(pub(super) u64);

/// The number of an operation: a request of the application that has an outcome. The shell numbers
/// operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// An input of the machine: something that has happened, or a request of the application.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input {
    /// Dials a node for the application. Ends with [`Output::DialEnded`].
    Dial {
        /// The number under which the outcome is reported.
        operation: OperationId,
        /// The addresses of the node, best first. The overlay and events refer to the dial by the first.
        addresses: Vec<Address>,
        /// True to keep a link to the first address: it is dialled again whenever the link is lost.
        keep: bool,
        /// The purpose of the link.
        purpose: Purpose,
    },
    /// The connection of a dial is secured. The handshake has proven the identity at the other end.
    DialSecured {
        /// The dial.
        dial: DialId,
        /// The node at the other end.
        id: NodeId,
    },
    /// The node that a dial has reached has refused the connection, in its answer to Hello.
    DialRefused {
        /// The dial.
        dial: DialId,
        /// The reason that the node has given.
        reason: Reason,
    },
    /// A dial has failed before there was a link, and not because the other node refused it.
    DialFailed {
        /// The dial.
        dial: DialId,
        /// The reason, in words.
        error: String,
    },
    /// The other node's Hello has arrived, so the connection can become a link. Answered with
    /// [`Output::Admitted`] or [`Output::Refused`]. If the connection replaces a link, the answer comes after
    /// that link has ended.
    Greeted(Greeted),
    /// A frame has arrived over a connection.
    Frame(ConnectionId, Frame),
    /// Broadcasts have arrived over a connection, but the application has no room for more events. They are
    /// dropped, and requested again later.
    PostponeBroadcasts(ConnectionId, Batch),
    /// Nothing more can be sent over a connection, which is about to end.
    LinkClosing(ConnectionId),
    /// A connection has ended.
    LinkDown {
        /// The connection.
        connection: ConnectionId,
        /// The reason, and the side that has ended it.
        link_end: LinkEnd,
    },
    /// The application has the event that a link with a node has ended.
    LinkEndReported {
        /// The node.
        id: NodeId,
    },
    /// The answer to [`Output::MeasureUse`].
    LinkUse {
        /// The link.
        connection: ConnectionId,
        /// A number that grows with each message that is sent or received.
        count: u64,
        /// True if messages wait to be sent, or a reply is awaited.
        busy: bool,
    },
    /// Sends a broadcast. Answered with [`Output::Broadcast`].
    Broadcast {
        /// The number under which the outcome is reported.
        operation: OperationId,
        /// The title of the broadcast.
        title: String,
        /// The content of the broadcast.
        message: Message,
    },
    /// Sends a query into the network. Each answer is an [`Output::Answered`], and [`Output::QueryEnded`]
    /// comes last. If [`MAX_QUERIES`](super::MAX_QUERIES) are under way, the query ends immediately,
    /// incomplete.
    Query {
        /// The number under which the answers and the end are reported.
        operation: OperationId,
        /// The question. A [`QueryKind::CallBack`] is sent with this node's record, as
        /// [`QueryKind::SignedCallBack`].
        what: QueryKind,
        /// Number of hops: -1 for the whole network, 0 for no node.
        depth: i32,
        /// True to ask only the neighbours, on behalf of this node itself. Their answers include files that
        /// are shared with this node but not with everyone. `depth` has no effect then.
        own: bool,
        /// Time to wait for answers; `None` for the configured time.
        timeout: Option<Duration>,
    },
    /// Sends a message, ping, request or reply to a node, whether there is a link with it or not. Answered
    /// with [`Output::Deliver`] or [`Output::Sent`].
    Send {
        /// The number under which the outcome is reported.
        operation: OperationId,
        /// The recipient.
        to: NodeId,
        /// The message, ping, request or reply.
        payload: Payload,
    },
    /// The application no longer waits for the reply to a relayed request.
    RequestEnded {
        /// The operation of the request.
        operation: OperationId,
    },
    /// The shell has carried out [`Output::Deliver`], with or without success, so the next message may
    /// follow.
    Delivered {
        /// The recipient.
        to: NodeId,
        /// The operation.
        operation: OperationId,
    },
    /// The answer to [`Output::LookUpAddresses`].
    AddressesLookedUp {
        /// The node.
        id: NodeId,
        /// The addresses at which this node was linked with it before. May be empty.
        addresses: Vec<Address>,
    },
    /// A node has sent a probe, on a connection that is not a link. Answered with [`Output::ProbeAnswer`].
    ProbeReceived {
        /// The number under which the answer is put out.
        operation: OperationId,
        /// The node that sent it, whose identity the handshake has proven.
        from: NodeId,
        /// The probe.
        probe: Probe,
    },
    /// The outcome of [`Output::Probe`].
    Probed {
        /// The node that was probed.
        id: NodeId,
        /// The IP address at which the node was reached, and its answer. `None` if it did not answer.
        answer: Option<(IpAddr, Probe)>,
    },
    /// The application wants the link with a node, which is not closed any more when it is idle.
    Want {
        /// The node.
        id: NodeId,
    },
    /// An observer says at which UDP address it sees this node. `None` if it does not answer any more.
    Observed {
        /// The observer.
        by: NodeId,
        /// The address.
        address: Option<SocketAddr>,
    },
    /// What is known about the mapping of this node's ports at its router has changed.
    Mapping(MappingState),
    /// A command of the application.
    Command(Command),
    /// A node, whose identity the handshake has proven, opens a stream and has shown this proof of membership.
    /// Answered with [`Output::StreamChecked`] under the same number.
    StreamOpened(OperationId, NodeId, Option<Box<MembershipProof>>),
    /// The node is about to stop: it makes no more links, and sends broadcasts immediately.
    Stopping,
    /// The node stops, and closes all links.
    Stop {
        /// True if the node also leaves the network: it names its neighbours to each other first, so that
        /// they can link to each other.
        hand_over: bool,
    },
}

/// A command of the application or the shell that has no outcome.
#[derive(Debug)]
#[non_exhaustive]
pub enum Command {
    /// Answers a query that [`Output::LookUpAnswer`] asked about.
    Answer {
        /// The query.
        query: QueryId,
        /// The files that were found.
        files: Vec<SharedFile>,
        /// True if the query asks this node to call back, and it does. Then it also answers
        /// [`AnswerBody::Here`](crate::frame::query::AnswerBody::Here).
        here: bool,
    },
    /// Stops keeping the link to an address: if the link ends, it is not dialled again.
    StopReconnecting(Address),
    /// Closes the link with a node, which is not dialled again. If this node is a member, the other node is
    /// kept away for a while.
    Disconnect(NodeId),
    /// Reports a node that has misbehaved, with the reason. Its link is closed, and it is treated like a node
    /// that has violated the protocol.
    Penalize(NodeId, String),
    /// Bans a node for a time, or for ever: its link is closed, and it is neither accepted nor dialled.
    Ban(NodeId, Option<Duration>),
    /// Ends the ban of a node.
    Unban(NodeId),
    /// Sets this node's addresses, best first.
    Addresses(Vec<Address>),
    /// Sets by which means this node meets nodes that it can't dial.
    Meets {
        /// It accepts QUIC at the ports at which it listens.
        over_udp: bool,
        /// It uses relays.
        over_relays: bool,
    },
    /// Keeps nodes away that an earlier run has kept away, each for the time that is left: see
    /// [`Overlay::kept_away`](crate::overlay::Overlay::kept_away). Has to come before [`Command::Known`].
    KeepAway(Vec<(NodeId, Duration)>),
    /// Adds nodes that earlier runs were linked with, and their addresses. A member asks them for a place
    /// like the other nodes that it knows.
    Known(Vec<(NodeId, Vec<Address>)>),
    /// Sets the maximum number of inbound links. Present links stay, even if they are more than that.
    MaxInbound(usize),
    /// Leaves the network: names the neighbours to each other, so that they can link to each other, and
    /// closes all links.
    Leave,
    /// Restores broadcasts that came as [`Output::Keep`] in an earlier run. They are sent to nodes that ask
    /// for them, and not delivered again.
    Restore(Vec<Batch>),
    /// Sets the owner of the network. Orders that are signed with this key are obeyed.
    Owner(NodeId),
    /// Orders all nodes of the network to stop, signed with the owner's key.
    Shutdown(Key),
    /// Sets the membership of this node in a network that takes invited nodes only. From then on, links need
    /// a proof. Has to come before the first link.
    Membership(Box<MembershipState>),
    /// Revokes a node or an invitation, signed with the owner's key. Does nothing if it is revoked already, or
    /// if too many revocations are in force.
    Revoke(Key, NodeId),
}

/// A connection on which the other node's Hello has arrived.
#[derive(Debug)]
pub struct Greeted {
    /// The connection.
    pub connection: ConnectionId,
    /// The dial that made the connection; `None` if the other node has dialled.
    pub dial: Option<DialId>,
    /// The other node, as the application sees it.
    pub peer: Peer,
    /// The other node, as admission sees it.
    pub candidate: Candidate,
    /// The other node's wall clock in milliseconds since 1970, from its Hello.
    pub unix: Option<u64>,
    /// The merits of all links, if [`Overlay::is_short_of_places`](crate::overlay::Overlay::is_short_of_places)
    /// returns true. May be empty otherwise.
    pub merits: Vec<LinkMerits>,
    /// The other node's proof of membership, from its Hello.
    pub membership: Option<Box<MembershipProof>>,
    /// The transport of the connection.
    pub transport: LinkTransport,
}

/// The transport of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkTransport {
    /// The transport that the link runs over.
    pub scheme: Scheme,
    /// The other node accepts QUIC at the ports at which it listens.
    pub accepts_quic: bool,
    /// The other node relays connections.
    pub relays: bool,
}

/// The purpose of a link, which decides how long it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The application asked for the link. The overlay never closes it to make room for another neighbour.
    Application,
    /// The application joins the network through the node.
    Join,
    /// The application joins the network through a node that it did not choose itself. There is no link if
    /// the node is kept away.
    Rejoin,
    /// The overlay dials again, because the application keeps a link to the address and the link was lost.
    Reconnect,
    /// The overlay wants the link. A failure causes no event.
    Overlay,
    /// A message is to be sent over the link, which is closed once it is idle. A failure causes no event.
    Message,
    /// The two nodes dial each other at the same moment, over QUIC at all addresses at once, and through relays if that
    /// fails: see [`meetings`](super::meetings). The link is closed once it is idle. A failure causes no event.
    Meeting,
}

impl Purpose {
    /// Returns whether a failure causes an event for the application.
    #[must_use]
    pub fn is_reported(self) -> bool {
        !matches!(self, Self::Overlay | Self::Message | Self::Meeting)
    }
}

/// An output of the machine: a task for the shell, or a result.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output {
    /// Connect to a node at the first of its addresses that answers, and secure the connection.
    /// Answered with [`Input::DialSecured`] or [`Input::DialFailed`].
    Dial {
        /// The dial.
        dial: DialId,
        /// The operation that asked for the dial; `None` if the machine did.
        operation: Option<OperationId>,
        /// The addresses, best first; at least one.
        addresses: Vec<Address>,
        /// The purpose of the link.
        purpose: Purpose,
    },
    /// Send Hello on the connection of a dial. Answered with [`Input::Greeted`], [`Input::DialRefused`] or
    /// [`Input::DialFailed`].
    Greet(DialId),
    /// A dial has ended, or has not begun because the node is stopping. If the dial has a connection that was
    /// not admitted, close it.
    DialEnded {
        /// The dial.
        dial: DialId,
        /// The operation that asked for the dial; `None` if the machine did.
        operation: Option<OperationId>,
        /// The node with which there is a link, or the reason why there is none.
        outcome: Result<NodeId, DialError>,
    },
    /// A connection has become a link. Send the application the event.
    Admitted(ConnectionId),
    /// A connection is refused. Send the other node the reason, and close the connection.
    Refused(ConnectionId, Reason),
    /// The node through which this one joins has accepted it as a neighbour.
    Joined(NodeId),
    /// A join has ended: the node that was asked has answered, or the link with it has ended.
    JoinEnded {
        /// The operation of the dial.
        operation: OperationId,
        /// Success if this node is a member, or the reason why it is not.
        outcome: Result<(), JoinError>,
    },
    /// Send a frame over a link, ahead of the application's messages.
    Send {
        /// The link.
        connection: ConnectionId,
        /// The frame.
        frame: Frame,
    },
    /// Close a link with a goodbye. Send the application the event first. Frames that still arrive are
    /// ignored.
    CloseLink(ConnectionId, Reason),
    /// Close a link that a new connection replaces: flush what is queued, then send a goodbye. Hand in frames
    /// that still arrive.
    CloseReplacedLink(ConnectionId, Reason),
    /// Send the application an event.
    Event(Event),
    /// The outcome of [`Input::Broadcast`]. On an error, nothing was sent.
    Broadcast {
        /// The operation.
        operation: OperationId,
        /// The broadcast as it was sent, or the reason why it was not.
        outcome: Result<BroadcastReceipt, BroadcastError>,
    },
    /// An answer to a query of the application.
    Answered {
        /// The operation.
        operation: OperationId,
        /// The answer.
        answer: QueryAnswer,
    },
    /// A query of the application has ended.
    QueryEnded {
        /// The operation.
        operation: OperationId,
        /// True if all nodes within the query's depth have answered.
        complete: bool,
    },
    /// Send a message, ping or request over a link, behind the messages that are queued there. The shell
    /// reports the outcome to the application, and answers with [`Input::Delivered`].
    Deliver {
        /// The operation.
        operation: OperationId,
        /// The link.
        connection: ConnectionId,
        /// The message, ping or request.
        payload: Payload,
    },
    /// The outcome of [`Input::Send`], if it was not handed out as [`Output::Deliver`].
    Sent {
        /// The operation.
        operation: OperationId,
        /// The time between sending and the recipient's receipt, or the reason for the failure.
        outcome: Result<Duration, SendError>,
    },
    /// A request that other nodes have relayed. Answer it with [`Input::Send`] and [`Payload::Reply`].
    Request {
        /// The node that sent the request.
        peer: Peer,
        /// The number of the request, which its reply has to name.
        id: u64,
        /// The name of the handler that answers.
        name: String,
        /// The question.
        message: Message,
    },
    /// The reply to a request that other nodes have relayed. It may come before [`Output::Sent`].
    Replied {
        /// The operation of the request.
        operation: OperationId,
        /// The answer, or the reason why there is none.
        outcome: Result<Message, Refusal>,
    },
    /// Look up the addresses at which this node was linked with another node before. Answered with
    /// [`Input::AddressesLookedUp`].
    LookUpAddresses(NodeId),
    /// Measure the use of an on-demand link. Answered with [`Input::LinkUse`].
    MeasureUse(ConnectionId),
    /// Do not read a link for this time: its peer is a stranger that has sent more than its budget allows. So a
    /// flood waits at the other end, and costs this node little.
    PauseReading(ConnectionId, Duration),
    /// The answer to [`Input::ProbeReceived`].
    ProbeAnswer {
        /// The operation.
        operation: OperationId,
        /// The answer.
        answer: Probe,
    },
    /// The answer to [`Input::StreamOpened`]: the reason for refusing the stream, if there is one.
    StreamChecked(OperationId, Result<(), Reason>),
    /// Send a probe to a node, on a connection of its own that is not a link. Answered with
    /// [`Input::Probed`].
    Probe {
        /// Addresses of the node, best first. Each contains the node's identity.
        addresses: Vec<Address>,
        /// The node.
        id: NodeId,
        /// The probe.
        probe: Probe,
    },
    /// Ask a peer, over UDP and from the port at which this node listens, for the address at which the peer sees this
    /// node. Keep the connection, and report each change with [`Input::Observed`].
    Observe(NodeId),
    /// End the connection of [`Output::Observe`].
    StopObserving(NodeId),
    /// The router forwards these addresses to this node. Announce them with the node's own addresses
    /// ([`Command::Addresses`]). Empty if there are none any more.
    AnnounceMapped(Vec<Address>),
    /// Look up the answer to a query. Answered with [`Command::Answer`].
    LookUpAnswer {
        /// The query.
        query: QueryId,
        /// The question: a search, a file, or a request to this node to call back.
        what: QueryKind,
        /// The peer that asks, if it asks for itself. `None` if the asking node is not known.
        asker: Option<NodeId>,
    },
    /// Store broadcasts on disk, for [`Command::Restore`] in the next run.
    Keep(Batch),
    /// The roster of the network has changed. Store the change for [`Command::Membership`] in the next run.
    RosterChanged(RosterChange),
    /// The anchors of this node have changed: at most two neighbours, to dial first after the next start. Store
    /// them.
    Anchors(Vec<NodeId>),
    /// The network's owner has ordered this node to stop. Carry out all earlier outputs first.
    StopOrdered,
}

/// A broadcast that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BroadcastReceipt {
    /// The broadcast's id.
    pub id: Hash,
    /// The broadcast's time, in milliseconds since 1970.
    pub time: u64,
    /// The number of links that it was sent over.
    pub links: usize,
}

/// The reason why a dial has led to no link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The shell could not connect, for this reason.
    #[error("{0}")]
    Failed(String),
    /// This node has refused the link.
    #[error("{0}")]
    Unwanted(Reason),
    /// The other node has refused the connection.
    #[error("refused: {0}")]
    Refused(Reason),
    /// The handshake has taken too long.
    #[error("the handshake took too long")]
    Timeout,
    /// There is no address to dial.
    #[error("there is no address to dial")]
    NoAddress,
}

/// The reason why a join through a node with a link has failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The node did not grant this node a place.
    #[error("{} {}", by.short(), refusal(*outcome))]
    Refused {
        /// The node.
        by: NodeId,
        /// The node's answer.
        outcome: NeighbourOutcome,
    },
    /// The link ended before the node had answered.
    #[error("the link has ended")]
    LinkEnded,
}

fn refusal(outcome: NeighbourOutcome) -> &'static str {
    match outcome {
        NeighbourOutcome::Manual => "accepts no neighbours, as its links are made by hand",
        NeighbourOutcome::Full | NeighbourOutcome::Accepted => "has no free place",
    }
}

/// Something to send to a node, whether there is a link with it or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// A message of the application.
    Message(Message),
    /// A ping, which no application sees.
    Ping,
    /// A request. Over a link, the shell sends it and waits for the reply. If it is relayed, the reply comes
    /// as [`Output::Replied`].
    Request {
        /// The name of the handler that answers.
        name: String,
        /// The question.
        message: Message,
    },
    /// The reply to a request that came as [`Output::Request`]. It is always sealed: sent over the link with
    /// the node if there is one, or otherwise relayed. It never comes out as [`Output::Deliver`].
    Reply {
        /// The request's number.
        id: u64,
        /// The answer, or the reason why there is none.
        outcome: Result<Message, Refusal>,
    },
}

/// Size of a sealed request without its name and content, in bytes: 1 for the kind, 8 for the number, 2 for
/// the length of the name. A reply needs one byte less.
const REQUEST_HEAD: usize = 11;

impl Payload {
    /// Returns the number of bytes that count against the limit for relayed messages.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Ping => 0,
            Self::Message(message) => message.body().len(),
            Self::Request { name, message } => REQUEST_HEAD + name.len() + message.body().len(),
            Self::Reply { outcome: Ok(message), .. } => REQUEST_HEAD + message.body().len(),
            Self::Reply { .. } => REQUEST_HEAD,
        }
    }

    /// Returns the payload, but replaces a reply of more than `limit` bytes by a refusal. So the node that
    /// waits for the reply learns why there is none.
    pub(super) fn limited_to(self, limit: usize) -> Self {
        match self {
            Self::Reply { id, outcome: Ok(reply) } if REQUEST_HEAD + reply.body().len() > limit => {
                let len = reply.body().len();
                let why = format!(
                    "a reply of {len} bytes is over the limit of {limit} for relayed replies"
                );
                Self::Reply { id, outcome: Err(Refusal::Failed(why)) }
            }
            payload => payload,
        }
    }

    /// Returns the content of the letter that is sealed. If it is a request, its reply has to name `id`.
    pub(crate) fn letter_content(&self, id: u64) -> LetterContent {
        match self {
            Self::Ping => Message::bytes(Vec::new()).into(),
            Self::Message(message) => message.clone().into(),
            Self::Request { name, message } => {
                let body = PackedMessage::uncompressed(message.clone());
                LetterContent::Request { id, name: name.clone(), body }
            }
            Self::Reply { id, outcome } => {
                let outcome = outcome.clone().map(PackedMessage::uncompressed);
                LetterContent::Reply { id: *id, outcome }
            }
        }
    }
}

/// The reason why a payload did not reach a node without a link, or may not have reached it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// This node is stopping. The payload was not sent.
    #[error("the node is stopping")]
    Stopping,
    /// The recipient is this node. The payload was not sent.
    #[error("the recipient is this node itself")]
    Myself,
    /// The queue for the recipient is full. The payload was not sent.
    #[error("too many messages wait for that node")]
    Full,
    /// Messages wait for [`MAX_RECIPIENTS`](super::MAX_RECIPIENTS) other nodes. The payload was not sent.
    #[error("messages wait for too many nodes")]
    TooManyRecipients,
    /// No node of the network has a link with the recipient, and no known address leads to it. The payload
    /// was not sent.
    #[error("no node of the network knows where that node is")]
    NotFound,
    /// The recipient can't be dialled, and the payload is too large to be relayed. It was not sent.
    #[error("a message of {len} bytes is over the limit of {limit} for relayed messages")]
    TooLarge {
        /// Size of the payload, in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The payload could not be sealed. It was not sent.
    #[error(transparent)]
    Refused(RelaySendError),
    /// The payload was relayed, but no valid receipt came back.
    #[error(transparent)]
    Relay(RelayError),
}
