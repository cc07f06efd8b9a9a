//! The members of a network whose owner invites: checks newcomers, and spreads records and revocations.
//!
//! A new record or revocation goes to all peers at once. When two nodes link, each sends a hash over its
//! roster. If the hashes differ, each sends the other its whole roster, page by page, so that both have
//! everything that either had. The rules are in [`crate::invitation`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::event::Reason;
use crate::frame::{Frame, MAX_RECORDS};
use crate::id::{Hash, Key, NodeId};
use crate::invitation::roster::{Added, Roster};
use crate::invitation::{MembershipError, MembershipProof, Revocation};
use crate::overlay::budgets::Work;
use crate::overlay::{Effect, Overlay, OverlayContext};
use crate::peer::Output;
use crate::time::{Instant, earliest};
use crate::verify::Verifier;

/// Interval between two pages of a roster to one peer. 50 ms: a full roster takes 6 s, and a peer that reads
/// at all does not fall behind with pages of 22 KB.
const PAGE_EVERY: Duration = Duration::from_millis(50);

/// Interval at which expired records are dropped and certificates are renewed. A minute, as memberships last
/// for days.
const CHECK_EVERY: Duration = Duration::from_secs(60);

/// The membership of a node in a network whose owner invites, with which its machine starts.
#[derive(Debug)]
pub struct MembershipState {
    /// The node's own proof.
    pub own: MembershipProof,
    /// The owner's key, if the node holds it. It then issues certificates.
    pub owner_key: Option<Key>,
    /// Records that an earlier run has kept.
    pub records: Vec<MembershipProof>,
    /// Revocations that an earlier run has kept.
    pub revocations: Vec<Revocation>,
}

/// A change of the roster, for the state on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RosterChange {
    /// A node has this proof now. If it is the node itself, its next Hello needs the proof.
    Member(Box<MembershipProof>),
    /// A revocation has arrived. Streams with the revoked nodes have to end.
    Revoked(Revocation),
    /// The records of these nodes and the revocations of these identities have expired.
    Expired(Vec<NodeId>, Vec<NodeId>),
}

/// The members of the network, if its owner invites.
#[derive(Debug)]
pub(super) struct Members {
    network: String,
    verifier: Verifier,
    known: Option<KnownMembers>,
}

#[derive(Debug)]
struct KnownMembers {
    roster: Roster,
    owner_key: Option<Key>,
    /// Peers whose digest has arrived. Only the first of each link counts, so that a peer can't make this node
    /// send its roster again and again.
    compared: BTreeSet<NodeId>,
    /// Peers that get the roster, each with the last entries that it got.
    sending: BTreeMap<NodeId, RosterPage>,
    page_at: Option<Instant>,
    check_at: Instant,
}

/// The place in a roster up to which it was sent.
#[derive(Debug, Clone, Copy)]
enum RosterPage {
    Revocations(Option<NodeId>),
    Records(Option<NodeId>),
}

impl Overlay {
    /// Checks whether a node that wants a link or a stream belongs to the network, if the network takes
    /// invited nodes only. A new member is made known to all peers.
    ///
    /// # Errors
    /// The reason for refusing the node.
    pub(crate) fn check_membership(
        &mut self,
        id: NodeId,
        proof: Option<&MembershipProof>,
    ) -> Result<(), Reason> {
        self.with_parts(|parts, cx| parts.members.admit(cx, id, proof))
    }

    /// Checks that a node that this one dials was not revoked.
    ///
    /// # Errors
    /// [`Reason::NotAMember`].
    pub fn check_dial(&self, id: NodeId) -> Result<(), Reason> {
        self.parts.members.check_dial(id)
    }

    /// Returns the roster of the network, if it takes invited nodes only.
    #[must_use]
    pub fn roster(&self) -> Option<&Roster> {
        self.parts.members.roster()
    }
}

impl Members {
    pub(super) fn new(network: String) -> Self {
        Self { network, verifier: Verifier::default(), known: None }
    }

    pub(super) fn verify_with(&mut self, verifier: Verifier) {
        if let Some(known) = &mut self.known {
            known.roster.verify_with(verifier.clone());
        }
        self.verifier = verifier;
    }

    pub(super) fn roster(&self) -> Option<&Roster> {
        self.known.as_ref().map(|known| &known.roster)
    }

