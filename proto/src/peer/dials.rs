//! The dials of a node, from the request for a link to success or failure.

use std::collections::{BTreeMap, BTreeSet};

use super::{DialError, DialId, JoinError, Machine, OperationId, Output, Purpose};
use crate::address::Address;
use crate::deadlines::Deadlines;
use crate::event::Reason;
use crate::id::NodeId;
use crate::time::Instant;

/// The dials under way.
#[derive(Debug, Default)]
pub(super) struct Dials {
    last: u64,
    dials: BTreeMap<DialId, Dial>,
    /// Dials that wait for another link or dial of the node that they have reached, sorted by node.
    waiting: BTreeSet<(NodeId, DialId)>,
    /// Times at which dials that have reached a node are given up.
    deadlines: Deadlines<DialId>,
    /// Operations that wait until this node is a member, by the node that it joins through.
    joining: BTreeMap<NodeId, Vec<OperationId>>,
}

/// A dial under way.
#[derive(Debug)]
pub(super) struct Dial {
    operation: Option<OperationId>,
    /// The first of the dialled addresses, by which the overlay knows the dial.
    address: Address,
    purpose: Purpose,
    /// The node that was reached, if any.
    id: Option<NodeId>,
    stage: DialStage,
}

/// A stage in the life of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DialStage {
    /// The shell is connecting.
    Connecting,
    /// The Hellos are being exchanged.
    Greeting,
    /// The dial waits until a link with the node has ended, or another dial to it has.
    AwaitingEnd,
    /// One of the two nodes has refused this connection in favour of another one between them. The dial waits
    /// for that one to become a link.
    AwaitingLink,
}

impl Dial {
    /// Returns whether the link is closed once it is idle.
    pub(super) fn is_on_demand(&self) -> bool {
        matches!(self.purpose, Purpose::Message | Purpose::Meeting)
    }

    /// Returns the node whose other link or dial this dial waits for.
    fn waits_for(&self) -> Option<NodeId> {
        self.id.filter(|_| matches!(self.stage, DialStage::AwaitingEnd | DialStage::AwaitingLink))
    }
}

impl Dials {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first()
    }

    /// Returns whether any dial is under way.
    #[cfg(test)]
    pub(super) fn is_any(&self) -> bool {
        !self.dials.is_empty()
    }

    /// Returns whether a dial is at the stage where the shell connects.
    pub(super) fn is_connecting(&self, dial: DialId) -> bool {
        self.stage(dial) == Some(DialStage::Connecting)
    }

    /// Returns the nodes that are being met.
    pub(super) fn meetings(&self) -> impl Iterator<Item = NodeId> {
        let meetings = self.dials.values().filter(|dial| dial.purpose == Purpose::Meeting);
        meetings.filter_map(|dial| dial.address.id)
    }

    /// Returns the dials that wait for another link or dial of a node.
    pub(super) fn waiting_for_node(&self, id: NodeId) -> Vec<DialId> {
        let of_node = (id, DialId(0))..=(id, DialId(u64::MAX));
        self.waiting.range(of_node).map(|(_, dial)| *dial).collect()
    }

    /// Returns the dials that wait until a link with a node, or another dial to it, has ended.
    fn waiting_for_end(&self, id: NodeId) -> Vec<DialId> {
        let awaits_end = |dial: &DialId| self.stage(*dial) == Some(DialStage::AwaitingEnd);
        self.waiting_for_node(id).into_iter().filter(awaits_end).collect()
    }

    fn stage(&self, dial: DialId) -> Option<DialStage> {
        self.dials.get(&dial).map(|dial| dial.stage)
    }

    fn set_stage(&mut self, number: DialId, stage: DialStage, deadline: Instant) {
        let Some(dial) = self.remove(number) else { return };
        let dial = Dial { stage, ..dial };
        self.waiting.extend(dial.waits_for().map(|id| (id, number)));
        self.dials.insert(number, dial);
        self.deadlines.set(number, Some(deadline));
    }

    fn remove(&mut self, number: DialId) -> Option<Dial> {
        let dial = self.dials.remove(&number)?;
        if self.dials.is_empty() {
            // An empty `BTreeMap` that had entries keeps memory for eleven dials, 1.6 KiB. A new map has
            // none.
            self.dials = BTreeMap::new();
        }
        self.deadlines.set(number, None);
        if let Some(id) = dial.waits_for() {
            self.waiting.remove(&(id, number));
        }
        Some(dial)
    }
}

