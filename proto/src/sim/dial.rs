//! The connections of dials, up to the link or the failure. The machine decides what becomes of them.

use std::collections::VecDeque;

use super::Sim;
use super::actions::LinkFor;
use super::link::{ACCEPTOR, Content, DIALLER, End, Lane, SimulatedLink, State};
use super::network::{address, node_at, public_ip};
use super::node::Joining;
use super::queue::{DialStep, Due};
use crate::address::Address;
use crate::event::{Direction, Event, LinkEnd, Peer, Reason};
use crate::handler::Handler;
use crate::id::NodeId;
use crate::overlay::admission::Candidate;
use crate::peer::{
    ConnectionId, DialError, DialId, Greeted, Input, JoinError, OperationId, Purpose,
};

/// A dial under way.
#[derive(Debug)]
pub(super) struct SimulatedDial {
    from: usize,
    run: u32,
    /// The number of the dial in the machine of the dialling node.
    number: DialId,
    operation: Option<OperationId>,
    purpose: Purpose,
    /// The address that events name.
    address: Address,
    /// Addresses to try if this try reaches no node, best first.
    others: VecDeque<Address>,
    /// The node that was reached, and its run.
    to: Option<(usize, u32)>,
    /// The refusal of the other node, while it is on its way.
    refusal: Option<Reason>,
}

impl<H: Handler> Sim<H> {
    /// Dials a node at the first of its addresses that answers.
    pub(super) fn dial(
        &mut self,
        from: usize,
        number: DialId,
        operation: Option<OperationId>,
        addresses: Vec<Address>,
        purpose: Purpose,
    ) {
        let mut others: VecDeque<_> = addresses.into();
        let Some(address) = others.pop_front() else { return };
        let serial = self.next_serial();
        let run = self.nodes[from].run;
        let Some(running) = &mut self.nodes[from].running else { return };
        running.dials.insert(number, serial);
        let at = address.clone();
        let (to, refusal) = (None, None);
        let dial =
            SimulatedDial { from, run, number, operation, purpose, address, others, to, refusal };
        self.dials.insert(serial, dial);
        self.try_address(serial, &at);
    }

    fn try_address(&mut self, serial: u64, at: &Address) {
        let Some(from) = self.dials.get(&serial).map(|dial| dial.from) else { return };
        self.stats.dials += 1;
        let to = self.reachable(from, at);
        let (wait, step) = match to {
            Reach::NoAnswer => (self.config.connect_timeout, DialStep::NoAnswer),
            // One round trip: the SYN and the RST.
            Reach::NotRunning(node) => (self.latency(from, node) * 2, DialStep::NotListening),
            // A round trip for TCP's handshake and one for TLS 1.3's.
            Reach::Node(node) => (self.latency(from, node) * 4, DialStep::Secured),
        };
        let to = match to {
            Reach::Node(node) => Some((node, self.nodes[node].run)),
            _ => None,
        };
        if let Some(dial) = self.dials.get_mut(&serial) {
            dial.to = to;
        }
        self.queue.put(self.now + wait, Due::Dial { dial: serial, step });
    }

    pub(super) fn step_dial(&mut self, serial: u64, step: DialStep) {
        let Some(dial) = self.dials.get_mut(&serial) else { return };
        let (from, run, number) = (dial.from, dial.run, dial.number);
        if self.nodes[from].run(run).is_none() {
            self.dials.remove(&serial);
            return;
        }
        let unanswered = matches!(step, DialStep::NotListening | DialStep::NoAnswer);
        if unanswered && let Some(next) = dial.others.pop_front() {
            return self.try_address(serial, &next);
        }
        let failed = |error: &str| Input::DialFailed { dial: number, error: error.into() };
        match step {
            DialStep::NotListening => self.handle(from, failed("connection refused")),
            DialStep::NoAnswer => {
                let timeout = self.config.connect_timeout;
                let error = format!("no answer within {} s", timeout.as_secs());
                self.handle(from, failed(&error));
            }
            DialStep::Secured => self.dial_secured(serial),
            DialStep::Hello => self.hello(serial),
            DialStep::Refused => {
                if let Some(reason) = dial.refusal.take() {
                    self.handle(from, Input::DialRefused { dial: number, reason });
                }
            }
            DialStep::Lost => self.handle(from, failed("closed before Hello")),
            DialStep::Overdue => self.handle(from, failed("the handshake took too long")),
        }
    }

