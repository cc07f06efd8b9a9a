//! What a simulation counts.

use std::collections::BTreeMap;

use crate::frame::Frame;

/// What has happened in a simulation so far, over all nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    sent: BTreeMap<&'static str, Count>,
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

/// The kind of [`Frame::Broadcast`].
const BROADCAST: &str = "broadcast";
/// The kind of application messages.
pub(super) const MESSAGE: &str = "message";
/// The kind of probes, and of their answers.
pub(super) const PROBE: &str = "probe";

impl Stats {
    /// What was sent, by kind: frames that overlays sent, `message` for the applications' messages,
    /// requests and replies, `probe` for probes and their answers. Hello, goodbyes and pings are not counted.
    pub fn sent(&self) -> impl Iterator<Item = (&'static str, Count)> {
        self.sent.iter().map(|(kind, count)| (*kind, *count))
    }

    /// All that was sent.
    #[must_use]
    pub fn total(&self) -> Count {
        let add = |sum: Count, count: &Count| Count {
            frames: sum.frames + count.frames,
            bytes: sum.bytes + count.bytes,
        };
        self.sent.values().fold(Count::default(), add)
    }

    /// Broadcasts that came in by a link and had come already.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.payloads.saturating_sub(self.deliveries)
    }

    /// Frames with broadcasts.
    #[must_use]
    pub fn broadcasts(&self) -> Count {
        self.sent.get(BROADCAST).copied().unwrap_or_default()
    }

    pub(super) fn count(&mut self, kind: &'static str, bytes: usize) {
        let count = self.sent.entry(kind).or_default();
        count.frames += 1;
        count.bytes += bytes as u64;
    }
}

/// Returns the kind of a frame.
pub(super) fn kind(frame: &Frame) -> &'static str {
    match frame {
        Frame::Query(_) => "query",
        Frame::Answer(_) => "answer",
        Frame::QueryDone(_) => "query_done",
        Frame::Broadcast(_) => BROADCAST,
        Frame::Have(_) => "have",
        Frame::Want(_) => "want",
        Frame::Prune(_) => "prune",
        Frame::Given(_) => "given",
        Frame::NeighbourRequest(_) => "neighbour_request",
        Frame::NeighbourReply(_) => "neighbour_reply",
        Frame::ForwardJoin(_) => "forward_join",
        Frame::Disconnect(_) => "disconnect",
        Frame::Shuffle(_) => "shuffle",
        Frame::ShuffleReply(_) => "shuffle_reply",
        Frame::Beacon(_) => "beacon",
        Frame::Forward(_) => "forward",
        Frame::Forwarded(_) => "forwarded",
        _ => "other",
    }
}
