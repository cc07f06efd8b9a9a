//! The network between simulated nodes: latencies, bandwidth and addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::address::{Address, DEFAULT_PORT};

/// The network between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The time that a byte takes from one node to another.
    pub latency: Latency,
    /// Maximum additional latency. The actual one is random for each frame. Frames of one link stay in order.
    pub jitter: Duration,
    /// Number of bytes per second that a link carries in each direction; `None` for no limit. Frames that can't
    /// be sent yet wait in the link's queues, as on a real node, and frames of the overlay are sent before
    /// messages. Each connection between a fetch and one of its sources has the same bandwidth of its own.
    pub bandwidth: Option<u64>,
}

/// The time that a byte takes from one node to another. Each pair of nodes has one latency for both
/// directions, which does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Latency {
    /// The same latency for all pairs of nodes.
    Fixed(Duration),
    /// A random latency for each pair of nodes, uniformly distributed between two bounds.
    Uniform {
        /// Minimum latency.
        min: Duration,
        /// Maximum latency.
        max: Duration,
    },
    /// Nodes in six regions of the world. The latency is about 5 to 35 ms within a region, and 40 to 170 ms
    /// between regions. This is not a measurement, but a model whose distribution has two peaks, as
    /// measurements of the internet have.
    ///
    /// Each node has a point on a plane whose unit of length is a microsecond. The point is at most 10 ms away
    /// from the centre of the node's region, in each coordinate. The latency is the distance between the two
    /// points, plus the time from each node to its nearest exchange, which is 1 to 8 ms.
    Internet,
}

impl Default for Network {
    /// Returns a network with [`Latency::Internet`], no jitter and unlimited bandwidth.
    fn default() -> Self {
        Self { latency: Latency::Internet, jitter: Duration::ZERO, bandwidth: None }
    }
}

/// For each region its centre, in microseconds, and its share of the nodes, in sixteenths.
const REGIONS: [(i64, i64, u64); 6] = [
    (0, 0, 3),             // America, north-east
    (-30_000, 5_000, 2),   // America, west
    (45_000, 0, 5),        // Europe
    (15_000, 75_000, 4),   // Asia
    (-35_000, -48_000, 1), // America, south
    (-35_000, 95_000, 1),  // Australia
];

/// Half the width of a region, in microseconds.
const SPREAD: i64 = 10_000;

impl Latency {
    /// Returns the latency between nodes `a` and `b`; zero from a node to itself.
    pub(super) fn between(self, seed: u64, a: usize, b: usize) -> Duration {
        if a == b {
            return Duration::ZERO;
        }
        match self {
            Self::Fixed(latency) => latency,
            Self::Uniform { min, max } => {
                // The nodes are sorted, so that both directions have the same latency. It is computed anew each
                // time, because ten thousand nodes have fifty million pairs.
                let (low, high) = (a.min(b) as u64, a.max(b) as u64);
                let drawn = mix(mix(seed ^ mix(low)) ^ high);
                let span = u64::try_from(max.saturating_sub(min).as_micros()).unwrap_or(u64::MAX);
                min + Duration::from_micros(drawn % span.saturating_add(1))
            }
            Self::Internet => {
                let ((ax, ay, a_exchange), (bx, by, b_exchange)) =
                    (location(seed, a), location(seed, b));
                let (dx, dy) = (ax.abs_diff(bx), ay.abs_diff(by));
                Duration::from_micros((dx * dx + dy * dy).isqrt() + a_exchange + b_exchange)
            }
        }
    }
}

/// Returns a node's point on the plane, and the time from the node to its nearest exchange, in microseconds.
fn location(seed: u64, node: usize) -> (i64, i64, u64) {
    let mut drawn = mix(seed ^ mix(0x9_1ace ^ ((node as u64) << 20)));
    let mut below = |bound: u64| {
        drawn = mix(drawn);
        drawn % bound
    };
    let mut share = below(REGIONS.iter().map(|region| region.2).sum());
    let region = REGIONS.iter().find(|region| {
        let here = share < region.2;
        share = share.wrapping_sub(region.2);
        here
    });
    let (x, y, _) = region.copied().unwrap_or_default();
    let mut offset = || below(2 * SPREAD.unsigned_abs() + 1).cast_signed() - SPREAD;
    let (x, y) = (x + offset(), y + offset());
    (x, y, 1000 + below(7001))
}

/// Mixes bits (the finalizer of splitmix64: Steele, Lea, Flood, 2014).
pub(super) fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Range of the first octets of public IPv4 addresses: 11 to 99, which have no special meaning.
const FIRST_OCTET: usize = 11;
const FIRST_OCTETS: usize = 89;

