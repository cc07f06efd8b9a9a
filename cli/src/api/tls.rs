//! The server's side of HTTPS: the handshake of a connection to the API, and the answer to a client that uses no TLS.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::certificate::ApiCertificate;
use super::connection::ApiConnection;
use super::problem::{self, Problem};

/// Maximum time of a handshake. 5 s: a handshake has one round trip, and a slow line takes less than a second.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The first byte of a TLS connection: the type of a record with a handshake (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// Number of bytes that are read of a request without TLS. 64 KiB: more than its head.
const MAX_UNREAD: u64 = 64 << 10;

/// The TLS of an API.
pub(super) struct ApiTls {
    acceptor: TlsAcceptor,
    /// The answer to a request without TLS.
    hint: String,
}

/// Returns the algorithms of HTTPS. Unlike nodes, browsers and other programs choose among all of them.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

impl ApiTls {
    /// Makes the TLS of an API. `url` is its address for programs on this machine, which clients without TLS are
    /// told.
    pub(super) fn new(certificate: &ApiCertificate, url: &str) -> Self {
        let acceptor = TlsAcceptor::from(certificate.config());
        let detail = format!("this API uses HTTPS: on this machine, its address is {url}");
        let problem = Problem::new(StatusCode::BAD_REQUEST, detail);
        let body = serde_json::to_string(&problem).unwrap_or_default();
        let hint = format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            problem::MEDIA_TYPE,
            body.len()
        );
        Self { acceptor, hint }
    }

    /// Secures a connection. Returns `None` if the client uses no TLS, or if the handshake fails or takes too long.
    pub(super) async fn accept(&self, stream: TcpStream) -> Option<ApiConnection> {
        let handshake = async {
            let mut first = [0];
            stream.peek(&mut first).await?;
            if first == [HANDSHAKE_RECORD] {
                let stream = self.acceptor.accept(stream).await?;
                return Ok(Some(ApiConnection::Tls(Box::new(stream.into()))));
            }
            self.refuse_plain(stream).await.map(|()| None)
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(secured)) => secured,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the TLS handshake of a connection to the API failed");
                None
            }
            Err(_) => {
                tracing::debug!("the TLS handshake of a connection to the API took too long");
                None
            }
        }
    }

    /// Tells a client that uses no TLS the address of the API.
    async fn refuse_plain(&self, mut stream: TcpStream) -> std::io::Result<()> {
        tracing::debug!("a client of the API uses no TLS");
        stream.write_all(self.hint.as_bytes()).await?;
        stream.shutdown().await?;
        // The system would discard the answer, together with the connection, if bytes of the client were unread.
        tokio::io::copy(&mut stream.take(MAX_UNREAD), &mut tokio::io::sink()).await?;
        Ok(())
    }
}
