//! TLS 1.3's record layer (RFC 8446, section 5) without its encryption: the header of a record, what
//! a record holds once it is opened, and the messages that may come after a handshake.

/// Bytes in front of each record: type, version and length.
pub const HEADER: usize = 5;

/// Most bytes of content in one record (section 5.1).
pub const MAX_CONTENT: usize = 1 << 14;

/// Most bytes of a protected record behind its header (section 5.2).
pub const MAX_PAYLOAD: usize = MAX_CONTENT + 256;

/// Bytes that show whether a record was changed: the same for every cipher of TLS 1.3 that is used.
pub const TAG: usize = 16;

/// Bytes behind the content in a record without padding: its kind, encrypted, and the tag.
pub const TAIL: usize = 1 + TAG;

/// What every record says its version is, since TLS 1.2.
const VERSION: [u8; 2] = [3, 3];

/// The least payload of a protected record: no content, its kind and the tag.
const MIN_PAYLOAD: usize = TAIL;

/// Why bytes are no records of a session that is under way. Always the other side's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Its length is over the limit.
    #[error("a TLS record of {0} bytes")]
    TooLong(usize),
    /// It is not as long as the least that there can be.
    #[error("a TLS record of {0} bytes, which is too short")]
    TooShort(usize),
    /// It is of a kind that can't come now.
    #[error("a TLS record of type {0} where none may come")]
    Unexpected(u8),
    /// Its content has no meaning.
    #[error("a TLS record without meaning")]
    Malformed,
    /// It was changed on its way, or is of another session.
    #[error("a TLS record that fails its check")]
    Forged,
}

impl RecordError {
    /// The number of the alert that tells the other side (section 6.2).
    #[must_use]
    pub fn alert(self) -> u8 {
        match self {
            Self::TooLong(_) => 22,
            Self::TooShort(_) | Self::Malformed => 50,
            Self::Unexpected(_) => 10,
            Self::Forged => 20,
        }
    }
}

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The end, or a failure: [`Alert`].
    Alert,
    /// About the session itself: [`is_key_update`].
    Handshake,
    /// The application's bytes.
    Data,
}

impl Kind {
    /// Its number in a record.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::Data => 23,
        }
    }
}

/// The header of a protected record of `content` bytes without padding. Protected records say that
/// they hold data, whatever they hold.
///
/// `content` is at most [`MAX_CONTENT`]; more is counted as that.
#[must_use]
pub fn header(content: usize) -> [u8; HEADER] {
    let payload = content.min(MAX_CONTENT) + TAIL;
    #[expect(clippy::cast_possible_truncation, reason = "at most 2^14 + 17")]
    let [high, low] = (payload as u16).to_be_bytes();
    [Kind::Data.number(), VERSION[0], VERSION[1], high, low]
}

/// The length of the protected record that `bytes` begin with, behind its header; `None` where the
/// header is not there as a whole.
///
/// # Errors
/// No protected record begins so.
pub fn payload_len(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let Some(&[kind, _, _, high, low]) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let payload = usize::from(u16::from_be_bytes([high, low]));
    // The version means nothing any more (section 5.1).
    match payload {
        _ if kind != Kind::Data.number() => Err(RecordError::Unexpected(kind)),
        MIN_PAYLOAD..=MAX_PAYLOAD => Ok(Some(payload)),
        ..MIN_PAYLOAD => Err(RecordError::TooShort(payload)),
        _ => Err(RecordError::TooLong(payload)),
    }
}

/// The length, header included, of the record of a handshake that `bytes` begin with, protected or
/// not; `None` where its header is not there as a whole.
///
/// # Errors
/// No record is as long.
pub fn handshake_record_len(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let Some(&[.., high, low]) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    match usize::from(u16::from_be_bytes([high, low])) {
        payload @ ..=MAX_PAYLOAD => Ok(Some(HEADER + payload)),
        payload => Err(RecordError::TooLong(payload)),
    }
}

/// What an opened record holds, and how many bytes of `opened` that are: behind them comes the kind,
/// then zeros as padding (section 5.4).
///
/// # Errors
/// There is no kind, none that may come after a handshake, or too much content.
pub fn content(opened: &[u8]) -> Result<(Kind, usize), RecordError> {
    let len = opened.iter().rposition(|byte| *byte != 0).ok_or(RecordError::Malformed)?;
    let kind = match opened.get(len) {
        Some(21) => Kind::Alert,
        Some(22) => Kind::Handshake,
        Some(23) => Kind::Data,
        other => return Err(RecordError::Unexpected(other.copied().unwrap_or_default())),
    };
    match len {
        ..=MAX_CONTENT => Ok((kind, len)),
        _ => Err(RecordError::TooLong(len)),
    }
}

/// What an alert says (section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alert {
    /// Nothing more comes.
    CloseNotify,
    /// The other side gives up, for the reason with this number.
    Failure(u8),
}

/// An alert's content that tells of the end.
pub const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// An alert's content that tells of a failure.
#[must_use]
pub fn failure(number: u8) -> [u8; 2] {
    [2, number]
}

impl Alert {
    /// Reads an alert's content.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(content: &[u8]) -> Result<Self, RecordError> {
        match content {
            // Whoever gives up on the session before it ends says so with 90.
            [_, 0 | 90] => Ok(Self::CloseNotify),
            [_, number] => Ok(Self::Failure(*number)),
            _ => Err(RecordError::Malformed),
        }
    }
}

