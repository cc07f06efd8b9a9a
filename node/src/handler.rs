//! The node as the application's handler sees it, and the actions that the handler asks for.
//!
//! A handler must not wait for the actor. If the actor's queue is full, its orders go into a second,
//! bounded queue. They keep their sequence, and a stop carries all of them out.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use peerkit_proto::event::{ActionId, Peer};
use peerkit_proto::handler::{Action, World};
use peerkit_proto::id::NodeId;
use peerkit_proto::time::Instant;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::conn::Conn;
use crate::dispatch::Act;
use crate::inner::Inner;
use crate::lock::lock;
use crate::order::{HANDLER_ORDERS, ORDERS, Order};

impl World for Inner {
    fn id(&self) -> NodeId {
        self.id
    }

    fn now(&self) -> Instant {
        self.now()
    }

    fn peers(&self) -> Vec<Peer> {
        self.all_conns().iter().map(|conn| conn.peer.clone()).collect()
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self, peer: NodeId, key: &str) -> Option<Value> {
        let conn = self.conn(peer).ok()?;
        let info = lock(&conn.info);
        info.get(key).cloned()
    }

    fn next_action(&self) -> ActionId {
        ActionId::new(self.last_action.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl Act for Inner {
    fn act(&self, action: Action) {
        let order = match action {
            Action::Send(peer, message) => {
                let Some(conn) = self.linked(peer.id()) else {
                    self.recipients.add(peer.id());
                    return self.act_in_turn(Order::SendForHandler(peer, message));
                };
                if let Err(error) = self.try_send(&conn, message.into()) {
                    self.failed(peer, &error);
                }
                return;
            }
            Action::SendToNodes(message, exclude) => {
                let told = self.send_to_nodes(message.into(), &exclude, |conn, sent| {
                    if let Err(error) = sent {
                        self.failed(conn.peer.clone(), &error);
                    }
                });
                if let Err(error) = told {
                    // It went to nobody.
                    let others = |conn: &&Arc<Conn>| !exclude.contains(&conn.peer.id());
                    for conn in self.all_conns().iter().filter(others) {
                        self.failed(conn.peer.clone(), &error);
                    }
                }
                return;
            }
            Action::SetInfo(peer, key, value) => {
                // A peer whose link has ended meanwhile gets no note.
                let _ = self.set_info(peer, key, value);
                return;
            }
            Action::SetTimer(timer, after) => return self.set_timer(timer, after),
            Action::CancelTimer(timer) => return self.cancel_timer(timer),
            Action::Stop => return self.stop.cancel(),
            Action::Disconnect(id) => Order::Disconnect { id, reply: None },
            Action::StopReconnecting(address) => Order::StopReconnecting(address),
            action => Order::Act(action),
        };
        self.act_in_turn(order);
    }
}

impl Inner {
    /// Gives the actor an order of the handler, or reports that there is no room for it.
    fn act_in_turn(&self, order: Order) {
        if let Some(order) = self.order(order) {
            self.report_dropped(order);
        }
    }

    /// Takes the orders that were given so far, in sequence. The actor carries them out when the node
    /// stops.
    pub(crate) fn take_orders(&self, orders: &mut mpsc::Receiver<Order>) -> Vec<Order> {
        let mut waiting = lock(&self.waiting_orders);
        let ready = std::iter::from_fn(|| orders.try_recv().ok());
        let mut all: Vec<_> = ready.take(ORDERS).collect();
        all.extend(waiting.drain(..));
        all
    }

    /// Gives the actor an order of the handler, or queues it behind those that wait for room. Returns
    /// the order if that queue is full.
    fn order(&self, order: Order) -> Option<Order> {
        let mut waiting = lock(&self.waiting_orders);
        let order = if waiting.is_empty() {
            match self.orders.try_send(order) {
                // The actor is gone only once the node has stopped.
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => return None,
                Err(mpsc::error::TrySendError::Full(order)) => order,
            }
        } else {
            order
        };
        if waiting.len() >= HANDLER_ORDERS {
            return Some(order);
        }
        waiting.push_back(order);
        if waiting.len() == 1 {
            let (orders, waiting) = (self.orders.clone(), self.waiting_orders.clone());
            self.spawn(async move {
                while let Ok(room) = orders.reserve().await {
                    // Taken out and sent under one lock, so that no other order gets in between.
                    let mut waiting = lock(&waiting);
                    if let Some(order) = waiting.pop_front() {
                        room.send(order);
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
