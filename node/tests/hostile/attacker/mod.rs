//! An attacker, which sends hand-made frames, and the node that it attacks.

#![allow(dead_code, unused_imports, unreachable_pub, clippy::unwrap_used)] // no test file uses everything

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

mod sybils;
pub mod tls;
mod victim;

pub use sybils::{Conduct, Sybil, SybilLink, Sybils, end_all, honest_address};
pub use victim::{Victim, config};

/// Maximum duration of each step of a test that has no limit of its own.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// An attacker's connection to a victim, after the TLS handshake.
pub struct Attacker {
    pub key: Key,
    pub stream: TlsStream<TcpStream>,
    buffer: BytesMut,
    frames: Option<Frames>,
}

/// The way in which a connection has ended, as the attacker sees it.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The victim has sent a goodbye.
    Goodbye(Reason),
    /// The victim has closed or reset the connection without a goodbye.
    Closed,
}

/// Returns a new key. Each call returns another one.
pub fn key() -> Key {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut secret = [0xa7; 32];
    secret[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    Key::from_secret(&secret)
}

/// Waits for `work`. If it takes longer than `limit`, fails the test with the text `what`.
pub async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| panic!("waited too long for: {what}"))
}

impl Attacker {
    /// Connects and performs the TLS handshake of a link. Sends no frame.
    pub async fn connect_tls(to: SocketAddr) -> Self {
        Self::connect_tls_as(to, key(), ALPN_LINK).await
    }

    /// Connects and performs the TLS handshake with this key and ALPN protocol. Sends no frame.
    pub async fn connect_tls_as(to: SocketAddr, key: Key, alpn: &[u8]) -> Self {
        let connector = TlsConnector::from(tls::client(&key, &[alpn]));
        let tcp = TcpStream::connect(to).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let stream = connector.connect(tls::server_name(), tcp).await.unwrap();
        Self::new(key, stream.into())
    }

    /// Connects, and exchanges Hellos.
    pub async fn link(to: SocketAddr) -> Self {
        Self::link_as(to, key(), |_| {}).await
    }

    /// Connects with this key, and exchanges Hellos. `change` alters the attacker's Hello.
    pub async fn link_as(to: SocketAddr, key: Key, change: impl FnOnce(&mut Hello)) -> Self {
        let mut attacker = Self::connect_tls_as(to, key, ALPN_LINK).await;
        let mut hello = hello();
        change(&mut hello);
        attacker.send(&Frame::Hello(hello)).await;
        match attacker.frame().await {
            Some(Frame::Hello(_)) => attacker,
            other => panic!("expected Hello, got {other:?}"),
        }
    }

    /// Accepts one connection and performs the TLS handshake, as a node would.
    pub async fn accept(listener: &TcpListener, key: &Key) -> Self {
        let (tcp, _) = listener.accept().await.unwrap();
        let acceptor = TlsAcceptor::from(tls::server(key));
        let stream = acceptor.accept(tcp).await.unwrap();
        Self::new(key.clone(), stream.into())
    }

    /// Opens a stream with the opening `open`. Also returns the status byte that answers it; `None` if the
    /// victim closes the connection instead.
    pub async fn open(to: SocketAddr, key: Key, open: &StreamOpen) -> (Self, Option<u8>) {
        let mut attacker = Self::connect_tls_as(to, key, ALPN_STREAM).await;
        let mut out = Vec::new();
        open.encode(&mut out);
        attacker.send_raw(&out).await;
        let status =
            within(STEP_TIMEOUT, "a stream's answer", attacker.stream.read_u8()).await.ok();
        (attacker, status)
    }

    fn new(key: Key, stream: TlsStream<TcpStream>) -> Self {
        Self { key, stream, buffer: BytesMut::new(), frames: None }
    }

    /// Returns the attacker's identity.
    pub fn id(&self) -> NodeId {
        self.key.id()
    }

    /// Sends one frame. Ignores errors: if the victim has closed the connection, the next read shows it.
    pub async fn send(&mut self, frame: &Frame) {
        self.send_raw(&encoded(frame)).await;
    }

    /// Sends bytes. Ignores errors: if the victim has closed the connection, the next read shows it.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        let sending = async {
            let _ = self.stream.write_all(bytes).await;
            let _ = self.stream.flush().await;
        };
        within(STEP_TIMEOUT, "the victim to read", sending).await;
    }

    /// Sends `bytes`, and reads frames at the same time. Returns the values that `keep` makes from the
    /// frames. Ends when there are `count` values, or when the victim closes the link.
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
        within(STEP_TIMEOUT * 3, "an exchange", both).await;
        kept
    }

    /// Returns the next frame; `None` once the connection has ended.
    pub async fn frame(&mut self) -> Option<Frame> {
        within(STEP_TIMEOUT, "a frame", self.next()).await
    }

    /// Returns the next frame that is neither a ping nor an acknowledgement.
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
        within(STEP_TIMEOUT, "the victim to hang up", reading).await
    }

    /// Returns the fault that the victim reports in its goodbye.
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

/// Returns a Hello that every victim without a secret accepts.
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
        membership: None,
    }
}

/// Returns an opening for `protocol` that every victim without a secret accepts.
pub fn opening(protocol: &str) -> StreamOpen {
    StreamOpen {
        network: "peerkit".into(),
        proof: None,
        protocol: protocol.into(),
        token: None,
        membership: None,
    }
}

/// Returns the bytes of a frame.
pub fn encoded(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out
}

/// Returns the bytes of a frame with this kind, this body and the right length.
pub fn raw_frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 1).unwrap();
    [&len.to_le_bytes()[..], &[kind], body].concat()
}

/// Returns the frame of a text message.
pub fn text(text: &str) -> Frame {
    Frame::Message(PackedMessage::uncompressed(Message::text(text)))
}

/// Returns the number of TCP sockets that this process holds open. Other file descriptors are not counted, as
/// the runtimes of tests that wait for their turn open and close some.
pub fn open_sockets() -> usize {
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

/// Waits until `done` returns true. After [`STEP_TIMEOUT`], fails the test with `what` and the text of
/// `state`.
pub async fn until(what: &str, mut done: impl FnMut() -> bool, state: impl Fn() -> String) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(STEP_TIMEOUT, waiting).await.is_err() {
        panic!("waited too long for: {what}; {}", state());
    }
}

/// Waits until no other test runs. Tests that count the sockets of the process can't run in parallel.
pub async fn wait_for_turn() -> tokio::sync::OwnedMutexGuard<()> {
    static ONE: std::sync::LazyLock<Arc<tokio::sync::Mutex<()>>> =
        std::sync::LazyLock::new(Arc::default);
    ONE.clone().lock_owned().await
}
