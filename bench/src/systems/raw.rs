//! Connections without a framework: TCP, and TLS with the settings of a node, which is the reference.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use peerkit::Key;
use peerkit_proto::hello::ALPN_LINK;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::bulk::Stream;

pub(crate) mod files;
pub(crate) mod many_links;
pub(crate) mod quic;
mod tls;

/// Accepts connections.
pub(crate) struct Listener {
    socket: TcpListener,
    local: SocketAddr,
    tls: Option<TlsAcceptor>,
}

impl Listener {
    pub(crate) async fn bind(tls: bool) -> Result<Self> {
        let socket = TcpListener::bind("127.0.0.1:0").await?;
        let local = socket.local_addr()?;
        let tls = if tls { Some(tls::server()?.into()) } else { None };
        Ok(Self { socket, local, tls })
    }

    pub(crate) fn address(&self) -> String {
        self.local.to_string()
    }

    pub(crate) async fn accept(&self) -> Result<Stream> {
        let (tcp, _) = self.socket.accept().await?;
        tcp.set_nodelay(true)?;
        Ok(match &self.tls {
            Some(tls) => Box::new(tls.accept(tcp).await?),
            None => Box::new(tcp),
        })
    }
}

/// Connects as a node does for a link, with the identity of `key`, from the address `from`.
pub(crate) async fn connect_as(
    key: &Key,
    from: IpAddr,
    to: SocketAddr,
) -> Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let tcp = socket.connect(to).await?;
    tcp.set_nodelay(true)?;
    let connector = TlsConnector::from(tls::client_as(key, &[ALPN_LINK])?);
    Ok(connector.connect(tls::server_name()?, tcp).await?)
}

/// Makes connections.
pub(crate) struct Dialler {
    to: SocketAddr,
    tls: Option<TlsConnector>,
}

impl Dialler {
    pub(crate) fn new(address: &str, tls: bool) -> Result<Self> {
        let tls = if tls { Some(tls::client()?.into()) } else { None };
        Ok(Self { to: address.parse()?, tls })
    }

    pub(crate) async fn open(&self) -> Result<Stream> {
        let tcp = TcpStream::connect(self.to).await?;
        tcp.set_nodelay(true)?;
        Ok(match &self.tls {
            Some(tls) => Box::new(tls.connect(tls::server_name()?, tcp).await?),
            None => Box::new(tcp),
        })
    }
}
