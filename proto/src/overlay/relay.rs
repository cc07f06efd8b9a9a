//! Messages to nodes without a link: sealed to the recipient, and relayed along the way by which the
//! answer to a query came.
//!
//! Each node on the way remembers with the query over which link the answer came. The outcome of a
//! message goes back by the same way, and the recipient proves with it that it has the message. A relay
//! remembers only which link waits for the outcome, and limits the bytes per second that it relays for
//! each link.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::bucket::{Bucket, time_to_earn};
use crate::codec::DecodeError;
use crate::config::Config;
use crate::deadlines::Deadlines;
use crate::event::{Event, Peer};
use crate::frame::Frame;
use crate::frame::direct::{Delivery, Forward, Forwarded, Receipt, RelayLabel};
use crate::frame::query::QueryId;
use crate::hello::MAX_NAME;
use crate::id::{Key, NodeId};
use crate::message::PackedMessage;
use crate::overlay::{Effect, Identity, OverlayContext};
use crate::peer::{Output, Payload};
use crate::seal::{self, Letter, LetterContent, SealError};
use crate::time::Instant;

/// Maximum number of relayed messages that wait for their outcome. 4,096: 64 of each of 64 links.
const MAX_WAITING: usize = 4096;

/// Maximum number of accepted messages that are remembered, so that none is accepted twice. 16,384: 27
/// a second for as long as the clocks of two nodes may differ.
const MAX_ACCEPTED: usize = 16_384;

/// Divisor for the part of each table that one link may fill: an eighth.
const LINK_SHARE: usize = 8;

/// Minimum number of bytes charged for a message: decrypting or routing one costs about as much as
/// copying 1 KiB.
const MIN_COST: usize = 1024;

/// Time in a ping, in place of its sender's clock. A node that does not know pings refuses it for its
/// age.
const PING: u64 = 0;

/// The reason why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirectError {
    /// The content is over the limit.
    #[error("a message of {len} bytes is over the limit of {limit} for relayed messages")]
    TooLarge {
        /// Bytes of the content.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// It could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// The reason why a relayed message was not delivered, or may not have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The way has broken off. The message was not delivered.
    #[error("the way to the node has broken off")]
    NoRoute,
    /// A node on the way, or the recipient, accepts no more messages at the moment. It was not
    /// delivered.
    #[error("a node on the way accepts no more messages at the moment")]
    Busy,
    /// The recipient has refused it, or another node says so.
    #[error("it was refused: the clocks of the two nodes may be too far apart")]
    Refused,
    /// No outcome came back in time. It may have been delivered.
    #[error("nothing came back within {} ms: it may have arrived", .0.as_millis())]
    Silent(Duration),
}

/// The messages that a node sends, relays and accepts.
#[derive(Debug)]
pub(super) struct RelayedMessages {
    key: Key,
    network: String,
    name: String,
    timeout: Duration,
    /// In milliseconds.
    skew: u64,
    limit: usize,
    /// Bytes per second that are relayed for one link.
    rate: u64,
    /// Bytes that are relayed for one link at once.
    burst: u64,
    last_number: u64,
    waiting: BTreeMap<PendingId, PendingMessage>,
    deadlines: Deadlines<PendingId>,
    budgets: BTreeMap<NodeId, Bucket>,
    accepted: AcceptedMessages,
}

/// The query and the number of a label.
type PendingId = (QueryId, u64);

/// A message that waits for its outcome.
#[derive(Debug)]
struct PendingMessage {
    next: NodeId,
    receiver: OutcomeReceiver,
}

/// The receiver of an outcome.
#[derive(Debug, Clone, Copy)]
enum OutcomeReceiver {
    /// This node, which knows the right receipt.
    Us(Receipt),
    /// A peer that the message came from.
    Link(NodeId),
}

impl RelayedMessages {
    pub(super) fn new(identity: &Identity, config: &Config) -> Self {
        Self {
            key: identity.key.clone(),
            network: identity.network.clone(),
            name: identity.name[..identity.name.floor_char_boundary(MAX_NAME)].to_owned(),
            timeout: config.query_timeout,
            skew: u64::try_from(config.clock_skew.as_millis()).unwrap_or(u64::MAX),
            limit: config.max_direct(),
            rate: config.forward_rate as u64,
            // The largest message always fits.
            burst: config.forward_rate.max(config.max_control) as u64,
            last_number: 0,
            waiting: BTreeMap::new(),
            deadlines: Deadlines::default(),
            budgets: BTreeMap::new(),
            accepted: AcceptedMessages::default(),
        }
    }

