//! As many messages as possible over one link, one way or both ways at the same time.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Case, Job, Workload};
use crate::link::{Link, Listener};
use crate::messages::OnMessage;
use crate::messages::ReceiveTotals;
use crate::process::{Child, Parent, cpu_seconds, resident_bytes};
use crate::report::{Figure, Measurement};

/// The sizes of messages, in bytes.
const SIZES: [usize; 3] = [64, 1 << 10, 64 << 10];

/// The report of the listening process.
#[derive(Debug, Serialize, Deserialize)]
struct ListenerReport {
    arrived: ReceiveTotals,
    /// Number of messages that the listening process has sent.
    sent: u64,
}

/// Returns one case for each size.
pub(crate) fn cases(bytes: Option<usize>) -> Vec<Case> {
    match bytes {
        Some(bytes) => vec![Case::bytes(bytes)],
        None => SIZES.map(Case::bytes).to_vec(),
    }
}

/// Sends to a process that listens. In the workload `both-ways`, also receives what that process sends.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    #[cfg(feature = "systems")]
    if job.system == crate::system::System::P2pnetwork {
        return measure_p2pnetwork(job).await;
    }
    let (size, duration) = (job.case.amount, job.duration);
    let mut child = Child::start(job.to_args())?;
    let address: String = child.receive().await?;
    let mut link = Link::connect(job.system, &address, OnMessage::Count).await?;
    let own = std::process::id();
    let before = cpu_seconds(own) + child.cpu_seconds();
    let (sent, arrived) = match job.workload {
        Workload::BothWays => {
            let (sent, arrived) = link.exchange(size, duration).await?;
            (sent, Some(arrived))
        }
        _ => (link.send(size, duration).await?, None),
    };
    let report: ListenerReport = child.receive().await?;
    // These are read while the child still runs, because `/proc` has no data about ended processes.
    let cpu_s = cpu_seconds(own) + child.cpu_seconds() - before;
    let resident = resident_bytes(own) + child.resident_bytes();
    link.close().await;
    child.end().await?;
    let mut flows = vec![(sent, report.arrived)];
    flows.extend(arrived.map(|arrived| (report.sent, arrived)));
    Ok(vec![Measurement::new(job, figures(&flows, size, cpu_s, resident)?)])
}

#[cfg(feature = "systems")]
async fn measure_p2pnetwork(job: &Job) -> Result<Vec<Measurement>> {
    let mut processes = crate::systems::p2pnetwork::PythonEnds::start(job).await?;
    let flow = processes.receive_all().await?;
    let cpu_s = processes.listener.cpu_seconds() + processes.dialler.cpu_seconds();
    let resident = processes.listener.resident_bytes() + processes.dialler.resident_bytes();
    processes.end().await?;
    Ok(vec![Measurement::new(job, figures(&[flow], job.case.amount, cpu_s, resident)?)])
}

/// Runs the listening process.
pub(crate) async fn run_child(job: &Job) -> Result<()> {
    let (size, duration) = (job.case.amount, job.duration);
    let mut parent = Parent::new();
    let listener = Listener::bind(job.system, OnMessage::Count).await?;
    parent.send(&listener.address())?;
    let mut link = listener.accept().await?;
    let (sent, arrived) = match job.workload {
        Workload::BothWays => link.exchange(size, duration).await?,
        _ => (0, link.receive_all(size).await?),
    };
    parent.send(&ListenerReport { arrived, sent })?;
    parent.wait_for_end().await?;
    link.close().await;
    Ok(())
}

/// Returns the figures of one or two flows. A flow consists of the number of sent messages and the totals of
/// the receiver.
///
/// # Errors
/// Fails if the received messages differ from the sent ones.
fn figures(
    flows: &[(u64, ReceiveTotals)],
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
        Figure::info("cpu_s", cpu_s),
        Figure::lower("cpu_us_per_message", cpu_s * 1e6 / messages as f64),
        Figure::info("resident_mb", resident as f64 / 1e6),
    ])
}
