//! QUIC connections of quinn, with its own settings and the keys of nodes.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, ServerConfig};

use super::tls;
use crate::bulk::Stream;

/// Accepts one connection, and its streams.
pub(crate) struct Listener {
    endpoint: Endpoint,
    local: SocketAddr,
    connection: Option<Connection>,
}

impl Listener {
    pub(crate) fn bind() -> Result<Self> {
        let crypto = QuicServerConfig::try_from(tls::server()?)?;
        let config = ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let local = endpoint.local_addr()?;
        Ok(Self { endpoint, local, connection: None })
    }

    pub(crate) fn address(&self) -> String {
        self.local.to_string()
    }

    pub(crate) async fn accept(&mut self) -> Result<Stream> {
        if self.connection.is_none() {
            let incoming = self.endpoint.accept().await.context("the endpoint has ended")?;
            self.connection = Some(incoming.await?);
        }
        let connection = self.connection.as_ref().context("no connection")?;
        Ok(join(connection.accept_bi().await?))
    }
}

/// One connection, on which streams are opened.
pub(crate) struct Dialler {
    /// Ends the connection when it is dropped.
    _endpoint: Endpoint,
    connection: Connection,
}

impl Dialler {
    pub(crate) async fn connect(address: &str) -> Result<Self> {
        let crypto = QuicClientConfig::try_from(tls::client()?)?;
        let config = ClientConfig::new(Arc::new(crypto));
        let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let connection =
            endpoint.connect_with(config, address.parse()?, "peerkit.invalid")?.await?;
        Ok(Self { _endpoint: endpoint, connection })
    }

    pub(crate) async fn open(&self) -> Result<Stream> {
        Ok(join(self.connection.open_bi().await?))
    }
}

fn join((send, receive): (SendStream, RecvStream)) -> Stream {
    Box::new(tokio::io::join(receive, send))
}
