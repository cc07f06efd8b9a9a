//! Access to a share: the nodes that may find and fetch it.
//!
//! A share is open to all nodes of the network, to the nodes on a list, or to the nodes that know the secret
//! of its ticket. All other nodes get the same answers as about content that was never shared.

use std::fmt;

use crate::codec::{DecodeError, Reader, Writer};
use crate::hello::Proof;
use crate::id::{Hash, Key, NodeId};

/// Length of a ticket's secret, in bytes.
pub const SECRET_LEN: usize = 16;

/// The nodes that may find and fetch a share.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Access {
    /// All nodes of the network.
    #[default]
    Open,
    /// The nodes with these identities.
    Nodes(Vec<NodeId>),
    /// Nodes that prove that they know this secret.
    Ticket(Secret),
}

/// The kind of a share's [`Access`]. It tells a node with access whether it may pass the share on. On the
/// wire 0 is open, 1 is named nodes, and 2 is ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessKind {
    /// The share may be passed on to all nodes.
    #[default]
    Open,
    /// The share may not be passed on. A node on the list does not learn the other nodes on it.
    Nodes,
    /// The share may be passed on to nodes that know the ticket's secret.
    Ticket,
}

/// The secret of a ticket: 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret([u8; SECRET_LEN]);

/// A node that asks for content: its identity, and its proof if it has presented one.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The node's identity, proven by the handshake.
    pub id: NodeId,
    /// The exported bytes of the TLS session with the node, to which a proof is bound.
    pub binding: &'a [u8; 32],
    /// The proof that the node has presented, if any.
    pub proof: Option<&'a Proof>,
}

impl Access {
    /// Returns whether `asker` may find and fetch the share.
    #[must_use]
    pub fn allows(&self, asker: &Asker<'_>) -> bool {
        match self {
            Self::Open => true,
            Self::Nodes(nodes) => nodes.contains(&asker.id),
            Self::Ticket(secret) => asker.proof.is_some_and(|proof| {
                // `blake3::Hash` compares in constant time.
                let expected = secret.prove(asker.binding, asker.id);
                blake3::Hash::from_bytes(*proof) == blake3::Hash::from_bytes(expected)
            }),
        }
    }

    /// Returns the kind of access, which nodes with access learn.
    #[must_use]
    pub fn kind(&self) -> AccessKind {
        match self {
            Self::Open => AccessKind::Open,
            Self::Nodes(_) => AccessKind::Nodes,
            Self::Ticket(_) => AccessKind::Ticket,
        }
    }
}

impl AccessKind {
    pub(super) fn encode(self, out: &mut impl Writer) {
        out.put_u8(match self {
            Self::Open => 0,
            Self::Nodes => 1,
            Self::Ticket => 2,
        });
    }

    pub(super) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        match reader.u8("access")? {
            0 => Ok(Self::Open),
            1 => Ok(Self::Nodes),
            2 => Ok(Self::Ticket),
            _ => Err(DecodeError::Invalid("access")),
        }
    }
}

impl Secret {
    /// Makes a secret from `bytes`, which must be random.
    #[must_use]
    pub fn from_bytes(bytes: [u8; SECRET_LEN]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    /// Returns the proof that `asker` knows the secret. It is valid only in the TLS session with these
    /// exported bytes (`binding`).
    ///
    /// The proof is a keyed BLAKE3 hash of the binding and the asker's identity. The key is derived from the
    /// secret. The proof reveals nothing to a node that does not know the secret, so it can be presented to
    /// any source.
    #[must_use]
    pub fn prove(&self, binding: &[u8; 32], asker: NodeId) -> Proof {
        let key = blake3::derive_key("peerkit 2026-11 ticket secret", &self.0);
        let mut hasher = blake3::Hasher::new_keyed(&key);
        // Both ends of a session have the same binding. Without the identity, a source could present the
        // proof that it has received as its own.
        hasher.update(binding);
        hasher.update(asker.as_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// The key from which a node derives the secrets of its tickets, so that they need not be stored.
#[derive(Clone)]
pub struct TicketKey([u8; 32]);

impl TicketKey {
    /// Derives the key from the private key of a node. The derived key reveals nothing about the private key.
    #[must_use]
    pub fn of(key: &Key) -> Self {
        Self(blake3::derive_key("peerkit 2026-11 tickets of a node", key.secret()))
    }

    /// Returns the secret of the ticket for `content`, which is the same at each call. Secrets for other
    /// content reveal nothing about it.
    #[must_use]
    pub fn secret_of(&self, content: &Hash) -> Secret {
        let hash = blake3::keyed_hash(&self.0, content.as_bytes());
        let mut secret = [0; SECRET_LEN];
        secret.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
        Secret(secret)
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey(..)")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tickets_secret_depends_on_the_content_and_the_key() {
        let secret = |key, content: &[u8]| {
            let key = TicketKey::of(&Key::from_secret(&[key; 32]));
            key.secret_of(&Hash::of(content))
        };
        assert_eq!(secret(1, b"a"), secret(1, b"a"));
        assert_ne!(secret(1, b"a"), secret(1, b"b"));
        assert_ne!(secret(1, b"a"), secret(2, b"a"));
    }

    #[test]
    fn each_kind_of_access_allows_only_its_nodes() {
        let (ann, bob) = (Key::from_secret(&[1; 32]).id(), Key::from_secret(&[2; 32]).id());
        let binding = [7; 32];
        let secret = Secret::from_bytes([3; 16]);
        let asker = |id, proof| Asker { id, binding: &binding, proof };
        let proof = secret.prove(&binding, ann);
        assert!(Access::Open.allows(&asker(ann, None)));
        let named = Access::Nodes(vec![ann]);
        assert!(named.allows(&asker(ann, None)));
        assert!(!named.allows(&asker(bob, Some(&proof))));
        let ticket = Access::Ticket(secret);
        assert!(ticket.allows(&asker(ann, Some(&proof))));
        assert!(!ticket.allows(&asker(ann, None)));
        assert!(!ticket.allows(&asker(bob, Some(&proof))), "the proof of another node");
        let elsewhere = Asker { id: ann, binding: &[8; 32], proof: Some(&proof) };
        assert!(!ticket.allows(&elsewhere), "a proof from another session");
        assert_eq!(format!("{ticket:?}"), "Ticket(Secret(..))");
    }
}
