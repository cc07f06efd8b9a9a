//! The result of a fetch.

use std::path::PathBuf;

use peerkit_proto::files::{FileKind, LeftOut, Renamed};
use peerkit_proto::id::NodeId;
use serde::Serialize;

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

/// A node that sent what is not the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Who it is.
    pub id: NodeId,
    /// What it did.
    pub why: String,
}
