//! The parser of lines: it turns a line of the prompt or of standard input into the words that clap parses.
//!
//! A line differs from the command line of a shell: a text is the unchanged rest of the line, and a path or
//! name may contain spaces without quotes.

use clap::Arg;
use clap::builder::ValueRange;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::{CommandSpec, ParsedCommand, lookup};
use crate::shell_words::{self, ShellWord};
use crate::{fetch_arguments, text};

/// The way in which the rest of a line becomes arguments. The number is that of the words before the last
/// argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineForm {
    /// Each word is an argument.
    Words,
    /// The last argument is the unchanged rest of the line. Options come before all arguments, since the
    /// text may contain dashes.
    Text(usize),
    /// The last argument is the rest of the line, unchanged except that options are taken out.
    Rest(usize),
    /// The only argument is the rest of the line, a text that may be in quotes.
    Search,
    /// The last argument is the rest of the line, a name that may be in quotes.
    Name(usize),
    /// The last argument is the rest of the line, a path that may be in quotes.
    Path(usize),
}

/// Maximum number of characters of an unknown command that an error repeats. 80: enough to recognise
/// the start of a ticket, and more than any command has.
const MAX_WORD_IN_ERROR: usize = 80;

/// The error of a line that is not a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParseError {
    /// The command's name, or the word in its place.
    pub(crate) command: String,
    /// The error, with the usage of the command or a suggestion.
    pub(crate) message: String,
}

/// Reads one line without its newline. Returns `None` if the line is empty.
///
/// A line that the program prints for a shell works too: `peerkit get T` is read as `get T`.
///
/// # Errors
/// If the line is not a command, or its arguments can't be read.
pub(crate) fn read(
    line: &str,
) -> Result<Option<(&'static CommandSpec, ParsedCommand)>, ParseError> {
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
    let Some(spec) = lookup::find_command(word) else {
        // A text pasted by mistake may be one long word.
        let word = text::shortened(word, MAX_WORD_IN_ERROR);
        return Err(ParseError { message: lookup::unknown_command(&word), command: word });
    };
    let error = |message| ParseError { message, command: spec.name.to_owned() };
    let mut command = parse(spec, rest).map_err(error)?;
    command.prepare().map_err(|why| error(text::error(&why)))?;
    Ok(Some((spec, command)))
}

/// Splits a text at its first whitespace character.
fn split_word(text: &str) -> (&str, &str) {
    match text.split_once(char::is_whitespace) {
        Some((word, rest)) => (word, rest),
        None => (text, ""),
    }
}

/// Parses what follows the name of a command on a line.
///
/// # Errors
/// If an argument is missing or invalid, or if there are too many. The error ends with the usage.
pub(crate) fn parse(spec: &CommandSpec, rest: &str) -> Result<ParsedCommand, String> {
    let arguments =
        arguments(spec, rest).map_err(|error| format!("{} {error}: {}", spec.name, usage(spec)))?;
    let words = std::iter::once(spec.name.to_owned()).chain(arguments);
    let parsed = spec.clap().disable_help_flag(true).try_get_matches_from(words);
    let command = parsed.and_then(|matches| (spec.from_matches)(&matches));
    command.map_err(|error| in_one_line(spec, &error))
}

/// Returns the usage of a command: its name with all its arguments and options.
pub(crate) fn usage(spec: &CommandSpec) -> String {
    let command = spec.clap();
    let arguments = command.get_positionals().map(|argument| {
        // A shell splits a text into words, but the usage shows one argument.
        let is_text = matches!(spec.line, LineForm::Text(_) | LineForm::Search);
        let is_list = takes(argument).max_values() > 2 && !is_text;
        let several = if is_list { "..." } else { "" };
        let name = format!("{}{several}", value_name(argument));
        if argument.is_required_set() { name } else { format!("[{name}]") }
    });
    let options = command.get_arguments().filter_map(|option| {
        let name = option.get_long()?;
        Some(match takes(option).max_values() {
            0 => format!("[--{name}]"),
            1 => format!("[--{name} {}]", value_name(option)),
            _ => format!("[--{name} {}...]", value_name(option)),
        })
    });
    let name = std::iter::once(spec.name.to_owned());
    let words: Vec<String> = match spec.line {
        // Options after the text would be a part of the text.
        LineForm::Text(_) => name.chain(options).chain(arguments).collect(),
        _ => name.chain(arguments).chain(options).collect(),
    };
    words.join(" ")
}

