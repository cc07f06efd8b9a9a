//! One source at work on a fetch: asks it for what the fetch wants, checks and keeps what comes.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use peerkit_proto::files::wire::{FILES_PROTOCOL, MAX_PLACES};
use peerkit_proto::files::{Answer, FileKind, PIECE, Refusal, Request};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use super::asking::{Answers, Asking, Questions};
use super::fetch_request::Candidate;
use super::job::Job;
use super::news::{News, Task};
use super::prove::{prove, prove_size};
use super::target::{Batch, Target};
use super::{FetchError, STALL};
use crate::error::Error;
use crate::inner::Inner;
use crate::lock::lock;
use crate::stream::Stream;
use crate::tls::Expected;

/// How long the source that proves what is fetched may take before another may try as well.
const PROVING: Duration = Duration::from_secs(3);

/// Small pieces are checked and written at the latest this long after the first of them came.
const GATHER: Duration = Duration::from_millis(50);

/// Works on one source until it fails.
pub(super) async fn attend(
    inner: &Arc<Inner>,
    job: &Arc<Job>,
    source: usize,
    candidate: Candidate,
    tasks: mpsc::UnboundedReceiver<Task>,
) -> Error {
    match work(inner, job, source, candidate, tasks).await {
        Ok(()) => FetchError::Stopped.into(),
        Err(error) => error,
    }
}

async fn work(
    inner: &Arc<Inner>,
    job: &Arc<Job>,
    source: usize,
    candidate: Candidate,
    tasks: mpsc::UnboundedReceiver<Task>,
) -> Result<(), Error> {
    let stream = open(inner, &candidate).await?;
    let id = stream.peer();
    job.tell(News::Met { source, id }).await?;
    let binding = stream.channel.session().binding;
    let proof = job.secret.map(|secret| secret.prove(&binding, inner.id));
    let expected = stream.expected.clone();
    let mut asking = Asking::new(stream, inner.rates.of(id));
    if let Some(proof) = proof {
        asking.ask(&Request::Present { proof }).await?;
    }
    let mut known = job.target.clone();
    let is_new = known.borrow().is_none();
    let described = asking.describe(job.hash, is_new).await;
    let (description, values) = described.map_err(|error| match job.target() {
        // Another, or the same before, has told what it is called.
        Some(target) => error.of_changed(|| target.description.name.to_string()),
        None => error,
    })?;
    let (whole, described) = (description.whole, description.name.clone());
    if known.borrow().is_none() {
        let waiting = async { drop(known.wait_for(Option::is_some).await) };
        tokio::select! {
            biased;
            () = waiting => {}
            permit = first_or_patient(&job.proving) => {
                let name = &description.name;
                let proven = prove(&mut asking, job.hash, description.clone(), values).await;
                let proven = proven.map_err(|error| error.of_changed(|| name.to_string()))?;
                job.tell(News::Proven { source, proven: Box::new(proven) }).await?;
                let _ = job.target.clone().wait_for(Option::is_some).await;
                drop(permit);
            }
        }
    }
    let target = job.target().ok_or(FetchError::Stopped)?;
    if (description.kind, description.size) != (target.description.kind, target.description.size) {
        // One of the two lies. This one can show that it does not.
        let proven = prove(&mut asking, job.hash, description, Vec::new()).await?;
        prove_size(&mut asking, job.hash, &proven).await?;
        job.tell(News::Contradicted { source, proven: Box::new(proven) }).await?;
        return Err(FetchError::Stopped.into());
    }
    let mut addresses = inner.addresses(None);
    addresses.truncate(MAX_PLACES);
    asking.ask(&Request::Follow { hash: job.hash, addresses }).await?;
    job.tell(News::Up { source }).await?;
    if whole {
        // The answer to that says so too, a round trip later.
        job.tell(News::Whole { source }).await?;
    }
    let Asking { questions, answers } = asking;
    let owed = Arc::new(Owed { runs: Mutex::default(), any: answers.owed(), expected });
    owed.any.store(false, Ordering::Relaxed);
    let (batch, begun) = (Batch::default(), Instant::now());
    let mut fetching =
        Fetching { job, source, target: &target, answers, owed: &owed, batch, begun };
    // Where files of a folder are left out it has not all of it.
    let is_all = target.left_out().next().is_none();
    // Sent only where it is needed to tell names apart: older sources refuse a request that has it.
    let called = job.name.clone().filter(|name| *name != described);
    let all =
        is_all.then(|| Request::Complete { hash: job.hash, name: inner.name.clone(), called });
    tokio::select! {
        result = ask(questions, tasks, (&target, &owed), all) => result?,
        error = fetching.take() => return Err(error),
    }
    fetching.answers.drain().await;
    Ok(())
}

