//! gossipsub: swarms, each of which dials some of the swarms before it. Broadcasts are signed and strictly
//! validated. Everything else is the default.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use libp2p::gossipsub::{
    AllowAllSubscriptionFilter, Behaviour, ConfigBuilder, DataTransform, Event, IdentTopic,
    Message, MessageAuthenticity, PublishError, RawMessage, TopicHash, ValidationMode,
};
use libp2p::identity::Keypair;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::broadcast_log::{BroadcastLog, NetworkTotals};
use crate::first_dials::earlier_nodes;
use crate::system::System;

/// The name of the topic.
pub(super) const TOPIC: &str = "bench";

/// Number of earlier nodes that each node dials.
const EARLIER_DIALS: usize = 5;

/// Pause between the last dial and the first broadcast. The heartbeats, one each second, form the meshes. The
/// first heartbeat is after five seconds.
const SETTLING: Duration = Duration::from_secs(12);

/// Maximum number of broadcasts that wait for a swarm.
const MAX_WAITING: usize = 16;

type Gossip = Behaviour<CopyCounter, AllowAllSubscriptionFilter>;

/// The swarms. Each is driven by its own task.
pub(crate) struct Network {
    addresses: Vec<Multiaddr>,
    requests: Vec<mpsc::Sender<PublishRequest>>,
    copies: CopyCounter,
    _driving: JoinSet<()>,
}

/// A request to publish a broadcast.
struct PublishRequest {
    message: Vec<u8>,
    done: oneshot::Sender<Result<(), PublishError>>,
}

impl Network {
    pub(crate) async fn form(logs: &[BroadcastLog]) -> Result<Self> {
        let topic = IdentTopic::new(TOPIC);
        let copies = CopyCounter::default();
        let (mut addresses, mut requests) = (Vec::<Multiaddr>::new(), Vec::new());
        let mut driving = JoinSet::new();
        for (node, log) in logs.iter().enumerate() {
            let mut swarm = super::swarm(System::Gossipsub, Keypair::generate_ed25519(), |key| {
                let config =
                    ConfigBuilder::default().validation_mode(ValidationMode::Strict).build();
                let signed = MessageAuthenticity::Signed(key.clone());
                Ok(Gossip::new_with_transform(signed, config?, copies.clone())?)
            })?;
            swarm.behaviour_mut().subscribe(&topic)?;
            let address = super::listen(&mut swarm).await?;
            for other in earlier_nodes(node, EARLIER_DIALS) {
                swarm.dial(addresses[other].clone())?;
            }
            addresses.push(address);
            let (request, waiting) = mpsc::channel(MAX_WAITING);
            requests.push(request);
            driving.spawn(drive(swarm, topic.clone(), waiting, log.clone()));
        }
        tokio::time::sleep(SETTLING).await;
        Ok(Self { addresses, requests, copies, _driving: driving })
    }

    pub(crate) fn address(&self, node: usize) -> String {
        self.addresses[node].to_string()
    }

    pub(crate) async fn broadcast(&self, author: usize, message: &[u8]) -> Result<bool> {
        let (done, published) = oneshot::channel();
        self.requests[author].send(PublishRequest { message: message.into(), done }).await?;
        match published.await.context("the swarm has ended")? {
            Ok(()) => Ok(true),
            Err(PublishError::AllQueuesFull(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn totals(&self) -> NetworkTotals {
        NetworkTotals { copies: Some(self.copies.0.load(Ordering::Relaxed)), bytes: None }
    }
}

/// Publishes the requested broadcasts, and records the received ones.
async fn drive(
    mut swarm: Swarm<Gossip>,
    topic: IdentTopic,
    mut requests: mpsc::Receiver<PublishRequest>,
    log: BroadcastLog,
) {
    loop {
        tokio::select! {
            Some(PublishRequest { message, done }) = requests.recv() => {
                let published = swarm.behaviour_mut().publish(topic.clone(), message);
                let _ = done.send(published.map(drop));
            }
            event = swarm.select_next_some() => {
                if let SwarmEvent::Behaviour(Event::Message { message, .. }) = event {
                    log.record(&message.data);
                }
            }
        }
    }
}

/// Counts received copies, before gossipsub drops the duplicates.
#[derive(Clone, Default)]
struct CopyCounter(Arc<AtomicU64>);

impl DataTransform for CopyCounter {
    fn inbound_transform(&self, raw: RawMessage) -> io::Result<Message> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let RawMessage { source, data, sequence_number, topic, .. } = raw;
        Ok(Message { source, data, sequence_number, topic })
    }

    fn outbound_transform(&self, _: &TopicHash, data: Vec<u8>) -> io::Result<Vec<u8>> {
        Ok(data)
    }
}
