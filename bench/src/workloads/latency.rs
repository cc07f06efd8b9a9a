//! The round trip of one message: on an idle link, and beside bulk data between the same two processes.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::link::{Link, Listener};
use crate::messages::OnMessage;
use crate::process::{Child, Parent};
use crate::report::{Figure, Measurement};
use crate::workload::{Case, Job};

/// Size of the message, in bytes.
const SIZE: usize = 64;

/// Suffix of the name of the case with bulk data.
const BESIDE_BULK: &str = ", beside bulk";

/// Returns two cases: the message alone, and beside bulk data.
pub(crate) fn cases(bytes: Option<usize>) -> Vec<Case> {
    let alone = Case::bytes(bytes.unwrap_or(SIZE));
    let beside = Case { name: format!("{}{BESIDE_BULK}", alone.name), amount: alone.amount };
    vec![alone, beside]
}

/// Returns whether the case has bulk data.
pub(crate) fn is_beside_bulk(case: &Case) -> bool {
    case.name.ends_with(BESIDE_BULK)
}

/// Measures round trips to a process that sends messages back.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    #[cfg(feature = "systems")]
    if job.system == crate::system::System::P2pnetwork {
        let mut processes = crate::systems::p2pnetwork::PythonEnds::start(job).await?;
        let times = processes.times().await?;
        processes.end().await?;
        return Ok(vec![Measurement::new(job, figures(&times)?)]);
    }
    let (size, duration) = (job.case.amount, job.duration);
    let mut child = Child::start(job.to_args())?;
    let address: String = child.receive().await?;
    let mut link = Link::connect(job.system, &address, OnMessage::Ping { size, duration }).await?;
    let bulk = if is_beside_bulk(&job.case) { Some(link.start_bulk().await?) } else { None };
    let times = link.rounds().await?.into_times();
    let bulk_mb_per_s = bulk.map(|bulk| bulk.mb_per_s());
    link.close().await;
    child.end().await?;
    let mut figures = figures(&times)?;
    figures.extend(bulk_mb_per_s.map(|value| Figure::higher("bulk_mb_per_s", value)));
    Ok(vec![Measurement::new(job, figures)])
}

/// Runs the process that sends messages back.
pub(crate) async fn run_child(job: &Job) -> Result<()> {
    let mut parent = Parent::new();
    let listener = Listener::bind(job.system, OnMessage::Echo).await?;
    parent.send(&listener.address())?;
    let mut link = listener.accept().await?;
    tokio::select! {
        // `echo` ends if the other end closes the link first.
        echoed = link.echo() => {
            echoed?;
            parent.wait_for_end().await?;
        }
        ended = parent.wait_for_end() => ended?,
    }
    link.close().await;
    Ok(())
}

/// Returns the percentiles of the round-trip times. `times` are sorted, shortest first.
fn figures(times: &[Duration]) -> Result<Vec<Figure>> {
    ensure!(!times.is_empty(), "no rounds");
    let percentile = |share| percentile_us(times, share);
    Ok(vec![
        Figure::lower("p50_us", percentile(0.5)),
        Figure::lower("p99_us", percentile(0.99)),
        Figure::lower("p999_us", percentile(0.999)),
    ])
}

/// Returns the time within which the fraction `share` of the rounds ended, in microseconds. `times` are
/// sorted, shortest first.
pub(super) fn percentile_us(times: &[Duration], share: f64) -> f64 {
    let index = (times.len() as f64 * share) as usize;
    let time = times.get(index).or(times.last());
    time.map_or(0.0, |time| time.as_secs_f64() * 1e6)
}
