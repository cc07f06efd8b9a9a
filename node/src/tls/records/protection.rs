//! The keys of one direction of a session (RFC 8446, section 7.3), which seal and open its records
//! (section 5.2).

use std::fmt;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf;
use peerkit_proto::tls::{
    ContentType, HEADER_LEN, RecordError, TAG_LEN, TRAILER_LEN, record_header,
};
use zeroize::Zeroizing;

/// A traffic secret. Its length is that of SHA-256, the hash of all cipher suites that nodes offer.
pub(super) type TrafficSecret = Zeroizing<[u8; 32]>;

/// Maximum number of records that one key seals: AES-GCM allows 2^24.5 (section 5.5).
const MAX_RECORDS: u64 = 1 << 24;

/// The AEAD of a cipher suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cipher {
    Aes128Gcm,
    ChaCha20Poly1305,
}

impl Cipher {
    fn algorithm(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128Gcm => &aead::AES_128_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }
}

/// Seals or opens the records of one direction, in their order.
pub(super) struct RecordProtection {
    cipher: Cipher,
    secret: TrafficSecret,
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    /// The number of the next record under this key.
    next: u64,
    /// Maximum number of records under one key.
    limit: u64,
}

impl RecordProtection {
    /// Derives key and IV from `secret`.
    ///
    /// # Errors
    /// The cryptographic library refuses them.
    pub(super) fn new(cipher: Cipher, secret: TrafficSecret) -> Result<Self, Unspecified> {
        Self::with(cipher, secret, |_, _| Ok(()))
    }

    /// Derives key and IV from `secret`, and checks that they are `key` and `iv`.
    ///
    /// # Errors
    /// The derived key or IV differs, or as for [`Self::new`].
    pub(super) fn matching(
        cipher: Cipher,
        secret: TrafficSecret,
        key: &[u8],
        iv: &[u8],
    ) -> Result<Self, Unspecified> {
        Self::with(cipher, secret, |derived_key, derived_iv| {
            verify_slices_are_equal(derived_key, key)?;
            verify_slices_are_equal(derived_iv, iv)
        })
    }

    fn with(
        cipher: Cipher,
        secret: TrafficSecret,
        check: impl FnOnce(&[u8], &[u8]) -> Result<(), Unspecified>,
    ) -> Result<Self, Unspecified> {
        // Room for the largest key of all cipher suites. It is wiped when it is dropped.
        let mut key = Zeroizing::new([0; 32]);
        let key = key.get_mut(..cipher.algorithm().key_len()).ok_or(Unspecified)?;
        expand(&secret, b"key", key)?;
        let mut iv = [0; NONCE_LEN];
        expand(&secret, b"iv", &mut iv)?;
        check(key, &iv)?;
        // The "less safe" kind takes any nonce. The nonces here are made of record numbers, and never repeat.
        let key = LessSafeKey::new(UnboundKey::new(cipher.algorithm(), key)?);
        Ok(Self { cipher, secret, key, iv, next: 0, limit: MAX_RECORDS })
    }

    /// Changes to the next key. The peer has to change its key at the same record.
    pub(super) fn update(&mut self) -> Result<(), Unspecified> {
        let mut secret = TrafficSecret::default();
        expand(&self.secret, b"traffic upd", &mut secret[..])?;
        *self = Self { limit: self.limit, ..Self::new(self.cipher, secret)? };
        Ok(())
    }

    /// Returns whether this key may seal at most one more record, which then has to announce the next key.
    pub(super) fn needs_update(&self) -> bool {
        self.next >= self.limit.saturating_sub(1)
    }

    #[cfg(test)]
    pub(super) fn limit_records(&mut self, records: u64) {
        self.limit = records;
    }

    /// Seals `content` into `record`, which is longer by [`HEADER_LEN`] and [`TRAILER_LEN`].
    ///
    /// # Errors
    /// The key has sealed its maximum number of records, the lengths do not fit, or the cryptographic library
    /// fails. After an error `record` must not be sent.
    pub(super) fn seal(
        &mut self,
        kind: ContentType,
        content: &[u8],
        record: &mut [u8],
    ) -> Result<(), Unspecified> {
        let (head, sealed, tail) = parts(record)?;
        *head = record_header(content.len());
        let (nonce, aad) = (self.sealing_nonce()?, Aad::from(&*head));
        self.key.seal_out_of_place_scatter(nonce, aad, content, sealed, &[kind.number()], tail)
    }

    /// Seals the content that is already in `record`, between the room for the header and for the trailer.
    ///
    /// # Errors
    /// As for [`Self::seal`].
    pub(super) fn seal_in_place(
        &mut self,
        kind: ContentType,
        record: &mut [u8],
    ) -> Result<(), Unspecified> {
        let (head, content, tail) = parts(record)?;
        *head = record_header(content.len());
        let (nonce, aad) = (self.sealing_nonce()?, Aad::from(&*head));
        self.key.seal_in_place_scatter(nonce, aad, content, &[kind.number()], tail)
    }

    /// Opens the protected `record` into `opened`, which is shorter by [`HEADER_LEN`] and [`TAG_LEN`].
    ///
    /// # Errors
    /// `record` is not the next record of this session. The session is over then, and the bytes in `opened`
    /// have no meaning.
    pub(super) fn open(&mut self, record: &[u8], opened: &mut [u8]) -> Result<(), RecordError> {
        let (head, payload) =
            record.split_first_chunk::<HEADER_LEN>().ok_or(RecordError::TooShort(record.len()))?;
        let (sealed, tag) =
            payload.split_last_chunk::<TAG_LEN>().ok_or(RecordError::TooShort(payload.len()))?;
        let opening =
            self.key.open_separate_gather(self.nonce(), Aad::from(head), sealed, tag, opened);
        opening.map_err(|Unspecified| RecordError::Forged)?;
        // The record is not counted after an error: the session is over then, and no other record may be
        // tried in its place.
        self.next += 1;
        Ok(())
    }

