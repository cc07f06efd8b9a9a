//! Attacks with streams: invalid openings, too many streams, and floods of call-backs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use peerkit::{Address, Key};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::query::{Query, QueryId, QueryKind};
use peerkit_proto::hello::{ALPN_STREAM, StreamOpen};
use peerkit_proto::node_record::NodeRecord;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::attacker::{Attacker, STEP_TIMEOUT, Victim, config, key, opening, until, within};

/// The status bytes that answer an opening.
const OPEN: u8 = 0;
const OTHER_NETWORK: u8 = 1;
const WRONG_SECRET: u8 = 2;
const NO_PROTOCOL: u8 = 3;
const BUSY: u8 = 4;
const NO_TOKEN: u8 = 5;

/// Maximum number of call-backs that a node has under way.
const MAX_CALL_BACKS: usize = 16;

/// Serves the protocol `echo` on streams.
fn serve_echo(victim: &Victim) {
    victim.node.serve_stream("echo", |stream| async move {
        let (mut from, mut to) = tokio::io::split(stream);
        let _ = tokio::io::copy(&mut from, &mut to).await;
    });
}

#[tokio::test]
async fn an_unsuitable_opening_is_refused_with_the_reason() {
    let victim = Victim::new().await;
    serve_echo(&victim);
    let cases = [
        (opening("no such"), NO_PROTOCOL),
        (opening(""), NO_PROTOCOL),
        (StreamOpen { network: "other".into(), ..opening("echo") }, OTHER_NETWORK),
        (StreamOpen { token: Some([7; 16]), ..opening("echo") }, NO_TOKEN),
    ];
    for (open, status) in cases {
        let (mut attacker, answer) = Attacker::open(victim.address(), key(), &open).await;
        assert_eq!(answer, Some(status), "{open:?}");
        attacker.end().await;
    }
    // A valid opening that is made in the same way is accepted.
    let (mut honest, answer) = Attacker::open(victim.address(), key(), &opening("echo")).await;
    assert_eq!(answer, Some(OPEN));
    honest.send_raw(b"x").await;
    assert_eq!(within(STEP_TIMEOUT, "the echo", honest.stream.read_u8()).await.unwrap(), b'x');
    drop(honest);
    victim.check_unharmed().await;
}

#[tokio::test]
async fn an_opening_with_a_wrong_or_no_secret_is_refused() {
    let victim = Victim::with_secret("a secret of many letters").await;
    serve_echo(&victim);
    for proof in [None, Some([7; 32])] {
        let open = StreamOpen { proof, ..opening("echo") };
        let (_, answer) = Attacker::open(victim.address(), key(), &open).await;
        assert_eq!(answer, Some(WRONG_SECRET));
    }
    victim.check_unharmed().await;
}

#[tokio::test]
async fn a_malformed_opening_ends_the_connection() {
    let victim = Victim::new().await;
    let mut valid = Vec::new();
    opening("echo").encode(&mut valid);
    let mut trailing = valid.clone();
    trailing[0] += 1;
    trailing.push(0);
    let oversized = [&257_u32.to_le_bytes()[..], &[0; 257]].concat();
    for bytes in [&[0xff; 300][..], &[0; 4], &[200; 204], &trailing, &oversized] {
        let mut attacker = Attacker::connect_tls_as(victim.address(), key(), ALPN_STREAM).await;
        attacker.send_raw(bytes).await;
        let mut answer = Vec::new();
        let _ = within(STEP_TIMEOUT, "the end", attacker.stream.read_to_end(&mut answer)).await;
        assert!(answer.is_empty(), "answered: {answer:?}");
    }
    victim.check_unharmed().await;
}

