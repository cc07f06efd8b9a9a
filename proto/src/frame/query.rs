//! The frames of queries to the network and of the answers.

use std::fmt;
use std::time::Duration;

use crate::address::Address;
use crate::codec::{DecodeError, Reader, Writer};
use crate::event::Neighbour;
use crate::files::SharedFile;
use crate::hello::{
    MAX_ADDRESSES, MAX_NAME, put_address, put_addresses, read_address, read_addresses,
};
use crate::id::{Hash, NodeId, hex};
use crate::node_record::NodeRecord;

/// The depth that means the whole network.
pub const UNLIMITED: u8 = u8::MAX;

/// The depth that means the whole network too, in a query that a member of the network has received from a node
/// that is not its neighbour. A copy with [`UNLIMITED`] takes the place of such a query.
pub const UNLIMITED_FOR_STRANGER: u8 = UNLIMITED - 1;

/// Maximum length of the text of a search in bytes.
pub const MAX_SEARCH: usize = 256;

/// Maximum number of inbound neighbours, and of outbound neighbours, in one answer. A node with
/// more sends several answers. With 90 an answer always fits into a control frame, even if all host
/// names are as long as possible.
pub const MAX_NEIGHBOURS: usize = 90;

/// Maximum number of files in one answer. A node with more sends several answers.
pub const MAX_FILES: usize = 100;

/// The identifier of a query: a random number that the asking node draws.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId(pub [u8; 16]);

impl fmt::Debug for QueryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueryId({})", hex(&self.0[..4]))
    }
}

/// A query on its way through the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Its identifier.
    pub id: QueryId,
    /// Maximum number of hops beyond the receiver. [`UNLIMITED`] and [`UNLIMITED_FOR_STRANGER`] mean no limit.
    pub depth: u8,
    /// True if the sender itself asks, so the query is not relayed. The answer may then have files
    /// that are shared with the sender alone. Such a query is never passed on, whatever its depth.
    pub own: bool,
    /// The time for which the sender will still wait for answers.
    pub ttl: Duration,
    /// The question.
    pub what: QueryKind,
}

/// The question of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueryKind {
    /// Asks every node for its identity and its neighbours.
    Discover,
    /// Asks for files whose names or paths match all words of this text.
    Search(String),
    /// Asks for nodes that have the file or folder with this hash.
    HasFile(Hash),
    /// Asks for the addresses of this node. The node itself answers, and so do the nodes that have
    /// a link with it.
    FindNode(NodeId),
    /// Asks a node to open a stream to the asking node, which can't dial that node. Only nodes of
    /// version 1 answer: nothing proves that the asking node has chosen the addresses.
    CallBack {
        /// The node that should open the stream.
        target: NodeId,
        /// The token by which the asking node recognizes the stream.
        token: [u8; 16],
        /// The addresses at which the asking node listens.
        addresses: Vec<Address>,
    },
    /// The same as [`CallBack`](Self::CallBack), with the asking node's own record. Nodes of version
    /// 1 skip such a query.
    SignedCallBack {
        /// The node that should open the stream.
        target: NodeId,
        /// The token by which the asking node recognizes the stream.
        token: [u8; 16],
        /// The signed record of the asking node. Only its addresses are dialled.
        record: Box<NodeRecord>,
    },
    /// Asks for the nodes in a sample of the network: see [`sample`](crate::sample).
    Sample {
        /// A random number that the asking node draws. Each salt gives a different sample.
        salt: [u8; 8],
        /// One node in 2^bits is in the sample.
        bits: u8,
    },
}

/// A node's answer to a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryAnswer {
    /// The query that is answered.
    pub id: QueryId,
    /// The node that answers. Nothing proves that, as the answer came through other nodes.
    pub node: NodeId,
    /// The name that the node gives itself.
    pub name: String,
    /// The addresses at which the node listens, as far as it knows them.
    pub addresses: Vec<Address>,
    /// The content of the answer.
    pub body: AnswerBody,
}

