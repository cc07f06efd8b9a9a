//! Dials, from the address to where there is a link, or none.

use std::collections::VecDeque;

use super::Sim;
use super::link::{ACCEPTOR, Content, DIALLER, End, Lane, Link, State};
use super::network::{address, node_at, public_ip};
use super::node::Joining;
use super::queue::{DialStep, Due};
use crate::address::Address;
use crate::event::{ActionId, Direction, Event, Parting, Peer, Reason};
use crate::handler::Handler;
use crate::id::NodeId;
use crate::overlay::admission::Candidate;
use crate::overlay::{Command, DialPurpose, Input};

/// A dial under way.
#[derive(Debug)]
pub(super) struct Dial {
    from: usize,
    run: u32,
    /// The address that the overlay knows the dial by.
    address: Address,
    /// Addresses that are tried if this try reaches nobody, best first.
    others: VecDeque<Address>,
    purpose: Purpose,
    /// Who was reached, in which run.
    to: Option<(usize, u32)>,
    stage: Stage,
}

/// The dialled addresses, and the purpose.
struct Dialled {
    address: Address,
    others: VecDeque<Address>,
    purpose: Purpose,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// There is no connection yet.
    Connecting,
    /// Hello is said.
    Greeting,
    /// The other side's answer, which is on its way, is no.
    Refused(Reason),
    /// There is a link with that node, which is just ending, or another dial has said Hello to it.
    Ending(NodeId),
    /// There is, or will be in a moment, a link with that node which wins.
    Linking(NodeId),
}

/// The purpose of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The overlay wants it.
    Overlay {
        /// Nobody asked for it.
        quiet: bool,
    },
    /// The user, or the application by this action, wants the link.
    Connect(Option<ActionId>),
    /// The node is to join through the node that answers; the action is the application's.
    Join(Option<ActionId>),
}

impl<H: Handler> Sim<H> {
    /// Dials an address.
    pub(super) fn dial(&mut self, from: usize, address: Address, purpose: Purpose) {
        self.dial_any(from, address, Vec::new(), purpose);
    }

    /// Dials a node at the first of its addresses that answers.
    pub(super) fn dial_any(
        &mut self,
        from: usize,
        address: Address,
        others: Vec<Address>,
        purpose: Purpose,
    ) {
        let at = address.clone();
        self.try_address(from, at, Dialled { address, others: others.into(), purpose });
    }

    fn try_address(&mut self, from: usize, at: Address, dialled: Dialled) {
        let Dialled { address, others, purpose } = dialled;
        let serial = self.next_serial();
        self.stats.dials += 1;
        let to = self.reachable(from, &at);
        let (wait, step) = match to {
            Reach::Nobody => (self.config.connect_timeout, DialStep::NoAnswer),
            Reach::NotRunning(node) => (self.latency(from, node) * 2, DialStep::NobodyListens),
            Reach::Node(node) => (self.latency(from, node) * 4, DialStep::Secured),
        };
        let to = match to {
            Reach::Node(node) => Some((node, self.nodes[node].run)),
            _ => None,
        };
        let run = self.nodes[from].run;
        let dial = Dial { from, run, address, others, purpose, to, stage: Stage::Connecting };
        self.dials.insert(serial, dial);
        self.queue.put(self.now + wait, Due::Dial { dial: serial, step });
    }

    pub(super) fn step_dial(&mut self, serial: u64, step: DialStep) {
        let Some(dial) = self.dials.get(&serial) else { return };
        let (from, run) = (dial.from, dial.run);
        if self.nodes[from].run(run).is_none() {
            self.dials.remove(&serial);
            return;
        }
        let reached_nobody = matches!(step, DialStep::NobodyListens | DialStep::NoAnswer);
        if reached_nobody && !dial.others.is_empty() {
            self.try_next(serial);
            return;
        }
        match step {
            DialStep::NobodyListens => self.dial_failed(serial, "connection refused"),
            DialStep::NoAnswer => {
                let timeout = self.config.connect_timeout;
                self.dial_failed(serial, &format!("no answer within {} s", timeout.as_secs()));
            }
            DialStep::Secured => self.dial_secured(serial),
            DialStep::Hello => self.hello(serial),
            DialStep::Refused => {
                if let Stage::Refused(reason) = &dial.stage {
                    let reason = reason.clone();
                    self.dial_refused(serial, reason);
                }
            }
            DialStep::Lost => {
                self.ungreet(serial);
                self.dial_failed(serial, "closed before Hello");
            }
            DialStep::Overdue => self.dial_overdue(serial),
        }
    }

