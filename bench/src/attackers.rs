//! Attackers: many identities that each keep a link to one node and send it frames at a fixed rate. The frames
//! are valid and always new, so the node can't discard them as repeated or faulty.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use peerkit::{Key, Message};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::broadcast::{Batch, Item};
use peerkit_proto::frame::query::{Query, QueryId, QueryKind, UNLIMITED};
use peerkit_proto::hello::Hello;
use peerkit_proto::message::PackedMessage;
use peerkit_proto::versions::Versions;
use tokio::io::{AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_rustls::client::TlsStream;

use crate::systems::raw;

/// Number of groups of addresses (127.A.0.0/16) from which the attackers connect.
const GROUPS: u32 = 8;

/// Maximum number of handshakes under way.
const HANDSHAKES: usize = 32;

/// Pause before an attacker whose link has ended connects again, with a new identity.
const RECONNECT: Duration = Duration::from_secs(1);

/// Maximum time for which a node should wait for the answers to a query.
const QUERY_TTL: Duration = Duration::from_secs(10);

/// Size of a flooded message, in bytes.
const MESSAGE: usize = 64;

/// The default network.
const NETWORK: &str = "peerkit";

/// The kind byte of a Hello.
const HELLO: u8 = 1;

/// The kind of frames that the attackers send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attack {
    /// Queries that ask every node of the network for its neighbours.
    Queries,
    /// Broadcasts, each of a new author's run.
    Broadcasts,
    /// Messages for the application.
    Messages,
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
    pub(crate) const ALL: [Self; 3] = [Self::Queries, Self::Broadcasts, Self::Messages];

    /// Returns the name in the names of cases.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Queries => "queries",
            Self::Broadcasts => "broadcasts",
            Self::Messages => "messages",
        }
    }

    /// Returns the attack with this name.
    pub(crate) fn named(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|each| each.name() == name).context("unknown attack")
    }

    /// Returns a frame that differs from all others of the attacker with `key`.
    fn frame(self, key: &Key, number: u64) -> Frame {
        let packed = || PackedMessage::uncompressed(Message::bytes(vec![0; MESSAGE]));
        match self {
            Self::Queries => {
                let mut id = [0; 16];
                id[..8].copy_from_slice(&number.to_le_bytes());
                id[8..].copy_from_slice(&key.id().as_bytes()[..8]);
                Frame::Query(Query {
                    id: QueryId(id),
                    depth: UNLIMITED,
                    own: false,
                    ttl: QUERY_TTL,
                    what: QueryKind::Discover,
                })
            }
            Self::Broadcasts => {
                let time = unix_ms();
                let item = Item { time, title: String::new(), content: packed() };
                let epoch = time.wrapping_sub(number);
                Frame::Broadcast(Batch::sign(key, NETWORK, epoch, (1, 1), vec![item]))
            }
            Self::Messages => Frame::Message(packed()),
        }
    }
}

impl Attackers {
    /// Starts `links` attackers, which together send `rate` frames a second to `target`. If `says_hello` is
    /// false, the target is a TLS server that reads and discards everything.
    pub(crate) fn start(
        attack: Attack,
        target: SocketAddr,
        links: usize,
        rate: u32,
        says_hello: bool,
    ) -> Result<Self> {
        let counts = Arc::new(Counts::default());
        let handshakes = Arc::new(tokio::sync::Semaphore::new(HANDSHAKES));
        let interval = Duration::from_secs(1) * u32::try_from(links)? / rate.max(1);
        let mut tasks = JoinSet::new();
        for _ in 0..links {
            let (counts, handshakes) = (counts.clone(), handshakes.clone());
            tasks.spawn(async move {
                loop {
                    let number = counts.next.fetch_add(1, Ordering::Relaxed);
                    let Ok(permit) = handshakes.acquire().await else { return };
                    let connected = connect(target, number, says_hello).await;
                    drop(permit);
                    if let Ok((key, stream)) = connected {
                        counts.linked.fetch_add(1, Ordering::Relaxed);
                        send(attack, &key, stream, interval, &counts).await;
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

/// Connects the identity with this number from an address of its own, and exchanges Hellos.
async fn connect(
    target: SocketAddr,
    number: u64,
    says_hello: bool,
) -> Result<(Key, TlsStream<TcpStream>)> {
    let mut secret = [0xa7; 32];
    secret[..8].copy_from_slice(&number.to_le_bytes());
    let key = Key::from_secret(&secret);
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(source(number), 0))?;
    let tcp = socket.connect(target).await?;
    tcp.set_nodelay(true)?;
    let (connector, name) = raw::link_client(&key)?;
    let mut stream = connector.connect(name, tcp).await?;
    if says_hello {
        let hello = Hello {
            version_min: Versions::OURS.min,
            version_max: Versions::OURS.max,
            network: NETWORK.into(),
            name: "attacker".into(),
            incarnation: number,
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
    }
    Ok((key, stream))
}

/// Returns the source address of the identity with this number: 127.1.0.0/16 to 127.8.0.0/16.
fn source(number: u64) -> IpAddr {
    let number = u32::try_from(number % (1 << 16)).unwrap_or_default();
    let [_, _, high, low] = (number / GROUPS + 1).to_be_bytes();
    let group = u8::try_from(number % GROUPS + 1).unwrap_or(1);
    IpAddr::V4(Ipv4Addr::new(127, group, high, low))
}

/// Sends a frame in each interval, and discards all that arrives, until the link ends.
async fn send(
    attack: Attack,
    key: &Key,
    stream: TlsStream<TcpStream>,
    interval: Duration,
    counts: &Counts,
) {
    let (mut reading, writing) = tokio::io::split(stream);
    let discarding = async {
        let mut buffer = vec![0; 16 << 10];
        while reading.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    };
    tokio::select! {
        () = discarding => {}
        () = send_frames(attack, key, writing, interval, counts) => {}
    }
}

async fn send_frames(
    attack: Attack,
    key: &Key,
    mut stream: WriteHalf<TlsStream<TcpStream>>,
    interval: Duration,
    counts: &Counts,
) {
    // The links do not send at the same moment.
    let phase = interval * u32::from(key.id().as_bytes()[0]) / 256;
    let mut ticks = tokio::time::interval_at(Instant::now() + phase, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0.. {
        ticks.tick().await;
        let frame = encoded(&attack.frame(key, number));
        if stream.write_all(&frame).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        counts.sent.fetch_add(1, Ordering::Relaxed);
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
