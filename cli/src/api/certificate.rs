//! The certificate of an API that is served over HTTPS, and its key.

use std::fmt::Write as _;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::version::TLS13;
use rustls::{CertificateError, Error, InconsistentKeys, RootCertStore, ServerConfig};

use super::tls;

/// Maximum size of a file with certificates or a key. 256 KiB: a long chain has about 10 KiB.
const MAX_FILE: u64 = 256 << 10;

/// The certificate of an API, ready for use.
#[derive(Debug)]
pub(crate) struct ApiCertificate {
    /// The API's own certificate. Those of its issuers are in `config` only.
    leaf: CertificateDer<'static>,
    config: Arc<ServerConfig>,
}

impl ApiCertificate {
    /// Reads the certificate in the PEM file `chain`, which may be followed by those of its issuers, and its key in
    /// the PEM file `key`.
    ///
    /// # Errors
    /// If a file can't be read or holds something else, if other users can access the key file, if the key does not
    /// belong to the certificate, or if the certificate has expired or is not valid yet.
    pub(crate) fn read(chain: &Path, key: &Path) -> anyhow::Result<Self> {
        let (certificates, _) = read_file(chain)?;
        let certificates = CertificateDer::pem_slice_iter(&certificates)
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| format!("the certificate in {} can't be read", chain.display()))?;
        let Some(leaf) = certificates.first().cloned() else {
            bail!("{} has no certificate in PEM (`-----BEGIN CERTIFICATE-----`)", chain.display());
        };
        let parsed = ParsedCertificate::try_from(&leaf)
            .with_context(|| format!("the certificate in {} can't be read", chain.display()))?;
        check_time(&parsed, UnixTime::now())
            .with_context(|| format!("the certificate in {} can't be used", chain.display()))?;
        let secret = read_key(key)?;
        let builder = ServerConfig::builder_with_provider(tls::provider());
        let builder = builder.with_protocol_versions(&[&TLS13])?.with_no_client_auth();
        let config = builder.with_single_cert(certificates, secret);
        let mut config = config.map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => anyhow!(
                "the key in {} does not belong to the certificate in {}, which has to be the first in its file",
                key.display(),
                chain.display()
            ),
            error => anyhow!(error).context(format!("the key in {} can't be used", key.display())),
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Clients keep their connections, so none resumes a session.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { leaf, config: Arc::new(config) })
    }

    /// Returns the settings of the server's side of TLS.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Returns the SHA-256 hash of the certificate, in hex digits.
    pub(super) fn fingerprint(&self) -> String {
        fingerprint(&self.leaf)
    }

    /// Returns whether the certificate is for this host, a name or an IP address.
    pub(super) fn is_for(&self, host: &str) -> bool {
        let name = ServerName::try_from(host).ok();
        let own = ParsedCertificate::try_from(&self.leaf).ok();
        name.zip(own).is_some_and(|(name, own)| verify_server_name(&own, &name).is_ok())
    }
}

/// Returns the SHA-256 hash of a certificate, in hex digits.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    hash.as_ref().iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// Checks that a certificate has not expired, and is valid already.
fn check_time(certificate: &ParsedCertificate<'_>, now: UnixTime) -> anyhow::Result<()> {
    const DAY: u64 = 24 * 60 * 60;
    // Without roots the check fails in any case. It compares the times first.
    let roots = RootCertStore::empty();
    let algorithms = tls::provider().signature_verification_algorithms.all;
    let Err(Error::InvalidCertificate(error)) =
        verify_server_cert_signed_by_trust_anchor(certificate, &roots, &[], now, algorithms)
    else {
        return Ok(());
    };
    match error {
        CertificateError::ExpiredContext { time, not_after } => {
            let days = time.as_secs().saturating_sub(not_after.as_secs()) / DAY;
            bail!("it has expired {days} days ago: clients would refuse it");
        }
        CertificateError::Expired => bail!("it has expired: clients would refuse it"),
        CertificateError::NotValidYetContext { .. } | CertificateError::NotValidYet => {
            bail!("it is not valid yet: is the clock of this machine right?")
        }
        _ => Ok(()),
    }
}

/// Reads a private key.
fn read_key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    let (bytes, metadata) = read_file(path)?;
    if is_open_to_others(&metadata) {
        bail!(
            "other users can access the key file {}: it was not used. `chmod 600` makes it private",
            path.display()
        );
    }
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => bail!(
            "{} has no private key in PEM (`-----BEGIN PRIVATE KEY-----`) that is not encrypted",
            path.display()
        ),
        // The error of the parser could show a part of the key.
        Err(_) => bail!("the key in {} can't be read", path.display()),
    }
}

/// Reads a file, and returns its permissions too. They are those of the opened file, which another file can't
/// replace in between.
fn read_file(path: &Path) -> anyhow::Result<(Vec<u8>, Metadata)> {
    let read = || {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>((bytes, metadata))
    };
    read().with_context(|| format!("can't read {}", path.display()))
}

/// Returns whether other users have any access to a file. Returns false on Windows, where the access list of the
/// folder decides.
fn is_open_to_others(metadata: &Metadata) -> bool {
    #[cfg(unix)]
    return std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0;
    #[cfg(not(unix))]
    {
        let _ = metadata;
        false
    }
}
