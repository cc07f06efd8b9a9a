//! Identities of nodes, which are their public keys, and hashes.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use curve25519_dalek::constants::EIGHT_TORSION;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};

use crate::text::{clean_pasted_code, serde_as_text};

/// Length in bytes of public keys, secret keys and hashes.
pub const ID_LEN: usize = 32;

/// Length of an Ed25519 signature in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// A node's identity: its Ed25519 public key. It is printed as 64 hex digits.
///
/// A value can hold any 32 bytes. The TLS handshake and [`NodeId::verify`] prove that they are the
/// key of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; ID_LEN]);

impl NodeId {
    /// Wraps the bytes of a public key.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; ID_LEN]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes of the public key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; ID_LEN] {
        &self.0
    }

    /// Returns the first eight hex digits. They are enough to distinguish nodes, but too few to
    /// trust a node by them.
    #[must_use]
    pub fn short(&self) -> String {
        hex(&self.0[..4])
    }

    /// Returns whether `signature` is a valid signature of this node over `message` (RFC 8032). The
    /// checks are the strict ones of `ed25519-dalek`, so that all nodes agree on which signatures
    /// are valid.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        self.key().is_some_and(|key| key.verify(message, signature))
    }

    /// Returns the key that this identity encodes, or `None` if no node can hold that key. The key
    /// verifies several signatures faster than [`NodeId::verify`].
    #[must_use]
    pub fn key(&self) -> Option<PublicKey> {
        VerifyingKey::from_bytes(&self.0).ok().filter(|key| !key.is_weak()).map(PublicKey)
    }

    /// Returns whether the bytes are a valid public key: the canonical encoding of a point of the
    /// group's large prime order. The public key of every key pair is such a point. With other
    /// points, signatures could be made without a secret, or one secret would have several
    /// identities.
    #[must_use]
    pub fn is_public_key(&self) -> bool {
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| {
            let point = key.to_edwards();
            !key.is_weak() && point.is_torsion_free() && point.compress().as_bytes() == &self.0
        })
    }

    /// Returns this identity if a node can have it, and an error otherwise.
    ///
    /// # Errors
    /// If it is not a [public key](Self::is_public_key).
    pub fn checked(self) -> Result<Self, NotAKey> {
        if self.is_public_key() { Ok(self) } else { Err(NotAKey(self)) }
    }

    /// Returns the X25519 public key that belongs to this Ed25519 key (RFC 7748, section 4.1), or
    /// `None` if the bytes are not a key.
    #[must_use]
    pub fn to_x25519(self) -> Option<[u8; ID_LEN]> {
        let key = VerifyingKey::from_bytes(&self.0).ok()?;
        // A point of small order would make the shared secret zero (RFC 7748, section 6.1).
        (!key.is_weak()).then(|| key.to_montgomery().to_bytes())
    }
}

/// The error for an identity that no node can have, usually because one of its digits is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no node can have the identity {0}: it is no valid key, so one of its digits is wrong")]
pub struct NotAKey(pub NodeId);

/// A node's public key, decoded from its identity. Decoding takes a tenth of the time for verifying
/// a signature.
#[derive(Debug, Clone)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Verifies a signature in the same way as [`NodeId::verify`].
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        // These are the checks of `verify_strict` of ed25519-dalek, but faster. `verify_strict`
        // decompresses the signature's point to see whether its order is small. Comparing the bytes
        // of the point is enough, as only canonical encodings are accepted.
        let small = signature.first_chunk().is_some_and(|point| SMALL_ORDER.contains(point));
        !small && self.0.verify(message, &Signature::from_bytes(signature)).is_ok()
    }
}

/// The encodings of the points of small order. A signature with such a point could be valid for
/// several messages.
static SMALL_ORDER: LazyLock<[[u8; ID_LEN]; 8]> =
    LazyLock::new(|| EIGHT_TORSION.map(|point| point.compress().to_bytes()));

/// A node's key pair. A program that holds it can act as the node.
///
/// Its `Debug` form hides the secret. The secret is wiped from memory when the value is dropped.
#[derive(Clone)]
pub struct Key(SigningKey);

