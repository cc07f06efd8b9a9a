//! The one task that owns the node's state machine: hands it what happens and carries out what it says.
//!
//! It never waits for a peer or for the application: frames go into a link's first lane or end the
//! link, events go into a bounded queue, dials and look-ups are tasks of their own.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::event::{Event, Parting, Peer, Reason};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::broadcast::Batch;
use peerkit_proto::frame::membership::Probe;
use peerkit_proto::handler::Action;
use peerkit_proto::id::NodeId;
use peerkit_proto::message::Message;
use peerkit_proto::overlay::Command;
use peerkit_proto::peer::{
    ConnectionId, DialId, Greeted, Input, JoinError, Machine, OperationId, Payload, Purpose,
};
use peerkit_proto::time::{Instant, Now};
use tokio::sync::{mpsc, oneshot};

use crate::blocking;
use crate::clock::unix_millis;
use crate::conn::Conn;
use crate::dial::Ended;
use crate::direct::{Sending, SentBy};
use crate::error::Error;
use crate::inner::Inner;
use crate::order::{Asked, FROM_LINKS, FromLink, Order, Standing};
use crate::trace;

mod carry_out;
mod publish;

use publish::Publisher;

/// After the links' time to flush, the longest that the rest may take to end.
const HALT: Duration = Duration::from_secs(2);

/// Interval between warnings that broadcasts are dropped for their time.
const WARN_EVERY: Duration = Duration::from_secs(60);

pub(crate) struct Actor {
    inner: Arc<Inner>,
    machine: Machine,
    orders: mpsc::Receiver<Order>,
    from_links: mpsc::Receiver<FromLink>,
    /// The connections that are links.
    links: HashMap<ConnectionId, Arc<Conn>>,
    /// Connections that have said Hello and wait to be admitted.
    admitting: HashMap<ConnectionId, Admitting>,
    /// The tasks of dials.
    dials: HashMap<DialId, DialTask>,
    /// Operations under way, and where their outcomes go.
    operations: HashMap<OperationId, Operation>,
    last_operation: u64,
    /// Inputs that follow from outputs. Empty between two inputs.
    undone: Vec<Input>,
    /// How many changes of the nodes that are kept away were written.
    away_saved: u64,
    /// Broadcasts of the handler that wait for their limit, oldest first.
    limited: VecDeque<(String, Message)>,
    /// When it was last said that a broadcast was dropped for its time.
    warned_at: Option<Instant>,
    /// The network's owner has ordered all nodes to stop.
    ordered: bool,
}

type Admitting = (Arc<Conn>, oneshot::Sender<Result<(), Reason>>);

/// The task of a dial, as the actor sees it.
struct DialTask {
    purpose: Purpose,
    /// Lets it say Hello, once.
    greets: Option<oneshot::Sender<()>>,
    ended: oneshot::Sender<Ended>,
}

/// An operation under way, with where its outcome goes.
enum Operation {
    Dial {
        reply: oneshot::Sender<Result<Peer, Error>>,
        joined: Option<oneshot::Sender<Result<(), JoinError>>>,
    },
    Join(oneshot::Sender<Result<(), JoinError>>),
    Query(Asked),
    Send(Sending),
    Probe(oneshot::Sender<Probe>),
    Broadcast(Publisher),
}

/// What is left of earlier runs.
pub(crate) struct Earlier {
    /// Nodes that are to stay away, and for how long.
    pub(crate) away: Vec<(NodeId, Duration)>,
    /// Nodes that were met, and where.
    pub(crate) known: Vec<(NodeId, Vec<Address>)>,
    /// Broadcasts that can still be had.
    pub(crate) kept: Vec<Batch>,
}

impl Actor {
    pub(crate) fn new(
        inner: Arc<Inner>,
        machine: Machine,
        orders: mpsc::Receiver<Order>,
        from_links: mpsc::Receiver<FromLink>,
    ) -> Self {
        Self {
            inner,
            machine,
            orders,
            from_links,
            links: HashMap::new(),
            admitting: HashMap::new(),
            dials: HashMap::new(),
            operations: HashMap::new(),
            last_operation: 0,
            undone: Vec::new(),
            away_saved: 0,
            limited: VecDeque::new(),
            warned_at: None,
            ordered: false,
        }
    }

