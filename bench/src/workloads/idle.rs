//! The processor time of a process with many idle links.

use anyhow::{Result, ensure};

use super::connections::{self, ProcessPair};
use crate::process::ThreadTimes;
use crate::report::{Figure, Measurement};
use crate::system::System;
use crate::workload::{Case, Job};

const LINKS: usize = 100;

/// Maximum share of one processor that an idle node may take, in percent.
const MAX_PERCENT: f64 = 0.1;

/// Returns the only case.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case::count(LINKS, "link")]
}

/// Measures the processor time. Because little happens, waits for twice the chosen duration and then measures
/// for four times that duration. With the default duration, this includes the pings, which links send after
/// 15 s.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let mut pair = ProcessPair::start(job).await?;
    pair.link().await?;
    tokio::time::sleep(2 * job.duration).await;
    let process = pair.listening.id()?;
    let before = ThreadTimes::of(process);
    let duration = 4 * job.duration;
    tokio::time::sleep(duration).await;
    let seconds = ThreadTimes::of(process).seconds_since(&before);
    pair.dialling.end().await?;
    pair.listening.end().await?;
    let percent = 100.0 * seconds / duration.as_secs_f64();
    ensure!(
        job.system != System::Peerkit || percent < MAX_PERCENT,
        "an idle node takes {percent} % of a processor; the limit is {MAX_PERCENT} %"
    );
    Ok(vec![Measurement::new(job, vec![Figure::lower("cpu_percent", percent)])])
}

/// Runs the listening or the dialling process.
pub(crate) async fn run_child(job: &Job, rest: &[String]) -> Result<()> {
    connections::run_child(job, rest).await
}
