//! Files on their way: [`Serving`] answers for what is shared, a [`Download`] fetches.
//!
//! Both speak the protocol of [`peerkit_proto::files::wire`]. A fetch is one task for the whole
//! ([`fetching`]), which asks [`peerkit_proto::files::fetch`] what to ask of whom, and one for each
//! source ([`source`]). All is written beside the target ([`target`]) and renamed when it is whole.

mod asking;
mod checking;
mod download;
mod downloads;
mod fetch_request;
mod fetching;
mod job;
mod keeping;
mod listed;
mod news;
mod part;
mod partial;
mod place;
mod prove;
mod serve;
mod source;
mod status;
mod target;
mod uploads;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use peerkit_proto::codec::DecodeError;
use peerkit_proto::files::{
    FileKind, LeftOut, ManifestError, PieceError, Refusal, RelPath, Renamed, WireError,
};
use peerkit_proto::id::NodeId;
use serde::Serialize;

pub use download::{Download, DownloadProgress};
pub(crate) use downloads::Downloads;
pub use fetch_request::FetchRequest;
pub(crate) use part::is_part_name;
pub(crate) use partial::Partials;
pub(crate) use serve::Serving;
pub use status::{DownloadState, DownloadStatus};
pub(crate) use uploads::Uploads;
pub use uploads::{UploadStatus, UploadTotals};

/// A stream on which nothing moves for this long is given up. 30 s: half of what TCP takes to give
/// up on a lost segment under RFC 1122.
pub(crate) const STALL: Duration = Duration::from_secs(30);

/// The longest that one piece may take. 300 s: 3.5 kB/s, below which a fetch has no end.
pub(crate) const PIECE_TIME: Duration = Duration::from_secs(300);

/// How long a stream may stay open without a request. 120 s: four times [`STALL`].
pub(crate) const IDLE: Duration = Duration::from_secs(120);

/// What a finished fetch came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// Where it is: the name has a number where there was something else of that name.
    pub path: PathBuf,
    /// A file or a folder.
    pub kind: FileKind,
    /// Bytes of the file, or of all files in the folder.
    pub bytes: u64,
    /// From the start of the download to its end.
    pub seconds: f64,
    /// Who sent pieces of it, in the order of identities.
    pub sources: Vec<NodeId>,
    /// Who sent something else, and was asked no more.
    pub dropped: Vec<Dropped>,
    /// Entries that have another name here than at their source: itself, or something in the
    /// folder.
    pub renamed: Vec<Renamed>,
    /// Entries of the folder that could not be written here.
    pub left_out: Vec<LeftOut>,
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

/// A node that sent what is not the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Who it is.
    pub id: NodeId,
    /// What it did.
    pub why: String,
}

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
    /// Whether the source broke the protocol or sent something else than was asked for: a reason
    /// not to ask it again, and to tell the user.
    #[must_use]
    pub fn is_lie(&self) -> bool {
        match self {
            Self::Lie(_)
            | Self::Manifest(_)
            | Self::Protocol(_)
            | Self::Unexpected(_)
            | Self::TooLarge { .. } => true,
            Self::InFolder { error, .. } => error.is_lie(),
            _ => false,
        }
    }

    /// Returns whether the source can't serve what was asked for any more, because the file was
    /// changed or removed there. It has to be shared again.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        match self {
            Self::Changed { .. } | Self::Refused(Refusal::Changed) => true,
            Self::InFolder { error, .. } => error.is_changed(),
            _ => false,
        }
    }

    /// Whether another source may do better: no where it is this machine that failed.
    #[must_use]
    pub fn is_worth_another(&self) -> bool {
        match self {
            Self::Disk { .. }
            | Self::NotAFile { .. }
            | Self::NoSpace { .. }
            | Self::NoMore
            | Self::Unfinished
            | Self::Cancelled
            | Self::Stopped => false,
            Self::InFolder { error, .. } => error.is_worth_another(),
            _ => true,
        }
    }
}

impl FetchError {
    /// The same error, with the name of what was changed if it is that.
    fn of_changed(self, name: impl FnOnce() -> String) -> Self {
        match self {
            Self::Refused(Refusal::Changed) => Self::Changed { name: name() },
            error => error,
        }
    }

    /// What the disk said when `needed` bytes were to be written at `path`.
    fn no_space(path: &Path, needed: u64) -> impl FnOnce(io::Error) -> Self {
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
