//! Many nodes in this process, of which one broadcasts to all others.

use anyhow::{Result, bail};

use crate::broadcast_log::{Log, Received};
use crate::system::System;
use crate::systems::peerkit;
#[cfg(feature = "systems")]
use crate::systems::{iroh, libp2p};

/// The nodes.
pub(crate) enum Network {
    Peerkit(peerkit::network::Network),
    #[cfg(feature = "systems")]
    Gossipsub(libp2p::network::Network),
    #[cfg(feature = "systems")]
    IrohGossip(iroh::network::Network),
}

impl Network {
    /// Returns whether `system` has networks.
    pub(crate) fn is_there(system: System) -> bool {
        system == System::Peerkit || system.only_broadcasts()
    }

    /// Creates a node for each of `logs`, which records the broadcasts of that node. Returns once the
    /// nodes have settled.
    pub(crate) async fn form(system: System, logs: &[Log]) -> Result<Self> {
        Ok(match system {
            System::Peerkit => Self::Peerkit(peerkit::network::Network::form(logs).await?),
            #[cfg(feature = "systems")]
            System::Gossipsub => Self::Gossipsub(libp2p::network::Network::form(logs).await?),
            #[cfg(feature = "systems")]
            System::IrohGossip => Self::IrohGossip(iroh::network::Network::form(logs).await?),
            other => bail!("{} is not measured as a network", other.name()),
        })
    }

    /// Broadcasts from the node `author`. Waits until it has accepted the message. Returns false if it
    /// has no room for it.
    pub(crate) async fn broadcast(&self, author: usize, message: &[u8]) -> Result<bool> {
        match self {
            Self::Peerkit(network) => network.broadcast(author, message).await,
            #[cfg(feature = "systems")]
            Self::Gossipsub(network) => network.broadcast(author, message).await,
            #[cfg(feature = "systems")]
            Self::IrohGossip(network) => network.broadcast(author, message).await,
        }
    }

    /// Returns the amounts that all nodes have received so far.
    pub(crate) async fn received(&self) -> Received {
        match self {
            Self::Peerkit(network) => network.received().await,
            #[cfg(feature = "systems")]
            Self::Gossipsub(network) => network.received(),
            #[cfg(feature = "systems")]
            Self::IrohGossip(network) => network.received(),
        }
    }
}
