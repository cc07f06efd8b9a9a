//! Tests of a channel against another channel, and against rustls, which protects its own records.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use peerkit_proto::tls::MAX_CONTENT;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::*;

mod memory;
mod model;

pub(super) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let accepted = listener.accept().await.unwrap().0;
    dialled.set_nodelay(true).unwrap();
    accepted.set_nodelay(true).unwrap();
    (dialled, accepted)
}

pub(super) fn tls(secret: u8) -> Tls {
    Tls::new(&Key::from_secret(&[secret; 32])).unwrap()
}

/// Returns the channel that has dialled and the channel that has accepted, after a complete handshake.
pub(super) async fn channels() -> (TlsChannel, TlsChannel) {
    let (dialled, accepted) = tcp_pair().await;
    let (ours, theirs) = (tls(1), tls(2));
    tokio::join!(
        async {
            let mut ours = ours.dial(dialled, ChannelPurpose::Stream, None).await.unwrap();
            ours.flush().await.unwrap();
            ours
        },
        async { theirs.accept(accepted).await.unwrap() },
    )
}

/// Returns a channel that has dialled rustls, and the stream of rustls.
pub(super) async fn dialled_rustls() -> (TlsChannel, TlsStream<TcpStream>) {
    let (dialled, accepted) = tcp_pair().await;
    let acceptor = TlsAcceptor::from(Arc::new(tls(2).server));
    let ours = tls(1);
    tokio::join!(
        async {
            let mut ours = ours.dial(dialled, ChannelPurpose::Stream, None).await.unwrap();
            ours.flush().await.unwrap();
            ours
        },
        async { TlsStream::from(acceptor.accept(accepted).await.unwrap()) },
    )
}

/// Returns a channel that rustls has dialled, and the stream of rustls.
async fn accepted_rustls() -> (TlsChannel, TlsStream<TcpStream>) {
    let (dialled, accepted) = tcp_pair().await;
    let connector = TlsConnector::from(Arc::new(tls(2).stream));
    let ours = tls(1);
    tokio::join!(async { ours.accept(accepted).await.unwrap() }, async {
        TlsStream::from(connector.connect(server_name(), dialled).await.unwrap())
    })
}

/// Makes rustls update its key, and request that the other end updates its own key.
pub(super) fn refresh<T>(stream: &mut TlsStream<T>) {
    match stream {
        TlsStream::Client(end) => end.get_mut().1.refresh_traffic_keys().unwrap(),
        TlsStream::Server(end) => end.get_mut().1.refresh_traffic_keys().unwrap(),
    }
}

/// Returns bytes in a pattern that is longer than a record, so that a lost record is noticed.
fn some_bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

pub(super) async fn write_flushed(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    to.write_all(bytes).await.unwrap();
    to.flush().await.unwrap();
}

pub(super) async fn expect_bytes(from: &mut (impl AsyncReadExt + Unpin), bytes: &[u8]) {
    let mut received = vec![0; bytes.len()];
    from.read_exact(&mut received).await.unwrap();
    assert!(received == bytes, "{} bytes were changed on the way", bytes.len());
}

#[tokio::test]
async fn both_ends_learn_the_identity_of_the_other() {
    let (ours, theirs) = channels().await;
    let (ours, theirs) = (ours.session(), theirs.session());
    assert_eq!(ours.id, Key::from_secret(&[2; 32]).id());
    assert_eq!(theirs.id, Key::from_secret(&[1; 32]).id());
    assert_eq!((ours.purpose, theirs.purpose), (ChannelPurpose::Stream, ChannelPurpose::Stream));
    assert_eq!(ours.binding, theirs.binding);
}

/// A verifier of clients that counts the client keys that it sees.
#[derive(Debug)]
struct CountingVerifier {
    verifier: KeyVerifier,
    seen: AtomicUsize,
}

impl CountingVerifier {
    fn verify(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify(message, key, signature)
    }
}

impl ClientCertVerifier for CountingVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        self.verifier.verify_client_cert(key, others, now)
    }

    // The two methods that check a signature, by calling `verify`.
    signature_methods!();
}

/// Returns a verifier that accepts every node.
fn any_node() -> KeyVerifier {
    KeyVerifier::new(Arc::new(provider()), None)
}

