//! Recovery of missing broadcasts, which a node requests from peers that have them.

use std::time::Duration;

use crate::event::Event;
use crate::frame::Frame;
use crate::frame::broadcast::{Batch, Have, RunId, Want};
use crate::id::NodeId;
use crate::overlay::OverlayContext;
use crate::overlay::budgets::Work;
use crate::time::Instant;

use super::run::Missing;
use super::{Broadcasts, FIRST_ANSWER, GAP_PATIENCE, MAX_GIVEN, MAX_TRIES};

/// Length of an encoded [`Have`], in bytes: an identity and two numbers.
const HAVE_LEN: usize = 48;

/// Time for which a run is active after a batch. Only for active runs are other sources asked when a link ends.
const ACTIVE_TIME: Duration = Duration::from_secs(60);

/// Maximum number of runs for which other sources are asked when a link ends. 256: two requests for each are 25 kB.
/// For other runs, the summary of a peer shows that a broadcast is missing.
const MAX_REPLACED: usize = 256;

/// Number of peers that are asked in place of a source whose link has ended. Two: one of them may receive the run's
/// broadcasts by way of this node.
const NEW_SOURCES: usize = 2;

impl Broadcasts {
    /// Grafts pruned links in place of a link that has ended, for the runs whose broadcasts came over it. Otherwise
    /// the next broadcast of each would arrive only after a summary.
    pub(super) fn replace_source(&mut self, cx: &mut OverlayContext<'_>, lost: NodeId) {
        let now = cx.now;
        let is_active = |at: Instant| now.since(at) < ACTIVE_TIME;
        let runs = self.runs.iter_mut().filter(|(_, run)| run.is_source(lost));
        let runs = runs.filter(|(_, run)| run.missing.is_none() && is_active(run.active_at));
        for (name, run) in runs.take(MAX_REPLACED) {
            let mut pruned = run.lazy_peers();
            pruned.retain(|peer| *peer != lost);
            for _ in 0..NEW_SOURCES.min(pruned.len()) {
                let peer = pruned.swap_remove(cx.below(pruned.len()));
                run.graft(peer);
                run.add_source(peer);
                cx.send(peer, Frame::Want(Want { run: *name, after: run.upto() }));
            }
        }
    }

    /// Handles summaries from a peer: its progress in some runs.
    pub(in crate::overlay) fn receive_haves(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        haves: &[Have],
    ) {
        if !cx.allows(from, Work::Broadcast, haves.len() * HAVE_LEN) {
            return;
        }
        while self.new_links.front().is_some_and(|(until, _)| *until <= cx.now) {
            self.new_links.pop_front();
        }
        let is_new_link = self.new_links.iter().any(|(_, id)| *id == from);
        for have in haves {
            self.receive_have(cx, from, *have, is_new_link);
        }
    }

    /// Notes a peer's progress in one run. If the peer has more broadcasts than this node, schedules a
    /// request for them: immediately on a new link, otherwise after a delay in which they may arrive anyway.
    pub(super) fn receive_have(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        have: Have,
        is_new_link: bool,
    ) {
        let Have { run: name, upto } = have;
        let is_stranger = cx.budgets.is_stranger_to_member(from);
        if name.author == self.me {
            if let Some(run) = self.runs.get_mut(&name)
                && run.may_note(from, is_stranger)
            {
                run.note_progress(from, upto);
            }
            return;
        }
        if !self.runs.contains_key(&name) {
            // Peers also announce runs that this node refuses, or all of whose broadcasts it has had.
            let Some(next) = self.next_of_unknown(name).filter(|next| upto >= (*next).max(1))
            else {
                return;
            };
            if !self.add_unverified(cx.now, name, from, next) {
                self.counters.ignored_announcements += 1;
                return;
            }
        }
        let run = self.runs.get_mut(&name).filter(|run| run.may_note(from, is_stranger));
        let Some(run) = run else { return };
        run.note_progress(from, upto);
        let open = run.missing.is_none_or(|missing| missing.asked.is_none());
        if upto >= run.next.max(1) && open {
            let wait = if is_new_link { Duration::ZERO } else { self.graft_after };
            let due = cx.now + wait;
            // The earlier of two times is kept. Otherwise frequent summaries would delay the request for
            // ever.
            let due = run.missing.map_or(due, |missing| missing.due.min(due));
            self.set_missing(name, due, None);
        }
    }

    /// Treats a batch for which the application has no room as if it had only been announced.
    pub(in crate::overlay) fn postpone(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        batch: &Batch,
    ) {
        let have = Have { run: batch.run, upto: batch.last() };
        if let Some(run) = self.runs.get_mut(&batch.run) {
            // The batch does not count as the peer's answer, so that the peer is asked again.
            run.missing = run.missing.map(|missing| Missing { asked: None, ..missing });
        }
        self.receive_have(cx, from, have, false);
    }

    /// Answers a peer's request for broadcasts.
    pub(in crate::overlay) fn receive_want(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        want: Want,
    ) {
        let Want { run: name, after } = want;
        if !cx.budgets.may_begin(cx.now, from, Work::Broadcast, 1) {
            // The peer asks another node, or asks again.
            cx.budgets.count(Work::Broadcast);
            return;
        }
        let Some(run) = self.runs.get_mut(&name) else {
            // Answered although there are none, so that the peer asks another node without waiting.
            cx.send(from, Frame::Given(Have { run: name, upto: 0 }));
            return;
        };
        // The peer's own statement replaces the noted progress. The noted progress may be too high, as the
        // peer may have dropped a batch that was sent to it.
        let is_noted = run.may_note(from, cx.budgets.is_stranger_to_member(from));
        if is_noted {
            run.set_progress(from, after);
        }
        run.graft(from);
        let mut given = 0;
        for batch in self.log.after(name, after) {
            if given > 0 && given + batch.body().len() > MAX_GIVEN {
                // The peer will ask for the rest. Until then no new batch is pushed to it, as a new batch
                // would arrive before the missing ones.
                if is_noted {
                    run.prune(from);
                }
                break;
            }
            given += batch.body().len();
            if is_noted {
                run.note_progress(from, batch.last());
            }
            cx.send(from, Frame::Broadcast(batch));
        }
        cx.budgets.charge(cx.now, from, Work::Broadcast, given);
        cx.send(from, Frame::Given(Have { run: name, upto: run.upto() }));
    }

