//! The frames of queries.

use std::fmt;
use std::time::Duration;

use crate::address::Address;
use crate::codec::{DecodeError, Reader, Writer};
use crate::event::Neighbour;
use crate::files::SharedFile;
use crate::hello::{MAX_ADDRESSES, MAX_NAME, address, addresses, put_address};
use crate::id::{Hash, NodeId, hex};

/// The depth of a query that runs through the whole network.
pub const UNLIMITED: u8 = u8::MAX;

/// Longest text of a search, in bytes.
pub const MAX_SEARCH: usize = 256;

/// Neighbours of each side in one answer; a node that has more sends several. With the longest
/// host names, and as many addresses of its own as there may be, they fit a control frame.
pub const MAX_NEIGHBOURS: usize = 90;

/// Files in one answer; a node that has more to tell sends several.
pub const MAX_FILES: usize = 100;

/// The flag of a query that its sender asks for itself.
const OWN: u8 = 1;

/// Names a query: drawn by the node that asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId(pub [u8; 16]);

impl fmt::Debug for QueryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueryId({})", hex(&self.0[..4]))
    }
}

/// A question on its way through the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Names it.
    pub id: QueryId,
    /// Hops that it may travel beyond the receiver; [`UNLIMITED`] for all.
    pub depth: u8,
    /// Whether the sender asks for itself: the answer may have in it what only the sender may know
    /// of. Such a query is never passed on, whatever its depth.
    pub own: bool,
    /// How long the sender still waits.
    pub ttl: Duration,
    /// What is asked.
    pub what: What,
}

/// What a query asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// Every node: who it is and whom it is linked to.
    Discover,
    /// Files whose names or paths fit all the words of a text.
    Search(String),
    /// Who has the file or folder of a hash.
    HasFile(Hash),
    /// Where a node is: it answers, or those who are linked to it.
    FindNode(NodeId),
    /// Asks one node to open a stream towards the asking one, who can't dial it.
    CallBack {
        /// Who is to call back.
        target: NodeId,
        /// Tells the stream from others.
        token: [u8; 16],
        /// Where the asking node listens.
        addresses: Vec<Address>,
    },
    /// Who is in a sample of the network: see [`sample`](crate::sample).
    Sample {
        /// Drawn by the asking node: another salt, another sample.
        salt: [u8; 8],
        /// One node in 2^bits is in it.
        bits: u8,
    },
}

/// A node's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The query.
    pub id: QueryId,
    /// Who answers. Not proven: it came through others.
    pub node: NodeId,
    /// What it calls itself.
    pub name: String,
    /// Where it can be dialled, as far as it knows.
    pub addresses: Vec<Address>,
    /// The answer itself.
    pub body: AnswerBody,
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerBody {
    /// To a discovery: the nodes that it has dialled, then those that have dialled it. Where they
    /// are many, in several answers.
    Neighbours(Vec<Neighbour>, Vec<Neighbour>),
    /// To a search, or to the question who has a file: files that match.
    Files(Vec<SharedFile>),
    /// To the search for a node: `node` and `addresses` say where it is. To a call-back: it is
    /// under way. To a sample: `node` is in it.
    Here,
}

/// A branch of the network has nothing more to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryDone {
    /// The query.
    pub id: QueryId,
    /// The depth that the query had on this link: sets its passings-on apart.
    pub depth: u8,
    /// Whether all nodes of the branch have answered.
    pub complete: bool,
}

