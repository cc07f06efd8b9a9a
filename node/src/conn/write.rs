//! The writing half of a link's task: takes the frames that wait in the outbox, as many at once as
//! there are.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::Ordering;
use std::task::Poll;

use peerkit_proto::event::Reason;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::Conn;
use crate::inner::Inner;
use crate::outbox::{WriteBatch, WriterStep};
use crate::rate::{Pause, Throttle};

/// Writes until the outbox is closed and empty, then closes the connection's writing side.
pub(super) async fn write(inner: &Inner, conn: &Conn, mut to: impl AsyncWrite + Unpin) {
    if let Err(error) = write_all(inner, conn, &mut to).await {
        conn.outbox.abort(Reason::Lost(error.to_string()), false);
        // The reading half ends the link: it may have a goodbye of the peer that says why.
        conn.closing.notify_one();
    }
}

async fn write_all(
    inner: &Inner,
    conn: &Conn,
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut batch = WriteBatch::default();
    // Set after a write, for one step.
    let mut wrote = false;
    // Set while application frames wait because of the rate limits. Control frames do not wait.
    let mut pause = None;
    let throttle = Throttle::default();
    loop {
        match next_step(conn, &mut batch, std::mem::take(&mut wrote), &mut pause).await {
            WriterStep::Write => {
                let (messages, bytes) = (batch.messages(), batch.len());
                // Charged before the write and paid for after it, so that a batch is never split.
                let limited = inner.rates.messages_sent(&throttle, batch.application_len());
                to.write_all_buf(&mut batch).await?;
                to.flush().await?;
                conn.meter.sent(messages, bytes);
                inner.meter.sent(messages, bytes);
                conn.wrote.store(inner.clock.micros(), Ordering::Relaxed);
                wrote = true;
                if limited.is_some() {
                    pause = limited;
                }
            }
            // A sender on another thread went on during the write. If this task slept now, the sender's
            // next message would wake it, and it would run there once the sender pauses or finds no
            // room, with many messages in the block. If no sender runs, this task goes on at once.
            WriterStep::LetGrow => tokio::task::yield_now().await,
            WriterStep::AwaitCount => {
                let flush_timeout = inner.config.flush_timeout;
                if tokio::time::timeout(flush_timeout, received_all(conn)).await.is_err() {
                    // The application takes too long, so the goodbye does not count its messages.
                    conn.outbox.end_receiving(conn.meter.messages_received());
                }
            }
            WriterStep::Close => return to.shutdown().await,
            WriterStep::Sleep => {}
        }
    }
}

/// Takes the next batch, and sleeps while there is nothing to write. Looks into the outbox whenever the
/// link's task runs, as the reading half may have added to it.
async fn next_step(
    conn: &Conn,
    batch: &mut WriteBatch,
    mut patience: bool,
    pause: &mut Option<Pause>,
) -> WriterStep {
    poll_fn(|cx| {
        if pause.as_mut().is_some_and(|pause| pause.as_mut().poll(cx).is_ready()) {
            *pause = None;
        }
        let what = (std::mem::take(&mut patience), pause.is_none());
        match conn.outbox.take(batch, what, cx.waker()) {
            WriterStep::Sleep => Poll::Pending,
            step => Poll::Ready(step),
        }
    })
    .await
}

/// Waits until the messages that are being received are counted.
async fn received_all(conn: &Conn) {
    poll_fn(
        |cx| {
            if conn.outbox.is_receiving(cx.waker()) { Poll::Pending } else { Poll::Ready(()) }
        },
    )
    .await;
}
