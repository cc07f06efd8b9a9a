//! A peer that speaks the protocol by hand, and the node that it attacks.

#![allow(dead_code, unused_imports, unreachable_pub, clippy::unwrap_used)] // each test file uses its part

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use peerkit::{Config, Key, Message, NodeId, Reason};
use peerkit_proto::frame::{Frame, Frames};
use peerkit_proto::hello::{ALPN_LINK, ALPN_STREAM, Hello, StreamOpen};
use peerkit_proto::message::PackedMessage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

pub mod tls;
mod victim;

pub use victim::{Victim, config};

/// Longest time for each step without a limit of its own.
pub const LONG: Duration = Duration::from_secs(60);

/// A connection to a victim whose TLS handshake is finished.
pub struct Attacker {
    pub key: Key,
    pub stream: TlsStream<TcpStream>,
    buffer: BytesMut,
    frames: Option<Frames>,
}

/// The end of a connection, as the attacker sees it.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// With a goodbye.
    Goodbye(Reason),
    /// Closed or reset without a goodbye.
    Closed,
}

/// Returns a key that no other call returns.
pub fn key() -> Key {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut secret = [0xa7; 32];
    secret[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    Key::from_secret(&secret)
}

/// Finishes `work` in time, or fails the test with `what`.
pub async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| panic!("too long: {what}"))
}

impl Attacker {
    /// Connects and finishes the TLS handshake of a link. Sends nothing more.
    pub async fn secure(to: SocketAddr) -> Self {
        Self::secure_as(to, key(), ALPN_LINK).await
    }

    /// Connects and finishes the TLS handshake. Sends nothing more.
    pub async fn secure_as(to: SocketAddr, key: Key, alpn: &[u8]) -> Self {
        let connector = TlsConnector::from(tls::client(&key, &[alpn]));
        let tcp = TcpStream::connect(to).await.unwrap();
        let stream = connector.connect(tls::server_name(), tcp).await.unwrap();
        Self::new(key, stream.into())
    }

    /// Makes a link: both ends have said Hello.
    pub async fn link(to: SocketAddr) -> Self {
        Self::link_as(to, key(), |_| {}).await
    }

    /// Makes a link with a Hello that `change` has altered.
    pub async fn link_as(to: SocketAddr, key: Key, change: impl FnOnce(&mut Hello)) -> Self {
        let mut attacker = Self::secure_as(to, key, ALPN_LINK).await;
        let mut hello = hello();
        change(&mut hello);
        attacker.send(&Frame::Hello(hello)).await;
        match attacker.frame().await {
            Some(Frame::Hello(_)) => attacker,
            other => panic!("no Hello but {other:?}"),
        }
    }

    /// Waits for a connection at `listener`, and accepts it as a node would.
    pub async fn accept(listener: &TcpListener, key: &Key) -> Self {
        let (tcp, _) = listener.accept().await.unwrap();
        let acceptor = TlsAcceptor::from(tls::server(key));
        let stream = acceptor.accept(tcp).await.unwrap();
        Self::new(key.clone(), stream.into())
    }

    /// Makes a stream with the opening `open`. Returns the byte of the answer, too.
    pub async fn open(to: SocketAddr, key: Key, open: &StreamOpen) -> (Self, Option<u8>) {
        let mut attacker = Self::secure_as(to, key, ALPN_STREAM).await;
        let mut out = Vec::new();
        open.encode(&mut out);
        attacker.send_raw(&out).await;
        let status = within(LONG, "a stream's answer", attacker.stream.read_u8()).await.ok();
        (attacker, status)
    }

    fn new(key: Key, stream: TlsStream<TcpStream>) -> Self {
        Self { key, stream, buffer: BytesMut::new(), frames: None }
    }

    /// Returns the attacker's identity.
    pub fn id(&self) -> NodeId {
        self.key.id()
    }

    /// Sends one frame. An error because the victim has closed the link shows later.
    pub async fn send(&mut self, frame: &Frame) {
        self.send_raw(&encoded(frame)).await;
    }

