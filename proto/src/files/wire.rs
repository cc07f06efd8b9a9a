//! The messages of the files protocol, [`FILES_PROTOCOL`].
//!
//! The requester has opened the stream and sends requests. The server answers them in their order. Several
//! requests may be sent before the first is answered. Every message is a *head*: its length (`u32`) and
//! that many bytes of body. All numbers are little-endian.
//!
//! Requests, at most [`MAX_REQUEST`] bytes of body:
//!
//! ```text
//! 0 Describe   kind u8 = 0, hash 32 B
//! 1 Pieces     kind u8 = 1, hash 32 B, first u64, count u16     1 to 1024 values of the list
//! 2 Data       kind u8 = 2, hash 32 B, first u64, count u16     1 to 1024 pieces
//! 3 Tree       kind u8 = 3, hash 32 B, first u64, count u16     1 to 1024 pieces of a folder's files
//! 4 Follow     kind u8 = 4, hash 32 B, count u16, addresses (u16 length, UTF-8): at most 8
//! 5 Cancel     kind u8 = 5
//! 6 Present    kind u8 = 6, proof 32 B
//! 7 Complete   kind u8 = 7, hash 32 B, name (u16 length, UTF-8, at most 64 bytes), and, where the
//!              body goes on, called (u16 length, UTF-8, at most 255 bytes)
//! ```
//!
//! Answers, at most [`MAX_ANSWER`] bytes of body:
//!
//! ```text
//! 0 Refused      tag u8 = 0, code u8         1 not found, 2 changed, 3 busy, 4 bad request,
//!                                            5 cancelled
//! 1 Description  tag u8 = 1, kind u8 (0 file, 1 folder), access u8 (0 open, 1 named, 2 ticket),
//!                whole u8 (1: all of it is there), size u64, stored u64, name (u16 length, UTF-8)
//! 2 Pieces       tag u8 = 2, first u64, values 32 B each, to the end of the body
//! 3 Piece        tag u8 = 3, index u64, len u32; after the head come len raw bytes
//! 4 Held         tag u8 = 4, first u64, bits to the end of the body: bit i of byte b is piece
//!                first + 8 b + i
//! 5 Whole        tag u8 = 5
//! 6 Sources      tag u8 = 6, count u16, at most 16 of: node 32 B, count u16, addresses: at most 8
//! ```
//!
//! `Describe` is answered by one Description. `Pieces` is answered by one Pieces, with those of the values
//! that the list has; if it has none of them, the request is bad. `Data` is answered by one Piece for each
//! piece, in order. So is `Tree`: its pieces are those of a folder's files, numbered through (see
//! [`Layout`](super::Layout)). Any request can be answered by Refused instead. Among the pieces of a `Data`
//! or `Tree`, Refused ends them. A body that can't be read, or of an unknown kind, is a bad request. The
//! stream continues after it, so that new kinds can be added. A length over the limit ends the stream.
//!
//! `Follow` is answered by Whole, or by Held once or more: the pieces that are there (of a folder, those that
//! `Tree` numbers). From then on the server sends Held between other answers as pieces are added. It sends
//! Sources to name other followers, with the addresses that they gave. A stream follows one hash, the last.
//!
//! `Cancel` cancels every `Data` and `Tree` before it. Each of them ends with Refused (cancelled), unless
//! it was answered already. `Cancel` has no answer of its own. `Present` has none either: the proof that
//! the requester knows the secret of a ticket, see [`Secret`](super::Secret), counts for all later
//! requests.
//!
//! `Complete` says that the requester, which calls itself `name`, has received and verified all of `hash`.
//! It cancels all requests before it, and has no answer. It is the last message on a stream: the requester
//! then ends the stream in order and reads it to its end. A server that does not know it refuses it as a
//! bad request, which the requester no longer reads. `called` is the name by which the requester wanted the
//! content, if the Description had another: the same content may be shared under several names. A server
//! uses it only if it shares the content with the requester under that name.
//!
//! The size of a Description is that of the bytes served under the hash: of a folder, those of its manifest.
//! No message is trusted: the list is checked against the hash, the pieces against the list, and the size with
//! the last piece.

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

