//! A network of nodes that are all in this process. One of them broadcasts to the others.

use anyhow::{Result, bail};

use crate::broadcast_log::{BroadcastLog, NetworkTotals};
use crate::system::System;
use crate::systems::peerkit;
#[cfg(feature = "systems")]
use crate::systems::{iroh, libp2p};

/// The nodes of one system.
pub(crate) enum Network {
    Peerkit(peerkit::network::Network),
    #[cfg(feature = "systems")]
    Gossipsub(libp2p::network::Network),
    #[cfg(feature = "systems")]
    IrohGossip(iroh::network::Network),
}

impl Network {
    /// Returns whether `system` can form a network.
    pub(crate) fn supports(system: System) -> bool {
        system == System::Peerkit || system.is_only_for_broadcasts()
    }

    /// Starts one node for each log. The node records received broadcasts in its log. Returns when the
    /// network has settled.
    pub(crate) async fn form(system: System, logs: &[BroadcastLog]) -> Result<Self> {
        Ok(match system {
            System::Peerkit => Self::Peerkit(peerkit::network::Network::form(logs).await?),
            #[cfg(feature = "systems")]
            System::Gossipsub => Self::Gossipsub(libp2p::network::Network::form(logs).await?),
            #[cfg(feature = "systems")]
            System::IrohGossip => Self::IrohGossip(iroh::network::Network::form(logs).await?),
            other => bail!("{} is not measured as a network", other.name()),
        })
    }

    /// Returns the address at which a node can be dialled, as its system writes it.
    pub(crate) fn address(&self, node: usize) -> String {
        match self {
            Self::Peerkit(network) => network.address(node),
            #[cfg(feature = "systems")]
            Self::Gossipsub(network) => network.address(node),
            #[cfg(feature = "systems")]
            Self::IrohGossip(network) => network.address(node),
        }
    }

    /// Broadcasts a message from the node `author`. Waits until the node has accepted the message. Returns
    /// false if the node's queue is full.
    pub(crate) async fn broadcast(&self, author: usize, message: &[u8]) -> Result<bool> {
        match self {
            Self::Peerkit(network) => network.broadcast(author, message).await,
            #[cfg(feature = "systems")]
            Self::Gossipsub(network) => network.broadcast(author, message).await,
            #[cfg(feature = "systems")]
            Self::IrohGossip(network) => network.broadcast(author, message).await,
        }
    }

    /// Returns the totals of what all nodes have received so far.
    pub(crate) async fn totals(&self) -> NetworkTotals {
        match self {
            Self::Peerkit(network) => network.totals().await,
            #[cfg(feature = "systems")]
            Self::Gossipsub(network) => network.totals(),
            #[cfg(feature = "systems")]
            Self::IrohGossip(network) => network.totals(),
        }
    }
}
