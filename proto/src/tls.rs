//! The record layer of TLS 1.3 (RFC 8446, section 5) without encryption: record headers, the
//! content of decrypted records, alerts, and the messages that may follow a handshake.

/// Length of a record's header in bytes: type, version and length.
pub const HEADER_LEN: usize = 5;

/// Maximum number of bytes of content in one record (section 5.1).
pub const MAX_CONTENT: usize = 1 << 14;

/// Maximum number of bytes after the header of an encrypted record (section 5.2).
pub const MAX_PAYLOAD: usize = MAX_CONTENT + 256;

/// Length of the authentication tag in bytes. It is the same for all cipher suites in use.
pub const TAG_LEN: usize = 16;

/// Number of bytes after the content in a record without padding: the content type, which is
/// encrypted, and the tag.
pub const TRAILER_LEN: usize = 1 + TAG_LEN;

/// The version in the header of every record: that of TLS 1.2, also in TLS 1.3.
const VERSION: [u8; 2] = [3, 3];

/// Minimum number of bytes after the header of an encrypted record: a content type and the tag.
const MIN_PAYLOAD: usize = TRAILER_LEN;

/// The reason why received bytes are not valid records. It is always the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The length of the record is over the limit.
    #[error("a TLS record of {0} bytes, which is too long")]
    TooLong(usize),
    /// The length of the record is below the minimum.
    #[error("a TLS record of {0} bytes, which is too short")]
    TooShort(usize),
    /// A record of this type may not come at this point.
    #[error("a TLS record of type {0}, which may not come here")]
    Unexpected(u8),
    /// The record has only padding, and no content type.
    #[error("a TLS record without a content type")]
    NoContentType,
    /// The content of the record is malformed.
    #[error("a malformed TLS record")]
    Malformed,
    /// The authentication tag is wrong: the record was changed on its way, or belongs to another
    /// session.
    #[error("a TLS record with a wrong authentication tag")]
    Forged,
}

impl RecordError {
    /// Returns the number of the alert that reports this error to the peer (section 6.2).
    #[must_use]
    pub fn alert(self) -> u8 {
        match self {
            // record_overflow
            Self::TooLong(_) => 22,
            // decode_error
            Self::TooShort(_) | Self::Malformed => 50,
            // unexpected_message
            Self::Unexpected(_) | Self::NoContentType => 10,
            // bad_record_mac
            Self::Forged => 20,
        }
    }
}

/// The type of a record's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentType {
    /// An [`Alert`], which ends the session or reports an error.
    Alert = 21,
    /// A message of TLS itself, such as a [`key_update_message`].
    Handshake = 22,
    /// The application's bytes.
    Data = 23,
}

impl ContentType {
    /// Returns the number of this type in a record.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// Returns the header of an encrypted record with `content` bytes of content and no padding. The
/// type in the header of an encrypted record is always application data.
///
/// `content` may be at most [`MAX_CONTENT`]. For a larger one the header is that of a full record.
#[must_use]
pub fn record_header(content: usize) -> [u8; HEADER_LEN] {
    let payload = content.min(MAX_CONTENT) + TRAILER_LEN;
    #[expect(clippy::cast_possible_truncation, reason = "at most 2^14 + 17")]
    let [high, low] = (payload as u16).to_be_bytes();
    [ContentType::Data.number(), VERSION[0], VERSION[1], high, low]
}

/// Returns the number of bytes after the header of the encrypted record that `bytes` begin with, or
/// `None` if the header is incomplete.
///
/// # Errors
/// If no encrypted record has this header.
pub fn payload_len(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let Some(&[kind, _, _, high, low]) = bytes.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let payload = usize::from(u16::from_be_bytes([high, low]));
    // The version has to be ignored (section 5.1).
    match payload {
        _ if kind != ContentType::Data.number() => Err(RecordError::Unexpected(kind)),
        MIN_PAYLOAD..=MAX_PAYLOAD => Ok(Some(payload)),
        ..MIN_PAYLOAD => Err(RecordError::TooShort(payload)),
        _ => Err(RecordError::TooLong(payload)),
    }
}

/// Returns the length, header included, of the record that `bytes` begin with, or `None` if the
/// header is incomplete. This is for records of the handshake, which may or may not be encrypted.
///
/// # Errors
/// If the type of the record is none of TLS, or the length is over the limit.
pub fn handshake_record_len(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    // A server of another protocol may send a text. Without this check, two of its letters would be read as
    // a length, and the reader would wait for that many bytes.
    if let Some(kind) = bytes.first().filter(|kind| !(20..=23).contains(*kind)) {
        return Err(RecordError::Unexpected(*kind));
    }
    let Some(&[.., high, low]) = bytes.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    match usize::from(u16::from_be_bytes([high, low])) {
        payload @ ..=MAX_PAYLOAD => Ok(Some(HEADER_LEN + payload)),
        payload => Err(RecordError::TooLong(payload)),
    }
}

/// Returns the type and the length of the content of a decrypted record. The record begins with the
/// content. The content type follows, then zeros as padding (section 5.4).
///
/// # Errors
/// If the content type is missing or may not follow a handshake, or the content is too long.
pub fn content_type_and_len(decrypted: &[u8]) -> Result<(ContentType, usize), RecordError> {
    // The content type is the last byte that is not zero. A record without one gets the alert
    // unexpected_message (section 5.4).
    let last = decrypted.iter().rposition(|byte| *byte != 0);
    let len = last.ok_or(RecordError::NoContentType)?;
    let kind = match decrypted.get(len) {
        Some(21) => ContentType::Alert,
        Some(22) => ContentType::Handshake,
        Some(23) => ContentType::Data,
        other => return Err(RecordError::Unexpected(other.copied().unwrap_or_default())),
    };
    match len {
        ..=MAX_CONTENT => Ok((kind, len)),
        _ => Err(RecordError::TooLong(len)),
    }
}

/// An alert (section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alert {
    /// The peer sends no more data.
    CloseNotify,
    /// The peer ends the session because of the error with this number.
    Failure(u8),
}

