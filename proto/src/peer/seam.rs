//! The inputs and outputs of a peer's machine: the whole interface to a shell.

use std::time::Duration;

use crate::address::Address;
use crate::event::{Event, LinkEnd, Peer, Reason};
use crate::files::SharedFile;
use crate::frame::broadcast::Batch;
use crate::frame::membership::{NeighbourOutcome, Probe};
use crate::frame::query::{QueryAnswer, QueryId, QueryKind};
use crate::frame::{Frame, Refusal};
use crate::id::{Hash, Key, NodeId};
use crate::message::{Message, PackedMessage};
use crate::overlay::admission::Candidate;
use crate::overlay::broadcast::BroadcastError;
use crate::overlay::relay::{DirectError, RelayError};
use crate::seal::LetterContent;

/// The number of a connection, given by the shell in the order in which they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// The number of a dial, given by the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(pub(super) u64);

/// The number of something that the application has asked for and that has an outcome, given by the
/// shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// An input of the machine: something that has happened, or that the application wants.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input {
    /// Dials a node for the application. Ends with [`Output::DialEnded`].
    Dial {
        /// Names the dial in its outcome.
        operation: OperationId,
        /// The addresses of the node, best first. The overlay and events name the dial by the first.
        addresses: Vec<Address>,
        /// Keep the link to the first address: dial again whenever it is lost.
        keep: bool,
        /// The purpose of the link.
        purpose: Purpose,
    },
    /// A dial has a secured connection. The handshake has proven the identity at the other end.
    DialSecured {
        /// The dial.
        dial: DialId,
        /// The node that answered.
        id: NodeId,
    },
    /// The node that a dial has reached refused the connection in its answer to Hello.
    DialRefused {
        /// The dial.
        dial: DialId,
        /// The reason that it gave.
        reason: Reason,
    },
    /// A dial has failed before there was a link, for a reason that the shell knows.
    DialFailed {
        /// The dial.
        dial: DialId,
        /// The reason, in words.
        error: String,
    },
    /// The Hello of the other end has arrived, so the connection can be a link. Answered with
    /// [`Output::Admitted`] or [`Output::Refused`]. The answer may come later, if the connection
    /// replaces a link that has to end first.
    Greeted(Greeted),
    /// A frame came in over a connection.
    Frame(ConnectionId, Frame),
    /// Broadcasts came in over a connection while the application has no time for more. They are asked
    /// for again later.
    PostponeBroadcasts(ConnectionId, Batch),
    /// Nothing more can be sent over a connection: it is about to end.
    LinkClosing(ConnectionId),
    /// A connection is over.
    LinkDown {
        /// The connection.
        connection: ConnectionId,
        /// The reason, and which side ended it.
        link_end: LinkEnd,
    },
    /// The application knows that a link with this node has ended.
    LinkReported {
        /// The node.
        id: NodeId,
    },
    /// The answer to [`Output::MeasureUse`].
    LinkUse {
        /// The link.
        connection: ConnectionId,
        /// A number that grows with each message sent or received.
        count: u64,
        /// Something waits to be sent, or a reply is awaited.
        busy: bool,
    },
    /// Sends a broadcast. Answered with [`Output::Broadcast`].
    Broadcast {
        /// Names it in the outcome.
        operation: OperationId,
        /// Its title.
        title: String,
        /// Its content.
        message: Message,
    },
    /// Asks the network. Answers come as [`Output::Answered`], then [`Output::QueryEnded`]. A query beyond
    /// [`MAX_QUERIES`](super::MAX_QUERIES) ends at once, incomplete.
    Query {
        /// Names the query in its answers.
        operation: OperationId,
        /// The question.
        what: QueryKind,
        /// Number of hops; -1 for the whole network, 0 for no node.
        depth: i32,
        /// Ask only the neighbours, on behalf of this node itself and whatever the depth:
        /// their answers include what only this node may know.
        own: bool,
        /// Time to wait; `None` for the configured time.
        timeout: Option<Duration>,
    },
    /// Sends a message or ping to a node that there may be no link with. Answered with
    /// [`Output::Deliver`] or [`Output::Sent`].
    Send {
        /// Names it in the outcome.
        operation: OperationId,
        /// The recipient.
        to: NodeId,
        /// The message or ping.
        payload: Payload,
    },
    /// The application no longer waits for the reply to a relayed request.
    RequestEnded {
        /// The operation of the request.
        operation: OperationId,
    },
    /// The shell has carried out [`Output::Deliver`], with or without success. The next message may
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
        /// Addresses where this node has met it; may be empty.
        addresses: Vec<Address>,
    },
    /// A node without a link sent a probe. Answered with [`Output::ProbeAnswer`].
    ProbeReceived {
        /// Names it in the answer.
        operation: OperationId,
        /// The node, which its handshake has proven.
        from: NodeId,
        /// The probe.
        probe: Probe,
    },
    /// The outcome of [`Output::Probe`]: what the node answered, if it did.
    Probed {
        /// The node that was probed.
        id: NodeId,
        /// Its answer.
        answer: Option<Probe>,
    },
    /// A command of the application.
    Command(Command),
    /// The node is about to stop: it makes no more links, and broadcasts go out at once.
    Stopping,
    /// The node stops: it closes all links.
    Stop {
        /// Hand this node's place over to its neighbours first.
        hand_over: bool,
    },
}

