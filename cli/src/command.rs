//! A line that was typed or piped in, as a command.

use std::path::PathBuf;

use peerkit::Address;

use crate::folders;
use crate::manual::{self, Entry};
use flags::{Flag, Takes};

mod flags;

/// What the node is told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Connect { address: Address, reconnect: bool },
    Join { addresses: Vec<Address> },
    Disconnect { peer: String },
    Peers,
    Msg { text: String },
    Send { peer: String, text: String },
    Broadcast { text: String },
    Ping { peer: Option<String> },
    Discover { depth: i32 },
    Add { path: PathBuf, to: Vec<String>, ticket: bool },
    Remove { hash: String },
    Refresh,
    Files,
    Search { text: String },
    Get { what: String, path: Option<PathBuf>, from: Vec<Address>, force: bool },
    Pause { download: String },
    Resume { download: String },
    Cancel { download: String },
    Downloads,
    Status,
    Network,
    Size,
    Map { file: Option<PathBuf> },
    Save { file: Option<PathBuf> },
    Load { file: Option<PathBuf> },
    Debug { on: bool },
    Help { topic: Option<String> },
    Leave,
    Shutdown,
    Exit,
}

/// Why a line is not a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParseError {
    /// The command's name, or the word that stands in its place.
    pub(crate) command: String,
    /// What is wrong, and what would be right.
    pub(crate) message: String,
}

impl Command {
    /// Reads one line, without its end. `None` where there is nothing on it.
    pub(crate) fn parse(line: &str) -> Result<Option<Self>, ParseError> {
        let line = line.trim_start();
        let (word, rest) = split_word(line);
        if word.is_empty() {
            return Ok(None);
        }
        let Some(entry) = manual::entry(word) else {
            return Err(ParseError { command: word.to_owned(), message: manual::unknown(word) });
        };
        match Self::read(entry, rest) {
            Ok(command) => Ok(Some(command)),
            Err(message) => Err(ParseError { command: entry.name.to_owned(), message }),
        }
    }

    fn read(entry: &Entry, rest: &str) -> Result<Self, String> {
        let (cut, flags) = match flags_of(entry.name) {
            [] => (rest.to_owned(), flags::Given::default()),
            known => flags::take(rest, known)
                .map_err(|error| format!("{} {error}: {}", entry.name, entry.usage))?,
        };
        let mut arguments = Arguments { entry, rest: &cut };
        let command = match entry.name {
            "connect" => {
                let [address] = arguments.words()[..] else {
                    return Err(arguments.wrong("takes one address"));
                };
                Self::Connect {
                    address: parse_address(address)?,
                    reconnect: flags.has("--reconnect"),
                }
            }
            "join" => {
                let words = arguments.words();
                if words.is_empty() {
                    return Err(arguments.wrong("needs the address of a node"));
                }
                let addresses = words.into_iter().map(parse_address).collect::<Result<_, _>>()?;
                Self::Join { addresses }
            }
            "disconnect" => Self::Disconnect { peer: arguments.one("a peer")? },
            "msg" => Self::Msg { text: arguments.text()? },
            "send" => Self::Send { peer: arguments.word("a peer")?, text: arguments.text()? },
            "broadcast" => Self::Broadcast { text: arguments.text()? },
            "ping" => Self::Ping { peer: arguments.one_or_none()? },
            "discover" => Self::Discover { depth: arguments.depth()? },
            "add" => {
                let to: Vec<String> = flags.values("--to").map(str::to_owned).collect();
                let ticket = flags.has("--ticket");
                if ticket && !to.is_empty() {
                    return Err(arguments.wrong(
                        "is for the nodes of --to, or for who has the ticket: give one of the two",
                    ));
                }
                let path = arguments.path()?.ok_or_else(|| arguments.wrong("needs a path"))?;
                Self::Add { path, to, ticket }
            }
            "remove" => Self::Remove { hash: arguments.rest("a hash")? },
            "search" => Self::Search { text: arguments.text()?.trim().to_owned() },
            "get" => Self::Get {
                what: arguments.word("a ticket or hash")?,
                path: arguments.path()?,
                from: flags.values("--from").map(parse_address).collect::<Result<_, _>>()?,
                force: flags.has("--force"),
            },
            "pause" => Self::Pause { download: arguments.rest("a download")? },
            "resume" => Self::Resume { download: arguments.rest("a download")? },
            "cancel" => Self::Cancel { download: arguments.rest("a download")? },
            "map" => Self::Map { file: arguments.path()? },
            "save" => Self::Save { file: arguments.path()? },
            "load" => Self::Load { file: arguments.path()? },
            "debug" => Self::Debug {
                on: match arguments.one("on or off")?.as_str() {
                    "on" => true,
                    "off" => false,
                    other => return Err(arguments.wrong(&format!("is on or off, not `{other}`"))),
                },
            },
            "help" => Self::Help { topic: arguments.one_or_none()? },
            name => {
                if !cut.trim().is_empty() {
                    return Err(arguments.wrong("takes nothing after it"));
                }
                match name {
                    "peers" => Self::Peers,
                    "refresh" => Self::Refresh,
                    "files" => Self::Files,
                    "downloads" => Self::Downloads,
                    "status" => Self::Status,
                    "network" => Self::Network,
                    "size" => Self::Size,
                    "leave" => Self::Leave,
                    "shutdown" => Self::Shutdown,
                    _ => Self::Exit,
                }
            }
        };
        Ok(command)
    }

