//! Reading commands: at the prompt of a terminal, or as lines of standard input.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs;
use std::io::{self, BufRead, Read};
use std::path::{MAIN_SEPARATOR, Path};
use std::sync::{Arc, Mutex};
use std::thread;

use peerkit::{Node, SharedFile};
use rustyline::completion::{Completer, Pair, longest_common_prefix};
use rustyline::config::ColorMode;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Context, Editor, ExternalPrinter, Helper, Validator};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::commands::line::ParseError;
use crate::commands::{COMMANDS, CommandSpec, lookup};
use crate::fetch_arguments::{self, TICKET_START, TicketOrHash};
use crate::lock::lock;
use crate::session::SearchResults;
use crate::shell_words::{self, ShellWord};
use crate::text::{Paint, plain};
use crate::{folders, settings, terminal};

/// Maximum number of lines in the history.
const MAX_HISTORY_LINES: usize = 1000;

/// Maximum number of lines that are read from standard input while a command runs.
const MAX_LINES_AHEAD: usize = 64;

/// Maximum number of candidates that Tab lists. 10,000: the editor can't count more than 65,535,
/// and no user reads as many.
const MAX_CANDIDATES: usize = 10_000;

/// Maximum length of a line, in bytes. 64 MiB: four times the largest message, so that the node
/// reports messages that are too large.
const MAX_LINE: u64 = 64 << 20;

/// A line to carry out.
pub(crate) struct InputLine {
    pub(crate) line: ReadLine,
    /// Dropped when the command is done. The prompt waits for that. `None` without a prompt.
    done: Option<oneshot::Sender<()>>,
}

/// A line that was typed or piped in, or the reason why it can't be carried out.
type ReadLine = Result<String, ParseError>;

/// Decodes the bytes of a line, with or without its newline.
fn decode_line(bytes: &[u8]) -> ReadLine {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    // Windows ends lines with `\r\n`.
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    // Programs on Windows write a byte order mark at the start of a file.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
        not_utf8(&String::from_utf8_lossy(valid))
    })
}

/// Returns the error of a line that is UTF-8 only up to the end of `before`.
fn not_utf8(before: &str) -> ParseError {
    let place = match before.trim() {
        "" => "its start".to_owned(),
        before => format!("`{}`", last_characters_of(before)),
    };
    let message = format!(
        "this line is not UTF-8 after {place}: it was not carried out (was it pasted from a text \
         in another encoding, such as Latin-1?)"
    );
    ParseError { command: first_word_of(before), message }
}

/// Returns the error of a line that begins with `before` and is too long.
fn too_long(before: &[u8]) -> ParseError {
    let start = before.get(..MAX_SHOWN).unwrap_or(before);
    let message = format!("this line is longer than {MAX_LINE} bytes: it was not carried out");
    ParseError { command: first_word_of(&String::from_utf8_lossy(start)), message }
}

/// Splits a pasted text into commands. Each line is a command if all lines begin with one, and the
/// first command does not take a text of several lines. Otherwise the whole text is one command.
fn split_paste(text: String) -> Vec<String> {
    let first_words = || text.lines().filter_map(|line| line.split_whitespace().next());
    let takes_text = |word| ["msg", "send", "broadcast"].contains(&word);
    let is_script = first_words().count() > 1
        && first_words().all(|word| word == "peerkit" || lookup::find_command(word).is_some())
        && !first_words().next().is_some_and(takes_text);
    if is_script { text.lines().map(str::to_owned).collect() } else { vec![text] }
}

/// Maximum number of characters of a line that an error shows.
const MAX_SHOWN: usize = 40;

fn first_word_of(line: &str) -> String {
    let first = line.split_whitespace().next().unwrap_or_default();
    first.chars().take(MAX_SHOWN).collect()
}

/// Returns the last characters of a text.
fn last_characters_of(text: &str) -> String {
    let skipped = text.chars().count().saturating_sub(MAX_SHOWN);
    let shown: String = text.chars().skip(skipped).collect();
    if skipped == 0 { shown } else { format!("...{shown}") }
}

