//! Where commands come from: the prompt of a terminal, or lines of standard input.

use std::io::{self, BufRead};
use std::path::Path;
use std::sync::PoisonError;
use std::thread;

use peerkit::Node;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{
    CompletionType, Config, Context, Editor, ExternalPrinter, Helper, Highlighter, Hinter,
    Validator,
};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::command;
use crate::execute::Found;
use crate::manual;
use crate::text::{Paint, plain};

/// Lines kept of what was typed.
const HISTORY: usize = 1000;

/// Lines read ahead of the command that runs.
const AHEAD: usize = 64;

/// One line to carry out.
pub(crate) struct Request {
    pub(crate) line: String,
    /// Dropped when the command is done: the prompt waits for that.
    done: Option<oneshot::Sender<()>>,
}

impl Request {
    /// Whether a prompt comes back once the command is done.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.done.is_some()
    }
}

/// A prompt with line editing, history and completion.
pub(crate) struct Prompt {
    editor: Editor<Completion, DefaultHistory>,
}

impl Prompt {
    /// Opens the terminal, and gives what prints above a line that is being edited. History is kept
    /// in `history`.
    ///
    /// # Errors
    /// Where the terminal can't do that.
    pub(crate) fn open(
        history: &Path,
        node: Node,
        found: Found,
    ) -> rustyline::Result<(Self, Box<dyn ExternalPrinter + Send>)> {
        let config = Config::builder()
            .max_history_size(HISTORY)?
            .history_ignore_dups(true)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Completion {
            node,
            runtime: Handle::current(),
            found,
            files: FilenameCompleter::new(),
        }));
        if history.exists() {
            // A history that can't be read is worth less than a start.
            let _ = editor.load_history(history);
        }
        let printer = editor.create_external_printer()?;
        Ok((Self { editor }, Box::new(printer)))
    }

    /// Reads lines in a thread of its own until the end, which Ctrl-C and Ctrl-D are.
    pub(crate) fn read(
        mut self,
        history: &Path,
        name: &str,
        paint: Paint,
    ) -> mpsc::Receiver<Request> {
        let (requests, receiver) = mpsc::channel(1);
        let history = history.to_owned();
        let bare = format!("{}> ", plain(name));
        let styled = format!("{}> ", paint.name(&plain(name)));
        thread::spawn(move || {
            loop {
                let line = match self.editor.readline(&(bare.as_str(), styled.as_str())) {
                    Ok(line) => line,
                    Err(ReadlineError::Signal(_)) => continue,
                    Err(_) => break,
                };
                if self.editor.add_history_entry(line.as_str()).unwrap_or(false) {
                    let _ = self.editor.append_history(&history);
                }
                let (done, wait) = oneshot::channel();
                let request = Request { line, done: Some(done) };
                if requests.blocking_send(request).is_err() {
                    break;
                }
                let _ = wait.blocking_recv();
            }
        });
        receiver
    }
}

/// Reads the lines of standard input in a thread of its own until its end.
pub(crate) fn read_lines() -> mpsc::Receiver<Request> {
    let (requests, receiver) = mpsc::channel(AHEAD);
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            match input.read_until(b'\n', &mut bytes) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!("standard input can't be read: {error}");
                    break;
                }
            }
            let line = String::from_utf8_lossy(&bytes);
            let line = line.strip_suffix('\n').unwrap_or(&line);
            let line = line.strip_suffix('\r').unwrap_or(line).to_owned();
            if requests.blocking_send(Request { line, done: None }).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Completes commands, and after them what the command takes.
#[derive(Helper, Highlighter, Hinter, Validator)]
struct Completion {
    node: Node,
    runtime: Handle,
    found: Found,
    files: FilenameCompleter,
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = line.get(..pos).unwrap_or(line);
        let start = before.rfind(char::is_whitespace).map_or(0, |space| space + 1);
        let words: Vec<&str> = before[..start].split_whitespace().collect();
        let Some(command) = words.first() else {
            let names = manual::ENTRIES.iter().map(|entry| entry.name.to_owned());
            return Ok((start, starting_with(&before[start..], names)));
        };
        let command = manual::entry(command).map_or("", |entry| entry.name);
        let candidates: Vec<String> = match (command, words.len()) {
            ("disconnect" | "send" | "ping", 1) => self.peers(&before[start..]),
            ("connect" | "join", _) => self.addresses(),
            ("remove", 1) => {
                let shares = self.node.shares().into_iter();
                shares.map(|file| file.hash.to_string()).collect()
            }
            ("get", 1) => {
                let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                found.iter().map(ToString::to_string).collect()
            }
            ("pause" | "resume" | "cancel", 1) => {
                let downloads = self.node.downloads().into_iter();
                downloads.map(|download| download.hash.to_string()).collect()
            }
            ("add" | "get", 2..) if before[start..].starts_with("--") => {
                let flags = command::flags_of(command).iter();
                flags.map(|flag| flag.name.to_owned()).collect()
            }
            ("add", 2..) if words.last() == Some(&"--to") => self.peers(&before[start..]),
            ("get", 2..) if words.last() == Some(&"--from") => self.addresses(),
            ("help", 1) => manual::ENTRIES.iter().map(|entry| entry.name.to_owned()).collect(),
            ("debug", 1) => vec!["on".to_owned(), "off".to_owned()],
            ("add" | "map" | "save" | "load", _) | ("get", _) => {
                return self.files.complete(line, pos, context);
            }
            _ => Vec::new(),
        };
        Ok((start, starting_with(&before[start..], candidates)))
    }
}

impl Completion {
    /// Peers whose names start so, since names are what people type; else identities that do.
    fn peers(&self, start: &str) -> Vec<String> {
        let peers = self.node.peers();
        let names = peers.iter().map(peerkit::Peer::name);
        let typed = |name: &&str| plain(name) == **name && !name.contains(char::is_whitespace);
        let names = names.filter(|name| !name.is_empty() && name.starts_with(start));
        let names: Vec<String> = names.filter(typed).map(str::to_owned).collect();
        if !names.is_empty() {
            return names;
        }
        peers.iter().map(|peer| peer.id().to_string()).collect()
    }

    fn addresses(&self) -> Vec<String> {
        let known = self.runtime.block_on(self.node.known_peers());
        let known = known.unwrap_or_default().into_iter();
        known
            .flat_map(|(_, known)| known.addresses)
            .map(|address| address.without_id().to_string())
            .collect()
    }
}

fn starting_with(start: &str, candidates: impl IntoIterator<Item = String>) -> Vec<Pair> {
    let mut candidates: Vec<String> =
        candidates.into_iter().filter(|candidate| candidate.starts_with(start)).collect();
    candidates.dedup();
    let pairs = candidates.into_iter();
    pairs
        .map(|candidate| Pair { replacement: format!("{candidate} "), display: candidate })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_those_that_start_so() {
        let names = ["send", "search", "size"].map(str::to_owned);
        let pairs = starting_with("se", names);
        let found: Vec<&str> = pairs.iter().map(|pair| pair.display.as_str()).collect();
        assert_eq!(found, ["send", "search"]);
        assert_eq!(pairs[0].replacement, "send ");
    }
}
