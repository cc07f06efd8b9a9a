//! Connections to the API of a node, over HTTP to this machine or over HTTPS to any.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use crate::address::split_host;
use crate::api::{self, ApiConnection, ApiFile};
use crate::usage;

/// Maximum time until there is a connection, TLS included. 30 s: a busy node on a slow line answers within a few
/// seconds. The system would wait for an address that does not answer for two minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// The address in the URL of an API.
#[derive(Debug, PartialEq, Eq)]
struct ApiAddress<'a> {
    is_https: bool,
    /// The host and the port, as the URL has them.
    host: &'a str,
    /// The host alone, without brackets.
    name: &'a str,
    /// The port, by default that of the scheme.
    port: u16,
}

/// Connects to an API. Also returns the `Host` of requests to it.
///
/// # Errors
/// If the URL is not that of an API, if nothing answers there, if the certificate is not that of the node, or if the
/// token would cross a network unencrypted. Nothing of the token has been sent then.
pub(super) async fn connect(api: &ApiFile) -> anyhow::Result<(ApiConnection, &str)> {
    let address = ApiAddress::parse(&api.url)?;
    let connecting = connect_to(&address, api.certificate_sha256.as_deref());
    Ok((within(CONNECT_TIMEOUT, address.host, connecting).await?, address.host))
}

/// Waits for a connection to an API at `host`, up to a time limit.
async fn within(
    limit: Duration,
    host: &str,
    connecting: impl Future<Output = anyhow::Result<ApiConnection>>,
) -> anyhow::Result<ApiConnection> {
    let connected = tokio::time::timeout(limit, connecting).await;
    connected
        .map_err(|_| anyhow!("no node answers at {host}: there was no connection in {limit:?}"))?
}

async fn connect_to(
    address: &ApiAddress<'_>,
    certificate_sha256: Option<&str>,
) -> anyhow::Result<ApiConnection> {
    let host = address.host;
    let stream = TcpStream::connect((address.name, address.port))
        .await
        .with_context(|| format!("no node answers at {host}: `peerkit run` starts one"))?;
    if !address.is_https {
        check_unencrypted(stream.peer_addr()?.ip())?;
        return Ok(ApiConnection::Plain(stream));
    }
    let connector = TlsConnector::from(Arc::new(config(certificate_sha256)?));
    let secured = connector.connect(address.server_name()?, stream).await;
    let secured = secured.map_err(|error| tls_error(host, error))?;
    Ok(ApiConnection::Tls(Box::new(TlsStream::from(secured))))
}

/// Refuses to send a token to another machine without TLS.
fn check_unencrypted(to: IpAddr) -> anyhow::Result<()> {
    if to.to_canonical().is_loopback() {
        return Ok(());
    }
    bail!(
        "{to} is another machine, and the token would cross the network unencrypted: the URL of an API for \
         other machines begins with https://"
    )
}

impl<'a> ApiAddress<'a> {
    fn parse(url: &'a str) -> anyhow::Result<Self> {
        let (scheme, host) = url.split_once("://").unwrap_or(("", url));
        let is_https = scheme.eq_ignore_ascii_case("https");
        let is_api = is_https || scheme.eq_ignore_ascii_case("http");
        let is_foreign =
            |c: char| "/?#@\\".contains(c) || c.is_ascii_whitespace() || c.is_control();
        let split = split_host(host).filter(|(name, _)| !name.is_empty());
        match split.filter(|_| is_api && !host.contains(is_foreign)) {
            Some((name, port)) => {
                let port = port.unwrap_or(if is_https { 443 } else { 80 });
                Ok(Self { is_https, host, name, port })
            }
            None => Err(usage(format!(
                "`{url}` is not the address of an API, such as https://node.example.org:8443 or \
                 http://127.0.0.1:8080"
            ))),
        }
    }

    /// Returns the name or IP address that the certificate has to be for.
    fn server_name(&self) -> anyhow::Result<ServerName<'static>> {
        let name = self.name;
        ServerName::try_from(name.to_owned())
            .map_err(|_| usage(format!("`{name}` is neither a name nor an IP address")))
    }
}

