//! The application of a scenario's nodes. It records the broadcasts that arrive.

use crate::event::Broadcast;
use crate::handler::{Context, Handler};
use crate::id::NodeId;
use crate::time::Instant;

/// The broadcasts that have arrived at a node.
#[derive(Debug, Default)]
pub(super) struct BroadcastRecorder {
    /// The numbers of the broadcasts, with the times at which they were delivered.
    pub(super) received: Vec<(u32, Instant)>,
    /// Number of broadcasts that no node has sent.
    pub(super) altered: u64,
}

/// Returns the content of a broadcast. It depends only on these arguments, so that a change can be detected.
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
            // Computed again from the number and the author, so the original is not needed.
            Ok(number) if text == content(number, broadcast.author, text.len()) => {
                self.received.push((number, cx.now()));
            }
            _ => self.altered += 1,
        }
    }
}
