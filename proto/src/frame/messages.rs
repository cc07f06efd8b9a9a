//! Messages as they lie in a block, one behind the other: cut out when they are asked for.

use bytes::{Buf, Bytes};

use super::{HEADER, MESSAGE, MESSAGE_HEAD, header};
use crate::message::{Message, Packed};

/// Messages that came one behind the other and need nothing more: none is compressed or over the
/// limit, and what is to be text is.
///
/// An iterator over them. They share the block that they were read in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Messages {
    block: Bytes,
    count: usize,
    content: usize,
}

impl Messages {
    /// Bytes of the contents of those that are left.
    #[must_use]
    pub fn content_len(&self) -> usize {
        self.content
    }
}

impl Iterator for Messages {
    type Item = Message;

    #[inline]
    fn next(&mut self) -> Option<Message> {
        let message = cut(&mut self.block);
        match &message {
            Some(message) => {
                self.count = self.count.saturating_sub(1);
                self.content = self.content.saturating_sub(message.body().len());
            }
            None => (self.count, self.content) = (0, 0),
        }
        message
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl ExactSizeIterator for Messages {}

/// Cuts the first message off `block`.
#[inline]
fn cut(block: &mut Bytes) -> Option<Message> {
    let (_, len) = header(block).ok()??;
    let end = HEADER + len;
    if end < MESSAGE_HEAD || end > block.len() {
        return None;
    }
    let mut body = block.split_to(end);
    let head = body.get(HEADER).copied()?;
    body.advance(MESSAGE_HEAD);
    let Packed { kind, payload, .. } = Packed::new(head, body).ok()?;
    Some(Message::new(kind, payload))
}

/// The messages at the front of a block.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Front {
    /// Where they end.
    pub(super) end: usize,
    count: usize,
    content: usize,
}

impl Front {
    /// Takes in `frame`, whole, which stands where the front ends, if it is such a message.
    #[inline]
    pub(super) fn extend(&mut self, frame: &[u8], limit: usize) {
        if frame.get(HEADER - 1) != Some(&MESSAGE) {
            return;
        }
        let Some((head, content)) = frame.get(HEADER..).and_then(<[u8]>::split_first) else {
            return;
        };
        if content.len() <= limit && Packed::is_plain(*head, content) {
            self.end += frame.len();
            self.count += 1;
            self.content += content.len();
        }
    }

    /// Takes them off the front of `block`.
    pub(super) fn take(self, block: &mut Bytes) -> Messages {
        let block = block.split_to(self.end.min(block.len()));
        Messages { block, count: self.count, content: self.content }
    }
}
