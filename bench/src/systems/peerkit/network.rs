//! Nodes that join through the first one.

use std::time::Duration;

use anyhow::{Context as _, Result};
use peerkit::{Broadcast, Context, Handler, Node};

use crate::broadcast_log::{Log, Received};

/// Interval between two checks for the nodes.
const LOOK: Duration = Duration::from_millis(100);

/// The nodes.
pub(crate) struct Network {
    nodes: Vec<Node>,
}

impl Network {
    pub(crate) async fn form(logs: &[Log]) -> Result<Self> {
        let mut nodes: Vec<Node> = Vec::new();
        for log in logs {
            let sink = MessageSink { log: log.clone() };
            let node = Node::builder().listen("127.0.0.1:0").handler(sink).spawn().await?;
            if let Some(first) = nodes.first() {
                let address = *first.listening().first().context("the first does not listen")?;
                node.join(&[address.into()]).await?;
            }
            nodes.push(node);
        }
        let network = Self { nodes };
        network.settle().await?;
        Ok(network)
    }

    /// Waits until all nodes can reach each other. Links go both ways, so it is enough to ask one node.
    async fn settle(&self) -> Result<()> {
        let first = self.nodes.first().context("no nodes")?;
        loop {
            let found = first.discover(-1).await?;
            if found.complete && found.nodes.len() == self.nodes.len() {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(crate) async fn broadcast(&self, author: usize, message: &[u8]) -> Result<bool> {
        self.nodes[author].broadcast("", message).await?;
        Ok(true)
    }

    pub(crate) async fn received(&self) -> Received {
        let (mut bytes, mut copies) = (0, 0);
        for node in &self.nodes {
            let status = node.status().await;
            bytes += status.counters.bytes_received;
            copies += status.broadcasts.received + status.broadcasts.duplicates;
        }
        Received { bytes: Some(bytes), copies: Some(copies) }
    }
}

/// The handler.
struct MessageSink {
    log: Log,
}

impl Handler for MessageSink {
    fn node_broadcast(&mut self, _: &mut Context<'_>, broadcast: Broadcast) {
        self.log.note(broadcast.message.body());
    }
}
