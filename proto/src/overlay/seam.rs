//! What goes into the overlay, and what comes out: all that a shell has to do with it.

use std::time::Duration;

use crate::address::Address;
use crate::event::{Event, Parting, Peer, Reason};
use crate::frame::Frame;
use crate::frame::broadcast::Batch;
use crate::frame::membership::{Outcome, Probe};
use crate::frame::query::{Answer, QueryId, What};
use crate::id::{Key, NodeId};
use crate::overlay::admission::Candidate;
use crate::overlay::direct::Missed;

/// What goes into the overlay.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input {
    /// A link is up: both sides have said Hello and admitted it.
    LinkUp {
        /// The other end.
        peer: Peer,
        /// As it was admitted.
        candidate: Candidate,
    },
    /// The clock at the other end of a link, in milliseconds since 1970: from its
    /// Hello.
    Time {
        /// The other end.
        id: NodeId,
        /// Its time.
        unix: u64,
    },
    /// A link has ended.
    LinkDown {
        /// With whom.
        id: NodeId,
        /// How.
        parting: Parting,
    },
    /// A dial of an address reached a node, to whom there is a link now.
    Dialled {
        /// The address.
        address: Address,
        /// Who answered.
        id: NodeId,
    },
    /// A dial failed.
    DialFailed {
        /// The address.
        address: Address,
        /// Why, in words.
        error: String,
    },
    /// A frame came in.
    Frame(NodeId, Frame),
    /// A frame that [`Output::Send`] put out was not sent, because the link's lane is crowded: so
    /// it may be with queries, broadcasts and messages between others, and with no other.
    PassedOver(NodeId, Frame),
    /// Broadcasts came in, and the application has no time for more: they are asked for again later.
    NoTime(NodeId, Batch),
    /// What came of [`Output::Probe`]: what the node answered, if it did.
    Probed {
        /// Who was probed.
        id: NodeId,
        /// Its answer.
        answer: Option<Probe>,
    },
    /// The application wants something.
    Command(Command),
}

/// The purpose of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialPurpose {
    /// A link that the application asked for, or a node to join through.
    Application,
    /// A link to send a message over, which closes once it is idle.
    Message,
    /// A link that the overlay wants, or a node to join through that the application did not name.
    Overlay,
}

/// What the application wants of the overlay.
#[derive(Debug)]
#[non_exhaustive]
pub enum Command {
    /// Ask the network. Ends with [`Output::Ended`].
    Query {
        /// Names it: see [`draw_query_id`](crate::overlay::Overlay::draw_query_id).
        id: QueryId,
        /// The question.
        what: What,
        /// Hops; -1 for the whole network, 0 for nobody.
        depth: i32,
        /// Whether to ask the neighbours alone, for this node itself, whatever the depth: they tell
        /// also what only this node may know of.
        own: bool,
        /// How long to wait; `None` for the configured time.
        timeout: Option<Duration>,
    },
    /// What this node has to say to a query that [`Output::Lookup`] asked about.
    Answer {
        /// The query.
        query: QueryId,
        /// Files to tell of.
        files: Vec<crate::files::SharedFile>,
        /// Whether to say "here" (to a call-back that is under way).
        here: bool,
    },
    /// Stay linked to an address from now on. It is being dialled already.
    Keep {
        /// The address.
        address: Address,
    },
    /// Give up staying linked to an address.
    StopReconnecting(Address),
    /// Close a link because the application asked for it; it is not dialled again.
    Disconnect(NodeId),
    /// This node's addresses, best first, have changed.
    Addresses(Vec<Address>),
    /// Become a member of the network of a node that there is a link with. Ends with
    /// [`Output::Joined`] or [`Output::JoinRefused`].
    Join(NodeId),
    /// Nodes that an earlier run kept away, with what is left of their time: see
    /// [`Overlay::kept_away`](crate::overlay::Overlay::kept_away). Comes before [`Command::Known`].
    KeepAway(Vec<(NodeId, Duration)>),
    /// Nodes met in earlier runs, with where they were: asked where no other neighbour can be had.
    Known(Vec<(NodeId, Vec<Address>)>),
    /// The application asked for this link: it is never traded, and stays until it is closed.
    Pin(NodeId),
    /// Leave the network: hands this node's place over and closes all links. It is a lone node then.
    Leave,
    /// Broadcasts of an earlier run that [`Output::Keep`] was put out for: they are had, and not
    /// delivered again.
    Restore(Vec<Batch>),
    /// What waits to be gathered with more goes out now: the node is about to stop.
    Flush,
    /// The network belongs to whoever has this key: obey what is signed with it.
    Owner(NodeId),
    /// Order all nodes of the network to stop, as its owner, who has this key.
    Shutdown(Key),
}

/// What comes out of the overlay.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output {
    /// Put a frame into a link's first lane.
    Send(NodeId, Frame),
    /// Dial a node; answer with [`Input::Dialled`] or [`Input::DialFailed`] for `address`.
    Dial {
        /// The address to try first.
        address: Address,
        /// More addresses of the same node, best first. They are tried beside the first one as soon
        /// as it fails or takes long, so that one dead address does not hold up the others.
        others: Vec<Address>,
        /// Whether nobody asked for it: then a failure is no event for the application.
        quiet: bool,
    },
    /// Tell a node this on a stream of its own, without a link, and answer with
    /// [`Input::Probed`].
    Probe {
        /// Where it may be, best first, each with its identity.
        addresses: Vec<Address>,
        /// Who it is.
        id: NodeId,
        /// What to tell.
        probe: Probe,
    },
    /// This node is a member: it has a first neighbour.
    Joined(NodeId),
    /// A node through which this one was to join will have none.
    JoinRefused(NodeId, Outcome),
    /// Keep broadcasts where they outlive the node, for [`Command::Restore`].
    Keep(Batch),
    /// The network's owner has ordered this node to stop. What was put out before goes out first.
    Stop,
    /// End a link.
    Hangup(NodeId, Reason),
    /// Tell the application.
    Event(Event),
    /// Look up what this node can say to a query and answer with [`Command::Answer`].
    Lookup {
        /// The query.
        query: QueryId,
        /// What is asked: a search, a file, or a call-back to this node.
        what: What,
        /// The neighbour that asks, where it asks for itself; else it is not known who does.
        asker: Option<NodeId>,
    },
    /// An answer to a query of ours.
    Answered {
        /// The answer.
        answer: Answer,
    },
    /// How it went with a message of ours that others were to pass on.
    Direct {
        /// The number that [`send_direct`](crate::overlay::Overlay::send_direct) gave it.
        number: u64,
        /// Whether the recipient has it.
        sent: Result<(), Missed>,
    },
    /// A query of ours has ended.
    Ended {
        /// The query.
        query: QueryId,
        /// Whether all nodes within its depth have answered.
        complete: bool,
    },
}
