//! The task that writes one link: takes what waits in the outbox, as much at once as there is.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use peerkit_proto::event::Reason;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::Conn;
use crate::inner::Inner;
use crate::outbox::Taken;

/// After so long without anything to write the buffers are given back.
const REST: Duration = Duration::from_secs(1);

/// Writes until the outbox is closed and empty, then closes the connection's writing side.
pub(super) async fn write(inner: Arc<Inner>, conn: Arc<Conn>, mut to: impl AsyncWrite + Unpin) {
    if let Err(error) = write_all(&inner, &conn, &mut to).await {
        conn.outbox.break_off(Reason::Lost(error.to_string()), false);
        conn.closing.notify_one();
    }
}

async fn write_all(
    inner: &Inner,
    conn: &Conn,
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        match conn.outbox.take(&mut buffer) {
            Taken::Write { messages, tail } => {
                to.write_all(&buffer).await?;
                if let Some(tail) = &tail {
                    to.write_all(tail).await?;
                }
                to.flush().await?;
                conn.outbox.written();
                let bytes = buffer.len() + tail.map_or(0, |tail| tail.len());
                conn.meter.sent(messages, bytes);
                inner.meter.sent(messages, bytes);
                conn.wrote.store(inner.micros(), Ordering::Relaxed);
                buffer.clear();
            }
            Taken::Empty => {
                if tokio::time::timeout(REST, conn.outbox.filled()).await.is_err() {
                    buffer = Vec::new();
                    conn.outbox.shrink();
                    conn.outbox.filled().await;
                }
            }
            Taken::Held => {
                let filled = conn.outbox.filled();
                if tokio::time::timeout(inner.config.flush_timeout, filled).await.is_err() {
                    conn.outbox.received(conn.meter.messages_received());
                }
            }
            Taken::Finished => return to.shutdown().await,
        }
    }
}
