//! Fewer wake-ups while a large response is pending: raises `SO_RCVLOWAT`, so that the system does not
//! wake the reader for the first few packets.
//!
//! Without it the system wakes the reader for every few packets, while another thread still works on the
//! previous ones. On two processors a fetch then took a fifth longer, and a fifth more processor time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::transport::Transport;

/// Maximum low watermark, in bytes. 1 MiB: one piece.
const MAX_WATERMARK: u64 = 1 << 20;

/// Minimum low watermark, in bytes. For less, the system call costs more than it saves.
const MIN_WATERMARK: u64 = 64 << 10;

/// Maximum time for which the reader waits until as many bytes have arrived as the watermark says. After
/// that it reads those that are there.
const MAX_WAIT: Duration = Duration::from_millis(20);

/// Time for which no watermark is set after a wait of [`MAX_WAIT`]. The peer is slow, so its bytes are read
/// as they arrive.
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

    /// Subtracts `bytes` that were read. Only the reader calls this and `set`, so no update is lost.
    pub(super) fn subtract(&self, bytes: usize) {
        self.set(self.get().saturating_sub(bytes as u64));
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The low watermark of one connection, which follows the number of expected bytes.
pub(super) struct LowWatermark {
    pub(super) expected: ExpectedBytes,
    /// The watermark that is set in the system.
    current: u64,
    /// Ends the wait for a watermark after [`MAX_WAIT`].
    wait_timer: Pin<Box<Sleep>>,
    waiting: bool,
    no_watermark_until: Option<Instant>,
}

impl LowWatermark {
    pub(super) fn new() -> Self {
        Self {
            expected: ExpectedBytes::default(),
            current: 1,
            wait_timer: Box::pin(sleep(MAX_WAIT)),
            waiting: false,
            no_watermark_until: None,
        }
    }

    /// Sets the watermark before the reader waits for `transport`. The expected bytes still include
    /// `already_read` bytes: the first part of a record, which is subtracted once the record is opened.
    pub(super) fn set_before_wait(
        &mut self,
        transport: &impl Transport,
        already_read: usize,
        cx: &mut Context<'_>,
    ) {
        if self.waiting && self.wait_timer.as_mut().poll(cx).is_ready() {
            self.waiting = false;
            self.no_watermark_until = Some(Instant::now() + TIME_WITHOUT_WATERMARK);
        }
        let wanted = match self.expected.get().saturating_sub(already_read as u64) {
            ..MIN_WATERMARK => 1,
            _ if self.is_without_watermark() => 1,
            expected => expected.min(MAX_WATERMARK),
        };
        if wanted != self.current {
            self.current = if transport.set_low_watermark(wanted) { wanted } else { 1 };
        }
        if self.current == 1 {
            self.waiting = false;
        } else if !self.waiting {
            self.waiting = true;
            self.wait_timer.as_mut().reset(Instant::now() + MAX_WAIT);
            // Polling the timer registers the task, so that the timer wakes it.
            let _ = self.wait_timer.as_mut().poll(cx);
        }
    }

    /// Ends the wait, because bytes have arrived.
    pub(super) fn arrived(&mut self) {
        self.waiting = false;
    }

    fn is_without_watermark(&mut self) -> bool {
        self.no_watermark_until = self.no_watermark_until.filter(|until| Instant::now() < *until);
        self.no_watermark_until.is_some()
    }
}
