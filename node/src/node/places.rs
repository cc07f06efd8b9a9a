//! Places to dial, as a user writes them: an address, an identity, or the name of a known node.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use peerkit_proto::address::Address;
use peerkit_proto::event::Peer;
use peerkit_proto::frame::query::{AnswerBody, QueryKind};
use peerkit_proto::id::NodeId;
use peerkit_proto::peer::meetings::LINK_ONLY;
use peerkit_proto::peer::{Input, Purpose};

use super::network::NetworkHandle;
use super::{ConnectOptions, Node};
use crate::actor::mailbox::Operation;
use crate::conn::Conn;
use crate::dial::{DIAL_PATIENCE, with_second_way};
use crate::error::Error;
use crate::stream::refusal;

/// Minimum number of hex digits that are read as the start of an identity, where they could also be the name
/// of a host. 4: host names of fewer hex digits are common.
const MIN_ID_PREFIX: usize = 4;

/// Maximum number of addresses that are dialled for one connect. 8: as many as for a message to a node
/// without a link.
const MAX_ADDRESSES: usize = 8;

/// A place to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// An address.
    Address(Address),
    /// A text, read as [`NetworkHandle::find_addresses`] does.
    Text(String),
}

/// A value that names a place to dial: an address, its text, a socket address, a host with a port, or the
/// identity or name of a node.
pub trait IntoAddress {
    /// Returns the place.
    ///
    /// # Errors
    /// If it is not a valid place.
    fn into_place(self) -> Result<Place, Error>;
}

impl IntoAddress for Place {
    fn into_place(self) -> Result<Place, Error> {
        Ok(self)
    }
}

impl IntoAddress for Address {
    fn into_place(self) -> Result<Place, Error> {
        Ok(Place::Address(self))
    }
}

impl IntoAddress for &Address {
    fn into_place(self) -> Result<Place, Error> {
        Ok(Place::Address(self.clone()))
    }
}

impl IntoAddress for SocketAddr {
    fn into_place(self) -> Result<Place, Error> {
        Ok(Place::Address(Address::from_socket(self)))
    }
}

impl IntoAddress for (IpAddr, u16) {
    fn into_place(self) -> Result<Place, Error> {
        Ok(Place::Address(Address::from_socket(self.into())))
    }
}

impl IntoAddress for (&str, u16) {
    fn into_place(self) -> Result<Place, Error> {
        let (host, port) = self;
        let is_ipv6 = host.contains(':') && !host.starts_with('[') && !host.contains('@');
        let text = if is_ipv6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Ok(Place::Address(text.parse()?))
    }
}

impl IntoAddress for NodeId {
    fn into_place(self) -> Result<Place, Error> {
        Ok(Place::Text(self.to_string()))
    }
}

impl IntoAddress for &str {
    fn into_place(self) -> Result<Place, Error> {
        Ok(Place::Text(self.to_owned()))
    }
}

impl IntoAddress for &String {
    fn into_place(self) -> Result<Place, Error> {
        Ok(Place::Text(self.clone()))
    }
}

impl IntoAddress for String {
    fn into_place(self) -> Result<Place, Error> {
        Ok(Place::Text(self))
    }
}

/// A value that names places to join through: a single place, as for [`IntoAddress`], or a list of addresses.
pub trait IntoPlaces {
    /// Returns the places.
    ///
    /// # Errors
    /// If one of them is not a valid place.
    fn into_places(self) -> Result<Vec<Place>, Error>;
}

impl<P: IntoAddress> IntoPlaces for P {
    fn into_places(self) -> Result<Vec<Place>, Error> {
        Ok(vec![self.into_place()?])
    }
}

impl IntoPlaces for &[Address] {
    fn into_places(self) -> Result<Vec<Place>, Error> {
        self.iter().map(IntoAddress::into_place).collect()
    }
}

impl<const N: usize> IntoPlaces for &[Address; N] {
    fn into_places(self) -> Result<Vec<Place>, Error> {
        self.as_slice().into_places()
    }
}

impl IntoPlaces for &Vec<Address> {
    fn into_places(self) -> Result<Vec<Place>, Error> {
        self.as_slice().into_places()
    }
}

/// The place that a text stands for.
enum NamedPlace {
    Address(Address),
    Node(NodeId),
}

/// There is no link with a node in the end, although the node was asked for one.
struct NotMet;

