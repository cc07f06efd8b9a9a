//! Many requesters of one node: slow ones, greedy ones, and ones that send anything.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_requester_that_does_not_read_is_disconnected_and_takes_little_memory() {
    let server = server();
    let bytes = content(3 * P, 1);
    let (guard, hash) = serve_partial(&server, &bytes, Access::Open);
    guard.partial().add(0..3);
    let requests = [
        Request::Describe { hash },
        Request::Data { hash, first: 0, count: 3 },
        Request::Pieces { hash, first: 0, count: 3 },
        Request::Follow { hash, addresses: vec!["192.0.2.1:1".parse().unwrap()] },
        Request::Unknown(9),
    ];
    for request in requests {
        let TestClient { stream, task } = connect(&server, node(1));
        let (_read, mut write) = tokio::io::split(stream);
        let begin = Instant::now();
        let message = request.encode();
        let flood = message.repeat(1000);
        let mut sent = 0;
        while let Ok(n) = write.write(&flood[sent % message.len()..]).await {
            sent += n;
        }
        // The pipe holds 64 KiB, and the queue its maximum. More requests are taken only until their answers
        // fill the pipe in the other direction.
        assert!(sent < 1 << 20, "{sent} bytes of {request:?} were taken");
        let error = task.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{request:?}");
        let took = begin.elapsed();
        assert!(took >= STALL && took < STALL * 2, "{request:?}: {took:?}");
    }
    assert_eq!(server.writers.available_permits(), MAX_WRITERS);
}

#[tokio::test(start_paused = true)]
async fn a_requester_that_does_not_finish_a_request_is_disconnected() {
    let server = server();
    let message = Request::Describe { hash: Hash::of(b"x") }.encode();
    for sent in [1, PREFIX, 20] {
        let mut client = connect(&server, node(1));
        client.stream.write_all(&message[..sent]).await.unwrap();
        let begin = Instant::now();
        let error = (&mut client.task).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() < STALL + Duration::from_secs(1));
    }
    // A requester that sends a byte every nine seconds is disconnected as well.
    let mut client = connect(&server, node(1));
    let begin = Instant::now();
    for byte in &message {
        if client.stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(9)).await;
    }
    assert!(client.task.await.unwrap().is_err());
    assert!(begin.elapsed() < STALL * 2);
    // A stream without requests may stay open longer, and one that gets updates even longer.
    let (guard, hash) = serve_partial(&server, &content(P + 9, 1), Access::Open);
    let mut client = connect(&server, node(1));
    client.request(&Request::Follow { hash, addresses: Vec::new() }).await;
    let begin = Instant::now();
    for piece in 0..2 {
        tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
        guard.partial().add(piece..piece + 1);
        assert!(matches!(client.answer().await.0, Answer::Held { .. }));
    }
    assert!((&mut client.task).await.unwrap().is_err());
    assert!(begin.elapsed() > IDLE * 2 && begin.elapsed() < IDLE * 3 + STALL);
}

/// Requests pieces of `hash`, reads them for `time`, and returns the number of bytes.
async fn fetch_for(server: FileServer, id: NodeId, hash: Hash, time: Duration) -> usize {
    let mut client = connect(&server, id);
    let end = Instant::now() + time;
    let mut got = 0;
    let mut buffer = vec![0; 16 << 10];
    for _ in 0..4 {
        client.send(&Request::Data { hash, first: 0, count: 10 }).await;
    }
    while let Ok(read) = tokio::time::timeout_at(end, client.stream.read(&mut buffer)).await {
        got += read.unwrap();
    }
    got
}

#[tokio::test(start_paused = true)]
async fn two_requesters_share_the_upload_rate_evenly() {
    let server = server();
    let (guard, hash) = serve_partial(&server, &content(10 * P, 1), Access::Open);
    guard.partial().add(0..10);
    server.rates.set(RateLimits { upload: 10_000_000, ..RateLimits::default() });
    let time = Duration::from_secs(4);
    let (a, b) = tokio::join!(
        fetch_for(server.clone(), node(1), hash, time),
        fetch_for(server.clone(), node(2), hash, time),
    );
    assert!((38_000_000..42_000_000).contains(&(a + b)), "{a} and {b}");
    assert!(a.abs_diff(b) < 1_000_000, "{a} and {b}");
    // Two streams of one node share the limit of that node. A stream of another node has its own.
    server.rates.set(RateLimits {
        upload: 10_000_000,
        peer_upload: 2_000_000,
        ..RateLimits::default()
    });
    let (a, b, c) = tokio::join!(
        fetch_for(server.clone(), node(1), hash, time),
        fetch_for(server.clone(), node(1), hash, time),
        fetch_for(server.clone(), node(2), hash, time),
    );
    assert!((7_500_000..8_500_000).contains(&(a + b)), "{a} and {b}");
    assert!((7_500_000..8_500_000).contains(&c), "{c}");
}

