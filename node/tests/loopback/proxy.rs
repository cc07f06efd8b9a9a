//! A TCP proxy. It can stop forwarding without closing its connections, as if a cable were pulled.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    stopped: watch::Sender<bool>,
}

impl Proxy {
    /// Starts a proxy that forwards all connections to `to`.
    pub(crate) async fn new(to: SocketAddr) -> Self {
        Self::with_delay(to, Duration::ZERO).await
    }

    /// Starts a proxy that forwards each connection to `to`, but only `delay` after it has accepted the
    /// connection.
    pub(crate) async fn with_delay(to: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stopped, stop) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::time::sleep(delay).await;
                let far = TcpStream::connect(to).await.unwrap();
                let ((from_near, to_near), (from_far, to_far)) =
                    (near.into_split(), far.into_split());
                tokio::spawn(forward(from_near, to_far, stop.clone()));
                tokio::spawn(forward(from_far, to_near, stop.clone()));
            }
        });
        Self { address, stopped }
    }

    /// Stops forwarding. Neither end gets an error.
    pub(crate) fn stop_forwarding(&self) {
        self.stopped.send_replace(true);
    }
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut stopped: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            biased;
            () = wait_until_stopped(&mut stopped) => None,
            read = from.read(&mut buffer) => Some(read.unwrap_or(0)),
        };
        let Some(read) = read else { return std::future::pending().await };
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn wait_until_stopped(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
