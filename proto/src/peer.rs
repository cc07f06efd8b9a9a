//! The state machine of one node: all its decisions about links, messages and the overlay.
//!
//! A [`Machine`] owns the overlay, the table of links, the dials under way and the queries of the
//! application. A *shell* drives it: the actor of a real node, or the simulator. The shell has the sockets
//! (or models of them), the clocks and the application. It makes no decisions about the network.
//!
//! # Life of a link
//! 1. [`Output::Dial`] has the addresses of a node. The shell connects to the first that answers, secures the
//!    connection, and hands in [`Input::DialSecured`] with the identity that the handshake has proven.
//! 2. With [`Output::Greet`] the machine lets the shell send Hello. It allows one dial at a time to send
//!    Hello to a node. If there is a link with the node already, the dial uses that link. If another dial has
//!    sent a Hello to the node, this dial waits for its outcome.
//! 3. When the other node's Hello has arrived, the shell hands in [`Input::Greeted`]. The machine admits the
//!    connection, or refuses it with a reason. If two nodes dial each other at the same time, both machines
//!    keep the same connection.
//! 4. Frames of the overlay that arrive are handed in as [`Input::Frame`], and frames to send come out as
//!    [`Output::Send`]. The application's messages over a link do not pass through the machine.
//! 5. The link ends because the machine closes it ([`Output::CloseLink`], [`Output::CloseReplacedLink`]), the
//!    other node closes it, or it is lost. The shell hands in [`Input::LinkClosing`] once nothing more can be
//!    sent, [`Input::LinkDown`] once the connection has ended, and [`Input::LinkEndReported`] once the
//!    application has the event. A connection that replaces the link becomes a link only after that.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::config::Config;
use crate::frame::Frame;
use crate::frame::query::{QueryId, QueryKind};
use crate::id::NodeId;
use crate::message::Message;
use crate::overlay::{Effect, NodeSetup, Overlay};
use crate::time::{Instant, Now, earliest};
use crate::verify::Verifier;

pub mod circuits;
pub mod congestion;
mod dials;
mod links;
pub mod meetings;
mod seam;
mod send_queues;
#[cfg(test)]
mod tests;

use dials::{Dial, Dials};
use links::Links;
use meetings::Meetings;
pub use seam::{
    BroadcastReceipt, Command, ConnectionId, DialError, DialId, Greeted, Input, JoinError,
    LinkTransport, OperationId, Output, Payload, Purpose, SendError,
};
pub use send_queues::MAX_RECIPIENTS;
use send_queues::SendQueues;

/// Maximum number of the application's queries under way. 1,024: as many actions as a handler may have under
/// way. A further query ends immediately, incomplete.
pub const MAX_QUERIES: usize = 1024;

/// The state machine of one node.
///
/// It is driven like every state machine of this crate: hand in one [`Input`], take outputs until
/// [`Machine::poll`] returns `None`, then sleep until [`Machine::poll_timeout`].
#[derive(Debug)]
pub struct Machine {
    overlay: Overlay,
    links: Links,
    dials: Dials,
    /// The application's queries that have not ended.
    queries: BTreeMap<QueryId, OperationId>,
    send_queues: SendQueues,
    meetings: Meetings,
    /// The application makes all links by hand.
    manual: bool,
    /// Maximum time for the exchange of the two Hellos.
    handshake_timeout: Duration,
    /// Maximum time for a link that is closing to flush its queue.
    flush_timeout: Duration,
    now: Now,
    stopping: bool,
    outputs: VecDeque<Output>,
    /// `carry_out_effects` is running, so a nested call returns and leaves the effects to it.
    carrying_out: bool,
    /// Frames that were not sent because their link is crowded. Each has to be reported to the overlay.
    skipped: Vec<(NodeId, Frame)>,
    skipped_count: u64,
}

impl Machine {
    /// Returns the machine of a node that starts at `now`, without links.
    ///
    /// `seed` is its only source of randomness. Outside of tests the seed has to be secret and from the
    /// system's generator, as messages are sealed with it.
    #[must_use]
    pub fn new(now: Now, setup: NodeSetup, config: &Config, seed: [u8; 32]) -> Self {
        let manual = setup.manual;
        let mut overlay = Overlay::new(setup, config, seed);
        overlay.set_clocks(now);
        Self {
            overlay,
            links: Links::new(config.on_demand_idle),
            dials: Dials::default(),
            queries: BTreeMap::new(),
            send_queues: SendQueues::new(config),
            meetings: Meetings::default(),
            manual,
            handshake_timeout: config.handshake_timeout,
            flush_timeout: config.flush_timeout,
            now,
            stopping: false,
            outputs: VecDeque::new(),
            carrying_out: false,
            skipped: Vec::new(),
            skipped_count: 0,
        }
    }

    /// Sets the verifier that checks all further signatures.
    pub fn verify_with(&mut self, verifier: Verifier) {
        self.overlay.verify_with(verifier);
    }

