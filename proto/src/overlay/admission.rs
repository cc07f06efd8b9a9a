//! Admission of links: decides which connections become links. A pair of nodes has one link, and the number
//! of inbound links is limited.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::address_group::AddressGroups;
use crate::config::Config;
use crate::event::{Direction, Reason};
use crate::id::NodeId;

/// A connection on which the other node's Hello has arrived, and which may become a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The node at the other end, whose identity the handshake has proven.
    pub id: NodeId,
    /// The direction: outbound if this node has dialled.
    pub direction: Direction,
    /// A number from the other node's Hello, which changes when that node restarts.
    pub incarnation: u64,
    /// The other node's IP address.
    pub ip: IpAddr,
}

/// The decision about a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// The connection becomes a link.
    Accept,
    /// The connection becomes a link once the present link with that node has ended. The present link is
    /// closed for this reason.
    Replace(Reason),
    /// The connection is refused for this reason.
    Refuse(Reason),
}

/// The links, and the nodes that were dialled and have not answered this node's Hello.
#[derive(Debug)]
pub(super) struct Admissions {
    me: NodeId,
    max_inbound: usize,
    max_inbound_per_ip: usize,
    links: BTreeMap<NodeId, Candidate>,
    groups: AddressGroups,
    /// Number of inbound links, in total and by host (see [`AddressGroups::host`]).
    inbound: usize,
    inbound_by_host: BTreeMap<IpAddr, usize>,
    /// Nodes that this node has dialled, and that have not answered its Hello yet.
    awaiting_hello: BTreeSet<NodeId>,
}

impl Admissions {
    pub(super) fn new(me: NodeId, config: &Config) -> Self {
        Self {
            me,
            max_inbound: config.max_inbound,
            max_inbound_per_ip: config.max_inbound_per_ip,
            links: BTreeMap::new(),
            groups: config.address_groups(),
            inbound: 0,
            inbound_by_host: BTreeMap::new(),
            awaiting_hello: BTreeSet::new(),
        }
    }

    pub(super) fn max_inbound(&self) -> usize {
        self.max_inbound
    }

    /// Sets the maximum number of inbound links, for candidates from now on.
    pub(super) fn set_max_inbound(&mut self, links: usize) {
        self.max_inbound = links;
    }

