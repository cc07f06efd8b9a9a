//! Attacks over a link. The attacker has sent a valid Hello before.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use peerkit::{Compression, Error, Message, MessageKind, Node, Reason, Refusal};
use peerkit_proto::frame::Frame;
use peerkit_proto::hello::Hello;
use peerkit_proto::message::PackedMessage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::attacker::{
    Attacker, End, STEP_TIMEOUT, Victim, config, encoded, hello, raw_frame, text, until, within,
};

fn request(id: u64, name: &str, body: &str) -> Frame {
    Frame::Request { id, name: name.into(), body: PackedMessage::uncompressed(Message::text(body)) }
}

/// Returns a short Hello, so that the victim's first read also contains the frames that follow it.
fn short_hello() -> Frame {
    Frame::Hello(Hello { name: String::new(), ..hello() })
}

/// A dialler may send frames before it has received the peer's Hello. None of them is lost.
#[tokio::test]
async fn frames_in_the_same_read_as_hello_are_received() {
    let victim = Victim::new().await;
    let mut attacker = Attacker::connect_tls(victim.address()).await;
    let frames = [short_hello(), Frame::Ping(5), text("first"), request(1, "echo", "second")];
    attacker.send_raw(&frames.each_ref().map(encoded).concat()).await;
    assert_eq!(victim.message(attacker.id()).await.as_text(), Some("first"));
    assert!(matches!(attacker.frame().await, Some(Frame::Hello(_))));
    assert_eq!(attacker.content().await, Some(Frame::Pong(5)));
    assert!(matches!(attacker.content().await, Some(Frame::Reply { id: 1, outcome: Ok(_) })));
    drop(attacker);
    victim.check_unharmed().await;
}

/// The dialled node, too, may send frames right after its Hello: for example a greeting from its handler.
#[tokio::test]
async fn frames_in_the_same_read_as_the_hello_of_the_dialled_node_are_received() {
    let victim = Victim::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let dialling = tokio::spawn({
        let node = victim.node.clone();
        async move { node.connect(at).await }
    });
    let mut attacker = Attacker::accept(&listener, &crate::attacker::key()).await;
    assert!(matches!(attacker.frame().await, Some(Frame::Hello(_))));
    let frames = [short_hello(), text("welcome")];
    attacker.send_raw(&frames.each_ref().map(encoded).concat()).await;
    dialling.await.unwrap().unwrap();
    assert_eq!(victim.message(attacker.id()).await.as_text(), Some("welcome"));
    drop((attacker, listener));
    victim.check_unharmed().await;
}

/// Such a link ends before it has begun. It must not stay in the table of links.
#[tokio::test]
async fn a_fault_or_goodbye_in_the_same_read_as_hello_ends_the_link() {
    let victim = Victim::new().await;
    let goodbye = Frame::Goodbye { reason: Reason::Requested, received: 0 };
    let faulty = raw_frame(0x03, b"short");
    for second in [encoded(&short_hello()), vec![0xff; 64], faulty, encoded(&goodbye)] {
        let mut attacker = Attacker::connect_tls(victim.address()).await;
        attacker.send_raw(&[encoded(&short_hello()), second].concat()).await;
        attacker.end().await;
        let none = || format!("{:?}", victim.node.peers());
        until("the link's end", || victim.node.peers().is_empty(), none).await;
    }
    victim.check_unharmed().await;
}

