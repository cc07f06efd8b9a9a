//! The commands of a running node, and the parser of their lines.

use std::path::PathBuf;

use crate::settings::Setting;
use crate::{help, text};
use arguments::ArgumentReader;
use options::GivenOptions;

pub(crate) use address::{
    check_address, join_ports, looks_like_port, parse_address, parse_identity,
};
pub(crate) use table::{COMMANDS, CommandSpec};

mod address;
mod arguments;
mod options;
mod table;

/// Maximum number of characters of an unknown command that an error repeats. 80: enough to recognise
/// the start of a ticket, and more than any command has.
const MAX_WORD_IN_ERROR: usize = 80;

/// A command for the node. Addresses are kept as text, since they may be names that only the node
/// knows. The arguments of `get` are kept as text, since they may be names of search results:
/// [`crate::fetch_arguments::read`] reads them. `set` without a setting lists all settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NodeCommand {
    Connect { address: String, reconnect: bool },
    Join { addresses: Vec<String> },
    Disconnect { peer: String },
    Peers,
    Msg { text: String },
    Send { peer: String, text: String },
    Broadcast { title: String, text: String },
    Ping { peer: Option<String> },
    Discover { depth: i32 },
    Add { path: PathBuf, to: Vec<String>, ticket: bool },
    Remove { hash: String },
    Refresh,
    Files { share: Option<String>, skip: usize },
    Search { text: String },
    Get { line: String, from: Vec<String>, force: bool },
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
    Set { setting: Option<Setting> },
    Debug { on: Option<bool> },
    Help { topic: Option<String> },
    Leave,
    Shutdown,
    Exit,
}

/// The error of a line that is not a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParseError {
    /// The command's name, or the word in its place.
    pub(crate) command: String,
    /// The error, with the usage of the command or a suggestion.
    pub(crate) message: String,
}

impl NodeCommand {
    /// Reads one line without its newline. Returns the command and the name that its result has,
    /// which for the alias `req` is `get`; `None` if the line is empty.
    ///
    /// A line that the program prints for a shell works too: `peerkit get T` is read as `get T`.
    pub(crate) fn parse(line: &str) -> Result<Option<(&'static str, Self)>, ParseError> {
        let line = line.trim_start();
        let (mut word, mut rest) = split_word(line);
        if word == "peerkit" {
            let (next, after) = split_word(rest.trim_start());
            if !next.is_empty() {
                (word, rest) = (next, after);
            }
        }
        if word.is_empty() {
            return Ok(None);
        }
        let Some(entry) = help::find_command(word) else {
            // A text pasted by mistake may be one long word.
            let word = text::shortened(word, MAX_WORD_IN_ERROR);
            return Err(ParseError { message: help::unknown_command(&word), command: word });
        };
        let name = entry.name();
        match read(entry, rest) {
            Ok(command) => Ok(Some((name, command))),
            Err(message) => Err(ParseError { command: name.to_owned(), message }),
        }
    }
}

fn read(entry: &CommandSpec, rest: &str) -> Result<NodeCommand, String> {
    let (rest, options) = match entry.options {
        [] => (rest.to_owned(), GivenOptions::default()),
        // `broadcast` reads its only option itself, since its text may contain words with dashes.
        _ if entry.name() == "broadcast" => (rest.to_owned(), GivenOptions::default()),
        known => options::take_options(rest, known)
            .map_err(|error| format!("{} {error}: {}", entry.name(), entry.usage))?,
    };
    (entry.read)(&mut ArgumentReader { entry, rest: &rest, options })
}

