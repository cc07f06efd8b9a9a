//! Each message goes to many receivers. One process sends. Up to four other processes have the receivers, so
//! that two processors have many more tasks than they can run at the same time.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use peerkit::{Config, Error, NodeId, Sender};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::bulk::Stream;
use crate::concurrent::join_all;
use crate::framing::{self, BATCH};
#[cfg(feature = "systems")]
use crate::link;
use crate::link::Link;
use crate::messages::OnMessage;
use crate::messages::{Numbering, ReceiveTotals};
use crate::process::{Child, Parent, cpu_seconds};
use crate::report::{Figure, Measurement};
use crate::streams;
use crate::system::System;
use crate::systems::peerkit::many_links::Hub;
use crate::workload::{Case, Job};

/// The numbers of receivers.
const PEERS: [usize; 4] = [1, 8, 32, 128];

/// Size of a message, in bytes.
const SIZE: usize = 1 << 10;

/// Maximum number of processes with receivers.
const PROCESSES: usize = 4;

/// Maximum number of batches that wait for one connection. Each system whose queues can be configured gets
/// this limit for each peer.
const MAX_BATCHES: usize = 2;

/// Pause between the last subscription and the first message. It is needed because zenoh's publisher does not
/// report that it knows all subscribers.
#[cfg(feature = "systems")]
const SETTLING: Duration = Duration::from_secs(1);

/// Returns one case for each number of receivers.
pub(crate) fn cases() -> Vec<Case> {
    PEERS.map(|peers| Case::count(peers, "peer")).to_vec()
}

/// Returns whether `system` can send one message to many peers.
pub(crate) fn supports(system: System) -> bool {
    match system {
        System::RawTls | System::Peerkit => true,
        #[cfg(feature = "systems")]
        System::ZenohTcp | System::ZenohTls => true,
        _ => false,
    }
}

/// Measures the sending from this process.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let peers = job.case.amount;
    let listener = Listener::bind(job.system).await?;
    let mut children = Vec::new();
    for process in 0..PROCESSES {
        let share = peers / PROCESSES + usize::from(process < peers % PROCESSES);
        if share > 0 {
            children.push(Child::start(
                job.args_with_role(&[&share.to_string(), &listener.address()]),
            )?);
        }
    }
    let mut source = listener.accept(peers).await?;
    for child in &mut children {
        child.receive::<()>().await?;
    }
    source.settle().await;

    let own = std::process::id();
    let cpu_now = |children: &[Child]| {
        cpu_seconds(own) + children.iter().map(Child::cpu_seconds).sum::<f64>()
    };
    let before = cpu_now(&children);
    let sent = source.send(job.duration).await?;
    let mut arrived: Vec<ReceiveTotals> = Vec::new();
    for child in &mut children {
        arrived.extend(child.receive::<Vec<ReceiveTotals>>().await?);
    }
    let cpu_s = cpu_now(&children) - before;
    source.close().await?;
    for child in children {
        child.end().await?;
    }
    ensure!(arrived.len() == peers, "{} of {peers} receivers have reported", arrived.len());
    for one in &arrived {
        one.check(sent)?;
    }
    let elapsed = arrived.iter().map(|one| one.elapsed).max().unwrap_or_default();
    let deliveries = sent as f64 * peers as f64;
    let figures = vec![
        Figure::higher("deliveries_per_s", deliveries / elapsed.as_secs_f64()),
        Figure::info("cpu_s", cpu_s),
        Figure::lower("cpu_us_per_delivery", cpu_s * 1e6 / deliveries),
    ];
    Ok(vec![Measurement::new(job, figures)])
}

/// Runs a process with some of the receivers.
pub(crate) async fn run_child(job: &Job, rest: &[String]) -> Result<()> {
    let [share, address] = rest else { bail!("{job} has no role {rest:?}") };
    let mut parent = Parent::new();
    let mut links = Vec::new();
    for _ in 0..share.parse()? {
        links.push(Link::connect(job.system, address, OnMessage::Count).await?);
    }
    parent.send(&())?;
    let mut receiving = JoinSet::new();
    for mut link in links {
        receiving.spawn(async move { anyhow::Ok((link.receive_all(SIZE).await?, link)) });
    }
    let (arrived, links): (Vec<_>, Vec<_>) = join_all(receiving).await?.into_iter().unzip();
    parent.send(&arrived)?;
    parent.wait_for_end().await?;
    for link in links {
        link.close().await;
    }
    Ok(())
}

/// The sender, before the receivers have connected.
enum Listener {
    Framed(streams::Listener),
    Peerkit(Hub),
    #[cfg(feature = "systems")]
    Zenoh(link::Listener),
}

/// The sender, connected to all receivers.
enum Source {
    Framed(Vec<Stream>),
    Peerkit(Hub),
    #[cfg(feature = "systems")]
    Zenoh(Link),
}