    /// Goes on with the next address of a dial that has reached nobody.
    fn try_next(&mut self, serial: u64) {
        let Some(dial) = self.dials.remove(&serial) else { return };
        let Dial { from, address, mut others, purpose, .. } = dial;
        if let Some(next) = others.pop_front() {
            self.try_address(from, next, Dialled { address, others, purpose });
        }
    }

    /// A dial has its link.
    pub(super) fn dial_reached(&mut self, serial: u64, id: NodeId) {
        let Some(dial) = self.dials.remove(&serial) else { return };
        let node = dial.from;
        self.note("dialled", [node, node], id.as_bytes());
        self.input(node, Input::Dialled { address: dial.address, id });
        match dial.purpose {
            Purpose::Overlay { quiet: true } => {}
            // Links that are to be kept were asked for.
            Purpose::Overlay { quiet: false } => self.command(node, Command::Pin(id)),
            Purpose::Connect(action) => {
                self.command(node, Command::Pin(id));
                let running = self.nodes[node].running.as_ref();
                let handle = running.and_then(|running| running.handles.get(&id));
                if let (Some(action), Some(handle)) = (action, handle) {
                    let peer = handle.peer.clone();
                    self.event(node, Event::NodeConnectCompleted { action, peer });
                }
            }
            Purpose::Join(action) => {
                self.command(node, Command::Join(id));
                self.join_asked(node, action, id);
            }
        }
    }

    /// There is a link of a node with this one: the dials that wait for it are done.
    pub(super) fn dials_linked(&mut self, node: usize, id: NodeId) {
        let waiting = self.waiting(
            node,
            |stage| matches!(stage, Stage::Linking(with) | Stage::Ending(with) if *with == id),
        );
        for dial in waiting {
            self.dial_reached(dial, id);
        }
    }

    /// The link of a node with this one has ended, or a dial of it has failed: dials that waited for
    /// that go on.
    pub(super) fn dials_unlinked(&mut self, node: usize, id: NodeId) {
        let ending = |stage: &Stage| matches!(stage, Stage::Ending(with) if *with == id);
        for dial in self.waiting(node, ending) {
            self.dial_secured(dial);
        }
    }

    /// The acceptor's Hello has come: the dialler decides whether it is a link.
    pub(super) fn greeted(&mut self, link: u64) {
        match self.admit(link, DIALLER) {
            Ok(()) => {}
            // The other side has, or is about to have, a link with us that wins.
            Err(Reason::Duplicate) => {
                let Some(dial) = self.dial_of(link) else { return };
                self.end_abruptly(link, DIALLER, Reason::Duplicate);
                self.wait_for_link(dial);
            }
            Err(reason) => {
                let Some(dial) = self.dial_of(link) else { return };
                self.refuse(link, reason.clone());
                self.dial_failed(dial, &reason.to_string());
            }
        }
    }

    /// The other side took its admission back before this side was up.
    pub(super) fn refused_late(&mut self, link: u64, reason: Reason) {
        let Some(dial) = self.dial_of(link) else { return };
        self.end_abruptly(link, DIALLER, reason.clone());
        self.ungreet(dial);
        self.dial_failed(dial, &reason.to_string());
    }

    /// Tells the other side of a connection that is not a link at this end why it will be none.
    pub(super) fn refuse(&mut self, serial: u64, reason: Reason) {
        let Some(link) = self.links.get_mut(&serial) else { return };
        let Some(side) = link.ends.iter().position(|end| end.state == State::Waiting) else {
            return;
        };
        if side == ACCEPTOR {
            // Its dialler waits for a Hello.
            let (dial, latency) = (link.dial, link.latency);
            self.links.remove(&serial);
            self.answer_dial(dial, reason, latency);
            return;
        }
        let received = 0;
        link.lanes[side].last(Content::Goodbye(reason.clone(), received));
        self.pump(serial, side);
        self.end(serial, side, Parting { reason, by_peer: false }, None);
    }

