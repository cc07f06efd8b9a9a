//! Listening sockets, and the handshakes that turn inbound connections into links or streams.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use peerkit_proto::address::Address;
use peerkit_proto::event::{Direction, Event, Reason};
use peerkit_proto::hello::Hello;
use peerkit_proto::link::{Link, Side};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::conn::{self, Established, GreetedConnection};
use crate::dial::{self, MadeLink};
use crate::error::Error;
use crate::inner::Inner;
use crate::lock::lock;
use crate::tls::{self, Channel, ChannelPurpose};

/// Pause after `accept` fails, usually because the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Maximum number of connections that wait to be accepted. 1,024: tokio's default.
const BACKLOG: i32 = 1024;

/// Error text for a link-local IPv6 address without its interface.
pub(crate) const NO_ZONE: &str =
    "a link-local address needs the name of its interface, as in [fe80::1%eth0]:7117";

/// Maximum number of ports to try until one is free for both IPv4 and IPv6. 16: the first is
/// usually free for both.
const MAX_PORT_TRIES: usize = 16;

/// One address to listen on, or a port of all addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listen {
    /// One address, `host:port`; port 0 picks a free one.
    At(String),
    /// A port of every address of this machine, IPv4 and IPv6; port 0 picks a free one.
    Everywhere(u16),
}

/// A [`Listen`] whose host name is resolved.
enum Resolved {
    At(SocketAddr),
    Everywhere(u16),
}

impl Resolved {
    /// Returns the order in which sockets are bound. A socket of all addresses comes before those
    /// of single addresses, which need no socket then. IPv4 comes before IPv6, because an IPv6
    /// socket can leave out the IPv4 addresses, but not the other way round.
    fn rank(&self) -> u8 {
        match self {
            Self::Everywhere(_) => 0,
            Self::At(at) => 1 + 2 * u8::from(at.is_ipv6()) + u8::from(!at.ip().is_unspecified()),
        }
    }
}

