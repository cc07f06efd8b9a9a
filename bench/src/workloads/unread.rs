//! Many peers that have linked to a node and then read nothing, while the node sends to all until it
//! has no room: its memory, and the time in which it answers another peer. One process is the node, one
//! has the peers that do not read and is stopped, and this one sends the pings.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use peerkit::{Config, Error, Node, NodeId, Sender};
use serde::{Deserialize, Serialize};

use super::connections::{self, DIAL, Ends, LISTEN};
use crate::job::{Case, Job};
use crate::process::{Parent, resident_bytes};
use crate::report::{Figure, Measurement};
use crate::systems::peerkit::crowd::Hub;

const LINKS: usize = 1_000;

/// The node's queue for each peer, in bytes. The default of 4 MiB would need 4 GiB here.
const QUEUE: usize = 64 << 10;

/// Memory for each peer beside the queue: that of the link itself, records that TLS has sealed and the
/// system has not taken (at most 64 KiB), and blocks that are not full.
const ALLOWANCE: usize = 160 << 10;

/// Bytes of a message.
const SIZE: usize = 1 << 10;

/// Tries without room after which the queues are full, and the interval between them.
const TRIES: u32 = 5;
const WAIT: Duration = Duration::from_millis(100);

/// Longest time of an answer.
const ANSWER: Duration = Duration::from_secs(1);

/// Number of pings after the queues are full, and their interval.
const PINGS: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(20);

/// The report of the node once its queues are full.
#[derive(Debug, Serialize, Deserialize)]
struct Account {
    /// Bytes accepted for all peers.
    accepted: u64,
    /// Links that are left.
    links: usize,
}

/// Returns the only case.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case::count(LINKS, "peer")]
}

/// Lets a node send to peers that do not read.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let links = job.case.amount;
    let mut ends = Ends::start(job).await?;
    ends.link().await?;
    let asker = Node::builder().spawn().await?;
    let address: SocketAddr = ends.listening.receive().await?;
    let node = asker.connect(address).await?.id();
    ends.dialling.pause().await?;

    let process = ends.listening.id()?;
    let before = resident_bytes(process);
    ends.listening.say(&asker.id()).await?;
    let mut longest = Duration::ZERO;
    let account: Account = {
        let mut filling = std::pin::pin!(ends.listening.receive());
        loop {
            tokio::select! {
                account = &mut filling => break account?,
                asked = ask(&asker, node) => longest = longest.max(asked?),
            }
        }
    };
    for _ in 0..PINGS {
        longest = longest.max(ask(&asker, node).await?);
    }
    let growth = resident_bytes(process).saturating_sub(before);
    asker.shutdown().await;
    ends.dialling.resume().await?;
    ends.dialling.end().await?;
    ends.listening.end().await?;

    let limit = links * (QUEUE + ALLOWANCE);
    ensure!(account.links == links, "of {links} links {} are left", account.links);
    ensure!(
        account.accepted >= (links * (QUEUE - SIZE)) as u64,
        "only {} bytes were accepted: the queues are not full",
        account.accepted
    );
    ensure!(
        growth <= limit as u64,
        "the node has grown by {growth} bytes, over the {limit} of queues and allowance"
    );
    ensure!(longest <= ANSWER, "an answer took {longest:?}");
    let figures = vec![
        Figure::lower("growth_mb", growth as f64 / 1e6),
        Figure::lower("kib_a_peer", growth as f64 / 1024.0 / links as f64),
        Figure::told("queue_kib", QUEUE as f64 / 1024.0),
        Figure::told("accepted_mb", account.accepted as f64 / 1e6),
        Figure::lower("longest_ping_ms", longest.as_secs_f64() * 1e3),
    ];
    Ok(vec![Measurement::of(job, figures)])
}

async fn ask(asker: &Node, node: NodeId) -> Result<Duration> {
    let began = Instant::now();
    asker.ping(node).await?;
    let took = began.elapsed();
    tokio::time::sleep(BETWEEN).await;
    Ok(took)
}

/// Plays the node, or the peers that do not read.
pub(crate) async fn play(job: &Job, rest: &[String]) -> Result<()> {
    match rest {
        [role] if role == LISTEN => fill(job).await,
        [role, address] if role == DIAL => connections::dial(job, address).await,
        _ => bail!("{job} has no role {rest:?}"),
    }
}

/// Sends to all peers but the one that it is given, until there is no room for any.
async fn fill(job: &Job) -> Result<()> {
    let mut parent = Parent::new();
    let mut config = Config::default();
    config.peer_queue = QUEUE;
    let mut hub = Hub::with(config).await?;
    parent.say(&hub.address())?;
    hub.linked(job.case.amount).await?;
    parent.say(&())?;
    parent.say(&hub.address())?;
    let asker: NodeId = parent.receive().await?.context("no node sends pings")?;
    let node = hub.node();
    let peers = node.peers().into_iter().map(|peer| peer.id()).filter(|id| *id != asker);
    let senders = peers.map(|id| node.sender(id)).collect::<Result<Vec<_>, _>>()?;
    let mut messages = 0;
    let mut tries = 0;
    while tries < TRIES {
        let mut found = 0;
        for sender in &senders {
            found += fill_one(sender)?;
            // The node's own tasks come first.
            tokio::task::yield_now().await;
        }
        tries = if found == 0 { tries + 1 } else { 0 };
        messages += found;
        tokio::time::sleep(WAIT).await;
    }
    let links = node.peers().len().saturating_sub(1);
    parent.say(&Account { accepted: messages * SIZE as u64, links })?;
    parent.gone().await?;
    hub.stop().await
}

/// Returns the number of messages that have found room.
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
