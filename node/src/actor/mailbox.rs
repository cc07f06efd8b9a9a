//! The mailbox of the actor: what the node's tasks and its links hand it.

use std::sync::Arc;

use peerkit_proto::event::{LinkEnd, Peer, Reason};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::membership::Probe;
use peerkit_proto::frame::query::QueryAnswer;
use peerkit_proto::handler::Action;
use peerkit_proto::overlay::broadcast::BroadcastCounters;
use peerkit_proto::overlay::membership::Views;
use peerkit_proto::overlay::{ClockStatus, Overlay};
use peerkit_proto::peer::{BroadcastReceipt, DialId, Input, JoinError, OperationId};
use tokio::sync::{mpsc, oneshot};

use super::Actor;
use crate::conn::Conn;
use crate::direct::{PendingSend, RequestRoute};
use crate::error::Error;
use crate::inner::Inner;

/// Orders waiting for the actor.
pub(crate) const MAX_ORDERS: usize = 1024;

/// Longest queue of the handler's actions that wait for room among [`MAX_ORDERS`]. 8,192: one call of the
/// handler may well make that many, and small ones take a few MiB. What is over that fails, each with
/// its event.
pub(crate) const MAX_WAITING_ACTIONS: usize = 8192;

/// Most inputs of links that wait for the actor. A link that finds no room stops reading.
pub(crate) const MAX_LINK_REPORTS: usize = 1024;

/// Most answers that wait for the task that asked. A network has no more nodes.
pub(crate) const MAX_ANSWERS: usize = 65_536;

/// Most operations under way. 65,536: more than tasks that wait for one, in any sane application.
pub(super) const MAX_OPERATIONS: usize = 65_536;

/// An order for the actor.
pub(crate) enum Order {
    /// An input of the machine.
    Input(Box<Input>),
    /// An operation, and the input of the machine that begins it.
    Begin(Operation, Box<dyn FnOnce(OperationId) -> Input + Send>),
    /// A connection on which both ends have said Hello, to be admitted or refused.
    Greeted {
        conn: Arc<Conn>,
        /// The dial that made it.
        dial: Option<DialId>,
        reply: oneshot::Sender<Result<(), Reason>>,
    },
    /// An action of the handler. Its result comes as an event.
    Act(Action),
    /// The first of the handler's broadcasts that wait for their limit may go out.
    BroadcastAllowed,
    /// A function that the actor runs.
    Call(Box<dyn FnOnce(&mut Actor) + Send>),
}

/// An operation under way: where its outcome goes.
pub(crate) enum Operation {
    Dial {
        reply: oneshot::Sender<Result<Peer, Error>>,
        /// Gets the outcome of joining through the node, if that is the purpose.
        joined: Option<oneshot::Sender<Result<(), JoinError>>>,
    },
    Join(oneshot::Sender<Result<(), JoinError>>),
    Query(QueryReply),
    Send(PendingSend),
    /// A relayed request that has arrived, and waits for its reply.
    Reply(oneshot::Sender<Result<RequestRoute, Error>>),
    Probe(oneshot::Sender<Probe>),
    Broadcast(Publisher),
}

/// The destination of a broadcast's outcome.
pub(crate) enum Publisher {
    /// The task that waits for it.
    Caller(oneshot::Sender<Result<BroadcastReceipt, Error>>),
    /// The handler, which gets an event with this title if it failed.
    Handler(String),
}

/// The destination of the answers to a query, and of its end.
pub(crate) struct QueryReply {
    pub(crate) answers: mpsc::Sender<QueryAnswer>,
    /// Gets whether all nodes have answered.
    pub(crate) ended: oneshot::Sender<bool>,
    /// An answer found no room: then not all have come, whatever the network says.
    pub(crate) lost: bool,
}

/// A way to hand the actor orders, and what links have for it. The actor is gone only once the node has
/// stopped.
#[derive(Clone)]
pub(crate) struct Mailbox {
    // Two queues, so that links that have filled theirs leave room for orders.
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
    /// Passes on what a link has for the actor, once there is room for it.
    pub(crate) async fn report(&self, report: LinkReport) {
        let _ = self.link_reports.send(report).await;
    }

    /// Reports the end of a link. Returns once it is no longer among the links.
    pub(crate) async fn link_down(&self, conn: &Arc<Conn>, link_end: LinkEnd) {
        let (done, removed) = oneshot::channel();
        self.report(LinkReport::Ended(conn.clone(), link_end, done)).await;
        // An error means that the actor is gone, and all links with it.
        let _ = removed.await;
    }
}

impl Operation {
    /// Reports that the operation was not begun, because there are too many. A query or a probe without
    /// an outcome counts as one that no node has answered.
    pub(super) fn refuse(self, inner: &Inner) {
        let error = Error::TooManyActions(MAX_OPERATIONS);
        match self {
            Self::Dial { reply, .. } => drop(reply.send(Err(error))),
            Self::Send(sending) => sending.end(inner, Err(error)),
            Self::Broadcast(publisher) => publisher.report(inner, Err(error)),
            // Their senders are dropped here, which ends the wait for them.
            Self::Join(_) | Self::Query(_) | Self::Reply(_) | Self::Probe(_) => {}
        }
    }
}

/// The state of the overlay at one moment.
#[derive(Debug, Default)]
pub(crate) struct OverlayStatus {
    pub(crate) views: Views,
    pub(crate) broadcasts: BroadcastCounters,
    /// Number of queries that it remembers.
    pub(crate) queries: usize,
    /// Number of answers that came to queries which this node had not sent.
    pub(crate) stray_answers: u64,
    pub(crate) clock: ClockStatus,
}

impl OverlayStatus {
    pub(crate) fn of(overlay: &Overlay) -> Self {
        Self {
            views: overlay.views(),
            broadcasts: overlay.broadcast_counters(),
            queries: overlay.queries(),
            stray_answers: overlay.stray_answers(),
            clock: overlay.clock_status(),
        }
    }
}

/// Something that a link hands the actor.
#[derive(Debug)]
pub(crate) enum LinkReport {
    /// Frames for the overlay.
    Frames(Arc<Conn>, Vec<Frame>),
    /// The end of the link. The sender is notified once it is off the list.
    Ended(Arc<Conn>, LinkEnd, oneshot::Sender<()>),
    /// The application knows of its end.
    EndReported(Arc<Conn>),
}