#[tokio::test]
async fn the_streams_of_one_peer_are_limited() {
    let mut config = config();
    config.max_streams_per_peer = 3;
    let victim = Victim::with_config(config).await;
    serve_echo(&victim);
    let key = key();
    let mut open = Vec::new();
    for n in 0..5 {
        let (stream, answer) =
            Attacker::open(victim.address(), key.clone(), &opening("echo")).await;
        assert_eq!(answer, Some(if n < 3 { OPEN } else { BUSY }));
        open.push(stream);
    }
    // Another peer can still open a stream. The same peer can do so after one of its streams has ended.
    let (other, answer) =
        Attacker::open(victim.address(), crate::attacker::key(), &opening("echo")).await;
    assert_eq!(answer, Some(OPEN));
    let mut first = open.remove(0);
    first.stream.shutdown().await.unwrap();
    first.end().await;
    let mut again = None;
    while again != Some(OPEN) {
        // The handler has ended, but its permit may be returned a moment later, so this tries several times.
        let (stream, answer) =
            Attacker::open(victim.address(), key.clone(), &opening("echo")).await;
        again = answer;
        open.push(stream);
        assert!(open.len() < 100);
    }
    drop((open, first, other));
    victim.check_unharmed().await;
}

/// If the handler of a stream panics, only that stream ends.
#[tokio::test]
async fn a_panic_of_a_stream_handler_ends_no_other_stream() {
    let victim = Victim::new().await;
    victim.node.serve_stream("panics", |_| async { panic!("on purpose") });
    for _ in 0..3 {
        let (mut attacker, answer) =
            Attacker::open(victim.address(), key(), &opening("panics")).await;
        assert_eq!(answer, Some(OPEN));
        attacker.end().await;
    }
    victim.check_unharmed().await;
}

/// The token of a call-back travels through the network. Other nodes that see it must not be able to use it.
#[tokio::test]
async fn the_token_of_a_call_back_is_useless_to_other_nodes() {
    let victim = Victim::new().await;
    let mut peer = Attacker::link(victim.address()).await;
    let opened = tokio::spawn({
        let (node, id) = (victim.node.clone(), peer.id());
        async move { node.open_stream(id, "echo").await }
    });
    let Some(Frame::CallBack { token }) = peer.content().await else { panic!("no call-back") };
    let open = StreamOpen { token: Some(token), ..opening("") };
    let (_, thief_answer) = Attacker::open(victim.address(), key(), &open).await;
    assert_eq!(thief_answer, Some(NO_TOKEN));
    let (mut stream, answer) = Attacker::open(victim.address(), peer.key.clone(), &open).await;
    assert_eq!(answer, Some(OPEN), "the node that was asked for the call-back");
    // The victim sends the protocol of the stream over the connection that the peer has opened.
    let len = stream.stream.read_u32_le().await.unwrap() as usize;
    let mut opening = vec![0; len];
    stream.stream.read_exact(&mut opening).await.unwrap();
    assert_eq!(StreamOpen::decode(opening.into()).unwrap().protocol, "echo");
    stream.send_raw(&[OPEN]).await;
    let victim_stream = opened.await.unwrap().unwrap();
    assert_eq!(victim_stream.peer(), peer.id());
    let (_, second_answer) = Attacker::open(victim.address(), peer.key.clone(), &open).await;
    assert_eq!(second_answer, Some(NO_TOKEN));
    drop((stream, victim_stream, peer));
    victim.check_unharmed().await;
}

/// A listening port that the victim is made to dial. It counts the connections, and the largest number of
/// them that were open at the same time.
struct DialTarget {
    at: SocketAddr,
    calls: Arc<AtomicUsize>,
    max_open: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl DialTarget {
    /// Accepts connections and holds them open. If `accepts_streams` is true, also performs the TLS handshake
    /// and accepts the stream. Sends nothing after that.
    async fn new(key: Key, accepts_streams: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (calls, max_open) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let mut task = JoinSet::new();
        let (counted, max) = (calls.clone(), max_open.clone());
        task.spawn(async move {
            let mut held = JoinSet::new();
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                max.fetch_max(open_at(at), Ordering::SeqCst);
                let key = key.clone();
                held.spawn(async move {
                    if accepts_streams {
                        let acceptor =
                            tokio_rustls::TlsAcceptor::from(crate::attacker::tls::server(&key));
                        if let Ok(mut tls) = acceptor.accept(tcp).await {
                            let len = tls.read_u32_le().await.unwrap_or(0) as usize;
                            let _ = tls.read_exact(&mut vec![0; len]).await;
                            let _ = tls.write_all(&[OPEN]).await;
                            let _ = tls.flush().await;
                            let _ = tls.read_to_end(&mut Vec::new()).await;
                        }
                    } else {
                        let _ = tcp.read_to_end(&mut Vec::new()).await;
                    }
                });
            }
        });
        Self { at, calls, max_open, _task: task }
    }

