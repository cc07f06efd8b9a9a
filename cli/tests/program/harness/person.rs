//! A running program with text output.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command};
use std::sync::mpsc::Receiver;

use super::{PATIENCE, peerkit, piped, read_lines};

/// A running program with text output.
pub(crate) struct TextProgram {
    child: Child,
    stdin: Option<ChildStdin>,
    out: Receiver<String>,
    err: Receiver<String>,
}

impl TextProgram {
    /// Starts a program.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = piped(&mut command);
        Self {
            stdin: child.stdin.take(),
            out: read_lines(child.stdout.take().unwrap()),
            err: read_lines(child.stderr.take().unwrap()),
            child,
        }
    }

    /// Starts `peerkit run` with these arguments.
    pub(crate) fn run(home: &Path, args: &[&str]) -> Self {
        let mut command = peerkit(home);
        command.arg("run").args(args);
        Self::start(command)
    }

    /// Waits for a line of standard output that contains `part`. Returns the lines up to this line.
    pub(crate) fn until(&self, part: &str) -> Vec<String> {
        until(&self.out, part)
    }

    /// Waits for a line of standard error that contains `part`. Returns the lines up to this line.
    pub(crate) fn until_error(&self, part: &str) -> Vec<String> {
        until(&self.err, part)
    }

    /// Writes a line to standard input.
    pub(crate) fn write(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Writes `exit`, and waits until the program ends, which has to be with status 0. Returns the rest
    /// of standard output and of standard error.
    pub(crate) fn exit(mut self) -> (Vec<String>, Vec<String>) {
        self.write("exit");
        self.end()
    }

    /// Closes standard input, and waits until the program ends, which has to be with status 0. Returns
    /// the rest of standard output and of standard error.
    pub(crate) fn end(mut self) -> (Vec<String>, Vec<String>) {
        drop(self.stdin.take());
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        (self.out.iter().collect(), self.err.iter().collect())
    }
}

impl Drop for TextProgram {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(lines: &Receiver<String>, part: &str) -> Vec<String> {
    let mut printed: Vec<String> = Vec::new();
    while !printed.last().is_some_and(|line| line.contains(part)) {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => printed.push(line),
            Err(error) => panic!("no `{part}`: {error}; so far {printed:#?}"),
        }
    }
    printed
}
