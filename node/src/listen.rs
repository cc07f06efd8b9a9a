//! Listening sockets, and the handshakes that turn inbound connections into links or streams.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use peerkit_proto::address::{Address, Scheme};
use peerkit_proto::event::{Direction, Reason};
use peerkit_proto::hello::Hello;
use peerkit_proto::link::{Link, Side};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::channel::Channel;
use crate::conn::{self, Established, GreetedConnection};
use crate::counters::HandshakeFailure;
use crate::dial::{self, MadeLink};
use crate::error::Error;
use crate::inner::Inner;
use crate::quic::{Connected, MAX_UNPROVEN, QuicStream};
use crate::stream::Stream;
use crate::tls::{self, ChannelPurpose};

mod pending;
mod refusals;

use pending::HandshakeSlot;
pub(crate) use pending::PendingHandshakes;
pub(crate) use refusals::Refusals;

/// Pause after a failed `accept`. The usual cause is that the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Maximum number of connections that wait to be accepted. 1,024: tokio's default.
const BACKLOG: i32 = 1024;

/// Error text for a link-local IPv6 address without its interface.
pub(crate) const NO_ZONE: &str =
    "a link-local address needs the name of its interface, as in [fe80::1%eth0]:7117";

/// Maximum number of ports to try until one is free for IPv4 and IPv6, and for TCP and UDP. 16: the first
/// usually is.
const MAX_PORT_TRIES: usize = 16;

/// An address to listen on, or one port of all addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listen {
    /// One address, `host:port`; port 0 picks a free one.
    At(String),
    /// A port of every address of this machine, IPv4 and IPv6; port 0 picks a free one.
    Everywhere(u16),
}

impl Listen {
    /// Returns whether the system picks the port.
    fn is_any_port(&self) -> bool {
        match self {
            Self::At(address) => address.ends_with(":0"),
            Self::Everywhere(port) => *port == 0,
        }
    }
}

/// A [`Listen`] whose host name is resolved.
enum Resolved {
    At(SocketAddr),
    Everywhere(u16),
}

impl Resolved {
    /// Returns the rank by which the order of binding is decided. A socket for all addresses is bound first,
    /// as single addresses with the same port then need no socket. IPv4 is bound before IPv6: a later IPv6
    /// socket can leave out the IPv4 addresses, but a later IPv4 socket fails if an IPv6 socket has them.
    fn rank(&self) -> u8 {
        match self {
            Self::Everywhere(_) => 0,
            Self::At(at) => 1 + 2 * u8::from(at.is_ipv6()) + u8::from(!at.ip().is_unspecified()),
        }
    }
}

/// Binds one or two sockets for each entry of `wanted`. The order of the entries does not matter. An entry
/// gets no socket of its own if the socket of another entry receives its connections.
pub(crate) async fn bind(wanted: &[Listen]) -> Result<Vec<TcpListener>, Error> {
    let mut resolved = Vec::new();
    for (order, entry) in wanted.iter().enumerate() {
        // Port 0 picks another port each time, so equal entries with port 0 mean two ports.
        let is_repeated = wanted[..order].contains(entry);
        match entry {
            Listen::Everywhere(port) if *port != 0 && is_repeated => {}
            Listen::Everywhere(port) => resolved.push((order, Resolved::Everywhere(*port))),
            Listen::At(address) => resolved.push((order, Resolved::At(resolve(address).await?))),
        }
    }
    resolved.sort_by_key(|(order, entry)| (entry.rank(), *order));
    let mut bound: Vec<(usize, TcpListener)> = Vec::new();
    for (order, entry) in resolved {
        match entry {
            Resolved::Everywhere(port) => {
                bound.extend(bind_everywhere(port)?.into_iter().map(|listener| (order, listener)));
            }
            Resolved::At(at) => {
                if let Some(listener) = bind_address(at, &bound)? {
                    bound.push((order, listener));
                }
            }
        }
    }
    bound.sort_by_key(|(order, _)| *order);
    Ok(bound.into_iter().map(|(_, listener)| listener).collect())
}

