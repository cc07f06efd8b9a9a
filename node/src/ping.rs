//! Round trips: over a link, or through the network to a node without one.

use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::id::NodeId;

use crate::conn::Conn;
use crate::direct::Way;
use crate::error::Error;
use crate::inner::Inner;

impl Inner {
    /// Measures the round-trip time to a node: see [`Node::ping`](crate::Node::ping).
    pub(crate) async fn ping(self: &Arc<Self>, id: NodeId) -> Result<Duration, Error> {
        if id == self.id {
            return Err(Error::NotConnected(id));
        }
        if let Some(conn) = self.open_link(id) {
            return self.ping_link(&conn).await;
        }
        let reached = tokio::select! {
            reached = self.reach(id, 0) => reached?,
            () = self.stop.cancelled() => return Err(Error::Stopped),
        };
        match reached {
            Way::Link(conn) => self.ping_link(&conn).await,
            Way::Query(_, rtt) => Ok(rtt),
        }
    }

    async fn ping_link(&self, conn: &Conn) -> Result<Duration, Error> {
        let timeout = self.config.request_timeout;
        let pinged = tokio::time::timeout(timeout, conn.ping()).await;
        pinged.map_err(|_| Error::Timeout(timeout))?.ok_or(Error::NotConnected(conn.peer.id()))
    }
}
