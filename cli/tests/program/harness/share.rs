//! A running `peerkit share`, and calls of `peerkit get`.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::Receiver;

use peerkit::{Address, Ticket};
use serde_json::Value;

#[cfg(unix)]
use super::send_signal;
use super::{PATIENCE, peerkit, read_lines, run};

/// A running `peerkit share --json`, on its own port.
pub(crate) struct Share {
    pub(crate) child: Child,
    lines: Receiver<String>,
}

impl Share {
    /// Starts `peerkit share` with these arguments.
    pub(crate) fn start(home: &Path, args: &[&str]) -> Self {
        let mut child = peerkit(home)
            .args(["share", "--json", "--listen", "127.0.0.1:0"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let lines = read_lines(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Starts `peerkit share` of these paths through the node that uses the state folder.
    pub(crate) fn through(home: &Path, state: &Path, args: &[&str]) -> Self {
        let mut command = peerkit(home);
        command.args(["share", "--json", "--state"]).arg(state).args(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = read_lines(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Waits until it fails. Returns its error.
    pub(crate) fn fail(mut self) -> String {
        let status = super::wait_or_kill(&mut self.child);
        let mut error = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        assert_eq!(status.code(), Some(1), "{error}");
        error
    }

    /// Waits for the next line.
    pub(crate) fn line(&self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE).expect("another line");
        serde_json::from_str(&line).unwrap()
    }

    /// Waits for the line about the next path. Lines about uploads of earlier paths are skipped.
    pub(crate) fn shared(&self) -> Value {
        loop {
            let line = self.line();
            if line["event"] != "node_upload_completed" {
                assert_eq!(line["event"], "shared", "{line}");
                return line;
            }
        }
    }

    /// Stops it with Ctrl-C. Returns the exit status.
    #[cfg(unix)]
    pub(crate) fn interrupt(self) -> Option<i32> {
        self.signal(rustix::process::Signal::INT)
    }

    /// Stops it with a signal. Returns the exit status.
    #[cfg(unix)]
    pub(crate) fn signal(mut self, signal: rustix::process::Signal) -> Option<i32> {
        send_signal(&self.child, signal);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns `peerkit get` with these arguments. Its current folder and its state are below `home`.
pub(crate) fn get_command(home: &Path, args: &[&str]) -> Command {
    let folder = home.join("other");
    fs::create_dir_all(&folder).unwrap();
    let mut command = peerkit(home);
    command.env("XDG_DATA_HOME", home.join("other-data")).current_dir(folder);
    command.arg("get").args(args);
    command
}

/// Runs `peerkit get` with these arguments to its end.
pub(crate) fn get(home: &Path, args: &[&str]) -> Output {
    run(get_command(home, args), "")
}

/// Returns the ticket in a line of [`Share`].
pub(crate) fn ticket(shared: &Value) -> String {
    shared["ticket"].as_str().unwrap().to_owned()
}

/// Returns the address of the node that shares.
pub(crate) fn address(shared: &Value) -> Address {
    let ticket: Ticket = ticket(shared).parse().unwrap();
    ticket.addresses.first().expect("an address").clone()
}
