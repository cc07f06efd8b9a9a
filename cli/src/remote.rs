//! `peerkit COMMAND`: makes the running node carry out a command, through its API.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::{ArgMatches, Args, FromArgMatches as _, ValueHint};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use peerkit::{HashProgress, NodeId};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::api::{self, ApiFile};
use crate::commands::endpoint::ApiRequest;
use crate::commands::{self, AnyCommand, CommandOutput, CommandSpec};
use crate::progress::{Bars, PrintedLine, ProgressReport, ProgressSink, TransferBars};
use crate::text::Paint;
use crate::{folders, json, signals, usage};

mod connect;

/// The environment variable with the token for `--node`.
const TOKEN: &str = "PEERKIT_TOKEN";

/// Maximum size of one event. 64 MiB: a map of a network of 100,000 nodes.
const MAX_EVENT: usize = 64 << 20;

/// Maximum size of a problem. 1 MiB: far more than any error text.
const MAX_PROBLEM: usize = 1 << 20;

/// The options of every command for a running node.
#[derive(Debug, Args)]
pub(crate) struct RemoteArgs {
    /// The state folder of the node [default: the XDG data folder, ~/.local/share/peerkit]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    state: Option<PathBuf>,

    /// The URL of the node's API: with https, or with http on this machine.
    /// Its token is in PEERKIT_TOKEN
    #[arg(long, value_name = "URL", conflicts_with = "state")]
    node: Option<String>,

    /// Print the result as a JSON line, and nothing else on standard output
    #[arg(long)]
    json: bool,
}

/// Carries out a command that was typed in a shell. Returns false if the command failed and its error was
/// printed, or if it did only a part of its task.
pub(crate) async fn run(spec: &CommandSpec, matches: &ArgMatches) -> anyhow::Result<bool> {
    let stop = signals::watch()?;
    signals::note_started();
    let args = RemoteArgs::from_arg_matches(matches).map_err(|error| usage(error.to_string()))?;
    let mut command = (spec.from_matches)(matches).map_err(|error| usage(error.to_string()))?;
    command.prepare()?;
    if spec.works_alone
        && args.node.is_none()
        && running_node(&folders::state(args.state.as_deref())?).await.is_none()
    {
        let progress = ProgressSink::Bars(Bars::new());
        let running = command.run_alone(progress, Paint::on(&io::stdout()));
        return print_outcome(spec.name, running, args.json, &stop).await;
    }
    let api = find(&args)?;
    print_result(spec.name, &api, command.as_ref(), args.json, &stop).await
}

/// Makes a node carry out a command, and prints the result. If `stop` is cancelled, the node ends the command
/// early. Returns false if the command failed and its error was printed, or if it did only a part of its task.
pub(crate) async fn print_result(
    name: &str,
    api: &ApiFile,
    command: &dyn AnyCommand,
    is_json: bool,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    // Dropping the connection ends the command at the node.
    print_outcome(name, carry_out(api, command, is_json), is_json, stop).await
}

/// Waits for a command, and prints its result. If `stop` is cancelled, drops the command. Returns as
/// [`print_result`] does.
async fn print_outcome(
    name: &str,
    command: impl Future<Output = anyhow::Result<CommandOutput>>,
    is_json: bool,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let result = tokio::select! {
        biased;
        () = stop.cancelled() => {
            signals::note_unfinished_work();
            Err(anyhow!("stopped before the command was done"))
        }
        result = command => result,
    };
    let is_complete = result.as_ref().is_ok_and(|output| output.is_complete);
    if is_json {
        crate::print(json::result(name, &result).as_bytes())?;
    } else {
        crate::print(format!("{}\n", result?.text.trim_end()).as_bytes())?;
    }
    Ok(is_complete)
}

/// A running node that uses a state folder.
pub(crate) struct NodeApi {
    pub(crate) api: ApiFile,
    pub(crate) id: NodeId,
    pub(crate) name: String,
    /// The name of its network.
    pub(crate) network: String,
}

