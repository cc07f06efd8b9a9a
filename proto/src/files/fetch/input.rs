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
    /// A node was found that may have the content.
    Found(SourceCandidate),
    /// The search of the network has ended.
    Searched,
    /// This node has a new link.
    Linked,
    /// The user wants to continue now: the next search and all waiting dials become due.
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
    /// The driver has opened the proven content on the disk.
    Opened {
        /// The numbering of its pieces.
        layout: Arc<Layout>,
        /// The pieces that need not be fetched: those on the disk already, and those that are left out.
        held: PieceSet,
    },
    /// Pieces can be requested from a source.
    Ready {
        /// The source.
        source: SourceId,
        /// True if the source has every piece. If not, [`Input::Holds`] reports the pieces that it has.
        is_whole: bool,
    },
    /// A source that had only some pieces now has all of them.
    Whole(SourceId),
    /// A source has the pieces whose bits are set, as in [`Answer::Held`](crate::files::Answer::Held).
    Holds {
        /// The source.
        source: SourceId,
        /// The number of the piece that the first bit stands for.
        first: u64,
        /// One bit for each piece.
        bits: Bytes,
    },
    /// Pieces from a source were verified and written to the disk.
    Stored {
        /// The source, which may have failed since.
        source: SourceId,
        /// The pieces, in the order in which they came.
        pieces: Vec<u64>,
    },
    /// A source has failed: for example, it could not be reached, did not answer in time, or sent something
    /// wrong.
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
    /// The identity of the node that fetches. It is never a source.
    pub own: NodeId,
    /// The sources known from the start.
    pub from: Vec<SourceCandidate>,
    /// True if the fetch searches the network for sources.
    pub ask_network: bool,
    /// True if the fetch waits for its first source until its patience ends. If false, and while the content
    /// is unknown, the fetch is given up as soon as the first search has ended and no source is left.
    pub is_patient: bool,
    /// The time without a new piece after which the fetch is given up.
    pub patience: Duration,
}

/// The kind and size of the content, as a source describes them.
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
    /// The fetching node itself has failed, for example its disk. The fetch is given up.
    Local,
    /// The source broke the protocol, or sent wrong data. It is banned.
    Lie,
    /// The content was changed or removed at the source.
    Changed,
    /// The source was reached, and hung up before anything was requested. Too many nodes may be dialling it.
    HungUp,
    /// The source could not be reached.
    Unreachable,
    /// The source refuses to serve this node.
    Refused,
    /// The connection broke, the source was silent for too long, or it does not have the content at the
    /// moment.
    Lost,
}
