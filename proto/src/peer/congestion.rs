//! Congestion of a link: which frames are left out if the peer reads more slowly than this node sends, and when
//! the peer counts as too slow.
//!
//! Frames that this node sends on behalf of other nodes may be many: an answer for each node of the network, for
//! each query. If they could fill the queue, a node that asks much could end links between other nodes. So these
//! frames are left out while the queue is crowded. What they contain can be requested again, or the query ends as
//! not complete. The last quarter of the queue is kept for the frames of the link and of the membership.

use std::time::Duration;

use super::Machine;
use crate::config::Config;
use crate::frame::Frame;
use crate::time::Instant;

/// Returns the number of queued bytes from which a frame is left out; `None` if the frame is always sent.
fn limit(frame: &Frame, queue: usize) -> Option<usize> {
    match frame {
        // A query ends as not complete if an answer to it is left out. A broadcast is announced later, and the
        // sender of a relayed message learns that the message was not sent.
        Frame::Answer(_) | Frame::Broadcast(_) | Frame::Forward(_) => Some(queue / 2),
        // They are small, so they have more room: many answers to one query do not stop other queries. A query
        // that is left out ends as not complete. The others end the wait of another node, which without them
        // ends at its deadline.
        Frame::Query(_) | Frame::QueryDone(_) | Frame::Forwarded(_) => Some(queue / 4 * 3),
        _ => None,
    }
}

/// Returns whether a frame may be left out.
pub(super) fn may_be_left_out(frame: &Frame) -> bool {
    limit(frame, 0).is_some()
}

/// Returns whether a frame is left out if `queued` bytes of control frames wait for its link.
#[must_use]
pub fn is_left_out(frame: &Frame, queued: usize, config: &Config) -> bool {
    limit(frame, config.control_queue).is_some_and(|limit| queued > limit)
}

/// Returns whether only the newest frame of this kind is of use. It then replaces one that is still queued.
#[must_use]
pub fn replaces_queued(frame: &Frame) -> bool {
    matches!(frame, Frame::Beacon(_) | Frame::SignedBeacon(_))
}

/// The congestion of the queue of control frames of one link.
#[derive(Debug, Clone, Copy, Default)]
pub struct Congestion {
    /// The queue is crowded, and the peer has taken no byte since this time.
    since: Option<Instant>,
}

impl Congestion {
    /// Returns whether a queue of `queued` bytes is crowded.
    #[must_use]
    pub fn is_crowded(queued: usize, config: &Config) -> bool {
        queued > config.control_queue / 2
    }

    /// Notes that something was added to a crowded queue.
    pub fn add(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Notes that the peer reads: frames have left the queue, or more bytes of a large one were written.
    pub fn progress(&mut self) {
        self.since = None;
    }

    /// Returns whether the peer is too slow: the queue has been crowded for [`Config::slow_after`], and the peer
    /// has taken no byte in that time.
    #[must_use]
    pub fn is_slow(&self, now: Instant, slow_after: Duration) -> bool {
        self.since.is_some_and(|since| now.since(since) >= slow_after)
    }
}

impl Machine {
    /// Notes in the end of a query that an answer before it was left out.
    pub(super) fn mark_incomplete(&self, to: super::ConnectionId, frame: &mut Frame) {
        let Frame::QueryDone(done) = frame else { return };
        let to = self.links.id(to);
        let is_answer =
            |frame: &Frame| matches!(frame, Frame::Answer(answer) if answer.id == done.id);
        // The overlay learns of the answer only once all outputs have been taken.
        let left_out = |(id, frame): &(_, Frame)| Some(*id) == to && is_answer(frame);
        done.complete &= !self.skipped.iter().any(left_out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::query::tests::samples;

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn frames_for_other_nodes_leave_room_for_those_of_the_link() {
        let config = Config { control_queue: 1000, ..Config::default() };
        let from = |frame: &Frame| (0..5000).find(|queued| is_left_out(frame, *queued, &config));
        for frame in samples() {
            let expected = if matches!(frame, Frame::Answer(_)) { 501 } else { 751 };
            assert_eq!(from(&frame), Some(expected), "{frame:?}");
        }
        for frame in [Frame::Ping(1), Frame::Pong(1), Frame::Received(1), Frame::Clock(1)] {
            assert_eq!((from(&frame), may_be_left_out(&frame)), (None, false), "{frame:?}");
        }
    }

    #[test]
    fn a_peer_is_slow_if_it_takes_nothing_of_a_crowded_queue_for_ten_seconds() {
        let slow_after = Config::default().slow_after;
        let mut queue = Congestion::default();
        assert!(!queue.is_slow(at(100), slow_after), "an empty queue");
        queue.add(at(100));
        queue.add(at(109));
        assert!(!queue.is_slow(at(109), slow_after));
        assert!(queue.is_slow(at(110), slow_after));
        queue.progress();
        assert!(!queue.is_slow(at(200), slow_after));
        queue.add(at(200));
        assert!(!queue.is_slow(at(209), slow_after));
    }
}
