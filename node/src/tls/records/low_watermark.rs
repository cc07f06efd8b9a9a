//! Fewer wake-ups while a large response is pending: raises `SO_RCVLOWAT`, so that the system does not
//! wake the reader for the first few packets.
//!
//! Without it the reader is woken for every few packets while another thread still works on those
//! before. On two processors a fetch then took a fifth longer, and a fifth more processor time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::transport::Transport;

/// Largest low watermark: one piece.
const MAX_WATERMARK: u64 = 1 << 20;

/// Smallest low watermark: the system call is not worth it for less.
const MIN_WATERMARK: u64 = 64 << 10;

/// Longest wait for a low watermark. A slower peer is read as its bytes arrive.
const MAX_WAIT: Duration = Duration::from_millis(20);

/// Time for which a slower peer is then read as its bytes arrive.
const TIME_WITHOUT_WATERMARK: Duration = Duration::from_secs(1);

/// The number of bytes that the peer will send without another request. The reader sets it from its
/// requests. If fewer arrive, the reader loses [`MAX_WAIT`] and nothing else.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExpectedBytes(Arc<AtomicU64>);

impl ExpectedBytes {
    /// Sets the number of bytes.
    pub(crate) fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// Counts `bytes` that were read. Only the reader calls `set` and this, so no update is lost.
    pub(super) fn subtract(&self, bytes: usize) {
        self.set(self.get().saturating_sub(bytes as u64));
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The low watermark of one connection, adapted to what is expected.
pub(super) struct LowWatermark {
    pub(super) expected: ExpectedBytes,
    /// The watermark that the system has now.
    current: u64,
    /// Ends the wait for a watermark after [`MAX_WAIT`].
    patience: Pin<Box<Sleep>>,
    waiting: bool,
    resting_until: Option<Instant>,
}

impl LowWatermark {
    pub(super) fn new() -> Self {
        Self {
            expected: ExpectedBytes::default(),
            current: 1,
            patience: Box::pin(sleep(MAX_WAIT)),
            waiting: false,
            resting_until: None,
        }
    }

    /// Sets the watermark before a wait for `transport`. `begun` of the expected bytes have been read
    /// from it already.
    pub(super) fn wait(&mut self, transport: &impl Transport, begun: usize, cx: &mut Context<'_>) {
        if self.waiting && self.patience.as_mut().poll(cx).is_ready() {
            self.waiting = false;
            self.resting_until = Some(Instant::now() + TIME_WITHOUT_WATERMARK);
        }
        let wanted = match self.expected.get().saturating_sub(begun as u64) {
            ..MIN_WATERMARK => 1,
            _ if self.is_resting() => 1,
            expected => expected.min(MAX_WATERMARK),
        };
        if wanted != self.current {
            self.current = if transport.set_low_watermark(wanted) { wanted } else { 1 };
        }
        if self.current == 1 {
            self.waiting = false;
        } else if !self.waiting {
            self.waiting = true;
            self.patience.as_mut().reset(Instant::now() + MAX_WAIT);
            // The timer has just been set. Polling it registers the task to be woken by it.
            let _ = self.patience.as_mut().poll(cx);
        }
    }

    /// Ends the wait, because bytes have arrived.
    pub(super) fn arrived(&mut self) {
        self.waiting = false;
    }

    fn is_resting(&mut self) -> bool {
        self.resting_until = self.resting_until.filter(|until| Instant::now() < *until);
        self.resting_until.is_some()
    }
}
