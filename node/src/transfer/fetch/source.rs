//! The task of one source: sends it the requests of the fetch, and receives its pieces.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use peerkit_proto::address::Scheme;
use peerkit_proto::files::fetch::{Claim, Input, SourceCandidate, SourceId};
use peerkit_proto::files::wire::{FILES_PROTOCOL, MAX_ADDRESSES};
use peerkit_proto::files::{
    Answer, Description, FileKind, FileRefusal, PIECE, PieceValue, Request,
};
use peerkit_proto::id::NodeId;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::client::{AnswerReader, Client, RequestWriter};
use super::error::FetchError;
use super::fetch_request::FetchRequest;
use super::prove::{Proven, prove, prove_size};
use super::target::DownloadTarget;
use super::writer::{PieceBatch, PieceWriter};
use crate::error::Error;
use crate::inner::Inner;
use crate::lock::lock;
use crate::tls::ExpectedBytes;

/// Maximum time for which small pieces are gathered before they are verified and written.
const GATHER: Duration = Duration::from_millis(50);

/// The context that all source tasks of one fetch share.
pub(super) struct FetchContext {
    pub(super) request: FetchRequest,
    pub(super) writer: Arc<PieceWriter>,
    pub(super) reports: mpsc::Sender<SourceReport>,
}

/// A report of a source's task, or of the threads that write its pieces.
#[derive(Debug)]
pub(super) enum SourceReport {
    /// An input for the state machine.
    Input(Input),
    /// The source has proven its description.
    Proven(SourceId, Box<Proven>),
    /// The source or the disk has failed.
    Failed(SourceId, Error),
}

/// An order to a source's task.
#[derive(Debug)]
pub(super) enum SourceOrder {
    /// Make the source prove its description, and the size in it too if `with_size` is true.
    Prove { with_size: bool },
    /// Ask which pieces the source has, and receive pieces for this target from now on.
    Follow(Arc<DownloadTarget>),
    /// Request pieces.
    Request { first: u64, count: u16 },
    /// Cancel all requests.
    Cancel,
    /// Send `Complete` to the source, which says that the fetch has everything, and end the stream in order.
    Complete,
}

/// The task of one source.
pub(super) struct SourceTask {
    pub(super) inner: Arc<Inner>,
    pub(super) context: Arc<FetchContext>,
    pub(super) source: SourceId,
    pub(super) orders: mpsc::Receiver<SourceOrder>,
}

impl SourceTask {
    /// Dials the source, and fetches from it until the fetch is over or the source fails. Reports a failure.
    /// If `is_new` is true, no source has proven the content yet.
    pub(super) async fn run(mut self, candidate: SourceCandidate, is_new: bool) {
        if let Err(error) = self.work(&candidate, is_new).await {
            // A fetch that is over needs no report.
            let _ = self.context.reports.send(SourceReport::Failed(self.source, error)).await;
        }
    }

    async fn work(&mut self, candidate: &SourceCandidate, is_new: bool) -> Result<(), Error> {
        let inner = &self.inner;
        let source = self.source;
        let addresses = &candidate.addresses;
        let stream = match candidate.id {
            Some(id) => inner.open_stream(id, addresses, FILES_PROTOCOL).await?,
            None => inner.open_stream_to_any(addresses, FILES_PROTOCOL).await?,
        };
        let id = stream.peer();
        self.report(SourceReport::Input(Input::Identified { source, id })).await?;
        let binding = stream.channel.session().binding;
        let expected = stream.expected.clone();
        let is_relayed = stream.channel.scheme() == Scheme::Relay;
        let awaits_direct = (is_relayed && !has_direct_link(inner, id)).then_some(id);
        let mut client = Client::new(stream, inner.rates.of(id));
        let FetchRequest { hash, secret, .. } = self.context.request;
        if let Some(secret) = secret {
            let proof = secret.prove(&binding, inner.profile.id);
            // The request has no answer, so it costs no round trip.
            client.requests.send(&Request::Present { proof }).await?;
        }
        let (description, values) = client.describe(hash, is_new).await?;
        let claim = Claim { kind: description.kind, size: description.size };
        self.report(SourceReport::Input(Input::Described { source, claim })).await?;
        match self.prove(&mut client, &description, values).await? {
            Some(target) => {
                self.exchange(client, &description, &target, (expected, awaits_direct)).await
            }
            None => Ok(()),
        }
    }

