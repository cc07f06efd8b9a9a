//! Numbers of rare events by reason: the ends of links, and failed handshakes.
//!
//! The reasons form small fixed sets, so that no text of a peer becomes part of a name.

use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use peerkit_proto::event::Reason;

use crate::dial::NotDialled;
use crate::error::Error;
use crate::tls;

/// A fixed set of reasons.
pub(crate) trait ReasonSet: Copy + PartialEq + 'static {
    /// All reasons of the set, with their names.
    const ALL: &'static [(Self, &'static str)];
}

/// Declares a set of reasons with their names.
macro_rules! reason_set {
    ($(#[$about:meta])* $set:ident { $($(#[$doc:meta])* $reason:ident = $name:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $set { $($(#[$doc])* $reason,)+ }

        impl ReasonSet for $set {
            const ALL: &'static [(Self, &'static str)] = &[$((Self::$reason, $name),)+];
        }
    };
}

reason_set! {
    /// Reasons why links end.
    EndReason {
        /// An application has disconnected the other node.
        Requested = "requested",
        /// A node stops.
        Stopping = "stopping",
        /// Another link between the two nodes took its place.
        Replaced = "replaced",
        /// Another node became a neighbour in its place.
        NeighbourReplaced = "neighbour_replaced",
        /// The link is not needed any more.
        NotNeeded = "not_needed",
        /// A node has left the network.
        Left = "left",
        /// The link made room for another one, as inbound places were short.
        MadeRoom = "made_room",
        /// A node is no member of the network any more.
        Membership = "membership",
        /// The peer reads too slowly.
        Slow = "slow",
        /// The peer sent nothing for too long.
        Silent = "silent",
        /// The user of one of the nodes has banned the other.
        Banned = "banned",
        /// The protocol was violated.
        Fault = "fault",
        /// The connection was lost without a goodbye.
        Lost = "lost",
        /// A reason that only refusals have, or one that this version does not know.
        Other = "other",
    }
}

impl From<&Reason> for EndReason {
    fn from(reason: &Reason) -> Self {
        match reason {
            Reason::Requested | Reason::KeptAway => Self::Requested,
            Reason::Stopping => Self::Stopping,
            Reason::Replaced | Reason::Duplicate => Self::Replaced,
            Reason::NeighbourReplaced => Self::NeighbourReplaced,
            Reason::NotNeeded => Self::NotNeeded,
            Reason::Left => Self::Left,
            Reason::MadeRoom => Self::MadeRoom,
            Reason::NotAMember(_) => Self::Membership,
            Reason::Slow => Self::Slow,
            Reason::Silent(_) => Self::Silent,
            Reason::Fault(_) | Reason::Discouraged => Self::Fault,
            Reason::Banned => Self::Banned,
            Reason::Lost(_) => Self::Lost,
            _ => Self::Other,
        }
    }
}

reason_set! {
    /// Reasons why a connection became neither a link nor a stream.
    HandshakeFailure {
        /// The host name does not resolve.
        Resolve = "resolve",
        /// The address refuses connections: no program listens there.
        Refused = "refused",
        /// The address can't be reached.
        Unreachable = "unreachable",
        /// The other node took too long.
        Timeout = "timeout",
        /// The connection broke during the handshake.
        Lost = "lost",
        /// The TLS handshake failed: the other end is not a node.
        Tls = "tls",
        /// Another node than the expected one answered.
        WrongId = "wrong_id",
        /// The node connected to itself.
        ItSelf = "self",
        /// The nodes belong to different networks.
        Network = "network",
        /// The secret of the network is wrong or missing.
        Secret = "secret",
        /// The network takes invited nodes only, and one of the nodes is no member.
        Membership = "membership",
        /// The nodes have no version of the protocol in common.
        Version = "version",
        /// The node accepts no more inbound links.
        Full = "full",
        /// A newer connection replaced this one, because too many handshakes were under way.
        Evicted = "evicted",
        /// An application keeps the other node away.
        KeptAway = "kept_away",
        /// The other node has violated the protocol before.
        Discouraged = "discouraged",
        /// The user of one of the nodes has banned the other.
        Banned = "banned",
        /// The protocol was violated.
        Fault = "fault",
        /// Other nodes have chosen the address, and the limits on such dials forbid this one.
        NotDialled = "not_dialled",
        /// The stream was refused.
        Stream = "stream",
        /// The node was stopping.
        Stopping = "stopping",
        /// Another reason.
        Other = "other",
    }
}

