//! Nodes that have violated the protocol, or that the application has reported.
//!
//! They are remembered for a while: this node refuses their connections and its overlay does not dial them.
//! Identities are free, so the hosts of inbound links that ended with a fault are remembered too. A host may be
//! shared with nodes that did nothing. So its unknown nodes are refused only while inbound places are short:
//! see [`Admissions::is_crowded`](super::super::admission::Admissions::is_crowded).
//!
//! Bitcoin Core discourages peers in the same way. It remembers addresses only, as its nodes have no identity.

use std::net::IpAddr;
use std::time::Duration;

use super::timed::TimedSet;
use crate::id::NodeId;
use crate::time::Instant;

/// Time for which a fault is remembered. Ten minutes, as for a node that the user has disconnected: a faulty
/// version of a program may be replaced by then.
const MEMORY: Duration = Duration::from_secs(600);

/// Maximum number of nodes, and of hosts, whose faults are remembered. If one more is added, the one whose time
/// ends first is removed. 1,024: with about 80 bytes each.
const MAX_FAULTY: usize = 1024;

/// The nodes and hosts whose faults are remembered, and until when.
#[derive(Debug)]
pub(super) struct FaultyNodes {
    nodes: TimedSet<NodeId>,
    hosts: TimedSet<IpAddr>,
}

impl Default for FaultyNodes {
    fn default() -> Self {
        Self { nodes: TimedSet::new(MAX_FAULTY), hosts: TimedSet::new(MAX_FAULTY) }
    }
}

impl FaultyNodes {
    pub(super) fn add(&mut self, now: Instant, id: NodeId, host: Option<IpAddr>) {
        self.nodes.add(now, id, MEMORY);
        if let Some(host) = host {
            self.hosts.add(now, host, MEMORY);
        }
    }

    pub(super) fn remove(&mut self, id: NodeId) {
        self.nodes.remove(id);
    }

    pub(super) fn contains(&self, now: Instant, id: NodeId) -> bool {
        self.nodes.contains(now, id)
    }

    pub(super) fn contains_host(&self, now: Instant, host: IpAddr) -> bool {
        self.hosts.contains(now, host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    #[test]
    fn faults_are_forgotten_after_a_while_and_bounded_in_number() {
        let mut faulty = FaultyNodes::default();
        let at = |seconds| Instant::from_origin(Duration::from_secs(seconds));
        let host: IpAddr = "192.0.2.1".parse().unwrap();
        faulty.add(at(0), id(0), Some(host));
        assert!(faulty.contains(at(599), id(0)) && !faulty.contains(at(600), id(0)));
        assert!(faulty.contains_host(at(599), host) && !faulty.contains_host(at(600), host));
        assert!(!faulty.contains(at(1), id(1)));
        for n in 1..=1024 {
            faulty.add(at(1), id(n), None);
        }
        assert_eq!((faulty.nodes.len(), faulty.hosts.len()), (1024, 1));
        assert!(!faulty.contains(at(2), id(0)) && faulty.contains(at(2), id(1024)));
        faulty.remove(id(1024));
        assert!(!faulty.contains(at(2), id(1024)));
    }
}
