//! Outbound neighbours: neighbours that this node has chosen itself, in groups of addresses of their own.
//!
//! An attacker surrounds a node by taking all its places. It can ask for places as often as it likes, and it can
//! make itself known with any number of identities. But it has addresses in few groups. So a member keeps
//! [`OUTBOUND`] neighbours that it has dialled itself, of different groups. It draws them from the nodes of the
//! address book that its own dials and probes have reached: first a group, then a node of that group. No request
//! displaces them.
//!
//! A node that others can't dial gets no neighbours but those that it asks. If all places are taken, only the nodes
//! that take it as a guest are left (see below). So a node with free places asks further nodes of the address book,
//! drawn in the same way. The more of its neighbours it has drawn itself, the less likely it is that all of them lie.
//!
//! A doubtful neighbour (see [`trial`](super::trial)) is not one of those that this node wants. For up to
//! [`MAX_DOUBTFUL`] of them it has as many others in addition, and they stay too.
//!
//! In a network whose nodes have no groups, or one group, each neighbour that this node has chosen counts as an
//! outbound neighbour, as there is nothing to tell an attacker by.
//!
//! A full node takes newcomers as *guests*, in addition to the neighbours that it looks for itself: up to
//! [`GUESTS`], its own outbound neighbours included, and one of each group. So a node finds its outbound neighbours
//! without ending the links of others. If there is no place for a guest, the newest neighbour of the newcomer's own
//! group gives way, or the newest of all. So an attacker that comes to a network that is already there competes with
//! itself, and ends no link between honest nodes. If
//! [`Config::outbound_groups`](crate::config::Config::outbound_groups) is off, there are no guests, and a random
//! neighbour gives way.
//!
//! The two outbound neighbours that have been neighbours for longest are the node's *anchors*, as in Bitcoin
//! Core. The node dials them first after a restart, so that an attacker gains nothing by making it restart.

use std::time::Duration;

use crate::address_group::AddressGroup;
use crate::frame::membership::Need;
use crate::id::NodeId;
use crate::node_record::NodeRecord;
use crate::overlay::{Effect, OverlayContext};
use crate::peer::Output;
use crate::time::Instant;

use super::Membership;
use super::neighbours::Neighbour;
use super::trial::MAX_DOUBTFUL;

/// Number of outbound neighbours of different groups that a member keeps, if it knows several groups. Two: with them,
/// and two neighbours that stay as they are long-standing or useful, four of five places are safe, and one is left
/// for newcomers.
const OUTBOUND: usize = 2;

/// Number of anchors: as many as Bitcoin Core has.
const ANCHORS: usize = 2;

/// Wait before a new member looks for outbound neighbours if it has no free place. In the meantime it gets
/// neighbours from the walks that announce it.
const FIRST_WAIT: Duration = Duration::from_secs(30);

/// Wait before a member that lacks outbound neighbours looks for one. From the first attempt that may displace a
/// neighbour of another node, it doubles with each, up to [`MAX_WAIT`].
const MIN_WAIT: Duration = Duration::from_secs(10);
const MAX_WAIT: Duration = Duration::from_secs(160);

/// Number of attempts that only look for a place where nobody has to give way. Five: even in a network in which
/// most nodes can't be dialled, hardly a node has to make room, which ends a link.
const POLITE_ATTEMPTS: u32 = 5;

/// Maximum number of neighbours beyond those that a node looks for itself. 16: each node wants [`OUTBOUND`] places,
/// and if a quarter of them can be dialled, each of these needs eight. Twice as many, as the nodes that are known for
/// longest are asked most.
pub(crate) const GUESTS: usize = 16;

/// Time from which a neighbour is settled: newcomers displace younger ones first. Ten seconds: when many nodes
/// join at one moment, their places are still mixed.
pub(super) const SETTLED: Duration = Duration::from_secs(10);

/// Time from which a neighbour counts as long-standing. Ten minutes: an attacker would have to be there before
/// the nodes whose places it wants.
const LONG_STANDING: Duration = Duration::from_secs(600);

/// Number of neighbours that stay because they have delivered a new broadcast first, and the time for which
/// such a delivery counts. One of five: a neighbour that forwards nothing can't displace one that does.
const USEFUL: usize = 1;
const USEFUL_TIME: Duration = Duration::from_secs(600);

/// The reason why this node asks another one for a place. It decides whether this node drops another neighbour
/// if the place is granted and this node is full by then, and whether requests can displace the neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The application has named the node, or this node has drawn it to be an outbound neighbour.
    Chosen,
    /// The node is one of the passive view.
    Known,
    /// A neighbour that has dropped this node has named the node.
    Named,
    /// The node was announced on a random walk.
    Walk,
    /// The node claims to be in another part of the network.
    Repair,
}

