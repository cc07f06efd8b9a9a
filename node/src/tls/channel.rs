//! A secured connection: bytes in and out as TLS 1.3 records (RFC 8446, section 5), over TCP.
//!
//! The handshake is rustls's; the records are made and read here, as that saves four copies of
//! everything: each is sealed from the caller's bytes into what goes to the system, and opened from
//! what came from the system into the caller's room.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use peerkit_proto::tls::{CLOSE_NOTIFY, failure};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Session;
use super::floor::Expected;
use super::incoming::Incoming;
use super::outgoing::Outgoing;
use super::traffic::Traffic;

/// A TCP connection with TLS 1.3 on it. Memory is held only while much goes through.
pub(crate) struct Channel {
    tcp: TcpStream,
    session: Session,
    incoming: Incoming,
    outgoing: Outgoing,
    /// The end of our handshake has not been sent.
    holding: bool,
}

impl Channel {
    /// A channel on `tcp`, once hands are shaken: `said` has yet to be sent, and `read` has come
    /// behind the handshake.
    pub(super) fn new(
        tcp: TcpStream,
        session: Session,
        ours: Traffic,
        said: Vec<u8>,
        theirs: Traffic,
        read: Vec<u8>,
    ) -> Self {
        let holding = !said.is_empty();
        let (incoming, outgoing) = (Incoming::new(theirs, read), Outgoing::new(ours, said));
        Self { tcp, session, incoming, outgoing, holding }
    }

    /// What the handshake has proven.
    pub(crate) fn session(&self) -> Session {
        self.session
    }

    /// Much is to be expected: more is read at once, which takes more memory. Returns where to say
    /// how much is sure to come, for whoever knows.
    pub(crate) fn expect_bulk(&mut self) -> Expected {
        self.incoming.expect_bulk()
    }

    /// Has this side change its key after so many records.
    #[cfg(test)]
    pub(super) fn wear_after(&mut self, records: u64) {
        self.outgoing.wear_after(records);
    }

    /// Sends what is sealed.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.unsent().is_empty() {
            match ready!(Pin::new(&mut self.tcp).poll_write(cx, self.outgoing.unsent()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.outgoing.sent(sent),
            }
        }
        self.holding = false;
        Poll::Ready(Ok(()))
    }

    /// Sends what is sealed where that can be done at once: nobody waits for it.
    fn try_send(&mut self) {
        while !self.outgoing.unsent().is_empty() {
            match self.tcp.try_write(self.outgoing.unsent()) {
                Ok(sent @ 1..) => self.outgoing.sent(sent),
                _ => return,
            }
        }
    }
}

impl AsyncRead for Channel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.holding {
            ready!(this.poll_send(cx))?;
        }
        let polled = this.incoming.poll_read(&mut this.tcp, cx, out);
        if let Some(alert) = this.incoming.alert() {
            this.outgoing.close(failure(alert))?;
            this.try_send();
        }
        if this.incoming.take_asked() {
            this.outgoing.update_before_next();
        }
        polled
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.outgoing.is_full() {
            ready!(self.poll_send(cx))?;
        }
        let taken = self.outgoing.seal(slices)?;
        // What can't be sent now is with the next write or flush.
        match self.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.close(CLOSE_NOTIFY)?;
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// What is on its way is nobody's business.
impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("peer", &self.session.id).finish_non_exhaustive()
    }
}

impl Drop for Channel {
    /// Whoever goes away without a word still ends its handshake, so that the other side knows.
    fn drop(&mut self) {
        if self.holding {
            self.try_send();
        }
    }
}
