//! Membership of a network whose owner invites: who belongs to it, how that is proven, and how it ends.
//!
//! # The design
//! 1. Such a network has an owner: a key pair that does not belong to a node. Each member has a
//!    [`MembershipProof`], beside the network's secret if there is one. So a secret that leaks lets nobody in.
//! 2. The owner makes an [`Invitation`]: a statement, signed with the owner's key, about a new key pair. It
//!    has a time of expiry and a number of uses. The [`Invite`] is what people pass on: a link with the
//!    secret half of that key pair, the statement, the network's name and secret, and addresses.
//! 3. The holder of an invite signs its own identity with the invitation's key, and the invitation with its
//!    own key. Both signatures and the statement are its first proof. It works while the owner is offline,
//!    until the invitation expires. Without the node's own signature, any holder of an invite could claim that
//!    another member came by it, and so bind that membership to an invitation that is revoked or used up.
//! 4. A member that sees a new proof passes it on to all members, as a record. Each member keeps the records
//!    in its [`Roster`]. A member refuses a newcomer if it knows of as many records as the invitation has uses.
//! 5. A node that holds the owner's key answers the first records of an invitation, as many as it has uses,
//!    with a [`Certificate`]: the owner's signature over the member's identity, valid for a year. The
//!    certificate is a record too, and replaces the first proof. It is renewed in its second half.
//! 6. Proofs are in Hello and in the opening of a stream. TLS proves the identity to which a proof is bound,
//!    so a proof that another node has recorded is worthless to it.
//! 7. The owner revokes an invitation, with all members that came by it, or one member: see [`Revocation`].
//!    Revocations are final. They are passed on like records, and two nodes that link exchange what either
//!    lacks, so they also cross a partition that heals. A member ends its links with a revoked node when
//!    the revocation arrives.
//!
//! # The limits
//! - Uses are counted by each member from the records that it has. Two uses at the same moment, or in two
//!   parts of a partition, both succeed at first. Certificates go to as many nodes as the invitation has
//!   uses. Once a member has that many certificates, it refuses the other nodes of the invitation.
//! - The owner's node has to run at least once between a member's admission and the expiry of its invitation,
//!   and once in the second half of each certificate's year. Without that the membership ends.
//! - A member that lies can pass on more records of its own invitation, up to [`EXTRA_RECORDS`] above its
//!   uses. They end with the certificates, the invitation's expiry or its revocation.
//! - A revoked node is a member for each node that the revocation has not reached.
//! - A roster has at most [`MAX_MEMBERS`] members and [`MAX_REVOCATIONS`] revocations. Revocations are kept
//!   for longer than anything that they revoke is valid, so none is forgotten too early. The owner can't
//!   revoke more than half of that number within that time.

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{ID_LEN, Key, NodeId, SIGNATURE_LEN};
use crate::verify::Verifier;

pub mod link;
pub mod revocation;
pub mod roster;

pub use link::{Invite, InviteError};
pub use revocation::Revocation;
pub use roster::Roster;

/// Milliseconds of a day.
const DAY: u64 = 24 * 60 * 60 * 1000;

/// Time for which a certificate is valid, in milliseconds. A year: the owner's node has to run once in half a
/// year to renew it.
pub const CERTIFICATE_LIFE: u64 = 365 * DAY;

/// Maximum time for which an invitation is valid, in milliseconds. 90 days: it has to be shorter than a
/// certificate's life, because certificates count as uses.
pub const MAX_INVITATION_LIFE: u64 = 90 * DAY;

/// Maximum number of uses of an invitation.
pub const MAX_USES: u32 = 1000;

/// Number of records of one invitation that a member accepts from other members above its uses. 16: several
/// parts of a network that are apart may each have admitted a node.
pub const EXTRA_RECORDS: usize = 16;

/// Maximum number of members in a roster. 4,096: a roster then takes about 2 MB, and sending it to a new peer
/// takes a few seconds.
pub const MAX_MEMBERS: usize = 4096;

/// Maximum number of revocations in a roster. The owner makes at most half as many, so that two nodes with the
/// owner's key can't overfill it together.
pub const MAX_REVOCATIONS: usize = 4096;

/// Maximum length of an encoded proof in bytes.
pub const MAX_PROOF: usize = 512;

/// Prefixes of signed bytes. Each separates one kind of signature from all others by the same key.
const INVITATION_CONTEXT: &[u8] = b"peerkit invitation 1";
const ACCEPTANCE_CONTEXT: &[u8] = b"peerkit acceptance 1";
const CONSENT_CONTEXT: &[u8] = b"peerkit consent 1";
const CERTIFICATE_CONTEXT: &[u8] = b"peerkit certificate 1";

