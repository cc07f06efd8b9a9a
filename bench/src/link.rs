//! The ends of a link that carries messages, for each measured system. A system that has byte streams but no
//! messages uses [`framing`](mod@crate::framing).

use std::time::Duration;

use anyhow::Result;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use crate::bulk::{BulkTransfer, Stream, discard};
use crate::framing;
use crate::messages::{OnMessage, ReceiveTotals, Rounds};
use crate::streams::{self, BULK, Dialler, MESSAGES};
use crate::system::System;
use crate::systems::peerkit;
#[cfg(feature = "systems")]
use crate::systems::zenoh;

/// The listening end.
pub(crate) enum Listener {
    /// A listener of a system that has byte streams.
    Framed(streams::Listener, OnMessage),
    /// A peerkit node.
    Peerkit(peerkit::Listener),
    /// A zenoh session.
    #[cfg(feature = "systems")]
    Zenoh(zenoh::Listener),
}

/// One end of a link.
pub(crate) enum Link {
    /// One end of a byte stream.
    Framed(Framed),
    /// One end of a link between peerkit nodes.
    Peerkit(peerkit::Link),
    /// One end of a link between zenoh sessions.
    #[cfg(feature = "systems")]
    Zenoh(zenoh::Link),
}

impl Listener {
    /// Listens on a free port of 127.0.0.1.
    pub(crate) async fn bind(system: System, on_message: OnMessage) -> Result<Self> {
        Ok(match system {
            System::Peerkit | System::PeerkitQuic => {
                Self::Peerkit(peerkit::Listener::bind(system, on_message).await?)
            }
            #[cfg(feature = "systems")]
            System::ZenohTcp | System::ZenohTls => {
                Self::Zenoh(zenoh::Listener::bind(system, on_message).await?)
            }
            _ => Self::Framed(streams::Listener::bind(system).await?, on_message),
        })
    }

    /// Returns the address for [`Link::connect`].
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Framed(listener, _) => listener.address(),
            Self::Peerkit(listener) => listener.address(),
            #[cfg(feature = "systems")]
            Self::Zenoh(listener) => listener.address(),
        }
    }

    /// Waits for the other end to connect. Bulk data that arrives on the link is read and discarded.
    pub(crate) async fn accept(self) -> Result<Link> {
        Ok(match self {
            Self::Framed(listener, on_message) => {
                Link::Framed(Framed::accept(listener, on_message).await?)
            }
            Self::Peerkit(listener) => Link::Peerkit(listener.accept().await?),
            #[cfg(feature = "systems")]
            Self::Zenoh(listener) => Link::Zenoh(listener.accept()),
        })
    }
}

impl Link {
    /// Connects to the listener at `address`.
    pub(crate) async fn connect(
        system: System,
        address: &str,
        on_message: OnMessage,
    ) -> Result<Self> {
        Ok(match system {
            System::Peerkit | System::PeerkitQuic => {
                Self::Peerkit(peerkit::Link::connect(address, on_message).await?)
            }
            #[cfg(feature = "systems")]
            System::ZenohTcp | System::ZenohTls => {
                Self::Zenoh(zenoh::Link::connect(address, on_message).await?)
            }
            _ => Self::Framed(Framed::connect(system, address, on_message).await?),
        })
    }

    /// Sends numbered messages of `size` bytes for `duration`, and then a message that is marked as the last.
    /// Returns the number of messages before the last one. Messages may still be in flight, so the caller has
    /// to keep the link until the other end has received them.
    pub(crate) async fn send(&mut self, size: usize, duration: Duration) -> Result<u64> {
        match self {
            Self::Framed(link) => framing::send(&mut link.stream, size, duration).await,
            Self::Peerkit(link) => link.send(size, duration).await,
            #[cfg(feature = "systems")]
            Self::Zenoh(link) => link.send(size, duration).await,
        }
    }

    /// Receives messages of `size` bytes until the last one. Needs [`OnMessage::Count`].
    pub(crate) async fn receive_all(&mut self, size: usize) -> Result<ReceiveTotals> {
        match self {
            Self::Framed(link) => framing::receive(&mut link.stream, size).await,
            Self::Peerkit(link) => link.receive_all().await,
            #[cfg(feature = "systems")]
            Self::Zenoh(link) => link.receive_all().await,
        }
    }

