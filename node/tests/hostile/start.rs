//! Attacks before there is a link: on the accept loop, on the TLS handshake, and with Hello.

use std::time::{Duration, Instant};

use peerkit::{Event, Node, Reason, Scheme};
use peerkit_proto::frame::Frame;
use peerkit_proto::hello::{ALPN_LINK, ALPN_STREAM, FEATURE_UDP};
use peerkit_proto::id::Key;
use peerkit_proto::versions::{VersionGap, Versions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::attacker::tls::{self, Credentials};
use crate::attacker::{
    Attacker, End, STEP_TIMEOUT, Victim, config, encoded, hello, key, raw_frame, text, within,
};

const SECRET: &str = "a secret of many letters";

/// Sends `bytes` over a TCP connection without TLS, and reads until the victim closes it.
async fn send_without_tls(victim: &Victim, bytes: &[u8]) {
    let mut tcp = TcpStream::connect(victim.address()).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // An error is ignored: the system resets the connection if the victim has not read everything.
    let _ = within(STEP_TIMEOUT, "the connection's end", tcp.read_to_end(&mut answer)).await;
}

/// In p2pnetwork, a first byte that is not UTF-8 ends the accept thread.
#[tokio::test]
async fn one_0xff_byte_does_not_kill_the_accept_loop() {
    let victim = Victim::new().await;
    send_without_tls(&victim, &[0xff]).await;
    victim.connection_error().await;
    victim.check_unharmed().await;
}

/// p2pnetwork expects `id:port` and splits at every colon. A second colon ends its accept thread.
#[tokio::test]
async fn the_handshake_a_b_c_does_not_kill_the_accept_loop() {
    let victim = Victim::new().await;
    send_without_tls(&victim, b"a:b:c").await;
    victim.connection_error().await;
    victim.check_unharmed().await;
}

#[tokio::test]
async fn connections_that_do_not_speak_tls_are_closed() {
    let victim = Victim::new().await;
    for noise in [
        &b"GET / HTTP/1.1\r\nHost: victim\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.9\r\n",
        &[0; 4096],
        // A TLS record header with the greatest length, and a TLS record without a handshake message in it.
        &[0x16, 3, 1, 0xff, 0xff, 1],
        &[0x16, 3, 1, 0, 5, 1, 0xff, 0xff, 0xff, 0],
        b"",
    ] {
        send_without_tls(&victim, noise).await;
    }
    victim.check_unharmed().await;
}

/// In p2pnetwork, the accept thread waits for the first bytes of each client in turn.
#[tokio::test]
async fn silent_and_slow_clients_do_not_block_an_honest_node() {
    let mut config = config();
    config.handshake_timeout = Duration::from_secs(3600);
    let victim = Victim::with_config(config).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(victim.address()).await.unwrap());
    }
    let mut slow = TcpStream::connect(victim.address()).await.unwrap();
    let slow = tokio::spawn(async move {
        for byte in [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3] {
            let _ = slow.write_all(&[byte]).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let honest = Node::builder().spawn().await.unwrap();
    let connecting = honest.connect(victim.address());
    within(STEP_TIMEOUT, "an honest node's link", connecting).await.unwrap();
    honest.shutdown().await;
    slow.abort();
    let _ = slow.await;
    drop(silent);
    victim.check_unharmed().await;
}

/// The attacker opens more connections than may be pending. The victim closes the oldest of them, and no
/// other one before its deadline.
#[tokio::test]
async fn pending_handshakes_are_bounded() {
    let mut config = config();
    config.max_pending = 4;
    config.handshake_timeout = Duration::from_secs(60);
    let victim = Victim::with_config(config).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(victim.address()).await.unwrap());
    }
    for evicted in &mut silent[..6] {
        let read =
            within(STEP_TIMEOUT, "the oldest connections to be closed", evicted.read_u8()).await;
        assert!(read.is_err());
    }
    for pending in &mut silent[6..] {
        let mut byte = [0];
        let nothing = pending.try_read(&mut byte).unwrap_err();
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    }
    drop(silent);
    victim.check_unharmed().await;
}

