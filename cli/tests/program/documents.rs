//! The files, commands, options and types that documents name exist. The steps of the demo that
//! documents show are those that the demo prints.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{peerkit, run, text};

/// Names in documents that belong to other systems or to examples.
const FOREIGN: &[&str] = &[
    "App",
    "ConnectToNodes",
    "KernelConnection",
    "Manager",
    "NodeConnection",
    "Origin",
    "Pinger",
    "SplitConnection",
    "TcpServerNode",
    "dangerous_into_kernel_connection",
    "exporter",
];

/// Files of other projects, and one that the demo shares.
const FOREIGN_FILES: &[&str] =
    &["TcpServerNode.py", "commands.py", "holiday/notes/deep/er/still.md"];

/// Options of rsync.
const FOREIGN_OPTIONS: &[&str] = &["--inplace", "--recursive", "--whole-file"];

/// Folders that are not part of the sources.
const MADE: &[&str] = &["target", ".git"];

/// A piece of code in a document: a word or line in backquotes, or a line of a block.
struct Code {
    document: String,
    text: String,
    is_inline: bool,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Adds the paths of the files and folders below `folder`, relative to the root, with `/` between
/// their parts.
fn walk(folder: &Path, above: &str, entries: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if MADE.contains(&name.as_str()) {
            continue;
        }
        let path = format!("{above}{name}");
        if entry.path().is_dir() {
            walk(&entry.path(), &format!("{path}/"), entries);
        }
        entries.push(path);
    }
}