/// A stream to whom the candidate is.
async fn open(inner: &Arc<Inner>, candidate: &Candidate) -> Result<Stream, Error> {
    match candidate.id {
        Some(id) => inner.open_stream(id, &candidate.addresses, FILES_PROTOCOL).await,
        None => inner.open_stream_to(&candidate.addresses, FILES_PROTOCOL).await,
    }
}

/// The permit, or, where its holder takes too long, none.
async fn first_or_patient(proving: &Semaphore) -> Option<tokio::sync::SemaphorePermit<'_>> {
    match tokio::time::timeout(PROVING, proving.acquire()).await {
        Ok(permit) => permit.ok(),
        Err(_) => None,
    }
}

/// What the source was asked for and has not sent, in the order in which it does.
struct Owed {
    runs: Mutex<VecDeque<Run>>,
    any: Arc<AtomicBool>,
    /// Where to say how many bytes the source is sure to send.
    expected: Expected,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    next: u64,
    end: u64,
    /// Of the pieces from `next` on.
    bytes: u64,
    cancelled: bool,
}

impl Owed {
    fn runs(&self) -> MutexGuard<'_, VecDeque<Run>> {
        lock(&self.runs)
    }

    /// Says how much is sure to come, now that a piece of `len` bytes begins.
    fn expect(&self, len: u64, runs: &VecDeque<Run>) {
        let wanted = runs.iter().take_while(|run| !run.cancelled).map(|run| run.bytes);
        self.expected.set(wanted.fold(len, u64::saturating_add));
    }
}

/// Sends what the fetch wants of the source; once it wants nothing more `all`, which ends the stream.
async fn ask(
    mut questions: Questions,
    mut tasks: mpsc::UnboundedReceiver<Task>,
    (target, owed): (&Target, &Owed),
    all: Option<Request>,
) -> Result<(), FetchError> {
    let hash = target.hash;
    while let Some(task) = tasks.recv().await {
        let request = match task {
            Task::Ask { first, count } => {
                let end = first.saturating_add(u64::from(count));
                let lens = (first..end).filter_map(|piece| target.layout.place(piece));
                let bytes = lens.map(|place| place.len()).sum();
                owed.runs().push_back(Run { next: first, end, bytes, cancelled: false });
                owed.any.store(true, Ordering::Relaxed);
                match target.description.kind {
                    FileKind::File => Request::Data { hash, first, count },
                    FileKind::Folder => Request::Tree { hash, first, count },
                }
            }
            Task::Cancel => {
                owed.runs().iter_mut().for_each(|run| run.cancelled = true);
                owed.expected.set(0);
                Request::Cancel
            }
            Task::Complete => {
                owed.expected.set(0);
                return questions.finish(all.as_ref()).await;
            }
        };
        questions.ask(&request).await?;
    }
    Ok(())
}

/// The taking side of a source.
struct Fetching<'a> {
    job: &'a Arc<Job>,
    source: usize,
    target: &'a Arc<Target>,
    answers: Answers,
    owed: &'a Owed,
    /// Pieces that have come and are not being checked yet.
    batch: Batch,
    /// When the first of them came.
    begun: Instant,
}

