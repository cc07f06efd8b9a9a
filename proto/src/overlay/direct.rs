//! Messages to nodes that are not neighbours: sealed, and passed along the way that the answer to a
//! query came.
//!
//! Each node on the way remembers with the query by which link the answer came, for as long as it
//! remembers the query. What came of a message goes back by the same way; the recipient proves with
//! it that it has the message. A node keeps nothing of what it passes on but which link it owes an
//! outcome, and passes on no more for each link than so many bytes a second.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::bucket::{Bucket, earning};
use crate::codec::DecodeError;
use crate::config::Config;
use crate::deadlines::Deadlines;
use crate::event::{Event, Peer};
use crate::frame::Frame;
use crate::frame::direct::{Delivery, Forward, Forwarded, Receipt, RelayLabel};
use crate::frame::query::QueryId;
use crate::hello::MAX_NAME;
use crate::id::{Key, NodeId};
use crate::message::Packed;
use crate::overlay::{Effect, Identity, Turn};
use crate::peer::{Output, Payload};
use crate::seal::{self, Letter, LetterContent, SealError};
use crate::time::Instant;

/// Messages that are passed on and whose outcome is awaited, over all. 4,096: 64 of each of 64
/// links.
const MAX_WAITING: usize = 4096;

/// Messages that this node took, and remembers so as to take none twice. 16,384: 27 a second for as
/// long as the clocks of two nodes may be apart.
const MAX_TAKEN: usize = 16_384;

/// The part of each table that one link may fill: an eighth.
const LINK_SHARE: usize = 8;

/// Minimum number of bytes charged for a message: decrypting or routing one costs about as much as
/// copying 1 KiB.
const MIN_COST: usize = 1024;

/// The time that a ping carries in place of its sender's clock. A node that does not know pings
/// refuses it for its age.
const PING: u64 = 0;

/// Why a message could not be sent. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirectError {
    /// The content is over the limit.
    #[error("a message of {len} bytes is over the limit of {limit} for what others pass on")]
    TooLarge {
        /// Bytes of the content.
        len: usize,
        /// What is allowed.
        limit: usize,
    },
    /// It can't be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// Why a message that others were to pass on did not arrive, or may not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Missed {
    /// The way has broken off: surely not delivered.
    #[error("the way there is broken")]
    NoWay,
    /// A node on the way, or the recipient, takes no more just now: surely not delivered.
    #[error("a node on the way takes no more messages just now")]
    Busy,
    /// The recipient, or a node that says so, refused it.
    #[error("it was refused: the clocks of the two nodes may be too far apart")]
    Refused,
    /// Nothing came back in time: it may have arrived.
    #[error("nothing came back within {} ms: it may have arrived", .0.as_millis())]
    Silent(Duration),
}

/// The messages that a node sends, passes on and takes.
#[derive(Debug)]
pub(super) struct Directs {
    key: Key,
    network: String,
    name: String,
    timeout: Duration,
    /// In milliseconds.
    skew: u64,
    limit: usize,
    /// Bytes a second that are passed on for one link.
    rate: u64,
    /// Bytes that a link may have passed on at once.
    burst: u64,
    number: u64,
    waiting: BTreeMap<Id, Waiting>,
    deadlines: Deadlines<Id>,
    budgets: BTreeMap<NodeId, Bucket>,
    taken: Taken,
}

/// The query and the number of a label.
type Id = (QueryId, u64);

/// A message whose outcome is awaited.
#[derive(Debug)]
struct Waiting {
    next: NodeId,
    owed: Owed,
}

/// Who waits for an outcome.
#[derive(Debug, Clone, Copy)]
enum Owed {
    /// This node, which knows the receipt.
    Us(Receipt),
    /// A link.
    Link(NodeId),
}

impl Directs {
    pub(super) fn new(identity: &Identity, config: &Config) -> Self {
        Self {
            key: identity.key.clone(),
            network: identity.network.clone(),
            name: identity.name[..identity.name.floor_char_boundary(MAX_NAME)].to_owned(),
            timeout: config.query_timeout,
            skew: u64::try_from(config.clock_skew.as_millis()).unwrap_or(u64::MAX),
            limit: config.max_direct(),
            rate: config.forward_rate as u64,
            // The largest one always fits.
            burst: config.forward_rate.max(config.max_control) as u64,
            number: 0,
            waiting: BTreeMap::new(),
            deadlines: Deadlines::default(),
            budgets: BTreeMap::new(),
            taken: Taken::default(),
        }
    }

