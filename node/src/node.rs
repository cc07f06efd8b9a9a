//! The handle that applications hold.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::event::Peer;
use peerkit_proto::handler::{Context, Handler, World};
use peerkit_proto::id::NodeId;
use peerkit_proto::message::Message;
use tokio::sync::oneshot;
use tokio_util::sync::DropGuard;

use crate::builder::Builder;
use crate::counters::Counters;
use crate::error::Error;
use crate::events::Events;
use crate::inner::Inner;
use crate::order::Order;
use crate::rate::RateLimits;
use crate::served::ServedRequest;
use crate::status::Status;

mod files;
mod messages;
mod network;
pub(crate) use network::REJOIN;
mod places;
mod queries;

pub use files::FilesHandle;
pub use messages::{SendReport, Sender};
pub use network::{NetworkHandle, Size};
pub use places::{IntoAddress, IntoPlaces, Place};
pub use queries::Discovery;

/// A node. Clone the handle freely: all clones are the same node.
///
/// [`Node::shutdown`] stops it, and so does dropping the last handle, in the background.
#[derive(Clone)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
    _last: Arc<DropGuard>,
}

/// How to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// Keep the link: when it is lost, dial again after growing waits, until `disconnect`.
    pub reconnect: bool,
}

impl ConnectOptions {
    /// Keeps the link: when it is lost it is dialled again.
    #[must_use]
    pub fn reconnect() -> Self {
        Self { reconnect: true }
    }
}

