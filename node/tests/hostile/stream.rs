//! Attacks on streams: their openings, their number, and the call-backs that open them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use peerkit::{Address, Key};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::query::{Query, QueryId, QueryKind};
use peerkit_proto::hello::{ALPN_STREAM, StreamOpen};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::attacker::{Attacker, LONG, Victim, config, key, opening, until, within};

/// The bytes that answer an opening.
const OPEN: u8 = 0;
const OTHER_NETWORK: u8 = 1;
const WRONG_SECRET: u8 = 2;
const NO_PROTOCOL: u8 = 3;
const BUSY: u8 = 4;
const NO_TOKEN: u8 = 5;

/// Most call-backs of a node that are under way at once.
const CALL_BACKS: usize = 16;

/// Serves the protocol `echo` on streams.
fn serve_echo(victim: &Victim) {
    victim.node.serve_stream("echo", |stream| async move {
        let (mut from, mut to) = tokio::io::split(stream);
        let _ = tokio::io::copy(&mut from, &mut to).await;
    });
}

#[tokio::test]
async fn an_opening_that_does_not_fit_is_refused() {
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
    // The valid opening has the same form.
    let (mut honest, answer) = Attacker::open(victim.address(), key(), &opening("echo")).await;
    assert_eq!(answer, Some(OPEN));
    honest.send_raw(b"x").await;
    assert_eq!(within(LONG, "the echo", honest.stream.read_u8()).await.unwrap(), b'x');
    drop(honest);
    victim.unharmed().await;
}

#[tokio::test]
async fn an_opening_with_a_wrong_or_no_secret_is_refused() {
    let victim = Victim::guarded("a secret of many letters").await;
    serve_echo(&victim);
    for proof in [None, Some([7; 32])] {
        let open = StreamOpen { proof, ..opening("echo") };
        let (_, answer) = Attacker::open(victim.address(), key(), &open).await;
        assert_eq!(answer, Some(WRONG_SECRET));
    }
    victim.unharmed().await;
}

#[tokio::test]
async fn an_opening_of_garbage_ends_the_connection() {
    let victim = Victim::new().await;
    let mut valid = Vec::new();
    opening("echo").encode(&mut valid);
    let mut trailing = valid.clone();
    trailing[0] += 1;
    trailing.push(0);
    let oversized = [&257_u32.to_le_bytes()[..], &[0; 257]].concat();
    for bytes in [&[0xff; 300][..], &[0; 4], &[200; 204], &trailing, &oversized] {
        let mut attacker = Attacker::secure_as(victim.address(), key(), ALPN_STREAM).await;
        attacker.send_raw(bytes).await;
        let mut answer = Vec::new();
        let _ = within(LONG, "the end", attacker.stream.read_to_end(&mut answer)).await;
        assert!(answer.is_empty(), "answered: {answer:?}");
    }
    victim.unharmed().await;
}

#[tokio::test]
async fn the_streams_of_one_peer_are_limited() {
    let mut config = config();
    config.max_streams_per_peer = 3;
    let victim = Victim::with(config).await;
    serve_echo(&victim);
    let key = key();
    let mut open = Vec::new();
    for n in 0..5 {
        let (stream, answer) =
            Attacker::open(victim.address(), key.clone(), &opening("echo")).await;
        assert_eq!(answer, Some(if n < 3 { OPEN } else { BUSY }));
        open.push(stream);
    }
    // Another peer has room, and so has this one once a stream has ended.
    let (other, answer) =
        Attacker::open(victim.address(), crate::attacker::key(), &opening("echo")).await;
    assert_eq!(answer, Some(OPEN));
    let mut first = open.remove(0);
    first.stream.shutdown().await.unwrap();
    first.end().await;
    let mut again = None;
    while again != Some(OPEN) {
        // The handler has ended. Its permit may be returned a moment later.
        let (stream, answer) =
            Attacker::open(victim.address(), key.clone(), &opening("echo")).await;
        again = answer;
        open.push(stream);
        assert!(open.len() < 100);
    }
    drop((open, first, other));
    victim.unharmed().await;
}

/// A handler of streams that panics harms its stream alone.
#[tokio::test]
async fn a_panic_of_a_stream_handler_ends_only_its_stream() {
    let victim = Victim::new().await;
    victim.node.serve_stream("panics", |_| async { panic!("on purpose") });
    for _ in 0..3 {
        let (mut attacker, answer) =
            Attacker::open(victim.address(), key(), &opening("panics")).await;
        assert_eq!(answer, Some(OPEN));
        attacker.end().await;
    }
    victim.unharmed().await;
}

