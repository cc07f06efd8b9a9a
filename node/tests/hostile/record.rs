//! Records the frames between two nodes of this version, for `tests/fixtures`. CONTRIBUTING.md explains how
//! to make the fixture of a new version.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use peerkit::{Compression, Events, FetchRequest, Key, Message, Node};
use peerkit_proto::id::hex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::attacker::tls::{client, server, server_name};
use crate::attacker::{STEP_TIMEOUT, until, within};

/// Number of bytes in each line of a recording.
const BYTES_PER_LINE: usize = 64;

/// The text of a recording. Both directions of all connections write to it.
type Log = Arc<Mutex<String>>;

/// Relays all connections between two nodes, and records their frames. The relay has the keys of both nodes,
/// so that each of them takes it for the other node.
async fn relay_and_record(
    listener: TcpListener,
    to: SocketAddr,
    (dialler, acceptor): (Key, Key),
    log: Log,
) {
    let mut number = 0;
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let (dialler, acceptor, log) = (dialler.clone(), acceptor.clone(), log.clone());
        number += 1;
        tokio::spawn(async move {
            let Ok(near) = TlsAcceptor::from(server(&acceptor)).accept(tcp).await else { return };
            // The ALPN protocol says whether the connection is a link or a stream. It is recorded, and the
            // relay uses the same one towards `to`.
            let alpn = near.get_ref().1.alpn_protocol().unwrap().to_vec();
            let tcp = TcpStream::connect(to).await.unwrap();
            let connector = TlsConnector::from(client(&dialler, &[&alpn]));
            let far = connector.connect(server_name(), tcp).await.unwrap();
            let alpn = String::from_utf8(alpn).unwrap();
            log.lock().unwrap().push_str(&format!("connection {number} {alpn}\n"));
            let (near_read, near_write) = tokio::io::split(TlsStream::from(near));
            let (far_read, far_write) = tokio::io::split(TlsStream::from(far));
            tokio::join!(
                copy(near_read, far_write, format!("{number} >"), log.clone()),
                copy(far_read, near_write, format!("{number} <"), log.clone()),
            );
        });
    }
}

/// Copies the bytes of one direction, and records them in lines that begin with `prefix`.
async fn copy(
    mut from: ReadHalf<TlsStream<TcpStream>>,
    mut to: WriteHalf<TlsStream<TcpStream>>,
    prefix: String,
    log: Log,
) {
    let mut bytes = vec![0; 1 << 14];
    while let Ok(len @ 1..) = from.read(&mut bytes).await {
        {
            let mut log = log.lock().unwrap();
            for line in bytes[..len].chunks(BYTES_PER_LINE) {
                writeln!(log, "{prefix} {}", hex(line)).unwrap();
            }
        }
        if to.write_all(&bytes[..len]).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Waits for the next event with this name. Skips all other events.
async fn wait_for(events: &mut Events, name: &str) {
    let waiting = async { while events.next().await.is_some_and(|event| event.name() != name) {} };
    within(STEP_TIMEOUT, name, waiting).await;
}

/// Ann joins through Bob, over the recording relay. Carl does not listen, and has one link, with Bob. The
/// nodes then send every kind of frame at least once.
#[tokio::test]
#[ignore = "writes the file that PEERKIT_RECORDING names"]
async fn record_a_conversation() {
    let path = PathBuf::from(std::env::var_os("PEERKIT_RECORDING").expect("the file to write"));
    // The tests that replay the fixtures use the same keys.
    let [ann_key, bob_key, carl_key] = [1, 2, 3].map(|n| Key::from_secret(&[n; 32]));
    let start = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let log = Log::new(Mutex::new(format!("time {start}\n")));
    let builder = |name: &str, key: &Key| Node::builder().name(name).key(key.clone());
    let ann = builder("ann", &ann_key).listen("127.0.0.1:0").spawn().await.unwrap();
    let bob = builder("bob", &bob_key).listen("127.0.0.1:0").spawn().await.unwrap();
    let carl = builder("carl", &carl_key).spawn().await.unwrap();
    let [mut ann_events, mut bob_events, mut carl_events] = [&ann, &bob, &carl].map(Node::events);
    carl.connect(bob.listening()[0]).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = peerkit::Address::from_socket(listener.local_addr().unwrap()).with_id(bob.id());
    let relay = tokio::spawn(relay_and_record(
        listener,
        bob.listening()[0],
        (ann_key, bob_key),
        log.clone(),
    ));

    ann.join(&[at]).await.unwrap();
    until("the link", || bob.peer(ann.id()).is_some(), String::new).await;
    ann.send(bob.id(), "a text").await.unwrap();
    wait_for(&mut bob_events, "node_message").await;
    bob.send(ann.id(), Message::json(&[1, 2]).unwrap()).await.unwrap();
    wait_for(&mut ann_events, "node_message").await;
    for compression in [Compression::Zlib, Compression::Zstd] {
        let bytes = Message::bytes(vec![7; 3000]);
        ann.send(bob.id(), bytes.compressed(compression)).await.unwrap();
        wait_for(&mut bob_events, "node_message").await;
    }
    bob.serve("sum", |_, _| async { Ok::<_, Infallible>(Message::text("3")) });
    ann.request(bob.id(), "sum", "1 2").await.unwrap();
    ann.request(bob.id(), "no such request", "").await.unwrap_err();
    ann.ping(bob.id()).await.unwrap();
    ann.broadcast("of ann", "to all").await.unwrap();
    wait_for(&mut bob_events, "node_broadcast").await;
    bob.broadcast("of bob", "to all").await.unwrap();
    wait_for(&mut ann_events, "node_broadcast").await;
    ann.discover(-1).await.unwrap();
    ann.send(carl.id(), "through bob").await.unwrap();
    wait_for(&mut carl_events, "node_message").await;
    carl.send(ann.id(), "back").await.unwrap();
    wait_for(&mut ann_events, "node_message").await;

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fixture.bin");
    std::fs::write(&file, [5; 3000]).unwrap();
    let shared = bob.share(&file).await.unwrap().shared;
    assert_eq!(ann.search("fixture*").await.unwrap().len(), 1);
    let request = FetchRequest::new(shared.hash).to(folder.path().join("fetched.bin"));
    ann.fetch(request).await.unwrap();
    bob.serve_stream("echo/1", |mut stream| async move {
        let mut word = [0; 5];
        stream.read_exact(&mut word).await.unwrap();
        stream.write_all(&word).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let mut stream = ann.open_stream(bob.id(), "echo/1").await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.flush().await.unwrap();
    let mut word = String::new();
    stream.read_to_string(&mut word).await.unwrap();
    assert_eq!(word, "hello");
    // Leaves time for a shuffle, so that its frames are recorded too.
    tokio::time::sleep(Duration::from_secs(1)).await;
    ann.shutdown().await;
    until("the end", || bob.peer(ann.id()).is_none(), String::new).await;
    bob.shutdown().await;
    carl.shutdown().await;
    relay.abort();
    let text = log.lock().unwrap().clone();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}