    /// Seals a payload for `to` and sends it to `next`, the first node on the way that `query`
    /// has found. Returns its number; [`Effect::Relayed`] has the outcome. A ping goes as a message does,
    /// and its recipient proves that it has it, but no application sees it. A request has the number `id` for its
    /// reply.
    pub(super) fn send(
        &mut self,
        turn: &mut Turn<'_>,
        (query, to): (QueryId, NodeId),
        next: Option<NodeId>,
        (payload, id): (&Payload, u64),
    ) -> Result<u64, DirectError> {
        let (len, limit) = (payload.len(), self.limit);
        if len > limit {
            return Err(DirectError::TooLarge { len, limit });
        }
        let time = match payload {
            Payload::Ping => PING,
            _ => turn.unix.max(PING + 1),
        };
        let number = self.number + 1;
        let label = RelayLabel { query, number, to };
        let content = payload.letter_content(id);
        let letter = Letter { sender: self.key.id(), name: self.name.clone(), time, content };
        let sealed = seal::seal(turn.rng, &self.key, &self.network, &label, &letter)?;
        self.number = number;
        let missed = |missed| Effect::Relayed { number, sent: Err(missed) };
        match next {
            None => turn.put(missed(Missed::NoWay)),
            Some(_) if self.waiting.len() >= MAX_WAITING => turn.put(missed(Missed::Busy)),
            Some(next) => {
                self.wait((query, number), next, turn.now, Owed::Us(sealed.receipt));
                turn.send(next, Frame::Forward(Forward { label, sealed: sealed.bytes }));
            }
        }
        Ok(number)
    }

    /// A message came from `from`: for this node, or for somebody to whom `next` is on the way.
    pub(super) fn receive(
        &mut self,
        turn: &mut Turn<'_>,
        from: NodeId,
        forward: Forward,
        next: Option<NodeId>,
    ) {
        let RelayLabel { query, number, to } = forward.label;
        let id = (query, number);
        let for_us = to == self.key.id();
        let delivery = if !self.spend(turn.now, from, forward.sealed.len()) {
            Delivery::Busy
        } else if for_us {
            self.take(turn, from, &forward)
        } else {
            match next.filter(|next| *next != from && !self.waiting.contains_key(&id)) {
                None => Delivery::NoWay,
                Some(_) if !self.has_room(from) => Delivery::Busy,
                Some(next) => {
                    self.wait(id, next, turn.now, Owed::Link(from));
                    return turn.send(next, Frame::Forward(forward));
                }
            }
        };
        turn.send(from, Frame::Forwarded(Forwarded { query, number, delivery }));
    }

    /// What came of a message that was passed to `from`: passed back, or ours.
    pub(super) fn receive_forwarded(
        &mut self,
        turn: &mut Turn<'_>,
        from: NodeId,
        forwarded: Forwarded,
    ) {
        let id = (forwarded.query, forwarded.number);
        if self.waiting.get(&id).is_some_and(|waiting| waiting.next == from) {
            self.end(turn, id, forwarded.delivery);
        }
    }

    /// A message was not sent, because the link's lane is crowded.
    pub(super) fn passed_over(&mut self, turn: &mut Turn<'_>, label: RelayLabel) {
        self.end(turn, (label.query, label.number), Delivery::Busy);
    }

    /// A link ended: nothing more comes from there, and nothing is owed to it.
    pub(super) fn link_down(&mut self, turn: &mut Turn<'_>, peer: NodeId) {
        self.budgets.remove(&peer);
        let touched = self.waiting.iter().filter(|(_, waiting)| {
            waiting.next == peer || matches!(waiting.owed, Owed::Link(from) if from == peer)
        });
        let touched: Vec<_> = touched.map(|(id, _)| *id).collect();
        for id in touched {
            self.end(turn, id, Delivery::NoWay);
        }
    }

