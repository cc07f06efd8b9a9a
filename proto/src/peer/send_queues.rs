//! Delivery of *payloads* (messages, pings, requests and replies) to nodes without a link.
//!
//! Each recipient has a queue of its own, so that its payloads stay in order and need only one search. For
//! the first payload in the queue the machine tries, in this order:
//! 1. the link with the recipient, if there is one by now;
//! 2. the route that an earlier query has found, if all nodes on it still remember that query;
//! 3. the addresses at which this node was linked with the recipient before, which it dials;
//! 4. the addresses that other nodes know, which it asks for with a query, and dials too;
//! 5. the route by which the answer to that query came, along which the payload is sealed and relayed.
//!
//! The order mostly follows the cost: a link carries any message, a dial costs three round trips, and
//! relaying costs other nodes bandwidth. A remembered route comes before a dial, because it needs no round
//! trip first. A link that was made for a message is closed once it is idle.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::{Machine, OperationId, Output, Payload, Purpose, SendError};
use crate::address::Address;
use crate::config::Config;
use crate::deadlines::Deadlines;
use crate::frame::query::{AnswerBody, QueryAnswer, QueryId, QueryKind};
use crate::id::NodeId;
use crate::node_record::MAX_RECORD_ADDRESSES;
use crate::overlay::relay::RelayError;
use crate::time::Instant;

/// Time to wait for dials before the next step of this list is tried too. 2 s: a dial takes three round
/// trips, and the longest across the internet take about 300 ms each.
const DIAL_PATIENCE: Duration = Duration::from_secs(2);

/// Time before a payload is sent again after a node on the route had no room for it. In this time, half of a
/// relay's budget for a link is filled again.
const BUSY_WAIT: Duration = Duration::from_millis(500);

/// Maximum number of remembered routes. 256: five new recipients a second, for as long as a route can be
/// used.
const MAX_ROUTES: usize = 256;

/// Maximum number of nodes without a link for which messages wait. 4,096: each costs at most a search and an
/// on-demand link.
pub const MAX_RECIPIENTS: usize = 4096;

/// Maximum number of relayed requests that wait for their replies. 1,024: as many as a handler's actions
/// under way.
const MAX_REQUESTS: usize = 1024;

/// Minimum number of bytes that a waiting payload counts: about the size of its entry.
const MIN_COST: usize = 64;

/// The queues of payloads for nodes without a link.
#[derive(Debug)]
pub(super) struct SendQueues {
    recipients: BTreeMap<NodeId, Recipient>,
    /// Deadlines of the recipients whose stage has one.
    timers: Deadlines<NodeId>,
    /// Queries for recipients that have not ended.
    searches: BTreeMap<QueryId, NodeId>,
    /// Relayed requests whose replies are awaited, by the numbers that the replies name.
    requests: BTreeMap<u64, (OperationId, NodeId)>,
    /// Recipients of the payloads that are being relayed, by the overlay's number of the message.
    relayed: BTreeMap<u64, NodeId>,
    /// Routes that queries have found, and until when all nodes on them remember the query.
    routes: BTreeMap<NodeId, (QueryId, Instant)>,
    limits: QueueLimits,
}

#[derive(Debug)]
struct QueueLimits {
    /// Maximum number of bytes that wait for one recipient. An empty queue takes one payload of any size.
    queue: usize,
    /// Maximum size of a relayed payload, in bytes.
    relayed: usize,
    query_timeout: Duration,
    /// Time for which all nodes on a route remember its query, counted from the start of the query.
    route: Duration,
}

#[derive(Debug, Default)]
struct Recipient {
    queue: VecDeque<(OperationId, Payload)>,
    bytes: usize,
    stage: SendStage,
    /// Addresses that were dialled in the present attempt to reach the node.
    dialled: Vec<Address>,
    /// Number of dials that have not ended.
    dialling: usize,
}

/// The stage of delivering the first payload in a recipient's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum SendStage {
    /// Nothing is under way.
    #[default]
    Idle,
    /// The shell puts it into the queue of a link.
    Delivering(OperationId),
    /// It is being relayed, since `since`. After `deadline` it is not relayed again. `remembered` is set if
    /// the route was found by an earlier query.
    Relaying { since: Instant, deadline: Instant, remembered: bool },
    /// A node on the route had no room. It is relayed again at the time `again`.
    Busy { again: Instant, deadline: Instant },
    /// The shell looks up the addresses at which this node was linked with the recipient.
    LookingUp,
    /// Those addresses are being dialled. At this time, a query is sent too.
    Dialling(Instant),
    /// A query for the node is under way, and the addresses in its answers are dialled.
    Searching(Search),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Search {
    /// The query, once it has found the node; `None` before.
    found: Option<QueryId>,
    ended: bool,
    /// End of the wait for dials, once the node was found.
    dials_until: Option<Instant>,
    /// Time until which the route can be used.
    route_until: Instant,
}

