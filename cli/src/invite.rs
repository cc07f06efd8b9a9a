//! The invite of `peerkit run`, from `--invite-file`, PEERKIT_INVITE, or a question at the terminal.
//! An invite is a password, so it is no argument: other users can read a command line.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use peerkit::Invite;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Config, Editor};

use crate::args::RunArgs;
use crate::terminal::Terminal;
use crate::{signals, usage};

/// Maximum number of bytes read from an invite file. 64 KiB: eight times the longest invite.
const MAX_FILE: u64 = 64 << 10;

/// Environment variable with an invite.
const VARIABLE: &str = "PEERKIT_INVITE";

/// Returns the invite with which the node joins; `None` if none was given.
pub(crate) fn read(args: &RunArgs) -> anyhow::Result<Option<Invite>> {
    if let Some(file) = &args.invite_file {
        return parse(&read_file(file)?, &format!("the text in {}", describe(file))).map(Some);
    }
    if let Some(text) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) {
        return parse(&text.to_string_lossy(), VARIABLE).map(Some);
    }
    if !args.invite {
        return Ok(None);
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let error = "--invite asks for the invite at a terminal, and this is none: use --invite-file FILE \
                     or the variable PEERKIT_INVITE";
        return Err(usage(error));
    }
    ask().map(Some)
}

/// Reads an invite. Errors call the text `from`, and do not show it.
fn parse(text: &str, from: &str) -> anyhow::Result<Invite> {
    text.parse().map_err(|error| usage(format!("{from} can't be used: {error}")))
}

/// Returns the name of an invite file for errors: its path, or `standard input`.
fn describe(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

fn read_file(path: &Path) -> anyhow::Result<String> {
    // Reads at most `MAX_FILE` bytes, since the option may name a huge file by mistake.
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(MAX_FILE).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
    };
    read.with_context(|| format!("could not read the invite from {}", describe(path)))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Asks for an invite at the terminal until the user types one. The input is not kept in a history.
fn ask() -> anyhow::Result<Invite> {
    let _terminal = Terminal::save();
    let config = Config::builder().max_history_size(0)?.build();
    let mut editor: Editor<(), DefaultHistory> = Editor::with_config(config)?;
    loop {
        match editor.readline("Invite (as `invite` prints it): ") {
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => match parse(&line, "this") {
                Ok(invite) => return Ok(invite),
                Err(error) => writeln!(io::stderr(), "{error}")?,
            },
            Err(ReadlineError::Interrupted) => {
                signals::note_interrupt();
                bail!("stopped before the node was started");
            }
            Err(ReadlineError::Eof) => bail!("no invite was given, so no node was started"),
            Err(error) => return Err(error).context("could not read the invite"),
        }
    }
}
