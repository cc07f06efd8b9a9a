//! The application of a scenario's nodes: it keeps account of the broadcasts that it gets.

use crate::event::Broadcast;
use crate::handler::{Context, Handler};
use crate::id::NodeId;
use crate::time::Instant;

/// What a node has got.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// The numbers of the broadcasts, and when they came.
    pub(super) got: Vec<(u32, Instant)>,
    /// Broadcasts that are none that anybody wrote.
    pub(super) altered: u64,
}

/// The content of the broadcast of a number: anybody can tell whether it is as it was written.
pub(super) fn content(number: u32, author: NodeId, size: usize) -> String {
    let mut content = format!("{number} {} ", author.short());
    let pattern = content.clone();
    while content.len() < size {
        content.push_str(&pattern);
    }
    content.truncate(size);
    content
}

impl Handler for Account {
    fn node_broadcast(&mut self, cx: &mut Context<'_>, broadcast: Broadcast) {
        let number = broadcast.title.parse();
        let text = broadcast.message.as_text().unwrap_or_default();
        match number {
            Ok(number) if text == content(number, broadcast.author, text.len()) => {
                self.got.push((number, cx.now()));
            }
            _ => self.altered += 1,
        }
    }
}
