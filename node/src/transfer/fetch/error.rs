//! Why a source, or a whole fetch, has failed.

use std::io;
use std::path::{Path, PathBuf};

use peerkit_proto::codec::DecodeError;
use peerkit_proto::files::fetch::Fault;
use peerkit_proto::files::{ManifestError, PieceError, Refusal, RelPath, WireError};

/// Why a source did not do. What was verified before is kept for the next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The source said no.
    #[error("{0}")]
    Refused(Refusal),
    /// The file was changed or removed at the source after it was shared there.
    #[error("{name} was changed or removed at its source after it was shared")]
    Changed {
        /// Its name at the source; of a file in a folder the path, from the folder's name on.
        name: String,
    },
    /// The source sent a piece or a list that is not that of the file.
    #[error("the source sent something else: {0}")]
    Lie(PieceError),
    /// What the source calls a folder has no list of a folder.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The source sent what can't be read, or a name that is refused.
    #[error("the source's answer is refused: {0}")]
    Protocol(WireError),
    /// The source answered another question.
    #[error("the source's answer is not to the question: {0}")]
    Unexpected(&'static str),
    /// The source says that it is larger than anything of its kind may be.
    #[error("{size} bytes are over the limit of {limit}")]
    TooLarge {
        /// What was announced.
        size: u64,
        /// What is allowed.
        limit: u64,
    },
    /// Nothing came for 30 s, or a piece took longer than 300 s.
    #[error("the source sends nothing, or too slowly")]
    Stalled,
    /// The connection to the source broke.
    #[error("the connection to the source broke: {0}")]
    Stream(io::Error),
    /// What went wrong, with a file inside a folder.
    #[error("{path}: {error}")]
    InFolder {
        /// The file.
        path: RelPath,
        /// The failure.
        error: Box<Self>,
    },
    /// This machine's disk refused.
    #[error("can't write {path}: {error}", path = .path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Something is at the target that is not a regular file. It was left as it is.
    #[error("{path} is {kind}, which a fetched file does not replace", path = .path.display())]
    NotAFile {
        /// Where.
        path: PathBuf,
        /// What is there.
        kind: InTheWay,
    },
    /// The disk has too little room: nothing was begun, or what there was is kept.
    #[error(
        "{path} needs {needed} bytes and the disk has {free} left: make room, or choose another place",
        path = .path.display()
    )]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// Bytes that are still to be written.
        needed: u64,
        /// Bytes that there is room for.
        free: u64,
    },
    /// Sources are left, and none of them has what is missing.
    #[error("nobody who can be reached has the rest of it")]
    NoMore,
    /// Something is not there that should be: a fault of ours.
    #[error("the download is not whole: fetch it again")]
    Unfinished,
    /// It was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The runtime is being stopped.
    #[error("stopped before it was done")]
    Stopped,
}

impl FetchError {
    /// Returns whether the source broke the protocol, or sent something else than was requested. It is not asked
    /// again, and the user is told.
    #[must_use]
    pub fn is_lie(&self) -> bool {
        self.fault() == Fault::Lie
    }

    /// Returns whether the source can no longer serve the content, because it was changed or removed there. It has
    /// to be shared again.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.fault() == Fault::Changed
    }

    /// Returns what this failure of a source means for the fetch.
    pub(super) fn fault(&self) -> Fault {
        match self {
            Self::Lie(_)
            | Self::Manifest(_)
            | Self::Protocol(_)
            | Self::Unexpected(_)
            | Self::TooLarge { .. } => Fault::Lie,
            Self::Changed { .. } | Self::Refused(Refusal::Changed) => Fault::Changed,
            Self::Stalled
            | Self::Stream(_)
            | Self::Refused(Refusal::NotFound | Refusal::Busy)
            | Self::Stopped => Fault::Lost,
            Self::Refused(_) => Fault::Refused,
            Self::Disk { .. }
            | Self::NotAFile { .. }
            | Self::NoSpace { .. }
            | Self::NoMore
            | Self::Unfinished
            | Self::Cancelled => Fault::Ours,
            Self::InFolder { error, .. } => error.fault(),
        }
    }

    /// The same error, with the name of what was changed if it is that.
    pub(super) fn of_changed(self, name: impl FnOnce() -> String) -> Self {
        match self {
            Self::Refused(Refusal::Changed) => Self::Changed { name: name() },
            error => error,
        }
    }

    /// What the disk said when `needed` bytes were to be written at `path`.
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

/// Something that is no regular file, and that a fetched file does not replace.
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
