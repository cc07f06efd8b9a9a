//! The end of all that still runs.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use tokio_util::sync::CancellationToken;

/// Whatever still runs is to end, once this is called. Clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Halt(Arc<State>);

#[derive(Debug, Default)]
struct State {
    token: CancellationToken,
    /// The token tells it too, but behind a lock that all tasks share.
    called: AtomicBool,
}

impl Halt {
    /// Ends it all.
    pub(crate) fn call(&self) {
        self.0.called.store(true, Ordering::Release);
        self.0.token.cancel();
    }

    /// Waits for it.
    pub(crate) async fn called(&self) {
        self.0.token.cancelled().await;
    }

    /// Runs `work` until it is done or everything is to end. For the whole of a task.
    pub(crate) async fn unless(self, mut work: Pin<Box<impl Future<Output = ()>>>) {
        let mut called = pin!(self.called());
        let mut waits = false;
        poll_fn(|cx| {
            // A task is always woken in the same way: to say so once is enough.
            let over = match waits {
                true => self.0.called.load(Ordering::Acquire),
                false => called.as_mut().poll(cx).is_ready(),
            };
            waits = true;
            match over {
                true => Poll::Ready(()),
                false => work.as_mut().poll(cx),
            }
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
