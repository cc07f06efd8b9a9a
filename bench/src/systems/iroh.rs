//! iroh: streams on a QUIC connection, and the base of iroh-gossip and iroh-blobs. There is no relay, no
//! discovery and no port mapping.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use iroh::endpoint::{Builder, Connection, PortmapperConfig, RecvStream, SendStream, presets};
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode};

use crate::bulk::Stream;

pub(crate) mod attackers;
pub(crate) mod blobs;
pub(crate) mod network;

const ALPN: &[u8] = b"bench";

/// An endpoint that accepts streams.
pub(crate) struct Listener {
    endpoint: Endpoint,
    connection: Option<Connection>,
}

impl Listener {
    pub(crate) async fn bind() -> Result<Self> {
        Ok(Self { endpoint: endpoint().await?, connection: None })
    }

    pub(crate) fn address(&self) -> String {
        address(&self.endpoint)
    }

    pub(crate) async fn accept(&mut self) -> Result<Stream> {
        let connection = match &self.connection {
            Some(connection) => connection,
            None => {
                let incoming = self.endpoint.accept().await.context("the endpoint is closed")?;
                self.connection.insert(incoming.await?)
            }
        };
        Ok(joined(connection.accept_bi().await?))
    }
}

/// An endpoint that has a connection to another endpoint, and opens streams on it.
pub(crate) struct Dialler {
    _endpoint: Endpoint,
    connection: Connection,
}

impl Dialler {
    pub(crate) async fn connect(address: &str) -> Result<Self> {
        let endpoint = endpoint().await?;
        let connection = endpoint.connect(parsed(address)?, ALPN).await?;
        Ok(Self { _endpoint: endpoint, connection })
    }

    pub(crate) async fn open(&self) -> Result<Stream> {
        Ok(joined(self.connection.open_bi().await?))
    }
}

/// Returns the endpoint's identity and socket address.
fn address(endpoint: &Endpoint) -> String {
    let at = endpoint.bound_sockets().first().map(ToString::to_string).unwrap_or_default();
    format!("{} {at}", endpoint.id())
}

/// Parses an identity and a socket address.
fn parsed(address: &str) -> Result<EndpointAddr> {
    let (id, at) = address.split_once(' ').context("the address has no id")?;
    Ok(EndpointAddr::new(id.parse::<EndpointId>()?).with_ip_addr(at.parse::<SocketAddr>()?))
}

async fn endpoint() -> Result<Endpoint> {
    Ok(builder()?.alpns(vec![ALPN.to_vec()]).bind().await?)
}

fn builder() -> Result<Builder> {
    Ok(Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Disabled)
        .portmapper_config(PortmapperConfig::Disabled)
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")?)
}

/// Joins both directions of a stream.
fn joined((sending, receiving): (SendStream, RecvStream)) -> Stream {
    Box::new(tokio::io::join(receiving, sending))
}
