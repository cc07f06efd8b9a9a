//! The mailbox of the actor: the orders of the node's tasks, and the reports of its links.

use std::sync::Arc;

use peerkit_proto::event::{LinkEnd, Peer, Reason};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::membership::Probe;
use peerkit_proto::frame::query::QueryAnswer;
use peerkit_proto::handler::Action;
use peerkit_proto::overlay::broadcast::BroadcastCounters;
use peerkit_proto::overlay::membership::Views;
use peerkit_proto::overlay::reach::ReachStatus;
use peerkit_proto::overlay::{BudgetDrops, ClockStatus, QueryDrops};
use peerkit_proto::peer::{BroadcastReceipt, DialId, Input, JoinError, Machine, OperationId};
use tokio::sync::{mpsc, oneshot};

use super::Actor;
use crate::conn::Conn;
use crate::error::Error;
use crate::inner::Inner;
use crate::unlinked::{PendingSend, RequestRoute};

/// Maximum number of orders that wait for the actor.
pub(crate) const MAX_ORDERS: usize = 1024;

/// Maximum number of the handler's actions that wait for room among the orders. 8,192: one call of the
/// handler may request that many, and small ones take a few MiB. Each further action fails, with an event.
pub(crate) const MAX_WAITING_ACTIONS: usize = 8192;

/// Maximum number of link reports that wait for the actor. A link that finds no room stops reading.
pub(crate) const MAX_LINK_REPORTS: usize = 1024;

/// Maximum number of answers that wait for the task that sent the query. 65,536: more than a network has
/// nodes.
pub(crate) const MAX_ANSWERS: usize = 65_536;

/// Maximum number of operations under way. 65,536: no sensible application waits for that many at the same
/// time.
pub(super) const MAX_OPERATIONS: usize = 65_536;

/// An order for the actor.
pub(crate) enum Order {
    /// An input of the machine.
    Input(Box<Input>),
    /// An operation, and the input of the machine that begins it.
    Begin(Operation, Box<dyn FnOnce(OperationId) -> Input + Send>),
    /// A connection on which the peer's Hello has arrived, to be admitted or refused.
    Greeted {
        conn: Arc<Conn>,
        /// The dial that made it.
        dial: Option<DialId>,
        reply: oneshot::Sender<Result<(), Reason>>,
    },
    /// An action of the handler. Its result comes as an event.
    Act(Action),
    /// The rate limit allows the first of the handler's broadcasts that wait for it.
    BroadcastAllowed,
    /// A function that the actor runs.
    Call(Box<dyn FnOnce(&mut Actor) + Send>),
}

/// An operation under way, with the receiver of its outcome.
pub(crate) enum Operation {
    Dial {
        reply: oneshot::Sender<Result<Peer, Error>>,
        /// Gets the outcome of the join, if the dial is for a join through the node.
        joined: Option<oneshot::Sender<Result<(), JoinError>>>,
    },
    Join(oneshot::Sender<Result<(), JoinError>>),
    Query(QueryReply),
    Send(PendingSend),
    /// A relayed request that has arrived, and waits for its reply.
    Reply(oneshot::Sender<Result<RequestRoute, Error>>),
    Probe(oneshot::Sender<Probe>),
    /// A stream of a node whose membership is checked.
    StreamCheck(oneshot::Sender<Result<(), Reason>>),
    Broadcast(Publisher),
}

/// The publisher of a broadcast, which gets the outcome.
pub(crate) enum Publisher {
    /// A task that waits for the outcome.
    Caller(oneshot::Sender<Result<BroadcastReceipt, Error>>),
    /// The handler. If the broadcast fails, the handler gets an event with this title.
    Handler(String),
}

/// The receivers of the answers to a query and of its end.
pub(crate) struct QueryReply {
    pub(crate) answers: mpsc::Sender<QueryAnswer>,
    /// Gets whether all nodes have answered.
    pub(crate) ended: oneshot::Sender<bool>,
    /// An answer found no room in the channel, so the answers are not complete.
    pub(crate) lost: bool,
}

/// The senders of the actor's two queues. The actor closes the queues only when the node stops.
#[derive(Clone)]
pub(crate) struct Mailbox {
    // Two queues, so that there is room for orders even if the links have filled their queue.
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) link_reports: mpsc::Sender<LinkReport>,
}

