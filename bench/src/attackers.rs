//! Attackers: many identities that each keep a link to one node and send it frames at a fixed rate. The frames
//! are valid and always new, so the node can't discard them as repeated or faulty. Each attacked system has a
//! module with its links and frames.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::peerkit::Key;
use anyhow::{Context, Result};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::broadcast_log::HOSTILE;
use crate::bulk::{Duplex, discard};
use crate::system::System;
#[cfg(feature = "systems")]
use crate::systems::{iroh, libp2p};
use crate::systems::{peerkit, raw};

/// Number of groups of addresses (127.A.0.0/16) from which the attackers connect.
const GROUPS: u32 = 8;

/// Maximum number of handshakes under way.
const HANDSHAKES: usize = 32;

/// Pause before an attacker whose link has ended connects again, with a new identity.
const RECONNECT: Duration = Duration::from_secs(1);

/// Size of a flooded message or broadcast, in bytes.
const SIZE: usize = 64;

/// The kind of frames that the attackers send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attack {
    /// Queries that ask every node of the network for its neighbours.
    Queries,
    /// Broadcasts, each of a new author's run.
    Broadcasts,
    /// Messages for the application.
    Messages,
    /// Signed broadcasts to nodes of gossipsub.
    #[cfg(feature = "systems")]
    Gossipsub,
    /// Broadcasts to nodes of iroh-gossip.
    #[cfg(feature = "systems")]
    IrohGossip,
}

/// The server that the attackers connect to.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// A node of the attacked system, with the address that it has given.
    Node(String),
    /// A TLS server that reads and discards everything.
    Sink(SocketAddr),
}

/// The attackers. Dropping this value stops them.
pub(crate) struct Attackers {
    counts: Arc<Counts>,
    _links: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Number of links at the moment.
    linked: AtomicU64,
    /// Number of frames sent so far.
    sent: AtomicU64,
    /// Number of links that have ended so far.
    ended: AtomicU64,
    /// The number of the next identity.
    next: AtomicU64,
}

/// What the attackers have done so far.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(crate) struct AttackTotals {
    /// Number of links at the moment.
    pub linked: u64,
    /// Number of frames that were sent.
    pub sent: u64,
    /// Number of links that have ended.
    pub ended: u64,
}

impl Attack {
    /// The attacks on nodes of peerkit.
    pub(crate) const ON_PEERKIT: [Self; 3] = [Self::Queries, Self::Broadcasts, Self::Messages];

    /// All attacks that this program was built with.
    pub(crate) const ALL: &[Self] = &[
        Self::Queries,
        Self::Broadcasts,
        Self::Messages,
        #[cfg(feature = "systems")]
        Self::Gossipsub,
        #[cfg(feature = "systems")]
        Self::IrohGossip,
    ];

    /// Returns the name in the names of cases.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Queries => "queries",
            Self::Broadcasts => "broadcasts",
            Self::Messages => "messages",
            #[cfg(feature = "systems")]
            Self::Gossipsub => "broadcasts of gossipsub",
            #[cfg(feature = "systems")]
            Self::IrohGossip => "broadcasts of iroh-gossip",
        }
    }

    /// Returns the attack with this name.
    pub(crate) fn named(name: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|each| each.name() == name).context("unknown attack")
    }

    /// Returns the attacked system.
    pub(crate) fn system(self) -> System {
        match self {
            Self::Queries | Self::Broadcasts | Self::Messages => System::Peerkit,
            #[cfg(feature = "systems")]
            Self::Gossipsub => System::Gossipsub,
            #[cfg(feature = "systems")]
            Self::IrohGossip => System::IrohGossip,
        }
    }
}