/// A command of the application, or of the shell for it, that has no outcome of its own.
#[derive(Debug)]
#[non_exhaustive]
pub enum Command {
    /// Answers a query that [`Output::LookUpAnswer`] asked about.
    Answer {
        /// The query.
        query: QueryId,
        /// The files that were found.
        files: Vec<SharedFile>,
        /// QueryAnswer "here" as well: a call-back is under way.
        here: bool,
    },
    /// Stops keeping the link to an address; the link itself stays.
    StopReconnecting(Address),
    /// Closes the link with a node, which is not dialled again.
    Disconnect(NodeId),
    /// Sets this node's addresses, best first.
    Addresses(Vec<Address>),
    /// Keeps nodes away that an earlier run kept away, each for the rest of its time: see
    /// [`Overlay::kept_away`](crate::overlay::Overlay::kept_away). Comes before [`Command::Known`].
    KeepAway(Vec<(NodeId, Duration)>),
    /// Names nodes that were met in earlier runs, with their addresses. They are asked for a place when
    /// no other neighbour can be had.
    Known(Vec<(NodeId, Vec<Address>)>),
    /// Leaves the network: hands this node's place over and closes all links. It is a lone node then.
    Leave,
    /// Restores broadcasts of an earlier run that [`Output::Keep`] was put out for. They are passed on, and
    /// not delivered again.
    Restore(Vec<Batch>),
    /// Sets the owner of the network: what is signed with this key is obeyed.
    Owner(NodeId),
    /// Orders all nodes of the network to stop, signed with its owner's key.
    Shutdown(Key),
}

/// A connection on which both ends have said Hello.
#[derive(Debug)]
pub struct Greeted {
    /// The connection.
    pub connection: ConnectionId,
    /// The dial that made it; `None` if the other end dialled.
    pub dial: Option<DialId>,
    /// The other end, as the application sees it.
    pub peer: Peer,
    /// The other end, as admission sees it.
    pub candidate: Candidate,
    /// The other end's clock in milliseconds since 1970, from its Hello.
    pub unix: Option<u64>,
}

/// The purpose of a link, which decides about its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The application asked for the link: it is never traded for another.
    Application,
    /// The application joins the network through the node.
    Join,
    /// The application joins the network, and did not name this node. It is not dialled if it is kept
    /// away.
    Rejoin,
    /// The overlay dials again for a link that the application wants to keep.
    Reconnect,
    /// The overlay wants the link. A failure is no event.
    Overlay,
    /// A message is to be sent over the link, which closes once it is idle. A failure is no event.
    Message,
}

impl Purpose {
    /// Returns whether the application gets an event about a failure.
    #[must_use]
    pub fn is_reported(self) -> bool {
        !matches!(self, Self::Overlay | Self::Message)
    }
}

