//! Drives the state machine of one fetch, and moves the finished content to its path.
//!
//! [`Fetch`] decides which sources are dialled, what is requested of each, and when the fetch is given up. Each
//! source has a [`SourceTask`], which gets its orders through one channel. All source tasks and the
//! [`PieceWriter`] report through another one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::event::Event;
use peerkit_proto::files::fetch::{
    Ban, Fault, Fetch, GiveUp, Input, LINGER, Options, Output, SourceCandidate, SourceId,
};
use peerkit_proto::files::{Access, AccessKind, Description, PieceSet};
use peerkit_proto::frame::query::{AnswerBody, QueryAnswer, QueryKind};
use peerkit_proto::id::NodeId;
use peerkit_proto::peer::ConnectionId;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::disk_check::DiskCheck;
use super::download::{Dropped, Fetched};
use super::error::FetchError;
use super::fetch_request::FetchRequest;
use super::prove::Proven;
use super::source::{FetchContext, SourceOrder, SourceReport, SourceTask};
use super::status::SharedStatus;
use super::target::DownloadTarget;
use super::writer::PieceWriter;
use crate::blocking;
use crate::error::Error;
use crate::inner::Inner;
use crate::transfer::meter::TransferMeter;
use crate::transfer::partial::{Partial, PartialGuard};

/// Maximum number of reports that wait for the driver. Most are about one or two pieces that were written.
const MAX_REPORTS: usize = 64;

/// Maximum number of orders that wait for a source's task. 65,536: twice the number of pieces that all
/// sources together can owe, if each piece is requested on its own. A task with more orders is stuck.
const MAX_ORDERS: usize = 65_536;

/// Maximum time for which a complete fetch waits until its sources have ended their streams. 1 s: a slow
/// source ends its stream only after the piece that it is sending.
const GOODBYE: Duration = Duration::from_secs(1);

/// Interval at which the shown rate is updated while no pieces come.
const TICK: Duration = Duration::from_secs(1);

/// Drives one fetch from its beginning to its end.
pub(super) struct FetchDriver<'a> {
    inner: &'a Arc<Inner>,
    status: &'a SharedStatus,
    is_patient: bool,
    fetch: Fetch,
    context: Arc<FetchContext>,
    checking: DiskCheck,
    reports: mpsc::Receiver<SourceReport>,
    tasks: JoinSet<()>,
    sources: BTreeMap<SourceId, SourceHandle>,
    /// The answers to the search that is under way.
    answers: Option<mpsc::Receiver<QueryAnswer>>,
    /// The links when the last search began, or when the fetch last learned of a new link.
    links: BTreeSet<ConnectionId>,
    /// The description that a source has just proven.
    proven: Option<Box<Proven>>,
    opened: Option<OpenedContent>,
    meter: TransferMeter,
    /// The sources that sent pieces.
    senders: BTreeSet<NodeId>,
    dropped: Vec<Dropped>,
    /// The last failure of each source, by its number.
    failures: BTreeMap<usize, Error>,
}

/// The task of a source.
struct SourceHandle {
    orders: mpsc::Sender<SourceOrder>,
    abort: AbortHandle,
}

/// The content on the disk. Its pieces are served to other nodes.
struct OpenedContent {
    target: Arc<DownloadTarget>,
    served: PartialGuard,
}

/// The reason why a fetch has ended without the content.
#[derive(Debug)]
pub(super) enum Unfinished {
    /// No node that has the missing pieces could be reached. Contains the error and the identities of the
    /// known sources.
    NoSource(Error, Vec<NodeId>),
    /// It has failed, or was stopped.
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Unfinished {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl<'a> FetchDriver<'a> {
    /// Prepares a fetch. If `is_patient` is true, the fetch waits for its first source as long as for later
    /// ones. Otherwise it fails as soon as all nodes that were asked have answered and none has named a source.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub(super) fn new(
        inner: &'a Arc<Inner>,
        request: &FetchRequest,
        status: &'a SharedStatus,
        is_patient: bool,
    ) -> Result<Self, Error> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let options = Options {
            own: inner.profile.id,
            from: request.from.clone(),
            ask_network: request.ask_network,
            is_patient,
            patience: inner.config.download_patience,
        };
        let (sender, reports) = mpsc::channel(MAX_REPORTS);
        let writer = Arc::new(PieceWriter::new(sender.clone()));
        let context = FetchContext { request: request.clone(), writer, reports: sender };
        Ok(Self {
            inner,
            status,
            is_patient,
            fetch: Fetch::new(inner.clock.now(), options, seed),
            context: Arc::new(context),
            checking: DiskCheck::new(status.clone()),
            reports,
            tasks: JoinSet::new(),
            sources: BTreeMap::new(),
            answers: None,
            links: BTreeSet::new(),
            proven: None,
            opened: None,
            meter: TransferMeter::new(),
            senders: BTreeSet::new(),
            dropped: Vec::new(),
            failures: BTreeMap::new(),
        })
    }

