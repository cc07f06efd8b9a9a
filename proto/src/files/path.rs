//! Names of files that came from elsewhere, in types that can't hold a way out.

use std::cmp::Ordering;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name of one file or folder, in bytes: what ext4, XFS, APFS and NTFS allow.
pub const MAX_NAME: usize = 255;

/// Longest relative path, in bytes: Linux's `PATH_MAX`.
pub const MAX_PATH: usize = 4096;

/// Most components of a relative path. 64: deeper trees are accidents or attacks on recursion.
pub const MAX_DEPTH: usize = 64;

/// The name of one file or folder, without anything above it.
///
/// Every value can be joined to a folder and stays right inside it, on Unix and on Windows: it is
/// not empty, `.` or `..`; has no `/`, `\`, NUL or other control character; does not begin with a
/// drive (`C:`), end with a dot or a space, or be a device of Windows (`CON`, `nul.txt`, ...); and
/// has at most [`MAX_NAME`] bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(Box<str>);

/// Where a file stands under some folder: one or more [`FileName`]s with `/` between them.
///
/// At most [`MAX_PATH`] bytes and [`MAX_DEPTH`] components. Ordered by component, so that a folder
/// comes directly before all that it holds.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RelPath(Box<str>);

/// A name that was refused, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} can't be a file's name: {fault}")]
pub struct NameError {
    /// What was refused; of a very long one its beginning.
    pub name: String,
    /// What is wrong with it.
    pub fault: NameFault,
}

/// What is wrong with a name or path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameFault {
    /// Nothing there, or nothing between two `/`.
    #[error("a part of it is empty")]
    Empty,
    /// `.` or `..`.
    #[error("`.` and `..` are not names")]
    Dots,
    /// A `/` or `\` where one name was wanted, or a `\` in a path.
    #[error("it has a `/` or `\\` in it")]
    Separator,
    /// NUL or another control character.
    #[error("it has a control character in it")]
    Control,
    /// Begins with a letter and a colon.
    #[error("it begins with a drive")]
    Drive,
    /// Ends with a dot or a space, which Windows drops.
    #[error("it ends with a dot or a space")]
    Ending,
    /// A device's name on Windows.
    #[error("it is the name of a device on Windows")]
    Reserved,
    /// More than [`MAX_NAME`] bytes in one component or [`MAX_PATH`] in all.
    #[error("a name has at most {MAX_NAME} bytes, a path {MAX_PATH}")]
    TooLong,
    /// More than [`MAX_DEPTH`] components.
    #[error("a path has at most {MAX_DEPTH} parts")]
    TooDeep,
    /// Not UTF-8: such names exist on Unix and can't be told to other systems.
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
    /// Takes `name` where it is one.
    ///
    /// # Errors
    /// With the first fault found.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        match fault_of(&name) {
            None => Ok(Self(name.into())),
            Some(fault) => Err(NameError::new(&name, fault)),
        }
    }

    /// The last component of a path of this machine.
    ///
    /// # Errors
    /// Where it has none (`/`, `..`), is not UTF-8, or would be refused elsewhere.
    pub fn of_path(path: &Path) -> Result<Self, NameError> {
        let shown = || path.to_string_lossy();
        let name = path
            .file_name()
            .ok_or_else(|| NameError::new(&shown(), NameFault::Empty))?
            .to_str()
            .ok_or_else(|| NameError::new(&shown(), NameFault::NotUtf8))?;
        Self::new(name)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RelPath {
    /// Takes `path` where it is one.
    ///
    /// # Errors
    /// With the first fault found.
    pub fn new(path: impl Into<String>) -> Result<Self, NameError> {
        let path = path.into();
        let too_long = (path.len() > MAX_PATH).then_some(NameFault::TooLong);
        let too_deep = || (path.split('/').nth(MAX_DEPTH).is_some()).then_some(NameFault::TooDeep);
        match too_long.or_else(too_deep).or_else(|| path.split('/').find_map(fault_of)) {
            None => Ok(Self(path.into())),
            Some(fault) => Err(NameError::new(&path, fault)),
        }
    }

    /// The path of `name` inside this folder.
    ///
    /// # Errors
    /// Where that becomes too long or too deep.
    pub fn child(&self, name: &FileName) -> Result<Self, NameError> {
        Self::new(format!("{}/{}", self.0, name.0))
    }

    /// The path as text, with `/` between its components.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components, outermost first.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The folder that it is in, as text; `None` at the top.
    #[must_use]
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// The last component.
    #[must_use]
    pub fn name(&self) -> FileName {
        let name = self.0.rsplit('/').next().unwrap_or_default();
        FileName(name.into())
    }

    /// Where it is under `base`, in this machine's form. Always inside `base`.
    #[must_use]
    pub fn under(&self, base: &Path) -> PathBuf {
        let mut path = base.to_owned();
        path.extend(self.components());
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
        self.components().cmp(other.components())
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn fault_of(name: &str) -> Option<NameFault> {
    let bytes = name.as_bytes();
    match bytes {
        [] => Some(NameFault::Empty),
        b"." | b".." => Some(NameFault::Dots),
        [letter, b':', ..] if letter.is_ascii_alphabetic() => Some(NameFault::Drive),
        _ if bytes.len() > MAX_NAME => Some(NameFault::TooLong),
        _ if bytes.iter().any(|byte| matches!(byte, b'/' | b'\\')) => Some(NameFault::Separator),
        _ if has_control(name) => Some(NameFault::Control),
        [.., b'.' | b' '] => Some(NameFault::Ending),
        _ if is_device(name) => Some(NameFault::Reserved),
        _ => None,
    }
}

/// Most names are ASCII, and a folder may have a million of them.
fn has_control(name: &str) -> bool {
    match name.is_ascii() {
        true => name.bytes().any(|byte| byte.is_ascii_control()),
        false => name.contains(char::is_control),
    }
}

/// Windows's "Naming Files, Paths, and Namespaces": a device also with any ending, and the digits
/// of Latin-1's superscripts count.
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

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(text).map_err(serde::de::Error::custom)
            }
        }
    };
}

