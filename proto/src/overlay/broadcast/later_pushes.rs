//! Pushes to strangers, a few links at a time.
//!
//! A member of the network may have links with a thousand strangers. If it sent a broadcast to all of them at once, its
//! neighbours, and all that they pass the broadcast on to, would wait for a thousand frames. So strangers take turns,
//! and get all that was pushed since their last turn together. Pushing a broadcast takes the same time however many
//! strangers there are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

use crate::frame::Frame;
use crate::frame::broadcast::{Have, RunId};
use crate::id::NodeId;
use crate::overlay::OverlayContext;
use crate::overlay::budgets::Work;
use crate::time::Instant;

use super::summaries::send_haves;
use super::{Broadcasts, MAX_GIVEN};

/// Number of strangers that share a turn. Eight frames take less than a tenth of a millisecond.
const STRANGERS_PER_TURN: usize = 8;

/// Minimum time between two turns. 5 ms: the turns take two hundredths of a processor, and all of a thousand strangers
/// have had one after two thirds of a second.
const TURN_EVERY: Duration = Duration::from_millis(5);

/// Maximum number of pushes that are kept for the turns of strangers. When there are more, the oldest is discarded, and
/// strangers learn of it with the next broadcast of its run. 16,384: five thousand batches a second, and two laps.
const MAX_PUSHES: usize = 16_384;

/// What is to be sent to strangers.
#[derive(Debug, Default)]
pub(super) struct LaterPushes {
    /// The last pushes, oldest first.
    pushes: VecDeque<Push>,
    /// The number of the first of them. Pushes are numbered from 0.
    first: u64,
    /// The number of the next push when the current lap began, in which each stranger has one turn.
    lap_began: u64,
    /// The number of the next push when each stranger had its last turn, or its link came up.
    served: BTreeMap<NodeId, u64>,
    /// What strangers lack beside the pushes since their last turn: the runs, each with the number after which its
    /// broadcasts are sent.
    owed: BTreeMap<NodeId, BTreeMap<RunId, u64>>,
    /// Number of strangers that have not had a turn since the last push.
    waiting: usize,
    /// The last stranger of the last turn.
    last: Option<NodeId>,
    last_turn: Option<Instant>,
}

/// A batch that was pushed to neighbours.
#[derive(Debug, Clone, Copy)]
struct Push {
    run: RunId,
    /// The number before that of its first broadcast.
    after: u64,
    /// The peer that has brought it.
    from: Option<NodeId>,
}

impl LaterPushes {
    /// Notes a push to neighbours, which is now to be sent to all strangers in turn.
    pub(super) fn add(
        &mut self,
        run: RunId,
        after: u64,
        from: Option<NodeId>,
        strangers: &BTreeSet<NodeId>,
    ) {
        if strangers.is_empty() {
            return;
        }
        if self.pushes.len() >= MAX_PUSHES {
            self.pushes.pop_front();
            self.first += 1;
        }
        self.pushes.push_back(Push { run, after, from });
        self.waiting = strangers.len();
    }

    /// Notes that a stranger is to be sent the broadcasts of a run after a number.
    pub(super) fn owe(
        &mut self,
        link: NodeId,
        run: RunId,
        after: u64,
        strangers: &BTreeSet<NodeId>,
    ) {
        let noted = self.owed.entry(link).or_default().entry(run).or_insert(after);
        *noted = after.min(*noted);
        self.waiting = strangers.len();
    }

    /// Notes a new link. Its peer gets a summary, which has all earlier pushes.
    pub(super) fn link_up(&mut self, link: NodeId) {
        self.served.insert(link, self.next());
    }

    pub(super) fn link_down(&mut self, link: NodeId) {
        self.served.remove(&link);
        self.owed.remove(&link);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let next = self.last_turn.map_or(Instant::ZERO, |last| last + TURN_EVERY);
        (self.waiting > 0).then_some(next)
    }

    /// Returns the number of kept pushes.
    #[cfg(test)]
    pub(super) fn pushes(&self) -> usize {
        self.pushes.len()
    }

    /// Returns the number of the next push.
    fn next(&self) -> u64 {
        self.first + self.pushes.len() as u64
    }

    /// Takes the strangers whose turn is now.
    fn take_turn(&mut self, now: Instant, strangers: &BTreeSet<NodeId>) -> Vec<NodeId> {
        self.last_turn = Some(now);
        let after = self.last.map_or(Unbounded, Excluded);
        let mut links: Vec<_> =
            strangers.range((after, Unbounded)).take(STRANGERS_PER_TURN).copied().collect();
        let rest = (STRANGERS_PER_TURN - links.len()).min(strangers.len() - links.len());
        if links.len() < STRANGERS_PER_TURN {
            self.begin_lap();
            links.extend(strangers.iter().take(rest));
        }
        self.last = links.last().copied();
        self.waiting = self.waiting.saturating_sub(links.len());
        links
    }

    /// Discards the pushes that all strangers have had in the lap that has ended.
    fn begin_lap(&mut self) {
        let old = self.lap_began.saturating_sub(self.first);
        self.pushes.drain(..usize::try_from(old).unwrap_or(usize::MAX).min(self.pushes.len()));
        self.first = self.first.max(self.lap_began);
        self.lap_began = self.next();
    }

    /// Takes what is to be sent to a stranger.
    fn take(&mut self, link: NodeId) -> BTreeMap<RunId, u64> {
        let mut runs = self.owed.remove(&link).unwrap_or_default();
        let served = self.served.insert(link, self.next()).unwrap_or_default();
        let done = usize::try_from(served.saturating_sub(self.first)).unwrap_or(usize::MAX);
        for push in self.pushes.iter().skip(done).filter(|push| push.from != Some(link)) {
            let after = runs.entry(push.run).or_insert(push.after);
            *after = push.after.min(*after);
        }
        runs
    }
}

impl Broadcasts {
    /// Sends the strangers whose turn has come what they lack.
    pub(super) fn send_later_pushes(&mut self, cx: &mut OverlayContext<'_>) {
        if self.later_pushes.poll_timeout().is_none_or(|due| due > cx.now) {
            return;
        }
        for link in self.later_pushes.take_turn(cx.now, cx.budgets.strangers()) {
            // A stranger that floods this node gets nothing for a while. Otherwise a thousand of them would make it
            // send each broadcast a thousand times. With the next broadcast it learns what it has missed.
            if cx.budgets.is_flooding(cx.now, link, Work::Broadcast) {
                self.later_pushes.take(link);
            } else {
                self.send_what_is_due(cx, link);
            }
        }
    }

    /// Sends a peer that was a stranger what it would have got in its next turn.
    pub(in crate::overlay) fn send_what_is_due(
        &mut self,
        cx: &mut OverlayContext<'_>,
        link: NodeId,
    ) {
        let (mut haves, mut sent) = (Vec::new(), 0);
        for (name, after) in self.later_pushes.take(link) {
            let Some(run) = self.runs.get_mut(&name) else { continue };
            let after = run.progress(link).map_or(after, |upto| upto.max(after));
            if run.is_lazy(link) {
                if after < run.upto() {
                    haves.push(Have { run: name, upto: run.upto() });
                }
                continue;
            }
            for batch in self.log.after(name, after) {
                if sent > MAX_GIVEN {
                    let before = batch.first.saturating_sub(1);
                    self.later_pushes.owe(link, name, before, cx.budgets.strangers());
                    break;
                }
                sent += batch.body().len();
                cx.send(link, Frame::Broadcast(batch));
            }
        }
        send_haves(cx, link, &haves);
    }
}
