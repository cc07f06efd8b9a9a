//! Scenarios: what a network is put through and what has to come of it, as data.
//!
//! A scenario has nodes, what lies between them, and steps, one after the other. All that a step does
//! begins at once; it is over when the last of it is. Then what it expects is measured. A node of a
//! scenario runs an application that keeps account of the broadcasts that it gets.
//!
//! `peerkit sim --help` shows how they are written down.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::{Latency, Network};

mod account;
mod judge;
mod measure;
mod run;

pub use measure::{Bound, Figure, Measure, Report};
pub use run::{Progress, run};

/// What a network is put through.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is called.
    pub name: String,
    /// What it shows.
    #[serde(default)]
    pub about: String,
    /// How many nodes.
    pub nodes: usize,
    /// How far nodes are from each other: `"internet"`, `"20ms"` or `"10ms to 200ms"`.
    #[serde(default = "internet", deserialize_with = "latency")]
    pub latency: Latency,
    /// How much longer a frame may take, at most.
    #[serde(default)]
    pub jitter: Span,
    /// Bytes a second that a link carries each way; 0 where they don't matter.
    #[serde(default)]
    pub bandwidth: u64,
    /// How many of a hundred nodes can't be dialled.
    #[serde(default)]
    pub nat_percent: u8,
    /// How many of a hundred nodes lie.
    #[serde(default)]
    pub liars_percent: u8,
    /// What it may take of the machine that it is run on. Whoever runs it measures that.
    #[serde(default)]
    pub limits: Limits,
    /// What happens, one step after the other.
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
}

/// What a run may take of the machine that it is run on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The time on the clock on the wall.
    pub real_time: Option<Span>,
    /// The memory, in MiB.
    pub memory_mib: Option<u64>,
}

/// One step. All that it does begins at once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Step {
    /// What it is called; else named after what it does.
    pub title: String,
    /// The nodes come.
    pub join: Option<Join>,
    /// Some broadcast.
    pub broadcast: Option<Broadcasts>,
    /// Nodes crash, all at one moment.
    pub crash: Option<Crash>,
    /// Nodes crash one by one, and new ones come.
    pub replace: Option<Replace>,
    /// The network is split, and heals.
    pub partition: Option<Partition>,
    /// Somebody discovers the network.
    pub discover: Option<Discover>,
    /// It takes at least this long.
    pub wait: Span,
    /// What has to come of it.
    pub expect: Expect,
}

/// The nodes come, at even times, and join. Who fails tries again every five seconds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// How many are there at first, for the others to join through.
    #[serde(default = "one")]
    pub through: usize,
    /// In which time the others come.
    pub within: Span,
}

/// Nodes broadcast.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broadcasts {
    /// How many nodes take turns, the same in all steps; 0 has the author drawn each time anew.
    #[serde(default)]
    pub authors: usize,
    /// The time between two broadcasts of the network.
    pub every: Span,
    /// How long they go on.
    #[serde(rename = "for")]
    pub time: Span,
    /// Bytes of each.
    #[serde(default = "hundred")]
    pub size: usize,
    /// The time that each has to get everywhere, from when it was written, or from when the network
    /// hung together again. Nodes that are there for all of it have to have it.
    #[serde(default = "patience")]
    pub patience: Span,
}

/// Nodes crash at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crash {
    /// How many of a hundred.
    pub percent: u8,
    /// Whether they vanish instead: nothing tells the others.
    #[serde(default)]
    pub silently: bool,
}

/// Nodes crash one by one, and for each a new one joins through one that is there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replace {
    /// How many of a hundred in a minute.
    pub percent_per_minute: u8,
    /// How long it goes on.
    #[serde(rename = "for")]
    pub time: Span,
}

/// The network is split, and heals.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// Into how many parts of the same size.
    #[serde(default = "two")]
    pub parts: usize,
    /// How long it stays so.
    #[serde(rename = "for")]
    pub time: Span,
}

/// A node, drawn, discovers the network. The step goes on until it is done.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discover {
    /// How far; -1 for all of it.
    #[serde(default = "minus_one")]
    pub depth: i32,
}

