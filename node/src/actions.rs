//! Actions that a handler asks for through its context, with their result as an event: joins,
//! discoveries, searches, pings, fetches and shares. Each is a task of its own.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, PoisonError};

use peerkit_proto::event::Event;
use peerkit_proto::handler::Action;
use peerkit_proto::message::Message;

use crate::error::Error;
use crate::inner::Inner;
use crate::order::Order;
use crate::shares::ShareOptions;
use crate::transfer::Get;

/// Actions of the handler that may be under way at once. 1,024: one for each order that the actor
/// may have waiting.
pub(crate) const ACTIONS: usize = 1024;

impl Inner {
    /// Begins an action. Its result comes as an event.
    pub(crate) fn perform(self: &Arc<Self>, action: Action) {
        if let Action::Broadcast(title, message) = action {
            return self.broadcast_when_allowed(title, message);
        }
        let inner = self.clone();
        let Ok(permit) = self.actions.clone().try_acquire_owned() else {
            if let Some(event) = failure(&action, &Error::TooManyActions(ACTIONS)) {
                self.spawn(async move { inner.dispatch.notice_when_room(event).await });
            }
            return;
        };
        self.spawn(async move {
            let event = match inner.result(&action).await {
                Ok(event) => event,
                Err(error) => failure(&action, &error),
            };
            if let Some(event) = event {
                inner.dispatch.notice_when_room(event).await;
            }
            drop(permit);
        });
    }

    /// Sends a broadcast of the handler once its limit allows it, behind those before it.
    fn broadcast_when_allowed(self: &Arc<Self>, title: String, message: Message) {
        let waiting = {
            let mut queue = self.limited();
            if queue.len() >= ACTIONS {
                drop(queue);
                let error = Error::TooManyActions(ACTIONS).to_string();
                return self.dispatch.notice(Event::NodeBroadcastFailed { title, error });
            }
            queue.push_back((title, message));
            queue.len()
        };
        if waiting > 1 {
            return;
        }
        let inner = self.clone();
        self.spawn(async move {
            // It stays in the queue until it is on its way, so that there is one such task.
            loop {
                let Some((title, message)) = inner.limited().front().cloned() else { return };
                tokio::select! {
                    () = inner.rates.broadcast(title.len() + message.body().len()) => {}
                    () = inner.stop.cancelled() => {}
                }
                let _ = inner.orders.send(Order::Broadcast { title, message, reply: None }).await;
                let mut queue = inner.limited();
                queue.pop_front();
                if queue.is_empty() {
                    return;
                }
            }
        });
    }

    fn limited(&self) -> MutexGuard<'_, VecDeque<(String, Message)>> {
        self.limited_broadcasts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out an action and returns the event with its result, where it has one.
    async fn result(self: &Arc<Self>, action: &Action) -> Result<Option<Event>, Error> {
        Ok(match action.clone() {
            Action::Join(addresses) => self.join(addresses).await.map(|_| None)?,
            Action::Discover(action, depth) => {
                let found = self.discover(depth).await?;
                let (nodes, complete) = (found.nodes, found.complete);
                Some(Event::NodeDiscoveryCompleted { action, nodes, complete })
            }
            Action::Search(action, text) => {
                let files = self.search(&text).await?;
                Some(Event::NodeSearchCompleted { action, files })
            }
            Action::Ping(action, node) => {
                let rtt = self.ping(node).await?;
                Some(Event::NodePingCompleted { action, node, rtt })
            }
            Action::Fetch(action, hash, to) => {
                let fetched = self.fetch_now(Get::new(hash).to(to), |_| {}).await?;
                let (path, bytes) = (fetched.path, fetched.bytes);
                Some(Event::NodeFetchCompleted { action, hash, path, bytes })
            }
            Action::Share(action, path) => {
                let added = self.shares.add_with(path, ShareOptions::default(), |_| {}).await?;
                let (file, skipped) = (added.shared, added.skipped.len());
                Some(Event::NodeShareCompleted { action, file, skipped })
            }
            _ => None,
        })
    }
}

/// The event that says that an action has failed, for those that have a result.
fn failure(action: &Action, error: &Error) -> Option<Event> {
    match action {
        Action::Discover(action, _)
        | Action::Search(action, _)
        | Action::Ping(action, _)
        | Action::Fetch(action, ..)
        | Action::Share(action, _) => {
            Some(Event::NodeActionFailed { action: *action, error: error.to_string() })
        }
        Action::Join(addresses) => {
            let address = match error {
                Error::LinksByHand(peer) | Error::NoPlace(peer) => Some(peer.address().clone()),
                Error::TooManyActions(_) | Error::Timeout(_) => addresses.first().cloned(),
                // Each dial that fails is an event already.
                _ => None,
            };
            let error = error.to_string();
            address.map(|address| Event::OutboundNodeConnectionError { address, error })
        }
        _ => None,
    }
}
