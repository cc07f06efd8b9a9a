//! The links of this node, as its tasks see them. The actor adds and removes them.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};

use peerkit_proto::id::NodeId;
use peerkit_proto::peer::ConnectionId;
use tokio::sync::Notify;

use crate::conn::Conn;
use crate::error::Error;
use crate::lock::{read, write};

/// The links of a node, one for each peer at most.
#[derive(Default)]
pub(crate) struct LinkTable {
    table: RwLock<LinkMaps>,
    changed: Notify,
    last_connection: AtomicU64,
}

#[derive(Default)]
struct LinkMaps {
    by_id: HashMap<NodeId, Arc<Conn>>,
    /// The links in the order in which they were made. Filled on demand, emptied by every change.
    in_order: OnceLock<Arc<[Arc<Conn>]>>,
}

impl LinkTable {
    /// Returns the link with `id`.
    ///
    /// # Errors
    /// [`Error::NotConnected`].
    pub(crate) fn get(&self, id: NodeId) -> Result<Arc<Conn>, Error> {
        let table = read(&self.table);
        let conn = table.by_id.get(&id).ok_or(Error::NotConnected(id))?;
        Ok(conn.clone())
    }

    /// Returns the link with `id`, unless it is closing.
    pub(crate) fn get_open(&self, id: NodeId) -> Option<Arc<Conn>> {
        self.get(id).ok().filter(|conn| conn.outbox.closed().is_none())
    }

    /// Returns all links, in the order in which they were made.
    pub(crate) fn all(&self) -> Arc<[Arc<Conn>]> {
        let table = read(&self.table);
        let in_order = || {
            let mut all: Vec<_> = table.by_id.values().cloned().collect();
            all.sort_by_key(|conn| conn.connection);
            all.into()
        };
        // Kept, as a message to all peers would otherwise copy and sort the links each time.
        table.in_order.get_or_init(in_order).clone()
    }

    /// Returns the numbers of all links.
    pub(crate) fn connections(&self) -> BTreeSet<ConnectionId> {
        self.all().iter().map(|conn| conn.connection).collect()
    }

    /// Returns a number that is larger than those before it.
    pub(crate) fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.last_connection.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Changes the links.
    pub(crate) fn change(&self, change: impl FnOnce(&mut HashMap<NodeId, Arc<Conn>>)) {
        {
            let mut table = write(&self.table);
            change(&mut table.by_id);
            table.in_order.take();
        }
        self.changed.notify_waiters();
    }

    /// Waits until `is_met` returns true for the links.
    pub(crate) async fn wait_until(&self, is_met: impl Fn(&[Arc<Conn>]) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before the check, so that no change goes unnoticed in between.
            changed.as_mut().enable();
            if is_met(&self.all()) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until there is a link whose number is not in `before`.
    pub(crate) async fn wait_for_new(&self, before: &BTreeSet<ConnectionId>) {
        self.wait_until(|links| links.iter().any(|conn| !before.contains(&conn.connection))).await;
    }

    /// Waits until no link's queue of overlay frames is crowded.
    pub(crate) async fn wait_for_calm(&self) {
        for conn in self.all().iter() {
            conn.outbox.wait_while_crowded().await;
        }
    }
}
