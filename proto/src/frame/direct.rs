//! The frames of messages to nodes that are not neighbours.

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer};
use crate::frame::query::QueryId;
use crate::id::NodeId;

/// Which message it is and whom it is for: what everybody on its way sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// The query that found the recipient: the message goes the way that the answer came.
    pub query: QueryId,
    /// Chosen by the sender, unique among its messages.
    pub number: u64,
    /// The recipient.
    pub to: NodeId,
}

/// A message on its way to its recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Which one it is.
    pub label: Label,
    /// The message, as [`seal`](crate::seal) makes it.
    pub sealed: Bytes,
}

/// What came of a [`Forward`], on its way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// The query of its label.
    pub query: QueryId,
    /// The number of its label.
    pub number: u64,
    /// What came of it.
    pub delivery: Delivery,
}

/// Proves that a message was opened by whom it was sealed to.
pub type Receipt = [u8; 32];

/// What came of a message that others passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// The recipient has it, as only the recipient can prove.
    Taken(Receipt),
    /// A node on the way does not know, or has no link, where it goes on.
    NoWay,
    /// A node on the way, or the recipient, takes no more of them just now.
    Busy,
    /// The recipient refused it: could not open it, had it before, or found it too old.
    Refused,
}

impl Label {
    /// Bytes of a label.
    pub const LEN: usize = 56;

    /// Appends the label to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_raw(&self.query.0);
        out.put_u64(self.number);
        out.put_raw(self.to.as_bytes());
    }

    /// Reads a label.
    ///
    /// # Errors
    /// Where anything is missing.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            query: QueryId(reader.array("message's query")?),
            number: reader.u64("message's number")?,
            to: reader.node_id("recipient")?,
        })
    }
}

impl Forward {
    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.label.encode(out);
        out.put_raw(&self.sealed);
    }

    /// Reads a frame's body.
    ///
    /// # Errors
    /// Where anything is missing.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { label: Label::decode(reader)?, sealed: reader.take_rest() })
    }
}

impl Forwarded {
    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_raw(&self.query.0);
        out.put_u64(self.number);
        match &self.delivery {
            Delivery::Taken(receipt) => {
                out.put_u8(0);
                out.put_raw(receipt);
            }
            Delivery::NoWay => out.put_u8(1),
            Delivery::Busy => out.put_u8(2),
            Delivery::Refused => out.put_u8(3),
        }
    }

    /// Reads a frame's body.
    ///
    /// # Errors
    /// Where anything is missing or without meaning.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            query: QueryId(reader.array("message's query")?),
            number: reader.u64("message's number")?,
            delivery: match reader.u8("delivery")? {
                0 => Delivery::Taken(reader.array("receipt")?),
                1 => Delivery::NoWay,
                2 => Delivery::Busy,
                3 => Delivery::Refused,
                _ => return Err(DecodeError::Invalid("delivery")),
            },
        })
    }
}
