//! Channels: secured connections between two nodes, whatever transport they use. Everything above this file works
//! the same over each.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Weak;
use std::task::{Context, Poll};

use peerkit_proto::address::Scheme;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::quic::{QuicConnection, QuicStream};
use crate::stream::Stream;
use crate::tls::{ExpectedBytes, Session, TlsChannel};

/// A secured connection between two nodes.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most channels are those over TCP")]
pub(crate) enum Channel {
    /// TLS over TCP.
    Tcp(TlsChannel),
    /// One stream of a QUIC connection.
    Quic(QuicStream),
    /// TLS between the two nodes, over a stream of each with a third one.
    Relayed(Box<TlsChannel<Stream>>),
}

impl Channel {
    /// Returns the facts that the handshake has proven.
    pub(crate) fn session(&self) -> Session {
        match self {
            Self::Tcp(channel) => channel.session(),
            Self::Quic(stream) => stream.session(),
            Self::Relayed(channel) => channel.session(),
        }
    }

    /// Makes reads larger, which takes more memory. A reader that knows how many bytes will arrive sets that
    /// number in the returned value.
    pub(crate) fn expect_bulk(&mut self) -> ExpectedBytes {
        match self {
            Self::Tcp(channel) => channel.expect_bulk(),
            Self::Quic(_) | Self::Relayed(_) => ExpectedBytes::default(),
        }
    }

    /// Returns the QUIC connection that this channel belongs to, on which further streams can be opened.
    pub(crate) fn quic_connection(&self) -> Option<Weak<QuicConnection>> {
        match self {
            Self::Quic(stream) => Some(stream.connection()),
            Self::Tcp(_) | Self::Relayed(_) => None,
        }
    }

    /// Returns the transport.
    pub(crate) fn scheme(&self) -> Scheme {
        match self {
            Self::Tcp(_) => Scheme::Tcp,
            Self::Quic(_) => Scheme::Quic,
            Self::Relayed(_) => Scheme::Relay,
        }
    }
}

impl AsyncRead for Channel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(channel) => Pin::new(channel).poll_read(cx, out),
            Self::Quic(stream) => Pin::new(stream).poll_read(cx, out),
            Self::Relayed(channel) => Pin::new(channel).poll_read(cx, out),
        }
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(channel) => Pin::new(channel).poll_write(cx, bytes),
            Self::Quic(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Relayed(channel) => Pin::new(channel).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(channel) => Pin::new(channel).poll_write_vectored(cx, slices),
            Self::Quic(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Relayed(channel) => Pin::new(channel).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(channel) => channel.is_write_vectored(),
            Self::Quic(stream) => stream.is_write_vectored(),
            Self::Relayed(channel) => channel.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(channel) => Pin::new(channel).poll_flush(cx),
            Self::Quic(stream) => Pin::new(stream).poll_flush(cx),
            Self::Relayed(channel) => Pin::new(channel).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(channel) => Pin::new(channel).poll_shutdown(cx),
            Self::Quic(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Relayed(channel) => Pin::new(channel).poll_shutdown(cx),
        }
    }
}
