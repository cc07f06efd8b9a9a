//! `peerkit run`: a node, and the commands that it is given.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use peerkit::{Builder, Config, Node, SharedFile};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::args::RunArgs;
use crate::command::{Command, ParseError};
use crate::console::{self, Line, Prompt, Request};
use crate::execute::{Found, Session};
use crate::fetches::{self, Fetches};
use crate::join::Expected;
use crate::json::{self, Started};
use crate::log::Log;
use crate::outcome::{Outcome, SkippedView};
use crate::output::{Output, Sink, Writer};
use crate::progress::Bars;
use crate::signals::Interruptible;
use crate::start::{Reach, Running};
use crate::terminal::Terminal;
use crate::text::plain;
use crate::{Usage, folders, host, human, join, signals, start, words};

/// Why a node that has nothing to do ends.
const NOTHING_TO_DO: &str = "standard input is empty, and there is nothing else to do: --headless \
     keeps the node running without it, until SIGTERM, SIGHUP or Ctrl-C";

/// How long the last events may take to come out after the node has stopped: as long as the output.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Runs a node until it is told to stop. False where a command failed that was not typed at a
/// prompt.
pub(crate) async fn run(args: Box<RunArgs>) -> anyhow::Result<bool> {
    let stop = CancellationToken::new();
    signals::watch(&stop)?;
    let log = Log::start();
    let shares = args.share.iter().map(|path| folders::existing(path));
    let shares: Vec<PathBuf> = shares.collect::<anyhow::Result<_>>()?;
    let places = args.places()?;
    if let Some(folder) = &args.downloads {
        let checked = folders::check_folder(folder);
        checked.map_err(|error| Usage(format!("--downloads: {error}")))?;
    }
    if args.max_inbound == Some(0) {
        tracing::warn!("--max-inbound 0 refuses every node that connects to this one");
    }
    let running =
        start::start(args.state.as_deref(), &args.listening.listen, || builder(&args)).await?;
    let outcome = serve(&args, &running, (&places, &shares), log, &stop).await;
    running.node.shutdown().await;
    let (ok, ending) = outcome?;
    ending.wait(&running.node).await?;
    Ok(ok)
}

/// What is left to do once the node has stopped.
struct Ending {
    events: JoinHandle<()>,
    fetches: Fetches,
    output: Output,
    writer: Writer,
    /// The line that stopped the node.
    last: Option<Request>,
    /// It was started for nothing.
    is_idle: bool,
    _terminal: Option<Terminal>,
}

impl Ending {
    async fn wait(self, node: &Node) -> anyhow::Result<()> {
        // Its prompt must not come back: the terminal's settings would be changed once more while
        // they are put back.
        std::mem::forget(self.last);
        let last = async { tokio::join!(self.events, self.fetches.ended()) };
        let _ = tokio::time::timeout(LAST_EVENTS, last).await;
        self.output.stopped(node, false).await;
        let written = self.writer.finish().await;
        written.context("could not write to standard output")?;
        match self.is_idle {
            true => Err(Usage(NOTHING_TO_DO.to_owned()).into()),
            false => Ok(()),
        }
    }
}

