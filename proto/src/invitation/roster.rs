//! The roster: the members that a node knows of, and the revocations.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::{
    Certificate, EXTRA_RECORDS, MAX_MEMBERS, MAX_REVOCATIONS, MembershipError, MembershipProof,
    Revocation,
};
use crate::id::{Hash, Key, NodeId};
use crate::verify::Verifier;

/// The members and revocations that a node knows of, in a network whose owner invites. See the
/// [module](super) for the rules.
#[derive(Debug)]
pub struct Roster {
    network: String,
    owner: NodeId,
    verifier: Verifier,
    /// The best known proof of each node, also of revoked nodes, because their proofs count as uses.
    records: BTreeMap<NodeId, MembershipProof>,
    revocations: BTreeMap<NodeId, Revocation>,
}

/// The outcome of adding a record or a revocation of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It is new, and has to be passed on.
    New,
    /// It is known, has expired, or is beyond a limit.
    Ignored,
    /// It is invalid, which is a fault of the node that has sent it.
    Invalid(MembershipError),
}

/// The reason why the owner can't revoke anything more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "nothing was revoked: {} revocations of the last year are in force, as many as there can be",
    MAX_REVOCATIONS / 2
)]
pub struct TooManyRevocations;

impl Roster {
    /// Returns the empty roster of a network.
    #[must_use]
    pub fn new(network: String, owner: NodeId) -> Self {
        Self {
            network,
            owner,
            verifier: Verifier::default(),
            records: BTreeMap::new(),
            revocations: BTreeMap::new(),
        }
    }

    /// Sets the verifier that checks all further signatures.
    pub fn verify_with(&mut self, verifier: Verifier) {
        self.verifier = verifier;
    }

    /// Returns the network's owner.
    #[must_use]
    pub fn owner(&self) -> NodeId {
        self.owner
    }

    /// Returns the proofs of all nodes that were admitted and whose proofs have not expired, also of revoked
    /// nodes.
    pub fn records(&self) -> impl Iterator<Item = &MembershipProof> {
        self.records.values()
    }

    /// Returns the proofs of the present members.
    pub fn members(&self) -> impl Iterator<Item = &MembershipProof> {
        self.records.values().filter(|proof| !self.is_revoked(proof))
    }

    /// Returns the revocations, in the order of the revoked identities.
    pub fn revocations(&self) -> impl Iterator<Item = &Revocation> {
        self.revocations.values()
    }

    /// Returns the best known proof of a node, which may be revoked.
    #[must_use]
    pub fn record(&self, id: NodeId) -> Option<&MembershipProof> {
        self.records.get(&id)
    }

    /// Returns whether the node was revoked, or came by an invitation that was revoked.
    #[must_use]
    pub fn is_revoked(&self, proof: &MembershipProof) -> bool {
        [proof.member(), proof.invitation()].iter().any(|id| self.has_revoked(*id))
    }

    /// Returns whether a node or an invitation was revoked.
    #[must_use]
    pub fn has_revoked(&self, id: NodeId) -> bool {
        self.revocations.contains_key(&id)
    }

    /// Checks whether a node is known as a member at the moment.
    ///
    /// # Errors
    /// The reason why it is not.
    pub fn check_known(&self, id: NodeId, now: u64) -> Result<(), MembershipError> {
        if self.has_revoked(id) {
            return Err(MembershipError::Revoked);
        }
        match self.records.get(&id) {
            Some(proof) if self.is_revoked(proof) => Err(MembershipError::Revoked),
            Some(proof) if proof.expires() <= now => Err(MembershipError::Expired),
            Some(proof) if self.lost_its_place(proof) => Err(MembershipError::UsedUp),
            Some(_) => Ok(()),
            None => Err(MembershipError::Missing),
        }
    }