/// Returns all files and folders of the tree.
fn tree() -> Vec<String> {
    let mut entries = Vec::new();
    walk(&root(), "", &mut entries);
    entries
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Returns the code in all documents.
fn code(tree: &[String]) -> Vec<Code> {
    let documents = tree.iter().filter(|path| path.ends_with(".md"));
    documents.flat_map(|path| code_of(path, &read(path))).collect()
}

fn code_of(document: &str, text: &str) -> Vec<Code> {
    let piece = |text: &str, is_inline| Code {
        document: document.to_owned(),
        text: text.split_whitespace().collect::<Vec<_>>().join(" "),
        is_inline,
    };
    let mut pieces = Vec::new();
    let mut prose = String::new();
    let mut is_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
        } else if is_block {
            pieces.push(piece(line, false));
        } else {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    assert!(!is_block, "{document} has a block of code without an end");
    pieces.extend(prose.split('`').skip(1).step_by(2).map(|text| piece(text, true)));
    pieces
}

/// Returns the words of a text. A word consists of ASCII letters, digits, `_` and the characters
/// `others`.
fn words<'a>(text: &'a str, others: &'a [char]) -> impl Iterator<Item = &'a str> {
    let is_part = move |c: char| c.is_ascii_alphanumeric() || c == '_' || others.contains(&c);
    text.split(move |c: char| !is_part(c)).filter(|word| !word.is_empty())
}

fn assert_none(what: &str, unknown: BTreeSet<String>) {
    let unknown: Vec<String> = unknown.into_iter().collect();
    assert!(unknown.is_empty(), "documents name {what} that do not exist:\n{}", unknown.join("\n"));
}

/// Returns whether a word looks like the path of a file or folder of the tree.
fn is_path(word: &str, tree: &[String]) -> bool {
    let is_source = word.ends_with(".rs") || word.ends_with(".md") || word.ends_with(".py");
    let first = word.split('/').next().unwrap_or_default();
    let is_below = word.contains('/') && tree.iter().any(|entry| entry == first);
    (is_source && word.len() > 3)
        || (is_below && !word.starts_with('.'))
        || word.starts_with(".ci/")
}

/// Returns whether the tree has a path that ends with `path`. In `path`, `*` and a last word in
/// capitals, such as the `N` of `state-N`, stand for any text.
fn exists(path: &str, tree: &[String]) -> bool {
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    tree.iter().any(|entry| {
        let entry: Vec<&str> = entry.split('/').collect();
        let Some(start) = entry.len().checked_sub(parts.len()) else { return false };
        entry[start..].iter().zip(&parts).all(|(name, part)| fits(name, part))
    })
}

fn fits(name: &str, part: &str) -> bool {
    let end = part.rsplit(['-', '_']).next().unwrap_or_default();
    let is_any = end.chars().all(|c| c.is_ascii_uppercase()) && !end.is_empty();
    match part.split_once('*') {
        Some((before, after)) => name.starts_with(before) && name.ends_with(after),
        None if is_any => name.starts_with(part.strip_suffix(end).unwrap_or_default()),
        None => name == part,
    }
}

#[test]
fn files_named_in_documents_exist() {
    let tree = tree();
    let mut unknown = BTreeSet::new();
    for piece in code(&tree) {
        for word in words(&piece.text, &['.', '/', '-', '*']) {
            let word = word.trim_end_matches('.');
            let is_foreign = FOREIGN_FILES.contains(&word) || !is_path(word, &tree);
            if !is_foreign && !exists(word, &tree) {
                unknown.insert(format!("{}: {word}", piece.document));
            }
        }
    }
    assert_none("files", unknown);
}

/// Returns the standard output of `peerkit` with these arguments.
fn output(arguments: &[&str], input: &str) -> String {
    let home = tempfile::tempdir().unwrap();
    let mut command = peerkit(home.path());
    command.env_remove("CLICOLOR_FORCE").env("NO_COLOR", "1").args(arguments);
    text(&run(command, input).stdout).to_owned()
}

/// Returns the names of the subcommands: the first words of the lines below `Commands:`.
fn subcommands() -> Vec<String> {
    let help = output(&["--help"], "");
    let lines = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let lines = lines.take_while(|line| line.starts_with("  "));
    let names = lines.filter(|line| !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Returns the names of the commands of a running node: the first words of the lines that `help`
/// prints.
fn commands() -> Vec<String> {
    let help = output(&["run", "--listen", "127.0.0.1:0", "--manual"], "help\n");
    let lines = help.lines().skip_while(|line| !line.starts_with("  connect"));
    let lines = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = lines.filter_map(|line| line.split_whitespace().next());
    names.map(str::to_owned).chain(["req", "stop", "quit"].map(str::to_owned)).collect()
}

#[test]
fn commands_named_in_documents_exist() {
    let (subcommands, commands) = (subcommands(), commands());
    assert!(subcommands.len() > 7 && commands.len() > 30, "{subcommands:?} {commands:?}");
    let is_word = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase());
    let mut unknown = BTreeSet::new();
    for piece in code(&tree()) {
        let line = piece.text.trim_start_matches("$ ");
        let words: Vec<&str> = line.split(' ').collect();
        let after = words.iter().position(|word| *word == "peerkit");
        let is_program = after == Some(0) || words.first() == Some(&"echo");
        if let Some(name) = after.and_then(|at| words.get(at + 1)).copied().filter(is_word)
            && is_program
            && !commands.iter().chain(&subcommands).any(|known| known == name)
        {
            unknown.insert(format!("{}: peerkit {name}", piece.document));
        }
        // A command as `help` shows it: `send PEER TEXT`.
        let is_usage = piece.is_inline
            && words.get(1).is_some_and(|word| {
                let word = word.trim_matches(['[', ']', '.', '|']);
                word.len() > 2 && word.chars().all(|c| c.is_ascii_uppercase())
            });
        // `peerkit COMMAND` stands for all of them.
        if let Some(name) = words.first().copied().filter(is_word)
            && is_usage
            && name != "peerkit"
            && !commands.iter().chain(&subcommands).any(|known| known == name)
        {
            unknown.insert(format!("{}: {line}", piece.document));
        }
    }
    assert_none("commands", unknown);
}

#[test]
fn the_guide_has_every_command() {
    let guide = code_of("docs/guide.md", &read("docs/guide.md"));
    let names = |piece: &Code| piece.text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let inline: Vec<Vec<String>> = guide.iter().filter(|code| code.is_inline).map(names).collect();
    for name in &commands() {
        assert!(inline.iter().any(|words| words[0] == *name), "docs/guide.md has no `{name}`");
    }
    // `help` explains itself, and the commands of a running node are subcommands by the same names.
    let commands = commands();
    let own = |name: &&String| *name != "help" && !commands.contains(name);
    for name in subcommands().iter().filter(own) {
        let is_there = |words: &Vec<String>| words[0] == "peerkit" && words.get(1) == Some(name);
        assert!(inline.iter().any(is_there), "docs/guide.md has no `peerkit {name}`");
    }
}

#[test]
fn options_named_in_documents_exist() {
    let tree = tree();
    let mut known = String::new();
    for name in subcommands() {
        known.push_str(&output(&[&name, "--help"], ""));
    }
    let help: String = commands().iter().map(|name| format!("help {name}\n")).collect();
    known.push_str(&output(&["run", "--listen", "127.0.0.1:0", "--manual"], &help));
    // Options in the script of CI exist, since CI would fail otherwise. The scripts of the lab read theirs.
    for script in [".ci/run", "tests/lab/lab", "tests/lab/matrix"] {
        known.push_str(&read(script));
    }
    let bench = tree.iter().filter(|path| path.starts_with("bench/") && !path.ends_with(".md"));
    let bench: String = bench.filter(|path| path.ends_with(".rs")).map(|path| read(path)).collect();
    let known: BTreeSet<&str> = words(&known, &['-']).collect();
    let fields: BTreeSet<&str> = words(&bench, &['-']).collect();
    let mut unknown = BTreeSet::new();
    for piece in code(&tree) {
        let is_cargo = piece.text.trim_start_matches("$ ").starts_with("cargo ");
        for option in words(&piece.text, &['-']).filter(|word| word.starts_with("--")) {
            let name = option.trim_start_matches('-');
            let is_foreign = is_cargo || FOREIGN_OPTIONS.contains(&option);
            let is_of_bench = fields.contains(name.replace('-', "_").as_str());
            if !name.is_empty() && !known.contains(option) && !is_of_bench && !is_foreign {
                unknown.insert(format!("{}: {option}", piece.document));
            }
        }
    }
    assert_none("options", unknown);
}

#[test]
fn types_named_in_documents_exist() {
    let tree = tree();
    let sources = tree.iter().filter(|path| path.ends_with(".rs"));
    let sources: String = sources
        .flat_map(|path| read(path).lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let known: BTreeSet<&str> = words(&sources, &[]).collect();
    let is_type = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.contains(|c: char| c.is_ascii_lowercase())
    };
    let mut unknown = BTreeSet::new();
    for piece in code(&tree).into_iter().filter(|piece| piece.is_inline) {
        // Every part of a path such as `Node::fetch` has to exist, otherwise only words that are
        // written like types.
        for path in words(&piece.text, &[':']) {
            for word in words(path, &[]) {
                let is_name = path.contains("::") || is_type(word);
                if is_name && !known.contains(word) && !FOREIGN.contains(&word) {
                    unknown.insert(format!("{}: {word}", piece.document));
                }
            }
        }
    }
    assert_none("types", unknown);
}

/// Returns the steps of a demo, without the parts that differ from run to run. The line of a step ends with
/// its time in brackets, other than that of a check of `doctor`.
fn steps(printed: &str) -> Vec<String> {
    let lines = printed.lines().filter(|line| line.starts_with('✓') && line.ends_with(']'));
    lines.map(|line| without_figures(line.split(" [").next().unwrap_or_default())).collect()
}

/// Puts `#` in place of each number with its unit, each name of a node, and the words about a link.
fn without_figures(line: &str) -> String {
    const UNITS: [&str; 8] = ["µs", "ms", "s", "B", "KiB", "MiB", "GiB", "MiB/s"];
    const NODES: [&str; 8] = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"];
    let line =
        line.replace("with no link between them", "#").replace("over the link between them", "#");
    let mut shown: Vec<&str> = Vec::new();
    for word in line.split_whitespace() {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        let is_number = bare.starts_with(|c: char| c.is_ascii_digit());
        let is_unit = UNITS.contains(&bare) && shown.last() == Some(&"#");
        if is_number || NODES.contains(&bare) {
            shown.push("#");
        } else if !is_unit {
            shown.push(word);
        }
    }
    shown.join(" ")
}

#[test]
fn steps_of_the_demo_in_documents_are_those_it_prints() {
    let printed = steps(&output(&["demo"], ""));
    assert_eq!(printed.len(), 11, "{printed:#?}");
    let mut is_shown = false;
    for document in tree().iter().filter(|path| path.ends_with(".md")) {
        // A document may leave out steps. The others have to be the same, in the same order.
        let mut left = printed.iter();
        for step in steps(&read(document)) {
            assert!(left.any(|printed| *printed == step), "{document}: {step}\n{printed:#?}");
            is_shown = true;
        }
    }
    assert!(is_shown, "no document shows a step of the demo");
}

#[test]
fn missing_files_and_changed_steps_are_detected() {
    let tree: Vec<String> = ["docs", "docs/guide.md", "cli/src/run.rs", "tests/fixtures/state-1"]
        .map(str::to_owned)
        .into();
    assert!(exists("docs/guide.md", &tree) && exists("src/run.rs", &tree));
    assert!(exists("tests/fixtures/state-N", &tree) && exists("docs/*.md", &tree));
    assert!(!exists("docs/gone.md", &tree) && is_path("docs/gone.md", &tree));
    assert!(!is_path("MB/s", &tree) && is_path("gone.rs", &tree));
    let code = code_of("a.md", "`one` two `three\nfour`\n```sh\nfive\n```\n");
    let texts: Vec<&str> = code.iter().map(|piece| piece.text.as_str()).collect();
    assert_eq!(texts, ["five", "one", "three four"]);
    let line = "✓ ping       36 round trips: 13 µs at best [6.0 ms]";
    assert_eq!(steps(line), ["✓ ping # round trips: # at best"]);
}
