//! One message back and forth with a server: first alone, then while another process floods the
//! server with as many messages as possible.
//!
//! If the three processes keep more threads busy than there are processors, messages also wait for
//! the kernel's scheduler, which lets a thread of the flood finish its time slice. A second case
//! gives the flood the lowest priority, which leaves only the delay that the server itself causes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use peerkit::{Context, Handler, Message, Node, Peer};
use tokio::task::JoinSet;

use super::latency::share_us;
use crate::bulk::Stream;
use crate::framing::{self, FrameReader};
use crate::link::Link;
use crate::messages::OnMessage;
use crate::process::{Child, Parent};
use crate::report::{Figure, Measurement};
use crate::streams::{Dialler, Listener, Purpose};
use crate::system::System;
use crate::workload::{Case, Job};

/// Bytes of every message.
const SIZE: usize = 64;

/// Roles of the child processes.
const SERVE: &str = "serve";
const FLOOD: &str = "flood";

/// Purpose of a stream for messages that are not answered.
const FLOODED: Purpose = b'f';

/// Suffix of the case's name if the flood has the lowest priority.
const LOW: &str = ", low priority";

/// Returns two cases: a flood of normal priority, and one of the lowest, which only gets the
/// processor time that the others leave.
pub(crate) fn cases() -> Vec<Case> {
    let alike = Case::bytes(SIZE);
    let low = Case { name: format!("{}{LOW}", alike.name), amount: alike.amount };
    vec![alike, low]
}

/// Measures round trips without the flood and beside it.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let mut server = Child::start(job.args_with_role(&[SERVE]))?;
    let address: String = server.receive().await?;
    let alone = rounds(job, &address).await?;

    let flood = job.args_with_role(&[FLOOD, &address]);
    let mut flood = match job.case.name.ends_with(LOW) {
        true => Child::start_low(flood)?,
        false => Child::start(flood)?,
    };
    flood.receive::<()>().await?;
    let began = (Instant::now(), count(&mut server).await?);
    let beside = rounds(job, &address).await?;
    let flooded = count(&mut server).await? - began.1;
    let flood_per_s = flooded as f64 / began.0.elapsed().as_secs_f64();
    flood.end().await?;
    server.end().await?;

    let (p99, p99_beside) = (share_us(&alone, 0.99), share_us(&beside, 0.99));
    let figures = vec![
        Figure::lower("p99_us", p99),
        Figure::lower("flooded_p50_us", share_us(&beside, 0.5)),
        Figure::lower("flooded_p99_us", p99_beside),
        Figure::lower("p99_growth", p99_beside / p99),
        Figure::info("flood_per_s", flood_per_s),
    ];
    Ok(vec![Measurement::of(job, figures)])
}

/// Returns the times of the rounds, shortest first.
async fn rounds(job: &Job, address: &str) -> Result<Vec<Duration>> {
    let part = OnMessage::Ping { size: SIZE, length: job.length };
    let mut link = Link::connect(job.system, address, part).await?;
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

/// Handler of the server's node: answers every peer except the flooding one.
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
    if purpose != FLOODED {
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

/// Sends until the parent closes the input.
async fn flood(system: System, address: &str) -> Result<()> {
    let mut parent = Parent::new();
    if system == System::Peerkit {
        let node = Node::builder().name(FLOOD).spawn().await?;
        let peer = node.connect(address.parse::<SocketAddr>()?).await?;
        let sender = node.sender(peer.id())?;
        parent.send(&())?;
        // A task of its own: a send that never waits would not let anything else run beside it.
        let sending = tokio::spawn(async move {
            let message = [0; SIZE];
            while sender.send(&message[..]).await.is_ok() {}
        });
        parent.released().await?;
        sending.abort();
        // Do not shut down cleanly: the messages that are still queued do not matter.
        return Ok(());
    }
    let mut stream = Dialler::connect(system, address).await?.open(FLOODED).await?;
    parent.send(&())?;
    let sending =
        tokio::spawn(async move { framing::send(&mut stream, SIZE, Duration::MAX).await });
    parent.released().await?;
    sending.abort();
    Ok(())
}