impl SendStage {
    fn timer(&self) -> Option<Instant> {
        match self {
            Self::Busy { again: due, .. } | Self::Dialling(due) => Some(*due),
            Self::Searching(search) => search.dials_until,
            _ => None,
        }
    }
}

impl SendQueues {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            recipients: BTreeMap::new(),
            timers: Deadlines::default(),
            searches: BTreeMap::new(),
            requests: BTreeMap::new(),
            relayed: BTreeMap::new(),
            routes: BTreeMap::new(),
            limits: QueueLimits {
                queue: config.peer_queue,
                relayed: config.max_relayed(),
                query_timeout: config.query_timeout,
                // A message may be under way for as long as a query. All nodes on the route have to remember
                // the query until then.
                route: config.query_ttl.saturating_sub(config.query_timeout),
            },
        }
    }

    /// Returns whether the queue of a recipient is in use. Then later payloads have to be queued too, so that
    /// they stay in order.
    pub(super) fn waits_for(&self, id: NodeId) -> bool {
        self.recipients.contains_key(&id)
    }

    /// Returns whether the queue of any recipient is in use.
    #[cfg(test)]
    pub(super) fn is_any(&self) -> bool {
        !self.recipients.is_empty()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first()
    }

    fn stage(&self, id: NodeId) -> Option<SendStage> {
        self.recipients.get(&id).map(|recipient| recipient.stage)
    }

    fn set_stage(&mut self, id: NodeId, stage: SendStage) {
        if let Some(recipient) = self.recipients.get_mut(&id) {
            recipient.stage = stage;
            self.timers.set(id, stage.timer());
        }
    }

    fn queue(
        &mut self,
        operation: OperationId,
        to: NodeId,
        payload: Payload,
    ) -> Result<(), SendError> {
        let payload = payload.limited_to(self.limits.relayed);
        if self.recipients.len() >= MAX_RECIPIENTS && !self.recipients.contains_key(&to) {
            return Err(SendError::TooManyRecipients);
        }
        let recipient = self.recipients.entry(to).or_default();
        let bytes = recipient.bytes.saturating_add(cost(&payload));
        // An empty queue takes a payload of any size. Otherwise one over the limit could never be sent.
        if !recipient.queue.is_empty() && bytes > self.limits.queue {
            return Err(SendError::Full);
        }
        recipient.bytes = bytes;
        recipient.queue.push_back((operation, payload));
        Ok(())
    }

    fn remove(&mut self, id: NodeId) -> Option<Recipient> {
        // This clears the timer.
        self.set_stage(id, SendStage::Idle);
        self.searches.retain(|_, recipient| *recipient != id);
        self.recipients.remove(&id)
    }

    fn first(&self, id: NodeId) -> Option<&Payload> {
        self.recipients.get(&id)?.queue.front().map(|(_, payload)| payload)
    }

    /// Removes the first payload from the queue of a recipient.
    fn take_first(&mut self, id: NodeId) -> Option<(OperationId, Payload)> {
        let recipient = self.recipients.get_mut(&id)?;
        let first = recipient.queue.pop_front()?;
        recipient.bytes -= cost(&first.1);
        Some(first)
    }

    /// Notes a request whose reply will be awaited. Returns the number that the reply will name, or `None` if
    /// there is no room. The number also differs from those of earlier runs of this node.
    fn note_request(&mut self, operation: OperationId, to: NodeId, unix: u64) -> Option<u64> {
        let noted = self.requests.iter().find(|(_, (other, _))| *other == operation);
        if let Some((id, _)) = noted {
            // The request is sent again, because a node on the route had no room for it.
            return Some(*id);
        }
        if self.requests.len() >= MAX_REQUESTS {
            return None;
        }
        // The clock in the upper bits differs between runs of this node. The operation in the lower bits
        // differs between requests of one run.
        let id = unix.rotate_left(20) ^ operation.0;
        self.requests.insert(id, (operation, to));
        Some(id)
    }

    /// Returns the request that a reply answers, and forgets it.
    pub(super) fn take_request(&mut self, from: NodeId, id: u64) -> Option<OperationId> {
        // The numbers can be guessed, so a reply is accepted only from the node that was asked.
        let (operation, _) = *self.requests.get(&id).filter(|(_, to)| *to == from)?;
        self.requests.remove(&id);
        Some(operation)
    }

    /// Forgets a request whose reply is not awaited any more.
    pub(super) fn forget_request(&mut self, operation: OperationId) {
        self.requests.retain(|_, (waiting, _)| *waiting != operation);
    }

    fn route(&self, id: NodeId, now: Instant) -> Option<QueryId> {
        self.routes.get(&id).filter(|(_, until)| *until > now).map(|(query, _)| *query)
    }

    fn remember_route(&mut self, id: NodeId, query: QueryId, until: Instant, now: Instant) {
        // If there is no room, the route is not remembered. That costs only another query, so no valid route
        // is dropped instead.
        if self.routes.len() >= MAX_ROUTES {
            self.routes.retain(|_, (_, until)| *until > now);
        }
        if self.routes.len() < MAX_ROUTES {
            self.routes.insert(id, (query, until));
        }
    }
}

