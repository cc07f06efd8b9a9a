//! Dials: a name is resolved, its addresses are tried, TLS secures the connection, and for a link both ends
//! exchange Hellos.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use peerkit_proto::address::{Address, Scheme};
use peerkit_proto::event::{Direction, Event, Peer, Reason};
use peerkit_proto::frame::Frame;
use peerkit_proto::hello::{FEATURE_RELAY, FEATURE_UDP, Hello};
use peerkit_proto::id::NodeId;
use peerkit_proto::link::{Greeting, Link, Output, Side};
use peerkit_proto::node_record::MAX_RECORD_ADDRESSES;
use peerkit_proto::peer::{DialError, DialId, Input, Purpose};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

use crate::actor::mailbox::Order;
use crate::channel::Channel;
use crate::conn::{Conn, Established, GreetedConnection};
use crate::counters::HandshakeFailure;
use crate::error::Error;
use crate::inner::Inner;
use crate::listen;
use crate::quic::Connected;
use crate::relay;
use crate::tls::{self, Session, WrongNode};

mod foreign;
mod meeting;
mod staggered;

pub(crate) use foreign::{DialOrigin, DialPermit, ForeignDials, NotDialled};
pub(crate) use staggered::{first_success, with_second_way};

/// Time after which a node is met although it is still being dialled. 500 ms: the handshakes of a dial take two round
/// trips, and most are shorter than 250 ms.
pub(crate) const DIAL_PATIENCE: Duration = Duration::from_millis(500);

/// Maximum number of addresses that are dialled for one node: as many as a ticket or a node record may have.
pub(crate) const MAX_DIALLED: usize = MAX_RECORD_ADDRESSES;

/// Maximum number of socket addresses that are dialled for one host name. 32: no node's host has more,
/// and a name that resolves to thousands must not make this node dial them all.
const MAX_RESOLVED: usize = 32;

/// A secured connection on which no data was sent yet. The end of the handshake is sent with the first data.
pub(crate) struct Secured {
    pub(crate) channel: Channel,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    /// The permission of a call-back, for which it is not enough that the node answers.
    pub(crate) permit: Option<DialPermit>,
}

/// Connects to `address` and secures the connection. If the address has an identity, the node that
/// answers has to prove it. A failure is counted.
pub(crate) async fn connect(
    inner: &Inner,
    address: &Address,
    purpose: tls::ChannelPurpose,
    origin: DialOrigin,
) -> Result<Secured, Error> {
    let connected = connect_uncounted(inner, address, purpose, origin).await;
    connected.inspect_err(|error| {
        inner.tallies.failed(Direction::Outbound, HandshakeFailure::of_dial(error));
    })
}

async fn connect_uncounted(
    inner: &Inner,
    address: &Address,
    purpose: tls::ChannelPurpose,
    origin: DialOrigin,
) -> Result<Secured, Error> {
    // An identity that no node can have is refused before the dial.
    address.id.map(NodeId::checked).transpose()?;
    let dialled = match address.scheme {
        Scheme::Quic => dial_quic(inner, address, purpose, origin).await,
        Scheme::Relay => Box::pin(relay::dial(inner, address, purpose, origin)).await,
        _ => dial_tcp(inner, address, purpose, origin).await,
    };
    let (secured, permit) = dialled?;
    // Any node answers at its address. It waits for a call-back only if it has requested one.
    if origin == DialOrigin::CallBack || address.id.is_none() {
        return Ok(Secured { permit: Some(permit), ..secured });
    }
    permit.reached(inner.clock.now(), secured.channel.session().id);
    Ok(secured)
}

/// Connects over TCP, and secures the connection with TLS.
async fn dial_tcp(
    inner: &Inner,
    address: &Address,
    purpose: tls::ChannelPurpose,
    origin: DialOrigin,
) -> Result<(Secured, DialPermit), Error> {
    let timeout = inner.config.connect_timeout;
    let from = inner.addresses.loopback_source();
    let connecting =
        connect_any(inner, address, origin, move |socket| connect_socket(socket, from));
    let connecting = tokio::time::timeout(timeout, connecting);
    let (remote, tcp, permit) = connecting.await.unwrap_or_else(|_| {
        let error = timed_out(format!("no answer within {} s", timeout.as_secs_f32()));
        Err(Error::Connect { address: address.clone(), error })
    })?;
    // Small messages are collected before they are written, so the kernel need not wait for more of them.
    let _ = tcp.set_nodelay(true);
    let local = tcp.local_addr();
    let local = local.map_err(|error| Error::Handshake { address: address.clone(), error })?;
    let channel = Channel::Tcp(secure(inner, tcp, address, purpose).await?);
    Ok((Secured { channel, remote, local, permit: None }, permit))
}

