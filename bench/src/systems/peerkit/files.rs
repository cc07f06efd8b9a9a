//! Nodes that share a file or folder, and nodes that fetch it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use peerkit::{Config, FetchRequest, Hash, Node};

use crate::transfer::{Offer, Plan};

/// The sources.
pub(crate) struct Sources {
    nodes: Vec<Node>,
}

impl Sources {
    pub(crate) async fn start(plan: &Plan) -> Result<Self> {
        let mut nodes = Vec::new();
        for _ in 0..plan.sources {
            nodes.push(node(plan.upload_rate).await?);
        }
        Ok(Self { nodes })
    }

    /// The hash.
    pub(crate) async fn share(&self, source: usize, path: &Path) -> Result<String> {
        let node = self.nodes.get(source).context("no such node")?;
        let added = node.share(path).await?;
        anyhow::ensure!(added.skipped.is_empty(), "not shared: {:?}", added.skipped);
        Ok(added.shared.hash.to_string())
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(super::address).collect()
    }
}

/// A receiver.
pub(crate) struct Fetcher {
    node: Node,
    hash: Hash,
    into: PathBuf,
}

impl Fetcher {
    /// Makes links to all sources, and to no other node.
    pub(crate) async fn link(into: PathBuf, offer: Offer) -> Result<Self> {
        let node = node(0).await?;
        for address in offer.addresses {
            node.connect(address.parse::<SocketAddr>()?).await?;
        }
        Ok(Self { node, hash: offer.hash.parse()?, into })
    }

    /// Fetches it. Returns the number of sources.
    pub(crate) async fn fetch(&self) -> Result<usize> {
        let request = FetchRequest::new(self.hash).into_folder(&self.into);
        Ok(self.node.fetch(request).await?.sources.len())
    }
}

async fn node(upload_rate: u64) -> Result<Node> {
    let mut config = Config::default();
    config.upload_rate = upload_rate;
    // All come from one machine, and at once.
    config.max_inbound_per_ip = usize::MAX;
    config.max_pending_per_ip = usize::MAX;
    Ok(Node::builder().listen("127.0.0.1:0").manual(true).config(config).spawn().await?)
}
