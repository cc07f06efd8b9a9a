//! `peerkit share`: shares files until it ends, through the running node or with a node of its own that joins
//! no network.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use peerkit::{Added, Event, Events, Node, Reachability, Sharing};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::ShareArgs;
use crate::commands::add::AddArgs;
use crate::log::LogSwitch;
use crate::output::{Printer, Sink};
use crate::progress::Bars;
use crate::remote::{self, NodeApi};
use crate::start::{self, StartedNode};
use crate::text::Paint;
use crate::{fetches, folders, signals};
use announcement::announcement;

pub(crate) mod announcement;

/// The subfolder, in the state folder, that holds the key and the hashes of files.
const STATE_SUBFOLDER: &str = "share";

/// Printed before the tickets with the addresses of the router.
const MAPPED_NOTE: &str =
    "The router forwards a port to this node now. These tickets also work from other networks:\n\n";

/// Maximum time to wait for the last events after the node has stopped. 5 s: as long as for the
/// output.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Shares files until a signal stops it.
pub(crate) async fn share(args: ShareArgs) -> anyhow::Result<bool> {
    let stop = signals::watch()?;
    LogSwitch::start();
    let paths = args.paths.iter().map(|path| folders::existing(path));
    let paths: Vec<PathBuf> = paths.collect::<anyhow::Result<_>>()?;
    let state = folders::state(args.state.as_deref())?;
    if !args.needs_own_node()
        && let Some(running) = remote::running_node(&state).await
    {
        signals::note_started();
        return share_through(&running, &args, paths, &stop).await;
    }
    let state = state.join(STATE_SUBFOLDER);
    let serving = start_node(&args, &state).await?;
    let outcome = serve(&args, &serving, &paths, &stop).await;
    serving.node.shutdown().await;
    outcome
}

/// Shares files through the running node until a signal stops it. When this process ends, in whatever way,
/// the node stops sharing them.
///
/// # Errors
/// If the node can't share one of them, or stops.
async fn share_through(
    running: &NodeApi,
    args: &ShareArgs,
    paths: Vec<PathBuf>,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let to: Vec<String> = args.to.iter().map(ToString::to_string).collect();
    if !args.json {
        let line = format!("Served by the running node {} until Ctrl-C.\n", running.name);
        crate::print(Paint::on(&io::stdout()).faint(&line).as_bytes())?;
    }
    let mut holding = JoinSet::new();
    for path in paths {
        let (api, command) = (running.api.clone(), AddArgs::held(path, to.clone()));
        let is_json = args.json;
        holding.spawn(async move { remote::carry_out(&api, &command, is_json).await });
    }
    tokio::select! {
        () = stop.cancelled() => Ok(true),
        ended = holding.join_next() => match ended {
            // The node ends the command only if it failed or the node itself stops.
            Some(Ok(Err(error))) => Err(error),
            _ => bail!("the node has stopped, and with it the sharing"),
        },
    }
}

/// The node of `peerkit share`.
struct SharingNode {
    node: Node,
    /// True if another `peerkit share` uses the state folder, so this node made a key for this run.
    has_temporary_key: bool,
    /// Notes about the choices of the program, such as another port; one sentence each.
    notes: Vec<String>,
}

/// Starts a node that makes no link by itself. If another `peerkit share` uses the state folder, the
/// node gets a new key for this run. If the default port is in use, the node takes a free port.
async fn start_node(args: &ShareArgs, state: &Path) -> anyhow::Result<SharingNode> {
    let mut config = args.listening.config(true);
    config.upload_rate = args.up.unwrap_or(config.upload_rate);
    // In the second attempt the builder gets no state folder, so it makes a new key.
    let build = |in_use| {
        let builder = start::builder(args.name.as_deref(), config.clone())?.manual(true);
        Ok(if in_use == 0 { builder.state(state).repair(args.repair) } else { builder })
    };
    // One more attempt is enough: without a state folder there is no lock that another node can hold.
    let StartedNode { node, in_use, note } = start::spawn(&args.listening.listen, 1, build).await?;
    let has_temporary_key = in_use > 0;
    let mut notes = Vec::new();
    if has_temporary_key {
        notes.push(
            "another `peerkit share` uses the key in the state folder, so this one made a key for \
             this run only: its tickets stop working when it ends (--state DIR selects another \
             folder, with a key that is kept)"
                .to_owned(),
        );
    }
    if let Some(note) = note {
        let mut note = format!("{note}; firewalls and routers have to let this port through");
        if !has_temporary_key {
            note.push_str(
                ", and after a restart the tickets work only if `share` listens on this port again",
            );
        }
        notes.push(note);
    }
    Ok(SharingNode { node, has_temporary_key, notes })
}