impl Machine {
    /// Begins a dial.
    pub(super) fn dial(
        &mut self,
        operation: Option<OperationId>,
        addresses: Vec<Address>,
        purpose: Purpose,
    ) {
        self.dials.last += 1;
        let dial = DialId(self.dials.last);
        let Some(address) = addresses.first().cloned() else {
            let outcome = Err(DialError::NoAddress);
            return self.outputs.push_back(Output::DialEnded { dial, operation, outcome });
        };
        let stage = DialStage::Connecting;
        self.dials.dials.insert(dial, Dial { operation, address, purpose, id: None, stage });
        // Inserted before it fails, so that the failure is reported to the overlay like that of any other
        // dial.
        if self.stopping {
            return self.fail_dial(dial, &DialError::Unwanted(Reason::Stopping));
        }
        self.outputs.push_back(Output::Dial { dial, operation, addresses, purpose });
    }

    /// Notes that a dial has reached a node, and decides whether it may send its Hello.
    pub(super) fn dial_secured(&mut self, number: DialId, id: NodeId) {
        let Some(dial) = self.dials.dials.get_mut(&number) else { return };
        dial.id = Some(id);
        let now = self.now.monotonic;
        let allowed = if self.stopping {
            Err(Reason::Stopping)
        } else {
            self.overlay.begin_hello(id, dial.purpose)
        };
        match allowed {
            Ok(()) => {
                let deadline = now + self.handshake_timeout;
                self.dials.set_stage(number, DialStage::Greeting, deadline);
                self.outputs.push_back(Output::Greet(number));
            }
            Err(Reason::Duplicate) if self.links.can_send_to(id) => self.dial_reached(number, id),
            Err(Reason::Duplicate) => {
                // Long enough for another dial to exchange Hellos, and for a link that is closing to flush
                // its queue.
                let deadline = now + self.handshake_timeout + self.flush_timeout;
                self.dials.set_stage(number, DialStage::AwaitingEnd, deadline);
            }
            Err(reason) => self.fail_dial(number, &DialError::Unwanted(reason)),
        }
    }

    /// Fails a dial whose connection one of the two nodes has refused. If it was refused because of another
    /// connection between them, the dial waits for that one to become a link.
    pub(super) fn dial_refused(&mut self, number: DialId, error: &DialError) {
        match error {
            DialError::Refused(Reason::Duplicate) | DialError::Unwanted(Reason::Duplicate) => {
                self.await_link(number);
            }
            error => self.fail_dial(number, error),
        }
    }

    /// Continues the dials that waited until a link with a node, or another dial to it, had ended.
    pub(super) fn resume_dials(&mut self, id: NodeId) {
        for dial in self.dials.waiting_for_end(id) {
            self.dial_secured(dial, id);
        }
    }

    /// Fails the dials that have taken too long.
    pub(super) fn dials_overdue(&mut self) {
        while let Some(number) = self.dials.deadlines.pop(self.now.monotonic) {
            let error = match self.dials.stage(number) {
                Some(DialStage::AwaitingEnd | DialStage::AwaitingLink) => {
                    DialError::Refused(Reason::Duplicate)
                }
                _ => DialError::Timeout,
            };
            self.fail_dial(number, &error);
        }
    }

