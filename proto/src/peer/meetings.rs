//! Meetings: two nodes dial each other at the same time over UDP, so that each opens its own router for the packets of
//! the other (*hole punching*, RFC 5128, section 3.3).
//!
//! The asking node sends a query for a call-back, with its candidates in its signed record. The other node dials them
//! at once, and answers with its own, which the asking node dials. Any node of the network passes query and answer on.
//! If both dials succeed, the rule for simultaneous dials keeps one link.
//!
//! Where no hole can be punched, the asking node connects through a *relay*: a node that the other one has dialled, and
//! that copies the bytes of a TLS connection between the two.
//!
//! Answers are not signed. So a node on the way can name false candidates, and each meeting dials only a few, each with
//! few packets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Machine, Purpose};
use crate::address::{Address, Scheme};
use crate::deadlines::Deadlines;
use crate::frame::query::{AnswerBody, QueryAnswer, QueryId, QueryKind};
use crate::id::NodeId;
use crate::overlay::reach::MAX_CANDIDATES;
use crate::time::Instant;

pub use crate::overlay::reach::MAX_RELAYS;

/// Maximum number of meetings under way. 16: each sends a few packets to eight addresses at most, so all together send
/// as much as one small download.
pub const MAX_MEETINGS: usize = 16;

/// The token of a call-back that asks for a link only. Otherwise the called node would also open a stream.
pub const LINK_ONLY: [u8; 16] = [0; 16];

/// Time before a node without a link is asked for a meeting again, on behalf of messages to it.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// Interval at which the nodes at both ends of a relayed link try to make a direct one.
const UPGRADE_EVERY: Duration = Duration::from_secs(30);

/// Time for which two nodes dial each other to punch a hole. 4 s: DCUtR succeeds at its first attempt in 97.6 % of all
/// cases in which it succeeds (Trautwein et al. 2025), and in this time each candidate gets few packets.
pub const MEETING_TIME: Duration = Duration::from_secs(4);

/// Time after which a connection through a relay is prepared. 400 ms: most holes are punched after
/// two round trips, and then no relay is asked.
pub const RELAY_PREPARED_AFTER: Duration = Duration::from_millis(400);

/// Minimum time after which that connection is used, although a hole may still be punched. 1.2 s: by then each candidate
/// has got three packets, so a lost one does not cost the direct connection. To prepare the connection takes ten round
/// trips, so over a long way it is used later.
pub const RELAY_AFTER: Duration = Duration::from_millis(1200);

/// Time after which they try it when this node is seen at another address. 2 s: a second observer may tell it too, and
/// one that always tells another address causes few attempts.
const UPGRADE_SOON: Duration = Duration::from_secs(2);

/// Maximum number of nodes for which that time is remembered.
const MAX_ASKED: usize = 256;

/// The addresses of a dial of a meeting, by their use. The candidates are dialled at the same moment, for
/// [`MEETING_TIME`]. A connection through a relay is prepared once all candidates have failed, or after
/// [`RELAY_PREPARED_AFTER`], and used once they have failed, or after [`RELAY_AFTER`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeetingAddresses {
    /// The candidates for hole punching.
    pub candidates: Vec<Address>,
    /// The addresses at relays, best first.
    pub relays: Vec<Address>,
}

impl MeetingAddresses {
    /// Sorts the addresses of a dial.
    #[must_use]
    pub fn of(addresses: impl IntoIterator<Item = Address>) -> Self {
        let is_relay = |address: &Address| address.scheme == Scheme::Relay;
        let (relays, candidates) = addresses.into_iter().partition(is_relay);
        Self { candidates, relays }
    }
}

/// The meetings that this node has asked for.
#[derive(Debug, Default)]
pub(super) struct Meetings {
    /// The queries under way, each with the node that is to be met.
    queries: BTreeMap<QueryId, NodeId>,
    /// The nodes that were asked on behalf of messages, and when.
    asked: BTreeMap<NodeId, Instant>,
    /// The times at which the nodes with relayed links are asked for a direct one.
    upgrades: Deadlines<NodeId>,
}

impl Meetings {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.upgrades.first()
    }
}