impl NetworkHandle<'_> {
    /// Finds a connected peer by its name, its identity, or the first digits of its identity.
    ///
    /// # Errors
    /// [`Error::UnknownPeer`] and [`Error::AmbiguousPeer`].
    pub fn find_peer(self, text: &str) -> Result<Peer, Error> {
        find_by_text(&self.node.peers(), text)
    }

    /// Finds the node that a text names, for example to send messages to it. Connected and known peers are
    /// found by their name, their identity, or the first digits of their identity. Any other node is found by
    /// its whole identity.
    ///
    /// # Errors
    /// [`Error::UnknownNode`], [`Error::AmbiguousPeer`], [`Error::ThisNode`], and a store error if the
    /// state can't be read.
    pub async fn find_node(self, text: &str) -> Result<Peer, Error> {
        match self.find_peer(text) {
            Err(Error::UnknownPeer(_)) => {}
            found => return found,
        }
        let known = self.node.inner.peers.all().await?.into_iter();
        let known: Vec<_> = known.map(|(id, known)| Peer::without_link(id, known.name)).collect();
        match (find_by_text(&known, text), text.parse::<NodeId>()) {
            (Err(Error::UnknownPeer(_)), Ok(id)) if id == self.node.id() => Err(Error::ThisNode),
            (Err(Error::UnknownPeer(_)), Err(_)) if text == self.node.name() => {
                Err(Error::ThisNode)
            }
            (Err(Error::UnknownPeer(_)), Ok(id)) => {
                Ok(Peer::without_link(id.checked()?, String::new()))
            }
            (Err(Error::UnknownPeer(text)), Err(_)) => Err(Error::UnknownNode(text)),
            (found, _) => found,
        }
    }

    /// Returns the addresses of the node that a text names. The first of these rules that fits decides:
    ///
    /// 1. A text with a `:`, `@`, `/` or `[` in it is an address. The text `lan` is reserved.
    /// 2. The name of a connected or known peer means that peer.
    /// 3. 64 hex digits are an identity. At least four digits mean the peer whose identity begins with them.
    /// 4. Any other text is a host, with the port [`DEFAULT_PORT`](crate::DEFAULT_PORT).
    ///
    /// If this node knows no address of the named node, it queries the network.
    ///
    /// # Errors
    /// If no rule fits, several peers match the text, or no node that answers knows the identity.
    pub async fn find_addresses(self, text: &str) -> Result<Vec<Address>, Error> {
        match self.node.resolve_text(text).await? {
            NamedPlace::Address(address) => Ok(vec![address]),
            NamedPlace::Node(id) => match &self.node.addresses_of(id).await[..] {
                [] => self.node.query_addresses(id).await,
                known => Ok(known.to_vec()),
            },
        }
    }

    /// Returns the addresses at which this node met the node that a text names. The text is read as
    /// [`find_addresses`](Self::find_addresses) reads it, but the network is not queried. The list is empty
    /// if this node has not met the named node.
    ///
    /// # Errors
    /// If no rule fits, or several peers match the text.
    pub async fn known_addresses(self, text: &str) -> Result<Vec<Address>, Error> {
        match self.node.resolve_text(text).await? {
            NamedPlace::Address(address) => Ok(vec![address]),
            NamedPlace::Node(id) => Ok(self.node.addresses_of(id).await),
        }
    }
}

impl Node {
    /// Connects to the node at a place.
    pub(super) async fn dial(&self, place: Place, options: ConnectOptions) -> Result<Peer, Error> {
        let named = match place {
            Place::Address(address) => NamedPlace::Address(address),
            Place::Text(text) => self.resolve_text(&text).await?,
        };
        let id = match named {
            NamedPlace::Address(address) => return self.dial_first(vec![address], options).await,
            NamedPlace::Node(id) => id,
        };
        let known = self.addresses_of(id).await;
        // A peer that has connected to this node may have no address at which it can be dialled. Its link is
        // enough.
        if let (Some(peer), []) = (self.peer(id), &known[..]) {
            return Ok(peer);
        }
        let dialling = self.dial_node(id, known, options);
        // A packet to an address behind a NAT may get no answer.
        let met = with_second_way(dialling, self.meet(id), DIAL_PATIENCE).await;
        met.map_err(|(failure, NotMet)| failure)
    }

    /// Meets a node that may not be dialled: see [`peerkit_proto::peer::meetings`].
    async fn meet(&self, id: NodeId) -> Result<Peer, NotMet> {
        if self.inner.profile.manual || id == self.id() {
            return Err(NotMet);
        }
        let what = QueryKind::CallBack { target: id, token: LINK_ONLY, addresses: Vec::new() };
        let timeout = self.inner.config.connect_timeout;
        let query = self.inner.send_query(what, -1, Some(timeout)).await.map_err(|_| NotMet)?;
        let linked = |links: &[Arc<Conn>]| links.iter().any(|conn| conn.peer.id() == id);
        let met = async {
            tokio::select! {
                biased;
                () = self.inner.links.wait_until(linked) => true,
                () = refusal(Some(query), id, None) => false,
            }
        };
        if !tokio::time::timeout(timeout, met).await.unwrap_or(false) {
            return Err(NotMet);
        }
        // The application wants this link, so it is not closed when it is idle.
        self.inner.actor.input(Input::Want { id }).await;
        self.peer(id).ok_or(NotMet)
    }

