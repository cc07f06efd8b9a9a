//! The messages of the files protocol, [`FILES_PROTOCOL`].
//!
//! The requester opens a stream and sends requests. The server answers them in order. The requester may send
//! further requests before the first one is answered. Every message consists of the length of its body
//! (`u32`) and the body. All numbers are little-endian.
//!
//! Requests, with a body of at most [`MAX_REQUEST`] bytes:
//!
//! ```text
//! 0 Describe   kind u8 = 0, hash 32 B
//! 1 Pieces     kind u8 = 1, hash 32 B, first u64, count u16     1 to 1024 values of the list
//! 2 Data       kind u8 = 2, hash 32 B, first u64, count u16     1 to 1024 pieces
//! 3 Tree       kind u8 = 3, hash 32 B, first u64, count u16     1 to 1024 pieces of a folder's files
//! 4 Follow     kind u8 = 4, hash 32 B, count u16, addresses (u16 length, UTF-8): at most 8
//! 5 Cancel     kind u8 = 5
//! 6 Present    kind u8 = 6, proof 32 B
//! 7 Complete   kind u8 = 7, hash 32 B, name (u16 length, UTF-8, at most 64 bytes); optional:
//!              called (u16 length, UTF-8, at most 255 bytes)
//! ```
//!
//! Answers, with a body of at most [`MAX_ANSWER`] bytes:
//!
//! ```text
//! 0 Refused      tag u8 = 0, code u8         1 not found, 2 changed, 3 busy, 4 bad request,
//!                                            5 cancelled
//! 1 Description  tag u8 = 1, kind u8 (0 file, 1 folder), access u8 (0 open, 1 named, 2 ticket),
//!                whole u8 (1: the source has all of it), size u64, stored u64,
//!                name (u16 length, UTF-8)
//! 2 Pieces       tag u8 = 2, first u64, values 32 B each, to the end of the body
//! 3 Piece        tag u8 = 3, index u64, len u32; after the body come len raw bytes
//! 4 Held         tag u8 = 4, first u64, bits to the end of the body: bit i of byte b is piece
//!                first + 8 b + i
//! 5 Whole        tag u8 = 5
//! 6 Sources      tag u8 = 6, count u16, at most 16 of: node 32 B, count u16, addresses: at most 8
//! ```
//!
//! `Describe` is answered by one Description. `Pieces` is answered by one Pieces, with the requested values
//! that the list has; if it has none of them, the request is bad. `Data` is answered by one Piece for each
//! requested piece, in order. `Tree` is answered in the same way, with the pieces of a folder's files as
//! [`Layout`](super::Layout) numbers them. Any request can be answered by Refused instead. If Refused comes
//! after some pieces of a `Data` or `Tree`, it ends that answer.
//!
//! A body that can't be read, or whose kind is unknown, is a bad request. The stream continues after it, so
//! that later versions can add kinds. A length over the limit ends the stream.
//!
//! `Follow` is answered by Whole if the server has all pieces, and otherwise by one or more Held with the
//! pieces that it has (of a folder, as `Tree` numbers them). From then on, the server sends Held between
//! other answers whenever it gets more pieces. It also sends Sources, which names other followers and the
//! addresses that they gave. A stream follows only one hash: that of the last `Follow`.
//!
//! `Cancel` cancels every `Data` and `Tree` before it. The answer to each of them ends with Refused
//! (cancelled), unless it is complete already. `Cancel` itself has no answer.
//!
//! `Present` has no answer. It proves that the requester knows the secret of a ticket, see
//! [`Secret`](super::Secret). The proof is valid for all later requests.
//!
//! `Complete` says that the requester has received and verified all of `hash`. `name` is the name that the
//! requester gave itself. `Complete` cancels all requests before it, and has no answer. It is the last
//! message on a stream: the requester then closes its side, and reads until the server closes the other. A
//! server that does not know `Complete` refuses it as a bad request, which the requester ignores. `called` is
//! the name under which the requester asked for the content, if the Description gave another one: the same
//! content may be shared under several names. A server uses `called` only if it shares the content with the
//! requester under that name.
//!
//! The size in a Description is the number of bytes served under the hash; for a folder, the size of its
//! manifest. No message is trusted: the list is checked against the hash, each piece against the list, and
//! the size with the last piece.

use bytes::Bytes;

use super::FileKind;
use super::access::AccessKind;
use super::path::{FileName, MAX_NAME, NameError};
use super::pieces::{PIECE, PieceValue};
use crate::address::Address;
use crate::codec::{DecodeError, Reader, Writer};
use crate::hello::{MAX_NAME as MAX_NODE_NAME, Proof, put_address, read_addresses};
use crate::id::{Hash, ID_LEN, NodeId};

