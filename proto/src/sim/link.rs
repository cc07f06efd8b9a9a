//! A link between two nodes, with the endpoint and the outbox of each side.

use std::collections::VecDeque;
use std::time::Duration;

use crate::address::Scheme;
use crate::config::Config;
use crate::event::{Peer, Reason};
use crate::frame::{Frame, Refusal};
use crate::message::Message;
use crate::overlay::admission::Candidate;
use crate::peer::congestion::{self, Congestion};
use crate::time::Instant;

/// The side of the node that dialled.
pub(super) const DIALLER: usize = 0;
/// The side of the node that was dialled.
pub(super) const ACCEPTOR: usize = 1;

/// Returns the other side.
pub(super) fn other(side: usize) -> usize {
    1 - side
}

/// A link, or a connection that may become one.
#[derive(Debug)]
pub(super) struct SimulatedLink {
    pub(super) latency: Duration,
    pub(super) scheme: Scheme,
    /// The node that relays it, if any.
    pub(super) relay: Option<usize>,
    /// The dial that made it, as a key of `Sim::dials`.
    pub(super) dial_key: u64,
    /// The endpoints, by side.
    pub(super) endpoints: [Endpoint; 2],
    /// The outboxes, by side.
    pub(super) outboxes: [LinkOutbox; 2],
    /// Number of times that the nodes were cut off from each other, plus the number of times that they were
    /// connected again. It is odd while they are cut off.
    pub(super) cuts: u32,
}

/// A node's endpoint of a link.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) node: usize,
    /// The run of the node that this endpoint belongs to.
    pub(super) run: u32,
    /// The node at the other endpoint, as this node sees it.
    pub(super) peer: Peer,
    pub(super) candidate: Candidate,
    pub(super) state: EndpointState,
    /// This node's machine has the peer's Hello. If the state is still `Waiting`, the connection waits until the
    /// link that it replaces has ended, and everything that arrives is held until then.
    pub(super) greeted: bool,
    /// Time of the last arrival.
    pub(super) last_arrival: Instant,
}

/// The state of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EndpointState {
    /// Not a link yet: Hello has not arrived, or the link that it replaces has not ended.
    Waiting,
    /// A link.
    Up,
    /// A link that is closed for this reason once the application has got its event.
    Leaving(Reason),
    /// A link whose goodbye is sent but not answered yet. Nothing more can be sent.
    Closing(Reason),
    /// Ended.
    Gone,
}

/// The sending half of one side of a link: its queues, and the items in flight. Between them is the line, which
/// models the bandwidth: it sends one item at a time.
#[derive(Debug, Default)]
pub(super) struct LinkOutbox {
    /// Frames of the overlay that wait for the line. They are sent before messages.
    control: VecDeque<LinkItem>,
    control_bytes: usize,
    congestion: Congestion,
    /// A frame of which only the newest is sent. It is sent after `control`.
    newest: Option<LinkItem>,
    /// Messages, requests and replies of the application that wait for the line.
    application: VecDeque<LinkItem>,
    application_bytes: usize,
    /// Items in flight, each with the time of its arrival.
    in_flight: VecDeque<(Instant, LinkItem)>,
    /// Time from which the line is free.
    free_at: Instant,
    /// Time at which the last item in flight arrives.
    last_arrival: Instant,
    /// The event queue has a `LineFree` event for the time when the line is free.
    pub(super) is_departure_scheduled: bool,
    /// Something has arrived, and is held because the nodes are cut off or the receiving endpoint waits.
    pub(super) is_held: bool,
    /// Number of application messages that were queued.
    pub(super) accepted: u64,
    /// Number of application messages that were delivered at the other side.
    pub(super) delivered: u64,
    /// Times of the last deliveries, of which the sender may not know yet.
    recent_deliveries: VecDeque<Instant>,
}

/// Something that one side sends, with its size on the line.
#[derive(Debug)]
pub(super) struct LinkItem {
    pub(super) bytes: usize,
    pub(super) content: LinkContent,
}

