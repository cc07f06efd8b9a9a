//! Child processes. A child is this program again, in a role. Parent and child exchange lines of JSON.
//!
//! A child sends one line when it is ready, and one report at its end. It then waits until its input ends,
//! because data that it has sent may still be in flight. So it also exits when its parent exits.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::DirEntry;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Stdin, stdin};
use tokio::process::{ChildStdin, ChildStdout, Command};

/// The first argument when this program starts itself.
pub(crate) const ROLE: &str = "role";

/// A process that this one has started. Dropping this value kills the process.
pub(crate) struct Child {
    process: tokio::process::Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Child {
    /// Starts this program again, with the given arguments for
    /// [`Workload::run_child`](crate::workload::Workload::run_child).
    pub(crate) fn start<W: AsRef<OsStr>>(arguments: impl IntoIterator<Item = W>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(ROLE).args(arguments);
        Self::run(command)
    }

    /// Like [`Child::start`], at the lowest priority.
    pub(crate) fn start_low<W: AsRef<OsStr>>(
        arguments: impl IntoIterator<Item = W>,
    ) -> Result<Self> {
        // `nice` replaces itself with the program, so the process id is that of the program.
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(std::env::current_exe()?).arg(ROLE).args(arguments);
        Self::run(command)
    }

    /// Like [`Child::start`], on one processor.
    pub(crate) fn start_on<W: AsRef<OsStr>>(
        processor: &str,
        arguments: impl IntoIterator<Item = W>,
    ) -> Result<Self> {
        // `taskset` replaces itself with the program, too.
        let mut command = Command::new("taskset");
        command.args(["-c", processor]).arg(std::env::current_exe()?).arg(ROLE).args(arguments);
        Self::run(command)
    }

    /// Starts another program, which exchanges lines in the same way.
    pub(crate) fn run(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().context("cannot start the child process")?;
        let input = process.stdin.take().context("no input")?;
        let output = BufReader::new(process.stdout.take().context("no output")?);
        Ok(Self { process, input, output })
    }

    /// Receives the next line from the child.
    ///
    /// # Errors
    /// Fails if the child ends or sends something else.
    pub(crate) async fn receive<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.output.read_line(&mut line).await?;
        if line.is_empty() {
            let status = self.process.wait().await?;
            bail!("the child process has ended: {status}");
        }
        serde_json::from_str(&line)
            .with_context(|| format!("unexpected line from the child process: {line:?}"))
    }

    /// Sends a line to the child.
    pub(crate) async fn send(&mut self, line: &(impl Serialize + Sync)) -> Result<()> {
        let mut line = serde_json::to_vec(line)?;
        line.push(b'\n');
        self.input.write_all(&line).await?;
        Ok(self.input.flush().await?)
    }

    /// Closes the child's input, so that the child exits, and waits for its exit. Has to be called after the
    /// report was received.
    ///
    /// # Errors
    /// Fails if the child exits with an error.
    pub(crate) async fn end(mut self) -> Result<()> {
        drop(self.input);
        let status = self.process.wait().await?;
        ensure!(status.success(), "the child process failed: {status}");
        Ok(())
    }

    /// Returns the process id.
    pub(crate) fn id(&self) -> Result<u32> {
        self.process.id().context("the child process has ended")
    }

    /// Suspends the child. Its connections stay open, but it reads nothing from them. Dropping this value
    /// still kills the child.
    pub(crate) async fn pause(&self) -> Result<()> {
        self.signal("-STOP").await
    }

    /// Resumes the child.
    pub(crate) async fn resume(&self) -> Result<()> {
        self.signal("-CONT").await
    }

    async fn signal(&self, signal: &str) -> Result<()> {
        let process = self.id()?.to_string();
        // The standard library can send no signal except SIGKILL.
        let status = Command::new("kill").args([signal, &process]).status().await;
        let status = status.context("cannot run `kill`")?;
        ensure!(status.success(), "`kill {signal}` failed: {status}");
        Ok(())
    }

    /// Returns the processor time of the child so far: see [`cpu_seconds`].
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.process.id().map_or(0.0, cpu_seconds)
    }

    /// Returns the peak memory of the child: see [`peak_bytes`].
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.process.id().map_or(0, peak_bytes)
    }

    /// Returns the current memory of the child: see [`resident_bytes`].
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.process.id().map_or(0, resident_bytes)
    }
}

/// The process that started this one.
pub(crate) struct Parent {
    input: BufReader<Stdin>,
}

