//! The first messages on a connection: Hello on a link, and the opening of a stream.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::address::{Address, MAX_ADDRESS, ParseAddressError};
use crate::codec::{DecodeError, Reader, Writer};
use crate::event::Reason;
use crate::id::NodeId;
use crate::invitation::{MAX_PROOF, MembershipProof};
use crate::versions::{Agreement, VersionGap, Versions};

/// The ALPN protocol name of a link.
pub const ALPN_LINK: &[u8] = b"peerkit/1";

/// The ALPN protocol name of a stream. Links and streams use the same port.
pub const ALPN_STREAM: &[u8] = b"peerkit-stream/1";

/// The ALPN protocol name of a QUIC connection whose first stream is a link.
pub const ALPN_QUIC_LINK: &[u8] = b"peerkit-quic/1";

/// The ALPN protocol name of a QUIC connection that was made for a stream, and has no link.
pub const ALPN_QUIC_STREAM: &[u8] = b"peerkit-quic-stream/1";

/// The bit of Hello's features that says that the sender also accepts QUIC, at the UDP port with the number of each
/// TCP port that it announces.
pub const FEATURE_UDP: u64 = 1 << 6;

/// The bit of Hello's features that says that the sender relays connections between other nodes.
pub const FEATURE_RELAY: u64 = 1 << 7;

/// The label for the exporter of a TLS session (RFC 8446, section 7.5). The exported bytes bind a
/// proof to the session.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-peerkit-hello";

/// Maximum length in bytes of the name of a network, and of the name of a node.
pub const MAX_NAME: usize = 64;

/// Maximum length in bytes of the name of a stream's protocol, and of the name of a request.
pub const MAX_PROTOCOL: usize = 64;

/// Maximum number of addresses in a Hello, and in other lists of a node's own addresses.
pub const MAX_ADDRESSES: usize = 32;

const MAX_EXTENSIONS: usize = 32;
const MAX_EXTENSION: usize = 1024;

/// The key of the extension whose value is the identity of the network's owner.
const OWNER: u16 = 1;

/// The key of the extension whose value is the sender's clock: a `u64`, in milliseconds since 1970.
const TIME: u16 = 2;

/// The key of the extension whose value is the sender's proof of membership.
const MEMBERSHIP: u16 = 3;

/// The proof that a node knows the network's secret.
pub type Proof = [u8; 32];

/// The first frame of each side on a link.
///
/// The side that dialled sends its Hello first. The other side answers with its own Hello, or
/// refuses the link with a goodbye.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The lowest protocol version that the sender speaks.
    pub version_min: u16,
    /// The highest protocol version that the sender speaks.
    pub version_max: u16,
    /// The network that the sender belongs to.
    pub network: String,
    /// The name that the sender gives itself.
    pub name: String,
    /// A random number that the sender draws when it starts. Another number shows that the node has
    /// restarted.
    pub incarnation: u64,
    /// The optional features of the sender, one bit each: the [compressions](crate::message::Compressions) that
    /// it accepts, [`FEATURE_UDP`] and [`FEATURE_RELAY`]. Unknown bits are ignored.
    pub features: u64,
    /// The addresses at which the sender listens, as far as it knows, best first.
    pub addresses: Vec<Address>,
    /// The proof that the sender knows the network's secret, if the network has one: see [`prove`].
    pub proof: Option<Proof>,
    /// The network's owner, if the sender knows one.
    pub owner: Option<NodeId>,
    /// The time of the sender's wall clock, in milliseconds since 1970. Nodes of version 1 do not
    /// send it.
    pub time: Option<u64>,
    /// The proof that the sender is a member, if the network takes invited nodes only.
    pub membership: Option<Box<MembershipProof>>,
}