/// Secures a connection to `address` with TLS.
pub(crate) async fn secure<T: tls::Transport>(
    inner: &Inner,
    transport: T,
    address: &Address,
    purpose: tls::ChannelPurpose,
) -> Result<tls::TlsChannel<T>, Error> {
    let failed = |error: io::Error| Error::Handshake { address: address.clone(), error };
    let timeout = inner.config.handshake_timeout;
    let dialling = inner.tls.dial(transport, purpose, address.id);
    match tokio::time::timeout(timeout, dialling).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(tls::TlsDialError::WrongNode(WrongNode(found)))) => {
            Err(Error::WrongNode { address: address.clone(), found })
        }
        Ok(Err(tls::TlsDialError::Io(error))) => Err(failed(error)),
        Err(_) => Err(failed(timed_out(format!("silent for {} s", timeout.as_secs_f32())))),
    }
}

/// Makes a QUIC connection with its first stream.
async fn dial_quic(
    inner: &Inner,
    address: &Address,
    purpose: tls::ChannelPurpose,
    origin: DialOrigin,
) -> Result<(Secured, DialPermit), Error> {
    if !inner.config.udp {
        let error = io::Error::new(io::ErrorKind::Unsupported, "UDP is switched off at this node");
        return Err(Error::Connect { address: address.clone(), error });
    }
    let (quic, tls, expected) = (inner.quic.clone(), inner.tls.clone(), address.id);
    let connecting = connect_any(inner, address, origin, move |socket| {
        let (quic, tls) = (quic.clone(), tls.clone());
        async move {
            match quic.dial(&tls, socket, purpose, expected).await {
                Ok(connected) => Ok(Ok(connected)),
                Err(tls::TlsDialError::WrongNode(found)) => Ok(Err(found)),
                Err(tls::TlsDialError::Io(error)) => Err(error),
            }
        }
    });
    let timeout = inner.config.connect_timeout;
    let connected = tokio::time::timeout(timeout, connecting).await.unwrap_or_else(|_| {
        let error = timed_out(format!("no answer within {} s", timeout.as_secs_f32()));
        Err(Error::Connect { address: address.clone(), error })
    });
    let (remote, connected, permit) = connected?;
    match connected {
        Ok(Connected { stream, local }) => {
            let channel = Channel::Quic(stream);
            Ok((Secured { channel, remote, local, permit: None }, permit))
        }
        Err(WrongNode(found)) => Err(Error::WrongNode { address: address.clone(), found }),
    }
}

