//! Meetings of simulated nodes: observers, hole punching and relays.
//!
//! As on a real node, the machine decides whom to ask for a meeting, which addresses are dialled, and what becomes of
//! the connections. Here packets get through routers or do not.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::Sim;
use super::dial::{Reachability, SimulatedDial};
use super::queue::{DialStep, SimEvent};
use crate::address::{Address, Scheme};
use crate::frame::query::QueryKind;
use crate::handler::Handler;
use crate::id::NodeId;
use crate::peer::circuits::{self, CircuitRefusal};
use crate::peer::meetings::{
    LINK_ONLY, MEETING_TIME, MeetingAddresses, RELAY_AFTER, RELAY_PREPARED_AFTER,
};
use crate::peer::{Input, LinkTransport};
use crate::time::Instant;

#[cfg(test)]
mod tests;

/// Times at which the first packet of a QUIC handshake is sent, since the beginning of the dial. The first wait is the
/// probe timeout of a connection whose round trip is not known, and it doubles (RFC 9002, section 6.2).
const PACKETS_AT: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(999), Duration::from_millis(2997)];

/// The part of a dial that meets a node.
#[derive(Debug, Default)]
pub(super) struct SimulatedMeeting {
    /// The candidates for hole punching.
    candidates: Vec<(SocketAddr, Address)>,
    /// The relays that were not tried yet.
    relays: VecDeque<Address>,
    /// The relay that is being tried: its number, and its address.
    relaying: Option<(usize, Address)>,
    /// The time from which a relay is used although a hole may still be punched.
    relays_from: Instant,
    /// No hole was punched in time.
    is_over: bool,
}

impl<H: Handler> Sim<H> {
    /// Makes a node ask another one for a link, as if its user had asked for one with the identity alone. They dial
    /// each other if they can't reach each other otherwise.
    pub fn meet(&mut self, node: usize, other: usize) {
        let id = self.id(other);
        let Some(running) = &mut self.nodes[node].running else { return };
        running.wanted.insert(id);
        self.begin_query(
            node,
            QueryKind::CallBack { target: id, token: LINK_ONLY, addresses: Vec::new() },
            -1,
        );
        self.settle();
    }

    /// Returns the transport of a link as a node sees it, whose peer is `other`.
    pub(super) fn transport(&self, other: usize, scheme: Scheme) -> LinkTransport {
        let options = &self.nodes[other].options;
        let relays = options.meets && options.dialable;
        LinkTransport { scheme, accepts_quic: options.meets, relays }
    }

    /// Makes a node ask a peer at which UDP address the peer sees it.
    pub(super) fn observe(&mut self, node: usize, by: NodeId) {
        let Some(other) = self.node_of(by) else { return };
        let run = self.nodes[node].run;
        let Some(running) = &mut self.nodes[node].running else { return };
        running.observers.insert(by);
        // One round trip for the handshake of QUIC, and one for the question and its answer.
        let answered = self.now + self.latency(node, other) * 4;
        self.queue.put(answered, SimEvent::Observe { node, run, by: other });
    }

    /// Handles an answer of an observer, and sends the next packet that keeps the port at the router.
    pub(super) fn observed(&mut self, node: usize, run: u32, observer: usize) {
        let by = self.nodes[observer].id;
        let Some(running) = self.nodes[node].in_run(run) else { return };
        if !running.observers.contains(&by) {
            return;
        }
        let to = SocketAddr::new(self.ip_of(observer).into(), crate::address::DEFAULT_PORT);
        let seen = self.udp_send(node, to);
        let address = self.udp_recipient(node, seen, to).map(|_| seen);
        self.input(node, Input::Observed { by, address });
        if address.is_some() {
            let next = self.now + self.config.ping_after;
            self.queue.put(next, SimEvent::Observe { node, run, by: observer });
        }
    }