/// The content of a [`LinkItem`].
#[derive(Debug)]
pub(super) enum LinkContent {
    /// The acceptor's Hello. It shows that the acceptor has admitted the dialler.
    Hello,
    /// A frame of the overlay.
    Frame(Frame),
    /// A message of the application.
    Message(Message),
    /// A request of the application. The reply has the same id.
    Request { request: u64, name: String, message: Message },
    /// The reply to a request.
    Reply { request: u64, outcome: Result<Message, Refusal> },
    /// The sender closes the link, and has received this many messages.
    Goodbye(Reason, u64),
    /// The sender's endpoint was closed without a goodbye.
    Reset,
}

/// The error when a queue has no room.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl SimulatedLink {
    /// Returns the side of a node; `None` if the link is not one of its links.
    pub(super) fn side_of(&self, node: usize) -> Option<usize> {
        self.endpoints.iter().position(|endpoint| endpoint.node == node)
    }

    /// Returns whether the link is up at both endpoints.
    pub(super) fn is_up(&self) -> bool {
        self.endpoints.iter().all(|endpoint| endpoint.state == EndpointState::Up)
    }

    /// Returns whether the link has ended at both endpoints.
    pub(super) fn is_over(&self) -> bool {
        self.endpoints.iter().all(|endpoint| endpoint.state == EndpointState::Gone)
    }
}

impl Endpoint {
    /// Returns whether everything that arrives is held until the link is up.
    pub(super) fn is_on_hold(&self) -> bool {
        self.greeted && self.state == EndpointState::Waiting
    }

    /// Returns whether the link came up here and has not ended.
    pub(super) fn is_link(&self) -> bool {
        !matches!(self.state, EndpointState::Waiting | EndpointState::Gone)
    }
}

impl LinkOutbox {
    /// Returns whether a frame of the overlay is left out, as too much is queued.
    pub(super) fn leaves_out(&self, frame: &Frame, config: &Config) -> bool {
        congestion::is_left_out(frame, self.control_bytes, config)
    }

    /// Returns whether messages of the application are queued.
    pub(super) fn has_messages(&self) -> bool {
        !self.application.is_empty()
    }

    /// Queues a frame of the overlay.
    pub(super) fn queue_control(
        &mut self,
        now: Instant,
        item: LinkItem,
        config: &Config,
    ) -> Result<(), Full> {
        if let LinkContent::Frame(frame) = &item.content
            && congestion::replaces_queued(frame)
        {
            self.newest = Some(item);
            return Ok(());
        }
        let full = self.control_bytes >= config.control_queue;
        if full || self.congestion.is_slow(now, config.slow_after) {
            return Err(Full);
        }
        self.queue_unlimited(item);
        if Congestion::is_crowded(self.control_bytes, config) {
            self.congestion.add(now);
        }
        Ok(())
    }

    /// Queues a frame of the link itself, without a limit.
    pub(super) fn queue_unlimited(&mut self, item: LinkItem) {
        self.control_bytes += item.bytes;
        self.control.push_back(item);
    }

    /// Queues an application message. An empty queue takes a message of any size.
    pub(super) fn queue_message(&mut self, item: LinkItem, config: &Config) -> Result<(), Full> {
        let filled = self.application_bytes + item.bytes;
        // The largest message is larger than the whole queue, and has to fit nevertheless.
        if self.application_bytes > 0 && filled > config.peer_queue {
            return Err(Full);
        }
        self.application_bytes = filled;
        self.accepted += 1;
        self.application.push_back(item);
        Ok(())
    }

    /// Queues the reply to a request. A real node waits until there is room for it, so here it is never refused.
    pub(super) fn queue_reply(&mut self, item: LinkItem) {
        self.application_bytes += item.bytes;
        self.accepted += 1;
        self.application.push_back(item);
    }

    /// Returns the number of replies that wait for the line.
    pub(super) fn queued_replies(&self) -> usize {
        let is_reply = |item: &&LinkItem| matches!(item.content, LinkContent::Reply { .. });
        self.application.iter().filter(is_reply).count()
    }

