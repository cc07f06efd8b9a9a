//! Checked names and paths of files from other nodes. They can't lead out of a folder.
//!
//! A name is refused here if no system allows it, if it could lead out of its folder, or if it contains a
//! control character. Names that only some systems refuse are accepted: [`disk`] decides under which name
//! such a file is written on this computer.

use std::cmp::Ordering;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use unicode_normalization::UnicodeNormalization as _;

use super::disk::{self, DiskRules, Platform};
use crate::text::serde_as_text;

/// Maximum length of the name of a file or folder, in bytes. 255: the limit of ext4 and XFS. APFS and NTFS
/// allow at least as many.
pub const MAX_NAME: usize = 255;

/// Maximum length of a relative path, in bytes. 4096: Linux's `PATH_MAX`.
pub const MAX_PATH: usize = 4096;

/// Maximum number of components of a relative path. 64: a deeper tree is an accident, or an attack on
/// recursive code.
pub const MAX_DEPTH: usize = 64;

/// The name of one file or folder, without the folders above it.
///
/// It is not empty, `.` or `..`, has no `/`, NUL or other control character, and has at most [`MAX_NAME`]
/// bytes. Windows refuses some of these names, so do not join a name to a folder as it is: use
/// [`DiskRules::top_name`](disk::DiskRules::top_name) or [`RelPath::join_to`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(pub(super) Box<str>);

/// The path of a file or folder inside another folder: one or more [`FileName`]s with `/` between them.
///
/// It has at most [`MAX_PATH`] bytes and [`MAX_DEPTH`] components. Paths are ordered by component, so that
/// a folder comes directly before its content.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RelPath(Box<str>);

/// A refused name, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} can't be a file's name: {fault}")]
pub struct NameError {
    /// The refused name, or its beginning if it is very long.
    pub name: String,
    /// The reason why it was refused.
    pub fault: NameFault,
}

/// The reason why a name or path was refused, or why a file got another name on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameFault {
    /// The name is empty, or a component of the path is.
    #[error("a part of it is empty")]
    Empty,
    /// The name is `.` or `..`.
    #[error("`.` and `..` are not names")]
    Dots,
    /// A single name contains a `/`.
    #[error("it has a `/` in it")]
    Separator,
    /// The name contains NUL or another control character.
    #[error("it has a control character in it")]
    ControlCharacter,
    /// The name contains a character that Windows does not allow, such as `\` or `:`.
    #[error("it has a character in it that Windows does not allow")]
    WindowsCharacter,
    /// The name ends with a dot or a space, which Windows drops.
    #[error("it ends with a dot or a space, which Windows drops")]
    TrailingDotOrSpace,
    /// Windows has a device with this name, such as `CON`.
    #[error("it is the name of a device on Windows")]
    WindowsDevice,
    /// The name begins with a dot. Such files are hidden, and programs read some of them automatically.
    #[error("it begins with a dot")]
    LeadingDot,
    /// The name begins with a dash, so commands would take it for an option.
    #[error("it begins with a dash")]
    LeadingDash,
    /// The name contains a character that changes the direction of text or breaks the line, so it could look
    /// like another name.
    #[error("it has a character in it that changes how text is shown")]
    MisleadingCharacter,
    /// Another file or folder in the same folder has the name.
    #[error("another file has that name")]
    NameInUse,
    /// The name or path has more bytes than this disk allows.
    #[error("it is too long for this disk")]
    TooLongForDisk,
    /// The file system refused the name.
    #[error("this disk does not allow it")]
    RefusedByDisk,
    /// The folder that the file or subfolder is in was not written.
    #[error("its folder could not be written")]
    ParentNotWritten,
    /// One component has more than [`MAX_NAME`] bytes, or the whole path more than [`MAX_PATH`].
    #[error("a name has at most {MAX_NAME} bytes, a path {MAX_PATH}")]
    TooLong,
    /// The path has more than [`MAX_DEPTH`] components.
    #[error("a path has at most {MAX_DEPTH} parts")]
    TooDeep,
    /// The name is not UTF-8. Only Unix has such names.
    #[error("it is not UTF-8")]
    NotUtf8,
}

impl NameError {
    fn new(name: &str, fault: NameFault) -> Self {
        let end = name.floor_char_boundary(MAX_NAME);
        Self { name: name[..end].to_owned(), fault }
    }
}

