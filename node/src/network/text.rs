//! Text in pictures and lists.

pub(super) use peerkit_proto::files::disk::plain;
use peerkit_proto::id::NodeId;

/// `1 node`, `2 nodes`.
pub(super) fn count(number: usize, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

/// A node's name in a plain form, with the first digits of its identity.
pub(super) fn label(id: &NodeId, name: &str) -> String {
    if name.is_empty() { id.short() } else { format!("{} ({})", plain(name), id.short()) }
}
