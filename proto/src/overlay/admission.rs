//! Admission of links: one for each pair of nodes, and a limited number of inbound links.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::config::Config;
use crate::event::{Direction, Reason};
use crate::id::NodeId;

/// A connection that has said Hello and would be a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The node at the other end, proven by the handshake.
    pub id: NodeId,
    /// The side that dialled.
    pub direction: Direction,
    /// A number from the other side's Hello, which changes when the node restarts.
    pub incarnation: u64,
    /// The other side's IP address.
    pub ip: IpAddr,
}

/// The decision about a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It becomes a link.
    Accept,
    /// It becomes a link once the present link with that node has ended. That is to be ended for this
    /// reason.
    Replace(Reason),
    /// It is refused for this reason.
    Refuse(Reason),
}

/// The links, and the dials that have reached a node.
#[derive(Debug)]
pub(super) struct Admissions {
    me: NodeId,
    max_inbound: usize,
    max_inbound_per_ip: usize,
    links: BTreeMap<NodeId, Candidate>,
    /// Number of inbound links, in all and by address.
    inbound: usize,
    inbound_by_ip: BTreeMap<IpAddr, usize>,
    /// Nodes that this node has dialled and sent its Hello to, and that have not answered yet.
    awaiting_hello: BTreeSet<NodeId>,
}

impl Admissions {
    pub(super) fn new(me: NodeId, config: &Config) -> Self {
        Self {
            me,
            max_inbound: config.max_inbound,
            max_inbound_per_ip: config.max_inbound_per_ip,
            links: BTreeMap::new(),
            inbound: 0,
            inbound_by_ip: BTreeMap::new(),
            awaiting_hello: BTreeSet::new(),
        }
    }

    /// Decides whether a dial that has reached `id` may say Hello. It may not if the node is this one,
    /// if there is a link with it, or if another dial has said Hello to it and waits for the answer. In
    /// the last case the node would take the second link for a replacement of the first.
    pub(super) fn begin_hello(&mut self, id: NodeId) -> Result<(), Reason> {
        if id == self.me {
            return Err(Reason::SelfConnection);
        }
        if self.links.contains_key(&id) || !self.awaiting_hello.insert(id) {
            return Err(Reason::Duplicate);
        }
        Ok(())
    }

    /// Notes that a dial which was allowed to say Hello has its answer, or has failed.
    pub(super) fn end_hello(&mut self, id: NodeId) {
        self.awaiting_hello.remove(&id);
    }