impl Listener {
    async fn bind(system: System) -> Result<Self> {
        Ok(match system {
            System::Peerkit => {
                let mut config = Config::default();
                // As in `send_framed`, there is room for the batches that wait and for the batch that is
                // being filled.
                config.peer_queue = BATCH * (MAX_BATCHES + 1);
                Self::Peerkit(Hub::with_config(config).await?)
            }
            #[cfg(feature = "systems")]
            System::ZenohTcp | System::ZenohTls => {
                Self::Zenoh(link::Listener::bind(system, OnMessage::Count).await?)
            }
            _ => Self::Framed(streams::Listener::bind(system).await?),
        })
    }

    fn address(&self) -> String {
        match self {
            Self::Framed(listener) => listener.address(),
            Self::Peerkit(hub) => hub.address(),
            #[cfg(feature = "systems")]
            Self::Zenoh(listener) => listener.address(),
        }
    }

    async fn accept(self, peers: usize) -> Result<Source> {
        Ok(match self {
            Self::Framed(mut listener) => {
                let mut streams = Vec::new();
                for _ in 0..peers {
                    streams.push(listener.accept_messages().await?);
                }
                Source::Framed(streams)
            }
            Self::Peerkit(mut hub) => {
                hub.wait_for_links(peers).await?;
                Source::Peerkit(hub)
            }
            #[cfg(feature = "systems")]
            Self::Zenoh(listener) => Source::Zenoh(listener.accept().await?),
        })
    }
}

impl Source {
    /// Waits until the sender knows all receivers. The receivers have already reported that they are
    /// connected.
    async fn settle(&mut self) {
        #[cfg(feature = "systems")]
        if let Self::Zenoh(_) = self {
            tokio::time::sleep(SETTLING).await;
        }
    }

    /// Sends numbered messages to all receivers for `duration`, and then the last one. Returns the number of
    /// messages before the last one.
    async fn send(&mut self, duration: Duration) -> Result<u64> {
        match self {
            Self::Framed(streams) => {
                let (count, kept) = send_framed(std::mem::take(streams), duration).await?;
                *streams = kept;
                Ok(count)
            }
            Self::Peerkit(hub) => send_from_node(hub, duration).await,
            #[cfg(feature = "systems")]
            Self::Zenoh(link) => link.send(SIZE, duration).await,
        }
    }

    async fn close(self) -> Result<()> {
        match self {
            Self::Framed(streams) => drop(streams),
            Self::Peerkit(hub) => hub.stop().await?,
            #[cfg(feature = "systems")]
            Self::Zenoh(link) => link.close().await,
        }
        Ok(())
    }
}

/// Sends with `send_to_nodes`, which does not wait. If the queue of a peer is full, sends the message to that
/// peer with `send`, which waits for room.
async fn send_from_node(hub: &Hub, duration: Duration) -> Result<u64> {
    let node = hub.node();
    let mut senders: HashMap<NodeId, Sender> = HashMap::new();
    for peer in node.peers() {
        senders.insert(peer.id(), node.sender(peer.id())?);
    }
    let mut message = [0; SIZE];
    let mut numbers = Numbering::new(duration);
    while numbers.number(&mut message) {
        for (id, error) in node.send_to_nodes(&message[..], &[])?.failed {
            let Error::Full(_) = error else { return Err(error.into()) };
            let sender = senders.get(&id).context("an unexpected peer has linked")?;
            sender.send(&message[..]).await?;
        }
    }
    let count = numbers.last(&mut message);
    for sender in senders.values() {
        sender.send(&message[..]).await?;
    }
    Ok(count)
}

/// Sends in the simplest way that is fast. Each message is appended to the current batch of each connection.
/// For each connection, a task writes the batches.
async fn send_framed(streams: Vec<Stream>, duration: Duration) -> Result<(u64, Vec<Stream>)> {
    let mut writing = JoinSet::new();
    let mut outs = Vec::new();
    for stream in streams {
        let (batches, waiting) = mpsc::channel(MAX_BATCHES);
        writing.spawn(write(stream, waiting));
        outs.push((Vec::with_capacity(BATCH), batches));
    }
    let mut message = [0; SIZE];
    let mut numbers = Numbering::new(duration);
    let closed = || anyhow::anyhow!("a receiver has closed its connection");
    while numbers.number(&mut message) {
        for (batch, batches) in &mut outs {
            framing::append(batch, &message)?;
            if batch.len() + SIZE >= BATCH {
                let full = std::mem::replace(batch, Vec::with_capacity(BATCH));
                batches.send(full).await.map_err(|_| closed())?;
            }
        }
    }
    let count = numbers.last(&mut message);
    for (mut batch, batches) in outs {
        framing::append(&mut batch, &message)?;
        batches.send(batch).await.map_err(|_| closed())?;
    }
    Ok((count, join_all(writing).await?))
}

async fn write(mut stream: Stream, mut batches: mpsc::Receiver<Vec<u8>>) -> Result<Stream> {
    while let Some(batch) = batches.recv().await {
        stream.write_all(&batch).await?;
        stream.flush().await?;
    }
    Ok(stream)
}
