//! The outputs of the state machine: what its driver has to do.

use super::input::Fault;
use super::source::{SourceCandidate, SourceId};
use crate::id::NodeId;

/// An action for the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Ask the network which nodes have the content.
    Search,
    /// Dial a source, and ask it to describe the content.
    Dial(SourceId, SourceCandidate),
    /// Ask a source to prove its description.
    Prove {
        /// The source.
        source: SourceId,
        /// If true, it has to prove the size too, with the last piece.
        with_size: bool,
    },
    /// Open the content that this source has proven on the disk.
    Open(SourceId),
    /// Ask a source which pieces it has, and to report further ones.
    Follow(SourceId),
    /// Request pieces of a source, all of one run.
    Request {
        /// The source.
        source: SourceId,
        /// The first piece.
        first: u64,
        /// Number of pieces: 1 to [`MAX_PER_REQUEST`](crate::files::wire::MAX_PER_REQUEST).
        count: u16,
    },
    /// Cancel all requests to a source.
    Cancel(SourceId),
    /// Report to a source that the fetch has everything.
    Complete(SourceId),
    /// Hang up on a source. Requests to it are no longer wanted.
    HangUp(SourceId),
    /// Report that a source is never asked again. It was hung up on before.
    ReportBan {
        /// The source.
        source: SourceId,
        /// Its identity.
        id: NodeId,
        /// The reason.
        why: Ban,
    },
    /// Forget what was opened: it is not the content. Something else is opened next.
    Reset,
    /// Every piece is there. Nothing follows.
    Done,
    /// The fetch has failed. Nothing follows.
    GiveUp(GiveUp),
}

/// The reason why a fetch is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GiveUp {
    /// No node that could be asked has the content.
    NoSource,
    /// Sources were found, and none that can be reached has the pieces that are missing.
    NoMore,
    /// None of these sources could be reached, and no other source was.
    NoneAnswered(Vec<SourceId>),
    /// This source has failed, and no other is left.
    Failed(SourceId, Fault),
}

impl GiveUp {
    /// Returns whether the fetch has failed only because no node that has the rest could be reached: it
    /// may succeed later.
    #[must_use]
    pub fn may_succeed_later(&self) -> bool {
        match self {
            Self::NoSource | Self::NoMore | Self::NoneAnswered(_) => true,
            Self::Failed(_, fault) => {
                matches!(fault, Fault::HungUp | Fault::Unreachable | Fault::Lost)
            }
        }
    }
}

/// The reason why a source is never asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ban {
    /// Its last failure was a [`Fault::Lie`].
    #[error("it has sent something else than was asked for")]
    Lie,
    /// Another source has proven another size.
    #[error("its size is not that of the file")]
    Size,
}
