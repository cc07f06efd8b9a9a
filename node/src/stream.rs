//! Streams for bulk data: ordinary async byte streams, each on a TLS connection of its own, so that
//! the kernel does the flow control and bulk never delays messages.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use peerkit_proto::config::Config;
use peerkit_proto::id::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, oneshot};

use crate::lock::lock;
use crate::tls::{Channel, Expected};

/// Streams that others asked us to open, at once: each makes us dial where they say.
const CALL_BACKS: usize = 16;

/// An async byte stream to or from another node, encrypted and authenticated.
#[derive(Debug)]
pub struct Stream {
    pub(crate) channel: Channel,
    /// Where to say how much the other side is sure to send.
    pub(crate) expected: Expected,
    /// Counts against the streams that the peer may have open.
    _place: Option<Place>,
}

impl Stream {
    pub(crate) fn new(mut channel: Channel, place: Option<Place>) -> Self {
        let expected = channel.expect_bulk();
        Self { channel, expected, _place: place }
    }

    /// Who is at the other end, proven by the handshake.
    #[must_use]
    pub fn peer(&self) -> NodeId {
        self.channel.session().id
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.channel).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.channel).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.channel.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_shutdown(cx)
    }
}

/// The streams that are open or awaited.
pub(crate) struct Streams {
    /// Streams that we wait for the other side to open, by token.
    pub(crate) awaited: Mutex<HashMap<[u8; 16], Awaited>>,
    open: Arc<Mutex<HashMap<NodeId, usize>>>,
    max_per_peer: usize,
    max: usize,
    /// A permit for each stream that we open because others asked for it.
    pub(crate) call_backs: Arc<Semaphore>,
}

/// Whom a stream is awaited from, and who waits.
pub(crate) struct Awaited {
    pub(crate) from: NodeId,
    pub(crate) reply: oneshot::Sender<Stream>,
}

/// One of the streams that a peer has open.
#[derive(Debug)]
pub(crate) struct Place {
    open: Arc<Mutex<HashMap<NodeId, usize>>>,
    peer: NodeId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        if let Some(count) = open.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.peer);
            }
        }
    }
}

impl Streams {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            awaited: Mutex::default(),
            open: Arc::default(),
            max_per_peer: config.max_streams_per_peer,
            max: config.max_streams,
            call_backs: Arc::new(Semaphore::new(CALL_BACKS)),
        }
    }

    /// A place for one more stream of `peer`, if it may have one.
    pub(crate) fn enter(&self, peer: NodeId) -> Option<Place> {
        let mut open = lock(&self.open);
        let of_peer = open.get(&peer).copied().unwrap_or_default();
        if of_peer >= self.max_per_peer || open.values().sum::<usize>() >= self.max {
            return None;
        }
        open.insert(peer, of_peer + 1);
        Some(Place { open: self.open.clone(), peer })
    }

    /// Who waits for a stream from `peer` with `token`, once. Others than `peer` may have seen the
    /// token: for them nobody waits.
    pub(crate) fn take_awaited(&self, token: &[u8; 16], peer: NodeId) -> Option<Awaited> {
        let mut awaited = lock(&self.awaited);
        match awaited.get(token) {
            Some(found) if found.from == peer => awaited.remove(token),
            _ => None,
        }
    }
}