#[tokio::test]
async fn frames_that_break_the_protocol_are_reported_and_end_the_link() {
    let victim = Victim::new().await;
    let over = 16 << 20 | 1025;
    let announces = |len: u32, kind: u8| [&(len + 1).to_le_bytes()[..], &[kind]].concat();
    let cases = [
        (encoded(&Frame::Hello(hello())), "a second Hello"),
        (vec![0; 5], "a frame without a kind"),
        ([&[0xff; 4][..], &[0x10]].concat(), "a frame of kind 0x10 announces 4294967294 bytes"),
        (announces(over, 0x10), "a frame of kind 0x10 announces 16778241 bytes"),
        (announces(65_537, 0x03), "a frame of kind 0x03 announces 65537 bytes"),
        (announces(65_537, 0x77), "a frame of kind 0x77 announces 65537 bytes"),
        (raw_frame(0x10, b""), "a frame of kind 0x10: the bytes end too early"),
        (raw_frame(0x10, &[0x09, 1]), "a frame of kind 0x10: message kind"),
        (raw_frame(0x10, &[0x70, 1]), "a frame of kind 0x10: message compression"),
        (raw_frame(0x10, &[0x00, 0xff]), "text has an invalid value"),
        (raw_frame(0x03, &[1; 9]), "a frame of kind 0x03: 1 bytes too many"),
        (raw_frame(0x02, &[1]), "a frame of kind 0x02"),
        (raw_frame(0x12, &[1; 40]), "a frame of kind 0x12"),
        (raw_frame(0x20, &[1; 40]), "a frame of kind 0x20"),
        (raw_frame(0x30, &[1; 40]), "a frame of kind 0x30"),
    ];
    for (bytes, fault) in cases {
        let mut attacker = Attacker::link(victim.address()).await;
        attacker.send_raw(&bytes).await;
        let reported = attacker.fault().await;
        assert!(reported.starts_with(fault), "{fault}: got {reported}");
        let link_end = victim.link_end(attacker.id()).await;
        assert!(matches!(link_end.reason, Reason::Fault(_)) && !link_end.by_peer, "{link_end}");
    }
    victim.check_unharmed().await;
}

/// A large length must not make the victim allocate memory, and an incomplete frame is not delivered.
#[tokio::test]
async fn an_incomplete_frame_is_not_delivered() {
    let victim = Victim::new().await;
    let mut attacker = Attacker::link(victim.address()).await;
    attacker.send_raw(&[&((16_u32 << 20) + 2).to_le_bytes()[..], &[0x10, 0]].concat()).await;
    attacker.send_raw(&[b'x'; 1000]).await;
    victim.check_honest_node_is_served().await;
    attacker.stream.shutdown().await.unwrap();
    let link_end = victim.link_end(attacker.id()).await;
    assert!(matches!(link_end.reason, Reason::Lost(_)), "{link_end}");
    drop(attacker);
    victim.check_unharmed().await;
}

#[tokio::test]
async fn frames_of_unknown_kinds_are_skipped() {
    let victim = Victim::new().await;
    let mut attacker = Attacker::link(victim.address()).await;
    for kind in [0x00, 0x06, 0x14, 0x2f, 0x3f, 0x41, 0x7f, 0xff] {
        attacker.send_raw(&raw_frame(kind, &[0xff; 1000])).await;
        attacker.send_raw(&raw_frame(kind, b"")).await;
    }
    attacker.send(&text("still here")).await;
    assert_eq!(victim.message(attacker.id()).await.as_text(), Some("still here"));
    drop(attacker);
    victim.check_unharmed().await;
}

/// In p2pnetwork, the byte 0x04 ends a message. If the first byte of a connection is 0x04, none of its
/// messages is received.
#[tokio::test]
async fn the_byte_0x04_neither_mutes_a_link_nor_splits_a_message() {
    let victim = Victim::new().await;
    let honest = Node::builder().spawn().await.unwrap();
    honest.connect(victim.address()).await.unwrap();
    for content in ["\x04", "ab\x04cd", "after"] {
        victim.take_events();
        honest.send(victim.id(), content).await.unwrap();
        assert_eq!(victim.message(honest.id()).await.as_text(), Some(content));
    }
    honest.shutdown().await;
    victim.check_unharmed().await;
}

