//! Networks of several processes: membership, repair and the owner.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Program, peerkit, run};

/// Waits until `node` reports one connected network of `nodes` nodes.
fn wait_for_size(node: &mut Program, nodes: usize) {
    let begun = Instant::now();
    loop {
        let network = node.run("network")["network"].clone();
        if network["nodes"] == nodes && network["complete"] == true {
            assert_eq!(network["components"], 1);
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "the network does not have {nodes} nodes: {network}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Starts a network of `nodes` nodes, which all join through the first. The first one gets `args`.
fn start_network(home: &Path, nodes: usize, args: &[&str]) -> Vec<Program> {
    let mut programs = vec![Program::start_with(home, "n0", args)];
    for n in 1..nodes {
        let through = programs[0].address.clone();
        programs.push(Program::start_with(home, &format!("n{n}"), &[&through]));
    }
    for program in &mut programs {
        wait_for_size(program, nodes);
        assert_eq!(program.run("status")["status"]["member"], true);
    }
    programs
}

#[test]
fn twelve_nodes_join_through_one_receive_all_broadcasts_and_stay_connected_without_it() {
    const NODES: usize = 12;
    const EACH: usize = 100;
    let home = tempfile::tempdir().unwrap();
    let mut nodes = start_network(home.path(), NODES, &[]);
    for n in 0..EACH {
        for node in &mut nodes {
            node.write(&format!("broadcast number {n}"));
        }
    }
    for node in &mut nodes {
        // Each node has sent all of its broadcasts before the first event is checked.
        for _ in 0..EACH {
            let result = node.result();
            assert_eq!((&result["result"], &result["ok"]), (&json!("broadcast"), &json!(true)));
        }
    }
    for node in &mut nodes {
        let mut received: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..(NODES - 1) * EACH {
            let data = node.event("node_broadcast")["data"].clone();
            let next = received.entry(data["author"].as_str().unwrap().to_owned()).or_default();
            assert_eq!(data["message"], json!(format!("number {next}")), "twice or out of order");
            *next += 1;
        }
        assert_eq!(received.len(), NODES - 1);
    }
    for node in &mut nodes {
        // Once the ping is answered, a second copy of a broadcast would have been reported as well.
        node.run("ping");
        assert!(node.unread_events("node_broadcast").is_empty(), "more than once");
        assert!(node.unread_events("node_broadcasts_missed").is_empty());
    }

    // All nodes joined through the first. The others have to stay one network without it.
    nodes.remove(0).kill();
    for node in &mut nodes {
        wait_for_size(node, NODES - 1);
    }
    let through = nodes[6].address.clone();
    let mut newcomer = Program::start_with(home.path(), "newcomer", &[&through]);
    wait_for_size(&mut newcomer, NODES);
    nodes.push(newcomer);
    for node in &mut nodes {
        node.write("exit");
    }
    for node in &mut nodes {
        let (status, stderr) = node.wait();
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{}", node.name);
    }
}

#[test]
fn a_node_that_starts_before_the_one_it_joins_retries_until_it_is_there() {
    let home = tempfile::tempdir().unwrap();
    // Bob runs once to choose a port, and starts again only after Alice has failed to reach him.
    let first_run = Program::start_with(home.path(), "bob", &[]);
    let address = first_run.address.clone();
    first_run.exit();
    let mut alice = Program::start_with(home.path(), "alice", &[&address]);
    let error = alice.event("outbound_node_connection_error");
    assert_eq!(error["data"]["address"], json!(address));
    assert_eq!(alice.run("size")["size"], 1, "the node accepts commands while it retries");
    let mut bob = Program::start_with(home.path(), "bob", &["--listen", &address]);
    alice.event("outbound_node_connected");
    wait_for_size(&mut bob, 2);
    alice.exit();
    bob.exit();
    // The text for people says that it is retrying.
    let mut command = peerkit(home.path());
    command.args(["run", "--listen", "127.0.0.1:0", &address]);
    let output = run(command, "size\n");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("not joined") && stderr.contains("trying again in 1.00 s"), "{stderr}");
}

#[test]
fn a_node_that_leaves_has_no_peers_and_can_join_again() {
    let home = tempfile::tempdir().unwrap();
    let mut nodes = start_network(home.path(), 4, &[]);
    let left = nodes[0].run("leave");
    assert!(!left["peers"].as_array().unwrap().is_empty());
    assert_eq!(nodes[0].run("peers")["peers"], json!([]));
    wait_for_size(&mut nodes[1], 3);
    let through = nodes[2].address.clone();
    let joined = nodes[0].run(&format!("join {through}"));
    assert_eq!(joined["peers"][0]["id"], json!(nodes[2].id));
    wait_for_size(&mut nodes[0], 4);
    nodes.into_iter().for_each(Program::exit);
}

#[test]
fn a_node_cannot_join_through_one_whose_links_are_made_by_hand() {
    let home = tempfile::tempdir().unwrap();
    let bob = Program::start(home.path(), "bob", &[]);
    let mut alice = Program::start_with(home.path(), "alice", &[]);
    let error = alice.fail(&format!("join {}", bob.address));
    assert!(error.contains("made by hand") && error.contains("connect"), "{error}");
    alice.run(&format!("connect {}", bob.address));
    assert_eq!(alice.run("size")["size"], 2);
    let status = alice.run("status")["status"].clone();
    assert_eq!((&status["neighbours"], &status["pinned"]), (&json!([]), &json!([bob.id])));
    bob.exit();
}

#[test]
fn only_the_owner_stops_the_network() {
    let home = tempfile::tempdir().unwrap();
    let key = home.path().join("owner.key");
    let mut nodes = start_network(home.path(), 5, &["--owner", key.to_str().unwrap()]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&key).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }
    let error = nodes[2].fail("shutdown");
    assert!(error.contains("only the holder of that key") && error.contains("`exit`"), "{error}");
    assert!(nodes[2].is_running());
    // A shutdown order that another key signed is ignored. The nodes that receive it report it.
    let through = nodes[3].address.clone();
    let other = home.path().join("other.key");
    let args = ["--owner", other.to_str().unwrap(), &through];
    let mut usurper = Program::start_with(home.path(), "usurper", &args);
    wait_for_size(&mut usurper, 6);
    usurper.run("shutdown");
    assert_eq!(usurper.wait().0.code(), Some(0));
    let refused = |node: &mut Program| -> Option<Value> {
        node.run("ping");
        node.unread_events("node_shutdown_refused").first().map(|event| (*event).clone())
    };
    let begun = Instant::now();
    let event = loop {
        if let Some(event) = nodes.iter_mut().find_map(refused) {
            break event;
        }
        assert!(begun.elapsed() < PATIENCE, "no node reports the order");
    };
    assert_eq!(event["peer"]["id"], json!(usurper.id));
    assert!(event["data"]["error"].as_str().unwrap().contains("owner"));
    wait_for_size(&mut nodes[1], 5);

    assert_eq!(nodes[0].run("shutdown"), json!({"result": "shutdown", "ok": true}));
    for node in &mut nodes {
        let (status, stderr) = node.wait();
        // The exit status of n2 is 1, because its `shutdown` failed above.
        let expected = i32::from(node.name == "n2");
        assert_eq!((status.code(), stderr.as_str()), (Some(expected), ""), "{}", node.name);
        let ordered = node.event("node_shutdown_ordered");
        assert!(ordered["data"]["owner"].is_string());
    }
}

/// A peer that the user has disconnected is not dialled at the next start, and the program prints
/// nothing about it.
#[test]
fn a_disconnected_peer_is_not_dialled_at_the_next_start() {
    let home = tempfile::tempdir().unwrap();
    let mut bob = Program::start_with(home.path(), "bob", &[]);
    let mut alice = Program::start_with(home.path(), "alice", &[]);
    alice.run(&format!("join {}", bob.address));
    bob.event("inbound_node_connected");
    alice.run("disconnect bob");
    alice.event("outbound_node_disconnected");
    alice.exit();
    let mut alice = Program::start_with(home.path(), "alice", &[]);
    // `join` without an address fails, because the only known node is the disconnected one. The
    // program runs the command after the join of its start, so that is over too.
    assert!(alice.fail("join").contains("disconnected by hand"));
    assert_eq!(alice.run("peers")["peers"].as_array().map(Vec::len), Some(0));
    let (_, stderr) = alice.stop();
    assert_eq!(stderr, "");
    bob.exit();
}
