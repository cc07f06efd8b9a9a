//! The overlay: what a node knows and does about the network around it.
//!
//! One state machine that composes those below it; they never call each other. Driven like all
//! here: *handle one thing, poll until `None`, sleep until `poll_timeout`*.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::address::Address;
use crate::config::Config;
use crate::event::{Direction, Event, Neighbour, NodeInfo, Parting, Peer, Reason};
use crate::frame::Frame;
use crate::frame::query::{
    Answer, AnswerBody, MAX_FILES, MAX_NEIGHBOURS, QueryId, UNLIMITED, What,
};
use crate::hello::MAX_NAME;
use crate::id::{Hash, Key, NodeId};
use crate::message::Message;
use crate::time::{Instant, earliest};

pub mod admission;
pub mod broadcast;
pub(crate) mod query;
mod redial;
#[cfg(test)]
mod tests;

use admission::{Admission, Admissions, Candidate};
use broadcast::{BroadcastError, Broadcasts, Receipt};
use query::Queries;
use redial::Redials;

/// The state of one node's overlay.
#[derive(Debug)]
pub struct Overlay {
    key: Key,
    me: NodeId,
    name: String,
    addresses: Vec<Address>,
    query_timeout: Duration,
    rng: ChaCha8Rng,
    links: BTreeMap<NodeId, Peer>,
    admissions: Admissions,
    queries: Queries,
    broadcasts: Broadcasts,
    redials: Redials,
    outbox: VecDeque<Output>,
}

/// Who a node is, as its overlay needs to know.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its key pair.
    pub key: Key,
    /// What it calls itself.
    pub name: String,
    /// The network that it belongs to.
    pub network: String,
    /// When it started, in milliseconds since 1970.
    pub epoch: u64,
}

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
    /// The application wants something.
    Command(Command),
}

/// What the application wants of the overlay.
#[derive(Debug)]
#[non_exhaustive]
pub enum Command {
    /// Ask the network. Ends with [`Output::Ended`].
    Query {
        /// Names it: see [`Overlay::draw_query_id`].
        id: QueryId,
        /// The question.
        what: What,
        /// Hops; -1 for the whole network, 0 for nobody.
        depth: i32,
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
}

/// What comes out of the overlay.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output {
    /// Put a frame into a link's first lane.
    Send(NodeId, Frame),
    /// Dial an address; answer with [`Input::Dialled`] or [`Input::DialFailed`].
    Dial {
        /// The address.
        address: Address,
    },
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
    },
    /// An answer to a query of ours.
    Answered {
        /// The answer.
        answer: Answer,
    },
    /// A query of ours has ended.
    Ended {
        /// The query.
        query: QueryId,
        /// Whether all nodes within its depth have answered.
        complete: bool,
    },
}

impl Overlay {
    /// The overlay of a node without links. `seed` is all the chance that it ever gets.
    #[must_use]
    pub fn new(identity: Identity, config: &Config, seed: [u8; 32]) -> Self {
        let me = identity.key.id();
        let name = identity.name[..identity.name.floor_char_boundary(MAX_NAME)].to_owned();
        Self {
            key: identity.key,
            me,
            name,
            addresses: Vec::new(),
            query_timeout: config.query_timeout,
            rng: ChaCha8Rng::from_seed(seed),
            links: BTreeMap::new(),
            admissions: Admissions::new(me, config),
            queries: Queries::new(config),
            broadcasts: Broadcasts::new(identity.network, identity.epoch, config),
            redials: Redials::new(config),
            outbox: VecDeque::new(),
        }
    }

    /// Takes one input. Poll the outputs before the next.
    pub fn handle(&mut self, now: Instant, input: Input) {
        debug_assert!(self.outbox.is_empty(), "poll until None before the next input");
        match input {
            Input::LinkUp { peer, candidate } => {
                self.admissions.link_up(candidate);
                self.links.insert(peer.id(), peer);
            }
            Input::LinkDown { id, .. } => {
                self.admissions.link_down(id);
                self.links.remove(&id);
                self.queries.link_down(id, &mut self.outbox);
                self.redials.link_down(now, id, &mut self.rng);
            }
            Input::Dialled { address, id } => self.redials.dialled(&address, id),
            Input::DialFailed { address, error } => {
                let (rng, out) = (&mut self.rng, &mut self.outbox);
                self.redials.dial_failed(now, &address, error, rng, out);
            }
            Input::Frame(from, frame) => self.on_frame(now, from, frame),
            Input::Command(command) => self.on_command(now, command),
        }
        self.answer_what_we_know();
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.queries.handle_timeout(now, &mut self.outbox);
        self.redials.handle_timeout(now, &mut self.outbox);
    }

