//! The connections of clients that have not shown a token yet. Any user of the machine can open such a connection,
//! so they are few and short, and never keep out a client that has a token.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::lock::lock;

/// Maximum number of connections without a token. 64: a quarter of all slots.
const MAX_UNAUTHENTICATED: usize = 64;

/// Time within which a connection has to show a token. 5 s: a client sends it with its first request.
const TIME_TO_SHOW: Duration = Duration::from_secs(5);

/// The connections without a token, the oldest first.
pub(super) struct UnauthenticatedConnections {
    list: Mutex<UnauthenticatedList>,
    time_to_show: Duration,
}

#[derive(Default)]
struct UnauthenticatedList {
    by_number: BTreeMap<u64, (Option<IpAddr>, CancellationToken)>,
    next: u64,
}

/// A connection that may still have to show a token. When the last clone is dropped, it is forgotten.
#[derive(Clone)]
pub(super) struct Unauthenticated(Arc<UnauthenticatedEntry>);

struct UnauthenticatedEntry {
    all: Arc<UnauthenticatedConnections>,
    number: u64,
    has_shown: AtomicBool,
    gives_way: CancellationToken,
}

impl Default for UnauthenticatedConnections {
    fn default() -> Self {
        Self { list: Mutex::default(), time_to_show: TIME_TO_SHOW }
    }
}

impl UnauthenticatedConnections {
    /// Adds a new connection of a machine, `None` for this one. If there are too many, the oldest of the machine
    /// that has most of them gives way.
    pub(super) fn add(self: &Arc<Self>, machine: Option<IpAddr>) -> Unauthenticated {
        let gives_way = CancellationToken::new();
        let mut list = lock(&self.list);
        let number = list.next;
        list.next = list.next.wrapping_add(1);
        list.by_number.insert(number, (machine, gives_way.clone()));
        if list.by_number.len() > MAX_UNAUTHENTICATED {
            list.remove_one();
        }
        let entry =
            UnauthenticatedEntry { all: self.clone(), number, has_shown: false.into(), gives_way };
        Unauthenticated(Arc::new(entry))
    }

    fn forget(&self, number: u64) {
        lock(&self.list).by_number.remove(&number);
    }
}

impl UnauthenticatedList {
    fn remove_one(&mut self) {
        let mut counts: BTreeMap<Option<IpAddr>, usize> = BTreeMap::new();
        for (machine, _) in self.by_number.values() {
            *counts.entry(*machine).or_default() += 1;
        }
        let Some((most, _)) = counts.into_iter().max_by_key(|(_, count)| *count) else { return };
        let oldest = self.by_number.iter().find(|(_, (machine, _))| *machine == most);
        if let Some(number) = oldest.map(|(number, _)| *number)
            && let Some((_, gives_way)) = self.by_number.remove(&number)
        {
            gives_way.cancel();
        }
    }
}

impl Unauthenticated {
    /// Notes that the client has shown a valid token. From now on the connection stays.
    pub(super) fn show_token(&self) {
        if !self.0.has_shown.swap(true, Ordering::Relaxed) {
            self.0.all.forget(self.0.number);
        }
    }

    /// Waits until the connection has to end: it gives way to another one, or has shown no token in time.
    pub(super) async fn gives_way(&self) {
        let cancelled = self.0.gives_way.cancelled();
        if tokio::time::timeout(self.0.all.time_to_show, cancelled).await.is_err()
            && self.0.has_shown.load(Ordering::Relaxed)
        {
            // It stays for as long as its client likes. The token may come in the moment in which it gives way.
            self.0.gives_way.cancelled().await;
        }
    }
}

impl Drop for UnauthenticatedEntry {
    fn drop(&mut self) {
        self.all.forget(self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn gives_way(connection: &Unauthenticated) -> bool {
        connection.gives_way().now_or_never().is_some()
    }

    fn count(connections: &UnauthenticatedConnections) -> usize {
        lock(&connections.list).by_number.len()
    }

    #[tokio::test]
    async fn the_oldest_connection_without_a_token_gives_way() {
        let connections = Arc::<UnauthenticatedConnections>::default();
        let known = connections.add(None);
        known.show_token();
        known.show_token();
        let all: Vec<_> = (0..2 * MAX_UNAUTHENTICATED).map(|_| connections.add(None)).collect();
        assert!(all[..MAX_UNAUTHENTICATED].iter().all(gives_way));
        assert!(!all[MAX_UNAUTHENTICATED..].iter().any(gives_way) && !gives_way(&known));
        // Another machine that floods the API does not displace a client of this one.
        let other = Some("192.0.2.1".parse().unwrap());
        let flood: Vec<_> = (0..200).map(|_| connections.add(other)).collect();
        assert_eq!(all.iter().filter(|own| !gives_way(own)).count(), MAX_UNAUTHENTICATED / 2);
        assert_eq!(count(&connections), MAX_UNAUTHENTICATED);
        drop((all, flood));
        assert_eq!(count(&connections), 0);
    }

    #[tokio::test]
    async fn a_connection_has_to_show_a_token_in_time() {
        let time_to_show = Duration::from_millis(20);
        let empty = UnauthenticatedConnections::default();
        let connections = Arc::new(UnauthenticatedConnections { time_to_show, ..empty });
        let (silent, known) = (connections.add(None), connections.add(None));
        known.clone().show_token();
        let ended = tokio::time::timeout(Duration::from_secs(60), silent.gives_way()).await;
        assert!(ended.is_ok(), "it ends");
        let staying = tokio::time::timeout(10 * time_to_show, known.gives_way()).await;
        assert!(staying.is_err(), "it stays");
    }
}
