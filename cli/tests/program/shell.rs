//! The command line: arguments, exit status, streams.

use std::fs;
use std::net::TcpListener;
use std::process::Stdio;
use std::thread;

use serde_json::Value;

use crate::harness::{PATIENCE, Program, peerkit, piped, run};

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// An identity that no node can have: its point has a small order.
const INVALID_ID: &str = "0100000000000000000000000000000000000000000000000000000000000000";

#[test]
fn wrong_usage_is_status_2() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    for (args, hint) in [
        (&["run", "127.0.0.1:0"][..], "not a port"),
        (&["run", "--listen", "host:x"], "not a port"),
        (&["run", "--unknown"], "--unknown"),
        (&["share"], "PATH"),
        (&["share", ".", "--up", "fast"], "bytes a second"),
        (&["get", "abcd"], "begins with peerkit1"),
        (&["fly"], "fly"),
        (&["sned"], "a similar command exists: `peerkit send`"),
        (&["sned", "bob", "hello"], "a similar command exists: `peerkit send`"),
        (&["list"], "`peerkit peers`"),
        (&["get", "0a0a0a0a0a0a"], "has 64 hex digits, and this has 12"),
        (&["RUN"], "`peerkit run`"),
        (&["7117"], "`peerkit run HOST PORT`"),
        (&["localhost"], "`peerkit run ADDR`"),
        (&["share", ".", "--json", "--to", INVALID_ID], "no valid key"),
        (&["run", "--owner-id", INVALID_ID], "no valid key"),
        (&["run", &format!("{INVALID_ID}@127.0.0.1:1")], "no valid key"),
        (&["run", "--bootstrap", &format!("{INVALID_ID}@127.0.0.1:1")], "no valid key"),
        (&["get", INVALID_ID, "--from", &format!("{INVALID_ID}@127.0.0.1:1")], "no valid key"),
        (&["get", INVALID_ID, "--from", INVALID_ID], "ID@host:port"),
        (&["receive"], "`peerkit get TICKET`"),
        (&["send", "holiday.zip"], "`peerkit share PATH`"),
        (&["get"], "--ticket-file"),
        (&["get", "abcd", "--json"], "begins with peerkit1"),
        (&["get", "--ticket-file", "-"], "standard input is neither"),
        (&["man", "fly"], "fly"),
        (&["run", "--up", "-1"], "bytes a second"),
        (&["run", "--max-inbound", "-1"], "a whole number"),
        (&["sim", "a.toml", "--seed", "x"], "a whole number"),
        (&["run", "--downloads", file], "is not a folder"),
        (&["demo", "--nodes", "1"], "from 3 to 64"),
        (&[], "Usage"),
    ] {
        let mut command = peerkit(home.path());
        command.args(args);
        let output = run(command, "");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(text(&output.stderr).contains(hint), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn help_that_can_not_be_written_gives_status_1() {
    let home = tempfile::tempdir().unwrap();
    for args in [&["--help"][..], &["help"], &["--version"], &["version"], &["get", "--help"]] {
        let mut command = peerkit(home.path());
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        command.args(args).stdout(full).stderr(Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(text(&output.stderr).contains("No space left"), "{args:?}");
    }
}

#[test]
fn help_and_version_are_status_0() {
    let home = tempfile::tempdir().unwrap();
    for (args, hint) in [
        (&["--help"][..], "peerkit demo"),
        (&["run", "--help"], "PEERKIT_SECRET"),
        (&["share", "--help"], "peerkit share ~/Pictures"),
        (&["get", "--help"], "peerkit get TICKET"),
        (&["--version"], "peerkit "),
        (&["version"], "peerkit "),
        (&["help"], "peerkit demo"),
        (&["help", "run"], "PEERKIT_SECRET"),
        (&["completions", "bash"], "complete"),
        (&["completions", "zsh"], "compdef"),
        (&["man"], ".TH peerkit 1"),
        (&["man", "run"], "\\-\\-headless"),
    ] {
        let mut command = peerkit(home.path());
        command.args(args);
        let output = run(command, "");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(text(&output.stdout).contains(hint), "{args:?}");
        assert!(output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_file_as_the_first_word_suggests_share() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("it's holiday.zip"), "x").unwrap();
    let mut command = peerkit(home.path());
    command.current_dir(home.path()).arg("it's holiday.zip");
    let output = run(command, "");
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    let line = if cfg!(windows) { "\"it's holiday.zip\"" } else { r"'it'\''s holiday.zip'" };
    assert!(error.contains(&format!("`peerkit share {line}`")), "{error}");
}

#[test]
fn an_identity_is_made_once_and_kept_private() {
    let home = tempfile::tempdir().unwrap();
    let id = || {
        let mut command = peerkit(home.path());
        command.arg("id").arg("--state").arg(home.path().join("alice"));
        let output = run(command, "");
        assert!(output.status.success());
        text(&output.stdout).trim().to_owned()
    };
    let first = id();
    assert_eq!(first.len(), 64);
    assert_eq!(id(), first);
    let key = home.path().join("alice/key");
    let node = Program::start(home.path(), "alice", &[]);
    assert_eq!(node.id, first);
    node.exit();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let mut command = peerkit(home.path());
        command.arg("id").arg("--state").arg(home.path().join("alice"));
        let output = run(command, "");
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("chmod 600"), "{}", text(&output.stderr));
    }
}

#[test]
fn the_default_state_folder_is_in_the_data_folder() {
    let home = tempfile::tempdir().unwrap();
    let mut command = peerkit(home.path());
    command.arg("id");
    assert!(run(command, "").status.success());
    assert!(home.path().join("data/peerkit/key").exists());
}

#[test]
fn a_port_in_use_is_an_error_with_advice() {
    let home = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut command = peerkit(home.path());
    command.args(["run", "--listen", &format!("127.0.0.1:{port}")]);
    let output = run(command, "");
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains(&format!("port {port} of 127.0.0.1 is in use")), "{error}");
    assert!(error.contains("--listen 127.0.0.1:0"), "{error}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_state_folder_serves_one_node_at_a_time() {
    let home = tempfile::tempdir().unwrap();
    let node = Program::start(home.path(), "alice", &[]);
    let mut command = peerkit(home.path());
    command.args(["run", "--listen", "127.0.0.1:0", "--state"]);
    command.arg(home.path().join("alice"));
    let output = run(command, "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("alice"), "{}", text(&output.stderr));
    node.exit();
}

#[test]
fn piped_commands_are_carried_out_before_the_node_stops() {
    let home = tempfile::tempdir().unwrap();
    let mut bob = Program::start(home.path(), "bob", &[]);
    let mut command = peerkit(home.path());
    command.args(["run", "--listen", "127.0.0.1:0", "--manual", &bob.address]);
    let output = run(command, "msg from a pipe\r\nsize");
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).is_empty(), "{}", text(&output.stderr));
    assert_eq!(bob.event("node_message")["data"], "from a pipe");
    let printed = text(&output.stdout);
    assert!(printed.contains("sent to 1 node\n") && printed.contains("2 nodes"), "{printed}");
    assert!(!printed.contains('\u{1b}'), "no escape codes in a pipe: {printed:?}");
    bob.event("inbound_node_disconnected");
    bob.exit();
}

#[test]
fn no_colour_reaches_a_pipe_even_if_forced() {
    let home = tempfile::tempdir().unwrap();
    for (key, value) in [("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1"), ("TERM", "dumb")] {
        let mut command = peerkit(home.path());
        command.env(key, value).args(["run", "--listen", "127.0.0.1:0"]);
        let output = run(command, "help\nfiles\nnonsense\nmap\nstatus\n");
        assert_eq!(output.status.code(), Some(1));
        assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b), "{key}");
        assert!(text(&output.stderr).contains("`nonsense` is not a command"));
    }
}

