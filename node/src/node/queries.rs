//! Queries to the network, and discovery.

use std::collections::BTreeMap;
use std::time::Duration;

use peerkit_proto::event::{Event, NodeInfo};
use peerkit_proto::frame::query::{AnswerBody, QueryAnswer, QueryKind};
use peerkit_proto::id::NodeId;
use peerkit_proto::peer::Input;
use tokio::sync::{mpsc, oneshot};

use crate::actor::mailbox::{MAX_ANSWERS, Operation, QueryReply};
use crate::error::Error;
use crate::inner::Inner;

/// The result of a discovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// This node, then the nodes within the depth that have answered.
    pub nodes: Vec<NodeInfo>,
    /// True if all nodes within the depth have answered in time, except nodes that have not joined the network and
    /// were only connected to its members by hand.
    pub complete: bool,
    /// The time that the discovery took.
    pub elapsed: Duration,
}

impl Discovery {
    /// Returns the name of a node that answered.
    #[must_use]
    pub fn name_of(&self, id: NodeId) -> Option<&str> {
        let node = self.nodes.iter().find(|node| node.id == id)?;
        Some(&node.name)
    }

    /// Returns the links of the nodes, each link once: the node that dialled, then the node that was dialled.
    /// Links to nodes beyond the depth are included.
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

/// A query under way.
pub(crate) struct RunningQuery {
    pub(crate) answers: mpsc::Receiver<QueryAnswer>,
    /// Receives whether all nodes have answered, when the query ends.
    pub(crate) ended: oneshot::Receiver<bool>,
}

impl Inner {
    /// Sends a query to the network.
    pub(crate) async fn send_query(
        &self,
        what: QueryKind,
        depth: i32,
        timeout: Option<Duration>,
    ) -> Result<RunningQuery, Error> {
        let (answers, receiver) = mpsc::channel(MAX_ANSWERS);
        let (ended, end) = oneshot::channel();
        let asked = Operation::Query(QueryReply { answers, ended, lost: false });
        let own = false;
        let query = move |operation| Input::Query { operation, what, depth, own, timeout };
        self.actor.begin(asked, query).await?;
        Ok(RunningQuery { answers: receiver, ended: end })
    }

    /// Finds the nodes within a depth: see [`Node::discover`](crate::Node::discover).
    pub(crate) async fn discover(&self, depth: i32) -> Result<Discovery, Error> {
        let started = std::time::Instant::now();
        let me = self.actor.call(|actor| actor.overlay().info()).await?;
        let mut query = self.send_query(QueryKind::Discover, depth, None).await?;
        let mut nodes: BTreeMap<NodeId, NodeInfo> = BTreeMap::new();
        while let Some(answer) = query.answers.recv().await {
            let AnswerBody::Neighbours(outbound, inbound) = answer.body else { continue };
            let info = NodeInfo {
                id: answer.node,
                name: answer.name,
                addresses: answer.addresses,
                outbound,
                inbound,
            };
            match nodes.get_mut(&info.id) {
                // A node with many links answers in parts.
                Some(known) => {
                    known.outbound.extend(info.outbound);
                    known.inbound.extend(info.inbound);
                }
                None => drop(nodes.insert(info.id, info)),
            }
        }
        let complete = query.ended.await.unwrap_or(false);
        // Another node may have answered in this node's name. `me` is right in any case.
        nodes.remove(&me.id);
        for node in nodes.values() {
            self.dispatch.queue_notice(Event::NodeDiscovered { node: node.clone() });
        }
        let nodes = std::iter::once(me).chain(nodes.into_values()).collect();
        Ok(Discovery { nodes, complete, elapsed: started.elapsed() })
    }

    /// Sends two queries about files: one through the network, and one to the connected peers alone. The
    /// answers to the second one include files that a peer shares with this node only. A node may answer
    /// both. The answers end when both queries have ended.
    pub(crate) async fn query_files(
        &self,
        what: QueryKind,
    ) -> Result<mpsc::Receiver<QueryAnswer>, Error> {
        let (answers, receiver) = mpsc::channel(MAX_ANSWERS);
        for own in [true, false] {
            let (what, answers) = (what.clone(), answers.clone());
            // Not needed: the channel of answers closes when both queries have dropped their senders.
            let ended = oneshot::channel().0;
            let asked = Operation::Query(QueryReply { answers, ended, lost: false });
            let (depth, timeout) = (-1, None);
            let query = move |operation| Input::Query { operation, what, depth, own, timeout };
            self.actor.begin(asked, query).await?;
        }
        Ok(receiver)
    }
}
