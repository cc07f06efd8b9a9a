//! The addresses at which other nodes see this node over UDP: its candidates for hole punching.
//!
//! A router with NAT sends a node's packets on from another address and port. The node can't know these, but each node
//! that receives its packets can tell it. So a node that no other one has dialled from the internet asks up to two of
//! its peers, its *observers*, and keeps a connection to each, so that the router keeps the port. The observers are of
//! different address groups: what a single one claims may be false, and is only a candidate.
//!
//! Only peers that this node has dialled over TCP are asked. Such a peer can be reached, and listens on UDP at the same
//! port.
//!
//! A node may also have its router forward ports to it (`reach/mapping.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mapping::MappedReach;
pub use mapping::{MappingFailure, MappingProtocol, MappingState, PortMapping};
pub use nat::Nat;

use super::OverlayContext;
use super::context::Effect;
use crate::address::{Address, Scheme};
use crate::address_group::{AddressGroup, AddressGroups, PrivateNetwork};
use crate::config::Config;
use crate::event::{Direction, Event, Peer, Reachability};
use crate::id::NodeId;
use crate::peer::{LinkTransport, Output};
use crate::time::Instant;

mod mapping;
mod nat;
#[cfg(test)]
mod tests;

/// Maximum number of observers. 2: enough to notice a router that gives each destination another port.
const MAX_OBSERVERS: usize = 2;

/// Time before a peer that did not answer as an observer is asked again.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Maximum number of candidates that are told at once. 8: an address seen from outside for IPv4 and IPv6, a mapped
/// one, and those of a computer in several networks.
pub(crate) const MAX_CANDIDATES: usize = 8;

/// Maximum number of relays that a node names. 3: one may have no room, and one may have stopped.
pub const MAX_RELAYS: usize = 3;

/// What a node knows of its own UDP addresses.
#[derive(Debug)]
pub(super) struct Reach {
    groups: AddressGroups,
    /// This node listens on UDP.
    is_listening: bool,
    /// This node uses relays.
    uses_relays: bool,
    /// The peers that can be observers.
    peers: BTreeMap<NodeId, UdpPeer>,
    /// The peers that have dialled this node from the internet, over TCP.
    dialled_by: BTreeSet<NodeId>,
    /// The peers with links over QUIC, and those with relayed links.
    over_quic: BTreeSet<NodeId>,
    over_relays: BTreeSet<NodeId>,
    /// The peers that this node has dialled and that relay connections, with their addresses.
    relays: BTreeMap<NodeId, Address>,
    mapping: MappingState,
    /// The mapped addresses that the node announces.
    announced: Vec<Address>,
    /// The last reachability that the application was told.
    reported: Reachability,
}

/// A peer that can be an observer.
#[derive(Debug)]
struct UdpPeer {
    group: Option<AddressGroup>,
    state: ObserverState,
    /// The last question was not answered.
    is_silent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ObserverState {
    /// The peer is not asked before this time.
    Idle(Instant),
    /// The peer is an observer. It has told this address, if any.
    Observing(Option<SocketAddr>),
}

/// How other nodes reach this one, and why this node thinks so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReachStatus {
    /// How other nodes reach this one.
    pub reachability: Reachability,
    /// The reason, in words.
    pub why: String,
    /// The addresses at which other nodes see this one.
    pub seen: SeenAddresses,
    /// What the observers say about the NAT in front of this node.
    pub nat: Nat,
    /// The mapping of this node's ports at its router.
    pub mapping: MappingState,
    /// The same in words; empty if the router is not asked.
    pub mapping_why: String,
    /// The mapped addresses that this node announces. Empty if another router is in the way.
    pub mapped: Vec<Address>,
    /// The number of this node's links that another node relays.
    pub relayed_links: usize,
}

/// The addresses at which other nodes see this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeenAddresses {
    /// The UDP addresses that observers have told, each once.
    pub udp: Vec<SocketAddr>,
    /// The address that two observers of different address groups agree on.
    pub confirmed: Option<SocketAddr>,
    /// Whether a node has dialled this one from the internet.
    pub dialled: bool,
}

