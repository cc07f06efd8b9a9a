//! `peerkit doctor`: each injected fault is named, by its check and in the verdict.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Output;
use std::thread;

use serde_json::Value;

use crate::harness::{Program, peerkit, run, text};

/// Runs `peerkit doctor` with the state folder `name`.
fn doctor(home: &Path, name: &str, secret: Option<&str>, words: &[&str]) -> Output {
    let mut command = peerkit(home);
    if let Some(secret) = secret {
        command.env("PEERKIT_SECRET", secret);
    }
    command.arg("doctor").args(words).arg("--state").arg(home.join(name));
    run(command, "")
}

/// Returns the JSON line of `peerkit doctor`, which has to end with this exit status.
fn diagnosis(output: &Output, status: i32) -> Value {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{stdout}{stderr}");
    let line: Value = serde_json::from_str(stdout).unwrap();
    assert_eq!((&line["result"], &line["ok"]), (&"doctor".into(), &true.into()), "{line}");
    line
}

/// Checks that only this check has failed, and that the verdict says this.
#[track_caller]
fn assert_fault(line: &Value, name: &str, part: &str) {
    let checks = line["checks"].as_array().unwrap();
    let failed: Vec<&Value> = checks.iter().filter(|check| check["ok"] == false).collect();
    let names: Vec<&Value> = failed.iter().map(|check| &check["name"]).collect();
    assert_eq!(names, [name], "{line}");
    let (detail, remedy) = (&failed[0]["detail"], failed[0]["remedy"].as_str().unwrap());
    assert!(detail.as_str().unwrap().contains(part), "{line}");
    assert!(remedy.contains("machine") || remedy.contains("--network"), "{line}");
    assert_eq!(line["verdict"], format!("{}: {remedy}", detail.as_str().unwrap()));
}

/// Diagnoses the way to `address` without a running node, and checks the fault.
#[track_caller]
fn assert_fault_at(home: &Path, address: &str, name: &str, part: &str) {
    let output = doctor(home, "none", None, &[address, "--json"]);
    assert_fault(&diagnosis(&output, 1), name, part);
}

/// Starts a server that calls `serve` with each connection. Returns its address.
fn server(serve: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for connection in listener.incoming() {
            serve(connection.unwrap());
        }
    });
    address
}

#[test]
fn faults_before_the_handshake_are_told_apart() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    assert_fault_at(home, "no-such-host.invalid:7117", "name", "no-such-host.invalid");

    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap().to_string();
    drop(closed);
    assert_fault_at(home, &address, "port", "refuses connections");

    // The system accepts connections for this listener, and nothing reads them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    assert_fault_at(home, &address, "tls", "says nothing");

    for greeting in ["HTTP/1.1 400 Bad Request\r\n\r\n", "220 mail.example ESMTP\r\n"] {
        let other = server(move |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(greeting.as_bytes());
        });
        assert_fault_at(home, &other, "tls", "does not speak TLS");
    }

    // A server of HTTPS knows no raw public keys: it sends the alert handshake_failure.
    let https = server(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"\x15\x03\x03\x00\x02\x02\x28");
    });
    assert_fault_at(home, &https, "tls", "speaks TLS, but is not a peerkit node");

    let closing = server(|mut stream| drop(stream.read(&mut [0; 4096])));
    assert_fault_at(home, &closing, "tls", "closes connections");
}

#[test]
fn another_identity_network_or_secret_is_named() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let bob = Program::start(home, "bob", &[]);
    let carol = Program::start(home, "carol", &["--network", "elsewhere"]);
    let expected = format!("{}@{}", carol.id, bob.address);
    assert_fault_at(home, &expected, "identity", &bob.id);
    assert_fault_at(home, &carol.address, "network", "not in the network `peerkit`");

    let mut secret = peerkit(home);
    secret.env("PEERKIT_SECRET", "the right one");
    let dave = Program::start_by(secret, home, "dave", &["--manual"]);
    assert_fault_at(home, &dave.address, "secret", "this machine gave none");
    for (address, part) in [
        (&dave.address, "another secret than this machine"),
        (&bob.address, "this machine has a secret"),
    ] {
        let output = doctor(home, "none", Some("a wrong one"), &[address, "--json"]);
        assert_fault(&diagnosis(&output, 1), "secret", part);
        let printed = text(&output.stdout);
        assert!(!printed.contains("right one") && !printed.contains("wrong one"), "{printed}");
    }
    let well = doctor(home, "none", Some("the right one"), &[&dave.address, "--json"]);
    assert!(diagnosis(&well, 0)["verdict"].as_str().unwrap().contains("nothing is wrong"));
    dave.exit();
    carol.exit();
    bob.exit();
}

