//! `peerkit get`: fetches one file or folder, through the running node if there is one.

use std::fs::File;
use std::io::{self, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use peerkit::{
    Config, DownloadStatus, Error, FetchError, FetchRequest, Fetched, FileKind, NameFault, Node,
    NodeId, Renamed,
};
use tempfile::TempDir;
use tokio::time::{Instant, Interval};
use tokio_util::sync::CancellationToken;

use crate::api::ApiFile;
use crate::args::GetArgs;
use crate::commands;
use crate::fetch_arguments::{SaveLocation, TicketOrHash};
use crate::fetches;
use crate::json;
use crate::log::LogSwitch;
use crate::progress::{Bars, TransferBars};
use crate::start::DEFAULT_NETWORK;
use crate::text::{self, Paint, plain};
use crate::{UsageError, folders, human, remote, shell_words, signals, start, terminal, usage};

mod ticket;

/// Interval between progress lines on standard error, if it is not a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Name of the temporary file whose content goes to standard output.
const TEMPORARY_NAME: &str = "content";

/// The error of a fetch that was stopped while the ticket was being read.
const STOPPED_BEFORE_FETCH: &str = "stopped before the fetch began";

/// The error of a fetch to standard output that a signal stopped before the reader had read it all.
const STOPPED_BEFORE_WRITTEN: &str = "stopped before the whole file was written to standard output";

/// Advice about a fetch that was stopped or has failed.
const CONTINUES: &str = "the fetched part is kept, and the same command continues the fetch";

/// Advice if the source has changed the file: a changed file has another hash.
const CONTINUES_IF_RESTORED: &str = "the fetched part is kept, but the fetch can continue only \
                                     if the source has the old file again";

/// Fetches a file or folder. Returns false if the fetch failed or is incomplete, and this has already
/// been printed.
pub(crate) async fn get(args: GetArgs) -> anyhow::Result<bool> {
    let stop = signals::watch()?;
    // If the user has to type the ticket, `read` blocks this thread, and no signal can end that. So a signal
    // ends the program, which then also restores the settings of the terminal.
    let stopped_early = stop.clone();
    let stopping = tokio::spawn(async move {
        stopped_early.cancelled().await;
        exit_with_error(STOPPED_BEFORE_FETCH)
    });
    let read = ticket::read(&args);
    // From here on signals are handled by `fetch`, which keeps the part that was fetched.
    stopping.abort();
    let (content, path) = match read {
        Ok(read) => read,
        Err(error) => {
            let Some((api, command)) = search_result(&args, &error).await? else {
                return Err(error);
            };
            signals::note_started();
            return remote::print_result("get", &api, &command, args.json, &stop).await;
        }
    };
    let target = FetchTarget::new(path.as_deref(), args.json)?;
    if let Some((api, command)) = through_running_node(&args, &content, &target).await? {
        signals::note_started();
        return remote::print_result("get", &api, &command, args.json, &stop).await;
    }
    let (request, sources, network) = build_request(&args, &content)?;
    LogSwitch::start();
    let node = start_node(&args, &network, &sources).await?;
    signals::note_started();
    let request = target.apply_to(request.overwrite(args.force));
    let result = fetch(&node, request, &target, &stop).await;
    node.shutdown().await;
    let is_whole = result.as_ref().is_ok_and(|fetched| fetched.left_out.is_empty());
    if args.json {
        let result = result.and_then(|fetched| fetches::output(Paint::none(), fetched));
        crate::print(json::result("get", &result).as_bytes())?;
        return Ok(is_whole);
    }
    let fetched = result?;
    match target {
        FetchTarget::StandardOutput(_) => write_out(fetched.path, target, &stop).await?,
        _ => print_result(fetched, args.force)?,
    }
    Ok(is_whole)
}

/// Ends the program at once, with an error.
fn exit_with_error(error: &str) -> ! {
    signals::note_unfinished_work();
    terminal::restore();
    let _ = writeln!(io::stderr(), "{} {error}", Paint::on(&io::stderr()).bad("error:"));
    signals::exit_now()
}

/// Returns the API of the node that runs on the state folder, and the command for that node. Returns `None` if
/// no node runs there, or if that node can't do this fetch:
///
/// - the node is the source, or is in another network
/// - the file is for standard output
/// - the command line has options for this fetch alone: `--down`, `--no-udp`, `--no-relay`
async fn through_running_node(
    args: &GetArgs,
    wanted: &TicketOrHash,
    target: &FetchTarget,
) -> anyhow::Result<Option<(ApiFile, commands::get::GetArgs)>> {
    let FetchTarget::Disk(destination) = target else { return Ok(None) };
    if args.needs_own_node() {
        return Ok(None);
    }
    let state = folders::state(args.state.as_deref())?;
    let Some(running) = remote::running_node(&state).await else { return Ok(None) };
    let (what, wanted_network) = match wanted {
        // A node can't fetch from itself.
        TicketOrHash::Ticket(ticket) if ticket.node == running.id => return Ok(None),
        TicketOrHash::Ticket(ticket) => (ticket.to_string(), Some(&ticket.network)),
        TicketOrHash::Hash(hash) => (hash.to_string(), args.network.as_ref()),
    };
    if wanted_network.is_some_and(|wanted| *wanted != running.network) {
        return Ok(None);
    }
    let from = args.from.iter().map(ToString::to_string).collect();
    Ok(Some((running.api, commands::get::GetArgs::new(what, destination.path(), from, args.force))))
}

/// Returns the command for the running node if the arguments are neither a ticket nor a hash, but may be the
/// name of a search result, which only that node knows. `error` is the error of reading them.
async fn search_result(
    args: &GetArgs,
    error: &anyhow::Error,
) -> anyhow::Result<Option<(ApiFile, commands::get::GetArgs)>> {
    let Some((name, path)) = args.name_and_path() else { return Ok(None) };
    if !error.is::<UsageError>() || args.ticket_file.is_some() || args.needs_own_node() {
        return Ok(None);
    }
    // The error about a wrong path is less useful than `error`.
    let Ok(FetchTarget::Disk(destination)) = FetchTarget::new(path, args.json) else {
        return Ok(None);
    };
    let state = folders::state(args.state.as_deref())?;
    let Some(running) = remote::running_node(&state).await else { return Ok(None) };
    let from = args.from.iter().map(ToString::to_string).collect();
    // The node reads it as a line at its prompt.
    let name = shell_words::quote(name);
    Ok(Some((running.api, commands::get::GetArgs::new(name, destination.path(), from, args.force))))
}

/// Returns the request, the identities of its sources as far as they are known, and the network.
fn build_request(
    args: &GetArgs,
    content: &TicketOrHash,
) -> anyhow::Result<(FetchRequest, Vec<NodeId>, String)> {
    let (request, network) = match content {
        // Nodes of different networks refuse each other, so a ticket names its network.
        TicketOrHash::Ticket(ticket) => (FetchRequest::ticket(ticket), ticket.network.clone()),
        TicketOrHash::Hash(_) if args.from.is_empty() => {
            let error = "a hash does not say which node has the file: add --from ADDR, use a ticket, \
                         or type `get HASH` at the prompt of `peerkit run`, which searches its \
                         network";
            return Err(usage(error));
        }
        TicketOrHash::Hash(hash) => (
            FetchRequest::new(*hash),
            args.network.clone().unwrap_or_else(|| DEFAULT_NETWORK.to_owned()),
        ),
    };
    let mut sources: Vec<NodeId> = args.from.iter().filter_map(|address| address.id).collect();
    if let TicketOrHash::Ticket(ticket) = content {
        sources.push(ticket.node);
    }
    let request = args.from.iter().cloned().fold(request, FetchRequest::from);
    Ok((request, sources, network))
}

/// The destination of a fetch.
enum FetchTarget {
    /// To the disk.
    Disk(SaveLocation),
    /// To standard output, from a temporary file in this folder.
    StandardOutput(TempDir),
}

impl FetchTarget {
    fn new(path: Option<&Path>, json: bool) -> anyhow::Result<Self> {
        if path != Some(Path::new("-")) {
            let destination = SaveLocation::new(path, Path::new("."));
            return Ok(Self::Disk(destination.context("there is no current folder")?));
        }
        if json {
            let error = "the file and the JSON line can't both go to standard output: leave out - or --json";
            return Err(usage(error));
        }
        let folder = tempfile::Builder::new().prefix("peerkit-get-").tempdir();
        let folder = folder.context("could not make a temporary folder")?;
        signals::remove_on_exit(folder.path());
        Ok(Self::StandardOutput(folder))
    }

    fn apply_to(&self, request: FetchRequest) -> FetchRequest {
        match self {
            Self::Disk(destination) => destination.apply_to(request),
            Self::StandardOutput(folder) => request.to(folder.path().join(TEMPORARY_NAME)),
        }
    }
}

/// Starts a node that does not listen, with the user's own key. If a source has the same key, because
/// it is a node of this user, the new node gets another key: a node can't connect to itself.
async fn start_node(args: &GetArgs, network: &str, sources: &[NodeId]) -> anyhow::Result<Node> {
    // Only the key is read and no state folder is locked, so this works beside a running node.
    let key = folders::state(args.state.as_deref())?.join("key");
    let key = peerkit::load_or_create_key(&key)?;
    let mut config = Config::default();
    config.download_rate = args.down.unwrap_or(config.download_rate);
    args.reach.apply_to(&mut config);
    let mut builder = start::builder(None, config)?.network(network).manual(true);
    // Without a key the builder makes a new one.
    if !sources.contains(&key.id()) {
        builder = builder.key(key);
    }
    Ok(builder.spawn().await?)
}

/// Fetches and shows the progress, until the fetch has ended or is stopped.
async fn fetch(
    node: &Node,
    request: FetchRequest,
    target: &FetchTarget,
    stop: &CancellationToken,
) -> anyhow::Result<Fetched> {
    let download = node.fetch(request);
    let mut progress = download.progress();
    let mut shown = FetchProgress::new();
    loop {
        tokio::select! {
            // Polls the branches in order: the reports of a fast fetch must not delay the stop.
            biased;
            () = stop.cancelled() => {
                signals::note_unfinished_work();
                return Err(stopped(target, &download.status()));
            }
            status = progress.next() => {
                let Some(status) = status else { break };
                let is_folder = status.kind == Some(FileKind::Folder);
                // The kind is known only once the source has answered.
                if is_folder && matches!(target, FetchTarget::StandardOutput(_)) {
                    bail!(FOLDER_TO_STANDARD);
                }
                shown.update(&status);
            }
            () = shown.wait_until_due() => shown.print_line(&download.status()),
        }
    }
    match download.clone().await {
        Ok(fetched) => Ok(fetched),
        Err(error) => {
            let next_fetch = match &error {
                Error::Fetch(fetch) if fetch.is_changed() => CONTINUES_IF_RESTORED,
                _ => CONTINUES,
            };
            let error = advised(error);
            if keeps_part(target, &download.status()) {
                bail!("{}; {next_fetch}", text::error(&error));
            }
            Err(error)
        }
    }
}

/// Returns the error of a fetch with advice.
fn advised(error: Error) -> anyhow::Error {
    let advice = match &error {
        Error::Connect { .. } | Error::Unreachable { .. } | Error::NoneAnswered(_) => {
            "check that `peerkit share` still runs there, and that this machine can reach its port"
        }
        Error::Fetch(fetch) if fetch.is_changed() => return fetches::advised(error),
        Error::Fetch(FetchError::Refused(_)) | Error::NoSource(_) => {
            "ask the person who shares it: it may need its ticket, or be shared only with some nodes \
             (`peerkit id` prints this node's identity)"
        }
        // There is a pipe or a device at the path, for example, into which the shell can send bytes.
        Error::Fetch(FetchError::NotAFile { kind, .. }) if kind.takes_bytes() => {
            "write the file to standard output, and have the shell send it there: `peerkit get TICKET - \
             > PATH`"
        }
        Error::Fetch(FetchError::NotAFile { .. }) => "remove it first, or give another PATH",
        _ => return error.into(),
    };
    anyhow!("{}; {advice}", fetches::advised(error))
}

const FOLDER_TO_STANDARD: &str =
    "this is a folder, and only a file can go to standard output: give a PATH in place of -";

fn stopped(target: &FetchTarget, status: &DownloadStatus) -> anyhow::Error {
    if keeps_part(target, status) {
        return anyhow!("stopped: {CONTINUES}");
    }
    anyhow!("stopped before the fetch was done: nothing is kept")
}

/// Returns whether a part of the content is kept, with which the next fetch continues.
fn keeps_part(target: &FetchTarget, status: &DownloadStatus) -> bool {
    !matches!(target, FetchTarget::StandardOutput(_)) && status.kept
}

/// Prints the path of the result, relative to the current folder if it is inside that folder. Prints to
/// standard error which entries were renamed, and which are missing.
fn print_result(mut fetched: Fetched, force: bool) -> anyhow::Result<()> {
    let mut changes = fetches::take_changes(&mut fetched);
    let is_numbered =
        // True for the file itself, but not for an entry of a folder, if its name was in use. A number was
        // then added to the name.
        |renamed: &mut Renamed| renamed.why == NameFault::NameInUse && renamed.path == fetched.path;
    for Renamed { name, .. } in changes.renamed.extract_if(.., is_numbered) {
        let advice = if force { "" } else { ": --force replaces it" };
        let name = plain(name.as_str());
        let _ = writeln!(
            io::stderr(),
            "{name} already exists and was not changed, so the new file has another name{advice}"
        );
    }
    for line in human::files::changes(&changes) {
        let _ = writeln!(io::stderr(), "{line}");
    }
    if let Ok(here) = std::env::current_dir()
        && let Ok(below) = fetched.path.strip_prefix(here)
    {
        fetched.path = below.to_owned();
    }
    let output = fetches::output(Paint::on(&io::stdout()), fetched)?;
    crate::print(format!("{}\n", output.text).as_bytes())?;
    Ok(())
}

/// Writes the fetched file to standard output. `target` has the temporary folder of the file.
///
/// Except on Windows, the folder is removed as soon as the file is open. So no temporary file is left, however
/// the program ends.
async fn write_out(
    path: PathBuf,
    target: FetchTarget,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut file = File::open(path).context("could not read the fetched file")?;
    // Windows does not remove open files, so the folder stays until the file is written. Elsewhere this drops
    // `target`, which removes the folder.
    let kept = cfg!(windows).then_some(target);
    let written = tokio::task::spawn_blocking(move || {
        let mut stdout = io::stdout().lock();
        io::copy(&mut file, &mut stdout)?;
        stdout.flush()
    });
    tokio::select! {
        written = written => written?.context("could not write to standard output"),
        () = stop.cancelled() => {
            // The thread may wait for its reader for ever, so the program ends without it.
            drop(kept);
            exit_with_error(STOPPED_BEFORE_WRITTEN)
        }
    }
}

/// The progress on standard error: a bar on a terminal, else a line every few seconds.
enum FetchProgress {
    Bars(TransferBars),
    Lines(Interval),
}

impl FetchProgress {
    fn new() -> Self {
        if io::stderr().is_terminal() {
            Self::Bars(Bars::new().transfers())
        } else {
            Self::Lines(tokio::time::interval_at(Instant::now() + LINE_INTERVAL, LINE_INTERVAL))
        }
    }

    /// Shows a new status on the bar.
    fn update(&mut self, status: &DownloadStatus) {
        if let Self::Bars(bars) = self {
            bars.show_one(status);
        }
    }

    /// Waits until the next line is due. With bars, waits for ever.
    async fn wait_until_due(&mut self) {
        match self {
            Self::Bars(_) => std::future::pending().await,
            Self::Lines(interval) => drop(interval.tick().await),
        }
    }

    /// Prints a progress line.
    fn print_line(&self, status: &DownloadStatus) {
        let line = human::downloads::line(Paint::on(&io::stderr()), status);
        let _ = writeln!(io::stderr(), "{line}");
    }
}