async fn serve(
    args: &ShareArgs,
    serving: &SharingNode,
    paths: &[PathBuf],
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let node = &serving.node;
    let bars = Bars::new();
    let (output, writer) = Printer::start(args.json, Sink::Streams, bars.clone(), stop);
    let broken = writer.broken();
    let printing = tokio::spawn(print_transfers(node.clone(), node.events(), output.clone()));
    let changes = node.events();
    let showing = io::stderr().is_terminal().then(|| {
        let showing = fetches::show(node.clone(), output.clone(), bars.clone(), false);
        tokio::spawn(showing)
    });
    let sharing = async {
        if !output.is_json() {
            output.text(start::note_lines(output.paint(), &serving.notes)).await;
        }
        let announce = async |added: &Added| -> anyhow::Result<()> {
            let (key, notes) = (serving.has_temporary_key, &serving.notes);
            let announced = announcement(node, added, output.paint(), key, notes)?;
            let line = if output.is_json() { announced.json } else { announced.text };
            output.text(line).await;
            Ok(())
        };
        let mut shared = Vec::new();
        for path in paths {
            let sharing = share_path(args, node, path).on_progress(bars.bar("hashing"));
            let added = sharing.await?;
            announce(&added).await?;
            shared.push((added, node.addresses()));
        }
        if !output.is_json() {
            output.text(closing_lines(args, node, &output)).await;
        }
        // The router may have answered before the last path was hashed.
        until_mapped(node, changes).await;
        shared.retain(|(_, addresses)| *addresses != node.addresses());
        if !shared.is_empty() && !output.is_json() {
            output.text(MAPPED_NOTE.to_owned()).await;
        }
        for (added, _) in &shared {
            announce(added).await?;
        }
        // The node serves until one of the other branches of the `select!` below is ready.
        std::future::pending::<anyhow::Result<()>>().await
    };
    let served = tokio::select! {
        served = sharing => served,
        () = stop.cancelled() => Ok(()),
        () = broken.cancelled() => Ok(()),
    };
    if let Some(showing) = showing {
        showing.abort();
        // The bars are removed when the aborted task has ended.
        let _ = showing.await;
    }
    // The node emits its last events while it stops.
    node.shutdown().await;
    let _ = tokio::time::timeout(LAST_EVENTS, printing).await;
    if served.is_ok() {
        output.stopped(node, true).await;
    }
    writer.finish().await.context("could not write to standard output")?;
    served.map(|()| true)
}

/// Waits until the router forwards a port to the node. Does not return if it never does.
async fn until_mapped(node: &Node, mut changes: Events) {
    let is_mapped = |reachability| reachability == Reachability::Mapped;
    if is_mapped(node.status().await.reachability) {
        return;
    }
    while let Some(event) = changes.next().await {
        match event {
            Event::NodeReachabilityChanged { reachability, .. } if is_mapped(reachability) => {
                return;
            }
            _ => {}
        }
    }
    // The node has stopped.
    std::future::pending::<()>().await;
}

/// Prints an event for each completed upload, and for each share that no node can fetch any more.
async fn print_transfers(node: Node, mut events: Events, output: Printer) {
    while let Some(event) = events.next().await {
        if matches!(event, Event::NodeUploadCompleted { .. } | Event::NodeShareChanged { .. }) {
            output.event(&node, &event).await;
        }
    }
}

/// Returns a share of one path, with the access that the options select.
fn share_path(args: &ShareArgs, node: &Node, path: &Path) -> Sharing {
    // The next `peerkit share` serves only the paths of its own command line.
    let sharing = node.share(path).remember(false);
    match (args.ticket, args.to.is_empty()) {
        (true, _) => sharing.with_ticket(),
        (_, false) => sharing.to_nodes(args.to.clone()),
        _ => sharing,
    }
}

/// Returns the last lines of the start: which nodes can fetch, and where the node listens.
fn closing_lines(args: &ShareArgs, node: &Node, output: &Printer) -> String {
    let access = access_line(args.to.len(), args.ticket);
    let serving = if node.addresses().is_empty() {
        "This node has no address that another machine can reach. Ctrl-C stops it.".to_owned()
    } else {
        format!("Serving on {} until Ctrl-C.", start::addresses(node))
    };
    format!("{}\n", output.paint().faint(&format!("{access}\n{serving}")))
}

/// Returns which nodes can fetch a share that is for `to` nodes, or needs a ticket.
pub(crate) fn access_line(to: usize, is_ticket: bool) -> &'static str {
    match (to, is_ticket) {
        (0, true) => "Only nodes that have the ticket can fetch: treat a ticket like a password.",
        (0, false) => "Every node that has the ticket or the hash can fetch.",
        (1, _) => "Only the node that --to names can fetch.",
        _ => "Only the nodes that --to names can fetch.",
    }
}
