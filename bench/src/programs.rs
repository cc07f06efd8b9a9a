//! Programs of others, run by their names.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::process::{cpu_seconds, ended_cpu_seconds, peak_bytes};
use crate::transfer::Usage;

/// Interval between two looks at a program's memory. Memory of its last moments is missed.
const LOOK: Duration = Duration::from_millis(5);

/// Longest time until a program listens.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time after which a server knows that its client has ended.
const REST: Duration = Duration::from_millis(100);

/// Checks that a program is installed.
///
/// # Errors
/// If it is not.
pub(crate) fn prepare(name: &str) -> Result<()> {
    let program = path(name)?;
    let mut command = std::process::Command::new(program);
    let asked = command.arg("--version").output().with_context(|| format!("no program {name}"))?;
    ensure!(asked.status.success(), "`{name} --version` failed: {}", asked.status);
    Ok(())
}

/// Returns the program with this name.
pub(crate) fn command(name: &str) -> Result<Command> {
    Ok(Command::new(path(name)?))
}

/// Returns the program in the target folder's `tools`, where `.ci/run` installs it, or else that of the
/// system.
fn path(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(2).context("the program is in no folder")?;
    let tool = target.join("tools").join("bin").join(name);
    Ok(if tool.exists() { tool } else { name.into() })
}

/// The result of a program that has ended.
pub(crate) struct Ran {
    /// Time from its start to its end.
    pub elapsed: Duration,
    /// Its processor time, with its children's.
    pub usage: Usage,
    /// Its output.
    pub output: String,
}

/// Runs a program to its end. No other child of this process may end meanwhile.
///
/// # Errors
/// If it fails.
pub(crate) async fn run(mut command: Command) -> Result<Ran> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let own = std::process::id();
    let before = ended_cpu_seconds(own);
    let began = Instant::now();
    let child = command.spawn().with_context(|| format!("can't start {command:?}"))?;
    let id = child.id().context("it has ended")?;
    let mut peak = 0;
    let mut ending = std::pin::pin!(child.wait_with_output());
    let output = loop {
        tokio::select! {
            output = &mut ending => break output?,
            () = tokio::time::sleep(LOOK) => peak = peak_bytes(id).max(peak),
        }
    };
    let elapsed = began.elapsed();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    let failed = || format!("{said}{complaint}");
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, failed().trim());
    let usage = Usage { cpu_s: ended_cpu_seconds(own) - before, peak_bytes: peak };
    Ok(Ran { elapsed, usage, output: said.into_owned() })
}

/// A program that serves others. Dropping it ends it.
pub(crate) struct Server {
    process: Child,
    id: u32,
    began_with: f64,
}

impl Server {
    /// Starts it, and waits until it listens on `port`.
    pub(crate) async fn start(mut command: Command, port: u16) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().with_context(|| format!("can't start {command:?}"))?;
        let id = process.id().context("it has ended")?;
        let mut server = Self { process, id, began_with: 0.0 };
        let began = Instant::now();
        while TcpStream::connect(local(port)).await.is_err() {
            if let Some(status) = server.ended()? {
                bail!("{command:?} has ended: {status}");
            }
            ensure!(began.elapsed() < PATIENCE, "{command:?} does not listen");
            tokio::time::sleep(LOOK).await;
        }
        server.reset();
        Ok(server)
    }

    /// Counts its usage from now on.
    pub(crate) fn reset(&mut self) {
        self.began_with = self.cpu_seconds();
    }

    /// Returns its usage, once its client has ended.
    pub(crate) async fn usage(&self) -> Usage {
        tokio::time::sleep(REST).await;
        let cpu_s = self.cpu_seconds() - self.began_with;
        Usage { cpu_s, peak_bytes: peak_bytes(self.id) }
    }

    /// Ends it.
    pub(crate) async fn end(mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }

    /// Returns how it has ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.try_wait()?)
    }

    fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.id) + ended_cpu_seconds(self.id)
    }
}

/// Returns a port of 127.0.0.1 on which no program listens.
pub(crate) async fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(local(0)).await?.local_addr()?.port())
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
