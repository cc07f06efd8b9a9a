//! The frames of messages that other nodes relay, because the sender and the recipient have no
//! link.

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer};
use crate::frame::query::QueryId;
use crate::id::NodeId;

/// The label of a relayed message, which all nodes on the route can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayLabel {
    /// The query that found the recipient. The message takes the route of the answer in reverse.
    pub query: QueryId,
    /// The number of the message, which the sender uses only once.
    pub number: u64,
    /// The recipient.
    pub to: NodeId,
}

/// A relayed message on its way to its recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Its label.
    pub label: RelayLabel,
    /// The message, sealed by [`seal`](crate::seal).
    pub sealed: Bytes,
}

/// The outcome of a [`Forward`], on its way back to the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// The query in the label of the message.
    pub query: QueryId,
    /// The number in the label of the message.
    pub number: u64,
    /// The outcome.
    pub delivery: Delivery,
}

/// The proof that the recipient of a sealed message has opened it.
pub type Receipt = [u8; 32];

/// The outcome of a relayed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// The recipient has accepted the message. The receipt proves that.
    Taken(Receipt),
    /// A node on the route does not know the next node, or has no link with it.
    NoRoute,
    /// A node on the route, or the recipient, accepts no more messages at the moment.
    Busy,
    /// The recipient has refused the message, because it could not open it, had received it before,
    /// or found it too old.
    Refused,
}

impl RelayLabel {
    /// Length of an encoded label in bytes.
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
    /// If a field is missing.
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
    /// If a field is missing.
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
    /// If a field is missing or invalid.
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
