//! Sealed messages. Only the recipient can open a sealed message, and the message proves its sender
//! to the recipient.
//!
//! Messages are encrypted by HPKE (RFC 9180) in its base mode, with DHKEM(X25519, HKDF-SHA256),
//! HKDF-SHA256 and ChaCha20-Poly1305. The X25519 keys are derived from the nodes' Ed25519 keys by
//! the birational map of RFC 7748, section 4.1. E. Thormarker shows that one key pair may be used
//! for both purposes: "On using the same key pair for Ed25519 and an X25519 based KEM" (2021).
//!
//! A sealed message contains the sender's signature over its content and its recipient. HPKE's
//! authenticated mode would need no signature. But then an attacker with the recipient's key could
//! forge messages from any sender to that recipient (RFC 9180, section 9.1.1). There is no forward
//! secrecy: an attacker who steals the recipient's key can open messages that were recorded
//! earlier. If that matters, use a link, which has new keys for each connection.
//!
//! The receipt is a secret that only the sender and the recipient can compute (with HPKE's
//! exporter). So a relaying node can't claim that a message was received when it was not.

use bytes::Bytes;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, HpkeError, Kem, OpModeR, OpModeS, Serializable};
use rand_core::CryptoRng;

use crate::codec::{DecodeError, Reader, Writer};
use crate::frame::relay::{Receipt, RelayLabel};
use crate::frame::{Refusal, put_message, put_outcome, read_outcome};
use crate::hello::{MAX_NAME, MAX_PROTOCOL};
use crate::id::{ID_LEN, Key, NodeId, SIGNATURE_LEN};
use crate::message::{Message, PackedMessage};

/// Maximum number of bytes by which a sealed message is longer than its content. They are the
/// encapsulated key, the tag, the sender's identity and name, the time, the signature and the head
/// byte.
pub const OVERHEAD: usize = ENCAPSULATED + TAG + ID_LEN + 8 + 2 + MAX_NAME + SIGNATURE_LEN + 1;

/// Length of an encapsulated X25519 key in bytes (RFC 9180, section 7.1).
const ENCAPSULATED: usize = 32;

/// Length of the tag of Poly1305 in bytes.
const TAG: usize = 16;

/// The prefix of the signed bytes and of HPKE's info. It separates sealed messages from all other
/// uses of a node's key.
const CONTEXT: &[u8] = b"peerkit direct 1";

/// The label for exporting the receipt.
const RECEIPT: &[u8] = b"receipt";

type Suite = X25519HkdfSha256;

/// The content of a sealed message, with its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The node that wrote and signed it.
    pub sender: NodeId,
    /// The name that the sender gives itself.
    pub name: String,
    /// The time at which it was sealed, by the sender's clock, in milliseconds since 1970.
    pub time: u64,
    /// The message, request or reply.
    pub content: LetterContent,
}

/// The message, request or reply in a letter.
///
/// On the wire the first byte is `0e` for a request, `0f` for a reply, and otherwise the head byte
/// of a message. `0e` and `0f` are not valid head bytes. The fields follow as in a frame of that
/// kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LetterContent {
    /// A message.
    Message(PackedMessage),
    /// A request.
    Request {
        /// The number of the request. The reply has the same number.
        id: u64,
        /// The kind of request.
        name: String,
        /// The content of the request.
        body: PackedMessage,
    },
    /// The reply to a request.
    Reply {
        /// The request's number.
        id: u64,
        /// The answer, or the reason why there is none.
        outcome: Result<PackedMessage, Refusal>,
    },
}

/// The first byte of a request.
const REQUEST: u8 = 0x0e;

/// The first byte of a reply.
const REPLY: u8 = 0x0f;

