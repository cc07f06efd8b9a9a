//! Revocations: the owner ends memberships.

use super::{CERTIFICATE_LIFE, DAY, signed_prefix};
use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Key, NodeId, SIGNATURE_LEN};
use crate::verify::Verifier;

const CONTEXT: &[u8] = b"peerkit revocation 1";

/// Time for which a revocation is kept, in milliseconds. It is longer than a certificate's life, because the
/// clocks of two nodes with the owner's key may differ. After that, everything that it revokes has expired.
const KEEP: u64 = CERTIFICATE_LIFE + 30 * DAY;

/// The owner's statement that a membership does not count any more: that of one node, or of all nodes that
/// came by an invitation. It is final: a node that was revoked needs a new identity to come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The network's owner.
    pub owner: NodeId,
    /// The node or the invitation that is revoked. Both are public keys, so no node and invitation have the
    /// same identity.
    pub revoked: NodeId,
    /// The time at which it was made, in milliseconds since 1970.
    pub time: u64,
    /// The owner's signature over all fields above and the name of the network.
    pub signature: [u8; SIGNATURE_LEN],
}

impl Revocation {
    /// Signs a revocation with the owner's key.
    #[must_use]
    pub fn sign(owner: &Key, network: &str, revoked: NodeId, time: u64) -> Self {
        let mut made = Self { owner: owner.id(), revoked, time, signature: [0; SIGNATURE_LEN] };
        made.signature = owner.sign(&made.signed(network));
        made
    }

    fn signed(&self, network: &str) -> Vec<u8> {
        let mut out = signed_prefix(CONTEXT, network);
        self.put_fields(&mut out);
        out
    }

    fn put_fields(&self, out: &mut Vec<u8>) {
        out.put_raw(self.owner.as_bytes());
        out.put_raw(self.revoked.as_bytes());
        out.put_u64(self.time);
    }

    /// Appends the revocation to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.put_fields(out);
        out.put_raw(&self.signature);
    }

    /// Reads a revocation. Does not verify it.
    ///
    /// # Errors
    /// [`DecodeError`] if a field is missing.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            owner: reader.node_id("revocation's owner")?,
            revoked: reader.node_id("revoked identity")?,
            time: reader.u64("revocation's time")?,
            signature: reader.array("revocation's signature")?,
        })
    }

    /// Returns whether the owner has signed this revocation for `network`.
    #[must_use]
    pub fn is_valid(&self, verifier: &Verifier, network: &str) -> bool {
        verifier.verify(self.owner, &self.signed(network), &self.signature)
    }

    /// Returns whether everything that this revokes has expired.
    #[must_use]
    pub fn is_over(&self, now: u64) -> bool {
        self.time.saturating_add(KEEP) <= now
    }
}
