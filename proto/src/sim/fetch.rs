//! Fetches of simulated nodes. Each of them drives the same [`Fetch`] as a download of a real node.
//!
//! Each source has a stream of its own (see [`stream`](super::stream)). The fetcher checks what arrives as a
//! real node does: the piece list against the hash, and each piece against the list.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

mod sources;
#[cfg(test)]
mod tests;

pub(super) use sources::CallBack;

use super::Sim;
use super::files::Servable;
use super::nat::Router;
use super::network::address;
use super::queue::SimEvent;
use super::stream::{FETCHER, StreamItem};
use crate::event::{ActionId, Event};
use crate::files::fetch::{
    Claim, Fault, Fetch, GiveUp, Input, LINGER, Options, Output, SourceCandidate, SourceId,
};
use crate::files::wire::MAX_PER_REQUEST;
use crate::files::{
    Answer, Changes, Description, FileRefusal, IncomingList, Layout, PieceList, PieceSet, Request,
};
use crate::frame::query::{AnswerBody, QueryAnswer, QueryKind};
use crate::handler::Handler;
use crate::id::Hash;
use crate::peer::OperationId;
use crate::time::Instant;

/// A fetch that an application has begun.
#[derive(Debug)]
pub(super) struct SimulatedFetch {
    pub(super) node: usize,
    run: u32,
    action: ActionId,
    hash: Hash,
    to: PathBuf,
    fetch: Fetch,
    /// Time of the event that wakes the fetch.
    wake: Option<Instant>,
    /// The streams to the sources.
    streams: BTreeMap<SourceId, u64>,
    /// The description and piece list that a source has proven first.
    proven: Option<(Description, PieceList)>,
    /// Time at which the fetch was done. From then on the content is only served.
    done: Option<Instant>,
}

/// The fetcher's end of a stream.
#[derive(Debug, Default)]
pub(super) struct FetcherEnd {
    stage: FetcherStage,
    description: Option<Description>,
    /// Requested runs of pieces that have not arrived completely, in the order in which the source sends them.
    requested: VecDeque<StreamRun>,
}

/// The answer of the source, or the decision of the fetch, that the stream waits for.
#[derive(Debug, Default)]
enum FetcherStage {
    /// No answer yet: the stream is being opened.
    #[default]
    Opening,
    /// The description; after it, if they were requested too, the first values of the list.
    Describing { also_values: bool },
    /// The decision whether to request the proof. The list has the values that have arrived.
    Described(IncomingList),
    /// More values of the list; after them, with `with_size`, the last piece.
    Proving { list: IncomingList, with_size: bool },
    /// The last piece, which proves the size.
    ProvingSize(PieceList),
    /// The decision whether to open this list, which is proven, or to follow the source.
    Proven(PieceList),
    /// The requested pieces, if there are any.
    Fetching,
}

#[derive(Debug)]
struct StreamRun {
    /// The piece that arrives next.
    next: u64,
    end: u64,
    is_cancelled: bool,
}

impl FetcherEnd {
    /// Returns whether the source owes an answer.
    pub(super) fn awaits_answer(&self) -> bool {
        match &self.stage {
            FetcherStage::Described(_) | FetcherStage::Proven(_) => false,
            FetcherStage::Fetching => !self.requested.is_empty(),
            _ => true,
        }
    }
}

impl SimulatedFetch {
    /// Returns what a run of a node can serve of a content because of this fetch.
    pub(super) fn servable(&self, node: usize, run: u32, hash: &Hash) -> Option<Servable<'_>> {
        if (self.node, self.run, &self.hash) != (node, run, hash) {
            return None;
        }
        let (description, _) = self.proven.as_ref()?;
        Some(Servable::Part(self.fetch.held()?, &description.name))
    }

    /// Forgets a stream of a source, unless the source has a newer stream.
    pub(super) fn forget_stream(&mut self, source: SourceId, stream_id: u64) {
        if self.streams.get(&source) == Some(&stream_id) {
            self.streams.remove(&source);
        }
    }
}

