//! Messages to the whole network: signed by their author, delivered once by everyone and in each
//! author's order, passed on along a tree, and kept for those who missed them.
//!
//! After Plumtree (J. Leitão, J. Pereira, L. Rodrigues: Epidemic Broadcast Trees, 2007), with a tree
//! for each author, as the fastest way from one is not that from another. A node passes on what is
//! new to every link but those that have told it not to (*eager push*), because they have it from
//! somebody else; these it tells how far it is (*lazy push*), a little later and all at once. Who
//! hears of something that does not come asks for it (the paper's *graft*), and gets what follows
//! from there on as well.
//!
//! An author counts its broadcasts. So how far somebody is is one number for each run of an author,
//! the same for what was announced, what is asked for and what two nodes tell each other when a
//! link comes up: catching up is no other thing than grafting. A node passes on in order only, so
//! that there is a gap only where it changes the link that it gets them by, or was cut off.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::Serialize;

use crate::config::Config;
use crate::deadlines::Deadlines;
use crate::event::{Broadcast, Event, Reason};
use crate::frame::Frame;
use crate::frame::broadcast::{Batch, Have, Item, MAX_HAVES, MAX_TITLE, RunId};
use crate::id::{Hash, Key, NodeId, PublicKey};
use crate::message::{Message, Packed};
use crate::overlay::{Effect, Identity, Turn};
use crate::peer::Output;
use crate::time::{Instant, earliest};
use crate::verify::Verifier;

mod author;
mod log;
mod missing;
mod run;
#[cfg(test)]
pub(crate) mod tests;

use author::Author;
use log::Log;
use run::Run;

/// What one [`Want`] is answered with at the most, in bytes: a quarter of a link's lane of control
/// frames, so that catching up ends no link. Who wants more asks again.
const MAX_GIVEN: usize = 256 << 10;

/// Bytes of batches that wait for what stands before them, over all runs.
const MAX_PENDING: usize = 8 << 20;

/// Broadcasts in them: a burst that the application's queue has room for.
const MAX_PENDING_COUNT: usize = 2048;

/// Runs that are known from what others say only. What is told beyond that is heard of again.
const MAX_HEARSAY: usize = 4096;

/// How long a link counts as new: what is told on it then is what was missed while it was not there,
/// and is asked for at once.
const NEW_LINK: Duration = Duration::from_secs(2);

/// How long somebody who was asked may take before another is: the second time twice as long, and
/// so on. 1 s: a round trip around the world and what is sent meanwhile.
const ANSWER: Duration = Duration::from_secs(1);

/// How long what came before its turn waits for what nobody has who was asked: somebody may come who
/// has it. 30 s: what a network that was split may take to be one again.
const GAP_PATIENCE: Duration = Duration::from_secs(30);

/// How often those who have something may be asked in vain before it is given up.
const MAX_TRIES: usize = 8;

/// How often what is old is forgotten.
const SWEEP: Duration = Duration::from_secs(60);

/// Why a broadcast could not be made. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// The content is over the limit.
    #[error("a broadcast of {len} bytes is over the limit of {limit}: share a file instead")]
    TooLarge {
        /// Bytes of the content.
        len: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The title is over the limit.
    #[error("a title of {0} bytes is over the limit of {MAX_TITLE}")]
    LongTitle(usize),
}

/// Numbers of broadcasts since the node started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct BroadcastCounters {
    /// Broadcasts of this node.
    pub sent: u64,
    /// Broadcasts of others that were handed to the application.
    pub received: u64,
    /// Broadcasts that arrived again after the first time.
    pub duplicates: u64,
    /// Broadcasts that no neighbour has any more.
    pub missed: u64,
    /// Broadcasts that were dropped because they are too old or from the future: they were replayed, or
    /// the clocks of this node and of their author are far apart.
    pub untimely: u64,
}