/// What has to come of a step: each is measured when it is over, where a bound is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// Nodes that run and are no members, at most.
    pub not_joined: Option<u64>,
    /// Parts of the network that hang together, exactly.
    pub components: Option<u64>,
    /// Links that a node has beyond its view's limit and those that are pinned, at most; not those that
    /// are just being traded.
    pub links_over_view: Option<u64>,
    /// When the network hung together again for good, from when it was last disturbed, at most.
    pub one_component_within: Option<Span>,
    /// Of a hundred broadcasts and nodes that were to get them those that did, at least.
    pub delivered_percent: Option<u64>,
    /// Broadcasts that an application got more than once, at most.
    pub delivered_twice: Option<u64>,
    /// Broadcasts that an application got and nobody wrote, at most.
    pub altered: Option<u64>,
    /// When the last node had a broadcast, from when it was written or the network hung together
    /// again, at most.
    pub delivered_within: Option<Span>,
    /// Broadcasts that came in for each that was new, at most.
    pub redundancy: Option<Ratio>,
    /// How much later the last node had a broadcast than over the shortest ways that there were, at
    /// most: that of the broadcast in the middle.
    pub last_node_over_best: Option<Ratio>,
    /// The same of the broadcast that was slowest by this measure.
    pub worst_over_best: Option<Ratio>,
    /// Parts that hang together of honest nodes alone, exactly.
    pub honest_components: Option<u64>,
    /// Honest neighbours of the honest node that has the fewest, at least.
    pub honest_neighbours: Option<u64>,
    /// Nodes and links that the discovery missed or made up, at most.
    pub discovery_errors: Option<u64>,
    /// Queries that came to a node beyond one for each of its links, at most.
    pub queries_over_links: Option<u64>,
}

/// A time, written `"500ms"`, `"30s"`, `"2m"` or `"1h"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Span(pub Duration);

/// A ratio, in thousandths; written as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ratio(pub u64);

impl Scenario {
    /// What is wrong with it beyond what its form shows: which key, and what is allowed.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), String> {
        let percent = |what: &str, percent: u8| match percent {
            0..=100 => Ok(()),
            more => Err(format!("`{what}` is {more}: at most 100 of a hundred")),
        };
        percent("nat_percent", self.nat_percent)?;
        percent("liars_percent", self.liars_percent)?;
        if self.nodes < 2 {
            return Err(format!("`nodes` is {}: at least 2", self.nodes));
        }
        if self.steps.is_empty() {
            return Err("there is no `[[step]]`: nothing would happen".into());
        }
        for (number, step) in self.steps.iter().enumerate() {
            let at = |error: String| format!("step {}: {error}", number + 1);
            step.check(number == 0, self.nodes).map_err(at)?;
        }
        Ok(())
    }

    /// What lies between the nodes.
    #[must_use]
    pub fn network(&self) -> Network {
        let bandwidth = (self.bandwidth > 0).then_some(self.bandwidth);
        Network { latency: self.latency, jitter: self.jitter.0, bandwidth }
    }
}

impl Step {
    fn check(&self, first: bool, nodes: usize) -> Result<(), String> {
        if first != self.join.is_some() {
            return Err("`join` belongs into the first step, and only there".into());
        }
        if let Some(join) = &self.join
            && !(1..=nodes).contains(&join.through)
        {
            return Err(format!("`join.through` is {}: 1 to {nodes}", join.through));
        }
        if let Some(broadcast) = &self.broadcast {
            if broadcast.every.0 < Duration::from_millis(1) {
                return Err("`broadcast.every` has to be at least 1ms".into());
            }
            if !(32..=60_000).contains(&broadcast.size) {
                return Err(format!("`broadcast.size` is {}: 32 to 60000", broadcast.size));
            }
        }
        if self.crash.as_ref().is_some_and(|crash| crash.percent > 95) {
            return Err("`crash.percent` is at most 95: somebody has to be left".into());
        }
        if self.partition.as_ref().is_some_and(|split| !(2..=64).contains(&split.parts)) {
            return Err("`partition.parts` has to be 2 to 64".into());
        }
        let expect = &self.expect;
        let of_broadcasts = [
            ("delivered_percent", expect.delivered_percent.is_some()),
            ("delivered_within", expect.delivered_within.is_some()),
            ("redundancy", expect.redundancy.is_some()),
            ("last_node_over_best", expect.last_node_over_best.is_some()),
            ("worst_over_best", expect.worst_over_best.is_some()),
        ];
        let named = of_broadcasts.iter().find(|(_, is_set)| *is_set);
        if let Some((name, _)) = named.filter(|_| self.broadcast.is_none()) {
            return Err(format!("`expect.{name}` needs a `broadcast` in the same step"));
        }
        let discovery = expect.discovery_errors.is_some() || expect.queries_over_links.is_some();
        if discovery && self.discover.is_none() {
            return Err(
                "what is expected of a discovery needs a `discover` in the same step".into()
            );
        }
        Ok(())
    }

