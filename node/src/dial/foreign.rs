//! Limits on dials to addresses that other nodes have chosen.
//!
//! Any member can name addresses: in its record, in answers to queries, among the followers of a file, and in
//! requests for call-backs. Without limits it could make the nodes of a network dial a third party, or a
//! service in a private network that it can't reach itself. So each host gets few such dials, and so do all
//! hosts together. A dial that reaches the expected node costs nothing, as it was no dial of a third party.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerkit_proto::address_group::{AddressGroups, PrivateNetwork};
use peerkit_proto::bucket::Bucket;
use peerkit_proto::id::NodeId;
use peerkit_proto::peer::Purpose;
use peerkit_proto::time::Instant;

use crate::lock::lock;

/// The source of a dialled address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DialOrigin {
    /// The application or its user: an address that was given, a ticket, a link to keep.
    Own,
    /// The overlay: the record of a node.
    Record,
    /// An answer to a query, or the followers of a file.
    Answer,
    /// A request for a call-back.
    CallBack,
    /// The candidates for hole punching.
    Meeting,
}

/// The limits for one origin. The origins have separate buckets, so that false requests for call-backs do not
/// keep this node from its neighbours.
struct OriginLimits {
    /// Number of dials of one host in a burst, and the time in which one more is earned.
    of_host: (u32, Duration),
    /// The same for all hosts together.
    of_all: (u32, Duration),
}

impl DialOrigin {
    /// Returns the limits, or `None` if there are none.
    fn limits(self) -> Option<OriginLimits> {
        let seconds = Duration::from_secs;
        match self {
            Self::Own => None,
            // A host with several nodes, of which some have stopped, stays reachable.
            Self::Record | Self::Answer => {
                Some(OriginLimits { of_host: (4, seconds(15)), of_all: (64, seconds(1)) })
            }
            // The candidates of a node at one host: those that two observers see, and a mapped one. Each gets up to
            // five packets, and one that ends the attempt.
            Self::Meeting => {
                Some(OriginLimits { of_host: (3, seconds(15)), of_all: (64, seconds(1)) })
            }
            // Requests come from any member, without any action of this node.
            Self::CallBack => {
                Some(OriginLimits { of_host: (2, seconds(60)), of_all: (16, seconds(1)) })
            }
        }
    }

    /// Returns the origin of the addresses that are dialled for a link with this purpose.
    pub(crate) fn of_link(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Application | Purpose::Join | Purpose::Rejoin | Purpose::Reconnect => {
                Self::Own
            }
            Purpose::Overlay => Self::Record,
            Purpose::Message => Self::Answer,
            Purpose::Meeting => Self::Meeting,
        }
    }
}

/// Maximum number of addresses at which the expected node was reached, and the time for which each is
/// remembered. 1,024: more than a node has links and sources.
const MAX_PROVEN: usize = 1024;
const PROVEN_TIME: Duration = Duration::from_secs(3600);

/// Number of buckets of hosts above which full ones are removed. The limits for all hosts together keep the
/// number of others far below it.
const MAX_HOSTS: usize = 1024;

/// The limits on dials of foreign addresses.
#[derive(Debug)]
pub(crate) struct ForeignDials {
    groups: AddressGroups,
    state: Mutex<State>,
    /// True if nodes on this machine's loopback interface belong to the network, as far as this node knows: it
    /// listens at no other address, or has had a link over the interface.
    uses_loopback: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    all: BTreeMap<DialOrigin, Bucket>,
    hosts: BTreeMap<(DialOrigin, IpAddr), Bucket>,
    /// The addresses at which the expected node was reached, each with the time of the last success.
    proven: BTreeMap<(NodeId, SocketAddr), Instant>,
}

/// The reason why an address is not dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotDialled {
    #[error("not dialled: it is in a private network in which this node has no address")]
    OtherNetwork,
    #[error(
        "not dialled: other nodes have named too many addresses at which the expected node did not answer"
    )]
    TooMany,
}

/// Permission for one dial of a foreign address. The dial counts until [`DialPermit::reached`].
#[derive(Debug)]
pub(crate) struct DialPermit {
    dials: Arc<ForeignDials>,
    /// `None` if the dial has no limits.
    counted: Option<(DialOrigin, IpAddr)>,
    socket: SocketAddr,
}

