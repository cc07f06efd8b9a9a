//! Measures the results of a step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::measure::{Bound, Figure, Measure};
use super::run::{
    COMPONENTS_CHECK_INTERVAL, MIN_AUTHOR_UPTIME, ScenarioRun, StepState, fetched_between_nats,
};
use super::{Expect, Ratio, Span};
use crate::config::Config;
use crate::id::NodeId;
use crate::overlay::membership::outbound::GUESTS;
use crate::peer::OperationId;

/// The results of a step's broadcasts.
struct BroadcastResults {
    /// Number of expected deliveries.
    expected: u64,
    /// Number of expected deliveries that took place in time.
    delivered: u64,
    /// Number of repeated deliveries.
    repeated: u64,
    slowest: Duration,
    /// For each broadcast the time of its last delivery, divided by the shortest possible time, in
    /// thousandths. In ascending order.
    over_best: Vec<u64>,
}

/// Number of times that nodes with too many links are checked again.
const LINK_RECHECKS: usize = 2;

/// Time before each of these checks. One second: several times the latency between two nodes.
const LINK_RECHECK_INTERVAL: Duration = Duration::from_secs(1);

impl ScenarioRun<'_> {
    /// Measures the results for which the step has a bound.
    pub(super) fn measure(&mut self, state: &StepState) {
        let expect = &state.step.expect;
        let over_view = expect.links_over_view.map_or(0, |_| self.links_over_view());
        let counts = [
            (expect.not_joined, "nodes that did not join", self.not_joined()),
            (expect.links_over_view, "links over the view, most", over_view),
            (expect.slow_links, "links ended as slow", self.sim.stats().slow_links),
            (expect.altered, "altered broadcasts delivered", self.altered()),
        ];
        for (bound, what, value) in counts {
            self.check(state, what, Figure::Count(value), bound.map(at_most));
        }
        let components = self.sim.components(|_| true).len() as u64;
        let value = Figure::Count(components);
        self.check(state, "components", value, expect.components.map(exactly));
        let honest = Figure::Count(self.sim.components(|node| self.is_honest(node)).len() as u64);
        let bound = expect.honest_components.map(exactly);
        self.check(state, "components of honest nodes", honest, bound);
        let repaired = match (components, state.last_apart) {
            (1, None) => Figure::Time(Duration::ZERO),
            // At the next check the network was one component, so the repair took at most this long.
            (1, Some(last)) => {
                Figure::Time((last + COMPONENTS_CHECK_INTERVAL).since(state.disturbed))
            }
            _ => Figure::Never,
        };
        let within = expect.one_component_within.map(time_at_most);
        self.check(state, "one component again after", repaired, within);
        let fewest = Figure::Count(self.fewest_honest_neighbours());
        let bound = expect.honest_neighbours.map(|least| Bound::AtLeast(Figure::Count(least)));
        self.check(state, "honest neighbours, fewest", fewest, bound);
        let percent = Figure::Percent(self.with_two_honest_neighbours());
        let bound = expect.two_honest_neighbours_percent;
        let bound = bound.map(|least| Bound::AtLeast(Figure::Percent(least * 1000)));
        self.check(state, "with two honest neighbours", percent, bound);
        let beacons = Figure::Count(self.beacons_a_minute(state));
        let bound = expect.beacons_a_minute.map(at_most);
        self.check(state, "beacons a minute of a node", beacons, bound);
        self.measure_broadcasts(state, expect);
        self.measure_fetches(state, expect);
        self.measure_discovery(state, expect);
    }

    fn measure_broadcasts(&mut self, state: &StepState, expect: &Expect) {
        if state.step.broadcast.is_none() && expect.delivered_twice.is_none() {
            return;
        }
        let results = self.broadcast_results(state.first_sent);
        let BroadcastResults { expected, delivered, repeated, slowest, over_best } = results;
        let percent =
            (delivered * 100_000).checked_div(expected).map_or(Figure::Never, Figure::Percent);
        let bound = expect.delivered_percent.map(|least| Figure::Percent(least * 1000));
        self.check(state, "delivered", percent, bound.map(Bound::AtLeast));
        let bound = expect.delivered_twice.map(at_most);
        self.check(state, "delivered more than once", Figure::Count(repeated), bound);
        let all = expected > 0 && delivered == expected;
        let within = if all { Figure::Time(slowest) } else { Figure::Never };
        let bound = expect.delivered_within.map(time_at_most);
        self.check(state, "last node reached after", within, bound);
        let stats = self.sim.stats();
        let payloads = stats.payloads - state.payloads;
        let needed = stats.deliveries - state.deliveries;
        let value = (payloads * 1000).checked_div(needed).map_or(Figure::Never, Figure::Ratio);
        self.check(state, "redundancy", value, expect.redundancy.map(ratio_at_most));
        let ratios = [
            (expect.last_node_over_best, "last node over best", over_best.get(over_best.len() / 2)),
            (expect.worst_over_best, "last node over best, worst", over_best.last()),
        ];
        for (bound, what, value) in ratios {
            // If a node was not reached, there is no last delivery to compare.
            let value = value.filter(|_| all).map_or(Figure::Never, |ratio| Figure::Ratio(*ratio));
            self.check(state, what, value, bound.map(ratio_at_most));
        }
    }

    fn measure_fetches(&mut self, state: &StepState, expect: &Expect) {
        // A fetch does not count if one of its nodes stops before the deadline.
        let stays = |node: usize, until| self.lifetimes[node].1.is_none_or(|at| at > until);
        let fetches = self.fetches.iter().skip(state.first_fetch);
        let counted = fetches.filter(|fetch| {
            stays(fetch.node, fetch.deadline) && stays(fetch.source, fetch.deadline)
        });
        let took = counted.map(|fetch| {
            let done = self.sim.app(fetch.node).fetched.get(&fetch.hash);
            done.filter(|at| **at <= fetch.deadline).map(|at| at.since(fetch.at))
        });
        let took: Vec<_> = took.collect();
        let done = took.iter().flatten().count() as u64;
        let percent = (done * 100_000).checked_div(took.len() as u64);
        let percent = percent.map_or(Figure::Never, Figure::Percent);
        let bound = expect.fetched_percent.map(|least| Figure::Percent(least * 1000));
        self.check(state, "fetched", percent, bound.map(Bound::AtLeast));
        let all = took.iter().all(Option::is_some);
        let slowest = took.into_iter().flatten().max().filter(|_| all);
        let bound = expect.fetched_within.map(time_at_most);
        self.check(
            state,
            "last file fetched after",
            slowest.map_or(Figure::Never, Figure::Time),
            bound,
        );
        let now = fetched_between_nats(self.sim.stats());
        let count = |which: usize| Figure::Count(now[which] - state.fetched[which]);
        let at_least = |least| Bound::AtLeast(Figure::Count(least));
        let figures = [count(0), count(1), count(2)];
        let bounds = [
            ("fetched directly between NATs", expect.fetched_directly.map(at_least)),
            ("fetched through relays", expect.fetched_relayed.map(at_least)),
            ("relayed needlessly", expect.relayed_needlessly.map(at_most)),
        ];
        for ((what, bound), figure) in bounds.into_iter().zip(figures) {
            self.check(state, what, figure, bound);
        }
    }

    /// Returns the results of the broadcasts from number `first` on.
    fn broadcast_results(&self, first: usize) -> BroadcastResults {
        let sent = &self.sent[first..];
        let mut results = BroadcastResults {
            expected: 0,
            delivered: 0,
            repeated: 0,
            slowest: Duration::ZERO,
            over_best: Vec::new(),
        };
        // For each broadcast: the time until the last delivery, and the shortest possible time.
        let mut last = vec![(Duration::ZERO, Duration::ZERO); sent.len()];
        for node in (0..self.sim.len()).filter(|node| self.is_honest(*node)) {
            let mut times = vec![None; sent.len()];
            for (number, at) in &self.sim.app(node).received {
                let time = (*number as usize).checked_sub(first).and_then(|n| times.get_mut(n));
                if let Some(time) = time
                    && time.replace(*at).is_some()
                {
                    results.repeated += 1;
                }
            }
            let (started, ended) = self.lifetimes[node];
            for (number, broadcast) in sent.iter().enumerate() {
                let stays = |node: usize, until| self.lifetimes[node].1.is_none_or(|at| at > until);
                // A node counts if it runs from the broadcast until the deadline. A broadcast does not count if
                // its author stops so early that the broadcast may be lost.
                let counts = node != broadcast.author
                    && started <= broadcast.at
                    && ended.is_none_or(|ended| ended > broadcast.deadline)
                    && stays(broadcast.author, broadcast.at + MIN_AUTHOR_UPTIME);
                if !counts {
                    continue;
                }
                results.expected += 1;
                let Some(at) = times[number].filter(|at| *at <= broadcast.deadline) else {
                    continue;
                };
                results.delivered += 1;
                results.slowest = results.slowest.max(at.since(broadcast.reachable_from));
                let best = broadcast.best.get(node).copied().flatten().unwrap_or_default();
                last[number].0 = last[number].0.max(at.since(broadcast.at));
                last[number].1 = last[number].1.max(best);
            }
        }
        let ratio = |(took, best): &(Duration, Duration)| {
            (took.as_micros() * 1000 / best.as_micros().max(1)) as u64
        };
        results.over_best = last.iter().map(ratio).collect();
        results.over_best.sort_unstable();
        results
    }

    fn measure_discovery(&mut self, state: &StepState, expect: &Expect) {
        let Some((asking, query)) = state.discovery else { return };
        let errors = match self.sim.discovery(query) {
            Some(found) if found.complete == Some(true) => {
                Figure::Count(self.discovery_errors(state, asking, query))
            }
            _ => Figure::Never,
        };
        self.check(state, "missed or made up", errors, expect.discovery_errors.map(at_most));
        let mut links = vec![0_u64; self.sim.len()];
        // A query may have arrived over a link that existed only at the beginning, or only at the end.
        for (a, b) in state.links.iter().chain(&self.sim.links()).collect::<BTreeSet<_>>() {
            links[*a] += 1;
            links[*b] += 1;
        }
        let over = |(node, links): (usize, &u64)| {
            let before = state.queries.get(node).copied().unwrap_or_default();
            (self.sim.nodes[node].queries - before).saturating_sub(*links)
        };
        let over = links.iter().enumerate().map(over).max().unwrap_or_default();
        let bound = expect.queries_over_links.map(at_most);
        self.check(state, "queries over links, most", Figure::Count(over), bound);
    }

    /// Returns the number of nodes and links that a discovery missed or made up. Links that came up or ended
    /// during the discovery may be in the result or not, and so may nodes that flood, which others do not ask.
    fn discovery_errors(&self, state: &StepState, asking: usize, query: OperationId) -> u64 {
        let Some(found) = self.sim.discovery(query) else { return 0 };
        let own = self.sim.overlay(asking).map(|overlay| overlay.info());
        let mut nodes = BTreeSet::new();
        let mut links: BTreeSet<(NodeId, NodeId)> = BTreeSet::new();
        for info in own.iter().chain(found.nodes.values()) {
            nodes.insert(info.id);
            links.extend(info.outbound.iter().map(|to| (info.id, to.id)));
            links.extend(info.inbound.iter().map(|from| (from.id, info.id)));
        }
        let ids = |links: &[(usize, usize)]| -> BTreeSet<_> {
            links.iter().map(|(a, b)| (self.sim.id(*a), self.sim.id(*b))).collect()
        };
        let (before, after) = (ids(&state.links), ids(&self.sim.links()));
        let missed = before.intersection(&after).filter(|link| !links.contains(link)).count();
        let is_made_up = |link: &&(NodeId, NodeId)| !before.contains(link) && !after.contains(link);
        let made_up = links.iter().filter(is_made_up).count();
        let running = (0..self.sim.len()).filter(|node| self.sim.is_running(*node));
        let running: BTreeSet<_> = running.map(|node| self.sim.id(node)).collect();
        let flooders: BTreeSet<_> = self.flooders.iter().map(|node| self.sim.id(*node)).collect();
        let wrong = running.symmetric_difference(&nodes).filter(|id| !flooders.contains(*id));
        (missed + made_up + wrong.count()) as u64
    }

    /// Returns the number of beacons that a node sent in a minute, on average.
    fn beacons_a_minute(&self, state: &StepState) -> u64 {
        let beacons = self.sim.stats().beacons().frames - state.beacons;
        let millis = self.sim.now().since(state.begun).as_millis() * self.sim.len() as u128;
        u64::try_from(u128::from(beacons) * 60_000 / millis.max(1)).unwrap_or(u64::MAX)
    }

    fn not_joined(&self) -> u64 {
        let running = (0..self.sim.len()).filter(|node| self.sim.is_running(*node));
        running.filter(|node| !self.is_member(*node)).count() as u64
    }

    /// Returns the greatest number of links that a node has beyond its active view, its guests and its pinned links.
    /// Only links that remain count: if a node replaces a neighbour, the old link ends a moment after the new one has
    /// come up, and so does the link of a node that it has refused.
    fn links_over_view(&mut self) -> u64 {
        let mut remaining: BTreeMap<usize, BTreeSet<NodeId>> =
            (0..self.sim.len()).map(|node| (node, self.linked(node))).collect();
        for _ in 0..LINK_RECHECKS {
            remaining.retain(|node, links| self.excess(*node, links) > 0);
            if remaining.is_empty() {
                return 0;
            }
            self.sim.run_for(LINK_RECHECK_INTERVAL);
            for (node, links) in &mut remaining {
                let linked = self.linked(*node);
                links.retain(|peer| linked.contains(peer));
            }
        }
        let excess = remaining.iter().map(|(node, links)| self.excess(*node, links));
        excess.max().unwrap_or_default()
    }

    /// Returns the peers with which a node has links.
    fn linked(&self, node: usize) -> BTreeSet<NodeId> {
        let running = self.sim.nodes[node].running.as_ref();
        running.map(|running| running.handles.keys().copied().collect()).unwrap_or_default()
    }

    /// Returns how many of the links of a node are beyond what it should have.
    fn excess(&self, node: usize, links: &BTreeSet<NodeId>) -> u64 {
        let pinned = self.sim.overlay(node).map_or(0, |overlay| overlay.views().pinned.len());
        let expected = Config::default().active_view + GUESTS + pinned;
        links.len().saturating_sub(expected) as u64
    }

    fn altered(&self) -> u64 {
        let honest = (0..self.sim.len()).filter(|node| self.is_honest(*node));
        honest.map(|node| self.sim.app(node).altered).sum()
    }

    fn fewest_honest_neighbours(&self) -> u64 {
        self.honest_neighbours().into_iter().min().unwrap_or_default()
    }

    /// Returns the percentage of the honest nodes that have two honest neighbours, in thousandths.
    fn with_two_honest_neighbours(&self) -> u64 {
        let honest = self.honest_neighbours();
        let enough = honest.iter().filter(|neighbours| **neighbours >= 2).count() as u64;
        (enough * 100_000).checked_div(honest.len() as u64).unwrap_or_default()
    }

    /// Returns for each honest node that runs the number of its honest neighbours.
    fn honest_neighbours(&self) -> Vec<u64> {
        let mut honest = vec![0; self.sim.len()];
        for (a, b) in self.sim.links() {
            honest[a] += u64::from(self.is_honest(b));
            honest[b] += u64::from(self.is_honest(a));
        }
        let counts = |node: &usize| self.is_honest(*node) && self.sim.is_running(*node);
        (0..self.sim.len()).filter(counts).map(|node| honest[node]).collect()
    }

    /// Adds a measurement of the step, if the step has a bound for it.
    fn check(
        &mut self,
        state: &StepState,
        what: &'static str,
        value: Figure,
        bound: Option<Bound>,
    ) {
        let step = state.step.name();
        self.measures.extend(bound.map(|bound| Measure::new(step, what, value, bound)));
    }
}

fn at_most(count: u64) -> Bound {
    Bound::AtMost(Figure::Count(count))
}

fn ratio_at_most(ratio: Ratio) -> Bound {
    Bound::AtMost(Figure::Ratio(ratio.0))
}

fn time_at_most(time: Span) -> Bound {
    Bound::AtMost(Figure::Time(time.0))
}

fn exactly(count: u64) -> Bound {
    Bound::Exactly(Figure::Count(count))
}
