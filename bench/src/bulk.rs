//! Byte streams of any system, and bulk data on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;

/// Bytes of one write and of one read of bulk data.
const CHUNK: usize = 64 << 10;

/// A byte stream.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// A byte stream of any system.
pub(crate) type Stream = Box<dyn Duplex>;

/// Bulk data that are being sent. They end when this is dropped.
pub(crate) struct Bulk {
    began: Instant,
    /// Bytes sent so far.
    pub(crate) sent: Arc<AtomicU64>,
    /// Set to false to end.
    pub(crate) going: Arc<AtomicBool>,
    sending: JoinSet<()>,
}

impl Bulk {
    /// Creates it for bulk data that the caller sends while it is `going`. The caller adds to `sent`.
    pub(crate) fn new() -> Self {
        let (sent, going) = (Arc::default(), Arc::new(AtomicBool::new(true)));
        Self { began: Instant::now(), sent, going, sending: JoinSet::new() }
    }

    /// Sends as much as possible into `stream`.
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

    /// Returns the rate so far, in MB a second.
    pub(crate) fn mb_per_s(&self) -> f64 {
        self.sent.load(Ordering::Relaxed) as f64 / 1e6 / self.began.elapsed().as_secs_f64()
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.going.store(false, Ordering::Relaxed);
    }
}

/// Reads `stream` to its end.
pub(crate) async fn swallow(mut stream: Stream) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(1..) = stream.read(&mut buffer).await {}
}
