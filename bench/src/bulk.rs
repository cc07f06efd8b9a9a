//! Byte streams of any system, and bulk data on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;

/// Bytes per write and read of bulk data.
const CHUNK: usize = 64 << 10;

/// A byte stream.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// A byte stream of any system.
pub(crate) type Stream = Box<dyn Duplex>;

/// A transfer of bulk data. Ends when dropped.
pub(crate) struct BulkTransfer {
    began: Instant,
    /// Bytes sent so far.
    pub(crate) sent: Arc<AtomicU64>,
    /// False once the transfer is to end.
    pub(crate) going: Arc<AtomicBool>,
    sending: JoinSet<()>,
}

impl BulkTransfer {
    /// Starts a transfer whose data the caller sends: while `going` is true, adding to `sent`.
    pub(crate) fn new() -> Self {
        let (sent, going) = (Arc::default(), Arc::new(AtomicBool::new(true)));
        Self { began: Instant::now(), sent, going, sending: JoinSet::new() }
    }

    /// Sends as much as possible on `stream`.
    pub(crate) fn pump(mut stream: Stream) -> Self {
        let mut bulk = Self::new();
        let sent = bulk.sent.clone();
        bulk.sending.spawn(async move {
            let chunk = vec![0x5a; CHUNK];
            while stream.write_all(&chunk).await.is_ok() {
                sent.fetch_add(CHUNK as u64, Ordering::Relaxed);
            }
        });
        bulk
    }

    /// Returns the average rate so far, in MB/s.
    pub(crate) fn mb_per_s(&self) -> f64 {
        self.sent.load(Ordering::Relaxed) as f64 / 1e6 / self.began.elapsed().as_secs_f64()
    }
}

impl Drop for BulkTransfer {
    fn drop(&mut self) {
        // Dropping the `JoinSet` ends a task, but not the thread that sends for zenoh.
        self.going.store(false, Ordering::Relaxed);
    }
}

/// Reads `stream` to its end and discards the data.
pub(crate) async fn discard(mut stream: Stream) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(1..) = stream.read(&mut buffer).await {}
}
