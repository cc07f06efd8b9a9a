//! A network of nodes in this process, one of which broadcasts to all others.

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
        system == System::Peerkit || system.only_broadcasts()
    }

    /// Starts one node per log, which records the broadcasts that the node receives. Returns once
    /// the network has settled.
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

    /// Broadcasts from the node `author`. Waits until the node has accepted the message; returns
    /// false if its queue has no room.
    pub(crate) async fn broadcast(&self, author: usize, message: &[u8]) -> Result<bool> {
        match self {
            Self::Peerkit(network) => network.broadcast(author, message).await,
            #[cfg(feature = "systems")]
            Self::Gossipsub(network) => network.broadcast(author, message).await,
            #[cfg(feature = "systems")]
            Self::IrohGossip(network) => network.broadcast(author, message).await,
        }
    }

    /// Returns the totals that all nodes have received so far.
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
