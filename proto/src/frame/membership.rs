//! The frames by which nodes find and keep their neighbours.

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::NodeId;
use crate::record::Record;

/// Records in one frame.
pub const MAX_RECORDS: usize = 16;

/// Asks the other end of a link for a place among its neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighbourRequest {
    /// How much the sender needs it.
    pub need: Need,
    /// The sender's own.
    pub record: Record,
}

/// How much a node needs a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// It has others: a full node may refuse.
    Low,
    /// It has no other: a full node makes room.
    High,
    /// It is new here: a full node makes room, and tells others of it.
    Join,
}

/// The answer to [`NeighbourRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighbourReply {
    /// Whether the two are neighbours now.
    pub outcome: Outcome,
    /// The sender's own.
    pub record: Record,
    /// Others that may be asked.
    pub records: Vec<Record>,
}

/// What a node says to somebody who would be its neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// They are neighbours.
    Accepted,
    /// It has as many as it wants.
    Full,
    /// Its links are made by hand: it is no member, and will be none.
    Manual,
}

/// Tells of a new node on a random walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardJoin {
    /// Steps that are left.
    pub steps: u8,
    /// The new node's.
    pub record: Record,
}

/// The two are no longer neighbours; who dialled closes the link, unless it is wanted otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// Who may be asked instead: in a leave the other neighbours of the one who goes, else the
    /// node that the receiver had to make room for.
    pub instead: Vec<Record>,
    /// Whether the sender leaves the network: it is not to be asked again.
    pub leaves: bool,
}

/// Records on a random walk, to be exchanged with whoever is at its end; the answer comes back by
/// the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shuffle {
    /// Drawn by who starts it; finds the way back.
    pub id: u64,
    /// Steps that are left.
    pub steps: u8,
    /// What is told.
    pub records: Vec<Record>,
}

/// What the end of a [`Shuffle`] tells in exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShuffleReply {
    /// The shuffle's.
    pub id: u64,
    /// What is told.
    pub records: Vec<Record>,
}

/// A sign of life of the node with the least identity of those that hang together: who hears of
/// different ones is not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Beacon {
    /// The least identity.
    pub least: NodeId,
    /// Counts its signs of life.
    pub count: u64,
}

/// What two nodes that have no link tell each other on a stream of its own, one each: whether they
/// are there, whether they hang together, and whom they know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// From who asks: whether it would be a neighbour. From who answers: whether it may; a place
    /// is kept for it for a few seconds.
    pub neighbour: bool,
    /// The sender's own.
    pub record: Record,
    /// Whom it hears of as the least.
    pub beacon: Beacon,
    /// Others.
    pub records: Vec<Record>,
}

fn put_records(out: &mut Vec<u8>, records: &[Record]) {
    out.put_list(&records[..records.len().min(MAX_RECORDS)], |out, record| record.encode(out));
}

fn records(reader: &mut Reader) -> Result<Vec<Record>, DecodeError> {
    reader.list(MAX_RECORDS, "records", Record::decode)
}

impl NeighbourRequest {
    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(match self.need {
            Need::Low => 0,
            Need::High => 1,
            Need::Join => 2,
        });
        self.record.encode(out);
    }

    /// Reads a frame's body.
    ///
    /// # Errors
    /// Where anything is missing, too long or without meaning.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let need = match reader.u8("need")? {
            0 => Need::Low,
            1 => Need::High,
            2 => Need::Join,
            _ => return Err(DecodeError::Invalid("need")),
        };
        Ok(Self { need, record: Record::decode(reader)? })
    }
}

impl NeighbourReply {
    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(match self.outcome {
            Outcome::Accepted => 0,
            Outcome::Full => 1,
            Outcome::Manual => 2,
        });
        self.record.encode(out);
        put_records(out, &self.records);
    }

    /// Reads a frame's body.
    ///
    /// # Errors
    /// Where anything is missing, too long or without meaning.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let outcome = match reader.u8("outcome")? {
            0 => Outcome::Accepted,
            1 => Outcome::Full,
            2 => Outcome::Manual,
            _ => return Err(DecodeError::Invalid("outcome")),
        };
        Ok(Self { outcome, record: Record::decode(reader)?, records: records(reader)? })
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
    /// Where anything is missing, too long or without meaning.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { steps: reader.u8("steps")?, record: Record::decode(reader)? })
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
    /// Where anything is missing, too long or without meaning.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { leaves: reader.bool("leaves")?, instead: records(reader)? })
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
    /// Where anything is missing, too long or without meaning.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            id: reader.u64("shuffle")?,
            steps: reader.u8("steps")?,
            records: records(reader)?,
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
    /// Where anything is missing, too long or without meaning.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { id: reader.u64("shuffle")?, records: records(reader)? })
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
    /// Where anything is missing.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { least: reader.node_id("least identity")?, count: reader.u64("beacon")? })
    }
}

impl Probe {
    /// Largest encoded form, in bytes: checked before memory is taken. That of a control frame.
    pub const MAX: usize = 64 << 10;

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
    /// Where anything is missing, too long, without meaning or left over.
    pub fn decode(mut reader: Reader) -> Result<Self, DecodeError> {
        let probe = Self {
            neighbour: reader.bool("neighbour")?,
            record: Record::decode(&mut reader)?,
            beacon: Beacon::decode(&mut reader)?,
            records: records(&mut reader)?,
        };
        reader.finish()?;
        Ok(probe)
    }
}
