//! Links between simulated nodes: how they come up, carry messages, and end.

use std::time::Duration;

use super::Sim;
use super::link::{Content, DIALLER, SimulatedLink, State, other};
use super::node::Handle;
use super::queue::Due;
use super::requests::{IncomingRequest, RequestPath};
use super::shell::Work;
use crate::event::{Event, LinkEnd, MessageFailure, Peer, Reason};
use crate::frame::Frame;
use crate::handler::Handler;
use crate::peer::{ConnectionId, Input};

impl<H: Handler> Sim<H> {
    /// Turns a connection into a link at the end of `node`, whose state machine has admitted it.
    pub(super) fn link_up(&mut self, node: usize, serial: u64) {
        let lost =
            LinkEnd { reason: Reason::Lost("the connection is gone".into()), by_peer: false };
        let connection = ConnectionId(serial);
        let end = self.links.get_mut(&serial).and_then(|link| {
            let side = link.side_of(node)?;
            let end = &mut link.ends[side];
            (end.state == State::Waiting).then_some((side, end))
        });
        let Some((side, end)) = end else {
            return self.input(node, Input::LinkDown { connection, link_end: lost });
        };
        (end.state, end.last_arrival) = (State::Up, self.now);
        let peer = end.peer.clone();
        let Some(running) = &mut self.nodes[node].running else { return };
        let handle = Handle { link: serial, side, peer: peer.clone() };
        running.handles.insert(peer.id(), handle);
        self.nodes[node].remember(&peer);
        if side == DIALLER {
            self.stats.links += 1;
        } else {
            // The dialler has to receive Hello before any other frame of this end.
            self.send_urgent(serial, side, Content::Hello);
        }
        self.event(node, Event::connected(peer));
        // Frames that came while this end waited for the end of the old link were held back.
        self.resume(serial, other(side), Duration::ZERO);
        self.fetches_linked(node);
    }

    /// Begins to close a link, because the node's state machine asks for it. The application gets
    /// its event before the goodbye is sent.
    pub(super) fn leave_link(&mut self, node: usize, serial: u64, reason: Reason) {
        let Some(link) = self.links.get_mut(&serial) else { return };
        let Some(side) = link.side_of(node) else { return };
        let end = &mut link.ends[side];
        if end.state != State::Up {
            return;
        }
        end.state = State::Leaving(reason.clone());
        let peer = end.peer.clone();
        self.event(node, Event::disconnecting(peer));
        // Behind the event: what the application sends in answer to it goes out before the goodbye.
        self.work.push_back(Work::Close { link: serial, side, reason });
    }

    /// Sends the goodbye of a link that is being closed. The application has got its event.
    pub(super) fn close(&mut self, serial: u64, side: usize, reason: Reason) {
        let Some(link) = self.links.get_mut(&serial) else { return };
        if matches!(link.ends[side].state, State::Leaving(_)) {
            link.ends[side].state = State::Closing(reason.clone());
            self.say_goodbye(serial, side, reason);
        }
    }

    /// Closes a link once everything in its queue is sent. Frames that still arrive are delivered.
    pub(super) fn hang_up(&mut self, serial: u64, side: usize, reason: Reason) {
        let Some(link) = self.links.get_mut(&serial) else { return };
        let end = &mut link.ends[side];
        if end.state != State::Up {
            return;
        }
        end.state = State::Closing(reason.clone());
        let node = end.node;
        if reason == Reason::Slow {
            // A peer that does not read would not read the rest either, so drop it.
            link.lanes[side].drop_waiting();
        }
        self.input(node, Input::LinkClosing(ConnectionId(serial)));
        self.say_goodbye(serial, side, reason);
    }