    /// Checks the proof that a node has shown for itself, and adds it to the roster. Returns whether it is
    /// new, so that it has to be passed on.
    ///
    /// # Errors
    /// The reason for refusing the node.
    pub fn admit(
        &mut self,
        node: NodeId,
        proof: Option<&MembershipProof>,
        now: u64,
    ) -> Result<bool, MembershipError> {
        let proof = proof.ok_or(MembershipError::Missing)?;
        if proof.member() != node {
            return Err(MembershipError::OtherNode);
        }
        if self.is_revoked(proof) {
            return Err(MembershipError::Revoked);
        }
        // A member may show an older proof than its best one: it does not have its certificate yet.
        if !self.supersedes(proof) && self.check_known(node, now).is_ok() {
            return Ok(false);
        }
        // The signatures are checked last, because they cost most.
        if let MembershipProof::Invitation(accepted) = proof {
            let uses = usize::try_from(accepted.invitation.uses).unwrap_or(usize::MAX);
            let others = self.of_invitation(accepted.invitation.id);
            let others = others.filter(|other| other.member() != node).count();
            // A forged proof may name any number of uses. Then another error is returned below.
            if others >= uses && proof.check(&self.verifier, &self.network, self.owner, now).is_ok()
            {
                return Err(MembershipError::UsedUp);
            }
        }
        proof.check(&self.verifier, &self.network, self.owner, now)?;
        if self.is_full_for(proof) {
            return Err(MembershipError::Full);
        }
        self.records.insert(node, proof.clone());
        self.check_known(node, now)?;
        Ok(true)
    }

    /// Adds a record that another member has passed on.
    pub fn add(&mut self, proof: &MembershipProof, now: u64) -> Added {
        if !self.supersedes(proof) || proof.expires() <= now {
            return Added::Ignored;
        }
        if let MembershipProof::Invitation(accepted) = proof {
            let uses = usize::try_from(accepted.invitation.uses).unwrap_or(usize::MAX);
            let limit = uses.saturating_add(EXTRA_RECORDS);
            if self.of_invitation(accepted.invitation.id).count() >= limit {
                return Added::Ignored;
            }
        }
        if let Err(error) = proof.check(&self.verifier, &self.network, self.owner, now) {
            return Added::Invalid(error);
        }
        if self.is_full_for(proof) {
            return Added::Ignored;
        }
        self.records.insert(proof.member(), proof.clone());
        Added::New
    }

    /// Adds a revocation that another member has passed on.
    pub fn add_revocation(&mut self, revocation: &Revocation, now: u64) -> Added {
        if self.has_revoked(revocation.revoked) || revocation.is_over(now) {
            return Added::Ignored;
        }
        if revocation.owner != self.owner {
            return Added::Invalid(MembershipError::OtherOwner);
        }
        if !revocation.is_valid(&self.verifier, &self.network) {
            return Added::Invalid(MembershipError::Forged);
        }
        // The owner makes at most half as many.
        if self.revocations.len() >= MAX_REVOCATIONS {
            return Added::Ignored;
        }
        self.revocations.insert(revocation.revoked, revocation.clone());
        Added::New
    }

    /// Signs and adds a revocation with the owner's key. Returns `None` if it is revoked already.
    ///
    /// # Errors
    /// [`TooManyRevocations`] if no more revocations can be made.
    pub fn revoke(
        &mut self,
        owner: &Key,
        revoked: NodeId,
        now: u64,
    ) -> Result<Option<Revocation>, TooManyRevocations> {
        if self.has_revoked(revoked) {
            return Ok(None);
        }
        if self.revocations.len() >= MAX_REVOCATIONS / 2 {
            return Err(TooManyRevocations);
        }
        let revocation = Revocation::sign(owner, &self.network, revoked, now);
        self.revocations.insert(revoked, revocation.clone());
        Ok(Some(revocation))
    }