impl HandshakeFailure {
    /// Returns the failure of a refused link. Returns `None` if the two nodes have another link, which is no
    /// failure.
    pub(crate) fn of_refusal(reason: &Reason) -> Option<Self> {
        Some(match reason {
            Reason::Duplicate | Reason::Replaced => return None,
            Reason::HandshakeTimeout | Reason::Silent(_) => Self::Timeout,
            Reason::Lost(_) => Self::Lost,
            Reason::SelfConnection => Self::ItSelf,
            Reason::OtherNetwork => Self::Network,
            Reason::WrongSecret => Self::Secret,
            Reason::NotAMember(_) => Self::Membership,
            Reason::Version(_) => Self::Version,
            Reason::Full | Reason::FullForAddress => Self::Full,
            Reason::KeptAway | Reason::Requested => Self::KeptAway,
            Reason::Discouraged => Self::Discouraged,
            Reason::Banned => Self::Banned,
            Reason::Fault(_) => Self::Fault,
            Reason::Stopping => Self::Stopping,
            _ => Self::Other,
        })
    }

    /// Returns the failure of a dial that was not secured. Returns `None` if nothing was dialled.
    pub(crate) fn of_dial(error: &Error) -> Option<Self> {
        Some(match error {
            Error::NotAKey(_) => return None,
            Error::Resolve { .. } => Self::Resolve,
            Error::Connect { error, .. } => match error.kind() {
                io::ErrorKind::ConnectionRefused => Self::Refused,
                io::ErrorKind::TimedOut => Self::Timeout,
                _ if error.get_ref().is_some_and(|cause| cause.is::<NotDialled>()) => {
                    Self::NotDialled
                }
                _ => Self::Unreachable,
            },
            Error::Handshake { error, .. } => Self::of_tls(error),
            Error::WrongNode { .. } => Self::WrongId,
            _ => Self::Other,
        })
    }

    /// Returns the failure of a TLS handshake.
    pub(crate) fn of_tls(error: &io::Error) -> Self {
        match error.kind() {
            _ if tls::is_refusal(error) => Self::WrongId,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset => Self::Lost,
            _ => Self::Tls,
        }
    }
}

/// Numbers of events, one for each reason of a set.
#[derive(Debug)]
pub(crate) struct Tally<R> {
    counts: Box<[AtomicU64]>,
    reasons: PhantomData<R>,
}

impl<R: ReasonSet> Default for Tally<R> {
    fn default() -> Self {
        let counts = R::ALL.iter().map(|_| AtomicU64::new(0)).collect();
        Self { counts, reasons: PhantomData }
    }
}

impl<R: ReasonSet> Tally<R> {
    /// Counts an event.
    pub(crate) fn add(&self, reason: R) {
        let mut counts = R::ALL.iter().zip(&self.counts);
        if let Some((_, count)) = counts.find(|((other, _), _)| *other == reason) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Returns the number of events for each reason.
    pub(crate) fn read(&self) -> BTreeMap<&'static str, u64> {
        let counts = R::ALL.iter().zip(&self.counts);
        counts.map(|((_, name), count)| (*name, count.load(Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_by_reason_and_reasons_without_events_are_listed() {
        let tally = Tally::<EndReason>::default();
        tally.add(EndReason::from(&Reason::Lost("a peer's text".into())));
        tally.add(EndReason::Lost);
        tally.add(EndReason::Slow);
        let read = tally.read();
        assert_eq!(read.len(), EndReason::ALL.len(), "every name occurs once");
        assert_eq!((read["lost"], read["slow"], read["left"]), (2, 1, 0));
        assert_eq!(read.values().sum::<u64>(), 3);
        assert_eq!(Tally::<HandshakeFailure>::default().read().len(), HandshakeFailure::ALL.len());
    }

    #[test]
    fn a_second_link_between_two_nodes_is_no_failure() {
        let of = |reason| HandshakeFailure::of_refusal(&reason);
        assert_eq!(of(Reason::Duplicate), None);
        assert_eq!(of(Reason::FullForAddress), Some(HandshakeFailure::Full));
        assert_eq!(of(Reason::Other(999, "a text".into())), Some(HandshakeFailure::Other));
    }
}
