//! Streams for bulk data: async byte streams, each on a TLS connection of its own. So the kernel controls the
//! flow of each stream, and bulk data never delays messages.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use peerkit_proto::config::Config;
use peerkit_proto::id::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, oneshot};

use crate::channel::Channel;
use crate::lock::lock;
use crate::tls::ExpectedBytes;

mod call_back;
mod open;
mod open_streams;

pub(crate) use call_back::refusal;
use open_streams::{OpenStreams, StreamEntry, StreamHalf};

/// Maximum number of call-backs under way. In each, this node dials addresses that another node has chosen.
const MAX_CALL_BACKS: usize = 16;

/// An async byte stream to or from another node, encrypted and authenticated.
#[derive(Debug)]
pub struct Stream {
    pub(crate) channel: Channel,
    /// The number of bytes that the peer is sure to send. The record layer uses it.
    pub(crate) expected: ExpectedBytes,
    /// Ends the stream if its peer is banned or revoked.
    entry: StreamEntry,
    /// Counts this stream as one that the peer has opened.
    _permit: Option<StreamPermit>,
}

impl Stream {
    fn new(mut channel: Channel, entry: StreamEntry, permit: Option<StreamPermit>) -> Self {
        let expected = channel.expect_bulk();
        Self { channel, expected, entry, _permit: permit }
    }

    /// Returns the node at the other end, as the handshake has proven.
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
        let Self { channel, entry, .. } = &mut *self;
        entry.poll(StreamHalf::Read, cx, |cx| Pin::new(channel).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { channel, entry, .. } = &mut *self;
        entry.poll(StreamHalf::Write, cx, |cx| Pin::new(channel).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { channel, entry, .. } = &mut *self;
        entry.poll(StreamHalf::Write, cx, |cx| Pin::new(channel).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.channel.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { channel, entry, .. } = &mut *self;
        entry.poll(StreamHalf::Write, cx, |cx| Pin::new(channel).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { channel, entry, .. } = &mut *self;
        entry.poll(StreamHalf::Write, cx, |cx| Pin::new(channel).poll_shutdown(cx))
    }
}

/// Reads a length of four bytes, then a block of that length. A length over `max` is an error, whose text
/// calls the block `what`.
pub(crate) async fn read_block(
    channel: &mut Channel,
    max: usize,
    what: &str,
) -> Result<Bytes, String> {
    let broken = |error: io::Error| error.to_string();
    let len = channel.read_u32_le().await.map_err(broken)? as usize;
    if len > max {
        return Err(format!("{what} of {len} bytes"));
    }
    // Memory is taken only for a length within the limit.
    let mut block = vec![0; len];
    channel.read_exact(&mut block).await.map_err(broken)?;
    Ok(block.into())
}

/// The streams that peers have opened, and those that this node waits for.
pub(crate) struct Streams {
    /// All open streams, whichever side has opened them.
    pub(crate) open: Arc<OpenStreams>,
    /// The streams that tasks of this node wait for, by the tokens of their call-backs.
    pub(crate) awaited: Mutex<HashMap<[u8; 16], AwaitedStream>>,
    inbound: Arc<Mutex<HashMap<NodeId, usize>>>,
    max_per_peer: usize,
    max: usize,
    /// Permits for the call-backs that are under way.
    pub(crate) call_backs: Arc<Semaphore>,
}

/// A stream that a task waits for. The node `from` has to open it.
pub(crate) struct AwaitedStream {
    pub(crate) from: NodeId,
    pub(crate) reply: oneshot::Sender<Stream>,
}

/// Counts a stream among those that its peer has opened, until it is dropped.
#[derive(Debug)]
pub(crate) struct StreamPermit {
    inbound: Arc<Mutex<HashMap<NodeId, usize>>>,
    peer: NodeId,
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut inbound = lock(&self.inbound);
        if let Some(count) = inbound.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                inbound.remove(&self.peer);
            }
        }
    }
}

impl Streams {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            open: Arc::default(),
            awaited: Mutex::default(),
            inbound: Arc::default(),
            max_per_peer: config.max_streams_per_peer,
            max: config.max_streams,
            call_backs: Arc::new(Semaphore::new(MAX_CALL_BACKS)),
        }
    }

    /// Returns a permit for one more stream of `peer`, if the limits allow it.
    pub(crate) fn permit(&self, peer: NodeId) -> Option<StreamPermit> {
        let mut inbound = lock(&self.inbound);
        let of_peer = inbound.get(&peer).copied().unwrap_or_default();
        // The limit for one peer keeps it from using up the streams of all others.
        if of_peer >= self.max_per_peer || inbound.values().sum::<usize>() >= self.max {
            return None;
        }
        inbound.insert(peer, of_peer + 1);
        Some(StreamPermit { inbound: self.inbound.clone(), peer })
    }

    /// Removes and returns the awaited stream with `token`, if it is awaited from `peer`. Other nodes may
    /// have seen the token, and must not be able to use it.
    pub(crate) fn take_awaited(&self, token: &[u8; 16], peer: NodeId) -> Option<AwaitedStream> {
        let mut awaited = lock(&self.awaited);
        match awaited.get(token) {
            Some(found) if found.from == peer => awaited.remove(token),
            _ => None,
        }
    }
}