/// The content of the alert after which the sender sends no more data.
pub const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// Returns the content of the alert that reports an error.
#[must_use]
pub fn failure_alert(number: u8) -> [u8; 2] {
    [2, number]
}

impl Alert {
    /// Reads an alert's content.
    ///
    /// # Errors
    /// If the content is malformed.
    pub fn decode(content: &[u8]) -> Result<Self, RecordError> {
        // The first byte is the level. It is ignored: in TLS 1.3 the level follows from the number
        // (section 6).
        match content {
            // user_canceled (90) ends the session in the same way as close_notify (0).
            [_, 0 | 90] => Ok(Self::CloseNotify),
            [_, number] => Ok(Self::Failure(*number)),
            _ => Err(RecordError::Malformed),
        }
    }
}

/// The types of handshake messages that may follow the handshake (section 4.6).
mod message {
    pub(super) const NEW_SESSION_TICKET: u8 = 4;
    pub(super) const KEY_UPDATE: u8 = 24;
}

/// Returns the content of the message after which the sender encrypts with its next key. If
/// `is_requested` is true, the message also requests that the peer updates its own key.
#[must_use]
pub fn key_update_message(is_requested: bool) -> [u8; 5] {
    [message::KEY_UPDATE, 0, 0, 1, u8::from(is_requested)]
}

