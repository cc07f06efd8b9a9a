//! Channels of tokio-rustls: the reference for our own record layer, and its replacement if a fault is found
//! in it. They have the same interface and pass the same tests.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{NotANode, Session, server_name};

/// A byte stream that TLS runs on.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Transport for T {}

/// A connection secured by TLS 1.3.
pub(crate) struct TlsChannel<T: Transport = TcpStream> {
    stream: TlsStream<T>,
    session: Session,
}

/// Stands for the number of bytes that the peer will send without another request. It stores nothing, because
/// tokio-rustls could not use the number.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExpectedBytes;

impl ExpectedBytes {
    /// Ignores the number.
    pub(crate) fn set(&self, _: u64) {}
}

/// Secures an accepted connection.
///
/// # Errors
/// The error of TLS or of `transport`.
pub(super) async fn accept<T: Transport>(
    config: ServerConfig,
    transport: T,
) -> io::Result<TlsChannel<T>> {
    let stream = TlsAcceptor::from(Arc::new(config)).accept(transport).await?;
    TlsChannel::new(Session::of(stream.get_ref().1), stream.into())
}

/// Secures a dialled connection.
///
/// # Errors
/// As for [`accept`].
pub(super) async fn dial<T: Transport>(
    config: ClientConfig,
    transport: T,
) -> io::Result<TlsChannel<T>> {
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(server_name(), transport).await?;
    TlsChannel::new(Session::of(stream.get_ref().1), stream.into())
}

impl<T: Transport> TlsChannel<T> {
    fn new(session: Result<Session, NotANode>, stream: TlsStream<T>) -> io::Result<Self> {
        let session = session.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Self { stream, session })
    }

    /// Returns the facts that the handshake has proven, such as the identity of the peer.
    pub(crate) fn session(&self) -> Session {
        self.session
    }

    /// Our own record layer makes its reads larger from here on. This channel changes nothing.
    pub(crate) fn expect_bulk(&mut self) -> ExpectedBytes {
        ExpectedBytes
    }

    /// Updates this side's key, and has the peer update its own.
    #[cfg(test)]
    pub(super) fn update_key(&mut self) {
        super::tests::refresh(&mut self.stream);
    }
}

impl<T: Transport> AsyncRead for TlsChannel<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, out)
    }
}

impl<T: Transport> AsyncWrite for TlsChannel<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<T: Transport> fmt::Debug for TlsChannel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsChannel").field("peer", &self.session.id).finish_non_exhaustive()
    }
}
