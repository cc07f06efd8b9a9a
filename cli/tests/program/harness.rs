//! A running `peerkit run --json`. A thread reads its lines, and every wait has a deadline.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) use person::TextProgram;
pub(crate) use share::{Share, address, get, get_command, ticket};

mod person;
mod share;

/// Maximum time of every wait. 180 s: far more than any step of a test takes, even on a loaded
/// machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Returns a command that runs the program with its folders in `home`, and without the settings of
/// the user who runs the tests.
pub(crate) fn peerkit(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerkit"));
    command
        .env_remove("NO_COLOR")
        .env_remove("PEERKIT_LOG")
        .env_remove("PEERKIT_LOG_FORMAT")
        .env_remove("PEERKIT_SECRET")
        .env_remove("PEERKIT_BOOTSTRAP")
        .env_remove("PEERKIT_TICKET")
        .env_remove("PEERKIT_INVITE")
        .env_remove("XDG_DOWNLOAD_DIR")
        .env("HOME", home)
        .env("XDG_DATA_HOME", home.join("data"))
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("TERM", "xterm-256color")
        .env("CLICOLOR_FORCE", "0")
        .stdin(Stdio::null());
    command
}

/// Starts a program with pipes for its standard input, output and error.
pub(crate) fn piped(command: &mut Command) -> Child {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Sends a signal to a program.
#[cfg(unix)]
pub(crate) fn send_signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Waits until a program ends. Kills it if it still runs after [`PATIENCE`].
pub(crate) fn wait_or_kill(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Returns the signals that stop a program, each with the exit status of a `get` or `demo` that it
/// stops. Leaves out SIGHUP if the tests run with SIGHUP ignored, as under `nohup`: the program
/// ignores it then as well.
#[cfg(unix)]
pub(crate) fn stopping_signals() -> Vec<(rustix::process::Signal, i32)> {
    use rustix::process::Signal;

    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let mut signals = vec![(Signal::TERM, 1), (Signal::INT, 130)];
    // The lowest bit is that of signal 1.
    if ignored.is_none_or(|mask| mask & 1 == 0) {
        signals.push((Signal::HUP, 1));
    }
    signals
}

/// Reads the lines of a stream in a thread.
pub(crate) fn read_lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    let stream = BufReader::new(stream);
    thread::spawn(move || stream.lines().try_for_each(|line| sender.send(line.unwrap())));
    lines
}

/// Returns output as text. It has to be UTF-8.
pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Runs the program to its end, with `input` on standard input.
pub(crate) fn run(mut command: Command, input: &str) -> Output {
    let mut child = piped(&mut command);
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // The program may end before it has read all of its input.
    let writer = thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let (done, wait) = mpsc::channel();
    thread::spawn(move || done.send(child.wait_with_output()));
    let output = wait.recv_timeout(PATIENCE).expect("the program has ended");
    writer.join().unwrap();
    output.unwrap()
}

/// A node in its own process.
pub(crate) struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    events: VecDeque<Value>,
    results: VecDeque<Value>,
    pub(crate) name: String,
    pub(crate) id: String,
    /// The address that it listens on.
    pub(crate) address: String,
    /// The first line of the output.
    pub(crate) started: Value,
    pub(crate) downloads: PathBuf,
}

impl Program {
    /// Starts a node named `name`, whose folders are in `home`, with `--manual`.
    pub(crate) fn start(home: &Path, name: &str, args: &[&str]) -> Self {
        let mut all = vec!["--manual"];
        all.extend_from_slice(args);
        Self::start_with(home, name, &all)
    }

    /// Starts a node named `name`, whose folders are in `home`.
    pub(crate) fn start_with(home: &Path, name: &str, args: &[&str]) -> Self {
        Self::start_by(peerkit(home), home, name, args)
    }

    /// Starts a node with `command`: the program, or another program that starts it with these
    /// arguments.
    pub(crate) fn start_by(mut command: Command, home: &Path, name: &str, args: &[&str]) -> Self {
        let downloads = home.join(format!("{name}-downloads"));
        command.args(["run", "--json", "--listen", "127.0.0.1:0", "--name", name]);
        command.arg("--state").arg(home.join(name)).arg("--downloads").arg(&downloads).args(args);
        let mut child = piped(&mut command);
        let lines = read_lines(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let mut program = Self {
            stdin: child.stdin.take(),
            child,
            lines,
            stderr: Some(stderr),
            events: VecDeque::new(),
            results: VecDeque::new(),
            name: name.to_owned(),
            id: String::new(),
            address: String::new(),
            started: Value::Null,
            downloads,
        };
        let first = program.first_line().expect("a first line");
        assert_eq!(first["event"], "node_started", "{first}");
        assert!(first["time"].is_u64(), "{first}");
        program.id = first["node"].as_str().unwrap().to_owned();
        program.address = first["listen"][0].as_str().unwrap().to_owned();
        program.started = first;
        program
    }

    /// Returns the process.
    #[cfg(unix)]
    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// Writes a command and does not wait for its result.
    pub(crate) fn write(&mut self, command: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        writeln!(stdin, "{command}").unwrap();
    }

    /// Takes standard input from the program, so that the test can write to it or close it.
    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().expect("standard input is open")
    }