    /// Decides about a candidate.
    ///
    /// If two nodes dial each other at the same time, both keep the link that was dialled by the node
    /// with the greater identity. A link of an earlier run of the other node, or one that it has
    /// replaced because it lost the first, gives way to the new one.
    pub(super) fn admit(&self, candidate: &Candidate) -> Admission {
        if candidate.id == self.me {
            return Admission::Refuse(Reason::SelfConnection);
        }
        // Simultaneous open: both sides have to choose the same link without another message. So they
        // compare what both know: the two identities, and which side has dialled.
        let theirs_wins = candidate.id > self.me;
        let inbound = candidate.direction == Direction::Inbound;
        if let Some(link) = self.links.get(&candidate.id) {
            // The side that has dialled a link dials again only after it lost the link, and a node
            // changes its incarnation only when it restarts. This node has not noticed either yet.
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
        // The limits protect this node from strangers, and here it has dialled itself.
        if !inbound {
            return Admission::Accept;
        }
        if self.awaiting_hello.contains(&candidate.id) {
            // This node wants a link with that node, whichever side dials. The limits are for other
            // nodes.
            return if theirs_wins {
                Admission::Accept
            } else {
                Admission::Refuse(Reason::Duplicate)
            };
        }
        if self.inbound >= self.max_inbound {
            return Admission::Refuse(Reason::Full);
        }
        // One host may arrive as IPv4 and as IPv4 mapped into IPv6.
        let ip = candidate.ip.to_canonical();
        let of_ip = self.inbound_by_ip.get(&ip).copied().unwrap_or_default();
        // All nodes of this machine share the loopback address.
        if !ip.is_loopback() && of_ip >= self.max_inbound_per_ip {
            return Admission::Refuse(Reason::FullForAddress);
        }
        Admission::Accept
    }

    pub(super) fn link_up(&mut self, candidate: Candidate) {
        self.awaiting_hello.remove(&candidate.id);
        // The end of the link that this one replaces may not have been noted: it must not count twice.
        self.link_down(candidate.id);
        self.links.insert(candidate.id, candidate);
        if candidate.direction == Direction::Inbound {
            self.inbound += 1;
            *self.inbound_by_ip.entry(candidate.ip.to_canonical()).or_default() += 1;
        }
    }

    pub(super) fn link_down(&mut self, id: NodeId) {
        let Some(link) = self.links.remove(&id) else { return };
        if link.direction == Direction::Inbound {
            self.inbound -= 1;
            if let Entry::Occupied(mut of_ip) = self.inbound_by_ip.entry(link.ip.to_canonical()) {
                *of_ip.get_mut() -= 1;
                if *of_ip.get() == 0 {
                    of_ip.remove();
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
    fn oneself_is_refused_on_both_sides() {
        let mut node = node(1);
        assert_eq!(node.begin_hello(id(1)), Err(Reason::SelfConnection));
        assert_eq!(
            node.admit(&candidate(1, Inbound, 1)),
            Admission::Refuse(Reason::SelfConnection)
        );
    }

    /// Both nodes dial at once. In whatever order the two Hellos arrive, the link that the greater
    /// identity has dialled stays.
    #[test]
    fn both_sides_keep_the_same_link() {
        let (mut small, mut great) = (node(1), node(2));
        small.begin_hello(id(2)).unwrap();
        great.begin_hello(id(1)).unwrap();
        // The smaller node's Hello reaches the greater node, and the other way round.
        assert_eq!(great.admit(&candidate(1, Inbound, 1)), Admission::Refuse(Reason::Duplicate));
        assert_eq!(small.admit(&candidate(2, Inbound, 1)), Admission::Accept);
        small.link_up(candidate(2, Inbound, 1));
        // The smaller node's own dial is answered after all. It loses.
        assert_eq!(small.admit(&candidate(2, Outbound, 1)), Admission::Refuse(Reason::Duplicate));
        assert_eq!(great.admit(&candidate(1, Outbound, 1)), Admission::Accept);
    }

    #[test]
    fn a_link_that_came_first_gives_way_to_the_winner() {
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
    fn a_linked_node_is_not_greeted_again() {
        let mut node = node(2);
        node.link_up(candidate(1, Inbound, 1));
        assert_eq!(node.begin_hello(id(1)), Err(Reason::Duplicate));
        node.link_down(id(1));
        assert_eq!(node.begin_hello(id(1)), Ok(()));
    }

    #[test]
    fn one_dial_at_a_time_greets_a_node() {
        let mut node = node(2);
        assert_eq!(node.begin_hello(id(1)), Ok(()));
        assert_eq!(node.begin_hello(id(1)), Err(Reason::Duplicate));
        assert_eq!(node.begin_hello(id(3)), Ok(()));
        node.end_hello(id(1));
        assert_eq!(node.begin_hello(id(1)), Ok(()), "the first has failed");
    }

    #[test]
    fn inbound_links_are_limited_in_all_and_by_address() {
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
        // A link that has ended makes room. A second end of it does not count.
        node.link_up(local(3));
        node.link_down(id(3));
        assert_eq!(node.admit(&local(4)), Admission::Accept);
        node.link_down(id(1));
        node.link_down(id(1));
        assert_eq!(node.admit(&candidate(3, Inbound, 1)), Admission::Accept);
        node.link_up(local(3));
        node.link_up(local(1));
        assert_eq!(node.admit(&local(4)), Admission::Refuse(Reason::Full));
        // The limits do not hold for a node that this one dials itself.
        node.begin_hello(id(200)).unwrap();
        assert_eq!(node.admit(&local(200)), Admission::Accept);
    }
}
