//! The stop of a node, and its state after a restart.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::api::Api;
use crate::harness::{
    PATIENCE, Program, Share, content, peerkit, run, send_signal, start_chain, stopping_signals,
};

#[test]
fn signals_stop_a_node_with_a_goodbye_to_its_peers() {
    for (signal, _) in stopping_signals() {
        let home = tempfile::tempdir().unwrap();
        let mut chain = start_chain(home.path(), &[]);
        chain.b.signal(signal);
        let (status, stderr) = chain.b.wait();
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
        chain.b.event("node_request_to_stop");
        let event = chain.a.event("outbound_node_disconnected");
        assert_eq!(event["data"]["by_peer"], true);
        assert!(event["data"]["reason"].as_str().unwrap().contains("stopping"), "{event}");
        let event = chain.c.event("inbound_node_disconnected");
        assert_eq!(event["data"]["by_peer"], true);
        chain.a.exit();
        chain.c.exit();
    }
}

#[test]
fn a_reader_that_does_not_read_does_not_keep_a_node_from_stopping() {
    let home = tempfile::tempdir().unwrap();
    let mut other = Program::start(home.path(), "bob", &[]);
    for args in [&["--json"][..], &[]] {
        let mut node = peerkit(home.path());
        node.args(["run", "--manual", "--listen", "127.0.0.1:0", "--state"])
            .arg(home.path().join("alice"))
            .arg(&other.address)
            .args(args);
        let mut node = node
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        other.event("inbound_node_connected");
        // More output than the pipe and the queue can hold. The `save` after it is carried out
        // nevertheless.
        let mut stdin = node.stdin.take().unwrap();
        stdin.write_all("help\n".repeat(250).as_bytes()).unwrap();
        let saved = home.path().join("saved.json");
        stdin.write_all(format!("save {}\n", saved.display()).as_bytes()).unwrap();
        let sender = thread::spawn(move || {
            let _ = stdin.write_all("help\n".repeat(50_000).as_bytes());
        });
        let begun = Instant::now();
        while !saved.exists() {
            assert!(begun.elapsed() < PATIENCE, "{args:?}: a command was not carried out");
            thread::sleep(Duration::from_millis(1));
        }
        fs::remove_file(saved).unwrap();
        send_signal(&node, Signal::TERM);
        let event = other.event("inbound_node_disconnected");
        assert_eq!(event["data"]["by_peer"], true, "the node says goodbye: {event}");
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = node.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > PATIENCE {
                node.kill().unwrap();
            }
            thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(status.code(), Some(0), "{args:?}");
        sender.join().unwrap();
    }
    other.exit();
}

/// Bob is suspended, so a message to him and the goodbye after it wait in alice's queue while she stops.
#[test]
fn the_api_answers_until_the_node_has_said_goodbye() {
    let home = tempfile::tempdir().unwrap();
    let alice = Program::start(home.path(), "alice", &[]);
    let mut bob = Program::start(home.path(), "bob", &[&alice.address]);
    bob.event("outbound_node_connected");
    let api = Api::of(home.path(), "alice");
    let own = format!("Host: {}", api.host);
    let ready = || api.raw("GET /readyz", &[&own], "");
    let begun = Instant::now();
    while ready().status != 200 {
        assert!(begun.elapsed() < PATIENCE, "{}", ready().body);
    }
    let mut events = api.event_stream();
    bob.signal(Signal::STOP);
    // More than the buffers of a connection hold, and of 64 random letters, so that it does not shrink.
    let letters: Vec<u8> = content(3, 15 << 20).iter().map(|byte| b'0' + byte % 64).collect();
    let message = json!({"text": String::from_utf8(letters).unwrap()});
    thread::scope(|scope| {
        let sending = scope.spawn(|| api.request("POST /api/v1/peers/bob/messages", &message));
        let queued = |line: &&str| line.starts_with("peerkit_queued_bytes{kind=\"messages\"}");
        let is_queued = || {
            let metrics = api.with_token("GET /metrics", &api.read_token, "").body;
            metrics.lines().find(queued).is_some_and(|line| !line.ends_with(" 0"))
        };
        while !is_queued() {
            assert!(begun.elapsed() < PATIENCE, "the message is not queued");
        }
        alice.signal(Signal::TERM);
        let stopping = loop {
            let ready = ready();
            if ready.status != 200 {
                break ready;
            }
            assert!(begun.elapsed() < PATIENCE, "the node does not stop");
        };
        assert_eq!(stopping.status, 503);
        assert!(stopping.body.contains("the node is stopping"), "{}", stopping.body);
        assert_eq!(api.raw("GET /healthz", &[&own], "").status, 200);
        assert_eq!(api.with_token("GET /api/v1/status", &api.read_token, "").status, 200);
        bob.signal(Signal::CONT);
        // The answer to a message that a stop has overtaken may be an error, but it is an answer.
        assert!(sending.join().unwrap().status < 500);
    });
    let names: Vec<String> = events.by_ref().map(|event| event["event"].to_string()).collect();
    let at = |name: &str| names.iter().position(|event| event.trim_matches('"') == name);
    let (request, goodbye) = (at("node_request_to_stop"), at("inbound_node_disconnected"));
    assert!(request.is_some() && request < goodbye, "the stream has the last events: {names:?}");
    let mut alice = alice;
    assert_eq!(alice.wait().0.code(), Some(0));
    assert!(!home.path().join("alice").join("api.json").exists());
    bob.event("outbound_node_disconnected");
    bob.exit();
}

