//! Messages, broadcasts, requests and streams.

use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::event::Peer;
use peerkit_proto::frame::MESSAGE_HEADER_LEN;
use peerkit_proto::id::NodeId;
use peerkit_proto::message::Message;
use peerkit_proto::peer::{BroadcastReceipt, Input};

use super::Node;
use crate::actor::mailbox::{Operation, Publisher};
use crate::compress;
use crate::conn::Conn;
use crate::error::Error;
use crate::inner::Inner;
use crate::links::LinkTable;
use crate::outbox::{NotAccepted, OwnedFrame};
use crate::outgoing_message::OutgoingMessage;
use crate::served::StreamHandler;
use crate::stream::Stream;
use crate::trace;

/// The result of sending a message to several peers.
#[derive(Debug, Default)]
pub struct SendReport {
    /// The peers for which the message was queued.
    pub sent: Vec<NodeId>,
    /// The peers for which the message could not be queued, each with the reason.
    pub failed: Vec<(NodeId, Error)>,
}

/// A sender of messages to one peer, over the link that existed when it was created. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    conn: Arc<Conn>,
    inner: Arc<Inner>,
}

impl Sender {
    pub(crate) fn new(conn: Arc<Conn>, inner: Arc<Inner>) -> Self {
        Self { conn, inner }
    }

    /// Returns the peer.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.conn.peer
    }

    /// Sends a message as [`Node::send`] does.
    ///
    /// # Errors
    /// As [`Node::send`], and [`Error::LinkLost`] once this link has ended, even if there is another link
    /// with the peer.
    pub async fn send<'a>(&self, message: impl Into<OutgoingMessage<'a>>) -> Result<(), Error> {
        let message = message.into();
        trace::sent(&self.conn.peer, message.body().len());
        if self.push_at_once(&message) {
            return Ok(());
        }
        self.send_waiting(message).await
    }

    /// Queues a message if it needs no compression and there is room, which is the usual case. Returns
    /// whether the message was queued.
    ///
    /// Not inlined into `send`: there the encoded head would share stack memory with the result. To copy the
    /// result, the processor would have to wait until the head is written, a tenth of the time that a small
    /// message takes.
    #[inline(never)]
    fn push_at_once(&self, message: &OutgoingMessage<'_>) -> bool {
        !message.is_compressed()
            && message.body().len() <= self.inner.config.max_message
            && self.conn.outbox.try_push_ahead(&message.encode(&mut [0; MESSAGE_HEADER_LEN]))
    }

    /// Sends a message that has to be compressed or has to wait for room.
    async fn send_waiting(&self, message: OutgoingMessage<'_>) -> Result<(), Error> {
        let max = self.inner.config.max_message;
        let queued = if message.is_compressed() {
            let packed = compress::pack_async(message.into_message(), max).await?;
            self.conn.check_compression(&packed)?;
            self.conn.outbox.push(&OwnedFrame::message(packed).as_encoded()).await
        } else {
            Error::check_size(message.body(), max)?;
            self.conn.outbox.push(&message.encode(&mut [0; MESSAGE_HEADER_LEN])).await
        };
        queued.map_err(|reason| not_accepted(&self.conn, NotAccepted::Closed(reason)))
    }

    /// Sends a message if there is room in the queue, as [`Node::try_send`] does.
    ///
    /// # Errors
    /// As [`Sender::send`], and [`Error::Full`].
    pub fn try_send<'a>(&self, message: impl Into<OutgoingMessage<'a>>) -> Result<(), Error> {
        try_send(&self.conn, message.into(), self.inner.config.max_message)
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sender({:?})", self.conn.peer)
    }
}

