//! One fetch: carries out what its state machine decides, and puts the content in its place.
//!
//! [`Fetch`] decides which sources are dialled, what each is asked for, and when the fetch is given up.
//! Each source has a task ([`attend`]); one channel brings it what it is to do, and one brings back the
//! reports of all sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::event::Event;
use peerkit_proto::files::fetch::{
    Ban, Candidate, Fault, Fetch, GiveUp, Input, Options, Output, SourceId,
};
use peerkit_proto::files::{Access, AccessKind, PieceSet, Refusal};
use peerkit_proto::frame::query::{Answer, AnswerBody, What};
use peerkit_proto::id::NodeId;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::error::FetchError;
use super::fetch_request::FetchRequest;
use super::fetched::{Dropped, Fetched};
use super::job::Job;
use super::news::{News, Task};
use super::prove::Proven;
use super::source::attend;
use super::status::Shown;
use super::target::Target;
use crate::blocking;
use crate::error::Error;
use crate::inner::Inner;
use crate::transfer::meter::Meter;
use crate::transfer::partial::{Partial, PartialGuard};

/// Reports of sources that wait. Each is a piece or two that were written.
const NEWS: usize = 64;

/// Orders that a source's task has not carried out. 65,536: twice the pieces that all sources can owe at
/// once, each asked for alone. A task that lets more wait is stuck.
const TO_DO: usize = 65_536;

/// Longest time that the sources may take to end their streams after they were told that everything is
/// here. 1 s: a source that sends slowly ends its stream after the piece that is on its way.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long a finished download stays registered, so that its followers can still fetch from it.
const LINGER: Duration = Duration::from_secs(60);

/// Interval at which the shown rate is brought up to date although nothing comes.
const TICK: Duration = Duration::from_secs(1);

/// One fetch, from its beginning to its end.
pub(super) struct Fetching<'a> {
    inner: &'a Arc<Inner>,
    request: &'a FetchRequest,
    shown: &'a Shown,
    is_patient: bool,
    fetch: Fetch,
    job: Arc<Job>,
    news: mpsc::Receiver<News>,
    tasks: JoinSet<()>,
    sources: BTreeMap<SourceId, Attempt>,
    /// The answers of the search that is under way.
    answers: Option<mpsc::Receiver<Answer>>,
    /// The links when the last search began.
    links: BTreeSet<u64>,
    /// What a source has just proven.
    proven: Option<Box<Proven>>,
    opened: Option<Opened>,
    meter: Meter,
    /// The sources that sent pieces.
    senders: BTreeSet<NodeId>,
    dropped: Vec<Dropped>,
    /// The last failure of each source, by its number.
    failures: BTreeMap<usize, Error>,
}

/// The task of a source.
struct Attempt {
    to_do: mpsc::Sender<Task>,
    abort: AbortHandle,
}

/// The content on the disk, and what is served of it meanwhile.
struct Opened {
    target: Arc<Target>,
    served: PartialGuard,
}

/// The end of a fetch that did not get everything.
#[derive(Debug)]
pub(super) enum Unfinished {
    /// No node that has the rest could be reached. These nodes were taken for sources.
    NoSource(Error, Vec<NodeId>),
    /// It has failed, or was stopped.
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Unfinished {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl<'a> Fetching<'a> {
    /// Prepares a fetch. One that `is_patient` waits for its first source as long as for any other;
    /// else it fails as soon as all nodes that could be asked have answered.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub(super) fn new(
        inner: &'a Arc<Inner>,
        request: &'a FetchRequest,
        shown: &'a Shown,
        is_patient: bool,
    ) -> Result<Self, Error> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let options = Options {
            own: inner.id,
            from: request.from.clone(),
            ask_network: request.ask_network,
            is_patient,
            patience: inner.config.download_patience,
        };
        let (news_sender, news) = mpsc::channel(NEWS);
        Ok(Self {
            inner,
            request,
            shown,
            is_patient,
            fetch: Fetch::new(inner.now(), options, seed),
            job: Arc::new(Job::new(request, news_sender, shown.clone())),
            news,
            tasks: JoinSet::new(),
            sources: BTreeMap::new(),
            answers: None,
            links: BTreeSet::new(),
            proven: None,
            opened: None,
            meter: Meter::new(),
            senders: BTreeSet::new(),
            dropped: Vec::new(),
            failures: BTreeMap::new(),
        })
    }

