//! The frames of broadcasts: what an author has signed, who has how much of it, and who wants it.

use std::sync::Arc;

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Hash, Key, NodeId, SIGNATURE_LEN};
use crate::message::{Compression, Packed};

/// Longest title, in bytes.
pub const MAX_TITLE: usize = 256;

/// Broadcasts under one signature.
pub const MAX_BATCH: usize = 1024;

/// Runs of authors told of in one frame; what is more goes in the next.
pub const MAX_HAVES: usize = 1024;

/// Sets what is hashed to a broadcast's id, and what is signed, apart from anything else.
const ID_CONTEXT: &[u8] = b"peerkit broadcast 2";
const BATCH_CONTEXT: &[u8] = b"peerkit broadcasts 2";

/// Names the broadcasts of one run of an author's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId {
    /// Who writes and signs them.
    pub author: NodeId,
    /// When the author's node started, in milliseconds since 1970.
    pub epoch: u64,
}

/// Broadcasts of one author, one after the other and under one signature. Whoever passes them on
/// can't change a byte of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The run of the author that they belong to.
    pub run: RunId,
    /// The place of the first in the run: broadcasts are counted from 1.
    pub first: u64,
    /// The first of the run that can still be had; all before it are older than any log.
    pub floor: u64,
    /// One or more.
    pub items: Arc<[Item]>,
    /// The author's signature over all of the above and the network's name.
    pub signature: [u8; SIGNATURE_LEN],
    /// The frame's body, as it came or is to go.
    body: Bytes,
}

/// One broadcast of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// When it was written, by the author's clock, in milliseconds since 1970.
    pub time: u64,
    /// A heading; may be empty.
    pub title: String,
    /// The content; never compressed.
    pub content: Packed,
}

/// How much of a run its sender has: all that can be had up to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Have {
    /// The run.
    pub run: RunId,
    /// The last place up to which nothing is missing; 0 where it has none.
    pub upto: u64,
}

/// Asks for what there is of a run behind a place, and for what comes from now on as it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// The run.
    pub run: RunId,
    /// The last place that the sender has.
    pub after: u64,
}

impl Batch {
    /// Signs broadcasts of the node that has `key`; they stand from `first` on in its run, of which
    /// all from `floor` on can still be had.
    #[must_use]
    pub fn sign(
        key: &Key,
        network: &str,
        epoch: u64,
        (first, floor): (u64, u64),
        items: Vec<Item>,
    ) -> Self {
        let run = RunId { author: key.id(), epoch };
        let unsigned = Self::from_parts(run, (first, floor), items, [0; SIGNATURE_LEN]);
        let signature = key.sign(&unsigned.signed(network, &unsigned.ids(network)));
        Self::from_parts(run, (first, floor), unsigned.items.to_vec(), signature)
    }

    /// A batch of these parts, whether the signature is right or not.
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

    /// The place of the last in the run.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.first.saturating_add(self.items.len() as u64).saturating_sub(1)
    }

    /// The broadcasts' names, in order: each the hash of all that it says, who says it and where in
    /// the run it stands. So equal texts are different broadcasts.
    #[must_use]
    pub fn ids(&self, network: &str) -> Vec<Hash> {
        let places = self.first..;
        places
            .zip(self.items.iter())
            .map(|(place, item)| item.id(network, self.run, place))
            .collect()
    }

    /// Whether the author signed exactly this, for this network; `ids` are those of
    /// [`Batch::ids`].
    #[must_use]
    pub fn verify(&self, network: &str, ids: &[Hash]) -> bool {
        self.run.author.verify(&self.signed(network, ids), &self.signature)
    }

    /// The bytes that the signature is over: the names stand for all that is in the broadcasts.
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

    /// The frame's body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_raw(&self.body);
    }

    /// Reads a frame's body. Says nothing about the signature: see [`Batch::verify`].
    ///
    /// # Errors
    /// Where anything is missing, too long, without meaning or left over.
    pub fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body.clone());
        let run = RunId::decode(&mut reader)?;
        let first = reader.u64("place")?;
        let floor = reader.u64("floor")?;
        let items = reader.list(MAX_BATCH, "broadcasts", Item::decode)?;
        let signature = reader.array("signature")?;
        reader.finish()?;
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
    /// Names the broadcast at `place` of `run`.
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
        out.put_u8(self.content.head());
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
        let payload = reader.bytes(usize::MAX, "content")?;
        let content = Packed::decode(&mut Reader::new(Bytes::copy_from_slice(&[head])))?;
        if content.compression != Compression::None {
            return Err(DecodeError::Invalid("content compression"));
        }
        Ok(Self { time, title, content: Packed { payload, ..content } })
    }
}

impl RunId {
    /// Appends it to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_raw(self.author.as_bytes());
        out.put_u64(self.epoch);
    }

    /// Reads one.
    ///
    /// # Errors
    /// Where anything is missing.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { author: reader.node_id("author")?, epoch: reader.u64("epoch")? })
    }
}

impl Have {
    /// Appends it to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.run.encode(out);
        out.put_u64(self.upto);
    }

    /// Reads one.
    ///
    /// # Errors
    /// Where anything is missing.
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
    /// Where anything is missing.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { run: RunId::decode(reader)?, after: reader.u64("place")? })
    }
}
