//! A view of a database file that can be opened and written to without changing the file.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use crate::lock::lock;

/// Size of the blocks in which writes are kept, in bytes. 4096: the size of redb's pages.
const BLOCK: u64 = 4096;

/// A backend for redb that reads from a file and keeps all writes in memory.
///
/// With redb's own backend, even opening a database writes to the file, and repairs a database that was not
/// closed. The view holds the lock of the file.
#[derive(Debug)]
pub(super) struct ReadOnlyView {
    file: Arc<FileBackend>,
    changes: Mutex<WrittenBlocks>,
}

/// The changes to the file.
#[derive(Debug)]
struct WrittenBlocks {
    /// Current length, in bytes.
    len: u64,
    /// Length of the part that is still read from the file, in bytes. Unwritten bytes behind it read as
    /// zeros.
    unchanged_len: u64,
    /// The blocks that were written to, by their number.
    blocks: BTreeMap<u64, Box<[u8]>>,
}

impl ReadOnlyView {
    pub(super) fn new(file: Arc<FileBackend>) -> io::Result<Self> {
        let len = file.len()?;
        let changes = WrittenBlocks { len, unchanged_len: len, blocks: BTreeMap::new() };
        Ok(Self { file, changes: Mutex::new(changes) })
    }
}

impl WrittenBlocks {
    /// Reads bytes that are all in the same block.
    fn read(&self, file: &FileBackend, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if let Some(block) = self.blocks.get(&(offset / BLOCK)) {
            let start = offset_in_block(offset);
            let bytes = block.get(start..).and_then(|rest| rest.get(..out.len()));
            out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            return Ok(());
        }
        let in_file = self.unchanged_len.saturating_sub(offset).min(out.len() as u64);
        let (in_file, zeros) = out.split_at_mut(usize::try_from(in_file).unwrap_or(usize::MAX));
        zeros.fill(0);
        file.read(offset, in_file)
    }
}

/// Returns the position of `offset` in its block.
fn offset_in_block(offset: u64) -> usize {
    usize::try_from(offset % BLOCK).unwrap_or_default()
}

/// Returns the number of bytes from `offset` to the end of its block, but at most `len`.
fn len_in_block(offset: u64, len: usize) -> usize {
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
            let (part, rest) = out.split_at_mut(len_in_block(offset, out.len()));
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
            let (part, rest) = data.split_at(len_in_block(offset, data.len()));
            let number = offset / BLOCK;
            // The write may change only a part of the block, so the block begins as a copy of the file's.
            if !changes.blocks.contains_key(&number) {
                let mut block = vec![0; len_in_block(0, usize::MAX)];
                changes.read(&self.file, number * BLOCK, &mut block)?;
                changes.blocks.insert(number, block.into());
            }
            let block = changes.blocks.get_mut(&number).and_then(|block| {
                let start = offset_in_block(offset);
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
        // If the length grows again, the bytes that are cut off here read as zeros, as in a real file.
        changes.unchanged_len = changes.unchanged_len.min(len);
        changes.blocks.retain(|number, _| number * BLOCK < len);
        if let Some(block) = changes.blocks.get_mut(&(len / BLOCK)) {
            block.get_mut(offset_in_block(len)..).unwrap_or_default().fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        // The changes are never written to a disk, so nothing has to be synced.
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
        fn a_view_reads_like_a_written_file_and_does_not_change_the_file(
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