/// Returns the number of bytes that a payload counts against the limit of its queue.
fn cost(payload: &Payload) -> usize {
    payload.len().max(MIN_COST)
}

impl Machine {
    /// Queues a payload for a node.
    pub(super) fn send(&mut self, operation: OperationId, to: NodeId, payload: Payload) {
        let queued = if self.stopping {
            Err(SendError::Stopping)
        } else if to == self.overlay.id() {
            Err(SendError::Myself)
        } else {
            self.send_queues.queue(operation, to, payload)
        };
        match queued {
            Ok(()) if self.send_queues.stage(to) == Some(SendStage::Idle) => self.send_first(to),
            Ok(()) => {}
            Err(error) => self.sent(operation, Err(error)),
        }
    }

    /// Continues with the next payload after the shell has put one into the queue of its link, or could not.
    pub(super) fn delivered(&mut self, to: NodeId, operation: OperationId) {
        if self.send_queues.stage(to) == Some(SendStage::Delivering(operation)) {
            self.send_next(to);
        }
    }

    /// Handles the shell's answer to [`Output::LookUpAddresses`]: dials a recipient at these addresses.
    pub(super) fn recipient_addresses(&mut self, id: NodeId, addresses: Vec<Address>) {
        if self.send_queues.stage(id) != Some(SendStage::LookingUp) {
            return;
        }
        self.send_queues.set_stage(id, SendStage::Dialling(self.now.monotonic + DIAL_PATIENCE));
        self.dial_recipient(id, addresses);
        self.advance_search(id);
    }

    /// Sends the payloads that wait for a node over a link that has come up.
    pub(super) fn recipient_linked(&mut self, id: NodeId) {
        let stage = self.send_queues.stage(id);
        // A payload that is being relayed is not also sent over the link, as it would arrive twice.
        if let Some(SendStage::LookingUp | SendStage::Dialling(_) | SendStage::Searching(_)) = stage
        {
            self.send_first(id);
        }
    }

    /// Handles the end of a dial of a recipient, with or without a link.
    pub(super) fn recipient_dialled(&mut self, id: NodeId, is_linked: bool) {
        if let Some(recipient) = self.send_queues.recipients.get_mut(&id) {
            recipient.dialling = recipient.dialling.saturating_sub(1);
        }
        if is_linked {
            self.recipient_linked(id);
        } else {
            self.advance_search(id);
        }
    }

    /// Handles an answer to a query for a recipient.
    pub(super) fn recipient_found(&mut self, answer: &QueryAnswer) {
        let Some(id) = self.send_queues.searches.get(&answer.id).copied() else { return };
        if let Some(SendStage::Searching(mut search)) = self.send_queues.stage(id)
            && answer.node == id
            && answer.body == AnswerBody::Here
        {
            if search.found.is_none() {
                search.found = Some(answer.id);
                search.dials_until = Some(self.now.monotonic + DIAL_PATIENCE);
                self.send_queues.set_stage(id, SendStage::Searching(search));
                self.ask_for_meeting(id);
            }
            self.dial_recipient(id, answer.addresses.clone());
            self.advance_search(id);
        }
    }

    /// Handles the end of a query for a recipient.
    pub(super) fn recipient_search_ended(&mut self, query: QueryId) {
        let Some(id) = self.send_queues.searches.remove(&query) else { return };
        if let Some(SendStage::Searching(mut search)) = self.send_queues.stage(id) {
            search.ended = true;
            self.send_queues.set_stage(id, SendStage::Searching(search));
            self.advance_search(id);
        }
    }

