//! Scenarios: files that describe a network, what happens to it, and the expected results.
//!
//! A scenario has nodes, a network between them, and steps, which run one after the other. All actions of a
//! step begin at the same time, and the step ends with its last action. Then its expectations are checked.
//! The nodes run an application that records the broadcasts that arrive.
//!
//! `peerkit sim --help` shows the format.

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

/// Maximum size of a file that is fetched. 16 MiB: the contents of a run stay in memory.
const MAX_FETCHED: usize = 16 << 20;

/// A scenario.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The scenario's name.
    pub name: String,
    /// The scenario's purpose.
    #[serde(default)]
    pub about: String,
    /// Number of nodes.
    pub nodes: usize,
    /// Latency between nodes: `"internet"`, `"20ms"` or `"10ms to 200ms"`.
    #[serde(default = "internet", deserialize_with = "latency")]
    pub latency: Latency,
    /// Maximum random delay of a frame, in addition to the latency.
    #[serde(default)]
    pub jitter: Span,
    /// Number of bytes per second that a link carries in each direction; 0 for no limit.
    #[serde(default)]
    pub bandwidth: u64,
    /// Percentage of nodes that can't be dialled.
    #[serde(default)]
    pub nat_percent: u8,
    /// The nodes that can't be dialled are behind NATs, whose kinds are drawn from [published shares](super::Nat::drawn),
    /// and all nodes punch holes and relay. If false, these nodes are behind firewalls that UDP does not cross.
    #[serde(default)]
    pub nat_kinds: bool,
    /// Percentage of nodes that lie about nodes and broadcasts.
    #[serde(default)]
    pub liars_percent: u8,
    /// Percentage of nodes that forge beacons.
    #[serde(default)]
    pub forgers_percent: u8,
    /// Limits of the program that runs the scenario. [`run()`] does not check them: the program has to.
    #[serde(default)]
    pub limits: Limits,
    /// The steps, one after the other.
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
}

/// Limits of the program that runs a scenario.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Maximum wall-clock time of a run.
    pub real_time: Option<Span>,
    /// Maximum peak memory of the whole process, in MiB. Earlier runs in the same process count too.
    pub memory_mib: Option<u64>,
}

/// One step. All its actions begin at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Step {
    /// The step's title. If it is empty, [`Step::name`] makes a name from the actions.
    pub title: String,
    /// Nodes join.
    pub join: Option<Join>,
    /// Nodes broadcast.
    pub broadcast: Option<BroadcastPlan>,
    /// Nodes fetch files from each other.
    pub fetch: Option<FetchPlan>,
    /// Nodes crash at the same moment.
    pub crash: Option<Crash>,
    /// Nodes crash one by one, and new nodes join.
    pub replace: Option<Replace>,
    /// The network is split for some time.
    pub partition: Option<Partition>,
    /// A node discovers the network.
    pub discover: Option<Discover>,
    /// Nodes flood their peers with queries.
    pub flood: Option<Flood>,
    /// An attacker surrounds honest nodes.
    pub eclipse: Option<Eclipse>,
    /// Minimum duration of the step.
    pub wait: Span,
    /// The expected results.
    pub expect: Expect,
}

/// Nodes join, at even intervals. A node that could not join tries again every five seconds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Number of nodes that start first. The other nodes join through them.
    #[serde(default = "one")]
    pub through: usize,
    /// Time in which the other nodes start.
    pub within: Span,
}

/// Nodes broadcast.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BroadcastPlan {
    /// Number of nodes that take turns as authors, the same nodes in all steps. With 0 each broadcast has a
    /// random author.
    #[serde(default)]
    pub authors: usize,
    /// Time between two broadcasts in the network.
    pub every: Span,
    /// Time during which nodes broadcast.
    #[serde(rename = "for")]
    pub time: Span,
    /// Number of bytes of each broadcast.
    #[serde(default = "hundred")]
    pub size: usize,
    /// Time in which each broadcast has to reach all nodes that run during that time. The time begins when the
    /// broadcast is sent or, if the network is split then, when it heals.
    #[serde(default = "patience")]
    pub patience: Span,
}

/// Nodes fetch files: each time a random node shares a new file, and another one fetches it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchPlan {
    /// Time between two fetches in the network.
    pub every: Span,
    /// Time during which nodes begin to fetch.
    #[serde(rename = "for")]
    pub time: Span,
    /// Number of bytes of each file.
    #[serde(default = "hundred")]
    pub size: usize,
    /// Time in which each file has to be complete.
    #[serde(default = "patience")]
    pub patience: Span,
}