impl InputLine {
    /// Returns whether the line was typed at a prompt, which waits until its command is done.
    pub(crate) fn is_from_prompt(&self) -> bool {
        self.done.is_some()
    }
}

/// A prompt with line editing, history and completion.
pub(crate) struct Prompt {
    editor: Editor<Completion, DefaultHistory>,
    /// The line that is being edited.
    edited: EditedLine,
}

/// The line that is being edited, shared with the editor.
type EditedLine = Arc<Mutex<DrawnLine>>;

/// The line that is being edited, as it was last drawn.
#[derive(Debug, Clone, Default)]
struct DrawnLine {
    line: String,
    /// True while the user searches the history, after Ctrl-R.
    is_search: bool,
}

impl Prompt {
    /// Opens the prompt of the terminal, with the history in the file `history`. Also returns the
    /// printer that prints text above the line that is being edited.
    ///
    /// # Errors
    /// If the terminal has no line editing.
    pub(crate) fn open(
        history: &Path,
        node: Node,
        found: SearchResults,
    ) -> rustyline::Result<(Self, Box<dyn ExternalPrinter + Send>)> {
        let config = Config::builder()
            .max_history_size(MAX_HISTORY_LINES)?
            .history_ignore_dups(true)?
            // As in many shells, a space before a command keeps it out of the history.
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            // Forced even if there are no colours: only then does the editor call
            // `highlight_prompt`, which notes whether the history is being searched.
            .color_mode(ColorMode::Forced)
            .build();
        let mut editor = Editor::with_config(config)?;
        let edited = EditedLine::default();
        let runtime = Handle::current();
        editor.set_helper(Some(Completion { node, runtime, found, edited: edited.clone() }));
        if history.exists() {
            // The node starts even if the history can't be read.
            let _ = editor.load_history(history);
        }
        // All output has to go through this printer, or it would overwrite the edited line.
        let printer = editor.create_external_printer()?;
        Ok((Self { editor, edited }, Box::new(printer)))
    }

    /// Reads lines in a thread of its own, until Ctrl-D, or Ctrl-C on an empty line.
    pub(crate) fn read(
        mut self,
        history: &Path,
        name: &str,
        paint: Paint,
    ) -> mpsc::Receiver<InputLine> {
        let (requests, receiver) = mpsc::channel(1);
        let history = history.to_owned();
        let bare = format!("{}> ", plain(name));
        let styled = format!("{}> ", paint.name(&plain(name)));
        thread::spawn(move || {
            while let Some(line) = self.line(&(bare.as_str(), styled.as_str())) {
                if let Ok(line) = &line
                    // Other programs can read the history file, so it must not have a secret.
                    && !has_secret_ticket(line)
                    && self.editor.add_history_entry(line.as_str()).unwrap_or(false)
                {
                    let _ = self.editor.append_history(&history);
                }
                let lines = line.map_or_else(
                    |error| vec![Err(error)],
                    |text| split_paste(text).into_iter().map(Ok).collect(),
                );
                for line in lines {
                    let (done, wait) = oneshot::channel();
                    let request = InputLine { line, done: Some(done) };
                    if requests.blocking_send(request).is_err() {
                        return;
                    }
                    // Waits until `done` is dropped, so that the next prompt comes below the output
                    // of this command. Nothing is ever sent, so the result is always an error.
                    let _ = wait.blocking_recv();
                }
            }
        });
        receiver
    }

    /// Reads one line. Returns `None` at the end of the input.
    fn line(&mut self, prompt: &(&str, &str)) -> Option<ReadLine> {
        let mut typed = String::new();
        loop {
            *lock(&self.edited) = DrawnLine { line: typed.clone(), is_search: false };
            let read = self.editor.readline_with_initial(prompt, (&typed, ""));
            let edited = lock(&self.edited).clone();
            match read {
                Ok(line) => return Some(Ok(line)),
                // As in a shell, Ctrl-C clears the line or ends the search.
                Err(ReadlineError::Interrupted) if edited.is_search || !edited.line.is_empty() => {
                    typed.clear();
                }
                // A signal, such as that of a resized window, ends the read. The next read starts
                // with the text that was typed.
                Err(ReadlineError::Signal(_)) => typed = edited.line,
                Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    // The rest of the pasted text belongs to this line. It must not run as a
                    // command.
                    terminal::discard_input();
                    return Some(Err(not_utf8(&edited.line)));
                }
                Err(_) => return None,
            }
        }
    }
}

