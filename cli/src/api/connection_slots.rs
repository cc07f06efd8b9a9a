//! The slots of the API's connections. Clients of one machine never get all of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::lock::lock;

/// Maximum number of connections. 256: a hundred clients, each with an event stream and another request.
const MAX_CONNECTIONS: usize = 256;

/// Number of slots that only clients on this machine get. 64: others can never keep a user from his own node.
const FOR_THIS_MACHINE: usize = 64;

/// Maximum number of connections of one other machine. 64: a third of the slots for other machines.
const MAX_OF_ONE: usize = 64;

/// Interval between warnings. 10 s: a client that tries again and again must not fill the log.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// The slots of all connections.
#[derive(Default)]
pub(super) struct ConnectionSlots(Mutex<SlotsTaken>);

#[derive(Default)]
struct SlotsTaken {
    all: usize,
    /// Number of the connections of each other machine.
    by_machine: BTreeMap<IpAddr, usize>,
    warned: Option<Instant>,
}

/// The slot of one connection, until it is dropped.
pub(super) struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    /// `None` if the client is on this machine.
    machine: Option<IpAddr>,
}

impl ConnectionSlots {
    /// Takes a slot for a client at this address. Returns `None` if there is none for it.
    pub(super) fn take(self: &Arc<Self>, client: IpAddr) -> Option<ConnectionSlot> {
        let machine = machine(client);
        let mut taken = lock(&self.0);
        if !taken.has_slot_for(machine) {
            let now = Instant::now();
            if taken.warned.is_none_or(|warned| now.duration_since(warned) >= WARNING_INTERVAL) {
                taken.warned = Some(now);
                let connections = taken.all;
                tracing::warn!(%client, connections, "the API refuses a connection: too many are open");
            }
            return None;
        }
        taken.all += 1;
        if let Some(machine) = machine {
            *taken.by_machine.entry(machine).or_default() += 1;
        }
        Some(ConnectionSlot { slots: self.clone(), machine })
    }
}

impl ConnectionSlot {
    /// Returns the address of the client's machine, or `None` if it is this one.
    pub(super) fn machine(&self) -> Option<IpAddr> {
        self.machine
    }
}

impl SlotsTaken {
    fn has_slot_for(&self, machine: Option<IpAddr>) -> bool {
        let Some(machine) = machine else { return self.all < MAX_CONNECTIONS };
        let of_others: usize = self.by_machine.values().sum();
        let of_this_one = self.by_machine.get(&machine).copied().unwrap_or_default();
        self.all < MAX_CONNECTIONS
            && of_others < MAX_CONNECTIONS - FOR_THIS_MACHINE
            && of_this_one < MAX_OF_ONE
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut taken = lock(&self.slots.0);
        taken.all = taken.all.saturating_sub(1);
        let Some(machine) = self.machine else { return };
        if let Some(count) = taken.by_machine.get_mut(&machine) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.by_machine.remove(&machine);
            }
        }
    }
}

/// Returns the address by which the connections of another machine are counted: an IPv4 address, or the first half of
/// an IPv6 address, since a machine may use all addresses with that half. Returns `None` for this machine.
fn machine(client: IpAddr) -> Option<IpAddr> {
    match client.to_canonical() {
        ip if ip.is_loopback() => None,
        IpAddr::V6(ip) => Some(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into()),
        ip => Some(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn other_machines_never_take_all_slots() {
        let slots = Arc::new(ConnectionSlots::default());
        let take = |count: usize, client: &str| -> Vec<ConnectionSlot> {
            (0..count).filter_map(|_| slots.take(ip(client))).collect()
        };
        let first = take(300, "192.0.2.1");
        assert_eq!(first.len(), MAX_OF_ONE);
        assert_eq!(take(1, "192.0.2.2").len(), 1);
        let others: Vec<_> = (2..9).map(|last| take(300, &format!("192.0.2.{last}"))).collect();
        let of_others = first.len() + others.iter().map(Vec::len).sum::<usize>();
        assert_eq!(of_others, MAX_CONNECTIONS - FOR_THIS_MACHINE);
        let own = [take(40, "127.0.0.1"), take(300, "::1")];
        assert_eq!((own[0].len(), own[1].len()), (40, 24));
        drop(own);
        drop(first);
        assert_eq!(take(300, "192.0.2.1").len(), MAX_OF_ONE);
        drop(others);
        assert_eq!(take(300, "127.0.0.1").len(), MAX_CONNECTIONS);
        assert!(lock(&slots.0).by_machine.is_empty());
    }

    #[test]
    fn the_addresses_of_one_machine_count_together() {
        assert_eq!(machine(ip("127.0.0.2")), None);
        assert_eq!(machine(ip("::ffff:127.0.0.1")), None);
        assert_eq!(machine(ip("::ffff:192.0.2.1")), machine(ip("192.0.2.1")));
        assert_eq!(machine(ip("2001:db8::1")), machine(ip("2001:db8::ffff:2")));
        assert_ne!(machine(ip("2001:db8::1")), machine(ip("2001:db8:0:1::1")));
    }
}