impl Hello {
    /// Appends the frame's body to `out`. Names over their limits are cut off.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(self.version_min);
        out.put_u16(self.version_max);
        put_name(out, &self.network);
        put_name(out, &self.name);
        out.put_u64(self.incarnation);
        out.put_u64(self.features);
        put_addresses(out, &self.addresses);
        out.put_option(self.proof.as_ref());
        let extensions = [self.owner.is_some(), self.time.is_some(), self.membership.is_some()];
        out.put_u16(extensions.into_iter().map(u16::from).sum());
        if let Some(owner) = &self.owner {
            out.put_u16(OWNER);
            out.put_bytes(owner.as_bytes());
        }
        if let Some(time) = self.time {
            out.put_u16(TIME);
            out.put_bytes(&time.to_le_bytes());
        }
        if let Some(proof) = &self.membership {
            out.put_u16(MEMBERSHIP);
            put_proof(out, proof);
        }
    }

    /// Reads a frame's body. Unknown extensions, addresses of unknown schemes, and bytes after the
    /// last field are skipped.
    ///
    /// # Errors
    /// [`DecodeError`] if a field is missing, too long or invalid.
    pub fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut hello = Self {
            version_min: reader.u16("lowest version")?,
            version_max: reader.u16("highest version")?,
            network: reader.str(MAX_NAME, "network name")?,
            name: reader.str(MAX_NAME, "node name")?,
            incarnation: reader.u64("incarnation")?,
            features: reader.u64("features")?,
            addresses: read_addresses(&mut reader, MAX_ADDRESSES)?,
            proof: reader.option("proof flag", "proof")?,
            owner: None,
            time: None,
            membership: None,
        };
        reader.list(MAX_EXTENSIONS, "extensions", |reader| {
            let key = reader.u16("extension key")?;
            let value = reader.bytes(MAX_EXTENSION, "extension")?;
            // Extensions with other keys belong to later versions, and are skipped.
            if key == OWNER {
                let owner = value[..].try_into().map_err(|_| DecodeError::Invalid("owner"))?;
                hello.owner = Some(NodeId::from_bytes(owner));
            }
            if key == TIME {
                let time = value[..].try_into().map_err(|_| DecodeError::Invalid("time"))?;
                hello.time = Some(u64::from_le_bytes(time));
            }
            if key == MEMBERSHIP {
                hello.membership = Some(Box::new(read_proof(value)?));
            }
            Ok(())
        })?;
        Ok(hello)
    }

    /// Returns the versions of the wire that the sender speaks.
    #[must_use]
    pub fn versions(&self) -> Versions {
        Versions { min: self.version_min, max: self.version_max }
    }

    /// Returns the version and the features for a link between the sender of this Hello and this
    /// node, whose own Hello is `ours`.
    ///
    /// # Errors
    /// [`Reason::Version`] if there is no version that both nodes speak.
    pub fn agree(&self, ours: &Self) -> Result<Agreement, Reason> {
        let gap = VersionGap { refusing: ours.versions(), refused: self.versions() };
        let common = gap.refusing.highest_common(gap.refused);
        let version = common.ok_or(Reason::Version(Some(gap)))?;
        Ok(Agreement { version, features: self.features & ours.features })
    }

    /// Checks that the sender belongs to `network`, and that its proof equals `expected`.
    ///
    /// # Errors
    /// The reason for refusing the sender.
    pub fn check(&self, network: &str, expected: Option<&Proof>) -> Result<(), Reason> {
        check_network(&self.network, self.proof.as_ref(), network, expected)
    }

    /// Returns an address at which this node can dial the sender, or `None` if the sender does not
    /// listen. `seen` is the sender's address on the connection.
    ///
    /// This is the first address in the Hello with the IP address of `seen`. If there is none, it
    /// is the IP address of `seen` with the port of the first address in the Hello.
    #[must_use]
    pub fn dial_address(&self, seen: SocketAddr) -> Option<Address> {
        // An IPv4 address may come in its IPv6-mapped form.
        let ip = seen.ip().to_canonical();
        let has_ip = |socket: SocketAddr| socket.ip().to_canonical() == ip;
        let first = self.addresses.first()?;
        let best = self.addresses.iter().find(|a| a.socket().is_some_and(has_ip)).cloned();
        Some(best.unwrap_or_else(|| Address::from_socket(SocketAddr::new(ip, first.port))))
    }
}

/// The first message on a stream, from the side that opens it. Its length comes before it, in four
/// bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamOpen {
    /// The network that the sender belongs to.
    pub network: String,
    /// The proof that the sender knows the network's secret, if the network has one.
    pub proof: Option<Proof>,
    /// The protocol to speak on the stream.
    pub protocol: String,
    /// The token of a call-back, if the receiver has requested this stream by a call-back.
    pub token: Option<[u8; 16]>,
    /// The proof that the sender is a member, if the network takes invited nodes only. Nodes of version 1
    /// refuse a message with this field, and are no members of such networks.
    pub membership: Option<Box<MembershipProof>>,
}

impl StreamOpen {
    /// Maximum length of an encoded message in bytes. It is checked before memory is reserved.
    pub const MAX_LEN: usize = 256 + MAX_PROOF;