/// Returns whether a line contains a ticket with a secret, or a ticket that can't be read, which may
/// have one. Such a line is not written to the history file.
fn has_secret_ticket(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    let mut starts = lower.match_indices(TICKET_START).map(|(start, _)| start);
    starts.any(|start| ticket_has_secret(line.get(start..).unwrap_or_default()))
}

/// Returns whether the ticket at the start of a text has a secret, or can't be read.
fn ticket_has_secret(text: &str) -> bool {
    let words: Vec<String> = shell_words::words(text).map(|word| word.text).collect();
    match fetch_arguments::recognise(&words) {
        Ok(Some((TicketOrHash::Ticket(ticket), _))) => ticket.secret.is_some(),
        _ => true,
    }
}

/// Reads the lines of standard input in a thread of its own until its end.
pub(crate) fn read_lines() -> mpsc::Receiver<InputLine> {
    let (requests, receiver) = mpsc::channel(MAX_LINES_AHEAD);
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            match read_line(&mut input) {
                Ok(None) => break,
                Ok(Some(line)) => {
                    if requests.blocking_send(InputLine { line, done: None }).is_err() {
                        break;
                    }
                }
                Err(error) => {
                    tracing::warn!("standard input can't be read: {error}");
                    break;
                }
            }
        }
    });
    receiver
}

/// Reads a line. Returns `None` at the end of the input. A line that is too long is read to its end
/// and reported as an error.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<ReadLine>> {
    let mut bytes = Vec::new();
    if input.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    // The last line of the input may have no newline.
    if bytes.ends_with(b"\n") || (bytes.len() as u64) < MAX_LINE {
        return Ok(Some(decode_line(&bytes)));
    }
    // The rest of the line is read in parts and discarded, so that it takes no memory.
    let mut rest = Vec::new();
    while input.by_ref().take(MAX_LINE).read_until(b'\n', &mut rest)? > 0 && !rest.ends_with(b"\n")
    {
        rest.clear();
    }
    Ok(Some(Err(too_long(&bytes))))
}

/// The completion of commands and their arguments.
#[derive(Helper, Validator)]
struct Completion {
    node: Node,
    runtime: Handle,
    found: SearchResults,
    edited: EditedLine,
}

/// Gives no hints. The editor asks for one whenever it draws the line: so we learn the line.
impl Hinter for Completion {
    type Hint = String;

    fn hint(&self, line: &str, _pos: usize, _context: &Context<'_>) -> Option<String> {
        line.clone_into(&mut lock(&self.edited).line);
        None
    }
}

/// Adds no colours. The editor calls `highlight_prompt` whenever it draws the prompt: so we learn
/// whether the history is being searched.
impl Highlighter for Completion {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(
        &'s self,
        prompt: &'p str,
        default: bool,
    ) -> Cow<'b, str> {
        lock(&self.edited).is_search = !default;
        Cow::Borrowed(prompt)
    }
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, candidates) = self.candidates(line, pos);
        Ok((start, limit_candidates(candidates)))
    }
}

