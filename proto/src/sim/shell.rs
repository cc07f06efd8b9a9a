//! The shell of simulated nodes. It drives their machines and applications, as the actor of a real node
//! does.

use super::actions::LinkPurpose;
use super::link::{EndpointState, LinkContent, LinkItem};
use super::node::{LinkHandle, SimulatedHandlerHost, SimulatedNode};
use super::queue::SimEvent;
use super::requests::{IncomingRequest, RequestPath};
use super::stats::{MESSAGE, kind};
use super::{Joining, Sim};
use crate::event::{Event, MessageFailure, NodeInfo, Peer, Reason};
use crate::frame::query::{AnswerBody, QueryAnswer};
use crate::frame::{Frame, MESSAGE_HEADER_LEN};
use crate::handler::{Action, Context, Handler};
use crate::id::{Hash, NodeId};
use crate::message::Message;
use crate::overlay::broadcast::BroadcastError;
use crate::overlay::members::RosterChange;
use crate::peer::{Command, ConnectionId, Input, OperationId, Output};

/// Work that is done at the present moment, in the order in which it was queued.
///
/// The first two fields of most variants are the number of a node and of its run. A node begins a new run at
/// each start. Work for a run that has ended is not done.
#[derive(Debug)]
pub(super) enum Work {
    /// Hands the node's machine an input.
    Input(usize, u32, Box<Input>),
    /// Delivers an event to the node's application.
    Event(usize, u32, Event),
    /// Sends a broadcast of the node's application.
    Broadcast(usize, u32, String, Message),
    /// Makes the node's application answer a request.
    Request(usize, u32, IncomingRequest),
    /// Sends the goodbye of one endpoint of a link.
    Close { connection: ConnectionId, side: usize, reason: Reason },
    /// Stops the node.
    Stop(usize, u32),
    /// Reports to the node's machine that the application knows of the end of the link with this peer.
    LinkEndReported(usize, u32, NodeId),
}

impl<H: Handler> Sim<H> {
    /// Does the queued work of this moment, and the work that follows from it.
    pub(super) fn settle(&mut self) {
        // An output of a machine often leads to an input of the same machine. The input waits in this queue
        // until all outputs are carried out, so that no machine gets an input while its outputs are polled.
        while let Some(work) = self.work.pop_front() {
            match work {
                Work::Input(node, run, input) => {
                    if self.nodes[node].in_run(run).is_some() {
                        self.handle(node, *input);
                    }
                }
                Work::Event(node, run, event) => self.deliver(node, run, event),
                Work::Broadcast(node, run, title, message) => {
                    if self.nodes[node].in_run(run).is_some() {
                        // A failure is an event, as on a real node.
                        if let Err(error) = self.send_broadcast_of(node, title.clone(), message) {
                            let error = error.to_string();
                            self.event(node, Event::NodeBroadcastFailed { title, error });
                        }
                    }
                }
                Work::Request(node, run, request) => self.answer_request(node, run, request),
                Work::Close { connection, side, reason } => self.close(connection, side, reason),
                Work::Stop(node, run) => {
                    if self.nodes[node].in_run(run).is_some() {
                        self.stop_gracefully(node);
                    }
                }
                Work::LinkEndReported(node, run, id) => {
                    if self.nodes[node].in_run(run).is_some() {
                        self.handle(node, Input::LinkEndReported { id });
                    }
                }
            }
        }
    }

    /// Queues an input for the machine of a node.
    pub(super) fn input(&mut self, node: usize, input: Input) {
        self.work.push_back(Work::Input(node, self.nodes[node].run, Box::new(input)));
    }

    /// Queues an event for the application of a node.
    pub(super) fn event(&mut self, node: usize, event: Event) {
        self.work.push_back(Work::Event(node, self.nodes[node].run, event));
    }

    /// Handles a `WakeNode` event: lets the machine handle its timeout, unless the event is outdated.
    pub(super) fn wake_node(&mut self, node: usize) {
        let now = self.now;
        let Some(running) = &mut self.nodes[node].running else { return };
        // Events are never removed from the queue early. An event that another one has replaced is ignored here.
        if running.wake != Some(now) {
            return;
        }
        running.wake = None;
        if running.machine.poll_timeout().is_some_and(|due| due <= now) {
            self.stats.wakes += 1;
            let now = running.own_time(now);
            running.machine.handle_timeout(now);
            self.drain(node);
        }
        self.schedule_wake(node);
    }

