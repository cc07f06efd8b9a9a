//! `peerkit share` through a running node.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::api::state;
use crate::harness::{PATIENCE, Program, Share, content, get, text, ticket};

/// Ends `peerkit share` in the hardest way: this is SIGKILL on Unix.
fn kill(share: Share) {
    drop(share);
}

/// Waits until the node shares as many files and folders. Returns them.
fn wait_for_files(node: &mut Program, count: usize) -> Value {
    let begun = Instant::now();
    loop {
        let files = node.run("files")["files"].clone();
        if files.as_array().unwrap().len() == count {
            return files;
        }
        assert!(begun.elapsed() < PATIENCE, "{files}");
    }
}

/// Fetches with these arguments, which has to work.
fn fetch(home: &Path, args: &[&str]) {
    let got = get(home, args);
    assert_eq!(got.status.code(), Some(0), "{}", text(&got.stderr));
}

#[test]
fn a_share_through_the_running_node_lasts_as_long_as_its_command() {
    let home = tempfile::tempdir().unwrap();
    let mut node = Program::start(home.path(), "alice", &[]);
    let file = home.path().join("film.bin");
    fs::write(&file, content(9, 300_000)).unwrap();
    let at = state(home.path(), "alice");
    let share = || Share::through(home.path(), &at, &[file.to_str().unwrap()]);
    let (first, second) = (share(), share());
    let shared = first.line();
    assert_eq!((&shared["event"], &shared["node"]), (&json!("shared"), &json!(node.id)));
    let ticket = ticket(&shared);
    assert_eq!(second.line()["ticket"], json!(ticket));
    assert_eq!(node.run("files")["files"][0]["access"], "ticket");

    fetch(home.path(), &[&ticket]);
    assert_eq!(first.line()["event"], "node_upload_completed");
    assert_eq!(second.line()["event"], "node_upload_completed");

    kill(first);
    fetch(home.path(), &[&ticket, "again"]);
    assert_eq!(second.line()["event"], "node_upload_completed");
    assert_eq!(node.run("files")["files"][0]["access"], "ticket");
    kill(second);
    wait_for_files(&mut node, 0);
    node.exit();
}

#[test]
fn a_share_of_a_path_that_is_shared_already_leaves_it_as_it_was() {
    let home = tempfile::tempdir().unwrap();
    let mut node = Program::start(home.path(), "alice", &[]);
    let [open, secret] = ["open.bin", "secret.bin"].map(|name| home.path().join(name));
    fs::write(&open, content(1, 1000)).unwrap();
    fs::write(&secret, content(2, 1000)).unwrap();
    let [open, secret] = [open.to_str().unwrap(), secret.to_str().unwrap()];
    node.run(&format!("add {open}"));
    let earlier = node.run(&format!("add --ticket {secret}"))["ticket"].clone();
    let before = node.run("files");
    let at = state(home.path(), "alice");

    let share = Share::through(home.path(), &at, &[open, secret]);
    let lines = [share.line(), share.line()];
    for line in &lines {
        assert!(line["notes"][0].as_str().unwrap().contains("stays so"), "{line}");
        fetch(home.path(), &[&ticket(line), "--force"]);
        assert_eq!(share.line()["event"], "node_upload_completed");
    }
    assert!(lines.iter().any(|line| line["ticket"] == earlier), "{lines:?}");
    kill(share);

    // A share for named nodes would not keep the others out, or would shut them out.
    for path in [open, secret] {
        let error = Share::through(home.path(), &at, &["--to", &node.id, path]).fail();
        assert!(error.contains("is already shared") && error.contains("--listen 0"), "{error}");
    }
    assert_eq!(node.run("files"), before);
    fetch(home.path(), &[earlier.as_str().unwrap(), "--force"]);
    node.exit();
}

#[test]
fn a_share_of_a_folder_reports_only_its_own_uploads() {
    let home = tempfile::tempdir().unwrap();
    let mut node = Program::start(home.path(), "alice", &[]);
    let folder = home.path().join("pictures");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.jpg"), content(3, 1000)).unwrap();
    let other = home.path().join("other.bin");
    fs::write(&other, content(4, 1000)).unwrap();
    let hash = |added: Value| added["files"][0]["hash"].as_str().unwrap().to_owned();
    let other = hash(node.run(&format!("add {}", other.display())));
    let inside = hash(node.run(&format!("add {}", folder.join("a.jpg").display())));

    let share =
        Share::through(home.path(), &state(home.path(), "alice"), &[folder.to_str().unwrap()]);
    let shared = share.line();
    let from = node.address.clone();
    fetch(home.path(), &[&other, "--from", &from]);
    fetch(home.path(), &[&inside, "--from", &from]);
    assert_eq!(share.line()["data"]["hash"], json!(inside));
    fetch(home.path(), &[&ticket(&shared)]);
    assert_eq!(share.line()["data"]["hash"], shared["hash"]);
    // The file in the folder is a share of its own.
    kill(share);
    wait_for_files(&mut node, 2);
    node.exit();
}

#[test]
fn the_ticket_of_a_file_in_a_shared_folder_outlives_the_share_of_the_folder() {
    let home = tempfile::tempdir().unwrap();
    let mut node = Program::start(home.path(), "alice", &[]);
    let folder = home.path().join("pictures");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("a.jpg");
    fs::write(&file, content(5, 1000)).unwrap();
    node.run(&format!("add {}", folder.display()));
    let at = state(home.path(), "alice");
    let share = Share::through(home.path(), &at, &[file.to_str().unwrap()]);
    let ticket = ticket(&share.line());
    node.run("remove pictures");
    fetch(home.path(), &[&ticket]);
    node.run(&format!("add {}", folder.display()));
    kill(share);
    assert_eq!(wait_for_files(&mut node, 1)[0]["name"], "pictures");
    node.exit();
}

#[test]
fn add_keeps_a_held_share_and_remove_ends_it() {
    let home = tempfile::tempdir().unwrap();
    let mut node = Program::start(home.path(), "alice", &[]);
    let file = home.path().join("film.bin");
    fs::write(&file, content(6, 1000)).unwrap();
    let at = state(home.path(), "alice");
    let path = file.to_str().unwrap();

    let share = Share::through(home.path(), &at, &[path]);
    let ticket = ticket(&share.line());
    let error = node.fail(&format!("add --to {} {path}", node.id.clone()));
    assert!(error.contains("stop that command first"), "{error}");
    assert_eq!(node.run("files")["files"][0]["access"], "ticket");
    node.run(&format!("add {path}"));
    fetch(home.path(), &[&ticket]);
    assert_eq!(share.line()["event"], "node_upload_completed");
    let last = Share::through(home.path(), &at, &[path]);
    last.line();
    kill(share);
    // The user's share stays, until `remove`, which ends the other command too.
    assert_eq!(node.run("files")["files"][0]["access"], "open");
    node.run("remove film.bin");
    let error = last.fail();
    assert!(error.contains("no longer shared"), "{error}");
    assert_eq!(node.run("files")["files"], json!([]));
    // The refused `add` counts.
    assert_eq!(node.stop().0.code(), Some(1));
}
