//! Links between simulated nodes: their start, what arrives over them, and their end.

use std::time::Duration;

use super::Sim;
use super::flood::is_answer_to_flood;
use super::liar::Lies;
use super::link::{DIALLER, EndpointState, LinkContent, LinkItem, SimulatedLink, other};
use super::node::LinkHandle;
use super::queue::SimEvent;
use super::requests::{IncomingRequest, RequestPath};
use super::shell::Work;
use crate::event::{Event, LinkEnd, MessageFailure, Peer, Reason};
use crate::frame::Frame;
use crate::handler::Handler;
use crate::peer::{ConnectionId, Input};

impl<H: Handler> Sim<H> {
    /// Turns a connection into a link at the endpoint of `node`, whose machine has admitted it.
    pub(super) fn link_up(&mut self, node: usize, connection: ConnectionId) {
        let lost =
            LinkEnd { reason: Reason::Lost("the connection is gone".into()), by_peer: false };
        let found = self.links.get_mut(&connection).and_then(|link| {
            let side = link.side_of(node)?;
            let endpoint = &mut link.endpoints[side];
            (endpoint.state == EndpointState::Waiting).then_some((side, endpoint))
        });
        let Some((side, endpoint)) = found else {
            return self.input(node, Input::LinkDown { connection, link_end: lost });
        };
        (endpoint.state, endpoint.last_arrival) = (EndpointState::Up, self.now);
        let peer = endpoint.peer.clone();
        let Some(running) = &mut self.nodes[node].running else { return };
        let handle = LinkHandle { connection, side, peer: peer.clone() };
        running.handles.insert(peer.id(), handle);
        let is_wanted = running.wanted.remove(&peer.id());
        self.nodes[node].remember(&peer);
        if side == DIALLER {
            self.stats.links += 1;
        } else {
            // The dialler has to receive Hello before any other frame of this endpoint.
            self.send_link_frame(connection, side, LinkContent::Hello);
        }
        if is_wanted {
            self.input(node, Input::Want { id: peer.id() });
        }
        let id = peer.id();
        self.event(node, Event::connected(peer));
        // Frames that arrived while this endpoint waited for the end of the old link were held.
        self.resume_side(connection, other(side), Duration::ZERO);
        self.fetches_linked(node);
        self.call_backs_linked(node, id);
    }

    /// Begins to close a link, because the node's machine asks for that. The application gets its event before
    /// the goodbye is sent.
    pub(super) fn begin_to_close(&mut self, node: usize, connection: ConnectionId, reason: Reason) {
        let Some(link) = self.links.get_mut(&connection) else { return };
        let Some(side) = link.side_of(node) else { return };
        let endpoint = &mut link.endpoints[side];
        if endpoint.state != EndpointState::Up {
            return;
        }
        endpoint.state = EndpointState::Leaving(reason.clone());
        let peer = endpoint.peer.clone();
        self.event(node, Event::disconnecting(peer));
        // After the event: messages that the application sends in its handler go out before the goodbye.
        self.work.push_back(Work::Close { connection, side, reason });
    }

    /// Sends the goodbye of a link that is being closed. The application has got its event.
    pub(super) fn close(&mut self, connection: ConnectionId, side: usize, reason: Reason) {
        let Some(link) = self.links.get_mut(&connection) else { return };
        if matches!(link.endpoints[side].state, EndpointState::Leaving(_)) {
            link.endpoints[side].state = EndpointState::Closing(reason.clone());
            self.send_goodbye(connection, side, reason);
        }
    }

    /// Closes a link once everything in its queues is sent. If the reason is [`Reason::Slow`], the queues are
    /// dropped instead. Frames that still arrive are delivered.
    pub(super) fn hang_up(&mut self, connection: ConnectionId, side: usize, reason: Reason) {
        let Some(link) = self.links.get_mut(&connection) else { return };
        let endpoint = &mut link.endpoints[side];
        if endpoint.state != EndpointState::Up {
            return;
        }
        endpoint.state = EndpointState::Closing(reason.clone());
        let node = endpoint.node;
        if reason == Reason::Slow {
            // A peer that does not read would not read the rest either.
            link.outboxes[side].clear_queues();
        }
        self.input(node, Input::LinkClosing(connection));
        self.send_goodbye(connection, side, reason);
    }

