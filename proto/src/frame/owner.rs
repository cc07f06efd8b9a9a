//! The order of a network's owner that all nodes of the network stop.

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Key, NodeId, SIGNATURE_LEN};

/// The prefix of the signed bytes. It separates signatures of orders from all other signatures by
/// an owner's key.
const CONTEXT: &[u8] = b"peerkit order 1";

/// The order of a network's owner that every node stops. A node that passes it on can't change a
/// byte of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutdownOrder {
    /// The network's owner.
    pub owner: NodeId,
    /// The time of the order by the owner's clock, in milliseconds since 1970.
    pub time: u64,
    /// A random number, by which two orders with the same time differ.
    pub nonce: [u8; 16],
    /// The owner's signature over all fields above and the name of the network.
    pub signature: [u8; SIGNATURE_LEN],
}

impl ShutdownOrder {
    /// Creates and signs an order to all nodes of `network`.
    #[must_use]
    pub fn sign(key: &Key, network: &str, time: u64, nonce: [u8; 16]) -> Self {
        let mut order = Self { owner: key.id(), time, nonce, signature: [0; SIGNATURE_LEN] };
        order.signature = key.sign(&order.signed(network));
        order
    }

    /// Returns the bytes that are signed.
    #[must_use]
    pub fn signed(&self, network: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(192);
        out.put_bytes(CONTEXT);
        out.put_str(network);
        self.put_fields(&mut out);
        out
    }

    fn put_fields(&self, out: &mut Vec<u8>) {
        out.put_raw(self.owner.as_bytes());
        out.put_u64(self.time);
        out.put_raw(&self.nonce);
    }

    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.put_fields(out);
        out.put_raw(&self.signature);
    }

    /// Reads a frame's body. Does not verify the signature.
    ///
    /// # Errors
    /// If a field is missing.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            owner: reader.node_id("owner")?,
            time: reader.u64("order's time")?,
            nonce: reader.array("order's nonce")?,
            signature: reader.array("order's signature")?,
        })
    }
}
