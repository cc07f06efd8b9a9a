//! As many messages as possible over one link, one way or both ways at once.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Case, Job, Workload};
use crate::link::{Link, Listener};
use crate::messages::Arrived;
use crate::messages::Part;
use crate::process::{Child, Parent, cpu_seconds, resident_bytes};
use crate::report::{Figure, Measurement};

/// Sizes of the messages, in bytes.
const SIZES: [usize; 3] = [64, 1 << 10, 64 << 10];

/// The report of the listening process at its end.
#[derive(Debug, Serialize, Deserialize)]
struct Account {
    arrived: Arrived,
    /// Messages that it has sent itself.
    sent: u64,
}

/// Returns a case for each size.
pub(crate) fn cases(bytes: Option<usize>) -> Vec<Case> {
    match bytes {
        Some(bytes) => vec![Case::bytes(bytes)],
        None => SIZES.map(Case::bytes).to_vec(),
    }
}

/// Sends to a process that listens, and receives its messages.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    #[cfg(feature = "systems")]
    if job.system == crate::system::System::P2pnetwork {
        return measure_p2pnetwork(job).await;
    }
    let (size, length) = (job.case.amount, job.length);
    let mut child = Child::start(job.words())?;
    let address: String = child.receive().await?;
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
    let there: Account = child.receive().await?;
    let cpu_s = cpu_seconds(own) + child.cpu_seconds() - before;
    let resident = resident_bytes(own) + child.resident_bytes();
    link.close().await;
    child.end().await?;
    let mut flows = vec![(sent, there.arrived)];
    flows.extend(arrived.map(|arrived| (there.sent, arrived)));
    Ok(vec![Measurement::of(job, figures(&flows, size, cpu_s, resident)?)])
}

#[cfg(feature = "systems")]
async fn measure_p2pnetwork(job: &Job) -> Result<Vec<Measurement>> {
    let mut ends = crate::systems::p2pnetwork::Ends::start(job).await?;
    let flow = ends.arrived().await?;
    let cpu_s = ends.listener.cpu_seconds() + ends.dialler.cpu_seconds();
    let resident = ends.listener.resident_bytes() + ends.dialler.resident_bytes();
    ends.end().await?;
    Ok(vec![Measurement::of(job, figures(&[flow], job.case.amount, cpu_s, resident)?)])
}

/// Plays the listening process.
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

/// Returns the figures of flows of messages: the number sent, and the totals received.
///
/// # Errors
/// If the received messages are not those that were sent.
fn figures(
    flows: &[(u64, Arrived)],
    size: usize,
    cpu_s: f64,
    resident: u64,
) -> Result<Vec<Figure>> {
    let (mut messages_per_s, mut messages) = (0.0, 0);
    for (sent, arrived) in flows {
        arrived.check(*sent)?;
        messages_per_s += arrived.messages as f64 / arrived.elapsed.as_secs_f64();
        messages += sent;
    }
    Ok(vec![
        Figure::higher("messages_per_s", messages_per_s),
        Figure::higher("mb_per_s", messages_per_s * size as f64 / 1e6),
        Figure::told("cpu_s", cpu_s),
        Figure::lower("cpu_us_per_message", cpu_s * 1e6 / messages as f64),
        Figure::told("resident_mb", resident as f64 / 1e6),
    ])
}
