//! Files as a person reads them.

use std::fmt::Write as _;
use std::path::Path;

use peerkit::{Dropped, SharedFile, Ticket};

use super::digits;
use crate::outcome::{
    ChangesView, ContentsView, FolderFileView, FoundView, ListedView, SharedView, SkippedView,
};
use crate::start::Reach;
use crate::text::{self, Paint, count, path as shown, plain};
use crate::words;

/// Returns what is shared.
pub(super) fn shared(paint: Paint, files: &[SharedView], restoring: bool) -> String {
    let lines = files.iter().flat_map(|shared| {
        let with = match shared.access {
            "nodes" => format!("  with {} only", count(shared.to.len(), "node")),
            "ticket" => "  with who has the ticket only".to_owned(),
            _ => String::new(),
        };
        let line = file_line(paint, &shared.file);
        let line = format!("{line}  {}{with}", paint.faint(&shown(&shared.path)));
        std::iter::once(line).chain(contents_lines(paint, &shared.file, &shared.contents))
    });
    let more = "still looking at what was shared before: there may be more";
    let lines = lines.chain(restoring.then(|| more.to_owned()));
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns what is shared from now on, with what the other side needs.
pub(super) fn added(
    paint: Paint,
    files: &[SharedFile],
    ticket: Option<&str>,
    skipped: &[SkippedView],
) -> String {
    let lines = files.iter().map(|file| format!("sharing {}", file_line(paint, file)));
    let ticket = ticket.iter().map(|ticket| {
        let line = words::quote(ticket);
        let reach = ticket.parse().map(|ticket: Ticket| Reach::of(&ticket.addresses));
        let who = match reach {
            Ok(Reach::ThisMachine) => "only this machine can reach the address in its ticket",
            _ => "the other side fetches it with",
        };
        format!("{}\n  peerkit get {line}", paint.faint(who))
    });
    let lines = lines.chain(ticket).chain(skipped_lines(paint, skipped));
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns what has changed on disk, and all that is shared.
pub(super) fn refreshed(
    paint: Paint,
    files: &[ListedView],
    changed: &[SharedFile],
    removed: impl Iterator<Item = String>,
    skipped: &[SkippedView],
) -> String {
    let changed = changed.iter().map(|file| format!("changed {}", file_line(paint, file)));
    let gone = removed.map(|path| format!("gone {path}"));
    let lines = changed.chain(gone).chain(skipped_lines(paint, skipped));
    let mut lines: Vec<String> = lines.collect();
    if lines.is_empty() {
        lines.push("nothing has changed".to_owned());
    }
    for ListedView { file, contents } in files {
        lines.push(format!("sharing {}", file_line(paint, file)));
        lines.extend(contents_lines(paint, file, contents));
    }
    lines.join("\n")
}

/// Returns a fetch that is done, with what is not as it was at its source.
pub(super) fn fetched(
    paint: Paint,
    path: &Path,
    bytes: u64,
    how: &str,
    dropped: &[Dropped],
    changes: &ChangesView,
) -> String {
    let size = paint.faint(&text::size(bytes));
    let mut text = format!("{} {size} {how}, every byte verified", shown(path));
    for dropped in dropped {
        let (id, why) = (dropped.id.short(), plain(&dropped.why));
        let _ = write!(text, "\nnot from {id}, which sent something else: {why}");
    }
    for line in self::changes(changes) {
        let _ = write!(text, "\n{line}");
    }
    text
}

/// Files that are named in a result for people; the others are counted.
pub(super) const NAMED: usize = 20;

/// The files that have another name here than at their source, and those that could not be written.
pub(crate) fn changes(changes: &ChangesView) -> Vec<String> {
    let ChangesView { renamed, more_renamed, left_out, more_left_out } = changes;
    let others = |listed: usize, more: usize| listed.saturating_sub(NAMED).saturating_add(more);
    let mut lines = Vec::new();
    let some = renamed.iter().take(NAMED);
    lines.extend(some.map(|renamed| {
        let name = plain(renamed.name.as_str());
        let path = renamed.path.file_name().unwrap_or_default().to_string_lossy();
        format!("{name} is called {} here: {}", plain(&path), renamed.why)
    }));
    let others_renamed = others(renamed.len(), *more_renamed);
    if others_renamed > 0 {
        lines.push(format!("and {others_renamed} more have other names"));
    }
    let some = left_out.iter().take(NAMED);
    lines.extend(
        some.map(|left| format!("not written: {}: {}", plain(left.path.as_str()), left.why)),
    );
    let others_left_out = others(left_out.len(), *more_left_out);
    if others_left_out > 0 {
        lines.push(format!("and {others_left_out} more were not written"));
    }
    lines
}

/// Returns a line for each entry of a shared folder that is not shared.
pub(crate) fn skipped_lines(paint: Paint, skipped: &[SkippedView]) -> impl Iterator<Item = String> {
    let lines = skipped.iter();
    lines.map(move |skipped| {
        let why = plain(&skipped.why);
        format!("{} {}: {why}", paint.faint("not shared:"), shown(&skipped.path))
    })
}

/// What is shared or found: its hash, its name and how large it is.
pub(crate) fn file_line(paint: Paint, file: &SharedFile) -> String {
    format!("{}  {}  {}", file.hash, plain(file.name.as_str()), paint.faint(&text::size(file.size)))
}

/// The files in a shared folder, each with its hash.
fn contents_lines(
    paint: Paint,
    folder: &SharedFile,
    contents: &Option<ContentsView>,
) -> Vec<String> {
    let Some(ContentsView { files, count, skipped }) = contents else { return Vec::new() };
    let line = |file: &FolderFileView| {
        let size = paint.faint(&text::size(file.size));
        format!("  {}  {}  {size}", file.hash, plain(file.path.as_str()))
    };
    let mut lines: Vec<String> = files.iter().map(line).collect();
    let next = skipped.saturating_add(files.len());
    if next < *count {
        let (more, digits) = (count - next, digits(folder.hash));
        lines.push(format!("  and {more} more: `files {digits} --skip {next}` lists them"));
    }
    lines
}

pub(super) fn found(paint: Paint, files: &[FoundView]) -> String {
    if files.is_empty() {
        return "nothing found".to_owned();
    }
    let lines = files.iter().map(|found| {
        let others = found.sources.len() - usize::from(found.here);
        let sources = match (found.here, others) {
            (true, 0) => "here".to_owned(),
            (true, others) => format!("here, {}", count(others, "other source")),
            (false, others) => count(others, "source"),
        };
        format!("{}  {}", file_line(paint, &found.file), paint.faint(&sources))
    });
    let mut text = lines.collect::<Vec<_>>().join("\n");
    if let Some(first) = files.iter().find(|found| !found.here) {
        let hash = first.file.hash.to_string();
        let _ = write!(text, "\n{}", paint.faint(&format!("fetch one: get {}", &hash[..8])));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{LeftOutView, RenamedView};
    use peerkit::{Hash, NodeId};

    fn file(name: &str) -> SharedFile {
        let (hash, name) = (Hash::of(name.as_bytes()), name.parse().unwrap());
        SharedFile { hash, name, size: 1, kind: peerkit::FileKind::File }
    }

    #[test]
    fn a_large_folder_is_listed_in_parts() {
        let view = |name: &str| {
            let SharedFile { hash, name, size, .. } = file(name);
            FolderFileView { hash, path: name.clone().into(), name, size }
        };
        let folder = file("folder");
        let lines = |count, skipped| {
            let files = vec![view("a\u{202e}"), view("b")];
            contents_lines(Paint::none(), &folder, &Some(ContentsView { files, count, skipped }))
        };
        let all = lines(2, 0);
        assert_eq!(all.len(), 2);
        assert!(all[0].ends_with("  a\\u{202e}  1 B"), "{all:?}");
        let digits = digits(folder.hash);
        let more = format!("  and 5 more: `files {digits} --skip 12` lists them");
        assert_eq!(lines(17, 10).last(), Some(&more));
        assert_eq!(lines(12, 10).len(), 2);
        assert!(contents_lines(Paint::none(), &folder, &None).is_empty());
    }

    #[test]
    fn what_was_found_here_is_not_advised_to_be_fetched() {
        let id = |n| NodeId::from_bytes([n; 32]);
        let view = |name, sources: &[u8], here| FoundView {
            file: file(name),
            sources: sources.iter().map(|n| id(*n)).collect(),
            here,
        };
        let files = [view("own", &[1], true), view("both", &[1, 2], true), view("b", &[2], false)];
        let text = found(Paint::none(), &files);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("own  1 B  here"), "{text}");
        assert!(lines[1].ends_with("both  1 B  here, 1 other source"), "{text}");
        assert!(lines[2].ends_with("b  1 B  1 source"), "{text}");
        assert_eq!(lines[3], format!("fetch one: get {}", digits(file("b").hash)));
        assert_eq!(found(Paint::none(), &files[..2]).lines().count(), 2);
    }

    #[test]
    fn what_was_changed_is_named_up_to_a_number() {
        let renamed = |n: usize| RenamedView {
            name: format!("a{n}\u{202e}").parse().unwrap(),
            path: format!("/d/a{n}_").into(),
            why: "so".into(),
        };
        let left =
            |n: usize| LeftOutView { path: format!("l{n}").parse().unwrap(), why: "long".into() };
        let lines = changes(&ChangesView {
            renamed: (0..NAMED + 2).map(renamed).collect(),
            more_renamed: 0,
            left_out: (0..NAMED + 3).map(left).collect(),
            more_left_out: 40,
        });
        assert_eq!(lines.len(), 2 * (NAMED + 1));
        assert_eq!(lines[0], "a0\\u{202e} is called a0_ here: so");
        assert_eq!(lines[NAMED], "and 2 more have other names");
        assert_eq!(lines[NAMED + 1], "not written: l0: long");
        assert_eq!(lines.last().unwrap(), "and 43 more were not written");
    }
}
