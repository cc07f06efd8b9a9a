//! The addresses that a node announces: those of this machine's interfaces, the local addresses of its
//! links, and those that the application gives.
//!
//! Observed addresses: a node does not announce the address at which a peer sees it. Instead, the peer
//! combines the IP address that it observes with the announced ports
//! ([`Hello::dial_address`](peerkit_proto::hello::Hello::dial_address)). The local address of each new link
//! is added here, in case the system does not list it among the interfaces.
//!
//! Peers try the addresses in the order in which they are announced, and tickets and node records have only
//! the first eight. So the addresses that most peers can reach come first, and those of bridges to
//! containers on this machine come last.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::config::Config;

use crate::actor::Actor;
use crate::blocking;
use crate::inner::Inner;
use crate::lock::lock;

/// Interval at which the interfaces are read again: a VPN may come up, or a laptop may change its network.
const REFRESH_INTERVAL: Duration = Duration::from_secs(30);

/// Maximum number of addresses with the same IPv6 prefix. 2: the permanent address and the temporary one in
/// use. The system lists older temporary addresses (RFC 8981) for up to a week, then removes them.
const MAX_PER_PREFIX: usize = 2;

/// Maximum number of IP addresses of this machine.
const MAX_LOCAL: usize = 32;

/// Prefixes of the names of interfaces that lead only to containers and virtual machines on this
/// machine.
const BRIDGE_PREFIXES: [&str; 12] = [
    "br-",
    "cni",
    "docker",
    "flannel",
    "lxcbr",
    "lxdbr",
    "podman",
    "vboxnet",
    "veth",
    "virbr",
    "vmnet",
    "vEthernet",
];

/// An IP address, with the name of its interface.
struct InterfaceAddress {
    interface: String,
    ip: IpAddr,
}

/// The addresses of a node: those of its listening sockets, and the IP addresses of this machine.
pub(crate) struct OwnAddresses {
    config: Arc<Config>,
    pub(crate) listening: Vec<SocketAddr>,
    /// The IP addresses of this machine, best first.
    local: Mutex<Vec<IpAddr>>,
    /// The addresses that the router forwards to this node.
    mapped: Mutex<Vec<Address>>,
}

impl OwnAddresses {
    /// Reads the interfaces. Blocks for some microseconds.
    pub(crate) fn new(config: Arc<Config>, listening: Vec<SocketAddr>) -> Self {
        Self {
            config,
            listening,
            local: Mutex::new(ranked(&interfaces(), &default_route_addresses())),
            mapped: Mutex::default(),
        }
    }

    /// Returns the addresses at which other nodes can dial this one, as far as this node knows, best first.
    /// `first` is the IP address of this machine that the recipient of the list already reaches.
    pub(crate) fn announced(&self, first: Option<IpAddr>) -> Vec<Address> {
        announced(&self.config, &self.listening, &lock(&self.mapped), &lock(&self.local), first)
    }

    /// Sets the addresses that the router forwards to this node.
    pub(crate) fn set_mapped(&self, addresses: Vec<Address>) {
        *lock(&self.mapped) = addresses;
    }

    /// Returns the IP addresses of this machine.
    pub(crate) fn local(&self) -> Vec<IpAddr> {
        lock(&self.local).clone()
    }

    /// Returns the loopback address from which this node dials other loopback addresses: that at which it
    /// listens, if it listens at no other. `None` if the system would choose the same.
    pub(crate) fn loopback_source(&self) -> Option<IpAddr> {
        let IpAddr::V4(ip) = self.listening.first()?.ip() else { return None };
        let is_only = self.listening.iter().all(|at| at.ip() == ip);
        (ip.is_loopback() && is_only && ip != Ipv4Addr::LOCALHOST).then_some(ip.into())
    }

    /// Reads the interfaces again. Returns whether the addresses of this machine have changed.
    fn refresh(&self) -> bool {
        let now = ranked(&interfaces(), &default_route_addresses());
        let mut known = lock(&self.local);
        let has_changed = *known != now;
        *known = now;
        has_changed
    }

    /// Adds the local address of a link, in case the system does not list it. Returns whether the address is
    /// new.
    fn add(&self, ip: IpAddr) -> bool {
        let mut known = lock(&self.local);
        let is_new = is_usable(ip) && known.len() < MAX_LOCAL && !known.contains(&ip);
        if is_new {
            known.push(ip);
        }
        is_new
    }
}