/// p2pnetwork decompresses a message without a limit.
#[tokio::test]
async fn a_compressed_message_that_inflates_to_200_mb_ends_the_link() {
    let victim = Victim::new().await;
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
    for _ in 0..200 {
        zlib.write_all(&[0; 1_000_000]).unwrap();
    }
    let payload = zlib.finish().unwrap();
    assert!(payload.len() < 259_000, "{} bytes", payload.len());
    let bomb = PackedMessage {
        kind: MessageKind::Bytes,
        compression: Compression::Zlib,
        payload: payload.into(),
    };
    let reply = Frame::Reply { id: 1, outcome: Ok(bomb.clone()) };
    let request = Frame::Request { id: 1, name: "echo".into(), body: bomb.clone() };
    for frame in [Frame::Message(bomb), request, reply] {
        let mut attacker = Attacker::link(victim.address()).await;
        attacker.send(&frame).await;
        let reported = attacker.fault().await;
        assert_eq!(reported, "the message is over the limit of 16777216 bytes once decompressed");
        let link_end = victim.link_end(attacker.id()).await;
        assert_eq!(link_end.reason, Reason::Fault(reported));
    }
    victim.check_unharmed().await;
}

/// The decoder of a compression that the victim does not accept never runs.
#[tokio::test]
async fn a_message_with_a_compression_that_is_not_accepted_ends_the_link() {
    let victim = Victim::new().await;
    let message = PackedMessage {
        kind: MessageKind::Bytes,
        compression: Compression::Lzma,
        payload: vec![0; 100].into(),
    };
    let mut attacker = Attacker::link(victim.address()).await;
    attacker.send(&Frame::Message(message)).await;
    let expected = "a message compressed with lzma, which is not accepted";
    assert_eq!(attacker.fault().await, expected);
    drop(attacker);
    victim.check_unharmed().await;
}

/// In p2pnetwork, a peer that has closed its socket stays in the list of nodes.
#[tokio::test]
async fn a_closed_or_reset_connection_ends_the_link() {
    let victim = Victim::new().await;
    let mut closing = Attacker::link(victim.address()).await;
    closing.stream.get_mut().0.shutdown().await.unwrap();
    let link_end = victim.link_end(closing.id()).await;
    assert!(matches!(link_end.reason, Reason::Lost(_)) && !link_end.by_peer, "{link_end}");

    let resetting = Attacker::link(victim.address()).await;
    let id = resetting.id();
    resetting.stream.get_ref().0.set_zero_linger().unwrap();
    drop(resetting);
    let link_end = victim.link_end(id).await;
    assert!(matches!(link_end.reason, Reason::Lost(_)) && !link_end.by_peer, "{link_end}");
    assert!(victim.node.peers().is_empty());
    drop(closing);
    victim.check_unharmed().await;
}

/// The peer sends nothing and does not close the connection, as if its machine had lost power.
#[tokio::test]
async fn a_silent_peer_is_disconnected() {
    let mut config = config();
    (config.ping_after, config.dead_after) = (Duration::from_millis(200), Duration::from_secs(4));
    let victim = Victim::with_config(config).await;
    let silent = Attacker::link(victim.address()).await;
    let link_end = victim.link_end(silent.id()).await;
    assert_eq!(link_end.reason, Reason::Silent(Duration::from_secs(4)));
    drop(silent);
    victim.check_unharmed().await;
}

/// In p2pnetwork, a node can only disconnect peers that it has dialled.
#[tokio::test]
async fn an_inbound_node_can_be_disconnected_even_if_it_ignores_the_goodbye() {
    let victim = Victim::new().await;
    let mut polite = Attacker::link(victim.address()).await;
    victim.node.disconnect(polite.id()).await.unwrap();
    assert_eq!(polite.end().await, End::Goodbye(Reason::Requested));
    drop(polite);

    let stubborn = Attacker::link(victim.address()).await;
    victim.node.disconnect(stubborn.id()).await.unwrap();
    assert_eq!(victim.link_end(stubborn.id()).await.reason, Reason::Requested);
    assert!(victim.node.peer(stubborn.id()).is_none());
    drop(stubborn);
    victim.check_unharmed().await;
}