/// Returns the settings of the client's side of TLS. With a hash, only the certificate with this hash is accepted,
/// else those of issuers that this system trusts.
fn config(certificate_sha256: Option<&str>) -> anyhow::Result<ClientConfig> {
    let provider = api::provider();
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_protocol_versions(&[&TLS13])?;
    let builder = match certificate_sha256 {
        Some(hash) => {
            let sha256 = hash.to_ascii_lowercase();
            let verifier = OneCertificate { sha256, provider };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
        None => builder.with_root_certificates(system_roots()?),
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Each command has one connection.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Reads the certificates of the issuers that this system trusts, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR`
/// name.
fn system_roots() -> anyhow::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A certificate that can't be read does not make the others useless.
    roots.add_parsable_certificates(found.certs);
    if !roots.is_empty() {
        return Ok(roots);
    }
    let none =
        "no certificates of trusted issuers were found: SSL_CERT_FILE may name a file with some";
    match found.errors.into_iter().next() {
        Some(cause) => Err(anyhow!(cause).context(none)),
        None => bail!(none),
    }
}

/// Accepts the certificate with one hash, for any name and any time. The node itself has written the hash to
/// `api.json` in its state folder, so the certificate needs no issuer that this system trusts.
#[derive(Debug)]
struct OneCertificate {
    /// In lower-case hex digits.
    sha256: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OneCertificate {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if api::fingerprint(certificate) == self.sha256 {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is used".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Returns the error of a handshake, with advice.
fn tls_error(host: &str, error: std::io::Error) -> anyhow::Error {
    let advice = match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)) => {
            return anyhow!(
                "the server at {host} has another certificate than the node that has written api.json, so \
                 nothing was sent to it"
            );
        }
        // The signature is bad if the system trusts an earlier certificate of the same name.
        Some(Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => {
            "this system does not trust the issuer of its certificate (SSL_CERT_FILE may name a file with \
             the certificate of the issuer)"
        }
        Some(Error::InvalidCertificate(_)) => "its certificate was refused",
        Some(Error::InvalidMessage(_)) => {
            "it does not use TLS (the URL of an API without TLS begins with http://)"
        }
        _ => "the TLS handshake failed",
    };
    anyhow!(error).context(format!("no connection to the API at {host}: {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_to_other_machines_only_with_tls() {
        for (to, is_allowed) in
            [("127.0.0.1", true), ("::1", true), ("::ffff:127.0.0.1", true), ("192.0.2.1", false)]
        {
            assert_eq!(check_unencrypted(to.parse().unwrap()).is_ok(), is_allowed, "{to}");
        }
    }

    #[test]
    fn the_url_of_an_api_has_a_host_and_maybe_a_port() {
        for (url, name, port) in [
            ("https://node.example:8443", "node.example", 8443),
            ("HTTPS://node.example", "node.example", 443),
            ("https://[::1]:1", "::1", 1),
            ("http://[::1]", "::1", 80),
            ("http://127.0.0.1:7", "127.0.0.1", 7),
        ] {
            let address = ApiAddress::parse(url).unwrap();
            assert_eq!((address.name, address.port), (name, port));
            assert_eq!(address.server_name().unwrap().to_str(), name);
        }
        for wrong in [
            "127.0.0.1:7",
            "ftp://a",
            "http://",
            "https://a/b",
            "http://me@a",
            "http://a b",
            "http://a:65536",
            "http://:80",
        ] {
            assert!(ApiAddress::parse(wrong).is_err(), "{wrong}");
        }
    }

    /// The queue of the listener is full, so the system drops the first packet of each further connection.
    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn an_address_that_does_not_answer_is_given_up() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let _queued = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://127.0.0.1:{port}");
            let address = ApiAddress::parse(&url).unwrap();
            let connecting = connect_to(&address, None);
            let limit = Duration::from_millis(50);
            let error = within(limit, address.host, connecting).await.err().unwrap();
            assert!(error.to_string().ends_with("no connection in 50ms"), "{error}");
        }
    }
}
