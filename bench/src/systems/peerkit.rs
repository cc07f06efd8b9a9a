//! Nodes: messages through a handler, and streams.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use peerkit::{Context, Handler, Message, Node, NodeId, Peer, Sender};
use tokio::sync::{mpsc, oneshot};

use crate::bulk::{Bulk, Stream, swallow};
use crate::messages::{Account, Arrivals, Arrived, Numbers, Part, Rounds};

pub(crate) mod crowd;
pub(crate) mod files;
pub(crate) mod network;

/// The protocol of the streams.
const PROTOCOL: &str = "bench";

/// A node that waits for another one.
pub(crate) struct Listener {
    node: Node,
    linked: oneshot::Receiver<Peer>,
    account: oneshot::Receiver<Account>,
}

impl Listener {
    pub(crate) async fn bind(part: Part) -> Result<Self> {
        let (sink, linked, account) = MessageSink::new(part);
        let node = Node::builder().listen("127.0.0.1:0").handler(sink).spawn().await?;
        node.serve_stream(PROTOCOL, |stream| swallow(Box::new(stream)));
        Ok(Self { node, linked, account })
    }

    pub(crate) fn address(&self) -> String {
        address(&self.node)
    }

    pub(crate) async fn accept(self) -> Result<Link> {
        let peer = self.linked.await.context("the node has ended")?;
        let sender = self.node.sender(peer.id())?;
        Ok(Link { node: self.node, sender, account: self.account })
    }
}

/// A node with a link to another one.
pub(crate) struct Link {
    node: Node,
    sender: Sender,
    account: oneshot::Receiver<Account>,
}

impl Link {
    pub(crate) async fn connect(address: &str, part: Part) -> Result<Self> {
        let (sink, _, account) = MessageSink::new(part);
        let node = Node::builder().handler(sink).spawn().await?;
        let peer = node.connect(address.parse::<SocketAddr>()?).await?;
        let sender = node.sender(peer.id())?;
        Ok(Self { node, sender, account })
    }

    pub(crate) async fn send(&self, size: usize, length: Duration) -> Result<u64> {
        let mut message = vec![0; size];
        let mut numbers = Numbers::new(length);
        while numbers.number(&mut message) {
            self.sender.send(&message[..]).await?;
        }
        let count = numbers.last(&mut message);
        self.sender.send(&message[..]).await?;
        Ok(count)
    }

    pub(crate) async fn arrived(&mut self) -> Result<Arrived> {
        (&mut self.account).await.context("the node has ended")?.arrived()
    }

    pub(crate) async fn exchange(
        &mut self,
        size: usize,
        length: Duration,
    ) -> Result<(u64, Arrived)> {
        let sent = self.send(size, length).await?;
        // The handler has counted meanwhile.
        Ok((sent, self.arrived().await?))
    }

    pub(crate) async fn rounds(&mut self) -> Result<Rounds> {
        // The handler sends all but the first message, which does not count.
        self.sender.send("go").await?;
        (&mut self.account).await.context("the node has ended")?.rounds()
    }

    pub(crate) async fn start_bulk(&self) -> Result<Bulk> {
        let stream = self.node.open_stream(self.sender.peer().id(), PROTOCOL).await?;
        Ok(Bulk::pump(Box::new(stream)))
    }

    pub(crate) async fn close(self) {
        self.node.shutdown().await;
    }
}

/// The handler.
struct MessageSink {
    does: Does,
    linked: Option<oneshot::Sender<Peer>>,
    done: Option<oneshot::Sender<Account>>,
}

/// A [`Part`] with its state.
enum Does {
    Count(Arrivals),
    Echo,
    Ping(Option<Rounds>),
}

impl MessageSink {
    fn new(part: Part) -> (Self, oneshot::Receiver<Peer>, oneshot::Receiver<Account>) {
        let ((linked, peer), (done, account)) = (oneshot::channel(), oneshot::channel());
        let does = match part {
            Part::Count => Does::Count(Arrivals::default()),
            Part::Echo => Does::Echo,
            Part::Ping { size, length } => Does::Ping(Some(Rounds::new(size, length))),
        };
        (Self { does, linked: Some(linked), done: Some(done) }, peer, account)
    }

    fn done(&mut self, account: Account) {
        if let Some(done) = self.done.take() {
            let _ = done.send(account);
        }
    }
}

impl Handler for MessageSink {
    fn inbound_node_connected(&mut self, _: &mut Context<'_>, peer: &Peer) {
        if let Some(linked) = self.linked.take() {
            let _ = linked.send(peer.clone());
        }
    }

    fn node_message(&mut self, cx: &mut Context<'_>, peer: &Peer, message: Message) {
        match &mut self.does {
            Does::Count(arrivals) => {
                if let Some(arrived) = arrivals.take(message.body()) {
                    self.done(Account::Arrived(arrived));
                }
            }
            Does::Echo => cx.send(peer, message),
            Does::Ping(rounds) => {
                let Some(under_way) = rounds else { return };
                if !under_way.back() {
                    cx.send(peer, under_way.start());
                } else if let Some(rounds) = rounds.take() {
                    self.done(Account::Rounds(rounds));
                }
            }
        }
    }
}

/// A node that accepts streams.
pub(crate) struct StreamListener {
    node: Node,
    streams: mpsc::Receiver<Stream>,
}

impl StreamListener {
    pub(crate) async fn bind() -> Result<Self> {
        let (taken, streams) = mpsc::channel(16);
        let node = Node::builder().listen("127.0.0.1:0").spawn().await?;
        node.serve_stream(PROTOCOL, move |stream| {
            let taken = taken.clone();
            async move {
                let _ = taken.send(Box::new(stream) as Stream).await;
            }
        });
        Ok(Self { node, streams })
    }

    pub(crate) fn address(&self) -> String {
        address(&self.node)
    }

    pub(crate) async fn accept(&mut self) -> Result<Stream> {
        self.streams.recv().await.context("the node has ended")
    }
}

/// A node that opens streams to another one.
pub(crate) struct StreamDialler {
    node: Node,
    peer: NodeId,
}

impl StreamDialler {
    pub(crate) async fn connect(address: &str) -> Result<Self> {
        let node = Node::builder().spawn().await?;
        let peer = node.connect(address.parse::<SocketAddr>()?).await?.id();
        Ok(Self { node, peer })
    }

    pub(crate) async fn open(&self) -> Result<Stream> {
        Ok(Box::new(self.node.open_stream(self.peer, PROTOCOL).await?))
    }
}

fn address(node: &Node) -> String {
    node.listening().first().map(ToString::to_string).unwrap_or_default()
}
