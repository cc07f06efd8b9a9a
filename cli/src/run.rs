//! `peerkit run`: starts a node and carries out commands.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use peerkit::{Builder, Events, Invite, Node, SharedFile, Skipped};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::{ApiOptions, ApiServer};
use crate::args::RunArgs;
use crate::commands::line::{self, ParseError};
use crate::commands::{AnyCommand, CommandContext, CommandOrigin, CommandOutput};
use crate::console::{self, InputLine, Prompt};
use crate::event_log::EventLog;
use crate::fetches::{self, Fetches};
use crate::held_shares::HeldShares;
use crate::join::ExpectedDialFailures;
use crate::json;
use crate::lock::lock;
use crate::log::LogSwitch;
use crate::output::{Printer, PrinterThread, Sink};
use crate::progress::{Bars, ProgressSink};
use crate::session::{NodeSession, SearchResults};
use crate::settings::SettingOrigins;
use crate::signals::Interruptible;
use crate::start::{DEFAULT_NETWORK, DialableFrom, RunningNode};
use crate::terminal::Terminal;
use crate::text::{count, plain};
use crate::{environment, folders, human, invite, join, shell_words, signals, start, usage};

/// The error of a node that got neither input nor anything else to do.
const NOTHING_TO_DO: &str = "standard input is empty, and no ADDR or --share was given, so the node \
     has stopped: --headless keeps a node running without input, until SIGTERM, SIGHUP or Ctrl-C";

/// Maximum time for the last events after the node has stopped. 5 s: as long as the printer then waits for the
/// reader of the last lines.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Runs a node until a command or a signal stops it. Returns false if a command or a fetch has failed, unless
/// the commands were typed at a prompt.
pub(crate) async fn run(args: Box<RunArgs>) -> anyhow::Result<bool> {
    // Watched from the beginning, so that a signal also ends a start that is stuck.
    let stop = signals::watch()?;
    let log = LogSwitch::start();
    let shares = args.share.iter().map(|path| folders::existing(path));
    let shares: Vec<PathBuf> = shares.collect::<anyhow::Result<_>>()?;
    let targets = args.targets()?;
    if let Some(folder) = &args.downloads {
        let checked = folders::check_folder(folder);
        checked.map_err(|error| usage(format!("--downloads: {error}")))?;
    }
    if args.max_inbound == Some(0) {
        tracing::warn!("--max-inbound 0 refuses every node that connects to this one");
    }
    let api = args.api()?;
    let invite = invite::read(&args)?;
    let build = || builder(&args, invite.as_ref());
    let running = start::start(args.state.as_deref(), &args.listening.listen, build).await?;
    let run = RunSession { args, api, running, targets, bars: Bars::new(), stop };
    // Subscribed before the shares are hashed, which may take minutes, so that no event is missed.
    let node = &run.running.node;
    let events = (node.events(), EventLog::start(node, node.events()));
    let served = match run.share(&shares).await {
        Ok(shared) => run.serve(&shared, events, log).await,
        Err(error) => Err(error),
    };
    // If an error has ended `serve`, the node has not been stopped.
    run.running.node.shutdown().await;
    served
}

/// A running node, with the arguments of the command line.
struct RunSession {
    args: Box<RunArgs>,
    /// The address and the certificate of the local API, if there is to be one.
    api: Option<ApiOptions>,
    running: RunningNode,
    /// Nodes to join through.
    targets: Vec<String>,
    bars: Bars,
    stop: CancellationToken,
}

/// Returns a builder with the command line's settings.
fn builder(args: &RunArgs, invite: Option<&Invite>) -> anyhow::Result<Builder> {
    let mut config = args.listening.config(false);
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
    if let Some(seconds) = args.keep_alive {
        config.ping_after = Duration::from_secs(seconds);
    }
    let mut builder = start::builder(args.name.as_deref(), config)?
        .manual(args.manual)
        .watch(true)
        .download_folder(folders::downloads(args.downloads.as_deref()))
        .repair(args.repair);
    // Not named by default: the invite may have a name, and a node that was invited to another network needs the
    // name of that network.
    if let Some(network) = &args.network {
        builder = builder.network(network.as_str());
    }
    if let Some(invite) = invite {
        builder = builder.invite(invite.clone());
    }
    builder = builder.invite_only(args.invite_only);
    for address in args.bootstrap.iter().cloned().chain(environment::bootstrap()?) {
        builder = builder.bootstrap(address);
    }
    if let Some(file) = &args.owner {
        builder = builder.owner(peerkit::load_or_create_key(file)?);
    }
    if let Some(owner) = args.owner_id {
        builder = builder.owner_id(owner);
    }
    Ok(builder)
}

