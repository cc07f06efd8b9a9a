//! The scenarios of `simulations/` with few nodes: the expectations for a thousand nodes hold for
//! eighty, too. A failure prints the seed that repeats it.

use std::time::Duration;

use peerkit_proto::sim::scenario::{Report, Scenario, Span, run};

/// Returns a scenario of the folder with this many nodes and less traffic, as the build may be slow.
fn scenario(text: &str, nodes: usize) -> Scenario {
    let mut scenario: Scenario = toml::from_str(text).unwrap();
    for broadcast in scenario.steps.iter_mut().filter_map(|step| step.broadcast.as_mut()) {
        broadcast.authors = broadcast.authors.min(5);
        broadcast.every.0 *= 4;
    }
    Scenario { nodes, ..scenario }
}

/// Checks that all expectations hold, with each of the seeds.
fn holds(scenario: &Scenario, seeds: impl IntoIterator<Item = u64>) -> Vec<Report> {
    let run = |seed| {
        let report = run(scenario, seed, |_| {}).unwrap();
        let missed: Vec<_> = report.measures.iter().filter(|measure| !measure.held).collect();
        assert!(missed.is_empty(), "{} with seed {seed}: {missed:#?}", scenario.name);
        assert!(!report.measures.is_empty());
        report
    };
    seeds.into_iter().map(run).collect()
}

#[test]
fn nodes_join() {
    holds(&scenario(include_str!("../../../simulations/join.toml"), 100), 1..=3);
}

#[test]
fn broadcasts_reach_all_once_and_soon() {
    let mut scenario = scenario(include_str!("../../../simulations/broadcast.toml"), 80);
    for step in &mut scenario.steps[1..] {
        // In a small network the best path is short, and a node that has just changed has a long one.
        step.expect.worst_over_best = None;
    }
    holds(&scenario, 1..=2);
}

#[test]
fn nodes_come_and_go() {
    let mut scenario = scenario(include_str!("../../../simulations/churn.toml"), 60);
    let step = &mut scenario.steps[1];
    let two_minutes = Span(Duration::from_secs(120));
    step.replace.as_mut().unwrap().time = two_minutes;
    let broadcast = step.broadcast.as_mut().unwrap();
    broadcast.time = two_minutes;
    holds(&scenario, 1..=2);
}

#[test]
fn nodes_are_lost() {
    for text in [
        include_str!("../../../simulations/loss_30.toml"),
        include_str!("../../../simulations/loss_50.toml"),
        include_str!("../../../simulations/loss_70.toml"),
    ] {
        holds(&scenario(text, 80), 1..=2);
    }
}

#[test]
fn a_split_network_heals() {
    holds(&scenario(include_str!("../../../simulations/partition.toml"), 80), 1..=2);
}

#[test]
fn nodes_that_cannot_be_dialled_are_reached() {
    holds(&scenario(include_str!("../../../simulations/nat.toml"), 80), 1..=2);
}

#[test]
fn liars_do_not_split_the_honest_nodes() {
    holds(&scenario(include_str!("../../../simulations/liars.toml"), 80), 1..=2);
}

#[test]
fn a_discovery_finds_exactly_what_there_is() {
    holds(&scenario(include_str!("../../../simulations/discovery.toml"), 100), 1..=2);
}

#[test]
fn a_seed_repeats_its_run() {
    let mut scenario = scenario(include_str!("../../../simulations/liars.toml"), 60);
    scenario.nat_percent = 30;
    scenario.jitter = Span(Duration::from_millis(5));
    scenario.bandwidth = 100_000;
    scenario.steps[0].expect = Default::default();
    scenario.steps[1].expect = Default::default();
    scenario.steps[1].crash = toml::from_str("percent = 20").unwrap();
    let trace = |seed| run(&scenario, seed, |_| {}).unwrap();
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1).trace, trace(2).trace);
}

#[test]
fn failed_expectations_are_reported() {
    let mut scenario = scenario(include_str!("../../../simulations/join.toml"), 20);
    // No node can be in the network without a link, or have joined before it started.
    scenario.steps[0].expect.components = Some(3);
    scenario.steps[0].expect.one_component_within = Some(Span(Duration::ZERO));
    let report = run(&scenario, 1, |_| {}).unwrap();
    let held: Vec<_> = report.measures.iter().map(|measure| measure.held).collect();
    assert_eq!(held.iter().filter(|held| !**held).count(), 2, "{:#?}", report.measures);
    assert!(!report.held());
}
