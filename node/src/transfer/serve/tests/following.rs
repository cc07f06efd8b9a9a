//! Followers learn of pieces and of other followers.

use super::*;

#[tokio::test]
async fn a_follower_learns_of_pieces_as_they_are_added() {
    let server = server();
    let bytes = content(20 * P, 1);
    let (guard, hash) = serve_partial(&server, &bytes, Access::Open);
    let mut client = connect(&server, node(1));
    let follow = Request::Follow { hash, addresses: Vec::new() };
    let held = |first, bits: &'static [u8]| Answer::Held { first, bits: Bytes::from_static(bits) };
    assert_eq!(client.request(&follow).await, held(0, &[]));
    let data = |first, count| Request::Data { hash, first, count };
    assert_eq!(client.request(&data(3, 1)).await, refused(FileRefusal::NotFound));
    guard.partial().add(3..4);
    assert_eq!(client.answer().await.0, held(0, &[8]));
    assert_eq!(client.pieces(&data(3, 1)).await, bytes[3 * P..4 * P]);
    // Pieces that are added together are reported together.
    for piece in [19, 9, 10, 3] {
        guard.partial().add(piece..piece + 1);
    }
    assert_eq!(client.answer().await.0, held(8, &[6, 8]));
    // A second follower learns of all pieces in one answer.
    let mut second = connect(&server, node(2));
    assert_eq!(second.request(&follow).await, held(0, &[8, 6, 8]));
    // Updates are also sent between pieces.
    client.send(&data(9, 2)).await;
    guard.partial().add(0..3);
    let (mut pieces, mut announced) = (0, 0);
    while pieces < 2 || announced < 1 {
        match client.answer().await.0 {
            Answer::Piece { .. } => pieces += 1,
            answer => {
                assert_eq!(answer, held(0, &[7]));
                announced += 1;
            }
        }
    }
    // A request for five pieces is answered with those that are held, in order, and with a refusal at the
    // first missing one.
    client.send(&data(1, 5)).await;
    for index in 1..4 {
        assert_eq!(client.answer().await.0, Answer::Piece { index, len: P as u32 });
    }
    assert_eq!(client.answer().await.0, refused(FileRefusal::NotFound));

    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("done"), &bytes);
    server.shares.add(dir.path().join("done"), |_| ()).await.unwrap();
    drop(guard);
    assert_eq!(client.answer().await.0, Answer::Whole);
    assert!(client.is_silent().await);
    assert_eq!(client.pieces(&data(11, 2)).await, bytes[11 * P..13 * P]);
    assert_eq!(client.request(&follow).await, Answer::Whole);
    let unknown = Request::Follow { hash: Hash::of(b"?"), addresses: Vec::new() };
    assert_eq!(client.request(&unknown).await, refused(FileRefusal::NotFound));
}

#[tokio::test(start_paused = true)]
async fn followers_learn_of_each_other() {
    let server = server();
    let bytes = content(3, 1);
    let (open, hash) = serve_partial(&server, &bytes, Access::Open);
    let addresses = |n: u8| -> Vec<Address> { vec![format!("192.0.2.{n}:7").parse().unwrap()] };
    let follow = |hash, n| Request::Follow { hash, addresses: addresses(n) };
    let mut ann = connect(&server, node(1));
    let mut bob = connect(&server, node(2));
    assert!(matches!(ann.request(&follow(hash, 1)).await, Answer::Held { .. }));
    assert!(ann.is_silent().await, "there is no other follower");
    assert!(matches!(bob.request(&follow(hash, 2)).await, Answer::Held { .. }));
    assert_eq!(bob.answer().await.0, Answer::Sources(vec![(node(1), addresses(1))]));
    assert_eq!(ann.answer().await.0, Answer::Sources(vec![(node(2), addresses(2))]));
    // Followers that are added after that are announced together, a second later.
    let mut others: Vec<_> = (3..6).map(|n| connect(&server, node(n))).collect();
    let begin = Instant::now();
    for (other, n) in others.iter_mut().zip(3..) {
        assert!(matches!(other.request(&follow(hash, n)).await, Answer::Held { .. }));
    }
    let Answer::Sources(mut announced) = ann.answer().await.0 else { panic!("no sources") };
    assert!(begin.elapsed() >= Duration::from_millis(500), "{:?}", begin.elapsed());
    announced.sort();
    assert_eq!(announced, (3..6).map(|n| (node(n), addresses(n))).collect::<Vec<_>>());
    assert!(ann.is_silent().await);
    drop(open);

    // Followers of content that is shared only with certain nodes do not learn of each other.
    let bytes = content(4, 1);
    let access = Access::Nodes(vec![node(1), node(2)]);
    let (_named, hash) = serve_partial(&server, &bytes, access);
    let (mut ann, mut bob) = (connect(&server, node(1)), connect(&server, node(2)));
    for client in [&mut ann, &mut bob] {
        assert!(matches!(client.request(&follow(hash, 1)).await, Answer::Held { .. }));
    }
    assert!(ann.is_silent().await && bob.is_silent().await);
}