impl ForeignDials {
    pub(crate) fn new(groups: AddressGroups, listening: &[SocketAddr]) -> Arc<Self> {
        let uses_loopback = AtomicBool::new(listening.iter().all(|at| at.ip().is_loopback()));
        Arc::new(Self { groups, state: Mutex::default(), uses_loopback })
    }

    /// Notes that there is a link with a node at this address.
    pub(crate) fn note_link(&self, ip: IpAddr) {
        if ip.to_canonical().is_loopback() {
            self.uses_loopback.store(true, Ordering::Relaxed);
        }
    }

    /// Returns the permission to dial `socket`, which should lead to the node `expected`. `own` are the
    /// addresses of this machine.
    pub(crate) fn permit(
        self: &Arc<Self>,
        now: Instant,
        origin: DialOrigin,
        (expected, socket): (Option<NodeId>, SocketAddr),
        own: &[IpAddr],
    ) -> Result<DialPermit, NotDialled> {
        let permit = |counted| DialPermit { dials: self.clone(), counted, socket };
        let Some(limits) = origin.limits() else { return Ok(permit(None)) };
        if !self.is_in_reach(socket.ip(), own) {
            return Err(NotDialled::OtherNetwork);
        }
        let Some(host) = self.groups.host(socket.ip()) else { return Ok(permit(None)) };
        let mut state = lock(&self.state);
        let proven = expected.and_then(|id| state.proven.get(&(id, socket)));
        if proven.is_some_and(|at| now.since(*at) < PROVEN_TIME) {
            return Ok(permit(None));
        }
        if state.hosts.len() >= MAX_HOSTS {
            state.hosts.retain(|_, bucket| bucket.full_at() > now);
        }
        let (burst, each) = limits.of_host;
        let of_host = state.hosts.entry((origin, host)).or_default();
        if !of_host.take(now, each, each * burst) {
            return Err(NotDialled::TooMany);
        }
        let (burst, each) = limits.of_all;
        if !state.all.entry(origin).or_default().take(now, each, each * burst) {
            state.give_back_host(origin, host);
            return Err(NotDialled::TooMany);
        }
        Ok(permit(Some((origin, host))))
    }

    /// Returns whether an address is public, or in a private network in which this node has an address too.
    fn is_in_reach(&self, ip: IpAddr, own: &[IpAddr]) -> bool {
        match PrivateNetwork::of(ip) {
            None => true,
            Some(PrivateNetwork::Loopback) => self.uses_loopback.load(Ordering::Relaxed),
            network => own.iter().any(|own| PrivateNetwork::of(*own) == network),
        }
    }
}

impl State {
    fn give_back_host(&mut self, origin: DialOrigin, host: IpAddr) {
        if let (Some(limits), Some(bucket)) = (origin.limits(), self.hosts.get_mut(&(origin, host)))
        {
            bucket.give_back(limits.of_host.1);
        }
    }
}

