//! Sharing, finding, fetching and verifying files, whichever of the two nodes can dial the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::*;
use peerkit::{DownloadStatus, Error, FetchError, FetchRequest, FileKind, Hash, Node, Stream};
use peerkit_proto::files::wire::{MAX_REQUEST, PREFIX, body_len};
use peerkit_proto::files::{
    AccessKind, Answer, Description, FILES_PROTOCOL, PIECE, PieceList, Request,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Returns content of four pieces, the last of which is shorter.
fn content() -> Vec<u8> {
    SeededRandom(5).bytes(3 * usize::try_from(PIECE).unwrap() + 12_345)
}

fn write(folder: &TempDir, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    path
}

/// Returns the paths of all files and folders under a folder, and the contents of the files.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files.insert(path.strip_prefix(folder).unwrap().join(""), Vec::new());
                folders.push(path);
            } else {
                let content = std::fs::read(&path).unwrap();
                files.insert(path.strip_prefix(folder).unwrap().to_owned(), content);
            }
        }
    }
    files
}

fn is_empty(folder: &TempDir) -> bool {
    tree(folder.path()).is_empty()
}

/// Returns the number of partial files. Checks that the folder has no other files.
fn count_parts(folder: &TempDir) -> usize {
    let tree = tree(folder.path());
    assert!(tree.keys().all(|path| path.extension() == Some("part".as_ref())), "{tree:?}");
    tree.len()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn a_file_is_found_and_fetched_from_a_node_without_a_link() {
    let (ann, bob, cid) = (node("ann").await, node("bob").await, node("cid").await);
    link(&ann, &bob).await;
    link(&bob, &cid).await;
    let (from, to) = (folder(), folder());
    let content = content();
    let shared = cid.share(write(&from, "a song.bin", &content)).await.unwrap().shared;
    assert_eq!(shared.hash.to_string(), blake3::hash(&content).to_string());
    assert_eq!((shared.size, shared.kind), (content.len() as u64, FileKind::File));
    assert_eq!(cid.files().shares(), std::slice::from_ref(&shared));

    let found = ann.search("song").await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].file, found[0].sources[0].id), (&shared, cid.id()));
    let download = ann.fetch(FetchRequest::new(shared.hash).to(to.path()));
    let (mut steps, mut progress) = (Vec::new(), download.progress());
    while let Some(DownloadStatus { done, total, .. }) = progress.next().await {
        steps.extend(total.map(|total| (done, total)));
    }
    let fetched = download.await.unwrap();
    assert_eq!(fetched.path, to.path().join("a song.bin"));
    assert_eq!((fetched.bytes, &fetched.sources[..]), (content.len() as u64, &[cid.id()][..]));
    assert_eq!(tree(to.path()), BTreeMap::from([("a song.bin".into(), content.clone())]));
    assert!(steps.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{steps:?}");
    let complete = (content.len() as u64, content.len() as u64);
    assert_eq!(steps.last(), Some(&complete));
    assert!(ann.peer(cid.id()).is_none(), "a fetch makes no link");

    // Fetches to an exact path, and into a folder that does not exist yet.
    let exact = to.path().join("renamed");
    assert_eq!(ann.fetch(FetchRequest::new(shared.hash).to(&exact)).await.unwrap().path, exact);
    assert!(std::fs::read(exact).unwrap() == content);
    let deep = to.path().join("made/for it");
    let fetched = ann.fetch(FetchRequest::new(shared.hash).into_folder(&deep)).await.unwrap();
    assert_eq!(fetched.path, deep.join("a song.bin"));

    // A file that is no longer shared can't be fetched.
    assert_eq!(cid.files().unshare(shared.hash).await.unwrap(), std::slice::from_ref(&shared));
    assert!(ann.search("song").await.unwrap().is_empty());
    let none = ann.fetch(FetchRequest::new(shared.hash).to(to.path())).await;
    assert!(matches!(none, Err(Error::NoSource(hash)) if hash == shared.hash));
    shutdown([&ann, &bob, &cid]).await;
}

