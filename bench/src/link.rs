//! One end of a link that messages go over, of whatever system: its own messages where it has some,
//! or else [`framed`](mod@crate::framed) ones on a byte stream.

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

/// The end that waits for the other.
pub(crate) enum Listener {
    /// It waits for a byte stream.
    Framed(streams::Listener, Part),
    /// It is a node.
    Peerkit(peerkit::Listener),
    /// It is a session.
    #[cfg(feature = "systems")]
    Zenoh(zenoh::Listener),
}

/// An end.
pub(crate) enum Link {
    /// Of a byte stream.
    Framed(Framed),
    /// Of a link between nodes.
    Peerkit(peerkit::Link),
    /// Of a link between sessions.
    #[cfg(feature = "systems")]
    Zenoh(zenoh::Link),
}

impl Listener {
    /// Listens on a port of 127.0.0.1 that is free.
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

    /// What [`Link::connect`] needs.
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Framed(listener, _) => listener.address(),
            Self::Peerkit(listener) => listener.address(),
            #[cfg(feature = "systems")]
            Self::Zenoh(listener) => listener.address(),
        }
    }

    /// Waits for the other end. Bulk data that it sends is swallowed from then on.
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
    /// Links to the listener at `address`.
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

    /// Sends numbered messages of `size` bytes for `length`, and the last; returns how many before
    /// it. They may still be on their way: the link must stay until the other end has them.
    pub(crate) async fn send(&mut self, size: usize, length: Duration) -> Result<u64> {
        match self {
            Self::Framed(link) => framed::send(&mut link.stream, size, length).await,
            Self::Peerkit(link) => link.send(size, length).await,
            #[cfg(feature = "systems")]
            Self::Zenoh(link) => link.send(size, length).await,
        }
    }

    /// Receives until the last message; they have `size` bytes. For [`Part::Count`].
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

    /// Sends back what comes, until the other end leaves or this is dropped. For [`Part::Echo`].
    pub(crate) async fn echo(&mut self) -> Result<()> {
        match self {
            Self::Framed(link) => framed::echo(&mut link.stream).await,
            // What is called for each message does it.
            Self::Peerkit(_) => std::future::pending().await,
            #[cfg(feature = "systems")]
            Self::Zenoh(_) => std::future::pending().await,
        }
    }

    /// Sends a message to and fro until the rounds are enough. For [`Part::Ping`].
    pub(crate) async fn rounds(&mut self) -> Result<Rounds> {
        match self {
            Self::Framed(link) => link.rounds().await,
            Self::Peerkit(link) => link.rounds().await,
            #[cfg(feature = "systems")]
            Self::Zenoh(link) => link.rounds().await,
        }
    }

    /// Sends bulk data from now on until what is returned is dropped, beside the messages: in the
    /// way that the system has for it. For the end that has connected.
    pub(crate) async fn start_bulk(&mut self) -> Result<Bulk> {
        match self {
            Self::Framed(link) => link.start_bulk().await,
            Self::Peerkit(link) => link.start_bulk().await,
            #[cfg(feature = "systems")]
            Self::Zenoh(link) => link.start_bulk().await,
        }
    }

    /// Ends it in the system's own way.
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

/// An end of a byte stream with messages on it.
pub(crate) struct Framed {
    stream: Stream,
    part: Part,
    dialler: Option<Dialler>,
    /// What waits for streams with bulk data. Ends when it is dropped.
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
            // What was connected goes with the listener: not before the link does.
            std::future::pending::<()>().await;
        });
        Ok(Self { stream, part, dialler: None, _swallowing: swallowing })
    }

    async fn exchange(&mut self, size: usize, length: Duration) -> Result<(u64, Arrived)> {
        // The halves take turns at what they share, and each has a task of its own.
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
