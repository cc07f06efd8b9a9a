//! `peerkit demo`: the main job, on this machine, over real sockets, every result checked.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use peerkit::{Event, Hash, Kind, Message, Node, SharedFile};
use serde_json::json;
use tokio::time::timeout;

use crate::args::DemoArgs;
use crate::graph::Graph;
use crate::log::Log;
use crate::signals;
use crate::text::{count, millis, size, time};

use files::Tree;
use network::Network;
use report::{Figures, Report};

mod files;
mod network;
mod report;

/// Texts that one node sends another.
const TEXTS: usize = 2000;

/// The large message that follows them, in bytes.
const LARGE: usize = 8 << 20;

/// What no step comes near on a machine that is not standing still.
const PATIENCE: Duration = Duration::from_secs(60);

/// Hash lines shown of a folder.
const LINES: usize = 12;

/// Runs the demo. True if every step worked and every check held.
pub(crate) async fn demo(args: DemoArgs) -> anyhow::Result<bool> {
    let stop = tokio_util::sync::CancellationToken::new();
    signals::watch(&stop)?;
    Log::start();
    let folder = tempfile::Builder::new().prefix("peerkit-demo-").tempdir()?;
    let report = Report::new(args.json);
    report.title(usize::from(args.nodes))?;
    let begun = Instant::now();
    let worked = tokio::select! {
        worked = act(&args, folder.path(), &report) => worked?,
        () = stop.cancelled() => false,
    };
    if args.keep {
        let folder = folder.keep();
        report.kept(&folder)?;
    }
    report.end(worked, begun.elapsed())?;
    Ok(worked)
}

/// All steps, in order, until one fails.
async fn act(args: &DemoArgs, folder: &Path, report: &Report) -> anyhow::Result<bool> {
    let network = Mutex::new(Network::default());
    let Some(network) = report
        .step("start", async {
            let started = Network::start(usize::from(args.nodes)).await?;
            let text = format!("{} on 127.0.0.1", count(started.nodes.len(), "node"));
            let ports: Vec<u16> = started.ports();
            *network.lock().expect("no step panics with it") = started;
            Ok(Figures::new(text).field("nodes", args.nodes).field("ports", ports))
        })
        .await?
        .then(|| network.into_inner().expect("no step panics with it"))
    else {
        return Ok(false);
    };
    let worked = use_network(args, &network, folder, report).await?;
    let left = report.step("leave", leave(&network)).await?;
    Ok(worked && left)
}

async fn use_network(
    args: &DemoArgs,
    network: &Network,
    folder: &Path,
    report: &Report,
) -> anyhow::Result<bool> {
    let offer = Offer::new(args, network, folder);
    Ok(report.step("join", join(network)).await?
        && report.step("discover", discover(network)).await?
        && report.step("broadcast", broadcast(network)).await?
        && report.step("message", message(network)).await?
        && report.step("ping", ping(network)).await?
        && report.step("share", share(network, &offer)).await?
        && report.step("search", search(network, &offer)).await?
        && report.step("fetch", fetch(network, &offer)).await?
        && report.step("map", map(network)).await?)
}

async fn join(network: &Network) -> anyhow::Result<Figures> {
    network.link_up().await?;
    let links = network.links().len();
    let text = format!("{}: a chain, and some across", count(links, "link"));
    Ok(Figures::new(text).field("links", links))
}

async fn discover(network: &Network) -> anyhow::Result<Figures> {
    let first = network.first();
    let discovery = first.discover(-1).await?;
    let found: BTreeSet<_> = discovery.nodes.iter().map(|node| node.id).collect();
    let all: BTreeSet<_> = network.nodes.iter().map(Node::id).collect();
    ensure!(found.len() == discovery.nodes.len(), "a node was found twice");
    ensure!(found == all, "{} of {} nodes found", found.len(), all.len());
    let neighbours = first.discover(1).await?;
    let expected = 1 + first.peers().len();
    ensure!(
        neighbours.nodes.len() == expected,
        "one hop found {} nodes and not {expected}",
        neighbours.nodes.len()
    );
    let links = Graph::new(&discovery.nodes).links();
    let text = format!(
        "{} finds all {} in {}",
        first.name(),
        count(all.len(), "node"),
        time(discovery.elapsed)
    );
    Ok(Figures::new(text)
        .field("size", all.len())
        .field("links", links)
        .field("discovery_ms", millis(discovery.elapsed)))
}

async fn broadcast(network: &Network) -> anyhow::Result<Figures> {
    let begun = Instant::now();
    let sent = network.first().broadcast("demo", "hello, everybody").await?;
    network.reached(sent.id).await?;
    let elapsed = begun.elapsed();
    let others = network.nodes.len() - 1;
    let text = format!("one signed text reaches {} others in {}", others, time(elapsed));
    Ok(Figures::new(text)
        .field("id", sent.id.to_string())
        .field("reached", others)
        .field("reached_ms", millis(elapsed)))
}

