//! File transfers between two processes: one has all sources, the other has all fetchers.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::concurrent::join_all;
use crate::files::Original;
use crate::process::{Child, Parent, cpu_seconds, peak_bytes};
use crate::system::System;
#[cfg(feature = "systems")]
use crate::systems::iroh;
use crate::systems::{peerkit, raw};
use crate::workload::Job;

/// The roles of the two processes.
const SHARE: &str = "share";
const FETCH: &str = "fetch";

/// The plan of a transfer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TransferPlan {
    /// The file or folder to share.
    pub from: PathBuf,
    /// The folder that contains one folder for each fetcher.
    pub to: PathBuf,
    /// Number of sources.
    pub sources: usize,
    /// Upload limit of each source, in bytes per second; 0 for no limit.
    pub upload_rate: u64,
    /// Number of fetchers.
    pub fetchers: usize,
}

/// The data about the sources that the fetchers need.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TransferOffer {
    /// The addresses of the sources.
    pub addresses: Vec<String>,
    /// The name by which the fetchers request the file: a hash, a file name or both, depending on the system.
    pub hash: String,
}

/// The resources that a process has used.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct ResourceUsage {
    /// Processor time, in seconds.
    pub cpu_s: f64,
    /// Peak memory so far, in bytes.
    pub peak_bytes: u64,
}

/// The cost of sharing a file or folder, which includes hashing it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ShareResult {
    /// Time until the first source has shared the file or folder.
    pub elapsed: Duration,
    /// Resources used by all sources together.
    pub usage: ResourceUsage,
}

/// The result of one fetch.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct FetchResult {
    /// Duration of the fetch.
    pub elapsed: Duration,
    /// Number of sources that have sent a part of the file.
    pub sources: usize,
}

/// The result of a transfer.
#[derive(Debug, Clone)]
pub(crate) struct TransferResult {
    /// The cost of sharing; `None` if the system does not hash the file before the transfer.
    pub shared: Option<ShareResult>,
    /// One result for each fetcher.
    pub fetches: Vec<FetchResult>,
    /// Resources used by the sources during the fetches.
    pub sources: ResourceUsage,
    /// Resources used by the fetchers.
    pub fetchers: ResourceUsage,
}

impl TransferPlan {
    /// Plans a transfer from one source to one fetcher.
    pub(crate) fn one(job: &Job, original: &Original) -> Self {
        let (from, to) = (original.path.clone(), job.folder.join("fetched"));
        Self { from, to, sources: 1, upload_rate: 0, fetchers: 1 }
    }

    /// Returns the folder of a fetcher.
    pub(crate) fn folder(&self, fetcher: usize) -> PathBuf {
        self.to.join(fetcher.to_string())
    }

    /// Runs the transfer in two processes of this program, and checks the copies.
    pub(crate) async fn run(self, job: &Job, original: &Original) -> Result<TransferResult> {
        let copies = Copies::new(&self, original)?;
        let transfer = self.run_unchecked(job).await?;
        copies.check().await?;
        Ok(transfer)
    }

    async fn run_unchecked(&self, job: &Job) -> Result<TransferResult> {
        let mut sharing = Child::start(job.args_with_role(&[SHARE]))?;
        sharing.send(self).await?;
        let (offer, shared): (TransferOffer, ShareResult) = sharing.receive().await?;
        let mut fetching = Child::start(job.args_with_role(&[FETCH]))?;
        fetching.send(&(self, offer)).await?;
        fetching.receive::<()>().await?;
        // Both processes are ready, so hashing and the start of the processes do not count.
        let before = (sharing.cpu_seconds(), fetching.cpu_seconds());
        fetching.send(&()).await?;
        let fetches: Vec<FetchResult> = fetching.receive().await?;
        let usage = |child: &Child, before: f64| ResourceUsage {
            cpu_s: child.cpu_seconds() - before,
            peak_bytes: child.peak_bytes(),
        };
        let sources = usage(&sharing, before.0);
        let fetchers = usage(&fetching, before.1);
        fetching.end().await?;
        sharing.end().await?;
        Ok(TransferResult { shared: Some(shared), fetches, sources, fetchers })
    }

    /// Shares the file in another process, without a fetch.
    pub(crate) async fn share(self, job: &Job) -> Result<(TransferOffer, ShareResult)> {
        let mut sharing = Child::start(job.args_with_role(&[SHARE]))?;
        sharing.send(&self).await?;
        let shared = sharing.receive().await?;
        sharing.end().await?;
        Ok(shared)
    }
}

impl TransferResult {
    /// Creates the result of one fetch by an external program.
    pub(crate) fn one(elapsed: Duration, source: ResourceUsage, fetcher: ResourceUsage) -> Self {
        let fetches = vec![FetchResult { elapsed, sources: 1 }];
        Self { shared: None, fetches, sources: source, fetchers: fetcher }
    }

    /// Returns the time until the last fetcher has finished, in seconds.
    pub(crate) fn last_s(&self) -> f64 {
        self.fetches.iter().map(|fetch| fetch.elapsed.as_secs_f64()).fold(0.0, f64::max)
    }

    /// Returns the mean number of sources of a fetcher.
    pub(crate) fn sources_each(&self) -> f64 {
        let sources: usize = self.fetches.iter().map(|fetch| fetch.sources).sum();
        sources as f64 / self.fetches.len() as f64
    }
}

/// The expected copies. Dropping this value removes them.
pub(crate) struct Copies {
    original: Original,
    folder: PathBuf,
    paths: Vec<PathBuf>,
}

