//! The simulator, which runs an application on thousands of nodes in virtual time.
//!
//! Each node is a real [`Machine`](crate::peer::Machine) with the application's own [`Handler`]: the same code that
//! runs on a real node. Only the clock and the network are models: latencies, bandwidth, addresses, NATs, crashes
//! and partitions. Virtual time skips from one event to the next, so a run takes only the time that its events need.
//!
//! The same seed gives the same run on every computer, to the last byte of every frame. Tests check that
//! with [`Sim::trace_hash`]. So a failed run can be repeated with its seed until it is understood.
//!
//! ```
//! use std::time::Duration;
//! use peerkit_proto::event::Broadcast;
//! use peerkit_proto::handler::{Context, Handler};
//! use peerkit_proto::sim::{Sim, SimConfig};
//!
//! #[derive(Default)]
//! struct Recorder(Vec<String>);
//!
//! impl Handler for Recorder {
//!     fn node_broadcast(&mut self, _: &mut Context<'_>, broadcast: Broadcast) {
//!         self.0.push(broadcast.message.as_text().unwrap_or_default().to_owned());
//!     }
//! }
//!
//! let mut sim = Sim::new(SimConfig { seed: 7, ..SimConfig::default() });
//! let ann = sim.add(Recorder::default());
//! let bob = sim.add(Recorder::default());
//! sim.connect(bob, ann);
//! assert!(sim.run_until(Duration::from_secs(5), |sim| sim.links().len() == 1));
//! sim.broadcast(ann, "greeting", "hello").unwrap();
//! sim.run_for(Duration::from_secs(1));
//! assert_eq!(sim.app(bob).0, ["hello"]);
//! ```
//!
//! # What is modelled
//! - **Time** passes only between events. Nodes act in no time, because processors are not modelled.
//! - **Addresses.** Each node has a public IPv4 address and listens on port 7117. Each of the first 22,784
//!   nodes has a /16 of its own.
//! - **A dial** takes two round trips (TCP, then TLS 1.3) and one more for the Hellos. It is refused
//!   after one round trip if the node is not running. It fails after `connect_timeout` if the node is behind
//!   a NAT, across a partition, or has vanished, because such nodes do not answer.
//! - **NATs.** A node behind a NAT of one of the [kinds](Nat) of RFC 4787 reaches others over UDP as on a real node: peers
//!   tell it where they see it, and the two nodes dial each other at the same time. Packets get through the routers or
//!   do not. Where no hole can be punched, a third node relays the connection. The rates of relays are not limited, and
//!   all other nodes that can't be dialled are behind firewalls that let in no packet.
//! - **A link** delivers frames in order. A frame first waits until its line, which models the bandwidth, has
//!   sent the frames before it. Then it takes the latency of the two nodes. Queues that are crowded or full
//!   behave as on a real node.
//! - **The end of a link.** A node that hangs up sends its goodbye after everything that is queued. If the peer
//!   is too slow, the node drops the queue instead, and sends only the goodbye. After a [crash](Sim::crash),
//!   which is a killed process, the peers lose their links one latency later. A node that
//!   [vanishes](Sim::vanish) or is cut off by a [partition](Sim::partition) sends nothing. Frames in flight are
//!   held, and arrive if the nodes can reach each other again in time. After `dead_after` of silence each
//!   endpoint gives the link up. The pings that detect silence are not sent as frames.
//! - **Clocks** are right, except those of nodes with another [`NodeOptions::clock`]. A node learns the
//!   peer's clock at the start of a link.
//! - **Messages to nodes without a link** are sent as on a real node: over an on-demand link, or
//!   relayed along the way of a query. Nodes with a state folder remember the addresses of the nodes that they
//!   were linked with.
//! - **Actions of applications.** A discovery and a search are queries of the real overlay. A ping over a link
//!   takes one round trip. A ping of a node without a link is relayed by other nodes.
//! - **Timers** of applications expire in virtual time, to the nanosecond.
//! - **Requests** and their replies go over the link like messages, after the messages that are already
//!   queued. The application answers in no time. Refusals go with the overlay's frames. A requester that
//!   gives up does not tell the peer.
//! - **Files.** Each node has a simulated disk, which outlives its runs, and shares files from it. The same
//!   state machine as on a real node decides a fetch. Each source has a connection of its own, with the
//!   latency of the two nodes and the bandwidth of a link: at 1 MB/s, one megabyte takes one second. Every
//!   piece is checked against the hash. Hashing and the disk take no time, and all fetches of a node run at
//!   once.
//!
//! Folders can't be shared in the simulator, and a search matches words but no patterns. Tickets, rate
//! limits and streams of applications are not simulated.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::address::Address;
use crate::config::Config;
use crate::event::NodeInfo;
use crate::frame::query::QueryKind;
use crate::handler::{Context, Handler};
use crate::id::{Hash, Key, NodeId};
use crate::message::Message;
use crate::overlay::Overlay;
use crate::overlay::broadcast::BroadcastError;
use crate::peer::{BroadcastReceipt, Command, ConnectionId, OperationId};
use crate::time::Instant;
use crate::verify::Verifier;

