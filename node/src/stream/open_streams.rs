//! The open streams by peer, so that all streams of a peer can be ended: when it is banned or penalized, or when it is
//! no longer a member of the network.
//!
//! A stream is registered before its peer is checked. So a ban or a revocation at the same moment is seen by
//! the check, or ends the registered stream.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use peerkit_proto::id::NodeId;

use crate::lock::lock;

/// The open streams of a node.
#[derive(Debug, Default)]
pub(crate) struct OpenStreams(Mutex<HashMap<NodeId, Vec<Arc<StreamEnd>>>>);

/// The end of one stream: whether it was ordered, and the tasks to wake then.
#[derive(Debug, Default)]
struct StreamEnd {
    is_ended: AtomicBool,
    reader: Mutex<Option<Waker>>,
    writer: Mutex<Option<Waker>>,
}

/// The entry of one stream, which is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct StreamEntry {
    streams: Arc<OpenStreams>,
    peer: NodeId,
    end: Arc<StreamEnd>,
}

/// The half of a stream that waits.
#[derive(Debug, Clone, Copy)]
pub(super) enum StreamHalf {
    Read,
    Write,
}

impl OpenStreams {
    /// Registers a stream to or from `peer`.
    pub(crate) fn register(self: &Arc<Self>, peer: NodeId) -> StreamEntry {
        let end = Arc::<StreamEnd>::default();
        lock(&self.0).entry(peer).or_default().push(end.clone());
        StreamEntry { streams: self.clone(), peer, end }
    }

    /// Ends all streams to and from `peer`.
    pub(crate) fn end(&self, peer: NodeId) {
        let ended = lock(&self.0).get(&peer).cloned().unwrap_or_default();
        ended.iter().for_each(|end| end.end());
    }

    /// Ends all streams of the peers for which `is_hit` returns true.
    pub(crate) fn end_where(&self, is_hit: impl Fn(NodeId) -> bool) {
        let peers: Vec<NodeId> = lock(&self.0).keys().copied().collect();
        peers.into_iter().filter(|peer| is_hit(*peer)).for_each(|peer| self.end(peer));
    }
}

impl StreamEnd {
    fn end(&self) {
        self.is_ended.store(true, Ordering::SeqCst);
        for waiting in [&self.reader, &self.writer] {
            let waker = lock(waiting).take();
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

impl StreamEntry {
    /// Runs a step of reading or writing, unless the stream has to end.
    #[inline]
    pub(super) fn poll<T>(
        &self,
        half: StreamHalf,
        cx: &mut Context<'_>,
        step: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.end.is_ended.load(Ordering::Relaxed) {
            return Poll::Ready(Err(ended()));
        }
        let polled = step(cx);
        if polled.is_pending() {
            let waiting = match half {
                StreamHalf::Read => &self.end.reader,
                StreamHalf::Write => &self.end.writer,
            };
            let mut waiting = lock(waiting);
            if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waiting = Some(cx.waker().clone());
            }
            drop(waiting);
            // Checked again: the end may have come before the waker was there.
            if self.end.is_ended.load(Ordering::SeqCst) {
                return Poll::Ready(Err(ended()));
            }
        }
        polled
    }
}

impl Drop for StreamEntry {
    fn drop(&mut self) {
        let mut streams = lock(&self.streams.0);
        if let Some(of_peer) = streams.get_mut(&self.peer) {
            of_peer.retain(|end| !Arc::ptr_eq(end, &self.end));
            if of_peer.is_empty() {
                streams.remove(&self.peer);
            }
        }
    }
}

fn ended() -> io::Error {
    let why = "this node has ended the stream: its peer is banned or penalized, or is no member of the network any \
               more";
    io::Error::new(io::ErrorKind::ConnectionAborted, why)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    /// Waits in one half of a stream, for data that never comes.
    async fn wait(entry: &StreamEntry, half: StreamHalf) -> io::Result<()> {
        poll_fn(|cx| entry.poll(half, cx, |_| Poll::Pending)).await
    }

    #[tokio::test]
    async fn the_end_wakes_both_halves_of_each_stream_of_the_peer_and_no_other() {
        let streams = Arc::<OpenStreams>::default();
        let [first, second, other] = [1, 1, 2].map(|n| streams.register(id(n)));
        let ends = async {
            tokio::task::yield_now().await;
            streams.end_where(|peer| peer == id(1));
        };
        let (read, written, next, ()) = tokio::join!(
            wait(&first, StreamHalf::Read),
            wait(&first, StreamHalf::Write),
            wait(&second, StreamHalf::Read),
            ends,
        );
        for ended in [read, written, next, wait(&second, StreamHalf::Write).await] {
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        }
        let polled = poll_fn(|cx| {
            Poll::Ready(other.poll(StreamHalf::Read, cx, |_| Poll::<io::Result<()>>::Pending))
        });
        assert!(polled.await.is_pending());
        drop((first, second, other));
        assert!(lock(&streams.0).is_empty());
    }
}