/// All that a node knows of broadcasts.
#[derive(Debug)]
pub(super) struct Broadcasts {
    me: NodeId,
    key: Key,
    network: String,
    verifier: Verifier,
    max_content: usize,
    max_runs: usize,
    graft_after: Duration,
    have_delay: Duration,
    /// How old a broadcast may be, and how far in the future, in milliseconds.
    max_age: u64,
    max_ahead: u64,
    /// How long a run is remembered of which nothing comes: until nothing of it can be replayed.
    memory: Duration,
    own: RunId,
    author: Author,
    log: Log,
    runs: BTreeMap<RunId, Run>,
    /// When something is to be done about what is missing.
    due: Deadlines<RunId>,
    /// Links that are to be told how far we are, and when.
    behind: BTreeMap<NodeId, BTreeSet<RunId>>,
    tell_at: Option<Instant>,
    /// Links that came up a moment ago.
    new: VecDeque<(Instant, NodeId)>,
    pending: Pending,
    hearsay: usize,
    sweep_at: Option<Instant>,
    counters: BroadcastCounters,
}

/// What waits for what stands before it, over all runs.
#[derive(Debug, Default)]
struct Pending {
    bytes: usize,
    count: usize,
}

impl Pending {
    /// Counts a batch, if there is room for it.
    fn add(&mut self, batch: &Batch) -> bool {
        let (bytes, count) = (self.bytes + batch.body().len(), self.count + batch.items.len());
        let room = bytes <= MAX_PENDING && count <= MAX_PENDING_COUNT;
        if room {
            *self = Self { bytes, count };
        }
        room
    }

    fn remove(&mut self, batch: &Batch) {
        self.bytes -= batch.body().len();
        self.count -= batch.items.len();
    }
}