#[tokio::test]
async fn an_unfinished_handshake_ends_at_its_deadline_at_any_stage() {
    let victim = Victim::new().await;
    let started = Instant::now();
    let mut in_tls = TcpStream::connect(victim.address()).await.unwrap();
    in_tls.write_all(&[0x16, 3, 1]).await.unwrap();
    let mut before_hello = Attacker::connect_tls(victim.address()).await;
    let mut in_hello = Attacker::connect_tls(victim.address()).await;
    let bytes = encoded(&Frame::Hello(hello()));
    in_hello.send_raw(&bytes[..bytes.len() - 1]).await;
    let mut in_opening = Attacker::connect_tls_as(victim.address(), key(), ALPN_STREAM).await;
    in_opening.send_raw(&[200, 0, 0, 0, 1]).await;

    assert!(within(STEP_TIMEOUT, "TLS", in_tls.read_u8()).await.is_err());
    for attacker in [&mut before_hello, &mut in_hello, &mut in_opening] {
        attacker.end().await;
    }
    assert!(started.elapsed() >= config().handshake_timeout * 9 / 10, "ended before the deadline");
    assert_eq!(victim.connection_error().await, "the handshake took too long");
    drop((in_tls, before_hello, in_hello, in_opening));
    victim.check_unharmed().await;
}

#[tokio::test]
async fn other_protocols_and_credentials_are_refused_by_tls() {
    let victim = Victim::new().await;
    let raw = |key| Credentials::Raw(tls::spki(key));
    let (ours, other) = (key(), key());
    // A key on another curve (P-256), and an Ed25519 key that is one byte too long.
    let p256 = [&[0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce][..], &[0x3d; 81]].concat();
    let long = [tls::spki(&ours), vec![0]].concat();
    let clients = [
        ("no ALPN", tls::client_with(&ours, &[], raw(&ours))),
        ("ALPN h2", tls::client_with(&ours, &[b"h2", b"http/1.1"], raw(&ours))),
        ("ALPN of a later version", tls::client_with(&ours, &[b"peerkit/2"], raw(&ours))),
        ("no key", tls::client_with(&ours, &[ALPN_LINK], Credentials::Nothing)),
        ("X.509", tls::client_with(&ours, &[ALPN_LINK], Credentials::Certificate)),
        (
            "X.509 as a raw key",
            tls::client_with(&ours, &[ALPN_LINK], Credentials::Raw(tls::certificate())),
        ),
        ("the key of another node", tls::client_with(&ours, &[ALPN_LINK], raw(&other))),
        ("a P-256 key", tls::client_with(&ours, &[ALPN_LINK], Credentials::Raw(p256))),
        ("a long key", tls::client_with(&ours, &[ALPN_LINK], Credentials::Raw(long))),
        ("an empty key", tls::client_with(&ours, &[ALPN_LINK], Credentials::Raw(Vec::new()))),
    ];
    for (what, client) in clients {
        let tcp = TcpStream::connect(victim.address()).await.unwrap();
        let connector = TlsConnector::from(client);
        let mut received = Vec::new();
        // In TLS 1.3 the client's handshake succeeds before the server has checked the client's key. The
        // server refuses after that.
        if let Ok(mut stream) = connector.connect(tls::server_name(), tcp).await {
            let _ = stream.write_all(&encoded(&Frame::Hello(hello()))).await;
            let _ = within(STEP_TIMEOUT, what, stream.read_to_end(&mut received)).await;
        }
        assert!(received.is_empty(), "{what}: got through");
    }
    victim.check_unharmed().await;
}

#[tokio::test]
async fn garbage_in_place_of_hello_is_reported_and_ends_the_connection() {
    let victim = Victim::new().await;
    let too_long = [&(65_538_u32).to_le_bytes()[..], &[1], &[0; 65_537]].concat();
    let cases = [
        (vec![0xff; 64], "a frame of kind 0xff announces"),
        (vec![0; 64], "a frame without a kind"),
        (raw_frame(0x01, &[0xff; 300]), "a frame of kind 0x01: network name"),
        (raw_frame(0x01, b""), "a frame of kind 0x01: the bytes end too early"),
        (too_long, "a frame of kind 0x01 announces 65537 bytes"),
        (encoded(&Frame::Ping(1)), "a frame before Hello"),
        (encoded(&text("hi")), "a frame before Hello"),
        (raw_frame(0x77, b"what later versions say"), "a frame before Hello"),
    ];
    for (bytes, fault) in cases {
        let mut attacker = Attacker::connect_tls(victim.address()).await;
        attacker.send_raw(&bytes).await;
        let reported = attacker.fault().await;
        assert!(reported.starts_with(fault), "reported: {reported}");
    }
    victim.check_unharmed().await;
}

#[tokio::test]
async fn an_unsuitable_hello_is_refused_with_the_reason() {
    let victim = Victim::with_secret(SECRET).await;
    let refused = async |change: fn(&mut peerkit_proto::hello::Hello)| {
        let mut attacker = Attacker::connect_tls(victim.address()).await;
        let mut hello = hello();
        change(&mut hello);
        attacker.send(&Frame::Hello(hello)).await;
        attacker.end().await
    };
    let other = refused(|hello| hello.network = "other".into()).await;
    assert_eq!(other, End::Goodbye(Reason::OtherNetwork));
    let later = refused(|hello| (hello.version_min, hello.version_max) = (3, 9)).await;
    let gap = VersionGap { refusing: Versions::OURS, refused: Versions { min: 3, max: 9 } };
    assert_eq!(later, End::Goodbye(Reason::Version(Some(gap))));
    assert_eq!(refused(|_| {}).await, End::Goodbye(Reason::WrongSecret));
    let wrong = refused(|hello| hello.proof = Some([7; 32])).await;
    assert_eq!(wrong, End::Goodbye(Reason::WrongSecret));
    victim.check_unharmed().await;
}

