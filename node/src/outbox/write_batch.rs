//! The frames that the writer has taken out of the outbox and writes next.

use std::io::IoSlice;

use bytes::Buf;

use super::{Block, MAX_SPARE};

/// Maximum memory that is kept for control frames, in bytes. 4 KiB: more than the link's own frames need.
const KEPT_FOR_CONTROL: usize = 4 << 10;

/// The writer's next step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WriterStep {
    /// Write the batch.
    Write,
    /// Sleep until there is something to write.
    Sleep,
    /// Let other tasks run, so that senders can add to a block that is not full. Then write the block.
    LetGrow,
    /// Wait for [`super::Outbox::end_receiving`]: only the goodbye is left, and it has to count the
    /// messages that are being received.
    AwaitCount,
    /// Close the connection: all is written.
    Close,
}

/// The bytes of one write: control frames, then blocks. As a [`Buf`], it has the bytes that are not written
/// yet.
#[derive(Debug, Default)]
pub(crate) struct WriteBatch {
    pub(super) control: Vec<u8>,
    blocks: Vec<Block>,
    /// Bytes of the batch that are written.
    written: usize,
}

impl WriteBatch {
    /// Returns the number of application messages in the batch.
    pub(crate) fn messages(&self) -> u64 {
        self.blocks.iter().map(|block| block.messages).sum()
    }

    /// Returns the bytes of the batch, written or not.
    pub(crate) fn len(&self) -> usize {
        self.control.len() + self.application_len()
    }

    /// Returns the bytes of application frames in the batch.
    pub(crate) fn application_len(&self) -> usize {
        self.blocks.iter().map(Block::len).sum()
    }

    pub(super) fn push(&mut self, block: Block) {
        self.blocks.push(block);
    }

    /// Empties the batch, which has been written. Moves the blocks' memory to `spare`, up to
    /// [`MAX_SPARE`] blocks.
    pub(super) fn recycle(&mut self, spare: &mut Vec<Vec<u8>>) {
        self.control.clear();
        self.control.shrink_to(KEPT_FOR_CONTROL);
        self.written = 0;
        for Block { mut bytes, .. } in self.blocks.drain(..) {
            if spare.len() < MAX_SPARE {
                bytes.clear();
                spare.push(bytes);
            }
        }
    }

    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let of_block = |block| {
            let Block { bytes, tail, .. }: &Block = block;
            [&bytes[..], tail.as_deref().unwrap_or_default()]
        };
        std::iter::once(&self.control[..]).chain(self.blocks.iter().flat_map(of_block))
    }

    /// Returns the parts of the pieces that are not written yet. None of them is empty.
    fn left(&self) -> impl Iterator<Item = &[u8]> {
        let mut written = self.written;
        self.pieces().filter_map(move |piece| {
            let skipped = written.min(piece.len());
            written -= skipped;
            piece.get(skipped..).filter(|rest| !rest.is_empty())
        })
    }
}

impl Buf for WriteBatch {
    fn remaining(&self) -> usize {
        self.len() - self.written
    }

    fn chunk(&self) -> &[u8] {
        self.left().next().unwrap_or_default()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = slices.iter_mut().zip(self.left());
        filled.map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    fn advance(&mut self, written: usize) {
        self.written += written;
    }
}