/// Returns the IP addresses of all interfaces that are up, or none if the system can't list its interfaces.
fn interfaces() -> Vec<InterfaceAddress> {
    match if_addrs::get_if_addrs() {
        Ok(all) => {
            let up = all.into_iter().filter(if_addrs::Interface::is_oper_up);
            up.map(|of| InterfaceAddress { ip: of.ip(), interface: of.name }).collect()
        }
        Err(error) => {
            tracing::debug!(%error, "the system does not list its interfaces");
            Vec::new()
        }
    }
}

/// Returns the IP addresses that the default routes leave from: IPv4, then IPv6.
///
/// Connecting a UDP socket only looks up the route; nothing is sent. The destinations belong to the
/// blocks for documentation (RFC 5737, RFC 3849), which no host has.
fn default_route_addresses() -> Vec<IpAddr> {
    // Port 9 is the discard service. Any port would do.
    let towards = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    let address = |(from, to): (&str, &str)| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|local| local.ip())
    };
    towards.into_iter().filter_map(address).collect()
}

/// Returns the usable addresses of this machine, best first: those of the default routes, public,
/// private, self-assigned (RFC 3927), those of bridges to containers, and loopback.
fn ranked(interfaces: &[InterfaceAddress], routed: &[IpAddr]) -> Vec<IpAddr> {
    let rank = |of: &InterfaceAddress| match of.ip {
        ip if routed.contains(&ip) => 0,
        ip if ip.is_loopback() => 5,
        _ if BRIDGE_PREFIXES.iter().any(|bridge| of.interface.starts_with(bridge)) => 4,
        IpAddr::V4(ip) if ip.is_link_local() => 3,
        ip if is_private(ip) => 2,
        _ => 1,
    };
    let mut by_rank: Vec<(u8, IpAddr)> = routed.iter().map(|ip| (0, *ip)).collect();
    by_rank.extend(interfaces.iter().map(|of| (rank(of), of.ip.to_canonical())));
    // The sort is stable: within a rank the order is the system's.
    by_rank.sort_by_key(|(rank, _)| *rank);
    let mut ranked = Vec::new();
    let mut of_prefix: BTreeMap<[u8; 8], usize> = BTreeMap::new();
    for (_, ip) in by_rank {
        if !is_usable(ip) || ranked.contains(&ip) || ranked.len() >= MAX_LOCAL {
            continue;
        }
        // A host may have a dozen temporary addresses with the same prefix, all of the same interface.
        if let IpAddr::V6(v6) = ip {
            let [prefix @ .., _, _, _, _, _, _, _, _] = v6.octets();
            let count = of_prefix.entry(prefix).or_default();
            if *count >= MAX_PER_PREFIX {
                continue;
            }
            *count += 1;
        }
        ranked.push(ip);
    }
    ranked
}

/// Returns whether another node may be able to dial this address. A link-local IPv6 address can't be dialled,
/// because the dialler would have to add the name of its own interface.
fn is_usable(ip: IpAddr) -> bool {
    let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    !(ip.is_unspecified() || ip.is_multicast() || link_local)
}

/// Returns whether only machines of the same network or VPN can reach this address: private IPv4
/// (RFC 1918), the block that carriers and some VPNs share (RFC 6598), and unique local IPv6 (RFC
/// 4193).
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// Returns the addresses in their order, each once.
pub(crate) fn distinct(addresses: Vec<Address>) -> Vec<Address> {
    let mut seen = BTreeSet::new();
    addresses.into_iter().filter(|address| seen.insert(address.clone())).collect()
}