/// Messages of the handshake's kind that may come after it (section 4.6).
mod message {
    pub(super) const NEW_SESSION_TICKET: u8 = 4;
    pub(super) const KEY_UPDATE: u8 = 24;
}

/// The content that tells that all further records have the next key, and whether the other side is
/// asked to change its own as well.
#[must_use]
pub fn key_update(is_asked: bool) -> [u8; 5] {
    [message::KEY_UPDATE, 0, 0, 1, u8::from(is_asked)]
}

/// Reads what came of the handshake's kind: `Some` where the other side's next record has its next
/// key, true where it asks us to change ours. Tickets are for resuming, which nobody does: they are
/// passed over.
///
/// # Errors
/// Anything else, and messages that do not end with the record.
pub fn is_key_update(content: &[u8]) -> Result<Option<bool>, RecordError> {
    let mut rest = content;
    if rest.is_empty() {
        return Err(RecordError::Malformed);
    }
    while let Some((&[kind, a, b, c], body)) = rest.split_first_chunk::<4>() {
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        let (body, behind) = body.split_at_checked(len).ok_or(RecordError::Malformed)?;
        match (kind, body, behind) {
            (message::NEW_SESSION_TICKET, ..) => rest = behind,
            // Nothing may stand behind it: it would have the old key.
            (message::KEY_UPDATE, &[asked @ (0 | 1)], []) => return Ok(Some(asked == 1)),
            (message::KEY_UPDATE, ..) => return Err(RecordError::Malformed),
            _ => return Err(RecordError::Unexpected(Kind::Handshake.number())),
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
    fn a_header_says_how_long_its_record_is() {
        assert_eq!(header(0x32), [0x17, 3, 3, 0, 0x43], "RFC 8448, section 3");
        assert_eq!(payload_len(&header(0)), Ok(Some(17)));
        assert_eq!(payload_len(&header(MAX_CONTENT)), Ok(Some(MAX_CONTENT + 17)));
        assert_eq!(payload_len(&header(7)[..4]), Ok(None));
        assert_eq!(payload_len(&[22, 3, 3, 0, 50]), Err(RecordError::Unexpected(22)));
        assert_eq!(payload_len(&[23, 3, 3, 0, 16]), Err(RecordError::TooShort(16)));
        assert_eq!(payload_len(&[23, 3, 3, 0x41, 0]), Ok(Some(MAX_PAYLOAD)));
        assert_eq!(payload_len(&[23, 3, 3, 0x41, 1]), Err(RecordError::TooLong(MAX_PAYLOAD + 1)));
        assert_eq!(handshake_record_len(&[22, 3, 1, 1, 2]), Ok(Some(5 + 258)));
        assert_eq!(handshake_record_len(&[22, 3, 1, 1]), Ok(None));
        assert_eq!(handshake_record_len(&[20, 3, 3, 255, 255]), Err(RecordError::TooLong(65535)));
    }

    #[test]
    fn the_kind_is_behind_the_content_and_before_the_padding() {
        assert_eq!(content(b"ab\x17"), Ok((Kind::Data, 2)));
        assert_eq!(content(b"\0\0\x17\0\0\0"), Ok((Kind::Data, 2)));
        assert_eq!(content(b"\x16"), Ok((Kind::Handshake, 0)));
        assert_eq!(content(b"\x01\x00\x15"), Ok((Kind::Alert, 2)));
        assert_eq!(content(b"ab\x14"), Err(RecordError::Unexpected(20)));
        assert_eq!(content(&[0; 40]), Err(RecordError::Malformed));
        assert_eq!(content(b""), Err(RecordError::Malformed));
        let long = [&[7; MAX_CONTENT + 1][..], &[23]].concat();
        assert_eq!(content(&long), Err(RecordError::TooLong(MAX_CONTENT + 1)));
    }

    #[test]
    fn alerts_end_or_fail() {
        assert_eq!(Alert::decode(&CLOSE_NOTIFY), Ok(Alert::CloseNotify));
        assert_eq!(Alert::decode(&failure(20)), Ok(Alert::Failure(20)));
        assert_eq!(Alert::decode(&[2]), Err(RecordError::Malformed));
    }

    #[test]
    fn of_what_comes_after_a_handshake_only_key_updates_count() {
        let ticket = [4, 0, 0, 2, 9, 9];
        assert_eq!(is_key_update(&key_update(false)), Ok(Some(false)));
        assert_eq!(is_key_update(&key_update(true)), Ok(Some(true)));
        assert_eq!(is_key_update(&ticket), Ok(None));
        assert_eq!(is_key_update(&[&ticket[..], &key_update(true)].concat()), Ok(Some(true)));
        let behind = [&key_update(true)[..], &ticket].concat();
        assert_eq!(is_key_update(&behind), Err(RecordError::Malformed));
        assert_eq!(is_key_update(&[24, 0, 0, 1, 2]), Err(RecordError::Malformed));
        assert_eq!(is_key_update(&[24, 0, 0, 1]), Err(RecordError::Malformed));
        assert_eq!(is_key_update(&[]), Err(RecordError::Malformed));
        assert_eq!(is_key_update(&[13, 0, 0, 0]), Err(RecordError::Unexpected(22)));
    }

    proptest! {
        #[test]
        fn content_comes_back_out(bytes: Vec<u8>, padding in 0_usize..300) {
            let opened = [&bytes[..], &[23], &vec![0; padding]].concat();
            prop_assert_eq!(content(&opened), Ok((Kind::Data, bytes.len())));
        }
    }
}
