//! A TLS server for many connections. It has one task for each connection.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::{Dialler, tls};
use crate::bulk::Stream;
use crate::concurrent::run_concurrently;

/// Size of a ping, in bytes.
const PING: usize = 8;

/// The server. It sends each ping back.
pub(crate) struct Hub {
    at: SocketAddr,
    linked: watch::Receiver<usize>,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<Result<()>>,
}

impl Hub {
    pub(crate) async fn bind() -> Result<Self> {
        let socket = TcpListener::bind("127.0.0.1:0").await?;
        let at = socket.local_addr()?;
        let (count, linked) = watch::channel(0);
        let (stop, stopped) = watch::channel(false);
        let accepting = tokio::spawn(accept(socket, tls::server()?.into(), count, stopped));
        Ok(Self { at, linked, stop, accepting })
    }

    pub(crate) fn address(&self) -> String {
        self.at.to_string()
    }

    pub(crate) async fn wait_for_links(&mut self, links: usize) -> Result<()> {
        self.linked.wait_for(|linked| *linked >= links).await.context("the server has ended")?;
        Ok(())
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.send_replace(true);
        self.accepting.await?
    }
}

async fn accept(
    socket: TcpListener,
    tls: TlsAcceptor,
    linked: watch::Sender<usize>,
    mut stopped: watch::Receiver<bool>,
) -> Result<()> {
    let linked = Arc::new(linked);
    let mut links = JoinSet::new();
    let for_links = stopped.clone();
    let mut stop = std::pin::pin!(stopped.wait_for(|stop| *stop));
    loop {
        let (tcp, _) = tokio::select! {
            accepted = socket.accept() => accepted?,
            _ = &mut stop => break,
        };
        links.spawn(serve(tcp, tls.clone(), linked.clone(), for_links.clone()));
    }
    // As with a node, the stop is complete when all links are closed.
    while let Some(ended) = links.join_next().await {
        ended??;
    }
    Ok(())
}

/// Serves one connection until the other end closes it or the server stops.
async fn serve(
    tcp: TcpStream,
    tls: TlsAcceptor,
    linked: Arc<watch::Sender<usize>>,
    mut stopped: watch::Receiver<bool>,
) -> Result<()> {
    tcp.set_nodelay(true)?;
    let mut stream = tls.accept(tcp).await?;
    linked.send_modify(|linked| *linked += 1);
    let mut buffer = [0; PING];
    let mut stop = std::pin::pin!(stopped.wait_for(|stop| *stop));
    loop {
        let read = tokio::select! {
            read = stream.read_exact(&mut buffer) => read,
            _ = &mut stop => break,
        };
        if read.is_err() {
            // The other end may close the connection without a close notification.
            return Ok(());
        }
        stream.write_all(&buffer).await?;
        stream.flush().await?;
    }
    // The other end may have closed the connection already, so an error does not matter.
    let _ = stream.shutdown().await;
    Ok(())
}

/// The connections to the server.
pub(crate) struct Spokes {
    count: usize,
    streams: Vec<Stream>,
}

impl Spokes {
    pub(crate) fn new(count: usize) -> Self {
        Self { count, streams: Vec::new() }
    }

    pub(crate) async fn dial(&mut self, address: &str) -> Result<()> {
        let dialler = Arc::new(Dialler::new(address, true)?);
        let dial = |_| {
            let dialler = dialler.clone();
            async move { dialler.open().await }
        };
        self.streams = run_concurrently(0..self.count, dial).await?;
        Ok(())
    }

    pub(crate) async fn ping(&mut self) -> Result<()> {
        let streams = std::mem::take(&mut self.streams);
        self.streams = run_concurrently(streams, ping).await?;
        Ok(())
    }
}

async fn ping(mut stream: Stream) -> Result<Stream> {
    let mut buffer = [0; PING];
    stream.write_all(&buffer).await?;
    stream.flush().await?;
    stream.read_exact(&mut buffer).await?;
    Ok(stream)
}