/// Returns the addresses to announce, best first: those of the configuration, then those that the router forwards
/// (`mapped`), then each address in `local` with every port that the node listens on there. `first` is the IP address
/// that the peer already reaches. Loopback is announced only to a peer that reaches it, or if there is nothing else.
fn announced(
    config: &Config,
    listening: &[SocketAddr],
    mapped: &[Address],
    local: &[IpAddr],
    first: Option<IpAddr>,
) -> Vec<Address> {
    let mut addresses: Vec<Address> = Vec::new();
    let mut add = |address: Address| {
        if addresses.len() < config.max_addresses && !addresses.contains(&address) {
            addresses.push(address);
        }
    };
    config.announce.iter().for_each(|address| add(address.clone().without_id()));
    if config.announce_only && !config.announce.is_empty() {
        return addresses;
    }
    mapped.iter().for_each(|address| add(address.clone()));
    let first = first.map(|ip| ip.to_canonical());
    let everywhere = |ip: IpAddr| {
        let sockets = listening.iter().filter(move |socket| accepts(socket.ip(), ip));
        sockets.map(move |socket| SocketAddr::new(ip, socket.port()))
    };
    let own = listening.iter().filter(|socket| !socket.ip().is_unspecified()).copied();
    let all: Vec<SocketAddr> =
        first.into_iter().chain(local.iter().copied()).flat_map(everywhere).chain(own).collect();
    let leads_here = |socket: &SocketAddr| is_usable(socket.ip()) && !socket.ip().is_loopback();
    // A peer on another machine would dial itself at a loopback address.
    let has_others =
        !config.announce.is_empty() || !mapped.is_empty() || all.iter().any(leads_here);
    let is_shown = |socket: &&SocketAddr| {
        !socket.ip().is_loopback() || !has_others || Some(socket.ip()) == first
    };
    let shown = all.iter().filter(|socket| is_usable(socket.ip())).filter(is_shown);
    shown.for_each(|socket| add(Address::from_socket(*socket)));
    addresses
}

