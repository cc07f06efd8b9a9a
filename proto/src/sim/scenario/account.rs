//! The application of a scenario's nodes, which records the broadcasts that arrive.

use crate::event::Broadcast;
use crate::handler::{Context, Handler};
use crate::id::NodeId;
use crate::time::Instant;

/// The record of a node.
#[derive(Debug, Default)]
pub(super) struct BroadcastRecorder {
    /// The numbers of the broadcasts that arrived, with their times.
    pub(super) received: Vec<(u32, Instant)>,
    /// Number of broadcasts that no node has sent.
    pub(super) altered: u64,
}

/// Returns the content of the broadcast with a number, so that a change of it can be detected.
pub(super) fn content(number: u32, author: NodeId, size: usize) -> String {
    let mut content = format!("{number} {} ", author.short());
    let pattern = content.clone();
    while content.len() < size {
        content.push_str(&pattern);
    }
    content.truncate(size);
    content
}

impl Handler for BroadcastRecorder {
    fn node_broadcast(&mut self, cx: &mut Context<'_>, broadcast: Broadcast) {
        let number = broadcast.title.parse();
        let text = broadcast.message.as_text().unwrap_or_default();
        match number {
            // The content follows from number and author, so a change is found without the original.
            Ok(number) if text == content(number, broadcast.author, text.len()) => {
                self.received.push((number, cx.now()));
            }
            _ => self.altered += 1,
        }
    }
}
