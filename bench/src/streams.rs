//! Byte streams of any system between two ends. Each stream starts with a byte that says what the stream is
//! for. This byte also makes the stream visible to the other end immediately, and lets the other end accept
//! several streams in any order.

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bulk::Stream;
use crate::system::System;
#[cfg(feature = "systems")]
use crate::systems::{iroh, libp2p};
use crate::systems::{peerkit, raw};

/// The first byte of a stream, which says what the stream is for.
pub(crate) type Purpose = u8;

/// The stream is for messages.
pub(crate) const MESSAGES: Purpose = b'm';

/// The stream is for bulk data.
pub(crate) const BULK: Purpose = b'b';

/// The end that accepts streams.
pub(crate) enum Listener {
    /// Each stream is a connection.
    Raw(raw::Listener),
    /// Each stream is part of one connection.
    RawQuinn(raw::quic::Listener),
    /// Each stream is a connection beside the link. With a link over QUIC, each is part of its connection.
    Peerkit(peerkit::StreamListener),
    /// Each stream is part of one connection.
    #[cfg(feature = "systems")]
    Libp2p(libp2p::Listener),
    /// Each stream is part of one connection.
    #[cfg(feature = "systems")]
    Iroh(iroh::Listener),
}

/// The end that opens streams.
pub(crate) enum Dialler {
    /// Each stream is a connection.
    Raw(raw::Dialler),
    /// Each stream is part of one connection.
    RawQuinn(raw::quic::Dialler),
    /// Each stream is a connection beside the link. With a link over QUIC, each is part of its connection.
    Peerkit(peerkit::StreamDialler),
    /// Each stream is part of one connection.
    #[cfg(feature = "systems")]
    Libp2p(libp2p::Dialler),
    /// Each stream is part of one connection.
    #[cfg(feature = "systems")]
    Iroh(iroh::Dialler),
}

impl Listener {
    /// Listens on a free port of 127.0.0.1.
    pub(crate) async fn bind(system: System) -> Result<Self> {
        Ok(match system {
            System::RawTcp => Self::Raw(raw::Listener::bind(false).await?),
            System::RawTls => Self::Raw(raw::Listener::bind(true).await?),
            System::RawQuinn => Self::RawQuinn(raw::quic::Listener::bind()?),
            System::Peerkit | System::PeerkitQuic => {
                Self::Peerkit(peerkit::StreamListener::bind(system).await?)
            }
            #[cfg(feature = "systems")]
            System::Libp2pNoise | System::Libp2pTls => {
                Self::Libp2p(libp2p::Listener::bind(system).await?)
            }
            #[cfg(feature = "systems")]
            System::Iroh => Self::Iroh(iroh::Listener::bind().await?),
            _ => bail!("{} has no streams", system.name()),
        })
    }

    /// Returns the address for [`Dialler::connect`].
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Raw(listener) => listener.address(),
            Self::RawQuinn(listener) => listener.address(),
            Self::Peerkit(listener) => listener.address(),
            #[cfg(feature = "systems")]
            Self::Libp2p(listener) => listener.address(),
            #[cfg(feature = "systems")]
            Self::Iroh(listener) => listener.address(),
        }
    }

    /// Accepts the next stream and reads its purpose.
    pub(crate) async fn accept(&mut self) -> Result<(Purpose, Stream)> {
        let mut stream: Stream = match self {
            Self::Raw(listener) => listener.accept().await?,
            Self::RawQuinn(listener) => listener.accept().await?,
            Self::Peerkit(listener) => listener.accept().await?,
            #[cfg(feature = "systems")]
            Self::Libp2p(listener) => listener.accept().await?,
            #[cfg(feature = "systems")]
            Self::Iroh(listener) => listener.accept().await?,
        };
        Ok((stream.read_u8().await?, stream))
    }

    /// Accepts the next stream, which must be for messages.
    pub(crate) async fn accept_messages(&mut self) -> Result<Stream> {
        match self.accept().await? {
            (MESSAGES, stream) => Ok(stream),
            (other, _) => bail!("the first stream has the purpose {other}"),
        }
    }
}

impl Dialler {
    /// Connects to the listener at `address`.
    pub(crate) async fn connect(system: System, address: &str) -> Result<Self> {
        Ok(match system {
            System::RawTcp => Self::Raw(raw::Dialler::new(address, false)?),
            System::RawTls => Self::Raw(raw::Dialler::new(address, true)?),
            System::RawQuinn => Self::RawQuinn(raw::quic::Dialler::connect(address).await?),
            System::Peerkit | System::PeerkitQuic => {
                Self::Peerkit(peerkit::StreamDialler::connect(address).await?)
            }
            #[cfg(feature = "systems")]
            System::Libp2pNoise | System::Libp2pTls => {
                Self::Libp2p(libp2p::Dialler::connect(system, address).await?)
            }
            #[cfg(feature = "systems")]
            System::Iroh => Self::Iroh(iroh::Dialler::connect(address).await?),
            _ => bail!("{} has no streams", system.name()),
        })
    }

    /// Opens a stream.
    pub(crate) async fn open(&mut self, purpose: Purpose) -> Result<Stream> {
        let mut stream: Stream = match self {
            Self::Raw(dialler) => dialler.open().await?,
            Self::RawQuinn(dialler) => dialler.open().await?,
            Self::Peerkit(dialler) => dialler.open().await?,
            #[cfg(feature = "systems")]
            Self::Libp2p(dialler) => dialler.open().await?,
            #[cfg(feature = "systems")]
            Self::Iroh(dialler) => dialler.open().await?,
        };
        stream.write_u8(purpose).await?;
        stream.flush().await?;
        Ok(stream)
    }
}
