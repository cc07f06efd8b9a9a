use std::path::Path;
use std::time::Duration;

use super::*;
use crate::event::{Broadcast, Peer, Upload};
use crate::files::{FoundFile, PIECE, SharedFile};
use crate::handler::Context;
use crate::id::NodeId;
use crate::sim::{Latency, Lies, Network, NodeOptions, SimConfig};

const MIB: usize = PIECE as usize;

/// An application that fetches the content whose hash is broadcast, and records its events.
#[derive(Default)]
struct Mirror {
    shared: Vec<Hash>,
    fetched: Vec<(Duration, PathBuf)>,
    failed: Vec<String>,
    dropped: Vec<NodeId>,
    uploads: Vec<(NodeId, u64)>,
    changed: Vec<String>,
    found: Vec<FoundFile>,
}

impl Handler for Mirror {
    fn node_broadcast(&mut self, cx: &mut Context<'_>, broadcast: Broadcast) {
        if let Some(hash) = broadcast.message.as_text().and_then(|text| text.parse().ok()) {
            cx.fetch(hash, "copy");
        }
    }

    fn node_share_completed(
        &mut self,
        _: &mut Context<'_>,
        _: ActionId,
        file: &SharedFile,
        _: usize,
    ) {
        self.shared.push(file.hash);
    }

    fn node_fetch_completed(
        &mut self,
        cx: &mut Context<'_>,
        _: ActionId,
        _: Hash,
        path: &Path,
        _: u64,
    ) {
        self.fetched.push((cx.now().since_origin(), path.to_owned()));
    }

    fn node_action_failed(&mut self, _: &mut Context<'_>, _: ActionId, error: &str) {
        self.failed.push(error.to_owned());
    }

    fn node_source_dropped(&mut self, _: &mut Context<'_>, _: Hash, source: NodeId, _: &str) {
        self.dropped.push(source);
    }

    fn node_upload_completed(&mut self, _: &mut Context<'_>, peer: &Peer, upload: &Upload) {
        self.uploads.push((peer.id(), upload.bytes));
    }

    fn node_share_changed(&mut self, _: &mut Context<'_>, _: Hash, name: &str) {
        self.changed.push(name.to_owned());
    }

    fn node_search_completed(&mut self, _: &mut Context<'_>, _: ActionId, files: &[FoundFile]) {
        self.found = files.to_vec();
    }
}

/// Returns a simulation without nodes, whose latency is 20 ms. The bandwidth is in bytes a second.
fn network(seed: u64, bandwidth: u64) -> Sim<Mirror> {
    let latency = Latency::Fixed(Duration::from_millis(20));
    let network = Network { latency, bandwidth: Some(bandwidth), ..Network::default() };
    Sim::new(SimConfig { seed, network, ..SimConfig::default() })
}

/// Returns a simulation whose nodes all have a link with node 0.
fn star(bandwidth: u64, options: &[NodeOptions]) -> Sim<Mirror> {
    let mut sim = network(1, bandwidth);
    for (node, options) in options.iter().enumerate() {
        sim.add_with(options.clone(), Mirror::default());
        if node > 0 {
            sim.connect(node, 0);
        }
    }
    sim.run_for(Duration::from_secs(1));
    sim
}

fn nodes(count: usize) -> Vec<NodeOptions> {
    vec![NodeOptions::default(); count]
}

/// Returns a content of `len` bytes. No two of its pieces are equal.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).unwrap()).collect()
}

/// Makes nodes share a content under a name. Returns its hash.
fn share(sim: &mut Sim<Mirror>, name: &str, bytes: &[u8], by: &[usize]) -> Hash {
    for node in by {
        sim.write_file(*node, name, bytes.to_vec());
        sim.with(*node, |_, cx| cx.share(name));
    }
    assert!(sim.app(by[0]).failed.is_empty(), "{:?}", sim.app(by[0]).failed);
    Hash::of(bytes)
}

fn fetch(sim: &mut Sim<Mirror>, node: usize, hash: Hash) {
    sim.with(node, |_, cx| cx.fetch(hash, "copy"));
}

/// Lets time pass until a fetch of a node has ended. Fails if that takes longer than `seconds`.
fn run_until_ended(sim: &mut Sim<Mirror>, node: usize, seconds: u64) {
    let over =
        |sim: &Sim<Mirror>| !sim.app(node).fetched.is_empty() || !sim.app(node).failed.is_empty();
    assert!(sim.run_until(Duration::from_secs(seconds), over), "the fetch has not ended");
}

