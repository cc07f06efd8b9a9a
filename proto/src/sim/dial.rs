//! Dials of simulated nodes, up to the link or the failure. The machine decides what becomes of each
//! connection.

use std::collections::VecDeque;

use super::Sim;
use super::actions::LinkPurpose;
use super::link::{
    ACCEPTOR, DIALLER, Endpoint, EndpointState, LinkContent, LinkOutbox, SimulatedLink,
};
use super::meet::SimulatedMeeting;
use super::network::{address, node_at};
use super::queue::{DialStep, SimEvent};
use crate::address::{Address, Scheme};
use crate::event::{Direction, Event, LinkEnd, Peer, Reason};
use crate::handler::Handler;
use crate::id::NodeId;
use crate::overlay::admission::Candidate;
use crate::peer::{
    ConnectionId, DialError, DialId, Greeted, Input, JoinError, LinkTransport, OperationId, Purpose,
};

/// A dial under way.
#[derive(Debug)]
pub(super) struct SimulatedDial {
    pub(super) from: usize,
    pub(super) run: u32,
    /// The id of the dial in the machine of the dialling node. Dials of different nodes may have equal ids, so
    /// `Sim::dials` has keys of its own (`dial_key`).
    pub(super) dial_id: DialId,
    operation: Option<OperationId>,
    purpose: Purpose,
    /// The address that events name.
    pub(super) address: Address,
    /// Addresses that are tried next if this one reaches no node, best first.
    pub(super) other_addresses: VecDeque<Address>,
    /// The node that was reached, and its run.
    pub(super) to: Option<(usize, u32)>,
    /// The transport over which it was reached, and the relay, if any.
    pub(super) scheme: Scheme,
    pub(super) relay: Option<usize>,
    /// The state of the meeting, if the purpose is one.
    pub(super) meeting: SimulatedMeeting,
    /// The refusal of the acceptor, while it is in flight.
    refusal: Option<Reason>,
}

impl<H: Handler> Sim<H> {
    /// Dials the addresses one after the other, until one answers.
    pub(super) fn dial(
        &mut self,
        from: usize,
        dial_id: DialId,
        operation: Option<OperationId>,
        addresses: Vec<Address>,
        purpose: Purpose,
    ) {
        let mut other_addresses: VecDeque<_> = addresses.into();
        let Some(address) = other_addresses.pop_front() else { return };
        let dial_key = self.next_id();
        let run = self.nodes[from].run;
        let Some(running) = &mut self.nodes[from].running else { return };
        running.dials.insert(dial_id, dial_key);
        let at = address.clone();
        let (to, refusal) = (None, None);
        let dial = SimulatedDial {
            from,
            run,
            dial_id,
            operation,
            purpose,
            address,
            other_addresses,
            to,
            scheme: Scheme::Tcp,
            relay: None,
            meeting: SimulatedMeeting::default(),
            refusal,
        };
        self.dials.insert(dial_key, dial);
        if purpose == Purpose::Meeting {
            self.stats.dials += 1;
            return self.begin_meeting(dial_key);
        }
        self.try_address(dial_key, &at);
    }

    fn try_address(&mut self, dial_key: u64, at: &Address) {
        let Some(from) = self.dials.get(&dial_key).map(|dial| dial.from) else { return };
        self.stats.dials += 1;
        let to = self.reachable(from, at);
        let (wait, step) = match to {
            Reachability::NoAnswer => (self.config.connect_timeout, DialStep::NoAnswer),
            // One round trip: the SYN and the RST.
            Reachability::NotRunning(node) => {
                (self.latency(from, node) * 2, DialStep::NotListening)
            }
            // One round trip for the handshake of TCP, and one for that of TLS 1.3.
            Reachability::Node(node) => (self.latency(from, node) * 4, DialStep::Secured),
        };
        let to = match to {
            Reachability::Node(node) => Some((node, self.nodes[node].run)),
            _ => None,
        };
        if let Some(dial) = self.dials.get_mut(&dial_key) {
            dial.to = to;
        }
        self.queue.put(self.now + wait, SimEvent::Dial { dial: dial_key, step });
    }