#[tokio::test]
async fn a_fetched_folder_has_all_files_and_folders() {
    let (ann, bob) = (node("ann").await, node("bob").await);
    link(&ann, &bob).await;
    let (from, to) = (folder(), folder());
    write(&from, "album/1.bin", &content());
    write(&from, "album/cover/small.txt", b"small");
    write(&from, "album/cover/empty", b"");
    for n in 0..50 {
        write(&from, &format!("album/many/{n}"), &SeededRandom(n).bytes(n as usize * 100));
    }
    std::fs::create_dir(from.path().join("album/nothing")).unwrap();
    let added = bob.share(from.path().join("album")).await.unwrap();
    assert_eq!((added.files, added.shared.kind), (53, FileKind::Folder));
    assert!(added.skipped.is_empty());
    let fetched = ann.fetch(FetchRequest::new(added.shared.hash).to(to.path())).await.unwrap();
    assert_eq!((fetched.path, fetched.kind), (to.path().join("album"), FileKind::Folder));
    assert_eq!(fetched.bytes, added.shared.size);
    assert_eq!(tree(to.path()), tree(from.path()));
    shutdown([&ann, &bob]).await;
}

#[tokio::test]
async fn a_folder_that_exists_is_not_fetched_again() {
    let (ann, bob) = (node("ann").await, node("bob").await);
    link(&ann, &bob).await;
    let (from, to) = (folder(), folder());
    write(&from, "album/1.bin", &content());
    write(&from, "album/in/2.txt", b"two");
    write(&from, "album/in/empty", b"");
    let hash = bob.share(from.path().join("album")).await.unwrap().shared.hash;
    let fetch = async |name: &str| {
        let fetched = ann.fetch(FetchRequest::new(hash).to(to.path())).await.unwrap();
        assert_eq!(fetched.path, to.path().join(name));
        fetched.sources.len()
    };
    assert_eq!(fetch("album").await, 1);
    assert_eq!(fetch("album").await, 0, "no source has sent a piece");
    assert_eq!(tree(to.path()), tree(from.path()), "there are further files");

    // If a file in it has other content of the same size, the folder is fetched again, under another name.
    write(&to, "album/in/2.txt", b"zwo");
    assert_eq!(fetch("album (1)").await, 1);
    assert_eq!(fetch("album (1)").await, 0);
    write(&to, "album/in/2.txt", b"two");
    assert_eq!(fetch("album").await, 0);
    // With one more file, `album` is another folder. `album (1)` is still complete, and is found.
    write(&to, "album/more", b"");
    assert_eq!(fetch("album (1)").await, 0);
    shutdown([&ann, &bob]).await;
}

#[tokio::test]
async fn a_node_that_does_not_listen_calls_back() {
    let (ann, bob) = (node("ann").await, node("bob").await);
    let start = || Node::builder().name("silent").spawn();
    let (linked, unlinked) = (start().await.unwrap(), start().await.unwrap());
    link(&linked, &ann).await;
    link(&ann, &bob).await;
    link(&unlinked, &bob).await;
    let (from, to) = (folder(), folder());
    let path = write(&from, "file", &content());
    for sharing in [&linked, &unlinked] {
        let hash = sharing.share(&path).await.unwrap().shared.hash;
        let fetched =
            within("the fetch", ann.fetch(FetchRequest::new(hash).to(to.path()))).await.unwrap();
        assert_eq!(fetched.sources, [sharing.id()]);
        assert!(std::fs::read(&fetched.path).unwrap() == content());
        std::fs::remove_file(fetched.path).unwrap();
        sharing.files().unshare(hash).await.unwrap();
    }
    // Neither of the two nodes listens, so the fetch fails. The content is new, because Ann may still serve
    // pieces of the first content.
    let path = write(&from, "other", &content()[1..]);
    let hash = unlinked.share(&path).await.unwrap().shared.hash;
    let failed = within("the error", linked.fetch(FetchRequest::new(hash).to(to.path()))).await;
    assert!(matches!(failed, Err(Error::Unreachable { peer, .. }) if peer == unlinked.id()));
    shutdown([&ann, &bob, &linked, &unlinked]).await;
}

