//! Streams: how this node opens them, and how it accepts those that other nodes open.
//!
//! A node dials the node to which it opens a stream. If it can't, it asks that node for a call-back: over the
//! link, or through the network if there is no link.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use peerkit_proto::address::Address;
use peerkit_proto::event::Reason;
use peerkit_proto::hello::{MAX_PROTOCOL, StreamOpen};
use peerkit_proto::id::NodeId;
use peerkit_proto::invitation::{MembershipError, MembershipProof};
use peerkit_proto::peer::Input;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::actor::mailbox::Operation;
use crate::channel::Channel;
use crate::conn::Conn;
use crate::dial::{
    self, DIAL_PATIENCE, DialOrigin, MAX_DIALLED, Secured, first_success, with_second_way,
};
use crate::error::{Error, NameKind};
use crate::inner::Inner;
use crate::quic::QuicStream;
use crate::served::StreamFuture;
use crate::stream::{Stream, read_block};
use crate::tls::ChannelPurpose;

/// The byte that answers a [`StreamOpen`].
mod status {
    pub(super) const OPEN: u8 = 0;
    pub(super) const OTHER_NETWORK: u8 = 1;
    pub(super) const WRONG_SECRET: u8 = 2;
    pub(super) const NO_PROTOCOL: u8 = 3;
    pub(super) const BUSY: u8 = 4;
    pub(super) const NO_TOKEN: u8 = 5;
    pub(super) const BANNED: u8 = 6;
    /// The opening node is not a member. The number of the error is added.
    pub(super) const NOT_A_MEMBER: u8 = 32;
}

/// The reason why this node opens no stream to a node.
const BANNED_HERE: &str = "it is banned here";

impl Inner {
    /// Answers a node that opens a stream. Returns the task that serves the stream.
    ///
    /// # Errors
    /// The reason why the stream was refused, for the log.
    pub(crate) async fn accept_stream(
        self: &Arc<Self>,
        mut channel: Channel,
    ) -> Result<StreamFuture, String> {
        let session = channel.session();
        let open = read_open(&mut channel).await?;
        // The network and its secret are checked first, so that a stranger learns nothing about tokens and
        // protocols.
        let expected = self.profile.prove(&session.binding, session.id);
        let checked = open.check(&self.profile.network, expected.as_ref());
        let refusal = match checked {
            Err(Reason::OtherNetwork) => Some((status::OTHER_NETWORK, "another network")),
            Err(_) => Some((status::WRONG_SECRET, "wrong or no secret")),
            Ok(()) => None,
        };
        if let Some((status, why)) = refusal {
            answer(&mut channel, status).await?;
            return Err(format!("a stream was refused: {why}"));
        }
        let peer = session.id;
        let entry = self.streams.open.register(peer);
        if self.bans.contains(peer) {
            answer(&mut channel, status::BANNED).await?;
            return Err("a stream of a banned node was refused".into());
        }
        if let Err(reason) = self.check_member(peer, open.membership).await {
            let code = match reason {
                Reason::NotAMember(error) => error.code(),
                _ => return Err(format!("a stream was refused: {reason}")),
            };
            answer(&mut channel, status::NOT_A_MEMBER.saturating_add(code)).await?;
            return Err(format!("a stream was refused: {reason}"));
        }
        if let Some(token) = open.token {
            let Some(awaited) = self.streams.take_awaited(&token, peer) else {
                answer(&mut channel, status::NO_TOKEN).await?;
                return Err("a call-back came that this node does not wait for".into());
            };
            answer(&mut channel, status::OPEN).await?;
            // This node has requested the stream, so the stream needs none of the peer's permits. If the task
            // that waited for it is gone, the stream closes.
            let _ = awaited.reply.send(Stream::new(channel, entry, None));
            return Ok(Box::pin(std::future::ready(())));
        }
        let Some(handler) = self.served.streams.get(&open.protocol) else {
            answer(&mut channel, status::NO_PROTOCOL).await?;
            return Err(format!("a stream of an unknown protocol, `{}`", open.protocol));
        };
        let Some(permit) = self.streams.permit(peer) else {
            answer(&mut channel, status::BUSY).await?;
            return Err("too many streams of one peer".into());
        };
        answer(&mut channel, status::OPEN).await?;
        Ok(handler.run(Stream::new(channel, entry, Some(permit))))
    }