impl RunSession {
    /// Shares the files of the command line. Returns them, and the entries that were skipped.
    async fn share(&self, paths: &[PathBuf]) -> anyhow::Result<(Vec<SharedFile>, Vec<Skipped>)> {
        let (mut sharing, mut skipped) = (Vec::new(), Vec::new());
        for path in paths {
            let adding = self.running.node.share(path).on_progress(self.bars.bar("hashing"));
            tokio::select! {
                added = adding.into_future() => {
                    let added = added?;
                    skipped.extend(added.skipped);
                    sharing.push(added.shared);
                }
                // This is no error: `serve` also sees the signal, and ends as usual.
                () = self.stop.cancelled() => break,
            }
        }
        Ok((sharing, skipped))
    }

    /// Prints events and carries out commands, until the node is to stop.
    async fn serve(
        &self,
        shared: &(Vec<SharedFile>, Vec<Skipped>),
        (events, event_log): (Events, EventLog),
        log: LogSwitch,
    ) -> anyhow::Result<bool> {
        let Self { args, api, running, targets, bars, stop } = self;
        let RunningNode { node, state, .. } = running;
        let input = CommandSource::of(args);
        let found = SearchResults::default();
        let history = state.join("history");
        let (prompt, sink) = match input {
            CommandSource::Prompt => open_prompt(&history, node, &found),
            CommandSource::Lines | CommandSource::Nothing => (None, Sink::Streams),
        };
        let has_prompt = prompt.is_some();
        // Its drop restores the terminal, on every way out of this function.
        let _terminal = has_prompt.then(Terminal::save);
        let (output, writer) = Printer::start(args.json, sink, bars.clone(), stop);
        if has_prompt {
            log.through(output.clone());
        }
        let (broken, stopped) = (writer.broken(), node.clone());
        stop_when(async move { broken.cancelled().await }, stop.clone());
        // The owner of the network may stop the node.
        stop_when(async move { stopped.stopped().await }, stop.clone());
        let fetches = Fetches::default();
        let expected = ExpectedDialFailures::default();
        let session = Arc::new(NodeSession {
            node: node.clone(),
            state: state.clone(),
            found,
            log,
            origins: SettingOrigins::of(args),
            output: output.clone(),
            expected: expected.clone(),
            fetches: fetches.clone(),
            held: HeldShares::default(),
            joining: Mutex::new(None),
            first_join: CancellationToken::new(),
            event_log,
            stop: stop.clone(),
        });
        let api = match api {
            Some(options) => Some(ApiServer::start(options, state, session.clone()).await?),
            None => None,
        };
        self.greet(shared, api.as_ref(), &output).await;
        // On a terminal without line editing, bars would overwrite the line that is being typed.
        if has_prompt || (input != CommandSource::Prompt && io::stderr().is_terminal()) {
            let showing = fetches::show(node.clone(), output.clone(), bars.clone(), has_prompt);
            // Ends with the node, since the lines and bars would disturb the last events.
            tokio::spawn(stop.clone().run_until_cancelled_owned(showing));
        }
        let reported = (fetches, expected.clone());
        let printing = tokio::spawn(print(node.clone(), events, output.clone(), reported));
        let first_join = session.first_join.clone().drop_guard();
        tokio::select! {
            joining = join::begin(node, targets, &expected, &output, first_join) => {
                *lock(&session.joining) = joining;
            }
            () = stop.cancelled() => {}
        }
        if has_prompt {
            output.flush().await;
        }
        // With `Nothing` the sender is dropped at once, as if the input had ended.
        let requests = match (prompt, input) {
            (Some(prompt), _) => prompt.read(&history, node.name(), output.paint()),
            (None, CommandSource::Nothing) => mpsc::channel(1).1,
            (None, _) => console::read_lines(),
        };
        let at_prompt = input == CommandSource::Prompt;
        let origin = if at_prompt { CommandOrigin::Prompt } else { CommandOrigin::Pipe };
        let progress = ProgressSink::Bars(bars.clone());
        let paint = session.output.paint();
        let context = CommandContext { session: &session, progress, paint, origin };
        let done = run_commands(&context, requests).await;
        // A headless node continues after the end of its input, until it is asked to stop.
        if args.headless && done.last.is_none() {
            stop.cancelled().await;
        }
        let is_idle = targets.is_empty() && args.share.is_empty() && !args.headless;
        let is_idle = is_idle && done.no_input && input == CommandSource::Lines;
        let is_idle = is_idle && !stop.is_cancelled();
        let ok = done.ok && !session.fetches.any_failed();
        // While this line exists, the thread of the prompt waits. If it were dropped, the thread would show the
        // next prompt, and change the settings of the terminal while they are being restored.
        std::mem::forget(done.last);
        end(&context, printing, writer, api).await?;
        if is_idle {
            return Err(usage(NOTHING_TO_DO));
        }
        // At a prompt, failed commands do not count: the user has seen their errors.
        Ok(ok || at_prompt)
    }

