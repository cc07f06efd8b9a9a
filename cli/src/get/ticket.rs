//! The ticket of `peerkit get`, from the command line, `--ticket-file`, PEERKIT_TICKET, or a
//! question at the terminal. A ticket with a secret is a password, and other users can read a
//! command line.

use std::ffi::OsStr;
use std::path::PathBuf;

use crate::args::GetArgs;
use crate::fetch_arguments::{self, TicketOrHash};
use crate::secret_input::{SecretInput, can_ask};
use crate::usage;

const INPUT: SecretInput = SecretInput {
    noun: "a ticket",
    variable: "PEERKIT_TICKET",
    question: "Ticket (as `peerkit share` prints it): ",
    interrupted: super::STOPPED_BEFORE_FETCH,
    missing: "no ticket was given, so nothing was fetched",
};

const NOT_A_TICKET: &str =
    "neither a ticket, which begins with peerkit1, nor a hash of 64 hex digits";

/// Returns the content to fetch and the path to write it to.
pub(super) fn read(args: &GetArgs) -> anyhow::Result<(TicketOrHash, Option<PathBuf>)> {
    let words: Vec<&OsStr> = args.words().collect();
    if let Some(file) = &args.ticket_file {
        let (text, from) = INPUT.read_file(file)?;
        return Ok((parse_whole(&text, &from)?, path(&words)?));
    }
    let texts: Vec<&str> = words.iter().map_while(|word| word.to_str()).collect();
    // The whole line as one argument: `peerkit get "peerkit get TICKET"`.
    if let Some(line) = texts.first().filter(|text| text.trim_start().starts_with("peerkit ")) {
        return Ok((parse_whole(line, "this")?, path(words.get(1..).unwrap_or_default())?));
    }
    let command = count_command_words(&texts);
    match fetch_arguments::recognise(texts.get(command..).unwrap_or_default()) {
        Ok(Some((content, word_count))) => {
            return Ok((content, path(words.get(command + word_count..).unwrap_or_default())?));
        }
        Ok(None) => {}
        Err(error) => return Err(usage(error.to_string())),
    }
    if let Some(text) = INPUT.read_variable() {
        return Ok((parse_whole(&text, INPUT.variable)?, path(&words)?));
    }
    let is_destination = match &words[..] {
        [] => true,
        // A word that is not UTF-8 is no ticket, but may be a path.
        [only] => only.to_str().is_none_or(fetch_arguments::is_destination),
        _ => false,
    };
    if !is_destination {
        let word = words.first().unwrap_or(&OsStr::new("")).to_string_lossy().into_owned();
        let advice = fetch_arguments::cut_hash(&word).map(|advice| format!(": {advice}"));
        let word = fetch_arguments::shorten_word(&word);
        return Err(usage(format!("`{word}` is {NOT_A_TICKET}{}", advice.unwrap_or_default())));
    }
    if !can_ask() {
        let error = "a ticket is missing: give it as `peerkit get TICKET`, with --ticket-file FILE, \
                     or in the variable PEERKIT_TICKET";
        return Err(usage(error));
    }
    Ok((INPUT.ask(|line| parse_whole(line, "this"))?, path(&words)?))
}

/// Returns the number of words before the ticket in the command that `peerkit share` prints.
fn count_command_words(words: &[&str]) -> usize {
    match words {
        ["peerkit", "get", ..] => 2,
        ["get", ..] => 1,
        _ => 0,
    }
}

/// Reads a text that is only a ticket or a hash, or the command that fetches it. Errors call the
/// text `from`.
fn parse_whole(text: &str, from: &str) -> anyhow::Result<TicketOrHash> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let words = words.get(count_command_words(&words)..).unwrap_or_default();
    match fetch_arguments::recognise(words) {
        Ok(Some((content, word_count))) if word_count == words.len() => Ok(content),
        Ok(Some(_)) => Err(usage(format!("{from} holds more than one ticket or hash"))),
        Ok(None) => Err(usage(format!("{from} is {NOT_A_TICKET}"))),
        Err(error) => Err(usage(format!("{from}: {error}"))),
    }
}

/// Returns the path that the remaining words are: none or one.
fn path(words: &[&OsStr]) -> anyhow::Result<Option<PathBuf>> {
    match words {
        [] => Ok(None),
        [path] if path.is_empty() => Err(usage("the PATH is empty")),
        [path] if path.to_str().is_some_and(fetch_arguments::is_ticket_or_hash) => {
            Err(usage(fetch_arguments::SECOND_TICKET))
        }
        [path] => Ok(Some(PathBuf::from(path))),
        [_, second, ..] => {
            let second = second.to_string_lossy();
            let second = fetch_arguments::shorten_word(&second);
            Err(usage(format!("only one PATH can be given, and `{second}` is a second one")))
        }
    }
}
