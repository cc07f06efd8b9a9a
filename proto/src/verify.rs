//! Verification of signatures.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::id::{Hash, NodeId, PublicKey, SIGNATURE_LEN};

/// A verifier of signatures, optionally with a cache of the valid ones.
///
/// A real node verifies each signature once, so it uses no cache. In the simulator a thousand nodes
/// verify the same signature. A cache that they share saves most of that time. It changes nothing
/// else, because the outcome depends only on the bytes.
#[derive(Debug, Clone, Default)]
pub struct Verifier {
    cache: Option<Arc<Cache>>,
}

/// A cache of valid signatures. Each is stored as a hash of the signature, the node and the
/// message.
#[derive(Debug)]
struct Cache {
    max: usize,
    valid: Mutex<BTreeSet<Hash>>,
}

impl Verifier {
    /// Creates a verifier with a cache of up to `max` valid signatures, which its clones share.
    /// When the cache is full, it is emptied.
    #[must_use]
    pub fn with_cache(max: usize) -> Self {
        Self { cache: Some(Arc::new(Cache { max, valid: Mutex::default() })) }
    }

    /// Returns whether `signature` is the signature of `node` over `message`: see
    /// [`NodeId::verify`].
    #[must_use]
    pub fn verify(&self, node: NodeId, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        self.verify_with(node, &mut None, message, signature)
    }

    /// Verifies as [`Verifier::verify`] does. The key of `node` is decoded when it is first needed,
    /// and is kept in `key` for the next call.
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
        let Some(cache) = &self.cache else { return check() };
        // Identity and signature have fixed lengths, so no two checks hash the same bytes.
        let entry = Hash::of_parts(&[node.as_bytes(), signature, message]);
        // A panic in another thread can't leave a wrong entry behind: each insert is whole or not there.
        let lock = || cache.valid.lock().unwrap_or_else(PoisonError::into_inner);
        if lock().contains(&entry) {
            return true;
        }
        // The lock is not held during the check, which is slow.
        let is_valid = check();
        if is_valid {
            let mut valid = lock();
            if valid.len() >= cache.max {
                valid.clear();
            }
            valid.insert(entry);
        }
        is_valid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Key;

    #[test]
    fn a_cache_changes_no_outcome() {
        let key = Key::from_secret(&[1; 32]);
        let verifier = Verifier::with_cache(1);
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