/// Returns the running node that uses a state folder. Returns `None` if there is none, or if its API is off.
pub(crate) async fn running_node(state: &Path) -> Option<NodeApi> {
    #[derive(Deserialize)]
    struct StatusAnswer {
        status: StatusPart,
    }
    #[derive(Deserialize)]
    struct StatusPart {
        id: NodeId,
        name: String,
        network: String,
    }
    let api: ApiFile = serde_json::from_slice(&fs::read(state.join(api::FILE)).ok()?).ok()?;
    let output = carry_out(&api, &commands::status::StatusArgs {}, false).await.ok()?;
    let StatusAnswer { status } = serde_json::from_str(output.fields.get()).ok()?;
    Some(NodeApi { api, id: status.id, name: status.name, network: status.network })
}

/// Returns the API of the node that the options select.
fn find(args: &RemoteArgs) -> anyhow::Result<ApiFile> {
    if let Some(url) = &args.node {
        let token = env::var(TOKEN).map_err(|_| {
            usage(format!("--node needs the token of that API in {TOKEN}: its api.json has it"))
        })?;
        let url = url.trim_end_matches('/').to_owned();
        let read_token = String::new();
        return Ok(ApiFile { url, token, read_token, certificate_sha256: None });
    }
    let state = folders::state(args.state.as_deref())?;
    let file = state.join(api::FILE);
    match fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
            format!("{} is damaged, and the node writes it at its next start", file.display())
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(no_node(&state)),
        Err(error) => Err(error).with_context(|| format!("can't read {}", file.display())),
    }
}

fn no_node(state: &Path) -> anyhow::Error {
    anyhow!(
        "no running node uses {} (it has no {}): `peerkit run` starts a node, and --state DIR selects \
         another folder",
        state.display(),
        api::FILE
    )
}

/// Makes a node carry out a command, and shows the progress. Lines that the command reports are printed, in
/// JSON if `is_json`. Returns the output of the command.
pub(crate) async fn carry_out(
    api: &ApiFile,
    command: &dyn AnyCommand,
    is_json: bool,
) -> anyhow::Result<CommandOutput> {
    let request = command.request().context("this command works only at the prompt")?;
    let mut response = send(api, &request).await?;
    let mut bar = RemoteBar::new();
    let mut events = EventReader::default();
    if !response.status().is_success() {
        let problem = Limited::new(response.into_body(), MAX_PROBLEM).collect().await;
        // One that is too large is not from the API of a node.
        return Err(problem_error(&problem.map(|body| body.to_bytes()).unwrap_or_default()));
    }
    while let Some(frame) = response.body_mut().frame().await {
        let frame = frame.context("the node stopped before the command was done")?;
        let Some(bytes) = frame.data_ref() else { continue };
        for (event, data) in events.read(bytes)? {
            match event.as_str() {
                "progress" => bar.show(&data),
                "line" => {
                    let PrintedLine { text, json } = serde_json::from_str(&data)?;
                    let line = if is_json { json } else { text.unwrap_or(json) };
                    bar.bars.while_hidden(|| crate::print(format!("{line}\n").as_bytes()))?;
                }
                "result" => {
                    drop(bar);
                    return command.finish(serde_json::from_str(&data)?);
                }
                "error" => return Err(problem_error(data.as_bytes())),
                // Ignored: later versions may send further kinds of events.
                _ => {}
            }
        }
    }
    bail!("the node stopped before the command was done")
}

/// Returns the error that a problem (RFC 9457) describes.
fn problem_error(body: &[u8]) -> anyhow::Error {
    #[derive(Deserialize)]
    struct Detail {
        detail: String,
    }
    match serde_json::from_slice::<Detail>(body) {
        Ok(Detail { detail }) => anyhow!(detail),
        Err(_) => anyhow!("the server at this address is not the API of a peerkit node"),
    }
}

