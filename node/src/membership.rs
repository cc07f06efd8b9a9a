//! The membership of this node in a network whose owner invites: how it begins, and the roster on disk.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use peerkit_proto::event::Reason;
use peerkit_proto::id::{Key, NodeId};
use peerkit_proto::invitation::roster::TooManyRevocations;
use peerkit_proto::invitation::{
    Certificate, Invite, MAX_USES, MembershipError, MembershipProof, Roster,
};
use peerkit_proto::overlay::members::{MembershipState, RosterChange};
use tokio::sync::watch;

use crate::blocking;
use crate::clock::unix_millis;
use crate::error::Error;
use crate::inner::Inner;
use crate::lock::lock;
use crate::store::Store;

/// An error of invitations and memberships. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvitationError {
    /// The invite is for another network than the one that was given.
    #[error("the invite is for network `{invite}`, not for `{given}`")]
    OtherNetwork {
        /// The network of the invite.
        invite: String,
        /// The network that was given.
        given: String,
    },
    /// The invite is from another owner than the one that was given or is known.
    #[error("the invite is from another owner than this network's: {0}")]
    OtherOwner(NodeId),
    /// The invite can't make this node a member.
    #[error("this node can't become a member: {0}")]
    NotAMember(MembershipError),
    /// The network takes everyone.
    #[error("this network takes everyone: it has no members by invitation")]
    OpenNetwork,
    /// Only a node with the owner's key can found a network for invited nodes, invite and revoke.
    #[error("only a node with the key of the network's owner can do that")]
    NoOwnerKey,
    /// The terms of an invitation are out of range.
    #[error("an invitation is for 1 to {MAX_USES} nodes, and for at most 90 days")]
    Terms,
    /// The identity is that of the network's owner, who can't be revoked.
    #[error("the network's owner can't be revoked")]
    Owner,
    /// Too many revocations are in force.
    #[error(transparent)]
    TooManyRevocations(#[from] TooManyRevocations),
}

/// The settings of the builder that concern membership.
#[derive(Debug, Default)]
pub(crate) struct MembershipSettings {
    pub(crate) invite: Option<Invite>,
    pub(crate) invite_only: bool,
}

impl MembershipSettings {
    /// Checks that the invite belongs to the network and the owner that were given.
    pub(crate) fn check(
        &self,
        network: Option<&str>,
        owner: Option<NodeId>,
    ) -> Result<(), InvitationError> {
        let Some(invite) = &self.invite else { return Ok(()) };
        if let Some(given) = network.filter(|given| *given != invite.network) {
            let (invite, given) = (invite.network.clone(), given.to_owned());
            return Err(InvitationError::OtherNetwork { invite, given });
        }
        match owner.filter(|owner| *owner != invite.owner()) {
            Some(_) => Err(InvitationError::OtherOwner(invite.owner())),
            None => Ok(()),
        }
    }

    /// Returns the membership with which the node starts; `None` if its network takes everyone. A node that
    /// was a member in an earlier run still is one.
    pub(crate) async fn load(
        self,
        (store, network): (&Store, &str),
        (id, owner): (NodeId, Option<NodeId>),
        owner_key: Option<&Key>,
    ) -> Result<Option<MembershipState>, Error> {
        let loading = (store.clone(), network.to_owned());
        let (records, revocations) =
            blocking::try_run(move || loading.0.roster(&loading.1)).await?;
        let now = unix_millis();
        let is_own = |proof: &&MembershipProof| {
            proof.member() == id && Some(proof.owner()) == owner && proof.expires() > now
        };
        let known = records.iter().find(is_own).cloned();
        let own = match (known, owner_key, self.invite) {
            (Some(proof @ MembershipProof::Certificate(_)), ..) => proof,
            (_, Some(key), None) if self.invite_only => {
                let mut serial = [0; 8];
                getrandom::fill(&mut serial)?;
                let serial = u64::from_le_bytes(serial);
                let certificate = Certificate::of_owner(key, network, id, now, serial);
                MembershipProof::Certificate(certificate)
            }
            (_, None, None) if self.invite_only => Err(InvitationError::NoOwnerKey)?,
            // A new invite counts more than one that was accepted before and may be used up.
            (_, _, Some(invite)) => invite.accept(id),
            (Some(proof), ..) => proof,
            (None, _, None) => return Ok(None),
        };
        if own.expires() <= now {
            return Err(InvitationError::NotAMember(MembershipError::Expired).into());
        }
        Ok(Some(MembershipState { own, owner_key: owner_key.cloned(), records, revocations }))
    }
}

