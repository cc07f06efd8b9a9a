//! A byte stream of any system, and the sending of bulk data on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;

/// Number of bytes of each write and read of bulk data.
const CHUNK: usize = 64 << 10;

/// A byte stream.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// A byte stream of any system.
pub(crate) type Stream = Box<dyn Duplex>;

/// A transfer of bulk data. It ends when this value is dropped.
pub(crate) struct BulkTransfer {
    start: Instant,
    /// Number of bytes sent so far.
    pub(crate) sent: Arc<AtomicU64>,
    /// Set to false when the transfer has to end.
    pub(crate) is_running: Arc<AtomicBool>,
    sending: JoinSet<()>,
}

impl BulkTransfer {
    /// Creates a transfer whose data the caller sends. The caller has to count the bytes in `sent`, and has
    /// to stop when `is_running` is false.
    pub(crate) fn new() -> Self {
        let (sent, is_running) = (Arc::default(), Arc::new(AtomicBool::new(true)));
        Self { start: Instant::now(), sent, is_running, sending: JoinSet::new() }
    }

    /// Starts to send as much as possible on `stream`.
    pub(crate) fn send_on(mut stream: Stream) -> Self {
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
        self.sent.load(Ordering::Relaxed) as f64 / 1e6 / self.start.elapsed().as_secs_f64()
    }
}

impl Drop for BulkTransfer {
    fn drop(&mut self) {
        // The sending task ends when the `JoinSet` is dropped. zenoh's sending thread is not in the set, so
        // it checks this value.
        self.is_running.store(false, Ordering::Relaxed);
    }
}

/// Reads `stream` to its end and discards the data.
pub(crate) async fn discard(mut stream: impl AsyncRead + Unpin) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(1..) = stream.read(&mut buffer).await {}
}
