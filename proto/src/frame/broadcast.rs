//! The frames of broadcasts: signed batches, announcements of them, and requests for them.

use std::sync::Arc;

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Hash, Key, NodeId, SIGNATURE_LEN};
use crate::message::{Compression, PackedMessage};

/// Longest title, in bytes.
pub const MAX_TITLE: usize = 256;

/// Most broadcasts under one signature.
pub const MAX_BATCH: usize = 1024;

/// Most runs that one frame announces. More go in further frames.
pub const MAX_HAVES: usize = 1024;

/// Prefixes of the bytes that a broadcast's id is the hash of, and that are signed. They set these
/// apart from all other hashes and signatures.
const ID_CONTEXT: &[u8] = b"peerkit broadcast 2";
const BATCH_CONTEXT: &[u8] = b"peerkit broadcasts 2";

/// The name of one run of an author's node, which its broadcasts belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId {
    /// The node that writes and signs the broadcasts.
    pub author: NodeId,
    /// The start of the author's node, in milliseconds since 1970.
    pub epoch: u64,
}

/// Consecutive broadcasts of one author under one signature. Nodes that pass them on can't change a
/// byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The run of the author that they belong to.
    pub run: RunId,
    /// The place of the first broadcast in the run, counted from 1.
    pub first: u64,
    /// The place of the first broadcast of the run that nodes still keep. Those before it are too old.
    pub floor: u64,
    /// The broadcasts, at least one.
    pub items: Arc<[Item]>,
    /// The author's signature over all fields above and the network's name.
    pub signature: [u8; SIGNATURE_LEN],
    /// The frame's body, as it was received or is to be sent.
    body: Bytes,
}

/// A broadcast of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its time by the author's clock, in milliseconds since 1970.
    pub time: u64,
    /// A heading; may be empty.
    pub title: String,
    /// The content, which is never compressed.
    pub content: PackedMessage,
}

/// Announces how much of a run the sender has: all broadcasts that are still kept, up to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Have {
    /// The run.
    pub run: RunId,
    /// The last place up to which nothing is missing; 0 if it has none.
    pub upto: u64,
}

/// Asks for the broadcasts of a run behind a place, and for later ones as they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// The run.
    pub run: RunId,
    /// The last place that the sender has.
    pub after: u64,
}

impl Batch {
    /// Signs broadcasts of the node that has `key`. The first of them has the place `first` in its run,
    /// of which nodes still keep those from `floor` on.
    #[must_use]
    pub fn sign(
        key: &Key,
        network: &str,
        epoch: u64,
        (first, floor): (u64, u64),
        items: Vec<Item>,
    ) -> Self {
        let run = RunId { author: key.id(), epoch };
        // The ids, which the signature is over, do not depend on the signature.
        let unsigned = Self::from_parts(run, (first, floor), items, [0; SIGNATURE_LEN]);
        let signature = key.sign(&unsigned.signed(network, &unsigned.ids(network)));
        Self::from_parts(run, (first, floor), unsigned.items.to_vec(), signature)
    }

    /// Creates a batch. The signature need not be valid.
    #[must_use]
    pub fn from_parts(
        run: RunId,
        (first, floor): (u64, u64),
        items: Vec<Item>,
        signature: [u8; SIGNATURE_LEN],
    ) -> Self {
        let mut body = Vec::new();
        run.encode(&mut body);
        body.put_u64(first);
        body.put_u64(floor);
        body.put_list(&items, |out, item| item.encode(out));
        body.put_raw(&signature);
        Self { run, first, floor, items: items.into(), signature, body: body.into() }
    }

