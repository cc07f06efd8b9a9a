//! Fetches that are killed many times, and continue from their kept parts.

use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, Program, content, get_command};

/// Number of times that a fetch is killed.
const KILLS: u32 = 50;

/// Maximum number of bytes that a killed fetch loses: the data in sockets and in memory, and the
/// unfinished piece of each batch.
const COST: u64 = 12 << 20;

/// Kills a fetch with SIGKILL at random moments. The file is correct in the end, and at most `COST`
/// bytes are fetched a second time after each kill.
#[test]
fn a_fetch_killed_at_random_moments_is_completed() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content(9, (24 << 20) + 4321);
    let file = home.path().join("film.bin");
    fs::write(&file, &bytes).unwrap();
    let mut sharing = Program::start(home.path(), "ann", &["--share", file.to_str().unwrap()]);
    let hash = sharing.run("files")["files"][0]["hash"].as_str().unwrap().to_owned();
    let target = home.path().join("other/film.bin");
    let address = sharing.address.clone();
    let start = || {
        let args = [hash.as_str(), "film.bin", "--from", &address, "--down", "40M"];
        let mut command = get_command(home.path(), &args);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut chance = blake3::Hasher::new().update(b"moments").finalize_xof();
    let (mut kills, mut whole) = (0, 0u64);
    while kills < KILLS {
        let mut moment = [0; 2];
        chance.fill(&mut moment);
        let moment = Duration::from_millis(u64::from(u16::from_le_bytes(moment)) % 700);
        let mut getting = start();
        let status = ends_within(&mut getting, moment);
        match status {
            None => {
                getting.kill().unwrap();
                getting.wait().unwrap();
                kills += 1;
                // The fetch may have been completed before the kill. An incomplete file never has
                // the final name.
                if target.exists() {
                    assert!(fs::read(&target).unwrap() == bytes);
                    fs::remove_file(&target).unwrap();
                    whole += 1;
                }
            }
            Some(status) => {
                assert!(status, "the fetch was not killed, so it has to work");
                assert!(fs::read(&target).unwrap() == bytes);
                fs::remove_file(&target).unwrap();
                whole += 1;
            }
        }
    }
    assert_eq!(ends_within(&mut start(), PATIENCE), Some(true), "the last fetch is completed");
    assert!(fs::read(&target).unwrap() == bytes);
    let left = fs::read_dir(target.parent().unwrap()).unwrap().count();
    assert_eq!(left, 1, "no part file is left");
    let sent = sharing.run("status")["status"]["files"]["sent"].as_u64().unwrap();
    let most = (whole + 1) * bytes.len() as u64 + u64::from(KILLS) * COST;
    assert!(sent <= most, "{sent} bytes were sent for {} fetches", whole + 1);
    sharing.exit();
}

/// Returns whether a program ended with status 0; `None` if it still runs after `time`.
fn ends_within(child: &mut Child, time: Duration) -> Option<bool> {
    let until = Instant::now() + time;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status.success());
        }
        if Instant::now() >= until {
            return None;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// A node that is killed during a fetch continues it after a restart.
#[test]
fn a_killed_node_continues_its_downloads() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content(10, (20 << 20) + 99);
    let file = home.path().join("film.bin");
    fs::write(&file, &bytes).unwrap();
    let mut sharing = Program::start(home.path(), "ann", &["--share", file.to_str().unwrap()]);
    let hash = sharing.run("files")["files"][0]["hash"].as_str().unwrap().to_owned();
    let mut bob = Program::start(home.path(), "bob", &["--down", "8M"]);
    bob.write(&format!("get {hash} --from {}", sharing.address));
    let begun = Instant::now();
    while bob.run("downloads")["downloads"][0]["done"].as_u64().unwrap() < 4 << 20 {
        assert!(begun.elapsed() < PATIENCE, "nothing comes in");
        thread::sleep(Duration::from_millis(10));
    }
    bob.kill();
    let before = sharing.run("status")["status"]["files"]["sent"].as_u64().unwrap();
    let mut bob = Program::start(home.path(), "bob", &[]);
    let event = bob.event("node_download_finished");
    assert_eq!(event["data"]["hash"], hash);
    assert!(fs::read(event["data"]["path"].as_str().unwrap()).unwrap() == bytes);
    let after = sharing.run("status")["status"]["files"]["sent"].as_u64().unwrap();
    assert!(after - before < bytes.len() as u64 - (2 << 20), "{before}, then {after}");
    assert_eq!(bob.run("downloads")["downloads"][0]["state"], "done");
    bob.exit();
    sharing.exit();
}

/// A fetch by hash continues at the next start, whether the node was stopped or killed, and waits
/// for a link.
#[cfg(unix)]
#[test]
fn a_fetch_by_hash_waits_for_its_source_after_the_start() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content(11, (20 << 20) + 99);
    let file = home.path().join("film.bin");
    fs::write(&file, &bytes).unwrap();
    let sharing = ["--share", file.to_str().unwrap(), "--up", "20M"];
    let mut ann = Program::start(home.path(), "ann", &sharing);
    let hash = ann.run("files")["files"][0]["hash"].as_str().unwrap().to_owned();
    let download = |bob: &mut Program| bob.run("downloads")["downloads"][0].clone();
    let done = |bob: &mut Program| download(bob)["done"].as_u64().unwrap();
    let mut bob = Program::start(home.path(), "bob", &[&ann.address]);
    bob.write(&format!("get {hash}"));
    let begun = Instant::now();
    while done(&mut bob) < 2 << 20 {
        assert!(begun.elapsed() < PATIENCE, "nothing comes in");
    }
    bob.kill();
    let mut bob = Program::start(home.path(), "bob", &[]);
    while download(&mut bob)["state"] != "waiting" {
        assert!(begun.elapsed() < PATIENCE, "the fetch does not wait for a source");
    }
    bob.run(&format!("connect {}", ann.address));
    while done(&mut bob) < 6 << 20 {
        assert!(begun.elapsed() < PATIENCE, "the fetch does not continue");
    }
    bob.signal(rustix::process::Signal::TERM);
    assert_eq!(bob.wait().0.code(), Some(0));
    let mut bob = Program::start(home.path(), "bob", &[]);
    let kept = download(&mut bob);
    assert!(kept["done"].as_u64().unwrap() >= 6 << 20, "{kept}");
    assert_eq!((&kept["total"], &kept["name"]), (&bytes.len().into(), &"film.bin".into()));
    assert!(bob.unread_events("node_download_failed").is_empty());
    bob.run(&format!("connect {}", ann.address));
    let event = bob.event("node_download_finished");
    assert!(fs::read(event["data"]["path"].as_str().unwrap()).unwrap() == bytes);
    bob.exit();
    ann.exit();
}
