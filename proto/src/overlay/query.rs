//! Queries to the network: discovery, file search, and finding a node.
//!
//! A query floods the network to a given depth. Answers go back along the path by which the query came. The
//! *parent* of a node is the peer from which it first received the query. A node sends its parent "done" once
//! it has answered itself and all peers that it passed the query to are done. So the asking node knows when
//! all nodes have answered (the echo algorithm: E. J. H. Chang, 1982). A node that receives a query a second
//! time answers "done" immediately. It passes the query on again only if the second copy has more depth left
//! than the first, so that the depth counts the shortest path and not the fastest.
//!
//! A node can also ask its neighbours *for itself* (`own`). The neighbours do not pass such a query on, and
//! their answers include files that are shared with the asking node but not with everyone.
//!
//! Any peer learns the ids of the queries that pass through it, and could bring them to other nodes before the
//! honest copies arrive. It would then be the parent at these nodes, and withhold their answers. So a member of the
//! network marks what it gets from a peer that is not its neighbour with a lesser depth
//! ([`UNLIMITED_FOR_STRANGER`]), and a copy that came only through neighbours replaces a marked one: see
//! [`KnownQuery::is_replaced_by`].
//!
//! The number of queries in the table is bounded, in total and for each link, and so is the time that a query
//! stays in it. If the table is full, the oldest query of the link that has most makes room. If there is no room
//! for a query, the node answers "done, but not complete".
//!
//! A query is passed on only if the budget of the link that it came over allows that: see [`budgets`](super::budgets).
//! Half of the budget is kept for queries with the depth [`UNLIMITED`], as members mark the queries of strangers with
//! another one. Otherwise the node answers the query, but for itself alone, and ends it as not complete. The answers
//! that go back over the link are charged too, this node's own included. Their number is not known before, so the
//! budget may go into debt. Until the debt is paid back, queries are not even answered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::config::Config;
use crate::event::Reason;
use crate::frame::Frame;
use crate::frame::query::{
    AnswerBody, Query, QueryAnswer, QueryDone, QueryId, QueryKind, UNLIMITED,
    UNLIMITED_FOR_STRANGER,
};
use crate::id::NodeId;
use crate::overlay::Effect;
use crate::overlay::budgets::{Budgets, Work};
use crate::peer::Output;
use crate::time::{Instant, earliest};

mod cost;
mod known_query;
mod lookup_budget;
mod strays;
#[cfg(test)]
pub(crate) mod tests;

use cost::{cost, may_pass, weight};
pub(super) use known_query::AskedPeer;
use known_query::{Branch, KnownQuery, KnownQuestion};
use lookup_budget::LookupBudget;
use strays::StrayAnswers;

/// Divisor that gives the part of the table that the queries of one link may fill: an eighth.
const LINK_SHARE: usize = 8;

/// Maximum total size of the answers to one query. Each node, neighbour and file in them counts one. Enough
/// for 10,000 nodes with 25 links; at most about 70 MB of memory at the node that asked.
const MAX_ANSWERED: usize = 262_144;

/// Minimum number of bytes of answers for which a link needs a budget before a query of it is passed on. 4 KiB:
/// the answers of a few nodes.
const MIN_ANSWERS: u64 = 4096;

/// Maximum time for which a query waits for strangers. Two seconds: several round trips across the internet.
const STRANGERS_TIME: Duration = Duration::from_secs(2);

/// The queries that a node has sent or received, until it forgets them.
#[derive(Debug)]
pub(super) struct Queries {
    max: usize,
    ttl: Duration,
    table: BTreeMap<QueryId, KnownQuery>,
    /// Queries and the times at which they are forgotten.
    order: BTreeSet<(Instant, QueryId)>,
    /// Deadlines of the queries that have open branches.
    deadlines: BTreeSet<(Instant, QueryId)>,
    /// The queries in the table that came over each link, in the order of arrival.
    by_link: BTreeMap<NodeId, VecDeque<QueryId>>,
    lookups: LookupBudget,
    strays: StrayAnswers,
    drops: QueryDrops,
}

/// Numbers of queries and answers since the node started that were dropped because of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueryDrops {
    /// Queries of peers that were refused because too many were remembered.
    pub queries: u64,
    /// Queries of peers that were forgotten early, to make room for those of other peers.
    pub evicted: u64,
    /// Queries of peers that were passed on but not answered, because the budget for look-ups was spent.
    pub lookups: u64,
    /// Answers that were dropped because there were too many for one query.
    pub answers: u64,
}

