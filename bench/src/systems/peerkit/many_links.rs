//! A node with links to many other nodes.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use peerkit::{Config, Context, Handler, LinkEnd, Node, NodeId, Peer};
use tokio::sync::watch;

use crate::concurrent::run_concurrently;

/// The node that listens.
pub(crate) struct Hub {
    node: Node,
    linked: watch::Receiver<usize>,
}

impl Hub {
    pub(crate) async fn bind() -> Result<Self> {
        Self::with_config(Config::default()).await
    }

    /// Starts the listening node with this configuration, except for the limits on inbound links.
    pub(crate) async fn with_config(mut config: Config) -> Result<Self> {
        // All links come from one machine at the same time.
        config.max_inbound = usize::MAX;
        config.max_inbound_per_ip = usize::MAX;
        // `run_concurrently` makes 64 dials at the same time, so this limit is never reached.
        config.max_pending = 1024;
        config.max_pending_per_ip = 1024;
        let (count, linked) = watch::channel(0);
        let node = Node::builder()
            .listen("127.0.0.1:0")
            .config(config)
            .handler(LinkCounter { linked: count })
            .spawn()
            .await?;
        Ok(Self { node, linked })
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    pub(crate) fn address(&self) -> String {
        super::address(&self.node)
    }

    pub(crate) async fn wait_for_links(&mut self, links: usize) -> Result<()> {
        self.linked.wait_for(|linked| *linked >= links).await.context("the node has ended")?;
        Ok(())
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.node.shutdown().await;
        Ok(())
    }
}

/// A handler that counts the links.
struct LinkCounter {
    linked: watch::Sender<usize>,
}

impl Handler for LinkCounter {
    fn inbound_node_connected(&mut self, _: &mut Context<'_>, _: &Peer) {
        self.linked.send_modify(|linked| *linked += 1);
    }

    fn inbound_node_disconnected(&mut self, _: &mut Context<'_>, _: &Peer, _: &LinkEnd) {
        self.linked.send_modify(|linked| *linked -= 1);
    }
}

/// The nodes that dial. Each link needs its own node, because two nodes have at most one link.
pub(crate) struct Spokes {
    nodes: Vec<Node>,
    hub: Option<NodeId>,
}

impl Spokes {
    pub(crate) async fn new(count: usize) -> Result<Self> {
        let nodes =
            run_concurrently(0..count, |_| async { Ok(Node::builder().spawn().await?) }).await?;
        Ok(Self { nodes, hub: None })
    }

    pub(crate) async fn dial(&mut self, address: &str) -> Result<()> {
        let address: SocketAddr = address.parse()?;
        let dial = |node: Node| async move { Ok(node.connect(address).await?.id()) };
        self.hub = run_concurrently(self.nodes.iter().cloned(), dial).await?.pop();
        Ok(())
    }

    pub(crate) async fn ping(&self) -> Result<()> {
        let hub = self.hub.context("not linked")?;
        let ping = |node: Node| async move { Ok(node.ping(hub).await?) };
        run_concurrently(self.nodes.iter().cloned(), ping).await?;
        Ok(())
    }
}
