//! `peerkit demo`: a network on this machine, over real sockets, with every result checked.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use peerkit::{Event, Message, MessageKind, Node};
use serde_json::json;
use tokio::time::timeout;

use crate::args::DemoArgs;
use crate::log::LogSwitch;
use crate::map_file::{self, MapFormat};
use crate::text::{count, millis, path as shown, size, time};
use crate::{signals, usage};

use network::DemoNetwork;
use report::{DemoOutcome, StepFailed, StepPrinter, StepResult};
use sharing::{fetch, search, share};

mod files;
mod network;
mod report;
mod sharing;

/// Number of texts that one node sends another.
const TEXT_COUNT: usize = 2000;

/// Size of the large message that follows them, in bytes.
const LARGE_MESSAGE: usize = 8 << 20;

/// Maximum time that a step waits. 60 s: far more than any step takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demo. Returns true if every step worked and every check held.
pub(crate) async fn demo(args: DemoArgs) -> anyhow::Result<bool> {
    let stop = signals::watch()?;
    LogSwitch::start();
    if let Some(path) = &args.picture {
        // Checked before the first step, since a wrong ending is wrong usage.
        MapFormat::of(path).map_err(|error| usage(error.to_string()))?;
    }
    let folder = tempfile::Builder::new().prefix("peerkit-demo-").tempdir()?;
    let report = StepPrinter::new(args.json);
    report.title(usize::from(args.nodes))?;
    let begun = Instant::now();
    let end = tokio::select! {
        result = run_steps(&args, folder.path(), &report) => match result {
            Err(error) if !error.is::<StepFailed>() => return Err(error),
            Ok(()) => DemoOutcome::Worked,
            Err(_) => DemoOutcome::Failed,
        },
        () = stop.cancelled() => {
            signals::note_unfinished_work();
            DemoOutcome::Stopped
        }
    };
    if args.keep {
        let folder = folder.keep();
        report.kept(&folder)?;
    }
    report.end(end, begun.elapsed())?;
    Ok(end == DemoOutcome::Worked)
}

/// Runs all steps, in order, until one fails.
async fn run_steps(args: &DemoArgs, folder: &Path, report: &StepPrinter) -> anyhow::Result<()> {
    let network = report.step("start", start(usize::from(args.nodes))).await?;
    let result = use_network(args, &network, folder, report).await;
    if result.is_err() {
        network.stop().await?;
        return result;
    }
    report.check("leave", leave(&network)).await
}

/// Runs the steps between the start of the nodes and their end.
async fn use_network(
    args: &DemoArgs,
    network: &DemoNetwork,
    folder: &Path,
    report: &StepPrinter,
) -> anyhow::Result<()> {
    report.check("join", join(network)).await?;
    report.check("discover", discover(network)).await?;
    report.check("broadcast", broadcast(network)).await?;
    report.check("message", message(network)).await?;
    report.check("ping", ping(network)).await?;
    let shared_folders = report.step("share", share(network, folder, args.dir.as_ref())).await?;
    let seeker = report.step("search", search(network, &shared_folders)).await?;
    report
        .check("fetch", fetch(seeker, &shared_folders, &folder.join("fetched"), args.keep))
        .await?;
    report.check("map", draw(network, args.picture.as_deref())).await
}

async fn start(number: usize) -> anyhow::Result<(StepResult, DemoNetwork)> {
    let network = DemoNetwork::start(number).await?;
    let text = format!("{} on 127.0.0.1", count(number, "node"));
    let fields = json!({ "nodes": number, "ports": network.ports() });
    Ok((StepResult::new(text, fields), network))
}

async fn join(network: &DemoNetwork) -> anyhow::Result<StepResult> {
    network.join().await?;
    let links = network.links().len();
    let text = format!(
        "{} join through {} and find their neighbours: {}",
        network.nodes.len() - 1,
        network.first().name(),
        count(links, "link")
    );
    let fields = json!({ "links": links });
    Ok(StepResult::new(text, fields))
}

async fn discover(network: &DemoNetwork) -> anyhow::Result<StepResult> {
    let first = network.first();
    let discovery = first.discover(-1).await?;
    let found: BTreeSet<_> = discovery.nodes.iter().map(|node| node.id).collect();
    let all: BTreeSet<_> = network.nodes.iter().map(Node::id).collect();
    ensure!(found.len() == discovery.nodes.len(), "a node was found twice");
    ensure!(found == all, "{} of {} nodes found", found.len(), all.len());
    // A depth of one must find the neighbours and no other node.
    let neighbours = first.discover(1).await?;
    let expected = 1 + first.peers().len();
    ensure!(
        neighbours.nodes.len() == expected,
        "one hop found {} nodes and not {expected}",
        neighbours.nodes.len()
    );
    let links = peerkit::NetworkGraph::new("demo", &discovery).links();
    let text = format!(
        "{} finds all {} in {}",
        first.name(),
        count(all.len(), "node"),
        time(discovery.elapsed)
    );
    let fields = json!({
        "size": all.len(), "links": links, "discovery_ms": millis(discovery.elapsed),
    });
    Ok(StepResult::new(text, fields))
}