    /// Returns the place of the last broadcast.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.first.saturating_add(self.items.len() as u64).saturating_sub(1)
    }

    /// Returns the ids of the broadcasts, in order. Each is the hash of the broadcast with its author
    /// and its place, so equal texts are different broadcasts.
    #[must_use]
    pub fn ids(&self, network: &str) -> Vec<Hash> {
        let places = self.first..;
        places
            .zip(self.items.iter())
            .map(|(place, item)| item.id(network, self.run, place))
            .collect()
    }

    /// Returns whether the author has signed exactly this, for this network. `ids` are those of
    /// [`Batch::ids`].
    #[must_use]
    pub fn verify(&self, network: &str, ids: &[Hash]) -> bool {
        self.run.author.verify(&self.signed(network, ids), &self.signature)
    }

    /// Returns the bytes that the signature is over. The ids stand for the contents of the broadcasts.
    #[must_use]
    pub fn signed(&self, network: &str, ids: &[Hash]) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + 32 * ids.len());
        out.put_bytes(BATCH_CONTEXT);
        out.put_str(network);
        self.run.encode(&mut out);
        out.put_u64(self.first);
        out.put_u64(self.floor);
        out.put_list(ids, |out, id| out.put_raw(id.as_bytes()));
        out
    }

    /// Returns the frame's body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_raw(&self.body);
    }

    /// Reads a frame's body, without checking the signature: see [`Batch::verify`].
    ///
    /// # Errors
    /// If anything is missing, too long, invalid or left over.
    pub fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body.clone());
        let run = RunId::decode(&mut reader)?;
        let first = reader.u64("place")?;
        let floor = reader.u64("floor")?;
        let items = reader.list(MAX_BATCH, "broadcasts", Item::decode)?;
        let signature = reader.array("signature")?;
        reader.finish()?;
        // Places are counted from 1. The last one must not overflow, as others are computed from it.
        if items.is_empty() || first == 0 || first.checked_add(items.len() as u64).is_none() {
            return Err(DecodeError::Invalid("place"));
        }
        if floor == 0 || floor > first {
            return Err(DecodeError::Invalid("floor"));
        }
        Ok(Self { run, first, floor, items: items.into(), signature, body })
    }
}

impl Item {
    /// Returns the id of this broadcast at `place` of `run`.
    #[must_use]
    pub fn id(&self, network: &str, run: RunId, place: u64) -> Hash {
        let mut head = Vec::with_capacity(512);
        head.put_bytes(ID_CONTEXT);
        head.put_str(network);
        run.encode(&mut head);
        head.put_u64(place);
        self.put_head(&mut head);
        Hash::of_parts(&[&head, &self.content.payload])
    }

    fn put_head(&self, out: &mut Vec<u8>) {
        out.put_u64(self.time);
        out.put_str(&self.title);
        out.put_u8(self.content.head_byte());
        out.put_u32(u32::try_from(self.content.payload.len()).unwrap_or(u32::MAX));
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.put_head(out);
        out.put_raw(&self.content.payload);
    }

    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let time = reader.u64("time")?;
        let title = reader.str(MAX_TITLE, "title")?;
        let head = reader.u8("content head")?;
        // `Frame::limit` has bounded the whole frame before it was received.
        let content = PackedMessage::new(head, reader.bytes(usize::MAX, "content")?)?;
        if content.compression != Compression::None {
            return Err(DecodeError::Invalid("content compression"));
        }
        Ok(Self { time, title, content })
    }
}

impl RunId {
    /// Appends the name of the run to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_raw(self.author.as_bytes());
        out.put_u64(self.epoch);
    }

    /// Reads the name of a run.
    ///
    /// # Errors
    /// If anything is missing.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { author: reader.node_id("author")?, epoch: reader.u64("epoch")? })
    }
}

impl Have {
    /// Appends the announcement to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.run.encode(out);
        out.put_u64(self.upto);
    }

    /// Reads an announcement.
    ///
    /// # Errors
    /// If anything is missing.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { run: RunId::decode(reader)?, upto: reader.u64("place")? })
    }
}

impl Want {
    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.run.encode(out);
        out.put_u64(self.after);
    }

    /// Reads a frame's body.
    ///
    /// # Errors
    /// If anything is missing.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { run: RunId::decode(reader)?, after: reader.u64("place")? })
    }
}