    /// Seals a payload for `to` and sends it to `next`, the first node on the way that `query`
    /// has found. Returns its number; [`Effect::Relayed`] has the outcome. A ping goes as a message does,
    /// and its recipient proves that it has it, but no application sees it. A request has the number `id` for its
    /// reply.
    pub(super) fn send(
        &mut self,
        cx: &mut OverlayContext<'_>,
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
            // A clock that stands at 1970 must not turn a message into a ping.
            _ => cx.unix.max(PING + 1),
        };
        let number = self.last_number + 1;
        let label = RelayLabel { query, number, to };
        let content = payload.letter_content(id);
        let letter = Letter { sender: self.key.id(), name: self.name.clone(), time, content };
        let sealed = seal::seal(cx.rng, &self.key, &self.network, &label, &letter)?;
        self.last_number = number;
        let failed = |failed| Effect::Relayed { number, sent: Err(failed) };
        match next {
            None => cx.put(failed(RelayError::NoRoute)),
            Some(_) if self.waiting.len() >= MAX_WAITING => cx.put(failed(RelayError::Busy)),
            Some(next) => {
                self.await_outcome(
                    (query, number),
                    next,
                    cx.now,
                    OutcomeReceiver::Us(sealed.receipt),
                );
                cx.send(next, Frame::Forward(Forward { label, sealed: sealed.bytes }));
            }
        }
        Ok(number)
    }

    /// Takes a message of a peer: for this node, or for another to which `next` is on the way.
    pub(super) fn receive(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        forward: Forward,
        next: Option<NodeId>,
    ) {
        let RelayLabel { query, number, to } = forward.label;
        let id = (query, number);
        let for_us = to == self.key.id();
        // Charged before it is opened: a message that is refused costs the same work.
        let delivery = if !self.charge(cx.now, from, forward.sealed.len()) {
            Delivery::Busy
        } else if for_us {
            self.accept(cx, from, &forward)
        } else {
            // Never back to where it came from, nor twice under one label: else a forged message could
            // travel in a circle.
            match next.filter(|next| *next != from && !self.waiting.contains_key(&id)) {
                None => Delivery::NoRoute,
                Some(_) if !self.has_room(from) => Delivery::Busy,
                Some(next) => {
                    self.await_outcome(id, next, cx.now, OutcomeReceiver::Link(from));
                    return cx.send(next, Frame::Forward(forward));
                }
            }
        };
        cx.send(from, Frame::Forwarded(Forwarded { query, number, delivery }));
    }

    /// Takes the outcome of a message that was sent to `from`, and passes it back.
    pub(super) fn receive_forwarded(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        forwarded: Forwarded,
    ) {
        let id = (forwarded.query, forwarded.number);
        // Only the node that got the message may report its outcome. Other nodes may know the label
        // too.
        if self.waiting.get(&id).is_some_and(|waiting| waiting.next == from) {
            self.finish(cx, id, forwarded.delivery);
        }
    }

    /// Ends a message that was not sent because the link is crowded.
    pub(super) fn message_skipped(&mut self, cx: &mut OverlayContext<'_>, label: RelayLabel) {
        self.finish(cx, (label.query, label.number), Delivery::Busy);
    }

    /// Forgets a link that has ended, and ends the messages that were sent over it.
    pub(super) fn link_down(&mut self, cx: &mut OverlayContext<'_>, peer: NodeId) {
        self.budgets.remove(&peer);
        let touched = self.waiting.iter().filter(|(_, waiting)| {
            waiting.next == peer
                || matches!(waiting.receiver, OutcomeReceiver::Link(from) if from == peer)
        });
        let touched: Vec<_> = touched.map(|(id, _)| *id).collect();
        for id in touched {
            self.finish(cx, id, Delivery::NoRoute);
        }
    }

    /// Gives up messages without an outcome in time.
    pub(super) fn handle_timeout(&mut self, cx: &mut OverlayContext<'_>) {
        while let Some(id) = self.deadlines.pop(cx.now) {
            // The nodes before this one on the way have deadlines of their own.
            if let Some(PendingMessage { receiver: OutcomeReceiver::Us(_), .. }) =
                self.waiting.remove(&id)
            {
                let sent = Err(RelayError::Silent(self.timeout));
                cx.put(Effect::Relayed { number: id.1, sent });
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first()
    }

    fn await_outcome(
        &mut self,
        id: PendingId,
        next: NodeId,
        now: Instant,
        receiver: OutcomeReceiver,
    ) {
        self.deadlines.set(id, Some(now + self.timeout));
        self.waiting.insert(id, PendingMessage { next, receiver });
    }

    fn finish(&mut self, cx: &mut OverlayContext<'_>, id: PendingId, delivery: Delivery) {
        let Some(PendingMessage { receiver, .. }) = self.waiting.remove(&id) else { return };
        self.deadlines.set(id, None);
        let (query, number) = id;
        match receiver {
            OutcomeReceiver::Link(from) if !cx.links.contains_key(&from) => {}
            OutcomeReceiver::Link(from) => {
                cx.send(from, Frame::Forwarded(Forwarded { query, number, delivery }));
            }
            OutcomeReceiver::Us(receipt) => {
                let sent = match delivery {
                    Delivery::Taken(proof) if proof == receipt => Ok(()),
                    // A node that does not have the message claims that it was delivered.
                    Delivery::Taken(_) | Delivery::Refused => Err(RelayError::Refused),
                    Delivery::NoRoute => Err(RelayError::NoRoute),
                    Delivery::Busy => Err(RelayError::Busy),
                };
                cx.put(Effect::Relayed { number, sent });
            }
        }
    }

    /// Returns whether one more message of a link may wait.
    fn has_room(&self, from: NodeId) -> bool {
        let of_link = |waiting: &&PendingMessage| matches!(waiting.receiver, OutcomeReceiver::Link(f) if f == from);
        self.waiting.len() < MAX_WAITING
            && self.waiting.values().filter(of_link).count() < MAX_WAITING / LINK_SHARE
    }

    /// Charges a link for a message of `len` bytes. Returns whether its budget allows it.
    fn charge(&mut self, now: Instant, from: NodeId, len: usize) -> bool {
        // At most a full bucket, as what costs more could never pass.
        let cost = (len.max(MIN_COST) as u64).min(self.burst);
        let size = time_to_earn(self.burst, self.rate);
        self.budgets.entry(from).or_default().take(now, time_to_earn(cost, self.rate), size)
    }

    /// Opens a message for this node.
    fn accept(&mut self, cx: &mut OverlayContext<'_>, from: NodeId, forward: &Forward) -> Delivery {
        let RelayLabel { query, number, .. } = forward.label;
        let opened = seal::open(&self.key, &self.network, &forward.label, &forward.sealed);
        let Ok((Letter { sender, name, time, content }, receipt)) = opened else {
            return Delivery::Refused;
        };
        // A ping has no effect here, so it need not be remembered.
        if time == PING && sender != self.key.id() {
            return Delivery::Taken(receipt);
        }
        // No node writes to itself. Beyond the tolerance a message may be a replay, as `accepted` forgets
        // messages at that age.
        if sender == self.key.id() || cx.unix.abs_diff(time) > self.skew {
            return Delivery::Refused;
        }
        let linked = cx.links.get(&sender).cloned();
        let peer = linked.unwrap_or_else(|| Peer::without_link(sender, name));
        // Unpacked before it is remembered: unreadable content takes no room in the table.
        let Ok(effect) = effect(peer, content) else { return Delivery::Refused };
        let expires = time.saturating_add(self.skew);
        match self.accepted.add(cx.unix, from, (sender, query, number), expires) {
            Some(true) => {}
            Some(false) => return Delivery::Refused,
            None => return Delivery::Busy,
        }
        cx.put(effect);
        Delivery::Taken(receipt)
    }
}

/// Returns the effect of a letter that `peer` has written.
fn effect(peer: Peer, content: LetterContent) -> Result<Effect, DecodeError> {
    let unpack = |packed: PackedMessage| {
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

/// Accepted messages, until they would be refused for their age.
#[derive(Debug, Default)]
struct AcceptedMessages {
    ids: BTreeMap<(NodeId, QueryId, u64), NodeId>,
    /// Times at which they are forgotten, in milliseconds since 1970.
    expiry: BTreeSet<(u64, (NodeId, QueryId, u64))>,
    by_link: BTreeMap<NodeId, usize>,
}

impl AcceptedMessages {
    /// Adds a message that came from a peer. Returns false if it was accepted before, and `None` if
    /// there is no room.
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
        // No older message is forgotten to make room, as it could be replayed then.
        if self.ids.len() >= MAX_ACCEPTED || *of_link >= MAX_ACCEPTED / LINK_SHARE {
            return None;
        }
        *of_link += 1;
        self.ids.insert(id, from);
        self.expiry.insert((expires, id));
        Some(true)
    }

    fn forget(&mut self, unix: u64) {
        while let Some((expires, id)) = self.expiry.first().copied() {
            // At `expires` itself a replay would still pass the check of its age.
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