    /// Makes the source prove its description when the fetch orders that. Returns the target once the fetch
    /// takes pieces from the source, or `None` if the fetch is over before that.
    async fn prove(
        &mut self,
        client: &mut Client,
        description: &Description,
        mut values: Vec<PieceValue>,
    ) -> Result<Option<Arc<DownloadTarget>>, Error> {
        let hash = self.context.request.hash;
        loop {
            match self.orders.recv().await {
                Some(SourceOrder::Prove { with_size }) => {
                    let values = std::mem::take(&mut values);
                    let proving = prove(client, hash, description.clone(), values).await;
                    let name = || description.name.to_string();
                    let proven = proving.map_err(|error| error.with_name_if_changed(name))?;
                    if with_size {
                        prove_size(client, hash, &proven).await?;
                    }
                    self.report(SourceReport::Proven(self.source, Box::new(proven))).await?;
                }
                Some(SourceOrder::Follow(target)) => return Ok(Some(target)),
                // No pieces are requested before `Follow`.
                Some(SourceOrder::Request { .. } | SourceOrder::Cancel) => {}
                Some(SourceOrder::Complete) | None => return Ok(None),
            }
        }
    }

    /// Requests and receives pieces until the fetch has everything. If `awaits_direct` is a node, gives the stream up
    /// for a direct one once there is a direct link with that node.
    async fn exchange(
        &mut self,
        mut client: Client,
        description: &Description,
        target: &Arc<DownloadTarget>,
        (expected, awaits_direct): (ExpectedBytes, Option<NodeId>),
    ) -> Result<(), Error> {
        let FetchRequest { hash, name, .. } = &self.context.request;
        let mut addresses = self.inner.addresses.announced(None);
        addresses.truncate(MAX_ADDRESSES);
        client.requests.send(&Request::Follow { hash: *hash, addresses }).await?;
        // A source that has everything also says so in its answer to `Follow`, but that is a round trip
        // later.
        let ready = Input::Ready { source: self.source, is_whole: description.whole };
        self.report(SourceReport::Input(ready)).await?;
        let Client { requests, answers } = client;
        let owed = OwedRuns { runs: Mutex::default(), is_any: answers.is_owed(), expected };
        // Nothing is owed until pieces are requested: a source without any may be silent for long.
        owed.is_any.store(false, Ordering::Relaxed);
        let mut receiver = PieceReceiver {
            inner: &self.inner,
            context: &self.context,
            source: self.source,
            awaits_direct,
            target,
            answers,
            owed: &owed,
            batch: PieceBatch::default(),
            begun: Instant::now(),
        };
        // The second name is sent only if it differs, because older sources refuse a request with two names.
        let called = name.clone().filter(|name| *name != description.name);
        // A download that leaves out files of a folder never has all of the content, so it must not say
        // `Complete`.
        let is_complete = target.left_out().next().is_none();
        let complete = is_complete.then(|| Request::Complete {
            hash: *hash,
            name: self.inner.profile.name.clone(),
            called,
        });
        // Requests are sent while pieces come in, so that the source never waits for a request.
        tokio::select! {
            sent = send_requests(requests, &mut self.orders, (target, &owed), complete) => sent?,
            error = receiver.run() => return Err(error),
        }
        receiver.answers.drain().await;
        Ok(())
    }

    async fn report(&self, report: SourceReport) -> Result<(), FetchError> {
        self.context.report(report).await
    }
}

impl FetchContext {
    /// Reports to the fetch.
    ///
    /// # Errors
    /// If the fetch is over.
    async fn report(&self, report: SourceReport) -> Result<(), FetchError> {
        self.reports.send(report).await.map_err(|_| FetchError::Stopped)
    }
}

