//! The names that files from the network get on the disk of this machine.
//!
//! A name is chosen by another machine, so three things can be wrong with it here:
//!
//! - This system or its disk cannot have the name. Windows has devices (`CON`), characters (`:`) and
//!   endings (`.`) that no file can be called, and every disk has a longest name and path.
//! - It would do something that the user did not ask for. A file `.bash_profile` in the home folder
//!   is run by the next login, and `-rf` is an option to most commands. Inside a folder that was
//!   fetched as a whole such names are ordinary content (`.git`), so this concerns only the file or
//!   folder that lands among the user's own.
//! - It shows as another name: U+202E makes `gpj.exe` out of `exe.jpg`.
//!
//! In all of these cases characters are replaced by `_`. A name in a folder that is only too long is left
//! out. Every rule takes the platform as a parameter, so that each is tested on any system.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::manifest::{Manifest, ManifestEntry};
use super::path::{FileName, MAX_NAME, MAX_PATH, NameFault, RelPath, folded};

/// Numbered names that are tried for an entry whose name another entry has.
const MAX_NUMBER: u32 = 9999;

/// A family of systems, as far as names of files are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Platform {
    /// Linux and most others: any name without `/` and NUL.
    Unix,
    /// macOS: the same, but `a` and `A` are one name.
    Mac,
    /// Windows.
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

    /// Longest absolute path of a file, in bytes.
    #[must_use]
    pub fn max_path(self) -> usize {
        match self {
            // PATH_MAX counts the NUL at the end.
            Self::Unix => 4095,
            Self::Mac => 1023,
            // Extended paths (`\\?\`) have at most 32,767 UTF-16 units, of which Windows may need some itself.
            Self::Windows => 32_000,
        }
    }

    /// Returns whether names that differ only in case are one name.
    fn ignores_case(self) -> bool {
        !matches!(self, Self::Unix)
    }
}

/// The rules of a machine's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskRules {
    /// The system.
    pub platform: Platform,
    /// Longest name, in bytes.
    pub max_name: usize,
    /// Longest path below the folder that is written, in bytes.
    pub max_path: usize,
}

impl DiskRules {
    /// Returns the rules of a platform, for a disk that sets no tighter limits.
    #[must_use]
    pub fn new(platform: Platform) -> Self {
        Self { platform, max_name: MAX_NAME, max_path: MAX_PATH }
    }

    /// Returns the name for a file or folder that lands among the user's own files, and the reason if it is not
    /// `name`.
    #[must_use]
    pub fn top_name(&self, name: &FileName) -> (FileName, Option<NameFault>) {
        let (safe, fault) = match replaced(name.as_str(), self.platform, true) {
            Some((safe, fault)) => (safe, Some(fault)),
            None => (name.as_str().to_owned(), None),
        };
        let is_long = safe.len() > self.max_name;
        let fault = fault.or_else(|| is_long.then_some(NameFault::TooLongForDisk));
        if fault.is_none() {
            return (name.clone(), None);
        }
        // After the cut the name may end with a dot or space, which Windows drops.
        let cut = with_suffix(&safe, "", true, self.max_name);
        (FileName(without_faults(&cut, self.platform).into()), fault)
    }
}

/// The paths of a folder's entries on a disk, as far as they differ from those in its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskNames {
    /// By the index of the entry in the manifest.
    changed: BTreeMap<usize, NameChange>,
    /// The entries that have another path.
    by_path: BTreeMap<RelPath, usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum NameChange {
    /// It is at this path. No fault if only a folder above it has another name.
    Path(RelPath, Option<NameFault>),
    LeftOut(NameFault),
}