/// Nodes crash at the same moment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crash {
    /// Percentage of the running nodes that crash.
    pub percent: u8,
    /// The nodes vanish instead of crashing: their connections are not closed.
    #[serde(default)]
    pub silently: bool,
}

/// Nodes crash one by one. For each of them a new node joins.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replace {
    /// Percentage of the scenario's nodes that are replaced per minute.
    pub percent_per_minute: u8,
    /// Number of random members through which each new node joins.
    #[serde(default = "one")]
    pub through: usize,
    /// Time during which nodes are replaced.
    #[serde(rename = "for")]
    pub time: Span,
}

/// The network is split for some time.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// Number of parts, all of the same size.
    #[serde(default = "two")]
    pub parts: usize,
    /// Time until it heals.
    #[serde(rename = "for")]
    pub time: Span,
}

/// Nodes that are not members flood their peers with queries. The nodes are the same in all steps.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flood {
    /// Number of nodes that flood.
    pub nodes: usize,
    /// Number of links that each of them makes, to random members.
    #[serde(default = "five")]
    pub links: usize,
    /// Number of queries that each of them sends over each link at a time.
    pub queries: usize,
    /// Time between two such floods.
    pub every: Span,
    /// Time during which they flood.
    #[serde(rename = "for")]
    pub time: Span,
}

/// An attacker with many identities asks random honest members for places again and again, and names only its
/// own nodes to others. The nodes are the same in all steps.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eclipse {
    /// Number of identities. Each is a node with an address of its own.
    pub identities: usize,
    /// Number of /16 subnets that their addresses are in.
    pub groups: u8,
    /// Time between two requests of an identity.
    pub every: Span,
    /// Time during which they ask.
    #[serde(rename = "for")]
    pub time: Span,
}

/// A random node discovers the network. The step lasts until the discovery has ended.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discover {
    /// Number of hops; -1 for the whole network.
    #[serde(default = "minus_one")]
    pub depth: i32,
}

/// The expected results of a step. Each result that has a bound is measured at the end of the step.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// Maximum number of running nodes that are not members.
    pub not_joined: Option<u64>,
    /// Exact number of connected components of the network.
    pub components: Option<u64>,
    /// Maximum number of links of one node beyond its active view, its guests and its pinned links. Links that are
    /// just being replaced do not count.
    pub links_over_view: Option<u64>,
    /// Maximum time from the last disturbance until the network was one component and remained so.
    pub one_component_within: Option<Span>,
    /// Minimum percentage of the expected deliveries that took place.
    pub delivered_percent: Option<u64>,
    /// Maximum number of repeated deliveries of a broadcast to the same application.
    pub delivered_twice: Option<u64>,
    /// Maximum number of delivered broadcasts that no node has sent.
    pub altered: Option<u64>,
    /// Maximum time until the last delivery of a broadcast. The time begins when the broadcast is sent or, if
    /// the network is split then, when it heals.
    pub delivered_within: Option<Span>,
    /// Maximum number of broadcasts that arrived, divided by the number that were delivered.
    pub redundancy: Option<Ratio>,
    /// Maximum time until the last delivery of a broadcast, divided by the shortest possible time. It applies
    /// to the median of the broadcasts.
    pub last_node_over_best: Option<Ratio>,
    /// The same ratio, but for the broadcast with the greatest one.
    pub worst_over_best: Option<Ratio>,
    /// Minimum percentage of the files that were fetched in time.
    pub fetched_percent: Option<u64>,
    /// Maximum time in which a file was fetched.
    pub fetched_within: Option<Span>,
    /// Minimum number of files that one node behind a NAT has sent directly to another one.
    pub fetched_directly: Option<u64>,
    /// Minimum number of files that were relayed.
    pub fetched_relayed: Option<u64>,
    /// Maximum number of files that were relayed although a hole can be punched between the NATs of the two nodes.
    pub relayed_needlessly: Option<u64>,
    /// Exact number of connected components of the honest nodes alone.
    pub honest_components: Option<u64>,
    /// Minimum number of honest neighbours of each honest node.
    pub honest_neighbours: Option<u64>,
    /// Minimum percentage of the honest nodes that have at least two honest neighbours.
    pub two_honest_neighbours_percent: Option<u64>,
    /// Maximum number of nodes and links that the discovery missed or made up.
    pub discovery_errors: Option<u64>,
    /// Maximum number of queries that arrived at one node beyond one for each of its links.
    pub queries_over_links: Option<u64>,
    /// Maximum number of beacons that a node sent in a minute of the step, on average.
    pub beacons_a_minute: Option<u64>,
    /// Maximum number of links that ended, since the start of the scenario, because the peer read too slowly.
    pub slow_links: Option<u64>,
}