/// An interrupt that ends a command gives status 130, also if the command runs in the background, as
/// `get` does.
#[test]
fn a_signal_ends_a_command_under_way() {
    let home = tempfile::tempdir().unwrap();
    // The system accepts connections to this listener, but nothing answers on them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let fetch = format!("get {} --from {address}", "0a".repeat(32));
    let connect = format!("connect {address}");
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 0)] {
        for (verb, command) in [("connect", &connect), ("get", &fetch)] {
            let mut node = Program::start(home.path(), &format!("{verb}-{signal:?}"), &[]);
            node.write(command);
            let (connection, _) = silent.accept().unwrap();
            if verb == "get" {
                assert_eq!(node.run("size")["size"], 1);
            }
            node.signal(signal);
            let result = node.result();
            assert_eq!((&result["result"], &result["ok"]), (&json!(verb), &json!(false)));
            let error = result["error"].as_str().unwrap();
            assert!(error.contains("stopped"), "{verb}, {signal:?}: {error}");
            assert_eq!(node.wait().0.code(), Some(status), "{verb}, {signal:?}");
            drop(connection);
        }
    }
}

#[test]
fn a_node_without_input_or_anything_to_do_explains_headless() {
    let home = tempfile::tempdir().unwrap();
    for args in [&[][..], &["--json"]] {
        let mut command = peerkit(home.path());
        command.args(["run", "--listen", "127.0.0.1:0"]).args(args);
        let output = run(command, "");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("--headless"), "{error}");
    }
    for input in ["\n", "size\n"] {
        let mut command = peerkit(home.path());
        command.args(["run", "--listen", "127.0.0.1:0"]);
        assert_eq!(run(command, input).status.code(), Some(0), "{input:?}");
    }
    let file = home.path().join("file");
    fs::write(&file, "x").unwrap();
    for args in [["--share", file.to_str().unwrap()], ["127.0.0.1:1", "--manual"]] {
        let mut command = peerkit(home.path());
        command.args(["run", "--listen", "127.0.0.1:0"]).args(args);
        assert_eq!(run(command, "").status.code(), Some(0), "{args:?}");
    }
}

#[test]
fn a_line_that_is_not_utf8_fails_and_the_next_one_is_carried_out() {
    let home = tempfile::tempdir().unwrap();
    let mut node = Program::start(home.path(), "alice", &[]);
    let mut stdin = node.take_stdin();
    stdin.write_all(b"msg caf\xe9 exit\nsize\n").unwrap();
    let result = node.result();
    assert_eq!((&result["result"], &result["ok"]), (&json!("msg"), &json!(false)));
    assert!(result["error"].as_str().unwrap().contains("not UTF-8"), "{result}");
    assert_eq!(node.result()["size"], 1);
    drop(stdin);
    assert_eq!(node.wait().0.code(), Some(1), "a command has failed");
}

