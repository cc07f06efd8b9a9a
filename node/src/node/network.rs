//! The network around the node: joining, discovery, broadcast, known peers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::event::NodeInfo;
use peerkit_proto::event::{Event, Peer};
use peerkit_proto::frame::query::{Answer, AnswerBody, What};
use peerkit_proto::id::{Hash, NodeId};
use peerkit_proto::message::Message;
use peerkit_proto::sample::{self, Estimate};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::Node;
use crate::error::Error;
use crate::inner::Inner;
use crate::network::Network;
use crate::order::{ANSWERS, Asked, Order};
use crate::store::KnownPeer;

/// Peers from before that are met again where it is not said how many. 8: enough that some are up,
/// few enough not to be a burden on a network where all restart at once.
pub(crate) const REJOIN: usize = 8;

/// Nodes dialled at once when many are to be connected. 16: a file of known peers may name
/// thousands, and most of them may be gone.
const DIALS: usize = 16;

/// A broadcast that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broadcasted {
    /// Names it.
    pub id: Hash,
    /// When it was made, by the clock of this node, in milliseconds since 1970.
    pub time: u64,
    /// How many links took it.
    pub links: usize,
}

/// What a discovery has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// The nodes within the depth, this one first.
    pub nodes: Vec<NodeInfo>,
    /// Whether all of them have answered.
    pub complete: bool,
    /// How long it took.
    pub elapsed: Duration,
}

impl Discovery {
    /// Returns the name that a node gave itself, if it answered.
    #[must_use]
    pub fn name_of(&self, id: NodeId) -> Option<&str> {
        let node = self.nodes.iter().find(|node| node.id == id)?;
        Some(&node.name)
    }

    /// The links between the nodes, each once, from the one that dialled to the one that was
    /// dialled; also those to nodes beyond the depth.
    #[must_use]
    pub fn links(&self) -> Vec<(NodeId, NodeId)> {
        let mut links: Vec<_> = self
            .nodes
            .iter()
            .flat_map(|node| {
                let outbound = node.outbound.iter().map(|to| (node.id, to.id));
                outbound.chain(node.inbound.iter().map(|from| (from.id, node.id)))
            })
            .collect();
        links.sort_unstable();
        links.dedup();
        links
    }
}

/// How many nodes a network has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    /// The number, or what it most likely is.
    pub nodes: u64,
    /// Of an estimate the standard error, as a share of the number: two times in three the true one
    /// is within.
    pub error: Option<f64>,
    /// Whether all nodes were counted, and have answered. Where neither this is so nor there is an
    /// error, there are at least so many.
    pub exact: bool,
}

/// A query under way.
pub(crate) struct Asking {
    pub(crate) answers: mpsc::Receiver<Answer>,
    pub(crate) ended: oneshot::Receiver<bool>,
}

impl Inner {
    /// Asks the network.
    pub(crate) async fn ask(
        &self,
        what: What,
        depth: i32,
        timeout: Option<Duration>,
    ) -> Result<Asking, Error> {
        let (answers, receiver) = mpsc::channel(ANSWERS);
        let (ended, end) = oneshot::channel();
        let asked = Asked { answers, ended, lost: false };
        let order = Order::Ask { what, depth, own: false, timeout, asked };
        self.orders.send(order).await.map_err(|_| Error::Stopped)?;
        Ok(Asking { answers: receiver, ended: end })
    }

    /// Finds the nodes within a depth: see [`Node::discover`].
    pub(crate) async fn discover(&self, depth: i32) -> Result<Discovery, Error> {
        let started = std::time::Instant::now();
        let me = self.info().await?;
        let mut asking = self.ask(What::Discover, depth, None).await?;
        let mut nodes: BTreeMap<NodeId, NodeInfo> = BTreeMap::new();
        while let Some(answer) = asking.answers.recv().await {
            let AnswerBody::Neighbours(outbound, inbound) = answer.body else { continue };
            let info = NodeInfo {
                id: answer.node,
                name: answer.name,
                addresses: answer.addresses,
                outbound,
                inbound,
            };
            match nodes.get_mut(&info.id) {
                // A node of many links answers in parts.
                Some(known) => {
                    known.outbound.extend(info.outbound);
                    known.inbound.extend(info.inbound);
                }
                None => drop(nodes.insert(info.id, info)),
            }
        }
        let complete = asking.ended.await.unwrap_or(false);
        nodes.remove(&me.id);
        for node in nodes.values() {
            self.dispatch.notice(Event::NodeDiscovered { node: node.clone() });
        }
        let nodes = std::iter::once(me).chain(nodes.into_values()).collect();
        Ok(Discovery { nodes, complete, elapsed: started.elapsed() })
    }