/// The search for outbound neighbours.
#[derive(Debug, Default)]
pub(super) struct OutboundSearch {
    /// The time of the next attempt. `None` while this node is not a member.
    at: Option<Instant>,
    /// Number of attempts since this node last had all its outbound neighbours.
    attempts: u32,
    /// Number of attempts to find further neighbours since the last one that was granted a place.
    further_attempts: u32,
    anchors: Vec<NodeId>,
}

impl OutboundSearch {
    pub(super) fn start(&mut self, now: Instant) {
        (self.at, self.attempts, self.further_attempts) = (Some(now + FIRST_WAIT), 0, 0);
    }

    /// Notes that a node which was drawn has granted a place.
    pub(super) fn found(&mut self) {
        self.further_attempts = 0;
    }

    pub(super) fn stop(&mut self) {
        self.at = None;
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.at
    }
}

impl Membership {
    /// Returns the outbound neighbours: those that no request displaces. Those come first that are not
    /// doubtful, and of these the ones that have been neighbours for longest.
    pub(super) fn outbound(&self) -> Vec<NodeId> {
        let has_groups = self.has_groups();
        let is_own = |neighbour: &Neighbour| match neighbour.origin {
            Some(Origin::Chosen) => true,
            Some(Origin::Known) => neighbour.dialled && !has_groups,
            Some(Origin::Named | Origin::Walk | Origin::Repair) | None => false,
        };
        let own = self.active.iter().filter(|(_, other)| is_own(other));
        // An attacker can make an honest neighbour doubtful: by filling its view with nodes that do not exist. So the
        // doubtful ones stay too, in addition to the others.
        let (mut doubtful, mut sure): (Vec<_>, Vec<_>) =
            own.partition(|(id, _)| self.trials.is_doubtful(**id));
        for (part, max) in [(&mut sure, self.max_outbound()), (&mut doubtful, MAX_DOUBTFUL)] {
            part.sort_by_key(|(_, neighbour)| neighbour.since);
            if has_groups {
                let mut groups = Vec::new();
                part.retain(|(_, neighbour)| {
                    let is_new = !groups.contains(&neighbour.group);
                    groups.push(neighbour.group);
                    is_new
                });
                part.truncate(max);
            }
        }
        sure.into_iter().chain(doubtful).map(|(id, _)| *id).collect()
    }

    /// Returns whether this node tells attackers by their groups: it knows nodes of several, and the application
    /// has not switched that off.
    fn has_groups(&self) -> bool {
        self.outbound_groups && self.book.knows_several_groups()
    }

    /// Returns the number of outbound neighbours that this node wants.
    fn max_outbound(&self) -> usize {
        // At least one place is left for newcomers.
        OUTBOUND.min(self.max_active.saturating_sub(1))
    }

    /// Returns whether this node lacks an outbound neighbour, apart from those that it is asking.
    fn lacks_outbound(&self) -> bool {
        let doubtful = self.doubtful();
        let outbound = self.outbound();
        let sure = outbound.iter().filter(|id| !doubtful.contains(id)).count();
        // Beyond the limit, doubtful neighbours count like others.
        let counted = sure + doubtful.len().saturating_sub(MAX_DOUBTFUL);
        counted + self.chosen_under_way() < self.max_outbound()
    }

    /// Returns whether this node has free places, apart from those that it is asking for.
    fn lacks_neighbours(&self) -> bool {
        let wanted = self.max_active + self.doubtful().len().min(MAX_DOUBTFUL);
        self.active.len() + self.chosen_under_way() < wanted
    }

    /// Returns the doubtful neighbours that this node has chosen itself.
    fn doubtful(&self) -> Vec<NodeId> {
        let is_doubtful = |(id, neighbour): &(&NodeId, &Neighbour)| {
            neighbour.origin.is_some() && self.trials.is_doubtful(**id)
        };
        self.active.iter().filter(is_doubtful).map(|(id, _)| *id).collect()
    }

    /// Returns the number of requests for a place at a node that was drawn.
    fn chosen_under_way(&self) -> usize {
        let asked = self.asked.values().map(|asked| asked.origin);
        let dialled = self.dials.values().map(|dial| dial.origin);
        asked.chain(dialled).filter(|origin| *origin == Origin::Chosen).count()
    }

    /// Draws a node of the address book to become an outbound neighbour. Returns `None` if this node has all its
    /// outbound neighbours, or if it knows no node of another group. If the drawn node is a neighbour already, it
    /// becomes an outbound one, whichever of the two nodes has dialled.
    pub(super) fn draw_outbound(&mut self, cx: &mut OverlayContext<'_>) -> Option<NodeId> {
        if !self.has_groups() || !self.lacks_outbound() {
            return None;
        }
        let taken = self.groups_of(&self.outbound());
        let (now, away) = (cx.now, cx.away);
        let drawn = self.book.draw_of_other_group(cx, &taken, |id| {
            let is_neighbour = self.active.contains_key(&id) && !self.trials.is_doubtful(id);
            is_neighbour || self.is_candidate(now, away, id)
        })?;
        let Some(neighbour) = self.active.get_mut(&drawn) else { return Some(drawn) };
        neighbour.origin = Some(Origin::Chosen);
        self.name_anchors(cx);
        None
    }

