//! One source at work on a fetch: asks it for what the fetch wants, checks and keeps what comes.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use peerkit_proto::files::fetch::{Candidate, Claim, Input, SourceId};
use peerkit_proto::files::wire::{FILES_PROTOCOL, MAX_PLACES};
use peerkit_proto::files::{Answer, Description, FileKind, PIECE, Refusal, Request};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::asking::{Answers, Asking, Questions};
use super::error::FetchError;
use super::job::Job;
use super::news::{News, Task};
use super::prove::{prove, prove_size};
use super::target::{Batch, Target};
use crate::error::Error;
use crate::inner::Inner;
use crate::lock::lock;
use crate::stream::Stream;
use crate::tls::Expected;

/// Small pieces are checked and written at the latest this long after the first of them came.
const GATHER: Duration = Duration::from_millis(50);

/// Works on one source until the fetch is over, or until the source fails, which it reports. With
/// `is_new` the content is not known yet.
pub(super) async fn attend(
    inner: Arc<Inner>,
    job: Arc<Job>,
    source: SourceId,
    candidate: Candidate,
    is_new: bool,
    mut tasks: mpsc::Receiver<Task>,
) {
    let attending = async {
        let begun = begin(&inner, &job, source, &candidate, is_new, &mut tasks).await?;
        match begun {
            Some(begun) => fetch(&inner, &job, source, begun, tasks).await,
            None => Ok(()),
        }
    };
    if let Err(error) = attending.await {
        // A fetch that is over needs no report.
        let _ = job.tell(News::Failed(source, error)).await;
    }
}

/// A stream to a source whose description fits what is fetched.
struct Begun {
    asking: Asking,
    description: Description,
    target: Arc<Target>,
    /// Where to say how many bytes the source is sure to send.
    expected: Expected,
}

/// Opens a stream, asks for the description, and proves it if that is wanted, until it is known that
/// this is what is fetched. Returns `None` if the fetch is over before.
async fn begin(
    inner: &Arc<Inner>,
    job: &Job,
    source: SourceId,
    candidate: &Candidate,
    is_new: bool,
    tasks: &mut mpsc::Receiver<Task>,
) -> Result<Option<Begun>, Error> {
    let stream = open(inner, candidate).await?;
    let id = stream.peer();
    job.tell(News::Input(Input::Met { source, id })).await?;
    let binding = stream.channel.session().binding;
    let expected = stream.expected.clone();
    let mut asking = Asking::new(stream, inner.rates.of(id));
    if let Some(secret) = job.secret {
        let proof = secret.prove(&binding, inner.id);
        asking.ask(&Request::Present { proof }).await?;
    }
    let (description, mut values) = asking.describe(job.hash, is_new).await?;
    let claim = Claim { kind: description.kind, size: description.size };
    job.tell(News::Input(Input::Described { source, claim })).await?;
    loop {
        match tasks.recv().await {
            Some(Task::Prove { with_size }) => {
                let (values, description) = (std::mem::take(&mut values), description.clone());
                let name = description.name.to_string();
                let proving = prove(&mut asking, job.hash, description, values);
                let proven = proving.await.map_err(|error| error.of_changed(|| name))?;
                if with_size {
                    prove_size(&mut asking, job.hash, &proven).await?;
                }
                job.tell(News::Proven(source, Box::new(proven))).await?;
            }
            Some(Task::Follow(target)) => {
                return Ok(Some(Begun { asking, description, target, expected }));
            }
            // Nothing was asked for yet.
            Some(Task::Ask { .. } | Task::Cancel) => {}
            Some(Task::Finish) | None => return Ok(None),
        }
    }
}

/// Takes pieces from a source until the fetch has all it wants.
async fn fetch(
    inner: &Arc<Inner>,
    job: &Arc<Job>,
    source: SourceId,
    begun: Begun,
    tasks: mpsc::Receiver<Task>,
) -> Result<(), Error> {
    let Begun { mut asking, description, target, expected } = begun;
    let mut addresses = inner.addresses(None);
    addresses.truncate(MAX_PLACES);
    asking.ask(&Request::Follow { hash: job.hash, addresses }).await?;
    // If it has everything, the answer to that says so too, a round trip later.
    job.tell(News::Input(Input::Ready { source, is_whole: description.whole })).await?;
    let Asking { questions, answers } = asking;
    let owed = Owed { runs: Mutex::default(), any: answers.owed(), expected };
    owed.any.store(false, Ordering::Relaxed);
    let (batch, begun) = (Batch::default(), Instant::now());
    let mut fetching =
        Fetching { job, source, target: &target, answers, owed: &owed, batch, begun };
    // Where files of a folder are left out it has not all of it.
    let is_all = target.left_out().next().is_none();
    // Sent only where it is needed to tell names apart: older sources refuse a request that has it.
    let called = job.name.clone().filter(|name| *name != description.name);
    let all =
        is_all.then(|| Request::Complete { hash: job.hash, name: inner.name.clone(), called });
    tokio::select! {
        result = ask(questions, tasks, (&target, &owed), all) => result?,
        error = fetching.take() => return Err(error),
    }
    fetching.answers.drain().await;
    Ok(())
}

/// Opens a stream to the candidate.
async fn open(inner: &Arc<Inner>, candidate: &Candidate) -> Result<Stream, Error> {
    match candidate.id {
        Some(id) => inner.open_stream(id, &candidate.addresses, FILES_PROTOCOL).await,
        None => inner.open_stream_to(&candidate.addresses, FILES_PROTOCOL).await,
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
    mut tasks: mpsc::Receiver<Task>,
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
            Task::Finish => {
                owed.expected.set(0);
                return questions.finish(all.as_ref()).await;
            }
            // That was done before.
            Task::Prove { .. } | Task::Follow(_) => continue,
        };
        questions.ask(&request).await?;
    }
    Ok(())
}

/// The taking side of a source.
struct Fetching<'a> {
    job: &'a Arc<Job>,
    source: SourceId,
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
                    self.job.tell(News::Input(Input::Holds { source, first, bits })).await?;
                }
                Answer::Whole => self.job.tell(News::Input(Input::Whole(source))).await?,
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