#[cfg(test)]
mod tests;

/// The name of the protocol, with its version. A stream is opened with this name.
pub const FILES_PROTOCOL: &str = "peerkit-files/1";

/// Maximum number of pieces, or of values of a piece list, in one request. 1024: 1 GiB of data, or 32 KiB of
/// values.
pub const MAX_PER_REQUEST: u16 = 1024;

/// Maximum number of addresses of one node in a message.
pub const MAX_ADDRESSES: usize = 8;

/// Maximum number of nodes in one [`Answer::Sources`].
pub const MAX_SOURCES: usize = 16;

/// Maximum length of the body of a request, in bytes. 4096: more than [`MAX_ADDRESSES`] of the longest
/// addresses take.
pub const MAX_REQUEST: usize = 4096;

/// Maximum length of the body of an answer, in bytes. 64 KiB: [`MAX_PER_REQUEST`] values take 32 KiB.
pub const MAX_ANSWER: usize = 64 << 10;

/// Length of the number in front of a body, in bytes.
pub const PREFIX: usize = 4;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// Asks for a description of the content.
    Describe {
        /// The content.
        hash: Hash,
    },
    /// Requests values of a piece list.
    Pieces {
        /// The content.
        hash: Hash,
        /// The index of the first value.
        first: u64,
        /// Number of values: 1 to [`MAX_PER_REQUEST`].
        count: u16,
    },
    /// Requests pieces.
    Data {
        /// The content.
        hash: Hash,
        /// The first piece.
        first: u64,
        /// Number of pieces: 1 to [`MAX_PER_REQUEST`].
        count: u16,
    },
    /// Requests pieces of a folder's files, numbered as in [`Layout`](super::Layout).
    Tree {
        /// The folder.
        hash: Hash,
        /// The first piece.
        first: u64,
        /// Number of pieces: 1 to [`MAX_PER_REQUEST`].
        count: u16,
    },
    /// Asks which pieces the source has, and asks it to report further ones.
    Follow {
        /// The content.
        hash: Hash,
        /// The addresses at which other followers can fetch from the requester, at most [`MAX_ADDRESSES`].
        addresses: Vec<Address>,
    },
    /// Cancels all earlier requests for pieces.
    Cancel,
    /// Proves that the requester knows the secret of a ticket.
    Present {
        /// The proof, see [`Secret::prove`](super::Secret::prove).
        proof: Proof,
    },
    /// Says that the requester has received and verified the whole content, and wants nothing more.
    Complete {
        /// The content.
        hash: Hash,
        /// The name that the requester gave itself.
        name: String,
        /// The name under which the requester asked for the content, if the source's description has another
        /// one.
        called: Option<FileName>,
    },
    /// A request of a kind that this version does not know. It is answered as a bad request.
    Unknown(u8),
}

/// An answer. After [`Answer::Piece`], the bytes of the piece follow.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// The request is refused.
    Refused(FileRefusal),
    /// The description of the content.
    Description(Description),
    /// Values of the piece list.
    Pieces {
        /// The index of the first value.
        first: u64,
        /// The values.
        values: Vec<PieceValue>,
    },
    /// The number and length of a piece. Its bytes follow.
    Piece {
        /// The number of the piece.
        index: u64,
        /// Number of bytes, at most [`PIECE`].
        len: u32,
    },
    /// Pieces that the source has.
    Held {
        /// The number of the piece that the first bit stands for.
        first: u64,
        /// One bit for each piece, from the lowest bit of each byte to the highest.
        bits: Bytes,
    },
    /// The source has all pieces.
    Whole,
    /// Other nodes that may have the content, at most [`MAX_SOURCES`], and their addresses.
    Sources(Vec<(NodeId, Vec<Address>)>),
}

/// A source's description of the content of a hash. It is not trusted: see the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The kind: a file or a folder.
    pub kind: FileKind,
    /// The kind of access, which says whether the requester may pass the content on.
    pub access: AccessKind,
    /// True if the source has all of the content. If not, the answers to [`Follow`](Request::Follow) say
    /// which pieces it has.
    pub whole: bool,
    /// Number of bytes served under the hash; for a folder, the size of its manifest.
    pub size: u64,
    /// Number of bytes that the content takes on the source's disk. A file with holes takes less than its
    /// size. This is only a hint of the space that it may need.
    pub stored: u64,
    /// The name of the content at the source.
    pub name: FileName,
}

