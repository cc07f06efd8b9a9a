//! A view of a database that does not change its file.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use crate::lock::lock;

/// Size of the blocks in which writes are kept: that of redb's pages.
const BLOCK: u64 = 4096;

/// A backend for redb that reads a file and keeps all writes in memory. Without it even opening a database
/// would write to the file, and repair one that was not closed. Holds the lock of the file.
#[derive(Debug)]
pub(super) struct ReadOnlyView {
    file: Arc<FileBackend>,
    changes: Mutex<WrittenBlocks>,
}

#[derive(Debug)]
struct WrittenBlocks {
    len: u64,
    /// Length of the part of the file that still counts. The rest reads as zeros.
    kept: u64,
    /// Blocks that were written, by their number.
    blocks: BTreeMap<u64, Box<[u8]>>,
}

impl ReadOnlyView {
    pub(super) fn new(file: Arc<FileBackend>) -> io::Result<Self> {
        let len = file.len()?;
        let changes = WrittenBlocks { len, kept: len, blocks: BTreeMap::new() };
        Ok(Self { file, changes: Mutex::new(changes) })
    }
}

impl WrittenBlocks {
    /// Reads bytes that lie in one block.
    fn read(&self, file: &FileBackend, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if let Some(block) = self.blocks.get(&(offset / BLOCK)) {
            let start = within(offset);
            let bytes = block.get(start..).and_then(|rest| rest.get(..out.len()));
            out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            return Ok(());
        }
        let there = self.kept.saturating_sub(offset).min(out.len() as u64);
        let (there, empty) = out.split_at_mut(usize::try_from(there).unwrap_or(usize::MAX));
        empty.fill(0);
        file.read(offset, there)
    }
}

/// Returns the position of `offset` in its block.
fn within(offset: u64) -> usize {
    usize::try_from(offset % BLOCK).unwrap_or_default()
}

/// Returns the number of bytes from `offset` to the end of its block, at most `len`.
fn step(offset: u64, len: usize) -> usize {
    len.min(usize::try_from(BLOCK - offset % BLOCK).unwrap_or(usize::MAX))
}

impl StorageBackend for ReadOnlyView {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.changes).len)
    }

    fn read(&self, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let changes = lock(&self.changes);
        if offset.saturating_add(out.len() as u64) > changes.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !out.is_empty() {
            let (part, rest) = out.split_at_mut(step(offset, out.len()));
            changes.read(&self.file, offset, part)?;
            offset += part.len() as u64;
            out = rest;
        }
        Ok(())
    }

    fn write(&self, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
        let mut changes = lock(&self.changes);
        if data.is_empty() {
            return Ok(());
        }
        while !data.is_empty() {
            let (part, rest) = data.split_at(step(offset, data.len()));
            let number = offset / BLOCK;
            // Only a part of the block may be written. The rest of it has to read as the file does.
            if !changes.blocks.contains_key(&number) {
                let mut block = vec![0; step(0, usize::MAX)];
                changes.read(&self.file, number * BLOCK, &mut block)?;
                changes.blocks.insert(number, block.into());
            }
            let block = changes.blocks.get_mut(&number).and_then(|block| {
                let start = within(offset);
                block.get_mut(start..start + part.len())
            });
            block.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(part);
            offset += part.len() as u64;
            data = rest;
        }
        changes.len = changes.len.max(offset);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut changes = lock(&self.changes);
        changes.len = len;
        // If the length grows again, the bytes that were cut off here read as zeros, as they do in a file.
        changes.kept = changes.kept.min(len);
        changes.blocks.retain(|number, _| number * BLOCK < len);
        if let Some(block) = changes.blocks.get_mut(&(len / BLOCK)) {
            block.get_mut(within(len)..).unwrap_or_default().fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        // Nothing is on its way to a disk: the changes go away with the view.
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::{self, File};

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, Vec<u8>),
        Resize(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let write = (0..20_000_u64, prop::collection::vec(any::<u8>(), 0..9000));
        let step = prop_oneof![
            write.prop_map(|(at, bytes)| Step::Write(at, bytes)),
            (0..20_000_u64).prop_map(Step::Resize),
        ];
        prop::collection::vec(step, 0..12)
    }

    proptest! {
        #[test]
        fn it_reads_as_the_file_would_and_leaves_the_file(
            bytes in prop::collection::vec(any::<u8>(), 0..15_000),
            steps in steps(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            fs::write(&path, &bytes).unwrap();
            let file = File::options().read(true).write(true).open(&path).unwrap();
            let view = ReadOnlyView::new(Arc::new(FileBackend::new(file).unwrap())).unwrap();
            let mut model = bytes.clone();
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        view.write(at, &data).unwrap();
                        let at = usize::try_from(at).unwrap();
                        if !data.is_empty() {
                            model.resize(model.len().max(at + data.len()), 0);
                            model[at..at + data.len()].copy_from_slice(&data);
                        }
                    }
                    Step::Resize(len) => {
                        view.set_len(len).unwrap();
                        model.resize(usize::try_from(len).unwrap(), 0);
                    }
                }
                prop_assert_eq!(view.len().unwrap(), model.len() as u64);
                let mut read = vec![7; model.len()];
                view.read(0, &mut read).unwrap();
                prop_assert!(read == model);
                let middle = model.len() / 2;
                let mut read = vec![7; model.len() - middle];
                view.read(middle as u64, &mut read).unwrap();
                prop_assert!(read == model[middle..]);
                prop_assert!(view.read(middle as u64 + 1, &mut vec![0; read.len()]).is_err());
            }
            view.close().unwrap();
            prop_assert!(fs::read(&path).unwrap() == bytes);
        }
    }
}