    /// The next output, `None` when there is no more.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When [`Overlay::handle_timeout`] is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        earliest(self.queries.poll_timeout(), self.redials.poll_timeout())
    }

    /// A dial has reached `id`: may it say Hello?
    ///
    /// # Errors
    /// Where the node is this one, or there is a link with it already.
    pub fn greet(&mut self, id: NodeId) -> Result<(), Reason> {
        self.admissions.greet(id)
    }

    /// A dial that was allowed to say Hello has its answer, or failed.
    pub fn greeted(&mut self, id: NodeId) {
        self.admissions.greeted(id);
    }

    /// What is to become of a connection that has said Hello.
    #[must_use]
    pub fn admit(&self, candidate: &Candidate) -> Admission {
        self.admissions.admit(candidate)
    }

    /// Signs a broadcast and sends it to every link. Returns its id and how many links took it.
    ///
    /// # Errors
    /// Where the title or content is over its limit: nothing is sent.
    pub fn broadcast(
        &mut self,
        time: u64,
        title: String,
        message: Message,
    ) -> Result<(Hash, usize), BroadcastError> {
        let (id, envelope) = self.broadcasts.publish(&self.key, time, title, message)?;
        let send = |peer: &NodeId| Output::Send(*peer, Frame::Broadcast(envelope.clone()));
        self.outbox.extend(self.links.keys().map(send));
        Ok((id, self.links.len()))
    }

    /// A name for a new query.
    pub fn draw_query_id(&mut self) -> QueryId {
        let mut id = [0; 16];
        self.rng.fill_bytes(&mut id);
        QueryId(id)
    }

    /// This node as a discovery shows it.
    #[must_use]
    pub fn info(&self) -> NodeInfo {
        let side = |direction| {
            let links = self.links.values().filter(move |peer| peer.direction() == direction);
            let told = |peer: &Peer| Neighbour { id: peer.id(), address: peer.address().clone() };
            links.map(told).collect()
        };
        NodeInfo {
            id: self.me,
            name: self.name.clone(),
            addresses: self.addresses.clone(),
            outbound: side(Direction::Outbound),
            inbound: side(Direction::Inbound),
        }
    }

    fn on_frame(&mut self, now: Instant, from: NodeId, frame: Frame) {
        let out = &mut self.outbox;
        match frame {
            Frame::Query(query) => {
                let neighbours = self.links.keys().copied();
                self.queries.receive(now, from, query, neighbours, out);
            }
            Frame::Answer(answer) => self.queries.receive_answer(from, answer, out),
            Frame::QueryDone(done) => self.queries.receive_done(from, done, out),
            Frame::Broadcast(envelope) => match self.broadcasts.receive(&envelope) {
                Receipt::Seen => {}
                // Honest nodes verify before they pass on, so whoever sent this is not one.
                Receipt::Forged => {
                    let reason = Reason::Fault("a broadcast wrongly signed, or too large".into());
                    out.push_back(Output::Hangup(from, reason));
                }
                Receipt::New(broadcast) => {
                    let others = self.links.keys().filter(|peer| **peer != from);
                    let send =
                        |peer: &NodeId| Output::Send(*peer, Frame::Broadcast(envelope.clone()));
                    out.extend(others.map(send));
                    out.push_back(Output::Event(Event::NodeBroadcast { broadcast }));
                }
            },
            // The link's own frames and the application's never come here.
            _ => {}
        }
    }

    fn on_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Query { id, what, depth, timeout } => {
                let depth = match u8::try_from(depth) {
                    Ok(depth) => depth.min(UNLIMITED - 1),
                    Err(_) if depth < 0 => UNLIMITED,
                    Err(_) => UNLIMITED - 1,
                };
                let timeout = timeout.unwrap_or(self.query_timeout);
                let neighbours = self.links.keys().copied();
                let out = &mut self.outbox;
                self.queries.ask(now, (id, what), depth, timeout, neighbours, out);
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
                if self.links.contains_key(&id) {
                    self.outbox.push_back(Output::Hangup(id, Reason::Requested));
                }
            }
            Command::Addresses(addresses) => self.addresses = addresses,
        }
    }

    /// Answers the queries that need nobody else, and tells of nodes that were heard of.
    fn answer_what_we_know(&mut self) {
        let outputs = std::mem::take(&mut self.outbox);
        for output in outputs {
            match output {
                Output::Lookup { query, what: What::Discover } => {
                    let info = self.info();
                    let bodies = neighbour_parts(info.outbound, info.inbound);
                    self.answer(query, bodies);
                }
                Output::Lookup { query, what: What::FindNode(id) } => self.answer_where(query, id),
                Output::Lookup { query, what: What::CallBack { target, .. } }
                    if target != self.me =>
                {
                    self.answer(query, Vec::new());
                }
                other => self.outbox.push_back(other),
            }
        }
    }

    fn answer(&mut self, id: QueryId, bodies: Vec<AnswerBody>) {
        let (node, name, addresses) = (self.me, self.name.clone(), self.addresses.clone());
        let told =
            |body| Answer { id, node, name: name.clone(), addresses: addresses.clone(), body };
        let answers = bodies.into_iter().map(told).collect();
        self.queries.answer(id, answers, &mut self.outbox);
    }

    fn answer_where(&mut self, id: QueryId, wanted: NodeId) {
        if wanted == self.me {
            self.answer(id, vec![AnswerBody::Here]);
            return;
        }
        let answers = self.links.get(&wanted).map(|peer| Answer {
            id,
            node: wanted,
            name: peer.name().to_owned(),
            addresses: vec![peer.address().clone()],
            body: AnswerBody::Here,
        });
        self.queries.answer(id, answers.into_iter().collect(), &mut self.outbox);
    }
}

/// Neighbours in as many answers as they need; at least one.
fn neighbour_parts(outbound: Vec<Neighbour>, inbound: Vec<Neighbour>) -> Vec<AnswerBody> {
    let mut outbound = outbound.chunks(MAX_NEIGHBOURS).map(<[_]>::to_vec);
    let mut inbound = inbound.chunks(MAX_NEIGHBOURS).map(<[_]>::to_vec);
    let mut parts = Vec::new();
    loop {
        match (outbound.next(), inbound.next()) {
            (None, None) if !parts.is_empty() => return parts,
            (out, inn) => {
                parts
                    .push(AnswerBody::Neighbours(out.unwrap_or_default(), inn.unwrap_or_default()));
            }
        }
    }
}