/// Node 1 dials node 2 and expects node `expected`. Returns the result of the dial, and the number
/// of client keys that node 2 has seen.
async fn dial_expecting(expected: u8) -> (Result<TlsChannel, TlsDialError>, usize) {
    let (dialled, accepted) = tcp_pair().await;
    let counting = Arc::new(CountingVerifier { verifier: any_node(), seen: AtomicUsize::new(0) });
    let pair = Arc::new(certified(&Key::from_secret(&[2; 32])).unwrap());
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(counting.clone())
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(pair)));
    config.alpn_protocols = vec![ALPN_LINK.to_vec()];
    let ours = tls(1);
    let expected = Key::from_secret(&[expected; 32]).id();
    let (dialled, _accepted) = tokio::join!(
        async {
            let mut channel = ours.dial(dialled, ChannelPurpose::Link, Some(expected)).await?;
            channel.flush().await?;
            Ok(channel)
        },
        TlsAcceptor::from(Arc::new(config)).accept(accepted),
    );
    (dialled, counting.seen.load(Ordering::SeqCst))
}

#[tokio::test]
async fn the_wrong_node_never_sees_the_diallers_key() {
    let (dialled, seen) = dial_expecting(3).await;
    let found = Key::from_secret(&[2; 32]).id();
    assert!(matches!(dialled, Err(TlsDialError::WrongNode(WrongNode(id))) if id == found));
    assert_eq!(seen, 0);

    let (dialled, seen) = dial_expecting(2).await;
    assert_eq!(dialled.unwrap().session().id, found);
    assert_eq!(seen, 1);
}

/// Returns all encodings of the points of Ed25519 that have a small order, canonical or not (RFC
/// 8032, section 5.1.3). Signatures under such a key can be forged without a secret.
fn small_order() -> impl Iterator<Item = [u8; 32]> {
    // The y coordinates of the points of order eight.
    let order_eight = [
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ];
    let encoding = |first: u8, between: u8, last: u8| {
        let mut point = [between; 32];
        (point[0], point[31]) = (first, last);
        point
    };
    let order_eight = order_eight.map(|hex| *hex.parse::<NodeId>().unwrap().as_bytes());
    // The y coordinates 1, -1 and 0, and the non-canonical p + 0 and p + 1, where p is the field's
    // prime.
    let lower_orders = [
        encoding(1, 0, 0),
        encoding(0xec, 0xff, 0x7f),
        encoding(0, 0, 0),
        encoding(0xed, 0xff, 0x7f),
        encoding(0xee, 0xff, 0x7f),
    ];
    order_eight.into_iter().chain(lower_orders).flat_map(|point| {
        // The highest bit is the sign of the x coordinate.
        let mut negative = point;
        negative[31] |= 0x80;
        [point, negative]
    })
}

#[test]
fn keys_of_small_order_and_invalid_keys_are_refused_from_clients_and_servers() {
    let verifier = any_node();
    let refused = |point: &[u8; 32]| {
        let key = CertificateDer::from([&SPKI_PREFIX[..], point].concat());
        let (name, now) = (server_name(), UnixTime::now());
        let as_client = verifier.verify_client_cert(&key, &[], now).is_err();
        let as_server = verifier.verify_server_cert(&key, &[], &name, &[], now).is_err();
        assert_eq!(as_client, as_server);
        as_client
    };
    assert_eq!(small_order().count(), 14);
    for point in small_order() {
        assert!(refused(&point), "{}", NodeId::from_bytes(point));
    }
    assert!(refused(&[0xff; 32]));
    assert!(!refused(Key::from_secret(&[1; 32]).id().as_bytes()));
}

/// Signs without a secret. This works if the public key is the neutral element A of the group: with
/// the neutral element as R and 0 as S, S·B = R + k·A holds for every message.
#[derive(Debug)]
struct NoSecret;

impl rustls::sign::SigningKey for NoSecret {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        Some(Box::new(Self))
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        rustls::SignatureAlgorithm::ED25519
    }
}