    /// This node as a discovery shows it.
    async fn info(&self) -> Result<NodeInfo, Error> {
        let (reply, info) = oneshot::channel();
        self.orders.send(Order::Info(reply)).await.map_err(|_| Error::Stopped)?;
        info.await.map_err(|_| Error::Stopped)
    }

    /// Asks the network about files, and the neighbours for this node itself: they tell also what
    /// is shared with it by name. A node may answer twice; the answers end when both have ended.
    pub(crate) async fn ask_for_files(&self, what: What) -> Result<mpsc::Receiver<Answer>, Error> {
        let (answers, receiver) = mpsc::channel(ANSWERS);
        for own in [true, false] {
            let (what, answers) = (what.clone(), answers.clone());
            let asked = Asked { answers, ended: oneshot::channel().0, lost: false };
            let order = Order::Ask { what, depth: -1, own, timeout: None, asked };
            self.orders.send(order).await.map_err(|_| Error::Stopped)?;
        }
        Ok(receiver)
    }
}

impl Node {
    /// Becomes a member of the network that the nodes at `addresses` belong to: from then on this
    /// node finds and keeps its own neighbours. Returns those of them that were reached once it has a
    /// first neighbour; the others are tried all the same, and told of by events.
    ///
    /// Without addresses it is [`Node::rejoin`]: through the bootstrap nodes and the peers that were
    /// met before. A network begins without any join: a node is a member as soon as another has joined
    /// through it. A node whose links are
    /// [made by hand](crate::Builder::manual) links to each address and nothing else.
    ///
    /// # Errors
    /// The first failure, where none was reached; else why none of them has a place for this node.
    pub async fn join(&self, addresses: &[Address]) -> Result<Vec<Peer>, Error> {
        match addresses {
            [] => self.rejoin(REJOIN).await,
            _ => self.inner.join(addresses.to_vec()).await,
        }
    }