    /// Handles the outcome of a payload that was relayed.
    pub(super) fn relayed(&mut self, number: u64, outcome: Result<(), RelayError>) {
        let Some(to) = self.send_queues.relayed.remove(&number) else { return };
        let Some(SendStage::Relaying { since, deadline, remembered }) = self.send_queues.stage(to)
        else {
            return;
        };
        let again = self.now.monotonic + BUSY_WAIT;
        match outcome {
            // A node on the route says that the payload was not delivered, so it can be sent again. Without
            // any answer it may have been delivered, so it is not.
            Err(RelayError::Busy) if again < deadline => {
                self.send_queues.set_stage(to, SendStage::Busy { again, deadline });
            }
            // A node on the remembered route is gone. There may be another route.
            Err(RelayError::NoRoute) if remembered => {
                self.send_queues.routes.remove(&to);
                self.find_recipient(to);
            }
            outcome => {
                let took = self.now.monotonic.since(since);
                self.end_first(to, outcome.map(|()| took).map_err(SendError::Relay));
            }
        }
    }

    /// Continues with the recipients whose deadline has passed.
    pub(super) fn sends_overdue(&mut self) {
        let now = self.now.monotonic;
        while let Some(id) = self.send_queues.timers.pop(now) {
            match self.send_queues.stage(id) {
                Some(SendStage::Busy { deadline, .. }) => match self.send_queues.route(id, now) {
                    Some(query) if !self.links.can_send_to(id) => {
                        self.relay_first(id, Some(query), deadline, false);
                    }
                    _ => self.send_first(id),
                },
                Some(SendStage::Dialling(_)) => self.search_recipient(id),
                Some(SendStage::Searching(mut search)) => {
                    // This clears the timer. A payload that can't be relayed waits for the dials.
                    search.dials_until = None;
                    self.send_queues.set_stage(id, SendStage::Searching(search));
                    if self.first_can_be_relayed(id) {
                        self.end_search(id, search);
                    }
                }
                _ => {}
            }
        }
    }

    /// Fails all payloads that wait, as this node stops.
    pub(super) fn end_sends(&mut self) {
        let recipients: Vec<_> = self.send_queues.recipients.keys().copied().collect();
        for id in recipients {
            self.fail_recipient(id, &SendError::Stopping);
        }
    }

    /// Begins to deliver the first payload in the queue of a recipient.
    fn send_first(&mut self, to: NodeId) {
        let open = self.links.connection(to).filter(|_| self.links.can_send_to(to));
        let now = self.now.monotonic;
        let deadline = now + self.send_queues.limits.query_timeout;
        if open.is_some() && matches!(self.send_queues.first(to), Some(Payload::Reply { .. })) {
            // A link carries only replies to requests that came over it, so this reply is sealed.
            return self.relay_first(to, None, deadline, false);
        }
        if let Some(connection) = open {
            let Some((operation, payload)) = self.send_queues.take_first(to) else { return };
            self.send_queues.set_stage(to, SendStage::Delivering(operation));
            self.outputs.push_back(Output::Deliver { operation, connection, payload });
            return;
        }
        match self.send_queues.route(to, now).filter(|_| self.first_can_be_relayed(to)) {
            Some(query) => self.relay_first(to, Some(query), deadline, true),
            None => self.find_recipient(to),
        }
    }

    /// Continues with the next payload in the queue of a recipient. Forgets the recipient if there is none.
    fn send_next(&mut self, to: NodeId) {
        self.send_queues.set_stage(to, SendStage::Idle);
        match self.send_queues.recipients.get(&to) {
            Some(recipient) if !recipient.queue.is_empty() => self.send_first(to),
            _ => drop(self.send_queues.remove(to)),
        }
    }

    /// Seals the first payload in the queue of a recipient. Sends it along the route that a query has found
    /// or, without a query, over the link with the recipient.
    fn relay_first(
        &mut self,
        to: NodeId,
        query: Option<QueryId>,
        deadline: Instant,
        remembered: bool,
    ) {
        let first =
            self.send_queues.recipients.get(&to).and_then(|recipient| recipient.queue.front());
        let Some((operation, payload)) = first else { return };
        let mut id = 0;
        if let Payload::Request { .. } = payload {
            let operation = *operation;
            match self.send_queues.note_request(operation, to, self.now.unix) {
                Some(noted) => id = noted,
                None => return self.end_first(to, Err(SendError::Full)),
            }
        }
        let Some(payload) = self.send_queues.first(to) else { return };
        let now = self.now.monotonic;
        match self.overlay.relay(query, to, (payload, id)) {
            Ok(number) => {
                self.send_queues
                    .set_stage(to, SendStage::Relaying { since: now, deadline, remembered });
                // Noted before the effects are carried out, because the message may have failed already.
                self.send_queues.relayed.insert(number, to);
                self.carry_out_effects();
            }
            // No payload for this recipient can be sealed, as no node can have that identity.
            Err(error) => self.fail_recipient(to, &SendError::Refused(error)),
        }
    }

