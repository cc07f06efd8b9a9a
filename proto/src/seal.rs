//! Sealing: a message that the node of one key alone can open, and that proves to it who wrote it.
//!
//! HPKE (RFC 9180) in its base mode, with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and
//! ChaCha20-Poly1305. The X25519 keys are those that belong to the nodes' Ed25519 keys by the
//! birational map of RFC 7748, section 4.1; that one key pair may serve for both is shown by
//! E. Thormarker, "On using the same key pair for Ed25519 and an X25519 based KEM" (2021).
//!
//! Inside lies the sender's signature over all of it and over whom it is for. HPKE's own
//! authenticated mode would do without, but whoever got hold of the recipient's key could then
//! forge messages of anybody to it (RFC 9180, section 9.1.1); and a signature is how nodes prove
//! all else that they write. A key that is stolen later opens what was recorded before: those who
//! mind have a link, where keys are fresh each time.
//!
//! The receipt is a secret that only the two ends can compute (HPKE's exporter): nobody on the way
//! can say that a message was taken which was not.

use bytes::Bytes;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, HpkeError, Kem, OpModeR, OpModeS, Serializable};
use rand_core::CryptoRng;

use crate::codec::{DecodeError, Reader, Writer};
use crate::frame::direct::{Label, Receipt};
use crate::hello::MAX_NAME;
use crate::id::{ID_LEN, Key, NodeId, SIGNATURE_LEN};
use crate::message::Packed;

/// Bytes by which what is sealed is longer than its content, at the most: the encapsulated key, the
/// tag, the sender with its name, the time, the signature and the head byte.
pub const OVERHEAD: usize = ENCAPSULATED + TAG + ID_LEN + 8 + 2 + MAX_NAME + SIGNATURE_LEN + 1;

/// Bytes of an encapsulated X25519 key (RFC 9180, section 7.1).
const ENCAPSULATED: usize = 32;

/// Bytes of Poly1305's tag.
const TAG: usize = 16;

/// Sets these seals and signatures apart from anything else that a node's key is used for.
const CONTEXT: &[u8] = b"peerkit direct 1";

/// What the receipt is derived for.
const RECEIPT: &[u8] = b"receipt";

type Suite = X25519HkdfSha256;

/// What is sealed: a message, and who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Who wrote and signed it.
    pub sender: NodeId,
    /// What the sender calls itself.
    pub name: String,
    /// When, by the sender's clock, in milliseconds since 1970.
    pub time: u64,
    /// The content.
    pub content: Packed,
}

/// A sealed letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What travels.
    pub bytes: Bytes,
    /// What the recipient proves with that it opened it.
    pub receipt: Receipt,
}

/// Why something sealed can't be opened, or can't be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The recipient's identity is no key.
    #[error("the recipient's identity is not a public key")]
    NoKey,
    /// It is sealed to another key, for another network, or as another message; or was changed.
    #[error("it is not sealed to this node in this network, or was changed on its way")]
    Broken,
    /// It opens, and holds nothing that makes sense.
    #[error(transparent)]
    Content(#[from] DecodeError),
    /// Whoever it says has written it has not signed it.
    #[error("it is not signed by the one who is said to have written it")]
    Forged,
}