    /// Checks the membership of a node that opens a stream, if the network takes invited nodes only.
    async fn check_member(
        &self,
        from: NodeId,
        membership: Option<Box<MembershipProof>>,
    ) -> Result<(), Reason> {
        if !self.membership.is_needed() {
            return Ok(());
        }
        let input = move |operation| Input::StreamOpened(operation, from, membership);
        let checked = self.actor.outcome(Operation::StreamCheck, input).await;
        checked.map_err(|_| Reason::Stopping)?
    }

    /// Opens a stream to `peer`. Dials the address of its link and `addresses`. If no dial succeeds, asks
    /// `peer` for a call-back.
    pub(crate) async fn open_stream(
        self: &Arc<Self>,
        peer: NodeId,
        addresses: &[Address],
        protocol: &str,
    ) -> Result<Stream, Error> {
        Error::check_name(NameKind::Protocol, protocol, MAX_PROTOCOL)?;
        // Checked before the dial, as a failed dial leads to a request for a call-back.
        if self.bans.contains(peer) {
            return Err(Error::StreamRefused { peer, why: BANNED_HERE.to_owned() });
        }
        let conn = self.links.get(peer).ok();
        // A link over QUIC was made because TCP did not reach the peer.
        if let Some(stream) = self.open_quic_stream(conn.as_deref()).await {
            return self.open_on(Channel::Quic(stream), protocol, None).await;
        }
        let known = conn.as_ref().and_then(|conn| conn.dialable.clone());
        let addresses: Vec<_> = known.into_iter().chain(addresses.iter().cloned()).collect();
        let dialling = async {
            let dialled = self.dial_stream(peer, &addresses, DialOrigin::Answer).await;
            dialled.map(|Secured { channel, .. }| channel)
        };
        // A packet to an address behind a NAT may get no answer.
        match with_second_way(dialling, self.call_back(peer, conn), DIAL_PATIENCE).await {
            Ok(channel) => self.open_on(channel, protocol, None).await,
            Err((mut failures, why)) => {
                // If this node does not listen, no peer can call it back. That says nothing about this peer, so
                // it is left out if a dial has failed too.
                if failures.is_empty() || !self.addresses.listening.is_empty() {
                    failures.push(why);
                }
                Err(Error::Unreachable { peer, why: failures.join("; ") })
            }
        }
    }

    /// Opens a stream on the QUIC connection of a link. Returns `None` if the link has none, or it has just ended.
    pub(super) async fn open_quic_stream(&self, conn: Option<&Conn>) -> Option<QuicStream> {
        let connection = conn?.quic.as_ref()?.upgrade()?;
        let opening = tokio::time::timeout(self.config.connect_timeout, connection.open());
        opening.await.ok()?.ok()
    }

    /// Opens a stream to the first node that answers at one of `addresses`.
    pub(crate) async fn open_stream_to_any(
        self: &Arc<Self>,
        addresses: &[Address],
        protocol: &'static str,
    ) -> Result<Stream, Error> {
        let opened = first_success(addresses.iter().cloned(), MAX_DIALLED, |address| {
            self.clone().open_at(address, protocol)
        });
        opened.await.map_err(dial::combined_error)
    }

    /// Connects to the node at `address`, which the application has named, and asks for a protocol.
    async fn open_at(
        self: Arc<Self>,
        address: Address,
        protocol: &'static str,
    ) -> Result<Stream, Error> {
        let connecting = dial::connect(&self, &address, ChannelPurpose::Stream, DialOrigin::Own);
        let Secured { channel, .. } = connecting.await?;
        self.open_on(channel, protocol, None).await
    }

    /// Connects to the node at `address`, and shows it the token of a call-back that it has requested.
    pub(super) async fn call_back_at(
        self: Arc<Self>,
        address: Address,
        token: [u8; 16],
    ) -> Result<Stream, Error> {
        let origin = DialOrigin::CallBack;
        let connecting = dial::connect(&self, &address, ChannelPurpose::Stream, origin);
        let Secured { channel, permit, .. } = connecting.await?;
        // With a token, no protocol is sent.
        let stream = self.open_on(channel, "", Some(token)).await?;
        if let Some(permit) = permit {
            permit.reached(self.clock.now(), stream.peer());
        }
        Ok(stream)
    }

    /// Opens a stream to `peer` at one of `addresses`, without a call-back. Also returns the address that answered.
    pub(crate) async fn open_stream_without_call_back(
        self: &Arc<Self>,
        peer: NodeId,
        addresses: &[Address],
        protocol: &str,
    ) -> Result<(SocketAddr, Stream), Error> {
        match self.dial_stream(peer, addresses, DialOrigin::Record).await {
            Ok(Secured { channel, remote, .. }) => {
                Ok((remote, self.open_on(channel, protocol, None).await?))
            }
            Err(failures) => Err(Error::Unreachable { peer, why: failures.join("; ") }),
        }
    }