    /// Checks after a flood that there were connections, and never more than `max` at the same time.
    async fn check(self, victim: Victim, max: usize) {
        let calls = || format!("{} calls", self.calls.load(Ordering::SeqCst));
        until("a call", || self.calls.load(Ordering::SeqCst) > 0, calls).await;
        let open = self.max_open.load(Ordering::SeqCst);
        // A connection that is ending may still be open when the next one starts.
        assert!(open <= max, "{open} at the same time");
        drop(self);
        victim.check_unharmed().await;
    }
}

/// Returns the number of connections to `at` that neither end has closed, from the system's tables. Counting
/// in the attacker would be wrong: a busy attacker notices the end of a connection late.
#[cfg(target_os = "linux")]
fn open_at(at: SocketAddr) -> usize {
    /// The state of a connection that neither end has closed.
    const ESTABLISHED: &str = "01";
    let SocketAddr::V4(at) = at else { panic!("{at} is not IPv4") };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(at.ip().octets()), at.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let is_open = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1) == Some(&local.as_str()) && fields.get(3) == Some(&ESTABLISHED)
    };
    table.lines().filter(is_open).count()
}

/// On other systems only the number of connections is checked.
#[cfg(not(target_os = "linux"))]
fn open_at(_: SocketAddr) -> usize {
    0
}

#[tokio::test]
async fn a_flood_of_unanswered_call_backs_is_bounded() {
    let victim = Victim::new().await;
    let key = key();
    let called = DialTarget::new(key.clone(), false).await;
    let at = called.at;
    let mut attacker =
        Attacker::link_as(victim.address(), key, |hello| hello.addresses = vec![at.into()]).await;
    for n in 0..2000_u32 {
        let mut token = [0; 16];
        token[..4].copy_from_slice(&n.to_le_bytes());
        attacker.send(&Frame::CallBack { token }).await;
    }
    victim.check_honest_node_is_served().await;
    drop(attacker);
    called.check(victim, 2 * MAX_CALL_BACKS).await;
}

/// The dialled attacker accepts each stream, and then sends nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_unused_call_backs_is_bounded() {
    let victim = Victim::new().await;
    let key = key();
    let called = DialTarget::new(key.clone(), true).await;
    let at = called.at;
    let mut attacker =
        Attacker::link_as(victim.address(), key, |hello| hello.addresses = vec![at.into()]).await;
    // Lasts long enough for many more connections, if the victim made them.
    for round in 0..200 {
        attacker.send_raw(&crate::attacker::encoded(&Frame::CallBack { token: [round; 16] })).await;
        let calls = called.calls.load(Ordering::SeqCst);
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(2), async {
            while called.calls.load(Ordering::SeqCst) == calls {
                tokio::task::yield_now().await;
            }
        });
        let _ = waiting.await;
    }
    drop(attacker);
    // Counted are the call-backs under way, the open streams, and some connections that are ending.
    called.check(victim, 3 * MAX_CALL_BACKS).await;
}

/// The attacker asks for call-backs to the addresses of a third party. The victim must not flood that party
/// with connections.
#[tokio::test]
async fn a_flood_of_call_back_queries_with_foreign_addresses_is_bounded() {
    let victim = Victim::new().await;
    let called = DialTarget::new(key(), false).await;
    let mut attacker = Attacker::link(victim.address()).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let now = u64::try_from(now).unwrap();
    let addresses = vec![Address::from_socket(called.at); 8];
    let record = Box::new(NodeRecord::sign(&attacker.key, "peerkit", now, &addresses));
    for n in 0..2000_u32 {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_le_bytes());
        let (target, record) = (victim.id(), record.clone());
        let what = QueryKind::SignedCallBack { target, token: id, record };
        let query = Query { id: QueryId(id), depth: 1, own: false, ttl: STEP_TIMEOUT, what };
        attacker.send(&Frame::Query(query)).await;
    }
    victim.check_honest_node_is_served().await;
    drop(attacker);
    called.check(victim, 2 * MAX_CALL_BACKS).await;
}
