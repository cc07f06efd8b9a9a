//! Mapped ports: the router of this node's network forwards some of its ports to the node.
//!
//! The shell asks the router. What follows from the answer is decided here: a mapped address is announced unless the
//! router can't know the address at which the internet reaches it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::address::{Address, Scheme};
use crate::address_group::PrivateNetwork;
use crate::time::Instant;

/// A protocol by which a router maps ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MappingProtocol {
    /// The Port Control Protocol (RFC 6887).
    Pcp,
    /// The NAT Port Mapping Protocol (RFC 6886).
    NatPmp,
    /// The Internet Gateway Device protocol of UPnP.
    Upnp,
}

impl fmt::Display for MappingProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        })
    }
}

/// The ports of a router that the router forwards to this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// The protocol with which they were mapped.
    pub protocol: MappingProtocol,
    /// The address of the router on the side of the internet, as the router reports it.
    pub external_ip: IpAddr,
    /// The TCP ports of the router, in the order of this node's listeners.
    pub tcp: Vec<u16>,
    /// The UDP ports of the router.
    pub udp: Vec<u16>,
    /// The time at which the router forgets the first of the ports, unless they are renewed.
    pub until: Instant,
}

/// The reason why no port is mapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MappingFailure {
    /// No socket of this node gets the packets that the router forwards.
    #[error("it does not listen at the address to which its router would forward a port")]
    NotListening,
    /// This machine has an address of the internet, so no NAT is between the two.
    #[error("its machine has an address of the internet, so no port has to be mapped")]
    NotNeeded,
    /// This machine has no default route.
    #[error("its machine has no default route, so there is no router to map a port")]
    NoRouter,
    /// The router does not answer in any of the protocols.
    #[error("its router offers none of PCP, NAT-PMP and UPnP")]
    NotOffered,
    /// The router has answered, but maps no port.
    #[error("its router maps no port ({protocol}): {why}")]
    Refused {
        /// The protocol of the answer.
        protocol: MappingProtocol,
        /// The answer.
        why: String,
    },
}

/// What is known about the mapping of this node's ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MappingState {
    /// No router is asked.
    #[default]
    Off,
    /// The router has not answered yet.
    Searching,
    /// The router forwards ports.
    Mapped(PortMapping),
    /// No port is mapped.
    Failed(MappingFailure),
}

/// What a mapped address is worth.
pub(super) enum MappedReach {
    /// No port is mapped.
    Nothing,
    /// The internet reaches this node at these addresses.
    Addresses(Vec<Address>),
    /// Another router is in the way.
    Behind,
}

impl PortMapping {
    /// Returns the addresses at which the router forwards to this node: those for TCP, then those for UDP.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        let at = |port: &u16| Address::from_socket(SocketAddr::new(self.external_ip, *port));
        let tcp = self.tcp.iter().map(at);
        let udp = self.udp.iter().map(|port| at(port).with_scheme(Scheme::Quic));
        tcp.chain(udp).collect()
    }
}

impl MappingState {
    /// Returns what the mapping is worth. `seen` is the IP address at which observers of different address groups see
    /// this node.
    pub(super) fn reach(&self, seen: Option<IpAddr>) -> MappedReach {
        let Self::Mapped(mapping) = self else { return MappedReach::Nothing };
        let ip = mapping.external_ip;
        let is_other = seen.is_some_and(|seen| seen.is_ipv4() == ip.is_ipv4() && seen != ip);
        if PrivateNetwork::of(ip).is_some() || ip.is_multicast() || is_other {
            return MappedReach::Behind;
        }
        MappedReach::Addresses(mapping.addresses())
    }

    /// Returns what is known, in words; `None` if the router is not asked.
    pub(super) fn words(&self, seen: Option<IpAddr>) -> Option<String> {
        let mapping = match self {
            Self::Off => return None,
            Self::Searching => return Some("its router was asked to map its port".to_owned()),
            Self::Failed(why) => return Some(why.to_string()),
            Self::Mapped(mapping) => mapping,
        };
        let PortMapping { protocol, external_ip, .. } = mapping;
        Some(match (self.reach(seen), seen) {
            (MappedReach::Behind, Some(seen)) if PrivateNetwork::of(*external_ip).is_none() => {
                format!(
                    "its router maps its port ({protocol}) at {external_ip}, but peers see it at {seen}, so another \
                     router is in the way"
                )
            }
            (MappedReach::Behind, _) => format!(
                "its router maps its port ({protocol}), but has the private address {external_ip}, so another router \
                 is in the way"
            ),
            _ => {
                let at: Vec<String> = mapping.addresses().iter().map(ToString::to_string).collect();
                format!("its router forwards {} to it ({protocol})", at.join(" and "))
            }
        })
    }
}