fn value_name(argument: &Arg) -> String {
    let name = argument.get_value_names().and_then(|names| names.first());
    name.map_or_else(|| argument.get_id().as_str().to_uppercase(), ToString::to_string)
}

/// Returns the number of values that an argument takes.
fn takes(argument: &Arg) -> ValueRange {
    let default = usize::from(argument.get_action().takes_values());
    argument.get_num_args().unwrap_or(ValueRange::new(default))
}

/// Returns the arguments of a line in the order that clap needs: the options, `--`, and the others.
fn arguments(spec: &CommandSpec, line: &str) -> Result<Vec<String>, String> {
    let command = spec.clap();
    let known: Vec<&Arg> =
        command.get_arguments().filter(|argument| !argument.is_positional()).collect();
    let (rest, mut arguments) = match spec.line {
        LineForm::Text(_) | LineForm::Search => leading_options(line, &known)?,
        _ => take_options(line, &known)?,
    };
    arguments.push("--".to_owned());
    let mut rest = rest.as_str();
    let before = match spec.line {
        LineForm::Words => usize::MAX,
        LineForm::Search => 0,
        LineForm::Text(before)
        | LineForm::Rest(before)
        | LineForm::Name(before)
        | LineForm::Path(before) => before,
    };
    let mut words = Vec::new();
    while words.len() < before
        && let Some(word) = take_word(&mut rest)?
    {
        words.push(word);
    }
    arguments.extend(words);
    let last = match spec.line {
        LineForm::Name(_) => fetch_arguments::name(rest, "name")?,
        LineForm::Search => search_text(rest),
        LineForm::Path(_) => {
            let path = fetch_arguments::path(rest)?;
            path.map(|path| path.to_string_lossy().into_owned())
        }
        _ if rest.trim().is_empty() => None,
        _ => Some(rest.to_owned()),
    };
    arguments.extend(last);
    Ok(arguments)
}

/// Returns a search text. Quotes around the whole text are removed.
fn search_text(rest: &str) -> Option<String> {
    let text = rest.trim();
    let mut words = shell_words::words(text);
    let is_quoted = text.starts_with(['"', '\'']);
    match (words.next(), words.next()) {
        (None, _) => None,
        (Some(word), None) if is_quoted && !word.open => Some(word.text),
        _ => Some(text.to_owned()),
    }
}

/// Takes the next word, and one space after it. Returns `None` if there is no further word.
fn take_word(rest: &mut &str) -> Result<Option<String>, String> {
    let Some(word) = shell_words::words(rest).next() else { return Ok(None) };
    if word.open {
        return Err("needs a closing quote".to_owned());
    }
    let after = rest.get(word.end..).unwrap_or_default();
    *rest = after.strip_prefix(char::is_whitespace).unwrap_or(after);
    Ok(Some(word.text))
}

/// Takes the options at the start of a line. Returns the unchanged rest of the line, and the options.
fn leading_options(line: &str, known: &[&Arg]) -> Result<(String, Vec<String>), String> {
    let mut rest = line;
    let mut options = Vec::new();
    while let Some(word) = shell_words::words(rest).next()
        && let Some((name, value)) = option(&word, rest)
        && known.iter().any(|option| option.get_long() == Some(name))
        && !options.iter().any(|given: &String| given.starts_with(&format!("--{name}=")))
    {
        let name = name.to_owned();
        let value = value.map(str::to_owned);
        take_word(&mut rest)?;
        let value = match value {
            Some(value) => value,
            None => {
                take_word(&mut rest)?.ok_or_else(|| format!("needs a value after `--{name}`"))?
            }
        };
        options.push(format!("--{name}={value}"));
    }
    Ok((rest.to_owned(), options))
}