impl<H: Handler> Sim<H> {
    /// Begins a fetch for a node's application.
    pub(super) fn begin_fetch(&mut self, node: usize, action: ActionId, hash: Hash, to: PathBuf) {
        let options = Options {
            own: self.nodes[node].id,
            from: Vec::new(),
            ask_network: true,
            is_patient: false,
            patience: self.config.download_patience,
        };
        let fetch_id = self.next_id();
        let run = self.nodes[node].run;
        let seed = super::node::derive_seed(self.seed, "fetch", [node as u64, fetch_id]);
        let fetch = Fetch::new(self.now, options, seed);
        let streams = BTreeMap::new();
        let (wake, proven, done) = (None, None, None);
        let fetch =
            SimulatedFetch { node, run, action, hash, to, fetch, wake, streams, proven, done };
        self.transfers.fetches.insert(fetch_id, fetch);
        self.trace_event("fetch", [node, node], hash.as_bytes());
        self.carry_out_fetch(fetch_id);
    }

    /// Wakes a fetch at its deadline. Removes it once it has been served for long enough.
    pub(super) fn wake_fetch(&mut self, fetch_id: u64) {
        let now = self.now;
        let Some(fetch) = self.transfers.fetches.get_mut(&fetch_id) else { return };
        if fetch.done.is_some_and(|done| done + LINGER <= now) {
            self.transfers.fetches.remove(&fetch_id);
        } else if fetch.wake == Some(now) {
            fetch.wake = None;
            self.fetch_input(fetch_id, Input::Timeout);
        }
    }

    /// Reports a new link of a node to the fetches that wait for one.
    pub(super) fn fetches_linked(&mut self, node: usize) {
        let fetches = self.transfers.fetches.iter();
        let wanting = fetches.filter(|(_, fetch)| fetch.node == node && fetch.fetch.wants_link());
        let wanting: Vec<_> = wanting.map(|(fetch_id, _)| *fetch_id).collect();
        for fetch_id in wanting {
            self.fetch_input(fetch_id, Input::Linked);
        }
    }

    /// Takes an answer to a search for sources. Returns false if the query is not such a search.
    pub(super) fn take_source_answer(
        &mut self,
        operation: OperationId,
        answer: &QueryAnswer,
    ) -> bool {
        let Some(fetch_id) = self.transfers.searches.get(&operation).copied() else { return false };
        if let AnswerBody::Files(_) = answer.body {
            let (id, addresses) = (Some(answer.node), answer.addresses.clone());
            self.fetch_input(fetch_id, Input::Found(SourceCandidate { id, addresses }));
        }
        true
    }

    /// Reports the end of a search for sources to its fetch.
    pub(super) fn source_search_ended(&mut self, operation: OperationId) {
        if let Some(fetch_id) = self.transfers.searches.remove(&operation) {
            self.fetch_input(fetch_id, Input::Searched);
        }
    }

    fn fetch_input(&mut self, fetch_id: u64, input: Input) {
        let now = self.now;
        if let Some(fetch) = self.transfers.fetches.get_mut(&fetch_id) {
            fetch.fetch.handle(now, input);
            self.carry_out_fetch(fetch_id);
        }
    }

