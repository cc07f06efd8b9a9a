//! File transfers between two processes: one with the sources, one with the receivers.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::files::Original;
use crate::job::Job;
use crate::process::{Child, Parent, cpu_seconds, peak_bytes};
use crate::side_by_side::all;
use crate::system::System;
#[cfg(feature = "systems")]
use crate::systems::iroh;
use crate::systems::{peerkit, raw};

/// The roles of the two processes.
const SHARE: &str = "share";
const FETCH: &str = "fetch";

/// The sources, the receivers and the content of a transfer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The file or folder.
    pub from: PathBuf,
    /// A folder with a folder for each receiver.
    pub to: PathBuf,
    /// Number of sources.
    pub sources: usize,
    /// Upload limit of each source, in bytes a second; 0 for no limit.
    pub upload_rate: u64,
    /// Number of receivers.
    pub fetchers: usize,
}

/// The details of the sources that receivers need.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Offer {
    /// The details of each source.
    pub addresses: Vec<String>,
    /// The name of the content.
    pub hash: String,
}

/// The usage of a process.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Processor time.
    pub cpu_s: f64,
    /// Largest memory so far.
    pub peak_bytes: u64,
}

/// The times of hashing the content.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Shared {
    /// Time until the first source was done.
    pub elapsed: Duration,
    /// Time until all were done.
    pub usage: Usage,
}

/// The result of one fetch.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Got {
    /// Time from the call to the end.
    pub elapsed: Duration,
    /// The sources that have sent some of it.
    pub sources: usize,
}

/// The results of a transfer.
#[derive(Debug, Clone)]
pub(crate) struct Moved {
    /// `None` if the system does not hash before.
    pub shared: Option<Shared>,
    /// One for each receiver.
    pub got: Vec<Got>,
    /// Usage of the sources meanwhile.
    pub sources: Usage,
    /// Usage of the receivers meanwhile.
    pub fetchers: Usage,
}

impl Plan {
    /// Creates a transfer from one source to one receiver.
    pub(crate) fn one(job: &Job, original: &Original) -> Self {
        let (from, to) = (original.path.clone(), job.place.join("fetched"));
        Self { from, to, sources: 1, upload_rate: 0, fetchers: 1 }
    }

    /// Returns the folder of a receiver.
    pub(crate) fn folder(&self, fetcher: usize) -> PathBuf {
        self.to.join(fetcher.to_string())
    }

    /// Runs it in two processes of this program, and checks the copies.
    pub(crate) async fn run(self, job: &Job, original: &Original) -> Result<Moved> {
        let copies = Copies::of(&self, original)?;
        let moved = self.run_unchecked(job).await?;
        copies.check().await?;
        Ok(moved)
    }

    async fn run_unchecked(&self, job: &Job) -> Result<Moved> {
        let mut sharing = Child::start(job.role(&[SHARE]))?;
        sharing.say(self).await?;
        let (offer, shared): (Offer, Shared) = sharing.receive().await?;
        let mut fetching = Child::start(job.role(&[FETCH]))?;
        fetching.say(&(self, offer)).await?;
        fetching.receive::<()>().await?;
        let before = (sharing.cpu_seconds(), fetching.cpu_seconds());
        fetching.say(&()).await?;
        let got: Vec<Got> = fetching.receive().await?;
        let used = |child: &Child, before: f64| Usage {
            cpu_s: child.cpu_seconds() - before,
            peak_bytes: child.peak_bytes(),
        };
        let sources = used(&sharing, before.0);
        let fetchers = used(&fetching, before.1);
        fetching.end().await?;
        sharing.end().await?;
        Ok(Moved { shared: Some(shared), got, sources, fetchers })
    }

    /// Shares the content from another process, and does nothing more.
    pub(crate) async fn share(self, job: &Job) -> Result<(Offer, Shared)> {
        let mut sharing = Child::start(job.role(&[SHARE]))?;
        sharing.say(&self).await?;
        let shared = sharing.receive().await?;
        sharing.end().await?;
        Ok(shared)
    }
}

impl Moved {
    /// Returns the result of one fetch of another program.
    pub(crate) fn one(elapsed: Duration, source: Usage, fetcher: Usage) -> Self {
        let got = vec![Got { elapsed, sources: 1 }];
        Self { shared: None, got, sources: source, fetchers: fetcher }
    }

    /// Returns the time until the last receiver had it.
    pub(crate) fn last_s(&self) -> f64 {
        self.got.iter().map(|got| got.elapsed.as_secs_f64()).fold(0.0, f64::max)
    }

    /// Returns the average number of sources that have sent some of it to a receiver.
    pub(crate) fn sources_each(&self) -> f64 {
        let sources: usize = self.got.iter().map(|got| got.sources).sum();
        sources as f64 / self.got.len() as f64
    }
}

/// The folders for the copies. Dropping it removes them.
pub(crate) struct Copies {
    original: Original,
    folder: PathBuf,
    paths: Vec<PathBuf>,
}

impl Copies {
    /// Creates the folders.
    pub(crate) fn of(plan: &Plan, original: &Original) -> Result<Self> {
        let name = original.name()?;
        let paths = (0..plan.fetchers).map(|fetcher| plan.folder(fetcher).join(name)).collect();
        for fetcher in 0..plan.fetchers {
            std::fs::create_dir_all(plan.folder(fetcher))?;
        }
        Ok(Self { original: original.clone(), folder: plan.to.clone(), paths })
    }

