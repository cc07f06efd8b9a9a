//! The network between nodes: latencies, bandwidth, and addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::address::{Address, DEFAULT_PORT};

/// The network between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The time that a byte takes from one node to another.
    pub latency: Latency,
    /// The longest additional time, drawn for each frame. Frames of one link stay in order.
    pub jitter: Duration,
    /// Bytes per second that a link carries in each direction; `None` for no limit. Frames that do not
    /// fit wait in the link's queues, as on a real node: those of the overlay before messages. The connection
    /// of a fetch to each of its sources carries as much, beside the link.
    pub bandwidth: Option<u64>,
}

/// The time that a byte takes from one node to another. It is the same in both directions, and drawn
/// once for each pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Latency {
    /// The same for all.
    Fixed(Duration),
    /// Drawn evenly between two bounds.
    Uniform {
        /// The lower bound.
        min: Duration,
        /// The upper bound.
        max: Duration,
    },
    /// Nodes spread over six regions of the world. The latency is about 5 to 35 ms within a region, and
    /// 40 to 170 ms between regions. This is a model with the two humps that measurements of the
    /// internet show, not a measurement.
    ///
    /// Each node has a point on a plane whose unit of length is a microsecond: the centre of its
    /// region, and up to 10 ms to each side. The latency is the distance of the two points and both
    /// nodes' time to the nearest exchange, 1 to 8 ms each.
    Internet,
}

impl Default for Network {
    /// Returns [`Latency::Internet`] without jitter and without a limit of bandwidth.
    fn default() -> Self {
        Self { latency: Latency::Internet, jitter: Duration::ZERO, bandwidth: None }
    }
}

/// The centres of the regions, in microseconds, and the share of nodes there, in sixteenths.
const REGIONS: [(i64, i64, u64); 6] = [
    (0, 0, 3),             // America, north-east
    (-30_000, 5_000, 2),   // America, west
    (45_000, 0, 5),        // Europe
    (15_000, 75_000, 4),   // Asia
    (-35_000, -48_000, 1), // America, south
    (-35_000, 95_000, 1),  // Australia
];

/// Half the width of a region.
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
                // In order, so that both directions have the same latency. It is computed each time,
                // because ten thousand nodes have fifty million pairs.
                let (low, high) = (a.min(b) as u64, a.max(b) as u64);
                let drawn = mix(mix(seed ^ mix(low)) ^ high);
                let span = u64::try_from(max.saturating_sub(min).as_micros()).unwrap_or(u64::MAX);
                min + Duration::from_micros(drawn % span.saturating_add(1))
            }
            Self::Internet => {
                let ((ax, ay, a_way), (bx, by, b_way)) = (location(seed, a), location(seed, b));
                let (dx, dy) = (ax.abs_diff(bx), ay.abs_diff(by));
                Duration::from_micros((dx * dx + dy * dy).isqrt() + a_way + b_way)
            }
        }
    }
}

/// Returns a node's point on the plane, and its time to the nearest exchange.
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
    let mut aside = || below(2 * SPREAD.unsigned_abs() + 1).cast_signed() - SPREAD;
    let (x, y) = (x + aside(), y + aside());
    (x, y, 1000 + below(7001))
}

/// Mixes bits (the finalizer of splitmix64: Steele, Lea, Flood, 2014).
pub(super) fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// First octets of the public IPv4 addresses: 11 to 99, none of which is special.
const FIRST_OCTET: usize = 11;
const FIRST_OCTETS: usize = 89;

/// Number of nodes that have an IPv4 /16 of their own. The overlay takes the addresses of a /16 for those of
/// one owner, and spreads its contacts over many owners.
const SUBNETS: usize = FIRST_OCTETS * 256;

/// Returns the public IPv4 address of a node. The first 22,784 each have a /16 of their own.
pub(super) fn public_ip(node: usize) -> Ipv4Addr {
    let (group, rank) = (node % SUBNETS, node / SUBNETS + 1);
    let octet = |n: usize| u8::try_from(n % 256).unwrap_or_default();
    Ipv4Addr::new(
        octet(FIRST_OCTET + group % FIRST_OCTETS),
        octet(group / FIRST_OCTETS),
        octet(rank / 256),
        octet(rank),
    )
}

/// Returns the address of a node behind a NAT in its own network, where no other node reaches it.
pub(super) fn private_ip(node: usize) -> Ipv4Addr {
    let octet = |n: usize| u8::try_from(n % 254 + 1).unwrap_or_default();
    Ipv4Addr::new(192, 168, octet(node / 254), octet(node))
}

/// Returns the node that has an address, if there is one. The port has to be the one that nodes listen
/// on.
pub(super) fn node_at(address: &Address) -> Option<usize> {
    let IpAddr::V4(ip) = address.socket()?.ip() else { return None };
    let [a, b, c, d] = ip.octets().map(usize::from);
    let rank = (c * 256 + d).checked_sub(1)?;
    let node = rank * SUBNETS + b * FIRST_OCTETS + a.checked_sub(FIRST_OCTET)?;
    // An address outside of the nodes' range also gives a number, but that node has another address.
    (address.port == DEFAULT_PORT && public_ip(node) == ip).then_some(node)
}

/// Returns an IP address with the port that nodes listen on.
pub(super) fn address(ip: Ipv4Addr) -> Address {
    Address::from_socket(SocketAddr::new(ip.into(), DEFAULT_PORT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ten_thousand_nodes_have_groups_and_addresses_of_their_own() {
        let ips: Vec<_> = (0..10_000).map(public_ip).collect();
        let groups: BTreeSet<_> = ips.iter().map(|ip| [ip.octets()[0], ip.octets()[1]]).collect();
        assert_eq!(groups.len(), 10_000);
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
    fn latencies_are_the_same_both_ways_and_within_their_bounds() {
        let millis = Duration::from_millis;
        let uniform = Latency::Uniform { min: millis(10), max: millis(20) };
        let mut humps = [0; 3];
        for (a, b) in (0..40).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let drawn = uniform.between(7, a, b);
            assert!(drawn >= millis(10) && drawn <= millis(20));
            assert_eq!(drawn, uniform.between(7, b, a));
            let drawn = Latency::Internet.between(7, a, b);
            assert_eq!(drawn, Latency::Internet.between(7, b, a));
            assert!(drawn >= millis(2) && drawn < millis(200), "{drawn:?}");
            humps[if drawn < millis(35) {
                0
            } else if drawn < millis(45) {
                1
            } else {
                2
            }] += 1;
        }
        assert!(humps[0] > humps[1] && humps[2] > humps[1], "{humps:?}");
        assert_eq!(Latency::Fixed(millis(5)).between(7, 3, 3), Duration::ZERO);
        assert_ne!(uniform.between(7, 1, 2), uniform.between(8, 1, 2));
    }
}