    /// Prints the name of this node, its addresses, and the command that joins it.
    async fn greet(
        &self,
        (sharing, skipped): &(Vec<SharedFile>, Vec<Skipped>),
        api: Option<&ApiServer>,
        output: &Printer,
    ) {
        let running = &self.running;
        if output.is_json() {
            output.text(json::started(running, sharing, skipped, api.map(ApiServer::url))).await;
            return;
        }
        let RunningNode { node, state, notes } = running;
        let paint = output.paint();
        let mut text = format!(
            "{} is up in network {}\n",
            paint.name(&plain(node.name())),
            paint.strong(&plain(node.network().name())),
        );
        let mut line = |key: &str, value: &str| {
            let _ = writeln!(text, "  {} {value}", paint.faint(key));
        };
        line("id     ", &node.id().to_string());
        line("listens", &start::addresses(node));
        line("state  ", &plain(&state.to_string_lossy()));
        if let Some(api) = api {
            line("api    ", &api.url());
        }
        for file in sharing {
            line("shares ", &human::files::file_line(paint, file));
        }
        for line in human::files::skipped_lines(paint, skipped) {
            let _ = writeln!(text, "  {line}");
        }
        text += &start::note_lines(paint, notes);
        if let Some(line) = join_command(&self.args, node) {
            let secret = match environment::secret() {
                Ok(Some(_)) => " (with the same PEERKIT_SECRET)",
                _ => "",
            };
            let verb = if self.args.manual { "connect" } else { "join" };
            let from = match DialableFrom::of(&node.addresses()) {
                DialableFrom::ThisMachineOnly => "this machine",
                DialableFrom::AnyMachine => "another machine",
            };
            let _ = writeln!(text, "To {verb} from {from}{secret}: {}", paint.good(&line));
        }
        if node.network().is_invite_only() {
            let hint = "This network takes invited nodes only: `invite` makes an invite at the owner's node.";
            let _ = writeln!(text, "{hint}");
        }
        let resuming = running.resuming();
        if resuming > 0 {
            let _ = writeln!(text, "Continuing {} of earlier runs", count(resuming, "fetch"));
        }
        if CommandSource::of(&self.args) == CommandSource::Prompt {
            let hint = paint.faint("`help` lists the commands, Ctrl-D stops the node.");
            let _ = writeln!(text, "{hint}");
        }
        output.text(text).await;
    }
}

/// Stops the node of a session, and prints its last events. The API ends after the node, so that its clients see
/// that the node is stopping and get the last events.
async fn end(
    context: &CommandContext<'_>,
    printing: JoinHandle<()>,
    writer: PrinterThread,
    api: Option<ApiServer>,
) -> anyhow::Result<()> {
    let NodeSession { node, output, fetches, .. } = context.session;
    if context.origin == CommandOrigin::Prompt {
        output.text(fetches::at_next_start(&node.files().downloads())).await;
    }
    if let Some(api) = &api {
        api.withdraw();
    }
    node.shutdown().await;
    // Both end soon after the node has stopped, unless the reader of the output is slow.
    let last = async { tokio::join!(printing, fetches.wait_until_reported()) };
    let last = tokio::time::timeout(LAST_EVENTS, last);
    let closing = async {
        if let Some(api) = api {
            api.stop().await;
        }
    };
    let _ = tokio::join!(last, closing);
    // Prints the totals of the uploads, unless there were none.
    output.stopped(node, false).await;
    writer.finish().await.context("could not write to standard output")
}

/// Opens the prompt and its printer. If the terminal has no line editing, lines are printed
/// plainly.
fn open_prompt(history: &Path, node: &Node, found: &SearchResults) -> (Option<Prompt>, Sink) {
    match Prompt::open(history, node.clone(), found.clone()) {
        Ok((prompt, printer)) => (Some(prompt), Sink::Prompt(printer)),
        Err(error) => {
            tracing::debug!(%error, "no line editing on this terminal");
            (None, Sink::Streams)
        }
    }
}

/// The source of the commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CommandSource {
    Prompt,
    Lines,
    Nothing,
}

impl CommandSource {
    fn of(args: &RunArgs) -> Self {
        let typed = io::stdin().is_terminal();
        match (args.headless, args.json) {
            // A background process that reads from the terminal is stopped by the system.
            (true, _) if typed => Self::Nothing,
            (false, false) if typed && io::stdout().is_terminal() => Self::Prompt,
            _ => Self::Lines,
        }
    }
}

/// The outcome of all commands of a run.
struct CommandsDone {
    /// True if none of them has failed.
    ok: bool,
    /// The command that stops the node.
    last: Option<InputLine>,
    /// True if the input ended before the first line.
    no_input: bool,
}