impl Key {
    /// Creates the key pair from 32 secret bytes, which must come from the system's random
    /// generator.
    #[must_use]
    pub fn from_secret(secret: &[u8; ID_LEN]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// Returns the secret bytes. Store them where no other user can read them.
    #[must_use]
    pub fn secret(&self) -> &[u8; ID_LEN] {
        self.0.as_bytes()
    }

    /// Returns the node's identity, which is the public key.
    #[must_use]
    pub fn id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs `message` (RFC 8032). The same message always gets the same signature.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.0.sign(message).to_bytes()
    }

    /// Returns the X25519 secret key that belongs to this key pair.
    pub(crate) fn to_x25519(&self) -> [u8; ID_LEN] {
        self.0.to_scalar_bytes()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, secret hidden)", self.id().short())
    }
}

/// A BLAKE3 hash. That of a file's content identifies the file, and is the hash that `b3sum`
/// prints. That of a manifest identifies a folder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; ID_LEN]);

impl Hash {
    /// Returns the hash of `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(*blake3::hash(content).as_bytes())
    }

    /// Returns the hash of the concatenated `parts`.
    #[must_use]
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// Wraps the bytes of a hash.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; ID_LEN]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; ID_LEN] {
        &self.0
    }
}

/// The reason why a text is not an identity or hash of 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseIdError {
    /// The text does not have 64 characters.
    #[error("{0} characters instead of 64 hex digits")]
    Length(usize),
    /// The text has a character that is not a hex digit.
    #[error("`{0}` is not a hex digit")]
    Digit(char),
}

macro_rules! printed_as_hex {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex(&self.0[..4]))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            /// Reads 64 hex digits, in upper or lower case. Line breaks and blanks between them are
            /// skipped, and quotes, brackets or punctuation around them, as pasting adds these.
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                unhex(text).map(Self)
            }
        }
    };
}

printed_as_hex!(NodeId);
printed_as_hex!(Hash);
serde_as_text!(NodeId, Hash);

/// Returns `bytes` as lower-case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

