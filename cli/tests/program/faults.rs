//! Nodes that are killed during a fetch: the others report it and keep running.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, Program, start_chain};

/// Returns the size of all files in a folder and its subfolders.
fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let entries = entries.filter_map(Result::ok);
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => bytes_in(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn a_source_killed_during_a_fetch_leaves_the_other_nodes_running() {
    let home = tempfile::tempdir().unwrap();
    // A sparse file: it is large, but takes no time to make.
    let large = home.path().join("large.bin");
    File::create(&large).unwrap().set_len(2 << 30).unwrap();
    let mut chain = start_chain(home.path(), &["--share", large.to_str().unwrap()]);
    let hash = chain.a.run("search large")["files"][0]["hash"].clone();
    let hash = hash.as_str().unwrap().to_owned();
    chain.a.write(&format!("get {hash}"));
    let begun = Instant::now();
    let downloads = chain.a.downloads.clone();
    while bytes_in(&downloads) == 0 {
        assert!(begun.elapsed() < PATIENCE, "the fetch does not begin");
        thread::sleep(Duration::from_millis(1));
    }
    chain.c.kill();

    // The fetch waits for its source for a while. An incomplete file does not have the final name.
    assert_eq!(chain.a.run("downloads")["downloads"][0]["name"], "large.bin");
    assert!(!downloads.join("large.bin").exists());
    chain.a.write("cancel large.bin");
    let results = [chain.a.result(), chain.a.result()];
    let result = |name: &str| results.iter().find(|result| result["result"] == name).unwrap();
    assert_eq!(result("cancel")["ok"], true, "{results:?}");
    assert_eq!(result("get")["error"], "cancelled", "{results:?}");
    assert_eq!(bytes_in(&downloads), 0, "no part of the file is left");
    let event = chain.b.event("outbound_node_disconnected");
    assert_eq!(event["peer"]["name"], "carol");
    assert_eq!(event["data"]["by_peer"], false);

    assert_eq!(chain.a.run("size")["size"], 2);
    let small = home.path().join("small.txt");
    fs::write(&small, "still works").unwrap();
    chain.b.run(&format!("add {}", small.display()));
    let hash = chain.a.run("search small")["files"][0]["hash"].clone();
    let got = chain.a.run(&format!("get {}", hash.as_str().unwrap()));
    assert_eq!(fs::read(got["path"].as_str().unwrap()).unwrap(), b"still works");
}

#[test]
fn a_sender_killed_during_its_flood_leaves_the_other_nodes_running() {
    let home = tempfile::tempdir().unwrap();
    let mut chain = start_chain(home.path(), &[]);
    let mut stdin = chain.a.take_stdin();
    let flood = thread::spawn(move || {
        let text = "y".repeat(500);
        // Ends when the process is killed, which breaks the pipe.
        while writeln!(stdin, "msg {text}").is_ok() {}
    });
    for _ in 0..500 {
        chain.b.event("node_message");
    }
    chain.a.kill();
    flood.join().unwrap();
    let event = chain.b.event("inbound_node_disconnected");
    assert_eq!(event["peer"]["name"], "alice");
    assert_eq!(event["data"]["by_peer"], false);
    chain.b.run("send carol alive");
    assert_eq!(chain.c.event("node_message")["data"], "alive");
    assert_eq!(chain.b.run("peers")["peers"].as_array().unwrap().len(), 1);
    chain.b.exit();
    chain.c.exit();
}

#[test]
fn a_receiver_killed_during_a_flood_leaves_the_sender_running() {
    let home = tempfile::tempdir().unwrap();
    let mut bob = Program::start(home.path(), "bob", &[]);
    let mut alice = Program::start(home.path(), "alice", &[&bob.address]);
    alice.event("outbound_node_connected");
    let text = "z".repeat(100_000);
    for n in 0..50 {
        alice.write(&format!("msg {n} {text}"));
    }
    bob.event("node_message");
    bob.kill();
    let event = alice.event("outbound_node_disconnected");
    assert_eq!(event["data"]["by_peer"], false);
    assert!(!event["data"]["reason"].as_str().unwrap().is_empty());
    for _ in 0..50 {
        assert_eq!(alice.result()["result"], "msg");
    }
    assert_eq!(alice.run("msg anybody?")["sent_to"], 0);
    assert_eq!(alice.run("size")["size"], 1);

    let mut bob = Program::start(home.path(), "bob", &[]);
    alice.run(&format!("connect {}", bob.address));
    alice.run("msg welcome back");
    assert_eq!(bob.event("node_message")["data"], "welcome back");
}

#[test]
fn connect_with_reconnect_makes_the_link_again_after_a_kill() {
    let home = tempfile::tempdir().unwrap();
    let mut bob = Program::start(home.path(), "bob", &[]);
    let address = bob.address.clone();
    let mut alice = Program::start(home.path(), "alice", &[]);
    alice.run(&format!("connect {address} --reconnect"));
    alice.event("outbound_node_connected");
    bob.kill();
    alice.event("outbound_node_disconnected");
    let event = alice.event("node_reconnection_error");
    assert_eq!(event["data"]["address"], address.as_str());
    assert_eq!(event["data"]["tries"], 1);
    let mut bob = Program::start(home.path(), "bob", &["--listen", &address]);
    alice.event("outbound_node_connected");
    bob.event("inbound_node_connected");
    alice.exit();
    bob.exit();
}
