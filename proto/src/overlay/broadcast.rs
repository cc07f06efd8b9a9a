//! Broadcasts: messages to the whole network. Each is signed by its author and passed on along a tree. Every
//! node delivers it once, in the author's order, and keeps it for nodes that missed it.
//!
//! The protocol is based on Plumtree (J. Leitão, J. Pereira, L. Rodrigues: Epidemic Broadcast Trees, 2007).
//! Each author has a tree of its own, as the fastest routes differ from author to author. A node sends a new
//! broadcast over each link immediately (*eager push*). The exceptions are links whose other end has said
//! that it receives the author's broadcasts from another node (*prune*). Over those links the node sends a
//! short summary a little later, for several broadcasts together: the number of the author's latest broadcast
//! that it has (*lazy push*). A node that learns of a broadcast which does not arrive asks for it (*graft*),
//! and then also receives the following ones over that link.
//!
//! An author numbers its broadcasts. The numbers start at 1 in each *run* of the author: the time from one
//! start of its node to the next stop. So one number for each run, the *progress*, says which broadcasts a
//! node has: all up to that number. Summaries and requests contain this number, and two nodes exchange it
//! when a link comes up. So catching up works in the same way as grafting. Nodes pass broadcasts on only in
//! order. So a gap appears only if a node starts to receive them over another link, or was cut off.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::Serialize;

use crate::config::Config;
use crate::deadlines::Deadlines;
use crate::event::{Broadcast, Event, Reason};
use crate::frame::broadcast::{Batch, Item, MAX_TITLE, RunId};
use crate::id::{Hash, Key, NodeId, PublicKey};
use crate::message::{Message, PackedMessage};
use crate::overlay::budgets::Work;
use crate::overlay::{Effect, NodeSetup, OverlayContext};
use crate::peer::Output;
use crate::time::{Instant, earliest};
use crate::verify::Verifier;

mod author;
mod catch_up;
mod later_pushes;
mod log;
mod retired;
mod run;
mod run_table;
mod summaries;
#[cfg(test)]
pub(crate) mod tests;
mod tree;

use author::UnsentBroadcasts;
use later_pushes::LaterPushes;
use log::Log;
use retired::RetiredRuns;
use run::RunState;
use summaries::send_haves;

/// Maximum number of bytes in answer to one [`Want`](crate::frame::broadcast::Want). 256 KiB: a quarter of a
/// link's queue of control frames, so that catching up does not overfill the queue. A node that lacks more
/// asks again.
const MAX_GIVEN: usize = 256 << 10;

/// Maximum number of bytes of batches that wait for earlier ones, over all runs.
const MAX_PENDING: usize = 8 << 20;

/// Maximum number of broadcasts in batches that wait, over all runs. The application's queue has room for
/// such a burst.
const MAX_PENDING_COUNT: usize = 2048;

/// Time for which a link is new. Broadcasts that are announced on a new link were missed while there was no
/// link. They are requested immediately.
const NEW_LINK_TIME: Duration = Duration::from_secs(2);

/// Time to wait for the answer to the first request before another node is asked. The wait grows with each
/// request. 1 s: a round trip around the world, and the time to send the answer.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// Time for which batches wait for earlier ones that no peer has, as a new peer may have them. 30 s: the time
/// in which a network that was split should be whole again.
const GAP_PATIENCE: Duration = Duration::from_secs(30);

/// Number of requests in a row without a result after which missing broadcasts are given up.
const MAX_TRIES: usize = 8;

/// Interval at which old runs and broadcasts are removed.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// The reason why a broadcast was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// The content is over the limit.
    #[error("a broadcast of {len} bytes is over the limit of {limit}: share a file instead")]
    TooLarge {
        /// Size of the content, in bytes.
        len: usize,
        /// The limit in bytes.
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
    /// Broadcasts that no peer could send. Later ones were delivered without them.
    pub missed: u64,
    /// Broadcasts that were dropped as too old or from the future. They were replayed, or the clocks of this
    /// node and of their author are far apart.
    pub untimely: u64,
    /// Broadcasts that were dropped because their author has started its node several times since then.
    pub outdated: u64,
    /// Broadcasts that arrived before earlier ones and for which there was no room. They are requested again
    /// once the earlier ones have arrived.
    pub early: u64,
    /// Runs of authors that were removed early to make room for others. Only catching up with their
    /// broadcasts is lost.
    pub retired_runs: u64,
    /// Announcements of unknown runs that were ignored because their peer had made too many.
    pub ignored_announcements: u64,
}