/// The first byte of an encoded proof.
const BY_INVITATION: u8 = 1;
const BY_CERTIFICATE: u8 = 2;

/// The reason why a node is not a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// The node has sent no proof.
    #[error("this network takes invited nodes only, and the node has sent no invitation")]
    Missing,
    /// The proof belongs to another node.
    #[error("the invitation was accepted by another node")]
    OtherNode,
    /// The proof is of a network with another owner.
    #[error("the invitation is from another owner")]
    OtherOwner,
    /// A signature is wrong: the proof was changed or is of another network.
    #[error("the invitation is forged, or belongs to another network")]
    Forged,
    /// The proof has expired.
    #[error("the invitation or membership has expired")]
    Expired,
    /// As many nodes as the invitation allows have used it.
    #[error("the invitation is used up")]
    UsedUp,
    /// The owner has revoked the invitation or the node.
    #[error("the network's owner has revoked the membership")]
    Revoked,
    /// The roster is full.
    #[error("the network has as many members as it can have")]
    Full,
}

impl MembershipError {
    const ALL: [Self; 8] = [
        Self::Missing,
        Self::OtherNode,
        Self::OtherOwner,
        Self::Forged,
        Self::Expired,
        Self::UsedUp,
        Self::Revoked,
        Self::Full,
    ];

    /// Returns the number by which a goodbye and the answer to a stream's opening name the error.
    #[must_use]
    pub fn code(self) -> u8 {
        let at = Self::ALL.iter().position(|known| *known == self).unwrap_or_default();
        u8::try_from(at).unwrap_or_default()
    }

    /// Returns the error with this number, or `None` if this version does not know it.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// Returns the error with this text, or `None` if there is none.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.to_string() == text)
    }
}

/// The owner's statement that whoever holds the key `id` may become a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The network's owner.
    pub owner: NodeId,
    /// The public half of the invitation's key pair, which is the name of the invitation.
    pub id: NodeId,
    /// The node at which the invitation was made.
    pub inviter: NodeId,
    /// The time at which it was made, in milliseconds since 1970.
    pub issued: u64,
    /// The time at which it expires, in milliseconds since 1970.
    pub expires: u64,
    /// The number of nodes that may become members by it.
    pub uses: u32,
    /// The owner's signature over all fields above and the name of the network.
    pub signature: [u8; SIGNATURE_LEN],
}

/// The terms of a new invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvitationTerms {
    /// The node at which the invitation is made.
    pub inviter: NodeId,
    /// The present time, in milliseconds since 1970.
    pub issued: u64,
    /// The time at which the invitation expires, in milliseconds since 1970.
    pub expires: u64,
    /// The number of nodes that may become members by it.
    pub uses: u32,
}

impl Invitation {
    /// Signs an invitation to `network` with the owner's key. `id` is the public half of the invitation's
    /// new key pair.
    #[must_use]
    pub fn sign(owner: &Key, network: &str, id: NodeId, terms: InvitationTerms) -> Self {
        let InvitationTerms { inviter, issued, expires, uses } = terms;
        let signature = [0; SIGNATURE_LEN];
        let mut made = Self { owner: owner.id(), id, inviter, issued, expires, uses, signature };
        made.signature = owner.sign(&made.signed(network));
        made
    }

    fn signed(&self, network: &str) -> Vec<u8> {
        let mut out = signed_prefix(INVITATION_CONTEXT, network);
        self.put_fields(&mut out);
        out
    }

    fn put_fields(&self, out: &mut Vec<u8>) {
        out.put_raw(self.owner.as_bytes());
        out.put_raw(self.id.as_bytes());
        out.put_raw(self.inviter.as_bytes());
        out.put_u64(self.issued);
        out.put_u64(self.expires);
        out.put_u32(self.uses);
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.put_fields(out);
        out.put_raw(&self.signature);
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            owner: reader.node_id("invitation's owner")?,
            id: reader.node_id("invitation's key")?,
            inviter: reader.node_id("inviter")?,
            issued: reader.u64("invitation's time")?,
            expires: reader.u64("invitation's expiry")?,
            uses: reader.u32("invitation's uses")?,
            signature: reader.array("invitation's signature")?,
        })
    }

    /// Returns whether the owner has signed this invitation for `network`, within the limits of invitations.
    #[must_use]
    pub fn is_valid(&self, verifier: &Verifier, network: &str) -> bool {
        is_within(self.issued, self.expires, MAX_INVITATION_LIFE)
            && (1..=MAX_USES).contains(&self.uses)
            && verifier.verify(self.owner, &self.signed(network), &self.signature)
    }

    /// Accepts the invitation for the node with the key `member`. `key` is the invitation's key.
    #[must_use]
    pub fn accept(&self, key: &Key, network: &str, member: &Key) -> MembershipProof {
        let signed = |context| signed_pair(context, network, self.id, member.id());
        MembershipProof::Invitation(Acceptance {
            invitation: self.clone(),
            member: member.id(),
            signature: key.sign(&signed(ACCEPTANCE_CONTEXT)),
            consent: member.sign(&signed(CONSENT_CONTEXT)),
        })
    }
}

