//! What came, on its way to the disk: checked and written away from the tasks that receive.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use peerkit_proto::files::FileKind;
use peerkit_proto::files::fetch::SourceId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::spawn_blocking;

use super::error::FetchError;
use super::news::News;
use super::target::{Batch, Target};
use crate::cores::cores;
use crate::lock::lock;

/// Batches of one fetch that are being checked and written, or wait for it, each of about two pieces.
const BATCHES: usize = 8;

/// Threads at most that write the files of one folder.
const THREADS: usize = 8;

/// The batches of one fetch, from all its sources.
#[derive(Debug)]
pub(super) struct Keeping {
    queue: Mutex<Queue>,
    /// A permit for each batch that is not written yet.
    permits: Arc<Semaphore>,
    /// Threads that write the files of a folder.
    threads: usize,
    /// Buffers, used again.
    spare: Mutex<Vec<Batch>>,
    /// Where to tell what came of them.
    news: mpsc::Sender<News>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Threads at work on them.
    threads: usize,
}

#[derive(Debug)]
struct Waiting {
    target: Arc<Target>,
    source: SourceId,
    batch: Batch,
    _permit: OwnedSemaphorePermit,
}

impl Keeping {
    pub(super) fn new(news: mpsc::Sender<News>) -> Self {
        let (permits, threads) = (Arc::new(Semaphore::new(BATCHES)), cores(THREADS));
        Self { queue: Mutex::default(), permits, threads, spare: Mutex::default(), news }
    }

    /// An empty batch.
    pub(super) fn batch(&self) -> Batch {
        let mut batch = lock(&self.spare).pop().unwrap_or_default();
        batch.clear();
        batch
    }

    /// As long as this is held, not [everything](Self::done) is written.
    pub(super) async fn busy(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Waits until everything is written.
    pub(super) async fn done(&self) {
        let _ = self.permits.acquire_many(BATCHES as u32).await;
    }

    /// Has a batch of `source` checked and written, once there is room for it; what came of it is
    /// told.
    ///
    /// # Errors
    /// Where the fetch is over.
    pub(super) async fn keep(
        self: &Arc<Self>,
        target: &Arc<Target>,
        source: SourceId,
        batch: Batch,
    ) -> Result<(), FetchError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| FetchError::Stopped)?;
        let mut queue = lock(&self.queue);
        let waiting = Waiting { target: Arc::clone(target), source, batch, _permit: permit };
        queue.waiting.push_back(waiting);
        // The system lets one write to a file at a time: others would wait for that with their
        // processors.
        let threads = match target.description.kind {
            FileKind::File => 1,
            FileKind::Folder => self.threads,
        };
        if queue.threads < threads {
            queue.threads += 1;
            drop(queue);
            let keeping = Arc::clone(self);
            spawn_blocking(move || {
                while let Some(waiting) = keeping.next() {
                    keeping.keep_now(waiting);
                }
            });
        }
        Ok(())
    }

    fn keep_now(&self, waiting: Waiting) {
        // Given back last: who waits for it may open the same part again.
        let Waiting { _permit, target, source, batch } = waiting;
        let news = match target.keep(&batch) {
            Ok(()) => {
                let pieces = batch.pieces.iter().map(|(piece, _)| *piece).collect();
                News::Kept(source, pieces)
            }
            Err(error) => News::Failed(source, error.into()),
        };
        lock(&self.spare).push(batch);
        // It is there before anybody can take the fetch to be at rest.
        let _ = self.news.blocking_send(news);
    }

    /// The next batch for a thread; `None` where there is none, and the thread is counted no more.
    fn next(&self) -> Option<Waiting> {
        let mut queue = lock(&self.queue);
        let next = queue.waiting.pop_front();
        queue.threads -= usize::from(next.is_none());
        next
    }
}
