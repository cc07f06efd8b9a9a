//! A TCP connection that is read ahead: TLS asks for 4 KiB at a time, and a system call for each
//! would cost more than decrypting what it brings.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes read ahead at most: four TLS records.
const AHEAD: usize = 64 << 10;

/// A read that brings less than this is followed by one without memory of its own.
const LITTLE: usize = 8 << 10;

/// A TCP connection. Memory to read ahead is held only while much comes in.
#[derive(Debug)]
pub(crate) struct Socket {
    tcp: TcpStream,
    /// What was read, and how much of it has been handed on.
    ahead: Vec<u8>,
    taken: usize,
    /// Much came in last time.
    busy: bool,
}

impl Socket {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self { tcp, ahead: Vec::new(), taken: 0, busy: false }
    }

    fn read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.ahead.clear();
        self.taken = 0;
        self.ahead.reserve_exact(AHEAD);
        let read = pin!((&mut self.tcp).take(AHEAD as u64).read_buf(&mut self.ahead)).poll(cx);
        self.busy = read.is_pending() || self.ahead.len() >= LITTLE;
        if self.ahead.is_empty() {
            // Nobody knows how long until there is more.
            self.ahead = Vec::new();
        }
        read
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.taken == this.ahead.len() && !this.busy {
            // Little comes in: no memory is taken for it.
            this.ahead = Vec::new();
            this.taken = 0;
            let (before, room) = (out.filled().len(), out.remaining());
            ready!(Pin::new(&mut this.tcp).poll_read(cx, out))?;
            this.busy = out.filled().len() - before == room;
            return Poll::Ready(Ok(()));
        }
        if this.taken == this.ahead.len() {
            ready!(this.read_ahead(cx))?;
        }
        let rest = this.ahead.get(this.taken..).unwrap_or_default();
        let copied = rest.len().min(out.remaining());
        out.put_slice(rest.get(..copied).unwrap_or_default());
        this.taken += copied;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