async fn send(api: &ApiFile, request: &ApiRequest) -> anyhow::Result<Response<Incoming>> {
    let (stream, host) = connect::connect(api).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut head = Request::builder()
        .method(request.method.name())
        .uri(&request.target)
        .header(HOST, host)
        .header(AUTHORIZATION, format!("Bearer {}", api.token))
        .header(ACCEPT, "text/event-stream");
    if Paint::on(&io::stdout()).is_on() {
        head = head.header(api::COLOUR_HEADER, "1");
    }
    let body = match &request.body {
        Some(body) => {
            head = head.header(CONTENT_TYPE, "application/json");
            Full::new(Bytes::from(serde_json::to_vec(body)?))
        }
        None => Full::default(),
    };
    Ok(sender.send_request(head.body(body)?).await?)
}

/// A reader of the server-sent events that the API sends.
#[derive(Default)]
struct EventReader {
    /// The bytes of an event whose end has not come.
    pending: Vec<u8>,
    /// Number of these bytes in which the end of the event was looked for already. Without it, the start of a
    /// large event would be searched again for each of its thousands of frames.
    searched: usize,
}

impl EventReader {
    /// Reads bytes of the stream. Returns the names and data of the events that end in them.
    fn read(&mut self, bytes: &[u8]) -> anyhow::Result<Vec<(String, String)>> {
        self.pending.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.end_of_event() {
            let event: Vec<u8> = self.pending.drain(..end).collect();
            let (mut name, mut data) = (String::new(), Vec::new());
            for line in String::from_utf8_lossy(&event).lines() {
                match line.split_once(':') {
                    Some(("event", value)) => value.trim_start().clone_into(&mut name),
                    Some(("data", value)) => data.push(value.trim_start().to_owned()),
                    // A comment, which keeps the connection open.
                    _ => {}
                }
            }
            if !name.is_empty() {
                events.push((name, data.join("\n")));
            }
        }
        if self.pending.len() > MAX_EVENT {
            bail!("the node has sent an event of more than {MAX_EVENT} bytes");
        }
        Ok(events)
    }
}

impl EventReader {
    /// Returns the length of the first event, with the empty line at its end; `None` if its end has not come.
    fn end_of_event(&mut self) -> Option<usize> {
        let left = self.pending.get(self.searched..).unwrap_or_default();
        let end = left.windows(2).position(|two| two == b"\n\n").map(|at| self.searched + at + 2);
        // The last byte may be the first half of an end.
        self.searched = if end.is_some() { 0 } else { self.pending.len().saturating_sub(1) };
        end
    }
}

/// The bar of a command that a node carries out, on standard error if that is a terminal.
struct RemoteBar {
    bars: Bars,
    hashing: Option<Box<dyn FnMut(HashProgress) + Send>>,
    transfer: TransferBars,
}

impl RemoteBar {
    fn new() -> Self {
        let bars = Bars::new();
        Self { transfer: bars.transfers(), bars, hashing: None }
    }

    fn show(&mut self, data: &str) {
        let Ok(ProgressReport { done, total, line }) = serde_json::from_str(data) else { return };
        match line {
            Some(line) => self.transfer.show_line(done, total, line),
            None => {
                let bars = &self.bars;
                let show = self.hashing.get_or_insert_with(|| Box::new(bars.bar("hashing")));
                show(HashProgress { done, total });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_however_it_is_split() {
        let stream =
            b": keep-alive\n\nevent: line\ndata: {\"a\":1}\n\nevent: result\ndata: x\ndata: y\n\n";
        let expected = [("line", "{\"a\":1}"), ("result", "x\ny")];
        for size in 1..=stream.len() {
            let mut reader = EventReader::default();
            let parts = stream.chunks(size);
            let events: Vec<_> = parts.flat_map(|part| reader.read(part).unwrap()).collect();
            let events: Vec<_> =
                events.iter().map(|(name, data)| (name.as_str(), data.as_str())).collect();
            assert_eq!(events, expected, "parts of {size}");
        }
    }
}
