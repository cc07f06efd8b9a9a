//! Many links from one process to another, made as fast as possible and then idle: their cost, and the
//! time until all have answered, or are gone. Each measurement has two more processes, so that earlier
//! ones leave no memory behind.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::crowd::{Hub, Spokes};
use crate::job::{Case, Job};
use crate::process::{Child, Parent, ThreadTimes, check_open_files, resident_bytes};
use crate::report::{Figure, Measurement};

/// Numbers of links, with more of them in large cases.
const LINKS: usize = 1_000;
const MANY_LINKS: usize = 10_000;

/// Open files of a process beside its links.
const OTHER_FILES: usize = 100;

/// Time from the last link to the look at the memory. Buffers that are kept for a while only are gone
/// then.
const REST: Duration = Duration::from_secs(3);

/// The roles of the other processes.
pub(super) const LISTEN: &str = "listen";
pub(super) const DIAL: &str = "dial";

/// Returns a case for each number of links.
pub(crate) fn cases(large: bool) -> Vec<Case> {
    let mut cases = vec![Case::count(LINKS, "link")];
    if large {
        cases.push(Case::count(MANY_LINKS, "link"));
    }
    cases
}

/// Makes one process dial another.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let links = job.case.amount;
    let mut ends = Ends::start(job).await?;
    let (listener, dialler) = (Cost::new(&ends.listening)?, Cost::new(&ends.dialling)?);
    let began = Instant::now();
    ends.link().await?;
    let making = began.elapsed();
    let (listener_s, dialler_s) = (listener.cpu_seconds(), dialler.cpu_seconds());
    tokio::time::sleep(REST).await;
    let (listener_bytes, dialler_bytes) = (listener.bytes(), dialler.bytes());

    let Ends { mut listening, mut dialling } = ends;
    dialling.say(&()).await?;
    let pinging: Duration = dialling.receive().await?;
    listening.say(&()).await?;
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

/// The two processes. The dialling one has to end first.
pub(super) struct Ends {
    pub(super) listening: Child,
    pub(super) dialling: Child,
}

impl Ends {
    /// Starts them. There are no links yet.
    pub(super) async fn start(job: &Job) -> Result<Self> {
        check_open_files(job.case.amount + OTHER_FILES)?;
        let mut listening = Child::start(job.role(&[LISTEN]))?;
        let address: String = listening.receive().await?;
        let mut dialling = Child::start(job.role(&[DIAL, &address]))?;
        dialling.receive::<()>().await?;
        Ok(Self { listening, dialling })
    }

    /// Makes the links, and waits until both know of all.
    pub(super) async fn link(&mut self) -> Result<()> {
        self.dialling.say(&()).await?;
        self.dialling.receive::<()>().await?;
        self.listening.receive::<()>().await
    }
}

/// The usage of a process from a moment on.
struct Cost {
    process: u32,
    times: ThreadTimes,
    bytes: u64,
}

impl Cost {
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

/// Plays the listening process, or the dialling one.
pub(crate) async fn play(job: &Job, rest: &[String]) -> Result<()> {
    match rest {
        [role] if role == LISTEN => listen(job).await,
        [role, address] if role == DIAL => dial(job, address).await,
        _ => bail!("{job} has no role {rest:?}"),
    }
}

/// Waits for the links. Stops when it gets the order, or may end.
async fn listen(job: &Job) -> Result<()> {
    let mut parent = Parent::new();
    let mut hub = Hub::bind(job.system).await?;
    parent.say(&hub.address())?;
    hub.linked(job.case.amount).await?;
    parent.say(&())?;
    parent.receive::<()>().await?;
    let began = Instant::now();
    hub.stop().await?;
    parent.say(&began.elapsed())?;
    parent.gone().await
}

/// Dials when it gets the order, and then sends pings.
pub(super) async fn dial(job: &Job, address: &str) -> Result<()> {
    let mut parent = Parent::new();
    let mut spokes = Spokes::new(job.system, job.case.amount).await?;
    parent.say(&())?;
    parent.receive::<()>().await?;
    spokes.dial(address).await?;
    parent.say(&())?;
    if parent.receive::<()>().await?.is_none() {
        return Ok(());
    }
    let began = Instant::now();
    spokes.ping().await?;
    parent.say(&began.elapsed())?;
    parent.gone().await
}