    /// Queues the last content, after everything that is queued.
    pub(super) fn queue_last(&mut self, content: LinkContent) {
        let item = LinkItem { bytes: 0, content };
        // Control frames are sent first, so as one of them it would overtake the queued messages.
        if self.application.is_empty() {
            self.queue_unlimited(item);
        } else {
            self.application.push_back(item);
        }
    }

    /// Drops everything that is queued. What is in flight still arrives.
    pub(super) fn clear_queues(&mut self) {
        self.control.clear();
        self.newest = None;
        self.application.clear();
        (self.control_bytes, self.application_bytes) = (0, 0);
    }

    /// Puts the next item on the line, if the line is free. Returns the time at which the item arrives, and the
    /// result of [`schedule_departure`](Self::schedule_departure) for the item after it.
    pub(super) fn depart(
        &mut self,
        now: Instant,
        latency: Duration,
        bandwidth: Option<u64>,
    ) -> Option<(Instant, Option<Instant>)> {
        if self.free_at > now {
            return None;
        }
        let item = if let Some(item) = self.control.pop_front() {
            self.control_bytes -= item.bytes;
            self.congestion.progress();
            item
        } else if let Some(item) = self.newest.take() {
            item
        } else {
            let item = self.application.pop_front()?;
            self.application_bytes -= item.bytes;
            item
        };
        if let Some(bandwidth) = bandwidth {
            let nanos = (item.bytes as u64).saturating_mul(1_000_000_000) / bandwidth.max(1);
            self.free_at = now + Duration::from_nanos(nanos);
        }
        // Jitter may not reorder items, because on a real node they are on one TCP connection.
        let at = (self.free_at.max(now) + latency).max(self.last_arrival);
        self.last_arrival = at;
        self.in_flight.push_back((at, item));
        Some((at, self.schedule_departure(now)))
    }

    /// Returns the time for which the caller has to add a `LineFree` event. Returns `None` if nothing waits
    /// for the line, or if the event queue already has the event.
    pub(super) fn schedule_departure(&mut self, now: Instant) -> Option<Instant> {
        let is_waiting =
            !self.control.is_empty() || self.newest.is_some() || !self.application.is_empty();
        if self.free_at <= now || !is_waiting {
            return None;
        }
        // One event serves all queued items. Without this check each item would add another event.
        (!std::mem::replace(&mut self.is_departure_scheduled, true)).then_some(self.free_at)
    }

    /// Takes the next item that has arrived by `now`, unless it is held.
    pub(super) fn take_arrived(&mut self, now: Instant) -> Option<LinkContent> {
        if self.is_held || self.in_flight.front()?.0 > now {
            return None;
        }
        self.in_flight.pop_front().map(|(_, item)| item.content)
    }

    /// Releases everything that is held. It arrives at `at` at the earliest. Returns the time of the first
    /// arrival.
    pub(super) fn release(&mut self, at: Instant) -> Option<Instant> {
        self.is_held = false;
        for (arrival, _) in &mut self.in_flight {
            *arrival = at.max(*arrival);
        }
        // Items that are sent later may not overtake them.
        self.last_arrival = self.last_arrival.max(at);
        self.in_flight.front().map(|(arrival, _)| *arrival)
    }

    /// Notes that an application message was delivered. `ack_time` is the longest time until the sender
    /// knows of a delivery.
    pub(super) fn record_delivery(&mut self, now: Instant, ack_time: Duration) {
        self.delivered += 1;
        // The sender knows of older deliveries, so their times are not needed any more.
        while self.recent_deliveries.front().is_some_and(|at| *at + ack_time < now) {
            self.recent_deliveries.pop_front();
        }
        self.recent_deliveries.push_back(now);
    }

    /// Returns the number of deliveries that the sender knows of.
    pub(super) fn confirmed_deliveries(&self, now: Instant, ack_time: Duration) -> u64 {
        let unknown = self.recent_deliveries.iter().filter(|at| **at + ack_time >= now).count();
        self.delivered.saturating_sub(unknown as u64)
    }

