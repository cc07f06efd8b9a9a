//! Networks whose owner invites: the proofs of simulated nodes, and revocations.

use super::Sim;
use crate::handler::Handler;
use crate::id::{Key, NodeId};
use crate::invitation::{Certificate, Invitation, InvitationTerms, MembershipProof};
use crate::overlay::members::MembershipState;
use crate::peer::Command;

/// Time for which the invitations of a simulation are valid, in milliseconds. A week, as by default on a real
/// node.
const INVITATION_LIFE: u64 = 7 * 24 * 60 * 60 * 1000;

impl<H: Handler> Sim<H> {
    /// Gives a node the owner's key. From now on it takes invited nodes only, and issues certificates. A node
    /// that starts again has forgotten that.
    pub fn set_owner_key(&mut self, node: usize, owner: &Key) {
        let id = self.nodes[node].id;
        let proof = Certificate::of_owner(owner, super::NETWORK, id, self.unix(), 0);
        self.start_membership(node, MembershipProof::Certificate(proof), Some(owner.clone()));
    }

    /// Makes an invitation as the owner, at `inviter`. `key` is the invitation's key pair.
    #[must_use]
    pub fn make_invitation(&self, owner: &Key, key: &Key, inviter: usize, uses: u32) -> Invitation {
        let issued = self.unix();
        let expires = issued + INVITATION_LIFE;
        let terms = InvitationTerms { inviter: self.nodes[inviter].id, issued, expires, uses };
        Invitation::sign(owner, super::NETWORK, key.id(), terms)
    }

    /// Makes a node accept an invitation, of which it holds the key. From now on the node takes members only,
    /// and shows its proof.
    pub fn accept_invitation(&mut self, node: usize, invitation: &Invitation, key: &Key) {
        let proof = invitation.accept(key, super::NETWORK, &self.nodes[node].key);
        self.start_membership(node, proof, None);
    }

    /// Revokes a node or an invitation, at a node with the owner's key.
    pub fn revoke(&mut self, node: usize, owner: &Key, revoked: NodeId) {
        self.command(node, Command::Revoke(owner.clone(), revoked));
        self.settle();
    }

    fn start_membership(&mut self, node: usize, own: MembershipProof, owner_key: Option<Key>) {
        self.nodes[node].membership = Some(own.clone());
        let state = MembershipState { own, owner_key, records: vec![], revocations: vec![] };
        self.command(node, Command::Membership(Box::new(state)));
        self.settle();
    }
}