impl Machine {
    /// Notes a query of the shell, which may be one for a call-back.
    pub(super) fn note_call_back(&mut self, query: QueryId, target: Option<NodeId>) {
        self.meetings.queries.extend(target.map(|target| (query, target)));
    }

    /// Notes the end of a query.
    pub(super) fn call_back_ended(&mut self, query: QueryId) {
        self.meetings.queries.remove(&query);
    }

    /// Asks a node for a meeting, as messages wait for it and no dial may reach it.
    pub(super) fn ask_for_meeting(&mut self, id: NodeId) {
        let now = self.now.monotonic;
        if self.manual || !self.overlay.meets() {
            return;
        }
        self.meetings.asked.retain(|_, at| now.since(*at) < ASK_AGAIN);
        if self.meetings.asked.len() >= MAX_ASKED || self.meetings.asked.contains_key(&id) {
            return;
        }
        self.meetings.asked.insert(id, now);
        self.ask_for_link(id);
    }

    /// Notes that a link has come up, and whether it is relayed.
    pub(super) fn note_relayed(&mut self, id: NodeId, is_relayed: bool) {
        let due = is_relayed.then(|| self.now.monotonic + UPGRADE_EVERY);
        self.meetings.upgrades.set(id, due);
    }

    /// Notes at which UDP address an observer sees this node. At a new address it can perhaps be met, so the nodes with
    /// relayed links are asked soon.
    pub(super) fn observed(&mut self, by: NodeId, address: Option<SocketAddr>) {
        let before = self.overlay.reach().seen.udp;
        self.with_overlay(|overlay| overlay.observed(by, address));
        if self.overlay.reach().seen.udp.iter().any(|at| !before.contains(at)) {
            self.meetings.upgrades.bring_forward(self.now.monotonic + UPGRADE_SOON);
        }
    }

    /// Asks the nodes with relayed links for direct ones.
    pub(super) fn upgrade_links(&mut self) {
        let now = self.now.monotonic;
        while let Some(id) = self.meetings.upgrades.pop(now) {
            if self.overlay.is_relayed(id) {
                self.meetings.upgrades.set(id, Some(now + UPGRADE_EVERY));
                self.ask_for_link(id);
            }
        }
    }

    fn ask_for_link(&mut self, id: NodeId) {
        let what = QueryKind::CallBack { target: id, token: LINK_ONLY, addresses: Vec::new() };
        let query = self.overlay.ask(what, -1, false, None);
        // Noted before the effects are carried out, because a query without links has ended already.
        self.meetings.queries.insert(query, id);
        self.carry_out_effects();
    }

    /// Dials the candidates of a node that is about to dial this one.
    pub(super) fn call_back_answered(&mut self, answer: &QueryAnswer) {
        let target = self.meetings.queries.get(&answer.id);
        if target == Some(&answer.node) && answer.body == AnswerBody::Here {
            self.meet(answer.node, &answer.addresses);
        }
    }

    /// Dials the candidates among the addresses of a node, and those of its relays, if there is no link with it. If
    /// there is a relayed one, dials only the candidates.
    pub(super) fn meet(&mut self, id: NodeId, addresses: &[Address]) {
        let is_relayed = self.overlay.is_relayed(id);
        let is_linked = self.links.connection(id).is_some() && !is_relayed;
        if self.manual || id == self.overlay.id() || is_linked {
            return;
        }
        if self.dials.meetings().count() >= MAX_MEETINGS
            || self.dials.meetings().any(|other| other == id)
        {
            return;
        }
        let usable = || addresses.iter().filter(|address| self.overlay.is_meeting_address(address));
        let of = |scheme| usable().filter(move |address| address.scheme == scheme);
        let candidates = of(Scheme::Quic).take(MAX_CANDIDATES);
        let relays = if is_relayed { 0 } else { MAX_RELAYS };
        let all = candidates.chain(of(Scheme::Relay).take(relays));
        let all: Vec<_> = all.map(|address| address.clone().with_id(id)).collect();
        if !all.is_empty() {
            self.dial(None, all, Purpose::Meeting);
        }
    }
}
