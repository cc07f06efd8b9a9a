//! A TCP proxy that can fall silent without closing its connections, like a pulled cable.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    silent: watch::Sender<bool>,
}

impl Proxy {
    /// Forwards all connections to `to`.
    pub(crate) async fn new(to: SocketAddr) -> Self {
        Self::late(to, Duration::ZERO).await
    }

    /// Forwards connections to `to`, each only after a `delay`.
    pub(crate) async fn late(to: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (silent, watching) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::time::sleep(delay).await;
                let far = TcpStream::connect(to).await.unwrap();
                let ((from_near, to_near), (from_far, to_far)) =
                    (near.into_split(), far.into_split());
                tokio::spawn(forward(from_near, to_far, watching.clone()));
                tokio::spawn(forward(from_far, to_near, watching.clone()));
            }
        });
        Self { address, silent }
    }

    /// Lets nothing through from now on, without an error at either end.
    pub(crate) fn fall_silent(&self) {
        self.silent.send_replace(true);
    }
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut silent: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            biased;
            () = fallen(&mut silent) => None,
            read = from.read(&mut buffer) => Some(read.unwrap_or(0)),
        };
        let Some(read) = read else { return std::future::pending().await };
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn fallen(silent: &mut watch::Receiver<bool>) {
    let _ = silent.wait_for(|silent| *silent).await;
}
