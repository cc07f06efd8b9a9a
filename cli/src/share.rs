//! `peerkit share`: serves files to whoever has their ticket, in no network.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use peerkit::{Added, Config, Error, Event, Events, Hash, Node, NodeId, Sharing, StoreError};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::args::ShareArgs;
use crate::log::Log;
use crate::outcome::SkippedView;
use crate::output::{Output, Sink};
use crate::progress::Bars;
use crate::start::{self, Ports, Reach};
use crate::text::{self, plain};
use crate::{fetches, folders, host, human, json, signals};

/// The folder in the state folder that holds the key and what files have hashed to.
const FOLDER: &str = "share";

/// Longest wait for the last events after the node has stopped.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Shares until it is told to stop.
pub(crate) async fn share(args: ShareArgs) -> anyhow::Result<bool> {
    let stop = CancellationToken::new();
    signals::watch(&stop)?;
    Log::start();
    let paths = args.paths.iter().map(|path| folders::existing(path));
    let paths: Vec<PathBuf> = paths.collect::<anyhow::Result<_>>()?;
    let state = folders::state(args.state.as_deref())?.join(FOLDER);
    let serving = start_node(&args, &state).await?;
    let outcome = serve(&args, &serving, &paths, &stop).await;
    serving.node.shutdown().await;
    outcome
}

/// The node that shares.
struct Serving {
    node: Node,
    /// Another `peerkit share` has the state folder, so the key is one for this run only.
    has_passing_key: bool,
    /// Notes on what the node decided by itself, a sentence each.
    notes: Vec<String>,
}

/// Starts a node that makes no link by itself. While another `peerkit share` uses the state folder it
/// has a key for this run, and while the default port is in use it takes a free one.
async fn start_node(args: &ShareArgs, state: &Path) -> anyhow::Result<Serving> {
    let mut config = Config::default();
    config.upload_rate = args.up.unwrap_or(config.upload_rate);
    config.announce.clone_from(&args.listening.announce);
    config.announce_only = args.listening.announce_only;
    let mut ports = Ports::new(&args.listening.listen);
    let mut has_passing_key = false;
    let node = loop {
        let mut builder = Node::builder()
            .name(args.name.clone().unwrap_or_else(host::name))
            .manual(true)
            .config(config.clone());
        if let Some(secret) = host::secret()? {
            builder = builder.secret(secret);
        }
        if !has_passing_key {
            builder = builder.state(state).repair(args.repair);
        }
        match ports.on(builder).spawn().await {
            Err(Error::Store(StoreError::InUse(_))) if !has_passing_key => has_passing_key = true,
            Err(Error::PortInUse(_)) if ports.give_way() => {}
            Err(error) => return Err(start::advised(error)),
            Ok(node) => break node,
        }
    };
    signals::started();
    let mut notes = Vec::new();
    if has_passing_key {
        notes.push(
            "another `peerkit share` runs and uses the key, so this one has a key for this run only: \
             its tickets are worth nothing once it has ended"
                .to_owned(),
        );
    }
    if let Some(note) = ports.note(&node) {
        let port = "firewalls and routers have to let that port through";
        notes.push(match has_passing_key {
            true => format!("{note}; {port}"),
            false => {
                format!("{note}; {port}, and the ticket is good after a restart on that port only")
            }
        });
    }
    Ok(Serving { node, has_passing_key, notes })
}

async fn serve(
    args: &ShareArgs,
    serving: &Serving,
    paths: &[PathBuf],
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let node = &serving.node;
    let bars = Bars::new();
    let (output, writer) = Output::start(args.json, Sink::Streams, bars.clone(), stop);
    let broken = writer.broken();
    let telling = tokio::spawn(tell(node.clone(), node.events(), output.clone()));
    let showing = io::stderr().is_terminal().then(|| {
        let showing = fetches::show(node.clone(), output.clone(), bars.clone(), false);
        tokio::spawn(showing)
    });
    let sharing = async {
        if !output.is_json() {
            let paint = output.paint();
            let notes = serving.notes.iter();
            let notes = notes.map(|note| format!("{} {}\n", paint.strong("note:"), plain(note)));
            output.text(notes.collect()).await;
        }
        for path in paths {
            let sharing = sharing(args, node, path).on_progress(bars.bar("hashing"));
            output.text(announcement(serving, sharing.await?, &output)?).await;
        }
        if !output.is_json() {
            output.text(closing(args, node, &output)).await;
        }
        std::future::pending::<anyhow::Result<()>>().await
    };
    let served = tokio::select! {
        served = sharing => served,
        () = stop.cancelled() => Ok(()),
        () = broken.cancelled() => Ok(()),
    };
    if let Some(showing) = showing {
        showing.abort();
        // With it go its bars.
        let _ = showing.await;
    }
    // The last events come while it stops.
    node.shutdown().await;
    let _ = tokio::time::timeout(LAST_EVENTS, telling).await;
    if served.is_ok() {
        output.stopped(node, true).await;
    }
    writer.finish().await.context("could not write to standard output")?;
    served.map(|()| true)
}

