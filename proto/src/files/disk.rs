//! The names that files from the network get on the disk of this computer.
//!
//! Another node has chosen the name of such a file, so the name may be unusable or dangerous here:
//!
//! - This system or its disk does not allow the name. Windows refuses the names of devices (`CON`), some
//!   characters (`:`) and some last characters (`.`). Every disk limits the length of names and paths.
//! - The name could make a program do something that the user did not ask for. A shell runs `.bash_profile`
//!   in the home folder at the next login, and most commands take `-rf` for an option. This rule is only for
//!   the file or folder that the user fetches, which is placed among the user's own files. Inside a fetched
//!   folder such names are ordinary content (`.git`).
//! - The name looks like another one on the screen: after U+202E, `gpj.exe` is shown as `exe.jpg`.
//!
//! Characters at fault are replaced by `_`, and a `_` is added to the name of a device. If two entries of a
//! folder would get the same name, one of them gets a number. The name of a fetched file or folder is cut if
//! it is too long. An entry of a fetched folder is left out if its name or path is too long, if the disk has
//! refused such a name, or if no free name is found.
//!
//! Every rule takes the platform as a parameter, so that each can be tested on any system.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::manifest::{Manifest, ManifestEntry};
use super::path::{FileName, MAX_NAME, MAX_PATH, NameFault, RelPath, folded};

/// Maximum number of numbered names, such as `a (1).txt`, that are tried for one entry.
const MAX_NUMBER: u32 = 9999;

/// A family of operating systems with the same rules for file names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Platform {
    /// Linux and most other systems. They allow any name without `/` and NUL.
    Unix,
    /// macOS. It allows the same names, but takes `a` and `A` for the same name.
    Mac,
    /// Windows. It takes `a` and `A` for the same name, and refuses more names than the others.
    Windows,
}

impl Platform {
    /// The platform that this program was built for.
    pub const HERE: Self = if cfg!(windows) {
        Self::Windows
    } else if cfg!(target_vendor = "apple") {
        Self::Mac
    } else {
        Self::Unix
    };

    /// Returns the maximum length of an absolute path, in bytes.
    #[must_use]
    pub fn max_path(self) -> usize {
        match self {
            // PATH_MAX counts the NUL at the end.
            Self::Unix => 4095,
            Self::Mac => 1023,
            // Extended paths (`\\?\`) have at most 32,767 UTF-16 units. Windows may need some of them itself.
            Self::Windows => 32_000,
        }
    }

    /// Returns whether names that differ only in case are the same name.
    fn ignores_case(self) -> bool {
        !matches!(self, Self::Unix)
    }
}

/// The rules for names on one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskRules {
    /// The operating system.
    pub platform: Platform,
    /// Maximum length of a name, in bytes.
    pub max_name: usize,
    /// Maximum length of a path, relative to the folder that is written, in bytes.
    pub max_path: usize,
}

impl DiskRules {
    /// Returns the rules of `platform` for a disk without lower limits of its own.
    #[must_use]
    pub fn new(platform: Platform) -> Self {
        Self { platform, max_name: MAX_NAME, max_path: MAX_PATH }
    }

    /// Returns the name under which the fetched file or folder `name` is placed among the user's own files.
    /// If that is another name, also returns the reason.
    #[must_use]
    pub fn top_name(&self, name: &FileName) -> (FileName, Option<NameFault>) {
        let (safe, fault) = match replaced(name.as_str(), self, true) {
            Some((safe, fault)) => (safe, Some(fault)),
            None => (name.as_str().to_owned(), None),
        };
        let is_long = safe.len() > self.max_name;
        let fault = fault.or_else(|| is_long.then_some(NameFault::TooLongForDisk));
        if fault.is_none() {
            return (name.clone(), None);
        }
        let cut = with_suffix(&safe, "", true, self.max_name);
        // The cut name may end with a dot or space, which Windows drops, or be a device.
        (FileName(without_faults(&cut, self).into()), fault)
    }
}

/// The entries of a folder that have another path on the disk than in the manifest, or are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskNames {
    /// The changes, by the index of the entry in the manifest.
    changed: BTreeMap<usize, NameChange>,
    /// The indices of the entries with another path, by that path.
    by_path: BTreeMap<RelPath, usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum NameChange {
    /// The entry's path on the disk, and the reason why its name was changed. The reason is `None` if only
    /// the name of a folder above it was changed.
    Path(RelPath, Option<NameFault>),
    LeftOut(NameFault),
}