fn copy(sim: &Sim<Mirror>, node: usize) -> Option<Vec<u8>> {
    sim.read_file(node, "copy").map(|bytes| bytes.to_vec())
}

#[test]
fn the_time_of_a_fetch_is_its_size_divided_by_the_bandwidth() {
    let (size, rate) = (20 * MIB + 5, 1_000_000);
    let mut sim = star(rate, &nodes(2));
    let bytes = content(size);
    let hash = share(&mut sim, "film.mkv", &bytes, &[0]);
    assert_eq!(sim.app(0).shared, [hash]);
    let began = sim.now().since_origin();
    fetch(&mut sim, 1, hash);
    run_until_ended(&mut sim, 1, 60);
    let took = (sim.app(1).fetched[0].0 - began).as_secs_f64();
    let least = size as f64 / rate as f64;
    assert!(took > least && took < least * 1.03, "{took} s, not {least} s");
    assert!(copy(&sim, 1).unwrap() == bytes);
    assert_eq!(sim.uploaded(0), size as u64);
    sim.run_for(Duration::from_secs(1));
    assert_eq!(sim.app(0).uploads, [(sim.id(1), size as u64)]);
    assert!(sim.transfers.streams.is_empty());
    sim.run_for(LINGER);
    assert!(sim.transfers.fetches.is_empty() && sim.transfers.searches.is_empty());
}

#[test]
fn empty_and_tiny_files_are_fetched_and_replace_no_other_file() {
    for bytes in [&b""[..], b"x"] {
        let mut sim = star(1_000_000, &nodes(3));
        let hash = share(&mut sim, "note.txt", bytes, &[0]);
        for node in [1, 2] {
            fetch(&mut sim, node, hash);
            run_until_ended(&mut sim, node, 60);
            assert_eq!(copy(&sim, node).as_deref(), Some(bytes));
        }
        sim.write_file(1, "folder/copy.txt", &b"mine"[..]);
        for to in ["folder", "folder/copy.txt", "folder/copy.txt"] {
            sim.with(1, |app, cx| {
                app.fetched.clear();
                cx.fetch(hash, to);
            });
            run_until_ended(&mut sim, 1, 60);
        }
        assert_eq!(sim.read_file(1, "folder/note.txt").as_deref(), Some(bytes));
        assert_eq!(sim.read_file(1, "folder/copy (1).txt").as_deref(), Some(bytes));
        assert_eq!(sim.read_file(1, "folder/copy.txt").as_deref(), Some(&b"mine"[..]));
    }
}

/// Runs a simulation in which twenty nodes fetch the same content from one node at the same time.
fn swarm(seed: u64) -> Sim<Mirror> {
    let mut sim = network(seed, 2_000_000);
    for node in 0..21 {
        sim.add(Mirror::default());
        if node > 0 {
            sim.join(node, 0);
        }
        sim.run_for(Duration::from_millis(100));
    }
    sim.run_for(Duration::from_secs(20));
    let hash = share(&mut sim, "film.mkv", &content(16 * MIB), &[0]);
    sim.broadcast(0, "fetch", hash.to_string()).unwrap();
    let all = |sim: &Sim<Mirror>| (1..21).all(|node| !sim.app(node).fetched.is_empty());
    assert!(sim.run_until(Duration::from_secs(300), all), "seed {seed}");
    sim
}

#[test]
fn twenty_nodes_serve_each_other_and_equal_seeds_give_equal_traces() {
    let sim = swarm(7);
    let bytes = content(16 * MIB);
    assert!((1..21).all(|node| copy(&sim, node).unwrap() == bytes));
    let copies = sim.uploaded(0) as f64 / bytes.len() as f64;
    assert!(copies < 4.0, "the source has sent {copies} copies");
    assert!((1..21).filter(|node| sim.uploaded(*node) > 0).count() >= 10);
    assert_eq!(sim.trace_hash(), swarm(7).trace_hash());
    assert_ne!(sim.trace_hash(), swarm(8).trace_hash());
}

#[test]
fn a_fetch_continues_with_the_other_sources_when_one_crashes() {
    let mut sim = star(1_000_000, &nodes(4));
    let bytes = content(16 * MIB);
    let hash = share(&mut sim, "film.mkv", &bytes, &[1, 2]);
    fetch(&mut sim, 3, hash);
    sim.run_for(Duration::from_secs(3));
    assert!(sim.app(3).fetched.is_empty() && sim.uploaded(1) > 0 && sim.uploaded(2) > 0);
    sim.crash(1);
    run_until_ended(&mut sim, 3, 60);
    assert!(copy(&sim, 3).unwrap() == bytes, "{:?}", sim.app(3).failed);
}

