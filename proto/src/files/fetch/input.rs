//! The options of a fetch, and the inputs of its state machine.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::source::{SourceCandidate, SourceId};
use crate::files::FileKind;
use crate::files::layout::Layout;
use crate::files::pieces::PieceSet;
use crate::id::NodeId;

/// An event that the driver reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The time of [`Fetch::poll_timeout`](super::Fetch::poll_timeout) has come.
    Timeout,
    /// A node may have the content.
    Found(SourceCandidate),
    /// The search has ended.
    Searched,
    /// A link was made.
    Linked,
    /// The user wants to continue now: everything that can be tried is tried at once.
    Resume,
    /// A source has proven its identity.
    Identified {
        /// The source.
        source: SourceId,
        /// Its identity.
        id: NodeId,
    },
    /// A source has described the content.
    Described {
        /// The source.
        source: SourceId,
        /// Its description.
        claim: Claim,
    },
    /// A source has proven its description.
    Proven(SourceId),
    /// The proven content is open on the disk.
    Opened {
        /// The numbering of its pieces.
        layout: Arc<Layout>,
        /// The pieces that are not fetched: those that are there, and those that are left out.
        held: PieceSet,
    },
    /// A source can be asked for pieces.
    Ready {
        /// The source.
        source: SourceId,
        /// If true, the source has every piece. If not, it says which it has.
        is_whole: bool,
    },
    /// A source has every piece by now.
    Whole(SourceId),
    /// A source has the pieces of these bits, as in [`Answer::Held`](crate::files::Answer::Held).
    Holds {
        /// The source.
        source: SourceId,
        /// The piece of the first bit.
        first: u64,
        /// A bit for each piece.
        bits: Bytes,
    },
    /// Pieces of a source were verified and written.
    Stored {
        /// The source, whether or not it is still there.
        source: SourceId,
        /// The pieces, in the order in which they came.
        pieces: Vec<u64>,
    },
    /// A source has failed: it could not be reached, the connection broke, it did not answer in time, or
    /// what it sent was wrong.
    Failed {
        /// The source.
        source: SourceId,
        /// The reason.
        fault: Fault,
    },
}

/// The options of a fetch.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node that fetches. It is never a source.
    pub own: NodeId,
    /// The sources known from the start.
    pub from: Vec<SourceCandidate>,
    /// If true, the network is searched for sources.
    pub ask_network: bool,
    /// If true, the fetch waits for its first source as long as for any other. Otherwise it is given up as
    /// soon as all nodes that could be asked have answered and no source is left.
    pub is_patient: bool,
    /// Time for which the fetch continues although no piece comes.
    pub patience: Duration,
}

/// The part of a source's description that its proof leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The kind: a file or a folder.
    pub kind: FileKind,
    /// The size in bytes: of a folder, that of its manifest.
    pub size: u64,
}

/// The reason why a source has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This node has failed, such as its disk. The fetch is given up.
    Local,
    /// It broke the protocol, or sent something else than was requested.
    Lie,
    /// The content was changed or removed there.
    Changed,
    /// It was reached, and hung up before anything was requested. Too many nodes may be calling it.
    HungUp,
    /// It could not be reached.
    Unreachable,
    /// It does not serve this node.
    Refused,
    /// The connection broke, it was silent for too long, or it does not have the content now.
    Lost,
}