impl Completion {
    /// Returns the candidates for the word at `pos`, and the start of the word.
    fn candidates(&self, line: &str, pos: usize) -> (usize, Vec<Pair>) {
        let before = line.get(..pos).unwrap_or(line);
        let mut words: Vec<ShellWord> = shell_words::words(before).collect();
        // The cursor is in the last word, or at the start of a new one.
        let current = match words.last() {
            Some(last) if last.end == before.len() => words.pop(),
            _ => None,
        };
        let start = current.as_ref().map_or(pos, |word| word.start);
        let typed = current.as_ref().map_or("", |word| word.text.as_str());
        let is_quoted = before.get(start..).is_some_and(|word| word.starts_with(['"', '\'']));
        let Some(command) = words.first() else {
            return (start, matching(typed, command_names()));
        };
        let entry = lookup::find_command(&command.text);
        let last = words.last().map_or("", |word| word.text.as_str());
        // A word in quotes is never an option.
        let is_option = typed.starts_with("--") && !is_quoted;
        let candidates: Vec<String> = match (entry.map_or("", |spec| spec.name), words.len()) {
            _ if is_option => {
                let options = entry.map_or_else(Vec::new, CommandSpec::option_names);
                return (start, matching_options(typed, options));
            }
            ("disconnect" | "send" | "ping" | "ban", 1) => self.peer_names(typed),
            ("remove", 1) => {
                let shares = self.node.files().shares().into_iter();
                shares.map(|file| file.hash.to_string()).collect()
            }
            ("get", 1) => result_candidates(&lock(&self.found), typed),
            ("pause" | "resume" | "cancel", 1) => {
                let downloads = self.node.files().downloads().into_iter();
                downloads.map(|download| download.hash.to_string()).collect()
            }
            ("connect" | "join" | "doctor", _) => self.addresses(),
            ("add", 2..) if last == "--to" => self.peer_names(typed),
            ("get", 2..) if last == "--from" => self.addresses(),
            ("help", 1) => command_names().collect(),
            ("set", 1) => settings::names().map(str::to_owned).collect(),
            ("set", _) if last == settings::DOWNLOADS => {
                return (start, paths(typed, is_quoted));
            }
            ("debug", 1) => vec!["on".to_owned(), "off".to_owned()],
            ("add" | "map" | "save" | "load" | "get", _) => {
                return (start, paths(typed, is_quoted));
            }
            _ => Vec::new(),
        };
        (start, matching(typed, candidates))
    }
}

fn command_names() -> impl Iterator<Item = String> {
    COMMANDS.iter().map(|entry| entry.name.to_owned())
}

/// Returns the candidates if there are at most [`MAX_CANDIDATES`], otherwise only their common start.
fn limit_candidates(candidates: Vec<Pair>) -> Vec<Pair> {
    if candidates.len() <= MAX_CANDIDATES {
        return candidates;
    }
    let common = longest_common_prefix(&candidates).map(str::to_owned);
    let pair = |common: String| Pair { display: plain(&common), replacement: common };
    common.map(pair).into_iter().collect()
}

/// Returns the files and folders whose paths begin with `typed`, quoted for the prompt.
fn paths(typed: &str, is_quoted: bool) -> Vec<Pair> {
    let (folder, start) = match typed.rfind(['/', MAIN_SEPARATOR]) {
        Some(at) => typed.split_at(at + 1),
        None => ("", typed),
    };
    let looked_at = match folder {
        "" => Path::new(".").to_owned(),
        folder => folders::expand_home(folder),
    };
    // The `~` of the home folder is kept as it is: escaped, it would be an ordinary character.
    let home = if folder.starts_with("~/") && !is_quoted { "~/" } else { "" };
    let Ok(entries) = fs::read_dir(looked_at) else { return Vec::new() };
    let mut paths: Vec<Pair> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            // Hidden files are offered only after a dot.
            let wanted =
                name.starts_with(start) && (!name.starts_with('.') || start.starts_with('.'));
            let is_folder = entry.path().is_dir();
            let path = format!("{folder}{name}");
            let path = path.strip_prefix(home).unwrap_or(&path);
            let path = if is_folder { format!("{path}{MAIN_SEPARATOR}") } else { path.to_owned() };
            let written = if is_quoted { shell_words::quoted(&path) } else { argument(&path) };
            // No space after a folder: its path continues.
            let end = if is_folder { "" } else { " " };
            let pair = Pair { display: plain(&name), replacement: format!("{home}{written}{end}") };
            wanted.then_some(pair)
        })
        .collect();
    paths.sort_by(|a, b| a.display.cmp(&b.display));
    paths
}

