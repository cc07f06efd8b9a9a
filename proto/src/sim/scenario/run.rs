//! Runs a scenario, step by step.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::account::{BroadcastRecorder, content};
use super::measure::{Measure, Report};
use super::{Eclipse, Flood, Scenario, Step};
use crate::config::Config;
use crate::id::Hash;
use crate::peer::OperationId;
use crate::sim::network::mix;
use crate::sim::node::derive_seed;
use crate::sim::{Joining, Lies, Nat, NodeOptions, Sim, SimConfig, Stats};
use crate::time::Instant;

/// Interval at which nodes that could not join try again.
const RETRY: Duration = Duration::from_secs(5);

/// Interval at which the components of the network are counted, if the step measures the time of a repair.
pub(super) const COMPONENTS_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Time for which an author has to run after it has sent a broadcast. If it stops earlier, the broadcast may be
/// lost, and does not count.
pub(super) const MIN_AUTHOR_UPTIME: Duration = Duration::from_secs(1);

/// The progress of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The number of the step, counted from 1.
    pub step: usize,
    /// Number of steps.
    pub steps: usize,
    /// The title of the step.
    pub title: String,
    /// The progress of the step, in percent.
    pub percent: u64,
    /// The virtual time.
    pub time: Duration,
}

/// Runs a scenario with a seed. Calls `progressed` whenever a step has progressed by a percent.
///
/// # Errors
/// The error of [`Scenario::check`].
pub fn run(
    scenario: &Scenario,
    seed: u64,
    mut progressed: impl FnMut(&Progress),
) -> Result<Report, String> {
    scenario.check()?;
    let mut run = ScenarioRun::new(scenario, seed);
    let steps = scenario.steps.len();
    for (number, step) in scenario.steps.iter().enumerate() {
        let mut progress = Progress {
            step: number + 1,
            steps,
            title: step.name(),
            percent: 0,
            time: Duration::ZERO,
        };
        run.step(step, |time, percent| {
            (progress.time, progress.percent) = (time, percent);
            progressed(&progress);
        });
    }
    Ok(run.report())
}

/// A scenario that is being run.
pub(super) struct ScenarioRun<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) seed: u64,
    pub(super) sim: Sim<BroadcastRecorder>,
    pub(super) rng: ChaCha8Rng,
    /// For each node the time of its start and, if it has ended, the time of its end.
    pub(super) lifetimes: Vec<(Instant, Option<Instant>)>,
    pub(super) sent: Vec<SentBroadcast>,
    pub(super) fetches: Vec<BegunFetch>,
    /// The nodes that take turns as authors.
    pub(super) authors: Vec<usize>,
    /// The nodes that flood.
    pub(super) flooders: Vec<usize>,
    /// The nodes that surround others.
    eclipsers: Vec<usize>,
    pub(super) measures: Vec<Measure>,
}

/// A broadcast that was sent.
pub(super) struct SentBroadcast {
    pub(super) author: usize,
    pub(super) at: Instant,
    /// Time from which the broadcast can reach all nodes.
    pub(super) reachable_from: Instant,
    /// Time by which the broadcast has to have reached all nodes.
    pub(super) deadline: Instant,
    /// Shortest possible time of delivery to each node. Empty if the step does not compare it.
    pub(super) best: Vec<Option<Duration>>,
}

/// A fetch that was begun.
pub(super) struct BegunFetch {
    pub(super) node: usize,
    pub(super) source: usize,
    pub(super) hash: Hash,
    pub(super) at: Instant,
    /// Time by which the file has to be complete.
    pub(super) deadline: Instant,
}

/// An action of a step.
#[derive(Debug, Clone, Copy)]
enum StepAction {
    AddNode {
        through: usize,
    },
    /// Makes nodes that could not join try again.
    Retry,
    Broadcast,
    Fetch,
    Replace,
    /// Splits the network into this number of groups.
    Split(usize),
    Heal,
    /// Makes the nodes that flood send this number of queries over each link.
    Flood(usize),
    /// Makes each node that surrounds others ask one for a place.
    Eclipse,
    CheckComponents,
    End,
}

