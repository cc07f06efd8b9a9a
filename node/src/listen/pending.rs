//! The inbound handshakes under way, and the choice of the one that gives way if there are too many.
//!
//! An attacker with many addresses opens many connections and leaves their handshakes unfinished. Its
//! addresses mostly share a prefix. So the handshake that gives way belongs to the prefix with the most
//! handshakes, as in Bitcoin Core's eviction of inbound peers: an honest dialler with another prefix is never
//! hit. Within the prefix the choice is repeated with longer prefixes. At last the oldest handshake of one
//! host gives way, as an honest dialler finishes its handshake in a moment.
//!
//! A connection that has finished TLS never gives way to one that has not. It waits for the Hello in a table of
//! its own, in which the same rule applies. An honest dialler sends its Hello together with the end of TLS, so
//! it stays there for less than a millisecond.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use peerkit_proto::address_group::AddressGroups;
use peerkit_proto::config::Config;
use tokio_util::sync::CancellationToken;

use crate::lock::lock;

/// The inbound handshakes under way.
#[derive(Debug)]
pub(crate) struct PendingHandshakes {
    max: usize,
    max_per_ip: usize,
    groups: AddressGroups,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    /// Connections on which TLS is not finished, the oldest first.
    tls: Table,
    /// Connections that have finished TLS and wait for the dialler's first frame, the oldest first.
    secured: Table,
}

type Table = VecDeque<Arc<SlotState>>;

#[derive(Debug)]
struct SlotState {
    /// The prefixes of the dialler's address: see [`AddressGroups::prefixes`].
    prefixes: [Option<IpAddr>; 3],
    /// Cancelled when another handshake evicts this one.
    evicted: CancellationToken,
    /// True once the handshake is over.
    is_over: AtomicBool,
}

/// The slot of one handshake in [`PendingHandshakes`]. Dropping it frees the slot.
#[derive(Debug)]
pub(super) struct HandshakeSlot {
    all: Arc<PendingHandshakes>,
    state: Arc<SlotState>,
}

impl PendingHandshakes {
    pub(crate) fn new(config: &Config) -> Arc<Self> {
        let (max, max_per_ip) = (config.max_pending, config.max_pending_per_ip);
        let groups = config.address_groups();
        Arc::new(Self { max, max_per_ip, groups, tables: Mutex::default() })
    }

    /// Returns the number of handshakes under way.
    pub(crate) fn count(&self) -> usize {
        let tables = lock(&self.tables);
        let both = tables.tls.iter().chain(&tables.secured);
        both.filter(|slot| !slot.is_over.load(Ordering::Relaxed)).count()
    }

    /// Returns whether `max` or more handshakes are under way, or one with the host of `ip`.
    pub(super) fn is_busy(&self, ip: IpAddr, max: usize) -> bool {
        let [.., host] = self.groups.prefixes(ip);
        let tables = lock(&self.tables);
        let both = tables.tls.iter().chain(&tables.secured);
        let mut under_way = both.filter(|slot| !slot.is_over.load(Ordering::Relaxed));
        under_way.clone().count() >= max
            || (host.is_some() && under_way.any(|slot| slot.prefixes[2] == host))
    }

    /// Adds a handshake with `ip`, and evicts another one if there is no room.
    pub(super) fn add(self: &Arc<Self>, ip: IpAddr) -> HandshakeSlot {
        let prefixes = self.groups.prefixes(ip);
        let state = SlotState {
            prefixes,
            evicted: CancellationToken::new(),
            is_over: AtomicBool::new(false),
        };
        let state = Arc::new(state);
        let mut tables = lock(&self.tables);
        tables.remove_finished();
        let [.., host] = prefixes;
        let is_of_host = |slot: &Arc<SlotState>| slot.prefixes[2] == host;
        let of_host = tables.tls.iter().chain(&tables.secured).filter(|slot| is_of_host(slot));
        if host.is_some() && of_host.count() >= self.max_per_ip {
            let Tables { tls, secured } = &mut *tables;
            let table = if tls.iter().any(is_of_host) { tls } else { secured };
            let oldest = table.iter().position(is_of_host);
            evict(table, oldest);
        }
        if tables.tls.len() >= self.max {
            let crowded = most_crowded(&tables.tls);
            evict(&mut tables.tls, crowded);
        }
        tables.tls.push_back(state.clone());
        HandshakeSlot { all: self.clone(), state }
    }
}

impl HandshakeSlot {
    /// Notes that TLS is finished.
    pub(super) fn secured(&self) {
        let mut tables = lock(&self.all.tables);
        tables.remove_finished();
        let Some(at) = tables.tls.iter().position(|slot| Arc::ptr_eq(slot, &self.state)) else {
            return; // evicted a moment ago
        };
        tables.tls.remove(at);
        if tables.secured.len() >= self.all.max {
            let crowded = most_crowded(&tables.secured);
            evict(&mut tables.secured, crowded);
        }
        tables.secured.push_back(self.state.clone());
    }

