mod crowded;
mod following;
mod parts;

use super::*;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use peerkit_proto::address::Address;
use peerkit_proto::config::Config;
use peerkit_proto::files::wire::{MAX_ANSWER, MAX_PER_REQUEST, PREFIX, body_len};
use peerkit_proto::files::{
    Access, AccessKind, Asker, Description, DiskRules, FileKind, FileName, Layout, Manifest, PIECE,
    PieceList, PieceSet, Platform, Secret,
};
use peerkit_proto::id::Hash;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::rate::RateLimits;
use crate::shares::{Audience, ShareOptions};
use crate::store::Store;
use crate::transfer::folder_plan::FolderPlan;
use crate::transfer::partial::{Partial, PartialContent, PartialGuard};
use crate::transfer::serve::uploads::UploadNews;
use crate::transfer::{IDLE, STALL};

const P: usize = PIECE as usize;

const BINDING: [u8; 32] = [5; 32];

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn server() -> FileServer {
    let shares = Shares::new(Store::open(None).unwrap());
    let (uploads, _) = Uploads::new();
    FileServer::new(shares, Partials::default(), Rates::new(&Config::default()), uploads)
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

/// The client end of a stream.
struct TestClient {
    stream: DuplexStream,
    task: JoinHandle<io::Result<()>>,
}

/// Opens a stream from `id` to `server`, and serves it.
fn connect(server: &FileServer, id: NodeId) -> TestClient {
    let (stream, theirs) = duplex(64 << 10);
    let task = tokio::spawn(serve(server.clone(), id, BINDING, theirs));
    TestClient { stream, task }
}

impl TestClient {
    async fn send(&mut self, request: &Request) {
        self.stream.write_all(&request.encode()).await.unwrap();
    }

    /// Reads the next answer, and the bytes of a piece after it.
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

    async fn request(&mut self, request: &Request) -> Answer {
        self.send(request).await;
        self.answer().await.0
    }

    /// Returns whether nothing arrives for 200 ms.
    async fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        let wait = Duration::from_millis(200);
        tokio::time::timeout(wait, self.stream.read(&mut byte)).await.is_err()
    }

    /// Sends a request for pieces, and returns the bytes of all of them.
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

fn refused(refusal: FileRefusal) -> Answer {
    Answer::Refused(refusal)
}

/// Shares a folder of small, large and empty files. Returns the folder, its hash, and the content of all
/// files in order.
async fn share_tree(server: &FileServer) -> (TempDir, Hash, Vec<u8>) {
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
    let added = server.shares.add(dir.path(), |_| ()).await.unwrap();
    let all = files.into_iter().flat_map(|(_, bytes)| bytes).collect();
    (dir, added.shared.hash, all)
}

/// Serves a download of a file that has no pieces yet.
fn serve_partial(server: &FileServer, bytes: &[u8], access: Access) -> (PartialGuard, Hash) {
    let list = PieceList::of(bytes);
    let hash = list.root();
    let description = Description {
        kind: FileKind::File,
        whole: false,
        access: access.kind(),
        size: bytes.len() as u64,
        stored: 0,
        name: FileName::new("growing").unwrap(),
    };
    let layout = Arc::new(Layout::file(bytes.len() as u64).unwrap());
    let file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut &file, bytes).unwrap();
    let content = PartialContent::File(Arc::new(file), Arc::new(list));
    let partial = Partial::new(hash, description, access, layout, content).unwrap();
    (server.partials.serve(partial), hash)
}

#[tokio::test]
async fn the_pieces_of_a_folder_are_those_of_its_files() {
    let server = server();
    let (_dir, hash, all) = share_tree(&server).await;
    // There are 699 small files with one piece each, and then files with 4, 1 and 1.
    let count = 705;
    let mut client = connect(&server, node(1));
    assert!(client.pieces(&Request::Tree { hash, first: 0, count }).await == all);
    // In parts of 90 pieces, which are all requested before the first answer is read.
    let mut got = Vec::new();
    for first in (0..count).step_by(90) {
        let part = Request::Tree { hash, first: first.into(), count: 90.min(count - first) };
        client.send(&part).await;
    }
    for index in 0..u64::from(count) {
        let (answer, bytes) = client.answer().await;
        assert_eq!(answer, Answer::Piece { index, len: bytes.len() as u32 });
        got.extend(bytes);
    }
    assert!(got == all);
    let last = client.pieces(&Request::Tree { hash, first: 704, count: 1 }).await;
    assert_eq!(last, content(9, 4));
}

#[tokio::test]
async fn only_a_folder_has_pieces_of_files() {
    let server = server();
    let (_dir, hash, _) = share_tree(&server).await;
    let mut client = connect(&server, node(1));
    let tree = |hash, first, count| Request::Tree { hash, first, count };
    let one = Hash::of(&content(P, 3));
    let cases = [
        (tree(hash, 704, 2), FileRefusal::BadRequest),
        (tree(hash, 705, 1), FileRefusal::BadRequest),
        (tree(hash, u64::MAX, MAX_PER_REQUEST), FileRefusal::BadRequest),
        (tree(one, 0, 1), FileRefusal::BadRequest),
        (tree(Hash::of(b"?"), 0, 1), FileRefusal::NotFound),
    ];
    for (request, refusal) in cases {
        assert_eq!(client.request(&request).await, refused(refusal), "{request:?}");
    }
    assert_eq!(client.pieces(&Request::Data { hash: one, first: 0, count: 1 }).await.len(), P);
}