impl DiskNames {
    /// Decides the path of each entry of `manifest` under `rules`. Entries whose names have a
    /// [`nonportable_part`] in `refused` are left out, because the disk has refused such a name.
    #[must_use]
    pub fn plan(manifest: &Manifest, rules: &DiskRules, refused: &BTreeSet<String>) -> Self {
        let entries = manifest.entries();
        let mut names = changed_names(entries, rules);
        for (at, entry) in entries.iter().enumerate() {
            let name = last_component(entry.path());
            if name.len() > rules.max_name {
                names.insert(at, NewName::LeftOut(NameFault::TooLongForDisk));
            } else if !refused.is_empty()
                && nonportable_part(name).is_some_and(|part| refused.contains(&part))
            {
                names.insert(at, NewName::LeftOut(NameFault::RefusedByDisk));
            }
        }
        let is_long = |entry: &ManifestEntry| entry.path().as_str().len() > rules.max_path;
        // Most folders need no changes. For them no memory is taken.
        if names.is_empty() && !entries.iter().any(is_long) {
            return Self::default();
        }
        let mut planned = Self::default();
        // The folders above the entry, outermost first. Each has its path on the disk, or `None` if it is
        // left out.
        let mut above: Vec<(&RelPath, Option<RelPath>)> = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            let path = entry.path();
            while above.last().is_some_and(|(folder, _)| Some(folder.as_str()) != path.parent()) {
                above.pop();
            }
            let parent = above.last().map(|(_, on_disk)| on_disk.as_ref());
            let on_disk = path_on_disk(path, parent, names.get(&at), rules);
            if matches!(entry, ManifestEntry::Folder { .. }) {
                above.push((path, on_disk.as_ref().ok().map(|(on_disk, _)| on_disk.clone())));
            }
            match on_disk {
                Ok((on_disk, _)) if on_disk == *path => {}
                Ok((on_disk, fault)) => {
                    planned.by_path.insert(on_disk.clone(), at);
                    planned.changed.insert(at, NameChange::Path(on_disk, fault));
                }
                Err(fault) => {
                    planned.changed.insert(at, NameChange::LeftOut(fault));
                }
            }
        }
        planned
    }

    /// Returns the path of entry `at` on the disk, or `None` if it is left out.
    #[must_use]
    pub fn path<'a>(&'a self, manifest: &'a Manifest, at: usize) -> Option<&'a RelPath> {
        match self.changed.get(&at) {
            Some(NameChange::Path(path, _)) => Some(path),
            Some(NameChange::LeftOut(_)) => None,
            None => manifest.entries().get(at).map(ManifestEntry::path),
        }
    }

    /// Returns the index of the entry at `path` on the disk, or `None` if no entry is there.
    #[must_use]
    pub fn entry_at(&self, manifest: &Manifest, path: &RelPath) -> Option<usize> {
        if let Some(at) = self.by_path.get(path) {
            return Some(*at);
        }
        let at = manifest.entries().binary_search_by(|entry| entry.path().cmp(path)).ok()?;
        // The entry with this path in the manifest may have another path on the disk, or be left out.
        Some(at).filter(|at| !self.changed.contains_key(at))
    }

    /// Returns whether entry `at` is left out.
    #[must_use]
    pub fn is_left_out(&self, at: usize) -> bool {
        matches!(self.changed.get(&at), Some(NameChange::LeftOut(_)))
    }

    /// Returns the entries whose own name was changed, with their paths on the disk and the reasons.
    pub fn renamed(&self) -> impl Iterator<Item = (usize, &RelPath, NameFault)> {
        self.changed.iter().filter_map(|(at, change)| match change {
            NameChange::Path(path, Some(fault)) => Some((*at, path, *fault)),
            _ => None,
        })
    }

    /// Returns the entries that are left out, with the reasons.
    pub fn left_out(&self) -> impl Iterator<Item = (usize, NameFault)> {
        self.changed.iter().filter_map(|(at, change)| match change {
            NameChange::LeftOut(fault) => Some((*at, *fault)),
            NameChange::Path(..) => None,
        })
    }
}

/// The changed name of an entry and the reason, or the reason why the entry is left out.
enum NewName {
    Name(String, NameFault),
    LeftOut(NameFault),
}