    /// The name that its result carries: for `req` it is `get`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Join { .. } => "join",
            Self::Disconnect { .. } => "disconnect",
            Self::Peers => "peers",
            Self::Msg { .. } => "msg",
            Self::Send { .. } => "send",
            Self::Broadcast { .. } => "broadcast",
            Self::Ping { .. } => "ping",
            Self::Discover { .. } => "discover",
            Self::Add { .. } => "add",
            Self::Remove { .. } => "remove",
            Self::Refresh => "refresh",
            Self::Files => "files",
            Self::Search { .. } => "search",
            Self::Get { .. } => "get",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::Cancel { .. } => "cancel",
            Self::Downloads => "downloads",
            Self::Status => "status",
            Self::Network => "network",
            Self::Size => "size",
            Self::Map { .. } => "map",
            Self::Save { .. } => "save",
            Self::Load { .. } => "load",
            Self::Debug { .. } => "debug",
            Self::Help { .. } => "help",
            Self::Leave => "leave",
            Self::Shutdown => "shutdown",
            Self::Exit => "exit",
        }
    }
}

/// What follows the command's name.
struct Arguments<'a> {
    entry: &'a Entry,
    rest: &'a str,
}

impl<'a> Arguments<'a> {
    /// All that is left, in words.
    fn words(&mut self) -> Vec<&'a str> {
        let words = self.rest.split_whitespace().collect();
        self.rest = "";
        words
    }

    /// The next word; in quotes where it has spaces.
    fn word(&mut self, what: &str) -> Result<String, String> {
        let rest = self.rest.trim_start();
        let (word, rest) = match quoted(rest) {
            Some((word, rest)) => (word, rest.strip_prefix(char::is_whitespace).unwrap_or(rest)),
            None => split_word(rest),
        };
        if word.is_empty() {
            return Err(self.wrong(&format!("needs {what}")));
        }
        self.rest = rest;
        Ok(word.to_owned())
    }

    /// The next word, which has to be the last.
    fn one(&mut self, what: &str) -> Result<String, String> {
        let word = self.word(what)?;
        if self.rest.trim().is_empty() {
            Ok(word)
        } else {
            Err(self.wrong(&format!("takes {what} and nothing more")))
        }
    }

    fn one_or_none(&mut self) -> Result<Option<String>, String> {
        if self.rest.trim().is_empty() {
            return Ok(None);
        }
        self.one("one word").map(Some)
    }

    /// The rest of the line as one name, which may hold spaces, with or without quotes.
    fn rest(&mut self, what: &str) -> Result<String, String> {
        let rest = std::mem::take(&mut self.rest).trim();
        match quoted(rest) {
            Some((name, after)) if after.trim().is_empty() => Ok(name.to_owned()),
            _ if rest.is_empty() => Err(self.wrong(&format!("needs {what}"))),
            _ => Ok(rest.to_owned()),
        }
    }

    /// The rest of the line as it stands.
    fn text(&mut self) -> Result<String, String> {
        if self.rest.trim().is_empty() {
            return Err(self.wrong("needs a text"));
        }
        Ok(std::mem::take(&mut self.rest).to_owned())
    }

    /// The rest of the line as a path: it may hold spaces, with or without quotes, and `~/`.
    fn path(&mut self) -> Result<Option<PathBuf>, String> {
        let rest = std::mem::take(&mut self.rest).trim();
        match quoted(rest) {
            Some((path, after)) if after.trim().is_empty() && !path.is_empty() => {
                Ok(Some(PathBuf::from(path)))
            }
            Some(_) => Err(self.wrong("takes one path: put nothing after its closing quote")),
            None if rest.is_empty() => Ok(None),
            None => Ok(Some(folders::expand_home(rest))),
        }
    }

    fn depth(&mut self) -> Result<i32, String> {
        let Some(word) = self.one_or_none()? else {
            return Ok(-1);
        };
        let depth = word.parse().ok().filter(|depth| *depth >= -1);
        depth.ok_or_else(|| {
            self.wrong("takes a depth: 1 for neighbours, n for n hops, -1 for the whole network")
        })
    }

    fn wrong(&self, what: &str) -> String {
        format!("{} {what}: {}", self.entry.name, self.entry.usage)
    }
}

