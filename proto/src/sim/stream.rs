//! The streams between a node that fetches and its sources: their lines, and the source's end. The fetcher's
//! end is in [`fetch`](super::fetch).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::files::Servable;
use super::liar::Lies;
use super::node::{SimulatedNode, derive_seed};
use super::queue::{SimEvent, StreamStep};
use super::{Sim, fetch::FetcherEnd};
use crate::address::Address;
use crate::event::{Event, Peer, Upload};
use crate::files::fetch::{Fault, STALL, SourceId};
use crate::files::seeding::{DELAY_CHECK_INTERVAL, Requester};
use crate::files::wire::MAX_SOURCES;
use crate::files::{AccessKind, Answer, Description, FileKind, FileRefusal, Request};
use crate::handler::Handler;
use crate::id::{Hash, NodeId};
use crate::time::Instant;

/// The fetcher's end of a stream.
pub(super) const FETCHER: usize = 0;
/// The source's end of a stream.
pub(super) const SOURCE: usize = 1;

/// A connection between a fetch and one of its sources, for the pieces of one content.
#[derive(Debug)]
pub(super) struct SimulatedStream {
    /// The fetch, as a key of `Transfers::fetches`.
    pub(super) fetch: u64,
    pub(super) source: SourceId,
    pub(super) hash: Hash,
    /// The identity of the source, if the fetch knows it before the connection is open.
    pub(super) expected: Option<NodeId>,
    /// The nodes of both ends, each with the run that the stream belongs to.
    pub(super) nodes: [(usize, u32); 2],
    /// The node that relays the connection, if any.
    relay: Option<usize>,
    latency: Duration,
    /// The lines of both ends. Each end sends on its own line.
    lines: [StreamLine; 2],
    /// Time of the last arrival from the source, or of the last check at which the source owed no answer.
    last_arrival: Instant,
    pub(super) fetcher: FetcherEnd,
    source_end: SourceEnd,
}

/// One direction of a stream.
#[derive(Debug, Default)]
struct StreamLine {
    in_flight: VecDeque<(Instant, StreamItem)>,
    /// Time at which the line has sent everything that was put on it.
    free_at: Instant,
    /// An item has arrived, and is held because the nodes are cut off from each other.
    is_held: bool,
}

/// An item on a line.
#[derive(Debug)]
pub(super) enum StreamItem {
    Request(Request),
    /// An answer, with the bytes of its piece.
    Answer(Answer, Bytes),
    /// The source's host has closed the connection, because the source's process has ended.
    Closed,
}

/// The source's end of a stream.
#[derive(Debug, Default)]
struct SourceEnd {
    /// Requested runs of pieces that are not sent yet, each as its next piece and its end.
    to_send: VecDeque<(u64, u64)>,
    /// The event queue has an event for the next piece.
    is_scheduled: bool,
    /// Addresses at which other nodes can reach the fetcher; `None` until it follows the content.
    follower: Option<Vec<Address>>,
    requester: Requester,
    /// Time since which the first request is held back.
    held_back: Option<Instant>,
    /// Number of bytes of pieces sent.
    sent: u64,
}

impl SimulatedStream {
    pub(super) fn new(
        (fetch, source): (u64, SourceId),
        (hash, expected): (Hash, Option<NodeId>),
        (nodes, relay): ([(usize, u32); 2], Option<usize>),
        latency: Duration,
        now: Instant,
    ) -> Self {
        Self {
            fetch,
            source,
            hash,
            expected,
            nodes,
            relay,
            latency,
            lines: Default::default(),
            last_arrival: now,
            fetcher: FetcherEnd::default(),
            source_end: SourceEnd::default(),
        }
    }

    /// Returns the node that relays the connection.
    pub(super) fn relay(&self) -> Option<usize> {
        self.relay
    }
}