#[tokio::test(start_paused = true)]
async fn slow_readers_do_not_hold_up_others() {
    let server = server();
    let bytes = content(4 * P, 1);
    let (guard, hash) = serve_partial(&server, &bytes, Access::Open);
    guard.partial().add(0..4);
    let data = Request::Data { hash, first: 0, count: 4 };
    let mut slow: Vec<_> = (0..MAX_WRITERS * 2).map(|_| connect(&server, node(1))).collect();
    for client in &mut slow {
        client.send(&data).await;
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(server.writers.available_permits(), 0, "all permits are taken");
    let begin = Instant::now();
    assert!(connect(&server, node(2)).pieces(&data).await == bytes);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    for mut client in slow {
        let mut buffer = vec![0; P];
        client.stream.read_exact(&mut buffer).await.unwrap();
    }
    assert_eq!(server.writers.available_permits(), MAX_WRITERS);
}

/// Any requests, for content that is served and for content that is not.
fn requests(known: Vec<Hash>) -> impl Strategy<Value = Vec<u8>> {
    let hash = prop_oneof![
        4 => proptest::sample::select(known),
        1 => any::<[u8; 32]>().prop_map(Hash::from_bytes),
    ];
    let first = prop_oneof![4 => 0..6u64, 1 => any::<u64>()];
    let count = prop_oneof![4 => 0..5u16, 1 => any::<u16>()];
    let port = 1..=u16::MAX;
    prop_oneof![
        (hash, 0..6u8, first, count, port).prop_map(|(hash, kind, first, count, port)| {
            let addresses = vec![format!("192.0.2.1:{port}").parse().unwrap()];
            match kind {
                0 => Request::Describe { hash },
                1 => Request::Pieces { hash, first, count },
                2 => Request::Data { hash, first, count },
                3 => Request::Tree { hash, first, count },
                4 => Request::Follow { hash, addresses },
                _ => Request::Cancel,
            }
            .encode()
        }),
        any::<[u8; 32]>().prop_map(|proof| Request::Present { proof }.encode()),
        proptest::collection::vec(any::<u8>(), 0..60)
            .prop_map(|body| { [&(body.len() as u32).to_le_bytes()[..], &body].concat() }),
    ]
}

#[test]
fn any_request_gets_a_valid_answer() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = server();
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("folder/a"), &content(5, 1));
    write(&dir.path().join("folder/b"), &content(P + 5, 2));
    let added = runtime.block_on(server.shares.add(dir.path().join("folder"), |_| ())).unwrap();
    let (guard, growing) = serve_partial(&server, &content(2 * P + 1, 3), Access::Open);
    guard.partial().add(1..3);
    let known = vec![added.shared.hash, Hash::of(&content(P + 5, 2)), growing];
    let strategy = proptest::collection::vec(requests(known), 0..100);
    proptest!(ProptestConfig::with_cases(60), |(sent in strategy)| {
        runtime.block_on(async {
            let TestClient { stream, task } = connect(&server, node(1));
            let (mut read, mut write) = tokio::io::split(stream);
            let sending = async {
                write.write_all(&sent.concat()).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut all = Vec::new();
            let (_, got) = tokio::join!(sending, read.read_to_end(&mut all));
            got.unwrap();
            task.await.unwrap().unwrap();
            let (mut rest, mut answers) = (&all[..], 0);
            while let Some((prefix, after)) = rest.split_first_chunk::<PREFIX>() {
                let len = body_len(*prefix, MAX_ANSWER).unwrap();
                let answer = Answer::decode(Bytes::copy_from_slice(&after[..len])).unwrap();
                let bytes = if let Answer::Piece { len, .. } = answer { len as usize } else { 0 };
                rest = &after[len + bytes..];
                answers += 1;
            }
            assert!(rest.is_empty());
            assert!(sent.is_empty() || answers > 0 || sent.len() < 100);
        });
    });
    assert!(runtime.block_on(async { server.writers.available_permits() }) == MAX_WRITERS);
}