async fn broadcast(network: &DemoNetwork) -> anyhow::Result<StepResult> {
    let begun = Instant::now();
    let sent = network.first().broadcast("demo", "hello, everybody").await?;
    network.wait_until_received(sent.id).await?;
    let elapsed = begun.elapsed();
    let others = network.nodes.len() - 1;
    let text = format!("one signed text reaches {} others in {}", others, time(elapsed));
    let fields = json!({
        "id": sent.id.to_string(), "reached": others, "reached_ms": millis(elapsed),
    });
    Ok(StepResult::new(text, fields))
}

async fn message(network: &DemoNetwork) -> anyhow::Result<StepResult> {
    let (from, to) = (network.first(), network.neighbour_of_first()?);
    // Before the first message is sent, so that none is missed.
    let mut events = to.events();
    // Larger than the queue of a link, so that `send` also has to wait for room.
    let large = Message::bytes(files::content("message", LARGE_MESSAGE));
    let begun = Instant::now();
    let sending = async {
        for n in 0..TEXT_COUNT {
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
                    if n < TEXT_COUNT {
                        let text = message.as_text();
                        ensure!(text == Some(&text_number(n)), "text {n} is wrong or out of order");
                        ensure!(
                            message.kind() == MessageKind::Text,
                            "text {n} came as something else"
                        );
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
        "{TEXT_COUNT} texts and {} from {} to {}, all equal and in order, in {}",
        size(LARGE_MESSAGE as u64),
        from.name(),
        to.name(),
        time(elapsed)
    );
    let fields = json!({
        "messages": TEXT_COUNT + 1, "large_bytes": LARGE_MESSAGE, "messages_ms": millis(elapsed),
    });
    Ok(StepResult::new(text, fields))
}

fn text_number(n: usize) -> String {
    // p2pnetwork ends a message at U+0004. Here it is a character like any other.
    format!("text {n} \u{4}é")
}

async fn ping(network: &DemoNetwork) -> anyhow::Result<StepResult> {
    let mut times = Vec::new();
    for node in &network.nodes {
        for peer in node.peers() {
            match node.ping(peer.id()).await {
                Ok(rtt) => times.push(rtt),
                // Members close links to get better neighbours.
                Err(_) if node.peer(peer.id()).is_none() => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("{} to {peer}", node.name()));
                }
            }
        }
    }
    times.sort_unstable();
    let (Some(best), Some(worst)) = (times.first(), times.last()) else {
        anyhow::bail!("there are no links to ping over");
    };
    let median = times[times.len() / 2];
    let text = format!(
        "{} round trips: {} at best, {} in the middle, {} at worst",
        times.len(),
        time(*best),
        time(median),
        time(*worst)
    );
    let fields = json!({
        "pings": times.len(), "min_ms": millis(*best), "median_ms": millis(median),
        "max_ms": millis(*worst),
    });
    Ok(StepResult::new(text, fields))
}

async fn draw(network: &DemoNetwork, picture: Option<&Path>) -> anyhow::Result<StepResult> {
    // A link that is being made or closed would make the counts below differ.
    network.wait_until_settled(network.nodes.len()).await?;
    let map = network.first().network().graph().await?;
    let figures = map.figures();
    ensure!(figures.components == 1, "the network has fallen apart");
    ensure!(figures.nodes == network.nodes.len(), "the map misses nodes");
    ensure!(
        figures.links == network.links().len(),
        "the map has {} links, the nodes have {}",
        figures.links,
        network.links().len()
    );
    let text = format!(
        "{}, {}, at most {} apart:",
        count(figures.nodes, "node"),
        count(figures.links, "link"),
        count(figures.diameter, "hop")
    );
    let mut lines: Vec<String> = map.to_text().lines().map(str::to_owned).collect();
    let mut fields = json!({ "diameter": figures.diameter, "map": map });
    if let Some(path) = picture {
        let format = MapFormat::of(path)?;
        let document = tokio::task::spawn_blocking(move || format.document(&map)).await?;
        map_file::write(path, document.as_bytes())
            .with_context(|| format!("could not write {}", path.display()))?;
        lines.push(format!("the picture is in {}", shown(path)));
        fields["picture"] = path.to_string_lossy().into();
    }
    Ok(StepResult::new(text, fields).details(lines))
}

async fn leave(network: &DemoNetwork) -> anyhow::Result<StepResult> {
    let leaving = network.last();
    leaving.shutdown().await;
    network.wait_until_disconnected(leaving.id()).await?;
    network.wait_until_settled(network.nodes.len() - 1).await?;
    let left = network.first().discover(-1).await?.nodes.len();
    let expected = network.nodes.len() - 1;
    ensure!(left == expected, "{left} nodes are left, not {expected}");
    let copies = network.count_received()?;
    let begun = Instant::now();
    network.stop().await?;
    let text = format!(
        "{} stops and {expected} nodes are left; then all stop in {}, and every port is free again",
        leaving.name(),
        time(begun.elapsed())
    );
    let fields = json!({
        "left": left, "broadcasts_received_once": copies, "stop_ms": millis(begun.elapsed()),
    });
    Ok(StepResult::new(text, fields))
}