/// Number of /16 subnets. The first nodes each have one of their own, because the overlay treats the addresses
/// of one /16 as those of one owner, and spreads its contacts over many owners.
const SUBNETS: usize = FIRST_OCTETS * 256;

/// Returns the public IPv4 address of a node. Each of the first 22,784 nodes has a /16 of its own.
pub(super) fn public_ip(node: usize) -> Ipv4Addr {
    let (subnet, rank) = (node % SUBNETS, node / SUBNETS + 1);
    let octet = |n: usize| u8::try_from(n % 256).unwrap_or_default();
    Ipv4Addr::new(
        octet(FIRST_OCTET + subnet % FIRST_OCTETS),
        octet(subnet / FIRST_OCTETS),
        octet(rank / 256),
        octet(rank),
    )
}

/// First octet of the addresses in the groups of [`NodeOptions::group`](super::NodeOptions::group). No other node
/// has such an address.
const GROUP_OCTET: u8 = 200;

/// Returns the public IPv4 address of a node in one of a few /16 subnets. There is room for 65,536 nodes.
pub(super) fn ip_in_group(node: usize, group: u8) -> Ipv4Addr {
    let octet = |n: usize| u8::try_from(n % 256).unwrap_or_default();
    Ipv4Addr::new(GROUP_OCTET, group, octet(node / 256), octet(node))
}

/// Returns the private address of a node behind a NAT, at which no other node can reach it.
pub(super) fn private_ip(node: usize) -> Ipv4Addr {
    let octet = |n: usize| u8::try_from(n % 254 + 1).unwrap_or_default();
    Ipv4Addr::new(192, 168, octet(node / 254), octet(node))
}

/// Returns the number of the node that has an address; `None` if the address can't be that of a node, or the
/// port is not the one that nodes listen on. The simulation may have no node of this number, or that node may have
/// an address in another group.
pub(super) fn node_at(address: &Address) -> Option<usize> {
    let IpAddr::V4(ip) = address.socket()?.ip() else { return None };
    let [a, b, c, d] = ip.octets().map(usize::from);
    if ip.octets()[0] == GROUP_OCTET {
        return (address.port == DEFAULT_PORT).then_some(c * 256 + d);
    }
    let rank = (c * 256 + d).checked_sub(1)?;
    let node = rank * SUBNETS + b * FIRST_OCTETS + a.checked_sub(FIRST_OCTET)?;
    // For an address that belongs to no node the formula also gives a number, but the node of that number has
    // another address.
    (address.port == DEFAULT_PORT && public_ip(node) == ip).then_some(node)
}

/// Returns an address with this IP address and the port that nodes listen on.
pub(super) fn address(ip: Ipv4Addr) -> Address {
    Address::from_socket(SocketAddr::new(ip.into(), DEFAULT_PORT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ten_thousand_nodes_have_different_subnets_and_addresses() {
        let ips: Vec<_> = (0..10_000).map(public_ip).collect();
        let subnets: BTreeSet<_> = ips.iter().map(|ip| [ip.octets()[0], ip.octets()[1]]).collect();
        assert_eq!(subnets.len(), 10_000);
        for node in [0, 1, 88, 89, 9_999, SUBNETS - 1, SUBNETS, 300 * SUBNETS + 7] {
            assert_eq!(node_at(&address(public_ip(node))), Some(node));
        }
        let other_port = Address { port: 7118, ..address(public_ip(3)) };
        assert_eq!(node_at(&other_port), None);
        for unused in ["192.168.1.1:7117", "10.0.0.1:7117", "[::1]:7117", "a.example:7117"] {
            assert_eq!(node_at(&unused.parse().unwrap()), None, "{unused}");
        }
    }

    #[test]
    fn latencies_are_equal_in_both_directions_and_within_their_bounds() {
        let millis = Duration::from_millis;
        let uniform = Latency::Uniform { min: millis(10), max: millis(20) };
        let mut peaks = [0; 3];
        for (a, b) in (0..40).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let drawn = uniform.between(7, a, b);
            assert!(drawn >= millis(10) && drawn <= millis(20));
            assert_eq!(drawn, uniform.between(7, b, a));
            let drawn = Latency::Internet.between(7, a, b);
            assert_eq!(drawn, Latency::Internet.between(7, b, a));
            assert!(drawn >= millis(2) && drawn < millis(200), "{drawn:?}");
            peaks[if drawn < millis(35) {
                0
            } else if drawn < millis(45) {
                1
            } else {
                2
            }] += 1;
        }
        assert!(peaks[0] > peaks[1] && peaks[2] > peaks[1], "{peaks:?}");
        assert_eq!(Latency::Fixed(millis(5)).between(7, 3, 3), Duration::ZERO);
        assert_ne!(uniform.between(7, 1, 2), uniform.between(8, 1, 2));
    }
}