impl Completion {
    /// Returns the names of peers that begin with `start`. If there are none, returns the identities
    /// of all peers.
    fn peer_names(&self, start: &str) -> Vec<String> {
        let peers = self.node.peers();
        let names = peers.iter().map(peerkit::Peer::name);
        let names = names.filter(|name| !name.is_empty() && name.starts_with(start));
        let names: Vec<String> = names.map(str::to_owned).collect();
        if !names.is_empty() {
            return names;
        }
        peers.iter().map(|peer| peer.id().to_string()).collect()
    }

    fn addresses(&self) -> Vec<String> {
        // Blocks only the thread of the prompt, and no task.
        let known = self.runtime.block_on(self.node.network().known_peers());
        let known = known.unwrap_or_default().into_iter();
        known
            .flat_map(|(_, known)| known.addresses)
            .map(|address| address.without_id().to_string())
            .collect()
    }
}

/// Returns the names of search results that begin with `start`. If there are none, returns the
/// hashes of all results.
fn result_candidates(found: &[SharedFile], start: &str) -> Vec<String> {
    let names = found.iter().map(|hit| hit.name.to_string());
    let names: Vec<String> = names.filter(|name| name.starts_with(start)).collect();
    if !names.is_empty() {
        return names;
    }
    found.iter().map(|hit| hit.hash.to_string()).collect()
}

/// Returns the options that begin with `start`.
fn matching_options(start: &str, options: Vec<String>) -> Vec<Pair> {
    let options = options.into_iter().filter(|option| option.starts_with(start));
    let pair = |option: String| Pair { replacement: format!("{option} "), display: option };
    options.map(pair).collect()
}

/// Returns an argument as a word for the prompt that is not taken for an option.
fn argument(text: &str) -> String {
    if text.starts_with("--") { shell_words::quoted(text) } else { shell_words::escaped(text) }
}