/// Takes the options out of a line, before and after its other words. Returns the rest of the line, and the
/// options. A word in quotes is never an option, so a name that begins with `--` can be given in quotes.
fn take_options(line: &str, known: &[&Arg]) -> Result<(String, Vec<String>), String> {
    let mut words = shell_words::words(line).peekable();
    let (mut rest, mut kept) = (String::new(), 0);
    let mut options = Vec::new();
    let mut had_argument = false;
    while let Some(word) = words.next() {
        let Some((name, value)) = option(&word, line) else {
            had_argument = true;
            continue;
        };
        let Some(option_) = known.iter().find(|option| option.get_long() == Some(name)) else {
            return Err(format!(
                "has no option `--{name}` (a name that begins with -- has to be in quotes)"
            ));
        };
        rest.push_str(line.get(kept..word.start).unwrap_or_default());
        kept = word.end;
        let most = match takes(option_).max_values() {
            // In `add --to ann my file` only the next word is the value: the path follows it.
            2.. if !had_argument => 1,
            most => most,
        };
        match (value, most) {
            (Some(_), 0) => return Err(format!("takes no value after `--{name}`")),
            (None, 0) => options.push(format!("--{name}")),
            (value, _) => {
                let mut values: Vec<String> = value.map(str::to_owned).into_iter().collect();
                while values.len() < most
                    && let Some(next) = words.next_if(|word| option(word, line).is_none())
                {
                    kept = next.end;
                    values.push(next.text);
                }
                if values.is_empty() {
                    return Err(format!("needs {} after `--{name}`", value_name(option_)));
                }
                options.extend(values.iter().map(|value| format!("--{name}={value}")));
            }
        }
    }
    rest.push_str(line.get(kept..).unwrap_or_default());
    Ok((rest, options))
}

/// Returns the name and the value of a word that is an option: `--name` or `--name=value`.
fn option<'a>(word: &'a ShellWord, line: &str) -> Option<(&'a str, Option<&'a str>)> {
    let option = word.text.strip_prefix("--").filter(|_| word.begins_with_bare(line, '-'))?;
    Some(match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    })
}

