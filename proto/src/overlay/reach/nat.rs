//! The kind of the NAT in front of this node, as its observers see it.

use serde::Serialize;

use super::{ObserverState, Reach, SeenAddresses};

/// The NAT in front of a node, as far as the node knows. The words are those of RFC 4787, section 4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Nat {
    /// The node has not asked two peers yet.
    #[default]
    Unknown,
    /// A node on the internet has dialled this one, so no peer was asked.
    Dialled,
    /// The node does not use UDP.
    NoUdp,
    /// The peers that were asked over UDP have not answered. They are reached over TCP.
    UdpBlocked,
    /// Peers see this node at the same address: holes can be punched.
    EndpointIndependent,
    /// Each peer sees this node at another address (a *symmetric* NAT): no hole can be punched.
    EndpointDependent,
}

impl Nat {
    /// Returns the word in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Dialled => "dialled",
            Self::NoUdp => "no_udp",
            Self::UdpBlocked => "udp_blocked",
            Self::EndpointIndependent => "endpoint_independent",
            Self::EndpointDependent => "endpoint_dependent",
        }
    }
}

impl Reach {
    /// Returns the kind of the NAT.
    pub(super) fn nat(&self, seen: &SeenAddresses) -> Nat {
        let of_family = |v4| seen.udp.iter().filter(move |at| at.is_ipv4() == v4).count();
        let is_silent = self.peers.values().any(|peer| peer.is_silent);
        let has_answer = |state| matches!(state, ObserverState::Observing(Some(_)));
        match seen {
            _ if !self.is_listening => Nat::NoUdp,
            seen if seen.dialled => Nat::Dialled,
            seen if seen.confirmed.is_some() => Nat::EndpointIndependent,
            // One observer may see the node over IPv4, and the other over IPv6.
            _ if of_family(true) > 1 || of_family(false) > 1 => Nat::EndpointDependent,
            _ if is_silent && !self.peers.values().any(|peer| has_answer(peer.state)) => {
                Nat::UdpBlocked
            }
            _ => Nat::Unknown,
        }
    }
}