impl<H: Handler> Sim<H> {
    /// Puts an item on the line of one end of a stream.
    pub(super) fn send_item(&mut self, stream_id: u64, end: usize, item: StreamItem) {
        let jitter = self.random_duration(self.network.jitter);
        let (now, bandwidth) = (self.now, self.network.bandwidth);
        let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
        let nodes = stream.nodes.map(|(node, _)| node);
        let (what, head) = match &item {
            StreamItem::Request(request) => ("files request", request.encode()),
            StreamItem::Answer(answer, _) => ("files answer", answer.encode()),
            StreamItem::Closed => ("files closed", Vec::new()),
        };
        let bytes =
            head.len() + if let StreamItem::Answer(_, bytes) = &item { bytes.len() } else { 0 };
        let line = &mut stream.lines[end];
        let begins = line.free_at.max(now);
        line.free_at =
            begins + bandwidth.map_or(Duration::ZERO, |rate| transmission_time(bytes, rate));
        let last = line.in_flight.back().map_or(Instant::ZERO, |(at, _)| *at);
        // Jitter may not reorder items, because on a real node they are on one TCP connection.
        let arrives = (line.free_at + stream.latency + jitter).max(last);
        line.in_flight.push_back((arrives, item));
        self.queue
            .put(arrives, SimEvent::Stream { stream: stream_id, step: StreamStep::Arrive(end) });
        let from = nodes[end];
        self.trace_event(what, [from, nodes[1 - end]], &head);
    }

    /// Handles the next step of a stream.
    pub(super) fn step_stream(&mut self, stream_id: u64, step: StreamStep) {
        match step {
            StreamStep::Opened => self.stream_opened(stream_id),
            StreamStep::Arrive(end) => self.arrive_on_stream(stream_id, end),
            StreamStep::Send => {
                if let Some(stream) = self.transfers.streams.get_mut(&stream_id) {
                    stream.source_end.is_scheduled = false;
                    self.send_pieces(stream_id);
                }
            }
            StreamStep::Check => self.check_stream(stream_id),
        }
    }

    /// Handles the items from one end of a stream that have arrived at the other end.
    fn arrive_on_stream(&mut self, stream_id: u64, end: usize) {
        let now = self.now;
        while let Some(stream) = self.transfers.streams.get(&stream_id) {
            let [a, b] = stream.nodes.map(|(node, _)| node);
            let is_cut = self.is_cut(a, b);
            let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
            let line = &mut stream.lines[end];
            line.is_held = is_cut;
            if is_cut || line.in_flight.front().is_none_or(|(at, _)| *at > now) {
                return;
            }
            let Some((_, item)) = line.in_flight.pop_front() else { return };
            match item {
                StreamItem::Request(request) => self.serve(stream_id, request),
                StreamItem::Answer(answer, bytes) => {
                    stream.last_arrival = now;
                    self.take_answer(stream_id, answer, &bytes);
                }
                StreamItem::Closed => self.source_failed(stream_id, Fault::Lost),
            }
        }
    }

    /// Gives a source up, if it owes an answer and has been silent for too long. Otherwise schedules the next
    /// check.
    pub(super) fn check_stream(&mut self, stream_id: u64) {
        let now = self.now;
        let Some(stream) = self.transfers.streams.get(&stream_id) else { return };
        let [a, b] = stream.nodes.map(|(node, _)| node);
        let is_cut = self.is_cut(a, b);
        let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
        let line = &stream.lines[SOURCE];
        // On a real node the bytes of a long answer arrive little by little, and a source that holds a request
        // back sends a short answer from time to time. Neither is simulated. So an item in flight, or a request
        // that is held back, counts as an arrival here.
        let is_alive = !line.in_flight.is_empty() || stream.source_end.held_back.is_some();
        if !stream.fetcher.awaits_answer() || (is_alive && !is_cut) {
            stream.last_arrival = now;
        }
        let due = stream.last_arrival + STALL;
        if due <= now {
            return self.source_failed(stream_id, Fault::Lost);
        }
        self.queue.put(due, SimEvent::Stream { stream: stream_id, step: StreamStep::Check });
    }