    /// Returns the overlay, for its counters and views.
    #[must_use]
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// Returns the connection that is the link with a node.
    #[must_use]
    pub fn link(&self, id: NodeId) -> Option<ConnectionId> {
        self.links.connection(id)
    }

    /// Returns whether the node is stopping. It makes no more links then.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Returns whether the send queue of a node is in use. Then later messages to the node have to be queued
    /// too, so that they stay in order.
    #[must_use]
    pub fn has_messages_for(&self, id: NodeId) -> bool {
        self.send_queues.waits_for(id)
    }

    /// Returns the number of frames that were not sent because their link was crowded.
    #[must_use]
    pub fn skipped_frames(&self) -> u64 {
        self.skipped_count
    }

    /// Handles one input. All outputs have to be polled before the next.
    pub fn handle(&mut self, now: Now, input: Input) {
        debug_assert!(self.outputs.is_empty(), "poll until None before the next input");
        self.set_now(now);
        match input {
            Input::Dial { operation, addresses, keep, purpose } => {
                if let Some(first) = addresses.first().filter(|_| keep) {
                    // Kept before the dial begins, as the outcome of the dial decides when the address is
                    // dialled again.
                    self.overlay.keep(first.clone());
                }
                self.dial(Some(operation), addresses, purpose);
            }
            Input::DialSecured { dial, id } => {
                if self.dials.is_connecting(dial) {
                    self.dial_secured(dial, id);
                }
            }
            Input::DialRefused { dial, reason } => {
                self.dial_refused(dial, &DialError::Refused(reason));
            }
            Input::DialFailed { dial, error } => self.fail_dial(dial, &DialError::Failed(error)),
            Input::Greeted(greeted) => self.greeted(greeted),
            Input::Frame(connection, frame) => {
                if let Some(id) = self.links.accepts_from(connection) {
                    self.with_overlay(|overlay| overlay.receive(id, frame));
                    if let Some(pause) = self.overlay.begin_pause(id) {
                        self.outputs.push_back(Output::PauseReading(connection, pause));
                    }
                }
            }
            Input::PostponeBroadcasts(connection, batch) => {
                if let Some(id) = self.links.accepts_from(connection) {
                    self.with_overlay(|overlay| overlay.postpone(id, &batch));
                }
            }
            Input::LinkClosing(connection) => self.links.stop_sending(connection),
            Input::LinkDown { connection, link_end } => self.link_down(connection, link_end),
            Input::LinkEndReported { id } => self.link_end_reported(id),
            Input::LinkUse { connection, count, busy } => self.link_used(connection, count, busy),
            Input::Broadcast { operation, title, message } => {
                self.broadcast(operation, title, message);
            }
            Input::Query { operation, what, depth, own, timeout } => {
                if self.queries.len() >= MAX_QUERIES {
                    let ended = Output::QueryEnded { operation, complete: false };
                    return self.outputs.push_back(ended);
                }
                let called = match &what {
                    QueryKind::CallBack { target, .. } => Some(*target),
                    _ => None,
                };
                let id = self.overlay.ask(what, depth, own, timeout);
                self.note_call_back(id, called);
                // Noted before the effects are carried out, because a query without neighbours ends
                // immediately.
                self.queries.insert(id, operation);
                self.carry_out_effects();
            }
            Input::Send { operation, to, payload } => self.send(operation, to, payload),
            Input::RequestEnded { operation } => self.send_queues.forget_request(operation),
            Input::Delivered { to, operation } => self.delivered(to, operation),
            Input::AddressesLookedUp { id, addresses } => self.recipient_addresses(id, addresses),
            Input::ProbeReceived { operation, from, probe } => {
                let answer = self.overlay.answer_probe(from, probe);
                self.carry_out_effects();
                self.outputs.push_back(Output::ProbeAnswer { operation, answer });
            }
            Input::StreamOpened(operation, from, membership) => {
                let outcome = self.overlay.check_membership(from, membership.as_deref());
                self.carry_out_effects();
                self.outputs.push_back(Output::StreamChecked(operation, outcome));
            }
            Input::Want { id } => {
                self.links.set_wanted(id);
                self.overlay.pin(id);
            }
            Input::Observed { by, address } => self.observed(by, address),
            Input::Mapping(state) => self.with_overlay(|overlay| overlay.set_mapping(state)),
            Input::Probed { id, answer } => self.with_overlay(|overlay| overlay.probed(id, answer)),
            Input::Command(command) => self.with_overlay(|overlay| overlay.command(command)),
            Input::Stopping => {
                self.stopping = true;
                // Messages that wait for a link fail now, as no more links are made.
                self.end_sends();
            }
            Input::Stop { hand_over } => self.stop(hand_over),
        }
    }