impl Broadcasts {
    pub(super) fn new(identity: &Identity, config: &Config) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let me = identity.key.id();
        Self {
            me,
            key: identity.key.clone(),
            network: identity.network.clone(),
            verifier: Verifier::default(),
            max_content: config.max_broadcast,
            max_runs: config.broadcast_runs,
            graft_after: config.graft_after,
            have_delay: config.have_delay,
            max_age: millis(config.log_age).saturating_add(millis(config.clock_skew)),
            max_ahead: millis(config.clock_skew),
            memory: config.log_age + 2 * config.clock_skew,
            own: RunId { author: me, epoch: identity.epoch },
            author: Author::new(config),
            log: Log::new(config),
            runs: BTreeMap::new(),
            due: Deadlines::default(),
            behind: BTreeMap::new(),
            tell_at: None,
            new: VecDeque::new(),
            pending: Pending::default(),
            hearsay: 0,
            sweep_at: None,
            counters: BroadcastCounters::default(),
        }
    }

    pub(super) fn verify_with(&mut self, verifier: Verifier) {
        self.verifier = verifier;
    }

    pub(super) fn counters(&self) -> BroadcastCounters {
        self.counters
    }

    /// Makes a broadcast of our own; it goes out now, or with others in a moment.
    pub(super) fn publish(
        &mut self,
        turn: &mut Turn<'_>,
        title: String,
        message: Message,
    ) -> Result<Hash, BroadcastError> {
        let (len, limit) = (message.body().len(), self.max_content);
        if len > limit {
            return Err(BroadcastError::TooLarge { len, limit });
        }
        if title.len() > MAX_TITLE {
            return Err(BroadcastError::LongTitle(title.len()));
        }
        let item = Item { time: turn.unix, title, content: Packed::plain(message) };
        if self.author.is_full_for(&item) {
            self.flush(turn);
        }
        let id = item.id(&self.network, self.own, self.author.next());
        self.author.push(item);
        self.counters.sent += 1;
        self.flush_due(turn);
        Ok(id)
    }

    /// Signs what waits and sends it.
    pub(super) fn flush(&mut self, turn: &mut Turn<'_>) {
        let Some((first, items)) = self.author.take(turn.now) else { return };
        let floor = self.log.first_of(self.own).unwrap_or(first);
        let batch = Batch::sign(&self.key, &self.network, self.own.epoch, (first, floor), items);
        let run = self.runs.entry(self.own).or_insert_with(|| Run::new(1, turn.now));
        (run.verified, run.heard, run.next) = (true, turn.now, batch.last() + 1);
        self.push(turn, None, &batch);
        self.keep(turn, batch);
    }

    fn flush_due(&mut self, turn: &mut Turn<'_>) {
        if self.author.due().is_some_and(|due| due <= turn.now) {
            self.flush(turn);
        }
    }

    /// A link is up: the other side is told how far we are.
    pub(super) fn link_up(&mut self, turn: &mut Turn<'_>, id: NodeId) {
        self.new.push_back((turn.now + NEW_LINK, id));
        let summary = self.summary();
        for haves in summary.chunks(MAX_HAVES) {
            turn.send(id, Frame::Have(haves.to_vec()));
        }
    }

    pub(super) fn link_down(&mut self, turn: &mut Turn<'_>, id: NodeId) {
        self.behind.remove(&id);
        self.new.retain(|(_, new)| *new != id);
        let mut lost = Vec::new();
        for (name, run) in &mut self.runs {
            run.forget(id);
            if run.missing.is_some_and(|missing| missing.asked.is_some_and(|(of, _)| of == id)) {
                lost.push(*name);
            }
        }
        for name in lost {
            self.set_missing(name, turn.now, None);
        }
    }

    /// How far we are in all of which something can be had from us.
    pub(super) fn summary(&self) -> Vec<Have> {
        let have = |run| self.runs.get(&run).map(|known| Have { run, upto: known.upto() });
        self.log.runs().filter_map(have).collect()
    }

    /// Batches came in.
    pub(super) fn receive(&mut self, turn: &mut Turn<'_>, from: NodeId, batch: Batch) {
        let name = batch.run;
        if name.author == self.me {
            // Ours comes back by a way that need not be.
            self.counters.duplicates += batch.items.len() as u64;
            self.refuse(turn, from, name);
            return;
        }
        if let Some(run) = self.runs.get_mut(&name) {
            run.note(from, batch.last());
            if run.holds(&batch) {
                self.counters.duplicates += batch.items.len() as u64;
                let asked = run.missing.and_then(|missing| missing.asked);
                if asked.is_none_or(|(of, _)| of != from) {
                    self.refuse(turn, from, name);
                }
                return;
            }
        }
        if self.is_untimely(&batch, turn.unix) {
            self.counters.untimely += batch.items.len() as u64;
            return;
        }
        let ids = batch.ids(&self.network);
        let mut key = self.runs.get_mut(&name).and_then(|run| run.key.take());
        if !self.is_right(&batch, &ids, &mut key) {
            // Honest nodes verify before they pass on, so whoever sent this is not one.
            let reason = Reason::Fault("a broadcast wrongly signed, or too large".into());
            turn.put(Effect::HangUp(from, reason));
            return;
        }
        if !self.runs.contains_key(&name) && !self.make_room(turn.now) {
            return;
        }
        let run = self.runs.entry(name).or_insert_with(|| Run::new(0, turn.now));
        run.key = key;
        if !run.verified {
            run.verified = true;
            if run.next == 0 && !run.has.is_empty() {
                self.hearsay = self.hearsay.saturating_sub(1);
            }
        }
        run.heard = turn.now;
        run.note(from, batch.last());
        if batch.floor > run.next {
            let missed = if run.next == 0 { 0 } else { batch.floor - run.next };
            run.next = batch.floor;
            self.miss(turn, name, missed);
        }
        self.accept_or_hold(turn, from, batch, ids);
        self.look_for_more(turn, name);
    }

    /// Somebody has a run's broadcasts from others.
    pub(super) fn receive_prune(&mut self, from: NodeId, run: RunId) {
        if let Some(run) = self.runs.get_mut(&run) {
            run.lazy.insert(from);
        }
    }

    /// A batch was not sent, as the link is crowded: the other side asks for it when it has time.
    pub(super) fn passed_over(&mut self, turn: &mut Turn<'_>, to: NodeId, batch: &Batch) {
        let Some(run) = self.runs.get_mut(&batch.run) else { return };
        run.lazy.insert(to);
        let before = batch.first.saturating_sub(1);
        run.has.entry(to).and_modify(|has| *has = (*has).min(before));
        self.tell_later(turn.now, to, batch.run);
    }

    /// Broadcasts of an earlier run of this node: had, and not delivered again.
    pub(super) fn restore(&mut self, turn: &mut Turn<'_>, batches: Vec<Batch>) {
        for batch in batches {
            let run = self.runs.entry(batch.run).or_insert_with(|| Run::new(0, turn.now));
            run.verified = true;
            run.next = run.next.max(batch.last() + 1);
            self.log.insert(batch, turn.unix);
        }
        self.sweep_at.get_or_insert(turn.now + SWEEP);
    }

    pub(super) fn handle_timeout(&mut self, turn: &mut Turn<'_>) {
        self.flush_due(turn);
        while let Some(name) = self.due.pop(turn.now) {
            self.ask(turn, name);
        }
        if self.tell_at.is_some_and(|at| at <= turn.now) {
            self.tell(turn);
        }
        if self.sweep_at.is_some_and(|at| at <= turn.now) {
            self.sweep(turn);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let due = earliest(self.author.due(), self.due.first());
        earliest(due, earliest(self.tell_at, self.sweep_at))
    }

    /// Delivers a batch and what waited for it, or lets it wait.
    fn accept_or_hold(&mut self, turn: &mut Turn<'_>, from: NodeId, batch: Batch, ids: Vec<Hash>) {
        let name = batch.run;
        let Some(run) = self.runs.get_mut(&name) else { return };
        if batch.first > run.next {
            run.gap_since.get_or_insert(turn.now);
            if self.pending.add(&batch)
                && let Some((old, _)) = run.pending.insert(batch.first, (batch, ids))
            {
                self.pending.remove(&old);
            }
            // Whoever sent this had what stands before it.
            let (now, missing) = (turn.now, run.missing);
            if missing.is_none_or(|missing| missing.asked.is_none()) {
                self.set_missing(name, now, None);
                self.ask_of(turn, name, from);
            }
            return;
        }
        self.accept(turn, Some(from), batch, &ids);
        self.accept_held(turn, name);
    }

    fn accept_held(&mut self, turn: &mut Turn<'_>, name: RunId) {
        while let Some(run) = self.runs.get_mut(&name) {
            let next = run.next;
            let Some(entry) = run.pending.first_entry().filter(|held| *held.key() <= next) else {
                run.gap_since = run.gap_since.filter(|_| !run.pending.is_empty());
                return;
            };
            let (batch, ids) = entry.remove();
            self.pending.remove(&batch);
            if batch.last() >= next {
                self.accept(turn, None, batch, &ids);
            }
        }
    }

    /// Delivers a batch, passes it on and keeps it.
    fn accept(&mut self, turn: &mut Turn<'_>, from: Option<NodeId>, batch: Batch, ids: &[Hash]) {
        let Some(run) = self.runs.get_mut(&batch.run) else { return };
        let author = batch.run.author;
        let mut heard = Vec::new();
        for ((place, item), id) in (batch.first..).zip(batch.items.iter()).zip(ids) {
            if place < run.next {
                continue;
            }
            let body = item.content.payload.clone();
            let Ok(message) = item.content.clone().unpack(body) else { continue };
            let (time, title) = (item.time, item.title.clone());
            let broadcast = Broadcast { id: *id, author, time, title, message };
            heard.push(Event::NodeBroadcast { broadcast });
        }
        run.next = batch.last().saturating_add(1);
        self.counters.received += heard.len() as u64;
        // Others before ourselves: it has a way to go still.
        self.push(turn, from, &batch);
        heard.into_iter().for_each(|event| turn.event(event));
        self.keep(turn, batch);
    }

    /// Sends a batch to all links that want it, but the one that it came by; the others are told.
    fn push(&mut self, turn: &mut Turn<'_>, from: Option<NodeId>, batch: &Batch) {
        let Some(run) = self.runs.get_mut(&batch.run) else { return };
        let mut tell = Vec::new();
        for link in turn.links.keys().filter(|link| Some(**link) != from) {
            if run.has.get(link).is_some_and(|upto| *upto >= batch.last()) {
                continue;
            }
            if run.lazy.contains(link) {
                tell.push(*link);
            } else {
                run.note(*link, batch.last());
                turn.send(*link, Frame::Broadcast(batch.clone()));
            }
        }
        for link in tell {
            self.tell_later(turn.now, link, batch.run);
        }
    }

    fn keep(&mut self, turn: &mut Turn<'_>, batch: Batch) {
        turn.put(Effect::Out(Output::Keep(batch.clone())));
        self.log.insert(batch, turn.unix);
        self.sweep_at.get_or_insert(turn.now + SWEEP);
    }

    /// Asks a link not to send a run's broadcasts; it is not sent them either.
    fn refuse(&mut self, turn: &mut Turn<'_>, from: NodeId, name: RunId) {
        if let Some(run) = self.runs.get_mut(&name) {
            run.lazy.insert(from);
        }
        turn.send(from, Frame::Prune(name));
    }

    fn tell_later(&mut self, now: Instant, link: NodeId, run: RunId) {
        self.behind.entry(link).or_default().insert(run);
        self.tell_at.get_or_insert(now + self.have_delay);
    }

    /// Tells those who get a run from others how far we are.
    fn tell(&mut self, turn: &mut Turn<'_>) {
        self.tell_at = None;
        for (link, names) in std::mem::take(&mut self.behind) {
            let have = |name: RunId| {
                let run = self.runs.get(&name)?;
                let news = run.has.get(&link).is_none_or(|upto| *upto < run.upto());
                news.then(|| Have { run: name, upto: run.upto() })
            };
            let haves: Vec<_> = names.into_iter().filter_map(have).collect();
            for haves in haves.chunks(MAX_HAVES) {
                turn.send(link, Frame::Have(haves.to_vec()));
            }
        }
    }

    /// Whether a batch is too old to be let in, or from the future.
    fn is_untimely(&self, batch: &Batch, unix: u64) -> bool {
        let youngest = batch.items.iter().map(|item| item.time).max();
        youngest.is_none_or(|time| {
            time.saturating_add(self.max_age) < unix || time > unix.saturating_add(self.max_ahead)
        })
    }

    /// Whether a batch is what may be sent, and signed by its author.
    fn is_right(&self, batch: &Batch, ids: &[Hash], key: &mut Option<PublicKey>) -> bool {
        let content = |item: &Item| item.content.payload.len();
        let bytes: usize = batch.items.iter().map(content).sum();
        let readable = |item: &Item| item.content.kind.check(&item.content.payload).is_ok();
        bytes <= self.max_content
            && batch.items.iter().all(readable)
            && self.verifier.verify_with(
                batch.run.author,
                key,
                &batch.signed(&self.network, ids),
                &batch.signature,
            )
    }

    /// Whether there is room for another run, once those that are forgotten have gone.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.runs.len() >= self.max_runs {
            self.forget(now);
        }
        self.runs.len() < self.max_runs
    }

    fn forget(&mut self, now: Instant) {
        let (log, memory, own) = (&self.log, self.memory, self.own);
        let mut forgotten = Vec::new();
        self.runs.retain(|name, run| {
            let keep = *name == own
                || log.has(*name)
                || run.missing.is_some()
                || now.since(run.heard) < memory;
            if !keep {
                let pending = std::mem::take(&mut run.pending);
                forgotten.extend(pending.into_values().map(|(batch, _)| batch));
            }
            keep
        });
        for batch in forgotten {
            self.pending.remove(&batch);
        }
        self.hearsay = self.runs.values().filter(|run| !run.verified).count();
    }

    fn sweep(&mut self, turn: &mut Turn<'_>) {
        self.log.expire(turn.unix);
        self.forget(turn.now);
        let rest = self.runs.len() > usize::from(self.runs.contains_key(&self.own));
        self.sweep_at = (rest || !self.log.is_empty()).then(|| turn.now + SWEEP);
    }
}