    pub(super) fn step_dial(&mut self, dial_key: u64, step: DialStep) {
        let Some(dial) = self.dials.get_mut(&dial_key) else { return };
        let (from, run, dial_id) = (dial.from, dial.run, dial.dial_id);
        if self.nodes[from].in_run(run).is_none() {
            self.dials.remove(&dial_key);
            return;
        }
        if self.step_meeting(dial_key, step) {
            return;
        }
        let Some(dial) = self.dials.get_mut(&dial_key) else { return };
        let unanswered = matches!(step, DialStep::NotListening | DialStep::NoAnswer);
        if unanswered && let Some(next) = dial.other_addresses.pop_front() {
            return self.try_address(dial_key, &next);
        }
        let failed = |error: &str| Input::DialFailed { dial: dial_id, error: error.into() };
        match step {
            DialStep::NotListening => self.handle(from, failed("connection refused")),
            DialStep::NoAnswer => {
                let timeout = self.config.connect_timeout;
                let error = format!("no answer within {} s", timeout.as_secs());
                self.handle(from, failed(&error));
            }
            DialStep::Secured | DialStep::Relayed(..) => self.dial_secured(dial_key),
            DialStep::Hello => self.hello_arrived(dial_key),
            DialStep::Refused => {
                if let Some(reason) = dial.refusal.take() {
                    self.handle(from, Input::DialRefused { dial: dial_id, reason });
                }
            }
            DialStep::Lost => self.handle(from, failed("closed before Hello")),
            DialStep::Overdue => self.handle(from, failed("the handshake took too long")),
            _ => {}
        }
    }

    /// Reports to the machine that the TLS handshake is complete, unless the nodes are cut off from each other
    /// by now, or the acceptor is not the expected node or has stopped.
    fn dial_secured(&mut self, dial_key: u64) {
        let Some(dial) = self.dials.get(&dial_key) else { return };
        let Some((to, run)) = dial.to else { return };
        let (from, dial_id, expected) = (dial.from, dial.dial_id, dial.address.id);
        if self.is_cut(from, to) {
            // TCP repeats its segments, so only the dialler's own deadline ends the handshake.
            let event = SimEvent::Dial { dial: dial_key, step: DialStep::Overdue };
            return self.queue.put(self.now + self.config.handshake_timeout, event);
        }
        let id = self.nodes[to].id;
        let failed = |error: String| Input::DialFailed { dial: dial_id, error };
        // A node that has restarted since does not know the connection.
        let input = if self.nodes[to].in_run(run).is_none() {
            failed("closed before Hello".into())
        } else if expected.is_some_and(|expected| expected != id) {
            failed(format!("another node answered: {}", id.short()))
        } else {
            Input::DialSecured { dial: dial_id, id }
        };
        self.handle(from, input);
    }

    /// Sends the Hello of the dialler.
    pub(super) fn send_hello(&mut self, from: usize, dial_id: DialId) {
        let Some(dial_key) = self.dial_key_of(from, dial_id) else { return };
        let Some(dial) = self.dials.get(&dial_key) else { return };
        let Some((to, _)) = dial.to else { return };
        let arrives = self.now + self.dial_latency(dial, to);
        self.queue.put(arrives, SimEvent::Dial { dial: dial_key, step: DialStep::Hello });
    }

    /// Hands the dialler's Hello, which has arrived, to the acceptor's machine. The connection gets its id and
    /// both endpoints here.
    fn hello_arrived(&mut self, dial_key: u64) {
        let Some(dial) = self.dials.get(&dial_key) else { return };
        let (from, from_run, dialled_address) = (dial.from, dial.run, dial.address.clone());
        let Some((to, to_run)) = dial.to else { return };
        if self.is_cut(from, to) {
            // The dial will time out.
            return;
        }
        let (latency, scheme, relay) = (self.dial_latency(dial, to), dial.scheme, dial.relay);
        let epoch = |node: usize| self.nodes[node].running.as_ref().map(|running| running.epoch);
        let (Some(from_epoch), Some(to_epoch)) = (epoch(from), epoch(to)) else {
            let event = SimEvent::Dial { dial: dial_key, step: DialStep::Lost };
            return self.queue.put(self.now + latency, event);
        };
        // The epoch of a run serves as its incarnation: both change with each start.
        let endpoint = |node: usize, run, of: usize, direction, incarnation, address| {
            let other = &self.nodes[of];
            // Both ends see the relay.
            let ip = self.ip_of(relay.unwrap_or(of)).into();
            Endpoint {
                node,
                run,
                peer: Peer::new(other.id, other.name.clone(), address, direction),
                candidate: Candidate {
                    id: other.id,
                    direction,
                    incarnation,
                    ip,
                    is_relayed: relay.is_some(),
                },
                state: EndpointState::Waiting,
                greeted: false,
                last_arrival: self.now,
            }
        };
        let dialled = dialled_address.without_id();
        let connected_from = address(self.ip_of(relay.unwrap_or(from)));
        let endpoints = [
            endpoint(from, from_run, to, Direction::Outbound, to_epoch, dialled),
            endpoint(to, to_run, from, Direction::Inbound, from_epoch, connected_from),
        ];
        let outboxes = [LinkOutbox::default(), LinkOutbox::default()];
        let connection = ConnectionId(self.next_id());
        let cuts = 0;
        let link = SimulatedLink { latency, scheme, relay, dial_key, endpoints, outboxes, cuts };
        self.links.insert(connection, link);
        self.hand_over_hello(connection, ACCEPTOR);
    }