    /// Reports that the connection is secured, unless the nodes were cut off or the other one has
    /// stopped.
    fn dial_secured(&mut self, serial: u64) {
        let Some(dial) = self.dials.get(&serial) else { return };
        let Some((to, run)) = dial.to else { return };
        let (from, number, expected) = (dial.from, dial.number, dial.address.id);
        if self.is_cut(from, to) {
            // TCP goes on trying across a cut, so only the dialler's own deadline ends the handshake.
            let due = Due::Dial { dial: serial, step: DialStep::Overdue };
            return self.queue.put(self.now + self.config.handshake_timeout, due);
        }
        let id = self.nodes[to].id;
        let failed = |error: String| Input::DialFailed { dial: number, error };
        // A node that was restarted meanwhile does not know the connection either.
        let input = if self.nodes[to].run(run).is_none() {
            failed("closed before Hello".into())
        } else if expected.is_some_and(|expected| expected != id) {
            failed(format!("another node answered: {}", id.short()))
        } else {
            Input::DialSecured { dial: number, id }
        };
        self.handle(from, input);
    }

    /// Sends the Hello of the dialler.
    pub(super) fn say_hello(&mut self, from: usize, number: DialId) {
        let Some(serial) = self.dial_of(from, number) else { return };
        let Some((to, _)) = self.dials.get(&serial).and_then(|dial| dial.to) else { return };
        let arrives = self.now + self.latency(from, to);
        self.queue.put(arrives, Due::Dial { dial: serial, step: DialStep::Hello });
    }

    /// Takes the dialler's Hello at the acceptor, which decides about the connection.
    fn hello(&mut self, serial: u64) {
        let Some(dial) = self.dials.get(&serial) else { return };
        let (from, from_run, called) = (dial.from, dial.run, dial.address.clone());
        let Some((to, to_run)) = dial.to else { return };
        if self.is_cut(from, to) {
            // The dial will time out.
            return;
        }
        let latency = self.latency(from, to);
        let epoch = |node: usize| self.nodes[node].running.as_ref().map(|running| running.epoch);
        let (Some(from_epoch), Some(to_epoch)) = (epoch(from), epoch(to)) else {
            let due = Due::Dial { dial: serial, step: DialStep::Lost };
            return self.queue.put(self.now + latency, due);
        };
        // The time of a node's start serves as its incarnation, which has to change with each start.
        let end = |node: usize, run, of: usize, direction, incarnation, shown| {
            let other = &self.nodes[of];
            let ip = public_ip(of).into();
            End {
                node,
                run,
                peer: Peer::new(other.id, other.name.clone(), shown, direction),
                candidate: Candidate { id: other.id, direction, incarnation, ip },
                state: State::Waiting,
                greeted: false,
                last_arrival: self.now,
            }
        };
        let dialled = called.without_id();
        let connected_from = address(public_ip(from));
        let ends = [
            end(from, from_run, to, Direction::Outbound, to_epoch, dialled),
            end(to, to_run, from, Direction::Inbound, from_epoch, connected_from),
        ];
        let lanes = [Lane::default(), Lane::default()];
        let link = self.next_serial();
        self.links.insert(link, SimulatedLink { latency, dial: serial, ends, lanes, cuts: 0 });
        self.greet(link, ACCEPTOR);
    }

    /// Hands the other end's Hello to the machine of an end, which decides.
    pub(super) fn greet(&mut self, link: u64, side: usize) {
        let Some(SimulatedLink { dial, ends, .. }) = self.links.get_mut(&link) else { return };
        let end = &mut ends[side];
        end.greeted = true;
        let (node, peer, candidate) = (end.node, end.peer.clone(), end.candidate);
        let dial = match side {
            DIALLER => match self.dials.get(dial) {
                Some(dial) => Some(dial.number),
                // The dial was given up.
                None => return,
            },
            _ => None,
        };
        let unix = self.by_id.get(&peer.id()).map(|other| self.nodes[*other].clock(self.unix()));
        let connection = ConnectionId(link);
        self.handle(node, Input::Greeted(Greeted { connection, dial, peer, candidate, unix }));
    }

    /// Refuses a connection at one end, and tells the other end the reason.
    pub(super) fn refuse(&mut self, node: usize, serial: u64, reason: Reason) {
        let Some(link) = self.links.get_mut(&serial) else { return };
        let waits = |end: &End| end.node == node && end.state == State::Waiting;
        let Some(side) = link.ends.iter().position(waits) else { return };
        if side == ACCEPTOR {
            // The dialler waits for a Hello.
            let (dial, latency) = (link.dial, link.latency);
            let address = link.ends[ACCEPTOR].peer.address().clone();
            self.links.remove(&serial);
            // If both dialled each other at once, the other connection becomes the link: that is no
            // error.
            if reason != Reason::Duplicate {
                let error = reason.to_string();
                self.event(node, Event::InboundNodeConnectionError { address, error });
            }
            if let Some(dial) = self.dials.get_mut(&dial) {
                dial.refusal = Some(reason);
            }
            let due = Due::Dial { dial, step: DialStep::Refused };
            return self.queue.put(self.now + latency, due);
        }
        // Without a goodbye, as on a real node: the link that has won stays, so there is nothing to
        // explain.
        if reason == Reason::Duplicate {
            return self.end_abruptly(serial, DIALLER, Reason::Duplicate);
        }
        link.lanes[side].last(Content::Goodbye(reason.clone(), 0));
        self.pump(serial, side);
        self.end(serial, side, LinkEnd { reason, by_peer: false }, None);
    }

