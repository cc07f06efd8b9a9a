//! What a fetch is begun with, and what its driver reports.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::source::{Candidate, SourceId};
use crate::files::FileKind;
use crate::files::layout::Layout;
use crate::files::pieces::PieceSet;
use crate::id::NodeId;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The time of [`Fetch::poll_timeout`](super::Fetch::poll_timeout) has come.
    Timeout,
    /// A node may have the content.
    Found(Candidate),
    /// The search has ended.
    Searched,
    /// A link was made.
    Linked,
    /// The user wants it now: nothing that can be tried waits any longer.
    Resume,
    /// A source has proven its identity.
    Met {
        /// The source.
        source: SourceId,
        /// Its identity.
        id: NodeId,
    },
    /// A source has described the content.
    Described {
        /// The source.
        source: SourceId,
        /// What it says.
        claim: Claim,
    },
    /// A source has proven what it said.
    Proven(SourceId),
    /// What was proven is open on the disk.
    Opened {
        /// How its pieces are numbered.
        layout: Arc<Layout>,
        /// The pieces that are not fetched: those that are there, and those that are left out.
        held: PieceSet,
    },
    /// A source can be asked for pieces.
    Ready {
        /// The source.
        source: SourceId,
        /// Whether it has every piece. If not, it tells which it has.
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
    Kept {
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
        /// How.
        fault: Fault,
    },
}

/// What a fetch is begun with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node that fetches, which is no source.
    pub own: NodeId,
    /// The sources known from the start.
    pub from: Vec<Candidate>,
    /// Whether the network is searched for sources.
    pub ask_network: bool,
    /// Whether the fetch waits for its first source as long as for any other. Otherwise it is given up
    /// as soon as all nodes that could be asked have answered and no source is left.
    pub is_patient: bool,
    /// How long the fetch goes on although no piece comes.
    pub patience: Duration,
}

/// What a source says that the content is, as far as its proof leaves that open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// A file or a folder.
    pub kind: FileKind,
    /// Bytes: of a folder those of its manifest.
    pub size: u64,
}

/// Why a source has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This node has failed, such as its disk. The fetch is given up.
    Ours,
    /// It broke the protocol, or sent something else than was asked for.
    Lie,
    /// The content was changed or removed there.
    Changed,
    /// It was reached, and hung up before it could be asked: too many may be calling it.
    HungUp,
    /// It could not be reached.
    Unreachable,
    /// It does not serve this node.
    Refused,
    /// The connection broke, it was silent for too long, or it does not have the content now.
    Lost,
}