/// Returns the candidates that begin with `start`, each once, quoted for the prompt.
fn matching(start: &str, candidates: impl IntoIterator<Item = String>) -> Vec<Pair> {
    let mut seen = HashSet::new();
    let candidates = candidates.into_iter().filter(|candidate| candidate.starts_with(start));
    // Equal candidates need not be neighbours: two nodes may have the same address.
    candidates
        .filter(|candidate| seen.insert(candidate.clone()))
        .map(|candidate| Pair {
            replacement: format!("{} ", argument(&candidate)),
            display: plain(&candidate),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_candidate_begins_with_the_typed_text_and_is_offered_once() {
        let names = ["send", "search", "size", "send"].map(str::to_owned);
        let pairs = matching("se", names);
        let found: Vec<&str> = pairs.iter().map(|pair| pair.display.as_str()).collect();
        assert_eq!(found, ["send", "search"]);
        assert_eq!(pairs[0].replacement, "send ");
    }

    #[test]
    fn an_empty_word_is_completed_to_the_names_of_search_results() {
        let (hash, kind) = (peerkit::Hash::of(b"content"), peerkit::FileKind::File);
        let found = [SharedFile { hash, name: "film".parse().unwrap(), size: 1, kind }];
        assert_eq!(result_candidates(&found, ""), ["film"]);
        assert_eq!(result_candidates(&found, &hash.to_string()[..4]), [hash.to_string()]);
    }

    #[test]
    fn a_completed_name_that_begins_like_an_option_is_none() {
        let pairs = matching("", ["--force", "--from us"].map(str::to_owned));
        for (pair, name) in pairs.iter().zip(["--force", "--from us"]) {
            let line = format!("get {}folder/", pair.replacement);
            let (_, command) = crate::commands::line::read(&line).unwrap().unwrap();
            let what = command.arguments()["what"].as_str().unwrap().to_owned();
            assert_eq!(shell_words::words(&what).next().unwrap().text, name);
            assert_eq!(command.arguments()["force"], false);
        }
        let options =
            matching_options("--f", ["--from", "--force", "--to"].map(str::to_owned).into());
        let written: Vec<&str> = options.iter().map(|pair| pair.replacement.as_str()).collect();
        assert_eq!(written, ["--from ", "--force "]);
    }

    #[cfg(not(windows))]
    #[test]
    fn a_completed_path_is_read_back_as_the_same_path() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["it's", "my file.txt", "-x", "$HOME", "a\\b", "new\nline", "~"];
        for name in names {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join("a folder")).unwrap();
        let root = folder.path().to_str().unwrap();
        for is_quoted in [false, true] {
            let pairs = paths(&format!("{root}/"), is_quoted);
            assert_eq!(pairs.len(), names.len() + 1);
            for pair in pairs {
                let read: Vec<ShellWord> = shell_words::words(&pair.replacement).collect();
                assert_eq!(read.len(), 1, "{}", pair.replacement);
                let path = Path::new(&read[0].text);
                assert!(path.exists(), "{}", pair.replacement);
                assert_eq!(pair.replacement.ends_with(' '), !path.is_dir());
            }
        }
    }

    #[test]
    fn too_many_candidates_become_their_common_start() {
        let candidates = |number: usize| -> Vec<Pair> {
            matching("a", (0..number).map(|number| format!("a b{number}")))
        };
        assert_eq!(limit_candidates(candidates(MAX_CANDIDATES)).len(), MAX_CANDIDATES);
        let common = limit_candidates(candidates(MAX_CANDIDATES + 1));
        assert_eq!(common.len(), 1);
        assert_eq!(shell_words::words(&common[0].replacement).next().unwrap().text, "a b");
    }

    #[test]
    fn a_byte_order_mark_is_removed_from_a_line() {
        assert_eq!(decode_line(b"\xef\xbb\xbfsize\r\n"), Ok("size".into()));
    }

    #[test]
    fn a_line_that_is_not_utf8_is_an_error() {
        let mut input = &b"msg caf\xe9 exit\r\nsize\r\n\xff\nend"[..];
        let lines: Vec<ReadLine> = std::iter::from_fn(|| read_line(&mut input).unwrap()).collect();
        let Err(ParseError { command, message: why }) = &lines[0] else { panic!("{lines:?}") };
        assert_eq!(command, "msg");
        assert!(why.contains("`msg caf`"), "{why}");
        assert_eq!(lines[1], Ok("size".into()));
        assert!(lines[2].is_err());
        assert_eq!(lines[3..], [Ok("end".into())]);
    }

    #[test]
    fn pasted_commands_are_carried_out_one_by_one() {
        let commands = |text: &str| split_paste(text.to_owned()).len();
        assert_eq!(commands("size\nfiles\npeerkit get abc"), 3);
        assert_eq!(commands("get peerkit1abc\ndefghi\njkl"), 1, "a ticket that was wrapped");
        assert_eq!(commands("msg hello\nexit"), 1, "a text of two lines");
        assert_eq!(commands("size"), 1);
        assert_eq!(commands(""), 1);
    }

    #[test]
    fn a_line_with_a_secret_ticket_is_not_written_to_the_history() {
        let ticket = |secret| peerkit::Ticket {
            hash: peerkit::Hash::of(b"content"),
            node: peerkit::NodeId::from_bytes([1; 32]),
            secret,
            network: "net".into(),
            addresses: Vec::new(),
            name: None,
        };
        let open = ticket(None).to_string();
        let secret = ticket(Some(peerkit::Secret::from_bytes([7; 16]))).to_string();
        assert!(has_secret_ticket(&format!("get {secret} to here")));
        assert!(has_secret_ticket(&format!("get '{}'", secret.to_uppercase())));
        assert!(has_secret_ticket(&format!("get {}\n{}", &secret[..50], &secret[50..])));
        assert!(has_secret_ticket(&secret) && has_secret_ticket("get peerkit1abc"));
        assert!(has_secret_ticket(&format!("get {open}\nget {secret}")), "two commands, pasted");
        assert!(!has_secret_ticket(&format!("get {open}\nget {open}")));
        assert!(!has_secret_ticket(&format!("get {open}")) && !has_secret_ticket("msg hello"));
    }
}
