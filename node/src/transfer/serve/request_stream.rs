//! A stream that reads requests while its task waits for something else.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};

use super::request_queue::RequestQueue;
use crate::transfer::{IDLE, STALL};

/// Maximum time for which a stream keeps its permit while it writes one batch. 100 ms: a slow reader does not
/// hold up other streams for longer.
const PERMIT_TIME: Duration = Duration::from_millis(100);

/// A stream that reads requests while its task waits for something else.
#[derive(Debug)]
pub(super) struct RequestStream<S> {
    stream: S,
    pub(super) requests: RequestQueue,
    /// If true, bytes were written since the last flush.
    is_unflushed: bool,
    timer: DeadlineTimer,
}

/// A permit to write pieces, which is given back after [`PERMIT_TIME`].
#[derive(Debug)]
pub(super) struct WritePermit {
    permit: Option<OwnedSemaphorePermit>,
    until: Instant,
}

impl WritePermit {
    pub(super) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self { permit: Some(permit), until: Instant::now() + PERMIT_TIME }
    }

    /// Waits for `work`. Gives the permit back when its time is over.
    pub(super) async fn during(&mut self, work: impl Future<Output = ()>) {
        let mut work = pin!(work);
        if self.permit.is_some() {
            if tokio::time::timeout_at(self.until, &mut work).await.is_ok() {
                return;
            }
            self.permit = None;
        }
        work.await;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> RequestStream<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            requests: RequestQueue::new(),
            is_unflushed: false,
            timer: DeadlineTimer::default(),
        }
    }

    /// Reads the requests that have arrived.
    pub(super) async fn read_requests(&mut self) {
        poll_fn(|cx| {
            self.requests.poll(cx, &mut self.stream);
            Poll::Ready(())
        })
        .await;
    }

    /// Waits for `work`. Meanwhile flushes the stream, and reads requests.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> io::Result<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            // Often the work is done already. Then the rest is not needed.
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            if self.is_unflushed && Pin::new(&mut self.stream).poll_flush(cx)?.is_ready() {
                self.is_unflushed = false;
            }
            self.requests.poll(cx, &mut self.stream);
            Poll::Pending
        })
        .await
    }

    /// Waits until a request has arrived. Returns false at the end of the stream.
    ///
    /// # Errors
    /// If the stream breaks; if no request has begun to arrive [`IDLE`] after `since`; or if a request is
    /// incomplete [`STALL`] after it began to arrive, or after `since` if that is later.
    pub(super) async fn next_request(&mut self, since: Instant) -> io::Result<bool> {
        poll_fn(|cx| {
            self.requests.poll(cx, &mut self.stream);
            if self.requests.has_next() {
                return Poll::Ready(Ok(true));
            }
            if let Some(end) = self.requests.take_end() {
                return Poll::Ready(end.map(|()| false));
            }
            let due = match self.requests.begun() {
                Some(begun) => begun.max(since) + STALL,
                None => since + IDLE,
            };
            ready!(self.timer.poll(cx, due));
            Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
        })
        .await
    }

    /// Writes all of `bytes`. Gives `permit` back when its time is over.
    ///
    /// There is no deadline for the whole write: a slow reader is served as long as it reads.
    ///
    /// # Errors
    /// If the stream breaks, or the peer reads nothing for [`STALL`].
    pub(super) async fn write(
        &mut self,
        mut bytes: &[u8],
        mut permit: Option<&mut WritePermit>,
    ) -> io::Result<()> {
        self.is_unflushed |= !bytes.is_empty();
        let mut stalled = None;
        poll_fn(|cx| {
            while !bytes.is_empty() {
                match Pin::new(&mut self.stream).poll_write(cx, bytes)? {
                    Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(written) => {
                        bytes = bytes.get(written..).unwrap_or_default();
                        // The peer reads, however slowly.
                        stalled = None;
                    }
                    Poll::Pending => {
                        // A peer that does not read may cancel what it has requested.
                        self.requests.poll(cx, &mut self.stream);
                        let permit = permit.as_deref_mut();
                        return self.poll_stall(cx, &mut stalled, permit).map(Err);
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Flushes the stream.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        let mut stalled = None;
        poll_fn(|cx| {
            if !self.is_unflushed {
                return Poll::Ready(Ok(()));
            }
            if Pin::new(&mut self.stream).poll_flush(cx)?.is_ready() {
                self.is_unflushed = false;
                return Poll::Ready(Ok(()));
            }
            self.requests.poll(cx, &mut self.stream);
            self.poll_stall(cx, &mut stalled, None).map(Err)
        })
        .await
    }

    /// Checks the time limits of a write that makes no progress. Gives `permit` back when its time is over.
    /// Is ready with an error [`STALL`] after the first call, whose time is kept in `since`.
    fn poll_stall(
        &mut self,
        cx: &mut Context<'_>,
        since: &mut Option<Instant>,
        mut permit: Option<&mut WritePermit>,
    ) -> Poll<io::Error> {
        let limit = *since.get_or_insert_with(Instant::now) + STALL;
        loop {
            // The timer goes off for the permit first, and then for the time limit.
            let held = permit.as_deref_mut().filter(|held| held.permit.is_some());
            let until = held.as_ref().map(|held| held.until);
            ready!(self.timer.poll(cx, until.map_or(limit, |until| until.min(limit))));
            match held {
                Some(held) if held.until < limit => held.permit = None,
                _ => return Poll::Ready(io::ErrorKind::TimedOut.into()),
            }
        }
    }
}

/// One timer for all deadlines of a stream. Most deadlines move on before they are reached. So the timer is
/// not set again at each change, but only if it goes off too early or would go off too late.
#[derive(Debug, Default)]
struct DeadlineTimer(Option<Pin<Box<Sleep>>>);

impl DeadlineTimer {
    /// Is ready once the deadline `due` has passed.
    fn poll(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        loop {
            // The timer has gone off, perhaps for an earlier deadline, or it is set to a time after `due`.
            if timer.is_elapsed() || timer.deadline() > due {
                if Instant::now() >= due {
                    return Poll::Ready(());
                }
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }
}
