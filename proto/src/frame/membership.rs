//! The frames by which nodes find and keep their neighbours.

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::NodeId;
use crate::node_record::NodeRecord;

/// Most records in one frame.
pub const MAX_RECORDS: usize = 16;

/// Asks the peer to become a neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighbourRequest {
    /// The sender's need of a neighbour.
    pub need: Need,
    /// The sender's record.
    pub record: NodeRecord,
}

/// A node's need of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// It has other neighbours. A full node may refuse.
    Low = 0,
    /// It has no other neighbour. A full node makes room.
    High = 1,
    /// It is new in the network. A full node makes room, and announces the new node to others.
    Join = 2,
}

/// The answer to [`NeighbourRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighbourReply {
    /// The answer to the request.
    pub outcome: NeighbourOutcome,
    /// The sender's record.
    pub record: NodeRecord,
    /// Records of other nodes that may be asked.
    pub records: Vec<NodeRecord>,
}

/// The answer to a node that asks to become a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourOutcome {
    /// The two nodes are neighbours.
    Accepted = 0,
    /// The node has as many neighbours as it wants.
    Full = 1,
    /// The node's links are made by hand, so it never has neighbours.
    Manual = 2,
}

/// Announces a new node, on a random walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardJoin {
    /// Steps of the walk that are left.
    pub steps: u8,
    /// The new node's record.
    pub record: NodeRecord,
}

/// Ends that two nodes are neighbours. The one that dialled closes the link, unless it is needed for
/// something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// Nodes that may be asked instead: the other neighbours of a sender that leaves, else the node
    /// that the receiver had to make room for.
    pub instead: Vec<NodeRecord>,
    /// Set if the sender leaves the network, so that it must not be asked again.
    pub leaves: bool,
}

/// Records on a random walk, which are exchanged with the node at its end. The answer takes the same
/// way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shuffle {
    /// A random number of the node that starts the walk, by which the answer finds its way back.
    pub id: u64,
    /// Steps of the walk that are left.
    pub steps: u8,
    /// The records.
    pub records: Vec<NodeRecord>,
}

/// The records from the node at the end of a [`Shuffle`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShuffleReply {
    /// The number of the shuffle.
    pub id: u64,
    /// The records.
    pub records: Vec<NodeRecord>,
}

/// A sign of life of the node with the least identity in a part of the network. Two nodes that receive
/// the beacons of different nodes are in parts that are not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Beacon {
    /// The least identity in this part of the network.
    pub least: NodeId,
    /// The number of the beacon, which grows with each.
    pub count: u64,
}

/// A message that two nodes without a link send each other on a stream, once each. It shows whether
/// they are reachable and in the same part of the network, and has records of nodes that they know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// In the first probe: whether the sender wants to become a neighbour. In the answer: whether it
    /// may. A place is kept for it for a few seconds.
    pub neighbour: bool,
    /// The sender's record.
    pub record: NodeRecord,
    /// The last beacon that the sender has received.
    pub beacon: Beacon,
    /// Records of other nodes.
    pub records: Vec<NodeRecord>,
}

fn put_records(out: &mut Vec<u8>, records: &[NodeRecord]) {
    out.put_list(&records[..records.len().min(MAX_RECORDS)], |out, record| record.encode(out));
}

fn read_records(reader: &mut Reader) -> Result<Vec<NodeRecord>, DecodeError> {
    reader.list(MAX_RECORDS, "records", NodeRecord::decode)
}

impl NeighbourRequest {
    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.need as u8);
        self.record.encode(out);
    }

    /// Reads a frame's body.
    ///
    /// # Errors
    /// If anything is missing, too long or invalid.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let need = match reader.u8("need")? {
            0 => Need::Low,
            1 => Need::High,
            2 => Need::Join,
            _ => return Err(DecodeError::Invalid("need")),
        };
        Ok(Self { need, record: NodeRecord::decode(reader)? })
    }
}

impl NeighbourReply {
    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.outcome as u8);
        self.record.encode(out);
        put_records(out, &self.records);
    }

    /// Reads a frame's body.
    ///
    /// # Errors
    /// If anything is missing, too long or invalid.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let outcome = match reader.u8("outcome")? {
            0 => NeighbourOutcome::Accepted,
            1 => NeighbourOutcome::Full,
            2 => NeighbourOutcome::Manual,
            _ => return Err(DecodeError::Invalid("outcome")),
        };
        Ok(Self { outcome, record: NodeRecord::decode(reader)?, records: read_records(reader)? })
    }
}

impl ForwardJoin {
    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.steps);
        self.record.encode(out);
    }

    /// Reads a frame's body.
    ///
    /// # Errors
    /// If anything is missing, too long or invalid.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { steps: reader.u8("steps")?, record: NodeRecord::decode(reader)? })
    }
}

impl Disconnect {
    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_bool(self.leaves);
        put_records(out, &self.instead);
    }

    /// Reads a frame's body.
    ///
    /// # Errors
    /// If anything is missing, too long or invalid.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { leaves: reader.bool("leaves")?, instead: read_records(reader)? })
    }
}

impl Shuffle {
    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.id);
        out.put_u8(self.steps);
        put_records(out, &self.records);
    }

    /// Reads a frame's body.
    ///
    /// # Errors
    /// If anything is missing, too long or invalid.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            id: reader.u64("shuffle")?,
            steps: reader.u8("steps")?,
            records: read_records(reader)?,
        })
    }
}

impl ShuffleReply {
    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.id);
        put_records(out, &self.records);
    }

    /// Reads a frame's body.
    ///
    /// # Errors
    /// If anything is missing, too long or invalid.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { id: reader.u64("shuffle")?, records: read_records(reader)? })
    }
}

impl Beacon {
    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_raw(self.least.as_bytes());
        out.put_u64(self.count);
    }

    /// Reads a frame's body.
    ///
    /// # Errors
    /// If anything is missing.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { least: reader.node_id("least identity")?, count: reader.u64("beacon")? })
    }
}

impl Probe {
    /// Most bytes of an encoded probe. It is checked before memory is taken. 64 KiB: as for a control
    /// frame.
    pub const MAX_LEN: usize = 64 << 10;

    /// Appends the probe to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_bool(self.neighbour);
        self.record.encode(out);
        self.beacon.encode(out);
        put_records(out, &self.records);
    }

    /// Reads a probe.
    ///
    /// # Errors
    /// If anything is missing, too long, invalid or left over.
    pub fn decode(mut reader: Reader) -> Result<Self, DecodeError> {
        let probe = Self {
            neighbour: reader.bool("neighbour")?,
            record: NodeRecord::decode(&mut reader)?,
            beacon: Beacon::decode(&mut reader)?,
            records: read_records(&mut reader)?,
        };
        reader.finish()?;
        Ok(probe)
    }
}
