//! Both ends of a link between two nodes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use peerkit::{Context, Handler, Message, Node, Parting, Peer};
use tokio::sync::oneshot;

use crate::flow::{Arrivals, Arrived, Rounds, end, message};

/// Messages between two looks at the clock.
const CLOCK: u64 = 64;

/// Sends messages of `size` bytes for `length`; returns how many.
pub(crate) async fn send(to: SocketAddr, size: usize, length: Duration) -> Result<u64> {
    let node = Node::builder().spawn().await?;
    let peer = node.connect(to).await?.id();
    let started = Instant::now();
    let mut count = 0;
    while count % CLOCK != 0 || started.elapsed() < length {
        node.send(peer, message(count, size)).await?;
        count += 1;
    }
    node.send(peer, end(count, size)).await?;
    node.shutdown().await;
    Ok(count)
}

/// Receives until the last message.
pub(crate) async fn receive(listening: impl Fn(SocketAddr) + Send) -> Result<Arrived> {
    let (done, arrived) = oneshot::channel();
    let receiver = Receiver { arrivals: Arrivals::default(), done: Some(done) };
    let node = Node::builder().listen("127.0.0.1:0").handler(receiver).spawn().await?;
    node.listening().into_iter().for_each(listening);
    let arrived = arrived.await.context("the node has ended")?;
    node.shutdown().await;
    Ok(arrived)
}

struct Receiver {
    arrivals: Arrivals,
    done: Option<oneshot::Sender<Arrived>>,
}

impl Handler for Receiver {
    fn node_message(&mut self, _: &mut Context<'_>, _: &Peer, message: Message) {
        if let Some(arrived) = self.arrivals.take(message.body())
            && let Some(done) = self.done.take()
        {
            let _ = done.send(arrived);
        }
    }
}

/// Sends a message to and fro for `length`; returns the rounds' times, shortest first.
pub(crate) async fn ping(to: SocketAddr, size: usize, length: Duration) -> Result<Vec<Duration>> {
    let (done, rounds) = oneshot::channel();
    let pinger = Pinger { rounds: Some(Rounds::new(size, length)), done: Some(done) };
    let node = Node::builder().handler(pinger).spawn().await?;
    node.connect(to).await?;
    let rounds = rounds.await.context("the node has ended")?;
    node.shutdown().await;
    Ok(rounds.into_times())
}

struct Pinger {
    rounds: Option<Rounds>,
    done: Option<oneshot::Sender<Rounds>>,
}

impl Handler for Pinger {
    fn outbound_node_connected(&mut self, cx: &mut Context<'_>, peer: &Peer) {
        if let Some(rounds) = &mut self.rounds {
            cx.send(peer, rounds.start());
        }
    }

    fn node_message(&mut self, cx: &mut Context<'_>, peer: &Peer, _: Message) {
        let Some(rounds) = &mut self.rounds else { return };
        if !rounds.back() {
            cx.send(peer, rounds.start());
        } else if let (Some(rounds), Some(done)) = (self.rounds.take(), self.done.take()) {
            let _ = done.send(rounds);
        }
    }
}

/// Sends everything back until the other side leaves.
pub(crate) async fn echo(listening: impl Fn(SocketAddr) + Send) -> Result<()> {
    let (done, left) = oneshot::channel();
    let node = Node::builder().listen("127.0.0.1:0").handler(Echo(Some(done))).spawn().await?;
    node.listening().into_iter().for_each(listening);
    left.await.context("the node has ended")?;
    node.shutdown().await;
    Ok(())
}

struct Echo(Option<oneshot::Sender<()>>);

impl Handler for Echo {
    fn node_message(&mut self, cx: &mut Context<'_>, peer: &Peer, message: Message) {
        cx.send(peer, message);
    }

    fn inbound_node_disconnected(&mut self, _: &mut Context<'_>, _: &Peer, _: &Parting) {
        if let Some(done) = self.0.take() {
            let _ = done.send(());
        }
    }
}
