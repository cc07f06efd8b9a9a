//! The task of one link, from its first event to its last.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use peerkit_proto::event::{Direction, Event, MessageFailure, Parting, Reason};
use peerkit_proto::link::{Link, Output};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::read::Reader;
use super::{Conn, write};
use crate::actor::mailbox::FromLink;
use crate::inner::Inner;
use crate::lock::lock;

/// A link that both sides have admitted, ready to run.
pub(crate) struct Established<S> {
    pub(crate) conn: Arc<Conn>,
    pub(crate) link: Link,
    pub(crate) stream: S,
    /// Bytes that were read behind the other side's Hello.
    pub(crate) buffer: BytesMut,
}

/// Starts a task in which a link is made, if it comes to that, and then runs, from its first event to
/// its last.
pub(crate) fn start<S>(
    inner: &Arc<Inner>,
    making: impl Future<Output = Option<Box<Established<S>>>> + Send + 'static,
) where
    S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
{
    // An idle link's memory is mostly this task: what is needed for a moment only is boxed.
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
    let (said, later) = match Box::pin(begin(&inner, &mut established)).await {
        Ok(later) => (Ok(()), later),
        Err(error) => (Err(error), VecDeque::new()),
    };

    // Both halves run in one task: what the application answers while it is handed messages goes out
    // without another task being woken.
    let Established { conn, link, stream, buffer } = unboxed(established);
    let (from, to) = tokio::io::split(stream);
    let mut reader = Reader::new(inner.clone(), conn.clone(), link, from, buffer, later);
    let mut writing = std::pin::pin!(write::write(&inner, &conn, to));
    let mut written = false;
    let ended = match said {
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
        Err(error) => Ended::lost(&error),
    };
    conn.outbox.close(ended.parting.reason.clone(), false);
    // What is queued may still go out where the other side takes it.
    if !written {
        let _ = tokio::time::timeout(ended.flush, writing).await;
    }
    Box::pin(finish(&inner, &conn, ended)).await;
}

/// Moves out of a box whose memory is free from then on: a box that is taken apart keeps it.
#[expect(clippy::boxed_local, reason = "the box is to be freed")]
fn unboxed<T>(boxed: Box<T>) -> T {
    *boxed
}

/// Tells the application of the link, and says what the link has to say first.
async fn begin<S>(inner: &Inner, established: &mut Established<S>) -> io::Result<VecDeque<Output>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Established { conn, link, stream, .. } = established;
    let peer = conn.peer.clone();
    inner
        .tell(match peer.direction() {
            Direction::Outbound => Event::OutboundNodeConnected { peer },
            Direction::Inbound => Event::InboundNodeConnected { peer },
        })
        .await;
    // Our Hello, where it is still to be said, goes before anything that waits in the outbox.
    let timeout = inner.config.handshake_timeout;
    let said = tokio::time::timeout(timeout, say_hello(link, stream)).await;
    said.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Reports what was lost, and takes the link off the list.
async fn finish(inner: &Inner, conn: &Arc<Conn>, ended: Ended) {
    let Ended { parting, confirmed, .. } = ended;
    let peer = conn.peer.clone();
    lock(&conn.requests).clear();
    lock(&conn.pings).clear();
    let (accepted, taken) = conn.outbox.account();
    let failure = MessageFailure {
        unsent: accepted.saturating_sub(taken),
        unconfirmed: taken.saturating_sub(confirmed),
        reason: parting.reason.clone(),
    };
    if failure.unsent + failure.unconfirmed != 0 {
        conn.meter.failed(failure.unsent + failure.unconfirmed);
        inner.meter.failed(failure.unsent + failure.unconfirmed);
        inner.tell(Event::NodeMessageFailed { peer: peer.clone(), failure }).await;
    }
    // Sent before the event, so that whoever hears of the end finds the link gone.
    inner.actor.link_down(conn, parting.clone()).await;
    inner
        .tell(match peer.direction() {
            Direction::Outbound => Event::OutboundNodeDisconnected { peer, parting },
            Direction::Inbound => Event::InboundNodeDisconnected { peer, parting },
        })
        .await;
    inner.actor.tell(FromLink::Done(conn.clone())).await;
}

/// Writes what the link has to say first. What it already has to tell us, because the other side
/// spoke on right behind its Hello, is returned.
async fn say_hello(
    link: &mut Link,
    stream: &mut (impl AsyncWrite + Unpin),
) -> io::Result<VecDeque<Output>> {
    let mut out = Vec::new();
    let mut later = VecDeque::new();
    while let Some(output) = link.poll() {
        match output {
            Output::Send(frame) => frame.encode(&mut out),
            other => later.push_back(other),
        }
    }
    stream.write_all(&out).await?;
    stream.flush().await?;
    Ok(later)
}

/// The end of a link.
pub(super) struct Ended {
    pub(super) parting: Parting,
    /// Our messages that the peer's application has.
    pub(super) confirmed: u64,
    /// Time in which the other side may still read what is queued.
    pub(super) flush: Duration,
}

impl Ended {
    fn lost(error: &io::Error) -> Self {
        let parting = Parting { reason: Reason::Lost(error.to_string()), by_peer: false };
        Self { parting, confirmed: 0, flush: Duration::ZERO }
    }
}
