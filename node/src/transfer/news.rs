//! What a fetch and its sources say to each other.

use bytes::Bytes;
use peerkit_proto::address::Address;
use peerkit_proto::id::NodeId;

use super::FetchError;
use super::prove::Proven;

/// What a source has to tell.
#[derive(Debug)]
pub(super) enum News {
    /// Who it is: it may have been an address only.
    Met { source: usize, id: NodeId },
    /// What is fetched.
    Proven { source: usize, proven: Box<Proven> },
    /// What is fetched is not what somebody else has said.
    Contradicted { source: usize, proven: Box<Proven> },
    /// It can be asked.
    Up { source: usize },
    /// It has everything.
    Whole { source: usize },
    /// It has these pieces.
    Holds { source: usize, first: u64, bits: Bytes },
    /// Others who may have it.
    Sources(Vec<(NodeId, Vec<Address>)>),
    /// Pieces that it sent are checked and written.
    Kept { source: usize, pieces: Vec<u64> },
    /// It sent what is not the file, or the disk refused.
    Failed { source: usize, error: FetchError },
}

/// What a source is to do.
#[derive(Debug)]
pub(super) enum Task {
    Ask {
        first: u64,
        count: u16,
    },
    Cancel,
    /// Tell the source that the fetch has all it wants, and end the stream in order.
    Complete,
}