#[tokio::test]
async fn a_changed_file_of_a_folder_is_not_served() {
    let server = server();
    let (dir, hash, _) = share_tree(&server).await;
    // The file keeps its length. Only its times and its content change.
    write(&dir.path().join("b/002"), &content(26, 9));
    let mut client = connect(&server, node(1));
    let request = Request::Tree { hash, first: 0, count: 10 };
    assert_eq!(client.request(&request).await, Answer::Piece { index: 0, len: 13 });
    assert_eq!(client.answer().await.0, refused(FileRefusal::Changed));
    // The other files are served.
    let after = client.pieces(&Request::Tree { hash, first: 2, count: 1 }).await;
    assert_eq!(after, content(39, 1));
}

#[tokio::test]
async fn a_cancelled_request_ends_and_later_ones_are_answered() {
    let server = server();
    let (_dir, hash, _) = share_tree(&server).await;
    let file = Hash::of(&content(3 * P + 5, 2));
    let data = Request::Data { hash: file, first: 0, count: 3 };
    let mut client = connect(&server, node(1));
    for request in [&data, &data, &Request::Tree { hash, first: 0, count: 700 }] {
        client.send(request).await;
    }
    client.send(&Request::Describe { hash: file }).await;
    assert!(matches!(client.answer().await.0, Answer::Piece { index: 0, .. }));
    client.send(&Request::Cancel).await;
    client.send(&Request::Data { hash: file, first: 3, count: 1 }).await;
    let (mut pieces, mut cancelled) = (0, 0);
    loop {
        match client.answer().await.0 {
            Answer::Piece { .. } => pieces += 1,
            Answer::Refused(FileRefusal::Cancelled) => cancelled += 1,
            Answer::Description(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(cancelled, 3, "each request is answered");
    assert!(pieces <= 1, "only the piece that was being sent: {pieces}");
    let (answer, bytes) = client.answer().await;
    assert_eq!((answer, bytes.len()), (Answer::Piece { index: 3, len: 5 }, 5));
    // Without a request to cancel, there is no answer.
    client.send(&Request::Cancel).await;
    assert!(client.is_silent().await);
}

#[tokio::test]
async fn only_a_node_that_proves_the_secret_of_the_ticket_is_served() {
    let server = server();
    let secret = Secret::from_bytes([8; 16]);
    let bytes = content(P + 1, 1);
    let (guard, hash) = serve_partial(&server, &bytes, Access::Ticket(secret));
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
        let mut client = connect(&server, stranger);
        if let Some(proof) = proof {
            client.send(&Request::Present { proof }).await;
        }
        for request in &requests {
            // The answer is the same as for content that was never shared.
            assert_eq!(
                client.request(request).await,
                refused(FileRefusal::NotFound),
                "{request:?}"
            );
        }
    }
    let mut client = connect(&server, stranger);
    client.send(&Request::Present { proof: secret.prove(&BINDING, stranger) }).await;
    match client.request(&requests[0]).await {
        Answer::Description(found) => assert_eq!(found.access, AccessKind::Ticket),
        other => panic!("{other:?}"),
    }
    assert!(matches!(client.request(&requests[1]).await, Answer::Pieces { .. }));
    assert_eq!(client.pieces(&requests[2]).await, bytes[P..]);
    assert_eq!(client.request(&requests[3]).await, refused(FileRefusal::BadRequest));
    let held = Answer::Held { first: 0, bits: Bytes::from_static(&[3]) };
    assert_eq!(client.request(&requests[4]).await, held);
    // A wrong proof replaces the right one.
    client.send(&Request::Present { proof: [0; 32] }).await;
    assert_eq!(client.request(&requests[2]).await, refused(FileRefusal::NotFound));
}

#[tokio::test]
async fn the_pieces_that_a_download_of_a_folder_has_are_served() {
    let (shared, server) = (server(), server());
    let (dir, hash, all) = share_tree(&shared).await;
    let manifest = {
        let asker = Asker { id: node(1), binding: &[0; 32], proof: None };
        let open = shared.shares.open(&hash, &asker).unwrap();
        let mut bytes = Vec::new();
        open.read_piece(0, &mut bytes).unwrap();
        bytes
    };
    let decoded = Manifest::decode(manifest.clone().into()).unwrap();
    let description = Description {
        kind: FileKind::Folder,
        whole: false,
        access: AccessKind::Open,
        size: manifest.len() as u64,
        stored: 0,
        name: FileName::new("growing").unwrap(),
    };
    let layout = Arc::new(Layout::folder(&decoded));
    let large = content(3 * P + 5, 2);
    let list = Arc::new(PieceList::of(&large));
    let mut lists = vec![None; layout.files()];
    lists[701] = Some(Arc::clone(&list));
    let plan = FolderPlan::new(decoded, lists, &DiskRules::new(Platform::HERE));
    let content = PartialContent::folder(dir.path().to_owned(), plan);
    let partial = Partial::new(hash, description.clone(), Access::Open, layout, content).unwrap();
    partial.add(0..690);
    partial.add(701..702);
    let guard = server.partials.serve(partial);

    let mut client = connect(&server, node(1));
    let answer = client.request(&Request::Describe { hash }).await;
    assert_eq!(answer, Answer::Description(description));
    assert_eq!(client.pieces(&Request::Data { hash, first: 0, count: 1 }).await, manifest);
    let tree = |first, count| Request::Tree { hash, first, count };
    let first = client.pieces(&tree(0, 690)).await;
    assert!(first == all[..first.len()]);
    assert!(client.pieces(&tree(701, 1)).await == large[2 * P..3 * P]);
    assert_eq!(client.request(&tree(700, 1)).await, refused(FileRefusal::NotFound));
    // The piece list of a file in it is served, but not its pieces under the hash of the file.
    let values = Request::Pieces { hash: list.root(), first: 1, count: 3 };
    let expected = Answer::Pieces { first: 1, values: list.values()[1..].to_vec() };
    assert_eq!(client.request(&values).await, expected);
    let data = Request::Data { hash: list.root(), first: 2, count: 1 };
    assert_eq!(client.request(&data).await, refused(FileRefusal::NotFound));
    drop(guard);
    assert_eq!(client.request(&tree(0, 1)).await, refused(FileRefusal::NotFound));
    assert_eq!(client.request(&values).await, refused(FileRefusal::NotFound));
}

#[tokio::test]
async fn a_node_limits_its_upload_rate() {
    let limits = RateLimits { upload: 5, peer_download: 6, ..RateLimits::default() };
    let mut config = Config::default();
    (config.upload_rate, config.peer_download_rate) = (5, 6);
    let node = crate::Node::builder().config(config).spawn().await.unwrap();
    assert_eq!(node.rates(), limits);
    node.set_rates(RateLimits::default());
    assert_eq!(node.rates(), RateLimits::default());
    node.shutdown().await;
}

/// A peer that has everything may end the stream while an answer is being sent: that is no error.
#[tokio::test]
async fn a_peer_that_has_everything_ends_the_stream_without_an_error() {
    let (uploads, mut news) = Uploads::new();
    let server = FileServer { uploads, ..server() };
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(4 * P, 1);
    let path = dir.path().join("film.bin");
    write(&path, &bytes);
    let hash = server.shares.add(path, |_| ()).await.unwrap().shared.hash;
    let name = || "bob".to_owned();
    // First the client reads all answers. Then it requests more, and ends the stream before the answer.
    for requests_more in [false, true] {
        let mut client = connect(&server, node(1));
        client.pieces(&Request::Data { hash, first: 0, count: 4 }).await;
        assert_eq!(server.uploads.list()[0].sent, 4 * PIECE);
        if requests_more {
            client.send(&Request::Data { hash, first: 0, count: 4 }).await;
        }
        client.send(&Request::Complete { hash, name: name(), called: None }).await;
        match news.recv().await {
            Some(UploadNews::Completed { peer, name: of, upload }) => {
                assert_eq!((peer, of, upload.bytes), (node(1), name(), 4 * PIECE));
            }
            other => panic!("{other:?}"),
        }
        drop(client.stream);
        client.task.await.unwrap().unwrap();
        assert!(server.uploads.list().is_empty());
    }
    // The upload has the name that the peer requested, if the content is shared with the peer under that
    // name.
    let (open, closed) = (dir.path().join("open.bin"), dir.path().join("closed.bin"));
    [&open, &closed].into_iter().for_each(|path| write(path, &bytes));
    server.shares.add(open, |_| ()).await.unwrap();
    let for_other =
        ShareOptions { audience: Audience::Nodes(vec![node(2)]), ..ShareOptions::default() };
    server.shares.add_with(closed, for_other, |_| ()).await.unwrap();
    for (called, expected) in
        [("open.bin", "open.bin"), ("closed.bin", "film.bin"), ("no.bin", "film.bin")]
    {
        let mut client = connect(&server, node(1));
        client.pieces(&Request::Data { hash, first: 0, count: 1 }).await;
        let called = Some(called.parse().unwrap());
        client.send(&Request::Complete { hash, name: name(), called }).await;
        let Some(UploadNews::Completed { upload, .. }) = news.recv().await else { panic!() };
        assert_eq!(upload.name, expected);
        drop(client.stream);
        client.task.await.unwrap().unwrap();
    }
    // A peer that closes the stream without `Complete` has broken off.
    let mut client = connect(&server, node(1));
    client.send(&Request::Data { hash, first: 0, count: 4 }).await;
    client.answer().await;
    drop(client.stream);
    client.task.await.unwrap().unwrap_err();
    assert!(news.try_recv().is_err());
}
