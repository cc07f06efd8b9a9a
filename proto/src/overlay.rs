//! The overlay: a node's part in the network around it.
//!
//! One state machine that forwards between the parts below it, which never call each other. It is
//! driven like all others here: *handle one thing, poll until `None`, sleep until `poll_timeout`*.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::address::Address;
use crate::config::Config;
use crate::event::{Direction, Peer, Reason};
use crate::frame::Frame;
use crate::frame::membership::Probe;
use crate::frame::query::{AnswerBody, MAX_FILES, Query, QueryDone, QueryId, UNLIMITED};
use crate::hello::MAX_NAME;
use crate::id::{Hash, Key, NodeId};
use crate::message::Message;
use crate::time::{Instant, earliest};
use crate::verify::Verifier;

pub mod admission;
mod answers;
pub mod away;
pub mod broadcast;
mod clocks;
pub mod direct;
pub mod membership;
mod order;
pub(crate) mod query;
mod redial;
pub mod seam;
#[cfg(test)]
mod tests;
mod turn;

use admission::{Admission, Admissions, Candidate};
use away::Away;
use broadcast::{BroadcastError, Broadcasts};
pub use clocks::ClockStatus;
use clocks::Clocks;
use direct::{DirectError, Directs};
use membership::{Membership, Views};
use order::Orders;
use query::{Queries, Question};
use redial::Redials;
pub use seam::{Command, DialPurpose, Input, Output};
use turn::Clock;
pub(crate) use turn::Turn;

/// The state of one node's overlay.
#[derive(Debug)]
pub struct Overlay {
    me: NodeId,
    name: String,
    addresses: Vec<Address>,
    query_timeout: Duration,
    clock: Clock,
    rng: ChaCha8Rng,
    links: BTreeMap<NodeId, Peer>,
    admissions: Admissions,
    membership: Membership,
    queries: Queries,
    broadcasts: Broadcasts,
    directs: Directs,
    redials: Redials,
    orders: Orders,
    clocks: Clocks,
    /// The wall clock has jumped, and was not compared with the peers' clocks since.
    clock_was_set: bool,
    away: Away,
    outbox: VecDeque<Output>,
}

/// The identity of a node, for its overlay.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its key pair.
    pub key: Key,
    /// The name that it gives itself.
    pub name: String,
    /// The network that it belongs to.
    pub network: String,
    /// The time of its start, in milliseconds since 1970.
    pub epoch: u64,
    /// Its links are made by hand only: it is never a member, and the overlay makes no link by itself.
    pub manual: bool,
}

impl Overlay {
    /// Returns the overlay of a node without links. `seed` is its only source of randomness. Outside of
    /// tests it has to be secret and from the system's generator, as messages are sealed with it.
    #[must_use]
    pub fn new(identity: Identity, config: &Config, seed: [u8; 32]) -> Self {
        let me = identity.key.id();
        let clock = Clock { at: Instant::ZERO, unix: identity.epoch };
        let name = identity.name[..identity.name.floor_char_boundary(MAX_NAME)].to_owned();
        Self {
            me,
            name,
            addresses: Vec::new(),
            query_timeout: config.query_timeout,
            clock,
            rng: ChaCha8Rng::from_seed(seed),
            links: BTreeMap::new(),
            admissions: Admissions::new(me, config),
            membership: Membership::new(&identity, config),
            queries: Queries::new(config),
            broadcasts: Broadcasts::new(&identity, config),
            directs: Directs::new(&identity, config),
            redials: Redials::new(config),
            orders: Orders::new(&identity, config),
            clocks: Clocks::new(config),
            clock_was_set: false,
            away: Away::default(),
            outbox: VecDeque::new(),
        }
    }

