//! The table of runs: which runs a node knows, and which make room for others.
//!
//! Identities are free, and an author chooses its epochs, so a stranger can make any number of runs. The table
//! stays useful in three ways:
//! - Of each author it keeps the runs with the greatest epochs, at most [`MAX_EPOCHS`].
//! - A full table never refuses a run. It retires runs that came over the link that has brought most, as only
//!   links are not free. So a flood over one link takes the room of that link alone.
//! - A retired run leaves the number of its next broadcast behind: see [`RetiredRuns`](super::retired).
//!
//! Runs that are known only from summaries are counted apart, as summaries are not signed. They never take the
//! place of a run whose signature was checked.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::frame::broadcast::RunId;
use crate::id::NodeId;
use crate::overlay::OverlayContext;
use crate::time::Instant;

use super::run::RunState;
use super::{Broadcasts, SWEEP_EVERY};

/// Maximum number of runs of one author. 4: a node restarts rarely, and the table remembers a run for twenty
/// minutes.
const MAX_EPOCHS: usize = 4;

/// Maximum number of runs that are known only from summaries of other nodes.
const MAX_UNVERIFIED: usize = 4096;

/// Maximum number of peers that a run of several batches remembers while it is idle: twice the links of an ordinary
/// member. A full table then takes 18 MB for them; with a thousand links it would take a gigabyte otherwise.
const MAX_IDLE_PEERS: usize = 20;

/// Share of a full table that is retired at once. The choice examines all runs, so it is made for many at a
/// time.
const RETIRED_SHARE: usize = 64;

impl Broadcasts {
    /// Returns the number of the next broadcast of a run that is not in the table: 0 if the run is new. Returns
    /// `None` if the author has several later runs, so that this one is not accepted any more.
    pub(super) fn next_of_unknown(&self, name: RunId) -> Option<u64> {
        let later = RunId { epoch: name.epoch.saturating_add(1), ..name }..=last_of(name.author);
        let later = self.verified_in(later).count();
        self.retired.next_of(name).filter(|_| later < MAX_EPOCHS)
    }

    /// Adds a run of which a signature was checked, or notes the check for a known run. `from` is the peer that
    /// sent the batch, and `next` the number of the next broadcast to deliver.
    pub(super) fn add_verified(
        &mut self,
        now: Instant,
        name: RunId,
        from: Option<NodeId>,
        next: u64,
    ) {
        if self.runs.get(&name).is_some_and(|run| run.verified) {
            return;
        }
        self.make_room(now);
        if let Some(run) = self.runs.get(&name) {
            let announced_by = run.from;
            self.uncount_unverified(announced_by);
        }
        let run = self.runs.entry(name).or_insert_with(|| RunState::new(next, now));
        (run.verified, run.from, run.active_at) = (true, from, now);
        run.next = run.next.max(next);
        let of_author: Vec<_> = self.verified_in(all_of(name.author)).collect();
        let excess = of_author.len().saturating_sub(MAX_EPOCHS);
        for old in of_author.into_iter().take(excess) {
            self.retire(now, old);
        }
    }

    /// Adds a run that is known only from a summary of the peer `from`. Returns whether there was room.
    pub(super) fn add_unverified(
        &mut self,
        now: Instant,
        name: RunId,
        from: NodeId,
        next: u64,
    ) -> bool {
        let announced = |run: &RunState| !run.verified && run.from == Some(from);
        let of_author = self.runs.range(all_of(name.author));
        if of_author.filter(|(_, run)| announced(run)).count() >= MAX_EPOCHS {
            return false;
        }
        if self.unverified >= MAX_UNVERIFIED {
            let most = self.unverified_by_link.values().copied().max().unwrap_or_default();
            let own = self.unverified_by_link.get(&Some(from)).copied().unwrap_or_default();
            if own >= most {
                return false;
            }
            for name in self.heaviest(MAX_UNVERIFIED / RETIRED_SHARE, false) {
                self.remove_run(name);
            }
        }
        self.unverified += 1;
        *self.unverified_by_link.entry(Some(from)).or_default() += 1;
        let mut run = RunState::new(next, now);
        run.from = Some(from);
        self.runs.insert(name, run);
        true
    }

    /// Removes a run from the table.
    pub(super) fn remove_run(&mut self, name: RunId) -> Option<RunState> {
        let run = self.runs.remove(&name)?;
        self.requests_due.set(name, None);
        if !run.verified {
            self.uncount_unverified(run.from);
        }
        for (batch, _) in run.pending.values() {
            self.pending.remove(batch);
        }
        Some(run)
    }

