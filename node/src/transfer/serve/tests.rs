use super::*;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use peerkit_proto::address::Address;
use peerkit_proto::config::Config;
use peerkit_proto::files::wire::{MAX_ANSWER, MAX_PART, PREFIX, body_len};
use peerkit_proto::files::{
    Access, AccessKind, Description, FileKind, FileName, Layout, Manifest, PIECE, PieceList,
    PieceSet, Secret,
};
use peerkit_proto::id::Hash;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::rate::RateLimits;
use crate::store::Store;
use crate::transfer::partial::{Partial, PartialGuard};
use crate::transfer::{IDLE, STALL};

const P: usize = PIECE as usize;

const BINDING: [u8; 32] = [5; 32];

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn serving() -> Serving {
    let shares = Shares::new(Store::open(None).unwrap());
    Serving::new(shares, Partials::default(), Rates::new(&Config::default()))
}

fn content(len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// The asking end of a stream.
struct Asking {
    stream: DuplexStream,
    serving: JoinHandle<io::Result<()>>,
}

/// `id` asks a node that answers with `serving`.
fn ask(serving: &Serving, id: NodeId) -> Asking {
    let (stream, theirs) = duplex(64 << 10);
    let serving = tokio::spawn(serve(serving.clone(), id, BINDING, theirs));
    Asking { stream, serving }
}

impl Asking {
    async fn send(&mut self, request: &Request) {
        self.stream.write_all(&request.encode()).await.unwrap();
    }

    /// The next answer, and the bytes after it.
    async fn answer(&mut self) -> (Answer, Vec<u8>) {
        let mut prefix = [0; PREFIX];
        self.stream.read_exact(&mut prefix).await.unwrap();
        let mut body = vec![0; body_len(prefix, MAX_ANSWER).unwrap()];
        self.stream.read_exact(&mut body).await.unwrap();
        let answer = Answer::decode(body.into()).unwrap();
        let mut bytes = Vec::new();
        if let Answer::Piece { len, .. } = answer {
            bytes.resize(len as usize, 0);
            self.stream.read_exact(&mut bytes).await.unwrap();
        }
        (answer, bytes)
    }

    async fn asked(&mut self, request: &Request) -> Answer {
        self.send(request).await;
        self.answer().await.0
    }

    /// Nothing comes any more for a while.
    async fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        let wait = Duration::from_millis(200);
        tokio::time::timeout(wait, self.stream.read(&mut byte)).await.is_err()
    }

    /// The pieces that come for a request, until as many as were asked for are there.
    async fn pieces(&mut self, request: &Request) -> Vec<u8> {
        let (Request::Data { first, count, .. } | Request::Tree { first, count, .. }) = request
        else {
            panic!("{request:?}")
        };
        self.send(request).await;
        let mut all = Vec::new();
        for expected in *first..first + u64::from(*count) {
            let (answer, bytes) = self.answer().await;
            assert_eq!(answer, Answer::Piece { index: expected, len: bytes.len() as u32 });
            all.extend(bytes);
        }
        all
    }
}

fn refused(refusal: Refusal) -> Answer {
    Answer::Refused(refusal)
}

/// Shares a folder of small, large and empty files; its hash, and what all files hold, in order.
async fn share_tree(serving: &Serving) -> (TempDir, Hash, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let mut files = vec![("a/empty".to_owned(), Vec::new())];
    files.extend((0..700).map(|n| (format!("b/{n:03}"), content(n * 13, 1))));
    files.push(("c/large".to_owned(), content(3 * P + 5, 2)));
    files.push(("c/one".to_owned(), content(P, 3)));
    files.push(("d/empty".to_owned(), Vec::new()));
    files.push(("d/last".to_owned(), content(9, 4)));
    for (path, bytes) in &files {
        write(&dir.path().join(path), bytes);
    }
    let added = serving.shares.add(dir.path(), |_| ()).await.unwrap();
    let all = files.into_iter().flat_map(|(_, bytes)| bytes).collect();
    (dir, added.shared.hash, all)
}

