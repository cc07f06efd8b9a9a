//! Users of the same machine who have no token of the node, and try to keep its owner from the API.

use std::io::Read as _;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::api::Api;
use crate::harness::Program;

/// They hold as many connections as they can, and send requests without a token. The owner is always served, and
/// his own connections stay.
#[test]
fn clients_without_a_token_do_not_keep_the_owner_out() {
    let home = tempfile::tempdir().unwrap();
    let node = Program::start_with(home.path(), "alice", &["--manual"]);
    let api = Api::of(home.path(), "alice");
    let mut events = api.event_stream();

    let mut silent: Vec<_> = (0..400).map(|_| api.connect()).collect();
    let refused = || api.with_token("GET /api/v1/status", "wrong", "").status;
    let statuses: Vec<u16> = (0..600).map(|_| refused()).collect();
    assert!(statuses.contains(&401) && statuses.contains(&429), "{statuses:?}");
    for _ in 0..20 {
        let status = api.get("/api/v1/status");
        assert_eq!(status["status"]["id"], node.id.as_str());
    }
    assert_eq!(api.with_token("GET /metrics", &api.read_token, "").status, 200);
    // All but the last of them have given way, and the others are closed soon.
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        assert_eq!(stream.read(&mut [0; 100]).unwrap_or_default(), 0, "no answer, but an end");
    }
    thread::sleep(Duration::from_secs(1));
    let bob = Program::start_with(home.path(), "bob", &["--manual", &node.address]);
    let connected: Value = events.next().expect("the stream of the owner stays");
    assert_eq!(connected["event"], "inbound_node_connected");
    bob.exit();
    node.exit();
}