    /// Carries out the outputs of a fetch.
    fn carry_out_fetch(&mut self, fetch_id: u64) {
        // Looked up again each time, because an output may have ended the fetch or led to more inputs.
        while let Some(fetch) = self.transfers.fetches.get_mut(&fetch_id)
            && let Some(output) = fetch.fetch.poll()
        {
            let (node, hash) = (fetch.node, fetch.hash);
            let stream_of = |source| fetch.streams.get(&source).copied();
            match output {
                Output::Search => {
                    if let Some(operation) = self.begin_query(node, QueryKind::HasFile(hash), -1) {
                        self.transfers.searches.insert(operation, fetch_id);
                    }
                }
                Output::Dial(source, candidate) => self.dial_source(fetch_id, source, &candidate),
                Output::Prove { source, with_size } => {
                    if let Some(stream_id) = stream_of(source) {
                        self.prove(stream_id, with_size);
                    }
                }
                Output::Open(source) => {
                    if let Some(stream_id) = stream_of(source) {
                        self.open_target(fetch_id, stream_id);
                    }
                }
                Output::Follow(source) => {
                    if let Some(stream_id) = stream_of(source) {
                        self.follow_source(fetch_id, stream_id);
                    }
                }
                Output::Request { source, first, count } => {
                    if let Some(stream_id) = stream_of(source) {
                        self.request_pieces(stream_id, first, count);
                    }
                }
                Output::Cancel(source) => {
                    if let Some(stream_id) = stream_of(source) {
                        self.cancel_pieces(stream_id);
                    }
                }
                Output::Complete(source) => {
                    if let Some(stream_id) = fetch.streams.remove(&source) {
                        let name = self.nodes[node].name.clone();
                        // The source closes the stream when this request arrives.
                        let request = Request::Complete { hash, name, called: None };
                        self.send_item(stream_id, FETCHER, StreamItem::Request(request));
                    }
                }
                Output::HangUp(source) => {
                    if let Some(stream_id) = fetch.streams.remove(&source) {
                        self.close_stream(stream_id);
                    }
                }
                Output::ReportBan { id: source, why, .. } => {
                    let why = why.to_string();
                    self.event(node, Event::NodeSourceDropped { hash, source, why });
                }
                Output::Reset => {
                    // The pieces belong to a content of another size, so they are useless.
                    fetch.proven = None;
                    self.nodes[node].disk.get_mut().parts.remove(&hash);
                }
                Output::Done => self.fetch_done(fetch_id),
                Output::GiveUp(why) => self.fetch_given_up(fetch_id, &why),
            }
        }
        self.schedule_fetch_wake(fetch_id);
    }

    /// Adds an event for the fetch's deadline, if it is earlier than that of the event that is queued.
    fn schedule_fetch_wake(&mut self, fetch_id: u64) {
        let now = self.now;
        let Some(fetch) = self.transfers.fetches.get_mut(&fetch_id) else { return };
        let Some(due) = fetch.fetch.poll_timeout() else { return };
        if fetch.wake.is_none_or(|wake| wake > due) {
            let due = due.max(now);
            fetch.wake = Some(due);
            self.queue.put(due, SimEvent::WakeFetch { fetch: fetch_id });
        }
    }

    /// Closes the stream of a source that has failed, and reports the fault to the fetch.
    pub(super) fn source_failed(&mut self, stream_id: u64, fault: Fault) {
        let Some(stream) = self.transfers.streams.get(&stream_id) else { return };
        let (fetch_id, source) = (stream.fetch, stream.source);
        self.close_stream(stream_id);
        self.fetch_input(fetch_id, Input::Failed { source, fault });
    }

    /// Requests the description from a source, unless it has stopped, is cut off, or is not the expected node.
    pub(super) fn stream_opened(&mut self, stream_id: u64) {
        let Some(stream) = self.transfers.streams.get(&stream_id) else { return };
        let (fetch_id, source, hash) = (stream.fetch, stream.source, stream.hash);
        let ([(from, _), (to, run)], expected) = (stream.nodes, stream.expected);
        let id = self.nodes[to].id;
        let is_other = expected.is_some_and(|expected| expected != id);
        if is_other || self.is_cut(from, to) || self.nodes[to].in_run(run).is_none() {
            return self.source_failed(stream_id, Fault::Unreachable);
        }
        let relay = stream.relay();
        self.count_way(from, to, relay);
        self.fetch_input(fetch_id, Input::Identified { source, id });
        let is_new = self.transfers.fetches.get(&fetch_id).is_some_and(|f| f.proven.is_none());
        // The fetch may know the node from another address, and may have closed this stream.
        let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
        stream.fetcher.stage = FetcherStage::Describing { also_values: is_new };
        self.send_item(stream_id, FETCHER, StreamItem::Request(Request::Describe { hash }));
        // Requested with the description, which saves a round trip. Once proven, the list is known.
        if is_new {
            let request = Request::Pieces { hash, first: 0, count: MAX_PER_REQUEST };
            self.send_item(stream_id, FETCHER, StreamItem::Request(request));
        }
        // From now on the event queue has a check of this stream as long as the stream exists.
        self.check_stream(stream_id);
    }

