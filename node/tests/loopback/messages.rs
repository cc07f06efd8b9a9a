//! Messages. Each arrives once and in order, or the sender gets an error.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::common::*;
use bytes::Bytes;
use peerkit::{Compression, Compressions, Config, Error, Event, Message, Node, Refusal};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Point {
    x: i32,
    label: Option<String>,
}

#[tokio::test]
async fn messages_of_every_kind_and_compression_arrive_unchanged() {
    let mut config = Config::default();
    config.compressions = Compressions::ALL;
    let (a, b) = (node("a").await, builder("b").config(config).spawn().await.unwrap());
    link(&a, &b).await;
    let mut events = b.events();
    let point = Point { x: -1, label: Some("ü\u{0}\u{4}".into()) };
    let contents = [
        Message::text(""),
        Message::text("grüße \u{4}\u{0}"),
        Message::json(&point).unwrap(),
        Message::json(&serde_json::Value::Null).unwrap(),
        Message::bytes(Vec::new()),
        Message::bytes(SeededRandom(1).bytes(100_000)),
        Message::bytes(vec![0xff; 100_000]),
    ];
    for content in contents {
        for compression in Compression::ALL {
            let sent = content.clone().compressed(compression);
            a.send(b.id(), sent.clone()).await.unwrap();
            a.try_send(b.id(), sent.clone()).unwrap();
            for _ in 0..2 {
                let received = next_message(&mut events).await;
                assert_eq!((received.kind(), received.body()), (sent.kind(), sent.body()));
                // A message that compression does not make smaller is sent uncompressed. Messages of equal
                // bytes are certain to become smaller.
                if sent.body().iter().all(|byte| *byte == 0xff) && sent.body().len() > 1000 {
                    assert_eq!(received.compression(), compression);
                }
            }
        }
    }
    a.send(b.id(), Message::json(&point).unwrap()).await.unwrap();
    assert_eq!(next_message(&mut events).await.to_json::<Point>().unwrap(), point);
    shutdown([&a, &b]).await;
}

#[tokio::test]
async fn a_compression_that_the_peer_does_not_accept_is_refused_at_the_sender() {
    let (a, b) = (node("a").await, node("b").await);
    link(&a, &b).await;
    b.serve(
        "echo",
        |_, message| async move { Ok::<_, String>(message.compressed(Compression::Lzma)) },
    );
    let bzip2 = || Message::bytes(vec![7; 10_000]).compressed(Compression::Bzip2);
    let sender = a.sender(b.id()).unwrap();
    let requested = a.request(b.id(), "echo", bzip2()).await.map(|_| ());
    for sent in [
        a.send(b.id(), bzip2()).await,
        a.try_send(b.id(), bzip2()),
        sender.send(bzip2()).await,
        sender.try_send(bzip2()),
        requested,
    ] {
        let error = sent.unwrap_err();
        let Error::CompressionNotAccepted { peer, compression } = error else { panic!("{error}") };
        assert_eq!((peer, compression), (b.id(), Compression::Bzip2));
    }
    assert_eq!(a.send_to_nodes(bzip2(), &[]).unwrap().failed.len(), 1, "not queued for this peer");
    let reply = a.request(b.id(), "echo", Message::bytes(vec![7; 10_000])).await;
    assert!(matches!(reply, Err(Error::Request(Refusal::Failed(why))) if why.contains("lzma")));
    // A content that does not become smaller is not compressed.
    a.send(b.id(), Message::text("a").compressed(Compression::Bzip2)).await.unwrap();
    assert!(a.peer(b.id()).is_some(), "the link stays");
    shutdown([&a, &b]).await;
}

#[tokio::test]
async fn a_message_of_16_mib_arrives_and_a_larger_one_fails_at_the_sender() {
    let (a, b) = (node("a").await, node("b").await);
    let peer = link(&a, &b).await;
    let mut events = b.events();
    let limit = 16 << 20;
    let largest = Bytes::from(SeededRandom(2).bytes(limit));
    a.send(b.id(), largest.clone()).await.unwrap();
    assert!(next_message(&mut events).await.into_body() == largest);

    let too_large = Bytes::from(vec![0; limit + 1]);
    for compression in [Compression::None, Compression::Zstd] {
        let message = || Message::bytes(too_large.clone()).compressed(compression);
        let failures = [
            a.send(b.id(), message()).await.unwrap_err(),
            a.try_send(b.id(), message()).unwrap_err(),
            a.send_to_nodes(message(), &[]).unwrap_err(),
            a.request(b.id(), "any", message()).await.unwrap_err(),
        ];
        for failure in failures {
            let Error::TooLarge { len, limit: max } = failure else { panic!("{failure:?}") };
            assert_eq!((len, max), (limit + 1, limit));
        }
    }
    a.send(b.id(), "still linked").await.unwrap();
    assert_eq!(next_text(&mut events).await, "still linked");
    assert_eq!(a.peer(b.id()), Some(peer));
    assert_eq!(a.peer_counters(b.id()).unwrap().messages_sent, 2);
    shutdown([&a, &b]).await;
}