    /// Returns the number of messages, requests and replies that wait for the line.
    pub(super) fn unsent_messages(&self) -> u64 {
        let is_counted = |item: &&LinkItem| {
            let content = &item.content;
            matches!(
                content,
                LinkContent::Message(_) | LinkContent::Request { .. } | LinkContent::Reply { .. }
            )
        };
        self.application.iter().filter(is_counted).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ping(n: u64, bytes: usize) -> LinkItem {
        LinkItem { bytes, content: LinkContent::Frame(Frame::Ping(n)) }
    }

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    fn numbers(outbox: &mut LinkOutbox, now: Instant) -> Vec<u64> {
        let mut arrived = Vec::new();
        while let Some(content) = outbox.take_arrived(now) {
            let LinkContent::Frame(Frame::Ping(n)) = content else { panic!("{content:?}") };
            arrived.push(n);
        }
        arrived
    }

    #[test]
    fn frames_with_different_latencies_keep_their_order() {
        let (mut outbox, config) = (LinkOutbox::default(), Config::default());
        for (n, latency) in [(1, 50), (2, 10), (3, 30)] {
            outbox.queue_control(at(0), ping(n, 10), &config).unwrap();
            let (arrives, _) = outbox.depart(at(0), Duration::from_millis(latency), None).unwrap();
            assert_eq!(arrives, at(50));
        }
        assert!(numbers(&mut outbox, at(49)).is_empty());
        assert_eq!(numbers(&mut outbox, at(50)), [1, 2, 3]);
    }

    #[test]
    fn the_bandwidth_delays_items_and_control_frames_are_sent_first() {
        let (mut outbox, config) = (LinkOutbox::default(), Config::default());
        let latency = Duration::from_millis(10);
        outbox.queue_message(ping(1, 1000), &config).unwrap();
        let depart = |outbox: &mut LinkOutbox, now| outbox.depart(now, latency, Some(10_000));
        assert_eq!(depart(&mut outbox, at(0)), Some((at(110), None)));
        outbox.queue_message(ping(2, 500), &config).unwrap();
        outbox.queue_control(at(0), ping(3, 100), &config).unwrap();
        assert_eq!(depart(&mut outbox, at(50)), None);
        assert_eq!(
            (outbox.schedule_departure(at(50)), outbox.schedule_departure(at(50))),
            (Some(at(100)), None)
        );
        outbox.is_departure_scheduled = false;
        assert_eq!(depart(&mut outbox, at(100)), Some((at(120), Some(at(110)))));
        outbox.is_departure_scheduled = false;
        assert_eq!(depart(&mut outbox, at(110)), Some((at(170), None)));
        assert_eq!(numbers(&mut outbox, at(200)), [1, 3, 2]);
    }

    #[test]
    fn a_queue_is_crowded_at_half_its_limit_and_full_at_its_limit() {
        let config = Config { control_queue: 1000, peer_queue: 1000, ..Config::default() };
        let mut outbox = LinkOutbox::default();
        outbox.queue_control(at(0), ping(1, 500), &config).unwrap();
        assert!(!Congestion::is_crowded(outbox.control_bytes, &config));
        outbox.queue_control(at(0), ping(2, 600), &config).unwrap();
        assert!(Congestion::is_crowded(outbox.control_bytes, &config));
        assert_eq!(outbox.queue_control(at(0), ping(3, 1), &config), Err(Full));
        outbox.queue_message(ping(4, 5000), &config).unwrap();
        assert_eq!(outbox.queue_message(ping(5, 1), &config), Err(Full));
        outbox.clear_queues();
        outbox.queue_control(at(0), ping(3, 1), &config).unwrap();
    }

    #[test]
    fn held_frames_arrive_after_their_release_in_order() {
        let (mut outbox, config) = (LinkOutbox::default(), Config::default());
        for n in [1, 2] {
            outbox.queue_control(at(0), ping(n, 10), &config).unwrap();
            outbox.depart(at(n), Duration::from_millis(10), None).unwrap();
        }
        outbox.is_held = true;
        assert!(numbers(&mut outbox, at(1000)).is_empty());
        assert_eq!(outbox.release(at(2000)), Some(at(2000)));
        assert!(numbers(&mut outbox, at(1999)).is_empty());
        assert_eq!(numbers(&mut outbox, at(2000)), [1, 2]);
    }
}
