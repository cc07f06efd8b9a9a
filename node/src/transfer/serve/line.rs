//! The stream itself: what is written and, meanwhile, what comes in.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};

use super::incoming::Incoming;
use crate::transfer::{IDLE, STALL};

/// How long a stream keeps its place for one batch: a reader that is slower holds nobody up.
const PLACE_TIME: Duration = Duration::from_millis(100);

/// A stream on which requests are heard whatever else is being waited for.
#[derive(Debug)]
pub(super) struct Line<S> {
    stream: S,
    pub(super) incoming: Incoming,
    /// Something was written since the last flush.
    unflushed: bool,
    alarm: Alarm,
}

/// One of the places for those who write pieces, held for a while.
#[derive(Debug)]
pub(super) struct Place {
    permit: Option<OwnedSemaphorePermit>,
    until: Instant,
}

impl Place {
    pub(super) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self { permit: Some(permit), until: Instant::now() + PLACE_TIME }
    }

    /// Waits for `work`; where that takes too long the place is given up.
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

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, incoming: Incoming::new(), unflushed: false, alarm: Alarm::default() }
    }

    /// Hears what has come in until now.
    pub(super) async fn hear(&mut self) {
        poll_fn(|cx| {
            self.incoming.poll(cx, &mut self.stream);
            Poll::Ready(())
        })
        .await;
    }

    /// Waits for `work`. What was written goes out meanwhile, and what comes in is heard.
    pub(super) async fn hearing<T>(&mut self, work: impl Future<Output = T>) -> io::Result<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            if self.unflushed && Pin::new(&mut self.stream).poll_flush(cx)?.is_ready() {
                self.unflushed = false;
            }
            self.incoming.poll(cx, &mut self.stream);
            Poll::Pending
        })
        .await
    }

    /// Waits until a request has come in; false where none will.
    ///
    /// # Errors
    /// Where the stream broke, nothing has moved on it `since` and for [`IDLE`], or half a request
    /// came and no more for [`STALL`].
    pub(super) async fn asked(&mut self, since: Instant) -> io::Result<bool> {
        poll_fn(|cx| {
            self.incoming.poll(cx, &mut self.stream);
            if self.incoming.has_next() {
                return Poll::Ready(Ok(true));
            }
            if let Some(end) = self.incoming.take_end() {
                return Poll::Ready(end.map(|()| false));
            }
            let due = match self.incoming.begun() {
                Some(begun) => begun.max(since) + STALL,
                None => since + IDLE,
            };
            ready!(self.alarm.poll(cx, due));
            Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
        })
        .await
    }

    /// Writes all of `bytes`, at `place` as long as that may be held.
    ///
    /// Not one deadline for the whole: a slow reader is served as long as it reads.
    ///
    /// # Errors
    /// Where the stream broke, or the other side takes nothing for [`STALL`].
    pub(super) async fn write(
        &mut self,
        mut bytes: &[u8],
        mut place: Option<&mut Place>,
    ) -> io::Result<()> {
        self.unflushed |= !bytes.is_empty();
        let mut stalled = None;
        poll_fn(|cx| {
            while !bytes.is_empty() {
                match Pin::new(&mut self.stream).poll_write(cx, bytes)? {
                    Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(written) => {
                        bytes = bytes.get(written..).unwrap_or_default();
                        stalled = None;
                    }
                    Poll::Pending => {
                        self.incoming.poll(cx, &mut self.stream);
                        let place = place.as_deref_mut();
                        return self.poll_stall(cx, &mut stalled, place).map(Err);
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Sends what was written.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        let mut stalled = None;
        poll_fn(|cx| {
            if !self.unflushed {
                return Poll::Ready(Ok(()));
            }
            if Pin::new(&mut self.stream).poll_flush(cx)?.is_ready() {
                self.unflushed = false;
                return Poll::Ready(Ok(()));
            }
            self.incoming.poll(cx, &mut self.stream);
            self.poll_stall(cx, &mut stalled, None).map(Err)
        })
        .await
    }

    /// Nothing can be written: gives `place` up when its time is over; ready with the error when it
    /// has been so for too long.
    fn poll_stall(
        &mut self,
        cx: &mut Context<'_>,
        since: &mut Option<Instant>,
        mut place: Option<&mut Place>,
    ) -> Poll<io::Error> {
        let limit = *since.get_or_insert_with(Instant::now) + STALL;
        loop {
            let place = place.as_deref_mut().filter(|place| place.permit.is_some());
            let until = place.as_ref().map(|place| place.until);
            ready!(self.alarm.poll(cx, until.map_or(limit, |until| until.min(limit))));
            match place {
                Some(place) if place.until < limit => place.permit = None,
                _ => return Poll::Ready(io::ErrorKind::TimedOut.into()),
            }
        }
    }
}

/// One timer for all deadlines of a stream, which mostly move on before they are reached.
#[derive(Debug, Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once it is `due`. A deadline that has moved on since the timer was set costs nothing
    /// until the timer goes off.
    fn poll(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        loop {
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
