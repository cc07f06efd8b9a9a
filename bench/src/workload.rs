//! The names of the workloads, their cases, and the job that a child process gets.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::system::System;

/// A workload. Each has a module in [`workloads`](crate::workloads).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    /// Sends as many messages as possible, one way.
    Throughput,
    /// Sends as many messages as possible, both ways at the same time.
    BothWays,
    /// Sends one message back and forth.
    Latency,
    /// Sends bulk data on byte streams.
    Streams,
    /// Measures the time until a new process has sent its first message.
    Start,
    /// Sends each message to many peers.
    FanOut,
    /// Makes many links as fast as possible.
    Connections,
    /// Keeps many idle links.
    Idle,
    /// Sends one message back and forth while another process floods the same node.
    Fairness,
    /// Measures honest nodes while many attackers are linked to one of them.
    Hostile,
    /// Runs twelve programs for a long time, with restarts and an attacker.
    Soak,
    /// Sends to many peers that do not read.
    Unread,
    /// Sends broadcasts through a network of many nodes.
    Network,
    /// Fetches a file from one source to the disk of another process.
    File,
    /// Fetches a file from several sources with a limited upload rate.
    FileSources,
    /// Many nodes fetch a file from one source with a limited upload rate.
    FileSwarm,
    /// Fetches a folder of small files.
    Folder,
    /// Hashes a file before it is shared.
    Hashing,
    /// Fetches a file that is larger than memory.
    FileHuge,
}

/// One case of a workload.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// The name in tables, such as `64 B` or `32 peers`.
    pub name: String,
    /// The number in the name, such as bytes or peers.
    pub amount: usize,
}

/// One measurement to make.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// The workload to measure.
    pub workload: Workload,
    /// The system to measure.
    pub system: System,
    /// The case of the workload.
    pub case: Case,
    /// The duration of the measurement, if the workload has a duration.
    pub duration: Duration,
    /// The folder for files.
    pub folder: PathBuf,
}

/// Options that select and change the cases of a workload.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CaseOptions {
    /// Size of a message or file in bytes, instead of the workload's default.
    pub bytes: Option<usize>,
    /// Adds the largest cases.
    pub large: bool,
    /// Uses smaller sizes. Such a run only checks that everything arrives.
    pub short: bool,
}

impl Workload {
    const ALL: [Self; 19] = [
        Self::Throughput,
        Self::BothWays,
        Self::Latency,
        Self::Streams,
        Self::Start,
        Self::FanOut,
        Self::Connections,
        Self::Idle,
        Self::Fairness,
        Self::Hostile,
        Self::Soak,
        Self::Unread,
        Self::Network,
        Self::File,
        Self::FileSources,
        Self::FileSwarm,
        Self::Folder,
        Self::Hashing,
        Self::FileHuge,
    ];

    /// Returns the name used in reports and on command lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::BothWays => "both-ways",
            Self::Latency => "latency",
            Self::Streams => "streams",
            Self::Start => "start",
            Self::FanOut => "fan-out",
            Self::Connections => "connections",
            Self::Idle => "idle",
            Self::Fairness => "fairness",
            Self::Hostile => "hostile",
            Self::Soak => "soak",
            Self::Unread => "unread",
            Self::Network => "network",
            Self::File => "file",
            Self::FileSources => "file-sources",
            Self::FileSwarm => "file-swarm",
            Self::Folder => "folder",
            Self::Hashing => "hashing",
            Self::FileHuge => "file-huge",
        }
    }

    fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|known| known.name() == name);
        let names = Self::ALL.map(Self::name).join(", ");
        found.with_context(|| format!("unknown workload `{name}`; known are {names}, and `all`"))
    }

    /// Returns the system with which all other systems are compared.
    pub(crate) fn reference(self) -> System {
        match self {
            Self::File | Self::FileHuge => System::Curl,
            Self::Folder => System::Rsync,
            Self::Hashing => System::B3sum,
            _ => System::RawTls,
        }
    }

    /// Returns the time limit of one measurement, in addition to its duration.
    pub(crate) fn time_limit(self) -> Duration {
        match self {
            Self::FileHuge => Duration::from_secs(3600),
            // The start and the last commands may take long on a busy machine.
            Self::Soak => Duration::from_secs(600),
            // The networks have to settle, a thousand links to form, and late broadcasts to arrive.
            Self::Hostile => Duration::from_secs(120),
            _ => Duration::from_secs(60),
        }
    }

    /// Returns the workloads with these names. `all` stands for every workload except
    /// [`Workload::FileHuge`], which takes minutes and a large disk, [`Workload::Hostile`], which needs two
    /// processors for itself, and [`Workload::Soak`], which means nothing in seconds.
    pub(crate) fn listed(names: &[String]) -> Result<Vec<Self>> {
        if names.iter().any(|name| name == "all") {
            let in_all = |each: &Self| !matches!(each, Self::FileHuge | Self::Hostile | Self::Soak);
            return Ok(Self::ALL.into_iter().filter(in_all).collect());
        }
        names.iter().map(|name| Self::named(name)).collect()
    }
}

impl CaseOptions {
    /// Returns the size given by the user. If there is none, returns `short` for a short run, and `usual`
    /// otherwise.
    pub(crate) fn size(self, usual: usize, short: usize) -> usize {
        self.bytes.unwrap_or(if self.short { short } else { usual })
    }
}

impl Case {
    /// Creates a case whose name consists of an amount and a noun, such as `32 peers`.
    pub(crate) fn count(amount: usize, noun: &str) -> Self {
        let plural = if amount == 1 { "" } else { "s" };
        Self { name: format!("{amount} {noun}{plural}"), amount }
    }

    /// Creates a case of messages or files of `size` bytes.
    pub(crate) fn bytes(size: usize) -> Self {
        let name = match size {
            size if size >= 1 << 30 && size.is_multiple_of(1 << 30) => {
                format!("{} GiB", size >> 30)
            }
            size if size >= 1 << 20 && size.is_multiple_of(1 << 20) => {
                format!("{} MiB", size >> 20)
            }
            size if size >= 1 << 10 && size.is_multiple_of(1 << 10) => {
                format!("{} KiB", size >> 10)
            }
            size => format!("{size} B"),
        };
        Self { name, amount: size }
    }
}

impl Job {
    /// Returns the arguments that describe this job to a child process.
    pub(crate) fn to_args(&self) -> [String; 6] {
        let (workload, system) = (self.workload.name(), self.system.name());
        let amount = self.case.amount.to_string();
        let duration = self.duration.as_millis().to_string();
        let folder = self.folder.to_string_lossy().into_owned();
        [workload.into(), system.into(), self.case.name.clone(), amount, duration, folder]
    }

    /// Returns the arguments of this job, followed by `rest`, for a child process with a role.
    pub(crate) fn args_with_role(&self, rest: &[&str]) -> Vec<String> {
        self.to_args().into_iter().chain(rest.iter().map(|word| (*word).to_owned())).collect()
    }

    /// Parses the job that this process was started for. Also returns the remaining arguments.
    pub(crate) fn from_args(
        mut arguments: impl Iterator<Item = String>,
    ) -> Result<(Self, Vec<String>)> {
        let mut next =
            || arguments.next().context("only this program itself may use the argument `role`");
        let workload = Workload::named(&next()?)?;
        let system = System::named(&next()?)?;
        let case = Case { name: next()?, amount: next()?.parse()? };
        let duration = Duration::from_millis(next()?.parse()?);
        let folder = next()?.into();
        Ok((Self { workload, system, case, duration, folder }, arguments.collect()))
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.workload.name(), self.system.name(), self.case.name)
    }
}
