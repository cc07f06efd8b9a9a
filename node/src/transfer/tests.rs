mod faults;

use super::*;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use peerkit_proto::codec::Writer;
use peerkit_proto::files::wire::{MAX_REQUEST, PREFIX, body_len};
use peerkit_proto::files::{AccessKind, Answer, Description, FileName, PIECE, PieceList, Request};
use peerkit_proto::id::Hash;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::shares::Shares;
use crate::store::Store;

const P: usize = PIECE as usize;

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn shares() -> Shares {
    Shares::new(Store::open(None).unwrap())
}

fn dirs() -> (TempDir, TempDir) {
    (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap())
}

fn content(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A stream to a node that shares `shares`.
fn honest(shares: &Shares) -> DuplexStream {
    let (ours, theirs) = duplex(64 << 10);
    tokio::spawn(serve(shares.clone(), (node(0), [0; 32]), theirs));
    ours
}

/// A stream to someone who answers as `answer` says: its bytes, and whether to go on after them.
fn liar(mut answer: impl FnMut(Request) -> (Vec<u8>, bool) + Send + 'static) -> DuplexStream {
    let (ours, mut theirs) = duplex(64 << 10);
    tokio::spawn(async move {
        loop {
            let mut prefix = [0; PREFIX];
            if theirs.read_exact(&mut prefix).await.is_err() {
                return;
            }
            let mut body = vec![0; body_len(prefix, MAX_REQUEST).unwrap()];
            theirs.read_exact(&mut body).await.unwrap();
            let (bytes, more) = answer(Request::decode(body.into()).unwrap());
            if theirs.write_all(&bytes).await.is_err() || !more {
                return;
            }
        }
    });
    ours
}

fn described(kind: FileKind, size: u64, name: &str) -> Vec<u8> {
    let name = FileName::new(name).unwrap();
    Answer::Description(Description { kind, access: AccessKind::Open, size, name }).encode()
}

fn piece(index: u64, bytes: &[u8]) -> Vec<u8> {
    let len = bytes.len() as u32;
    [Answer::Piece { index, len }.encode(), bytes.to_vec()].concat()
}

/// Answers as a source that has `bytes` does, but for what `twist` says.
fn source_of(
    bytes: Vec<u8>,
    kind: FileKind,
    mut twist: impl FnMut(Request) -> Option<(Vec<u8>, bool)> + Send + 'static,
) -> DuplexStream {
    let list = PieceList::of(&bytes);
    liar(move |request| {
        if let Some(answer) = twist(request.clone()) {
            return answer;
        }
        let answer = match request {
            Request::Describe { .. } => described(kind, bytes.len() as u64, "name.bin"),
            Request::Pieces { first, count, .. } => {
                let values = list.part(first, usize::from(count)).to_vec();
                Answer::Pieces { first, values }.encode()
            }
            Request::Data { first, count, .. } => (first..first + u64::from(count))
                .flat_map(|index| {
                    let range = list.range(index).unwrap();
                    piece(index, &bytes[range.start as usize..range.end as usize])
                })
                .collect(),
            other => panic!("{other:?}"),
        };
        (answer, true)
    })
}

async fn fetch(hash: Hash, to: &Path, stream: DuplexStream) -> Result<Fetched, FetchError> {
    let mut download = Download::new(hash, Destination::Folder(to.to_owned()));
    download.run(node(1), stream, |_| ()).await?;
    download.finish().await
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

#[tokio::test]
async fn files_of_every_size_arrive() {
    let (from, to) = dirs();
    let shares = shares();
    for len in [0, 1, 1024, P - 1, P, P + 1, 2 * P, 5 * P + 77, 67 * P + 1] {
        let bytes = content(len);
        let path = from.path().join(format!("{len}.bin"));
        write(&path, &bytes);
        let shared = shares.add(&path, |_| ()).await.unwrap().shared;
        let steps = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&steps);
        let mut download = Download::new(shared.hash, Destination::Path(to.path().into()));
        let progress = move |step| seen.lock().unwrap().push(step);
        download.run(node(1), honest(&shares), progress).await.unwrap();
        assert!(download.is_complete());
        let fetched = download.finish().await.unwrap();
        assert_eq!(fetched.path, to.path().join(format!("{len}.bin")));
        assert_eq!(fetched.bytes, len as u64);
        assert_eq!(fetched.sources, [node(1)]);
        assert!(fs::read(&fetched.path).unwrap() == bytes, "{len} bytes differ");
        let steps = steps.lock().unwrap();
        assert!(steps.windows(2).all(|two| two[0].done <= two[1].done));
        let last = steps.last().unwrap();
        assert_eq!((last.done, last.total), (len as u64, len as u64));
    }
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 9, "nothing else is left");
}

