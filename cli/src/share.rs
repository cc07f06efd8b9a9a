//! `peerkit share`: serves files to whoever has their ticket, in no network.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use peerkit::{Address, Config, Error, Hash, Node, ShareOptions, SharedFile, StoreError, Ticket};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::args::ShareArgs;
use crate::log::Log;
use crate::output::{Output, Sink};
use crate::progress::Bars;
use crate::text::{self, plain};
use crate::{folders, host, json, signals};

/// The folder in the state folder that holds the key and what files have hashed to.
const FOLDER: &str = "share";

/// Where it listens unless told to elsewhere.
const LISTEN: &str = "0.0.0.0:7117";

/// And where that is taken.
const LISTEN_ELSEWHERE: &str = "0.0.0.0:0";

/// Shares until it is told to stop.
pub(crate) async fn share(args: ShareArgs) -> anyhow::Result<bool> {
    let stop = CancellationToken::new();
    signals::watch(&stop)?;
    Log::start();
    let paths = args.paths.iter().map(|path| folders::existing(path));
    let paths: Vec<PathBuf> = paths.collect::<anyhow::Result<_>>()?;
    let state = folders::state(args.state.as_deref())?.join(FOLDER);
    let node = start_node(&args, &state).await?;
    let outcome = serve(&args, &node, &paths, &stop).await;
    node.shutdown().await;
    outcome
}

/// A node that makes no link by itself. Where another `peerkit share` has the state folder it is a
/// node of its own, and where one has the port it takes another.
async fn start_node(args: &ShareArgs, state: &Path) -> anyhow::Result<Node> {
    let mut config = Config::default();
    config.upload_rate = args.up.unwrap_or(config.upload_rate);
    let mut listen = args.listen.clone();
    if listen.is_empty() {
        listen.push(LISTEN.to_owned());
    }
    let mut state = Some(state);
    loop {
        let mut builder = Node::builder()
            .name(args.name.clone().unwrap_or_else(host::name))
            .manual(true)
            .config(config.clone());
        for address in &listen {
            builder = builder.listen(address.as_str());
        }
        if let Some(secret) = host::secret()? {
            builder = builder.secret(secret);
        }
        if let Some(state) = state {
            builder = builder.state(state).repair(args.repair);
        }
        match builder.spawn().await {
            Err(Error::Store(StoreError::InUse(_))) if state.is_some() => state = None,
            Err(Error::PortInUse(_)) if args.listen.is_empty() && listen == [LISTEN] => {
                listen = vec![LISTEN_ELSEWHERE.to_owned()];
            }
            started => return Ok(started?),
        }
    }
}

async fn serve(
    args: &ShareArgs,
    node: &Node,
    paths: &[PathBuf],
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let bars = Bars::new();
    let (output, writer) = Output::start(args.json, Sink::Streams, bars.clone());
    let broken = writer.broken();
    let serving = async {
        for path in paths {
            let sharing = node.share_with(path, options(args), bars.bar("hashing"));
            let added = sharing.await?;
            for skipped in added.skipped {
                tracing::warn!("not shared: {}: {}", text::path(&skipped.path), skipped.why);
            }
            output.text(announcement(node, added.shared, &output)?).await;
        }
        if !output.is_json() {
            output.text(closing(args, node, &output)).await;
        }
        std::future::pending::<anyhow::Result<()>>().await
    };
    let served = tokio::select! {
        served = serving => served,
        () = stop.cancelled() => Ok(()),
        () = broken.cancelled() => Ok(()),
    };
    writer.finish().await.context("could not write to standard output")?;
    served.map(|()| true)
}

fn options(args: &ShareArgs) -> ShareOptions {
    let options = ShareOptions::default().remember(false);
    match (args.ticket, args.to.is_empty()) {
        (true, _) => options.with_ticket(),
        (_, false) => options.to_nodes(args.to.clone()),
        _ => options,
    }
}

/// What is shared, and how the other side gets it.
#[derive(Debug, Serialize)]
struct Shared {
    event: &'static str,
    hash: Hash,
    name: String,
    size: u64,
    ticket: String,
    command: String,
}

fn announcement(node: &Node, file: SharedFile, output: &Output) -> anyhow::Result<String> {
    let ticket = node.ticket_for(&file).context("it is shared no longer")?;
    let ticket = reachable(ticket, node).to_string();
    let shared = Shared {
        event: "shared",
        hash: file.hash,
        name: file.name.to_string(),
        size: file.size,
        command: format!("peerkit get {ticket}"),
        ticket,
    };
    if output.is_json() {
        return Ok(json::line(&shared));
    }
    let paint = output.paint();
    let size = text::size(file.size);
    Ok(format!(
        "{}  {}\n  {} {}\n  {} {}\nOn the other machine:\n  {}\n\n",
        paint.name(&plain(&shared.name)),
        paint.faint(&size),
        paint.faint("hash  "),
        shared.hash,
        paint.faint("ticket"),
        shared.ticket,
        paint.good(&shared.command),
    ))
}

/// The ticket with an address at least: this machine's own where it has no other.
fn reachable(mut ticket: Ticket, node: &Node) -> Ticket {
    if ticket.addresses.is_empty() {
        let loopback = |port| Address::from_socket((std::net::Ipv4Addr::LOCALHOST, port).into());
        let ports = node.listening().into_iter().map(|socket| socket.port());
        ticket.addresses = ports.map(loopback).collect();
    }
    ticket
}

fn closing(args: &ShareArgs, node: &Node, output: &Output) -> String {
    let whom = match (args.ticket, args.to.len()) {
        (true, _) => "Only who has the ticket can fetch it: treat it like a password.",
        (_, 0) => "Whoever knows the ticket or the hash can fetch it.",
        (_, 1) => "Only the node of --to can fetch it.",
        _ => "Only the nodes of --to can fetch it.",
    };
    let listening = node.listening();
    let listening: Vec<String> = listening.iter().map(ToString::to_string).collect();
    let text = format!("{whom}\nServing on {} until Ctrl-C.", listening.join(", "));
    format!("{}\n", output.paint().faint(&text))
}