mod actions;
mod dial;
mod direct;
mod eclipse;
mod ends;
mod events;
mod faults;
mod fetch;
mod files;
mod flood;
mod graph;
mod liar;
mod link;
mod meet;
mod members;
mod nat;
mod network;
mod node;
mod probe;
mod queue;
mod requests;
pub mod scenario;
mod shell;
mod stats;
mod stream;
#[cfg(test)]
mod tests;
mod timers;

use actions::{AppQuery, LinkPurpose, SimulatedPing};
use dial::SimulatedDial;
use direct::SimulatedSend;
use files::Transfers;
use link::SimulatedLink;
use network::{address, public_ip};
use node::{NodeRun, SimulatedHandlerHost, SimulatedNode, derive_seed};
use probe::SimulatedProbe;
use queue::SimEventQueue;
use requests::PendingRequest;
use shell::Work;

pub use liar::Lies;
pub use nat::{Dependence, Nat};
pub use network::{Latency, Network};
pub use node::{Joining, NodeOptions};
pub use stats::{Count, Stats};

/// The network of all nodes of a simulation.
const NETWORK: &str = "sim";

/// Start of simulations: the beginning of 2025, in milliseconds since 1970.
const BEGIN: u64 = 1_735_689_600_000;

/// Maximum number of checked signatures that are remembered, so that each is checked once for all nodes.
const SIGNATURES: usize = 1 << 17;

/// A network of nodes that run the application `H`.
///
/// Nodes are numbered from 0 in the order in which they are added. All methods take these numbers, and
/// panic if there is no such node.
pub struct Sim<H> {
    seed: u64,
    config: Config,
    network: Network,
    now: Instant,
    nodes: Vec<SimulatedNode<H>>,
    by_id: BTreeMap<NodeId, usize>,
    /// Links, and connections that may become links.
    links: BTreeMap<ConnectionId, SimulatedLink>,
    dials: BTreeMap<u64, SimulatedDial>,
    probes: BTreeMap<u64, SimulatedProbe>,
    discoveries: BTreeMap<OperationId, SimulatedDiscovery>,
    /// Discoveries and searches that applications began through their contexts.
    app_queries: BTreeMap<OperationId, AppQuery>,
    /// For each dial that the application or the user of the simulation began: the purpose of its link.
    link_purposes: BTreeMap<OperationId, LinkPurpose>,
    /// Requests that wait for their replies.
    pending_requests: BTreeMap<u64, PendingRequest>,
    /// Pings over links that wait for their answers.
    pings: BTreeMap<u64, SimulatedPing>,
    /// Messages, pings and requests to nodes without a link, until they are sent or have failed.
    pending_sends: BTreeMap<OperationId, SimulatedSend>,
    transfers: Transfers,
    /// The outcome of the last broadcast, until it is read.
    broadcast_outcome: Option<Result<BroadcastReceipt, BroadcastError>>,
    queue: SimEventQueue,
    /// Work of the present moment.
    work: VecDeque<Work>,
    /// The last number that was used as the id of a connection, dial, stream, request or operation.
    last_id: u64,
    rng: ChaCha8Rng,
    verifier: Verifier,
    stats: Stats,
    trace: blake3::Hasher,
    scratch: Vec<u8>,
}

/// The configuration of a simulation.
#[derive(Debug, Clone, Default)]
pub struct SimConfig {
    /// The seed of all randomness: of latencies, and of the nodes' keys and random choices.
    pub seed: u64,
    /// The configuration of every node.
    pub config: Config,
    /// The network between them.
    pub network: Network,
}

/// The results of a discovery so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SimulatedDiscovery {
    /// The nodes that have answered, by identity. The node that asks is not among them.
    pub nodes: BTreeMap<NodeId, NodeInfo>,
    /// `None` until the discovery has ended; then whether all nodes within its depth have answered.
    pub complete: Option<bool>,
}