fn tree(path: &Path) -> Vec<(String, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    let mut open = vec![path.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let at = entry.unwrap().path();
            let name = at.strip_prefix(path).unwrap().to_str().unwrap().to_owned();
            if at.is_dir() {
                found.push((name, None));
                open.push(at);
            } else {
                found.push((name, Some(fs::read(at).unwrap())));
            }
        }
    }
    found.sort();
    found
}

fn make_tree(top: &Path) {
    for n in 0..100 {
        write(&top.join(format!("many/{n}")), &content(n * 600));
    }
    write(&top.join("large/one"), &content(3 * P + 5));
    write(&top.join("large/two"), &content(P + 1));
    write(&top.join("last"), b"x");
    write(&top.join("run.sh"), b"#!/bin/sh\n");
    fs::create_dir_all(top.join("empty/in empty")).unwrap();
    write(&top.join("zero"), b"");
}

#[tokio::test]
async fn a_folder_arrives_whole() {
    let (from, to) = dirs();
    let top = from.path().join("My Folder");
    make_tree(&top);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(0o777);
        fs::set_permissions(top.join("run.sh"), mode).unwrap();
    }
    let shares = shares();
    let shared = shares.add(&top, |_| ()).await.unwrap().shared;
    let last = Arc::new(Mutex::new(Progress::default()));
    let seen = Arc::clone(&last);
    let mut download = Download::new(shared.hash, Destination::Folder(to.path().join("new")));
    let progress = move |step| *seen.lock().unwrap() = step;
    download.run(node(1), honest(&shares), progress).await.unwrap();
    let fetched = download.finish().await.unwrap();
    assert_eq!(fetched.path, to.path().join("new/My Folder"));
    assert_eq!((fetched.kind, fetched.bytes), (FileKind::Folder, shared.size));
    assert_eq!(tree(&fetched.path), tree(&top));
    let last = *last.lock().unwrap();
    assert_eq!((last.done, last.total), (shared.size, shared.size));
    assert_eq!(fs::read_dir(to.path().join("new")).unwrap().count(), 1);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |name: &str| {
            let found = fs::metadata(fetched.path.join(name)).unwrap();
            found.permissions().mode() & 0o777
        };
        // Executable as far as the umask lets it, which every other file shows.
        assert_eq!(mode("run.sh") & 0o666, mode("last"));
        assert_eq!(mode("run.sh") & 0o100, 0o100);
        assert_eq!(mode("last") & 0o111, 0);
    }
    // A second time it goes beside the first.
    let again = fetch(shared.hash, &to.path().join("new"), honest(&shares)).await.unwrap();
    assert_eq!(again.path, to.path().join("new/My Folder (1)"));
    assert_eq!(tree(&again.path), tree(&top));
}

#[tokio::test]
async fn an_empty_folder_arrives() {
    let (from, to) = dirs();
    let shares = shares();
    let shared = shares.add(from.path(), |_| ()).await.unwrap().shared;
    let mut download = Download::new(shared.hash, Destination::Path(to.path().join("here")));
    download.run(node(1), honest(&shares), |_| ()).await.unwrap();
    let fetched = download.finish().await.unwrap();
    assert_eq!(fetched.path, to.path().join("here"));
    assert!(is_empty(&fetched.path));
}

#[tokio::test]
async fn nothing_is_overwritten() {
    let (from, to) = dirs();
    let shares = shares();
    write(&from.path().join("a.txt"), b"new content");
    let hash = shares.add(from.path().join("a.txt"), |_| ()).await.unwrap().shared.hash;
    write(&to.path().join("a.txt"), b"old content");
    let first = fetch(hash, to.path(), honest(&shares)).await.unwrap();
    assert_eq!(first.path, to.path().join("a (1).txt"));
    assert_eq!(fs::read(to.path().join("a.txt")).unwrap(), b"old content");
    // The same content again is the same file.
    let second = fetch(hash, to.path(), honest(&shares)).await.unwrap();
    assert_eq!(second.path, first.path);
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 2);

    let exact = Destination::Path(to.path().join("none/b.txt"));
    let mut download = Download::new(hash, exact);
    let error = download.run(node(1), honest(&shares), |_| ()).await.unwrap_err();
    assert!(matches!(error, FetchError::Disk { .. }), "{error}");
    assert!(!error.is_worth_another());
}

