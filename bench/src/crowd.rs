//! Many idle links between two processes: the end that listens, and the ends that dial it.

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;

use crate::systems::{System, peerkit, raw};

/// Dials, or pings, under way at once.
const AT_ONCE: usize = 64;

/// The end that listens. It echoes what comes.
pub(crate) enum Hub {
    RawTls(raw::crowd::Hub),
    Peerkit(peerkit::crowd::Hub),
}

/// The ends that dial, each somebody of its own where the system has identities.
pub(crate) enum Spokes {
    RawTls(raw::crowd::Spokes),
    Peerkit(peerkit::crowd::Spokes),
}

impl Hub {
    /// Whether there is one of `system`.
    pub(crate) fn is_there(system: System) -> bool {
        matches!(system, System::RawTls | System::Peerkit)
    }

    /// Listens on a port of 127.0.0.1 that is free.
    pub(crate) async fn bind(system: System) -> Result<Self> {
        Ok(match system {
            System::RawTls => Self::RawTls(raw::crowd::Hub::bind().await?),
            System::Peerkit => Self::Peerkit(peerkit::crowd::Hub::bind().await?),
            other => bail!("{} is not measured with many links", other.name()),
        })
    }

    /// What [`Spokes::dial`] needs.
    pub(crate) fn address(&self) -> String {
        match self {
            Self::RawTls(hub) => hub.address(),
            Self::Peerkit(hub) => hub.address(),
        }
    }

    /// Waits until there are so many links, each of them fully made.
    pub(crate) async fn linked(&mut self, links: usize) -> Result<()> {
        match self {
            Self::RawTls(hub) => hub.linked(links).await,
            Self::Peerkit(hub) => hub.linked(links).await,
        }
    }

    /// Stops it with all its links, in the system's own way.
    pub(crate) async fn stop(self) -> Result<()> {
        match self {
            Self::RawTls(hub) => hub.stop().await,
            Self::Peerkit(hub) => hub.stop().await,
        }
    }
}

impl Spokes {
    /// Makes `count` ends that have not dialled yet.
    pub(crate) async fn new(system: System, count: usize) -> Result<Self> {
        Ok(match system {
            System::RawTls => Self::RawTls(raw::crowd::Spokes::new(count)),
            System::Peerkit => Self::Peerkit(peerkit::crowd::Spokes::new(count).await?),
            other => bail!("{} is not measured with many links", other.name()),
        })
    }

    /// Has each dial the hub at `address`.
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

/// Works on each of `items` in a task of its own, as many at once as dials are to be.
pub(crate) async fn side_by_side<I, T, W>(
    items: impl IntoIterator<Item = I>,
    work: impl Fn(I) -> W,
) -> Result<Vec<T>>
where
    T: Send + 'static,
    W: Future<Output = Result<T>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let mut done = Vec::new();
    for item in items {
        if tasks.len() == AT_ONCE {
            done.push(tasks.join_next().await.context("no task")???);
        }
        tasks.spawn(work(item));
    }
    while let Some(worked) = tasks.join_next().await {
        done.push(worked??);
    }
    Ok(done)
}
