//! The timers of the application's handler.

use std::sync::Mutex;
use std::time::Duration;

use peerkit_proto::event::{Event, TimerId};
use peerkit_proto::handler::Timers;
use tokio::sync::Notify;

use crate::inner::Inner;
use crate::lock::lock;

/// The timers of the handler, and the signal that wakes [`Inner::run_timers`] when a timer is set.
#[derive(Debug, Default)]
pub(crate) struct HandlerTimers {
    timers: Mutex<Timers>,
    /// Notified when a timer is set.
    changed: Notify,
}

impl Inner {
    /// Sets a timer of the handler. If too many timers are set, emits an event that the action has failed.
    pub(crate) fn set_timer(&self, timer: TimerId, after: Duration) {
        match lock(&self.handler.timers.timers).set(self.clock.now(), timer, after) {
            Ok(_) => self.handler.timers.changed.notify_one(),
            Err(error) => {
                let (action, error) = (timer.action(), error.to_string());
                self.dispatch.queue_notice(Event::NodeActionFailed { action, error });
            }
        }
    }

    /// Cancels a timer of the handler, which does not expire after this returns: the handler's lock is held
    /// both here and when a timer expires.
    pub(crate) fn cancel_timer(&self, timer: TimerId) {
        lock(&self.handler.timers.timers).cancel(timer);
    }

    /// Calls the handler for each timer that expires, until the node begins to stop.
    pub(crate) async fn run_timers(&self) {
        loop {
            let next = lock(&self.handler.timers.timers).poll_timeout();
            tokio::select! {
                biased;
                () = self.tasks.stop.cancelled() => return,
                () = self.handler.timers.changed.notified() => continue,
                () = self.clock.sleep_until(next) => {}
            }
            // Runs when the handler's lock is held. Until then, the handler may still cancel the timer.
            let expired = || {
                let mut timers = lock(&self.handler.timers.timers);
                timers.poll(self.clock.now()).filter(|_| !self.tasks.stop.is_cancelled())
            };
            self.dispatch.deliver_timer(self, expired).await;
        }
    }
}