impl Node {
    /// Sends a message to a node of the network: text, JSON or bytes.
    ///
    /// For a connected peer, this waits for room in the peer's queue and returns when the message is queued.
    /// Messages arrive in order. If messages are lost, the event `node_message_failed` reports it.
    ///
    /// A recipient without a link is dialled at the addresses at which this node met it, or else at those
    /// that other nodes know. The new link is closed after a minute without use.
    ///
    /// If the recipient can't be dialled, or this node's links are made [by hand](crate::Builder::manual),
    /// other nodes relay the message, sealed to the recipient's key. A relayed message has at most
    /// [`Config::max_relayed`](crate::Config::max_relayed) bytes, some 64 KiB. It has arrived when this
    /// returns.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), peerkit::Error> {
    /// # let ann = peerkit::Node::builder().name("ann").listen("127.0.0.1:0").spawn().await?;
    /// # let bob = peerkit::Node::builder().name("bob").spawn().await?;
    /// # let peer = bob.connect(ann.listening()[0]).await?;
    /// # let mut events = ann.events();
    /// use peerkit::{Event, Message};
    ///
    /// bob.send(&peer, "hello").await?;
    /// bob.send(ann.id(), Message::json(&["a", "list"])?).await?;
    ///
    /// let mut received = Vec::new();
    /// while received.len() < 2 {
    ///     if let Some(Event::NodeMessage { message, .. }) = events.next().await {
    ///         received.push(message);
    ///     }
    /// }
    /// assert_eq!(received[0].as_text(), Some("hello"));
    /// assert_eq!(received[1].to_json::<Vec<String>>()?, ["a", "list"]);
    /// # ann.shutdown().await; bob.shutdown().await; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::TooLargeToPass`], [`Error::NotFound`] and [`Error::LinkLost`]: the
    /// message was not sent. With [`Error::NotReached`] its reason says whether the message may have arrived.
    pub async fn send<'a>(
        &self,
        peer: impl Into<NodeId>,
        message: impl Into<OutgoingMessage<'a>>,
    ) -> Result<(), Error> {
        let peer = peer.into();
        // If earlier messages to this node still wait for a link, this one queues behind them, even if there
        // is a link by now.
        match self.inner.linked(peer) {
            Some(conn) => Sender::new(conn, self.inner.clone()).send(message).await,
            None => self.inner.send_without_link(peer, message.into().into_message()).await,
        }
    }

    /// Sends a message to a connected peer if its queue has room now, without waiting. A message with
    /// compression is compressed on the calling thread.
    ///
    /// # Errors
    /// [`Error::NotConnected`], [`Error::Full`], and those of [`Node::send`]: the message was not sent.
    pub fn try_send<'a>(
        &self,
        peer: impl Into<NodeId>,
        message: impl Into<OutgoingMessage<'a>>,
    ) -> Result<(), Error> {
        self.sender(peer)?.try_send(message)
    }

    /// Returns a sender of messages to a connected peer. It looks up the peer once, not for each message.
    ///
    /// # Errors
    /// [`Error::NotConnected`].
    pub fn sender(&self, peer: impl Into<NodeId>) -> Result<Sender, Error> {
        Ok(Sender { conn: self.inner.links.get(peer.into())?, inner: self.inner.clone() })
    }

    /// Sends a message to every connected peer except those in `exclude`, without waiting. The report lists
    /// the peers for which it was queued, and those for which it could not be queued.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), peerkit::Error> {
    /// # let ann = peerkit::Node::builder().name("ann").listen("127.0.0.1:0").spawn().await?;
    /// # let bob = peerkit::Node::builder().name("bob").spawn().await?;
    /// # let peer = bob.connect(ann.listening()[0]).await?;
    /// let report = bob.send_to_nodes("hello", &[])?;
    /// assert_eq!((&report.sent[..], report.failed.len()), (&[ann.id()][..], 0));
    /// # ann.shutdown().await; bob.shutdown().await; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::TooLarge`]: the message was sent to no peer.
    pub fn send_to_nodes<'a>(
        &self,
        message: impl Into<OutgoingMessage<'a>>,
        exclude: &[NodeId],
    ) -> Result<SendReport, Error> {
        let mut report = SendReport::default();
        let (links, max) = (&self.inner.links, self.inner.config.max_message);
        send_to_nodes(links, message.into(), exclude, max, |conn, sent| match sent {
            Ok(()) => report.sent.push(conn.peer.id()),
            Err(error) => report.failed.push((conn.peer.id(), error)),
        })?;
        Ok(report)
    }

    /// Sends a message to every node of the network. Each node receives it once, receives each author's
    /// broadcasts in order, and verifies the author's signature.
    ///
    /// The author itself receives no event for its own broadcast. Nodes that join, or were cut off, receive
    /// the broadcasts of the last ten minutes.
    ///
    /// If [`Config::broadcast_rate`](crate::Config::broadcast_rate) is set, this first waits until it allows
    /// the broadcast. Then it waits for up to 5 s while the queue of a link is more than half full.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), peerkit::Error> {
    /// # let ann = peerkit::Node::builder().listen("127.0.0.1:0").spawn().await?;
    /// # let bob = peerkit::Node::builder().spawn().await?;
    /// # bob.connect(ann.listening()[0]).await?;
    /// # let mut events = ann.events();
    /// bob.broadcast("greeting", "hello, everyone").await?;
    ///
    /// while let Some(event) = events.next().await {
    ///     if let peerkit::Event::NodeBroadcast { broadcast } = event {
    ///         assert_eq!((broadcast.author, &*broadcast.title), (bob.id(), "greeting"));
    ///         break;
    ///     }
    /// }
    /// # ann.shutdown().await; bob.shutdown().await; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Broadcast`] if the title (256 bytes) or the message (64 KiB) is over its limit: nothing
    /// was sent.
    pub async fn broadcast(
        &self,
        title: impl Into<String>,
        message: impl Into<Message>,
    ) -> Result<BroadcastReceipt, Error> {
        let (title, message) = (title.into(), message.into());
        self.inner.rates.broadcast(title.len() + message.body().len()).await;
        let patience = self.inner.config.event_patience;
        // A full queue would end the link, so a flood of broadcasts waits for a slow peer.
        let _ = tokio::time::timeout(patience, self.inner.links.wait_while_crowded()).await;
        let publisher = |reply| Operation::Broadcast(Publisher::Caller(reply));
        let broadcast = |operation| Input::Broadcast { operation, title, message };
        self.inner.actor.outcome(publisher, broadcast).await?
    }

    /// Sends a request to a node, and waits for the reply for the configured time (10 s). A node without a
    /// link is dialled. If no dial reaches the node, other nodes relay the request and the reply. Both are
    /// sealed, like relayed messages.
    ///
    /// The node answers with the function that its application gave to [`Node::serve`] under `name`, or else
    /// with its [`Handler::node_request`](crate::Handler::node_request). Dropping the future cancels the
    /// request at the node, unless it was relayed.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), peerkit::Error> {
    /// # let ann = peerkit::Node::builder().name("ann").listen("127.0.0.1:0").spawn().await?;
    /// # let bob = peerkit::Node::builder().name("bob").spawn().await?;
    /// # let peer = bob.connect(ann.listening()[0]).await?;
    /// use peerkit::Message;
    ///
    /// ann.serve("double", async |_, body: Message| {
    ///     let number: u64 = body.to_json()?;
    ///     Message::json(&(number * 2))
    /// });
    /// let reply = bob.request(&peer, "double", Message::json(&21)?).await?;
    /// assert_eq!(reply.to_json::<u64>()?, 42);
    /// # ann.shutdown().await; bob.shutdown().await; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// - [`Error::NotFound`] if no node that answers knows the recipient
    /// - [`Error::Request`] if the recipient has no such handler or is busy, if its handler fails, or if its
    ///   reply has to be relayed and is over [`Config::max_relayed`](crate::Config::max_relayed)
    /// - [`Error::TooLargeToPass`] if the request has to be relayed and is over that limit
    /// - [`Error::NotReached`] if a relayed request was lost
    /// - [`Error::Timeout`] and [`Error::LinkLost`]
    pub async fn request(
        &self,
        peer: impl Into<NodeId>,
        name: &str,
        body: impl Into<Message>,
    ) -> Result<Message, Error> {
        self.request_within(peer, name, body, self.inner.config.request_timeout).await
    }

    /// Sends a request as [`Node::request`] does, and waits for the reply for at most `timeout`.
    ///
    /// # Errors
    /// As [`Node::request`].
    pub async fn request_within(
        &self,
        peer: impl Into<NodeId>,
        name: &str,
        body: impl Into<Message>,
        timeout: Duration,
    ) -> Result<Message, Error> {
        self.inner.request(peer.into(), name, body.into(), timeout).await
    }

    /// Opens a byte stream to a node of the network. The other node serves it with the function that its
    /// application gave to [`Node::serve_stream`] for `protocol`. Each stream is a connection of its own and
    /// needs no link. If this node can't dial the other node, it asks the other node to call back.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let ann = peerkit::Node::builder().listen("127.0.0.1:0").spawn().await?;
    /// # let bob = peerkit::Node::builder().spawn().await?;
    /// # let peer = bob.connect(ann.listening()[0]).await?;
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    ///
    /// ann.serve_stream("greet/1", async |mut stream| {
    ///     let _ = stream.write_all(b"hello").await;
    ///     let _ = stream.shutdown().await;
    /// });
    /// let mut stream = bob.open_stream(&peer, "greet/1").await?;
    /// let mut text = String::new();
    /// stream.read_to_string(&mut text).await?;
    /// assert_eq!(text, "hello");
    /// # ann.shutdown().await; bob.shutdown().await; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unreachable`] if neither node can dial the other, [`Error::StreamRefused`] if the other node
    /// does not serve the protocol or has no room for the stream, [`Error::StreamBroken`],
    /// [`Error::Timeout`], and [`Error::NameTooLong`].
    pub async fn open_stream(
        &self,
        peer: impl Into<NodeId>,
        protocol: &str,
    ) -> Result<Stream, Error> {
        let peer = peer.into();
        let known = self.inner.peers.all().await?;
        let addresses = known.into_iter().find(|(id, _)| *id == peer).map(|(_, k)| k.addresses);
        self.inner.open_stream(peer, &addresses.unwrap_or_default(), protocol).await
    }

    /// Serves streams of `protocol` with `handler` from now on. [`Node::open_stream`] has an example.
    pub fn serve_stream<F, R>(&self, protocol: &str, handler: F)
    where
        F: Fn(Stream) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.inner.served.streams.insert(protocol, StreamHandler::new(handler));
    }
}

