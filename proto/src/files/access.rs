//! Who may find and fetch a share.
//!
//! A share is open to the network, to nodes that are named, or to whoever knows the secret of its
//! ticket. For all others it is as if it were not there: what they are answered does not differ
//! from what they are answered about something that nobody ever shared.

use std::fmt;

use crate::codec::{DecodeError, Reader, Writer};
use crate::hello::Proof;
use crate::id::{Hash, Key, NodeId};

/// Bytes of a ticket's secret.
pub const SECRET_LEN: usize = 16;

/// Who may find and fetch a share.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Access {
    /// Everyone in the network.
    #[default]
    Open,
    /// These nodes.
    Nodes(Vec<NodeId>),
    /// Whoever shows that it knows this.
    Ticket(Secret),
}

/// What somebody who is let in is told of a share's [`Access`]: whether it may be passed on.
/// On the wire 0 is open, 1 named nodes, 2 ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessKind {
    /// To everyone.
    #[default]
    Open,
    /// To nobody: whom else it is for is not told.
    Nodes,
    /// To whoever knows the ticket's secret.
    Ticket,
}

/// The secret of a ticket: 16 bytes that can't be guessed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret([u8; SECRET_LEN]);

/// What an asking node has shown of itself.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// Who it is, proven by the handshake.
    pub id: NodeId,
    /// The binding of the TLS session that it asks in.
    pub binding: &'a [u8; 32],
    /// The proof that it has presented, if any.
    pub proof: Option<&'a Proof>,
}

impl Access {
    /// Whether `asker` may have it.
    #[must_use]
    pub fn allows(&self, asker: &Asker<'_>) -> bool {
        match self {
            Self::Open => true,
            Self::Nodes(nodes) => nodes.contains(&asker.id),
            Self::Ticket(secret) => asker.proof.is_some_and(|proof| {
                // Hashes of this type compare in constant time.
                let expected = secret.prove(asker.binding, asker.id);
                blake3::Hash::from_bytes(*proof) == blake3::Hash::from_bytes(expected)
            }),
        }
    }

    /// What is told of it.
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
    /// The secret of these bytes, which have to be random.
    #[must_use]
    pub fn from_bytes(bytes: [u8; SECRET_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    /// The proof that `asker` knows the secret, bound to one TLS session by its exporter's bytes.
    ///
    /// BLAKE3 keyed with a key derived from the secret, over the binding and the asker's identity:
    /// to whoever does not know the secret it tells nothing, and it is worth nothing in another
    /// session. So a ticket can be shown to sources that may not know it themselves.
    #[must_use]
    pub fn prove(&self, binding: &[u8; 32], asker: NodeId) -> Proof {
        let key = blake3::derive_key("peerkit 2026-11 ticket secret", &self.0);
        let mut hasher = blake3::Hasher::new_keyed(&key);
        hasher.update(binding);
        hasher.update(asker.as_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// What the secrets of tickets are made of that nobody has to keep: a node's key.
#[derive(Clone)]
pub struct TicketKey([u8; 32]);

impl TicketKey {
    /// That of the node with this key. Nothing can be told of the key from it.
    #[must_use]
    pub fn of(key: &Key) -> Self {
        Self(blake3::derive_key("peerkit 2026-11 tickets of a node", key.secret()))
    }

    /// The secret of the ticket for a content: always the same, and to whoever has tickets for
    /// other contents as good as random.
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
    fn a_contents_secret_is_of_the_content_and_the_key() {
        let secret = |key, content: &[u8]| {
            let key = TicketKey::of(&Key::from_secret(&[key; 32]));
            key.secret_of(&Hash::of(content))
        };
        assert_eq!(secret(1, b"a"), secret(1, b"a"));
        assert_ne!(secret(1, b"a"), secret(1, b"b"));
        assert_ne!(secret(1, b"a"), secret(2, b"a"));
    }

    #[test]
    fn each_kind_lets_in_whom_it_should() {
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
        assert!(!ticket.allows(&asker(bob, Some(&proof))), "somebody else's proof");
        let elsewhere = Asker { id: ann, binding: &[8; 32], proof: Some(&proof) };
        assert!(!ticket.allows(&elsewhere), "a proof from another session");
        assert_eq!(format!("{ticket:?}"), "Ticket(Secret(..))");
    }
}