    /// Hands the peer's Hello to the machine of the endpoint `side`, which admits or refuses the connection.
    pub(super) fn hand_over_hello(&mut self, connection: ConnectionId, side: usize) {
        let Some(SimulatedLink { dial_key, endpoints, scheme, .. }) =
            self.links.get_mut(&connection)
        else {
            return;
        };
        let scheme = *scheme;
        let endpoint = &mut endpoints[side];
        endpoint.greeted = true;
        let (node, peer, candidate) = (endpoint.node, endpoint.peer.clone(), endpoint.candidate);
        let dial = match side {
            DIALLER => match self.dials.get(dial_key) {
                Some(dial) => Some(dial.dial_id),
                // The dialler has given the dial up.
                None => return,
            },
            _ => None,
        };
        let unix =
            self.by_id.get(&peer.id()).map(|other| self.nodes[*other].wall_clock(self.unix()));
        let other = self.by_id.get(&peer.id()).and_then(|other| self.nodes.get(*other));
        let membership = other.and_then(|other| other.membership.clone()).map(Box::new);
        let merits = self.merits(node);
        let other = self.by_id.get(&peer.id()).copied();
        let transport = other.map_or_else(LinkTransport::default, |of| self.transport(of, scheme));
        let greeted =
            Greeted { connection, dial, peer, candidate, unix, merits, membership, transport };
        self.handle(node, Input::Greeted(greeted));
    }

    /// Refuses a connection at the endpoint of `node`, and sends the peer the reason.
    pub(super) fn refuse(&mut self, node: usize, connection: ConnectionId, reason: Reason) {
        let Some(link) = self.links.get_mut(&connection) else { return };
        let waits =
            |endpoint: &Endpoint| endpoint.node == node && endpoint.state == EndpointState::Waiting;
        let Some(side) = link.endpoints.iter().position(waits) else { return };
        if side == ACCEPTOR {
            // The dialler still waits for Hello. It gets the refusal instead.
            let (dial_key, latency) = (link.dial_key, link.latency);
            let address = link.endpoints[ACCEPTOR].peer.address().clone();
            self.links.remove(&connection);
            // If both nodes have dialled each other at the same time, the other connection becomes the
            // link, so this is no error.
            if reason != Reason::Duplicate {
                let error = reason.to_string();
                self.event(node, Event::InboundNodeConnectionError { address, error, others: 0 });
            }
            if let Some(dial) = self.dials.get_mut(&dial_key) {
                dial.refusal = Some(reason);
            }
            let event = SimEvent::Dial { dial: dial_key, step: DialStep::Refused };
            return self.queue.put(self.now + latency, event);
        }
        // Without a goodbye, as on a real node: the other link stays, so there is nothing to explain.
        if reason == Reason::Duplicate {
            return self.end_abruptly(connection, DIALLER, Reason::Duplicate);
        }
        link.outboxes[side].queue_last(LinkContent::Goodbye(reason.clone(), 0));
        self.transmit(connection, side);
        self.end_side(connection, side, LinkEnd { reason, by_peer: false }, None);
    }

