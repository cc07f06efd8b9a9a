//! The application of a scenario's nodes. It records the broadcasts that arrive, and the files that were fetched.

use std::collections::BTreeMap;
use std::path::Path;

use crate::event::{ActionId, Broadcast};
use crate::handler::{Context, Handler};
use crate::id::{Hash, NodeId};
use crate::time::Instant;

/// The broadcasts that have arrived at a node.
#[derive(Debug, Default)]
pub(super) struct BroadcastRecorder {
    /// The numbers of the broadcasts, with the times at which they were delivered.
    pub(super) received: Vec<(u32, Instant)>,
    /// Number of broadcasts that no node has sent.
    pub(super) altered: u64,
    /// The files that were fetched, with the times at which they were complete.
    pub(super) fetched: BTreeMap<Hash, Instant>,
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
    fn node_fetch_completed(
        &mut self,
        cx: &mut Context<'_>,
        _: ActionId,
        hash: Hash,
        _: &Path,
        _: u64,
    ) {
        self.fetched.insert(hash, cx.now());
    }

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
