//! The frames of messages that other nodes relay, as sender and recipient have no link.

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer};
use crate::frame::query::QueryId;
use crate::id::NodeId;

/// The address of a relayed message, which all nodes on its way can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayLabel {
    /// The query that found the recipient. The message takes the way of its answer, in reverse.
    pub query: QueryId,
    /// A number that the sender does not use for another message.
    pub number: u64,
    /// The recipient.
    pub to: NodeId,
}

/// A relayed message on its way to its recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Its address.
    pub label: RelayLabel,
    /// The message, sealed by [`seal`](crate::seal).
    pub sealed: Bytes,
}

/// The outcome of a [`Forward`], on its way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// The query of its label.
    pub query: QueryId,
    /// The number of its label.
    pub number: u64,
    /// The outcome.
    pub delivery: Delivery,
}

/// The proof that a message was opened by the node that it was sealed to.
pub type Receipt = [u8; 32];

/// The outcome of a relayed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// The recipient has the message, as its receipt proves.
    Taken(Receipt),
    /// A node on the way does not know the next node, or has no link with it.
    NoRoute,
    /// A node on the way, or the recipient, accepts no more messages just now.
    Busy,
    /// The recipient has refused the message: it could not open it, had it before, or found it too old.
    Refused,
}

impl RelayLabel {
    /// Bytes of an encoded label.
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
    /// If anything is missing.
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
    /// If anything is missing.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { label: RelayLabel::decode(reader)?, sealed: reader.take_rest() })
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
            Delivery::NoRoute => out.put_u8(1),
            Delivery::Busy => out.put_u8(2),
            Delivery::Refused => out.put_u8(3),
        }
    }

    /// Reads a frame's body.
    ///
    /// # Errors
    /// If anything is missing or invalid.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            query: QueryId(reader.array("message's query")?),
            number: reader.u64("message's number")?,
            delivery: match reader.u8("delivery")? {
                0 => Delivery::Taken(reader.array("receipt")?),
                1 => Delivery::NoRoute,
                2 => Delivery::Busy,
                3 => Delivery::Refused,
                _ => return Err(DecodeError::Invalid("delivery")),
            },
        })
    }
}
