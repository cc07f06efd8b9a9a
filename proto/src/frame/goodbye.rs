//! The encoding of the reason in a goodbye: a code and a text.

use std::borrow::Cow;
use std::time::Duration;

use crate::codec::{DecodeError, Reader, Writer};
use crate::event::Reason;
use crate::invitation::MembershipError;
use crate::versions::VersionGap;

use super::{MAX_TEXT, put_text};

/// The reasons that need no text. The code of a reason is its position here, counted from 1.
pub(super) const REASONS_WITHOUT_TEXT: [Reason; 18] = [
    Reason::Requested,
    Reason::Stopping,
    Reason::Duplicate,
    Reason::Replaced,
    Reason::OtherNetwork,
    Reason::WrongSecret,
    Reason::Version(None),
    Reason::Full,
    Reason::FullForAddress,
    Reason::SelfConnection,
    Reason::Slow,
    Reason::HandshakeTimeout,
    Reason::NeighbourReplaced,
    Reason::NotNeeded,
    Reason::Left,
    Reason::KeptAway,
    Reason::Discouraged,
    Reason::Banned,
];
const VERSION: u16 = 7;
const KEPT_AWAY: u16 = 16;
const DISCOURAGED: u16 = 17;
const BANNED: u16 = 18;
const MADE_ROOM: u16 = 20;
const NOT_A_MEMBER: u16 = 19;
const FAULT: u16 = 100;
const LOST: u16 = 101;
const SILENT: u16 = 102;

/// Appends a reason: its code, and a text that may be empty.
pub(super) fn put_reason(out: &mut Vec<u8>, reason: &Reason) {
    let (code, text) = match reason {
        Reason::Fault(text) => (FAULT, Cow::from(text)),
        Reason::Lost(text) => (LOST, text.into()),
        Reason::Silent(after) => (SILENT, after.as_secs().to_string().into()),
        Reason::Version(Some(gap)) => (VERSION, gap.to_wire().into()),
        Reason::Other(code, text) => (*code, text.into()),
        // Nodes of version 1 do not know these codes, and show the texts.
        Reason::MadeRoom => (MADE_ROOM, "made room for another link".into()),
        Reason::NotAMember(error) => (NOT_A_MEMBER, error.to_string().into()),
        Reason::KeptAway => (KEPT_AWAY, "disconnected by hand".into()),
        Reason::Discouraged => (DISCOURAGED, "refused after a fault".into()),
        Reason::Banned => (BANNED, "banned".into()),
        plain => {
            // `REASONS_WITHOUT_TEXT` has every reason without an arm above.
            let at =
                REASONS_WITHOUT_TEXT.iter().position(|known| known == plain).unwrap_or_default();
            (u16::try_from(at).unwrap_or_default() + 1, "".into())
        }
    };
    out.put_u16(code);
    put_text(out, &text);
}

/// Reads a reason. A code that this version does not know becomes [`Reason::Other`].
pub(super) fn read_reason(reader: &mut Reader) -> Result<Reason, DecodeError> {
    let code = reader.u16("reason")?;
    let text = reader.str(MAX_TEXT, "reason text")?;
    // Codes count from 1.
    let known = usize::from(code).checked_sub(1).and_then(|at| REASONS_WITHOUT_TEXT.get(at));
    Ok(match code {
        FAULT => Reason::Fault(text),
        LOST => Reason::Lost(text),
        MADE_ROOM => Reason::MadeRoom,
        NOT_A_MEMBER => match MembershipError::from_text(&text) {
            Some(error) => Reason::NotAMember(error),
            None => Reason::Other(code, text),
        },
        VERSION => Reason::Version(VersionGap::from_wire(&text)),
        SILENT => {
            let seconds = text.parse().map_err(|_| DecodeError::Invalid("reason text"))?;
            Reason::Silent(Duration::from_secs(seconds))
        }
        _ => known.cloned().unwrap_or(Reason::Other(code, text)),
    })
}