/// The name of the protocol, with its version. Streams are opened with it.
pub const FILES_PROTOCOL: &str = "peerkit-files/1";

/// Most values of a piece list, or pieces, in one request. 1024: 32 KiB of values, or 1 GiB of data.
pub const MAX_PER_REQUEST: u16 = 1024;

/// Most addresses of one node in a message.
pub const MAX_ADDRESSES: usize = 8;

/// Most nodes in one [`Answer::Sources`].
pub const MAX_SOURCES: usize = 16;

/// Longest body of a request, in bytes: above [`MAX_ADDRESSES`] of the longest addresses.
pub const MAX_REQUEST: usize = 4096;

/// Longest body of an answer, in bytes: above the 32 KiB of [`MAX_PER_REQUEST`] values.
pub const MAX_ANSWER: usize = 64 << 10;

/// Bytes of the length in front of a body.
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
    /// Asks for values of a piece list.
    Pieces {
        /// The content.
        hash: Hash,
        /// The first value.
        first: u64,
        /// Number of values: 1 to [`MAX_PER_REQUEST`].
        count: u16,
    },
    /// Asks for pieces.
    Data {
        /// The content.
        hash: Hash,
        /// The first piece.
        first: u64,
        /// Number of pieces: 1 to [`MAX_PER_REQUEST`].
        count: u16,
    },
    /// Asks for pieces of a folder's files, numbered through.
    Tree {
        /// The folder.
        hash: Hash,
        /// The first piece.
        first: u64,
        /// Number of pieces: 1 to [`MAX_PER_REQUEST`].
        count: u16,
    },
    /// Asks which pieces are there, now and as more come.
    Follow {
        /// The content.
        hash: Hash,
        /// Addresses where other followers can fetch from the requester. At most [`MAX_ADDRESSES`].
        addresses: Vec<Address>,
    },
    /// Cancels all requests for pieces.
    Cancel,
    /// Proves that the requester knows the secret of a ticket.
    Present {
        /// The proof, see [`Secret::prove`](super::Secret::prove).
        proof: Proof,
    },
    /// Says that all of it was received and verified, and nothing more is wanted.
    Complete {
        /// The content.
        hash: Hash,
        /// The requester's name.
        name: String,
        /// The name by which the content was requested, if the source describes it by another one.
        called: Option<FileName>,
    },
    /// A kind that this build does not know. It is answered as a bad request.
    Unknown(u8),
}

/// An answer, or the head of one.
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
    /// The head of one piece. Its bytes follow.
    Piece {
        /// The piece.
        index: u64,
        /// Number of bytes: at most [`PIECE`].
        len: u32,
    },
    /// Pieces that are there.
    Held {
        /// The piece of the first bit.
        first: u64,
        /// A bit for each piece, the lowest of a byte first.
        bits: Bytes,
    },
    /// All pieces are there.
    Whole,
    /// Other nodes that may have the content, and their addresses. At most [`MAX_SOURCES`].
    Sources(Vec<(NodeId, Vec<Address>)>),
}

/// A source's description of the content of a hash. It is not trusted: see the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// A file or a folder.
    pub kind: FileKind,
    /// The kind of access, and so whether the requester may pass it on.
    pub access: AccessKind,
    /// If true, the source has all of it. If not, the answers to [`Follow`](Request::Follow) say what it has.
    pub whole: bool,
    /// Number of bytes served under the hash: of a folder, those of its manifest.
    pub size: u64,
    /// Number of bytes that it takes on the source's disk, which is less than its size if it has holes. It
    /// is only a hint of how much room it may need.
    pub stored: u64,
    /// Its name at the source.
    pub name: FileName,
}

