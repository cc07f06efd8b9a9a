//! The start of nodes: several nodes of one user, joins through bootstrap nodes, and the output.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use peerkit::Ticket;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Program, Share, TextProgram, get, peerkit, run, text};

/// Returns an address without a listener.
fn dead_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[cfg(unix)]
#[test]
fn the_printed_command_joins_from_this_machine() {
    let home = tempfile::tempdir().unwrap();
    let first = TextProgram::run(home.path(), &["--listen", "127.0.0.1:0", "--network", "it's"]);
    let greeting = first.until("To join from this machine: ");
    let line = greeting.last().unwrap().split_once("machine: ").unwrap().1.to_owned();

    // Pasted into a shell, with the program on the path.
    let program = Path::new(env!("CARGO_BIN_EXE_peerkit"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path);
    let folders = std::iter::once(program.parent().unwrap().to_owned()).chain(folders);
    let mut shell = Command::new("sh");
    for (name, value) in peerkit(home.path()).get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.env("PATH", std::env::join_paths(folders).unwrap()).args(["-c", &line]);
    let mut second = TextProgram::start(shell);
    let printed = second.until("connected to");
    let note = printed.iter().find(|line| line.contains("so this one keeps its state")).unwrap();
    assert!(note.contains("data/peerkit,") && note.contains("data/peerkit-2 "), "{note}");
    let listens = printed.iter().find(|line| line.contains("listens")).unwrap();
    assert!(!listens.contains("0.0.0.0:") && !listens.contains("[::]:"), "{listens}");
    second.write("size");
    second.until("2 nodes");

    // A third node takes the third folder. After a restart the first node has the first folder again.
    let third = TextProgram::run(home.path(), &["--listen", "127.0.0.1:0"]);
    let printed = third.until("To join");
    assert!(printed.iter().any(|line| line.contains("peerkit-3")), "{printed:?}");
    third.exit();
    second.exit();
    let (_, errors) = first.exit();
    assert!(errors.is_empty(), "{errors:?}");
    let again = TextProgram::run(home.path(), &["--listen", "127.0.0.1:0"]);
    let printed = again.until("To join");
    assert!(!printed.iter().any(|line| line.contains("note:")), "{printed:?}");
    assert!(
        greeting[1].starts_with("  id") && printed.contains(&greeting[1]),
        "the identity is the same"
    );
    again.exit();
}

/// Brackets are a pattern, and a shell such as zsh refuses a pattern that matches no file.
#[cfg(unix)]
#[test]
fn an_ipv6_address_is_quoted_in_the_line_that_is_printed() {
    if TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let node = TextProgram::run(home.path(), &["--listen", "[::1]:0"]);
    let printed = node.until("To join");
    assert!(printed.last().unwrap().contains(": peerkit run '[::1]:"), "{printed:?}");
    node.exit();
}

#[test]
fn a_given_state_folder_or_port_is_not_replaced_by_a_free_one() {
    let home = tempfile::tempdir().unwrap();
    let first = Program::start(home.path(), "alice", &[]);
    let state = home.path().join("alice");
    let mut same = peerkit(home.path());
    same.args(["run", "--listen", "127.0.0.1:0", "--state"]).arg(&state);
    let output = run(same, "size\n");
    assert_eq!(output.status.code(), Some(1));
    let printed = text(&output.stderr);
    assert!(printed.contains("another node uses the state folder"), "{printed}");
    assert!(printed.contains("choose another folder with --state DIR"), "{printed}");
    let mut same = peerkit(home.path());
    same.args(["run", "--listen", &first.address]);
    let output = run(same, "size\n");
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("is in use") && error.contains("--listen 127.0.0.1:0"), "{error}");
    first.exit();
}

#[test]
fn the_default_is_every_address_and_notes_name_the_folder_and_port_in_use() {
    let home = tempfile::tempdir().unwrap();
    let mut nodes = Vec::new();
    for expected in ["peerkit", "peerkit-2"] {
        let mut command = peerkit(home.path());
        command.args(["run", "--json"]);
        let node = TextProgram::start(command);
        let started: Value = serde_json::from_str(&node.until("node_started")[0]).unwrap();
        assert_eq!(started["state"], json!(home.path().join("data").join(expected)));
        let listen: Vec<String> = serde_json::from_value(started["listen"].clone()).unwrap();
        assert!(listen[0].starts_with("0.0.0.0:"), "{listen:?}");
        let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
        assert_eq!(listen.iter().any(|at| at.starts_with("[::]:")), has_ipv6, "{listen:?}");
        let addresses: Vec<String> = serde_json::from_value(started["addresses"].clone()).unwrap();
        assert!(!addresses.is_empty());
        let is_wild = |at: &String| at.starts_with("0.0.0.0:") || at.starts_with("[::]:");
        assert!(!addresses.iter().any(is_wild), "{addresses:?}");
        nodes.push((node, started));
    }
    let notes = nodes[1].1["notes"].to_string();
    assert!(notes.contains("keeps its state in"), "{notes}");
    assert!(notes.contains("port 7117 is in use"), "{notes}");
    nodes.into_iter().for_each(|(node, _)| drop(node.exit()));
}

