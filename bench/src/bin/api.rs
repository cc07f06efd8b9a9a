//! Measures the cost of the program's local API: `api PROGRAM [SECONDS]`. PROGRAM is the program `peerkit`.
//!
//! The first part measures the throughput of messages between a node in this process and a running
//! `peerkit run`, in turns with and without 100 clients of its API. Each client asks for the status once a
//! second, and in some cases it also holds a stream of events, and reads it or does not. A node that receives has
//! an event for each message, and sends it to each stream. A node that sends has none. The clients run on the
//! same processors. So there is a third turn as a control: the same clients ask a server in another process that
//! always gives the same answer. The second part measures the processor time of an idle node with and without
//! API. Each case prints a line of JSON. Needs Linux, for `/proc`.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, process};

use anyhow::{Context as _, Result, bail, ensure};
use peerkit::{Node, Sender};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

/// Number of clients.
const CLIENTS: u32 = 100;

/// Interval between two requests of one client.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Size of a message.
const MESSAGE: usize = 1024;

/// Size of the answers of the control. 1.5 KiB: a status with one link has about as much.
const ANSWER: usize = 1536;

/// The argument with which this program is the server of the control.
const CONTROL: &str = "--control";

/// Number of rounds. Each measures the throughput without clients, with those of the control, and with those of
/// the API.
const ROUNDS: usize = 7;

/// Time before each measurement, in which the clients connect and the queues settle. 1.5 s: the clients
/// connect within the first second.
const SETTLE: Duration = Duration::from_millis(1500);

/// Time over which the processor time of idle nodes is measured.
const IDLE: Duration = Duration::from_secs(60);

/// Maximum time for a node to start.
const START: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("api: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (program, seconds) = match &arguments[..] {
        [flag] if flag == CONTROL => return serve_control().await,
        [program] => (program, 3.0),
        [program, seconds] => (program, seconds.parse()?),
        _ => bail!("usage: api PROGRAM [SECONDS]"),
    };
    let folder = Folder::new()?;
    let phase = Duration::from_secs_f64(seconds);
    to_the_program(program.as_ref(), &folder.0, phase).await?;
    from_the_program(program.as_ref(), &folder.0, phase).await?;
    println!("{}", with_case("idle", idle(program.as_ref(), &folder.0).await?));
    Ok(())
}

/// Measures messages that the program receives.
async fn to_the_program(program: &Path, folder: &Path, phase: Duration) -> Result<()> {
    let receiver = RunningNode::start(program, &folder.join("receiver"), &["--headless"])?;
    let api = receiver.api().await?;
    let address = api.address().await?;
    let node = Node::builder().name("sender").manual(true).spawn().await?;
    let peer = node.connect(address.as_str()).await?;
    let flood = tokio::spawn(flood(node.sender(peer.id())?));
    let sent = || node.counters().messages_sent;
    for (case, kind) in [
        ("receiver, polls", Clients::Poll),
        ("receiver, polls and streams", Clients::PollAndStream),
        ("receiver, polls and streams that nobody reads", Clients::PollAndHold),
    ] {
        let line = throughput(sent, &api, kind, phase).await?;
        println!("{}", with_case(case, line));
    }
    flood.abort();
    node.shutdown().await;
    Ok(())
}

/// Measures messages that the program sends, with the command `msg` on its standard input.
async fn from_the_program(program: &Path, folder: &Path, phase: Duration) -> Result<()> {
    let node = Node::builder().name("receiver").manual(true).listen("127.0.0.1:0").spawn().await?;
    let address = node.listening().first().context("the node does not listen")?.to_string();
    let mut sender = RunningNode::start(program, &folder.join("sender"), &[&address])?;
    let api = sender.api().await?;
    let mut input = sender.child.stdin.take().context("standard input")?;
    let flood = tokio::spawn(async move {
        let lines = format!("msg {}\n", "x".repeat(MESSAGE)).repeat(64);
        while input.write_all(lines.as_bytes()).await.is_ok() {}
    });
    let received = || node.counters().messages_received;
    let line = throughput(received, &api, Clients::PollAndStream, phase).await?;
    println!("{}", with_case("sender, polls and streams", line));
    flood.abort();
    drop(sender);
    node.shutdown().await;
    Ok(())
}

fn with_case(case: &str, mut line: Value) -> Value {
    line["case"] = case.into();
    line
}

/// Sends messages until the link ends.
async fn flood(sender: Sender) {
    let message = vec![b'x'; MESSAGE];
    let text = String::from_utf8_lossy(&message);
    while sender.send(&*text).await.is_ok() {}
}

/// The requests of each client.
#[derive(Clone, Copy)]
enum Clients {
    Poll,
    PollAndStream,
    /// The clients do not read their streams.
    PollAndHold,
}

