//! peerkit nodes: messages that a handler receives, and streams.

use std::time::Duration;

use anyhow::{Context as _, Result};
use peerkit::{Address, Context, Handler, Message, Node, NodeId, Peer, Sender};
use tokio::sync::{mpsc, oneshot};

use crate::bulk::{BulkTransfer, Stream, discard};
use crate::messages::{EndResult, Numbering, OnMessage, ReceiveCounter, ReceiveTotals, Rounds};
use crate::system::System;

pub(crate) mod attackers;
pub(crate) mod files;
pub(crate) mod many_links;
pub(crate) mod network;
pub(crate) mod program;

/// The protocol name of the streams.
const PROTOCOL: &str = "bench";

/// A node that waits for a link.
pub(crate) struct Listener {
    node: Node,
    system: System,
    linked: oneshot::Receiver<Peer>,
    result: oneshot::Receiver<EndResult>,
}

impl Listener {
    pub(crate) async fn bind(system: System, on_message: OnMessage) -> Result<Self> {
        let (handler, linked, result) = EndHandler::new(on_message);
        let node = Node::builder().listen("127.0.0.1:0").handler(handler).spawn().await?;
        node.serve_stream(PROTOCOL, discard);
        Ok(Self { node, system, linked, result })
    }

    pub(crate) fn address(&self) -> String {
        dial_address(&self.node, self.system)
    }

    pub(crate) async fn accept(self) -> Result<Link> {
        let peer = self.linked.await.context("the node has ended")?;
        let sender = self.node.sender(peer.id())?;
        Ok(Link { node: self.node, sender, result: self.result })
    }
}

/// A node, and its link to another node.
pub(crate) struct Link {
    node: Node,
    sender: Sender,
    result: oneshot::Receiver<EndResult>,
}

impl Link {
    pub(crate) async fn connect(address: &str, on_message: OnMessage) -> Result<Self> {
        let (handler, _, result) = EndHandler::new(on_message);
        let node = Node::builder().handler(handler).spawn().await?;
        let peer = node.connect(address.parse::<Address>()?).await?;
        let sender = node.sender(peer.id())?;
        Ok(Self { node, sender, result })
    }

    pub(crate) async fn send(&self, size: usize, duration: Duration) -> Result<u64> {
        let mut message = vec![0; size];
        let mut numbers = Numbering::new(duration);
        while numbers.number(&mut message) {
            self.sender.send(&message[..]).await?;
        }
        let count = numbers.last(&mut message);
        self.sender.send(&message[..]).await?;
        Ok(count)
    }

    pub(crate) async fn receive_all(&mut self) -> Result<ReceiveTotals> {
        (&mut self.result).await.context("the node has ended")?.receive_totals()
    }

    pub(crate) async fn exchange(
        &mut self,
        size: usize,
        duration: Duration,
    ) -> Result<(u64, ReceiveTotals)> {
        let sent = self.send(size, duration).await?;
        // The handler has counted messages in the meantime.
        Ok((sent, self.receive_all().await?))
    }

    pub(crate) async fn rounds(&mut self) -> Result<Rounds> {
        // The first message, which does not count. The handler sends all others.
        self.sender.send("go").await?;
        (&mut self.result).await.context("the node has ended")?.rounds()
    }

    pub(crate) async fn start_bulk(&self) -> Result<BulkTransfer> {
        let stream = self.node.open_stream(self.sender.peer().id(), PROTOCOL).await?;
        Ok(BulkTransfer::send_on(Box::new(stream)))
    }

    pub(crate) async fn close(self) {
        self.node.shutdown().await;
    }
}

/// The handler of one end. It counts messages, sends them back, or measures rounds.
struct EndHandler {
    state: EndState,
    linked: Option<oneshot::Sender<Peer>>,
    done: Option<oneshot::Sender<EndResult>>,
}

/// An [`OnMessage`] and the state that it needs.
enum EndState {
    Count(ReceiveCounter),
    Echo,
    Ping(Option<Rounds>),
}

impl EndHandler {
    fn new(on_message: OnMessage) -> (Self, oneshot::Receiver<Peer>, oneshot::Receiver<EndResult>) {
        let ((linked, peer), (done, result)) = (oneshot::channel(), oneshot::channel());
        let state = match on_message {
            OnMessage::Count => EndState::Count(ReceiveCounter::default()),
            OnMessage::Echo => EndState::Echo,
            OnMessage::Ping { size, duration } => EndState::Ping(Some(Rounds::new(size, duration))),
        };
        (Self { state, linked: Some(linked), done: Some(done) }, peer, result)
    }

    fn finish(&mut self, result: EndResult) {
        if let Some(done) = self.done.take() {
            let _ = done.send(result);
        }
    }
}

impl Handler for EndHandler {
    fn inbound_node_connected(&mut self, _: &mut Context<'_>, peer: &Peer) {
        if let Some(linked) = self.linked.take() {
            let _ = linked.send(peer.clone());
        }
    }

    fn node_message(&mut self, cx: &mut Context<'_>, peer: &Peer, message: Message) {
        match &mut self.state {
            EndState::Count(counter) => {
                if let Some(totals) = counter.take(message.body()) {
                    self.finish(EndResult::Received(totals));
                }
            }
            EndState::Echo => cx.send(peer, message),
            EndState::Ping(rounds) => {
                let Some(under_way) = rounds else { return };
                if !under_way.finish() {
                    cx.send(peer, under_way.start());
                } else if let Some(rounds) = rounds.take() {
                    self.finish(EndResult::Rounds(rounds));
                }
            }
        }
    }
}

/// A node that accepts streams.
pub(crate) struct StreamListener {
    node: Node,
    system: System,
    streams: mpsc::Receiver<Stream>,
}

impl StreamListener {
    pub(crate) async fn bind(system: System) -> Result<Self> {
        let (accepted, streams) = mpsc::channel(16);
        let node = Node::builder().listen("127.0.0.1:0").spawn().await?;
        node.serve_stream(PROTOCOL, move |stream| {
            let accepted = accepted.clone();
            async move {
                let _ = accepted.send(Box::new(stream) as Stream).await;
            }
        });
        Ok(Self { node, system, streams })
    }

    pub(crate) fn address(&self) -> String {
        dial_address(&self.node, self.system)
    }

    pub(crate) async fn accept(&mut self) -> Result<Stream> {
        self.streams.recv().await.context("the node has ended")
    }
}

/// A node that opens streams to another node.
pub(crate) struct StreamDialler {
    node: Node,
    peer: NodeId,
}

impl StreamDialler {
    pub(crate) async fn connect(address: &str) -> Result<Self> {
        let node = Node::builder().spawn().await?;
        let peer = node.connect(address.parse::<Address>()?).await?.id();
        Ok(Self { node, peer })
    }

    pub(crate) async fn open(&self) -> Result<Stream> {
        Ok(Box::new(self.node.open_stream(self.peer, PROTOCOL).await?))
    }
}

/// Returns the address at which a node of `system` is dialled.
fn dial_address(node: &Node, system: System) -> String {
    match system {
        System::PeerkitQuic => format!("quic://{}", address(node)),
        _ => address(node),
    }
}

fn address(node: &Node) -> String {
    node.listening().first().map(ToString::to_string).unwrap_or_default()
}
