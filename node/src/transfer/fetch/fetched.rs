//! The result of a fetch.

use std::path::PathBuf;

use peerkit_proto::files::{FileKind, LeftOut, Renamed};
use peerkit_proto::id::NodeId;
use serde::Serialize;

/// The result of a finished fetch.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// The path of the content. It has a number if something else had its name.
    pub path: PathBuf,
    /// The kind of the content: a file or a folder.
    pub kind: FileKind,
    /// Size of the file, or of all files in the folder, in bytes.
    pub bytes: u64,
    /// Time from the start of the download to its end, in seconds.
    pub seconds: f64,
    /// The nodes that sent pieces, in the order of their identities.
    pub sources: Vec<NodeId>,
    /// The nodes that sent wrong data, and were not asked again.
    pub dropped: Vec<Dropped>,
    /// Entries that have another name here than at their source: the content itself, or entries of the folder.
    pub renamed: Vec<Renamed>,
    /// Entries of the folder that could not be written here.
    pub left_out: Vec<LeftOut>,
}

/// A node that sent wrong data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Its identity.
    pub id: NodeId,
    /// The error that its data caused.
    pub why: String,
}
