//! Two processes: this one measures, and the other is this program again, as the receiver.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::flow::Arrived;
use crate::{node, raw};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum System {
    /// tokio-rustls, length-prefixed, in batches of 64 KiB: what the machine can do at the most.
    RawTls,
    /// A node, with a handler.
    Peerkit,
}

/// How it is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Workload {
    /// As many messages as will go, one way.
    Throughput,
    /// One message to and fro.
    Latency,
}

/// One measurement to make.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Job {
    /// Of what.
    pub system: System,
    /// How.
    pub workload: Workload,
    /// Bytes of a message.
    pub size: usize,
}

/// One measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Measurement {
    /// What was measured.
    #[serde(flatten)]
    pub job: Job,
    /// Messages, or rounds.
    pub count: u64,
    /// How long they took.
    pub seconds: f64,
    /// Processor time of the measuring process and of the receiver, in seconds.
    pub cpu: [f64; 2],
    /// What came of it.
    #[serde(flatten)]
    pub figures: Figures,
}

/// What came of a measurement.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
pub(crate) enum Figures {
    /// Of throughput; a MB is 10^6 bytes of messages.
    Throughput {
        /// Messages a second.
        messages_per_s: f64,
        /// MB a second.
        mb_per_s: f64,
    },
    /// Of latency, in microseconds.
    Latency {
        /// Half of the rounds took no longer.
        p50_us: f64,
        /// 99 of 100 took no longer.
        p99_us: f64,
        /// 999 of 1,000 took no longer.
        p999_us: f64,
    },
}

/// What the receiver says at its end.
#[derive(Debug, Serialize, Deserialize)]
struct Received {
    arrived: Option<Arrived>,
    cpu: f64,
}

impl System {
    /// All of them, the reference first.
    pub(crate) const ALL: [Self; 2] = [Self::RawTls, Self::Peerkit];

    /// The one of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    /// The name, in tables and on command lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RawTls => "raw TLS",
            Self::Peerkit => "peerkit",
        }
    }
}

impl Job {
    fn words(self) -> [String; 3] {
        let workload = match self.workload {
            Workload::Throughput => "throughput",
            Workload::Latency => "latency",
        };
        [self.system.name().into(), workload.into(), self.size.to_string()]
    }

    /// The job that a receiver was started for.
    pub(crate) fn from_words(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut word = || words.next().context("a receiver is started by the program itself");
        let system = System::named(&word()?);
        let workload = match word()?.as_str() {
            "throughput" => Workload::Throughput,
            "latency" => Workload::Latency,
            other => bail!("no workload `{other}`"),
        };
        Ok(Self { system: system.context("no such system")?, workload, size: word()?.parse()? })
    }
}

/// Runs a receiver in another process, and measures.
pub(crate) async fn measure(job: Job, length: Duration) -> Result<Measurement> {
    let mut receiver = Receiver::start(job).await?;
    let before = cpu();
    let to = receiver.at;
    let (count, times) = match (job.system, job.workload) {
        (System::RawTls, Workload::Throughput) => (raw::send(to, job.size, length).await?, None),
        (System::Peerkit, Workload::Throughput) => (node::send(to, job.size, length).await?, None),
        (System::RawTls, Workload::Latency) => (0, Some(raw::ping(to, job.size, length).await?)),
        (System::Peerkit, Workload::Latency) => (0, Some(node::ping(to, job.size, length).await?)),
    };
    let sent_cpu = cpu() - before;
    let received = receiver.end().await?;
    let cpu = [sent_cpu, received.cpu];
    if let Some(times) = times {
        let at = |share: f64| {
            let index = (times.len() as f64 * share) as usize;
            times.get(index.min(times.len() - 1)).map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        ensure!(!times.is_empty(), "no rounds");
        let figures = Figures::Latency { p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999) };
        let seconds = times.iter().sum::<Duration>().as_secs_f64();
        return Ok(Measurement { job, count: times.len() as u64, seconds, cpu, figures });
    }
    let arrived = received.arrived.context("the receiver has no account")?;
    ensure!(
        arrived.messages == count && arrived.disordered == 0,
        "{}: {count} messages of {} bytes were sent, {} arrived, {} out of order",
        job.system.name(),
        job.size,
        arrived.messages,
        arrived.disordered
    );
    let seconds = arrived.elapsed.as_secs_f64();
    let messages_per_s = count as f64 / seconds;
    let mb_per_s = messages_per_s * job.size as f64 / 1e6;
    let figures = Figures::Throughput { messages_per_s, mb_per_s };
    Ok(Measurement { job, count, seconds, cpu, figures })
}

/// The receiver's whole life: says where it listens, receives, and gives its account.
pub(crate) async fn receive(job: Job) -> Result<()> {
    let before = cpu();
    let arrived = match (job.system, job.workload) {
        (System::RawTls, Workload::Throughput) => Some(raw::receive(listening).await?),
        (System::Peerkit, Workload::Throughput) => Some(node::receive(listening).await?),
        (System::RawTls, Workload::Latency) => raw::echo(listening).await.map(|()| None)?,
        (System::Peerkit, Workload::Latency) => node::echo(listening).await.map(|()| None)?,
    };
    println!("{}", serde_json::to_string(&Received { arrived, cpu: cpu() - before })?);
    Ok(())
}

/// Tells the measuring process where the receiver listens.
fn listening(at: SocketAddr) {
    println!("{at}");
}

/// The other process.
struct Receiver {
    child: Child,
    out: BufReader<ChildStdout>,
    at: SocketAddr,
}

impl Receiver {
    async fn start(job: Job) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("receive").args(job.words()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("can't start the receiver")?;
        let mut out = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        out.read_line(&mut line).await?;
        let at = line.trim().parse().context("the receiver does not listen")?;
        Ok(Self { child, out, at })
    }

    async fn end(&mut self) -> Result<Received> {
        let mut account = String::new();
        self.out.read_to_string(&mut account).await?;
        let status = self.child.wait().await?;
        ensure!(status.success(), "the receiver failed: {status}");
        serde_json::from_str(&account).context("the receiver's account can't be read")
    }
}

/// This process's processor time so far, in seconds; 0 where the system does not tell it this way.
fn cpu() -> f64 {
    /// Ticks a second in /proc: fixed, whatever the kernel's own timer is (proc(5)).
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in brackets, may hold anything; user and system time are fields 14 and 15.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 =
        rest.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
    ticks / TICKS
}