    /// Returns the token that is cancelled when another handshake evicts this one.
    pub(super) fn evicted(&self) -> CancellationToken {
        self.state.evicted.clone()
    }
}

impl Drop for HandshakeSlot {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
    }
}

impl Tables {
    fn remove_finished(&mut self) {
        for table in [&mut self.tls, &mut self.secured] {
            table.retain(|slot| !slot.is_over.load(Ordering::Relaxed));
        }
    }
}

/// Returns the index of the oldest handshake of the most crowded prefix: the shortest prefixes are compared
/// first, then the longer ones within the most crowded one. Of equally crowded prefixes, chooses the one with
/// the oldest handshake.
fn most_crowded(table: &Table) -> Option<usize> {
    let mut candidates: Vec<usize> = (0..table.len()).collect();
    for level in 0..3 {
        let prefix = |at: &usize| table.get(*at).and_then(|slot| slot.prefixes[level]);
        let mut counts = BTreeMap::<_, usize>::new();
        for at in &candidates {
            *counts.entry(prefix(at)).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        let chosen = candidates.iter().map(prefix).find(|of| counts.get(of) == Some(&most))?;
        candidates.retain(|at| prefix(at) == chosen);
    }
    candidates.first().copied()
}

fn evict(table: &mut Table, at: Option<usize>) {
    if let Some(slot) = at.and_then(|at| table.remove(at)) {
        slot.evicted.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(max: usize) -> Arc<PendingHandshakes> {
        PendingHandshakes::new(&{
            let mut config = Config::default();
            (config.max_pending, config.limit_loopback) = (max, true);
            config
        })
    }

    fn add(pending: &Arc<PendingHandshakes>, ip: &str) -> HandshakeSlot {
        pending.add(ip.parse().unwrap())
    }

    fn is_evicted(slot: &HandshakeSlot) -> bool {
        slot.evicted().is_cancelled()
    }

    #[test]
    fn the_group_with_most_handshakes_gives_way() {
        let pending = pending(64);
        let honest = add(&pending, "198.51.100.7");
        let same_group = add(&pending, "203.0.7.7");
        // Each address of the attacker is used once, so the limit by host has no effect.
        let attack: Vec<_> = (0..10_000)
            .map(|n| add(&pending, &format!("203.0.{}.{}", 100 + n / 256, n % 256)))
            .collect();
        assert_eq!(pending.count(), 64);
        assert!(!is_evicted(&honest));
        assert!(!is_evicted(&same_group), "its /24 has fewer");
        assert_eq!(attack.iter().filter(|slot| !is_evicted(slot)).count(), 62);
        drop(attack);
        assert_eq!(pending.count(), 2);
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_group() {
        let pending = pending(8);
        let honest = [add(&pending, "2001:db8:1::1"), add(&pending, "2a00:1::1")];
        let _attack: Vec<_> =
            (0..100).map(|n| add(&pending, &format!("2001:db8:2:{n:x}::1"))).collect();
        assert!(honest.iter().all(|slot| !is_evicted(slot)), "the /48 of the attacker has more");
    }

    #[test]
    fn a_host_has_few_handshakes() {
        let pending = pending(64);
        let slots: Vec<_> = (0..6).map(|n| add(&pending, &format!("2001:db8::{n:x}"))).collect();
        let evicted: Vec<_> = slots.iter().map(is_evicted).collect();
        assert_eq!(evicted, [true, true, false, false, false, false]);
    }

    #[test]
    fn a_connection_that_has_finished_tls_does_not_give_way_to_others() {
        let pending = pending(4);
        let secured: Vec<_> = (0..4).map(|n| add(&pending, &format!("127.1.0.{n}"))).collect();
        for slot in &secured {
            slot.secured();
        }
        let later: Vec<_> = (0..40).map(|n| add(&pending, &format!("127.{n}.0.9"))).collect();
        assert!(secured.iter().all(|slot| !is_evicted(slot)));
        // One more that has finished TLS evicts one of the group with most.
        let other = add(&pending, "127.50.0.1");
        other.secured();
        assert!(!is_evicted(&other));
        let evicted: Vec<_> = secured.iter().map(is_evicted).collect();
        assert_eq!(evicted, [true, false, false, false]);
        assert!(is_evicted(&later[0]));
    }

    #[test]
    fn addresses_without_limits_give_way_by_age() {
        let mut config = Config::default();
        config.max_pending = 2;
        let pending = PendingHandshakes::new(&config);
        let slots: Vec<_> = (0..4).map(|_| add(&pending, "127.0.0.1")).collect();
        let evicted: Vec<_> = slots.iter().map(is_evicted).collect();
        assert_eq!(evicted, [true, true, false, false]);
    }
}