    /// Decides whether a dial that has reached `id` may send its Hello. It may not if `id` is this node, if
    /// there is a link with `id`, or if another dial has sent a Hello to `id` and waits for the answer. In
    /// the last case `id` would treat the second connection as a replacement of the first.
    pub(super) fn begin_hello(&mut self, id: NodeId) -> Result<(), Reason> {
        if id == self.me {
            return Err(Reason::SelfConnection);
        }
        if self.links.contains_key(&id) || !self.awaiting_hello.insert(id) {
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
    pub(super) fn admit(&self, candidate: &Candidate) -> Admission {
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
            let stale =
                link.incarnation != candidate.incarnation || link.direction == candidate.direction;
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
        if self.inbound >= self.max_inbound {
            return Admission::Refuse(Reason::Full);
        }
        let host = self.groups.host(candidate.ip);
        let of_host = host.and_then(|host| self.inbound_by_host.get(&host)).copied();
        if of_host.unwrap_or_default() >= self.max_inbound_per_ip {
            return Admission::Refuse(Reason::FullForAddress);
        }
        Admission::Accept
    }

    pub(super) fn link_up(&mut self, candidate: Candidate) {
        self.awaiting_hello.remove(&candidate.id);
        // The end of the link that this one replaces may not have been reported. It must not count twice.
        self.link_down(candidate.id);
        self.links.insert(candidate.id, candidate);
        if candidate.direction == Direction::Inbound {
            self.inbound += 1;
            if let Some(host) = self.groups.host(candidate.ip) {
                *self.inbound_by_host.entry(host).or_default() += 1;
            }
        }
    }

    pub(super) fn link_down(&mut self, id: NodeId) {
        let Some(link) = self.links.remove(&id) else { return };
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

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn candidate(n: u8, direction: Direction, incarnation: u64) -> Candidate {
        Candidate { id: id(n), direction, incarnation, ip: "192.0.2.1".parse().unwrap() }
    }

    fn node(me: u8) -> Admissions {
        Admissions::new(id(me), &Config::default())
    }

    #[test]
    fn a_connection_to_this_node_itself_is_refused() {
        let mut node = node(1);
        assert_eq!(node.begin_hello(id(1)), Err(Reason::SelfConnection));
        assert_eq!(
            node.admit(&candidate(1, Inbound, 1)),
            Admission::Refuse(Reason::SelfConnection)
        );
    }

    /// Both nodes dial at the same time. Whichever Hello arrives first, they keep the link that the node with
    /// the greater identity has dialled.
    #[test]
    fn nodes_that_dial_each_other_keep_the_same_link() {
        let (mut small, mut great) = (node(1), node(2));
        small.begin_hello(id(2)).unwrap();
        great.begin_hello(id(1)).unwrap();
        // Each node's Hello reaches the other node.
        assert_eq!(great.admit(&candidate(1, Inbound, 1)), Admission::Refuse(Reason::Duplicate));
        assert_eq!(small.admit(&candidate(2, Inbound, 1)), Admission::Accept);
        small.link_up(candidate(2, Inbound, 1));
        // The smaller node's own dial is answered later. It is refused.
        assert_eq!(small.admit(&candidate(2, Outbound, 1)), Admission::Refuse(Reason::Duplicate));
        assert_eq!(great.admit(&candidate(1, Outbound, 1)), Admission::Accept);
    }

    #[test]
    fn the_link_that_the_greater_identity_has_dialled_replaces_the_other() {
        let mut great = node(2);
        great.link_up(candidate(1, Inbound, 1));
        assert_eq!(great.admit(&candidate(1, Outbound, 1)), Admission::Replace(Reason::Duplicate));
        let mut small = node(1);
        small.link_up(candidate(2, Outbound, 1));
        assert_eq!(small.admit(&candidate(2, Inbound, 1)), Admission::Replace(Reason::Duplicate));
    }

    #[test]
    fn a_restarted_node_and_a_second_dial_replace_the_old_link() {
        let mut node = node(2);
        node.link_up(candidate(1, Outbound, 1));
        let replaced = Admission::Replace(Reason::Replaced);
        assert_eq!(node.admit(&candidate(1, Inbound, 99)), replaced);
        node.link_up(candidate(1, Inbound, 1));
        assert_eq!(node.admit(&candidate(1, Inbound, 1)), replaced);
    }

    #[test]
    fn no_hello_is_sent_to_a_linked_node() {
        let mut node = node(2);
        node.link_up(candidate(1, Inbound, 1));
        assert_eq!(node.begin_hello(id(1)), Err(Reason::Duplicate));
        node.link_down(id(1));
        assert_eq!(node.begin_hello(id(1)), Ok(()));
    }

    #[test]
    fn one_dial_at_a_time_sends_a_hello_to_a_node() {
        let mut node = node(2);
        assert_eq!(node.begin_hello(id(1)), Ok(()));
        assert_eq!(node.begin_hello(id(1)), Err(Reason::Duplicate));
        assert_eq!(node.begin_hello(id(3)), Ok(()));
        node.end_hello(id(1));
        assert_eq!(node.begin_hello(id(1)), Ok(()), "the first has failed");
    }

    #[test]
    fn inbound_links_are_limited_in_total_and_by_address() {
        let config = Config { max_inbound: 3, max_inbound_per_ip: 2, ..Config::default() };
        let mut node = Admissions::new(id(100), &config);
        node.link_up(candidate(1, Inbound, 1));
        node.link_up(candidate(2, Inbound, 1));
        let refused = Admission::Refuse(Reason::FullForAddress);
        assert_eq!(node.admit(&candidate(3, Inbound, 1)), refused);
        assert_eq!(node.admit(&candidate(3, Outbound, 1)), Admission::Accept);
        let local = |n| Candidate { ip: "127.0.0.1".parse().unwrap(), ..candidate(n, Inbound, 1) };
        assert_eq!(node.admit(&local(3)), Admission::Accept);
        node.link_up(local(3));
        assert_eq!(node.admit(&local(4)), Admission::Refuse(Reason::Full));
        // A link that has ended makes room. If its end is reported twice, it counts once.
        node.link_up(local(3));
        node.link_down(id(3));
        assert_eq!(node.admit(&local(4)), Admission::Accept);
        node.link_down(id(1));
        node.link_down(id(1));
        assert_eq!(node.admit(&candidate(3, Inbound, 1)), Admission::Accept);
        node.link_up(local(3));
        node.link_up(local(1));
        assert_eq!(node.admit(&local(4)), Admission::Refuse(Reason::Full));
        // The limits do not apply to a node that this one has dialled.
        node.begin_hello(id(200)).unwrap();
        assert_eq!(node.admit(&local(200)), Admission::Accept);
    }
}
