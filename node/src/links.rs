//! The table of links that all tasks of a node share. Only the actor adds and removes links.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};

use peerkit_proto::id::NodeId;
use peerkit_proto::peer::ConnectionId;
use tokio::sync::Notify;

use crate::conn::Conn;
use crate::error::Error;
use crate::lock::{read, write};

/// The links of a node: at most one to each peer.
#[derive(Default)]
pub(crate) struct LinkTable {
    maps: RwLock<LinkMaps>,
    changed: Notify,
    last_connection: AtomicU64,
}

#[derive(Default)]
struct LinkMaps {
    by_id: HashMap<NodeId, Arc<Conn>>,
    /// The links in the order in which they were made. Computed when needed, and discarded by every change.
    in_order: OnceLock<Arc<[Arc<Conn>]>>,
}

impl LinkTable {
    /// Returns the link to the peer `id`.
    ///
    /// # Errors
    /// Fails with [`Error::NotConnected`] if there is none.
    pub(crate) fn get(&self, id: NodeId) -> Result<Arc<Conn>, Error> {
        let maps = read(&self.maps);
        let conn = maps.by_id.get(&id).ok_or(Error::NotConnected(id))?;
        Ok(conn.clone())
    }

    /// Returns the link to the peer `id`, unless it is closing.
    pub(crate) fn get_open(&self, id: NodeId) -> Option<Arc<Conn>> {
        self.get(id).ok().filter(|conn| conn.outbox.closed().is_none())
    }

    /// Returns all links, in the order in which they were made.
    pub(crate) fn all(&self) -> Arc<[Arc<Conn>]> {
        let maps = read(&self.maps);
        let in_order = || {
            let mut all: Vec<_> = maps.by_id.values().cloned().collect();
            all.sort_by_key(|conn| conn.connection);
            all.into()
        };
        // The list is kept. Otherwise each message to all peers would copy and sort the links.
        maps.in_order.get_or_init(in_order).clone()
    }

    /// Returns the connection ids of all links.
    pub(crate) fn connections(&self) -> BTreeSet<ConnectionId> {
        self.all().iter().map(|conn| conn.connection).collect()
    }

    /// Returns a new connection id, which is larger than all ids before it.
    pub(crate) fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.last_connection.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Lets `change` add or remove links, then wakes the tasks that wait for a change.
    pub(crate) fn change(&self, change: impl FnOnce(&mut HashMap<NodeId, Arc<Conn>>)) {
        {
            let mut maps = write(&self.maps);
            change(&mut maps.by_id);
            maps.in_order.take();
        }
        self.changed.notify_waiters();
    }

    /// Waits until `is_met` returns true for the links.
    pub(crate) async fn wait_until(&self, is_met: impl Fn(&[Arc<Conn>]) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registers for changes before the check, so that a change between the two is noticed.
            changed.as_mut().enable();
            if is_met(&self.all()) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until there is a link whose connection id is not in `before`.
    pub(crate) async fn wait_for_new(&self, before: &BTreeSet<ConnectionId>) {
        self.wait_until(|links| links.iter().any(|conn| !before.contains(&conn.connection))).await;
    }

    /// Waits while a link's queue of overlay frames is crowded. Looks at one link after the other.
    pub(crate) async fn wait_while_crowded(&self) {
        for conn in self.all().iter() {
            conn.outbox.wait_while_crowded().await;
        }
    }
}
