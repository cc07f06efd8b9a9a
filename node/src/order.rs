//! What the actor is told, by the application and by the links.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::event::{NodeInfo, Parting, Peer, Reason};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::membership::{Outcome, Probe};
use peerkit_proto::frame::query::{Answer, QueryId, What};
use peerkit_proto::handler::Action;
use peerkit_proto::id::{Hash, Key, NodeId};
use peerkit_proto::message::Message;
use peerkit_proto::overlay::broadcast::{self, BroadcastError};
use peerkit_proto::overlay::membership::Views;
use peerkit_proto::overlay::{ClockStatus, Command, DialPurpose};
use tokio::sync::{mpsc, oneshot};

use crate::conn::Conn;
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

/// A broadcast's id, its time in milliseconds since 1970, and the number of links that took it.
pub(crate) type Published = (Hash, u64, usize);

/// What the actor is told to do.
pub(crate) enum Order {
    /// A dial has reached a node: may it say Hello?
    Greet { id: NodeId, purpose: DialPurpose, reply: oneshot::Sender<Result<(), Reason>> },
    /// That dial has come to nothing.
    Greeted(NodeId),
    /// A connection has said Hello: may it be a link?
    Admit { conn: Arc<Conn>, reply: oneshot::Sender<Result<(), Reason>> },
    /// A dial has made a link, or found one.
    Dialled { address: Address, id: NodeId, wanted: Wanted },
    /// A dial has failed.
    DialFailed { address: Address, error: String },
    /// Link to a node at one of its addresses, and keep the link to the first if so wished.
    Connect {
        address: Address,
        /// More addresses of the same node, best first.
        others: Vec<Address>,
        reconnect: bool,
        wanted: Wanted,
        reply: oneshot::Sender<Result<Peer, Error>>,
    },
    /// Become a member through a node that there is a link with: told once this node is one, or why
    /// that node will not have it.
    Join { id: NodeId, reply: oneshot::Sender<Outcome> },
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
        reply: oneshot::Sender<Result<Published, BroadcastError>>,
    },
    /// Ask the network, or the neighbours alone for this node itself.
    Ask { what: What, depth: i32, own: bool, timeout: Option<Duration>, asked: Asked },
    /// Send a message to a node without a link.
    SendDirectly(Peer, Message),
    /// Carry out what the handler asked for; the result comes as an event.
    Act(Action),
    /// Have others pass a message on, along the way that a query found.
    PassOn {
        query: QueryId,
        to: NodeId,
        message: Message,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    /// Have others pass a ping on, along the way that a query found.
    PassPing { query: QueryId, to: NodeId, reply: oneshot::Sender<Result<(), Error>> },
    /// A link that was made to send a message is idle.
    ErrandDone(Arc<Conn>),
    /// What this node has to say to a query.
    Answer(Command),
    /// This node as a discovery shows it.
    Info(oneshot::Sender<NodeInfo>),
    /// This node's addresses have changed.
    AddressesChanged,
}

/// Who wants a link, and so what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The application asked for it: it is never traded for another.
    ByHand,
    /// The application would join a network through it.
    ToJoin,
    /// The application would join a network, and did not name this node: one that is kept away is
    /// left alone.
    ToRejoin,
    /// The overlay, of itself: nobody is told that it failed.
    Quietly,
}

impl Wanted {
    /// Returns the purpose of the dial in the overlay's terms.
    pub(crate) fn purpose(self) -> DialPurpose {
        match self {
            Self::ByHand | Self::ToJoin => DialPurpose::Application,
            Self::ToRejoin | Self::Quietly => DialPurpose::Overlay,
        }
    }
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
