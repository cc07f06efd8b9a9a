//! The network around a node: joining and leaving, discovery, its size and graph, and known peers.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::event::Peer;
use peerkit_proto::frame::query::QueryKind;
use peerkit_proto::id::NodeId;
use peerkit_proto::peer::{Command, Input};
use peerkit_proto::sample::{self, Estimate};
use tokio::task::JoinSet;

use super::Node;
use super::places::{IntoPlaces, Place};
use super::queries::Discovery;
use crate::error::Error;
use crate::network::NetworkGraph;
use crate::profile::Profile;
use crate::store::KnownPeer;

/// Number of connected peers at which a join without addresses ends. 8: if some of these peers stop soon,
/// others are left. If all nodes of a network restart at the same time, they do not make too many dials.
pub(crate) const REJOIN_PEERS: usize = 8;

/// Maximum number of known peers that are dialled at the same time. 16: a file of peers may list thousands,
/// most of them gone.
const MAX_DIALS: usize = 16;

/// The number of nodes in a network, counted or estimated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NetworkSize {
    /// The number of nodes, or the estimate of it.
    pub nodes: u64,
    /// The standard error of an estimate, as a fraction of `nodes`. In two of three cases the true number
    /// differs from `nodes` by less than this.
    pub error: Option<f64>,
    /// True if all nodes were counted. If `exact` is false and `error` is `None`, `nodes` is a lower bound:
    /// some nodes have not answered.
    pub exact: bool,
}

/// The operations on the network as a whole, and on known peers: see [`Node::network`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), peerkit::Error> {
/// # let ann = peerkit::Node::builder().name("ann").listen("127.0.0.1:0").spawn().await?;
/// # let bob = peerkit::Node::builder().name("bob").spawn().await?;
/// # bob.join(ann.listening()[0]).await?;
/// assert_eq!(bob.network().name(), "peerkit");
/// assert_eq!(bob.network().size().await?.nodes, 2);
/// assert_eq!(bob.network().find_peer("ann")?.id(), ann.id());
/// let map = bob.network().graph().await?.to_svg();
/// assert!(map.contains("ann"));
/// # ann.shutdown().await; bob.shutdown().await; Ok(()) }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct NetworkHandle<'a> {
    pub(super) node: &'a Node,
}

impl Node {
    /// Joins a network: this node becomes a member, which finds and keeps its own neighbours.
    ///
    /// `places` names the nodes to join through: an address or anything else that [`Node::connect`] takes,
    /// or a list of addresses. As soon as this node has its first neighbour, this returns the nodes that were
    /// reached by then. The other places are still tried, and events report the results.
    ///
    /// If the list is empty, this node joins through the bootstrap nodes and the peers that it has met
    /// before, as with [`NetworkHandle::rejoin`]. The first node of a network need not join: it becomes a
    /// member when another node joins through it. A node whose links are made
    /// [by hand](crate::Builder::manual) connects to each address and does not become a member.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), peerkit::Error> {
    /// # let ann = peerkit::Node::builder().listen("127.0.0.1:0").spawn().await?;
    /// # let bob = peerkit::Node::builder().listen("127.0.0.1:0").spawn().await?;
    /// # let address = ann.listening()[0].to_string();
    /// let peers = bob.join(&address).await?;
    /// assert_eq!(peers[0].id(), ann.id());
    /// # ann.shutdown().await; bob.shutdown().await; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The first failure if no node was reached. If nodes were reached and none of them found neighbours for
    /// this node, the reason of that.
    pub async fn join(&self, places: impl IntoPlaces) -> Result<Vec<Peer>, Error> {
        self.join_places(&places.into_places()?).await
    }

    async fn join_places(&self, places: &[Place]) -> Result<Vec<Peer>, Error> {
        let mut addresses = Vec::new();
        for place in places {
            match place {
                Place::Address(address) => addresses.push(address.clone()),
                Place::Text(text) => addresses.extend(self.network().find_addresses(text).await?),
            }
        }
        match addresses[..] {
            [] => self.network().rejoin(REJOIN_PEERS).await,
            _ => self.inner.join(addresses).await,
        }
    }

    /// Leaves the network: sends each neighbour the addresses of the others, so that they can link to each
    /// other, and closes all links. Stops reconnecting to all addresses. Returns the peers once their links are
    /// closed, at the latest after [`flush_timeout`](crate::Config::flush_timeout). The node keeps running
    /// alone, and may join again.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn leave(&self) -> Result<Vec<Peer>, Error> {
        self.inner.leave().await
    }

    /// Discovers the nodes of the network. `depth` is the number of links that the query may travel: 1 finds
    /// the neighbours, -1 the whole network, and 0 queries no node. Returns as soon as all nodes have
    /// answered, and at the latest when the query times out.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), peerkit::Error> {
    /// # let ann = peerkit::Node::builder().name("ann").listen("127.0.0.1:0").spawn().await?;
    /// # let bob = peerkit::Node::builder().name("bob").spawn().await?;
    /// # bob.connect(ann.listening()[0]).await?;
    /// let found = bob.discover(-1).await?;
    /// let names: Vec<_> = found.nodes.iter().map(|node| &*node.name).collect();
    /// assert_eq!(names, ["bob", "ann"]);
    /// # ann.shutdown().await; bob.shutdown().await; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn discover(&self, depth: i32) -> Result<Discovery, Error> {
        self.inner.discover(depth).await
    }

    /// Returns the operations on the network as a whole, and on known peers.
    #[must_use]
    pub fn network(&self) -> NetworkHandle<'_> {
        NetworkHandle { node: self }
    }
}