impl Query {
    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_raw(&self.id.0);
        out.put_u8(self.depth);
        out.put_u8(if self.own { OWN } else { 0 });
        out.put_u32(u32::try_from(self.ttl.as_millis()).unwrap_or(u32::MAX));
        match &self.what {
            What::Discover => out.put_u8(0),
            What::Search(text) => {
                out.put_u8(1);
                out.put_str(&text[..text.floor_char_boundary(MAX_SEARCH)]);
            }
            What::HasFile(hash) => {
                out.put_u8(2);
                out.put_raw(hash.as_bytes());
            }
            What::FindNode(id) => {
                out.put_u8(3);
                out.put_raw(id.as_bytes());
            }
            What::CallBack { target, token, addresses } => {
                out.put_u8(4);
                out.put_raw(target.as_bytes());
                out.put_raw(token);
                put_addresses(out, addresses);
            }
            What::Sample { salt, bits } => {
                out.put_u8(5);
                out.put_raw(salt);
                out.put_u8(*bits);
            }
        }
    }

    /// Reads a frame's body.
    ///
    /// # Errors
    /// Where anything is missing, too long or without meaning.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            id: QueryId(reader.array("query id")?),
            depth: reader.u8("query depth")?,
            own: match reader.u8("query flags")? {
                0 => false,
                OWN => true,
                _ => return Err(DecodeError::Invalid("query flags")),
            },
            ttl: Duration::from_millis(u64::from(reader.u32("query time")?)),
            what: match reader.u8("query kind")? {
                0 => What::Discover,
                1 => What::Search(reader.str(MAX_SEARCH, "search text")?),
                2 => What::HasFile(reader.hash("file hash")?),
                3 => What::FindNode(reader.node_id("node")?),
                4 => What::CallBack {
                    target: reader.node_id("call-back target")?,
                    token: reader.array("call-back token")?,
                    addresses: addresses(reader, MAX_ADDRESSES)?,
                },
                5 => What::Sample { salt: reader.array("salt")?, bits: reader.u8("bits")? },
                _ => return Err(DecodeError::Invalid("query kind")),
            },
        })
    }
}

impl Answer {
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
    /// Where anything is missing, too long or without meaning.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            id: QueryId(reader.array("query id")?),
            node: reader.node_id("answering node")?,
            name: reader.str(MAX_NAME, "node name")?,
            addresses: addresses(reader, MAX_ADDRESSES)?,
            body: match reader.u8("answer kind")? {
                0 => AnswerBody::Neighbours(
                    neighbours(reader, "outbound neighbours")?,
                    neighbours(reader, "inbound neighbours")?,
                ),
                1 => AnswerBody::Files(reader.list(MAX_FILES, "files", found)?),
                2 => AnswerBody::Here,
                _ => return Err(DecodeError::Invalid("answer kind")),
            },
        })
    }
}

/// Reads a file of a search answer, whose name is one that every system can have.
fn found(reader: &mut Reader) -> Result<SharedFile, DecodeError> {
    let file = SharedFile::decode(reader)?;
    match file.name.is_portable() {
        true => Ok(file),
        false => Err(DecodeError::Invalid("file name")),
    }
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
    /// Where anything is missing or without meaning.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            id: QueryId(reader.array("query id")?),
            depth: reader.u8("query depth")?,
            complete: reader.bool("query complete")?,
        })
    }
}

fn put_addresses(out: &mut Vec<u8>, addresses: &[Address]) {
    out.put_list(&addresses[..addresses.len().min(MAX_ADDRESSES)], put_address);
}

fn put_neighbour(out: &mut Vec<u8>, neighbour: &Neighbour) {
    out.put_raw(neighbour.id.as_bytes());
    put_address(out, &neighbour.address);
}

/// Reads a list of neighbours. Those with an address of an unknown scheme are left out.
fn neighbours(reader: &mut Reader, what: &'static str) -> Result<Vec<Neighbour>, DecodeError> {
    let read = reader.list(MAX_NEIGHBOURS, what, |reader| {
        let id = reader.node_id("neighbour")?;
        Ok(address(reader)?.map(|address| Neighbour { id, address }))
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
        let answer = |names: &[&str]| Answer {
            id: QueryId([1; 16]),
            node: Key::from_secret(&[1; 32]).id(),
            name: String::new(),
            addresses: Vec::new(),
            body: AnswerBody::Files(names.iter().map(|name| file(name)).collect()),
        };
        let mut out = Vec::new();
        answer(&["aux.txt", "a.", "b\\c", "C:x", "plain"]).encode(&mut out);
        let read = Answer::decode(&mut Reader::new(out.clone().into()));
        assert_eq!(read, Ok(answer(&["aux_.txt", "a_", "b_c", "C_x", "plain"])));
        let end = out.len();
        out[end - 5..].copy_from_slice(b"nul.x");
        let refused = Answer::decode(&mut Reader::new(out.into()));
        assert_eq!(refused, Err(DecodeError::Invalid("file name")));
    }
}
