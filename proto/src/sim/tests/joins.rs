//! Tests of joins.

use super::*;

#[test]
fn nodes_join_and_discover_each_other_and_equal_seeds_give_equal_traces() {
    let trace = |seed| {
        let mut sim = Sim::new(SimConfig { seed, ..SimConfig::default() });
        for node in 0..12 {
            sim.add(Callback(|_: &mut Context<'_>, _| {}));
            if node > 0 {
                sim.join(node, 0);
            }
        }
        sim.run_for(Duration::from_secs(20));
        assert!((1..12).all(|node| *sim.joining(node) == Joining::Joined), "seed {seed}");
        assert_eq!(sim.components(|_| true).len(), 1, "seed {seed}");
        let query = sim.discover(3, -1);
        sim.run_for(Duration::from_secs(3));
        let found = sim.discovery(query).unwrap();
        assert_eq!((found.nodes.len(), found.complete), (11, Some(true)), "seed {seed}");
        sim.trace_hash()
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

#[test]
fn a_join_fails_if_the_link_ends_before_the_answer() {
    let mut sim = sim(2);
    sim.join(1, 0);
    sim.run_for(LATENCY * 6);
    assert_eq!((sim.links().len(), sim.joining(1)), (1, &Joining::Trying));
    let operation = *sim.link_purposes.first_key_value().unwrap().0;
    sim.join_ended(1, operation, Err(JoinError::LinkEnded));
    assert_eq!(*sim.joining(1), Joining::Failed("the link has ended".to_owned()));
}

#[test]
fn a_join_through_several_nodes_fails_with_the_last() {
    let mut sim = sim(2);
    sim.crash(0);
    let (stopped, unused) = (sim.address(0), sim.address(500));
    sim.with(1, |_, cx| cx.join(&[stopped, unused]));
    sim.run_for(Duration::from_secs(5));
    assert_eq!(*sim.joining(1), Joining::Trying);
    sim.run_for(Duration::from_secs(6));
    assert!(matches!(sim.joining(1), Joining::Failed(_)), "{:?}", sim.joining(1));
}

#[test]
fn a_manual_node_refuses_joins() {
    let mut sim = sim(1);
    let options = NodeOptions { manual: true, ..NodeOptions::default() };
    let manual = sim.add_with(options, Log::default());
    let address = sim.address(manual);
    let begun = sim.with(0, |_, cx| cx.join(&[address]));
    sim.run_for(Duration::from_secs(5));
    assert!(matches!(sim.joining(0), Joining::Failed(_)), "{:?}", sim.joining(0));
    let is_report = |(_, event): &&(Duration, Event)| match event {
        Event::NodeActionFailed { action, error } => {
            *action == begun && error.contains("links are made by hand")
        }
        _ => false,
    };
    assert_eq!(sim.app(0).0.iter().filter(is_report).count(), 1);
}