    /// Dials a node at its known addresses, and then at those that other nodes know.
    async fn dial_node(
        &self,
        id: NodeId,
        known: Vec<Address>,
        options: ConnectOptions,
    ) -> Result<Peer, Error> {
        let failure = match self.dial_first(known.clone(), options).await {
            Err(error) if !matches!(error, Error::Stopped) => error,
            done => return done,
        };
        // The node may have new addresses, which other nodes know.
        let mut found = match self.query_addresses(id).await {
            Ok(found) => found,
            Err(error) => return Err(if known.is_empty() { error } else { failure }),
        };
        // Addresses that have just failed are not dialled again.
        found.retain(|address| !known.contains(address));
        if found.is_empty() { Err(failure) } else { self.dial_first(found, options).await }
    }

    /// Dials the addresses of one node, the best first, until one of them answers.
    async fn dial_first(
        &self,
        addresses: Vec<Address>,
        options: ConnectOptions,
    ) -> Result<Peer, Error> {
        if addresses.is_empty() {
            return Err(Error::NoAddress);
        }
        let addresses = addresses.into_iter().take(MAX_ADDRESSES).collect();
        let (keep, purpose) = (options.reconnect, Purpose::Application);
        let dial = move |operation| Input::Dial { operation, addresses, keep, purpose };
        let operation = |reply| Operation::Dial { reply, joined: None };
        self.inner.actor.outcome(operation, dial).await?
    }

    /// Finds the place that a text names, by the rules of [`NetworkHandle::find_addresses`].
    async fn resolve_text(&self, text: &str) -> Result<NamedPlace, Error> {
        let text = text.trim();
        // A text with one of these characters is an address, even if a node has it as its name.
        let is_address = text.contains([':', '@', '/', '[']) || text.eq_ignore_ascii_case("lan");
        if !is_address && !text.is_empty() {
            let is_short =
                text.len() < MIN_ID_PREFIX && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            match self.network().find_node(text).await {
                Ok(peer) if peer.name() == text || !is_short => {
                    return Ok(NamedPlace::Node(peer.id()));
                }
                Err(error @ Error::AmbiguousPeer(_)) if !is_short => return Err(error),
                // A node often has the name of its host, and another node may listen on that host. So this
                // node's own name is read as a host.
                Err(error @ Error::ThisNode) if text != self.name() => return Err(error),
                Ok(_)
                | Err(
                    Error::UnknownPeer(_)
                    | Error::UnknownNode(_)
                    | Error::AmbiguousPeer(_)
                    | Error::ThisNode,
                ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(NamedPlace::Address(text.parse()?))
    }

    /// Returns the addresses at which the node with this identity was met.
    async fn addresses_of(&self, id: NodeId) -> Vec<Address> {
        let known = self.inner.peers.addresses(id).await.into_iter();
        known.map(|address| address.with_id(id)).collect()
    }

    /// Queries the network for the addresses of a node.
    async fn query_addresses(&self, id: NodeId) -> Result<Vec<Address>, Error> {
        if id == self.inner.profile.id {
            return Err(Error::ThisNode);
        }
        id.checked()?;
        let mut query = self.inner.send_query(QueryKind::FindNode(id), -1, None).await?;
        while let Some(answer) = query.answers.recv().await {
            if answer.node == id && answer.body == AnswerBody::Here {
                let addresses = answer.addresses.into_iter();
                let addresses: Vec<_> = addresses.map(|address| address.with_id(id)).collect();
                return if addresses.is_empty() { Err(Error::NoAddress) } else { Ok(addresses) };
            }
        }
        Err(Error::NotFound(id))
    }
}

/// Returns the peer that a text names: by its name, or by the first digits of its identity.
fn find_by_text(peers: &[Peer], text: &str) -> Result<Peer, Error> {
    let one = |fits: &dyn Fn(&Peer) -> bool| {
        let mut fitting = peers.iter().filter(|peer| fits(peer));
        match (fitting.next(), fitting.next()) {
            (Some(peer), None) => Ok(peer.clone()),
            (None, _) => Err(Error::UnknownPeer(text.to_owned())),
            (Some(_), Some(_)) => Err(Error::AmbiguousPeer(text.to_owned())),
        }
    };
    // Pasted digits may be in brackets or quotes, as the program prints them.
    let digits = text.trim_matches(|c: char| !c.is_alphanumeric()).to_ascii_lowercase();
    // Names come first: a node may be called `cafe`, which identities may also begin with.
    match one(&|peer| peer.name() == text) {
        Err(Error::UnknownPeer(_)) if !digits.is_empty() => {
            one(&|peer| peer.id().to_string().starts_with(&digits))
        }
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_of_host_and_port_is_an_address() {
        let place = |host: &str, port| match (host, port).into_place() {
            Ok(Place::Address(address)) => address.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(place("127.0.0.1", 1), "127.0.0.1:1");
        assert_eq!(place("::1", 2), "[::1]:2");
        assert_eq!(place("[::1]", 2), "[::1]:2");
        assert!(("a b", 1).into_place().is_err());
    }
}