    fn dial_secured(&mut self, serial: u64) {
        let Some(dial) = self.dials.get_mut(&serial) else { return };
        let Some((to, run)) = dial.to else { return };
        let (from, expected) = (dial.from, dial.address.id);
        let dialled_for = match dial.purpose {
            Purpose::Overlay { quiet: true } => DialPurpose::Overlay,
            Purpose::Overlay { quiet: false } | Purpose::Connect(_) | Purpose::Join(_) => {
                DialPurpose::Application
            }
        };
        dial.stage = Stage::Connecting;
        let greeting = self.config.handshake_timeout;
        if self.is_cut(from, to) {
            let due = Due::Dial { dial: serial, step: DialStep::Overdue };
            return self.queue.put(self.now + greeting, due);
        }
        if self.nodes[to].run(run).is_none() {
            return self.dial_failed(serial, "closed before Hello");
        }
        let id = self.nodes[to].id;
        if expected.is_some_and(|expected| expected != id) {
            return self.dial_failed(serial, &format!("another node answered: {}", id.short()));
        }
        let (now, purpose) = (self.now, dialled_for);
        let Some(running) = &mut self.nodes[from].running else { return };
        let allowed = match running.stopping {
            true => Err(Reason::Stopping),
            false => running.overlay.greet(now, id, purpose),
        };
        match allowed {
            Ok(()) => {
                self.set_stage(serial, Stage::Greeting);
                let latency = self.latency(from, to);
                let due = |step| Due::Dial { dial: serial, step };
                self.queue.put(self.now + latency, due(DialStep::Hello));
                self.queue.put(self.now + greeting, due(DialStep::Overdue));
            }
            Err(Reason::Duplicate) => {
                // Without a link another dial has said Hello.
                let linked = running.handles.get(&id).is_some_and(|handle| {
                    let link = self.links.get(&handle.link);
                    link.is_none_or(|link| link.ends[handle.side].state == State::Up)
                });
                if linked {
                    return self.dial_reached(serial, id);
                }
                running.waiting.push(serial);
                self.set_stage(serial, Stage::Ending(id));
                let wait = greeting + self.config.flush_timeout;
                self.queue
                    .put(self.now + wait, Due::Dial { dial: serial, step: DialStep::Overdue });
            }
            Err(reason) => self.dial_failed(serial, &reason.to_string()),
        }
    }

    /// The dialler's Hello is with the acceptor, which decides whether it is a link.
    fn hello(&mut self, serial: u64) {
        let Some(dial) = self.dials.get(&serial) else { return };
        let (from, from_run, called) = (dial.from, dial.run, dial.address.clone());
        let Some((to, to_run)) = dial.to else { return };
        if self.is_cut(from, to) {
            // Its time will run out.
            return;
        }
        let latency = self.latency(from, to);
        let epoch = |node: usize| self.nodes[node].running.as_ref().map(|running| running.epoch);
        let (Some(from_epoch), Some(to_epoch)) = (epoch(from), epoch(to)) else {
            let due = Due::Dial { dial: serial, step: DialStep::Lost };
            return self.queue.put(self.now + latency, due);
        };
        let end = |node: usize, run, of: usize, direction, incarnation, shown| {
            let other = &self.nodes[of];
            let ip = public_ip(of).into();
            End {
                node,
                run,
                peer: Peer::new(other.id, other.name.clone(), shown, direction),
                candidate: Candidate { id: other.id, direction, incarnation, ip },
                state: State::Waiting,
                admitted: false,
                heard: self.now,
            }
        };
        let dialled = called.without_id();
        let connected_from = address(public_ip(from));
        let ends = [
            end(from, from_run, to, Direction::Outbound, to_epoch, dialled),
            end(to, to_run, from, Direction::Inbound, from_epoch, connected_from.clone()),
        ];
        let lanes = [Lane::default(), Lane::default()];
        let link = self.next_serial();
        self.links.insert(link, Link { latency, dial: serial, ends, lanes, cuts: 0 });
        if let Err(reason) = self.admit(link, ACCEPTOR) {
            self.links.remove(&link);
            if reason != Reason::Duplicate {
                let (address, error) = (connected_from, reason.to_string());
                self.event(to, Event::InboundNodeConnectionError { address, error });
            }
            self.answer_dial(serial, reason, latency);
        }
    }

    /// The acceptor says no.
    fn answer_dial(&mut self, serial: u64, reason: Reason, latency: std::time::Duration) {
        self.set_stage(serial, Stage::Refused(reason));
        let due = Due::Dial { dial: serial, step: DialStep::Refused };
        self.queue.put(self.now + latency, due);
    }

    fn dial_refused(&mut self, serial: u64, reason: Reason) {
        self.ungreet(serial);
        match reason {
            Reason::Duplicate => self.wait_for_link(serial),
            reason => self.dial_failed(serial, &format!("refused: {reason}")),
        }
    }