impl LetterContent {
    /// Appends the encoded content to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Message(packed) => put_message(out, packed),
            Self::Request { id, name, body } => {
                out.put_u8(REQUEST);
                out.put_u64(*id);
                out.put_str(name);
                put_message(out, body);
            }
            Self::Reply { id, outcome } => {
                out.put_u8(REPLY);
                out.put_u64(*id);
                put_outcome(out, outcome);
            }
        }
    }

    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        match reader.u8("letter content")? {
            REQUEST => Ok(Self::Request {
                id: reader.u64("request")?,
                name: reader.str(MAX_PROTOCOL, "request name")?,
                body: PackedMessage::decode(reader)?,
            }),
            REPLY => Ok(Self::Reply { id: reader.u64("reply")?, outcome: read_outcome(reader)? }),
            head => Ok(Self::Message(PackedMessage::new(head, reader.take_rest())?)),
        }
    }
}

impl From<PackedMessage> for LetterContent {
    fn from(packed: PackedMessage) -> Self {
        Self::Message(packed)
    }
}

impl From<Message> for LetterContent {
    fn from(message: Message) -> Self {
        Self::Message(PackedMessage::uncompressed(message))
    }
}

/// A sealed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The bytes to send.
    pub bytes: Bytes,
    /// The secret by which the recipient can prove that it has opened the message.
    pub receipt: Receipt,
}

/// The reason why a message can't be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The recipient's identity is not a public key.
    #[error("the recipient's identity is not a public key")]
    NoKey,
    /// The message was sealed to another node, for another network or with another label, or it was
    /// changed on its way.
    #[error("it is not sealed to this node in this network, or was changed on its way")]
    Broken,
    /// The decrypted bytes are not a valid letter.
    #[error(transparent)]
    Content(#[from] DecodeError),
    /// The signature is not from the sender that the message names.
    #[error("it is not signed by the node that it names as its sender")]
    Forged,
}

/// Seals a letter from the node with `key` to the node `label.to`.
///
/// `rng` has to be seeded from the system's random generator, and its numbers have to stay secret:
/// they can open the message.
///
/// # Errors
/// If `label.to` is not a public key.
pub fn seal(
    rng: &mut impl CryptoRng,
    key: &Key,
    network: &str,
    label: &RelayLabel,
    letter: &Letter,
) -> Result<Sealed, SealError> {
    let no_key = |_: HpkeError| SealError::NoKey;
    let key_bytes = label.to.to_x25519().ok_or(SealError::NoKey)?;
    let public = <Suite as Kem>::PublicKey::from_bytes(&key_bytes).map_err(no_key)?;
    // The signature also covers the label, so the recipient can't pass the message on as a message
    // to another node.
    let signature = key.sign(&signed(network, label, letter));
    // The sender and the signature are encrypted too, so relaying nodes do not learn the sender.
    let mut plain = Vec::with_capacity(OVERHEAD);
    plain.put_raw(letter.sender.as_bytes());
    plain.put_u64(letter.time);
    plain.put_str(&letter.name);
    plain.put_raw(&signature);
    letter.content.encode(&mut plain);

    let (mode, info) = (OpModeS::<Suite>::Base, key_info(network));
    let setup = hpke::setup_sender_with_rng::<ChaCha20Poly1305, HkdfSha256, Suite>;
    let (encapsulated, mut context) = setup(&mode, &public, &info, rng).map_err(no_key)?;
    let broken = |_: HpkeError| SealError::Broken;
    let sealed = context.seal(&plain, &associated_data(label)).map_err(broken)?;
    let mut receipt = [0; 32];
    context.export(RECEIPT, &mut receipt).map_err(broken)?;
    let bytes = [&encapsulated.to_bytes()[..], &sealed[..]].concat().into();
    Ok(Sealed { bytes, receipt })
}

