//! The actor: the one task that owns the node's state machine. The actor hands the machine its inputs, and
//! carries out its outputs.
//!
//! The actor never waits for a peer or for the application. A frame goes into a link's queue, or ends the
//! link if that queue is full. Events go into a bounded queue. Dials and look-ups are tasks of their own.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::event::{LinkEnd, Peer, Reason};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::broadcast::Batch;
use peerkit_proto::handler::Action;
use peerkit_proto::id::NodeId;
use peerkit_proto::message::Message;
use peerkit_proto::overlay::Overlay;
use peerkit_proto::overlay::admission::LinkMerits;
use peerkit_proto::overlay::members::MembershipState;
use peerkit_proto::peer::{
    Command, ConnectionId, DialId, Greeted, Input, Machine, OperationId, Payload, Purpose,
};
use peerkit_proto::time::{Instant, Now};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::bans::Ban;
use crate::blocking;
use crate::clock::unix_millis;
use crate::conn::Conn;
use crate::counters::EndReason;
use crate::dial::DialOutcome;
use crate::error::Error;
use crate::inner::Inner;
use crate::trace;
use crate::unlinked::{PendingSend, SentBy};

mod carry_out;
pub(crate) mod mailbox;
mod publish;
mod shutdown;

use mailbox::{LinkReport, MAX_LINK_REPORTS, MAX_OPERATIONS, Operation, Order, OverlayStatus};

/// Minimum interval between two warnings that a broadcast was dropped because of its time stamp.
const WARN_EVERY: Duration = Duration::from_secs(60);

pub(crate) struct Actor {
    inner: Arc<Inner>,
    machine: Machine,
    orders: mpsc::Receiver<Order>,
    link_reports: mpsc::Receiver<LinkReport>,
    /// The connections that are links.
    links: HashMap<ConnectionId, Arc<Conn>>,
    /// Connections on which the peer's Hello has arrived, and which wait to be admitted.
    admitting: HashMap<ConnectionId, Admitting>,
    /// The dials under way.
    dials: HashMap<DialId, DialTask>,
    /// The tasks that ask peers where they see this node.
    observing: HashMap<NodeId, AbortHandle>,
    /// Operations under way, with the receivers of their outcomes.
    operations: HashMap<OperationId, Operation>,
    last_operation: u64,
    /// Inputs that result from the outputs of the current input. Empty between two inputs.
    follow_ups: Vec<Input>,
    /// The value of [`Overlay::away_changes`] when the list of kept-away nodes was last written to the store.
    saved_away_changes: u64,
    /// Broadcasts of the handler that wait for the rate limit, oldest first.
    rate_limited: VecDeque<(String, Message)>,
    /// Time of the last warning that a broadcast was dropped because of its time stamp.
    warned_at: Option<Instant>,
    /// The network's owner has ordered all nodes to stop.
    shutdown_ordered: bool,
}

type Admitting = (Arc<Conn>, oneshot::Sender<Result<(), Reason>>);

/// The actor's side of a dial, which has a task of its own.
struct DialTask {
    purpose: Purpose,
    /// Allows the task to send its Hello. `None` once that is allowed.
    allow_hello: Option<oneshot::Sender<()>>,
    ended: oneshot::Sender<DialOutcome>,
}

/// The state of earlier runs.
pub(crate) struct RestoredState {
    /// Nodes that the application has disconnected, with the time for which they are still kept away.
    pub(crate) away: Vec<(NodeId, Duration)>,
    /// Bans that have not ended.
    pub(crate) bans: Vec<Ban>,
    /// Known peers, with their addresses.
    pub(crate) known: Vec<(NodeId, Vec<Address>)>,
    /// Broadcasts that are still kept for other nodes.
    pub(crate) broadcasts: Vec<Batch>,
    /// The membership of this node, if the network takes invited nodes only.
    pub(crate) membership: Option<MembershipState>,
}

impl Actor {
    pub(crate) fn new(
        inner: Arc<Inner>,
        machine: Machine,
        orders: mpsc::Receiver<Order>,
        link_reports: mpsc::Receiver<LinkReport>,
    ) -> Self {
        Self {
            inner,
            machine,
            orders,
            link_reports,
            links: HashMap::new(),
            admitting: HashMap::new(),
            dials: HashMap::new(),
            observing: HashMap::new(),
            operations: HashMap::new(),
            last_operation: 0,
            follow_ups: Vec::new(),
            saved_away_changes: 0,
            rate_limited: VecDeque::new(),
            warned_at: None,
            shutdown_ordered: false,
        }
    }