    /// As [`Node::join`], again and again until it succeeds: nodes that are started together come up
    /// in any order. `failed` is told of every failure and of the wait before the next try, which
    /// grows from `reconnect_min` to `reconnect_max`. Dropping the future gives it up.
    ///
    /// # Errors
    /// If trying again is of no use: the links of the nodes that answer are made by hand, there is no
    /// node to try, or this node has stopped.
    pub async fn join_patiently(
        &self,
        addresses: &[Address],
        mut failed: impl FnMut(&Error, Duration),
    ) -> Result<Vec<Peer>, Error> {
        let mut wait = self.inner.config.reconnect_min;
        loop {
            let error = match self.join(addresses).await {
                Err(
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
                () = self.inner.stop.cancelled() => return Err(Error::Stopped),
            }
            wait = wait.saturating_mul(2).min(self.inner.config.reconnect_max);
        }
    }

    /// Joins through the [bootstrap nodes](crate::Builder::bootstrap) and the peers that were met
    /// before, several at once, those seen last first, until `enough` are connected. Nodes that were
    /// [disconnected](Node::disconnect) on request less than ten minutes ago are left alone.
    ///
    /// # Errors
    /// [`Error::NoBootstrap`] if there are none, [`Error::AllKeptAway`] if only those are left that are
    /// left alone, [`Error::OnlyThisNode`] if all of them are this node itself,
    /// [`Error::NoneReached`] if none of them answered, and a store error if the state can't be read.
    pub async fn rejoin(&self, enough: usize) -> Result<Vec<Peer>, Error> {
        self.inner.rejoin(enough).await
    }

    /// Leaves the network: hands its place over and closes all links, also those that were to be
    /// kept. Returns with whom there were links, once they are closed, for which they have the
    /// configured time (5 s). The node goes on alone, and may join again.
    ///
    /// # Errors
    /// Where the node is stopping.
    pub async fn leave(&self) -> Result<Vec<Peer>, Error> {
        self.inner.leave().await
    }

    /// Who is out there: `depth` 0 asks nobody, 1 the neighbours, n those within n links, and -1
    /// the whole network. Ends early once all have answered.
    ///
    /// # Errors
    /// Where the node is stopping.
    pub async fn discover(&self, depth: i32) -> Result<Discovery, Error> {
        self.inner.discover(depth).await
    }

    /// Discovers the whole network, to be measured and drawn: see [`Network`]. It is
    /// [`Node::discover`] with the depth -1, as a graph.
    ///
    /// # Errors
    /// Where the node is stopping.
    pub async fn network(&self) -> Result<Network, Error> {
        Ok(Network::new(&self.inner.network, &self.discover(-1).await?))
    }

    /// How many nodes the network has: counted where they are up to about 10,000, estimated beyond.
    ///
    /// # Errors
    /// Where the node is stopping, or the system gives no random numbers.
    pub async fn size(&self) -> Result<Size, Error> {
        let count = self.sample(sample::BITS).await?;
        if count < sample::ENOUGH {
            let Discovery { nodes, complete, .. } = self.discover(-1).await?;
            return Ok(Size { nodes: nodes.len() as u64, error: None, exact: complete });
        }
        let Estimate { nodes, error } = sample::estimate(count, sample::BITS);
        Ok(Size { nodes, error: Some(error), exact: false })
    }

    /// How many nodes are in a sample of the network that is drawn now.
    async fn sample(&self, bits: u8) -> Result<u64, Error> {
        let mut salt = [0; 8];
        let chance = getrandom::fill(&mut salt);
        chance.map_err(|error| Error::Setting(format!("no random numbers: {error}")))?;
        let mut asking = self.inner.ask(What::Sample { salt, bits }, -1, None).await?;
        let mut found = BTreeSet::from([self.id()]);
        while let Some(answer) = asking.answers.recv().await {
            found.insert(answer.node);
        }
        // Nobody is taken at their word that they are in it.
        let found = found.into_iter().filter(|id| sample::contains(&salt, bits, *id));
        Ok(found.count() as u64)
    }

    /// Tells the whole network. Every node gets it once, and can check that it is from this one.
    /// Where links are crowded it waits a while (5 s) for them first, and where
    /// [`Config::broadcast_rate`](crate::Config::broadcast_rate) is set for its turn.
    ///
    /// # Errors
    /// Where the title (256 bytes) or message (64 KiB) is over its limit: nothing was sent.
    pub async fn broadcast(
        &self,
        title: impl Into<String>,
        message: impl Into<Message>,
    ) -> Result<Broadcasted, Error> {
        let (title, message) = (title.into(), message.into());
        self.inner.rates.broadcast(title.len() + message.body().len()).await;
        self.inner.wait_for_calm().await;
        let order = |reply| Order::Broadcast { title, message, reply };
        let (id, time, links) = self.order(order).await??;
        Ok(Broadcasted { id, time, links })
    }

    /// The peers that this node has met, in this run and in earlier ones where it has a state
    /// folder; those seen last come first.
    ///
    /// # Errors
    /// Where the state can't be read.
    pub async fn known_peers(&self) -> Result<Vec<(NodeId, KnownPeer)>, Error> {
        self.inner.known_peers().await
    }

    /// Writes the known peers to a file, as JSON. Returns how many they are.
    ///
    /// # Errors
    /// Where the file can't be written.
    pub async fn save_peers(&self, path: impl AsRef<Path>) -> Result<usize, Error> {
        self.inner.write_peers(path.as_ref()).await
    }

    /// Adds the peers of a file that [`Node::save_peers`] has written to the known ones. Returns
    /// them, and makes no link: [`Node::connect_to_known`] does.
    ///
    /// # Errors
    /// Where the file can't be read or is not of that form: nothing has changed.
    pub async fn load_peers(
        &self,
        path: impl AsRef<Path>,
    ) -> Result<Vec<(NodeId, KnownPeer)>, Error> {
        self.inner.read_peers(path.as_ref()).await
    }

    /// Connects to peers that [`Node::load_peers`] or [`Node::known_peers`] returned, sixteen at
    /// once, each at the first of its addresses that answers. Peers that are connected already are
    /// left out. Returns those that were reached; the others show in
    /// `outbound_node_connection_error`.
    pub async fn connect_to_known(&self, known: &[(NodeId, KnownPeer)]) -> Vec<Peer> {
        let is_linked = |id: &NodeId| *id == self.id() || self.peer(*id).is_some();
        let mut dials = JoinSet::new();
        let mut reached = Vec::new();
        for (id, known) in known.iter().filter(|(id, _)| !is_linked(id)) {
            if dials.len() >= DIALS {
                reached.extend(dials.join_next().await.and_then(Result::ok).flatten());
            }
            let (node, id, addresses) = (self.clone(), *id, known.addresses.clone());
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sample_is_drawn_of_all_nodes() {
        let mut nodes: Vec<Node> = Vec::new();
        for _ in 0..24 {
            let node = Node::builder().listen("127.0.0.1:0").spawn().await.unwrap();
            if let Some(last) = nodes.last() {
                node.connect(last.listening()[0]).await.unwrap();
            }
            nodes.push(node);
        }
        let counted = Size { nodes: 24, error: None, exact: true };
        assert_eq!(nodes[11].size().await.unwrap(), counted);
        assert_eq!(nodes[11].sample(0).await.unwrap(), 24);
        assert_eq!(nodes[11].sample(255).await.unwrap(), 0);
        // Twelve each time: the chance that the sum of ten is so far off is below one in a million.
        let mut sum = 0;
        for _ in 0..10 {
            sum += nodes[11].sample(1).await.unwrap();
        }
        assert!((80..=160).contains(&sum), "{sum} of 240");
        for node in nodes {
            node.shutdown().await;
        }
    }
}