/// The runs of pieces that were requested of the source and have not arrived in full, in the order of the
/// requests. The source sends them in this order.
struct OwedRuns {
    runs: Mutex<VecDeque<RequestedRun>>,
    /// True while any run is owed.
    is_any: Arc<AtomicBool>,
    /// The number of bytes that the source is sure to send, for the connection to read them in larger blocks.
    expected: ExpectedBytes,
}

#[derive(Debug, Clone, Copy)]
struct RequestedRun {
    next: u64,
    end: u64,
    /// Number of bytes of the pieces from `next` on.
    bytes: u64,
    is_cancelled: bool,
}

impl OwedRuns {
    fn runs(&self) -> MutexGuard<'_, VecDeque<RequestedRun>> {
        lock(&self.runs)
    }

    /// Updates `expected`, as a piece of `len` bytes begins to arrive.
    fn expect(&self, len: u64, runs: &VecDeque<RequestedRun>) {
        let wanted = runs.iter().take_while(|run| !run.is_cancelled).map(|run| run.bytes);
        self.expected.set(wanted.fold(len, u64::saturating_add));
    }

    /// Clears `is_any` if no run is owed any more.
    fn note_if_none_owed(&self) {
        let runs = self.runs();
        // The lock is held, so that a run that is added meanwhile is not overlooked.
        if runs.is_empty() {
            self.is_any.store(false, Ordering::Relaxed);
        }
    }
}

/// Sends the requests that the fetch orders. Ends the stream with `complete` when the fetch has everything.
async fn send_requests(
    mut requests: RequestWriter,
    orders: &mut mpsc::Receiver<SourceOrder>,
    (target, owed): (&DownloadTarget, &OwedRuns),
    complete: Option<Request>,
) -> Result<(), FetchError> {
    let hash = target.hash;
    while let Some(order) = orders.recv().await {
        let request = match order {
            SourceOrder::Request { first, count } => {
                let end = first.saturating_add(u64::from(count));
                let lens = (first..end).filter_map(|piece| target.layout.position(piece));
                let bytes = lens.map(|position| position.len()).sum();
                owed.runs().push_back(RequestedRun {
                    next: first,
                    end,
                    bytes,
                    is_cancelled: false,
                });
                owed.is_any.store(true, Ordering::Relaxed);
                match target.description.kind {
                    FileKind::File => Request::Data { hash, first, count },
                    FileKind::Folder => Request::Tree { hash, first, count },
                }
            }
            SourceOrder::Cancel => {
                owed.runs().iter_mut().for_each(|run| run.is_cancelled = true);
                // The source may answer a cancelled run with a refusal alone, so no bytes are sure to come.
                owed.expected.set(0);
                Request::Cancel
            }
            SourceOrder::Complete => {
                owed.expected.set(0);
                return requests.finish(complete.as_ref()).await;
            }
            // These orders come only before the first request.
            SourceOrder::Prove { .. } | SourceOrder::Follow(_) => continue,
        };
        requests.send(&request).await?;
    }
    Ok(())
}

/// Returns whether there is a link with a node that no third node relays.
fn has_direct_link(inner: &Inner, id: NodeId) -> bool {
    inner.links.get_open(id).is_some_and(|conn| conn.transport.scheme != Scheme::Relay)
}

/// The receiving side of a source.
struct PieceReceiver<'a> {
    inner: &'a Inner,
    context: &'a FetchContext,
    source: SourceId,
    /// The node at the other end of a relayed stream, which is given up once there is a direct link with the node.
    awaits_direct: Option<NodeId>,
    target: &'a Arc<DownloadTarget>,
    answers: AnswerReader,
    owed: &'a OwedRuns,
    /// Pieces that have arrived and are not being verified yet.
    batch: PieceBatch,
    /// The time at which the first piece of the batch arrived.
    begun: Instant,
}

