//! Links and streams over QUIC.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::*;
use peerkit::{
    Address, Config, Direction, Error, Event, FetchRequest, Key, LinkEnd, Message, Node, Reason,
    Scheme, Stream,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

/// Returns the address at which a node is dialled over QUIC.
fn quic_address(node: &Node) -> Address {
    Address::from_socket(address_of(node)).with_scheme(Scheme::Quic)
}

/// Returns a node that listens nowhere, so that no other node can dial it.
async fn hidden(name: &str) -> Node {
    Node::builder().name(name).spawn().await.unwrap()
}

#[tokio::test]
async fn a_link_over_quic_carries_messages_and_requests_both_ways_and_ends_with_its_reason() {
    let (ann, bob) = (node("ann").await, hidden("bob").await);
    let (mut at_ann, mut at_bob) = (ann.events(), bob.events());
    ann.serve("double", |_, request: Message| async move {
        let text = request.as_text().unwrap_or_default().repeat(2);
        Ok::<_, String>(Message::text(text))
    });
    let peer = bob.connect(quic_address(&ann)).await.unwrap();
    assert_eq!((peer.id(), peer.direction()), (ann.id(), Direction::Outbound));
    assert_eq!(peer.address(), &quic_address(&ann));
    expect_event(&mut at_ann, "inbound_node_connected").await;
    expect_event(&mut at_bob, "outbound_node_connected").await;

    for n in 0..500 {
        bob.send(&peer, n.to_string()).await.unwrap();
        ann.send(bob.id(), n.to_string()).await.unwrap();
    }
    for n in 0..500 {
        assert_eq!(next_text(&mut at_ann).await, n.to_string());
        assert_eq!(next_text(&mut at_bob).await, n.to_string());
    }
    // Larger than the window of a stream.
    let large = SeededRandom(1).bytes(8 << 20);
    bob.send(&peer, Message::bytes(large.clone())).await.unwrap();
    assert!(next_message(&mut at_ann).await.body()[..] == large[..]);
    let reply = bob.request(&peer, "double", "ab").await.unwrap();
    assert_eq!(reply.as_text(), Some("abab"));
    assert!(bob.ping(&peer).await.unwrap() < Duration::from_secs(1));

    ann.disconnect(bob.id()).await.unwrap();
    let Event::OutboundNodeDisconnected { link_end, .. } =
        expect_event(&mut at_bob, "outbound_node_disconnected").await
    else {
        panic!()
    };
    assert_eq!(link_end, LinkEnd { reason: Reason::Requested, by_peer: true });
    shutdown([&ann, &bob]).await;
}

#[tokio::test]
async fn a_node_that_stops_says_goodbye_over_quic() {
    let (ann, bob) = (node("ann").await, node("bob").await);
    let mut at_ann = ann.events();
    let peer = bob.connect(quic_address(&ann)).await.unwrap();
    bob.send(&peer, "last words").await.unwrap();
    bob.shutdown().await;
    assert_eq!(next_text(&mut at_ann).await, "last words");
    let Event::InboundNodeDisconnected { link_end, .. } =
        expect_event(&mut at_ann, "inbound_node_disconnected").await
    else {
        panic!()
    };
    assert_eq!(link_end, LinkEnd { reason: Reason::Stopping, by_peer: true });
    shutdown([&ann]).await;
}

#[tokio::test]
async fn both_ends_of_a_quic_link_open_streams_on_it() {
    let (ann, bob) = (node("ann").await, hidden("bob").await);
    let echo = |mut stream: Stream| async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(len @ 1..) = stream.read(&mut buffer).await {
            stream.write_all(&buffer[..len]).await.unwrap();
        }
        stream.shutdown().await.unwrap();
    };
    ann.serve_stream("echo", echo);
    bob.serve_stream("echo", echo);
    bob.connect(quic_address(&ann)).await.unwrap();
    let bytes = SeededRandom(2).bytes(3 << 20);
    for (from, to) in [(&ann, &bob), (&bob, &ann)] {
        // `bob` does not listen, so over TCP nobody could open a stream to it.
        let mut stream = within("the stream", from.open_stream(to.id(), "echo")).await.unwrap();
        assert_eq!(stream.peer(), to.id());
        let (mut reading, mut writing) = tokio::io::split(&mut stream);
        let sent = async {
            writing.write_all(&bytes).await.unwrap();
            writing.shutdown().await.unwrap();
        };
        let mut read = Vec::new();
        let (read_to_end, ()) = tokio::join!(reading.read_to_end(&mut read), sent);
        read_to_end.unwrap();
        assert!(read == bytes);
    }
    let Err(Error::StreamRefused { why, .. }) = bob.open_stream(ann.id(), "nothing").await else {
        panic!()
    };
    assert_eq!(why, "it does not speak `nothing`");
    shutdown([&ann, &bob]).await;
}