/// A step that is being run.
pub(super) struct StepState {
    pub(super) step: Step,
    /// Time of the last disturbance: the beginning of the step, the last replaced node, or the healing of the
    /// network.
    pub(super) disturbed: Instant,
    /// Time at which the network was last seen in several components.
    pub(super) last_apart: Option<Instant>,
    /// Time at which the network heals, if the step splits it.
    pub(super) healed: Option<Instant>,
    /// Number of the first broadcast of the step.
    pub(super) first_sent: usize,
    /// Number of the first fetch of the step.
    pub(super) first_fetch: usize,
    /// The numbers of files that nodes behind NATs had fetched directly, through relays, and through relays needlessly
    /// before the step.
    pub(super) fetched: [u64; 3],
    /// The counters of the simulation at the beginning of the step.
    pub(super) payloads: u64,
    pub(super) deliveries: u64,
    pub(super) beacons: u64,
    /// Time at which the step began.
    pub(super) begun: Instant,
    /// The node that discovers the network, and its discovery.
    pub(super) discovery: Option<(usize, OperationId)>,
    /// For each node the number of queries that had arrived before the discovery.
    pub(super) queries: Vec<u64>,
    /// The links at the beginning of the discovery.
    pub(super) links: Vec<(usize, usize)>,
}

impl<'a> ScenarioRun<'a> {
    fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let network = scenario.network();
        let sim = Sim::new(SimConfig { seed, config: Config::default(), network });
        Self {
            scenario,
            seed,
            sim,
            rng: ChaCha8Rng::from_seed(derive_seed(seed, "scenario", [0, 0])),
            lifetimes: Vec::new(),
            sent: Vec::new(),
            fetches: Vec::new(),
            authors: Vec::new(),
            flooders: Vec::new(),
            eclipsers: Vec::new(),
            measures: Vec::new(),
        }
    }

    fn step(&mut self, step: &Step, mut progressed: impl FnMut(Duration, u64)) {
        let begun = self.sim.now();
        let stats = self.sim.stats();
        let mut state = StepState {
            step: step.clone(),
            disturbed: begun,
            last_apart: None,
            healed: step.partition.as_ref().map(|split| begun + split.time.0),
            first_sent: self.sent.len(),
            first_fetch: self.fetches.len(),
            fetched: fetched_between_nats(stats),
            payloads: stats.payloads,
            deliveries: stats.deliveries,
            beacons: stats.beacons().frames,
            begun,
            discovery: None,
            queries: Vec::new(),
            links: Vec::new(),
        };
        if let Some(crash) = &step.crash {
            self.crash(usize::from(crash.percent), crash.silently);
        }
        if let Some(flood) = &step.flood {
            self.add_flooders(flood);
        }
        if let Some(eclipse) = &step.eclipse {
            self.add_eclipsers(eclipse);
        }
        if let Some(discover) = &step.discover {
            self.discover(&mut state, discover.depth);
        }
        let actions = self.timetable(&state);
        let duration = actions.last().map(|(at, _)| *at).unwrap_or_default();
        let mut reported = 0;
        for (at, action) in actions {
            self.sim.run_for((begun + at).since(self.sim.now()));
            self.act(&mut state, action);
            let percent = (at.as_millis() * 100 / duration.as_millis().max(1)) as u64;
            if percent != reported {
                reported = percent;
                progressed(self.sim.now().since_origin(), percent);
            }
        }
        if let Some((_, query)) = state.discovery {
            let ended = |sim: &Sim<BroadcastRecorder>| {
                sim.discovery(query).is_none_or(|found| found.complete.is_some())
            };
            // The machine ends each query after `query_timeout`. This limit only makes sure that the run ends.
            self.sim.run_until(Config::default().query_timeout * 2, ended);
        }
        self.measure(&state);
    }

    /// Returns the actions of a step, each with its time since the beginning of the step. The last action is
    /// the end of the step.
    fn timetable(&mut self, state: &StepState) -> Vec<(Duration, StepAction)> {
        let step = &state.step;
        let mut actions = Vec::new();
        let mut end = step.wait.0;
        if let Some(join) = &step.join {
            let others = self.scenario.nodes.saturating_sub(join.through);
            for n in 0..self.scenario.nodes {
                // The first `through` nodes start at once, so that the other nodes find all of them.
                let position = (n + 1).saturating_sub(join.through);
                let at = join.within.0 * to_u32(position) / to_u32(others.max(1));
                actions.push((at, StepAction::AddNode { through: join.through }));
            }
            end = end.max(join.within.0);
        }
        if let Some(replace) = &step.replace {
            let percent = usize::from(replace.percent_per_minute);
            let seconds = replace.time.0.as_secs();
            // 6000 is 100 for the percentage, times 60 for the seconds of a minute.
            let count = self.scenario.nodes * percent * seconds as usize / 6000;
            for n in 0..count {
                actions.push((replace.time.0 * to_u32(n) / to_u32(count), StepAction::Replace));
            }
            end = end.max(replace.time.0);
        }
        if let Some(split) = &step.partition {
            actions.push((Duration::ZERO, StepAction::Split(split.parts)));
            actions.push((split.time.0, StepAction::Heal));
            end = end.max(split.time.0);
        }
        if let Some(broadcast) = &step.broadcast {
            let mut at = Duration::ZERO;
            while at < broadcast.time.0 {
                actions.push((at, StepAction::Broadcast));
                at += broadcast.every.0;
            }
            end = end.max(broadcast.time.0);
            // A broadcast that is sent during a partition reaches the other parts only after the partition.
            let last = at.max(step.partition.as_ref().map_or(at, |split| split.time.0));
            end = end.max(last + broadcast.patience.0);
        }
        if let Some(fetch) = &step.fetch {
            let mut at = Duration::ZERO;
            while at < fetch.time.0 {
                actions.push((at, StepAction::Fetch));
                at += fetch.every.0;
            }
            end = end.max(at + fetch.patience.0);
        }
        if let Some(flood) = &step.flood {
            let mut at = Duration::ZERO;
            while at < flood.time.0 {
                actions.push((at, StepAction::Flood(flood.queries)));
                at += flood.every.0;
            }
            end = end.max(flood.time.0);
        }
        if let Some(eclipse) = &step.eclipse {
            let mut at = Duration::ZERO;
            while at < eclipse.time.0 {
                actions.push((at, StepAction::Eclipse));
                at += eclipse.every.0;
            }
            end = end.max(eclipse.time.0);
        }
        let mut every = |first: Duration, time: Duration, action| {
            let mut at = first;
            while at < end {
                actions.push((at, action));
                at += time;
            }
        };
        every(RETRY, RETRY, StepAction::Retry);
        if step.expect.one_component_within.is_some() {
            every(Duration::ZERO, COMPONENTS_CHECK_INTERVAL, StepAction::CheckComponents);
        }
        actions.push((end, StepAction::End));
        // The sort is stable: actions of the same time remain in the order above, and the end is the last.
        actions.sort_by_key(|(at, _)| *at);
        actions
    }

    fn act(&mut self, state: &mut StepState, action: StepAction) {
        match action {
            StepAction::AddNode { through } => {
                let node = self.add(through);
                if node > 0 {
                    // The first `through` nodes join through node 0. The other nodes are spread evenly over them.
                    self.sim.join(node, if node < through { 0 } else { node % through });
                }
            }
            StepAction::Retry => self.retry(state.step.joins_through()),
            StepAction::Broadcast => self.send_broadcast(state),
            StepAction::Fetch => self.begin_fetch(state),
            StepAction::Replace => {
                if let Some(gone) = self.pick_random(|run, node| run.sim.is_running(node)) {
                    self.sim.crash(gone);
                    self.lifetimes[gone].1 = Some(self.sim.now());
                }
                let node = self.add(0);
                self.join_through_members(node, state.step.joins_through());
                state.disturbed = self.sim.now();
            }
            StepAction::Split(parts) => {
                let mut nodes: Vec<_> = (0..self.sim.len()).collect();
                self.shuffle(&mut nodes);
                let each = nodes.len().div_ceil(parts);
                let groups: Vec<_> = nodes.chunks(each).collect();
                self.sim.partition(&groups);
            }
            StepAction::Heal => {
                self.sim.heal();
                state.disturbed = self.sim.now();
            }
            StepAction::Flood(queries) => {
                for flooder in &self.flooders {
                    self.sim.flood(*flooder, queries);
                }
            }
            StepAction::Eclipse => {
                for eclipser in self.eclipsers.clone() {
                    let is_victim = |run: &Self, node| {
                        run.is_honest(node) && run.is_member(node) && run.sim.options(node).dialable
                    };
                    if let Some(victim) = self.pick_random(is_victim) {
                        self.sim.join(eclipser, victim);
                    }
                }
            }
            StepAction::CheckComponents => {
                if self.sim.components(|_| true).len() != 1 {
                    state.last_apart = Some(self.sim.now());
                }
            }
            StepAction::End => {
                // There is nothing to do. This action only lets time pass until the end of the step.
            }
        }
    }

    /// Adds a node. If its number is less than `honest`, it can be dialled and does not lie.
    fn add(&mut self, honest: usize) -> usize {
        let number = self.sim.len();
        // Both numbers are drawn for each node, so that other percentages do not change later draws.
        let drawn = [(); 2].map(|()| self.random_below(100));
        let is_first = number < honest;
        let dialable = is_first || drawn[0] >= usize::from(self.scenario.nat_percent);
        let liars = usize::from(self.scenario.liars_percent);
        let forgers = liars + usize::from(self.scenario.forgers_percent);
        let lies = match drawn[1] {
            _ if is_first => None,
            drawn if drawn < liars => Some([Lies::Drops, Lies::Alters, Lies::Replays][number % 3]),
            drawn if drawn < forgers => Some(Lies::ForgesBeacons),
            _ => None,
        };
        let meets = self.scenario.nat_kinds;
        // Derived from the seed, so that it changes no later draw.
        let nat = Nat::drawn(mix(mix(self.seed) ^ mix(number as u64)) % 100);
        let nat = (meets && !dialable).then_some(nat);
        let options = NodeOptions { dialable, nat, meets, lies, ..NodeOptions::default() };
        self.lifetimes.push((self.sim.now(), None));
        self.sim.add_with(options, BroadcastRecorder::default())
    }

    /// Adds the nodes that flood, if there are not enough yet, and connects them.
    fn add_flooders(&mut self, flood: &Flood) {
        while self.flooders.len() < flood.nodes {
            let lies = Some(Lies::Floods);
            let options = NodeOptions { manual: true, lies, ..NodeOptions::default() };
            self.lifetimes.push((self.sim.now(), None));
            let flooder = self.sim.add_with(options, BroadcastRecorder::default());
            for _ in 0..flood.links {
                let can_be_dialled =
                    |run: &Self, node| run.is_member(node) && run.sim.options(node).dialable;
                if let Some(member) = self.pick_random(can_be_dialled) {
                    self.sim.connect(flooder, member);
                }
            }
            self.flooders.push(flooder);
        }
        // The links are up after three times the longest latency.
        self.sim.run_for(Duration::from_secs(2));
    }

    /// Adds the nodes that surround others, if there are not enough yet.
    fn add_eclipsers(&mut self, eclipse: &Eclipse) {
        for n in self.eclipsers.len()..eclipse.identities {
            let group = u8::try_from(n % usize::from(eclipse.groups.max(1))).unwrap_or_default();
            let (lies, group) = (Some(Lies::Eclipses), Some(group));
            let options = NodeOptions { lies, group, ..NodeOptions::default() };
            self.lifetimes.push((self.sim.now(), None));
            self.eclipsers.push(self.sim.add_with(options, BroadcastRecorder::default()));
        }
        self.sim.eclipse(&self.eclipsers);
    }

    /// Makes the nodes that could not join try again.
    fn retry(&mut self, through: usize) {
        for node in 1..self.sim.len() {
            // A new node has the state `No` if there was no member to join through.
            let failed = matches!(self.sim.joining(node), Joining::Failed(_) | Joining::No);
            let options = self.sim.options(node);
            // Nodes that surround others choose through which node they join.
            let tries = !options.manual && options.lies != Some(Lies::Eclipses);
            if failed && self.sim.is_running(node) && tries {
                self.join_through_members(node, through);
            }
        }
    }

    /// Makes a node join through `count` random members, or through all if there are fewer.
    fn join_through_members(&mut self, node: usize, count: usize) {
        let mut through = Vec::new();
        while through.len() < count {
            let member = self.pick_random(|run, other| {
                other != node
                    && !through.contains(&other)
                    && run.is_member(other)
                    && run.sim.options(other).dialable
            });
            let Some(member) = member else { break };
            through.push(member);
        }
        for member in through {
            self.sim.join(node, member);
        }
    }

    fn crash(&mut self, percent: usize, silently: bool) {
        let mut nodes: Vec<_> =
            (0..self.sim.len()).filter(|node| self.sim.is_running(*node)).collect();
        self.shuffle(&mut nodes);
        let count = nodes.len() * percent / 100;
        for node in &nodes[..count] {
            if silently {
                self.sim.vanish(*node);
            } else {
                self.sim.crash(*node);
            }
            self.lifetimes[*node].1 = Some(self.sim.now());
        }
    }

    fn send_broadcast(&mut self, state: &StepState) {
        let Some(broadcast) = &state.step.broadcast else { return };
        let can_broadcast = |run: &Self, node: usize| run.is_honest(node) && run.is_member(node);
        let author = match broadcast.authors {
            0 => self.pick_random(can_broadcast),
            authors => {
                for _ in self.authors.len()..authors {
                    let new = self.pick_random(|run, node| {
                        can_broadcast(run, node) && !run.authors.contains(&node)
                    });
                    self.authors.extend(new);
                }
                let turn = self.sent.len() % self.authors.len().max(1);
                self.authors.get(turn).copied().filter(|author| self.sim.is_running(*author))
            }
        };
        let Some(author) = author else { return };
        let at = self.sim.now();
        let expect = &state.step.expect;
        let is_compared = expect.last_node_over_best.or(expect.worst_over_best).is_some();
        // Computing the shortest paths for each broadcast is slow, so it is done only if a bound needs them.
        let best = if is_compared { self.sim.distances(author) } else { Vec::new() };
        let number = u32::try_from(self.sent.len()).unwrap_or(u32::MAX);
        let text = content(number, self.sim.id(author), broadcast.size);
        if self.sim.broadcast(author, number.to_string(), text).is_ok() {
            // Nothing crosses a partition before the network heals, so that time does not count.
            let from = state.healed.map_or(at, |healed| healed.max(at));
            self.sent.push(SentBroadcast {
                author,
                at,
                reachable_from: from,
                deadline: from + broadcast.patience.0,
                best,
            });
        }
    }

    /// Makes a random node share a new file, and another one fetch it.
    fn begin_fetch(&mut self, state: &StepState) {
        let Some(fetch) = &state.step.fetch else { return };
        let is_usable = |run: &Self, node: usize| run.is_honest(node) && run.is_member(node);
        let Some(source) = self.pick_random(is_usable) else { return };
        let other = self.pick_random(|run, node| node != source && is_usable(run, node));
        let Some(node) = other else { return };
        let number = u32::try_from(self.fetches.len()).unwrap_or(u32::MAX);
        let file = content(number, self.sim.id(source), fetch.size);
        let (hash, name) = (Hash::of(file.as_bytes()), format!("file {number}"));
        self.sim.write_file(source, &name, file);
        self.sim.with(source, |_, cx| cx.share(&name));
        self.sim.with(node, |_, cx| cx.fetch(hash, &name));
        let at = self.sim.now();
        let deadline = at + fetch.patience.0;
        self.fetches.push(BegunFetch { node, source, hash, at, deadline });
    }

    fn discover(&mut self, state: &mut StepState, depth: i32) {
        let Some(asking) = self.pick_random(|run, node| run.is_honest(node) && run.is_member(node))
        else {
            return;
        };
        state.queries = self.sim.nodes.iter().map(|node| node.queries).collect();
        state.links = self.sim.links();
        state.discovery = Some((asking, self.sim.discover(asking, depth)));
    }

    pub(super) fn is_honest(&self, node: usize) -> bool {
        self.sim.options(node).lies.is_none()
    }

    /// Returns whether a node runs and is a member. Node 0, which joins through no other node, is a member from
    /// its start.
    pub(super) fn is_member(&self, node: usize) -> bool {
        let joined = node == 0 || *self.sim.joining(node) == Joining::Joined;
        joined && self.sim.is_running(node)
    }

    fn pick_random(&mut self, which: impl Fn(&Self, usize) -> bool) -> Option<usize> {
        let all: Vec<_> = (0..self.sim.len()).filter(|node| which(self, *node)).collect();
        (!all.is_empty()).then(|| all[self.random_below(all.len())])
    }

    fn shuffle(&mut self, nodes: &mut [usize]) {
        for left in (1..nodes.len()).rev() {
            let other = self.random_below(left + 1);
            nodes.swap(left, other);
        }
    }

    fn random_below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.next_u64() % bound.max(1) as u64).unwrap_or_default()
    }

    fn report(self) -> Report {
        let sent = self.sim.stats().total();
        let millis = self.sim.now().since_origin().as_millis();
        Report {
            scenario: self.scenario.name.clone(),
            seed: self.seed,
            nodes: self.sim.len(),
            measures: self.measures,
            virtual_ms: u64::try_from(millis).unwrap_or(u64::MAX),
            frames: sent.frames,
            bytes: sent.bytes,
            trace: self.sim.trace_hash(),
        }
    }
}

/// Returns the numbers of files that nodes behind NATs have fetched from each other: directly, through relays, and
/// through relays needlessly.
pub(super) fn fetched_between_nats(stats: &Stats) -> [u64; 3] {
    [stats.punched_streams, stats.relayed_streams, stats.relayed_needlessly]
}

fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
