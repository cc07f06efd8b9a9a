//! The means of the overlay's parts: the time, randomness, the links, and the effects of what they decide.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

use crate::address::Address;
use crate::event::{Event, Peer, Reason};
use crate::frame::membership::Outcome;
use crate::frame::query::{Answer, QueryId};
use crate::frame::{Frame, Refusal};
use crate::id::NodeId;
use crate::message::Message;
use crate::overlay::away::Away;
use crate::overlay::relay::RelayError;
use crate::peer::{Output, Purpose};
use crate::time::Instant;

/// A decision of the overlay, for the machine that it is part of.
#[derive(Debug)]
pub(crate) enum Effect {
    /// An output of the machine as it is.
    Out(Output),
    /// Sends a frame over the link with a node.
    Send(NodeId, Frame),
    /// Dials a node at the first of its addresses that answers. The overlay learns the outcome for the
    /// first of them.
    Dial { addresses: Vec<Address>, purpose: Purpose },
    /// This node is a member: this is its first neighbour.
    Joined(NodeId),
    /// A node through which this one was to join has no place for it.
    JoinRefused(NodeId, Outcome),
    /// Ends a link.
    HangUp(NodeId, Reason),
    /// An answer to a query of this node.
    Answered(Answer),
    /// The outcome of a message that other nodes were to relay, by the number that it got.
    Relayed { number: u64, sent: Result<(), RelayError> },
    /// The reply to a request that other nodes have relayed.
    Replied { from: NodeId, id: u64, outcome: Result<Message, Refusal> },
    /// A query of this node has ended; it is complete if all nodes within its depth have answered.
    QueryEnded { query: QueryId, complete: bool },
}

/// The means of a part of the overlay, at one moment.
pub(crate) struct Turn<'a> {
    pub(crate) now: Instant,
    /// The wall clock, in milliseconds since 1970.
    pub(crate) unix: u64,
    pub(crate) links: &'a BTreeMap<NodeId, Peer>,
    /// The nodes that the application has disconnected.
    pub(super) away: &'a Away,
    pub(crate) rng: &'a mut ChaCha8Rng,
    pub(crate) out: &'a mut VecDeque<Effect>,
}

impl Turn<'_> {
    /// Adds an effect behind those before it.
    pub(crate) fn put(&mut self, effect: Effect) {
        self.out.push_back(effect);
    }

    /// Sends a frame over the link with a node.
    pub(crate) fn send(&mut self, to: NodeId, frame: Frame) {
        self.put(Effect::Send(to, frame));
    }

    /// Tells the application.
    pub(crate) fn event(&mut self, event: Event) {
        self.put(Effect::Out(Output::Event(event)));
    }

    /// Draws any number.
    pub(crate) fn rng_u64(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// Draws a number below `bound`; 0 if that is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.rng.next_u64() % bound).unwrap_or_default()
    }

    /// Draws one of several things.
    pub(crate) fn pick<T>(&mut self, mut from: Vec<T>) -> Option<T> {
        (!from.is_empty()).then(|| from.swap_remove(self.below(from.len())))
    }

    /// Draws a time between three and five quarters of `interval`, so that nodes do not act in step.
    pub(crate) fn around(&mut self, interval: Duration) -> Duration {
        let share = u32::try_from(self.below(501)).unwrap_or_default();
        interval * (750 + share) / 1000
    }
}