/// Returns the entries whose names have to be changed under `rules`, by index. No two entries of one folder
/// get the same name.
fn changed_names(entries: &[ManifestEntry], rules: &DiskRules) -> BTreeMap<usize, NewName> {
    let platform = rules.platform;
    let key = |entry: &ManifestEntry, name: &str| {
        let name = if platform.ignores_case() { folded(name) } else { name.to_owned() };
        // Only the name is folded: two parents that differ only in case are different folders, as one of them
        // gets another name itself.
        format!("{}/{name}", entry.path().parent().unwrap_or_default())
    };
    let mut faulty = BTreeMap::new();
    for (at, entry) in entries.iter().enumerate() {
        if let Some(safe) = replaced(last_component(entry.path()), rules, false) {
            faulty.insert(at, safe);
        }
    }
    // If no name is changed and case matters, all names differ, as they do in the manifest.
    if faulty.is_empty() && !platform.ignores_case() {
        return BTreeMap::new();
    }
    // Names without a fault come first, so that a changed name never takes one of them.
    let mut used = BTreeSet::new();
    for (at, entry) in entries.iter().enumerate() {
        let name = last_component(entry.path());
        if !faulty.contains_key(&at) && !used.insert(key(entry, name)) {
            faulty.insert(at, (name.to_owned(), NameFault::NameInUse));
        }
    }
    let mut changes = BTreeMap::new();
    for (at, (safe, fault)) in faulty {
        let Some(entry) = entries.get(at) else { continue };
        let is_file = matches!(entry, ManifestEntry::File { .. });
        // The bound limits the work for a manifest whose names all become the same one.
        let mut names = (0..=MAX_NUMBER).map(|number| match number {
            0 => safe.clone(),
            number => with_suffix(&safe, &format!(" ({number})"), is_file, rules.max_name),
        });
        let free = names.find(|name| used.insert(key(entry, name)));
        let change = match free.filter(|name| name.len() <= rules.max_name) {
            Some(name) => NewName::Name(name, fault),
            None => NewName::LeftOut(fault),
        };
        changes.insert(at, change);
    }
    changes
}

/// Decides the path of an entry on the disk. Returns the path and the reason why its name was changed, or
/// fails with the reason why the entry is left out. `parent` is `None` at the top, `Some(None)` if the parent
/// folder is left out.
fn path_on_disk(
    path: &RelPath,
    parent: Option<Option<&RelPath>>,
    new_name: Option<&NewName>,
    rules: &DiskRules,
) -> Result<(RelPath, Option<NameFault>), NameFault> {
    let (name, fault) = match new_name {
        Some(NewName::LeftOut(fault)) => return Err(*fault),
        Some(NewName::Name(name, fault)) => (&**name, Some(*fault)),
        None => (last_component(path), None),
    };
    let on_disk = match parent {
        None => name.to_owned(),
        Some(Some(parent)) => format!("{parent}/{name}"),
        Some(None) => return Err(NameFault::ParentNotWritten),
    };
    match RelPath::new(on_disk) {
        Ok(on_disk) if on_disk.as_str().len() <= rules.max_path => Ok((on_disk, fault)),
        _ => Err(NameFault::TooLongForDisk),
    }
}

fn last_component(path: &RelPath) -> &str {
    path.components().next_back().unwrap_or_default()
}

/// Returns `name` with `suffix` between its stem and its extension. If the result would have more than `max`
/// bytes, the stem is cut.
///
/// The extension begins at the last dot. If `has_extension` is false, or the extension is longer than half of
/// `max`, the whole name is the stem.
#[must_use]
pub fn with_suffix(name: &str, suffix: &str, has_extension: bool, max: usize) -> String {
    // In a name such as `.profile` the dot does not begin an extension.
    let dot = name.rfind('.').filter(|at| *at > 0 && has_extension).unwrap_or(name.len());
    let (stem, extension) = name.split_at_checked(dot).unwrap_or((name, ""));
    // A longer extension would leave too little of the stem.
    let (stem, extension) = if extension.len() <= max / 2 { (stem, extension) } else { (name, "") };
    let left = max.saturating_sub(suffix.len()).saturating_sub(extension.len());
    let cut = stem.get(..stem.floor_char_boundary(left)).unwrap_or_default();
    format!("{cut}{suffix}{extension}")
}

/// Returns whether a character changes the direction of the text around it (UAX #9) or breaks the line, so
/// that the text looks like another text.
#[must_use]
pub fn is_misleading(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// Makes a text from another node, such as the name of a file, safe to print on a terminal as one line.
/// Writes control characters and [misleading](is_misleading) characters as escapes, such as `\n`.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_misleading(c) {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
    }
    plain
}

/// Returns the part of a name that some file systems refuse and others allow: its special characters, its
/// last dot or space, and the name of a device. Names that are refused for the same reason have the same
/// part. Returns `None` if every file system allows the name.
///
/// The only way to learn whether a disk refuses a name is to try it. One try is enough for all names with the
/// same part.
#[must_use]
pub fn nonportable_part(name: &str) -> Option<String> {
    let mut special: Vec<char> = name.chars().filter(|c| is_special(*c)).collect();
    special.sort_unstable();
    special.dedup();
    let mut part: String = special.into_iter().collect();
    part.extend(name.chars().next_back().filter(|last| matches!(last, '.' | ' ')));
    if is_device(name) {
        part.push_str(&name.split('.').next().unwrap_or_default().to_ascii_lowercase());
    }
    (!part.is_empty()).then_some(part)
}