/// A fetch of a file, of which nothing is there yet.
fn growing(serving: &Serving, bytes: &[u8], access: Access) -> (PartialGuard, Hash) {
    let list = PieceList::of(bytes);
    let hash = list.root();
    let description = Description {
        kind: FileKind::File,
        access: access.kind(),
        size: bytes.len() as u64,
        name: FileName::new("growing").unwrap(),
    };
    let layout = Arc::new(Layout::file(bytes.len() as u64).unwrap());
    let partial = Partial::new(hash, description, access, layout).unwrap();
    let file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut &file, bytes).unwrap();
    partial.set_file(Arc::new(file));
    partial.add_list(hash, Arc::new(list));
    (serving.partials.enter(partial), hash)
}

#[tokio::test]
async fn the_pieces_of_a_folder_are_its_files() {
    let serving = serving();
    let (_dir, hash, all) = share_tree(&serving).await;
    // 699 of one piece each; then 4, 1 and 1.
    let count = 705;
    let mut asking = ask(&serving, node(1));
    assert!(asking.pieces(&Request::Tree { hash, first: 0, count }).await == all);
    // In parts that end anywhere, several asked for at once.
    let mut got = Vec::new();
    for first in (0..count).step_by(90) {
        let part = Request::Tree { hash, first: first.into(), count: 90.min(count - first) };
        asking.send(&part).await;
    }
    for index in 0..u64::from(count) {
        let (answer, bytes) = asking.answer().await;
        assert_eq!(answer, Answer::Piece { index, len: bytes.len() as u32 });
        got.extend(bytes);
    }
    assert!(got == all);
    let last = asking.pieces(&Request::Tree { hash, first: 704, count: 1 }).await;
    assert_eq!(last, content(9, 4));
}

#[tokio::test]
async fn what_is_no_folder_has_no_tree() {
    let serving = serving();
    let (_dir, hash, _) = share_tree(&serving).await;
    let mut asking = ask(&serving, node(1));
    let tree = |hash, first, count| Request::Tree { hash, first, count };
    let one = Hash::of(&content(P, 3));
    let cases = [
        (tree(hash, 704, 2), Refusal::BadRequest),
        (tree(hash, 705, 1), Refusal::BadRequest),
        (tree(hash, u64::MAX, MAX_PART), Refusal::BadRequest),
        (tree(one, 0, 1), Refusal::BadRequest),
        (tree(Hash::of(b"?"), 0, 1), Refusal::NotFound),
    ];
    for (request, refusal) in cases {
        assert_eq!(asking.asked(&request).await, refused(refusal), "{request:?}");
    }
    assert_eq!(asking.pieces(&Request::Data { hash: one, first: 0, count: 1 }).await.len(), P);
}

#[tokio::test]
async fn a_changed_file_of_a_folder_is_not_served() {
    let serving = serving();
    let (dir, hash, _) = share_tree(&serving).await;
    // Of the same length: only its times tell, and its content.
    write(&dir.path().join("b/002"), &content(26, 9));
    let mut asking = ask(&serving, node(1));
    let request = Request::Tree { hash, first: 0, count: 10 };
    assert_eq!(asking.asked(&request).await, Answer::Piece { index: 0, len: 13 });
    assert_eq!(asking.answer().await.0, refused(Refusal::Changed));
    // The others are.
    let after = asking.pieces(&Request::Tree { hash, first: 2, count: 1 }).await;
    assert_eq!(after, content(39, 1));
}

