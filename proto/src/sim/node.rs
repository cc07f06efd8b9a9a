//! A simulated node: the state that outlives its runs, and the state of one run.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use super::files::{SimulatedDisk, SimulatedShare};
use super::liar::{Liar, Lies};
use super::nat::{Nat, Router};
use super::network::{address, ip_in_group, private_ip, public_ip};
use crate::address::Address;
use bytes::Bytes;
use serde_json::Value;

use crate::event::{ActionId, Peer};
use crate::frame::broadcast::Batch;
use crate::handler::{HandlerHost, Timers};
use crate::id::{Hash, Key, NodeId};
use crate::invitation::MembershipProof;
use crate::peer::{ConnectionId, DialId, Machine};
use crate::time::{Instant, Now};

/// Options of a simulated node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOptions {
    /// The node's name. `None` gives it the name `n` followed by its number.
    pub name: Option<String>,
    /// Other nodes can dial the node. If false, the node is behind a NAT: it gets no dials and probes of other
    /// nodes, but can dial them.
    pub dialable: bool,
    /// The kind of NAT that the node is behind, if it can't be dialled. `None` gives it a firewall that lets in nothing
    /// but the answers of nodes that it has dialled over TCP.
    pub nat: Option<Nat>,
    /// The node uses UDP and relays to reach nodes that it can't dial, and relays for others if it can be dialled.
    pub meets: bool,
    /// All links are made by hand, and the node is never a member of a network.
    pub manual: bool,
    /// The way in which the node lies; `None` for an honest node.
    pub lies: Option<Lies>,
    /// The /16 subnet of the node's address, which it shares with all other nodes of this number. `None` gives
    /// it a subnet of its own.
    pub group: Option<u8>,
    /// The node has a state folder. After a restart it still knows the peers that it was linked with, and
    /// still has the broadcasts of its earlier runs.
    pub state: bool,
    /// Number of milliseconds by which the node's clock is ahead of the right time; negative if it is behind.
    pub clock: i64,
}

/// The state of a node's join.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Joining {
    /// The node has not been asked to join since its start, or has left the network.
    #[default]
    No,
    /// The join is under way.
    Trying,
    /// The node is a member.
    Joined,
    /// The join has failed, for this reason.
    Failed(String),
}

impl Default for NodeOptions {
    /// Returns the options of a node that can be dialled, finds its own neighbours, is honest, and has
    /// no state folder.
    fn default() -> Self {
        Self {
            name: None,
            dialable: true,
            nat: None,
            meets: false,
            manual: false,
            lies: None,
            group: None,
            state: false,
            clock: 0,
        }
    }
}

impl NodeOptions {
    fn public_ip(&self, index: usize) -> Ipv4Addr {
        self.group.map_or_else(|| public_ip(index), |group| ip_in_group(index, group))
    }
}

pub(super) struct SimulatedNode<H> {
    pub(super) id: NodeId,
    pub(super) key: Key,
    pub(super) name: String,
    pub(super) options: NodeOptions,
    pub(super) liar: Option<Liar>,
    /// The router of the node's NAT.
    pub(super) router: Option<Router>,
    pub(super) app: H,
    /// Number of the node's starts, which is also the number of the present run.
    pub(super) run: u32,
    /// Epoch of the last run; 0 before the first run.
    last_epoch: u64,
    pub(super) running: Option<NodeRun>,
    /// The node was taken off the network: its address sends not even refusals.
    pub(super) vanished: bool,
    /// Group of the node in a partition; 0 without a partition.
    pub(super) partition_group: usize,
    pub(super) joining: Joining,
    /// Addresses of peers, from the state folder.
    pub(super) known_addresses: BTreeMap<NodeId, Address>,
    /// Broadcasts from the state folder.
    pub(super) stored_broadcasts: Vec<Batch>,
    /// The proof that the node shows in its Hello, if any.
    pub(super) membership: Option<MembershipProof>,
    /// Number of queries that have arrived.
    pub(super) queries: u64,
    /// In a cell, because the application writes files through a context that borrows the node immutably.
    pub(super) disk: RefCell<SimulatedDisk>,
    pub(super) shares: BTreeMap<Hash, SimulatedShare>,
    /// Number of bytes of pieces that the node has sent.
    pub(super) uploaded: u64,
}

/// The state of a node while it runs.
pub(super) struct NodeRun {
    pub(super) machine: Machine,
    /// Time of its start.
    pub(super) started: Instant,
    /// Reading of its clock at its start, in milliseconds since 1970.
    pub(super) started_unix: u64,
    /// The epoch and incarnation of this run: `started_unix`, or more if the node was started before in the same
    /// millisecond.
    pub(super) epoch: u64,
    pub(super) handles: BTreeMap<NodeId, LinkHandle>,
    /// The application's notes about its peers, by link.
    pub(super) info: BTreeMap<ConnectionId, BTreeMap<String, Value>>,
    /// The number of the last action that the application began.
    pub(super) last_action: Cell<u64>,
    /// The application's timers.
    pub(super) timers: Timers,
    /// Joins of the application that are under way, each with the number of addresses that are still tried.
    pub(super) joins: BTreeMap<ActionId, usize>,
    /// For each dial of the machine that is under way, its key in `Sim::dials`.
    pub(super) dials: BTreeMap<DialId, u64>,
    /// The peers that tell this node where they see it.
    pub(super) observers: BTreeSet<NodeId>,
    /// Nodes with which the application wants a link: see [`Sim::meet`](super::Sim::meet).
    pub(super) wanted: BTreeSet<NodeId>,
    /// Time of the event that wakes the machine.
    pub(super) wake: Option<Instant>,
    pub(super) stopping: bool,
}

