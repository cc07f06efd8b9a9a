//! Messages, requests and streams.

use std::time::Duration;

use peerkit_proto::frame::Frame;
use peerkit_proto::id::NodeId;
use peerkit_proto::message::Message;

use super::Node;
use crate::error::Error;
use crate::inner::not_accepted;
use crate::outbox::NotAccepted;
use crate::stream::Stream;

/// What became of a message to several peers.
#[derive(Debug, Default)]
pub struct SendReport {
    /// The peers that it is queued for.
    pub sent: Vec<NodeId>,
    /// The peers that it could not be queued for, and why.
    pub failed: Vec<(NodeId, Error)>,
}

impl Node {
    /// Sends a message to a connected peer; waits for room in its queue.
    ///
    /// Once it returns the message is queued: it arrives in order, or `node_message_failed` tells
    /// that it did not.
    ///
    /// # Errors
    /// Where the message is over the limit, the peer is not connected, or the link ends meanwhile.
    /// The message was not sent then.
    pub async fn send(&self, peer: NodeId, message: impl Into<Message>) -> Result<(), Error> {
        let conn = self.inner.conn(peer)?;
        let packed = self.inner.pack(message.into()).await?;
        let size = packed.payload.len();
        let queued = conn.outbox.application(&Frame::Message(packed), size).await;
        queued.map_err(|reason| not_accepted(&conn, NotAccepted::Closed(reason)))
    }

    /// Sends a message to a connected peer if there is room in its queue now. Compression, where it
    /// was asked for, is done on the spot.
    ///
    /// # Errors
    /// As [`Node::send`], and [`Error::Full`]. The message was not sent then.
    pub fn try_send(&self, peer: NodeId, message: impl Into<Message>) -> Result<(), Error> {
        let conn = self.inner.conn(peer)?;
        self.inner.try_send(&conn, message.into())
    }

    /// Sends a message to every connected peer but those in `exclude`, without waiting. The report
    /// tells for whom it could not be queued.
    ///
    /// # Errors
    /// Where the message is over the limit: it was sent to nobody then.
    pub fn send_to_nodes(
        &self,
        message: impl Into<Message>,
        exclude: &[NodeId],
    ) -> Result<SendReport, Error> {
        let message = message.into();
        let frame = self.inner.message_frame(message)?;
        let mut report = SendReport::default();
        for conn in self.inner.all_conns() {
            let id = conn.peer.id();
            if exclude.contains(&id) {
                continue;
            }
            match conn.outbox.try_application(&frame.0, frame.1) {
                Ok(()) => report.sent.push(id),
                Err(not) => report.failed.push((id, not_accepted(&conn, not))),
            }
        }
        Ok(report)
    }

    /// Asks a connected peer, and waits for its reply for the configured time (10 s).
    ///
    /// The peer answers with the handler that it has given to [`Node::serve`] under `name`.
    /// Dropping the future tells the peer that nobody waits any more.
    ///
    /// # Errors
    /// Where the peer is not connected, has no such handler, is busy, fails, or does not answer in
    /// time; or the link ends.
    pub async fn request(
        &self,
        peer: NodeId,
        name: &str,
        body: impl Into<Message>,
    ) -> Result<Message, Error> {
        self.request_within(peer, name, body, self.inner.config.request_timeout).await
    }

    /// As [`Node::request`], with a time to wait of one's own.
    ///
    /// # Errors
    /// As [`Node::request`].
    pub async fn request_within(
        &self,
        peer: NodeId,
        name: &str,
        body: impl Into<Message>,
        timeout: Duration,
    ) -> Result<Message, Error> {
        self.inner.request(peer, name, body.into(), timeout).await
    }

    /// Opens a byte stream to a node of the network, to speak `protocol` on. It needs no link; where
    /// we can't dial the node it is asked to dial us.
    ///
    /// # Errors
    /// Where neither side can reach the other, or the other does not speak the protocol.
    pub async fn open_stream(&self, peer: NodeId, protocol: &str) -> Result<Stream, Error> {
        let known = self.inner.known_peers().await?;
        let addresses = known.into_iter().find(|(id, _)| *id == peer).map(|(_, k)| k.addresses);
        self.inner.open_stream(peer, &addresses.unwrap_or_default(), protocol).await
    }

    /// Answers streams of `protocol` with `handler` from now on.
    pub fn serve_stream<F, R>(&self, protocol: &str, handler: F)
    where
        F: Fn(Stream) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.inner.streams.serve(protocol, handler);
    }
}