/// Binds the sockets for `wanted`, and for each a UDP socket with the same address and port. Returns no UDP sockets if
/// `udp` is false, or if one of their ports is in use.
pub(crate) async fn bind_with_udp(
    wanted: &[Listen],
    udp: bool,
) -> Result<(Vec<TcpListener>, Vec<UdpSocket>), Error> {
    let mut tries = 0;
    loop {
        tries += 1;
        let listeners = bind(wanted).await?;
        if !udp {
            return Ok((listeners, Vec::new()));
        }
        match listeners.iter().map(bind_twin).collect::<io::Result<_>>() {
            Ok(twins) => return Ok((listeners, twins)),
            // The system has picked a port that is free for TCP but not for UDP. Tries another port.
            Err(_) if wanted.iter().any(Listen::is_any_port) && tries < MAX_PORT_TRIES => {}
            Err(error) => {
                tracing::warn!(
                    %error,
                    "can't listen on UDP at the ports of TCP, so this node uses TCP only"
                );
                return Ok((listeners, Vec::new()));
            }
        }
    }
}

/// Binds a UDP socket with the address and port of a TCP listener.
fn bind_twin(listener: &TcpListener) -> io::Result<UdpSocket> {
    let at = listener.local_addr()?;
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    if at.is_ipv6() {
        socket.set_only_v6(SockRef::from(listener).only_v6()?)?;
    }
    socket.bind(&at.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

async fn resolve(address: &str) -> Result<SocketAddr, Error> {
    let failed = |error: io::Error| Error::Listen { address: address.to_owned(), error };
    let invalid = |fault: &str| failed(io::Error::new(io::ErrorKind::InvalidInput, fault));
    // The system's resolver understands `fe80::1%eth0`, while Rust's parser does not. The resolver does not
    // understand brackets, so they are removed.
    let (host, port) = address.rsplit_once(':').ok_or_else(|| invalid("no port"))?;
    let port = port.parse().map_err(|_| invalid("no port"))?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let resolved = tokio::net::lookup_host((host, port)).await;
    let mut sockets = resolved.map_err(failed)?;
    let mut socket = sockets.next().ok_or_else(|| invalid("no such address"))?;
    if needs_zone(&socket) {
        return Err(invalid(NO_ZONE));
    }
    // `::ffff:127.0.0.1` is the same address as `127.0.0.1`.
    if socket.ip().to_canonical().is_ipv4() {
        socket.set_ip(socket.ip().to_canonical());
    }
    Ok(socket)
}

/// Binds one address. Returns `None` if a socket in `others` already receives its connections.
fn bind_address(
    socket: SocketAddr,
    others: &[(usize, TcpListener)],
) -> Result<Option<TcpListener>, Error> {
    let others = || others.iter().filter_map(|(_, other)| other.local_addr().ok());
    let mut same_port = others().filter(|at| socket.port() != 0 && at.port() == socket.port());
    let includes = |at: SocketAddr| {
        at.ip() == socket.ip() || (at.ip().is_unspecified() && at.is_ipv4() == socket.is_ipv4())
    };
    if same_port.any(includes) {
        return Ok(None);
    }
    // A socket of the unspecified IPv6 address also receives IPv4 connections, unless an IPv4 socket has the
    // same port.
    let only_v6 = others().any(|at| at.is_ipv4() && at.port() == socket.port());
    bind_socket(socket, only_v6).map(Some).map_err(|error| not_bound(socket, error))
}

/// Binds a port of all IPv4 addresses and of all IPv6 addresses. If the machine lacks IPv4 or IPv6,
/// binds only the other.
fn bind_everywhere(port: u16) -> Result<Vec<TcpListener>, Error> {
    let in_use = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    let mut tries = 0;
    loop {
        tries += 1;
        let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        let ipv4 = match bind_socket(v4, false) {
            Ok(listener) => listener,
            Err(error) if in_use(&error) => return Err(not_bound(v4, error)),
            Err(error) => {
                tracing::debug!(%error, "can't listen on IPv4");
                let v6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
                // If neither works, reports the error for IPv4, which is more useful.
                let ipv6 = bind_socket(v6, true).map_err(|_| not_bound(v4, error))?;
                return Ok(vec![ipv6]);
            }
        };
        let picked = ipv4.local_addr().map_err(|error| not_bound(v4, error))?.port();
        let v6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), picked);
        match bind_socket(v6, true) {
            Ok(ipv6) => return Ok(vec![ipv4, ipv6]),
            // The system picked a port that is free for IPv4 but not for IPv6. Tries another port.
            Err(error) if in_use(&error) && port == 0 && tries < MAX_PORT_TRIES => {}
            Err(error) if in_use(&error) => return Err(not_bound(v6, error)),
            Err(error) => {
                tracing::debug!(%error, "can't listen on IPv6");
                return Ok(vec![ipv4]);
            }
        }
    }
}