#[test]
fn a_failed_command_is_status_1() {
    let home = tempfile::tempdir().unwrap();
    for json in [true, false] {
        let mut command = peerkit(home.path());
        command.args(["run", "--listen", "127.0.0.1:0"]);
        command.args(json.then_some("--json"));
        let output = run(command, "ping nobody\nsize\n");
        assert_eq!(output.status.code(), Some(1), "json: {json}");
        assert_eq!(output.stderr.is_empty(), json);
    }
}

#[test]
fn standard_output_has_only_json_lines() {
    let home = tempfile::tempdir().unwrap();
    let mut command = peerkit(home.path());
    command.args(["run", "--listen", "127.0.0.1:0", "--json"]).env("PEERKIT_LOG", "trace");
    let output = run(command, "help\nstatus\n\nwhat\n\u{1b}[31mred\nexit\npeers\n");
    let lines = text(&output.stdout).lines();
    let lines: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    let results = lines.iter().filter_map(|line| line["result"].as_str());
    let results: Vec<&str> = results.collect();
    assert_eq!(results, ["help", "status", "what", "\u{1b}[31mred", "exit"]);
    assert_eq!(lines[0]["event"], "node_started");
    assert!(!output.stderr.is_empty(), "the log goes to standard error");
}

#[test]
fn a_closed_standard_output_is_no_error() {
    let home = tempfile::tempdir().unwrap();
    let mut command = peerkit(home.path());
    command.args(["run", "--listen", "127.0.0.1:0", "--json", "--headless"]);
    let mut child = piped(&mut command);
    drop(child.stdout.take());
    let (done, wait) = std::sync::mpsc::channel();
    thread::spawn(move || done.send(child.wait_with_output()));
    let output = wait.recv_timeout(PATIENCE).expect("the node stops").unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

#[test]
fn a_missing_path_to_share_fails_the_start() {
    let home = tempfile::tempdir().unwrap();
    let mut command = peerkit(home.path());
    command.args(["run", "--listen", "127.0.0.1:0", "--share"]);
    command.arg(home.path().join("nothing here"));
    let output = run(command, "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nothing here"));
}