/// Binds one or two sockets for each of `places`, in whichever order they are given. A place gets
/// no socket of its own if the socket of another place receives its connections too.
pub(crate) async fn bind(places: &[Listen]) -> Result<Vec<TcpListener>, Error> {
    let mut resolved = Vec::new();
    for (order, place) in places.iter().enumerate() {
        // Port 0 picks another port each time, so the same place twice means two ports.
        let is_repeated = places[..order].contains(place);
        match place {
            Listen::Everywhere(port) if *port != 0 && is_repeated => {}
            Listen::Everywhere(port) => resolved.push((order, Resolved::Everywhere(*port))),
            Listen::At(address) => resolved.push((order, Resolved::At(resolve(address).await?))),
        }
    }
    resolved.sort_by_key(|(order, place)| (place.rank(), *order));
    let mut bound: Vec<(usize, TcpListener)> = Vec::new();
    for (order, place) in resolved {
        match place {
            Resolved::Everywhere(port) => {
                bound.extend(bind_everywhere(port)?.into_iter().map(|one| (order, one)));
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

async fn resolve(address: &str) -> Result<SocketAddr, Error> {
    let failed = |error: io::Error| Error::Listen { address: address.to_owned(), error };
    let invalid = |fault: &str| failed(io::Error::new(io::ErrorKind::InvalidInput, fault));
    // The system's resolver understands `fe80::1%eth0`, which Rust's parser does not. It does not
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
    // `::ffff:127.0.0.1` is another form of `127.0.0.1`.
    if socket.ip().to_canonical().is_ipv4() {
        socket.set_ip(socket.ip().to_canonical());
    }
    Ok(socket)
}

/// Binds one address. Returns `None` if a socket in `others` receives its connections already.
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
    // The unspecified IPv6 address receives IPv4 connections too, unless an IPv4 listener has this
    // port already.
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
                // If neither works, the error for IPv4 is more useful.
                let ipv6 = bind_socket(v6, true).map_err(|_| not_bound(v4, error))?;
                return Ok(vec![ipv6]);
            }
        };
        let picked = ipv4.local_addr().map_err(|error| not_bound(v4, error))?.port();
        let v6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), picked);
        match bind_socket(v6, true) {
            Ok(ipv6) => return Ok(vec![ipv4, ipv6]),
            // The system picked a port that is free for IPv4 but not for IPv6. Try another one.
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
    // A restarted node needs it: closed connections keep the port in TIME_WAIT. On Windows this option
    // would let another program take over the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Returns whether this is a link-local IPv6 address without the interface that it belongs to.
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
pub(crate) async fn accept(
    inner: Arc<Inner>,
    listener: TcpListener,
    pending: Arc<PendingHandshakes>,
) {
    loop {
        let accepted = tokio::select! {
            () = inner.tasks.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                tracing::debug!(target: "peerkit::link", %remote, "accepted a connection");
                let place = pending.add(remote.ip());
                conn::start(&inner, handle_inbound(inner.clone(), stream, remote, place));
            }
            Err(error) => {
                tracing::debug!(%error, "can't accept a connection now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The handshakes under way. If there are too many, a new one evicts the oldest. An honest dialler
/// finishes its handshake in a moment, so this does not hurt it. An attacker who holds handshakes
/// open can't keep it out.
#[derive(Debug)]
pub(crate) struct PendingHandshakes {
    max: usize,
    max_per_ip: usize,
    places: Mutex<VecDeque<Arc<PlaceState>>>,
}

#[derive(Debug)]
struct PlaceState {
    ip: IpAddr,
    /// Cancelled when the handshake has to give way to a newer one.
    evicted: CancellationToken,
    /// Set once the handshake is over.
    done: AtomicBool,
}

/// The place of one handshake among the pending ones. Dropping it frees the place.
#[derive(Debug)]
struct PendingPlace(Arc<PlaceState>);

impl PendingHandshakes {
    pub(crate) fn new(max: usize, max_per_ip: usize) -> Arc<Self> {
        Arc::new(Self { max, max_per_ip, places: Mutex::default() })
    }

    /// Adds a handshake with `ip`, and evicts the oldest one if there is no room.
    fn add(&self, ip: IpAddr) -> PendingPlace {
        // An IPv6 socket shows an IPv4 address as `::ffff:a.b.c.d`. It is one address, with one limit.
        let ip = ip.to_canonical();
        let mut places = lock(&self.places);
        places.retain(|place| !place.done.load(Ordering::Relaxed));
        // All nodes of this machine, and all clients of a local proxy, have the loopback address.
        if !ip.is_loopback() && places.iter().filter(|p| p.ip == ip).count() >= self.max_per_ip {
            evict_first(&mut places, |place| place.ip == ip);
        }
        if places.len() >= self.max {
            evict_first(&mut places, |_| true);
        }
        let state = Arc::new(PlaceState {
            ip,
            evicted: CancellationToken::new(),
            done: AtomicBool::new(false),
        });
        places.push_back(state.clone());
        PendingPlace(state)
    }
}

fn evict_first(places: &mut VecDeque<Arc<PlaceState>>, which: impl Fn(&Arc<PlaceState>) -> bool) {
    if let Some(at) = places.iter().position(which)
        && let Some(place) = places.remove(at)
    {
        place.evicted.cancel();
    }
}

impl Drop for PendingPlace {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Relaxed);
    }
}

/// Handles one inbound connection. Returns the link if the handshake made one. A stream is handled
/// until it ends.
async fn handle_inbound(
    inner: Arc<Inner>,
    tcp: TcpStream,
    remote: SocketAddr,
    place: PendingPlace,
) -> MadeLink {
    let evicted = place.0.evicted.clone();
    let timeout = inner.config.handshake_timeout;
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(timeout, shake_hands(&inner, tcp)) => {
            shaken.unwrap_or_else(|_| Err("the handshake took too long".into()))
        }
        () = evicted.cancelled() => Err("gave way to a newer connection".into()),
    };
    // Freed now: what follows is no handshake, and a stream may last for hours.
    drop(place);
    let outcome = match shaken {
        Ok(Handshake::Greeted(greeted)) => admit(&inner, *greeted, remote).await,
        Ok(Handshake::Stream(handler)) => {
            handler.await;
            Ok(None)
        }
        Ok(Handshake::Nothing) => Ok(None),
        Err(error) => Err(error),
    };
    outcome.unwrap_or_else(|error| {
        let address = Address::from_socket(remote);
        // Does not wait for room in the event queues. Otherwise an attacker's failing connections
        // would fill the node with waiting tasks.
        inner.dispatch.queue_notice(Event::InboundNodeConnectionError { address, error });
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

/// The outcome of an inbound handshake.
enum Handshake {
    /// The connection can become a link.
    Greeted(Box<GreetedInbound>),
    /// The connection is a stream. The future runs its handler.
    Stream(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>),
    /// The dialler closed the connection for a reason that needs no report.
    Nothing,
}

/// Performs the TLS handshake and, for a link, exchanges Hellos.
async fn shake_hands(inner: &Arc<Inner>, tcp: TcpStream) -> Result<Handshake, String> {
    let local = tcp.local_addr().map_err(|error| error.to_string())?;
    let _ = tcp.set_nodelay(true);
    let mut channel = match inner.tls.accept(tcp).await {
        Ok(channel) => channel,
        // The dialler expected another node at this address. It closes without showing its own key.
        Err(error) if tls::is_refusal(&error) => {
            tracing::debug!(%error, "a dialler expected another node");
            return Ok(Handshake::Nothing);
        }
        Err(error) => return Err(error.to_string()),
    };
    let session = channel.session();
    if session.purpose == ChannelPurpose::Stream {
        let handler = inner.accept_stream(channel).await?;
        return Ok(Handshake::Stream(handler));
    }
    let mut link = dial::new_link(inner, Side::Acceptor, &session, local);
    let mut buffer = BytesMut::new();
    let hello = match dial::greet(&mut link, &mut channel, &mut buffer, inner).await {
        Ok(hello) => hello,
        // The dialler has found that it already has a link to this node. It closes without a Hello.
        Err(Reason::Lost(_)) => return Ok(Handshake::Nothing),
        Err(reason) => {
            let _ = channel.shutdown().await;
            return Err(reason.to_string());
        }
    };
    Ok(Handshake::Greeted(Box::new(GreetedInbound { channel, local, link, buffer, hello })))
}

/// Asks the actor to admit a connection. If the actor refuses it, sends the reason to the dialler.
/// The caller does not cancel this future, so an admitted connection always becomes a link.
async fn admit(
    inner: &Inner,
    greeted: GreetedInbound,
    remote: SocketAddr,
) -> Result<MadeLink, String> {
    let GreetedInbound { mut channel, local, mut link, buffer, hello } = greeted;
    let greeted = GreetedConnection {
        id: channel.session().id,
        agreed: link.agreed(),
        dialable: hello.dialable(remote),
        hello,
        direction: Direction::Inbound,
        remote,
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
                // The nodes have another link, usually as both dialled at once. That is no failure.
                Reason::Duplicate => Ok(None),
                reason => Err(reason.to_string()),
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
    async fn everywhere_is_the_same_port_of_ipv4_and_ipv6() {
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
        let places = [at(&format!("0.0.0.0:{port}")), at(&format!("[::]:{port}"))];
        let two = bind(&places).await;
        assert!(
            two.is_ok() || matches!(two, Err(Error::PortInUse(_))),
            "another program took the port: {two:?}"
        );
    }

    /// Binds `places`, in which `PORT` stands for a free port. Returns the IP addresses of the
    /// sockets. Tries another port if a program has taken the first one meanwhile.
    async fn bound(places: &[&str]) -> Vec<String> {
        for _ in 0..100 {
            let free = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let place = |text: &&str| match text.strip_suffix(":PORT") {
                Some(host) => Listen::At(format!("{host}:{port}")),
                None => Listen::Everywhere(port),
            };
            let places: Vec<_> = places.iter().map(place).collect();
            match bind(&places).await {
                Err(Error::PortInUse(_)) => {}
                listeners => {
                    let ips = listeners.unwrap().into_iter();
                    return ips.map(|l| l.local_addr().unwrap().ip().to_string()).collect();
                }
            }
        }
        panic!("no port is free for {places:?}");
    }

    #[tokio::test]
    async fn overlapping_places_share_a_socket_in_any_order() {
        assert_eq!(bound(&["127.0.0.1:PORT", "127.0.0.1:PORT"]).await, ["127.0.0.1"]);
        assert_eq!(bound(&["0.0.0.0:PORT", "127.0.0.1:PORT"]).await, ["0.0.0.0"]);
        assert_eq!(bound(&["127.0.0.1:PORT", "0.0.0.0:PORT"]).await, ["0.0.0.0"]);
        if !has_ipv6() {
            return;
        }
        assert_eq!(bound(&["[::ffff:127.0.0.1]:PORT", "127.0.0.1:PORT"]).await, ["127.0.0.1"]);
        assert_eq!(bound(&["everywhere", "everywhere"]).await, ["0.0.0.0", "::"]);
        assert_eq!(bound(&["127.0.0.1:PORT", "everywhere", "[::1]:PORT"]).await, ["0.0.0.0", "::"]);
        assert_eq!(bound(&["[::]:PORT", "0.0.0.0:PORT"]).await, ["::", "0.0.0.0"]);
        assert_eq!(bound(&["[::]:PORT", "127.0.0.1:PORT"]).await, ["::", "127.0.0.1"]);
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