#[test]
fn run_takes_a_name_an_identity_or_a_host_and_port() {
    let home = tempfile::tempdir().unwrap();
    let bob = Program::start_with(home.path(), "bob", &[]);
    let (host, port) = bob.address.split_once(':').unwrap();
    let id = bob.id.clone();
    let words: [&[&str]; 4] = [&[host, port], &["bob"], &[&id], &[&id[..8]]];
    for words in words {
        // With `--manual`: without it, ann would also join through bob as a known peer.
        let mut ann = Program::start(home.path(), "ann", words);
        let event = ann.event("outbound_node_connected");
        assert_eq!(event["peer"]["id"], json!(id), "{words:?}");
        ann.exit();
    }
    let mut ann = Program::start_with(home.path(), "ann", &["bob"]);
    ann.event("outbound_node_connected");
    let member = ann.run("status")["status"]["member"].clone();
    assert_eq!(member, json!(true));
    ann.exit();
    bob.exit();
    let mut lone = peerkit(home.path());
    lone.args(["run", "7117"]);
    let output = run(lone, "");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("a port without a host"), "{}", text(&output.stderr));
}

#[test]
fn run_looks_up_an_unknown_node_until_it_is_found() {
    let home = tempfile::tempdir().unwrap();
    let mut bob = Program::start_with(home.path(), "bob", &[]);
    let mut ann = TextProgram::run(home.path(), &["--listen", "127.0.0.1:0", &bob.id]);
    let line = ann.until_error("trying again").pop().unwrap();
    assert!(line.contains(&bob.id), "{line}");
    // Once bob has a link to ann, the next look-up finds bob.
    let line = ann.until("To join from this machine: ").pop().unwrap();
    bob.run(&format!("connect {}", line.rsplit(' ').next().unwrap()));
    let deadline = Instant::now() + PATIENCE;
    while bob.run("status")["status"]["member"] == false {
        assert!(Instant::now() < deadline, "no node has joined");
        thread::sleep(Duration::from_millis(5));
    }
    ann.write("exit");
    bob.exit();
}

#[test]
fn a_node_that_refuses_everyone_prints_no_line_to_join_it() {
    let home = tempfile::tempdir().unwrap();
    let mut node =
        TextProgram::run(home.path(), &["--listen", "127.0.0.1:0", "--max-inbound", "0"]);
    node.write("size");
    let (printed, errors) = node.exit();
    assert!(printed[0].contains("is up"), "{printed:?}");
    assert!(!printed.iter().any(|line| line.contains("To join")), "{printed:?}");
    assert!(errors.iter().any(|line| line.contains("refuses every node")), "{errors:?}");
}

#[test]
fn connect_mentions_join_only_if_the_node_is_no_member() {
    let home = tempfile::tempdir().unwrap();
    let bob = Program::start_with(home.path(), "bob", &[]);
    let mut ann = TextProgram::run(home.path(), &["--listen", "127.0.0.1:0"]);
    ann.write(&format!("connect {}", bob.address));
    ann.until("this is only a link");
    ann.write(&format!("join {}", bob.address));
    ann.until("joined through bob");
    ann.write(&format!("connect {}", bob.address));
    let (printed, _) = ann.exit();
    assert!(printed.iter().any(|line| line.contains("connected to bob")), "{printed:?}");
    assert!(!printed.iter().any(|line| line.contains("no more")), "{printed:?}");
    let mut cid = TextProgram::run(home.path(), &["--listen", "127.0.0.1:0", "--manual"]);
    cid.write(&format!("join {}", bob.address));
    cid.until("linked to bob");
    cid.exit();
    bob.exit();
}