#[tokio::test]
async fn concurrent_fetches_do_not_disturb_each_other() {
    let (ann, bob, cid) = (node("ann").await, node("bob").await, node("cid").await);
    link(&ann, &cid).await;
    link(&bob, &cid).await;
    let (from, to_a, to_b) = (folder(), folder(), folder());
    let hash = cid.share(write(&from, "file", &content())).await.unwrap().shared.hash;
    let other = cid.share(write(&from, "other", &content()[1..])).await.unwrap().shared.hash;
    let (a, b, c) = tokio::join!(
        ann.fetch(FetchRequest::new(hash).to(to_a.path())),
        bob.fetch(FetchRequest::new(hash).to(to_b.path())),
        ann.fetch(FetchRequest::new(other).to(to_a.path())),
    );
    for (fetched, expected) in [(a, &content()[..]), (b, &content()[..]), (c, &content()[1..])] {
        assert!(std::fs::read(fetched.unwrap().path).unwrap() == expected);
    }
    // A fetch overwrites no file: if another file has the name, a number is added.
    std::fs::write(to_b.path().join("file"), "mine").unwrap();
    let fetched = bob.fetch(FetchRequest::new(hash).to(to_b.path())).await.unwrap();
    assert_eq!(fetched.path, to_b.path().join("file (1)"));
    assert_eq!(std::fs::read(to_b.path().join("file")).unwrap(), b"mine");
    shutdown([&ann, &bob, &cid]).await;
}

#[tokio::test]
async fn a_fetch_without_a_source_leaves_no_file() {
    let (ann, bob) = (node("ann").await, node("bob").await);
    link(&ann, &bob).await;
    let to = folder();
    let hash = Hash::of(b"no node has this");
    assert!(
        matches!(ann.fetch(FetchRequest::new(hash).to(to.path())).await, Err(Error::NoSource(h)) if h == hash)
    );
    let alone = node("alone").await;
    assert!(matches!(
        alone.fetch(FetchRequest::new(hash).to(to.path())).await,
        Err(Error::NoSource(_))
    ));
    // A file that has changed since it was shared is not served under its old hash.
    let from = folder();
    let path = write(&from, "file", &content());
    let hash = bob.share(&path).await.unwrap().shared.hash;
    std::fs::write(&path, "another content").unwrap();
    let failed = ann.fetch(FetchRequest::new(hash).to(to.path())).await;
    let is_right =
        |error: &FetchError| matches!(error, FetchError::Changed { name } if name == "file");
    assert!(matches!(&failed, Err(Error::Fetch(error)) if is_right(error)), "{failed:?}");
    assert!(is_empty(&to));
    shutdown([&ann, &bob, &alone]).await;
}

/// The answers of a simulated source: the bytes that answer a request, and whether the stream stays open.
type Answers = dyn Fn(Request) -> (Vec<u8>, bool) + Send + Sync;

/// Makes `answers` answer all requests for files in place of the node. Returns a counter of the streams.
fn answer_with(
    node: &Node,
    answers: impl Fn(Request) -> (Vec<u8>, bool) + Send + Sync + 'static,
) -> Arc<AtomicUsize> {
    let streams = Arc::new(AtomicUsize::new(0));
    let (answers, counting): (Arc<Answers>, _) = (Arc::new(answers), streams.clone());
    node.serve_stream(FILES_PROTOCOL, move |stream| {
        counting.fetch_add(1, Ordering::SeqCst);
        serve_simulated(stream, answers.clone())
    });
    streams
}