impl<H: Handler> Sim<H> {
    /// Returns a simulation without nodes, at time zero.
    #[must_use]
    pub fn new(config: SimConfig) -> Self {
        let SimConfig { seed, config, network } = config;
        Self {
            seed,
            config,
            network,
            now: Instant::ZERO,
            nodes: Vec::new(),
            by_id: BTreeMap::new(),
            links: BTreeMap::new(),
            dials: BTreeMap::new(),
            probes: BTreeMap::new(),
            discoveries: BTreeMap::new(),
            app_queries: BTreeMap::new(),
            link_purposes: BTreeMap::new(),
            pending_requests: BTreeMap::new(),
            pings: BTreeMap::new(),
            pending_sends: BTreeMap::new(),
            transfers: Transfers::default(),
            broadcast_outcome: None,
            queue: SimEventQueue::default(),
            work: VecDeque::new(),
            last_id: 0,
            rng: ChaCha8Rng::from_seed(derive_seed(seed, "network", [0, 0])),
            verifier: Verifier::with_cache(SIGNATURES),
            stats: Stats::default(),
            trace: blake3::Hasher::new(),
            scratch: Vec::new(),
        }
    }

    /// Adds a node that can be dialled, and starts it. Returns its number.
    pub fn add(&mut self, app: H) -> usize {
        self.add_with(NodeOptions::default(), app)
    }

    /// Adds a node with these options, and starts it. Returns its number. During a
    /// [partition](Sim::partition) the node belongs to the first group.
    pub fn add_with(&mut self, options: NodeOptions, app: H) -> usize {
        let node = self.nodes.len();
        let key = Key::from_secret(&derive_seed(self.seed, "key", [node as u64, 0]));
        let lies = derive_seed(self.seed, "lies", [node as u64, 0]);
        self.by_id.insert(key.id(), node);
        self.nodes.push(SimulatedNode::new(node, key, options, app, lies));
        self.start(node);
        node
    }

    /// Returns the number of nodes that were added, running or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Returns whether no node was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Returns the virtual time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Returns whether a node runs.
    #[must_use]
    pub fn is_running(&self, node: usize) -> bool {
        self.nodes[node].running.is_some()
    }

    /// Returns a node's options.
    #[must_use]
    pub fn options(&self, node: usize) -> &NodeOptions {
        &self.nodes[node].options
    }

    /// Returns a node's identity.
    #[must_use]
    pub fn id(&self, node: usize) -> NodeId {
        self.nodes[node].id
    }

