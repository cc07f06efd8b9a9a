//! The frame of a broadcast.

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Hash, NodeId, SIGNATURE_LEN};
use crate::message::{Compression, Packed};

/// Longest title, in bytes.
pub const MAX_TITLE: usize = 256;

/// Sets these signatures apart from anything else that a node's key may sign.
const CONTEXT: &[u8] = b"peerkit broadcast 1";

/// A broadcast as it travels. Whoever passes it on can't change a byte of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Who wrote and signed it.
    pub author: NodeId,
    /// When the author's node started, in milliseconds since 1970: sets its runs apart.
    pub epoch: u64,
    /// Counts the author's broadcasts of this run, from 1.
    pub sequence: u64,
    /// When it was written, by the author's clock, in milliseconds since 1970.
    pub time: u64,
    /// A heading; may be empty.
    pub title: String,
    /// The content; never compressed.
    pub content: Packed,
    /// The author's signature over all of the above and the network's name.
    pub signature: [u8; SIGNATURE_LEN],
}

impl Envelope {
    /// Names the broadcast: the hash of what is signed. Equal texts are different broadcasts.
    #[must_use]
    pub fn id(&self, network: &str) -> Hash {
        Hash::of(&self.signed(network))
    }

    /// Whether the author signed exactly this, for this network.
    #[must_use]
    pub fn verify(&self, network: &str) -> bool {
        self.author.verify(&self.signed(network), &self.signature)
    }

    /// The bytes that the signature is over.
    pub(crate) fn signed(&self, network: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.content.payload.len() + 512);
        out.put_bytes(CONTEXT);
        out.put_str(network);
        self.put_fields(&mut out);
        out
    }

    fn put_fields(&self, out: &mut Vec<u8>) {
        out.put_raw(self.author.as_bytes());
        out.put_u64(self.epoch);
        out.put_u64(self.sequence);
        out.put_u64(self.time);
        out.put_str(&self.title);
        out.put_u8(self.content.head());
        out.put_bytes(&self.content.payload);
    }

    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.put_fields(out);
        out.put_raw(&self.signature);
    }

    /// Reads a frame's body. Says nothing about the signature: see [`Envelope::verify`].
    ///
    /// # Errors
    /// Where anything is missing, too long or without meaning.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let author = reader.node_id("author")?;
        let epoch = reader.u64("epoch")?;
        let sequence = reader.u64("sequence")?;
        let time = reader.u64("time")?;
        let title = reader.str(MAX_TITLE, "title")?;
        let head = reader.u8("content head")?;
        let payload = reader.bytes(usize::MAX, "content")?;
        let content = Packed::decode(&mut Reader::new(Bytes::copy_from_slice(&[head])))?;
        if content.compression != Compression::None {
            return Err(DecodeError::Invalid("content compression"));
        }
        let signature = reader.array("signature")?;
        Ok(Self {
            author,
            epoch,
            sequence,
            time,
            title,
            content: Packed { payload, ..content },
            signature,
        })
    }
}
