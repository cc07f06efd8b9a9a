//! The requests that have arrived on a stream and wait to be answered.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use peerkit_proto::codec::DecodeError;
use peerkit_proto::files::wire::{MAX_REQUEST, PREFIX, body_len};
use peerkit_proto::files::{FileName, Request};
use peerkit_proto::id::Hash;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

/// Maximum number of requests that wait. The stream is not read while so many wait. 64: enough for the round
/// trip of any link, as each request can be for 1 GiB.
pub(super) const MAX_WAITING: usize = 64;

/// A request with its number. Requests are numbered in the order in which they arrive.
pub(super) type Numbered = (u64, Result<Request, DecodeError>);

/// The requests that have arrived. `Cancel` and `Complete` take effect as soon as they are read, all others
/// in their turn.
#[derive(Debug)]
pub(super) struct RequestQueue {
    /// Its first `filled` bytes are the beginning of a request that has not arrived in full.
    buffer: Box<[u8]>,
    filled: usize,
    waiting: VecDeque<Numbered>,
    next: u64,
    /// Requests before this number are cancelled.
    cancelled: u64,
    complete: Option<Completed>,
    /// The time at which the request in the buffer began to arrive.
    begun: Option<Instant>,
    /// The reason why nothing more is read: no error if the requester has ended the stream.
    end: Option<io::Result<()>>,
}

/// The requester's message that it has received everything.
#[derive(Debug)]
pub(super) struct Completed {
    /// The content that it has received.
    pub(super) hash: Hash,
    /// The name that the requester gives itself.
    pub(super) requester: String,
    /// The name by which it requested the content, if the description had another.
    pub(super) called: Option<FileName>,
}

impl RequestQueue {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; PREFIX + MAX_REQUEST].into(),
            filled: 0,
            waiting: VecDeque::new(),
            next: 0,
            cancelled: 0,
            complete: None,
            begun: None,
            end: None,
        }
    }

    /// Reads the requests that have arrived, as far as there is room for them. Wakes the task when more
    /// arrive.
    pub(super) fn poll<S: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, stream: &mut S) {
        loop {
            if let Err(error) = self.split() {
                self.end.get_or_insert(Err(error));
            }
            if self.end.is_some() || self.waiting.len() >= MAX_WAITING {
                return;
            }
            let mut room = ReadBuf::new(self.buffer.get_mut(self.filled..).unwrap_or_default());
            match Pin::new(&mut *stream).poll_read(cx, &mut room) {
                Poll::Pending => return,
                Poll::Ready(Err(error)) => self.end = Some(Err(error)),
                Poll::Ready(Ok(())) => match room.filled().len() {
                    // The requester ends the stream in order only between two requests.
                    0 if self.filled == 0 => self.end = Some(Ok(())),
                    0 => self.end = Some(Err(io::ErrorKind::UnexpectedEof.into())),
                    read => self.filled += read,
                },
            }
        }
    }

    /// Takes the next request.
    pub(super) fn next(&mut self) -> Option<Numbered> {
        self.waiting.pop_front()
    }

    /// Returns whether a request waits, or the requester has received everything.
    pub(super) fn has_next(&self) -> bool {
        !self.waiting.is_empty() || self.complete.is_some()
    }

    /// Takes the message that the requester has received everything.
    pub(super) fn take_complete(&mut self) -> Option<Completed> {
        self.complete.take()
    }

    /// Returns whether the request with this number is cancelled.
    pub(super) fn is_cancelled(&self, number: u64) -> bool {
        number < self.cancelled
    }

    /// Returns the time at which a request began to arrive that has not arrived in full.
    pub(super) fn begun(&self) -> Option<Instant> {
        self.begun
    }

    /// Takes the reason why nothing more is read: no error if the requester has ended the stream between two
    /// requests.
    pub(super) fn take_end(&mut self) -> Option<io::Result<()>> {
        self.end.take()
    }

    /// Moves complete requests from the buffer to the queue, as far as there is room for them.
    fn split(&mut self) -> io::Result<()> {
        let mut taken = 0;
        while self.waiting.len() < MAX_WAITING {
            let rest = self.buffer.get(taken..self.filled).unwrap_or_default();
            let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX>() else { break };
            let len = body_len(*prefix, MAX_REQUEST).map_err(io::Error::other)?;
            let Some(body) = rest.get(..len) else { break };
            match Request::decode(Bytes::copy_from_slice(body)) {
                // The requests before it stay in the queue, as each of them is answered with a refusal.
                Ok(Request::Cancel) => self.cancelled = self.next,
                Ok(Request::Complete { hash, name: requester, called }) => {
                    self.cancelled = self.next;
                    self.complete = Some(Completed { hash, requester, called });
                }
                request => {
                    self.waiting.push_back((self.next, request));
                    self.next += 1;
                }
            }
            taken += PREFIX + len;
        }
        if taken > 0 {
            self.buffer.copy_within(taken..self.filled, 0);
            self.filled -= taken;
            self.begun = None;
        }
        if self.filled > 0 && self.begun.is_none() {
            self.begun = Some(Instant::now());
        }
        Ok(())
    }
}