impl NodeRun {
    /// Returns the time that the node's machine sees: the virtual time, and the reading of the node's clock.
    pub(super) fn own_time(&self, now: Instant) -> Now {
        let since = u64::try_from(now.since(self.started).as_millis()).unwrap_or(u64::MAX);
        Now { monotonic: now, unix: self.started_unix.saturating_add(since) }
    }
}

/// A node's reference to one of its links.
#[derive(Debug, Clone)]
pub(super) struct LinkHandle {
    pub(super) connection: ConnectionId,
    pub(super) side: usize,
    pub(super) peer: Peer,
}

/// Maximum number of peers in a state folder.
const MAX_KNOWN: usize = 128;

impl<H> SimulatedNode<H> {
    pub(super) fn new(
        index: usize,
        key: Key,
        options: NodeOptions,
        app: H,
        lies: [u8; 32],
    ) -> Self {
        let here = address(options.public_ip(index));
        let liar = options.lies.map(|how| Liar::new(how, here, lies));
        let nat = options.nat.filter(|_| !options.dialable && options.meets);
        let router = nat.map(|kind| Router::new(kind, index));
        Self {
            id: key.id(),
            key,
            name: options.name.clone().unwrap_or_else(|| format!("n{index}")),
            options,
            liar,
            router,
            app,
            run: 0,
            last_epoch: 0,
            running: None,
            vanished: false,
            partition_group: 0,
            joining: Joining::No,
            known_addresses: BTreeMap::new(),
            stored_broadcasts: Vec::new(),
            membership: None,
            queries: 0,
            disk: RefCell::default(),
            shares: BTreeMap::new(),
            uploaded: 0,
        }
    }

    /// Returns the node's public IP address.
    pub(super) fn public_ip(&self, index: usize) -> Ipv4Addr {
        self.options.public_ip(index)
    }

    /// Returns the IP address that the node announces: behind a NAT, a private one.
    pub(super) fn announced_ip(&self, index: usize) -> Ipv4Addr {
        if self.options.dialable { self.options.public_ip(index) } else { private_ip(index) }
    }

    /// Returns the reading of the node's clock when the right time is `unix`.
    pub(super) fn wall_clock(&self, unix: u64) -> u64 {
        unix.saturating_add_signed(self.options.clock)
    }

    /// Returns the epoch of a run that starts when the node's clock shows `unix`. Each run
    /// has a greater epoch than the run before, because peers use it to distinguish the runs and their broadcasts.
    pub(super) fn next_epoch(&mut self, unix: u64) -> u64 {
        self.last_epoch = unix.max(self.last_epoch.saturating_add(1));
        self.last_epoch
    }

    /// Returns the state of run number `run`, if the node is still in that run.
    pub(super) fn in_run(&mut self, run: u32) -> Option<&mut NodeRun> {
        self.running.as_mut().filter(|_| self.run == run)
    }

    /// Adds a peer to the state folder, if the node has one.
    pub(super) fn remember(&mut self, peer: &Peer) {
        if self.options.state && self.known_addresses.len() < MAX_KNOWN {
            self.known_addresses.insert(peer.id(), peer.address().clone());
        }
    }

    /// Adds broadcasts to the state folder, if the node has one.
    pub(super) fn store_broadcast(&mut self, batch: Batch) {
        if self.options.state {
            self.stored_broadcasts.push(batch);
        }
    }
}

/// The simulated node as its application sees it through a context.
pub(super) struct SimulatedHandlerHost<'a> {
    pub(super) id: NodeId,
    pub(super) name: &'a str,
    pub(super) now: Instant,
    pub(super) running: &'a NodeRun,
    pub(super) disk: &'a RefCell<SimulatedDisk>,
}

impl HandlerHost for SimulatedHandlerHost<'_> {
    fn id(&self) -> NodeId {
        self.id
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn peers(&self) -> Vec<Peer> {
        let mut handles: Vec<_> = self.running.handles.values().collect();
        // In the order in which the links were made, as on a real node.
        handles.sort_by_key(|handle| handle.connection);
        handles.into_iter().map(|handle| handle.peer.clone()).collect()
    }

    fn name(&self) -> &str {
        self.name
    }

    fn info(&self, peer: NodeId, key: &str) -> Option<Value> {
        let connection = self.running.handles.get(&peer)?.connection;
        self.running.info.get(&connection)?.get(key).cloned()
    }

    fn next_action(&self) -> ActionId {
        let last = &self.running.last_action;
        last.set(last.get() + 1);
        ActionId::new(last.get())
    }

    fn read_file(&self, path: &Path) -> io::Result<Bytes> {
        self.disk.borrow().read(path)
    }

    fn write_file(&self, path: &Path, content: Bytes) -> io::Result<()> {
        self.disk.borrow_mut().write(path, content);
        Ok(())
    }
}

/// Derives the seed of a random generator for one purpose from the seed of the simulation.
pub(super) fn derive_seed(seed: u64, purpose: &str, numbers: [u64; 2]) -> [u8; 32] {
    // Each purpose has its own generator. If one part of the code draws more numbers, the other parts still
    // draw the same ones.
    let [a, b] = numbers.map(u64::to_le_bytes);
    *Hash::of_parts(&[b"peerkit sim", &seed.to_le_bytes(), &a, &b, purpose.as_bytes()]).as_bytes()
}