    /// Fetches the content and moves it to its path. Tries again without a delay whenever `resumed` is
    /// notified. Ends when `stop` is cancelled; pieces that were verified by then stay on disk.
    pub(super) async fn run(
        mut self,
        stop: &CancellationToken,
        resumed: &Notify,
    ) -> Result<Fetched, Unfinished> {
        let started = std::time::Instant::now();
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => Err(Error::Stopped.into()),
            outcome = self.fetch_pieces(resumed) => outcome,
        };
        // The check runs on a blocking thread, which does not end with this task.
        self.checking.stop();
        let mut placed = Err(FetchError::Unfinished);
        if let (Ok(()), Some(OpenedContent { target, served })) = (&outcome, &self.opened) {
            // Everything is written. Moving it to its path and ending the streams do not wait for each other.
            let overwrite = self.context.request.overwrite;
            let placing = place(Arc::clone(target), Arc::clone(served.partial()), overwrite);
            ((), placed) = tokio::join!(self.say_goodbye(), placing);
        }
        self.tasks.shutdown().await;
        // Batches that are being written are finished before the part is closed. Their threads must not wait
        // for reports to be read.
        self.reports.close();
        while self.reports.try_recv().is_ok() {}
        self.context.writer.finished().await;
        outcome?;
        let opened = self.opened.take().ok_or(FetchError::Unfinished)?;
        Ok(self.finish(placed?, opened, started))
    }

    /// Waits at most [`GOODBYE`] until the sources have ended their streams. They know that the fetch is
    /// complete.
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
                // Reports are read, so that no task waits to send one.
                Some(_) = self.reports.recv() => {}
            }
        }
    }

    fn finish(self, path: PathBuf, opened: OpenedContent, started: std::time::Instant) -> Fetched {
        let OpenedContent { target, served } = opened;
        let (renamed, left_out) = target.changes(&path);
        // From now on users may change the content.
        served.partial().verify_from_now_on();
        // Followers may still want pieces that only this node has.
        self.inner.tasks.spawn(async move {
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
    async fn fetch_pieces(&mut self, resumed: &Notify) -> Result<(), Unfinished> {
        while !self.carry_out().await? {
            self.show();
            let due = self.fetch.poll_timeout().map(|at| self.inner.clock.at(at));
            let tick = Instant::now() + TICK;
            tokio::select! {
                biased;
                // Reports come first, so that the pieces of a source count before its end.
                report = self.reports.recv() => match report {
                    Some(report) => self.handle_report(report),
                    None => return Err(FetchError::Stopped.into()),
                },
                Some(ended) = self.tasks.join_next_with_id() => {
                    if let Err(failed) = ended {
                        self.task_panicked(failed.id());
                    }
                }
                answer = next_answer(&mut self.answers) => match answer {
                    Some(answer) if matches!(answer.body, AnswerBody::Files(_)) => {
                        let id = Some(answer.node);
                        let addresses = answer.addresses;
                        self.input(Input::Found(SourceCandidate { id, addresses }));
                    }
                    Some(_) => {}
                    None => {
                        self.answers = None;
                        self.input(Input::Searched);
                    }
                },
                () = self.inner.links.wait_for_new(&self.links), if self.fetch.wants_link() => {
                    self.links = self.inner.links.connections();
                    self.input(Input::Linked);
                }
                () = resumed.notified() => self.input(Input::Resume),
                () = sleep_until(due.map_or(tick, |due| due.min(tick))) => {
                    self.meter.fade();
                    self.status.show_rate(&self.meter);
                    self.input(Input::Timeout);
                }
            }
        }
        Ok(())
    }

    fn input(&mut self, input: Input) {
        self.fetch.handle(self.inner.clock.now(), input);
    }

    /// Carries out the decisions of the fetch. Returns whether every piece is written.
    async fn carry_out(&mut self) -> Result<bool, Unfinished> {
        while let Some(output) = self.fetch.poll() {
            match output {
                Output::Search => {
                    self.links = self.inner.links.connections();
                    let what = QueryKind::HasFile(self.context.request.hash);
                    self.answers = Some(self.inner.query_files(what).await?);
                }
                Output::Dial(source, candidate) => self.dial(source, candidate),
                Output::Prove { source, with_size } => {
                    self.order(source, SourceOrder::Prove { with_size });
                }
                Output::Open(source) => self.open(source).await?,
                Output::Follow(source) => {
                    if let Some(opened) = &self.opened {
                        self.order(source, SourceOrder::Follow(Arc::clone(&opened.target)));
                    }
                }
                Output::Request { source, first, count } => {
                    self.order(source, SourceOrder::Request { first, count });
                }
                Output::Cancel(source) => self.order(source, SourceOrder::Cancel),
                Output::Complete(source) => self.order(source, SourceOrder::Complete),
                Output::HangUp(source) => {
                    if let Some(handle) = self.sources.remove(&source) {
                        handle.abort.abort();
                    }
                }
                Output::ReportBan { source, id, why } => self.drop_source(source, id, why),
                Output::Reset => self.reset().await,
                Output::Done => return Ok(true),
                Output::GiveUp(why) => return Err(self.unfinished(why)),
            }
        }
        // If the fetch has not ordered `Open` by now, it does not need the proof.
        self.proven = None;
        Ok(false)
    }

    fn show(&self) {
        self.status.show_sources(self.fetch.ready_sources());
        if self.is_patient {
            self.status.show_search(self.fetch.is_trying());
        }
    }

    fn dial(&mut self, source: SourceId, candidate: SourceCandidate) {
        let (sender, orders) = mpsc::channel(MAX_ORDERS);
        let (inner, context) = (Arc::clone(self.inner), Arc::clone(&self.context));
        let task = SourceTask { inner, context, source, orders };
        // Once the content is known, the source need not send the piece list.
        let abort = self.tasks.spawn(task.run(candidate, self.opened.is_none()));
        self.sources.insert(source, SourceHandle { orders: sender, abort });
    }

    fn order(&mut self, source: SourceId, order: SourceOrder) {
        let Some(handle) = self.sources.get(&source) else { return };
        // A task that has just ended has reported why, or is found to have panicked.
        if let Err(TrySendError::Full(_)) = handle.orders.try_send(order) {
            self.source_failed(source, FetchError::Stalled.into());
        }
    }

    fn task_panicked(&mut self, task: Id) {
        let mut sources = self.sources.iter();
        let source = sources.find(|(_, handle)| handle.abort.id() == task);
        if let Some(source) = source.map(|(source, _)| *source) {
            self.source_failed(source, FetchError::Stopped.into());
        }
    }

    fn handle_report(&mut self, report: SourceReport) {
        match report {
            SourceReport::Input(Input::Stored { source, pieces }) => {
                self.note_stored(source, pieces);
            }
            SourceReport::Input(input) => self.input(input),
            SourceReport::Proven(source, proven) => {
                self.proven = Some(proven);
                self.input(Input::Proven(source));
            }
            SourceReport::Failed(source, error) => self.source_failed(source, error),
        }
    }

    fn note_stored(&mut self, source: SourceId, pieces: Vec<u64>) {
        let (Some(opened), Some(held)) = (&self.opened, self.fetch.held()) else { return };
        self.senders.extend(self.fetch.id_of(source));
        // Near the end two sources may have sent the same piece.
        let is_new = |piece: &u64| !held.contains(*piece);
        let new: BTreeSet<u64> = pieces.iter().copied().filter(is_new).collect();
        // Consecutive pieces are reported to followers together.
        let partial = opened.served.partial();
        let mut added = 0..0;
        for piece in new {
            let position = opened.target.layout.position(piece);
            self.meter.add(position.map_or(0, |position| position.len()));
            if added.end != piece {
                partial.add(added.clone());
                added.start = piece;
            }
            added.end = piece.saturating_add(1);
        }
        partial.add(added);
        self.input(Input::Stored { source, pieces });
        self.status.show_progress(&self.meter);
    }

    fn source_failed(&mut self, source: SourceId, error: Error) {
        let error = match (error, &self.opened) {
            (Error::Fetch(error), Some(opened)) => {
                error.with_name_if_changed(|| opened.target.description.name.to_string()).into()
            }
            (error, _) => error,
        };
        tracing::debug!(source = ?self.fetch.id_of(source), %error, "a source was lost");
        let fault = fault_of(&error);
        self.failures.insert(source.number(), error);
        self.input(Input::Failed { source, fault });
    }

    /// Opens the proven content on the disk, and checks which pieces are there.
    async fn open(&mut self, source: SourceId) -> Result<(), Unfinished> {
        let proven = self.proven.take().ok_or(FetchError::Unfinished)?;
        tracing::debug!(source = ?self.fetch.id_of(source), "a source has proven its description");
        let (context, checking) = (Arc::clone(&self.context), self.checking.clone());
        let Description { name, kind, access, .. } = &proven.description;
        let name = context.request.name.as_ref().unwrap_or(name);
        self.status.show_name(Some(name.clone()), Some(*kind));
        let access = self.access(*access);
        let permit = self.context.writer.permit().await;
        let opening = blocking::run(move || {
            let (target, held) = DownloadTarget::open(&context.request, *proven, &checking)?;
            let partial = target.partial(access, &held)?;
            // The permit is last in the tuple: if the driver is gone, the part is closed before the permit is
            // given back.
            Ok::<_, FetchError>((Arc::new(target), held, partial, permit))
        });
        let (target, held, partial, _) = opening.await.ok_or(FetchError::Stopped)??;
        self.begin_pieces(target, held, partial);
        Ok(())
    }

    /// Returns the nodes that the content may be served to.
    fn access(&self, kind: AccessKind) -> Access {
        match (kind, self.context.request.secret) {
            (AccessKind::Open, _) => Access::Open,
            (AccessKind::Ticket, Some(secret)) => Access::Ticket(secret),
            // Only the source knows the other nodes that the content is for.
            (AccessKind::Nodes | AccessKind::Ticket, _) => Access::Nodes(Vec::new()),
        }
    }

    /// Begins to fetch pieces, once the content is open and the pieces on the disk are known.
    fn begin_pieces(&mut self, target: Arc<DownloadTarget>, held: PieceSet, partial: Partial) {
        let layout = Arc::clone(&target.layout);
        let len = |piece| layout.position(piece).map_or(0, |position| position.len());
        let here = held.pieces().map(len).fold(0, u64::saturating_add);
        self.meter.start(here, target.total);
        self.status.show_fetch(&target.path, &self.meter);
        // Pieces of files that are left out count as held, so that they are not requested.
        let mut settled = held;
        target.left_out().for_each(|piece| _ = settled.insert(piece));
        self.opened =
            Some(OpenedContent { target, served: self.inner.files.partials.serve(partial) });
        self.input(Input::Opened { layout, held: settled });
    }

    /// Closes the target, once all pieces that have arrived are written.
    async fn reset(&mut self) {
        let context = Arc::clone(&self.context);
        // Batches of sources that are gone may still be written, and their threads wait until their reports
        // are read.
        let mut written = std::pin::pin!(context.writer.finished());
        loop {
            tokio::select! {
                () = &mut written => break,
                _ = self.reports.recv() => {}
            }
        }
        while self.reports.try_recv().is_ok() {}
        self.opened = None;
    }

    fn drop_source(&mut self, source: SourceId, id: NodeId, why: Ban) {
        let why = match (why, self.failures.get(&source.number())) {
            (Ban::Lie, Some(error)) => error.to_string(),
            (why, _) => why.to_string(),
        };
        tracing::info!(source = %id, %why, "a source was dropped");
        self.dropped.push(Dropped { id, why: why.clone() });
        let hash = self.context.request.hash;
        self.inner.dispatch.queue_notice(Event::NodeSourceDropped { hash, source: id, why });
    }

    /// Returns the error of a fetch that is given up.
    fn unfinished(&mut self, why: GiveUp) -> Unfinished {
        let wants_source = why.may_succeed_later();
        let mut failure = |source: SourceId| self.failures.remove(&source.number());
        let error = match why {
            GiveUp::NoSource => Error::NoSource(self.context.request.hash),
            GiveUp::NoneAnswered(sources) => {
                Error::NoneAnswered(sources.into_iter().filter_map(failure).collect())
            }
            GiveUp::NoMore => FetchError::NoMore.into(),
            GiveUp::Failed(source, _) => failure(source).unwrap_or(FetchError::NoMore.into()),
        };
        if wants_source {
            Unfinished::NoSource(error, self.fetch.source_ids().collect())
        } else {
            Unfinished::Failed(error)
        }
    }
}

/// Waits for the next answer to the search that is under way. Without a search it waits for ever.
async fn next_answer(answers: &mut Option<mpsc::Receiver<QueryAnswer>>) -> Option<QueryAnswer> {
    match answers {
        Some(answers) => answers.recv().await,
        None => std::future::pending().await,
    }
}

/// Moves the finished download to its path.
async fn place(
    target: Arc<DownloadTarget>,
    partial: Arc<Partial>,
    overwrite: bool,
) -> Result<PathBuf, FetchError> {
    let placing = blocking::run(move || target.place(overwrite, &partial));
    placing.await.ok_or(FetchError::Stopped)?
}

/// Returns what the failure of a source means for the fetch.
fn fault_of(error: &Error) -> Fault {
    match error {
        Error::Fetch(error) => error.fault(),
        Error::StreamRefused { .. } => Fault::Lost,
        // A node that many nodes dial at the same time closes some of the connections.
        Error::Handshake { .. } | Error::StreamBroken { .. } | Error::Timeout(_) => Fault::HungUp,
        Error::Resolve { .. }
        | Error::Connect { .. }
        | Error::NoneAnswered(_)
        | Error::WrongNode { .. }
        | Error::Unreachable { .. } => Fault::Unreachable,
        _ => Fault::Refused,
    }
}
