//! The results of sharing: progress, what was shared or left out, and errors.

use std::io;
use std::path::PathBuf;

use peerkit_proto::files::{Access, ManifestError, NameError, NameFault, RelPath, SharedFile};

use crate::store::StoreError;

/// The progress of hashing, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HashProgress {
    /// Bytes that were hashed, or whose hash was known already.
    pub done: u64,
    /// Bytes of all files.
    pub total: u64,
}

/// The result of adding a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// The shared file or folder.
    pub shared: SharedFile,
    /// Number of files in it; 1 for a file.
    pub files: usize,
    /// The entries of the folder that are not shared.
    pub skipped: Vec<Skipped>,
    /// The nodes that may find and fetch it.
    pub access: Access,
    /// True if it is shared again after a restart: see [`Sharing::remember`](crate::Sharing::remember).
    pub is_remembered: bool,
}

/// Part of the list of files in a shared folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderPart {
    /// Number of files in the whole folder.
    pub total: usize,
    /// The requested files, in the order of their paths.
    pub files: Vec<FolderFile>,
}

/// A file in a shared folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderFile {
    /// The path in the folder.
    pub path: RelPath,
    /// The file, which can be fetched by its hash.
    pub file: SharedFile,
}

/// An entry of a folder that is not shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The path of the entry.
    pub path: PathBuf,
    /// The reason.
    pub why: SkipReason,
}

/// The reason why an entry of a folder is not shared. Hidden files are shared like others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SkipReason {
    /// It is a symbolic link, which could lead anywhere.
    #[error("a symbolic link")]
    Symlink,
    /// It is a device, a pipe or a socket.
    #[error("neither a file nor a folder")]
    Special,
    /// Its name or path is refused: see [`NameFault`].
    #[error("{0}")]
    Name(NameFault),
    /// It can't be read. Contains the system's error.
    #[error("can't be read: {0}")]
    Unreadable(String),
    /// It was written to while it was hashed.
    #[error("was being changed")]
    Changing,
    /// It belongs to an unfinished download.
    #[error("an unfinished fetch")]
    Unfinished,
}

/// The result of scanning the shares again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refreshed {
    /// Shares whose content has changed: the earlier one and the present one.
    pub changed: Vec<(SharedFile, SharedFile)>,
    /// Paths at which nothing can be shared any more, with the share before the scan if there was one.
    pub removed: Vec<(PathBuf, Option<SharedFile>)>,
    /// The entries of folders that are not shared.
    pub skipped: Vec<Skipped>,
}

/// The error of sharing a file or folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// It is missing or can't be read.
    #[error("can't share {path}: {error}", path = .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// It is a device, a pipe or a socket, or a symbolic link has replaced it.
    #[error("can't share {path}: it is neither a file nor a folder", path = .0.display())]
    Special(PathBuf),
    /// It is the root of a disk, which has no name.
    #[error("can't share {path}: it has no name; what is in it can be shared", path = .0.display())]
    Nameless(PathBuf),
    /// Its name or path is refused: see [`NameFault`].
    #[error("can't share this under its name, rename it first: {0}")]
    Name(NameError),
    /// It was written to while it was hashed.
    #[error("can't share {path}: it was being changed, try again when it is done", path = .0.display())]
    Changing(PathBuf),
    /// The folder is over a limit.
    #[error("can't share {path}: {error}", path = .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The limit.
        error: ManifestError,
    },
    /// The node's state can't be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gives no random numbers for a secret.
    #[error("no random numbers: {0}")]
    NoRandomNumbers(getrandom::Error),
    /// The node is stopping.
    #[error("stopped before it was done")]
    Stopped,
}

impl From<NameError> for ShareError {
    fn from(error: NameError) -> Self {
        Self::Name(error)
    }
}