    /// Removes a stream, and everything that is in flight on it.
    pub(super) fn close_stream(&mut self, stream_id: u64) {
        let Some(stream) = self.transfers.streams.remove(&stream_id) else { return };
        let key = (stream.nodes[SOURCE].0, stream.hash);
        let mut streams = self.transfers.streams.values();
        // The source's observations end with the last stream for the content.
        if !streams.any(|stream| (stream.nodes[SOURCE].0, stream.hash) == key) {
            self.transfers.seeding.remove(&key);
        }
        if let Some(fetch) = self.transfers.fetches.get_mut(&stream.fetch) {
            fetch.forget_stream(stream.source, stream_id);
        }
    }

    /// Ends the fetches and streams of a node that has stopped. If `closes` is set, its host closes the
    /// connections, so that the nodes that fetch from it learn of the end.
    pub(super) fn end_transfers(&mut self, node: usize, closes: bool) {
        self.transfers.fetches.retain(|_, fetch| fetch.node != node);
        let of_node = |end: usize| {
            let streams = self.transfers.streams.iter();
            let of_node = streams.filter(move |(_, stream)| stream.nodes[end].0 == node);
            of_node.map(|(stream_id, _)| *stream_id).collect::<Vec<_>>()
        };
        let (fetching, serving) = (of_node(FETCHER), of_node(SOURCE));
        for stream_id in fetching {
            self.close_stream(stream_id);
        }
        let relayed = self.transfers.streams.iter();
        let relayed = relayed.filter(|(_, stream)| stream.relay == Some(node));
        for stream_id in relayed.map(|(stream_id, _)| *stream_id).collect::<Vec<_>>() {
            self.send_item(stream_id, SOURCE, StreamItem::Closed);
        }
        self.transfers.call_backs.retain(|_, call_back| call_back.node != node);
        for stream_id in serving.into_iter().filter(|_| closes) {
            self.send_item(stream_id, SOURCE, StreamItem::Closed);
        }
        // The list of shares is in the state folder, as on a real node.
        if !self.nodes[node].options.state {
            self.nodes[node].shares.clear();
        }
    }

    /// Resumes the streams between nodes that are no longer cut off from each other. If a source has
    /// restarted since, its host does not know the stream, and closes it.
    pub(super) fn resume_streams(&mut self) {
        let now = self.now;
        let stream_ids: Vec<_> = self.transfers.streams.keys().copied().collect();
        for stream_id in stream_ids {
            let Some(stream) = self.transfers.streams.get(&stream_id) else { continue };
            let [(a, _), (b, run)] = stream.nodes;
            if self.is_cut(a, b) {
                continue;
            }
            if self.nodes[b].running.is_some() && self.nodes[b].run != run {
                self.send_item(stream_id, SOURCE, StreamItem::Closed);
            }
            let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { continue };
            for end in [FETCHER, SOURCE] {
                let line = &mut stream.lines[end];
                if std::mem::take(&mut line.is_held) {
                    let first = now + stream.latency;
                    line.in_flight.iter_mut().for_each(|(at, _)| *at = first.max(*at));
                    let step = StreamStep::Arrive(end);
                    self.queue.put(first, SimEvent::Stream { stream: stream_id, step });
                }
            }
        }
    }

    /// Handles a request that has arrived at the source.
    fn serve(&mut self, stream_id: u64, request: Request) {
        let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
        let ((node, run), hash) = (stream.nodes[SOURCE], stream.hash);
        if self.nodes[node].in_run(run).is_none() {
            return;
        }
        match request {
            Request::Describe { .. } => self.answer(stream_id, |sim| sim.description(node, &hash)),
            Request::Pieces { first, count, .. } => self.answer(stream_id, |sim| {
                sim.servable(node, &hash)?;
                let list = &sim.transfers.contents.get(&hash)?.list;
                Some(Answer::Pieces { first, values: list.part(first, count.into()).to_vec() })
            }),
            Request::Data { first, count, .. } => {
                stream.source_end.to_send.push_back((first, first.saturating_add(count.into())));
                self.send_pieces(stream_id);
            }
            Request::Follow { addresses, .. } => self.follow(stream_id, addresses),
            Request::Cancel => self.cancel(stream_id),
            Request::Complete { .. } => self.upload_completed(stream_id),
            // The other requests are about folders and tickets, which are not simulated.
            _ => self.refuse_request(stream_id, FileRefusal::BadRequest),
        }
    }