impl Fetching<'_> {
    /// Takes what comes, for ever; while a batch is checked and written the next comes in.
    async fn take(&mut self) -> Error {
        let error = match self.take_all().await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        // What has come is not lost with the source.
        match self.keep().await {
            Ok(()) => error,
            Err(over) => over,
        }
    }

    async fn take_all(&mut self) -> Result<std::convert::Infallible, Error> {
        let source = self.source;
        loop {
            match self.next().await? {
                Answer::Held { first, bits } => {
                    self.job.tell(News::Holds { source, first, bits }).await?;
                }
                Answer::Whole => self.job.tell(News::Whole { source }).await?,
                Answer::Sources(sources) => self.job.tell(News::Sources(sources)).await?,
                Answer::Piece { index, len } => {
                    if self.batch.pieces.is_empty() {
                        self.batch = self.job.keeping.batch();
                        self.begun = Instant::now();
                    }
                    let is_last = self.piece(index, len).await?;
                    if is_last || self.is_full() {
                        self.keep().await?;
                    }
                }
                Answer::Refused(refusal) => {
                    self.refused(refusal)?;
                    self.keep().await?;
                }
                _ => return Err(FetchError::Unexpected("pieces were asked for").into()),
            }
        }
    }

    /// The next answer. Where it takes long, what has come so far is checked and written before it.
    async fn next(&mut self) -> Result<Answer, Error> {
        if self.batch.pieces.is_empty() {
            return Ok(self.answers.next().await?);
        }
        let mut next = pin!(self.answers.next());
        match timeout_at(self.begun + GATHER, next.as_mut()).await {
            Ok(answer) => Ok(answer?),
            Err(_) => {
                let batch = std::mem::take(&mut self.batch);
                self.job.keeping.keep(self.target, self.source, batch).await?;
                Ok(next.await?)
            }
        }
    }

    /// Whether the batch is to be checked and written: of a file two pieces are where they come
    /// fast, as each batch wakes others; of a folder half of one, as several threads write it.
    fn is_full(&self) -> bool {
        let len = self.batch.len() as u64;
        match self.target.description.kind {
            FileKind::File if len <= PIECE => self.begun.elapsed() > GATHER / 2,
            _ => len > PIECE / 2,
        }
    }

    /// Takes one piece into the batch; true where it was the last that was owed in its run.
    async fn piece(&mut self, index: u64, len: u32) -> Result<bool, Error> {
        let wrong = || FetchError::Unexpected("another piece was asked for");
        let place = self.target.layout.place(index).ok_or_else(wrong)?;
        let is_last = {
            let mut runs = self.owed.runs();
            let run = runs.front_mut().ok_or_else(wrong)?;
            if run.next != index || place.len() != u64::from(len) {
                return Err(wrong().into());
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
        let content = self.answers.content(self.batch.put(index, len as usize)).await;
        if let Err(error) = content {
            self.batch.take_back();
            return Err(error.into());
        }
        self.settle();
        Ok(is_last)
    }

    fn refused(&mut self, refusal: Refusal) -> Result<(), Error> {
        let run = self.owed.runs().pop_front();
        self.settle();
        match run {
            Some(run) if run.cancelled && refusal == Refusal::Cancelled => Ok(()),
            run if refusal == Refusal::Changed => {
                Err(self.target.changed(run.map(|run| run.next)).into())
            }
            _ => Err(FetchError::Refused(refusal).into()),
        }
    }

    fn settle(&self) {
        let runs = self.owed.runs();
        if runs.is_empty() {
            self.owed.any.store(false, Ordering::Relaxed);
        }
    }

    /// Has the batch checked and written, while the next comes in.
    async fn keep(&mut self) -> Result<(), Error> {
        if self.batch.pieces.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        Ok(self.job.keeping.keep(self.target, self.source, batch).await?)
    }
}

/// How long to wait before a source that was lost is tried again, the `tries`th time.
pub(super) fn pause(tries: u32) -> Duration {
    Duration::from_millis(125).saturating_mul(1 << tries.min(8)).min(STALL)
}
