//! Groups of addresses that probably belong to one owner. Limits and choices that protect a node from one
//! owner of many addresses count groups instead of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address::Address;

/// A group of IP addresses, as in Bitcoin Core's address manager: the first 16 bits of an IPv4 address, or
/// the first 32 bits of an IPv6 address. One owner often has many addresses of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressGroup(IpAddr);

impl AddressGroup {
    /// Returns the bits of the group's prefix, followed by zeros. Each group has other bits.
    pub(crate) fn bits(self) -> u128 {
        match self.0 {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
            IpAddr::V6(ip) => ip.to_bits(),
        }
    }
}

/// Decides which addresses have groups and limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddressGroups {
    /// Whether loopback addresses are treated like any others: see
    /// [`Config::limit_loopback`](crate::config::Config::limit_loopback).
    pub limit_loopback: bool,
}

impl AddressGroups {
    /// Returns the group of an IP address. Private and link-local addresses have no group: the nodes of one
    /// private network would share a group, although they have several owners.
    #[must_use]
    pub fn group(self, ip: IpAddr) -> Option<AddressGroup> {
        let ip = ip.to_canonical();
        if ip.is_loopback() && !self.limit_loopback {
            return None;
        }
        let group = match ip {
            IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() => return None,
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                IpAddr::V4(Ipv4Addr::new(a, b, 0, 0))
            }
            IpAddr::V6(ip) if ip.is_unique_local() || ip.is_unicast_link_local() => return None,
            IpAddr::V6(ip) => ipv6_prefix(ip, 32),
        };
        Some(AddressGroup(group))
    }

    /// Returns the group of an address. A host name has none.
    // The node that dials a name knows what it resolves to, and can use `group` for the IP address.
    #[must_use]
    pub fn group_of(self, address: &Address) -> Option<AddressGroup> {
        self.group(address.socket()?.ip())
    }

    /// Returns the part of an IP address by which connections of one host are counted: all of an IPv4 address,
    /// the first 64 bits of an IPv6 address, as a host can choose the other 64 freely (RFC 4291, section
    /// 2.5.1). Returns `None` for a loopback address that is not limited: all nodes of a machine and all
    /// clients of a local proxy share it.
    #[must_use]
    pub fn host(self, ip: IpAddr) -> Option<IpAddr> {
        match ip.to_canonical() {
            ip if ip.is_loopback() && !self.limit_loopback => None,
            IpAddr::V6(ip) if !ip.is_loopback() => Some(ipv6_prefix(ip, 64)),
            ip => Some(ip),
        }
    }

    /// Returns three prefixes of an IP address, the shortest first: the group, the subnet (the first 24 bits of an
    /// IPv4 address, or the first 48 bits of an IPv6 address), and the host. All are `None` if the address is not
    /// limited. An address without a group has its host in place of all three.
    #[must_use]
    pub fn prefixes(self, ip: IpAddr) -> [Option<IpAddr>; 3] {
        let host = self.host(ip);
        let Some(AddressGroup(group)) = self.group(ip) else { return [host; 3] };
        let subnet = match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                IpAddr::V4(Ipv4Addr::new(a, b, c, 0))
            }
            IpAddr::V6(ip) => ipv6_prefix(ip, 48),
        };
        [Some(group), Some(subnet), host]
    }
}

/// A network that is not part of the internet: each address in it means different hosts at different places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PrivateNetwork {
    /// The addresses of this machine that no other one reaches.
    Loopback,
    /// IPv4 addresses (RFC 1918, RFC 3927, RFC 6598), named by the first address of their block.
    V4([u8; 2]),
    /// Unique local IPv6 addresses (RFC 4193).
    UniqueLocal,
    /// Link-local IPv6 addresses (RFC 4291, section 2.5.6).
    LinkLocal,
}

