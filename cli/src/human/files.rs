//! Files as text for people.

use std::fmt::Write as _;
use std::time::Duration;

use peerkit::{Changes, Fetched, FoundFile, NodeId, Refreshed, SharedFile, Skipped, Ticket};

use super::digits;
use crate::shell_words;
use crate::start::DialableFrom;
use crate::text::{self, Paint, count, path as shown, plain};
use crate::views::ShareView;

/// Returns the list of shares. If `restoring`, says that the list may be incomplete.
pub(crate) fn shared(paint: Paint, shares: &[ShareView], restoring: bool) -> String {
    if shares.is_empty() && !restoring {
        return "nothing is shared: `add PATH` shares a file or folder".to_owned();
    }
    let lines = shares.iter().flat_map(|share| {
        let with = match share.access {
            "nodes" => format!("  shared with {} only", count(share.to.len(), "node")),
            "ticket" => "  shared with the ticket only".to_owned(),
            _ => String::new(),
        };
        let line = file_line(paint, &share.file);
        let line = format!("{line}  {}{with}", paint.faint(&shown(&share.path)));
        std::iter::once(line).chain(contents_lines(paint, share))
    });
    let more = "the shares of earlier runs are still being checked: there may be more";
    let lines = lines.chain(restoring.then(|| more.to_owned()));
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the text about a new share. If it has a ticket, includes the command that fetches it.
pub(crate) fn added(
    paint: Paint,
    file: &SharedFile,
    ticket: Option<&Ticket>,
    skipped: &[Skipped],
) -> String {
    let mut lines = vec![format!("sharing {}", file_line(paint, file))];
    if let Some(ticket) = ticket {
        let who = match DialableFrom::of(&ticket.addresses) {
            DialableFrom::ThisMachineOnly => {
                "to fetch it, type on this machine (no other can reach the address in the ticket):"
            }
            DialableFrom::AnyMachine => "to fetch it, type on the other machine:",
        };
        lines.push(paint.faint(who));
        lines.push(format!("  peerkit get {}", shell_words::quote(&ticket.to_string())));
    }
    lines.extend(skipped_lines(paint, skipped));
    lines.join("\n")
}

/// Returns the changes that were found on disk, and the list of shares.
pub(crate) fn refreshed(paint: Paint, refreshed: &Refreshed, shares: &[ShareView]) -> String {
    let changed = refreshed.changed.iter();
    let changed = changed.map(|(_, now)| format!("changed {}", file_line(paint, now)));
    let gone =
        refreshed.removed.iter().map(|(path, _)| format!("no longer there: {}", shown(path)));
    let lines = changed.chain(gone).chain(skipped_lines(paint, &refreshed.skipped));
    let mut lines: Vec<String> = lines.collect();
    if lines.is_empty() {
        lines.push("nothing has changed".to_owned());
    }
    for share in shares {
        lines.push(format!("sharing {}", file_line(paint, &share.file)));
        lines.extend(contents_lines(paint, share));
    }
    lines.join("\n")
}

/// Returns the text about a finished fetch, with the entries that differ from the source.
pub(crate) fn fetched(paint: Paint, fetched: &Fetched, changes: &Changes) -> String {
    let Fetched { path, bytes, seconds, sources, dropped, .. } = fetched;
    let size = paint.faint(&text::size(*bytes));
    let how = match sources.len() {
        // An empty file has no source either, although it was not here before.
        0 if *bytes > 0 => "was here already".to_owned(),
        nodes => format!(
            "in {}{} from {}",
            text::time(Duration::from_secs_f64(*seconds)),
            speed(*bytes, *seconds),
            count(nodes, "node"),
        ),
    };
    let mut text = format!("{} {size} {how}, every byte verified", shown(path));
    for dropped in dropped {
        let (id, why) = (dropped.id.short(), plain(&dropped.why));
        let _ = write!(text, "\ndropped the source {id}, which sent wrong data: {why}");
    }
    for line in self::changes(changes) {
        let _ = write!(text, "\n{line}");
    }
    text
}

/// Returns the speed, as in ` (310.0 MiB/s)`; an empty text if the time is 0.
fn speed(bytes: u64, seconds: f64) -> String {
    if seconds <= 0.0 {
        return String::new();
    }
    format!(" ({}/s)", text::size((bytes as f64 / seconds) as u64))
}

/// Maximum number of renamed files, and of files not written, that a text names. Only the number of
/// the others is printed.
pub(super) const MAX_NAMED: usize = 20;

/// Returns a line for each file that has another name here than at its source, and for each file
/// that could not be written.
pub(crate) fn changes(changes: &Changes) -> Vec<String> {
    let others = |listed: usize, more: usize| listed.saturating_sub(MAX_NAMED).saturating_add(more);
    let mut lines = Vec::new();
    lines.extend(changes.renamed.iter().take(MAX_NAMED).map(|renamed| {
        let name = plain(renamed.name.as_str());
        let path = renamed.path.file_name().unwrap_or_default().to_string_lossy();
        format!("{name} is called {} here: {}", plain(&path), renamed.why)
    }));
    let others_renamed = others(changes.renamed.len(), changes.more_renamed);
    if others_renamed > 0 {
        lines.push(format!("and {others_renamed} more have other names"));
    }
    lines.extend(
        (changes.left_out.iter().take(MAX_NAMED))
            .map(|left| format!("not written: {}: {}", plain(left.path.as_str()), left.why)),
    );
    let others_left_out = others(changes.left_out.len(), changes.more_left_out);
    if others_left_out > 0 {
        lines.push(format!("and {others_left_out} more were not written"));
    }
    lines
}

/// Returns a line for each entry of a shared folder that is not shared.
pub(crate) fn skipped_lines(paint: Paint, skipped: &[Skipped]) -> impl Iterator<Item = String> {
    let line = move |Skipped { path, why }: &Skipped| {
        let why = plain(&why.to_string());
        format!("{} {}: {why}", paint.faint("not shared:"), shown(path))
    };
    skipped.iter().map(line)
}

/// Returns the hash, name and size of a file or folder, on one line.
pub(crate) fn file_line(paint: Paint, file: &SharedFile) -> String {
    format!("{}  {}  {}", file.hash, plain(file.name.as_str()), paint.faint(&text::size(file.size)))
}

/// Returns a line with the hash of each listed file in a shared folder.
fn contents_lines(paint: Paint, share: &ShareView) -> Vec<String> {
    let files = share.files().iter();
    let mut lines: Vec<String> = files
        .map(|found| {
            let size = paint.faint(&text::size(found.file.size));
            format!("  {}  {}  {size}", found.file.hash, plain(found.path.as_str()))
        })
        .collect();
    let next = share.skipped.saturating_add(lines.len());
    let total = share.contents.as_ref().map_or(0, |part| part.total);
    if next < total {
        let (more, digits) = (total - next, digits(share.file.hash));
        lines.push(format!("  and {more} more: `files {digits} --skip {next}` lists them"));
    }
    lines
}

/// Returns the results of a search. `here` is the identity of this node.
pub(crate) fn found(paint: Paint, files: &[FoundFile], here: NodeId) -> String {
    if files.is_empty() {
        return "nothing found".to_owned();
    }
    let is_here = |found: &FoundFile| found.sources.iter().any(|source| source.id == here);
    let lines = files.iter().map(|found| {
        let others = found.sources.iter().filter(|source| source.id != here).count();
        let sources = match (is_here(found), others) {
            (true, 0) => "here".to_owned(),
            (true, others) => format!("here, {}", count(others, "other source")),
            (false, others) => count(others, "source"),
        };
        format!("{}  {}", file_line(paint, &found.file), paint.faint(&sources))
    });
    let mut text = lines.collect::<Vec<_>>().join("\n");
    if let Some(first) = files.iter().find(|found| !is_here(found)) {
        let hint = format!("fetch one: get {}", digits(first.file.hash));
        let _ = write!(text, "\n{}", paint.faint(&hint));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerkit::{FileSource, FolderFile, FolderPart, Hash, LeftOut, NameFault, Renamed};

    fn file(name: &str) -> SharedFile {
        let (hash, name) = (Hash::of(name.as_bytes()), name.parse().unwrap());
        SharedFile { hash, name, size: 1, kind: peerkit::FileKind::File }
    }

    #[test]
    fn a_large_folder_is_listed_in_parts() {
        let folder = file("folder");
        let share = |contents, skipped| ShareView {
            file: folder.clone(),
            path: "folder".into(),
            contents,
            skipped,
            access: "open",
            to: Vec::new(),
        };
        let view = |name: &str| FolderFile { file: file(name), path: name.parse().unwrap() };
        let lines = |total, skipped| {
            let files = vec![view("a\u{202e}"), view("b")];
            contents_lines(Paint::none(), &share(Some(FolderPart { total, files }), skipped))
        };
        let all = lines(2, 0);
        assert_eq!(all.len(), 2);
        assert!(all[0].ends_with("  a\\u{202e}  1 B"), "{all:?}");
        let digits = digits(folder.hash);
        let more = format!("  and 5 more: `files {digits} --skip 12` lists them");
        assert_eq!(lines(17, 10).last(), Some(&more));
        assert_eq!(lines(12, 10).len(), 2);
        assert!(contents_lines(Paint::none(), &share(None, 0)).is_empty());
    }

    #[test]
    fn results_on_this_node_get_no_advice_to_fetch_them() {
        let id = |n| NodeId::from_bytes([n; 32]);
        let source = |n: &u8| FileSource { id: id(*n), name: String::new(), addresses: Vec::new() };
        let view = |name, sources: &[u8]| FoundFile {
            file: file(name),
            sources: sources.iter().map(source).collect(),
        };
        let files = [view("own", &[1]), view("both", &[1, 2]), view("b", &[2])];
        let found = |files| found(Paint::none(), files, id(1));
        let text = found(&files[..]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("own  1 B  here"), "{text}");
        assert!(lines[1].ends_with("both  1 B  here, 1 other source"), "{text}");
        assert!(lines[2].ends_with("b  1 B  1 source"), "{text}");
        assert_eq!(lines[3], format!("fetch one: get {}", digits(file("b").hash)));
        assert_eq!(found(&files[..2]).lines().count(), 2);
    }

    #[test]
    fn only_the_first_changed_files_are_named() {
        let renamed = |n: usize| Renamed {
            name: format!("a{n}\u{202e}").parse().unwrap(),
            path: format!("/d/a{n}_").into(),
            why: NameFault::NameInUse,
        };
        let why = NameFault::TooLongForDisk;
        let left = |n: usize| LeftOut { path: format!("l{n}").parse().unwrap(), why };
        let mut all = Changes::default();
        all.renamed = (0..MAX_NAMED + 2).map(renamed).collect();
        all.left_out = (0..MAX_NAMED + 3).map(left).collect();
        all.more_left_out = 40;
        let lines = changes(&all);
        assert_eq!(lines.len(), 2 * (MAX_NAMED + 1));
        assert_eq!(lines[0], "a0\\u{202e} is called a0_ here: another file has that name");
        assert_eq!(lines[MAX_NAMED], "and 2 more have other names");
        assert_eq!(lines[MAX_NAMED + 1], "not written: l0: it is too long for this disk");
        assert_eq!(lines.last().unwrap(), "and 43 more were not written");
    }

    #[test]
    fn a_slow_fetch_has_a_speed() {
        assert_eq!(speed(3 << 20, 2.0), " (1.5 MiB/s)");
        assert_eq!(speed(1, 0.0), "");
    }
}
