//! Broadcasts of the handler, which stay in sequence even while the rate limit holds them back.

use peerkit_proto::event::Event;
use peerkit_proto::message::Message;
use peerkit_proto::peer::{BroadcastReceipt, Input};

use super::Actor;
use super::mailbox::{Operation, Order, Publisher};
use crate::actions::MAX_ACTIONS;
use crate::error::Error;
use crate::inner::Inner;

impl Publisher {
    /// Reports the outcome of a broadcast.
    pub(super) fn report(self, inner: &Inner, outcome: Result<BroadcastReceipt, Error>) {
        match (self, outcome) {
            (Self::Caller(reply), outcome) => drop(reply.send(outcome)),
            (Self::Handler(title), Err(error)) => {
                let error = error.to_string();
                inner.dispatch.queue_notice(Event::NodeBroadcastFailed { title, error });
            }
            (Self::Handler(_), Ok(_)) => {}
        }
    }
}

impl Actor {
    /// Publishes a broadcast of the handler, after all earlier ones, once the rate limit allows it.
    pub(super) fn publish_in_turn(&mut self, title: String, message: Message) {
        if self.inner.tasks.stop.is_cancelled() {
            // The node is stopping: broadcasts that the handler requests now go out without a limit, after
            // those that wait.
            self.publish_all_waiting();
        }
        let limited =
            self.inner.rates.broadcast_limit() != 0 && !self.inner.tasks.stop.is_cancelled();
        if self.rate_limited.is_empty() && !limited {
            return self.publish_own(title, message);
        }
        if self.rate_limited.len() >= MAX_ACTIONS {
            let error = Error::TooManyActions(MAX_ACTIONS).to_string();
            return self.inner.dispatch.queue_notice(Event::NodeBroadcastFailed { title, error });
        }
        self.rate_limited.push_back((title, message));
        // If there are several, a task already waits for the first one, and later for the others.
        if self.rate_limited.len() == 1 {
            self.await_limit();
        }
    }

    /// Publishes the first broadcast that waits: the rate limit allows it.
    pub(super) fn broadcast_allowed(&mut self) {
        if let Some((title, message)) = self.rate_limited.pop_front() {
            self.publish_own(title, message);
            self.await_limit();
        }
    }

    /// Publishes all broadcasts that wait for the rate limit.
    pub(super) fn publish_all_waiting(&mut self) {
        while let Some((title, message)) = self.rate_limited.pop_front() {
            self.publish_own(title, message);
        }
    }

    /// Publishes a broadcast of the handler.
    fn publish_own(&mut self, title: String, message: Message) {
        let publisher = Publisher::Handler(title.clone());
        let input = |operation| Input::Broadcast { operation, title, message };
        self.begin(Operation::Broadcast(publisher), input);
    }

    /// Starts a task that waits until the rate limit allows the first broadcast. The broadcast stays in the
    /// queue meanwhile, so that there is only one such task and no later broadcast overtakes the first.
    fn await_limit(&self) {
        let Some((title, message)) = self.rate_limited.front() else { return };
        let bytes = title.len() + message.body().len();
        let inner = self.inner.clone();
        self.inner.tasks.spawn(async move {
            tokio::select! {
                () = inner.rates.broadcast(bytes) => {}
                () = inner.tasks.stop.cancelled() => {}
            }
            let _ = inner.actor.send(Order::BroadcastAllowed).await;
        });
    }
}