#[test]
fn many_pieces_are_reported_in_several_answers() {
    let mut pieces = PieceSet::of_count(600_000).unwrap();
    for piece in [0, 262_143, 599_999] {
        pieces.insert(piece);
    }
    let count = pieces.count();
    let layout = Arc::new(Layout::file(count * PIECE).unwrap());
    let description = Description {
        kind: FileKind::File,
        whole: false,
        access: AccessKind::Open,
        size: count * PIECE,
        stored: 0,
        name: FileName::new("growing").unwrap(),
    };
    let file = File::open(std::env::current_exe().unwrap()).unwrap();
    let content = PartialContent::File(Arc::new(file), Arc::new(PieceList::of(b"x")));
    let partial = Partial::new(Hash::of(b"x"), description, Access::Open, layout, content).unwrap();
    partial.add(0..1);
    partial.add(262_143..262_144);
    partial.add(599_999..600_000);
    assert_eq!(partial.held().0, pieces);
    let (server, caller) = (server(), Caller { id: node(1), binding: BINDING, proof: None });
    let guard = server.partials.serve(partial);
    let mut following = Following::default();
    let mut announced = PieceSet::of_count(count).unwrap();
    let mut take = |mut messages: &[u8]| {
        while let Some((prefix, rest)) = messages.split_first_chunk::<PREFIX>() {
            let len = body_len(*prefix, MAX_ANSWER).unwrap();
            let body = Bytes::copy_from_slice(&rest[..len]);
            messages = &rest[len..];
            let Ok(Answer::Held { first, bits }) = Answer::decode(body) else { panic!("not held") };
            announced.insert_bits(first, &bits).unwrap();
        }
        announced.clone()
    };
    let first = following.follow(&server, &caller, Hash::of(b"x"), Vec::new());
    assert!(first.len() < 100_000);
    assert_eq!(take(&first), pieces);
    let partial = guard.partial();
    for added in [5..9, 1000..1100, 300_000..600_000, 7..500, 200..300, 262_140..262_150] {
        partial.add(added.clone());
        added.for_each(|piece| {
            pieces.insert(piece);
        });
    }
    let news = following.updates(&server, &caller);
    assert_eq!(take(&news), pieces);
    assert!(following.updates(&server, &caller).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_full_seed_holds_back_pieces_that_it_has_sent_to_another_follower() {
    let server = server();
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(2 * P, 1);
    write(&dir.path().join("file"), &bytes);
    let hash = server.shares.add(dir.path().join("file"), |_| ()).await.unwrap().shared.hash;
    let data = |first| Request::Data { hash, first, count: 1 };
    let mut followers = Vec::new();
    for n in 1..=40 {
        let mut follower = connect(&server, node(n));
        let addresses = vec!["192.0.2.1:1".parse().unwrap()];
        assert_eq!(follower.request(&Request::Follow { hash, addresses }).await, Answer::Whole);
        followers.push(follower);
    }
    let [first, served_elsewhere, served_by_seed] = &mut followers[..3] else {
        panic!("there are 40")
    };
    first.send(&data(0)).await;
    while !matches!(first.answer().await.0, Answer::Piece { index: 0, .. }) {}

    // A requester that has got the piece from another node cancels. Its request for a new piece is answered
    // immediately.
    served_elsewhere.send(&data(0)).await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    served_elsewhere.send(&Request::Cancel).await;
    while served_elsewhere.answer().await.0 != refused(FileRefusal::Cancelled) {}
    let begin = Instant::now();
    served_elsewhere.send(&data(1)).await;
    while !matches!(served_elsewhere.answer().await.0, Answer::Piece { index: 1, .. }) {}
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());

    // A requester that finds the piece nowhere waits four times as long, gets answers without a piece
    // meanwhile, and then the piece.
    let begin = Instant::now();
    served_by_seed.send(&data(0)).await;
    let mut empty_answers = 0;
    loop {
        match served_by_seed.answer().await {
            (Answer::Piece { .. }, piece) => {
                assert!(piece == bytes[..P]);
                break;
            }
            (Answer::Whole, _) => empty_answers += 1,
            (answer, _) => assert!(matches!(answer, Answer::Sources(_)), "{answer:?}"),
        }
    }
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(36) && took < Duration::from_secs(40), "{took:?}");
    assert!(empty_answers >= 3, "{empty_answers} answers without a piece");
}