/// Otherwise a reader would take the part that has arrived for all of it.
#[tokio::test]
async fn a_stream_that_is_dropped_before_its_end_is_an_error_for_the_reader() {
    let (ann, bob) = (node("ann").await, hidden("bob").await);
    let (ended, end) = tokio::sync::oneshot::channel();
    let ended = Arc::new(Mutex::new(Some(ended)));
    ann.serve_stream("sink", move |mut stream: Stream| {
        let ended = ended.lock().unwrap().take();
        async move {
            let read = stream.read_to_end(&mut Vec::new()).await;
            let _ = ended.unwrap().send(read.map_err(|error| error.kind()));
        }
    });
    bob.connect(quic_address(&ann)).await.unwrap();
    let mut stream = bob.open_stream(ann.id(), "sink").await.unwrap();
    stream.write_all(b"half of").await.unwrap();
    drop(stream);
    let read = within("the end of the stream", end).await.unwrap();
    assert_eq!(read, Err(std::io::ErrorKind::ConnectionReset));
    shutdown([&ann, &bob]).await;
}

#[tokio::test]
async fn files_are_fetched_over_a_quic_link_from_a_node_that_cannot_be_dialled() {
    let (ann, bob) = (node("ann").await, hidden("bob").await);
    bob.connect(quic_address(&ann)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let content = SeededRandom(3).bytes((5 << 20) + 17);
    let path = folder.path().join("a song");
    std::fs::write(&path, &content).unwrap();
    let shared = bob.share(&path).await.unwrap().shared;
    let to = folder.path().join("copy");
    let fetched = within("the fetch", ann.fetch(FetchRequest::new(shared.hash).to(&to))).await;
    assert_eq!(fetched.unwrap().sources, [bob.id()]);
    assert!(std::fs::read(to).unwrap() == content);
    shutdown([&ann, &bob]).await;
}

#[tokio::test]
async fn a_dial_over_quic_reports_who_answers_and_why_it_is_refused() {
    let (ann, bob) = (node("ann").await, node("bob").await);
    let other = Key::from_secret(&[1; 32]).id();
    let wrong = quic_address(&ann).with_id(other);
    let Err(Error::WrongNode { address, found }) = bob.connect(&wrong).await else { panic!() };
    assert_eq!((address, found), (wrong, ann.id()));
    let expected = |status: peerkit::Status| status.handshake_failures.inbound["wrong_id"];
    // The dialler has closed the connection, but its packet may still be on its way.
    within("the count", async {
        while expected(ann.status().await) != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(bob.connect(quic_address(&ann).with_id(ann.id())).await.unwrap().id(), ann.id());

    let far = builder("far").network("another").spawn().await.unwrap();
    let refused = far.connect(quic_address(&ann)).await;
    assert!(matches!(refused, Err(Error::Refused { reason: Reason::OtherNetwork, .. })));
    let itself = ann.connect(quic_address(&ann)).await;
    assert!(matches!(itself, Err(Error::Refused { reason: Reason::SelfConnection, .. })));
    shutdown([&ann, &bob, &far]).await;
}

#[tokio::test]
async fn a_node_without_udp_neither_dials_nor_listens_there() {
    let without = || {
        let mut config = Config::default();
        (config.udp, config.connect_timeout) = (false, Duration::from_millis(500));
        config
    };
    let (ann, bob) = (node("ann").await, node("bob").await);
    let tcp_only = builder("tcp only").config(without()).spawn().await.unwrap();
    let Err(Error::Connect { error, .. }) = tcp_only.connect(quic_address(&ann)).await else {
        panic!()
    };
    assert_eq!(error.to_string(), "UDP is switched off at this node");
    // The port is free, as nothing has bound it.
    drop(UdpSocket::bind(address_of(&tcp_only)).await.unwrap());
    assert!(UdpSocket::bind(address_of(&ann)).await.is_err());
    bob.connect(address_of(&tcp_only)).await.unwrap();
    shutdown([&ann, &bob, &tcp_only]).await;
}

#[tokio::test]
async fn two_nodes_that_dial_each_other_over_both_transports_keep_one_link() {
    for _ in 0..10 {
        let (ann, bob) = (node("ann").await, node("bob").await);
        let dials = tokio::join!(
            ann.connect(address_of(&bob)),
            bob.connect(quic_address(&ann)),
            ann.connect(quic_address(&bob)),
            bob.connect(address_of(&ann)),
        );
        assert_eq!(dials.0.unwrap().id(), bob.id());
        assert_eq!(dials.1.unwrap().id(), ann.id());
        assert_eq!(dials.2.unwrap().id(), bob.id());
        assert_eq!(dials.3.unwrap().id(), ann.id());
        assert_eq!((ann.peers().len(), bob.peers().len()), (1, 1));
        shutdown([&ann, &bob]).await;
    }
}

/// Forwards datagrams between one dialler and a node, like a NAT router.
struct UdpProxy {
    address: SocketAddr,
    outside: Arc<Mutex<Arc<UdpSocket>>>,
    rebind: tokio::sync::mpsc::Sender<()>,
}

impl UdpProxy {
    async fn new(to: SocketAddr) -> Self {
        let inside = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = inside.local_addr().unwrap();
        let first = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let outside = Arc::new(Mutex::new(first));
        let (rebind, mut rebound) = tokio::sync::mpsc::channel(1);
        let current = outside.clone();
        tokio::spawn(async move {
            let (mut sent, mut received) = (vec![0; 2048], vec![0; 2048]);
            let mut dialler = None;
            loop {
                let socket = current.lock().unwrap().clone();
                tokio::select! {
                    Ok((len, from)) = inside.recv_from(&mut sent) => {
                        dialler = Some(from);
                        let _ = socket.send_to(&sent[..len], to).await;
                    }
                    Ok(len) = socket.recv(&mut received) => {
                        let _ = inside.send_to(&received[..len], dialler.unwrap()).await;
                    }
                    Some(()) = rebound.recv() => {}
                }
            }
        });
        Self { address, outside, rebind }
    }

    /// Sends all further datagrams from another port, and receives none at the one before.
    async fn change_port(&self) {
        let next = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        *self.outside.lock().unwrap() = next;
        self.rebind.send(()).await.unwrap();
    }
}

#[tokio::test]
async fn a_link_over_quic_survives_that_the_router_gives_the_dialler_another_port() {
    let (ann, bob) = (node("ann").await, hidden("bob").await);
    let proxy = UdpProxy::new(address_of(&ann)).await;
    let mut at_ann = ann.events();
    let address = Address::from_socket(proxy.address).with_scheme(Scheme::Quic);
    let peer = bob.connect(address).await.unwrap();
    bob.send(&peer, "before").await.unwrap();
    assert_eq!(next_text(&mut at_ann).await, "before");
    proxy.change_port().await;
    bob.send(&peer, "after").await.unwrap();
    assert_eq!(next_text(&mut at_ann).await, "after");
    let mut at_bob = bob.events();
    ann.send(bob.id(), "answer").await.unwrap();
    assert_eq!(next_text(&mut at_bob).await, "answer");
    assert_eq!((ann.peers().len(), bob.peers().len()), (1, 1));
    shutdown([&ann, &bob]).await;
}

/// Packets that are no handshake, or one that is never finished.
#[tokio::test]
async fn strange_datagrams_keep_nobody_from_dialling() {
    let (ann, bob) = (node("ann").await, hidden("bob").await);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut random = SeededRandom(4);
    for _ in 0..2_000 {
        let len = 1 + usize::try_from(random.next() % 1400).unwrap();
        let mut bytes = random.bytes(len);
        // Half of them look like the first packet of a dialler.
        if random.next().is_multiple_of(2) {
            bytes.resize(1200, 0);
            bytes[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
        }
        socket.send_to(&bytes, address_of(&ann)).await.unwrap();
    }
    assert_eq!(bob.connect(quic_address(&ann)).await.unwrap().id(), ann.id());
    shutdown([&ann, &bob]).await;
}
