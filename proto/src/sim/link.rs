//! A link between two nodes: its queues, its line, and its ends.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Config;
use crate::event::{Peer, Reason};
use crate::frame::{Frame, Refusal};
use crate::message::Message;
use crate::overlay::admission::Candidate;
use crate::time::Instant;

/// The end of the node that dialled.
pub(super) const DIALLER: usize = 0;
/// The end of the node that was dialled.
pub(super) const ACCEPTOR: usize = 1;

/// Returns the other end.
pub(super) fn other(side: usize) -> usize {
    1 - side
}

/// A link, or a connection that is about to be one.
#[derive(Debug)]
pub(super) struct SimulatedLink {
    pub(super) latency: Duration,
    /// The dial that made it.
    pub(super) dial_key: u64,
    /// The ends, by side.
    pub(super) endpoints: [Endpoint; 2],
    /// The queues and the line of each side.
    pub(super) outboxes: [Outbox; 2],
    /// Number of times that it was cut off and that it came back: odd while it is cut off.
    pub(super) cuts: u32,
}

/// One end of a link.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) node: usize,
    /// The run of the node that this end belongs to.
    pub(super) run: u32,
    /// The node at the other end, as this one sees it.
    pub(super) peer: Peer,
    pub(super) candidate: Candidate,
    pub(super) state: EndpointState,
    /// The machine has the other end's Hello. If the state is `Waiting` nevertheless, the connection
    /// waits for the end of the link that it replaces, and all that arrives waits with it.
    pub(super) greeted: bool,
    /// Time of the last arrival.
    pub(super) last_arrival: Instant,
}

/// The state of an end of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EndpointState {
    /// Not a link yet: Hello has not come, or the link that it replaces has not ended.
    Waiting,
    /// A link.
    Up,
    /// To be closed for this reason, once the application has its event.
    Leaving(Reason),
    /// Goodbye is said and not answered yet. Nothing more can be sent.
    Closing(Reason),
    /// Ended.
    Gone,
}

/// The queues of one side of a link, and what is on the line.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Frames of the overlay that wait for the line, and their bytes.
    control: VecDeque<LinkItem>,
    control_bytes: usize,
    /// Application messages that wait for the line, and their bytes.
    application: VecDeque<LinkItem>,
    application_bytes: usize,
    /// Frames on their way, with the time of their arrival.
    in_flight: VecDeque<(Instant, LinkItem)>,
    /// Time from which the line is free.
    free_at: Instant,
    /// Time of the last arrival of what is on its way.
    last_arrival: Instant,
    /// The event queue has a `LineFree` event for the time when the line is free.
    pub(super) is_departure_scheduled: bool,
    /// Something has arrived and waits.
    pub(super) is_held: bool,
    /// Number of application messages that were accepted.
    pub(super) accepted: u64,
    /// Number of application messages that were delivered at the other side.
    pub(super) delivered: u64,
    /// Times of the last deliveries that the sender may not know of.
    recent_deliveries: VecDeque<Instant>,
}

/// Something that one side sends.
#[derive(Debug)]
pub(super) struct LinkItem {
    pub(super) bytes: usize,
    pub(super) content: LinkContent,
}

/// The content of an item.
#[derive(Debug)]
pub(super) enum LinkContent {
    /// The acceptor's Hello: it has admitted the dialler.
    Hello,
    /// A frame of the overlay.
    Frame(Frame),
    /// A message of the application.
    Message(Message),
    /// A request of the application, with the number of its reply.
    Request { request: u64, name: String, message: Message },
    /// The reply to a request.
    Reply { request: u64, outcome: Result<Message, Refusal> },
    /// The end of the link, with the number of messages that the sender has received.
    Goodbye(Reason, u64),
    /// The sender's end was closed without a goodbye.
    Reset,
}

/// The error of a queue without room.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl SimulatedLink {
    /// Returns the side of a node; `None` if it has none.
    pub(super) fn side_of(&self, node: usize) -> Option<usize> {
        self.endpoints.iter().position(|endpoint| endpoint.node == node)
    }

    /// Returns whether both ends are up.
    pub(super) fn is_up(&self) -> bool {
        self.endpoints.iter().all(|endpoint| endpoint.state == EndpointState::Up)
    }

    pub(super) fn is_over(&self) -> bool {
        self.endpoints.iter().all(|endpoint| endpoint.state == EndpointState::Gone)
    }
}

impl Endpoint {
    /// Returns whether what arrives has to wait.
    pub(super) fn is_on_hold(&self) -> bool {
        self.greeted && self.state == EndpointState::Waiting
    }

    /// Returns whether the node has this link: it was up, and has not ended.
    pub(super) fn is_link(&self) -> bool {
        !matches!(self.state, EndpointState::Waiting | EndpointState::Gone)
    }
}

impl Outbox {
    /// Returns whether frames that can be spared should not be queued.
    pub(super) fn is_crowded(&self, config: &Config) -> bool {
        self.control_bytes > config.control_queue / 2
    }

    /// Returns whether messages of the application wait.
    pub(super) fn has_messages(&self) -> bool {
        !self.application.is_empty()
    }

