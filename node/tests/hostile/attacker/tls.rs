//! TLS clients and servers: those of a node, and clients with credentials that no node has.

use std::sync::Arc;

use peerkit::Key;
use peerkit_proto::hello::{ALPN_LINK, ALPN_STREAM};
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};

/// An X.509 certificate, made with openssl, for the key whose secret is 32 bytes of 0x58.
const X509: &[u8] = include_bytes!("x509.der");

/// The credentials of a client.
pub enum Credentials {
    /// A raw public key, which nodes use.
    Raw(Vec<u8>),
    /// An X.509 certificate.
    Certificate,
    /// No credentials.
    Nothing,
}

pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("peerkit.invalid").unwrap()
}

/// Returns the TLS client of a node.
pub fn client(key: &Key, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    client_with(key, alpn, Credentials::Raw(spki(key)))
}

/// Returns a TLS client that sends `credentials` and signs with `key`. A client with a certificate signs with the
/// certificate's key instead.
pub fn client_with(key: &Key, alpn: &[&[u8]], credentials: Credentials) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous();
    let raw = !matches!(credentials, Credentials::Certificate);
    let builder = builder.with_custom_certificate_verifier(Arc::new(AcceptAll { raw }));
    let mut config = match credentials {
        Credentials::Raw(spki) => {
            let certified = Arc::new(certified(spki, key));
            builder.with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                certified,
            )))
        }
        Credentials::Certificate => {
            let certified = certified(X509.to_vec(), &Key::from_secret(&[0x58; 32]));
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
        Credentials::Nothing => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|alpn| alpn.to_vec()).collect();
    Arc::new(config)
}

/// Returns the TLS server of a node.
pub fn server(key: &Key) -> Arc<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certified = Arc::new(certified(spki(key), key));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(AcceptAll { raw: true }))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified)));
    config.alpn_protocols = vec![ALPN_LINK.to_vec(), ALPN_STREAM.to_vec()];
    Arc::new(config)
}

/// Returns an X.509 certificate, to send in place of a raw public key.
pub fn certificate() -> Vec<u8> {
    X509.to_vec()
}

/// Returns a key as SubjectPublicKeyInfo (RFC 8410).
pub fn spki(key: &Key) -> Vec<u8> {
    let prefix = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0];
    [&prefix[..], key.id().as_bytes()].concat()
}

/// Returns credentials that consist of the bytes `sent` and the signing key `key`.
fn certified(sent: Vec<u8>, key: &Key) -> CertifiedKey {
    let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let secret = PrivatePkcs8KeyDer::from([&prefix[..], key.secret()].concat());
    let signing = aws_lc_rs::sign::any_supported_type(&PrivateKeyDer::from(secret)).unwrap();
    CertifiedKey::new(vec![CertificateDer::from(sent)], signing)
}

/// A verifier that accepts every peer.
#[derive(Debug)]
struct AcceptAll {
    raw: bool,
}

impl ServerCertVerifier for AcceptAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.raw
    }
}

impl ClientCertVerifier for AcceptAll {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.raw
    }
}
