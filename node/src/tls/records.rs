//! Channels with a record layer of our own (RFC 8446, section 5), after a handshake by rustls.
//!
//! The record layer avoids copying all data four times. It seals records from the writer's buffer directly into
//! the buffer that the system sends, and opens them from the buffer that the system has filled directly into
//! the reader's buffer.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use peerkit_proto::tls::{CLOSE_NOTIFY, failure_alert};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{Session, server_name};

mod handshake;
mod incoming;
mod low_watermark;
mod outgoing;
mod protection;
#[cfg(test)]
mod tests;
mod transport;

use handshake::{Finished, Secrets};
use incoming::IncomingRecords;
pub(crate) use low_watermark::ExpectedBytes;
use outgoing::OutgoingRecords;
pub(crate) use transport::Transport;

/// A connection secured by TLS 1.3. It has buffers only while much data passes.
pub(crate) struct TlsChannel<T: Transport = TcpStream> {
    transport: T,
    session: Session,
    incoming: IncomingRecords,
    outgoing: OutgoingRecords,
    /// The end of our handshake has not been sent. It goes out with the first data, or before a read or a
    /// drop.
    holds_handshake_end: bool,
}

/// Secures an accepted connection.
///
/// # Errors
/// The error of TLS or of `transport`, or [`handshake::TakeOverError`].
pub(super) async fn accept<T: Transport>(
    mut config: ServerConfig,
    transport: T,
) -> io::Result<TlsChannel<T>> {
    let secrets = Arc::<Secrets>::default();
    config.key_log = secrets.clone();
    config.enable_secret_extraction = true;
    let connection = ServerConnection::new(Arc::new(config)).map_err(io::Error::other)?;
    TlsChannel::secure(transport, Connection::Server(connection), &secrets).await
}

/// Secures a dialled connection.
///
/// # Errors
/// As for [`accept`].
pub(super) async fn dial<T: Transport>(
    mut config: ClientConfig,
    transport: T,
) -> io::Result<TlsChannel<T>> {
    let secrets = Arc::<Secrets>::default();
    config.key_log = secrets.clone();
    config.enable_secret_extraction = true;
    let connection = ClientConnection::new(Arc::new(config), server_name());
    let connection = connection.map_err(io::Error::other)?;
    TlsChannel::secure(transport, Connection::Client(connection), &secrets).await
}

impl<T: Transport> TlsChannel<T> {
    async fn secure(
        mut transport: T,
        connection: Connection,
        secrets: &Secrets,
    ) -> io::Result<Self> {
        let Finished { session, ours, unsent, theirs, read } =
            handshake::shake_hands(&mut transport, connection, secrets).await?;
        let holds_handshake_end = !unsent.is_empty();
        let (incoming, outgoing) =
            (IncomingRecords::new(theirs, read), OutgoingRecords::new(ours, unsent));
        Ok(Self { transport, session, incoming, outgoing, holds_handshake_end })
    }

    /// Returns the facts that the handshake has proven.
    pub(crate) fn session(&self) -> Session {
        self.session
    }

    /// Makes reads larger, which takes more memory. A reader that knows how many bytes will arrive sets that
    /// number in the returned value.
    pub(crate) fn expect_bulk(&mut self) -> ExpectedBytes {
        self.incoming.expect_bulk()
    }

    /// Updates this side's key before the next data.
    #[cfg(test)]
    pub(super) fn update_key(&mut self) {
        self.outgoing.update_before_next();
    }

    /// Limits the number of records that one key seals.
    #[cfg(test)]
    pub(super) fn limit_records(&mut self, records: u64) {
        self.outgoing.limit_records(records);
    }

    /// Sends all sealed records.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.check()?;
        while !self.outgoing.unsent().is_empty() {
            match ready!(Pin::new(&mut self.transport).poll_write(cx, self.outgoing.unsent()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.outgoing.sent(len),
            }
        }
        self.holds_handshake_end = false;
        Poll::Ready(Ok(()))
    }

    /// Sends as many sealed records as the transport takes without waiting.
    fn try_send(&mut self) {
        while !self.outgoing.unsent().is_empty() {
            match self.transport.try_write(self.outgoing.unsent()) {
                Ok(len @ 1..) => self.outgoing.sent(len),
                _ => return,
            }
        }
    }
}

impl<T: Transport> AsyncRead for TlsChannel<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.outgoing.check()?;
        // The peer sends nothing before it has the end of our handshake. Without that, this read would wait
        // for ever.
        if this.holds_handshake_end {
            ready!(this.poll_send(cx))?;
        }
        let polled = this.incoming.poll_read(&mut this.transport, cx, out);
        // The alert goes out only if the transport takes it without waiting. The read reports the error in
        // any case.
        if let Some(alert) = this.incoming.alert() {
            this.outgoing.close(failure_alert(alert))?;
            this.try_send();
        }
        if this.incoming.take_update_request() {
            this.outgoing.update_before_next();
        }
        polled
    }
}

impl<T: Transport> AsyncWrite for TlsChannel<T> {
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
        // The bytes are sealed, so the write has to return their number even if the transport takes none of
        // them yet. The next write or flush sends them.
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
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.close(CLOSE_NOTIFY)?;
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}

impl<T: Transport> fmt::Debug for TlsChannel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsChannel").field("peer", &self.session.id).finish_non_exhaustive()
    }
}

impl<T: Transport> Drop for TlsChannel<T> {
    /// Sends the end of our handshake, so that the peer sees a session that is closed without any data.
    fn drop(&mut self) {
        if self.holds_handshake_end {
            self.try_send();
        }
    }
}