    /// Handles a peer's notice that it has answered a request as far as it can.
    pub(in crate::overlay) fn receive_given(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        given: Have,
    ) {
        let Some(run) = self.runs.get_mut(&given.run) else { return };
        let Some(Missing { asked: Some((asked, had)), tries, .. }) = run.missing else { return };
        if asked != from {
            return;
        }
        let has_progressed = run.upto() > had;
        if !has_progressed {
            // The peer has announced broadcasts that it no longer has.
            run.forget_progress(from);
        }
        if run.is_behind() {
            let tries = if has_progressed { 0 } else { tries };
            self.set_missing_tries(given.run, cx.now, None, tries);
            self.ask_next(cx, given.run);
        } else {
            self.give_up(cx, given.run);
        }
    }

    /// After a batch has arrived, schedules a request if a peer has more, or ends the search.
    pub(super) fn look_for_more(&mut self, cx: &mut OverlayContext<'_>, name: RunId) {
        let Some(run) = self.runs.get(&name) else { return };
        match run.missing {
            // The peer that was asked is still sending the rest.
            Some(Missing { asked: Some(_), .. }) if run.is_behind() => {}
            Some(_) if !run.is_behind() => self.clear_missing(name),
            _ if run.is_behind() => self.set_missing(name, cx.now + self.graft_after, None),
            _ => {}
        }
    }

    /// Asks the next peer that has the missing broadcasts. Gives them up if there is none, or after
    /// [`MAX_TRIES`].
    pub(super) fn ask_next(&mut self, cx: &mut OverlayContext<'_>, name: RunId) {
        let Some(run) = self.runs.get(&name) else { return };
        let tries = run.missing.map_or(0, |missing| missing.tries);
        match run.next_source() {
            Some(of) if tries < MAX_TRIES => self.ask_peer(cx, name, of),
            _ => self.give_up(cx, name),
        }
    }

    /// Asks a peer for all broadcasts of a run that this node lacks.
    pub(super) fn ask_peer(&mut self, cx: &mut OverlayContext<'_>, name: RunId, of: NodeId) {
        let Some(run) = self.runs.get_mut(&name) else { return };
        let after = run.upto();
        let tries = run.missing.map_or(0, |missing| missing.tries) + 1;
        // Graft: new broadcasts are pushed over this link in both directions from here on. No broadcast is
        // pushed back to the peer that sent it.
        run.graft(of);
        cx.send(of, Frame::Want(Want { run: name, after }));
        // Each wait is longer than the last. So even if the only peer that has them is slow, it can answer in
        // the end.
        let wait = FIRST_ANSWER * u32::try_from(tries).unwrap_or(u32::MAX);
        self.set_missing_tries(name, cx.now + wait, Some((of, after)), tries);
    }

    /// Gives up missing broadcasts that no peer has. Batches that wait for them are delivered without them,
    /// after [`GAP_PATIENCE`].
    pub(super) fn give_up(&mut self, cx: &mut OverlayContext<'_>, name: RunId) {
        self.clear_missing(name);
        let Some(run) = self.runs.get_mut(&name) else { return };
        // The peers that claim to have more have not sent it, so their claims are forgotten.
        run.forget_claims();
        let until = run.gap_since.filter(|_| !run.pending.is_empty()).map(|at| at + GAP_PATIENCE);
        if let Some(until) = until.filter(|until| *until > cx.now) {
            // By then a new peer may have announced the missing broadcasts. If not, this function is called
            // again.
            self.set_missing(name, until, None);
        } else if let Some(first) = run.pending.keys().next().copied() {
            let missed = first.saturating_sub(run.next);
            run.next = first;
            self.report_missed(cx, name, missed);
            self.accept_waiting(cx, name);
            self.look_for_more(cx, name);
        } else if !run.verified {
            self.remove_run(name);
        }
    }

    pub(super) fn report_missed(&mut self, cx: &mut OverlayContext<'_>, name: RunId, count: u64) {
        if count > 0 {
            self.counters.missed = self.counters.missed.saturating_add(count);
            let author = name.author;
            cx.event(Event::NodeBroadcastsMissed { author, count });
        }
    }

    pub(super) fn set_missing(&mut self, name: RunId, due: Instant, asked: Option<(NodeId, u64)>) {
        self.set_missing_tries(name, due, asked, 0);
    }

    pub(super) fn set_missing_tries(
        &mut self,
        name: RunId,
        due: Instant,
        asked: Option<(NodeId, u64)>,
        tries: usize,
    ) {
        if let Some(run) = self.runs.get_mut(&name) {
            run.missing = Some(Missing { due, asked, tries });
            self.requests_due.set(name, Some(due));
        }
    }

    pub(super) fn clear_missing(&mut self, name: RunId) {
        if let Some(run) = self.runs.get_mut(&name) {
            run.missing = None;
            self.requests_due.set(name, None);
        }
    }
}
