//! The measurements of a step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::measure::{Bound, Figure, Measure};
use super::run::{COMPONENTS_CHECK_INTERVAL, MIN_AUTHOR_UPTIME, ScenarioRun, StepState};
use super::{Expect, Ratio, Span};
use crate::config::Config;
use crate::id::NodeId;
use crate::peer::OperationId;

/// The results of a step's broadcasts.
struct BroadcastResults {
    wanted: u64,
    got: u64,
    twice: u64,
    slowest: Duration,
    /// Time of the last delivery over the best possible time, in thousandths, for each broadcast in
    /// ascending order.
    over_best: Vec<u64>,
}

/// Number of further looks at links beyond a view, and the time between them. A second: several times the
/// latency between two nodes.
const LINK_RECHECKS: usize = 2;
const LINK_RECHECK_INTERVAL: Duration = Duration::from_secs(1);

impl ScenarioRun<'_> {
    /// Measures what the step expects.
    pub(super) fn measure(&mut self, state: &StepState) {
        let expect = &state.step.expect;
        let over_view = expect.links_over_view.map_or(0, |_| self.links_over_view());
        let counts = [
            (expect.not_joined, "nodes that did not join", self.not_joined()),
            (expect.links_over_view, "links over the view, most", over_view),
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
            // It was whole at the next look, so this is the longest that the repair can have taken.
            (1, Some(last)) => {
                Figure::Time((last + COMPONENTS_CHECK_INTERVAL).since(state.disturbed))
            }
            _ => Figure::Never,
        };
        let within = expect.one_component_within.map(time_at_most);
        self.check(state, "one component again after", repaired, within);
        let fewest = Figure::Count(self.fewest_honest_neighbours());
        let least = expect.honest_neighbours.map(|least| Bound::AtLeast(Figure::Count(least)));
        self.check(state, "honest neighbours, fewest", fewest, least);
        self.measure_broadcasts(state, expect);
        self.measure_discovery(state, expect);
    }

    fn measure_broadcasts(&mut self, state: &StepState, expect: &Expect) {
        if state.step.broadcast.is_none() && expect.delivered_twice.is_none() {
            return;
        }
        let reached = self.reached(state.first_sent);
        let BroadcastResults { wanted, got, twice, slowest, over_best } = reached;
        let percent = (got * 100_000).checked_div(wanted).map_or(Figure::Never, Figure::Percent);
        let least = expect.delivered_percent.map(|least| Figure::Percent(least * 1000));
        self.check(state, "delivered", percent, least.map(Bound::AtLeast));
        let most = expect.delivered_twice.map(at_most);
        self.check(state, "delivered more than once", Figure::Count(twice), most);
        let all = wanted > 0 && got == wanted;
        let within = if all { Figure::Time(slowest) } else { Figure::Never };
        let most = expect.delivered_within.map(time_at_most);
        self.check(state, "last node reached after", within, most);
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
            // If a node was not reached, there is no last delivery that could be compared.
            let value = value.filter(|_| all).map_or(Figure::Never, |ratio| Figure::Ratio(*ratio));
            self.check(state, what, value, bound.map(ratio_at_most));
        }
    }

    /// Returns the results of the broadcasts from number `first` on.
    fn reached(&self, first: usize) -> BroadcastResults {
        let sent = &self.sent[first..];
        let mut reached = BroadcastResults {
            wanted: 0,
            got: 0,
            twice: 0,
            slowest: Duration::ZERO,
            over_best: Vec::new(),
        };
        // For each broadcast: the time of the last delivery, and the best possible time.
        let mut last = vec![(Duration::ZERO, Duration::ZERO); sent.len()];
        for node in (0..self.sim.len()).filter(|node| self.is_honest(*node)) {
            let mut times = vec![None; sent.len()];
            for (number, at) in &self.sim.app(node).received {
                let time = (*number as usize).checked_sub(first).and_then(|n| times.get_mut(n));
                if let Some(time) = time
                    && time.replace(*at).is_some()
                {
                    reached.twice += 1;
                }
            }
            let (came, went) = self.lifetimes[node];
            for (number, broadcast) in sent.iter().enumerate() {
                let stays = |node: usize, until| self.lifetimes[node].1.is_none_or(|at| at > until);
                // A node counts if it runs all the time. An author that stops at once may take the
                // broadcast with it.
                let counts = node != broadcast.author
                    && came <= broadcast.at
                    && went.is_none_or(|went| went > broadcast.deadline)
                    && stays(broadcast.author, broadcast.at + MIN_AUTHOR_UPTIME);
                if !counts {
                    continue;
                }
                reached.wanted += 1;
                let Some(at) = times[number].filter(|at| *at <= broadcast.deadline) else {
                    continue;
                };
                reached.got += 1;
                reached.slowest = reached.slowest.max(at.since(broadcast.reachable_from));
                let best = broadcast.best.get(node).copied().flatten().unwrap_or_default();
                last[number].0 = last[number].0.max(at.since(broadcast.at));
                last[number].1 = last[number].1.max(best);
            }
        }
        let ratio = |(took, best): &(Duration, Duration)| {
            (took.as_micros() * 1000 / best.as_micros().max(1)) as u64
        };
        reached.over_best = last.iter().map(ratio).collect();
        reached.over_best.sort_unstable();
        reached
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
        // A query may have come over a link that was there only at the beginning, or only at the end.
        for (a, b) in state.links.iter().chain(&self.sim.links()).collect::<BTreeSet<_>>() {
            links[*a] += 1;
            links[*b] += 1;
        }
        let over = |(node, links): (usize, &u64)| {
            let before = state.queries.get(node).copied().unwrap_or_default();
            (self.sim.nodes[node].queries - before).saturating_sub(*links)
        };
        let over = links.iter().enumerate().map(over).max().unwrap_or_default();
        let most = expect.queries_over_links.map(at_most);
        self.check(state, "queries over links, most", Figure::Count(over), most);
    }

    /// Returns the number of nodes and links that a discovery missed or made up. Links that came up or
    /// ended meanwhile may be found or not.
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
        (missed + made_up + running.symmetric_difference(&nodes).count()) as u64
    }

    fn not_joined(&self) -> u64 {
        let running = (0..self.sim.len()).filter(|node| self.sim.is_running(*node));
        running.filter(|node| !self.is_member(*node)).count() as u64
    }

    /// Returns the greatest number of links that a node has beyond its view and its pinned links. When
    /// neighbours are exchanged, one link ends a moment after another has come up, so nodes with too
    /// many are looked at again.
    fn links_over_view(&mut self) -> u64 {
        let mut most: BTreeMap<usize, u64> =
            (0..self.sim.len()).map(|node| (node, self.links_beyond(node))).collect();
        for _ in 0..LINK_RECHECKS {
            most.retain(|_, links| *links > 0);
            if most.is_empty() {
                return 0;
            }
            self.sim.run_for(LINK_RECHECK_INTERVAL);
            for (node, links) in &mut most {
                // Links beyond the view count if they stay: the fewest of all looks.
                *links = self.links_beyond(*node).min(*links);
            }
        }
        most.into_values().max().unwrap_or_default()
    }

    fn links_beyond(&self, node: usize) -> u64 {
        let Some(overlay) = self.sim.overlay(node) else { return 0 };
        let running = self.sim.nodes[node].running.as_ref();
        let links = running.map_or(0, |running| running.handles.len());
        let view = Config::default().active_view + overlay.views().pinned.len();
        links.saturating_sub(view) as u64
    }

    fn altered(&self) -> u64 {
        let honest = (0..self.sim.len()).filter(|node| self.is_honest(*node));
        honest.map(|node| self.sim.app(node).altered).sum()
    }

    fn fewest_honest_neighbours(&self) -> u64 {
        let mut honest = vec![0; self.sim.len()];
        for (a, b) in self.sim.links() {
            honest[a] += u64::from(self.is_honest(b));
            honest[b] += u64::from(self.is_honest(a));
        }
        let counts = |node: &usize| self.is_honest(*node) && self.sim.is_running(*node);
        let fewest = (0..self.sim.len()).filter(counts).map(|node| honest[node]).min();
        fewest.unwrap_or_default()
    }

    /// Adds a measure of the step, if there is a bound for it.
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
