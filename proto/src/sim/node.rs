//! A node of a simulation: the state that outlives its runs, and the state of a run.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use super::files::{SimulatedDisk, SimulatedShare};
use super::liar::{Liar, Lies};
use super::network::{address, private_ip, public_ip};
use crate::address::Address;
use bytes::Bytes;
use serde_json::Value;

use crate::event::{ActionId, Peer};
use crate::frame::broadcast::Batch;
use crate::handler::{HandlerHost, Timers};
use crate::id::{Hash, Key, NodeId};
use crate::peer::{ConnectionId, DialId, Machine};
use crate::time::{Instant, Now};

/// Options of a node to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOptions {
    /// Its name; `None` for `n` and its number.
    pub name: Option<String>,
    /// Others can dial it. A node that can't be dialled is behind a NAT: dials and probes of it get no
    /// answer, but it can dial others.
    pub dialable: bool,
    /// Its links are made by hand only: it is never a member.
    pub manual: bool,
    /// The way in which it lies, if it does.
    pub lies: Option<Lies>,
    /// It has a state folder: after a restart it knows the peers that it was linked with, and has its
    /// broadcasts.
    pub state: bool,
    /// Milliseconds by which its clock is ahead of the right time; negative if it is behind.
    pub clock: i64,
}

/// The state of a node's join.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Joining {
    /// It was not asked to join.
    #[default]
    No,
    /// It is under way.
    Trying,
    /// It is a member.
    Joined,
    /// It has failed, for this reason.
    Failed(String),
}

impl Default for NodeOptions {
    /// Returns the options of a node that can be dialled, finds its own neighbours, is honest, and has
    /// no state folder.
    fn default() -> Self {
        Self { name: None, dialable: true, manual: false, lies: None, state: false, clock: 0 }
    }
}

pub(super) struct SimulatedNode<H> {
    pub(super) id: NodeId,
    pub(super) key: Key,
    pub(super) name: String,
    pub(super) options: NodeOptions,
    pub(super) liar: Option<Liar>,
    pub(super) app: H,
    /// Number of its starts.
    pub(super) run: u32,
    /// Epoch of its last run; 0 before the first.
    last_epoch: u64,
    pub(super) running: Option<NodeRun>,
    /// It was taken off the network: not even refusals come from its address.
    pub(super) vanished: bool,
    /// Its group in a partition.
    pub(super) partition_group: usize,
    pub(super) joining: Joining,
    /// The content of its state folder.
    pub(super) known_addresses: BTreeMap<NodeId, Address>,
    pub(super) stored_broadcasts: Vec<Batch>,
    /// Number of queries that have arrived.
    pub(super) queries: u64,
    /// In a cell: a context only borrows the node, and yet the application may write files through it.
    pub(super) disk: RefCell<SimulatedDisk>,
    pub(super) shares: BTreeMap<Hash, SimulatedShare>,
    /// Bytes of pieces that it has sent.
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
    /// The number of the last action that the application asked for.
    pub(super) actions: Cell<u64>,
    /// The application's timers.
    pub(super) timers: Timers,
    /// Joins of the application that are under way, with the number of addresses that are still being
    /// tried.
    pub(super) joins: BTreeMap<ActionId, usize>,
    /// Numbers of the dials under way, by their numbers in the machine.
    pub(super) dials: BTreeMap<DialId, u64>,
    /// Time at which the queue wakes the machine.
    pub(super) wake: Option<Instant>,
    pub(super) stopping: bool,
}

impl NodeRun {
    /// Returns the time by the node's own clocks.
    pub(super) fn own_time(&self, now: Instant) -> Now {
        let since = u64::try_from(now.since(self.started).as_millis()).unwrap_or(u64::MAX);
        Now { monotonic: now, unix: self.started_unix.saturating_add(since) }
    }
}

/// A node's end of a link.
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
        let liar = options.lies.map(|how| Liar::new(how, address(public_ip(index)), lies));
        Self {
            id: key.id(),
            key,
            name: options.name.clone().unwrap_or_else(|| format!("n{index}")),
            options,
            liar,
            app,
            run: 0,
            last_epoch: 0,
            running: None,
            vanished: false,
            partition_group: 0,
            joining: Joining::No,
            known_addresses: BTreeMap::new(),
            stored_broadcasts: Vec::new(),
            queries: 0,
            disk: RefCell::default(),
            shares: BTreeMap::new(),
            uploaded: 0,
        }
    }

    /// Returns the IP address that it announces.
    pub(super) fn announced_ip(&self, index: usize) -> Ipv4Addr {
        if self.options.dialable { public_ip(index) } else { private_ip(index) }
    }

    /// Returns the time on its clock when the right time is `unix`.
    pub(super) fn wall_clock(&self, unix: u64) -> u64 {
        unix.saturating_add_signed(self.options.clock)
    }

    /// Returns the epoch of a run that starts when the node's clock shows `unix`. Epochs only increase, because
    /// peers tell the runs of a node, and the broadcasts of each run, apart by them.
    pub(super) fn next_epoch(&mut self, unix: u64) -> u64 {
        self.last_epoch = unix.max(self.last_epoch.saturating_add(1));
        self.last_epoch
    }

    /// Returns the present run if it has this number.
    pub(super) fn in_run(&mut self, run: u32) -> Option<&mut NodeRun> {
        self.running.as_mut().filter(|_| self.run == run)
    }

    /// Remembers a peer, if the node has a state folder.
    pub(super) fn remember(&mut self, peer: &Peer) {
        if self.options.state && self.known_addresses.len() < MAX_KNOWN {
            self.known_addresses.insert(peer.id(), peer.address().clone());
        }
    }

    /// Keeps broadcasts, if the node has a state folder.
    pub(super) fn store_broadcast(&mut self, batch: Batch) {
        if self.options.state {
            self.stored_broadcasts.push(batch);
        }
    }
}

/// The view of a node's application.
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
        // As on a real node, in the order in which the links were made.
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
        let actions = &self.running.actions;
        actions.set(actions.get() + 1);
        ActionId::new(actions.get())
    }

    fn read_file(&self, path: &Path) -> io::Result<Bytes> {
        self.disk.borrow().read(path)
    }

    fn write_file(&self, path: &Path, content: Bytes) -> io::Result<()> {
        self.disk.borrow_mut().write(path, content);
        Ok(())
    }
}

/// Draws bytes from a seed for one purpose.
pub(super) fn derive_seed(seed: u64, purpose: &str, numbers: [u64; 2]) -> [u8; 32] {
    // With the purpose, each part of the code has numbers of its own: if one draws more, the others
    // draw the same.
    let [a, b] = numbers.map(u64::to_le_bytes);
    *Hash::of_parts(&[b"peerkit sim", &seed.to_le_bytes(), &a, &b, purpose.as_bytes()]).as_bytes()
}
