//! Full and missing disks, and paths that are hard to write or to print.

#![cfg(target_os = "linux")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::{Value, json};

use crate::harness::{
    PATIENCE, Program, Share, get, get_command, peerkit, run, send_signal, stopping_signals, text,
    ticket,
};

/// Returns a folder below `home` whose name is not UTF-8.
fn non_utf8_folder(home: &Path, name: &[u8]) -> PathBuf {
    let path = home.join(OsStr::from_bytes(name));
    fs::create_dir_all(&path).unwrap();
    path
}

/// Limits the size of the files that a process writes, so that writes fail. `None` lifts the limit.
fn limit_files(pid: Pid, bytes: Option<u64>) {
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

/// Returns the program, started so that a write beyond the limit is an error and not a signal.
fn without_write_signal(home: &Path) -> Command {
    let program = peerkit(home);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(program.get_program());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

#[test]
fn a_full_state_disk_is_used_again_once_it_has_room() {
    let home = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        fs::write(home.path().join(name), name).unwrap();
    }
    let at = |name: &str| home.path().join(name).display().to_string();
    let mut node =
        Program::start_by(without_write_signal(home.path()), home.path(), "ann", &["--manual"]);
    node.run(&format!("add {}", at("a")));
    node.run(&format!("map {}", at("net.svg")));
    node.run(&format!("save {}", at("peers.json")));
    let kept = ["net.svg", "peers.json"].map(|name| fs::read(at(name)).unwrap());
    limit_files(node.pid(), Some(1));
    for _ in 0..2 {
        let error = node.fail(&format!("add {}", at("b")));
        assert!(error.contains("File too large"), "{error}");
    }
    for command in ["map", "save"] {
        let name = if command == "map" { "net.svg" } else { "peers.json" };
        let error = node.fail(&format!("{command} {}", at(name)));
        assert!(error.contains("File too large"), "{error}");
    }
    let now = ["net.svg", "peers.json"].map(|name| fs::read(at(name)).unwrap());
    assert!(now == kept, "the old files stay");
    let names = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let hidden: Vec<_> = names.filter(|name| name.as_bytes().starts_with(b".")).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
    limit_files(node.pid(), None);
    node.run(&format!("add {}", at("c")));
    node.stop();
    let mut again = Program::start(home.path(), "ann", &[]);
    let files = again.run("files");
    let names: Vec<_> = files["files"].as_array().unwrap().iter().map(|f| &f["name"]).collect();
    assert_eq!(names, ["a", "c"]);
    again.exit();
}

#[test]
fn paths_that_are_not_utf8_are_printed_and_written_to() {
    let home = tempfile::tempdir().unwrap();
    let folder = non_utf8_folder(home.path(), b"shared");
    fs::write(folder.join("a"), "a").unwrap();
    fs::write(folder.join(OsStr::from_bytes(b"b\xff")), "b").unwrap();
    let share = Share::start(home.path(), &[folder.to_str().unwrap()]);
    let shared = share.shared();
    let skipped = |line: &Value| line["skipped"][0]["path"].as_str().map(str::to_owned);
    assert!(skipped(&shared).unwrap().ends_with("/b\u{fffd}"), "{shared}");

    let target = non_utf8_folder(home.path(), b"to\xff");
    for args in [&["--json"][..], &[]] {
        let mut command = get_command(home.path(), args);
        command.arg(ticket(&shared)).arg(&target);
        let got = run(command, "");
        assert_eq!(got.status.code(), Some(0), "{}", text(&got.stderr));
        let line = text(&got.stdout);
        assert!(line.contains("to\u{fffd}/shared") || args.is_empty(), "{line}");
        assert_eq!(fs::read_to_string(target.join("shared/a")).unwrap(), "a");
    }

    let mut command = peerkit(home.path());
    command.args(["run", "--json", "--manual", "--listen", "127.0.0.1:0"]);
    command.arg("--share").arg(&folder).arg("--downloads").arg(&target);
    let output = run(command, &format!("get {}\ndownloads\n", ticket(&shared)));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(skipped(&lines[0]).unwrap().ends_with("/b\u{fffd}"), "{}", lines[0]);
    let got = lines.iter().find(|line| line["result"] == "get").expect("a result");
    assert!(got["path"].as_str().unwrap().ends_with("to\u{fffd}/shared"), "{got}");
}

/// Waits until one of the first seven pieces of a part file in `folder` was written.
fn wait_until_begun(folder: &Path) {
    let begun = Instant::now();
    loop {
        let parts = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
        let has_piece = |part: PathBuf| {
            let bytes = fs::read(part).unwrap_or_default();
            bytes.chunks(1 << 20).take(7).any(|piece| piece.iter().any(|byte| *byte != 0))
        };
        if parts.into_iter().any(has_piece) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "the fetch does not begin");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_removed_part_is_not_reported_as_kept() {
    let home = tempfile::tempdir().unwrap();
    let film = home.path().join("film.bin");
    fs::write(&film, vec![7; 8 << 20]).unwrap();
    let share = Share::start(home.path(), &["--up", "2MiB", film.to_str().unwrap()]);
    let ticket = ticket(&share.shared());
    let target = home.path().join("target");
    let mut command = get_command(home.path(), &[&ticket, target.to_str().unwrap(), "--json"]);
    fs::create_dir(&target).unwrap();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until_begun(&target);
    fs::remove_dir_all(&target).unwrap();
    let got = child.wait_with_output().unwrap();
    let line: Value = serde_json::from_slice(&got.stdout).unwrap();
    assert_eq!((got.status.code(), &line["ok"]), (Some(1), &json!(false)), "{line}");
    assert!(!line["error"].as_str().unwrap().contains("kept"), "{line}");
}

#[test]
fn a_name_that_is_too_long_is_refused_before_anything_is_fetched() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("a");
    fs::write(&file, "a").unwrap();
    let share = Share::start(home.path(), &[file.to_str().unwrap()]);
    let ticket = ticket(&share.shared());
    let got = get(home.path(), &[&ticket, &"x".repeat(256)]);
    let error = text(&got.stderr);
    assert_eq!(got.status.code(), Some(1), "{error}");
    assert!(error.contains("File name too long") && !error.contains("kept"), "{error}");
    let left = fs::read_dir(home.path().join("other")).unwrap();
    assert_eq!(left.count(), 0, "nothing was fetched");
    let got = get(home.path(), &[&ticket, &"x".repeat(255)]);
    assert_eq!(got.status.code(), Some(0), "{}", text(&got.stderr));
}

#[test]
fn a_start_that_hangs_is_ended_by_a_signal() {
    for (signal, _) in stopping_signals() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("ann");
        fs::create_dir(&state).unwrap();
        let pipe = state.join("bootstrap");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
        // While the test holds the pipe open, the node waits for its end.
        let writer = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
        let mut command = peerkit(home.path());
        command.args(["run", "--headless", "--listen", "127.0.0.1:0", "--state"]).arg(&state);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Once the program has opened the pipe, it also watches for signals.
        let fds = format!("/proc/{}/fd", child.id());
        let started = Instant::now();
        let is_open = || {
            let links = fs::read_dir(&fds).into_iter().flatten().flatten();
            links.filter_map(|link| fs::read_link(link.path()).ok()).any(|to| to == pipe)
        };
        while !is_open() {
            assert!(started.elapsed() < PATIENCE, "the node does not open the pipe");
            thread::sleep(Duration::from_millis(10));
        }
        send_signal(&child, signal);
        let output = child.wait_with_output().unwrap();
        drop(writer);
        let status = if signal == Signal::INT { 130 } else { 1 };
        assert_eq!(output.status.code(), Some(status), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("before the node had started"));
        assert_eq!(text(&output.stdout), "");
    }
}

#[test]
fn a_pipe_in_place_of_a_file_does_not_block_the_node() {
    let home = tempfile::tempdir().unwrap();
    let pipe = home.path().join("pipe.svg");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
    let mut node = Program::start(home.path(), "ann", &[]);
    assert!(node.fail(&format!("load {}", pipe.display())).contains("not a file of peers"));
    assert!(node.fail("load /dev/zero").contains("too many for a file of peers"));
    node.fail(&format!("save {}", pipe.display()));
    // `map` waits for a reader of the pipe, as `>` in a shell does. The node ends nevertheless.
    node.write(&format!("map {}", pipe.display()));
    node.signal(Signal::TERM);
    let (status, stderr) = node.wait();
    assert_eq!((status.code(), stderr.as_str()), (Some(1), ""), "commands have failed");
}