async fn serve_simulated(mut stream: Stream, answers: Arc<Answers>) {
    let mut prefix = [0; PREFIX];
    while stream.read_exact(&mut prefix).await.is_ok() {
        let mut body = vec![0; body_len(prefix, MAX_REQUEST).unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        let (bytes, stays_open) = answers(Request::decode(body.into()).unwrap());
        let _ = stream.write_all(&bytes).await;
        let _ = stream.flush().await;
        if !stays_open {
            return;
        }
    }
}

fn description(name: &str, size: usize) -> Vec<u8> {
    let (kind, size, name) = (FileKind::File, size as u64, name.parse().unwrap());
    let (access, whole) = (AccessKind::Open, true);
    Answer::Description(Description { kind, access, whole, size, stored: size, name }).encode()
}

/// Returns the answers of an honest source. It closes the stream after it has sent `pieces` pieces.
fn honest(content: &[u8], pieces: usize) -> impl Fn(Request) -> (Vec<u8>, bool) + use<> {
    let (content, sent) = (content.to_vec(), AtomicUsize::new(0));
    let list = PieceList::of(&content);
    move |request| match request {
        Request::Describe { .. } => (description("file", content.len()), true),
        // The fetching node asks for news of further pieces. This source has all pieces already.
        Request::Follow { .. } => (Answer::Whole.encode(), true),
        Request::Cancel => (Vec::new(), true),
        Request::Pieces { first, count, .. } => {
            let values = list.part(first, usize::from(count)).to_vec();
            (Answer::Pieces { first, values }.encode(), true)
        }
        Request::Data { first, count, .. } => {
            let mut bytes = Vec::new();
            for index in first..first + u64::from(count) {
                if sent.fetch_add(1, Ordering::SeqCst) >= pieces {
                    return (bytes, false);
                }
                let range = list.range(index).unwrap();
                let piece = &content[range.start as usize..range.end as usize];
                bytes.extend(Answer::Piece { index, len: piece.len() as u32 }.encode());
                bytes.extend(piece);
            }
            (bytes, true)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_source_that_stops_midway_is_replaced_or_reported() {
    let content = content();
    let (from, to) = (folder(), folder());
    let path = write(&from, "file", &content);
    let (ann, dying) = (node("ann").await, node("dying").await);
    link(&ann, &dying).await;
    let hash = dying.share(&path).await.unwrap().shared.hash;
    let streams = answer_with(&dying, honest(&content, 2));
    let failed = within("the error", ann.fetch(FetchRequest::new(hash).to(to.path()))).await;
    assert!(matches!(failed, Err(Error::Fetch(FetchError::Stream(_)))), "{failed:?}");
    assert!(streams.load(Ordering::SeqCst) > 1, "the source was not asked again");
    assert_eq!(
        count_parts(&to),
        1,
        "the pieces that it sent are kept: {:?}",
        tree(to.path()).keys()
    );

    // The second source is further away, so it usually answers later.
    let (between, whole) = (node("between").await, node("whole").await);
    link(&dying, &between).await;
    link(&between, &whole).await;
    whole.share(&path).await.unwrap();
    let mut sources = Vec::new();
    for n in 0..10 {
        let streams = answer_with(&dying, honest(&content, 2));
        let exact = to.path().join(n.to_string());
        let fetched =
            within("the fetch", ann.fetch(FetchRequest::new(hash).to(&exact))).await.unwrap();
        assert!(std::fs::read(exact).unwrap() == content);
        sources = fetched.sources;
        if streams.load(Ordering::SeqCst) == 1 {
            break;
        }
    }
    sources.sort();
    let mut both = [dying.id(), whole.id()];
    both.sort();
    assert_eq!(sources, both, "the pieces of the first source are kept");
    shutdown([&ann, &dying, &between, &whole]).await;
}

#[tokio::test]
async fn a_fetch_fails_when_its_only_source_crashes() {
    let other_runtime = OtherRuntime::new();
    let (ann, sharing) =
        (node("ann").await, other_runtime.run(builder("b").spawn()).await.unwrap());
    link(&ann, &sharing).await;
    let (from, to) = (folder(), folder());
    let path = write(&from, "file", &vec![6; 64 << 20]);
    let hash = sharing.share(&path).await.unwrap().shared.hash;
    let download = ann.fetch(FetchRequest::new(hash).to(to.path()));
    wait_until("some pieces", || download.status().done > 4 << 20).await;
    other_runtime.crash();
    let failed = within("the error", download).await;
    assert!(matches!(failed, Err(Error::Fetch(FetchError::Stream(_)) | Error::Unreachable { .. })));
    assert_eq!(count_parts(&to), 1, "{:?}", tree(to.path()).keys());
    shutdown([&ann]).await;
}

#[tokio::test]
async fn false_answers_are_detected_and_leave_no_file() {
    let content = content();
    let (from, to) = (folder(), folder());
    let inside = to.path().join("downloads");
    std::fs::create_dir(&inside).unwrap();
    let (ann, lying) = (node("ann").await, node("lying").await);
    link(&ann, &lying).await;
    let hash = lying.share(write(&from, "file", &content)).await.unwrap().shared.hash;
    let fetch = async || {
        within("the error", ann.fetch(FetchRequest::new(hash).to(&inside))).await.unwrap_err()
    };

    // Names that lead out of the folder, or that are invalid. They are encoded by hand, as the types refuse
    // them.
    for name in ["../evil", "..", "/evil", "a/b", "a\0b", "", ".", "evil\n"] {
        let mut body = vec![1, 0, 0];
        body.extend((content.len() as u64).to_le_bytes());
        body.extend((content.len() as u64).to_le_bytes());
        body.extend((name.len() as u16).to_le_bytes());
        body.extend(name.as_bytes());
        let mut message = (body.len() as u32).to_le_bytes().to_vec();
        message.extend(body);
        answer_with(&lying, move |_| (message.clone(), true));
        let error = fetch().await;
        assert!(matches!(error, Error::Fetch(FetchError::Protocol(_))), "{name:?}: {error:?}");
    }

    // Other content, first with its own piece list, then with the right piece list.
    let mut other = content.clone();
    other[PIECE as usize + 7] ^= 1;
    answer_with(&lying, honest(&other, usize::MAX));
    assert!(matches!(fetch().await, Error::Fetch(FetchError::Lie(_))));
    let (right, wrong) = (honest(&content, usize::MAX), honest(&other, usize::MAX));
    answer_with(&lying, move |request| match request {
        Request::Data { .. } => wrong(request),
        _ => right(request),
    });
    assert!(matches!(fetch().await, Error::Fetch(FetchError::Lie(_))));

    // Wrong sizes: some of them nearly right, some of them absurd.
    for size in [content.len() - 1, content.len() + 1, 0, 1, usize::MAX] {
        let right = honest(&content, usize::MAX);
        answer_with(&lying, move |request| match request {
            Request::Describe { .. } => (description("file", size), true),
            // With a wrong size, the requested piece list may be longer than the real one.
            Request::Pieces { first, count, .. } => {
                let list = PieceList::of(&content_of(size));
                let values = list.part(first, usize::from(count)).to_vec();
                (Answer::Pieces { first, values }.encode(), true)
            }
            _ => right(request),
        });
        let error = fetch().await;
        let Error::Fetch(error) = error else { panic!("{error:?}") };
        assert!(error.is_lie(), "{size}: {error:?}");
    }

    // Bytes that are not an answer, and a stream that ends without an answer.
    answer_with(&lying, |_| (vec![0xff; 100], true));
    assert!(matches!(fetch().await, Error::Fetch(FetchError::Protocol(_))));
    answer_with(&lying, |_| (Vec::new(), false));
    assert!(matches!(fetch().await, Error::Fetch(FetchError::Stream(_))));
    // An answer to another request.
    answer_with(&lying, |_| (Answer::Piece { index: 0, len: 4 }.encode(), true));
    assert!(matches!(fetch().await, Error::Fetch(FetchError::Unexpected(_))));

    let part = format!("downloads/.file.{}.part", &hash.to_string()[..8]);
    let is_expected = |path: &PathBuf| path == Path::new("downloads/") || path == Path::new(&part);
    let left = tree(to.path());
    assert!(left.keys().all(is_expected), "only verified pieces are left: {:?}", left.keys());
    // With honest answers the fetch completes.
    answer_with(&lying, honest(&content, usize::MAX));
    let fetched = ann.fetch(FetchRequest::new(hash).to(&inside)).await.unwrap();
    assert!(std::fs::read(fetched.path).unwrap() == content);
    assert_eq!(tree(to.path()).len(), 2);
    shutdown([&ann, &lying]).await;
}

/// Returns the content for a false piece list. It has the claimed size, but at most 8 MiB.
fn content_of(size: usize) -> Vec<u8> {
    let mut content = content();
    content.resize(size.min(8 << 20), 0);
    content
}

#[tokio::test]
async fn a_manifest_cannot_name_files_outside_its_folder() {
    let (from, to) = (folder(), folder());
    let (ann, lying) = (node("ann").await, node("lying").await);
    link(&ann, &lying).await;
    for name in ["../evil", "/evil", "a/../../evil", "..", "a//b", "./a", "", "a\0b"] {
        // A manifest of one empty file, encoded by hand, as the types refuse such names.
        let mut list = b"peerkit folder 1\n".to_vec();
        list.extend(1_u32.to_le_bytes());
        list.push(1);
        list.extend((name.len() as u16).to_le_bytes());
        list.extend(name.as_bytes());
        list.extend(0o644_u16.to_le_bytes());
        list.extend(0_u64.to_le_bytes());
        list.extend(Hash::of(b"").as_bytes());
        // The manifest is shared as a file, so that the node answers lookups of its hash.
        let hash = lying.share(write(&from, "list", &list)).await.unwrap().shared.hash;
        let right = honest(&list, usize::MAX);
        let size = list.len() as u64;
        answer_with(&lying, move |request| match request {
            Request::Describe { .. } => {
                let (kind, name) = (FileKind::Folder, "folder".parse().unwrap());
                (
                    Answer::Description(Description {
                        kind,
                        access: AccessKind::Open,
                        whole: true,
                        size,
                        stored: size,
                        name,
                    })
                    .encode(),
                    true,
                )
            }
            _ => right(request),
        });
        let error = within("the error", ann.fetch(FetchRequest::new(hash).to(to.path())))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Fetch(FetchError::Manifest(_))), "{name:?}: {error:?}");
        assert!(is_empty(&to), "{name:?}");
        lying.files().unshare(hash).await.unwrap();
    }
    shutdown([&ann, &lying]).await;
}

#[tokio::test]
async fn the_next_fetch_continues_a_dropped_one() {
    let (ann, hanging) = (node("ann").await, node("hanging").await);
    link(&ann, &hanging).await;
    let (from, to) = (folder(), folder());
    let content = content();
    let hash = hanging.share(write(&from, "file", &content)).await.unwrap().shared.hash;
    let right = honest(&content, 2);
    answer_with(&hanging, move |request| (right(request).0, true));
    let download = ann.fetch(FetchRequest::new(hash).to(to.path()).foreground());
    let mut progress = download.progress();
    let one_piece = async { while progress.next().await.unwrap().done <= PIECE {} };
    tokio::select! {
        fetched = download => panic!("{fetched:?}"),
        () = one_piece => {}
    }
    assert!(
        ann.files().downloads().is_empty(),
        "a foreground fetch must end when its handle is dropped"
    );
    assert_eq!(count_parts(&to), 1, "received pieces must be kept");
    // The next fetch continues, and does not request the pieces that are there.
    let right = honest(&content, usize::MAX);
    let (requested, pieces) = (Arc::new(AtomicUsize::new(0)), PieceList::of(&content).count());
    let counting = requested.clone();
    answer_with(&hanging, move |request| {
        if let Request::Data { count, .. } = request {
            counting.fetch_add(usize::from(count), Ordering::SeqCst);
        }
        right(request)
    });
    let fetched =
        within("the fetch", ann.fetch(FetchRequest::new(hash).to(to.path()))).await.unwrap();
    assert!(std::fs::read(&fetched.path).unwrap() == content);
    // Only the last piece may be requested again, because it proves the size.
    assert!((requested.load(Ordering::SeqCst) as u64) < pieces, "{requested:?} of {pieces}");
    assert_eq!(tree(to.path()).len(), 1, "there are further files");
    shutdown([&ann, &hanging]).await;
}

#[tokio::test]
async fn the_download_folder_can_be_changed_while_the_node_runs() {
    let folder = folder();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let a = node("a").await;
    let b = builder("b").download_folder(&first).spawn().await.unwrap();
    link(&b, &a).await;
    let one = a.share(write(&folder, "one", b"1")).await.unwrap().shared.hash;
    let two = a.share(write(&folder, "two", b"2")).await.unwrap().shared.hash;
    let fetch = async |get| within("a fetch", b.fetch(get)).await.unwrap().path;
    assert_eq!(fetch(FetchRequest::new(one)).await, first.join("one"));
    b.files().set_download_folder(&second);
    assert_eq!(b.files().download_folder(), second);
    assert_eq!(fetch(FetchRequest::new(two)).await, second.join("two"));
    assert_eq!(
        fetch(FetchRequest::new(two).to(first.join("x"))).await,
        first.join("x"),
        "an explicit path takes precedence"
    );
    shutdown([&a, &b]).await;
}