impl PrivateNetwork {
    /// Returns the private network that an IP address is in; `None` if it is an address of the internet.
    #[must_use]
    pub fn of(ip: IpAddr) -> Option<Self> {
        match ip.to_canonical() {
            // A connection to the unspecified address reaches this machine.
            ip if ip.is_loopback() || ip.is_unspecified() => Some(Self::Loopback),
            IpAddr::V4(ip) => match ip.octets() {
                [0, ..] => Some(Self::Loopback),
                [10, ..] => Some(Self::V4([10, 0])),
                [172, 16..=31, ..] => Some(Self::V4([172, 16])),
                [192, 168, ..] => Some(Self::V4([192, 168])),
                [169, 254, ..] => Some(Self::V4([169, 254])),
                [100, 64..=127, ..] => Some(Self::V4([100, 64])),
                _ => None,
            },
            IpAddr::V6(ip) if ip.is_unique_local() => Some(Self::UniqueLocal),
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(Self::LinkLocal),
            IpAddr::V6(_) => None,
        }
    }
}

fn ipv6_prefix(ip: Ipv6Addr, bits: u32) -> IpAddr {
    let kept = u128::MAX.checked_shl(128_u32.saturating_sub(bits)).unwrap_or_default();
    IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(ip: &str, limit_loopback: bool) -> Option<String> {
        let group = AddressGroups { limit_loopback }.group(ip.parse().unwrap());
        group.map(|AddressGroup(ip)| ip.to_string())
    }

    fn host(ip: &str, limit_loopback: bool) -> Option<String> {
        AddressGroups { limit_loopback }.host(ip.parse().unwrap()).map(|ip| ip.to_string())
    }

    #[test]
    fn addresses_of_one_prefix_share_a_group() {
        for (ip, expected) in [
            ("198.51.100.7", Some("198.51.0.0")),
            ("::ffff:198.51.100.7", Some("198.51.0.0")),
            ("2001:db8:aaaa:bbbb::1", Some("2001:db8::")),
            ("10.1.2.3", None),
            ("192.168.1.2", None),
            ("169.254.3.4", None),
            ("fd00::1", None),
            ("fe80::1", None),
            ("127.3.0.1", None),
            ("::1", None),
        ] {
            assert_eq!(group(ip, false).as_deref(), expected, "{ip}");
        }
        assert_eq!(group("127.3.0.1", true).as_deref(), Some("127.3.0.0"));
        assert_eq!(group("::ffff:127.3.0.1", true).as_deref(), Some("127.3.0.0"));
        assert_eq!(group("::1", true).as_deref(), Some("::"));
    }

    #[test]
    fn an_address_has_three_prefixes() {
        let prefixes = |ip: &str, limit_loopback| {
            let prefixes = AddressGroups { limit_loopback }.prefixes(ip.parse().unwrap());
            prefixes.map(|prefix| prefix.map_or("none".into(), |prefix| prefix.to_string()))
        };
        let ipv4 = ["198.51.0.0", "198.51.100.0", "198.51.100.7"];
        assert_eq!(prefixes("::ffff:198.51.100.7", false), ipv4);
        let ipv6 = ["2001:db8::", "2001:db8:aaaa::", "2001:db8:aaaa:bbbb::"];
        assert_eq!(prefixes("2001:db8:aaaa:bbbb::1", false), ipv6);
        assert_eq!(prefixes("10.1.2.3", false), ["10.1.2.3"; 3]);
        assert_eq!(prefixes("127.3.0.1", false), ["none"; 3]);
        assert_eq!(prefixes("127.3.4.1", true), ["127.3.0.0", "127.3.4.0", "127.3.4.1"]);
    }

    #[test]
    fn a_host_is_an_ipv4_address_or_half_of_an_ipv6_address() {
        for (ip, expected) in [
            ("198.51.100.7", Some("198.51.100.7")),
            ("::ffff:198.51.100.7", Some("198.51.100.7")),
            ("2001:db8:aaaa:bbbb:1:2:3:4", Some("2001:db8:aaaa:bbbb::")),
            ("10.1.2.3", Some("10.1.2.3")),
            ("127.3.0.1", None),
            ("::1", None),
        ] {
            assert_eq!(host(ip, false).as_deref(), expected, "{ip}");
        }
        assert_eq!(host("127.3.0.1", true).as_deref(), Some("127.3.0.1"));
        assert_eq!(host("::1", true).as_deref(), Some("::1"));
    }
}