    /// Sends an answer of the source. If there is none, sends the refusal [`FileRefusal::NotFound`].
    fn answer(&mut self, stream_id: u64, answer: impl FnOnce(&Self) -> Option<Answer>) {
        let answer = answer(self).unwrap_or(Answer::Refused(FileRefusal::NotFound));
        self.send_item(stream_id, SOURCE, StreamItem::Answer(answer, Bytes::new()));
    }

    fn refuse_request(&mut self, stream_id: u64, refusal: FileRefusal) {
        self.send_item(
            stream_id,
            SOURCE,
            StreamItem::Answer(Answer::Refused(refusal), Bytes::new()),
        );
    }

    /// Returns a node's description of a content; `None` if the node can't serve it.
    fn description(&self, node: usize, hash: &Hash) -> Option<Answer> {
        let size = self.transfers.contents.get(hash)?.list.size();
        let (whole, name) = match self.servable(node, hash)? {
            Servable::Whole(name) => (true, name.clone()),
            Servable::Part(pieces, name) => (pieces.is_full(), name.clone()),
        };
        let (kind, access) = (FileKind::File, AccessKind::Open);
        let stored = size;
        Some(Answer::Description(Description { kind, access, whole, size, stored, name }))
    }

    /// Registers a follower of the content. The follower learns which pieces the source has and which other
    /// nodes follow, and the other followers learn of the new one.
    fn follow(&mut self, stream_id: u64, addresses: Vec<Address>) {
        let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
        let ([(fetcher, _), (node, _)], hash) = (stream.nodes, stream.hash);
        stream.source_end.follower = Some(addresses.clone());
        self.answer(stream_id, |sim| match sim.servable(node, &hash)? {
            Servable::Part(pieces, _) if !pieces.is_full() => {
                let bits = pieces.bits(0, usize::MAX).into();
                Some(Answer::Held { first: 0, bits })
            }
            _ => Some(Answer::Whole),
        });
        let fetcher_id = self.nodes[fetcher].id;
        let mut others = self.followers(node, hash);
        others.retain(|(other, ..)| *other != stream_id);
        let mut named: Vec<_> =
            others.iter().map(|(_, id, addresses)| (*id, addresses.clone())).collect();
        // An earlier stream of the same node may still exist.
        named.retain(|(id, _)| *id != fetcher_id);
        let seed = derive_seed(self.seed, "followers", [stream_id, 0]);
        keep_random(&mut named, MAX_SOURCES, seed);
        if !named.is_empty() {
            self.answer(stream_id, |_| Some(Answer::Sources(named)));
        }
        // A real node names at most 16 new followers to each other follower, once a second. Here each new
        // follower is named at once, so followers learn of each other a little sooner.
        for (other, ..) in others {
            let sources = vec![(fetcher_id, addresses.clone())];
            self.answer(other, |_| Some(Answer::Sources(sources)));
        }
    }

    /// Returns the followers of a content at the source `node`: their streams, identities and addresses.
    fn followers(&self, node: usize, hash: Hash) -> Vec<(u64, NodeId, Vec<Address>)> {
        let streams = self.transfers.streams.iter();
        let of_node = streams.filter(|(_, s)| (s.nodes[SOURCE].0, s.hash) == (node, hash));
        let follower = |(stream_id, stream): (&u64, &SimulatedStream)| {
            let addresses = stream.source_end.follower.clone()?;
            Some((*stream_id, self.nodes[stream.nodes[FETCHER].0].id, addresses))
        };
        of_node.filter_map(follower).collect()
    }

    /// Announces a new piece of a content to the followers at the source `node`.
    pub(super) fn announce_piece(&mut self, node: usize, hash: Hash, piece: u64) {
        let bits = Bytes::from(vec![1_u8 << (piece % 8)]);
        for (stream_id, ..) in self.followers(node, hash) {
            let bits = bits.clone();
            self.answer(stream_id, |_| Some(Answer::Held { first: piece - piece % 8, bits }));
        }
    }

