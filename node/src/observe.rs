//! Observers: peers that tell this node at which UDP address they see it.
//!
//! The question and the answers use a stream over QUIC, from the port at which this node listens. The connection stays,
//! and its keep-alive packets keep the port at the router. The observer sends the address again when it changes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address::Scheme;
use peerkit_proto::codec::Writer;
use peerkit_proto::id::NodeId;
use peerkit_proto::peer::Input;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::channel::Channel;
use crate::inner::Inner;
use crate::served::StreamHandler;
use crate::stream::{Stream, read_block};

/// The protocol of these streams. The observer sends addresses as text, each preceded by its length in four bytes.
pub(crate) const OBSERVE_PROTOCOL: &str = "peerkit-seen/1";

/// Interval at which an observer looks at the address again. 2 s: a node whose router has changed can be met soon.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Maximum length of an address as text: IPv6 with brackets, scope and port.
const MAX_TEXT: usize = 64;

impl Inner {
    /// Asks a peer where it sees this node, until the task is aborted or the connection ends. The actor gets
    /// [`Input::Observed`] for each answer, and at the end.
    pub(crate) async fn observe(self: Arc<Self>, by: NodeId) {
        if let Err(why) = self.follow_observer(by).await {
            tracing::debug!(peer = %by.short(), %why, "an observer does not answer");
        }
        self.actor.input(Input::Observed { by, address: None }).await;
    }

    async fn follow_observer(self: &Arc<Self>, by: NodeId) -> Result<(), String> {
        let conn = self.links.get(by).map_err(|error| error.to_string())?;
        let address = conn.dialable.clone().ok_or("its address is not known")?;
        let address = address.with_scheme(Scheme::Quic);
        let opened = self.open_stream_without_call_back(by, &[address], OBSERVE_PROTOCOL).await;
        let (_, mut stream) = opened.map_err(|error| error.to_string())?;
        loop {
            let text = read_block(&mut stream.channel, MAX_TEXT, "an address").await?;
            let text = std::str::from_utf8(&text).map_err(|error| error.to_string())?;
            let address: SocketAddr = text.parse().map_err(|_| "not an address".to_owned())?;
            tracing::debug!(peer = %by.short(), %address, "an observer sees this node");
            self.actor.input(Input::Observed { by, address: Some(address) }).await;
        }
    }
}

/// Returns the handler of streams on which peers ask where this node sees them.
pub(crate) fn serve() -> StreamHandler {
    StreamHandler::new(|stream| async move {
        let Stream { channel, .. } = stream;
        if let Channel::Quic(mut stream) = channel {
            let mut told = None;
            let mut looking = tokio::time::interval(LOOK_INTERVAL);
            loop {
                tokio::select! {
                    _ = looking.tick() => {}
                    // The peer sends nothing, so this is the end of its stream.
                    _ = stream.read_u8() => return,
                }
                let remote = canonical(stream.remote());
                if told.replace(remote) == Some(remote) {
                    continue;
                }
                let mut out = Vec::new();
                out.put_bytes(remote.to_string().as_bytes());
                if stream.write_all(&out).await.is_err() {
                    return;
                }
            }
        }
    })
}

/// Returns an IPv4 address in its own form, if it is mapped into IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
