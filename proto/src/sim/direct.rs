//! Messages, pings and requests to nodes without a link.

use super::Sim;
use super::link::{LinkOutbox, SimulatedLink};
use crate::address::Address;
use crate::event::{ActionId, Event, Peer, Reason};
use crate::frame::Refusal;
use crate::handler::Handler;
use crate::id::NodeId;
use crate::message::Message;
use crate::overlay::admission::LinkMerits;
use crate::peer::{ConnectionId, Input, OperationId, Payload, SendError};

/// Something for a node without a link. By the time it is sent, there may be a link.
#[derive(Debug)]
pub(super) enum SimulatedSend {
    /// A message to this node.
    Message(Peer),
    /// A ping of this node.
    Ping(ActionId, NodeId),
    /// A request to this node. The id of its operation is also its key in `Sim::pending_requests`.
    Request(NodeId),
}

impl<H: Handler> Sim<H> {
    /// Sends a message to a node without a link, or to a node for which earlier messages are queued.
    pub(super) fn send_without_link(&mut self, from: usize, to: Peer, message: Message) {
        let (operation, id) = (self.next_operation(), to.id());
        self.pending_sends.insert(operation, SimulatedSend::Message(to));
        self.input(from, Input::Send { operation, to: id, payload: Payload::Message(message) });
    }

    /// Pings a node without a link.
    pub(super) fn ping_without_link(&mut self, from: usize, action: ActionId, to: NodeId) {
        let operation = self.next_operation();
        self.pending_sends.insert(operation, SimulatedSend::Ping(action, to));
        self.input(from, Input::Send { operation, to, payload: Payload::Ping });
    }

    /// Sends a request to a node without a link, or to a node for which earlier messages are queued.
    pub(super) fn request_without_link(
        &mut self,
        from: usize,
        operation: OperationId,
        to: NodeId,
        (name, message): (String, Message),
    ) {
        self.pending_sends.insert(operation, SimulatedSend::Request(to));
        self.input(
            from,
            Input::Send { operation, to, payload: Payload::Request { name, message } },
        );
    }

    /// Sends the reply to a request that was relayed by other nodes.
    pub(super) fn reply_without_link(
        &mut self,
        from: usize,
        to: NodeId,
        id: u64,
        outcome: Result<Message, Refusal>,
    ) {
        let operation = self.next_operation();
        self.input(from, Input::Send { operation, to, payload: Payload::Reply { id, outcome } });
    }

    /// Sends a message, ping or request over the link that the machine has chosen.
    pub(super) fn deliver_over(
        &mut self,
        from: usize,
        operation: OperationId,
        connection: ConnectionId,
        payload: Payload,
    ) {
        let Some(sending) = self.pending_sends.remove(&operation) else { return };
        let id = match (sending, payload) {
            (SimulatedSend::Message(to), Payload::Message(message)) => {
                let running = self.nodes[from].running.as_ref();
                let handles = running.map(|running| &running.handles);
                let handle = handles.and_then(|handles| handles.get(&to.id()).cloned());
                // The link may have ended since the machine chose it, and another one may have come up.
                match handle.filter(|handle| handle.connection == connection) {
                    Some(handle) => self.send_message(from, &handle, message),
                    None => self.message_failed(from, to.clone(), super::shell::not_connected()),
                }
                to.id()
            }
            (SimulatedSend::Ping(action, to), _) => {
                self.begin_ping(from, action, to);
                to
            }
            (SimulatedSend::Request(to), Payload::Request { name, message }) => {
                self.request_over(from, operation.0, connection, name, message);
                to
            }
            (SimulatedSend::Message(to), _) => to.id(),
            (SimulatedSend::Request(to), _) => to,
        };
        // Also after a failure, because the machine keeps the next message for the node until this input.
        self.input(from, Input::Delivered { to: id, operation });
    }

    /// Reports the outcome of a message, ping or request that was relayed by other nodes or not sent.
    pub(super) fn sent(
        &mut self,
        from: usize,
        operation: OperationId,
        outcome: Result<std::time::Duration, SendError>,
    ) {
        match (self.pending_sends.remove(&operation), outcome) {
            (Some(SimulatedSend::Message(to)), Err(error)) => {
                self.message_failed(from, to, Reason::Other(0, error.to_string()));
            }
            (Some(SimulatedSend::Ping(action, node)), Ok(rtt)) => {
                self.event(from, Event::NodePingCompleted { action, node, rtt });
            }
            (Some(SimulatedSend::Ping(action, _)), Err(error)) => {
                let error = error.to_string();
                self.event(from, Event::NodeActionFailed { action, error });
            }
            (Some(SimulatedSend::Request(_)), Err(error)) => {
                self.request_not_sent(operation.0, error.to_string());
            }
            // A message reports only failures, as over a link. The reply to a request arrives as another
            // output.
            (Some(SimulatedSend::Message(_) | SimulatedSend::Request(_)), Ok(_)) | (None, _) => {}
        }
    }

    /// Tells the machine the address of a peer in the node's state folder, if it has one.
    pub(super) fn look_up_addresses(&mut self, node: usize, id: NodeId) {
        let addresses: Vec<Address> =
            self.nodes[node].known_addresses.get(&id).cloned().into_iter().collect();
        self.input(node, Input::AddressesLookedUp { id, addresses });
    }

    /// Returns the merits of a node's links, if its machine needs them to admit another link.
    pub(super) fn merits(&self, node: usize) -> Vec<LinkMerits> {
        let Some(running) = &self.nodes[node].running else { return Vec::new() };
        if !running.machine.overlay().is_short_of_places() {
            return Vec::new();
        }
        let of_node = |link: &SimulatedLink| {
            let side = link.endpoints.iter().position(|endpoint| endpoint.node == node)?;
            let (rtt, id) = (Some(link.latency * 2), link.endpoints[side].peer.id());
            Some(LinkMerits { id, rtt, is_used: link.outboxes[side].accepted > 0 })
        };
        self.links.values().filter_map(of_node).collect()
    }

    /// Tells the machine how much a link is used.
    pub(super) fn measure_use(&mut self, node: usize, connection: ConnectionId) {
        let Some(link) = self.links.get(&connection) else { return };
        let count = link.outboxes.iter().map(|outbox| outbox.accepted).sum();
        let busy = link.outboxes.iter().any(LinkOutbox::has_messages)
            || self.awaits_reply(node, connection);
        self.input(node, Input::LinkUse { connection, count, busy });
    }
}
