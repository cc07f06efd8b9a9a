//! Look-up of commands by their names, with a suggestion for a word that is none.

use super::{COMMANDS, CommandSpec};
use crate::fetch_arguments::TICKET_START;

/// Returns the command with this name or alias.
pub(crate) fn find_command(name: &str) -> Option<&'static CommandSpec> {
    COMMANDS.iter().find(|entry| entry.names().any(|known| known == name))
}

/// Words of other programs, each group with a hint to the command that does the same.
const FOREIGN_WORDS: &[(&[&str], &str)] = &[
    (&["receive", "recv", "download", "fetch", "pull"], "`get TICKET` fetches a file or folder"),
    (
        &["share", "upload", "serve", "put", "offer", "publish"],
        "`add PATH` shares a file or folder",
    ),
    (
        &["run", "start", "dial"],
        "this node already runs: `join ADDR` joins the network of another node",
    ),
    (&["list", "ls", "nodes", "who", "users"], "`peers` lists nodes, `files` lists shares"),
    (&["say", "chat", "tell", "write", "message"], "`msg TEXT` sends to every connected node"),
    (&["find", "locate"], "`search TEXT` finds files"),
    (&["kill", "close"], "`exit` stops this node, `disconnect PEER` closes a link"),
    (&["whoami", "id", "info", "address", "addr"], "`status` shows this node"),
    (&["diagnose", "check"], "`doctor [ADDR]` finds out why a node can't be reached"),
    (&["version"], "`peerkit --version` in a shell prints the version"),
    (&["clear", "cls"], "Ctrl-L clears the screen"),
];

/// Returns the error for a word that is not a command, with a suggestion.
pub(crate) fn unknown_command(word: &str) -> String {
    let is_listed = |(words, _): &&(&[&str], &str)| words.contains(&word);
    if let Some((_, hint)) = FOREIGN_WORDS.iter().find(is_listed) {
        return format!("`{word}` is not a command here: {hint}");
    }
    let is_ticket = word.to_ascii_lowercase().starts_with(TICKET_START);
    if is_ticket || word.parse::<peerkit::Hash>().is_ok() {
        return "this is not a command: type `get` before it to fetch the file".to_owned();
    }
    let lower = word.to_ascii_lowercase();
    if lower != word && find_command(&lower).is_some() {
        return format!("commands are written in lower case: `{lower}`");
    }
    match nearest(word, COMMANDS.iter().flat_map(CommandSpec::names)) {
        Some(name) => format!("`{word}` is not a command: did you mean `{name}`?"),
        None => format!("`{word}` is not a command: `help` lists them"),
    }
}

/// Returns the name that was most likely meant by a word with a typing error, if there is one.
pub(crate) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Damerau's distance counts two swapped letters as one error.
    let (distance, name) =
        names.map(|name| (strsim::damerau_levenshtein(word, name), name)).min()?;
    // A typing error is likely: one, and one more for every four letters of the name.
    (distance <= 1 + name.len() / 4).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn names_are_found_and_near_ones_suggested() {
        assert_eq!(find_command("req").unwrap().name, "get");
        assert_eq!(find_command("quit").unwrap().name, "exit");
        assert!(find_command("connec").is_none());
        assert!(unknown_command("conect").contains("`connect`"));
        assert!(unknown_command("brodcast").contains("`broadcast`"));
        assert!(unknown_command("xyzzy").contains("`help`"));
        assert!(unknown_command("receive").contains("`get TICKET`"));
        assert!(unknown_command("share").contains("`add PATH`"));
        assert!(unknown_command("peerkit1abc").contains("`get`"));
        for word in FOREIGN_WORDS.iter().flat_map(|(words, _)| *words) {
            assert!(find_command(word).is_none(), "{word} is a command");
        }
    }

    /// Collects the error texts in the sources of the libraries.
    fn error_texts(folder: &Path, texts: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                error_texts(&path, texts);
                continue;
            }
            let source = fs::read_to_string(&path).unwrap();
            let errors = source.split("#[error(").skip(1);
            texts.extend(errors.filter_map(|rest| Some(rest.split_once(")]")?.0.to_owned())));
        }
    }

    #[test]
    fn errors_of_the_libraries_name_no_commands_and_no_options() {
        let mut texts = Vec::new();
        for library in ["../node/src", "../proto/src"] {
            error_texts(&Path::new(env!("CARGO_MANIFEST_DIR")).join(library), &mut texts);
        }
        assert!(texts.len() > 100, "{}", texts.len());
        let names = COMMANDS.iter().flat_map(CommandSpec::names);
        let names: Vec<_> =
            names.flat_map(|name| [format!("`{name}`"), format!("`{name} ")]).collect();
        for text in texts {
            assert!(!text.contains("--") && !text.contains("`peerkit"), "{text}");
            assert!(!names.iter().any(|name| text.contains(name)), "{text}");
        }
    }
}