    /// Fetches it all. Tries what it can at once whenever `resumed` is notified.
    ///
    /// Ends once `stop` is cancelled; what was verified by then stays on disk.
    pub(super) async fn run(
        mut self,
        stop: &CancellationToken,
        resumed: &Notify,
    ) -> Result<Fetched, Unfinished> {
        let started = std::time::Instant::now();
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => Err(Error::Stopped.into()),
            outcome = self.gather(resumed) => outcome,
        };
        self.job.checking.stop();
        let mut placed = Err(FetchError::Unfinished);
        if let (Ok(()), Some(Opened { target, served })) = (&outcome, &self.opened) {
            // All of it is written. That it gets its name and the goodbyes do not wait for each other.
            let placing =
                place(Arc::clone(target), Arc::clone(served.partial()), self.request.overwrite);
            ((), placed) = tokio::join!(self.say_goodbye(), placing);
        }
        self.tasks.shutdown().await;
        // What is being written is written, whichever source sent it.
        self.news.close();
        while self.news.try_recv().is_ok() {}
        self.job.keeping.done().await;
        outcome?;
        let opened = self.opened.take().ok_or(FetchError::Unfinished)?;
        Ok(self.finish(placed?, opened, started))
    }

    /// Waits a moment until the sources, which know that everything is here, have ended their streams.
    async fn say_goodbye(&mut self) {
        let mut late = std::pin::pin!(tokio::time::sleep(GOODBYE));
        loop {
            tokio::select! {
                biased;
                () = &mut late => return,
                ended = self.tasks.join_next() => match ended {
                    Some(_) => {}
                    None => return,
                },
                // A task must not wait until its report is read.
                Some(_) = self.news.recv() => {}
            }
        }
    }

    fn finish(self, path: PathBuf, opened: Opened, started: std::time::Instant) -> Fetched {
        let Opened { target, served } = opened;
        let (renamed, left_out) = target.changes(&path);
        // It is the user's now, who may change it.
        served.partial().check_from_now_on();
        // Those who follow may still want what only this node has.
        self.inner.spawn(async move {
            tokio::time::sleep(LINGER).await;
            drop(served);
        });
        Fetched {
            path,
            kind: target.description.kind,
            bytes: target.total,
            seconds: started.elapsed().as_secs_f64(),
            sources: self.senders.into_iter().collect(),
            dropped: self.dropped,
            renamed,
            left_out,
        }
    }

    /// Fetches until every piece is written.
    async fn gather(&mut self, resumed: &Notify) -> Result<(), Unfinished> {
        while !self.obey().await? {
            self.show();
            let due = self.fetch.poll_timeout().map(|at| self.inner.clock(at));
            let tick = Instant::now() + TICK;
            tokio::select! {
                biased;
                news = self.news.recv() => match news {
                    Some(news) => self.hear(news),
                    None => return Err(FetchError::Stopped.into()),
                },
                Some(ended) = self.tasks.join_next_with_id() => {
                    if let Err(failed) = ended {
                        self.broke_down(failed.id());
                    }
                }
                answer = next(&mut self.answers) => match answer {
                    Some(answer) if matches!(answer.body, AnswerBody::Files(_)) => {
                        self.found(answer.node, answer.addresses);
                    }
                    Some(_) => {}
                    None => {
                        self.answers = None;
                        self.input(Input::Searched);
                    }
                },
                () = self.inner.new_link(&self.links), if self.fetch.wants_link() => {
                    self.links = self.inner.links();
                    self.input(Input::Linked);
                }
                () = resumed.notified() => self.input(Input::Resume),
                () = sleep_until(due.map_or(tick, |due| due.min(tick))) => {
                    self.meter.fade();
                    self.shown.rate(&self.meter);
                    self.input(Input::Timeout);
                }
            }
        }
        Ok(())
    }

    fn input(&mut self, input: Input) {
        self.fetch.handle(self.inner.now(), input);
    }

    /// Does what the fetch wants done. Returns whether every piece is written.
    async fn obey(&mut self) -> Result<bool, Unfinished> {
        while let Some(output) = self.fetch.poll() {
            match output {
                Output::Search => {
                    self.links = self.inner.links();
                    let what = What::HasFile(self.request.hash);
                    self.answers = Some(self.inner.ask_for_files(what).await?);
                }
                Output::Dial(source, candidate) => self.dial(source, candidate),
                Output::Prove { source, with_size } => {
                    self.order(source, Task::Prove { with_size });
                }
                Output::Open(source) => self.open(source).await?,
                Output::Follow(source) => {
                    if let Some(opened) = &self.opened {
                        self.order(source, Task::Follow(Arc::clone(&opened.target)));
                    }
                }
                Output::Ask { source, first, count } => {
                    self.order(source, Task::Ask { first, count });
                }
                Output::Cancel(source) => self.order(source, Task::Cancel),
                Output::Finish(source) => self.order(source, Task::Finish),
                Output::HangUp(source) => {
                    if let Some(attempt) = self.sources.remove(&source) {
                        attempt.abort.abort();
                    }
                }
                Output::Drop { source, id, why } => self.drop_source(source, id, why),
                Output::Reset => self.reset().await,
                Output::Done => return Ok(true),
                Output::GiveUp(why) => return Err(self.unfinished(why)),
            }
        }
        // A proof that was not opened has come too late.
        self.proven = None;
        Ok(false)
    }

    fn show(&self) {
        self.shown.sources(self.fetch.ready_sources());
        if self.is_patient {
            self.shown.seeking(self.fetch.is_trying());
        }
    }

    fn dial(&mut self, source: SourceId, candidate: Candidate) {
        let (to_do, tasks) = mpsc::channel(TO_DO);
        let (inner, job) = (Arc::clone(self.inner), Arc::clone(&self.job));
        let is_new = self.opened.is_none();
        let abort = self.tasks.spawn(attend(inner, job, source, candidate, is_new, tasks));
        self.sources.insert(source, Attempt { to_do, abort });
    }

    fn order(&mut self, source: SourceId, task: Task) {
        let Some(attempt) = self.sources.get(&source) else { return };
        // A task that has just ended has reported why, or will be found to have broken down.
        if let Err(TrySendError::Full(_)) = attempt.to_do.try_send(task) {
            self.failed(source, FetchError::Stalled.into());
        }
    }

    /// The task with this id has panicked.
    fn broke_down(&mut self, task: Id) {
        let mut sources = self.sources.iter();
        let source = sources.find(|(_, attempt)| attempt.abort.id() == task);
        if let Some(source) = source.map(|(source, _)| *source) {
            self.failed(source, FetchError::Stopped.into());
        }
    }

    fn found(&mut self, id: NodeId, addresses: Vec<Address>) {
        self.input(Input::Found(Candidate { id: Some(id), addresses }));
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Input(input) => self.input(input),
            News::Proven(source, proven) => {
                self.proven = Some(proven);
                self.input(Input::Proven(source));
            }
            News::Sources(sources) => {
                for (id, addresses) in sources {
                    self.found(id, addresses);
                }
            }
            News::Kept(source, pieces) => self.kept(source, pieces),
            News::Failed(source, error) => self.failed(source, error),
        }
    }

    fn kept(&mut self, source: SourceId, pieces: Vec<u64>) {
        let (Some(opened), Some(held)) = (&self.opened, self.fetch.held()) else { return };
        self.senders.extend(self.fetch.id_of(source));
        let is_new = |piece: &u64| !held.contains(*piece);
        let new: BTreeSet<u64> = pieces.iter().copied().filter(is_new).collect();
        // Pieces that follow on each other are told of together.
        let partial = opened.served.partial();
        let mut added = 0..0;
        for piece in new {
            let place = opened.target.layout.place(piece);
            self.meter.add(place.map_or(0, |place| place.len()));
            if added.end != piece {
                partial.add(added.clone());
                added.start = piece;
            }
            added.end = piece.saturating_add(1);
        }
        partial.add(added);
        self.input(Input::Kept { source, pieces });
        self.shown.progress(&self.meter);
    }

    fn failed(&mut self, source: SourceId, error: Error) {
        let error = match (error, &self.opened) {
            (Error::Fetch(error), Some(opened)) => {
                error.of_changed(|| opened.target.description.name.to_string()).into()
            }
            (error, _) => error,
        };
        tracing::debug!(source = ?self.fetch.id_of(source), %error, "a source was lost");
        let fault = fault(&error);
        self.failures.insert(source.number(), error);
        self.input(Input::Failed { source, fault });
    }

    /// Opens what a source has proven on the disk, and checks what is there of it.
    async fn open(&mut self, source: SourceId) -> Result<(), Unfinished> {
        let proven = self.proven.take().ok_or(FetchError::Unfinished)?;
        let (hash, to, overwrite) =
            (self.request.hash, self.request.to.clone(), self.request.overwrite);
        let name = self.request.name.clone();
        self.shown.begin(&proven.description, name.as_ref());
        tracing::debug!(source = ?self.fetch.id_of(source), "a source has proven what it has");
        let checking = self.job.checking.clone();
        let busy = self.job.keeping.busy().await;
        let access = self.access(proven.description.access);
        let opening = blocking::run(move || {
            let (target, held) =
                Target::open(hash, *proven, name.as_ref(), (&to, overwrite), &checking)?;
            let partial = target.partial(access, &held)?;
            // If nothing waits for this any more, the part is let go of before that is seen.
            Ok::<_, FetchError>((Arc::new(target), held, partial, busy))
        });
        let (target, held, partial, _) = opening.await.ok_or(FetchError::Stopped)??;
        self.begin(target, held, partial);
        Ok(())
    }

    /// Returns which nodes the content may be served to.
    fn access(&self, kind: AccessKind) -> Access {
        match (kind, self.request.secret) {
            (AccessKind::Open, _) => Access::Open,
            (AccessKind::Ticket, Some(secret)) => Access::Ticket(secret),
            // Which other nodes it is for is not known.
            (AccessKind::Nodes | AccessKind::Ticket, _) => Access::Nodes(Vec::new()),
        }
    }

    /// The content is known, and which of its pieces are here already.
    fn begin(&mut self, target: Arc<Target>, held: PieceSet, partial: Partial) {
        let layout = Arc::clone(&target.layout);
        let len = |piece| layout.place(piece).map_or(0, |place| place.len());
        let here = held.pieces().map(len).fold(0, u64::saturating_add);
        self.meter.start(here, target.total);
        self.shown.fetching(&target.path, &self.meter);
        // What is not to be written is not asked for.
        let mut settled = held;
        target.left_out().for_each(|piece| _ = settled.insert(piece));
        self.opened = Some(Opened { target, served: self.inner.files.partials.enter(partial) });
        self.input(Input::Opened { layout, held: settled });
    }

    /// Forgets what was opened, once all of it is written that came.
    async fn reset(&mut self) {
        let job = Arc::clone(&self.job);
        let mut written = std::pin::pin!(job.keeping.done());
        loop {
            tokio::select! {
                () = &mut written => break,
                _ = self.news.recv() => {}
            }
        }
        while self.news.try_recv().is_ok() {}
        self.opened = None;
    }

    fn drop_source(&mut self, source: SourceId, id: NodeId, why: Ban) {
        let why = match (why, self.failures.get(&source.number())) {
            (Ban::Lie, Some(error)) => error.to_string(),
            _ => "its size is not that of the file".to_owned(),
        };
        tracing::info!(source = %id, %why, "a source is not asked any more");
        self.dropped.push(Dropped { id, why: why.clone() });
        let hash = self.request.hash;
        self.inner.dispatch.notice(Event::NodeSourceDropped { hash, source: id, why });
    }

    /// Returns the error of a fetch that is given up.
    fn unfinished(&mut self, why: GiveUp) -> Unfinished {
        let wants_source = why.is_for_want_of_a_source();
        let mut failure = |source: SourceId| self.failures.remove(&source.number());
        let error = match why {
            GiveUp::NoSource => Error::NoSource(self.request.hash),
            GiveUp::NoneAnswered(sources) => {
                Error::NoneAnswers(sources.into_iter().filter_map(failure).collect())
            }
            GiveUp::NoMore => FetchError::NoMore.into(),
            GiveUp::Failed(source, _) => failure(source).unwrap_or(FetchError::NoMore.into()),
        };
        match wants_source {
            true => Unfinished::NoSource(error, self.fetch.source_ids().collect()),
            false => Unfinished::Failed(error),
        }
    }
}

