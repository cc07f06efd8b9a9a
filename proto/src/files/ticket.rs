//! All that is needed to fetch one share, in one word that can be pasted.
//!
//! ```text
//! text     "peerkit1" and the base32 (RFC 4648, lower case, no padding) of
//! version  u8 = 1
//! hash     32 B
//! node     32 B                                   who shares it
//! secret   u8 = 0, or u8 = 1 and 16 B             where it takes one
//! network  u16 length and UTF-8                   at most 64 bytes
//! places   u16 count, each u16 length and UTF-8   where the node can be dialled: at most 8
//! check    4 B                                    the first of the BLAKE3 hash of all before
//! ```
//!
//! Whoever has a ticket with a secret in it can fetch the share: it is to be kept like a password.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use data_encoding::BASE32_NOPAD;

use super::access::{SECRET_LEN, Secret};
use super::wire::{put_addresses, take_addresses};
use crate::address::Address;
use crate::codec::{DecodeError, Reader, Writer};
use crate::hello::MAX_NAME;
use crate::id::{Hash, NodeId};

/// What every ticket begins with.
pub const PREFIX: &str = "peerkit1";

/// Longest ticket, in characters: above the longest that can be made.
pub const MAX_TICKET: usize = 8192;

const VERSION: u8 = 1;
const CHECK: usize = 4;

/// All that is needed to fetch one share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// What to fetch.
    pub hash: Hash,
    /// Who shares it.
    pub node: NodeId,
    /// What the node wants to be shown, if anything.
    pub secret: Option<Secret>,
    /// The network that the node belongs to.
    pub network: String,
    /// Where the node can be dialled. At most [`MAX_PLACES`](super::wire::MAX_PLACES).
    pub addresses: Vec<Address>,
}

/// Why a text is not a ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// Something else.
    #[error("a ticket begins with {PREFIX}")]
    NotATicket,
    /// Cut short, or a letter is wrong.
    #[error("this ticket was cut short or mistyped: copy it again, whole")]
    Damaged,
    /// Of a later version.
    #[error("this ticket is of version {0}, which this program does not know: a newer one will")]
    Version(u8),
    /// Whole, and yet not in the form of a ticket.
    #[error("this ticket can't be read: {0}")]
    Decode(#[from] DecodeError),
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = vec![VERSION];
        out.put_raw(self.hash.as_bytes());
        out.put_raw(self.node.as_bytes());
        out.put_bool(self.secret.is_some());
        if let Some(secret) = &self.secret {
            out.put_raw(secret.as_bytes());
        }
        out.put_str(&self.network);
        put_addresses(&mut out, &self.addresses);
        let check = blake3::hash(&out);
        out.put_raw(&check.as_bytes()[..CHECK]);
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&out).to_ascii_lowercase())
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Reads a ticket in either case, also with what pasting adds: line breaks and blanks inside,
    /// quotes, brackets or punctuation around it.
    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = crate::pasted::code(text).to_ascii_lowercase();
        let code = text.strip_prefix(PREFIX).ok_or(TicketError::NotATicket)?;
        if code.len() > MAX_TICKET {
            return Err(TicketError::Damaged);
        }
        let bytes = BASE32_NOPAD.decode(code.to_ascii_uppercase().as_bytes());
        let bytes = bytes.map_err(|_| TicketError::Damaged)?;
        let (body, check) = bytes.split_last_chunk::<CHECK>().ok_or(TicketError::Damaged)?;
        if blake3::hash(body).as_bytes()[..CHECK] != check[..] {
            return Err(TicketError::Damaged);
        }
        let mut reader = Reader::new(Bytes::copy_from_slice(body));
        let version = reader.u8("ticket version")?;
        if version != VERSION {
            return Err(TicketError::Version(version));
        }
        let ticket = Self {
            hash: reader.hash("ticket hash")?,
            node: reader.node_id("ticket node")?,
            secret: match reader.bool("ticket secret flag")? {
                true => Some(Secret::from_bytes(reader.array::<SECRET_LEN>("ticket secret")?)),
                false => None,
            },
            network: reader.str(MAX_NAME, "ticket network")?,
            addresses: take_addresses(&mut reader)?,
        };
        reader.finish()?;
        Ok(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::wire::MAX_PLACES;
    use crate::id::Key;
    use proptest::prelude::*;

    fn ticket() -> Ticket {
        Ticket {
            hash: Hash::of(b"content"),
            node: Key::from_secret(&[1; 32]).id(),
            secret: Some(Secret::from_bytes([9; 16])),
            network: "peerkit".into(),
            addresses: vec!["192.168.1.5:7117".parse().unwrap()],
        }
    }

    #[test]
    fn a_ticket_is_one_word_and_read_again() {
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
        let places = vec!["[2001:db8::1]:65535".parse().unwrap(); MAX_PLACES];
        let long = Ticket { network: "n".repeat(MAX_NAME), addresses: places, ..ticket() };
        assert_eq!(long.to_string().parse(), Ok(long));
    }

    #[test]
    fn what_is_damaged_says_so() {
        let text = ticket().to_string();
        assert_eq!("hello".parse::<Ticket>(), Err(TicketError::NotATicket));
        assert_eq!(PREFIX.parse::<Ticket>(), Err(TicketError::Damaged));
        assert_eq!(text[..text.len() - 1].parse::<Ticket>(), Err(TicketError::Damaged));
        assert_eq!(format!("{text}a").parse::<Ticket>(), Err(TicketError::Damaged));
    }

    proptest! {
        #[test]
        fn one_wrong_letter_is_seen(at in any::<prop::sample::Index>(), letter in "[a-z2-7]") {
            let text = ticket().to_string();
            let at = PREFIX.len() + at.index(text.len() - PREFIX.len());
            let mut other = text.clone();
            other.replace_range(at..=at, &letter);
            if other != text {
                prop_assert_eq!(other.parse::<Ticket>(), Err(TicketError::Damaged));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(peerkit1)?[a-z2-7]{0,300}") {
            let _ = text.parse::<Ticket>();
        }
    }
}
