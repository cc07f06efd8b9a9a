//! The handle that applications hold.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::event::Peer;
use peerkit_proto::handler::World;
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

pub use files::FilesHandle;
pub use messages::{SendReport, Sender};
pub use network::{Broadcasted, Discovery, Size};
pub use places::{IntoAddress, Place};

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

    /// Returns the name of the network that the node belongs to.
    #[must_use]
    pub fn network_name(&self) -> &str {
        &self.inner.network
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

    /// The [bootstrap nodes](Builder::bootstrap), those of the state folder's file included.
    #[must_use]
    pub fn bootstrap_nodes(&self) -> Vec<Address> {
        self.inner.bootstrap.clone()
    }

    /// Returns whether links are [made by hand](Builder::manual) only.
    #[must_use]
    pub fn is_manual(&self) -> bool {
        self.inner.manual
    }

    /// A stream of the events from now on. The first one that is asked for, where the node has no
    /// handler, begins with the node's start.
    #[must_use]
    pub fn events(&self) -> Events {
        self.inner.dispatch.subscribe()
    }

    /// Links to the node at `address`. Where there is a link already it is that one. A text is read as
    /// [`Node::find_addresses`] does, so that it may be a name or an identity.
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

    /// Gives up keeping the link to `address`; the link itself stays.
    pub async fn stop_reconnecting(&self, address: Address) {
        let _ = self.inner.orders.send(Order::StopReconnecting(address)).await;
    }

    /// Closes the link with `peer`, whoever dialled it, once what is queued has gone out. Returns
    /// when that has begun; `*_node_disconnected` tells when it is done.
    ///
    /// # Errors
    /// Where there is no such link.
    pub async fn disconnect(&self, peer: NodeId) -> Result<Peer, Error> {
        self.order(|reply| Order::Disconnect { id: peer, reply: Some(reply) }).await?
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

    /// The connected peer that a person means: by its name, its identity, or the start of it.
    ///
    /// # Errors
    /// Where none or several fit.
    pub fn find_peer(&self, text: &str) -> Result<Peer, Error> {
        meant(&self.peers(), text)
    }

    /// The node that a person means, as one that messages can be sent to: a connected peer, or one
    /// that was met and has no link now, by its name, its identity, or the start of it; or any node,
    /// by its whole identity.
    ///
    /// # Errors
    /// Where none or several fit, this node itself is meant, or the state can't be read.
    pub async fn find_node(&self, text: &str) -> Result<Peer, Error> {
        match self.find_peer(text) {
            Err(Error::UnknownPeer(_)) => {}
            found => return found,
        }
        let known = self.inner.known_peers().await?.into_iter();
        let known: Vec<_> = known.map(|(id, known)| Peer::without_link(id, known.name)).collect();
        match (meant(&known, text), text.parse::<NodeId>()) {
            (Err(Error::UnknownPeer(_)), Ok(id)) if id == self.id() => Err(Error::ThisNode),
            (Err(Error::UnknownPeer(_)), Err(_)) if text == self.name() => Err(Error::ThisNode),
            (Err(Error::UnknownPeer(_)), Ok(id)) => {
                Ok(Peer::without_link(id.checked()?, String::new()))
            }
            (Err(Error::UnknownPeer(text)), Err(_)) => Err(Error::UnknownNode(text)),
            (found, _) => found,
        }
    }

    /// The last round-trip time to a connected peer.
    #[must_use]
    pub fn rtt(&self, peer: NodeId) -> Option<Duration> {
        self.inner.conn(peer).ok()?.rtt()
    }

    /// Returns how long ago the last bytes came from a connected peer. A peer that has nothing to
    /// send sends a sign of life every 15 s.
    #[must_use]
    pub fn idle_time(&self, peer: NodeId) -> Option<Duration> {
        let conn = self.inner.conn(peer).ok()?;
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
    pub async fn ping(&self, node: NodeId) -> Result<Duration, Error> {
        self.inner.ping(node).await
    }

    /// What the application has noted about a connected peer under `key`. Gone with the link.
    #[must_use]
    pub fn info(&self, peer: NodeId, key: &str) -> Option<serde_json::Value> {
        World::info(&*self.inner, peer, key)
    }

    /// Notes something about a connected peer. Returns what was noted before.
    ///
    /// # Errors
    /// Where it is not connected.
    pub fn set_info(
        &self,
        peer: NodeId,
        key: impl Into<String>,
        value: impl Into<serde_json::Value>,
    ) -> Result<Option<serde_json::Value>, Error> {
        self.inner.set_info(peer, key.into(), value.into())
    }

    /// What the node has sent and received, over all links.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.inner.meter.read()
    }

    /// What the link with a connected peer has sent and received.
    #[must_use]
    pub fn peer_counters(&self, peer: NodeId) -> Option<Counters> {
        Some(self.inner.conn(peer).ok()?.meter.read())
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

    /// Stops the node: says goodbye to all peers, gives what is queued a few seconds to go out,
    /// ends every task, and frees the ports and the state folder. Returns when all that is done. May be
    /// called again.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.stopped.cancelled().await;
    }

    /// Stops all nodes of the network, as its owner: the order is signed with the owner's key, passed
    /// on by every node, and obeyed by those that know the owner. Returns once it is on its way; this
    /// node stops too, in the background: see [`Node::stopped`].
    ///
    /// # Errors
    /// Where this node does not have the owner's key.
    pub async fn shutdown_network(&self) -> Result<(), Error> {
        let key = match (self.inner.owner_key.clone(), self.owner()) {
            (Some(key), _) => key,
            (None, Some(owner)) => return Err(Error::NotOwner(owner)),
            (None, None) => return Err(Error::NoOwner),
        };
        self.order(|reply| Order::ShutdownNetwork { key, reply }).await
    }

    /// Who owns the network, as far as this node knows.
    #[must_use]
    pub fn owner(&self) -> Option<NodeId> {
        self.inner.owner()
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

/// Which of `peers` a person means.
fn meant(peers: &[Peer], text: &str) -> Result<Peer, Error> {
    let one = |fits: &dyn Fn(&Peer) -> bool| {
        let mut fitting = peers.iter().filter(|peer| fits(peer));
        match (fitting.next(), fitting.next()) {
            (Some(peer), None) => Ok(peer.clone()),
            (None, _) => Err(Error::UnknownPeer(text.to_owned())),
            (Some(_), Some(_)) => Err(Error::AmbiguousPeer(text.to_owned())),
        }
    };
    // Pasted digits may be in brackets or quotes, as they are printed.
    let digits = text.trim_matches(|c: char| !c.is_alphanumeric()).to_ascii_lowercase();
    match one(&|peer| peer.name() == text) {
        Err(Error::UnknownPeer(_)) if !digits.is_empty() => {
            one(&|peer| peer.id().to_string().starts_with(&digits))
        }
        found => found,
    }
}