/// Returns a builder with the command line's settings.
fn builder(args: &RunArgs) -> anyhow::Result<Builder> {
    let mut config = Config::default();
    config.upload_rate = args.up.unwrap_or(config.upload_rate);
    config.download_rate = args.down.unwrap_or(config.download_rate);
    config.peer_upload_rate = args.peer_up.unwrap_or(config.peer_upload_rate);
    config.peer_download_rate = args.peer_down.unwrap_or(config.peer_download_rate);
    config.message_rate = args.messages.unwrap_or(config.message_rate);
    config.peer_message_rate = args.peer_messages.unwrap_or(config.peer_message_rate);
    config.broadcast_rate = args.broadcasts.unwrap_or(config.broadcast_rate);
    config.peer_receive_rate = args.peer_receive.unwrap_or(config.peer_receive_rate);
    config.max_downloads = args.max_downloads.unwrap_or(config.max_downloads);
    config.max_inbound = args.max_inbound.unwrap_or(config.max_inbound);
    config.announce.clone_from(&args.listening.announce);
    config.announce_only = args.listening.announce_only;
    let mut builder = Node::builder()
        .config(config)
        .name(args.name.clone().unwrap_or_else(host::name))
        .network(args.network.as_str())
        .manual(args.manual)
        .watch(true)
        .download_folder(folders::downloads(args.downloads.as_deref()))
        .repair(args.repair);
    for address in args.bootstrap.iter().cloned().chain(host::bootstrap()?) {
        builder = builder.bootstrap(address);
    }
    if let Some(secret) = host::secret()? {
        builder = builder.secret(secret);
    }
    if let Some(file) = &args.owner {
        builder = builder.owner(peerkit::load_or_create_key(file)?);
    }
    if let Some(owner) = args.owner_id {
        builder = builder.owner_id(owner);
    }
    Ok(builder)
}

async fn serve(
    args: &RunArgs,
    running: &Running,
    (places, shares): (&[String], &[PathBuf]),
    log: Log,
    stop: &CancellationToken,
) -> anyhow::Result<(bool, Ending)> {
    let Running { node, state, .. } = running;
    let events = node.events();
    let bars = Bars::new();
    let mut sharing = Vec::new();
    let mut skipped: Vec<SkippedView> = Vec::new();
    for path in shares {
        let adding = node.share(path).on_progress(bars.bar("hashing")).into_future();
        tokio::select! {
            added = adding => {
                let added = added?;
                skipped.extend(added.skipped.into_iter().map(SkippedView::from));
                sharing.push(added.shared);
            }
            () = stop.cancelled() => break,
        }
    }
    let input = Input::of(args);
    let found = Found::default();
    let history = state.join("history");
    let (prompt, sink) = match input {
        Input::Prompt => open_prompt(&history, node, &found),
        Input::Lines | Input::Nothing => (None, Sink::Streams),
    };
    let terminal = prompt.as_ref().map(|_| Terminal::remember());
    let (output, writer) = Output::start(args.json, sink, bars.clone(), stop);
    if prompt.is_some() {
        log.through(output.clone());
    }
    let (broken, stopped) = (writer.broken(), node.clone());
    stop_when(async move { broken.cancelled().await }, stop.clone());
    // As when the network's owner stops it.
    stop_when(async move { stopped.stopped().await }, stop.clone());
    greet(args, running, (&sharing, &skipped), &output).await;
    let fetches = Fetches::default();
    let above_prompt = prompt.is_some();
    if above_prompt || (input != Input::Prompt && io::stderr().is_terminal()) {
        let showing = fetches::show(node.clone(), output.clone(), bars.clone(), above_prompt);
        let stop = stop.clone();
        tokio::spawn(async move { stop.run_until_cancelled_owned(showing).await });
    }
    let expected = Expected::default();
    let reported = (fetches.clone(), expected.clone());
    let printing = tokio::spawn(print(node.clone(), events, output.clone(), reported));
    let joining = tokio::select! {
        joining = join::begin(node, places, &expected, &output) => joining,
        () = stop.cancelled() => None,
    };
    if prompt.is_some() {
        output.settle().await;
    }
    let requests = match (prompt, input) {
        (Some(prompt), _) => prompt.read(&history, node.name(), output.paint()),
        (None, Input::Nothing) => mpsc::channel(1).1,
        (None, _) => console::read_lines(),
    };
    let session = Session {
        node: node.clone(),
        state: state.clone(),
        found,
        log,
        bars,
        output: output.clone(),
        at_prompt: input == Input::Prompt,
        expected,
        fetches: fetches.clone(),
        joining,
    };
    let Obeyed { ok, last, nothing_came } = obey(&session, requests, &output, stop).await;
    if args.headless && last.is_none() {
        stop.cancelled().await;
    }
    let is_idle = places.is_empty() && args.share.is_empty() && !args.headless;
    let is_idle = is_idle && nothing_came && input == Input::Lines && !stop.is_cancelled();
    let ok = ok && !fetches.failed();
    let downloads = node.files().downloads();
    if session.at_prompt {
        output.text(fetches::at_next_start(&downloads)).await;
    }
    let (events, _terminal) = (printing, terminal);
    let ending = Ending { events, fetches, output, writer, last, is_idle, _terminal };
    Ok((ok || input == Input::Prompt, ending))
}

