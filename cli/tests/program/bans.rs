//! Bans, from the prompt.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Program};

fn start(home: &Path, name: &str) -> Program {
    Program::start_with(home, name, &[])
}

/// A ban ends the link, survives a restart, and does not affect another node at the same address.
#[test]
fn a_ban_survives_a_restart_and_holds_for_one_identity() {
    let home = tempfile::tempdir().unwrap();
    let mut bob = start(home.path(), "bob");
    let mut carol = start(home.path(), "carol");
    let mut alice = start(home.path(), "alice");
    alice.run(&format!("join {}", bob.address));
    bob.event("inbound_node_connected");
    let banned = alice.run("ban bob --for 1h");
    assert_eq!(banned["bans"][0]["id"], Value::from(bob.id.clone()));
    assert!(banned["bans"][0]["until"].is_u64());
    for (node, event) in
        [(&mut alice, "outbound_node_disconnected"), (&mut bob, "inbound_node_disconnected")]
    {
        let ended = node.event(event);
        assert!(ended["data"].to_string().contains("banned"), "{ended}");
    }
    alice.exit();

    let mut alice = start(home.path(), "alice");
    assert_eq!(alice.run("bans")["bans"], banned["bans"]);
    assert!(bob.fail(&format!("connect {}", alice.address)).contains("banned"));
    assert!(alice.fail(&format!("connect {}", bob.address)).contains("banned"));
    carol.run(&format!("connect {}", alice.address));
    alice.event("inbound_node_connected");
    assert!(alice.fail("unban carol").contains("not banned"));
    alice.run(&format!("unban {}", bob.id));
    assert_eq!(alice.run("bans")["bans"].as_array().map(Vec::len), Some(0));
    bob.run(&format!("connect {}", alice.address));
    alice.stop();
    bob.stop();
    carol.exit();
}

/// A ban with a time ends by itself.
#[test]
fn a_ban_expires() {
    let home = tempfile::tempdir().unwrap();
    let mut bob = start(home.path(), "bob");
    let mut alice = start(home.path(), "alice");
    alice.run(&format!("ban {} --for 5s", bob.id));
    let is_banned = |alice: &mut Program| alice.run("bans")["bans"] != json!([]);
    let connected = bob.attempt(&format!("connect {}", alice.address));
    // On a very slow machine the ban has ended already.
    if is_banned(&mut alice) {
        assert_eq!(connected["ok"], false, "{connected}");
    }
    let begun = Instant::now();
    while is_banned(&mut alice) {
        assert!(begun.elapsed() < PATIENCE, "the ban has not ended");
        thread::sleep(Duration::from_millis(50));
    }
    bob.run(&format!("connect {}", alice.address));
    alice.exit();
    bob.stop();
}
