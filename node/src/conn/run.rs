//! The task of one link, from its first event to its last.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use peerkit_proto::event::{Event, LinkEnd, MessageFailure, Reason};
use peerkit_proto::link::{Link, Output};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::read::LinkReader;
use super::{Conn, write};
use crate::actor::mailbox::LinkReport;
use crate::inner::Inner;
use crate::lock::lock;

/// A link that this node has admitted, ready to run.
pub(crate) struct Established<S> {
    pub(crate) conn: Arc<Conn>,
    pub(crate) link: Link,
    pub(crate) stream: S,
    /// Bytes that were read behind the peer's Hello.
    pub(crate) buffer: BytesMut,
}

/// Starts a task that makes a link with `making` and then runs that link, from its first event to its last.
pub(crate) fn start<S>(
    inner: &Arc<Inner>,
    making: impl Future<Output = Option<Box<Established<S>>>> + Send + 'static,
) where
    S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
{
    // Most of the memory of an idle link is the memory of this task. So futures that are needed only for a
    // moment are boxed.
    let making = Box::pin(making);
    let node = inner.clone();
    inner.tasks.spawn(async move {
        if let Some(established) = making.await {
            run(node, established).await;
        }
    });
}

async fn run<S>(inner: Arc<Inner>, mut established: Box<Established<S>>)
where
    S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
{
    let _running = inner.tasks.links.token();
    let (begun, deferred) = match Box::pin(begin(&inner, &mut established)).await {
        Ok(deferred) => (Ok(()), deferred),
        Err(error) => (Err(error), VecDeque::new()),
    };

    // Both halves run in one task, so that the application's answers to messages go out without waking
    // another task.
    let Established { conn, link, stream, buffer } = unboxed(established);
    let (from, to) = tokio::io::split(stream);
    let mut reader = LinkReader::new(inner.clone(), conn.clone(), link, from, buffer, deferred);
    let mut writing = std::pin::pin!(write::write(&inner, &conn, to));
    let mut written = false;
    let ended = match begun {
        Ok(()) => {
            let mut reading = std::pin::pin!(reader.read());
            loop {
                tokio::select! {
                    biased;
                    ended = &mut reading => break ended,
                    () = &mut writing, if !written => written = true,
                }
            }
        }
        Err(error) => EndedLink::lost(&error),
    };
    // Without a goodbye: it was sent before, or the connection is lost.
    conn.outbox.close(ended.link_end.reason.clone(), false);
    // Queued frames may still go out, if the peer reads them.
    if !written {
        let _ = tokio::time::timeout(ended.flush, writing).await;
    }
    Box::pin(finish(&inner, &conn, ended)).await;
}

/// Moves a value out of its box and frees the box. Destructuring the box in place would keep its
/// memory.
#[expect(clippy::boxed_local, reason = "the box is to be freed")]
fn unboxed<T>(boxed: Box<T>) -> T {
    *boxed
}

/// Delivers the event about the new link, and writes the link's first frames. Returns the link's other
/// outputs.
async fn begin<S>(inner: &Inner, established: &mut Established<S>) -> io::Result<VecDeque<Output>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Established { conn, link, stream, .. } = established;
    inner.deliver_event(Event::connected(conn.peer.clone())).await;
    // If our Hello has not been sent yet, it goes out before all frames in the outbox.
    let timeout = inner.config.handshake_timeout;
    let said = tokio::time::timeout(timeout, write_hello(link, stream)).await;
    said.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Reports lost messages and the end of the link, and removes the link from the node's links.
async fn finish(inner: &Inner, conn: &Arc<Conn>, ended: EndedLink) {
    let EndedLink { link_end, confirmed, .. } = ended;
    let peer = conn.peer.clone();
    // Dropping the senders ends the wait of tasks for replies and pongs.
    lock(&conn.requests).clear();
    lock(&conn.pings).clear();
    let (accepted, taken) = conn.outbox.counts();
    let failure = MessageFailure {
        unsent: accepted.saturating_sub(taken),
        unconfirmed: taken.saturating_sub(confirmed),
        reason: link_end.reason.clone(),
    };
    if failure.unsent + failure.unconfirmed != 0 {
        conn.meter.failed(failure.unsent + failure.unconfirmed);
        inner.meter.failed(failure.unsent + failure.unconfirmed);
        inner.deliver_event(Event::NodeMessageFailed { peer: peer.clone(), failure }).await;
    }
    // The link is removed before the event, so that the application no longer finds it.
    inner.actor.link_down(conn, link_end.clone()).await;
    inner.deliver_event(Event::disconnected(peer, link_end)).await;
    inner.actor.report(LinkReport::EndReported(conn.clone())).await;
}

/// Writes the link's first frames. Returns the link's other outputs, which come from frames right behind the
/// peer's Hello.
async fn write_hello(
    link: &mut Link,
    stream: &mut (impl AsyncWrite + Unpin),
) -> io::Result<VecDeque<Output>> {
    let mut out = Vec::new();
    let mut deferred = VecDeque::new();
    while let Some(output) = link.poll() {
        match output {
            Output::Send(frame) => frame.encode(&mut out),
            other => deferred.push_back(other),
        }
    }
    stream.write_all(&out).await?;
    stream.flush().await?;
    Ok(deferred)
}

/// The end of a link.
pub(super) struct EndedLink {
    pub(super) link_end: LinkEnd,
    /// Number of our messages that the peer's application has received.
    pub(super) confirmed: u64,
    /// Time for which the peer may still read the queued frames.
    pub(super) flush: Duration,
}

impl EndedLink {
    fn lost(error: &io::Error) -> Self {
        let link_end = LinkEnd { reason: Reason::Lost(error.to_string()), by_peer: false };
        Self { link_end, confirmed: 0, flush: Duration::ZERO }
    }
}
