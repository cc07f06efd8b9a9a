#![allow(missing_docs, dead_code, clippy::all, clippy::wrong_self_convention)]
use std::path::PathBuf;

use peerkit::{Added, Address, Error, Hash, Node, NodeId, Progress, Ticket};

#[derive(Clone, Default)]
pub(crate) struct ShareOptions(());

impl ShareOptions {
    pub(crate) fn to_nodes(self, _: Vec<NodeId>) -> Self {
        self
    }
    pub(crate) fn with_ticket(self) -> Self {
        self
    }
    pub(crate) fn remember(self, _: bool) -> Self {
        self
    }
}

pub(crate) trait Pending {
    async fn share_with(
        &self,
        path: impl Into<PathBuf>,
        _: ShareOptions,
        progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Added, Error>;
    fn ticket(&self, hash: &Hash) -> Option<Ticket>;
}

impl Pending for Node {
    async fn share_with(
        &self,
        path: impl Into<PathBuf>,
        _: ShareOptions,
        progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Added, Error> {
        self.share_with_progress(path, progress).await
    }
    fn ticket(&self, hash: &Hash) -> Option<Ticket> {
        let addresses = self.addresses().into_iter().map(Address::without_id).collect();
        Some(Ticket {
            hash: *hash,
            node: self.id(),
            secret: None,
            network: self.network().to_owned(),
            addresses,
        })
    }
}