    /// Ends a dial that has led to a link or has failed.
    pub(super) fn dial_ended(
        &mut self,
        node: usize,
        dial_id: DialId,
        outcome: Result<NodeId, DialError>,
    ) {
        let Some(dial_key) = self.dial_key_of(node, dial_id) else { return };
        if let Some(running) = &mut self.nodes[node].running {
            running.dials.remove(&dial_id);
        }
        let Some(dial) = self.dials.remove(&dial_key) else { return };
        match outcome {
            Ok(id) => self.dial_reached(node, &dial, id),
            Err(error) => {
                self.dial_failed(node, dial, &error.to_string());
                if error == DialError::Timeout {
                    // The acceptor may have a link by now, so it has to learn that the dial has failed.
                    let of_dial = |(at, link): (&ConnectionId, &SimulatedLink)| {
                        (link.dial_key == dial_key).then_some(*at)
                    };
                    if let Some(link) = self.links.iter().find_map(of_dial) {
                        self.end_abruptly(link, DIALLER, Reason::HandshakeTimeout);
                    }
                }
            }
        }
    }

    fn dial_reached(&mut self, node: usize, dial: &SimulatedDial, id: NodeId) {
        self.trace_event("dialled", [node, node], id.as_bytes());
        let Some(operation) = dial.operation else { return };
        // A join stays until the node that was dialled has answered, see `join_ended`.
        if let Some(LinkPurpose::Connect(action)) = self.link_purposes.get(&operation) {
            let action = *action;
            self.link_purposes.remove(&operation);
            let running = self.nodes[node].running.as_ref();
            let handle = running.and_then(|running| running.handles.get(&id));
            if let (Some(action), Some(handle)) = (action, handle) {
                let peer = handle.peer.clone();
                self.event(node, Event::NodeConnectCompleted { action, peer });
            }
        }
    }

    fn dial_failed(&mut self, node: usize, dial: SimulatedDial, error: &str) {
        self.stats.dials_failed += 1;
        self.trace_event("dial failed", [node, node], error.as_bytes());
        let link_purpose =
            dial.operation.and_then(|operation| self.link_purposes.remove(&operation));
        if dial.purpose.is_reported() {
            let (address, error) = (dial.address, error.to_owned());
            self.event(node, Event::OutboundNodeConnectionError { address, error });
        }
        match link_purpose {
            Some(LinkPurpose::Connect(Some(action))) => {
                let error = error.to_owned();
                self.event(node, Event::NodeActionFailed { action, error });
            }
            Some(LinkPurpose::Join(action)) => self.join_attempt_failed(node, action, error),
            _ => {}
        }
    }

    /// Handles the outcome of joining through one node.
    pub(super) fn join_ended(
        &mut self,
        node: usize,
        operation: OperationId,
        outcome: Result<(), JoinError>,
    ) {
        let Some(LinkPurpose::Join(action)) = self.link_purposes.remove(&operation) else { return };
        match (outcome, action) {
            (Ok(()), Some(action)) => self.joined(node, action),
            (Ok(()), None) => {}
            (Err(error), action) => self.join_attempt_failed(node, action, &error.to_string()),
        }
    }

    fn dial_key_of(&self, node: usize, dial_id: DialId) -> Option<u64> {
        self.nodes[node].running.as_ref()?.dials.get(&dial_id).copied()
    }

    /// Returns the result of dialling `address` from node `from`.
    pub(super) fn reachable(&self, from: usize, address: &Address) -> Reachability {
        if address.scheme != Scheme::Tcp {
            return Reachability::NoAnswer;
        }
        match node_at(address) {
            // Liars announce addresses that belong to no node.
            Some(to) if to >= self.nodes.len() => Reachability::NoAnswer,
            Some(to) if address.socket() != self.address(to).socket() => Reachability::NoAnswer,
            Some(to) if !self.nodes[to].options.dialable || self.is_cut(from, to) => {
                Reachability::NoAnswer
            }
            Some(to) if self.nodes[to].running.is_none() => Reachability::NotRunning(to),
            Some(to) => Reachability::Node(to),
            None => Reachability::NoAnswer,
        }
    }
}

/// The result of dialling an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reachability {
    /// Nothing answers.
    NoAnswer,
    /// The host of this node refuses, because the node is not running.
    NotRunning(usize),
    /// This node answers.
    Node(usize),
}