/// Returns whether Windows refuses this character in names. Control characters are not listed, because no
/// [`FileName`] contains one.
fn is_special(c: char) -> bool {
    matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')
}

/// Returns `name` with the characters replaced that the platform would refuse or misread. The result is no
/// longer than the longer of `name` and the limit of `rules`.
pub(super) fn without_faults<'n>(name: &'n str, rules: &DiskRules) -> Cow<'n, str> {
    match replaced(name, rules, false) {
        Some((safe, _)) => Cow::Owned(safe),
        None => Cow::Borrowed(name),
    }
}

/// Returns a safe name to use in place of `name`, and the first fault of `name`. Returns `None` if `name` is
/// safe. `is_top` says that the file is placed among the user's own files, where more names are unsafe.
///
/// The safe name is no longer than the longer of `name` and the limit of `rules`.
fn replaced(name: &str, rules: &DiskRules, is_top: bool) -> Option<(String, NameFault)> {
    let is_windows = rules.platform == Platform::Windows;
    let fault_of = |(at, c): (usize, char)| match c {
        '.' if is_top && at == 0 => Some(NameFault::LeadingDot),
        '-' if is_top && at == 0 => Some(NameFault::LeadingDash),
        c if is_windows && is_special(c) => Some(NameFault::WindowsCharacter),
        c if is_misleading(c) => Some(NameFault::MisleadingCharacter),
        _ => None,
    };
    let mut fault = name.char_indices().find_map(fault_of);
    let mut safe = match fault {
        None => Cow::Borrowed(name),
        Some(_) => {
            let characters = name.char_indices();
            characters.map(|(at, c)| fault_of((at, c)).map_or(c, |_| '_')).collect()
        }
    };
    if is_windows {
        let kept = safe.trim_end_matches(['.', ' ']).len();
        if kept < safe.len() {
            fault.get_or_insert(NameFault::TrailingDotOrSpace);
            let dropped = safe.len() - kept;
            let text = safe.to_mut();
            text.truncate(kept);
            // The length is kept, so that `a.` and `a..` get different names.
            text.extend(std::iter::repeat_n('_', dropped));
        }
        if is_device(&safe) {
            fault.get_or_insert(NameFault::WindowsDevice);
            let stem = safe.find('.').unwrap_or(safe.len());
            // Without room for another character, the last one of the stem is replaced.
            let last = safe.get(..stem).and_then(|stem| stem.char_indices().next_back());
            let start = last.filter(|_| safe.len() >= rules.max_name).map_or(stem, |(at, _)| at);
            safe.to_mut().replace_range(start..stem, "_");
        }
    }
    fault.map(|fault| (safe.into_owned(), fault))
}

/// Returns whether a name is portable, which names in search answers have to be: it leads nowhere else on
/// Windows, Windows does not change it, and it is not the name of a device. Windows refuses some portable
/// names. The length is not checked.
pub(super) fn is_portable(name: &str) -> bool {
    // On Windows `c:x` is a path on drive C. Other colons count as portable, as they do for nodes of earlier
    // versions.
    let has_drive = matches!(name.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic());
    !(has_drive || name.contains('\\') || name.ends_with(['.', ' ']) || is_device(name))
}

/// Returns `name` if it is portable, and otherwise the name that it gets on a Windows disk.
pub(super) fn portable(name: &FileName) -> FileName {
    if is_portable(&name.0) {
        name.clone()
    } else {
        FileName(without_faults(&name.0, &DiskRules::new(Platform::Windows)).into())
    }
}

/// Returns whether Windows takes a name for a device. It ignores the extension, and takes the superscript
/// digits of Latin-1 for digits (Microsoft, "Naming Files, Paths, and Namespaces").
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end_matches(' ');
    let devices = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"];
    if devices.iter().any(|device| stem.eq_ignore_ascii_case(device)) {
        return true;
    }
    let Some((head, rest)) = stem.split_at_checked(3) else { return false };
    let is_port = ["COM", "LPT"].iter().any(|port| head.eq_ignore_ascii_case(port));
    let mut rest = rest.chars();
    let is_digit = matches!(rest.next(), Some('0'..='9' | '¹' | '²' | '³'));
    is_port && is_digit && rest.next().is_none()
}

#[cfg(test)]
mod tests;
