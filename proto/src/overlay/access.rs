//! Access: which nodes this node links with. The user or the application disconnects, reports or bans nodes, and
//! a fault ends a link. Later connections with such nodes are refused.

use std::time::Duration;

use crate::event::{Direction, Reason};
use crate::id::NodeId;
use crate::peer::Purpose;
use crate::time::Instant;

use super::admission::{Admission, Candidate, LinkMerits};
use super::{Effect, Overlay};

impl Overlay {
    /// Returns the nodes that are kept away because the application has disconnected them, each with the time
    /// that is left.
    pub fn kept_away(&self, now: Instant) -> impl Iterator<Item = (NodeId, Duration)> {
        self.away.remaining(now)
    }

    /// Returns how many times a node was added to or removed from [`Overlay::kept_away`]. Nodes whose time
    /// has run out do not count.
    #[must_use]
    pub fn away_changes(&self) -> u64 {
        self.away.changes()
    }

    /// Decides whether a dial that has reached `id` may send its Hello. If the application asked for the
    /// dial, the node is no longer kept away.
    ///
    /// # Errors
    /// If the node is this one or is kept away. [`Reason::Duplicate`] if there is a link with it already, or
    /// another dial has sent it a Hello: call again once that link or that dial has ended.
    pub(crate) fn begin_hello(&mut self, id: NodeId, purpose: Purpose) -> Result<(), Reason> {
        self.parts.members.check_dial(id)?;
        let refusal = self.away.refusal(self.now.monotonic, id);
        match (purpose, refusal) {
            // Only the user ends a ban.
            (_, Some(Reason::Banned)) => return Err(Reason::Banned),
            // The application wants this link, so its earlier disconnect no longer holds.
            (Purpose::Application | Purpose::Join | Purpose::Reconnect, _) => {
                self.stop_keeping_away(id);
            }
            (Purpose::Rejoin | Purpose::Overlay | Purpose::Meeting, Some(refusal)) => {
                return Err(refusal);
            }
            // Messages are still sent to a node that is kept away: see `away`.
            (Purpose::Message, _) | (_, None) => {}
        }
        self.admissions.begin_hello(id, purpose == Purpose::Meeting)
    }

    /// Notes that a dial which was allowed to send its Hello has received the answer, or has failed.
    pub(crate) fn end_hello(&mut self, id: NodeId) {
        self.admissions.end_hello(id);
    }

    /// Decides whether a connection becomes a link, once the other node's Hello has arrived. Refuses
    /// connections that were dialled by a node that is kept away. `merits` has those of the links, if
    /// [`Overlay::is_short_of_places`] returns true.
    pub(crate) fn admit(&self, candidate: &Candidate, merits: &[LinkMerits]) -> Admission {
        let now = self.now.monotonic;
        if candidate.direction == Direction::Inbound {
            if let Some(refusal) = self.away.refusal(now, candidate.id) {
                return Admission::Refuse(refusal);
            }
            // Other nodes of the host may have done nothing. So they only give way to others while places are
            // short, and a node that this one knows does not.
            let host = self.admissions.host(candidate.ip);
            if self.admissions.is_crowded()
                && host.is_some_and(|host| self.away.is_faulty_host(now, host))
                && !self.parts.membership.is_known(candidate.id)
            {
                return Admission::Refuse(Reason::FullForAddress);
            }
        } else if self.away.is_banned(now, candidate.id) {
            // Banned while the Hellos were under way.
            return Admission::Refuse(Reason::Banned);
        }
        self.admissions.admit(candidate, |id| self.parts.membership.is_known(id), merits)
    }

    /// Returns whether all inbound places are taken, so that a further link may evict another one.
    #[must_use]
    pub fn is_short_of_places(&self) -> bool {
        self.admissions.is_short_of_places()
    }

    /// Frees the inbound place of a link that is being closed to make room for another one.
    pub(crate) fn evict(&mut self, id: NodeId) {
        self.admissions.evict(id);
    }

    pub(super) fn disconnect(&mut self, id: NodeId) {
        self.parts.reconnects.stop_peer(id);
        self.parts.membership.unpin(id);
        // Only a member's overlay dials nodes by itself, which would undo the disconnect.
        if self.parts.membership.is_member() {
            self.away.add(self.now.monotonic, id);
        }
        if self.links.contains_key(&id) {
            self.out.push_back(Effect::CloseLink(id, Reason::Requested));
        }
    }

    pub(super) fn penalize(&mut self, id: NodeId, why: String) {
        let host = self.admissions.inbound_host(id);
        self.away.add_faulty(self.now.monotonic, id, host);
        self.parts.membership.unpin(id);
        if self.links.contains_key(&id) {
            self.out.push_back(Effect::CloseLink(id, Reason::Fault(why)));
        }
    }

    pub(super) fn ban(&mut self, id: NodeId, time: Option<Duration>) {
        self.away.ban(self.now.monotonic, id, time);
        self.parts.reconnects.stop_peer(id);
        self.parts.membership.unpin(id);
        if self.links.contains_key(&id) {
            self.out.push_back(Effect::CloseLink(id, Reason::Banned));
        }
    }

    /// Stops keeping away a node that the application had disconnected.
    pub(super) fn stop_keeping_away(&mut self, id: NodeId) {
        self.away.remove(id);
        self.parts.membership.stop_avoiding(id);
    }
}