    /// Sends and receives at the same time. Needs [`OnMessage::Count`].
    pub(crate) async fn exchange(
        &mut self,
        size: usize,
        duration: Duration,
    ) -> Result<(u64, ReceiveTotals)> {
        match self {
            Self::Framed(link) => link.exchange(size, duration).await,
            Self::Peerkit(link) => link.exchange(size, duration).await,
            #[cfg(feature = "systems")]
            Self::Zenoh(link) => link.exchange(size, duration).await,
        }
    }

    /// Sends messages back until the other end closes the link or this future is dropped. Needs
    /// [`OnMessage::Echo`].
    pub(crate) async fn echo(&mut self) -> Result<()> {
        match self {
            Self::Framed(link) => framing::echo(&mut link.stream).await,
            // The handler sends the messages back, so this future has nothing to do.
            Self::Peerkit(_) => std::future::pending().await,
            #[cfg(feature = "systems")]
            Self::Zenoh(_) => std::future::pending().await,
        }
    }

    /// Sends a message back and forth until the rounds have lasted long enough. Needs [`OnMessage::Ping`].
    pub(crate) async fn rounds(&mut self) -> Result<Rounds> {
        match self {
            Self::Framed(link) => link.rounds().await,
            Self::Peerkit(link) => link.rounds().await,
            #[cfg(feature = "systems")]
            Self::Zenoh(link) => link.rounds().await,
        }
    }

    /// Starts to send bulk data beside the messages, in the way that the system offers for this. Stops when
    /// the returned value is dropped. Only the end that has connected can do this.
    pub(crate) async fn start_bulk(&mut self) -> Result<BulkTransfer> {
        match self {
            Self::Framed(link) => link.start_bulk().await,
            Self::Peerkit(link) => link.start_bulk().await,
            #[cfg(feature = "systems")]
            Self::Zenoh(link) => link.start_bulk().await,
        }
    }

    /// Closes the link in the system's own way.
    pub(crate) async fn close(self) {
        match self {
            Self::Framed(mut link) => {
                // The other end may have closed first.
                let _ = link.stream.shutdown().await;
            }
            Self::Peerkit(link) => link.close().await,
            #[cfg(feature = "systems")]
            Self::Zenoh(link) => link.close().await,
        }
    }
}

/// One end of a byte stream that carries framed messages.
pub(crate) struct Framed {
    stream: Stream,
    on_message: OnMessage,
    dialler: Option<Dialler>,
    /// The task that accepts streams of bulk data and discards the data. It ends when this is dropped.
    _discarding: JoinSet<()>,
}

impl Framed {
    async fn connect(system: System, address: &str, on_message: OnMessage) -> Result<Self> {
        let mut dialler = Dialler::connect(system, address).await?;
        let stream = dialler.open(MESSAGES).await?;
        Ok(Self { stream, on_message, dialler: Some(dialler), _discarding: JoinSet::new() })
    }

    async fn accept(mut listener: streams::Listener, on_message: OnMessage) -> Result<Self> {
        let stream = listener.accept_messages().await?;
        let mut discarding = JoinSet::new();
        discarding.spawn(async move {
            while let Ok((_, stream)) = listener.accept().await {
                tokio::spawn(discard(stream));
            }
            // Dropping the listener would close the connection, so this task keeps it.
            std::future::pending::<()>().await;
        });
        Ok(Self { stream, on_message, dialler: None, _discarding: discarding })
    }

    async fn exchange(&mut self, size: usize, duration: Duration) -> Result<(u64, ReceiveTotals)> {
        // The sending task has to own its half of the stream. So an empty stream replaces the stream until
        // the two halves are joined again.
        let stream = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let (mut reading, mut writing) = tokio::io::split(stream);
        let sending = tokio::spawn(async move {
            let sent = framing::send(&mut writing, size, duration).await;
            (sent, writing)
        });
        let arrived = framing::receive(&mut reading, size).await?;
        let (sent, writing) = sending.await?;
        self.stream = reading.unsplit(writing);
        Ok((sent?, arrived))
    }

    async fn rounds(&mut self) -> Result<Rounds> {
        let OnMessage::Ping { size, duration } = self.on_message else {
            anyhow::bail!("this end does not measure rounds");
        };
        framing::ping(&mut self.stream, Rounds::new(size, duration)).await
    }

    async fn start_bulk(&mut self) -> Result<BulkTransfer> {
        let Some(dialler) = &mut self.dialler else {
            anyhow::bail!("only the end that connected can send bulk data");
        };
        Ok(BulkTransfer::send_on(dialler.open(BULK).await?))
    }
}