    /// Queues a frame of the overlay.
    pub(super) fn queue_control(&mut self, item: LinkItem, config: &Config) -> Result<(), Full> {
        if self.control_bytes >= config.control_queue {
            return Err(Full);
        }
        self.queue_unlimited(item);
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

    /// Queues the reply to a request. On a real node it waits for room, so it is never refused here.
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

    /// Queues the last content, behind all that waits.
    pub(super) fn queue_last(&mut self, content: LinkContent) {
        let item = LinkItem { bytes: 0, content };
        // Control frames go first, so among them it would overtake the messages that still wait.
        if self.application.is_empty() {
            self.queue_unlimited(item);
        } else {
            self.application.push_back(item);
        }
    }

    /// Drops all that waits.
    pub(super) fn clear_queues(&mut self) {
        self.control.clear();
        self.application.clear();
        (self.control_bytes, self.application_bytes) = (0, 0);
    }

    /// Puts the next frame on the line, if that is free. Returns when the frame arrives, and when the
    /// line is free for the one behind it, if there is one.
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
        // Jitter may not reorder frames: on a real node they are on one TCP connection.
        let at = (self.free_at.max(now) + latency).max(self.last_arrival);
        self.last_arrival = at;
        self.in_flight.push_back((at, item));
        Some((at, self.schedule_departure(now)))
    }

    /// Returns when the line is free for the next frame; `None` if none waits for that, or if the queue has
    /// an entry for it already.
    pub(super) fn schedule_departure(&mut self, now: Instant) -> Option<Instant> {
        let is_waiting = !self.control.is_empty() || !self.application.is_empty();
        if self.free_at <= now || !is_waiting {
            return None;
        }
        // One entry in the queue for all that waits: each frame would add another one otherwise.
        (!std::mem::replace(&mut self.is_departure_scheduled, true)).then_some(self.free_at)
    }

    /// Returns what has arrived by `now`, one at a time.
    pub(super) fn take_arrived(&mut self, now: Instant) -> Option<LinkContent> {
        if self.is_held || self.in_flight.front()?.0 > now {
            return None;
        }
        self.in_flight.pop_front().map(|(_, item)| item.content)
    }

    /// Releases what was held back. It arrives at `at` at the earliest. Returns the time of the
    /// first arrival.
    pub(super) fn release(&mut self, at: Instant) -> Option<Instant> {
        self.is_held = false;
        for (arrival, _) in &mut self.in_flight {
            *arrival = at.max(*arrival);
        }
        // Later frames may not overtake it.
        self.last_arrival = self.last_arrival.max(at);
        self.in_flight.front().map(|(arrival, _)| *arrival)
    }

    /// Notes that an application message was delivered. `unknown` is the longest time for which the
    /// sender may not know it.
    pub(super) fn record_delivery(&mut self, now: Instant, unknown: Duration) {
        self.delivered += 1;
        // The sender knows of older ones, so they need not be remembered.
        while self.recent_deliveries.front().is_some_and(|at| *at + unknown < now) {
            self.recent_deliveries.pop_front();
        }
        self.recent_deliveries.push_back(now);
    }

    /// Returns the number of messages that the sender knows to be delivered.
    pub(super) fn confirmed_deliveries(&self, now: Instant, unknown: Duration) -> u64 {
        let unknown = self.recent_deliveries.iter().filter(|at| **at + unknown >= now).count();
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

    fn numbers(outbox: &mut Outbox, now: Instant) -> Vec<u64> {
        let mut arrived = Vec::new();
        while let Some(content) = outbox.take_arrived(now) {
            let LinkContent::Frame(Frame::Ping(n)) = content else { panic!("{content:?}") };
            arrived.push(n);
        }
        arrived
    }

    #[test]
    fn frames_keep_their_order_whatever_their_latencies() {
        let (mut outbox, config) = (Outbox::default(), Config::default());
        for (n, latency) in [(1, 50), (2, 10), (3, 30)] {
            outbox.queue_control(ping(n, 10), &config).unwrap();
            let (arrives, _) = outbox.depart(at(0), Duration::from_millis(latency), None).unwrap();
            assert_eq!(arrives, at(50));
        }
        assert!(numbers(&mut outbox, at(49)).is_empty());
        assert_eq!(numbers(&mut outbox, at(50)), [1, 2, 3]);
    }

    #[test]
    fn a_line_carries_so_much_and_control_frames_go_first() {
        let (mut outbox, config) = (Outbox::default(), Config::default());
        let latency = Duration::from_millis(10);
        outbox.queue_message(ping(1, 1000), &config).unwrap();
        let depart = |outbox: &mut Outbox, now| outbox.depart(now, latency, Some(10_000));
        assert_eq!(depart(&mut outbox, at(0)), Some((at(110), None)));
        outbox.queue_message(ping(2, 500), &config).unwrap();
        outbox.queue_control(ping(3, 100), &config).unwrap();
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
    fn lanes_are_crowded_at_half_and_full_at_their_bound() {
        let config = Config { control_queue: 1000, peer_queue: 1000, ..Config::default() };
        let mut outbox = Outbox::default();
        outbox.queue_control(ping(1, 500), &config).unwrap();
        assert!(!outbox.is_crowded(&config));
        outbox.queue_control(ping(2, 600), &config).unwrap();
        assert!(outbox.is_crowded(&config));
        assert_eq!(outbox.queue_control(ping(3, 1), &config), Err(Full));
        outbox.queue_message(ping(4, 5000), &config).unwrap();
        assert_eq!(outbox.queue_message(ping(5, 1), &config), Err(Full));
        outbox.clear_queues();
        outbox.queue_control(ping(3, 1), &config).unwrap();
    }

    #[test]
    fn held_frames_arrive_later_and_whole() {
        let (mut outbox, config) = (Outbox::default(), Config::default());
        for n in [1, 2] {
            outbox.queue_control(ping(n, 10), &config).unwrap();
            outbox.depart(at(n), Duration::from_millis(10), None).unwrap();
        }
        outbox.is_held = true;
        assert!(numbers(&mut outbox, at(1000)).is_empty());
        assert_eq!(outbox.release(at(2000)), Some(at(2000)));
        assert!(numbers(&mut outbox, at(1999)).is_empty());
        assert_eq!(numbers(&mut outbox, at(2000)), [1, 2]);
    }
}
