//! A TCP connection that is read ahead: TLS asks for 4 KiB at a time, and a system call for each
//! would cost more than decrypting what it brings. It can hold what is written first, until there
//! is more to go with it.

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
    /// What was written and has not been sent.
    held: Vec<u8>,
    holding: bool,
}

impl Socket {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self { tcp, ahead: Vec::new(), taken: 0, busy: false, held: Vec::new(), holding: false }
    }

    /// One that holds what is written until something is to be read, or [`Socket::release`]: the end
    /// of our handshake goes out with what is said first.
    pub(crate) fn holding(tcp: TcpStream) -> Self {
        let mut held = Self::new(tcp);
        held.holding = true;
        held
    }

    /// Holds nothing from now on: the next flush sends what there is.
    pub(crate) fn release(&mut self) {
        self.holding = false;
    }

    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let sent = ready!(Pin::new(&mut self.tcp).poll_write(cx, &self.held))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.drain(..sent);
            if self.held.is_empty() {
                self.held = Vec::new();
            }
        }
        Poll::Ready(Ok(()))
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
        ready!(this.poll_held(cx))?;
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
        if self.holding {
            self.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(self.poll_held(cx))?;
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.holding {
            slices.iter().for_each(|slice| self.held.extend_from_slice(slice));
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        ready!(self.poll_held(cx))?;
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.holding {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_held(cx))?;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl Drop for Socket {
    /// Whoever goes away without a word still ends its handshake, so that the other side knows.
    fn drop(&mut self) {
        if !self.held.is_empty() {
            let _ = self.tcp.try_write(&self.held);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Socket::holding(dialled), listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn what_is_held_goes_out_before_a_read_and_with_what_is_said_next() {
        let (mut ours, mut theirs) = pair().await;
        ours.write_all(b"ab").await.unwrap();
        ours.flush().await.unwrap();
        let moment = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(moment, theirs.peek(&mut [0])).await.is_err(), "held");
        let mut got = [0; 2];
        let (_, read) = tokio::join!(
            async { tokio::time::timeout(moment, ours.read_u8()).await },
            theirs.read_exact(&mut got),
        );
        read.unwrap();
        assert_eq!(&got, b"ab");

        ours.write_all(b"c").await.unwrap();
        ours.release();
        ours.write_all(b"d").await.unwrap();
        ours.flush().await.unwrap();
        theirs.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"cd");
    }

    #[tokio::test]
    async fn what_is_held_goes_out_at_the_end() {
        let (mut ours, mut theirs) = pair().await;
        ours.write_all(b"ab").await.unwrap();
        drop(ours);
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"ab");
    }
}