    /// Sets the membership of this node. From then on each peer needs a proof.
    pub(super) fn start(&mut self, cx: &mut OverlayContext<'_>, state: MembershipState) {
        let MembershipState { own, owner_key, records, revocations } = state;
        let mut roster = Roster::new(self.network.clone(), own.owner());
        roster.verify_with(self.verifier.clone());
        for revocation in revocations {
            roster.add_revocation(&revocation, cx.unix);
        }
        for record in &records {
            roster.add(record, cx.unix);
        }
        if roster.add(&own, cx.unix) == Added::New {
            put_change(cx, RosterChange::Member(Box::new(own)));
        }
        let mut known = KnownMembers {
            roster,
            owner_key,
            compared: BTreeSet::new(),
            sending: BTreeMap::new(),
            page_at: None,
            check_at: cx.now + CHECK_EVERY,
        };
        known.certify(cx);
        self.known = Some(known);
    }

    /// Checks the proof of a node that wants a link or a stream. A new proof is passed on.
    pub(super) fn admit(
        &mut self,
        cx: &mut OverlayContext<'_>,
        node: NodeId,
        proof: Option<&MembershipProof>,
    ) -> Result<(), Reason> {
        let Some(known) = &mut self.known else { return Ok(()) };
        if known.roster.admit(node, proof, cx.unix).map_err(Reason::NotAMember)?
            && let Some(proof) = proof
        {
            known.pass_on_record(cx, proof.clone(), Some(node));
            known.certify(cx);
        }
        Ok(())
    }

    /// Checks that a node that this one dials was not revoked.
    pub(super) fn check_dial(&self, node: NodeId) -> Result<(), Reason> {
        let Some(known) = &self.known else { return Ok(()) };
        let record = known.roster.record(node);
        let is_revoked = known.roster.has_revoked(node)
            || record.is_some_and(|record| known.roster.is_revoked(record));
        if is_revoked { Err(Reason::NotAMember(MembershipError::Revoked)) } else { Ok(()) }
    }

    /// Sends a new peer the digest of the roster.
    pub(super) fn link_up(&mut self, cx: &mut OverlayContext<'_>, peer: NodeId) {
        if let Some(known) = &mut self.known {
            cx.send(peer, Frame::RosterDigest(known.roster.digest()));
        }
    }

    pub(super) fn link_down(&mut self, peer: NodeId) {
        if let Some(known) = &mut self.known {
            known.compared.remove(&peer);
            known.sending.remove(&peer);
        }
    }

    /// Handles a digest, records or revocations of a peer.
    pub(super) fn receive(&mut self, cx: &mut OverlayContext<'_>, from: NodeId, frame: Frame) {
        let Some(known) = &mut self.known else { return };
        match frame {
            Frame::RosterDigest(digest) => known.compare(cx, from, digest),
            Frame::Members(mut proofs) => {
                // What this node has already costs only a comparison. Other entries are charged before their
                // signatures are checked, as each new one is passed on to the whole network.
                proofs.retain(|proof| known.roster.record(proof.member()) != Some(proof));
                if !cx.allows(from, Work::Roster, proofs.len()) {
                    return;
                }
                for proof in proofs {
                    match known.roster.add(&proof, cx.unix) {
                        Added::New => known.pass_on_record(cx, proof, Some(from)),
                        Added::Ignored => {}
                        Added::Invalid(error) => return end_for_fault(cx, from, error),
                    }
                }
                known.certify(cx);
                known.end_links(cx);
            }
            Frame::Revocations(mut revocations) => {
                revocations.retain(|new| !known.roster.has_revoked(new.revoked));
                if !cx.allows(from, Work::Roster, revocations.len()) {
                    return;
                }
                for revocation in revocations {
                    match known.roster.add_revocation(&revocation, cx.unix) {
                        Added::New => known.pass_on_revocation(cx, revocation, Some(from)),
                        Added::Ignored => {}
                        Added::Invalid(error) => return end_for_fault(cx, from, error),
                    }
                }
                known.end_links(cx);
            }
            _ => {}
        }
    }