    /// Appends the length of the message and the message to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        put_name(&mut body, &self.network);
        body.put_option(self.proof.as_ref());
        put_name(&mut body, &self.protocol);
        body.put_option(self.token.as_ref());
        if let Some(proof) = &self.membership {
            put_proof(&mut body, proof);
        }
        out.put_bytes(&body);
    }

    /// Reads a message without its length. The message has no version number: a change to its
    /// fields would need another [`ALPN_STREAM`].
    ///
    /// # Errors
    /// [`DecodeError`] if a field is missing, too long or invalid, or if bytes follow the last
    /// field.
    pub fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut open = Self {
            network: reader.str(MAX_NAME, "network name")?,
            proof: reader.option("proof flag", "proof")?,
            protocol: reader.str(MAX_PROTOCOL, "stream protocol")?,
            token: reader.option("token flag", "token")?,
            membership: None,
        };
        if reader.remaining() > 0 {
            let proof = reader.bytes(MAX_PROOF, "membership")?;
            open.membership = Some(Box::new(read_proof(proof)?));
        }
        reader.finish()?;
        Ok(open)
    }

    /// Checks that the sender belongs to `network`, and that its proof equals `expected`.
    ///
    /// # Errors
    /// The reason for refusing the stream.
    pub fn check(&self, network: &str, expected: Option<&Proof>) -> Result<(), Reason> {
        check_network(&self.network, self.proof.as_ref(), network, expected)
    }
}

/// Returns the proof that `sender` knows `secret`. `binding` has the bytes from the exporter of the
/// TLS session. They bind the proof to that session.
///
/// The proof is a BLAKE3 hash over the binding and the sender's identity, with a key derived from
/// the secret. So a proof is not valid in another session or from another node. A node that a
/// member has dialled gets the member's proof, and can use it to guess a weak secret. So use a long
/// random secret.
#[must_use]
pub fn prove(secret: &[u8], binding: &[u8; 32], sender: NodeId) -> Proof {
    let key = blake3::derive_key("peerkit 2026-11 network secret", secret);
    let mut hasher = blake3::Hasher::new_keyed(&key);
    // Both ends of a session have the same binding. Without the identity in the proof, an acceptor
    // that does not know the secret could return the proof of the dialler as its own.
    hasher.update(binding);
    hasher.update(sender.as_bytes());
    *hasher.finalize().as_bytes()
}

fn check_network(
    theirs: &str,
    proof: Option<&Proof>,
    network: &str,
    expected: Option<&Proof>,
) -> Result<(), Reason> {
    // The name is checked first. Two networks mostly have different secrets, and a wrong secret
    // would then be a misleading reason.
    if theirs != network {
        return Err(Reason::OtherNetwork);
    }
    // `blake3::Hash` is compared in constant time, so that the duration reveals nothing about the
    // proof.
    let hash = |proof: &Proof| blake3::Hash::from_bytes(*proof);
    // An unexpected proof is refused too: its sender's network has a secret, so the sender would
    // refuse this node.
    if proof.map(hash) != expected.map(hash) {
        return Err(Reason::WrongSecret);
    }
    Ok(())
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    out.put_str(&name[..name.floor_char_boundary(MAX_NAME)]);
}

pub(crate) fn put_address(out: &mut Vec<u8>, address: &Address) {
    out.put_str(&address.to_string());
}

pub(crate) fn put_addresses(out: &mut Vec<u8>, addresses: &[Address]) {
    out.put_list(&addresses[..addresses.len().min(MAX_ADDRESSES)], put_address);
}

fn put_proof(out: &mut Vec<u8>, proof: &MembershipProof) {
    let mut encoded = Vec::new();
    proof.encode(&mut encoded);
    out.put_bytes(&encoded);
}

fn read_proof(bytes: Bytes) -> Result<MembershipProof, DecodeError> {
    let mut reader = Reader::new(bytes);
    let proof = MembershipProof::decode(&mut reader)?;
    reader.finish()?;
    Ok(proof)
}

/// Reads an address. The inner result is an error with the text if the scheme is unknown.
pub(crate) fn read_address(reader: &mut Reader) -> Result<Result<Address, String>, DecodeError> {
    let text = reader.str(MAX_ADDRESS, "address")?;
    match Address::from_wire(&text) {
        Ok(address) => Ok(Ok(address)),
        // An address with the scheme of a later version is valid there. Any other text is a fault
        // of the sender.
        Err(ParseAddressError::Scheme(_)) => Ok(Err(text)),
        Err(_) => Err(DecodeError::Invalid("address")),
    }
}

