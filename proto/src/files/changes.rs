//! The differences between fetched content and its source, if this disk can't hold all of it.

use std::path::PathBuf;

use super::{NameFault, RelPath};

/// A file or folder that was written under another name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// Its name, or its path in the fetched folder.
    pub name: RelPath,
    /// Its path.
    pub path: PathBuf,
    /// The reason why it could not have its name.
    pub why: NameFault,
}

/// A file or folder in a fetched folder that could not be written to this disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its path in the fetched folder.
    pub path: RelPath,
    /// The reason why it is left out.
    pub why: NameFault,
}

/// The entries that a fetch wrote under other names, and those that it could not write, as an event
/// lists them: the first [`MAX`](Self::MAX) of each kind by name, and the number of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// Entries that have another name here than at their source.
    pub renamed: Vec<Renamed>,
    /// Number of further entries that have another name.
    pub more_renamed: usize,
    /// Entries of a folder that could not be written.
    pub left_out: Vec<LeftOut>,
    /// Number of further entries that could not be written.
    pub more_left_out: usize,
}

impl Changes {
    /// Entries of each kind that are listed by name. 100: a folder may have a million entries, and
    /// each event that waits for the application would hold all of their names.
    pub const MAX: usize = 100;

    /// Lists entries that have other names and entries that could not be written.
    #[must_use]
    pub fn new(renamed: &[Renamed], left_out: &[LeftOut]) -> Self {
        Self {
            renamed: renamed.iter().take(Self::MAX).cloned().collect(),
            more_renamed: renamed.len().saturating_sub(Self::MAX),
            left_out: left_out.iter().take(Self::MAX).cloned().collect(),
            more_left_out: left_out.len().saturating_sub(Self::MAX),
        }
    }

    /// Returns whether all of it was written.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.left_out.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut_and_counted() {
        let path = |n: usize| n.to_string().parse::<RelPath>().unwrap();
        let why = NameFault::TooLongForDisk;
        let renamed = |n| Renamed { name: path(n), path: "/d".into(), why };
        let left_out = |n| LeftOut { path: path(n), why };
        let some = |renamed_count, left_count| {
            let renamed: Vec<_> = (0..renamed_count).map(renamed).collect();
            let left_out: Vec<_> = (0..left_count).map(left_out).collect();
            Changes::new(&renamed, &left_out)
        };
        assert!(some(0, 0) == Changes::default() && some(3, 0).is_whole());
        let changes = some(Changes::MAX, Changes::MAX + 7);
        assert_eq!((changes.renamed.len(), changes.more_renamed), (Changes::MAX, 0));
        assert_eq!((changes.left_out.len(), changes.more_left_out), (Changes::MAX, 7));
        assert_eq!(changes.left_out.last(), Some(&left_out(Changes::MAX - 1)));
        assert!(!changes.is_whole());
        assert_eq!(some(Changes::MAX + 2, 1).more_renamed, 2);
    }
}
