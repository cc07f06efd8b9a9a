//! What a simulation counts.

use crate::frame::Frame;

/// What has happened in a simulation so far, over all nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    sent: [Count; KINDS.len()],
    /// Broadcasts that came in by links, each as often as it came.
    pub payloads: u64,
    /// Broadcasts that were given to applications.
    pub deliveries: u64,
    /// Application messages that were given to applications.
    pub messages: u64,
    /// Dials that were begun.
    pub dials: u64,
    /// Dials of which nothing came.
    pub dials_failed: u64,
    /// Links that came up.
    pub links: u64,
    /// Probes that were begun.
    pub probes: u64,
    /// Frames that were given back because their lane was crowded.
    pub passed_over: u64,
    /// Times that an overlay was woken.
    pub wakes: u64,
}

/// Frames, and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// How many.
    pub frames: u64,
    /// Their bytes, headers and all.
    pub bytes: u64,
}

const KINDS: [&str; 20] = [
    "query",
    "answer",
    "query_done",
    "broadcast",
    "have",
    "want",
    "prune",
    "given",
    "neighbour_request",
    "neighbour_reply",
    "forward_join",
    "disconnect",
    "shuffle",
    "shuffle_reply",
    "beacon",
    "forward",
    "forwarded",
    "message",
    "probe",
    "other",
];

/// The place of [`Frame::Broadcast`] among the kinds.
const BROADCAST: usize = 3;
/// The place of application messages.
pub(super) const MESSAGE: usize = 17;
/// The place of probes, and of their answers.
pub(super) const PROBE: usize = 18;

impl Stats {
    /// What was sent, by kind: frames that overlays sent, `message` for the applications' messages,
    /// requests and replies, `probe` for probes and their answers. Hello, goodbyes and pings are not counted.
    pub fn sent(&self) -> impl Iterator<Item = (&'static str, Count)> {
        KINDS.into_iter().zip(self.sent)
    }

    /// All that was sent.
    #[must_use]
    pub fn total(&self) -> Count {
        let add = |sum: Count, count: &Count| Count {
            frames: sum.frames + count.frames,
            bytes: sum.bytes + count.bytes,
        };
        self.sent.iter().fold(Count::default(), add)
    }

    /// Broadcasts that came in by a link and had come already.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.payloads.saturating_sub(self.deliveries)
    }

    /// Frames with broadcasts.
    #[must_use]
    pub fn broadcasts(&self) -> Count {
        self.sent[BROADCAST]
    }

    pub(super) fn count(&mut self, kind: usize, bytes: usize) {
        let count = &mut self.sent[kind];
        count.frames += 1;
        count.bytes += bytes as u64;
    }
}

/// Which of the kinds a frame is.
pub(super) fn kind(frame: &Frame) -> usize {
    match frame {
        Frame::Query(_) => 0,
        Frame::Answer(_) => 1,
        Frame::QueryDone(_) => 2,
        Frame::Broadcast(_) => BROADCAST,
        Frame::Have(_) => 4,
        Frame::Want(_) => 5,
        Frame::Prune(_) => 6,
        Frame::Given(_) => 7,
        Frame::NeighbourRequest(_) => 8,
        Frame::NeighbourReply(_) => 9,
        Frame::ForwardJoin(_) => 10,
        Frame::Disconnect(_) => 11,
        Frame::Shuffle(_) => 12,
        Frame::ShuffleReply(_) => 13,
        Frame::Beacon(_) => 14,
        Frame::Forward(_) => 15,
        Frame::Forwarded(_) => 16,
        _ => 19,
    }
}
