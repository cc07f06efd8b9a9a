//! Strangers whose work is refused.

use super::*;
use crate::frame::membership::{Need, NeighbourRequest};
use crate::node_record::NodeRecord;

/// The machine decides about the pauses, and the shell does not read the link meanwhile.
#[test]
fn the_link_of_a_stranger_whose_queries_are_refused_is_paused() {
    let mut node = Driven::new(1);
    node.link(2, 1);
    let record = NodeRecord::sign(&key(2), "net", node.now.unix, &[address(2)]);
    let request = Frame::NeighbourRequest(NeighbourRequest { need: Need::High, record });
    // The first request for a place makes the node a member.
    node.input(Input::Frame(ConnectionId(1), request));
    node.link(3, 2);
    let mut paused = Vec::new();
    for n in 0..100 {
        let (id, ttl, what) = (QueryId([n; 16]), Duration::from_secs(1), QueryKind::Discover);
        let query = Frame::Query(Query { id, depth: 1, own: false, ttl, what });
        let outputs = node.input(Input::Frame(ConnectionId(2), query));
        paused.extend(outputs.into_iter().filter_map(|output| match output {
            Output::PauseReading(connection, time) => Some((n, connection, time)),
            _ => None,
        }));
    }
    // A pause begins with the first refused query. The others were read before it.
    let [(40, ConnectionId(2), time)] = paused[..] else { panic!("{paused:?}") };
    assert!((250..=750).contains(&time.as_millis()), "{time:?}");
}