impl Mailbox {
    /// Hands the actor an order.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub(crate) async fn send(&self, order: Order) -> Result<(), Error> {
        self.orders.send(order).await.map_err(|_| Error::Stopped)
    }

    /// Hands the machine an input.
    pub(crate) async fn input(&self, input: Input) {
        let _ = self.send(Order::Input(Box::new(input))).await;
    }

    /// Begins an operation with an input of the machine.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub(crate) async fn begin(
        &self,
        operation: Operation,
        input: impl FnOnce(OperationId) -> Input + Send + 'static,
    ) -> Result<(), Error> {
        self.send(Order::Begin(operation, Box::new(input))).await
    }

    /// Begins an operation, and returns its outcome.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub(crate) async fn outcome<T>(
        &self,
        operation: impl FnOnce(oneshot::Sender<T>) -> Operation + Send,
        input: impl FnOnce(OperationId) -> Input + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, outcome) = oneshot::channel();
        self.begin(operation(reply), input).await?;
        outcome.await.map_err(|_| Error::Stopped)
    }

    /// Runs a function on the actor's task, after the orders before it, and returns its result.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Actor) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, result) = oneshot::channel();
        let call = move |actor: &mut Actor| drop(reply.send(act(actor)));
        self.send(Order::Call(Box::new(call))).await?;
        result.await.map_err(|_| Error::Stopped)
    }
}

impl Mailbox {
    /// Sends a link's report to the actor, once there is room for it.
    pub(crate) async fn report(&self, report: LinkReport) {
        let _ = self.link_reports.send(report).await;
    }

    /// Reports the end of a link. Returns once the actor has removed the link.
    pub(crate) async fn link_down(&self, conn: &Arc<Conn>, link_end: LinkEnd) {
        let (done, removed) = oneshot::channel();
        self.report(LinkReport::Ended(conn.clone(), link_end, done)).await;
        // After an error the actor is gone, and all links with it.
        let _ = removed.await;
    }
}

impl Operation {
    /// Reports that the operation was not begun, because too many operations are under way. A query or probe
    /// without an outcome counts as one that no node has answered.
    pub(super) fn refuse(self, inner: &Inner) {
        let error = Error::TooManyActions(MAX_OPERATIONS);
        match self {
            Self::Dial { reply, .. } => drop(reply.send(Err(error))),
            Self::Send(sending) => sending.end(inner, Err(error)),
            Self::Broadcast(publisher) => publisher.report(inner, Err(error)),
            // Dropping their senders ends the wait for the outcome.
            Self::Join(_)
            | Self::Query(_)
            | Self::Reply(_)
            | Self::Probe(_)
            | Self::StreamCheck(_) => {}
        }
    }
}

/// The state of the overlay at one moment.
#[derive(Debug, Default)]
pub(crate) struct OverlayStatus {
    pub(crate) views: Views,
    pub(crate) broadcasts: BroadcastCounters,
    /// Number of queries that the overlay remembers.
    pub(crate) queries: usize,
    /// Number of received answers to queries that this node never sent.
    pub(crate) stray_answers: u64,
    /// Numbers of queries and answers that were dropped.
    pub(crate) query_drops: QueryDrops,
    /// Amounts of work that were refused because the budget of a link was spent.
    pub(crate) budget_drops: BudgetDrops,
    /// Number of frames that were not sent because their link was crowded.
    pub(crate) skipped_frames: u64,
    pub(crate) clock: ClockStatus,
    pub(crate) reach: ReachStatus,
}

impl OverlayStatus {
    pub(crate) fn of(machine: &Machine) -> Self {
        let overlay = machine.overlay();
        Self {
            views: overlay.views(),
            broadcasts: overlay.broadcast_counters(),
            queries: overlay.queries(),
            stray_answers: overlay.stray_answers(),
            query_drops: overlay.query_drops(),
            budget_drops: overlay.budget_drops(),
            skipped_frames: machine.skipped_frames(),
            clock: overlay.clock_status(),
            reach: overlay.reach(),
        }
    }
}

/// A report of a link to the actor.
#[derive(Debug)]
pub(crate) enum LinkReport {
    /// Frames for the overlay.
    Frames(Arc<Conn>, Vec<Frame>),
    /// The link has ended. The actor answers once it has removed the link.
    Ended(Arc<Conn>, LinkEnd, oneshot::Sender<()>),
    /// The application has received the event about the end of the link.
    EndReported(Arc<Conn>),
}
