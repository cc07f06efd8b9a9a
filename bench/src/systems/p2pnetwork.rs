//! The Python package p2pnetwork. Both ends are Python processes that run `p2pnetwork.py`.

use std::path::PathBuf;
use std::process::Command as Program;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::messages::ReceiveTotals;
use crate::process::Child;
use crate::workload::Job;

const PACKAGE: &str = "p2pnetwork==1.2";

const SCRIPT: &str = include_str!("p2pnetwork.py");

/// The two Python processes.
pub(crate) struct PythonEnds {
    pub(crate) listener: Child,
    pub(crate) dialler: Child,
}

impl PythonEnds {
    /// Starts both processes. The dialling process begins to send immediately.
    pub(crate) async fn start(job: &Job) -> Result<Self> {
        let mut listener = start_end(job, "listen", &[])?;
        let port: u16 = listener.receive().await?;
        let (size, seconds) = (job.case.amount, job.duration.as_secs_f64());
        let arguments = [port.to_string(), size.to_string(), seconds.to_string()];
        Ok(Self { listener, dialler: start_end(job, "dial", &arguments)? })
    }

    /// Returns the number of sent messages and the totals of the receiver, for the workload `throughput`.
    pub(crate) async fn receive_all(&mut self) -> Result<(u64, ReceiveTotals)> {
        Ok((self.dialler.receive().await?, self.listener.receive().await?))
    }

    /// Returns the round-trip times, shortest first, for the workload `latency`.
    pub(crate) async fn times(&mut self) -> Result<Vec<Duration>> {
        let nanoseconds: Vec<u64> = self.dialler.receive().await?;
        let mut times: Vec<_> = nanoseconds.into_iter().map(Duration::from_nanos).collect();
        times.sort_unstable();
        Ok(times)
    }

    pub(crate) async fn end(self) -> Result<()> {
        self.dialler.end().await?;
        self.listener.end().await
    }
}

/// Creates a virtual environment with the package in the target folder, unless there is one.
///
/// # Errors
/// Fails if there is no Python, or the package cannot be installed.
pub(crate) fn prepare() -> Result<()> {
    let python = python()?;
    // The folder may exist without the package, if an installation was interrupted.
    let has_package = |python: &PathBuf| {
        let output = Program::new(python).args(["-c", "import p2pnetwork"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    if has_package(&python) {
        return Ok(());
    }
    let folder = folder()?;
    run(Program::new("python3").args(["-m", "venv"]).arg(&folder))?;
    run(Program::new(&python).args(["-m", "pip", "install", "--quiet", PACKAGE]))
}

fn run(program: &mut Program) -> Result<()> {
    let output = program.output().with_context(|| format!("cannot run {program:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program:?} failed: {}", stderr.trim());
    Ok(())
}

/// Returns the folder of the virtual environment.
fn folder() -> Result<PathBuf> {
    // This program is in target/PROFILE.
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).context("the program has no target folder")?;
    Ok(target.join("bench-p2pnetwork"))
}

fn python() -> Result<PathBuf> {
    Ok(folder()?.join("bin").join("python"))
}

/// Starts one of the two processes.
fn start_end(job: &Job, role: &str, arguments: &[String]) -> Result<Child> {
    let mut command = Command::new(python()?);
    command.args(["-c", SCRIPT, role, job.workload.name()]).args(arguments);
    Child::run(command)
}