    /// Draws a node of the address book to become one neighbour more, of a group that no neighbour is of. Returns
    /// `None` if this node has all neighbours that it wants, or if it knows no such node.
    fn draw_further(&self, cx: &mut OverlayContext<'_>) -> Option<NodeId> {
        if !self.has_groups() || !self.lacks_neighbours() {
            return None;
        }
        let neighbours: Vec<_> = self.active.keys().copied().collect();
        let taken = self.groups_of(&neighbours);
        let (now, away) = (cx.now, cx.away);
        self.book.draw_of_other_group(cx, &taken, |id| self.is_candidate(now, away, id))
    }

    fn groups_of(&self, neighbours: &[NodeId]) -> Vec<Option<AddressGroup>> {
        let neighbours = neighbours.iter().filter_map(|id| self.active.get(id));
        neighbours.map(|neighbour| neighbour.group).collect()
    }

    /// Looks for an outbound neighbour if one is lacking, even if all places are taken. Otherwise looks for a
    /// further neighbour if there are free places, but only where no other node has to give way.
    pub(super) fn find_outbound(&mut self, cx: &mut OverlayContext<'_>) {
        let mut attempts = 0;
        if let Some(id) = self.draw_outbound(cx) {
            self.outbound_search.attempts = self.outbound_search.attempts.saturating_add(1);
            self.ask_to_be_outbound(cx, id);
            attempts = self.outbound_search.attempts;
        } else if !self.lacks_outbound() {
            self.outbound_search.attempts = 0;
            if let Some(id) = self.draw_further(cx) {
                let further = self.outbound_search.further_attempts.saturating_add(1);
                self.outbound_search.further_attempts = further;
                self.ask_or_dial(cx, id, self.addresses_of(id), Need::Chosen, Origin::Chosen);
                attempts = further;
            }
        } else {
            attempts = self.outbound_search.attempts;
        }
        // The cap on the shift only keeps it from overflowing.
        let doubled = attempts.saturating_sub(POLITE_ATTEMPTS).min(16);
        let wait = (MIN_WAIT * (1 << doubled)).min(MAX_WAIT);
        self.outbound_search.at = Some(cx.now + cx.around(wait));
    }

    /// Begins the trial of a neighbour that has granted a place, and has named the nodes of these records.
    pub(super) fn begin_trial(&mut self, by: NodeId, records: &[NodeRecord]) {
        let named = records.iter().map(|record| record.node);
        let exists = |id: &NodeId| self.active.contains_key(id) || self.book.is_tested(*id);
        let is_passed = named.clone().any(|id| exists(&id));
        let named = named.filter(|id| *id != self.me && !exists(id)).collect();
        self.trials.begin(by, named, is_passed, |id| self.active.contains_key(&id));
    }

    /// Asks a node of the address book for a place, to make it an outbound neighbour.
    pub(super) fn ask_to_be_outbound(&mut self, cx: &mut OverlayContext<'_>, id: NodeId) {
        let insists = self.outbound_search.attempts > POLITE_ATTEMPTS;
        let need = if insists { Need::High } else { Need::Chosen };
        let addresses = self.addresses_of(id);
        self.ask_or_dial(cx, id, addresses, need, Origin::Chosen);
    }

    /// Names the anchors to the shell, if they have changed.
    pub(super) fn name_anchors(&mut self, cx: &mut OverlayContext<'_>) {
        let mut anchors = self.outbound();
        // A neighbour that is lost stays an anchor until another one takes its place. So the anchors are still
        // there after this node has left the network at its stop.
        let earlier = self.outbound_search.anchors.iter();
        let earlier: Vec<_> = earlier.filter(|id| !anchors.contains(id)).copied().collect();
        anchors.extend(earlier);
        anchors.truncate(ANCHORS);
        if anchors != self.outbound_search.anchors {
            self.outbound_search.anchors.clone_from(&anchors);
            cx.put(Effect::Out(Output::Anchors(anchors)));
        }
    }

    /// Notes that a new broadcast has arrived from a node first.
    pub(in crate::overlay) fn note_useful(&mut self, now: Instant, id: NodeId) {
        if let Some(neighbour) = self.active.get_mut(&id) {
            neighbour.useful_at = Some(now);
        }
    }

