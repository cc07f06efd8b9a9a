//! What is told of sharing: how far it is, what came of it, and why not.

use std::io;
use std::path::PathBuf;

use peerkit_proto::files::{Access, ManifestError, NameError, NameFault, RelPath, SharedFile};

use crate::store::StoreError;

/// How far something is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// What adding a share came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// The file or folder itself.
    pub shared: SharedFile,
    /// Files in it: 1 for a file.
    pub files: usize,
    /// What in the folder is not shared, and why.
    pub skipped: Vec<Skipped>,
    /// Who may find and fetch it.
    pub access: Access,
}

/// Some of the files in a shared folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderPart {
    /// Number of files in the whole folder.
    pub total: usize,
    /// Those that were asked for, in the order of their paths.
    pub files: Vec<FolderFile>,
}

/// A file in a shared folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderFile {
    /// Its path in the folder.
    pub path: RelPath,
    /// Its description; it can be fetched by its hash.
    pub file: SharedFile,
}

/// Something in a folder that is not shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its path.
    pub path: PathBuf,
    /// Why it is left out.
    pub why: SkipReason,
}

/// Why something in a folder is not shared. What is hidden is shared like everything else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SkipReason {
    /// A symbolic link: it could lead anywhere.
    #[error("a symbolic link")]
    Symlink,
    /// A device, a pipe, a socket.
    #[error("neither a file nor a folder")]
    Special,
    /// A name that other systems can't have.
    #[error("{0}")]
    Name(NameFault),
    /// What the system said when it was opened.
    #[error("can't be read: {0}")]
    Unreadable(String),
    /// Written to while it was being hashed.
    #[error("was being changed")]
    Changing,
    /// A fetch of peerkit's that is not done.
    #[error("an unfinished fetch")]
    Unfinished,
}

/// What looking at the shares again came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refreshed {
    /// Shares whose content is another: what it was and what it is now.
    pub changed: Vec<(SharedFile, SharedFile)>,
    /// Shares that are gone from disk, or can't be shared any more.
    pub removed: Vec<(PathBuf, Option<SharedFile>)>,
    /// What in the folders is not shared, and why.
    pub skipped: Vec<Skipped>,
}

/// Why something can't be shared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// It is missing or can't be read.
    #[error("can't share {path}: {error}", path = .path.display())]
    Io {
        /// The path as given.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A device, a pipe, a socket.
    #[error("can't share {path}: it is neither a file nor a folder", path = .0.display())]
    Special(PathBuf),
    /// The root of a disk.
    #[error("can't share {path}: it has no name; what is in it can be shared", path = .0.display())]
    Nameless(PathBuf),
    /// Its name is one that other systems can't have.
    #[error("can't share this under its name, rename it first: {0}")]
    Name(NameError),
    /// Written to while it was being hashed.
    #[error("can't share {path}: it was being changed, try again when it is done", path = .0.display())]
    Changing(PathBuf),
    /// The folder is over a limit.
    #[error("can't share {path}: {error}", path = .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Which limit.
        error: ManifestError,
    },
    /// The node's state can't be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system has no random numbers to make a secret of.
    #[error("no random numbers: {0}")]
    NoRandomNumbers(getrandom::Error),
    /// The node is being stopped.
    #[error("stopped before it was done")]
    Stopped,
}

impl From<NameError> for ShareError {
    fn from(error: NameError) -> Self {
        Self::Name(error)
    }
}
