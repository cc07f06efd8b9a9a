//! Suggestions for a first word that is not a subcommand, such as a word of another program, a
//! command of the prompt, a file or a ticket.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::process;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Invocation;
use crate::commands::lookup;
use crate::text::{Paint, plain};
use crate::{FAILED, USAGE, address, fetch_arguments, shell_words};

/// Words of other programs, each group with a hint to the subcommand that does the same.
const FOREIGN_WORDS: &[(&[&str], &str)] = &[
    (
        &["receive", "recv", "download", "fetch", "pull", "req"],
        "`peerkit get TICKET` fetches a file or folder",
    ),
    (
        &["upload", "serve", "put", "offer", "publish"],
        "`peerkit share PATH` shares a file or folder, and prints the command that fetches it",
    ),
    (
        &["start", "node", "listen", "daemon", "server", "up", "chat", "console", "repl"],
        "`peerkit run` starts a node",
    ),
    (&["dial"], "`peerkit run ADDR` starts a node, and joins the network of the node at ADDR"),
    (&["simulate", "simulator", "simulation"], "`peerkit sim FILE` runs a scenario"),
    (&["test", "example", "tutorial", "try"], "`peerkit demo` shows everything at work"),
    (
        &["list", "ls", "nodes", "who", "users"],
        "`peerkit peers` lists nodes, `peerkit files` lists shares",
    ),
    (&["say", "tell", "write", "message"], "`peerkit msg TEXT` sends to every connected node"),
    (&["find", "locate"], "`peerkit search TEXT` finds files"),
    (&["kill", "close"], "`peerkit exit` stops the running node"),
    (&["info"], "`peerkit status` shows the running node"),
    (&["diagnose", "check"], "`peerkit doctor [ADDR]` finds out why a node can't be reached"),
    (&["whoami", "key", "identity"], "`peerkit id` prints this node's identity"),
    (&["manual", "manpage"], "`peerkit man` prints the manual page"),
    (&["completion", "complete"], "`peerkit completions SHELL` prints a completion script"),
];

/// Reads the command line. If it is wrong, prints the reason and ends the process.
pub(crate) fn parse() -> Invocation {
    match Invocation::read(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(error) => {
            // clap prints arguments unchanged. In `peerkit share *` they may be names of files from
            // other users, with characters that control a terminal. So they are escaped first.
            let shown = std::env::args_os().map(|argument| plain(&argument.to_string_lossy()));
            let error = Invocation::read(shown).err().unwrap_or(error);
            if let Some(hint) = hint(&error) {
                let error = Paint::on(&io::stderr()).bad("error:");
                let usage = super::program().render_usage();
                let _ = writeln!(io::stderr(), "{error} {hint}\n\n{usage}\n\n{MORE}");
                process::exit(USAGE);
            }
            // clap would ignore an error in writing help or the version.
            match error.print() {
                Err(why) if why.kind() != io::ErrorKind::BrokenPipe => {
                    let error = Paint::on(&io::stderr()).bad("error:");
                    let _ = writeln!(io::stderr(), "{error} could not write: {why}");
                    process::exit(FAILED)
                }
                _ => process::exit(error.exit_code()),
            }
        }
    }
}

const MORE: &str = "For more information, try 'peerkit --help'.";

fn hint(error: &clap::Error) -> Option<String> {
    let is_incomplete = error.kind() == ErrorKind::MissingRequiredArgument;
    let mut words = std::env::args_os().skip(1);
    if is_incomplete && words.next().is_some_and(|word| word == "send") {
        let path = words.next().filter(|path| Path::new(path).exists());
        let path = path.map(|path| shell_words::path(&path.to_string_lossy()));
        return Some(format!(
            "`peerkit send PEER TEXT` sends a text to a node of the network; `peerkit share {}` shares a file \
             or folder, and prints the command that fetches it",
            path.as_deref().unwrap_or("PATH")
        ));
    }
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    match error.get(ContextKind::InvalidSubcommand)? {
        ContextValue::String(word) => hint_for(word),
        _ => None,
    }
}

