//! The members of a network whose owner invites: listing, inviting and revoking them.

use std::time::Duration;

use peerkit_proto::id::NodeId;
use peerkit_proto::invitation::link::MAX_INVITE_ADDRESSES;
use peerkit_proto::invitation::{
    Invitation, InvitationTerms, Invite, MAX_INVITATION_LIFE, MAX_REVOCATIONS, MAX_USES,
    MembershipProof, Roster,
};
use peerkit_proto::peer::Command;

use super::network::NetworkHandle;
use crate::clock::unix_millis;
use crate::error::Error;
use crate::key;
use crate::membership::InvitationError;

/// A member of a network whose owner invites.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// The node.
    pub id: NodeId,
    /// The name that the node gives itself, as far as this node knows.
    pub name: Option<String>,
    /// The node at which it was invited. The owner's own nodes have themselves here.
    pub invited_by: NodeId,
    /// The invitation by which it came; `None` for the owner's own nodes.
    pub invitation: Option<NodeId>,
    /// The owner's node knows of the member and has issued its certificate.
    pub certified: bool,
    /// The time at which its proof expires, in milliseconds since 1970. A certificate is renewed before.
    pub expires: u64,
}

impl NetworkHandle<'_> {
    /// Returns whether the network takes invited nodes only.
    #[must_use]
    pub fn is_invite_only(self) -> bool {
        self.node.inner.membership.is_needed()
    }

    /// Makes an invitation to the network, as its owner. `uses` nodes can become members by it within the time
    /// `valid`. Pass the text of the [`Invite`] on like a password.
    ///
    /// # Errors
    /// [`Error::Invitation`] if the network takes everyone, this node does not have the owner's key, or the
    /// terms are out of range.
    pub fn invite(self, valid: Duration, uses: u32) -> Result<Invite, Error> {
        let inner = &self.node.inner;
        if !self.is_invite_only() {
            return Err(InvitationError::OpenNetwork.into());
        }
        let owner = inner.profile.owner_key.as_ref().ok_or(InvitationError::NoOwnerKey)?;
        let valid = u64::try_from(valid.as_millis()).unwrap_or(u64::MAX);
        if !(1..=MAX_INVITATION_LIFE).contains(&valid) || !(1..=MAX_USES).contains(&uses) {
            return Err(InvitationError::Terms.into());
        }
        let (key, network) = (key::generate()?, inner.profile.network.clone());
        let issued = unix_millis();
        let expires = issued.saturating_add(valid);
        let terms = InvitationTerms { inviter: inner.profile.id, issued, expires, uses };
        let addresses = self.node.addresses().into_iter().take(MAX_INVITE_ADDRESSES);
        Ok(Invite {
            invitation: Invitation::sign(owner, &network, key.id(), terms),
            key,
            network,
            secret: inner.profile.secret.clone(),
            addresses: addresses.collect(),
        })
    }

    /// Returns the members of the network that this node knows of, by identity.
    ///
    /// # Errors
    /// [`Error::Invitation`] if the network takes everyone.
    pub async fn members(self) -> Result<Vec<Member>, Error> {
        let roster = |roster: &Roster| roster.members().cloned().collect::<Vec<_>>();
        let proofs = self.node.inner.actor.call(move |actor| actor.overlay().roster().map(roster));
        let proofs = proofs.await?.ok_or(InvitationError::OpenNetwork)?;
        let known = self.node.inner.peers.all().await?;
        let own = &self.node.inner.profile;
        let name = |id: NodeId| {
            if id == own.id {
                return Some(own.name.clone());
            }
            let linked = self.node.inner.links.get(id).ok().map(|conn| conn.peer.name().to_owned());
            let known = known.iter().find(|(known, _)| *known == id);
            linked.or_else(|| known.map(|(_, known)| known.name.clone()))
        };
        let member = |proof: &MembershipProof| Member {
            id: proof.member(),
            name: name(proof.member()).filter(|name| !name.is_empty()),
            invited_by: proof.inviter(),
            invitation: Some(proof.invitation()).filter(|id| *id != proof.owner()),
            certified: proof.is_certificate(),
            expires: proof.expires(),
        };
        Ok(proofs.iter().map(member).collect())
    }

    /// Revokes a member, or an invitation with every member that came by it, as the network's owner. All
    /// members end their links with the revoked nodes when they learn of it. A revocation is final. Returns
    /// false if it was made before.
    ///
    /// # Errors
    /// [`Error::Invitation`] if the network takes everyone, this node does not have the owner's key, the
    /// identity is the owner's, or too many revocations are in force.
    pub async fn revoke(self, id: NodeId) -> Result<bool, Error> {
        let inner = &self.node.inner;
        let key = inner.profile.owner_key.clone();
        let revoked = inner.actor.call(move |actor| {
            let roster = actor.overlay().roster().ok_or(InvitationError::OpenNetwork)?;
            let key = key.ok_or(InvitationError::NoOwnerKey)?;
            if id == roster.owner() {
                return Err(InvitationError::Owner);
            }
            if roster.has_revoked(id) {
                return Ok(false);
            }
            if roster.revocations().count() >= MAX_REVOCATIONS / 2 {
                return Err(peerkit_proto::invitation::roster::TooManyRevocations.into());
            }
            actor.command(Command::Revoke(key, id));
            Ok(true)
        });
        Ok(revoked.await??)
    }
}