#[test]
fn a_second_share_says_that_its_tickets_are_temporary() {
    let home = tempfile::tempdir().unwrap();
    let notes = home.path().join("notes.txt");
    fs::write(&notes, "notes").unwrap();
    let path = notes.to_str().unwrap();
    let first = Share::start(home.path(), &[path]);
    let shared = first.shared();
    assert_eq!((shared.get("passing_key"), shared.get("notes")), (None, None), "{shared}");
    assert!(shared["time"].is_u64());
    assert_eq!(shared["addresses"].as_array().unwrap().len(), 1);
    let second = Share::start(home.path(), &[path]);
    let shared = second.shared();
    assert_eq!(shared["passing_key"], true, "{shared}");
    assert!(shared["notes"][0].as_str().unwrap().contains("this run only"), "{shared}");

    // With text output, on the default port, which only one of the two nodes gets.
    let share = || {
        let mut command = peerkit(home.path());
        // Without --no-map it would ask the router of the machine that runs this test.
        command.args(["share", "--no-map", path]);
        TextProgram::start(command)
    };
    let (third, fourth) = (share(), share());
    let printed = [third.until("until Ctrl-C"), fourth.until("until Ctrl-C")];
    for lines in &printed {
        assert!(lines[0].starts_with("note: another `peerkit share` uses the key"), "{lines:?}");
        let serving = lines.last().unwrap();
        assert!(!serving.contains("0.0.0.0") && !serving.contains("[::]"), "{serving}");
    }
    let names_port = |lines: &Vec<String>| lines[1].contains("port 7117 is in use, so this node");
    assert!(printed.iter().any(names_port), "{printed:?}");
}

#[test]
fn a_ticket_for_this_machine_is_not_offered_to_another() {
    let home = tempfile::tempdir().unwrap();
    let notes = home.path().join("notes.txt");
    fs::write(&notes, "notes").unwrap();
    let share = |args: &[&str]| {
        let mut command = peerkit(home.path());
        command.args(["share", "--listen", "127.0.0.1:0"]).args(args).arg(&notes);
        TextProgram::start(command).until("until Ctrl-C")
    };
    let printed = share(&[]);
    assert!(
        printed.iter().any(|line| line.starts_with("To fetch it, type on this machine")),
        "{printed:?}"
    );
    assert!(
        !printed.iter().any(|line| line.starts_with("To fetch it, type on the other machine")),
        "{printed:?}"
    );

    let printed = share(&["--announce", "192.0.2.7:7000"]);
    assert!(
        printed.iter().any(|line| line == "To fetch it, type on the other machine:"),
        "{printed:?}"
    );
    let ticket = printed.iter().find_map(|line| line.strip_prefix("  ticket ")).unwrap();
    let ticket: Ticket = ticket.parse().unwrap();
    assert_eq!(ticket.addresses, ["192.0.2.7:7000".parse().unwrap()]);
}

#[test]
fn the_printed_command_has_an_address_that_another_machine_can_dial() {
    let home = tempfile::tempdir().unwrap();
    let announced = ["--announce", "127.0.0.1:7000", "--announce", "192.0.2.7:7000"];
    let args = [&["--listen", "127.0.0.1:0", "--announce-only"], &announced[..]].concat();
    let person = TextProgram::run(home.path(), &args);
    let printed = person.until("To join");
    let line = printed.last().unwrap();
    assert_eq!(line, "To join from another machine: peerkit run 192.0.2.7:7000");
    person.exit();
}

#[cfg(unix)]
#[test]
fn skipped_files_are_in_json_and_in_text() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("folder");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("real.txt"), "real").unwrap();
    let link = folder.join("link.txt");
    std::os::unix::fs::symlink(folder.join("real.txt"), &link).unwrap();
    let path = folder.to_str().unwrap();
    let expected = json!([{"path": link, "why": "a symbolic link"}]);

    let node = Program::start(home.path(), "alice", &["--share", path]);
    assert_eq!(node.started["skipped"], expected, "{}", node.started);
    node.exit();
    let share = Share::start(home.path(), &[path]);
    assert_eq!(share.shared()["skipped"], expected);

    let node = TextProgram::run(home.path(), &["--listen", "127.0.0.1:0", "--share", path]);
    let printed = node.until("To join");
    assert!(printed.iter().any(|line| line.contains("not shared: ") && line.contains("link.txt")));
    let (_, errors) = node.exit();
    assert!(errors.is_empty(), "{errors:?}");
    let mut command = peerkit(home.path());
    command.args(["share", "--listen", "127.0.0.1:0", path]);
    let printed = TextProgram::start(command).until("until Ctrl-C");
    assert!(printed.iter().any(|line| line.contains("not shared: ") && line.contains("link.txt")));
}

