//! One end of a link for messages, of any system. It uses the messages of the system if it has some, or
//! else
//! [`framed`](mod@crate::framed) ones on a byte stream.

use std::time::Duration;

use anyhow::Result;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use crate::bulk::{Bulk, Stream, swallow};
use crate::framed;
use crate::messages::{Arrived, Part, Rounds};
use crate::streams::{self, BULK, Dialler, MESSAGES};
use crate::system::System;
use crate::systems::peerkit;
#[cfg(feature = "systems")]
use crate::systems::zenoh;

/// The end that waits for the other one.
pub(crate) enum Listener {
    /// A listener for byte streams.
    Framed(streams::Listener, Part),
    /// A node.
    Peerkit(peerkit::Listener),
    /// A session.
    #[cfg(feature = "systems")]
    Zenoh(zenoh::Listener),
}

/// One end of a link.
pub(crate) enum Link {
    /// The end of a byte stream.
    Framed(Framed),
    /// The end of a link between nodes.
    Peerkit(peerkit::Link),
    /// The end of a link between sessions.
    #[cfg(feature = "systems")]
    Zenoh(zenoh::Link),
}

impl Listener {
    /// Listens on a free port of 127.0.0.1.
    pub(crate) async fn bind(system: System, part: Part) -> Result<Self> {
        Ok(match system {
            System::Peerkit => Self::Peerkit(peerkit::Listener::bind(part).await?),
            #[cfg(feature = "systems")]
            System::ZenohTcp | System::ZenohTls => {
                Self::Zenoh(zenoh::Listener::bind(system, part).await?)
            }
            _ => Self::Framed(streams::Listener::bind(system).await?, part),
        })
    }

    /// Returns what [`Link::connect`] needs.
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Framed(listener, _) => listener.address(),
            Self::Peerkit(listener) => listener.address(),
            #[cfg(feature = "systems")]
            Self::Zenoh(listener) => listener.address(),
        }
    }

    /// Waits for the other end. Its bulk data are dropped from then on.
    pub(crate) async fn accept(self) -> Result<Link> {
        Ok(match self {
            Self::Framed(listener, part) => Link::Framed(Framed::accept(listener, part).await?),
            Self::Peerkit(listener) => Link::Peerkit(listener.accept().await?),
            #[cfg(feature = "systems")]
            Self::Zenoh(listener) => Link::Zenoh(listener.accept()),
        })
    }
}

impl Link {
    /// Makes a link to the listener at `address`.
    pub(crate) async fn connect(system: System, address: &str, part: Part) -> Result<Self> {
        Ok(match system {
            System::Peerkit => Self::Peerkit(peerkit::Link::connect(address, part).await?),
            #[cfg(feature = "systems")]
            System::ZenohTcp | System::ZenohTls => {
                Self::Zenoh(zenoh::Link::connect(address, part).await?)
            }
            _ => Self::Framed(Framed::connect(system, address, part).await?),
        })
    }

    /// Sends numbered messages of `size` bytes for `length`, and then the last one. Returns the number
    /// of those before it. They may still be on their way: the link must stay until the other end has
    /// them.
    pub(crate) async fn send(&mut self, size: usize, length: Duration) -> Result<u64> {
        match self {
            Self::Framed(link) => framed::send(&mut link.stream, size, length).await,
            Self::Peerkit(link) => link.send(size, length).await,
            #[cfg(feature = "systems")]
            Self::Zenoh(link) => link.send(size, length).await,
        }
    }

    /// Receives messages of `size` bytes until the last one. For [`Part::Count`].
    pub(crate) async fn arrived(&mut self, size: usize) -> Result<Arrived> {
        match self {
            Self::Framed(link) => framed::receive(&mut link.stream, size).await,
            Self::Peerkit(link) => link.arrived().await,
            #[cfg(feature = "systems")]
            Self::Zenoh(link) => link.arrived().await,
        }
    }