fn unhex(text: &str) -> Result<[u8; ID_LEN], ParseIdError> {
    let pasted;
    // Most texts are exactly 64 digits, and need no cleaned copy.
    let text = if text.len() == 2 * ID_LEN {
        text
    } else {
        pasted = clean_pasted_code(text);
        pasted.as_str()
    };
    // This is checked before the length: a wrong character shows that the text is something else,
    // such as a name.
    if let Some(other) = text.chars().find(|c| !c.is_ascii_hexdigit()) {
        return Err(ParseIdError::Digit(other));
    }
    // All characters are hex digits, so only the length can be wrong.
    let wrong_length = ParseIdError::Length(text.len());
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).unwrap_or_default();
    bytes.try_into().map_err(|_| wrong_length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> Key {
        Key::from_secret(&[seed; 32])
    }

    #[test]
    fn a_printed_identity_is_parsed_back() {
        let id = key(1).id();
        assert_eq!(id.to_string().len(), 64);
        assert_eq!(id.to_string().parse::<NodeId>().unwrap(), id);
        assert_eq!(id.to_string().to_uppercase().parse::<NodeId>().unwrap(), id);
        assert!(id.to_string().starts_with(&id.short()));
    }

    #[test]
    fn characters_added_by_pasting_are_ignored() {
        let id = key(1).id();
        let text = id.to_string();
        for pasted in [
            format!("<{text}>,"),
            format!("\u{201c}{text}\u{201d}"),
            format!("  {}\n{}\n", &text[..40], &text[40..]),
        ] {
            assert_eq!(pasted.parse::<NodeId>(), Ok(id), "{pasted:?}");
        }
        assert_eq!(format!("{text}0").parse::<NodeId>(), Err(ParseIdError::Length(65)));
    }

    #[test]
    fn a_text_that_is_not_64_hex_digits_is_refused() {
        assert_eq!("abc".parse::<NodeId>(), Err(ParseIdError::Length(3)));
        assert_eq!("xyz".parse::<Hash>(), Err(ParseIdError::Digit('x')));
        assert_eq!("é".repeat(32).parse::<Hash>(), Err(ParseIdError::Digit('é')));
    }

    #[test]
    fn a_signature_is_valid_only_for_its_message_and_signer() {
        let signature = key(1).sign(b"hello");
        assert!(key(1).id().verify(b"hello", &signature));
        assert!(!key(1).id().verify(b"hellp", &signature));
        assert!(!key(2).id().verify(b"hello", &signature));
        assert!(!NodeId::from_bytes([0xff; 32]).verify(b"hello", &signature));
    }

    #[test]
    fn the_points_of_small_order_are_those_of_the_curve() {
        let mut points = *SMALL_ORDER;
        points.sort_unstable();
        let expected = [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0000000000000000000000000000000000000000000000000000000000000080",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ];
        assert_eq!(points.map(|point| hex(&point)), expected);
    }

    #[test]
    fn keys_of_small_order_are_refused() {
        // With a key of small order, this signature (the neutral point and a zero) is valid for
        // every message.
        let mut signature = [0; SIGNATURE_LEN];
        signature[0] = 1;
        let weak = NodeId::from_bytes(SMALL_ORDER[0]);
        let lenient = VerifyingKey::from_bytes(weak.as_bytes()).unwrap();
        assert!(lenient.verify(b"anything", &Signature::from_bytes(&signature)).is_ok());
        assert!(!weak.verify(b"anything", &signature));
        assert!(SMALL_ORDER.iter().all(|id| NodeId::from_bytes(*id).key().is_none()));
    }

    #[test]
    fn only_points_of_the_large_prime_order_are_public_keys() {
        use curve25519_dalek::edwards::CompressedEdwardsY;
        for secret in 1..20 {
            assert!(key(secret).id().is_public_key());
            let good = CompressedEdwardsY(*key(secret).id().as_bytes()).decompress().unwrap();
            for torsion in &EIGHT_TORSION[1..] {
                let mixed = (good + torsion).compress().to_bytes();
                assert!(!NodeId::from_bytes(mixed).is_public_key());
            }
        }
        for mut point in *SMALL_ORDER {
            assert!(!NodeId::from_bytes(point).is_public_key());
            point[31] ^= 0x80;
            assert!(!NodeId::from_bytes(point).is_public_key());
        }
        // The same y coordinates plus the field's prime are encodings that are not canonical.
        for y in 0xed..=0xff {
            for sign in [0x7f, 0xff] {
                let mut bytes = [0xff; ID_LEN];
                (bytes[0], bytes[ID_LEN - 1]) = (y, sign);
                assert!(!NodeId::from_bytes(bytes).is_public_key());
            }
        }
        assert!(!NodeId::from_bytes([0xff; 32]).is_public_key());
        let id = NodeId::from_bytes([0xff; 32]);
        assert_eq!(id.checked(), Err(NotAKey(id)));
        assert_eq!(key(1).id().checked(), Ok(key(1).id()));
    }

    #[test]
    fn points_of_small_order_are_refused_in_signatures() {
        // For a key with a component of small order, a signature with such a point can be forged.
        use curve25519_dalek::edwards::CompressedEdwardsY;
        let good = CompressedEdwardsY(*key(1).id().as_bytes()).decompress().unwrap();
        let mixed = NodeId::from_bytes((good + EIGHT_TORSION[1]).compress().to_bytes());
        let key = mixed.key().unwrap();
        for point in *SMALL_ORDER {
            let mut signature = [0; SIGNATURE_LEN];
            signature[..ID_LEN].copy_from_slice(&point);
            assert!(!key.verify(b"anything", &signature));
        }
    }

    proptest::proptest! {
        #[test]
        fn valid_signatures_are_those_of_the_strict_check(
            seed: u8, message: Vec<u8>, at in 0usize..64, flip: u8
        ) {
            let key = key(seed);
            let mut signature = key.sign(&message);
            signature[at] ^= flip;
            let strict = VerifyingKey::from_bytes(key.id().as_bytes()).unwrap();
            let strict = strict.verify_strict(&message, &Signature::from_bytes(&signature)).is_ok();
            proptest::prop_assert_eq!(key.id().verify(&message, &signature), strict);
            proptest::prop_assert_eq!(strict, flip == 0);
        }
    }

    #[test]
    fn the_debug_form_of_a_key_hides_its_secret() {
        assert!(!format!("{:?}", key(0xab)).contains("abab"));
    }

    #[test]
    fn a_hash_is_the_one_that_b3sum_prints() {
        // This is the hash of the empty input, from the test vectors of BLAKE3.
        let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(Hash::of(b"").to_string(), empty);
    }
}