#[tokio::test]
async fn messages_of_random_bytes_arrive_unchanged_and_in_order() {
    let (a, b) = (node("a").await, node("b").await);
    link(&a, &b).await;
    let mut events = b.events();
    let mut random = SeededRandom(3);
    let mut sent: Vec<Bytes> =
        [&b""[..], b"\x04", b"\xff", b"\x04\xff\x04", b"ab\x04cd", b"a:b:c", b"\0"]
            .map(Bytes::from_static)
            .into();
    while sent.len() < 10_000 {
        let len = match random.next() % 100 {
            0..10 => 0,
            10..20 => 1,
            99 => random.next() as usize % 20_000,
            _ => random.next() as usize % 300,
        };
        let mut bytes = random.bytes(len);
        // One message in four begins and ends with bytes that p2pnetwork takes for the end of a message.
        if let (1, [first, .., last]) = (random.next() % 4, &mut bytes[..]) {
            (*first, *last) = (0x04, 0xff);
        }
        sent.push(bytes.into());
    }
    let (sender, to, messages) = (a.clone(), b.id(), sent.clone());
    let sending = tokio::spawn(async move {
        for bytes in messages {
            sender.send(to, bytes).await.unwrap();
        }
    });
    for (n, sent) in sent.iter().enumerate() {
        assert_eq!(next_message(&mut events).await.body(), sent, "message {n}");
    }
    sending.await.unwrap();
    assert_eq!(b.counters().messages_received, 10_000);
    shutdown([&a, &b]).await;
}

#[tokio::test]
async fn send_to_nodes_reaches_all_peers_except_the_excluded() {
    let hub = node("hub").await;
    let peers = [node("0").await, node("1").await, node("2").await];
    let mut streams = Vec::new();
    for peer in &peers {
        link(&hub, peer).await;
        streams.push(peer.events());
    }
    let report = hub.send_to_nodes("to two", &[peers[1].id()]).unwrap();
    assert_eq!(report.sent, [peers[0].id(), peers[2].id()]);
    assert!(report.failed.is_empty());
    let report = hub.send_to_nodes("to three", &[]).unwrap();
    assert_eq!(report.sent.len(), 3);
    for (n, events) in streams.iter_mut().enumerate() {
        if n != 1 {
            assert_eq!(next_text(events).await, "to two");
        }
        assert_eq!(next_text(events).await, "to three");
    }
    shutdown(peers.iter().chain([&hub])).await;
}

/// Blocks a node's handler until the test opens the gate.
#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn pass(&self) {
        let guard = self.1.wait_while(self.0.lock().unwrap(), |open| !*open);
        drop(guard.unwrap());
    }

    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

impl Drop for Gate {
    /// Opens the gate, so that a failed test does not leave a blocked thread behind.
    fn drop(&mut self) {
        self.open();
    }
}

/// Starts a node on another runtime. Its handler blocks until the gate is open, and then forwards each
/// message to the returned channel.
async fn spawn_blocked(
    other_runtime: &OtherRuntime,
    gate: &Arc<Gate>,
) -> (Node, tokio::sync::mpsc::UnboundedReceiver<Message>) {
    let (sender, messages) = tokio::sync::mpsc::unbounded_channel();
    let gate = gate.clone();
    let node = builder("blocked").callback(move |_, event| {
        if let Event::NodeMessage { message, .. } = event {
            gate.pass();
            let _ = sender.send(message);
        }
    });
    (other_runtime.run(node.spawn()).await.unwrap(), messages)
}

/// Returns a message of `len` bytes that begins with its number.
fn numbered(n: u64, len: usize) -> Message {
    let mut body = n.to_le_bytes().to_vec();
    body.resize(len, 7);
    Message::bytes(body)
}

fn number(message: &Message) -> u64 {
    u64::from_le_bytes(message.body()[..8].try_into().unwrap())
}