async fn message(network: &Network) -> anyhow::Result<Figures> {
    let (from, to) = (network.first(), network.neighbour_of_first()?);
    let mut events = to.events();
    let large = Message::bytes(files::content("message", LARGE));
    let begun = Instant::now();
    let sending = async {
        for n in 0..TEXTS {
            from.send(to.id(), text_number(n)).await?;
        }
        let texts = begun.elapsed();
        from.send(to.id(), large.clone()).await?;
        anyhow::Ok(texts)
    };
    let receiving = async {
        let mut n = 0;
        loop {
            let event = events.next().await.context("the events ended")?;
            match event {
                Event::NodeMessage { peer, message } if peer.id() == from.id() => {
                    if n < TEXTS {
                        let text = message.as_text();
                        ensure!(text == Some(&text_number(n)), "text {n} is wrong or out of order");
                        ensure!(message.kind() == Kind::Text, "text {n} came as something else");
                        n += 1;
                        continue;
                    }
                    ensure!(message == large, "the large message has changed on its way");
                    return Ok(());
                }
                Event::NodeLagged { missed } => anyhow::bail!("{missed} events were missed"),
                _ => {}
            }
        }
    };
    let ((), _) = timeout(PATIENCE, async { tokio::try_join!(receiving, sending) })
        .await
        .context("the messages did not arrive")??;
    let elapsed = begun.elapsed();
    let text = format!(
        "{TEXTS} texts and {} from {} to {}, all equal and in order, in {}",
        size(LARGE as u64),
        from.name(),
        to.name(),
        time(elapsed)
    );
    Ok(Figures::new(text)
        .field("messages", TEXTS + 1)
        .field("large_bytes", LARGE)
        .field("messages_ms", millis(elapsed)))
}

fn text_number(n: usize) -> String {
    format!("text {n} \u{4}é")
}

async fn ping(network: &Network) -> anyhow::Result<Figures> {
    let mut times = Vec::new();
    for node in &network.nodes {
        for peer in node.peers() {
            let rtt = node.ping(peer.id()).await;
            times.push(rtt.with_context(|| format!("{} to {peer}", node.name()))?);
        }
    }
    times.sort_unstable();
    let (Some(best), Some(worst)) = (times.first(), times.last()) else {
        anyhow::bail!("there are no links to ping over");
    };
    let median = times[times.len() / 2];
    let text = format!(
        "{} ends of links: {} at best, {} in the middle, {} at worst",
        times.len(),
        time(*best),
        time(median),
        time(*worst)
    );
    Ok(Figures::new(text)
        .field("pings", times.len())
        .field("min_ms", millis(*best))
        .field("median_ms", millis(median))
        .field("max_ms", millis(*worst)))
}

/// What is shared and fetched, and who does it.
struct Offer {
    /// Folders that are shared: one made on the spot, and the user's own.
    folders: Vec<PathBuf>,
    /// Where the fetched folders go.
    target: PathBuf,
    /// What sharing said of `folders`.
    shared: Mutex<Vec<SharedFile>>,
    sharer: Node,
}

impl Offer {
    fn new(args: &DemoArgs, network: &Network, folder: &Path) -> Self {
        let mut folders = vec![folder.join(files::FOLDER)];
        folders.extend(args.dir.clone());
        Self {
            folders,
            target: folder.join("fetched"),
            shared: Mutex::default(),
            sharer: network.last().clone(),
        }
    }

    fn shared(&self) -> Vec<SharedFile> {
        self.shared.lock().expect("no step panics with it").clone()
    }
}

async fn share(network: &Network, offer: &Offer) -> anyhow::Result<Figures> {
    let folder = &offer.folders[0];
    files::make(folder)?;
    let begun = Instant::now();
    let mut bytes = 0;
    let mut number = 0;
    for folder in &offer.folders {
        let shared = offer.sharer.share(folder).await?;
        let tree = Tree::read(folder)?;
        ensure!(
            shared.size == tree.bytes(),
            "{} holds {} bytes, but {} are shared",
            folder.display(),
            tree.bytes(),
            shared.size
        );
        bytes += shared.size;
        number += tree.len();
        offer.shared.lock().expect("no step panics with it").push(shared);
    }
    let elapsed = begun.elapsed();
    let single = offer.sharer.share(folder.join(files::LARGEST)).await?;
    let expected = files::hash(&folder.join(files::LARGEST))?;
    ensure!(single.hash == expected, "a shared file's hash is not BLAKE3's");
    let text = format!(
        "{} shares {} in {}, {}",
        offer.sharer.name(),
        count(number, "file"),
        count(offer.folders.len(), "folder"),
        size(bytes),
    );
    let shares = network.nodes.iter().map(|node| node.shares().len());
    ensure!(
        shares.sum::<usize>() == offer.folders.len() + 1,
        "the list of shares is not what was shared"
    );
    Ok(Figures::new(text)
        .field("files", number)
        .field("bytes", bytes)
        .field("sharing_ms", millis(elapsed)))
}