    /// Begins to dial a node that dials this one at the same time.
    pub(super) fn begin_meeting(&mut self, dial_key: u64) {
        let Some(dial) = self.dials.get_mut(&dial_key) else { return };
        let all = std::iter::once(dial.address.clone()).chain(dial.other_addresses.drain(..));
        let MeetingAddresses { candidates, relays } = MeetingAddresses::of(all);
        let candidates: Vec<_> = candidates
            .into_iter()
            .filter_map(|address| Some((address.socket()?, address)))
            .collect();
        let is_over = candidates.is_empty();
        let [prepared_after, used_after] =
            if is_over { [Duration::ZERO; 2] } else { [RELAY_PREPARED_AFTER, RELAY_AFTER] };
        let relays_from = self.now + used_after;
        let packets = if is_over { 0 } else { PACKETS_AT.len() };
        let relays = relays.into();
        dial.meeting =
            SimulatedMeeting { candidates, relays, relaying: None, relays_from, is_over };
        for at in &PACKETS_AT[..packets] {
            self.put_dial_step(dial_key, *at, DialStep::SendPackets);
        }
        if !is_over {
            self.put_dial_step(dial_key, MEETING_TIME, DialStep::MeetingOver);
        }
        self.put_dial_step(dial_key, prepared_after, DialStep::TryRelay);
    }

    /// Handles a step of a meeting. Returns false if it is none.
    pub(super) fn step_meeting(&mut self, dial_key: u64, step: DialStep) -> bool {
        let Some(dial) = self.dials.get_mut(&dial_key) else { return true };
        let is_reached = dial.to.is_some();
        match step {
            // What comes after the first success does not matter.
            DialStep::SendPackets
            | DialStep::PacketArrived { .. }
            | DialStep::MeetingOver
            | DialStep::TryRelay
            | DialStep::RelayAsked
            | DialStep::RelayRefused
            | DialStep::Relayed(..)
                if is_reached => {}
            DialStep::SendPackets => self.send_packets(dial_key),
            DialStep::PacketArrived { candidate, port } => {
                self.packet_arrived(dial_key, candidate, port);
            }
            DialStep::MeetingOver => {
                dial.meeting.is_over = true;
                self.end_if_failed(dial_key);
            }
            DialStep::TryRelay => self.try_relay(dial_key),
            DialStep::RelayAsked => self.relay_asked(dial_key),
            DialStep::RelayRefused => {
                dial.meeting.relaying = None;
                self.try_relay(dial_key);
            }
            DialStep::Relayed(to, run) => {
                let Some((relay, at)) = dial.meeting.relaying.take() else { return true };
                (dial.to, dial.scheme, dial.relay) = (Some((to, run)), Scheme::Relay, Some(relay));
                dial.address = at;
                return false;
            }
            _ => return false,
        }
        true
    }

    fn send_packets(&mut self, dial_key: u64) {
        let Some(dial) = self.dials.get(&dial_key) else { return };
        let from = dial.from;
        let candidates: Vec<_> = dial.meeting.candidates.iter().map(|(at, _)| *at).collect();
        for (candidate, to) in candidates.into_iter().enumerate() {
            let source = self.udp_send(from, to);
            self.stats.meeting_packets += 1;
            let std::net::IpAddr::V4(ip) = to.ip() else { continue };
            // Whether the packet gets in is decided when it arrives.
            if let Some(node) = self.node_with_ip(ip) {
                let step = DialStep::PacketArrived { candidate, port: source.port() };
                self.put_dial_step(dial_key, self.latency(from, node), step);
            }
        }
    }

    fn packet_arrived(&mut self, dial_key: u64, candidate: usize, port: u16) {
        let Some(dial) = self.dials.get(&dial_key) else { return };
        let from = dial.from;
        let Some((at, address)) = dial.meeting.candidates.get(candidate).cloned() else { return };
        let source = SocketAddr::new(self.ip_of(from).into(), port);
        let Some(to) = self.udp_recipient(from, source, at) else { return };
        // The dialler takes no answer from another address than that which it has dialled.
        let answers_from = self.udp_send(to, source);
        if answers_from != at {
            return;
        }
        let run = self.nodes[to].run;
        if let Some(dial) = self.dials.get_mut(&dial_key) {
            (dial.to, dial.scheme, dial.address) = (Some((to, run)), Scheme::Quic, address);
        }
        self.put_dial_step(dial_key, self.latency(from, to), DialStep::Secured);
    }