    /// Returns the identity of this node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.me
    }

    /// Checks signatures with `verifier` from now on.
    pub fn verify_with(&mut self, verifier: Verifier) {
        self.membership.verify_with(verifier.clone());
        self.orders.verify_with(verifier.clone());
        self.broadcasts.verify_with(verifier);
    }

    /// Sets the wall clock: at `now` it is `unix` milliseconds since 1970. It goes on from there with
    /// the time that is handed in; a shell sets it again before inputs, as clocks are put right and
    /// machines sleep.
    pub fn set_clock(&mut self, now: Instant, unix: u64) {
        self.clock_was_set |= self.clocks.is_jump(self.clock.unix(now), unix);
        self.clock = Clock { at: now, unix };
    }

    /// Takes one input. Poll the outputs before the next.
    pub fn handle(&mut self, now: Instant, input: Input) {
        debug_assert!(self.outbox.is_empty(), "poll until None before the next input");
        match input {
            Input::LinkUp { peer, candidate } => {
                self.admissions.link_up(candidate);
                let id = peer.id();
                self.links.insert(id, peer);
                let (Parts { membership, broadcasts, .. }, mut turn) = self.turn(now);
                membership.link_up(&mut turn, id);
                broadcasts.link_up(&mut turn, id);
            }
            Input::Time { id, unix } => self.compare_clocks(now, id, unix),
            Input::LinkDown { id, parting } => {
                self.admissions.link_down(id);
                self.links.remove(&id);
                self.clocks.link_down(id);
                if parting.by_peer && parting.reason == Reason::Requested {
                    self.membership.avoid(now, id);
                }
                self.queries.link_down(id, &mut self.outbox);
                self.redials.link_down(now, id, &mut self.rng);
                let (Parts { directs, .. }, mut turn) = self.turn(now);
                directs.link_down(&mut turn, id);
                let (Parts { membership, broadcasts, .. }, mut turn) = self.turn(now);
                membership.link_down(&mut turn, id, &parting);
                broadcasts.link_down(&mut turn, id);
            }
            Input::Dialled { address, id } => {
                self.redials.dialled(&address, id);
                let (Parts { membership, .. }, mut turn) = self.turn(now);
                membership.dialled(&mut turn, id);
            }
            Input::DialFailed { address, error } => {
                let (rng, out) = (&mut self.rng, &mut self.outbox);
                self.redials.dial_failed(now, &address, error, rng, out);
                let (Parts { membership, .. }, mut turn) = self.turn(now);
                membership.dial_failed(&mut turn, &address);
            }
            Input::Frame(from, frame) => self.on_frame(now, from, frame),
            Input::PassedOver(to, Frame::Query(query)) => {
                // Not sent: else a peer that floods us with queries would have us hang up on others.
                let Query { id, depth, .. } = query;
                let done = QueryDone { id, depth, complete: false };
                self.queries.receive_done(now, to, done, &mut self.outbox);
            }
            Input::PassedOver(to, Frame::Broadcast(batch)) => {
                let (Parts { broadcasts, .. }, mut turn) = self.turn(now);
                broadcasts.passed_over(&mut turn, to, &batch);
            }
            Input::PassedOver(_, Frame::Forward(forward)) => {
                let (Parts { directs, .. }, mut turn) = self.turn(now);
                directs.passed_over(&mut turn, forward.label);
            }
            Input::PassedOver(..) => {}
            Input::NoTime(from, batch) => {
                let (Parts { broadcasts, .. }, mut turn) = self.turn(now);
                broadcasts.postpone(&mut turn, from, &batch);
            }
            Input::Probed { id, answer } => {
                let (Parts { membership, .. }, mut turn) = self.turn(now);
                membership.probed(&mut turn, id, answer);
            }
            Input::Command(command) => self.on_command(now, command),
        }
        self.compare_all_clocks(now);
        self.answer_what_we_know();
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.compare_all_clocks(now);
        self.queries.handle_timeout(now, &mut self.outbox);
        self.redials.handle_timeout(now, &mut self.outbox);
        let (Parts { directs, .. }, mut turn) = self.turn(now);
        directs.handle_timeout(&mut turn);
        let (Parts { membership, broadcasts, .. }, mut turn) = self.turn(now);
        membership.handle_timeout(&mut turn);
        broadcasts.handle_timeout(&mut turn);
    }

    /// Returns the next output; `None` if there is no more.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// Returns when [`Overlay::handle_timeout`] is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let asked = earliest(self.queries.poll_timeout(), self.redials.poll_timeout());
        let told = earliest(self.membership.poll_timeout(), self.broadcasts.poll_timeout());
        earliest(earliest(asked, told), self.directs.poll_timeout())
    }

    /// Decides whether a dial that has reached `id` may say Hello. A dial that the application asked
    /// for ends the time that the node was to stay away.
    ///
    /// # Errors
    /// If the node is this one or is kept away. [`Reason::Duplicate`] if there is a link with it
    /// already, or another dial has said Hello to it: ask again once either has ended.
    pub fn greet(&mut self, now: Instant, id: NodeId, purpose: DialPurpose) -> Result<(), Reason> {
        match purpose {
            DialPurpose::Application => self.come_back(id),
            DialPurpose::Overlay if self.away.is_kept(now, id) => return Err(Reason::KeptAway),
            DialPurpose::Overlay | DialPurpose::Message => {}
        }
        self.admissions.greet(id)
    }

    /// Notes that a dial that was allowed to say Hello has its answer, or has failed.
    pub fn greeted(&mut self, id: NodeId) {
        self.admissions.greeted(id);
    }

    /// Decides what becomes of a connection that has said Hello. A node that is kept away may not
    /// dial this one.
    #[must_use]
    pub fn admit(&self, now: Instant, candidate: &Candidate) -> Admission {
        match candidate.direction {
            Direction::Inbound if self.away.is_kept(now, candidate.id) => {
                Admission::Refuse(Reason::KeptAway)
            }
            _ => self.admissions.admit(candidate),
        }
    }

    /// Returns the nodes that the application has disconnected and that are to stay away.
    /// With each comes what is left of its time.
    pub fn kept_away(&self, now: Instant) -> impl Iterator<Item = (NodeId, Duration)> {
        self.away.kept(now)
    }

    /// Returns how often [`Overlay::kept_away`] has changed, but for time that has passed.
    #[must_use]
    pub fn away_changes(&self) -> u64 {
        self.away.changes()
    }

    /// Lets a node come back that the application had disconnected.
    fn come_back(&mut self, id: NodeId) {
        self.away.lift(id);
        self.membership.lift(id);
    }

    /// Signs a broadcast and sends it. Returns its id and the number of links. Poll the outputs before
    /// the next input.
    ///
    /// # Errors
    /// If the title or content is over its limit: nothing is sent.
    pub fn broadcast(
        &mut self,
        now: Instant,
        title: String,
        message: Message,
    ) -> Result<(Hash, usize), BroadcastError> {
        let (Parts { broadcasts, .. }, mut turn) = self.turn(now);
        let id = broadcasts.publish(&mut turn, title, message)?;
        Ok((id, self.links.len()))
    }

    /// Returns the wall clock at `now`, in milliseconds since 1970: the time of a broadcast of then.
    #[must_use]
    pub fn unix(&self, now: Instant) -> u64 {
        self.clock.unix(now)
    }

    /// Seals a message to a node that a query of this node has found, and sends it along the way that
    /// the answer came. Returns its number; [`Output::Direct`] has the outcome. Poll the outputs before
    /// the next input.
    ///
    /// # Errors
    /// If the content is over its limit, or no node can have that identity: nothing is sent.
    pub fn send_direct(
        &mut self,
        now: Instant,
        query: QueryId,
        to: NodeId,
        message: Message,
    ) -> Result<u64, DirectError> {
        let next = self.next(query, None, to);
        let (Parts { directs, .. }, mut turn) = self.turn(now);
        directs.send(&mut turn, (query, to), next, message)
    }

    /// Pings a node that `query` has found, along the way that its answer came. Returns a number; the
    /// outcome comes with it as [`Output::Direct`].
    ///
    /// # Errors
    /// If no node can have that identity: nothing is sent.
    pub fn ping_direct(
        &mut self,
        now: Instant,
        query: QueryId,
        to: NodeId,
    ) -> Result<u64, DirectError> {
        let next = self.next(query, None, to);
        let (Parts { directs, .. }, mut turn) = self.turn(now);
        directs.ping(&mut turn, (query, to), next)
    }

    /// Returns the answer to a probe of the node `from`, which its TLS key has proven.
    pub fn answer_probe(&mut self, now: Instant, from: NodeId, probe: Probe) -> Probe {
        let (Parts { membership, .. }, mut turn) = self.turn(now);
        membership.answer_probe(&mut turn, from, probe)
    }

    /// Returns counters of broadcasts since the node started.
    #[must_use]
    pub fn broadcast_counters(&self) -> broadcast::Counters {
        self.broadcasts.counters()
    }

    /// Returns the nodes that this node knows.
    #[must_use]
    pub fn views(&self) -> Views {
        let mut views = self.membership.views();
        views.pinned.retain(|id| self.links.contains_key(id));
        views
    }

    /// Returns the number of queries that this node remembers.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.queries.len()
    }

    /// Returns how many answers came to queries that this node had not sent.
    #[must_use]
    pub fn stray_answers(&self) -> u64 {
        self.queries.strays()
    }

    /// Returns how this node's clock compares to its peers'.
    #[must_use]
    pub fn clock_status(&self) -> ClockStatus {
        self.clocks.status()
    }

    fn compare_all_clocks(&mut self, now: Instant) {
        if std::mem::take(&mut self.clock_was_set) {
            let (Parts { clocks, .. }, mut turn) = self.turn(now);
            clocks.was_set(&mut turn);
        }
    }

    fn compare_clocks(&mut self, now: Instant, id: NodeId, unix: u64) {
        let Some(peer) = self.links.get(&id).cloned() else { return };
        let (Parts { clocks, .. }, mut turn) = self.turn(now);
        clocks.compare(&mut turn, &peer, unix);
    }

    /// Returns an id for a new query.
    pub fn draw_query_id(&mut self) -> QueryId {
        let mut id = [0; 16];
        self.rng.fill_bytes(&mut id);
        QueryId(id)
    }

    /// Returns the parts that need time or randomness, and a turn with both.
    fn turn(&mut self, now: Instant) -> (Parts<'_>, Turn<'_>) {
        let turn = Turn {
            now,
            unix: self.clock.unix(now),
            links: &self.links,
            rng: &mut self.rng,
            out: &mut self.outbox,
        };
        let Self { membership, broadcasts, directs, orders, clocks, .. } = self;
        (Parts { membership, broadcasts, directs, orders, clocks }, turn)
    }

    /// Returns the link for a message to the node that a query asked for: the link to it, or the one
    /// that the answer came by. `asking` is the peer that the query came from; `None` if it is ours.
    fn next(&self, query: QueryId, asking: Option<NodeId>, to: NodeId) -> Option<NodeId> {
        let way = self.queries.way(query, asking, to)?;
        let next = if self.links.contains_key(&to) { Some(to) } else { way };
        next.filter(|next| self.links.contains_key(next))
    }

    fn on_frame(&mut self, now: Instant, from: NodeId, frame: Frame) {
        let out = &mut self.outbox;
        match frame {
            Frame::Query(query) => {
                let neighbours = self.links.keys().copied();
                self.queries.receive(now, from, query, neighbours, out);
            }
            Frame::Answer(answer) => self.queries.receive_answer(now, from, answer, out),
            Frame::QueryDone(done) => self.queries.receive_done(now, from, done, out),
            Frame::Forward(forward) => {
                let next = self.next(forward.label.query, Some(from), forward.label.to);
                let (Parts { directs, .. }, mut turn) = self.turn(now);
                directs.receive(&mut turn, from, forward, next);
            }
            Frame::Forwarded(forwarded) => {
                let (Parts { directs, .. }, mut turn) = self.turn(now);
                directs.receive_forwarded(&mut turn, from, forwarded);
            }
            Frame::Broadcast(batch) => {
                let (Parts { broadcasts, clocks, .. }, mut turn) = self.turn(now);
                let refused = broadcasts.counters().untimely;
                broadcasts.receive(&mut turn, from, batch);
                if broadcasts.counters().untimely > refused {
                    clocks.refused(&mut turn, from);
                }
            }
            Frame::Clock(unix) => self.compare_clocks(now, from, unix),
            Frame::Have(haves) => {
                let (Parts { broadcasts, .. }, mut turn) = self.turn(now);
                broadcasts.receive_haves(&mut turn, from, &haves);
            }
            Frame::Want(want) => {
                let (Parts { broadcasts, .. }, mut turn) = self.turn(now);
                broadcasts.receive_want(&mut turn, from, want);
            }
            Frame::Given(given) => {
                let (Parts { broadcasts, .. }, mut turn) = self.turn(now);
                broadcasts.receive_given(&mut turn, from, given);
            }
            Frame::Prune(run) => self.broadcasts.receive_prune(from, run),
            Frame::NeighbourRequest(_)
            | Frame::NeighbourReply(_)
            | Frame::ForwardJoin(_)
            | Frame::Disconnect(_)
            | Frame::Shuffle(_)
            | Frame::ShuffleReply(_)
            | Frame::Beacon(_) => {
                let (Parts { membership, .. }, mut turn) = self.turn(now);
                membership.receive(&mut turn, from, frame);
            }
            Frame::Order(order) => {
                let (Parts { orders, .. }, mut turn) = self.turn(now);
                orders.receive(&mut turn, from, &order);
            }
            // The link's own frames and the application's never come here.
            _ => {}
        }
    }

    fn on_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Query { id, what, depth, own, timeout } => {
                let depth = match u8::try_from(depth) {
                    Ok(depth) => depth.min(UNLIMITED - 1),
                    Err(_) if depth < 0 => UNLIMITED,
                    Err(_) => UNLIMITED - 1,
                };
                let timeout = timeout.unwrap_or(self.query_timeout);
                let neighbours = self.links.keys().copied();
                let out = &mut self.outbox;
                let asked = Question { what, depth, own };
                self.queries.ask(now, id, asked, timeout, neighbours, out);
            }
            Command::Answer { query, files, here } => {
                let mut bodies: Vec<_> =
                    files.chunks(MAX_FILES).map(|part| AnswerBody::Files(part.to_vec())).collect();
                if here {
                    bodies.push(AnswerBody::Here);
                }
                self.answer(query, bodies);
            }
            Command::Keep { address } => self.redials.keep(address),
            Command::StopReconnecting(address) => self.redials.stop(&address),
            Command::Disconnect(id) => {
                self.redials.stop_peer(id);
                self.membership.unpin(id);
                if self.membership.is_member() {
                    self.away.keep(now, id);
                    self.membership.refuse(now, id);
                }
                if self.links.contains_key(&id) {
                    self.outbox.push_back(Output::Hangup(id, Reason::Requested));
                }
            }
            Command::Addresses(addresses) => {
                let (Parts { membership, .. }, mut turn) = self.turn(now);
                membership.addresses(&mut turn, &addresses);
                self.addresses = addresses;
            }
            Command::Join(through) => {
                self.come_back(through);
                let (Parts { membership, .. }, mut turn) = self.turn(now);
                membership.join(&mut turn, through);
            }
            Command::KeepAway(nodes) => {
                for (id, left) in nodes {
                    self.away.keep_for(now, id, left);
                    self.membership.refuse_for(now, id, left);
                }
            }
            Command::Known(nodes) => {
                let (Parts { membership, .. }, mut turn) = self.turn(now);
                membership.known(&mut turn, nodes);
            }
            Command::Pin(id) => {
                self.come_back(id);
                self.membership.pin(id);
            }
            Command::Leave => {
                let (Parts { membership, broadcasts, .. }, mut turn) = self.turn(now);
                broadcasts.flush(&mut turn);
                membership.leave(&mut turn);
                self.redials.stop_all();
                let hangup = |id: &NodeId| Output::Hangup(*id, Reason::Left);
                self.outbox.extend(self.links.keys().map(hangup));
            }
            Command::Restore(batches) => {
                let (Parts { broadcasts, .. }, mut turn) = self.turn(now);
                broadcasts.restore(&mut turn, batches);
            }
            Command::Owner(owner) => self.orders.set_owner(owner),
            Command::Shutdown(key) => {
                let (Parts { orders, .. }, mut turn) = self.turn(now);
                orders.give(&mut turn, &key);
            }
            Command::Flush => {
                let (Parts { broadcasts, .. }, mut turn) = self.turn(now);
                broadcasts.flush(&mut turn);
            }
        }
    }
}

/// The parts that need time or randomness.
struct Parts<'a> {
    membership: &'a mut Membership,
    broadcasts: &'a mut Broadcasts,
    directs: &'a mut Directs,
    orders: &'a mut Orders,
    clocks: &'a mut Clocks,
}
