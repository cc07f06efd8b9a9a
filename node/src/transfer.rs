//! Files on their way: [`Serving`] answers for what is shared, a [`Download`] fetches.
//!
//! Both speak the protocol of [`peerkit_proto::files::wire`] on any byte stream. A download is told
//! of one source after the other: each goes on from the pieces that were verified before it. All is
//! written beside the target and renamed when it is whole.

mod asking;
mod download;
mod fetching;
mod part;
mod partial;
mod place;
mod serve;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use peerkit_proto::codec::DecodeError;
use peerkit_proto::files::{FileKind, ManifestError, PieceError, Refusal, RelPath, WireError};
use peerkit_proto::id::NodeId;

pub(crate) use crate::shares::Progress;
pub(crate) use download::Download;
pub(crate) use part::is_part_name;
pub(crate) use partial::Partials;
pub(crate) use serve::Serving;

/// A stream on which nothing moves for this long is given up. 30 s: half of what TCP takes to give
/// up on a lost segment under RFC 1122.
pub(crate) const STALL: Duration = Duration::from_secs(30);

/// The longest that one piece may take. 300 s: 3.5 kB/s, below which a fetch has no end.
pub(crate) const PIECE_TIME: Duration = Duration::from_secs(300);

/// How long a stream may stay open without a request. 120 s: four times [`STALL`].
pub(crate) const IDLE: Duration = Duration::from_secs(120);

/// Where a fetch goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// This path; where it is a folder that exists, into it, under the name that it has at the
    /// source. The folder above it has to exist.
    Path(PathBuf),
    /// Into this folder, which is made where it is missing, under the name at the source.
    Folder(PathBuf),
}

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
}

/// Why a source did not do. What was verified before is kept for the next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The source said no.
    #[error("{0}")]
    Refused(Refusal),
    /// The source sent a piece or a list that is not that of the file.
    #[error("the source sent something else: {0}")]
    Lie(PieceError),
    /// What the source calls a folder has no list of a folder.
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    /// The source sent what can't be read, or a name that is refused.
    #[error("the source's answer is refused: {0}")]
    Protocol(#[from] WireError),
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
    #[error("{path}: {source}")]
    InFolder {
        /// The file.
        path: RelPath,
        /// What went wrong.
        source: Box<Self>,
    },
    /// This machine's disk refused.
    #[error("can't write {path}: {source}", path = .path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It was to be finished before all was there.
    #[error("the download is not done: run it with another source")]
    Unfinished,
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
            Self::InFolder { source, .. } => source.is_lie(),
            _ => false,
        }
    }

    /// Whether another source may do better: no where it is this machine that failed.
    #[must_use]
    pub fn is_worth_another(&self) -> bool {
        match self {
            Self::Disk { .. } | Self::Unfinished | Self::Stopped => false,
            Self::InFolder { source, .. } => source.is_worth_another(),
            _ => true,
        }
    }
}

impl From<PieceError> for FetchError {
    fn from(error: PieceError) -> Self {
        Self::Lie(error)
    }
}

impl From<DecodeError> for FetchError {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(error.into())
    }
}
