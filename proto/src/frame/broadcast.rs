//! The frames of broadcasts: signed batches, announcements, and requests.

use std::sync::Arc;

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Hash, Key, NodeId, SIGNATURE_LEN};
use crate::message::{Compression, PackedMessage};

/// Maximum length of a title in bytes.
pub const MAX_TITLE: usize = 256;

/// Maximum number of broadcasts in a batch, which has one signature.
pub const MAX_BATCH: usize = 1024;

/// Maximum number of runs that one frame announces. Other runs are announced in further frames.
pub const MAX_HAVES: usize = 1024;

/// The prefix of the bytes whose hash is the id of a broadcast. It separates ids from all other
/// hashes.
const ID_CONTEXT: &[u8] = b"peerkit broadcast 2";

/// The prefix of the signed bytes of a batch. It separates signatures of batches from all other
/// signatures.
const BATCH_CONTEXT: &[u8] = b"peerkit broadcasts 2";

/// The identifier of a run: the time from a start of the author's node to its stop. Each broadcast
/// belongs to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId {
    /// The node that writes and signs the broadcasts.
    pub author: NodeId,
    /// The time at which the author's node started, in milliseconds since 1970.
    pub epoch: u64,
}

/// Consecutive broadcasts of one author with one signature. A node that passes them on can't change
/// a byte of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The run of the author to which the broadcasts belong.
    pub run: RunId,
    /// The place of the first broadcast in the run, counted from 1.
    pub first: u64,
    /// The place of the first broadcast of the run that nodes still keep. Earlier broadcasts are
    /// too old.
    pub floor: u64,
    /// The broadcasts. There is at least one.
    pub items: Arc<[Item]>,
    /// The author's signature over all fields above and the name of the network.
    pub signature: [u8; SIGNATURE_LEN],
    /// The encoded frame body, as it was received or will be sent.
    body: Bytes,
}

/// A broadcast of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The time at which it was written, by the author's clock, in milliseconds since 1970.
    pub time: u64,
    /// Its title, which may be empty.
    pub title: String,
    /// The content, which is never compressed.
    pub content: PackedMessage,
}

/// The announcement that the sender has all broadcasts of a run up to a place, except those that
/// are too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Have {
    /// The run.
    pub run: RunId,
    /// The last place up to which no broadcast is missing. 0 if the sender has none.
    pub upto: u64,
}

/// A request for the broadcasts of a run after a place, and for new broadcasts of the run from then
/// on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// The run.
    pub run: RunId,
    /// The place of the last broadcast that the sender has. 0 if it has none.
    pub after: u64,
}

impl Batch {
    /// Creates and signs a batch of the node with `key`. `first` is the place of the first
    /// broadcast, and `floor` the place of the first broadcast of the run that nodes still keep.
    #[must_use]
    pub fn sign(
        key: &Key,
        network: &str,
        epoch: u64,
        (first, floor): (u64, u64),
        items: Vec<Item>,
    ) -> Self {
        let run = RunId { author: key.id(), epoch };
        // The signature covers the ids. They do not depend on the signature, so an unsigned batch
        // has the same ids.
        let unsigned = Self::from_parts(run, (first, floor), items, [0; SIGNATURE_LEN]);
        let signature = key.sign(&unsigned.signed(network, &unsigned.ids(network)));
        Self::from_parts(run, (first, floor), unsigned.items.to_vec(), signature)
    }

    /// Creates a batch with this signature, which is not verified.
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

    /// Returns the ids of the broadcasts, in order. An id is a hash over the broadcast, its run and
    /// its place. So two broadcasts with equal texts have different ids.
    #[must_use]
    pub fn ids(&self, network: &str) -> Vec<Hash> {
        let places = self.first..;
        places
            .zip(self.items.iter())
            .map(|(place, item)| item.id(network, self.run, place))
            .collect()
    }

    /// Returns whether the author's signature is valid for this batch in this network. `ids` is the
    /// result of [`Batch::ids`].
    #[must_use]
    pub fn verify(&self, network: &str, ids: &[Hash]) -> bool {
        self.run.author.verify(&self.signed(network, ids), &self.signature)
    }

    /// Returns the bytes that are signed. They have the ids of the broadcasts in place of the
    /// contents.
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

    /// Returns the batch in memory of its own. The frames that are read together share a block of memory,
    /// which stays as long as any of them. So a batch that is kept has to be detached from them.
    #[must_use]
    pub fn detach(self) -> Self {
        Self::decode(Bytes::copy_from_slice(&self.body)).unwrap_or(self)
    }

    /// Appends the frame's body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_raw(&self.body);
    }

    /// Reads a frame's body. Does not verify the signature: see [`Batch::verify`].
    ///
    /// # Errors
    /// If a field is missing, too long or invalid, or if bytes follow the last field.
    pub fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body.clone());
        let run = RunId::decode(&mut reader)?;
        let first = reader.u64("place")?;
        let floor = reader.u64("floor")?;
        let items = reader.list(MAX_BATCH, "broadcasts", Item::decode)?;
        let signature = reader.array("signature")?;
        reader.finish()?;
        // Places are counted from 1. The place after the last one must not overflow, as it is
        // computed later.
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
        // No limit is needed here: `Frame::limit` has limited the frame as a whole.
        let content = PackedMessage::new(head, reader.bytes(usize::MAX, "content")?)?;
        if content.compression != Compression::None {
            return Err(DecodeError::Invalid("content compression"));
        }
        Ok(Self { time, title, content })
    }
}

impl RunId {
    /// Appends the identifier to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_raw(self.author.as_bytes());
        out.put_u64(self.epoch);
    }

    /// Reads the identifier of a run.
    ///
    /// # Errors
    /// If a field is missing.
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
    /// If a field is missing.
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
    /// If a field is missing.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { run: RunId::decode(reader)?, after: reader.u64("place")? })
    }
}
