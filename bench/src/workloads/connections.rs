//! Many links from one process to another. They are made as fast as possible, and are then idle. Measures the
//! memory and the processor time of each link, the time until all links have answered a ping, and the time
//! that the listener takes to stop. Each measurement starts two new processes, so that the memory of earlier
//! measurements does not count.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::many_links::{Hub, Spokes};
use crate::process::{Child, Parent, ThreadTimes, check_open_files, resident_bytes};
use crate::report::{Figure, Measurement};
use crate::workload::{Case, Job};

/// Number of links in the usual case.
const LINKS: usize = 1_000;

/// Number of links in the large case.
const MANY_LINKS: usize = 10_000;

/// Number of files that a process may have open in addition to its links.
const OTHER_FILES: usize = 100;

/// Pause between the last link and the measurement of the memory. Temporary buffers are freed in the
/// meantime.
const SETTLING: Duration = Duration::from_secs(3);

/// The roles of the child processes.
pub(super) const LISTEN: &str = "listen";
pub(super) const DIAL: &str = "dial";

/// Returns one case for each number of links.
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
    let mut pair = ProcessPair::start(job).await?;
    let listener = UsageSince::new(&pair.listening)?;
    let dialler = UsageSince::new(&pair.dialling)?;
    let start = Instant::now();
    pair.link().await?;
    let linking = start.elapsed();
    let (listener_s, dialler_s) = (listener.cpu_seconds(), dialler.cpu_seconds());
    tokio::time::sleep(SETTLING).await;
    let (listener_bytes, dialler_bytes) = (listener.bytes(), dialler.bytes());

    let ProcessPair { mut listening, mut dialling } = pair;
    // Each process carries out its next step when it receives `()`, and answers with the duration.
    dialling.send(&()).await?;
    let pinging: Duration = dialling.receive().await?;
    listening.send(&()).await?;
    let stopping: Duration = listening.receive().await?;
    dialling.end().await?;
    listening.end().await?;

    let per_link = |amount: f64| amount / links as f64;
    let figures = vec![
        Figure::lower("listener_kib_a_link", per_link(listener_bytes / 1024.0)),
        Figure::lower("dialler_kib_a_link", per_link(dialler_bytes / 1024.0)),
        Figure::higher("links_per_s", links as f64 / linking.as_secs_f64()),
        Figure::lower("listener_ms_a_link", per_link(listener_s * 1e3)),
        Figure::lower("dialler_ms_a_link", per_link(dialler_s * 1e3)),
        Figure::lower("ping_all_ms", pinging.as_secs_f64() * 1e3),
        Figure::lower("stop_ms", stopping.as_secs_f64() * 1e3),
    ];
    Ok(vec![Measurement::new(job, figures)])
}

/// The listening and the dialling process. The dialling process has to be ended first.
pub(super) struct ProcessPair {
    pub(super) listening: Child,
    pub(super) dialling: Child,
}

impl ProcessPair {
    /// Starts both processes. They have no links yet.
    pub(super) async fn start(job: &Job) -> Result<Self> {
        check_open_files(job.case.amount + OTHER_FILES)?;
        let mut listening = Child::start(job.args_with_role(&[LISTEN]))?;
        let address: String = listening.receive().await?;
        let mut dialling = Child::start(job.args_with_role(&[DIAL, &address]))?;
        dialling.receive::<()>().await?;
        Ok(Self { listening, dialling })
    }

    /// Makes the dialling process dial. Waits until both processes have all links.
    pub(super) async fn link(&mut self) -> Result<()> {
        self.dialling.send(&()).await?;
        self.dialling.receive::<()>().await?;
        self.listening.receive::<()>().await
    }
}

/// The processor time and the memory that a process has used since this value was created.
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

/// Runs the listening process. It waits for the links, and stops the hub when the parent sends a line or
/// closes the input.
async fn listen(job: &Job) -> Result<()> {
    let mut parent = Parent::new();
    let mut hub = Hub::bind(job.system).await?;
    parent.send(&hub.address())?;
    hub.wait_for_links(job.case.amount).await?;
    parent.send(&())?;
    parent.receive::<()>().await?;
    let start = Instant::now();
    hub.stop().await?;
    parent.send(&start.elapsed())?;
    parent.wait_for_end().await
}

/// Runs the dialling process. It dials when the parent sends a line, and pings when the parent sends another
/// line.
pub(super) async fn dial(job: &Job, address: &str) -> Result<()> {
    let mut parent = Parent::new();
    let mut spokes = Spokes::new(job.system, job.case.amount).await?;
    parent.send(&())?;
    parent.receive::<()>().await?;
    spokes.dial(address).await?;
    parent.send(&())?;
    // The workloads `idle` and `unread` also use this process. They need only the links, so they close its
    // standard input and request no ping.
    if parent.receive::<()>().await?.is_none() {
        return Ok(());
    }
    let start = Instant::now();
    spokes.ping().await?;
    parent.send(&start.elapsed())?;
    parent.wait_for_end().await
}