    /// What to call it.
    #[must_use]
    pub fn name(&self) -> String {
        if !self.title.is_empty() {
            return self.title.clone();
        }
        let parts = [
            (self.join.is_some(), "join"),
            (self.crash.is_some(), "crash"),
            (self.replace.is_some(), "replace"),
            (self.partition.is_some(), "partition"),
            (self.broadcast.is_some(), "broadcast"),
            (self.discover.is_some(), "discover"),
        ];
        let named: Vec<_> = parts.iter().filter(|part| part.0).map(|part| part.1).collect();
        if named.is_empty() { "wait".to_owned() } else { named.join(" + ") }
    }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = match unit.trim() {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(format!("`{text}` is no time: write 500ms, 30s, 2m or 1h")),
        };
        let number: Option<u64> = number.parse().ok().filter(|number| *number < 1_000_000_000);
        let number =
            number.ok_or_else(|| format!("`{text}` is no time: write 500ms, 30s or 2m"))?;
        Ok(Self(Duration::from_millis(number * unit)))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        if !(0.0..=1e9).contains(&number) {
            return Err(D::Error::custom("a ratio has to be a number from 0 on"));
        }
        Ok(Self((number * 1000.0).round() as u64))
    }
}

fn latency<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Latency, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = |_| {
        let allowed = "\"internet\", one time as in \"20ms\", or two as in \"10ms to 200ms\"";
        D::Error::custom(format!("`latency` is {allowed}"))
    };
    if text == "internet" {
        return Ok(Latency::Internet);
    }
    let Some((min, max)) = text.split_once(" to ") else {
        return Ok(Latency::Fixed(text.parse::<Span>().map_err(wrong)?.0));
    };
    let (min, max): (Span, Span) = (min.parse().map_err(wrong)?, max.parse().map_err(wrong)?);
    Ok(Latency::Uniform { min: min.0, max: max.0.max(min.0) })
}

fn internet() -> Latency {
    Latency::Internet
}

fn one() -> usize {
    1
}

fn two() -> usize {
    2
}

fn hundred() -> usize {
    100
}

fn minus_one() -> i32 {
    -1
}

fn patience() -> Span {
    Span(Duration::from_secs(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Scenario, String> {
        let scenario: Scenario = serde_json::from_str(text).map_err(|error| error.to_string())?;
        scenario.check().map(|()| scenario)
    }

    #[test]
    fn times_read_as_they_are_written() {
        for (text, millis) in [("0s", 0), ("500ms", 500), ("30s", 30_000), ("2m", 120_000)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(millis))));
        }
        for text in ["", "5", "s", "-1s", "1.5s", "5 parsecs", "99999999999999999999s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let scenario = |rest: &str, steps: &str| {
            read(&format!(r#"{{"name": "x", "nodes": 10, {rest} "step": [{steps}]}}"#))
        };
        let join = r#"{"join": {"within": "1s"}}"#;
        assert!(scenario("", join).is_ok());
        let fails = |rest: &str, steps: &str, said: &str| {
            let error = scenario(rest, steps).unwrap_err();
            assert!(error.contains(said), "{error}");
        };
        fails("", "", "there is no `[[step]]`");
        fails("", r#"{"wait": "1s"}"#, "`join` belongs into the first step");
        fails(r#""latency": "far","#, join, "\"10ms to 200ms\"");
        fails(r#""nat_percent": 101,"#, join, "at most 100");
        fails(r#""colour": 1,"#, join, "unknown field `colour`, expected");
        fails("", r#"{"join": {"within": "1s", "through": 11}}"#, "1 to 10");
        fails("", r#"{"join": {"within": "1s"}, "expect": {"redundancy": 1}}"#, "`broadcast`");
    }
}
