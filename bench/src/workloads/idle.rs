//! The processor time of a process with many idle links.

use anyhow::{Result, ensure};

use super::connections::{self, Ends};
use crate::job::{Case, Job};
use crate::process::ThreadTimes;
use crate::report::{Figure, Measurement};
use crate::system::System;

const LINKS: usize = 100;

/// Most processor time of a node, in percent of one processor.
const LIMIT: f64 = 0.1;

/// Returns the only case.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case::count(LINKS, "link")]
}

/// Measures for four times the duration, as little happens, and after twice the duration. So the
/// default duration includes the pings, which come after 15 s.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let mut ends = Ends::start(job).await?;
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
        "an idle node takes {percent} % of a processor, and may take {LIMIT} %"
    );
    Ok(vec![Measurement::of(job, vec![Figure::lower("cpu_percent", percent)])])
}

/// Plays the listening process, or the dialling one.
pub(crate) async fn play(job: &Job, rest: &[String]) -> Result<()> {
    connections::play(job, rest).await
}