/// A prompt and what prints above it; plain lines where the terminal can't move its cursor.
fn open_prompt(history: &Path, node: &Node, found: &Found) -> (Option<Prompt>, Sink) {
    match Prompt::open(history, node.clone(), found.clone()) {
        Ok((prompt, printer)) => (Some(prompt), Sink::Prompt(printer)),
        Err(error) => {
            tracing::debug!(%error, "no line editing on this terminal");
            (None, Sink::Streams)
        }
    }
}

/// Where commands come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Prompt,
    Lines,
    Nothing,
}

impl Input {
    fn of(args: &RunArgs) -> Self {
        let typed = io::stdin().is_terminal();
        match (args.headless, args.json) {
            // In the background, reading from the terminal would stop the process.
            (true, _) if typed => Self::Nothing,
            (false, false) if typed && io::stdout().is_terminal() => Self::Prompt,
            _ => Self::Lines,
        }
    }
}

/// The outcome of all commands.
struct Obeyed {
    /// None of them failed.
    ok: bool,
    /// The one that stops the node.
    last: Option<Request>,
    /// There was not even an empty line.
    nothing_came: bool,
}

/// Notes that SIGINT, if it was that, has ended a command or a fetch. Returns whether it was.
fn cut_short() -> bool {
    signals::cut_short();
    signals::was_cut_short()
}

/// Carries out commands, one at a time, until there are no more or one stops the node.
async fn obey(
    session: &Session,
    mut requests: mpsc::Receiver<Request>,
    output: &Output,
    stop: &CancellationToken,
) -> Obeyed {
    let mut obeyed = Obeyed { ok: true, last: None, nothing_came: true };
    loop {
        let request = tokio::select! {
            biased;
            () = stop.cancelled() => {
                let settled = tokio::time::timeout(Duration::ZERO, session.fetches_settled()).await;
                obeyed.ok &= settled.is_ok() || !cut_short();
                return obeyed;
            }
            request = requests.recv() => request,
        };
        let Some(request) = request else {
            tokio::select! {
                () = session.fetches_settled() => {}
                () = stop.cancelled() => obeyed.ok &= session.at_prompt || !cut_short(),
            }
            return obeyed;
        };
        obeyed.nothing_came = false;
        if request.is_waited_for() {
            output.typed().await;
        }
        let parsed = match &request.line {
            Line::Text(line) => Command::parse(line),
            Line::Unreadable { command, why } => {
                Err(ParseError { command: command.clone(), message: why.clone() })
            }
        };
        let (name, result, stops) = match parsed {
            Ok(None) => continue,
            Ok(Some(command)) => {
                let name = command.name().to_owned();
                let stops = matches!(command, Command::Exit | Command::Shutdown);
                let interruptible = session.at_prompt.then(Interruptible::start);
                let interrupted = async {
                    match &interruptible {
                        Some(command) => command.interrupted().await,
                        None => std::future::pending().await,
                    }
                };
                let result = tokio::select! {
                    biased;
                    result = session.execute(command) => result,
                    () = interrupted => Err(anyhow::anyhow!("interrupted before it was done")),
                    () = stop.cancelled() => {
                        let stopped = Err(anyhow::anyhow!("stopped before it was done"));
                        output.result(&name, &stopped).await;
                        obeyed.ok &= session.at_prompt || !cut_short();
                        return obeyed;
                    }
                };
                (name, result, stops)
            }
            Err(error) => (error.command, Err(anyhow::anyhow!(error.message)), false),
        };
        obeyed.ok &= result.is_ok();
        // The result of a fetch is told when it is done; that it has begun, to who typed it.
        if session.at_prompt || !matches!(result, Ok(Outcome::Begun { .. })) {
            output.result(&name, &result).await;
        }
        if request.is_waited_for() {
            output.settle().await;
        }
        if stops && result.is_ok() {
            return Obeyed { last: Some(request), ..obeyed };
        }
    }
}

