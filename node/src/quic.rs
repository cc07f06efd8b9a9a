//! QUIC (RFC 9000) by quinn: the second way to make links and streams, for nodes that TCP does not reach.
//!
//! Each TCP listener has a twin: a UDP socket with the same address and port number. The keys and their checks are
//! those of TLS over TCP. The first stream of a connection is a link, or the stream for which the connection was made;
//! ALPN says which. Each further stream of the connection is a peerkit stream, so that a node whose peer can't be
//! dialled again needs no second connection.
//!
//! A handshake costs more than its first packet, and the sender's address in that packet may be false. So a node that
//! has several handshakes under way, or one with the same host, first has the dialler prove that it receives packets at
//! its address (a *retry*, RFC 9000, section 8.1.2).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerkit_proto::config::Config;
use peerkit_proto::hello::{ALPN_QUIC_LINK, ALPN_QUIC_STREAM, EXPORTER_LABEL};
use peerkit_proto::id::NodeId;
use quinn::congestion::BbrConfig;
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use rustls::pki_types::CertificateDer;
use tokio_util::task::TaskTracker;

use crate::inner::Inner;
use crate::lock::lock;
use crate::tls::{self, ChannelPurpose, NotANode, Session, Tls, TlsDialError};

mod silence;
mod stream;

pub(crate) use stream::{QuicConnection, QuicStream};

/// Number of handshakes under way, of both transports, from which on diallers have to prove their addresses.
pub(crate) const MAX_UNPROVEN: usize = 8;

/// Maximum time until the peers know that this node has stopped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The code with which connections are closed when the node stops.
const STOPPED: VarInt = VarInt::from_u32(0);

/// The round-trip time that is assumed until it is measured. 200 ms: the first packet of a handshake is sent again after
/// three times as much (RFC 9002, section 6.2.2). So in a meeting each candidate gets the packet three times before a
/// relay is used, and at most six packets in all, with the one that ends the attempt. quinn assumes 333 ms.
const INITIAL_RTT: Duration = Duration::from_millis(200);

/// Maximum interval between two packets of an idle connection. 5 s: when a router on the way has forgotten the mapping of
/// the node behind it, nothing reaches that node until it sends a packet.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The name that quinn requires for each dial. It is not sent, and nothing depends on it.
const SERVER_NAME: &str = "peerkit.invalid";

/// The UDP sockets of a node.
pub(crate) struct QuicEndpoints {
    /// Other nodes can dial this one over QUIC.
    is_listening: bool,
    /// The twins of the TCP listeners; none once the node has stopped.
    listening: Mutex<Vec<Endpoint>>,
    /// Sockets of any port for dials that none of `listening` can make, one for IPv4 and one for IPv6.
    dialling: Mutex<[Option<Endpoint>; 2]>,
    transport: Arc<TransportConfig>,
    /// Counts the tasks that wait until a peer has received the end of a stream.
    lingering: TaskTracker,
}

/// A connection that is accepted or dialled, with its first stream.
pub(crate) struct Connected {
    pub(crate) stream: QuicStream,
    pub(crate) local: SocketAddr,
}

impl QuicEndpoints {
    /// Creates the endpoints for the bound sockets.
    pub(crate) fn new(
        sockets: impl IntoIterator<Item = UdpSocket>,
        tls: &Tls,
        config: &Config,
    ) -> io::Result<Self> {
        let transport = Arc::new(transport(config));
        let crypto = QuicServerConfig::try_from(tls.quic_server()).map_err(io::Error::other)?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(transport.clone());
        // Bounded by `Config::max_pending` behind it. The packets of a handshake that waits to be accepted are few.
        server.max_incoming(config.max_pending).incoming_buffer_size_total(1 << 20);
        let endpoint = |socket| {
            let (settings, runtime) = (EndpointConfig::default(), Arc::new(TokioRuntime));
            Endpoint::new(settings, Some(server.clone()), socket, runtime)
        };
        let listening: Vec<Endpoint> =
            sockets.into_iter().map(endpoint).collect::<io::Result<_>>()?;
        Ok(Self {
            is_listening: !listening.is_empty(),
            listening: Mutex::new(listening),
            dialling: Mutex::default(),
            transport,
            lingering: TaskTracker::new(),
        })
    }

