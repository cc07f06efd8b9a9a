//! The one task that owns the overlay: hands it what happens and carries out what it says.
//!
//! It never waits for a peer or for the application: frames go into a link's first lane or end the
//! link, events go into a bounded queue, dials and look-ups are tasks of their own.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::event::{Event, Parting, Peer, Reason};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::broadcast::Batch;
use peerkit_proto::frame::membership::Outcome;
use peerkit_proto::frame::query::{Answer, QueryId, What};
use peerkit_proto::handler::Action;
use peerkit_proto::id::NodeId;
use peerkit_proto::message::Message;
use peerkit_proto::overlay::admission::Admission;
use peerkit_proto::overlay::{Command, Input, Output, Overlay};
use peerkit_proto::time::Instant;
use tokio::sync::{mpsc, oneshot};

use crate::blocking;
use crate::clock::unix_millis;
use crate::conn::{self, Conn};
use crate::dial;
use crate::error::Error;
use crate::inner::Inner;
use crate::kept::GATHER;
use crate::known;
use crate::order::{Asked, FROM_LINKS, FromLink, Order, Standing, Wanted};
use crate::trace;
use crate::waiting::Told;

/// After the links' time to flush, the longest that the rest may take to end.
const HALT: Duration = Duration::from_secs(2);

/// Interval between warnings that broadcasts are dropped for their time.
const WARN_EVERY: Duration = Duration::from_secs(60);

mod publish;

pub(crate) struct Actor {
    inner: Arc<Inner>,
    overlay: Overlay,
    orders: mpsc::Receiver<Order>,
    from_links: mpsc::Receiver<FromLink>,
    asked: HashMap<QueryId, Asked>,
    /// Who waits to hear of messages that others pass on, by their numbers, and whom they are for.
    passed_on: HashMap<u64, (NodeId, oneshot::Sender<Result<(), Error>>)>,
    /// Who waits for this node to be a member, by the node that it is to join through.
    joining: BTreeMap<NodeId, Vec<oneshot::Sender<Outcome>>>,
    /// Connections that take the place of a link once that has ended.
    successors: BTreeMap<NodeId, Successor>,
    /// Links that are being hung up on, by serial: what still comes from there is void.
    hung_up: BTreeSet<u64>,
    /// How many changes of the nodes that are kept away were written.
    away_saved: u64,
    /// Outputs of the overlay that were not carried out, as the inputs that say so: frames for crowded
    /// lanes, and probes beyond those that may be under way. Empty between two inputs.
    undone: Vec<Input>,
    /// Broadcasts of the handler that wait for their limit, oldest first.
    limited: VecDeque<(String, Message)>,
    /// When it was last said that a broadcast was dropped for its time.
    warned_at: Option<Instant>,
    stopping: bool,
    /// The network's owner has ordered all nodes to stop.
    ordered: bool,
}

