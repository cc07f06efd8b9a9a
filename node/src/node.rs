//! The handle with which an application uses a node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::event::Peer;
use peerkit_proto::handler::{Context, Handler, HandlerHost};
use peerkit_proto::id::NodeId;
use peerkit_proto::message::Message;
use peerkit_proto::peer::Command;
use tokio_util::sync::DropGuard;

use crate::counters::Counters;
use crate::error::Error;
use crate::events::Events;
use crate::inner::Inner;
use crate::lock::lock;
use crate::rate::RateLimits;
use crate::served::RequestHandler;
use crate::status::Status;

mod files;
mod members;
mod messages;
mod network;
pub(crate) use network::REJOIN_PEERS;
mod places;
mod queries;

pub use files::FilesHandle;
pub use members::Member;
pub use messages::{SendReport, Sender};
pub(crate) use messages::{send_to_nodes, try_send};
pub use network::{NetworkHandle, NetworkSize};
pub use places::{IntoAddress, IntoPlaces, Place};
pub use queries::Discovery;
pub(crate) use queries::RunningQuery;

/// A handle to a node, which is cheap to clone. All clones are handles to the same node.
///
/// [`Node::builder`] starts a node. [`Node::shutdown`] stops it. When the last handle is dropped, the node
/// stops in the background.
///
/// [`Node::files`] has the operations on files, and [`Node::network`] has those on the network as a whole.
#[derive(Clone)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
    /// Stops the node when the last handle is dropped.
    _stop_guard: Arc<DropGuard>,
}

/// Options of [`Node::connect_with`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// True to keep the link: whenever it is lost, the node dials the peer again, until
    /// [`Node::disconnect`] is called. The wait between two dials grows.
    pub reconnect: bool,
}

impl ConnectOptions {
    /// Returns options that keep the link.
    #[must_use]
    pub fn reconnect() -> Self {
        Self { reconnect: true }
    }
}