    /// Ends one end of a link at once, without a goodbye. The other end gets a reset of the
    /// connection.
    pub(super) fn end_abruptly(&mut self, serial: u64, side: usize, reason: Reason) {
        let Some(link) = self.links.get_mut(&serial) else { return };
        let reason = match &link.ends[side].state {
            State::Gone => return,
            // The reason of the end that began to close it stays, however the connection breaks then.
            State::Closing(reason) | State::Leaving(reason) => reason.clone(),
            State::Up | State::Waiting => reason,
        };
        link.lanes[side].drop_waiting();
        // Across a cut it waits, as everything does: the other end finds out when the line is back.
        link.lanes[side].last(Content::Reset);
        self.pump(serial, side);
        self.end(serial, side, LinkEnd { reason, by_peer: false }, None);
    }

    /// Delivers to the other end what `side` has sent, as far as it has arrived by now.
    pub(super) fn arrive(&mut self, serial: u64, side: usize) {
        loop {
            // Looked up anew for each item: the one before may have ended the link.
            let Some(link) = self.links.get(&serial) else { return };
            let [from, to] = [link.ends[side].node, link.ends[other(side)].node];
            // The entries in the queue for what comes behind are spent while it is held. `resume` makes
            // a new one.
            if self.is_cut(from, to) || link.ends[other(side)].is_to_wait() {
                if let Some(link) = self.links.get_mut(&serial) {
                    link.lanes[side].held = true;
                }
                return;
            }
            let now = self.now;
            let Some(link) = self.links.get_mut(&serial) else { return };
            let Some(content) = link.lanes[side].arrived(now) else { return };
            let end = &mut link.ends[other(side)];
            end.last_arrival = now;
            if end.state != State::Gone {
                self.receive(serial, other(side), content);
                self.settle();
            }
        }
    }

    /// Sends what waits for the line of a link, which is free now.
    pub(super) fn depart(&mut self, serial: u64, side: usize) {
        if let Some(link) = self.links.get_mut(&serial) {
            link.lanes[side].is_awaited = false;
            self.pump(serial, side);
        }
    }

    /// Sends what waits on `side`, until its line is busy. Nothing is sent while the nodes are cut
    /// off from each other.
    pub(super) fn pump(&mut self, serial: u64, side: usize) {
        let Some(link) = self.links.get(&serial) else { return };
        let (latency, [a, b]) = (link.latency, [link.ends[0].node, link.ends[1].node]);
        if self.is_cut(a, b) {
            return;
        }
        loop {
            let late = self.draw_up_to(self.network.jitter);
            let (now, bandwidth) = (self.now, self.network.bandwidth);
            let Some(link) = self.links.get_mut(&serial) else { return };
            let departed = link.lanes[side].depart(now, latency + late, bandwidth);
            let (arrives, free) = match departed {
                Some((arrives, free)) => (Some(arrives), free),
                None => (None, link.lanes[side].awaits_pong(now)),
            };
            if let Some(arrives) = arrives {
                self.queue.put(arrives, Due::Arrive { link: serial, side });
            }
            if let Some(free) = free {
                self.queue.put(free, Due::Depart { link: serial, side });
            }
            if arrives.is_none() {
                return;
            }
        }
    }

    /// Releases what `side` had sent and was held back. It arrives after `time` at the earliest.
    pub(super) fn resume(&mut self, serial: u64, side: usize, time: Duration) {
        let at = self.now + time;
        let Some(link) = self.links.get_mut(&serial) else { return };
        if link.lanes[side].held
            && let Some(first) = link.lanes[side].resume(at)
        {
            self.queue.put(first, Due::Arrive { link: serial, side });
        }
        self.pump(serial, side);
    }

