//! The frames of queries.

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

/// The depth of a query to the whole network.
pub const UNLIMITED: u8 = u8::MAX;

/// Longest text of a search, in bytes.
pub const MAX_SEARCH: usize = 256;

/// Most neighbours of each direction in one answer. A node with more sends several answers. With the
/// longest host names, and the most addresses of the node itself, an answer fits a control frame.
pub const MAX_NEIGHBOURS: usize = 90;

/// Most files in one answer. A node with more sends several answers.
pub const MAX_FILES: usize = 100;

/// The name of a query: a random number of the node that asks.
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
    /// Its name.
    pub id: QueryId,
    /// Most hops beyond the receiver; [`UNLIMITED`] for all.
    pub depth: u8,
    /// Set if the sender asks for itself. The answer may contain files that only the sender may see.
    /// Such a query is never passed on, whatever its depth.
    pub own: bool,
    /// Time for which the sender still waits.
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
    /// Asks for files whose names or paths match all words of a text.
    Search(String),
    /// Asks for nodes that have the file or folder of a hash.
    HasFile(Hash),
    /// Asks for the addresses of a node. The node answers, or the nodes that have a link with it.
    FindNode(NodeId),
    /// Asks one node to open a stream to the asking node, which can't dial it.
    CallBack {
        /// The node that has to call back.
        target: NodeId,
        /// The stream's token, which tells it from others.
        token: [u8; 16],
        /// The addresses at which the asking node listens.
        addresses: Vec<Address>,
    },
    /// Asks for the nodes in a sample of the network: see [`sample`](crate::sample).
    Sample {
        /// A random number of the asking node. Another salt gives another sample.
        salt: [u8; 8],
        /// One node in 2^bits is in it.
        bits: u8,
    },
}

/// A node's answer to a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryAnswer {
    /// The query.
    pub id: QueryId,
    /// The node that answers. That is not proven, as the answer came through other nodes.
    pub node: NodeId,
    /// The name that it gives itself.
    pub name: String,
    /// Its addresses, as far as it knows them.
    pub addresses: Vec<Address>,
    /// The answer itself.
    pub body: AnswerBody,
}

/// The content of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerBody {
    /// To a discovery: the nodes that it has dialled, then those that have dialled it. If there are
    /// many, several answers have parts of them.
    Neighbours(Vec<Neighbour>, Vec<Neighbour>),
    /// To a search, or to [`QueryKind::HasFile`]: files that match.
    Files(Vec<SharedFile>),
    /// To the search for a node: it has the `addresses` of the answer. To a call-back: it is under way.
    /// To a sample: `node` is in it.
    Here,
}

/// The end of the answers from one branch of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryDone {
    /// The query.
    pub id: QueryId,
    /// The depth of the query on this link. It tells this copy of the query from others.
    pub depth: u8,
    /// Set if all nodes of the branch have answered.
    pub complete: bool,
}

impl Query {
    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_raw(&self.id.0);
        out.put_u8(self.depth);
        out.put_bool(self.own);
        out.put_u32(u32::try_from(self.ttl.as_millis()).unwrap_or(u32::MAX));
        match &self.what {
            QueryKind::Discover => out.put_u8(0),
            QueryKind::Search(text) => {
                out.put_u8(1);
                out.put_str(&text[..text.floor_char_boundary(MAX_SEARCH)]);
            }
            QueryKind::HasFile(hash) => {
                out.put_u8(2);
                out.put_raw(hash.as_bytes());
            }
            QueryKind::FindNode(id) => {
                out.put_u8(3);
                out.put_raw(id.as_bytes());
            }
            QueryKind::CallBack { target, token, addresses } => {
                out.put_u8(4);
                out.put_raw(target.as_bytes());
                out.put_raw(token);
                put_addresses(out, addresses);
            }
            QueryKind::Sample { salt, bits } => {
                out.put_u8(5);
                out.put_raw(salt);
                out.put_u8(*bits);
            }
        }
    }

    /// Reads a frame's body.
    ///
    /// # Errors
    /// If anything is missing, too long or invalid.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            id: QueryId(reader.array("query id")?),
            depth: reader.u8("query depth")?,
            own: reader.bool("query flags")?,
            // Not limited here: the overlay shortens it to its own limit.
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
    /// If anything is missing, too long or invalid.
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

/// Reads a file of an answer. Its name has to be valid on every system.
fn read_found_file(reader: &mut Reader) -> Result<SharedFile, DecodeError> {
    let file = SharedFile::decode(reader)?;
    // Nodes of earlier versions end the link over any other name, so none may be passed on to them.
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
    /// If anything is missing or invalid.
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

/// Reads a list of neighbours, without those that have an address of an unknown scheme.
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
    fn an_answer_has_names_that_earlier_nodes_take() {
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