    /// Drops all requested pieces that are not sent yet. If the fetcher cancels a request that is held back, it
    /// has found the piece with another follower. The source notes how long that took.
    fn cancel(&mut self, stream_id: u64) {
        let now = self.now;
        let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
        let key = (stream.nodes[SOURCE].0, stream.hash);
        let source_end = &mut stream.source_end;
        let cancelled = std::mem::take(&mut source_end.to_send);
        if let (Some(since), Some(seeding)) =
            (source_end.held_back.take(), self.transfers.seeding.get_mut(&key))
        {
            seeding.got_elsewhere(&mut source_end.requester, now.since(since));
        }
        for _ in cancelled {
            self.refuse_request(stream_id, FileRefusal::Cancelled);
        }
    }

    /// Ends the stream of a fetcher that has the whole content, and reports the upload to the source's
    /// application.
    fn upload_completed(&mut self, stream_id: u64) {
        let Some(stream) = self.transfers.streams.get(&stream_id) else { return };
        let ([(fetcher, _), (node, _)], hash) = (stream.nodes, stream.hash);
        let bytes = stream.source_end.sent;
        let size = self.transfers.contents.get(&hash).map_or(0, |content| content.list.size());
        let name = match self.servable(node, &hash) {
            Some(Servable::Whole(name) | Servable::Part(_, name)) => name.to_string(),
            None => String::new(),
        };
        if bytes > 0 {
            let SimulatedNode { id, name: peer_name, .. } = &self.nodes[fetcher];
            let linked = self.nodes[node].running.as_ref().and_then(|run| run.handles.get(id));
            let peer = linked.map(|handle| handle.peer.clone());
            let peer = peer.unwrap_or_else(|| Peer::without_link(*id, peer_name.clone()));
            let upload = Upload { hash, name, bytes, size };
            self.event(node, Event::NodeUploadCompleted { peer, upload });
        }
        self.close_stream(stream_id);
    }

    /// Sends the requested pieces, the next one whenever the line is free.
    fn send_pieces(&mut self, stream_id: u64) {
        while let Some(stream) = self.transfers.streams.get(&stream_id) {
            let ((node, run), hash) = (stream.nodes[SOURCE], stream.hash);
            let Some((piece, _)) = stream.source_end.to_send.front().copied() else { return };
            if stream.source_end.is_scheduled || self.nodes[node].in_run(run).is_none() {
                return;
            }
            // The piece waits here and not on the line, because it can be cancelled until it is sent.
            if stream.lines[SOURCE].free_at > self.now {
                let at = stream.lines[SOURCE].free_at;
                return self.schedule_send(stream_id, at);
            }
            if self.drop_changed_share(node, hash) {
                return self.refuse_first(stream_id, FileRefusal::Changed);
            }
            let is_whole = match self.servable(node, &hash) {
                Some(Servable::Whole(_)) => true,
                Some(Servable::Part(pieces, _)) if pieces.contains(piece) => false,
                _ => return self.refuse_first(stream_id, FileRefusal::NotFound),
            };
            // This node sends no piece. The fetcher gives it up after `STALL`.
            if self.nodes[node].options.lies == Some(Lies::Drops) {
                return;
            }
            if is_whole && self.is_held_back(stream_id, piece) {
                let at = self.now + DELAY_CHECK_INTERVAL;
                return self.schedule_send(stream_id, at);
            }
            let Some(bytes) = self.piece_to_send(node, &hash, piece) else {
                return self.refuse_first(stream_id, FileRefusal::NotFound);
            };
            let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
            let source_end = &mut stream.source_end;
            source_end.sent += bytes.len() as u64;
            if let Some((next, end)) = source_end.to_send.front_mut() {
                *next += 1;
                if next == end {
                    source_end.to_send.pop_front();
                }
            }
            // Other followers can get the piece from this fetcher only if it has addresses. Otherwise the piece
            // is not held back from them.
            if source_end.follower.as_ref().is_some_and(|addresses| !addresses.is_empty()) {
                let seeding = self.transfers.seeding.entry((node, hash)).or_default();
                seeding.sent(piece..piece + 1);
            }
            self.nodes[node].uploaded += bytes.len() as u64;
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            self.send_item(
                stream_id,
                SOURCE,
                StreamItem::Answer(Answer::Piece { index: piece, len }, bytes),
            );
        }
    }

