//! The list of commands in `docs/guide.md` is the one that the declarations give.
//!
//! `PEERKIT_WRITE_GUIDE=1 cargo test -p peerkit-cli guide` writes it.

use std::fs;
use std::path::{Path, PathBuf};

use super::{COMMANDS, CommandSpec, line};

/// The lines of the guide before and after the list.
const BEGIN: &str =
    "<!-- The list of commands: PEERKIT_WRITE_GUIDE=1 cargo test -p peerkit-cli guide -->";
const END: &str = "<!-- The end of the list of commands -->";

/// The environment variable with which the test writes the list.
const WRITE: &str = "PEERKIT_WRITE_GUIDE";

fn guide() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide.md")
}

/// Returns the row of a command: its usage with its aliases, and its summary.
fn row(spec: &CommandSpec) -> String {
    let aliases: Vec<String> = spec.aliases.iter().map(|alias| format!("`{alias}`")).collect();
    let also =
        if aliases.is_empty() { String::new() } else { format!(" ({})", aliases.join(", ")) };
    // A bar would end the cell, in code too.
    let usage = line::usage(spec).replace('|', "\\|");
    format!("| `{usage}`{also} | {} |\n", spec.summary())
}

/// Returns the list of commands as a table.
fn list() -> String {
    format!("\n| command | does |\n|---|---|\n{}\n", COMMANDS.iter().map(row).collect::<String>())
}

#[test]
fn the_list_of_commands_in_the_guide_is_made_from_the_declarations() {
    // Git may have checked out the file with the line ends of Windows.
    let text = fs::read_to_string(guide()).unwrap().replace("\r\n", "\n");
    let (before, rest) = text.split_once(&format!("{BEGIN}\n")).expect("the begin of the list");
    let (written, after) = rest.split_once(END).expect("the end of the list");
    let list = list();
    if std::env::var_os(WRITE).is_some() {
        fs::write(guide(), format!("{before}{BEGIN}\n{list}{END}{after}")).unwrap();
    } else {
        assert!(
            written == list,
            "{WRITE}=1 makes this test write the list into docs/guide.md:\n{list}"
        );
    }
}