#[tokio::test]
async fn what_is_given_up_ends_and_the_rest_goes_on() {
    let serving = serving();
    let (_dir, hash, _) = share_tree(&serving).await;
    let file = Hash::of(&content(3 * P + 5, 2));
    let data = Request::Data { hash: file, first: 0, count: 3 };
    let mut asking = ask(&serving, node(1));
    for request in [&data, &data, &Request::Tree { hash, first: 0, count: 700 }] {
        asking.send(request).await;
    }
    asking.send(&Request::Describe { hash: file }).await;
    assert!(matches!(asking.answer().await.0, Answer::Piece { index: 0, .. }));
    asking.send(&Request::Cancel).await;
    asking.send(&Request::Data { hash: file, first: 3, count: 1 }).await;
    let (mut pieces, mut cancelled) = (0, 0);
    loop {
        match asking.answer().await.0 {
            Answer::Piece { .. } => pieces += 1,
            Answer::Refused(Refusal::Cancelled) => cancelled += 1,
            Answer::Description(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(cancelled, 3, "each has its end");
    assert!(pieces <= 1, "the one that was on its way: {pieces}");
    let (answer, bytes) = asking.answer().await;
    assert_eq!((answer, bytes.len()), (Answer::Piece { index: 3, len: 5 }, 5));
    // With nothing to give up it says nothing.
    asking.send(&Request::Cancel).await;
    assert!(asking.is_silent().await);
}

#[tokio::test]
async fn only_who_shows_the_tickets_secret_is_served() {
    let serving = serving();
    let secret = Secret::from_bytes([8; 16]);
    let bytes = content(P + 1, 1);
    let (guard, hash) = growing(&serving, &bytes, Access::Ticket(secret));
    guard.partial().add(0..2);
    let requests = [
        Request::Describe { hash },
        Request::Pieces { hash, first: 0, count: 2 },
        Request::Data { hash, first: 1, count: 1 },
        Request::Tree { hash, first: 1, count: 1 },
        Request::Follow { hash, addresses: Vec::new() },
    ];
    let stranger = node(1);
    let wrong = [
        None,
        Some([0; 32]),
        Some(Secret::from_bytes([9; 16]).prove(&BINDING, stranger)),
        Some(secret.prove(&BINDING, node(2))),
        Some(secret.prove(&[6; 32], stranger)),
    ];
    for proof in wrong {
        let mut asking = ask(&serving, stranger);
        if let Some(proof) = proof {
            asking.send(&Request::Present { proof }).await;
        }
        for request in &requests {
            // As of what nobody ever shared.
            assert_eq!(asking.asked(request).await, refused(Refusal::NotFound), "{request:?}");
        }
    }
    let mut asking = ask(&serving, stranger);
    asking.send(&Request::Present { proof: secret.prove(&BINDING, stranger) }).await;
    match asking.asked(&requests[0]).await {
        Answer::Description(told) => assert_eq!(told.access, AccessKind::Ticket),
        other => panic!("{other:?}"),
    }
    assert!(matches!(asking.asked(&requests[1]).await, Answer::Pieces { .. }));
    assert_eq!(asking.pieces(&requests[2]).await, bytes[P..]);
    assert_eq!(asking.asked(&requests[3]).await, refused(Refusal::BadRequest));
    let held = Answer::Held { first: 0, bits: Bytes::from_static(&[3]) };
    assert_eq!(asking.asked(&requests[4]).await, held);
    // From the next wrong proof on it is a stranger again.
    asking.send(&Request::Present { proof: [0; 32] }).await;
    assert_eq!(asking.asked(&requests[2]).await, refused(Refusal::NotFound));
}

#[tokio::test]
async fn who_follows_hears_of_pieces_as_they_come() {
    let serving = serving();
    let bytes = content(20 * P, 1);
    let (guard, hash) = growing(&serving, &bytes, Access::Open);
    let mut asking = ask(&serving, node(1));
    let follow = Request::Follow { hash, addresses: Vec::new() };
    let held = |first, bits: &'static [u8]| Answer::Held { first, bits: Bytes::from_static(bits) };
    assert_eq!(asking.asked(&follow).await, held(0, &[]));
    let data = |first, count| Request::Data { hash, first, count };
    assert_eq!(asking.asked(&data(3, 1)).await, refused(Refusal::NotFound));
    guard.partial().add(3..4);
    assert_eq!(asking.answer().await.0, held(0, &[8]));
    assert_eq!(asking.pieces(&data(3, 1)).await, bytes[3 * P..4 * P]);
    // What comes together is told together.
    for piece in [19, 9, 10, 3] {
        guard.partial().add(piece..piece + 1);
    }
    assert_eq!(asking.answer().await.0, held(8, &[6, 8]));
    // Another hears at once of all that is there.
    let mut second = ask(&serving, node(2));
    assert_eq!(second.asked(&follow).await, held(0, &[8, 6, 8]));
    // In the midst of pieces it is told as well.
    asking.send(&data(9, 2)).await;
    guard.partial().add(0..3);
    let (mut pieces, mut told) = (0, 0);
    while pieces < 2 || told < 1 {
        match asking.answer().await.0 {
            Answer::Piece { .. } => pieces += 1,
            answer => {
                assert_eq!(answer, held(0, &[7]));
                told += 1;
            }
        }
    }
    // A run ends where there is no more.
    asking.send(&data(1, 5)).await;
    for index in 1..4 {
        assert_eq!(asking.answer().await.0, Answer::Piece { index, len: P as u32 });
    }
    assert_eq!(asking.answer().await.0, refused(Refusal::NotFound));

    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("done"), &bytes);
    serving.shares.add(dir.path().join("done"), |_| ()).await.unwrap();
    drop(guard);
    assert_eq!(asking.answer().await.0, Answer::Whole);
    assert!(asking.is_silent().await);
    assert_eq!(asking.pieces(&data(11, 2)).await, bytes[11 * P..13 * P]);
    assert_eq!(asking.asked(&follow).await, Answer::Whole);
    let unknown = Request::Follow { hash: Hash::of(b"?"), addresses: Vec::new() };
    assert_eq!(asking.asked(&unknown).await, refused(Refusal::NotFound));
}

#[tokio::test]
async fn a_folder_on_its_way_is_served_as_far_as_it_is() {
    let (shared, serving) = (serving(), serving());
    let (dir, hash, all) = share_tree(&shared).await;
    let manifest = {
        let open = shared.shares.open(&hash).unwrap();
        let mut bytes = Vec::new();
        open.read_piece(0, &mut bytes).unwrap();
        bytes
    };
    let decoded = Arc::new(Manifest::decode(manifest.clone().into()).unwrap());
    let description = Description {
        kind: FileKind::Folder,
        access: AccessKind::Open,
        size: manifest.len() as u64,
        name: FileName::new("growing").unwrap(),
    };
    let layout = Arc::new(Layout::folder(&decoded));
    let partial = Partial::new(hash, description.clone(), Access::Open, layout).unwrap();
    partial.set_folder(dir.path().to_owned(), decoded);
    let large = content(3 * P + 5, 2);
    let list = Arc::new(PieceList::of(&large));
    partial.add_list(list.root(), Arc::clone(&list));
    partial.add(0..690);
    partial.add(701..702);
    let guard = serving.partials.enter(partial);

    let mut asking = ask(&serving, node(1));
    let told = asking.asked(&Request::Describe { hash }).await;
    assert_eq!(told, Answer::Description(description));
    assert_eq!(asking.pieces(&Request::Data { hash, first: 0, count: 1 }).await, manifest);
    let tree = |first, count| Request::Tree { hash, first, count };
    let first = asking.pieces(&tree(0, 690)).await;
    assert!(first == all[..first.len()]);
    assert!(asking.pieces(&tree(701, 1)).await == large[2 * P..3 * P]);
    assert_eq!(asking.asked(&tree(700, 1)).await, refused(Refusal::NotFound));
    // A list of a file in it, and nothing else of that.
    let values = Request::Pieces { hash: list.root(), first: 1, count: 3 };
    let expected = Answer::Pieces { first: 1, values: list.values()[1..].to_vec() };
    assert_eq!(asking.asked(&values).await, expected);
    let data = Request::Data { hash: list.root(), first: 2, count: 1 };
    assert_eq!(asking.asked(&data).await, refused(Refusal::NotFound));
    drop(guard);
    assert_eq!(asking.asked(&tree(0, 1)).await, refused(Refusal::NotFound));
    assert_eq!(asking.asked(&values).await, refused(Refusal::NotFound));
}

#[tokio::test(start_paused = true)]
async fn those_who_follow_hear_of_each_other() {
    let serving = serving();
    let bytes = content(3, 1);
    let (open, hash) = growing(&serving, &bytes, Access::Open);
    let place = |n: u8| -> Vec<Address> { vec![format!("192.0.2.{n}:7").parse().unwrap()] };
    let follow = |hash, n| Request::Follow { hash, addresses: place(n) };
    let mut ann = ask(&serving, node(1));
    let mut bob = ask(&serving, node(2));
    assert!(matches!(ann.asked(&follow(hash, 1)).await, Answer::Held { .. }));
    assert!(ann.is_silent().await, "it is alone");
    assert!(matches!(bob.asked(&follow(hash, 2)).await, Answer::Held { .. }));
    assert_eq!(bob.answer().await.0, Answer::Sources(vec![(node(1), place(1))]));
    assert_eq!(ann.answer().await.0, Answer::Sources(vec![(node(2), place(2))]));
    // Those who come after that are told of together, a second later.
    let mut others: Vec<_> = (3..6).map(|n| ask(&serving, node(n))).collect();
    let begin = Instant::now();
    for (other, n) in others.iter_mut().zip(3..) {
        assert!(matches!(other.asked(&follow(hash, n)).await, Answer::Held { .. }));
    }
    let Answer::Sources(mut told) = ann.answer().await.0 else { panic!("not told") };
    assert!(begin.elapsed() >= Duration::from_millis(500), "{:?}", begin.elapsed());
    told.sort();
    assert_eq!(told, (3..6).map(|n| (node(n), place(n))).collect::<Vec<_>>());
    assert!(ann.is_silent().await);
    drop(open);

    // Of who may have what is for named nodes nobody hears.
    let bytes = content(4, 1);
    let access = Access::Nodes(vec![node(1), node(2)]);
    let (_named, hash) = growing(&serving, &bytes, access);
    let (mut ann, mut bob) = (ask(&serving, node(1)), ask(&serving, node(2)));
    for asking in [&mut ann, &mut bob] {
        assert!(matches!(asking.asked(&follow(hash, 1)).await, Answer::Held { .. }));
    }
    assert!(ann.is_silent().await && bob.is_silent().await);
}

#[tokio::test(start_paused = true)]
async fn who_asks_and_does_not_read_is_bounded_and_ended() {
    let serving = serving();
    let bytes = content(3 * P, 1);
    let (guard, hash) = growing(&serving, &bytes, Access::Open);
    guard.partial().add(0..3);
    let requests = [
        Request::Describe { hash },
        Request::Data { hash, first: 0, count: 3 },
        Request::Pieces { hash, first: 0, count: 3 },
        Request::Follow { hash, addresses: vec!["192.0.2.1:1".parse().unwrap()] },
        Request::Unknown(9),
    ];
    for request in requests {
        let Asking { stream, serving } = ask(&serving, node(1));
        let (_read, mut write) = tokio::io::split(stream);
        let begin = Instant::now();
        let message = request.encode();
        let flood = message.repeat(1000);
        let mut sent = 0;
        while let Ok(n) = write.write(&flood[sent % message.len()..]).await {
            sent += n;
        }
        // The pipe's 64 KiB, the queue, and what was answered into the pipe.
        assert!(sent < 1 << 20, "{sent} bytes of {request:?} were taken");
        let error = serving.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{request:?}");
        let took = begin.elapsed();
        assert!(took >= STALL && took < STALL * 2, "{request:?}: {took:?}");
    }
    assert_eq!(serving.places.available_permits(), PLACES);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_finish_a_request_is_ended() {
    let serving = serving();
    let message = Request::Describe { hash: Hash::of(b"x") }.encode();
    for sent in [1, PREFIX, 20] {
        let mut asking = ask(&serving, node(1));
        asking.stream.write_all(&message[..sent]).await.unwrap();
        let begin = Instant::now();
        let error = (&mut asking.serving).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() < STALL + Duration::from_secs(1));
    }
    // A byte now and then does not help.
    let mut asking = ask(&serving, node(1));
    let begin = Instant::now();
    for byte in &message {
        if asking.stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(9)).await;
    }
    assert!(asking.serving.await.unwrap().is_err());
    assert!(begin.elapsed() < STALL * 2);
    // Who asks nothing may stay for longer, and who is told something longer still.
    let (guard, hash) = growing(&serving, &content(P + 9, 1), Access::Open);
    let mut asking = ask(&serving, node(1));
    asking.asked(&Request::Follow { hash, addresses: Vec::new() }).await;
    let begin = Instant::now();
    for piece in 0..2 {
        tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
        guard.partial().add(piece..piece + 1);
        assert!(matches!(asking.answer().await.0, Answer::Held { .. }));
    }
    assert!((&mut asking.serving).await.unwrap().is_err());
    assert!(begin.elapsed() > IDLE * 2 && begin.elapsed() < IDLE * 3 + STALL);
}

/// Reads pieces of `hash` for as long as they come; how many bytes that were.
async fn fetch_for(serving: Serving, id: NodeId, hash: Hash, time: Duration) -> usize {
    let mut asking = ask(&serving, id);
    let end = Instant::now() + time;
    let mut got = 0;
    let mut buffer = vec![0; 16 << 10];
    for _ in 0..4 {
        asking.send(&Request::Data { hash, first: 0, count: 10 }).await;
    }
    while let Ok(read) = tokio::time::timeout_at(end, asking.stream.read(&mut buffer)).await {
        got += read.unwrap();
    }
    got
}

#[tokio::test(start_paused = true)]
async fn two_fetch_at_half_the_rate_each() {
    let serving = serving();
    let (guard, hash) = growing(&serving, &content(10 * P, 1), Access::Open);
    guard.partial().add(0..10);
    serving.rates.set(RateLimits { upload: 10_000_000, ..RateLimits::default() });
    let time = Duration::from_secs(4);
    let (a, b) = tokio::join!(
        fetch_for(serving.clone(), node(1), hash, time),
        fetch_for(serving.clone(), node(2), hash, time),
    );
    assert!((38_000_000..42_000_000).contains(&(a + b)), "{a} and {b}");
    assert!(a.abs_diff(b) < 1_000_000, "{a} and {b}");
    // Two streams of one node, which is limited, and another's.
    serving.rates.set(RateLimits {
        upload: 10_000_000,
        peer_upload: 2_000_000,
        ..RateLimits::default()
    });
    let (a, b, c) = tokio::join!(
        fetch_for(serving.clone(), node(1), hash, time),
        fetch_for(serving.clone(), node(1), hash, time),
        fetch_for(serving.clone(), node(2), hash, time),
    );
    assert!((7_500_000..8_500_000).contains(&(a + b)), "{a} and {b}");
    assert!((7_500_000..8_500_000).contains(&c), "{c}");
}

#[tokio::test(start_paused = true)]
async fn slow_readers_hold_nobody_up() {
    let serving = serving();
    let bytes = content(4 * P, 1);
    let (guard, hash) = growing(&serving, &bytes, Access::Open);
    guard.partial().add(0..4);
    let data = Request::Data { hash, first: 0, count: 4 };
    let mut slow: Vec<_> = (0..PLACES * 2).map(|_| ask(&serving, node(1))).collect();
    for asking in &mut slow {
        asking.send(&data).await;
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(serving.places.available_permits(), 0, "all places are taken");
    let begin = Instant::now();
    assert!(ask(&serving, node(2)).pieces(&data).await == bytes);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    for mut asking in slow {
        let mut buffer = vec![0; P];
        asking.stream.read_exact(&mut buffer).await.unwrap();
    }
    assert_eq!(serving.places.available_permits(), PLACES);
}

#[tokio::test]
async fn a_node_limits_what_it_sends() {
    let limits = RateLimits { upload: 5, peer_download: 6, ..RateLimits::default() };
    let mut config = Config::default();
    (config.upload_rate, config.peer_download_rate) = (5, 6);
    let node = crate::Node::builder().config(config).spawn().await.unwrap();
    assert_eq!(node.rates(), limits);
    node.set_rates(RateLimits::default());
    assert_eq!(node.rates(), RateLimits::default());
    node.shutdown().await;
}

#[test]
fn what_is_held_is_told_in_parts() {
    let mut pieces = PieceSet::of_count(600_000).unwrap();
    for piece in [0, 262_143, 599_999] {
        pieces.insert(piece);
    }
    let count = pieces.count();
    let layout = Arc::new(Layout::file(count * PIECE).unwrap());
    let description = Description {
        kind: FileKind::File,
        access: AccessKind::Open,
        size: count * PIECE,
        name: FileName::new("growing").unwrap(),
    };
    let partial = Partial::new(Hash::of(b"x"), description, Access::Open, layout).unwrap();
    let file = File::open(std::env::current_exe().unwrap()).unwrap();
    partial.set_file(Arc::new(file));
    partial.add(0..1);
    partial.add(262_143..262_144);
    partial.add(599_999..600_000);
    assert_eq!(partial.held().0, pieces);
    let (serving, caller) = (serving(), Caller { id: node(1), binding: BINDING, proof: None });
    let guard = serving.partials.enter(partial);
    let mut following = Following::default();
    let mut told = PieceSet::of_count(count).unwrap();
    let mut take = |mut messages: &[u8]| {
        while let Some((prefix, rest)) = messages.split_first_chunk::<PREFIX>() {
            let len = body_len(*prefix, MAX_ANSWER).unwrap();
            let body = Bytes::copy_from_slice(&rest[..len]);
            messages = &rest[len..];
            let Ok(Answer::Held { first, bits }) = Answer::decode(body) else { panic!("not held") };
            told.insert_bits(first, &bits).unwrap();
        }
        told.clone()
    };
    let first = following.follow(&serving, &caller, Hash::of(b"x"), Vec::new());
    assert!(first.len() < 100_000);
    assert_eq!(take(&first), pieces);
    let partial = guard.partial();
    for added in [5..9, 1000..1100, 300_000..600_000, 7..500, 200..300, 262_140..262_150] {
        partial.add(added.clone());
        added.for_each(|piece| {
            pieces.insert(piece);
        });
    }
    let news = following.news(&serving, &caller);
    assert_eq!(take(&news), pieces);
    assert!(following.news(&serving, &caller).is_empty());
}

/// Any requests, of what there is and what there is not.
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
fn any_requests_are_answered_in_the_form_of_answers() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let serving = serving();
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("folder/a"), &content(5, 1));
    write(&dir.path().join("folder/b"), &content(P + 5, 2));
    let added = runtime.block_on(serving.shares.add(dir.path().join("folder"), |_| ())).unwrap();
    let (guard, growing) = growing(&serving, &content(2 * P + 1, 3), Access::Open);
    guard.partial().add(1..3);
    let known = vec![added.shared.hash, Hash::of(&content(P + 5, 2)), growing];
    let strategy = proptest::collection::vec(requests(known), 0..100);
    proptest!(ProptestConfig::with_cases(60), |(sent in strategy)| {
        runtime.block_on(async {
            let Asking { stream, serving } = ask(&serving, node(1));
            let (mut read, mut write) = tokio::io::split(stream);
            let sending = async {
                write.write_all(&sent.concat()).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut all = Vec::new();
            let (_, got) = tokio::join!(sending, read.read_to_end(&mut all));
            got.unwrap();
            serving.await.unwrap().unwrap();
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
    assert!(runtime.block_on(async { serving.places.available_permits() }) == PLACES);
}