    /// Returns whether other nodes can dial this one over QUIC.
    pub(crate) fn is_listening(&self) -> bool {
        self.is_listening
    }

    /// Returns the endpoints at which other nodes can dial this one.
    pub(crate) fn listening(&self) -> Vec<Endpoint> {
        lock(&self.listening).clone()
    }

    /// Waits until the peers have received the ends of all streams, and closes all connections.
    pub(crate) async fn close(&self) {
        self.lingering.close();
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.lingering.wait()).await;
        // An endpoint has a task and a socket until its last handle is dropped.
        let mut all = std::mem::take(&mut *lock(&self.listening));
        all.extend(lock(&self.dialling).iter_mut().filter_map(Option::take));
        let closing = async {
            for endpoint in &all {
                endpoint.close(STOPPED, b"");
                endpoint.wait_idle().await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    }

    /// Returns an endpoint that can dial `remote`: a listening one if possible, since then the peer and the routers
    /// between see the port at which this node listens.
    fn endpoint_for(&self, remote: SocketAddr) -> io::Result<Endpoint> {
        let reaches = |endpoint: &&Endpoint| match endpoint.local_addr().map(|at| at.ip()) {
            Ok(IpAddr::V4(ip)) => remote.is_ipv4() && leads_to(ip.into(), remote.ip()),
            Ok(ip) => remote.is_ipv6() && leads_to(ip, remote.ip()),
            Err(_) => false,
        };
        if let Some(endpoint) = lock(&self.listening).iter().find(reaches) {
            return Ok(endpoint.clone());
        }
        let mut dialling = lock(&self.dialling);
        let [v4, v6] = &mut *dialling;
        let (slot, ip): (_, IpAddr) = match remote {
            SocketAddr::V4(_) => (v4, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (v6, Ipv6Addr::UNSPECIFIED.into()),
        };
        if let Some(endpoint) = slot {
            return Ok(endpoint.clone());
        }
        let endpoint = Endpoint::client(SocketAddr::new(ip, 0))?;
        Ok(slot.insert(endpoint).clone())
    }

    /// Dials a node, and opens the first stream of the connection. If another node than `expected` answers, the
    /// handshake ends before this node's key is sent.
    ///
    /// # Errors
    /// [`TlsDialError::WrongNode`], or the error of QUIC or of the socket.
    pub(crate) async fn dial(
        &self,
        tls: &Tls,
        remote: SocketAddr,
        purpose: ChannelPurpose,
        expected: Option<NodeId>,
    ) -> Result<Connected, TlsDialError> {
        let (crypto, found) = tls.quic_client(purpose, expected);
        let crypto = QuicClientConfig::try_from(crypto).map_err(io::Error::other)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.transport.clone());
        let endpoint = self.endpoint_for(remote)?;
        let connecting = endpoint.connect_with(config, remote, SERVER_NAME);
        let connected = connecting.map_err(io::Error::other)?.await;
        // quinn does not hand on the error of the verifier, which names the node.
        if let Some(found) = found.get() {
            return Err(TlsDialError::WrongNode(*found));
        }
        let connection = self.secured(connected.map_err(io::Error::from)?)?;
        let local = local_address(&endpoint, connection.local_ip())?;
        let stream = connection.open().await?;
        if purpose == ChannelPurpose::Link {
            stream.prioritize();
        }
        Ok(Connected { stream, local })
    }

    /// Finishes the handshake of an inbound connection, and waits for the dialler's first stream.
    ///
    /// # Errors
    /// The error of QUIC, or `NotANode`.
    pub(crate) async fn accept(
        &self,
        endpoint: &Endpoint,
        incoming: quinn::Incoming,
    ) -> io::Result<Connected> {
        let connection = self.secured(incoming.accept()?.await?)?;
        let local = local_address(endpoint, connection.local_ip())?;
        let is_link = connection.purpose() == ChannelPurpose::Link;
        let stream = connection.accept().await?;
        if is_link {
            stream.prioritize();
        }
        Ok(Connected { stream, local })
    }

    fn secured(&self, connection: quinn::Connection) -> io::Result<Arc<QuicConnection>> {
        let session = session(&connection)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(QuicConnection::new(connection, session, self.lingering.clone()))
    }
}

impl Inner {
    /// Accepts the streams that the peer opens on a connection beside the first, until the connection is closed.
    pub(crate) fn serve_quic_streams(self: &Arc<Self>, stream: &QuicStream) {
        let (inner, connection) = (self.clone(), stream.connection());
        let Session { id, purpose, .. } = stream.session();
        self.tasks.spawn(async move {
            let serve = |stream| {
                let serving = inner.clone();
                inner.tasks.spawn(async move { serving.serve_stream(stream).await });
            };
            let serving = QuicConnection::accept_streams(connection.clone(), serve);
            match purpose {
                ChannelPurpose::Link => tokio::select! {
                    () = serving => {}
                    () = inner.revive_when_silent(id, connection) => {}
                },
                ChannelPurpose::Stream => serving.await,
            }
        });
    }
}

/// Returns the settings of all connections.
fn transport(config: &Config) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.initial_rtt(INITIAL_RTT);
    transport.keep_alive_interval(Some(config.ping_after.min(KEEP_ALIVE)));
    transport.max_idle_timeout(IdleTimeout::try_from(config.dead_after).ok());
    // One more than the streams that a peer may open, for the link.
    let streams = u32::try_from(config.max_streams_per_peer).unwrap_or(u32::MAX);
    transport.max_concurrent_bidi_streams(streams.saturating_add(1).into());
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.datagram_receive_buffer_size(None);
    // Paths between homes lose packets for other reasons than congestion.
    transport.congestion_controller_factory(Arc::new(BbrConfig::default()));
    transport
}