    /// Returns the node with an identity; `None` if there is no such node.
    #[must_use]
    pub fn node_of(&self, id: NodeId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// Returns the public address of a node. A node behind a NAT can't be dialled there.
    #[must_use]
    pub fn address(&self, node: usize) -> Address {
        address(self.ip_of(node))
    }

    fn ip_of(&self, node: usize) -> Ipv4Addr {
        // Tests name the addresses of nodes that they have not added.
        self.nodes.get(node).map_or_else(|| public_ip(node), |of| of.public_ip(node))
    }

    /// Returns the time that a byte takes from one node to another, without jitter.
    #[must_use]
    pub fn latency(&self, from: usize, to: usize) -> Duration {
        self.network.latency.between(self.seed, from, to)
    }

    /// Returns a node's application. If the node is not running, it is the application of its last run.
    #[must_use]
    pub fn app(&self, node: usize) -> &H {
        &self.nodes[node].app
    }

    /// Returns a node's application, to change it. With [`Sim::with`] it can also act.
    #[must_use]
    pub fn app_mut(&mut self, node: usize) -> &mut H {
        &mut self.nodes[node].app
    }

    /// Calls `act` with a node's application and a context. The actions that `act` begins with the context
    /// are carried out like those of the handler's own methods.
    ///
    /// # Panics
    /// If the node is not running.
    pub fn with<R>(&mut self, node: usize, act: impl FnOnce(&mut H, &mut Context<'_>) -> R) -> R {
        let mut actions = Vec::new();
        let SimulatedNode { id, name, app, running, disk, .. } = &mut self.nodes[node];
        let running = running.as_ref().expect("only a node that runs can act");
        let host = SimulatedHandlerHost { id: *id, name, now: self.now, running, disk };
        let result = act(app, &mut Context::new(&host, &mut actions));
        self.perform(node, actions);
        self.settle();
        result
    }

    /// Returns a node's overlay; `None` if it is not running.
    #[must_use]
    pub fn overlay(&self, node: usize) -> Option<&Overlay> {
        self.nodes[node].running.as_ref().map(|running| running.machine.overlay())
    }

    /// Makes node `from` dial the public address of node `to`. The link is pinned, like a link that a user
    /// asked for.
    pub fn connect(&mut self, from: usize, to: usize) {
        self.connect_to(from, self.address(to), false);
    }

    /// Makes a node dial an address. If `keep` is set, the node dials it again whenever the link is lost.
    pub fn connect_to(&mut self, from: usize, address: Address, keep: bool) {
        self.link_to(from, vec![address], keep, LinkPurpose::Connect(None));
        self.settle();
    }

    /// Makes a node join the network of node `through`: it dials that node, and then asks
    /// that node for a place in the network. [`Sim::joining`] returns the outcome. A node that is not running
    /// does nothing.
    pub fn join(&mut self, node: usize, through: usize) {
        if self.is_running(node) {
            self.nodes[node].joining = Joining::Trying;
            let address = self.address(through);
            self.link_to(node, vec![address], false, LinkPurpose::Join(None));
            self.settle();
        }
    }

    /// Returns the state of a node's join.
    #[must_use]
    pub fn joining(&self, node: usize) -> &Joining {
        &self.nodes[node].joining
    }

    /// Makes a node close its link with node `from`, as if its user had asked for that.
    pub fn disconnect(&mut self, node: usize, from: usize) {
        let id = self.id(from);
        self.command(node, Command::Disconnect(id));
        self.settle();
    }

    /// Sets the maximum number of inbound links of a node. Present links stay.
    pub fn set_max_inbound(&mut self, node: usize, links: usize) {
        self.command(node, Command::MaxInbound(links));
    }

    /// Makes a node send a broadcast. Returns the broadcast's id.
    ///
    /// # Errors
    /// If the title or the content is over its limit. Then nothing is sent.
    ///
    /// # Panics
    /// If the node is not running.
    pub fn broadcast(
        &mut self,
        node: usize,
        title: impl Into<String>,
        message: impl Into<Message>,
    ) -> Result<Hash, BroadcastError> {
        let sent = self.send_broadcast_of(node, title.into(), message.into());
        self.settle();
        sent.map(|id| id.expect("only a node that runs can broadcast"))
    }

    /// Makes a node discover the network up to `depth` hops away; -1 for the whole network.
    /// [`Sim::discovery`] returns the results.
    ///
    /// # Panics
    /// If the node is not running.
    pub fn discover(&mut self, node: usize, depth: i32) -> OperationId {
        let operation = self.begin_query(node, QueryKind::Discover, depth);
        let operation = operation.expect("only a node that runs can ask");
        // Before the node acts, so that the first answer finds this entry.
        self.discoveries.insert(operation, SimulatedDiscovery::default());
        self.settle();
        operation
    }

    /// Returns the results of a discovery so far; `None` if there is no such discovery.
    #[must_use]
    pub fn discovery(&self, operation: OperationId) -> Option<&SimulatedDiscovery> {
        self.discoveries.get(&operation)
    }

    /// Makes a node leave its network. It continues to run, without links.
    pub fn leave(&mut self, node: usize) {
        self.command(node, Command::Leave);
        self.nodes[node].joining = Joining::No;
        self.settle();
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some((at, event)) = self.queue.take(until) {
            self.process_event(at, event);
        }
        self.now = until;
    }

    /// Lets time pass until `condition` returns true, but at most `limit`. Returns whether it did.
    ///
    /// `condition` is checked before any time passes, and then after all events of each moment.
    pub fn run_until(&mut self, limit: Duration, mut condition: impl FnMut(&Self) -> bool) -> bool {
        let until = self.now + limit;
        loop {
            if condition(self) {
                return true;
            }
            let Some(moment) = self.queue.next().filter(|next| *next <= until) else { break };
            // Events may add more events for the same moment. The loop takes these too.
            while let Some((at, event)) = self.queue.take(moment) {
                self.process_event(at, event);
            }
        }
        self.now = until;
        false
    }

    /// Returns the counters of everything that has happened so far.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Returns the hash of everything that has happened so far, in order: the bytes of every frame, every
    /// event of an application, every dial. Equal seeds and equal calls give equal hashes.
    #[must_use]
    pub fn trace_hash(&self) -> Hash {
        Hash::from_bytes(*self.trace.finalize().as_bytes())
    }
}
