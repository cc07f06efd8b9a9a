//! Attacks over UDP: first packets of handshakes that are never finished. Their senders can name any address as theirs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use peerkit::{Address, Node, Scheme};
use peerkit_proto::hello::ALPN_QUIC_LINK;
use quinn::crypto::rustls::QuicClientConfig;
use tokio::net::UdpSocket;

use crate::attacker::{STEP_TIMEOUT, Sybils, Victim, config, honest_address, key, tls, within};

/// Returns the first packets of `count` dials.
async fn first_packets(count: usize) -> Vec<Vec<u8>> {
    // Nobody answers at this socket.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = silent.local_addr().unwrap();
    let crypto = QuicClientConfig::try_from(tls::client(&key(), &[ALPN_QUIC_LINK])).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let (mut dials, mut packets, mut ids) = (Vec::new(), Vec::new(), BTreeSet::new());
    while packets.len() < count {
        dials.push(endpoint.connect_with(config.clone(), to, "peerkit.invalid").unwrap());
        let mut packet = vec![0; 2048];
        let len = silent.recv(&mut packet).await.unwrap();
        packet.truncate(len);
        // The connection id that the dialler has chosen (RFC 9000, section 17.2). A repeated packet has the same.
        let id = packet[6..6 + usize::from(packet[5])].to_vec();
        if len >= 1200 && ids.insert(id) {
            packets.push(packet);
        }
    }
    packets
}

#[tokio::test]
async fn first_packets_from_a_hundred_addresses_keep_no_honest_node_out() {
    let mut config = config();
    config.limit_loopback = true;
    let victim = Victim::with_config(config).await;
    let packets = first_packets(500).await;
    let mut sockets = Vec::new();
    for sybil in Sybils::new(100, 8).all {
        sockets.push(UdpSocket::bind((sybil.ip, 0)).await.unwrap());
    }
    for (packet, socket) in packets.iter().zip(sockets.iter().cycle()) {
        socket.send_to(packet, victim.address()).await.unwrap();
    }
    let before = victim.node.status().await.handshakes;
    assert!(before <= 16, "{before} handshakes, most without a proof of the address");
    for n in 0..8 {
        let honest = Node::builder().listen(honest_address(n)).spawn().await.unwrap();
        let scheme = if n % 2 == 0 { Scheme::Quic } else { Scheme::Tcp };
        let to = Address::from_socket(victim.address()).with_scheme(scheme);
        let linking = honest.connect(to);
        within(Duration::from_secs(5), "an honest node's link", linking).await.unwrap();
        honest.shutdown().await;
        for (packet, socket) in packets.iter().zip(sockets.iter().cycle()).skip(n * 50).take(50) {
            socket.send_to(packet, victim.address()).await.unwrap();
        }
    }
    victim.check_unharmed().await;
}

/// Anyone can send first packets under the address of an honest host. They take the place of one handshake of the host,
/// and not of all that it may have under way.
#[tokio::test]
async fn of_first_packets_from_one_host_only_one_needs_no_proof_of_the_address() {
    let mut config = config();
    config.limit_loopback = true;
    let victim = Victim::with_config(config).await;
    let packets = first_packets(20).await;
    let socket = UdpSocket::bind(("127.1.0.1", 0)).await.unwrap();
    for packet in &packets {
        socket.send_to(packet, victim.address()).await.unwrap();
    }
    let retries = async {
        let (mut count, mut answer) = (0, [0; 2048]);
        while count < packets.len() - 1 {
            socket.recv(&mut answer).await.unwrap();
            // The type of the packet (RFC 9000, section 17.2.5).
            count += usize::from(answer[0] & 0xf0 == 0xf0);
        }
    };
    within(STEP_TIMEOUT, "the retries", retries).await;
    assert!(victim.node.status().await.handshakes <= 1);
    victim.check_unharmed().await;
}