/// Sends messages until the queue has been full for about a second. Returns the number of accepted messages.
async fn fill_queue(from: &Node, to: &Node, len: usize) -> u64 {
    let (mut accepted, mut full) = (0, 0);
    while full < 500 {
        match from.try_send(to.id(), numbered(accepted, len)) {
            Ok(()) => (accepted, full) = (accepted + 1, 0),
            Err(Error::Full(peer)) => {
                assert_eq!(peer, to.id());
                full += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    accepted
}

#[tokio::test]
async fn a_blocked_reader_makes_the_sender_wait_and_loses_nothing() {
    const LEN: usize = 64 << 10;
    let (other_runtime, gate) = (OtherRuntime::new(), Arc::new(Gate::default()));
    let (b, mut messages) = spawn_blocked(&other_runtime, &gate).await;
    let (a, other) = (node("a").await, node("other").await);
    link(&a, &b).await;
    link(&a, &other).await;

    let accepted = fill_queue(&a, &b, LEN).await;
    // The accepted messages are in the sender's queue, in the buffers of the sockets (at most 6 + 4 MiB on
    // Linux) and in one read buffer.
    assert!(accepted * (LEN as u64) < 32 << 20, "{accepted} messages were accepted");
    let queued = a.status().await.peers.iter().find(|peer| peer.id == b.id()).unwrap().queued_bytes;
    let max = Config::default().peer_queue + LEN;
    assert!(queued > max / 2 && queued < max, "{queued} bytes are queued");

    // A message to all peers fails for the peer whose queue is full. The other peer gets it.
    let mut events = other.events();
    let report = a.send_to_nodes(numbered(u64::MAX, LEN), &[]).unwrap();
    assert_eq!(report.sent, [other.id()]);
    assert!(matches!(report.failed[..], [(id, Error::Full(to))] if id == b.id() && to == id));
    assert_eq!(number(&next_message(&mut events).await), u64::MAX);

    let (sender, to) = (a.clone(), b.id());
    let mut sending = tokio::spawn(async move {
        for n in accepted..accepted + 100 {
            sender.send(to, numbered(n, LEN)).await.unwrap();
        }
    });
    let finished = tokio::time::timeout(Duration::from_millis(100), &mut sending).await;
    assert!(finished.is_err(), "`send` has to wait while the queue is full");

    gate.open();
    for n in 0..accepted + 100 {
        let message = within("a message", messages.recv()).await.unwrap();
        assert_eq!(number(&message), n);
    }
    within("the sender", sending).await.unwrap();
    assert_eq!(a.peer_counters(b.id()).unwrap().messages_failed, 0);
    within("shutdown", a.shutdown()).await;
    other_runtime.run(async move { b.shutdown().await }).await;
    assert!(messages.recv().await.is_none(), "a message has arrived twice");
    shutdown([&other]).await;
}

#[tokio::test]
async fn counters_of_links_and_of_the_node_count_messages_and_bytes() {
    let (a, b, c) = (node("a").await, node("b").await, node("c").await);
    link(&a, &b).await;
    link(&a, &c).await;
    for _ in 0..10 {
        a.send(b.id(), vec![0; 1000]).await.unwrap();
    }
    for _ in 0..5 {
        a.send(c.id(), vec![0; 1000]).await.unwrap();
        c.send(a.id(), "x").await.unwrap();
    }
    wait_until("all messages to arrive", || {
        let received = [&a, &b, &c].map(|node| node.counters().messages_received);
        received == [5, 10, 5]
    })
    .await;
    wait_until("all messages to be counted", || a.counters().messages_sent == 15).await;
    let (to_b, to_c) = (a.peer_counters(b.id()).unwrap(), a.peer_counters(c.id()).unwrap());
    assert_eq!((to_b.messages_sent, to_b.messages_received), (10, 0));
    assert_eq!((to_c.messages_sent, to_c.messages_received), (5, 5));
    assert!((10_000..11_000).contains(&to_b.bytes_sent), "{to_b:?}");
    assert!((10_000..11_000).contains(&b.counters().bytes_received), "{:?}", b.counters());
    assert_eq!(to_b.messages_failed + to_c.messages_failed, 0);
    assert!(a.counters().bytes_sent >= to_b.bytes_sent + to_c.bytes_sent);
    assert_eq!(a.status().await.counters.messages_sent, 15);
    shutdown([&a, &b, &c]).await;
}

#[tokio::test]
async fn each_message_to_a_crashed_peer_is_received_or_counted_as_failed() {
    let other_runtime = OtherRuntime::new();
    let received = Arc::new(AtomicU64::new(0));
    let counting = received.clone();
    let b = builder("b").callback(move |_, event| {
        if let Event::NodeMessage { .. } = event {
            counting.fetch_add(1, Ordering::SeqCst);
        }
    });
    let b = other_runtime.run(b.spawn()).await.unwrap();
    let a = node("a").await;
    let mut events = a.events();
    link(&a, &b).await;
    let (sender, to) = (a.clone(), b.id());
    let sending = tokio::spawn(async move {
        let mut accepted = 0;
        loop {
            match sender.send(to, numbered(accepted, 1000)).await {
                Ok(()) => accepted += 1,
                Err(Error::LinkLost { .. } | Error::NotFound(_)) => return accepted,
                Err(other) => panic!("{other:?}"),
            }
        }
    });
    wait_until("messages to arrive", || received.load(Ordering::SeqCst) > 2000).await;
    other_runtime.crash();
    let accepted: u64 = within("the sender", sending).await.unwrap();
    let Event::NodeMessageFailed { failure, .. } =
        expect_event(&mut events, "node_message_failed").await
    else {
        panic!()
    };
    expect_event(&mut events, "outbound_node_disconnected").await;
    let (received, failed) =
        (received.load(Ordering::SeqCst), failure.unsent + failure.unconfirmed);
    // A message may count twice: it was received, but the node crashed before it acknowledged the message.
    assert!(received + failed >= accepted, "{received} + {failure:?} of {accepted}");
    assert!(failed <= accepted, "{failure:?} of {accepted}");
    assert_eq!(a.counters().messages_failed, failed);
    shutdown([&a]).await;
}

/// A node that disconnects reads until the other node's goodbye. So it acknowledges all messages that were
/// sent before the goodbye, and none of them counts as failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_answered_with_a_disconnect_has_not_failed() {
    let b = builder("b").callback(|cx, event| {
        if let Event::NodeMessage { peer, .. } = event {
            cx.disconnect(&peer);
        }
    });
    let (a, b) = (node("a").await, b.spawn().await.unwrap());
    let mut events = a.events();
    for _ in 0..20 {
        link(&a, &b).await;
        a.send(b.id(), "the last message").await.unwrap();
        loop {
            match next_event(&mut events).await {
                Event::NodeMessageFailed { failure, .. } => panic!("{failure:?}"),
                Event::OutboundNodeDisconnected { .. } => break,
                _ => {}
            }
        }
    }
    shutdown([&a, &b]).await;
}

/// The tested rate limit, in bytes per second.
const LIMIT: u64 = 200_000;

/// Sends 20 messages of 16 KB, and returns the time until all of them have arrived.
async fn time_to_deliver(from: &Node, to: &Node) -> Duration {
    let mut events = to.events();
    let started = std::time::Instant::now();
    for n in 0..20 {
        within("room", from.send(to.id(), numbered(n, 16_000))).await.unwrap();
    }
    for n in 0..20 {
        assert_eq!(number(&next_message(&mut events).await), n);
    }
    started.elapsed()
}

/// Lower bound of the time that 320 KB take at [`LIMIT`]. 64 KiB and the bytes of 50 ms pass without waiting.
/// The rest takes more than a second, however fast the machine is.
const MIN_TIME: Duration = Duration::from_secs(1);

#[tokio::test]
async fn messages_obey_rate_limits_and_none_is_lost() {
    for is_link_limit in [false, true] {
        let mut config = Config::default();
        let rate =
            if is_link_limit { &mut config.peer_message_rate } else { &mut config.message_rate };
        *rate = LIMIT;
        let (a, b) = (builder("a").config(config).spawn().await.unwrap(), node("b").await);
        link(&a, &b).await;
        assert!(time_to_deliver(&a, &b).await >= MIN_TIME);
        // While messages wait for the rate limit, the link still answers pings. A changed limit also applies
        // to waiting messages.
        let mut limits = a.rates();
        (limits.messages, limits.peer_messages) = (1, 1);
        a.set_rates(limits);
        let mut events = b.events();
        for n in 0..3 {
            a.send(b.id(), numbered(n, 100_000)).await.unwrap();
        }
        within("a ping", a.ping(b.id())).await.unwrap();
        a.set_rates(peerkit::RateLimits::default());
        for n in 0..3 {
            assert_eq!(number(&next_message(&mut events).await), n);
        }
        shutdown([&a, &b]).await;
    }
}

#[tokio::test]
async fn the_limit_for_receiving_slows_the_sender_down() {
    let mut config = Config::default();
    config.peer_receive_rate = LIMIT;
    let (a, b) = (node("a").await, builder("b").config(config).spawn().await.unwrap());
    link(&a, &b).await;
    assert!(time_to_deliver(&a, &b).await >= MIN_TIME);
    shutdown([&a, &b]).await;
}

#[tokio::test]
async fn own_broadcasts_obey_their_rate_limit_and_stay_in_order() {
    let mut config = Config::default();
    config.broadcast_rate = LIMIT;
    let a = builder("a").config(config).callback(|cx, event| {
        if let Event::NodeMessage { .. } = event {
            for n in 0..20 {
                cx.broadcast("", numbered(n, 16_000));
            }
        }
    });
    let (a, b) = (a.spawn().await.unwrap(), node("b").await);
    link(&a, &b).await;
    let mut events = b.events();
    let started = std::time::Instant::now();
    b.send(a.id(), "go").await.unwrap();
    for n in 0..20 {
        match expect_event(&mut events, "node_broadcast").await {
            Event::NodeBroadcast { broadcast } => {
                assert_eq!(number(&broadcast.message), n);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(started.elapsed() >= MIN_TIME);
    shutdown([&a, &b]).await;
}
