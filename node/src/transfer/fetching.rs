//! One fetch: finds sources, gives each something to do, and puts the whole in its place.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use peerkit_proto::event::Event;
use peerkit_proto::files::fetch::schedule::{Input, Output, Schedule as Fetch};
use peerkit_proto::files::{Access, AccessKind, PieceSet};
use peerkit_proto::id::NodeId;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::fetch_request::{Candidate, FetchRequest};
use super::job::Job;
use super::news::{News, Task};
use super::partial::{Partial, PartialGuard};
use super::prove::Proven;
use super::seeking::{Found, seek};
use super::source::{attend, pause};
use super::status::{Meter, Shown};
use super::target::Target;
use super::{Dropped, FetchError, Fetched, STALL};
use crate::blocking;
use crate::error::Error;
use crate::inner::Inner;

/// Sources worked on at once. 16: more do not make a fetch faster, and each is a connection.
const MAX_SOURCES: usize = 16;

/// Sources that are dialled, and asked what they have, at once. 4: where many fetch the same from
/// each other they would all be dialling all.
const BEGINNING: usize = 4;

/// Sources known of: who tells of more is not heard.
const MAX_CANDIDATES: usize = 256;

/// News of sources that wait. Each is a piece or two that were written.
const NEWS: usize = 64;

/// How often a source that hangs up in the midst of the handshake is tried before anything came.
const TRIES: u32 = 5;

/// Longest time that the sources may take to end their streams after they were told that all is
/// here. 1 s: a source that sends slowly ends its stream after the piece that is on its way.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long what was fetched is served on from memory of it, for those who were following.
const LINGER: Duration = Duration::from_secs(60);

/// Somebody who may have it.
struct Known {
    candidate: Candidate,
    state: State,
    tries: u32,
}

enum State {
    /// Not tried yet, or to be tried again from then on.
    Waiting(Instant),
    Running(Running),
    /// Not to be asked again.
    Gone,
}

struct Running {
    /// Two runs and that they are cancelled: the fetch asks for no more at once.
    tasks: mpsc::UnboundedSender<Task>,
    abort: AbortHandle,
    /// It can be asked.
    is_up: bool,
}

/// One fetch, from its beginning to its end.
pub(super) struct Fetching<'a> {
    inner: &'a Arc<Inner>,
    get: &'a FetchRequest,
    shown: &'a Shown,
    /// It was begun before, and waits for a source also while it has none yet.
    is_patient: bool,
    job: Arc<Job>,
    target: watch::Sender<Option<Arc<Target>>>,
    news: mpsc::Receiver<News>,
    known: Vec<Known>,
    running: JoinSet<Error>,
    fetch: Option<Fetch>,
    /// Who proved what is fetched.
    settled_by: Option<usize>,
    served: Option<PartialGuard>,
    meter: Meter,
    /// Who sent pieces.
    sources: BTreeSet<NodeId>,
    dropped: Vec<Dropped>,
    /// What went wrong last.
    failure: Option<Error>,
    /// When a piece came last.
    useful: Instant,
    is_done: bool,
    /// There is room for another source.
    has_room: bool,
    /// There is a source that can be asked.
    is_fed: Arc<AtomicBool>,
}

impl<'a> Fetching<'a> {
    /// A fetch that `is_patient` waits for its first source as long as for any other; else it fails
    /// as soon as all nodes that could be asked have answered.
    pub(super) fn new(
        inner: &'a Arc<Inner>,
        get: &'a FetchRequest,
        shown: &'a Shown,
        is_patient: bool,
    ) -> Self {
        let (target, known_target) = watch::channel(None);
        let (news_sender, news) = mpsc::channel(NEWS);
        let job = Arc::new(Job::new(get, known_target, news_sender, shown.clone()));
        let mut fetching = Self {
            inner,
            get,
            shown,
            is_patient,
            job,
            target,
            news,
            known: Vec::new(),
            running: JoinSet::new(),
            fetch: None,
            settled_by: None,
            served: None,
            meter: Meter::new(),
            sources: BTreeSet::new(),
            dropped: Vec::new(),
            failure: None,
            useful: Instant::now(),
            is_done: false,
            has_room: true,
            is_fed: Arc::default(),
        };
        for candidate in &get.from {
            fetching.add(candidate.clone());
        }
        fetching
    }