/// An invitation that a node has accepted: its first proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acceptance {
    /// The invitation.
    pub invitation: Invitation,
    /// The node that has accepted it.
    pub member: NodeId,
    /// The signature of the invitation's key over the invitation, the member and the name of the network.
    pub signature: [u8; SIGNATURE_LEN],
    /// The signature of the member's key over the same.
    pub consent: [u8; SIGNATURE_LEN],
}

/// The owner's statement that a node is a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The network's owner.
    pub owner: NodeId,
    /// The member.
    pub member: NodeId,
    /// The node at which the member was invited.
    pub inviter: NodeId,
    /// The invitation by which the member came. The owner's own nodes have none: the value is their owner's
    /// identity.
    pub invitation: NodeId,
    /// A random number, by which two certificates of one member differ.
    pub serial: u64,
    /// The time at which it was made, in milliseconds since 1970.
    pub issued: u64,
    /// The time at which it expires, in milliseconds since 1970.
    pub expires: u64,
    /// The owner's signature over all fields above and the name of the network.
    pub signature: [u8; SIGNATURE_LEN],
}

impl Certificate {
    /// Signs the certificate of a member that came by `invitation`, which `inviter` has made.
    #[must_use]
    pub fn sign(
        owner: &Key,
        network: &str,
        member: NodeId,
        (inviter, invitation): (NodeId, NodeId),
        (issued, serial): (u64, u64),
    ) -> Self {
        let mut made = Self {
            owner: owner.id(),
            member,
            inviter,
            invitation,
            serial,
            issued,
            expires: issued.saturating_add(CERTIFICATE_LIFE),
            signature: [0; SIGNATURE_LEN],
        };
        made.signature = owner.sign(&made.signed(network));
        made
    }

    /// Signs the certificate of a node that holds the owner's key.
    #[must_use]
    pub fn of_owner(owner: &Key, network: &str, node: NodeId, issued: u64, serial: u64) -> Self {
        Self::sign(owner, network, node, (node, owner.id()), (issued, serial))
    }

    fn signed(&self, network: &str) -> Vec<u8> {
        let mut out = signed_prefix(CERTIFICATE_CONTEXT, network);
        self.put_fields(&mut out);
        out
    }

    fn put_fields(&self, out: &mut Vec<u8>) {
        out.put_raw(self.owner.as_bytes());
        out.put_raw(self.member.as_bytes());
        out.put_raw(self.inviter.as_bytes());
        out.put_raw(self.invitation.as_bytes());
        out.put_u64(self.serial);
        out.put_u64(self.issued);
        out.put_u64(self.expires);
    }

    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            owner: reader.node_id("certificate's owner")?,
            member: reader.node_id("certificate's member")?,
            inviter: reader.node_id("inviter")?,
            invitation: reader.node_id("certificate's invitation")?,
            serial: reader.u64("certificate's serial")?,
            issued: reader.u64("certificate's time")?,
            expires: reader.u64("certificate's expiry")?,
            signature: reader.array("certificate's signature")?,
        })
    }

    fn is_valid(&self, verifier: &Verifier, network: &str) -> bool {
        is_within(self.issued, self.expires, CERTIFICATE_LIFE)
            && verifier.verify(self.owner, &self.signed(network), &self.signature)
    }
}

/// The proof that a node is a member of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipProof {
    /// An invitation that the node has accepted.
    Invitation(Acceptance),
    /// The owner's certificate.
    Certificate(Certificate),
}

impl MembershipProof {
    /// Returns the node to which the proof is bound.
    #[must_use]
    pub fn member(&self) -> NodeId {
        match self {
            Self::Invitation(accepted) => accepted.member,
            Self::Certificate(certificate) => certificate.member,
        }
    }

    /// Returns the owner who has signed the proof, or the invitation in it.
    #[must_use]
    pub fn owner(&self) -> NodeId {
        match self {
            Self::Invitation(accepted) => accepted.invitation.owner,
            Self::Certificate(certificate) => certificate.owner,
        }
    }

