//! The writing half of a link's task: takes what waits in the outbox, as much at once as there is.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::Ordering;
use std::task::Poll;

use peerkit_proto::event::Reason;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::Conn;
use crate::inner::Inner;
use crate::outbox::{Taken, Takings};
use crate::rate::{Pause, Throttle};

/// Writes until the outbox is closed and empty, then closes the connection's writing side.
pub(super) async fn write(inner: &Inner, conn: &Conn, mut to: impl AsyncWrite + Unpin) {
    if let Err(error) = write_all(inner, conn, &mut to).await {
        conn.outbox.break_off(Reason::Lost(error.to_string()), false);
        conn.closing.notify_one();
    }
}

async fn write_all(
    inner: &Inner,
    conn: &Conn,
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut takings = Takings::default();
    // Something has just been written.
    let mut wrote = false;
    // Set while the limits of messages have the application's frames wait. Control frames do not.
    let mut pause = None;
    let throttle = Throttle::default();
    loop {
        match next(conn, &mut takings, std::mem::take(&mut wrote), &mut pause).await {
            Taken::Write => {
                let (messages, bytes) = (takings.messages(), takings.len());
                let limited = inner.rates.messages_sent(&throttle, takings.application_len());
                to.write_all_buf(&mut takings).await?;
                to.flush().await?;
                conn.meter.sent(messages, bytes);
                inner.meter.sent(messages, bytes);
                conn.wrote.store(inner.clock.micros(), Ordering::Relaxed);
                wrote = true;
                if limited.is_some() {
                    pause = limited;
                }
            }
            // While we wrote somebody has gone on sending, on another thread. Its next message has
            // us run there, once it has no more to send or no more room; where there is none we are
            // back at once.
            Taken::Little => tokio::task::yield_now().await,
            Taken::Held => {
                if tokio::time::timeout(inner.config.flush_timeout, counted(conn)).await.is_err() {
                    // Whoever is being handed messages takes too long: it does without them.
                    conn.outbox.received(conn.meter.messages_received());
                }
            }
            Taken::Finished => return to.shutdown().await,
            Taken::Empty => {}
        }
    }
}

/// Takes what is to be written next, and waits while there is nothing. The outbox is looked at
/// whenever the link's task runs, whatever has woken it.
async fn next(
    conn: &Conn,
    takings: &mut Takings,
    mut patience: bool,
    pause: &mut Option<Pause>,
) -> Taken {
    poll_fn(|cx| {
        if pause.as_mut().is_some_and(|pause| pause.as_mut().poll(cx).is_ready()) {
            *pause = None;
        }
        let what = (std::mem::take(&mut patience), pause.is_none());
        match conn.outbox.take(takings, what, cx.waker()) {
            Taken::Empty => Poll::Pending,
            taken => Poll::Ready(taken),
        }
    })
    .await
}

/// Waits until the messages that are being received are counted.
async fn counted(conn: &Conn) {
    poll_fn(|cx| match conn.outbox.is_receiving(cx.waker()) {
        true => Poll::Pending,
        false => Poll::Ready(()),
    })
    .await;
}