const CONNECT: &[Flag] = &[Flag::new("--reconnect", Takes::Nothing)];
const ADD: &[Flag] =
    &[Flag::new("--to", Takes::Some("a node")), Flag::new("--ticket", Takes::Nothing)];
const GET: &[Flag] =
    &[Flag::new("--from", Takes::One("an address")), Flag::new("--force", Takes::Nothing)];

/// The options of a command. Those without any take a line as it stands, dashes and all.
pub(crate) fn flags_of(command: &str) -> &'static [Flag] {
    match command {
        "connect" => CONNECT,
        "add" => ADD,
        "get" => GET,
        _ => &[],
    }
}

fn parse_address(text: &str) -> Result<Address, String> {
    text.parse().map_err(|error: peerkit::ParseAddressError| error.to_string())
}

/// The text up to the first white space, and what follows that one character.
fn split_word(text: &str) -> (&str, &str) {
    match text.split_once(char::is_whitespace) {
        Some((word, rest)) => (word, rest),
        None => (text, ""),
    }
}

/// What stands between quotes at the start, and what follows them.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    text[1..].split_once(quote)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(line: &str) -> Command {
        Command::parse(line).unwrap().unwrap()
    }

    fn error(line: &str) -> String {
        Command::parse(line).unwrap_err().message
    }

    #[test]
    fn a_text_is_the_rest_of_the_line_as_it_stands() {
        let text = |text: &str| Command::Msg { text: text.into() };
        assert_eq!(parse("msg hello"), text("hello"));
        assert_eq!(parse("  msg  two  spaces "), text(" two  spaces "));
        assert_eq!(parse("msg \"quoted\""), text("\"quoted\""));
        assert_eq!(
            parse("send bob  hi 'there'"),
            Command::Send { peer: "bob".into(), text: " hi 'there'".into() }
        );
        assert_eq!(
            parse("send \"bob smith\" hi"),
            Command::Send { peer: "bob smith".into(), text: "hi".into() }
        );
        assert_eq!(error("msg   "), "msg needs a text: msg TEXT");
        assert_eq!(error("send bob"), "send needs a text: send PEER TEXT");
        assert_eq!(error("send"), "send needs a peer: send PEER TEXT");
    }

    #[test]
    fn a_path_may_hold_spaces_and_quotes() {
        let add = |path: &str| Command::Add { path: path.into(), to: Vec::new(), ticket: false };
        assert_eq!(parse("add a file.txt "), add("a file.txt"));
        assert_eq!(parse("add \" a file.txt\""), add(" a file.txt"));
        assert_eq!(parse("add 'it is'"), add("it is"));
        assert_eq!(parse("add don't"), add("don't"));
        assert!(error("add \"a\" b").contains("closing quote"));
        assert!(error("add").contains("needs a path"));
    }

    #[test]
    fn a_get_has_its_options_on_either_side() {
        let get = |path: Option<&str>, from: &[&str], force| Command::Get {
            what: "abcd".into(),
            path: path.map(PathBuf::from),
            from: from.iter().map(|address| address.parse().unwrap()).collect(),
            force,
        };
        assert_eq!(parse("get abcd"), get(None, &[], false));
        assert_eq!(parse("req abcd to here"), get(Some("to here"), &[], false));
        assert_eq!(parse("get --force abcd to here"), get(Some("to here"), &[], true));
        assert_eq!(parse("get abcd 'to here' --force"), get(Some("to here"), &[], true));
        let from = ["a:1", "b:2"];
        assert_eq!(parse("get --from a:1 abcd --from b:2"), get(None, &from, false));
        assert_eq!(parse("get abcd \"--force\""), get(Some("--force"), &[], false));
        assert!(error("get abcd --from").contains("an address after `--from`"));
        assert!(error("get abcd --from x").contains("has no port"));
        assert!(error("get abcd --quickly").contains("--quickly"));
        assert!(error("get --force").contains("needs a ticket or hash"));
    }

    #[test]
    fn a_share_is_for_all_for_some_or_for_who_has_the_ticket() {
        let add = |to: &[&str], ticket| Command::Add {
            path: "my file".into(),
            to: to.iter().map(ToString::to_string).collect(),
            ticket,
        };
        assert_eq!(parse("add my file --ticket"), add(&[], true));
        assert_eq!(parse("add --ticket 'my file'"), add(&[], true));
        assert_eq!(parse("add my file --to ann bob"), add(&["ann", "bob"], false));
        assert_eq!(parse("add --to ann my file"), add(&["ann"], false));
        assert!(error("add --ticket").contains("needs a path"));
        assert!(error("add x --to").contains("a node after `--to`"));
        assert!(error("add x --to ann --ticket").contains("one of the two"));
    }

    #[test]
    fn a_download_goes_by_its_name_too() {
        let pause = |name: &str| Command::Pause { download: name.into() };
        assert_eq!(parse("pause abcd"), pause("abcd"));
        assert_eq!(parse("pause my film.mkv "), pause("my film.mkv"));
        assert_eq!(parse("pause ' a'"), pause(" a"));
        assert_eq!(parse("resume a").name(), "resume");
        assert!(error("cancel").contains("needs a download: cancel HASH"));
    }

    #[test]
    fn connect_takes_its_flag_on_either_side() {
        for line in ["connect a:1 --reconnect", "connect --reconnect a:1"] {
            let expected = Command::Connect { address: "a:1".parse().unwrap(), reconnect: true };
            assert_eq!(parse(line), expected);
        }
        assert!(error("connect a:1 b:2").contains("one address"));
        assert!(error("connect").contains("one address"));
        assert!(error("connect a:1 --now").contains("--now"));
        assert!(error("connect nonsense").contains("has no port"));
        assert!(error("join").contains("address"));
        assert_eq!(parse("join a:1 b:2").name(), "join");
    }

    #[test]
    fn depths() {
        assert_eq!(parse("discover"), Command::Discover { depth: -1 });
        assert_eq!(parse("discover 3"), Command::Discover { depth: 3 });
        for wrong in ["discover -2", "discover x", "discover 1 2"] {
            assert_eq!(Command::parse(wrong).unwrap_err().command, "discover");
        }
    }

    #[test]
    fn every_name_in_the_manual_parses_to_itself() {
        for entry in manual::ENTRIES {
            let line = match entry.name {
                "connect" | "join" => format!("{} a:1", entry.name),
                "send" => "send bob hi".to_owned(),
                "debug" => "debug on".to_owned(),
                "peers" | "refresh" | "files" | "downloads" | "status" | "network" | "size"
                | "leave" | "shutdown" | "exit" => entry.name.to_owned(),
                "discover" => "discover 1".to_owned(),
                name => format!("{name} word"),
            };
            assert_eq!(parse(&line).name(), entry.name);
            for alias in entry.aliases {
                let line = line.replacen(entry.name, alias, 1);
                assert_eq!(parse(&line).name(), entry.name);
            }
        }
    }

    #[test]
    fn nothing_and_nonsense() {
        assert_eq!(Command::parse(""), Ok(None));
        assert_eq!(Command::parse("  \t"), Ok(None));
        assert!(error("serach x").contains("search"));
        assert_eq!(Command::parse("frobnicate").unwrap_err().command, "frobnicate");
        assert!(error("peers now").contains("nothing after"));
        assert!(error("debug maybe").contains("on or off"));
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "\\PC{0,60}") {
            let _ = Command::parse(&line);
        }

        #[test]
        fn no_arguments_panic(
            entry in prop::sample::select(manual::ENTRIES),
            rest in "[ \"'a-z:0-9~/é-]{0,30}",
        ) {
            let _ = Command::parse(&format!("{} {rest}", entry.name));
        }
    }
}
