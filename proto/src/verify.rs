//! Checking of signatures.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::id::{Hash, NodeId, PublicKey, SIGNATURE_LEN};

/// Checks signatures, or remembers those that it has checked.
///
/// A node checks each once, and has no use for a memory. In the simulator a thousand nodes check the
/// same one: sharing a memory between them takes away most of the time that it needs, and changes
/// nothing else, as the answer hangs on nothing but the bytes.
#[derive(Debug, Clone, Default)]
pub struct Verifier {
    checked: Option<Arc<Mutex<Checked>>>,
}

/// The signatures that were found to be right, at most so many.
#[derive(Debug)]
struct Checked {
    max: usize,
    right: BTreeSet<Hash>,
    order: VecDeque<Hash>,
}

impl Verifier {
    /// One that remembers up to `max` signatures that were right, and shares them with its clones.
    #[must_use]
    pub fn remembering(max: usize) -> Self {
        let checked = Checked { max, right: BTreeSet::new(), order: VecDeque::new() };
        Self { checked: Some(Arc::new(Mutex::new(checked))) }
    }

    /// Whether `signature` over `message` was made by `node`: see [`NodeId::verify`].
    #[must_use]
    pub fn verify(&self, node: NodeId, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        self.verify_with(node, &mut None, message, signature)
    }

    /// As [`Verifier::verify`]; `key` is that of `node`, once it was needed.
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
        let Some(checked) = &self.checked else { return check() };
        let name = Hash::of_parts(&[node.as_bytes(), signature, message]);
        let checked = || checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked().right.contains(&name) {
            return true;
        }
        let right = check();
        if right {
            checked().remember(name);
        }
        right
    }
}

impl Checked {
    fn remember(&mut self, name: Hash) {
        if self.right.insert(name) {
            self.order.push_back(name);
        }
        if self.order.len() > self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.right.remove(&oldest);
        }
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
