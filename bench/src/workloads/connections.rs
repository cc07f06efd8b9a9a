//! Many links from one process to another, made as fast as possible and then idle: their cost, the
//! time until all have answered a ping, and the time to stop. Each measurement starts two new
//! processes, so that no memory is left over from earlier ones.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::many_links::{Hub, Spokes};
use crate::process::{Child, Parent, ThreadTimes, check_open_files, resident_bytes};
use crate::report::{Figure, Measurement};
use crate::workload::{Case, Job};

/// Links, and their number in the large case.
const LINKS: usize = 1_000;
const MANY_LINKS: usize = 10_000;

/// Open files of a process besides its links.
const OTHER_FILES: usize = 100;

/// Pause between the last link and the reading of the memory, so that temporary buffers are freed.
const SETTLING: Duration = Duration::from_secs(3);

/// Roles of the child processes.
pub(super) const LISTEN: &str = "listen";
pub(super) const DIAL: &str = "dial";

/// Returns one case per number of links.
pub(crate) fn cases(large: bool) -> Vec<Case> {
    let mut cases = vec![Case::count(LINKS, "link")];
    if large {
        cases.push(Case::count(MANY_LINKS, "link"));
    }
    cases
}

/// Measures the links that one process dials to another.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let links = job.case.amount;
    let mut ends = ProcessPair::start(job).await?;
    let (listener, dialler) = (UsageSince::new(&ends.listening)?, UsageSince::new(&ends.dialling)?);
    let began = Instant::now();
    ends.link().await?;
    let making = began.elapsed();
    let (listener_s, dialler_s) = (listener.cpu_seconds(), dialler.cpu_seconds());
    tokio::time::sleep(SETTLING).await;
    let (listener_bytes, dialler_bytes) = (listener.bytes(), dialler.bytes());

    let ProcessPair { mut listening, mut dialling } = ends;
    dialling.send(&()).await?;
    let pinging: Duration = dialling.receive().await?;
    listening.send(&()).await?;
    let stopping: Duration = listening.receive().await?;
    dialling.end().await?;
    listening.end().await?;

    let each = |amount: f64| amount / links as f64;
    let figures = vec![
        Figure::lower("listener_kib_a_link", each(listener_bytes / 1024.0)),
        Figure::lower("dialler_kib_a_link", each(dialler_bytes / 1024.0)),
        Figure::higher("links_per_s", links as f64 / making.as_secs_f64()),
        Figure::lower("listener_ms_a_link", each(listener_s * 1e3)),
        Figure::lower("dialler_ms_a_link", each(dialler_s * 1e3)),
        Figure::lower("ping_all_ms", pinging.as_secs_f64() * 1e3),
        Figure::lower("stop_ms", stopping.as_secs_f64() * 1e3),
    ];
    Ok(vec![Measurement::of(job, figures)])
}

/// The listening and the dialling process. The dialling one has to end first.
pub(super) struct ProcessPair {
    pub(super) listening: Child,
    pub(super) dialling: Child,
}

impl ProcessPair {
    /// Starts both; there are no links yet.
    pub(super) async fn start(job: &Job) -> Result<Self> {
        check_open_files(job.case.amount + OTHER_FILES)?;
        let mut listening = Child::start(job.args_with_role(&[LISTEN]))?;
        let address: String = listening.receive().await?;
        let mut dialling = Child::start(job.args_with_role(&[DIAL, &address]))?;
        dialling.receive::<()>().await?;
        Ok(Self { listening, dialling })
    }

    /// Makes the links and waits until both sides know all of them.
    pub(super) async fn link(&mut self) -> Result<()> {
        self.dialling.send(&()).await?;
        self.dialling.receive::<()>().await?;
        self.listening.receive::<()>().await
    }
}

/// Resources used by a process since a moment.
struct UsageSince {
    process: u32,
    times: ThreadTimes,
    bytes: u64,
}

impl UsageSince {
    fn new(child: &Child) -> Result<Self> {
        let process = child.id()?;
        Ok(Self { process, times: ThreadTimes::of(process), bytes: resident_bytes(process) })
    }

    fn cpu_seconds(&self) -> f64 {
        ThreadTimes::of(self.process).seconds_since(&self.times)
    }

    fn bytes(&self) -> f64 {
        resident_bytes(self.process) as f64 - self.bytes as f64
    }
}

/// Runs the listening or the dialling process.
pub(crate) async fn run_child(job: &Job, rest: &[String]) -> Result<()> {
    match rest {
        [role] if role == LISTEN => listen(job).await,
        [role, address] if role == DIAL => dial(job, address).await,
        _ => bail!("{job} has no role {rest:?}"),
    }
}

/// Waits for the links. Stops when the parent asks for it or closes the input.
async fn listen(job: &Job) -> Result<()> {
    let mut parent = Parent::new();
    let mut hub = Hub::bind(job.system).await?;
    parent.send(&hub.address())?;
    hub.linked(job.case.amount).await?;
    parent.send(&())?;
    parent.receive::<()>().await?;
    let began = Instant::now();
    hub.stop().await?;
    parent.send(&began.elapsed())?;
    parent.released().await
}

/// Dials when the parent asks for it, and then pings.
pub(super) async fn dial(job: &Job, address: &str) -> Result<()> {
    let mut parent = Parent::new();
    let mut spokes = Spokes::new(job.system, job.case.amount).await?;
    parent.send(&())?;
    parent.receive::<()>().await?;
    spokes.dial(address).await?;
    parent.send(&())?;
    if parent.receive::<()>().await?.is_none() {
        return Ok(());
    }
    let began = Instant::now();
    spokes.ping().await?;
    parent.send(&began.elapsed())?;
    parent.released().await
}
