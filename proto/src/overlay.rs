//! The overlay: everything that a node does as part of a network, beyond its individual links.
//!
//! The [`Overlay`] owns one state machine for each task, its *parts*. It hands each input to the parts
//! concerned. The parts never call each other. The overlay belongs to a [`Machine`](crate::peer::Machine),
//! which calls its methods and carries out the effects that they put out.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::address::{Address, Scheme};
use crate::config::Config;
use crate::event::{Direction, LinkEnd, NodeInfo, Peer, Reason};
use crate::frame::Frame;
use crate::frame::broadcast::Batch;
use crate::frame::membership::Probe;
use crate::frame::query::{Query, QueryDone, QueryId};
use crate::hello::MAX_NAME;
use crate::id::{Hash, Key, NodeId};
use crate::message::Message;
use crate::peer::{Command, LinkTransport, Payload};
use crate::time::{Instant, Now, earliest};
use crate::verify::Verifier;

mod access;
pub mod admission;
mod answers;
pub mod away;
pub mod broadcast;
pub(crate) mod budgets;
mod clocks;
mod context;
mod eviction;
pub mod members;
pub mod membership;
pub(crate) mod query;
mod questions;
pub mod reach;
mod reconnect;
pub mod relay;
mod shutdown_order;
#[cfg(test)]
mod tests;

use admission::{Admissions, Candidate};
use answers::SelfDescription;
use away::KeptAwayNodes;
use broadcast::{BroadcastError, Broadcasts};
pub use budgets::BudgetDrops;
use budgets::{Budgets, Standing};
pub use clocks::ClockStatus;
use clocks::Clocks;
pub(crate) use context::{Effect, OverlayContext};
use members::Members;
use membership::{Membership, Views};
use query::Queries;
pub use query::QueryDrops;
use reach::{MappingState, Reach, ReachStatus};
use reconnect::Reconnects;
use relay::{RelaySendError, RelayedMessages};
use shutdown_order::OwnerOrders;

/// The state of one node's overlay.
#[derive(Debug)]
pub struct Overlay {
    description: SelfDescription,
    query_timeout: Duration,
    now: Now,
    rng: ChaCha8Rng,
    links: BTreeMap<NodeId, Peer>,
    admissions: Admissions,
    away: KeptAwayNodes,
    budgets: Budgets,
    parts: Parts,
    out: VecDeque<Effect>,
}

/// The parts of the overlay. Their methods that have effects take an [`OverlayContext`].
#[derive(Debug)]
struct Parts {
    membership: Membership,
    queries: Queries,
    broadcasts: Broadcasts,
    relayed: RelayedMessages,
    reconnects: Reconnects,
    orders: OwnerOrders,
    members: Members,
    clocks: Clocks,
    reach: Reach,
}

/// The data of a node that its overlay starts with.
#[derive(Debug, Clone)]
pub struct NodeSetup {
    /// The node's key pair.
    pub key: Key,
    /// The node's name, which its user has chosen.
    pub name: String,
    /// The network that the node belongs to.
    pub network: String,
    /// The time at which the node started, in milliseconds since 1970.
    pub epoch: u64,
    /// The application makes all links by hand: the node is never a member, and its overlay dials no node.
    pub manual: bool,
}

impl Overlay {
    /// Returns the overlay of a node without links. `seed` is its only source of randomness. Outside of tests
    /// the seed has to be secret and from the system's generator, as messages are sealed with it.
    pub(crate) fn new(setup: NodeSetup, config: &Config, seed: [u8; 32]) -> Self {
        let id = setup.key.id();
        // A peer ends the link if a frame has a longer name.
        let name = setup.name[..setup.name.floor_char_boundary(MAX_NAME)].to_owned();
        Self {
            description: SelfDescription { id, name, addresses: Vec::new() },
            query_timeout: config.query_timeout,
            now: Now { monotonic: Instant::ZERO, unix: setup.epoch },
            rng: ChaCha8Rng::from_seed(seed),
            links: BTreeMap::new(),
            admissions: Admissions::new(
                id,
                config,
                blake3::derive_key("peerkit 2026-11 eviction of links", &seed),
            ),
            away: KeptAwayNodes::default(),
            budgets: Budgets::new(config),
            parts: Parts {
                membership: Membership::new(&setup, config),
                queries: Queries::new(config),
                broadcasts: Broadcasts::new(&setup, config),
                relayed: RelayedMessages::new(&setup, config),
                reconnects: Reconnects::new(config),
                orders: OwnerOrders::new(&setup, config),
                members: Members::new(setup.network.clone()),
                clocks: Clocks::new(config),
                reach: Reach::new(config),
            },
            out: VecDeque::new(),
        }
    }

