//! What the actor is told, by the application and by the links.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::event::{NodeInfo, Parting, Peer, Reason};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::membership::Probe;
use peerkit_proto::frame::query::{Answer, What};
use peerkit_proto::handler::Action;
use peerkit_proto::id::{Key, NodeId};
use peerkit_proto::message::Message;
use peerkit_proto::overlay::broadcast::{self, BroadcastError};
use peerkit_proto::overlay::membership::Views;
use peerkit_proto::overlay::{ClockStatus, Command};
use peerkit_proto::peer::{BroadcastReceipt, DialId, JoinError, OperationId, Payload, Purpose};
use tokio::sync::{mpsc, oneshot};

use crate::conn::Conn;
use crate::direct::Sending;
use crate::error::Error;

/// Orders waiting for the actor.
pub(crate) const ORDERS: usize = 1024;

/// Longest queue of the handler's orders that wait for room among [`ORDERS`]. 8,192: one call of the
/// handler may well make that many, and small ones take a few MiB. What is over that fails, each with
/// its event.
pub(crate) const HANDLER_ORDERS: usize = 8192;

/// What links have told and the actor has not heard yet: a link that finds no room stops reading.
pub(crate) const FROM_LINKS: usize = 1024;

/// Answers that may wait for the one who asked; more than a network's nodes are never sent.
pub(crate) const ANSWERS: usize = 65_536;

/// What the actor is told to do.
pub(crate) enum Order {
    /// Link to a node at the first of its addresses that answers.
    Dial {
        /// The addresses, best first. An order without addresses fails.
        addresses: Vec<Address>,
        /// Keep the link to the first address from now on.
        keep: bool,
        purpose: Purpose,
        reply: oneshot::Sender<Result<Peer, Error>>,
        /// Gets the outcome of joining through the node, if that is the purpose.
        joined: Option<oneshot::Sender<Result<(), JoinError>>>,
    },
    /// A dial has secured a connection.
    DialSecured { dial: DialId, id: NodeId },
    /// The node that a dial has reached refuses it.
    DialRefused { dial: DialId, reason: Reason },
    /// A dial has failed.
    DialFailed { dial: DialId, error: String },
    /// Both ends of a connection have said Hello: may it be a link?
    Greeted {
        conn: Arc<Conn>,
        /// The dial that made it.
        dial: Option<DialId>,
        reply: oneshot::Sender<Result<(), Reason>>,
    },
    /// The nodes that are kept away because this node's application has disconnected them.
    KeptAway(oneshot::Sender<BTreeSet<NodeId>>),
    /// Leave the network; told with whom there were links.
    Leave(oneshot::Sender<Vec<Peer>>),
    /// What came of telling a node something without a link.
    Probed { id: NodeId, answer: Option<Probe> },
    /// What this node answers to a node that does so.
    Answering { from: NodeId, probe: Probe, reply: oneshot::Sender<Probe> },
    /// Order all nodes of the network to stop; told once that is on its way.
    ShutdownNetwork { key: Key, reply: oneshot::Sender<()> },
    /// How the overlay is.
    Standing(oneshot::Sender<Standing>),
    /// Close a link.
    Disconnect { id: NodeId, reply: Option<oneshot::Sender<Result<Peer, Error>>> },
    /// Give up keeping a link.
    StopReconnecting(Address),
    /// The first of the handler's broadcasts that wait for their limit may go out.
    BroadcastAllowed,
    /// Tell the whole network.
    Broadcast {
        title: String,
        message: Message,
        reply: oneshot::Sender<Result<BroadcastReceipt, BroadcastError>>,
    },
    /// Ask the network, or the neighbours alone for this node itself.
    Ask { what: What, depth: i32, own: bool, timeout: Option<Duration>, asked: Asked },
    /// Send a message or ping to a node without a link.
    Send(Sending, Payload),
    /// Send a message of the handler to a node without a link.
    SendForHandler(Peer, Message),
    /// A message was handed to the queue of its link, or could not be.
    Delivered { to: NodeId, operation: OperationId },
    /// Addresses where this node has met another.
    MetAt { id: NodeId, addresses: Vec<Address> },
    /// Carry out what the handler asked for; the result comes as an event.
    Act(Action),
    /// What this node has to say to a query.
    Answer(Command),
    /// This node as a discovery shows it.
    Info(oneshot::Sender<NodeInfo>),
    /// This node's addresses have changed.
    AddressesChanged,
}

/// How the overlay is, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    pub(crate) views: Views,
    pub(crate) broadcasts: broadcast::Counters,
    /// Queries that it remembers.
    pub(crate) queries: usize,
    /// Answers that came to queries which this node had not sent.
    pub(crate) stray_answers: u64,
    pub(crate) clock: ClockStatus,
}

/// Where the answers to a query go, and whether all have come.
pub(crate) struct Asked {
    pub(crate) answers: mpsc::Sender<Answer>,
    pub(crate) ended: oneshot::Sender<bool>,
    /// An answer found no room: then not all have come, whatever the network says.
    pub(crate) lost: bool,
}

/// What links tell the actor.
#[derive(Debug)]
pub(crate) enum FromLink {
    /// Frames for the overlay.
    Frames(Arc<Conn>, Vec<Frame>),
    /// The link has ended; told once it is off the list.
    Down(Arc<Conn>, Parting, oneshot::Sender<()>),
    /// The application has heard of its end.
    Done(Arc<Conn>),
}