impl Parent {
    /// Connects to the parent through standard input and output.
    pub(crate) fn new() -> Self {
        Self { input: BufReader::new(stdin()) }
    }

    /// Sends a line to the parent.
    pub(crate) fn send(&self, line: &impl Serialize) -> Result<()> {
        // Standard output is flushed after each line, even if it is a pipe.
        println!("{}", serde_json::to_string(line)?);
        Ok(())
    }

    /// Receives the next line from the parent. Returns `None` when the parent has closed this process's
    /// input.
    pub(crate) async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let mut line = String::new();
        self.input.read_line(&mut line).await?;
        if line.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&line)?)) }
    }

    /// Waits until the parent closes this process's input.
    pub(crate) async fn wait_for_end(&mut self) -> Result<()> {
        while self.receive::<serde_json::Value>().await?.is_some() {}
        Ok(())
    }
}

/// Returns the processor time of all threads of a process so far, in seconds, with a resolution of 10 ms.
/// Returns 0 on systems without `/proc`.
pub(crate) fn cpu_seconds(process: u32) -> f64 {
    stat_seconds(process, OWN_TIME)
}

/// Returns the processor time of the ended children of `process`, in seconds: see [`cpu_seconds`].
pub(crate) fn ended_cpu_seconds(process: u32) -> f64 {
    stat_seconds(process, ENDED_TIME)
}

/// Number of the first of two fields in `/proc/PID/stat`: user time and system time. The fields are counted
/// from 1. The two fields after them are the times of ended children and their children (proc(5)).
const OWN_TIME: usize = 14;
const ENDED_TIME: usize = 16;

fn stat_seconds(process: u32, first: usize) -> f64 {
    /// Number of ticks per second in `/proc`. It does not depend on the kernel's own timer (proc(5)).
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name of the process is in brackets and may itself contain brackets. Field 3 follows the last
    // bracket.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 =
        rest.split_whitespace().skip(first - 3).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND
}

/// The processor time of each thread of a process, in nanoseconds. The resolution is much finer than that of
/// [`cpu_seconds`]. Empty on systems without `/proc`.
#[derive(Debug)]
pub(crate) struct ThreadTimes(BTreeMap<OsString, u64>);

impl ThreadTimes {
    /// Reads the times of the threads so far.
    pub(crate) fn of(process: u32) -> Self {
        let threads = std::fs::read_dir(format!("/proc/{process}/task"));
        let time = |thread: DirEntry| {
            let stat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            Some((thread.file_name(), stat.split_whitespace().next()?.parse().ok()?))
        };
        Self(threads.into_iter().flatten().flatten().filter_map(time).collect())
    }

    /// Returns the processor time of all threads since `before`, in seconds. Leaves out threads that have
    /// ended since then.
    pub(crate) fn seconds_since(&self, before: &Self) -> f64 {
        let since = |(thread, now): (_, &u64)| {
            now.saturating_sub(before.0.get(thread).copied().unwrap_or_default())
        };
        self.0.iter().map(since).sum::<u64>() as f64 / 1e9
    }
}

/// Checks that this process and its children may open `needed` files and connections.
pub(crate) fn check_open_files(needed: usize) -> Result<()> {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let limit = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    match limit {
        Some(limit) if limit < needed => bail!(
            "{needed} open files are needed but only {limit} are allowed: raise the limit (ulimit -n)"
        ),
        _ => Ok(()),
    }
}

/// Returns the resident memory of a process (VmRSS), in bytes. Returns 0 on systems without
/// `/proc`.
pub(crate) fn resident_bytes(process: u32) -> u64 {
    status_bytes(process, "VmRSS:")
}

/// Returns the peak of [`resident_bytes`] (VmHWM).
pub(crate) fn peak_bytes(process: u32) -> u64 {
    status_bytes(process, "VmHWM:")
}

fn status_bytes(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let kib = line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default();
    kib << 10
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn time_and_memory_of_a_process_are_read() {
        let own = std::process::id();
        let (before, threads_before) = (cpu_seconds(own), ThreadTimes::of(own));
        let start = std::time::Instant::now();
        let mut sum = 0_u64;
        while start.elapsed().as_millis() < 100 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_seconds(own) > before);
        let seconds = ThreadTimes::of(own).seconds_since(&threads_before);
        assert!(seconds > 0.02, "{seconds}");
        assert!(resident_bytes(own) > 1 << 20);
        assert!(peak_bytes(own) >= resident_bytes(own));
        assert_eq!(resident_bytes(u32::MAX), 0);
    }
}