    /// Reports the success of a dial, removes it, and returns it.
    pub(super) fn end_dial(&mut self, number: DialId, id: NodeId) -> Option<Dial> {
        let dial = self.dials.remove(number)?;
        let operation = dial.operation;
        self.outputs.push_back(Output::DialEnded { dial: number, operation, outcome: Ok(id) });
        Some(dial)
    }

    /// Uses a link for the purpose of a dial that has made or found it.
    pub(super) fn dial_linked(&mut self, dial: Dial, id: NodeId) {
        let recipient = dial.address.id;
        self.with_overlay(|overlay| overlay.dialled(&dial.address, id));
        if dial.purpose.is_reported() {
            self.links.set_wanted(id);
        }
        match dial.purpose {
            Purpose::Application | Purpose::Reconnect => self.overlay.pin(id),
            Purpose::Join | Purpose::Rejoin => {
                // Noted before the overlay joins, because it may be refused immediately.
                if let Some(operation) = dial.operation {
                    self.dials.joining.entry(id).or_default().push(operation);
                }
                self.with_overlay(|overlay| overlay.join(id));
            }
            Purpose::Message => {
                if let Some(recipient) = recipient {
                    self.recipient_dialled(recipient, recipient == id);
                }
            }
            Purpose::Overlay | Purpose::Meeting => {}
        }
    }

    /// Reports success to all joins: this node is a member.
    pub(super) fn joined(&mut self) {
        for operation in std::mem::take(&mut self.dials.joining).into_values().flatten() {
            self.outputs.push_back(Output::JoinEnded { operation, outcome: Ok(()) });
        }
    }

    /// Reports a failure to the joins through a node.
    pub(super) fn join_failed(&mut self, through: NodeId, error: &JoinError) {
        for operation in self.dials.joining.remove(&through).unwrap_or_default() {
            self.outputs.push_back(Output::JoinEnded { operation, outcome: Err(error.clone()) });
        }
    }

    fn dial_reached(&mut self, number: DialId, id: NodeId) {
        if let Some(dial) = self.end_dial(number, id) {
            self.dial_linked(dial, id);
        }
    }

    /// Lets a dial use the link that exists with the node that it has reached, or wait for one.
    fn await_link(&mut self, number: DialId) {
        let Some(id) = self.dials.dials.get(&number).and_then(|dial| dial.id) else { return };
        // Called before the stage changes, because the stage shows whether this dial has sent its Hello.
        self.end_hello(number);
        if self.links.connection(id).is_some() {
            return self.dial_reached(number, id);
        }
        let deadline = self.now.monotonic + self.handshake_timeout;
        self.dials.set_stage(number, DialStage::AwaitingLink, deadline);
    }

    /// Allows other dials to send Hello to the node, if this dial has sent one.
    fn end_hello(&mut self, number: DialId) {
        if let Some(Dial { id: Some(id), stage: DialStage::Greeting, .. }) =
            self.dials.dials.get(&number)
        {
            self.overlay.end_hello(*id);
        }
    }

    pub(super) fn fail_dial(&mut self, number: DialId, error: &DialError) {
        self.end_hello(number);
        let Some(dial) = self.dials.remove(number) else { return };
        let (operation, outcome) = (dial.operation, Err(error.clone()));
        self.outputs.push_back(Output::DialEnded { dial: number, operation, outcome });
        // The connection of this dial was to replace a link that has not ended in time.
        if let Some(connection) = self.links.drop_successor(number) {
            self.outputs.push_back(Output::Refused(connection, Reason::HandshakeTimeout));
        }
        let (recipient, error) = (dial.address.id, error.to_string());
        self.with_overlay(|overlay| overlay.dial_failed(&dial.address, error));
        if let (Purpose::Message, Some(recipient)) = (dial.purpose, recipient) {
            self.recipient_dialled(recipient, false);
        }
        if let Some(id) = dial.id {
            // Dials that waited for this one may send their Hello.
            self.resume_dials(id);
        }
    }
}