impl DiskNames {
    /// Decides the path of each entry of `manifest` under `rules`. `refused` are the
    /// [peculiarities](nonportable_part) of names that the disk was found to refuse.
    #[must_use]
    pub fn plan(manifest: &Manifest, rules: &DiskRules, refused: &BTreeSet<String>) -> Self {
        let entries = manifest.entries();
        let mut own = own_changes(entries, rules.platform);
        for (at, entry) in entries.iter().enumerate() {
            let name = last(entry.path());
            if name.len() > rules.max_name {
                own.insert(at, Own::LeftOut(NameFault::TooLongForDisk));
            } else if !refused.is_empty()
                && nonportable_part(name)
                    .is_some_and(|nonportable_part| refused.contains(&nonportable_part))
            {
                own.insert(at, Own::LeftOut(NameFault::RefusedByDisk));
            }
        }
        let is_long = |entry: &ManifestEntry| entry.path().as_str().len() > rules.max_path;
        // Most folders need no other names, and then nothing is kept for each entry.
        if own.is_empty() && !entries.iter().any(is_long) {
            return Self::default();
        }
        let mut names = Self::default();
        // The folders that the entry is in, each with its path on the disk if it has one.
        let mut open: Vec<(&RelPath, Option<RelPath>)> = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            let path = entry.path();
            while open.last().is_some_and(|(above, _)| Some(above.as_str()) != path.parent()) {
                open.pop();
            }
            let to =
                placed(path, open.last().map(|(_, place)| place.as_ref()), own.get(&at), rules);
            if matches!(entry, ManifestEntry::Folder { .. }) {
                open.push((path, to.as_ref().ok().map(|(place, _)| place.clone())));
            }
            match to {
                Ok((place, _)) if place == *path => {}
                Ok((place, fault)) => {
                    names.by_path.insert(place.clone(), at);
                    names.changed.insert(at, NameChange::Path(place, fault));
                }
                Err(fault) => {
                    names.changed.insert(at, NameChange::LeftOut(fault));
                }
            }
        }
        names
    }

    /// Returns the path of an entry on the disk, `None` if it is left out.
    #[must_use]
    pub fn path<'a>(&'a self, manifest: &'a Manifest, at: usize) -> Option<&'a RelPath> {
        match self.changed.get(&at) {
            Some(NameChange::Path(path, _)) => Some(path),
            Some(NameChange::LeftOut(_)) => None,
            None => manifest.entries().get(at).map(ManifestEntry::path),
        }
    }

    /// Returns which entry is at `path` on the disk.
    #[must_use]
    pub fn entry_at(&self, manifest: &Manifest, path: &RelPath) -> Option<usize> {
        if let Some(at) = self.by_path.get(path) {
            return Some(*at);
        }
        let at = manifest.entries().binary_search_by(|entry| entry.path().cmp(path)).ok()?;
        // An entry with this path in the manifest may have another path on the disk, or none.
        Some(at).filter(|at| !self.changed.contains_key(at))
    }

    /// Returns whether an entry is left out.
    #[must_use]
    pub fn is_left_out(&self, at: usize) -> bool {
        matches!(self.changed.get(&at), Some(NameChange::LeftOut(_)))
    }

    /// Returns the entries whose own name is another on the disk, with their paths there and the reasons.
    pub fn renamed(&self) -> impl Iterator<Item = (usize, &RelPath, NameFault)> {
        self.changed.iter().filter_map(|(at, change)| match change {
            NameChange::Path(path, Some(fault)) => Some((*at, path, *fault)),
            _ => None,
        })
    }

    /// Returns the entries that are left out, and the reasons.
    pub fn left_out(&self) -> impl Iterator<Item = (usize, NameFault)> {
        self.changed.iter().filter_map(|(at, change)| match change {
            NameChange::LeftOut(fault) => Some((*at, *fault)),
            NameChange::Path(..) => None,
        })
    }
}

/// The name that an entry gets on the disk, or the reason why it is left out.
enum Own {
    Name(String, NameFault),
    LeftOut(NameFault),
}

