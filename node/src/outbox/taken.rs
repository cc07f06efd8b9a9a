//! What the writer has taken out of the lanes and writes next.

use std::io::IoSlice;

use bytes::Buf;

use super::{Block, SPARE};

/// Memory that is kept for control frames, in bytes: more than the link's own ever need at once.
const CONTROL: usize = 4 << 10;

/// What the writer is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Write the takings.
    Write,
    /// Nothing to write now.
    Empty,
    /// A block that is not full yet: to be written all the same if it does not grow.
    Little,
    /// Nothing but the goodbye, which waits for [`super::Outbox::received`].
    Held,
    /// Nothing more will come: close the connection.
    Finished,
}

/// What is to be written: control frames, then blocks. As a [`Buf`] it is what is left of that.
#[derive(Debug, Default)]
pub(crate) struct Takings {
    pub(super) control: Vec<u8>,
    blocks: Vec<Block>,
    /// Bytes of these that are written.
    written: usize,
}

impl Takings {
    /// Application messages in the takings.
    pub(crate) fn messages(&self) -> u64 {
        self.blocks.iter().map(|block| block.messages).sum()
    }

    /// Bytes of the takings, written or not.
    pub(crate) fn len(&self) -> usize {
        self.control.len() + self.blocks.iter().map(Block::len).sum::<usize>()
    }

    /// Bytes of the application frames in the takings.
    pub(crate) fn application_len(&self) -> usize {
        self.blocks.iter().map(Block::len).sum()
    }

    pub(super) fn push(&mut self, block: Block) {
        self.blocks.push(block);
    }

    /// Forgets what was written. Its memory goes to `spare`, as far as that may grow.
    pub(super) fn clear(&mut self, spare: &mut Vec<Vec<u8>>) {
        self.control.clear();
        self.control.shrink_to(CONTROL);
        self.written = 0;
        for Block { mut bytes, .. } in self.blocks.drain(..) {
            if spare.len() < SPARE {
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

    /// The pieces that are not written yet, none of them empty.
    fn left(&self) -> impl Iterator<Item = &[u8]> {
        let mut written = self.written;
        self.pieces().filter_map(move |piece| {
            let skipped = written.min(piece.len());
            written -= skipped;
            piece.get(skipped..).filter(|rest| !rest.is_empty())
        })
    }
}

impl Buf for Takings {
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