/// In p2pnetwork, a message that could not be sent is lost without a report.
#[tokio::test]
async fn a_failed_send_is_reported() {
    let victim = Victim::new().await;
    let gone = Attacker::link(victim.address()).await;
    let id = gone.id();
    // More than the kernel's buffers hold: some messages stay in the queue, and some are on the way.
    for _ in 0..64 {
        victim.node.send(id, vec![7; 60_000]).await.unwrap();
    }
    drop(gone);
    let failure = victim
        .event("node_message_failed", |event| match event {
            peerkit::Event::NodeMessageFailed { peer, failure } if peer.id() == id => {
                Some(failure.clone())
            }
            _ => None,
        })
        .await;
    assert_eq!(failure.unsent + failure.unconfirmed, 64);
    victim.link_end(id).await;
    assert!(matches!(victim.node.send(id, "more").await, Err(Error::NotFound(_))));
    victim.check_unharmed().await;
}

#[tokio::test]
async fn unexpected_replies_pongs_and_cancellations_have_no_effect() {
    let victim = Victim::new().await;
    let mut attacker = Attacker::link(victim.address()).await;
    for id in [0, 1, 7, u64::MAX] {
        let outcome = Ok(PackedMessage::uncompressed(Message::text("never asked")));
        attacker.send(&Frame::Reply { id, outcome }).await;
        attacker.send(&Frame::Reply { id, outcome: Err(Refusal::Busy) }).await;
        attacker.send(&Frame::Cancel(id)).await;
        attacker.send(&Frame::Pong(id)).await;
        attacker.send(&Frame::Received(id)).await;
    }
    attacker.send(&request(9, "echo", "the only request")).await;
    assert!(matches!(attacker.content().await, Some(Frame::Reply { id: 9, .. })));
    // A request of the victim gets its own reply, and none of the others.
    let asking = tokio::spawn({
        let (node, id) = (victim.node.clone(), attacker.id());
        async move { node.request(id, "what", "now").await }
    });
    let Some(Frame::Request { id, .. }) = attacker.content().await else { panic!("no request") };
    for (id, content) in [(id ^ 1, "another"), (id, "right"), (id, "twice")] {
        let outcome = Ok(PackedMessage::uncompressed(Message::text(content)));
        attacker.send(&Frame::Reply { id, outcome }).await;
    }
    assert_eq!(asking.await.unwrap().unwrap().as_text(), Some("right"));
    drop(attacker);
    victim.check_unharmed().await;
}