#[test]
fn a_full_node_is_named_from_both_ends() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let announced = ["--max-inbound", "1", "--announce", "192.0.2.7:7117"];
    let mut bob = Program::start(home, "bob", &announced);
    let well = diagnosis(&doctor(home, "bob", None, &["--json"]), 0);
    assert!(well["verdict"].as_str().unwrap().contains("nothing is wrong"), "{well}");

    let mut alice = Program::start(home, "alice", &[&bob.address]);
    bob.event("inbound_node_connected");
    assert_fault_at(home, &bob.address, "limits", "as many inbound links as it accepts");
    assert_fault(&bob.run("doctor"), "limits", "1 of at most 1 inbound links");
    // For a node that is linked already, this is no fault.
    let linked = alice.run(&format!("doctor {}", bob.address));
    let verdict = linked["verdict"].as_str().unwrap();
    assert!(verdict.contains("this node is linked to it"), "{linked}");
    assert_eq!(alice.run("peers")["peers"].as_array().unwrap().len(), 1);
    alice.exit();
    assert_eq!(bob.stop().0.code(), Some(1), "a piped `doctor` has found a fault");
}

#[test]
fn the_running_node_examines_itself_and_others() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let mut bob = Program::start(home, "bob", &["--announce", "192.0.2.7:7117"]);
    let mut alice = Program::start(home, "alice", &["--network", "peerkit"]);

    assert_fault(&alice.run("doctor"), "addresses", "only this machine can dial this node");
    let own = doctor(home, "alice", None, &[&alice.address, "--json"]);
    assert_fault(&diagnosis(&own, 1), "own_address", "leads to this node itself");
    let own = alice.run(&format!("doctor {}", alice.id));
    assert_fault(&own, "own_address", "is this node itself");

    // At the prompt, in a shell, and for people.
    let (host, port) = bob.address.rsplit_once(':').unwrap();
    let well = alice.run(&format!("doctor {host} {port}"));
    let verdict =
        format!("nothing is wrong: bob ({}) can be reached at {}", &bob.id[..8], bob.address);
    assert_eq!(well["verdict"].as_str().unwrap(), verdict);
    let names: Vec<&str> = well["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    let expected = ["port", "tls", "identity", "version", "network", "secret", "limits", "clock"];
    assert_eq!(names, expected);
    let people = doctor(home, "alice", None, &[&bob.address]);
    assert_eq!(people.status.code(), Some(0));
    let printed = text(&people.stdout);
    assert!(printed.contains("✓ network     both are in `peerkit`\n"), "{printed}");
    assert!(printed.ends_with(&format!("Verdict: {verdict}\n")), "{printed}");

    // The visits have left no link, and the node there saw only those that were complete.
    for node in [&mut alice, &mut bob] {
        assert_eq!(node.run("status")["status"]["outbound"], 0);
        assert!(node.unread_events("inbound_node_connection_error").is_empty());
    }
    let visitor = bob.event("inbound_node_connected");
    assert_eq!(visitor["peer"]["name"], "peerkit-doctor");
    bob.event("inbound_node_disconnected");
    bob.event("inbound_node_disconnected");

    // A failed dial explains a node without links.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    bob.fail(&format!("connect {closed}"));
    bob.event("outbound_node_connection_error");
    let failed = bob.run("doctor");
    assert_fault(&failed, "failures", &closed.to_string());
    // A piped `doctor` that finds a fault fails.
    for node in [&mut alice, &mut bob] {
        let (status, stderr) = node.stop();
        assert_eq!((status.code(), stderr.as_str()), (Some(1), ""));
    }
}

#[test]
fn without_a_running_node_it_says_so_and_still_checks_others() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let none = doctor(home, "none", None, &["--json"]);
    assert_fault(&diagnosis(&none, 1), "running", "no running node");
    let bob = Program::start(home, "bob", &[]);
    let well = doctor(home, "none", None, &[&format!("{}@{}", bob.id, bob.address), "--json"]);
    assert!(diagnosis(&well, 0)["verdict"].as_str().unwrap().contains("bob"));
    assert!(!home.join("none").exists(), "a check makes no state folder");
    let wrong = doctor(home, "none", None, &["7117"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong.stderr));
    bob.exit();
}
