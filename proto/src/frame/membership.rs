//! The frames with which nodes find and keep their neighbours.

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Key, NodeId, SIGNATURE_LEN};
use crate::node_record::NodeRecord;

/// The prefix of the signed bytes of a beacon. It separates signatures of beacons from all other signatures
/// by a node's key.
const BEACON_CONTEXT: &[u8] = b"peerkit beacon 1";

/// Maximum number of records in one frame.
pub const MAX_RECORDS: usize = 16;

/// A request to become neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighbourRequest {
    /// The urgency of the request.
    pub need: Need,
    /// The record of the sender.
    pub record: NodeRecord,
}

/// The urgency with which a node asks for a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The node has other neighbours. A full node refuses it.
    Low = 0,
    /// The node has no other neighbour, or has another strong reason. A full node takes it in addition to its own
    /// neighbours, or drops one of them to make room.
    High = 1,
    /// The node is new in the network. A full node makes room, and announces the new node to other
    /// nodes.
    Join = 2,
    /// The node has other neighbours, but has chosen the receiver. A full node takes it in addition to its own
    /// neighbours, or refuses it.
    Chosen = 3,
}

/// The answer to [`NeighbourRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighbourReply {
    /// The answer to the request.
    pub outcome: NeighbourOutcome,
    /// The record of the sender.
    pub record: NodeRecord,
    /// Records of other nodes that the receiver can ask.
    pub records: Vec<NodeRecord>,
}

/// The outcome of a [`NeighbourRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourOutcome {
    /// The two nodes are neighbours.
    Accepted = 0,
    /// The node has its maximum number of neighbours.
    Full = 1,
    /// The application of the node makes all links by hand, so the node has no neighbours.
    Manual = 2,
}

/// The announcement of a new node, on a random walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardJoin {
    /// Number of steps that are left of the walk.
    pub steps: u8,
    /// The record of the new node.
    pub record: NodeRecord,
}

/// The notice that the two nodes are no longer neighbours. The node that dialled then closes the
/// link, unless the link is needed for something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// Records of nodes that the receiver can ask to become its neighbours instead. If the sender
    /// leaves the network, these are its other neighbours. Otherwise it is the record of the node
    /// that takes the receiver's place.
    pub instead: Vec<NodeRecord>,
    /// True if the sender leaves the network. It must not be asked again then.
    pub leaves: bool,
}

/// Records of nodes, on a random walk. The node at the end of the walk sends records in return,
/// along the same path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shuffle {
    /// A random number that the start of the walk has drawn. The nodes on the walk use it to return
    /// the answer.
    pub id: u64,
    /// Number of steps that are left of the walk.
    pub steps: u8,
    /// The records.
    pub records: Vec<NodeRecord>,
}

/// The answer to a [`Shuffle`], with the records from the node at the end of the walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShuffleReply {
    /// The number of the shuffle.
    pub id: u64,
    /// The records.
    pub records: Vec<NodeRecord>,
}

/// A sign of life from the node with the least identity in a part of the network. If two nodes
/// receive the beacons of different nodes, they are in parts that are not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Beacon {
    /// The least identity in this part of the network.
    pub least: NodeId,
    /// The number of the beacon. Each beacon of the node has a greater number than the one before.
    pub count: u64,
}

/// A beacon with the signature of its node. Links of version 1 carry beacons without a signature, which are
/// not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedBeacon {
    /// The beacon.
    pub beacon: Beacon,
    /// The signature of the node that the beacon names, over the beacon and the name of the network.
    pub signature: [u8; SIGNATURE_LEN],
}

/// A message on a stream between two nodes without a link. Each node sends one. The exchange shows
/// whether the nodes are reachable and in the same part of the network. It also exchanges records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// In the first probe: true if the sender wants to become a neighbour. In the answer: true if
    /// it may, and the answering node then reserves a place for it for a few seconds.
    pub neighbour: bool,
    /// The record of the sender.
    pub record: NodeRecord,
    /// The last beacon that the sender has received. It is a claim, as it is not signed here.
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
    /// If a field is missing, too long or invalid.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let need = match reader.u8("need")? {
            0 => Need::Low,
            1 => Need::High,
            2 => Need::Join,
            3 => Need::Chosen,
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
    /// If a field is missing, too long or invalid.
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
    /// If a field is missing, too long or invalid.
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
    /// If a field is missing, too long or invalid.
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
    /// If a field is missing, too long or invalid.
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
    /// If a field is missing, too long or invalid.
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
    /// If a field is missing.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { least: reader.node_id("least identity")?, count: reader.u64("beacon")? })
    }

    /// Returns the bytes that are signed.
    #[must_use]
    pub fn signed(&self, network: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.put_bytes(BEACON_CONTEXT);
        out.put_str(network);
        self.encode(&mut out);
        out
    }
}

impl SignedBeacon {
    /// Creates and signs a beacon of the node with `key`.
    #[must_use]
    pub fn sign(key: &Key, network: &str, count: u64) -> Self {
        let beacon = Beacon { least: key.id(), count };
        Self { beacon, signature: key.sign(&beacon.signed(network)) }
    }

    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.beacon.encode(out);
        out.put_raw(&self.signature);
    }

    /// Reads a frame's body. The signature is not verified.
    ///
    /// # Errors
    /// If a field is missing.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let beacon = Beacon::decode(reader)?;
        Ok(Self { beacon, signature: reader.array("beacon's signature")? })
    }
}

impl Probe {
    /// Maximum length of an encoded probe in bytes. It is checked before memory is reserved. 64
    /// KiB: as for a control frame.
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
    /// If a field is missing, too long or invalid, or if bytes follow the last field.
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
