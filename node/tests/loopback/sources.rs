//! Fetches from several sources. Some sources are honest. Others have only a part, lie, stall or disappear.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::*;
use peerkit::{
    Config, DownloadState, Error, FetchError, FetchRequest, Hash, Node, RateLimits, Stream,
};
use peerkit_proto::files::wire::{MAX_REQUEST, PREFIX, body_len};
use peerkit_proto::files::{
    AccessKind, Answer, Description, FILES_PROTOCOL, FileKind, FileRefusal, PIECE, PieceList,
    Request,
};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The behaviour of a simulated source. By default the source is honest and has all pieces.
#[derive(Debug, Clone, Default)]
struct Behaviour {
    /// The pieces that the source has; `None` for all.
    pieces: Option<BTreeSet<u64>>,
    /// The piece that the source alters.
    altered: Option<u64>,
    /// The number of pieces after which the source closes its streams.
    closes_after: Option<usize>,
    /// True if the source sends neither pieces nor a reason.
    is_silent: bool,
    /// The number of bytes that the source adds to the true size.
    extra_size: u64,
}

/// A node that shares one file. A [`Script`] answers the requests for the file.
struct Source {
    node: Node,
    /// The indices of the pieces that the node has sent, in order.
    sent: Sent,
    _folder: TempDir,
}

/// The content of a source, and its behaviour.
struct Script {
    content: Vec<u8>,
    list: PieceList,
    behaviour: Behaviour,
    sent: Sent,
}

type Sent = Arc<Mutex<Vec<u64>>>;

impl Source {
    async fn new(name: &str, content: &[u8], behaviour: Behaviour) -> Self {
        let (node, folder) = (node(name).await, tempfile::tempdir().unwrap());
        let path = folder.path().join("file");
        std::fs::write(&path, content).unwrap();
        // The node shares the file, so that it answers lookups of its hash.
        node.share(path).await.unwrap();
        let (sent, list) = (Sent::default(), PieceList::of(content));
        let content = content.to_vec();
        let script = Arc::new(Script { content, list, behaviour, sent: sent.clone() });
        node.serve_stream(FILES_PROTOCOL, move |stream| serve(stream, script.clone()));
        Self { node, sent, _folder: folder }
    }

    /// Returns the number of pieces that the source has sent.
    fn sent(&self) -> usize {
        self.sent.lock().unwrap().len()
    }

    /// Returns the number of different pieces among those that the source has sent after the first `before`
    /// pieces.
    fn different_since(&self, before: usize) -> u64 {
        let sent = self.sent.lock().unwrap();
        sent[before..].iter().collect::<BTreeSet<_>>().len() as u64
    }
}

