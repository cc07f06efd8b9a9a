//! Many attacking identities (Sybils) in a chosen number of address groups.
//!
//! ```ignore
//! let mut config = config();
//! config.limit_loopback = true; // 127.A.0.0/16 are groups, and the limits by address apply
//! let victim = Victim::with_config(config).await;
//! let sybils = Sybils::new(100, 8); // 100 identities in 8 groups
//! let links = sybils.link_all(victim.address()).await; // those that the victim has accepted
//! for link in &links {
//!     link.send(&frame); // never waits; the link also answers pings and reads what arrives
//! }
//! victim.check_honest_node_is_served().await;
//! links.iter().filter(|link| link.is_up()).count();
//! end_all(links).await; // how each link has ended
//! ```
//!
//! A [`Sybil`] by itself makes single connections from its address: [`Sybil::connect`] (TCP),
//! [`Sybil::connect_tls`], [`Sybil::link`]. They return errors, as a victim refuses most of them.
//!
//! Honest nodes that listen at 127.A.B.C also dial from there: see [`honest_address`].

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use peerkit::{Config, Key, NodeId};
use peerkit_proto::frame::query::QueryDone;
use peerkit_proto::frame::{Frame, Frames};
use peerkit_proto::hello::{ALPN_LINK, Hello};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsConnector;

use super::{Attacker, End, STEP_TIMEOUT, encoded, hello, key, tls, within};

/// The first group of attackers is 127.100.0.0/16. Tests use smaller numbers for honest nodes.
const FIRST_GROUP: usize = 100;

/// Maximum number of handshakes of [`Sybils::link_all`] at the same time.
const LINKS_AT_ONCE: usize = 16;

/// Number of bytes that [`Conduct::BarelyReads`] reads at once.
const SMALL_READ: usize = 4096;

/// Attacking identities, each at an address of its own.
pub struct Sybils {
    pub all: Vec<Sybil>,
}

/// One attacking identity.
#[derive(Clone)]
pub struct Sybil {
    pub key: Key,
    /// The address from which it connects.
    pub ip: IpAddr,
}

impl Sybils {
    /// Makes `count` identities, spread evenly over `groups` groups (127.100.0.0/16 and following).
    pub fn new(count: usize, groups: usize) -> Self {
        let address = |n: usize| {
            let [group, host] = [FIRST_GROUP + n % groups, 1 + n / groups];
            let [group, high, low] = [group, host >> 8, host & 0xff].map(|n| n.try_into().unwrap());
            IpAddr::V4(Ipv4Addr::new(127, group, high, low))
        };
        Self { all: (0..count).map(|n| Sybil { key: key(), ip: address(n) }).collect() }
    }

    /// Makes a link of each identity with the node at `to`. Returns those that the node has accepted.
    pub async fn link_all(&self, to: SocketAddr) -> Vec<SybilLink> {
        let mut links = Vec::new();
        for batch in self.all.chunks(LINKS_AT_ONCE) {
            let mut linking = JoinSet::new();
            for sybil in batch {
                let sybil = sybil.clone();
                linking.spawn(async move { sybil.link(to, |_| {}).await });
            }
            links.extend(linking.join_all().await.into_iter().flatten().map(SybilLink::new));
        }
        links
    }
}

impl Sybil {
    /// Connects from the identity's address.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(self.ip, 0))?;
        within(STEP_TIMEOUT, "a connection of an attacker", socket.connect(to)).await
    }

    /// Connects, and performs the TLS handshake with this ALPN protocol. Sends no frame.
    pub async fn connect_tls(&self, to: SocketAddr, alpn: &[u8]) -> io::Result<Attacker> {
        let connector = TlsConnector::from(tls::client(&self.key, &[alpn]));
        let tcp = self.connect(to).await?;
        let shaking = connector.connect(tls::server_name(), tcp);
        let stream = within(STEP_TIMEOUT, "a TLS handshake of an attacker", shaking).await?;
        Ok(Attacker::new(self.key.clone(), stream.into()))
    }

    /// Connects, and exchanges Hellos. `change` alters the attacker's Hello.
    ///
    /// # Errors
    /// The frame with which the node refuses the link, as text, or the error of the connection.
    pub async fn link(
        &self,
        to: SocketAddr,
        change: impl FnOnce(&mut Hello),
    ) -> io::Result<Attacker> {
        let mut attacker = self.connect_tls(to, ALPN_LINK).await?;
        let mut hello = hello();
        change(&mut hello);
        attacker.send(&Frame::Hello(hello)).await;
        match attacker.frame().await {
            Some(Frame::Hello(_)) => Ok(attacker),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }
}

/// The way in which an attacker's link deals with what arrives.
#[derive(Clone, Copy, Default)]
pub enum Conduct {
    /// Ends each query at once, without an answer.
    #[default]
    EndsQueries,
    /// Ends each query at once, and says that answers are missing.
    EndsQueriesIncomplete,
    /// Never ends a query.
    IgnoresQueries,
    /// Never ends a query, and reads as little as it can without being too slow: 4 KiB in two seconds.
    BarelyReads,
}

