//! Verifies pieces and writes them to the disk, away from the tasks that receive them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use peerkit_proto::files::FileKind;
use peerkit_proto::files::fetch::{Input, SourceId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::spawn_blocking;

use super::error::FetchError;
use super::source::SourceReport;
use super::target::DownloadTarget;
use crate::blocking::cores;
use crate::lock::lock;

/// Maximum number of batches of one fetch that are being written or wait to be written. Each has about two
/// pieces.
const MAX_BATCHES: usize = 8;

/// Maximum number of threads that write the files of one folder.
const MAX_THREADS: usize = 8;

/// Writes the batches of one fetch, from all its sources.
#[derive(Debug)]
pub(super) struct PieceWriter {
    queue: Mutex<WriteQueue>,
    /// Each batch has a permit until it is written.
    permits: Arc<Semaphore>,
    /// Number of threads that may write the files of a folder at the same time.
    threads: usize,
    /// Batches that were written, whose memory is used again.
    spare: Mutex<Vec<PieceBatch>>,
    reports: mpsc::Sender<SourceReport>,
}

#[derive(Debug, Default)]
struct WriteQueue {
    waiting: VecDeque<QueuedBatch>,
    /// Number of threads that take batches from the queue.
    threads: usize,
}

#[derive(Debug)]
struct QueuedBatch {
    target: Arc<DownloadTarget>,
    source: SourceId,
    batch: PieceBatch,
    _permit: OwnedSemaphorePermit,
}

/// Pieces of one source that are verified and written together.
#[derive(Debug, Default)]
pub(super) struct PieceBatch {
    /// Never shrinks: the bytes after `len` are left over from earlier pieces.
    bytes: Vec<u8>,
    len: usize,
    /// The pieces in order, each with its number of bytes.
    pieces: Vec<(u64, usize)>,
}

impl PieceWriter {
    /// Returns a writer that sends its results to `reports`.
    pub(super) fn new(reports: mpsc::Sender<SourceReport>) -> Self {
        Self {
            queue: Mutex::default(),
            permits: Arc::new(Semaphore::new(MAX_BATCHES)),
            threads: cores(MAX_THREADS),
            spare: Mutex::default(),
            reports,
        }
    }

    /// Returns an empty batch.
    pub(super) fn batch(&self) -> PieceBatch {
        let mut batch = lock(&self.spare).pop().unwrap_or_default();
        batch.len = 0;
        batch.pieces.clear();
        batch
    }

    /// Waits for a permit. As long as it is held, [`finished`](Self::finished) does not return.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Waits until all permits have been given back: everything is written then.
    pub(super) async fn finished(&self) {
        let _ = self.permits.acquire_many(MAX_BATCHES as u32).await;
    }

    /// Queues a batch of `source` to be verified and written, once there is room for it. The result is
    /// reported.
    ///
    /// # Errors
    /// If the fetch is over.
    pub(super) async fn write(
        self: &Arc<Self>,
        target: &Arc<DownloadTarget>,
        source: SourceId,
        batch: PieceBatch,
    ) -> Result<(), FetchError> {
        let permit = self.permit().await.ok_or(FetchError::Stopped)?;
        let target = Arc::clone(target);
        // The system lets one thread at a time write to a file. More threads would only wait, and keep
        // processors busy meanwhile.
        let threads = match target.description.kind {
            FileKind::File => 1,
            FileKind::Folder => self.threads,
        };
        let mut queue = lock(&self.queue);
        queue.waiting.push_back(QueuedBatch { target, source, batch, _permit: permit });
        if queue.threads < threads {
            queue.threads += 1;
            drop(queue);
            let writer = Arc::clone(self);
            spawn_blocking(move || {
                while let Some(next) = writer.next() {
                    writer.write_now(next);
                }
            });
        }
        Ok(())
    }

    fn write_now(&self, queued: QueuedBatch) {
        // The permit is dropped last. A task that waits for it may open the same part again.
        let QueuedBatch { _permit, target, source, batch } = queued;
        let report = match target.verify_and_write(&batch) {
            Ok(()) => {
                let pieces = batch.pieces.iter().map(|(piece, _)| *piece).collect();
                SourceReport::Input(Input::Stored { source, pieces })
            }
            Err(error) => SourceReport::Failed(source, error.into()),
        };
        // Its memory is used again, because new memory would have to be cleared for each batch.
        lock(&self.spare).push(batch);
        // Sent before the permit is dropped: once [`finished`](Self::finished) returns, every report was
        // sent.
        let _ = self.reports.blocking_send(report);
    }

    /// Returns the next batch for a thread. If there is none, the thread is no longer counted and has to end.
    fn next(&self) -> Option<QueuedBatch> {
        let mut queue = lock(&self.queue);
        // Counted under the same lock, so that the next batch in the queue starts a new thread.
        let next = queue.waiting.pop_front();
        queue.threads -= usize::from(next.is_none());
        next
    }
}

impl PieceBatch {
    /// Returns the number of bytes in its pieces.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns whether it has no pieces. Pieces may have no bytes.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Adds a piece of `len` bytes, and returns the memory for them.
    pub(super) fn add(&mut self, piece: u64, len: usize) -> &mut [u8] {
        let start = self.len;
        self.len = start.saturating_add(len);
        if self.bytes.len() < self.len {
            self.bytes.resize(self.len, 0);
        }
        self.pieces.push((piece, len));
        self.bytes.get_mut(start..self.len).unwrap_or_default()
    }

    /// Removes the last piece, whose bytes have not come.
    pub(super) fn remove_last(&mut self) {
        if let Some((_, len)) = self.pieces.pop() {
            self.len = self.len.saturating_sub(len);
        }
    }

    /// Returns the pieces in order, each with its bytes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut rest = &self.bytes[..];
        self.pieces.iter().map(move |(piece, len)| {
            let (bytes, after) = rest.split_at_checked(*len).unwrap_or_default();
            rest = after;
            (*piece, bytes)
        })
    }
}
