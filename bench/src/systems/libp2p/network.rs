//! gossipsub: swarms that dial some of those before them. Broadcasts are signed and strictly checked.
//! All else has its default.

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
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::bootstrap::earlier;
use crate::broadcast_log::{Log, Received};
use crate::system::System;

/// Number of swarms before it that each swarm dials.
const DIALLED: usize = 5;

/// Time from the last dial to the first broadcast. Heartbeats make the meshes: one a second, and the
/// first after five.
const SETTLING: Duration = Duration::from_secs(12);

/// Most broadcasts that wait for a swarm.
const WAITING: usize = 16;

type Gossip = Behaviour<Copies, AllowAllSubscriptionFilter>;

/// The swarms, each with a task that drives it.
pub(crate) struct Network {
    orders: Vec<mpsc::Sender<Order>>,
    copies: Copies,
    _driving: JoinSet<()>,
}

/// A broadcast to send.
struct Order {
    message: Vec<u8>,
    done: oneshot::Sender<Result<(), PublishError>>,
}

impl Network {
    pub(crate) async fn form(logs: &[Log]) -> Result<Self> {
        let topic = IdentTopic::new("bench");
        let copies = Copies::default();
        let (mut addresses, mut orders) = (Vec::<Multiaddr>::new(), Vec::new());
        let mut driving = JoinSet::new();
        for (node, log) in logs.iter().enumerate() {
            let mut swarm = super::swarm(System::Gossipsub, |key| {
                let config =
                    ConfigBuilder::default().validation_mode(ValidationMode::Strict).build();
                let signed = MessageAuthenticity::Signed(key.clone());
                Ok(Gossip::new_with_transform(signed, config?, copies.clone())?)
            })?;
            swarm.behaviour_mut().subscribe(&topic)?;
            let address = super::listen(&mut swarm).await?;
            for other in earlier(node, DIALLED) {
                swarm.dial(addresses[other].clone())?;
            }
            addresses.push(address);
            let (order, waiting) = mpsc::channel(WAITING);
            orders.push(order);
            driving.spawn(drive(swarm, topic.clone(), waiting, log.clone()));
        }
        tokio::time::sleep(SETTLING).await;
        Ok(Self { orders, copies, _driving: driving })
    }

    pub(crate) async fn broadcast(&self, author: usize, message: &[u8]) -> Result<bool> {
        let (done, published) = oneshot::channel();
        self.orders[author].send(Order { message: message.into(), done }).await?;
        match published.await.context("the swarm has ended")? {
            Ok(()) => Ok(true),
            Err(PublishError::AllQueuesFull(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn received(&self) -> Received {
        Received { copies: Some(self.copies.0.load(Ordering::Relaxed)), bytes: None }
    }
}

/// Carries out orders, and records received broadcasts.
async fn drive(
    mut swarm: Swarm<Gossip>,
    topic: IdentTopic,
    mut orders: mpsc::Receiver<Order>,
    log: Log,
) {
    loop {
        tokio::select! {
            Some(Order { message, done }) = orders.recv() => {
                let published = swarm.behaviour_mut().publish(topic.clone(), message);
                let _ = done.send(published.map(drop));
            }
            event = swarm.select_next_some() => {
                if let SwarmEvent::Behaviour(Event::Message { message, .. }) = event {
                    log.note(&message.data);
                }
            }
        }
    }
}

/// Counts received messages before duplicates are dropped.
#[derive(Clone, Default)]
struct Copies(Arc<AtomicU64>);

impl DataTransform for Copies {
    fn inbound_transform(&self, raw: RawMessage) -> io::Result<Message> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let RawMessage { source, data, sequence_number, topic, .. } = raw;
        Ok(Message { source, data, sequence_number, topic })
    }

    fn outbound_transform(&self, _: &TopicHash, data: Vec<u8>) -> io::Result<Vec<u8>> {
        Ok(data)
    }
}
