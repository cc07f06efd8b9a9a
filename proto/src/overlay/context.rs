//! The context that the overlay's parts work in: the time, random numbers, the links, and the list of
//! effects.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

use crate::address::Address;
use crate::event::{Event, Peer, Reason};
use crate::frame::membership::NeighbourOutcome;
use crate::frame::query::{QueryAnswer, QueryId};
use crate::frame::{Frame, Refusal};
use crate::id::NodeId;
use crate::message::Message;
use crate::overlay::away::KeptAwayNodes;
use crate::overlay::budgets::{Budgets, Work};
use crate::overlay::relay::RelayError;
use crate::peer::{Output, Purpose};
use crate::time::Instant;

/// A decision of the overlay, which the node's state machine ([`Machine`](crate::peer::Machine))
/// carries out.
#[derive(Debug)]
pub(crate) enum Effect {
    /// An output that the machine passes on unchanged.
    Out(Output),
    /// Sends a frame over the link with a node.
    Send(NodeId, Frame),
    /// Dials a node at its addresses, and uses the first that answers. The outcome is reported to the overlay
    /// with the first of `addresses`, whichever one answered.
    Dial { addresses: Vec<Address>, purpose: Purpose },
    /// The node through which this one joins has accepted it as a neighbour.
    Joined(NodeId),
    /// The node through which this one tried to join has refused it.
    JoinRefused(NodeId, NeighbourOutcome),
    /// Closes the link with a node.
    CloseLink(NodeId, Reason),
    /// An answer to a query of this node.
    Answered(QueryAnswer),
    /// The outcome of a message that was handed to other nodes to relay. `number` is the number of the
    /// message.
    Relayed { number: u64, sent: Result<(), RelayError> },
    /// The reply to a request that other nodes have relayed.
    Replied { from: NodeId, id: u64, outcome: Result<Message, Refusal> },
    /// A query of this node has ended. `complete` is set if all nodes within the query's depth have answered.
    QueryEnded { query: QueryId, complete: bool },
}

/// The context that a part of the overlay gets while it handles one input.
pub(crate) struct OverlayContext<'a> {
    pub(crate) now: Instant,
    /// The wall clock, in milliseconds since 1970.
    pub(crate) unix: u64,
    pub(crate) links: &'a BTreeMap<NodeId, Peer>,
    /// The nodes that are kept away.
    pub(super) away: &'a KeptAwayNodes,
    pub(crate) rng: &'a mut ChaCha8Rng,
    /// The budgets of the links.
    pub(crate) budgets: &'a mut Budgets,
    /// The list to which effects are added. They are carried out in this order.
    pub(crate) out: &'a mut VecDeque<Effect>,
}

impl OverlayContext<'_> {
    /// Adds an effect to the list.
    pub(crate) fn put(&mut self, effect: Effect) {
        self.out.push_back(effect);
    }

    /// Charges the link with a node for work that a frame of that node causes. Returns whether the link's
    /// budget allows the work. Call it before the work is done, and before anything is passed on. See
    /// [`budgets`](crate::overlay::budgets) for the units of `amount`.
    #[must_use]
    pub(crate) fn allows(&mut self, from: NodeId, work: Work, amount: usize) -> bool {
        self.budgets.take(self.now, from, work, amount)
    }

    /// Sends a frame over the link with a node.
    pub(crate) fn send(&mut self, to: NodeId, frame: Frame) {
        self.put(Effect::Send(to, frame));
    }

    /// Sends the application an event.
    pub(crate) fn event(&mut self, event: Event) {
        self.put(Effect::Out(Output::Event(event)));
    }

    /// Returns a random number.
    pub(crate) fn rng_u64(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// Returns a random number below `bound`, or 0 if `bound` is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        // The remainder favours small numbers slightly. With bounds far below 2^64 that does not matter.
        usize::try_from(self.rng.next_u64() % bound).unwrap_or_default()
    }

    /// Returns a random element of `from`, or `None` if it is empty.
    pub(crate) fn pick<T>(&mut self, mut from: Vec<T>) -> Option<T> {
        (!from.is_empty()).then(|| from.swap_remove(self.below(from.len())))
    }

    /// Returns a random time between 3/4 and 5/4 of `interval`, so that nodes do not act at the
    /// same moments.
    pub(crate) fn around(&mut self, interval: Duration) -> Duration {
        let share = u32::try_from(self.below(501)).unwrap_or_default();
        interval * (750 + share) / 1000
    }
}