/// Reads the content of a handshake record. Returns `Some` if the peer encrypts later records with
/// its next key. The value is true if the peer also requests that this node updates its key.
/// Tickets are ignored, as nodes do not resume sessions.
///
/// # Errors
/// If the record has any other message, or a message that does not end with the record.
pub fn read_key_update(content: &[u8]) -> Result<Option<bool>, RecordError> {
    let mut rest = content;
    if rest.is_empty() {
        return Err(RecordError::Malformed);
    }
    while let Some((&[kind, a, b, c], body)) = rest.split_first_chunk::<4>() {
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        let (body, after) = body.split_at_checked(len).ok_or(RecordError::Malformed)?;
        match (kind, body, after) {
            (message::NEW_SESSION_TICKET, ..) => rest = after,
            // Nothing may follow a key update in the same record: it would be encrypted with the
            // old key.
            (message::KEY_UPDATE, &[requested @ (0 | 1)], []) => return Ok(Some(requested == 1)),
            (message::KEY_UPDATE, ..) => return Err(RecordError::Malformed),
            _ => return Err(RecordError::Unexpected(ContentType::Handshake.number())),
        }
    }
    match rest {
        [] => Ok(None),
        _ => Err(RecordError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_length_of_a_record_is_read_from_its_header() {
        assert_eq!(record_header(0x32), [0x17, 3, 3, 0, 0x43], "RFC 8448, section 3");
        assert_eq!(payload_len(&record_header(0)), Ok(Some(17)));
        assert_eq!(payload_len(&record_header(MAX_CONTENT)), Ok(Some(MAX_CONTENT + 17)));
        assert_eq!(payload_len(&record_header(7)[..4]), Ok(None));
        assert_eq!(payload_len(&[22, 3, 3, 0, 50]), Err(RecordError::Unexpected(22)));
        assert_eq!(payload_len(&[23, 3, 3, 0, 16]), Err(RecordError::TooShort(16)));
        assert_eq!(payload_len(&[23, 3, 3, 0x41, 0]), Ok(Some(MAX_PAYLOAD)));
        assert_eq!(payload_len(&[23, 3, 3, 0x41, 1]), Err(RecordError::TooLong(MAX_PAYLOAD + 1)));
        assert_eq!(handshake_record_len(&[22, 3, 1, 1, 2]), Ok(Some(5 + 258)));
        assert_eq!(handshake_record_len(&[22, 3, 1, 1]), Ok(None));
        assert_eq!(handshake_record_len(&[20, 3, 3, 255, 255]), Err(RecordError::TooLong(65535)));
        assert_eq!(handshake_record_len(b"220 mail"), Err(RecordError::Unexpected(b'2')));
    }

    #[test]
    fn the_content_type_is_between_the_content_and_the_padding() {
        assert_eq!(content_type_and_len(b"ab\x17"), Ok((ContentType::Data, 2)));
        assert_eq!(content_type_and_len(b"\0\0\x17\0\0\0"), Ok((ContentType::Data, 2)));
        assert_eq!(content_type_and_len(b"\x16"), Ok((ContentType::Handshake, 0)));
        assert_eq!(content_type_and_len(b"\x01\x00\x15"), Ok((ContentType::Alert, 2)));
        assert_eq!(content_type_and_len(b"ab\x14"), Err(RecordError::Unexpected(20)));
        assert_eq!(content_type_and_len(&[0; 40]), Err(RecordError::NoContentType));
        assert_eq!(content_type_and_len(b""), Err(RecordError::NoContentType));
        let long = [&[7; MAX_CONTENT + 1][..], &[23]].concat();
        assert_eq!(content_type_and_len(&long), Err(RecordError::TooLong(MAX_CONTENT + 1)));
    }

    #[test]
    fn a_record_of_zeros_is_reported_as_an_unexpected_message() {
        let error = content_type_and_len(&[0; 40]).unwrap_err();
        assert_eq!(error.alert(), 10, "RFC 8446, section 5.4");
    }

    #[test]
    fn an_alert_ends_the_session_or_reports_an_error() {
        assert_eq!(Alert::decode(&CLOSE_NOTIFY), Ok(Alert::CloseNotify));
        assert_eq!(Alert::decode(&failure_alert(20)), Ok(Alert::Failure(20)));
        assert_eq!(Alert::decode(&[2]), Err(RecordError::Malformed));
    }

    #[test]
    fn after_the_handshake_key_updates_are_read_and_tickets_are_ignored() {
        let ticket = [4, 0, 0, 2, 9, 9];
        assert_eq!(read_key_update(&key_update_message(false)), Ok(Some(false)));
        assert_eq!(read_key_update(&key_update_message(true)), Ok(Some(true)));
        assert_eq!(read_key_update(&ticket), Ok(None));
        assert_eq!(
            read_key_update(&[&ticket[..], &key_update_message(true)].concat()),
            Ok(Some(true))
        );
        let followed = [&key_update_message(true)[..], &ticket].concat();
        assert_eq!(read_key_update(&followed), Err(RecordError::Malformed));
        assert_eq!(read_key_update(&[24, 0, 0, 1, 2]), Err(RecordError::Malformed));
        assert_eq!(read_key_update(&[24, 0, 0, 1]), Err(RecordError::Malformed));
        assert_eq!(read_key_update(&[]), Err(RecordError::Malformed));
        assert_eq!(read_key_update(&[13, 0, 0, 0]), Err(RecordError::Unexpected(22)));
    }

    proptest! {
        #[test]
        fn the_length_of_the_content_is_found_with_any_padding(bytes: Vec<u8>, padding in 0_usize..300) {
            let opened = [&bytes[..], &[23], &vec![0; padding]].concat();
            prop_assert_eq!(content_type_and_len(&opened), Ok((ContentType::Data, bytes.len())));
        }
    }
}