    /// Ends a link at one endpoint at once, without a goodbye. The other endpoint receives a reset.
    pub(super) fn end_abruptly(&mut self, connection: ConnectionId, side: usize, reason: Reason) {
        let Some(link) = self.links.get_mut(&connection) else { return };
        let reason = match &link.endpoints[side].state {
            EndpointState::Gone => return,
            // This endpoint was closing the link already. It reports the reason for that, however the
            // connection breaks.
            EndpointState::Closing(reason) | EndpointState::Leaving(reason) => reason.clone(),
            EndpointState::Up | EndpointState::Waiting => reason,
        };
        link.outboxes[side].clear_queues();
        // If the nodes are cut off from each other, the reset waits like everything else. The other endpoint
        // receives it once they are connected again.
        link.outboxes[side].queue_last(LinkContent::Reset);
        self.transmit(connection, side);
        self.end_side(connection, side, LinkEnd { reason, by_peer: false }, None);
    }

    /// Delivers to the other endpoint everything that `side` has sent and that has arrived by now.
    pub(super) fn arrive(&mut self, connection: ConnectionId, side: usize) {
        loop {
            // Looked up again for each item, because the item before may have ended the link.
            let Some(link) = self.links.get(&connection) else { return };
            // The `Arrive` events of later items also find the outbox held, and end here. `resume_side` adds a
            // new event.
            if self.is_link_cut(link) || link.endpoints[other(side)].is_on_hold() {
                if let Some(link) = self.links.get_mut(&connection) {
                    link.outboxes[side].is_held = true;
                }
                return;
            }
            let now = self.now;
            let Some(link) = self.links.get_mut(&connection) else { return };
            let Some(content) = link.outboxes[side].take_arrived(now) else { return };
            let endpoint = &mut link.endpoints[other(side)];
            endpoint.last_arrival = now;
            if endpoint.state != EndpointState::Gone {
                self.receive(connection, other(side), content);
                self.settle();
            }
        }
    }

    /// Sends what waits for the line of `side`, which is free now.
    pub(super) fn line_free(&mut self, connection: ConnectionId, side: usize) {
        if let Some(link) = self.links.get_mut(&connection) {
            link.outboxes[side].is_departure_scheduled = false;
            self.transmit(connection, side);
        }
    }

    /// Sends what is queued on `side`, until its line is busy. Nothing is sent while the nodes are cut off
    /// from each other.
    pub(super) fn transmit(&mut self, connection: ConnectionId, side: usize) {
        let Some(link) = self.links.get(&connection) else { return };
        let latency = link.latency;
        if self.is_link_cut(link) {
            return;
        }
        loop {
            let jitter = self.random_duration(self.network.jitter);
            let (now, bandwidth) = (self.now, self.network.bandwidth);
            let Some(link) = self.links.get_mut(&connection) else { return };
            let departed = link.outboxes[side].depart(now, latency + jitter, bandwidth);
            let (arrives, free) = match departed {
                Some((arrives, free)) => (Some(arrives), free),
                None => (None, link.outboxes[side].schedule_departure(now)),
            };
            if let Some(arrives) = arrives {
                self.queue.put(arrives, SimEvent::Arrive { connection, side });
            }
            if let Some(free) = free {
                self.queue.put(free, SimEvent::LineFree { connection, side });
            }
            if arrives.is_none() {
                return;
            }
        }
    }

    /// Releases everything that `side` has sent and that is held. It arrives after `delay` at the earliest.
    pub(super) fn resume_side(&mut self, connection: ConnectionId, side: usize, delay: Duration) {
        let at = self.now + delay;
        let Some(link) = self.links.get_mut(&connection) else { return };
        if link.outboxes[side].is_held
            && let Some(first) = link.outboxes[side].release(at)
        {
            self.queue.put(first, SimEvent::Arrive { connection, side });
        }
        self.transmit(connection, side);
    }

    /// Notes which links connect nodes that are now cut off from each other, and schedules their ends: each
    /// endpoint gives up after `dead_after` of silence. The simulator sends no pings, so the time of the last
    /// ping before the cut is random.
    pub(super) fn cut_links(&mut self) {
        let connections: Vec<_> = self.links.keys().copied().collect();
        for connection in connections {
            let Some(link) = self.links.get(&connection) else { continue };
            // A link that was cut off before has its events already.
            if link.cuts % 2 == 1 || !self.is_link_cut(link) {
                continue;
            }
            let pinged = [
                self.random_duration(self.config.ping_after),
                self.random_duration(self.config.ping_after),
            ];
            let Some(link) = self.links.get_mut(&connection) else { continue };
            link.cuts += 1;
            for (side, ping_age) in pinged.into_iter().enumerate() {
                // On a real node that ping, or its answer, would have been the last arrival.
                let last_arrival = link.endpoints[side].last_arrival.max(self.now - ping_age);
                let event = SimEvent::LinkSilent { connection, side, cuts: link.cuts };
                self.queue.put(last_arrival + self.config.dead_after, event);
            }
        }
    }

