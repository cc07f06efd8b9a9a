//! Actions of a handler whose result comes as an event: connects, joins, discoveries, searches, pings,
//! fetches, shares and requests. Each runs in a task of its own.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use peerkit_proto::event::{ActionId, Event, Peer};
use peerkit_proto::handler::{Action, HandlerHost};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::actor::mailbox::MAX_WAITING_ACTIONS;
use crate::error::Error;
use crate::inner::Inner;
use crate::node::REJOIN_PEERS;
use crate::shares::ShareOptions;
use crate::timers::HandlerTimers;
use crate::transfer::FetchRequest;

/// Maximum number of the handler's actions under way. 1,024: the actor's queue of orders has as many places.
pub(crate) const MAX_ACTIONS: usize = 1024;

/// The actions and timers of the handler.
pub(crate) struct HandlerState {
    /// Permits for actions. Each action holds one while it is under way.
    permits: Arc<Semaphore>,
    /// The number of the last action.
    pub(crate) last_action: AtomicU64,
    /// Actions that wait for room in the actor's queue, oldest first.
    pub(crate) waiting_actions: Arc<Mutex<VecDeque<Action>>>,
    pub(crate) timers: HandlerTimers,
}

impl Default for HandlerState {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MAX_ACTIONS)),
            last_action: AtomicU64::new(0),
            waiting_actions: Arc::default(),
            timers: HandlerTimers::default(),
        }
    }
}

impl Inner {
    /// Starts an action. Its result is reported as an event.
    pub(crate) fn start_action(self: &Arc<Self>, action: Action) {
        let Some((id, permit)) = self.take_permit(&action) else { return };
        let inner = self.clone();
        self.tasks.spawn(async move {
            let result = inner.carry_out(action).await;
            inner.report(id, result, permit).await;
        });
    }

    /// Returns a sender for the result of a connect. A task reports that result as an event. If too many
    /// actions are under way, reports that and returns `None`.
    pub(crate) fn reply_for_connect(
        self: &Arc<Self>,
        action: &Action,
    ) -> Option<oneshot::Sender<Result<Peer, Error>>> {
        let (id, permit) = self.take_permit(action)?;
        let (reply, peer) = oneshot::channel();
        let inner = self.clone();
        self.tasks.spawn(async move {
            let result = peer.await.unwrap_or(Err(Error::Stopped));
            let event = result.map(|peer| Event::NodeConnectCompleted { action: id, peer });
            inner.report(id, event, permit).await;
        });
        Some(reply)
    }

    /// Returns the number of an action and a permit for it. If there is no permit, reports that the action
    /// has failed and returns `None`.
    fn take_permit(self: &Arc<Self>, action: &Action) -> Option<(ActionId, OwnedSemaphorePermit)> {
        let id = action_id(action)?;
        if let Ok(permit) = self.handler.permits.clone().try_acquire_owned() {
            return Some((id, permit));
        }
        // A task waits for room among the notices, because the caller is the actor, which must not wait.
        let (inner, event) = (self.clone(), action_failed(id, &Error::TooManyActions(MAX_ACTIONS)));
        self.tasks.spawn(async move { inner.dispatch.queue_notice_when_room(event).await });
        None
    }

    async fn report(
        &self,
        id: ActionId,
        result: Result<Event, Error>,
        permit: OwnedSemaphorePermit,
    ) {
        let event = result.unwrap_or_else(|error| action_failed(id, &error));
        self.dispatch.queue_notice_when_room(event).await;
        // The permit is held until the event is queued. So results that wait for a slow handler are bounded.
        drop(permit);
    }

    /// Reports that an action of the handler was dropped, because too many actions wait before it.
    pub(crate) fn report_dropped(&self, action: Action) {
        let error = Error::TooManyActions(MAX_WAITING_ACTIONS);
        let event = match action {
            Action::Send(peer, _) => {
                // The message was counted when the handler sent it.
                self.recipients.remove(peer.id());
                return self.report_unsent(peer, &error);
            }
            Action::Broadcast(title, _) => {
                Event::NodeBroadcastFailed { title, error: error.to_string() }
            }
            Action::Disconnect(id) => {
                let error = format!("the link with {} was not closed: {error}", id.short());
                Event::NodeActionFailed { action: self.next_action(), error }
            }
            Action::Penalize(id, _) => {
                let error = format!("{} was not penalized: {error}", id.short());
                Event::NodeActionFailed { action: self.next_action(), error }
            }
            Action::StopReconnecting(address) => {
                let error = format!("reconnecting to {address} was not stopped: {error}");
                Event::NodeActionFailed { action: self.next_action(), error }
            }
            action => match action_id(&action) {
                Some(id) => action_failed(id, &error),
                None => return,
            },
        };
        self.dispatch.queue_notice(event);
    }

    /// Carries out an action, and returns the event with its result.
    async fn carry_out(self: &Arc<Self>, action: Action) -> Result<Event, Error> {
        Ok(match action {
            Action::Join(action, addresses) => {
                if addresses.is_empty() {
                    self.rejoin(REJOIN_PEERS).await?;
                } else {
                    self.join(addresses).await?;
                }
                Event::NodeJoinCompleted { action }
            }
            Action::Discover(action, depth) => {
                let found = self.discover(depth).await?;
                let (nodes, complete) = (found.nodes, found.complete);
                Event::NodeDiscoveryCompleted { action, nodes, complete }
            }
            Action::Search(action, text) => {
                let files = self.search(&text).await?;
                Event::NodeSearchCompleted { action, files }
            }
            Action::Ping(action, node) => {
                let rtt = self.ping(node).await?;
                Event::NodePingCompleted { action, node, rtt }
            }
            Action::Request(action, node, name, message) => {
                let reply = self.request(node, &name, message, self.config.request_timeout).await?;
                Event::NodeRequestCompleted { action, node, reply }
            }
            Action::Fetch(action, hash, to) => {
                // Foreground: the fetch ends with this action, and does not continue after a restart.
                let fetched = self.fetch(FetchRequest::new(hash).to(to).foreground()).await?;
                let (path, bytes) = (fetched.path, fetched.bytes);
                Event::NodeFetchCompleted { action, hash, path, bytes }
            }
            Action::Share(action, path) => {
                let added =
                    self.files.shares.add_with(path, ShareOptions::default(), |_| {}).await?;
                let (file, skipped) = (added.shared, added.skipped.len());
                Event::NodeShareCompleted { action, file, skipped }
            }
            _ => return Err(Error::UnknownAction),
        })
    }
}

fn action_failed(action: ActionId, error: &Error) -> Event {
    Event::NodeActionFailed { action, error: error.to_string() }
}

/// Returns the number of an action whose result is reported. Other actions have no number.
fn action_id(action: &Action) -> Option<ActionId> {
    match action {
        Action::Connect(id, ..)
        | Action::Join(id, _)
        | Action::Discover(id, _)
        | Action::Search(id, _)
        | Action::Ping(id, _)
        | Action::Fetch(id, ..)
        | Action::Request(id, ..)
        | Action::Share(id, _) => Some(*id),
        _ => None,
    }
}
