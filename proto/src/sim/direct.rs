//! Messages and pings to nodes without a link: what the machine asks of the shell.

use super::Sim;
use super::link::Lane;
use crate::address::Address;
use crate::event::{ActionId, Event, Peer, Reason};
use crate::handler::Handler;
use crate::id::NodeId;
use crate::message::Message;
use crate::peer::{ConnectionId, Input, OperationId, Payload, SendError};

/// Something sent to a node that there may be no link with.
#[derive(Debug)]
pub(super) enum Sending {
    /// A message to this node.
    Message(Peer),
    /// A ping of this node.
    Ping(ActionId, NodeId),
}

impl<H: Handler> Sim<H> {
    /// Sends a message to a node that there is no link with, or for which other messages wait.
    pub(super) fn send_directly(&mut self, from: usize, to: Peer, message: Message) {
        let (operation, id) = (self.next_operation(), to.id());
        self.sending.insert(operation, Sending::Message(to));
        self.input(from, Input::Send { operation, to: id, payload: Payload::Message(message) });
    }

    /// Pings a node that there is no link with.
    pub(super) fn ping_directly(&mut self, from: usize, action: ActionId, to: NodeId) {
        let operation = self.next_operation();
        self.sending.insert(operation, Sending::Ping(action, to));
        self.input(from, Input::Send { operation, to, payload: Payload::Ping });
    }

    /// Sends a message or ping over the link that the machine has chosen.
    pub(super) fn deliver_over(
        &mut self,
        from: usize,
        operation: OperationId,
        connection: ConnectionId,
        payload: Payload,
    ) {
        let Some(sending) = self.sending.remove(&operation) else { return };
        let id = match (sending, payload) {
            (Sending::Message(to), Payload::Message(message)) => {
                let running = self.nodes[from].running.as_ref();
                let handles = running.map(|running| &running.handles);
                let handle = handles.and_then(|handles| handles.get(&to.id()).cloned());
                match handle.filter(|handle| handle.link == connection.0) {
                    Some(handle) => self.send_message(from, &handle, message),
                    None => self.message_failed(from, to.clone(), super::shell::not_connected()),
                }
                to.id()
            }
            (Sending::Ping(action, to), _) => {
                self.ask_ping(from, action, to);
                to
            }
            (Sending::Message(to), Payload::Ping) => to.id(),
        };
        self.input(from, Input::Delivered { to: id, operation });
    }

    /// Reports the outcome of a message or ping that did not go over a link.
    pub(super) fn sent(
        &mut self,
        from: usize,
        operation: OperationId,
        outcome: Result<std::time::Duration, SendError>,
    ) {
        match (self.sending.remove(&operation), outcome) {
            (Some(Sending::Message(to)), Err(error)) => {
                self.message_failed(from, to, Reason::Other(0, error.to_string()));
            }
            (Some(Sending::Ping(action, node)), Ok(rtt)) => {
                self.event(from, Event::NodePingCompleted { action, node, rtt });
            }
            (Some(Sending::Ping(action, _)), Err(error)) => {
                let error = error.to_string();
                self.event(from, Event::NodeActionFailed { action, error });
            }
            (Some(Sending::Message(_)), Ok(_)) | (None, _) => {}
        }
    }

    /// Says where a node has met another: its state folder knows, if it has one.
    pub(super) fn look_up_addresses(&mut self, node: usize, id: NodeId) {
        let addresses: Vec<Address> =
            self.nodes[node].known.get(&id).cloned().into_iter().collect();
        self.input(node, Input::MetAt { id, addresses });
    }

    /// Says how much a link is used.
    pub(super) fn measure_use(&mut self, node: usize, connection: ConnectionId) {
        let Some(link) = self.links.get(&connection.0) else { return };
        let count = link.lanes.iter().map(|lane| lane.accepted).sum();
        let busy =
            link.lanes.iter().any(Lane::has_messages) || self.awaits_reply(node, connection.0);
        self.input(node, Input::LinkUse { connection, count, busy });
    }
}
