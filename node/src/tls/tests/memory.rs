//! A byte stream in memory. It splits reads and writes at random, from a seed, and lets them wait at random
//! although they could proceed. It can also cut off or change the bytes on their way.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::lock::lock;

/// Maximum number of bytes on their way in one direction: more than one record, less than a large write.
const CAPACITY: usize = 40_000;

/// One end of a stream.
#[derive(Debug)]
pub(crate) struct Memory {
    incoming: Arc<Mutex<Direction>>,
    outgoing: Arc<Mutex<Direction>>,
}

/// A fault in one direction of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Only this number of bytes arrives, then the stream ends.
    CutAfter(usize),
    /// A bit of the byte with this number is flipped.
    ChangedAt(usize),
}

#[derive(Debug, Default)]
struct Direction {
    bytes: VecDeque<u8>,
    /// Number of bytes that were written.
    written: usize,
    fault: Option<Fault>,
    ended: bool,
    random: u64,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Memory {
    /// Creates both ends of a stream.
    pub(crate) fn pair(seed: u64) -> (Self, Self) {
        let direction = |random| Arc::new(Mutex::new(Direction { random, ..Direction::default() }));
        let (there, back) = (direction(seed), direction(!seed));
        (
            Self { incoming: back.clone(), outgoing: there.clone() },
            Self { incoming: there, outgoing: back },
        )
    }

    /// Applies `fault` to the bytes that this end writes.
    pub(crate) fn with(self, fault: Fault) -> Self {
        lock(&self.outgoing).fault = Some(fault);
        self
    }

    /// Returns a function that returns the number of bytes that this end has written.
    pub(crate) fn written(&self) -> impl Fn() -> usize + use<> {
        let outgoing = self.outgoing.clone();
        move || lock(&outgoing).written
    }
}

impl Direction {
    /// Draws a number below `limit` (SplitMix64).
    fn below(&mut self, limit: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut drawn = self.random;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((drawn ^ (drawn >> 31)) % limit as u64) as usize
    }

    /// Draws the number of bytes out of `len` that pass. Returns `None` if none of them passes yet.
    fn portion(&mut self, len: usize) -> Option<usize> {
        let most = [0, 1, 7, 300, 20_000, usize::MAX][self.below(6)];
        let most = most.min(len);
        (most > 0).then(|| 1 + self.below(most))
    }

    fn read(&mut self, out: &mut ReadBuf<'_>) -> Poll<()> {
        if self.bytes.is_empty() && self.ended {
            return Poll::Ready(());
        }
        let Some(len) = self.portion(self.bytes.len().min(out.remaining())) else {
            return Poll::Pending;
        };
        for byte in self.bytes.drain(..len) {
            out.put_slice(&[byte]);
        }
        self.writer.take().into_iter().for_each(Waker::wake);
        Poll::Ready(())
    }

    fn write(&mut self, bytes: &[u8]) -> Poll<usize> {
        let Some(len) = self.portion(bytes.len().min(CAPACITY - self.bytes.len())) else {
            return Poll::Pending;
        };
        for byte in &bytes[..len] {
            match self.fault {
                Some(Fault::CutAfter(at)) if at <= self.written => self.ended = true,
                Some(Fault::ChangedAt(at)) if at == self.written => self.bytes.push_back(byte ^ 4),
                _ => self.bytes.push_back(*byte),
            }
            self.written += 1;
        }
        self.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(len)
    }

    fn end(&mut self) {
        self.ended = true;
        self.reader.take().into_iter().for_each(Waker::wake);
    }
}

/// Arranges that a waiting task is woken: at once if it could have proceeded, or else by the other end.
fn wait(waker: &mut Option<Waker>, cx: &mut Context<'_>, could_go_on: bool) {
    if could_go_on {
        cx.waker().wake_by_ref();
    } else {
        *waker = Some(cx.waker().clone());
    }
}

impl AsyncRead for Memory {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let incoming = &mut *lock(&self.incoming);
        let read = incoming.read(out);
        if read.is_pending() {
            wait(&mut incoming.reader, cx, !incoming.bytes.is_empty());
        }
        read.map(Ok)
    }
}

impl AsyncWrite for Memory {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outgoing = &mut *lock(&self.outgoing);
        let wrote = outgoing.write(bytes);
        if wrote.is_pending() {
            wait(&mut outgoing.writer, cx, outgoing.bytes.len() < CAPACITY);
        }
        wrote.map(Ok)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.outgoing).end();
        Poll::Ready(Ok(()))
    }
}

#[cfg(not(feature = "reference-tls"))]
impl crate::tls::Transport for Memory {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match lock(&self.outgoing).write(bytes) {
            Poll::Ready(len) => Ok(len),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn set_low_watermark(&self, _: u64) -> bool {
        false
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        lock(&self.outgoing).end();
    }
}
