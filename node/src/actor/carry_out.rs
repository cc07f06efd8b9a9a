//! The outputs of the machine, and how the actor carries them out.

use std::sync::atomic::Ordering::Relaxed;

use peerkit_proto::address::Address;
use peerkit_proto::event::{Direction, Event, LinkEnd, Reason};
use peerkit_proto::frame::broadcast::Batch;
use peerkit_proto::frame::query::{QueryAnswer, QueryId, QueryKind};
use peerkit_proto::frame::{Frame, Refusal};
use peerkit_proto::id::NodeId;
use peerkit_proto::message::Message;
use peerkit_proto::peer::{
    Command, ConnectionId, DialError, DialId, Input, OperationId, Output, Payload, Purpose,
};
use tokio::sync::oneshot;

use super::mailbox::Operation;
use super::{Actor, DialTask};
use crate::blocking;
use crate::conn;
use crate::dial;
use crate::error::Error;
use crate::files;
use crate::request;
use crate::store::WRITE_DELAY;
use crate::trace;
use crate::unlinked::{PendingSend, RequestRoute, SentBy};

impl Actor {
    /// Carries out all outputs of the machine, and hands it the inputs that follow from them.
    pub(super) fn drain(&mut self) {
        loop {
            let (links, config) = (&self.links, &self.inner.config);
            let is_crowded = |connection: ConnectionId, frame: &Frame| {
                let conn = links.get(&connection).filter(|conn| conn.leaves_out(frame, config));
                if let Some(conn) = conn {
                    trace::not_sent(conn.peer.id(), frame);
                }
                conn.is_some()
            };
            if let Some(output) = self.machine.poll(is_crowded) {
                trace::output(&output, |connection| self.peer(connection));
                self.carry_out(output);
            } else if let Some(input) = self.follow_ups.pop() {
                trace::input(&input, |connection| self.peer(connection));
                self.machine.handle(super::now(&self.inner), input);
            } else {
                return;
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send { connection, frame } => {
                if let Some(conn) = self.links.get(&connection) {
                    conn.send_control(&frame);
                }
            }
            Output::Dial { dial, operation, addresses, purpose } => {
                self.dial(dial, operation, addresses, purpose);
            }
            Output::Greet(dial) => {
                let allow_hello =
                    self.dials.get_mut(&dial).and_then(|task| task.allow_hello.take());
                allow_hello.and_then(|allow_hello| allow_hello.send(()).ok());
            }
            Output::DialEnded { dial, operation, outcome } => {
                self.dial_ended(dial, operation, outcome);
            }
            Output::Admitted(connection) => self.admitted(connection),
            Output::Refused(connection, reason) => {
                if let Some((_, reply)) = self.admitting.remove(&connection) {
                    let _ = reply.send(Err(reason));
                }
            }
            Output::JoinEnded { operation, outcome } => {
                if let Some(Operation::Join(joined)) = self.operations.remove(&operation) {
                    let _ = joined.send(outcome);
                }
            }
            Output::CloseLink(connection, reason) => {
                if let Some(conn) = self.links.get(&connection) {
                    conn.request_close(reason);
                }
            }
            Output::CloseReplacedLink(connection, reason) => {
                if let Some(conn) = self.links.get(&connection) {
                    conn.hang_up(reason);
                }
            }
            Output::Event(event) => {
                if let Event::NodeMessage { .. } = event {
                    self.inner.meter.received(1);
                }
                self.inner.dispatch.queue_notice(event);
            }
            Output::Broadcast { operation, outcome } => {
                if let Some(Operation::Broadcast(publisher)) = self.operations.remove(&operation) {
                    publisher.report(&self.inner, outcome.map_err(Error::from));
                }
            }
            Output::Answered { operation, answer } => self.answered(operation, answer),
            Output::QueryEnded { operation, complete } => {
                if let Some(Operation::Query(asked)) = self.operations.remove(&operation) {
                    let _ = asked.ended.send(complete && !asked.lost);
                }
            }
            Output::Deliver { operation, connection, payload } => {
                self.deliver(operation, connection, payload);
            }
            Output::Sent { operation, outcome } => {
                if let Some(Operation::Send(sending)) = self.operations.remove(&operation) {
                    let waiting = sending.end_relayed(&self.inner, outcome);
                    let waiting = waiting.map(|reply| (operation, Operation::Reply(reply)));
                    self.operations.extend(waiting);
                }
            }
            Output::Request { peer, id, name, message } => {
                self.inner.meter.received(1);
                request::answer_relayed(&self.inner, peer, id, name, message);
            }
            Output::Replied { operation, outcome } => self.replied(operation, outcome),
            Output::LookUpAddresses(id) => self.look_up_addresses(id),
            Output::MeasureUse(connection) => self.measure_use(connection),
            Output::PauseReading(connection, time) => {
                if let Some(conn) = self.links.get(&connection) {
                    conn.pause_reading_until(self.inner.clock.now() + time);
                }
            }
            Output::ProbeAnswer { operation, answer } => {
                if let Some(Operation::Probe(reply)) = self.operations.remove(&operation) {
                    let _ = reply.send(answer);
                }
            }
            Output::StreamChecked(operation, outcome) => {
                if let Some(Operation::StreamCheck(reply)) = self.operations.remove(&operation) {
                    let _ = reply.send(outcome);
                }
            }
            Output::RosterChanged(change) => {
                self.inner.roster_changed(change, self.machine.overlay().roster());
            }
            Output::Probe { addresses, id, probe } => {
                let is_sent = self.inner.probe(id, addresses, probe);
                if !is_sent {
                    self.follow_ups.push(Input::Probed { id, answer: None });
                }
            }
            Output::Anchors(anchors) => {
                self.inner.peers.remember_anchors(&self.inner.tasks.tracker, anchors);
            }
            Output::Observe(id) => {
                // Tasks of observers that did not answer have ended by themselves.
                self.observing.retain(|_, task| !task.is_finished());
                let task = self.inner.tasks.spawn(self.inner.clone().observe(id));
                self.observing.insert(id, task.abort_handle());
            }
            Output::StopObserving(id) => {
                if let Some(task) = self.observing.remove(&id) {
                    task.abort();
                }
            }
            Output::AnnounceMapped(addresses) => {
                self.inner.addresses.set_mapped(addresses);
                let all = self.inner.addresses.announced(None);
                self.follow_ups.push(Input::Command(Command::Addresses(all)));
            }
            Output::LookUpAnswer { query, what, asker } => self.answer_query(query, what, asker),
            Output::Keep(batch) => self.store_broadcasts(batch),
            Output::StopOrdered => {
                self.shutdown_ordered = true;
                self.inner.tasks.stop.cancel();
            }
            _ => {}
        }
    }

    fn dial(
        &mut self,
        dial: DialId,
        operation: Option<OperationId>,
        addresses: Vec<Address>,
        purpose: Purpose,
    ) {
        let mut reply = oneshot::channel().0;
        if let Some(id) = operation
            && let Some(Operation::Dial { reply: asked, joined }) = self.operations.remove(&id)
        {
            reply = asked;
            if let Some(joined) = joined {
                self.operations.insert(id, Operation::Join(joined));
            }
        }
        let (allow_hello, hello_allowed) = oneshot::channel();
        let (ended, outcome) = oneshot::channel();
        self.dials.insert(dial, DialTask { purpose, allow_hello: Some(allow_hello), ended });
        let dialling = dial::Dialling { dial, addresses, purpose, hello_allowed, ended: outcome };
        conn::start(&self.inner, dial::make_link(self.inner.clone(), dialling, reply));
    }

    fn dial_ended(
        &mut self,
        dial: DialId,
        operation: Option<OperationId>,
        outcome: Result<NodeId, DialError>,
    ) {
        if let (Err(_), Some(operation)) = (&outcome, operation)
            && let Some(Operation::Dial { reply, .. }) = self.operations.remove(&operation)
        {
            // The dial was refused before it began.
            let is_stopping = self.machine.is_stopping();
            let _ = reply.send(Err(if is_stopping { Error::Stopped } else { Error::NoAddress }));
        }
        // `_allow_hello` is dropped after the outcome is sent. If the dial's task saw the channel closed
        // first, it would conclude that the node has stopped.
        let Some(DialTask { purpose, ended, allow_hello: _allow_hello }) = self.dials.remove(&dial)
        else {
            return;
        };
        if let Ok(id) = outcome
            && purpose.is_reported()
        {
            self.learn_owner(id);
        }
        let _ = ended.send(outcome);
    }

    fn admitted(&mut self, connection: ConnectionId) {
        let Some((conn, reply)) = self.admitting.remove(&connection) else { return };
        let id = conn.peer.id();
        self.inner.links.change(|conns| drop(conns.insert(id, conn.clone())));
        self.links.insert(connection, conn.clone());
        if reply.send(Ok(())).is_err() {
            // The task that made the connection was cancelled meanwhile.
            self.links.remove(&connection);
            self.inner.links.change(|conns| drop(conns.remove(&id)));
            let reason = Reason::Lost("the connection was given up".into());
            let link_end = LinkEnd { reason, by_peer: false };
            // The last follow-up is handled first.
            self.follow_ups.push(Input::LinkEndReported { id });
            self.follow_ups.push(Input::LinkDown { connection, link_end });
            return;
        }
        self.inner.tallies.links_opened.fetch_add(1, Relaxed);
        if let Some(address) = conn.dialable.clone() {
            let tracker = &self.inner.tasks.tracker;
            let tested = conn.peer.direction() == Direction::Outbound;
            self.inner.peers.remember(tracker, id, conn.peer.name(), address, tested);
        }
    }

    /// Hands a message or ping to a link, in a task of its own, because the link's queue may be full.
    fn deliver(&mut self, operation: OperationId, connection: ConnectionId, payload: Payload) {
        let Some(Operation::Send(sending)) = self.operations.remove(&operation) else { return };
        let (to, conn) = (sending.to, self.links.get(&connection).cloned());
        let inner = self.inner.clone();
        self.inner.tasks.spawn(async move {
            match conn {
                Some(conn) => sending.deliver(&inner, conn, payload).await,
                None => sending.end(&inner, Err(Error::NotConnected(to))),
            }
            inner.actor.input(Input::Delivered { to, operation }).await;
        });
    }

    /// A relayed request was answered: hands the reply to the task that waits for it. The receipt for the
    /// request may arrive after the reply.
    fn replied(&mut self, operation: OperationId, outcome: Result<Message, Refusal>) {
        let reply = match self.operations.remove(&operation) {
            Some(Operation::Reply(reply)) => reply,
            Some(Operation::Send(PendingSend { to, sender: SentBy::Request(reply) })) => {
                let rest = PendingSend { to, sender: SentBy::Unreported };
                self.operations.insert(operation, Operation::Send(rest));
                reply
            }
            _ => return,
        };
        let _ = reply.send(Ok(RequestRoute::Relayed(outcome)));
    }

    /// Forgets the relayed requests whose callers no longer wait for the reply.
    pub(super) fn forget_abandoned_requests(&mut self) {
        let is_over = |operation: &Operation| match operation {
            Operation::Reply(reply) => reply.is_closed(),
            _ => false,
        };
        let over = self.operations.iter().filter(|(_, operation)| is_over(operation));
        let over: Vec<_> = over.map(|(id, _)| *id).collect();
        for operation in over {
            self.operations.remove(&operation);
            self.follow_ups.push(Input::RequestEnded { operation });
        }
    }

    fn look_up_addresses(&self, id: NodeId) {
        let inner = self.inner.clone();
        self.inner.tasks.spawn(async move {
            let addresses = inner.peers.addresses(id).await;
            inner.actor.input(Input::AddressesLookedUp { id, addresses }).await;
        });
    }

    /// Measures how much an on-demand link is used.
    fn measure_use(&mut self, connection: ConnectionId) {
        let Some(conn) = self.links.get(&connection) else { return };
        let seen = conn.meter.read();
        // A large message that is still arriving shows in the number of bytes only.
        let coming = seen.bytes_received / (self.inner.config.max_control as u64).max(1);
        let count = seen.messages_sent + seen.messages_received + coming;
        let busy = conn.outbox.queued() > 0 || conn.has_requests();
        self.follow_ups.push(Input::LinkUse { connection, count, busy });
    }

    /// Learns the network's owner from a node that the application has connected to or joined through. The
    /// first such node that knows an owner decides.
    fn learn_owner(&mut self, from: NodeId) {
        let Some(owner) = self.inner.links.get(from).ok().and_then(|conn| conn.owner) else {
            return;
        };
        if !self.inner.profile.learn_owner(owner) {
            return;
        }
        self.follow_ups.push(Input::Command(Command::Owner(owner)));
        let inner = self.inner.clone();
        self.inner.tasks.tracker.spawn_blocking(move || {
            if let Err(error) = inner.store.save_owner(&inner.profile.network, owner) {
                tracing::warn!(%error, "can't remember who owns the network");
            }
        });
    }

    /// Stores broadcasts for the next run, if there is a state folder.
    fn store_broadcasts(&self, batch: Batch) {
        let kept = self.inner.broadcasts.clone();
        if kept.add(batch) {
            self.inner.tasks.spawn(async move {
                tokio::time::sleep(WRITE_DELAY).await;
                let _ = blocking::run(move || kept.write()).await;
            });
        }
    }

    fn answered(&mut self, operation: OperationId, answer: QueryAnswer) {
        if let Some(Operation::Query(asked)) = self.operations.get_mut(&operation) {
            asked.lost |= asked.answers.try_send(answer).is_err();
        }
    }

    /// Answers a query about files or for a call-back, which the machine can't answer by itself.
    fn answer_query(&self, query: QueryId, what: QueryKind, asker: Option<NodeId>) {
        let inner = self.inner.clone();
        self.inner.tasks.spawn(async move {
            let (files, here) = match what {
                QueryKind::SignedCallBack { token, record, .. } => {
                    // The node may ask because its packets over the link do not get through.
                    inner.ping_over_quic(record.node);
                    // The machine has checked the signature. The identity keeps this node from sending
                    // anything to another node that answers at an address.
                    let addresses = record.addresses.iter();
                    let addresses = addresses.map(|a| a.clone().with_id(record.node)).collect();
                    (Vec::new(), inner.answer_call_back(addresses, token))
                }
                what => match files::find(&inner, what, asker).await {
                    Some(files) => (files, false),
                    // Without an answer the query ends incomplete at its deadline.
                    None => return,
                },
            };
            inner.actor.input(Input::Command(Command::Answer { query, files, here })).await;
        });
    }
}