async fn search(network: &Network, offer: &Offer) -> anyhow::Result<Figures> {
    let (seeker, how) = network.far_from(&offer.sharer)?;
    let begun = Instant::now();
    for shared in offer.shared() {
        let found = seeker.search(shared.name.as_str()).await?;
        let hit = found.iter().find(|found| found.file.hash == shared.hash);
        let hit = hit.with_context(|| format!("`{}` was not found", shared.name))?;
        let sources: Vec<_> = hit.sources.iter().map(|source| source.id).collect();
        ensure!(
            sources == [offer.sharer.id()],
            "the sources of `{}` are wrong: {sources:?}",
            shared.name
        );
    }
    let nothing = seeker.search("there is no file of this name").await?;
    ensure!(nothing.is_empty(), "a search found what nobody shares");
    let elapsed = begun.elapsed();
    let text = format!(
        "{} finds what {} shares, {how}, in {}",
        seeker.name(),
        offer.sharer.name(),
        time(elapsed)
    );
    Ok(Figures::new(text)
        .field("from", seeker.name())
        .field("sharer", offer.sharer.name())
        .field("search_ms", millis(elapsed)))
}

async fn fetch(network: &Network, offer: &Offer) -> anyhow::Result<Figures> {
    let (seeker, _) = network.far_from(&offer.sharer)?;
    std::fs::create_dir_all(&offer.target)?;
    let mut bytes = 0;
    let mut elapsed = Duration::ZERO;
    let mut lines = Vec::new();
    let mut number = 0;
    for (folder, shared) in offer.folders.iter().zip(offer.shared()) {
        let begun = Instant::now();
        let fetched = seeker.fetch(shared.hash, &offer.target).await?;
        elapsed += begun.elapsed();
        bytes += fetched.bytes;
        let (original, copy) = (Tree::read(folder)?, Tree::read(&fetched.path)?);
        original.compare(&copy)?;
        number += copy.len();
        lines.extend(copy.hash_lines());
    }
    let more = lines.len().saturating_sub(LINES);
    let hashes: Vec<_> = lines.iter().map(|(hash, path)| hash_field(*hash, path)).collect();
    let mut shown: Vec<String> =
        lines.into_iter().take(LINES).map(|(hash, path)| format!("{hash}  {path}")).collect();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    let rate = bytes as f64 / elapsed.as_secs_f64().max(1e-9);
    let text = format!(
        "{} fetches {}, {}, in {} ({}/s); every byte is equal, hashes as b3sum prints them:",
        seeker.name(),
        count(number, "file"),
        size(bytes),
        time(elapsed),
        size(rate as u64),
    );
    Ok(Figures::new(text)
        .details(shown)
        .field("files", number)
        .field("bytes", bytes)
        .field("bytes_per_second", rate.round())
        .field("fetch_ms", millis(elapsed))
        .field("hashes", hashes))
}

fn hash_field(hash: Hash, path: &str) -> serde_json::Value {
    json!({"hash": hash, "path": path})
}

async fn map(network: &Network) -> anyhow::Result<Figures> {
    let discovery = network.first().discover(-1).await?;
    let graph = Graph::new(&discovery.nodes);
    let measures = graph.measure();
    ensure!(measures.components == 1, "the network has fallen apart");
    ensure!(measures.nodes == network.nodes.len(), "the map misses nodes");
    ensure!(
        measures.links == network.links().len(),
        "the map has {} links, the nodes have {}",
        measures.links,
        network.links().len()
    );
    let text = format!(
        "{}, {}, at most {} apart:",
        count(measures.nodes, "node"),
        count(measures.links, "link"),
        count(measures.diameter, "hop")
    );
    let drawing = graph.drawing();
    Ok(Figures::new(text)
        .details(drawing.lines().map(str::to_owned).collect())
        .field("diameter", measures.diameter)
        .field("map", graph))
}

async fn leave(network: &Network) -> anyhow::Result<Figures> {
    let leaving = network.last();
    leaving.shutdown().await;
    network.is_forgotten(leaving.id()).await?;
    let left = network.first().discover(-1).await?.nodes.len();
    let expected = network.nodes.len() - 1;
    ensure!(left == expected, "{left} nodes are left, not {expected}");
    let copies = network.copies()?;
    let begun = Instant::now();
    network.stop().await?;
    let text = format!(
        "{} goes and {expected} are left; then all stop in {}, every port free again",
        leaving.name(),
        time(begun.elapsed())
    );
    Ok(Figures::new(text)
        .field("left", left)
        .field("broadcasts_received_once", copies)
        .field("stop_ms", millis(begun.elapsed())))
}