impl Node {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        let stop_guard = Arc::new(inner.tasks.stop.clone().drop_guard());
        Self { inner, _stop_guard: stop_guard }
    }

    /// Returns the node's identity.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.inner.profile.id
    }

    /// Returns the node's name, which peers see.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.profile.name
    }

    /// Returns the socket addresses that the node listens on. In place of port 0 they have the port that the
    /// system has picked.
    #[must_use]
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.inner.addresses.listening.clone()
    }

    /// Returns the addresses at which other nodes can dial this one, as far as this node knows, best first.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.inner.addresses.announced(None)
    }

    /// Returns a stream of the events from now on. If the node has no handler, the first stream also has the
    /// events since the node's start.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), peerkit::Error> {
    /// # let ann = peerkit::Node::builder().name("ann").listen("127.0.0.1:0").spawn().await?;
    /// # let bob = peerkit::Node::builder().name("bob").spawn().await?;
    /// use peerkit::Event;
    ///
    /// let mut events = ann.events();
    /// bob.connect(ann.listening()[0]).await?;
    /// while let Some(event) = events.next().await {
    ///     if let Event::InboundNodeConnected { peer } = event {
    ///         assert_eq!(peer.name(), "bob");
    ///         break;
    ///     }
    /// }
    /// # ann.shutdown().await; bob.shutdown().await; Ok(()) }
    /// ```
    #[must_use]
    pub fn events(&self) -> Events {
        self.inner.dispatch.subscribe()
    }

    /// Connects to the node at `address`, and returns the peer. If this node already has a link with that
    /// node, returns the peer of that link.
    ///
    /// A text is read as [`NetworkHandle::find_addresses`] reads it, so it may also be the name or identity
    /// of a known node. Connecting makes one link and nothing else. [`Node::join`] makes this node a member
    /// of the network.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), peerkit::Error> {
    /// # let ann = peerkit::Node::builder().name("ann").listen("127.0.0.1:0").spawn().await?;
    /// # let bob = peerkit::Node::builder().name("bob").spawn().await?;
    /// let address = ann.listening()[0].to_string();
    /// let peer = bob.connect(&address).await?;
    /// assert_eq!((peer.id(), peer.name()), (ann.id(), "ann"));
    /// # ann.shutdown().await; bob.shutdown().await; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Resolve`], [`Error::Connect`] and [`Error::Handshake`] if no node answers at the address,
    /// [`Error::WrongNode`] if another node than the expected one answers, [`Error::Refused`] if one of the
    /// two nodes refuses the link, and [`Error::Stopped`].
    pub async fn connect<A>(&self, address: A) -> Result<Peer, Error>
    where
        A: IntoAddress,
    {
        self.connect_with(address, ConnectOptions::default()).await
    }

    /// Connects as [`Node::connect`] does, with options.
    ///
    /// # Errors
    /// As [`Node::connect`]. With [`reconnect`](ConnectOptions::reconnect) the node continues to dial after
    /// an error.
    pub async fn connect_with<A>(&self, address: A, options: ConnectOptions) -> Result<Peer, Error>
    where
        A: IntoAddress,
    {
        self.dial(address.into_place()?, options).await
    }

    /// Closes the link with a peer, inbound or outbound, once all queued messages are sent. Does not wait for
    /// that. The event `outbound_node_disconnected` or `inbound_node_disconnected` follows when the link is
    /// closed.
    ///
    /// # Errors
    /// [`Error::NotConnected`] if there is no link with that node, and [`Error::Stopped`].
    pub async fn disconnect(&self, peer: impl Into<NodeId>) -> Result<Peer, Error> {
        let id = peer.into();
        self.inner.actor.call(move |actor| actor.disconnect(id)).await?
    }

    /// Returns the connected peers, in the order in which their links were made.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        self.inner.links.all().iter().map(|conn| conn.peer.clone()).collect()
    }

    /// Returns the connected peer with this identity.
    #[must_use]
    pub fn peer(&self, id: NodeId) -> Option<Peer> {
        self.inner.links.get(id).ok().map(|conn| conn.peer.clone())
    }

    /// Returns the last round-trip time to a connected peer, or `None` if it has not been measured yet.
    #[must_use]
    pub fn rtt(&self, peer: impl Into<NodeId>) -> Option<Duration> {
        self.inner.links.get(peer.into()).ok()?.rtt()
    }

    /// Returns the time since the last bytes arrived from a connected peer. A peer that has nothing else to
    /// send still answers a ping every 15 s.
    #[must_use]
    pub fn idle_time(&self, peer: impl Into<NodeId>) -> Option<Duration> {
        let conn = self.inner.links.get(peer.into()).ok()?;
        Some(self.inner.clock.now().since(conn.last_read()))
    }

    /// Measures the round-trip time to a node of the network.
    ///
    /// A connected peer is pinged over its link. A node without a link is dialled first, as [`Node::send`]
    /// dials it. If it can't be dialled, other nodes relay the ping, sealed to the node's key. Only the
    /// pinged node can answer, and no application sees the ping.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), peerkit::Error> {
    /// # let ann = peerkit::Node::builder().name("ann").listen("127.0.0.1:0").spawn().await?;
    /// # let bob = peerkit::Node::builder().name("bob").spawn().await?;
    /// # let peer = bob.connect(ann.listening()[0]).await?;
    /// let time = bob.ping(&peer).await?;
    /// println!("{} answers in {time:?}", peer.name());
    /// # ann.shutdown().await; bob.shutdown().await; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`] if no node of the network knows the pinged node, [`Error::Timeout`] if the pinged
    /// node does not answer within the configured time, and [`Error::ThisNode`] if it is this node itself.
    pub async fn ping(&self, node: impl Into<NodeId>) -> Result<Duration, Error> {
        self.inner.ping(node.into()).await
    }

    /// Returns the application's note about a connected peer under `key`. All notes about a peer are dropped
    /// when its link ends.
    #[must_use]
    pub fn info(&self, peer: impl Into<NodeId>, key: &str) -> Option<serde_json::Value> {
        HandlerHost::info(&*self.inner, peer.into(), key)
    }

    /// Adds a note about a connected peer under `key`. Returns the note that it replaces.
    ///
    /// # Errors
    /// [`Error::NotConnected`].
    pub fn set_info(
        &self,
        peer: impl Into<NodeId>,
        key: impl Into<String>,
        value: impl Into<serde_json::Value>,
    ) -> Result<Option<serde_json::Value>, Error> {
        let conn = self.inner.links.get(peer.into())?;
        let before = lock(&conn.info).insert(key.into(), value.into());
        Ok(before)
    }

    /// Returns the numbers of messages and bytes that the node has sent and received over all links.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.inner.meter.read()
    }

    /// Returns the numbers of messages and bytes that were sent and received over the link with a connected
    /// peer.
    #[must_use]
    pub fn peer_counters(&self, peer: impl Into<NodeId>) -> Option<Counters> {
        Some(self.inner.links.get(peer.into()).ok()?.meter.read())
    }

    /// Returns the limits on what the node sends and receives in a second.
    #[must_use]
    pub fn rates(&self) -> RateLimits {
        self.inner.rates.limits()
    }

    /// Sets the limits on what the node sends and receives in a second. They also apply to transfers that
    /// are under way.
    pub fn set_rates(&self, limits: RateLimits) {
        self.inner.rates.set(limits);
    }

    /// Returns the maximum number of inbound links.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn max_inbound(&self) -> Result<usize, Error> {
        self.inner.actor.call(|actor| actor.overlay().max_inbound()).await
    }

    /// Sets the maximum number of inbound links: see
    /// [`Builder::max_inbound`](crate::Builder::max_inbound). If there are more links
    /// already, all of them stay, and new ones are refused.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn set_max_inbound(&self, links: usize) -> Result<(), Error> {
        self.inner.actor.call(move |actor| actor.command(Command::MaxInbound(links))).await
    }

    /// Returns the state of the node: its links, its neighbours in the network, and its counters.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), peerkit::Error> {
    /// # let ann = peerkit::Node::builder().name("ann").listen("127.0.0.1:0").spawn().await?;
    /// # let bob = peerkit::Node::builder().name("bob").spawn().await?;
    /// # let peer = bob.connect(ann.listening()[0]).await?;
    /// let status = bob.status().await;
    /// assert_eq!(status.peers.len(), 1);
    /// # ann.shutdown().await; bob.shutdown().await; Ok(()) }
    /// ```
    pub async fn status(&self) -> Status {
        // Without an answer the node has stopped, and is no longer part of a network.
        let overlay = self.inner.actor.call(|actor| actor.overlay_status()).await;
        self.inner.status(overlay.unwrap_or_default())
    }

    /// Answers requests named `name` with `handler` from now on. Such requests no longer reach
    /// [`Handler::node_request`]. If `handler` returns an error or panics, the requester receives the text of
    /// the error or panic.
    ///
    /// If `handler` owns a handle to this node, the node does not stop when all other handles are dropped.
    /// It then has to be stopped with [`Node::shutdown`].
    ///
    /// [`Node::request`] has an example.
    pub fn serve<F, A, E>(&self, name: &str, handler: F)
    where
        F: Fn(Peer, Message) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Message, E>> + Send + 'static,
        E: std::fmt::Display,
    {
        self.inner.served.requests.insert(name, RequestHandler::new(handler));
    }

    /// Calls `act` with the node's handler and a context, between two events. Actions that `act` requests
    /// through the context are carried out like those of the handler's own methods. In a simulation,
    /// [`Sim::with`](crate::sim::Sim::with) does the same.
    ///
    /// `act` runs in the task that awaits the returned future, and events wait until `act` returns. So `act`
    /// should not block, and a handler must not wait for this future. A panic in `act` unwinds into the
    /// caller.
    ///
    /// ```
    /// use peerkit::{Broadcast, Context, Handler, Node};
    ///
    /// #[derive(Default)]
    /// struct Diary(Vec<String>);
    ///
    /// impl Handler for Diary {
    ///     fn node_broadcast(&mut self, _: &mut Context<'_>, broadcast: Broadcast) {
    ///         self.0.push(broadcast.title);
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), peerkit::Error> {
    /// let node = Node::builder().handler(Diary::default()).spawn().await?;
    /// let pages = node
    ///     .with(|diary: &mut Diary, cx| {
    ///         cx.broadcast("a fine day", "");
    ///         diary.0.len()
    ///     })
    ///     .await?;
    /// assert_eq!(pages, 0);
    /// # node.shutdown().await; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::NoHandler`] or [`Error::OtherHandler`] if the node has no handler of this type, and
    /// [`Error::Stopped`] if the node has stopped. After an error `act` was not called.
    pub async fn with<H: Handler + 'static, R>(
        &self,
        act: impl FnOnce(&mut H, &mut Context<'_>) -> R,
    ) -> Result<R, Error> {
        self.inner.dispatch.with(&*self.inner, act).await
    }

    /// Stops the node, and returns once it has stopped. The node says goodbye to all peers, sends queued
    /// messages for up to five seconds, ends every task, and frees its ports and its state folder. Calling
    /// this again is harmless.
    pub async fn shutdown(&self) {
        self.inner.tasks.stop.cancel();
        self.inner.tasks.stopped.cancelled().await;
    }

    /// Returns whether the node is stopping or has stopped.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.inner.tasks.stop.is_cancelled()
    }

    /// Waits until the node has stopped, for whatever reason.
    pub async fn stopped(&self) {
        self.inner.tasks.stopped.cancelled().await;
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({} {})", self.inner.profile.name, self.inner.profile.id.short())
    }
}