    /// There is, or will be in a moment, another link with whom was dialled.
    fn wait_for_link(&mut self, serial: u64) {
        let Some(dial) = self.dials.get(&serial) else { return };
        let Some((to, _)) = dial.to else { return };
        let (from, id) = (dial.from, self.nodes[to].id);
        let Some(running) = &mut self.nodes[from].running else { return };
        if running.handles.contains_key(&id) {
            return self.dial_reached(serial, id);
        }
        running.waiting.push(serial);
        self.set_stage(serial, Stage::Linking(id));
        let due = Due::Dial { dial: serial, step: DialStep::Overdue };
        self.queue.put(self.now + self.config.handshake_timeout, due);
    }

    /// Nothing has come of a dial in time; if something has, the dial is gone or further on.
    fn dial_overdue(&mut self, serial: u64) {
        let Some(dial) = self.dials.get(&serial) else { return };
        let (from, stage) = (dial.from, dial.stage.clone());
        match stage {
            Stage::Refused(_) => {}
            Stage::Connecting | Stage::Greeting => {
                self.ungreet(serial);
                self.dial_failed(serial, "the handshake took too long");
                // Where the other side has a link by now it hears that nobody wants it any more.
                let of = |(at, link): (&u64, &Link)| (link.dial == serial).then_some(*at);
                let link = self.links.iter().find_map(of);
                if let Some(link) = link {
                    self.end_abruptly(link, DIALLER, Reason::HandshakeTimeout);
                }
            }
            Stage::Ending(_) | Stage::Linking(_) => {
                if let Some(running) = &mut self.nodes[from].running {
                    running.waiting.retain(|waiting| *waiting != serial);
                }
                self.dial_failed(serial, &format!("refused: {}", Reason::Duplicate));
            }
        }
    }

    fn dial_failed(&mut self, serial: u64, error: &str) {
        let Some(dial) = self.dials.remove(&serial) else { return };
        let Dial { from, address, purpose, to, .. } = dial;
        self.stats.dials_failed += 1;
        self.note("dial failed", [from, from], error.as_bytes());
        let told = error.to_owned();
        self.input(from, Input::DialFailed { address: address.clone(), error: told.clone() });
        if matches!(purpose, Purpose::Join(_)) && self.nodes[from].joining == Joining::Trying {
            self.nodes[from].joining = Joining::Failed(told.clone());
        }
        if purpose != (Purpose::Overlay { quiet: true }) {
            let error = told.clone();
            self.event(from, Event::OutboundNodeConnectionError { address, error });
        }
        match purpose {
            Purpose::Connect(Some(action)) => {
                self.event(from, Event::NodeActionFailed { action, error: told });
            }
            Purpose::Join(Some(action)) => self.join_try_failed(from, action, &told),
            _ => {}
        }
        if let Some((to, _)) = to {
            // Dials that waited for this one's Hello say theirs.
            self.dials_unlinked(from, self.nodes[to].id);
        }
    }

    fn ungreet(&mut self, serial: u64) {
        let Some(dial) = self.dials.get(&serial) else { return };
        let Some((to, _)) = dial.to else { return };
        let (from, id) = (dial.from, self.nodes[to].id);
        if let Some(running) = &mut self.nodes[from].running {
            running.overlay.greeted(id);
        }
    }

    fn set_stage(&mut self, serial: u64, stage: Stage) {
        if let Some(dial) = self.dials.get_mut(&serial) {
            dial.stage = stage;
        }
    }

    /// The dial that a connection is of, where it is still waited for.
    fn dial_of(&self, link: u64) -> Option<u64> {
        let dial = self.links.get(&link)?.dial;
        self.dials.contains_key(&dial).then_some(dial)
    }

    /// Takes the dials of a node that wait for something.
    fn waiting(&mut self, node: usize, which: impl Fn(&Stage) -> bool) -> Vec<u64> {
        let dials = &self.dials;
        let Some(running) = &mut self.nodes[node].running else { return Vec::new() };
        let is_meant = |serial: &mut u64| dials.get(serial).is_none_or(|dial| which(&dial.stage));
        running.waiting.extract_if(.., is_meant).collect()
    }

    /// Who is at an address, seen from a node.
    pub(super) fn reachable(&self, from: usize, address: &Address) -> Reach {
        match node_at(address) {
            Some(to) if to >= self.nodes.len() => Reach::Nobody,
            Some(to) if !self.nodes[to].options.dialable || self.is_cut(from, to) => Reach::Nobody,
            Some(to) if self.nodes[to].running.is_none() => Reach::NotRunning(to),
            Some(to) => Reach::Node(to),
            None => Reach::Nobody,
        }
    }
}

/// What is at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Nothing answers.
    Nobody,
    /// The machine of this node answers that nobody listens.
    NotRunning(usize),
    /// This node.
    Node(usize),
}
