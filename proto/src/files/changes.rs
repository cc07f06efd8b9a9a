//! The entries of fetched content that have another name on this disk than at the source, or are missing.

use std::path::PathBuf;

use super::{NameFault, RelPath};

/// A file or folder that was written under another name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// Its name at the source; inside a fetched folder, its path there.
    pub name: RelPath,
    /// Its path on this disk.
    pub path: PathBuf,
    /// The reason why its name was changed.
    pub why: NameFault,
}

/// A file or subfolder of a fetched folder that could not be written to this disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its path in the fetched folder.
    pub path: RelPath,
    /// The reason why it was left out.
    pub why: NameFault,
}

/// The entries that a fetch has renamed, and those that it could not write. An event carries the first
/// [`MAX`](Self::MAX) of each, and the number of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// Entries that have another name on this disk than at the source.
    pub renamed: Vec<Renamed>,
    /// The number of further renamed entries.
    pub more_renamed: usize,
    /// Entries of a fetched folder that could not be written.
    pub left_out: Vec<LeftOut>,
    /// The number of further entries that could not be written.
    pub more_left_out: usize,
}

impl Changes {
    /// Maximum number of renamed entries, and of left-out entries, in one event. 100: a folder may have a
    /// million entries, and each event that waits for the application would hold all of their names.
    pub const MAX: usize = 100;

    /// Keeps the first [`MAX`](Self::MAX) entries of each list, and counts the others.
    #[must_use]
    pub fn new(renamed: &[Renamed], left_out: &[LeftOut]) -> Self {
        Self {
            renamed: renamed.iter().take(Self::MAX).cloned().collect(),
            more_renamed: renamed.len().saturating_sub(Self::MAX),
            left_out: left_out.iter().take(Self::MAX).cloned().collect(),
            more_left_out: left_out.len().saturating_sub(Self::MAX),
        }
    }

    /// Returns whether every entry was written, under whatever name.
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
