//! The handshake, which is rustls's: record by record, so that it gets none of what comes behind it.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use peerkit_proto::tls::handshake_record_len;
use rustls::{CipherSuite, Connection, KeyLog};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Session;
use super::channel::Channel;
use super::traffic::{Cipher, Secret, Traffic};
use crate::lock::lock;

/// Room to read into: a node's whole handshake fits.
const ROOM: usize = 4 << 10;

/// Shakes hands over `tcp`. What the dialling side says last is held until it says something, waits
/// for something or goes away: its Finished goes out with what is said first.
///
/// `secrets` is the key log of `connection`.
///
/// # Errors
/// What TLS or the connection says, in words; the other side has been told.
pub(super) async fn shake(
    mut tcp: TcpStream,
    mut connection: Connection,
    secrets: &Secrets,
) -> io::Result<Channel> {
    let mut read = Vec::with_capacity(ROOM);
    let mut said = Vec::new();
    loop {
        while connection.wants_write() {
            connection.write_tls(&mut said)?;
        }
        if !connection.is_handshaking() {
            break;
        }
        if !said.is_empty() {
            tcp.write_all(&said).await?;
            said.clear();
        }
        let record = next_record(&mut tcp, &mut read).await?;
        if let Err(error) = feed(&mut connection, &record) {
            // The alert that tells why.
            while connection.wants_write() {
                connection.write_tls(&mut said)?;
            }
            let _ = tcp.write_all(&said).await;
            return Err(error);
        }
    }
    let session = Session::of(&connection)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let (ours, theirs) = secrets
        .traffic(&connection)
        .ok_or_else(|| io::Error::other("the session has no keys that are known here"))?;
    Ok(Channel::new(tcp, session, ours, said, theirs, read))
}

/// Takes the next record off the front of what was read, and reads until there is one.
async fn next_record(tcp: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    loop {
        let len = handshake_record_len(read)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        match len {
            Some(len) if len <= read.len() => return Ok(read.drain(..len).collect()),
            _ => {}
        }
        if tcp.read_buf(read).await? == 0 {
            let why = "closed during the handshake";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
    }
}

fn feed(connection: &mut Connection, record: &[u8]) -> io::Result<()> {
    let invalid = |error: rustls::Error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut rest = record;
    while !rest.is_empty() {
        if connection.read_tls(&mut rest)? == 0 {
            break;
        }
        connection.process_new_packets().map_err(invalid)?;
    }
    Ok(())
}

/// The secrets that a session's keys come from, as a handshake tells them.
#[derive(Default)]
pub(super) struct Secrets {
    client: Mutex<Option<Secret>>,
    server: Mutex<Option<Secret>>,
}

impl Secrets {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    fn place(&self, label: &str) -> Option<&Mutex<Option<Secret>>> {
        match label {
            "CLIENT_TRAFFIC_SECRET_0" => Some(&self.client),
            "SERVER_TRAFFIC_SECRET_0" => Some(&self.server),
            _ => None,
        }
    }

    /// The keys of what this side says, and of what the other side says.
    fn traffic(&self, connection: &Connection) -> Option<(Traffic, Traffic)> {
        let cipher = match connection.negotiated_cipher_suite()?.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => Cipher::Aes128Gcm,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Cipher::ChaCha20Poly1305,
            _ => return None,
        };
        let take = |from: &Mutex<Option<Secret>>| {
            let secret = lock(from).take()?;
            Traffic::new(cipher, secret).ok()
        };
        let (client, server) = (take(&self.client)?, take(&self.server)?);
        match connection {
            Connection::Client(_) => Some((client, server)),
            Connection::Server(_) => Some((server, client)),
        }
    }
}

impl KeyLog for Secrets {
    fn will_log(&self, label: &str) -> bool {
        self.place(label).is_some()
    }

    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if let Some(place) = self.place(label)
            && let Ok(secret) = secret.try_into()
        {
            *lock(place) = Some(Secret::new(secret));
        }
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}
