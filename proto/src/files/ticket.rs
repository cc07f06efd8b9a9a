//! Tickets: all that is needed to fetch one share, as one word that can be copied and pasted.
//!
//! ```text
//! text     "peerkit1" and the base32 (RFC 4648, lower case, no padding) of these fields:
//! version  u8 = 2
//! hash     32 B
//! node     32 B                                   the node that shares it
//! secret   u8 = 0, or u8 = 1 and 16 B             0 if the share needs no secret
//! network  u16 length and UTF-8                   at most 64 bytes
//! addrs    u16 count, each u16 length and UTF-8   addresses of the node: at most 8
//! name     u16 length and UTF-8                   the share's name; empty if there is none
//! ...                                             fields of later versions, which are ignored
//! check    4 B                                    the first bytes of the BLAKE3 hash of all fields
//! ```
//!
//! A ticket of version 1 has no name, and no other fields between the addresses and the checksum. Such
//! tickets are still read, and tickets without a name are still written in this form.
//!
//! A ticket with a secret is like a password: it lets anyone fetch the share.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use data_encoding::BASE32_NOPAD;

use super::access::{SECRET_LEN, Secret};
use super::path::{FileName, MAX_NAME as MAX_FILE_NAME};
use super::wire::{put_addresses, take_addresses};
use crate::address::Address;
use crate::codec::{DecodeError, Reader, Writer};
use crate::hello::MAX_NAME;
use crate::id::{Hash, NodeId};

/// Prefix of every ticket.
pub const PREFIX: &str = "peerkit1";

/// Maximum length of a ticket, in characters: more than the longest valid one has.
pub const MAX_TICKET: usize = 8192;

/// The version of a ticket without a name.
const VERSION_WITHOUT_NAME: u8 = 1;
/// The version of a ticket with a name.
const VERSION_WITH_NAME: u8 = 2;
/// Length of the checksum, in bytes. 4: one mistyped ticket in four billion is not noticed.
const CHECKSUM_LEN: usize = 4;

/// All that is needed to fetch one share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The hash of the content.
    pub hash: Hash,
    /// The node that shares it.
    pub node: NodeId,
    /// The secret that a fetching node has to know, if any.
    pub secret: Option<Secret>,
    /// The network that the node belongs to.
    pub network: String,
    /// The addresses at which the node can be dialled, at most [`MAX_ADDRESSES`](super::wire::MAX_ADDRESSES).
    pub addresses: Vec<Address>,
    /// The name of the share. The same content may be shared under several names.
    pub name: Option<FileName>,
}

/// The reason why a text can't be read as a ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// The text does not begin like a ticket.
    #[error("a ticket begins with {PREFIX}")]
    NotATicket,
    /// The ticket was cut short, or a letter is wrong.
    #[error("this ticket was cut short or mistyped: copy it again, whole")]
    Damaged,
    /// The ticket is of a later version.
    #[error("this ticket is of version {0}, which this program does not know: a newer one will")]
    Version(u8),
    /// The checksum is right, but the bytes do not have the form of a ticket.
    #[error("this ticket can't be read: {0}")]
    Decode(DecodeError),
}