/// Returns the names that have to be others on `platform`, each free in its folder.
fn own_changes(entries: &[ManifestEntry], platform: Platform) -> BTreeMap<usize, Own> {
    let key = |entry: &ManifestEntry, name: &str| {
        let name = if platform.ignores_case() { folded(name) } else { name.to_owned() };
        // The parent is not folded: folders that differ only in case get different names themselves.
        format!("{}/{name}", entry.path().parent().unwrap_or_default())
    };
    let mut faulty = BTreeMap::new();
    for (at, entry) in entries.iter().enumerate() {
        if let Some(safe) = replaced(last(entry.path()), platform, false) {
            faulty.insert(at, safe);
        }
    }
    // Without other names, and if case matters, no two names can be the same.
    if faulty.is_empty() && !platform.ignores_case() {
        return BTreeMap::new();
    }
    // Names without a fault are taken first, so that a replaced name never displaces one of them.
    let mut used = BTreeSet::new();
    for (at, entry) in entries.iter().enumerate() {
        let name = last(entry.path());
        if !faulty.contains_key(&at) && !used.insert(key(entry, name)) {
            faulty.insert(at, (name.to_owned(), NameFault::NameInUse));
        }
    }
    let mut changes = BTreeMap::new();
    for (at, (safe, fault)) in faulty {
        let Some(entry) = entries.get(at) else { continue };
        let is_file = matches!(entry, ManifestEntry::File { .. });
        // The bound keeps a manifest of names that all become the same one from costing more and more tries.
        let mut names = (0..=MAX_NUMBER).map(|number| match number {
            0 => safe.clone(),
            number => with_suffix(&safe, &format!(" ({number})"), is_file, MAX_NAME),
        });
        let free = names.find(|name| used.insert(key(entry, name)));
        changes.insert(at, free.map_or(Own::LeftOut(fault), |name| Own::Name(name, fault)));
    }
    changes
}

/// Decides the path of an entry. `above` is the folder that it is in, if it is in one: `Some(None)` if that
/// is left out.
fn placed(
    path: &RelPath,
    above: Option<Option<&RelPath>>,
    own: Option<&Own>,
    rules: &DiskRules,
) -> Result<(RelPath, Option<NameFault>), NameFault> {
    let (name, fault) = match own {
        Some(Own::LeftOut(fault)) => return Err(*fault),
        Some(Own::Name(name, fault)) => (&**name, Some(*fault)),
        None => (last(path), None),
    };
    let place = match above {
        None => name.to_owned(),
        Some(Some(above)) => format!("{above}/{name}"),
        Some(None) => return Err(NameFault::ParentNotWritten),
    };
    match RelPath::new(place) {
        Ok(place) if place.as_str().len() <= rules.max_path => Ok((place, fault)),
        _ => Err(NameFault::TooLongForDisk),
    }
}

fn last(path: &RelPath) -> &str {
    path.components().next_back().unwrap_or_default()
}

/// Returns `name` with `suffix` behind its stem, at most `max` bytes in all: the stem is cut for it.
///
/// The extension after the last dot is kept, unless `has_extension` is false or the extension is too long.
#[must_use]
pub fn with_suffix(name: &str, suffix: &str, has_extension: bool, max: usize) -> String {
    // In a name such as `.profile` the dot does not begin an extension.
    let dot = name.rfind('.').filter(|at| *at > 0 && has_extension).unwrap_or(name.len());
    let (stem, extension) = name.split_at_checked(dot).unwrap_or((name, ""));
    // At least half of the bytes are left to the stem.
    let (stem, extension) = if extension.len() <= max / 2 { (stem, extension) } else { (name, "") };
    let left = max.saturating_sub(suffix.len()).saturating_sub(extension.len());
    let cut = stem.get(..stem.floor_char_boundary(left)).unwrap_or_default();
    format!("{cut}{suffix}{extension}")
}

/// Returns whether a character changes the direction of the text around it (UAX #9), or breaks a
/// line: the text then reads as something else.
#[must_use]
pub fn is_misleading(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// Returns a text from another machine, such as the name of a node or file, as one line that is safe to
/// print on a terminal: control characters and those that [`is_misleading`] names are written out.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_misleading(c) {
            plain.extend(c.escape_default())
        } else {
            plain.push(c)
        }
    }
    plain
}

