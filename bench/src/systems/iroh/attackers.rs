//! Attackers of nodes of iroh-gossip. They write its frames by hand on a stream, so nothing limits what they
//! send. They do not join the topic, so the attacked node does not pick them as neighbours, and sends them no
//! broadcasts. It forwards their broadcasts all the same.

use anyhow::Result;
use iroh::SecretKey;

use super::network::TOPIC;
use crate::attackers::{HostileLink, payload};

/// The indices of the enum variants in a frame: a message of the layer that broadcasts, which has a payload,
/// and is for all nodes of the topic.
const GOSSIP: u8 = 1;
const PAYLOAD: u8 = 0;
const FOR_ALL: u8 = 0;

/// An identity that attacks.
pub(crate) struct Attacker {
    key: SecretKey,
}

impl Attacker {
    pub(crate) fn new() -> Self {
        Self { key: SecretKey::generate() }
    }

    pub(crate) async fn connect(&self, address: &str) -> Result<HostileLink> {
        let endpoint = super::builder()?.secret_key(self.key.clone()).bind().await?;
        let connection = endpoint.connect(super::parsed(address)?, iroh_gossip::ALPN).await?;
        let mut stream = connection.open_uni().await?;
        // The first frame of a stream has the topic.
        stream.write_all(&framed(TOPIC.as_bytes())).await?;
        Ok(HostileLink::new(stream, async move {
            connection.closed().await;
            endpoint.close().await;
        }))
    }

    /// Returns a frame that differs from all others of this attacker.
    pub(crate) fn frame(&self, number: u64) -> Vec<u8> {
        // Two attackers never broadcast the same, as a node would discard it as a duplicate.
        let unique = [&self.key.public().as_bytes()[..], &number.to_le_bytes()].concat();
        let data = payload(&unique);
        let mut message = vec![GOSSIP, PAYLOAD];
        message.extend(blake3::hash(&data).as_bytes());
        // The length and the number of hops are varints of one byte.
        message.push(data.len() as u8);
        message.extend(data);
        message.extend([FOR_ALL, 0]);
        framed(&message)
    }
}

/// Returns a frame: the length of the message, and the message.
fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes(), message].concat()
}