#[cfg(unix)]
#[test]
fn a_path_without_a_name_can_not_be_shared() {
    let home = tempfile::tempdir().unwrap();
    // Standard input is a pipe, as with `<(command)` in a shell.
    let mut command = peerkit(home.path());
    command.args(["share", "--listen", "127.0.0.1:0", "/dev/stdin"]);
    let output = run(command, "text");
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("neither a file nor a folder"), "{error}");
    let mut command = peerkit(home.path());
    command.args(["share", "--listen", "127.0.0.1:0", "/"]);
    let output = run(command, "");
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("has no name") && !error.contains("rename"), "{error}");
}

#[test]
fn an_error_shows_only_the_start_of_a_mistyped_ticket() {
    let home = tempfile::tempdir().unwrap();
    let ticket = format!("eerkit1{}", "a".repeat(200));
    for args in [&["get", &ticket][..], &["get", &"0".repeat(64), "here", &ticket]] {
        let mut command = peerkit(home.path());
        command.args(args);
        let output = run(command, "");
        assert_eq!(output.status.code(), Some(2));
        let error = text(&output.stderr);
        assert!(error.contains("eerkit1aaa") && !error.contains(&"a".repeat(40)), "{error}");
    }
}

#[test]
fn nodes_of_different_networks_or_secrets_refuse_each_other() {
    let home = tempfile::tempdir().unwrap();
    let one = Program::start(home.path(), "one", &["--network", "red"]);
    let mut other = Program::start(home.path(), "other", &["--network", "blue"]);
    let error = other.fail(&format!("connect {}", one.address));
    assert!(error.contains("network"), "{error}");
    let mut command = peerkit(home.path());
    command
        .args(["run", "--listen", "127.0.0.1:0", "--network", "red"])
        .env("PEERKIT_SECRET", "open sesame");
    let output = run(command, &format!("connect {}\n", one.address));
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("secret") && !error.contains("sesame"), "{error}");
}

#[test]
fn a_connection_that_fails_is_reported_once() {
    let home = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    for (verb, option) in [("connect", "--manual"), ("join", "--announce-only")] {
        let mut command = peerkit(home.path());
        command.args(["run", "--listen", "127.0.0.1:0", option]);
        if option == "--announce-only" {
            command.args(["--announce", "192.0.2.1:1"]);
        }
        let output = run(command, &format!("{verb} {address}\n"));
        assert_eq!(output.status.code(), Some(1));
        let printed = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(printed.matches(&address).count(), 1, "{verb}: {printed}");
    }
}

/// The program at the address is no node, or it is another node than the expected one.
#[test]
fn a_failed_handshake_is_reported_once() {
    let home = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || listener.incoming().for_each(drop));
    let bob = Program::start(home.path(), "bob", &[]);
    let mut id = peerkit(home.path());
    id.arg("id").arg("--state").arg(home.path().join("other"));
    let other = run(id, "");
    let wrong = format!("{}@{}", text(&other.stdout).trim(), bob.address);
    for place in [address, wrong] {
        for verb in ["connect", "join"] {
            let mut command = peerkit(home.path());
            command.args(["run", "--listen", "127.0.0.1:0", "--announce-only"]);
            command.args(["--announce", "192.0.2.1:1"]);
            let output = run(command, &format!("{verb} {place}\n"));
            assert_eq!(output.status.code(), Some(1));
            let printed = format!("{}{}", text(&output.stdout), text(&output.stderr));
            assert_eq!(printed.matches(&place).count(), 1, "{verb}: {printed}");
            assert!(!printed.contains("could not connect"), "{verb}: {printed}");
        }
    }
}

#[test]
fn an_identity_that_no_node_has_is_refused() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("a"), "a").unwrap();
    let path = home.path().join("a");
    let mut alice = Program::start(home.path(), "alice", &[]);
    let error = alice.fail(&format!("add {} --to {INVALID_ID}", path.display()));
    assert!(error.contains("no valid key"), "{error}");
    let error = alice.fail(&format!("connect {INVALID_ID}"));
    assert!(error.contains("no valid key"), "{error}");
    assert_eq!(alice.run("files")["files"].as_array().map(Vec::len), Some(0));
    let error = alice.fail("PEERS");
    assert!(error.contains("lower case: `peers`"), "{error}");
    let (status, stderr) = alice.stop();
    assert_eq!((status.code(), stderr.as_str()), (Some(1), ""));
}

#[test]
fn a_source_that_can_not_be_reached_is_named_once() {
    let home = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let id = "06".repeat(32);
    let mut command = peerkit(home.path());
    command.args(["get", &"0a".repeat(32), "--from", &format!("{id}@{address}")]);
    let output = run(command, "");
    assert_eq!(output.status.code(), Some(1));
    let printed = text(&output.stderr);
    assert_eq!(
        (printed.matches(&id[..8]).count(), printed.matches(&address).count()),
        (1, 1),
        "{printed}"
    );
}
