//! One stream of a QUIC connection: a link, or a peerkit stream.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::{RecvStream, SendStream, VarInt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::task::TaskTracker;

use crate::tls::{ChannelPurpose, Session};

/// Maximum time for which a connection stays open after its last stream was dropped, until the peer has received
/// all bytes. 10 s: some three round trips with loss; a system's kernel keeps a closed TCP connection much longer.
const LINGER: Duration = Duration::from_secs(10);

/// The code with which a stream is reset that was dropped without a shutdown. The peer then knows that bytes may be
/// missing.
const DROPPED: VarInt = VarInt::from_u32(1);

/// The code with which a connection without streams is closed.
const NO_STREAM: VarInt = VarInt::from_u32(0);

/// A QUIC connection. It is closed when its last stream is dropped: only streams own it.
pub(crate) struct QuicConnection {
    connection: quinn::Connection,
    session: Session,
    /// Counts the tasks that wait until the peer has received all bytes of a stream.
    lingering: TaskTracker,
}

/// One stream of a QUIC connection. It has to be shut down, or the peer gets an error in place of its end.
pub(crate) struct QuicStream {
    send: SendStream,
    receive: RecvStream,
    connection: Arc<QuicConnection>,
    is_shut_down: bool,
}

impl QuicConnection {
    pub(super) fn new(
        connection: quinn::Connection,
        session: Session,
        lingering: TaskTracker,
    ) -> Arc<Self> {
        Arc::new(Self { connection, session, lingering })
    }

    /// Returns the purpose for which the connection was made.
    pub(super) fn purpose(&self) -> ChannelPurpose {
        self.session.purpose
    }

    /// Returns the address of this machine on the connection, if the system tells it.
    pub(super) fn local_ip(&self) -> Option<IpAddr> {
        self.connection.local_ip()
    }

    /// Returns how many packets this node has sent and received.
    pub(super) fn packets(&self) -> (u64, u64) {
        let stats = self.connection.stats();
        (stats.udp_tx.datagrams, stats.udp_rx.datagrams)
    }

    /// Opens a stream. The peer sees it when the first byte is sent. Waits while the peer has too many.
    pub(crate) async fn open(self: Arc<Self>) -> io::Result<QuicStream> {
        let (send, receive) = self.connection.open_bi().await?;
        Ok(QuicStream::new(send, receive, self))
    }

    /// Waits for a stream that the peer opens.
    pub(super) async fn accept(self: Arc<Self>) -> io::Result<QuicStream> {
        let (send, receive) = self.connection.accept_bi().await?;
        Ok(QuicStream::new(send, receive, self))
    }

    /// Waits for streams that the peer opens, and hands each to `serve`. Returns when the connection is closed.
    /// Does not keep the connection open.
    pub(super) async fn accept_streams(connection: Weak<Self>, serve: impl Fn(QuicStream)) {
        let Some(raw) = connection.upgrade().map(|open| open.connection.clone()) else { return };
        // The handle `raw` does not keep the connection open, because `Drop` closes it.
        while let Ok((send, receive)) = raw.accept_bi().await {
            let Some(connection) = connection.upgrade() else { return };
            serve(QuicStream::new(send, receive, connection));
        }
    }
}

impl Drop for QuicConnection {
    fn drop(&mut self) {
        self.connection.close(NO_STREAM, b"");
    }
}

impl QuicStream {
    fn new(send: SendStream, receive: RecvStream, connection: Arc<QuicConnection>) -> Self {
        Self { send, receive, connection, is_shut_down: false }
    }

    /// Returns the facts that the handshake has proven.
    pub(crate) fn session(&self) -> Session {
        self.connection.session
    }

    /// Returns the present address of the peer, which may change.
    pub(crate) fn remote(&self) -> SocketAddr {
        self.connection.connection.remote_address()
    }

    /// Returns the connection that this stream belongs to.
    pub(crate) fn connection(&self) -> Weak<QuicConnection> {
        Arc::downgrade(&self.connection)
    }

    /// Sends the bytes of this stream before those of the connection's other streams.
    pub(super) fn prioritize(&self) {
        // Fails only if the stream is closed already.
        let _ = self.send.set_priority(1);
    }
}

impl AsyncRead for QuicStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.receive), cx, out)
    }
}

impl AsyncWrite for QuicStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut_down = true;
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}

impl fmt::Debug for QuicStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicStream").field("peer", &self.session().id).finish_non_exhaustive()
    }
}

impl Drop for QuicStream {
    /// Keeps the connection open until the peer has received what was sent before the shutdown, as the kernel does
    /// for TCP.
    fn drop(&mut self) {
        if !self.is_shut_down {
            // Fails only if the stream is closed already.
            let _ = self.send.reset(DROPPED);
            return;
        }
        let received = self.send.stopped();
        let connection = self.connection.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let lingering = self.connection.lingering.clone();
            lingering.spawn_on(
                async move {
                    let _ = tokio::time::timeout(LINGER, received).await;
                    drop(connection);
                },
                &runtime,
            );
        }
    }
}
