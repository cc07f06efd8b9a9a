//! The scenarios of `simulations/`, run with fewer nodes: the expectations for a thousand nodes
//! also hold for eighty. A failure prints the seed with which it can be repeated.

use std::time::Duration;

use peerkit_proto::sim::scenario::{Report, Scenario, Span, run};

/// Reads a scenario, and changes it to `nodes` nodes and less traffic, because a debug build is
/// slow.
fn scenario(text: &str, nodes: usize) -> Scenario {
    let mut scenario: Scenario = toml::from_str(text).unwrap();
    for broadcast in scenario.steps.iter_mut().filter_map(|step| step.broadcast.as_mut()) {
        broadcast.authors = broadcast.authors.min(5);
        broadcast.every.0 *= 4;
    }
    Scenario { nodes, ..scenario }
}

/// Runs the scenario with each of the seeds, and checks that all expectations hold.
fn check_expectations(scenario: &Scenario, seeds: impl IntoIterator<Item = u64>) -> Vec<Report> {
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
fn nodes_join_the_network() {
    check_expectations(&scenario(include_str!("../../../simulations/join.toml"), 100), 1..=3);
}

#[test]
fn broadcasts_reach_every_node_once_and_in_time() {
    let mut scenario = scenario(include_str!("../../../simulations/broadcast.toml"), 80);
    for step in &mut scenario.steps[1..] {
        // In a small network the best path is short. A node that has just got new neighbours has a
        // longer one.
        step.expect.worst_over_best = None;
    }
    check_expectations(&scenario, 1..=2);
}

#[test]
fn a_network_survives_nodes_that_come_and_go() {
    let mut scenario = scenario(include_str!("../../../simulations/churn.toml"), 60);
    let step = &mut scenario.steps[1];
    let two_minutes = Span(Duration::from_secs(120));
    step.replace.as_mut().unwrap().time = two_minutes;
    let broadcast = step.broadcast.as_mut().unwrap();
    broadcast.time = two_minutes;
    check_expectations(&scenario, 1..=2);
}

#[test]
fn a_network_survives_the_loss_of_many_nodes() {
    for text in [
        include_str!("../../../simulations/loss_30.toml"),
        include_str!("../../../simulations/loss_50.toml"),
        include_str!("../../../simulations/loss_70.toml"),
    ] {
        check_expectations(&scenario(text, 80), 1..=2);
    }
}

#[test]
fn a_network_survives_that_most_nodes_vanish_at_one_moment() {
    for text in [
        include_str!("../../../simulations/crash_80.toml"),
        include_str!("../../../simulations/crash_90.toml"),
        include_str!("../../../simulations/crash_95.toml"),
    ] {
        check_expectations(&scenario(text, 200), 1..=2);
    }
}

#[test]
fn a_split_network_heals() {
    check_expectations(&scenario(include_str!("../../../simulations/partition.toml"), 80), 1..=2);
}

#[test]
fn nodes_behind_nat_are_reached() {
    check_expectations(&scenario(include_str!("../../../simulations/nat.toml"), 80), 1..=2);
}

#[test]
fn lying_nodes_do_not_split_the_honest_nodes() {
    check_expectations(&scenario(include_str!("../../../simulations/liars.toml"), 80), 1..=2);
}

/// Half as many attacking identities as honest nodes, in five groups of addresses.
#[test]
fn an_attacker_does_not_surround_honest_nodes() {
    let mut scenario = scenario(include_str!("../../../simulations/eclipse.toml"), 60);
    scenario.steps.pop();
    let step = &mut scenario.steps[1];
    let eclipse = step.eclipse.as_mut().unwrap();
    (eclipse.identities, eclipse.time) = (30, Span(Duration::from_secs(120)));
    step.broadcast.as_mut().unwrap().time = Span(Duration::from_secs(100));
    check_expectations(&scenario, 1..=2);
}

#[test]
fn broadcasts_reach_nodes_that_come_while_others_lie() {
    let text = include_str!("../../../simulations/changing_liars.toml");
    let mut scenario = scenario(text, 80);
    let step = &mut scenario.steps[1];
    let two_minutes = Span(Duration::from_secs(120));
    step.replace.as_mut().unwrap().time = two_minutes;
    step.broadcast.as_mut().unwrap().time = two_minutes;
    check_expectations(&scenario, 1..=2);
}

#[test]
fn forged_beacons_split_nothing() {
    check_expectations(&scenario(include_str!("../../../simulations/beacons.toml"), 80), 1..=2);
}

#[test]
fn a_discovery_finds_exactly_the_nodes_of_the_network() {
    check_expectations(&scenario(include_str!("../../../simulations/discovery.toml"), 100), 1..=2);
}

#[test]
fn discoveries_are_complete_while_strangers_flood_the_network() {
    check_expectations(&scenario(include_str!("../../../simulations/flooders.toml"), 40), 1..=1);
}

#[test]
fn a_run_with_the_same_seed_is_the_same() {
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
    // Neither expectation can hold: the network has one component, and no node joins in zero time.
    scenario.steps[0].expect.components = Some(3);
    scenario.steps[0].expect.one_component_within = Some(Span(Duration::ZERO));
    let report = run(&scenario, 1, |_| {}).unwrap();
    let held: Vec<_> = report.measures.iter().map(|measure| measure.held).collect();
    assert_eq!(held.iter().filter(|held| !**held).count(), 2, "{:#?}", report.measures);
    assert!(!report.held());
}