fn timed_out(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// Connects to a node at the first of its addresses that answers. Returns that address and the connection.
///
/// # Errors
/// As for [`combined_error`].
async fn connect_first(
    inner: &Arc<Inner>,
    addresses: &[Address],
    purpose: Purpose,
) -> Result<(Address, Secured), Error> {
    let origin = DialOrigin::of_link(purpose);
    let channel = tls::ChannelPurpose::Link;
    let attempt = |address: Address| {
        let inner = inner.clone();
        async move {
            let secured = connect(&inner, &address, channel, origin).await?;
            Ok((address, secured))
        }
    };
    let ways = addresses.iter().cloned();
    if purpose == Purpose::Meeting {
        return meeting::meet(ways.collect(), attempt).await.map_err(combined_error);
    }
    if let [address] = addresses {
        // The usual case, which needs no task of its own.
        return attempt(address.clone()).await;
    }
    first_success(ways, MAX_DIALLED, attempt).await.map_err(combined_error)
}

/// Returns one error for the failures of several addresses. A single failure is returned as it is.
pub(crate) fn combined_error(mut errors: Vec<Error>) -> Error {
    if errors.len() <= 1 {
        return errors.pop().unwrap_or(Error::Stopped);
    }
    Error::NoneAnswered(errors)
}

/// A new link, which does not run yet; `None` if no link was made.
pub(crate) type MadeLink = Option<Box<Established<Channel>>>;

/// The outcome of a dial, as the machine puts it out.
pub(crate) type DialOutcome = Result<NodeId, DialError>;

/// A dial that the machine has begun.
pub(crate) struct Dialling {
    pub(crate) dial: DialId,
    /// The addresses, best first. The overlay and events name the dial by the first.
    pub(crate) addresses: Vec<Address>,
    pub(crate) purpose: Purpose,
    /// Receives a value when the machine allows the dial to send its Hello.
    pub(crate) hello_allowed: oneshot::Receiver<()>,
    /// Receives the node with which there is a link now, or the reason why there is none.
    pub(crate) ended: oneshot::Receiver<DialOutcome>,
}

/// Makes a link to a node at the first of its addresses that answers, for [`crate::conn::start`].
/// `reply` gets the peer, or the reason why there is no link. The application gets an event about the new
/// link, and about a failure if [`Purpose::is_reported`] returns true.
pub(crate) async fn make_link(
    inner: Arc<Inner>,
    mut dialling: Dialling,
    reply: oneshot::Sender<Result<Peer, Error>>,
) -> MadeLink {
    let address = dialling.addresses.first()?.clone();
    let purpose = dialling.purpose;
    tracing::debug!(target: "peerkit::link", %address, ?purpose, "dialling");
    match establish(&inner, &mut dialling).await {
        Ok(Dialled::New(established)) => {
            let _ = reply.send(Ok(established.conn.peer.clone()));
            return Some(established);
        }
        Ok(Dialled::Linked(peer)) => drop(reply.send(Ok(peer))),
        Err(error) => {
            // `connect` has counted all other failures.
            if let Error::Refused { reason, .. } = &error {
                let failure = HandshakeFailure::of_refusal(reason);
                inner.tallies.failed(Direction::Outbound, failure);
            }
            let text = error.without_address();
            let _ = reply.send(Err(error));
            if purpose.is_reported() {
                inner
                    .deliver_event(Event::OutboundNodeConnectionError { address, error: text })
                    .await;
            }
        }
    }
    None
}

enum Dialled {
    /// A link was made.
    New(Box<Established<Channel>>),
    /// There is a link with that node already.
    Linked(Peer),
}

/// Carries out a dial up to the admission of its link. The machine may end the dial earlier, for example
/// because there is another link with that node.
async fn establish(inner: &Arc<Inner>, dialling: &mut Dialling) -> Result<Dialled, Error> {
    let dial = dialling.dial;
    // Boxed, because many dials may be under way, and each of these parts needs memory only for a moment.
    let connecting = Box::pin(connect_first(inner, &dialling.addresses, dialling.purpose));
    let connected = connecting.await;
    let (address, secured) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            inner.actor.input(Input::DialFailed { dial, error: error.without_address() }).await;
            return Err(error);
        }
    };
    let Secured { mut channel, remote, local, .. } = secured;
    let session = channel.session();
    let refused = |reason| Error::Refused { address: address.clone(), reason };
    inner.actor.input(Input::DialSecured { dial, id: session.id }).await;
    tokio::select! {
        biased;
        outcome = &mut dialling.ended => {
            return outcome_without_link(inner, outcome.map_err(|_| Error::Stopped)?, refused);
        }
        allowed = &mut dialling.hello_allowed => allowed.map_err(|_| Error::Stopped)?,
    }
    let mut link = new_link(inner, Side::Dialler, &session, local);
    let mut buffer = BytesMut::new();
    let greeting = Box::pin(greet(&mut link, &mut channel, &mut buffer, inner));
    let greeted = tokio::select! {
        greeted = greeting => greeted,
        // The machine has ended the dial.
        _ = &mut dialling.ended => Err(Reason::HandshakeTimeout),
    };
    let admitted = match greeted {
        Ok(hello) => {
            let greeted = GreetedConnection {
                id: session.id,
                hello,
                agreed: link.agreed(),
                direction: Direction::Outbound,
                remote,
                dialable: Some(address.clone().without_id()),
                scheme: channel.scheme(),
                quic: channel.quic_connection(),
                on_demand: matches!(dialling.purpose, Purpose::Message | Purpose::Meeting),
            };
            admit(inner, greeted, Some(dial)).await
        }
        Err(reason) => {
            inner.actor.input(Input::DialRefused { dial, reason: reason.clone() }).await;
            Err(reason)
        }
    };
    match admitted {
        Ok(conn) => {
            link.admit(inner.clock.now());
            inner.announce_local_address(local).await;
            if let Channel::Quic(stream) = &channel {
                inner.serve_quic_streams(stream);
            }
            Ok(Dialled::New(Box::new(Established { conn, link, stream: channel, buffer })))
        }
        // One of the two nodes prefers another link between them. That link exists or is being made.
        Err(Reason::Duplicate) => {
            let outcome = (&mut dialling.ended).await.map_err(|_| Error::Stopped)?;
            outcome_without_link(inner, outcome, refused)
        }
        Err(reason) => {
            link.refuse(reason.clone());
            let timeout = inner.config.handshake_timeout;
            let _ =
                tokio::time::timeout(timeout, send_rest_and_close(&mut link, &mut channel)).await;
            Err(refused(reason))
        }
    }
}

