//! Call-backs: if a node can't dial its peer, it asks the peer to dial instead. So a node can open a stream to
//! a peer that can't be dialled.
//!
//! The request for a call-back has a random token. It goes over the link, or through the network if there is
//! no link. The node that calls back opens a connection and sends the token on it, which shows what the
//! connection is for.

use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address::{Address, Scheme};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::query::{AnswerBody, QueryKind};
use peerkit_proto::id::NodeId;
use peerkit_proto::peer::meetings::{LINK_ONLY, MAX_RELAYS, RELAY_PREPARED_AFTER};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::channel::Channel;
use crate::conn::Conn;
use crate::dial::{DialOrigin, Secured, first_success};
use crate::inner::Inner;
use crate::lock::lock;
use crate::node::RunningQuery;
use crate::stream::{AwaitedStream, Stream, Streams};

/// Maximum number of addresses that are dialled for one call-back. 4: fewer than for a stream that this node
/// opens. Any node of the network can ask for a call-back, so strangers choose the addresses that this node
/// dials.
const MAX_CALL_BACK_ADDRESSES: usize = 4;

/// Time after which a stream is opened through a relay although there is no link yet. 2.5 s: a meeting has punched a hole
/// or made a relayed link by then, unless both nodes are far away.
const RELAY_PATIENCE: Duration = Duration::from_millis(2500);

/// Time before a connection beside a new link is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(250);

impl Inner {
    /// Asks `peer` to open a connection to this node, over the link or through the network. If there is no link, the
    /// two nodes also try to make one over UDP, and the returned channel may be a stream of that link.
    pub(crate) async fn call_back(
        self: &Arc<Self>,
        peer: NodeId,
        conn: Option<Arc<Conn>>,
    ) -> Result<Channel, String> {
        if self.addresses.listening.is_empty() {
            return Err(
                "no address of it is known, and this node does not listen, so it can't call \
                        back"
                    .into(),
            );
        }
        let mut token = [0; 16];
        getrandom::fill(&mut token).map_err(|error| error.to_string())?;
        let (reply, stream) = oneshot::channel();
        lock(&self.streams.awaited).insert(token, AwaitedStream { from: peer, reply });
        let _guard = TokenGuard { streams: &self.streams, token };
        let timeout = self.config.connect_timeout;
        let mut query = None;
        if let Some(conn) = conn {
            conn.send_control(&Frame::CallBack { token });
        } else {
            // The machine puts this node's signed record, which has its addresses, into the query.
            let what = QueryKind::CallBack { target: peer, token, addresses: Vec::new() };
            // A depth of -1 asks the whole network.
            let asked = self.send_query(what, -1, Some(timeout)).await;
            query = Some(asked.map_err(|error| error.to_string())?);
        }
        let (answered, answer) = oneshot::channel();
        tokio::select! {
            biased;
            called = tokio::time::timeout(timeout, stream) => match called {
                Ok(Ok(Stream { channel, .. })) => Ok(channel),
                _ => Err(format!(
                    "it did not connect to this node within {} s",
                    timeout.as_secs_f32()
                )),
            },
            channel = self.channel_beside_new_link(peer, token) => Ok(channel),
            channel = self.channel_through_relay(peer, answer) => Ok(channel),
            () = refusal(query, peer, Some(answered)) => {
                Err("it could not be asked through the network to connect to this node".into())
            }
        }
    }

