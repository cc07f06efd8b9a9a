//! Verification of signatures.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::id::{Hash, NodeId, PublicKey, SIGNATURE_LEN};

/// Verifies signatures, and may remember the valid ones.
///
/// A node verifies each signature once and remembers none. In the simulator a thousand nodes verify the
/// same signature: sharing a memory saves most of that time. It changes nothing else, as the outcome
/// depends on nothing but the bytes.
#[derive(Debug, Clone, Default)]
pub struct Verifier {
    memory: Option<Arc<Memory>>,
}

/// The signatures that were found to be valid, as hashes of all that they depend on.
#[derive(Debug)]
struct Memory {
    max: usize,
    valid: Mutex<BTreeSet<Hash>>,
}

impl Verifier {
    /// Creates a verifier that remembers up to `max` valid signatures, and shares them with its clones.
    /// Once there are more it forgets them all.
    #[must_use]
    pub fn remembering(max: usize) -> Self {
        Self { memory: Some(Arc::new(Memory { max, valid: Mutex::default() })) }
    }

    /// Returns whether `node` has made `signature` over `message`: see [`NodeId::verify`].
    #[must_use]
    pub fn verify(&self, node: NodeId, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        self.verify_with(node, &mut None, message, signature)
    }

    /// As [`Verifier::verify`]. The key of `node` is put into `key` when it is needed first.
    #[must_use]
    pub fn verify_with(
        &self,
        node: NodeId,
        key: &mut Option<PublicKey>,
        message: &[u8],
        signature: &[u8; SIGNATURE_LEN],
    ) -> bool {
        let mut check = || {
            if key.is_none() {
                *key = node.key();
            }
            key.as_ref().is_some_and(|key| key.verify(message, signature))
        };
        let Some(memory) = &self.memory else { return check() };
        let name = Hash::of_parts(&[node.as_bytes(), signature, message]);
        let valid = || memory.valid.lock().unwrap_or_else(PoisonError::into_inner);
        if valid().contains(&name) {
            return true;
        }
        let is_valid = check();
        if is_valid {
            let mut valid = valid();
            if valid.len() >= memory.max {
                valid.clear();
            }
            valid.insert(name);
        }
        is_valid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Key;

    #[test]
    fn a_memory_changes_no_answer() {
        let key = Key::from_secret(&[1; 32]);
        let verifier = Verifier::remembering(1);
        let signature = key.sign(b"a");
        for _ in 0..2 {
            assert!(verifier.verify(key.id(), b"a", &signature));
            assert!(!verifier.verify(key.id(), b"b", &signature));
            assert!(!verifier.verify(Key::from_secret(&[2; 32]).id(), b"a", &signature));
        }
        assert!(verifier.verify(key.id(), b"c", &key.sign(b"c")));
        assert!(verifier.verify(key.id(), b"a", &signature));
    }
}