/// Measures the throughput without clients, with those of a control and with those of the API, in turns. `count`
/// returns the number of messages so far. Returns the medians.
async fn throughput(
    count: impl Fn() -> u64,
    api: &Api,
    kind: Clients,
    phase: Duration,
) -> Result<Value> {
    let control = ControlServer::start().await?;
    let (mut without, mut with_control, mut with) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ratios, mut ratios_to_control) = (Vec::new(), Vec::new());
    let mut all = Received::default();
    for _ in 0..ROUNDS {
        let alone = rate(&count, phase).await;
        let clients = start_clients(&control.api, Clients::Poll, phase);
        let beside_control = rate(&count, phase).await;
        for received in clients.join_all().await {
            received?;
        }
        let clients = start_clients(api, kind, phase);
        let beside = rate(&count, phase).await;
        for received in clients.join_all().await {
            let Received { answers, events, missed, lost } = received?;
            all.answers += answers;
            all.events += events;
            all.missed += missed;
            all.lost += lost;
        }
        ratios.push(beside / alone);
        ratios_to_control.push(beside / beside_control);
        without.push(alone);
        with_control.push(beside_control);
        with.push(beside);
    }
    Ok(json!({
        "clients": CLIENTS,
        "answers": all.answers,
        "events": all.events,
        "missed_events": all.missed,
        "lost_streams": all.lost,
        "messages_per_second_without": median(&mut without).round(),
        "messages_per_second_with_control": median(&mut with_control).round(),
        "messages_per_second_with": median(&mut with).round(),
        "ratio": median(&mut ratios),
        "ratio_to_control": median(&mut ratios_to_control),
        "ratios": ratios,
    }))
}

/// What a client has received.
#[derive(Default)]
struct Received {
    answers: u64,
    /// Number of events in a stream.
    events: u64,
    /// Number of events that the stream has reported as missed.
    missed: u64,
    /// Number of streams that have ended early.
    lost: u64,
}

fn start_clients(api: &Api, kind: Clients, phase: Duration) -> JoinSet<Result<Received>> {
    let mut clients = JoinSet::new();
    let length = SETTLE + phase;
    for number in 0..CLIENTS {
        let start = POLL_INTERVAL * number / CLIENTS;
        clients.spawn(poll(api.clone(), start, length));
        match kind {
            Clients::Poll => {}
            Clients::PollAndStream => drop(clients.spawn(stream(api.clone(), length))),
            Clients::PollAndHold => drop(clients.spawn(hold(api.clone(), length))),
        }
    }
    clients
}

/// A server of the control, in a process of its own, which is killed at the end.
struct ControlServer {
    api: Api,
    _child: Child,
}

impl ControlServer {
    async fn start() -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .arg(CONTROL)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().context("standard output")?;
        let host = BufReader::new(output).lines().next_line().await?;
        let host = host.context("the control has no address")?;
        Ok(Self { api: Api { host, token: "0".repeat(64) }, _child: child })
    }
}