    /// Sends bytes. An error because the victim has closed the link shows later.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        let sending = async {
            let _ = self.stream.write_all(bytes).await;
            let _ = self.stream.flush().await;
        };
        within(LONG, "the victim does not read", sending).await;
    }

    /// Sends `bytes` and reads at the same time, until `keep` has made `count` values of the received
    /// frames, or the victim has closed the link.
    pub async fn exchange<T>(
        &mut self,
        bytes: &[u8],
        mut keep: impl FnMut(Frame) -> Option<T>,
        count: usize,
    ) -> Vec<T> {
        let (mut from, mut to) = tokio::io::split(&mut self.stream);
        let mut kept = Vec::new();
        let sending = async {
            let _ = to.write_all(bytes).await;
            let _ = to.flush().await;
        };
        let reading = async {
            while kept.len() < count {
                let mut frames = Frames::split(&mut self.buffer, &Config::default()).unwrap();
                while let Some(frame) = frames.next() {
                    kept.extend(keep(frame.unwrap()));
                }
                if kept.len() < count && from.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                    break;
                }
            }
        };
        let both = async { tokio::join!(sending, reading) };
        within(LONG * 3, "an exchange", both).await;
        kept
    }

    /// Returns the next frame, or `None` once the connection has ended.
    pub async fn frame(&mut self) -> Option<Frame> {
        within(LONG, "no frame", self.next()).await
    }

    /// Returns the next frame, without pings, pongs and acknowledgements.
    pub async fn content(&mut self) -> Option<Frame> {
        loop {
            match self.frame().await? {
                Frame::Received(_) | Frame::Ping(_) => {}
                frame => return Some(frame),
            }
        }
    }

    /// Reads until the victim ends the connection.
    pub async fn end(&mut self) -> End {
        let reading = async {
            let mut end = End::Closed;
            while let Some(frame) = self.next().await {
                if let Frame::Goodbye { reason, .. } = frame {
                    end = End::Goodbye(reason);
                }
            }
            end
        };
        within(LONG, "the victim does not hang up", reading).await
    }

    /// Returns the fault in the victim's goodbye.
    pub async fn fault(&mut self) -> String {
        match self.end().await {
            End::Goodbye(Reason::Fault(text)) => text,
            other => panic!("no goodbye with a fault: {other:?}"),
        }
    }

    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.frames.as_mut().and_then(Frames::next) {
                return Some(frame.unwrap());
            }
            self.frames = Some(Frames::split(&mut self.buffer, &Config::default()).unwrap());
            if let Some(frame) = self.frames.as_mut().and_then(Frames::next) {
                return Some(frame.unwrap());
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

/// Returns a Hello that every victim accepts.
pub fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        network: "peerkit".into(),
        name: "mallory".into(),
        incarnation: 1,
        features: 0,
        addresses: Vec::new(),
        proof: None,
        owner: None,
        time: None,
    }
}

/// Returns an opening for `protocol` that every victim accepts.
pub fn opening(protocol: &str) -> StreamOpen {
    StreamOpen { network: "peerkit".into(), proof: None, protocol: protocol.into(), token: None }
}

/// Returns the bytes of a frame.
pub fn encoded(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out
}

/// Returns the bytes of a frame of any kind and body, with the right length.
pub fn raw_frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 1).unwrap();
    [&len.to_le_bytes()[..], &[kind], body].concat()
}

/// Returns the frame of a text message.
pub fn text(text: &str) -> Frame {
    Frame::Message(PackedMessage::uncompressed(Message::text(text)))
}

/// Returns the number of TCP sockets that this process holds open. Other descriptors come and go with
/// the runtimes of tests that wait for their turn.
pub fn descriptors() -> usize {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let tables: String = tables.iter().filter_map(|t| std::fs::read_to_string(t).ok()).collect();
    let inodes: BTreeSet<_> =
        tables.lines().filter_map(|line| line.split_whitespace().nth(9)).collect();
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    open.filter(|entry| {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let inode = target.to_str().and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']'));
        inode.is_some_and(|inode| inodes.contains(inode))
    })
    .count()
}

/// Returns the number of tasks of this test's runtime.
pub fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Waits until `done`. If that takes too long, fails the test with the text of `state`.
pub async fn until(what: &str, mut done: impl FnMut() -> bool, state: impl Fn() -> String) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(LONG, waiting).await.is_err() {
        panic!("never came: {what}; {}", state());
    }
}

/// Makes tests run one at a time, as those that count the process's descriptors can't run in parallel.
pub async fn alone() -> tokio::sync::OwnedMutexGuard<()> {
    static ONE: std::sync::LazyLock<Arc<tokio::sync::Mutex<()>>> =
        std::sync::LazyLock::new(Arc::default);
    ONE.clone().lock_owned().await
}