#[test]
fn a_fetch_continues_when_its_only_source_has_restarted() {
    let source = NodeOptions { state: true, ..NodeOptions::default() };
    let mut sim = star(1_000_000, &[NodeOptions::default(), source, NodeOptions::default()]);
    let bytes = content(10 * MIB);
    let hash = share(&mut sim, "film.mkv", &bytes, &[1]);
    fetch(&mut sim, 2, hash);
    sim.run_for(Duration::from_secs(5));
    sim.crash(1);
    sim.run_for(Duration::from_secs(20));
    sim.restart(1, Mirror::default());
    sim.connect(1, 0);
    run_until_ended(&mut sim, 2, 120);
    assert!(copy(&sim, 2).unwrap() == bytes, "{:?}", sim.app(2).failed);
    assert!(sim.uploaded(1) < (bytes.len() + 3 * MIB) as u64, "{}", sim.uploaded(1));
}

#[test]
fn a_fetch_fails_more_than_a_minute_after_its_only_source_has_vanished() {
    let mut sim = star(1_000_000, &nodes(3));
    let hash = share(&mut sim, "film.mkv", &content(10 * MIB), &[1]);
    fetch(&mut sim, 2, hash);
    sim.run_for(Duration::from_secs(5));
    sim.vanish(1);
    let began = sim.now();
    run_until_ended(&mut sim, 2, 300);
    assert!(sim.now().since(began) > Duration::from_secs(60));
    assert!(sim.app(2).fetched.is_empty() && copy(&sim, 2).is_none());
    assert!(sim.transfers.fetches.is_empty() && sim.transfers.streams.is_empty());
}

#[test]
fn a_fetch_continues_after_a_partition() {
    let mut sim = star(1_000_000, &nodes(2));
    let bytes = content(10 * MIB);
    let hash = share(&mut sim, "film.mkv", &bytes, &[0]);
    fetch(&mut sim, 1, hash);
    sim.run_for(Duration::from_secs(5));
    sim.partition(&[&[0]]);
    sim.run_for(Duration::from_secs(20));
    let before = sim.app(1).fetched.len();
    sim.heal();
    run_until_ended(&mut sim, 1, 60);
    assert!(before == 0 && copy(&sim, 1).unwrap() == bytes);
    assert!(sim.uploaded(0) < (bytes.len() + 3 * MIB) as u64);
}

#[test]
fn a_source_that_alters_pieces_is_dropped_and_reported() {
    let liar = NodeOptions { lies: Some(Lies::Alters), ..NodeOptions::default() };
    let options = [NodeOptions::default(), liar, NodeOptions::default(), NodeOptions::default()];
    let mut sim = star(1_000_000, &options);
    let bytes = content(8 * MIB);
    let hash = share(&mut sim, "film.mkv", &bytes, &[1, 2]);
    fetch(&mut sim, 3, hash);
    run_until_ended(&mut sim, 3, 60);
    assert_eq!(sim.app(3).dropped, [sim.id(1)]);
    assert!(copy(&sim, 3).unwrap() == bytes);

    let hash = share(&mut sim, "other", b"only the liar has this", &[1]);
    sim.app_mut(3).fetched.clear();
    fetch(&mut sim, 3, hash);
    run_until_ended(&mut sim, 3, 120);
    assert!(sim.app(3).fetched.is_empty() && sim.app(3).failed.len() == 1);
}

#[test]
fn a_source_that_sends_no_piece_does_not_delay_the_others_for_long() {
    let drops = NodeOptions { lies: Some(Lies::Drops), ..NodeOptions::default() };
    let options = [NodeOptions::default(), drops, NodeOptions::default(), NodeOptions::default()];
    let mut sim = star(1_000_000, &options);
    let bytes = content(8 * MIB);
    let hash = share(&mut sim, "film.mkv", &bytes, &[1, 2]);
    fetch(&mut sim, 3, hash);
    run_until_ended(&mut sim, 3, 60);
    assert!(copy(&sim, 3).unwrap() == bytes, "{:?}", sim.app(3).failed);
}

