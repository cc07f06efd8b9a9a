//! TLS 1.3 with raw public keys (RFC 7250): the TLS key is the node's key, on both sides.
//!
//! There are no certificates and no authorities. A peer that completes the handshake has proven the key
//! that is its identity. The node decides afterwards whether it accepts that peer.

use std::io;
use std::sync::{Arc, OnceLock};

use peerkit_proto::hello::{
    ALPN_LINK, ALPN_QUIC_LINK, ALPN_QUIC_STREAM, ALPN_STREAM, EXPORTER_LABEL,
};
use peerkit_proto::id::{Key, NodeId};
use peerkit_proto::tls::RecordError;
use quinn::TransportErrorCode;
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    AlertDescription, ClientConfig, ConnectionCommon, DigitallySignedStruct, DistinguishedName,
    OtherError, ServerConfig, SignatureScheme,
};

use crate::error::TlsFailure;

#[cfg(not(feature = "reference-tls"))]
mod records;
#[cfg(feature = "reference-tls")]
mod reference;

pub(crate) use channels::{ExpectedBytes, TlsChannel, Transport};
#[cfg(not(feature = "reference-tls"))]
use records as channels;
#[cfg(feature = "reference-tls")]
use reference as channels;

/// The purpose of a connection, agreed on in the handshake (ALPN).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChannelPurpose {
    /// Frames between two nodes.
    Link,
    /// The bytes of one stream.
    Stream,
}

/// The TLS configurations with which this node dials and accepts.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    server: ServerConfig,
    link: ClientConfig,
    stream: ClientConfig,
    provider: Arc<CryptoProvider>,
}

impl Tls {
    /// Creates the configurations for a node with this key.
    pub(crate) fn new(key: &Key) -> Result<Self, rustls::Error> {
        let provider = Arc::new(provider());
        let verifier = Arc::new(KeyVerifier::new(provider.clone(), None));
        let pair = Arc::new(certified(key)?);

        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(pair.clone())));
        server.alpn_protocols = vec![ALPN_LINK.to_vec(), ALPN_STREAM.to_vec()];
        // Sessions are long and never resumed, so tickets would only cost both ends. A ticket would
        // also use the first record number, with which our own record layer begins.
        server.send_tls13_tickets = 0;

        let client = |alpn: &[u8]| -> Result<_, rustls::Error> {
            let mut client = ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[&TLS13])?
                .dangerous()
                .with_custom_certificate_verifier(verifier.clone())
                .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                    pair.clone(),
                )));
            client.alpn_protocols = vec![alpn.to_vec()];
            client.resumption = rustls::client::Resumption::disabled();
            // A node's key identifies it, so no server name is sent: see `server_name`.
            client.enable_sni = false;
            Ok(client)
        };
        Ok(Self { server, link: client(ALPN_LINK)?, stream: client(ALPN_STREAM)?, provider })
    }

    /// Secures a connection that this node has accepted.
    ///
    /// # Errors
    /// The error of TLS or of the connection, or `NotANode`.
    pub(crate) async fn accept<T: Transport>(&self, transport: T) -> io::Result<TlsChannel<T>> {
        channels::accept(self.server.clone(), transport).await
    }

    /// Secures a connection that this node has dialled. If another node than `expected` answers, the
    /// handshake ends before this node's key is sent.
    ///
    /// # Errors
    /// [`TlsDialError::WrongNode`], or the error of TLS or of the connection.
    pub(crate) async fn dial<T: Transport>(
        &self,
        transport: T,
        purpose: ChannelPurpose,
        expected: Option<NodeId>,
    ) -> Result<TlsChannel<T>, TlsDialError> {
        let (config, found) = self.client(purpose, expected);
        channels::dial(config, transport).await.map_err(|error| match found.get() {
            Some(found) => TlsDialError::WrongNode(*found),
            None => TlsDialError::Io(error),
        })
    }

    /// Returns the configuration with which QUIC connections are accepted.
    pub(crate) fn quic_server(&self) -> ServerConfig {
        let mut config = self.server.clone();
        config.alpn_protocols = vec![ALPN_QUIC_LINK.to_vec(), ALPN_QUIC_STREAM.to_vec()];
        config
    }

    /// Returns the configuration for one QUIC dial. If another node than `expected` answers, the handshake fails, and
    /// the returned cell names the node.
    pub(crate) fn quic_client(
        &self,
        purpose: ChannelPurpose,
        expected: Option<NodeId>,
    ) -> (ClientConfig, FoundNode) {
        let (mut config, found) = self.client(purpose, expected);
        let alpn = match purpose {
            ChannelPurpose::Link => ALPN_QUIC_LINK,
            ChannelPurpose::Stream => ALPN_QUIC_STREAM,
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        (config, found)
    }

    fn client(
        &self,
        purpose: ChannelPurpose,
        expected: Option<NodeId>,
    ) -> (ClientConfig, FoundNode) {
        let mut config = match purpose {
            ChannelPurpose::Link => self.link.clone(),
            ChannelPurpose::Stream => self.stream.clone(),
        };
        // The check is part of the handshake, so our key is sent only after the check has passed.
        let verifier = KeyVerifier::new(self.provider.clone(), expected);
        let found = verifier.found.clone();
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        (config, found)
    }
}

