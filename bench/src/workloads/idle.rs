//! Processor time of a process with many idle links.

use anyhow::{Result, ensure};

use super::connections::{self, ProcessPair};
use crate::process::ThreadTimes;
use crate::report::{Figure, Measurement};
use crate::system::System;
use crate::workload::{Case, Job};

const LINKS: usize = 100;

/// Largest share of one processor that a node may take, in percent.
const LIMIT: f64 = 0.1;

/// Returns the only case.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case::count(LINKS, "link")]
}

/// Measures the processor time. Because little happens, it does so for four times the duration,
/// after waiting for twice the duration: with the default duration this covers the pings, which
/// come after 15 s.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let mut ends = ProcessPair::start(job).await?;
    ends.link().await?;
    tokio::time::sleep(2 * job.length).await;
    let process = ends.listening.id()?;
    let before = ThreadTimes::of(process);
    let length = 4 * job.length;
    tokio::time::sleep(length).await;
    let seconds = ThreadTimes::of(process).seconds_since(&before);
    ends.dialling.end().await?;
    ends.listening.end().await?;
    let percent = 100.0 * seconds / length.as_secs_f64();
    ensure!(
        job.system != System::Peerkit || percent < LIMIT,
        "an idle node takes {percent} % of a processor; the limit is {LIMIT} %"
    );
    Ok(vec![Measurement::of(job, vec![Figure::lower("cpu_percent", percent)])])
}

/// Runs the listening or the dialling process.
pub(crate) async fn run_child(job: &Job, rest: &[String]) -> Result<()> {
    connections::run_child(job, rest).await
}
