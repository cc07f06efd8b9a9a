//! Attackers of nodes of peerkit. They speak the protocol by hand, so nothing limits what they send.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use peerkit::{Key, Message};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::broadcast::{Batch, Item};
use peerkit_proto::frame::query::{Query, QueryId, QueryKind, UNLIMITED};
use peerkit_proto::hello::Hello;
use peerkit_proto::message::PackedMessage;
use peerkit_proto::versions::Versions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::attackers::{Attack, HostileLink, key, payload, source};
use crate::systems::raw;

/// Maximum time for which a node should wait for the answers to a query.
const QUERY_TTL: Duration = Duration::from_secs(10);

/// The default network.
const NETWORK: &str = "peerkit";

/// The kind byte of a Hello.
const HELLO: u8 = 1;

/// An identity that attacks.
pub(crate) struct Attacker {
    attack: Attack,
    number: u64,
    key: Key,
}

impl Attacker {
    /// Creates the identity with this number.
    pub(crate) fn new(attack: Attack, number: u64) -> Self {
        Self { attack, number, key: key(number) }
    }

    /// Connects from an address of its own, and exchanges Hellos.
    pub(crate) async fn connect(&self, address: &str) -> Result<HostileLink> {
        let mut stream = raw::connect_as(&self.key, source(self.number), address.parse()?).await?;
        let hello = Hello {
            version_min: Versions::OURS.min,
            version_max: Versions::OURS.max,
            network: NETWORK.into(),
            name: "attacker".into(),
            incarnation: self.number,
            features: 0,
            addresses: Vec::new(),
            proof: None,
            owner: None,
            time: Some(unix_ms()),
            membership: None,
        };
        stream.write_all(&encoded(&Frame::Hello(hello))).await?;
        stream.flush().await?;
        // The first frame that answers is the node's Hello or a goodbye, which is followed by the end.
        let mut header = [0; 5];
        stream.read_exact(&mut header).await?;
        if header[4] != HELLO {
            bail!("the node has refused the link");
        }
        Ok(HostileLink::of_stream(stream))
    }

    /// Returns a frame that differs from all others of this attacker.
    pub(crate) fn frame(&self, number: u64) -> Vec<u8> {
        let packed = || PackedMessage::uncompressed(Message::bytes(payload(&[])));
        let frame = match self.attack {
            Attack::Queries => {
                let mut id = [0; 16];
                id[..8].copy_from_slice(&number.to_le_bytes());
                id[8..].copy_from_slice(&self.key.id().as_bytes()[..8]);
                Frame::Query(Query {
                    id: QueryId(id),
                    depth: UNLIMITED,
                    own: false,
                    ttl: QUERY_TTL,
                    what: QueryKind::Discover,
                })
            }
            Attack::Messages => Frame::Message(packed()),
            _ => {
                let time = unix_ms();
                let item = Item { time, title: String::new(), content: packed() };
                let epoch = time.wrapping_sub(number);
                Frame::Broadcast(Batch::sign(&self.key, NETWORK, epoch, (1, 1), vec![item]))
            }
        };
        encoded(&frame)
    }
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