/// A question of this node, and how far it spreads.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) what: QueryKind,
    /// Number of hops, or [`UNLIMITED`].
    pub(super) depth: u8,
    /// Ask only the neighbours, on behalf of this node itself. `depth` has no effect then.
    pub(super) own: bool,
}

/// The link that a query came over.
#[derive(Debug)]
pub(super) struct AskingLink<'a> {
    pub(super) peer: NodeId,
    /// This node is a member of the network, and the peer is a stranger to it.
    pub(super) is_of_stranger: bool,
    pub(super) budgets: &'a mut Budgets,
}

type Effects = VecDeque<Effect>;

impl Queries {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            max: config.query_table,
            ttl: config.query_ttl,
            table: BTreeMap::new(),
            order: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            by_link: BTreeMap::new(),
            lookups: LookupBudget::new(config.lookup_rate),
            strays: StrayAnswers::new(config.query_table),
            drops: QueryDrops::default(),
        }
    }

    /// Sends a query of this node. A query with 0 hops asks no node and ends immediately.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        id: QueryId,
        question: Question,
        timeout: Duration,
        neighbours: impl Iterator<Item = AskedPeer>,
        out: &mut Effects,
    ) {
        let Question { what, depth, own } = question;
        let depth = if own { 1 } else { depth };
        let deadline = now + timeout.min(self.ttl);
        self.insert(now, id, KnownQuery::new(&what, None, own, depth, deadline));
        self.pass_on(now, (id, what), Branch::new(None, depth, onward(depth)), neighbours, out);
        self.end_done_branches(id, out);
    }

    /// Handles a query from a peer. `known` returns the answers that the overlay can give without the shell,
    /// or `None` if the shell has to look them up.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        link: AskingLink<'_>,
        query: Query,
        neighbours: impl Iterator<Item = AskedPeer>,
        known: impl FnOnce(&Query) -> Option<Vec<QueryAnswer>>,
        out: &mut Effects,
    ) {
        let AskingLink { peer: from, is_of_stranger, budgets } = link;
        let Query { id, depth: received, own, ttl, .. } = query;
        let depth = match received {
            UNLIMITED if is_of_stranger => UNLIMITED_FOR_STRANGER,
            depth => depth,
        };
        let done = |complete| {
            Effect::Send(from, Frame::QueryDone(QueryDone { id, depth: received, complete }))
        };
        let (mut again, mut replaces) = (false, false);
        if let Some(entry) = self.table.get(&id) {
            replaces = entry.is_replaced_by(depth) && !entry.own && !own;
            // Otherwise only a copy with more depth can reach further nodes. A copy with another question is a
            // forgery: the answers would go to the parent of the first query.
            again = !replaces && entry.depth < depth && !entry.own && !own;
            let is_same = || entry.what == KnownQuestion::of(&query.what);
            if !replaces && (!again || entry.deadline <= now || !is_same()) {
                out.push_back(done(true));
                return;
            }
        }
        // A query that was evicted may still run in a circle.
        if !again && (self.strays.was_evicted(id) || !self.make_room(from, out)) {
            self.drops.queries += 1;
            out.push_back(done(false));
            return;
        }
        // Collected only if the budgets allow it, as there may be a thousand.
        let mut others = neighbours.filter(|peer| !own && peer.id != from).peekable();
        // Charged before the look-up, so that a peer pays for both or for none.
        let passes = onward(depth).is_none()
            || others.peek().is_none()
            || may_pass(now, (from, budgets), depth, &query.what);
        // This node's own answer may be long: it names all peers.
        if !passes && !again && !budgets.may_begin(now, from, Work::Answer, MIN_ANSWERS) {
            // A stranger that floods this node with queries gets no reply. It is the one that waits.
            if !budgets.is_flooding(now, from, Work::Query) {
                out.push_back(done(false));
            }
            return;
        }
        if replaces {
            if !passes {
                out.push_back(done(false));
                return;
            }
            self.end_early(id, out);
        }
        let mut complete = passes;
        if again {
            if let Some(entry) = self.table.get_mut(&id).filter(|_| passes) {
                entry.depth = depth;
            }
        } else {
            // If the budget for look-ups is spent, the query is still passed on, so that other nodes can
            // answer it.
            let looked_up =
                !needs_lookup(&query.what) || self.lookups.take(now, from, budgets.standing(from));
            self.drops.lookups += u64::from(!looked_up);
            complete &= looked_up;
            let known = if looked_up { known(&query) } else { Some(Vec::new()) };
            let deadline = now + ttl.min(self.ttl);
            let entry = KnownQuery::new(&query.what, Some(from), own, depth, deadline);
            let awaits_own_answer = known.is_none();
            let is_held = !passes;
            self.insert(now, id, KnownQuery { awaits_own_answer, is_held, ..entry });
            match known {
                Some(answers) => {
                    let bytes = answers.iter().map(cost).sum();
                    budgets.charge(now, from, Work::Answer, bytes);
                    out.extend(answers.into_iter().map(|a| answer_to(from, a)));
                }
                None => {
                    let (what, asker) = (query.what.clone(), own.then_some(from));
                    out.push_back(Effect::Out(Output::LookUpAnswer { query: id, what, asker }));
                }
            }
        }
        // Strangers that flood this node or answer late would delay each query.
        let may_ask = |peer: &AskedPeer| budgets.may_be_asked(now, peer.id);
        let others: Vec<_> = if passes { others.filter(may_ask).collect() } else { Vec::new() };
        let branch = Branch { complete, ..Branch::new(Some(from), received, onward(depth)) };
        self.pass_on(now, (id, query.what), branch, others.into_iter(), out);
        self.end_done_branches(id, out);
    }

    /// Handles the result of [`Output::LookUpAnswer`]: any number of answers to a query.
    pub(super) fn answer(
        &mut self,
        now: Instant,
        id: QueryId,
        answers: Vec<QueryAnswer>,
        budgets: &mut Budgets,
        out: &mut Effects,
    ) {
        let Some(entry) = self.table.get_mut(&id) else { return };
        // A second result for the query, or one that came after the deadline.
        if !std::mem::take(&mut entry.awaits_own_answer) {
            return;
        }
        if let Some(parent) = entry.parent {
            budgets.charge(now, parent, Work::Answer, answers.iter().map(cost).sum());
            out.extend(answers.into_iter().map(|a| answer_to(parent, a)));
        }
        self.end_done_branches(id, out);
    }

    /// Handles an answer: passes it to the parent, or reports it if this node asked.
    ///
    /// Only peers that this node has passed the query to, and that have not said "done", may answer. Other
    /// answers are dropped. They are also counted as stray, unless they came after the deadline.
    pub(super) fn receive_answer(
        &mut self,
        now: Instant,
        from: NodeId,
        answer: QueryAnswer,
        budgets: &mut Budgets,
        out: &mut Effects,
    ) {
        let Some(entry) = self.table.get_mut(&answer.id) else {
            return self.receive_unknown(now, from, answer.id, out);
        };
        // Otherwise any peer that knows the id could send forged answers to the query of another node.
        if !entry.branches.iter().any(|branch| branch.waits_for(from)) {
            if !entry.overdue.contains(&from) {
                self.count_stray(now, from, out);
            }
            return;
        }
        let weight = weight(&answer.body);
        if entry.answered_size.saturating_add(weight) > MAX_ANSWERED {
            // Without this limit, a node that invents answers could fill all links on the path back. The
            // asking node learns that its result is incomplete.
            entry.branches.iter_mut().for_each(|branch| branch.complete = false);
            self.drops.answers += 1;
            return;
        }
        entry.answered_size += weight;
        if answer.body == AnswerBody::Here && entry.what == KnownQuestion::Node(answer.node) {
            entry.route.get_or_insert(from);
        }
        out.push_back(match entry.parent {
            Some(parent) => {
                budgets.charge(now, parent, Work::Answer, cost(&answer));
                answer_to(parent, answer)
            }
            None => Effect::Answered(answer),
        });
    }

    /// Notes that an answer was not sent to `to` because too much waits for its link. The query is not complete.
    pub(super) fn answer_skipped(&mut self, to: NodeId, id: QueryId) {
        self.drops.answers += 1;
        if let Some(entry) = self.table.get_mut(&id).filter(|entry| entry.parent == Some(to)) {
            entry.branches.iter_mut().for_each(|branch| branch.complete = false);
        }
    }

    /// Handles a "done": a peer has sent all its answers to a query.
    pub(super) fn receive_done(
        &mut self,
        now: Instant,
        from: NodeId,
        done: QueryDone,
        out: &mut Effects,
    ) {
        let Some(entry) = self.table.get_mut(&done.id) else {
            return self.receive_unknown(now, from, done.id, out);
        };
        for branch in &mut entry.branches {
            // If the peer received the query twice, the depth shows which copy is done.
            if branch.onward == Some(done.depth) {
                branch.peer_is_done(from, done.complete);
            }
        }
        self.end_done_branches(done.id, out);
    }

    /// Handles an answer or a "done" for a query that is not in the table.
    fn receive_unknown(&mut self, now: Instant, from: NodeId, query: QueryId, out: &mut Effects) {
        if !self.strays.remembers(query) {
            self.count_stray(now, from, out);
        }
    }

    /// Counts an answer to a query that was not sent to `from`. If there are too many, closes the link.
    fn count_stray(&mut self, now: Instant, from: NodeId, out: &mut Effects) {
        if self.strays.add(now, from) {
            let fault = "it keeps answering queries that this node did not send to it".to_owned();
            out.push_back(Effect::CloseLink(from, Reason::Fault(fault)));
        }
    }

    /// Returns the numbers of dropped queries and answers.
    pub(super) fn drops(&self) -> QueryDrops {
        self.drops
    }

    /// Returns the number of stray answers since the node started.
    pub(super) fn strays(&self) -> u64 {
        self.strays.count()
    }

    /// Returns the peer from which the answer about the node `wanted` came, or `Some(None)` if there is no
    /// answer yet. `asking` is the peer that has sent the query, or `None` if it is this node's own query.
    /// Returns `None` if the query came from another node, or is not for `wanted`.
    pub(super) fn route(
        &self,
        id: QueryId,
        asking: Option<NodeId>,
        wanted: NodeId,
    ) -> Option<Option<NodeId>> {
        let entry = self.table.get(&id)?;
        (entry.parent == asking && entry.what == KnownQuestion::Node(wanted)).then_some(entry.route)
    }

    /// Notes that a link has ended: queries no longer wait for answers of that peer, and none are sent to it.
    pub(super) fn link_down(&mut self, peer: NodeId, out: &mut Effects) {
        self.lookups.forget(peer);
        self.strays.forget_link(peer);
        // Queries that have ended have no deadline, and their entries need no change.
        let active: Vec<_> = self.deadlines.iter().map(|(_, id)| *id).collect();
        for id in active {
            let Some(entry) = self.table.get_mut(&id) else { continue };
            for branch in entry.branches.iter().filter(|branch| branch.parent == Some(peer)) {
                // They were asked, so their answers are no fault.
                entry.overdue.extend(branch.all_waiting());
            }
            entry.branches.retain(|branch| branch.parent != Some(peer));
            for branch in &mut entry.branches {
                branch.peer_is_done(peer, false);
            }
            self.end_done_branches(id, out);
        }
    }

    /// Ends the queries whose deadline has passed, stops waiting for strangers that are late, and forgets old
    /// queries.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        budgets: &mut Budgets,
        out: &mut Effects,
    ) {
        while let Some((deadline, id)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            if let Some(entry) = self.table.get_mut(&id) {
                let is_over = deadline >= entry.deadline;
                // At the deadline, `end_done_branches` must not wait for the shell's answer either.
                entry.awaits_own_answer &= !is_over;
                for branch in &mut entry.branches {
                    branch.strangers.iter().for_each(|late| budgets.note_late(now, *late));
                    entry.overdue.extend(std::mem::take(&mut branch.strangers));
                    if is_over {
                        entry.overdue.extend(branch.give_up());
                    }
                }
            }
            self.end_done_branches(id, out);
            self.deadlines.remove(&(deadline, id));
        }
        self.forget_old(now);
    }

    /// Returns the number of queries that are remembered.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|(deadline, _)| *deadline);
        earliest(deadline, self.order.first().map(|(at, _)| *at))
    }

    fn insert(&mut self, now: Instant, id: QueryId, mut entry: KnownQuery) {
        self.forget_old(now);
        entry.forget_at = now + self.ttl;
        self.deadlines.insert((entry.deadline, id));
        if let Some(parent) = entry.parent {
            self.by_link.entry(parent).or_default().push_back(id);
        }
        self.order.insert((entry.forget_at, id));
        self.table.insert(id, entry);
    }

    /// Returns whether there is room for a query from this link. If the table is full, evicts the oldest query
    /// of the link that has most, unless the two links have about the same number.
    fn make_room(&mut self, from: NodeId, out: &mut Effects) -> bool {
        let share = self.by_link.get(&from).map_or(0, VecDeque::len);
        if share >= (self.max / LINK_SHARE).max(1) {
            return false;
        }
        if self.table.len() < self.max {
            return true;
        }
        let heaviest = self.by_link.values().max_by_key(|ids| ids.len());
        // Two links with about the same number would evict each other's queries in turn.
        let heaviest = heaviest.filter(|ids| ids.len() > 2 * (share + 1));
        let Some(oldest) = heaviest.and_then(|ids| ids.front().copied()) else { return false };
        self.drops.evicted += 1;
        self.end_early(oldest, out);
        self.strays.evict(oldest);
        true
    }

    /// Ends a query as not complete, and removes it.
    fn end_early(&mut self, id: QueryId, out: &mut Effects) {
        if let Some(entry) = self.table.get_mut(&id) {
            entry.awaits_own_answer = false;
            for branch in &mut entry.branches {
                branch.complete = false;
                branch.give_up().for_each(drop);
            }
        }
        self.end_done_branches(id, out);
        self.remove(id);
    }

    fn forget_old(&mut self, now: Instant) {
        self.strays.expire(now);
        while let Some((at, id)) = self.order.first().copied() {
            if at > now {
                break;
            }
            self.order.pop_first();
            self.strays.remember(now + self.ttl, id);
            self.remove(id);
        }
    }

    fn remove(&mut self, id: QueryId) {
        let Some(entry) = self.table.remove(&id) else { return };
        self.deadlines.remove(&(entry.deadline, id));
        if let Some(until) = entry.strangers_until {
            self.deadlines.remove(&(until, id));
        }
        self.order.remove(&(entry.forget_at, id));
        let Some(parent) = entry.parent else { return };
        if let Some(ids) = self.by_link.get_mut(&parent) {
            // It is mostly the first, as queries are forgotten in the order of arrival.
            if let Some(at) = ids.iter().position(|other| *other == id) {
                ids.remove(at);
            }
            if ids.is_empty() {
                self.by_link.remove(&parent);
            }
        }
    }

    /// Opens a branch, and passes the query on to `neighbours` if there is depth left. `branch.complete` says
    /// whether this node's own answer is complete.
    fn pass_on(
        &mut self,
        now: Instant,
        (id, what): (QueryId, QueryKind),
        mut branch: Branch,
        neighbours: impl Iterator<Item = AskedPeer>,
        out: &mut Effects,
    ) {
        let Some(entry) = self.table.get_mut(&id) else { return };
        if let Some(depth) = branch.onward {
            branch.wait_for(neighbours);
            let ttl = entry.deadline.since(now);
            if !branch.strangers.is_empty() {
                let until = now + STRANGERS_TIME.min(ttl / 2);
                if let Some(before) = entry.strangers_until.replace(until) {
                    self.deadlines.remove(&(before, id));
                }
                self.deadlines.insert((until, id));
            }
            let query = Query { id, depth, own: entry.own, ttl, what };
            let send = |peer| Effect::Send(peer, Frame::Query(query.clone()));
            out.extend(branch.all_waiting().map(send));
        }
        entry.branches.push(branch);
    }

    /// Ends the branches that are done, and sends "done" to the peers that wait for them.
    fn end_done_branches(&mut self, id: QueryId, out: &mut Effects) {
        let Some(entry) = self.table.get_mut(&id) else { return };
        if entry.awaits_own_answer {
            return;
        }
        entry.branches.retain(|branch| {
            if !branch.is_done() {
                return true;
            }
            let (depth, complete) = (branch.depth, branch.complete);
            out.push_back(match branch.parent {
                Some(parent) => {
                    Effect::Send(parent, Frame::QueryDone(QueryDone { id, depth, complete }))
                }
                None => Effect::QueryEnded { query: id, complete },
            });
            false
        });
        if entry.branches.is_empty() {
            // An emptied list keeps its memory, and most entries have no branches for most of their time.
            entry.branches = Vec::new();
            self.deadlines.remove(&(entry.deadline, id));
            if let Some(until) = entry.strangers_until.take() {
                self.deadlines.remove(&(until, id));
            }
        }
    }
}

fn answer_to(asker: NodeId, answer: QueryAnswer) -> Effect {
    Effect::Send(asker, Frame::Answer(answer))
}

/// Returns whether an answer needs a search through the shared files.
fn needs_lookup(what: &QueryKind) -> bool {
    matches!(what, QueryKind::Search(_) | QueryKind::HasFile(_))
}

/// Returns the depth with which a query is passed on, or `None` if it is not.
fn onward(depth: u8) -> Option<u8> {
    match depth {
        UNLIMITED | UNLIMITED_FOR_STRANGER => Some(depth),
        depth => depth.checked_sub(1),
    }
}