#[test]
fn paths_in_results_are_absolute() {
    let home = tempfile::tempdir().unwrap();
    let notes = home.path().join("notes.txt");
    fs::write(&notes, "notes").unwrap();
    let share = Share::start(home.path(), &[notes.to_str().unwrap()]);
    let ticket = share.shared()["ticket"].as_str().unwrap().to_owned();
    let mut command = peerkit(home.path());
    command.current_dir(home.path()).args(["run", "--json", "--manual"]);
    command.args(["--listen", "127.0.0.1:0", "--state", "state", "--downloads", "got"]);
    let input = format!("get {ticket}\nmap map.svg\nsave peers.json\nload peers.json\n");
    let output = run(command, &input);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["state"], json!(home.path().join("state")));
    let paths =
        lines.iter().filter_map(|line| line["path"].as_str().or(line["data"]["path"].as_str()));
    let paths: Vec<&Path> = paths.map(Path::new).collect();
    assert!(paths.len() >= 5 && paths.iter().all(|path| path.is_absolute()), "{paths:?}");
}

#[test]
fn unanswered_dials_of_known_peers_are_reported_on_one_line() {
    let home = tempfile::tempdir().unwrap();
    let alive = Program::start_with(home.path(), "alive", &[]);
    let known = |n: u8, address: &str| {
        let id = peerkit::Key::from_secret(&[n; 32]).id();
        json!({"id": id, "name": format!("n{n}"), "addresses": [address], "last_seen": 1})
    };
    let dead: Vec<Value> = (1..=3).map(|n| known(n, &dead_address())).collect();
    let peers = home.path().join("peers.json");
    let state = home.path().join("state").display().to_string();
    let args = ["--listen", "127.0.0.1:0", "--state", &state];
    let load = |peers_in_file: &[Value]| {
        fs::write(&peers, json!(peers_in_file).to_string()).unwrap();
        let mut command = peerkit(home.path());
        command.args(["run", "--manual"]).args(args);
        run(command, &format!("load {}\n", peers.display()));
    };
    load(&dead);
    let node = TextProgram::run(home.path(), &args);
    let printed = node.until_error("did not answer");
    assert_eq!(printed, ["! 3 known nodes did not answer"]);
    let (_, errors) = node.exit();
    assert!(errors.is_empty(), "{errors:?}");

    let one = json!({"id": alive.id, "name": "a", "addresses": [alive.address], "last_seen": 2});
    load(&[one]);
    let node = TextProgram::run(home.path(), &args);
    node.until("connected to alive");
    assert_eq!(node.until_error("did not answer").len(), 1);
    // A stopping node does not report the links that it closes.
    let (printed, _) = node.exit();
    assert!(!printed.iter().any(|line| line.contains("closed")), "{printed:?}");
    alive.exit();
}

#[test]
fn a_failed_connect_or_join_is_reported_once() {
    let home = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = listener.local_addr().unwrap().to_string();
    let answering = thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let _ = connection.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
    });
    let mut node = TextProgram::run(home.path(), &["--manual", "--listen", "127.0.0.1:0"]);
    let greeting = node.until("To connect");
    let myself = greeting.last().unwrap().rsplit(' ').next().unwrap().to_owned();
    // The addresses are dialled one after the other, so the events of the first come before the
    // last fails.
    let commands = [
        (&other, format!("connect {other}")),
        (&myself, format!("connect {myself}")),
        (&other, format!("connect {other}")),
        (&other, format!("join {other} {other}")),
    ];
    for (address, command) in commands {
        node.write(&command);
        let printed = node.until_error(address);
        assert_eq!(printed.len(), 1, "{printed:?}");
    }
    node.write("exit");
    answering.join().unwrap();
}

#[test]
fn a_failed_join_names_the_address_once() {
    let home = tempfile::tempdir().unwrap();
    let dead = dead_address();
    let node = TextProgram::run(home.path(), &["--listen", "127.0.0.1:0", &dead]);
    let printed = node.until_error("not joined");
    assert_eq!(printed.len(), 1, "{printed:?}");
    assert_eq!(printed[0].matches(&dead).count(), 1, "{printed:?}");
}

#[test]
fn a_failed_join_through_several_nodes_gives_only_their_number() {
    let home = tempfile::tempdir().unwrap();
    let mut node = Program::start_with(home.path(), "alice", &[]);
    let gone = [dead_address(), dead_address(), dead_address()];
    let error = node.fail(&format!("join {}", gone.join(" ")));
    assert_eq!(error, "none of the 3 nodes answered");
    for address in &gone {
        let is_it = |event: &Value| event["data"]["address"] == json!(address);
        node.event_where("outbound_node_connection_error", is_it);
    }
    let error = node.fail(&format!("join {0} {0}", gone[0]));
    assert_eq!(error.matches(&gone[0]).count(), 1, "{error}");
    let (status, _) = node.stop();
    assert_eq!(status.code(), Some(1), "commands have failed");
}