impl Copies {
    /// Creates the fetchers' folders.
    pub(crate) fn new(plan: &TransferPlan, original: &Original) -> Result<Self> {
        let name = original.name()?;
        let paths = (0..plan.fetchers).map(|fetcher| plan.folder(fetcher).join(name)).collect();
        for fetcher in 0..plan.fetchers {
            std::fs::create_dir_all(plan.folder(fetcher))?;
        }
        Ok(Self { original: original.clone(), folder: plan.to.clone(), paths })
    }

    /// Returns the copy of the only fetcher.
    pub(crate) fn path(&self) -> Result<&Path> {
        Ok(self.paths.first().context("the transfer has no fetcher")?)
    }

    /// Checks that each copy exists and equals the original.
    pub(crate) async fn check(&self) -> Result<()> {
        self.original.check(self.paths.clone()).await
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        // An error does not matter, because the temporary folder is removed at the end of the run.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Runs one of the two processes.
pub(crate) async fn run_child(job: &Job, rest: &[String]) -> Result<()> {
    match rest {
        [role] if role == SHARE => run_sources(job.system).await,
        [role] if role == FETCH => run_fetchers(job.system).await,
        _ => bail!("{job} has no role {rest:?}"),
    }
}

async fn run_sources(system: System) -> Result<()> {
    let mut parent = Parent::new();
    let plan: TransferPlan = parent.receive().await?.context("no plan was received")?;
    let mut sources = Sources::start(system, &plan).await?;
    let own = std::process::id();
    let (before, start) = (cpu_seconds(own), Instant::now());
    let hash = sources.share(0, &plan.from).await?;
    let elapsed = start.elapsed();
    for source in 1..plan.sources {
        sources.share(source, &plan.from).await?;
    }
    let usage = ResourceUsage { cpu_s: cpu_seconds(own) - before, peak_bytes: peak_bytes(own) };
    let offer = TransferOffer { addresses: sources.addresses(), hash };
    parent.send(&(offer, ShareResult { elapsed, usage }))?;
    parent.wait_for_end().await
}

async fn run_fetchers(system: System) -> Result<()> {
    let mut parent = Parent::new();
    let request = parent.receive().await?;
    let (plan, offer): (TransferPlan, TransferOffer) = request.context("no plan was received")?;
    let mut ready = JoinSet::new();
    for fetcher in 0..plan.fetchers {
        let (folder, offer) = (plan.folder(fetcher), offer.clone());
        ready.spawn(async move { Fetcher::link(system, folder, offer).await });
    }
    let fetchers = join_all(ready).await?;
    parent.send(&())?;
    // The parent reads the processor times before the fetches begin.
    parent.receive::<()>().await?;
    let mut fetches = JoinSet::new();
    for fetcher in fetchers {
        fetches.spawn(async move {
            let start = Instant::now();
            let sources = fetcher.fetch().await?;
            let result = FetchResult { elapsed: start.elapsed(), sources };
            // The fetcher is kept, because other fetchers may still fetch from it.
            Ok((result, fetcher))
        });
    }
    let (results, _fetchers): (Vec<_>, Vec<_>) = join_all(fetches).await?.into_iter().unzip();
    parent.send(&results)?;
    parent.wait_for_end().await
}

/// The sources of one system.
enum Sources {
    RawTls(raw::files::Source),
    Peerkit(peerkit::files::Sources),
    #[cfg(feature = "systems")]
    IrohBlobs(iroh::blobs::Source),
}

impl Sources {
    async fn start(system: System, plan: &TransferPlan) -> Result<Self> {
        Ok(match system {
            System::RawTls => Self::RawTls(raw::files::Source::start(plan)?),
            System::Peerkit => Self::Peerkit(peerkit::files::Sources::start(plan).await?),
            #[cfg(feature = "systems")]
            System::IrohBlobs => Self::IrohBlobs(iroh::blobs::Source::start(plan).await?),
            _ => bail!("{} is not measured sharing files", system.name()),
        })
    }

    /// Shares the file or folder. Returns the name by which it can be requested.
    async fn share(&mut self, source: usize, path: &Path) -> Result<String> {
        match self {
            Self::RawTls(only) => only.share(path),
            Self::Peerkit(sources) => sources.share(source, path).await,
            #[cfg(feature = "systems")]
            Self::IrohBlobs(only) => only.share(path).await,
        }
    }

    fn addresses(&self) -> Vec<String> {
        match self {
            Self::RawTls(only) => vec![only.address()],
            Self::Peerkit(sources) => sources.addresses(),
            #[cfg(feature = "systems")]
            Self::IrohBlobs(only) => vec![only.address()],
        }
    }
}

/// A fetcher of one system.
enum Fetcher {
    RawTls(raw::files::Fetcher),
    Peerkit(peerkit::files::Fetcher),
    #[cfg(feature = "systems")]
    IrohBlobs(iroh::blobs::Fetcher),
}

impl Fetcher {
    async fn link(system: System, folder: PathBuf, offer: TransferOffer) -> Result<Self> {
        Ok(match system {
            System::RawTls => Self::RawTls(raw::files::Fetcher::new(&folder, &offer)?),
            System::Peerkit => Self::Peerkit(peerkit::files::Fetcher::link(folder, offer).await?),
            #[cfg(feature = "systems")]
            System::IrohBlobs => Self::IrohBlobs(iroh::blobs::Fetcher::link(folder, offer).await?),
            _ => bail!("{} is not measured fetching files", system.name()),
        })
    }

    /// Fetches the file or folder. Returns the number of sources that have sent a part of it.
    async fn fetch(&self) -> Result<usize> {
        match self {
            Self::RawTls(fetcher) => fetcher.fetch().await,
            Self::Peerkit(fetcher) => fetcher.fetch().await,
            #[cfg(feature = "systems")]
            Self::IrohBlobs(fetcher) => fetcher.fetch().await,
        }
    }
}