    /// Resumes the links and streams between nodes that are no longer cut off from each other.
    pub(super) fn resume_links(&mut self) {
        let is_mended = |link: &SimulatedLink| link.cuts % 2 == 1 && !self.is_link_cut(link);
        let mended = self.links.iter().filter(|(_, link)| is_mended(link));
        let mended: Vec<_> = mended.map(|(connection, link)| (*connection, link.latency)).collect();
        for (connection, latency) in mended {
            if let Some(link) = self.links.get_mut(&connection) {
                link.cuts += 1;
            }
            for side in [0, 1] {
                self.resume_side(connection, side, latency);
            }
        }
        self.resume_streams();
    }

    /// Schedules the moments at which the peers of a restarted node notice that their links with the node's
    /// earlier run are gone: with their next ping at the latest.
    pub(super) fn schedule_link_losses(&mut self, node: usize) {
        self.resume_links();
        self.end_circuits(node);
        let side_of_node =
            |link: &SimulatedLink| link.endpoints.iter().position(|endpoint| endpoint.node == node);
        let links: Vec<_> = self
            .links
            .iter()
            .filter_map(|(connection, link)| Some((*connection, side_of_node(link)?, link.latency)))
            .collect();
        for (connection, side, latency) in links {
            let ping = self.random_duration(self.config.ping_after);
            // The ping takes one latency. The reset from a host that does not know the connection takes
            // another one.
            self.queue.put(
                self.now + latency * 2 + ping,
                SimEvent::LinkLost { connection, side: other(side) },
            );
        }
    }

    /// Ends a link at one endpoint after too long a silence, unless the nodes were connected again since
    /// the event was scheduled. `cuts` shows whether they were.
    pub(super) fn link_silent(&mut self, connection: ConnectionId, side: usize, cuts: u32) {
        if self.links.get(&connection).is_some_and(|link| link.cuts == cuts) {
            self.end_abruptly(connection, side, Reason::Silent(self.config.dead_after));
        }
    }

    /// Ends a link at one endpoint, if the peer has not sent its goodbye in time.
    pub(super) fn goodbye_timed_out(&mut self, connection: ConnectionId, side: usize) {
        let state = self.links.get(&connection).map(|link| &link.endpoints[side].state);
        if matches!(state, Some(EndpointState::Closing(_))) {
            self.end_abruptly(connection, side, Reason::Lost("no goodbye in time".into()));
        }
    }

    /// Ends the run of a node. If `closes` is set, the host closes the node's connections, as after a crash of
    /// the process. Otherwise the host itself is gone from the network.
    pub(super) fn end_run(&mut self, node: usize, closes: bool) {
        let Some(running) = self.nodes[node].running.take() else { return };
        self.end_transfers(node, closes);
        self.end_circuits(node);
        let end_of_node = |(connection, link): (&ConnectionId, &SimulatedLink)| {
            let side = link.endpoints.iter().position(|endpoint| endpoint.node == node)?;
            Some((*connection, side))
        };
        let mut connections: Vec<_> =
            running.handles.values().map(|handle| handle.connection).collect();
        // `handles` contains only links. Connections that are not links yet end too. There are so few of
        // them that they have no index.
        connections.extend(self.links.iter().filter_map(|link| {
            end_of_node(link)
                .filter(|(_, side)| link.1.endpoints[*side].state == EndpointState::Waiting)
                .map(|e| e.0)
        }));
        connections.sort_unstable();
        connections.dedup();
        for connection in connections {
            let Some(link) = self.links.get_mut(&connection) else { continue };
            let side = usize::from(link.endpoints[0].node != node);
            link.outboxes[side].clear_queues();
            link.endpoints[side].state = EndpointState::Gone;
            // The kernel closes the connections of a process that ends. A host that is off sends nothing.
            if closes {
                link.outboxes[side].queue_last(LinkContent::Reset);
                self.transmit(connection, side);
            }
            self.remove_if_over(connection);
        }
    }

