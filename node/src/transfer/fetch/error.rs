//! The failures of a source, or of a whole fetch.

use std::io;
use std::path::{Path, PathBuf};

use peerkit_proto::codec::DecodeError;
use peerkit_proto::files::fetch::Fault;
use peerkit_proto::files::{FileRefusal, ManifestError, PieceError, RelPath, WireError};

/// The failure of a source, or of a fetch. Pieces that were verified before are kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The source has refused the request.
    #[error("{0}")]
    Refused(FileRefusal),
    /// The file was changed or removed at the source after it was shared.
    #[error("{name} was changed or removed at its source after it was shared")]
    Changed {
        /// The name at the source. For a file in a folder it is a path that begins with the folder's name.
        name: String,
    },
    /// The source sent a piece or a list that does not belong to the file.
    #[error("the source sent wrong data: {0}")]
    Lie(PieceError),
    /// The source sent a folder without a valid list of its entries.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The source sent a message that is not valid, or a name that is refused.
    #[error("the source's answer is not valid: {0}")]
    Protocol(WireError),
    /// The source sent an answer that does not fit the request. The text says what was requested.
    #[error("the source's answer does not fit the request: {0}")]
    Unexpected(&'static str),
    /// The size that the source describes is over the limit for a file or a folder.
    #[error("{size} bytes are over the limit of {limit}")]
    TooLarge {
        /// The size that the source describes, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// Nothing came for 30 s, or a piece took longer than 300 s.
    #[error("the source sends nothing, or too slowly")]
    Stalled,
    /// The connection to the source broke.
    #[error("the connection to the source broke: {0}")]
    Stream(io::Error),
    /// There is a direct link with the source now, so its relayed stream is given up for a direct one.
    #[error("the source is connected without a relay now")]
    Direct,
    /// A file inside a folder has failed.
    #[error("{path}: {error}")]
    InFolder {
        /// The file.
        path: RelPath,
        /// The failure.
        error: Box<Self>,
    },
    /// The disk of this machine has failed.
    #[error("can't write {path}: {error}", path = .path.display())]
    Disk {
        /// The path that could not be written.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// Something is at the target that is not a regular file. It was left as it is.
    #[error("{path} is {kind}, which a fetched file does not replace", path = .path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// The kind of thing that is at the path.
        kind: InTheWay,
    },
    /// The disk has too little room. Nothing was begun, or the unfinished part is kept.
    #[error(
        "{path} needs {needed} bytes and the disk has {free} left: make room, or choose another place",
        path = .path.display()
    )]
    NoSpace {
        /// The path that is being written.
        path: PathBuf,
        /// Bytes that are still to be written.
        needed: u64,
        /// Bytes that there is room for.
        free: u64,
    },
    /// Sources are left, and none of them has the missing pieces.
    #[error("no node that can be reached has the rest of it")]
    NoMore,
    /// Something is missing that the fetch should have by now, which is a bug.
    #[error("the download is incomplete: fetch it again")]
    Unfinished,
    /// It was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The runtime is being stopped.
    #[error("stopped before it was done")]
    Stopped,
}

impl FetchError {
    /// Returns whether the source broke the protocol, or sent something else than was requested. The fetch
    /// requests nothing more from such a source, and the application gets an event.
    #[must_use]
    pub fn is_lie(&self) -> bool {
        self.fault() == Fault::Lie
    }

    /// Returns whether the source can no longer serve the content, because it was changed or removed there.
    /// It has to be shared again.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.fault() == Fault::Changed
    }

    /// Returns what this failure of a source means for the fetch.
    pub(super) fn fault(&self) -> Fault {
        match self {
            // `TooLarge` is among these because an honest node can't share a file or folder over the limit.
            Self::Lie(_)
            | Self::Manifest(_)
            | Self::Protocol(_)
            | Self::Unexpected(_)
            | Self::TooLarge { .. } => Fault::Lie,
            Self::Changed { .. } | Self::Refused(FileRefusal::Changed) => Fault::Changed,
            // These may pass: a source that has nothing now may be fetching the content itself.
            Self::Stalled
            | Self::Stream(_)
            | Self::Direct
            | Self::Refused(FileRefusal::NotFound | FileRefusal::Busy)
            | Self::Stopped => Fault::Lost,
            Self::Refused(_) => Fault::Refused,
            Self::Disk { .. }
            | Self::NotAFile { .. }
            | Self::NoSpace { .. }
            | Self::NoMore
            | Self::Unfinished
            | Self::Cancelled => Fault::Local,
            Self::InFolder { error, .. } => error.fault(),
        }
    }

    /// If the error says that the content was changed, adds the name of the content. Returns any other error
    /// as it is.
    pub(super) fn with_name_if_changed(self, name: impl FnOnce() -> String) -> Self {
        match self {
            Self::Refused(FileRefusal::Changed) => Self::Changed { name: name() },
            error => error,
        }
    }

    /// Returns a function that converts an error of the disk on which `needed` bytes were to be written at
    /// `path`.
    pub(super) fn no_space(path: &Path, needed: u64) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let free = crate::disk::space::free(&path).unwrap_or_default();
                Self::NoSpace { path, needed, free }
            }
            _ => Self::Disk { path, error },
        }
    }
}

impl From<PieceError> for FetchError {
    fn from(error: PieceError) -> Self {
        Self::Lie(error)
    }
}

impl From<WireError> for FetchError {
    fn from(error: WireError) -> Self {
        Self::Protocol(error)
    }
}

impl From<DecodeError> for FetchError {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(error.into())
    }
}

/// The kind of something that is not a regular file, and that a fetched file does not replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InTheWay {
    /// A folder.
    #[error("a folder")]
    Folder,
    /// A symbolic link.
    #[error("a symbolic link")]
    Link,
    /// A pipe (FIFO).
    #[error("a pipe")]
    Pipe,
    /// A socket.
    #[error("a socket")]
    Socket,
    /// A device.
    #[error("a device")]
    Device,
    /// An open file of this process, such as `/dev/fd/1`.
    #[error("an open file of this program")]
    Descriptor,
}

impl InTheWay {
    /// Returns whether bytes can be written into it, as into standard output.
    #[must_use]
    pub fn takes_bytes(self) -> bool {
        matches!(self, Self::Pipe | Self::Socket | Self::Device | Self::Descriptor)
    }
}