/// The reason why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileRefusal {
    /// The server shares nothing with this hash, or not with the requester.
    #[error("not shared there")]
    NotFound,
    /// The file was changed or removed after it was hashed.
    #[error("changed or removed there after it was shared")]
    Changed,
    /// The server is overloaded. The requester may try again later, or try another source.
    #[error("too busy now")]
    Busy,
    /// The server does not understand the request, or it asks for something that does not exist.
    #[error("the request was not understood")]
    BadRequest,
    /// The requester has cancelled the request.
    #[error("no longer wanted")]
    Cancelled,
    /// A reason that this version does not know.
    #[error("refused with code {0}")]
    Other(u8),
}

/// The reason why a message can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes do not have the form of a message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The message contains a name that [`FileName`] refuses.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Request {
    /// Returns the message: the length of the body, and the body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        with_length(|out| match self {
            Self::Describe { hash } => {
                out.put_u8(0);
                out.put_raw(hash.as_bytes());
            }
            Self::Pieces { hash, first, count } => put_range(out, 1, hash, *first, *count),
            Self::Data { hash, first, count } => put_range(out, 2, hash, *first, *count),
            Self::Tree { hash, first, count } => put_range(out, 3, hash, *first, *count),
            Self::Follow { hash, addresses } => {
                out.put_u8(4);
                out.put_raw(hash.as_bytes());
                put_addresses(out, addresses);
            }
            Self::Cancel => out.put_u8(5),
            Self::Present { proof } => {
                out.put_u8(6);
                out.put_raw(proof);
            }
            Self::Complete { hash, name, called } => {
                out.put_u8(7);
                out.put_raw(hash.as_bytes());
                out.put_str(&name[..name.floor_char_boundary(MAX_NODE_NAME)]);
                // Nodes of earlier versions refuse a body with more fields, so this one is written only if
                // needed.
                if let Some(called) = called {
                    out.put_str(called.as_str());
                }
            }
            Self::Unknown(kind) => out.put_u8(*kind),
        })
    }

    /// Reads a body.
    ///
    /// # Errors
    /// If bytes are missing or left over, or if the request is for nothing or for too much.
    pub fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let request = match reader.u8("request kind")? {
            0 => Self::Describe { hash: reader.hash("request hash")? },
            kind @ 1..=3 => {
                let (hash, first, count) = take_range(&mut reader)?;
                match kind {
                    1 => Self::Pieces { hash, first, count },
                    2 => Self::Data { hash, first, count },
                    _ => Self::Tree { hash, first, count },
                }
            }
            4 => {
                let hash = reader.hash("request hash")?;
                Self::Follow { hash, addresses: take_addresses(&mut reader)? }
            }
            5 => Self::Cancel,
            6 => Self::Present { proof: reader.array("request proof")? },
            7 => {
                let hash = reader.hash("request hash")?;
                let name = reader.str(MAX_NODE_NAME, "node name")?;
                // The body may end here: nodes of earlier versions do not send `called`.
                let called = match reader.remaining() {
                    0 => None,
                    _ => Some(reader.str(MAX_NAME, "file name")?),
                };
                let called = called.map(FileName::new).transpose();
                let called = called.map_err(|_| DecodeError::Invalid("file name"))?;
                Self::Complete { hash, name, called }
            }
            // `finish` is skipped, because it would refuse the fields of an unknown kind.
            kind => return Ok(Self::Unknown(kind)),
        };
        reader.finish()?;
        Ok(request)
    }
}