/// A link of an attacker, driven by a task: it sends what [`SybilLink::send`] is given, reads and counts what
/// arrives, and answers pings. Its [`Conduct`] says what it does with queries.
pub struct SybilLink {
    pub id: NodeId,
    queue: mpsc::UnboundedSender<Vec<u8>>,
    received: Arc<AtomicU64>,
    task: JoinHandle<End>,
}

impl SybilLink {
    pub fn new(attacker: Attacker) -> Self {
        Self::with_conduct(attacker, Conduct::default())
    }

    pub fn with_conduct(attacker: Attacker, conduct: Conduct) -> Self {
        let (queue, orders) = mpsc::unbounded_channel();
        let received = Arc::<AtomicU64>::default();
        let id = attacker.id();
        let pongs = queue.downgrade();
        let task = tokio::spawn(drive(attacker, conduct, orders, pongs, received.clone()));
        Self { id, queue, received, task }
    }

    /// Queues one frame.
    pub fn send(&self, frame: &Frame) {
        self.send_raw(encoded(frame));
    }

    /// Queues bytes.
    pub fn send_raw(&self, bytes: Vec<u8>) {
        // Fails if the link has ended, which `is_up` shows.
        let _ = self.queue.send(bytes);
    }

    /// Returns the number of frames that the node has sent.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Returns whether the node has kept the link so far.
    pub fn is_up(&self) -> bool {
        !self.task.is_finished()
    }

    /// Sends what is queued, closes the connection if the node has not, and returns how it ended.
    pub async fn end(self) -> End {
        drop(self.queue);
        within(STEP_TIMEOUT, "the end of an attacker's link", self.task).await.unwrap()
    }
}

/// Ends all links, and returns how they ended.
pub async fn end_all(links: Vec<SybilLink>) -> Vec<End> {
    let mut ends = Vec::new();
    for link in links {
        ends.push(link.end().await);
    }
    ends
}

/// Sends what `orders` brings, and reads at the same time. Ends when the node closes the connection, or when
/// `orders` ends.
async fn drive(
    attacker: Attacker,
    conduct: Conduct,
    mut orders: mpsc::UnboundedReceiver<Vec<u8>>,
    pongs: mpsc::WeakUnboundedSender<Vec<u8>>,
    received: Arc<AtomicU64>,
) -> End {
    let Attacker { stream, mut buffer, frames, .. } = attacker;
    let (mut from, mut to) = tokio::io::split(stream);
    let writing = async {
        while let Some(bytes) = orders.recv().await {
            // If the node has closed the connection, the reader notices.
            let _ = to.write_all(&bytes).await;
            let _ = to.flush().await;
        }
        let _ = to.shutdown().await;
        End::Closed
    };
    let reading = async {
        let mut end = End::Closed;
        // Frames that came together with the Hello.
        let mut first = frames;
        loop {
            loop {
                let frame = match first.as_mut().and_then(Frames::next) {
                    Some(frame) => Some(frame.unwrap()),
                    None => match next_frame(&mut buffer) {
                        Some(frame) => frame,
                        None => break,
                    },
                };
                received.fetch_add(1, Ordering::Relaxed);
                let Some(frame) = frame else { continue };
                match frame {
                    Frame::Ping(ping) => {
                        let pong = encoded(&Frame::Pong(ping));
                        drop(pongs.upgrade().map(|queue| queue.send(pong)));
                    }
                    Frame::Query(query) => {
                        let complete = match conduct {
                            Conduct::EndsQueries => true,
                            Conduct::EndsQueriesIncomplete => false,
                            Conduct::IgnoresQueries | Conduct::BarelyReads => continue,
                        };
                        let done = QueryDone { id: query.id, depth: query.depth, complete };
                        let done = encoded(&Frame::QueryDone(done));
                        drop(pongs.upgrade().map(|queue| queue.send(done)));
                    }
                    Frame::Goodbye { reason, .. } => end = End::Goodbye(reason),
                    _ => {}
                }
            }
            let read = match conduct {
                Conduct::BarelyReads => {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    from.read_buf(&mut (&mut buffer).limit(SMALL_READ)).await
                }
                _ => from.read_buf(&mut buffer).await,
            };
            if read.unwrap_or(0) == 0 {
                return end;
            }
        }
    };
    tokio::select! {
        end = reading => end,
        end = writing => end,
    }
}

/// Takes the next frame from `buffer`, if it is there as a whole. Decodes only those kinds that [`drive`] handles:
/// a hundred attackers that decode all answers would leave little of the machine to the nodes that they attack.
fn next_frame(buffer: &mut BytesMut) -> Option<Option<Frame>> {
    const HANDLED: [u8; 4] = [0x02, 0x03, 0x20, 0x25];
    let (length, rest) = buffer.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let is_handled = HANDLED.contains(rest.get(..length)?.first()?);
    let mut bytes = buffer.split_to(4 + length);
    let mut frames = is_handled.then(|| Frames::split(&mut bytes, &Config::default()).unwrap());
    Some(frames.as_mut().and_then(Frames::next).map(Result::unwrap))
}

/// Returns an address for the honest node `n` to listen at, which also dials from there: each of the first 99
/// nodes has a group of its own, 127.1.0.0/16 and following.
pub fn honest_address(n: usize) -> String {
    assert!(n < FIRST_GROUP - 1, "there are more honest nodes than groups for them");
    format!("127.{}.0.1:0", n + 1)
}
