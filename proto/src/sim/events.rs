//! The events of a simulation, and the start of its nodes.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand_core::Rng;

use super::link::SimulatedLink;
use super::network::address;
use super::node::{NodeRun, derive_seed};
use super::queue::SimEvent;
use super::{BEGIN, NETWORK, Sim, eclipse};
use crate::event::Reason;
use crate::frame::broadcast::Batch;
use crate::handler::{Handler, Timers};
use crate::overlay::NodeSetup;
use crate::peer::{Command, Input, Machine, OperationId};
use crate::time::{Instant, Now};

impl<H: Handler> Sim<H> {
    pub(super) fn start(&mut self, index: usize) {
        let unix = self.nodes[index].wall_clock(self.unix());
        let node = &mut self.nodes[index];
        // Work and most events contain the number of their run, so those of earlier runs are ignored from
        // here on.
        node.run += 1;
        let epoch = node.next_epoch(unix);
        let setup = NodeSetup {
            key: node.key.clone(),
            name: node.name.clone(),
            network: NETWORK.to_owned(),
            // By the node's own clock. If that is wrong, it is wrong in everything that the node signs.
            epoch,
            manual: node.options.manual,
        };
        let seed = derive_seed(self.seed, "overlay", [index as u64, u64::from(node.run)]);
        let now = Now { monotonic: self.now, unix };
        let config = eclipse::config_of(&node.options, &self.config);
        let mut machine = Machine::new(now, setup, &config, seed);
        // One cache for all nodes saves most of the time for signatures. It changes no outcome, because a
        // signature's validity depends only on its bytes.
        machine.verify_with(self.verifier.clone());
        node.running = Some(NodeRun {
            machine,
            started: self.now,
            started_unix: unix,
            epoch,
            handles: BTreeMap::new(),
            info: BTreeMap::new(),
            last_action: Cell::new(0),
            timers: Timers::default(),
            joins: BTreeMap::new(),
            dials: BTreeMap::new(),
            observers: BTreeSet::new(),
            wanted: BTreeSet::new(),
            wake: None,
            stopping: false,
        });
        if let Some(router) = &mut node.router {
            router.clear();
        }
        let meets = node.options.meets && !node.options.manual;
        let listens = address(node.announced_ip(index));
        let known: Vec<_> =
            node.known_addresses.iter().map(|(id, address)| (*id, vec![address.clone()])).collect();
        let kept: Vec<Batch> = node.stored_broadcasts.clone();
        self.command(index, Command::Addresses(vec![listens]));
        if meets {
            self.command(index, Command::Meets { over_udp: true, over_relays: true });
        }
        if !known.is_empty() {
            self.command(index, Command::Known(known));
        }
        if !kept.is_empty() {
            self.command(index, Command::Restore(kept));
        }
        self.settle();
    }

    pub(super) fn process_event(&mut self, at: Instant, event: SimEvent) {
        self.now = at;
        match event {
            SimEvent::WakeNode { node } => self.wake_node(node),
            SimEvent::Arrive { connection, side } => self.arrive(connection, side),
            SimEvent::LineFree { connection, side } => self.line_free(connection, side),
            SimEvent::LinkSilent { connection, side, cuts } => {
                self.link_silent(connection, side, cuts);
            }
            SimEvent::GoodbyeTimeout { connection, side } => {
                self.goodbye_timed_out(connection, side);
            }
            SimEvent::LinkLost { connection, side } => {
                self.end_abruptly(connection, side, Reason::Lost("the other end is gone".into()));
            }
            SimEvent::Dial { dial, step } => self.step_dial(dial, step),
            SimEvent::Probe { probe, step } => self.step_probe(probe, step),
            SimEvent::Pong { ping } => self.pong(ping),
            SimEvent::RequestTimeout { request } => self.request_timed_out(request),
            SimEvent::Stream { stream, step } => self.step_stream(stream, step),
            SimEvent::WakeFetch { fetch } => self.wake_fetch(fetch),
            SimEvent::CallBack { operation, step } => {
                self.step_call_back(OperationId(operation), step);
            }
            SimEvent::Observe { node, run, by } => self.observed(node, run, by),
            SimEvent::SourceUnreachable { fetch, source } => self.source_unreachable(fetch, source),
            SimEvent::Timer { node, run } => self.timers_expired(node, run),
            SimEvent::EndRun { node, run } => {
                if self.nodes[node].run == run {
                    self.end_run(node, true);
                }
            }
        }
        self.settle();
    }

    pub(super) fn command(&mut self, node: usize, command: Command) {
        self.input(node, Input::Command(command));
    }

    /// Returns the right time, in milliseconds since 1970.
    pub(super) fn unix(&self) -> u64 {
        let millis = self.now.since_origin().as_millis();
        BEGIN.saturating_add(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    pub(super) fn next_operation(&mut self) -> OperationId {
        OperationId(self.next_id())
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Returns a random duration from zero to `max`.
    pub(super) fn random_duration(&mut self, max: Duration) -> Duration {
        // Leaves room for the 1 that is added.
        let micros = u64::try_from(max.as_micros()).unwrap_or(u64::MAX - 1);
        match micros {
            0 => Duration::ZERO,
            micros => Duration::from_micros(self.rng.next_u64() % (micros + 1)),
        }
    }

    /// Returns whether two nodes are cut off from each other: nothing gets from either node to the other.
    pub(super) fn is_cut(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.nodes[a], &self.nodes[b]);
        // All nodes are in group 0 while there is no partition.
        a.partition_group != b.partition_group || a.vanished || b.vanished
    }

    /// Returns whether the two ends of a link are cut off from each other, or from the node that relays it.
    pub(super) fn is_link_cut(&self, link: &SimulatedLink) -> bool {
        let [a, b] = [link.endpoints[0].node, link.endpoints[1].node];
        let relay = link.relay.unwrap_or(a);
        self.is_cut(a, b) || self.is_cut(a, relay) || self.is_cut(relay, b)
    }

    /// Adds an event to the trace: its name, the two nodes that it concerns, and more bytes.
    pub(super) fn trace_event(&mut self, what: &str, nodes: [usize; 2], more: &[u8]) {
        let [a, b] = nodes.map(|node| (node as u64).to_le_bytes());
        // The time is included, so that runs that differ only in their delays have different hashes.
        let nanos = self.now.since_origin().as_nanos().to_le_bytes();
        self.trace.update(&nanos).update(what.as_bytes()).update(&a).update(&b).update(more);
    }
}
