use std::time::Duration;

use super::super::nat::{Dependence, Nat};
use super::super::{Latency, Network, NodeOptions, SimConfig};
use super::*;
use crate::config::Config;
use crate::event::ActionId;
use crate::handler::Context;
use crate::id::Hash;

const LATENCY: Duration = Duration::from_millis(20);

const HOME: Nat = Nat { mapping: Dependence::Endpoint, filtering: Dependence::AddressAndPort };
const STRICT: Nat =
    Nat { mapping: Dependence::AddressAndPort, filtering: Dependence::AddressAndPort };

/// Records the files that were fetched.
#[derive(Default)]
struct Fetches(Vec<(Hash, Duration)>);

impl Handler for Fetches {
    fn node_fetch_completed(
        &mut self,
        cx: &mut Context<'_>,
        _: ActionId,
        hash: Hash,
        _: &std::path::Path,
        _: u64,
    ) {
        self.0.push((hash, cx.now().since_origin()));
    }
}

/// Returns a simulation of two nodes that can be dialled, 0 and 1, and nodes behind these NATs, which are linked with
/// both.
fn homes(nats: &[Nat]) -> Sim<Fetches> {
    let network = Network { latency: Latency::Fixed(LATENCY), ..Network::default() };
    let mut sim = Sim::new(SimConfig { seed: 5, network, config: Config::default() });
    for _ in 0..2 {
        sim.add_with(NodeOptions { meets: true, ..NodeOptions::default() }, Fetches::default());
    }
    for nat in nats {
        let options =
            NodeOptions { dialable: false, nat: Some(*nat), meets: true, ..NodeOptions::default() };
        let home = sim.add_with(options, Fetches::default());
        sim.connect(home, 0);
        sim.connect(home, 1);
    }
    sim.run_for(Duration::from_secs(1));
    assert_eq!(sim.links().len(), 2 * nats.len());
    sim
}

/// Returns the transport of the link between two nodes.
fn scheme(sim: &Sim<Fetches>, a: usize, b: usize) -> Option<Scheme> {
    let handle = sim.nodes[a].running.as_ref()?.handles.get(&sim.id(b))?;
    sim.links.get(&handle.connection).map(|link| link.scheme)
}

/// Makes nodes 2 and 3 meet. Returns the transport of their link, and the time that it took.
fn met(sim: &mut Sim<Fetches>) -> (Option<Scheme>, Duration) {
    let begun = sim.now();
    sim.meet(2, 3);
    sim.run_until(Duration::from_secs(10), |sim| scheme(sim, 2, 3).is_some());
    (scheme(sim, 2, 3), sim.now().since(begun))
}

#[test]
fn nodes_behind_all_pairs_of_nats_meet_directly_or_through_a_relay() {
    let kinds = [Dependence::Endpoint, Dependence::Address, Dependence::AddressAndPort];
    let nats = kinds
        .iter()
        .flat_map(|mapping| kinds.map(|filtering| Nat { mapping: *mapping, filtering }));
    let nats: Vec<_> = nats.collect();
    let mut direct = 0;
    for (a, b) in nats.iter().flat_map(|a| nats.iter().map(move |b| (*a, *b))) {
        let (scheme, took) = met(&mut homes(&[a, b]));
        let expected = if a.can_meet(b) { Scheme::Quic } else { Scheme::Relay };
        assert_eq!(scheme, Some(expected), "{a:?} {b:?}");
        assert!(took < Duration::from_secs(2), "{a:?} {b:?}: {took:?}");
        direct += u32::from(expected == Scheme::Quic);
    }
    // Nine pairs of NATs that give all destinations the same port. Of the six others, four are met by the two of
    // those that do not look at the port, from both sides.
    assert_eq!(direct, 9 + 2 * 2 * 6);
}

#[test]
fn a_hole_is_punched_after_two_round_trips_and_a_relay_is_used_after_a_second() {
    // The query goes to node 3 over node 0 or 1, and the answer back. Then a round trip of QUIC, and one of Hellos.
    assert_eq!(met(&mut homes(&[HOME, HOME])), (Some(Scheme::Quic), LATENCY * 8));
    let (scheme, took) = met(&mut homes(&[STRICT, STRICT]));
    assert_eq!(scheme, Some(Scheme::Relay));
    // The way through the relay is ready earlier. Then a round trip of Hellos between the ends.
    assert_eq!(took, LATENCY * 4 + RELAY_AFTER + LATENCY * 2 * 2);
}

#[test]
fn a_relayed_link_ends_with_its_relay_and_another_relay_takes_its_place() {
    let mut sim = homes(&[STRICT, STRICT]);
    assert_eq!(met(&mut sim).0, Some(Scheme::Relay));
    let relay = sim.links.values().find_map(|link| link.relay).unwrap();
    sim.crash(relay);
    assert!(sim.run_until(Duration::from_secs(1), |sim| scheme(sim, 2, 3).is_none()));
    sim.run_for(Duration::from_secs(1));
    assert_eq!(met(&mut sim).0, Some(Scheme::Relay));
    assert_eq!(sim.links.values().find_map(|link| link.relay), Some(1 - relay));
}

#[test]
fn files_are_fetched_directly_where_a_hole_can_be_punched_and_through_relays_otherwise() {
    for (nats, ways) in [([HOME, HOME], [1, 0, 0]), ([STRICT, HOME], [0, 1, 0])] {
        let mut sim = homes(&nats);
        sim.write_file(3, "song", &b"la la la"[..]);
        sim.with(3, |_, cx| cx.share("song"));
        sim.with(2, |_, cx| cx.fetch(Hash::of(b"la la la"), "song"));
        let done = |sim: &Sim<Fetches>| !sim.app(2).0.is_empty();
        assert!(sim.run_until(Duration::from_secs(5), done), "{nats:?}");
        let stats = sim.stats();
        let counted = [stats.punched_streams, stats.relayed_streams, stats.relayed_needlessly];
        assert_eq!(counted, ways, "{nats:?}");
    }
}

#[test]
fn a_node_that_can_be_dialled_is_called_back_by_a_source_that_can_not() {
    let mut sim = homes(&[STRICT]);
    // Node 3 can be dialled, and has no link with node 2.
    sim.add_with(NodeOptions { meets: true, ..NodeOptions::default() }, Fetches::default());
    sim.connect(3, 0);
    sim.run_for(Duration::from_secs(1));
    sim.write_file(2, "song", &b"la la la"[..]);
    sim.with(2, |_, cx| cx.share("song"));
    sim.with(3, |_, cx| cx.fetch(Hash::of(b"la la la"), "song"));
    assert!(sim.run_until(Duration::from_secs(5), |sim| !sim.app(3).0.is_empty()));
    assert_eq!(sim.stats().relayed_streams, 0);
}

#[test]
fn the_same_seed_gives_the_same_meetings() {
    let run = || {
        let mut sim = homes(&[HOME, STRICT, HOME]);
        sim.meet(2, 3);
        sim.meet(4, 2);
        sim.run_for(Duration::from_secs(60));
        sim.trace_hash()
    };
    assert_eq!(run(), run());
}