    /// Starts the timers of links between nodes that are cut off from each other. Each end gives up
    /// after `dead_after` of silence. The simulator sends no pings, so the time of the last ping
    /// before the cut is drawn at random.
    pub(super) fn cut_links(&mut self) {
        let serials: Vec<_> = self.links.keys().copied().collect();
        for serial in serials {
            let Some(link) = self.links.get(&serial) else { continue };
            // A link that was cut before has its timers already.
            if link.cuts % 2 == 1 || !self.is_cut(link.ends[0].node, link.ends[1].node) {
                continue;
            }
            let pinged =
                [self.draw_up_to(self.config.ping_after), self.draw_up_to(self.config.ping_after)];
            let Some(link) = self.links.get_mut(&serial) else { continue };
            link.cuts += 1;
            for (side, ago) in pinged.into_iter().enumerate() {
                // On a real node the ping and its answer would have been the last to arrive.
                let last_arrival = link.ends[side].last_arrival.max(self.now - ago);
                let due = Due::Silent { link: serial, side, cuts: link.cuts };
                self.queue.put(last_arrival + self.config.dead_after, due);
            }
        }
    }

    /// Resumes the links and streams between nodes that are no longer cut off from each other.
    pub(super) fn mend_links(&mut self) {
        let is_mended = |link: &SimulatedLink| {
            link.cuts % 2 == 1 && !self.is_cut(link.ends[0].node, link.ends[1].node)
        };
        let mended = self.links.iter().filter(|(_, link)| is_mended(link));
        let mended: Vec<_> = mended.map(|(serial, link)| (*serial, link.latency)).collect();
        for (serial, latency) in mended {
            if let Some(link) = self.links.get_mut(&serial) {
                link.cuts += 1;
            }
            for side in [0, 1] {
                self.resume(serial, side, latency);
            }
        }
        self.mend_streams();
    }

    /// Schedules the moments at which the peers of a restarted node notice that their links with it
    /// are gone: with their next ping at the latest.
    pub(super) fn find_ends_gone(&mut self, node: usize) {
        self.mend_links();
        let side_of_node = |link: &SimulatedLink| link.ends.iter().position(|end| end.node == node);
        let links: Vec<_> = self
            .links
            .iter()
            .filter_map(|(serial, link)| Some((*serial, side_of_node(link)?, link.latency)))
            .collect();
        for (link, side, latency) in links {
            let ping = self.draw_up_to(self.config.ping_after);
            // The ping takes a latency. So does the reset from a machine that does not know the
            // connection.
            self.queue.put(self.now + latency * 2 + ping, Due::Lost { link, side: other(side) });
        }
    }

    /// Ends a link that has been silent for too long. `cuts` tells whether it is still cut off by
    /// the same partition.
    pub(super) fn silent(&mut self, serial: u64, side: usize, cuts: u32) {
        if self.links.get(&serial).is_some_and(|link| link.cuts == cuts) {
            self.end_abruptly(serial, side, Reason::Silent(self.config.dead_after));
        }
    }

    /// Ends a link whose other side has not sent its goodbye in time.
    pub(super) fn impatient(&mut self, serial: u64, side: usize) {
        let state = self.links.get(&serial).map(|link| &link.ends[side].state);
        if matches!(state, Some(State::Closing(_))) {
            self.end_abruptly(serial, side, Reason::Lost("no goodbye in time".into()));
        }
    }

    /// Ends the run of a node. If `closes` is set, the computer closes the node's connections, as
    /// after a crash of the process. Otherwise the computer itself is gone from the network.
    pub(super) fn end_run(&mut self, node: usize, closes: bool) {
        let Some(running) = self.nodes[node].running.take() else { return };
        self.end_transfers(node, closes);
        let end_of_node = |(serial, link): (&u64, &SimulatedLink)| {
            let side = link.ends.iter().position(|end| end.node == node)?;
            Some((*serial, side))
        };
        let mut serials: Vec<_> = running.handles.values().map(|handle| handle.link).collect();
        // `handles` has the links only. Connections that are not links yet end as well, but they
        // are so few that they have no index.
        serials.extend(self.links.iter().filter_map(|link| {
            end_of_node(link)
                .filter(|(_, side)| link.1.ends[*side].state == State::Waiting)
                .map(|e| e.0)
        }));
        serials.sort_unstable();
        serials.dedup();
        for serial in serials {
            let Some(link) = self.links.get_mut(&serial) else { continue };
            let side = usize::from(link.ends[0].node != node);
            link.lanes[side].drop_waiting();
            link.ends[side].state = State::Gone;
            // The kernel closes the connections of a process that ends. A machine that is off sends
            // nothing.
            if closes {
                link.lanes[side].last(Content::Reset);
                self.pump(serial, side);
            }
            self.forget_if_over(serial);
        }
    }

