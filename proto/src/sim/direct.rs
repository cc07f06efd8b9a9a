//! Messages to nodes without a link: found by a query, and passed on along the way that it came.

use super::Sim;
use super::shell::Work;
use crate::event::{Peer, Reason};
use crate::frame::query::{QueryId, What};
use crate::handler::Handler;
use crate::id::NodeId;
use crate::message::Message;
use crate::overlay::Command;
use crate::overlay::direct::Missed;

/// Messages for a node that is being looked for.
#[derive(Debug)]
pub(super) struct Errand {
    from: usize,
    run: u32,
    to: Peer,
    messages: Vec<Message>,
    found: bool,
}

impl<H: Handler> Sim<H> {
    /// Sends a message to a node that there is no link with. Those that come while it is looked for
    /// go with the first.
    pub(super) fn send_directly(&mut self, from: usize, to: Peer, message: Message) {
        let run = self.nodes[from].run;
        let same = |errand: &&mut Errand| {
            (errand.from, errand.run, errand.to.id()) == (from, run, to.id()) && !errand.found
        };
        if let Some(errand) = self.errands.values_mut().find(same) {
            errand.messages.push(message);
            return;
        }
        let Some(running) = &mut self.nodes[from].running else { return };
        let query = running.overlay.draw_query_id();
        let what = What::FindNode(to.id());
        let errand = Errand { from, run, to, messages: vec![message], found: false };
        self.errands.insert(query, errand);
        self.command(
            from,
            Command::Query { id: query, what, depth: -1, own: false, timeout: None },
        );
    }

    /// The node has been found.
    pub(super) fn recipient_found(&mut self, query: QueryId, who: NodeId) {
        if let Some(errand) = self.errands.get_mut(&query)
            && errand.to.id() == who
            && !std::mem::replace(&mut errand.found, true)
        {
            self.work.push_back(Work::Direct(query));
        }
    }

    /// What waits for a node that was found goes on its way.
    pub(super) fn pass_on(&mut self, query: QueryId) {
        let now = self.now;
        let Some(errand) = self.errands.get_mut(&query) else { return };
        let (from, run, to) = (errand.from, errand.run, errand.to.clone());
        for message in std::mem::take(&mut errand.messages) {
            let Some(running) = self.nodes[from].run(run) else { return };
            match running.overlay.send_direct(now, query, to.id(), message) {
                Ok(number) => drop(self.passed_on.insert((from, number), to.clone())),
                Err(error) => {
                    self.message_failed(from, to.clone(), Reason::Other(0, error.to_string()));
                }
            }
            self.drain(from);
            self.set_alarm(from);
        }
    }

    /// The query for a node has ended.
    pub(super) fn errand_ended(&mut self, query: QueryId) {
        let Some(errand) = self.errands.remove(&query) else { return };
        for _ in errand.messages {
            let reason = Reason::Other(0, "nobody knows where that node is".into());
            self.message_failed(errand.from, errand.to.clone(), reason);
        }
    }

    /// How it went with a message that others were to pass on.
    pub(super) fn passed(&mut self, from: usize, number: u64, sent: Result<(), Missed>) {
        if self.ping_passed(from, number, &sent) {
            return;
        }
        let Some(to) = self.passed_on.remove(&(from, number)) else { return };
        if let Err(missed) = sent {
            self.message_failed(from, to, Reason::Other(0, missed.to_string()));
        }
    }
}
