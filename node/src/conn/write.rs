//! The task that writes one link: takes what waits in the outbox, as much at once as there is.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use peerkit_proto::event::Reason;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::Conn;
use crate::inner::Inner;
use crate::outbox::Taken;

/// A buffer larger than this is given back once the link is idle.
const KEEP: usize = 16 << 10;

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
            Taken::Write(messages) => {
                to.write_all(&buffer).await?;
                to.flush().await?;
                conn.outbox.written();
                conn.meter.sent(messages, buffer.len());
                inner.meter.sent(messages, buffer.len());
                conn.wrote.store(inner.micros(), Ordering::Relaxed);
                buffer.clear();
            }
            Taken::Empty => {
                if buffer.capacity() > KEEP {
                    buffer = Vec::new();
                }
                conn.outbox.filled().await;
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