impl<'a> NetworkHandle<'a> {
    /// Returns the network's name.
    #[must_use]
    pub fn name(self) -> &'a str {
        let Profile { network, .. } = &self.node.inner.profile;
        network
    }

    /// Returns whether links are [made by hand](crate::Builder::manual) only.
    #[must_use]
    pub fn is_manual(self) -> bool {
        self.node.inner.profile.manual
    }

    /// Returns the [bootstrap nodes](crate::Builder::bootstrap), including those of the file in the state
    /// folder.
    #[must_use]
    pub fn bootstrap_nodes(self) -> Vec<Address> {
        self.node.inner.peers.bootstrap.clone()
    }

    /// Discovers the whole network as a graph that can be measured and drawn.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn graph(self) -> Result<NetworkGraph, Error> {
        Ok(NetworkGraph::new(&self.node.inner.profile.network, &self.node.discover(-1).await?))
    }

    /// Returns how many nodes the network has: counted up to about 10,000, estimated beyond.
    ///
    /// # Errors
    /// [`Error::Stopped`], and [`Error::NoRandomNumbers`].
    pub async fn size(self) -> Result<NetworkSize, Error> {
        let count = self.sample(sample::SAMPLE_BITS).await?;
        // A small sample gives a poor estimate, and the network is then small enough to be counted.
        if count < sample::MIN_SAMPLE {
            let Discovery { nodes, complete, .. } = self.node.discover(-1).await?;
            return Ok(NetworkSize { nodes: nodes.len() as u64, error: None, exact: complete });
        }
        let Estimate { nodes, error } = sample::estimate(count, sample::SAMPLE_BITS);
        Ok(NetworkSize { nodes, error: Some(error), exact: false })
    }

    /// Draws a sample of the network, and returns how many nodes are in it. On average, one node in 2^`bits` is.
    async fn sample(self, bits: u8) -> Result<u64, Error> {
        let mut salt = [0; 8];
        // The salt decides which nodes are in the sample. No node can choose its identity so that it is in
        // every sample.
        getrandom::fill(&mut salt)?;
        let mut query =
            self.node.inner.send_query(QueryKind::Sample { salt, bits }, -1, None).await?;
        let mut found = BTreeSet::from([self.node.id()]);
        while let Some(answer) = query.answers.recv().await {
            found.insert(answer.node);
        }
        // Each node is checked, because a node that is not in the sample may answer nevertheless.
        let found = found.into_iter().filter(|id| sample::contains(&salt, bits, *id));
        Ok(found.count() as u64)
    }

    /// Joins as [`Node::join`] does, and tries again until the join succeeds. So nodes that are started
    /// together can come up in any order. `failed` is called with every failure and the wait before the next
    /// try, which grows from `reconnect_min` to `reconnect_max`. Dropping the future ends the attempts.
    ///
    /// # Errors
    /// If another try would not help: [`Error::LinksByHand`], [`Error::NoBootstrap`],
    /// [`Error::OnlyThisNode`] and [`Error::Stopped`].
    pub async fn join_with_retries(
        self,
        places: impl IntoPlaces,
        mut failed: impl FnMut(&Error, Duration),
    ) -> Result<Vec<Peer>, Error> {
        let places = places.into_places()?;
        let mut wait = self.node.inner.config.reconnect_min;
        loop {
            let error = match self.node.join_places(&places).await {
                Err(
                    // No wait would change these.
                    error @ (Error::Stopped
                    | Error::LinksByHand(_)
                    | Error::NoBootstrap
                    | Error::OnlyThisNode),
                ) => return Err(error),
                Err(error) => error,
                joined => return joined,
            };
            failed(&error, wait);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.node.inner.tasks.stop.cancelled() => return Err(Error::Stopped),
            }
            wait = wait.saturating_mul(2).min(self.node.inner.config.reconnect_max);
        }
    }

    /// Joins through the [bootstrap nodes](crate::Builder::bootstrap) and the known peers, until `enough` of
    /// them are connected. Dials several at the same time, and the most recently seen peers first. Does not
    /// dial nodes that were [disconnected](Node::disconnect) less than ten minutes ago.
    ///
    /// # Errors
    /// - [`Error::NoBootstrap`] if there is no bootstrap node and no known peer
    /// - [`Error::AllDisconnected`] if all of them were disconnected less than ten minutes ago
    /// - [`Error::OnlyThisNode`] if all of them are this node itself
    /// - [`Error::NoneReached`] if none has answered
    /// - a store error if the state can't be read
    pub async fn rejoin(self, enough: usize) -> Result<Vec<Peer>, Error> {
        self.node.inner.rejoin(enough).await
    }

    /// Stops reconnecting to `address`. An existing link stays.
    pub async fn stop_reconnecting(self, address: Address) {
        let command = Command::StopReconnecting(address);
        self.node.inner.actor.input(Input::Command(command)).await;
    }

    /// Returns the known peers, the most recently seen first: those that this node has met in this run and,
    /// with a state folder, in earlier runs.
    ///
    /// # Errors
    /// A store error if the state can't be read.
    pub async fn known_peers(self) -> Result<Vec<(NodeId, KnownPeer)>, Error> {
        self.node.inner.peers.all().await
    }

    /// Writes the known peers to a file, as JSON. Returns their number.
    ///
    /// # Errors
    /// [`Error::PeersFile`] if the file can't be written.
    pub async fn save_peers(self, path: impl AsRef<Path>) -> Result<usize, Error> {
        self.node.inner.peers.write_file(path.as_ref()).await
    }

    /// Reads a file that [`save_peers`](Self::save_peers) has written, adds its peers to the known ones, and
    /// returns them. Makes no links: [`connect_to_known`](Self::connect_to_known) does.
    ///
    /// # Errors
    /// [`Error::PeersFile`] if the file can't be read or has another form. No peer is added then.
    pub async fn load_peers(
        self,
        path: impl AsRef<Path>,
    ) -> Result<Vec<(NodeId, KnownPeer)>, Error> {
        self.node.inner.peers.read_file(path.as_ref()).await
    }

    /// Connects to known peers, such as those that [`load_peers`](Self::load_peers) and
    /// [`known_peers`](Self::known_peers) return. Dials sixteen peers at the same time, each at the first of
    /// its addresses that answers. Skips peers that are already connected. Returns the peers that were
    /// reached. The event `outbound_node_connection_error` reports the others.
    pub async fn connect_to_known(self, known: &[(NodeId, KnownPeer)]) -> Vec<Peer> {
        let is_linked = |id: &NodeId| *id == self.node.id() || self.node.peer(*id).is_some();
        let mut dials = JoinSet::new();
        let mut reached = Vec::new();
        for (id, known) in known.iter().filter(|(id, _)| !is_linked(id)) {
            // A new dial starts when one of the earlier dials has ended.
            if dials.len() >= MAX_DIALS {
                reached.extend(dials.join_next().await.and_then(Result::ok).flatten());
            }
            let (node, id, addresses) = (self.node.clone(), *id, known.addresses.clone());
            dials.spawn(async move {
                for address in addresses {
                    if let Ok(peer) = node.connect(address.with_id(id)).await {
                        return Some(peer);
                    }
                }
                None
            });
        }
        reached.extend(dials.join_all().await.into_iter().flatten());
        reached
    }

    /// Shuts the whole network down, as its owner. The order is signed with the owner's key. Every node
    /// passes it on, and those that know the owner obey it. Returns once the order is sent. This node stops
    /// too, in the background: see [`Node::stopped`].
    ///
    /// # Errors
    /// [`Error::NotOwner`] if this node does not have the owner's key, [`Error::NoOwner`] if it knows of
    /// no owner.
    pub async fn shutdown(self) -> Result<(), Error> {
        let key = match (self.node.inner.profile.owner_key.clone(), self.owner()) {
            (Some(key), _) => key,
            (None, Some(owner)) => return Err(Error::NotOwner(owner)),
            (None, None) => return Err(Error::NoOwner),
        };
        self.node.inner.actor.call(|actor| actor.command(Command::Shutdown(key))).await
    }

    /// Returns the owner of the network, as far as this node knows.
    #[must_use]
    pub fn owner(self) -> Option<NodeId> {
        self.node.inner.profile.owner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sample_has_the_expected_part_of_the_nodes() {
        let mut nodes: Vec<Node> = Vec::new();
        for _ in 0..24 {
            let node = Node::builder().listen("127.0.0.1:0").spawn().await.unwrap();
            if let Some(last) = nodes.last() {
                node.connect(last.listening()[0]).await.unwrap();
            }
            nodes.push(node);
        }
        let counted = NetworkSize { nodes: 24, error: None, exact: true };
        assert_eq!(nodes[11].network().size().await.unwrap(), counted);
        assert_eq!(nodes[11].network().sample(0).await.unwrap(), 24);
        assert_eq!(nodes[11].network().sample(255).await.unwrap(), 0);
        // A sample has twelve nodes on average. The chance that the sum of ten samples is out of this range
        // is below one in a million.
        let mut sum = 0;
        for _ in 0..10 {
            sum += nodes[11].network().sample(1).await.unwrap();
        }
        assert!((80..=160).contains(&sum), "{sum} of 240");
        for node in nodes {
            node.shutdown().await;
        }
    }
}
