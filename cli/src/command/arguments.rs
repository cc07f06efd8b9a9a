//! A reader of the arguments of a command.

use std::path::PathBuf;

use super::options::GivenOptions;
use super::{CommandSpec, NodeCommand};
use crate::fetch_arguments;
use crate::settings::{self, Setting};
use crate::shell_words::{self, ShellWord};

/// Reads the arguments of a command, from the start of its line to the end.
pub(super) struct ArgumentReader<'a> {
    pub(super) entry: &'a CommandSpec,
    pub(super) rest: &'a str,
    /// The options, which have been removed from `rest`.
    pub(super) options: GivenOptions,
}

impl ArgumentReader<'_> {
    /// Returns all remaining words.
    pub(super) fn words(&mut self) -> Vec<String> {
        let words = shell_words::words(self.rest).map(|word| word.text).collect();
        self.rest = "";
        words
    }

    /// Returns the next word, which `what` names in errors. A word in quotes may contain spaces.
    pub(super) fn word(&mut self, what: &str) -> Result<String, String> {
        match shell_words::words(self.rest).next() {
            Some(ShellWord { open: true, .. }) => Err(self.usage_error("needs a closing quote")),
            Some(word) if !word.text.is_empty() => {
                let rest = self.rest.get(word.end..).unwrap_or_default();
                self.rest = rest.strip_prefix(char::is_whitespace).unwrap_or(rest);
                Ok(word.text)
            }
            _ => Err(self.usage_error(&format!("needs {what}"))),
        }
    }

    /// Returns the next word, which has to be the last.
    pub(super) fn last_word(&mut self, what: &str) -> Result<String, String> {
        let word = self.word(what)?;
        if self.rest.trim().is_empty() {
            Ok(word)
        } else {
            Err(self.usage_error(&format!("takes {what} and nothing more")))
        }
    }

    /// Returns `command` if no argument is left.
    pub(super) fn end(&self, command: NodeCommand) -> Result<NodeCommand, String> {
        if self.rest.trim().is_empty() {
            return Ok(command);
        }
        Err(self.usage_error("takes no arguments"))
    }

    /// Returns the next word, which has to be the last; `None` if there is none.
    pub(super) fn last_word_if_any(&mut self) -> Result<Option<String>, String> {
        if self.rest.trim().is_empty() {
            return Ok(None);
        }
        self.last_word("one word").map(Some)
    }

    /// Returns the rest of the line as one name, which may contain spaces, with or without quotes.
    pub(super) fn name(&mut self, what: &str) -> Result<String, String> {
        let rest = std::mem::take(&mut self.rest);
        let name = fetch_arguments::name(rest, "name").map_err(|error| self.usage_error(&error))?;
        let name = name.filter(|name| !name.is_empty());
        name.ok_or_else(|| self.usage_error(&format!("needs {what}")))
    }

    /// Returns the rest of the line as one name; `None` if it is empty.
    pub(super) fn name_if_any(&mut self) -> Result<Option<String>, String> {
        if self.rest.trim().is_empty() {
            return Ok(None);
        }
        self.name("a name").map(Some)
    }

    /// Returns the rest of the line unchanged, as a text.
    pub(super) fn text(&mut self) -> Result<String, String> {
        self.rest_of_line("a text")
    }

    /// Returns the rest of the line unchanged. `what` names it in the error if it is empty.
    pub(super) fn rest_of_line(&mut self, what: &str) -> Result<String, String> {
        if self.rest.trim().is_empty() {
            return Err(self.usage_error(&format!("needs {what}")));
        }
        Ok(std::mem::take(&mut self.rest).to_owned())
    }

    /// Returns the rest of the line as a search text. Quotes around the whole text are removed.
    pub(super) fn search_text(&mut self) -> Result<String, String> {
        let text = self.text()?;
        let text = text.trim();
        let mut words = shell_words::words(text);
        let is_quoted = text.starts_with(['"', '\'']);
        Ok(match (words.next(), words.next()) {
            (Some(word), None) if is_quoted && !word.open => word.text,
            _ => text.to_owned(),
        })
    }

    /// Takes the title from the start of a broadcast. Returns an empty title if there is none.
    pub(super) fn title(&mut self) -> Result<String, String> {
        let Some(first) = shell_words::words(self.rest).next() else { return Ok(String::new()) };
        if first.text == "--title" && !first.quoted {
            self.word("an option")?;
            return match shell_words::words(self.rest).next() {
                // `word` refuses an empty word, but an empty title is valid.
                Some(word) if word.text.is_empty() => {
                    let rest = self.rest.get(word.end..).unwrap_or_default();
                    self.rest = rest.strip_prefix(char::is_whitespace).unwrap_or(rest);
                    Ok(String::new())
                }
                _ => self.word("a title after `--title`"),
            };
        }
        match first.text.strip_prefix("--title=") {
            Some(title) if first.begins_with_bare(self.rest, '-') => {
                self.word("an option")?;
                Ok(title.to_owned())
            }
            _ => Ok(String::new()),
        }
    }

    /// Returns the rest of the line as a path. It may contain spaces, with or without quotes, and may
    /// begin with `~/`.
    pub(super) fn path(&mut self) -> Result<Option<PathBuf>, String> {
        let rest = std::mem::take(&mut self.rest);
        fetch_arguments::path(rest).map_err(|error| self.usage_error(&error))
    }

    /// Returns a setting and its new value; `None` if the rest of the line is empty.
    pub(super) fn setting(&mut self) -> Result<Option<Setting>, String> {
        if self.rest.trim().is_empty() {
            return Ok(None);
        }
        let name = self.word("the name of a setting")?;
        if name == settings::DOWNLOADS {
            let folder =
                self.path()?.ok_or_else(|| self.usage_error("downloads needs a folder"))?;
            return Ok(Some(Setting::Downloads(folder)));
        }
        settings::check_name(&name).map_err(|error| self.usage_error(&error))?;
        let value = self.last_word(&format!("a value for `{name}`"))?;
        Setting::rate(&name, &value).map(Some).map_err(|error| self.usage_error(&error))
    }

    /// Returns the depth of a discovery; -1 for the whole network.
    pub(super) fn depth(&mut self) -> Result<i32, String> {
        let Some(word) = self.last_word_if_any()? else {
            return Ok(-1);
        };
        let depth = word.parse().ok().filter(|depth| *depth >= -1);
        depth.ok_or_else(|| {
            self.usage_error(
                "takes a depth: 1 for neighbours, n for n hops, -1 for the whole network",
            )
        })
    }

    /// Returns an error about the command, which ends with its usage.
    pub(super) fn usage_error(&self, what: &str) -> String {
        format!("{} {what}: {}", self.entry.name(), self.entry.usage)
    }
}