/// Queues a message of at most `max` bytes for one peer if there is room. Compresses it on this thread.
pub(crate) fn try_send(conn: &Conn, message: OutgoingMessage<'_>, max: usize) -> Result<(), Error> {
    trace::sent(&conn.peer, message.body().len());
    let queued = if message.is_compressed() {
        let packed = compress::pack(message.into_message(), max)?;
        conn.check_compression(&packed)?;
        conn.outbox.try_push(&OwnedFrame::message(packed).as_encoded())
    } else {
        Error::check_size(message.body(), max)?;
        conn.outbox.try_push(&message.encode(&mut [0; MESSAGE_HEADER_LEN]))
    };
    queued.map_err(|reason| not_accepted(conn, reason))
}

/// Queues a message of at most `max` bytes for every peer except those in `exclude`, if there is room, and
/// calls `sent` with the outcome for each. Compresses the message on this thread.
///
/// # Errors
/// If the message can't be sent to any peer, for example because it is too large.
pub(crate) fn send_to_nodes(
    links: &LinkTable,
    message: OutgoingMessage<'_>,
    exclude: &[NodeId],
    max: usize,
    mut sent: impl FnMut(&Conn, Result<(), Error>),
) -> Result<(), Error> {
    let bytes = message.body().len();
    // Compressed once for all peers. The links' queues share a large body and do not copy it.
    let packed = compress::pack(message.into_message(), max)?;
    let frame = OwnedFrame::message(packed.clone());
    for conn in links.all().iter() {
        if !exclude.contains(&conn.peer.id()) {
            trace::sent(&conn.peer, bytes);
            let queued = conn.check_compression(&packed).and_then(|()| {
                let queued = conn.outbox.try_push(&frame.as_encoded());
                queued.map_err(|reason| not_accepted(conn, reason))
            });
            sent(conn, queued);
        }
    }
    Ok(())
}

/// Returns the error for a message that a link's outgoing queue did not accept.
fn not_accepted(conn: &Conn, reason: NotAccepted) -> Error {
    let peer = conn.peer.id();
    match reason {
        NotAccepted::Full => Error::Full(peer),
        NotAccepted::Closed(reason) => Error::LinkLost { peer, reason },
    }
}