#[test]
fn a_missing_share_of_an_earlier_run_is_reported() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("holiday.zip");
    fs::write(&file, "sun").unwrap();
    let mut node = Program::start(home.path(), "alice", &[]);
    node.run(&format!("add {}", file.display()));
    node.exit();
    fs::remove_file(&file).unwrap();
    let mut node = Program::start(home.path(), "alice", &[]);
    assert_eq!(node.run("files")["files"], json!([]));
    let (_, stderr) = node.stop();
    assert_eq!(stderr.matches("holiday.zip").count(), 1, "{stderr}");
    assert!(stderr.contains("not shared"), "{stderr}");
}

#[test]
fn shutdown_fails_in_a_network_without_an_owner() {
    let home = tempfile::tempdir().unwrap();
    let mut node = Program::start(home.path(), "alice", &[]);
    let error = node.fail("shutdown");
    assert!(error.contains("no owner") && error.contains("`exit`"), "{error}");
    assert!(node.is_running());
    assert_eq!(node.run("size")["size"], 1);
    let (status, _) = node.stop();
    assert_eq!(status.code(), Some(1), "a command has failed");
}

#[test]
fn bootstrap_nodes_come_from_options_environment_and_file() {
    let home = tempfile::tempdir().unwrap();
    let a = Program::start_with(home.path(), "alice", &[]);
    let mut b = Program::start_with(
        home.path(),
        "bob",
        &["--bootstrap", &dead_address(), "--bootstrap", &a.address],
    );
    assert_eq!(b.event("outbound_node_connected")["peer"]["id"], json!(a.id));
    b.run("leave");
    let joined = b.run("join");
    assert_eq!(joined["peers"][0]["id"], json!(a.id));

    let state = home.path().join("carol");
    fs::create_dir_all(&state).unwrap();
    fs::write(state.join("bootstrap"), format!("# ours\n{}\n", a.address)).unwrap();
    let mut c = Program::start_with(home.path(), "carol", &[]);
    assert_eq!(c.event("outbound_node_connected")["peer"]["id"], json!(a.id));

    let mut command = peerkit(home.path());
    command.env("PEERKIT_BOOTSTRAP", format!("{},{}", dead_address(), a.address));
    command.args(["run", "--listen", "127.0.0.1:0"]);
    let d = TextProgram::start(command);
    d.until("connected to alice");
    d.exit();
    let mut command = peerkit(home.path());
    command.env("PEERKIT_BOOTSTRAP", "host:99999").args(["run", "--listen", "127.0.0.1:0"]);
    let output = run(command, "size\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("PEERKIT_BOOTSTRAP can't be used"));

    let mut alone = Program::start(home.path(), "dave", &[]);
    assert!(alone.fail("join").contains("no node to join through"));
    alone.stop();
    [a, b, c].into_iter().for_each(Program::exit);
}

#[test]
fn a_bootstrap_node_that_starts_later_is_joined_when_it_is_up() {
    let home = tempfile::tempdir().unwrap();
    let later = Program::start_with(home.path(), "bob", &[]);
    let address = later.address.clone();
    later.exit();
    let alice =
        TextProgram::run(home.path(), &["--listen", "127.0.0.1:0", "--bootstrap", &address]);
    let printed = alice.until_error("not joined");
    assert_eq!(printed.len(), 1, "{printed:?}");
    let bob = Program::start_with(home.path(), "bob", &["--listen", &address]);
    alice.until("connected to bob");
    alice.exit();
    bob.exit();
}

#[test]
fn an_error_with_force_does_not_advise_force() {
    let home = tempfile::tempdir().unwrap();
    let notes = home.path().join("notes.txt");
    fs::write(&notes, "notes").unwrap();
    fs::create_dir_all(home.path().join("other/notes.txt")).unwrap();
    let share = Share::start(home.path(), &[notes.to_str().unwrap()]);
    let ticket = share.shared()["ticket"].as_str().unwrap().to_owned();
    let got = get(home.path(), &[&ticket, "--force"]);
    let error = text(&got.stderr);
    assert!(!error.contains("--force replaces it"), "{error}");
    assert!(home.path().join("other/notes.txt").is_dir());
}
