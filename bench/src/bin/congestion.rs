//! Measures bulk data over TCP, and over QUIC with each of quinn's congestion controllers, between two machines.
//!
//! ```text
//! congestion serve IP:PORT
//! congestion fetch IP:PORT tcp|bbr|cubic|newreno BYTES
//! ```
//!
//! The sender controls the congestion, so the server listens on a UDP port for each controller: on PORT and the two
//! after it. TCP uses the controller of the system. `fetch` prints the time from the connection's first packet to the
//! last byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, ServerConfig, TransportConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[path = "../systems/raw/tls.rs"]
#[allow(dead_code)]
mod tls;

/// Number of bytes of each write and read.
const CHUNK: usize = 64 << 10;

/// The controllers, in the order of their ports.
const CONTROLLERS: [&str; 3] = ["bbr", "cubic", "newreno"];

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", address] => serve(address.parse()?).await,
        ["fetch", address, kind, bytes] => {
            let bytes: u64 = bytes.parse()?;
            let started = Instant::now();
            fetch(address.parse()?, kind, bytes).await?;
            let seconds = started.elapsed().as_secs_f64();
            println!("{kind} {seconds:.2} s {:.3} MB/s", bytes as f64 / 1e6 / seconds);
            Ok(())
        }
        _ => bail!("usage: congestion serve IP:PORT | fetch IP:PORT KIND BYTES"),
    }
}

async fn serve(address: SocketAddr) -> Result<()> {
    for (index, name) in CONTROLLERS.into_iter().enumerate() {
        let mut config =
            ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls::server()?)?));
        let mut transport = TransportConfig::default();
        transport.congestion_controller_factory(controller(name)?);
        config.transport_config(Arc::new(transport));
        let endpoint = Endpoint::server(config, port_after(address, index)?)?;
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                tokio::spawn(async move {
                    let connection = incoming.await?;
                    let (send, receive) = connection.accept_bi().await?;
                    answer(tokio::io::join(receive, send)).await?;
                    connection.closed().await;
                    anyhow::Ok(())
                });
            }
        });
    }
    let listener = TcpListener::bind(address).await?;
    loop {
        let (tcp, _) = listener.accept().await?;
        tokio::spawn(answer(tcp));
    }
}

fn controller(name: &str) -> Result<Arc<dyn ControllerFactory + Send + Sync>> {
    Ok(match name {
        "bbr" => Arc::new(BbrConfig::default()),
        "cubic" => Arc::new(CubicConfig::default()),
        "newreno" => Arc::new(NewRenoConfig::default()),
        _ => bail!("no controller {name}"),
    })
}

fn port_after(address: SocketAddr, index: usize) -> Result<SocketAddr> {
    let port = address.port().checked_add(u16::try_from(index)?).context("no such port")?;
    Ok(SocketAddr::new(address.ip(), port))
}

/// Sends as many bytes as the other end asks for.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    let mut left = stream.read_u64().await?;
    let chunk = vec![0x5a; CHUNK];
    while left > 0 {
        let part = left.min(CHUNK as u64);
        stream.write_all(&chunk[..part as usize]).await?;
        left -= part;
    }
    stream.shutdown().await?;
    Ok(())
}

async fn fetch(address: SocketAddr, kind: &str, bytes: u64) -> Result<()> {
    if kind == "tcp" {
        return receive(TcpStream::connect(address).await?, bytes).await;
    }
    let index = CONTROLLERS.iter().position(|name| *name == kind).context("no controller")?;
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls::client()?)?));
    let endpoint = Endpoint::client(SocketAddr::from(([0, 0, 0, 0], 0)))?;
    let connecting =
        endpoint.connect_with(config, port_after(address, index)?, "peerkit.invalid")?;
    let (send, stream) = connecting.await?.open_bi().await?;
    receive(tokio::io::join(stream, send), bytes).await
}

/// Asks for bytes, and receives them.
async fn receive(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: u64) -> Result<()> {
    stream.write_u64(bytes).await?;
    stream.flush().await?;
    let mut buffer = vec![0; CHUNK];
    let mut received = 0;
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            read => received += read as u64,
        }
    }
    ensure!(received == bytes, "{received} bytes of {bytes} have come");
    Ok(())
}
