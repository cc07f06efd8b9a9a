//! The exchange of node records between members, in shuffles and other frames.

use crate::event::Reason;
use crate::frame::Frame;
use crate::frame::membership::{MAX_RECORDS, Shuffle, ShuffleReply};
use crate::id::NodeId;
use crate::node_record::NodeRecord;
use crate::overlay::budgets::Work;
use crate::overlay::{Effect, OverlayContext};
use crate::time::Instant;

use super::{
    FEW_NEIGHBOURS, MAX_RECORD_AGE, MAX_SHUFFLES, Membership, SHUFFLE_ACTIVE, SHUFFLE_PASSIVE,
    SHUFFLE_STEPS, SHUFFLE_TIME,
};

impl Membership {
    /// Starts a shuffle over the link with a random neighbour.
    pub(super) fn shuffle(&mut self, cx: &mut OverlayContext<'_>) {
        let Some(to) = cx.pick(self.active.keys().copied().collect()) else { return };
        let mut records = self.draw_records(cx, to);
        if !self.record.addresses.is_empty() {
            // This node's own record comes first, so that it is accepted even if the receiver's budget does
            // not cover all records.
            records.insert(0, self.record.clone());
        }
        let id = cx.rng_u64();
        self.remember_shuffle(cx.now, id, None);
        cx.send(to, Frame::Shuffle(Shuffle { id, steps: SHUFFLE_STEPS, records }));
    }

    pub(super) fn receive_shuffle(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        shuffle: Shuffle,
    ) {
        let Shuffle { id, steps, records } = shuffle;
        // Each walk is charged to the neighbour's budget, as it causes a frame at every step.
        if !self.active.contains_key(&from) || self.budgets.take(cx.now, Some(from), 1) == 0 {
            return;
        }
        if !cx.allows(from, Work::Record, 1) {
            return;
        }
        let others = self.active.keys().filter(|other| **other != from);
        let onward = cx.pick(others.copied().collect());
        match onward {
            Some(onward) if steps > 0 => {
                self.remember_shuffle(cx.now, id, Some(from));
                let steps = steps.min(SHUFFLE_STEPS) - 1;
                cx.send(onward, Frame::Shuffle(Shuffle { id, steps, records }));
            }
            _ => {
                // At most as many records as came, as in the paper. So a node can't ask for more records than
                // it gives.
                let count = records.len().min(MAX_RECORDS);
                let reply = ShuffleReply { id, records: self.passive.draw_records(cx, count) };
                cx.send(from, Frame::ShuffleReply(reply));
                self.learn(cx, Some(from), records);
            }
        }
    }

    pub(super) fn receive_shuffle_reply(
        &mut self,
        cx: &mut OverlayContext<'_>,
        reply: ShuffleReply,
        from: NodeId,
    ) {
        let found = self.shuffles.iter().position(|(_, id, _)| *id == reply.id);
        let Some((_, _, back)) = found.and_then(|at| self.shuffles.remove(at)) else { return };
        match back {
            Some(back) => cx.send(back, Frame::ShuffleReply(reply)),
            // Charged to the neighbour that sent the reply, as the node at the end of the walk is not known.
            None => self.learn(cx, Some(from), reply.records),
        }
    }

    pub(super) fn remember_shuffle(&mut self, now: Instant, id: u64, back: Option<NodeId>) {
        while self.shuffles.front().is_some_and(|(until, ..)| *until <= now)
            || self.shuffles.len() >= MAX_SHUFFLES
        {
            self.shuffles.pop_front();
        }
        self.shuffles.push_back((now + SHUFFLE_TIME, id, back));
    }

    /// Draws records to send to a node: of some neighbours, and of some nodes of the passive view that were
    /// reached.
    pub(super) fn draw_records(
        &self,
        cx: &mut OverlayContext<'_>,
        recipient: NodeId,
    ) -> Vec<NodeRecord> {
        let others = self.active.values().map(|neighbour| &neighbour.record);
        let mut others: Vec<_> = others
            .filter(|record| record.node != recipient && !record.addresses.is_empty())
            .cloned()
            .collect();
        let mut records = Vec::new();
        while records.len() < SHUFFLE_ACTIVE && !others.is_empty() {
            records.push(others.swap_remove(cx.below(others.len())));
        }
        let known = self.passive.draw_records(cx, SHUFFLE_PASSIVE);
        records.extend(known.into_iter().filter(|record| record.node != recipient));
        records
    }

    /// Adds the nodes of records to the passive view and the address book, at a bounded rate for each sender.
    /// `None` stands for a node without a link that has sent a probe.
    pub(super) fn learn(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: Option<NodeId>,
        records: Vec<NodeRecord>,
    ) {
        let news = |record: &NodeRecord| {
            record.node != self.me
                && !self.active.contains_key(&record.node)
                && self.passive.is_news(record)
        };
        // Neighbours send the same records again and again. Known records are not charged, so that the budget
        // is spent on new ones.
        let records: Vec<_> = records.into_iter().filter(news).collect();
        // Charged before signatures are checked, as checking them is the costly part.
        let taken = self.budgets.take(cx.now, from, records.len());
        let lacked = self.active.len() < FEW_NEIGHBOURS;
        for record in records.into_iter().take(taken) {
            if self.is_valid(cx, &record) {
                self.book.learn(cx, from, &record);
                self.passive.learn(cx, record);
                if lacked {
                    self.seek(cx.now);
                }
            }
        }
    }

    /// Returns whether a record is signed by its node, and neither too old nor from the future.
    pub(super) fn is_valid(&self, cx: &OverlayContext<'_>, record: &NodeRecord) -> bool {
        self.is_signed(cx.unix, record)
    }

    /// The same as [`is_valid`](Self::is_valid), with the wall clock `unix`.
    pub(in crate::overlay) fn is_signed(&self, unix: u64, record: &NodeRecord) -> bool {
        record.time.saturating_add(MAX_RECORD_AGE) >= unix
            && record.time <= unix.saturating_add(self.max_skew)
            && self.verifier.verify(record.node, &record.signed(&self.network), &record.signature)
    }

    /// Returns whether a record is the sender's own and rightly signed. If not, closes the link with the
    /// sender.
    pub(super) fn is_senders_own(
        &self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        record: &NodeRecord,
    ) -> bool {
        // The record's time is not checked, as a wrong clock is no fault. A wrong time only keeps other nodes
        // from using the record.
        let own = record.node == from
            && self.verifier.verify(from, &record.signed(&self.network), &record.signature);
        if !own {
            let reason = Reason::Fault("a record that is not its own, or wrongly signed".into());
            cx.put(Effect::CloseLink(from, reason));
        }
        own
    }
}
