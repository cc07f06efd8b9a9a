//! The membership of this node in a network whose owner invites: how it begins, and the roster on disk.

use std::path::Path;
use std::sync::{Arc, Mutex};

use peerkit_proto::id::{Key, NodeId};
use peerkit_proto::invitation::roster::TooManyRevocations;
use peerkit_proto::invitation::{
    Certificate, Invite, MAX_USES, MembershipError, MembershipProof, Roster,
};
use peerkit_proto::overlay::members::{MembershipState, RosterChange};

use crate::blocking;
use crate::clock::unix_millis;
use crate::error::Error;
use crate::inner::Inner;
use crate::lock::lock;
use crate::store::{Store, StoredRoster};

mod invited_networks;

use invited_networks::InvitedNetworks;
pub use invited_networks::InvitedNetworksError;

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
    /// The node was a member of a network for invited nodes, and has no valid proof of it any more. In an open
    /// network of this name it would take strangers.
    #[error(
        "the node was not started: it was in network `{0}` as an invited node, and its membership has \
         expired or is lost"
    )]
    Lapsed(String),
    /// No network was named, and the node of this state folder was in one for invited nodes.
    #[error(
        "the node was not started: no network was named, and its state folder is that of an invited node \
         of network `{0}`"
    )]
    NotNamed(String),
    /// The list of networks for invited nodes can't be used.
    #[error(transparent)]
    Networks(#[from] InvitedNetworksError),
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
    ///
    /// # Errors
    /// If the node can't become a member, or was one and has no valid proof any more.
    pub(crate) async fn load(
        self,
        (store, state): (&Store, Option<&Path>),
        (key, owner_key): (&Key, Option<&Key>),
        network: &NetworkChoice,
    ) -> Result<Option<MembershipState>, Error> {
        let NetworkChoice { name, owner, invited, .. } = network;
        let loading = (store.clone(), name.clone());
        let stored = blocking::try_run(move || loading.0.roster(&loading.1)).await?;
        let StoredRoster { members: records, revocations, has_rows } = stored;
        let was_invited = has_rows || invited.owner(name).is_some();
        let now = unix_millis();
        let is_own = |proof: &&MembershipProof| {
            proof.member() == key.id() && Some(proof.owner()) == *owner && proof.expires() > now
        };
        let known = records.iter().find(is_own).cloned();
        // A new invite counts more than the proof of an earlier one, which may be revoked or used up.
        let is_new = |invite: &Invite| match &known {
            Some(known) => {
                known.invitation() != invite.invitation.id && invite.invitation.expires > now
            }
            None => true,
        };
        let own = match (self.invite.filter(is_new), known, owner_key) {
            (Some(invite), ..) => invite.accept(key),
            (None, Some(proof @ MembershipProof::Certificate(_)), _) => proof,
            // In an open network the owner's key alone founds nothing.
            (None, _, Some(owner_key)) if self.invite_only || was_invited => {
                let mut serial = [0; 8];
                getrandom::fill(&mut serial)?;
                let serial = u64::from_le_bytes(serial);
                let certificate = Certificate::of_owner(owner_key, name, key.id(), now, serial);
                MembershipProof::Certificate(certificate)
            }
            (None, Some(proof), _) => proof,
            (None, None, None) if self.invite_only => Err(InvitationError::NoOwnerKey)?,
            (None, None, _) if was_invited => Err(InvitationError::Lapsed(name.clone()))?,
            (None, None, _) => match invited.first().filter(|_| !network.is_named) {
                Some(invited) => Err(InvitationError::NotNamed(invited.to_owned()))?,
                None => return Ok(None),
            },
        };
        if own.expires() <= now {
            return Err(InvitationError::NotAMember(MembershipError::Expired).into());
        }
        if let Some(folder) = state.map(Path::to_owned) {
            // Written before the node runs, so that from then on it never starts in an open network again.
            let (invited, name, owner) = (invited.clone(), name.clone(), own.owner());
            let writing = move || invited.add(&folder, &name, owner).map_err(InvitationError::from);
            blocking::try_run(writing).await?;
        }
        Ok(Some(MembershipState { own, owner_key: owner_key.cloned(), records, revocations }))
    }
}