/// Returns the outcome of a dial that did not make a link. There may be another link with the node.
fn outcome_without_link(
    inner: &Inner,
    outcome: DialOutcome,
    refused: impl Fn(Reason) -> Error,
) -> Result<Dialled, Error> {
    match outcome {
        Ok(id) => Ok(Dialled::Linked(inner.links.get(id)?.peer.clone())),
        Err(DialError::Unwanted(reason) | DialError::Refused(reason)) => Err(refused(reason)),
        Err(_) => Err(refused(Reason::HandshakeTimeout)),
    }
}

/// Returns a link's state machine for a secured connection.
pub(crate) fn new_link(inner: &Inner, side: Side, session: &Session, local: SocketAddr) -> Link {
    let greeting = Greeting {
        hello: Hello {
            membership: inner.membership.proof(),
            ..inner.profile.hello(
                &session.binding,
                inner.addresses.announced(Some(local.ip())),
                inner.features(),
            )
        },
        expected_proof: inner.profile.prove(&session.binding, session.id),
    };
    Link::new(inner.clock.now(), side, greeting, &inner.config)
}

/// Waits for the peer's Hello and returns it. The machine then decides whether to admit the peer. A dialler
/// sends its own Hello first. An acceptor sends its Hello after it has admitted the peer.
pub(crate) async fn greet(
    link: &mut Link,
    channel: &mut Channel,
    buffer: &mut BytesMut,
    inner: &Inner,
) -> Result<Hello, Reason> {
    let lost = |error: io::Error| Reason::Lost(error.to_string());
    loop {
        let mut out = Vec::new();
        let mut greeted = None;
        // Frames behind the peer's Hello stay in the link until the peer is admitted.
        while greeted.is_none() {
            match link.poll() {
                Some(Output::Send(frame)) => frame.encode(&mut out),
                Some(Output::Greeted(hello)) => greeted = Some(Ok(hello)),
                Some(Output::GoodbyeReceived(reason) | Output::Closed(reason)) => {
                    greeted = Some(Err(reason));
                }
                Some(Output::Frame(_) | Output::Messages(_)) | None => break,
            }
        }
        if !out.is_empty() {
            channel.write_all(&out).await.map_err(lost)?;
            channel.flush().await.map_err(lost)?;
        }
        if let Some(greeted) = greeted {
            return greeted;
        }
        if channel.read_buf(buffer).await.map_err(lost)? == 0 {
            return Err(Reason::Lost("closed before Hello".into()));
        }
        link.receive(inner.clock.now(), buffer);
    }
}

/// Writes the link's last frames, and closes the connection.
pub(crate) async fn send_rest_and_close(link: &mut Link, channel: &mut Channel) -> io::Result<()> {
    let mut out = Vec::new();
    while let Some(output) = link.poll() {
        if let Output::Send(frame) = output {
            Frame::encode(&frame, &mut out);
        }
    }
    channel.write_all(&out).await?;
    channel.shutdown().await
}

