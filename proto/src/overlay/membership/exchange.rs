//! What members tell each other of others: records, on shuffles and beside other things.

use crate::event::Reason;
use crate::frame::Frame;
use crate::frame::membership::{MAX_RECORDS, Shuffle, ShuffleReply};
use crate::id::NodeId;
use crate::node_record::NodeRecord;
use crate::overlay::{Effect, Turn};
use crate::time::Instant;

use super::{
    FEW, MAX_RECORD_AGE, MAX_SHUFFLES, Membership, SHUFFLE_ACTIVE, SHUFFLE_PASSIVE, SHUFFLE_STEPS,
    SHUFFLE_TIME,
};

impl Membership {
    pub(super) fn shuffle(&mut self, turn: &mut Turn<'_>) {
        let Some(to) = turn.pick(self.active.keys().copied().collect()) else { return };
        let mut records = self.sample(turn, to);
        if !self.record.addresses.is_empty() {
            records.insert(0, self.record.clone());
        }
        let id = turn.rng_u64();
        self.remember_shuffle(turn.now, id, None);
        turn.send(to, Frame::Shuffle(Shuffle { id, steps: SHUFFLE_STEPS, records }));
    }

    pub(super) fn receive_shuffle(&mut self, turn: &mut Turn<'_>, from: NodeId, shuffle: Shuffle) {
        let Shuffle { id, steps, records } = shuffle;
        if !self.active.contains_key(&from) || self.budgets.take(turn.now, from, 1) == 0 {
            return;
        }
        let others = self.active.keys().filter(|other| **other != from);
        let onward = turn.pick(others.copied().collect());
        match onward {
            Some(onward) if steps > 0 => {
                self.remember_shuffle(turn.now, id, Some(from));
                let steps = steps.min(SHUFFLE_STEPS) - 1;
                turn.send(onward, Frame::Shuffle(Shuffle { id, steps, records }));
            }
            _ => {
                let told = self.passive.sample(turn, records.len().min(MAX_RECORDS));
                turn.send(from, Frame::ShuffleReply(ShuffleReply { id, records: told }));
                self.learn(turn, from, records);
            }
        }
    }

    pub(super) fn receive_shuffled(
        &mut self,
        turn: &mut Turn<'_>,
        reply: ShuffleReply,
        from: NodeId,
    ) {
        let found = self.shuffles.iter().position(|(_, id, _)| *id == reply.id);
        let Some((_, _, back)) = found.and_then(|at| self.shuffles.remove(at)) else { return };
        match back {
            Some(back) => turn.send(back, Frame::ShuffleReply(reply)),
            None => self.learn(turn, from, reply.records),
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

    /// Some of whom we know, for somebody else.
    pub(super) fn sample(&self, turn: &mut Turn<'_>, for_whom: NodeId) -> Vec<NodeRecord> {
        let others = self.active.values();
        let mut others: Vec<_> = others
            .filter(|record| record.node != for_whom && !record.addresses.is_empty())
            .cloned()
            .collect();
        let mut records = Vec::new();
        while records.len() < SHUFFLE_ACTIVE && !others.is_empty() {
            records.push(others.swap_remove(turn.below(others.len())));
        }
        let known = self.passive.sample(turn, SHUFFLE_PASSIVE);
        records.extend(known.into_iter().filter(|record| record.node != for_whom));
        records
    }

    /// Takes in what others have told, as much as they may tell.
    pub(super) fn learn(&mut self, turn: &mut Turn<'_>, from: NodeId, records: Vec<NodeRecord>) {
        let news = |record: &NodeRecord| {
            record.node != self.me
                && !self.active.contains_key(&record.node)
                && self.passive.is_news(record)
        };
        let records: Vec<_> = records.into_iter().filter(news).collect();
        let taken = self.budgets.take(turn.now, from, records.len());
        let lacked = self.active.len() < FEW;
        for record in records.into_iter().take(taken) {
            if self.is_true(turn, &record) {
                self.passive.told(turn, record);
                if lacked {
                    self.seek(turn.now);
                }
            }
        }
    }

    /// Whether a record is what its node has said, not long ago.
    pub(super) fn is_true(&self, turn: &Turn<'_>, record: &NodeRecord) -> bool {
        record.time.saturating_add(MAX_RECORD_AGE) >= turn.unix
            && record.time <= turn.unix.saturating_add(self.max_skew)
            && self.verifier.verify(record.node, &record.signed(&self.network), &record.signature)
    }

    /// Whether a record is that of the other end of a link; else the link ends.
    pub(super) fn is_own(&self, turn: &mut Turn<'_>, from: NodeId, record: &NodeRecord) -> bool {
        // Its clock may be off: that is no fault, and it can't be dialled through others then.
        let own = record.node == from
            && self.verifier.verify(from, &record.signed(&self.network), &record.signature);
        if !own {
            let reason = Reason::Fault("a record that is not its own, or wrongly signed".into());
            turn.put(Effect::HangUp(from, reason));
        }
        own
    }
}
