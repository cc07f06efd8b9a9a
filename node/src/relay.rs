//! Relays: a node that two others have dialled, or can dial, copies the bytes of a connection between them.
//!
//! 1. The node that wants the connection opens a stream with [`RELAY_PROTOCOL`] to the relay, and sends the identity of
//!    the other one.
//! 2. The relay has a link with the other node. It opens a stream with [`RELAYED_PROTOCOL`] to it, and answers with one
//!    byte.
//! 3. The two ends shake hands with TLS through the relay, and prove their identities to each other. The relay sees
//!    who talks to whom, when and how much, but no content.
//!
//! Any member of the network can be a relay. It relays a few connections at a time, each at a limited rate.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address::{Address, Scheme};
use peerkit_proto::event::Direction;
use peerkit_proto::id::NodeId;
use peerkit_proto::peer::circuits::{self, CircuitRefusal, MAX_CIRCUITS};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::channel::Channel;
use crate::conn::Conn;
use crate::dial::{self, DialOrigin, DialPermit, Secured};
use crate::error::Error;
use crate::inner::Inner;
use crate::listen;
use crate::rate::Rate;
use crate::served::StreamHandler;
use crate::stream::Stream;
use crate::tls::ChannelPurpose;

/// The protocol of the streams to a relay.
pub(crate) const RELAY_PROTOCOL: &str = "peerkit-relay/1";

/// The protocol of the streams from a relay.
pub(crate) const RELAYED_PROTOCOL: &str = "peerkit-relayed/1";

/// The share of the rate for all connections that one gets at most.
const CIRCUIT_SHARE: u64 = 4;

/// Maximum time in which the relay reaches the other node.
const REACH_TIME: Duration = Duration::from_secs(5);

/// Number of bytes of a connection, in each direction, that are relayed at the rate for all. 1 MiB: messages, and the
/// first piece of a file.
const UNLIMITED_START: usize = 1 << 20;

/// Maximum burst of all connections together, as the time in which it is earned. 1 s: the first piece of a file does not
/// wait at a relay that was idle.
const BURST: Duration = Duration::from_secs(1);

/// Number of bytes that are copied at a time.
const PART: usize = 16 << 10;

/// The byte with which a relay answers.
mod status {
    use peerkit_proto::peer::circuits::CircuitRefusal;

    pub(super) const RELAYED: u8 = 0;
    pub(super) const BUSY: u8 = 1;
    pub(super) const NO_LINK: u8 = 2;
    const NOT_REACHED: u8 = 3;

    pub(super) fn of(refusal: CircuitRefusal) -> u8 {
        match refusal {
            CircuitRefusal::Busy => BUSY,
            CircuitRefusal::NoLink => NO_LINK,
            _ => NOT_REACHED,
        }
    }
}

/// The connections that this node relays.
#[derive(Debug)]
pub(crate) struct Circuits {
    permits: Arc<Semaphore>,
    rate: Rate,
}

impl Circuits {
    /// Relays at most `rate` bytes a second; 0 is no limit.
    pub(crate) fn new(rate: u64) -> Self {
        let permits = Arc::new(Semaphore::new(MAX_CIRCUITS));
        Self { permits, rate: Rate::with_burst(rate, BURST) }
    }

    /// Returns the number of connections that are relayed at the moment.
    pub(crate) fn count(&self) -> usize {
        MAX_CIRCUITS.saturating_sub(self.permits.available_permits())
    }
}

type Boxed = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Returns whether this node relays connections between others.
pub(crate) fn serves(inner: &Inner) -> bool {
    inner.config.relay && !inner.profile.manual && !inner.addresses.listening.is_empty()
}

/// Registers the handlers of both protocols.
pub(crate) fn start(inner: &Arc<Inner>) {
    let handler = |run: fn(Arc<Inner>, Stream) -> _| {
        let inner = Arc::downgrade(inner);
        StreamHandler::new(move |stream| {
            let inner = inner.upgrade();
            async move {
                if let Some(inner) = inner {
                    run(inner, stream).await;
                }
            }
        })
    };
    if serves(inner) {
        let relaying = handler(|inner, stream| -> Boxed { Box::pin(relay(inner, stream)) });
        inner.served.streams.insert(RELAY_PROTOCOL, relaying);
    }
    if inner.config.relay && !inner.profile.manual {
        let accepting = handler(|inner, stream| -> Boxed { Box::pin(accept(inner, stream)) });
        inner.served.streams.insert(RELAYED_PROTOCOL, accepting);
    }
}