/// Notes that the signal to stop has ended a command or a fetch. Returns true if the signal was SIGINT: the run
/// then counts as failed, and its exit status is that of an interrupt.
fn note_unfinished_work() -> bool {
    signals::note_unfinished_work();
    signals::was_work_interrupted()
}

/// Carries out commands, one at a time, until there are no more or one stops the node.
async fn run_commands(
    context: &CommandContext<'_>,
    mut requests: mpsc::Receiver<InputLine>,
) -> CommandsDone {
    let NodeSession { output, stop, .. } = context.session;
    let at_prompt = context.origin == CommandOrigin::Prompt;
    let mut done = CommandsDone { ok: true, last: None, no_input: true };
    loop {
        let request = tokio::select! {
            biased;
            // Polled first: a script must not go on after the signal.
            () = stop.cancelled() => {
                // A timeout of zero polls once: it finds out whether a fetch is under way, without waiting
                // for the fetch. If none is, the signal has ended nothing, and the run does not fail.
                let idle = tokio::time::timeout(Duration::ZERO, context.wait_for_fetches()).await;
                done.ok &= idle.is_ok() || !note_unfinished_work();
                return done;
            }
            request = requests.recv() => request,
        };
        let Some(request) = request else {
            tokio::select! {
                () = context.wait_for_fetches() => {}
                () = stop.cancelled() => done.ok &= at_prompt || !note_unfinished_work(),
            }
            return done;
        };
        done.no_input = false;
        if request.is_from_prompt() {
            output.note_line_typed().await;
        }
        let parsed = request.line.as_deref().map_err(ParseError::clone).and_then(line::read);
        let (name, result, stops) = match parsed {
            Ok(None) => continue,
            Ok(Some((spec, command))) => {
                let Some(result) = carry_out(context, command.as_ref()).await else {
                    let stopped = Err(anyhow!("stopped before the command was done"));
                    output.result(spec.name, stopped).await;
                    done.ok &= at_prompt || !note_unfinished_work();
                    return done;
                };
                (spec.name.to_owned(), result, spec.stops)
            }
            Err(error) => (error.command, Err(anyhow!(error.message)), false),
        };
        let worked = result.as_ref().is_ok_and(|output| output.is_complete);
        done.ok &= worked;
        if !result.as_ref().is_ok_and(|output| output.is_reported_later) {
            output.result(&name, result).await;
        }
        // The result has to be on the screen before the prompt comes back.
        if request.is_from_prompt() {
            output.flush().await;
        }
        if stops && worked {
            return CommandsDone { last: Some(request), ..done };
        }
    }
}

/// Carries out a command. At a prompt, SIGINT ends the command. Returns `None` if the node has to stop
/// before the command is done.
async fn carry_out(
    context: &CommandContext<'_>,
    command: &dyn AnyCommand,
) -> Option<anyhow::Result<CommandOutput>> {
    let interruptible = (context.origin == CommandOrigin::Prompt).then(Interruptible::start);
    let interrupted = async {
        match &interruptible {
            Some(command) => command.interrupted().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        // Polled first, so that a command that is done is never reported as interrupted.
        result = command.run(context) => Some(result.and_then(|output| command.finish(output))),
        () = interrupted => Some(Err(anyhow!("interrupted before the command was done"))),
        () = context.session.stop.cancelled() => None,
    }
}

/// Prints events. Text output leaves out two kinds of events: ends of fetches and failed dials, if the result of
/// a command or another line reports them.
async fn print(
    node: Node,
    mut events: Events,
    output: Printer,
    (fetches, expected): (Fetches, ExpectedDialFailures),
) {
    while let Some(event) = events.next().await {
        let is_reported = fetches.reports(&event) || expected.reports(&event);
        if output.is_json() || !is_reported {
            output.event(&node, &event).await;
        }
    }
}

/// Returns the command with which another node joins this one, or links to it if `--manual` is given.
/// Returns `None` if no node may connect.
fn join_command(args: &RunArgs, node: &Node) -> Option<String> {
    if args.max_inbound == Some(0) {
        return None;
    }
    let address = start::best_address(&node.addresses())?.clone().without_id();
    let mut line = "peerkit run".to_owned();
    if args.manual {
        line.push_str(" --manual");
    }
    // A shell may read the brackets of an IPv6 address as a pattern.
    line.push_str(&format!(" {}", shell_words::quote(&address.to_string())));
    let network = node.network();
    if network.is_invite_only() {
        return None;
    }
    if network.name() != DEFAULT_NETWORK {
        line.push_str(&format!(" {}", shell_words::option("--network", network.name())));
    }
    Some(line)
}

/// Cancels `then` when `first` has ended.
fn stop_when(first: impl Future<Output = ()> + Send + 'static, then: CancellationToken) {
    tokio::spawn(async move {
        first.await;
        then.cancel();
    });
}