impl From<DecodeError> for TicketError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Older programs read only version 1, so a ticket without a name is written in that version.
        let mut out =
            vec![if self.name.is_some() { VERSION_WITH_NAME } else { VERSION_WITHOUT_NAME }];
        out.put_raw(self.hash.as_bytes());
        out.put_raw(self.node.as_bytes());
        out.put_bool(self.secret.is_some());
        if let Some(secret) = &self.secret {
            out.put_raw(secret.as_bytes());
        }
        out.put_str(&self.network);
        put_addresses(&mut out, &self.addresses);
        if let Some(name) = &self.name {
            out.put_str(name.as_str());
        }
        let check = blake3::hash(&out);
        out.put_raw(&check.as_bytes()[..CHECKSUM_LEN]);
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&out).to_ascii_lowercase())
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Reads a ticket in upper or lower case. Ignores what copying may add: line breaks and blanks inside the
    /// ticket, and quotes, brackets or punctuation around it.
    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = crate::text::clean_pasted_code(text).to_ascii_lowercase();
        let code = text.strip_prefix(PREFIX).ok_or(TicketError::NotATicket)?;
        // Limits the work for a long text that begins like a ticket.
        if code.len() > MAX_TICKET {
            return Err(TicketError::Damaged);
        }
        let bytes = BASE32_NOPAD.decode(code.to_ascii_uppercase().as_bytes());
        let bytes = bytes.map_err(|_| TicketError::Damaged)?;
        let (body, check) = bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or(TicketError::Damaged)?;
        if blake3::hash(body).as_bytes()[..CHECKSUM_LEN] != check[..] {
            return Err(TicketError::Damaged);
        }
        let mut reader = Reader::new(Bytes::copy_from_slice(body));
        let version = reader.u8("ticket version")?;
        // This comes after the checksum, so that a mistyped letter is not taken for a later version.
        if !matches!(version, VERSION_WITHOUT_NAME | VERSION_WITH_NAME) {
            return Err(TicketError::Version(version));
        }
        let mut ticket = Self {
            hash: reader.hash("ticket hash")?,
            node: reader.node_id("ticket node")?,
            secret: if reader.bool("ticket secret flag")? {
                Some(Secret::from_bytes(reader.array::<SECRET_LEN>("ticket secret")?))
            } else {
                None
            },
            network: reader.str(MAX_NAME, "ticket network")?,
            addresses: take_addresses(&mut reader)?,
            name: None,
        };
        if version == VERSION_WITHOUT_NAME {
            reader.finish()?;
            return Ok(ticket);
        }
        let name = reader.str(MAX_FILE_NAME, "ticket name")?;
        // `finish` is not called here, because fields of later versions may follow.
        if !name.is_empty() {
            let name = FileName::new(name).map_err(|_| DecodeError::Invalid("ticket name"))?;
            ticket.name = Some(name);
        }
        Ok(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::wire::MAX_ADDRESSES;
    use crate::id::Key;
    use proptest::prelude::*;

    fn ticket() -> Ticket {
        Ticket {
            hash: Hash::of(b"content"),
            node: Key::from_secret(&[1; 32]).id(),
            secret: Some(Secret::from_bytes([9; 16])),
            network: "peerkit".into(),
            addresses: vec!["192.168.1.5:7117".parse().unwrap()],
            name: Some(FileName::new("b.txt").unwrap()),
        }
    }

    fn text_of(mut body: Vec<u8>) -> String {
        let check = blake3::hash(&body);
        body.put_raw(&check.as_bytes()[..CHECKSUM_LEN]);
        format!("{PREFIX}{}", BASE32_NOPAD.encode(&body).to_ascii_lowercase())
    }

    fn body_of(ticket: &Ticket) -> Vec<u8> {
        let text = ticket.to_string().to_ascii_uppercase();
        let mut bytes = BASE32_NOPAD.decode(&text.as_bytes()[PREFIX.len()..]).unwrap();
        bytes.truncate(bytes.len() - CHECKSUM_LEN);
        bytes
    }

    #[test]
    fn a_ticket_is_one_word_that_can_be_pasted() {
        let text = ticket().to_string();
        assert!(text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()), "{text}");
        assert_eq!(text.parse(), Ok(ticket()));
        for pasted in [
            format!(" {}\n", text.to_uppercase()),
            format!("\u{201c}{text}\u{201d}."),
            format!("<{}\r\n  {}\n{}>,", &text[..72], &text[72..144], &text[144..]),
            format!("> {}\n> {}", &text[..72], &text[72..]),
        ] {
            assert_eq!(pasted.parse(), Ok(ticket()), "{pasted:?}");
        }
        let open = Ticket { secret: None, addresses: Vec::new(), ..ticket() };
        assert_eq!(open.to_string().parse(), Ok(open));
        let addresses = vec!["[2001:db8::1]:65535".parse().unwrap(); MAX_ADDRESSES];
        let name = Some(FileName::new("é".repeat(MAX_FILE_NAME / 2)).unwrap());
        let long = Ticket { network: "n".repeat(MAX_NAME), addresses, name, ..ticket() };
        assert_eq!(long.to_string().parse(), Ok(long));
    }

    #[test]
    fn tickets_of_version_1_and_unknown_fields_are_accepted() {
        let old = Ticket { name: None, ..ticket() };
        assert_eq!(body_of(&old)[0], 1, "the first version");
        assert_eq!(old.to_string().parse(), Ok(old.clone()));
        let mut longer = body_of(&old);
        longer.push(0);
        assert!(matches!(text_of(longer).parse::<Ticket>(), Err(TicketError::Decode(_))));

        let mut later = body_of(&ticket());
        assert_eq!(later[0], 2);
        later.extend(b"a field of a later version");
        assert_eq!(text_of(later).parse(), Ok(ticket()));
        let mut other = body_of(&ticket());
        other[0] = 3;
        assert_eq!(text_of(other).parse::<Ticket>(), Err(TicketError::Version(3)));
        let mut evil = body_of(&ticket());
        let end = evil.len();
        evil[end - 5..].copy_from_slice(b"../ab");
        assert!(matches!(text_of(evil).parse::<Ticket>(), Err(TicketError::Decode(_))));
    }

    #[test]
    fn a_damaged_ticket_is_reported_as_damaged() {
        let text = ticket().to_string();
        assert_eq!("hello".parse::<Ticket>(), Err(TicketError::NotATicket));
        assert_eq!(PREFIX.parse::<Ticket>(), Err(TicketError::Damaged));
        assert_eq!(text[..text.len() - 1].parse::<Ticket>(), Err(TicketError::Damaged));
        assert_eq!(format!("{text}a").parse::<Ticket>(), Err(TicketError::Damaged));
    }

    proptest! {
        #[test]
        fn one_wrong_letter_is_detected(at in any::<prop::sample::Index>(), letter in "[a-z2-7]") {
            let text = ticket().to_string();
            let at = PREFIX.len() + at.index(text.len() - PREFIX.len());
            let mut other = text.clone();
            other.replace_range(at..=at, &letter);
            if other != text {
                prop_assert_eq!(other.parse::<Ticket>(), Err(TicketError::Damaged));
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "(peerkit1)?[a-z2-7]{0,300}") {
            let _ = text.parse::<Ticket>();
        }
    }
}