    /// Carries out everything that is due at `now`.
    pub fn handle_timeout(&mut self, now: Now) {
        self.set_now(now);
        if self.overlay.poll_timeout().is_some_and(|due| due <= now.monotonic) {
            self.with_overlay(Overlay::handle_timeout);
        }
        self.dials_overdue();
        self.sends_overdue();
        self.check_on_demand();
        self.upgrade_links();
    }

    /// Returns the next output, or `None` if there are no more until the next input or deadline.
    ///
    /// `is_crowded` returns whether too much waits for a link to queue this frame too: see
    /// [`congestion::is_left_out`]. It is called only for frames that may be left out. If it returns true, the
    /// frame is not sent, and the overlay gets a report of that.
    pub fn poll(
        &mut self,
        mut is_crowded: impl FnMut(ConnectionId, &Frame) -> bool,
    ) -> Option<Output> {
        loop {
            match self.outputs.pop_front() {
                Some(Output::Send { connection, mut frame }) => {
                    if !congestion::may_be_left_out(&frame) || !is_crowded(connection, &frame) {
                        self.mark_incomplete(connection, &mut frame);
                        return Some(Output::Send { connection, frame });
                    }
                    self.skipped_count += 1;
                    self.skipped.extend(self.links.id(connection).map(|id| (id, frame)));
                }
                Some(output) => return Some(output),
                None => {
                    // Frees the memory: an emptied queue keeps its capacity, which is more than all that a link
                    // needs. A node is idle most of the time.
                    self.outputs = VecDeque::new();
                    let (id, frame) = self.skipped.pop()?;
                    self.with_overlay(|overlay| overlay.frame_skipped(id, frame));
                }
            }
        }
    }

    /// Returns when [`Machine::handle_timeout`] is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let of_links = earliest(self.dials.poll_timeout(), self.links.poll_timeout());
        let own = earliest(of_links, self.send_queues.poll_timeout());
        let own = earliest(own, self.meetings.poll_timeout());
        earliest(self.overlay.poll_timeout(), own)
    }

    fn set_now(&mut self, now: Now) {
        self.now = now;
        self.with_overlay(|overlay| overlay.set_clocks(now));
    }

    fn broadcast(&mut self, operation: OperationId, title: String, message: Message) {
        let time = self.now.unix;
        let sent = self.overlay.broadcast(title, message);
        let outcome = sent.map(|(id, links)| BroadcastReceipt { id, time, links });
        self.outputs.push_back(Output::Broadcast { operation, outcome });
        self.carry_out_effects();
        if self.stopping {
            // The node is stopping, so there is no time to collect more broadcasts.
            self.with_overlay(Overlay::flush);
        }
    }

    /// Calls `act` with the overlay, and carries out the effects.
    fn with_overlay(&mut self, act: impl FnOnce(&mut Overlay)) {
        act(&mut self.overlay);
        self.carry_out_effects();
    }

    /// Carries out the overlay's effects one after the other. That may call the overlay again. The new
    /// effects are carried out after those that are in its list already.
    fn carry_out_effects(&mut self) {
        if std::mem::replace(&mut self.carrying_out, true) {
            return;
        }
        while let Some(effect) = self.overlay.poll() {
            self.carry_out(effect);
        }
        self.carrying_out = false;
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Out(output) => {
                if let Output::LookUpAnswer {
                    what: QueryKind::SignedCallBack { record, .. }, ..
                } = &output
                {
                    self.meet(record.node, &record.addresses);
                }
                self.outputs.push_back(output);
            }
            Effect::Send(to, frame) => {
                // The link may have ended since the overlay put out the effect.
                if let Some(connection) = self.links.connection(to) {
                    self.outputs.push_back(Output::Send { connection, frame });
                }
            }
            Effect::Dial { addresses, purpose } => self.dial(None, addresses, purpose),
            Effect::Joined(id) => {
                self.outputs.push_back(Output::Joined(id));
                self.joined();
            }
            Effect::JoinRefused(by, outcome) => {
                self.join_failed(by, &JoinError::Refused { by, outcome });
            }
            Effect::CloseLink(id, reason) => self.close_link(id, reason),
            Effect::Answered(answer) => {
                self.call_back_answered(&answer);
                if let Some(operation) = self.queries.get(&answer.id).copied() {
                    self.outputs.push_back(Output::Answered { operation, answer });
                } else {
                    self.recipient_found(&answer);
                }
            }
            Effect::Relayed { number, sent } => self.relayed(number, sent),
            Effect::Replied { from, id, outcome } => {
                if let Some(operation) = self.send_queues.take_request(from, id) {
                    self.outputs.push_back(Output::Replied { operation, outcome });
                }
            }
            Effect::QueryEnded { query, complete } => {
                self.call_back_ended(query);
                if let Some(operation) = self.queries.remove(&query) {
                    self.outputs.push_back(Output::QueryEnded { operation, complete });
                } else {
                    self.recipient_search_ended(query);
                }
            }
        }
    }
}
