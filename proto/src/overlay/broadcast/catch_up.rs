//! Recovery of missing broadcasts: grafting and catching up.

use std::time::Duration;

use crate::event::Event;
use crate::frame::Frame;
use crate::frame::broadcast::{Batch, Have, RunId, Want};
use crate::id::NodeId;
use crate::overlay::OverlayContext;
use crate::time::Instant;

use super::run::{Missing, RunState};
use super::{ANSWER, Broadcasts, GAP_PATIENCE, MAX_GIVEN, MAX_TRIES, MAX_UNVERIFIED};

impl Broadcasts {
    /// Takes summaries of what a peer has.
    pub(in crate::overlay) fn receive_haves(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        haves: &[Have],
    ) {
        while self.new_links.front().is_some_and(|(until, _)| *until <= cx.now) {
            self.new_links.pop_front();
        }
        let is_new_link = self.new_links.iter().any(|(_, id)| *id == from);
        for have in haves {
            self.receive_have(cx, from, *have, is_new_link);
        }
    }

    pub(super) fn receive_have(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        have: Have,
        is_new_link: bool,
    ) {
        let Have { run: name, upto } = have;
        if name.author == self.me {
            if let Some(run) = self.runs.get_mut(&name) {
                run.note_progress(from, upto);
            }
            return;
        }
        if !self.runs.contains_key(&name) {
            // A summary is not signed, so a peer can make up any number of runs.
            if upto == 0 || self.unverified >= MAX_UNVERIFIED || !self.make_room(cx.now) {
                return;
            }
            self.unverified += 1;
            self.runs.insert(name, RunState::new(0, cx.now));
        }
        let Some(run) = self.runs.get_mut(&name) else { return };
        run.note_progress(from, upto);
        let open = run.missing.is_none_or(|missing| missing.asked.is_none());
        if upto >= run.next.max(1) && open {
            let wait = if is_new_link { Duration::ZERO } else { self.graft_after };
            let due = cx.now + wait;
            // The earlier time holds, or frequent announcements would put off the request for ever.
            let due = run.missing.map_or(due, |missing| missing.due.min(due));
            self.set_missing(name, due, None);
        }
    }

    /// Treats a batch that the application has no time for as if it had only been announced.
    pub(in crate::overlay) fn postpone(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        batch: &Batch,
    ) {
        let have = Have { run: batch.run, upto: batch.last() };
        if let Some(run) = self.runs.get_mut(&batch.run) {
            // That the peer sent it does not count as its answer, so that it is asked again.
            run.missing = run.missing.map(|missing| Missing { asked: None, ..missing });
        }
        self.receive_have(cx, from, have, false);
    }

    /// Answers a peer that asks for broadcasts.
    pub(in crate::overlay) fn receive_want(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        want: Want,
    ) {
        let Want { run: name, after } = want;
        let Some(run) = self.runs.get_mut(&name) else {
            // Answered all the same, so that the peer asks another node without waiting.
            cx.send(from, Frame::Given(Have { run: name, upto: 0 }));
            return;
        };
        // The peer's own word replaces what was noted, which may be too high: a batch that was sent may
        // have been dropped there.
        run.has.insert(from, after);
        run.lazy.remove(&from);
        let mut given = 0;
        for batch in self.log.after(name, after) {
            if given > 0 && given + batch.body().len() > MAX_GIVEN {
                // The peer asks again. Until then nothing new is pushed to it, as that would arrive
                // before what it lacks.
                run.lazy.insert(from);
                break;
            }
            given += batch.body().len();
            run.note_progress(from, batch.last());
            cx.send(from, Frame::Broadcast(batch.clone()));
        }
        cx.send(from, Frame::Given(Have { run: name, upto: run.upto() }));
    }

    /// Takes a peer's word that it has sent all that it has of what was asked for.
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
        let better = run.upto() > had;
        if !better {
            // It has announced broadcasts that it does not have any more.
            run.has.remove(&from);
        }
        if run.is_behind() {
            let tries = if better { 0 } else { tries };
            self.set_missing_tries(given.run, cx.now, None, tries);
            self.ask_next(cx, given.run);
        } else {
            self.give_up(cx, given.run);
        }
    }

    /// Decides whether more has to be asked for after a batch has arrived.
    pub(super) fn look_for_more(&mut self, cx: &mut OverlayContext<'_>, name: RunId) {
        let Some(run) = self.runs.get(&name) else { return };
        match run.missing {
            // The rest is on its way from the node that was asked.
            Some(Missing { asked: Some(_), .. }) if run.is_behind() => {}
            Some(_) if !run.is_behind() => self.clear_missing(name),
            _ if run.is_behind() => self.set_missing(name, cx.now + self.graft_after, None),
            _ => {}
        }
    }

    /// Asks the next of the peers that have what is missing.
    pub(super) fn ask_next(&mut self, cx: &mut OverlayContext<'_>, name: RunId) {
        let Some(run) = self.runs.get(&name) else { return };
        let tries = run.missing.map_or(0, |missing| missing.tries);
        match run.next_source() {
            Some(of) if tries < MAX_TRIES => self.ask_peer(cx, name, of),
            _ => self.give_up(cx, name),
        }
    }

    pub(super) fn ask_peer(&mut self, cx: &mut OverlayContext<'_>, name: RunId, of: NodeId) {
        let Some(run) = self.runs.get_mut(&name) else { return };
        let after = run.upto();
        let tries = run.missing.map_or(0, |missing| missing.tries) + 1;
        // Grafted: the link is eager in both directions. That costs nothing, as what the peer sends is not
        // pushed back to it.
        run.lazy.remove(&of);
        cx.send(of, Frame::Want(Want { run: name, after }));
        // Each try waits longer, so that a slow but only source can answer in the end.
        let wait = ANSWER * u32::try_from(tries).unwrap_or(u32::MAX);
        self.set_missing_tries(name, cx.now + wait, Some((of, after)), tries);
    }

    /// Gives up broadcasts that no neighbour has. After a while those that wait for them are delivered
    /// without them.
    pub(super) fn give_up(&mut self, cx: &mut OverlayContext<'_>, name: RunId) {
        self.clear_missing(name);
        let Some(run) = self.runs.get_mut(&name) else { return };
        // The peers that claim to have more have not given it, so their claims no longer count.
        run.has.retain(|_, upto| *upto < run.next.max(1));
        let until = run.gap_since.filter(|_| !run.pending.is_empty()).map(|at| at + GAP_PATIENCE);
        if let Some(until) = until.filter(|until| *until > cx.now) {
            // By then a new neighbour may have announced it. If not, this is called again.
            self.set_missing(name, until, None);
        } else if let Some(first) = run.pending.keys().next().copied() {
            let missed = first.saturating_sub(run.next);
            run.next = first;
            self.report_missed(cx, name, missed);
            self.accept_waiting(cx, name);
            self.look_for_more(cx, name);
        } else if !run.verified {
            self.runs.remove(&name);
            self.unverified = self.unverified.saturating_sub(1);
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
