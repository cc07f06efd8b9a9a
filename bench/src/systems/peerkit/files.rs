//! Nodes that share a file or folder, and nodes that fetch it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use peerkit::{Config, FetchRequest, Hash, Node};

use crate::transfer::{TransferOffer, TransferPlan};

/// The nodes that share the file or folder.
pub(crate) struct Sources {
    nodes: Vec<Node>,
}

impl Sources {
    pub(crate) async fn start(plan: &TransferPlan) -> Result<Self> {
        let mut nodes = Vec::new();
        for _ in 0..plan.sources {
            nodes.push(node(plan.upload_rate).await?);
        }
        Ok(Self { nodes })
    }

    /// Shares the file or folder. Returns its hash.
    pub(crate) async fn share(&self, source: usize, path: &Path) -> Result<String> {
        let node = self.nodes.get(source).context("there is no such source")?;
        let added = node.share(path).await?;
        anyhow::ensure!(added.skipped.is_empty(), "not shared: {:?}", added.skipped);
        Ok(added.shared.hash.to_string())
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(super::address).collect()
    }
}

/// A node that fetches the file or folder.
pub(crate) struct Fetcher {
    node: Node,
    hash: Hash,
    into: PathBuf,
}

impl Fetcher {
    /// Starts a node that is linked to all sources, and to no other node.
    pub(crate) async fn link(into: PathBuf, offer: TransferOffer) -> Result<Self> {
        let node = node(0).await?;
        for address in offer.addresses {
            node.connect(address.parse::<SocketAddr>()?).await?;
        }
        Ok(Self { node, hash: offer.hash.parse()?, into })
    }

    /// Fetches the file or folder. Returns the number of sources that have sent a part of it.
    pub(crate) async fn fetch(&self) -> Result<usize> {
        let request = FetchRequest::new(self.hash).into_folder(&self.into);
        Ok(self.node.fetch(request).await?.sources.len())
    }
}

async fn node(upload_rate: u64) -> Result<Node> {
    let mut config = Config::default();
    config.upload_rate = upload_rate;
    // All links come from one machine at the same time.
    config.max_inbound_per_ip = usize::MAX;
    config.max_pending_per_ip = usize::MAX;
    Ok(Node::builder().listen("127.0.0.1:0").manual(true).config(config).spawn().await?)
}