impl Node {
    /// What the node is to be; [`Builder::spawn`] starts it.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        let last = Arc::new(inner.stop.clone().drop_guard());
        Self { inner, _last: last }
    }

    /// The node's identity.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// What the node calls itself.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The sockets that it listens on, with the ports that were picked.
    #[must_use]
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.inner.listening.clone()
    }

    /// Where others can dial it, as far as it knows; the best first.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.inner.addresses(None)
    }

    /// A stream of the events from now on. The first one that is asked for, where the node has no
    /// handler, begins with the node's start.
    #[must_use]
    pub fn events(&self) -> Events {
        self.inner.dispatch.subscribe()
    }

    /// Links to the node at `address`. Where there is a link already it is that one. A text is read as
    /// [`NetworkHandle::find_addresses`] does, so that it may be a name or an identity.
    ///
    /// # Errors
    /// If no node, another one, or one that refuses is there; or this node is stopping.
    pub async fn connect<A>(&self, address: A) -> Result<Peer, Error>
    where
        A: IntoAddress,
    {
        self.connect_with(address, ConnectOptions::default()).await
    }

    /// Links to the node at `address`, in a way that `options` say.
    ///
    /// # Errors
    /// As [`Node::connect`]. With `reconnect` it is tried again all the same.
    pub async fn connect_with<A>(&self, address: A, options: ConnectOptions) -> Result<Peer, Error>
    where
        A: IntoAddress,
    {
        self.dial(address.into_place()?, options).await
    }

    /// Closes the link with `peer`, whoever dialled it, once what is queued has gone out. Returns
    /// when that has begun; `*_node_disconnected` tells when it is done.
    ///
    /// # Errors
    /// Where there is no such link.
    pub async fn disconnect(&self, peer: impl Into<NodeId>) -> Result<Peer, Error> {
        let id = peer.into();
        self.order(|reply| Order::Disconnect { id, reply: Some(reply) }).await?
    }

    /// The connected peers, in the order of their links.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        self.inner.all_conns().iter().map(|conn| conn.peer.clone()).collect()
    }

    /// The connected peer with this identity.
    #[must_use]
    pub fn peer(&self, id: NodeId) -> Option<Peer> {
        self.inner.conn(id).ok().map(|conn| conn.peer.clone())
    }

    /// The last round-trip time to a connected peer.
    #[must_use]
    pub fn rtt(&self, peer: impl Into<NodeId>) -> Option<Duration> {
        self.inner.conn(peer.into()).ok()?.rtt()
    }

    /// Returns how long ago the last bytes came from a connected peer. A peer that has nothing to
    /// send sends a sign of life every 15 s.
    #[must_use]
    pub fn idle_time(&self, peer: impl Into<NodeId>) -> Option<Duration> {
        let conn = self.inner.conn(peer.into()).ok()?;
        Some(self.inner.now().since(conn.last_read()))
    }

    /// Measures the round-trip time to a node of the network now.
    ///
    /// A connected peer is pinged over its link. A node without a link is dialled as [`Node::send`]
    /// dials it, and pinged over the link that comes of it. If it can't be dialled, other nodes pass
    /// the ping on, sealed to its key, and no application sees it. Only the node itself can answer.
    ///
    /// # Errors
    /// Where no node of the network knows it, or it does not answer within the configured time.
    /// [`Error::ThisNode`] if it is this one.
    pub async fn ping(&self, node: impl Into<NodeId>) -> Result<Duration, Error> {
        self.inner.ping(node.into()).await
    }

    /// What the application has noted about a connected peer under `key`. Gone with the link.
    #[must_use]
    pub fn info(&self, peer: impl Into<NodeId>, key: &str) -> Option<serde_json::Value> {
        World::info(&*self.inner, peer.into(), key)
    }

    /// Notes something about a connected peer. Returns what was noted before.
    ///
    /// # Errors
    /// Where it is not connected.
    pub fn set_info(
        &self,
        peer: impl Into<NodeId>,
        key: impl Into<String>,
        value: impl Into<serde_json::Value>,
    ) -> Result<Option<serde_json::Value>, Error> {
        self.inner.set_info(peer.into(), key.into(), value.into())
    }

    /// What the node has sent and received, over all links.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.inner.meter.read()
    }

    /// What the link with a connected peer has sent and received.
    #[must_use]
    pub fn peer_counters(&self, peer: impl Into<NodeId>) -> Option<Counters> {
        Some(self.inner.conn(peer.into()).ok()?.meter.read())
    }

    /// Returns the limits of what may go out and come in a second.
    #[must_use]
    pub fn rates(&self) -> RateLimits {
        self.inner.rates.limits()
    }

    /// Sets other limits from now on, also for transfers that are under way.
    pub fn set_rates(&self, limits: RateLimits) {
        self.inner.rates.set(limits);
    }

    /// How the node is now.
    pub async fn status(&self) -> Status {
        // A node that has stopped has no place in a network any more.
        let standing = self.order(Order::Standing).await.unwrap_or_default();
        self.inner.status(standing)
    }

    /// Answers requests named `name` with `handler` from now on. What it returns as an error is
    /// told to the one who asked; a panic is too.
    ///
    /// A handler that holds this node's own handle keeps the node alive: such a node stops by
    /// [`Node::shutdown`] only, and not when the other handles are dropped.
    pub fn serve<F, A, E>(&self, name: &str, handler: F)
    where
        F: Fn(Peer, Message) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Message, E>> + Send + 'static,
        E: std::fmt::Display,
    {
        self.inner.requests.insert(name, ServedRequest::new(handler));
    }

    /// Acts as the node's handler: calls `act` with it and a context, in turn with its events. Actions are
    /// carried out as those of the handler's own methods. The simulator's counterpart is
    /// [`Sim::with`](crate::sim::Sim::with).
    ///
    /// `act` runs on the task that awaits this, while events wait: like a handler it should not block, and
    /// a handler can't wait for this itself. A panic in it is the caller's.
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
    /// [`Error::Stopped`] if it has stopped. `act` was not called then.
    pub async fn with<H: Handler + 'static, R>(
        &self,
        act: impl FnOnce(&mut H, &mut Context<'_>) -> R,
    ) -> Result<R, Error> {
        self.inner.dispatch.with(&*self.inner, act).await
    }

    /// Stops the node: says goodbye to all peers, gives what is queued a few seconds to go out,
    /// ends every task, and frees the ports and the state folder. Returns when all that is done. May be
    /// called again.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.stopped.cancelled().await;
    }

    /// Waits until the node has stopped, for whatever reason.
    pub async fn stopped(&self) {
        self.inner.stopped.cancelled().await;
    }

    async fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.inner.orders.send(order(reply)).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({} {})", self.inner.name, self.inner.id.short())
    }
}