    /// Returns the identity of this node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.description.id
    }

    /// Returns the description of this node that a discovery shows.
    #[must_use]
    pub fn info(&self) -> NodeInfo {
        self.description.info(&self.links)
    }

    /// Returns counters of broadcasts since the node started.
    #[must_use]
    pub fn broadcast_counters(&self) -> broadcast::BroadcastCounters {
        self.parts.broadcasts.counters()
    }

    /// Returns the nodes that this node knows.
    #[must_use]
    pub fn views(&self) -> Views {
        let mut views = self.parts.membership.views();
        // A pin stays when its link ends, so that a new link with the node is pinned too. Views show only
        // pinned links that exist.
        views.pinned.retain(|id| self.links.contains_key(id));
        views
    }

    /// Returns the maximum number of inbound links.
    #[must_use]
    pub fn max_inbound(&self) -> usize {
        self.admissions.max_inbound()
    }

    /// Returns the number of queries that this node remembers.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.parts.queries.len()
    }

    /// Returns the number of answers from peers that this node had not sent the query to.
    #[must_use]
    pub fn stray_answers(&self) -> u64 {
        self.parts.queries.strays()
    }

    /// Returns the numbers of queries and answers that were dropped because of a limit.
    #[must_use]
    pub fn query_drops(&self) -> QueryDrops {
        self.parts.queries.drops()
    }

    /// Returns the amounts of work that were refused because the budget of a link was spent.
    #[must_use]
    pub fn budget_drops(&self) -> BudgetDrops {
        self.budgets.drops()
    }

    /// Returns how many peers' clocks are far from this node's clock, and by how much.
    #[must_use]
    pub fn clock_status(&self) -> ClockStatus {
        self.parts.clocks.status()
    }

    /// Returns how other nodes reach this one.
    #[must_use]
    pub fn reach(&self) -> ReachStatus {
        self.parts.reach.status()
    }

    /// Returns whether an address is one by which this node meets nodes that it can't dial.
    pub(crate) fn is_meeting_address(&self, address: &Address) -> bool {
        self.parts.reach.uses(address.scheme)
    }

    /// Returns whether the link with a node is relayed.
    pub(crate) fn is_relayed(&self, id: NodeId) -> bool {
        self.parts.reach.is_relayed(id)
    }

    /// Returns whether this node meets nodes that it can't dial.
    pub(crate) fn meets(&self) -> bool {
        self.parts.reach.uses(Scheme::Quic) || self.parts.reach.uses(Scheme::Relay)
    }

    /// Notes at which UDP address an observer sees this node.
    pub(crate) fn observed(&mut self, by: NodeId, address: Option<SocketAddr>) {
        self.with_parts(|parts, cx| parts.reach.observed(cx, by, address));
    }

    /// Notes what is known about the mapping of this node's ports.
    pub(crate) fn set_mapping(&mut self, state: MappingState) {
        self.with_parts(|parts, cx| parts.reach.set_mapping(cx, state));
    }

    /// Sets the verifier that checks all further signatures.
    pub(crate) fn verify_with(&mut self, verifier: Verifier) {
        self.parts.membership.verify_with(verifier.clone());
        self.parts.orders.verify_with(verifier.clone());
        self.parts.members.verify_with(verifier.clone());
        self.parts.broadcasts.verify_with(verifier);
    }

    /// Sets the time for the inputs that follow. If the wall clock has jumped, compares it with the clocks of
    /// all peers.
    pub(crate) fn set_clocks(&mut self, now: Now) {
        // The monotonic clock can't be set, so it shows how far the wall clock should have moved.
        let passed = now.monotonic.since(self.now.monotonic).as_millis();
        let expected = self.now.unix.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX));
        self.now = now;
        if self.parts.clocks.is_jump(expected, now.unix) {
            self.with_parts(|parts, cx| parts.clocks.own_clock_set(cx));
        }
    }

    /// Returns the next effect, or `None` if there are no more.
    pub(crate) fn poll(&mut self) -> Option<Effect> {
        self.out.pop_front()
    }

    /// Returns when [`Overlay::handle_timeout`] is due next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let Parts { membership, queries, broadcasts, relayed, reconnects, members, reach, .. } =
            &self.parts;
        let due = earliest(queries.poll_timeout(), reconnects.poll_timeout());
        let due = earliest(due, members.poll_timeout());
        let due = earliest(due, reach.poll_timeout());
        let due = earliest(due, membership.poll_timeout());
        earliest(earliest(due, broadcasts.poll_timeout()), relayed.poll_timeout())
    }

    /// Carries out everything that is due.
    pub(crate) fn handle_timeout(&mut self) {
        self.with_parts(|parts, cx| {
            parts.queries.handle_timeout(cx.now, cx.budgets, cx.out);
            parts.reconnects.handle_timeout(cx);
            parts.relayed.handle_timeout(cx);
            parts.membership.handle_timeout(cx);
            parts.broadcasts.handle_timeout(cx);
            parts.members.handle_timeout(cx);
            parts.reach.handle_timeout(cx);
        });
    }

    /// Notes a new link. `unix` is the peer's wall clock, from its Hello.
    pub(crate) fn link_up(
        &mut self,
        peer: Peer,
        candidate: Candidate,
        unix: Option<u64>,
        transport: LinkTransport,
    ) {
        let ip = candidate.ip;
        self.budgets.link_up(candidate.id, ip);
        self.admissions.link_up(candidate, self.now.monotonic);
        self.links.insert(peer.id(), peer.clone());
        self.with_parts(|parts, cx| {
            parts.membership.link_up(cx, peer.id(), ip);
            parts.broadcasts.link_up(cx, peer.id());
            parts.members.link_up(cx, peer.id());
            parts.reach.link_up(cx, &peer, ip, transport);
            if let Some(unix) = unix {
                parts.clocks.compare(cx, &peer, unix);
            }
        });
    }

    /// Notes that a link has ended.
    pub(crate) fn link_down(&mut self, id: NodeId, link_end: &LinkEnd) {
        if matches!(link_end.reason, Reason::Fault(_)) && !link_end.by_peer {
            let host = self.admissions.inbound_host(id);
            self.away.add_faulty(self.now.monotonic, id, host);
        }
        self.admissions.link_down(id);
        self.links.remove(&id);
        self.budgets.link_down(self.now.monotonic, id);
        self.with_parts(|parts, cx| {
            parts.clocks.link_down(id);
            parts.members.link_down(id);
            // The peer's application asked for the end of this link, or the peer refuses links after a fault.
            // So this node does not ask the peer for a place for a while.
            let unwanted =
                matches!(link_end.reason, Reason::Requested | Reason::Banned | Reason::Fault(_));
            if link_end.by_peer && unwanted {
                parts.membership.avoid(cx.now, id);
            }
            parts.queries.link_down(id, cx.out);
            parts.reconnects.link_down(cx, id);
            parts.relayed.link_down(cx, id);
            parts.membership.link_down(cx, id, link_end);
            parts.broadcasts.link_down(cx, id);
            parts.reach.link_down(cx, id);
        });
    }

    /// Notes that a dial of an address has reached the node `id`, and that there is a link with it.
    pub(crate) fn dialled(&mut self, address: &Address, id: NodeId) {
        self.with_parts(|parts, cx| {
            parts.reconnects.dialled(address, id);
            parts.membership.dialled(cx, id);
        });
    }

    /// Notes that a dial of an address has failed.
    pub(crate) fn dial_failed(&mut self, address: &Address, error: String) {
        self.with_parts(|parts, cx| {
            parts.reconnects.dial_failed(cx, address, error);
            parts.membership.dial_failed(cx, address);
        });
    }

    /// Handles a frame from a peer.
    pub(crate) fn receive(&mut self, from: NodeId, frame: Frame) {
        if self.budgets.set_standing(from, self.standing(from)) {
            self.with_parts(|parts, cx| parts.broadcasts.send_what_is_due(cx, from));
        }
        self.budgets.set_member(self.parts.membership.is_member());
        // The answers to a query need `description`, which the parts can't reach.
        if let Frame::Query(query) = frame {
            return self.receive_query(from, query);
        }
        let delivered = self.parts.broadcasts.counters().received;
        self.with_parts(|parts, cx| parts.receive(cx, from, frame));
        if self.parts.broadcasts.counters().received > delivered {
            self.admissions.note_useful(from, self.now.monotonic);
            self.parts.membership.note_useful(self.now.monotonic, from);
        }
    }

    /// Returns the time for which a peer is not to be read, if the budget of strangers did not allow its last frame.
    pub(crate) fn begin_pause(&mut self, from: NodeId) -> Option<Duration> {
        self.budgets.begin_pause(self.now.monotonic, from, &mut self.rng)
    }

    /// Notes that a frame was not sent because too much waits for its link: see
    /// [`congestion`](crate::peer::congestion).
    pub(crate) fn frame_skipped(&mut self, to: NodeId, frame: Frame) {
        self.with_parts(|parts, cx| match frame {
            // The recipient counts as done, but not complete. If the query were queued anyway, a peer that floods
            // this node with queries could overfill the queues of other links, which would then be closed.
            Frame::Query(Query { id, depth, .. }) => {
                let done = QueryDone { id, depth, complete: false };
                parts.queries.receive_done(cx.now, to, done, cx.out);
            }
            Frame::Answer(answer) => parts.queries.answer_skipped(to, answer.id),
            Frame::Broadcast(batch) => parts.broadcasts.batch_skipped(cx, to, &batch),
            Frame::Forward(forward) => parts.relayed.message_skipped(cx, forward.label),
            _ => {}
        });
    }

    /// Treats broadcasts as not received, as the application has no room for them. They are requested again
    /// later.
    pub(crate) fn postpone(&mut self, from: NodeId, batch: &Batch) {
        self.with_parts(|parts, cx| parts.broadcasts.postpone(cx, from, batch));
    }

    /// Handles the outcome of a probe: the IP address at which the node was reached and its answer, or `None` if
    /// it did not answer.
    pub(crate) fn probed(&mut self, id: NodeId, answer: Option<(IpAddr, Probe)>) {
        self.with_parts(|parts, cx| parts.membership.probed(cx, id, answer));
    }

    /// Returns the answer to a probe from the node `from`, whose identity the TLS handshake has proven.
    pub(crate) fn answer_probe(&mut self, from: NodeId, probe: Probe) -> Probe {
        self.with_parts(|parts, cx| parts.membership.answer_probe(cx, from, probe))
    }

    /// Queues a broadcast, which is signed and sent immediately, or a few milliseconds later together with
    /// others. Returns its id and the number of links.
    ///
    /// # Errors
    /// If the title or the content is over its limit. Nothing is sent then.
    pub(crate) fn broadcast(
        &mut self,
        title: String,
        message: Message,
    ) -> Result<(Hash, usize), BroadcastError> {
        let id = self.with_parts(|parts, cx| parts.broadcasts.publish(cx, title, message))?;
        Ok((id, self.links.len()))
    }

    /// Sends the broadcasts that wait for later ones to be sent together with them.
    pub(crate) fn flush(&mut self) {
        self.with_parts(|parts, cx| parts.broadcasts.flush(cx));
    }

    /// Seals a payload to a node. With a query of this node that has found the recipient, the payload is sent
    /// along the route by which the answer came; without a query, over the link with the recipient. Returns
    /// the number of the message, which [`Effect::Relayed`] names with the outcome. If the payload is a
    /// request, its reply names `id`.
    ///
    /// # Errors
    /// If the content is over its limit, or no node can have that identity. Nothing is sent then.
    pub(crate) fn relay(
        &mut self,
        query: Option<QueryId>,
        to: NodeId,
        (payload, id): (&Payload, u64),
    ) -> Result<u64, RelaySendError> {
        self.with_parts(|parts, cx| {
            let (query, next) = match query {
                Some(query) => (query, parts.next_hop(cx, query, None, to)),
                None => {
                    // The recipient does not look this query up, so any id would do. It is random because the
                    // numbers of messages start at 1 in each run of the node, and the recipient refuses a
                    // message whose query id and number it has seen before.
                    let mut query = [0; 16];
                    cx.rng.fill_bytes(&mut query);
                    (QueryId(query), cx.links.contains_key(&to).then_some(to))
                }
            };
            parts.relayed.send(cx, (query, to), next, (payload, id))
        })
    }

    /// Keeps a link to an address: it is dialled again whenever the link is lost. The first dial is already
    /// under way.
    pub(crate) fn keep(&mut self, address: Address) {
        self.parts.reconnects.keep(address);
    }

    /// Asks the peer `through` for a place, which makes this node a member of the peer's network. Ends with
    /// [`Effect::Joined`] or [`Effect::JoinRefused`].
    pub(crate) fn join(&mut self, through: NodeId) {
        self.stop_keeping_away(through);
        self.with_parts(|parts, cx| parts.membership.join(cx, through));
    }

    /// Notes that the application asked for the link with a node. The overlay does not close such a link to
    /// make room for another neighbour.
    pub(crate) fn pin(&mut self, id: NodeId) {
        self.stop_keeping_away(id);
        self.parts.membership.pin(id);
    }

    /// Leaves the network: sends the neighbours each other's records, so that they can link to each other,
    /// and closes all links.
    pub(crate) fn leave(&mut self) {
        self.with_parts(|parts, cx| {
            // The links are closed last, as nothing can be sent after a goodbye. `reconnects` stops before
            // that, or it would dial the lost links again.
            parts.broadcasts.flush(cx);
            parts.membership.leave(cx);
            parts.reconnects.stop_all();
            cx.out.extend(cx.links.keys().map(|id| Effect::CloseLink(*id, Reason::Left)));
        });
    }

    /// Carries out a command of the application.
    pub(crate) fn command(&mut self, command: Command) {
        match command {
            Command::Answer { query, files, here } => self.answer(query, &files, here),
            Command::StopReconnecting(address) => self.parts.reconnects.stop(&address),
            Command::Disconnect(id) => self.disconnect(id),
            Command::Penalize(id, why) => self.penalize(id, why),
            Command::Ban(id, time) => self.ban(id, time),
            Command::Unban(id) => self.away.unban(id),
            Command::Addresses(addresses) => {
                self.with_parts(|parts, cx| parts.membership.set_addresses(cx, &addresses));
                self.description.addresses = addresses;
            }
            Command::Meets { over_udp, over_relays } => {
                self.with_parts(|parts, cx| parts.reach.set_means(cx, over_udp, over_relays));
            }
            Command::KeepAway(nodes) => {
                let now = self.now.monotonic;
                nodes.into_iter().for_each(|(id, left)| self.away.add_for(now, id, left));
            }
            Command::Known(nodes) => {
                self.with_parts(|parts, cx| parts.membership.add_known_nodes(cx, nodes));
            }
            Command::MaxInbound(links) => self.admissions.set_max_inbound(links),
            Command::Leave => self.leave(),
            Command::Restore(batches) => {
                self.with_parts(|parts, cx| parts.broadcasts.restore(cx, batches));
            }
            Command::Owner(owner) => self.parts.orders.set_owner(owner),
            Command::Membership(state) => {
                self.with_parts(|parts, cx| parts.members.start(cx, *state));
            }
            Command::Revoke(key, revoked) => {
                self.with_parts(|parts, cx| parts.members.revoke(cx, &key, revoked));
            }
            Command::Shutdown(key) => self.with_parts(|parts, cx| parts.orders.issue(cx, &key)),
        }
    }

    /// Returns the standing of a link, which decides how much work its frames may cause.
    fn standing(&self, id: NodeId) -> Standing {
        let peer = self.links.get(&id);
        peer.map_or(Standing::Stranger, |peer| standing_of(peer, &self.parts.membership))
    }

    /// Calls `act` with the parts and their context.
    fn with_parts<T>(&mut self, act: impl FnOnce(&mut Parts, &mut OverlayContext<'_>) -> T) -> T {
        let Self { now, links, away, rng, budgets, parts, out, .. } = self;
        let Now { monotonic, unix } = *now;
        act(parts, &mut OverlayContext { now: monotonic, unix, links, away, rng, budgets, out })
    }
}