/// Connects to the node that `address` names, through the relay at its host and port.
pub(crate) async fn dial(
    inner: &Inner,
    address: &Address,
    purpose: ChannelPurpose,
    origin: DialOrigin,
) -> Result<(Secured, DialPermit), Error> {
    let failed = |error: io::Error| Error::Connect { address: address.clone(), error };
    let refused = |why: &str| failed(io::Error::new(io::ErrorKind::ConnectionRefused, why));
    let Some(target) = address.id else {
        return Err(refused("the address of a relay needs the identity of the other node"));
    };
    if !inner.config.relay {
        return Err(refused("relays are switched off at this node"));
    }
    // The relay may be any node: the two ends prove their identities to each other.
    let at_relay = address.clone().without_id().with_scheme(Scheme::Tcp);
    let Secured { channel, remote, local, permit } =
        dial::connect(inner, &at_relay, ChannelPurpose::Stream, origin).await?;
    let permit = permit.ok_or_else(|| refused("no permit"))?;
    let mut stream = inner.open_on(channel, RELAY_PROTOCOL, None).await?;
    let asking = async {
        stream.write_all(target.as_bytes()).await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    let timeout = REACH_TIME + inner.config.handshake_timeout;
    match tokio::time::timeout(timeout, asking).await {
        Ok(Ok(status::RELAYED)) => {}
        Ok(Ok(status::BUSY)) => return Err(refused("the relay has no room")),
        Ok(Ok(status::NO_LINK)) => return Err(refused("the relay has no link with the node")),
        Ok(Ok(_)) => return Err(refused("the relay does not reach the node")),
        Ok(Err(error)) => return Err(failed(error)),
        Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
    }
    let channel = dial::secure(inner, stream, address, purpose).await?;
    let channel = Channel::Relayed(Box::new(channel));
    Ok((Secured { channel, remote, local, permit: None }, permit))
}

/// The connection with the relay has a record layer of its own, so nothing is gained by these two.
#[cfg(not(feature = "reference-tls"))]
impl crate::tls::Transport for Stream {
    fn try_write(&self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn set_low_watermark(&self, _: u64) -> bool {
        false
    }
}

/// Accepts a connection that a relay brings. The relay has to be a peer.
async fn accept(inner: Arc<Inner>, stream: Stream) {
    let Ok(relay) = inner.links.get(stream.peer()) else { return };
    if relay.transport.scheme == Scheme::Relay {
        return;
    }
    let address = SocketAddr::new(relay.candidate.ip, relay.peer.address().port);
    let Some(local) = inner.addresses.listening.first().copied() else { return };
    listen::accept_relayed(&inner, stream, address, local);
}

/// Relays a connection for the node that has opened `stream`.
async fn relay(inner: Arc<Inner>, mut stream: Stream) {
    let mut target = [0; 32];
    let reading =
        tokio::time::timeout(inner.config.handshake_timeout, stream.read_exact(&mut target));
    let Ok(Ok(_)) = reading.await else { return };
    let target = NodeId::from_bytes(target);
    let linked = inner.links.get_open(target);
    let scheme = linked.as_ref().map(|conn| conn.transport.scheme);
    let checked = circuits::check(inner.circuits.count(), scheme);
    let permit = inner.circuits.permits.clone().try_acquire_owned();
    let (Some(conn), Ok(_permit)) = (linked.filter(|_| checked.is_ok()), permit) else {
        let refusal = checked.err().unwrap_or(CircuitRefusal::Busy);
        return refuse(stream, status::of(refusal)).await;
    };
    let reaching = tokio::time::timeout(REACH_TIME, reach(&inner, conn));
    let Ok(Ok(mut other)) = reaching.await else {
        return refuse(stream, status::of(CircuitRefusal::NotReached)).await;
    };
    let from = stream.peer();
    tracing::debug!(from = %from.short(), to = %target.short(), "relaying a connection");
    if stream.write_all(&[status::RELAYED]).await.is_err() || stream.flush().await.is_err() {
        return;
    }
    let total = &inner.circuits.rate;
    let own = Rate::new(total.get().div_ceil(CIRCUIT_SHARE));
    let (from_one, to_one) = tokio::io::split(&mut stream);
    let (from_other, to_other) = tokio::io::split(&mut other);
    let copying = async {
        tokio::try_join!(
            copy(from_one, to_other, &own, total),
            copy(from_other, to_one, &own, total)
        )
    };
    tokio::select! {
        _ = copying => {}
        () = inner.tasks.stop.cancelled() => {}
    }
}

/// Opens a stream to a peer, at the other end of which it accepts a relayed connection.
async fn reach(inner: &Arc<Inner>, conn: Arc<Conn>) -> Result<Stream, Error> {
    let peer = conn.peer.id();
    // A peer that needs a relay can't be dialled.
    if conn.peer.direction() == Direction::Inbound && conn.transport.scheme == Scheme::Tcp {
        let called = inner.call_back(peer, Some(conn)).await;
        let channel = called.map_err(|why| Error::Unreachable { peer, why })?;
        return inner.open_on(channel, RELAYED_PROTOCOL, None).await;
    }
    inner.open_stream(peer, &[], RELAYED_PROTOCOL).await
}

/// Copies bytes until their end, within the two rates.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    own: &Rate,
    total: &Rate,
) -> io::Result<()> {
    let mut buffer = vec![0; PART];
    let mut copied = 0_usize;
    loop {
        let len = match from.read(&mut buffer).await {
            Ok(0) => return to.shutdown().await,
            Ok(len) => len,
            // The stream is cut off. If it were shut down at the other side, that end would take it for complete.
            Err(error) => return Err(error),
        };
        copied = copied.saturating_add(len);
        if copied > UNLIMITED_START {
            own.take(len).await;
        }
        total.take(len).await;
        to.write_all(buffer.get(..len).unwrap_or_default()).await?;
        to.flush().await?;
    }
}

async fn refuse(mut stream: Stream, status: u8) {
    let _ = stream.write_all(&[status]).await;
    let _ = stream.shutdown().await;
}