    /// Counts how two nodes behind NATs have reached each other.
    fn count_way(&mut self, from: usize, to: usize, relay: Option<usize>) {
        let kinds = [from, to].map(|node| self.nodes[node].router.as_ref().map(Router::kind));
        let [Some(a), Some(b)] = kinds else { return };
        let stats = &mut self.stats;
        stats.punched_streams += u64::from(relay.is_none());
        stats.relayed_streams += u64::from(relay.is_some());
        stats.relayed_needlessly += u64::from(relay.is_some() && a.can_meet(b));
    }

    /// Asks a source to prove what it has described.
    fn prove(&mut self, stream_id: u64, with_size: bool) {
        let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
        let FetcherStage::Described(list) = std::mem::take(&mut stream.fetcher.stage) else {
            return;
        };
        stream.fetcher.stage = FetcherStage::Proving { list, with_size };
        self.continue_proof(stream_id);
    }

    /// Requests the next values of the list, or checks the list if it is complete.
    fn continue_proof(&mut self, stream_id: u64) {
        let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
        let hash = stream.hash;
        let FetcherStage::Proving { list, with_size } = std::mem::take(&mut stream.fetcher.stage)
        else {
            return;
        };
        if let Some((first, count)) = list.next_request(MAX_PER_REQUEST) {
            stream.fetcher.stage = FetcherStage::Proving { list, with_size };
            let request = Request::Pieces { hash, first, count };
            return self.send_item(stream_id, FETCHER, StreamItem::Request(request));
        }
        let Ok(list) = list.finish(&hash) else {
            return self.source_failed(stream_id, Fault::Lie);
        };
        // An empty file has no further pieces that could show later that the size is wrong.
        if with_size || list.size() == 0 {
            let first = list.count().saturating_sub(1);
            stream.fetcher.stage = FetcherStage::ProvingSize(list);
            let request = Request::Data { hash, first, count: 1 };
            return self.send_item(stream_id, FETCHER, StreamItem::Request(request));
        }
        self.report_proof(stream_id, list);
    }

    fn report_proof(&mut self, stream_id: u64, list: PieceList) {
        let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
        stream.fetcher.stage = FetcherStage::Proven(list);
        let (fetch_id, source) = (stream.fetch, stream.source);
        self.fetch_input(fetch_id, Input::Proven(source));
    }

    /// Opens the content that a source has proven on the node's disk, with the pieces that are there.
    fn open_target(&mut self, fetch_id: u64, stream_id: u64) {
        let now = self.now;
        let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
        let FetcherStage::Proven(list) = std::mem::take(&mut stream.fetcher.stage) else { return };
        let Some(description) = stream.fetcher.description.clone() else { return };
        let Some(fetch) = self.transfers.fetches.get_mut(&fetch_id) else { return };
        let Ok(layout) = Layout::file(list.size()) else { return };
        let parts = &mut self.nodes[fetch.node].disk.get_mut().parts;
        // Pieces of an earlier fetch are used again, unless that fetch had another number of pieces.
        let on_disk = parts.get(&fetch.hash).filter(|held| held.count() == layout.count()).cloned();
        let Ok(empty) = PieceSet::of_count(layout.count()) else { return };
        // The source that has given the proof is followed later, like any other source.
        stream.fetcher.stage = FetcherStage::Fetching;
        fetch.proven = Some((description, list));
        let (layout, held) = (Arc::new(layout), on_disk.unwrap_or(empty));
        // The loop of `carry_out_fetch`, which has called this, polls the outputs.
        fetch.fetch.handle(now, Input::Opened { layout, held });
    }

    /// Follows a source, which answers with the pieces that it has, and reports it to the fetch as ready.
    fn follow_source(&mut self, fetch_id: u64, stream_id: u64) {
        let now = self.now;
        let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
        let ((node, _), hash, source) = (stream.nodes[FETCHER], stream.hash, stream.source);
        stream.fetcher.stage = FetcherStage::Fetching;
        let is_whole = stream.fetcher.description.as_ref().is_some_and(|described| described.whole);
        let addresses = vec![address(self.nodes[node].announced_ip(node))];
        self.send_item(
            stream_id,
            FETCHER,
            StreamItem::Request(Request::Follow { hash, addresses }),
        );
        if let Some(fetch) = self.transfers.fetches.get_mut(&fetch_id) {
            // The loop of `carry_out_fetch` polls the outputs.
            fetch.fetch.handle(now, Input::Ready { source, is_whole });
        }
    }

