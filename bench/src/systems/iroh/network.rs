//! iroh-gossip: endpoints in one process, each of which joins through some of the endpoints before it. They
//! look up addresses in a table in memory that all of them share. Broadcasts are not signed.

use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use iroh::address_lookup::memory::MemoryLookup;
use iroh::protocol::Router;
use iroh::{EndpointAddr, EndpointId};
use iroh_gossip::TopicId;
use iroh_gossip::api::{Event, GossipReceiver, GossipSender};
use iroh_gossip::net::Gossip;
use tokio::task::JoinSet;

use crate::broadcast_log::{BroadcastLog, NetworkTotals};
use crate::first_dials::earlier_nodes;

/// Number of earlier nodes that each node joins through.
const JOIN_THROUGH: usize = 3;

/// Pause between the last join and the first broadcast.
const SETTLING: Duration = Duration::from_secs(8);

pub(super) const TOPIC: TopicId = TopicId::from_bytes([1; 32]);

/// The endpoints. For each, a task records the broadcasts that it receives.
pub(crate) struct Network {
    nodes: Vec<Member>,
    _listening: JoinSet<()>,
}

struct Member {
    sender: GossipSender,
    gossip: Gossip,
    /// Accepts connections until it is dropped.
    router: Router,
}

impl Network {
    pub(crate) async fn form(logs: &[BroadcastLog]) -> Result<Self> {
        let lookup = MemoryLookup::new();
        let (mut ids, mut nodes) = (Vec::<EndpointId>::new(), Vec::new());
        let mut listening = JoinSet::new();
        for (node, log) in logs.iter().enumerate() {
            let endpoint = super::builder()?.address_lookup(lookup.clone()).bind().await?;
            let address = EndpointAddr::new(endpoint.id());
            lookup.add_endpoint_info(
                endpoint.bound_sockets().into_iter().fold(address, EndpointAddr::with_ip_addr),
            );
            let gossip = Gossip::builder().spawn(endpoint.clone());
            let router =
                Router::builder(endpoint.clone()).accept(iroh_gossip::ALPN, gossip.clone()).spawn();
            let known =
                earlier_nodes(node, JOIN_THROUGH).into_iter().map(|other| ids[other]).collect();
            let (sender, mut receiver) = gossip.subscribe(TOPIC, known).await?.split();
            // The first node has no node to join through, so it would wait for ever.
            if node > 0 {
                receiver.joined().await?;
            }
            listening.spawn(listen(receiver, log.clone()));
            ids.push(endpoint.id());
            nodes.push(Member { sender, gossip, router });
        }
        tokio::time::sleep(SETTLING).await;
        Ok(Self { nodes, _listening: listening })
    }

    pub(crate) fn address(&self, node: usize) -> String {
        super::address(self.nodes[node].router.endpoint())
    }

    pub(crate) async fn broadcast(&self, author: usize, message: &[u8]) -> Result<bool> {
        self.nodes[author].sender.broadcast(message.to_vec().into()).await?;
        Ok(true)
    }

    pub(crate) fn totals(&self) -> NetworkTotals {
        let copies = self.nodes.iter().map(|node| node.gossip.metrics().msgs_data_recv.get()).sum();
        NetworkTotals { copies: Some(copies), bytes: None }
    }
}

/// Records the received broadcasts in `log`. If this task is too slow, iroh-gossip drops
/// broadcasts, and the log lacks them.
async fn listen(mut receiver: GossipReceiver, log: BroadcastLog) {
    while let Some(Ok(event)) = receiver.next().await {
        if let Event::Received(message) = event {
            log.record(&message.content);
        }
    }
}
