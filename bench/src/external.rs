//! Runs external programs, which are found by their names.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::process::{cpu_seconds, ended_cpu_seconds, peak_bytes};
use crate::transfer::ResourceUsage;

/// Interval at which the memory of a program is sampled. A peak in the last moments of the program may be
/// missed.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Maximum time until a server program listens.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that a server gets to notice the end of its client.
const SETTLING: Duration = Duration::from_millis(100);

/// Checks that a program can be run.
///
/// # Errors
/// Fails if the program is missing or does not run.
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

/// Returns the path of a program in the folder `tools` of the target folder, into which `.ci/run` installs
/// programs. If it is not there, returns its name, so that the system's program is run.
fn path(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(2).context("the program has no target folder")?;
    let tool = target.join("tools").join("bin").join(name);
    Ok(if tool.exists() { tool } else { name.into() })
}

/// The result of a program that has ended.
pub(crate) struct ProgramResult {
    /// Time from the start of the program to its end.
    pub elapsed: Duration,
    /// Processor time of the program and its children, and its peak memory.
    pub usage: ResourceUsage,
    /// The standard output of the program.
    pub output: String,
}

/// Runs a program to its end. No other child of this process may end in the meantime, because the processor
/// time is measured for all ended children.
///
/// # Errors
/// Fails if the program cannot be started or exits with an error.
pub(crate) async fn run(mut command: Command) -> Result<ProgramResult> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let own = std::process::id();
    let before = ended_cpu_seconds(own);
    let start = Instant::now();
    let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let id = child.id().context("the program has already ended")?;
    let mut peak = 0;
    // This also reads the output. Otherwise a full pipe would block the program.
    let mut ending = std::pin::pin!(child.wait_with_output());
    let output = loop {
        tokio::select! {
            output = &mut ending => break output?,
            () = tokio::time::sleep(POLL_INTERVAL) => peak = peak_bytes(id).max(peak),
        }
    };
    let elapsed = start.elapsed();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let failed = || format!("{stdout}{stderr}");
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, failed().trim());
    let usage = ResourceUsage { cpu_s: ended_cpu_seconds(own) - before, peak_bytes: peak };
    Ok(ProgramResult { elapsed, usage, output: stdout.into_owned() })
}

/// A server program. Dropping this value kills it.
pub(crate) struct ServerProgram {
    process: Child,
    id: u32,
    cpu_s_at_reset: f64,
}

impl ServerProgram {
    /// Starts the program, and waits until it listens on `port`.
    pub(crate) async fn start(mut command: Command, port: u16) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let id = process.id().context("the program has already ended")?;
        let mut server = Self { process, id, cpu_s_at_reset: 0.0 };
        let start = Instant::now();
        while TcpStream::connect(local(port)).await.is_err() {
            if let Some(status) = server.exit_status()? {
                bail!("{command:?} has ended: {status}");
            }
            ensure!(start.elapsed() < START_TIMEOUT, "{command:?} does not listen");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        server.reset();
        Ok(server)
    }

    /// Starts to count the processor time of the program from zero.
    pub(crate) fn reset(&mut self) {
        self.cpu_s_at_reset = self.cpu_seconds();
    }

    /// Returns the usage of the program since the last reset. Has to be called after the client has ended.
    pub(crate) async fn usage(&self) -> ResourceUsage {
        tokio::time::sleep(SETTLING).await;
        let cpu_s = self.cpu_seconds() - self.cpu_s_at_reset;
        ResourceUsage { cpu_s, peak_bytes: peak_bytes(self.id) }
    }

    /// Kills the program.
    pub(crate) async fn end(mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }

    /// Returns the exit status if the program has already ended.
    pub(crate) fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.try_wait()?)
    }

    fn cpu_seconds(&self) -> f64 {
        // The children count too, because rsync's daemon serves each connection in a child process.
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