    /// Dials the next relay over TCP, and asks it for the other node.
    fn try_relay(&mut self, dial_key: u64) {
        let Some(dial) = self.dials.get_mut(&dial_key) else { return };
        let from = dial.from;
        let Some(at) = dial.meeting.relays.pop_front() else {
            return self.end_if_failed(dial_key);
        };
        let at_relay = at.clone().without_id().with_scheme(Scheme::Tcp);
        match self.reachable(from, &at_relay) {
            Reachability::Node(relay) => {
                if let Some(dial) = self.dials.get_mut(&dial_key) {
                    dial.meeting.relaying = Some((relay, at));
                }
                // Two round trips for TCP and TLS, and one latency for the question.
                let asked = self.latency(from, relay) * 5;
                self.put_dial_step(dial_key, asked, DialStep::RelayAsked);
            }
            Reachability::NotRunning(relay) => {
                let refused = self.latency(from, relay) * 2;
                self.put_dial_step(dial_key, refused, DialStep::RelayRefused);
            }
            Reachability::NoAnswer => {
                let timeout = self.config.connect_timeout;
                self.put_dial_step(dial_key, timeout, DialStep::RelayRefused);
            }
        }
    }

    /// Lets a relay decide on the question for a connection.
    fn relay_asked(&mut self, dial_key: u64) {
        let Some(dial) = self.dials.get(&dial_key) else { return };
        let (from, run) = (dial.from, dial.run);
        let Some((relay, at)) = dial.meeting.relaying.clone() else { return };
        let relays_from = dial.meeting.relays_from;
        let step = match at.id.map(|id| self.relay_to(relay, from, id)) {
            Some(Ok((to, reached))) if self.nodes[from].run == run => {
                // The answer of the relay, and one round trip for TLS between the two ends.
                let end_to_end = self.latency(from, relay) + self.latency(relay, to);
                let secured = reached + self.latency(relay, from) + end_to_end * 2;
                return self.put_dial_step(
                    dial_key,
                    secured.max(relays_from.since(self.now)),
                    DialStep::Relayed(to, self.nodes[to].run),
                );
            }
            _ => DialStep::RelayRefused,
        };
        self.put_dial_step(dial_key, self.latency(relay, from), step);
    }

    /// Makes a relay connect to a node on behalf of another one. Returns the node, and the time until it is reached.
    pub(super) fn relay_to(
        &self,
        relay: usize,
        from: usize,
        id: NodeId,
    ) -> Result<(usize, Duration), CircuitRefusal> {
        let running = self.nodes[relay].running.as_ref().ok_or(CircuitRefusal::NotReached)?;
        let link = running.handles.get(&id).and_then(|handle| self.links.get(&handle.connection));
        circuits::check(self.circuits(relay), link.map(|link| link.scheme))?;
        let to = self.node_of(id).ok_or(CircuitRefusal::NoLink)?;
        if self.is_cut(relay, to) || self.is_cut(relay, from) {
            return Err(CircuitRefusal::NotReached);
        }
        let back = self.latency(relay, to);
        // The relay asks the node for a call-back over their link, and the node dials the relay: TCP, then TLS.
        Ok((to, back * 5))
    }

    /// Returns the number of connections that a node relays.
    fn circuits(&self, relay: usize) -> usize {
        let links = self.links.values().filter(|link| link.relay == Some(relay)).count();
        let streams = self.transfers.streams.values();
        links + streams.filter(|stream| stream.relay() == Some(relay)).count()
    }

    /// Fails a meeting if neither a hole can be punched any more, nor a relay is left.
    fn end_if_failed(&mut self, dial_key: u64) {
        let Some(dial) = self.dials.get(&dial_key) else { return };
        let SimulatedMeeting { relays, relaying, is_over, .. } = &dial.meeting;
        if *is_over && relays.is_empty() && relaying.is_none() {
            let (from, dial) = (dial.from, dial.dial_id);
            let why = format!("no hole was punched within {} s", MEETING_TIME.as_secs());
            self.handle(from, Input::DialFailed { dial, error: why });
        }
    }

    /// Returns the latency between the two ends of a dial.
    pub(super) fn dial_latency(&self, dial: &SimulatedDial, to: usize) -> Duration {
        match dial.relay {
            Some(relay) => self.latency(dial.from, relay) + self.latency(relay, to),
            None => self.latency(dial.from, to),
        }
    }

    fn put_dial_step(&mut self, dial_key: u64, wait: Duration, step: DialStep) {
        self.queue.put(self.now + wait, SimEvent::Dial { dial: dial_key, step });
    }
}
