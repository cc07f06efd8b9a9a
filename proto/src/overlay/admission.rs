//! Admission of links: decides which connections become links. A pair of nodes has one link, and the number
//! of inbound links is limited.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::address_group::AddressGroups;
use crate::config::Config;
use crate::event::{Direction, Reason};
use crate::id::NodeId;
use crate::overlay::eviction::{self, EvictionCandidate};
use crate::time::Instant;

/// Divisor that gives the number of further inbound places for known nodes: an eighth, as Bitcoin Core keeps 11
/// of 125 places for the nodes that it dials.
const KNOWN_SHARE: usize = 8;

/// A connection on which the other node's Hello has arrived, and which may become a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The node at the other end, whose identity the handshake has proven.
    pub id: NodeId,
    /// The direction: outbound if this node has dialled.
    pub direction: Direction,
    /// A number from the other node's Hello, which changes when that node restarts.
    pub incarnation: u64,
    /// The other node's IP address, or that of the relay.
    pub ip: IpAddr,
    /// A third node relays the connection.
    pub is_relayed: bool,
}

/// The decision about a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// The connection becomes a link.
    Accept,
    /// The connection becomes a link once the present link with that node has ended. The present link is
    /// closed for this reason.
    Replace(Reason),
    /// The connection becomes a link. The link with this node is closed for [`Reason::MadeRoom`].
    MakeRoom(NodeId),
    /// The connection is refused for this reason.
    Refuse(Reason),
}

/// The use of a link, which only the shell knows. It decides which link makes room for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkMerits {
    /// The node at the other end.
    pub id: NodeId,
    /// The last round-trip time, if it was measured.
    pub rtt: Option<Duration>,
    /// Whether the application of this node has sent a message, a request or a reply over the link, or has one
    /// queued. Such a link is not evicted.
    pub is_used: bool,
}

/// An inbound or outbound link.
#[derive(Debug)]
struct AdmittedLink {
    candidate: Candidate,
    since: Instant,
    /// The time of the last broadcast that arrived over this link first.
    useful_at: Option<Instant>,
    /// The link is being closed to make room, and does not count any more.
    is_evicted: bool,
}

/// The links, and the nodes that were dialled and have not answered this node's Hello.
#[derive(Debug)]
pub(super) struct Admissions {
    me: NodeId,
    max_inbound: usize,
    max_inbound_per_ip: usize,
    links: BTreeMap<NodeId, AdmittedLink>,
    groups: AddressGroups,
    /// Number of inbound links, in total and by host (see [`AddressGroups::host`]).
    inbound: usize,
    inbound_by_host: BTreeMap<IpAddr, usize>,
    /// Nodes that this node has dialled, and that have not answered its Hello yet.
    awaiting_hello: BTreeSet<NodeId>,
    /// The secret that decides which groups eviction protects.
    eviction_key: [u8; 32],
}

impl Admissions {
    pub(super) fn new(me: NodeId, config: &Config, eviction_key: [u8; 32]) -> Self {
        Self {
            me,
            max_inbound: config.max_inbound,
            max_inbound_per_ip: config.max_inbound_per_ip,
            links: BTreeMap::new(),
            groups: config.address_groups(),
            inbound: 0,
            inbound_by_host: BTreeMap::new(),
            awaiting_hello: BTreeSet::new(),
            eviction_key,
        }
    }

    pub(super) fn max_inbound(&self) -> usize {
        self.max_inbound
    }

    /// Returns whether more than half of the inbound places are taken.
    pub(super) fn is_crowded(&self) -> bool {
        self.inbound > self.max_inbound / 2
    }

    /// Returns the host of a node that has dialled this one and has a link with it.
    pub(super) fn inbound_host(&self, id: NodeId) -> Option<IpAddr> {
        let link = self.links.get(&id)?.candidate;
        (link.direction == Direction::Inbound).then(|| self.groups.host(link.ip))?
    }

    pub(super) fn host(&self, ip: IpAddr) -> Option<IpAddr> {
        self.groups.host(ip)
    }

    /// Sets the maximum number of inbound links, for candidates from now on.
    pub(super) fn set_max_inbound(&mut self, links: usize) {
        self.max_inbound = links;
    }

