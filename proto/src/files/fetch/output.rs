//! The outputs of a fetch: the actions that its driver has to carry out.

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
        /// True if the source also has to prove the size, with the last piece.
        with_size: bool,
    },
    /// Open the content on the disk, with the description that this source has proven.
    Open(SourceId),
    /// Ask a source which pieces it has, and to report pieces that it gets later.
    Follow(SourceId),
    /// Request one run of pieces from a source.
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
    /// Tell a source that the fetch is complete.
    Complete(SourceId),
    /// Close the connection to a source. Its answers are no longer wanted.
    HangUp(SourceId),
    /// Report that a source is banned. If it was connected, [`Output::HangUp`] came before.
    ReportBan {
        /// The source.
        source: SourceId,
        /// Its identity.
        id: NodeId,
        /// The reason for the ban.
        why: Ban,
    },
    /// Discard the opened content, because its size was a lie. [`Output::Open`] follows.
    Reset,
    /// Every piece was fetched. No output follows.
    Done,
    /// The fetch has failed. No output follows.
    GiveUp(GiveUp),
}

/// The reason why a fetch is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GiveUp {
    /// No source was found.
    NoSource,
    /// Sources were found, but none that can be reached has the missing pieces.
    NoMore,
    /// None of these sources answered, and no other source was reached.
    NoneAnswered(Vec<SourceId>),
    /// No source is left that can send the missing pieces. Of all failures, this one tells the user most. With
    /// [`Fault::Local`], the fetching node itself has failed.
    Failed(SourceId, Fault),
}

impl GiveUp {
    /// Returns whether the fetch may succeed later: it has failed only because no source with the missing
    /// pieces could be reached.
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

/// The reason why a source is banned. A banned source is never dialled again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ban {
    /// The source's last failure was a [`Fault::Lie`].
    #[error("it has sent something else than was asked for")]
    Lie,
    /// Another source has proven a different size.
    #[error("its size is not that of the file")]
    Size,
}
