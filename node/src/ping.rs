//! Round trips: over a link, or through the network to a node without one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use peerkit_proto::frame::query::QueryId;
use peerkit_proto::id::NodeId;
use peerkit_proto::overlay::direct::Missed;
use tokio::sync::oneshot;

use crate::conn::Conn;
use crate::direct::Way;
use crate::error::Error;
use crate::inner::Inner;
use crate::order::Order;

impl Inner {
    /// Measures the round-trip time to a node: see [`Node::ping`](crate::Node::ping).
    pub(crate) async fn ping(self: &Arc<Self>, id: NodeId) -> Result<Duration, Error> {
        if id == self.id {
            return Err(Error::ThisNode);
        }
        if let Some(conn) = self.open_link(id) {
            return self.ping_link(&conn).await;
        }
        let known = self.directs.way(id);
        if let Some(query) = known {
            match self.ping_through(query, id).await {
                // A node on the way is gone: there may be another way.
                Err(Error::NotReached { reason: Missed::NoWay, .. }) => {}
                pinged => return pinged,
            }
        }
        let reached = tokio::select! {
            reached = self.reach(id, 0) => reached?,
            () = self.stop.cancelled() => return Err(Error::Stopped),
        };
        match reached {
            Way::Link(conn) => self.ping_link(&conn).await,
            Way::Query(query) => self.ping_through(query, id).await,
        }
    }

    /// Pings a node along the way that a query found. Its answer is sealed as a receipt is, so that
    /// no node on the way can give it.
    async fn ping_through(&self, query: QueryId, to: NodeId) -> Result<Duration, Error> {
        let started = Instant::now();
        let (reply, pinged) = oneshot::channel();
        let order = Order::PassPing { query, to, reply };
        self.orders.send(order).await.map_err(|_| Error::Stopped)?;
        pinged.await.map_err(|_| Error::Stopped)??;
        Ok(started.elapsed())
    }

    async fn ping_link(&self, conn: &Conn) -> Result<Duration, Error> {
        let timeout = self.config.request_timeout;
        let pinged = tokio::time::timeout(timeout, conn.ping()).await;
        pinged.map_err(|_| Error::Timeout(timeout))?.ok_or(Error::NotConnected(conn.peer.id()))
    }
}
