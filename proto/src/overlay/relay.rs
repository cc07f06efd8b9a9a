//! Messages to nodes without a link. They are sealed for the recipient, and relayed along the route by which
//! the answer to a query came.
//!
//! Each node on the route has noted, with the query, the link over which the answer came. The outcome of a
//! message goes back along the same route. It contains the recipient's proof that it has received the
//! message. Of a message, a relay remembers only the number, the query, the link over which it came and
//! the link over which it was sent on. The bytes that a relay passes on are charged to the link that they came
//! over: see `overlay/budgets.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::codec::DecodeError;
use crate::config::Config;
use crate::deadlines::Deadlines;
use crate::event::{Event, Peer};
use crate::frame::Frame;
use crate::frame::query::QueryId;
use crate::frame::relay::{Delivery, Forward, Forwarded, Receipt, RelayLabel};
use crate::hello::MAX_NAME;
use crate::id::{Key, NodeId};
use crate::message::PackedMessage;
use crate::overlay::budgets::{Standing, Work};
use crate::overlay::{Effect, NodeSetup, OverlayContext};
use crate::peer::{Output, Payload};
use crate::seal::{self, Letter, LetterContent, SealError};
use crate::time::Instant;

mod accepted;

use accepted::AcceptedMessages;

/// Maximum number of relayed messages that wait for their outcome. 4,096: 64 for each of 64 links.
const MAX_WAITING: usize = 4096;

/// Divisor that gives the part of the table of waiting messages that one link may fill: an eighth.
const LINK_SHARE: usize = 8;

/// Divisor that gives the number of messages of one stranger that may wait: 64.
const STRANGER_SHARE: usize = 64;

/// Minimum number of bytes charged for a message: decrypting or routing one costs about as much as
/// copying 1 KiB.
const MIN_COST: usize = 1024;

/// The sender's time in a ping, which has no real time. A node of a version that does not know pings refuses
/// the ping as too old.
const PING: u64 = 0;

/// The reason why a message was not handed to other nodes to relay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelaySendError {
    /// The content is over the limit.
    #[error("a message of {len} bytes is over the limit of {limit} for relayed messages")]
    TooLarge {
        /// Size of the content, in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The message could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// The reason why a relayed message was not delivered, or may not have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// A link on the route has ended, or there was no route. The message was not delivered.
    #[error("there is no route to the node any more")]
    NoRoute,
    /// The recipient or another node on the route accepts no more messages at the moment. The message was not
    /// delivered.
    #[error("a node on the route accepts no more messages at the moment")]
    Busy,
    /// The recipient has refused the message, or a node on the route claims so.
    #[error("the message was refused: the clocks of the two nodes may be too far apart")]
    Refused,
    /// No outcome came back in time. The message may have been delivered.
    #[error("no receipt came back within {} ms: the message may have arrived", .0.as_millis())]
    Silent(Duration),
}

/// The messages that a node sends, relays and accepts.
#[derive(Debug)]
pub(super) struct RelayedMessages {
    key: Key,
    network: String,
    name: String,
    timeout: Duration,
    /// Tolerated difference between two clocks, in milliseconds.
    skew: u64,
    limit: usize,
    last_number: u64,
    waiting: BTreeMap<PendingId, PendingMessage>,
    deadlines: Deadlines<PendingId>,
    accepted: AcceptedMessages,
}

/// The key of a message that waits: the query and the number in its label.
type PendingId = (QueryId, u64);

/// A message that was sent to the next node and waits for its outcome.
#[derive(Debug)]
struct PendingMessage {
    next: NodeId,
    receiver: OutcomeReceiver,
}

/// The receiver of a message's outcome.
#[derive(Debug, Clone, Copy)]
enum OutcomeReceiver {
    /// This node, which sent the message. It knows the receipt that only the recipient can make.
    Us(Receipt),
    /// The peer that the message came from.
    Link(NodeId),
}

impl RelayedMessages {
    pub(super) fn new(setup: &NodeSetup, config: &Config) -> Self {
        Self {
            key: setup.key.clone(),
            network: setup.network.clone(),
            name: setup.name[..setup.name.floor_char_boundary(MAX_NAME)].to_owned(),
            timeout: config.query_timeout,
            skew: u64::try_from(config.clock_skew.as_millis()).unwrap_or(u64::MAX),
            limit: config.max_relayed(),
            last_number: 0,
            waiting: BTreeMap::new(),
            deadlines: Deadlines::default(),
            accepted: AcceptedMessages::default(),
        }
    }

