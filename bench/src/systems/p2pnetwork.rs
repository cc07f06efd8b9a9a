//! p2pnetwork, the Python package: both ends are Python processes, run by `p2pnetwork.py`.

use std::path::PathBuf;
use std::process::Command as Program;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::job::Job;
use crate::messages::Arrived;
use crate::process::Child;

const PACKAGE: &str = "p2pnetwork==1.2";

const SCRIPT: &str = include_str!("p2pnetwork.py");

/// The two ends.
pub(crate) struct Ends {
    pub(crate) listener: Child,
    pub(crate) dialler: Child,
}

impl Ends {
    /// Starts both. The one that dials begins at once.
    pub(crate) async fn start(job: &Job) -> Result<Self> {
        let mut listener = end(job, "listen", &[])?;
        let port: u16 = listener.receive().await?;
        let (size, seconds) = (job.case.amount, job.length.as_secs_f64());
        let words = [port.to_string(), size.to_string(), seconds.to_string()];
        Ok(Self { listener, dialler: end(job, "dial", &words)? })
    }

    /// Returns the result for throughput: the number of sent messages, and the totals of the received
    /// ones.
    pub(crate) async fn arrived(&mut self) -> Result<(u64, Arrived)> {
        Ok((self.dialler.receive().await?, self.listener.receive().await?))
    }

    /// Returns the result for latency: the rounds' times, shortest first.
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

/// Installs the package into an environment in the target folder, unless there is one.
///
/// # Errors
/// If there is no Python, or the package can't be downloaded.
pub(crate) fn prepare() -> Result<()> {
    let python = python()?;
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

/// Returns the folder of the environment: this program is in target/PROFILE.
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