    /// Ends a dial that has a link, or has failed.
    pub(super) fn dial_ended(
        &mut self,
        node: usize,
        number: DialId,
        outcome: Result<NodeId, DialError>,
    ) {
        let Some(serial) = self.dial_of(node, number) else { return };
        if let Some(running) = &mut self.nodes[node].running {
            running.dials.remove(&number);
        }
        let Some(dial) = self.dials.remove(&serial) else { return };
        match outcome {
            Ok(id) => self.dial_reached(node, &dial, id),
            Err(error) => {
                self.dial_failed(node, dial, &error.to_string());
                if error == DialError::Timeout {
                    // The other node may have a link by now, so it has to learn that the dial has
                    // failed.
                    let of =
                        |(at, link): (&u64, &SimulatedLink)| (link.dial == serial).then_some(*at);
                    if let Some(link) = self.links.iter().find_map(of) {
                        self.end_abruptly(link, DIALLER, Reason::HandshakeTimeout);
                    }
                }
            }
        }
    }

    fn dial_reached(&mut self, node: usize, dial: &SimulatedDial, id: NodeId) {
        self.note("dialled", [node, node], id.as_bytes());
        let Some(operation) = dial.operation else { return };
        // A join is not done yet: it stays until the node there has decided, see `join_ended`.
        if let Some(LinkFor::Connect(action)) = self.links_for.get(&operation) {
            let action = *action;
            self.links_for.remove(&operation);
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
        self.note("dial failed", [node, node], error.as_bytes());
        let wanted = dial.operation.and_then(|operation| self.links_for.remove(&operation));
        let joining = &mut self.nodes[node].joining;
        if matches!(wanted, Some(LinkFor::Join(_))) && *joining == Joining::Trying {
            *joining = Joining::Failed(error.to_owned());
        }
        if dial.purpose.is_reported() {
            let (address, error) = (dial.address, error.to_owned());
            self.event(node, Event::OutboundNodeConnectionError { address, error });
        }
        match wanted {
            Some(LinkFor::Connect(Some(action))) => {
                let error = error.to_owned();
                self.event(node, Event::NodeActionFailed { action, error });
            }
            Some(LinkFor::Join(Some(action))) => self.join_try_failed(node, action, error),
            _ => {}
        }
    }

    /// Takes the outcome of joining through a node.
    pub(super) fn join_ended(
        &mut self,
        node: usize,
        operation: OperationId,
        outcome: Result<(), JoinError>,
    ) {
        let Some(LinkFor::Join(action)) = self.links_for.remove(&operation) else { return };
        match (outcome, action) {
            (Ok(()), Some(action)) => self.joined(node, action),
            (Ok(()), None) => {}
            (Err(error), action) => {
                let joining = &mut self.nodes[node].joining;
                let is_answer = matches!(error, JoinError::Refused { .. });
                if is_answer && *joining == Joining::Trying {
                    *joining = Joining::Failed(error.to_string());
                }
                if let Some(action) = action {
                    self.join_try_failed(node, action, &error.to_string());
                }
            }
        }
    }

    fn dial_of(&self, node: usize, number: DialId) -> Option<u64> {
        self.nodes[node].running.as_ref()?.dials.get(&number).copied()
    }

    /// Returns what answers at an address, seen from a node.
    pub(super) fn reachable(&self, from: usize, address: &Address) -> Reach {
        match node_at(address) {
            // Liars announce addresses that belong to no node.
            Some(to) if to >= self.nodes.len() => Reach::NoAnswer,
            Some(to) if !self.nodes[to].options.dialable || self.is_cut(from, to) => {
                Reach::NoAnswer
            }
            Some(to) if self.nodes[to].running.is_none() => Reach::NotRunning(to),
            Some(to) => Reach::Node(to),
            None => Reach::NoAnswer,
        }
    }
}

/// The answer at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// No answer.
    NoAnswer,
    /// A refusal: the node there is not running.
    NotRunning(usize),
    /// The node there.
    Node(usize),
}
