//! Messages to the whole network.

use std::collections::BTreeSet;

use crate::config::Config;
use crate::event::{Broadcast, Event, Reason};
use crate::frame::Frame;
use crate::frame::broadcast::{Batch, Have, Item, MAX_TITLE, RunId, Want};
use crate::id::{Hash, Key, NodeId};
use crate::message::{Message, Packed};
use crate::overlay::{Identity, Output, Turn};
use crate::time::Instant;
use crate::verify::Verifier;

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

#[derive(Debug)]
pub(super) struct Broadcasts {
    network: String,
    epoch: u64,
    sequence: u64,
    max_content: usize,
    verifier: Verifier,
    seen: BTreeSet<Hash>,
}

impl Broadcasts {
    pub(super) fn new(identity: &Identity, config: &Config) -> Self {
        Self {
            network: identity.network.clone(),
            epoch: identity.epoch,
            sequence: 0,
            max_content: config.max_broadcast,
            verifier: Verifier::default(),
            seen: BTreeSet::new(),
        }
    }
    pub(super) fn verify_with(&mut self, verifier: Verifier) {
        self.verifier = verifier;
    }
    pub(super) fn publish(
        &mut self,
        turn: &mut Turn<'_>,
        key: &Key,
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
        self.sequence += 1;
        let item = Item { time: turn.unix, title, content: Packed::plain(message) };
        let batch = Batch::sign(key, &self.network, self.epoch, (self.sequence, 1), vec![item]);
        let id = batch.ids(&self.network)[0];
        self.seen.insert(id);
        for peer in turn.links.keys() {
            turn.out.push_back(Output::Send(*peer, Frame::Broadcast(batch.clone())));
        }
        Ok(id)
    }
    pub(super) fn receive(&mut self, turn: &mut Turn<'_>, from: NodeId, batch: Batch) {
        let ids = batch.ids(&self.network);
        if self.seen.contains(&ids[0]) {
            return;
        }
        let message = batch.items[0].content.clone();
        let body = message.payload.clone();
        let forged = Reason::Fault("a broadcast wrongly signed, or too large".into());
        let Ok(message) = message.unpack(body) else {
            return turn.out.push_back(Output::Hangup(from, forged));
        };
        if message.body().len() > self.max_content || !batch.verify(&self.network, &ids) {
            return turn.out.push_back(Output::Hangup(from, forged));
        }
        self.seen.insert(ids[0]);
        for peer in turn.links.keys().filter(|peer| **peer != from) {
            turn.out.push_back(Output::Send(*peer, Frame::Broadcast(batch.clone())));
        }
        let item = &batch.items[0];
        turn.out.push_back(Output::Event(Event::NodeBroadcast {
            broadcast: Broadcast {
                id: ids[0],
                author: batch.run.author,
                time: item.time,
                title: item.title.clone(),
                message,
            },
        }));
    }
    pub(super) fn link_up(&mut self, _turn: &mut Turn<'_>, _id: NodeId) {}
    pub(super) fn link_down(&mut self, _turn: &mut Turn<'_>, _id: NodeId) {}
    pub(super) fn passed_over(&mut self, _turn: &mut Turn<'_>, _to: NodeId, _batch: &Batch) {}
    pub(super) fn receive_haves(&mut self, _turn: &mut Turn<'_>, _from: NodeId, _haves: &[Have]) {}
    pub(super) fn receive_want(&mut self, _turn: &mut Turn<'_>, _from: NodeId, _want: Want) {}
    pub(super) fn receive_prune(&mut self, _from: NodeId, _run: RunId) {}
    pub(super) fn summary(&self) -> Vec<Have> {
        Vec::new()
    }
    pub(super) fn restore(&mut self, _turn: &mut Turn<'_>, _batches: Vec<Batch>) {}
    pub(super) fn flush(&mut self, _turn: &mut Turn<'_>) {}
    pub(super) fn handle_timeout(&mut self, _turn: &mut Turn<'_>) {}
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}