/// The broadcasts that a node knows, and the state of each author's run.
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
    /// Maximum age of a broadcast, and maximum time by which it may be in the future, in milliseconds.
    max_age: u64,
    max_ahead: u64,
    /// Time for which a run is remembered after its last broadcast. After that, all its broadcasts are too
    /// old to be accepted, so none can be replayed.
    memory: Duration,
    own: RunId,
    unsent: UnsentBroadcasts,
    log: Log,
    runs: BTreeMap<RunId, RunState>,
    retired: RetiredRuns,
    /// Times at which missing broadcasts are requested.
    requests_due: Deadlines<RunId>,
    /// Peers to which a summary of these runs is sent at the time `summaries_at`.
    summaries_due: BTreeMap<NodeId, BTreeSet<RunId>>,
    summaries_at: Option<Instant>,
    later_pushes: LaterPushes,
    /// Links that are new, and until when.
    new_links: VecDeque<(Instant, NodeId)>,
    pending: Pending,
    /// Number of runs that are known only from summaries, in total and by the link that announced them (see
    /// [`RunState::from`]).
    unverified: usize,
    unverified_by_link: BTreeMap<Option<NodeId>, usize>,
    sweep_at: Option<Instant>,
    counters: BroadcastCounters,
}

/// Total size of the batches that wait for earlier ones, over all runs.
#[derive(Debug, Default)]
struct Pending {
    bytes: usize,
    count: usize,
}