    /// Decides whether a dial that has reached `id` may send its Hello. It may not if `id` is this node, if
    /// there is a link with `id`, or if another dial has sent a Hello to `id` and waits for the answer. In
    /// the last case `id` would treat the second connection as a replacement of the first.
    ///
    /// `is_meeting` is set for a dial of a [meeting](crate::peer::meetings), which may replace a relayed link. Both
    /// nodes dial then. Only the one with the greater identity sends its Hello, so that no second connection replaces
    /// the first.
    pub(super) fn begin_hello(&mut self, id: NodeId, is_meeting: bool) -> Result<(), Reason> {
        if id == self.me {
            return Err(Reason::SelfConnection);
        }
        let is_kept =
            |link: &AdmittedLink| !(link.candidate.is_relayed && is_meeting && self.me > id);
        if self.links.get(&id).is_some_and(is_kept) || !self.awaiting_hello.insert(id) {
            return Err(Reason::Duplicate);
        }
        Ok(())
    }

    /// Notes that a dial which was allowed to send its Hello has received the answer, or has failed.
    pub(super) fn end_hello(&mut self, id: NodeId) {
        self.awaiting_hello.remove(&id);
    }

    /// Decides whether a candidate becomes a link.
    ///
    /// If two nodes dial each other at the same time, both keep the link that was dialled by the node with
    /// the greater identity. A new connection replaces a link that the other node has lost, or that belongs
    /// to an earlier run of that node.
    ///
    /// `is_known` returns whether this node knows a node otherwise than by an inbound connection. `merits` has
    /// the use of the links, if [`Admissions::is_short_of_places`] returns true.
    pub(super) fn admit(
        &self,
        candidate: &Candidate,
        is_known: impl Fn(NodeId) -> bool,
        merits: &[LinkMerits],
    ) -> Admission {
        if candidate.id == self.me {
            return Admission::Refuse(Reason::SelfConnection);
        }
        // Simultaneous open: both nodes have to choose the same connection without another message. So they
        // compare what both know: the two identities, and which node has dialled.
        let theirs_wins = candidate.id > self.me;
        let inbound = candidate.direction == Direction::Inbound;
        if let Some(link) = self.links.get(&candidate.id) {
            // A node dials a second time only after it has lost the link that it dialled first, and its
            // incarnation changes only when it restarts. In both cases the link is dead, and this node has
            // not noticed that yet.
            let is_restarted = link.candidate.incarnation != candidate.incarnation;
            let stale = is_restarted || link.candidate.direction == candidate.direction;
            if link.candidate.is_relayed != candidate.is_relayed && !is_restarted {
                // A direct connection is always better, whichever node has dialled it.
                return if candidate.is_relayed {
                    Admission::Refuse(Reason::Duplicate)
                } else {
                    Admission::Replace(Reason::Replaced)
                };
            }
            return if stale {
                Admission::Replace(Reason::Replaced)
            } else if inbound == theirs_wins {
                Admission::Replace(Reason::Duplicate)
            } else {
                Admission::Refuse(Reason::Duplicate)
            };
        }
        // The limits below protect this node from strangers. They do not apply to a connection that this node
        // has dialled.
        if !inbound {
            return Admission::Accept;
        }
        if self.awaiting_hello.contains(&candidate.id) {
            // This node has dialled the other node too, so it wants the link, and the limits do not apply.
            return if theirs_wins {
                Admission::Accept
            } else {
                Admission::Refuse(Reason::Duplicate)
            };
        }
        let host = self.groups.host(candidate.ip);
        let of_host = host.and_then(|host| self.inbound_by_host.get(&host)).copied();
        if of_host.unwrap_or_default() >= self.max_inbound_per_ip {
            return Admission::Refuse(Reason::FullForAddress);
        }
        if self.has_place_for(candidate.id, &is_known) {
            return Admission::Accept;
        }
        match self.choose_victim(candidate, is_known, merits) {
            Some(victim) => Admission::MakeRoom(victim),
            None => Admission::Refuse(Reason::Full),
        }
    }

    /// Returns whether all inbound places are taken, so that the merits of the links matter.
    pub(super) fn is_short_of_places(&self) -> bool {
        self.inbound >= self.max_inbound
    }