/// Prints events, but in text none that something else reports.
async fn print(
    node: Node,
    mut events: peerkit::Events,
    output: Output,
    (fetches, expected): (Fetches, Expected),
) {
    while let Some(event) = events.next().await {
        let is_told = fetches.tells(&event) || expected.takes(&event);
        if !is_told || output.is_json() {
            output.event(&node, &event).await;
        }
    }
}

/// Prints who this node is and how to reach it.
async fn greet(
    args: &RunArgs,
    running: &Running,
    (sharing, skipped): (&[SharedFile], &[SkippedView]),
    output: &Output,
) {
    if output.is_json() {
        output.text(json::line(&Started::new(running, sharing, skipped))).await;
        return;
    }
    let Running { node, state, notes } = running;
    let paint = output.paint();
    let mut text = format!(
        "{} is up in network {}\n  {} {}\n  {} {}\n  {} {}\n",
        paint.name(&plain(node.name())),
        paint.strong(&plain(node.network().name())),
        paint.faint("id     "),
        node.id(),
        paint.faint("listens"),
        start::addresses(node),
        paint.faint("state  "),
        plain(&state.to_string_lossy()),
    );
    for shared in sharing {
        text.push_str(&format!(
            "  {} {}\n",
            paint.faint("shares "),
            human::file_line(paint, shared)
        ));
    }
    for line in human::skipped_lines(paint, skipped) {
        text.push_str(&format!("  {line}\n"));
    }
    for note in notes {
        text.push_str(&format!("{} {}\n", paint.strong("note:"), plain(note)));
    }
    if let Some(line) = line_to_join(args, node) {
        let secret = match host::secret() {
            Ok(Some(_)) => " (with the same PEERKIT_SECRET)",
            _ => "",
        };
        let verb = if args.manual { "connect" } else { "join" };
        let from = match Reach::of(&node.addresses()) {
            Reach::ThisMachine => "this machine",
            Reach::Others => "another machine",
        };
        text.push_str(&format!("To {verb} from {from}{secret}: {}\n", paint.good(&line)));
    }
    let unfinished = node.files().downloads();
    let unfinished = unfinished.iter().filter(|download| download.state.is_under_way()).count();
    if unfinished > 0 {
        text.push_str(&format!("Going on with {} from before\n", fetches::number(unfinished)));
    }
    if Input::of(args) == Input::Prompt {
        text.push_str(&paint.faint("`help` lists the commands, Ctrl-D leaves."));
        text.push('\n');
    }
    output.text(text).await;
}

/// The line that makes another node join this one, or, if links are made by hand, connect to it. None
/// if no node may connect.
fn line_to_join(args: &RunArgs, node: &Node) -> Option<String> {
    if args.max_inbound == Some(0) {
        return None;
    }
    let address = start::best(&node.addresses())?.clone().without_id();
    let mut line = "peerkit run".to_owned();
    if args.manual {
        line.push_str(" --manual");
    }
    // A shell may take the brackets of an IPv6 address for a pattern.
    line.push_str(&format!(" {}", words::quote(&address.to_string())));
    if args.network != "peerkit" {
        line.push_str(&format!(" {}", words::option("--network", &args.network)));
    }
    Some(line)
}

fn stop_when(first: impl Future<Output = ()> + Send + 'static, then: CancellationToken) {
    tokio::spawn(async move {
        first.await;
        then.cancel();
    });
}
