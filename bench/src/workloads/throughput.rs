//! As many messages as will go over one link, one way or both ways at once.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Case, Job, Workload};
use crate::link::{Link, Listener, Part};
use crate::messages::Arrived;
use crate::process::{Child, Parent, cpu_seconds, resident_bytes};
use crate::report::{Figure, Measurement};

/// Sizes of the messages, in bytes.
const SIZES: [usize; 3] = [64, 1 << 10, 64 << 10];

/// What the listening process says at its end.
#[derive(Debug, Serialize, Deserialize)]
struct Account {
    arrived: Arrived,
    /// Messages that it has sent itself.
    sent: u64,
}

/// One for each size.
pub(crate) fn cases(bytes: Option<usize>) -> Vec<Case> {
    match bytes {
        Some(bytes) => vec![Case::bytes(bytes)],
        None => SIZES.map(Case::bytes).to_vec(),
    }
}

/// Sends to a process that listens, and takes what it sends.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let (size, length) = (job.case.amount, job.length);
    let mut child = Child::start(job.words())?;
    let address: String = child.hear().await?;
    let mut link = Link::connect(job.system, &address, Part::Count).await?;
    let own = std::process::id();
    let before = cpu_seconds(own) + child.cpu_seconds();
    let (sent, arrived) = match job.workload {
        Workload::BothWays => {
            let (sent, arrived) = link.exchange(size, length).await?;
            (sent, Some(arrived))
        }
        _ => (link.send(size, length).await?, None),
    };
    let there: Account = child.hear().await?;
    let cpu_s = cpu_seconds(own) + child.cpu_seconds() - before;
    let resident = resident_bytes(own) + child.resident_bytes();
    link.close().await;
    child.end().await?;
    all_arrived(sent, &there.arrived)?;
    let mut messages_per_s = per_second(&there.arrived);
    let mut messages = sent;
    if let Some(arrived) = arrived {
        all_arrived(there.sent, &arrived)?;
        messages_per_s += per_second(&arrived);
        messages += there.sent;
    }
    let figures = vec![
        Figure::higher("messages_per_s", messages_per_s),
        Figure::higher("mb_per_s", messages_per_s * size as f64 / 1e6),
        Figure::told("cpu_s", cpu_s),
        Figure::lower("cpu_us_per_message", cpu_s * 1e6 / messages as f64),
        Figure::told("resident_mb", resident as f64 / 1e6),
    ];
    Ok(vec![Measurement::of(job, figures)])
}

/// The listening process.
pub(crate) async fn play(job: &Job) -> Result<()> {
    let (size, length) = (job.case.amount, job.length);
    let mut parent = Parent::new();
    let listener = Listener::bind(job.system, Part::Count).await?;
    parent.say(&listener.address())?;
    let mut link = listener.accept().await?;
    let (sent, arrived) = match job.workload {
        Workload::BothWays => link.exchange(size, length).await?,
        _ => (0, link.arrived(size).await?),
    };
    parent.say(&Account { arrived, sent })?;
    parent.gone().await?;
    link.close().await;
    Ok(())
}

fn per_second(arrived: &Arrived) -> f64 {
    arrived.messages as f64 / arrived.elapsed.as_secs_f64()
}

fn all_arrived(sent: u64, arrived: &Arrived) -> Result<()> {
    ensure!(
        arrived.messages == sent && arrived.disordered == 0,
        "{sent} messages were sent, {} arrived, {} out of order",
        arrived.messages,
        arrived.disordered
    );
    Ok(())
}