/// The network of a node that starts.
pub(crate) struct NetworkChoice {
    pub(crate) name: String,
    /// True if the application or an invite has named it.
    pub(crate) is_named: bool,
    pub(crate) owner: Option<NodeId>,
    /// The networks for invited nodes of the state folder.
    invited: InvitedNetworks,
}

impl NetworkChoice {
    /// Returns the network with this name, and what the state folder's list of networks has about it.
    pub(crate) async fn new(
        name: Option<String>,
        default: &str,
        state: Option<&Path>,
    ) -> Result<Self, Error> {
        let invited = match state.map(Path::to_owned) {
            Some(folder) => {
                let reading = move || InvitedNetworks::read(&folder).map_err(InvitationError::from);
                blocking::try_run(reading).await?
            }
            None => InvitedNetworks::default(),
        };
        let is_named = name.is_some();
        let name = name.unwrap_or_else(|| default.to_owned());
        let owner = invited.owner(&name);
        Ok(Self { name, is_named, owner, invited })
    }
}

/// The membership of a running node. It changes when the owner issues a certificate.
#[derive(Debug)]
pub(crate) struct Membership {
    own: Mutex<Option<MembershipProof>>,
    unwritten: Mutex<Vec<RosterChange>>,
    /// Locked while changes are written, so that they are written in order.
    writing: Mutex<()>,
}

impl Membership {
    pub(crate) fn new(state: Option<&MembershipState>) -> Self {
        let own = Mutex::new(state.map(|state| state.own.clone()));
        Self { own, unwritten: Mutex::default(), writing: Mutex::default() }
    }

    /// Returns this node's proof, or `None` if its network takes everyone.
    pub(crate) fn proof(&self) -> Option<Box<MembershipProof>> {
        lock(&self.own).clone().map(Box::new)
    }

    /// Returns whether the network takes invited nodes only.
    pub(crate) fn is_needed(&self) -> bool {
        lock(&self.own).is_some()
    }
}

impl Inner {
    /// Handles a change of the roster: notes it for Hellos, ends the streams of nodes that are no longer
    /// members, and writes it to the state folder.
    pub(crate) fn roster_changed(self: &Arc<Self>, change: RosterChange, roster: Option<&Roster>) {
        match &change {
            RosterChange::Member(proof) if proof.member() == self.profile.id => {
                *lock(&self.membership.own) = Some((**proof).clone());
            }
            // The last use of an invitation may just have been confirmed for another node.
            RosterChange::Member(proof) if proof.is_certificate() => {
                self.end_streams_of_strangers(roster, |record| {
                    !record.is_certificate() && record.invitation() == proof.invitation()
                });
            }
            RosterChange::Revoked(revocation) => {
                let id = revocation.revoked;
                tracing::info!(target: "peerkit::membership", %id, "the network's owner has revoked this");
                self.streams.open.end(id);
                self.end_streams_of_strangers(roster, |_| true);
            }
            RosterChange::Expired(nodes, _) => {
                nodes.iter().for_each(|node| self.streams.open.end(*node));
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

    /// Ends the streams of nodes whose records `may_be_hit`, if they are no longer members.
    fn end_streams_of_strangers(
        &self,
        roster: Option<&Roster>,
        may_be_hit: impl Fn(&MembershipProof) -> bool,
    ) {
        let Some(roster) = roster else { return };
        let now = unix_millis();
        self.streams.open.end_where(|peer| {
            // A node without a record is just being checked.
            roster.record(peer).is_some_and(&may_be_hit) && roster.check_known(peer, now).is_err()
        });
    }
}