impl Parts {
    fn receive(&mut self, cx: &mut OverlayContext<'_>, from: NodeId, frame: Frame) {
        match frame {
            Frame::Answer(answer) => {
                self.queries.receive_answer(cx.now, from, answer, cx.budgets, cx.out);
            }
            Frame::QueryDone(done) => self.queries.receive_done(cx.now, from, done, cx.out),
            Frame::Forward(forward) => {
                let next = self.next_hop(cx, forward.label.query, Some(from), forward.label.to);
                self.relayed.receive(cx, from, forward, next);
            }
            Frame::Forwarded(forwarded) => self.relayed.receive_forwarded(cx, from, forwarded),
            Frame::Broadcast(batch) => {
                // If a batch is refused for its time, a clock was set after the Hellos. This node sends its
                // time to the peer, which then compares its own clock.
                let refused = self.broadcasts.counters().untimely;
                self.broadcasts.receive(cx, from, batch);
                if self.broadcasts.counters().untimely > refused {
                    self.clocks.broadcast_refused(cx, from);
                }
            }
            Frame::Clock(unix) => {
                if let Some(peer) = cx.links.get(&from) {
                    self.clocks.compare(cx, peer, unix);
                }
            }
            Frame::Have(haves) => self.broadcasts.receive_haves(cx, from, &haves),
            Frame::Want(want) => self.broadcasts.receive_want(cx, from, want),
            Frame::Given(given) => self.broadcasts.receive_given(cx, from, given),
            Frame::Prune(run) => self.broadcasts.receive_prune(cx, from, run),
            Frame::NeighbourRequest(_)
            | Frame::NeighbourReply(_)
            | Frame::ForwardJoin(_)
            | Frame::Disconnect(_)
            | Frame::Shuffle(_)
            | Frame::ShuffleReply(_)
            | Frame::SignedBeacon(_) => self.membership.receive(cx, from, frame),
            Frame::ShutdownOrder(order) => self.orders.receive(cx, from, &order),
            // Beacons without a signature come over links of version 1. Any node can forge them, so they are
            // ignored: see `versions`.
            Frame::Beacon(_) => {}
            Frame::RosterDigest(_) | Frame::Members(_) | Frame::Revocations(_) => {
                self.members.receive(cx, from, frame);
            }
            // The remaining frames belong to the link itself or to the application, and are never handed to
            // the overlay.
            _ => {}
        }
    }

    /// Returns the next hop for a message to `to`, the node that a query asked for: `to` itself if there is a
    /// link with it, otherwise the peer that the answer came from. `asking` is the peer that the query came
    /// from, or `None` if this node sent it.
    fn next_hop(
        &self,
        cx: &OverlayContext<'_>,
        query: QueryId,
        asking: Option<NodeId>,
        to: NodeId,
    ) -> Option<NodeId> {
        // Checked even if there is a link with `to`. A peer may use a route only if it sent the query, so
        // that this node does not relay for strangers.
        let route = self.queries.route(query, asking, to)?;
        let next = if cx.links.contains_key(&to) { Some(to) } else { route };
        next.filter(|next| cx.links.contains_key(next))
    }
}

/// Returns the standing of a peer.
fn standing_of(peer: &Peer, membership: &Membership) -> Standing {
    if peer.direction() == Direction::Outbound {
        Standing::Relay
    } else if membership.is_neighbour(peer.id()) {
        Standing::Neighbour
    } else {
        Standing::Stranger
    }
}
