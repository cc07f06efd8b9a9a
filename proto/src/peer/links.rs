//! The links of a node: how connections become links, and how links end.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{ConnectionId, Dial, DialError, DialId, Greeted, JoinError, Machine, Output};
use crate::deadlines::Deadlines;
use crate::event::{LinkEnd, Reason};
use crate::id::NodeId;
use crate::overlay::Overlay;
use crate::overlay::admission::Admission;
use crate::time::Instant;

/// The table of links. There is at most one with each node.
#[derive(Debug)]
pub(super) struct Links {
    /// Interval at which the use of each on-demand link is measured.
    check: Duration,
    by_id: BTreeMap<NodeId, LinkEntry>,
    by_connection: BTreeMap<ConnectionId, NodeId>,
    /// Connections that become the link with a node once the present link has ended.
    successors: BTreeMap<NodeId, Greeted>,
    /// On-demand links: they were made for a message, and nothing else needs them so far.
    on_demand: BTreeMap<ConnectionId, OnDemand>,
    /// Times of the next measurement of each on-demand link.
    checks: Deadlines<ConnectionId>,
}

#[derive(Debug)]
struct LinkEntry {
    connection: ConnectionId,
    /// Frames and messages can still be sent over the link.
    can_send: bool,
    /// This node is closing the link, so frames that still arrive are dropped.
    drops_frames: bool,
}

/// The use of an on-demand link.
#[derive(Debug, Default)]
struct OnDemand {
    /// Number of messages at the last measurement.
    count: u64,
    /// Number of measurements in a row that found no use.
    idle: u32,
}

/// Number of measurements in a row without use after which an on-demand link is closed. 4: a link is closed
/// at most a quarter of the configured time too late.
const IDLE_CHECKS: u32 = 4;

impl Links {
    /// Returns an empty table. An on-demand link is closed after the time `idle` without use.
    pub(super) fn new(idle: Duration) -> Self {
        Self {
            check: idle / IDLE_CHECKS,
            by_id: BTreeMap::new(),
            by_connection: BTreeMap::new(),
            successors: BTreeMap::new(),
            on_demand: BTreeMap::new(),
            checks: Deadlines::default(),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.checks.first()
    }

    /// Returns the connection that is the link with a node.
    pub(super) fn connection(&self, id: NodeId) -> Option<ConnectionId> {
        self.by_id.get(&id).map(|link| link.connection)
    }

    /// Returns the node at the other end of a link.
    pub(super) fn id(&self, connection: ConnectionId) -> Option<NodeId> {
        self.by_connection.get(&connection).copied()
    }

    /// Returns the node at the other end of a link, or `None` if this node is closing the link.
    pub(super) fn accepts_from(&self, connection: ConnectionId) -> Option<NodeId> {
        let id = self.id(connection)?;
        self.by_id.get(&id).filter(|link| !link.drops_frames).map(|_| id)
    }

    /// Returns whether there is a link with a node over which frames can be sent.
    pub(super) fn can_send_to(&self, id: NodeId) -> bool {
        self.by_id.get(&id).is_some_and(|link| link.can_send)
    }

    /// Notes that nothing more can be sent over a connection.
    pub(super) fn stop_sending(&mut self, connection: ConnectionId) {
        if let Some(link) = self.of(connection) {
            link.can_send = false;
        }
    }

    /// Notes that the link with a node is an on-demand link.
    pub(super) fn set_on_demand(&mut self, id: NodeId, now: Instant) {
        if let Some(connection) = self.connection(id) {
            self.on_demand.insert(connection, OnDemand::default());
            self.checks.set(connection, Some(now + self.check));
        }
    }

    /// Notes that the application wants the link with a node, so it is no longer on demand.
    pub(super) fn set_wanted(&mut self, id: NodeId) {
        if let Some(connection) = self.connection(id) {
            self.forget_on_demand(connection);
        }
    }

    fn forget_on_demand(&mut self, connection: ConnectionId) {
        self.on_demand.remove(&connection);
        self.checks.set(connection, None);
    }

    /// Forgets the connection of a dial that was to replace a link, and returns it.
    pub(super) fn drop_successor(&mut self, dial: DialId) -> Option<ConnectionId> {
        let is_of_dial = |_: &NodeId, greeted: &mut Greeted| greeted.dial == Some(dial);
        let dropped = self.successors.extract_if(.., is_of_dial).next();
        dropped.map(|(_, greeted)| greeted.connection)
    }

    fn of(&mut self, connection: ConnectionId) -> Option<&mut LinkEntry> {
        let id = self.by_connection.get(&connection)?;
        self.by_id.get_mut(id)
    }

    fn insert(&mut self, id: NodeId, connection: ConnectionId) {
        let link = LinkEntry { connection, can_send: true, drops_frames: false };
        self.by_id.insert(id, link);
        self.by_connection.insert(connection, id);
    }

    fn remove(&mut self, connection: ConnectionId) -> Option<NodeId> {
        let id = self.by_connection.remove(&connection)?;
        self.by_id.remove(&id);
        self.forget_on_demand(connection);
        Some(id)
    }
}

impl Machine {
    /// Admits or refuses a connection on which the other node's Hello has arrived.
    pub(super) fn greeted(&mut self, greeted: Greeted) {
        let id = greeted.candidate.id;
        let checked = self.overlay.check_membership(id, greeted.membership.as_deref());
        let admission = match checked {
            _ if self.stopping => Admission::Refuse(Reason::Stopping),
            Ok(()) => self.overlay.admit(&greeted.candidate, &greeted.merits),
            Err(reason) => Admission::Refuse(reason),
        };
        // A new member is made known to the present peers.
        self.carry_out_effects();
        match admission {
            Admission::Accept => self.link_up(greeted),
            Admission::MakeRoom(victim) => {
                self.close_link(victim, Reason::MadeRoom);
                self.overlay.evict(victim);
                self.link_up(greeted);
            }
            Admission::Refuse(reason) => {
                // If the other node has dialled this connection, a Hello of this node on another connection
                // still waits for its answer.
                if greeted.dial.is_some() {
                    self.overlay.end_hello(id);
                }
                self.refuse(&greeted, reason);
            }
            Admission::Replace(reason) => {
                let Some(old) = self.links.by_id.get_mut(&id) else {
                    return self.link_up(greeted);
                };
                // Messages have to keep their order. So the new connection becomes a link only after the old
                // link has delivered what is queued, and the application has the event of its end.
                old.can_send = false;
                let old = old.connection;
                let replaced = self.links.successors.insert(id, greeted);
                self.outputs.push_back(Output::CloseReplacedLink(old, reason));
                if let Some(replaced) = replaced {
                    self.refuse(&replaced, Reason::Replaced);
                }
            }
        }
    }