type Successor = (Arc<Conn>, oneshot::Sender<Result<(), Reason>>);

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
        overlay: Overlay,
        orders: mpsc::Receiver<Order>,
        from_links: mpsc::Receiver<FromLink>,
    ) -> Self {
        Self {
            inner,
            overlay,
            orders,
            from_links,
            asked: HashMap::new(),
            passed_on: HashMap::new(),
            joining: BTreeMap::new(),
            successors: BTreeMap::new(),
            hung_up: BTreeSet::new(),
            away_saved: 0,
            undone: Vec::new(),
            limited: VecDeque::new(),
            warned_at: None,
            stopping: false,
            ordered: false,
        }
    }

    /// Runs until the node is to stop, then stops it.
    pub(crate) async fn run(mut self, earlier: Earlier) {
        if let Some(owner) = self.inner.owner() {
            self.command(Command::Owner(owner));
        }
        self.command(Command::KeepAway(earlier.away));
        self.away_saved = self.overlay.away_changes();
        self.command(Command::Known(earlier.known));
        self.command(Command::Restore(earlier.kept));
        self.addresses_changed();
        loop {
            tokio::select! {
                biased;
                () = self.inner.stop.cancelled() => break,
                () = self.inner.sleep_until(self.overlay.poll_timeout()) => {
                    let now = self.tick();
                    self.overlay.handle_timeout(now);
                    self.drain_all(now);
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
        self.stopping = true;
        for order in inner.take_orders(&mut self.orders) {
            self.on_order(order);
        }
        self.save_away();
        self.publish_limited();
        // A member's neighbours hear who may take its place before they hear its goodbye, unless
        // they go as well.
        self.command(match self.overlay.views().member && !self.ordered {
            true => Command::Leave,
            false => Command::Flush,
        });
        for (_, (_, reply)) in std::mem::take(&mut self.successors) {
            let _ = reply.send(Err(Reason::Stopping));
        }
        for conn in inner.all_conns().iter() {
            conn.leave(Reason::Stopping);
        }
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
        let ended = async { tokio::join!(inner.tracker.wait(), inner.shares.settle()) };
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
            Order::Greet { id, purpose, reply } => {
                let allowed = match self.stopping {
                    true => Err(Reason::Stopping),
                    false => self.overlay.greet(self.inner.now(), id, purpose),
                };
                let _ = reply.send(allowed);
            }
            Order::Greeted(id) => self.greeted(id),
            Order::Admit { conn, reply } => self.admit(conn, reply),
            Order::Dialled { address, id, wanted } => {
                self.input(Input::Dialled { address, id });
                if wanted == Wanted::ByHand {
                    self.command(Command::Pin(id));
                }
                if wanted != Wanted::Quietly {
                    self.learn_owner(id);
                }
            }
            Order::DialFailed { address, error } => {
                self.input(Input::DialFailed { address, error });
            }
            Order::Connect { address, others, reconnect, wanted, reply } => {
                self.connect(address, others, reconnect, wanted, reply);
            }
            Order::Join { id, reply } => {
                self.joining.entry(id).or_default().push(reply);
                self.command(Command::Join(id));
            }
            Order::KeptAway(reply) => {
                let kept = self.overlay.kept_away(self.inner.now());
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
                let now = self.tick();
                let _ = reply.send(self.overlay.answer_probe(now, from, probe));
                self.drain_all(now);
            }
            Order::ShutdownNetwork { key, reply } => {
                self.command(Command::Shutdown(key));
                let _ = reply.send(());
            }
            Order::Standing(reply) => {
                let _ = reply.send(Standing {
                    views: self.overlay.views(),
                    broadcasts: self.overlay.broadcast_counters(),
                    queries: self.overlay.queries(),
                    stray_answers: self.overlay.stray_answers(),
                    clock: self.overlay.clock_status(),
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
                let _ = reply.send(self.publish(title, message));
            }
            Order::BroadcastAllowed => self.broadcast_allowed(),
            Order::Ask { what, depth, own, timeout, asked } => {
                let id = self.overlay.draw_query_id();
                self.asked.insert(id, asked);
                self.command(Command::Query { id, what, depth, own, timeout });
            }
            Order::SendDirectly(peer, message) => {
                self.inner.queue_directly(peer.id(), message, Told::Handler(peer));
            }
            Order::Act(action) => self.act(action),
            Order::PassOn { query, to, message, reply } => {
                let now = self.tick();
                match self.overlay.send_direct(now, query, to, message) {
                    Ok(number) => drop(self.passed_on.insert(number, (to, reply))),
                    Err(error) => drop(reply.send(Err(error.into()))),
                }
                self.drain_all(now);
            }
            Order::PassPing { query, to, reply } => {
                let now = self.tick();
                match self.overlay.ping_direct(now, query, to) {
                    Ok(number) => drop(self.passed_on.insert(number, (to, reply))),
                    Err(error) => drop(reply.send(Err(error.into()))),
                }
                self.drain_all(now);
            }
            Order::ErrandDone(conn) => self.errand_done(&conn),
            Order::Answer(command) => self.command(command),
            Order::Info(reply) => drop(reply.send(self.overlay.info())),
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
                if let Action::Connect(_, address, reconnect) = action {
                    self.connect(address, Vec::new(), reconnect, Wanted::ByHand, reply);
                }
            }
            action => self.inner.perform(action),
        }
    }

    /// What links told before an order was given is heard before it: whoever acts on the end of a
    /// link finds it gone.
    fn hear_links(&mut self) {
        for _ in 0..FROM_LINKS {
            let Ok(told) = self.from_links.try_recv() else { break };
            self.on_link(told);
        }
    }

    fn on_link(&mut self, told: FromLink) {
        match told {
            FromLink::Frames(conn, frames) => {
                for frame in frames {
                    // A frame before it may have ended the link.
                    if !self.is_current(&conn) || self.hung_up.contains(&conn.serial) {
                        return;
                    }
                    let from = conn.peer.id();
                    self.input(match frame {
                        Frame::Broadcast(batch)
                            if !self.inner.dispatch.takes(batch.items.len()) =>
                        {
                            Input::NoTime(from, batch)
                        }
                        frame => Input::Frame(from, frame),
                    });
                }
            }
            FromLink::Down(conn, parting, done) => {
                self.link_down(&conn, parting);
                let _ = done.send(());
            }
            FromLink::Done(conn) => self.link_done(&conn),
        }
    }

    fn is_current(&self, conn: &Conn) -> bool {
        self.inner.conn(conn.peer.id()).is_ok_and(|current| current.serial == conn.serial)
    }

    fn connect(
        &mut self,
        address: Address,
        others: Vec<Address>,
        reconnect: bool,
        wanted: Wanted,
        reply: oneshot::Sender<Result<Peer, Error>>,
    ) {
        if self.stopping {
            let _ = reply.send(Err(Error::Stopped));
            return;
        }
        if reconnect {
            // Kept from now on: what comes of this dial decides when it is tried again.
            self.command(Command::Keep { address: address.clone() });
        }
        let addresses = std::iter::once(address).chain(others).collect();
        conn::start(&self.inner, dial::link(self.inner.clone(), addresses, wanted, reply));
    }

    fn admit(&mut self, conn: Arc<Conn>, reply: oneshot::Sender<Result<(), Reason>>) {
        let id = conn.peer.id();
        let admission = match self.stopping {
            true => Admission::Refuse(Reason::Stopping),
            false => self.overlay.admit(self.inner.now(), &conn.candidate),
        };
        match admission {
            Admission::Accept => self.link_up(conn, reply),
            Admission::Refuse(reason) => {
                self.greeted(id);
                let _ = reply.send(Err(reason));
            }
            Admission::Replace(reason) => {
                if let Ok(old) = self.inner.conn(id) {
                    old.hang_up(reason);
                    let replaced = self.successors.insert(id, (conn, reply));
                    if let Some((_, reply)) = replaced {
                        let _ = reply.send(Err(Reason::Replaced));
                    }
                } else {
                    self.link_up(conn, reply);
                }
            }
        }
    }

    /// Writes which nodes are kept away, if that has changed.
    fn save_away(&mut self) {
        let changes = self.overlay.away_changes();
        if self.away_saved == changes {
            return;
        }
        self.away_saved = changes;
        let now = unix_millis();
        let until =
            |left: Duration| now.saturating_add(u64::try_from(left.as_millis()).unwrap_or(0));
        let kept = self.overlay.kept_away(self.inner.now());
        let kept: Vec<_> = kept.map(|(id, left)| (id, until(left))).collect();
        let store = self.inner.store.clone();
        self.inner.spawn(async move {
            let written = blocking::run(move || store.save_away(changes, &kept)).await;
            if let Some(Err(error)) = written {
                tracing::warn!(%error, "a node that was disconnected may come back after a restart");
            }
        });
    }

    /// Ends the turn of a dial that said Hello and got no link: other dials to the node go on.
    fn greeted(&mut self, id: NodeId) {
        self.overlay.greeted(id);
        self.inner.conns_changed.notify_waiters();
    }

    fn link_up(&mut self, conn: Arc<Conn>, reply: oneshot::Sender<Result<(), Reason>>) {
        let (peer, candidate) = (conn.peer.clone(), conn.candidate);
        let address = conn.dialable.clone();
        self.inner.change_conns(|conns| drop(conns.insert(peer.id(), conn.clone())));
        if reply.send(Ok(())).is_err() {
            // Whoever wanted the link has gone away meanwhile.
            self.inner.change_conns(|conns| drop(conns.remove(&peer.id())));
            self.greeted(peer.id());
            return;
        }
        known::remember(&self.inner, &peer, address);
        let id = peer.id();
        self.input(Input::LinkUp { peer, candidate });
        if let Some(unix) = conn.time {
            self.input(Input::Time { id, unix });
        }
    }

    /// The link has ended; its successor comes up once the application has heard of that.
    fn link_down(&mut self, conn: &Arc<Conn>, parting: Parting) {
        self.hung_up.remove(&conn.serial);
        if self.is_current(conn) {
            let id = conn.peer.id();
            self.inner.change_conns(|conns| drop(conns.remove(&id)));
            self.input(Input::LinkDown { id, parting });
            // Who still waits hears that nothing will come.
            self.joining.remove(&id);
        }
    }

    fn link_done(&mut self, conn: &Arc<Conn>) {
        if let Some((successor, reply)) = self.successors.remove(&conn.peer.id()) {
            self.link_up(successor, reply);
        }
    }

    /// Closes a link that was made to send a message, if it is nothing else by now.
    fn errand_done(&mut self, conn: &Conn) {
        let (id, views) = (conn.peer.id(), self.overlay.views());
        let needed = views.active.contains(&id) || views.pinned.contains(&id);
        if !needed && conn.is_errand() && self.is_current(conn) && self.hung_up.insert(conn.serial)
        {
            conn.leave(Reason::NotNeeded);
        }
    }

    fn addresses_changed(&mut self) {
        let addresses = self.inner.addresses(None);
        self.command(Command::Addresses(addresses));
    }

    fn command(&mut self, command: Command) {
        self.input(Input::Command(command));
    }

    fn input(&mut self, input: Input) {
        let now = self.tick();
        trace::input(&input);
        let from = match &input {
            Input::Frame(from, Frame::Broadcast(_)) => Some(*from),
            _ => None,
        };
        let before = self.overlay.broadcast_counters();
        self.overlay.handle(now, input);
        if let Some(from) = from {
            let after = self.overlay.broadcast_counters();
            trace::broadcasts_dropped(from, before, after);
            if after.untimely > before.untimely {
                self.warn_of_untimely(now, from);
            }
        }
        self.drain_all(now);
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

    /// Carries out what the overlay has put out, and tells it what could not be.
    fn drain_all(&mut self, now: Instant) {
        self.drain();
        while let Some(undone) = self.undone.pop() {
            trace::input(&undone);
            self.overlay.handle(now, undone);
            self.drain();
        }
    }

    /// The time; the overlay has the wall clock's too from then on.
    fn tick(&mut self) -> Instant {
        let now = self.inner.now();
        self.overlay.set_clock(now, unix_millis());
        now
    }

    /// Carries out all that the overlay has put out.
    fn drain(&mut self) {
        while let Some(output) = self.overlay.poll() {
            trace::output(&output);
            match output {
                Output::Send(to, frame) => {
                    let Ok(conn) = self.inner.conn(to) else { continue };
                    match &frame {
                        Frame::Query(_) | Frame::Broadcast(_) | Frame::Forward(_)
                            if conn.outbox.is_crowded() =>
                        {
                            self.undone.push(Input::PassedOver(to, frame));
                        }
                        _ => conn.control(&frame),
                    }
                }
                Output::Dial { address, others, quiet } => {
                    let wanted = if quiet { Wanted::Quietly } else { Wanted::ByHand };
                    let reply = oneshot::channel().0;
                    let addresses = std::iter::once(address).chain(others).collect();
                    let dialling = dial::link(self.inner.clone(), addresses, wanted, reply);
                    conn::start(&self.inner, dialling);
                }
                Output::Probe { addresses, id, probe } => {
                    let is_sent = self.inner.probe(id, addresses, probe);
                    if !is_sent {
                        self.undone.push(Input::Probed { id, answer: None });
                    }
                }
                Output::Joined(_) => {
                    let waiting = std::mem::take(&mut self.joining).into_values().flatten();
                    for reply in waiting {
                        let _ = reply.send(Outcome::Accepted);
                    }
                }
                Output::JoinRefused(id, outcome) => {
                    let waiting = self.joining.remove(&id).into_iter().flatten();
                    for reply in waiting {
                        let _ = reply.send(outcome);
                    }
                }
                Output::Keep(batch) => self.keep(batch),
                Output::Stop => {
                    self.ordered = true;
                    self.inner.stop.cancel();
                }
                Output::Hangup(id, reason) => {
                    let reason = if self.stopping { Reason::Stopping } else { reason };
                    if let Ok(conn) = self.inner.conn(id)
                        && self.hung_up.insert(conn.serial)
                    {
                        conn.leave(reason);
                    }
                }
                Output::Event(event) => {
                    if let Event::NodeMessage { .. } = event {
                        self.inner.meter.received(1);
                    }
                    self.inner.dispatch.notice(event);
                }
                Output::Direct { number, sent } => {
                    if let Some((peer, reply)) = self.passed_on.remove(&number) {
                        let not_reached = |reason| Error::NotReached { peer, reason };
                        let _ = reply.send(sent.map_err(not_reached));
                    }
                }
                Output::Lookup { query, what, asker } => self.look_up(query, what, asker),
                Output::Answered { answer } => self.answered(answer),
                Output::Ended { query, complete } => {
                    if let Some(asked) = self.asked.remove(&query) {
                        let _ = asked.ended.send(complete && !asked.lost);
                    }
                }
                _ => {}
            }
        }
    }

    /// The application trusts a node that it named to know who owns the network: the first one does.
    fn learn_owner(&mut self, from: NodeId) {
        let Some(owner) = self.inner.conn(from).ok().and_then(|conn| conn.owner) else { return };
        if !self.inner.learn_owner(owner) {
            return;
        }
        self.command(Command::Owner(owner));
        let inner = self.inner.clone();
        self.inner.tracker.spawn_blocking(move || {
            if let Err(error) = inner.store.save_owner(&inner.network, owner) {
                tracing::warn!(%error, "can't remember who owns the network");
            }
        });
    }

    /// Keeps broadcasts for the next run, where there is a state folder.
    fn keep(&self, batch: Batch) {
        let kept = self.inner.kept.clone();
        if kept.add(batch) {
            self.inner.spawn(async move {
                tokio::time::sleep(GATHER).await;
                let _ = blocking::run(move || kept.write()).await;
            });
        }
    }

    fn answered(&mut self, answer: Answer) {
        if let Some(asked) = self.asked.get_mut(&answer.id) {
            asked.lost |= asked.answers.try_send(answer).is_err();
        }
    }

    /// Looks up what this node can say to a query, where only the shell knows.
    fn look_up(&self, query: QueryId, what: What, asker: Option<NodeId>) {
        let inner = self.inner.clone();
        let orders = inner.orders.clone();
        let spawner = inner.clone();
        spawner.spawn(async move {
            let (files, here) = match what {
                What::CallBack { token, addresses, .. } => {
                    (Vec::new(), inner.answer_call_back(addresses, token))
                }
                what => match known::find(&inner, what, asker).await {
                    Some(files) => (files, false),
                    // Without an answer it is not complete when its time is over.
                    None => return,
                },
            };
            let _ = orders.send(Order::Answer(Command::Answer { query, files, here })).await;
        });
    }
}