    /// Continues to send pieces at `at`.
    fn schedule_send(&mut self, stream_id: u64, at: Instant) {
        if let Some(stream) = self.transfers.streams.get_mut(&stream_id) {
            stream.source_end.is_scheduled = true;
            self.queue.put(at, SimEvent::Stream { stream: stream_id, step: StreamStep::Send });
        }
    }

    /// Refuses the first run of requested pieces.
    fn refuse_first(&mut self, stream_id: u64, refusal: FileRefusal) {
        if let Some(stream) = self.transfers.streams.get_mut(&stream_id) {
            stream.source_end.to_send.pop_front();
            self.refuse_request(stream_id, refusal);
        }
    }

    /// Returns whether a source that has the whole content holds back a request for a piece, because it has
    /// already sent the piece to another follower.
    fn is_held_back(&mut self, stream_id: u64, piece: u64) -> bool {
        let now = self.now;
        let Some(stream) = self.transfers.streams.get(&stream_id) else { return false };
        let (node, hash) = (stream.nodes[SOURCE].0, stream.hash);
        let others = self.followers(node, hash).len().saturating_sub(1);
        let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return false };
        let Some(seeding) = self.transfers.seeding.get_mut(&(node, hash)) else { return false };
        let source_end = &mut stream.source_end;
        // A fetcher that does not follow learns of no other follower, so its requests are not held back.
        if source_end.follower.is_none() || !seeding.has_sent(piece..piece + 1) {
            source_end.held_back = None;
            return false;
        }
        let waited = now.since(*source_end.held_back.get_or_insert(now));
        let is_served = seeding.may_serve(&mut source_end.requester, waited, others);
        if is_served {
            source_end.held_back = None;
        }
        !is_served
    }

    /// Returns the bytes that a node sends as a piece. A node that alters pieces changes them.
    fn piece_to_send(&self, node: usize, hash: &Hash, piece: u64) -> Option<Bytes> {
        let content = self.transfers.contents.get(hash)?;
        let range = content.list.range(piece)?;
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).ok());
        let bytes = content.bytes.slice(start?..end?);
        if self.nodes[node].options.lies != Some(Lies::Alters) {
            return Some(bytes);
        }
        let mut altered = bytes.to_vec();
        altered.first_mut().into_iter().for_each(|byte| *byte ^= 1);
        Some(altered.into())
    }
}

/// Keeps `count` random items, or all if there are no more.
fn keep_random<T>(items: &mut Vec<T>, count: usize, seed: [u8; 32]) {
    let mut rng = ChaCha8Rng::from_seed(seed);
    while items.len() > count {
        let at = rng.next_u64() % items.len() as u64;
        items.swap_remove(usize::try_from(at).unwrap_or_default());
    }
}

/// Returns the time that a line needs for `bytes` at `rate` bytes a second.
fn transmission_time(bytes: usize, rate: u64) -> Duration {
    Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / rate.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_followers_are_a_random_choice_that_depends_on_the_seed() {
        let named = |seed: u8| {
            let mut followers: Vec<usize> = (0..40).collect();
            keep_random(&mut followers, MAX_SOURCES, [seed; 32]);
            followers
        };
        assert_eq!(named(1).len(), MAX_SOURCES);
        assert_eq!(named(1), named(1));
        assert_ne!(named(1), named(2));
        // All followers are named about equally often.
        let times = |follower| (0..=255).filter(|seed| named(*seed).contains(&follower)).count();
        assert!((0..40).all(|follower| (60..=150).contains(&times(follower))));
        let mut few = vec![1, 2];
        keep_random(&mut few, MAX_SOURCES, [1; 32]);
        assert_eq!(few, [1, 2]);
    }
}