/// Opens a message that was sealed to the node with `key`, and verifies its sender. Send the
/// receipt only to the sender.
///
/// This does not check the age of the message, or whether it was received before.
///
/// # Errors
/// If [`seal`] did not make the message for this node, network and label, or if it was changed.
pub fn open(
    key: &Key,
    network: &str,
    label: &RelayLabel,
    sealed: &[u8],
) -> Result<(Letter, Receipt), SealError> {
    let broken = |_: HpkeError| SealError::Broken;
    let (encapsulated, sealed) = sealed.split_at_checked(ENCAPSULATED).ok_or(SealError::Broken)?;
    let encapsulated = <Suite as Kem>::EncappedKey::from_bytes(encapsulated).map_err(broken)?;
    let secret = <Suite as Kem>::PrivateKey::from_bytes(&key.to_x25519()).map_err(broken)?;
    let setup = hpke::setup_receiver::<ChaCha20Poly1305, HkdfSha256, Suite>;
    let opened = setup(&OpModeR::Base, &secret, &encapsulated, &key_info(network));
    let mut context = opened.map_err(broken)?;
    // This fails if the label was changed on the way.
    let plain = context.open(sealed, &associated_data(label)).map_err(broken)?;
    let mut receipt = [0; 32];
    context.export(RECEIPT, &mut receipt).map_err(broken)?;

    let mut reader = Reader::new(plain.into());
    let sender = reader.node_id("sender")?;
    let time = reader.u64("time")?;
    let name = reader.str(MAX_NAME, "sender's name")?;
    let signature = reader.array("signature")?;
    let content = LetterContent::decode(&mut reader)?;
    reader.finish()?;
    let letter = Letter { sender, name, time, content };
    // HPKE's base mode does not prove the sender: any node that knows the recipient's identity can
    // seal a message to it.
    if !sender.verify(&signed(network, label, &letter), &signature) {
        return Err(SealError::Forged);
    }
    Ok((letter, receipt))
}

/// Returns the bytes that the sender signs.
fn signed(network: &str, label: &RelayLabel, letter: &Letter) -> Vec<u8> {
    let mut out = Vec::with_capacity(OVERHEAD + 128);
    out.put_bytes(CONTEXT);
    out.put_str(network);
    label.encode(&mut out);
    out.put_raw(letter.sender.as_bytes());
    out.put_u64(letter.time);
    out.put_str(&letter.name);
    letter.content.encode(&mut out);
    out
}

fn key_info(network: &str) -> Vec<u8> {
    // The keys depend on these bytes, so a message for another network can't be opened.
    let mut out = Vec::new();
    out.put_bytes(CONTEXT);
    out.put_str(network);
    out
}