    /// Signs the certificates that are due: for admitted nodes as far as their invitations have uses, and for
    /// members whose certificate is in its second half. Adds and returns them.
    ///
    /// `serial` returns a random number for each.
    pub fn certify(
        &mut self,
        owner: &Key,
        now: u64,
        mut serial: impl FnMut() -> u64,
    ) -> Vec<MembershipProof> {
        let mut made = Vec::new();
        let due: Vec<_> = self.members().filter(|proof| self.is_due(proof, now)).cloned().collect();
        for proof in due {
            // Checked for each, because the certificates before it count.
            if proof.expires() <= now || self.lost_its_place(&proof) {
                continue;
            }
            let by = (proof.inviter(), proof.invitation());
            let certificate =
                Certificate::sign(owner, &self.network, proof.member(), by, (now, serial()));
            let proof = MembershipProof::Certificate(certificate);
            self.records.insert(proof.member(), proof.clone());
            made.push(proof);
        }
        made
    }

    /// Forgets everything that has expired. Returns the nodes, and the revoked identities.
    pub fn forget_expired(&mut self, now: u64) -> (Vec<NodeId>, Vec<NodeId>) {
        let records = self.records.extract_if(.., |_, proof| proof.expires() <= now);
        let records = records.map(|(id, _)| id).collect();
        let over = self.revocations.extract_if(.., |_, revocation| revocation.is_over(now));
        (records, over.map(|(revoked, _)| revoked).collect())
    }

    /// Returns a hash over everything in the roster. Two rosters with the same content have the same hash.
    #[must_use]
    pub fn digest(&self) -> Hash {
        let mut out = Vec::new();
        for revocation in self.revocations.values() {
            revocation.encode(&mut out);
        }
        for proof in self.records.values() {
            proof.encode(&mut out);
        }
        Hash::of(&out)
    }

    /// Returns up to `max` revocations after the revoked identity `after`, in order.
    #[must_use]
    pub fn revocations_after(&self, after: Option<NodeId>, max: usize) -> Vec<Revocation> {
        entries_after(&self.revocations, after, max)
    }

    /// Returns up to `max` records after the node `after`, in the order of their nodes.
    #[must_use]
    pub fn records_after(&self, after: Option<NodeId>, max: usize) -> Vec<MembershipProof> {
        entries_after(&self.records, after, max)
    }

    /// Returns whether a proof takes the place of the known record of its node, if there is one.
    fn supersedes(&self, proof: &MembershipProof) -> bool {
        let Some(known) = self.records.get(&proof.member()) else { return true };
        match (self.is_revoked(known), self.is_revoked(proof)) {
            // The node has come back with another invitation, as its first one was revoked.
            (true, false) => true,
            (false, true) => false,
            _ => proof.replaces(known),
        }
    }

    fn is_due(&self, proof: &MembershipProof, now: u64) -> bool {
        let life = proof.expires().saturating_sub(proof.issued());
        let left = proof.expires().saturating_sub(now);
        !proof.is_certificate() || left < life / 2
    }

    fn of_invitation(&self, invitation: NodeId) -> impl Iterator<Item = &MembershipProof> {
        self.records.values().filter(move |proof| proof.invitation() == invitation)
    }

    /// Returns whether a node without a certificate can't get one any more, because the owner has certified
    /// as many nodes as its invitation has uses.
    fn lost_its_place(&self, proof: &MembershipProof) -> bool {
        let MembershipProof::Invitation(accepted) = proof else { return false };
        let others = self.of_invitation(accepted.invitation.id);
        let certified = others.filter(|other| other.is_certificate()).count();
        certified >= usize::try_from(accepted.invitation.uses).unwrap_or(usize::MAX)
    }

    fn is_full_for(&self, proof: &MembershipProof) -> bool {
        self.records.len() >= MAX_MEMBERS && !self.records.contains_key(&proof.member())
    }
}

/// Returns up to `max` values after the key `after`, in the order of the keys.
fn entries_after<T: Clone>(of: &BTreeMap<NodeId, T>, after: Option<NodeId>, max: usize) -> Vec<T> {
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    of.range((start, Bound::Unbounded)).take(max).map(|(_, value)| value.clone()).collect()
}