async fn serve(mut stream: Stream, script: Arc<Script>) {
    let mut prefix = [0; PREFIX];
    while stream.read_exact(&mut prefix).await.is_ok() {
        let mut body = vec![0; body_len(prefix, MAX_REQUEST).unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        let request = Request::decode(body.into()).unwrap();
        let Some(answer) = script.answer(request) else { return };
        if stream.write_all(&answer).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

impl Script {
    /// Returns the answer to a request; `None` ends the stream.
    fn answer(&self, request: Request) -> Option<Vec<u8>> {
        Some(match request {
            Request::Describe { .. } => {
                let (kind, access) = (FileKind::File, AccessKind::Open);
                let size = self.content.len() as u64 + self.behaviour.extra_size;
                let name = "file".parse().unwrap();
                let whole = self.behaviour.pieces.is_none();
                Answer::Description(Description { kind, access, whole, size, stored: size, name })
                    .encode()
            }
            Request::Pieces { first, count, .. } => {
                let values = self.list.part(first, usize::from(count)).to_vec();
                Answer::Pieces { first, values }.encode()
            }
            Request::Follow { .. } => match &self.behaviour.pieces {
                None => Answer::Whole.encode(),
                Some(pieces) => {
                    let mut bits = vec![0u8; self.list.count().div_ceil(8) as usize];
                    pieces.iter().for_each(|piece| bits[*piece as usize / 8] |= 1 << (piece % 8));
                    Answer::Held { first: 0, bits: bits.into() }.encode()
                }
            },
            Request::Data { first, count, .. } => {
                let mut out = Vec::new();
                for index in first..first + u64::from(count) {
                    if !self.behaviour.pieces.as_ref().is_none_or(|pieces| pieces.contains(&index))
                    {
                        out.extend(Answer::Refused(FileRefusal::NotFound).encode());
                        break;
                    }
                    // The last piece proves the size. A source that does not send it would be dropped, so
                    // silent sources do.
                    let is_proof = count == 1 && index == self.list.count() - 1;
                    if self.behaviour.is_silent && !is_proof {
                        break;
                    }
                    let mut sent = self.sent.lock().unwrap();
                    if self.behaviour.closes_after.is_some_and(|max| sent.len() >= max) {
                        return None;
                    }
                    sent.push(index);
                    drop(sent);
                    out.extend(self.piece(index));
                }
                out
            }
            Request::Cancel | Request::Present { .. } => Vec::new(),
            other => panic!("{other:?}"),
        })
    }

    fn piece(&self, index: u64) -> Vec<u8> {
        let range = self.list.range(index).unwrap();
        let mut bytes = self.content[range.start as usize..range.end as usize].to_vec();
        if self.behaviour.altered == Some(index)
            && let Some(byte) = bytes.first_mut()
        {
            *byte ^= 1;
        }
        let mut out = Answer::Piece { index, len: bytes.len() as u32 }.encode();
        out.extend(bytes);
        out
    }
}

/// Returns content of `pieces` pieces and `over` bytes more.
fn content(pieces: u64, over: usize) -> Vec<u8> {
    SeededRandom(pieces).bytes((pieces * PIECE) as usize + over)
}

/// Starts a node that is linked to all of `sources`.
async fn fetcher(sources: &[Source]) -> Node {
    // All sources are linked before the fetch begins, so it need not wait long for a source.
    let mut config = Config::default();
    config.download_patience = Duration::from_secs(1);
    let ann = builder("ann").config(config).spawn().await.unwrap();
    for source in sources {
        link(&ann, &source.node).await;
    }
    ann
}

async fn end(ann: Node, sources: Vec<Source>) {
    shutdown([&ann]).await;
    shutdown(sources.iter().map(|source| &source.node)).await;
}

#[tokio::test]
async fn a_fetch_uses_all_sources() {
    let content = content(24, 5);
    let mut sources = Vec::new();
    for name in ["a", "b", "c"] {
        sources.push(Source::new(name, &content, Behaviour::default()).await);
    }
    let ann = fetcher(&sources).await;
    // The limit makes sure that no source has sent everything before the others begin.
    ann.set_rates(RateLimits { peer_download: 512 << 10, ..RateLimits::default() });
    let to = tempfile::tempdir().unwrap();
    let raise_limit = async {
        wait_until("all sources to send", || sources.iter().all(|source| source.sent() > 0)).await;
        ann.set_rates(RateLimits { peer_download: 8 << 20, ..RateLimits::default() });
    };
    let fetching = ann.fetch(FetchRequest::new(Hash::of(&content)).to(to.path()));
    let (fetched, ()) = within("the fetch", async { tokio::join!(fetching, raise_limit) }).await;
    let fetched = fetched.unwrap();
    assert!(std::fs::read(&fetched.path).unwrap() == content);
    assert_eq!(fetched.sources.len(), 3);
    let sent: Vec<usize> = sources.iter().map(Source::sent).collect();
    assert!(sent.iter().all(|sent| (1..=24).contains(sent)), "{sent:?}");
    assert!(sent.iter().sum::<usize>() <= 48, "too many pieces were sent twice: {sent:?}");
    end(ann, sources).await;
}

#[tokio::test]
async fn silent_sources_do_not_delay_a_fetch() {
    let content = content(6, 5);
    let silent = Behaviour { is_silent: true, ..Behaviour::default() };
    let sources = vec![
        Source::new("silent", &content, silent.clone()).await,
        Source::new("honest", &content, Behaviour::default()).await,
        Source::new("mute", &content, silent).await,
    ];
    let ann = fetcher(&sources).await;
    let to = tempfile::tempdir().unwrap();
    let fetching = ann.fetch(FetchRequest::new(Hash::of(&content)).to(to.path()));
    let fetched = tokio::time::timeout(Duration::from_secs(25), fetching).await;
    let fetched =
        fetched.expect("the fetch must end long before it gives up a silent source").unwrap();
    assert!(std::fs::read(&fetched.path).unwrap() == content);
    end(ann, sources).await;
}

#[tokio::test]
async fn a_source_that_sends_a_bad_piece_is_dropped_and_reported() {
    let content = content(8, 5);
    let bad =
        Behaviour { altered: Some(3), pieces: Some((0..4).collect()), ..Behaviour::default() };
    let most = Behaviour {
        pieces: Some((0..9).filter(|piece| *piece != 3).collect()),
        ..Behaviour::default()
    };
    let mut sources =
        vec![Source::new("bad", &content, bad).await, Source::new("most", &content, most).await];
    let ann = fetcher(&sources).await;
    let mut events = ann.events();
    let to = tempfile::tempdir().unwrap();
    let hash = Hash::of(&content);
    // Only the malicious source has piece 3.
    let error =
        within("the error", ann.fetch(FetchRequest::new(hash).to(to.path()))).await.unwrap_err();
    assert!(matches!(&error, Error::Fetch(error) if error.is_lie()), "{error:?}");
    let event = expect_event(&mut events, "node_source_dropped").await;
    let peerkit::Event::NodeSourceDropped { source, .. } = event else { panic!() };
    assert_eq!(source, sources[0].node.id());
    // With a third source the fetch completes, and its result lists the malicious source.
    sources.push(Source::new("whole", &content, Behaviour::default()).await);
    link(&ann, &sources[2].node).await;
    let fetched =
        within("the fetch", ann.fetch(FetchRequest::new(hash).to(to.path()))).await.unwrap();
    assert!(std::fs::read(&fetched.path).unwrap() == content);
    assert!(fetched.dropped.iter().all(|dropped| dropped.id == sources[0].node.id()));
    end(ann, sources).await;
}

#[tokio::test]
async fn an_honest_source_reveals_a_false_size() {
    let content = content(5, 7);
    let liar = Behaviour { extra_size: 3, ..Behaviour::default() };
    let sources = vec![
        Source::new("liar", &content, liar).await,
        Source::new("honest", &content, Behaviour::default()).await,
    ];
    let ann = fetcher(&sources).await;
    // Either source may be asked first, so this is repeated.
    for n in 0..6 {
        let to = tempfile::tempdir().unwrap();
        let fetched =
            within("the fetch", ann.fetch(FetchRequest::new(Hash::of(&content)).to(to.path())))
                .await;
        let fetched = fetched.unwrap_or_else(|error| panic!("{n}: {error}"));
        assert!(std::fs::read(&fetched.path).unwrap() == content);
        assert!(fetched.dropped.iter().all(|dropped| dropped.id == sources[0].node.id()));
    }
    end(ann, sources).await;
}

#[tokio::test]
async fn a_node_serves_pieces_of_an_unfinished_download() {
    let content = content(12, 5);
    let hash = Hash::of(&content);
    // Bob fetches the second half, and then its only source stops. Ann fetches the second half from Bob,
    // which does not have the first half.
    let first = Behaviour { pieces: Some((0..6).collect()), ..Behaviour::default() };
    let second = Behaviour { pieces: Some((6..13).collect()), ..Behaviour::default() };
    let mut sources = vec![Source::new("second", &content, second).await];
    let (bob, to_bob) = (node("bob").await, tempfile::tempdir().unwrap());
    link(&bob, &sources[0].node).await;
    let request = FetchRequest::new(hash).into_folder(to_bob.path());
    let download = bob.fetch(request);
    wait_until("bob to have the second half", || download.status().done > 6 * PIECE).await;
    sources[0].node.shutdown().await;

    sources.push(Source::new("first", &content, first).await);
    let ann = node("ann").await;
    link(&ann, &sources[1].node).await;
    link(&ann, &bob).await;
    let to = tempfile::tempdir().unwrap();
    let fetched =
        within("the fetch", ann.fetch(FetchRequest::new(hash).to(to.path()))).await.unwrap();
    assert!(std::fs::read(&fetched.path).unwrap() == content);
    assert!(fetched.sources.contains(&bob.id()));
    shutdown([&bob]).await;
    end(ann, sources).await;
}

/// A node may still serve a finished download to other nodes, but not after the file has changed.
#[tokio::test]
async fn a_fetched_file_that_was_changed_is_not_served_under_its_old_hash() {
    let content = content(4, 5);
    let hash = Hash::of(&content);
    let sources = vec![Source::new("a", &content, Behaviour::default()).await];
    let bob = fetcher(&sources).await;
    let to = tempfile::tempdir().unwrap();
    let fetched =
        within("the fetch", bob.fetch(FetchRequest::new(hash).to(to.path()))).await.unwrap();
    shutdown([&sources[0].node]).await;
    let (ann, to_ann) = (node("ann").await, tempfile::tempdir().unwrap());
    let get =
        FetchRequest::new(hash).to(to_ann.path()).from(address_of(&bob).into()).ask_network(false);
    let again = within("the fetch", ann.fetch(get.clone())).await.unwrap();
    assert!(std::fs::read(&again.path).unwrap() == content);
    std::fs::remove_file(again.path).unwrap();
    std::fs::write(&fetched.path, vec![7; content.len()]).unwrap();
    let changed = within("the error", ann.fetch(get)).await;
    let named =
        |error: &FetchError| matches!(error, FetchError::Changed { name } if name == "file");
    assert!(matches!(&changed, Err(Error::Fetch(error)) if named(error)), "{changed:?}");
    shutdown([&ann, &bob]).await;
}

#[tokio::test]
async fn a_download_is_paused_resumed_and_cancelled() {
    let content = content(16, 5);
    let hash = Hash::of(&content);
    let sources = vec![Source::new("a", &content, Behaviour::default()).await];
    let ann = fetcher(&sources).await;
    ann.set_rates(RateLimits { download: 8 << 20, ..RateLimits::default() });
    let to = tempfile::tempdir().unwrap();
    let get = FetchRequest::new(hash).into_folder(to.path());
    let download = ann.fetch(get.clone());
    wait_until("some pieces", || download.status().done > 2 * PIECE).await;
    assert_eq!(download.pause().await.unwrap().state, DownloadState::Paused);
    let paused = ann.files().downloads();
    assert_eq!((paused.len(), paused[0].state), (1, DownloadState::Paused));
    let before = sources[0].sent();
    ann.set_rates(RateLimits::default());
    assert!(download.resume().await.unwrap().state.is_under_way());
    let fetched = within("the fetch", download.clone()).await.unwrap();
    assert!(std::fs::read(&fetched.path).unwrap() == content);
    let again = sources[0].different_since(before);
    assert!(again <= 17 - paused[0].done / PIECE, "{again} pieces, with {paused:?}");
    assert_eq!(ann.files().downloads()[0].state, DownloadState::Done);
    download.cancel().await.unwrap();
    assert!(
        ann.files().downloads().is_empty(),
        "a finished download that is cancelled is no longer listed"
    );
    assert!(fetched.path.exists());

    ann.set_rates(RateLimits { download: 4 << 20, ..RateLimits::default() });
    std::fs::remove_file(&fetched.path).unwrap();
    let download = ann.fetch(get);
    wait_until("some pieces", || download.status().done > PIECE).await;
    ann.files().download(hash).unwrap().cancel().await.unwrap();
    let cancelled = within("the end", download.clone()).await;
    assert!(matches!(cancelled, Err(Error::Fetch(FetchError::Cancelled))), "{cancelled:?}");
    let again = within("the end", download).await;
    assert!(matches!(again, Err(Error::AlreadyReported(of)) if of == hash), "{again:?}");
    assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 0, "nothing is left");
    assert!(matches!(ann.files().download(hash), Err(Error::NoDownload(_))));
    end(ann, sources).await;
}

#[tokio::test]
async fn a_file_that_exists_is_not_fetched_again() {
    let content = content(7, 5);
    let hash = Hash::of(&content);
    let sources = vec![Source::new("a", &content, Behaviour::default()).await];
    let ann = fetcher(&sources).await;
    let to = tempfile::tempdir().unwrap();
    let get = FetchRequest::new(hash).into_folder(to.path());
    let fetch = async |get: &FetchRequest| within("a fetch", ann.fetch(get.clone())).await;
    let first = fetch(&get).await.unwrap().path;
    let sent = sources[0].sent();

    // The file is found under its own name, and under the numbered name that it gets if its own name is
    // taken.
    for existing in [first.clone(), first.with_file_name("file (1)")] {
        std::fs::rename(&first, &existing).unwrap();
        if existing != first {
            let mut other = content.clone();
            other[PIECE as usize] ^= 1;
            std::fs::write(&first, other).unwrap();
        }
        let fetched = fetch(&get).await.unwrap();
        assert_eq!((fetched.path, fetched.bytes), (existing, content.len() as u64));
        assert!(fetched.sources.is_empty(), "no source has sent a piece");
        assert_eq!(sources[0].sent(), sent);
    }

    // With `overwrite`, only the file that would be replaced is checked.
    let fetched = fetch(&get.clone().overwrite(true)).await.unwrap();
    assert_eq!(fetched.path, first);
    assert!(std::fs::read(&first).unwrap() == content);
    assert!(sources[0].sent() > sent);
    let sent = sources[0].sent();
    fetch(&get.overwrite(true)).await.unwrap();
    assert_eq!(sources[0].sent(), sent);
    let left = std::fs::read_dir(to.path()).unwrap().count();
    assert_eq!(left, 2, "no partial file is left");
    end(ann, sources).await;
}

#[tokio::test]
async fn a_download_continues_after_a_restart() {
    let content = content(16, 5);
    let hash = Hash::of(&content);
    let source = Source::new("a", &content, Behaviour::default()).await;
    let (state, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ann = builder("ann").state(state.path()).spawn().await.unwrap();
    ann.set_rates(RateLimits { download: 8 << 20, ..RateLimits::default() });
    let get = FetchRequest::new(hash).into_folder(to.path()).from(address_of(&source.node).into());
    let download = ann.fetch(get);
    wait_until("some pieces", || download.status().done > 4 * PIECE).await;
    // A paused download is still paused after a restart, and has its name.
    let at_pause = (download.pause().await.unwrap().done, source.sent());
    shutdown([&ann]).await;
    drop((ann, download));
    let ann = builder("ann").state(state.path()).spawn().await.unwrap();
    let paused = ann.files().downloads().remove(0);
    assert_eq!(paused.state, DownloadState::Paused);
    assert_eq!(paused.name.unwrap().as_str(), "file");
    ann.set_rates(RateLimits { download: 8 << 20, ..RateLimits::default() });
    let resumed = ann.files().download(hash).unwrap().resume().await.unwrap();
    assert!(resumed.state.is_under_way());
    wait_until("the download to continue", || ann.files().downloads()[0].done >= at_pause.0).await;
    let at_end = (ann.files().downloads()[0].done, source.sent());
    shutdown([&ann]).await;
    drop(ann);
    let ann = builder("ann").state(state.path()).spawn().await.unwrap();
    let mut events = ann.events();
    let event = expect_event(&mut events, "node_download_finished").await;
    let peerkit::Event::NodeDownloadFinished { path, .. } = event else { panic!() };
    assert!(std::fs::read(path).unwrap() == content);
    // Pieces that had arrived are not fetched again. Pieces that were under way may be fetched again.
    for (done, before) in [at_pause, at_end] {
        let since = source.different_since(before);
        assert!(since <= 17 - done / PIECE, "{since} pieces, although {done} bytes had arrived");
    }
    end(ann, vec![source]).await;
}

#[tokio::test]
async fn downloads_beyond_the_limit_wait_for_their_turn() {
    let (one, two) = (content(4, 1), content(5, 2));
    let sources = vec![
        Source::new("a", &one, Behaviour::default()).await,
        Source::new("b", &two, Behaviour::default()).await,
    ];
    let mut config = Config::default();
    config.max_downloads = 1;
    let ann = builder("ann").config(config).spawn().await.unwrap();
    for source in &sources {
        link(&ann, &source.node).await;
    }
    ann.set_rates(RateLimits { download: 8 << 20, ..RateLimits::default() });
    let to = tempfile::tempdir().unwrap();
    let get = |content: &[u8]| FetchRequest::new(Hash::of(content)).into_folder(to.path());
    let first = ann.fetch(get(&one));
    wait_until("the first download to run", || first.status().done > 0).await;
    let second = ann.fetch(get(&two));
    assert_eq!(second.status().state, DownloadState::Queued);
    assert_eq!(ann.files().downloads().len(), 2);
    ann.set_rates(RateLimits::default());
    let (first, second) = tokio::join!(first, second);
    assert!(std::fs::read(first.unwrap().path).unwrap() == one);
    assert!(std::fs::read(second.unwrap().path).unwrap() == two);
    end(ann, sources).await;
}

fn behaviours(count: u64) -> impl Strategy<Value = Behaviour> {
    let some = proptest::collection::btree_set(0..count, 0..count as usize + 1);
    let pieces = prop_oneof![1 => Just(None), 2 => some.prop_map(Some)];
    let altered = prop_oneof![3 => Just(None), 1 => (0..count).prop_map(Some)];
    let closes_after = prop_oneof![3 => Just(None), 1 => (0usize..8).prop_map(Some)];
    (pieces, altered, closes_after).prop_map(|(pieces, altered, closes_after)| Behaviour {
        pieces,
        altered,
        closes_after,
        ..Behaviour::default()
    })
}

/// Returns a strategy that makes a file size and the behaviour of some sources.
fn cases() -> impl Strategy<Value = (usize, Vec<Behaviour>)> {
    let p = PIECE as usize;
    let sizes = prop::sample::select(vec![0, 1, p - 1, p, p + 1, 2 * p, 5 * p + 123]);
    sizes.prop_flat_map(|size| {
        let count = (size as u64).div_ceil(PIECE).max(1);
        (Just(size), proptest::collection::vec(behaviours(count), 1..4))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever the sources have, send and do, a fetched file has the right content, or the fetch fails. It
    /// may fail only if the honest sources lack a piece.
    #[test]
    fn a_fetched_file_is_right_or_the_fetch_fails((size, behaviours) in cases()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let content = SeededRandom(size as u64).bytes(size);
            let mut sources = Vec::new();
            for behaviour in &behaviours {
                sources.push(Source::new("source", &content, behaviour.clone()).await);
            }
            let ann = fetcher(&sources).await;
            let to = tempfile::tempdir().unwrap();
            let fetched = within("the fetch", ann.fetch(FetchRequest::new(Hash::of(&content)).to(to.path()))).await;
            let count = (size as u64).div_ceil(PIECE);
            let honest = |behaviour: &&Behaviour| behaviour.altered.is_none() && behaviour.closes_after.is_none();
            let has = |behaviour: &Behaviour, piece: u64| behaviour.pieces.as_ref().is_none_or(|pieces| pieces.contains(&piece));
            let reachable = (0..count).all(|piece| behaviours.iter().filter(honest).any(|b| has(b, piece)));
            // A source with the last piece can prove the size.
            let provable = behaviours.iter().filter(honest).any(|b| has(b, count.max(1) - 1));
            match fetched {
                Ok(fetched) => assert!(std::fs::read(fetched.path).unwrap() == content),
                Err(error) => assert!(!(reachable && provable), "{error:?} with {behaviours:?}"),
            }
            end(ann, sources).await;
        });
    }
}

#[tokio::test]
async fn a_handle_of_a_paused_download_ends_when_the_node_stops() {
    let content = content(8, 5);
    let sources = vec![Source::new("a", &content, Behaviour::default()).await];
    let ann = fetcher(&sources).await;
    ann.set_rates(RateLimits { download: 4 << 20, ..RateLimits::default() });
    let to = tempfile::tempdir().unwrap();
    let download = ann.fetch(FetchRequest::new(Hash::of(&content)).into_folder(to.path()));
    let mut progress = download.progress();
    let mut states = Vec::new();
    wait_until("some pieces", || download.status().done > PIECE).await;
    assert_eq!(download.pause().await.unwrap().state, DownloadState::Paused);
    let (waiting, stopping) = (download.clone(), ann.clone());
    let stop = tokio::spawn(async move { stopping.shutdown().await });
    let result = within("the end of the wait", waiting).await;
    assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
    while let Some(status) = within("the end of the progress", progress.next()).await {
        states.push(status.state);
    }
    assert_eq!(states.last(), Some(&DownloadState::Paused), "{states:?}");
    stop.await.unwrap();
    end(ann, sources).await;
}

#[tokio::test]
async fn all_handles_of_a_download_get_its_result() {
    let content = content(2, 5);
    let hash = Hash::of(&content);
    let sources = vec![Source::new("a", &content, Behaviour::default()).await];
    let ann = fetcher(&sources).await;
    let to = tempfile::tempdir().unwrap();
    let first = ann.fetch(FetchRequest::new(hash).into_folder(to.path()));
    let second = ann.files().download(hash).unwrap();
    let (first, second) = within("both results", async { tokio::join!(first, second) }).await;
    assert_eq!(first.unwrap(), second.unwrap());
    let again = within("the result again", ann.files().download(hash).unwrap()).await;
    assert!(std::fs::read(again.unwrap().path).unwrap() == content);
    end(ann, sources).await;
}
