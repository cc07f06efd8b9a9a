//! NATs: the routers of homes, which send the packets of their nodes on from other ports, and let few packets in.
//!
//! The kinds are those of RFC 4787. Its *mapping* decides which port other nodes see, its *filtering* decides whose
//! packets get in. Only UDP is modelled in this detail. TCP gets out, and never in.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::Sim;
use super::network::{address, mix, node_at};
use crate::address::DEFAULT_PORT;
use crate::handler::Handler;
use crate::time::Instant;

/// A kind of NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nat {
    /// Determines the port from which the router sends packets on (RFC 4787, section 4.1).
    pub mapping: Dependence,
    /// Determines the packets that the router lets in (RFC 4787, section 5).
    pub filtering: Dependence,
}

/// The part of a packet's remote address that a mapping or a filter depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dependence {
    /// Nothing. A mapping has one port for all destinations. A filter lets in all packets to a port that is in use.
    Endpoint,
    /// The IP address. A mapping has another port for each. A filter lets in packets from addresses to which the node
    /// has sent packets.
    Address,
    /// The IP address and the port.
    AddressAndPort,
}

/// Kinds of NAT with their shares, in percent.
///
/// 82 % of the NATs give all destinations the same port, and so support hole punching over UDP (B. Ford, P. Srisuresh,
/// D. Kegel: Peer-to-Peer Communication Across Network Address Translators, 2005). The others are taken as the strictest
/// kind. No published shares of the kinds of filtering are used. Theirs are chosen so that a hole can be punched between
/// 70 % of all pairs, as D. Trautwein et al. have measured with 4.4 million attempts (Challenging Tribal Knowledge,
/// 2025, arXiv:2510.27500).
const SHARES: [(u64, Nat); 4] = [
    (4, Nat { mapping: Dependence::Endpoint, filtering: Dependence::Endpoint }),
    (4, Nat { mapping: Dependence::Endpoint, filtering: Dependence::Address }),
    (74, Nat { mapping: Dependence::Endpoint, filtering: Dependence::AddressAndPort }),
    (18, Nat { mapping: Dependence::AddressAndPort, filtering: Dependence::AddressAndPort }),
];

/// Time after which a router forgets a port or a destination that is not used. RFC 4787 demands at least this
/// (REQ-5).
const LIFETIME: Duration = Duration::from_secs(120);

/// The first port from which a router sends packets on.
const FIRST_PORT: u16 = 20_000;

impl Nat {
    /// Returns the kind for a random number from 0 to 99. 82 of a hundred give all destinations the same port, as Ford,
    /// Srisuresh and Kegel have measured (2005). A hole can be punched between 70 % of all pairs, as Trautwein et al. have
    /// measured (2025, arXiv:2510.27500).
    #[must_use]
    pub fn drawn(mut percent: u64) -> Self {
        for (share, nat) in SHARES {
            if percent < share {
                return nat;
            }
            percent -= share;
        }
        SHARES[SHARES.len() - 1].1
    }

    /// Returns whether a hole can be punched between nodes behind two NATs that learn their ports from others.
    #[must_use]
    pub fn can_meet(self, other: Self) -> bool {
        let is_open = |to: Self, from: Self| match from.mapping {
            // Both know the port of the other one, and send to it.
            Dependence::Endpoint => true,
            // The packets come from a port that nobody knows.
            Dependence::Address | Dependence::AddressAndPort => {
                to.mapping == Dependence::Endpoint && to.filtering != Dependence::AddressAndPort
            }
        };
        is_open(self, other) && is_open(other, self)
    }
}

/// The state of a node's router.
#[derive(Debug)]
pub(super) struct Router {
    kind: Nat,
    /// The ports in use, by the part of the destination that the mapping depends on, and when each was used last.
    ports: BTreeMap<(Option<IpAddr>, Option<u16>), (u16, Instant)>,
    /// The destinations of each port, and when the last packet was sent there.
    sent: BTreeMap<(u16, SocketAddr), Instant>,
    last_port: u16,
}

impl Router {
    pub(super) fn new(kind: Nat, node: usize) -> Self {
        // The ports of different routers differ, so that no test succeeds by a guess.
        let drawn = u16::try_from(mix(node as u64) % 20_000).unwrap_or_default();
        let (ports, sent) = (BTreeMap::new(), BTreeMap::new());
        Self { kind, ports, sent, last_port: FIRST_PORT + drawn }
    }

    /// Sends a packet of the node to a destination. Returns the port from which it is sent on.
    fn send(&mut self, now: Instant, to: SocketAddr) -> u16 {
        self.ports.retain(|_, (_, used)| now.since(*used) < LIFETIME);
        self.sent.retain(|_, used| now.since(*used) < LIFETIME);
        let entry = self.ports.entry(key(self.kind.mapping, to));
        let (port, used) = entry.or_insert_with(|| {
            self.last_port = self.last_port.checked_add(1).unwrap_or(FIRST_PORT);
            (self.last_port, now)
        });
        *used = now;
        self.sent.insert((*port, to), now);
        *port
    }

