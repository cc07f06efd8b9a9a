//! A network of nodes that have joined through the first one.

use std::time::Duration;

use anyhow::{Context as _, Result};
use peerkit::{Broadcast, Context, Handler, Node};

use crate::broadcast_log::{BroadcastLog, NetworkTotals};

/// Interval at which [`Network::settle`] checks whether all nodes can be reached.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The nodes.
pub(crate) struct Network {
    nodes: Vec<Node>,
}

impl Network {
    pub(crate) async fn form(logs: &[BroadcastLog]) -> Result<Self> {
        let mut nodes: Vec<Node> = Vec::new();
        for log in logs {
            let recorder = BroadcastRecorder { log: log.clone() };
            let node = Node::builder().listen("127.0.0.1:0").handler(recorder).spawn().await?;
            if let Some(first) = nodes.first() {
                let address =
                    *first.listening().first().context("the first node does not listen")?;
                node.join(&[address.into()]).await?;
            }
            nodes.push(node);
        }
        let network = Self { nodes };
        network.settle().await?;
        Ok(network)
    }

    /// Waits until every node can reach all others. Links go both ways, so a discovery by one node shows
    /// this.
    async fn settle(&self) -> Result<()> {
        let first = self.nodes.first().context("no nodes")?;
        loop {
            let found = first.discover(-1).await?;
            if found.complete && found.nodes.len() == self.nodes.len() {
                return Ok(());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    pub(crate) fn address(&self, node: usize) -> String {
        super::address(&self.nodes[node])
    }

    pub(crate) async fn broadcast(&self, author: usize, message: &[u8]) -> Result<bool> {
        self.nodes[author].broadcast("", message).await?;
        Ok(true)
    }

    pub(crate) async fn totals(&self) -> NetworkTotals {
        let (mut bytes, mut copies) = (0, 0);
        for node in &self.nodes {
            let status = node.status().await;
            bytes += status.counters.bytes_received;
            copies += status.broadcasts.received + status.broadcasts.duplicates;
        }
        NetworkTotals { bytes: Some(bytes), copies: Some(copies) }
    }
}

/// A handler that records the received broadcasts.
struct BroadcastRecorder {
    log: BroadcastLog,
}

impl Handler for BroadcastRecorder {
    fn node_broadcast(&mut self, _: &mut Context<'_>, broadcast: Broadcast) {
        self.log.record(broadcast.message.body());
    }
}
