//! The round trip of one message to a server: first alone, then while another process floods the server with
//! as many messages as possible.
//!
//! If the three processes keep more threads busy than there are processors, a message also waits until the
//! kernel's scheduler has let a thread of the flood finish its time slice. In a second case the flood has the
//! lowest priority, so that only the delay remains that the server itself causes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use peerkit::{Context, Handler, Message, Node, Peer};
use tokio::task::JoinSet;

use super::latency::percentile_us;
use crate::bulk::Stream;
use crate::framing::{self, FrameReader};
use crate::link::Link;
use crate::messages::OnMessage;
use crate::process::{Child, Parent};
use crate::report::{Figure, Measurement};
use crate::streams::{Dialler, Listener, Purpose};
use crate::system::System;
use crate::workload::{Case, Job};

/// Size of each message, in bytes.
const SIZE: usize = 64;

/// The roles of the child processes.
const SERVE: &str = "serve";
const FLOOD: &str = "flood";

/// The purpose of a stream whose messages are not answered.
const FLOOD_STREAM: Purpose = b'f';

/// Suffix of the name of the case in which the flood has the lowest priority.
const LOW_PRIORITY: &str = ", low priority";

/// Returns two cases: a flood with normal priority, and a flood with the lowest priority, which gets only
/// processor time that no other process needs.
pub(crate) fn cases() -> Vec<Case> {
    let normal = Case::bytes(SIZE);
    let low = Case { name: format!("{}{LOW_PRIORITY}", normal.name), amount: normal.amount };
    vec![normal, low]
}

/// Measures round trips without the flood, and then beside it.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let mut server = Child::start(job.args_with_role(&[SERVE]))?;
    let address: String = server.receive().await?;
    let alone = rounds(job, &address).await?;

    let flood = job.args_with_role(&[FLOOD, &address]);
    let has_low_priority = job.case.name.ends_with(LOW_PRIORITY);
    let mut flood = if has_low_priority { Child::start_low(flood)? } else { Child::start(flood)? };
    flood.receive::<()>().await?;
    let (start, count_before) = (Instant::now(), count(&mut server).await?);
    let flooded_times = rounds(job, &address).await?;
    let flooded = count(&mut server).await? - count_before;
    let flood_per_s = flooded as f64 / start.elapsed().as_secs_f64();
    flood.end().await?;
    server.end().await?;

    let (p99, flooded_p99) = (percentile_us(&alone, 0.99), percentile_us(&flooded_times, 0.99));
    let figures = vec![
        Figure::lower("p99_us", p99),
        Figure::lower("flooded_p50_us", percentile_us(&flooded_times, 0.5)),
        Figure::lower("flooded_p99_us", flooded_p99),
        Figure::lower("p99_growth", flooded_p99 / p99),
        Figure::info("flood_per_s", flood_per_s),
    ];
    Ok(vec![Measurement::new(job, figures)])
}

/// Returns the round-trip times, shortest first.
async fn rounds(job: &Job, address: &str) -> Result<Vec<Duration>> {
    let on_message = OnMessage::Ping { size: SIZE, duration: job.duration };
    let mut link = Link::connect(job.system, address, on_message).await?;
    let times = link.rounds().await?.into_times();
    link.close().await;
    Ok(times)
}

/// Returns the number of unanswered messages that the server has received.
async fn count(server: &mut Child) -> Result<u64> {
    server.send(&()).await?;
    server.receive().await
}

/// Runs the server, or the process that floods it.
pub(crate) async fn run_child(job: &Job, rest: &[String]) -> Result<()> {
    match rest {
        [role] if role == SERVE => serve(job.system).await,
        [role, address] if role == FLOOD => flood(job.system, address).await,
        _ => bail!("{job} has no role {rest:?}"),
    }
}

async fn serve(system: System) -> Result<()> {
    let mut parent = Parent::new();
    let flooded = Arc::new(AtomicU64::new(0));
    let mut serving = JoinSet::new();
    let mut node = None;
    if system == System::Peerkit {
        let counter = FloodCounter { flooded: flooded.clone() };
        let started = Node::builder().listen("127.0.0.1:0").handler(counter).spawn().await?;
        parent.send(&started.listening().first())?;
        node = Some(started);
    } else {
        let mut listener = Listener::bind(system).await?;
        parent.send(&listener.address())?;
        let flooded = flooded.clone();
        serving.spawn(async move {
            let mut streams = JoinSet::new();
            while let Ok((purpose, stream)) = listener.accept().await {
                streams.spawn(serve_stream(purpose, stream, flooded.clone()));
            }
        });
    }
    while parent.receive::<()>().await?.is_some() {
        parent.send(&flooded.load(Ordering::Relaxed))?;
    }
    if let Some(node) = node {
        node.shutdown().await;
    }
    Ok(())
}

/// The handler of the server's node. It answers every peer except the one that floods.
struct FloodCounter {
    flooded: Arc<AtomicU64>,
}

impl Handler for FloodCounter {
    fn node_message(&mut self, cx: &mut Context<'_>, peer: &Peer, message: Message) {
        match peer.name() {
            FLOOD => drop(self.flooded.fetch_add(1, Ordering::Relaxed)),
            _ => cx.send(peer, message),
        }
    }
}

async fn serve_stream(purpose: Purpose, mut stream: Stream, flooded: Arc<AtomicU64>) -> Result<()> {
    if purpose != FLOOD_STREAM {
        return framing::echo(&mut stream).await;
    }
    let mut frames = FrameReader::new(SIZE);
    while frames.read(&mut stream).await? {
        while frames.next().is_some() {
            flooded.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Sends until the parent closes the input of this process.
async fn flood(system: System, address: &str) -> Result<()> {
    let mut parent = Parent::new();
    if system == System::Peerkit {
        let node = Node::builder().name(FLOOD).spawn().await?;
        let peer = node.connect(address.parse::<SocketAddr>()?).await?;
        let sender = node.sender(peer.id())?;
        parent.send(&())?;
        // The messages are sent in a separate task, because a loop of sends that never wait would let nothing
        // else run.
        let sending = tokio::spawn(async move {
            let message = [0; SIZE];
            while sender.send(&message[..]).await.is_ok() {}
        });
        parent.wait_for_end().await?;
        sending.abort();
        // The node is not shut down cleanly: the messages that are still queued do not matter.
        return Ok(());
    }
    let mut stream = Dialler::connect(system, address).await?.open(FLOOD_STREAM).await?;
    parent.send(&())?;
    let sending =
        tokio::spawn(async move { framing::send(&mut stream, SIZE, Duration::MAX).await });
    parent.wait_for_end().await?;
    sending.abort();
    Ok(())
}