/// The membership of a running node. It changes when the owner issues a certificate.
#[derive(Debug)]
pub(crate) struct Membership {
    own: Mutex<Option<MembershipProof>>,
    /// Nodes that were revoked since the start or are known to be.
    revoked: watch::Sender<BTreeSet<NodeId>>,
    unwritten: Mutex<Vec<RosterChange>>,
    /// Locked while changes are written, so that they are written in order.
    writing: Mutex<()>,
}

impl Membership {
    pub(crate) fn new(state: Option<&MembershipState>) -> Self {
        let own = Mutex::new(state.map(|state| state.own.clone()));
        let revocations = state.into_iter().flat_map(|state| &state.revocations);
        let revoked = revocations.map(|revocation| revocation.revoked).collect();
        let revoked = watch::Sender::new(revoked);
        Self { own, revoked, unwritten: Mutex::default(), writing: Mutex::default() }
    }

    /// Returns this node's proof, or `None` if its network takes everyone.
    pub(crate) fn proof(&self) -> Option<Box<MembershipProof>> {
        lock(&self.own).clone().map(Box::new)
    }

    /// Returns whether the network takes invited nodes only.
    pub(crate) fn is_needed(&self) -> bool {
        lock(&self.own).is_some()
    }

    /// Returns the reason for not using a node, if it was revoked.
    pub(crate) fn refusal(&self, node: NodeId) -> Option<Reason> {
        let is_revoked = self.revoked.borrow().contains(&node);
        is_revoked.then_some(Reason::NotAMember(MembershipError::Revoked))
    }

    /// Waits until a node is revoked.
    pub(crate) async fn until_revoked(&self, node: NodeId) {
        let mut revoked = self.revoked.subscribe();
        // The sender lives as long as the node.
        let _ = revoked.wait_for(|revoked| revoked.contains(&node)).await;
    }
}

impl Inner {
    /// Handles a change of the roster: notes it for Hellos and streams, and writes it to the state folder.
    pub(crate) fn roster_changed(self: &Arc<Self>, change: RosterChange, roster: Option<&Roster>) {
        match &change {
            RosterChange::Member(proof) if proof.member() == self.profile.id => {
                *lock(&self.membership.own) = Some(proof.clone());
            }
            RosterChange::Revoked(revocation) => {
                let id = revocation.revoked;
                tracing::info!(target: "peerkit::membership", %id, "the network's owner has revoked this");
                let records = roster.into_iter().flat_map(Roster::records);
                let hit = records.filter(|proof| proof.invitation() == id);
                let nodes: Vec<_> = hit.map(MembershipProof::member).chain([id]).collect();
                self.membership.revoked.send_modify(|revoked| revoked.extend(nodes));
            }
            _ => {}
        }
        lock(&self.membership.unwritten).push(change);
        let inner = self.clone();
        self.tasks.tracker.spawn_blocking(move || {
            let _in_order = lock(&inner.membership.writing);
            let changes = std::mem::take(&mut *lock(&inner.membership.unwritten));
            if changes.is_empty() {
                return;
            }
            if let Err(error) = inner.store.save_roster(&inner.profile.network, &changes) {
                tracing::warn!(%error, "can't remember the members of the network");
            }
        });
    }
}
