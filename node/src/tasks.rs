//! The tasks of a node, and the three signals of its shutdown.
//!
//! At the signal `stop` the node says goodbye to its peers, and its tasks end by themselves. After that, the
//! signal `halt` ends the tasks that still run. The signal `stopped` says that all tasks have ended.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of a node.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    /// Counts all tasks, and the work on blocking threads.
    pub(crate) tracker: TaskTracker,
    /// Counts the tasks that run links, and the one that maps ports. A node that stops waits until these have ended by
    /// themselves.
    pub(crate) links: TaskTracker,
    /// Cancelled when the node begins to stop.
    pub(crate) stop: CancellationToken,
    /// Ends every task that still runs.
    pub(crate) halt: Halt,
    /// Cancelled when all tasks have ended.
    pub(crate) stopped: CancellationToken,
}

impl Tasks {
    /// Spawns a task that runs until it is done or the node halts.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        // The task is boxed: an async function keeps its argument twice, which would double the memory of a
        // task.
        self.tracker.spawn(self.halt.clone().run_until_halted(Box::pin(task)))
    }
}

/// The signal that ends every task. All clones share one signal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Halt(Arc<HaltState>);

#[derive(Debug, Default)]
struct HaltState {
    token: CancellationToken,
    /// True once the token is cancelled. Unlike the token, it has no lock that all tasks share.
    is_signalled: AtomicBool,
}

impl Halt {
    /// Gives the signal.
    pub(crate) fn signal(&self) {
        self.0.is_signalled.store(true, Ordering::Release);
        self.0.token.cancel();
    }

    /// Waits for the signal.
    pub(crate) async fn signalled(&self) {
        self.0.token.cancelled().await;
    }

    /// Runs `work` until it is done or the signal is given. `work` must be all that the task does.
    pub(crate) async fn run_until_halted(self, mut work: Pin<Box<impl Future<Output = ()>>>) {
        let mut signalled = pin!(self.signalled());
        let mut is_registered = false;
        poll_fn(|cx| {
            // A task always has the same waker, so the first poll registers it with the token. Later polls
            // only look at the flag, which takes no lock.
            let is_halted = if is_registered {
                self.0.is_signalled.load(Ordering::Acquire)
            } else {
                signalled.as_mut().poll(cx).is_ready()
            };
            is_registered = true;
            if is_halted { Poll::Ready(()) } else { work.as_mut().poll(cx) }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn the_halt_ends_tasks_that_wait_and_tasks_that_start_later() {
        let halt = Halt::default();
        tokio::spawn(halt.clone().run_until_halted(Box::pin(async {}))).await.unwrap();

        let (wake, woken) = oneshot::channel::<()>();
        let waiting = Box::pin(async {
            let _ = woken.await;
            std::future::pending::<()>().await;
        });
        let task = tokio::spawn(halt.clone().run_until_halted(waiting));
        wake.send(()).unwrap();
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
        halt.signal();
        task.await.unwrap();

        tokio::spawn(halt.run_until_halted(Box::pin(std::future::pending()))).await.unwrap();
    }
}
