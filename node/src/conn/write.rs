//! The writing half of a link's task: takes the frames that wait in the outbox, and writes as many as
//! possible with one call.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::Buf;
use peerkit_proto::event::Reason;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::Conn;
use crate::inner::Inner;
use crate::outbox::{WriteBatch, WriterStep};
use crate::rate::{Pause, Throttle};

/// Writes until the outbox is closed and empty, then closes the connection's writing side.
pub(super) async fn write(inner: &Inner, conn: &Conn, mut to: impl AsyncWrite + Unpin) {
    if let Err(error) = write_all(inner, conn, &mut to).await {
        // Without a goodbye, because nothing more can be written.
        conn.outbox.abort(Reason::Lost(error.to_string()), false);
        // The reading half ends the link, because it may have received a goodbye with the peer's reason.
        conn.closing.notify_one();
    }
}

async fn write_all(
    inner: &Inner,
    conn: &Conn,
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut batch = WriteBatch::default();
    // True for the step after a write. If less than a block of application frames is queued then, the writer
    // lets other tasks run once, so that they can queue more frames.
    let mut wrote = false;
    // Set while application frames wait because of the rate limits. Control frames do not wait.
    let mut pause = None;
    let throttle = Throttle::default();
    loop {
        match next_step(conn, &mut batch, std::mem::take(&mut wrote), &mut pause).await {
            WriterStep::Write => {
                let (messages, bytes) = (batch.messages(), batch.len());
                // The batch is charged to the limits before the write, and the pause comes after the write.
                // So no batch is split.
                let limited = inner.rates.messages_sent(&throttle, batch.application_len());
                write_batch(conn, to, &mut batch).await?;
                to.flush().await?;
                conn.meter.sent(messages, bytes);
                inner.meter.sent(messages, bytes);
                conn.last_write.store(inner.clock.micros(), Ordering::Relaxed);
                wrote = true;
                if limited.is_some() {
                    pause = limited;
                }
            }
            // A sender on another thread may still be adding messages to the block. While this task yields,
            // the block grows, and one write then sends more of them. If no other task runs, the yield ends
            // at once.
            WriterStep::LetGrow => tokio::task::yield_now().await,
            // Only the goodbye is left to be written. It tells the peer how many messages this node has
            // received, so it waits until the reading half has delivered and counted those that it has read.
            WriterStep::AwaitCount => {
                let flush_timeout = inner.config.flush_timeout;
                if tokio::time::timeout(flush_timeout, received_all(conn)).await.is_err() {
                    // The application takes the messages too slowly. The goodbye then counts only the messages
                    // that the application has already taken.
                    conn.outbox.end_receiving(conn.meter.messages_received());
                }
            }
            WriterStep::Close => return to.shutdown().await,
            WriterStep::Sleep => {}
        }
    }
}

/// Writes a batch. Each part of it that the connection takes is progress: a peer that reads slowly but steadily is
/// not too slow, however large the batch is.
async fn write_batch(
    conn: &Conn,
    to: &mut (impl AsyncWrite + Unpin),
    batch: &mut WriteBatch,
) -> io::Result<()> {
    loop {
        let written = to.write_buf(batch).await?;
        if !batch.has_remaining() {
            return Ok(());
        }
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        conn.outbox.note_progress();
    }
}

/// Takes the next batch, and sleeps while there is nothing to write. Checks the outbox whenever the link's
/// task runs, because the reading half of that task may have added frames.
async fn next_step(
    conn: &Conn,
    batch: &mut WriteBatch,
    mut let_grow: bool,
    pause: &mut Option<Pause>,
) -> WriterStep {
    poll_fn(|cx| {
        if pause.as_mut().is_some_and(|pause| pause.as_mut().poll(cx).is_ready()) {
            *pause = None;
        }
        let with_application = pause.is_none();
        let options = (std::mem::take(&mut let_grow), with_application);
        match conn.outbox.take(batch, options, cx.waker()) {
            WriterStep::Sleep => Poll::Pending,
            step => Poll::Ready(step),
        }
    })
    .await
}

/// Waits until the reading half has delivered and counted the messages that it has read.
async fn received_all(conn: &Conn) {
    poll_fn(
        |cx| {
            if conn.outbox.is_receiving(cx.waker()) { Poll::Pending } else { Poll::Ready(()) }
        },
    )
    .await;
}