    /// Carries out a command that has to work. Returns its result.
    pub(crate) fn run(&mut self, command: &str) -> Value {
        let result = self.attempt(command);
        assert_eq!(result["ok"], true, "{command}: {result}");
        result
    }

    /// Carries out a command that has to fail. Returns the text of the error.
    pub(crate) fn fail(&mut self, command: &str) -> String {
        let result = self.attempt(command);
        assert_eq!(result["ok"], false, "{command}: {result}");
        result["error"].as_str().expect("an error's text").to_owned()
    }

    /// Carries out a command. Returns its result.
    pub(crate) fn attempt(&mut self, command: &str) -> Value {
        self.write(command);
        self.result()
    }

    /// Waits for the next result.
    pub(crate) fn result(&mut self) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(result) = self.results.pop_front() {
                return result;
            }
            self.read_line(deadline, "a result");
        }
    }

    /// Waits for the first event of this name that was not returned yet.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        self.event_where(name, |_| true)
    }

    /// Waits for the first event of this name that `fits` and was not returned yet.
    pub(crate) fn event_where(&mut self, name: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut events = self.events.iter();
            let found = events.position(|event| event["event"] == name && fits(event));
            if let Some(event) = found.and_then(|index| self.events.remove(index)) {
                return event;
            }
            self.read_line(deadline, name);
        }
    }

    /// Returns the events of this name that have come and were not returned yet.
    pub(crate) fn unread_events(&self, name: &str) -> Vec<&Value> {
        let events = self.events.iter();
        events.filter(|event| event["event"] == name).collect()
    }

    fn read_line(&mut self, deadline: Instant, what: &str) {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => drop(self.store_line(&line)),
            Err(error) => {
                panic!("{}: no {what}: {error}; events so far: {:#?}", self.name, self.events)
            }
        }
    }

    /// Checks that a line of standard output is a result or an event, and stores it.
    fn store_line(&mut self, line: &str) -> Value {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        assert!(value.is_object(), "{line}");
        if value.get("result").is_some() {
            assert!(value["ok"].is_boolean(), "{line}");
            self.results.push_back(value.clone());
        } else {
            assert!(value["event"].is_string() && value["node"].is_string(), "{line}");
            // In milliseconds, and later than 2023.
            assert!(value["time"].as_u64().is_some_and(|time| time > 1_700_000_000_000), "{line}");
            assert!(value.get("peer").is_some() && value.get("data").is_some(), "{line}");
            self.events.push_back(value.clone());
        }
        value
    }

    fn first_line(&mut self) -> Option<Value> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(serde_json::from_str(&line).expect("JSON")),
            Err(_) => None,
        }
    }

    /// Sends a signal.
    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        send_signal(&self.child, signal);
    }

    /// Kills the process: no goodbye, nothing saved.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Returns whether the process still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Reads the rest of the output, and waits until the process ends. Returns the exit status and
    /// standard error.
    pub(crate) fn wait(&mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => drop(self.store_line(&line)),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("{} does not end", self.name),
            }
        }
        let status = self.child.wait().unwrap();
        let stderr = self.stderr.take().map(|stderr| stderr.join().unwrap());
        (status, stderr.unwrap_or_default())
    }

    /// Stops the node with `exit`. Returns the exit status and standard error.
    pub(crate) fn stop(&mut self) -> (ExitStatus, String) {
        self.run("exit");
        self.wait()
    }

    /// Stops the node with `exit`. Its exit status has to be 0 and its standard error empty.
    pub(crate) fn exit(mut self) {
        let (status, stderr) = self.stop();
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{}", self.name);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A chain of three nodes: `a` has dialled `b`, and `b` has dialled `c`.
pub(crate) struct Chain {
    pub(crate) a: Program,
    pub(crate) b: Program,
    pub(crate) c: Program,
}

/// Starts a chain of three nodes, `c` with additional arguments.
pub(crate) fn start_chain(home: &Path, args: &[&str]) -> Chain {
    let mut c = Program::start(home, "carol", args);
    let mut b = Program::start(home, "bob", &[&c.address]);
    let mut a = Program::start(home, "alice", &[&b.address]);
    a.event("outbound_node_connected");
    b.event("outbound_node_connected");
    b.event("inbound_node_connected");
    c.event("inbound_node_connected");
    Chain { a, b, c }
}

impl Chain {
    /// Stops all three. Their standard error has to be empty.
    pub(crate) fn exit(self) {
        self.a.exit();
        self.b.exit();
        self.c.exit();
    }
}

/// Returns `len` bytes that look random and are the same every time.
pub(crate) fn content(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}
