//! Node records: the addresses of a node, signed by that node. Nodes also pass on the records of
//! other nodes.

use crate::address::Address;
use crate::codec::{DecodeError, Reader, Writer};
use crate::hello::{put_address, read_address};
use crate::id::{Key, NodeId, SIGNATURE_LEN};

/// Maximum number of addresses in a record. 8: enough for a computer in several networks.
pub const MAX_RECORD_ADDRESSES: usize = 8;

/// The prefix of the signed bytes. It separates signatures of records from all other signatures by
/// a node's key.
const CONTEXT: &[u8] = b"peerkit record 1";

/// A signed record of a node's addresses. A node that passes it on can't change a byte of it.
///
/// The signature proves that the node claims these addresses, not that it answers there.
/// [`overlay`](crate::overlay) explains how nodes test records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// The node.
    pub node: NodeId,
    /// The time of the signature by the node's clock, in milliseconds since 1970. Of two records
    /// the later one is valid.
    pub time: u64,
    /// The addresses at which the node can be dialled, best first. Empty if it can't be dialled.
    pub addresses: Vec<Address>,
    /// The addresses with unknown schemes, each with its index among all addresses. The signature
    /// covers them too.
    pub(crate) unknown_addresses: Vec<(usize, String)>,
    /// The node's signature over all fields above and the name of the network.
    pub signature: [u8; SIGNATURE_LEN],
}

impl NodeRecord {
    /// Creates and signs the record of the node with `key`. Only the first [`MAX_RECORD_ADDRESSES`]
    /// of `addresses` are in it.
    #[must_use]
    pub fn sign(key: &Key, network: &str, time: u64, addresses: &[Address]) -> Self {
        let first = addresses.iter().take(MAX_RECORD_ADDRESSES);
        // The record has the identity once, so the addresses do not repeat it.
        let addresses = first.map(|address| address.clone().without_id()).collect();
        let signature = [0; SIGNATURE_LEN];
        let mut record =
            Self { node: key.id(), time, addresses, unknown_addresses: Vec::new(), signature };
        record.signature = key.sign(&record.signed(network));
        record
    }

    /// Returns whether the signature is valid for this record in this network.
    #[must_use]
    pub fn verify(&self, network: &str) -> bool {
        self.node.verify(&self.signed(network), &self.signature)
    }

    /// Returns the bytes that are signed.
    #[must_use]
    pub fn signed(&self, network: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.put_bytes(CONTEXT);
        out.put_str(network);
        self.put_fields(&mut out);
        out
    }

    fn put_fields(&self, out: &mut Vec<u8>) {
        out.put_raw(self.node.as_bytes());
        out.put_u64(self.time);
        // Addresses with unknown schemes are written at their index. Otherwise the signature would
        // be invalid.
        let count = self.addresses.len().saturating_add(self.unknown_addresses.len());
        out.put_u16(u16::try_from(count).unwrap_or(u16::MAX));
        let mut unknown = self.unknown_addresses.iter().peekable();
        let mut known = self.addresses.iter();
        for index in 0..count {
            match unknown.next_if(|(at, _)| *at == index) {
                Some((_, text)) => out.put_str(text),
                None => known.by_ref().take(1).for_each(|address| put_address(out, address)),
            }
        }
    }

    /// Appends the record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.put_fields(out);
        out.put_raw(&self.signature);
    }

    /// Reads a record without verifying its signature: see [`NodeRecord::verify`]. Addresses with
    /// unknown schemes are kept and encoded again, but are not in [`NodeRecord::addresses`].
    ///
    /// # Errors
    /// [`DecodeError`] if a field is missing, too long or invalid.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let node = reader.node_id("record's node")?;
        let time = reader.u64("record's time")?;
        let mut unknown_addresses = Vec::new();
        let mut addresses = Vec::new();
        let read = reader.list(MAX_RECORD_ADDRESSES, "record's addresses", read_address)?;
        for (index, address) in read.into_iter().enumerate() {
            match address {
                Ok(address) => addresses.push(address),
                Err(text) => unknown_addresses.push((index, text)),
            }
        }
        let signature = reader.array("record's signature")?;
        Ok(Self { node, time, addresses, unknown_addresses, signature })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn record() -> NodeRecord {
        let addresses = ["192.0.2.1:7117".parse().unwrap(), "[2001:db8::1]:7117".parse().unwrap()];
        NodeRecord::sign(&Key::from_secret(&[1; 32]), "net", 5, &addresses)
    }

    #[test]
    fn an_encoded_record_is_read_back_and_a_cut_one_is_an_error() {
        let mut out = Vec::new();
        record().encode(&mut out);
        let bytes = Bytes::from(out);
        assert_eq!(NodeRecord::decode(&mut Reader::new(bytes.clone())).unwrap(), record());
        for len in 0..bytes.len() {
            assert!(
                NodeRecord::decode(&mut Reader::new(bytes.slice(..len))).is_err(),
                "cut at {len}"
            );
        }
    }

    #[test]
    fn addresses_of_unknown_schemes_are_passed_on_with_a_valid_signature() {
        let key = Key::from_secret(&[1; 32]);
        let texts = ["later://a:1", "192.0.2.1:7117", "new://", "[2001:db8::1]:7117", "z://?"];
        let mut signed = Vec::new();
        signed.put_bytes(CONTEXT);
        signed.put_str("net");
        let start = signed.len();
        signed.put_raw(key.id().as_bytes());
        signed.put_u64(5);
        signed.put_list(&texts, |out, text| out.put_str(text));
        let mut bytes = signed[start..].to_vec();
        bytes.put_raw(&key.sign(&signed));

        let later = NodeRecord::decode(&mut Reader::new(bytes.clone().into())).unwrap();
        assert_eq!(later.addresses, record().addresses);
        assert!(later.verify("net") && !later.verify("other"));
        let mut out = Vec::new();
        later.encode(&mut out);
        assert_eq!(out, bytes);
        let forged = NodeRecord { unknown_addresses: Vec::new(), ..later };
        assert!(!forged.verify("net"));
    }

    #[test]
    fn the_signature_covers_every_field_and_the_network() {
        let forged = |change: fn(&mut NodeRecord)| {
            let mut record = record();
            change(&mut record);
            record.verify("net")
        };
        assert!(forged(|_| {}));
        assert!(!record().verify("other"));
        assert!(!forged(|r| r.node = Key::from_secret(&[2; 32]).id()));
        assert!(!forged(|r| r.time += 1));
        assert!(!forged(|r| drop(r.addresses.pop())));
        assert!(!forged(|r| r.signature[0] ^= 1));
    }
}