impl rustls::sign::Signer for NoSecret {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let mut signature = vec![0; 64];
        signature[0] = 1;
        Ok(signature)
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

#[tokio::test]
async fn an_identity_without_a_secret_is_refused() {
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let spki = CertificateDer::from([&SPKI_PREFIX[..], &neutral].concat());
    let forged = Arc::new(CertifiedKey::new(vec![spki], Arc::new(NoSecret)));
    let mut config = tls(2).link;
    config.client_auth_cert_resolver = Arc::new(AlwaysResolvesClientRawPublicKeys::new(forged));
    let (dialled, accepted) = tcp_pair().await;
    let ours = tls(1);
    let (accepted, _dialled) = tokio::join!(
        ours.accept(accepted),
        TlsConnector::from(Arc::new(config)).connect(server_name(), dialled),
    );
    let error = accepted.err().map(|error| error.to_string()).unwrap();
    assert!(error.contains("no node can hold"), "{error}");
}

#[tokio::test]
async fn everything_arrives_with_channels_at_both_ends() {
    let (mut ours, mut theirs) = channels().await;
    for len in [1, 2, MAX_CONTENT - 1, MAX_CONTENT, MAX_CONTENT + 1, 3_000_000] {
        let bytes = some_bytes(len);
        tokio::join!(write_flushed(&mut ours, &bytes), expect_bytes(&mut theirs, &bytes));
        tokio::join!(write_flushed(&mut theirs, &bytes), expect_bytes(&mut ours, &bytes));
    }
    ours.shutdown().await.unwrap();
    let mut rest = Vec::new();
    assert_eq!(theirs.read_to_end(&mut rest).await.unwrap(), 0);
    assert_eq!(ours.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    write_flushed(&mut theirs, b"the other direction is still open").await;
    expect_bytes(&mut ours, b"the other direction is still open").await;
}

#[tokio::test]
async fn everything_arrives_with_rustls_at_the_other_end() {
    for (mut ours, mut theirs) in [dialled_rustls().await, accepted_rustls().await] {
        // Our channel updates its key after 5 records, in the middle of the data, although rustls has not
        // requested that.
        #[cfg(not(feature = "reference-tls"))]
        ours.limit_records(5);
        for len in [1, MAX_CONTENT - 1, MAX_CONTENT, MAX_CONTENT + 1, 1_000_000] {
            let bytes = some_bytes(len);
            tokio::join!(write_flushed(&mut ours, &bytes), expect_bytes(&mut theirs, &bytes));
            tokio::join!(write_flushed(&mut theirs, &bytes), expect_bytes(&mut ours, &bytes));
            // rustls updates its key, and requests that our channel updates its own.
            refresh(&mut theirs);
        }
        theirs.shutdown().await.unwrap();
        assert_eq!(ours.read(&mut [0; 9]).await.unwrap(), 0);
        ours.shutdown().await.unwrap();
        assert_eq!(theirs.read(&mut [0; 9]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn everything_arrives_through_a_small_read_buffer() {
    let (mut ours, mut theirs) = channels().await;
    let bytes = some_bytes(100_000);
    let (_, received) = tokio::join!(write_flushed(&mut ours, &bytes), async {
        let mut received = Vec::new();
        while received.len() < bytes.len() {
            let mut some = [0; 700];
            let len = theirs.read(&mut some).await.unwrap();
            received.extend_from_slice(&some[..len]);
        }
        received
    });
    assert!(received == bytes);
}

#[tokio::test]
async fn a_connection_that_closes_without_close_notify_is_an_error() {
    let (ours, mut theirs) = channels().await;
    drop(ours);
    let error = theirs.read(&mut [0; 9]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_peer_that_sends_nothing_but_key_updates_is_refused() {
    let (mut ours, mut theirs) = dialled_rustls().await;
    for _ in 0..40 {
        refresh(&mut theirs);
        theirs.flush().await.unwrap();
    }
    let error = ours.read(&mut [0; 9]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}

#[tokio::test]
async fn a_dialler_that_closes_at_once_still_finishes_its_handshake() {
    let (dialled, accepted) = tcp_pair().await;
    let (ours, theirs) = (tls(1), tls(2));
    let (_, accepted) = tokio::join!(
        async { drop(ours.dial(dialled, ChannelPurpose::Link, None).await.unwrap()) },
        theirs.accept(accepted),
    );
    let error = accepted.unwrap().read(&mut [0; 9]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn fewer_bytes_than_expected_are_still_read() {
    let (mut ours, mut theirs) = channels().await;
    let expected = ours.expect_bulk();
    // The number makes the reads larger and lets them wait for more bytes. The first one is more than the
    // system's socket buffers hold, so the reads must not wait for all of it.
    for (announced, len) in [(10_000_000, 10_000_000), (1_000_000, 100_000), (200_000, 0)] {
        expected.set(announced);
        let bytes = some_bytes(len);
        tokio::join!(write_flushed(&mut theirs, &bytes), expect_bytes(&mut ours, &bytes));
    }
    theirs.shutdown().await.unwrap();
    assert_eq!(ours.read(&mut [0; 9]).await.unwrap(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn slices_of_any_sizes_arrive(sizes in prop::collection::vec(0_usize..40_000, 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut ours, mut theirs) = channels().await;
            let bytes = some_bytes(sizes.iter().sum());
            let mut rest = &bytes[..];
            let mut slices: Vec<_> = sizes.iter().map(|size| {
                let (slice, behind) = rest.split_at(*size);
                rest = behind;
                IoSlice::new(slice)
            }).collect();
            tokio::join!(
                async {
                    let mut slices = &mut slices[..];
                    IoSlice::advance_slices(&mut slices, 0);
                    while !slices.is_empty() {
                        let wrote = ours.write_vectored(slices).await.unwrap();
                        IoSlice::advance_slices(&mut slices, wrote);
                    }
                    ours.flush().await.unwrap();
                },
                expect_bytes(&mut theirs, &bytes),
            );
        });
    }
}
