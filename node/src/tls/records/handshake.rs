//! The TLS handshake, which rustls performs. rustls gets one record at a time, so that it does not read the
//! session's first data.

use std::fmt;
use std::io;
use std::sync::Mutex;

use peerkit_proto::tls::handshake_record_len;
use rustls::{Connection, ConnectionTrafficSecrets, KeyLog};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::protection::{Cipher, RecordProtection, TrafficSecret};
use super::transport::Transport;
use crate::lock::lock;
use crate::tls::Session;

/// Capacity of the read buffer, in bytes. A node's whole handshake fits.
const READ_CAPACITY: usize = 4 << 10;

/// A finished handshake.
pub(super) struct Finished {
    pub(super) session: Session,
    pub(super) ours: RecordProtection,
    /// The end of our handshake, which has not been sent yet: the dialler sends its Finished together with
    /// its first data.
    pub(super) unsent: Vec<u8>,
    pub(super) theirs: RecordProtection,
    /// Bytes after the handshake that have already been read.
    pub(super) read: Vec<u8>,
}

/// Performs the handshake of `connection`, whose key log is `secrets`, over `transport`.
///
/// # Errors
/// An error of TLS, for which the peer also gets an alert; an error of `transport`; or a [`TakeOverError`].
pub(super) async fn shake_hands(
    transport: &mut impl Transport,
    mut connection: Connection,
    secrets: &Secrets,
) -> io::Result<Finished> {
    let mut read = Vec::with_capacity(READ_CAPACITY);
    let mut unsent = Vec::new();
    // rustls gets one record at a time. Otherwise it could read and decrypt the session's first data, and the
    // record numbers of our own layer could not begin at 0.
    loop {
        while connection.wants_write() {
            connection.write_tls(&mut unsent)?;
        }
        if !connection.is_handshaking() {
            break;
        }
        if !unsent.is_empty() {
            transport.write_all(&unsent).await?;
            unsent.clear();
        }
        let record = next_record(transport, &mut read).await?;
        if let Err(error) = feed(&mut connection, &record) {
            // Sends the peer the alert with the reason.
            while connection.wants_write() {
                connection.write_tls(&mut unsent)?;
            }
            let _ = transport.write_all(&unsent).await;
            return Err(error);
        }
    }
    // This uses the connection's exporter. Taking over the secrets below consumes the connection.
    let session = match &connection {
        Connection::Client(connection) => Session::of(connection),
        Connection::Server(connection) => Session::of(connection),
    };
    let session = session.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let (ours, theirs) = secrets.take_over(connection).map_err(io::Error::other)?;
    Ok(Finished { session, ours, unsent, theirs, read })
}

