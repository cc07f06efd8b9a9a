//! Invites: all that is needed to join a network, as one link that can be copied and pasted.
//!
//! ```text
//! text     "peerkit-invite://" PLACE "/#" CODE
//! PLACE    the first address as host:port, or "join" if there is none: for people, it is not read
//! CODE     the base32 (RFC 4648, lower case, no padding) of these fields:
//! version  u8 = 1
//! key      32 B                                   the secret half of the invitation's key pair
//! invitation 180 B                                the owner's statement
//! network  u16 length and UTF-8                   at most 64 bytes
//! secret   u32 length and bytes                   the network's secret, at most 256 bytes; empty if none
//! addrs    u16 count, each u16 length and UTF-8   addresses of members: at most 8
//! ...                                             fields of later versions, which are ignored
//! check    4 B                                    the first bytes of the BLAKE3 hash of all fields
//! ```
//!
//! Everything secret is in the fragment of the link, which programs do not send to servers. An invite is like
//! a password: whoever has it can become a member.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use data_encoding::BASE32_NOPAD;

use super::{Invitation, MembershipProof};
use crate::address::Address;
use crate::codec::{DecodeError, Reader, Writer};
use crate::hello::{MAX_NAME, put_addresses, read_addresses};
use crate::id::{Key, NodeId};
use crate::verify::Verifier;

/// Start of every invite.
pub const PREFIX: &str = "peerkit-invite://";

/// Maximum length of an invite, in characters: more than the longest valid one has.
pub const MAX_INVITE: usize = 8192;

/// Maximum number of addresses in an invite.
pub const MAX_INVITE_ADDRESSES: usize = 8;

/// Maximum length of the network's secret in an invite, in bytes.
pub const MAX_SECRET: usize = 256;

const VERSION: u8 = 1;
/// Length of the checksum, in bytes. 4: one mistyped invite in four billion is not noticed.
const CHECKSUM_LEN: usize = 4;

/// All that is needed to become a member of a network whose owner invites.
#[derive(Clone)]
pub struct Invite {
    /// The invitation's key.
    pub key: Key,
    /// The owner's statement about that key.
    pub invitation: Invitation,
    /// The network.
    pub network: String,
    /// The network's secret, if it has one.
    pub secret: Option<Vec<u8>>,
    /// Addresses of members, best first, at most [`MAX_INVITE_ADDRESSES`].
    pub addresses: Vec<Address>,
}

/// The reason why a text can't be read as an invite.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InviteError {
    /// The text does not begin like an invite.
    #[error("an invite begins with {PREFIX}")]
    NotAnInvite,
    /// The invite was cut short, or a letter is wrong.
    #[error("this invite was cut short or mistyped: copy it again, whole")]
    Damaged,
    /// The invite is of a later version.
    #[error("this invite is of version {0}, which this program does not know: a newer one will")]
    Version(u8),
    /// The checksum is right, but the bytes do not have the form of an invite.
    #[error("this invite can't be read: {0}")]
    Decode(#[from] DecodeError),
    /// The owner has not signed the invitation in it.
    #[error("this invite is not signed by the owner that it names")]
    Forged,
}

impl Invite {
    /// Returns the network's owner.
    #[must_use]
    pub fn owner(&self) -> NodeId {
        self.invitation.owner
    }

    /// Accepts the invitation for the node with the key `member`.
    #[must_use]
    pub fn accept(&self, member: &Key) -> MembershipProof {
        self.invitation.accept(&self.key, &self.network, member)
    }
}

/// Shows no secret.
impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { invitation, network, addresses, .. } = self;
        write!(f, "Invite({} {network:?} {addresses:?})", invitation.id.short())
    }
}

impl PartialEq for Invite {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = self.encode();
        let check = blake3::hash(&out);
        out.put_raw(&check.as_bytes()[..CHECKSUM_LEN]);
        let first = self.addresses.first().map_or_else(|| "join".to_owned(), Address::host_port);
        write!(f, "{PREFIX}{first}/#{}", BASE32_NOPAD.encode(&out).to_ascii_lowercase())
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    /// Reads an invite. Ignores what copying may add: line breaks and blanks inside the link, and quotes,
    /// brackets or punctuation around it.
    fn from_str(text: &str) -> Result<Self, InviteError> {
        let text = crate::text::clean_pasted_code(text);
        let is_invite =
            text.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
        if !is_invite {
            return Err(InviteError::NotAnInvite);
        }
        // Limits the work for a long text that begins like an invite.
        if text.len() > MAX_INVITE {
            return Err(InviteError::Damaged);
        }
        let (_, code) = text.split_once('#').ok_or(InviteError::Damaged)?;
        let bytes = BASE32_NOPAD.decode(code.to_ascii_uppercase().as_bytes());
        let bytes = bytes.map_err(|_| InviteError::Damaged)?;
        let (body, check) = bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or(InviteError::Damaged)?;
        if blake3::hash(body).as_bytes()[..CHECKSUM_LEN] != check[..] {
            return Err(InviteError::Damaged);
        }
        Self::decode(body)
    }
}

impl Invite {
    /// Returns the fields of an invite, without the checksum.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.put_raw(self.key.secret());
        self.invitation.encode(&mut out);
        out.put_str(&self.network);
        out.put_bytes(self.secret.as_deref().unwrap_or_default());
        put_addresses(&mut out, &self.addresses[..self.addresses.len().min(MAX_INVITE_ADDRESSES)]);
        out
    }

    /// Reads the fields of an invite, without the checksum.
    ///
    /// # Errors
    /// [`InviteError`] if the fields can't be read, or the owner has not signed the invitation.
    pub fn decode(fields: &[u8]) -> Result<Self, InviteError> {
        let mut reader = Reader::new(Bytes::copy_from_slice(fields));
        let version = reader.u8("invite version")?;
        // This comes after the checksum, so that a mistyped letter is not taken for a later version.
        if version != VERSION {
            return Err(InviteError::Version(version));
        }
        let key = Key::from_secret(&reader.array("invitation's secret key")?);
        let invitation = Invitation::decode(&mut reader)?;
        let network = reader.str(MAX_NAME, "network name")?;
        let secret = reader.bytes(MAX_SECRET, "network secret")?;
        let addresses = read_addresses(&mut reader, MAX_INVITE_ADDRESSES)?;
        // `finish` is not called here, because fields of later versions may follow.
        let is_signed = invitation.is_valid(&Verifier::default(), &network);
        if key.id() != invitation.id || !is_signed {
            return Err(InviteError::Forged);
        }
        let secret = (!secret.is_empty()).then(|| secret.to_vec());
        Ok(Self { key, invitation, network, secret, addresses })
    }
}
