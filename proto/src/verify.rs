//! Verification of signatures.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::id::{Hash, NodeId, PublicKey, SIGNATURE_LEN};

/// A verifier of signatures, optionally with a cache of valid signatures.
///
/// A real node verifies each signature once, so it uses no cache. In the simulator a thousand nodes
/// verify the same signature, and a shared cache saves most of that time. The cache changes no
/// outcome, because whether a signature is valid depends only on the bytes.
#[derive(Debug, Clone, Default)]
pub struct Verifier {
    cache: Option<Arc<Cache>>,
}

/// A cache of valid signatures. An entry is a hash over the signature, the node and the message.
#[derive(Debug)]
struct Cache {
    max: usize,
    valid: Mutex<BTreeSet<Hash>>,
}

impl Verifier {
    /// Creates a verifier with a cache of up to `max` valid signatures. Its clones share the cache.
    /// A full cache is emptied before the next signature is added.
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

    /// Does the same as [`Verifier::verify`], and keeps the decoded key of `node` in `key`. If
    /// `key` is `None`, this decodes the key once it is needed, so that the next call need not.
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
        // A lock poisoned by a panic is fine: each insert is complete or was not made.
        let lock = || cache.valid.lock().unwrap_or_else(PoisonError::into_inner);
        if lock().contains(&entry) {
            return true;
        }
        // The check is slow, so the lock is not held during it.
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
    fn a_verifier_with_a_cache_accepts_the_same_signatures() {
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