/// Seals a letter of the node that has `key` to `label.to`.
///
/// `rng` has to be secret and seeded from the system's generator: who can guess it can open the
/// letter.
///
/// # Errors
/// Where `label.to` is not a public key.
pub fn seal(
    rng: &mut impl CryptoRng,
    key: &Key,
    network: &str,
    label: &Label,
    letter: &Letter,
) -> Result<Sealed, SealError> {
    let public = label.to.to_x25519().ok_or(SealError::NoKey)?;
    let public = public_key(&public)?;
    let signature = key.sign(&signed(network, label, letter));
    let mut plain = Vec::with_capacity(OVERHEAD + letter.content.payload.len());
    plain.put_raw(letter.sender.as_bytes());
    plain.put_u64(letter.time);
    plain.put_str(&letter.name);
    plain.put_raw(&signature);
    plain.put_u8(letter.content.head());
    plain.put_raw(&letter.content.payload);

    let (mode, info) = (OpModeS::<Suite>::Base, info(network));
    let setup = hpke::setup_sender_with_rng::<ChaCha20Poly1305, HkdfSha256, Suite>;
    let no_key = |_: HpkeError| SealError::NoKey;
    let (encapsulated, mut context) = setup(&mode, &public, &info, rng).map_err(no_key)?;
    let broken = |_: HpkeError| SealError::Broken;
    let sealed = context.seal(&plain, &associated(label)).map_err(broken)?;
    let mut receipt = [0; 32];
    context.export(RECEIPT, &mut receipt).map_err(broken)?;
    let bytes = [&encapsulated.to_bytes()[..], &sealed[..]].concat().into();
    Ok(Sealed { bytes, receipt })
}

/// Opens what was sealed to the node that has `key`, as `label` says, and checks who wrote it. The
/// receipt is for the sender alone.
///
/// Says nothing about how old it is, or whether it came before.
///
/// # Errors
/// Where it is not what [`seal`] makes for this node, network and label.
pub fn open(
    key: &Key,
    network: &str,
    label: &Label,
    sealed: &[u8],
) -> Result<(Letter, Receipt), SealError> {
    let broken = |_: HpkeError| SealError::Broken;
    let (encapsulated, sealed) = sealed.split_at_checked(ENCAPSULATED).ok_or(SealError::Broken)?;
    let encapsulated = <Suite as Kem>::EncappedKey::from_bytes(encapsulated).map_err(broken)?;
    let secret = <Suite as Kem>::PrivateKey::from_bytes(&key.to_x25519()).map_err(broken)?;
    let setup = hpke::setup_receiver::<ChaCha20Poly1305, HkdfSha256, Suite>;
    let opened = setup(&OpModeR::Base, &secret, &encapsulated, &info(network));
    let mut context = opened.map_err(broken)?;
    let plain = context.open(sealed, &associated(label)).map_err(broken)?;
    let mut receipt = [0; 32];
    context.export(RECEIPT, &mut receipt).map_err(broken)?;

    let mut reader = Reader::new(plain.into());
    let sender = reader.node_id("sender")?;
    let time = reader.u64("time")?;
    let name = reader.str(MAX_NAME, "sender's name")?;
    let signature = reader.array("signature")?;
    let content = Packed::decode(&mut reader)?;
    let letter = Letter { sender, name, time, content };
    match sender.verify(&signed(network, label, &letter), &signature) {
        true => Ok((letter, receipt)),
        false => Err(SealError::Forged),
    }
}

fn public_key(bytes: &[u8; 32]) -> Result<<Suite as Kem>::PublicKey, SealError> {
    <Suite as Kem>::PublicKey::from_bytes(bytes).map_err(|_| SealError::NoKey)
}

/// What the sender signs.
fn signed(network: &str, label: &Label, letter: &Letter) -> Vec<u8> {
    let mut out = Vec::with_capacity(OVERHEAD + 128 + letter.content.payload.len());
    out.put_bytes(CONTEXT);
    out.put_str(network);
    label.encode(&mut out);
    out.put_raw(letter.sender.as_bytes());
    out.put_u64(letter.time);
    out.put_str(&letter.name);
    out.put_u8(letter.content.head());
    out.put_raw(&letter.content.payload);
    out
}

fn info(network: &str) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_bytes(CONTEXT);
    out.put_str(network);
    out
}