    fn request_pieces(&mut self, stream_id: u64, first: u64, count: u16) {
        let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
        let end = first.saturating_add(count.into());
        stream.fetcher.requested.push_back(StreamRun { next: first, end, is_cancelled: false });
        let request = Request::Data { hash: stream.hash, first, count };
        self.send_item(stream_id, FETCHER, StreamItem::Request(request));
    }

    fn cancel_pieces(&mut self, stream_id: u64) {
        let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
        // The runs stay in the list: pieces in flight still count, and the source refuses the rest of each run.
        stream.fetcher.requested.iter_mut().for_each(|run| run.is_cancelled = true);
        self.send_item(stream_id, FETCHER, StreamItem::Request(Request::Cancel));
    }

    /// Handles an answer of a source.
    pub(super) fn take_answer(&mut self, stream_id: u64, answer: Answer, bytes: &[u8]) {
        let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
        let (fetch_id, source) = (stream.fetch, stream.source);
        match answer {
            Answer::Held { first, bits } => {
                self.fetch_input(fetch_id, Input::Holds { source, first, bits });
            }
            Answer::Whole => self.fetch_input(fetch_id, Input::Whole(source)),
            Answer::Sources(sources) => {
                for (id, addresses) in sources {
                    let candidate = SourceCandidate { id: Some(id), addresses };
                    self.fetch_input(fetch_id, Input::Found(candidate));
                }
            }
            Answer::Description(description) => self.described(stream_id, description),
            Answer::Pieces { values, .. } => {
                match &mut stream.fetcher.stage {
                    FetcherStage::Described(list) | FetcherStage::Proving { list, .. } => {
                        if list.push(&values).is_err() {
                            return self.source_failed(stream_id, Fault::Lie);
                        }
                    }
                    _ => return,
                }
                match stream.fetcher.stage {
                    FetcherStage::Described(_) => self.report_description(stream_id),
                    _ => self.continue_proof(stream_id),
                }
            }
            Answer::Piece { index, .. } => self.take_piece(stream_id, index, bytes),
            Answer::Refused(refusal) => self.refused(stream_id, refusal),
        }
    }

    fn described(&mut self, stream_id: u64, description: Description) {
        let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
        let FetcherStage::Describing { also_values } = stream.fetcher.stage else { return };
        let Ok(list) = IncomingList::new(description.size) else {
            return self.source_failed(stream_id, Fault::Lie);
        };
        stream.fetcher.description = Some(description);
        stream.fetcher.stage = FetcherStage::Described(list);
        if !also_values {
            self.report_description(stream_id);
        }
    }

    fn report_description(&mut self, stream_id: u64) {
        let Some(stream) = self.transfers.streams.get(&stream_id) else { return };
        let (fetch_id, source) = (stream.fetch, stream.source);
        let Some(description) = &stream.fetcher.description else { return };
        let claim = Claim { kind: description.kind, size: description.size };
        self.fetch_input(fetch_id, Input::Described { source, claim });
    }