/// Reads a list of addresses. Those with unknown schemes are left out, but count against the limit.
pub(crate) fn read_addresses(
    reader: &mut Reader,
    limit: usize,
) -> Result<Vec<Address>, DecodeError> {
    let read = reader.list(limit, "addresses", read_address)?;
    Ok(read.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Key;
    use crate::invitation::tests::invite;
    use proptest::prelude::*;

    pub(crate) fn hello() -> Hello {
        Hello {
            version_min: 1,
            version_max: 1,
            network: "peerkit".into(),
            name: "ann".into(),
            incarnation: 7,
            features: 0,
            addresses: vec!["127.0.0.1:7117".parse().unwrap(), "[::1]:7117".parse().unwrap()],
            proof: Some([9; 32]),
            owner: None,
            time: None,
            membership: None,
        }
    }

    fn encoded(hello: &Hello) -> Bytes {
        let mut out = Vec::new();
        hello.encode(&mut out);
        out.into()
    }

    #[test]
    fn encoded_messages_are_read_back() {
        assert_eq!(Hello::decode(encoded(&hello())).unwrap(), hello());
        let owned = Hello { owner: Some(Key::from_secret(&[1; 32]).id()), ..hello() };
        assert_eq!(Hello::decode(encoded(&owned)).unwrap(), owned);
        let timed = Hello { time: Some(1_700_000_000_000), ..hello() };
        assert_eq!(Hello::decode(encoded(&timed)).unwrap(), timed);
        let both = Hello { time: Some(u64::MAX), ..owned };
        assert_eq!(Hello::decode(encoded(&both)).unwrap(), both);
        let open = StreamOpen {
            network: "n".into(),
            proof: None,
            protocol: "files".into(),
            token: Some([3; 16]),
            membership: None,
        };
        let proof = invite(100, 1).accept(&Key::from_secret(&[2; 32]));
        let invited = StreamOpen { membership: Some(Box::new(proof.clone())), ..open.clone() };
        let mut out = Vec::new();
        invited.encode(&mut out);
        assert!(out.len() <= StreamOpen::MAX_LEN);
        assert_eq!(StreamOpen::decode(Bytes::from(out).slice(4..)).unwrap(), invited);
        let invited = Hello { membership: Some(Box::new(proof)), ..both };
        assert_eq!(Hello::decode(encoded(&invited)).unwrap(), invited);
        let mut out = Vec::new();
        open.encode(&mut out);
        assert!(out.len() <= StreamOpen::MAX_LEN);
        assert_eq!(StreamOpen::decode(Bytes::from(out).slice(4..)).unwrap(), open);
    }

    #[test]
    fn extensions_of_later_versions_are_skipped() {
        let mut bytes = encoded(&hello()).to_vec();
        bytes.truncate(bytes.len() - 2);
        bytes.put_u16(1);
        bytes.put_u16(77);
        bytes.put_bytes(b"new");
        assert_eq!(Hello::decode(bytes.into()).unwrap(), hello());
    }

    #[test]
    fn bytes_after_the_last_field_and_addresses_of_unknown_schemes_are_skipped() {
        let mut bytes = encoded(&hello()).to_vec();
        bytes.extend_from_slice(b"a field of a later version");
        assert_eq!(Hello::decode(bytes.into()).unwrap(), hello());

        let texts = ["later://127.0.0.1:7117", "127.0.0.1:7117", "x://\u{0}", "[::1]:7117"];
        let mut list = Vec::new();
        list.put_list(&texts, |out, text| out.put_str(text));
        let read = read_addresses(&mut Reader::new(list.clone().into()), MAX_ADDRESSES);
        assert_eq!(read, Ok(hello().addresses));
        // Addresses of unknown schemes count against the limit. A text that is not an address is an
        // error.
        assert!(read_addresses(&mut Reader::new(list.into()), 3).is_err());
        let mut bad = Vec::new();
        bad.put_list(&["127.0.0.1"], |out, text| out.put_str(text));
        let read = read_addresses(&mut Reader::new(bad.into()), MAX_ADDRESSES);
        assert_eq!(read, Err(DecodeError::Invalid("address")));
    }

    #[test]
    fn a_hello_that_is_cut_off_is_an_error() {
        let bytes = encoded(&hello());
        for len in 0..bytes.len() {
            assert!(Hello::decode(bytes.slice(..len)).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn another_network_and_another_secret_are_refused() {
        let mut plain = hello();
        plain.proof = None;
        assert_eq!(plain.check("peerkit", None), Ok(()));
        assert_eq!(plain.check("other", None), Err(Reason::OtherNetwork));
        assert_eq!(plain.check("peerkit", Some(&[9; 32])), Err(Reason::WrongSecret));
        assert_eq!(hello().check("peerkit", Some(&[9; 32])), Ok(()));
        assert_eq!(hello().check("peerkit", Some(&[8; 32])), Err(Reason::WrongSecret));
        // A node with a secret would refuse this node. If this node refuses first, no link comes up
        // and ends again.
        assert_eq!(hello().check("peerkit", None), Err(Reason::WrongSecret));
    }

    #[test]
    fn a_link_uses_the_highest_common_version_and_the_common_features() {
        let speaks =
            |min, max, features| Hello { version_min: min, version_max: max, features, ..hello() };
        let new = speaks(1, 2, 0b0110);
        for (peer, agreed) in [
            // The peer speaks only the version before, the same versions, and a newer version.
            (speaks(1, 1, 0), Agreement { version: 1, features: 0 }),
            (speaks(1, 2, 0b0011), Agreement { version: 2, features: 0b0010 }),
            (speaks(2, 3, u64::MAX), Agreement { version: 2, features: 0b0110 }),
        ] {
            assert_eq!(peer.agree(&new), Ok(agreed));
            assert_eq!(new.agree(&peer), Ok(agreed), "the other end agrees");
        }
        // The peer has no common version, or an empty range.
        for peer in [speaks(3, 9, 0), speaks(0, 0, 0), speaks(2, 1, 0)] {
            let Err(Reason::Version(Some(gap))) = peer.agree(&new) else { panic!("{peer:?}") };
            assert_eq!((gap.refusing, gap.refused), (new.versions(), peer.versions()));
        }
        let reason = speaks(3, 9, 0).agree(&new).unwrap_err().to_string();
        assert!(reason.contains("1-2") && reason.contains("3-9"), "{reason}");
    }

    #[test]
    fn a_proof_is_valid_for_one_session_and_one_sender() {
        let (ann, bob) = (Key::from_secret(&[1; 32]).id(), Key::from_secret(&[2; 32]).id());
        let proof = prove(b"secret", &[1; 32], ann);
        assert_eq!(proof, prove(b"secret", &[1; 32], ann));
        assert_ne!(proof, prove(b"secret", &[2; 32], ann));
        assert_ne!(proof, prove(b"secret", &[1; 32], bob));
        assert_ne!(proof, prove(b"Secret", &[1; 32], ann));
    }

    #[test]
    fn a_listening_node_is_dialled_at_the_ip_address_of_its_connection() {
        let seen = |text: &str| hello().dial_address(text.parse().unwrap()).map(|a| a.to_string());
        assert_eq!(seen("127.0.0.1:50000").unwrap(), "127.0.0.1:7117");
        assert_eq!(seen("192.0.2.1:50000").unwrap(), "192.0.2.1:7117");
        assert_eq!(seen("[::ffff:192.0.2.1]:50000").unwrap(), "192.0.2.1:7117");
        let not_listening = Hello { addresses: vec![], ..hello() };
        assert_eq!(not_listening.dial_address("192.0.2.1:1".parse().unwrap()), None);
    }

    proptest! {
        #[test]
        fn additions_of_later_versions_are_ignored(
            extensions in prop::collection::vec((4_u16.., prop::collection::vec(any::<u8>(), 0..40)), 0..20),
            schemes in prop::collection::vec("[a-su-z]{1,9}://.{0,40}", 0..20),
            features: u64,
            later in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let known = Hello { features, ..hello() };
            let mut bytes = Vec::new();
            bytes.put_u16(known.version_min);
            bytes.put_u16(known.version_max);
            bytes.put_str(&known.network);
            bytes.put_str(&known.name);
            bytes.put_u64(known.incarnation);
            bytes.put_u64(features);
            let texts = known.addresses.iter().map(ToString::to_string).chain(schemes);
            bytes.put_list(&texts.collect::<Vec<_>>(), |out, text| out.put_str(text));
            bytes.put_option(known.proof.as_ref());
            bytes.put_list(&extensions, |out, (key, value)| {
                out.put_u16(*key);
                out.put_bytes(value);
            });
            bytes.put_raw(&later);
            let read = Hello::decode(bytes.into()).unwrap();
            prop_assert_eq!(read.agree(&hello()), Ok(Agreement { version: 1, features: 0 }));
            prop_assert_eq!(read, known);
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in any::<Vec<u8>>()) {
            let _ = Hello::decode(bytes.clone().into());
            let _ = StreamOpen::decode(bytes.into());
        }

        #[test]
        fn one_changed_byte_never_panics(at in 0usize..200, byte in any::<u8>()) {
            let mut bytes = encoded(&hello()).to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(read) = Hello::decode(bytes.into()) {
                prop_assert_eq!(Hello::decode(encoded(&read)).unwrap(), read);
            }
        }
    }
}
