//! Attackers of nodes of gossipsub. They write its frames by hand on a stream, so nothing limits what they
//! send. They do not subscribe to the topic, so the attacked node does not pick them as neighbours, and sends
//! them no broadcasts.

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use libp2p::StreamProtocol;
use libp2p::identity::Keypair;
use libp2p::swarm::SwarmEvent;
use libp2p_stream::Behaviour;
use tokio::task::JoinSet;
use tokio_util::compat::{FuturesAsyncReadCompatExt, FuturesAsyncWriteCompatExt};

use super::network::TOPIC;
use crate::attackers::{HostileLink, payload};
use crate::bulk::discard;
use crate::system::System;

const GOSSIPSUB: StreamProtocol = StreamProtocol::new("/meshsub/1.1.0");

/// The prefix of the bytes that the author of a broadcast signs.
const SIGNING_PREFIX: &[u8] = b"libp2p-pubsub:";

/// The numbers of protobuf fields in gossipsub's `rpc.proto`. `PUBLISH` is a field of `RPC`, and the others are
/// fields of `Message`.
const PUBLISH: u8 = 2;
const FROM: u8 = 1;
const DATA: u8 = 2;
const SEQNO: u8 = 3;
const TOPIC_ID: u8 = 4;
const SIGNATURE: u8 = 5;

/// An identity that attacks.
pub(crate) struct Attacker {
    key: Keypair,
}

impl Attacker {
    pub(crate) fn new() -> Self {
        Self { key: Keypair::generate_ed25519() }
    }

    pub(crate) async fn connect(&self, address: &str) -> Result<HostileLink> {
        let mut swarm =
            super::swarm(System::Gossipsub, self.key.clone(), |_| Ok(Behaviour::new()))?;
        let mut control = swarm.behaviour().new_control();
        // The node stops reading from a peer that does not accept its stream.
        let mut accepted = control.accept(GOSSIPSUB)?;
        let peer = super::dial(&mut swarm, address).await?;
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            let mut reading = JoinSet::new();
            loop {
                tokio::select! {
                    Some((_, stream)) = accepted.next() => {
                        reading.spawn(discard(stream.compat()));
                    }
                    event = swarm.select_next_some() => {
                        if let SwarmEvent::ConnectionClosed { .. } = event {
                            return;
                        }
                    }
                }
            }
        });
        let stream = tokio::select! {
            opened = control.open_stream(peer, GOSSIPSUB) => opened.context("no stream")?,
            _ = driving.join_next() => bail!("the connection has ended"),
        };
        Ok(HostileLink::new(stream.compat_write(), async move {
            driving.join_next().await;
        }))
    }

    /// Returns a frame that differs from all others of this attacker.
    pub(crate) fn frame(&self, number: u64) -> Result<Vec<u8>> {
        let mut message = Vec::new();
        put(&mut message, FROM, &self.key.public().to_peer_id().to_bytes());
        put(&mut message, DATA, &payload(&[]));
        put(&mut message, SEQNO, &number.to_be_bytes());
        put(&mut message, TOPIC_ID, TOPIC.as_bytes());
        let signature = self.key.sign(&[SIGNING_PREFIX, &message].concat())?;
        put(&mut message, SIGNATURE, &signature);
        let mut rpc = Vec::new();
        put(&mut rpc, PUBLISH, &message);
        let mut frame = Vec::new();
        put_length(&mut frame, rpc.len());
        frame.extend(rpc);
        Ok(frame)
    }
}

/// Appends a protobuf field of bytes.
fn put(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    /// The wire type of bytes, strings and messages.
    const BYTES: u8 = 2;
    out.push(field << 3 | BYTES);
    put_length(out, bytes.len());
    out.extend(bytes);
}

/// Appends a varint: seven bits in each byte, the lowest first. All bytes except the last have the highest bit.
fn put_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 1 << 7 {
        out.push(length as u8 | 1 << 7);
        length >>= 7;
    }
    out.push(length as u8);
}