fn associated(label: &Label) -> Vec<u8> {
    let mut out = Vec::new();
    label.encode(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::query::QueryId;
    use crate::message::Message;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    fn ann() -> Key {
        Key::from_secret(&[1; 32])
    }

    fn bob() -> Key {
        Key::from_secret(&[2; 32])
    }

    fn label() -> Label {
        Label { query: QueryId([7; 16]), number: 3, to: bob().id() }
    }

    fn letter(text: &str) -> Letter {
        let content = Packed::plain(Message::text(text));
        Letter { sender: ann().id(), name: "ann".into(), time: 5, content }
    }

    fn sealed(text: &str) -> Sealed {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        seal(&mut rng, &ann(), "net", &label(), &letter(text)).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_with_the_same_receipt() {
        let Sealed { bytes, receipt } = sealed("hello");
        assert_eq!(open(&bob(), "net", &label(), &bytes), Ok((letter("hello"), receipt)));
        assert!(bytes.len() <= OVERHEAD + 5);
        assert!(!bytes.windows(5).any(|part| part == b"hello"), "it can't be read on its way");
        assert!(!bytes.windows(32).any(|part| part == ann().id().as_bytes()));
    }

    #[test]
    fn with_the_longest_name_it_is_as_long_as_said() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let letter = Letter { name: "n".repeat(MAX_NAME), ..letter("12345") };
        let sealed = seal(&mut rng, &ann(), "net", &label(), &letter).unwrap();
        assert_eq!(sealed.bytes.len(), OVERHEAD + 5);
    }

    #[test]
    fn nobody_else_opens_it_and_nowhere_else() {
        let sealed = sealed("hello").bytes;
        let broken = Err(SealError::Broken);
        assert_eq!(open(&ann(), "net", &label(), &sealed), broken);
        assert_eq!(open(&Key::from_secret(&[3; 32]), "net", &label(), &sealed), broken);
        assert_eq!(open(&bob(), "other", &label(), &sealed), broken);
        for other in [
            Label { query: QueryId([8; 16]), ..label() },
            Label { number: 4, ..label() },
            Label { to: ann().id(), ..label() },
        ] {
            assert_eq!(open(&bob(), "net", &other, &sealed), broken);
        }
    }

    #[test]
    fn a_byte_changed_anywhere_or_missing_breaks_it() {
        let sealed = sealed("hello").bytes;
        for at in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[at] ^= 0x80;
            assert_eq!(open(&bob(), "net", &label(), &changed), Err(SealError::Broken), "at {at}");
            assert!(open(&bob(), "net", &label(), &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_letter_of_somebody_else_is_forged() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mallory = Key::from_secret(&[3; 32]);
        let sealed = seal(&mut rng, &mallory, "net", &label(), &letter("hello")).unwrap();
        let opened = open(&bob(), "net", &label(), &sealed.bytes);
        assert_eq!(opened, Err(SealError::Forged));
    }

    #[test]
    fn each_seal_is_another() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut seal = || seal(&mut rng, &ann(), "net", &label(), &letter("hello")).unwrap();
        let (one, other) = (seal(), seal());
        assert_ne!(one.bytes[..ENCAPSULATED], other.bytes[..ENCAPSULATED]);
        assert_ne!(one.receipt, other.receipt);
    }

    #[test]
    fn an_identity_that_is_no_key_can_not_be_sealed_to() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut small = [0; 32];
        small[0] = 1;
        // Not a point of the curve, and one of small order.
        for no_key in [[2; 32], small] {
            let label = Label { to: NodeId::from_bytes(no_key), ..label() };
            let sealed = seal(&mut rng, &ann(), "net", &label, &letter("hello"));
            assert_eq!(sealed, Err(SealError::NoKey));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(open(&bob(), "net", &label(), &bytes).is_err());
        }

        #[test]
        fn any_content_comes_through(text in ".{0,100}", seed: u64, number: u64) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let label = Label { number, ..label() };
            let sealed = seal(&mut rng, &ann(), "net", &label, &letter(&text)).unwrap();
            let opened = open(&bob(), "net", &label, &sealed.bytes);
            prop_assert_eq!(opened, Ok((letter(&text), sealed.receipt)));
        }
    }
}