/// Returns a hint for a first word. Returns `None` if there is none.
fn hint_for(word: &str) -> Option<String> {
    let shown = plain(word);
    // Checked first: the other hints repeat the word, and a ticket may contain a secret.
    if let Ok(Some((content, _))) = fetch_arguments::recognise(&[word]) {
        return Some(match content {
            fetch_arguments::TicketOrHash::Ticket(_) => {
                "this is a ticket: `peerkit get TICKET` fetches its file".to_owned()
            }
            fetch_arguments::TicketOrHash::Hash(_) => {
                "this is a hash or an identity: `peerkit get HASH --from ADDR` fetches the file with \
                 this hash from the node at ADDR"
                    .to_owned()
            }
        });
    }
    if word.to_ascii_lowercase().starts_with(fetch_arguments::TICKET_START) {
        return Some(
            "this looks like a ticket that was cut short: copy the whole ticket, and type `peerkit \
             get TICKET`"
                .to_owned(),
        );
    }
    let lower = word.to_ascii_lowercase();
    if lower != word && super::program().find_subcommand(&lower).is_some() {
        return Some(format!("subcommands are written in lower case: `peerkit {lower}`"));
    }
    if address::looks_like_port(word) {
        return Some(format!(
            "`{shown}` is not a subcommand: `peerkit run --listen PORT` starts a node on a port, \
             and `peerkit run HOST PORT` joins the network of the node there"
        ));
    }
    let is_listed = |(words, _): &&(&[&str], &str)| words.contains(&lower.as_str());
    if let Some((_, hint)) = FOREIGN_WORDS.iter().find(is_listed) {
        return Some(format!("`{shown}` is not a subcommand: {hint}"));
    }
    if Path::new(word).exists() {
        let path = shell_words::path(word);
        return Some(format!(
            "`{shown}` is not a subcommand, but a file or folder: `peerkit share {path}` shares it"
        ));
    }
    if let Some(hint) = hint_for_typo(&lower) {
        return Some(format!("`{shown}` is not a subcommand{hint}"));
    }
    if word.contains(std::path::is_separator) || word.contains(['~', '\\']) {
        return Some(format!("`{shown}` is neither a subcommand nor an existing file"));
    }
    if word.contains([':', '@']) || lower == "localhost" || word.parse::<IpAddr>().is_ok() {
        return Some(format!(
            "`{shown}` is not a subcommand: `peerkit run ADDR` joins the network of the node at ADDR"
        ));
    }
    let is_file_name = word.contains(['.', ' ']);
    is_file_name.then(|| format!("`{shown}` is neither a subcommand nor a file in this folder"))
}

/// Returns the end of a hint for a word with a typing error.
fn hint_for_typo(word: &str) -> Option<String> {
    let program = super::program();
    let names = program
        .get_subcommands()
        .flat_map(|command| std::iter::once(command.get_name()).chain(command.get_all_aliases()));
    if let Some(name) = lookup::nearest(word, names) {
        return Some(format!(", but a similar command exists: `peerkit {name}`"));
    }
    let foreign = FOREIGN_WORDS.iter().flat_map(|(words, _)| words.iter().copied());
    let meant = lookup::nearest(word, foreign)?;
    let (_, hint) = FOREIGN_WORDS.iter().find(|(words, _)| words.contains(&meant))?;
    Some(format!(": {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newcomers_word_gets_the_right_hint() {
        for (word, hint) in [
            ("receive", "`peerkit get TICKET`"),
            ("upload", "`peerkit share PATH`"),
            ("dial", "`peerkit run ADDR`"),
            ("192.0.2.7:7117", "`peerkit run ADDR`"),
            ("192.0.2.7", "`peerkit run ADDR`"),
            ("::1", "`peerkit run ADDR`"),
            ("localhost", "`peerkit run ADDR`"),
            ("7117", "`peerkit run HOST PORT`"),
            ("RUN", "`peerkit run`"),
            ("Share", "`peerkit share`"),
            ("Send", "`peerkit send`"),
            ("PEERS", "`peerkit peers`"),
            ("no-such-file.zip", "nor a file"),
            ("/no/such/file", "nor an existing file"),
            ("Cargo.toml", "`peerkit share Cargo.toml`"),
            ("peerkit1abc", "cut short"),
        ] {
            let given = hint_for(word).unwrap();
            assert!(given.contains(hint), "{word}: {given}");
        }
        for (typed, meant) in [
            ("sned", ": `peerkit send`"),
            ("dmeo", ": `peerkit demo`"),
            ("peesr", ": `peerkit peers`"),
            ("Stauts", ": `peerkit status`"),
            ("recieve", "`peerkit get TICKET`"),
        ] {
            let given = hint_for(typed).unwrap();
            assert!(given.contains(meant) && given.starts_with(&format!("`{typed}`")), "{given}");
        }
        assert_eq!(hint_for("frobnicate"), None);
        let hash = "0a".repeat(32);
        assert!(hint_for(&hash).unwrap().contains("peerkit get HASH"));
        let names: Vec<String> = crate::args::program()
            .get_subcommands()
            .map(|command| command.get_name().to_owned())
            .collect();
        for word in FOREIGN_WORDS.iter().flat_map(|(words, _)| *words) {
            assert!(!names.contains(&(*word).to_owned()), "{word} is a subcommand");
        }
    }
}