fn bind_socket(at: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    if at.is_ipv6() {
        // The default differs between systems.
        socket.set_only_v6(only_v6)?;
    }
    // Without this option a restarted node could not bind its port, because closed connections keep the port
    // in TIME_WAIT. On Windows the option would let another program take over the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Returns whether this is a link-local IPv6 address without the name of its interface.
pub(crate) fn needs_zone(socket: &SocketAddr) -> bool {
    match socket {
        SocketAddr::V6(at) => at.ip().is_unicast_link_local() && at.scope_id() == 0,
        SocketAddr::V4(_) => false,
    }
}

fn not_bound(at: SocketAddr, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::AddrInUse => Error::PortInUse(at),
        _ => Error::Listen { address: at.to_string(), error },
    }
}

/// Accepts connections until the node stops.
pub(crate) async fn accept(inner: Arc<Inner>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = inner.tasks.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                tracing::debug!(target: "peerkit::link", %remote, "accepted a connection");
                let slot = inner.handshakes.add(remote.ip());
                let inbound = Inbound::Tcp(stream);
                conn::start(&inner, handle_inbound(inner.clone(), inbound, remote, slot));
            }
            Err(error) => {
                tracing::debug!(%error, "can't accept a connection now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Accepts QUIC connections until the node stops.
pub(crate) async fn accept_quic(inner: Arc<Inner>, endpoint: quinn::Endpoint) {
    loop {
        let accepted = tokio::select! {
            () = inner.tasks.stop.cancelled() => return,
            accepted = endpoint.accept() => accepted,
        };
        let Some(incoming) = accepted else { return };
        let remote = incoming.remote_address();
        // Until the dialler has proven its address, that address may be another host's, whose own handshakes must not
        // give way for it.
        if incoming.may_retry() && inner.handshakes.is_busy(remote.ip(), MAX_UNPROVEN) {
            let _ = incoming.retry();
            continue;
        }
        tracing::debug!(target: "peerkit::link", %remote, "accepted a QUIC connection");
        let slot = inner.handshakes.add(remote.ip());
        let inbound = Inbound::Quic(endpoint.clone(), Box::new(incoming));
        conn::start(&inner, handle_inbound(inner.clone(), inbound, remote, slot));
    }
}

/// Accepts a connection that a relay has brought.
pub(crate) fn accept_relayed(
    inner: &Arc<Inner>,
    stream: Stream,
    relay: SocketAddr,
    local: SocketAddr,
) {
    let slot = inner.handshakes.add(relay.ip());
    let inbound = Inbound::Relayed(Box::new(stream), local);
    conn::start(inner, handle_inbound(inner.clone(), inbound, relay, slot));
}

/// A connection that was accepted, before its handshake.
enum Inbound {
    Tcp(TcpStream),
    /// The endpoint, and the connection.
    Quic(quinn::Endpoint, Box<quinn::Incoming>),
    /// A stream with a relay, at the other end of which is the dialler, and the local address.
    Relayed(Box<Stream>, SocketAddr),
}

/// Handles one inbound connection. Returns the link if the connection becomes one. If it is a stream, runs
/// the stream's handler until it ends.
async fn handle_inbound(
    inner: Arc<Inner>,
    inbound: Inbound,
    remote: SocketAddr,
    slot: HandshakeSlot,
) -> MadeLink {
    let evicted = slot.evicted();
    let timeout = inner.config.handshake_timeout;
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(timeout, shake_hands(&inner, inbound, &slot)) => {
            shaken.unwrap_or_else(|_| {
                Err(FailedHandshake::new(HandshakeFailure::Timeout, "the handshake took too long"))
            })
        }
        () = evicted.cancelled() => Err(FailedHandshake::new(
            HandshakeFailure::Evicted,
            "replaced by a newer connection attempt",
        )),
    };
    // The handshake is over, so its slot is freed. A stream may last for hours.
    drop(slot);
    let outcome = match shaken {
        Ok(Handshake::Greeted(greeted)) => admit(&inner, *greeted, remote).await,
        Ok(Handshake::Stream(handler)) => {
            handler.await;
            Ok(None)
        }
        Ok(Handshake::Nothing) => Ok(None),
        Err(error) => Err(error),
    };
    outcome.unwrap_or_else(|FailedHandshake { failure, error }| {
        inner.tallies.failed(Direction::Inbound, failure);
        inner.report_refusal((Address::from_socket(remote), error));
        None
    })
}

/// An inbound connection whose dialler has sent its Hello.
struct GreetedInbound {
    channel: Channel,
    local: SocketAddr,
    link: Link,
    buffer: BytesMut,
    hello: Hello,
}

/// The error of an inbound connection.
struct FailedHandshake {
    /// The failure to count.
    failure: Option<HandshakeFailure>,
    /// The text for the application.
    error: String,
}

impl FailedHandshake {
    fn new(failure: HandshakeFailure, error: impl ToString) -> Self {
        Self { failure: Some(failure), error: error.to_string() }
    }
}

impl From<Reason> for FailedHandshake {
    fn from(reason: Reason) -> Self {
        let failure = HandshakeFailure::of_refusal(&reason);
        Self { failure, error: reason.to_string() }
    }
}

/// The outcome of an inbound handshake.
enum Handshake {
    /// The connection can become a link.
    Greeted(Box<GreetedInbound>),
    /// The connection is a stream. The future runs its handler.
    Stream(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>),
    /// The dialler closed the connection for a reason that needs no report.
    Nothing,
}

/// Performs the handshake of TLS or QUIC and, for a link, waits for the dialler's Hello.
async fn shake_hands(
    inner: &Arc<Inner>,
    inbound: Inbound,
    slot: &HandshakeSlot,
) -> Result<Handshake, FailedHandshake> {
    let is_relayed = matches!(inbound, Inbound::Relayed(..));
    let (mut channel, local) = match secure(inner, inbound).await {
        Ok(secured) => secured,
        // The dialler has prepared this connection, and has got a direct one meanwhile.
        Err(error) if is_relayed && is_closed(&error) => return Ok(Handshake::Nothing),
        // The dialler expected another node at this address, and closed without showing its own key.
        Err(error) if tls::is_refusal(&error) => {
            tracing::debug!(%error, "a dialler expected another node");
            inner.tallies.failed(Direction::Inbound, Some(HandshakeFailure::WrongId));
            return Ok(Handshake::Nothing);
        }
        Err(error) => return Err(FailedHandshake::new(HandshakeFailure::of_tls(&error), error)),
    };
    slot.secured();
    let session = channel.session();
    if session.purpose == ChannelPurpose::Stream {
        let refused = |error| FailedHandshake::new(HandshakeFailure::Stream, error);
        let handler = inner.accept_stream(channel).await.map_err(refused)?;
        return Ok(Handshake::Stream(handler));
    }
    let mut link = dial::new_link(inner, Side::Acceptor, &session, local);
    let mut buffer = BytesMut::new();
    let hello = match dial::greet(&mut link, &mut channel, &mut buffer, inner).await {
        Ok(hello) => hello,
        // Most such diallers have noticed that they already have a link to this node, and have closed the
        // connection without a Hello.
        Err(Reason::Lost(_)) => return Ok(Handshake::Nothing),
        Err(reason) => {
            let _ = channel.shutdown().await;
            return Err(reason.into());
        }
    };
    Ok(Handshake::Greeted(Box::new(GreetedInbound { channel, local, link, buffer, hello })))
}

/// Returns whether the other end has closed the connection.
fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Secures an inbound connection. Returns it with its local address.
async fn secure(inner: &Arc<Inner>, inbound: Inbound) -> io::Result<(Channel, SocketAddr)> {
    match inbound {
        Inbound::Tcp(tcp) => {
            let local = tcp.local_addr()?;
            let _ = tcp.set_nodelay(true);
            Ok((Channel::Tcp(inner.tls.accept(tcp).await?), local))
        }
        Inbound::Quic(endpoint, incoming) => {
            let Connected { stream, local } = inner.quic.accept(&endpoint, *incoming).await?;
            inner.serve_quic_streams(&stream);
            Ok((Channel::Quic(stream), local))
        }
        Inbound::Relayed(stream, local) => {
            let channel = inner.tls.accept(*stream).await?;
            Ok((Channel::Relayed(Box::new(channel)), local))
        }
    }
}

impl Inner {
    /// Serves a stream that the peer has opened on a QUIC connection.
    pub(crate) async fn serve_stream(self: Arc<Self>, stream: QuicStream) {
        let remote = stream.remote();
        let timeout = self.config.handshake_timeout;
        let accepted = tokio::time::timeout(timeout, self.accept_stream(Channel::Quic(stream)));
        let error = match accepted.await {
            Ok(Ok(handler)) => return handler.await,
            Ok(Err(error)) => error,
            Err(_) => "the stream's opening took too long".to_owned(),
        };
        self.tallies.failed(Direction::Inbound, Some(HandshakeFailure::Stream));
        self.report_refusal((Address::from_socket(remote), error));
    }
}

/// Asks the actor to admit a connection. If the actor refuses it, sends the reason to the dialler.
/// The caller does not cancel this future, so an admitted connection always becomes a link.
async fn admit(
    inner: &Inner,
    greeted: GreetedInbound,
    remote: SocketAddr,
) -> Result<MadeLink, FailedHandshake> {
    let GreetedInbound { mut channel, local, mut link, buffer, hello } = greeted;
    let greeted = GreetedConnection {
        id: channel.session().id,
        agreed: link.agreed(),
        dialable: match channel.scheme() {
            Scheme::Tcp => hello.dial_address(remote),
            Scheme::Quic => Some(Address::from_socket(remote).with_scheme(Scheme::Quic)),
            // The relay may have no link with the dialler, so it can't be asked for it.
            _ => None,
        },
        hello,
        direction: Direction::Inbound,
        remote,
        scheme: channel.scheme(),
        quic: channel.quic_connection(),
        on_demand: false,
    };
    match dial::admit(inner, greeted, None).await {
        Ok(conn) => {
            link.admit(inner.clock.now());
            inner.announce_local_address(local).await;
            Ok(Some(Box::new(Established { conn, link, stream: channel, buffer })))
        }
        Err(reason) => {
            link.refuse(reason.clone());
            let refusal = dial::send_rest_and_close(&mut link, &mut channel);
            let _ = tokio::time::timeout(inner.config.handshake_timeout, refusal).await;
            match reason {
                // The two nodes already have a link, usually because both dialled at the same time. That is
                // not an error.
                Reason::Duplicate => Ok(None),
                reason => Err(reason.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn reaches(at: SocketAddr) -> bool {
        TcpStream::connect(at).await.is_ok()
    }

    /// Returns whether IPv6 works on the loopback interface.
    fn has_ipv6() -> bool {
        std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
    }

    #[tokio::test]
    async fn listening_everywhere_binds_one_port_for_ipv4_and_ipv6() {
        let listeners = bind(&[Listen::Everywhere(0)]).await.unwrap();
        let port = listeners[0].local_addr().unwrap().port();
        assert!(listeners.iter().all(|l| l.local_addr().unwrap().port() == port));
        assert!(reaches((Ipv4Addr::LOCALHOST, port).into()).await);
        assert_eq!(reaches((Ipv6Addr::LOCALHOST, port).into()).await, has_ipv6());
        assert!(matches!(bind(&[Listen::Everywhere(port)]).await, Err(Error::PortInUse(_))));
        drop(listeners);
        let again = bind(&[Listen::Everywhere(port)]).await;
        assert!(
            again.is_ok() || matches!(again, Err(Error::PortInUse(_))),
            "another program took the port"
        );
    }

    #[tokio::test]
    async fn the_unspecified_ipv6_address_receives_ipv4_unless_ipv4_has_its_own_socket() {
        if !has_ipv6() {
            return;
        }
        let at = |text: &str| Listen::At(text.to_owned());
        let both = bind(&[at("[::]:0")]).await.unwrap();
        let port = both[0].local_addr().unwrap().port();
        assert!(reaches((Ipv4Addr::LOCALHOST, port).into()).await);
        drop(both);
        let ipv4 = bind(&[at("0.0.0.0:0")]).await.unwrap();
        let port = ipv4[0].local_addr().unwrap().port();
        drop(ipv4);
        let wanted = [at(&format!("0.0.0.0:{port}")), at(&format!("[::]:{port}"))];
        let two = bind(&wanted).await;
        assert!(
            two.is_ok() || matches!(two, Err(Error::PortInUse(_))),
            "another program took the port: {two:?}"
        );
    }

    /// Binds `wanted`, in which `PORT` stands for a free port. Returns the IP addresses of the sockets. If
    /// another program takes the port in the meantime, tries another one.
    async fn bound_ips(wanted: &[&str]) -> Vec<String> {
        for _ in 0..100 {
            let free = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let entry = |text: &&str| match text.strip_suffix(":PORT") {
                Some(host) => Listen::At(format!("{host}:{port}")),
                None => Listen::Everywhere(port),
            };
            let entries: Vec<_> = wanted.iter().map(entry).collect();
            match bind(&entries).await {
                Err(Error::PortInUse(_)) => {}
                listeners => {
                    let ips = listeners.unwrap().into_iter();
                    return ips.map(|l| l.local_addr().unwrap().ip().to_string()).collect();
                }
            }
        }
        panic!("no port is free for {wanted:?}");
    }

    #[tokio::test]
    async fn overlapping_addresses_share_a_socket_in_any_order() {
        assert_eq!(bound_ips(&["127.0.0.1:PORT", "127.0.0.1:PORT"]).await, ["127.0.0.1"]);
        assert_eq!(bound_ips(&["0.0.0.0:PORT", "127.0.0.1:PORT"]).await, ["0.0.0.0"]);
        assert_eq!(bound_ips(&["127.0.0.1:PORT", "0.0.0.0:PORT"]).await, ["0.0.0.0"]);
        if !has_ipv6() {
            return;
        }
        assert_eq!(bound_ips(&["[::ffff:127.0.0.1]:PORT", "127.0.0.1:PORT"]).await, ["127.0.0.1"]);
        assert_eq!(bound_ips(&["everywhere", "everywhere"]).await, ["0.0.0.0", "::"]);
        assert_eq!(
            bound_ips(&["127.0.0.1:PORT", "everywhere", "[::1]:PORT"]).await,
            ["0.0.0.0", "::"]
        );
        assert_eq!(bound_ips(&["[::]:PORT", "0.0.0.0:PORT"]).await, ["::", "0.0.0.0"]);
        assert_eq!(bound_ips(&["[::]:PORT", "127.0.0.1:PORT"]).await, ["::", "127.0.0.1"]);
        let two = bind(&[Listen::At("127.0.0.1:0".into()), Listen::At("127.0.0.1:0".into())]).await;
        assert_eq!(two.unwrap().len(), 2, "two free ports");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_interface_name_is_resolved() {
        let SocketAddr::V6(at) = resolve("[fe80::1%lo]:7").await.unwrap() else { panic!() };
        assert_eq!((*at.ip(), at.port()), ("fe80::1".parse().unwrap(), 7));
        assert_ne!(at.scope_id(), 0);
        assert_eq!(resolve("[::1]:7").await.unwrap(), "[::1]:7".parse().unwrap());
    }

    #[tokio::test]
    async fn a_link_local_address_needs_its_interface() {
        match bind(&[Listen::At("[fe80::1]:0".into())]).await {
            Err(Error::Listen { error, .. }) => assert_eq!(error.to_string(), NO_ZONE),
            other => panic!("{other:?}"),
        }
    }
}