checked_text!(FileName);
checked_text!(RelPath);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Component;

    fn fault(path: &str) -> Option<NameFault> {
        RelPath::new(path).err().map(|error| error.fault)
    }

    #[test]
    fn takes_ordinary_names() {
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
        ] {
            assert_eq!(FileName::new(name).unwrap().as_str(), name);
        }
        assert_eq!(RelPath::new("a/b/c.txt").unwrap().parent(), Some("a/b"));
        assert_eq!(RelPath::new("a/b/c.txt").unwrap().name().as_str(), "c.txt");
        assert_eq!(RelPath::new("a").unwrap().parent(), None);
    }

    #[test]
    fn refuses_every_way_out() {
        use NameFault as F;
        for (path, expected) in [
            ("", F::Empty),
            ("/etc/passwd", F::Empty),
            ("a//b", F::Empty),
            ("a/", F::Empty),
            ("..", F::Dots),
            ("a/../../b", F::Dots),
            ("a/./b", F::Dots),
            ("..\\..\\b", F::Separator),
            ("C:\\Windows", F::Drive),
            ("a/c:", F::Drive),
            ("a\0b", F::Control),
            ("a/b\n", F::Control),
            ("a\u{9b}31m", F::Control),
            ("a.", F::Ending),
            ("a ", F::Ending),
            ("...", F::Ending),
            ("nul", F::Reserved),
            ("x/Con.tar.gz", F::Reserved),
            ("com1", F::Reserved),
            ("LPT¹.txt", F::Reserved),
            ("aux .txt", F::Reserved),
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
    fn an_error_shows_the_name() {
        let error = FileName::new("../../x").unwrap_err();
        assert!(error.to_string().contains("../../x"), "{error}");
        let error = FileName::new("é".repeat(500)).unwrap_err();
        assert!(error.name.len() <= MAX_NAME);
    }

    #[test]
    fn a_folder_comes_directly_before_what_it_holds() {
        let mut paths: Vec<RelPath> = ["a.txt", "a/b", "a", "b", "a/b/c", "a-"]
            .map(|path| RelPath::new(path).unwrap())
            .into();
        paths.sort();
        let sorted: Vec<_> = paths.iter().map(RelPath::as_str).collect();
        assert_eq!(sorted, ["a", "a/b", "a/b/c", "a-", "a.txt", "b"]);
    }

    proptest! {
        #[test]
        fn an_accepted_path_stays_under_its_base(path in "[a.:/\\\\ CON1\0é]{0,20}") {
            if let Ok(path) = RelPath::new(path) {
                let base = Path::new("/some/base");
                let joined = path.under(base);
                let rest = joined.strip_prefix(base).unwrap();
                prop_assert!(rest.components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert_eq!(rest.components().count(), path.components().count());
                let rest = rest.to_str().unwrap().replace(std::path::MAIN_SEPARATOR, "/");
                prop_assert_eq!(rest, path.as_str());
            }
        }

        #[test]
        fn equal_order_is_equality(a in "[a/.b]{1,6}", b in "[a/.b]{1,6}") {
            if let (Ok(a), Ok(b)) = (RelPath::new(a), RelPath::new(b)) {
                prop_assert_eq!(a.cmp(&b).is_eq(), a == b);
                prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            }
        }
    }
}
