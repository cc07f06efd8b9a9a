//! Shutdown: the tasks of a node, and the signals that end them.
//!
//! A node that is to stop says goodbye to its peers first, and its tasks end by themselves. The halt ends
//! those that still run after that. The last signal says that everything has ended.

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
    /// All tasks, and work on blocking threads.
    pub(crate) tracker: TaskTracker,
    /// The tasks that run links. A stop waits until these have ended by themselves.
    pub(crate) links: TaskTracker,
    /// Cancelled when the node is to stop, in good order.
    pub(crate) stop: CancellationToken,
    /// Ends every task that still runs.
    pub(crate) halt: Halt,
    /// Cancelled once everything has ended.
    pub(crate) stopped: CancellationToken,
}

impl Tasks {
    /// Runs a task until it is done or the node halts.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        // Boxed, as the task's own state would have room for two of it.
        self.tracker.spawn(self.halt.clone().unless(Box::pin(task)))
    }
}

/// The signal that ends every task. Clones are one signal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Halt(Arc<HaltState>);

#[derive(Debug, Default)]
struct HaltState {
    token: CancellationToken,
    /// Says the same without the token's lock, which all tasks share.
    called: AtomicBool,
}

impl Halt {
    /// Gives the signal.
    pub(crate) fn call(&self) {
        self.0.called.store(true, Ordering::Release);
        self.0.token.cancel();
    }

    /// Waits for the signal.
    pub(crate) async fn called(&self) {
        self.0.token.cancelled().await;
    }

    /// Runs `work`, the whole of a task, until it is done or the signal is given.
    pub(crate) async fn unless(self, mut work: Pin<Box<impl Future<Output = ()>>>) {
        let mut called = pin!(self.called());
        let mut waits = false;
        poll_fn(|cx| {
            // A task is always woken by the same waker, so registering it once with the token is enough.
            // Later polls look at the flag, which takes no lock.
            let over = if waits {
                self.0.called.load(Ordering::Acquire)
            } else {
                called.as_mut().poll(cx).is_ready()
            };
            waits = true;
            if over { Poll::Ready(()) } else { work.as_mut().poll(cx) }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn ends_what_waits_and_what_comes_later_but_not_what_is_done() {
        let halt = Halt::default();
        tokio::spawn(halt.clone().unless(Box::pin(async {}))).await.unwrap();

        let (wake, woken) = oneshot::channel::<()>();
        let waiting = Box::pin(async {
            let _ = woken.await;
            std::future::pending::<()>().await;
        });
        let task = tokio::spawn(halt.clone().unless(waiting));
        wake.send(()).unwrap();
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
        halt.call();
        task.await.unwrap();

        tokio::spawn(halt.unless(Box::pin(std::future::pending()))).await.unwrap();
    }
}