    /// Runs until the node is asked to stop, then stops it.
    pub(crate) async fn run(mut self: Box<Self>, earlier: RestoredState) {
        if let Some(owner) = self.inner.profile.owner() {
            self.command(Command::Owner(owner));
        }
        if let Some(state) = earlier.membership {
            self.command(Command::Membership(Box::new(state)));
        }
        self.command(Command::KeepAway(earlier.away));
        // The list was just read from the store, so it need not be written again.
        self.saved_away_changes = self.machine.overlay().away_changes();
        for ban in earlier.bans {
            self.command(Command::Ban(ban.id, ban.left(unix_millis())));
        }
        self.command(Command::Known(earlier.known));
        self.command(Command::Restore(earlier.broadcasts));
        self.addresses_changed();
        // A node whose links are made by hand meets no node.
        let meets = !self.inner.profile.manual;
        self.command(Command::Meets {
            over_udp: meets && self.inner.quic.is_listening(),
            over_relays: meets && self.inner.config.relay,
        });
        loop {
            tokio::select! {
                // The stop and the timers come before the queues, so that no flood of orders or frames
                // delays them.
                biased;
                () = self.inner.tasks.stop.cancelled() => break,
                () = self.inner.clock.sleep_until(self.machine.poll_timeout()) => {
                    self.machine.handle_timeout(now(&self.inner));
                    self.drain();
                }
                Some(order) = self.orders.recv() => {
                    self.handle_link_reports();
                    self.on_order(order);
                    self.save_away();
                }
                Some(report) = self.link_reports.recv() => self.on_link_report(report),
            }
        }
        self.stop().await;
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Input(input) => self.input(*input),
            Order::Begin(operation, input) => self.begin(operation, input),
            Order::Greeted { conn, dial, reply } => self.greeted(conn, dial, reply),
            Order::Act(action) => self.act(action),
            Order::BroadcastAllowed => self.broadcast_allowed(),
            Order::Call(call) => call(self),
        }
    }

    /// Carries out an action of the handler.
    fn act(&mut self, action: Action) {
        match action {
            Action::Send(peer, message) => {
                let checked = Error::check_size(message.body(), self.inner.config.max_message);
                let sending = PendingSend { to: peer.id(), sender: SentBy::Handler(peer) };
                match checked {
                    Ok(()) => self.send(sending, Payload::Message(message)),
                    Err(error) => sending.end(&self.inner, Err(error)),
                }
            }
            Action::Broadcast(title, message) => self.publish_in_turn(title, message),
            Action::Disconnect(id) => self.command(Command::Disconnect(id)),
            Action::Penalize(id, why) => self.penalize(id, why),
            Action::StopReconnecting(address) => self.command(Command::StopReconnecting(address)),
            Action::Connect(..) => {
                let Some(reply) = self.inner.reply_for_connect(&action) else { return };
                // The dial begins here and not in a task, because the handler's next action may be about the
                // same link.
                if let Action::Connect(_, address, keep) = action {
                    let (addresses, purpose) = (vec![address], Purpose::Application);
                    let input = |operation| Input::Dial { operation, addresses, keep, purpose };
                    self.begin(Operation::Dial { reply, joined: None }, input);
                }
            }
            action => self.inner.start_action(action),
        }
    }

    /// Returns the state of the overlay.
    pub(crate) fn overlay_status(&self) -> OverlayStatus {
        OverlayStatus::of(&self.machine)
    }

    /// Returns the overlay, whose state can be read.
    pub(crate) fn overlay(&self) -> &Overlay {
        self.machine.overlay()
    }

    /// Closes the link with a node, and returns the peer.
    ///
    /// # Errors
    /// [`Error::NotConnected`] if there is no link. A dial of that node is ended in both
    /// cases.
    pub(crate) fn disconnect(&mut self, id: NodeId) -> Result<Peer, Error> {
        let found = self.inner.links.get(id).map(|conn| conn.peer.clone());
        self.command(Command::Disconnect(id));
        found
    }

    /// Leaves the network, and returns the peers that were connected.
    pub(crate) fn leave(&mut self) -> Vec<Peer> {
        let peers = self.inner.links.all().iter().map(|conn| conn.peer.clone()).collect();
        self.command(Command::Leave);
        peers
    }

    /// Handles the reports that links have sent by now. The actor does so before each order: if the sender of
    /// the order knows that a link has ended, the actor has to know it too.
    fn handle_link_reports(&mut self) {
        // Bounded, because links may send new reports as fast as this loop handles them.
        for _ in 0..MAX_LINK_REPORTS {
            let Ok(report) = self.link_reports.try_recv() else { break };
            self.on_link_report(report);
        }
    }

    fn on_link_report(&mut self, report: LinkReport) {
        match report {
            LinkReport::Frames(conn, frames) => {
                let connection = conn.connection;
                for frame in frames {
                    self.input(match frame {
                        // The application is behind with its events. Broadcasts are dropped here, and the
                        // machine requests them again later.
                        Frame::Broadcast(batch)
                            if !self.inner.dispatch.has_room_for_broadcasts(batch.items.len()) =>
                        {
                            let postponed = batch.items.len() as u64;
                            self.inner.tallies.postponed_broadcasts.fetch_add(postponed, Relaxed);
                            Input::PostponeBroadcasts(connection, batch)
                        }
                        frame => Input::Frame(connection, frame),
                    });
                }
            }
            LinkReport::Ended(conn, link_end, done) => {
                self.link_down(&conn, link_end);
                let _ = done.send(());
            }
            LinkReport::EndReported(conn) => {
                self.input(Input::LinkEndReported { id: conn.peer.id() });
            }
        }
    }

    fn greeted(
        &mut self,
        conn: Arc<Conn>,
        dial: Option<DialId>,
        reply: oneshot::Sender<Result<(), Reason>>,
    ) {
        let connection = conn.connection;
        let (peer, candidate, unix) = (conn.peer.clone(), conn.candidate, conn.time);
        let membership = conn.membership.clone();
        let transport = conn.transport;
        self.admitting.insert(connection, (conn, reply));
        let merits = self.merits();
        let greeted =
            Greeted { connection, dial, peer, candidate, unix, merits, membership, transport };
        self.input(Input::Greeted(greeted));
    }

    /// Returns the merits of the links, if the machine needs them to admit another link.
    fn merits(&self) -> Vec<LinkMerits> {
        if !self.machine.overlay().is_short_of_places() {
            return Vec::new();
        }
        let of_link = |conn: &Arc<Conn>| LinkMerits {
            id: conn.peer.id(),
            rtt: conn.rtt(),
            is_used: conn.meter.read().messages_sent > 0
                || conn.outbox.queued() > 0
                || conn.has_requests(),
        };
        self.links.values().map(of_link).collect()
    }

    fn link_down(&mut self, conn: &Conn, link_end: LinkEnd) {
        let connection = conn.connection;
        if self.links.remove(&connection).is_some() {
            self.inner.tallies.links_ended.add(EndReason::from(&link_end.reason));
            self.inner.links.change(|conns| drop(conns.remove(&conn.peer.id())));
            self.input(Input::LinkDown { connection, link_end });
        }
    }

    /// Hands the machine a message or ping to a node without a link.
    fn send(&mut self, sending: PendingSend, payload: Payload) {
        let to = sending.to;
        self.begin(Operation::Send(sending), |operation| Input::Send { operation, to, payload });
    }

    /// Tells the machine if the link with a node accepts no more frames. The link's own task reports the end
    /// later, when the link is closed.
    fn note_closing(&mut self, id: NodeId) {
        if let Ok(conn) = self.inner.links.get(id)
            && conn.outbox.closed().is_some()
        {
            self.input(Input::LinkClosing(conn.connection));
        }
    }

    /// Writes the list of kept-away nodes to the store, if the list has changed.
    fn save_away(&mut self) {
        let changes = self.machine.overlay().away_changes();
        if self.saved_away_changes == changes {
            return;
        }
        self.saved_away_changes = changes;
        let now = unix_millis();
        let until =
            |left: Duration| now.saturating_add(u64::try_from(left.as_millis()).unwrap_or(0));
        let kept = self.machine.overlay().kept_away(self.inner.clock.now());
        let kept: Vec<_> = kept.map(|(id, left)| (id, until(left))).collect();
        let store = self.inner.store.clone();
        self.inner.tasks.spawn(async move {
            let written = blocking::run(move || store.save_kept_away(changes, &kept)).await;
            if let Some(Err(error)) = written {
                tracing::warn!(%error, "a node that was disconnected may come back after a restart");
            }
        });
    }

    /// Hands the machine this node's addresses, which have changed.
    pub(crate) fn addresses_changed(&mut self) {
        let addresses = self.inner.addresses.announced(None);
        self.command(Command::Addresses(addresses));
    }

    /// Begins an operation with an input of the machine.
    fn begin(&mut self, operation: Operation, input: impl FnOnce(OperationId) -> Input) {
        if let Operation::Send(PendingSend { sender: SentBy::Request(_), .. }) = operation {
            self.forget_abandoned_requests();
        }
        if self.operations.len() >= MAX_OPERATIONS {
            return operation.refuse(&self.inner);
        }
        self.last_operation += 1;
        let id = OperationId(self.last_operation);
        self.operations.insert(id, operation);
        self.input(input(id));
    }

    /// Hands the machine a command.
    pub(crate) fn command(&mut self, command: Command) {
        self.input(Input::Command(command));
    }

    /// Penalizes a node. Also ends its streams, of which the machine knows nothing.
    pub(crate) fn penalize(&mut self, id: NodeId, why: String) {
        self.inner.streams.open.end(id);
        self.command(Command::Penalize(id, why));
    }

    /// Hands the machine an input, and carries out its outputs.
    fn input(&mut self, input: Input) {
        if let Input::DialSecured { id, .. } | Input::Send { to: id, .. } = &input {
            self.note_closing(*id);
        }
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

    /// Warns that a broadcast was dropped because of its time stamp, at most once in [`WARN_EVERY`].
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

/// Reads the monotonic clock and the wall clock.
pub(crate) fn now(inner: &Inner) -> Now {
    Now { monotonic: inner.clock.now(), unix: unix_millis() }
}