/// Serves the request `slow` with a handler that never answers. Returns a counter of the running handlers.
fn serve_slowly(victim: &Victim) -> Arc<AtomicUsize> {
    struct Running(Arc<AtomicUsize>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let running = Arc::new(AtomicUsize::new(0));
    let counted = running.clone();
    victim.node.serve("slow", move |_, message| {
        counted.fetch_add(1, Ordering::SeqCst);
        let running = Running(counted.clone());
        async move {
            std::future::pending::<()>().await;
            drop(running);
            Ok::<_, String>(message)
        }
    });
    running
}

#[tokio::test]
async fn requests_beyond_the_limit_get_busy() {
    let victim = Victim::new().await;
    let running = serve_slowly(&victim);
    let mut attacker = Attacker::link(victim.address()).await;
    for id in 0..1100 {
        attacker.send(&request(id, "slow", "x")).await;
    }
    attacker.send(&request(5000, "no such", "x")).await;
    for _ in 0..1000 {
        let Some(Frame::Reply { id, outcome }) = attacker.content().await else { panic!() };
        assert_eq!((id >= 100, outcome), (true, Err(Refusal::Busy)));
    }
    let Some(Frame::Reply { id: 5000, outcome }) = attacker.content().await else { panic!() };
    assert_eq!(outcome, Err(Refusal::NoHandler));
    assert_eq!(running.load(Ordering::SeqCst), 100);
    // A cancelled request makes room for another one.
    attacker.send(&Frame::Cancel(3)).await;
    attacker.send(&request(6000, "echo", "x")).await;
    let Some(Frame::Reply { id: 6000, outcome: Ok(_) }) = attacker.content().await else {
        panic!()
    };
    drop(attacker);
    let left = || running.load(Ordering::SeqCst).to_string();
    until("no handler left", || running.load(Ordering::SeqCst) == 0, left).await;
    victim.check_unharmed().await;
}

/// An attacker can't evade the limit of requests by giving all of them the same number.
#[tokio::test]
async fn a_second_request_with_the_same_number_ends_the_link() {
    let victim = Victim::new().await;
    let running = serve_slowly(&victim);
    let mut attacker = Attacker::link(victim.address()).await;
    for _ in 0..1000 {
        attacker.send(&request(1, "slow", "x")).await;
        assert!(running.load(Ordering::SeqCst) <= 100);
    }
    assert_eq!(attacker.fault().await, "two requests of the same number");
    let left = || running.load(Ordering::SeqCst).to_string();
    until("no handler left", || running.load(Ordering::SeqCst) == 0, left).await;
    drop(attacker);
    victim.check_unharmed().await;
}

/// The attacker sends pings and does not read the pongs. The victim's control queue for it fills up, and
/// other peers are not affected.
#[tokio::test]
async fn a_peer_that_sends_pings_and_never_reads_is_disconnected() {
    let mut config = config();
    config.control_queue = 64 << 10;
    let victim = Victim::with_config(config).await;
    let mut attacker = Attacker::link(victim.address()).await;
    let id = attacker.id();
    let flood = tokio::spawn(async move {
        let pings = encoded(&Frame::Ping(7)).repeat(1000);
        // Ends with an error when the victim has closed the connection.
        while attacker.stream.write_all(&pings).await.is_ok() {}
    });
    let link_end = victim.link_end(id).await;
    assert_eq!(link_end.reason, Reason::Slow);
    within(STEP_TIMEOUT, "the flood's end", flood).await.unwrap();
    victim.check_unharmed().await;
}

/// A large message takes three times as long as a peer may take nothing. The pongs that wait behind it crowd the
/// control queue.
#[tokio::test]
async fn a_peer_that_reads_slowly_but_steadily_keeps_its_link() {
    let mut config = config();
    (config.control_queue, config.slow_after) = (64 << 10, Duration::from_secs(2));
    let victim = Victim::with_config(config).await;
    let mut attacker = Attacker::link(victim.address()).await;
    let large = vec![7; 15 << 20];
    victim.node.try_send(attacker.id(), large.clone()).unwrap();
    // A message is being written, so pongs have to wait.
    attacker.send_raw(&encoded(&Frame::Ping(1)).repeat(3500)).await;
    let mut read = vec![0; 256 << 10];
    for _ in 0..60 {
        attacker.send(&Frame::Ping(2)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let reading = attacker.stream.read_exact(&mut read);
        within(STEP_TIMEOUT, "a part of the message", reading).await.unwrap();
    }
    assert!(victim.node.peer(attacker.id()).is_some(), "the peer has read all the time");
    drop(attacker);
    victim.check_unharmed().await;
}

/// Thirty peers do not read. The queue of messages for each of them is bounded, and the messages in it are
/// reported as failed in the end.
#[tokio::test]
async fn the_queues_for_peers_that_never_read_are_bounded() {
    let mut config = config();
    config.peer_queue = 256 << 10;
    let victim = Victim::with_config(config).await;
    let mut silent = Vec::new();
    for _ in 0..30 {
        silent.push(Attacker::link(victim.address()).await);
    }
    let honest = Node::builder().spawn().await.unwrap();
    let mut honest_events = honest.events();
    honest.connect(victim.address()).await.unwrap();
    let fill_queue = |peer: &Attacker| loop {
        match victim.node.try_send(peer.id(), vec![7; 16 << 10]) {
            Ok(()) => {}
            Err(Error::Full(_)) => break,
            Err(error) => panic!("{error}"),
        }
    };
    // The kernel's buffers hold a few MB for each peer. When they are full, nothing more is sent.
    let queued = async |peer: &Attacker| {
        let status = victim.node.status().await;
        status.peers.iter().find(|p| p.id == peer.id()).map_or(0, |p| p.queued_bytes)
    };
    for peer in &silent {
        let mut before = u64::MAX;
        loop {
            fill_queue(peer);
            tokio::time::sleep(Duration::from_millis(2)).await;
            let sent = victim.node.peer_counters(peer.id()).unwrap().messages_sent;
            if sent == before {
                break;
            }
            before = sent;
        }
        let queued = queued(peer).await;
        assert!(queued <= (256 << 10) + 1024, "{queued} bytes");
    }
    // Sends to all peers: the honest peer gets the message, and the report lists the peers whose queues are
    // full.
    let report = victim.node.send_to_nodes("to all", &[]).unwrap();
    assert!(report.sent.contains(&honest.id()) && report.failed.len() <= silent.len());
    let waiting = async {
        loop {
            let event = honest_events.next().await.unwrap();
            if let peerkit::Event::NodeMessage { message, .. } = event {
                return message;
            }
        }
    };
    assert_eq!(within(STEP_TIMEOUT, "the message", waiting).await.as_text(), Some("to all"));
    honest.shutdown().await;
    let ids: Vec<_> = silent.iter().map(Attacker::id).collect();
    drop(silent);
    for id in ids {
        victim.link_end(id).await;
    }
    let events = victim.take_events();
    let failed: u64 = events.iter().map(failures).sum();
    assert!(failed > 0 && failed == victim.node.counters().messages_failed);
    victim.check_unharmed().await;
}

/// Returns the number of failed messages that the event reports.
fn failures(event: &peerkit::Event) -> u64 {
    match event {
        peerkit::Event::NodeMessageFailed { failure, .. } => failure.unsent + failure.unconfirmed,
        _ => 0,
    }
}

/// The attacker sends a goodbye, keeps the connection open, and goes on sending.
#[tokio::test]
async fn a_link_ends_with_the_goodbye_even_if_the_connection_stays_open() {
    let victim = Victim::new().await;
    let mut attacker = Attacker::link(victim.address()).await;
    let id = attacker.id();
    attacker.send(&Frame::Goodbye { reason: Reason::Requested, received: u64::MAX }).await;
    attacker.send(&Frame::Goodbye { reason: Reason::Stopping, received: 0 }).await;
    let flood = tokio::spawn(async move {
        let noise = raw_frame(0x77, &[0; 1000]);
        while attacker.stream.write_all(&noise).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    let link_end = victim.link_end(id).await;
    assert_eq!((link_end.reason, link_end.by_peer), (Reason::Requested, true));
    within(STEP_TIMEOUT, "the flood's end", flood).await.unwrap();
    victim.check_unharmed().await;
}

/// The same identity connects several times. Each new link replaces the one before.
#[tokio::test]
async fn a_node_that_connects_several_times_has_one_link() {
    let victim = Victim::new().await;
    let key = crate::attacker::key();
    let mut links = Vec::new();
    for incarnation in 0..10 {
        let change = |hello: &mut Hello| hello.incarnation = incarnation;
        links.push(Attacker::link_as(victim.address(), key.clone(), change).await);
        assert!(victim.node.peers().len() <= 1);
    }
    for old in &mut links[..9] {
        assert_eq!(old.end().await, End::Goodbye(Reason::Replaced));
    }
    links[9].send(&text("the last one")).await;
    assert_eq!(victim.message(key.id()).await.as_text(), Some("the last one"));
    drop(links);
    victim.check_unharmed().await;
}