/// Reads until the first record in `read` is complete. Removes that record from `read` and returns
/// it.
async fn next_record(transport: &mut impl Transport, read: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    loop {
        let len = handshake_record_len(read)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        match len {
            Some(len) if len <= read.len() => return Ok(read.drain(..len).collect()),
            _ => {}
        }
        if transport.read_buf(read).await? == 0 {
            let why = "closed during the handshake";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
    }
}

/// Gives one record to rustls, which processes it.
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

/// The reason why our record layer did not take over a session from rustls. The session is refused: a
/// wrong key or record number could lose data, or use a nonce twice.
#[derive(Debug, thiserror::Error)]
pub(super) enum TakeOverError {
    /// Nodes do not offer this cipher suite.
    #[error("the session has a cipher suite that nodes do not offer")]
    CipherSuite,
    /// rustls did not hand over its keys.
    #[error("TLS did not hand over the session's keys")]
    NotExtracted(#[from] rustls::Error),
    /// The key log lacks the traffic secret of one direction.
    #[error("TLS has not logged the session's secrets")]
    NotLogged,
    /// rustls has already protected a record in one direction.
    #[error("TLS has already protected records of the session: the next one has number {0}")]
    RecordNumber(u64),
    /// The key derived from the logged secret is not the key that rustls has.
    #[error("the session's TLS secrets and keys do not belong together")]
    OtherKey,
}

/// A key log that keeps a session's two traffic secrets.
///
/// A key update needs these secrets, and rustls gives them to nothing but a key log. rustls's
/// `KernelConnection` could update keys without them. But it is made from an unbuffered connection,
/// which has no exporter. [`Session::binding`] comes from the exporter.
#[derive(Default)]
pub(super) struct Secrets {
    client: Mutex<Option<TrafficSecret>>,
    server: Mutex<Option<TrafficSecret>>,
}

impl Secrets {
    /// Returns the slot for the secret with this label of the key log.
    fn slot(&self, label: &str) -> Option<&Mutex<Option<TrafficSecret>>> {
        match label {
            "CLIENT_TRAFFIC_SECRET_0" => Some(&self.client),
            "SERVER_TRAFFIC_SECRET_0" => Some(&self.server),
            _ => None,
        }
    }

    /// Returns the protection of our records and that of the peer's records. The keys are derived
    /// from the logged secrets.
    ///
    /// # Errors
    /// If `connection` has other keys, or has protected a record already.
    fn take_over(
        &self,
        connection: Connection,
    ) -> Result<(RecordProtection, RecordProtection), TakeOverError> {
        let (ours, theirs) = match &connection {
            Connection::Client(_) => (&self.client, &self.server),
            Connection::Server(_) => (&self.server, &self.client),
        };
        let keys = connection.dangerous_extract_secrets()?;
        Ok((take_over_direction(ours, &keys.tx)?, take_over_direction(theirs, &keys.rx)?))
    }
}

/// Takes over one direction. `number` and `keys` are the next record number and the key that rustls
/// has for it.
fn take_over_direction(
    secret: &Mutex<Option<TrafficSecret>>,
    (number, keys): &(u64, ConnectionTrafficSecrets),
) -> Result<RecordProtection, TakeOverError> {
    let (cipher, key, iv) = match keys {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
            (Cipher::ChaCha20Poly1305, key, iv)
        }
        _ => return Err(TakeOverError::CipherSuite),
    };
    // Our layer counts from 0. With another number a nonce would be used twice.
    if *number != 0 {
        return Err(TakeOverError::RecordNumber(*number));
    }
    let secret = lock(secret).take().ok_or(TakeOverError::NotLogged)?;
    RecordProtection::matching(cipher, secret, key.as_ref(), iv.as_ref())
        .map_err(|_| TakeOverError::OtherKey)
}

impl KeyLog for Secrets {
    fn will_log(&self, label: &str) -> bool {
        self.slot(label).is_some()
    }

    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if let Some(slot) = self.slot(label)
            && let Ok(secret) = secret.try_into()
        {
            *lock(slot) = Some(TrafficSecret::new(secret));
        }
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use peerkit_proto::id::Key;
    use rustls::{ClientConnection, ServerConnection};

    use super::*;
    use crate::tls::{Tls, server_name};

    /// Two ends of a session, with the secrets that each has logged.
    struct Ends {
        client: (Connection, Arc<Secrets>),
        server: (Connection, Arc<Secrets>),
    }

    /// Performs a handshake in which the server sends this number of session tickets.
    fn ends(tickets: usize) -> Ends {
        let Tls { mut server, stream: mut client, .. } =
            Tls::new(&Key::from_secret(&[1; 32])).unwrap();
        let (of_server, of_client) = (Arc::<Secrets>::default(), Arc::<Secrets>::default());
        server.send_tls13_tickets = tickets;
        (server.key_log, client.key_log) = (of_server.clone(), of_client.clone());
        (server.enable_secret_extraction, client.enable_secret_extraction) = (true, true);
        let server = ServerConnection::new(Arc::new(server)).unwrap();
        let client = ClientConnection::new(Arc::new(client), server_name()).unwrap();
        let mut ends =
            Ends { client: (client.into(), of_client), server: (server.into(), of_server) };
        let (client, server) = (&mut ends.client.0, &mut ends.server.0);
        while client.wants_write() || server.wants_write() {
            pass(client, server);
            pass(server, client);
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        ends
    }

    fn pass(from: &mut Connection, to: &mut Connection) {
        let mut bytes = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut bytes).unwrap();
        }
        feed(to, &bytes).unwrap();
    }

    #[test]
    fn keys_that_belong_to_the_logged_secrets_are_taken_over() {
        let Ends { client, server } = ends(0);
        for (connection, secrets) in [client, server] {
            secrets.take_over(connection).unwrap();
        }
    }

    #[test]
    fn secrets_of_another_session_are_refused() {
        let (one, other) = (ends(0), ends(0));
        let taken = other.client.1.take_over(one.client.0);
        assert!(matches!(taken, Err(TakeOverError::OtherKey)), "{taken:?}");
    }

    #[test]
    fn a_session_without_logged_secrets_is_refused() {
        let taken = Secrets::default().take_over(ends(0).server.0);
        assert!(matches!(taken, Err(TakeOverError::NotLogged)), "{taken:?}");
    }

    #[test]
    fn a_session_with_protected_records_is_refused() {
        // The server's ticket is the record that has been protected.
        let Ends { client, server } = ends(1);
        let sent = server.1.take_over(server.0);
        assert!(matches!(sent, Err(TakeOverError::RecordNumber(1))), "{sent:?}");
        let received = client.1.take_over(client.0);
        assert!(matches!(received, Err(TakeOverError::RecordNumber(1))), "{received:?}");
    }
}