fn associated_data(label: &RelayLabel) -> Vec<u8> {
    // Relaying nodes have to read the label, so it is authenticated but not encrypted.
    let mut out = Vec::new();
    label.encode(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::query::QueryId;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    fn ann() -> Key {
        Key::from_secret(&[1; 32])
    }

    fn bob() -> Key {
        Key::from_secret(&[2; 32])
    }

    fn label() -> RelayLabel {
        RelayLabel { query: QueryId([7; 16]), number: 3, to: bob().id() }
    }

    fn letter(text: &str) -> Letter {
        let content = Message::text(text).into();
        Letter { sender: ann().id(), name: "ann".into(), time: 5, content }
    }

    fn sealed(text: &str) -> Sealed {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        seal(&mut rng, &ann(), "net", &label(), &letter(text)).unwrap()
    }

    #[test]
    fn a_sealed_letter_opens_with_the_same_receipt() {
        let Sealed { bytes, receipt } = sealed("hello");
        assert_eq!(open(&bob(), "net", &label(), &bytes), Ok((letter("hello"), receipt)));
        assert!(bytes.len() <= OVERHEAD + 5);
        assert!(
            !bytes.windows(5).any(|part| part == b"hello"),
            "relaying nodes can't read the content"
        );
        assert!(!bytes.windows(32).any(|part| part == ann().id().as_bytes()));
    }

    #[test]
    fn with_the_longest_name_a_sealed_letter_is_longer_by_the_overhead() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let letter = Letter { name: "n".repeat(MAX_NAME), ..letter("12345") };
        let sealed = seal(&mut rng, &ann(), "net", &label(), &letter).unwrap();
        assert_eq!(sealed.bytes.len(), OVERHEAD + 5);
    }

    #[test]
    fn sealed_requests_and_replies_can_be_opened() {
        let body = PackedMessage::uncompressed(Message::text("2 + 2"));
        for content in [
            LetterContent::Request { id: 7, name: "sum".into(), body: body.clone() },
            LetterContent::Reply { id: 7, outcome: Ok(body) },
            LetterContent::Reply { id: u64::MAX, outcome: Err(Refusal::NoHandler) },
            LetterContent::Reply { id: 0, outcome: Err(Refusal::Failed("too hard".into())) },
        ] {
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let letter = Letter { content, ..letter("") };
            let sealed = seal(&mut rng, &ann(), "net", &label(), &letter).unwrap();
            let opened = open(&bob(), "net", &label(), &sealed.bytes);
            assert_eq!(opened, Ok((letter, sealed.receipt)));
        }
    }

    #[test]
    fn a_letter_opens_only_for_its_recipient_network_and_label() {
        let sealed = sealed("hello").bytes;
        let broken = Err(SealError::Broken);
        assert_eq!(open(&ann(), "net", &label(), &sealed), broken);
        assert_eq!(open(&Key::from_secret(&[3; 32]), "net", &label(), &sealed), broken);
        assert_eq!(open(&bob(), "other", &label(), &sealed), broken);
        for other in [
            RelayLabel { query: QueryId([8; 16]), ..label() },
            RelayLabel { number: 4, ..label() },
            RelayLabel { to: ann().id(), ..label() },
        ] {
            assert_eq!(open(&bob(), "net", &other, &sealed), broken);
        }
    }

    #[test]
    fn a_letter_with_a_changed_or_missing_byte_does_not_open() {
        let sealed = sealed("hello").bytes;
        for at in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[at] ^= 0x80;
            assert_eq!(open(&bob(), "net", &label(), &changed), Err(SealError::Broken), "at {at}");
            assert!(open(&bob(), "net", &label(), &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_letter_that_is_not_signed_by_its_sender_is_forged() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mallory = Key::from_secret(&[3; 32]);
        let sealed = seal(&mut rng, &mallory, "net", &label(), &letter("hello")).unwrap();
        let opened = open(&bob(), "net", &label(), &sealed.bytes);
        assert_eq!(opened, Err(SealError::Forged));
    }

    #[test]
    fn sealing_twice_gives_different_keys_and_receipts() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut seal = || seal(&mut rng, &ann(), "net", &label(), &letter("hello")).unwrap();
        let (one, other) = (seal(), seal());
        assert_ne!(one.bytes[..ENCAPSULATED], other.bytes[..ENCAPSULATED]);
        assert_ne!(one.receipt, other.receipt);
    }

    #[test]
    fn a_letter_to_an_identity_that_is_not_a_key_is_not_sealed() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut small = [0; 32];
        small[0] = 1;
        // The first is not a point of the curve. The second is a point of small order.
        for no_key in [[2; 32], small] {
            let label = RelayLabel { to: NodeId::from_bytes(no_key), ..label() };
            let sealed = seal(&mut rng, &ann(), "net", &label, &letter("hello"));
            assert_eq!(sealed, Err(SealError::NoKey));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_open(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(open(&bob(), "net", &label(), &bytes).is_err());
        }

        #[test]
        fn any_sealed_content_opens_to_the_same_content(text in ".{0,100}", seed: u64, number: u64) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let label = RelayLabel { number, ..label() };
            let sealed = seal(&mut rng, &ann(), "net", &label, &letter(&text)).unwrap();
            let opened = open(&bob(), "net", &label, &sealed.bytes);
            prop_assert_eq!(opened, Ok((letter(&text), sealed.receipt)));
        }
    }
}