#[test]
fn a_fetch_after_a_crash_continues_with_the_pieces_on_the_disk() {
    let mut sim = star(1_000_000, &nodes(2));
    let bytes = content(10 * MIB);
    let hash = share(&mut sim, "film.mkv", &bytes, &[0]);
    fetch(&mut sim, 1, hash);
    sim.run_for(Duration::from_secs(6));
    sim.crash(1);
    sim.run_for(Duration::from_secs(1));
    assert!(sim.transfers.fetches.is_empty());
    sim.restart(1, Mirror::default());
    sim.connect(1, 0);
    sim.run_for(Duration::from_secs(1));
    let before = sim.uploaded(0);
    fetch(&mut sim, 1, hash);
    run_until_ended(&mut sim, 1, 60);
    assert!(copy(&sim, 1).unwrap() == bytes);
    assert!(sim.uploaded(0) - before < bytes.len() as u64 / 2 + MIB as u64);
}

#[test]
fn a_file_that_has_changed_is_not_served() {
    let mut sim = star(1_000_000, &nodes(2));
    let hash = share(&mut sim, "film.mkv", &content(10 * MIB), &[0]);
    fetch(&mut sim, 1, hash);
    sim.run_for(Duration::from_secs(5));
    sim.write_file(0, "film.mkv", &b"another film"[..]);
    run_until_ended(&mut sim, 1, 60);
    assert!(sim.app(1).failed[0].contains("changed"), "{:?}", sim.app(1).failed);
    assert_eq!(sim.app(0).changed, ["film.mkv"]);
}

#[test]
fn a_linked_source_that_cannot_be_dialled_calls_back() {
    let hidden = NodeOptions { dialable: false, ..NodeOptions::default() };
    let mut sim = star(1_000_000, &[NodeOptions::default(), hidden]);
    let hash = share(&mut sim, "note.txt", b"from behind a NAT", &[1]);
    fetch(&mut sim, 0, hash);
    run_until_ended(&mut sim, 0, 60);
    assert_eq!(copy(&sim, 0).as_deref(), Some(&b"from behind a NAT"[..]));
}

#[test]
fn searches_find_files_by_the_words_of_their_names() {
    let mut sim = star(1_000_000, &nodes(3));
    let hash = share(&mut sim, "Tide of August.mkv", b"x", &[1]);
    share(&mut sim, "another name", b"x", &[2]);
    sim.with(2, |_, cx| cx.search("august tide"));
    sim.run_for(Duration::from_secs(5));
    let [found] = &sim.app(2).found[..] else { panic!("{:?}", sim.app(2).found) };
    assert_eq!((found.file.hash, found.file.name.as_str()), (hash, "Tide of August.mkv"));
    assert_eq!(found.sources[0].id, sim.id(1));
    sim.with(2, |_, cx| cx.search(""));
    sim.run_for(Duration::from_secs(5));
    assert_eq!(sim.app(2).found.len(), 2);
    sim.with(2, |_, cx| cx.search("september"));
    sim.run_for(Duration::from_secs(5));
    assert!(sim.app(2).found.is_empty());
}

#[test]
fn fetching_a_hash_that_no_node_shares_and_sharing_a_missing_file_fail() {
    let mut sim = star(1_000_000, &nodes(2));
    fetch(&mut sim, 1, Hash::of(b"nothing"));
    run_until_ended(&mut sim, 1, 60);
    assert!(sim.app(1).failed[0].contains("no node"), "{:?}", sim.app(1).failed);
    sim.with(0, |_, cx| cx.share("missing"));
    assert!(sim.app(0).failed[0].contains("no file missing"), "{:?}", sim.app(0).failed);
}

#[test]
fn handlers_read_and_write_files_within_a_limit() {
    use crate::handler::MAX_FILE_IN_MEMORY;
    use std::io::ErrorKind;

    let mut sim = star(1_000_000, &nodes(1));
    sim.write_file(0, "large", vec![0; MAX_FILE_IN_MEMORY + 1]);
    sim.with(0, |_, cx| {
        assert_eq!(cx.read_file("small").unwrap_err().kind(), ErrorKind::NotFound);
        cx.write_file("small", "content").unwrap();
        assert_eq!(&cx.read_file("small").unwrap()[..], b"content");
        assert_eq!(cx.read_file("large").unwrap_err().kind(), ErrorKind::FileTooLarge);
        let large = vec![0; MAX_FILE_IN_MEMORY + 1];
        assert_eq!(cx.write_file("large", large).unwrap_err().kind(), ErrorKind::FileTooLarge);
    });
}
