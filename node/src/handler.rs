//! The node as the application's handler sees it, and the actions that the handler requests.
//!
//! A handler must not wait for the actor. If the actor's queue is full, the handler's actions go into a
//! second, bounded queue. All actions are carried out in the order in which they were requested. Those that
//! still wait when the node stops are carried out then.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use peerkit_proto::event::{ActionId, Peer};
use peerkit_proto::handler::{Action, HandlerHost, MAX_FILE_IN_MEMORY};
use peerkit_proto::id::NodeId;
use peerkit_proto::time::Instant;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::actor::mailbox::{MAX_ORDERS, MAX_WAITING_ACTIONS, Order};
use crate::conn::Conn;
use crate::dispatch::ActionSink;
use crate::inner::Inner;
use crate::lock::lock;
use crate::node::{send_to_nodes, try_send};

impl HandlerHost for Inner {
    fn id(&self) -> NodeId {
        self.profile.id
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn peers(&self) -> Vec<Peer> {
        self.links.all().iter().map(|conn| conn.peer.clone()).collect()
    }

    fn name(&self) -> &str {
        &self.profile.name
    }

    fn info(&self, peer: NodeId, key: &str) -> Option<Value> {
        let conn = self.links.get(peer).ok()?;
        let info = lock(&conn.info);
        info.get(key).cloned()
    }

    fn next_action(&self) -> ActionId {
        ActionId::new(self.handler.last_action.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn read_file(&self, path: &Path) -> io::Result<Bytes> {
        // One byte more than the limit is read: it shows that the file is too large, even if its metadata
        // name a smaller size.
        let mut content = Vec::new();
        let limit = MAX_FILE_IN_MEMORY as u64 + 1;
        File::open(path)?.take(limit).read_to_end(&mut content)?;
        if content.len() > MAX_FILE_IN_MEMORY {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(content.into())
    }

    fn write_file(&self, path: &Path, content: Bytes) -> io::Result<()> {
        fs::write(path, content)
    }
}

impl ActionSink for Inner {
    fn act(&self, action: Action) {
        match action {
            Action::Send(peer, message) => {
                let Some(conn) = self.linked(peer.id()) else {
                    self.recipients.add(peer.id());
                    return self.order_or_report(Action::Send(peer, message));
                };
                if let Err(error) = try_send(&conn, message.into(), self.config.max_message) {
                    self.report_unsent(peer, &error);
                }
            }
            Action::SendToNodes(message, exclude) => {
                let (links, max) = (&self.links, self.config.max_message);
                let queued = send_to_nodes(links, message.into(), &exclude, max, |conn, sent| {
                    if let Err(error) = sent {
                        self.report_unsent(conn.peer.clone(), &error);
                    }
                });
                if let Err(error) = queued {
                    // The message went to no peer.
                    let others = |conn: &&Arc<Conn>| !exclude.contains(&conn.peer.id());
                    for conn in self.links.all().iter().filter(others) {
                        self.report_unsent(conn.peer.clone(), &error);
                    }
                }
            }
            Action::SetInfo(peer, key, value) => {
                // A note about a peer whose link has ended meanwhile is dropped.
                if let Ok(conn) = self.links.get(peer) {
                    lock(&conn.info).insert(key, value);
                }
            }
            Action::SetTimer(timer, after) => self.set_timer(timer, after),
            Action::CancelTimer(timer) => self.cancel_timer(timer),
            Action::Stop => self.tasks.stop.cancel(),
            action => self.order_or_report(action),
        }
    }
}

impl Inner {
    /// Hands the actor an action of the handler, or reports that there is no room for it.
    fn order_or_report(&self, action: Action) {
        if let Some(action) = self.try_order(action) {
            self.report_dropped(action);
        }
    }

    /// Takes all orders that still wait for the actor, oldest first. The actor carries them out when the node
    /// stops.
    pub(crate) fn take_all_orders(&self, orders: &mut mpsc::Receiver<Order>) -> Vec<Order> {
        let mut waiting = lock(&self.handler.waiting_actions);
        let ready = std::iter::from_fn(|| orders.try_recv().ok());
        let mut all: Vec<_> = ready.take(MAX_ORDERS).collect();
        all.extend(waiting.drain(..).map(Order::Act));
        all
    }

    /// Hands the actor an action of the handler. If there is no room, or earlier actions wait for room,
    /// queues the action behind them. Returns the action if that queue is full too.
    fn try_order(&self, action: Action) -> Option<Action> {
        let mut waiting = lock(&self.handler.waiting_actions);
        if waiting.is_empty() {
            match self.actor.orders.try_reserve() {
                Ok(room) => {
                    room.send(Order::Act(action));
                    return None;
                }
                // The actor is gone only once the node has stopped.
                Err(mpsc::error::TrySendError::Closed(())) => return None,
                Err(mpsc::error::TrySendError::Full(())) => {}
            }
        }
        if waiting.len() >= MAX_WAITING_ACTIONS {
            return Some(action);
        }
        waiting.push_back(action);
        if waiting.len() == 1 {
            let (orders, waiting) =
                (self.actor.orders.clone(), self.handler.waiting_actions.clone());
            self.tasks.spawn(async move {
                while let Ok(room) = orders.reserve().await {
                    // The lock is held until the action is sent, so that no later action overtakes it.
                    let mut waiting = lock(&waiting);
                    if let Some(action) = waiting.pop_front() {
                        room.send(Order::Act(action));
                    }
                    if waiting.is_empty() {
                        return;
                    }
                }
            });
        }
        None
    }
}