    /// Returns whether a packet from a remote address to one of the router's ports gets in.
    fn accepts(&self, now: Instant, port: u16, from: SocketAddr) -> bool {
        let filter = self.kind.filtering;
        self.sent.iter().any(|((used, to), at)| {
            *used == port && now.since(*at) < LIFETIME && key(filter, *to) == key(filter, from)
        })
    }

    pub(super) fn kind(&self) -> Nat {
        self.kind
    }

    /// Forgets all ports, as their node has stopped.
    pub(super) fn clear(&mut self) {
        self.ports.clear();
        self.sent.clear();
    }
}

/// Returns the part of an address that something depends on.
fn key(dependence: Dependence, at: SocketAddr) -> (Option<IpAddr>, Option<u16>) {
    match dependence {
        Dependence::Endpoint => (None, None),
        Dependence::Address => (Some(at.ip()), None),
        Dependence::AddressAndPort => (Some(at.ip()), Some(at.port())),
    }
}

impl<H: Handler> Sim<H> {
    /// Sends a UDP packet of a node. Returns the address that the recipient sees.
    pub(super) fn udp_send(&mut self, node: usize, to: SocketAddr) -> SocketAddr {
        let now = self.now;
        let port = match &mut self.nodes[node].router {
            Some(router) => router.send(now, to),
            None => DEFAULT_PORT,
        };
        SocketAddr::new(self.ip_of(node).into(), port)
    }

    /// Returns the node that a UDP packet reaches; `None` if it is dropped on the way.
    pub(super) fn udp_recipient(
        &self,
        from: usize,
        source: SocketAddr,
        to: SocketAddr,
    ) -> Option<usize> {
        let IpAddr::V4(ip) = to.ip() else { return None };
        let node = self.node_with_ip(ip)?;
        let recipient = &self.nodes[node];
        if node == from || self.is_cut(from, node) || recipient.running.is_none() {
            return None;
        }
        let gets_in = match &recipient.router {
            Some(router) => router.accepts(self.now, to.port(), source),
            None => {
                recipient.options.meets && recipient.options.dialable && to.port() == DEFAULT_PORT
            }
        };
        gets_in.then_some(node)
    }

    /// Returns the node with a public IP address, which is that of its router if it has one.
    pub(super) fn node_with_ip(&self, ip: Ipv4Addr) -> Option<usize> {
        let node = node_at(&address(ip))?;
        (node < self.nodes.len() && self.ip_of(node) == ip).then_some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Dependence; 3] =
        [Dependence::Endpoint, Dependence::Address, Dependence::AddressAndPort];

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Sends to three destinations, and returns for each its port, as a distance from the first one.
    fn ports(mapping: Dependence) -> [u16; 3] {
        let mut router = Router::new(Nat { mapping, filtering: Dependence::Endpoint }, 1);
        let sent =
            ["11.0.0.1:1", "11.0.0.1:2", "11.0.0.2:1"].map(|to| router.send(Instant::ZERO, at(to)));
        sent.map(|port| port - sent[0])
    }

    #[test]
    fn the_mapping_decides_which_destinations_see_another_port() {
        assert_eq!(KINDS.map(ports), [[0, 0, 0], [0, 0, 1], [0, 1, 2]]);
    }

    #[test]
    fn the_filter_decides_whose_packets_get_in() {
        let accepted = |filtering| {
            let mut router = Router::new(Nat { mapping: Dependence::Endpoint, filtering }, 1);
            let port = router.send(Instant::ZERO, at("11.0.0.1:1"));
            ["11.0.0.1:1", "11.0.0.1:2", "11.0.0.2:1"]
                .map(|from| router.accepts(Instant::ZERO, port, at(from)))
        };
        let expected = [[true, true, true], [true, true, false], [true, false, false]];
        assert_eq!(KINDS.map(accepted), expected);
        let mut router = Router::new(Nat::drawn(0), 1);
        assert!(!router.accepts(Instant::ZERO, FIRST_PORT, at("11.0.0.1:1")), "no port is in use");
        let port = router.send(Instant::ZERO, at("11.0.0.1:1"));
        let later = Instant::ZERO + LIFETIME;
        assert!(!router.accepts(later, port, at("11.0.0.1:1")), "the port is forgotten");
    }

    #[test]
    fn the_shares_are_those_of_the_publications() {
        let kinds: Vec<_> = (0..100).map(Nat::drawn).collect();
        let same_port = kinds.iter().filter(|nat| nat.mapping == Dependence::Endpoint).count();
        assert_eq!(same_port, 82);
        let pairs = kinds.iter().flat_map(|a| kinds.iter().map(move |b| a.can_meet(*b)));
        assert_eq!(pairs.filter(|can_meet| *can_meet).count(), 7_012);
    }
}