impl Reach {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            groups: config.address_groups(),
            is_listening: false,
            uses_relays: false,
            peers: BTreeMap::new(),
            dialled_by: BTreeSet::new(),
            over_quic: BTreeSet::new(),
            over_relays: BTreeSet::new(),
            relays: BTreeMap::new(),
            mapping: MappingState::default(),
            announced: Vec::new(),
            reported: Reachability::default(),
        }
    }

    /// Sets whether this node listens on UDP, and whether it uses relays.
    pub(super) fn set_means(
        &mut self,
        cx: &mut OverlayContext<'_>,
        is_listening: bool,
        uses_relays: bool,
    ) {
        (self.is_listening, self.uses_relays) = (is_listening, uses_relays);
        self.choose(cx);
    }

    /// Returns whether this node meets nodes that it can't dial over this transport.
    pub(super) fn uses(&self, scheme: Scheme) -> bool {
        match scheme {
            Scheme::Quic => self.is_listening,
            Scheme::Relay => self.uses_relays,
            Scheme::Tcp => false,
        }
    }

    /// Returns whether the link with a node is relayed.
    pub(super) fn is_relayed(&self, id: NodeId) -> bool {
        self.over_relays.contains(&id)
    }

    pub(super) fn link_up(
        &mut self,
        cx: &mut OverlayContext<'_>,
        peer: &Peer,
        ip: IpAddr,
        transport: LinkTransport,
    ) {
        match transport.scheme {
            Scheme::Tcp => {}
            Scheme::Quic => {
                self.over_quic.insert(peer.id());
                return self.report(cx);
            }
            Scheme::Relay => {
                self.over_relays.insert(peer.id());
                return self.report(cx);
            }
        }
        if transport.relays && peer.direction() == Direction::Outbound {
            self.relays.insert(peer.id(), peer.address().clone());
        }
        // In a private network, a peer sees this node's own address, or that of another router.
        if !self.is_public(ip) {
            return;
        }
        if peer.direction() == Direction::Inbound {
            self.dialled_by.insert(peer.id());
        } else if transport.accepts_quic {
            let (group, state) = (self.groups.group(ip), ObserverState::Idle(Instant::ZERO));
            self.peers.insert(peer.id(), UdpPeer { group, state, is_silent: false });
        }
        self.choose(cx);
    }

    pub(super) fn link_down(&mut self, cx: &mut OverlayContext<'_>, id: NodeId) {
        self.dialled_by.remove(&id);
        self.over_quic.remove(&id);
        self.over_relays.remove(&id);
        self.relays.remove(&id);
        if let Some(peer) = self.peers.remove(&id)
            && peer.is_observer()
        {
            cx.put(Effect::Out(Output::StopObserving(id)));
        }
        self.choose(cx);
    }

    /// Notes the address at which an observer sees this node. `None` if the observer does not answer any more.
    pub(super) fn observed(
        &mut self,
        cx: &mut OverlayContext<'_>,
        by: NodeId,
        address: Option<SocketAddr>,
    ) {
        let Some(peer) = self.peers.get_mut(&by).filter(|peer| peer.is_observer()) else { return };
        peer.state = match address {
            // An address that no node can have counts as no answer. Other nodes would end the link with this one if it
            // were in a record.
            Some(seen) if is_usable(seen) => ObserverState::Observing(address),
            _ => ObserverState::Idle(cx.now + RETRY_AFTER),
        };
        peer.is_silent = address.is_none();
        self.choose(cx);
    }

    /// Notes what is known about the mapping of this node's ports.
    pub(super) fn set_mapping(&mut self, cx: &mut OverlayContext<'_>, mapping: MappingState) {
        self.mapping = mapping;
        self.choose(cx);
    }

    pub(super) fn handle_timeout(&mut self, cx: &mut OverlayContext<'_>) {
        if self.poll_timeout().is_some_and(|due| due <= cx.now) {
            self.choose(cx);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if !self.is_needed() {
            return None;
        }
        self.eligible().map(|(_, due)| due).min()
    }

    /// Returns the candidates for hole punching, best first. `own` are the addresses at which this node listens over
    /// TCP: it listens on UDP there too.
    pub(super) fn candidates(&self, own: &[Address]) -> Vec<Address> {
        if !self.is_listening {
            return Vec::new();
        }
        // The router forwards strange packets to a mapped port, so a packet there is sure to arrive.
        let mapped = self.announced.iter().filter(|address| address.scheme == Scheme::Quic);
        let seen = self.seen().udp.into_iter().map(Address::from_socket);
        // A mapped port for TCP may have another number than that for UDP.
        let is_local = |own: &&Address| own.scheme == Scheme::Tcp && !self.announced.contains(own);
        let local = own.iter().filter(is_local).cloned();
        let mut candidates: Vec<Address> = Vec::new();
        for address in mapped.cloned().chain(seen).chain(local) {
            let candidate = address.with_scheme(Scheme::Quic);
            if candidates.len() < MAX_CANDIDATES && !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
        candidates
    }

    /// Returns the addresses of this node at its relays.
    pub(super) fn relay_addresses(&self) -> Vec<Address> {
        if !self.uses_relays {
            return Vec::new();
        }
        let relays = self.relays.values().take(MAX_RELAYS).cloned();
        relays.map(|at| at.without_id().with_scheme(Scheme::Relay)).collect()
    }

    /// Returns the addresses at which other nodes see this node.
    pub(super) fn seen(&self) -> SeenAddresses {
        let mut seen = SeenAddresses { dialled: !self.dialled_by.is_empty(), ..Default::default() };
        let mut by_address: BTreeMap<SocketAddr, BTreeSet<_>> = BTreeMap::new();
        for peer in self.peers.values() {
            let ObserverState::Observing(Some(address)) = peer.state else { continue };
            by_address.entry(address).or_default().insert(peer.group);
        }
        let is_confirmed = |groups: &BTreeSet<_>| groups.len() > 1;
        seen.confirmed = by_address.iter().find(|(_, by)| is_confirmed(by)).map(|(at, _)| *at);
        seen.udp = by_address.into_keys().collect();
        seen
    }

    /// Returns how other nodes reach this one, and why.
    pub(super) fn status(&self) -> ReachStatus {
        let seen = self.seen();
        let (reachability, mut why) = self.reachability(&seen);
        let mapping_why = self.mapping.words(self.seen_ip()).unwrap_or_default();
        let is_reached = matches!(reachability, Reachability::Direct | Reachability::Mapped);
        if !is_reached && !mapping_why.is_empty() {
            why = format!("{why}; {mapping_why}");
        }
        ReachStatus {
            reachability,
            why,
            nat: self.nat(&seen),
            seen,
            mapping: self.mapping.clone(),
            mapping_why,
            mapped: self.announced.clone(),
            relayed_links: self.over_relays.len(),
        }
    }

    /// Returns how other nodes reach this one, and why, apart from a mapping that does not help.
    fn reachability(&self, seen: &SeenAddresses) -> (Reachability, String) {
        match (&seen.udp[..], seen.confirmed) {
            _ if !self.mapped_addresses().is_empty() => {
                (Reachability::Mapped, self.mapping.words(self.seen_ip()).unwrap_or_default())
            }
            _ if seen.dialled => {
                (Reachability::Direct, "a node on the internet has dialled it".to_owned())
            }
            _ if !self.over_quic.is_empty() => {
                (Reachability::Punched, "it has a link over UDP".to_owned())
            }
            _ if !self.over_relays.is_empty() => {
                (Reachability::Relayed, "it has a link that another node relays".to_owned())
            }
            _ if !self.is_listening => {
                (Reachability::Unknown, "no node on the internet has dialled it".to_owned())
            }
            ([], _) => {
                (Reachability::Unknown, "no peer has told where it sees this node".to_owned())
            }
            (_, Some(address)) => (
                Reachability::Unknown,
                format!("two peers see it at {address} (UDP), but none has reached it there yet"),
            ),
            ([address], None) => (
                Reachability::Unknown,
                format!("a peer sees it at {address} (UDP), but none has reached it there yet"),
            ),
            (_, None) => (
                Reachability::Unknown,
                "each peer sees it at another UDP address, so its router lets only answers through"
                    .to_owned(),
            ),
        }
    }

    /// Returns the addresses that the router forwards to this node, if the internet reaches the router there.
    fn mapped_addresses(&self) -> Vec<Address> {
        match self.mapping.reach(self.seen_ip()) {
            MappedReach::Addresses(addresses) => addresses,
            MappedReach::Nothing | MappedReach::Behind => Vec::new(),
        }
    }

    /// Returns the IPv4 address at which observers of different address groups see this node. Their ports may differ.
    /// What a single observer claims may be false.
    fn seen_ip(&self) -> Option<IpAddr> {
        let mut by_ip: BTreeMap<IpAddr, BTreeSet<_>> = BTreeMap::new();
        for peer in self.peers.values() {
            let ObserverState::Observing(Some(address)) = peer.state else { continue };
            by_ip.entry(address.ip()).or_default().insert(peer.group);
        }
        let mut agreed = by_ip.into_iter().filter(|(ip, by)| ip.is_ipv4() && by.len() > 1);
        agreed.next().map(|(ip, _)| ip)
    }

    /// Has the shell announce the mapped addresses, if they have changed.
    fn announce(&mut self, cx: &mut OverlayContext<'_>) {
        let mapped = self.mapped_addresses();
        if mapped != self.announced {
            self.announced.clone_from(&mapped);
            cx.put(Effect::Out(Output::AnnounceMapped(mapped)));
        }
    }

    /// Makes further peers observers, or ends the observation if it is not needed any more.
    fn choose(&mut self, cx: &mut OverlayContext<'_>) {
        self.announce(cx);
        self.report(cx);
        if !self.is_needed() {
            for (id, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.is_observer()) {
                peer.state = ObserverState::Idle(cx.now);
                cx.put(Effect::Out(Output::StopObserving(*id)));
            }
            return;
        }
        loop {
            let due = self.eligible().filter(|(_, due)| *due <= cx.now);
            let due: Vec<NodeId> = due.map(|(id, _)| id).collect();
            let Some(id) = cx.pick(due) else { return };
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.state = ObserverState::Observing(None);
                cx.put(Effect::Out(Output::Observe(id)));
            }
        }
    }

    /// Tells the application if the reachability of this node has changed.
    fn report(&mut self, cx: &mut OverlayContext<'_>) {
        let ReachStatus { reachability, why, .. } = self.status();
        if std::mem::replace(&mut self.reported, reachability) != reachability {
            cx.event(Event::NodeReachabilityChanged { reachability, why });
        }
    }

    /// Returns whether this node needs observers. A node that others can dial is not behind a NAT.
    fn is_needed(&self) -> bool {
        self.is_listening && self.dialled_by.is_empty()
    }

    /// Returns the peers that can become a further observer, each with the time from which on it may be asked.
    fn eligible(&self) -> impl Iterator<Item = (NodeId, Instant)> {
        let groups: Vec<_> = (self.peers.values().filter(|peer| peer.is_observer()))
            .map(|peer| peer.group)
            .collect();
        let is_full = groups.len() >= MAX_OBSERVERS;
        self.peers.iter().filter_map(move |(id, peer)| match peer.state {
            ObserverState::Idle(due) if !is_full && !groups.contains(&peer.group) => {
                Some((*id, due))
            }
            _ => None,
        })
    }

    fn is_public(&self, ip: IpAddr) -> bool {
        match PrivateNetwork::of(ip) {
            None => true,
            // Tests use loopback addresses in place of those of the internet.
            Some(PrivateNetwork::Loopback) => self.groups.limit_loopback,
            Some(_) => false,
        }
    }
}

/// Returns whether a node can have this address.
fn is_usable(address: SocketAddr) -> bool {
    let ip = address.ip();
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast()
}

impl UdpPeer {
    fn is_observer(&self) -> bool {
        matches!(self.state, ObserverState::Observing(_))
    }
}