/// The node that answered in place of the expected one, once it has proven its key.
pub(crate) type FoundNode = Arc<OnceLock<WrongNode>>;

/// The reason why a dialled connection was not secured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsDialError {
    /// Another node than the expected one has proved its key. This node has not sent that node its own key.
    #[error(transparent)]
    WrongNode(#[from] WrongNode),
    /// The connection or TLS failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Returns whether `error` says that the peer did not accept this node in the handshake.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    let Some(cause) = error.get_ref() else { return false };
    match cause.downcast_ref::<quinn::ConnectionError>() {
        Some(quinn::ConnectionError::ConnectionClosed(close)) => {
            let alert = u8::from(AlertDescription::HandshakeFailure);
            close.error_code == TransportErrorCode::crypto(alert)
        }
        Some(_) => false,
        None => matches!(
            cause.downcast_ref(),
            Some(rustls::Error::AlertReceived(AlertDescription::HandshakeFailure))
        ),
    }
}

/// Returns the way in which a handshake failed with `error`.
pub(crate) fn tls_failure(error: &io::Error) -> TlsFailure {
    let cause = error.get_ref();
    if cause.is_some_and(|cause| cause.is::<RecordError>()) {
        return TlsFailure::NotTls;
    }
    match cause.and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => return TlsFailure::NotTls,
        Some(_) => return TlsFailure::NotANode,
        None => {}
    }
    match error.kind() {
        io::ErrorKind::TimedOut => TlsFailure::Silent,
        // Of the errors with this kind, only `NotANode` is left.
        io::ErrorKind::InvalidData => TlsFailure::NotANode,
        _ => TlsFailure::Closed,
    }
}

/// The identity of the node that answered in place of the expected one.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("node {} answered instead", .0.short())]
pub(crate) struct WrongNode(pub(crate) NodeId);

/// Returns a server name, which rustls requires for each dial. It is not sent, and nothing depends on it.
fn server_name() -> ServerName<'static> {
    ServerName::try_from("peerkit.invalid").expect("a valid DNS name")
}

/// The facts that a finished handshake proves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    /// The node at the other end.
    pub(crate) id: NodeId,
    pub(crate) purpose: ChannelPurpose,
    /// Bytes that only the two ends of this session know.
    pub(crate) binding: [u8; 32],
}

/// The peer speaks TLS, but is not a node.
#[derive(Debug, thiserror::Error)]
#[error("it does not speak peerkit's protocol")]
pub(crate) struct NotANode;