/// An output of the machine: something for the shell to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output {
    /// Connect to a node at the first of its addresses that answers, and secure the connection.
    /// Answered with [`Input::DialSecured`] or [`Input::DialFailed`].
    Dial {
        /// The dial.
        dial: DialId,
        /// The operation that asked for it; `None` if the overlay did.
        operation: Option<OperationId>,
        /// The addresses, best first; at least one.
        addresses: Vec<Address>,
        /// The purpose of the link.
        purpose: Purpose,
    },
    /// Say Hello on the connection of a dial. Answered with [`Input::Greeted`], [`Input::DialRefused`] or
    /// [`Input::DialFailed`].
    Greet(DialId),
    /// A dial has ended, or was not even begun because the node is stopping. A connection of it that was
    /// not admitted is to be closed.
    DialEnded {
        /// The dial.
        dial: DialId,
        /// The operation that asked for it; `None` if the overlay did.
        operation: Option<OperationId>,
        /// The node that there is a link with, or the reason why there is none.
        outcome: Result<NodeId, DialError>,
    },
    /// A connection is a link. Send the application its event.
    Admitted(ConnectionId),
    /// A connection is refused. Send the other end the reason, and close it.
    Refused(ConnectionId, Reason),
    /// This node is a member: this is its first neighbour.
    Joined(NodeId),
    /// A node through which this one was to join has decided, or the link with it has ended.
    JoinEnded {
        /// The operation of the dial.
        operation: OperationId,
        /// Success if this node is a member now.
        outcome: Result<(), JoinError>,
    },
    /// Send a frame over a link, ahead of the application's messages.
    Send {
        /// The link.
        connection: ConnectionId,
        /// The frame.
        frame: Frame,
    },
    /// Close a link with a goodbye, after the application had an event about it.
    CloseLink(ConnectionId, Reason),
    /// Close a link with a goodbye, after what is queued. Frames that still arrive are to be handed in.
    CloseReplacedLink(ConnectionId, Reason),
    /// Send the application an event.
    Event(Event),
    /// The outcome of [`Input::Broadcast`]. On an error nothing was sent.
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
        /// All nodes within its depth have answered.
        complete: bool,
    },
    /// Queue a message behind those of a link, or ping over the link. The shell reports the outcome.
    /// Answered with [`Input::Delivered`].
    Deliver {
        /// The operation.
        operation: OperationId,
        /// The link.
        connection: ConnectionId,
        /// The message or ping.
        payload: Payload,
    },
    /// The outcome of [`Input::Send`], if the message or ping did not go over a link.
    Sent {
        /// The operation.
        operation: OperationId,
        /// The time from sending it to the receipt of the recipient.
        outcome: Result<Duration, SendError>,
    },
    /// QueryAnswer a request that other nodes have relayed, with [`Input::Send`] and [`Payload::Reply`].
    Request {
        /// The node that asks.
        peer: Peer,
        /// Names the request in its reply.
        id: u64,
        /// The handler that is to answer.
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
    /// Look up the addresses at which this node has met another. Answered with [`Input::AddressesLookedUp`].
    LookUpAddresses(NodeId),
    /// Measure the use of an on-demand link. Answered with [`Input::LinkUse`].
    MeasureUse(ConnectionId),
    /// The answer to [`Input::ProbeReceived`].
    ProbeAnswer {
        /// The operation.
        operation: OperationId,
        /// The answer.
        answer: Probe,
    },
    /// Send a probe to a node on a stream of its own, without a link. Answered with [`Input::Probed`].
    Probe {
        /// Addresses of the node, best first, each with its identity.
        addresses: Vec<Address>,
        /// The node.
        id: NodeId,
        /// The probe.
        probe: Probe,
    },
    /// Look up the answer to a query. Answered with [`Command::Answer`].
    LookUpAnswer {
        /// The query.
        query: QueryId,
        /// The question: a search, a file, or a call-back to this node.
        what: QueryKind,
        /// The neighbour that asks, if it asks for itself. Else the asking node is not known.
        asker: Option<NodeId>,
    },
    /// Keep broadcasts where they outlive the node, for [`Command::Restore`].
    Keep(Batch),
    /// The network's owner has ordered this node to stop. Earlier outputs are to be carried out first.
    StopOrdered,
}