    /// Returns the folder of a single receiver.
    pub(crate) fn path(&self) -> Result<&Path> {
        Ok(self.paths.first().context("there is no receiver")?)
    }

    /// Checks that the copies are there, and equal to the content.
    pub(crate) async fn check(&self) -> Result<()> {
        self.original.check(self.paths.clone()).await
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// One of the two processes.
pub(crate) async fn play(job: &Job, rest: &[String]) -> Result<()> {
    match rest {
        [role] if role == SHARE => share(job.system).await,
        [role] if role == FETCH => fetch(job.system).await,
        _ => bail!("{job} has no role {rest:?}"),
    }
}

async fn share(system: System) -> Result<()> {
    let mut parent = Parent::new();
    let plan: Plan = parent.receive().await?.context("nothing is to be shared")?;
    let mut sources = Sources::start(system, &plan).await?;
    let own = std::process::id();
    let (before, began) = (cpu_seconds(own), Instant::now());
    let hash = sources.share(0, &plan.from).await?;
    let elapsed = began.elapsed();
    for source in 1..plan.sources {
        sources.share(source, &plan.from).await?;
    }
    let usage = Usage { cpu_s: cpu_seconds(own) - before, peak_bytes: peak_bytes(own) };
    let offer = Offer { addresses: sources.addresses(), hash };
    parent.say(&(offer, Shared { elapsed, usage }))?;
    parent.gone().await
}

async fn fetch(system: System) -> Result<()> {
    let mut parent = Parent::new();
    let plan = parent.receive().await?;
    let (plan, offer): (Plan, Offer) = plan.context("nothing is to be fetched")?;
    let mut ready = JoinSet::new();
    for fetcher in 0..plan.fetchers {
        let (folder, offer) = (plan.folder(fetcher), offer.clone());
        ready.spawn(async move { Fetcher::link(system, folder, offer).await });
    }
    let fetchers = all(ready).await?;
    parent.say(&())?;
    parent.receive::<()>().await?;
    let mut fetches = JoinSet::new();
    for fetcher in fetchers {
        fetches.spawn(async move {
            let began = Instant::now();
            let sources = fetcher.fetch().await?;
            let got = Got { elapsed: began.elapsed(), sources };
            // It stays, as others may be fetching from it.
            Ok((got, fetcher))
        });
    }
    let (got, _fetchers): (Vec<_>, Vec<_>) = all(fetches).await?.into_iter().unzip();
    parent.say(&got)?;
    parent.gone().await
}

/// The sources.
enum Sources {
    RawTls(raw::files::Source),
    Peerkit(peerkit::files::Sources),
    #[cfg(feature = "systems")]
    IrohBlobs(iroh::blobs::Source),
}

impl Sources {
    async fn start(system: System, plan: &Plan) -> Result<Self> {
        Ok(match system {
            System::RawTls => Self::RawTls(raw::files::Source::start(plan)?),
            System::Peerkit => Self::Peerkit(peerkit::files::Sources::start(plan).await?),
            #[cfg(feature = "systems")]
            System::IrohBlobs => Self::IrohBlobs(iroh::blobs::Source::start(plan).await?),
            _ => bail!("{} does not share files here", system.name()),
        })
    }

    /// Returns the name of the content.
    async fn share(&mut self, source: usize, path: &Path) -> Result<String> {
        match self {
            Self::RawTls(one) => one.share(path),
            Self::Peerkit(sources) => sources.share(source, path).await,
            #[cfg(feature = "systems")]
            Self::IrohBlobs(one) => one.share(path).await,
        }
    }

    fn addresses(&self) -> Vec<String> {
        match self {
            Self::RawTls(one) => vec![one.address()],
            Self::Peerkit(sources) => sources.addresses(),
            #[cfg(feature = "systems")]
            Self::IrohBlobs(one) => vec![one.address()],
        }
    }
}

/// A receiver.
enum Fetcher {
    RawTls(raw::files::Fetcher),
    Peerkit(peerkit::files::Fetcher),
    #[cfg(feature = "systems")]
    IrohBlobs(iroh::blobs::Fetcher),
}

impl Fetcher {
    async fn link(system: System, folder: PathBuf, offer: Offer) -> Result<Self> {
        Ok(match system {
            System::RawTls => Self::RawTls(raw::files::Fetcher::new(&folder, &offer)?),
            System::Peerkit => Self::Peerkit(peerkit::files::Fetcher::link(folder, offer).await?),
            #[cfg(feature = "systems")]
            System::IrohBlobs => Self::IrohBlobs(iroh::blobs::Fetcher::link(folder, offer).await?),
            _ => bail!("{} does not fetch files here", system.name()),
        })
    }

    /// Fetches the content. Returns the number of sources that have sent some of it.
    async fn fetch(&self) -> Result<usize> {
        match self {
            Self::RawTls(fetcher) => fetcher.fetch().await,
            Self::Peerkit(fetcher) => fetcher.fetch().await,
            #[cfg(feature = "systems")]
            Self::IrohBlobs(fetcher) => fetcher.fetch().await,
        }
    }
}
