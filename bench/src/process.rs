//! Other processes: this program again, in a role. Parent and child say JSON lines to each other.
//!
//! A child says one line when it is ready and one account at its end; then it stays until its input
//! ends, because what it sent may still be on its way. So it ends too when its parent does.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::DirEntry;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Stdin, stdin};
use tokio::process::{ChildStdin, ChildStdout, Command};

/// The command line's first word where this program is started by itself.
pub(crate) const ROLE: &str = "role";

/// A process that was started here. Dropping it ends it.
pub(crate) struct Child {
    process: tokio::process::Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Child {
    /// Starts this program again, with `words` for [`Workload::play`](crate::job::Workload::play).
    pub(crate) fn start<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(ROLE).args(words);
        Self::run(command)
    }

    /// As [`Child::start`], at the lowest priority.
    pub(crate) fn start_low<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> Result<Self> {
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(std::env::current_exe()?).arg(ROLE).args(words);
        Self::run(command)
    }

    /// Starts another program that speaks the same way.
    pub(crate) fn run(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().context("can't start another process")?;
        let input = process.stdin.take().context("no input")?;
        let output = BufReader::new(process.stdout.take().context("no output")?);
        Ok(Self { process, input, output })
    }

    /// The next line that it says.
    ///
    /// # Errors
    /// Where it ends, or says something else.
    pub(crate) async fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.output.read_line(&mut line).await?;
        if line.is_empty() {
            let status = self.process.wait().await?;
            bail!("the other process has ended: {status}");
        }
        serde_json::from_str(&line).with_context(|| format!("the other process says {line:?}"))
    }

    /// Says a line to it.
    pub(crate) async fn say(&mut self, line: &(impl Serialize + Sync)) -> Result<()> {
        let mut line = serde_json::to_vec(line)?;
        line.push(b'\n');
        self.input.write_all(&line).await?;
        Ok(self.input.flush().await?)
    }

    /// Lets it go, once its account was heard, and waits for its end.
    ///
    /// # Errors
    /// Where it failed.
    pub(crate) async fn end(mut self) -> Result<()> {
        drop(self.input);
        let status = self.process.wait().await?;
        ensure!(status.success(), "the other process failed: {status}");
        Ok(())
    }

    /// Its number.
    pub(crate) fn id(&self) -> Result<u32> {
        self.process.id().context("the other process has ended")
    }

    /// Stops it where it is: its connections stay, and nobody reads from them. It can still be
    /// ended by dropping it.
    pub(crate) async fn pause(&self) -> Result<()> {
        self.signal("-STOP").await
    }

    /// Lets it go on.
    pub(crate) async fn resume(&self) -> Result<()> {
        self.signal("-CONT").await
    }

    async fn signal(&self, signal: &str) -> Result<()> {
        let process = self.id()?.to_string();
        let status = Command::new("kill").args([signal, &process]).status().await;
        let status = status.context("can't run `kill`")?;
        ensure!(status.success(), "`kill {signal}` failed: {status}");
        Ok(())
    }

    /// Processor time that it has had so far, as [`cpu_seconds`].
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.process.id().map_or(0.0, cpu_seconds)
    }

    /// The most memory that it has had, as [`peak_bytes`].
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.process.id().map_or(0, peak_bytes)
    }

    /// Its memory now, as [`resident_bytes`].
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.process.id().map_or(0, resident_bytes)
    }
}

/// The process that started this one.
pub(crate) struct Parent {
    input: BufReader<Stdin>,
}

impl Parent {
    /// The process at the other end of standard input and output.
    pub(crate) fn new() -> Self {
        Self { input: BufReader::new(stdin()) }
    }

    /// Says a line.
    pub(crate) fn say(&self, line: &impl Serialize) -> Result<()> {
        println!("{}", serde_json::to_string(line)?);
        Ok(())
    }

    /// The next line that it says; none once it lets this process go.
    pub(crate) async fn hear<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let mut line = String::new();
        self.input.read_line(&mut line).await?;
        if line.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&line)?)) }
    }

    /// Waits until it lets this process go.
    pub(crate) async fn gone(&mut self) -> Result<()> {
        while self.hear::<serde_json::Value>().await?.is_some() {}
        Ok(())
    }
}

/// Processor time of a process so far, all its threads', in seconds, to 10 ms. 0 where the system
/// does not tell it this way.
pub(crate) fn cpu_seconds(process: u32) -> f64 {
    stat_seconds(process, OWN)
}

/// Processor time of those processes that this one has started and that have ended, as
/// [`cpu_seconds`].
pub(crate) fn ended_cpu_seconds(process: u32) -> f64 {
    stat_seconds(process, ENDED)
}

/// User and system time are fields 14 and 15 of a process's stat, counted from 1; those of its
/// children that have ended, and theirs, 16 and 17 (proc(5)).
const OWN: usize = 14;
const ENDED: usize = 16;

fn stat_seconds(process: u32, first: usize) -> f64 {
    /// Ticks a second in /proc: fixed, whatever the kernel's own timer is (proc(5)).
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name, in brackets, may hold anything; after it comes field 3.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 =
        rest.split_whitespace().skip(first - 3).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
    ticks / TICKS
}

/// Processor time of a process's threads, by their numbers, in nanoseconds: far finer than
/// [`cpu_seconds`]. Empty where the system does not tell it this way.
#[derive(Debug)]
pub(crate) struct ThreadTimes(BTreeMap<OsString, u64>);

impl ThreadTimes {
    /// The times so far.
    pub(crate) fn of(process: u32) -> Self {
        let threads = std::fs::read_dir(format!("/proc/{process}/task"));
        let time = |thread: DirEntry| {
            let stat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            Some((thread.file_name(), stat.split_whitespace().next()?.parse().ok()?))
        };
        Self(threads.into_iter().flatten().flatten().filter_map(time).collect())
    }

    /// Seconds of all threads since `before`. What a thread that has ended since then had is lost.
    pub(crate) fn seconds_since(&self, before: &Self) -> f64 {
        let since = |(thread, now): (_, &u64)| {
            now.saturating_sub(before.0.get(thread).copied().unwrap_or_default())
        };
        self.0.iter().map(since).sum::<u64>() as f64 / 1e9
    }
}

/// Checks that this process, and those it starts, may have `needed` files and connections open.
pub(crate) fn check_open_files(needed: usize) -> Result<()> {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let limit = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    match limit {
        Some(limit) if limit < needed => bail!(
            "{needed} open files are needed and {limit} allowed: raise the limit (ulimit -n) first"
        ),
        _ => Ok(()),
    }
}

/// Memory of a process that is in use and not elsewhere (VmRSS), in bytes. 0 where the system does
/// not tell it this way.
pub(crate) fn resident_bytes(process: u32) -> u64 {
    status_bytes(process, "VmRSS:")
}

/// The most that [`resident_bytes`] has been (VmHWM).
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
    fn a_process_has_time_and_memory() {
        let own = std::process::id();
        let (before, threads_before) = (cpu_seconds(own), ThreadTimes::of(own));
        let began = std::time::Instant::now();
        let mut sum = 0_u64;
        while began.elapsed().as_millis() < 100 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_seconds(own) > before);
        let had = ThreadTimes::of(own).seconds_since(&threads_before);
        assert!(had > 0.02, "{had}");
        assert!(resident_bytes(own) > 1 << 20);
        assert!(peak_bytes(own) >= resident_bytes(own));
        assert_eq!(resident_bytes(u32::MAX), 0);
    }
}