#[test]
fn a_signal_stops_share_and_demo() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    fs::write(&file, "x").unwrap();
    for (signal, _) in stopping_signals() {
        let share = Share::start(home.path(), &[file.to_str().unwrap()]);
        share.shared();
        assert_eq!(share.signal(signal), Some(0), "{signal:?}");
    }
    let temporary = home.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    for (signal, status) in stopping_signals() {
        let mut command = peerkit(home.path());
        command.args(["demo", "--json"]).env("TMPDIR", &temporary);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.next().expect("a first step").unwrap();
        send_signal(&child, signal);
        while let Some(Ok(_)) = lines.next() {}
        assert_eq!(child.wait().unwrap().code(), Some(status), "{signal:?}");
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "{signal:?}");
    }
}

#[test]
fn a_second_interrupt_ends_the_program_at_once() {
    let home = tempfile::tempdir().unwrap();
    let bob = Program::start(home.path(), "bob", &[]);
    let mut alice = Program::start(home.path(), "alice", &[&bob.address]);
    alice.event("outbound_node_connected");
    // Bob does not read, and gets more data than the buffers of the system can hold.
    bob.signal(Signal::STOP);
    alice.run(&format!("msg {}", "x".repeat(16 << 20)));
    alice.signal(Signal::INT);
    alice.event("node_request_to_stop");
    alice.signal(Signal::INT);
    assert_eq!(alice.wait().0.code(), Some(130));
}

#[test]
fn a_node_is_the_same_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("book.txt");
    fs::write(&file, "once upon a time").unwrap();
    let bob = Program::start_with(home.path(), "bob", &[]);
    let args = ["--share", file.to_str().unwrap(), &bob.address];
    let mut alice = Program::start_with(home.path(), "alice", &args);
    alice.event("outbound_node_connected");
    let id = alice.id.clone();
    alice.signal(Signal::TERM);
    assert_eq!(alice.wait().0.code(), Some(0));

    let mut alice = Program::start_with(home.path(), "alice", &[]);
    assert_eq!(alice.id, id);
    let event = alice.event("outbound_node_connected");
    assert_eq!(event["peer"]["id"], json!(bob.id), "alice rejoins through a known peer");
    let files = alice.run("files")["files"].clone();
    assert_eq!(files[0]["name"], "book.txt");
    alice.exit();

    let mut alice = Program::start(home.path(), "alice", &[]);
    assert_eq!(alice.run("files")["files"], files, "the share is there at the first command");
    let peers = alice.run("peers");
    assert_eq!(peers["peers"], json!([]), "with --manual alice makes no link by itself");
    assert_eq!(peers["known"][0]["id"], json!(bob.id));
    alice.exit();
    bob.exit();
}

#[test]
fn the_end_of_input_ends_a_node_unless_it_is_headless() {
    let home = tempfile::tempdir().unwrap();
    let mut node = Program::start(home.path(), "alice", &[]);
    node.write("size");
    drop(node.take_stdin());
    assert_eq!(node.result()["size"], 1);
    assert_eq!(node.wait().0.code(), Some(0));

    let mut server = Program::start(home.path(), "bob", &["--headless"]);
    server.write("size");
    drop(server.take_stdin());
    assert_eq!(server.result()["size"], 1);
    let mut other = Program::start(home.path(), "carol", &[&server.address]);
    other.run("msg still there?");
    assert_eq!(server.event("node_message")["data"], "still there?");
    assert!(server.is_running());
    server.signal(Signal::TERM);
    let (status, stderr) = server.wait();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
    other.event("outbound_node_disconnected");
    other.exit();
}

#[test]
fn exit_has_the_aliases_stop_and_quit() {
    let home = tempfile::tempdir().unwrap();
    for word in ["exit", "stop", "quit"] {
        let mut node = Program::start(home.path(), "alice", &[]);
        assert_eq!(node.run(word), json!({"result": "exit", "ok": true}));
        assert_eq!(node.wait().0.code(), Some(0));
    }
}

#[test]
fn messages_sent_last_still_arrive() {
    let home = tempfile::tempdir().unwrap();
    let mut bob = Program::start(home.path(), "bob", &[]);
    let mut alice = Program::start(home.path(), "alice", &[&bob.address]);
    let text = "x".repeat(10_000);
    for n in 0..200 {
        alice.write(&format!("msg {n} {text}"));
    }
    alice.write("exit");
    for n in 0..200 {
        let data = bob.event("node_message")["data"].clone();
        assert_eq!(data, json!(format!("{n} {text}")));
    }
    assert_eq!(alice.wait().0.code(), Some(0));
    bob.event("inbound_node_disconnected");
    bob.exit();
}
