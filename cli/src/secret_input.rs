//! Secrets that a user gives apart from the command line, which other users of the machine can read: in a file, in
//! an environment variable, or as the answer to a question at the terminal.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Config, Editor};

use crate::signals;
use crate::terminal::{self, Terminal};

/// Maximum number of bytes read from a file. 64 KiB: eight times the longest ticket or invite.
const MAX_FILE: u64 = 64 << 10;

/// A kind of secret, with the texts about it.
pub(crate) struct SecretInput {
    /// The noun with its article, such as `a ticket`.
    pub(crate) noun: &'static str,
    /// The environment variable with such a secret.
    pub(crate) variable: &'static str,
    /// The question at the terminal.
    pub(crate) question: &'static str,
    /// The error if the user presses Ctrl-C at the question.
    pub(crate) interrupted: &'static str,
    /// The error if the input ends without an answer.
    pub(crate) missing: &'static str,
}

impl SecretInput {
    /// Reads the text of a file, or of standard input if the path is `-`. Also returns the name of the text for
    /// errors, which do not show it.
    pub(crate) fn read_file(&self, path: &Path) -> anyhow::Result<(String, String)> {
        let is_stdin = path == Path::new("-");
        let name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
        // Reads at most `MAX_FILE` bytes, since the option may name a huge file by mistake.
        let mut bytes = Vec::new();
        let read = if is_stdin {
            io::stdin().lock().take(MAX_FILE).read_to_end(&mut bytes)
        } else {
            File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        };
        read.with_context(|| format!("could not read {} from {name}", self.definite()))?;
        Ok((String::from_utf8_lossy(&bytes).into_owned(), format!("the text in {name}")))
    }

    /// Returns the text of the environment variable, unless it is unset or empty.
    pub(crate) fn read_variable(&self) -> Option<String> {
        let text = std::env::var_os(self.variable).filter(|text| !text.is_empty())?;
        Some(text.to_string_lossy().into_owned())
    }

    /// Asks at the terminal until `parse` accepts the answer. The input is not kept in a history.
    pub(crate) fn ask<T>(&self, parse: impl Fn(&str) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let _terminal = Terminal::save();
        let config = Config::builder().max_history_size(0)?.build();
        let mut editor: Editor<(), DefaultHistory> = Editor::with_config(config)?;
        loop {
            match editor.readline(self.question) {
                Ok(line) if line.trim().is_empty() => {}
                Ok(line) => match parse(&line) {
                    Ok(parsed) => return Ok(parsed),
                    Err(error) => writeln!(io::stderr(), "{error}")?,
                },
                Err(ReadlineError::Interrupted) => {
                    signals::note_interrupt();
                    bail!(self.interrupted);
                }
                Err(ReadlineError::Eof) => bail!(self.missing),
                Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    terminal::discard_input();
                    writeln!(io::stderr(), "this is not UTF-8, so it is not {}", self.noun)?;
                }
                Err(error) => {
                    let what = format!("could not read {}", self.definite());
                    return Err(error).context(what);
                }
            }
        }
    }

    /// Returns the noun with the definite article.
    fn definite(&self) -> String {
        let (_, noun) = self.noun.split_once(' ').unwrap_or(("", self.noun));
        format!("the {noun}")
    }
}

/// Returns whether a question can be asked: standard input and standard error are a terminal.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}