    /// Refuses a connection. If this node has dialled it, the dial fails, or waits for the link that is kept
    /// instead.
    fn refuse(&mut self, greeted: &Greeted, reason: Reason) {
        self.outputs.push_back(Output::Refused(greeted.connection, reason.clone()));
        if let Some(dial) = greeted.dial {
            self.dial_refused(dial, &DialError::Unwanted(reason));
        }
    }

    fn link_up(&mut self, greeted: Greeted) {
        let Greeted { connection, dial, peer, candidate, unix, transport, .. } = greeted;
        let id = candidate.id;
        self.links.insert(id, connection);
        self.outputs.push_back(Output::Admitted(connection));
        // The outcomes of dials are put out before the effects of the link.
        let made = dial.and_then(|dial| self.end_dial(dial, id));
        if made.as_ref().is_some_and(Dial::is_on_demand) {
            self.links.set_on_demand(id, self.now.monotonic);
        }
        let mut reached: Vec<_> = made.into_iter().collect();
        for dial in self.dials.waiting_for_node(id) {
            reached.extend(self.end_dial(dial, id));
        }
        self.note_relayed(id, candidate.is_relayed);
        self.with_overlay(|overlay| overlay.link_up(peer, candidate, unix, transport));
        for dial in reached {
            self.dial_linked(dial, id);
        }
        self.recipient_linked(id);
    }

    /// Handles the end of a connection, which may have been a link.
    pub(super) fn link_down(&mut self, connection: ConnectionId, link_end: LinkEnd) {
        if let Some(id) = self.links.remove(connection) {
            self.note_relayed(id, false);
            self.with_overlay(|overlay| overlay.link_down(id, &link_end));
        }
    }

    /// Continues after the application has the event about a link's end: a connection that was to replace the
    /// link becomes one, and dials that waited for the end go on.
    pub(super) fn link_end_reported(&mut self, id: NodeId) {
        if let Some(successor) = self.links.successors.remove(&id) {
            self.link_up(successor);
        }
        self.join_failed(id, &JoinError::LinkEnded);
        self.resume_dials(id);
    }

    /// Asks the shell to measure the on-demand links that are due.
    pub(super) fn check_on_demand(&mut self) {
        let now = self.now.monotonic;
        let due: Vec<_> = std::iter::from_fn(|| self.links.checks.pop(now)).collect();
        for connection in due {
            self.links.checks.set(connection, Some(now + self.links.check));
            self.outputs.push_back(Output::MeasureUse(connection));
        }
    }

    /// Handles a measurement of an on-demand link. Closes the link if it was idle for long enough, unless the
    /// overlay or the application needs it.
    pub(super) fn link_used(&mut self, connection: ConnectionId, count: u64, busy: bool) {
        let Some(link) = self.links.on_demand.get_mut(&connection) else { return };
        let idle = if busy || count != link.count { 0 } else { link.idle + 1 };
        (link.count, link.idle) = (count, idle);
        if idle < IDLE_CHECKS {
            return;
        }
        // The link is not measured any more: it is closed now, or it stays because the overlay or the
        // application needs it.
        self.links.forget_on_demand(connection);
        let Some(id) = self.links.id(connection) else { return };
        let views = self.overlay.views();
        if !views.active.contains(&id) && !views.pinned.contains(&id) {
            self.close_link(id, Reason::NotNeeded);
        }
    }

    /// Closes the link with a node, unless it is being closed already.
    pub(super) fn close_link(&mut self, id: NodeId, reason: Reason) {
        let Some(link) = self.links.by_id.get_mut(&id) else { return };
        link.can_send = false;
        if !std::mem::replace(&mut link.drops_frames, true) {
            let reason = if self.stopping { Reason::Stopping } else { reason };
            self.outputs.push_back(Output::CloseLink(link.connection, reason));
        }
    }

    /// Stops the node: closes all links, and makes no new ones.
    pub(super) fn stop(&mut self, hand_over: bool) {
        self.stopping = true;
        // The overlay sends its last frames before the links are closed, as nothing can follow a goodbye.
        self.with_overlay(if hand_over { Overlay::leave } else { Overlay::flush });
        for (_, greeted) in std::mem::take(&mut self.links.successors) {
            self.refuse(&greeted, Reason::Stopping);
        }
        let linked: Vec<_> = self.links.by_id.keys().copied().collect();
        for id in linked {
            self.close_link(id, Reason::Stopping);
        }
    }
}
