//! One message to and fro: on an idle link, and beside bulk data between the same two.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Case, Job};
use crate::link::{Link, Listener, Part};
use crate::process::{Child, Parent};
use crate::report::{Figure, Measurement};

/// Bytes of the message.
const SIZE: usize = 64;

/// How the case's name ends where there is bulk data beside.
const BESIDE_BULK: &str = ", beside bulk";

/// Alone, and beside bulk data.
pub(crate) fn cases(bytes: Option<usize>) -> Vec<Case> {
    let alone = Case::bytes(bytes.unwrap_or(SIZE));
    let beside = Case { name: format!("{}{BESIDE_BULK}", alone.name), amount: alone.amount };
    vec![alone, beside]
}

/// Sends to a process that sends back.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let (size, length) = (job.case.amount, job.length);
    let mut child = Child::start(job.words())?;
    let address: String = child.hear().await?;
    let mut link = Link::connect(job.system, &address, Part::Ping { size, length }).await?;
    let bulk = match job.case.name.ends_with(BESIDE_BULK) {
        true => Some(link.start_bulk().await?),
        false => None,
    };
    let times = link.rounds().await?.into_times();
    let bulk_mb_per_s = bulk.map(|bulk| bulk.mb_per_s());
    link.close().await;
    child.end().await?;
    ensure!(!times.is_empty(), "no rounds");
    let at = |share: f64| {
        let index = (times.len() as f64 * share) as usize;
        times.get(index.min(times.len() - 1)).map_or(0.0, microseconds)
    };
    let mut figures = vec![
        Figure::lower("p50_us", at(0.5)),
        Figure::lower("p99_us", at(0.99)),
        Figure::lower("p999_us", at(0.999)),
    ];
    figures.extend(bulk_mb_per_s.map(|value| Figure::higher("bulk_mb_per_s", value)));
    Ok(vec![Measurement::of(job, figures)])
}

/// The process that sends back.
pub(crate) async fn play(job: &Job) -> Result<()> {
    let mut parent = Parent::new();
    let listener = Listener::bind(job.system, Part::Echo).await?;
    parent.say(&listener.address())?;
    let mut link = listener.accept().await?;
    tokio::select! {
        // It ends where the other side closes first.
        echoed = link.echo() => {
            echoed?;
            parent.gone().await?;
        }
        gone = parent.gone() => gone?,
    }
    link.close().await;
    Ok(())
}

fn microseconds(time: &Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