impl Pending {
    /// Counts a batch if there is room for it. Returns whether there was.
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
    pub(super) fn new(setup: &NodeSetup, config: &Config) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let me = setup.key.id();
        Self {
            me,
            key: setup.key.clone(),
            network: setup.network.clone(),
            verifier: Verifier::default(),
            max_content: config.max_broadcast,
            max_runs: config.broadcast_runs,
            graft_after: config.graft_after,
            have_delay: config.have_delay,
            // Other nodes keep a broadcast for `log_age`, and its author's clock may be behind.
            max_age: millis(config.log_age).saturating_add(millis(config.clock_skew)),
            max_ahead: millis(config.clock_skew),
            // A broadcast's time may be ahead by `max_ahead`, and the broadcast is accepted until that time is
            // `max_age` ago. This is the sum of the two.
            memory: config.log_age + 2 * config.clock_skew,
            own: RunId { author: me, epoch: setup.epoch },
            unsent: UnsentBroadcasts::new(config),
            log: Log::new(config),
            runs: BTreeMap::new(),
            retired: RetiredRuns::default(),
            requests_due: Deadlines::default(),
            summaries_due: BTreeMap::new(),
            summaries_at: None,
            later_pushes: LaterPushes::default(),
            new_links: VecDeque::new(),
            pending: Pending::default(),
            unverified: 0,
            unverified_by_link: BTreeMap::new(),
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

    /// Adds a broadcast of this node. It is sent immediately, or a few milliseconds later together with
    /// others.
    pub(super) fn publish(
        &mut self,
        cx: &mut OverlayContext<'_>,
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
        let item = Item { time: cx.unix, title, content: PackedMessage::uncompressed(message) };
        if self.unsent.is_full_for(&item) {
            self.flush(cx);
        }
        let id = item.id(&self.network, self.own, self.unsent.next());
        self.unsent.push(item);
        self.counters.sent += 1;
        self.flush_due(cx);
        Ok(id)
    }

    /// Signs the broadcasts that wait, and sends them.
    pub(super) fn flush(&mut self, cx: &mut OverlayContext<'_>) {
        let Some((first, items)) = self.unsent.take(cx.now) else { return };
        // Other nodes do not wait for broadcasts that the author itself no longer keeps.
        let floor = self.log.first_of(self.own).unwrap_or(first);
        let batch = Batch::sign(&self.key, &self.network, self.own.epoch, (first, floor), items);
        let run = self.runs.entry(self.own).or_insert_with(|| RunState::new(1, cx.now));
        (run.verified, run.active_at, run.next) = (true, cx.now, batch.last() + 1);
        self.push(cx, None, &batch);
        self.keep_in_log(cx, batch);
    }

    fn flush_due(&mut self, cx: &mut OverlayContext<'_>) {
        if self.unsent.due().is_some_and(|due| due <= cx.now) {
            self.flush(cx);
        }
    }

    /// Notes a new link, and sends a summary of the kept runs over it.
    pub(super) fn link_up(&mut self, cx: &mut OverlayContext<'_>, id: NodeId) {
        self.new_links.push_back((cx.now + NEW_LINK_TIME, id));
        self.later_pushes.link_up(id);
        send_haves(cx, id, &self.summary());
    }

    pub(super) fn link_down(&mut self, cx: &mut OverlayContext<'_>, id: NodeId) {
        self.summaries_due.remove(&id);
        self.later_pushes.link_down(id);
        self.new_links.retain(|(_, new)| *new != id);
        self.replace_source(cx, id);
        let mut lost = Vec::new();
        for (name, run) in &mut self.runs {
            run.forget(id);
            if run.missing.is_some_and(|missing| missing.asked.is_some_and(|(of, _)| of == id)) {
                lost.push(*name);
            }
        }
        self.link_of_runs_down(id);
        // The answer is lost with the link, so another peer is asked immediately.
        for name in lost {
            self.set_missing(name, cx.now, None);
        }
    }

    /// Handles a batch of broadcasts from a peer.
    pub(super) fn receive(&mut self, cx: &mut OverlayContext<'_>, from: NodeId, batch: Batch) {
        let name = batch.run;
        if name.author == self.me {
            // This node's own broadcasts come back over the link, so the link is not part of the tree.
            self.counters.duplicates += batch.items.len() as u64;
            self.prune(cx, from, name);
            return;
        }
        let is_stranger = cx.budgets.is_stranger_to_member(from);
        if let Some(run) = self.runs.get_mut(&name) {
            if run.may_note(from, is_stranger) {
                run.note_progress(from, batch.last());
            }
            if run.holds(&batch) {
                self.counters.duplicates += batch.items.len() as u64;
                // A second copy shows that this link is not needed in the tree, so it is pruned. But a peer
                // that was asked sends all that it has after some number, which may include known broadcasts.
                let asked = run.missing.and_then(|missing| missing.asked);
                if asked.is_none_or(|(of, _)| of != from) {
                    self.prune(cx, from, name);
                }
                return;
            }
        }
        // Only new broadcasts are checked for their time. A late copy of a known broadcast is no sign of a
        // wrong clock.
        if self.is_untimely(&batch, cx.unix) {
            self.counters.untimely += batch.items.len() as u64;
            return;
        }
        let next = match self.runs.get(&name) {
            Some(run) => Some(run.next),
            None => self.next_of_unknown(name),
        };
        let Some(next) = next else {
            self.counters.outdated += batch.items.len() as u64;
            return;
        };
        if batch.last() < next {
            // The run was retired, and this is a late copy.
            self.counters.duplicates += batch.items.len() as u64;
            return;
        }
        let is_known = self.runs.get(&name).is_some_and(|run| run.verified);
        // Charged before the signature is checked and anything is passed on.
        if !cx.allows(from, Work::Broadcast, batch.body().len()) || !cx.allows(from, Work::Check, 1)
        {
            // A stranger that floods this node with new runs is not asked for them, which would cost as much. If
            // they are of honest authors, neighbours bring them too.
            if is_known || !cx.budgets.is_flooding(cx.now, from, Work::Broadcast) {
                self.postpone(cx, from, &batch);
            }
            return;
        }
        let ids = batch.ids(&self.network);
        let key = self.runs.get_mut(&name).and_then(|run| run.key.take());
        let mut key = key.map(|key| *key);
        if !self.is_valid(&batch, &ids, &mut key) {
            // Honest nodes verify a batch before they pass it on, so this peer is not honest.
            let reason = Reason::Fault("a broadcast wrongly signed, or too large".into());
            cx.put(Effect::CloseLink(from, reason));
            return;
        }
        self.add_verified(cx.now, name, Some(from), next);
        let Some(run) = self.runs.get_mut(&name) else { return };
        run.key = key.filter(|_| is_known).map(Box::new);
        run.active_at = cx.now;
        if run.may_note(from, is_stranger) {
            run.note_progress(from, batch.last());
        }
        // The author no longer keeps the broadcasts before the floor, so it would be useless to wait for
        // them.
        if batch.floor > run.next {
            // No broadcast of a new run was expected, so none was missed.
            let missed = if run.next == 0 { 0 } else { batch.floor - run.next };
            run.next = batch.floor;
            self.report_missed(cx, name, missed);
        }
        self.accept_or_hold(cx, from, batch, ids);
        self.look_for_more(cx, name);
    }

    /// Restores broadcasts that an earlier run of this node has kept. They are not delivered again.
    pub(super) fn restore(&mut self, cx: &mut OverlayContext<'_>, batches: Vec<Batch>) {
        for batch in batches {
            self.add_verified(cx.now, batch.run, None, batch.last() + 1);
            if let Some(run) = self.runs.get_mut(&batch.run) {
                run.next = run.next.max(batch.last() + 1);
            }
            self.log.insert(&batch, cx.unix);
        }
        self.sweep_at.get_or_insert(cx.now + SWEEP_EVERY);
    }

    pub(super) fn handle_timeout(&mut self, cx: &mut OverlayContext<'_>) {
        self.flush_due(cx);
        while let Some(name) = self.requests_due.pop(cx.now) {
            self.ask_next(cx, name);
        }
        if self.summaries_at.is_some_and(|at| at <= cx.now) {
            self.send_summaries(cx);
        }
        self.send_later_pushes(cx);
        if self.sweep_at.is_some_and(|at| at <= cx.now) {
            self.sweep(cx);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let due = earliest(self.unsent.due(), self.requests_due.first());
        let due = earliest(due, self.later_pushes.poll_timeout());
        earliest(due, earliest(self.summaries_at, self.sweep_at))
    }

    /// Delivers a batch and those that waited for it. If earlier broadcasts are missing, keeps it waiting and
    /// asks for them.
    fn accept_or_hold(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        batch: Batch,
        ids: Vec<Hash>,
    ) {
        // The batch is kept for minutes, here and by the application.
        let batch = batch.detach();
        let name = batch.run;
        let Some(run) = self.runs.get_mut(&name) else { return };
        if batch.first > run.next {
            run.gap_since.get_or_insert(cx.now);
            // Without room the batch is dropped. It is requested again once the earlier ones have arrived.
            if !self.pending.add(&batch) {
                self.counters.early += batch.items.len() as u64;
            } else if let Some((old, _)) = run.pending.insert(batch.first, (batch, ids)) {
                self.pending.remove(&old);
            }
            // The peer that sent this batch also has the earlier ones.
            let (now, missing) = (cx.now, run.missing);
            if missing.is_none_or(|missing| missing.asked.is_none()) {
                self.set_missing(name, now, None);
                self.ask_peer(cx, name, from);
            }
            return;
        }
        self.accept(cx, Some(from), batch, &ids);
        self.accept_waiting(cx, name);
    }

    fn accept_waiting(&mut self, cx: &mut OverlayContext<'_>, name: RunId) {
        while let Some(run) = self.runs.get_mut(&name) {
            let next = run.next;
            let Some(entry) = run.pending.first_entry().filter(|held| *held.key() <= next) else {
                run.gap_since = run.gap_since.filter(|_| !run.pending.is_empty());
                return;
            };
            let (batch, ids) = entry.remove();
            self.pending.remove(&batch);
            // A longer batch that begins with the same number may have been delivered since then.
            if batch.last() >= next {
                self.accept(cx, None, batch, &ids);
            }
        }
    }

    /// Passes a batch on, delivers it, and keeps it.
    fn accept(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: Option<NodeId>,
        batch: Batch,
        ids: &[Hash],
    ) {
        let Some(run) = self.runs.get_mut(&batch.run) else { return };
        let author = batch.run.author;
        let mut events = Vec::new();
        for ((place, item), id) in (batch.first..).zip(batch.items.iter()).zip(ids) {
            // This broadcast was delivered already, with another batch of the author that overlaps this one.
            if place < run.next {
                continue;
            }
            let body = item.content.payload.clone();
            // `is_valid` has refused content that can't be read.
            let Ok(message) = item.content.clone().unpack(body) else { continue };
            let (time, title) = (item.time, item.title.clone());
            let broadcast = Broadcast { id: *id, author, time, title, message };
            events.push(Event::NodeBroadcast { broadcast });
        }
        run.next = batch.last().saturating_add(1);
        if let Some(source) = from {
            run.note_source(source);
        }
        self.counters.received += events.len() as u64;
        // Passed on before it is delivered, as other nodes still wait for it.
        self.push(cx, from, &batch);
        events.into_iter().for_each(|event| cx.event(event));
        self.keep_in_log(cx, batch);
    }

    fn keep_in_log(&mut self, cx: &mut OverlayContext<'_>, batch: Batch) {
        cx.put(Effect::Out(Output::Keep(batch.clone())));
        self.log.insert(&batch, cx.unix);
        self.sweep_at.get_or_insert(cx.now + SWEEP_EVERY);
    }

    /// Returns whether a batch is too old or from the future, by its newest broadcast.
    fn is_untimely(&self, batch: &Batch, unix: u64) -> bool {
        let newest = batch.items.iter().map(|item| item.time).max();
        newest.is_none_or(|time| {
            time.saturating_add(self.max_age) < unix || time > unix.saturating_add(self.max_ahead)
        })
    }

    /// Returns whether a batch is within the limits, readable, and signed by its author.
    fn is_valid(&self, batch: &Batch, ids: &[Hash], key: &mut Option<PublicKey>) -> bool {
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
}