/// Returns whether a listener on `listening` accepts connections to `ip`. A listener on all IPv6 addresses
/// also accepts IPv4, unless another listener has the same port of IPv4. In that case both yield the same
/// announced address.
pub(crate) fn accepts(listening: IpAddr, ip: IpAddr) -> bool {
    match listening {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => ip.is_ipv4(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => true,
        one => one == ip,
    }
}

impl Inner {
    /// Announces the local address of a new link, unless it is already announced.
    pub(crate) async fn announce_local_address(&self, local: SocketAddr) {
        if self.addresses.add(local.ip().to_canonical()) {
            let _ = self.actor.call(Actor::addresses_changed).await;
        }
    }

    /// Announces changes of this machine's interfaces until the node stops. Returns at once if the node
    /// listens on specific addresses only, because these do not change.
    pub(crate) async fn follow_interfaces(self: Arc<Self>) {
        if !self.addresses.listening.iter().any(|socket| socket.ip().is_unspecified()) {
            return;
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep(REFRESH_INTERVAL) => {}
                () = self.tasks.stop.cancelled() => return,
            }
            // Reading the interfaces blocks.
            let looking = self.clone();
            let has_changed = blocking::run(move || looking.addresses.refresh()).await;
            if has_changed.unwrap_or(false) {
                let _ = self.actor.call(Actor::addresses_changed).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(interface: &str, ip: &str) -> InterfaceAddress {
        InterfaceAddress { interface: interface.to_owned(), ip: ip.parse().unwrap() }
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn list(config: &Config, listening: &[&str], local: &[&str], first: Option<&str>) -> String {
        let listening: Vec<SocketAddr> = listening.iter().map(|at| at.parse().unwrap()).collect();
        let first = first.map(|ip| ip.parse().unwrap());
        let addresses = announced(config, &listening, &[], &ips(local), first);
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_usable_address_is_ranked_and_the_best_come_first() {
        let interfaces = [
            of("lo", "127.0.0.1"),
            of("lo", "::1"),
            of("docker0", "172.17.0.1"),
            of("eth0", "192.168.1.5"),
            of("eth0", "fd00::5"),
            of("eth0", "fe80::5"),
            of("eth0", "2001:db8:1::5"),
            of("eth1", "169.254.7.7"),
            of("wg0", "10.9.0.2"),
            of("tailscale0", "100.101.102.103"),
            of("ppp0", "203.0.113.9"),
        ];
        let routed = ips(&["192.168.1.5", "2001:db8:1::5"]);
        let expected = [
            "192.168.1.5",
            "2001:db8:1::5",
            "203.0.113.9",
            "fd00::5",
            "10.9.0.2",
            "100.101.102.103",
            "169.254.7.7",
            "172.17.0.1",
            "127.0.0.1",
            "::1",
        ];
        assert_eq!(ranked(&interfaces, &routed), ips(&expected));
    }

    #[test]
    fn old_temporary_addresses_do_not_crowd_out_others() {
        let temporary: Vec<_> = (1..9)
            .map(|n| of("eth0", &format!("2001:db8:1::{n}")))
            .chain([of("wg0", "10.9.0.2")])
            .collect();
        let found = ranked(&temporary, &ips(&["2001:db8:1::7"]));
        assert_eq!(found, ips(&["2001:db8:1::7", "2001:db8:1::1", "10.9.0.2"]));
    }

    #[test]
    fn loopback_is_announced_to_a_loopback_peer_or_if_there_is_no_other_address() {
        let config = Config::default();
        let local = ["192.168.1.5", "127.0.0.1"];
        let listening = ["0.0.0.0:7117"];
        assert_eq!(list(&config, &listening, &local, None), "192.168.1.5:7117");
        let to_local_peer = list(&config, &listening, &local, Some("127.0.0.1"));
        assert_eq!(to_local_peer, "127.0.0.1:7117 192.168.1.5:7117");
        assert_eq!(list(&config, &listening, &["127.0.0.1"], None), "127.0.0.1:7117");
        let both = ["127.0.0.1:1", "192.168.1.5:2"];
        assert_eq!(list(&config, &both, &local, None), "192.168.1.5:2");
        assert_eq!(list(&config, &["127.0.0.1:1"], &local, None), "127.0.0.1:1");
        assert_eq!(list(&config, &["[fe80::1]:1", "127.0.0.1:1"], &local, None), "127.0.0.1:1");
        assert_eq!(list(&config, &[], &local, None), "");
    }

    #[test]
    fn a_port_of_both_families_is_announced_once_for_each_address() {
        let config = Config::default();
        let local = ["192.168.1.5", "fd00::5", "127.0.0.1", "::1"];
        let expected = "192.168.1.5:7117 [fd00::5]:7117";
        assert_eq!(list(&config, &["0.0.0.0:7117", "[::]:7117"], &local, None), expected);
        assert_eq!(list(&config, &["[::]:7117"], &local, None), expected);
        let reached = list(&config, &["[::]:7117"], &local, Some("fd00::5"));
        assert_eq!(reached, "[fd00::5]:7117 192.168.1.5:7117");
    }

    #[test]
    fn given_addresses_come_first_or_stand_alone_and_the_list_is_bounded() {
        let mut config = Config::default();
        config.announce =
            vec!["ann.example.org:7000".parse().unwrap(), "192.168.1.5:7117".parse().unwrap()];
        let local = ["192.168.1.5", "10.9.0.2"];
        let all = "ann.example.org:7000 192.168.1.5:7117 10.9.0.2:7117";
        assert_eq!(list(&config, &["0.0.0.0:7117"], &local, None), all);
        config.max_addresses = 2;
        let two = "ann.example.org:7000 192.168.1.5:7117";
        assert_eq!(list(&config, &["0.0.0.0:7117"], &local, None), two);
        config.max_addresses = 32;
        config.announce_only = true;
        assert_eq!(list(&config, &["0.0.0.0:7117"], &local, None), two);
        config.announce.clear();
        assert!(list(&config, &["0.0.0.0:7117"], &local, None).contains("10.9.0.2"));
    }

    #[test]
    fn mapped_addresses_come_before_those_of_the_machine() {
        let mut config = Config::default();
        config.announce = vec!["ann.example.org:7000".parse().unwrap()];
        let listening = ["0.0.0.0:7117".parse().unwrap()];
        let mapped: [Address; 2] =
            ["192.0.2.7:7117", "quic://192.0.2.7:7118"].map(|at| at.parse().unwrap());
        let list = |config: &Config| -> Vec<String> {
            let all = announced(config, &listening, &mapped, &ips(&["192.168.1.5"]), None);
            all.iter().map(ToString::to_string).collect()
        };
        let expected =
            ["ann.example.org:7000", "192.0.2.7:7117", "quic://192.0.2.7:7118", "192.168.1.5:7117"];
        assert_eq!(list(&config), expected);
        config.announce_only = true;
        assert_eq!(list(&config), ["ann.example.org:7000"]);
    }

    #[test]
    fn this_machine_has_an_address() {
        let own = OwnAddresses::new(Arc::default(), Vec::new());
        assert!(!lock(&own.local).is_empty());
        assert!(!own.refresh(), "nothing has changed");
        assert!(!own.add("fe80::1".parse().unwrap()), "can't be dialled without a scope");
    }
}