impl Answer {
    /// Returns the message: the length of the body, and the body. The caller sends the bytes of a
    /// [`Piece`](Self::Piece) after it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        with_length(|out| match self {
            Self::Refused(refusal) => {
                out.put_u8(0);
                out.put_u8(refusal.code());
            }
            Self::Description(description) => {
                out.put_u8(1);
                description.kind.encode(out);
                description.access.encode(out);
                out.put_u8(u8::from(description.whole));
                out.put_u64(description.size);
                out.put_u64(description.stored);
                out.put_str(description.name.as_str());
            }
            Self::Pieces { first, values } => {
                out.put_u8(2);
                out.put_u64(*first);
                out.put_raw(values.as_flattened());
            }
            Self::Piece { index, len } => {
                out.put_u8(3);
                out.put_u64(*index);
                out.put_u32(*len);
            }
            Self::Held { first, bits } => {
                out.put_u8(4);
                out.put_u64(*first);
                out.put_raw(bits);
            }
            Self::Whole => out.put_u8(5),
            Self::Sources(sources) => {
                out.put_u8(6);
                // The receiver would refuse an answer with more nodes.
                out.put_list(&sources[..sources.len().min(MAX_SOURCES)], |out, source| {
                    out.put_raw(source.0.as_bytes());
                    put_addresses(out, &source.1);
                });
            }
        })
    }

    /// Reads a body.
    ///
    /// # Errors
    /// If bytes are missing or left over, or if the answer has an unknown tag, a piece longer than [`PIECE`],
    /// too many values, or a name that [`FileName`] refuses.
    pub fn decode(body: Bytes) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        let answer = match reader.u8("answer tag")? {
            0 => Self::Refused(FileRefusal::from_code(reader.u8("refusal code")?)),
            1 => {
                let kind = FileKind::decode(&mut reader)?;
                let access = AccessKind::decode(&mut reader)?;
                let whole = reader.bool("described whole")?;
                let size = reader.u64("described size")?;
                let stored = reader.u64("described stored")?;
                let name = FileName::new(reader.str(MAX_NAME, "described name")?)?;
                Self::Description(Description { kind, access, whole, size, stored, name })
            }
            2 => {
                let first = reader.u64("first value")?;
                let rest = reader.take_rest();
                let (values, over) = rest.as_chunks::<ID_LEN>();
                if !over.is_empty() {
                    return Err(DecodeError::Trailing(over.len()).into());
                }
                check_count(values.len())?;
                Self::Pieces { first, values: values.to_vec() }
            }
            3 => {
                let index = reader.u64("piece index")?;
                let len = reader.u32("piece length")?;
                if u64::from(len) > PIECE {
                    return Err(DecodeError::Invalid("piece length").into());
                }
                Self::Piece { index, len }
            }
            4 => Self::Held { first: reader.u64("first held")?, bits: reader.take_rest() },
            5 => Self::Whole,
            6 => Self::Sources(reader.list(MAX_SOURCES, "sources", |reader| {
                Ok((reader.node_id("source")?, take_addresses(reader)?))
            })?),
            // The answers to this node's requests are all known, so an unknown tag is a fault of the server.
            _ => return Err(DecodeError::Invalid("answer tag").into()),
        };
        reader.finish()?;
        Ok(answer)
    }
}

impl FileRefusal {
    fn code(self) -> u8 {
        match self {
            Self::NotFound => 1,
            Self::Changed => 2,
            Self::Busy => 3,
            Self::BadRequest => 4,
            Self::Cancelled => 5,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::NotFound,
            2 => Self::Changed,
            3 => Self::Busy,
            4 => Self::BadRequest,
            5 => Self::Cancelled,
            code => Self::Other(code),
        }
    }
}

/// Reads the length of a body from the bytes in front of it.
///
/// # Errors
/// If the length is over `limit`, which is [`MAX_REQUEST`] or [`MAX_ANSWER`].
pub fn body_len(prefix: [u8; PREFIX], limit: usize) -> Result<usize, DecodeError> {
    let len = u32::from_le_bytes(prefix) as usize;
    if len > limit {
        let what = "files message";
        return Err(DecodeError::TooLong { field: what, len, limit });
    }
    Ok(len)
}

/// Writes a body with `body`, and returns it behind its length.
fn with_length(body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0; PREFIX];
    body(&mut out);
    let len = u32::try_from(out.len() - PREFIX).unwrap_or(u32::MAX);
    out[..PREFIX].copy_from_slice(&len.to_le_bytes());
    out
}

fn put_range(out: &mut Vec<u8>, kind: u8, hash: &Hash, first: u64, count: u16) {
    out.put_u8(kind);
    out.put_raw(hash.as_bytes());
    out.put_u64(first);
    out.put_u16(count);
}

fn take_range(reader: &mut Reader) -> Result<(Hash, u64, u16), DecodeError> {
    let hash = reader.hash("request hash")?;
    let first = reader.u64("request first")?;
    let count = reader.u16("request count")?;
    check_count(usize::from(count))?;
    Ok((hash, first, count))
}

pub(super) fn put_addresses(out: &mut Vec<u8>, addresses: &[Address]) {
    out.put_list(&addresses[..addresses.len().min(MAX_ADDRESSES)], put_address);
}

pub(super) fn take_addresses(reader: &mut Reader) -> Result<Vec<Address>, DecodeError> {
    read_addresses(reader, MAX_ADDRESSES)
}

fn check_count(count: usize) -> Result<(), DecodeError> {
    let what = "part";
    let limit = usize::from(MAX_PER_REQUEST);
    match count {
        // A request for no pieces would get no answer. An answer without values would make the requester
        // repeat its request for ever.
        0 => Err(DecodeError::Invalid(what)),
        len if len > limit => Err(DecodeError::TooLong { field: what, len, limit }),
        _ => Ok(()),
    }
}