impl PieceReceiver<'_> {
    /// Receives answers until the source fails. The next pieces arrive while a batch is verified and written.
    async fn run(&mut self) -> Error {
        let error = loop {
            if let Err(error) = self.receive().await {
                break error;
            }
            // Between two answers, so that no part of a piece is fetched twice.
            if self.awaits_direct.is_some_and(|id| has_direct_link(self.inner, id)) {
                break FetchError::Direct.into();
            }
        };
        // Pieces that have arrived are written, although the source has failed.
        self.flush().await.err().unwrap_or(error)
    }

    async fn receive(&mut self) -> Result<(), Error> {
        let source = self.source;
        let input = match self.next_answer().await? {
            Answer::Held { first, bits } => Input::Holds { source, first, bits },
            Answer::Whole => Input::Whole(source),
            Answer::Sources(sources) => {
                for (id, addresses) in sources {
                    let found = Input::Found(SourceCandidate { id: Some(id), addresses });
                    self.context.report(SourceReport::Input(found)).await?;
                }
                return Ok(());
            }
            Answer::Piece { index, len } => {
                if self.batch.is_empty() {
                    self.batch = self.context.writer.batch();
                    self.begun = Instant::now();
                }
                let is_last = self.receive_piece(index, len).await?;
                if is_last || self.is_full() {
                    self.flush().await?;
                }
                return Ok(());
            }
            Answer::Refused(refusal) => {
                self.handle_refusal(refusal)?;
                return self.flush().await;
            }
            _ => return Err(FetchError::Unexpected("pieces were requested").into()),
        };
        Ok(self.context.report(SourceReport::Input(input)).await?)
    }

    /// Waits for the next answer. If it takes long, the pieces that have arrived are written meanwhile.
    async fn next_answer(&mut self) -> Result<Answer, Error> {
        if self.batch.is_empty() {
            return Ok(self.answers.next().await?);
        }
        let mut next = pin!(self.answers.next());
        match timeout_at(self.begun + GATHER, next.as_mut()).await {
            Ok(answer) => Ok(answer?),
            Err(_) => {
                let batch = std::mem::take(&mut self.batch);
                self.context.writer.write(self.target, self.source, batch).await?;
                Ok(next.await?)
            }
        }
    }

    /// Returns whether the batch is to be written. Each batch wakes other threads, so a batch of a file that
    /// arrives fast has two pieces. A batch of a folder has half a mebibyte, as several threads write its
    /// files.
    fn is_full(&self) -> bool {
        let len = self.batch.len() as u64;
        match self.target.description.kind {
            FileKind::File if len <= PIECE => self.begun.elapsed() > GATHER / 2,
            _ => len > PIECE / 2,
        }
    }

    /// Receives one piece into the batch. Returns whether it was the last of its run.
    async fn receive_piece(&mut self, index: u64, len: u32) -> Result<bool, FetchError> {
        let wrong = || FetchError::Unexpected("another piece was requested");
        let position = self.target.layout.position(index).ok_or_else(wrong)?;
        let is_last = {
            let mut runs = self.owed.runs();
            let run = runs.front_mut().ok_or_else(wrong)?;
            if run.next != index || position.len() != u64::from(len) {
                return Err(wrong());
            }
            run.next = index.saturating_add(1);
            run.bytes = run.bytes.saturating_sub(u64::from(len));
            let is_last = run.next == run.end;
            if is_last {
                runs.pop_front();
            }
            self.owed.expect(u64::from(len), &runs);
            is_last
        };
        let content = self.answers.content(self.batch.add(index, len as usize)).await;
        if let Err(error) = content {
            self.batch.remove_last();
            return Err(error);
        }
        self.owed.note_if_none_owed();
        Ok(is_last)
    }

    fn handle_refusal(&mut self, refusal: FileRefusal) -> Result<(), FetchError> {
        let run = self.owed.runs().pop_front();
        self.owed.note_if_none_owed();
        match run {
            Some(run) if run.is_cancelled && refusal == FileRefusal::Cancelled => Ok(()),
            run if refusal == FileRefusal::Changed => {
                Err(self.target.changed(run.map(|run| run.next)))
            }
            _ => Err(FetchError::Refused(refusal)),
        }
    }

    /// Passes the batch to the writer, which verifies and writes it while the next one arrives.
    async fn flush(&mut self) -> Result<(), Error> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        Ok(self.context.writer.write(self.target, self.source, batch).await?)
    }
}