    fn has_place_for(&self, id: NodeId, is_known: impl Fn(NodeId) -> bool) -> bool {
        let strangers = || self.inbound_links().filter(|link| !is_known(link.candidate.id)).count();
        // Known nodes fill the further places first, so that they take none from strangers.
        let places = self.max_inbound.saturating_add(self.max_inbound / KNOWN_SHARE);
        !self.is_short_of_places()
            || self.inbound < places && (is_known(id) || strangers() < self.max_inbound)
    }

    /// Returns the inbound links that are not being evicted.
    fn inbound_links(&self) -> impl Iterator<Item = &AdmittedLink> {
        let counts = |link: &&AdmittedLink| {
            link.candidate.direction == Direction::Inbound && !link.is_evicted
        };
        self.links.values().filter(counts)
    }

    fn choose_victim(
        &self,
        newcomer: &Candidate,
        is_known: impl Fn(NodeId) -> bool,
        merits: &[LinkMerits],
    ) -> Option<NodeId> {
        let merits: BTreeMap<_, _> = merits.iter().map(|of| (of.id, of)).collect();
        let [group, ..] = self.groups.prefixes(newcomer.ip);
        let (mut newcomers, mut candidates) = (0, Vec::new());
        for link in self.inbound_links() {
            let id = link.candidate.id;
            let [of_link, ..] = self.groups.prefixes(link.candidate.ip);
            newcomers += usize::from(of_link == group);
            // A link of which nothing is known, as it has just come up, is not evicted.
            let Some(LinkMerits { rtt, is_used: false, .. }) = merits.get(&id).copied() else {
                continue;
            };
            if !is_known(id) {
                let (since, useful_at) = (link.since, link.useful_at);
                candidates.push(EvictionCandidate {
                    id,
                    group: of_link,
                    since,
                    rtt: *rtt,
                    useful_at,
                });
            }
        }
        eviction::choose(candidates, newcomers, self.max_inbound, &self.eviction_key)
    }

    /// Frees the place of a link that is being closed to make room.
    pub(super) fn evict(&mut self, id: NodeId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.is_evicted = true;
        let candidate = link.candidate;
        self.free_place(&candidate);
    }

    /// Notes that a broadcast has arrived over the link with a node first.
    pub(super) fn note_useful(&mut self, id: NodeId, now: Instant) {
        if let Some(link) = self.links.get_mut(&id) {
            link.useful_at = Some(now);
        }
    }

    pub(super) fn link_up(&mut self, candidate: Candidate, now: Instant) {
        self.awaiting_hello.remove(&candidate.id);
        // The end of the link that this one replaces may not have been reported. It must not count twice.
        self.link_down(candidate.id);
        let link = AdmittedLink { candidate, since: now, useful_at: None, is_evicted: false };
        self.links.insert(candidate.id, link);
        if candidate.direction == Direction::Inbound {
            self.inbound += 1;
            if let Some(host) = self.groups.host(candidate.ip) {
                *self.inbound_by_host.entry(host).or_default() += 1;
            }
        }
    }

    pub(super) fn link_down(&mut self, id: NodeId) {
        if let Some(link) = self.links.remove(&id)
            && !link.is_evicted
        {
            self.free_place(&link.candidate);
        }
    }