    /// Stops a node gracefully.
    pub(super) fn begin_to_stop(&mut self, node: usize) {
        let run = self.nodes[node].run;
        let Some(running) = &mut self.nodes[node].running else { return };
        if std::mem::replace(&mut running.stopping, true) {
            return;
        }
        self.handle(node, Input::Stopping);
        self.event(node, Event::NodeRequestToStop);
        // Messages that the application sends now still go out.
        self.settle();
        self.handle(node, Input::Stop { hand_over: false });
        self.settle();
        // A peer that does not answer the goodbye must not keep the node from stopping.
        self.queue.put(self.now + self.config.flush_timeout, Due::Stopped { node, run });
        self.stop_if_no_links_left(node);
    }

    /// Handles content that has arrived at the end `side`.
    fn receive(&mut self, serial: u64, side: usize, content: Content) {
        let (now, ack_time) = (self.now, self.longest_ack_time(serial));
        let Some(link) = self.links.get_mut(&serial) else { return };
        let end = &link.ends[side];
        let (node, from) = (end.node, end.peer.clone());
        match content {
            Content::Hello => self.greet(serial, side),
            Content::Frame(frame) => {
                if end.is_there() {
                    self.count(node, &frame);
                    self.input(node, Input::Frame(ConnectionId(serial), frame));
                }
            }
            Content::Message(message) => {
                link.lanes[other(side)].delivered(now, ack_time);
                self.event(node, Event::NodeMessage { peer: from, message });
            }
            Content::Request { request, name, message } => {
                link.lanes[other(side)].delivered(now, ack_time);
                let path = RequestPath::Link { link: serial, side, request };
                let incoming = IncomingRequest { from: path, peer: from, name, message };
                self.work.push_back(Work::Request(node, self.nodes[node].run, incoming));
            }
            Content::Reply { request, outcome } => {
                // A refusal is sent as a control frame, which is not counted as a message.
                if outcome.is_ok() {
                    link.lanes[other(side)].delivered(now, ack_time);
                }
                self.replied(request, outcome);
            }
            Content::Goodbye(reason, received) => match &end.state {
                // The answer to the goodbye of this end.
                State::Closing(reason) | State::Leaving(reason) => {
                    let link_end = LinkEnd { reason: reason.clone(), by_peer: false };
                    self.end(serial, side, link_end, Some(received));
                }
                // The connection is not a link at this end yet, and now never will be.
                State::Waiting => self.end_abruptly(serial, side, reason),
                // The other side wants to close. Answer with a goodbye.
                State::Up | State::Gone => {
                    // The answer says how much has arrived, so that the other end knows which messages
                    // are lost.
                    let received_here = link.lanes[other(side)].delivered;
                    link.lanes[side].last(Content::Goodbye(reason.clone(), received_here));
                    self.pump(serial, side);
                    self.end(serial, side, LinkEnd { reason, by_peer: true }, Some(received));
                }
            },
            Content::Reset => {
                let lost = Reason::Lost("closed without a goodbye".into());
                self.end_abruptly(serial, side, lost);
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

    /// Returns the longest time for which a sender may not know that a message was delivered.
    fn longest_ack_time(&self, serial: u64) -> Duration {
        // Acknowledgements are not simulated. On a real node one leaves within `ack_delay`.
        let latency = self.links.get(&serial).map(|link| link.latency).unwrap_or_default();
        latency + self.config.ack_delay
    }

    /// Sends a frame of the link itself before the waiting application messages.
    fn send_urgent(&mut self, serial: u64, side: usize, content: Content) {
        if let Some(link) = self.links.get_mut(&serial) {
            link.lanes[side].urgent(super::link::Parcel { bytes: 0, content });
            self.pump(serial, side);
        }
    }

    /// Sends the goodbye after everything that waits, and starts the timer for the other side's.
    fn say_goodbye(&mut self, serial: u64, side: usize, reason: Reason) {
        let Some(link) = self.links.get_mut(&serial) else { return };
        let received = link.lanes[other(side)].delivered;
        link.lanes[side].last(Content::Goodbye(reason, received));
        self.pump(serial, side);
        self.queue.put(self.now + self.config.flush_timeout, Due::Patience { link: serial, side });
    }

    /// Ends one end of a link. The application first gets the event about lost messages. Then the
    /// state machine and the application learn of the end. `confirmed` is the number of messages
    /// that the other side has received, if its goodbye has told it.
    pub(super) fn end(
        &mut self,
        serial: u64,
        side: usize,
        link_end: LinkEnd,
        confirmed: Option<u64>,
    ) {
        let (now, ack_time) = (self.now, self.longest_ack_time(serial));
        let Some(link) = self.links.get_mut(&serial) else { return };
        let end = &mut link.ends[side];
        let was_there = end.is_there();
        end.state = State::Gone;
        let (node, run, peer) = (end.node, end.run, end.peer.clone());
        let lane = &link.lanes[side];
        let confirmed = confirmed.unwrap_or_else(|| lane.confirmed(now, ack_time));
        let unsent = lane.unsent();
        let unconfirmed = lane.accepted.saturating_sub(confirmed).saturating_sub(unsent);
        self.forget_if_over(serial);
        // A connection that never was a link is unknown to the application, and a later run knows no
        // old link.
        if !was_there || self.nodes[node].run(run).is_none() {
            return;
        }
        if unsent + unconfirmed > 0 {
            let failure = MessageFailure { unsent, unconfirmed, reason: link_end.reason.clone() };
            self.event(node, Event::NodeMessageFailed { peer: peer.clone(), failure });
        }
        self.fail_requests(node, serial, &link_end.reason);
        self.drop_handle(node, serial, &peer);
        let (id, connection) = (peer.id(), ConnectionId(serial));
        self.input(node, Input::LinkDown { connection, link_end: link_end.clone() });
        self.event(node, Event::disconnected(peer, link_end));
        // Behind the event: only then may another link with the same peer come up, so the application
        // never has two.
        self.work.push_back(Work::Ended(node, run, id));
        self.stop_if_no_links_left(node);
    }

    /// Ends a stopping node that has no links left.
    fn stop_if_no_links_left(&mut self, node: usize) {
        let run = self.nodes[node].run;
        let running = self.nodes[node].running.as_ref();
        if running.is_some_and(|running| running.stopping && running.handles.is_empty()) {
            // Not at once: the events of the last link are still to be delivered, and only a run gets
            // events.
            self.queue.put(self.now, Due::Stopped { node, run });
        }
    }

    /// Removes the node's handle to a link, unless a newer link with the same peer has replaced it.
    fn drop_handle(&mut self, node: usize, serial: u64, peer: &Peer) {
        let Some(running) = &mut self.nodes[node].running else { return };
        if running.handles.get(&peer.id()).is_some_and(|handle| handle.link == serial) {
            running.handles.remove(&peer.id());
            running.info.remove(&serial);
        }
    }

    /// Removes a link that is gone at both ends.
    fn forget_if_over(&mut self, serial: u64) {
        if self.links.get(&serial).is_some_and(SimulatedLink::is_over) {
            self.links.remove(&serial);
        }
    }
}