    /// Sends a broadcast of a node. Returns `None` if it is not running.
    pub(super) fn send_broadcast_of(
        &mut self,
        node: usize,
        title: String,
        message: Message,
    ) -> Result<Option<Hash>, BroadcastError> {
        let operation = self.next_operation();
        // Handled at once instead of queued, because the caller needs the outcome. `carry_out` stores it.
        self.handle(node, Input::Broadcast { operation, title, message });
        let outcome = self.broadcast_outcome.take().transpose()?;
        Ok(outcome.map(|receipt| receipt.id))
    }

    /// Carries out actions of an application.
    pub(super) fn perform(&mut self, node: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(peer, message) => {
                    let Some(running) = &self.nodes[node].running else { continue };
                    // Earlier messages may still be queued for an on-demand link that has just come up. This
                    // message has to stay behind them.
                    let waits = running.machine.has_messages_for(peer.id());
                    match running.handles.get(&peer.id()).filter(|_| !waits).cloned() {
                        Some(handle) => self.send_message(node, &handle, message),
                        None => self.send_without_link(node, peer, message),
                    }
                }
                Action::SendToNodes(message, exclude) => {
                    let Some(running) = &self.nodes[node].running else { continue };
                    let is_recipient = |handle: &&LinkHandle| !exclude.contains(&handle.peer.id());
                    let mut to: Vec<_> =
                        running.handles.values().filter(is_recipient).cloned().collect();
                    // In the order in which the links were made, as on a real node.
                    to.sort_by_key(|handle| handle.connection);
                    for handle in to {
                        self.send_message(node, &handle, message.clone());
                    }
                }
                Action::Broadcast(title, message) => {
                    let run = self.nodes[node].run;
                    self.work.push_back(Work::Broadcast(node, run, title, message));
                }
                Action::Connect(action, address, keep) => {
                    self.link_to(node, vec![address], keep, LinkPurpose::Connect(Some(action)));
                }
                Action::Disconnect(id) => self.command(node, Command::Disconnect(id)),
                Action::Penalize(id, why) => self.command(node, Command::Penalize(id, why)),
                Action::StopReconnecting(address) => {
                    self.command(node, Command::StopReconnecting(address));
                }
                Action::Join(action, addresses) => self.begin_join(node, action, addresses),
                Action::SetInfo(peer, key, value) => {
                    let Some(running) = &mut self.nodes[node].running else { continue };
                    let handle = running.handles.get(&peer);
                    if let Some(connection) = handle.map(|handle| handle.connection) {
                        running.info.entry(connection).or_default().insert(key, value);
                    }
                }
                Action::Discover(action, depth) => self.begin_discovery(node, action, depth),
                Action::Search(action, text) => self.begin_search(node, action, text),
                Action::Ping(action, id) => self.begin_ping(node, action, id),
                Action::Fetch(action, hash, to) => self.begin_fetch(node, action, hash, to),
                Action::Share(action, path) => self.share_file(node, action, &path),
                Action::Request(action, to, name, message) => {
                    self.send_request(node, action, to, name, message);
                }
                Action::SetTimer(timer, after) => self.set_timer(node, timer, after),
                Action::CancelTimer(timer) => {
                    if let Some(running) = &mut self.nodes[node].running {
                        running.timers.cancel(timer);
                    }
                }
                Action::Stop => self.work.push_back(Work::Stop(node, self.nodes[node].run)),
            }
        }
    }

    /// Hands the machine of a node an input at once, and carries out the outputs.
    pub(super) fn handle(&mut self, node: usize, input: Input) {
        let Some(running) = &mut self.nodes[node].running else { return };
        let now = running.own_time(self.now);
        running.machine.handle(now, input);
        self.drain(node);
        self.schedule_wake(node);
    }

    /// Queues a `WakeNode` event for the machine's deadline, unless one is queued for the same or an earlier
    /// time.
    pub(super) fn schedule_wake(&mut self, node: usize) {
        let now = self.now;
        let Some(running) = &mut self.nodes[node].running else { return };
        let Some(due) = running.machine.poll_timeout() else { return };
        if running.wake.is_none_or(|wake| wake > due) {
            // An overdue deadline is handled after the other events of this moment.
            let due = due.max(now);
            running.wake = Some(due);
            self.queue.put(due, SimEvent::WakeNode { node });
        }
    }

    /// Carries out the outputs of a node's machine.
    fn drain(&mut self, node: usize) {
        loop {
            let (links, config) = (&self.links, &self.config);
            let Some(running) = &mut self.nodes[node].running else { return };
            // A machine counts the frames that it has skipped since its own start. The statistics have the sum
            // of all runs of all nodes, so the new ones are added.
            let before = running.machine.skipped_frames();
            let is_crowded = |connection: ConnectionId, frame: &Frame| {
                let link = links.get(&connection);
                let outbox = link.and_then(|link| Some(&link.outboxes[link.side_of(node)?]));
                outbox.is_some_and(|outbox| outbox.leaves_out(frame, config))
            };
            let output = running.machine.poll(is_crowded);
            self.stats.skipped_frames += running.machine.skipped_frames() - before;
            match output {
                Some(output) => self.carry_out(node, output),
                None => return,
            }
        }
    }

    fn carry_out(&mut self, node: usize, output: Output) {
        match output {
            Output::Send { connection, frame } => self.send(node, connection, frame),
            Output::Dial { dial, operation, addresses, purpose } => {
                self.dial(node, dial, operation, addresses, purpose);
            }
            Output::Greet(dial) => self.send_hello(node, dial),
            Output::DialEnded { dial, outcome, .. } => self.dial_ended(node, dial, outcome),
            Output::Admitted(connection) => self.link_up(node, connection),
            Output::Refused(connection, reason) => self.refuse(node, connection, reason),
            Output::Joined(_) => self.nodes[node].joining = Joining::Joined,
            Output::JoinEnded { operation, outcome } => self.join_ended(node, operation, outcome),
            Output::CloseLink(connection, reason) => self.begin_to_close(node, connection, reason),
            Output::CloseReplacedLink(connection, reason) => {
                let side = self.links.get(&connection).and_then(|link| link.side_of(node));
                if let Some(side) = side {
                    self.hang_up(connection, side, reason);
                }
            }
            Output::Event(event) => self.event(node, event),
            Output::Broadcast { outcome, .. } => self.broadcast_outcome = Some(outcome),
            Output::Answered { operation, answer } => self.take_answer_of_query(operation, answer),
            Output::QueryEnded { operation, complete } => {
                if let Some(discovery) = self.discoveries.get_mut(&operation) {
                    discovery.complete = Some(complete);
                    let found: Vec<_> = discovery.nodes.values().cloned().collect();
                    for found in found {
                        self.event(node, Event::NodeDiscovered { node: found });
                    }
                }
                self.source_search_ended(operation);
                self.call_back_ended(operation, complete);
                self.app_query_ended(operation, complete);
            }
            Output::Deliver { operation, connection, payload } => {
                self.deliver_over(node, operation, connection, payload);
            }
            Output::Sent { operation, outcome } => self.sent(node, operation, outcome),
            Output::Request { peer, id, name, message } => {
                let path = RequestPath::Relayed { id };
                let run = self.nodes[node].run;
                let request = IncomingRequest { path, peer, name, message };
                self.work.push_back(Work::Request(node, run, request));
            }
            Output::Replied { operation, outcome } => self.replied(operation.0, outcome),
            Output::LookUpAddresses(id) => self.look_up_addresses(node, id),
            Output::MeasureUse(connection) => self.measure_use(node, connection),
            Output::ProbeAnswer { operation, answer } => {
                self.probe_answered(node, operation.0, answer);
            }
            Output::Probe { addresses, id, probe } => self.probe(node, id, addresses, probe),
            Output::LookUpAnswer { query, what, .. } => self.look_up(node, query, &what),
            Output::Keep(batch) => self.nodes[node].store_broadcast(batch),
            Output::RosterChanged(RosterChange::Member(proof)) => {
                if proof.member() == self.nodes[node].id {
                    self.nodes[node].membership = Some(*proof);
                }
            }
            Output::Observe(by) => self.observe(node, by),
            Output::StopObserving(by) => {
                if let Some(running) = &mut self.nodes[node].running {
                    running.observers.remove(&by);
                }
            }
            // A simulated node opens no streams for which its machine is asked, keeps its roster only as long as it
            // runs, and reads without effort.
            Output::RosterChanged(_)
            | Output::StreamChecked(..)
            | Output::PauseReading(..)
            | Output::AnnounceMapped(_)
            | Output::Anchors(_) => {}
            Output::StopOrdered => {
                self.work.push_back(Work::Stop(node, self.nodes[node].run));
            }
        }
    }

    /// Queues a frame of the overlay on a link. A node that lies may queue other frames instead.
    fn send(&mut self, node: usize, connection: ConnectionId, frame: Frame) {
        let Some(side) = self.links.get(&connection).and_then(|link| link.side_of(node)) else {
            return;
        };
        let unix = self.unix();
        let frames = match &mut self.nodes[node].liar {
            Some(liar) => liar.lie(unix, frame),
            None => vec![frame],
        };
        for frame in frames {
            self.put_frame(connection, side, frame);
        }
    }

    pub(super) fn put_frame(&mut self, connection: ConnectionId, side: usize, frame: Frame) {
        let Some(link) = self.links.get_mut(&connection) else { return };
        // The machine learns only later that a link is closing, and may send over it until then.
        if !matches!(link.endpoints[side].state, EndpointState::Up | EndpointState::Leaving(_)) {
            return;
        }
        let nodes = [link.endpoints[side].node, link.endpoints[1 - side].node];
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        frame.encode(&mut scratch);
        let (bytes, kind) = (scratch.len(), kind(&frame));
        let item = LinkItem { bytes, content: LinkContent::Frame(frame) };
        let put = link.outboxes[side].queue_control(self.now, item, &self.config);
        match put {
            Ok(()) => {
                self.stats.count(kind, bytes);
                self.trace_event("frame", nodes, &scratch);
                self.transmit(connection, side);
            }
            // Frames on behalf of other nodes are left out once the queue is crowded. If it is full nevertheless,
            // or the peer takes nothing of it, the peer is too slow.
            Err(_) => {
                self.stats.slow_links += 1;
                self.hang_up(connection, side, Reason::Slow);
            }
        }
        self.scratch = scratch;
    }

    /// Sends a message over a link.
    pub(super) fn send_message(&mut self, node: usize, handle: &LinkHandle, message: Message) {
        let LinkHandle { connection, side, peer } = handle;
        let Some(link) = self.links.get_mut(connection) else {
            return self.message_failed(node, peer.clone(), not_connected());
        };
        let len = message.body().len();
        let refused = match &link.endpoints[*side].state {
            EndpointState::Closing(reason) => Some(reason.clone()),
            EndpointState::Waiting | EndpointState::Gone => Some(not_connected()),
            EndpointState::Up | EndpointState::Leaving(_) if len > self.config.max_message => {
                let limit = self.config.max_message;
                let said = format!("a message of {len} bytes is over the limit of {limit}");
                Some(Reason::Other(0, said))
            }
            EndpointState::Up | EndpointState::Leaving(_) => {
                let bytes = len + MESSAGE_HEADER_LEN;
                let content = LinkContent::Message(message.clone());
                let put =
                    link.outboxes[*side].queue_message(LinkItem { bytes, content }, &self.config);
                put.err().map(|_| Reason::Slow)
            }
        };
        match refused {
            Some(reason) => self.message_failed(node, peer.clone(), reason),
            None => {
                let to = self.by_id.get(&peer.id()).copied().unwrap_or_default();
                self.stats.count(MESSAGE, len + MESSAGE_HEADER_LEN);
                self.trace_event("message", [node, to], message.body());
                self.transmit(*connection, *side);
            }
        }
    }

    pub(super) fn message_failed(&mut self, node: usize, peer: Peer, reason: Reason) {
        let failure = MessageFailure { unsent: 1, unconfirmed: 0, reason };
        self.event(node, Event::NodeMessageFailed { peer, failure });
    }

    /// Delivers an event to an application, and carries out the actions that the application begins.
    fn deliver(&mut self, node: usize, run: u32, event: Event) {
        if self.nodes[node].in_run(run).is_none() {
            return;
        }
        match &event {
            Event::NodeBroadcast { broadcast } => {
                self.stats.deliveries += 1;
                let id = *broadcast.id.as_bytes();
                self.trace_event("delivered", [node, node], &id);
            }
            Event::NodeMessage { .. } => self.stats.messages += 1,
            other => self.trace_event(other.name(), [node, node], &[]),
        }
        let mut actions = Vec::new();
        // The actions are carried out after the handler has returned, because the context borrows the node
        // until then.
        let SimulatedNode { id, name, app, running, disk, .. } = &mut self.nodes[node];
        let Some(running) = running else { return };
        let host = SimulatedHandlerHost { id: *id, name, now: self.now, running, disk };
        event.deliver(app, &mut Context::new(&host, &mut actions));
        self.perform(node, actions);
    }

    /// Takes an answer to a query.
    fn take_answer_of_query(&mut self, operation: OperationId, answer: QueryAnswer) {
        if self.take_source_answer(operation, &answer)
            || self.take_search_answer(operation, &answer)
        {
            return;
        }
        self.take_call_back_answer(operation, &answer);
        let Some(discovery) = self.discoveries.get_mut(&operation) else { return };
        let AnswerBody::Neighbours(outbound, inbound) = answer.body else { return };
        let info = discovery.nodes.entry(answer.node).or_insert_with(|| NodeInfo {
            id: answer.node,
            name: answer.name,
            addresses: answer.addresses,
            outbound: Vec::new(),
            inbound: Vec::new(),
        });
        // A node with many links sends several answers, because each answer has to fit into a frame.
        info.outbound.extend(outbound);
        info.inbound.extend(inbound);
    }
}

pub(super) fn not_connected() -> Reason {
    Reason::Other(0, "there is no link with that node".into())
}
