//! The nodes of the demo, all in this process, and the broadcasts that they received.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use peerkit::{Event, Hash, Node, NodeId};
use tokio::task::JoinSet;

use super::PATIENCE;
use crate::lock::lock;

/// Interval between checks of a condition that a step waits for.
const CHECK_INTERVAL: Duration = Duration::from_millis(2);

/// Time without a new or closed link after which the network counts as settled. 200 ms: on one
/// machine a link takes a few milliseconds.
const SETTLED_AFTER: Duration = Duration::from_millis(200);

const NAMES: [&str; 24] = [
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa",
    "lambda", "mu", "nu", "xi", "omicron", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi",
    "psi", "omega",
];

/// The nodes of the demo, on loopback.
#[derive(Default)]
pub(super) struct DemoNetwork {
    pub(super) nodes: Vec<Node>,
    listening: Vec<SocketAddr>,
    /// For each node, how often it received each broadcast.
    received: Vec<Arc<Mutex<BTreeMap<Hash, usize>>>>,
}

impl DemoNetwork {
    /// Starts `number` nodes, each on its own port.
    pub(super) async fn start(number: usize) -> anyhow::Result<Self> {
        let mut network = Self::default();
        for n in 0..number {
            let name = NAMES.get(n).map_or_else(|| format!("node{}", n + 1), ToString::to_string);
            let builder = Node::builder().listen("127.0.0.1:0").name(name).network("demo");
            let node = builder.spawn().await?;
            let listening = node.listening();
            let [listening] = listening[..] else {
                bail!("{} does not listen", node.name());
            };
            let received = Arc::default();
            tokio::spawn(count_broadcasts(node.events(), Arc::clone(&received)));
            network.nodes.push(node);
            network.listening.push(listening);
            network.received.push(received);
        }
        Ok(network)
    }

    /// Joins the other nodes to the network of the first, one after the other, and waits until the
    /// network has settled.
    pub(super) async fn join(&self) -> anyhow::Result<()> {
        let (Some(genesis), Some((_, others))) = (self.listening.first(), self.nodes.split_first())
        else {
            bail!("there are no nodes");
        };
        for node in others {
            let joined = node.join(&[(*genesis).into()]).await;
            joined.with_context(|| format!("{} did not join", node.name()))?;
        }
        self.wait_until_settled(self.nodes.len()).await
    }

    /// Waits until both ends of every link know of it, `nodes` nodes are connected, and no link was
    /// made or closed for [`SETTLED_AFTER`].
    pub(super) async fn wait_until_settled(&self, nodes: usize) -> anyhow::Result<()> {
        let begun = Instant::now();
        let (mut before, mut since) = (BTreeSet::new(), begun);
        loop {
            let ends: BTreeSet<_> = self.link_ends().collect();
            // A link counts only when both ends know of it.
            let known = ends.iter().all(|(a, b)| ends.contains(&(*b, *a)));
            if !known || ends != before || self.reachable(&ends) != nodes {
                (before, since) = (ends, Instant::now());
            } else if since.elapsed() >= SETTLED_AFTER {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "the network did not settle in time");
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    /// Returns the number of nodes that the first one can reach over links, including itself.
    fn reachable(&self, ends: &BTreeSet<(NodeId, NodeId)>) -> usize {
        let mut reached = BTreeSet::from([self.first().id()]);
        let mut next = vec![self.first().id()];
        while let Some(from) = next.pop() {
            let linked = ends.iter().filter(|(a, _)| *a == from).map(|(_, b)| *b);
            next.extend(linked.filter(|to| reached.insert(*to)));
        }
        reached.len()
    }

    /// Returns the links between the nodes, each pair once.
    pub(super) fn links(&self) -> BTreeSet<(NodeId, NodeId)> {
        self.link_ends().map(|(a, b)| (a.min(b), a.max(b))).collect()
    }

    fn link_ends(&self) -> impl Iterator<Item = (NodeId, NodeId)> {
        self.nodes.iter().flat_map(|node| {
            let peers = node.peers().into_iter();
            peers.map(move |peer| (node.id(), peer.id()))
        })
    }

    pub(super) fn ports(&self) -> Vec<u16> {
        self.listening.iter().map(SocketAddr::port).collect()
    }

    pub(super) fn first(&self) -> &Node {
        self.nodes.first().expect("there are at least three nodes")
    }

    pub(super) fn last(&self) -> &Node {
        self.nodes.last().expect("there are at least three nodes")
    }

    pub(super) fn neighbour_of_first(&self) -> anyhow::Result<&Node> {
        let linked = |node: &&Node| self.first().peer(node.id()).is_some();
        self.nodes.iter().find(linked).context("the first node has no link")
    }

    /// Returns a node without a link to `other`, and a phrase that says so. If every node has a link
    /// to `other`, returns the first node.
    pub(super) fn far_from(&self, other: &Node) -> (&Node, &'static str) {
        let far = self
            .nodes
            .iter()
            .find(|node| node.id() != other.id() && other.peer(node.id()).is_none());
        match far {
            Some(node) => (node, "with no link between them"),
            None => (self.first(), "over the link between them"),
        }
    }

    /// Waits until every node but its author has received a broadcast.
    pub(super) async fn wait_until_received(&self, id: Hash) -> anyhow::Result<()> {
        wait_until("every node has received the broadcast", || {
            // The first node is the author, which gets no event for its own broadcast.
            let mut others = self.received.iter().skip(1);
            others.all(|received| lock(received).contains_key(&id))
        })
        .await
    }

    /// Returns the number of broadcasts received, and checks that each came once.
    pub(super) fn count_received(&self) -> anyhow::Result<usize> {
        let mut received_once = 0;
        for (node, received) in self.nodes.iter().zip(&self.received) {
            for times in lock(received).values() {
                ensure!(*times == 1, "{} received a broadcast {times} times", node.name());
                received_once += 1;
            }
        }
        Ok(received_once)
    }

    /// Waits until no node has a link to `gone`.
    pub(super) async fn wait_until_disconnected(&self, gone: NodeId) -> anyhow::Result<()> {
        wait_until("all nodes have noticed that a node has stopped", || {
            self.nodes.iter().all(|node| node.peer(gone).is_none())
        })
        .await
    }

    /// Stops all nodes and checks that their ports are free.
    pub(super) async fn stop(&self) -> anyhow::Result<()> {
        let mut stopping = JoinSet::new();
        for node in self.nodes.clone() {
            stopping.spawn(async move { node.shutdown().await });
        }
        stopping.join_all().await;
        for address in &self.listening {
            // Binding the port again proves that the node has closed it.
            // On Unix, std sets SO_REUSEADDR, so connections in TIME-WAIT do not matter.
            TcpListener::bind(address).with_context(|| format!("{address} is still in use"))?;
        }
        Ok(())
    }
}

async fn count_broadcasts(
    mut events: peerkit::Events,
    received: Arc<Mutex<BTreeMap<Hash, usize>>>,
) {
    while let Some(event) = events.next().await {
        if let Event::NodeBroadcast { broadcast } = event {
            *lock(&received).entry(broadcast.id).or_default() += 1;
        }
    }
}

async fn wait_until(what: &str, holds: impl Fn() -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !holds() {
        ensure!(begun.elapsed() < PATIENCE, "{what}: this did not happen in time");
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
    Ok(())
}