impl Attackers {
    /// Starts `links` attackers, which together send `rate` frames a second to `target`.
    pub(crate) fn start(attack: Attack, target: &Target, links: usize, rate: u32) -> Result<Self> {
        let counts = Arc::new(Counts::default());
        let handshakes = Arc::new(tokio::sync::Semaphore::new(HANDSHAKES));
        let interval = Duration::from_secs(1) * u32::try_from(links)? / rate.max(1);
        let mut tasks = JoinSet::new();
        for _ in 0..links {
            let (counts, handshakes) = (counts.clone(), handshakes.clone());
            let target = target.clone();
            tasks.spawn(async move {
                loop {
                    let number = counts.next.fetch_add(1, Ordering::Relaxed);
                    let attacker = Attacker::new(attack, number);
                    let Ok(permit) = handshakes.acquire().await else { return };
                    let connected = attacker.connect(&target, number).await;
                    drop(permit);
                    if let Ok(link) = connected {
                        // The links do not send at the same moment.
                        let phase = interval * u32::try_from(number % 256).unwrap_or(0) / 256;
                        counts.linked.fetch_add(1, Ordering::Relaxed);
                        tokio::select! {
                            () = link.ended => {}
                            _ = attacker.send(link.writing, phase, interval, &counts) => {}
                        }
                        counts.linked.fetch_sub(1, Ordering::Relaxed);
                        counts.ended.fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(RECONNECT).await;
                }
            });
        }
        Ok(Self { counts, _links: tasks })
    }

    pub(crate) fn totals(&self) -> AttackTotals {
        AttackTotals {
            linked: self.counts.linked.load(Ordering::Relaxed),
            sent: self.counts.sent.load(Ordering::Relaxed),
            ended: self.counts.ended.load(Ordering::Relaxed),
        }
    }
}

/// An identity that attacks.
enum Attacker {
    Peerkit(peerkit::attackers::Attacker),
    #[cfg(feature = "systems")]
    Gossipsub(libp2p::attackers::Attacker),
    #[cfg(feature = "systems")]
    IrohGossip(iroh::attackers::Attacker),
}

impl Attacker {
    /// Creates the identity with this number.
    fn new(attack: Attack, number: u64) -> Self {
        match attack {
            Attack::Queries | Attack::Broadcasts | Attack::Messages => {
                Self::Peerkit(peerkit::attackers::Attacker::new(attack, number))
            }
            #[cfg(feature = "systems")]
            Attack::Gossipsub => Self::Gossipsub(libp2p::attackers::Attacker::new()),
            #[cfg(feature = "systems")]
            Attack::IrohGossip => Self::IrohGossip(iroh::attackers::Attacker::new()),
        }
    }

    async fn connect(&self, target: &Target, number: u64) -> Result<HostileLink> {
        let address = match target {
            Target::Node(address) => address,
            Target::Sink(address) => {
                let stream = raw::connect_as(&key(number), source(number), *address).await?;
                return Ok(HostileLink::of_stream(stream));
            }
        };
        match self {
            Self::Peerkit(attacker) => attacker.connect(address).await,
            #[cfg(feature = "systems")]
            Self::Gossipsub(attacker) => attacker.connect(address).await,
            #[cfg(feature = "systems")]
            Self::IrohGossip(attacker) => attacker.connect(address).await,
        }
    }

    /// Returns a frame that differs from all others of this attacker.
    fn frame(&self, number: u64) -> Result<Vec<u8>> {
        match self {
            Self::Peerkit(attacker) => Ok(attacker.frame(number)),
            #[cfg(feature = "systems")]
            Self::Gossipsub(attacker) => attacker.frame(number),
            #[cfg(feature = "systems")]
            Self::IrohGossip(attacker) => Ok(attacker.frame(number)),
        }
    }

    /// Waits for `phase`, and then sends a frame in each interval, until the link ends.
    async fn send(
        &self,
        mut stream: Box<dyn AsyncWrite + Send + Unpin>,
        phase: Duration,
        interval: Duration,
        counts: &Counts,
    ) -> Result<()> {
        let mut ticks = tokio::time::interval_at(Instant::now() + phase, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 0.. {
            ticks.tick().await;
            stream.write_all(&self.frame(number)?).await?;
            stream.flush().await?;
            counts.sent.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Returns a message or broadcast of an attacker, which ends with `unique`.
pub(crate) fn payload(unique: &[u8]) -> Vec<u8> {
    let mut payload = vec![0; SIZE];
    payload[..HOSTILE.len()].copy_from_slice(&HOSTILE);
    payload[SIZE - unique.len()..].copy_from_slice(unique);
    payload
}

/// The link of an attacker.
pub(crate) struct HostileLink {
    writing: Box<dyn AsyncWrite + Send + Unpin>,
    /// Discards all that arrives, and completes when the link ends.
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl HostileLink {
    pub(crate) fn new(
        writing: impl AsyncWrite + Send + Unpin + 'static,
        ended: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self { writing: Box::new(writing), ended: Box::pin(ended) }
    }

    /// Creates a link that consists of one byte stream.
    pub(crate) fn of_stream(stream: impl Duplex + 'static) -> Self {
        let (reading, writing) = tokio::io::split(stream);
        Self::new(writing, discard(reading))
    }
}

/// Returns the key of the identity with this number.
pub(crate) fn key(number: u64) -> Key {
    let mut secret = [0xa7; 32];
    secret[..8].copy_from_slice(&number.to_le_bytes());
    Key::from_secret(&secret)
}

/// Returns the source address of the identity with this number: 127.1.0.0/16 to 127.8.0.0/16.
pub(crate) fn source(number: u64) -> IpAddr {
    let number = u32::try_from(number % (1 << 16)).unwrap_or_default();
    let [_, _, high, low] = (number / GROUPS + 1).to_be_bytes();
    let group = u8::try_from(number % GROUPS + 1).unwrap_or(1);
    IpAddr::V4(Ipv4Addr::new(127, group, high, low))
}