/// Returns whether a socket that is bound to the address `own` reaches `remote`. One that is bound to a loopback
/// address reaches only such addresses, and no other one leaves from it.
fn leads_to(own: IpAddr, remote: IpAddr) -> bool {
    own.is_unspecified() || own.is_loopback() == remote.is_loopback()
}

/// Returns the local address of a connection.
fn local_address(endpoint: &Endpoint, ip: Option<IpAddr>) -> io::Result<SocketAddr> {
    let bound = endpoint.local_addr()?;
    Ok(SocketAddr::new(ip.unwrap_or(bound.ip()).to_canonical(), bound.port()))
}

/// Reads the session's facts from a connection whose handshake is finished.
fn session(connection: &quinn::Connection) -> Result<Session, NotANode> {
    let keys = connection.peer_identity().ok_or(NotANode)?;
    let keys = keys.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| NotANode)?;
    let id = keys.first().and_then(tls::peer_id).ok_or(NotANode)?;
    let agreed = connection.handshake_data().ok_or(NotANode)?;
    let agreed = agreed.downcast::<HandshakeData>().map_err(|_| NotANode)?;
    let purpose = match agreed.protocol.as_deref() {
        Some(ALPN_QUIC_LINK) => ChannelPurpose::Link,
        Some(ALPN_QUIC_STREAM) => ChannelPurpose::Stream,
        _ => return Err(NotANode),
    };
    let mut binding = [0; 32];
    let exported = connection.export_keying_material(&mut binding, EXPORTER_LABEL, b"");
    exported.map_err(|_| NotANode)?;
    Ok(Session { id, purpose, binding })
}