/// Splits a text at its first whitespace character.
fn split_word(text: &str) -> (&str, &str) {
    match text.split_once(char::is_whitespace) {
        Some((word, rest)) => (word, rest),
        None => (text, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(line: &str) -> NodeCommand {
        NodeCommand::parse(line).unwrap().unwrap().1
    }

    fn name(line: &str) -> &'static str {
        NodeCommand::parse(line).unwrap().unwrap().0
    }

    fn error(line: &str) -> String {
        NodeCommand::parse(line).unwrap_err().message
    }

    #[test]
    fn a_text_is_the_unchanged_rest_of_the_line() {
        let text = |text: &str| NodeCommand::Msg { text: text.into() };
        assert_eq!(parse("msg hello"), text("hello"));
        assert_eq!(parse("  msg  two  spaces "), text(" two  spaces "));
        assert_eq!(parse("msg \"quoted\""), text("\"quoted\""));
        assert_eq!(
            parse("send bob  hi 'there'"),
            NodeCommand::Send { peer: "bob".into(), text: " hi 'there'".into() }
        );
        assert_eq!(
            parse("send \"bob smith\" hi"),
            NodeCommand::Send { peer: "bob smith".into(), text: "hi".into() }
        );
        assert_eq!(error("msg   "), "msg needs a text: msg TEXT");
        assert_eq!(error("send bob"), "send needs a text: send PEER TEXT");
        assert_eq!(error("send"), "send needs a peer: send PEER TEXT");
    }

    #[test]
    fn a_path_may_hold_spaces_and_quotes() {
        let add =
            |path: &str| NodeCommand::Add { path: path.into(), to: Vec::new(), ticket: false };
        assert_eq!(parse("add a file.txt "), add("a file.txt"));
        assert_eq!(parse("add \" a file.txt\""), add(" a file.txt"));
        assert_eq!(parse("add 'it is'"), add("it is"));
        assert_eq!(parse("add don't"), add("don't"));
        assert!(error("add \"a\" b").contains("closing quote"));
        assert!(error("add 'a b").contains("closing quote"));
        assert!(error("add").contains("needs a path"));
        assert!(error("add ''").contains("empty path"));
    }

    #[cfg(not(windows))]
    #[test]
    fn a_path_is_read_as_a_shell_reads_it() {
        let add =
            |path: &str| NodeCommand::Add { path: path.into(), to: Vec::new(), ticket: false };
        assert_eq!(parse(r"add my\ file.txt "), add("my file.txt"));
        assert_eq!(parse(r"add 'it'\''s'"), add("it's"));
        assert_eq!(parse("add $'a\\nb'"), add("a\nb"));
    }

    #[test]
    fn get_takes_its_options_before_and_after_its_arguments() {
        let get = |line: &str| match parse(line) {
            NodeCommand::Get { line, from, force } => {
                (line.trim().to_owned(), from.join(" "), force)
            }
            other => panic!("{other:?}"),
        };
        let is = |line: &str, from: &str, force| (line.to_owned(), from.to_owned(), force);
        assert_eq!(get("get abcd"), is("abcd", "", false));
        assert_eq!(get("req abcd to here"), is("abcd to here", "", false));
        assert_eq!(get("peerkit get abcd"), is("abcd", "", false));
        assert_eq!(get("get --force abcd to here"), is("abcd to here", "", true));
        assert_eq!(get("get abcd 'to here' --force"), is("abcd 'to here'", "", true));
        assert_eq!(get("get --from a:1 abcd --from b:2"), is("abcd", "a:1 b:2", false));
        assert_eq!(get("get abcd \"--force\""), is("abcd \"--force\"", "", false));
        assert!(error("get abcd --from").contains("an address after `--from`"));
        assert!(error("get abcd --quickly").contains("--quickly"));
        assert!(error("get --force").contains("needs a ticket, hash or name"));
    }

    #[test]
    fn a_broadcast_may_have_a_title() {
        let is = |title: &str, text: &str| NodeCommand::Broadcast {
            title: title.into(),
            text: text.into(),
        };
        assert_eq!(parse("broadcast to  all"), is("", "to  all"));
        assert_eq!(parse("broadcast --title News to  all"), is("News", "to  all"));
        assert_eq!(parse("broadcast --title 'Good news' --all"), is("Good news", "--all"));
        assert_eq!(parse("broadcast --title=News 'x'"), is("News", "'x'"));
        assert_eq!(parse("broadcast --title '' --title"), is("", "--title"));
        assert_eq!(parse("broadcast all --title x"), is("", "all --title x"));
        assert!(error("broadcast --title").contains("a title after `--title`"));
        assert!(error("broadcast --title News").contains("needs a text"));
    }

    #[test]
    fn quotes_around_a_whole_search_text_are_removed() {
        let search = |text: &str| NodeCommand::Search { text: text.into() };
        assert_eq!(parse("search \"my film\""), search("my film"));
        assert_eq!(parse("search 'it is' so"), search("'it is' so"));
        assert_eq!(parse("search a  b*"), search("a  b*"));
        assert_eq!(parse("search don't"), search("don't"));
    }

    #[test]
    fn files_takes_a_share_and_a_number_to_skip() {
        let files = |share: Option<&str>, skip| NodeCommand::Files {
            share: share.map(str::to_owned),
            skip,
        };
        assert_eq!(parse("files"), files(None, 0));
        assert_eq!(parse("files my music"), files(Some("my music"), 0));
        for line in ["files 'my music' --skip 1000", "files --skip 1000 my music"] {
            assert_eq!(parse(line), files(Some("my music"), 1000));
        }
        assert!(error("files --skip 3").contains("needs a SHARE"));
        assert!(error("files a --skip x").contains("a number"));
    }

    #[test]
    fn add_takes_nodes_or_a_ticket_but_not_both() {
        let add = |to: &[&str], ticket| NodeCommand::Add {
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
    fn a_download_can_be_given_by_its_name() {
        let pause = |name: &str| NodeCommand::Pause { download: name.into() };
        assert_eq!(parse("pause abcd"), pause("abcd"));
        assert_eq!(parse("pause my film.mkv "), pause("my film.mkv"));
        assert_eq!(parse("pause ' a'"), pause(" a"));
        assert_eq!(name("resume a"), "resume");
        assert!(error("cancel").contains("needs a download: cancel HASH"));
    }

    #[test]
    fn connect_takes_reconnect_before_and_after_its_address() {
        for line in ["connect a:1 --reconnect", "connect --reconnect a 1"] {
            let expected = NodeCommand::Connect { address: "a:1".into(), reconnect: true };
            assert_eq!(parse(line), expected);
        }
        assert!(error("connect a:1 b:2").contains("one address"));
        assert!(error("connect").contains("one address"));
        assert!(error("connect a:1 --now").contains("--now"));
        assert_eq!(parse("join"), NodeCommand::Join { addresses: Vec::new() });
    }

    #[test]
    fn an_address_may_be_a_host_a_host_and_port_or_a_name() {
        let connect = |line: &str| match parse(&format!("connect {line}")) {
            NodeCommand::Connect { address, .. } => address,
            other => panic!("{other:?}"),
        };
        let id = "06".repeat(32);
        for (line, expected) in [
            ("127.0.0.1 7200", "127.0.0.1:7200"),
            ("::1 7200", "[::1]:7200"),
            ("[::1] 7200", "[::1]:7200"),
            ("127.0.0.1", "127.0.0.1"),
            ("'bob smith'", "bob smith"),
            ("28826832", "28826832"),
            ("\"127.0.0.1:1\"", "127.0.0.1:1"),
            (&id, &id),
        ] {
            assert_eq!(connect(line), expected);
        }
        let NodeCommand::Join { addresses } = parse("join a:1 b 2 c d") else { panic!("not join") };
        assert_eq!(addresses, ["a:1", "b:2", "c", "d"]);
        assert!(error("connect 7117").contains("a port without a host"));
        assert!(error("connect 99999").contains("not a port"));
        assert!(error("connect a:0").contains("not a port"));
        assert!(error("connect a 0").contains("not a port"));
        assert!(error("join a 99999").contains("not a port"));
        assert!(error("connect lan").contains("local network"));
        assert!(error("connect udp://a:1").contains("udp"));
        assert!(error("get abcd --from a:x").contains("not a port"));
    }

    #[test]
    fn discover_takes_a_depth() {
        assert_eq!(parse("discover"), NodeCommand::Discover { depth: -1 });
        assert_eq!(parse("discover 3"), NodeCommand::Discover { depth: 3 });
        for wrong in ["discover -2", "discover x", "discover 1 2"] {
            assert_eq!(NodeCommand::parse(wrong).unwrap_err().command, "discover");
        }
    }

    #[test]
    fn every_name_in_the_manual_parses_to_itself() {
        for entry in COMMANDS {
            let line = match entry.name() {
                "connect" | "join" => format!("{} a:1", entry.name()),
                "send" => "send bob hi".to_owned(),
                "debug" => "debug on".to_owned(),
                "set" => "set up 1M".to_owned(),
                "peers" | "refresh" | "files" | "downloads" | "status" | "network" | "size"
                | "leave" | "shutdown" | "exit" => entry.name().to_owned(),
                "discover" => "discover 1".to_owned(),
                name => format!("{name} word"),
            };
            assert_eq!(name(&line), entry.name());
            for alias in entry.aliases {
                let line = line.replacen(entry.name(), alias, 1);
                assert_eq!(name(&line), entry.name());
            }
        }
    }

    #[test]
    fn settings_have_a_name_and_a_value() {
        let set = |setting| NodeCommand::Set { setting: Some(setting) };
        assert_eq!(parse("set"), NodeCommand::Set { setting: None });
        assert_eq!(parse("set downloads a folder"), set(Setting::Downloads("a folder".into())));
        assert_eq!(parse("set downloads 'b c'"), set(Setting::Downloads("b c".into())));
        assert_eq!(parse("set up 2k"), set(Setting::rate("up", "2k").unwrap()));
        assert!(error("set downloads").contains("needs a folder"));
        assert!(error("set up").contains("a value for `up`"));
        let wrong = error("set up fast");
        assert!(
            wrong.contains("set can't take `fast`: a rate is") && wrong.contains("64KiB"),
            "{wrong}"
        );
        assert!(error("set speed 3").contains("downloads, up, down"), "{}", error("set speed 3"));
    }

    #[test]
    fn an_empty_line_is_no_command_and_a_wrong_one_is_an_error() {
        assert_eq!(NodeCommand::parse(""), Ok(None));
        assert_eq!(NodeCommand::parse("  \t"), Ok(None));
        assert!(error("serach x").contains("search"));
        assert_eq!(NodeCommand::parse("frobnicate").unwrap_err().command, "frobnicate");
        assert!(error("peers now").contains("no arguments"));
        assert!(error("debug maybe").contains("on or off"));
        assert_eq!(parse("debug"), NodeCommand::Debug { on: None });
        assert_eq!(parse("debug on"), NodeCommand::Debug { on: Some(true) });
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "\\PC{0,60}") {
            let _ = NodeCommand::parse(&line);
        }

        #[test]
        fn no_arguments_panic(
            entry in prop::sample::select(COMMANDS),
            rest in "[ \"'a-z:0-9~/é-]{0,30}",
        ) {
            let _ = NodeCommand::parse(&format!("{} {rest}", entry.name()));
        }
    }
}