    /// Connects to `peer` for a stream, at the first of `addresses` where it answers.
    ///
    /// # Errors
    /// The failure of each address. The texts do not name the peer, because the error around them does.
    pub(super) async fn dial_stream(
        self: &Arc<Self>,
        peer: NodeId,
        addresses: &[Address],
        origin: DialOrigin,
    ) -> Result<Secured, Vec<String>> {
        if let Err(error) = peer.checked() {
            return Err(vec![Error::from(error).without_address()]);
        }
        if self.bans.contains(peer) {
            return Err(vec![BANNED_HERE.to_owned()]);
        }
        let ways = addresses.iter().map(|address| address.clone().with_id(peer));
        let connected = first_success(ways, MAX_DIALLED, |address| {
            let inner = self.clone();
            async move {
                let connecting = dial::connect(&inner, &address, ChannelPurpose::Stream, origin);
                let connected = connecting.await;
                connected.map_err(|e| format!("{}: {}", address.host_port(), e.without_address()))
            }
        });
        connected.await
    }

    /// Sends the protocol or the token on a secured connection, and waits for the answer.
    pub(crate) async fn open_on(
        &self,
        mut channel: Channel,
        protocol: &str,
        token: Option<[u8; 16]>,
    ) -> Result<Stream, Error> {
        let session = channel.session();
        let open = StreamOpen {
            network: self.profile.network.clone(),
            proof: self.profile.prove(&session.binding, self.profile.id),
            protocol: protocol.to_owned(),
            token,
            membership: self.membership.proof(),
        };
        let mut out = Vec::new();
        open.encode(&mut out);
        let peer = session.id;
        let entry = self.streams.open.register(peer);
        // Checked again, as the stream may have been opened at an address without an identity.
        if self.bans.contains(peer) {
            return Err(Error::StreamRefused { peer, why: BANNED_HERE.to_owned() });
        }
        if self.membership.is_needed() {
            let checked = self.actor.call(move |actor| actor.overlay().check_dial(peer)).await?;
            checked.map_err(|reason| Error::StreamRefused { peer, why: reason.to_string() })?;
        }
        let asking = async {
            channel.write_all(&out).await?;
            channel.flush().await?;
            channel.read_u8().await
        };
        let timeout = self.config.handshake_timeout;
        let answered = tokio::time::timeout(timeout, asking).await;
        let why = match answered.map_err(|_| Error::Timeout(timeout))? {
            Ok(status::OPEN) => return Ok(Stream::new(channel, entry, None)),
            Ok(status::OTHER_NETWORK) => Reason::OtherNetwork.to_string(),
            Ok(status::WRONG_SECRET) => Reason::WrongSecret.to_string(),
            Ok(status::NO_PROTOCOL) => format!("it does not speak `{protocol}`"),
            Ok(status::BUSY) => "it has too many streams with us".to_owned(),
            Ok(status::NO_TOKEN) => "the call-back was no longer awaited".to_owned(),
            Ok(status::BANNED) => "its user has banned this node".to_owned(),
            Ok(other) => match other.checked_sub(status::NOT_A_MEMBER) {
                Some(code) => not_a_member(code),
                None => format!("status {other}"),
            },
            Err(error) => return Err(Error::StreamBroken { peer, error }),
        };
        Err(Error::StreamRefused { peer, why })
    }
}

/// Returns the text for the refusal of a stream because this node is no member.
fn not_a_member(code: u8) -> String {
    match MembershipError::from_code(code) {
        Some(error) => Reason::NotAMember(error).to_string(),
        None => format!("not a member (code {code})"),
    }
}

async fn read_open(channel: &mut Channel) -> Result<StreamOpen, String> {
    let body = read_block(channel, StreamOpen::MAX_LEN, "a stream's opening").await?;
    StreamOpen::decode(body).map_err(|error| error.to_string())
}

async fn answer(channel: &mut Channel, status: u8) -> Result<(), String> {
    let broken = |error: io::Error| error.to_string();
    channel.write_all(&[status]).await.map_err(broken)?;
    channel.flush().await.map_err(broken)?;
    if status != status::OPEN {
        // A proper shutdown, so that the peer can still read the answer.
        channel.shutdown().await.map_err(broken)?;
    }
    Ok(())
}