impl Session {
    /// Reads the session's facts from a connection whose handshake is finished.
    fn of<Data>(connection: &ConnectionCommon<Data>) -> Result<Self, NotANode> {
        let spki = connection.peer_certificates().and_then(|keys| keys.first()).ok_or(NotANode)?;
        let id = peer_id(spki).ok_or(NotANode)?;
        let purpose = match connection.alpn_protocol() {
            Some(ALPN_LINK) => ChannelPurpose::Link,
            Some(ALPN_STREAM) => ChannelPurpose::Stream,
            _ => return Err(NotANode),
        };
        // Both ends export the same bytes, and no other session has them.
        let binding = connection.export_keying_material([0; 32], EXPORTER_LABEL, None);
        let binding = binding.map_err(|_| NotANode)?;
        Ok(Self { id, purpose, binding })
    }
}

/// Returns the identity of a peer that has sent this raw public key.
pub(crate) fn peer_id(key: &CertificateDer<'_>) -> Option<NodeId> {
    let bytes = key.as_ref().strip_prefix(&SPKI_PREFIX)?;
    Some(NodeId::from_bytes(bytes.try_into().ok()?))
}

/// Returns the cryptography of all handshakes. AES-128-GCM comes first, because it is the fastest on
/// processors with AES instructions. ChaCha20 is for other processors.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        // All nodes offer the same group, so no handshake needs a second round trip.
        kx_groups: vec![kx_group::X25519],
        ..aws_lc_rs::default_provider()
    }
}

/// An Ed25519 key as SubjectPublicKeyInfo: 12 fixed bytes, then the key (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0];

/// An Ed25519 secret as PKCS #8: 16 fixed bytes, then the secret (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

fn certified(key: &Key) -> Result<CertifiedKey, rustls::Error> {
    let spki = [&SPKI_PREFIX[..], key.id().as_bytes()].concat();
    let secret = PrivatePkcs8KeyDer::from([&PKCS8_PREFIX[..], key.secret()].concat());
    let signing = aws_lc_rs::sign::any_eddsa_type(&secret)?;
    Ok(CertifiedKey::new(vec![CertificateDer::from(spki)], signing))
}

/// A verifier that accepts any node that proves its key, or only the expected node.
#[derive(Debug)]
struct KeyVerifier {
    provider: Arc<CryptoProvider>,
    /// The node that has to answer; any if `None`.
    expected: Option<NodeId>,
    /// The other node that has answered. Not every transport hands on the verifier's error.
    found: FoundNode,
}

impl KeyVerifier {
    fn new(provider: Arc<CryptoProvider>, expected: Option<NodeId>) -> Self {
        Self { provider, expected, found: FoundNode::default() }
    }

    fn verify(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let spki = SubjectPublicKeyInfoDer::from(key.as_ref());
        let algorithms = &self.provider.signature_verification_algorithms;
        let valid = verify_tls13_signature_with_raw_key(message, &spki, signature, algorithms)?;
        // A client sends its own key only after this check. The signature is checked first, so that the
        // error names a node that has proven its identity.
        let found = node_key(key, &[])?;
        match self.expected {
            Some(expected) if expected != found => {
                let wrong = *self.found.get_or_init(|| WrongNode(found));
                Err(rustls::Error::Other(OtherError(Arc::new(wrong))))
            }
            _ => Ok(valid),
        }
    }
}

/// Reads the peer's identity. The peer has to send exactly one raw public key, a valid Ed25519 key.
fn node_key(
    key: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
) -> Result<NodeId, rustls::Error> {
    let id = peer_id(key).filter(|_| others.is_empty());
    let id = id.ok_or_else(|| rustls::Error::General("not an Ed25519 raw public key".into()))?;
    id.checked().map_err(|_| rustls::Error::General("an Ed25519 key that no node can hold".into()))
}

/// The methods that rustls's traits for verifiers of servers and of clients have in common.
macro_rules! signature_methods {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _key: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("TLS 1.3 only".into()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            key: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.verify(message, key, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }

        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    };
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        node_key(key, others).map(|_| ServerCertVerified::assertion())
    }

    signature_methods!();
}

impl ClientCertVerifier for KeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        node_key(key, others).map(|_| ClientCertVerified::assertion())
    }

    signature_methods!();
}

// Last, so that the tests can use the macro.
#[cfg(test)]
mod tests;