/// A call-back's token travels through the network. Nodes that have seen it must not be able to use it.
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
    let (_, thief) = Attacker::open(victim.address(), key(), &open).await;
    assert_eq!(thief, Some(NO_TOKEN));
    let (mut stream, answer) = Attacker::open(victim.address(), peer.key.clone(), &open).await;
    assert_eq!(answer, Some(OPEN), "the node that was asked for the call-back");
    // Now the victim names the protocol of the stream.
    let len = stream.stream.read_u32_le().await.unwrap() as usize;
    let mut said = vec![0; len];
    stream.stream.read_exact(&mut said).await.unwrap();
    assert_eq!(StreamOpen::decode(said.into()).unwrap().protocol, "echo");
    stream.send_raw(&[OPEN]).await;
    let stream_there = opened.await.unwrap().unwrap();
    assert_eq!(stream_there.peer(), peer.id());
    let (_, twice) = Attacker::open(victim.address(), peer.key.clone(), &open).await;
    assert_eq!(twice, Some(NO_TOKEN));
    drop((stream, stream_there, peer));
    victim.unharmed().await;
}

/// A port of the attacker that other nodes are made to dial. It counts the connections, and those open
/// at once.
struct Called {
    at: SocketAddr,
    calls: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Called {
    /// Answers each connection up to the step that `polite` names, and is silent after that.
    async fn new(key: Key, polite: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (calls, most) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let mut task = JoinSet::new();
        let (counted, reached) = (calls.clone(), most.clone());
        task.spawn(async move {
            let mut held = JoinSet::new();
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                reached.fetch_max(open_at(at), Ordering::SeqCst);
                let key = key.clone();
                held.spawn(async move {
                    if polite {
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
        Self { at, calls, most, _task: task }
    }

    /// Checks after the flood that there were connections, and never more than `bound` at once.
    async fn check(self, victim: Victim, bound: usize) {
        let calls = || format!("{} calls", self.calls.load(Ordering::SeqCst));
        until("a call", || self.calls.load(Ordering::SeqCst) > 0, calls).await;
        let most = self.most.load(Ordering::SeqCst);
        // A connection that ends may still be open when the next one comes.
        assert!(most <= bound, "{most} at once");
        drop(self);
        victim.unharmed().await;
    }
}

/// Returns the number of connections to `at` that the dialler still holds open, from the system's
/// tables. A busy attacker learns late of connections that have ended, and would count them too.
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
    let called = Called::new(key.clone(), false).await;
    let at = called.at;
    let mut attacker =
        Attacker::link_as(victim.address(), key, |hello| hello.addresses = vec![at.into()]).await;
    for n in 0..2000_u32 {
        let mut token = [0; 16];
        token[..4].copy_from_slice(&n.to_le_bytes());
        attacker.send(&Frame::CallBack { token }).await;
    }
    victim.talks().await;
    drop(attacker);
    called.check(victim, 2 * CALL_BACKS).await;
}

/// The dialled node accepts the stream, and then does not name a protocol.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_unused_call_backs_is_bounded() {
    let victim = Victim::new().await;
    let key = key();
    let called = Called::new(key.clone(), true).await;
    let at = called.at;
    let mut attacker =
        Attacker::link_as(victim.address(), key, |hello| hello.addresses = vec![at.into()]).await;
    // Long enough for many more connections to come, if they may.
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
    // The call-backs under way, the open streams, and some connections that are ending.
    called.check(victim, 3 * CALL_BACKS).await;
}

/// Call-backs through the network to the addresses of a third party: the victim must not become a
/// weapon.
#[tokio::test]
async fn a_flood_of_call_back_queries_to_others_addresses_is_bounded() {
    let victim = Victim::new().await;
    let called = Called::new(key(), false).await;
    let mut attacker = Attacker::link(victim.address()).await;
    for n in 0..2000_u32 {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_le_bytes());
        let addresses = vec![Address::from_socket(called.at); 32];
        let what = QueryKind::CallBack { target: victim.id(), token: id, addresses };
        let query = Query { id: QueryId(id), depth: 1, own: false, ttl: LONG, what };
        attacker.send(&Frame::Query(query)).await;
    }
    victim.talks().await;
    drop(attacker);
    called.check(victim, 2 * CALL_BACKS).await;
}
