//! The log: it has every kind of event, and no contents of messages.

use std::fs;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{PATIENCE, Program, peerkit, piped, read_lines, run};

/// A text that must never be logged.
const CONTENT: &str = "the-treasure-is-under-the-oak";

/// Runs a node that connects to another node, and carries out `first` and a command of each kind.
/// Returns its log.
fn logged(home: &std::path::Path, env: &[(&str, &str)], first: &str) -> String {
    let other = Program::start(home, "bo\nFAKE line", &[]);
    let mut command = peerkit(home);
    command.envs(env.iter().copied());
    command.args(["run", "--json", "--manual", "--listen", "127.0.0.1:0", "--state"]);
    command.arg(home.join("ann"));
    let address = &other.address;
    let input = format!(
        "{first}\nconnect {address}\nmsg {CONTENT}\nbroadcast {CONTENT}\ndiscover\n\
         search {CONTENT}\ndebug off\nexit\n"
    );
    let output = run(command, &input);
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{log}");
    let results = String::from_utf8(output.stdout).unwrap();
    assert_eq!(results.matches(r#""ok":true"#).count(), 8, "{results}");
    other.exit();
    assert!(!log.contains(CONTENT), "{log}");
    log
}

#[test]
fn debug_logs_every_kind_of_event_without_contents() {
    let home = tempfile::tempdir().unwrap();
    // `debug` without `on` or `off` toggles the log, so this switches it on.
    let log = logged(home.path(), &[], "debug");
    for part in [
        "peerkit::link: dialling",
        "peerkit::link: up",
        "peerkit::message: sent",
        "peerkit::broadcast: passed on",
        "peerkit::query: asked",
        "peerkit::query: passed on",
        "peerkit::query: ended",
    ] {
        assert!(log.contains(part), "no `{part}` in\n{log}");
    }
    assert!(!log.lines().any(|line| line.starts_with("FAKE")), "{log}");
    assert!(!log.contains("peerkit::link: ended"), "after `debug off`:\n{log}");
}

#[test]
fn info_logs_links_and_the_start_and_stop_as_json() {
    let home = tempfile::tempdir().unwrap();
    let env = [("PEERKIT_LOG", "info"), ("PEERKIT_LOG_FORMAT", "json")];
    let log = logged(home.path(), &env, "leave");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let logged_line = |target: &str, message: &str| {
        let is_it =
            |line: &&Value| line["target"] == target && line["fields"]["message"] == message;
        lines.iter().find(is_it).unwrap_or_else(|| panic!("no {target} {message} in\n{log}"))
    };
    logged_line("peerkit::node", "started");
    assert_eq!(logged_line("peerkit::link", "up")["fields"]["direction"], "outbound");
    // The name is not in additional quotes.
    assert_eq!(logged_line("peerkit::link", "up")["fields"]["name"], "bo\nFAKE line");
    assert_eq!(logged_line("peerkit::link", "ended")["fields"]["name"], "bo\nFAKE line");
    logged_line("peerkit::membership", "leaving");
    logged_line("peerkit::node", "stopped");
    assert!(lines.iter().all(|line| line["level"] != "DEBUG"), "{log}");
    assert!(lines.iter().all(|line| line["timestamp"].is_string()), "{log}");
}

#[test]
fn an_invalid_log_variable_is_reported() {
    let home = tempfile::tempdir().unwrap();
    for (variable, value) in
        [("PEERKIT_LOG", "peerkit=much"), ("PEERKIT_LOG", "inf"), ("PEERKIT_LOG_FORMAT", "xml")]
    {
        let mut command = peerkit(home.path());
        command.env(variable, value).args(["run", "--listen", "127.0.0.1:0"]);
        let output = run(command, "size\n");
        let log = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<&str> = log.lines().collect();
        assert!(matches!(lines[..], [line] if line.contains(&format!("{variable} "))), "{log}");
        assert_eq!(output.status.code(), Some(0));
    }
}

/// A log that is not read does not block the node. Once it is read, it says how many lines are
/// missing.
#[test]
fn a_log_that_is_not_read_blocks_nothing_and_counts_its_missing_lines() {
    for format in ["text", "json"] {
        let home = tempfile::tempdir().unwrap();
        let mut command = peerkit(home.path());
        command.envs([("PEERKIT_LOG", "trace"), ("PEERKIT_LOG_FORMAT", format)]);
        command.args(["run", "--json", "--manual", "--listen", "127.0.0.1:0", "--state"]);
        command.arg(home.path().join("ann"));
        let mut ann = piped(&mut command);
        let mut input = ann.stdin.take().unwrap();
        let results = read_lines(ann.stdout.take().unwrap());
        // More lines than the pipe and the queue of the log can hold.
        for _ in 0..4000 {
            input.write_all(b"discover\n").unwrap();
            let result = || results.recv_timeout(PATIENCE).expect("the node answers");
            while !result().contains(r#""ok":true"#) {}
        }
        let mut log = ann.stderr.take().unwrap();
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            log.read_to_string(&mut text).unwrap();
            text
        });
        input.write_all(b"exit\n").unwrap();
        assert!(ann.wait().unwrap().success());
        let log = reading.join().unwrap();
        assert!(log.contains("lines of the log were left out"), "{log}");
        if format == "json" {
            let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let left_out = lines.filter_map(|line| line["fields"]["left_out"].as_u64());
            assert!(left_out.sum::<u64>() > 0);
        }
    }
}

/// A log in a watched folder must not grow because of its own lines.
#[test]
fn file_events_of_a_watched_folder_are_not_logged() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("shared");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("notes.txt"), "before").unwrap();
    let mut command = peerkit(home.path());
    command.env("PEERKIT_LOG", "trace");
    let mut ann = Program::start_by(command, home.path(), "ann", &["--manual"]);
    ann.run(&format!("add {}", folder.display()));
    let shared = |ann: &mut Program| ann.run("files")["files"][0]["hash"].clone();
    let before = shared(&mut ann);
    let begun = Instant::now();
    // The watch may begin after `add` has ended, so the file is changed until a change is noticed.
    for round in 0.. {
        fs::write(folder.join("notes.txt"), format!("after {round}")).unwrap();
        let again = Instant::now();
        while again.elapsed() < Duration::from_secs(10) && shared(&mut ann) == before {
            std::thread::sleep(Duration::from_millis(100));
        }
        if shared(&mut ann) != before {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "the change went unnoticed");
    }
    let (status, log) = ann.stop();
    assert!(status.success() && log.contains("TRACE"), "{log}");
    assert!(!log.contains("inotify event"), "{log}");
}