    /// Returns the invitation by which the member came. For the owner's own nodes it is the owner's identity.
    #[must_use]
    pub fn invitation(&self) -> NodeId {
        match self {
            Self::Invitation(accepted) => accepted.invitation.id,
            Self::Certificate(certificate) => certificate.invitation,
        }
    }

    /// Returns the node at which the member was invited.
    #[must_use]
    pub fn inviter(&self) -> NodeId {
        match self {
            Self::Invitation(accepted) => accepted.invitation.inviter,
            Self::Certificate(certificate) => certificate.inviter,
        }
    }

    /// Returns the time at which the proof expires, in milliseconds since 1970.
    #[must_use]
    pub fn expires(&self) -> u64 {
        match self {
            Self::Invitation(accepted) => accepted.invitation.expires,
            Self::Certificate(certificate) => certificate.expires,
        }
    }

    /// Returns the time at which the owner made the invitation or certificate.
    #[must_use]
    pub fn issued(&self) -> u64 {
        match self {
            Self::Invitation(accepted) => accepted.invitation.issued,
            Self::Certificate(certificate) => certificate.issued,
        }
    }

    /// Returns whether this is the owner's certificate, and not the node's first proof.
    #[must_use]
    pub fn is_certificate(&self) -> bool {
        matches!(self, Self::Certificate(_))
    }

    /// Returns whether this proof takes the place of `other`, a proof of the same member.
    ///
    /// Of two proofs with different content one replaces the other, so that all members keep the same one.
    pub(crate) fn replaces(&self, other: &Self) -> bool {
        let rank = |proof: &Self| {
            let serial = match proof {
                Self::Invitation(_) => 0,
                Self::Certificate(certificate) => certificate.serial,
            };
            (proof.is_certificate(), proof.expires(), proof.invitation(), serial)
        };
        rank(self) > rank(other)
    }

    /// Checks everything in the proof that needs no list: the owner, the time and the signatures.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(
        &self,
        verifier: &Verifier,
        network: &str,
        owner: NodeId,
        now: u64,
    ) -> Result<(), MembershipError> {
        if self.owner() != owner {
            return Err(MembershipError::OtherOwner);
        }
        if self.expires() <= now {
            return Err(MembershipError::Expired);
        }
        let is_valid = match self {
            Self::Certificate(certificate) => certificate.is_valid(verifier, network),
            Self::Invitation(accepted) => {
                let Acceptance { invitation, member, signature, consent } = accepted;
                let signed = |context| signed_pair(context, network, invitation.id, *member);
                invitation.is_valid(verifier, network)
                    && verifier.verify(invitation.id, &signed(ACCEPTANCE_CONTEXT), signature)
                    && verifier.verify(*member, &signed(CONSENT_CONTEXT), consent)
            }
        };
        if is_valid { Ok(()) } else { Err(MembershipError::Forged) }
    }

    /// Appends the proof to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Invitation(accepted) => {
                out.put_u8(BY_INVITATION);
                accepted.invitation.encode(out);
                out.put_raw(accepted.member.as_bytes());
                out.put_raw(&accepted.signature);
                out.put_raw(&accepted.consent);
            }
            Self::Certificate(certificate) => {
                out.put_u8(BY_CERTIFICATE);
                certificate.put_fields(out);
                out.put_raw(&certificate.signature);
            }
        }
    }

    /// Reads a proof. Does not verify it.
    ///
    /// # Errors
    /// [`DecodeError`] if a field is missing, or the kind of proof is unknown.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match reader.u8("kind of proof")? {
            BY_INVITATION => Self::Invitation(Acceptance {
                invitation: Invitation::decode(reader)?,
                member: reader.node_id("invited member")?,
                signature: reader.array("acceptance")?,
                consent: reader.array("member's consent")?,
            }),
            BY_CERTIFICATE => Self::Certificate(Certificate::decode(reader)?),
            _ => return Err(DecodeError::Invalid("kind of proof")),
        })
    }
}

/// Returns the bytes that say that `member` has accepted an invitation. `context` is for the key that signs.
fn signed_pair(context: &[u8], network: &str, invitation: NodeId, member: NodeId) -> Vec<u8> {
    let mut out = signed_prefix(context, network);
    out.put_raw(invitation.as_bytes());
    out.put_raw(member.as_bytes());
    out
}

fn signed_prefix(context: &[u8], network: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(context.len() + network.len() + 8 * ID_LEN);
    out.put_bytes(context);
    out.put_str(network);
    out
}

/// Returns whether the time from `issued` to `expires` is at most `life`.
fn is_within(issued: u64, expires: u64, life: u64) -> bool {
    expires.checked_sub(issued).is_some_and(|time| time <= life)
}

#[cfg(test)]
pub(crate) mod tests;