    /// Revokes a node or an invitation with the owner's key, unless too many revocations are in force.
    pub(super) fn revoke(&mut self, cx: &mut OverlayContext<'_>, owner: &Key, revoked: NodeId) {
        let Some(known) = &mut self.known else { return };
        if let Ok(Some(revocation)) = known.roster.revoke(owner, revoked, cx.unix) {
            known.pass_on_revocation(cx, revocation, None);
            known.end_links(cx);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let known = self.known.as_ref()?;
        earliest(Some(known.check_at), known.page_at)
    }

    pub(super) fn handle_timeout(&mut self, cx: &mut OverlayContext<'_>) {
        let Some(known) = &mut self.known else { return };
        if known.page_at.is_some_and(|due| due <= cx.now) {
            known.send_pages(cx);
        }
        if known.check_at <= cx.now {
            known.check_at = cx.now + CHECK_EVERY;
            known.certify(cx);
            // Before the records are forgotten, as a link with a node without a record ends for another reason.
            known.end_links(cx);
            let (records, revocations) = known.roster.forget_expired(cx.unix);
            if !records.is_empty() || !revocations.is_empty() {
                put_change(cx, RosterChange::Expired(records, revocations));
            }
        }
    }
}

impl KnownMembers {
    fn compare(&mut self, cx: &mut OverlayContext<'_>, peer: NodeId, digest: Hash) {
        if self.compared.insert(peer) && digest != self.roster.digest() {
            // Revocations first: they are few, and matter most.
            self.sending.insert(peer, RosterPage::Revocations(None));
            self.send_pages(cx);
        }
    }

    /// Sends the next page to each peer that gets the roster.
    fn send_pages(&mut self, cx: &mut OverlayContext<'_>) {
        let roster = &self.roster;
        self.sending.retain(|peer, page| {
            match *page {
                RosterPage::Revocations(after) => {
                    let revocations = roster.revocations_after(after, MAX_RECORDS);
                    *page = match revocations.last() {
                        Some(last) => RosterPage::Revocations(Some(last.revoked)),
                        None => RosterPage::Records(None),
                    };
                    if !revocations.is_empty() {
                        cx.send(*peer, Frame::Revocations(revocations));
                    }
                }
                RosterPage::Records(after) => {
                    let records = roster.records_after(after, MAX_RECORDS);
                    let Some(last) = records.last() else { return false };
                    *page = RosterPage::Records(Some(last.member()));
                    cx.send(*peer, Frame::Members(records));
                }
            }
            true
        });
        self.page_at = (!self.sending.is_empty()).then(|| cx.now + PAGE_EVERY);
    }

    /// Issues the certificates that are due, if this node holds the owner's key.
    fn certify(&mut self, cx: &mut OverlayContext<'_>) {
        let Some(key) = &self.owner_key else { return };
        for proof in self.roster.certify(key, cx.unix, || cx.rng_u64()) {
            self.pass_on_record(cx, proof, None);
        }
    }

    fn pass_on_record(
        &self,
        cx: &mut OverlayContext<'_>,
        proof: MembershipProof,
        from: Option<NodeId>,
    ) {
        for peer in cx.links.keys().filter(|peer| Some(**peer) != from) {
            cx.out.push_back(Effect::Send(*peer, Frame::Members(vec![proof.clone()])));
        }
        put_change(cx, RosterChange::Member(Box::new(proof)));
    }

    fn pass_on_revocation(
        &self,
        cx: &mut OverlayContext<'_>,
        revocation: Revocation,
        from: Option<NodeId>,
    ) {
        for peer in cx.links.keys().filter(|peer| Some(**peer) != from) {
            cx.out.push_back(Effect::Send(*peer, Frame::Revocations(vec![revocation.clone()])));
        }
        put_change(cx, RosterChange::Revoked(revocation));
    }

    /// Ends the links with nodes that are not members any more.
    fn end_links(&self, cx: &mut OverlayContext<'_>) {
        for peer in cx.links.keys() {
            if let Err(error) = self.roster.check_known(*peer, cx.unix) {
                cx.out.push_back(Effect::CloseLink(*peer, Reason::NotAMember(error)));
            }
        }
    }
}

fn put_change(cx: &mut OverlayContext<'_>, change: RosterChange) {
    cx.put(Effect::Out(Output::RosterChanged(change)));
}

fn end_for_fault(cx: &mut OverlayContext<'_>, from: NodeId, error: MembershipError) {
    let reason = Reason::Fault(format!("a wrong record of the network's members: {error}"));
    cx.put(Effect::CloseLink(from, reason));
}
