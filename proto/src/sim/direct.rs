//! Messages to nodes without a link: found by a query, and passed on along the way that it came.

use super::Sim;
use super::shell::Work;
use crate::event::{Peer, Reason};
use crate::frame::query::{QueryId, What};
use crate::handler::Handler;
use crate::id::NodeId;
use crate::message::Message;
use crate::peer::{Input, OperationId, RelayFailure};

/// Messages for a node that is being looked for.
#[derive(Debug)]
pub(super) struct Errand {
    from: usize,
    run: u32,
    to: Peer,
    messages: Vec<Message>,
    /// The query that has found it.
    found: Option<QueryId>,
}

impl<H: Handler> Sim<H> {
    /// Sends a message to a node that there is no link with. Those that come while it is looked for
    /// go with the first.
    pub(super) fn send_directly(&mut self, from: usize, to: Peer, message: Message) {
        let run = self.nodes[from].run;
        let same = |errand: &&mut Errand| {
            (errand.from, errand.run, errand.to.id()) == (from, run, to.id())
                && errand.found.is_none()
        };
        if let Some(errand) = self.errands.values_mut().find(same) {
            errand.messages.push(message);
            return;
        }
        let errand = Errand { from, run, to: to.clone(), messages: vec![message], found: None };
        if let Some(operation) = self.ask(from, What::FindNode(to.id()), -1) {
            self.errands.insert(operation, errand);
        }
    }

    /// The node has been found.
    pub(super) fn recipient_found(&mut self, operation: OperationId, query: QueryId, id: NodeId) {
        if let Some(errand) = self.errands.get_mut(&operation)
            && errand.to.id() == id
            && errand.found.replace(query).is_none()
        {
            self.work.push_back(Work::Direct(operation));
        }
    }

    /// What waits for a node that was found goes on its way.
    pub(super) fn pass_on(&mut self, operation: OperationId) {
        let Some(errand) = self.errands.get_mut(&operation) else { return };
        let (from, run, to) = (errand.from, errand.run, errand.to.clone());
        let Some(query) = errand.found else { return };
        for message in std::mem::take(&mut errand.messages) {
            if self.nodes[from].run(run).is_none() {
                return;
            }
            let operation = self.next_operation();
            self.passed_on.insert(operation, to.clone());
            self.handle(from, Input::Relay { operation, query, to: to.id(), message });
        }
    }

    /// The query for a node has ended.
    pub(super) fn errand_ended(&mut self, operation: OperationId) {
        let Some(errand) = self.errands.remove(&operation) else { return };
        for _ in errand.messages {
            let reason = Reason::Other(0, "nobody knows where that node is".into());
            self.message_failed(errand.from, errand.to.clone(), reason);
        }
    }

    /// The outcome of a message or a ping that others were to pass on.
    pub(super) fn relayed(
        &mut self,
        from: usize,
        operation: OperationId,
        outcome: Result<(), RelayFailure>,
    ) {
        match (self.passed_on.remove(&operation), outcome) {
            (Some(to), Err(error)) => {
                self.message_failed(from, to, Reason::Other(0, error.to_string()));
            }
            (Some(_), Ok(())) => {}
            (None, outcome) => self.ping_passed(from, operation, outcome),
        }
    }
}