    /// Fetches it all.
    ///
    /// Ends once `stop` is cancelled; what was verified by then stays on disk. Adds the nodes that it
    /// took for sources to `sources`.
    pub(super) async fn run(
        mut self,
        stop: &CancellationToken,
        sources: &mut Vec<NodeId>,
    ) -> Result<Fetched, Error> {
        let started = std::time::Instant::now();
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => Err(Error::Stopped),
            outcome = self.gather() => outcome,
        };
        sources.extend(self.known.iter().filter_map(|known| known.candidate.id));
        self.job.checking.stop();
        let mut placed = None;
        if let (Ok(()), Some(guard)) = (&outcome, &self.served) {
            // All of it is written. That it gets its name and the goodbyes do not wait for each other.
            let (target, partial) = (self.target.borrow().clone(), Arc::clone(guard.partial()));
            let placing = place(target, partial, self.get.overwrite);
            let ((), outcome) = tokio::join!(self.say_goodbye(), placing);
            placed = Some(outcome);
        }
        self.running.shutdown().await;
        // What is being written is written, whoever sent it.
        self.news.close();
        while self.news.try_recv().is_ok() {}
        self.job.keeping.done().await;
        let target = self.target.borrow().clone();
        match (outcome, target) {
            (Ok(()), Some(target)) => {
                let path = placed.unwrap_or(Err(FetchError::Unfinished))?;
                self.finish(path, &target, started)
            }
            (Ok(()), None) => Err(FetchError::Unfinished.into()),
            (Err(error), _) => Err(error),
        }
    }

    /// Tells the sources that all is here, and waits a moment until they have ended their streams.
    async fn say_goodbye(&mut self) {
        for (source, known) in self.known.iter().enumerate() {
            let State::Running(running) = &known.state else { continue };
            // Who proved what is fetched may not have said yet that it can be asked.
            match running.is_up || self.settled_by == Some(source) {
                true => drop(running.tasks.send(Task::Complete)),
                false => running.abort.abort(),
            }
        }
        let mut late = std::pin::pin!(tokio::time::sleep(GOODBYE));
        loop {
            tokio::select! {
                biased;
                () = &mut late => return,
                ended = self.running.join_next() => match ended {
                    Some(_) => {}
                    None => return,
                },
                // They must not wait for somebody who listens.
                Some(_) = self.news.recv() => {}
            }
        }
    }

    fn finish(
        mut self,
        path: PathBuf,
        target: &Target,
        started: std::time::Instant,
    ) -> Result<Fetched, Error> {
        let guard = self.served.take().ok_or(FetchError::Unfinished)?;
        let (renamed, left_out) = target.changes(&path);
        // It is the user's now, who may change it.
        guard.partial().check_from_now_on();
        // Those who follow may still want what only we have.
        self.inner.spawn(async move {
            tokio::time::sleep(LINGER).await;
            drop(guard);
        });
        Ok(Fetched {
            path,
            kind: target.description.kind,
            bytes: target.total,
            seconds: started.elapsed().as_secs_f64(),
            sources: self.sources.into_iter().collect(),
            dropped: self.dropped,
            renamed,
            left_out,
        })
    }

    async fn gather(&mut self) -> Result<(), Error> {
        let (found, mut finding) = mpsc::channel(MAX_SOURCES);
        let is_fed = Arc::clone(&self.is_fed);
        let seeking = seek(self.inner, self.get.hash, found, &is_fed);
        let mut seeking = std::pin::pin!(seeking);
        let mut seeks = self.get.ask_network;
        // Whether everybody who has it had the time to say so.
        let mut is_asked = !seeks;
        loop {
            self.start_some();
            self.obey();
            if self.is_done {
                return Ok(());
            }
            self.give_up(is_asked)?;
            let wake = self.wake();
            tokio::select! {
                biased;
                news = self.news.recv() => {
                    let Some(news) = news else { return Err(FetchError::Stopped.into()) };
                    self.hear(news).await?;
                }
                Some(ended) = self.running.join_next_with_id() => match ended {
                    Ok((task, error)) => self.ended(task, error),
                    Err(failed) => self.ended(failed.id(), FetchError::Stopped.into()),
                },
                found = finding.recv(), if seeks => match found {
                    Some(Found::Source(id, addresses)) => {
                        self.add(Candidate { id: Some(id), addresses });
                    }
                    Some(Found::Asked) => is_asked = true,
                    None => {}
                },
                error = &mut seeking, if seeks => {
                    (seeks, is_asked) = (false, true);
                    self.failure.get_or_insert(error);
                }
                () = sleep_until(wake) => {
                    self.meter.fade();
                    self.shown.rate(&self.meter);
                    if let Some(fetch) = &mut self.fetch {
                        fetch.handle_timeout(self.inner.now());
                    }
                }
            }
        }
    }

    /// When something is due although nothing happens.
    fn wake(&self) -> Instant {
        let waiting = self.known.iter().filter_map(|known| match known.state {
            // Where there is no room for another it is the end of one that is waited for.
            State::Waiting(until) if self.has_room => Some(until),
            _ => None,
        });
        let review = self.fetch.as_ref().and_then(Fetch::poll_timeout);
        let review = review.map(|at| self.inner.clock(at));
        let soon = Instant::now() + Duration::from_secs(1);
        waiting.chain(review).chain([soon]).min().unwrap_or(soon)
    }

    /// Fails if no source is left that could go on with it, and waiting for one makes no sense.
    fn give_up(&mut self, is_asked: bool) -> Result<(), Error> {
        let begun = self.target.borrow().is_some();
        let waits = begun || self.is_patient;
        let over = match waits {
            true => {
                let patience = self.inner.config.download_patience;
                // A question or a dial that is under way may bring the source, however short the
                // patience is. Sources that are dialled again and again must not prolong it for ever.
                let is_pending = !is_asked || self.known.iter().any(Known::is_beginning);
                let patience = if is_pending { patience.saturating_add(STALL) } else { patience };
                // A source that owes something is given up by limits of its own.
                let is_owed = self.fetch.as_ref().is_some_and(Fetch::is_waiting);
                !is_owed && self.useful.elapsed() >= patience
            }
            false => {
                let pending =
                    |known: &Known| matches!(known.state, State::Running(_) | State::Waiting(_));
                is_asked && !self.known.iter().any(pending)
            }
        };
        let hopeless =
            is_asked && self.known.iter().all(|known| matches!(known.state, State::Gone));
        if over || (waits && hopeless && !self.known.is_empty()) {
            let none = || match begun {
                true => FetchError::NoMore.into(),
                false => Error::NoSource(self.get.hash),
            };
            return Err(self.failure.take().unwrap_or_else(none));
        }
        Ok(())
    }

    /// Somebody else who may have it.
    fn add(&mut self, candidate: Candidate) {
        if candidate.id == Some(self.inner.id) || self.known.len() >= MAX_CANDIDATES {
            return;
        }
        let now = Instant::now();
        match self.known.iter_mut().find(|known| candidate.is_same(&known.candidate)) {
            None => {
                self.known.push(Known { candidate, state: State::Waiting(now), tries: 0 });
            }
            Some(known) => {
                for address in candidate.addresses {
                    if !known.candidate.addresses.contains(&address) {
                        known.candidate.addresses.insert(0, address);
                        known.candidate.addresses.truncate(Candidate::ADDRESSES);
                    }
                }
            }
        }
    }

    /// Works on as many sources as there is room for.
    fn start_some(&mut self) {
        let now = Instant::now();
        let running = self.known.iter().filter(|k| matches!(k.state, State::Running(_))).count();
        let up = self.known.iter().filter(|known| known.is_up()).count();
        let begins = running.saturating_sub(up);
        let mut room = MAX_SOURCES.saturating_sub(running).min(BEGINNING.saturating_sub(begins));
        for (source, known) in self.known.iter_mut().enumerate() {
            let due = matches!(known.state, State::Waiting(until) if until <= now);
            if !due || room == 0 {
                continue;
            }
            room -= 1;
            let (tasks, receiver) = mpsc::unbounded_channel();
            let (inner, job) = (Arc::clone(self.inner), Arc::clone(&self.job));
            let candidate = known.candidate.clone();
            let abort = self
                .running
                .spawn(async move { attend(&inner, &job, source, candidate, receiver).await });
            known.state = State::Running(Running { tasks, abort, is_up: false });
        }
        self.has_room = room > 0;
        self.shown.sources(up);
        self.is_fed.store(up > 0, Ordering::Relaxed);
        if self.is_patient {
            let is_running = |known: &Known| matches!(known.state, State::Running(_));
            self.shown.seeking(self.known.iter().any(is_running));
        }
    }

    async fn hear(&mut self, news: News) -> Result<(), Error> {
        let now = self.inner.now();
        match news {
            News::Met { source, id } => self.met(source, id),
            News::Proven { source, proven } if self.target.borrow().is_none() => {
                self.open(source, proven).await?;
            }
            News::Proven { .. } => {}
            News::Contradicted { source, proven } => self.start_over(source, proven).await?,
            News::Up { source } => {
                if let Some(Known { state: State::Running(running), tries, .. }) =
                    self.known.get_mut(source)
                {
                    (running.is_up, *tries) = (true, 0);
                }
                self.input(source, Input::Up);
            }
            News::Whole { source } => self.input(source, Input::Whole),
            News::Holds { source, first, bits } => {
                self.input(source, |id| Input::Holds(id, first, bits));
            }
            News::Sources(sources) => {
                for (id, addresses) in sources {
                    self.add(Candidate { id: Some(id), addresses });
                }
            }
            News::Kept { source, pieces } => {
                let Some((fetch, id)) = self.fetch.as_mut().zip(id_of(&self.known, source)) else {
                    return Ok(());
                };
                self.useful = Instant::now();
                self.sources.insert(id);
                let is_new = |piece: &u64| !fetch.held().contains(*piece);
                let new: BTreeSet<u64> = pieces.iter().copied().filter(is_new).collect();
                // Those that follow on each other are told together.
                let mut added = 0..0;
                for piece in new {
                    let place = fetch.layout().place(piece);
                    self.meter.add(place.map_or(0, |place| place.len()));
                    if added.end != piece {
                        self.served.iter().for_each(|served| served.partial().add(added.clone()));
                        added.start = piece;
                    }
                    added.end = piece.saturating_add(1);
                }
                self.served.iter().for_each(|served| served.partial().add(added.clone()));
                fetch.handle(now, Input::Arrived { from: id, pieces });
                self.shown.progress(&self.meter);
            }
            News::Failed { source, error } => {
                if !error.is_worth_another() {
                    return Err(error.into());
                }
                if let Some(Known { state: State::Running(running), .. }) = self.known.get(source) {
                    running.abort.abort();
                }
                self.lost(source, error.into());
            }
        }
        Ok(())
    }

    async fn open(&mut self, source: usize, proven: Box<Proven>) -> Result<(), Error> {
        let (hash, to, overwrite) = (self.get.hash, self.get.to.clone(), self.get.overwrite);
        let name = self.get.name.clone();
        self.shown.begin(&proven.description, name.as_ref());
        let checking = self.job.checking.clone();
        let busy = self.job.keeping.busy().await;
        let access = self.access(proven.description.access);
        let opening = blocking::run(move || {
            let (target, held) =
                Target::open(hash, *proven, name.as_ref(), (&to, overwrite), &checking)?;
            let partial = target.partial(access, &held)?;
            // Where nobody waits for this any more the part is let go of before that is seen.
            Ok::<_, FetchError>((Arc::new(target), held, partial, busy))
        });
        let (target, held, partial, _) = opening.await.ok_or(FetchError::Stopped)??;
        self.settled_by = Some(source);
        self.begin(target, held, partial)
    }

    /// Whom what is fetched may be served to.
    fn access(&self, kind: AccessKind) -> Access {
        match (kind, self.get.secret) {
            (AccessKind::Open, _) => Access::Open,
            (AccessKind::Ticket, Some(secret)) => Access::Ticket(secret),
            // Whom else it is for is not known.
            (AccessKind::Nodes | AccessKind::Ticket, _) => Access::Nodes(Vec::new()),
        }
    }

    /// Who settled what is fetched has lied about its size, as another has shown.
    async fn start_over(&mut self, source: usize, proven: Box<Proven>) -> Result<(), Error> {
        let liar = self.settled_by.take();
        for at in 0..self.known.len() {
            let Some(known) = self.known.get_mut(at) else { continue };
            if let State::Running(running) = &known.state {
                running.abort.abort();
                known.state = State::Waiting(Instant::now());
            }
            if Some(at) == liar {
                known.state = State::Gone;
                if let Some(id) = known.candidate.id {
                    self.drop_source(id, "its size is not that of the file".to_owned());
                }
            }
        }
        // What is still being written has its news to tell first; nobody wants them any more.
        let job = Arc::clone(&self.job);
        let mut written = std::pin::pin!(job.keeping.done());
        loop {
            tokio::select! {
                () = &mut written => break,
                _ = self.news.recv() => {}
            }
        }
        while self.news.try_recv().is_ok() {}
        (self.fetch, self.served) = (None, None);
        self.target.send_replace(None);
        self.open(source, proven).await
    }

    fn drop_source(&mut self, id: NodeId, why: String) {
        let (hash, source) = (self.get.hash, id);
        tracing::info!(%source, %why, "a source is not asked any more");
        self.dropped.push(Dropped { id, why: why.clone() });
        self.inner.dispatch.notice(Event::NodeSourceDropped { hash, source, why });
    }

    /// What is fetched is known, and what of it is here already.
    fn begin(
        &mut self,
        target: Arc<Target>,
        held: PieceSet,
        partial: Partial,
    ) -> Result<(), Error> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| Error::Setting(error.to_string()))?;
        let layout = Arc::clone(&target.layout);
        let place = |piece| layout.place(piece).map_or(0, |place| place.len());
        let here = held.pieces().map(place).fold(0, u64::saturating_add);
        self.served = Some(self.inner.partials.enter(partial));
        // Nothing is asked for that is not to be written.
        let mut settled = held;
        target.left_out().for_each(|piece| _ = settled.insert(piece));
        self.fetch = Some(Fetch::new(layout, settled, seed));
        self.meter.start(here, target.total);
        self.shown.fetching(&target, &self.meter);
        self.useful = Instant::now();
        self.target.send_replace(Some(target));
        Ok(())
    }

    /// A source has said who it is: two that are the same node are one.
    fn met(&mut self, source: usize, id: NodeId) {
        let twin = self.known.iter().enumerate().any(|(at, known)| {
            at != source && known.candidate.id == Some(id) && !matches!(known.state, State::Gone)
        });
        let Some(known) = self.known.get_mut(source) else { return };
        if (twin || id == self.inner.id)
            && let State::Running(running) = &known.state
        {
            running.abort.abort();
            known.state = State::Gone;
            return;
        }
        known.candidate.id = Some(id);
    }

    /// What a source has is heard as long as there is somebody to ask it.
    fn input(&mut self, source: usize, input: impl FnOnce(NodeId) -> Input) {
        let known = self.known.get(source);
        if !known.is_some_and(|known| matches!(known.state, State::Running(_))) {
            return;
        }
        if let Some((fetch, id)) = self.fetch.as_mut().zip(id_of(&self.known, source)) {
            fetch.handle(self.inner.now(), input(id));
        }
    }

    /// Does what the fetch wants done.
    fn obey(&mut self) {
        let Some(fetch) = &mut self.fetch else { return };
        while let Some(output) = fetch.poll() {
            let (id, task) = match output {
                Output::Ask { source, first, count } => (source, Task::Ask { first, count }),
                Output::Cancel(source) => (source, Task::Cancel),
                Output::Done => {
                    self.is_done = true;
                    continue;
                }
            };
            let mut known = self.known.iter().filter(|known| known.candidate.id == Some(id));
            if let Some(State::Running(running)) = known.next().map(|known| &known.state) {
                // Where it has just ended that is heard of soon.
                let _ = running.tasks.send(task);
            }
        }
    }

    /// A source has failed.
    fn lost(&mut self, source: usize, error: Error) {
        let id = id_of(&self.known, source);
        let begun = self.target.borrow().is_some();
        let Some(known) = self.known.get_mut(source) else { return };
        if !matches!(known.state, State::Running(_)) {
            return;
        }
        tracing::debug!(source = ?known.candidate.id, %error, "a source was lost");
        let is_lie = matches!(&error, Error::Fetch(error) if error.is_lie());
        known.tries = known.tries.saturating_add(1);
        // A node that many call at the same time hangs up on some: it was there.
        let is_crowded = matches!(
            error,
            Error::Handshake { .. } | Error::StreamBroken { .. } | Error::Timeout(_)
        );
        let waits = begun || self.is_patient;
        let is_over = !waits && (!is_crowded || known.tries >= TRIES);
        // It will not be again what it was: only another source can help.
        let is_changed = matches!(&error, Error::Fetch(error) if error.is_changed());
        known.state = match is_lie || is_over || is_changed {
            true => State::Gone,
            false => State::Waiting(Instant::now() + pause(known.tries)),
        };
        if let Some(id) = id {
            if let Some(fetch) = &mut self.fetch {
                fetch.handle(self.inner.now(), Input::Down(id));
            }
            if is_lie {
                self.drop_source(id, error.to_string());
            }
        }
        // That tells the user most, whatever else fails after it.
        let says_more = matches!(&self.failure, Some(Error::Fetch(error)) if error.is_changed());
        if is_changed || !says_more {
            self.failure = Some(error);
        }
    }

    /// The task of a source has ended. Of one that was aborted, and has another by now, it means
    /// nothing.
    fn ended(&mut self, task: Id, error: Error) {
        let source = self.known.iter().position(|known| match &known.state {
            State::Running(running) => running.abort.id() == task,
            _ => false,
        });
        if let Some(source) = source {
            self.lost(source, error);
        }
    }
}

impl Known {
    fn is_up(&self) -> bool {
        matches!(&self.state, State::Running(running) if running.is_up)
    }

    /// Returns whether it is being dialled, or asked what it has.
    fn is_beginning(&self) -> bool {
        matches!(&self.state, State::Running(running) if !running.is_up)
    }
}

impl Candidate {
    /// Addresses that are remembered of one.
    const ADDRESSES: usize = 8;

    /// Whether it is the same as `other`, as far as both are known.
    fn is_same(&self, other: &Self) -> bool {
        match (self.id, other.id) {
            (Some(a), Some(b)) => a == b,
            (None, None) => self.addresses == other.addresses,
            _ => false,
        }
    }
}

/// Puts what was fetched in its place.
async fn place(
    target: Option<Arc<Target>>,
    partial: Arc<Partial>,
    overwrite: bool,
) -> Result<PathBuf, FetchError> {
    let target = target.ok_or(FetchError::Unfinished)?;
    let placing = blocking::run(move || target.place(overwrite, &partial));
    placing.await.ok_or(FetchError::Stopped)?
}

fn id_of(known: &[Known], source: usize) -> Option<NodeId> {
    known.get(source).and_then(|known| known.candidate.id)
}