    /// Seals a payload for `to` and sends it to `next`, the first node on the route that `query` has found.
    /// Returns the number of the message, which [`Effect::Relayed`] names with the outcome. A ping is sent
    /// like a message, and its recipient returns a receipt, but no application sees it. If the payload is a
    /// request, its reply names `id`.
    pub(super) fn send(
        &mut self,
        cx: &mut OverlayContext<'_>,
        (query, to): (QueryId, NodeId),
        next: Option<NodeId>,
        (payload, id): (&Payload, u64),
    ) -> Result<u64, RelaySendError> {
        let (len, limit) = (payload.len(), self.limit);
        if len > limit {
            return Err(RelaySendError::TooLarge { len, limit });
        }
        let time = match payload {
            Payload::Ping => PING,
            // A clock that shows the start of 1970 must not turn a message into a ping.
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

    /// Handles a message from a peer. If it is for another node, relays it to `next`, the next node on the
    /// route.
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
        // Charged before the message is opened, as a message that is then refused costs the same work.
        let delivery = if !cx.allows(from, Work::Message, forward.sealed.len().max(MIN_COST)) {
            Delivery::Busy
        } else if for_us {
            self.accept(cx, from, &forward)
        } else {
            // A message is never sent back to the peer that it came from, nor relayed twice under one label.
            // Otherwise a forged message could travel in a circle.
            match next.filter(|next| *next != from && !self.waiting.contains_key(&id)) {
                None => Delivery::NoRoute,
                Some(_) if !self.has_room(cx, from) => Delivery::Busy,
                Some(next) => {
                    self.await_outcome(id, next, cx.now, OutcomeReceiver::Link(from));
                    return cx.send(next, Frame::Forward(forward));
                }
            }
        };
        cx.send(from, Frame::Forwarded(Forwarded { query, number, delivery }));
    }

    /// Handles the outcome of a message that was sent to `from`: reports it to the sender, which is a peer or
    /// this node.
    pub(super) fn receive_forwarded(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        forwarded: Forwarded,
    ) {
        let id = (forwarded.query, forwarded.number);
        // Only the node that the message was sent to may report its outcome. Other nodes may know the label
        // too.
        if self.waiting.get(&id).is_some_and(|waiting| waiting.next == from) {
            self.finish(cx, id, forwarded.delivery);
        }
    }

    /// Reports that a message was not sent because too much waits for its link.
    pub(super) fn message_skipped(&mut self, cx: &mut OverlayContext<'_>, label: RelayLabel) {
        self.finish(cx, (label.query, label.number), Delivery::Busy);
    }

    /// Forgets a link that has ended, and the messages that came over it. Messages that were sent over it have
    /// failed: reports that to the peers that they came from, or to this node.
    pub(super) fn link_down(&mut self, cx: &mut OverlayContext<'_>, peer: NodeId) {
        let touched = self.waiting.iter().filter(|(_, waiting)| {
            waiting.next == peer
                || matches!(waiting.receiver, OutcomeReceiver::Link(from) if from == peer)
        });
        let touched: Vec<_> = touched.map(|(id, _)| *id).collect();
        for id in touched {
            self.finish(cx, id, Delivery::NoRoute);
        }
    }

    /// Gives up messages whose outcome has not come in time.
    pub(super) fn handle_timeout(&mut self, cx: &mut OverlayContext<'_>) {
        while let Some(id) = self.deadlines.pop(cx.now) {
            // The sender and the relays before this one have deadlines of their own.
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
                    // A wrong receipt: a node that is not the recipient claims that the message was
                    // delivered.
                    Delivery::Taken(_) | Delivery::Refused => Err(RelayError::Refused),
                    Delivery::NoRoute => Err(RelayError::NoRoute),
                    Delivery::Busy => Err(RelayError::Busy),
                };
                cx.put(Effect::Relayed { number, sent });
            }
        }
    }

    /// Returns whether one more message that came over a link may wait. All strangers together have half as much
    /// room as one relay, as the next node counts them all as messages of this node.
    fn has_room(&self, cx: &OverlayContext<'_>, from: NodeId) -> bool {
        let waiting = || {
            self.waiting.values().filter_map(|waiting| match waiting.receiver {
                OutcomeReceiver::Link(link) => Some(link),
                OutcomeReceiver::Us(_) => None,
            })
        };
        let of_link = || waiting().filter(|link| *link == from).count();
        self.waiting.len() < MAX_WAITING
            && match cx.budgets.standing(from) {
                Standing::Relay | Standing::Neighbour => of_link() < MAX_WAITING / LINK_SHARE,
                Standing::Stranger => {
                    let is_stranger =
                        |link: &NodeId| cx.budgets.standing(*link) == Standing::Stranger;
                    of_link() < MAX_WAITING / STRANGER_SHARE
                        && waiting().filter(is_stranger).count() < MAX_WAITING / LINK_SHARE / 2
                }
            }
    }

    /// Opens a message for this node. Returns the outcome, with the receipt if the message is accepted.
    fn accept(&mut self, cx: &mut OverlayContext<'_>, from: NodeId, forward: &Forward) -> Delivery {
        let RelayLabel { query, number, .. } = forward.label;
        let opened = seal::open(&self.key, &self.network, &forward.label, &forward.sealed);
        let Ok((Letter { sender, name, time, content }, receipt)) = opened else {
            return Delivery::Refused;
        };
        if cx.away.is_banned(cx.now, sender) {
            return Delivery::Refused;
        }
        // A ping has no effect on this node, so a replay does no harm, and pings need not be remembered.
        if time == PING && sender != self.key.id() {
            return Delivery::Taken(receipt);
        }
        // A node sends no message to itself. A message that is older than the tolerance may be a replay, as
        // `accepted` forgets messages at that age.
        if sender == self.key.id() || cx.unix.abs_diff(time) > self.skew {
            return Delivery::Refused;
        }
        let linked = cx.links.get(&sender).cloned();
        let peer = linked.unwrap_or_else(|| Peer::without_link(sender, name));
        // Unpacked before the message is remembered, so that unreadable content takes no room in the table.
        let Ok(effect) = effect(peer, content) else { return Delivery::Refused };
        if !self.accepted.add(cx.unix, from, &(sender, query, number), time, self.skew) {
            return Delivery::Refused;
        }
        cx.put(effect);
        Delivery::Taken(receipt)
    }
}

/// Returns the effect of a letter whose sender is `peer`.
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