/// Asks the actor to admit a connection as a link. `dial` is the dial that made the connection.
pub(crate) async fn admit(
    inner: &Inner,
    greeted: GreetedConnection,
    dial: Option<DialId>,
) -> Result<Arc<Conn>, Reason> {
    let conn = Arc::new(Conn::new(inner, greeted));
    let (reply, admitted) = oneshot::channel();
    let _ = inner.actor.send(Order::Greeted { conn: conn.clone(), dial, reply }).await;
    match admitted.await {
        Ok(Ok(())) => {
            inner.foreign_dials.note_link(conn.candidate.ip);
            Ok(conn)
        }
        Ok(Err(reason)) => Err(reason),
        Err(_) => Err(Reason::Stopping),
    }
}

/// Resolves the host, and connects with `connect` to the first of its addresses that answers.
///
/// # Errors
/// If no address answers, or if none may be dialled because of the limits for `origin`.
async fn connect_any<T, F>(
    inner: &Inner,
    address: &Address,
    origin: DialOrigin,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<(SocketAddr, T, DialPermit), Error>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let resolve = |error: io::Error| Error::Resolve { address: address.clone(), error };
    let failed = |error: io::Error| Error::Connect { address: address.clone(), error };
    // The resolver understands a link-local address with the name of an interface. It does not understand
    // brackets, and the host has none.
    let resolved = tokio::net::lookup_host((address.host.as_str(), address.port)).await;
    let sockets: Vec<_> = resolved.map_err(resolve)?.collect();
    if sockets.is_empty() {
        return Err(resolve(io::Error::new(io::ErrorKind::NotFound, "no addresses")));
    }
    if sockets.iter().all(listen::needs_zone) {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, listen::NO_ZONE)));
    }
    if let [socket] = sockets[..] {
        // The usual case, which needs no task of its own.
        let permit = inner.permit_dial(origin, address, socket).map_err(failed)?;
        return Ok((socket, connect(socket).await.map_err(failed)?, permit));
    }
    let connected = first_success(sockets, MAX_RESOLVED, |socket| {
        // Taken when the attempt begins, so that addresses that are never tried do not count.
        let permit = inner.permit_dial(origin, address, socket);
        let connecting = connect(socket);
        async move {
            let attempt = async {
                let permit = permit?;
                Ok((socket, connecting.await?, permit))
            };
            attempt.await.map_err(|error: io::Error| (socket, error))
        }
    });
    connected.await.map_err(|errors| failed(combined_io_error(&errors)))
}

impl Inner {
    /// Returns the optional features that this node announces in Hello.
    fn features(&self) -> u64 {
        let udp = if self.quic.is_listening() { FEATURE_UDP } else { 0 };
        let relay = if relay::serves(self) { FEATURE_RELAY } else { 0 };
        self.config.compressions.to_features() | udp | relay
    }

    /// Returns the permission to dial a socket address of `address`.
    fn permit_dial(
        &self,
        origin: DialOrigin,
        address: &Address,
        socket: SocketAddr,
    ) -> io::Result<DialPermit> {
        let (now, own) = (self.clock.now(), self.addresses.local());
        let permit = self.foreign_dials.permit(now, origin, (address.id, socket), &own);
        permit
            .map_err(|refused: NotDialled| io::Error::new(io::ErrorKind::PermissionDenied, refused))
    }
}

/// Connects to a socket address. A connection to another loopback address leaves from the loopback address
/// `from`, so that the nodes of one machine can be told apart by their addresses.
async fn connect_socket(socket: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    match from {
        Some(from) if socket.is_ipv4() && socket.ip().is_loopback() => {
            let dialling = TcpSocket::new_v4()?;
            dialling.bind(SocketAddr::new(from, 0))?;
            dialling.connect(socket).await
        }
        _ => TcpStream::connect(socket).await,
    }
}

/// Returns one error with the kind of the first error and the texts of all.
fn combined_io_error(errors: &[(SocketAddr, io::Error)]) -> io::Error {
    let kind = errors.first().map_or(io::ErrorKind::Other, |(_, error)| error.kind());
    let texts = errors.iter().map(|(socket, error)| format!("{socket}: {error}"));
    io::Error::new(kind, texts.collect::<Vec<_>>().join("; "))
}