    /// Checks a piece, and writes it to the disk.
    fn take_piece(&mut self, stream_id: u64, index: u64, bytes: &[u8]) {
        let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
        let (fetch_id, source, hash) = (stream.fetch, stream.source, stream.hash);
        if let FetcherStage::ProvingSize(list) = &stream.fetcher.stage {
            return match list.verify_piece(index, bytes) {
                Ok(()) => {
                    let list = list.clone();
                    self.report_proof(stream_id, list);
                }
                Err(_) => self.source_failed(stream_id, Fault::Lie),
            };
        }
        let Some(run) = stream.fetcher.requested.front_mut().filter(|run| run.next == index) else {
            // Pieces arrive in the order in which they were requested, so this one was not requested.
            return self.source_failed(stream_id, Fault::Lie);
        };
        run.next += 1;
        if run.next == run.end {
            stream.fetcher.requested.pop_front();
        }
        let Some(fetch) = self.transfers.fetches.get(&fetch_id) else { return };
        let Some((_, list)) = &fetch.proven else { return };
        if list.verify_piece(index, bytes).is_err() {
            return self.source_failed(stream_id, Fault::Lie);
        }
        let (node, count) = (fetch.node, list.count());
        let parts = &mut self.nodes[node].disk.get_mut().parts;
        let empty = || PieceSet::of_count(count).unwrap_or_default();
        // Near the end two sources may send the same piece.
        let is_new = parts.entry(hash).or_insert_with(empty).insert(index);
        self.fetch_input(fetch_id, Input::Stored { source, pieces: vec![index] });
        if is_new {
            self.announce_piece(node, hash, index);
        }
    }

    fn refused(&mut self, stream_id: u64, refusal: FileRefusal) {
        let Some(stream) = self.transfers.streams.get_mut(&stream_id) else { return };
        let run = stream.fetcher.requested.pop_front();
        let is_cancelled = run.is_some_and(|run| run.is_cancelled);
        match refusal {
            FileRefusal::Cancelled if is_cancelled => {}
            FileRefusal::Changed => self.source_failed(stream_id, Fault::Changed),
            FileRefusal::NotFound | FileRefusal::Busy => self.source_failed(stream_id, Fault::Lost),
            _ => self.source_failed(stream_id, Fault::Refused),
        }
    }

    /// Puts a complete content in its place on the disk, and reports the end of the fetch.
    fn fetch_done(&mut self, fetch_id: u64) {
        let now = self.now;
        let Some(fetch) = self.transfers.fetches.get_mut(&fetch_id) else { return };
        let (node, action, hash) = (fetch.node, fetch.action, fetch.hash);
        // Followers may still need pieces that only this node has.
        fetch.done = Some(now);
        self.queue.put(now + LINGER, SimEvent::WakeFetch { fetch: fetch_id });
        let Some(content) = self.transfers.contents.get(&hash) else { return };
        let (content, bytes) = (content.bytes.clone(), content.list.size());
        let name = fetch.proven.as_ref().map(|(description, _)| description.name.clone());
        let Some(name) = name else { return };
        let disk = self.nodes[node].disk.get_mut();
        disk.parts.remove(&hash);
        let path = disk.place(&fetch.to, &name, content);
        self.trace_event("fetched", [node, node], hash.as_bytes());
        let (place, changes) = (path.clone(), Changes::default());
        self.event(node, Event::NodeDownloadFinished { hash, path: place, bytes, changes });
        self.event(node, Event::NodeFetchCompleted { action, hash, path, bytes });
    }

    fn fetch_given_up(&mut self, fetch_id: u64, why: &GiveUp) {
        let Some(fetch) = self.transfers.fetches.remove(&fetch_id) else { return };
        let (node, action, hash) = (fetch.node, fetch.action, fetch.hash);
        let error = match why {
            GiveUp::NoSource => format!("no node that can be reached shares {hash}"),
            GiveUp::NoMore => "no source that can be reached has the rest".to_owned(),
            GiveUp::NoneAnswered(_) => "no source could be reached".to_owned(),
            GiveUp::Failed(_, fault) => failure(*fault).to_owned(),
        };
        self.event(node, Event::NodeDownloadFailed { hash, error: error.clone() });
        self.event(node, Event::NodeActionFailed { action, error });
    }
}

/// Returns the reason, in words, of a fetch whose last source has failed in this way.
fn failure(fault: Fault) -> &'static str {
    match fault {
        Fault::Local => "this node has failed",
        Fault::Lie => "the last source has sent something else than was asked for",
        Fault::Changed => "the content was changed or removed at its source",
        Fault::HungUp => "the last source hung up",
        Fault::Unreachable => "the last source could not be reached",
        Fault::Refused => "the last source refuses to serve this node",
        Fault::Lost => "the last source was lost",
    }
}
