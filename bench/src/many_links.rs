//! Many idle links between two processes: the hub listens, and the spokes dial it.

use anyhow::{Result, bail};

use crate::system::System;
use crate::systems::{peerkit, raw};

/// The end that listens. It sends each message back.
pub(crate) enum Hub {
    RawTls(raw::many_links::Hub),
    Peerkit(peerkit::many_links::Hub),
}

/// The ends that dial. Each has its own identity, if the system has identities.
pub(crate) enum Spokes {
    RawTls(raw::many_links::Spokes),
    Peerkit(peerkit::many_links::Spokes),
}

impl Hub {
    /// Returns whether `system` is measured with many links.
    pub(crate) fn supports(system: System) -> bool {
        matches!(system, System::RawTls | System::Peerkit)
    }

    /// Listens on a free port of 127.0.0.1.
    pub(crate) async fn bind(system: System) -> Result<Self> {
        Ok(match system {
            System::RawTls => Self::RawTls(raw::many_links::Hub::bind().await?),
            System::Peerkit => Self::Peerkit(peerkit::many_links::Hub::bind().await?),
            other => bail!("{} is not measured with many links", other.name()),
        })
    }

    /// Returns the address for [`Spokes::dial`].
    pub(crate) fn address(&self) -> String {
        match self {
            Self::RawTls(hub) => hub.address(),
            Self::Peerkit(hub) => hub.address(),
        }
    }

    /// Waits until `links` links are fully established.
    pub(crate) async fn wait_for_links(&mut self, links: usize) -> Result<()> {
        match self {
            Self::RawTls(hub) => hub.wait_for_links(links).await,
            Self::Peerkit(hub) => hub.wait_for_links(links).await,
        }
    }

    /// Closes all links and stops, in the system's own way.
    pub(crate) async fn stop(self) -> Result<()> {
        match self {
            Self::RawTls(hub) => hub.stop().await,
            Self::Peerkit(hub) => hub.stop().await,
        }
    }
}

impl Spokes {
    /// Creates `count` ends, which do not dial yet.
    pub(crate) async fn new(system: System, count: usize) -> Result<Self> {
        Ok(match system {
            System::RawTls => Self::RawTls(raw::many_links::Spokes::new(count)),
            System::Peerkit => Self::Peerkit(peerkit::many_links::Spokes::new(count).await?),
            other => bail!("{} is not measured with many links", other.name()),
        })
    }

    /// Dials the hub at `address` from each end.
    pub(crate) async fn dial(&mut self, address: &str) -> Result<()> {
        match self {
            Self::RawTls(spokes) => spokes.dial(address).await,
            Self::Peerkit(spokes) => spokes.dial(address).await,
        }
    }

    /// Sends a ping over each link and waits for every answer.
    pub(crate) async fn ping(&mut self) -> Result<()> {
        match self {
            Self::RawTls(spokes) => spokes.ping().await,
            Self::Peerkit(spokes) => spokes.ping().await,
        }
    }
}
