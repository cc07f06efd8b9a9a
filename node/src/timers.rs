//! The timers of the application's handler.

use std::sync::Mutex;
use std::time::Duration;

use peerkit_proto::event::{Event, TimerId};
use peerkit_proto::handler::Timers;
use tokio::sync::Notify;

use crate::inner::Inner;
use crate::lock::lock;

/// The timers, and the wake-up of the task that waits for the next.
#[derive(Debug, Default)]
pub(crate) struct HandlerTimers {
    timers: Mutex<Timers>,
    changed: Notify,
}

impl Inner {
    /// Sets a timer of the handler. If there are too many, the action fails.
    pub(crate) fn set_timer(&self, timer: TimerId, after: Duration) {
        match lock(&self.handler.timers.timers).set(self.clock.now(), timer, after) {
            Ok(_) => self.handler.timers.changed.notify_one(),
            Err(error) => {
                let (action, error) = (timer.action(), error.to_string());
                self.dispatch.queue_notice(Event::NodeActionFailed { action, error });
            }
        }
    }

    /// Cancels a timer of the handler. Timers expire in the handler's turn, in which this is called, so
    /// the timer does not expire afterwards.
    pub(crate) fn cancel_timer(&self, timer: TimerId) {
        lock(&self.handler.timers.timers).cancel(timer);
    }

    /// Calls the handler for each timer that expires, until the node is asked to stop.
    pub(crate) async fn run_timers(&self) {
        loop {
            let next = lock(&self.handler.timers.timers).poll_timeout();
            tokio::select! {
                biased;
                () = self.tasks.stop.cancelled() => return,
                () = self.handler.timers.changed.notified() => continue,
                () = self.clock.sleep_until(next) => {}
            }
            // The timer is taken only once it is the handler's turn, as the handler may cancel it until
            // then.
            let expired = || {
                let mut timers = lock(&self.handler.timers.timers);
                timers.poll(self.clock.now()).filter(|_| !self.tasks.stop.is_cancelled())
            };
            self.dispatch.deliver_timer(self, expired).await;
        }
    }
}