    /// Returns whether a full node takes the node `newcomer` as a guest, so that no neighbour has to give way.
    pub(super) fn has_room_for_guest(&self, newcomer: NodeId) -> bool {
        if !self.has_room_for_outbound() {
            return false;
        }
        let outbound = self.outbound();
        let group = self.group_of_link(newcomer);
        // A second node of a group does not become a guest, but displaces the first.
        let is_of_other_group =
            |neighbour: &Neighbour| neighbour.group.is_none() || neighbour.group != group;
        let mut others = self.active.iter().filter(|(id, _)| !outbound.contains(id));
        others.all(|(_, other)| is_of_other_group(other))
    }

    /// Returns whether a full node takes an outbound neighbour in addition to the others.
    pub(super) fn has_room_for_outbound(&self) -> bool {
        self.outbound_groups && self.active.len() < self.max_active + GUESTS
    }

    /// Returns whether all neighbours are settled. While nodes join, they are not.
    pub(super) fn are_settled(&self, now: Instant) -> bool {
        self.active.values().all(|neighbour| now.since(neighbour.since) >= SETTLED)
    }

    /// Chooses the neighbour that gives way to the node `newcomer`.
    ///
    /// If `outbound_groups` is off, outbound neighbours stay, and most of those that have been neighbours for long.
    /// Of the others a random one gives way, which keeps the links mixed. Otherwise an attacker competes with itself
    /// first, as in Bitcoin Core:
    /// 1. Outbound neighbours stay. Only if there are no others, the newest of them gives way, so that there is
    ///    always one place for newcomers.
    /// 2. The newest neighbour of the newcomer's own group gives way.
    /// 3. Otherwise the neighbour that was useful last stays, and most of those that have been neighbours for
    ///    long. Of the others a random one gives way that is not settled. If there is none, the newest does.
    pub(super) fn choose_victim(
        &self,
        cx: &mut OverlayContext<'_>,
        newcomer: NodeId,
    ) -> Option<NodeId> {
        let outbound = self.outbound();
        let others = self.active.iter().filter(|(id, _)| **id != newcomer);
        let (outbound, mut others): (Vec<_>, Vec<_>) =
            others.partition(|(id, _)| outbound.contains(id));
        let newest = |of: &[(&NodeId, &Neighbour)]| {
            of.iter().max_by_key(|(_, neighbour)| neighbour.since).map(|(id, _)| **id)
        };
        if others.is_empty() {
            return newest(&outbound);
        }
        others.sort_by_key(|(_, neighbour)| neighbour.since);
        if !self.outbound_groups {
            let stay = long_standing_that_stay(cx.now, &others);
            return cx.pick(others.iter().skip(stay).map(|(id, _)| **id).collect());
        }
        if let Some(group) = self.group_of_link(newcomer) {
            let of_group = others.iter().filter(|(_, neighbour)| neighbour.group == Some(group));
            let of_group: Vec<_> = of_group.copied().collect();
            if !of_group.is_empty() {
                return newest(&of_group);
            }
        }
        let is_useful = |neighbour: &Neighbour| {
            neighbour.useful_at.is_some_and(|at| cx.now.since(at) < USEFUL_TIME)
        };
        others.sort_by_key(|(_, neighbour)| std::cmp::Reverse(neighbour.useful_at));
        let useful = others.iter().take(USEFUL).filter(|(_, neighbour)| is_useful(neighbour));
        // At least one neighbour that is not an outbound one can give way.
        let useful = useful.count().min(others.len().saturating_sub(1));
        others.drain(..useful);
        others.sort_by_key(|(_, neighbour)| neighbour.since);
        others.drain(..long_standing_that_stay(cx.now, &others));
        let is_young = |neighbour: &Neighbour| cx.now.since(neighbour.since) < SETTLED;
        let young = others.iter().filter(|(_, neighbour)| is_young(neighbour));
        let young = young.map(|(id, _)| **id).collect();
        cx.pick(young).or_else(|| newest(&others))
    }

    /// Returns the group of the IP address at the other end of a link.
    pub(super) fn group_of_link(&self, id: NodeId) -> Option<AddressGroup> {
        self.link_ips.get(&id).and_then(|ip| self.address_groups.group(*ip))
    }
}

/// Returns the number of neighbours that stay because they have been neighbours for long. The `others` are in the
/// order in which they became neighbours. At least one of them can give way.
fn long_standing_that_stay(now: Instant, others: &[(&NodeId, &Neighbour)]) -> usize {
    let is_long_standing = |neighbour: &Neighbour| now.since(neighbour.since) >= LONG_STANDING;
    let long_standing = others.iter().filter(|(_, neighbour)| is_long_standing(neighbour));
    let stay = long_standing.count().min(others.len().div_ceil(2));
    stay.min(others.len().saturating_sub(1))
}