/// The content of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerBody {
    /// The answer to a discovery: the nodes that the answering node has dialled, then the nodes
    /// that have dialled it. If there are many, each of several answers has a part.
    Neighbours(Vec<Neighbour>, Vec<Neighbour>),
    /// The answer to [`QueryKind::Search`] or [`QueryKind::HasFile`]: the matching files.
    Files(Vec<SharedFile>),
    /// The answer to [`QueryKind::FindNode`]: the wanted node listens at the `addresses` of the
    /// answer. To [`QueryKind::CallBack`]: `node` is opening the stream. To [`QueryKind::Sample`]:
    /// `node` is in the sample.
    Here,
}

/// The end of the answers from one branch of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryDone {
    /// The query that is answered.
    pub id: QueryId,
    /// The depth of the query when it was sent over this link. It shows which copy of the query is
    /// meant.
    pub depth: u8,
    /// True if all nodes of the branch have answered.
    pub complete: bool,
}

impl QueryKind {
    /// Appends the question to `out`, as it is in a [`Query`].
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Discover => out.put_u8(0),
            Self::Search(text) => {
                out.put_u8(1);
                out.put_str(&text[..text.floor_char_boundary(MAX_SEARCH)]);
            }
            Self::HasFile(hash) => {
                out.put_u8(2);
                out.put_raw(hash.as_bytes());
            }
            Self::FindNode(id) => {
                out.put_u8(3);
                out.put_raw(id.as_bytes());
            }
            Self::CallBack { target, token, addresses } => {
                out.put_u8(4);
                out.put_raw(target.as_bytes());
                out.put_raw(token);
                put_addresses(out, addresses);
            }
            Self::Sample { salt, bits } => {
                out.put_u8(5);
                out.put_raw(salt);
                out.put_u8(*bits);
            }
            Self::SignedCallBack { target, token, record } => {
                out.put_u8(6);
                out.put_raw(target.as_bytes());
                out.put_raw(token);
                record.encode(out);
            }
        }
    }
}

impl Query {
    /// Returns whether the query has a frame kind of its own, which nodes of version 1 skip.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        matches!(self.what, QueryKind::SignedCallBack { .. })
    }

    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_raw(&self.id.0);
        out.put_u8(self.depth);
        out.put_bool(self.own);
        out.put_u32(u32::try_from(self.ttl.as_millis()).unwrap_or(u32::MAX));
        self.what.encode(out);
    }

    /// Reads a frame's body.
    ///
    /// # Errors
    /// If a field is missing, too long or invalid.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            id: QueryId(reader.array("query id")?),
            depth: reader.u8("query depth")?,
            own: reader.bool("query flags")?,
            // There is no limit here: the overlay shortens the time to its own limit.
            ttl: Duration::from_millis(u64::from(reader.u32("query time")?)),
            what: match reader.u8("query kind")? {
                0 => QueryKind::Discover,
                1 => QueryKind::Search(reader.str(MAX_SEARCH, "search text")?),
                2 => QueryKind::HasFile(reader.hash("file hash")?),
                3 => QueryKind::FindNode(reader.node_id("node")?),
                4 => QueryKind::CallBack {
                    target: reader.node_id("call-back target")?,
                    token: reader.array("call-back token")?,
                    addresses: read_addresses(reader, MAX_ADDRESSES)?,
                },
                5 => QueryKind::Sample { salt: reader.array("salt")?, bits: reader.u8("bits")? },
                6 => QueryKind::SignedCallBack {
                    target: reader.node_id("call-back target")?,
                    token: reader.array("call-back token")?,
                    record: Box::new(NodeRecord::decode(reader)?),
                },
                _ => return Err(DecodeError::Invalid("query kind")),
            },
        })
    }
}