/// Answers each request with the same bytes. Prints the address first.
async fn serve_control() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {ANSWER}\r\n\r\n");
    let answer = answer + &"x".repeat(ANSWER);
    loop {
        let (mut stream, _) = listener.accept().await?;
        let answer = answer.clone();
        tokio::spawn(async move {
            let mut request = Vec::new();
            while stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {
                if request.ends_with(b"\r\n\r\n") {
                    request.clear();
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

/// Returns the number of messages in a second, over the time `phase`.
async fn rate(count: impl Fn() -> u64, phase: Duration) -> f64 {
    sleep(SETTLE).await;
    let (start, before) = (Instant::now(), count());
    sleep(phase).await;
    (count() - before) as f64 / start.elapsed().as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Asks for the status once a second, over one connection.
async fn poll(api: Api, start: Duration, length: Duration) -> Result<Received> {
    let end = Instant::now() + length;
    sleep(start).await;
    let mut connection = TcpStream::connect(&api.host).await?;
    let mut turns = interval(POLL_INTERVAL);
    let mut answers = 0;
    loop {
        turns.tick().await;
        if Instant::now() >= end {
            return Ok(Received { answers, ..Received::default() });
        }
        api.get(&mut connection, "/api/v1/status").await?;
        answers += 1;
    }
}

/// Reads the stream of events.
async fn stream(api: Api, length: Duration) -> Result<Received> {
    let mut connection = TcpStream::connect(&api.host).await?;
    connection.write_all(api.head("/api/v1/events").as_bytes()).await?;
    let mut lines = BufReader::with_capacity(1 << 16, connection);
    let mut received = Received::default();
    let read = async {
        let mut line = Vec::new();
        let mut is_report = false;
        while lines.read_until(b'\n', &mut line).await? > 0 {
            if let Some(name) = line.strip_prefix(b"event: ") {
                is_report = name.starts_with(b"node_lagged");
                received.events += 1;
            } else if is_report && let Some(data) = line.strip_prefix(b"data: ") {
                let report: Value = serde_json::from_slice(data)?;
                received.missed += report["data"]["missed"].as_u64().context("a number")?;
            }
            line.clear();
        }
        bail!("the stream of events has ended")
    };
    tokio::time::timeout(length, read).await.unwrap_or(Ok(()))?;
    Ok(received)
}

/// Opens a stream of events, and does not read it.
async fn hold(api: Api, length: Duration) -> Result<Received> {
    let mut connection = TcpStream::connect(&api.host).await?;
    connection.write_all(api.head("/api/v1/events").as_bytes()).await?;
    sleep(length).await;
    // If the node had ended the stream, nothing would come.
    let has_ended = connection.read(&mut [0; 1]).await? == 0;
    Ok(Received { lost: u64::from(has_ended), ..Received::default() })
}

/// Measures the processor time of two idle nodes, one with API and one without, at the same time.
async fn idle(program: &Path, folder: &Path) -> Result<Value> {
    let with = RunningNode::start(program, &folder.join("with"), &["--headless"])?;
    let without =
        RunningNode::start(program, &folder.join("without"), &["--headless", "--no-api"])?;
    with.api().await?;
    // The work of the start is not that of an idle node.
    sleep(Duration::from_secs(5)).await;
    let before = (with.cpu_millis()?, without.cpu_millis()?);
    sleep(IDLE).await;
    let after = (with.cpu_millis()?, without.cpu_millis()?);
    Ok(json!({
        "seconds": IDLE.as_secs(),
        "cpu_ms_with": after.0 - before.0,
        "cpu_ms_without": after.1 - before.1,
    }))
}

/// A folder for the state of nodes, which is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = env::temp_dir().join(format!("peerkit-bench-api-{}", process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running program, which is killed at the end.
struct RunningNode {
    child: Child,
    state: PathBuf,
}

impl RunningNode {
    fn start(program: &Path, state: &Path, options: &[&str]) -> Result<Self> {
        let child = Command::new(program)
            .args(["run", "--manual", "--json", "--listen", "127.0.0.1:0"])
            .args(["--name", "node", "--state"])
            .arg(state)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { child, state: state.to_owned() })
    }

    /// Waits until the node runs. Returns its API.
    async fn api(&self) -> Result<Api> {
        #[derive(Deserialize)]
        struct ApiFile {
            url: String,
            token: String,
        }
        let deadline = Instant::now() + START;
        loop {
            if let Ok(file) = fs::read(self.state.join("api.json")) {
                let ApiFile { url, token } = serde_json::from_slice(&file)?;
                let host = url.strip_prefix("http://").context("the URL of the API")?.to_owned();
                return Ok(Api { host, token });
            }
            ensure!(Instant::now() < deadline, "the node does not start");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns the processor time of all threads so far, in milliseconds.
    fn cpu_millis(&self) -> Result<f64> {
        let id = self.child.id().context("the node has ended")?;
        let mut nanos = 0;
        for thread in fs::read_dir(format!("/proc/{id}/task"))? {
            let stat = fs::read_to_string(thread?.path().join("schedstat"))?;
            nanos += stat.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
        Ok(nanos as f64 / 1e6)
    }
}

/// The API of a running node.
#[derive(Clone)]
struct Api {
    host: String,
    token: String,
}

impl Api {
    fn head(&self, path: &str) -> String {
        let Self { host, token } = self;
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n")
    }

    /// Sends a request. Returns the body of the answer.
    async fn get(&self, connection: &mut TcpStream, path: &str) -> Result<Vec<u8>> {
        connection.write_all(self.head(path).as_bytes()).await?;
        let mut answer = Vec::new();
        loop {
            ensure!(
                connection.read_buf(&mut answer).await? > 0,
                "the API has closed the connection"
            );
            let Some(end) = answer.windows(4).position(|part| part == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
            ensure!(head.starts_with("http/1.1 200"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.context("an answer without a length")?.trim().parse()?;
            if answer.len() >= end + 4 + length {
                return Ok(answer.split_off(end + 4));
            }
        }
    }

    /// Returns the address that the node listens on.
    async fn address(&self) -> Result<String> {
        let mut connection = TcpStream::connect(&self.host).await?;
        let answer: Value =
            serde_json::from_slice(&self.get(&mut connection, "/api/v1/status").await?)?;
        let address = answer["status"]["addresses"][0].as_str();
        Ok(address.context("the node has no address")?.to_owned())
    }
}
