//! Probes of simulated nodes. A probe is a request with one answer, on a stream of its own and without a
//! link.

use std::collections::VecDeque;

use super::Sim;
use super::dial::Reachability;
use super::queue::{ProbeStep, SimEvent};
use super::stats::PROBE;
use crate::address::Address;
use crate::frame::membership::Probe;
use crate::handler::Handler;
use crate::id::NodeId;
use crate::peer::{Input, OperationId};

/// A probe under way.
#[derive(Debug)]
pub(super) struct SimulatedProbe {
    from: usize,
    run: u32,
    /// The identity of the node that is asked.
    id: NodeId,
    /// Addresses that are not tried yet.
    addresses: VecDeque<Address>,
    probe: Probe,
    /// The number of the node that is asked, once an address has answered.
    to: usize,
    answer: Option<Probe>,
}

impl<H: Handler> Sim<H> {
    /// Sends a probe to a node, at the first of the addresses at which that node answers.
    pub(super) fn probe(
        &mut self,
        from: usize,
        id: NodeId,
        addresses: Vec<Address>,
        mut probe: Probe,
    ) {
        let unix = self.unix();
        if let Some(liar) = &mut self.nodes[from].liar {
            liar.change_probe(unix, &mut probe);
        }
        self.stats.probes += 1;
        let probe_id = self.next_id();
        let (run, addresses) = (self.nodes[from].run, addresses.into());
        let probing = SimulatedProbe { from, run, id, addresses, probe, to: from, answer: None };
        self.probes.insert(probe_id, probing);
        self.try_next_address(probe_id);
    }

    pub(super) fn step_probe(&mut self, probe_id: u64, step: ProbeStep) {
        let Some(probing) = self.probes.get(&probe_id) else { return };
        let (from, run) = (probing.from, probing.run);
        if self.nodes[from].in_run(run).is_none() {
            self.probes.remove(&probe_id);
            return;
        }
        match step {
            ProbeStep::Next => self.try_next_address(probe_id),
            ProbeStep::Asked => self.answer_probe(probe_id),
            ProbeStep::Answered => {
                if let Some(SimulatedProbe { id, to, answer, .. }) = self.probes.remove(&probe_id) {
                    let answer = answer.map(|answer| (self.ip_of(to).into(), answer));
                    self.input(from, Input::Probed { id, answer });
                }
            }
        }
    }

    fn try_next_address(&mut self, probe_id: u64) {
        let Some(probing) = self.probes.get_mut(&probe_id) else { return };
        let (from, id) = (probing.from, probing.id);
        let Some(address) = probing.addresses.pop_front() else {
            self.probes.remove(&probe_id);
            self.input(from, Input::Probed { id, answer: None });
            return;
        };
        let expected = address.id.unwrap_or(id);
        let (wait, step) = match self.reachable(from, &address) {
            Reachability::NoAnswer => (self.config.connect_timeout, ProbeStep::Next),
            // One round trip: the SYN and the RST.
            Reachability::NotRunning(to) => (self.latency(from, to) * 2, ProbeStep::Next),
            Reachability::Node(to) if self.nodes[to].id != expected || to == from => {
                // The key in the TLS handshake, the second round trip, shows that it is another node.
                (self.latency(from, to) * 4, ProbeStep::Next)
            }
            Reachability::Node(to) => {
                if let Some(probing) = self.probes.get_mut(&probe_id) {
                    probing.to = to;
                }
                // Two round trips for TCP and TLS, and one latency for the probe.
                (self.latency(from, to) * 5, ProbeStep::Asked)
            }
        };
        self.queue.put(self.now + wait, SimEvent::Probe { probe: probe_id, step });
    }

    fn answer_probe(&mut self, probe_id: u64) {
        let Some(probing) = self.probes.get(&probe_id) else { return };
        let (from, to, probe) = (probing.from, probing.to, probing.probe.clone());
        let (now, asker) = (self.now, self.nodes[from].id);
        let latency = self.latency(from, to);
        let next = SimEvent::Probe { probe: probe_id, step: ProbeStep::Next };
        // No reset arrives while the nodes are cut off from each other, so only the deadline ends the attempt.
        if self.is_cut(from, to) {
            return self.queue.put(now + self.config.handshake_timeout, next);
        }
        self.count_probe(from, to, &probe);
        if self.nodes[to].running.is_none() {
            return self.queue.put(now + latency, next);
        }
        let operation = OperationId(probe_id);
        self.handle(to, Input::ProbeReceived { operation, from: asker, probe });
    }

    /// Sends a node's answer to a probe.
    pub(super) fn probe_answered(&mut self, to: usize, probe_id: u64, mut answer: Probe) {
        let unix = self.unix();
        if let Some(liar) = &mut self.nodes[to].liar {
            liar.change_probe(unix, &mut answer);
        }
        let Some(from) = self.probes.get(&probe_id).map(|probing| probing.from) else { return };
        self.count_probe(to, from, &answer);
        if let Some(probing) = self.probes.get_mut(&probe_id) {
            probing.answer = Some(answer);
        }
        let arrives = self.now + self.latency(from, to);
        self.queue.put(arrives, SimEvent::Probe { probe: probe_id, step: ProbeStep::Answered });
    }

    fn count_probe(&mut self, from: usize, to: usize, probe: &Probe) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        probe.encode(&mut scratch);
        self.stats.count(PROBE, scratch.len());
        self.trace_event("probe", [from, to], &scratch);
        self.scratch = scratch;
    }
}