    /// Waits until there is a link with `peer` over QUIC or a relay, and connects in the same way. If the relay can be
    /// used from the other end only, asks the peer for the call-back with `token` over the link, and never returns.
    async fn channel_beside_new_link(self: &Arc<Self>, peer: NodeId, token: [u8; 16]) -> Channel {
        loop {
            let is_new =
                |conn: &Arc<Conn>| conn.peer.id() == peer && conn.transport.scheme != Scheme::Tcp;
            self.links.wait_until(|links| links.iter().any(is_new)).await;
            let Ok(conn) = self.links.get(peer) else { continue };
            if let Some(stream) = self.open_quic_stream(Some(&conn)).await {
                return Channel::Quic(stream);
            }
            let Some(address) = conn.dialable.clone() else {
                conn.send_control(&Frame::CallBack { token });
                return std::future::pending().await;
            };
            let dialled = self.dial_stream(peer, &[address], DialOrigin::Answer).await;
            if let Ok(Secured { channel, .. }) = dialled {
                return channel;
            }
            // The link has ended, and its end is about to be noted, or the relay has no room.
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Connects through one of the relays that `peer` names in its answer to a query. Leaves time for a direct
    /// connection, and never returns if no relay connects.
    async fn channel_through_relay(
        self: &Arc<Self>,
        peer: NodeId,
        answer: oneshot::Receiver<Vec<Address>>,
    ) -> Channel {
        if let Ok(mut relays) = answer.await {
            let begun = Instant::now();
            relays.retain(|address| address.scheme == Scheme::Relay);
            relays.truncate(MAX_RELAYS);
            tokio::time::sleep(RELAY_PREPARED_AFTER).await;
            let dialled = self.dial_stream(peer, &relays, DialOrigin::Meeting).await;
            if let Ok(Secured { channel, .. }) = dialled {
                let is_relayed = |conn: &Arc<Conn>| {
                    conn.peer.id() == peer && conn.transport.scheme == Scheme::Relay
                };
                tokio::select! {
                    () = sleep_until(begun + RELAY_PATIENCE) => {}
                    // The two nodes have had the time for a direct link.
                    () = self.links.wait_until(|links| links.iter().any(is_relayed)) => {}
                }
                return channel;
            }
        }
        std::future::pending().await
    }

    /// Answers a peer that asks for a call-back over its link.
    pub(crate) fn call_back_peer(self: &Arc<Self>, conn: &Conn, token: [u8; 16]) {
        let addresses = conn.dialable.iter().map(|a| a.clone().with_id(conn.peer.id())).collect();
        self.answer_call_back(addresses, token);
    }

    /// Connects to the node that waits for `token` at one of `addresses`. That node then opens a stream on the
    /// connection, and this node serves the stream. Does nothing and returns false if too many call-backs are
    /// under way. The machine has begun to dial the candidates for hole punching among the addresses.
    pub(crate) fn answer_call_back(
        self: &Arc<Self>,
        mut addresses: Vec<Address>,
        token: [u8; 16],
    ) -> bool {
        addresses.retain(|address| address.scheme != Scheme::Quic);
        if token == LINK_ONLY || addresses.is_empty() {
            return true;
        }
        let Ok(permit) = self.streams.call_backs.clone().try_acquire_owned() else {
            return false;
        };
        let inner = self.clone();
        self.tasks.spawn(async move {
            // An attempt succeeds only if the node accepts the token. An address without an identity may lead
            // to another node, which does not wait for the token.
            let opening =
                first_success(addresses.iter().cloned(), MAX_CALL_BACK_ADDRESSES, |address| {
                    inner.clone().call_back_at(address, token)
                });
            if let Ok(Stream { channel, .. }) = opening.await {
                let timeout = inner.config.handshake_timeout;
                let accepting = inner.accept_stream(channel);
                let accepted = tokio::time::timeout(timeout, accepting).await;
                // From here on the stream has one of the peer's permits.
                drop(permit);
                if let Ok(Ok(running)) = accepted {
                    running.await;
                }
                return;
            }
            tracing::debug!(?addresses, "a call-back reached no node");
        });
        true
    }
}

/// Waits until it is certain that `peer` does not call back: all nodes have answered the query, and `peer`, which
/// answers when it begins to call back, is not among them. Never returns if there is no query, or if an answer may
/// be missing. `answered` gets the addresses in the answer of `peer`.
pub(crate) async fn refusal(
    query: Option<RunningQuery>,
    peer: NodeId,
    mut answered: Option<oneshot::Sender<Vec<Address>>>,
) {
    if let Some(RunningQuery { mut answers, ended }) = query {
        let mut calls_back = false;
        while let Some(answer) = answers.recv().await {
            if answer.node != peer || answer.body != AnswerBody::Here {
                continue;
            }
            calls_back = true;
            if let Some(answered) = answered.take() {
                let _ = answered.send(answer.addresses);
            }
        }
        let is_complete = ended.await.unwrap_or(false);
        if is_complete && !calls_back {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// Removes a token when it is dropped: the call-back has come, or is no longer awaited.
struct TokenGuard<'a> {
    streams: &'a Streams,
    token: [u8; 16],
}

impl Drop for TokenGuard<'_> {
    fn drop(&mut self) {
        lock(&self.streams.awaited).remove(&self.token);
    }
}
