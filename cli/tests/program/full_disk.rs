//! A disk that is really full: a small tmpfs, mounted in a user namespace of its own.
//!
//! The mount is seen only from inside the namespace, so a process there holds it, and all programs are started
//! there (`nsenter`). From outside, the files are below `/proc/PID/root`.

#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{Program, content, peerkit, run, text};

/// The size of the disk. 6 MiB: an empty state folder and a file of 4 MB.
const SIZE: &str = "size=6m";

const NO_ROOM: &str = "No space left on device";

/// A small disk. It is mounted at a folder as long as `holder` runs.
struct SmallDisk {
    holder: Child,
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts a disk at a folder; `None` where the system does not allow that.
    fn mount(at: &Path) -> Option<Self> {
        let script = "mount -t tmpfs -o \"$1\" tmpfs \"$2\" && echo mounted && exec cat";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", SIZE]);
        command.arg(at).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut holder = command.spawn().ok()?;
        let mut line = String::new();
        let _ = BufReader::new(holder.stdout.take()?).read_line(&mut line);
        let disk = Self { holder, at: at.to_owned() };
        (line == "mounted\n").then_some(disk)
    }

    /// Returns the path from outside the namespace of a file on the disk.
    fn outside(&self, name: &str) -> PathBuf {
        let root = format!("/proc/{}/root", self.holder.id());
        Path::new(&root).join(self.at.strip_prefix("/").unwrap()).join(name)
    }

    /// Returns the program, to be run inside the namespace with its folders on the disk.
    fn program(&self) -> Command {
        let program = peerkit(&self.at);
        let mut command = Command::new("nsenter");
        command.args(["--preserve-credentials", "--user", "--mount", "--target"]);
        command.arg(self.holder.id().to_string()).arg(program.get_program());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    fn start(&self, args: &[&str]) -> Program {
        Program::start_by(self.program(), &self.at, "alice", &[&["--manual"], args].concat())
    }

    /// Tries to start a node, which has to fail. Returns the error.
    fn refused_start(&self) -> String {
        let mut command = self.program();
        command.args(["run", "--headless", "--listen", "127.0.0.1:0", "--state"]);
        command.arg(self.at.join("alice"));
        let refused = run(command, "");
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stdout));
        text(&refused.stderr).to_owned()
    }

    /// Runs `peerkit COMMAND` for the node on the disk.
    fn command(&self, words: &[&str]) -> Output {
        let mut command = self.program();
        command.args(words).arg("--state").arg(self.at.join("alice"));
        run(command, "")
    }

    /// Runs a command that has to work. Returns its JSON line.
    fn json_of(&self, words: &[&str]) -> Value {
        let output = self.command(&[words, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a command that has to fail. Returns its error.
    fn error_of(&self, words: &[&str]) -> String {
        let output = self.command(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {}", text(&output.stdout));
        text(&output.stderr).to_owned()
    }

    /// Writes a file until nothing more fits.
    fn fill(&self) {
        let mut filler = File::create(self.outside("filler")).unwrap();
        for size in [1 << 16, 1] {
            while filler.write_all(&vec![1; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.outside("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[test]
fn a_full_disk_loses_nothing_and_every_error_says_so() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path().join("disk");
    fs::create_dir(&at).unwrap();
    let Some(disk) = SmallDisk::mount(&at) else {
        // Not `eprintln`, whose output is shown only if the test fails.
        let _ =
            writeln!(std::io::stderr(), "SKIPPED: no user may mount a disk in a namespace here");
        return;
    };
    let film = home.path().join("film");
    fs::write(&film, content(4, 4_000_000)).unwrap();
    let mut seed = Program::start(home.path(), "bob", &[]);
    let shared = seed.run(&format!("add {}", film.display()))["files"][0].clone();
    let film_hash = shared["hash"].as_str().unwrap();
    let own = home.path().join("own");
    fs::write(&own, "own").unwrap();
    let own = own.to_str().unwrap();

    disk.fill();
    let error = disk.refused_start();
    assert!(error.contains(NO_ROOM) && error.contains("alice"), "{error}");
    assert!(!disk.outside("alice/state.redb").exists(), "no empty file is left");
    disk.make_room();
    let mut node = disk.start(&[]);
    let id = node.id.clone();
    disk.json_of(&["add", own]);

    // The node is killed, so that its next start has to write api.json on a full disk.
    node.kill();
    let error = disk.error_of(&["peers"]);
    assert!(error.contains("no node answers") && error.contains("`peerkit run`"), "{error}");
    disk.fill();
    let error = disk.refused_start();
    assert!(error.contains(NO_ROOM) && error.contains("api.json"), "{error}");
    disk.make_room();

    let mut node = disk.start(&[&seed.address]);
    assert_eq!(node.id, id, "the identity is kept");
    node.event("outbound_node_connected");
    disk.fill();
    let saved = at.join("peers.json");
    for words in [vec!["add", film.to_str().unwrap()], vec!["save", saved.to_str().unwrap()]] {
        let error = disk.error_of(&words);
        assert!(error.contains(NO_ROOM), "{words:?}: {error}");
    }
    let part = at.join("copy");
    let error = disk.error_of(&["get", film_hash, part.to_str().unwrap()]);
    assert!(error.contains(NO_ROOM) || error.contains("make room"), "{error}");
    disk.json_of(&["set", "max-inbound", "5"]);
    assert_eq!(disk.json_of(&["peers"])["peers"][0]["id"], json!(seed.id));
    assert_eq!(disk.json_of(&["files"])["files"][0]["name"], "own");
    let error = disk.refused_start();
    assert!(error.contains("another node uses") && error.contains("--state DIR"), "{error}");

    disk.make_room();
    disk.json_of(&["get", film_hash, part.to_str().unwrap()]);
    assert!(fs::read(disk.outside("copy")).unwrap() == content(4, 4_000_000));
    disk.json_of(&["save", saved.to_str().unwrap()]);
    disk.fill();
    let (status, log) = node.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    disk.make_room();
    let again = disk.start(&[]);
    assert_eq!(again.id, id);
    assert_eq!(disk.json_of(&["files"])["files"][0]["name"], "own", "the share is kept");
    again.exit();
    seed.exit();
}