    /// Sends and receives at once. For [`Part::Count`].
    pub(crate) async fn exchange(
        &mut self,
        size: usize,
        length: Duration,
    ) -> Result<(u64, Arrived)> {
        match self {
            Self::Framed(link) => link.exchange(size, length).await,
            Self::Peerkit(link) => link.exchange(size, length).await,
            #[cfg(feature = "systems")]
            Self::Zenoh(link) => link.exchange(size, length).await,
        }
    }

    /// Sends each message back, until the other end leaves or this is dropped. For [`Part::Echo`].
    pub(crate) async fn echo(&mut self) -> Result<()> {
        match self {
            Self::Framed(link) => framed::echo(&mut link.stream).await,
            // The function for each message does it.
            Self::Peerkit(_) => std::future::pending().await,
            #[cfg(feature = "systems")]
            Self::Zenoh(_) => std::future::pending().await,
        }
    }

    /// Sends a message back and forth until there are enough rounds. For [`Part::Ping`].
    pub(crate) async fn rounds(&mut self) -> Result<Rounds> {
        match self {
            Self::Framed(link) => link.rounds().await,
            Self::Peerkit(link) => link.rounds().await,
            #[cfg(feature = "systems")]
            Self::Zenoh(link) => link.rounds().await,
        }
    }

    /// Sends bulk data beside the messages until the result is dropped, in the way of the system. For
    /// the end that has connected.
    pub(crate) async fn start_bulk(&mut self) -> Result<Bulk> {
        match self {
            Self::Framed(link) => link.start_bulk().await,
            Self::Peerkit(link) => link.start_bulk().await,
            #[cfg(feature = "systems")]
            Self::Zenoh(link) => link.start_bulk().await,
        }
    }

    /// Ends the link in the way of the system.
    pub(crate) async fn close(self) {
        match self {
            Self::Framed(mut link) => {
                // The other end may have gone first.
                let _ = link.stream.shutdown().await;
            }
            Self::Peerkit(link) => link.close().await,
            #[cfg(feature = "systems")]
            Self::Zenoh(link) => link.close().await,
        }
    }
}

/// The end of a byte stream with messages on it.
pub(crate) struct Framed {
    stream: Stream,
    part: Part,
    dialler: Option<Dialler>,
    /// A task that waits for streams with bulk data. Ends when it is dropped.
    _swallowing: JoinSet<()>,
}

impl Framed {
    async fn connect(system: System, address: &str, part: Part) -> Result<Self> {
        let mut dialler = Dialler::connect(system, address).await?;
        let stream = dialler.open(MESSAGES).await?;
        Ok(Self { stream, part, dialler: Some(dialler), _swallowing: JoinSet::new() })
    }

    async fn accept(mut listener: streams::Listener, part: Part) -> Result<Self> {
        let stream = listener.accept_messages().await?;
        let mut swallowing = JoinSet::new();
        swallowing.spawn(async move {
            while let Ok((_, stream)) = listener.accept().await {
                tokio::spawn(swallow(stream));
            }
            // Connections that it has accepted end with the listener, so it has to stay as long as the
            // link.
            std::future::pending::<()>().await;
        });
        Ok(Self { stream, part, dialler: None, _swallowing: swallowing })
    }

    async fn exchange(&mut self, size: usize, length: Duration) -> Result<(u64, Arrived)> {
        // The halves share the stream and take turns, each in a task of its own.
        let stream = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let (mut reading, mut writing) = tokio::io::split(stream);
        let sending = tokio::spawn(async move {
            let sent = framed::send(&mut writing, size, length).await;
            (sent, writing)
        });
        let arrived = framed::receive(&mut reading, size).await?;
        let (sent, writing) = sending.await?;
        self.stream = reading.unsplit(writing);
        Ok((sent?, arrived))
    }

    async fn rounds(&mut self) -> Result<Rounds> {
        let Part::Ping { size, length } = self.part else {
            anyhow::bail!("this end does not ping");
        };
        framed::ping(&mut self.stream, Rounds::new(size, length)).await
    }

    async fn start_bulk(&mut self) -> Result<Bulk> {
        let Some(dialler) = &mut self.dialler else {
            anyhow::bail!("bulk data comes from the end that has connected");
        };
        Ok(Bulk::pump(dialler.open(BULK).await?))
    }
}
