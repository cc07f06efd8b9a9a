//! Checks on all cores which pieces are on the disk already.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::error::FetchError;
use super::status::SharedStatus;
use crate::blocking::cores;

/// Maximum number of threads of one check.
const MAX_THREADS: usize = 8;

/// The check of one download. Its progress is shown, and it can be stopped. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct DiskCheck {
    status: SharedStatus,
    stopped: Arc<AtomicBool>,
}

impl DiskCheck {
    pub(super) fn new(status: SharedStatus) -> Self {
        Self { status, stopped: Arc::default() }
    }

    /// Stops the check that is under way, and all later ones.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Shows that a check of `total` bytes begins.
    pub(super) fn begin(&self, total: u64) {
        self.status.show_check(total);
    }

    /// Returns the good ones among `pieces`. `check_piece` returns the length of a piece if it is good, and
    /// may use the buffer.
    ///
    /// # Errors
    /// If it was stopped.
    pub(super) fn good_pieces(
        &self,
        pieces: Range<u64>,
        check_piece: impl Fn(u64, &mut Vec<u8>) -> Option<u64> + Sync,
    ) -> Result<Vec<u64>, FetchError> {
        let next = AtomicU64::new(pieces.start);
        let work = || {
            let mut buffer = Vec::new();
            let mut good = Vec::new();
            loop {
                // Each thread takes the next piece, so that none waits for a slow one.
                let piece = next.fetch_add(1, Ordering::Relaxed);
                if piece >= pieces.end || self.stopped.load(Ordering::Relaxed) {
                    return good;
                }
                if let Some(bytes) = check_piece(piece, &mut buffer) {
                    self.status.add_checked(bytes);
                    good.push(piece);
                }
            }
        };
        // Folders have many files of a few pieces, for which threads would cost more than they save.
        let is_small = pieces.end.saturating_sub(pieces.start) <= 4;
        let threads = if is_small { 1 } else { cores(MAX_THREADS) };
        let good: Vec<Vec<u64>> = thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut good = vec![work()];
            // A thread that panicked has found nothing.
            good.extend(others.into_iter().filter_map(|other| other.join().ok()));
            good
        });
        if self.stopped.load(Ordering::Relaxed) {
            Err(FetchError::Stopped)
        } else {
            Ok(good.concat())
        }
    }

    /// Returns whether all of `count` pieces are good. Ends at the first piece that is not good.
    ///
    /// # Errors
    /// If it was stopped.
    pub(super) fn all_good(
        &self,
        count: u64,
        check_piece: impl Fn(u64, &mut Vec<u8>) -> Option<u64> + Sync,
    ) -> Result<bool, FetchError> {
        let has_bad = AtomicBool::new(false);
        let check_piece = |piece, buffer: &mut Vec<u8>| {
            if has_bad.load(Ordering::Relaxed) {
                return None;
            }
            let len = check_piece(piece, buffer);
            has_bad.fetch_or(len.is_none(), Ordering::Relaxed);
            len
        };
        Ok(self.good_pieces(0..count, check_piece)?.len() as u64 == count)
    }
}

#[cfg(test)]
mod tests {
    use peerkit_proto::id::Hash;

    use super::*;

    #[test]
    fn a_check_shows_its_progress_and_can_be_stopped() {
        let status = SharedStatus::new(Hash::of(b""), None);
        let checking = DiskCheck::new(status.clone());
        checking.begin(100);
        let check_piece = |piece: u64, _: &mut Vec<u8>| piece.is_multiple_of(2).then_some(10);
        let mut good = checking.good_pieces(0..10, check_piece).unwrap();
        good.sort_unstable();
        assert_eq!(good, [0, 2, 4, 6, 8]);
        assert_eq!((status.get().done, status.get().total), (50, Some(100)));

        let checked = AtomicU64::new(0);
        let stopping = |_: u64, _: &mut Vec<u8>| {
            checked.fetch_add(1, Ordering::Relaxed);
            checking.stop();
            Some(10)
        };
        let stopped = checking.good_pieces(0..1_000_000, stopping);
        assert!(matches!(stopped, Err(FetchError::Stopped)), "{stopped:?}");
        assert!(
            checked.into_inner() <= MAX_THREADS as u64,
            "each thread ends after the piece that it is checking"
        );
    }
}