    /// Ends the links that an earlier run of a node has relayed. While its host is gone, both ends notice it by the
    /// silence instead.
    fn end_circuits(&mut self, relay: usize) {
        let relayed = self.links.iter().filter(|(_, link)| link.relay == Some(relay));
        let relayed: Vec<_> = relayed.map(|(id, link)| (*id, link.latency)).collect();
        for (connection, latency) in relayed.into_iter().filter(|_| !self.nodes[relay].vanished) {
            for side in [0, 1] {
                self.queue.put(self.now + latency, SimEvent::LinkLost { connection, side });
            }
        }
    }

    /// Stops a node gracefully: its application gets the event, then its links are closed with goodbyes.
    pub(super) fn stop_gracefully(&mut self, node: usize) {
        let run = self.nodes[node].run;
        let Some(running) = &mut self.nodes[node].running else { return };
        if std::mem::replace(&mut running.stopping, true) {
            return;
        }
        self.handle(node, Input::Stopping);
        self.event(node, Event::NodeRequestToStop);
        // Messages that the application sends in its handler still go out.
        self.settle();
        self.handle(node, Input::Stop { hand_over: false });
        self.settle();
        // A peer that does not answer the goodbye must not keep the node from stopping.
        self.queue.put(self.now + self.config.flush_timeout, SimEvent::EndRun { node, run });
        self.stop_if_no_links_left(node);
    }

    /// Handles content that has arrived at the endpoint `side`.
    fn receive(&mut self, connection: ConnectionId, side: usize, content: LinkContent) {
        let (now, ack_time) = (self.now, self.max_ack_time(connection));
        let Some(link) = self.links.get_mut(&connection) else { return };
        let endpoint = &link.endpoints[side];
        let (node, from) = (endpoint.node, endpoint.peer.clone());
        match content {
            LinkContent::Hello => self.hand_over_hello(connection, side),
            LinkContent::Frame(frame) => {
                // The machine of a node that floods has not sent the queries, and takes the answers for a fault.
                let lies = self.nodes[node].options.lies;
                let floods = lies == Some(Lies::Floods);
                let mut frame = frame;
                if let Frame::Query(query) = &mut frame {
                    // It answers queries, but does not pass them on.
                    query.own |= floods || lies == Some(Lies::Eclipses);
                }
                if endpoint.is_link() && !(floods && is_answer_to_flood(&frame)) {
                    self.count(node, &frame);
                    self.input(node, Input::Frame(connection, frame));
                }
            }
            LinkContent::Message(message) => {
                link.outboxes[other(side)].record_delivery(now, ack_time);
                self.event(node, Event::NodeMessage { peer: from, message });
            }
            LinkContent::Request { request, name, message } => {
                link.outboxes[other(side)].record_delivery(now, ack_time);
                let path = RequestPath::Link { connection, side, request };
                let incoming = IncomingRequest { path, peer: from, name, message };
                self.work.push_back(Work::Request(node, self.nodes[node].run, incoming));
            }
            LinkContent::Reply { request, outcome } => {
                // A refusal is sent as a control frame, which is not counted as a message.
                if outcome.is_ok() {
                    link.outboxes[other(side)].record_delivery(now, ack_time);
                }
                self.replied(request, outcome);
            }
            LinkContent::Goodbye(reason, received) => match &endpoint.state {
                // The answer to the goodbye of this endpoint.
                EndpointState::Closing(reason) | EndpointState::Leaving(reason) => {
                    let link_end = LinkEnd { reason: reason.clone(), by_peer: false };
                    self.end_side(connection, side, link_end, Some(received));
                }
                // The connection is not a link at this endpoint yet, and will not become one.
                EndpointState::Waiting => self.end_abruptly(connection, side, reason),
                // The peer closes the link. This endpoint answers with a goodbye.
                EndpointState::Up | EndpointState::Gone => {
                    // The answer contains the number of messages that have arrived here, so that the peer knows
                    // which messages are lost.
                    let received_here = link.outboxes[other(side)].delivered;
                    link.outboxes[side]
                        .queue_last(LinkContent::Goodbye(reason.clone(), received_here));
                    self.transmit(connection, side);
                    self.end_side(
                        connection,
                        side,
                        LinkEnd { reason, by_peer: true },
                        Some(received),
                    );
                }
            },
            LinkContent::Reset => {
                let lost = Reason::Lost("closed without a goodbye".into());
                self.end_abruptly(connection, side, lost);
            }
        }
    }

    /// Counts a received frame in the statistics.
    fn count(&mut self, node: usize, frame: &Frame) {
        match frame {
            Frame::Broadcast(batch) => self.stats.payloads += batch.items.len() as u64,
            Frame::Query(_) => self.nodes[node].queries += 1,
            _ => {}
        }
    }

