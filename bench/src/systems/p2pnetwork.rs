//! p2pnetwork, the Python package: both ends are Python processes, run by `p2pnetwork.py`.

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
    /// Starts both; the dialling one begins at once.
    pub(crate) async fn start(job: &Job) -> Result<Self> {
        let mut listener = end(job, "listen", &[])?;
        let port: u16 = listener.receive().await?;
        let (size, seconds) = (job.case.amount, job.length.as_secs_f64());
        let words = [port.to_string(), size.to_string(), seconds.to_string()];
        Ok(Self { listener, dialler: end(job, "dial", &words)? })
    }

    /// Returns the number of sent messages and the totals at the receiver. For throughput.
    pub(crate) async fn arrived(&mut self) -> Result<(u64, ReceiveTotals)> {
        Ok((self.dialler.receive().await?, self.listener.receive().await?))
    }

    /// Returns the times of the rounds, shortest first. For latency.
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

/// Creates a virtual environment with the package below the target folder, unless it exists.
///
/// # Errors
/// Fails if there is no Python, or the package cannot be installed.
pub(crate) fn prepare() -> Result<()> {
    let python = python()?;
    // An interrupted installation leaves the folder without the package.
    let has_it = |python: &PathBuf| {
        let asked = Program::new(python).args(["-c", "import p2pnetwork"]).output();
        asked.is_ok_and(|output| output.status.success())
    };
    if has_it(&python) {
        return Ok(());
    }
    let folder = folder()?;
    run(Program::new("python3").args(["-m", "venv"]).arg(&folder))?;
    run(Program::new(&python).args(["-m", "pip", "install", "--quiet", PACKAGE]))
}

fn run(program: &mut Program) -> Result<()> {
    let output = program.output().with_context(|| format!("can't run {program:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program:?} failed: {}", said.trim());
    Ok(())
}

/// This program is in target/PROFILE.
fn folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).context("the program is in no folder")?;
    Ok(target.join("bench-p2pnetwork"))
}

fn python() -> Result<PathBuf> {
    Ok(folder()?.join("bin").join("python"))
}

fn end(job: &Job, role: &str, words: &[String]) -> Result<Child> {
    let mut command = Command::new(python()?);
    command.args(["-c", SCRIPT, role, job.workload.name()]).args(words);
    Child::run(command)
}