impl DialPermit {
    /// Notes that the dial has reached the expected node. Such a dial does not count.
    pub(crate) fn reached(self, now: Instant, id: NodeId) {
        let Some((origin, host)) = self.counted else { return };
        let Some(limits) = origin.limits() else { return };
        let mut state = lock(&self.dials.state);
        state.give_back_host(origin, host);
        if let Some(all) = state.all.get_mut(&origin) {
            all.give_back(limits.of_all.1);
        }
        if state.proven.len() >= MAX_PROVEN {
            let oldest = state.proven.iter().min_by_key(|(_, at)| **at).map(|(key, _)| *key);
            oldest.map(|key| state.proven.remove(&key));
        }
        state.proven.insert((id, self.socket), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerkit_proto::id::Key;

    const SECOND: Duration = Duration::from_secs(1);

    fn dials(listening: &str) -> Arc<ForeignDials> {
        ForeignDials::new(AddressGroups::default(), &[listening.parse().unwrap()])
    }

    fn id() -> NodeId {
        Key::from_secret(&[1; 32]).id()
    }

    fn permit(
        dials: &Arc<ForeignDials>,
        seconds: u32,
        origin: DialOrigin,
        to: &str,
    ) -> Result<DialPermit, NotDialled> {
        let now = Instant::ZERO + SECOND * seconds;
        let own = ["192.168.1.7".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        dials.permit(now, origin, (Some(id()), to.parse().unwrap()), &own)
    }

    #[test]
    fn a_third_party_gets_few_dials_whatever_its_ports() {
        let dials = dials("0.0.0.0:7117");
        let allowed = (0..7_000_u32).filter(|n| {
            let to = format!("198.51.100.1:{}", 1 + n);
            permit(&dials, n / 3_000, DialOrigin::CallBack, &to).is_ok()
        });
        assert_eq!(allowed.count(), 2);
        assert!(permit(&dials, 3, DialOrigin::CallBack, "198.51.100.2:1").is_ok());
        assert!(permit(&dials, 3, DialOrigin::Own, "198.51.100.1:1").is_ok());
        assert!(permit(&dials, 3, DialOrigin::Record, "198.51.100.1:1").is_ok());
        assert!(permit(&dials, 62, DialOrigin::CallBack, "198.51.100.1:1").is_ok());
    }

    #[test]
    fn a_host_that_is_named_as_a_candidate_gets_few_attempts() {
        let dials = dials("0.0.0.0:7117");
        let is_allowed = |n: u32| {
            let to = format!("198.51.100.1:{}", 1 + n);
            permit(&dials, n / 8, DialOrigin::Meeting, &to).is_ok()
        };
        assert_eq!((0..104).filter(|n| is_allowed(*n)).count(), 3, "within 13 s");
    }

    #[test]
    fn many_third_parties_get_few_dials_in_a_second() {
        let dials = dials("0.0.0.0:7117");
        let allowed = (0..10_000_u32).filter(|n| {
            let to = format!("198.51.{}.{}:7117", n / 256, n % 256);
            permit(&dials, n / 1_000, DialOrigin::CallBack, &to).is_ok()
        });
        assert_eq!(allowed.count(), 16 + 9);
        assert!(lock(&dials.state).hosts.len() <= MAX_HOSTS);
    }

    #[test]
    fn dials_that_reach_the_expected_node_do_not_count() {
        let dials = dials("0.0.0.0:7117");
        let to = "198.51.100.1:7117";
        for _ in 0..100 {
            permit(&dials, 0, DialOrigin::CallBack, to).unwrap().reached(Instant::ZERO, id());
        }
        // Another port of the host still has the whole burst.
        for _ in 0..2 {
            permit(&dials, 0, DialOrigin::CallBack, "198.51.100.1:1").unwrap();
        }
        assert_eq!(
            permit(&dials, 0, DialOrigin::CallBack, "198.51.100.1:1").unwrap_err(),
            NotDialled::TooMany
        );
        assert!(permit(&dials, 0, DialOrigin::CallBack, to).is_ok(), "the node was reached there");
    }

    #[test]
    fn private_networks_are_dialled_only_from_inside() {
        let dials = dials("0.0.0.0:7117");
        for (to, allowed) in [
            ("192.168.200.1:80", true),
            ("10.0.0.1:80", false),
            ("172.20.0.1:80", false),
            ("169.254.169.254:80", false),
            ("100.100.0.1:80", false),
            ("[fd00::1]:80", false),
            ("[fe80::1]:80", false),
            ("127.0.0.1:80", false),
            ("[::ffff:127.0.0.1]:80", false),
            ("[::1]:80", false),
            ("0.0.0.0:80", false),
            ("198.51.100.1:80", true),
        ] {
            let permitted = permit(&dials, 0, DialOrigin::Record, to);
            let expected = (!allowed).then_some(NotDialled::OtherNetwork);
            assert_eq!(permitted.err(), expected, "{to}");
            assert!(permit(&dials, 0, DialOrigin::Own, to).is_ok());
        }
    }

    #[test]
    fn loopback_is_dialled_if_the_network_uses_it() {
        let on_loopback = dials("127.0.0.1:7117");
        assert!(permit(&on_loopback, 0, DialOrigin::CallBack, "127.0.0.1:80").is_ok());
        let everywhere = dials("0.0.0.0:7117");
        everywhere.note_link("198.51.100.1".parse().unwrap());
        assert!(permit(&everywhere, 0, DialOrigin::CallBack, "127.0.0.1:80").is_err());
        everywhere.note_link("127.0.0.1".parse().unwrap());
        assert!(permit(&everywhere, 0, DialOrigin::CallBack, "127.0.0.1:80").is_ok());
    }
}
