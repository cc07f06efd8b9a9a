//! What a fetch and the tasks of its sources say to each other.

use std::sync::Arc;

use peerkit_proto::address::Address;
use peerkit_proto::files::fetch::{Input, SourceId};
use peerkit_proto::id::NodeId;

use super::prove::Proven;
use super::target::Target;
use crate::error::Error;

/// A report of a source's task, or of the threads that write what it sent.
#[derive(Debug)]
pub(super) enum News {
    /// The source's task has come further, as the state machine is to know.
    Input(Input),
    /// The source has proven what it said.
    Proven(SourceId, Box<Proven>),
    /// Other nodes that may have the content.
    Sources(Vec<(NodeId, Vec<Address>)>),
    /// Pieces that the source sent are verified and written.
    Kept(SourceId, Vec<u64>),
    /// The source has failed, or the disk.
    Failed(SourceId, Error),
}

/// What a source's task is to do.
#[derive(Debug)]
pub(super) enum Task {
    /// Prove what the source has said; its size too if `with_size`.
    Prove { with_size: bool },
    /// Ask which pieces the source has, and take pieces for this target from now on.
    Follow(Arc<Target>),
    /// Ask for pieces.
    Ask { first: u64, count: u16 },
    /// Take back what was asked for.
    Cancel,
    /// Tell the source that the fetch has everything, and end the stream in order.
    Finish,
}