    /// Gives up what is overdue.
    pub(super) fn handle_timeout(&mut self, turn: &mut Turn<'_>) {
        while let Some(id) = self.deadlines.pop(turn.now) {
            // Those before us on the way have deadlines of their own.
            if let Some(Waiting { owed: Owed::Us(_), .. }) = self.waiting.remove(&id) {
                let sent = Err(Missed::Silent(self.timeout));
                turn.put(Effect::Relayed { number: id.1, sent });
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first()
    }

    fn wait(&mut self, id: Id, next: NodeId, now: Instant, owed: Owed) {
        self.deadlines.set(id, Some(now + self.timeout));
        self.waiting.insert(id, Waiting { next, owed });
    }

    fn end(&mut self, turn: &mut Turn<'_>, id: Id, delivery: Delivery) {
        let Some(Waiting { owed, .. }) = self.waiting.remove(&id) else { return };
        self.deadlines.set(id, None);
        let (query, number) = id;
        match owed {
            Owed::Link(from) if !turn.links.contains_key(&from) => {}
            Owed::Link(from) => {
                turn.send(from, Frame::Forwarded(Forwarded { query, number, delivery }));
            }
            Owed::Us(receipt) => {
                let sent = match delivery {
                    Delivery::Taken(told) if told == receipt => Ok(()),
                    // Somebody on the way says so who can't know.
                    Delivery::Taken(_) | Delivery::Refused => Err(Missed::Refused),
                    Delivery::NoWay => Err(Missed::NoWay),
                    Delivery::Busy => Err(Missed::Busy),
                };
                turn.put(Effect::Relayed { number, sent });
            }
        }
    }

    /// Whether one more message of this link may wait.
    fn has_room(&self, from: NodeId) -> bool {
        let of_link = |waiting: &&Waiting| matches!(waiting.owed, Owed::Link(f) if f == from);
        self.waiting.len() < MAX_WAITING
            && self.waiting.values().filter(of_link).count() < MAX_WAITING / LINK_SHARE
    }

    /// Charges a link for a message of so many bytes. Returns whether it may send that much.
    fn spend(&mut self, now: Instant, from: NodeId, len: usize) -> bool {
        let cost = (len.max(MIN_COST) as u64).min(self.burst);
        let size = earning(self.burst, self.rate);
        self.budgets.entry(from).or_default().take(now, earning(cost, self.rate), size)
    }

    /// A message for this node.
    fn take(&mut self, turn: &mut Turn<'_>, from: NodeId, forward: &Forward) -> Delivery {
        let RelayLabel { query, number, .. } = forward.label;
        let opened = seal::open(&self.key, &self.network, &forward.label, &forward.sealed);
        let Ok((Letter { sender, name, time, content }, receipt)) = opened else {
            return Delivery::Refused;
        };
        // A ping changes nothing here, so that it may come again.
        if time == PING && sender != self.key.id() {
            return Delivery::Taken(receipt);
        }
        // No clock that is right by the skew makes a letter that old, or from so far ahead.
        if sender == self.key.id() || turn.unix.abs_diff(time) > self.skew {
            return Delivery::Refused;
        }
        let linked = turn.links.get(&sender).cloned();
        let peer = linked.unwrap_or_else(|| Peer::without_link(sender, name));
        let Ok(effect) = effect(peer, content) else { return Delivery::Refused };
        let expires = time.saturating_add(self.skew);
        match self.taken.add(turn.unix, from, (sender, query, number), expires) {
            Some(true) => {}
            Some(false) => return Delivery::Refused,
            None => return Delivery::Busy,
        }
        turn.put(effect);
        Delivery::Taken(receipt)
    }
}

/// Returns the effect of a letter that `peer` has written.
fn effect(peer: Peer, content: LetterContent) -> Result<Effect, DecodeError> {
    let unpack = |packed: Packed| {
        let body = packed.payload.clone();
        packed.unpack(body)
    };
    Ok(match content {
        LetterContent::Message(packed) => {
            let message = unpack(packed)?;
            Effect::Out(Output::Event(Event::NodeMessage { peer, message }))
        }
        LetterContent::Request { id, name, body } => {
            Effect::Out(Output::Request { peer, id, name, message: unpack(body)? })
        }
        LetterContent::Reply { id, outcome } => {
            let outcome = match outcome {
                Ok(packed) => Ok(unpack(packed)?),
                Err(refusal) => Err(refusal),
            };
            Effect::Replied { from: peer.id(), id, outcome }
        }
    })
}

/// Messages that this node took, until they are so old that they would be refused for that.
#[derive(Debug, Default)]
struct Taken {
    ids: BTreeMap<(NodeId, QueryId, u64), NodeId>,
    /// By when they are forgotten, in milliseconds since 1970.
    expiry: BTreeSet<(u64, (NodeId, QueryId, u64))>,
    by_link: BTreeMap<NodeId, usize>,
}

impl Taken {
    /// Adds one that came by a link; false where it is there already, `None` where there is no room.
    fn add(
        &mut self,
        unix: u64,
        from: NodeId,
        id: (NodeId, QueryId, u64),
        expires: u64,
    ) -> Option<bool> {
        self.forget(unix);
        if self.ids.contains_key(&id) {
            return Some(false);
        }
        let of_link = self.by_link.entry(from).or_default();
        if self.ids.len() >= MAX_TAKEN || *of_link >= MAX_TAKEN / LINK_SHARE {
            return None;
        }
        *of_link += 1;
        self.ids.insert(id, from);
        self.expiry.insert((expires, id));
        Some(true)
    }

    fn forget(&mut self, unix: u64) {
        while let Some((expires, id)) = self.expiry.first().copied() {
            if expires >= unix {
                break;
            }
            self.expiry.pop_first();
            let Some(from) = self.ids.remove(&id) else { continue };
            if let Some(count) = self.by_link.get_mut(&from) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.by_link.remove(&from);
                }
            }
        }
    }
}
