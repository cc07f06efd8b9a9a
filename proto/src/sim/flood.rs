//! Nodes that flood their peers with queries.

use super::Sim;
use crate::frame::Frame;
use crate::frame::query::{Query, QueryId, QueryKind, UNLIMITED};
use crate::handler::Handler;
use crate::id::{Hash, NodeId};

/// First bytes of the ids of the queries of a flood.
const FLOOD: [u8; 8] = *b"flooding";

impl<H: Handler> Sim<H> {
    /// Makes a node send `count` queries over each of its links, behind the back of its machine. Each is a new
    /// query to the whole network: one of eight is a discovery, and the others look for nodes that do not exist.
    /// The node has to be one that [floods](super::Lies::Floods), as other nodes end the link with a peer that
    /// answers such queries.
    pub fn flood(&mut self, node: usize, count: usize) {
        let Some(running) = &self.nodes[node].running else { return };
        let links: Vec<_> =
            running.handles.values().map(|handle| (handle.connection, handle.side)).collect();
        for (connection, side) in links {
            for _ in 0..count {
                self.last_id += 1;
                let mut id = [0; 16];
                id[..8].copy_from_slice(&FLOOD);
                id[8..].copy_from_slice(&self.last_id.to_le_bytes());
                let what = if self.last_id.is_multiple_of(8) {
                    QueryKind::Discover
                } else {
                    QueryKind::FindNode(NodeId::from_bytes(*Hash::of(&id).as_bytes()))
                };
                let (id, ttl) = (QueryId(id), self.config.query_ttl);
                let query = Query { id, depth: UNLIMITED, own: false, ttl, what };
                self.put_frame(connection, side, Frame::Query(query));
            }
        }
        self.settle();
    }
}

/// Returns whether a frame answers a query of a flood.
pub(super) fn is_answer_to_flood(frame: &Frame) -> bool {
    let id = match frame {
        Frame::Answer(answer) => answer.id,
        Frame::QueryDone(done) => done.id,
        _ => return false,
    };
    id.0.starts_with(&FLOOD)
}
