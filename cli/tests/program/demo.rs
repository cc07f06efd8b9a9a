//! `peerkit demo`: its steps, its files, its picture, and its end by a signal.

use std::fs;
use std::path::Path;

use serde_json::Value;

#[cfg(unix)]
use std::io::{BufRead, BufReader};

#[cfg(unix)]
use crate::harness::send_signal;
use crate::harness::{peerkit, run};

#[test]
fn every_step_works_and_nothing_is_left_behind() {
    let home = tempfile::tempdir().unwrap();
    let temporary = home.path().join("tmp");
    let own = home.path().join("own");
    fs::create_dir_all(&temporary).unwrap();
    fs::create_dir_all(own.join("deeper")).unwrap();
    fs::write(own.join("deeper/mine.txt"), "my own").unwrap();
    let mut command = peerkit(home.path());
    command.env("TMPDIR", &temporary).args(["demo", "--json", "--dir"]).arg(&own);
    let output = run(command, "");
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<&str> = lines.iter().map(|line| line["step"].as_str().unwrap()).collect();
    assert!(lines.iter().all(|line| line["ok"] == true), "{lines:#?}");
    let expected = [
        "start",
        "join",
        "discover",
        "broadcast",
        "message",
        "ping",
        "share",
        "search",
        "fetch",
        "map",
        "leave",
        "end",
    ];
    assert_eq!(steps, expected);
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    let line = |step: &str| lines.iter().find(|line| line["step"] == step).unwrap();
    assert_eq!(line("discover")["size"], 8);
    assert_eq!(line("broadcast")["reached"], 7);
    assert_eq!(line("leave")["left"], 7);
    let hashes = line("fetch")["hashes"].as_array().unwrap();
    let mine = blake3::hash(b"my own").to_hex().to_string();
    assert!(hashes.iter().any(|file| file["hash"] == mine.as_str()), "{hashes:?}");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
}

#[test]
fn the_hashes_are_those_of_b3sum() {
    let home = tempfile::tempdir().unwrap();
    let mut command = peerkit(home.path());
    command.env("TMPDIR", home.path()).args(["demo", "--nodes", "3", "--keep"]);
    let output = run(command, "");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(!text.contains('\u{1b}'));
    let lines = text.lines().filter_map(|line| line.trim().split_once("  /"));
    let mut checked = 0;
    for (hash, path) in lines.filter(|(hash, _)| hash.len() == 64) {
        let bytes = fs::read(Path::new("/").join(path)).unwrap();
        assert_eq!(blake3::hash(&bytes).to_hex().as_str(), hash, "{path}");
        checked += 1;
    }
    assert_eq!(checked, 8, "{text}");
}

#[test]
fn the_picture_has_every_node() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("network.svg");
    let demo = |path: &Path| {
        let mut command = peerkit(home.path());
        command.env("TMPDIR", home.path()).args(["demo", "--nodes", "3", "--picture"]).arg(path);
        run(command, "")
    };
    let output = demo(&path);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains(&format!("the picture is in {}", path.display())), "{text}");
    let picture = fs::read_to_string(&path).unwrap();
    assert!(picture.contains("<svg"), "{picture}");
    for name in ["alpha", "beta", "gamma"] {
        assert!(picture.contains(name), "{picture}");
    }
    let output = demo(&home.path().join("network.png"));
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(String::from_utf8(output.stderr).unwrap().contains(".svg"));
}

#[test]
fn a_missing_folder_fails_the_demo() {
    let home = tempfile::tempdir().unwrap();
    let mut command = peerkit(home.path());
    command.env("TMPDIR", home.path()).args(["demo", "--nodes", "3", "--dir", "/not/there"]);
    let output = run(command, "");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("✗ share") && text.contains("/not/there"), "{text}");
}

#[cfg(unix)]
#[test]
fn a_stopped_demo_reports_no_failed_step() {
    let home = tempfile::tempdir().unwrap();
    // A demo may end before the signal comes. Then the next one is tried.
    for _ in 0..20 {
        let mut command = peerkit(home.path());
        command.args(["demo", "--json", "--nodes", "64"]).stdout(std::process::Stdio::piped());
        let mut demo = command.spawn().unwrap();
        let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
        let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!((&first["step"], &first["ok"]), (&"start".into(), &true.into()));
        send_signal(&demo, rustix::process::Signal::INT);
        let last: Value = serde_json::from_str(&lines.last().unwrap().unwrap()).unwrap();
        let status = demo.wait().unwrap();
        assert_eq!(last["step"], "end");
        if last["ok"] == false {
            assert_eq!(last["error"], "stopped before it was done");
            assert_eq!(status.code(), Some(130));
            return;
        }
    }
    panic!("the demo is always done before a signal comes");
}
