//! The program `peerkit`, driven over its standard input and output as a script would do it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

/// Maximum time for a start, a command or a stop.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running `peerkit run --json`. Dropping this value kills the process.
pub(crate) struct Program {
    child: Child,
    input: ChildStdin,
    results: mpsc::UnboundedReceiver<Value>,
    id: String,
    address: String,
    /// The process id.
    pid: u32,
}

impl Program {
    /// Starts a node on the state folder `state`. `on_event` gets each of its events except the first.
    ///
    /// # Errors
    /// Fails if the program does not start, or prints something else than JSON.
    pub(crate) async fn start(
        program: &Path,
        state: &Path,
        arguments: &[String],
        mut on_event: impl FnMut(&Value) + Send + 'static,
    ) -> Result<Self> {
        let mut child = Command::new(program)
            .args(["run", "--json", "--headless", "--state"])
            .arg(state)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let input = child.stdin.take().context("no input")?;
        let output = child.stdout.take().context("no output")?;
        let pid = child.id().context("the program has ended")?;
        let mut lines = BufReader::new(output).lines();
        let first = tokio::time::timeout(PATIENCE, lines.next_line()).await??;
        let first: Value = serde_json::from_str(&first.context("the program has ended")?)?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let id = text(&first["node"]).context("the first line has no id")?;
        let address = text(&first["listen"][0]).context("the node does not listen")?;
        let (sender, results) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                // The last line of a killed process may be cut.
                let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
                if line["result"].is_string() {
                    // Nobody waits for the result once the program is being stopped.
                    let _ = sender.send(line);
                } else {
                    on_event(&line);
                }
            }
        });
        Ok(Self { child, input, results, id, address, pid })
    }

    /// Carries out a command. Returns its result, which may be an error of the command.
    ///
    /// # Errors
    /// Fails if the program has ended, or has no result within two minutes.
    pub(crate) async fn command(&mut self, line: &str) -> Result<Value> {
        self.input.write_all(format!("{line}\n").as_bytes()).await?;
        self.input.flush().await?;
        let result = tokio::time::timeout(PATIENCE, self.results.recv()).await;
        let result = result.with_context(|| format!("no result of `{line}`"))?;
        result.with_context(|| format!("the program ended during `{line}`"))
    }

    /// Returns the node's identity as hex digits.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Returns the address at which the node listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Returns the process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Stops the node cleanly.
    ///
    /// # Errors
    /// Fails if the program does not end with status 0 in time.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.input.write_all(b"exit\n").await?;
        self.input.flush().await?;
        let Ok(status) = tokio::time::timeout(PATIENCE, self.child.wait()).await else {
            bail!("the node does not stop");
        };
        let status = status?;
        ensure!(status.success(), "the node has ended: {status}");
        Ok(())
    }

    /// Kills the process.
    pub(crate) async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// Returns the path of the program `peerkit` in the folder of this program.
///
/// # Errors
/// Fails if it was not built there.
pub(crate) fn path() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.with_file_name(format!("peerkit{}", std::env::consts::EXE_SUFFIX));
    ensure!(path.is_file(), "{} is missing: build it in the same profile", path.display());
    Ok(path)
}