    fn free_place(&mut self, link: &Candidate) {
        if link.direction == Direction::Inbound {
            self.inbound -= 1;
            if let Some(host) = self.groups.host(link.ip)
                && let Entry::Occupied(mut of_host) = self.inbound_by_host.entry(host)
            {
                *of_host.get_mut() -= 1;
                if *of_host.get() == 0 {
                    of_host.remove();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Inbound, Outbound};

    /// The methods for tests in which no node is known and the time does not matter.
    impl Admissions {
        fn admit_stranger(&self, candidate: &Candidate) -> Admission {
            self.admit(candidate, |_| false, &[])
        }

        fn up(&mut self, candidate: Candidate) {
            self.link_up(candidate, Instant::ZERO);
        }
    }

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn candidate(n: u8, direction: Direction, incarnation: u64) -> Candidate {
        let ip = "192.0.2.1".parse().unwrap();
        Candidate { id: id(n), direction, incarnation, ip, is_relayed: false }
    }

    fn node(me: u8) -> Admissions {
        Admissions::new(id(me), &Config::default(), [7; 32])
    }

    #[test]
    fn a_connection_to_this_node_itself_is_refused() {
        let mut node = node(1);
        assert_eq!(node.begin_hello(id(1), false), Err(Reason::SelfConnection));
        assert_eq!(
            node.admit_stranger(&candidate(1, Inbound, 1)),
            Admission::Refuse(Reason::SelfConnection)
        );
    }

    /// Both nodes dial at the same time. Whichever Hello arrives first, they keep the link that the node with
    /// the greater identity has dialled.
    #[test]
    fn nodes_that_dial_each_other_keep_the_same_link() {
        let (mut small, mut great) = (node(1), node(2));
        small.begin_hello(id(2), false).unwrap();
        great.begin_hello(id(1), false).unwrap();
        // Each node's Hello reaches the other node.
        assert_eq!(
            great.admit_stranger(&candidate(1, Inbound, 1)),
            Admission::Refuse(Reason::Duplicate)
        );
        assert_eq!(small.admit_stranger(&candidate(2, Inbound, 1)), Admission::Accept);
        small.up(candidate(2, Inbound, 1));
        // The smaller node's own dial is answered later. It is refused.
        assert_eq!(
            small.admit_stranger(&candidate(2, Outbound, 1)),
            Admission::Refuse(Reason::Duplicate)
        );
        assert_eq!(great.admit_stranger(&candidate(1, Outbound, 1)), Admission::Accept);
    }

    #[test]
    fn the_link_that_the_greater_identity_has_dialled_replaces_the_other() {
        let mut great = node(2);
        great.up(candidate(1, Inbound, 1));
        assert_eq!(
            great.admit_stranger(&candidate(1, Outbound, 1)),
            Admission::Replace(Reason::Duplicate)
        );
        let mut small = node(1);
        small.up(candidate(2, Outbound, 1));
        assert_eq!(
            small.admit_stranger(&candidate(2, Inbound, 1)),
            Admission::Replace(Reason::Duplicate)
        );
    }

    #[test]
    fn a_restarted_node_and_a_second_dial_replace_the_old_link() {
        let mut node = node(2);
        node.up(candidate(1, Outbound, 1));
        let replaced = Admission::Replace(Reason::Replaced);
        assert_eq!(node.admit_stranger(&candidate(1, Inbound, 99)), replaced);
        node.up(candidate(1, Inbound, 1));
        assert_eq!(node.admit_stranger(&candidate(1, Inbound, 1)), replaced);
    }

    #[test]
    fn no_hello_is_sent_to_a_linked_node() {
        let mut node = node(2);
        node.up(candidate(1, Inbound, 1));
        assert_eq!(node.begin_hello(id(1), false), Err(Reason::Duplicate));
        node.link_down(id(1));
        assert_eq!(node.begin_hello(id(1), false), Ok(()));
    }

    #[test]
    fn one_dial_at_a_time_sends_a_hello_to_a_node() {
        let mut node = node(2);
        assert_eq!(node.begin_hello(id(1), false), Ok(()));
        assert_eq!(node.begin_hello(id(1), false), Err(Reason::Duplicate));
        assert_eq!(node.begin_hello(id(3), false), Ok(()));
        node.end_hello(id(1));
        assert_eq!(node.begin_hello(id(1), false), Ok(()), "the first has failed");
    }

    #[test]
    fn inbound_links_are_limited_in_total_and_by_address() {
        let config = Config { max_inbound: 3, max_inbound_per_ip: 2, ..Config::default() };
        let mut node = Admissions::new(id(100), &config, [7; 32]);
        node.up(candidate(1, Inbound, 1));
        node.up(candidate(2, Inbound, 1));
        let refused = Admission::Refuse(Reason::FullForAddress);
        assert_eq!(node.admit_stranger(&candidate(3, Inbound, 1)), refused);
        assert_eq!(node.admit_stranger(&candidate(3, Outbound, 1)), Admission::Accept);
        let local = |n| Candidate { ip: "127.0.0.1".parse().unwrap(), ..candidate(n, Inbound, 1) };
        assert_eq!(node.admit_stranger(&local(3)), Admission::Accept);
        node.up(local(3));
        assert_eq!(node.admit_stranger(&local(4)), Admission::Refuse(Reason::Full));
        // A link that has ended makes room. If its end is reported twice, it counts once.
        node.up(local(3));
        node.link_down(id(3));
        assert_eq!(node.admit_stranger(&local(4)), Admission::Accept);
        node.link_down(id(1));
        node.link_down(id(1));
        assert_eq!(node.admit_stranger(&candidate(3, Inbound, 1)), Admission::Accept);
        node.up(local(3));
        node.up(local(1));
        assert_eq!(node.admit_stranger(&local(4)), Admission::Refuse(Reason::Full));
        // The limits do not apply to a node that this one has dialled.
        node.begin_hello(id(200), false).unwrap();
        assert_eq!(node.admit_stranger(&local(200)), Admission::Accept);
    }

    fn from(n: u8, ip: &str) -> Candidate {
        Candidate { ip: ip.parse().unwrap(), ..candidate(n, Inbound, 1) }
    }

    fn idle(n: u8) -> LinkMerits {
        LinkMerits { id: id(n), rtt: None, is_used: false }
    }

    /// Fills all 16 places with links of one group.
    fn crowded() -> Admissions {
        let config = Config { max_inbound: 16, ..Config::default() };
        let mut node = Admissions::new(id(200), &config, [7; 32]);
        for n in 1..=16 {
            assert!(!node.is_short_of_places());
            node.up(from(n, &format!("203.0.113.{n}")));
        }
        assert!(node.is_short_of_places());
        node
    }

    #[test]
    fn a_stranger_of_another_group_displaces_an_idle_link() {
        let mut node = crowded();
        let merits: Vec<_> = (1..=16).map(idle).collect();
        let same_group = node.admit(&from(20, "203.0.113.20"), |_| false, &merits);
        assert_eq!(same_group, Admission::Refuse(Reason::Full));
        let newcomer = from(21, "198.51.100.1");
        let Admission::MakeRoom(victim) = node.admit(&newcomer, |_| false, &merits) else {
            panic!()
        };
        node.evict(victim);
        node.up(newcomer);
        // The end of the evicted link does not free a second place.
        node.link_down(victim);
        assert_eq!(node.inbound, 16);
        // The next stranger of the group with few links displaces another link of the crowded group.
        let next = node.admit(&from(22, "198.51.100.2"), |_| false, &merits);
        assert!(matches!(next, Admission::MakeRoom(other) if other != victim && other != id(21)));
    }

    #[test]
    fn links_that_the_application_uses_and_known_nodes_stay() {
        let node = crowded();
        let newcomer = from(21, "198.51.100.1");
        let used = |n| LinkMerits { is_used: true, ..idle(n) };
        let merits: Vec<_> = (1..=16).map(used).collect();
        let full = Admission::Refuse(Reason::Full);
        assert_eq!(node.admit(&newcomer, |_| false, &merits), full);
        let merits: Vec<_> = (1..=16).map(idle).collect();
        let all_but_newcomer = |of: NodeId| of != newcomer.id;
        assert_eq!(node.admit(&newcomer, all_but_newcomer, &merits), Admission::Accept);
        assert_eq!(node.admit(&newcomer, |_| false, &[]), full, "their use is unknown");
    }

    #[test]
    fn further_places_are_kept_for_known_nodes() {
        let mut node = crowded();
        let known = |of: NodeId| of > id(100);
        assert_eq!(
            node.admit(&from(20, "203.0.113.20"), known, &[]),
            Admission::Refuse(Reason::Full)
        );
        for n in [101, 102] {
            let candidate = from(n, "203.0.113.99");
            assert_eq!(node.admit(&candidate, known, &[]), Admission::Accept);
            node.up(candidate);
        }
        let third = from(103, "203.0.113.99");
        assert_eq!(node.admit(&third, known, &[]), Admission::Refuse(Reason::Full));
        // Links of known nodes do not take the places of strangers.
        node.link_down(id(1));
        assert_eq!(node.admit(&from(20, "203.0.113.20"), known, &[]), Admission::Accept);
    }
}