    /// Takes the nonce of the next record to seal. The record's number counts as used even if sealing fails.
    fn sealing_nonce(&mut self) -> Result<Nonce, Unspecified> {
        if self.next >= self.limit {
            return Err(Unspecified);
        }
        let nonce = self.nonce();
        self.next += 1;
        Ok(nonce)
    }

    /// Returns the nonce of the next record: the IV, with the record's number XORed into its end (section
    /// 5.3).
    fn nonce(&self) -> Nonce {
        let mut nonce = self.iv;
        let number = self.next.to_be_bytes();
        nonce.iter_mut().rev().zip(number.iter().rev()).for_each(|(byte, with)| *byte ^= with);
        Nonce::assume_unique_for_key(nonce)
    }
}

impl fmt::Debug for RecordProtection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordProtection").field("cipher", &self.cipher).finish_non_exhaustive()
    }
}

/// A record's header, content and tail.
type RecordParts<'a> = (&'a mut [u8; HEADER_LEN], &'a mut [u8], &'a mut [u8; TRAILER_LEN]);

fn parts(record: &mut [u8]) -> Result<RecordParts<'_>, Unspecified> {
    let (head, rest) = record.split_first_chunk_mut::<HEADER_LEN>().ok_or(Unspecified)?;
    let (content, tail) = rest.split_last_chunk_mut::<TRAILER_LEN>().ok_or(Unspecified)?;
    Ok((head, content, tail))
}

/// Computes HKDF-Expand-Label (section 7.1) with an empty context.
fn expand(secret: &TrafficSecret, label: &[u8], out: &mut [u8]) -> Result<(), Unspecified> {
    struct Len(usize);
    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }
    const PREFIX: &[u8] = b"tls13 ";
    let len = u16::try_from(out.len()).map_err(|_| Unspecified)?.to_be_bytes();
    let label_len = u8::try_from(PREFIX.len() + label.len()).map_err(|_| Unspecified)?;
    let info = [&len[..], &[label_len], PREFIX, label, &[0]];
    let secret = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &secret[..]);
    secret.expand(&info, Len(out.len()))?.fill(out)
}

#[cfg(test)]
mod tests {
    use peerkit_proto::tls::content_type_and_len;

    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        let digits: Vec<_> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let bytes = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
        bytes.collect::<Vec<_>>().try_into().unwrap()
    }

    /// The client's first record of application data in RFC 8448, section 3.
    #[test]
    fn a_record_equals_the_example_of_the_rfc() {
        let secret = hex("9e 40 64 6c e7 9a 7f 9d c0 5a f8 88 9b ce 65 52
             87 5a fa 0b 06 df 00 87 f7 92 eb b7 c1 75 04 a5");
        let record: [u8; 72] = hex("17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe
             82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc ab 3f 2b 98 19 a8 a5 b4 6b 39 5b d5 4a 9a
             20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 69 49 15 e4");
        let data: Vec<u8> = (0..0x32).collect();
        let keys = || RecordProtection::new(Cipher::Aes128Gcm, TrafficSecret::new(secret)).unwrap();
        let mut sealed = [0; 72];
        keys().seal(ContentType::Data, &data, &mut sealed).unwrap();
        assert_eq!(sealed, record);
        let mut in_place = [0; 72];
        in_place[HEADER_LEN..][..0x32].copy_from_slice(&data);
        keys().seal_in_place(ContentType::Data, &mut in_place).unwrap();
        assert_eq!(in_place, record);
        let mut opened = [0; 0x33];
        keys().open(&record, &mut opened).unwrap();
        assert_eq!(content_type_and_len(&opened), Ok((ContentType::Data, 0x32)));
        assert_eq!(opened[..0x32], data);
    }

    #[test]
    fn a_changed_record_is_refused() {
        for cipher in [Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305] {
            let keys = || RecordProtection::new(cipher, TrafficSecret::new([7; 32])).unwrap();
            let mut record = [0; HEADER_LEN + 3 + TRAILER_LEN];
            keys().seal(ContentType::Data, b"abc", &mut record).unwrap();
            for at in 0..record.len() {
                let mut changed = record;
                changed[at] ^= 1;
                let opening = keys().open(&changed, &mut [0; 4]);
                assert_eq!(opening, Err(RecordError::Forged), "byte {at}");
            }
            let mut next = keys();
            next.open(&record, &mut [0; 4]).unwrap();
            assert_eq!(next.open(&record, &mut [0; 4]), Err(RecordError::Forged), "replayed");
            let mut updated = keys();
            updated.update().unwrap();
            assert_eq!(updated.open(&record, &mut [0; 4]), Err(RecordError::Forged), "next key");
        }
    }

    #[test]
    fn a_key_seals_no_more_records_than_its_limit() {
        let mut keys =
            RecordProtection::new(Cipher::Aes128Gcm, TrafficSecret::new([7; 32])).unwrap();
        keys.limit_records(2);
        let mut record = [0; HEADER_LEN + TRAILER_LEN];
        assert!(!keys.needs_update());
        keys.seal(ContentType::Data, &[], &mut record).unwrap();
        assert!(keys.needs_update());
        keys.seal_in_place(ContentType::Data, &mut record).unwrap();
        keys.seal(ContentType::Data, &[], &mut record).unwrap_err();
        keys.seal_in_place(ContentType::Data, &mut record).unwrap_err();
        keys.update().unwrap();
        keys.seal(ContentType::Data, &[], &mut record).unwrap();
    }
}