#[tokio::test]
async fn a_link_speaks_the_highest_common_version_and_reports_disabled_features() {
    let victim = Victim::new().await;
    for (seed, versions, version) in [(50, (1, 1), 1), (51, (1, 2), 2), (52, (2, 9), 2)] {
        let peer = Key::from_secret(&[seed; 32]);
        let id = peer.id();
        let change = move |hello: &mut peerkit_proto::hello::Hello| {
            (hello.version_min, hello.version_max) = versions;
            hello.features = u64::MAX;
            hello.addresses = vec!["127.0.0.1:1".parse().unwrap()];
        };
        let _link = Attacker::link_as(victim.address(), peer, change).await;
        let status = victim.node.status().await;
        let status = status.peers.iter().find(|peer| peer.id == id).unwrap();
        assert_eq!(status.version, Some(version), "{versions:?}");
        assert_eq!(status.off.is_empty(), version == 2, "{:?}", status.off);
        if let Some(off) = status.off.first() {
            assert!(off.contains("clocks") && off.contains("version 1"), "{off}");
        }
    }
    victim.check_unharmed().await;
}

/// Returns the recorded Hello of a node from before there was QUIC, as bytes.
fn recorded_hello(version: u16) -> Vec<u8> {
    let folder = format!("{}/../tests/fixtures/wire-{version}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(format!("{folder}/conversation.txt")).unwrap();
    let digits: String = text.lines().filter_map(|line| line.strip_prefix("1 > ")).collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
    let len = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    bytes[..4 + len].to_vec()
}

#[tokio::test]
async fn a_node_from_before_quic_is_linked_over_tcp_and_gets_no_packet_of_udp() {
    for version in [1, 2] {
        let mut config = config();
        // The node at the loopback address counts as one of the internet, which could see this node's UDP address.
        config.limit_loopback = true;
        let victim = Victim::with_config(config).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let udp = tokio::net::UdpSocket::bind(at).await.unwrap();
        let dialling = tokio::spawn({
            let node = victim.node.clone();
            async move { node.connect(at).await }
        });
        let mut old = Attacker::accept(&listener, &key()).await;
        let Some(Frame::Hello(hello)) = old.frame().await else { panic!("no Hello") };
        assert_ne!(hello.features & FEATURE_UDP, 0);
        assert!(hello.addresses.iter().all(|address| address.scheme == Scheme::Tcp), "{hello:?}");
        old.send_raw(&recorded_hello(version)).await;
        let peer = dialling.await.unwrap().unwrap();
        let status = victim.node.status().await;
        let link = status.peers.iter().find(|link| link.id == peer.id()).unwrap();
        assert_eq!(link.version, Some(version));

        old.send(&text("from the past")).await;
        let is_message = |event: &Event| matches!(event, Event::NodeMessage { .. }).then_some(());
        victim.event("a message", is_message).await;
        victim.node.send(&peer, "an answer").await.unwrap();
        while !matches!(old.content().await.unwrap(), Frame::Message(_)) {}
        let nothing = udp.try_recv(&mut [0; 64]).unwrap_err();
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
        drop((old, listener));
        victim.check_unharmed().await;
    }
}

/// The proof is bound to the TLS session. In another session it is invalid.
#[tokio::test]
async fn a_proof_of_the_secret_cannot_be_replayed() {
    let victim = Victim::with_secret(SECRET).await;
    // An honest node dials the attacker and sends its proof.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let honest = Node::builder().secret(SECRET).spawn().await.unwrap();
    let dialling = tokio::spawn({
        let honest = honest.clone();
        async move { honest.connect(at).await }
    });
    let mut accepted = Attacker::accept(&listener, &key()).await;
    let Some(Frame::Hello(seen)) = accepted.frame().await else { panic!("no Hello") };
    let mut attacker = Attacker::connect_tls(victim.address()).await;
    attacker.send(&Frame::Hello(seen)).await;
    assert_eq!(attacker.end().await, End::Goodbye(Reason::WrongSecret));
    drop((accepted, attacker, listener));
    dialling.await.unwrap().unwrap_err();
    honest.shutdown().await;
    victim.check_unharmed().await;
}