/// The reason why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileRefusal {
    /// Nothing with this hash is shared here.
    #[error("not shared there")]
    NotFound,
    /// The file was changed or removed on disk after it was hashed.
    #[error("changed or removed there after it was shared")]
    Changed,
    /// The server has too much to do. The requester may try later, or another source.
    #[error("too busy now")]
    Busy,
    /// The request makes no sense to the server.
    #[error("the request was not understood")]
    BadRequest,
    /// The requester has cancelled it.
    #[error("no longer wanted")]
    Cancelled,
    /// A reason that this build does not know.
    #[error("refused with code {0}")]
    Other(u8),
}

/// The reason why a message can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// It does not have the form of a message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It has a name that is refused.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Request {
    /// Returns the whole message, length first.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        head(|out| match self {
            Self::Describe { hash } => {
                out.put_u8(0);
                out.put_raw(hash.as_bytes());
            }
            Self::Pieces { hash, first, count } => put_part(out, 1, hash, *first, *count),
            Self::Data { hash, first, count } => put_part(out, 2, hash, *first, *count),
            Self::Tree { hash, first, count } => put_part(out, 3, hash, *first, *count),
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
                // Nodes of earlier versions refuse a body that goes on, so it ends here whenever it can.
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
    /// If it is cut short, has bytes left over, or requests nothing or too much at once.
    pub fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let request = match reader.u8("request kind")? {
            0 => Self::Describe { hash: reader.hash("request hash")? },
            kind @ 1..=3 => {
                let (hash, first, count) = take_part(&mut reader)?;
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
                // Nodes that only know one name for a content end the body here.
                let called = match reader.remaining() {
                    0 => None,
                    _ => Some(reader.str(MAX_NAME, "file name")?),
                };
                let called = called.map(FileName::new).transpose();
                let called = called.map_err(|_| DecodeError::Invalid("file name"))?;
                Self::Complete { hash, name, called }
            }
            // `finish` would refuse the fields of a later version, which this version can't read.
            kind => return Ok(Self::Unknown(kind)),
        };
        reader.finish()?;
        Ok(request)
    }
}

impl Answer {
    /// Returns the whole message, length first. After a [`Piece`](Self::Piece) its bytes must follow.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        head(|out| match self {
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
                // The receiver would refuse the whole answer for one node more.
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
    /// If it is cut short, has bytes left over, an unknown tag, a piece longer than
    /// [`PIECE`], too many values, or a name that [`FileName`] refuses.
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
            // Only requests that this node has sent are answered, so a kind that it does not know is a fault.
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

/// Returns the length of the body that follows its prefix.
///
/// # Errors
/// If it is over `limit`: [`MAX_REQUEST`] or [`MAX_ANSWER`].
pub fn body_len(prefix: [u8; PREFIX], limit: usize) -> Result<usize, DecodeError> {
    let len = u32::from_le_bytes(prefix) as usize;
    if len > limit {
        let what = "files message";
        return Err(DecodeError::TooLong { field: what, len, limit });
    }
    Ok(len)
}

fn head(body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0; PREFIX];
    body(&mut out);
    let len = u32::try_from(out.len() - PREFIX).unwrap_or(u32::MAX);
    out[..PREFIX].copy_from_slice(&len.to_le_bytes());
    out
}

fn put_part(out: &mut Vec<u8>, kind: u8, hash: &Hash, first: u64, count: u16) {
    out.put_u8(kind);
    out.put_raw(hash.as_bytes());
    out.put_u64(first);
    out.put_u16(count);
}

fn take_part(reader: &mut Reader) -> Result<(Hash, u64, u16), DecodeError> {
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
        // A request for no pieces would have no answer, and an answer without values would be asked for again
        // for ever.
        0 => Err(DecodeError::Invalid(what)),
        len if len > limit => Err(DecodeError::TooLong { field: what, len, limit }),
        _ => Ok(()),
    }
}
