//! Counters of a simulation.

use std::collections::BTreeMap;

use crate::frame::Frame;

/// Counters over all nodes since the start of a simulation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    sent: BTreeMap<&'static str, Count>,
    /// Number of broadcasts that arrived over links. A broadcast that arrives at ten nodes, or ten times at one
    /// node, counts ten times.
    pub payloads: u64,
    /// Number of broadcasts that were delivered to applications.
    pub deliveries: u64,
    /// Number of messages that were delivered to applications.
    pub messages: u64,
    /// Number of addresses that were dialled.
    pub dials: u64,
    /// Number of dials that failed at all their addresses.
    pub dials_failed: u64,
    /// Number of links that came up.
    pub links: u64,
    /// Number of probes that were begun.
    pub probes: u64,
    /// Number of frames that were not sent because their link was crowded.
    pub skipped_frames: u64,
    /// Number of links that ended because the peer read too slowly.
    pub slow_links: u64,
    /// Number of packets that were sent to candidates for hole punching.
    pub meeting_packets: u64,
    /// Number of streams of fetches that were opened through relays.
    pub relayed_streams: u64,
    /// Number of those between nodes between which a hole could have been punched.
    pub relayed_needlessly: u64,
    /// Number of streams of fetches that were opened directly between two nodes behind NATs.
    pub punched_streams: u64,
    /// Number of deadlines of machines that were handled.
    pub wakes: u64,
}

/// A number of frames and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Number of frames.
    pub frames: u64,
    /// Number of bytes of these frames, including headers.
    pub bytes: u64,
}

/// The kind of [`Frame::Broadcast`].
const BROADCAST: &str = "broadcast";
/// The kind of [`Frame::SignedBeacon`].
const BEACON: &str = "beacon";
/// The kind of application messages.
pub(super) const MESSAGE: &str = "message";
/// The kind of probes, and of their answers.
pub(super) const PROBE: &str = "probe";

impl Stats {
    /// Returns the number of sent frames of each kind. Frames of overlays have their own names. Messages,
    /// requests and replies of applications are `message`, probes and their answers `probe`. Hellos, goodbyes
    /// and pings are not counted.
    pub fn sent(&self) -> impl Iterator<Item = (&'static str, Count)> {
        self.sent.iter().map(|(kind, count)| (*kind, *count))
    }

    /// Returns the sum of all kinds.
    #[must_use]
    pub fn total(&self) -> Count {
        let add = |sum: Count, count: &Count| Count {
            frames: sum.frames + count.frames,
            bytes: sum.bytes + count.bytes,
        };
        self.sent.values().fold(Count::default(), add)
    }

    /// Returns the number of broadcasts that arrived at a node which already had them.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.payloads.saturating_sub(self.deliveries)
    }

    /// Returns the number and bytes of sent frames that contain broadcasts.
    #[must_use]
    pub fn broadcasts(&self) -> Count {
        self.sent.get(BROADCAST).copied().unwrap_or_default()
    }

    /// Returns the number and bytes of sent beacons.
    #[must_use]
    pub fn beacons(&self) -> Count {
        self.sent.get(BEACON).copied().unwrap_or_default()
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
        Frame::Beacon(_) | Frame::SignedBeacon(_) => BEACON,
        Frame::Forward(_) => "forward",
        Frame::Forwarded(_) => "forwarded",
        _ => "other",
    }
}