impl FileName {
    /// Checks `name`, and returns it as a [`FileName`].
    ///
    /// # Errors
    /// If the name is invalid, with the first fault that was found.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        match fault_of(&name) {
            None => Ok(Self(name.into())),
            Some(fault) => Err(NameError::new(&name, fault)),
        }
    }

    /// Returns the last component of a path on this computer.
    ///
    /// # Errors
    /// If the path has no last component (`/`, `..`), or if that component is not UTF-8 or not valid.
    pub fn of_path(path: &Path) -> Result<Self, NameError> {
        let text = || path.to_string_lossy();
        let name = path
            .file_name()
            .ok_or_else(|| NameError::new(&text(), NameFault::Empty))?
            .to_str()
            .ok_or_else(|| NameError::new(&text(), NameFault::NotUtf8))?;
        Self::new(name)
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether the name is portable: it has no `\`, begins with no drive letter, ends with no dot or
    /// space, and is not that of a device. Nodes of earlier versions refuse other names in search answers.
    #[must_use]
    pub fn is_portable(&self) -> bool {
        disk::is_portable(&self.0)
    }

    /// Returns whether `text` is this name. Upper and lower case differ. Composed (NFC) and decomposed (NFD)
    /// accents do not.
    #[must_use]
    pub fn matches_name(&self, text: &str) -> bool {
        *self.0 == *text || self.0.nfc().eq(text.nfc())
    }
}

impl RelPath {
    /// Checks `path`, and returns it as a [`RelPath`].
    ///
    /// # Errors
    /// If the path is invalid, with the first fault that was found.
    pub fn new(path: impl Into<String>) -> Result<Self, NameError> {
        let path = path.into();
        // Length and depth come first, so that a very long path costs no further checks.
        let too_long = (path.len() > MAX_PATH).then_some(NameFault::TooLong);
        let too_deep = || (path.split('/').nth(MAX_DEPTH).is_some()).then_some(NameFault::TooDeep);
        match too_long.or_else(too_deep).or_else(|| path.split('/').find_map(fault_of)) {
            None => Ok(Self(path.into())),
            Some(fault) => Err(NameError::new(&path, fault)),
        }
    }

    /// Returns the path of `name` inside this folder.
    ///
    /// # Errors
    /// If the new path is too long or too deep.
    pub fn child(&self, name: &FileName) -> Result<Self, NameError> {
        Self::new(format!("{}/{}", self.0, name.0))
    }

    /// Returns the path as text, with `/` between its components.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the components, outermost first.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// Returns the path without its last component, or `None` if it has only one component.
    #[must_use]
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// Returns the last component.
    #[must_use]
    pub fn name(&self) -> FileName {
        let name = self.0.rsplit('/').next().unwrap_or_default();
        FileName(name.into())
    }

    /// Joins the path to `base`, with this system's separators. The result is always inside `base`: on
    /// Windows, components with a special meaning there are replaced as [`disk`] describes.
    #[must_use]
    pub fn join_to(&self, base: &Path) -> PathBuf {
        let mut path = base.to_owned();
        for name in self.components() {
            match Platform::HERE {
                Platform::Windows => {
                    path.push(&*disk::without_faults(name, &DiskRules::new(Platform::HERE)));
                }
                // On Unix only `/`, `.` and `..` are special in a path, and no checked name contains `/` or
                // is one of the others.
                _ => path.push(name),
            }
        }
        path
    }
}

impl From<FileName> for RelPath {
    fn from(name: FileName) -> Self {
        Self(name.0)
    }
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> Ordering {
        // A comparison as text would put `a-` and `a.txt` between the folder `a` and its file `a/b`.
        self.components().cmp(other.components())
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Returns `text` in the form in which a search compares names: in lower case, with composed
/// accents (NFC).
///
/// Some systems write `é` as one character, others as two.
#[must_use]
pub fn folded(text: &str) -> String {
    if text.is_ascii() { text.to_ascii_lowercase() } else { text.to_lowercase().nfc().collect() }
}

/// Returns the first fault of a name, or `None` if the name is valid.
fn fault_of(name: &str) -> Option<NameFault> {
    match name.as_bytes() {
        [] => Some(NameFault::Empty),
        b"." | b".." => Some(NameFault::Dots),
        bytes if bytes.len() > MAX_NAME => Some(NameFault::TooLong),
        bytes if bytes.contains(&b'/') => Some(NameFault::Separator),
        // A terminal that shows the name would carry out its control characters.
        _ if has_control_character(name) => Some(NameFault::ControlCharacter),
        _ => None,
    }
}

fn has_control_character(name: &str) -> bool {
    // A folder may have a million names. Most are ASCII, which is faster to check.
    if name.is_ascii() {
        name.bytes().any(|byte| byte.is_ascii_control())
    } else {
        name.contains(char::is_control)
    }
}

macro_rules! checked_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    };
}

checked_text!(FileName);
checked_text!(RelPath);
serde_as_text!(FileName, RelPath);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Component;

    fn fault(path: &str) -> Option<NameFault> {
        RelPath::new(path).err().map(|error| error.fault)
    }

    #[test]
    fn names_that_unix_allows_are_accepted() {
        for name in [
            "a",
            ".hidden",
            "..data",
            "a b.tar.gz",
            "Ünï",
            "2024-01-01T10:00.log",
            "console.txt",
            "COM10",
            "COM",
            "nul",
            "aux.txt",
            "ends with a dot.",
            "a\\b",
            "C:x",
            "...",
        ] {
            assert_eq!(FileName::new(name).unwrap().as_str(), name);
        }
        assert_eq!(RelPath::new("a/b/c.txt").unwrap().parent(), Some("a/b"));
        assert_eq!(RelPath::new("a/b/c.txt").unwrap().name().as_str(), "c.txt");
        assert_eq!(RelPath::new("a").unwrap().parent(), None);
    }

    #[test]
    fn every_way_out_of_the_folder_is_refused() {
        use NameFault as F;
        for (path, expected) in [
            ("", F::Empty),
            ("/etc/passwd", F::Empty),
            ("a//b", F::Empty),
            ("a/", F::Empty),
            ("..", F::Dots),
            ("a/../../b", F::Dots),
            ("a/./b", F::Dots),
            ("a\0b", F::ControlCharacter),
            ("a/b\n", F::ControlCharacter),
            // An escape sequence of terminals.
            ("a\u{9b}31m", F::ControlCharacter),
        ] {
            assert_eq!(fault(path), Some(expected), "{path:?}");
        }
        assert_eq!(fault(&"a".repeat(MAX_NAME)), None);
        assert_eq!(fault(&"a".repeat(MAX_NAME + 1)), Some(F::TooLong));
        assert_eq!(fault(&["a"; MAX_DEPTH].join("/")), None);
        assert_eq!(fault(&["a"; MAX_DEPTH + 1].join("/")), Some(F::TooDeep));
        let long = "a".repeat(200);
        assert_eq!(fault(&[&long[..]; 21].join("/")), Some(F::TooLong));
        assert!(FileName::new("a/b").is_err());
    }

    #[test]
    fn composed_and_decomposed_accents_are_equal() {
        assert_eq!(folded("R\u{c9}SUM\u{c9}"), folded("re\u{301}sume\u{301}"));
        assert_eq!(folded("A-B.TXT"), "a-b.txt");
        let name = FileName::new("caf\u{e9}").unwrap();
        assert!(name.matches_name("cafe\u{301}") && !name.matches_name("Caf\u{e9}"));
    }

    #[test]
    fn an_error_contains_the_name_or_its_beginning() {
        let error = FileName::new("../../x").unwrap_err();
        assert!(error.to_string().contains("../../x"), "{error}");
        let error = FileName::new("é".repeat(500)).unwrap_err();
        assert!(error.name.len() <= MAX_NAME);
    }

    #[test]
    fn a_folder_comes_directly_before_its_content() {
        let mut paths: Vec<RelPath> = ["a.txt", "a/b", "a", "b", "a/b/c", "a-"]
            .map(|path| RelPath::new(path).unwrap())
            .into();
        paths.sort();
        let sorted: Vec<_> = paths.iter().map(RelPath::as_str).collect();
        assert_eq!(sorted, ["a", "a/b", "a/b/c", "a-", "a.txt", "b"]);
    }

    proptest! {
        #[test]
        fn an_accepted_path_stays_inside_its_base(path in "[a.:/\\\\ CON1\0é]{0,20}") {
            if let Ok(path) = RelPath::new(path) {
                let base = Path::new("/some/base");
                let joined = path.join_to(base);
                let rest = joined.strip_prefix(base).unwrap();
                prop_assert!(rest.components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert_eq!(rest.components().count(), path.components().count());
                let rest = rest.to_str().unwrap().replace(std::path::MAIN_SEPARATOR, "/");
                prop_assert_eq!(rest, path.as_str());
            }
        }

        #[test]
        fn only_equal_paths_compare_as_equal(a in "[a/.b]{1,6}", b in "[a/.b]{1,6}") {
            if let (Ok(a), Ok(b)) = (RelPath::new(a), RelPath::new(b)) {
                prop_assert_eq!(a.cmp(&b).is_eq(), a == b);
                prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            }
        }
    }
}
