//! Many peers that link to a node correctly and then read nothing, while the node sends to all
//! until its queues are full: the node's memory, and how soon it answers another peer. One process
//! runs the node, one holds the peers that do not read and is suspended, and this one pings.

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

/// Queue of the node for each peer, in bytes. The default, 4 MiB, would need 4 GiB here.
const QUEUE: usize = 64 << 10;

/// Additional memory allowed for each peer: the link itself, sealed data that the kernel has not
/// accepted (at most 64 KiB), and blocks that are larger than their content.
const ALLOWANCE: usize = 160 << 10;

/// Bytes of a message.
const SIZE: usize = 1 << 10;

/// The queues count as full after this many attempts in a row without room, with this pause between
/// them.
const TRIES: u32 = 5;
const WAIT: Duration = Duration::from_millis(100);

/// Longest time that an answer may take.
const ANSWER: Duration = Duration::from_secs(1);

/// Pings after the queues are full, and the pause between them.
const PINGS: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(20);

/// Report of the node once its queues are full.
#[derive(Debug, Serialize, Deserialize)]
struct FillReport {
    /// Bytes accepted for all peers.
    accepted: u64,
    /// Links that are still open.
    links: usize,
}

/// Returns the only case.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case::count(LINKS, "peer")]
}

/// Measures a node that sends to peers that do not read.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let links = job.case.amount;
    let mut ends = ProcessPair::start(job).await?;
    ends.link().await?;
    let pinger = Node::builder().spawn().await?;
    let address: SocketAddr = ends.listening.receive().await?;
    let node = pinger.connect(address).await?.id();
    ends.dialling.pause().await?;

    let process = ends.listening.id()?;
    let before = resident_bytes(process);
    ends.listening.send(&pinger.id()).await?;
    let mut longest = Duration::ZERO;
    let report: FillReport = {
        // One future across all pings: dropping it could lose the part of a line that it has read.
        let mut filling = std::pin::pin!(ends.listening.receive());
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
    // While suspended, it would not notice that its input has ended.
    ends.dialling.resume().await?;
    ends.dialling.end().await?;
    ends.listening.end().await?;

    let limit = links * (QUEUE + ALLOWANCE);
    ensure!(report.links == links, "only {} of {links} links are left", report.links);
    ensure!(
        report.accepted >= (links * (QUEUE - SIZE)) as u64,
        "only {} bytes were accepted, so the queues are not full",
        report.accepted
    );
    ensure!(
        growth <= limit as u64,
        "the node has grown by {growth} bytes; queues and allowance are {limit}"
    );
    ensure!(longest <= ANSWER, "an answer took {longest:?}");
    let figures = vec![
        Figure::lower("growth_mb", growth as f64 / 1e6),
        Figure::lower("kib_a_peer", growth as f64 / 1024.0 / links as f64),
        Figure::info("queue_kib", QUEUE as f64 / 1024.0),
        Figure::info("accepted_mb", report.accepted as f64 / 1e6),
        Figure::lower("longest_ping_ms", longest.as_secs_f64() * 1e3),
    ];
    Ok(vec![Measurement::of(job, figures)])
}

async fn ping(pinger: &Node, node: NodeId) -> Result<Duration> {
    let began = Instant::now();
    pinger.ping(node).await?;
    let took = began.elapsed();
    tokio::time::sleep(BETWEEN).await;
    Ok(took)
}

/// Runs the node, or the peers that do not read.
pub(crate) async fn run_child(job: &Job, rest: &[String]) -> Result<()> {
    match rest {
        [role] if role == LISTEN => fill(job).await,
        [role, address] if role == DIAL => connections::dial(job, address).await,
        _ => bail!("{job} has no role {rest:?}"),
    }
}

/// Sends to all peers but the pinging one, until no queue has room.
async fn fill(job: &Job) -> Result<()> {
    let mut parent = Parent::new();
    let mut config = Config::default();
    config.peer_queue = QUEUE;
    let mut hub = Hub::with(config).await?;
    parent.send(&hub.address())?;
    hub.linked(job.case.amount).await?;
    parent.send(&())?;
    // Once more, for the pinging node. `ProcessPair` has received the first one.
    parent.send(&hub.address())?;
    let pinger: NodeId = parent.receive().await?.context("no pinging node was named")?;
    let node = hub.node();
    let peers = node.peers().into_iter().map(|peer| peer.id()).filter(|id| *id != pinger);
    let senders = peers.map(|id| node.sender(id)).collect::<Result<Vec<_>, _>>()?;
    let mut messages = 0;
    let mut tries = 0;
    while tries < TRIES {
        let mut found = 0;
        for sender in &senders {
            found += fill_one(sender)?;
            // Let the node's own tasks run first.
            tokio::task::yield_now().await;
        }
        tries = if found == 0 { tries + 1 } else { 0 };
        messages += found;
        tokio::time::sleep(WAIT).await;
    }
    // Not counting the link of the pinging node.
    let links = node.peers().len().saturating_sub(1);
    parent.send(&FillReport { accepted: messages * SIZE as u64, links })?;
    parent.released().await?;
    hub.stop().await
}

/// Fills the queue of one peer. Returns the number of accepted messages.
fn fill_one(sender: &Sender) -> Result<u64> {
    let message = [0; SIZE];
    let mut found = 0;
    loop {
        match sender.try_send(&message[..]) {
            Ok(()) => found += 1,
            Err(Error::Full(_)) => return Ok(found),
            Err(error) => return Err(error.into()),
        }
    }
}