    /// Notes that a link has ended. The runs that it has brought are counted together with those of other ended
    /// links, so that a stranger gains nothing by linking again under another identity.
    pub(super) fn link_of_runs_down(&mut self, id: NodeId) {
        let mut moved = Vec::new();
        for run in self.runs.values_mut().filter(|run| run.from == Some(id)) {
            // Another peer may have announced the run too.
            run.from = if run.verified { None } else { run.first_source() };
            if !run.verified {
                moved.push(run.from);
            }
        }
        for from in moved {
            self.uncount_unverified(Some(id));
            self.unverified += 1;
            *self.unverified_by_link.entry(from).or_default() += 1;
        }
    }

    /// Forgets runs that are no longer needed, and broadcasts that are too old.
    pub(super) fn sweep(&mut self, cx: &mut OverlayContext<'_>) {
        self.log.expire(cx.unix);
        self.retired.expire(cx.now, self.memory);
        self.forget_old_runs(cx.now);
        let is_idle =
            |run: &RunState| run.missing.is_none() && cx.now.since(run.active_at) >= SWEEP_EVERY;
        for (name, run) in self.runs.iter_mut().filter(|(_, run)| run.verified && is_idle(run)) {
            // A run of a single batch, as a stranger can make thousands of, seldom has a second one that the notes
            // would save duplicates of.
            let has_several = run.key.is_some() || *name == self.own;
            run.forget_many_peers(if has_several { MAX_IDLE_PEERS } else { 0 });
        }
        let rest = self.runs.len() > usize::from(self.runs.contains_key(&self.own));
        let needed = rest || !self.log.is_empty() || !self.retired.is_empty();
        self.sweep_at = needed.then(|| cx.now + SWEEP_EVERY);
    }

    /// Makes room for another run of which a signature was checked.
    fn make_room(&mut self, now: Instant) {
        let is_full = |all: &Self| all.runs.len().saturating_sub(all.unverified) >= all.max_runs;
        if is_full(self) {
            self.forget_old_runs(now);
        }
        if is_full(self) {
            for name in self.heaviest((self.max_runs / RETIRED_SHARE).max(1), true) {
                self.retire(now, name);
            }
        }
    }

    /// Removes a run before its broadcasts are too old, and remembers the number of its next broadcast.
    fn retire(&mut self, now: Instant, name: RunId) {
        let Some(run) = self.remove_run(name) else { return };
        self.counters.retired_runs += 1;
        self.retired.add(now, name, run.next);
        self.sweep_at.get_or_insert(now + SWEEP_EVERY);
    }

    /// Returns `count` runs to remove: each time one of the link that has brought most. Of one link, runs of
    /// authors with several runs come first, then those that were active least recently.
    fn heaviest(&self, count: usize, verified: bool) -> Vec<RunId> {
        let mut by_link: BTreeMap<Option<NodeId>, Vec<_>> = BTreeMap::new();
        let candidates = self
            .runs
            .iter()
            .filter(|(name, run)| run.verified == verified && name.author != self.me);
        for (name, run) in candidates {
            let runs = by_link.entry(run.from).or_default();
            // The runs are in the order of their authors.
            let of_author = match runs.last() {
                Some((before, _, RunId { author, .. })) if *author == name.author => before + 1,
                _ => 1_usize,
            };
            runs.push((of_author, std::cmp::Reverse(run.active_at), *name));
        }
        by_link.values_mut().for_each(|runs| runs.sort_unstable());
        let heaviest = |_| by_link.values_mut().max_by_key(|runs| runs.len())?.pop();
        (0..count).map_while(heaviest).map(|(_, _, name)| name).collect()
    }

    fn forget_old_runs(&mut self, now: Instant) {
        // If a run were removed too early, its broadcasts would be delivered again when a peer replays them.
        let is_old = |(name, run): (&RunId, &RunState)| {
            let keep = *name == self.own
                || self.log.has(*name)
                || run.missing.is_some()
                || now.since(run.active_at) < self.memory;
            (!keep).then_some(*name)
        };
        let old: Vec<_> = self.runs.iter().filter_map(is_old).collect();
        for name in old {
            self.remove_run(name);
        }
    }

    fn verified_in(&self, names: RangeInclusive<RunId>) -> impl Iterator<Item = RunId> {
        self.runs.range(names).filter(|(_, run)| run.verified).map(|(name, _)| *name)
    }

    fn uncount_unverified(&mut self, from: Option<NodeId>) {
        self.unverified = self.unverified.saturating_sub(1);
        if let Some(count) = self.unverified_by_link.get_mut(&from) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.unverified_by_link.remove(&from);
            }
        }
    }
}

/// Returns the range of all runs of an author, the earliest first.
fn all_of(author: NodeId) -> RangeInclusive<RunId> {
    RunId { author, epoch: 0 }..=last_of(author)
}

fn last_of(author: NodeId) -> RunId {
    RunId { author, epoch: u64::MAX }
}