/// Prints what peers have fetched, and what they could not.
async fn tell(node: Node, mut events: Events, output: Output) {
    while let Some(event) = events.next().await {
        if matches!(event, Event::NodeUploadCompleted { .. } | Event::NodeShareChanged { .. }) {
            output.event(&node, &event).await;
        }
    }
}

/// Shares one path as the arguments say, once it is awaited.
fn sharing(args: &ShareArgs, node: &Node, path: &Path) -> Sharing {
    let sharing = node.share(path).remember(false);
    match (args.ticket, args.to.is_empty()) {
        (true, _) => sharing.with_ticket(),
        (_, false) => sharing.to_nodes(args.to.clone()),
        _ => sharing,
    }
}

/// What is shared, and how the other side gets it.
#[derive(Debug, Serialize)]
struct Shared<'a> {
    event: &'static str,
    time: u64,
    node: NodeId,
    hash: Hash,
    name: String,
    size: u64,
    ticket: String,
    command: String,
    /// Addresses in the ticket.
    addresses: Vec<String>,
    /// The key, and with it the ticket, is for this run only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    passing_key: bool,
    /// Entries of the folder that are not shared.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    skipped: Vec<SkippedView>,
    /// Notes on what the node decided by itself, a sentence each.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notes: &'a [String],
}

fn announcement(serving: &Serving, added: Added, output: &Output) -> anyhow::Result<String> {
    let node = &serving.node;
    let file = added.shared;
    let ticket = node.files().ticket_for(&file).context("it is shared no longer")?;
    let reach = Reach::of(&ticket.addresses);
    let addresses = ticket.addresses.iter().map(ToString::to_string).collect();
    let ticket = ticket.to_string();
    let shared = Shared {
        event: "shared",
        time: json::unix_millis(),
        node: node.id(),
        hash: file.hash,
        name: file.name.to_string(),
        size: file.size,
        command: format!("peerkit get {ticket}"),
        ticket,
        addresses,
        passing_key: serving.has_passing_key,
        skipped: added.skipped.into_iter().map(SkippedView::from).collect(),
        notes: &serving.notes,
    };
    if output.is_json() {
        return Ok(json::line(&shared));
    }
    let paint = output.paint();
    let mut text =
        format!("{}  {}\n", paint.name(&plain(&shared.name)), paint.faint(&text::size(file.size)));
    for line in human::skipped_lines(paint, &shared.skipped) {
        text.push_str(&format!("  {line}\n"));
    }
    let place = match reach {
        Reach::Others => "On the other machine:",
        Reach::ThisMachine if shared.addresses.is_empty() => {
            "On no machine yet, as this one has no network and the ticket no address:"
        }
        Reach::ThisMachine => "On this machine, as no other can reach the address in the ticket:",
    };
    text.push_str(&format!(
        "  {} {}\n  {} {}\n{place}\n  {}\n\n",
        paint.faint("hash  "),
        shared.hash,
        paint.faint("ticket"),
        shared.ticket,
        paint.good(&shared.command),
    ));
    Ok(text)
}

fn closing(args: &ShareArgs, node: &Node, output: &Output) -> String {
    let whom = match (args.ticket, args.to.len()) {
        (true, _) => "Only who has the ticket can fetch it: treat it like a password.",
        (_, 0) => "Whoever knows the ticket or the hash can fetch it.",
        (_, 1) => "Only the node of --to can fetch it.",
        _ => "Only the nodes of --to can fetch it.",
    };
    let serving = match node.addresses().is_empty() {
        true => "Nobody can reach this node now. Ctrl-C ends it.".to_owned(),
        false => format!("Serving on {} until Ctrl-C.", start::addresses(node)),
    };
    format!("{}\n", output.paint().faint(&format!("{whom}\n{serving}")))
}