    fn find_recipient(&mut self, id: NodeId) {
        if let Some(recipient) = self.send_queues.recipients.get_mut(&id) {
            recipient.dialled.clear();
        }
        self.send_queues.set_stage(id, SendStage::LookingUp);
        self.outputs.push_back(Output::LookUpAddresses(id));
    }

    /// Dials addresses of a recipient, except those that were dialled before. Dials none if the application
    /// makes all links by hand.
    fn dial_recipient(&mut self, id: NodeId, addresses: Vec<Address>) {
        if self.manual {
            return;
        }
        for address in addresses {
            let address = address.with_id(id);
            let Some(recipient) = self.send_queues.recipients.get_mut(&id) else { return };
            // Answers to queries are not signed. Without the limit, other nodes could make this node dial any
            // number of addresses.
            if !recipient.dialled.contains(&address)
                && recipient.dialled.len() < MAX_RECORD_ADDRESSES
            {
                recipient.dialled.push(address.clone());
                recipient.dialling += 1;
                self.dial(None, vec![address], Purpose::Message);
            }
        }
    }

    fn search_recipient(&mut self, id: NodeId) {
        let route_until = self.now.monotonic + self.send_queues.limits.route;
        let search = Search { found: None, ended: false, dials_until: None, route_until };
        self.send_queues.set_stage(id, SendStage::Searching(search));
        let query = self.overlay.ask(QueryKind::FindNode(id), -1, false, None);
        // Noted before the effects are carried out, because a query without links has ended already.
        self.send_queues.searches.insert(query, id);
        self.carry_out_effects();
    }

    /// If no dial of a recipient is left to wait for, sends a query for it, or ends the search when the query
    /// has ended.
    fn advance_search(&mut self, id: NodeId) {
        let Some(recipient) = self.send_queues.recipients.get(&id) else { return };
        match recipient.stage {
            SendStage::Dialling(_) if recipient.dialling == 0 => self.search_recipient(id),
            SendStage::Searching(search)
                if (search.ended && recipient.dialling == 0)
                    // If the application makes all links by hand, no node is dialled, so there is nothing to
                    // wait for once the route is found.
                    || (self.manual && search.found.is_some()) =>
            {
                self.end_search(id, search);
            }
            _ => {}
        }
    }

    /// Relays the first payload for a recipient along the route that was found. Without one, fails all payloads.
    fn end_search(&mut self, id: NodeId, search: Search) {
        let now = self.now.monotonic;
        match search.found {
            // The search was for all payloads that wait, so all fail.
            None => self.fail_recipient(id, &SendError::NotFound),
            Some(_) if !self.first_can_be_relayed(id) => {
                let limit = self.send_queues.limits.relayed;
                let len = self.send_queues.first(id).map_or(0, Payload::len);
                self.end_first(id, Err(SendError::TooLarge { len, limit }));
            }
            Some(query) => {
                self.send_queues.remember_route(id, query, search.route_until, now);
                let deadline = now + self.send_queues.limits.query_timeout;
                self.relay_first(id, Some(query), deadline, false);
            }
        }
    }

    fn first_can_be_relayed(&self, id: NodeId) -> bool {
        let first = self.send_queues.first(id);
        first.is_some_and(|payload| payload.len() <= self.send_queues.limits.relayed)
    }

    fn end_first(&mut self, id: NodeId, outcome: Result<Duration, SendError>) {
        if let Some((operation, _)) = self.send_queues.take_first(id) {
            self.sent(operation, outcome);
        }
        self.send_next(id);
    }

    fn fail_recipient(&mut self, id: NodeId, error: &SendError) {
        let waiting = self.send_queues.remove(id).map(|recipient| recipient.queue);
        for (operation, _) in waiting.into_iter().flatten() {
            self.sent(operation, Err(error.clone()));
        }
    }

    fn sent(&mut self, operation: OperationId, outcome: Result<Duration, SendError>) {
        if outcome.is_err() {
            self.send_queues.forget_request(operation);
        }
        self.outputs.push_back(Output::Sent { operation, outcome });
    }
}