impl QueryAnswer {
    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_raw(&self.id.0);
        out.put_raw(self.node.as_bytes());
        out.put_str(&self.name[..self.name.floor_char_boundary(MAX_NAME)]);
        put_addresses(out, &self.addresses);
        match &self.body {
            AnswerBody::Neighbours(outbound, inbound) => {
                out.put_u8(0);
                out.put_list(outbound, put_neighbour);
                out.put_list(inbound, put_neighbour);
            }
            AnswerBody::Files(files) => {
                out.put_u8(1);
                out.put_list(files, |out, file| file.portable().encode(out));
            }
            AnswerBody::Here => out.put_u8(2),
        }
    }

    /// Reads a frame's body.
    ///
    /// # Errors
    /// If a field is missing, too long or invalid.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            id: QueryId(reader.array("query id")?),
            node: reader.node_id("answering node")?,
            name: reader.str(MAX_NAME, "node name")?,
            addresses: read_addresses(reader, MAX_ADDRESSES)?,
            body: match reader.u8("answer kind")? {
                0 => AnswerBody::Neighbours(
                    read_neighbours(reader, "outbound neighbours")?,
                    read_neighbours(reader, "inbound neighbours")?,
                ),
                1 => AnswerBody::Files(reader.list(MAX_FILES, "files", read_found_file)?),
                2 => AnswerBody::Here,
                _ => return Err(DecodeError::Invalid("answer kind")),
            },
        })
    }
}

/// Reads a file of an answer. Its name has to be portable, which means valid on every operating
/// system.
fn read_found_file(reader: &mut Reader) -> Result<SharedFile, DecodeError> {
    let file = SharedFile::decode(reader)?;
    // A name that is not portable must not be passed on: nodes of earlier versions end the link
    // over it.
    if file.name.is_portable() { Ok(file) } else { Err(DecodeError::Invalid("file name")) }
}

impl QueryDone {
    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_raw(&self.id.0);
        out.put_u8(self.depth);
        out.put_bool(self.complete);
    }

    /// Reads a frame's body.
    ///
    /// # Errors
    /// If a field is missing or invalid.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            id: QueryId(reader.array("query id")?),
            depth: reader.u8("query depth")?,
            complete: reader.bool("query complete")?,
        })
    }
}

fn put_neighbour(out: &mut Vec<u8>, neighbour: &Neighbour) {
    out.put_raw(neighbour.id.as_bytes());
    put_address(out, &neighbour.address);
}

/// Reads a list of neighbours. Those whose address has an unknown scheme are left out.
fn read_neighbours(reader: &mut Reader, what: &'static str) -> Result<Vec<Neighbour>, DecodeError> {
    let read = reader.list(MAX_NEIGHBOURS, what, |reader| {
        let id = reader.node_id("neighbour")?;
        Ok(read_address(reader)?.map(|address| Neighbour { id, address }))
    })?;
    Ok(read.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{FileKind, FileName};
    use crate::id::{Hash, Key};

    #[test]
    fn an_answer_has_only_portable_file_names() {
        let file = |name: &str| SharedFile {
            hash: Hash::of(b""),
            name: FileName::new(name).unwrap(),
            size: 0,
            kind: FileKind::File,
        };
        let answer = |names: &[&str]| QueryAnswer {
            id: QueryId([1; 16]),
            node: Key::from_secret(&[1; 32]).id(),
            name: String::new(),
            addresses: Vec::new(),
            body: AnswerBody::Files(names.iter().map(|name| file(name)).collect()),
        };
        let mut out = Vec::new();
        answer(&["aux.txt", "a.", "b\\c", "C:x", "plain"]).encode(&mut out);
        let read = QueryAnswer::decode(&mut Reader::new(out.clone().into()));
        assert_eq!(read, Ok(answer(&["aux_.txt", "a_", "b_c", "C_x", "plain"])));
        let end = out.len();
        out[end - 5..].copy_from_slice(b"nul.x");
        let refused = QueryAnswer::decode(&mut Reader::new(out.into()));
        assert_eq!(refused, Err(DecodeError::Invalid("file name")));
    }
}