/// A broadcast that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BroadcastReceipt {
    /// The broadcast's id.
    pub id: Hash,
    /// Its time, in milliseconds since 1970.
    pub time: u64,
    /// The number of links that it was sent over.
    pub links: usize,
}

/// The reason why a dial made no link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The shell has failed, for this reason.
    #[error("{0}")]
    Failed(String),
    /// This node does not want the link.
    #[error("{0}")]
    Unwanted(Reason),
    /// The other node refused the connection.
    #[error("refused: {0}")]
    Refused(Reason),
    /// The handshake has taken too long.
    #[error("the handshake took too long")]
    Timeout,
    /// There is no address to dial.
    #[error("there is no address to dial")]
    NoAddress,
}

/// The reason why joining through a node that was reached has failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The node has no place for this one.
    #[error("{} says: {outcome:?}", by.short())]
    Refused {
        /// The node.
        by: NodeId,
        /// Its answer.
        outcome: NeighbourOutcome,
    },
    /// The link ended before the node had answered.
    #[error("the link has ended")]
    LinkEnded,
}

/// A message, ping, request or reply for a node that there may be no link with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// A message of the application.
    Message(Message),
    /// A ping, which no application sees.
    Ping,
    /// A request. Over a link it is the shell's to ask, and to wait for the reply; the reply to one that is
    /// relayed comes as [`Output::Replied`].
    Request {
        /// The handler that is to answer.
        name: String,
        /// The question.
        message: Message,
    },
    /// The reply to a request that has come as [`Output::Request`]. It is sealed and relayed, or sent over
    /// a link if there is one, but never handed to the shell for delivery.
    Reply {
        /// The request's number.
        id: u64,
        /// The answer, or the reason why there is none.
        outcome: Result<Message, Refusal>,
    },
}

/// Bytes of a sealed request before its content, without the name: 1 for the kind, 8 for the number, 2 for
/// the length of the name. A reply has one less.
const REQUEST_HEAD: usize = 11;

impl Payload {
    /// Returns the number of bytes that are sealed: of a message those of its content.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Ping => 0,
            Self::Message(message) => message.body().len(),
            Self::Request { name, message } => REQUEST_HEAD + name.len() + message.body().len(),
            Self::Reply { outcome: Ok(message), .. } => REQUEST_HEAD + message.body().len(),
            Self::Reply { .. } => REQUEST_HEAD,
        }
    }

    /// Returns the payload that is sent if at most `limit` bytes can be: a reply that is larger becomes a
    /// refusal, so that the node which waits for it learns why there is none.
    pub(super) fn limited_to(self, limit: usize) -> Self {
        match self {
            Self::Reply { id, outcome: Ok(reply) } if REQUEST_HEAD + reply.body().len() > limit => {
                let len = reply.body().len();
                let why = format!(
                    "a reply of {len} bytes is over the limit of {limit} for what other nodes relay"
                );
                Self::Reply { id, outcome: Err(Refusal::Failed(why)) }
            }
            payload => payload,
        }
    }

    /// Returns the content of a letter; that of a request has this number for its reply.
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

/// The reason why a message or ping to a node without a link did not arrive, or may not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// This node is stopping. It was not sent.
    #[error("the node is stopping")]
    Stopping,
    /// The recipient is this node. It was not sent.
    #[error("the recipient is this node itself")]
    Myself,
    /// Too much waits for the recipient. It was not sent.
    #[error("too many messages wait for that node")]
    Full,
    /// Messages wait for [`MAX_RECIPIENTS`](super::MAX_RECIPIENTS) other nodes: it was not sent.
    #[error("messages wait for too many nodes")]
    TooManyRecipients,
    /// No node of the network knows the recipient. It was not sent.
    #[error("no node of the network knows where that node is")]
    NotFound,
    /// The recipient can't be dialled, and the message is too large to be relayed: it was not sent.
    #[error("a message of {len} bytes is over the limit of {limit} for what other nodes relay")]
    TooLarge {
        /// Bytes of the content.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// It could not be sealed. It was not sent.
    #[error(transparent)]
    Refused(DirectError),
    /// It was lost on its way, or its receipt was.
    #[error(transparent)]
    Relay(RelayError),
}