    /// Returns the longest time from a delivery until the sender knows of it.
    fn max_ack_time(&self, connection: ConnectionId) -> Duration {
        // Acknowledgements are not simulated. A real node sends them within `ack_delay`.
        let latency = self.links.get(&connection).map(|link| link.latency).unwrap_or_default();
        latency + self.config.ack_delay
    }

    /// Sends a frame of the link itself, before the queued application messages.
    fn send_link_frame(&mut self, connection: ConnectionId, side: usize, content: LinkContent) {
        if let Some(link) = self.links.get_mut(&connection) {
            link.outboxes[side].queue_unlimited(LinkItem { bytes: 0, content });
            self.transmit(connection, side);
        }
    }

    /// Sends the goodbye after everything that is queued, and schedules the time limit for the peer's goodbye.
    fn send_goodbye(&mut self, connection: ConnectionId, side: usize, reason: Reason) {
        let Some(link) = self.links.get_mut(&connection) else { return };
        let received = link.outboxes[other(side)].delivered;
        link.outboxes[side].queue_last(LinkContent::Goodbye(reason, received));
        self.transmit(connection, side);
        self.queue.put(
            self.now + self.config.flush_timeout,
            SimEvent::GoodbyeTimeout { connection, side },
        );
    }

    /// Ends a link at one endpoint. The application first gets an event about lost messages, if there are any.
    /// Then the machine and the application learn of the end. `confirmed` is the number of messages that the
    /// peer has received; `None` if no goodbye has reported it.
    pub(super) fn end_side(
        &mut self,
        connection: ConnectionId,
        side: usize,
        link_end: LinkEnd,
        confirmed: Option<u64>,
    ) {
        let (now, ack_time) = (self.now, self.max_ack_time(connection));
        let Some(link) = self.links.get_mut(&connection) else { return };
        let endpoint = &mut link.endpoints[side];
        let was_there = endpoint.is_link();
        endpoint.state = EndpointState::Gone;
        let (node, run, peer) = (endpoint.node, endpoint.run, endpoint.peer.clone());
        let outbox = &link.outboxes[side];
        let confirmed = confirmed.unwrap_or_else(|| outbox.confirmed_deliveries(now, ack_time));
        let unsent = outbox.unsent_messages();
        let unconfirmed = outbox.accepted.saturating_sub(confirmed).saturating_sub(unsent);
        self.remove_if_over(connection);
        // The application does not know a connection that never was a link, and a later run does not know
        // the links of an earlier one.
        if !was_there || self.nodes[node].in_run(run).is_none() {
            return;
        }
        if unsent + unconfirmed > 0 {
            let failure = MessageFailure { unsent, unconfirmed, reason: link_end.reason.clone() };
            self.event(node, Event::NodeMessageFailed { peer: peer.clone(), failure });
        }
        self.fail_requests(node, connection, &link_end.reason);
        self.drop_handle(node, connection, &peer);
        let id = peer.id();
        self.input(node, Input::LinkDown { connection, link_end: link_end.clone() });
        self.event(node, Event::disconnected(peer, link_end));
        // After the event: another link with the same peer may come up only then, so the application never
        // has two.
        self.work.push_back(Work::LinkEndReported(node, run, id));
        self.stop_if_no_links_left(node);
    }

    /// Schedules the end of a node that is stopping, if it has no links left.
    fn stop_if_no_links_left(&mut self, node: usize) {
        let run = self.nodes[node].run;
        let running = self.nodes[node].running.as_ref();
        if running.is_some_and(|running| running.stopping && running.handles.is_empty()) {
            // Scheduled instead of done here: the events of the last link are not delivered yet, and only a
            // node that runs gets events.
            self.queue.put(self.now, SimEvent::EndRun { node, run });
        }
    }

    /// Removes a node's handle for a link, unless it already belongs to a newer link with the same peer.
    fn drop_handle(&mut self, node: usize, connection: ConnectionId, peer: &Peer) {
        let Some(running) = &mut self.nodes[node].running else { return };
        if running.handles.get(&peer.id()).is_some_and(|handle| handle.connection == connection) {
            running.handles.remove(&peer.id());
            running.info.remove(&connection);
        }
    }

    /// Removes a link that has ended at both endpoints.
    fn remove_if_over(&mut self, connection: ConnectionId) {
        if self.links.get(&connection).is_some_and(SimulatedLink::is_over) {
            self.links.remove(&connection);
        }
    }
}
