//! Peers that a handler has reported.

use super::*;

#[test]
fn a_handler_reports_a_peer_which_is_then_refused_for_ten_minutes() {
    let mut sim = pair();
    sim.with(0, |_, cx| {
        let peer = cx.peers().remove(0);
        cx.penalize(&peer, "sends nonsense");
    });
    sim.run_for(Duration::from_secs(1));
    assert_eq!(sim.links(), []);
    for node in [0, 1] {
        let (name, _, why) = sim.app(node).last();
        assert!(name.ends_with("_node_disconnected") && why.contains("sends nonsense"), "{why}");
    }
    sim.connect(1, 0);
    sim.run_for(Duration::from_secs(1));
    let (name, _, why) = sim.app(1).last();
    assert_eq!((name, sim.links().len()), ("outbound_node_connection_error", 0));
    assert!(why.contains("broke the protocol"), "{why}");
    sim.run_for(Duration::from_secs(600));
    sim.connect(1, 0);
    sim.run_for(Duration::from_secs(1));
    assert_eq!(sim.links(), [(1, 0)]);
}