    /// Runs until the node is to stop, then stops it.
    pub(crate) async fn run(mut self, earlier: Earlier) {
        if let Some(owner) = self.inner.owner() {
            self.command(Command::Owner(owner));
        }
        self.command(Command::KeepAway(earlier.away));
        self.away_saved = self.machine.overlay().away_changes();
        self.command(Command::Known(earlier.known));
        self.command(Command::Restore(earlier.kept));
        self.addresses_changed();
        loop {
            tokio::select! {
                biased;
                () = self.inner.stop.cancelled() => break,
                () = self.inner.sleep_until(self.machine.poll_timeout()) => {
                    self.machine.handle_timeout(now(&self.inner));
                    self.drain();
                }
                Some(order) = self.orders.recv() => {
                    self.hear_links();
                    self.on_order(order);
                    self.save_away();
                }
                Some(told) = self.from_links.recv() => self.on_link(told),
            }
        }
        self.stop().await;
    }

    /// Says goodbye to all, gives what is queued time to go out, and ends every task.
    async fn stop(mut self) {
        let inner = self.inner.clone();
        let flush = inner.config.flush_timeout;
        tracing::info!(target: "peerkit::node", id = %inner.id.short(), "stopping");
        if self.ordered {
            // The application hears why before it hears that.
            let _ = tokio::time::timeout(HALT, inner.dispatch.settle()).await;
        }
        // What the application says now still goes out.
        let _ = tokio::time::timeout(flush, inner.tell(Event::NodeRequestToStop)).await;
        self.input(Input::Stopping);
        for order in inner.take_orders(&mut self.orders) {
            self.on_order(order);
        }
        self.save_away();
        self.publish_limited();
        let hand_over = self.machine.overlay().views().member && !self.ordered;
        self.input(Input::Stop { hand_over });
        // The links have their own deadline; a little more lets them tell how they ended.
        inner.running.close();
        let running = inner.running.clone();
        let ended = tokio::time::timeout(flush + HALT, running.wait());
        let mut ended = std::pin::pin!(ended);
        loop {
            tokio::select! {
                _ = &mut ended => break,
                Some(told) = self.from_links.recv() => self.on_link(told),
                Some(order) = self.orders.recv() => self.on_order(order),
            }
        }
        self.hear_links();
        let kept = inner.kept.clone();
        let writing = tokio::spawn(blocking::run(move || kept.write()));
        let settling = async { tokio::join!(inner.dispatch.settle(), writing) };
        let _ = tokio::time::timeout(HALT, settling).await;
        inner.halt.call();
        self.orders.close();
        self.from_links.close();
        drop(self);
        inner.tracker.close();
        let ended = async { tokio::join!(inner.tracker.wait(), inner.files.shares.settle()) };
        let _ = tokio::time::timeout(HALT, ended).await;
        inner.end();
        // The application may keep its handle for long, or end the process with it.
        let store = inner.store.clone();
        let _ = tokio::spawn(blocking::run(move || store.finish())).await;
        // Nothing of the node is held here any more once others hear that it has stopped.
        let stopped = inner.stopped.clone();
        tracing::info!(target: "peerkit::node", id = %inner.id.short(), "stopped");
        drop(inner);
        stopped.cancel();
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Dial { addresses, keep, purpose, reply, joined } => {
                let mut others = addresses;
                if others.is_empty() {
                    return drop(reply.send(Err(Error::NoBootstrap)));
                }
                let address = others.remove(0);
                let operation = self.begin(Operation::Dial { reply, joined });
                self.input(Input::Dial { operation, address, others, keep, purpose });
            }
            Order::DialSecured { dial, id } => {
                self.note_closing(id);
                self.input(Input::DialSecured { dial, id });
            }
            Order::DialRefused { dial, reason } => self.input(Input::DialRefused { dial, reason }),
            Order::DialFailed { dial, error } => self.input(Input::DialFailed { dial, error }),
            Order::Greeted { conn, dial, reply } => self.greeted(conn, dial, reply),
            Order::KeptAway(reply) => {
                let kept = self.machine.overlay().kept_away(self.inner.now());
                let _ = reply.send(kept.map(|(id, _)| id).collect());
            }
            Order::Leave(reply) => {
                let conns = self.inner.all_conns();
                let peers = conns.iter().map(|conn| conn.peer.clone()).collect();
                self.command(Command::Leave);
                let _ = reply.send(peers);
            }
            Order::Probed { id, answer } => self.input(Input::Probed { id, answer }),
            Order::Answering { from, probe, reply } => {
                let operation = self.begin(Operation::Probe(reply));
                self.input(Input::ProbeReceived { operation, from, probe });
            }
            Order::ShutdownNetwork { key, reply } => {
                self.command(Command::Shutdown(key));
                let _ = reply.send(());
            }
            Order::Standing(reply) => {
                let overlay = self.machine.overlay();
                let _ = reply.send(Standing {
                    views: overlay.views(),
                    broadcasts: overlay.broadcast_counters(),
                    queries: overlay.queries(),
                    stray_answers: overlay.stray_answers(),
                    clock: overlay.clock_status(),
                });
            }
            Order::Disconnect { id, reply } => {
                let found = self.inner.conn(id).map(|conn| conn.peer.clone());
                self.command(Command::Disconnect(id));
                if let Some(reply) = reply {
                    let _ = reply.send(found);
                }
            }
            Order::StopReconnecting(address) => self.command(Command::StopReconnecting(address)),
            Order::Broadcast { title, message, reply } => {
                self.publish(title, message, Publisher::Caller(reply));
            }
            Order::BroadcastAllowed => self.broadcast_allowed(),
            Order::Ask { what, depth, own, timeout, asked } => {
                let operation = self.begin(Operation::Query(asked));
                self.input(Input::Query { operation, what, depth, own, timeout });
            }
            Order::Send(sending, payload) => self.send(sending, payload),
            Order::SendForHandler(peer, message) => {
                let checked = self.inner.check_size(message.body());
                let sending = Sending { to: peer.id(), sender: SentBy::Handler(peer) };
                match checked {
                    Ok(()) => self.send(sending, Payload::Message(message)),
                    Err(error) => sending.end(&self.inner, Err(error)),
                }
            }
            Order::Delivered { to, operation } => self.input(Input::Delivered { to, operation }),
            Order::MetAt { id, addresses } => self.input(Input::MetAt { id, addresses }),
            Order::Act(action) => self.act(action),
            Order::Answer(command) => self.command(command),
            Order::Info(reply) => drop(reply.send(self.machine.overlay().info())),
            Order::AddressesChanged => self.addresses_changed(),
        }
    }

    /// Carries out an action of the handler.
    fn act(&mut self, action: Action) {
        match action {
            Action::Broadcast(title, message) => self.publish_in_turn(title, message),
            Action::Connect(..) => {
                let Some(reply) = self.inner.report_connect(&action) else { return };
                // Begun at once: the handler's next action may be about this link.
                if let Action::Connect(_, address, keep) = action {
                    let (addresses, purpose) = (vec![address], Purpose::Application);
                    self.on_order(Order::Dial { addresses, keep, purpose, reply, joined: None });
                }
            }
            action => self.inner.perform(action),
        }
    }

    /// Takes what links said before an order was given, so that the order finds a link gone whose end
    /// its giver knows of.
    fn hear_links(&mut self) {
        for _ in 0..FROM_LINKS {
            let Ok(told) = self.from_links.try_recv() else { break };
            self.on_link(told);
        }
    }

    fn on_link(&mut self, told: FromLink) {
        match told {
            FromLink::Frames(conn, frames) => {
                let connection = conn.connection();
                for frame in frames {
                    self.input(match frame {
                        Frame::Broadcast(batch)
                            if !self.inner.dispatch.takes(batch.items.len()) =>
                        {
                            Input::NoTime(connection, batch)
                        }
                        frame => Input::Frame(connection, frame),
                    });
                }
            }
            FromLink::Down(conn, parting, done) => {
                self.link_down(&conn, parting);
                let _ = done.send(());
            }
            FromLink::Done(conn) => self.input(Input::LinkReported { id: conn.peer.id() }),
        }
    }

    fn greeted(
        &mut self,
        conn: Arc<Conn>,
        dial: Option<DialId>,
        reply: oneshot::Sender<Result<(), Reason>>,
    ) {
        let connection = conn.connection();
        let (peer, candidate, unix) = (conn.peer.clone(), conn.candidate, conn.time);
        self.admitting.insert(connection, (conn, reply));
        self.input(Input::Greeted(Greeted { connection, dial, peer, candidate, unix }));
    }

    fn link_down(&mut self, conn: &Conn, parting: Parting) {
        let connection = conn.connection();
        if self.links.remove(&connection).is_some() {
            self.inner.change_conns(|conns| drop(conns.remove(&conn.peer.id())));
            self.input(Input::LinkDown { connection, parting });
        }
    }

    /// Hands the machine a message or ping to a node without a link.
    fn send(&mut self, sending: Sending, payload: Payload) {
        let to = sending.to;
        self.note_closing(to);
        let operation = self.begin(Operation::Send(sending));
        self.input(Input::Send { operation, to, payload });
    }

    /// Tells the machine if the link with a node can send no more. The link's own task says so a little
    /// later, when it has ended.
    fn note_closing(&mut self, id: NodeId) {
        if let Ok(conn) = self.inner.conn(id)
            && conn.outbox.closed().is_some()
        {
            self.input(Input::LinkClosing(conn.connection()));
        }
    }

    /// Writes which nodes are kept away, if that has changed.
    fn save_away(&mut self) {
        let changes = self.machine.overlay().away_changes();
        if self.away_saved == changes {
            return;
        }
        self.away_saved = changes;
        let now = unix_millis();
        let until =
            |left: Duration| now.saturating_add(u64::try_from(left.as_millis()).unwrap_or(0));
        let kept = self.machine.overlay().kept_away(self.inner.now());
        let kept: Vec<_> = kept.map(|(id, left)| (id, until(left))).collect();
        let store = self.inner.store.clone();
        self.inner.spawn(async move {
            let written = blocking::run(move || store.save_away(changes, &kept)).await;
            if let Some(Err(error)) = written {
                tracing::warn!(%error, "a node that was disconnected may come back after a restart");
            }
        });
    }

    fn addresses_changed(&mut self) {
        let addresses = self.inner.addresses(None);
        self.command(Command::Addresses(addresses));
    }

    /// Notes an operation, and returns its number.
    fn begin(&mut self, operation: Operation) -> OperationId {
        self.last_operation += 1;
        let id = OperationId(self.last_operation);
        self.operations.insert(id, operation);
        id
    }

    fn command(&mut self, command: Command) {
        self.input(Input::Command(command));
    }

    /// Hands the machine an input, and carries out what it says.
    fn input(&mut self, input: Input) {
        let now = now(&self.inner);
        trace::input(&input, |connection| self.peer(connection));
        let from = match &input {
            Input::Frame(connection, Frame::Broadcast(_)) => self.peer(*connection),
            _ => None,
        };
        let before = self.machine.overlay().broadcast_counters();
        self.machine.handle(now, input);
        if let Some(from) = from {
            let after = self.machine.overlay().broadcast_counters();
            trace::broadcasts_dropped(from, before, after);
            if after.untimely > before.untimely {
                self.warn_of_untimely(now.monotonic, from);
            }
        }
        self.drain();
    }

    /// Returns the node at the other end of a link.
    fn peer(&self, connection: ConnectionId) -> Option<NodeId> {
        self.links.get(&connection).map(|conn| conn.peer.id())
    }

    /// A broadcast was dropped for its time: says so, but not for each.
    fn warn_of_untimely(&mut self, now: Instant, from: NodeId) {
        if self.warned_at.is_none_or(|at| now.since(at) >= WARN_EVERY) {
            self.warned_at = Some(now);
            tracing::warn!(
                target: "peerkit::broadcast",
                from = %from.short(),
                "a broadcast was dropped: by this node's clock it is too old or from the future, so the \
                 clock of its author or of this node is wrong"
            );
        }
    }
}

/// Reads the clocks.
pub(crate) fn now(inner: &Inner) -> Now {
    Now { monotonic: inner.now(), unix: unix_millis() }
}