#[tokio::test]
async fn a_second_source_goes_on_where_the_first_died() {
    let (from, to) = dirs();
    let bytes = content(10 * P + 3);
    write(&from.path().join("name.bin"), &bytes);
    let shares = shares();
    let hash = shares.add(from.path().join("name.bin"), |_| ()).await.unwrap().shared.hash;
    let mut download = Download::new(hash, Destination::Folder(to.path().into()));

    // Sends the first three of the ten and a half of the fourth.
    let sent = bytes.clone();
    let dying = source_of(bytes.clone(), FileKind::File, move |request| match request {
        Request::Data { first: 0, .. } => {
            let mut answer: Vec<u8> =
                (0..3).flat_map(|i| piece(i as u64, &sent[i * P..][..P])).collect();
            answer.extend(&piece(3, &sent[3 * P..][..P])[..P / 2]);
            Some((answer, false))
        }
        _ => None,
    });
    let error = download.run(node(1), dying, |_| ()).await.unwrap_err();
    assert!(matches!(error, FetchError::Stream(_)), "{error}");
    assert!(error.is_worth_another() && !error.is_lie());
    assert!(!download.is_complete());

    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let second = source_of(bytes.clone(), FileKind::File, move |request| {
        seen.lock().unwrap().push(request);
        None
    });
    download.run(node(2), second, |_| ()).await.unwrap();
    // Pieces 0 to 2, and the last, were there.
    let rest = Request::Data { hash, first: 3, count: 7 };
    assert_eq!(*asked.lock().unwrap(), [rest]);
    let fetched = download.finish().await.unwrap();
    assert_eq!(fetched.sources, [node(1), node(2)]);
    assert!(fs::read(&fetched.path).unwrap() == bytes);
}

#[tokio::test]
async fn a_folder_too_goes_on_with_another_source() {
    let (from, to) = dirs();
    let top = from.path().join("tree");
    make_tree(&top);
    let shares = shares();
    let shared = shares.add(&top, |_| ()).await.unwrap().shared;
    let mut download = Download::new(shared.hash, Destination::Folder(to.path().into()));
    // A stream that ends after so many bytes, wherever that is.
    let mut rounds = 0;
    for limit in [2_000, 50_000, P + 100_000].into_iter().cycle() {
        let (ours, theirs) = duplex(64 << 10);
        let (read, write) = tokio::io::split(theirs);
        let cut = tokio::io::join(read, Cut { left: limit, write });
        tokio::spawn(serve(shares.clone(), (node(0), [0; 32]), cut));
        rounds += 1;
        match download.run(node(1), ours, |_| ()).await {
            Ok(()) => break,
            Err(error) => assert!(error.is_worth_another(), "{error}"),
        }
    }
    assert!(rounds > 5);
    let fetched = download.finish().await.unwrap();
    assert_eq!(tree(&fetched.path), tree(&top));
}

/// Takes so many bytes, then breaks.
struct Cut<W> {
    left: usize,
    write: W,
}

impl<W: tokio::io::AsyncWrite + Unpin> tokio::io::AsyncWrite for Cut<W> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        let len = bytes.len().min(self.left);
        if len == 0 {
            return std::task::Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let polled = std::pin::Pin::new(&mut self.write).poll_write(cx, &bytes[..len]);
        if let std::task::Poll::Ready(Ok(n)) = &polled {
            self.left -= n;
        }
        polled
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.write).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn what_is_not_finished_leaves_nothing() {
    let (from, to) = dirs();
    let top = from.path().join("tree");
    make_tree(&top);
    let shares = shares();
    let folder = shares.add(&top, |_| ()).await.unwrap().shared.hash;
    let file = Hash::of(&content(3 * P + 5));
    for hash in [folder, file] {
        let mut download = Download::new(hash, Destination::Folder(to.path().into()));
        download.run(node(1), honest(&shares), |_| ()).await.unwrap();
        assert!(!is_empty(to.path()), "it is written beside the target");
        drop(download);
        assert!(is_empty(to.path()));
    }
    let download = Download::new(file, Destination::Folder(to.path().into()));
    assert!(matches!(download.finish().await, Err(FetchError::Unfinished)));
}

#[tokio::test]
async fn a_download_runs_in_a_task_of_its_own() {
    let (from, to) = dirs();
    write(&from.path().join("a"), b"abc");
    let shares = shares();
    let sharing = shares.clone();
    let path = from.path().join("a");
    let added = tokio::spawn(async move { sharing.add(path, |_| ()).await });
    let hash = added.await.unwrap().unwrap().shared.hash;
    let to = Destination::Folder(to.path().into());
    let stream = honest(&shares);
    let fetched = tokio::spawn(async move {
        let mut download = Download::new(hash, to);
        download.run(node(1), stream, |_| ()).await?;
        download.finish().await
    });
    assert_eq!(fetched.await.unwrap().unwrap().bytes, 3);
}