/// Waits for the next answer to the search that is under way; for ever if none is.
async fn next(answers: &mut Option<mpsc::Receiver<Answer>>) -> Option<Answer> {
    match answers {
        Some(answers) => answers.recv().await,
        None => std::future::pending().await,
    }
}

/// Puts what was fetched in its place.
async fn place(
    target: Arc<Target>,
    partial: Arc<Partial>,
    overwrite: bool,
) -> Result<PathBuf, FetchError> {
    let placing = blocking::run(move || target.place(overwrite, &partial));
    placing.await.ok_or(FetchError::Stopped)?
}

/// Returns what the failure of a source means for the fetch.
fn fault(error: &Error) -> Fault {
    match error {
        Error::Fetch(error) if error.is_lie() => Fault::Lie,
        Error::Fetch(error) if error.is_changed() => Fault::Changed,
        Error::Fetch(
            FetchError::Stalled
            | FetchError::Stream(_)
            | FetchError::Refused(Refusal::NotFound | Refusal::Busy)
            | FetchError::Stopped,
        )
        | Error::StreamRefused { .. } => Fault::Lost,
        Error::Fetch(error) if !error.is_worth_another() => Fault::Ours,
        // A node that many call at the same time hangs up on some of them.
        Error::Handshake { .. } | Error::StreamBroken { .. } | Error::Timeout(_) => Fault::HungUp,
        Error::Resolve { .. }
        | Error::Connect { .. }
        | Error::NoneAnswers(_)
        | Error::WrongNode { .. }
        | Error::Unreachable { .. } => Fault::Unreachable,
        _ => Fault::Refused,
    }
}