/// Returns the characters of a name that some file systems refuse, although others allow them. Names that are
/// refused for the same reason give the same text. Returns `None` if there are none.
///
/// Which names a disk refuses is found out by trying, once for each such text.
#[must_use]
pub fn nonportable_part(name: &str) -> Option<String> {
    let (_, _) = replaced(name, Platform::Windows, false)?;
    let mut special: Vec<char> = name.chars().filter(|c| is_special(*c)).collect();
    special.sort_unstable();
    special.dedup();
    let mut text: String = special.into_iter().collect();
    text.extend(name.chars().next_back().filter(|last| matches!(last, '.' | ' ')));
    if is_device(name) {
        text.push_str(&name.split('.').next().unwrap_or_default().to_ascii_lowercase());
    }
    Some(text)
}

/// Returns whether no name on Windows can have this character. Control characters are in no name at all.
fn is_special(c: char) -> bool {
    matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')
}

/// Returns `name` without what `platform` would refuse or read as something else.
pub(super) fn without_faults(name: &str, platform: Platform) -> Cow<'_, str> {
    match replaced(name, platform, false) {
        Some((safe, _)) => Cow::Owned(safe),
        None => Cow::Borrowed(name),
    }
}

/// Returns a safe name in place of `name`, and the first reason for it. Returns `None` if the name is safe.
/// `among_own` says that the file lands among the user's own files.
fn replaced(name: &str, platform: Platform, among_own: bool) -> Option<(String, NameFault)> {
    let is_windows = platform == Platform::Windows;
    let fault_of = |(at, c): (usize, char)| match c {
        '.' if among_own && at == 0 => Some(NameFault::LeadingDot),
        '-' if among_own && at == 0 => Some(NameFault::LeadingDash),
        c if is_windows && is_special(c) => Some(NameFault::WindowsCharacter),
        c if is_misleading(c) => Some(NameFault::MisleadingCharacter),
        _ => None,
    };
    let mut fault = name.char_indices().find_map(fault_of);
    let mut safe = match fault {
        None => Cow::Borrowed(name),
        Some(_) => {
            let letters = name.char_indices();
            letters.map(|(at, c)| fault_of((at, c)).map_or(c, |_| '_')).collect()
        }
    };
    if is_windows {
        let kept = safe.trim_end_matches(['.', ' ']).len();
        if kept < safe.len() {
            fault.get_or_insert(NameFault::TrailingDotOrSpace);
            let dropped = safe.len() - kept;
            let text = safe.to_mut();
            text.truncate(kept);
            // As many characters as before, so that `a.` and `a..` stay apart.
            text.extend(std::iter::repeat_n('_', dropped));
        }
        if is_device(&safe) {
            fault.get_or_insert(NameFault::WindowsDevice);
            let stem = safe.find('.').unwrap_or(safe.len());
            safe.to_mut().insert(stem, '_');
        }
    }
    let fault = fault?;
    // The character that was inserted may make the name too long.
    Some((with_suffix(&safe, "", true, MAX_NAME), fault))
}

/// Returns whether every system can have a name, as far as its form goes.
pub(super) fn is_portable(name: &str) -> bool {
    // On Windows `c:x` is a path on drive C. Other colons are accepted, as by nodes of earlier versions.
    let has_drive = matches!(name.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic());
    !(has_drive || name.contains('\\') || name.ends_with(['.', ' ']) || is_device(name))
}

/// Returns the form of `name` that every system can have.
pub(super) fn portable(name: &FileName) -> FileName {
    if is_portable(&name.0) {
        name.clone()
    } else {
        FileName(without_faults(&name.0, Platform::Windows).into())
    }
}

/// Returns whether a name is a device on Windows. With any extension it is that device too, and the superscript
/// digits of Latin-1 count as digits (Microsoft, "Naming Files, Paths, and Namespaces").
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
