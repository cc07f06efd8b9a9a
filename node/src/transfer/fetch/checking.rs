//! Looking at what is on the disk already, on all cores.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use peerkit_proto::files::{FileKind, Layout, PieceList};

use super::error::FetchError;
use super::listed::Listed;
use super::place::candidates;
use super::status::Shown;
use crate::cores::cores;
use crate::disk::folder::OpenFolder;
use crate::disk::read_exact_at;

/// Threads at most.
const THREADS: usize = 8;

/// The looking of one fetch: others see how far it is, and can stop it. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Checking {
    shown: Shown,
    stopped: Arc<AtomicBool>,
}

impl Checking {
    pub(super) fn new(shown: Shown) -> Self {
        Self { shown, stopped: Arc::default() }
    }

    /// What is being looked at is looked at no further.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Something of `total` bytes is looked at from now on.
    pub(super) fn begin(&self, total: u64) {
        self.shown.checking(total);
    }

    /// Those of `pieces` that are good: `look` says how many bytes a piece has where it is. It may
    /// read it to the buffer that it is given.
    ///
    /// # Errors
    /// Where it was stopped.
    pub(super) fn good(
        &self,
        pieces: Range<u64>,
        look: impl Fn(u64, &mut Vec<u8>) -> Option<u64> + Sync,
    ) -> Result<Vec<u64>, FetchError> {
        let next = AtomicU64::new(pieces.start);
        let work = || {
            let (mut buffer, mut good) = (Vec::new(), Vec::new());
            loop {
                let piece = next.fetch_add(1, Ordering::Relaxed);
                if piece >= pieces.end || self.stopped.load(Ordering::Relaxed) {
                    return good;
                }
                if let Some(bytes) = look(piece, &mut buffer) {
                    self.shown.checked(bytes);
                    good.push(piece);
                }
            }
        };
        let many = pieces.end.saturating_sub(pieces.start) > 4;
        let threads = match many {
            true => cores(THREADS),
            false => 1,
        };
        let good: Vec<Vec<u64>> = thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut good = vec![work()];
            // A thread that panicked has found nothing.
            good.extend(others.into_iter().filter_map(|other| other.join().ok()));
            good
        });
        match self.stopped.load(Ordering::Relaxed) {
            true => Err(FetchError::Stopped),
            false => Ok(good.concat()),
        }
    }

    /// The file that has what `list` is of and is where a fetch to `target` would put it, or at one
    /// of the names that it would take in its place.
    ///
    /// # Errors
    /// Where it was stopped.
    pub(super) fn there(
        &self,
        target: &Path,
        list: &PieceList,
        overwrite: bool,
    ) -> Result<Option<(PathBuf, File)>, FetchError> {
        for path in candidates(target, FileKind::File, overwrite) {
            let Ok(found) = fs::symlink_metadata(&path) else { break };
            if !found.is_file() || found.len() != list.size() {
                continue;
            }
            let Ok(file) = File::open(&path) else { continue };
            self.begin(list.size());
            let look = |piece, buffer: &mut Vec<u8>| {
                let is_good = |bytes: &[u8]| list.verify_piece(piece, bytes).is_ok();
                read_good(&file, list.range(piece)?, buffer, is_good)
            };
            if self.all_good(list.count(), look)? {
                return Ok(Some((path, file)));
            }
        }
        Ok(None)
    }

    /// The same of a folder: one that has what is `listed`, with its pieces numbered by `layout`,
    /// and nothing else.
    ///
    /// # Errors
    /// Where it was stopped.
    pub(super) fn folder_there(
        &self,
        target: &Path,
        (listed, layout): (&Listed, &Layout),
        overwrite: bool,
    ) -> Result<Option<PathBuf>, FetchError> {
        for path in candidates(target, FileKind::Folder, overwrite) {
            let Ok(found) = fs::symlink_metadata(&path) else { break };
            if !found.is_dir() || !listed.is_like(&path).unwrap_or(false) {
                continue;
            }
            self.begin(listed.manifest().total());
            let folder = OpenFolder::new(path.clone());
            let look = |piece, buffer: &mut Vec<u8>| {
                let place = layout.place(piece)?;
                // What this disk can't have is not missing.
                let Some((path, _)) = listed.file(place.file) else { return Some(0) };
                let file = folder.open(path.as_str()).ok()?;
                let is_good = |bytes: &[u8]| listed.verify(&place, bytes).is_ok();
                read_good(&file, place.range.clone(), buffer, is_good)
            };
            if self.all_good(layout.count(), look)? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Whether all of `count` pieces are good: the first that is not decides.
    fn all_good(
        &self,
        count: u64,
        look: impl Fn(u64, &mut Vec<u8>) -> Option<u64> + Sync,
    ) -> Result<bool, FetchError> {
        let is_other = AtomicBool::new(false);
        let look = |piece, buffer: &mut Vec<u8>| {
            if is_other.load(Ordering::Relaxed) {
                return None;
            }
            let len = look(piece, buffer);
            is_other.fetch_or(len.is_none(), Ordering::Relaxed);
            len
        };
        Ok(self.good(0..count, look)?.len() as u64 == count)
    }
}

/// Reads what a file has at `range`; how many bytes that is, where they are there and `is_good`.
pub(super) fn read_good(
    file: &File,
    range: Range<u64>,
    buffer: &mut Vec<u8>,
    is_good: impl FnOnce(&[u8]) -> bool,
) -> Option<u64> {
    let len = range.end.checked_sub(range.start)?;
    buffer.resize(usize::try_from(len).ok()?, 0);
    read_exact_at(file, buffer, range.start).ok()?;
    is_good(buffer).then_some(len)
}

#[cfg(test)]
mod tests {
    use peerkit_proto::id::Hash;

    use super::*;

    #[test]
    fn it_shows_how_far_it_is_and_can_be_stopped() {
        let shown = Shown::new(Hash::of(b""), None);
        let checking = Checking::new(shown.clone());
        checking.begin(100);
        let look = |piece: u64, _: &mut Vec<u8>| piece.is_multiple_of(2).then_some(10);
        let mut good = checking.good(0..10, look).unwrap();
        good.sort_unstable();
        assert_eq!(good, [0, 2, 4, 6, 8]);
        assert_eq!((shown.get().done, shown.get().total), (50, Some(100)));

        let looked = AtomicU64::new(0);
        let stopping = |_: u64, _: &mut Vec<u8>| {
            looked.fetch_add(1, Ordering::Relaxed);
            checking.stop();
            Some(10)
        };
        let stopped = checking.good(0..1_000_000, stopping);
        assert!(matches!(stopped, Err(FetchError::Stopped)), "{stopped:?}");
        assert!(looked.into_inner() <= THREADS as u64, "each thread ends after the piece it is at");
    }
}
