//! Many peers that have a link to a node and do not read. The node sends to all of them until its queues are
//! full. Measures the memory of the node, and how fast it answers another peer. One process runs the node. A
//! second one has the peers and is suspended. This process sends the pings.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use peerkit::{Config, Error, Node, NodeId, Sender};
use serde::{Deserialize, Serialize};

use super::connections::{self, DIAL, LISTEN, ProcessPair};
use crate::process::{Parent, resident_bytes};
use crate::report::{Figure, Measurement};
use crate::systems::peerkit::many_links::Hub;
use crate::workload::{Case, Job};

const LINKS: usize = 1_000;

/// Size of the node's queue for each peer, in bytes. With the default of 4 MiB, all queues would take 4 GiB.
const QUEUE: usize = 64 << 10;

/// Additional memory that the node may use for each peer, in bytes: for the link itself, encrypted data that
/// the kernel has not accepted (at most 64 KiB), and blocks that are larger than their content.
const ALLOWANCE: usize = 160 << 10;

/// Size of a message, in bytes.
const SIZE: usize = 1 << 10;

/// Number of attempts in a row without room after which the queues count as full.
const FULL_ATTEMPTS: u32 = 5;

/// Pause between two attempts to fill the queues.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);

/// Maximum time of an answer.
const MAX_ANSWER_TIME: Duration = Duration::from_secs(1);

/// Number of pings after the queues are full.
const PINGS: u32 = 20;

/// Pause after each ping.
const PING_PAUSE: Duration = Duration::from_millis(20);

/// The report of the node when its queues are full.
#[derive(Debug, Serialize, Deserialize)]
struct FillReport {
    /// Number of bytes in the messages that were accepted for all peers.
    accepted: u64,
    /// Number of links that are still open.
    links: usize,
}

/// Returns the only case.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case::count(LINKS, "peer")]
}

/// Measures a node that sends to peers that do not read.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let links = job.case.amount;
    let mut pair = ProcessPair::start(job).await?;
    pair.link().await?;
    let pinger = Node::builder().spawn().await?;
    let address: SocketAddr = pair.listening.receive().await?;
    let node = pinger.connect(address).await?.id();
    pair.dialling.pause().await?;

    let process = pair.listening.id()?;
    let before = resident_bytes(process);
    pair.listening.send(&pinger.id()).await?;
    let mut longest = Duration::ZERO;
    let report: FillReport = {
        // The same future is polled beside all pings. Dropping it could lose the part of a line that it has
        // read.
        let mut filling = std::pin::pin!(pair.listening.receive());
        loop {
            tokio::select! {
                report = &mut filling => break report?,
                pinged = ping(&pinger, node) => longest = longest.max(pinged?),
            }
        }
    };
    for _ in 0..PINGS {
        longest = longest.max(ping(&pinger, node).await?);
    }
    let growth = resident_bytes(process).saturating_sub(before);
    pinger.shutdown().await;
    // A suspended process would not notice that its input has ended.
    pair.dialling.resume().await?;
    pair.dialling.end().await?;
    pair.listening.end().await?;

    let limit = links * (QUEUE + ALLOWANCE);
    ensure!(report.links == links, "only {} of {links} links are left", report.links);
    ensure!(
        report.accepted >= (links * (QUEUE - SIZE)) as u64,
        "only {} bytes were accepted, so the queues are not full",
        report.accepted
    );
    ensure!(
        growth <= limit as u64,
        "the memory of the node has grown by {growth} bytes; the limit is {limit}"
    );
    ensure!(longest <= MAX_ANSWER_TIME, "an answer took {longest:?}");
    let figures = vec![
        Figure::lower("growth_mb", growth as f64 / 1e6),
        Figure::lower("kib_a_peer", growth as f64 / 1024.0 / links as f64),
        Figure::info("queue_kib", QUEUE as f64 / 1024.0),
        Figure::info("accepted_mb", report.accepted as f64 / 1e6),
        Figure::lower("longest_ping_ms", longest.as_secs_f64() * 1e3),
    ];
    Ok(vec![Measurement::new(job, figures)])
}

async fn ping(pinger: &Node, node: NodeId) -> Result<Duration> {
    let start = Instant::now();
    pinger.ping(node).await?;
    let elapsed = start.elapsed();
    tokio::time::sleep(PING_PAUSE).await;
    Ok(elapsed)
}

/// Runs the node, or the peers that do not read.
pub(crate) async fn run_child(job: &Job, rest: &[String]) -> Result<()> {
    match rest {
        [role] if role == LISTEN => fill(job).await,
        [role, address] if role == DIAL => connections::dial(job, address).await,
        _ => bail!("{job} has no role {rest:?}"),
    }
}

/// Sends to all peers except the one that pings, until no queue has room.
async fn fill(job: &Job) -> Result<()> {
    let mut parent = Parent::new();
    let mut config = Config::default();
    config.peer_queue = QUEUE;
    let mut hub = Hub::with_config(config).await?;
    parent.send(&hub.address())?;
    hub.wait_for_links(job.case.amount).await?;
    parent.send(&())?;
    // The address is sent again, for the node that pings. `ProcessPair` has received the first one.
    parent.send(&hub.address())?;
    let pinger: NodeId =
        parent.receive().await?.context("the parent did not send the id of the node that pings")?;
    let node = hub.node();
    let peers = node.peers().into_iter().map(|peer| peer.id()).filter(|id| *id != pinger);
    let senders = peers.map(|id| node.sender(id)).collect::<Result<Vec<_>, _>>()?;
    let mut messages = 0;
    let mut full_attempts = 0;
    while full_attempts < FULL_ATTEMPTS {
        let mut accepted = 0;
        for sender in &senders {
            accepted += fill_one(sender)?;
            // Lets the tasks of the node run before the next queue is filled.
            tokio::task::yield_now().await;
        }
        full_attempts = if accepted == 0 { full_attempts + 1 } else { 0 };
        messages += accepted;
        tokio::time::sleep(ATTEMPT_PAUSE).await;
    }
    // The link of the node that pings does not count.
    let links = node.peers().len().saturating_sub(1);
    parent.send(&FillReport { accepted: messages * SIZE as u64, links })?;
    parent.wait_for_end().await?;
    hub.stop().await
}

/// Fills the queue of one peer. Returns the number of accepted messages.
fn fill_one(sender: &Sender) -> Result<u64> {
    let message = [0; SIZE];
    let mut accepted = 0;
    loop {
        match sender.try_send(&message[..]) {
            Ok(()) => accepted += 1,
            Err(Error::Full(_)) => return Ok(accepted),
            Err(error) => return Err(error.into()),
        }
    }
}
