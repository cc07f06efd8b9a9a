//! External programs, found by name.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::process::{cpu_seconds, ended_cpu_seconds, peak_bytes};
use crate::transfer::ResourceUsage;

/// Interval at which a program's memory is sampled. Memory that it takes in its last moments is
/// missed.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Timeout until a server program listens.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Wait after the client has ended, so that the server notices.
const SETTLING: Duration = Duration::from_millis(100);

/// Checks that the program is available.
///
/// # Errors
/// Fails if it is missing or does not run.
pub(crate) fn prepare(name: &str) -> Result<()> {
    let program = path(name)?;
    let mut command = std::process::Command::new(program);
    let output = command
        .arg("--version")
        .output()
        .with_context(|| format!("the program {name} is missing"))?;
    ensure!(output.status.success(), "`{name} --version` failed: {}", output.status);
    Ok(())
}

/// Returns a command that runs the program.
pub(crate) fn command(name: &str) -> Result<Command> {
    Ok(Command::new(path(name)?))
}

/// Returns the program below the target folder's `tools`, where `.ci/run` installs, or else the one
/// of the system.
fn path(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(2).context("the program is in no folder")?;
    let tool = target.join("tools").join("bin").join(name);
    Ok(if tool.exists() { tool } else { name.into() })
}

/// Result of a program that has ended.
pub(crate) struct ProgramResult {
    /// Time from its start to its end.
    pub elapsed: Duration,
    /// Processor time of the program and its children, and its peak memory.
    pub usage: ResourceUsage,
    /// Its standard output.
    pub output: String,
}

/// Runs a program to its end. No other child of this process may end meanwhile: the processor time
/// is that of all ended children.
///
/// # Errors
/// Fails if the program cannot be started or exits with an error.
pub(crate) async fn run(mut command: Command) -> Result<ProgramResult> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let own = std::process::id();
    let before = ended_cpu_seconds(own);
    let began = Instant::now();
    let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let id = child.id().context("the program has already ended")?;
    let mut peak = 0;
    // This also reads the output, as a full pipe would block the program.
    let mut ending = std::pin::pin!(child.wait_with_output());
    let output = loop {
        tokio::select! {
            output = &mut ending => break output?,
            () = tokio::time::sleep(POLL_INTERVAL) => peak = peak_bytes(id).max(peak),
        }
    };
    let elapsed = began.elapsed();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let failed = || format!("{stdout}{stderr}");
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, failed().trim());
    let usage = ResourceUsage { cpu_s: ended_cpu_seconds(own) - before, peak_bytes: peak };
    Ok(ProgramResult { elapsed, usage, output: stdout.into_owned() })
}

/// A server program. Dropping it kills it.
pub(crate) struct ServerProgram {
    process: Child,
    id: u32,
    began_with: f64,
}

impl ServerProgram {
    /// Starts the program and waits until it listens at `port`.
    pub(crate) async fn start(mut command: Command, port: u16) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let id = process.id().context("the program has already ended")?;
        let mut server = Self { process, id, began_with: 0.0 };
        let began = Instant::now();
        while TcpStream::connect(local(port)).await.is_err() {
            if let Some(status) = server.ended()? {
                bail!("{command:?} has ended: {status}");
            }
            ensure!(began.elapsed() < START_TIMEOUT, "{command:?} does not listen");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        server.reset();
        Ok(server)
    }

    /// Restarts the count of its processor time.
    pub(crate) fn reset(&mut self) {
        self.began_with = self.cpu_seconds();
    }

    /// Returns the server's usage since the last reset. Call it once the client has ended.
    pub(crate) async fn usage(&self) -> ResourceUsage {
        tokio::time::sleep(SETTLING).await;
        let cpu_s = self.cpu_seconds() - self.began_with;
        ResourceUsage { cpu_s, peak_bytes: peak_bytes(self.id) }
    }

    /// Kills the program.
    pub(crate) async fn end(mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }

    /// Returns the exit status if the program has already ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.try_wait()?)
    }

    fn cpu_seconds(&self) -> f64 {
        // The daemon of rsync serves each connection in a child process.
        cpu_seconds(self.id) + ended_cpu_seconds(self.id)
    }
}

/// Returns a free port of 127.0.0.1.
pub(crate) async fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(local(0)).await?.local_addr()?.port())
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
