//! Consecutive messages in one block of bytes. Each message is cut out of the block when it is
//! taken.

use bytes::Bytes;

use super::{LENGTH_FIELD_LEN, MESSAGE, MESSAGE_HEADER_LEN};
use crate::message::{Message, MessageKind};

/// An iterator over consecutive messages that are ready for the application: none is compressed or
/// over the limit, and all text is valid UTF-8. The messages share the memory of the block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Messages {
    block: Bytes,
    /// Start of the next message's frame.
    at: usize,
    count: usize,
}

impl Messages {
    /// Splits the messages that `leading` describes off the front of `block`.
    pub(super) fn take(block: &mut Bytes, leading: LeadingMessages) -> Self {
        Self { block: block.split_to(leading.end.min(block.len())), at: 0, count: leading.count }
    }

    /// Returns the number of bytes in the contents of the remaining messages.
    #[must_use]
    pub fn content_len(&self) -> usize {
        (self.block.len() - self.at).saturating_sub(self.count * MESSAGE_HEADER_LEN)
    }

    #[inline]
    fn cut(&mut self) -> Option<Message> {
        let (kind, content) = first_message(self.block.get(self.at..)?)?;
        let begin = self.at + MESSAGE_HEADER_LEN;
        let end = begin + content.len();
        self.at = end;
        Some(Message::new(kind, self.block.slice(begin..end)))
    }
}

impl Iterator for Messages {
    type Item = Message;

    #[inline]
    fn next(&mut self) -> Option<Message> {
        let message = self.cut();
        // `find` has checked every message, so the count is exact, and `cut` fails only at the end.
        self.count = if message.is_some() { self.count.saturating_sub(1) } else { 0 };
        message
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl ExactSizeIterator for Messages {}

/// The position and number of the messages at the front of a block.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LeadingMessages {
    /// The end of the last of these messages.
    pub(super) end: usize,
    count: usize,
}

impl LeadingMessages {
    /// Finds the messages at the front of `block`, up to the first one that is compressed, invalid,
    /// or has a content over `limit` bytes.
    pub(super) fn find(block: &[u8], limit: usize) -> Self {
        let mut leading = Self::default();
        // The loop ends at a message that fails a check. `Frames::next` then reads that message and
        // reports the fault.
        while let Some((kind, content)) = block.get(leading.end..).and_then(first_message)
            && content.len() <= limit
            && kind.check(content).is_ok()
        {
            leading.end += MESSAGE_HEADER_LEN + content.len();
            leading.count += 1;
        }
        leading
    }
}

/// Returns the kind and the content of the message at the front of `bytes`, or `None` if there is
/// no complete message or it is compressed.
#[inline]
fn first_message(bytes: &[u8]) -> Option<(MessageKind, &[u8])> {
    let &[a, b, c, d, MESSAGE, head] = bytes.first_chunk::<MESSAGE_HEADER_LEN>()? else {
        return None;
    };
    let len = (u32::from_le_bytes([a, b, c, d]) as usize)
        .checked_sub(MESSAGE_HEADER_LEN - LENGTH_FIELD_LEN)?;
    let content = bytes.get(MESSAGE_HEADER_LEN..)?.get(..len)?;
    Some((MessageKind::of_uncompressed(head)?, content))
}
