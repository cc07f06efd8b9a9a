//! The jobs of the bench, and the form in which another process gets one.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::system::System;

/// A workload: a module in [`workloads`](crate::workloads).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    /// As many messages as possible, one way.
    Throughput,
    /// As many messages as possible, both ways at once.
    BothWays,
    /// One message back and forth.
    Latency,
    /// Bulk data on byte streams.
    Streams,
    /// The time until a new process has sent its first message.
    Start,
    /// Each message to many peers at once.
    FanOut,
    /// Making many links.
    Connections,
    /// Idle links.
    Idle,
    /// One message back and forth, beside a peer that floods.
    Fairness,
    /// Many peers that do not read.
    Unread,
    /// Broadcasts through a network of many nodes.
    Network,
    /// A file, from one process to another's disk.
    File,
    /// A file from several sources with an upload limit.
    FileSources,
    /// A file from one source with an upload limit, to many.
    FileSwarm,
    /// A folder of small files.
    Folder,
    /// Hashing a file before it is shared.
    Hashing,
    /// A file that is larger than memory.
    FileHuge,
}

/// One case of a workload, for every system.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// Its name in tables: `64 B`, `32 peers`.
    pub name: String,
    /// Its number: bytes, or peers.
    pub amount: usize,
}

/// One measurement.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// The workload.
    pub workload: Workload,
    /// The system.
    pub system: System,
    /// The case of the workload.
    pub case: Case,
    /// Its duration, if the workload has one.
    pub length: Duration,
    /// The folder for files.
    pub place: PathBuf,
}

/// Options of the run, which apply to all workloads.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    /// Bytes of a message or file, in place of each workload's own.
    pub bytes: Option<usize>,
    /// Run the largest cases as well.
    pub large: bool,
    /// Use smaller amounts than usual. Such a run only checks that everything arrives.
    pub short: bool,
}

impl Workload {
    const ALL: [Self; 17] = [
        Self::Throughput,
        Self::BothWays,
        Self::Latency,
        Self::Streams,
        Self::Start,
        Self::FanOut,
        Self::Connections,
        Self::Idle,
        Self::Fairness,
        Self::Unread,
        Self::Network,
        Self::File,
        Self::FileSources,
        Self::FileSwarm,
        Self::Folder,
        Self::Hashing,
        Self::FileHuge,
    ];

    /// Returns the name, for reports and command lines.
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
        found.with_context(|| format!("no workload `{name}`; there are {names}, and `all`"))
    }

    /// Returns the systems that the others are compared with.
    pub(crate) fn reference(self) -> System {
        match self {
            Self::File | Self::FileHuge => System::Curl,
            Self::Folder => System::Rsync,
            Self::Hashing => System::B3sum,
            _ => System::RawTls,
        }
    }

    /// Returns the longest time of one measurement, without its duration.
    pub(crate) fn patience(self) -> Duration {
        match self {
            Self::FileHuge => Duration::from_secs(3600),
            _ => Duration::from_secs(60),
        }
    }

    /// Returns the workloads with these names. `all` is each of them that does not take minutes and a
    /// large disk.
    pub(crate) fn listed(names: &[String]) -> Result<Vec<Self>> {
        if names.iter().any(|name| name == "all") {
            return Ok(Self::ALL.into_iter().filter(|each| *each != Self::FileHuge).collect());
        }
        names.iter().map(|name| Self::named(name)).collect()
    }
}

impl Wanted {
    /// Returns cases of bytes: `usual` ones, or `short` ones for a short run.
    pub(crate) fn size(self, usual: usize, short: usize) -> usize {
        self.bytes.unwrap_or(if self.short { short } else { usual })
    }
}

impl Case {
    /// Returns cases with numbers of things.
    pub(crate) fn count(amount: usize, thing: &str) -> Self {
        let plural = if amount == 1 { "" } else { "s" };
        Self { name: format!("{amount} {thing}{plural}"), amount }
    }

    /// Returns a case of messages or files of `size` bytes.
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
    /// Returns the arguments for another process.
    pub(crate) fn words(&self) -> [String; 6] {
        let (workload, system) = (self.workload.name(), self.system.name());
        let amount = self.case.amount.to_string();
        let length = self.length.as_millis().to_string();
        let place = self.place.to_string_lossy().into_owned();
        [workload.into(), system.into(), self.case.name.clone(), amount, length, place]
    }

    /// Returns the arguments for a process with a role of its own: `rest`.
    pub(crate) fn role(&self, rest: &[&str]) -> Vec<String> {
        self.words().into_iter().chain(rest.iter().map(|word| (*word).to_owned())).collect()
    }

    /// Returns the job that this process was started for, and the arguments behind it.
    pub(crate) fn from_words(
        mut words: impl Iterator<Item = String>,
    ) -> Result<(Self, Vec<String>)> {
        let mut word = || words.next().context("such a process is started by the program itself");
        let workload = Workload::named(&word()?)?;
        let system = System::named(&word()?)?;
        let case = Case { name: word()?, amount: word()?.parse()? };
        let length = Duration::from_millis(word()?.parse()?);
        let place = word()?.into();
        Ok((Self { workload, system, case, length, place }, words.collect()))
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.workload.name(), self.system.name(), self.case.name)
    }
}