/// A duration, written as `"500ms"`, `"30s"`, `"2m"` or `"1h"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Span(pub Duration);

/// A ratio in thousandths, written as a decimal number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ratio(pub u64);

impl Scenario {
    /// Checks the rules that the file format does not enforce.
    ///
    /// # Errors
    /// The first violation, with the name of the setting and the allowed values.
    pub fn check(&self) -> Result<(), String> {
        let percent = |what: &str, percent: u8| match percent {
            0..=100 => Ok(()),
            more => Err(format!("`{what}` is {more}: at most 100")),
        };
        percent("nat_percent", self.nat_percent)?;
        percent("liars_percent", self.liars_percent)?;
        percent("forgers_percent", self.forgers_percent)?;
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

    /// Returns the network between the nodes.
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
        if self.replace.as_ref().is_some_and(|replace| !(1..=8).contains(&replace.through)) {
            return Err("`replace.through` has to be 1 to 8".into());
        }
        if let Some(broadcast) = &self.broadcast {
            // With an interval of zero the timetable of the step would have no end.
            if broadcast.every.0 < Duration::from_millis(1) {
                return Err("`broadcast.every` has to be at least 1ms".into());
            }
            // A broadcast begins with its number and its author, which have at most 20 bytes. The upper limit is
            // below that of a broadcast.
            if !(32..=60_000).contains(&broadcast.size) {
                return Err(format!("`broadcast.size` is {}: 32 to 60000", broadcast.size));
            }
        }
        if self.crash.as_ref().is_some_and(|crash| crash.percent > 95) {
            return Err("`crash.percent` is at most 95: a node has to be left".into());
        }
        if self.partition.as_ref().is_some_and(|split| !(2..=64).contains(&split.parts)) {
            return Err("`partition.parts` has to be 2 to 64".into());
        }
        if self.fetch.as_ref().is_some_and(|fetch| fetch.every.0 < Duration::from_millis(1)) {
            return Err("`fetch.every` has to be at least 1ms".into());
        }
        if let Some(size) = self.fetch.as_ref().map(|fetch| fetch.size)
            && !(32..=MAX_FETCHED).contains(&size)
        {
            return Err(format!("`fetch.size` is {size}: 32 to {MAX_FETCHED}"));
        }
        if self.flood.as_ref().is_some_and(|flood| flood.every.0 < Duration::from_millis(1)) {
            return Err("`flood.every` has to be at least 1ms".into());
        }
        if self.eclipse.as_ref().is_some_and(|eclipse| eclipse.every.0 < Duration::from_millis(1)) {
            return Err("`eclipse.every` has to be at least 1ms".into());
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
        let of_fetches = [
            expect.fetched_percent,
            expect.fetched_directly,
            expect.fetched_relayed,
            expect.relayed_needlessly,
        ];
        if self.fetch.is_none() && of_fetches.iter().any(Option::is_some) {
            return Err("an expectation of fetched files needs a `fetch` in the same step".into());
        }
        let discovery = expect.discovery_errors.is_some() || expect.queries_over_links.is_some();
        if discovery && self.discover.is_none() {
            return Err("`expect.discovery_errors` and `expect.queries_over_links` need a \
                 `discover` in the same step"
                .into());
        }
        Ok(())
    }

    /// Returns the number of members through which a node joins in this step.
    fn joins_through(&self) -> usize {
        self.replace.as_ref().map_or(1, |replace| replace.through)
    }

    /// Returns the step's title. Without a title, returns a name made from its actions.
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
            (self.fetch.is_some(), "fetch"),
            (self.discover.is_some(), "discover"),
            (self.flood.is_some(), "flood"),
            (self.eclipse.is_some(), "eclipse"),
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
        // The bound prevents an overflow of the product: a billion hours are 3.6e15 milliseconds.
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
            return Err(D::Error::custom("a ratio has to be a number from 0 to 1000000000"));
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

fn five() -> usize {
    5
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
    fn only_whole_numbers_with_a_unit_are_times() {
        for (text, millis) in [("0s", 0), ("500ms", 500), ("30s", 30_000), ("2m", 120_000)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(millis))));
        }
        for text in ["", "5", "s", "-1s", "1.5s", "5 parsecs", "99999999999999999999s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_contains_the_wrong_setting_and_the_allowed_values() {
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
        let replace = r#"{"percent_per_minute": 1, "for": "1m", "through": 0}"#;
        let steps = format!(r#"{join}, {{"replace": {replace}}}"#);
        fails("", &steps, "`replace.through` has to be 1 to 8");
    }
}