/// Returns clap's error as one line: `send needs TEXT: send PEER TEXT`.
fn in_one_line(spec: &CommandSpec, error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    };
    let bare = |text: String| text.replace(['<', '>'], "").trim_end_matches("...").to_owned();
    let what = match error.kind() {
        ErrorKind::MissingRequiredArgument => {
            format!("needs {}", bare(context(ContextKind::InvalidArg)))
        }
        ErrorKind::UnknownArgument | ErrorKind::TooManyValues => {
            format!("does not take `{}`", context(ContextKind::InvalidArg))
        }
        ErrorKind::ArgumentConflict => format!(
            "takes {} or {}, not both",
            bare(context(ContextKind::InvalidArg)),
            bare(context(ContextKind::PriorArg))
        ),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map_or_else(
                || match error.get(ContextKind::ValidValue) {
                    Some(ContextValue::Strings(values)) => {
                        format!(": it is {}", values.join(" or "))
                    }
                    _ => String::new(),
                },
                |why| format!(": {why}"),
            );
            format!("does not take `{}`{why}", context(ContextKind::InvalidValue))
        }
        _ => error.to_string().lines().next().unwrap_or_default().replace("error: ", ""),
    };
    format!("{} {what}: {}", spec.name, usage(spec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::COMMANDS;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Returns the name of the command on a line, and its arguments as the API has them.
    fn arguments_of(line: &str) -> (&'static str, Value) {
        let (spec, command) = read(line).unwrap().unwrap();
        (spec.name, command.arguments())
    }

    fn parsed(line: &str) -> Value {
        let (_, arguments) = arguments_of(line);
        let mut arguments = arguments.as_object().unwrap().clone();
        arguments.retain(|_, value| !value.is_null());
        arguments.into()
    }

    fn error(line: &str) -> String {
        read(line).err().unwrap().message
    }

    #[test]
    fn a_text_is_the_rest_of_the_line_as_it_stands() {
        assert_eq!(parsed("msg hello"), json!({"text": "hello"}));
        assert_eq!(parsed("  msg  two  spaces "), json!({"text": " two  spaces "}));
        assert_eq!(parsed("msg \"quoted\""), json!({"text": "\"quoted\""}));
        assert_eq!(parsed("msg --not an option"), json!({"text": "--not an option"}));
        let there = json!({"peer": "bob", "text": " hi 'there'"});
        assert_eq!(parsed("send bob  hi 'there'"), there);
        let quoted = json!({"peer": "bob smith", "text": "hi"});
        assert_eq!(parsed("send \"bob smith\" hi"), quoted);
        assert_eq!(error("msg   "), "msg needs TEXT: msg TEXT");
        assert_eq!(error("send bob"), "send needs TEXT: send PEER TEXT");
        assert_eq!(error("send"), "send needs PEER TEXT: send PEER TEXT");
        assert!(error("send 'bob").contains("closing quote"));
    }

    #[test]
    fn a_path_may_hold_spaces_and_quotes() {
        let here = std::env::current_dir().unwrap();
        let path = |line: &str| {
            let added = parsed(line);
            let path = std::path::Path::new(added["path"].as_str().unwrap()).to_owned();
            path.strip_prefix(&here).unwrap().to_string_lossy().into_owned()
        };
        assert_eq!(path("add a file.txt "), "a file.txt");
        assert_eq!(path("add \" a file.txt\""), " a file.txt");
        assert_eq!(path("add 'it is'"), "it is");
        assert_eq!(path("add don't"), "don't");
        if cfg!(not(windows)) {
            assert_eq!(path(r"add my\ file.txt "), "my file.txt");
            assert_eq!(path(r"add 'it'\''s'"), "it's");
            assert_eq!(path("add $'a\\nb'"), "a\nb");
        }
        assert!(error("add \"a\" b").contains("closing quote"));
        assert!(error("add 'a b").contains("closing quote"));
        assert!(error("add").contains("needs PATH"));
        assert!(error("add ''").contains("empty path"));
    }

    #[test]
    fn a_get_has_its_options_on_either_side() {
        let get = |line: &str| {
            let got = parsed(line);
            let from: Vec<String> = serde_json::from_value(got["from"].clone()).unwrap();
            (got["what"].as_str().unwrap().trim().to_owned(), from.join(" "), got["force"] == true)
        };
        let is = |line: &str, from: &str, force| (line.to_owned(), from.to_owned(), force);
        assert_eq!(get("get abcd"), is("abcd", "", false));
        assert_eq!(get("req abcd to here"), is("abcd to here", "", false));
        assert_eq!(get("peerkit get abcd"), is("abcd", "", false));
        assert_eq!(get("get --force abcd to here"), is("abcd to here", "", true));
        assert_eq!(get("get abcd 'to here' --force"), is("abcd 'to here'", "", true));
        assert_eq!(get("get --from a:1 abcd --from b:2"), is("abcd", "a:1 b:2", false));
        assert_eq!(get("get abcd \"--force\""), is("abcd \"--force\"", "", false));
        assert!(error("get abcd --from").contains("ADDR after `--from`"));
        assert!(error("get abcd --quickly").contains("--quickly"));
        assert!(error("get --force").contains("needs TICKET|HASH|NAME"));
    }

    #[test]
    fn a_broadcast_may_have_a_title() {
        let is = |title: &str, text: &str| json!({"title": title, "text": text});
        assert_eq!(parsed("broadcast to  all"), is("", "to  all"));
        assert_eq!(parsed("broadcast --title News to  all"), is("News", "to  all"));
        assert_eq!(parsed("broadcast --title 'Good news' --all"), is("Good news", "--all"));
        assert_eq!(parsed("broadcast --title=News 'x'"), is("News", "'x'"));
        assert_eq!(parsed("broadcast --title '' --title"), is("", "--title"));
        assert_eq!(parsed("broadcast all --title x"), is("", "all --title x"));
        assert!(error("broadcast --title").contains("a value after `--title`"));
        assert!(error("broadcast --title News").contains("needs TEXT"));
    }

    #[test]
    fn a_search_in_quotes_is_for_the_text_between_them() {
        let search = |text: &str| json!({"text": text});
        assert_eq!(parsed("search \"my film\""), search("my film"));
        assert_eq!(parsed("search 'it is' so"), search("'it is' so"));
        assert_eq!(parsed("search a  b*"), search("a  b*"));
        assert_eq!(parsed("search don't"), search("don't"));
    }

    #[test]
    fn files_are_those_of_all_shares_or_of_one() {
        assert_eq!(parsed("files"), json!({}));
        assert_eq!(parsed("files my music"), json!({"share": "my music"}));
        for line in ["files 'my music' --skip 1000", "files --skip 1000 my music"] {
            assert_eq!(parsed(line), json!({"share": "my music", "skip": 1000}));
        }
        assert!(error("files a --skip x").contains("`x`"));
    }

    #[test]
    fn a_share_is_for_all_for_some_or_for_those_with_the_ticket() {
        let add = |line: &str| {
            let added = parsed(line);
            (added["to"].clone(), added["ticket"].clone())
        };
        assert_eq!(add("add my file --ticket"), (json!([]), json!(true)));
        assert_eq!(add("add --ticket 'my file'"), (json!([]), json!(true)));
        assert_eq!(add("add my file --to ann bob"), (json!(["ann", "bob"]), json!(false)));
        assert_eq!(add("add --to ann my file"), (json!(["ann"]), json!(false)));
        assert!(error("add --ticket").contains("needs PATH"));
        assert!(error("add x --to").contains("NODE after `--to`"));
        assert!(error("add x --to ann --ticket").contains("not both"));
    }

    #[test]
    fn a_download_may_be_given_by_its_name() {
        let pause = |name: &str| json!({"download": name});
        assert_eq!(parsed("pause abcd"), pause("abcd"));
        assert_eq!(parsed("pause my film.mkv "), pause("my film.mkv"));
        assert_eq!(parsed("pause ' a'"), pause(" a"));
        assert!(error("cancel").contains("needs HASH: cancel HASH"));
    }

    #[test]
    fn an_address_is_a_host_a_port_or_both_or_a_name() {
        let connect = |line: &str| parsed(&format!("connect {line}"))["address"].clone();
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
        for line in ["connect a:1 --reconnect", "connect --reconnect a 1"] {
            assert_eq!(parsed(line), json!({"address": "a:1", "reconnect": true}));
        }
        assert_eq!(parsed("join a:1 b 2 c d")["addresses"], json!(["a:1", "b:2", "c", "d"]));
        assert_eq!(parsed("join")["addresses"], json!([]));
        assert!(error("connect").contains("needs ADDR"));
        assert!(error("connect a:1 --now").contains("--now"));
    }

    #[test]
    fn a_depth_is_at_least_minus_one() {
        assert_eq!(parsed("discover"), json!({"depth": -1}));
        assert_eq!(parsed("discover 3"), json!({"depth": 3}));
        for wrong in ["discover -2", "discover x", "discover 1 2"] {
            assert_eq!(read(wrong).err().unwrap().command, "discover");
        }
    }

    #[test]
    fn every_name_of_a_command_selects_it() {
        for spec in COMMANDS {
            for name in spec.names() {
                assert_eq!(lookup::find_command(name).unwrap().name, spec.name);
            }
            assert!(!spec.summary().is_empty(), "{}", spec.name);
            assert!(usage(spec).starts_with(spec.name));
            spec.clap().debug_assert();
        }
    }

    #[test]
    fn settings_have_a_name_and_a_value() {
        assert_eq!(parsed("set"), json!({}));
        assert_eq!(parsed("set up 2k"), json!({"name": "up", "value": "2k"}));
        let folder = std::env::current_dir().unwrap().join("a folder");
        for line in ["set downloads a folder", "set downloads 'a folder'"] {
            assert_eq!(parsed(line), json!({"name": "downloads", "value": folder}));
        }
    }

    #[test]
    fn nothing_and_nonsense() {
        assert!(read("").unwrap().is_none());
        assert!(read("  \t").unwrap().is_none());
        assert!(error("serach x").contains("search"));
        assert_eq!(read("frobnicate").err().unwrap().command, "frobnicate");
        assert!(error(&"x".repeat(1000)).len() < 300);
        assert!(error("peers now").contains("`now`"));
        assert!(error("debug maybe").contains("on or off"));
    }

    proptest! {
        #[test]
        fn any_line_is_a_command_or_an_error(line in "\\PC{0,60}", name in 0..COMMANDS.len()) {
            let _ = read(&line);
            let _ = read(&format!("{} {line}", COMMANDS[name].name));
        }
    }
}
