//! What there is to measure, and how another process is told of it.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::system::System;

/// A workload: a module in [`workloads`](crate::workloads).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    /// As many messages as will go, one way.
    Throughput,
    /// As many messages as will go, both ways at once.
    BothWays,
    /// One message to and fro.
    Latency,
    /// Bulk data on byte streams.
    Streams,
    /// How soon a process has sent its first message.
    Start,
    /// Each message to many at once.
    FanOut,
    /// Many links that are made.
    Connections,
    /// Links on which nothing happens.
    Idle,
    /// One message to and fro, beside another who floods.
    Fairness,
    /// Many who do not read.
    Unread,
    /// Broadcasts through a network of many nodes.
    Network,
}

/// One of the cases that a workload has for each system.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// As it stands in tables: `64 B`, `32 peers`.
    pub name: String,
    /// The number in it: bytes, peers.
    pub amount: usize,
}

/// One measurement to make.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// How.
    pub workload: Workload,
    /// Of what.
    pub system: System,
    /// Of the workload's cases the one.
    pub case: Case,
    /// How long it is to run, if it has a length.
    pub length: Duration,
}

impl Workload {
    const ALL: [Self; 11] = [
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
    ];

    /// The name, in reports and on command lines.
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
        }
    }

    fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|known| known.name() == name);
        let names = Self::ALL.map(Self::name).join(", ");
        found.with_context(|| format!("no workload `{name}`; there are {names}, and `all`"))
    }

    /// Those of these names, where `all` is each of them.
    pub(crate) fn listed(names: &[String]) -> Result<Vec<Self>> {
        if names.iter().any(|name| name == "all") {
            return Ok(Self::ALL.to_vec());
        }
        names.iter().map(|name| Self::named(name)).collect()
    }
}

impl Case {
    /// So many of a thing.
    pub(crate) fn count(amount: usize, thing: &str) -> Self {
        let plural = if amount == 1 { "" } else { "s" };
        Self { name: format!("{amount} {thing}{plural}"), amount }
    }

    /// Messages of `size` bytes.
    pub(crate) fn bytes(size: usize) -> Self {
        let name = match size {
            size if size >= 1 << 10 && size.is_multiple_of(1 << 10) => {
                format!("{} KiB", size >> 10)
            }
            size => format!("{size} B"),
        };
        Self { name, amount: size }
    }
}

impl Job {
    /// What another process is told of it.
    pub(crate) fn words(&self) -> [String; 5] {
        let (workload, system) = (self.workload.name(), self.system.name());
        let amount = self.case.amount.to_string();
        let length = self.length.as_millis().to_string();
        [workload.into(), system.into(), self.case.name.clone(), amount, length]
    }

    /// The words for a process that has a role of its own in it: `rest`.
    pub(crate) fn role(&self, rest: &[&str]) -> Vec<String> {
        self.words().into_iter().chain(rest.iter().map(|word| (*word).to_owned())).collect()
    }

    /// The job that this process was started for, and the words after it.
    pub(crate) fn from_words(
        mut words: impl Iterator<Item = String>,
    ) -> Result<(Self, Vec<String>)> {
        let mut word = || words.next().context("such a process is started by the program itself");
        let workload = Workload::named(&word()?)?;
        let system = System::named(&word()?)?;
        let case = Case { name: word()?, amount: word()?.parse()? };
        let length = Duration::from_millis(word()?.parse()?);
        Ok((Self { workload, system, case, length }, words.collect()))
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.workload.name(), self.system.name(), self.case.name)
    }
}
